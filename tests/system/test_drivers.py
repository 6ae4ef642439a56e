"""Drivers and programs as people use them, straight to PostgreSQL and through Forebay."""

import asyncio
import os
import subprocess

import asyncpg
import psycopg
import pytest

from harness.postgres import bin_dir


@pytest.fixture(params=["direct", "forebay", "forebay, pool of two", "forebay, session mode"])
def endpoint(request):
    if request.param == "direct":
        return request.getfixturevalue("shared_cluster").primary
    pool = {"forebay": {}, "forebay, pool of two": {"size": 2}, "forebay, session mode": {"mode": "session"}}[request.param]
    return request.getfixturevalue("start_forebay")(pool=pool)


# -- psycopg 3 ----------------------------------------------------------------------------------------------------


def test_psycopg_works(endpoint, table):
    with psycopg.connect(endpoint.dsn()) as connection:
        with connection.cursor() as cursor:
            cursor.executemany(f"insert into {table} (v) values (%s) returning id", [(str(n),) for n in range(50)], returning=True)
        connection.commit()
        assert connection.execute(f"select count(*) from {table}").fetchone() == (50,)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(f"insert into {table} (id) values (1)")
        connection.rollback()
        with connection.transaction():
            connection.execute(f"delete from {table} where id > 10")
            with pytest.raises(ZeroDivisionError), connection.transaction():
                connection.execute(f"delete from {table}")
                raise ZeroDivisionError
        assert connection.execute(f"select count(*) from {table}").fetchone() == (10,)


def test_psycopg_prepares_what_it_repeats(endpoint, table):
    with psycopg.connect(endpoint.dsn(), autocommit=True, prepare_threshold=0) as connection:
        for number in range(200):
            connection.execute(f"insert into {table} (v) values (%s)", [f"{number}"])
            assert connection.execute(f"select v from {table} where v = %s", [f"{number}"]).fetchone() == (str(number),)
        for number in range(150):  # more statements than psycopg keeps: it deallocates the oldest
            assert connection.execute(f"select {number} + %s", [1]).fetchone() == (number + 1,)


def test_psycopg_reads_binary_results(endpoint):
    with psycopg.connect(endpoint.dsn(), autocommit=True) as connection:
        row = connection.cursor(binary=True).execute("select %s::int8, %s::float8, %s::bytea", [1 << 40, 0.5, b"\0\xff"]).fetchone()
        assert row == (1 << 40, 0.5, b"\0\xff")


def test_psycopg_pipelines(endpoint, table):
    with psycopg.connect(endpoint.dsn(), autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute(f"insert into {table} (v) values (%s) returning v", [str(n)]) for n in range(100)]
            pipeline.sync()
            count = connection.execute(f"select count(*) from {table}")
            assert [cursor.fetchone() for cursor in cursors] == [(str(n),) for n in range(100)]
            assert count.fetchone() == (100,)
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("select 1")
            connection.execute("select 1 / 0")
            connection.execute("select 2")
        assert connection.execute("select 3").fetchone() == (3,)


def test_psycopg_reads_server_side_cursors(endpoint):
    with psycopg.connect(endpoint.dsn()) as connection:
        with connection.cursor("reader") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500500


def test_psycopg_async_clients_share_the_pool(endpoint, table):
    async def one(number):
        async with await psycopg.AsyncConnection.connect(endpoint.dsn()) as connection:
            async with connection.transaction():
                await connection.execute(f"insert into {table} (v) values (%s)", [str(number)])
            cursor = await connection.execute(f"select count(*) from {table} where v = %s", [str(number)])
            return (await cursor.fetchone())[0]

    async def everyone():
        return await asyncio.gather(*[one(number) for number in range(40)])

    assert asyncio.run(everyone()) == [1] * 40


# -- asyncpg ------------------------------------------------------------------------------------------------------


def with_asyncpg(endpoint, work, **options):
    async def run():
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=endpoint.port, user="app", password="app", database="bench", min_size=1, max_size=10, **options)
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("cache", [100, 0])
def test_asyncpg_works(endpoint, table, cache):
    async def work(pool):
        await pool.executemany(f"insert into {table} (v) values ($1)", [(str(n),) for n in range(50)])
        assert await pool.fetchval(f"select count(*) from {table}") == 50
        rows = await asyncio.gather(*[pool.fetchval(f"select v from {table} where v = $1", str(n)) for n in range(50)])
        assert rows == [str(n) for n in range(50)]
        async with pool.acquire() as connection:
            async with connection.transaction():
                await connection.execute(f"delete from {table} where v = '1'")
                assert await connection.fetchval(f"select count(*) from {table}") == 49
                seen = [record["v"] async for record in connection.cursor(f"select v from {table}", prefetch=7)]
                assert len(seen) == 49
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute(f"insert into {table} select * from {table} limit 1")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute(f"delete from {table}")
                    raise ZeroDivisionError
            assert await connection.fetchval(f"select count(*) from {table}") == 49
            statement = await connection.prepare("select $1::int + 1")
            assert [await statement.fetchval(n) for n in range(20)] == [n + 1 for n in range(20)]

    with_asyncpg(endpoint, work, statement_cache_size=cache)


def test_asyncpg_copies_and_types(endpoint, table):
    async def work(pool):
        async with pool.acquire() as connection:
            await connection.copy_records_to_table(table, records=[(n, f"row {n}") for n in range(1000)], columns=["id", "v"])
            assert await connection.fetchval(f"select count(*) from {table}") == 1000
            assert await connection.fetchval("select $1::jsonb", '{"a": 1}') == '{"a": 1}'
            assert await connection.fetchval("select array[1, 2, 3]::int[]") == [1, 2, 3]

    with_asyncpg(endpoint, work)


def test_asyncpg_cancels_by_time_out(endpoint):
    async def work(pool):
        with pytest.raises(asyncio.TimeoutError):
            await pool.fetchval("select pg_sleep(30)", timeout=0.3)
        assert await asyncio.gather(*[pool.fetchval("select 1") for _ in range(10)]) == [1] * 10

    with_asyncpg(endpoint, work)


# -- PostgreSQL's own programs ------------------------------------------------------------------------------------


def run(endpoint, *command, check=True, stdin=None):
    done = subprocess.run(
        [bin_dir() / command[0], *map(str, command[1:])], capture_output=True, text=True, timeout=120, input=stdin, check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **endpoint.environment()})
    assert not check or done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("script", ["select-only", "simple-update", "tpcb-like"])
def test_pgbench_runs(endpoint, request, mode, script):
    # Its threads wait for an answer to Parse, so a client may wait for a connection that another one of its own
    # thread holds: with prepared statements it needs as many connections as clients.
    clients = 2 if mode == "prepared" and "pool of two" in request.node.name else 12
    done = run(endpoint, "pgbench", "-n", "-M", mode, "-b", script, "-c", clients, "-j", "2", "-t", "30")
    assert f"number of transactions actually processed: {clients * 30}/{clients * 30}" in done.stdout, done.stdout
    assert "number of failed transactions: 0" in done.stdout and not done.stderr.count("ERROR"), done.stderr


def test_pgbench_reconnects_for_each_transaction(endpoint):
    done = run(endpoint, "pgbench", "-n", "-S", "-C", "-c", "4", "-t", "20")
    assert "80/80" in done.stdout, done.stdout


def test_pgbench_pipelines(endpoint, tmp_path):
    script = tmp_path / "pipeline.sql"
    script.write_text("\\startpipeline\nselect 1;\nselect 2;\nselect abalance from pgbench_accounts where aid = 1;\n\\endpipeline\n")
    done = run(endpoint, "pgbench", "-n", "-M", "extended", "-f", str(script), "-c", "4", "-t", "50")
    assert "200/200" in done.stdout, done.stdout


def test_pgbench_makes_its_tables(start_forebay, shared_cluster):
    forebay = start_forebay()
    environment = {**forebay.environment(dbname="other"), "PATH": os.environ["PATH"]}
    subprocess.run([bin_dir() / "pgbench", "-i", "-q", "-s", "1"], env=environment, check=True, capture_output=True, timeout=60)
    with forebay.connect(dbname="other") as client:
        assert client.execute("select count(*) as n from pgbench_accounts").fetchone()["n"] == 100000
        client.execute("drop table pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history")


def test_psql_describes_and_copies(endpoint, table, tmp_path):
    source = tmp_path / "rows"
    source.write_text("1\tone\n2\ttwo\n")
    run(endpoint, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", f"\\copy {table} from '{source}'")
    done = run(endpoint, "psql", "-X", "-A", "-t", "-c", f"select v from {table} order by id", "-c", f"\\copy {table} to stdout")
    assert done.stdout == "one\ntwo\n1\tone\n2\ttwo\n"
    for command in ("\\d", f"\\d+ {table}", "\\l", "\\du", "\\df", "\\dt *.*", "\\conninfo"):
        assert run(endpoint, "psql", "-X", "-c", command).stderr == "", command


def test_psql_runs_a_script_in_one_transaction(endpoint, table):
    script = f"insert into {table} (v) values ('a');\nselect count(*) from {table};\ninsert into {table} (id) values (1);\n"
    done = run(endpoint, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=script, check=False)
    assert done.returncode == 3 and "duplicate key" in done.stderr
    assert run(endpoint, "psql", "-X", "-At", "-c", f"select count(*) from {table}").stdout == "0\n"


def test_psql_is_told_notices_and_errors_with_their_place(endpoint):
    done = run(endpoint, "psql", "-X", "-c", "do $$ begin raise notice 'heard'; end $$", "-c", "select nonsense", check=False)
    assert "NOTICE:  heard" in done.stderr and 'column "nonsense" does not exist' in done.stderr and "LINE 1" in done.stderr


def test_pg_dump_and_restore_work_in_session_mode(start_forebay, shared_cluster, table):
    forebay = start_forebay(pool={"mode": "session"}, routing={"split": False})
    shared_cluster.sql(f"insert into {table} (v) select 'row ' || g from generate_series(1, 100) g")
    dump = run(forebay, "pg_dump", "-t", table).stdout
    shared_cluster.sql(f"drop table {table}")
    run(forebay, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=dump)
    assert shared_cluster.value(f"select count(*) from {table}") == 100
