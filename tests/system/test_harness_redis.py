"""The Redis half of the harness itself: what the other tests rely on, on real servers."""

import pytest

from harness import redis_wire, wait_until
from harness.redis_wire import Pairs, Push, ReplyError, Unfinished, command, parse
from harness.wire import Closed


def test_a_group_is_whole_when_it_is_made(shared_redis):
    first, second, third = shared_redis.nodes
    assert [node.role() for node in shared_redis.nodes] == ["primary", "replica", "replica"]
    assert second.follows(first) and third.follows(first)
    assert [s.primary_port() for s in shared_redis.sentinels] == [first.port] * 3
    assert [len(s.replicas()) for s in shared_redis.sentinels] == [2] * 3
    assert [len(s.others()) for s in shared_redis.sentinels] == [2] * 3


def test_a_write_reaches_every_replica(shared_redis, name):
    with shared_redis.primary.wire() as wire:
        assert wire.ask("SET", name, "written") == b"OK"
    shared_redis.caught_up()
    assert [node.run("GET", name) for node in shared_redis.nodes] == [b"written"] * 3
    assert shared_redis.replicas[0].wire().ask("SET", name, "x").code == "READONLY"


def test_sentinel_failover_gives_another_primary(redis_group):
    old = redis_group.primary
    redis_group.failover()
    new = redis_group.wait_failover(old)
    assert new is not old and new.run("SET", "k", "v") == b"OK"
    assert redis_group.leader() is redis_group.sentinels[0]
    assert {s.epoch() for s in redis_group.sentinels} == {redis_group.sentinels[0].epoch()}
    # Sentinel leaves the old one writable for some ten seconds, and then turns it into a replica.
    wait_until(lambda: old.follows(new), 40, "the old primary to follow the new one", 0.2)
    assert redis_group.primary is new


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(redis_group):
    old = redis_group.primary
    old.run("SET", "k", "v")
    redis_group.caught_up()
    old.kill()
    assert not old.is_running()
    new = redis_group.wait_failover(old)
    assert new.run("GET", "k") == b"v" and redis_group.leader() in redis_group.sentinels
    old.start()
    wait_until(lambda: old.follows(new), 40, "the old primary to follow the new one", 0.2)
    assert old.run("GET", "k") == b"v"


def test_a_paused_primary_is_replaced_and_resumes_as_a_second_one(redis_group):
    old = redis_group.primary
    old.pause()
    with pytest.raises(redis_wire.Silence):
        old.run("PING", timeout=0.3)
    new = redis_group.wait_failover(old)
    old.resume()
    assert old.run("SET", "only here", "v") == b"OK", "the old primary still takes writes"
    assert redis_group.primary is new, "the Sentinels' word counts while two nodes say that they are primary"


def test_a_killed_sentinel_is_missed_and_comes_back(redis_group):
    gone, *others = redis_group.sentinels
    gone.kill()
    wait_until(lambda: "s_down" in str([o["flags"] for o in others[0].others()]), 15, "the others to miss it")
    redis_group.failover(by=1)
    new = redis_group.wait_failover(redis_group.nodes[0])
    gone.start()
    wait_until(lambda: gone.primary_port() == new.port, 20, "the Sentinel to learn of the new primary")


def test_a_node_that_is_stopped_in_order_starts_again(new_redis):
    group = new_redis(replicas=1, sentinels=0)
    replica = group.nodes[1]
    replica.restart()
    wait_until(lambda: replica.follows(group.nodes[0]), 10, "the replica to link")
    with replica.client() as client:
        assert client.ping()


def test_a_group_with_a_password_asks_for_it(new_redis):
    group = new_redis(replicas=1, sentinels=1, quorum=1, password="secret", users=["alice on >wonder ~a* +@read"])
    wire = group.primary.wire()
    assert wire.ask("GET", "k").code == "NOAUTH"
    assert wire.ask("AUTH", "alice", "wonder") == b"OK"
    assert wire.ask("GET", "a") is None and wire.ask("GET", "b").code == "NOPERM"
    assert group.primary.run("PING") == b"PONG"


def test_forebay_starts_with_a_redis_service_and_no_postgresql(shared_redis, start_forebay):
    forebay = start_forebay(redis=shared_redis, wait="port")
    assert forebay.config["redis"]["service"][0]["listen"] == [forebay.redis().address]
    assert [row for row in forebay.admin("SHOW NODES") if row["kind"] == "postgres"] == []


# -- the parser ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw, kind, value", [
    (b"+OK\r\n", "+", b"OK"),
    (b"-ERR no\r\n", "-", ReplyError("ERR no")),
    (b":-5\r\n", ":", -5),
    (b"$3\r\na\r\n\r\n", "$", b"a\r\n"),
    (b"$0\r\n\r\n", "$", b""),
    (b"$-1\r\n", "$", None),
    (b"*-1\r\n", "*", None),
    (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", "*", [1, [b"x"]]),
    (b"_\r\n", "_", None),
    (b"#t\r\n", "#", True),
    (b",1.5\r\n", ",", 1.5),
    (b"(12345678901234567890\r\n", "(", 12345678901234567890),
    (b"!6\r\nERR no\r\n", "!", ReplyError("ERR no")),
    (b"=7\r\ntxt:abc\r\n", "=", b"abc"),
    (b"%1\r\n+a\r\n:1\r\n", "%", Pairs([(b"a", 1)])),
    (b"~1\r\n:1\r\n", "~", [1]),
    (b">1\r\n+x\r\n", ">", Push([b"x"])),
    (b"|1\r\n+ttl\r\n:5\r\n+OK\r\n", "+", b"OK"),
])
def test_the_parser_reads_every_kind_of_reply(raw, kind, value):
    assert parse(raw + b"+next\r\n") == (kind, value, len(raw))
    for cut in range(len(raw)):
        with pytest.raises(Unfinished):
            parse(raw[:cut])


def test_the_raw_client_reads_replies_pushes_and_the_end(shared_redis, name):
    wire = shared_redis.primary.wire()
    assert dict(wire.ask("HELLO", 3))[b"proto"] == 3
    assert wire.pipeline(("SET", name, "1"), ("INCR", name), ("NOSUCH",))[:2] == [b"OK", 2]
    assert isinstance(wire.ask("SUBSCRIBE", name), Push)
    assert wire.nothing_comes(0.05) and wire.is_open()
    wire.send_bytewise(b"PING\r\n")
    assert wire.reply().raw == b"+PONG\r\n"
    wire.send(command("SET", name, b"x" * 1_000_000)[:-1])
    assert wire.nothing_comes(0.05), "half a request has no reply"
    wire.send(b"\n")
    assert wire.read() == b"OK"
    assert wire.ask("GET", name) == b"x" * 1_000_000
    assert wire.ask("QUIT") == b"OK" and wire.wait_closed() == b"" and not wire.is_open()
    with pytest.raises(Closed):
        wire.read()
