"""Orders, reloads and restarts in the middle of a change of the primary, and programs that are asked at the wrong time."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import Relay, wait_until
from harness.scene import events, recorded, wait_step
from test_failover_promote import new_primary, writes


@pytest.fixture
def start(with_table, start_forebay):
    """Forebay in front of a cluster, with one row in its table."""
    def started(**failover):
        forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "30s", **failover})
        assert writes(forebay, 1) == 1
        with_table.caught_up()
        return with_table, forebay
    return started


@pytest.fixture
def slow(new_cluster, start_forebay):
    """The same with nodes that take their time to answer, so that a step can be met."""
    cluster = new_cluster(auth="trust")
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    relays = [Relay(node.port, delay=0.05) for node in cluster.nodes]

    def started(**of_nodes):
        nodes = [{"name": node.name, "host": "127.0.0.1", "port": relay.port, **of_nodes.get(node.name, {})}
                 for node, relay in zip(cluster.nodes, relays)]
        forebay = start_forebay(nodes=nodes, failover={"mode": "promote", "hold": "30s"})
        assert writes(forebay, 1) == 1
        cluster.caught_up()
        return cluster, forebay
    yield started
    for relay in relays:
        relay.destroy()


def ends(forebay):
    """Waits until nothing is under way."""
    wait_until(lambda: recorded(forebay)["job"] is None, 30, "the change to end")


# -- orders ---------------------------------------------------------------------------------------------------------


def test_a_pause_stops_a_failover_that_has_begun(slow):
    cluster, forebay = slow()
    cluster.nodes[0].kill()
    wait_step(forebay, "witnessing")
    forebay.admin("PAUSE FAILOVER main")
    [why] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be undone")
    assert why == "failover was paused by admin"
    ends(forebay)
    assert all(node.is_replica() for node in cluster.nodes[1:])
    forebay.admin("RESUME FAILOVER main")
    new_primary(forebay, "pg1")


def test_a_candidate_that_is_detached_is_not_promoted(slow):
    cluster, forebay = slow(pg3={"promote": False})
    cluster.nodes[0].kill()
    wait_step(forebay, "witnessing")
    forebay.admin("DETACH NODE pg2")
    wait_until(lambda: any("pg2: it may not become the primary" in why for why in events(forebay, "failover_undone")), 30,
               "the failover to be undone")
    assert all(node.is_replica() for node in cluster.nodes[1:])
    forebay.admin("ATTACH NODE pg2")
    assert new_primary(forebay, "pg1") == "pg2"


def test_a_candidate_that_is_detached_while_clients_drain_is_not_switched_to(slow):
    cluster, forebay = slow()
    with psycopg.connect(forebay.dsn()) as client, ThreadPoolExecutor(1) as pool:
        client.execute("insert into w (id) values (2)")
        ordered = pool.submit(forebay.admin, "SWITCHOVER main TO pg2 DRAIN '20s'")
        wait_until(lambda: forebay.admin("SHOW HA")[0]["phase"] == "changing", 20, "the switchover to begin")
        forebay.admin("DETACH NODE pg2")
        client.commit()
        with pytest.raises(psycopg.Error, match="pg2|no replica can be promoted"):
            ordered.result(40)
    assert cluster.nodes[1].is_replica() and writes(forebay, 3) == 3


def test_a_fenced_node_is_not_forced_in_while_the_primary_is_changed(start):
    cluster, forebay = start()
    first = cluster.nodes[0]
    first.kill()
    name = new_primary(forebay, "pg1")
    assert writes(forebay, 2) == 2
    first.start()
    wait_until(lambda: forebay.node("pg1")["state"] == "fenced", 20, "the old primary to be fenced")
    [second] = [node for node in cluster.nodes if node.name == name]
    [third] = [node for node in cluster.nodes[1:] if node is not second]
    wait_until(lambda: third.value("select count(*) from w") == 2 and forebay.node(third.name)["state"] == "up", 30,
               "the third node to follow")
    second.kill()
    wait_step(forebay, "witnessing", "freezing", "catching_up", "promoting")
    with pytest.raises(psycopg.Error, match="a change of the primary is under way|is the primary in service"):
        forebay.admin("ATTACH NODE pg1 FORCE")
    assert new_primary(forebay, name) == third.name
    assert writes(forebay, 3) == 3


def test_of_many_orders_at_once_one_changes_the_primary(start):
    cluster, forebay = start()
    cluster.nodes[0].kill()
    wait_until(lambda: forebay.admin("SHOW HA")[0]["primary"] is None, 20, "the primary to be missed")

    def order(_):
        try:
            return forebay.admin("FAILOVER main")
        except psycopg.Error:
            return None
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(order, range(36)))
    new_primary(forebay, "pg1")
    assert len(events(forebay, "failover_done")) == 1
    assert len(events(forebay, "failover_begun")) == len(events(forebay, "failover_undone")) + 1


def test_a_detached_primary_that_is_well_is_switched_without_loss(start):
    cluster, forebay = start()
    forebay.admin("DETACH NODE pg1")
    with pytest.raises(psycopg.Error, match="pg1 is well: SWITCHOVER main"):
        forebay.admin("FAILOVER main")
    forebay.admin("SWITCHOVER main TO pg2")
    assert new_primary(forebay, "pg1") == "pg2"
    assert writes(forebay, 2) == 2


def test_a_switchover_does_not_need_the_other_replica(start):
    cluster, forebay = start()
    cluster.nodes[2].kill()
    wait_until(lambda: forebay.node("pg3")["state"] == "down", 20, "the other replica to be missed")
    forebay.admin("SWITCHOVER main TO pg2")
    assert new_primary(forebay, "pg1") == "pg2"


def test_what_is_said_of_services_and_nodes_that_are_not_there(start):
    _, forebay = start()
    with pytest.raises(psycopg.Error, match='no service "nope"; there are main'):
        forebay.admin("SWITCHOVER nope")
    with pytest.raises(psycopg.Error, match="the weight of pg2 must be at most 4294967295"):
        forebay.admin("SET WEIGHT pg2 = 99999999999")


# -- configuration and restarts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "follow"])
def test_a_failover_does_not_go_on_in_another_mode(slow, mode):
    cluster, forebay = slow()
    cluster.nodes[0].pause()
    wait_step(forebay, "witnessing", "freezing")
    forebay.kill()
    forebay.change(failover={"mode": mode})
    forebay.start(wait="port")
    [why] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be undone")
    assert why == "failover.mode is not promote any more"
    ends(forebay)
    assert all(node.is_replica() for node in cluster.nodes[1:])
    cluster.nodes[0].resume()
    wait_until(lambda: forebay.node("pg1")["role"] == "primary" and forebay.node("pg1")["state"] == "up", 30, "pg1")
    assert writes(forebay, 2) == 2


def test_a_lost_primary_that_is_no_node_any_more_can_be_replaced(start):
    cluster, forebay = start(durability="strict")
    cluster.nodes[0].kill()
    wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")
    nodes = [{"name": node.name, "host": "127.0.0.1", "port": node.port} for node in cluster.nodes[1:]]
    forebay.change(cluster=[{**forebay.config["postgres"]["cluster"][0], "nodes": nodes}])
    forebay.reload()
    wait_until(lambda: len(forebay.admin("SHOW NODES")) == 2, 20, "the nodes to be two")
    forebay.admin("FAILOVER main TO pg2 ALLOW DATA LOSS")
    assert new_primary(forebay, "pg1") == "pg2" and writes(forebay, 2) == 2


def test_without_a_record_a_replica_can_be_promoted_by_name(start):
    cluster, forebay = start()
    forebay.kill()
    cluster.nodes[0].kill()
    for file in (forebay.folder / "state" / "failover").glob("main.json*"):
        file.write_text("{ damaged")
    forebay.start(wait="port")
    wait_until(lambda: forebay.node("pg2")["state"] == "up" and forebay.node("pg3")["state"] == "up", 20, "the replicas")
    with pytest.raises(psycopg.Error, match="no primary was ever known.*ALLOW DATA LOSS"):
        forebay.admin("FAILOVER main TO pg2")
    forebay.admin("FAILOVER main TO pg2 ALLOW DATA LOSS")
    assert new_primary(forebay, "pg1") == "pg2" and writes(forebay, 2) == 2


# -- programs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path):
    """A file that a program may write to, whoever runs it."""
    tmp_path.chmod(0o777)
    file = tmp_path / "told"
    file.touch()
    file.chmod(0o666)
    return file


def test_fence_command_is_asked_when_the_primary_is_lost_during_a_switchover(start, told):
    refuse = ["/bin/sh", "-c", f"echo fence $FAILED_NODE_NAME >> {told}; exit 1"]
    cluster, forebay = start(fence_command=refuse)
    first, _, third = cluster.nodes
    cluster.everywhere("create table dead as select n from generate_series(1, 1000) n")
    third.configure(max_standby_streaming_delay=-1)
    with third.connect(user="other", autocommit=False) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1 from pg_class")
        first.sql("delete from dead")
        first.sql("vacuum dead")
        held_up = "select wait_event from pg_stat_activity where backend_type = 'startup'"
        wait_until(lambda: str(third.value(held_up)).startswith("RecoveryConflict"), 20, "the read to hold up the replay")
        ordered = pool.submit(forebay.admin, "SWITCHOVER main TO pg3")
        wait_step(forebay, "catching_up")
        first.kill()
        with pytest.raises(psycopg.Error, match="the old primary may still write: fence_command"):
            ordered.result(60)
    assert "fence pg1" in told.read_text()
    assert all(node.is_replica() for node in cluster.nodes[1:])


def test_rejoin_command_is_not_for_a_primary_that_somebody_has_made(start, told):
    cluster, forebay = start(rejoin_command=["/bin/sh", "-c", f"echo rejoin $FAILED_NODE_NAME >> {told}"])
    forebay.admin("PAUSE FAILOVER main")
    cluster.nodes[1].promote()
    wait_until(lambda: forebay.node("pg2")["state"] == "fenced", 20, "pg2 to be fenced")
    forebay.admin("RESUME FAILOVER main")
    forebay.admin("SWITCHOVER main TO pg3")
    wait_until(lambda: events(forebay, "rejoin_done"), 20, "the program to run for the former primary")
    assert told.read_text() == "rejoin pg1\n"


def test_rejoin_command_is_not_for_the_primary_under_another_name(start, told):
    cluster, forebay = start(rejoin_command=["/bin/sh", "-c", f"echo rejoin $FAILED_NODE_NAME >> {told}"])
    known = forebay.config["postgres"]["cluster"][0]
    forebay.change(cluster=[{**known, "nodes": [*known["nodes"], f"localhost:{cluster.nodes[0].port}"]}])
    forebay.reload()
    wait_until(lambda: forebay.node("pg4")["state"] == "fenced", 20, "it to be fenced")
    assert writes(forebay, 2) == 2
    assert told.read_text() == "" and events(forebay, "rejoin_begun") == []


def test_a_server_under_two_names_is_told_as_that(with_table, start_forebay):
    nodes = [*with_table.addresses, f"localhost:{with_table.nodes[0].port}"]
    forebay = start_forebay(nodes=nodes, wait="port")
    told = lambda: any("pg1 and pg4 are one server: leave one of them in nodes" in row["detail"] for row in forebay.admin("SHOW EVENTS"))
    wait_until(told, 20, "what is wrong to be told")
