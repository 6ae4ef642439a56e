"""Redis nodes in the console: views, orders, and a switchover without Sentinels."""

import socket
import subprocess

import psycopg
import pytest

from harness import ports, rundir, wait_until
from harness.process import command_as


class Redis:
    """A Redis server."""

    def __init__(self, upstream=None):
        self.port, self.folder = ports.free_port(), rundir.folder("redis")
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--repl-diskless-sync-delay", 0]
        if upstream:
            options += ["--replicaof", f"127.0.0.1 {upstream.port}"]
        argv = command_as(None, ["redis-server", *options, "--save", ""], death_signal="KILL")
        self.server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        wait_until(lambda: self.say("PING") == "+PONG", 10, f"Redis on port {self.port} to answer", 0.01)

    def say(self, line):
        """The first line of the answer to an inline command; None while it does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(line.encode() + b"\r\n")
                return connection.makefile().readline().strip()
        except OSError:
            return None

    def stop(self):
        """At once."""
        self.server.kill()
        self.server.wait()


@pytest.fixture
def pair():
    """A primary and its replica."""
    first = Redis()
    second = Redis(upstream=first)
    yield first, second
    for server in (first, second):
        server.stop()


@pytest.fixture
def forebay(start_forebay, pair):
    """An instance with a cluster and a Redis service."""
    service = {"name": "cache", "listen": [f"127.0.0.1:{ports.free_port()}"],
               "nodes": [f"127.0.0.1:{server.port}" for server in pair]}
    return start_forebay(config={"redis": {"service": [service]}})


def nodes(forebay):
    """Redis nodes by name."""
    return {row["node"]: row for row in forebay.admin("SHOW NODES") if row["kind"] == "redis"}


def events(forebay, event):
    """Details of the events of this name."""
    return [row["detail"] for row in forebay.admin("SHOW EVENTS") if row["service"] == "cache" and row["event"] == event]


def test_redis_nodes_are_shown_and_take_orders(forebay, pair):
    row = nodes(forebay)["redis2"]
    assert (row["service"], row["host"], int(row["port"]), row["role"]) == ("cache", "127.0.0.1", pair[1].port, "replica")
    assert row["timeline"] is None and int(row["position"]) >= 0
    forebay.admin("DETACH NODE redis2")
    assert nodes(forebay)["redis2"]["state"] == "detached"
    forebay.admin(f"ATTACH NODE '127.0.0.1:{pair[1].port}'")
    forebay.admin("SET WEIGHT cache.redis2 = 4")
    assert (nodes(forebay)["redis2"]["state"], int(nodes(forebay)["redis2"]["weight"])) == ("up", 4)
    with pytest.raises(psycopg.Error, match="redis9"):
        forebay.admin("DRAIN NODE cache.redis9")
    assert [row["primary"] for row in forebay.admin("SHOW HA") if row["service"] == "cache"] == ["redis1"]
    checks = {(row["node"], row["check"]): row["result"] for row in forebay.admin("SHOW HA CHECKS") if row["service"] == "cache"}
    assert checks[("redis1", "min_replicas_to_write")] == "warning" and checks[("", "primary")] == "ok", checks


def test_a_switchover_changes_the_roles(forebay, pair):
    wait_until(lambda: nodes(forebay)["redis2"]["reason"] == "", 10, "the replica to be fit")
    assert pair[0].say("SET a 1") == "+OK"
    forebay.admin("SWITCHOVER cache DRY RUN")
    assert nodes(forebay)["redis1"]["role"] == "primary", "a dry run changes nothing"
    forebay.admin("SWITCHOVER cache TO redis2 DRAIN '3s'")
    assert nodes(forebay)["redis2"]["role"] == "primary"
    assert pair[1].say("SET a 2") == "+OK"
    assert pair[0].say("SET a 3").startswith("-READONLY")
    wait_until(lambda: nodes(forebay)["redis1"]["role"] == "replica", 10, "the old primary to follow")
    assert len(events(forebay, "switchover_done")) == 1 and not events(forebay, "failover_loss")
    with pytest.raises(psycopg.Error, match="is the primary already"):
        forebay.admin("SWITCHOVER cache TO redis2")
    # The same words go to PostgreSQL, whose monitoring login has no rights here.
    with pytest.raises(psycopg.Error, match="permission denied"):
        forebay.admin("SWITCHOVER main")


def test_a_lost_primary_is_told_with_what_it_cost(forebay, pair):
    pair[0].stop()
    wait_until(lambda: events(forebay, "primary_lost"), 10, "the loss to be noticed")
    assert pair[1].say("REPLICAOF NO ONE") == "+OK"
    wait_until(lambda: events(forebay, "primary_changed"), 10, "the promoted node to be taken")
    assert "bytes of the replication stream" in events(forebay, "failover_loss")[0]
