"""Which node of several: roles, health, lag, weights and ways to choose."""

from collections import Counter

import pytest

from harness import Relay, wait_until, wire
from harness.where import inside_a_read, ran_on

EVENTUAL = {"consistency": "eventual", "balance": "round_robin"}


def reads(client, count):
    """On which nodes `count` reads of a client ran."""
    nodes = Counter()
    for _ in range(count):
        client.run("select 1")
        nodes[ran_on(client)] += 1
    return nodes


def warmed(client, *expected):
    """The same client, once each of these nodes has its connections and its share."""
    wait_until(lambda: set(reads(client, 10)) == set(expected), 10, f"reads on {expected}")
    return client


def weighted(cluster, *weights):
    return [{"host": "127.0.0.1", "port": node.port, "weight": weight} for node, weight in zip(cluster.nodes, weights)]


# -- ways to choose -----------------------------------------------------------------------------------------------


def test_round_robin_takes_replicas_in_turn(start_forebay):
    forebay = start_forebay(routing=EVENTUAL, config={"general": {"threads": 1}})
    forebay.wait_measured()
    nodes = reads(warmed(forebay.wire(), "pg2", "pg3"), 40)
    assert set(nodes) == {"pg2", "pg3"} and abs(nodes["pg2"] - nodes["pg3"]) <= 4, nodes


def test_round_robin_minds_the_weights(start_forebay, shared_cluster):
    forebay = start_forebay(
        nodes=weighted(shared_cluster, 1, 1, 3), routing=EVENTUAL, config={"general": {"threads": 1}})
    nodes = reads(warmed(forebay.wire(), "pg2", "pg3"), 80)
    assert 50 <= nodes["pg3"] <= 70 and nodes["pg2"] + nodes["pg3"] == 80, f"weights 1 and 3 gave {nodes}"


@pytest.mark.parametrize("balance", ["random", "least_connections"])
def test_weights_hold_for_the_other_ways_to_choose(start_forebay, shared_cluster, balance):
    forebay = start_forebay(
        nodes=weighted(shared_cluster, 1, 1, 4), routing={**EVENTUAL, "balance": balance},
        config={"general": {"threads": 1}})
    nodes = reads(warmed(forebay.wire(), "pg2", "pg3"), 200)
    assert 130 <= nodes["pg3"] <= 185 and nodes["pg2"] + nodes["pg3"] == 200, f"weights 1 and 4 gave {nodes}"


def test_random_uses_every_replica(start_forebay):
    nodes = reads(warmed(start_forebay(routing={**EVENTUAL, "balance": "random"}).wire(), "pg2", "pg3"), 60)
    assert set(nodes) == {"pg2", "pg3"} and min(nodes.values()) >= 10, nodes


def test_source_keeps_one_address_on_one_node(start_forebay):
    forebay = start_forebay(routing={**EVENTUAL, "balance": "source"}, config={"general": {"threads": 1}})
    # Until the address' own node has a connection, others help out.
    wait_until(lambda: len(reads(forebay.wire(), 8)) == 1 and len(reads(forebay.wire(), 8)) == 1, 10, "its connection")
    assert len(sum((reads(forebay.wire(), 8) for _ in range(6)), Counter())) == 1


def test_least_connections_avoids_the_busy_replica(start_forebay):
    forebay = start_forebay(routing={**EVENTUAL, "balance": "least_connections"}, config={"general": {"threads": 1}})
    busy = forebay.wire()
    taken = inside_a_read(busy)
    other = forebay.wire()
    wait_until(lambda: set(reads(other, 1)) == {"pg2", "pg3"} - {taken}, 10, "a connection to the other replica")
    nodes = reads(other, 20)
    assert set(nodes) == {"pg2", "pg3"} - {taken}, f"{taken} has a busy connection, the other is free, but {nodes}"
    busy.run("commit")


def test_a_node_of_weight_zero_takes_no_reads(start_forebay, shared_cluster):
    forebay = start_forebay(nodes=weighted(shared_cluster, 1, 0, 1), routing=EVENTUAL)
    assert set(reads(forebay.wire(), 20)) == {"pg3"}


def test_set_weight_changes_the_share_at_once(start_forebay):
    forebay = start_forebay(routing=EVENTUAL)
    forebay.admin("SET WEIGHT pg3 = 0")
    wait_until(lambda: set(reads(forebay.wire(), 5)) == {"pg2"}, 5, "the new weight to hold")
    assert int(forebay.node("pg3")["weight"]) == 0


# -- roles --------------------------------------------------------------------------------------------------------


def test_roles_are_found_in_any_order_of_the_nodes(start_forebay, shared_cluster, table):
    forebay = start_forebay(nodes=list(reversed(shared_cluster.addresses)))
    roles = {int(row["port"]): row["role"] for row in forebay.admin("SHOW NODES")}
    assert roles == {node.port: "replica" if node.is_replica() else "primary" for node in shared_cluster.nodes}
    client = forebay.wire()
    client.run(f"insert into {table} (v) values ('x')")
    assert ran_on(client) == "pg3", "the third in the file is the primary"


def test_a_single_node_serves_reads_and_writes(start_forebay, shared_cluster, table):
    client = start_forebay(nodes=shared_cluster.addresses[:1]).wire()
    client.run(f"insert into {table} (v) values ('x')")
    assert client.value(f"select count(*) from {table}") == "1"


def test_the_node_table_shows_position_and_timeline(forebay, shared_cluster):
    rows = forebay.admin("SHOW NODES")
    assert {row["service"] for row in rows} == {"main"} and {row["kind"] for row in rows} == {"postgres"}
    assert {str(row["timeline"]) for row in rows} == {"1"}
    assert all("/" in row["position"] for row in rows), "positions are shown as PostgreSQL writes them"
    assert {int(row["port"]) for row in rows} == {node.port for node in shared_cluster.nodes}


def test_a_server_of_another_cluster_gets_no_traffic(new_cluster, start_forebay, shared_cluster, table):
    stranger = new_cluster(replicas=0, fresh=True)
    forebay = start_forebay(nodes=[*shared_cluster.addresses, stranger.addresses[0]], routing=EVENTUAL, wait="login")
    forebay.wait_node("pg3", state="up", role="replica")
    wait_until(lambda: forebay.node("pg4")["state"] != "up", 10, "the foreign system identifier to be seen")
    assert forebay.node("pg4")["reason"], "it is said why"
    client = forebay.wire()
    assert set(reads(client, 20)) <= {"pg2", "pg3"}
    client.run(f"insert into {table} (v) values ('x')")
    assert ran_on(client) == "pg1"


# -- health and lag -----------------------------------------------------------------------------------------------


def test_a_replica_that_hangs_leaves_and_returns(start_forebay, shared_cluster):
    with Relay(shared_cluster.nodes[1].port) as relay:
        nodes = [shared_cluster.addresses[0], relay.address, shared_cluster.addresses[2]]
        forebay = start_forebay(nodes=nodes, routing=EVENTUAL, failover={"check_timeout": "500ms"})
        relay.mode = "silent"
        wait_until(lambda: forebay.node("pg2")["state"] != "up", 15, "the silent replica to leave")
        assert set(reads(forebay.wire(), 10)) == {"pg3"}
        relay.mode = "pass"
        relay.cut()
        forebay.wait_node("pg2", state="up")
        wait_until(lambda: "pg2" in reads(forebay.wire(), 5), 10, "reads on the replica that returned")


def test_without_a_fit_replica_reads_go_to_the_primary(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, routing=EVENTUAL)
    for node in cluster.nodes[1:]:
        node.stop()
    for name in ("pg2", "pg3"):
        wait_until(lambda: forebay.node(name)["state"] != "up", 15, f"{name} to leave")
    client = forebay.wire()
    assert set(reads(client, 10)) == {"pg1"}
    cluster.nodes[2].start()
    wait_until(lambda: set(reads(client, 4)) == {"pg3"}, 20, "reads on the replica that returned")


def test_a_read_survives_the_loss_of_a_replica(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, routing=EVENTUAL)
    clients = [forebay.wire() for _ in range(6)]
    for client in clients:
        client.run("select 1")
    cluster.nodes[1].kill()
    for client in clients:
        assert client.value("select 'served'") == "served", "an idle client does not notice that a replica died"


def test_a_replica_too_far_behind_in_time_leaves_and_returns(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, routing={**EVENTUAL, "max_lag": "1s"})
    cluster.everywhere("create table t (a int)")
    client = warmed(forebay.wire(), "pg2", "pg3")
    cluster.nodes[1].set_apply_delay(30)
    for _ in range(3):
        cluster.sql("insert into t values (1)")

    def gone():
        cluster.sql("insert into t values (1)")
        return set(reads(client, 6)) == {"pg3"} and int(forebay.node("pg2")["lag_ms"]) > 1000

    wait_until(gone, 20, "the late replica to get no reads", 0.2)
    cluster.nodes[1].set_apply_delay(0)
    wait_until(lambda: "pg2" in reads(client, 6), 20, "the replica to get reads again")


def test_a_replica_too_far_behind_in_bytes_leaves_and_returns(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, routing={**EVENTUAL, "max_lag": "10m", "max_lag_bytes": "256KiB"})
    cluster.everywhere("create table t (a text)")
    client = forebay.wire()
    cluster.nodes[1].set_apply_delay(60)
    for _ in range(20):
        cluster.sql("insert into t select repeat('x', 1000) from generate_series(1, 50)")
    wait_until(
        lambda: set(reads(client, 6)) == {"pg3"} and int(forebay.node("pg2")["lag_bytes"]) > 256 * 1024,
        20, "the late replica to get no reads")
    cluster.nodes[1].set_apply_delay(0)
    wait_until(lambda: "pg2" in reads(client, 6), 20, "the replica to get reads again")


def test_a_database_may_have_lag_limits_of_its_own(cluster, start_forebay):
    forebay = start_forebay(
        servers=cluster, routing={**EVENTUAL, "max_lag": "10m"},
        database=[{"name": "bench"}, {"name": "fresh", "dbname": "bench", "max_lag_bytes": "64KiB"}])
    cluster.everywhere("create table t (a text)")
    patient, fresh = forebay.wire(), forebay.wire(dbname="fresh")
    cluster.nodes[1].set_apply_delay(60)
    for _ in range(20):
        cluster.sql("insert into t select repeat('x', 1000) from generate_series(1, 50)")
    wait_until(lambda: set(reads(fresh, 6)) == {"pg3"}, 20, "the late replica to get no reads of the strict database")
    wait_until(lambda: "pg2" in reads(patient, 6), 10, "the late replica to get reads of the other")
    cluster.nodes[1].set_apply_delay(0)
    wait_until(lambda: "pg2" in reads(fresh, 6), 20, "the replica to get reads again")


def test_an_idle_primary_does_not_make_replicas_late(start_forebay, shared_cluster):
    """Without writes there is nothing to replay, however long ago the last commit was."""
    forebay = start_forebay(routing={**EVENTUAL, "max_lag": "300ms"})
    client = forebay.wire()
    client.run("select pg_sleep(1)")
    shared_cluster.caught_up()
    wait_until(lambda: set(reads(client, 8)) == {"pg2", "pg3"}, 5, "both replicas to be fit though the primary is idle")


def test_detach_and_attach_take_a_replica_out_and_back(start_forebay):
    forebay = start_forebay(routing=EVENTUAL)
    forebay.admin("DETACH NODE pg2")
    forebay.wait_node("pg2", state="detached")
    client = forebay.wire()
    assert set(reads(client, 10)) == {"pg3"}
    forebay.admin("ATTACH NODE pg2")
    forebay.wait_node("pg2", state="up")
    wait_until(lambda: "pg2" in reads(client, 6), 10, "the attached replica to get reads")


def test_a_drained_replica_ends_its_work_and_gets_no_more(start_forebay):
    forebay = start_forebay(routing=EVENTUAL)
    inside = forebay.wire()
    node = inside_a_read(inside)
    forebay.admin(f"DRAIN NODE {node}")
    wait_until(lambda: forebay.node(node)["state"] != "up", 5, "the node to be draining")
    assert node not in reads(forebay.wire(), 10)
    assert inside.value("select 'still here'") == "still here"
    inside.run("commit")


@pytest.mark.parametrize("number", [2, 3])
def test_the_reads_of_each_replica_are_counted(forebay, number):
    before = {row["node_id"]: int(row["select_cnt"]) for row in forebay.admin("SHOW POOL_NODES")}
    client = forebay.wire()
    wait_until(lambda: ran_on(client) == f"pg{number}" if client.run("select 1") else False, 10, f"a read on pg{number}")
    after = {row["node_id"]: int(row["select_cnt"]) for row in forebay.admin("SHOW POOL_NODES")}
    key = sorted(after, key=int)[number - 1]
    assert after[key] > before[key]


def test_one_clients_reads_in_the_extended_protocol_are_balanced_too(start_forebay):
    forebay = start_forebay(routing=EVENTUAL, config={"general": {"threads": 1}})
    client = warmed(forebay.wire(), "pg2", "pg3")
    client.ask(wire.parse("select 1", "s"), wire.sync())
    nodes = set()
    for _ in range(10):
        client.prepared("s")
        nodes.add(ran_on(client))
    assert nodes == {"pg2", "pg3"}
