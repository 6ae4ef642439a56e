"""What a session has done stays its own, whatever way it did it; and what failed has done nothing.

The pools have one connection, so that the next client gets what the one before left; who is to keep its connection
needs a second one beside it.
"""

import asyncio

import asyncpg
import pytest

from harness import wait_until, wire


def batch(sql, rows=0):
    return wire.parse(sql) + wire.bind() + wire.execute(rows=rows) + wire.sync()


def executed(name=""):
    return wire.bind(name=name) + wire.execute() + wire.sync()


def advisory_locks(cluster):
    return cluster.value("select count(*) from pg_locks where locktype = 'advisory'")


# -- settings, locks and portals ------------------------------------------------------------------------------------


def test_a_setting_made_by_a_statement_that_stopped_at_its_limit_stays_with_its_client(single):
    client = single.wire()
    found = client.ask(batch("select set_config('work_mem', '3MB', false)", rows=1))
    assert wire.types(found) == "12DsZ"
    assert client.value("show work_mem") == "3MB"
    assert single.wire().value("show work_mem") != "3MB"


def test_a_lock_taken_by_a_statement_that_stopped_at_its_limit_stays_with_its_client(single, shared_cluster):
    async def take_and_give_back():
        client = await asyncpg.connect(f"postgresql://app:app@127.0.0.1:{single.port}/bench", statement_cache_size=0)
        # fetchval asks for one row.
        await client.fetchval("select pg_advisory_lock(990)")
        given_back = await client.fetchval("select pg_advisory_unlock(990)")
        await client.fetchval("select pg_advisory_lock(991)")
        await client.close()
        return given_back

    assert asyncio.run(take_and_give_back())
    wait_until(lambda: advisory_locks(shared_cluster) == 0, 10, "the lock to end with its client")


def test_a_lock_taken_by_a_statement_that_failed_stays_with_its_client(single, shared_cluster):
    client = single.wire()
    found = client.ask(wire.query("select pg_advisory_lock(992), 1 / (x - x) from generate_series(1, 1) x"))
    assert wire.errors(found) == ["22012"]
    assert client.value("select pg_advisory_unlock(992)") == "t"
    assert single.wire().value("select 'free'") == "free"
    client.ask(wire.query("select pg_advisory_lock(992), 1 / (x - x) from generate_series(1, 1) x"))
    client.send(wire.terminate()).close()
    wait_until(lambda: advisory_locks(shared_cluster) == 0, 10, "the lock to be given back")


def test_each_portal_does_to_the_session_what_its_own_statement_says(single):
    client = single.wire()
    found = client.ask(
        wire.parse("set work_mem = '3MB'", "set"), wire.parse("select 1", "one"), wire.bind(name="set", portal="a"),
        wire.bind(name="one", portal="b"), wire.execute("a"), wire.execute("b"), wire.sync())
    assert wire.types(found) == "1122CDCZ"
    assert single.wire().value("show work_mem") != "3MB"
    assert client.value("show work_mem") == "3MB"


@pytest.mark.parametrize("steps, expected", [
    (["begin", "set work_mem = '3MB'", "savepoint s", "select 1/0", "rollback to s", "commit"], "3MB"),
    (["begin", "set work_mem = '3MB'", "savepoint s", "set work_mem = '5MB'", "rollback to s", "commit"], "3MB"),
    (["begin", "set work_mem = '3MB'", "savepoint s", "set work_mem = '5MB'", "rollback to s; select 1", "commit"],
     "3MB"),
    (["begin", "rollback and chain", "set work_mem = '3MB'", "commit"], "3MB"),
    (["begin", "set work_mem = '3MB'", "commit and chain", "rollback"], "3MB"),
    (["begin", "savepoint s", "set work_mem = '5MB'", "rollback to s", "commit"], "4MB"),
])
def test_settings_follow_savepoints_and_chains(double, steps, expected):
    client = double.wire()
    for step in steps:
        client.ask(wire.query(step))
    assert double.wire().value("show work_mem") == "4MB", "another client's"
    assert client.value("show work_mem") == expected


@pytest.mark.parametrize("steps", [["rollback"], ["begin", "set work_mem = '5MB'", "rollback"]])
def test_a_setting_after_a_rollback_in_the_same_batch_holds(double, steps):
    client = double.wire()
    client.run("set work_mem = '6MB'")
    statements = [*steps, "set work_mem = '3MB'"]
    client.ask(*(wire.parse(sql) + wire.bind() + wire.execute() for sql in statements), wire.sync())
    assert double.wire().value("show work_mem") == "4MB", "another client's"
    assert client.value("show work_mem") == "3MB"


# -- prepared statements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["", "closed", "refused"])
def test_without_an_unnamed_statement_nobody_else_s_is_run(single, own):
    client, other = single.wire(), single.wire()
    if own == "closed":
        client.ask(batch("select 'mine'"))
        client.ask(wire.close("S", ""), wire.sync())
    if own == "refused":
        assert wire.errors(client.ask(batch("select nothing from nowhere"))) == ["42P01"]
    other.ask(batch("select 'of another'"))
    found = client.ask(executed())
    assert wire.errors(found) == ["26000"], wire.rows(found)


def test_an_unnamed_statement_that_was_skipped_is_not_run(single):
    client = single.wire()
    client.ask(wire.parse("select 'first'"), wire.sync())
    found = client.ask(wire.bind(name="unknown"), wire.parse("select 'second'"), executed())
    assert wire.errors(found) == ["26000"]
    assert wire.rows(client.ask(executed())) != [["second"]]


@pytest.mark.parametrize("name", ["mine", ""])
def test_a_batch_after_one_that_failed_has_its_statement(single, name):
    client, other = single.wire(), single.wire()
    client.ask(wire.parse("select 'mine'", name), wire.sync())
    single.admin("RECONNECT")
    other.ask(batch("select 'of another'"))
    client.send(wire.bind(name="unknown"), executed(name), executed(name))
    assert wire.errors(client.read_until("Z")) == ["26000"]
    found = client.read_until("Z")
    assert wire.rows(found) == [["mine"]], wire.errors(found)
    assert wire.rows(client.ask(executed(name))) == [["mine"]]


def test_a_name_that_was_not_given_is_free(single):
    client, other = single.wire(), single.wire()
    other.ask(wire.parse("select 'text'", "known"), executed("known"))
    assert wire.errors(client.ask(wire.bind(name="unknown"), wire.parse("select 'text'", "s"), wire.sync())) == ["26000"]
    found = client.ask(wire.parse("select 'text'", "s"), executed("s"))
    assert wire.rows(found) == [["text"]], wire.errors(found)


def test_a_close_that_was_skipped_has_closed_nothing(single):
    client = single.wire()
    client.ask(wire.parse("select 'text'", "s"), executed("s"))
    assert wire.errors(client.ask(wire.bind(name="unknown"), wire.close("S", "s"), wire.sync())) == ["26000"]
    found = client.ask(executed("s"))
    assert wire.rows(found) == [["text"]], wire.errors(found)


def test_a_deallocate_in_a_failed_transaction_takes_no_name(single):
    client = single.wire()
    client.ask(wire.parse("select 'text'", "s"), wire.sync())
    client.run("begin")
    client.ask(wire.query("select 1/0"))
    assert wire.errors(client.ask(wire.query("deallocate s"))) == ["25P02"]
    client.run("rollback")
    assert wire.rows(client.ask(executed("s"))) == [["text"]]
