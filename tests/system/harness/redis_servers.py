"""Redis groups: a primary, its replicas and the Sentinels that watch them, that tests may kill and freeze.

The Sentinels' files name the other Sentinels and the replicas from the beginning, so that nothing waits for their
gossip: a group of three and three is whole in well under two seconds.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from datetime import datetime

import redis

from harness import ports, process, rundir
from harness.redis_wire import RedisWire, Refused, Silence
from harness.waiting import wait_until
from harness.wire import Closed

# A primary that is killed comes back empty: nothing here is written to disk but for replication itself.
SETTINGS = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "hz": 50,  # the end of a synchronisation is noticed in 20 ms, not 100
    "repl-diskless-sync": "no",  # two replicas that come together share one snapshot
    "repl-ping-replica-period": 1,
    "repl-timeout": 10,
    "maxmemory": "1gb",
    "maxmemory-policy": "noeviction",
    "loglevel": "notice",
}


class RedisEndpoint:
    """A loopback port that speaks Redis' protocol: a server's own ("direct") or Forebay's."""

    def __init__(self, port, kind="direct", tls=None):
        self.port, self.kind = port, kind
        self.tls = tls  # a context of `ssl`, for clients

    @property
    def address(self):
        """`host:port`"""
        return f"127.0.0.1:{self.port}"

    def client(self, **options):
        """redis-py's pool. It never sends a command twice, which would hide what tests look for."""
        options.setdefault("socket_timeout", 10)
        options.setdefault("protocol", 2)
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        if self.tls:
            options = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False, **options}
        return redis.Redis("127.0.0.1", self.port, retry=once, **options)

    def wire(self, **options):
        """A raw connection."""
        return RedisWire(self.port, **{"tls": self.tls, **options})


class RedisTls:
    """Certificates for the servers of a group, made out to `addresses`.

    `asks` is Redis' `tls-auth-clients`: `no`, `optional` or `yes`, in which case clients of the harness have one.
    """

    def __init__(self, authority, addresses="DNS:localhost,IP:127.0.0.1", asks="no", days=2):
        self.authority, self.asks = authority, asks
        self.files = authority.sign("redis", addresses, days)
        # Which certificates are believed is Forebay's to say; the harness talks with all of them.
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.load_cert_chain(*self.files)

    def lines(self, port, clear_port=0):
        """Of a server's configuration."""
        certificate, key = self.files
        return [
            f"port {clear_port}", f"tls-port {port}", "tls-replication yes", f"tls-cert-file {certificate}",
            f"tls-key-file {key}", f"tls-ca-cert-file {self.authority.file}", f"tls-auth-clients {self.asks}"]


class _Server(RedisEndpoint):
    """A process of Redis' with a port: what nodes and Sentinels have in common."""

    program = "redis-server"
    password = None

    def __init__(self, name, folder, tls=None):
        super().__init__(ports.free_port(), tls=tls and tls.context)
        self._tls = tls
        self.name, self.folder = name, folder / name
        self.log_file, self.config_file = self.folder / "log", self.folder / "redis.conf"
        self.folder.mkdir()
        self._process = None

    def _where(self):
        return self._tls.lines(self.port) if self._tls else [f"port {self.port}"]

    def configure(self, lines):
        """Writes the configuration file. The server rewrites it later by itself."""
        lines = [*self._where(), f"dir {self.folder}", "daemonize no", f"logfile {self.log_file}", *lines]
        self.config_file.write_text("\n".join(lines) + "\n", "utf-8")

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self, wait=True):
        """Starts the server and waits until it answers."""
        assert not self.is_running(), f"{self.name} is running already"
        self._process = subprocess.Popen(
            process.command_as(None, [_program(self.program), self.config_file], "KILL"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=self.folder, start_new_session=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout=20):
        """Waits until the server answers."""
        def answers():
            if not self.is_running():
                raise AssertionError(f"{self.name} stopped while starting:\n{rundir.tail(self.log_file)}")
            return self.run("PING")
        wait_until(answers, timeout, f"{self.name} to answer", 0.01)

    def stop(self):
        """Orderly end by SIGTERM."""
        if self.is_running():
            self.resume()
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
        self._process = None

    def restart(self):
        """Stops and starts."""
        self.stop()
        self.start()

    def kill(self):
        """SIGKILL, as when the machine loses power."""
        if self.is_running():
            process.kill_family(self.pid)
            self._process.wait(10)
        self._process = None

    def pause(self):
        """SIGSTOP: connections stay open and nothing answers."""
        process.freeze_family(self.pid)

    def resume(self):
        """SIGCONT."""
        process.thaw_family(self.pid)

    def destroy(self):
        """Ends the server at once and gives its port back."""
        self.kill()
        ports.release(self.port)

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def pid(self):
        """Process id."""
        return self._process.pid

    def is_running(self):
        """The process is alive (or frozen)."""
        return self._process is not None and self._process.poll() is None

    def run(self, *arguments, timeout=5):
        """Runs one command on a connection of its own; the value as `RedisWire.read` gives it, errors are raised."""
        with RedisWire(self.port, timeout, tls=self.tls) as wire:
            if self.password:
                wire.value("AUTH", self.password)
            return wire.value(*arguments)

    def log(self):
        """The whole log."""
        return self.log_file.read_text("utf-8", "replace")

    def __repr__(self):
        return f"<{self.name} at {self.address}>"


class RedisNode(_Server):
    """One Redis server. As an endpoint it is used directly, without Forebay."""

    def __init__(self, name, folder, password=None, tls=None):
        super().__init__(name, folder, tls)
        self.password = password

    def client(self, **options):
        return super().client(**{"password": self.password, **options})

    def role(self):
        """`primary` or `replica`, by ROLE."""
        return {b"master": "primary", b"slave": "replica"}[self.run("ROLE")[0]]

    def info(self, section="all"):
        """INFO as a dict; what looks like a whole number is one."""
        lines = self.run("INFO", section).decode().splitlines()
        pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
        return {key: int(value) if value.lstrip("-").isdigit() else value for key, value in pairs}

    def offset(self):
        """The position in the replication stream up to which this node has everything."""
        role = self.run("ROLE")
        return role[1] if role[0] == b"master" else role[4]

    def follows(self, primary):
        """It is a replica of `primary`, linked and in sync."""
        role = self.run("ROLE")
        return role[0] == b"slave" and (role[2], role[3]) == (primary.port, b"connected")

    def follow(self, primary):
        """Makes it a replica of `primary`."""
        self.run("REPLICAOF", "127.0.0.1", primary.port)

    def promote(self):
        """Makes it a primary behind the Sentinels' back."""
        self.run("REPLICAOF", "NO", "ONE")


class Sentinel(_Server):
    """One Sentinel."""

    program = "redis-sentinel"

    def __init__(self, name, folder, master_name, tls=None, in_clear=False):
        super().__init__(name, folder, tls)
        self.master_name = master_name
        # With TLS, Sentinels use it among themselves, whatever others may speak to them.
        self.peer_port = ports.free_port() if in_clear else self.port
        self.tls = None if in_clear else self.tls
        self.id = secrets.token_hex(20)

    def _where(self):
        is_clear = self.peer_port != self.port
        return self._tls.lines(self.peer_port, self.port) if is_clear else super()._where()

    def destroy(self):
        super().destroy()
        if self.peer_port != self.port:
            ports.release(self.peer_port)

    def primary_port(self):
        """The port of the primary that this Sentinel names."""
        return int(self.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)[1])

    def primary(self):
        """What this Sentinel knows of the primary, by field name."""
        return _fields(self.run("SENTINEL", "MASTER", self.master_name))

    def replicas(self):
        """What it knows of each replica."""
        return [_fields(entry) for entry in self.run("SENTINEL", "REPLICAS", self.master_name)]

    def others(self):
        """What it knows of each other Sentinel."""
        return [_fields(entry) for entry in self.run("SENTINEL", "SENTINELS", self.master_name)]

    def epoch(self):
        """The configuration epoch of the primary that it names."""
        return int(self.primary()["config-epoch"])


class RedisGroup:
    """One primary (`nodes[0]` at first), `replicas` replicas and `sentinels` Sentinels.

    `down_after` and `failover_timeout` are seconds. `settings` go into every node's configuration. `password` is asked
    of every client of a node, `users` are lines of Redis' ACL syntax such as `alice on >secret ~* +@all`. With `tls`, a
    `RedisTls`, all of them speak TLS only; without `sentinel_tls` the Sentinels are asked in clear text.
    """

    def __init__(
        self, replicas=2, sentinels=3, quorum=2, down_after=1.5, failover_timeout=5, master_name="mymaster",
        settings=None, password=None, users=(), name="redis", tls=None, sentinel_tls=True,
    ):
        self.name, self.folder = name, rundir.folder(name)
        self.master_name, self.password = master_name, password
        rundir.LIVE.append(self)
        self.nodes = [RedisNode(f"redis{number + 1}", self.folder, password, tls) for number in range(replicas + 1)]
        # Forebay names what Sentinels tell of: the primary first, then by address.
        for node, port in zip(self.nodes[1:], sorted(node.port for node in self.nodes[1:]), strict=True):
            node.port = port
        self.sentinels = [
            Sentinel(f"sentinel{number + 1}", self.folder, master_name, tls, not sentinel_tls)
            for number in range(sentinels)]
        try:
            self._configure_nodes({**SETTINGS, **(settings or {})}, users)
            self._configure_sentinels(quorum, down_after, failover_timeout)
            self._start()
        except BaseException:
            self.destroy()
            raise

    def _configure_nodes(self, settings, users):
        lines = [f"{key} {value}" for key, value in settings.items()] + [f"user {user}" for user in users]
        if self.password:
            lines += [f"requirepass {self.password}", f"masterauth {self.password}"]
        for node in self.nodes:
            node.configure(lines)

    def _configure_sentinels(self, quorum, down_after, failover_timeout):
        name = self.master_name
        for sentinel in self.sentinels:
            lines = [
                "bind 127.0.0.1",
                f"sentinel myid {sentinel.id}",
                f"sentinel monitor {name} 127.0.0.1 {self.nodes[0].port} {quorum}",
                f"sentinel down-after-milliseconds {name} {int(down_after * 1000)}",
                f"sentinel failover-timeout {name} {int(failover_timeout * 1000)}",
            ]
            lines += [f"sentinel auth-pass {name} {self.password}"] if self.password else []
            lines += [f"sentinel known-replica {name} 127.0.0.1 {node.port}" for node in self.nodes[1:]]
            lines += [
                f"sentinel known-sentinel {name} 127.0.0.1 {other.peer_port} {other.id}"
                for other in self.sentinels if other is not sentinel
            ]
            sentinel.configure(lines)

    def _start(self):
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        # By command, since what stands in the file is only looked at once a second.
        for node in self.nodes[1:]:
            node.follow(self.nodes[0])
        for node in self.nodes[1:]:
            node.run("CONFIG", "REWRITE")
        wait_until(lambda: all(node.follows(self.nodes[0]) for node in self.nodes[1:]), 20, "replicas to link", 0.01)
        for sentinel in self.sentinels:
            sentinel.start(wait=False)
        for sentinel in self.sentinels:
            sentinel.wait_ready()
        self.agreed()

    # -- state ----------------------------------------------------------------------------------------------------

    @property
    def primary(self):
        """The running node that says it is the primary; by the highest Sentinel's word if several do."""
        found = [node for node in self.nodes if node.is_running() and _said(node.role) == "primary"]
        if len(found) == 1:
            return found[0]
        assert found, "no node says that it is the primary"
        return self.named_primary()

    def named_primary(self):
        """The node that the Sentinel with the highest epoch names."""
        known = [(_said(s.epoch), s) for s in self.sentinels if s.is_running() and _said(s.epoch) is not None]
        return self.node_at(max(known, key=lambda pair: pair[0])[1].primary_port())

    @property
    def replicas(self):
        """The running nodes that say they are replicas."""
        return [node for node in self.nodes if node.is_running() and _said(node.role) == "replica"]

    @property
    def addresses(self):
        """`host:port` of every node, in order."""
        return [node.address for node in self.nodes]

    def node_at(self, port):
        """The node that listens on `port`."""
        return next(node for node in self.nodes if node.port == int(port))

    def service(self, name="cache", by="sentinels", **keys):
        """A table for `[[redis.service]]`; `by="nodes"` gives the nodes' addresses instead of the Sentinels'.

        The address to listen on is filled in when Forebay starts.
        """
        if by == "nodes":
            where = {"nodes": self.addresses}
        else:
            where = {"sentinels": [s.address for s in self.sentinels], "master_name": self.master_name}
        if self.password:
            where["auth"] = self.password
        service = RedisService({"name": name, **where, **keys})
        service.group = self
        return service

    # -- changes --------------------------------------------------------------------------------------------------

    def failover(self, by=0):
        """`SENTINEL FAILOVER`, told to one Sentinel; returns at once."""
        self.sentinels[by].run("SENTINEL", "FAILOVER", self.master_name)

    def wait_failover(self, old, timeout=30):
        """Waits until every running Sentinel names another primary than `old` and that one agrees; returns it."""
        def changed():
            named = {s.primary_port() for s in self.sentinels if s.is_running()}
            if len(named) != 1 or old.port in named:
                return None
            node = self.node_at(named.pop())
            return node if node.role() == "primary" else None
        return wait_until(changed, timeout, f"another primary than {old.name}")

    def leader(self):
        """The Sentinel that leads or led the latest failover, by its log; None before the first."""
        led = [(times[-1], s) for s in self.sentinels if (times := _log_times(s, "+elected-leader"))]
        return max(led, key=lambda pair: pair[0])[1] if led else None

    def agreed(self, timeout=20):
        """Waits until every running Sentinel names the one primary, and sees everybody up and linked."""
        running = [s for s in self.sentinels if s.is_running()]
        nodes = [node for node in self.nodes if node.is_running()]

        def agreed():
            primary = self.primary
            if not all(node.follows(primary) for node in nodes if node is not primary):
                return False
            return all(_sees(sentinel, primary, nodes, running) for sentinel in running)
        wait_until(agreed, timeout, "the Sentinels to agree and every replica to be linked", 0.05)

    def caught_up(self, timeout=20):
        """Waits until every linked replica has all that the primary has now."""
        primary = self.primary
        end = primary.offset()
        followers = [node for node in self.replicas if node.follows(primary)]
        wait_until(
            lambda: all(node.offset() >= end for node in followers), timeout, f"replicas to have offset {end}", 0.005)

    # -- end ------------------------------------------------------------------------------------------------------

    def log_sections(self):
        """(title, tail of the log) of every server."""
        servers = [*self.nodes, *self.sentinels]
        return [(f"log of {server.name}, port {server.port}", rundir.tail(server.log_file, 15)) for server in servers]

    def destroy(self):
        """Ends every server at once and removes all files."""
        for server in [*self.sentinels, *reversed(self.nodes)]:
            server.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in rundir.LIVE:
            rundir.LIVE.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.destroy()


class SentinelEvents:
    """Listens to all that the Sentinels of a group publish: `(time, sentinel, event, text)` in `seen`."""

    def __init__(self, group):
        self.seen = []
        self._wires = []
        for sentinel in group.sentinels:
            wire = sentinel.wire(timeout=3600)
            wire.ask("PSUBSCRIBE", "*")
            self._wires.append(wire)
            threading.Thread(target=self._listen, args=(sentinel, wire), daemon=True).start()

    def _listen(self, sentinel, wire):
        try:
            while True:
                _, _, event, text = wire.read()
                self.seen.append((time.monotonic(), sentinel, event.decode(), text.decode()))
        except (Closed, OSError, ValueError):
            pass

    def first(self, event, timeout=30):
        """When any Sentinel first published `event`."""
        return wait_until(
            lambda: next((moment for moment, _, name, _ in self.seen if name == event), None), timeout,
            f"a Sentinel's {event}", 0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.socket.shutdown(socket.SHUT_RDWR)
            wire.close()


class RedisService(dict):
    """A table of the configuration that remembers in `group` which servers it stands for."""


def _program(name):
    found = shutil.which(name)
    assert found, f"no {name} found: install redis-server and redis-sentinel"
    return found


def _said(question):
    # A node that is frozen or just starting says nothing.
    try:
        return question()
    except (Refused, Silence, Closed, OSError):
        return None


def _fields(flat):
    texts = [part.decode() if isinstance(part, bytes) else part for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _log_times(server, event):
    # 12345:X 21 Nov 2026 15:20:00.123 # +elected-leader master mymaster 127.0.0.1 7000
    lines = [line.split(maxsplit=6) for line in server.log().splitlines() if f" # {event} " in line]
    return [datetime.strptime(" ".join(line[1:5]), "%d %b %Y %H:%M:%S.%f") for line in lines]


def _sees(sentinel, primary, nodes, sentinels):
    master, replicas, others = sentinel.primary(), sentinel.replicas(), sentinel.others()
    well = {int(r["port"]) for r in replicas if r["flags"] == "slave" and r["master-link-status"] == "ok"}
    return (
        (int(master["port"]), master["flags"]) == (primary.port, "master")
        and well >= {node.port for node in nodes if node is not primary}
        and {o["name"] for o in others if o["flags"] == "sentinel"} >= {s.id for s in sentinels if s is not sentinel}
    )
