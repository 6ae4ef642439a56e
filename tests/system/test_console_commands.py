"""The console's commands: what they do to clients and server connections."""

import time

import psycopg
import pytest

from harness import ports, wait_until, wire

ON_PRIMARY = {"split": False}


@pytest.mark.parametrize("scope", ["", " bench"])
def test_pause_holds_new_queries_until_resume(start_forebay, shared_cluster, scope):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    client.run("select 1")
    forebay.admin("PAUSE" + scope)
    assert shared_cluster.primary.connections("app", "bench", of=forebay) == [], "PAUSE closes the server connections"
    client.send(wire.query("select 'after resume'"))
    late = forebay.wire()
    late.send(wire.query("select 'late'"))
    assert client.nothing_comes(0.5) and late.nothing_comes(0.1)
    if scope:
        assert forebay.wire(dbname="other").value("select 1") == "1", "another database goes on"
    forebay.admin("RESUME" + scope)
    assert wire.rows(client.read_until()) == [["after resume"]]
    assert wire.rows(late.read_until()) == [["late"]]


def test_pause_waits_for_open_transactions(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    client.run("begin")
    console = forebay.wire(user="admin", dbname="forebay")
    console.send(wire.query("PAUSE"))
    assert console.nothing_comes(0.5), "a transaction is open"
    client.run("select 1")
    client.run("commit")
    assert wire.tags(console.read_until()) == ["PAUSE"]
    forebay.admin("RESUME")
    assert client.value("select 1") == "1"


def test_resume_without_pause_is_an_error(forebay):
    assert wire.errors(forebay.wire(user="admin", dbname="forebay").ask(wire.query("RESUME no_such_database")))


def test_a_database_that_nobody_knows_is_refused_and_one_that_nobody_can_be_asked_for_is_doubted(forebay, start_forebay):
    assert wire.errors(forebay.wire(user="admin", dbname="forebay").ask(wire.query("PAUSE no_such_database"))) == ["3D000"]
    alone = start_forebay(nodes=[f"127.0.0.1:{ports.free_port()}"], wait="port")
    console = alone.wire(user="admin", dbname="forebay")
    answer = console.ask(wire.query("PAUSE no_such_database"))
    [said] = [wire.fields(frame) for frame in answer if frame.type == "N"]
    assert said["S"] == "WARNING" and "whether there is a database no_such_database is not known" in said["M"]
    assert wire.tags(answer) == ["PAUSE"], "a server that is gone is a reason to pause"
    console.run("RESUME no_such_database")


def test_a_disabled_database_refuses_new_clients_only(start_forebay):
    forebay = start_forebay(database=[{"name": "bench"}, {"name": "other"}])
    here = forebay.wire()
    here.run("select 1")
    forebay.admin("DISABLE bench")
    with pytest.raises(wire.ServerError):
        forebay.wire()
    assert here.value("select 1") == "1", "clients that are logged in go on"
    assert forebay.wire(dbname="other").value("select 1") == "1"
    assert {r["name"]: int(r["disabled"]) for r in forebay.admin("SHOW DATABASES")}["bench"] == 1
    forebay.admin("ENABLE bench")
    assert forebay.wire().value("select 1") == "1"


@pytest.mark.parametrize("scope", ["", " bench"])
def test_reconnect_replaces_server_connections_without_disturbing_clients(start_forebay, scope):
    forebay = start_forebay(pool={"size": 2}, routing=ON_PRIMARY)
    idle, busy = forebay.wire(), forebay.wire()
    busy.run("begin")
    inside = busy.value("select pg_backend_pid()")
    before = idle.value("select pg_backend_pid()")
    forebay.admin("RECONNECT" + scope)
    assert idle.value("select pg_backend_pid()") not in (before, inside)
    assert busy.value("select pg_backend_pid()") == inside, "a transaction keeps its connection"
    busy.run("commit")
    wait_until(lambda: busy.value("select pg_backend_pid()") != inside, 10, "the old connection to go after its transaction")


def test_kill_drops_clients_and_servers_of_a_database(start_forebay, shared_cluster):
    forebay = start_forebay(routing=ON_PRIMARY, database=[{"name": "bench"}, {"name": "other"}])
    victim, safe = forebay.wire(), forebay.wire(dbname="other")
    victim.run("begin")
    safe.run("select 1")
    forebay.admin("KILL bench")
    victim.wait_closed(10)
    wait_until(lambda: not shared_cluster.primary.connections("app", "bench", of=forebay), 10, "its server connections to be closed")
    assert safe.value("select 1") == "1"
    forebay.admin("RESUME bench")
    assert forebay.wire().value("select 1") == "1"


def test_kill_client_closes_that_client_alone(start_forebay):
    forebay = start_forebay()
    victim, safe = forebay.wire(), forebay.wire()
    victim.run("select 1")
    row = next(r for r in forebay.admin("SHOW CLIENTS") if f"{r['addr']}:{r['port']}" == victim.address)
    forebay.admin(f"KILL_CLIENT {row['id']}")
    assert wire.errors(victim.wait_closed(10)), "it is told why"
    assert safe.value("select 1") == "1"


@pytest.mark.parametrize("running, code", [
    ("insert into killed select 1 from pg_sleep(30)", "08007"),
    ("select count(*) from generate_series(1, 1000000000)", "57P01"),
    ("begin; insert into killed select 1 from pg_sleep(30)", "57P01"),
])
def test_a_client_killed_with_a_write_on_its_way_is_told_that_nobody_knows(start_forebay, shared_cluster, running, code):
    forebay = start_forebay(routing=ON_PRIMARY)
    shared_cluster.primary.sql("create table if not exists killed (a int); grant all on killed to public")
    victim = forebay.wire()
    *before, last = running.split("; ")
    for statement in before:
        victim.run(statement)
    victim.send(wire.query(last))
    forebay.wait_pool(cl_active=1)
    row = next(r for r in forebay.admin("SHOW CLIENTS") if f"{r['addr']}:{r['port']}" == victim.address)
    forebay.admin(f"KILL_CLIENT {row['id']}")
    assert wire.errors(victim.wait_closed(10)) == [code]


def test_wait_close_returns_when_the_old_connections_are_gone(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY, database=[{"name": "bench"}])
    client = forebay.wire()
    client.run("begin")
    forebay.admin("RECONNECT bench")
    console = forebay.wire(user="admin", dbname="forebay")
    console.send(wire.query("WAIT_CLOSE bench"))
    assert console.nothing_comes(0.5), "an old connection is still inside a transaction"
    client.run("commit")
    assert wire.tags(console.read_until()) == ["WAIT_CLOSE"]


def test_set_changes_a_key_at_once(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder, waiting = forebay.wire(), forebay.wire()
    holder.run("begin")
    waiting.send(wire.query("select 1"))
    forebay.wait_pool(cl_waiting=1)
    forebay.admin("SET default_pool_size = 2")
    assert wire.types(waiting.read_until()) == "TDCZ"
    assert {row["key"]: row["value"] for row in forebay.admin("SHOW CONFIG")}["default_pool_size"] == "2"


def test_suspend_stops_traffic_until_resume(start_forebay):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("select 1")
    forebay.admin("SUSPEND")
    client.send(wire.query("select 'resumed'"))
    assert client.nothing_comes(0.5)
    assert {r["key"]: r["value"] for r in forebay.admin("SHOW STATE")}["suspended"] == "yes"
    forebay.admin("RESUME")
    assert wire.rows(client.read_until()) == [["resumed"]]


def test_shutdown_ends_the_process(start_forebay):
    forebay = start_forebay()
    with forebay.console() as console:
        try:
            console.execute("SHUTDOWN")
        except psycopg.OperationalError:
            pass  # it may be gone before it answers
    assert forebay.wait_end(10) == 0


def test_shutdown_wait_for_clients_lets_them_finish(start_forebay):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("begin")
    forebay.admin("SHUTDOWN WAIT_FOR_CLIENTS")
    with pytest.raises((wire.ServerError, wire.Closed, OSError)):
        forebay.wire().run("select 1")
    assert client.value("select 1") == "1"
    client.run("commit")
    time.sleep(0.3)
    assert client.value("select 'still'") == "still", "it waits for clients to leave, not for transactions"
    client.send(wire.terminate()).close()
    assert forebay.wait_end(10) == 0


def test_shutdown_wait_for_servers_lets_transactions_finish(start_forebay):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("begin")
    forebay.admin("SHUTDOWN WAIT_FOR_SERVERS")
    assert client.value("select 1") == "1"
    client.send(wire.query("commit"))
    assert wire.tags(client.read_until("CZ")) == ["COMMIT"]
    assert forebay.wait_end(10) == 0
