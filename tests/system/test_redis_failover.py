"""The primary changes under load: what was acknowledged is stored, nothing twice, and no client's connection closes."""

import time

import pytest

from harness import wait_until
from harness.redis_ledger import Ledger
from harness.redis_servers import SentinelEvents
from harness.redis_wire import Push, ReplyError

# Longer than any change of the primary here takes on a busy machine: what is held must not be refused meanwhile.
HOLD = "40s"


@pytest.fixture
def served(redis_group, start_forebay):
    """(group, Forebay in front of it)"""
    return redis_group, start_forebay(redis=[redis_group.service(hold=HOLD)])


def settle(group, ledger, old):
    """Writing goes on until the old primary follows the new one: what it still took meanwhile is lost then."""
    new = group.wait_failover(old, timeout=60)
    wait_until(lambda: old.follows(new), 60, f"{old.name} to follow {new.name}", 0.1)
    ledger.wait_acknowledged(100)
    ledger.end()
    group.caught_up()
    return new


def told(what, ledger, verdict, switched=None):
    """Prints the figures of a change."""
    flowing = f", {ledger.flowing_after(switched) * 1000:.0f} ms after the first +switch-master" if switched else ""
    print(f"{what}: {verdict}; longest pause {ledger.longest_pause() * 1000:.0f} ms{flowing}")


def assert_flowing(ledger, switched):
    """Writes went on soon after the first Sentinel's +switch-master. The aim is 200 ms; a busy machine gets more."""
    assert ledger.flowing_after(switched) < 2


# -- the ledger itself ----------------------------------------------------------------------------------------------


def test_the_ledger_finds_nothing_where_nothing_happens(shared_redis, name):
    with Ledger(shared_redis.primary, name) as ledger:
        ledger.wait_acknowledged(200)
    verdict = ledger.judge(shared_redis.primary)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.acknowledged > 1600 and verdict.unknown == 0


def test_without_forebay_a_planned_failover_loses_writes_and_the_ledger_finds_them(redis_group, name):
    old = redis_group.primary
    with Ledger(old, name) as ledger:
        redis_group.failover()
        new = redis_group.wait_failover(old, timeout=60)
        wait_until(lambda: old.follows(new), 60, "the old primary to follow the new one", 0.1)
        wait_until(lambda: not any(worker.is_alive() for worker in ledger.writers), 10, "the old primary to close")
    verdict = ledger.judge(new)
    told("SENTINEL FAILOVER without Forebay", ledger, verdict)
    assert len(verdict.lost) > 100 and len(verdict.closed) == 10


def test_the_ledger_finds_what_is_stored_twice_or_against_what_was_said(shared_redis, name):
    primary = shared_redis.primary
    with Ledger(primary, name) as ledger:
        pass
    pusher, *_, counter = ledger.writers
    primary.run("RPUSH", pusher.key, "1.0")
    primary.run("INCR", counter.key)
    pusher.entries[1].reply = ReplyError("LOADING not now")
    pusher.entries[2].reply = ReplyError("UNKNOWN perhaps")
    primary.run("LREM", ledger.writers[1].key, 1, "1.5")
    verdict = ledger.judge(primary)
    assert len(verdict.duplicated) == 2 and len(verdict.phantoms) == 1 and verdict.unknown == 1
    assert [entry.name for entry in verdict.lost] == ["1.5"] and verdict.refused == {"LOADING": 1}


# -- planned changes ------------------------------------------------------------------------------------------------


def test_sentinel_failover_loses_nothing(served, name):
    group, forebay = served
    old = group.primary
    with SentinelEvents(group) as events, Ledger(forebay.redis(), name) as ledger:
        group.failover()
        new = settle(group, ledger, old)
        switched = events.first("+switch-master")
    verdict = ledger.judge(new)
    told("SENTINEL FAILOVER", ledger, verdict, switched)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert_flowing(ledger, switched)


def test_sentinel_failovers_one_after_the_other_lose_nothing(served, name):
    group, forebay = served
    with Ledger(forebay.redis(), name) as ledger:
        for number in range(2):
            old = group.primary
            group.failover(by=number)
            new = group.wait_failover(old, timeout=60)
            wait_until(lambda: old.follows(new), 60, f"{old.name} to follow {new.name}", 0.1)
            group.agreed(60)
        ledger.wait_acknowledged(100)
    group.caught_up()
    verdict = ledger.judge(new)
    told("two SENTINEL FAILOVERs", ledger, verdict)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


@pytest.mark.parametrize("to", [None, 1, 2], ids=["to any", "to the first replica", "to the second replica"])
def test_switchover_loses_nothing(served, name, to):
    group, forebay = served
    old = group.primary
    wanted = None if to is None else group.nodes[to]
    with SentinelEvents(group) as events, Ledger(forebay.redis(), name) as ledger:
        forebay.admin(f"SWITCHOVER cache TO {forebay.name_of(wanted)}" if wanted else "SWITCHOVER cache")
        new = settle(group, ledger, old)
        switched = events.first("+switch-master")
    verdict = ledger.judge(new)
    told("SWITCHOVER", ledger, verdict, switched)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.unknown == 0, "a planned change leaves nothing unknown"
    assert wanted in (None, new)
    assert_flowing(ledger, switched)
    forebay.wait_node(forebay.name_of(new), role="primary", state="up")
    forebay.wait_node(forebay.name_of(old), role="replica", state="up")


def test_a_switchover_that_cannot_finish_is_undone(served, name):
    group, forebay = served
    old = group.primary
    with Ledger(forebay.redis(), name) as ledger:
        for sentinel in group.sentinels:
            sentinel.pause()
        with pytest.raises(Exception, match="(?i)sentinel|switchover"):
            forebay.admin("SWITCHOVER cache")
        ledger.wait_acknowledged(100)
        assert old.role() == "primary"
        for sentinel in group.sentinels:
            sentinel.resume()
        # One that was asked before it froze may fail over now; that loses nothing either.
        group.agreed(60)
        ledger.wait_acknowledged(100)
    group.caught_up()
    verdict = ledger.judge(group.primary)
    told("SWITCHOVER without Sentinels", ledger, verdict)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


# redis1 is the first that the Sentinels name, the primary.
@pytest.mark.parametrize("words", ["cache TO nosuch", "cache TO redis1", "nosuch", "cache TO redis2 MODE sideways"])
def test_a_switchover_that_makes_no_sense_is_refused_with_a_reason(redis_forebay, shared_redis, words):
    with pytest.raises(Exception) as refusal:
        redis_forebay.admin(f"SWITCHOVER {words}")
    assert str(refusal.value).strip()
    assert shared_redis.nodes[0].role() == "primary"


def test_a_dry_run_changes_nothing(redis_forebay, shared_redis):
    epochs = [sentinel.epoch() for sentinel in shared_redis.sentinels]
    redis_forebay.admin("SWITCHOVER cache DRY RUN")
    assert shared_redis.nodes[0].role() == "primary"
    assert [sentinel.epoch() for sentinel in shared_redis.sentinels] == epochs


# -- crashes --------------------------------------------------------------------------------------------------------


def assert_lost_only_at_the_end(verdict, died):
    """What is lost was acknowledged just before the primary died: the replica had not received it yet."""
    early = [entry for entry in verdict.lost if not died - 1 < entry.answered < died + 1]
    assert not early, f"lost, but not acknowledged just before the crash: {early[:10]}\n{verdict}"


def assert_loss_is_told(forebay, new, verdict):
    """SHOW EVENTS has what the crash cost, and not less than it did."""
    rows = [row for row in forebay.admin("SHOW EVENTS") if row["event"] == "failover_loss"]
    assert rows and rows[0]["node"] == forebay.name_of(new), f"no event tells what the change of primary has cost: {rows}"
    # Either it is admitted that the end of the old primary was not seen, or the bytes are counted.
    counted = [int(row["detail"].split()[0]) for row in rows if row["detail"][0].isdigit() and "is not known" not in row["detail"]]
    assert not (verdict.lost and counted) or max(counted) > 0, f"{verdict}\nwere lost, and told was {rows}"


def test_a_killed_primary_loses_no_more_than_its_replica_had_not_received(served, name):
    group, forebay = served
    old = group.primary
    with SentinelEvents(group) as events, Ledger(forebay.redis(), name) as ledger:
        died = time.monotonic()
        old.kill()
        new = group.wait_failover(old, timeout=60)
        switched = events.first("+switch-master")
        ledger.wait_acknowledged(100)
        old.start()
        settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("kill -9 of the primary", ledger, verdict, switched)
    verdict.assert_sound()
    assert_lost_only_at_the_end(verdict, died)
    assert_flowing(ledger, switched)
    assert_loss_is_told(forebay, new, verdict)


def test_a_frozen_primary_that_wakes_gets_no_writes(served, name):
    group, forebay = served
    old = group.primary
    with SentinelEvents(group) as events, Ledger(forebay.redis(), name) as ledger:
        died = time.monotonic()
        old.pause()
        group.wait_failover(old, timeout=60)
        switched = events.first("+switch-master")
        ledger.wait_acknowledged(100)
        old.resume()  # and it says for some ten seconds that it is the primary
        new = settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("SIGSTOP of the primary, SIGCONT after the failover", ledger, verdict, switched)
    verdict.assert_sound()
    assert_lost_only_at_the_end(verdict, died)
    assert_flowing(ledger, switched)
    assert_loss_is_told(forebay, new, verdict)


def test_a_primary_that_freezes_for_a_moment_only_pauses_its_clients(served, name):
    group, forebay = served
    old = group.primary
    with Ledger(forebay.redis(), name) as ledger:
        old.pause()
        begin = time.monotonic()
        wait_until(lambda: time.monotonic() - begin > 0.7, 5, "less than down-after")
        old.resume()
        ledger.wait_acknowledged(200)
    verdict = ledger.judge(old)
    told("SIGSTOP for 0.7 s", ledger, verdict)
    assert group.primary is old
    verdict.assert_sound()
    verdict.assert_nothing_lost()


# -- Sentinels that fail ----------------------------------------------------------------------------------------------


def test_the_leading_sentinel_is_killed_in_the_middle_of_a_failover(new_redis, start_forebay, name):
    group = new_redis(failover_timeout=2)  # the next attempt comes after twice that
    forebay = start_forebay(redis=[group.service(hold=HOLD)])
    old = group.primary
    with SentinelEvents(group) as events, Ledger(forebay.redis(), name) as ledger:
        died = time.monotonic()
        old.kill()
        events.first("+elected-leader")
        leader = wait_until(group.leader, 10, "a leader", 0.005)
        leader.kill()
        new = group.wait_failover(old, timeout=60)
        ledger.wait_acknowledged(100)
        old.start()
        settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("kill -9 of the primary and of the leading Sentinel", ledger, verdict)
    verdict.assert_sound()
    assert_lost_only_at_the_end(verdict, died)
    assert_loss_is_told(forebay, new, verdict)
    assert len(leader.log()) > 0 and not leader.is_running()


def test_a_sentinel_that_has_missed_the_failover_is_not_believed(served, name):
    group, forebay = served
    stale, other, _ = group.sentinels  # Forebay's first
    old = group.primary
    with Ledger(forebay.redis(), name) as ledger:
        stale.pause()
        group.failover(by=1)
        wait_until(lambda: other.primary_port() != old.port, 30, "the others to name another primary")
        new = group.node_at(other.primary_port())
        ledger.wait_acknowledged(50)
        stale.resume()
        settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("SENTINEL FAILOVER with one stale Sentinel", ledger, verdict)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


def test_a_majority_that_is_gone_does_not_stop_writes(served, name):
    group, forebay = served
    with Ledger(forebay.redis(), name) as ledger:
        for sentinel in group.sentinels[:2]:
            sentinel.kill()
        ledger.wait_acknowledged(300)
    verdict = ledger.judge(group.primary)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


# -- what a client keeps ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["SENTINEL FAILOVER", "SWITCHOVER", "kill"])
def change(request, served):
    """(group, Forebay, a change of the primary that returns when the new one is known)"""
    group, forebay = served

    def run():
        old = group.primary
        if request.param == "SENTINEL FAILOVER":
            group.failover()
        elif request.param == "SWITCHOVER":
            forebay.admin("SWITCHOVER cache")
        else:
            old.kill()
        return group.wait_failover(old, timeout=60)
    return group, forebay, run


def test_a_client_keeps_its_protocol_its_database_and_its_name(change, name):
    _, forebay, run = change
    wire = forebay.redis().wire(timeout=60)
    wire.ask("HELLO", 3)
    replies = wire.pipeline(("SELECT", 3), ("CLIENT", "SETNAME", "me"), ("HSET", name, "f", "v"), ("WAIT", 2, 5000))
    assert replies == [b"OK", b"OK", 1, 2]
    number = wire.ask("CLIENT", "ID")
    run()
    replies = wire.pipeline(("HGETALL", name), ("CLIENT", "GETNAME"), ("CLIENT", "ID"), ("DBSIZE",))
    assert replies == [[(b"f", b"v")], b"me", number, 1]
    assert wire.ask("INCR", name + ":n") == 1


def test_a_transaction_that_had_not_reached_exec_runs_on_the_new_primary(change, name):
    _, forebay, run = change
    wire = forebay.redis().wire(timeout=60)
    assert wire.pipeline(("MULTI",), ("SET", name, 1), ("INCR", name)) == [b"OK", b"QUEUED", b"QUEUED"]
    new = run()
    assert wire.pipeline(("INCR", name), ("EXEC",)) == [b"QUEUED", [b"OK", 2, 3]]
    assert new.run("GET", name) == b"3"


def test_a_transaction_whose_watch_was_lost_does_not_run(change, name):
    _, forebay, run = change
    wire = forebay.redis().wire(timeout=60)
    replies = wire.pipeline(("SET", name, 1), ("WAIT", 2, 5000), ("WATCH", name), ("MULTI",), ("SET", name, 2))
    assert replies == [b"OK", 2, b"OK", b"OK", b"QUEUED"]
    new = run()
    reply = wire.ask("EXEC")
    assert reply is None or isinstance(reply, ReplyError), f"EXEC ran though the key may have changed: {reply!r}"
    assert new.run("GET", name) == b"1"
    assert wire.pipeline(("WATCH", name), ("MULTI",), ("SET", name, 3), ("EXEC",))[-1] == [b"OK"]


def test_a_blocked_client_waits_on_at_the_new_primary(change, name):
    group, forebay, run = change
    endpoint = forebay.redis()
    blocked = endpoint.wire(timeout=60)
    blocked.order("BLPOP", name, 0)
    wait_until(lambda: group.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    run()
    other = endpoint.wire(timeout=60)
    assert other.ask("RPUSH", name, "x") == 1
    reply = blocked.read()
    if isinstance(reply, ReplyError):  # the server died: who knows what it had popped
        assert reply.code == "UNKNOWN" and other.ask("LPOP", name) == b"x"
    else:
        assert reply == [name.encode(), b"x"] and other.ask("LLEN", name) == 0
    assert blocked.ask("PING") == b"PONG"


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscriber_hears_what_is_published_after_the_change(change, name, protocol):
    _, forebay, run = change
    endpoint = forebay.redis()
    listener, sender = endpoint.wire(timeout=60), endpoint.wire(timeout=60)
    listener.ask("HELLO", protocol)
    assert listener.ask("SUBSCRIBE", name)[2] == 1 and listener.ask("PSUBSCRIBE", name + ":*")[2] == 2
    run()

    def is_heard():
        # Without a word about it: the server publishes to replicas too, and counts only its own subscribers.
        sender.ask("PUBLISH", name, "there?")
        return not listener.nothing_comes(0.1)
    wait_until(is_heard, 30, "the subscriber to hear something again")
    sender.pipeline(*(("PUBLISH", name, n) for n in range(100)), ("PUBLISH", name + ":x", "end"))
    heard = [listener.read()]
    while heard[-1][-1] != b"end":
        heard.append(listener.read())
    assert {message[0] for message in heard[:-1]} == {b"message"}, "no second confirmation"
    assert [message[2] for message in heard[:-1] if message[2] != b"there?"] == [b"%d" % n for n in range(100)]
    assert heard[-1][0] == b"pmessage"
    assert protocol == 2 or all(isinstance(message, Push) for message in heard)


TRACKED = {"what it reads": ["CLIENT TRACKING ON"], "prefixes": [f"CLIENT TRACKING ON BCAST PREFIX {letter}" for letter in "ab"]}


@pytest.mark.parametrize("requests", TRACKED.values(), ids=TRACKED.keys())
def test_who_tracks_keys_is_told_that_all_may_have_changed_and_tracks_on(change, requests):
    _, forebay, run = change
    wire, other = forebay.redis().wire(timeout=60), forebay.redis().wire(timeout=60)
    wire.ask("HELLO", 3)
    for request in requests:
        assert wire.ask(*request.split()) == b"OK"
    assert wire.ask("MGET", "a", "b") == [None, None]
    run()
    assert wire.read() == [b"invalidate", None]
    reply = wire.ask("MGET", "a", "b")
    while isinstance(reply, Push):  # once for each connection that was lost meanwhile
        assert reply == [b"invalidate", None]
        reply = wire.read()
    assert reply == [None, None]
    for key in "ab":
        assert other.ask("SET", key, 1) == b"OK"
        assert wire.read() == [b"invalidate", [key.encode()]]
    assert wire.pipeline(("CLIENT", "TRACKING", "OFF"), ("GET", "a")) == [b"OK", b"1"]


def test_who_monitors_goes_on_at_the_new_primary(redis_group, start_forebay, name):
    forebay = start_forebay(redis=[redis_group.service(hold=HOLD, admin_commands={"default": ["monitor"]})])
    wire, other = forebay.redis().wire(timeout=60), forebay.redis().wire(timeout=60)
    assert wire.ask("MONITOR") == b"OK"
    old = redis_group.primary
    forebay.admin("SWITCHOVER cache")
    redis_group.wait_failover(old, timeout=60)

    def is_shown():
        other.ask("GET", name)
        return not wire.nothing_comes(0.1)
    wait_until(is_shown, 30, "the monitor to show something again")
    assert other.ask("GET", f"{name}:last") is None
    while f"{name}:last".encode() not in wire.read():
        pass
