"""MULTI, EXEC, DISCARD and WATCH on shared connections. Each talk goes as with Redis itself."""

import pytest

from harness.redis_talk import bytewise, by, closes, gets, hears, hides, leaves, pipeline, quiet, raw, until_blocked
from harness.redis_wire import command

TRANSACTIONS = {
    "commands wait for EXEC": ["MULTI", "SET k 1", "INCR k", "GET k", by("b", "GET k"), "EXEC", by("b", "GET k")],
    "an empty transaction": ["MULTI", "EXEC", "PING"],
    "EXEC and DISCARD without MULTI": ["EXEC", "DISCARD", "PING", "EXEC"],
    "MULTI within MULTI is refused and the transaction goes on": [
        "MULTI", "SET k 1", "MULTI", "INCR k", "EXEC", "GET k"],
    "DISCARD drops everything": ["SET k 1", "MULTI", "INCR k", "DISCARD", "GET k", "EXEC"],
    "an unknown command makes EXEC abort": ["MULTI", "SET k 1", "NOSUCH", "INCR k", "EXEC", "GET k", "PING"],
    "wrong arity makes EXEC abort": ["MULTI", "SET k", "EXEC", "GET k"],
    "an unknown subcommand makes EXEC abort": ["MULTI", "OBJECT NOSUCH k", "EXEC", "PING"],
    "EXEC with an argument aborts": ["MULTI", "SET k 1", "EXEC now", "GET k", "EXEC"],
    "after an abort a new transaction begins": ["MULTI", "NOSUCH", "EXEC", "MULTI", "SET k 1", "EXEC", "GET k"],
    "DISCARD after an error": ["MULTI", "NOSUCH", "DISCARD", "PING", "EXEC"],
    "an error while it runs does not stop the rest": [
        "SET k v", "MULTI", "INCR k", "LPUSH k x", "SET k w", "EXEC", "GET k"],
    "every kind of reply in one EXEC": [
        "MULTI", "SET k v", "GET k", "GET no", "HSET h f v", "HGETALL h", "LRANGE no 0 -1", "SMEMBERS no",
        "ZADD z 1.5 m",
        "ZSCORE z m", "ZRANGE z 0 -1 WITHSCORES", "INCRBYFLOAT f 0.1", "MGET k no", "EXEC"],
    "a transaction in one write": [pipeline("MULTI", "SET k 1", "INCR k", "EXEC", "GET k")],
    "many transactions in one write": [pipeline(
        *(word for n in range(200) for word in ("MULTI", "INCR k", f"SET k{n} {n}", "EXEC")), "GET k", "MGET k0 k199")],
    "transactions good and bad in one write": [
        pipeline("MULTI", "INCR k", "EXEC", "MULTI", "NOSUCH", "EXEC", "MULTI", "INCR k", "DISCARD", "EXEC", "MULTI",
                 "INCR k", "EXEC", "GET k")],
    "a transaction in single bytes": [
        bytewise(b"MULTI\r\n" + command("SET", "k", "1") + b"INCR k\r\n" + command("EXEC"), 4)],
    "a thousand commands": [
        pipeline("MULTI", *(f"INCR k{n % 7}" for n in range(1000)), "EXEC", "MGET k0 k1 k2 k3 k4 k5 k6")],
    "large values": [
        "MULTI", ("SET", "k", b"x" * 500_000), ("APPEND", "k", b"y" * 500_000), "GET k", "EXEC", "STRLEN k"],
    "other clients' commands do not come between": [
        "MULTI", "INCR k", by("b", "INCR k", "MULTI", "INCR k"), "INCR k", by("c", "INCR k"), "EXEC", by("b", "EXEC"),
        "GET k"],
    "a client that leaves drops its transaction": ["MULTI", "SET k 1", leaves(), by("b", "GET k")],
    "half a transaction and half a command, then the end": [
        "MULTI", "SET k 1", raw(command("EXEC")[:-2]), leaves(), by("b", "GET k")],
    "databases change within a transaction": [
        "MULTI", "SELECT 1", "SET k 1", "SELECT 2", "SET k 2", "EXEC", "GET k", "SELECT 1", "GET k"],
    "a discarded SELECT does not count": ["SET k 0", "MULTI", "SELECT 1", "DISCARD", "GET k"],
    "an aborted SELECT does not count": ["SET k 0", "MULTI", "SELECT 1", "NOSUCH", "EXEC", "GET k"],
    "a bad SELECT fails alone": ["MULTI", "SELECT 99", "SET k 0", "EXEC", "GET k"],
    "names within a transaction": ["MULTI", "CLIENT SETNAME me", "CLIENT GETNAME", "ECHO e", "EXEC", "CLIENT GETNAME"],
    "blocking commands do not block": [
        "MULTI", "BLPOP no 0", "BRPOPLPUSH no l 0", "RPUSH l x", "BLPOP l 0", "EXEC", "PING"],
    "XREAD BLOCK does not block": ["MULTI", "XREAD BLOCK 0 STREAMS s $", "WAIT 5 0", "EXEC", "PING"],
    "scripts": [
        "MULTI", "EVAL return{1,2} 0", "EVAL return(redis.call('incr',KEYS[1])) 1 k", "EVALSHA nosuch 0", "EXEC",
        "GET k"],
    "messages are sent by EXEC": [
        by("b", "SUBSCRIBE t1"), "MULTI", "PUBLISH t1 x", by("b", quiet()), "EXEC", by("b", gets("PING", 2))],
    "subscriptions within a transaction": ["MULTI", "SUBSCRIBE t1", "SET k v", "EXEC", "PING"],
    "subscriptions and the session": [
        "MULTI", "SUBSCRIBE t1", "CLIENT REPLY ON", "EXEC", by("b", "PUBLISH t1 x"), hears(1), "PING"],
    "subscriptions and a database": [
        by("b", "SELECT 1"), "MULTI", "SELECT 1", "SUBSCRIBE t1", "EXEC", "UNSUBSCRIBE t1", "SET k 1", by("b", "GET k")],
    "several subscriptions at once": [
        "MULTI", "CLIENT SETNAME me", "SUBSCRIBE t1 t2", gets("EXEC", 2), "PING", "UNSUBSCRIBE t1", "UNSUBSCRIBE t2",
        "CLIENT GETNAME"],
    "a subscriber that begins one": [
        "SUBSCRIBE t1", pipeline("MULTI", "SELECT 1", "CLIENT REPLY ON", "SET k 1", "EXEC", "PING"), "UNSUBSCRIBE t1",
        "GET k", by("b", "GET k")],
    "another protocol": [
        "HSET h f v", "MULTI", "HELLO 3", "HGETALL h", hides(rb"id\r\n:(\d+)", "EXEC"), "HGETALL h", "HGETALL no"],
    "the second protocol": ["HSET h f v", "MULTI", "HELLO 2", hides(rb"id\r\n:(\d+)", "EXEC"), "HGETALL h"],
    "another protocol that is not taken": [
        "HSET h f v", "MULTI", "HELLO 3", "DISCARD", "HGETALL h", "MULTI", "HELLO 4", "EXEC"],
    "a flush within a transaction": ["SET k 1", "MULTI", "FLUSHDB", "GET k", "SET k 2", "EXEC", "GET k"],
    "time passes for none of the keys": ["MULTI", "SET k v PX 100000", "PEXPIRE no 5", "PERSIST k", "TTL k", "EXEC"],
    "copies of a sort": ["RPUSH l 3 1 2", "MULTI", "SORT l", "SORT l STORE s", "LRANGE s 0 -1", "EXEC"],
    "a transaction that was begun in capitals or not": ["multi", "set k 1", "eXeC", "GET k"],
}

WATCH = {
    "a changed key makes EXEC do nothing": [
        "SET k 1", "WATCH k", by("b", "SET k 2"), "MULTI", "SET k 3", "EXEC", "GET k"],
    "an unchanged key lets EXEC run": ["SET k 1", "WATCH k", "GET k", "MULTI", "INCR k", "EXEC", "GET k"],
    "a change within the transaction's own waiting counts": [
        "WATCH k", "MULTI", "INCR k", by("b", "SET k 5"), "EXEC", "GET k"],
    "the client's own change counts": ["WATCH k", "SET k 1", "MULTI", "INCR k", "EXEC", "GET k"],
    "EXEC forgets what was watched": ["WATCH k", "MULTI", "EXEC", by("b", "SET k 1"), "MULTI", "INCR k", "EXEC"],
    "an EXEC that did nothing forgets as well": [
        "WATCH k", by("b", "SET k 1"), "MULTI", "EXEC", "MULTI", "INCR k", "EXEC"],
    "DISCARD forgets what was watched": ["WATCH k", "MULTI", "DISCARD", by("b", "SET k 1"), "MULTI", "INCR k", "EXEC"],
    "UNWATCH forgets": ["WATCH k", by("b", "SET k 1"), "UNWATCH", "MULTI", "INCR k", "EXEC"],
    "UNWATCH without WATCH": ["UNWATCH", "PING"],
    "UNWATCH within a transaction": ["WATCH k", by("b", "SET k 1"), "MULTI", "UNWATCH", "INCR k", "EXEC"],
    "WATCH within a transaction is refused": ["MULTI", "WATCH k", "SET k 1", "EXEC", "GET k"],
    "many keys, one of them changed": ["WATCH a b c d", by("b", "SET c 1"), "MULTI", "SET a 1", "EXEC", "GET a"],
    "keys are watched one after the other": ["WATCH a", "WATCH b", by("b", "SET a 1"), "MULTI", "SET c 1", "EXEC"],
    "a key of another database": [
        "SELECT 1", "WATCH k", by("b", "SET k 1"), "MULTI", "PING", "EXEC", "WATCH k", by("b", "SELECT 1", "SET k 1"),
        "MULTI", "PING", "EXEC"],
    "two clients watch the same key": [
        "WATCH k", by("b", "WATCH k", "MULTI", "INCR k", "EXEC"), "MULTI", "INCR k", "EXEC", "GET k"],
    "reads and writes between WATCH and MULTI": [
        "WATCH k", "GET k", "SET other 1", "INCR other", "MULTI", "INCR k", "EXEC"],
    "all in one write": [
        pipeline("SET k 1", "WATCH k", "GET k", "MULTI", "INCR k", "EXEC", "GET k", "WATCH k", "SET k 7", "MULTI",
                 "INCR k", "EXEC", "GET k")],
    "an abort while a key is watched": [
        "WATCH k", "MULTI", "NOSUCH", "EXEC", by("b", "SET k 1"), "MULTI", "INCR k", "EXEC"],
    "an abort comes before a changed key": ["WATCH k", by("b", "SET k 1"), "MULTI", "NOSUCH", "EXEC", "PING"],
    "a key that expires": ["SET k v PX 30", "WATCH k", by("b", "BLPOP no 0.1"), "MULTI", "PING", "EXEC"],
    "a flush changes watched keys": ["SET k 1", "WATCH k", by("b", "FLUSHALL"), "MULTI", "INCR k", "EXEC"],
    "a blocking command between WATCH and MULTI": [
        "WATCH k", gets("BLPOP l 5", 0), until_blocked(1), by("b", "SET k 1", "RPUSH l x"), gets("MULTI", 2), "INCR k",
        "EXEC"],
    "QUIT while watching": ["WATCH k", "QUIT", closes(), by("b", "SET k 1")],
}

TRACKING = {
    "what a transaction has switched on": [
        "HELLO 3", "MULTI", "CLIENT TRACKING ON", "EXEC", "GET k", by("b", "SET k 1"), hears(1), "GET k",
        by("b", "SET k 2"), hears(1), "PING"],
    "and off": [
        "HELLO 3", "CLIENT TRACKING ON", "MULTI", "CLIENT TRACKING OFF", "EXEC", "GET k", by("b", "SET k 1"), quiet(), "PING"],
    "what a discarded one has not": [
        "HELLO 3", "MULTI", "CLIENT TRACKING ON", "DISCARD", "GET k", by("b", "SET k 1"), quiet(), "PING"],
}


@pytest.mark.parametrize("talk", TRANSACTIONS.values(), ids=TRANSACTIONS.keys())
def test_transactions_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", WATCH.values(), ids=WATCH.keys())
def test_watched_keys_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", TRACKING.values(), ids=TRACKING.keys())
def test_tracking_that_a_transaction_switches_goes_as_with_redis(talk, held):
    held([hides(rb"id\r\n:(\d+)", talk[0]), *talk[1:]])


# -- what Forebay itself refuses ----------------------------------------------------------------------------------


@pytest.fixture
def frozen(new_redis, start_forebay):
    """(Forebay, `freeze`, `thaw`): the only server does not answer from `freeze()` to `thaw()`."""
    group = new_redis(replicas=0, sentinels=0)
    forebay = start_forebay(redis=[group.service(by="nodes", hold="1s")])

    def freeze():
        group.nodes[0].pause()
        forebay.wait_node("redis1", state="down")

    def thaw():
        group.nodes[0].resume()
        forebay.wait_node("redis1", state="up")

    yield forebay, freeze, thaw
    group.nodes[0].resume()


@pytest.mark.parametrize("begin, refused", [
    (["MULTI"], ("SELECT", 1)),
    (["MULTI"], ("SET", "b", b"x" * 600_000)),
    (["WATCH w", "MULTI"], ("INCRBY", "b", 10)),
    (["WATCH w", "MULTI"], ("SET", "b", b"x" * 600_000)),
], ids=["kept, session", "kept, large", "at the server", "at the server, large"])
def test_a_transaction_with_a_command_that_found_no_primary_runs_nothing(frozen, begin, refused):
    forebay, freeze, thaw = frozen
    wire, other = (forebay.redis().wire() for _ in range(2))
    for line in ["SET a 100", *begin]:
        assert wire.ask(*line.split()) == b"OK"
    assert wire.ask("DECRBY", "a", 10) == b"QUEUED"
    freeze()
    assert wire.ask(*refused).code == "LOADING"
    assert wire.ask("INCR", "b") == b"QUEUED", "it must not wait for a primary"
    thaw()
    assert wire.ask("EXEC").code == "EXECABORT"
    assert other.ask("MGET", "a", "b") == [b"100", None]
    assert wire.pipeline(("MULTI",), ("INCR", "a"), ("EXEC",)) == [b"OK", b"QUEUED", [101]]


@pytest.mark.parametrize("end", ["EXEC", "DISCARD"])
def test_an_end_of_a_transaction_that_found_no_primary_ends_it(frozen, end):
    forebay, freeze, thaw = frozen
    wire = forebay.redis().wire()
    assert wire.pipeline(("WATCH", "a"), ("MULTI",), ("SET", "a", 1)) == [b"OK", b"OK", b"QUEUED"]
    freeze()
    assert wire.ask(end).code == "LOADING"
    thaw()
    assert wire.ask("GET", "a") is None
    assert wire.pipeline(("MULTI",), ("SET", "a", 2), ("EXEC",))[-1] == [b"OK"]


@pytest.mark.parametrize("begin", [["MULTI"], ["WATCH w", "MULTI"]], ids=["kept", "at the server"])
def test_a_transaction_with_a_large_command_that_is_refused_runs_nothing(redis_forebay, name, begin):
    wire = redis_forebay.redis().wire()
    for line in begin:
        assert wire.ask(*line.split()) == b"OK"
    assert wire.ask("SET", name, 1) == b"QUEUED"
    assert wire.ask("CONFIG", "SET", "maxmemory", b"x" * 600_000).code == "NOPERM"
    assert wire.ask("EXEC").code == "EXECABORT"
    assert wire.ask("GET", name) is None
