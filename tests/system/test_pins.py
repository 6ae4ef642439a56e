"""What cannot be moved keeps its client on one server connection exactly as long as it is there; what code on the server
has set follows the client as if it had been a SET.

The pools have one connection: who is pinned has it, and another client's request is served as soon as the pin is gone.
"""

import pytest

from harness import wait_until, wire


@pytest.fixture
def functions(shared_cluster, name):
    """A schema with functions that do to their session what nobody can see in the statement."""
    shared_cluster.everywhere(f"""
        create schema {name}; grant all on schema {name} to app, other;
        create procedure {name}.settings() language plpgsql as $$ begin
            perform set_config('work_mem', '3MB', false); perform set_config('hidden.one', 'x', false); end $$;
        create function {name}.unlock() returns boolean language plpgsql volatile as $$ begin
            return pg_advisory_unlock(771); end $$;
        create function {name}.tenant(id text) returns void language plpgsql as $$ begin
            perform set_config('app.tenant', id, false); end $$;
        create function {name}.wraps(id text) returns void language sql as $$ select {name}.tenant(id) $$;
        create function {name}.memory() returns void language plpgsql as $$ begin
            if true then set work_mem = '3MB'; end if; end $$;
        create function {name}.dynamic() returns void language plpgsql as $$ begin
            execute format('set work_mem = %L', '3MB'); end $$;
        create function {name}.with_default() returns text language plpgsql as $$ begin
            perform set_config('app.tenant', 'seven', false); return 'x'; end $$;
        create function {name}.runs() returns void language plpgsql as $$ begin
            execute 'select {name}.tenant($1)' using 'seven'; end $$;
        create function {name}.brief() returns void language plpgsql as $$ begin
            create temporary table brief (a int) on commit drop; end $$;
        create function {name}.any(name text, value text) returns void language sql as $$
            select set_config('app.' || name, value, false) $$;
        create function {name}.in_tx(id text) returns void language plpgsql as $$ begin
            perform set_config('app.tenant', id, true); update {name}.plain set a = 1; end $$;
        create function {name}.fires() returns void language plpgsql as $$ begin
            update {name}.t set a = 1; insert into {name}.t values (1); end $$;
        create function {name}.scratch() returns void language plpgsql as $$ begin
            create temporary table if not exists scratch (a int); end $$;
        create function {name}.lock() returns void language sql as $$ select pg_advisory_lock(771) $$;
        create function {name}.noted() returns trigger language plpgsql as $$ begin
            perform set_config('app.tenant', 'seven', false); return new; end $$;
        create table {name}.t (a int); create table {name}.plain (a int);
        create trigger noted before insert or update on {name}.t for each row execute function {name}.noted();
        create function {name}.deep(id text) returns void language sql as $$
            select set_config('request.jwt.sub', id, false) $$;
        create table {name}.parent (a int primary key) partition by range (a);
        create table {name}.part partition of {name}.parent for values from (0) to (100);
        create trigger noted before insert on {name}.part for each row execute function {name}.noted();
        create table {name}.top (a int primary key); insert into {name}.top values (1);
        create table {name}.below (a int references {name}.top on delete cascade); insert into {name}.below values (1);
        create function {name}.noted_end() returns trigger language plpgsql as $$ begin
            perform {name}.tenant('seven'); return old; end $$;
        create trigger noted before delete on {name}.below for each row execute function {name}.noted_end();
        create view {name}.v as select * from {name}.t;
        create table {name}.defaulted (a int, v text default {name}.with_default());
        grant all on all tables in schema {name} to app""")
    yield name
    shared_cluster.everywhere(f"drop schema {name} cascade")


def pins(forebay):
    """The reasons of all pins."""
    return [row["reason"] for row in forebay.admin("SHOW PINS")]


def is_pinned(forebay, reason):
    wait_until(lambda: pins(forebay) == [reason], 10, f"the client to be pinned for {reason}")


def is_free(forebay):
    wait_until(lambda: pins(forebay) == [], 10, "the pin to be gone")


# -- as long as it is there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, end, reason", [
    ("create temporary table t (a int)", "drop table t", "temporary table"),
    ("create temporary table t (a int)", "discard temp", "temporary table"),
    ("create temp table t (a int)", "discard all", "temporary table"),
    ("create temporary view v as select 1 as a", "drop view v", "temporary table"),
    ("create temporary sequence s", "drop sequence s", "temporary table"),
    ("create function pg_temp.f() returns int language sql as 'select 1'", "drop function pg_temp.f()",
     "temporary table"),
    ("create type pg_temp.ty as (a int)", "drop type pg_temp.ty", "temporary table"),
    ("select 1 as a into temporary t", "drop table t", "temporary table"),
    ("select pg_advisory_lock(770)", "select pg_advisory_unlock(770)", "advisory lock"),
    ("select pg_try_advisory_lock_shared(770)", "select pg_advisory_unlock_shared(770)", "advisory lock"),
    ("select pg_advisory_lock(7, 70)", "select pg_advisory_unlock_all()", "advisory lock"),
    ("declare c cursor with hold for select 1", "close c", "cursor with hold"),
    ("declare c cursor with hold for select 1", "close all", "cursor with hold"),
])
def test_a_pin_ends_with_what_it_is_for(single, make, end, reason):
    client, other = single.wire(), single.wire()
    client.run(make)
    is_pinned(single, reason)
    other.send(wire.query("select 'served'"))
    assert other.nothing_comes(0.2)
    client.run("select 1")
    assert other.nothing_comes(0.1), "it is still there"
    client.run(end)
    assert wire.rows(other.read_until()) == [["served"]]
    is_free(single)


@pytest.mark.parametrize("steps", [
    ["begin", "create temporary table t (a int) on commit drop", "insert into t values (1)", "commit"],
    ["begin", "create temporary table t (a int)", "rollback"],
    ["begin", "declare c cursor with hold for select 1", "rollback"],
    ["begin", "select pg_advisory_lock(772)", "select pg_advisory_unlock(772)", "commit"],
    ["begin", "select pg_advisory_xact_lock(772)", "commit"],
    ["create temp table t (a int); insert into t values (1); drop table t"],
])
def test_what_a_transaction_takes_along_pins_nobody(single, steps):
    client, other = single.wire(), single.wire()
    for step in steps:
        client.run(step)
    assert other.value("select 'served'") == "served"
    is_free(single)


def test_who_did_not_get_the_lock_is_not_pinned(double):
    holder, client = double.wire(), double.wire()
    holder.run("select pg_advisory_lock(773)")
    assert client.value("select pg_try_advisory_lock(773)") == "f"
    wait_until(lambda: len(pins(double)) == 1, 10, "nobody but the holder to be pinned")
    assert holder.value("select pg_advisory_unlock(773)") == "t"


def test_one_of_two_reasons_is_enough(double):
    client = double.wire()
    client.run("create temporary table t (a int)")
    client.run("select pg_advisory_lock(774)")
    client.run("drop table t")
    is_pinned(double, "advisory lock")
    client.run("select pg_advisory_unlock(774)")
    is_free(double)


def test_a_lock_that_a_function_gives_back_pins_no_longer(double, functions):
    client = double.wire()
    client.run("select pg_advisory_lock(771)")
    is_pinned(double, "advisory lock")
    assert client.value(f"select {functions}.unlock()") == "t"
    wait_until(lambda: client.value(f"select {functions}.unlock()") == "f" and pins(double) == [], 10, "the pin to be gone")


def test_setseed_pins_for_good(double):
    client = double.wire()
    client.run("select setseed(0.5)")
    is_pinned(double, "setseed")
    client.run("create temporary table t (a int)")
    client.run("drop table t")
    is_pinned(double, "setseed")
    first = client.value("select random()")
    client.run("select setseed(0.5)")
    assert client.value("select random()") == first


def test_a_pinned_client_that_leaves_frees_its_connection(single, shared_cluster):
    client = single.wire()
    client.run("create temporary table t (a int)")
    pid = client.value("select pg_backend_pid()")
    client.send(wire.terminate()).close()
    other = single.wire()
    assert other.value("select to_regclass('pg_temp.t')") is None
    assert other.value("select pg_backend_pid()") == pid, "it was cleaned, not closed"


def test_a_client_that_leaves_at_once_costs_no_connection(single):
    pids = set()
    for _ in range(5):
        with single.wire() as client:
            pids.add(client.value("select pg_backend_pid()"))
            client.run("do 'begin perform 1; end'")
            client.send(wire.terminate())
    assert len(pids) == 1


# -- what code has set ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement, name, value", [
    ("do $$ begin perform set_config('work_mem', '3MB', false); end $$", "work_mem", "3MB"),
    ("do $$ begin execute 'set work_mem = ''3MB'''; end $$", "work_mem", "3MB"),
    ("do $$ begin perform set_config('app.tenant', 'seven', false); end $$", "app.tenant", "seven"),
    ("set work_mem = '3MB'; set statement_timeout = '1h'", "work_mem", "3MB"),
    ("set app.tenant = 'seven'; set work_mem = '3MB'", "app.tenant", "seven"),
    ("select set_config('app.tenant', 'sev' || 'en', false)", "app.tenant", "seven"),
    ("select set_config('work_mem', (2 + 1) || 'MB', false), 1", "work_mem", "3MB"),
    ("do $$ begin execute 'set time zone interval ''-03:30'' hour to minute'; end $$", "timezone", "<-03:30>+03:30"),
    ("do $$ begin execute 'set search_path = a, \"B c\", public'; end $$", "search_path", 'a, "B c", public'),
    ("do $$ begin execute 'set datestyle = german'; end $$", "datestyle", "German, DMY"),
])
def test_what_is_set_by_code_follows_the_client(single, statement, name, value):
    client, other = single.wire(), single.wire()
    before = other.ask(wire.query(f"show {name}"))
    client.run(statement)
    assert wire.rows(other.ask(wire.query(f"show {name}"))) in (wire.rows(before), [[""]]), "another client's"
    assert client.value(f"show {name}") == value
    assert pins(single) == []


def test_what_a_procedure_has_set_follows_the_client_as_far_as_the_server_tells(single, functions):
    client, other = single.wire(), single.wire()
    client.run(f"call {functions}.settings()")
    assert other.value("show work_mem") == "4MB"
    assert not other.value("select current_setting('hidden.one', true)"), "nobody else gets what cannot be seen"
    assert client.value("show work_mem") == "3MB"


def knowing(forebay, functions):
    """Two clients of an instance that has read the catalog."""
    client = forebay.wire()
    client.run("select 1")
    known = lambda: "volatile" in forebay.admin(f"EXPLAIN ROUTE DATABASE bench select {functions}.tenant('x')")[0]["reason"]
    wait_until(known, 15, "the catalog to be read")
    return client, forebay.wire()


@pytest.mark.parametrize("statement, setting, value", [
    ("select {}.tenant('seven')", "app.tenant", "seven"),
    ("select 1 from {}.wraps('seven')", "app.tenant", "seven"),
    ("select {}.memory()", "work_mem", "3MB"),
    ("select {}.dynamic()", "work_mem", "3MB"),
    ("insert into {}.t values (1)", "app.tenant", "seven"),
    ("select {}.fires()", "app.tenant", "seven"),
    ("select {}.deep('seven')", "request.jwt.sub", "seven"),
    ("select {}.runs()", "app.tenant", "seven"),
    ("insert into {}.parent values (1)", "app.tenant", "seven"),
    ("delete from {}.top where a = 1", "app.tenant", "seven"),
    ("insert into {}.v values (1)", "app.tenant", "seven"),
    ("insert into {}.defaulted (a) values (1)", "app.tenant", "seven"),
    ("with x as (select 1) insert into {}.t select * from x", "app.tenant", "seven"),
])
def test_what_a_function_or_trigger_has_set_follows_the_client(single, functions, statement, setting, value):
    client, other = knowing(single, functions)
    before = other.ask(wire.query(f"show {setting}"))
    client.run(statement.format(functions))
    assert wire.rows(other.ask(wire.query(f"show {setting}"))) in (wire.rows(before), [[""]]), "another client's"
    assert client.value(f"show {setting}") == value
    assert pins(single) == []


def test_settings_outlast_the_end_of_prepared_statements(single):
    client, other = single.wire(), single.wire()
    client.run("set work_mem = '3MB'")
    client.run("deallocate all; select 1")
    assert other.value("show work_mem") == "4MB", "another client's"
    assert client.value("show work_mem") == "3MB"


def test_what_a_copy_s_trigger_has_set_follows_the_client(single, functions):
    client, other = knowing(single, functions)
    client.send(wire.query(f"copy {functions}.t from stdin"))
    client.read_until("G")
    client.ask(wire.copy_data(b"1\n"), wire.copy_done())
    assert not other.value("select current_setting('app.tenant', true)")
    assert client.value("show app.tenant") == "seven"


def test_a_statement_that_was_prepared_before_its_function_sets_something_is_judged_again(single, shared_cluster, functions):
    client, other = knowing(single, functions)
    client.ask(wire.parse(f"select {functions}.in_tx('x')", name="p"), wire.sync())
    shared_cluster.sql(f"create or replace function {functions}.in_tx(id text) returns void language sql as "
                       f"$$ select set_config('app.tenant', 'seven', false) $$")

    def follows():
        client.ask(wire.bind(name="p"), wire.execute(), wire.sync())
        leaked = other.value("select current_setting('app.tenant', true)")
        return not leaked and client.value("show app.tenant") == "seven"
    wait_until(follows, 20, "the change to be seen")


def test_a_renamed_table_has_its_triggers(single, shared_cluster, functions):
    client, other = knowing(single, functions)
    shared_cluster.sql(f"alter table {functions}.t rename to renamed")

    def follows():
        client.run(f"insert into {functions}.renamed values (1)")
        leaked = other.value("select current_setting('app.tenant', true)")
        return not leaked and client.value("show app.tenant") == "seven"
    wait_until(follows, 20, "the change to be seen")


def test_what_a_function_sets_under_a_computed_name_keeps_its_connection(double, functions):
    client, other = knowing(double, functions)
    client.run(f"select {functions}.any('tenant', 'seven')")
    is_pinned(double, "setting")
    assert not other.value("select current_setting('app.tenant', true)")
    assert client.value("show app.tenant") == "seven"


@pytest.mark.parametrize("call, reason", [("scratch", "temporary table"), ("lock", "advisory lock")])
def test_what_a_function_leaves_pins(double, functions, call, reason):
    client, _ = knowing(double, functions)
    client.run(f"select {functions}.{call}()")
    is_pinned(double, reason)
    client.run("drop table scratch" if call == "scratch" else f"select {functions}.unlock()")
    wait_until(lambda: pins(double) == [], 10, "the pin to be gone")


def test_a_function_that_leaves_nothing_costs_no_question(single, shared_cluster, functions):
    client, _ = knowing(single, functions)
    pid = client.value("select pg_backend_pid()")
    last = lambda: shared_cluster.value("select query from pg_stat_activity where pid = %s", params=[pid])
    for statement in (f"select {functions}.in_tx('seven')", f"insert into {functions}.plain values (1)",
                      f"update {functions}.plain set a = 2", "select 'nothing'"):
        client.run(statement)
        assert last() == statement
    client.run(f"select {functions}.tenant('seven')")
    wait_until(lambda: "pg_settings" in last(), 10, "the server to be asked")


def test_a_setting_whose_name_is_computed_keeps_its_connection(double):
    client = double.wire()
    client.run("select set_config('app.' || 'tenant', 'seven', false)")
    is_pinned(double, "setting")
    assert client.value("show app.tenant") == "seven"
    client.run("discard all")
    is_free(double)


def test_code_that_resets_goes_back_to_what_the_session_began_with(single):
    client, other = single.wire(params={"options": "-c work_mem=5MB"}), single.wire()
    client.run("set work_mem = '3MB'")
    client.run("do $$ begin execute 'reset work_mem'; end $$")
    assert other.value("show work_mem") == "4MB"
    assert client.value("show work_mem") == "5MB"


def test_a_role_that_code_has_taken_follows_the_client(single):
    client, other = single.wire(), single.wire()
    client.run("do $$ begin execute 'set role app'; end $$")
    assert other.value("show role") == "none"
    assert client.value("show role") == "app"


def test_what_cannot_be_found_out_in_time_is_not_given_to_others(double):
    client = double.wire()
    client.run("set statement_timeout = '1ms'; set app.tenant = 'seven'")
    wait_until(lambda: wire.rows(client.ask(wire.query("show app.tenant"))) == [["seven"]], 10, "its own setting")
    assert not double.wire().value("select current_setting('app.tenant', true)")


# -- a limit --------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(start_forebay):
    """One client may be pinned, and one is."""
    forebay = start_forebay(pool={"size": 3, "max_pinned": 1}, config={"general": {"threads": 2}})
    holder = forebay.wire()
    holder.run("create temporary table t (a int)")
    is_pinned(forebay, "temporary table")
    return forebay, holder


def extended(sql):
    return [wire.parse(sql), wire.bind(), wire.execute(), wire.sync()]


MAKES = ["create temporary table t (a int)", "select pg_advisory_lock(881)", "prepare p as select 1",
         "declare c cursor with hold for select 1"]


@pytest.mark.parametrize("request_of", [lambda sql: [wire.query(sql)], extended], ids=["simple", "extended"])
@pytest.mark.parametrize("make", MAKES)
def test_one_more_than_may_be_pinned_is_refused(limited, make, request_of):
    forebay, holder = limited
    client = forebay.wire()
    found = client.ask(*request_of(make))
    assert (wire.errors(found), wire.status(found)) == (["53400"], "I")
    assert client.run("select 'goes on'") == [["goes on"]]
    assert pins(forebay) == ["temporary table"]
    holder.run("drop table t")
    is_free(forebay)
    assert wire.errors(client.ask(*request_of(make))) == []
    wait_until(lambda: len(pins(forebay)) == 1, 10, "the next one to be pinned")


@pytest.mark.parametrize("request_of", [lambda sql: [wire.query(sql)], extended], ids=["simple", "extended"])
def test_a_transaction_fails_by_the_refusal_as_by_any_error(limited, request_of):
    forebay, _ = limited
    client = forebay.wire()
    client.run("begin")
    found = client.ask(*request_of("select pg_advisory_lock(882)"))
    assert (wire.errors(found), wire.status(found)) == (["53400"], "E")
    assert wire.errors(client.ask(wire.query("select 1"))) == ["25P02"]
    assert wire.tags(client.ask(wire.query("commit"))) == ["ROLLBACK"]
    assert client.run("select 1") == [["1"]]


def test_a_statement_that_was_prepared_before_is_refused_and_runs_later(limited):
    forebay, holder = limited
    client = forebay.wire()
    client.ask(wire.parse("select pg_advisory_lock($1)", name="lock"), wire.sync())
    lock = [wire.bind(name="lock", values=["883"]), wire.execute(), wire.sync()]
    assert wire.errors(client.ask(*lock)) == ["53400"]
    holder.run("drop table t")
    is_free(forebay)
    assert wire.errors(client.ask(*lock)) == []
    is_pinned(forebay, "advisory lock")


def test_what_ends_with_its_transaction_or_is_there_already_is_not_refused(limited):
    forebay, holder = limited
    holder.run("create temporary table another (a int)")
    client = forebay.wire()
    client.run("begin")
    client.run("create temporary table t (a int) on commit drop")
    client.run("select pg_advisory_xact_lock(884)")
    client.run("commit")
    is_pinned(forebay, "temporary table")


def test_a_limit_holds_for_those_who_come_together(start_forebay):
    forebay = start_forebay(pool={"size": 12, "max_pinned": 2}, routing={"split": False})
    clients = [forebay.wire() for _ in range(10)]
    for number, client in enumerate(clients):
        client.send(wire.query(f"select pg_advisory_lock({7000 + number}), pg_sleep(0.3)"))
    refused = [wire.errors(client.read_until("Z")) for client in clients]
    assert refused.count(["53400"]) == 8 and refused.count([]) == 2
    wait_until(lambda: len(pins(forebay)) == 2, 10, "two pins")


def test_what_is_no_pin_is_not_refused(limited, functions):
    forebay, _ = limited
    client, _ = knowing(forebay, functions)
    for statement in (f"select {functions}.brief()", "explain select pg_advisory_lock(1)",
                      "create temporary table x (a int) on  commit\n drop"):
        assert wire.errors(client.ask(wire.query(statement))) == [], statement
    client.run("begin")
    client.ask(wire.query("select 1/0"))
    for refused in (wire.query("select pg_advisory_lock(1)"), wire.parse("select pg_advisory_lock(1)") + wire.sync()):
        assert wire.errors(client.ask(refused)) == ["25P02"]
    client.run("rollback")
    is_pinned(forebay, "temporary table")


def test_a_pinned_client_that_leaves_makes_room(limited):
    forebay, holder = limited
    holder.close()
    is_free(forebay)
    forebay.wire().run("select pg_advisory_lock(885)")
    is_pinned(forebay, "advisory lock")
