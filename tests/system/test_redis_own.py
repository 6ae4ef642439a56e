"""Clients with a connection of their own to the server: how they leave, and what it costs when the server is slow."""

import threading
import time

import pytest

from harness import wait_until
from harness.redis_wire import command
from harness.wire import Closed


@pytest.fixture
def lonely(new_redis):
    """One server and nobody that could take its place."""
    return new_redis(replicas=0, sentinels=0)


def served(group, start_forebay, **keys):
    """Forebay in front of it."""
    return start_forebay(redis=[group.service(by="nodes", **keys)], config={"general": {"threads": 1}})


# -- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("farewell", ["close", "reset", "end_of_input"])
def test_a_client_that_leaves_within_a_large_value_is_released(lonely, start_forebay, name, farewell):
    forebay = served(lonely, start_forebay)

    def connected():
        return lonely.nodes[0].info("clients")["connected_clients"]
    other = forebay.redis().wire()
    assert other.ask("SET", name, "before") == b"OK"
    before = connected()
    rude = [forebay.redis().wire() for _ in range(10)]
    for wire in rude:
        wire.order("GET", name).send(command("SET", name, b"x" * 400_000)[:-50_000])
    wait_until(lambda: connected() == before + len(rude), 10, "each to have a connection of its own")
    fds = forebay.fd_count()
    for wire in rude:
        getattr(wire, farewell)()
    wait_until(
        lambda: connected() == before and forebay.fd_count() == fds - 2 * len(rude), 10, "both sides to be closed")
    assert other.ask("GET", name) == b"before"
    if farewell == "end_of_input":
        assert [wire.wait_closed() for wire in rude] == [b"$6\r\nbefore\r\n"] * len(rude)


# The second is more than Forebay reads ahead, the end of the stream behind it is still noticed.
@pytest.mark.parametrize("behind", [200, 1100])
@pytest.mark.parametrize("farewell", ["close", "reset"])
def test_a_blocked_client_that_leaves_with_more_behind_takes_nothing(redis_target, shared_redis, name, behind, farewell):
    gone, other = redis_target.wire(), redis_target.wire()

    def blocked():
        return shared_redis.nodes[0].info("clients")["blocked_clients"]
    gone.send(command("BLPOP", name, 0) + command("SET", f"{name}:set", "y" * 1000) * behind)
    wait_until(lambda: blocked() == 1, 10, "a blocked client")
    getattr(gone, farewell)()
    wait_until(lambda: blocked() == 0, 10, "the server to notice")
    assert other.ask("RPUSH", name, "kept") == 1 and other.ask("LPOP", name) == b"kept"
    assert other.ask("EXISTS", f"{name}:set") == 0


@pytest.mark.parametrize("behind", [200, 3000])
def test_what_stands_behind_a_command_that_blocks_runs_after_it(redis_target, shared_redis, name, behind):
    wire, other = redis_target.wire(), redis_target.wire()
    pipeline = command("BLPOP", name, 0) + b"".join(command("APPEND", f"{name}:all", "y" * 1000) for _ in range(behind))
    sender = threading.Thread(target=wire.send, args=[pipeline])
    sender.start()
    wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    assert wire.nothing_comes()
    assert other.ask("RPUSH", name, "it") == 1
    assert wire.read() == [name.encode(), b"it"]
    assert wire.replies(behind) == [1000 * n for n in range(1, behind + 1)]
    sender.join()


def test_a_pipeline_whose_sender_has_ended_its_half_is_answered(redis_target, name):
    wire = redis_target.wire()
    wire.send(command("WATCH", name) + command("INCR", name) * 500).end_of_input()
    assert wire.replies(501) == [b"OK", *range(1, 501)]
    with pytest.raises(Closed):
        wire.read()


# -- a server that is slow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("SET", "k", b"x" * 100_000), ("APPEND", "k", "x"), ("GET", "k")], ids=lambda w: w[0])
def test_what_a_frozen_server_does_not_take_is_not_taken_either(lonely, start_forebay, words):
    forebay = served(lonely, start_forebay)
    wire = forebay.redis().wire()
    assert wire.pipeline(("WATCH", "w"), ("GET", "k")) == [b"OK", None]
    once, before = command(*words), forebay.rss_kib()
    data, sent = once * (1 + 1_000_000 // len(once)), 0
    lonely.nodes[0].pause()
    wire.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while sent < 200_000_000:
            sent += wire.socket.send(data)
    grown = forebay.rss_kib() - before
    lonely.nodes[0].resume()
    assert grown < 24 * 1024, f"{grown} KiB more for {sent} bytes"
    wire.socket.settimeout(20)
    kinds = {"SET": lambda reply: reply == b"OK", "APPEND": lambda reply: reply > 0, "GET": lambda reply: reply is None}
    assert all(kinds[words[0]](reply) for reply in wire.replies(sent // len(once)))


def test_a_long_pipeline_of_one_client_delays_nobody_else(lonely, start_forebay):
    endpoint = served(lonely, start_forebay).redis()
    wire, other, count = endpoint.wire(timeout=60), endpoint.wire(), 300_000
    assert wire.ask("WATCH", "w") == b"OK" and other.ask("PING") == b"PONG"
    lonely.nodes[0].pause()
    sender = threading.Thread(target=wire.send, args=[command("GET", "k") * count])
    sender.start()
    worst, end = 0, time.monotonic() + 2.5
    while time.monotonic() < end:
        begin = time.monotonic()
        assert other.ask("PING") == b"PONG"
        worst = max(worst, time.monotonic() - begin)
    lonely.nodes[0].resume()
    assert wire.take(5 * count) == b"$-1\r\n" * count
    sender.join()
    assert worst < 0.5, f"a PING took {worst:.2f} s"


def test_bad_input_in_a_large_value_is_told_of_behind_the_replies_before_it(redis_target, name):
    wire, other = redis_target.wire(), redis_target.wire()
    assert other.ask("SET", f"{name}:large", b"y" * 3_000_000) == b"OK"
    assert wire.ask("WATCH", name) == b"OK"
    wire.send(
        command("EVAL", "for i = 1, 5000000 do end return 7", 0), command("GET", f"{name}:large"),
        command("SET", name, b"x" * 600_000).replace(b"*3", b"*4", 1), b":3\r\n")
    assert wire.read() == 7
    assert len(wire.read()) == 3_000_000
    assert wire.read() == "ERR Protocol error: expected '$', got ':'"
    assert wire.wait_closed() == b""
    assert other.ask("EXISTS", name) == 0


# -- CLIENT UNBLOCK -----------------------------------------------------------------------------------------------------


@pytest.fixture
def unblock(redis_target, shared_redis):
    """Has a client wait for a list, and somebody else end that: `unblock(wire, list)` answers what the client is told."""
    def end(wire, key, how="TIMEOUT"):
        number = wire.ask("CLIENT", "ID")
        wire.order("BLPOP", key, 0)
        wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
        assert redis_target.wire().ask("CLIENT", "UNBLOCK", number, how) == 1
        return wire.read()
    return end


def test_what_an_unblocked_client_listens_to_stays(redis_target, unblock, name):
    wire, other = redis_target.wire(), redis_target.wire()
    wire.ask("HELLO", 3)
    assert wire.ask("SUBSCRIBE", name) == [b"subscribe", name.encode(), 1]
    assert unblock(wire, f"{name}:list") is None
    assert other.ask("PUBLISH", name, "still") == 1
    assert wire.read() == [b"message", name.encode(), b"still"]


def test_what_an_unblocked_client_tracks_stays(redis_target, unblock, name):
    wire, other = redis_target.wire(), redis_target.wire()
    wire.ask("HELLO", 3)
    assert wire.pipeline(("CLIENT", "TRACKING", "ON"), ("GET", name)) == [b"OK", None]
    assert unblock(wire, f"{name}:list", "ERROR").code == "UNBLOCKED"
    assert other.ask("SET", name, 1) == b"OK"
    assert wire.read() == [b"invalidate", [name.encode()]]


def test_what_an_unblocked_client_watches_stays(redis_target, unblock, name):
    wire, other = redis_target.wire(), redis_target.wire()
    for changes in [False, True]:
        assert wire.ask("WATCH", name) == b"OK"
        assert unblock(wire, f"{name}:list") is None
        if changes:
            assert other.ask("SET", name, 1) == b"OK"
        replies = wire.pipeline(("MULTI",), ("SET", f"{name}:set", 1), ("EXEC",))
        assert replies == [b"OK", b"QUEUED", None if changes else [b"OK"]]


def test_a_client_that_is_unblocked_while_an_element_comes_has_one_of_both(redis_target, name):
    wire, other = redis_target.wire(), redis_target.wire()
    number = wire.ask("CLIENT", "ID")
    for turn in range(100):
        wire.order("BLPOP", name, 0)
        assert other.pipeline(("RPUSH", name, turn), ("CLIENT", "UNBLOCK", number))[0] == 1
        reply, left = wire.read(), other.ask("LPOP", name)
        assert (reply, left) in [([name.encode(), b"%d" % turn], None), (None, b"%d" % turn)]


def test_an_unblocked_client_takes_nothing_that_comes_later(redis_target, shared_redis, name):
    wire, other = redis_target.wire(), redis_target.wire()
    number = wire.ask("CLIENT", "ID")
    for turn in range(20):
        wire.order("BLPOP", name, 0)
        wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
        assert other.pipeline(("CLIENT", "UNBLOCK", number), ("RPUSH", name, turn), ("LPOP", name)) == [1, 1, b"%d" % turn]
        assert wire.read() is None
