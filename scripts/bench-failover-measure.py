"""The measurements of scripts/bench-failover.

Each run has a cluster of its own: a primary and two replicas. Clients write one row after the other, each as soon as the
one before was acknowledged, and connect again when their session ends; as many others have sent one statement and are idle.
The gap of a run is the longest time that any of the clients was without an acknowledged write.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "system"))

import psycopg  # noqa: E402 needs the path above

from harness import Cluster, Forebay, ports, process, rundir, wait_until  # noqa: E402
from harness.forebay import configuration  # noqa: E402

# No run may take longer, seconds.
LIMIT = 120


class Client(threading.Thread):
    """Writes, and keeps when it was told that it had."""

    def __init__(self, dsn, stop):
        super().__init__(daemon=True)
        self.dsn, self.stop = dsn, stop
        self.told, self.errors, self.lost = [], 0, 0
        self.start()

    def run(self):
        connection = None
        while not self.stop.is_set():
            try:
                if connection is None or connection.closed:
                    self.lost += connection is not None
                    connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
                connection.execute("insert into w values (1)")
            except psycopg.Error:
                self.errors += 1
                if connection is not None and connection.closed:
                    continue
                self.stop.wait(0.01)
                continue
            self.told.append(time.monotonic())
            self.stop.wait(0.002)

    def gap(self):
        """The longest time without an acknowledged write, seconds."""
        return max(later - earlier for earlier, later in zip(self.told, self.told[1:]))


class ThroughForebay:
    """Forebay with its defaults but for the mode."""

    name = "Forebay"

    def __init__(self, cluster, mode):
        self._forebay = Forebay(configuration(cluster.addresses, failover={"mode": mode, "durability": "bounded"}))
        self.dsn = self._forebay.dsn()

    def switch_over(self):
        """To pg2."""
        self._forebay.admin("SWITCHOVER main TO pg2")

    def destroy(self):
        """Ends it."""
        self._forebay.destroy()


class ThroughPgpool:
    """Pgpool-II, tuned to notice as soon as it can."""

    name = "Pgpool-II"

    def __init__(self, cluster, _mode):
        self._folder = rundir.folder("pgpool")
        port, pcp = ports.free_port(), ports.free_port()
        script = self._folder / "failover"
        folders = "".join(f"  {node.port}) folder={node.folder} ;;\n" for node in cluster.nodes)
        script.write_text(
            "#!/bin/sh\n# of the failed node: id; of the old primary: id; of the new main node: port\n"
            f'[ "$1" = "$2" ] || exit 0\ncase $3 in\n{folders}esac\n'
            'exec psql -h "$folder" -p "$3" -U postgres -d postgres -c "select pg_promote(false)"\n')
        script.chmod(0o755)
        nodes = "".join(
            f"backend_hostname{n} = '127.0.0.1'\nbackend_port{n} = {node.port}\nbackend_weight{n} = 1\n"
            f"backend_data_directory{n} = '{node.data}'\nbackend_flag{n} = 'ALLOW_TO_FAILOVER'\n"
            for n, node in enumerate(cluster.nodes))
        (self._folder / "pgpool.conf").write_text(f"""
backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = {port}
pcp_listen_addresses = '127.0.0.1'
pcp_port = {pcp}
unix_socket_directories = '{self._folder}'
pcp_socket_dir = '{self._folder}'
logdir = '{self._folder}'
pid_file_name = '{self._folder}/pid'
{nodes}
num_init_children = 40
max_pool = 1
enable_pool_hba = off
load_balance_mode = off
connect_timeout = 1000
sr_check_period = 1
sr_check_user = 'app'
sr_check_database = 'bench'
health_check_period = 1
health_check_timeout = 1
health_check_user = 'app'
health_check_database = 'bench'
health_check_max_retries = 1
health_check_retry_delay = 1
failover_on_backend_error = on
failover_command = '{script} %d %P %r'
search_primary_node_timeout = 30
use_watchdog = off
""")
        (self._folder / "pcp.conf").touch()
        (self._folder / "pool_hba.conf").touch()
        for path in [self._folder, *self._folder.iterdir()]:
            shutil.chown(path, cluster.user, cluster.user)
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                process.command_as(cluster.user, [
                    shutil.which("pgpool"), "-n", "-f", self._folder / "pgpool.conf", "-F", self._folder / "pcp.conf",
                    "-a", self._folder / "pool_hba.conf"], "KILL"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
        rundir.LIVE.append(self)
        self._ports = port, pcp
        self.dsn = f"host=127.0.0.1 port={port} user=app dbname=bench password=app"
        wait_until(self._writes, 30, "Pgpool-II to take writes")

    def _writes(self):
        with psycopg.connect(self.dsn, connect_timeout=2) as connection:
            return not connection.execute("select pg_is_in_recovery()").fetchone()[0]

    def destroy(self):
        """Ends it."""
        process.kill_family(self._process.pid)
        self._process.wait(10)
        for port in self._ports:
            ports.release(port)


def killed(cluster, _):
    """Every process of the primary is killed."""
    cluster.nodes[0].kill()


def hung(cluster, _):
    """Every process of the primary stands still."""
    cluster.nodes[0].pause()


def switchover(_, through):
    """A planned change."""
    through.switch_over()


def follow(cluster, _):
    """The primary is killed and somebody else promotes a replica; the gap begins when that accepts writes."""
    cluster.nodes[0].kill()
    new = cluster.furthest_first()[0]
    with new.connect() as connection:
        new.sql("select pg_promote(false)")
        while connection.execute("select pg_is_in_recovery() as now").fetchone()["now"]:
            pass
        return time.monotonic()


KINDS = {"killed": (killed, "promote"), "hung": (hung, "promote"), "switchover": (switchover, "promote"), "follow": (follow, "follow")}


def gap_since(clients, begun):
    """From `begun` until every client has written, seconds."""
    return max(next(told for told in client.told if told > begun) - begun for client in clients)


def run(make, kind, count):
    """One run: the gap in seconds, errors of all clients, sessions of busy clients lost, sessions of idle ones lost."""
    work, mode = KINDS[kind]
    cluster, through, stop = Cluster(auth="trust"), None, threading.Event()
    try:
        cluster.everywhere("create table w (a int); alter table w owner to app")
        through = make(cluster, mode)
        idle = [psycopg.connect(through.dsn, autocommit=True) for _ in range(count)]
        for connection in idle:
            connection.execute("select 1")
        clients = [Client(through.dsn, stop) for _ in range(count)]
        wait_until(lambda: all(len(client.told) > 200 for client in clients), 60, "the clients to write")
        begun = work(cluster, through) or time.monotonic()
        before = [len(client.told) for client in clients]
        # One that was answered once may still be ended: the gap is over when all write for a while.
        try:
            wait_until(lambda: all(len(client.told) > then + 200 for client, then in zip(clients, before)), LIMIT,
                       "every client to write again", 0.01)
        except AssertionError:
            # What hangs through Pgpool-II may hang for ever.
            if make is ThroughForebay:
                raise
            return (float("inf"), sum(client.errors for client in clients), len(clients), 0)
        stop.set()
        for client in clients:
            client.join(60)
        gap = gap_since(clients, begun) if kind == "follow" else max(client.gap() for client in clients)
        return gap, sum(client.errors for client in clients), sum(client.lost for client in clients), lost_of(idle)
    finally:
        stop.set()
        if through:
            through.destroy()
        cluster.destroy()


def lost_of(connections):
    """How many of the sessions are no more."""
    lost = 0
    for connection in connections:
        try:
            connection.execute("select 1")
        except psycopg.Error:
            lost += 1
        connection.close()
    return lost


def row(name, kind, runs):
    """A row of the table."""
    gaps = sorted(min(gap, LIMIT) for gap, *_ in runs)
    p99 = gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))]
    errors, lost, idle = (statistics.median(column) for column in list(zip(*runs))[1:])
    median, p99 = (f"> {LIMIT}" if gap == LIMIT else f"{gap:.2f}" for gap in (statistics.median(gaps), p99))
    return f"| {kind} | {name} | {len(gaps)} | {median} | {p99} | {errors:g} | {lost:g} | {idle:g} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--pgpool-runs", type=int, default=5)
    parser.add_argument("--only", default=" ".join(KINDS))
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    kinds = options.only.split()
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        sys.exit(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    rows = []
    rundir.create()
    try:
        for kind in kinds:
            ways = [(ThroughForebay, options.runs)]
            # It cannot follow a promotion that it did not order, nor change the primary without ending its sessions.
            if kind in ("killed", "hung") and shutil.which("pgpool"):
                ways.append((ThroughPgpool, options.pgpool_runs))
            for make, count in ways:
                runs = []
                for number in range(count):
                    runs.append(run(make, kind, options.clients))
                    print(f"   {kind}, {make.name}, run {number + 1} of {count}: {runs[-1][0]:.2f} s", flush=True)
                if runs:
                    rows.append(row(make.name, kind, runs))
    finally:
        rundir.stop_everything()
        rundir.remove()
    print("\n| kind | through | runs | gap p50 s | gap p99 s | errors | busy sessions lost | idle sessions lost |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


main()
