"""What cannot be moved keeps its client on one server connection exactly as long as it is there; what code on the server
has set follows the client as if it had been a SET.

The pools have one connection: who is pinned has it, and another client's request is served as soon as the pin is gone.
"""

import pytest

from harness import wait_until, wire


@pytest.fixture
def single(start_forebay):
    return start_forebay(pool={"size": 1}, routing={"split": False})


@pytest.fixture
def double(start_forebay):
    return start_forebay(pool={"size": 2}, routing={"split": False})


@pytest.fixture
def functions(shared_cluster, name):
    """A schema with functions that do to their session what nobody can see in the statement."""
    shared_cluster.everywhere(f"""
        create schema {name}; grant all on schema {name} to app, other;
        create procedure {name}.settings() language plpgsql as $$ begin
            perform set_config('work_mem', '3MB', false); perform set_config('hidden.one', 'x', false); end $$;
        create function {name}.unlock() returns boolean language plpgsql volatile as $$ begin
            return pg_advisory_unlock(771); end $$""")
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
