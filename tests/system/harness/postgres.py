"""PostgreSQL clusters: a primary and streaming replicas on free ports, that tests may kill, freeze and promote.

Server programs come from FOREBAY_PG_BIN or the newest installed version. Run as root, the servers run as the system
user `postgres`. `postgres` is also the superuser, let in without a password over the Unix socket only; everyone else
comes over TCP and is asked for a password.
"""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import psycopg
from psycopg.rows import dict_row

from harness import ports, process, rundir
from harness.endpoint import Endpoint
from harness.waiting import wait_until

SETTINGS = {
    "max_connections": 150,
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "min_wal_size": "8MB",
    "wal_level": "replica",
    "wal_log_hints": "on",
    "wal_keep_size": "64MB",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "max_prepared_transactions": 10,
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "100ms",
    "wal_receiver_timeout": "10s",
    "wal_sender_timeout": "10s",
    "max_standby_streaming_delay": "5s",
    "autovacuum": "off",
    "jit": "off",
    "dynamic_shared_memory_type": "mmap",  # nothing is left in /dev/shm when a server is killed
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_checkpoints": "off",
    "lc_messages": "C",
}

# (role, password, password_encryption, method in pg_hba.conf)
LOGINS = [
    ("u_scram", "pw-scram", "scram-sha-256", "scram-sha-256"),
    ("u_md5", "pw-md5", "md5", "md5"),
    ("u_password", "pw-clear", "scram-sha-256", "password"),
    ("u_trust", "unused", "scram-sha-256", "trust"),
]

# What users are told to run: the failovers of all tests have the rights of this file, and no others.
STEWARD_SQL = Path(__file__).parents[3] / "conf" / "monitor-role.sql"

ROLES_SQL = """
create role app login password 'app' createdb;
create role monitor login password 'monitor';
create role other login password 'other';
create role replicator login replication;
create role u_limited login password 'u_limited' connection limit 2;
create database bench owner app;
create database other owner app;
"""


def bin_dir():
    """Where initdb, postgres and pg_basebackup are."""
    if "FOREBAY_PG_BIN" in os.environ:
        return Path(os.environ["FOREBAY_PG_BIN"])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[4]))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    assert program, "no PostgreSQL server found: install postgresql or set FOREBAY_PG_BIN"
    return Path(program).resolve().parent


class Node(Endpoint):
    """One PostgreSQL server. As an endpoint it is used directly, without Forebay."""

    kind = "direct"

    def __init__(self, name, folder, port, user):
        self.name = name
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.port = port
        self.user = user
        self.log_file = self.folder / "log"
        self._process = None

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, wait=True, env=None):
        """Starts the server and waits until it answers."""
        assert not self.is_running(), f"{self.name} is running already"
        command = [bin_dir() / "postgres", "-D", self.data, "-p", self.port, "-k", self.folder, "-c", f"cluster_name={self.name}"]
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                process.command_as(self.user, command, "QUIT"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", **(env or {})},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=30):
        """Waits until the server accepts queries."""
        def answers():
            if not self.is_running():
                raise AssertionError(f"{self.name} stopped while starting:\n{rundir.tail(self.log_file)}")
            return self.sql("select 1", dbname="postgres")
        wait_until(answers, timeout, f"{self.name} to accept connections")

    def stop(self, mode="fast"):
        """Orderly end: `smart` waits for clients, `fast` disconnects them, `immediate` recovers at the next start."""
        signal = {"smart": 15, "fast": 2, "immediate": 3}[mode]
        if self.is_running():
            process.thaw_family(self.pid)
            self._process.send_signal(signal)
            self._process.wait(60)
        self._process = None

    def signal(self, number):
        """Sends a signal to the postmaster and waits for nothing."""
        self._process.send_signal(number)

    def restart(self, mode="fast"):
        """Stops and starts."""
        self.stop(mode)
        self.start()

    def kill(self):
        """SIGKILL of the postmaster and all of its children, as when the machine loses power."""
        if self.is_running():
            process.kill_family(self.pid)
            self._process.wait(10)
            self._free_shared_memory()
        self._process = None

    def _free_shared_memory(self):
        pid_file = self.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        if len(lines) > 6 and len(lines[6].split()) == 2:  # key and id of the segment that a killed server leaves
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], stderr=subprocess.DEVNULL, check=False)

    def adopt(self):
        """Takes over a server that somebody else has started in this folder, if there is one; whether there is."""
        pid_file = self.data / "postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        if self.is_running() or not lines or not psutil.pid_exists(int(lines[0])):
            return False
        self._process = process.Adopted(int(lines[0]))
        return True

    def pause(self):
        """SIGSTOP of every process: connections stay open and nothing answers."""
        process.freeze_family(self.pid)

    def resume(self):
        """SIGCONT of every process."""
        process.thaw_family(self.pid)

    def promote(self):
        """Makes a replica a primary and waits until it is."""
        assert self.sql("select pg_promote(true, 60) as ok")[0]["ok"], f"{self.name} was not promoted"

    def follow(self, primary):
        """Makes a running replica stream from another primary."""
        self.sql("alter system reset primary_slot_name")
        self.sql(f"alter system set primary_conninfo = '{_conninfo(primary, self.name)}'")
        self.sql("select pg_reload_conf()")

    def destroy(self):
        """Ends the server at once and gives its port back."""
        self.adopt()
        self.kill()
        ports.release(self.port)

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process id of the postmaster."""
        return self._process.pid

    def is_running(self):
        """The postmaster is alive (or frozen)."""
        return self._process is not None and self._process.poll() is None

    def sql(self, query, dbname="bench", params=None):
        """Runs one statement as superuser over the Unix socket; rows as dicts, or None without a result."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=dbname,
            autocommit=True, row_factory=dict_row, connect_timeout=5, options="-c statement_timeout=60s",
        ) as connection:
            cursor = connection.execute(query, params)
            return None if cursor.description is None else cursor.fetchall()

    def value(self, query, dbname="bench", params=None):
        """The only value of the first row."""
        return next(iter(self.sql(query, dbname, params)[0].values()))

    def trust(self, user):
        """This user needs no password from the same machine."""
        hba = self.data / "pg_hba.conf"
        hba.write_text(f"host all {user} 127.0.0.1/32 trust\n" + hba.read_text())
        self.sql("select pg_reload_conf()")

    def is_replica(self):
        """`pg_is_in_recovery()`."""
        return self.value("select pg_is_in_recovery()")

    def position(self):
        """The last WAL position written here, as text."""
        return self.value(
            "select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text")

    def wait_replayed(self, lsn, timeout=30):
        """Waits until this replica shows everything up to `lsn`."""
        wait_until(
            lambda: self.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", params=[lsn]),
            timeout, f"{self.name} to replay {lsn}")

    def set_apply_delay(self, seconds):
        """Makes this replica show commits only `seconds` after they were made."""
        self.configure(recovery_min_apply_delay=f"{int(seconds * 1000)}ms")

    def configure(self, **settings):
        """`ALTER SYSTEM` and a reload."""
        for name, value in settings.items():
            self.sql(f"alter system set {name} = '{value}'")
        self.sql("select pg_reload_conf()")
        for name, value in settings.items():
            wait_until(lambda: self.value(
                "select setting is not distinct from reset_val from pg_settings where name = %s", params=[name]),
                5, f"{self.name} to take {name} = {value}")

    def connections(self, user="app", dbname=None, of=None):
        """Client connections of a role that the server has now, only those made by the process of `of` if given."""
        query = "select * from pg_stat_activity where backend_type = 'client backend' and usename = %s"
        mine = {c.laddr.port for c in psutil.Process(of.pid).net_connections("tcp")} if of else None
        return [
            row for row in self.sql(query, params=[user])
            if dbname in (None, row["datname"]) and (mine is None or row["client_port"] in mine)]

    def log(self):
        """The whole log."""
        return self.log_file.read_text("utf-8", "replace")


class BadDisk:
    """A disk of a server that can be made to fail: start the server with `env`, then spoil the disk, and `mend()` it."""

    def __init__(self, folder):
        library, source = folder / "bad_disk.so", Path(__file__).with_name("bad_disk.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self._hangs, self._refuses = folder / "hangs", folder / "is-read-only"
        self.env = {"LD_PRELOAD": str(library), "HUNG_DISK": str(self._hangs), "READ_ONLY_DISK": str(self._refuses)}

    def hang(self):
        """Nothing reaches the disk any more, and nobody is told."""
        self._hangs.touch()

    def refuse(self):
        """Every write is refused (EROFS)."""
        self._refuses.touch()

    def mend(self):
        """All is well again."""
        self._hangs.unlink(missing_ok=True)
        self._refuses.unlink(missing_ok=True)


class Cluster:
    """One primary (`nodes[0]` at first) and `replicas` streaming replicas.

    `auth` is what TCP clients are asked for (scram-sha-256, md5, password, trust). `fsync` is off by default because
    only tests that kill the machine's power would notice. `settings` go into postgresql.conf. `fresh` runs its own
    initdb, for a cluster whose system identifier is its own; all others are copies of one template.
    """

    def __init__(self, replicas=2, auth="scram-sha-256", fsync=False, settings=None, fresh=False, name="cluster"):
        self.name, self.folder = name, rundir.folder(name)
        self.user = "postgres"
        rundir.LIVE.append(self)
        self.nodes = [
            Node(f"pg{number + 1}", self._node_folder(number), ports.free_port(), self.user)
            for number in range(replicas + 1)
        ]
        try:
            self._build(auth, {**SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}, fresh)
        except BaseException:
            self.destroy()
            raise

    def _build(self, auth, settings, fresh):
        first, *others = self.nodes
        if fresh:
            _initdb(first, self.user)
        else:
            process.run_all_as(self.user, [
                ["cp", "-a", "--reflink=auto", _template(self.user), node.data] for node in self.nodes])
        _configure(first, auth, settings)
        first.start(wait=fresh)
        if fresh:
            _create_roles(first)
        if auth == "md5":
            first.wait_ready()
            for role in ("app", "monitor", "other"):
                first.sql(f"set password_encryption = md5; alter role {role} password '{role}'")
        if fresh:
            self._add_replicas(others)
        else:
            self._follow_as_copies(others, auth, settings)
        self.caught_up()

    def _follow_as_copies(self, nodes, auth, settings):
        """Starts copies of the stopped template as replicas: what the primary has written since they are sent."""
        for node in nodes:
            follow = {"primary_conninfo": _conninfo(self.nodes[0], node.name), "primary_slot_name": node.name}
            _configure(node, auth, {**settings, **follow})
            process.run_as(self.user, ["touch", node.data / "standby.signal"])
            node.start(wait=False)
        self.nodes[0].wait_ready()
        for node in nodes:
            self.nodes[0].sql("select pg_create_physical_replication_slot(%s, true)", params=[node.name])
        for node in nodes:
            node.wait_ready()

    def _node_folder(self, number):
        folder = self.folder / f"pg{number + 1}"
        folder.mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder, self.user, self.user)
        return folder

    def _add_replicas(self, nodes):
        running = []
        for node in nodes:
            command = [
                bin_dir() / "pg_basebackup", "-D", node.data, "-R", "-c", "fast", "-X", "stream", "--no-sync",
                "-C", "-S", node.name, "-d", _conninfo(self.primary, node.name),
            ]
            running.append((node, subprocess.Popen(
                process.command_as(self.user, command), cwd="/", stderr=subprocess.PIPE, text=True)))
        for node, backup in running:
            errors = backup.communicate(timeout=60)[1]
            assert backup.returncode == 0, f"pg_basebackup of {node.name} failed:\n{errors}"
            node.start(wait=False)
        for node, _ in running:
            node.wait_ready()

    def rebuild(self, node):
        """Makes `node` a replica of the present primary from a new base backup."""
        node.kill()
        shutil.rmtree(node.data)
        self.primary.sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", params=[node.name])
        self._add_replicas([node])

    @property
    def primary(self):
        """The running node that is not in recovery (the last one, should there be two)."""
        running = [node for node in self.nodes if node.is_running()]
        if len(running) == 1:
            return running[0]
        return [node for node in running if not node.is_replica()][-1]

    @property
    def replicas(self):
        """The running nodes in recovery."""
        return [node for node in self.nodes if node.is_running() and node.is_replica()]

    @property
    def addresses(self):
        """`host:port` of every node, in order."""
        return [f"127.0.0.1:{node.port}" for node in self.nodes]

    def node_at(self, port):
        """The node that listens on `port`."""
        return next(node for node in self.nodes if node.port == int(port))

    def lag(self):
        """Bytes between the primary's WAL and what each replica shows, by name."""
        end = self.primary.position()
        return {
            node.name: int(node.value("select pg_wal_lsn_diff(%s::pg_lsn, pg_last_wal_replay_lsn())", params=[end]))
            for node in self.replicas
        }

    def furthest_first(self):
        """The replicas of a dead primary by what they have received.

        Of two replicas of a primary that was killed either may have more, and one that has more than a new primary
        can never follow it.
        """
        replicas = self.replicas
        for node in replicas:
            wait_until(lambda node=node: node.value("select count(*) from pg_stat_wal_receiver") == 0, 10,
                       f"{node.name} to have received all there was")
        return sorted(
            replicas, reverse=True, key=lambda node: node.value("select pg_last_wal_receive_lsn() - '0/0'::pg_lsn"))

    def promote(self):
        """Replaces a dead primary by the replica that received most; the others follow it. Returns them in that order."""
        first, *others = self.furthest_first()
        first.promote()
        for node in others:
            node.follow(first)
        return [first, *others]

    def caught_up(self, timeout=30):
        """Waits until every running replica shows all that the primary has now."""
        end = self.primary.position()
        for node in self.replicas:
            node.wait_replayed(end, timeout)

    def sql(self, query, dbname="bench", params=None):
        """Runs a statement as superuser on the primary."""
        return self.primary.sql(query, dbname, params)

    def value(self, query, dbname="bench", params=None):
        """One value from the primary."""
        return self.primary.value(query, dbname, params)

    def everywhere(self, query, dbname="bench"):
        """Runs a statement as superuser on the primary and waits for the replicas."""
        self.sql(query, dbname)
        self.caught_up()

    def wait_running(self, marker, timeout=10):
        """Waits until some node runs a statement whose text contains `marker`."""
        query = "select count(*) from pg_stat_activity where state = 'active' and query like %s and pid <> pg_backend_pid()"
        wait_until(
            lambda: any(node.value(query, params=[f"%{marker}%"]) for node in self.nodes if node.is_running()),
            timeout, f"a statement with {marker} to run")

    def log_sections(self):
        """(title, tail of the log) of every node."""
        return [(f"log of {node.name}, port {node.port}", rundir.tail(node.log_file, 12)) for node in self.nodes]

    def destroy(self):
        """Ends every server at once and removes all files."""
        for node in reversed(self.nodes):
            node.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.destroy()


def _conninfo(primary, name):
    return f"host=127.0.0.1 port={primary.port} user=replicator application_name={name}"


def _initdb(node, user):
    process.run_as(user, [
        bin_dir() / "initdb", "-D", node.data, "-U", "postgres", "--no-sync", "--no-instructions", "-E", "UTF8",
        "--locale=C.UTF-8", "--wal-segsize=1", "-A", "trust",
    ])


def _configure(node, auth, settings):
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    lines.append("listen_addresses = '127.0.0.1'")
    hba = ["local all postgres trust", "host replication replicator 127.0.0.1/32 trust"]
    hba += [f"host all {role} 127.0.0.1/32 {method}" for role, _, _, method in LOGINS]
    hba += [f"host all all 127.0.0.1/32 {auth}"]
    for name, text in (("postgresql.auto.conf", lines), ("pg_hba.conf", hba)):
        file = node.data / name
        file.write_text("\n".join(text) + "\n")


def _create_roles(node):
    steward = "".join(line for line in STEWARD_SQL.read_text().splitlines(True) if not line.startswith("--"))
    steward += "alter role steward password 'steward';"
    for statement in [*ROLES_SQL.strip().split(";\n"), *steward.strip().split(";\n")]:
        node.sql(statement.strip().rstrip(";"), dbname="postgres")
    for role, password, encryption, _ in LOGINS:
        node.sql(f"set password_encryption = '{encryption}'; create role {role} login password '{password}'")
    for role in ("other", "u_limited", *(login[0] for login in LOGINS)):
        node.sql(f"grant all on schema public to {role}")


def _template(user):
    """A stopped data directory with all roles and databases, made once a run."""
    folder = rundir.path() / "template"
    with rundir.locked("template"):
        if not (folder / "done").exists():
            folder.mkdir()
            folder.chmod(0o755)
            if os.geteuid() == 0:
                shutil.chown(folder, user, user)
            node = Node("template", folder, ports.free_port(), user)
            _initdb(node, user)
            _configure(node, "trust", {**SETTINGS, "fsync": "off"})
            try:
                node.start()
                _create_roles(node)
                node.stop()
            finally:
                node.destroy()
            (folder / "done").touch()
    return folder / "data"


def port_is_open(port):
    """Something accepts connections on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
