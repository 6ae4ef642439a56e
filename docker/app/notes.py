"""An application that writes and reads through two Forebays, and tells once a second what it felt.

There is one worker for each Forebay and each kind of server. It stays with its Forebay and goes to the other one only
when the connection is lost, as drivers do with several hosts. Each worker writes the next number under a name of its
own and reads it back: reading less than what was acknowledged is counted as lost.
"""

import os
import signal
import socket
import sys
import threading
import time

import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PAUSE = 0.02
# Seconds: longer than Forebay holds a request while there is no primary, and how long its machine may say nothing at all.
PATIENCE = 20
SILENCE = 5


def secret(name):
    with open(f"/run/secrets/{name}") as file:
        return file.read().rstrip("\n")


class Felt:
    """What the workers of one kind felt since they were asked last."""

    def __init__(self):
        self.lock = threading.Lock()
        self.last_write = {}
        self.reset()

    def reset(self):
        self.writes = self.reads = self.errors = self.lost = self.connects = 0
        self.gap = 0.0
        self.words = ""

    def wrote(self, worker):
        with self.lock:
            now = time.monotonic()
            self.gap = max(self.gap, now - self.last_write.get(worker, now))
            self.last_write[worker] = now
            self.writes += 1

    def read(self, found, acknowledged):
        with self.lock:
            self.reads += 1
            self.lost += found < acknowledged

    def failed(self, error):
        with self.lock:
            self.errors += 1
            self.words = " ".join(str(error).split())[:120]

    def connected(self):
        with self.lock:
            self.connects += 1

    def line(self):
        with self.lock:
            # A gap that has not ended yet counts, too.
            now = time.monotonic()
            gap = max([self.gap] + [now - since for since in self.last_write.values()])
            text = (f"{self.writes} written {self.reads} read {self.errors} errors {self.lost} lost "
                    f"{self.connects} connects gap {gap:.2f} s")
            words = self.words
            self.reset()
            return text, words


class Postgres:
    def __init__(self, hosts, name):
        self.name = name
        # libpq tries one host after the other.
        self.connection = psycopg2.connect(
            host=",".join(hosts), port=",".join(["6432"] * len(hosts)), dbname="app", user="app",
            password=secret("app_password"), connect_timeout=SILENCE, application_name=name,
            keepalives_idle=3, keepalives_interval=1, keepalives_count=2, tcp_user_timeout=SILENCE * 1000)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()

    def write(self, number):
        self.cursor.execute("insert into notes values (%s, %s) on conflict (writer) do update set number = excluded.number",
                            (self.name, number))

    def read(self):
        self.cursor.execute("select number from notes where writer = %s", (self.name,))
        row = self.cursor.fetchone()
        return row[0] if row else 0

    def is_lost(self):
        return bool(self.connection.closed)

    def close(self):
        self.connection.close()


class Redis:
    def __init__(self, hosts, name):
        self.name = name
        for host in hosts:
            try:
                self.client = redis.Redis(
                    host, 6380, password=secret("redis_password"), single_connection_client=True,
                    retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE, socket_connect_timeout=SILENCE,
                    socket_keepalive=True, socket_keepalive_options={
                        socket.TCP_KEEPIDLE: 3, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 2,
                        socket.TCP_USER_TIMEOUT: SILENCE * 1000})
                self.client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError) as error:
                reason = error
        raise reason

    def write(self, number):
        self.client.set(f"note:{self.name}", number)

    def read(self):
        return int(self.client.get(f"note:{self.name}") or 0)

    def is_lost(self):
        # It would connect again by itself, and nobody would see that the connection was lost.
        return self.client.connection._sock is None

    def close(self):
        self.client.close()


def work(kind, felt, hosts, name):
    server, number, acknowledged = None, int(time.time() * 1000), 0
    while True:
        try:
            if server is None:
                server = kind(hosts, name)
                felt.connected()
            number += 1
            server.write(number)
            acknowledged = number
            felt.wrote(name)
            found = server.read()
            felt.read(found, acknowledged)
            # What is lost is counted once.
            acknowledged = min(found, acknowledged)
            time.sleep(PAUSE)
        except (psycopg2.Error, redis.RedisError) as error:
            felt.failed(error)
            time.sleep(0.1)
            if server is not None and server.is_lost():
                server.close()
                server = None


def make_table(forebays):
    while True:
        try:
            server = Postgres(forebays, "setup")
            server.cursor.execute("create table if not exists notes (writer text primary key, number bigint not null)")
            server.close()
            return
        except psycopg2.Error as error:
            print(f"  not yet: {' '.join(str(error).split())[:120]}")
            time.sleep(1)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    forebays = os.environ.get("FOREBAYS", "forebay1 forebay2").split()
    make_table(forebays)
    kinds = [("postgres", Postgres, Felt()), ("redis", Redis, Felt())]
    for _, kind, felt in kinds:
        for place, forebay in enumerate(forebays):
            hosts = forebays[place:] + forebays[:place]
            threading.Thread(target=work, args=(kind, felt, hosts, f"via-{forebay}"), daemon=True).start()
    while True:
        time.sleep(1)
        texts = []
        for name, _, felt in kinds:
            text, words = felt.line()
            texts.append(f"{name}: {text}")
            if words:
                print(f"  {name} was told: {words}")
        print(f"{time.strftime('%H:%M:%S')} " + " | ".join(texts))


main()
