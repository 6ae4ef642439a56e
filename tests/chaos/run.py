#!/usr/bin/env python3
"""The work of scripts/chaos: a cluster, clients, a fault, and the check of what is left; again and again."""

import argparse
import random
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))

import psycopg  # noqa: E402

from harness import Cluster, Forebay, Relay, rundir, wait_until  # noqa: E402
from harness.forebay import configuration  # noqa: E402
from harness.postgres import HungDisk  # noqa: E402

UNKNOWN = {"08007", "08006", None}


class Client:
    """Writes numbered rows, alone and in transactions, and keeps what it was told about each."""

    def __init__(self, dsn, number, stop):
        self.acknowledged, self.refused, self.unknown, self.codes = set(), set(), set(), {}
        self.longest, self.lost = 0.0, 0
        self._dsn, self._number, self._stop = dsn, number, stop
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        connection, last, step = None, None, 0
        while not self._stop.is_set():
            step += 1
            row = self._number * 10_000_000 + step
            try:
                if connection is None or connection.closed:
                    self.lost += connection is not None
                    connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=60)
                self._write(connection, row, in_block=step % 3 == 0)
            except psycopg.Error as error:
                self.codes[error.sqlstate] = self.codes.get(error.sqlstate, 0) + 1
                continue
            self.acknowledged.add(row)
            now = time.monotonic()
            if last is not None:
                self.longest = max(self.longest, now - last)
            last = now
            self._stop.wait(0.001)

    def _write(self, connection, row, in_block):
        insert = ("insert into chaos (id) values (%s)", [row])
        # Nothing before the COMMIT can have taken effect; of anything that commits by itself nobody knows.
        committing = not in_block
        try:
            if in_block:
                connection.execute("begin")
                connection.execute(*insert)
                committing = True
                connection.execute("commit")
            else:
                connection.execute(*insert)
        except psycopg.Error as error:
            certain = not committing or error.sqlstate not in UNKNOWN
            (self.refused if certain else self.unknown).add(row)
            raise


class Scene:
    """One cluster with Forebay in front of it, and clients.

    With `strict` a commit waits for one standby, and none that was acknowledged may be lost; without it a crash may cost
    what no replica had yet, which is counted.
    """

    def __init__(self, clients, relayed=False, disk=False, strict=True):
        self.strict, self.lost_rows = strict, 0
        self.cluster = Cluster(fsync=disk)
        self.disk = HungDisk(self.cluster.folder) if disk else None
        self.old = self.cluster.nodes[0]
        if disk:
            self.old.stop()
            self.old.start(env=self.disk.env)
        self.old.sql("create table chaos (id bigint, at timestamptz default clock_timestamp())")
        self.old.sql("alter table chaos owner to app")
        self.cluster.caught_up()
        if strict:
            for node in self.cluster.nodes:
                node.configure(synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
        self.relays = [Relay(node.port) for node in self.cluster.nodes] if relayed else []
        nodes = [relay.address for relay in self.relays] or self.cluster.addresses
        durability = "strict" if strict else "bounded"
        failover = {"mode": "promote", "hold": "60s", "durability": durability}
        self.forebay = Forebay(configuration(nodes, failover=failover))
        self._stop = threading.Event()
        self.clients = [Client(self.forebay.dsn(), number, self._stop) for number in range(clients)]
        self.progress()

    def progress(self, timeout=90):
        """Waits until every client has written again."""
        before = [len(client.acknowledged) for client in self.clients]
        wait_until(lambda: all(len(client.acknowledged) > then + 5 for client, then in zip(self.clients, before)),
                   timeout, "every client to write", 0.005)

    def primary(self, other_than=None):
        """Waits for a primary that is in service; the node of the harness."""
        def found():
            rows = self.forebay.admin("SHOW HA")
            name = rows[0]["primary"]
            return name if name and name != other_than else None
        name = wait_until(found, 90, "a primary", 0.02)
        return next(node for node in self.cluster.nodes if node.name == name)

    def end(self):
        """Stops the clients; the longest gap between two writes of one of them."""
        self._stop.set()
        for client in self.clients:
            client.thread.join(90)
            assert not client.thread.is_alive(), "a client hangs"
        return max(client.longest for client in self.clients)

    def check(self, primary, promotions):
        """What is there against what the clients were told."""
        rows = [row["id"] for row in primary.sql("select id from chaos")]
        stored = set(rows)
        assert len(rows) == len(stored), f"{len(rows) - len(stored)} rows are there twice"
        for client in self.clients:
            lost = client.acknowledged - stored
            assert not (lost and self.strict), f"{len(lost)} acknowledged rows are not there, such as {min(lost)}"
            self.lost_rows += len(lost)
            ghosts = client.refused & stored
            assert not ghosts, f"{len(ghosts)} refused rows are there, such as {min(ghosts)}"
        histories = sorted(path.name for path in (primary.data / "pg_wal").glob("*.history"))
        assert len(histories) == promotions, f"{promotions} promotions were to be expected: {histories}"
        writable = [node.name for node in self.cluster.nodes if node.is_running() and not node.is_replica()]
        rows = {row["node"]: row for row in self.forebay.admin("SHOW NODES")}
        open_ones = [name for name in writable if rows[name]["state"] == "up"]
        assert open_ones == [primary.name], f"writable and in service: {open_ones}"

    def destroy(self):
        """Ends everything."""
        self._stop.set()
        self.forebay.destroy()
        for relay in self.relays:
            relay.destroy()
        self.cluster.destroy()


def killed(scene, _):
    """Every process of the primary is killed."""
    scene.old.kill()
    return scene.primary("pg1"), 1


def stopped(scene, chance):
    """The primary is stopped in order, or at once."""
    scene.old.stop(chance.choice(["fast", "immediate"]))
    return scene.primary("pg1"), 1


def hung(scene, chance):
    """Every process of the primary stands still, and goes on later."""
    scene.old.pause()
    new = scene.primary("pg1")
    scene.progress()
    time.sleep(chance.choice([0, 1, 5]))
    scene.old.resume()
    wait_until(lambda: scene.forebay.node("pg1")["state"] == "fenced", 60, "the old primary to be fenced")
    return new, 1


def disk_hung(scene, _):
    """Nothing reaches the primary's disk any more."""
    scene.disk.hang()
    try:
        new = scene.primary("pg1")
        scene.progress()
    finally:
        scene.disk.go_on()
    return new, 1


def cut_off(scene, chance):
    """Only Forebay cannot reach the primary: the replicas hear it, and nobody is promoted."""
    scene.relays[0].mode = "silent" if chance.random() < 0.5 else "refuse"
    scene.relays[0].cut()
    wait_until(lambda: any(row["event"] == "failover_undone" for row in scene.forebay.admin("SHOW EVENTS")), 60,
               "Forebay to see that it is the one that is cut off")
    scene.relays[0].mode = "pass"
    return scene.primary(), 0


def switched(scene, chance):
    """A switchover."""
    to = chance.choice(["", " TO pg2", " TO pg3"])
    scene.forebay.admin("SWITCHOVER main DRAIN '30s'" + to)
    return scene.primary("pg1"), 1


def candidate_killed(scene, _):
    """A replica dies with the primary."""
    scene.cluster.nodes[1].kill()
    scene.old.kill()
    return scene.primary("pg1"), 1


def forebay_killed(scene, chance):
    """Forebay is killed in the middle of a failover and started again."""
    scene.old.kill()
    time.sleep(chance.uniform(0, 1.2))
    scene.forebay.kill()
    scene.forebay.start(wait="port")
    return scene.primary("pg1"), 1


FAULTS = {
    "killed": (killed, {}),
    "stopped": (stopped, {}),
    "hung": (hung, {}),
    "disk_hung": (disk_hung, {"disk": True}),
    "cut_off": (cut_off, {"relayed": True}),
    "switched": (switched, {}),
    "candidate_killed": (candidate_killed, {"strict": False}),
    "killed_async": (killed, {"strict": False}),
    "hung_async": (hung, {"strict": False}),
    "forebay_killed": (forebay_killed, {}),
}


class Figures:
    """What the runs of one fault have cost."""

    def __init__(self):
        self.gaps, self.codes, self.failed, self.lost, self.rows = [], {}, [], 0, 0

    def row(self, name):
        """A row of the table."""
        if not self.gaps:
            return [name, "0", "-", "-", "-", "-", "-", "-", str(len(self.failed))]
        gaps = sorted(self.gaps)
        p99 = gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]
        codes = ", ".join(f"{code or 'closed'} {n}" for code, n in sorted(self.codes.items(), key=str)) or "none"
        return [name, str(len(gaps)), f"{statistics.median(gaps):.2f}", f"{p99:.2f}", f"{gaps[-1]:.2f}", codes,
                str(self.lost), str(self.rows), str(len(self.failed))]


def run(name, clients, seed, figures):
    """One fault on a cluster of its own."""
    fault, needs = FAULTS[name]
    scene = Scene(clients, **needs)
    try:
        primary, promotions = fault(scene, random.Random(seed))
        scene.progress()
        gap = scene.end()
        scene.check(primary, promotions)
        figures.gaps.append(gap)
        figures.rows += scene.lost_rows
        for client in scene.clients:
            figures.lost += client.lost
            for code, n in client.codes.items():
                figures.codes[code] = figures.codes.get(code, 0) + n
    except Exception as problem:
        print(f"   FAILED, seed {seed}: {problem}", flush=True)
        print("\n".join("      " + line for line in scene.forebay.log().splitlines()[-40:]), flush=True)
        figures.failed.append(seed)
    finally:
        scene.destroy()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default=" ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    names = options.only.split()
    if unknown := [name for name in names if name not in FAULTS]:
        listed = "\n".join(f"  {name:18} {fault.__doc__}" for name, (fault, _) in FAULTS.items())
        sys.exit(f"no such fault: {', '.join(unknown)}; there are\n{listed}")
    rounds = options.rounds or (3 if options.hours is None else 10**9)
    end = time.monotonic() + options.hours * 3600 if options.hours else float("inf")
    figures = {name: Figures() for name in names}
    rundir.create()
    try:
        for number in range(rounds):
            for name in names:
                if time.monotonic() > end:
                    break
                seed = options.seed + number
                begun = time.monotonic()
                run(name, options.clients, seed, figures[name])
                gaps = figures[name].gaps
                told = f"longest gap {gaps[-1]:.2f} s" if gaps else "failed"
                print(f"   round {number + 1}, {name}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)
            if time.monotonic() > end:
                break
    finally:
        rundir.stop_everything()
        rundir.remove()
    print("\n| fault | runs | gap p50 s | p99 | most | errors of all clients | connections lost | rows lost | failed |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for name in names:
        print("| " + " | ".join(figures[name].row(name)) + " |")
    return 1 if any(each.failed for each in figures.values()) else 0


sys.exit(main())
