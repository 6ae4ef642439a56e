"""A server connection goes back to the pool only when it is provably clean.

Every test runs on a pool of one connection, so that the next client gets what the one before left.
"""

import pytest

from harness import wait_until, wire


@pytest.fixture
def forebay(start_forebay):
    return start_forebay(pool={"size": 1}, routing={"split": False})


def leave(client, how):
    {"terminate": lambda: client.send(wire.terminate()).close(), "close": client.close, "reset": client.reset}[how]()


@pytest.mark.parametrize("how", ["terminate", "close", "reset"])
def test_an_abandoned_transaction_is_rolled_back(forebay, shared_cluster, table, how):
    client = forebay.wire()
    client.run("begin")
    client.run(f"insert into {table} (v) values ('x')")
    client.run(f"lock table {table} in access exclusive mode")
    leave(client, how)
    assert forebay.wire().value(f"select count(*) from {table}") == "0"
    assert shared_cluster.value("select count(*) from pg_stat_activity where state like 'idle in transaction%'"
                                " and usename = 'app'") == 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_half_read_result_never_reaches_the_next_client(forebay, how):
    client = forebay.wire()
    client.send(wire.query("select i, repeat('x', 1000) from generate_series(1, 200000) i"))
    client.read_frame()
    leave(client, how)
    assert forebay.wire().ask(wire.query("select 'fresh'"))[1].body == b"\0\x01\0\0\0\x05fresh"


def test_a_client_that_leaves_while_its_query_runs_blocks_nobody_for_long(forebay):
    client = forebay.wire()
    client.send(wire.query("select pg_sleep(120)"))
    forebay.wait_pool(cl_active=1, sv_active=1)
    client.close()
    assert forebay.wire().value("select 'next'") == "next", "the abandoned query was cancelled or its connection closed"


def test_a_client_that_leaves_before_sync_leaves_nothing_behind(forebay, table):
    client = forebay.wire()
    client.send(wire.parse(f"insert into {table} (v) values ('x')"), wire.bind(), wire.execute(), wire.flush())
    client.read_until("C")
    client.close()
    assert forebay.wire().value(f"select count(*) from {table}") == "0", "without Sync nothing was committed"


def test_a_client_that_leaves_inside_copy_leaves_nothing_behind(forebay, table):
    client = forebay.wire()
    client.send(wire.query(f"copy {table} (v) from stdin"))
    client.read_until("G")
    client.send(wire.copy_data(b"one\ntwo\n"))
    client.close()
    assert forebay.wire().value(f"select count(*) from {table}") == "0"


def test_a_client_that_leaves_while_reading_a_copy_disturbs_nobody(forebay):
    client = forebay.wire()
    client.send(wire.query("copy (select repeat('x', 1000) from generate_series(1, 200000)) to stdout"))
    client.read_until("d")
    client.reset()
    assert forebay.wire().value("select 'next'") == "next"


def test_pipelined_work_of_a_client_that_left_is_not_answered_to_the_next(forebay):
    for _ in range(20):
        client = forebay.wire()
        client.send(*[part for _ in range(20) for part in (wire.parse("select 'old'"), wire.bind(), wire.execute(), wire.sync())])
        client.reset()
        assert forebay.wire().value("select 'new'") == "new"


# What one client does, and what shows in the next one's session if it was not undone.
LEFTOVERS = {
    "set": ("set statement_timeout = 4321", "show statement_timeout", "0"),
    "set search_path": ("set search_path = pg_catalog", "show search_path", '"$user", public'),
    "set application_name": ("set application_name = 'mine'", "select count(*) from pg_stat_activity where pid = pg_backend_pid()"
                             " and application_name = 'mine'", "0"),
    "set_config": ("select set_config('work_mem', '12345kB', false)", "show work_mem", "4MB"),
    "set_config computed": ("select set_config(n, v, false) from (values ('work_mem', '12345kB')) as t (n, v)", "show work_mem", "4MB"),
    "custom setting": ("set my.tenant = '42'", "select coalesce(current_setting('my.tenant', true), '')", ""),
    "set session characteristics": ("set session characteristics as transaction read only", "show transaction_read_only", "off"),
    "set time zone": ("set time zone 'Asia/Tokyo'", "select current_setting('TimeZone') = 'Asia/Tokyo'", "f"),
    "temporary table": ("create temporary table left_over (a int)", "select count(*) from pg_class where relname = 'left_over'"
                        " and pg_my_temp_schema() = relnamespace", "0"),
    "select into temp": ("select 1 as a into temp left_over", "select to_regclass('pg_temp.left_over') is null", "t"),
    "listen": ("listen left_over", "select count(*) from pg_listening_channels()", "0"),
    "advisory lock": ("select pg_advisory_lock(4242)", "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()", "0"),
    "cursor with hold": ("declare left_over cursor with hold for select 1", "select count(*) from pg_cursors", "0"),
    "prepare": ("prepare left_over as select 1", "select count(*) from pg_prepared_statements where from_sql", "0"),
    "inside a transaction": ("begin; set work_mem = '12345kB'; create temporary table left_over (a int); commit",
                             "select current_setting('work_mem') || coalesce(to_regclass('pg_temp.left_over')::text, '')", "4MB"),
    "inside do": ("do $$ begin perform set_config('work_mem', '12345kB', false); end $$", "show work_mem", "4MB"),
}


@pytest.mark.parametrize("after", ["the client left", "the client stayed"])
@pytest.mark.parametrize("case", list(LEFTOVERS))
def test_what_a_session_changed_is_kept_from_others(start_forebay, case, after):
    change, look, clean = LEFTOVERS[case]
    forebay = start_forebay(pool={"size": 2 if after == "the client stayed" else 1}, routing={"split": False})
    first = forebay.wire()
    first.run(change)
    if after == "the client left":
        first.send(wire.terminate()).close()
    for _ in range(3):
        next_client = forebay.wire()
        assert next_client.value(look) == clean, f"{change!r} shows in another client's session"


def test_set_role_is_kept_from_others(forebay, shared_cluster):
    shared_cluster.everywhere("grant other to app")
    first = forebay.wire()
    first.run("set role other")
    first.send(wire.terminate()).close()
    assert forebay.wire().value("select current_user") == "app"


def test_set_local_ends_with_its_transaction(forebay):
    client = forebay.wire()
    client.run("begin; set local work_mem = '12345kB'")
    assert client.value("show work_mem") == "12345kB"
    client.run("commit")
    assert client.value("show work_mem") == "4MB"
    assert forebay.wire().value("show work_mem") == "4MB"


def test_what_start_up_asked_for_holds_for_this_client_alone(forebay):
    first = forebay.wire(params={"options": "-c work_mem=12345kB", "application_name": "first"})
    second = forebay.wire()
    for _ in range(3):
        assert first.value("show work_mem") == "12345kB"
        assert second.value("show work_mem") == "4MB"
        assert first.value("show application_name") == "first"
        assert second.value("show application_name") == ""


def test_reported_parameters_follow_each_client_on_a_shared_connection(forebay):
    first = forebay.wire(params={"DateStyle": "German", "TimeZone": "Asia/Tokyo"})
    second = forebay.wire(params={"DateStyle": "ISO, MDY", "TimeZone": "UTC"})
    for _ in range(3):
        assert first.value("select date '2026-11-20'") == "20.11.2026"
        assert second.value("select date '2026-11-20'") == "2026-11-20"
        assert first.value("show timezone") == "Asia/Tokyo"
        assert second.value("show timezone") == "UTC"


def test_discard_all_works_and_hurts_nobody(forebay):
    first, second = forebay.wire(), forebay.wire(params={"application_name": "second"})
    for _ in range(3):
        first.run("discard all")
        assert second.value("show application_name") == "second"


def test_a_connection_is_given_back_only_once(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    clients = [forebay.wire() for _ in range(10)]
    for client in clients:
        client.send(wire.query("begin"), wire.query("select txid_current()"), wire.query("commit"))
    seen = []
    for client in clients:
        client.read_until()
        seen.append(wire.rows(client.read_until())[0][0])
        client.read_until()
    assert len(set(seen)) == 10, "every client had a transaction of its own"

    def idle():
        """Idle connections to the primary: a login before the primary is known may have asked a replica."""
        port = str(shared_cluster.primary.port)
        return [row for row in forebay.admin("SHOW SERVERS") if str(row["port"]) == port and row["state"] == "idle"]

    wait_until(lambda: len(idle()) == 1, 5, "one idle server connection")
