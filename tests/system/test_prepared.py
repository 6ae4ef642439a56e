"""Prepared statements of the protocol, on server connections that change under the client."""

import itertools

import pytest

from harness import wire

ON_PRIMARY = {"split": False}


def other_server_connection(forebay, client):
    """Makes the next query of `client` run on another server connection, in a pool of two."""
    before = client.value("select pg_backend_pid()")
    holder = forebay.wire()
    holder.run("begin")
    if holder.value("select pg_backend_pid()") != before:
        second = forebay.wire()
        second.run("begin")
        holder.run("commit")
        return second
    return holder


@pytest.fixture
def pair(start_forebay):
    return start_forebay(pool={"size": 2}, routing=ON_PRIMARY)


def on_server(client):
    """Texts of the protocol's prepared statements on the server connection that answers."""
    return [row[0] for row in client.run("select statement from pg_prepared_statements where not from_sql order by 1")]


def test_a_named_statement_works_on_every_server_connection(pair):
    client = pair.wire()
    client.ask(wire.parse("select $1::int * 2", "double"), wire.sync())
    assert wire.rows(client.prepared("double", [4])) == [["8"]]
    holder = other_server_connection(pair, client)
    answer = client.prepared("double", [21])
    assert wire.types(answer) == "2DCZ", "the client sees no sign of a Parse that it did not send"
    assert wire.rows(answer) == [["42"]]
    holder.run("commit")


def test_a_named_statement_is_described_on_every_server_connection(pair):
    client = pair.wire()
    first = client.ask(wire.parse("select $1::int as n, 'x'::text as t", "s"), wire.describe("S", "s"), wire.sync())
    holder = other_server_connection(pair, client)
    second = client.ask(wire.describe("S", "s"), wire.sync())
    assert wire.types(first) == "1tTZ" and wire.types(second) == "tTZ"
    assert first[1:3] == second[:2]
    holder.run("commit")


def test_the_unnamed_statement_outlives_sync(pair):
    client = pair.wire()
    client.ask(wire.parse("select $1::int + 1"), wire.sync())
    assert wire.rows(client.prepared("", [1])) == [["2"]]


def test_the_unnamed_statement_follows_to_another_server_connection(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    first, second = forebay.wire(), forebay.wire()
    first.ask(wire.parse("select 'first', $1::text"), wire.sync())
    second.ask(wire.parse("select 'second', $1::text"), wire.sync())
    assert wire.rows(first.prepared("", ["a"])) == [["first", "a"]]
    assert wire.rows(second.prepared("", ["b"])) == [["second", "b"]]
    assert wire.rows(first.prepared("", ["c"])) == [["first", "c"]]


def test_clients_with_the_same_name_for_other_texts_do_not_mix(single):
    clients = [single.wire() for _ in range(5)]
    for number, client in enumerate(clients):
        client.ask(wire.parse(f"select {number}", "s"), wire.sync())
    for _ in range(3):
        assert [wire.rows(client.prepared("s")) for client in clients] == [[[str(n)]] for n in range(5)]


def test_clients_with_the_same_text_share_one_statement_on_the_server(single):
    clients = [single.wire() for _ in range(6)]
    for number, client in enumerate(clients):
        answer = client.ask(wire.parse("select $1::text as shared", f"mine{number}"), wire.sync())
        assert wire.types(answer) == "1Z"
        assert wire.rows(client.prepared(f"mine{number}", [number])) == [[str(number)]]
    assert on_server(clients[0]).count("select $1::text as shared") == 1


def test_the_same_text_with_other_parameter_types_is_another_statement(single):
    first, second = single.wire(), single.wire()
    first.ask(wire.parse("select pg_typeof($1)::text", "s", [23]), wire.sync())
    second.ask(wire.parse("select pg_typeof($1)::text", "s", [1700]), wire.sync())
    for _ in range(2):
        assert wire.rows(first.prepared("s", [1])) == [["integer"]]
        assert wire.rows(second.prepared("s", [1])) == [["numeric"]]


def test_server_statements_are_bounded_and_all_stay_usable(start_forebay):
    forebay = start_forebay(pool={"size": 1, "prepared_statements": 10}, routing=ON_PRIMARY)
    client = forebay.wire()
    for number in range(60):
        client.ask(wire.parse(f"select {number} + $1::int", f"s{number}"), wire.sync())
    for number in list(range(60)) + list(range(59, -1, -1)):
        assert wire.rows(client.prepared(f"s{number}", [1])) == [[str(number + 1)]]
    assert len(on_server(client)) <= 10, "prepared_statements bounds what is kept on one server connection"


def test_statements_survive_in_one_pipeline_with_their_parse(target):
    client = target.wire()
    client.send(*[
        part for number in range(40)
        for part in (wire.parse(f"select {number}", f"n{number}"), wire.bind(name=f"n{number}"), wire.execute(), wire.sync())])
    assert [wire.rows(client.read_until()) for _ in range(40)] == [[[str(n)]] for n in range(40)]
    for number in range(40):
        assert wire.rows(client.prepared(f"n{number}")) == [[str(number)]]


def test_many_executions_of_many_statements_in_one_pipeline_with_a_small_bound(start_forebay):
    forebay = start_forebay(pool={"size": 1, "prepared_statements": 5}, routing=ON_PRIMARY)
    client = forebay.wire()
    for number in range(20):
        client.ask(wire.parse(f"select {number}", f"n{number}"), wire.sync())
    client.send(*[part for n in range(20) for part in (wire.bind(name=f"n{n}"), wire.execute())], wire.sync())
    assert wire.rows(client.read_until()) == [[str(number)] for number in range(20)]


# -- errors as the server makes them --------------------------------------------------------------------------------


def test_a_statement_that_does_not_exist_is_an_error(target):
    client = target.wire()
    answer = client.prepared("nothing")
    assert wire.errors(answer) == ["26000"]
    assert '"nothing"' in wire.fields(answer[0])["M"], "the message has the client's own name"
    assert wire.errors(client.ask(wire.describe("S", "nothing"), wire.sync())) == ["26000"]
    assert client.value("select 1") == "1"


def test_a_name_that_is_taken_is_an_error(target):
    client = target.wire()
    client.ask(wire.parse("select 1", "s"), wire.sync())
    answer = client.ask(wire.parse("select 2", "s"), wire.sync())
    assert wire.errors(answer) == ["42P05"]
    assert '"s"' in wire.fields(answer[0])["M"], "the message has the client's own name"
    assert wire.rows(client.prepared("s")) == [["1"]]


def test_a_parse_that_failed_leaves_the_name_free(target):
    client = target.wire()
    assert wire.errors(client.ask(wire.parse("selekt 1", "s"), wire.sync())) == ["42601"]
    assert wire.errors(client.prepared("s")) == ["26000"]
    assert wire.types(client.ask(wire.parse("select 2", "s"), wire.sync())) == "1Z"
    assert wire.rows(client.prepared("s")) == [["2"]]


def test_a_parse_skipped_after_an_error_leaves_the_name_free(target):
    client = target.wire()
    answer = client.ask(wire.parse("selekt 1", "a"), wire.parse("select 1", "b"), wire.sync())
    assert wire.types(answer) == "EZ"
    assert wire.types(client.ask(wire.parse("select 2", "b"), wire.sync())) == "1Z"
    assert wire.rows(client.prepared("b")) == [["2"]]


def test_closing_frees_the_name(target):
    client = target.wire()
    client.ask(wire.parse("select 1", "s"), wire.sync())
    assert wire.types(client.ask(wire.close("S", "s"), wire.sync())) == "3Z"
    assert wire.errors(client.prepared("s")) == ["26000"]
    assert wire.types(client.ask(wire.parse("select 2", "s"), wire.sync())) == "1Z"
    assert wire.rows(client.prepared("s")) == [["2"]]


def test_closing_what_does_not_exist_is_no_error(target):
    client = target.wire()
    assert wire.types(client.ask(wire.close("S", "nothing"), wire.close("P", "nothing"), wire.sync())) == "33Z"


def test_close_between_other_messages_keeps_the_order(target):
    client = target.wire()
    client.ask(wire.parse("select 1", "a"), wire.sync())
    answer = client.ask(
        wire.close("S", "a"), wire.parse("select 2", "a"), wire.bind(name="a"), wire.execute(), wire.close("S", "a"), wire.sync())
    assert wire.types(answer) == "312DC3Z"


def test_closing_the_unnamed_statement_works(target):
    client = target.wire()
    client.ask(wire.parse("select 1"), wire.sync())
    assert wire.types(client.ask(wire.close("S", ""), wire.sync())) == "3Z"
    assert wire.errors(client.prepared("")) == ["26000"]


@pytest.mark.parametrize("command", ["deallocate s", "deallocate prepare s", 'DEALLOCATE "s"', "deallocate all", "discard all"])
def test_statements_end_by_sql_too(target, command):
    client = target.wire()
    client.ask(wire.parse("select 1", "s"), wire.sync())
    answer = client.ask(wire.query(command))
    assert not wire.errors(answer), f"{command}: {wire.errors(answer)}"
    assert wire.tags(answer)[0].split()[0] == command.split()[0].upper()
    assert wire.errors(client.prepared("s")) == ["26000"]
    assert wire.types(client.ask(wire.parse("select 2", "s"), wire.sync())) == "1Z"


@pytest.mark.parametrize("command", ["deallocate all", "discard all"])
def test_one_clients_deallocate_is_not_anothers(single, command):
    first, second = single.wire(), single.wire()
    for client in (first, second):
        client.ask(wire.parse("select 'kept'", "s"), wire.sync())
    assert not wire.errors(first.ask(wire.query(command)))
    assert wire.rows(second.prepared("s")) == [["kept"]]
    assert wire.errors(first.prepared("s")) == ["26000"]


def test_deallocating_what_does_not_exist_is_an_error(target):
    client = target.wire()
    assert wire.errors(client.ask(wire.query("deallocate nothing"))) == ["26000"]
    assert client.value("select 1") == "1"


def test_deallocate_by_the_extended_protocol_works(target):
    client = target.wire()
    client.ask(wire.parse("select 1", "s"), wire.sync())
    answer = client.ask(wire.parse("deallocate s"), wire.bind(), wire.execute(), wire.sync())
    assert wire.types(answer) == "12CZ"
    assert wire.errors(client.prepared("s")) == ["26000"]


# -- transactions ---------------------------------------------------------------------------------------------------


def test_a_statement_prepared_in_a_rolled_back_transaction_stays(target):
    client = target.wire()
    client.run("begin")
    client.ask(wire.parse("select 'kept'", "s"), wire.sync())
    client.run("rollback")
    assert wire.rows(client.prepared("s")) == [["kept"]]


def test_a_statement_is_refused_inside_a_failed_transaction_and_works_after(pair):
    client = pair.wire()
    client.ask(wire.parse("select 1", "s"), wire.sync())
    holder = other_server_connection(pair, client)
    client.ask(wire.query("begin; select 1/0"))
    assert wire.errors(client.prepared("s")) == ["25P02"]
    client.run("rollback")
    assert wire.rows(client.prepared("s")) == [["1"]]
    holder.run("commit")


def test_a_table_that_changes_is_seen_by_shared_statements(single, table):
    client = single.wire()
    client.run(f"insert into {table} (v) values ('1')")
    client.ask(wire.parse(f"select count(*) from {table} where v = $1", "s"), wire.sync())
    assert wire.rows(client.prepared("s", ["1"])) == [["1"]]
    client.run(f"alter table {table} add column extra int")
    assert wire.rows(client.prepared("s", ["1"])) == [["1"]]


def test_a_large_statement_is_prepared_and_found_again(pair):
    text = "select '" + "x" * 200_000 + "'::text, $1::int"
    client = pair.wire()
    client.ask(wire.parse(text, "large"), wire.sync())
    holder = other_server_connection(pair, client)
    assert len(wire.rows(client.prepared("large", [1]))[0][0]) == 200_000
    holder.run("commit")


def test_session_mode_passes_prepared_statements_too(start_forebay):
    forebay = start_forebay(pool={"mode": "session"}, routing=ON_PRIMARY)
    client = forebay.wire()
    client.ask(wire.parse("select $1::int", "s"), wire.sync())
    assert wire.rows(client.prepared("s", [5])) == [["5"]]
    assert wire.types(client.ask(wire.close("S", "s"), wire.sync())) == "3Z"


# -- tables that change ---------------------------------------------------------------------------------------------


def with_column(cluster, table, name):
    """The table has one column more."""
    cluster.nodes[0].sql(f"alter table {table} add column {name} int default 7")
    cluster.caught_up()


@pytest.mark.parametrize("split", [False, True])
def test_a_statement_is_prepared_anew_when_its_result_changes(start_forebay, shared_cluster, table, split):
    forebay = start_forebay(pool={"size": 3}, routing={"split": split})
    clients = [forebay.wire() for _ in range(3)]
    clients[0].run(f"insert into {table} values (1, 'one')")
    shared_cluster.caught_up()
    sql = f"select * from {table}"
    for client in clients:
        client.ask(wire.parse(sql, "s"), wire.sync())
    for turn in range(3):
        for client in clients:  # on every connection, as far as it goes
            client.run("begin")
        for client in clients:
            assert [len(row) for row in wire.rows(client.prepared("s"))] == [2 + turn]
        for client in clients:
            client.run("commit")
            assert [len(row) for row in wire.rows(client.prepared("s"))] == [2 + turn]
        with_column(shared_cluster, table, f"more{turn}")
        for client in clients:
            found = client.prepared("s")
            assert wire.errors(found) == [] and [len(row) for row in wire.rows(found)] == [3 + turn]


def test_in_a_transaction_the_client_is_told(single, shared_cluster, table):
    client = single.wire()
    client.ask(wire.parse(f"select * from {table}", "s"), wire.sync())
    client.prepared("s")
    with_column(shared_cluster, table, "more")
    client.run("begin")
    assert wire.errors(client.prepared("s")) == ["0A000"]
    client.run("rollback")
    assert wire.errors(client.prepared("s")) == []


def test_a_whole_pipeline_is_told_of_what_changes_in_its_middle(single, shared_cluster, table):
    client = single.wire()
    client.ask(wire.parse(f"select * from {table}", "s"), wire.parse("select 1", "one"), wire.sync())
    client.prepared("s")
    with_column(shared_cluster, table, "more")
    found = client.ask(wire.bind(name="one"), wire.execute(), wire.bind(name="s"), wire.execute(), wire.sync())
    assert wire.errors(found) == ["0A000"] and wire.rows(found) == [["1"]]
    client.send(wire.bind(name="one"), wire.execute(), wire.sync(), wire.bind(name="s"), wire.execute(), wire.sync())
    assert wire.rows(client.read_until("Z")) == [["1"]]
    client.read_until("Z")
    assert wire.errors(client.prepared("s")) == []


@pytest.mark.parametrize("through", [False, True], ids=["direct", "forebay"])
def test_a_client_that_goes_by_what_it_was_told_is_told_of_a_change(request, shared_cluster, table, through):
    client = (request.getfixturevalue("single") if through else shared_cluster.primary).wire()
    client.ask(wire.parse(f"select * from {table}", "s"), wire.describe("S", "s"), wire.sync())
    assert wire.errors(client.prepared("s")) == []
    with_column(shared_cluster, table, "more")
    assert wire.errors(client.prepared("s")) == ["0A000"], "it would read three columns as the two that it knows"
    client.ask(wire.close("S", "s"), wire.parse(f"select * from {table}", "s"), wire.describe("S", "s"), wire.sync())
    assert wire.errors(client.prepared("s")) == []


def test_a_client_that_asks_for_the_columns_each_time_does_not_see_a_change(single, shared_cluster, table):
    client = single.wire()
    client.ask(wire.parse(f"select * from {table}", "s"), wire.describe("S", "s"), wire.sync())
    asking = [wire.bind(name="s"), wire.describe("P"), wire.execute(), wire.sync()]
    assert wire.types(client.ask(*asking)) == "2TCZ"
    with_column(shared_cluster, table, "more")
    assert wire.types(client.ask(*asking)) == "2TCZ"


@pytest.mark.parametrize("others", ["own", "other client's"])
def test_what_is_parsed_after_a_change_is_planned_for_what_is_there_then(target, name, others):
    client = target.wire()
    changing = client if others == "own" else target.wire()
    insert, select = f"insert into {name} values ($1)", f"select * from {name}"
    told = []
    for kind in ("int", "text", "date"):
        changing.run(f"create table {name} (v {kind})")
        for sql in (insert, select):
            answer = client.ask(wire.parse(sql, "s"), wire.describe("S", "s"), wire.close("S", "s"), wire.sync())
            assert wire.errors(answer) == []
            told.append([frame.body for frame in answer if frame.type in "tT"])
        changing.run(f"drop table {name}")
    assert all(one != other for one, other in itertools.combinations(told, 2)), "six statements, each of types of its own"


def test_what_is_parsed_in_the_transaction_of_a_change_is_planned_for_it(target, table):
    client = target.wire()
    sql = f"select * from {table}"
    before = client.ask(wire.parse(sql, "a"), wire.describe("S", "a"), wire.sync())
    client.run("begin")
    client.run(f"alter table {table} add column more int")
    inside = client.ask(wire.parse(sql, "b"), wire.describe("S", "b"), wire.bind(name="b"), wire.execute(), wire.sync())
    client.run("rollback")
    after = client.ask(wire.parse(sql, "c"), wire.describe("S", "c"), wire.bind(name="c"), wire.execute(), wire.sync())
    assert wire.errors(inside) == wire.errors(after) == []
    assert inside[2] != before[2] == after[2]


def test_a_temporary_table_made_anew_is_described_anew(target, name):
    client = target.wire()
    told = []
    for kind in ("int", "text"):
        client.run(f"create temp table {name} (v {kind})")
        told.append(client.ask(
            wire.parse(f"select * from {name}", "s"), wire.describe("S", "s"), wire.close("S", "s"), wire.sync()))
        client.run(f"drop table {name}")
    assert wire.errors(told[0]) == wire.errors(told[1]) == [] and told[0][2] != told[1][2]


def test_clients_with_other_search_paths_do_not_share(single, shared_cluster, name):
    shared_cluster.everywhere(f"create schema {name}_a create table t (a int); create schema {name}_b create table t (a int, b text);"
                              f"grant all on schema {name}_a, {name}_b to app; grant all on {name}_a.t, {name}_b.t to app")
    clients = {}
    for which in "ab":
        clients[which] = single.wire()
        clients[which].run(f"set search_path = {name}_{which}")
        clients[which].run(f"insert into t (a) values (1)")
        clients[which].ask(wire.parse("select * from t", "s"), wire.sync())
    for _ in range(3):
        assert wire.rows(clients["a"].prepared("s")) == [["1"]]
        assert wire.rows(clients["b"].prepared("s")) == [["1", None]]
    clients["a"].run(f"set search_path = {name}_b")
    found = clients["a"].prepared("s")
    assert wire.rows(found) == [["1", None]], wire.errors(found)
    shared_cluster.everywhere(f"drop schema {name}_a, {name}_b cascade")
