"""While a switchover holds writes nothing reaches the old primary, on whichever connection a client is served."""

import threading

import pytest

from harness import Relay, wait_until
from harness.redis_wire import command

# Longer than a change takes on a busy machine.
HOLD = "40s"


def served(group, start_forebay, **keys):
    """Forebay in front of it, which knows the nodes by their addresses."""
    return start_forebay(redis=[group.service(by="nodes", hold=HOLD, **{"max_lag": "60s", **keys})])


@pytest.fixture
def holding(behind, start_forebay):
    """(group, Forebay, `begin`, `end`): a switchover holds writes from `begin()` to `end()`, since a replica lags."""
    group, relay = behind
    forebay = served(group, start_forebay)
    runs = []

    def is_held():
        with forebay.redis().wire() as wire:
            return wire.order("SET", "held?", 1).nothing_comes(0.1)

    def begin():
        relay.mode = "keep"
        group.nodes[0].run("SET", "ahead", 1)
        runs.append(threading.Thread(target=forebay.admin, args=("SWITCHOVER cache DRAIN '30s'",)))
        runs[0].start()
        wait_until(is_held, 10, "writes to be held")

    def end():
        relay.mode = "pass"
        runs[0].join(30)
        assert group.nodes[1].role() == "primary"

    yield group, forebay, begin, end
    relay.mode = "pass"


def blocks(node):
    """Somebody is blocked there."""
    return lambda: node.info("clients")["blocked_clients"] > 0


def test_what_is_behind_a_blocked_command_waits_for_the_new_primary(holding, name):
    group, forebay, begin, end = holding
    old, new = group.nodes
    wire = forebay.redis().wire(timeout=60)
    wire.order("BLPOP", name + ":l", 0)
    wait_until(blocks(old), 10, "the client to be blocked")
    begin()
    wire.order("SET", name, "v")
    assert wire.nothing_comes(0.3)
    old.run("RPUSH", name + ":l", "x")
    assert wire.read() == [f"{name}:l".encode(), b"x"]
    assert wire.nothing_comes(0.3)
    assert old.run("GET", name) is None
    end()
    assert wire.read() == b"OK"
    assert new.run("GET", name) == b"v"


def test_a_large_request_on_a_connection_that_is_open_waits_for_the_new_primary(holding, name):
    group, forebay, begin, end = holding
    old, new = group.nodes
    wire = forebay.redis().wire(timeout=60)
    assert wire.ask("WATCH", name + ":w") == b"OK"
    begin()
    sender = threading.Thread(target=wire.order, args=("SET", name, "v" * 1_000_000))
    sender.start()
    assert wire.nothing_comes(0.5)
    assert old.run("EXISTS", name) == 0
    end()
    assert wire.read() == b"OK"
    sender.join()
    assert new.run("STRLEN", name) == 1_000_000


def test_what_is_behind_a_blocked_command_does_not_hold_up_a_switchover(new_redis, start_forebay, name):
    group = new_redis(replicas=1, sentinels=0)
    forebay = served(group, start_forebay)
    wire, other = (forebay.redis().wire(timeout=60) for _ in range(2))
    wire.send(command("BLPOP", name + ":l", 0) + command("INCR", name) + command("GET", name))
    wait_until(blocks(group.nodes[0]), 10, "the client to be blocked")
    forebay.admin("SWITCHOVER cache DRAIN '5s'")
    wait_until(blocks(group.nodes[1]), 20, "the client to be blocked at the new primary")
    assert other.ask("RPUSH", name + ":l", "x") == 1
    assert wire.replies(3) == [[f"{name}:l".encode(), b"x"], 1, b"1"]


def test_a_switchover_waits_for_a_blocking_command_that_is_still_on_its_way(new_redis, start_forebay, name):
    """It would take what is there on the old primary after the new one was found to have everything."""
    group = new_redis(replicas=1, sentinels=0)
    old, new = group.nodes
    with Relay(old.port) as relay:
        forebay = served(group, start_forebay, nodes=[relay.address, new.address])
        wire = forebay.redis().wire(timeout=60)
        old.run("RPUSH", name, "x")
        group.caught_up()
        relay.kept = b"BLPOP"
        wire.order("BLPOP", name, 0)
        wait_until(lambda: relay.has_kept, 10, "the command to be on its way")
        with pytest.raises(Exception, match="block.* on their way"):
            forebay.admin("SWITCHOVER cache DRAIN '1s'")
        assert old.role() == "primary"
        relay.kept = None
        assert wire.read() == [name.encode(), b"x"]
        assert wire.ask("LLEN", name) == 0
