"""Commands that belong to those who run the servers are refused to ordinary clients, and do nothing."""

import pytest

from harness.redis_wire import ReplyError, command, inline

REFUSED = [
    "SHUTDOWN", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "SLAVEOF NO ONE", "FAILOVER", "DEBUG SLEEP 0", "DEBUG OBJECT k",
    "CONFIG SET maxmemory 1",
    "CONFIG SET requirepass x", "CONFIG REWRITE", "CONFIG RESETSTAT", "MODULE LOAD /nosuch.so",
    "SYNC", "PSYNC ? -1", "REPLCONF listening-port 1",
    "MIGRATE 127.0.0.1 1 k 0 10", "CLIENT PAUSE 1", "CLIENT UNPAUSE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SWAPDB 0 1",
    "MONITOR", "ACL SETUSER x on", "ACL DELUSER x",
]


@pytest.mark.parametrize("line", REFUSED)
def test_an_ordinary_client_is_refused(redis_forebay, shared_redis, line, name):
    wire = redis_forebay.redis().wire()
    wire.ask("SET", name, "v")
    primary = shared_redis.nodes[0]
    pid, settings = primary.pid, primary.run("CONFIG", "GET", "*")
    for said in (line, line.lower()):
        reply = wire.ask(*said.split())
        assert isinstance(reply, ReplyError) and reply.code == "NOPERM", f"{said}: {reply!r}"
    wire.send(inline(line), command(*line.split()), command("GET", name))
    first, second, value = wire.replies(3)
    assert first.code == second.code == "NOPERM" and value == b"v"
    assert primary.is_running() and primary.pid == pid and primary.role() == "primary"
    assert primary.run("CONFIG", "GET", "*") == settings


def test_a_refused_command_makes_its_transaction_abort(redis_forebay, name):
    wire = redis_forebay.redis().wire()
    replies = wire.pipeline(("MULTI",), ("SET", name, 1), ("SHUTDOWN",), ("INCR", name), ("EXEC",), ("GET", name))
    assert replies[:2] == [b"OK", b"QUEUED"] and replies[2].code == "NOPERM"
    assert replies[4].code == "EXECABORT" and replies[5] is None


def test_a_refused_command_makes_a_transaction_with_watched_keys_abort(redis_forebay, name):
    wire = redis_forebay.redis().wire()
    replies = wire.pipeline(
        ("WATCH", name), ("MULTI",), ("SET", name, 1), ("SHUTDOWN",), ("INCR", name), ("EXEC",), ("GET", name))
    assert replies[:3] == [b"OK", b"OK", b"QUEUED"] and replies[3].code == "NOPERM" and replies[4] == b"QUEUED"
    assert replies[5].code == "EXECABORT" and replies[6] is None
    assert wire.pipeline(("WATCH", name), ("MULTI",), ("INCR", name), ("EXEC",))[3] == [1]


def test_the_refusal_names_the_command(redis_forebay):
    reply = redis_forebay.redis().wire().ask("CONFIG", "SET", "maxmemory", "1")
    assert "config" in reply.lower()


def test_what_tells_of_the_server_is_allowed(redis_target):
    wire = redis_target.wire()
    assert b"redis_version:" in wire.ask("INFO", "server")
    assert wire.ask("ROLE")[0] == b"master"
    assert len(wire.ask("TIME")) == 2
    assert wire.ask("CONFIG", "GET", "databases") == [b"databases", b"16"]
    assert wire.ask("COMMAND", "COUNT") > 200
    assert isinstance(wire.ask("LASTSAVE"), int)
    assert isinstance(wire.ask("SLOWLOG", "LEN"), int)
    assert wire.ask("MEMORY", "USAGE", "no such key") is None
    assert wire.ask("MODULE", "LIST") == []
    assert "cluster support disabled" in wire.ask("CLUSTER", "INFO"), "drivers ask, and go by the answer"


def test_a_user_may_run_what_the_configuration_allows_it(shared_redis, start_forebay):
    forebay = start_forebay(redis=[shared_redis.service(admin_commands={"default": ["config|set", "debug"]})])
    wire = forebay.redis().wire()
    before = wire.ask("CONFIG", "GET", "lfu-decay-time")[1]
    assert wire.ask("CONFIG", "SET", "lfu-decay-time", "7") == b"OK"
    assert wire.ask("CONFIG", "GET", "lfu-decay-time")[1] == b"7"
    assert wire.ask("CONFIG", "SET", "lfu-decay-time", before) == b"OK"
    assert wire.ask("DEBUG", "JMAP").code == "ERR"
    assert wire.ask("SHUTDOWN").code == "NOPERM" and wire.ask("CONFIG", "REWRITE").code == "NOPERM"
