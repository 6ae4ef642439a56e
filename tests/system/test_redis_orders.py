"""Orders about Redis nodes and failover: paused and resumed, kept over reloads and restarts, and how a switchover ends."""

import json
import threading

import psycopg
import pytest

from harness import wait_until
from harness.redis_ledger import Ledger
from harness.waiting import stays

HOLD = "40s"


@pytest.fixture
def served(redis_group, start_forebay):
    """(group, Forebay in front of it)"""
    return redis_group, start_forebay(redis=[redis_group.service(hold=HOLD)])


def phase(forebay, service="cache"):
    """What SHOW HA says of a service."""
    return next(row for row in forebay.admin("SHOW HA") if row["service"] == service)["phase"]


def events(forebay, event):
    """Rows of SHOW EVENTS of this name."""
    return [row for row in forebay.admin("SHOW EVENTS") if row["event"] == event]


def restart(forebay, start_forebay):
    """Another instance with the same configuration and the same folder for its state."""
    forebay.kill()
    services = [{key: value for key, value in service.items() if key != "listen"} for service in forebay.config["redis"]["service"]]
    return start_forebay(nodes=[], wait="port", config={"redis": {"service": services}, "general": forebay.config["general"]})


# -- PAUSE FAILOVER ---------------------------------------------------------------------------------------------------


def test_a_failover_behind_a_pause_is_followed_after_it(served, name):
    group, forebay = served
    old = group.primary
    called = forebay.name_of(old)
    forebay.admin("PAUSE FAILOVER cache")
    assert phase(forebay) == "paused"
    assert [(row["service"], row["detail"]) for row in events(forebay, "failover_paused")] == [("cache", "by admin")]
    checks = {(row["check"], row["result"]) for row in forebay.admin("SHOW HA CHECKS") if row["service"] == "cache"}
    assert ("failover", "warning") in checks
    with Ledger(forebay.redis(), name) as ledger:
        group.failover()
        new = group.wait_failover(old, timeout=60)
        # It is shown as what it says, and takes nothing.
        forebay.wait_node(forebay.name_of(new), timeout=30, role="primary", state="fenced")
        forebay.wait_node(called, timeout=60, role="replica")
        assert not events(forebay, "primary_changed") and not events(forebay, "node_fenced")[1:]
        waiting = [row for row in forebay.admin("SHOW QUEUE") if row["service"] == "cache"]
        assert sum(int(row["waiting"]) for row in waiting) > 0, "clients wait, nobody is sent to the new primary"
        forebay.admin("RESUME FAILOVER")
        ledger.wait_acknowledged(50)
    assert phase(forebay) == "serving"
    assert [row["detail"] for row in events(forebay, "failover_resumed")] == ["by admin"]
    group.caught_up()
    # The old primary went on for the moment that Sentinels leave it writable: that is what a pause means.
    ledger.judge(new).assert_sound()


def test_a_pause_of_what_is_paused_is_refused_with_the_reason(redis_forebay):
    for words, reason in [
        ("RESUME FAILOVER cache", "failover of cache is not paused"), ("RESUME FAILOVER", "failover is paused nowhere"),
        ("PAUSE FAILOVER nosuch", "no such service: nosuch"),
    ]:
        with pytest.raises(psycopg.Error, match=reason):
            redis_forebay.admin(words)
    redis_forebay.admin("PAUSE FAILOVER")
    try:
        for words, reason in [
            ("PAUSE FAILOVER cache", "failover of cache is paused already"), ("PAUSE FAILOVER", "paused everywhere already"),
            ("SWITCHOVER cache", "failover of cache is paused by admin"),
        ]:
            with pytest.raises(psycopg.Error, match=reason):
                redis_forebay.admin(words)
        with pytest.raises(psycopg.Error, match="PAUSE FAILOVER needs an admin"):
            redis_forebay.admin("PAUSE FAILOVER", user="viewer", password="viewer")
    finally:
        redis_forebay.admin("RESUME FAILOVER cache")


def test_a_pause_is_about_both_kinds_of_service(shared_cluster, shared_redis, start_forebay):
    forebay = start_forebay(servers=shared_cluster, redis=[shared_redis.service()])
    forebay.admin("PAUSE FAILOVER")
    assert (phase(forebay), phase(forebay, "main")) == ("paused", "paused")
    forebay.admin("RESUME FAILOVER main")
    assert (phase(forebay), phase(forebay, "main")) == ("paused", "serving")
    forebay.kill()
    again = start_forebay(servers=shared_cluster, redis=[shared_redis.service()], config={"general": forebay.config["general"]})
    assert (phase(again), phase(again, "main")) == ("paused", "serving")


# -- what lasts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["sentinels", "nodes"])
def test_orders_outlive_a_restart(new_redis, start_forebay, by):
    group = new_redis(sentinels=3 if by == "sentinels" else 0)
    forebay = start_forebay(redis=[group.service(by=by)])
    primary, detached, heavy = group.nodes
    forebay.admin(f"DETACH NODE '{detached.address}'")
    forebay.admin(f"DRAIN NODE {forebay.name_of(heavy)}")
    forebay.admin(f"SET WEIGHT '{heavy.address}' = 7")
    forebay.admin("PAUSE FAILOVER")
    forebay.reload()
    wait_until(lambda: events(forebay, "reloaded"), 10, "the reload")

    def holds(instance):
        shown = {int(row["port"]): (row["state"], int(row["weight"])) for row in instance.admin("SHOW NODES")}
        return shown == {primary.port: ("up", 1), detached.port: ("detached", 1), heavy.port: ("draining", 7)}
    wait_until(lambda: holds(forebay), 20, "the orders to hold after a reload")
    again = restart(forebay, start_forebay)
    wait_until(lambda: holds(again), 20, "the orders to hold after a restart")
    assert phase(again) == "paused"
    for event in ("node_detached", "node_draining", "failover_paused"):
        assert "by admin, before the restart" in [row["detail"] for row in events(again, event)], event
    assert again.redis().client().set("k", "v"), "a paused service is served all the same"
    for node in (detached, heavy):
        again.admin(f"ATTACH NODE '{node.address}'")
    again.admin(f"SET WEIGHT '{heavy.address}' = 1")
    again.admin("RESUME FAILOVER cache")
    third = restart(again, start_forebay)
    wait_until(lambda: third.nodes_are_up() and phase(third) == "serving", 20, "what was taken back to stay so")
    assert {int(row["weight"]) for row in third.admin("SHOW NODES")} == {1}


def test_a_weight_of_a_postgres_node_outlives_a_restart_until_the_file_has_another(shared_cluster, start_forebay):
    forebay = start_forebay(servers=shared_cluster)
    forebay.admin("SET WEIGHT pg2 = 5")
    forebay.kill()
    state = {"general": forebay.config["general"]}
    again = start_forebay(servers=shared_cluster, config=state)
    assert int(again.node("pg2")["weight"]) == 5
    again.kill()
    tables = [dict(zip(("host", "port"), (a.rsplit(":", 1)[0], int(a.rsplit(":", 1)[1])))) for a in shared_cluster.addresses]
    tables[1]["weight"] = 2
    third = start_forebay(nodes=tables, config=state)
    assert int(third.node("pg2")["weight"]) == 2
    third.kill()
    fourth = start_forebay(servers=shared_cluster, config=state)
    assert int(fourth.node("pg2")["weight"]) == 1, "an order that the file has overtaken is void"


@pytest.mark.parametrize("text", ["{", '{"version": 99, "nodes": []}', '["of another program"]'])
def test_a_foreign_file_is_told_of_and_kept(shared_redis, start_forebay, text, tmp_path):
    (tmp_path / "redis-nodes.json").write_text(text)
    forebay = start_forebay(redis=[shared_redis.service()], config={"general": {"state_dir": str(tmp_path)}})
    (row,) = events(forebay, "state_damaged")
    assert "redis-nodes.json.damaged" in row["detail"]
    assert (tmp_path / "redis-nodes.json.damaged").read_text() == text
    forebay.admin("SET WEIGHT redis2 = 2")
    assert json.loads((tmp_path / "redis-nodes.json").read_text())["nodes"][0]["weight"]["is"] == 2


def test_an_order_that_cannot_be_kept_is_not_carried_out(shared_redis, start_forebay, tmp_path):
    (tmp_path / "redis-nodes.json.new").mkdir()
    forebay = start_forebay(redis=[shared_redis.service()], config={"general": {"state_dir": str(tmp_path)}})
    for words in ("DETACH NODE redis2", "SET WEIGHT redis2 = 2", "PAUSE FAILOVER cache"):
        with pytest.raises(psycopg.Error, match="nothing changed.*state_dir"):
            forebay.admin(words)
    assert (forebay.node("redis2")["state"], int(forebay.node("redis2")["weight"])) == ("up", 1)
    assert phase(forebay) == "serving"


# -- SWITCHOVER -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, expected", [
    ("MODE sideways", "fast or clean"), ("MODE", "fast or clean"), ("DRAIN 5", "a time in quotes"), ("SOON", "TO, MODE, DRAIN"),
])
def test_unknown_words_are_told(redis_forebay, words, expected):
    with pytest.raises(psycopg.errors.SyntaxError, match=expected):
        redis_forebay.admin(f"SWITCHOVER cache {words}")


class Order(threading.Thread):
    """A command of the console that takes its time."""

    def __init__(self, forebay, words):
        super().__init__(daemon=True)
        self.forebay, self.words, self.problem = forebay, words, None
        self.start()

    def run(self):
        try:
            self.forebay.admin(self.words)
        except psycopg.Error as problem:
            self.problem = problem

    def wait(self):
        """Its end; raises what it was refused with."""
        self.join(60)
        assert not self.is_alive(), f"{self.words} takes too long"
        if self.problem:
            raise self.problem


def test_a_clean_switchover_waits_for_the_transactions_that_have_begun(served, name):
    group, forebay = served
    old, endpoint = group.primary, forebay.redis()
    begun, late, plain = (endpoint.wire(timeout=60) for _ in range(3))
    assert begun.pipeline(("SET", name, 1), ("WATCH", name)) == [b"OK", b"OK"]
    order = Order(forebay, "SWITCHOVER cache MODE clean DRAIN '30s'")
    wait_until(lambda: events(forebay, "switchover_begun"), 10, "the switchover to begin")

    def is_waiting():
        late.order("WATCH", name + ":late")
        if late.nothing_comes(0.2):
            return True
        late.read()
        late.ask("UNWATCH")
        return False
    wait_until(is_waiting, 10, "a new transaction to wait")
    assert plain.ask("INCR", name + ":n") == 1, "everything else goes on"
    assert old.role() == "primary"
    assert begun.pipeline(("MULTI",), ("INCR", name), ("EXEC",))[-1] == [2]
    order.wait()
    assert late.read(timeout=30) == b"OK"
    assert late.pipeline(("MULTI",), ("INCR", name), ("EXEC",))[-1] == [3]
    assert group.primary is not old and group.primary.run("GET", name) == b"3"


def test_a_clean_switchover_gives_up_rather_than_break_a_transaction(served, name):
    group, forebay = served
    old, endpoint = group.primary, forebay.redis()
    idle, late = endpoint.wire(timeout=60), endpoint.wire(timeout=60)
    assert idle.pipeline(("SET", name, 1), ("WATCH", name)) == [b"OK", b"OK"]
    with pytest.raises(psycopg.Error, match="1 clients? .*between WATCH and EXEC"):
        forebay.admin("SWITCHOVER cache MODE clean DRAIN '300ms'")
    assert old.role() == "primary" and len(events(forebay, "switchover_undone")) == 1
    assert late.pipeline(("WATCH", name), ("UNWATCH",)) == [b"OK", b"OK"], "transactions begin again"
    assert idle.pipeline(("MULTI",), ("INCR", name), ("EXEC",))[-1] == [2]


def test_a_fast_switchover_fails_the_transactions_that_have_begun(served, name):
    group, forebay = served
    old, wire = group.primary, forebay.redis().wire(timeout=60)
    assert wire.pipeline(("SET", name, 1), ("WATCH", name)) == [b"OK", b"OK"]
    forebay.admin("SWITCHOVER cache MODE fast DRAIN '30s'")
    [begun] = events(forebay, "switchover_begun")
    assert begun["detail"].startswith(f"from {forebay.name_of(old)} to ") and "possible" not in begun["detail"]
    with pytest.raises(psycopg.Error, match="Sentinel .* last change.* some seconds: try again then"):
        forebay.admin("SWITCHOVER cache")
    assert events(forebay, "primary_lost") == [] and len(events(forebay, "primary_leaving")) == 1
    assert " WARN " not in forebay.log(), "what was ordered is no bad news"
    assert wire.pipeline(("MULTI",), ("INCR", name), ("EXEC",))[-1] is None
    assert group.primary is not old and group.primary.run("GET", name) == b"1"


def test_a_blocked_client_does_not_hold_up_a_clean_switchover(served, name):
    group, forebay = served
    old, endpoint = group.primary, forebay.redis()
    blocked, other = endpoint.wire(timeout=60), endpoint.wire(timeout=60)
    blocked.order("BLPOP", name, 0)
    wait_until(lambda: old.info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    forebay.admin("SWITCHOVER cache MODE clean DRAIN '5s'")
    assert group.primary is not old
    assert other.ask("RPUSH", name, "x") == 1 and blocked.read(timeout=30) == [name.encode(), b"x"]


def test_a_sentinel_that_hangs_is_not_asked_to_fail_over(served, name):
    group, forebay = served
    old, hangs = group.primary, group.sentinels[0]
    with Ledger(forebay.redis(), name) as ledger:
        hangs.pause()
        try:
            # Forebay holds it for alive for some seconds more.
            forebay.admin("SWITCHOVER cache")
        finally:
            hangs.resume()
        new = group.wait_failover(old, timeout=60)
        ledger.wait_acknowledged(50)
    group.caught_up()
    verdict = ledger.judge(new)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


def test_a_wanted_replica_is_promoted_though_the_first_sentinel_hangs(served):
    group, forebay = served
    wanted = group.nodes[2]
    group.sentinels[0].pause()
    try:
        forebay.admin(f"SWITCHOVER cache TO '{wanted.address}'")
    finally:
        group.sentinels[0].resume()
    assert wanted.role() == "primary"
    stays(lambda: wanted.role() == "primary", 0.5, "the wanted one to stay the primary", 0.05)
