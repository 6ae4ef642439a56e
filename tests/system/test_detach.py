"""DETACH NODE takes a node out at once, DRAIN NODE lets running work end."""

import pytest

from harness import wait_until, wire
from harness.where import inside_a_read, ran_on

EVENTUAL = {"consistency": "eventual", "balance": "round_robin"}


def servers_of(forebay, node):
    """Client-serving connections to a node."""
    port = forebay.node(node)["port"]
    return [row for row in forebay.admin("SHOW SERVERS") if row["port"] == port]


def test_a_transaction_on_a_detached_replica_is_ended_at_once(start_forebay):
    forebay = start_forebay(routing=EVENTUAL)
    client = forebay.wire()
    node = inside_a_read(client)
    forebay.admin(f"DETACH NODE {node}")
    error = wire.fields(next(frame for frame in client.wait_closed(5) if frame.type == "E"))
    assert (error["C"], error["V"]) == ("57P01", "FATAL")
    assert "administrator" in error["M"], error["M"]
    wait_until(lambda: not servers_of(forebay, node), 5, f"no connection to {node}")


def test_a_read_on_a_detached_replica_runs_again_elsewhere(start_forebay, name):
    forebay = start_forebay(routing=EVENTUAL)
    client = forebay.wire()
    client.send(wire.query(f"/* forebay: replica */ select '{name}' from pg_sleep(2)"))
    wait_until(lambda: [row for row in forebay.admin("SHOW SERVERS") if row["state"] == "active"], 5, "the read to run")
    active = next(row for row in forebay.admin("SHOW SERVERS") if row["state"] == "active")
    node = next(row["node"] for row in forebay.admin("SHOW NODES") if row["port"] == active["port"])
    forebay.admin(f"DETACH NODE {node}")
    answer = client.read_until()
    assert wire.errors(answer) == []
    assert ran_on(client) not in ("pg1", node), "the other replica answered"


@pytest.mark.parametrize("txn_loss", ["close", "error"])
def test_a_write_on_a_detached_primary_is_reported_as_unknown(cluster, start_forebay, name, txn_loss):
    forebay = start_forebay(servers=cluster, failover={"txn_loss": txn_loss})
    client, inside = forebay.wire(), forebay.wire()
    inside.run("begin")
    inside.run("create table inside (a int)")
    client.send(wire.query(f"create table {name} as select 1 as a from pg_sleep(60)"))
    cluster.wait_running(f"create table {name}")
    forebay.admin("DETACH NODE pg1")
    assert wire.errors(client.read_until()) == ["08007"], "nobody told whether it was committed"
    if txn_loss == "close":
        assert wire.errors(inside.wait_closed(5)) == ["57P01"], "its transaction was not committed"
    else:
        assert wire.errors(inside.ask(wire.query("commit"))) == ["40001"]
    wait_until(lambda: not servers_of(forebay, "pg1"), 5, "no connection to the detached primary")
    running = "select count(*) from pg_stat_activity where state = 'active' and query like 'create table %'"
    wait_until(lambda: cluster.nodes[0].value(running) == 0, 10, "the statement to be cancelled")
    forebay.admin("ATTACH NODE pg1")
    client.run(f"create table if not exists {name} (a int)")
    assert client.value("select to_regclass('inside') is null") == "t"


def test_work_on_a_drained_primary_ends_well(start_forebay, shared_cluster, table):
    forebay = start_forebay()
    client, inside = forebay.wire(), forebay.wire()
    inside.run("begin")
    inside.run(f"insert into {table} (v) values ('inside')")
    client.send(wire.query(f"insert into {table} (v) select 'alone' from pg_sleep(1)"))
    shared_cluster.wait_running(f"insert into {table}")
    forebay.admin("DRAIN NODE pg1")
    assert wire.errors(client.read_until()) == []
    assert wire.errors(inside.ask(wire.query("commit"))) == []
    wait_until(lambda: not servers_of(forebay, "pg1"), 5, "no connection to the drained primary")
    forebay.admin("ATTACH NODE pg1")
    assert client.value(f"select count(*) from {table}") == "2"
