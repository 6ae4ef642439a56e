"""The failover ledger of PostgreSQL: writers that note what they were told, held against what is stored in the end.

Rows are numbered and have no key, so that every write can be judged:

- acknowledged and stored: well; acknowledged and not stored: lost;
- stored twice: duplicated;
- refused, and stored nevertheless: a ghost;
- unknown (08007, or the connection ended): stored or not.

Each row is stamped by the server that took it, with its port and its timeline: so it shows when two took writes at a time.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass

import psycopg

from harness.waiting import wait_until

TABLE = """
create table ledger (
    id bigint,
    port int default inet_server_port(),
    timeline text default substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8));
alter table ledger owner to app;
"""
INSERT = "insert into ledger (id) values (%s) returning timeline, port"
UNKNOWN = {"08007", "08006", None}
PER_CLIENT = 10_000_000


@dataclass(frozen=True)
class Entry:
    """An acknowledged write: when it was sent and answered, and who took it."""

    begun: float
    ended: float
    timeline: str
    port: int


class Client:
    """Writes one row after the other, alone and in transactions, and connects again whenever it is left alone."""

    def __init__(self, dsn, number, stop, pace):
        self.acknowledged, self.refused, self.unknown, self.codes = {}, set(), set(), Counter()
        self.longest, self.lost_connections = 0.0, 0
        self._dsn, self._number, self._stop, self._pace = dsn, number, stop, pace
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        connection, last, step = None, None, 0
        while not self._stop.is_set():
            step += 1
            row, begun = self._number * PER_CLIENT + step, time.monotonic()
            try:
                if connection is None or connection.closed:
                    self.lost_connections += connection is not None
                    connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=60)
                timeline, port = self._write(connection, row, in_block=step % 3 == 0)
            except psycopg.Error as error:
                self.codes[error.sqlstate] += 1
                if connection and not connection.closed:
                    connection.rollback()
                self._stop.wait(0.02)
                continue
            now = time.monotonic()
            self.acknowledged[row] = Entry(begun, now, timeline, port)
            self.longest = max(self.longest, now - (last or now))
            last = now
            self._stop.wait(self._pace)
        if connection:
            connection.close()

    def _write(self, connection, row, in_block):
        # Nothing before the COMMIT can have taken effect; of anything that commits by itself nobody knows.
        committing = not in_block
        try:
            if in_block:
                connection.execute("begin")
            taken = connection.execute(INSERT, [row]).fetchone()
            if in_block:
                committing = True
                connection.execute("commit")
            return taken
        except psycopg.Error as error:
            certain = not committing or error.sqlstate not in UNKNOWN
            (self.refused if certain else self.unknown).add(row)
            raise


class Ledger:
    """Clients that write through Forebay until `stop`; `check` judges. Make the table first: `cluster.everywhere(TABLE)`."""

    def __init__(self, forebay, clients=6, pace=0.002):
        self.forebay, self._stop = forebay, threading.Event()
        self.clients = [Client(forebay.dsn(), number, self._stop, pace) for number in range(clients)]
        self.two_in_service = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self.progress()

    def _watch(self):
        while not self._stop.wait(0.05):
            try:
                rows = self.forebay.admin("SHOW NODES")
            except psycopg.Error:
                continue  # the test has killed it
            serving = [row["node"] for row in rows if (row["role"], row["state"]) == ("primary", "up")]
            if len(serving) > 1:
                self.two_in_service = serving

    def progress(self, timeout=60, of=5):
        """Waits until every client has got `of` more writes through."""
        before = [len(client.acknowledged) for client in self.clients]
        wait_until(lambda: all(len(client.acknowledged) >= then + of for client, then in zip(self.clients, before)),
                   timeout, "every client to write", 0.005)

    def end(self):
        """Tells the clients to stop, and waits for nobody."""
        self._stop.set()

    def stop(self):
        """Ends the clients."""
        self.end()
        for thread in [*(client.thread for client in self.clients), self._watcher]:
            thread.join(90)
            assert not thread.is_alive(), "a client hangs"

    @property
    def gap(self):
        """The longest time between two writes of one client, in seconds."""
        return max(client.longest for client in self.clients)

    @property
    def codes(self):
        """How often each SQLSTATE was told."""
        return sum((client.codes for client in self.clients), Counter())

    def check(self, primary, promotions, may_lose=False):
        """Stops the clients and holds what is stored on `primary` against what they were told; the number of lost rows."""
        self.stop()
        rows = [row["id"] for row in primary.sql("select id from ledger")]
        stored = set(rows)
        assert len(rows) == len(stored), f"{len(rows) - len(stored)} rows are there twice"
        lost = set().union(*(client.acknowledged for client in self.clients)) - stored
        assert may_lose or not lost, f"{len(lost)} acknowledged rows are not there, such as {min(lost)}"
        ghosts = set().union(*(client.refused for client in self.clients)) & stored
        assert not ghosts, f"{len(ghosts)} refused rows are there, such as {min(ghosts)}"
        made_up = stored - set().union(*(client.acknowledged.keys() | client.unknown for client in self.clients))
        assert not made_up, f"{len(made_up)} rows are there that nobody was told of, such as {min(made_up)}"
        self._check_one_writer()
        histories = sorted(path.name for path in (primary.data / "pg_wal").glob("*.history"))
        assert len(histories) == promotions, f"{promotions} promotions were to be expected: {histories}"
        return len(lost)

    def _check_one_writer(self):
        assert not self.two_in_service, f"two nodes were in service for writes: {self.two_in_service}"
        entries = [entry for client in self.clients for entry in client.acknowledged.values()]
        ports = {}
        for entry in entries:
            ports.setdefault(entry.timeline, set()).add(entry.port)
        assert all(len(taken) == 1 for taken in ports.values()), f"two nodes took writes on one timeline: {ports}"
        timelines = sorted(ports)
        for old, new in zip(timelines, timelines[1:]):
            first_of_new = min(entry.ended for entry in entries if entry.timeline == new)
            last_of_old = max(entry.begun for entry in entries if entry.timeline == old)
            assert last_of_old < first_of_new, \
                f"timeline {old} took a write {last_of_old - first_of_new:.3f} s after {new} had taken one"


def one_primary(forebay, cluster, primary):
    """Of all nodes that accept writes, only this one gets any through Forebay."""
    writable = [node.name for node in cluster.nodes if node.is_running() and not node.is_replica()]
    rows = {row["node"]: row for row in forebay.admin("SHOW NODES")}
    serving = [name for name in writable if name in rows and rows[name]["state"] == "up"]
    assert serving == [primary.name], f"they accept writes and are in service: {serving}"
