"""A network that is cut between Forebay and the primary, and Sentinels that have lost their sense of time."""

import pytest

from harness import wait_until
from harness.redis_ledger import Ledger
from harness.relay import Relay

HOLD = "60s"


@pytest.fixture
def reached_by_relay(new_redis, start_forebay):
    """(group, Forebay, by node the relay through which alone Forebay reaches it); nobody watches the nodes but Forebay."""
    group = new_redis(replicas=1, sentinels=0)
    with Relay(group.nodes[0].port) as first, Relay(group.nodes[1].port) as second:
        relays = [first, second]
        service = group.service(by="nodes", hold=HOLD, nodes=[relay.address for relay in relays])
        yield group, start_forebay(redis=[service]), relays


def events(forebay, event):
    """Rows of SHOW EVENTS of this name."""
    return [row for row in forebay.admin("SHOW EVENTS") if row["event"] == event]


def cut_off(forebay, name):
    """Waits until Forebay has noticed; the answer is a client that has come since, and waits for a primary."""
    forebay.wait_node("redis1", timeout=30, state="down")
    wire = forebay.redis().wire(timeout=60)
    wire.order("INCR", name + ":late")

    def somebody_waits():
        return sum(int(row["waiting"]) for row in forebay.admin("SHOW QUEUE") if row["service"] == "cache") > 0
    wait_until(somebody_waits, 30, "a client to wait for a primary")
    return wire


def test_a_network_that_comes_back_loses_and_repeats_nothing(reached_by_relay, name):
    group, forebay, relays = reached_by_relay
    with Ledger(forebay.redis(), name) as ledger:
        relays[0].mode = "keep"
        late = cut_off(forebay, name)
        relays[0].mode = "pass"
        assert late.read() == 1
        ledger.wait_acknowledged(100)
    assert group.primary is group.nodes[0] and not events(forebay, "primary_changed")
    verdict = ledger.judge(group.primary)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


def test_a_primary_behind_a_cut_network_is_replaced_and_not_believed_when_it_is_back(reached_by_relay, name):
    group, forebay, relays = reached_by_relay
    old, new = group.nodes
    with Ledger(forebay.redis(), name) as ledger:
        relays[0].mode = "keep"
        late = cut_off(forebay, name)
        group.caught_up()
        # It goes on taking writes from whoever reaches it.
        new.promote()
        assert late.read() == 1
        ledger.wait_acknowledged(100)
        relays[0].mode = "pass"
        forebay.wait_node("redis1", timeout=30, role="primary", state="fenced")
        ledger.wait_acknowledged(100)
    assert old.role() == "primary", "nobody has told it"
    verdict = ledger.judge(new)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert int(forebay.node("redis1")["connections"]) == 0, "nothing is left on the way to the old primary"


# -- TILT -------------------------------------------------------------------------------------------------------------


def is_in_tilt(sentinel):
    """It has noticed a gap in its own time, and decides nothing for 30 s."""
    lines = sentinel.run("INFO", "sentinel").decode().splitlines()
    return next(int(line.split(":")[1]) for line in lines if line.startswith("sentinel_tilt:")) == 1


def tilt(sentinels, ledger):
    """Freezes Sentinels until they lose their sense of time, which takes more than two seconds."""
    for writes in range(1000, 10_000, 1000):
        for sentinel in sentinels:
            sentinel.pause()
        # They go on all the while, and so many take that long.
        ledger.wait_acknowledged(writes)
        for sentinel in sentinels:
            sentinel.resume()
        if all(is_in_tilt(sentinel) for sentinel in sentinels):
            return
    raise AssertionError("no Sentinel noticed that it had been frozen")


def test_sentinels_in_tilt_stop_nothing(redis_group, start_forebay, name):
    forebay = start_forebay(redis=[redis_group.service(hold=HOLD)])
    with Ledger(forebay.redis(), name) as ledger:
        tilt(redis_group.sentinels, ledger)
        ledger.wait_acknowledged(300)
        assert all(is_in_tilt(sentinel) for sentinel in redis_group.sentinels)
        assert not events(forebay, "primary_lost"), "what they say is not what they decide"
    verdict = ledger.judge(redis_group.primary)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.unknown == 0


def test_a_failover_beside_a_sentinel_in_tilt_loses_nothing(redis_group, start_forebay, name):
    forebay = start_forebay(redis=[redis_group.service(hold=HOLD)])
    confused, sound, _ = redis_group.sentinels
    old = redis_group.primary
    with Ledger(forebay.redis(), name) as ledger:
        tilt([confused], ledger)
        redis_group.failover(by=1)
        wait_until(lambda: sound.primary_port() != old.port, 30, "a sound Sentinel to name another primary")
        new = redis_group.node_at(sound.primary_port())
        forebay.wait_node(forebay.name_of(new), timeout=30, role="primary", state="up")
        ledger.wait_acknowledged(100)
        assert redis_group.wait_failover(old, timeout=60) is new
        wait_until(lambda: old.follows(new), 60, "the old primary to follow", 0.1)
        ledger.wait_acknowledged(50)
    redis_group.caught_up()
    assert len(events(forebay, "primary_changed")) == 1
    verdict = ledger.judge(new)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
