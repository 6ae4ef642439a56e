"""Replication slots that Forebay makes on the candidates before they are needed."""

import json

import pytest

from harness import wait_until
from test_failover_promote import events, new_primary, writes


def slots(node):
    """Physical slots of a node: the position that each keeps, by name."""
    rows = node.sql("select slot_name, (restart_lsn - '0/0'::pg_lsn)::bigint as kept from pg_replication_slots")
    return {row["slot_name"]: row["kept"] for row in rows}


def made(forebay):
    """What Forebay has on disk of the slots that it has made."""
    file = forebay.folder / "state" / "failover" / "main.slots.json"
    return json.loads(file.read_text()) if file.exists() else []


def wait_for_slots(cluster, expected, timeout=40):
    """Waits until the nodes have these slots, by name of the node."""
    def found():
        return {node.name: set(slots(node)) for node in cluster.nodes if node.is_running()}
    wait_until(lambda: found() == expected, timeout, f"the slots to be {expected}")


def change(forebay, **postgres):
    """Changes the configuration and reloads it."""
    forebay.change(**postgres)
    forebay.admin("RELOAD")


@pytest.fixture
def start(with_table, start_forebay):
    """Starts Forebay in front of it."""
    return lambda **failover: start_forebay(servers=with_table, failover={"mode": "promote", "hold": "30s", **failover})


BEFOREHAND = {"pg1": {"pg2", "pg3"}, "pg2": {"pg3"}, "pg3": {"pg2"}}


def test_every_candidate_has_the_slots_of_the_others_and_moves_them_on(with_table, start):
    start()
    wait_for_slots(with_table, BEFOREHAND)
    first, second, third = with_table.nodes
    before = slots(second)["pg3"]
    first.sql("insert into w select n, repeat('x', 1000) from generate_series(1, 2000) n")
    with_table.caught_up()
    end = third.value("select (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint")
    assert end > before
    wait_until(lambda: slots(second)["pg3"] >= end and slots(third)["pg2"] >= end, 40, "the slots to be moved on")


def test_another_mode_takes_them_away_and_no_others(with_table, start):
    second = with_table.nodes[1]
    second.sql("select pg_create_physical_replication_slot('backup', true)")
    forebay = start()
    wait_for_slots(with_table, {**BEFOREHAND, "pg2": {"pg3", "backup"}})
    change(forebay, failover={"mode": "follow"})
    wait_for_slots(with_table, {"pg1": {"pg2", "pg3"}, "pg2": {"backup"}, "pg3": set()})
    wait_until(lambda: made(forebay) == [], 10, "that to be on disk")
    # What somebody else has made is moved on, and stays when ours go.
    second.sql("select pg_create_physical_replication_slot('pg3', true)")
    kept = slots(second)["pg3"]
    change(forebay, failover={"mode": "promote"})
    wait_for_slots(with_table, {**BEFOREHAND, "pg2": {"pg3", "backup"}})
    with_table.nodes[0].sql("insert into w select n, repeat('x', 1000) from generate_series(1, 1000) n")
    wait_until(lambda: slots(second)["pg3"] > kept, 40, "the slot to be moved on")
    change(forebay, failover={"mode": "follow"})
    wait_for_slots(with_table, {"pg1": {"pg2", "pg3"}, "pg2": {"pg3", "backup"}, "pg3": set()})


def test_a_node_that_leaves_the_configuration_takes_its_slots_along(with_table, start):
    forebay = start()
    wait_for_slots(with_table, BEFOREHAND)
    left = [{"name": "main", "nodes": with_table.addresses[:2], "monitor_user": "steward", "monitor_password": "steward"}]
    change(forebay, cluster=left)
    wait_for_slots(with_table, {"pg1": {"pg2", "pg3"}, "pg2": set(), "pg3": set()})


def test_a_restart_does_not_forget_which_are_ours(with_table, start):
    forebay = start()
    wait_for_slots(with_table, BEFOREHAND)
    forebay.kill()
    forebay.start()
    change(forebay, failover={"mode": "off"})
    wait_for_slots(with_table, {"pg1": {"pg2", "pg3"}, "pg2": set(), "pg3": set()})


@pytest.mark.usefixtures("with_table")
def test_a_replica_that_was_away_finds_its_log_on_the_new_primary(cluster, start_forebay):
    for node in cluster.nodes:
        node.configure(wal_keep_size="0", max_wal_size="4MB", min_wal_size="2MB")
    cluster.caught_up()
    first, second, third = cluster.nodes
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "30s"})
    wait_for_slots(cluster, BEFOREHAND)
    third.pause()
    fill = "insert into w select n, repeat('x', 1000) from generate_series(%s::int, %s::int) n"
    for batch in range(10):  # the primary keeps what its slot says, the other replica has to do the same
        first.sql(fill, params=[batch * 1000, batch * 1000 + 999])
        first.sql("checkpoint")
        second.wait_replayed(first.position())
        second.sql("checkpoint")
    first.kill()
    assert new_primary(forebay, "pg1") == "pg2"
    assert writes(forebay, 100_000) == 100_000
    second.sql("checkpoint")
    second.sql("select pg_switch_wal()")
    second.sql("checkpoint")
    oldest = second.value("select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'")
    print(oldest, slots(second), events(forebay, "failover_done"))
    third.resume()
    wait_until(lambda: third.value("select count(*) from w where id = 100000") == 1, 30, "the replica to follow")
    assert third.value("select count(*) from w") == 10_001


def test_slots_that_do_not_fit_are_told(with_table, start):
    second = with_table.nodes[1]
    for name in ("one", "two"):
        second.sql(f"select pg_create_physical_replication_slot('{name}', true)")
    second.sql("alter system set max_replication_slots = 2")
    second.restart()
    with_table.caught_up()
    forebay = start()
    [why] = wait_until(lambda: events(forebay, "order_refused"), 30, "the refusal to be told")
    assert 'the replication slot "pg3" could not be made beforehand: all replication slots are in use' in why
    rows = {(row["check"], row["node"]): row for row in forebay.admin("SHOW HA CHECKS")}
    told = rows["max_replication_slots", "pg2"]
    assert told["result"] == "error" and "max_replication_slots = 4" in told["detail"], told
    assert rows["max_replication_slots", "pg3"]["result"] == "ok"
