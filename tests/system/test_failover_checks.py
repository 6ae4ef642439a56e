"""What a promotion needs is checked before it is needed, and beside another manager nothing is promoted."""

import psycopg
import pytest

from harness import wait_until
from test_failover_promote import events, new_primary, writes

PATRONI = "Patroni heartbeat"


@pytest.fixture
def start(start_forebay):
    def begin(servers, **tables):
        failover = {"mode": "promote", "hold": "20s", **tables.pop("failover", {})}
        return start_forebay(servers=servers, failover=failover, **tables)
    return begin


def checks(forebay, check=None, node=None):
    """(check, node) to (result, detail)."""
    return {
        (row["check"], row["node"]): (row["result"], row["detail"])
        for row in forebay.admin("SHOW HA CHECKS") if check in (None, row["check"]) and node in (None, row["node"])}


def bad(forebay):
    """The checks of nodes that are not well, as (check, node, result)."""
    return {(check, node, result) for (check, node), (result, _) in checks(forebay).items() if node and result != "ok"}


def connected(node, name):
    """A session of a superuser on a node that calls itself so."""
    return psycopg.connect(
        host=str(node.folder), port=node.port, user="postgres", dbname="postgres", application_name=name, autocommit=True)


def test_nodes_that_are_set_up_by_the_book_are_well(cluster, start):
    forebay = start(cluster)
    wait_until(lambda: not bad(forebay), 15, "no check to complain", 0.2)
    for check in ("other_manager", "version", "rights", "rewind", "hot_standby", "recovery_target_timeline",
                  "wal_retrieve_retry_interval", "max_wal_senders", "max_replication_slots", "synchronous_standby_names",
                  "primary_conninfo"):
        assert {node for _, node in checks(forebay, check)} == {"pg1", "pg2", "pg3"}, check


def test_who_only_follows_needs_nothing_of_it(cluster, start):
    forebay = start(cluster, failover={"mode": "follow"})
    assert not checks(forebay, "rights") and not checks(forebay, "rewind")
    assert checks(forebay, "monitor_login")


def test_missing_rights_are_told_as_sql_that_mends_them(cluster, start):
    login = {"name": "main", "nodes": cluster.addresses, "monitor_user": "monitor", "monitor_password": "monitor"}
    forebay = start(cluster, cluster=[login])
    found = checks(forebay, "rights")
    assert {result for result, _ in found.values()} == {"error"} and len(found) == 3
    assert checks(forebay, "primary_conninfo", "pg2")["primary_conninfo", "pg2"][0] == "error"
    where, sql = found["rights", "pg2"][1].split(": ", 1)
    assert "on the primary" in where
    for statement in sql.split("; "):
        cluster.sql(statement, dbname="postgres")
    cluster.caught_up()
    assert {result for result, _ in checks(forebay, "rights").values()} == {"ok"}, "the SQL was not enough"
    assert {result for result, _ in checks(forebay, "primary_conninfo").values()} == {"ok"}
    # Enough for the real thing, too.
    forebay.admin("SWITCHOVER main")
    new_primary(forebay, "pg1")


@pytest.mark.parametrize("missing, sql", [
    ("revoke execute on function pg_promote(boolean, integer) from steward", "pg_promote(boolean, integer) TO steward"),
    ("revoke alter system on parameter primary_slot_name from steward", "ON PARAMETER primary_slot_name TO steward"),
    ("alter role steward noreplication", "ALTER ROLE steward REPLICATION"),
    ("revoke pg_signal_backend from steward", "GRANT pg_signal_backend TO steward"),
])
def test_each_right_is_asked_for(cluster, start, missing, sql):
    forebay = start(cluster)
    assert checks(forebay, "rights", "pg1")["rights", "pg1"][0] == "ok"
    cluster.sql(missing, dbname="postgres")
    result, detail = checks(forebay, "rights", "pg1")["rights", "pg1"]
    assert result == "error" and detail.endswith(sql), detail


def test_settings_that_hurt_are_told(new_cluster, start):
    cluster = new_cluster(settings={
        "wal_log_hints": "off", "wal_retrieve_retry_interval": "5s", "recovery_target_timeline": "current"})
    forebay = start(cluster)
    for check, result, way_out in [
        ("rewind", "warning", "ALTER SYSTEM SET wal_log_hints = on, and restart"),
        ("wal_retrieve_retry_interval", "warning", "ALTER SYSTEM SET wal_retrieve_retry_interval = '500ms'"),
        ("recovery_target_timeline", "error", "ALTER SYSTEM SET recovery_target_timeline = 'latest', and restart"),
    ]:
        for node in ("pg1", "pg2", "pg3"):
            found, detail = checks(forebay, check)[check, node]
            assert found == result and way_out in detail, (check, node, found, detail)


def test_room_for_the_other_nodes_is_counted(cluster, start):
    # A replica needs as many as the primary, so that the primary is the one to have fewer.
    cluster.nodes[0].sql("alter system set max_wal_senders = 2")
    cluster.nodes[0].sql("alter system set max_replication_slots = 2")
    cluster.nodes[0].restart()
    forebay = start(cluster)
    assert checks(forebay, "max_wal_senders", "pg1")["max_wal_senders", "pg1"][0] == "ok"
    last = cluster.nodes[2]
    last.sql("alter system set max_replication_slots = 1")
    last.restart()
    forebay.wait_node("pg3", state="up")
    result, detail = checks(forebay, "max_replication_slots", "pg3")["max_replication_slots", "pg3"]
    # pg2 uses one, the primary does not.
    assert result == "warning" and "max_replication_slots = 2" in detail, detail
    # A server with more slots than that would not start, and Forebay makes some.
    forebay.admin("PAUSE FAILOVER main")
    last.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
    last.sql("alter system set max_replication_slots = 0")
    last.restart()
    forebay.wait_node("pg3", state="up")
    assert checks(forebay, "max_replication_slots", "pg3")["max_replication_slots", "pg3"][0] == "error"


def test_synchronous_names_are_compared_and_wanted_by_strict(cluster, start):
    forebay = start(cluster)
    check = "synchronous_standby_names"
    assert {result for result, _ in checks(forebay, check).values()} == {"ok"}
    cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
    found = {node: result for (_, node), (result, _) in checks(forebay, check).items()}
    assert found == {"pg1": "ok", "pg2": "warning", "pg3": "warning"}
    forebay.change(failover={"durability": "strict"})
    forebay.reload()
    wait_until(lambda: checks(forebay, check)[check, "pg2"][0] == "error", 15, "strict to want them everywhere", 0.2)
    for node in cluster.nodes[1:]:
        node.configure(synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
    assert {result for result, _ in checks(forebay, check).values()} == {"ok"}


def test_a_connection_string_that_cannot_be_led_elsewhere_is_told_without_its_secrets(cluster, start):
    forebay = start(cluster)
    port = cluster.nodes[0].port
    cluster.nodes[1].configure(primary_conninfo=f"postgresql://replicator:geheim@127.0.0.1:{port}/?application_name=pg2")
    found = checks(forebay, "primary_conninfo")
    assert found["primary_conninfo", "pg2"][0] == "error" and found["primary_conninfo", "pg3"][0] == "ok"
    assert "geheim" not in str(found)


def test_beside_another_manager_nothing_is_promoted(with_table, start):
    forebay = start(with_table)
    assert writes(forebay, 1) == 1
    with connected(with_table.nodes[1], PATRONI):
        result, detail = checks(forebay, "other_manager", "pg2")["other_manager", "pg2"]
        assert result == "error" and "Patroni" in detail and "follow" in detail
        for order in ("SWITCHOVER main", "SWITCHOVER main DRY RUN", "FAILOVER main ALLOW DATA LOSS"):
            with pytest.raises(psycopg.Error, match="Patroni.*on pg2"):
                forebay.admin(order)
        with_table.nodes[0].kill()
        [why] = wait_until(lambda: events(forebay, "failover_refused"), 30, "the failover to be refused")
        assert "Patroni" in why and "follow" in why
        for order in ("FAILOVER main", "PROMOTE pg3"):
            with pytest.raises(psycopg.Error, match="Patroni.*on pg2"):
                forebay.admin(order)
        # Long after the primary is lost, as probes count.
        probes = int(forebay.admin("SHOW POOL_HEALTH_CHECK_STATS")[1]["total_count"])
        wait_until(lambda: int(forebay.admin("SHOW POOL_HEALTH_CHECK_STATS")[1]["total_count"]) > probes + 10, 30, "ten more probes")
        assert len(events(forebay, "failover_refused")) == 1, "it is told once"
        assert not events(forebay, "failover_begun")
        assert all(node.is_replica() for node in with_table.nodes[1:])
    # Once it is gone, an order is enough to look again.
    wait_until(lambda: not with_table.nodes[1].sql(
        "select from pg_stat_activity where application_name = %s", params=[PATRONI]), 10, "its session to end")
    try:
        forebay.admin("FAILOVER main")
    except psycopg.Error as error:
        # Nothing stands in the way of the automatic one any more: it may be the first.
        assert "under way" in str(error) or "is well" in str(error), error
    new_primary(forebay, "pg1")
    assert writes(forebay, 2) == 2


def test_of_two_instances_one_promotes_and_the_other_takes_its_place(with_table, start):
    def claim():
        return with_table.primary.value("select count(*) from pg_locks where locktype = 'advisory' and classid = 1179603525")

    first = start(with_table)
    wait_until(claim, 15, "the first instance to have the claim")
    second = start(with_table)
    wait_until(lambda: events(second, "promotion_claim"), 15, "the second to see it")
    with_table.nodes[0].kill()
    new = new_primary(first, "pg1")
    assert new_primary(second, "pg1") == new
    assert "another instance" in wait_until(lambda: events(second, "failover_refused"), 15, "the second to refuse")[0]
    assert not events(second, "failover_begun")
    assert writes(first, 1) == 1 and writes(second, 2) == 2
    first.kill()
    wait_until(lambda: len(events(second, "promotion_claim")) == 2, 30, "the second to have the claim")
    with_table.rebuild(with_table.nodes[0])
    second.wait_node("pg1", role="replica", state="up")
    with_table.caught_up()
    with_table.primary.kill()
    new_primary(second, new)
    assert events(second, "failover_begun") and writes(second, 3) == 3


def test_another_manager_that_was_there_first_is_seen_at_the_start(with_table, start):
    with connected(with_table.nodes[2], PATRONI):
        forebay = start(with_table)
        assert writes(forebay, 1) == 1
        with_table.nodes[0].kill()
        wait_until(lambda: events(forebay, "failover_refused"), 30, "the failover to be refused")
        # The other one promotes, and is followed.
        with_table.nodes[1].promote()
        assert new_primary(forebay, "pg1") == "pg2"
        assert writes(forebay, 2) == 2
        assert not events(forebay, "failover_begun")


@pytest.mark.parametrize("sign, who", [
    ("create role rds_superuser", "Amazon RDS"),
    ("create role cnpg_pooler_pgbouncer", "CloudNativePG"),
    ("create role pgautofailover_replicator", "pg_auto_failover"),
    ("create schema repmgr", "repmgr"),
])
def test_what_another_manager_leaves_in_the_catalogs_shows(cluster, start, sign, who):
    forebay = start(cluster)
    assert {result for result, _ in checks(forebay, "other_manager").values()} == {"ok"}
    cluster.sql(sign, dbname="postgres")
    cluster.caught_up()
    found = checks(forebay, "other_manager")
    assert {result for result, _ in found.values()} == {"error"} and who in found["other_manager", "pg3"][1]
    with pytest.raises(psycopg.Error, match=who):
        forebay.admin("SWITCHOVER main")


def test_no_ordinary_client_can_stop_a_failover_by_its_name(with_table, start):
    forebay = start(with_table)
    with psycopg.connect(with_table.nodes[1].dsn(), application_name=PATRONI):
        assert checks(forebay, "other_manager", "pg2")["other_manager", "pg2"][0] == "ok"
        forebay.admin("SWITCHOVER main TO pg3")
        assert new_primary(forebay, "pg1") == "pg3"


def test_an_order_is_refused_beside_another_manager_in_every_mode(cluster, start):
    forebay = start(cluster, failover={"mode": "follow"})
    with connected(cluster.nodes[0], PATRONI):
        with pytest.raises(psycopg.Error, match="Patroni.*on pg1"):
            forebay.admin("SWITCHOVER main")
    assert not cluster.nodes[0].is_replica() and cluster.nodes[0].value("show default_transaction_read_only") == "off"
