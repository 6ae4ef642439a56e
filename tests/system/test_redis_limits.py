"""Limits: clients, idle time, what waits while there is no primary."""

import time

import pytest

from harness import wait_until
from harness.redis_servers import RedisNode
from harness.waiting import stays
from harness.wire import Closed


@pytest.fixture(params=["direct", "forebay"])
def limited(request, new_redis, start_forebay, shared_redis):
    """A server of one's own with Redis' settings, or Forebay with its keys for the same: `limited({...}, {...})`."""
    def start(settings, keys):
        if request.param == "direct":
            return new_redis(replicas=0, sentinels=0, settings=settings).primary
        return start_forebay(redis=[shared_redis.service(**keys)]).redis()
    return start


def test_one_client_too_many_is_told_so_and_closed(limited):
    endpoint = limited({"maxclients": 3}, {"max_clients": 3})
    wait_until(lambda: _fits(endpoint), 10, "the harness' own connections to be gone")
    wires = [endpoint.wire() for _ in range(3)]
    assert [wire.ask("PING") for wire in wires] == [b"PONG"] * 3
    for _ in range(3):
        refused = endpoint.wire()
        assert refused.wait_closed() == b"-ERR max number of clients reached\r\n"
    assert [wire.ask("PING") for wire in wires] == [b"PONG"] * 3
    wires.pop().close()
    wait_until(lambda: _is_served(endpoint), 10, "a place to be free again")


def _fits(endpoint):
    wires = [endpoint.wire() for _ in range(3)]
    try:
        return [wire.ask("PING") for wire in wires] == [b"PONG"] * 3
    except (Closed, OSError):
        return False
    finally:
        for wire in wires:
            wire.close()


def _is_served(endpoint):
    with endpoint.wire() as wire:
        return wire.ask("PING") == b"PONG"


def test_a_refused_client_that_speaks_at_once_reads_the_reason(limited):
    endpoint = limited({"maxclients": 1}, {"max_clients": 1})
    wait_until(lambda: _is_served(endpoint), 10, "the harness' own connection to be gone")
    first = wait_until(lambda: _holds_a_place(endpoint), 10, "the only place")
    for _ in range(20):
        second = endpoint.wire()
        try:
            assert second.ask("PING") == "ERR max number of clients reached"
        except (Closed, OSError):
            pass  # the end may overtake the reason where bytes were on their way; with Redis too
    assert first.ask("PING") == b"PONG"


def _holds_a_place(endpoint):
    wire = endpoint.wire()
    return wire if wire.ask("PING") == b"PONG" else None


def test_a_client_that_sends_nothing_is_closed(limited):
    endpoint = limited({"timeout": 1}, {"idle_timeout": "1s"})
    idle, in_transaction, half = (endpoint.wire() for _ in range(3))
    assert idle.ask("PING") == b"PONG"
    assert in_transaction.ask("MULTI") == b"OK"
    half.send(b"*1\r\n$4\r\nPI")
    begin = time.monotonic()
    assert idle.wait_closed() == b"" and in_transaction.wait_closed() == b"" and half.wait_closed() == b""
    assert 0.5 < time.monotonic() - begin < 10


def test_who_waits_works_or_listens_is_not_idle(limited, name):
    endpoint = limited({"timeout": 1}, {"idle_timeout": "1s"})
    busy, blocked, subscribed = (endpoint.wire() for _ in range(3))
    blocked.order("BLPOP", name, 0)
    assert subscribed.ask("SUBSCRIBE", name)[0] == b"subscribe"
    stays(
        lambda: busy.ask("PING") == b"PONG" and blocked.is_open() and subscribed.is_open(), 3.5, "three open connections",
        0.2)
    assert busy.ask("PUBLISH", name, "x") == 1 and subscribed.read() == [b"message", name.encode(), b"x"]
    assert busy.ask("RPUSH", name, "y") == 1 and blocked.read() == [name.encode(), b"y"]


def test_without_idle_timeout_nobody_is_closed(limited):
    wire = limited({}, {}).wire()
    assert wire.ask("PING") == b"PONG"
    stays(wire.is_open, 2.5, "an open connection", 0.1)


# -- no primary ---------------------------------------------------------------------------------------------------

# What drivers know as "not now": they wait and try again.
NOT_NOW = ("LOADING", "MASTERDOWN", "TRYAGAIN")


@pytest.fixture
def lonely(new_redis):
    """One server and nobody that could take its place."""
    return new_redis(replicas=0, sentinels=0)


def test_commands_wait_for_a_primary_and_then_run_in_order(lonely, start_forebay):
    endpoint = start_forebay(redis=[lonely.service(by="nodes", hold="30s")]).redis()
    wires = [endpoint.wire() for _ in range(10)]
    assert {wire.ask("SET", "k", "v") for wire in wires} == {b"OK"}
    lonely.nodes[0].kill()
    for number, wire in enumerate(wires):
        wire.order("RPUSH", f"l{number}", "a")
        wire.order("RPUSH", f"l{number}", "b")
        wire.order("LRANGE", f"l{number}", 0, -1)
    assert all(wire.nothing_comes(0.05) for wire in wires), "what cannot be served yet has no reply yet"
    lonely.nodes[0].start()
    for wire in wires:
        first = wire.read(timeout=30)
        # The first may have been on its way when the server died; then nobody knows whether it ran.
        if first == 1:
            assert wire.replies(2) == [2, [b"a", b"b"]]
        else:
            assert first.code == "UNKNOWN"
            assert wire.replies(2) == [1, [b"b"]]


def test_who_waited_longer_than_hold_is_told_to_try_again(lonely, start_forebay):
    endpoint = start_forebay(redis=[lonely.service(by="nodes", hold="1s")]).redis()
    wire = endpoint.wire()
    assert wire.ask("PING") == b"PONG"
    lonely.nodes[0].kill()
    wait_until(lambda: wire.ask("SET", "k", "v").code in NOT_NOW, 10, "a held command to be refused")
    begin = time.monotonic()
    assert wire.ask("SET", "k", "v").code in NOT_NOW
    assert 0.5 < time.monotonic() - begin < 5
    lonely.nodes[0].start()
    wait_until(lambda: wire.ask("SET", "k", "v") == b"OK", 10, "the same connection to be served again")


def test_more_than_queue_length_are_refused_at_once(lonely, start_forebay):
    forebay = start_forebay(redis=[lonely.service(by="nodes", hold="20s", queue_length=3)])
    endpoint = forebay.redis()
    wires = [endpoint.wire() for _ in range(5)]
    assert [wire.ask("PING") for wire in wires] == [b"PONG"] * 5
    lonely.nodes[0].kill()
    forebay.wait_node("redis1", state="down")
    for wire in wires:
        wire.order("SET", "k", "v")
    wait_until(lambda: sum(wire.has_reply() for wire in wires) == 2, 5, "two to be refused")
    refused = [wire for wire in wires if wire.has_reply()]
    assert all(wire.read().code in NOT_NOW for wire in refused)
    waiting = [row for row in forebay.admin("SHOW QUEUE") if row["service"] == "cache"]
    assert sum(int(row["waiting"]) for row in waiting) == 3 and sum(int(row["refused"]) for row in waiting) == 2
    lonely.nodes[0].start()
    assert [wire.read(timeout=20) for wire in wires if wire not in refused] == [b"OK"] * 3


def test_local_commands_need_no_primary(lonely, start_forebay):
    endpoint = start_forebay(redis=[lonely.service(by="nodes", hold="30s")]).redis()
    wire = endpoint.wire()
    assert wire.ask("PING") == b"PONG"
    lonely.nodes[0].kill()
    replies = wire.pipeline(("PING",), ("ECHO", "x"), ("CLIENT", "SETNAME", "me"), ("CLIENT", "GETNAME"))
    assert replies == [b"PONG", b"x", b"OK", b"me"]


def test_a_server_that_refuses_connections_later_is_reached_again(lonely, start_forebay):
    node: RedisNode = lonely.nodes[0]
    endpoint = start_forebay(redis=[lonely.service(by="nodes", hold="20s")]).redis()
    wire = endpoint.wire()
    for round_number in range(3):
        assert wire.ask("SET", "k", round_number) == b"OK"
        node.restart()
        assert wire.ask("GET", "k") is None, "the server forgot everything, the client's connection stayed"
