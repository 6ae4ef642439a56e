"""Commands that wait: pops, streams, WAIT. Each talk goes as with Redis itself, and nobody else waits with it."""

import pytest

from harness import wait_until
from harness.redis_talk import by, gets, hears, leaves, pipeline, quiet, raw, until_blocked
from harness.redis_wire import command

BLOCKING = {
    "something is there": ["RPUSH l a b c", "BLPOP l 1", "BRPOP l 1", "BLPOP x l 1", "LLEN l"],
    "nothing comes": [
        "BLPOP l 0.02", "BRPOP l m 0.02", "BLMOVE l m LEFT RIGHT 0.02", "BRPOPLPUSH l m 1", "BZPOPMIN z 0.02",
        "BLMPOP 0.02 1 l LEFT", "BZMPOP 0.02 1 z MIN", "PING"],
    "something comes": [gets("BLPOP l 5", 0), until_blocked(1), by("b", "RPUSH l x"), hears(1), "PING"],
    "the first of several lists": [gets("BLPOP l m n 5", 0), until_blocked(1), by("b", "RPUSH n x"), hears(1)],
    "moved to another list": [
        gets("BLMOVE l m LEFT LEFT 5", 0), until_blocked(1), by("b", "RPUSH l x y"), hears(1), "LRANGE m 0 -1",
        "LRANGE l 0 -1"],
    "popped and pushed": [
        gets("BRPOPLPUSH l m 5", 0), until_blocked(1), by("b", "RPUSH l x y"), hears(1), "LRANGE m 0 -1"],
    "several at once": [
        gets("BLMPOP 5 2 l m LEFT COUNT 2", 0), until_blocked(1), by("b", "RPUSH m 1 2 3"), hears(1), "LRANGE m 0 -1"],
    "the smallest of a set": [
        gets("BZPOPMIN z 5", 0), until_blocked(1), by("b", "ZADD z 2 two 1.5 one"), hears(1), "ZCARD z"],
    "those who wait longer come first": [
        gets("BLPOP l 5", 0), until_blocked(1), by("b", gets("BLPOP l 5", 0), until_blocked(2)),
        by("c", "RPUSH l 1", "RPUSH l 2"), hears(1), by("b", hears(1))],
    "what is sent meanwhile is answered after": [
        gets("BLPOP l 5", 0), until_blocked(1), raw(command("INCR", "k") + command("GET", "k")), quiet(),
        by("b", "GET k", "RPUSH l x"), hears(3)],
    "all in one write": [
        pipeline("BLPOP no 0.05", "INCR k", "RPUSH l x", "BLPOP l 0", "GET k", "BRPOP no 0.05", "PING")],
    "a list that is no list": ["SET k v", "BLPOP k 1", "BLPOP no k 1", "BZPOPMIN k 1", "BLMOVE k l LEFT LEFT 1"],
    "a wrong waiting time": [
        "BLPOP l x", "BLPOP l -1", "BLPOP l", "BLMPOP x 1 l LEFT", "BLMPOP 1 0 l LEFT", "BLMOVE l m UP LEFT 1",
        "XREAD BLOCK x STREAMS s $", "WAIT x 1", "WAIT 1 -1"],
    "a transaction wakes": [
        gets("BLPOP l 5", 0), until_blocked(1), by("b", "MULTI", "RPUSH l x", "LPUSH l y", "EXEC"), hears(1),
        "LRANGE l 0 -1"],
    "a script wakes": [
        gets("BLPOP l 5", 0), until_blocked(1), by("b", ("EVAL", "return redis.call('rpush', KEYS[1], 'x')", 1, "l")),
        hears(1)],
    "who left gets nothing": [
        gets("BLPOP l 0", 0), until_blocked(1), leaves(), until_blocked(0), by("b", "RPUSH l x", "LRANGE l 0 -1")],
    "a stream that gets an entry": [
        "XADD s 1-1 f v", gets("XREAD BLOCK 5000 STREAMS s $", 0), until_blocked(1), by("b", "XADD s 2-1 f w"),
        hears(1), "XREAD COUNT 5 STREAMS s 0"],
    "a stream that has an entry": [
        "XADD s 1-1 f v", "XREAD BLOCK 5000 STREAMS s 0", "XREAD BLOCK 20 STREAMS s $", "PING"],
    "a group of readers": [
        "XGROUP CREATE s g $ MKSTREAM", gets("XREADGROUP GROUP g me BLOCK 5000 STREAMS s >", 0), until_blocked(1),
        by("b", "XADD s 1-1 f v"), hears(1),
        "XACK s g 1-1", "XREADGROUP GROUP g me BLOCK 20 STREAMS s >", "XPENDING s g"],
    "a group that goes away": [
        "XGROUP CREATE s g $ MKSTREAM", gets("XREADGROUP GROUP g me BLOCK 5000 STREAMS s >", 0), until_blocked(1),
        by("b", "DEL s"), hears(1)],
    "waiting in another database": [
        "SELECT 2", gets("BLPOP l 5", 0), until_blocked(1), by("b", "RPUSH l no", "SELECT 2", "RPUSH l yes"), hears(1)],
    "the same connection blocks again and again": [step for n in range(20) for step in (
        gets("BLPOP l 5", 0), until_blocked(1), by("b", f"RPUSH l {n}"), hears(1))],
}

WAIT = {
    "replicas have it": ["SET k v", "WAIT 2 5000", "WAIT 0 0", "PING"],
    "more replicas than there are": ["SET k v", "WAIT 2 5000", "WAIT 5 50", "PING"],
    "in a pipeline": [pipeline(*(word for n in range(20) for word in (f"SET k {n}", "WAIT 2 5000")), "GET k")],
    "after a transaction": ["MULTI", "SET k v", "INCR n", "EXEC", "WAIT 2 5000"],
}


@pytest.mark.parametrize("talk", BLOCKING.values(), ids=BLOCKING.keys())
def test_commands_that_wait_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", WAIT.values(), ids=WAIT.keys())
def test_waiting_for_replicas_goes_as_with_redis(talk, held):
    held(talk)


@pytest.fixture
def frozen_replicas(new_redis):
    """A primary whose only replica is stopped: nothing that is written reaches it."""
    group = new_redis(replicas=1, sentinels=0)
    group.nodes[1].pause()
    return group


def test_wait_does_not_promise_what_no_replica_has(frozen_replicas, start_forebay, name):
    # Redis counts from the last write of the connection that asks. A shared connection, or a new one, must not lie.
    forebay = start_forebay(redis=[frozen_replicas.service(by="nodes")], wait="port")
    writer = forebay.redis().wire()
    wait_until(lambda: writer.ask("SET", name, "v") == b"OK", 10, "writes to be taken")
    assert writer.ask("WAIT", 1, 300) == 0
    assert writer.pipeline(("SET", name, "w"), ("WAIT", 1, 300)) == [b"OK", 0]
    assert writer.pipeline(("MULTI",), ("SET", name, "x"), ("EXEC",), ("WAIT", 1, 300))[2:] == [[b"OK"], 0]


def test_many_clients_block_at_once_and_others_work_on(redis_target, shared_redis, name):
    blocked = [redis_target.wire() for _ in range(40)]
    for number, wire in enumerate(blocked):
        wire.order("BLPOP", f"{name}-{number}", 30)
    wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 40, 10, "40 blocked clients")
    other = redis_target.wire()
    assert other.pipeline(*[("INCR", name)] * 500) == list(range(1, 501))
    for number in reversed(range(40)):
        assert other.ask("RPUSH", f"{name}-{number}", number) == 1
        assert blocked[number].read() == [f"{name}-{number}".encode(), b"%d" % number]
        assert blocked[number].ask("PING") == b"PONG"


def test_what_a_client_left_waiting_for_is_not_lost(redis_target, shared_redis, name):
    gone = redis_target.wire()
    gone.order("BLPOP", name, 0)
    wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    gone.close()
    wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 0, 10, "the server to notice")
    other = redis_target.wire()
    assert other.ask("RPUSH", name, "kept") == 1 and other.ask("LPOP", name) == b"kept"


@pytest.fixture
def one_replica(new_redis):
    """A primary and a replica, with users that may not PUBLISH: Redis gives new ones no channel."""
    users = ["silent on >pw ~* +@all", "mute on >pw ~* +@all &* -publish -spublish", "hasty on >pw ~* +@all -wait"]
    return new_redis(replicas=1, sentinels=0, password="secret", users=users, settings={"repl-timeout": 3600})


@pytest.mark.parametrize("login", [("secret",), ("silent", "pw"), ("mute", "pw")], ids=["default", "silent", "mute"])
def test_wait_counts_rightly_for_every_user(one_replica, start_forebay, name, login):
    group = one_replica
    wire = start_forebay(redis=[group.service(by="nodes")]).redis().wire()
    assert wire.ask("AUTH", *login) == b"OK"
    assert wire.ask("BLPOP", name + ":no", 0.05) is None, "leaves a connection that is used again"
    assert wire.ask("SET", name, 1) == b"OK"
    group.caught_up()
    group.nodes[1].pause()
    try:
        assert wire.pipeline(("SET", name, 2), ("WAIT", 1, 300), ("GET", name)) == [b"OK", 0, b"2"]
    finally:
        group.nodes[1].resume()
    assert wire.ask("WAIT", 1, 5000) == 1


def test_a_user_without_the_right_to_wait_is_told_so(one_replica, start_forebay, name):
    wire = start_forebay(redis=[one_replica.service(by="nodes")]).redis().wire()
    assert wire.pipeline(("AUTH", "hasty", "pw"), ("SET", name, 1)) == [b"OK", b"OK"]
    assert wire.ask("WAIT", 0, 100).code == "NOPERM"
    assert wire.pipeline(("WATCH", name), ("WAIT", 0, 100), ("PING",))[1].code == "NOPERM"


def test_nobody_hears_of_a_wait(one_replica, start_forebay, name):
    endpoint = start_forebay(redis=[one_replica.service(by="nodes")]).redis()
    listener, writer = endpoint.wire(), endpoint.wire()
    assert writer.ask("AUTH", "secret") == listener.ask("AUTH", "secret") == b"OK"
    listener.ask("PSUBSCRIBE", "*")
    assert writer.pipeline(("SET", name, 1), ("WAIT", 1, 5000), ("PUBLISH", name, "the first")) == [b"OK", 1, 1]
    assert listener.read() == [b"pmessage", b"*", name.encode(), b"the first"]


@pytest.mark.parametrize("how, expected", [("TIMEOUT", 0), ("ERROR", "UNBLOCKED")])
def test_a_client_that_waits_for_replicas_is_unblocked(redis_target, name, how, expected):
    waiting, other = redis_target.wire(), redis_target.wire()
    number = waiting.ask("CLIENT", "ID")
    assert waiting.pipeline(("SET", name, 1), ("WAIT", 2, 5000)) == [b"OK", 2]
    waiting.order("WAIT", 9, 0)
    wait_until(lambda: other.ask("CLIENT", "UNBLOCK", number, how) == 1, 10, "it to wait")
    reply = waiting.read()
    assert reply in (2, 0) if expected == 0 else reply.code == expected
    assert waiting.ask("ECHO", "x") == b"x"


def test_a_client_that_leaves_while_it_waits_for_replicas_is_forgotten(redis_target, name):
    waiting, other = redis_target.wire(), redis_target.wire()
    number = waiting.ask("CLIENT", "ID")
    waiting.pipeline(("SET", name, 1))
    waiting.order("WAIT", 9, 0)
    listed = lambda: f"id={number} " in other.ask("CLIENT", "LIST").decode()  # noqa: E731 asked twice
    assert listed()
    waiting.close()
    wait_until(lambda: not listed(), 10, "it to be gone")


def test_a_wait_is_over_when_its_primary_has_been_replaced(new_redis, start_forebay, name):
    group = new_redis(replicas=1, sentinels=0)
    old, new = group.nodes
    wire = start_forebay(redis=[group.service(by="nodes", hold="30s")]).redis().wire(timeout=30)
    assert wire.ask("SET", name, 1) == b"OK"
    wire.order("WAIT", 9, 0)
    assert wire.nothing_comes(0.3)
    group.caught_up()
    old.pause()
    try:
        new.run("REPLICAOF", "NO", "ONE")
        assert wire.read() in (0, 1)
        assert wire.ask("GET", name) == b"1"
    finally:
        old.resume()
