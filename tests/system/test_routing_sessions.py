"""Transactions, sessions, hints and settings: what else decides where a statement runs."""

import pytest

from harness import ports, wait_until, wire
from harness.where import ran_on, role, role_after, route


# -- transactions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [
    "begin read only", "start transaction read only", "begin isolation level repeatable read read only",
    "begin transaction isolation level read committed, read only"])
def test_a_read_only_transaction_runs_on_a_replica(routed, begin):
    client = routed.wire()
    client.run(begin)
    nodes = set()
    for _ in range(5):
        client.run("select count(*) from pgbench_branches")
        nodes.add(ran_on(client))
    client.run("commit")
    assert len(nodes) == 1 and nodes.isdisjoint({"pg1"}), nodes


def test_a_transaction_that_writes_runs_on_the_primary(forebay, table):
    client = forebay.wire()
    client.run("begin")
    client.run(f"insert into {table} (v) values ('mine')")
    assert role(client) == "primary"
    assert client.value(f"select v from {table}") == "mine", "a transaction sees what it wrote"
    client.run("commit")


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_a_transaction_may_read_before_it_writes(target, table, level):
    client = target.wire()
    client.run(f"begin isolation level {level}")
    assert client.value(f"select count(*) from {table}") == "0"
    client.run(f"insert into {table} (v) values ('a')")
    assert client.value(f"select count(*) from {table}") == "1"
    client.run("savepoint s")
    client.run(f"insert into {table} (v) values ('b')")
    client.run("rollback to s")
    assert client.value(f"select count(*) from {table}") == "1"
    client.run("commit")
    assert client.value(f"select count(*) from {table}") == "1"


def test_repeatable_read_keeps_one_snapshot_for_reads_and_writes(target, table, shared_cluster):
    client = target.wire()
    client.run("begin isolation level repeatable read")
    assert client.value(f"select count(*) from {table}") == "0"
    shared_cluster.everywhere(f"insert into {table} (v) values ('from elsewhere')")
    client.run(f"insert into {table} (v) values ('mine')")
    assert client.value(f"select count(*) from {table}") == "1", "the snapshot was taken by the first statement"
    client.run("commit")


@pytest.mark.parametrize("steps", [
    ["begin isolation level serializable", "select 1", "commit"],
    ["begin", "set transaction isolation level serializable", "select 1", "commit"],
    ["begin isolation level serializable read only", "select 1", "commit"],
    ["begin isolation level serializable, read only, deferrable", "select 1", "commit"],
])
def test_serializable_transactions_work_though_replicas_refuse_them(target, steps):
    client = target.wire()
    for sql in steps:
        answer = client.ask(wire.query(sql))
        assert not wire.errors(answer), f"{sql}: {wire.errors(answer)}"


@pytest.mark.parametrize("setting", [
    "set default_transaction_isolation = 'serializable'",
    "set session characteristics as transaction isolation level serializable"])
def test_a_session_that_is_serializable_by_default_works(start_forebay, setting):
    client = start_forebay(pool={"mode": "session"}).wire()
    client.run(setting)
    for _ in range(3):
        assert client.value("select count(*) from pgbench_branches") == "1"


def test_set_transaction_read_only_is_obeyed(target, table):
    client = target.wire()
    client.run("begin")
    client.run("set transaction read only")
    assert wire.errors(client.ask(wire.query(f"insert into {table} (v) values ('x')"))) == ["25006"]
    client.run("rollback")


@pytest.mark.parametrize("wish, named", [
    (["set forebay.route = 'replica'", "begin"], "this session's own forebay.route = 'replica'"),
    (["/* forebay: replica */ begin"], 'the hint "forebay: replica"'),
    (["begin read only"], None),
])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_replicas_refusal_says_whose_wish_sent_the_transaction_there(forebay, table, wish, named, protocol):
    client = forebay.wire()
    for sql in wish:
        client.run(sql)
    write = f"insert into {table} (v) values ('x')"
    asked = [wire.query(write)] if protocol == "simple" else [wire.parse(write), wire.bind(), wire.execute(), wire.sync()]
    refusal = next(wire.fields(message) for message in client.ask(*asked) if message.type == "E")
    assert refusal["C"] == "25006"
    client.run("rollback")
    if named is None:
        assert "H" not in refusal, "the client's own READ ONLY is no wish for a replica"
        return
    assert named in refusal["H"], refusal
    # What the hint says is a way out indeed.
    if "SET forebay.route = 'auto'" in refusal["H"]:
        client.run("set forebay.route = 'auto'")
    for sql in ("begin", write, "commit"):
        client.run(sql)


def test_a_client_of_a_listener_for_replicas_is_told_of_the_listener(start_forebay, table):
    port = ports.free_port()
    forebay = start_forebay(wait="", listen=[{"addr": f"127.0.0.1:{port}", "route": "replica"}])
    forebay.port = port
    wait_until(forebay.nodes_are_up, 20, "the nodes to be found")
    client = forebay.wire()
    client.run("begin")
    answer = client.ask(wire.query(f"insert into {table} (v) values ('x')"))
    refusal = next(wire.fields(message) for message in answer if message.type == "E")
    assert (refusal["C"], "the listener's route" in refusal["H"]) == ("25006", True), refusal


def test_a_read_only_session_refuses_writes_as_the_server_does(start_forebay, shared_cluster, table):
    forebay = start_forebay(pool={"mode": "session"})
    for endpoint in (shared_cluster.primary, forebay):
        client = endpoint.wire()
        client.run("set default_transaction_read_only = on")
        assert wire.errors(client.ask(wire.query(f"insert into {table} (v) values ('x')"))) == ["25006"]
        assert client.value(f"select count(*) from {table}") == "0"


def test_a_cursor_is_read_where_it_was_declared(target):
    client = target.wire()
    client.run("begin")
    client.run("declare c cursor for select generate_series(1, 4)")
    assert client.run("fetch 2 from c") == [["1"], ["2"]]
    client.run("select 1")
    assert client.run("fetch all from c") == [["3"], ["4"]]
    client.run("commit")


def test_sql_prepare_and_execute_meet_on_one_node(start_forebay):
    client = start_forebay(pool={"mode": "session"}).wire()
    client.run("prepare p (int) as select $1 * 2")
    assert [client.value(f"execute p ({n})") for n in range(5)] == [str(n * 2) for n in range(5)]
    client.run("deallocate p")


def test_several_statements_in_one_message_are_one_unit_on_the_primary(forebay, table):
    client = forebay.wire()
    answer = client.ask(wire.query(f"insert into {table} (v) values ('x'); select count(*) from {table}"))
    assert wire.rows(answer) == [["1"]]
    answer = client.ask(wire.query(f"insert into {table} (v) values ('y'); select 1/0"))
    assert wire.errors(answer) == ["22012"]
    assert client.value(f"select count(*) from {table}") == "1", "one message is one transaction"


# -- told by the client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql, expected", [
    ("/* forebay: primary */ select 1", "primary"),
    ("/*forebay:primary*/ select 1", "primary"),
    ("/* app=x */ /* forebay: primary */ select 1", "primary"),
    ("/*NO LOAD BALANCE*/ select 1", "primary"),
    ("/* forebay: replica */ select count(*) from pg_stat_activity", "replica"),
    ("select 1 /* forebay: primary */", "replica"),
    ("select '/* forebay: primary */'", "replica"),
])
def test_a_hint_in_a_leading_comment_decides(routed, sql, expected):
    assert route(routed, sql)["target"] in (expected, "any" if expected == "replica" else expected)
    client = routed.wire()
    assert role_after(client, wire.query(sql)) == expected
    assert role_after(client, wire.parse(sql), wire.bind(), wire.execute(), wire.sync()) == expected


def test_set_forebay_route_holds_for_the_session(routed):
    client = routed.wire()
    client.run("set forebay.route = 'primary'")
    assert {role_after(client, wire.query("select 1")) for _ in range(6)} == {"primary"}
    client.run("set forebay.route to replica")
    assert {role_after(client, wire.query("select count(*) from pg_stat_activity")) for _ in range(6)} == {"replica"}
    client.run("set forebay.route = 'auto'")
    assert role_after(client, wire.query("select 1")) == "replica"
    assert role_after(client, wire.query("select count(*) from pg_stat_activity")) == "primary"
    other = routed.wire()
    assert role_after(other, wire.query("select 1")) == "replica", "another session is not affected"


@pytest.mark.parametrize("asked", [{"options": "-c forebay.route=primary"}, {"forebay.route": "Primary"}])
def test_a_route_may_be_asked_for_at_the_start(routed, asked):
    client = routed.wire(params=asked)
    client.run("select 1")
    assert role(client) == "primary"
    client.run("set forebay.route = 'replica'")
    client.run("reset forebay.route")
    assert client.value("show forebay.route") == "primary"


def test_a_route_that_does_not_exist_is_refused_at_the_start(routed):
    with pytest.raises(wire.ServerError) as caught:
        routed.wire(params={"options": "-c forebay.route=nowhere"})
    assert caught.value.sqlstate == "22023"


def test_set_local_forebay_route_holds_for_the_transaction(routed):
    client = routed.wire()
    client.run("begin")
    client.run("set local forebay.route = 'primary'")
    assert role_after(client, wire.query("select 1")) == "primary"
    client.run("commit")
    assert role_after(client, wire.query("select 1")) == "replica"


def test_a_route_that_does_not_exist_is_an_error(routed):
    assert wire.errors(routed.wire().ask(wire.query("set forebay.route = 'moon'"))) == ["22023"]


def test_show_forebay_node_tells_the_truth(routed, shared_cluster):
    client = routed.wire()
    for _ in range(6):
        told_by_server = client.value("/* forebay: replica */ select current_setting('cluster_name')")
        assert ran_on(client) == told_by_server
    client.value("/* forebay: primary */ select 1")
    assert ran_on(client) == "pg1"


def test_a_listener_may_be_bound_to_one_side(start_forebay):
    write_port, read_port, auto_port = [ports.free_port() for _ in range(3)]
    forebay = start_forebay(wait="", routing={"consistency": "eventual"}, listen=[
        {"addr": f"127.0.0.1:{write_port}", "route": "primary"}, {"addr": f"127.0.0.1:{read_port}", "route": "replica"},
        {"addr": f"127.0.0.1:{auto_port}", "route": "auto"}])
    forebay.port = auto_port
    wait_until(forebay.nodes_are_up, 20, "the nodes to be found")
    for port, read, write in ((write_port, "primary", "primary"), (read_port, "replica", "replica"), (auto_port, "replica", "primary")):
        client = wire.Wire(port).login()
        assert {role_after(client, wire.query("select 1")) for _ in range(4)} == {read}
        assert {role_after(client, wire.query("select count(*) from pg_stat_activity")) for _ in range(4)} == {write}


def test_without_the_split_everything_runs_on_the_primary(start_forebay):
    client = start_forebay(routing={"split": False}).wire()
    assert {role_after(client, wire.query("select 1")) for _ in range(10)} == {"primary"}


def test_the_split_may_differ_per_user_and_database(start_forebay):
    forebay = start_forebay(
        routing={"split": False, "consistency": "eventual"}, database=[{"name": "other", "split": True}, {"name": "*"}],
        user=[{"name": "app", "password": "app"}, {"name": "other", "password": "other", "split": True}])
    for login, expected in (({}, "primary"), ({"dbname": "other"}, "replica"), ({"user": "other"}, "replica")):
        client = forebay.wire(**login)
        assert {role_after(client, wire.query("select 1")) for _ in range(4)} == {expected}, login


def test_a_prepared_statement_is_decided_when_it_is_parsed(routed, table):
    client = routed.wire()
    client.ask(wire.parse("select count(*) from pgbench_branches", "r"), wire.sync())
    client.ask(wire.parse(f"insert into {table} (v) values ($1)", "w"), wire.sync())
    for number in range(4):
        assert not wire.errors(client.prepared("w", [number]))
        assert role(client) == "primary"
        assert wire.rows(client.prepared("r")) == [["1"]]
        assert role(client) == "replica"


def test_reads_and_writes_in_one_pipeline_are_answered_in_order(forebay, table):
    client = forebay.wire()
    client.send(*[
        part for number in range(50) for part in (
            wire.parse(f"insert into {table} (v) values ({number})"), wire.bind(), wire.execute(), wire.sync(),
            wire.parse(f"select count(*) from {table}"), wire.bind(), wire.execute(), wire.sync())])
    for number in range(50):
        assert wire.tags(client.read_until()) == ["INSERT 0 1"]
        assert wire.rows(client.read_until()) == [[str(number + 1)]], "a client sees its own writes inside a pipeline"
