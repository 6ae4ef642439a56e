"""Forebay itself: writes the configuration, starts the program, watches that it stays sound."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
from psycopg.rows import dict_row

from harness import ports, process, rundir, toml, web
from harness.endpoint import Endpoint
from harness.redis_servers import RedisEndpoint
from harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


def binary():
    """The program under test: FOREBAY_BIN, else the release build, else the debug build."""
    named = os.environ.get("FOREBAY_BIN")
    candidates = [Path(named)] if named else [ROOT / "target" / build / "forebay" for build in ("release", "debug")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise AssertionError(f"no forebay program at {' or '.join(map(str, candidates))}: run `cargo build --release`")


def merged(base, changes):
    """`base` with `changes` laid over it; tables are merged, everything else is replaced, None removes."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict) and not isinstance(value, toml.Inline):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def configuration(nodes, redis=(), **postgres):
    """A configuration for one cluster: users app and other, a monitor login of its own, an admin and a viewer.

    `nodes` are addresses or tables; none of them gives a configuration without PostgreSQL. `redis` are tables made by
    `RedisGroup.service`. Further arguments are tables and keys of `[postgres]`, such as `pool={"size": 1}`; ports to
    listen on are filled in when the program starts.
    """
    base = {}
    if nodes:
        # Only who changes the primary needs rights.
        login = "steward" if postgres.get("failover", {}).get("mode") == "promote" else "monitor"
        cluster = {"name": "main", "nodes": list(nodes), "monitor_user": login, "monitor_password": login}
        base = {
            "cluster": [cluster],
            "user": [{"name": "app", "password": "app"}, {"name": "other", "password": "other"}],
            "failover": {"check_interval": "200ms"},
        }
    services = {"redis": {"service": list(redis)}} if redis else {}
    return {
        **services,
        "general": {"threads": 2},
        "admin": {"user": [
            {"name": "admin", "password": "admin", "role": "admin"},
            {"name": "viewer", "password": "viewer", "role": "viewer"},
        ]},
        "postgres": merged(base, postgres),
    }


def secrets_of(config):
    """Passwords and verifiers of a configuration that cannot stand in a log by chance, as users' names do."""
    if isinstance(config, list):
        return [secret for value in config for secret in secrets_of(value)]
    if not isinstance(config, dict):
        return []
    own = [value for key, value in config.items() if isinstance(value, str) and ("password" in key or key == "auth")]
    names = {config.get("name"), "monitor", "scram-sha-256"}
    return [value for value in own if len(value) >= 8 and value not in names] + [
        secret for value in config.values() for secret in secrets_of(value)]


class Forebay(Endpoint):
    """One running instance.

    `config` is a dict (the addresses to listen on and the state directory are filled in if absent) or TOML text with
    the places `{port}`, `{admin_port}` and `{state}`. With `wait` "nodes" the start waits until a login works and
    every node was found up with one primary among them; "login" waits for the login only, "port" for the open port,
    "" for nothing. `arguments` replace `run -c FILE`; `wrapper` is a command that runs the program, `program`
    another one than that under test.
    """

    kind = "forebay"

    def __init__(self, config, wait="nodes", user="app", dbname="bench", env=None, arguments=None, wrapper=(), program=None):
        self.folder = rundir.folder("forebay")
        self.port, self.admin_port = ports.free_port(), ports.free_port()
        self._redis_ports = {}  # by the name of the service
        self._redis_nodes = 0  # how many there are to find
        self.config_file = self.folder / "forebay.toml"
        self.config_file.touch(0o600)  # it holds passwords, and a warning would stand in the log
        self.log_file = self.folder / "log"
        self.login = {"user": user, "dbname": dbname}
        self._ended_by_test = False
        self._process = None
        self._replaced = []  # by upgrades; ends with its clients
        self.write(config)
        rundir.LIVE.append(self)
        self._command = [*wrapper, program or binary(), *(arguments or ["run", "-c", self.config_file])]
        self._env = {**os.environ, "RUST_BACKTRACE": "1", **(env or {})}
        self.start(wait)

    def write(self, config):
        """Writes the configuration file; takes effect with `reload`."""
        if isinstance(config, dict):
            places = {
                "general": {"state_dir": str(self.folder / "state"), **config.get("general", {})},
                "admin": {"listen": [f"127.0.0.1:{self.admin_port}"], **config.get("admin", {})},
                "postgres": {"listen": [f"127.0.0.1:{self.port}"], **config.get("postgres", {})},
            }
            self.config = {**config, **places}
            if services := config.get("redis", {}).get("service"):
                self._redis_nodes = sum(len(service.group.nodes) for service in services if hasattr(service, "group"))
                self.config["redis"] = {"service": [
                    {"listen": [f"127.0.0.1:{self.redis_port(service['name'])}"], **service} for service in services]}
            self.config_file.write_text(toml.dumps(self.config), "utf-8")
            return
        for place, value in (("port", self.port), ("admin_port", self.admin_port), ("state", self.folder / "state")):
            config = config.replace("{" + place + "}", str(value))
        self.config = None
        self.config_file.write_text(config, "utf-8")

    def change(self, **postgres):
        """Lays changes over `[postgres]` of the configuration file."""
        self.write(merged(self.config, {"postgres": postgres}))

    def change_redis(self, name="cache", **keys):
        """Lays changes over a `[[redis.service]]` of the configuration file."""
        services = self.config["redis"]["service"]
        changed = [merged(service, keys) if service["name"] == name else service for service in services]
        self.write(merged(self.config, {"redis": {"service": changed}}))

    def _wait(self, what):
        def alive():
            if not self.is_running():
                raise AssertionError(f"forebay ended with {self._process.returncode}:\n{rundir.tail(self.log_file)}")

        def open_port():
            alive()
            with psycopg.connect(self.dsn(dbname="forebay", user="admin"), connect_timeout=2):
                return True

        def logged_in():
            alive()
            with self.connect(**self.login, connect_timeout=2) as connection:
                return connection.execute("select 1")

        def nodes_found():
            alive()
            found = [node for node in self.admin("SHOW NODES") if node["kind"] == "redis"]
            known = all(node["role"] == "primary" or node["lag_bytes"] is not None for node in found)
            return len(found) >= self._redis_nodes and known and self.nodes_are_up()

        has_cluster = self.config is None or "cluster" in self.config["postgres"]
        if what in ("port", "login", "nodes"):
            takes_login = logged_in if has_cluster and what != "port" else open_port
            wait_until(takes_login, 20, "forebay to accept a login", 0.01)
        if what == "nodes":
            wait_until(nodes_found, 20, "forebay to find every node up, one primary and what Redis' replicas have", 0.01)

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process id."""
        return self._process.pid

    def start(self, wait="nodes"):
        """Starts the program, again if it has ended; see the class for `wait`."""
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                process.command_as(None, self._command, "KILL"), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True, env=self._env)
        self._ended_by_test = False
        self._wait(wait)

    def upgrade(self):
        """UPGRADE: from here on this is the new process. Returns the old one."""
        told = self.admin("UPGRADE")[0]
        assert int(told["replaced_process_id"]) == self.pid, told
        return self.adopt(int(told["process_id"]))

    def adopt(self, pid):
        """From here on this is the process `pid`, which has replaced the one that is returned."""
        replaced, self._process = self._process, process.Adopted(pid)
        self._replaced.append(replaced)
        return replaced

    def is_running(self):
        """The process has not ended."""
        return self._process.poll() is None

    def send_signal(self, number):
        """Sends a signal by number."""
        self._process.send_signal(number)

    def reload(self):
        """HUP."""
        self.send_signal(signal.SIGHUP)

    def term(self):
        """TERM: drain, then stop. The test expects the end."""
        self._ended_by_test = True
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """SIGKILL."""
        self._ended_by_test = True
        self.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def wait_end(self, timeout=20):
        """Waits for the end of the process and returns the exit code."""
        self._ended_by_test = True
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"forebay did not end within {timeout} s") from None

    def assert_sound(self):
        """The process is alive (unless the test ended it) and nothing in it panicked."""
        log = self.log()
        assert "panicked at" not in log, f"forebay panicked:\n{rundir.tail(self.log_file)}"
        told = [secret for secret in secrets_of(self.config) if secret in log]
        assert not told, f"a secret stands in the log: {told}"
        assert self._ended_by_test or self.is_running(), \
            f"forebay ended by itself with {self._process.returncode}:\n{rundir.tail(self.log_file)}"

    def destroy(self):
        """Ends the process if it is still there and removes its files."""
        for known in filter(None, [self._process, *self._replaced]):
            if known.poll() is None:
                process.kill_family(known.pid)
                known.wait(10)
        for port in (self.port, self.admin_port, *self._redis_ports.values()):
            ports.release(port)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        sound = sys.exc_info()[0] is not None
        try:
            sound or self.assert_sound()
        finally:
            self.destroy()

    # -- Redis ----------------------------------------------------------------------------------------------------

    def redis_port(self, name="cache"):
        """The port where a `[[redis.service]]` listens."""
        if name not in self._redis_ports:
            self._redis_ports[name] = ports.free_port()
        return self._redis_ports[name]

    def redis(self, name="cache", tls=None):
        """That port as an endpoint for Redis' clients; `tls` is a context of `ssl`."""
        return RedisEndpoint(self.redis_port(name), "forebay", tls)

    # -- what it tells --------------------------------------------------------------------------------------------

    def console(self, user="admin", dbname="forebay", **more):
        """A psycopg connection to the console; simple protocol as long as no parameters are given."""
        return psycopg.connect(
            self.dsn(user, dbname, **more), autocommit=True, row_factory=dict_row, connect_timeout=10)

    def admin(self, sql, **login):
        """Runs one console statement; rows as dicts (empty for commands)."""
        with self.console(**login) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def http(self, path, body=None, **more):
        """One request to the admin listener, see `web.ask`."""
        return web.ask(self.admin_port, path, body, **more)

    def nodes_are_up(self):
        """Every node is up and exactly one of each service the primary."""
        nodes = self.admin("SHOW NODES")
        primaries = [node["service"] for node in nodes if node["role"] == "primary"]
        return all(node["state"] == "up" for node in nodes) and sorted(primaries) == sorted(self._services())

    def _services(self):
        if self.config is None:
            return {node["service"] for node in self.admin("SHOW NODES")} or {"none yet"}
        tables = self.config["postgres"].get("cluster", []) + self.config.get("redis", {}).get("service", [])
        return [table["name"] for table in tables]

    def node(self, name):
        """The row of SHOW NODES for a node."""
        return next(row for row in self.admin("SHOW NODES") if row["node"] == name)

    def wait_measured(self, *names):
        """Waits until these replicas are known to have everything (pg2 and pg3 unless told otherwise)."""
        names = names or ("pg2", "pg3")
        wait_until(lambda: all(self.node(name)["lag_bytes"] == 0 for name in names), 20, "the replicas to be measured")

    def name_of(self, server):
        """The name in SHOW NODES of a server of the harness; Redis nodes are numbered as they are discovered."""
        return next(row for row in self.admin("SHOW NODES") if int(row["port"]) == server.port)["node"]

    def wait_node(self, name, timeout=15, **columns):
        """Waits until SHOW NODES shows these values for a node."""
        wait_until(
            lambda: all(self.node(name)[key] == value for key, value in columns.items()),
            timeout, f"node {name} to show {columns}")

    def pool(self, user="app", dbname="bench"):
        """The counters of SHOW POOLS for a pool, summed over its rows; zeros if there is none yet."""
        rows = [row for row in self.admin("SHOW POOLS") if (row["user"], row["database"]) == (user, dbname)]
        names = [f"cl_{s}" for s in ("active", "waiting")] + [f"sv_{s}" for s in ("active", "idle", "used", "login")]
        return {name: sum(int(row[name]) for row in rows) for name in names}

    def wait_pool(self, timeout=15, user="app", dbname="bench", **counters):
        """Waits until SHOW POOLS shows these counters."""
        def shown():
            pool = self.pool(user, dbname)
            if all(pool[name] == value for name, value in counters.items()):
                return True
            raise LookupError(f"pool is {pool}")
        wait_until(shown, timeout, f"pool {dbname}/{user} to show {counters}")

    def log(self):
        """All that was logged."""
        return self.log_file.read_text("utf-8", "replace")

    def wait_log(self, text, timeout=10, after=0):
        """Waits until the log has `text` after character `after`."""
        wait_until(lambda: text in self.log()[after:], timeout, f"the log to say {text!r}")

    def rss_kib(self):
        """Resident memory in KiB."""
        return psutil.Process(self.pid).memory_info().rss // 1024

    def fd_count(self):
        """Open file descriptors."""
        return psutil.Process(self.pid).num_fds()

    def log_sections(self):
        """(title, text) of the configuration and the log."""
        config = self.config_file.read_text() if self.config_file.exists() else ""
        return [(f"configuration of forebay, port {self.port}", config), ("log of forebay", rundir.tail(self.log_file))]
