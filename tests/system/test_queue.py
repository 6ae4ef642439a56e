"""What happens to clients for which there is no server connection at the moment."""

import asyncio
import os
import subprocess
import time

import psycopg
import pytest

from harness import wait_until, wire
from harness.postgres import bin_dir

ON_PRIMARY = {"split": False}


def hold(forebay, **login):
    """A client inside a transaction, which keeps its server connection."""
    holder = forebay.wire(**login)
    holder.run("begin")
    return holder


def queue_up(forebay, count, sql, first=0):
    """Clients that wait in a known order: each is seen waiting before the next one asks."""
    waiting = []
    for number in range(count):
        client = forebay.wire()
        client.send(wire.query(sql))
        waiting.append(client)
        forebay.wait_pool(cl_waiting=first + number + 1)
    return waiting


def test_a_freed_connection_goes_to_the_longest_waiter(start_forebay, table):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)
    waiting = queue_up(forebay, 12, f"select nextval('{table}_id_seq')")
    holder.run("commit")
    served = [int(wire.rows(client.read_until())[0][0]) for client in waiting]
    assert served == sorted(served), f"served in the order {served}, not first come, first served"


def test_someone_who_comes_later_does_not_overtake_the_queue(start_forebay, table):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    sql = f"select nextval('{table}_id_seq'), pg_sleep(0.02)"
    busy = forebay.wire()
    holder = hold(forebay)
    waiting = queue_up(forebay, 5, sql)
    busy.send(*[wire.query(sql)] * 20)
    holder.run("commit")
    served = [int(wire.rows(client.read_until())[0][0]) for client in waiting]
    first_of_busy = int(wire.rows(busy.read_until())[0][0])
    assert max(served) < first_of_busy, "a client with many queries got the connection before those who waited"


def test_the_order_holds_when_waiters_leave(start_forebay, table):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)
    waiting = queue_up(forebay, 6, f"select nextval('{table}_id_seq')")
    for gone in (waiting.pop(0), waiting.pop(2)):
        gone.close()
    forebay.wait_pool(cl_waiting=4)
    holder.run("commit")
    assert [wire.rows(client.read_until())[0][0] for client in waiting] == ["1", "2", "3", "4"], \
        "a client that left got no connection and took no turn"


def test_the_queue_is_first_come_first_served_with_several_connections(start_forebay, table):
    forebay = start_forebay(pool={"size": 3}, routing=ON_PRIMARY)
    holders = [hold(forebay) for _ in range(3)]
    waiting = queue_up(forebay, 9, f"begin; select nextval('{table}_id_seq')")
    order = []
    for number in range(9):
        (holders.pop(0) if holders else order[number - 3]).run("commit")
        client = waiting[number]
        assert wire.rows(client.read_until())[-1] == [str(number + 1)]
        order.append(client)


def test_waiting_longer_than_queue_timeout_is_an_error_with_a_hint(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_timeout": "1s"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    client = forebay.wire()
    started = time.monotonic()
    client.send(wire.query("select 1"))
    answer = client.read_until("E")
    error = wire.fields(answer[-1])
    assert error["C"] == "57P03"
    assert error.get("H"), "the error says what can be done"
    assert 0.7 < time.monotonic() - started < 10
    holder.run("commit")
    assert forebay.wire().value("select 1") == "1"


def test_a_client_that_waited_in_vain_can_be_served_later(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_timeout": "500ms"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    client = forebay.wire()
    client.send(wire.parse("select 1"), wire.bind(), wire.execute(), wire.sync())
    first = client.read_until("E")
    assert wire.errors(first) == ["57P03"]
    holder.run("commit")
    if wire.fields(first[-1])["V"] == "FATAL":
        client.wait_closed(5)
        client = forebay.wire()
    else:
        assert wire.types(client.read_until()) == "Z"
    assert client.value("select 'now'") == "now"


def test_one_waiter_more_than_queue_length_is_refused_at_once(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_length": 2}, routing=ON_PRIMARY)
    holder = hold(forebay)
    waiting = queue_up(forebay, 2, "select 'served'")
    late = forebay.wire()
    late.send(wire.query("select 1"))
    assert wire.errors(late.read_until("E")) == ["53300"]
    forebay.wait_pool(cl_waiting=2)
    holder.run("commit")
    assert [wire.rows(client.read_until()) for client in waiting] == [[["served"]]] * 2
    assert int(forebay.admin("SHOW QUEUE")[0]["refused"]) >= 1


def test_who_waits_long_is_told_by_a_notice_and_then_served(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_notice": "500ms"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    client = forebay.wire()
    client.send(wire.query("select 'served'"))
    notice = wire.fields(client.read_until("N")[-1])
    assert notice["V"] == "NOTICE"
    assert client.nothing_comes(0.8), "one notice is enough"
    holder.run("commit")
    assert wire.rows(client.read_until()) == [["served"]]


def test_the_notice_tells_how_long_and_why(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_notice": "300ms"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    client = forebay.wire()
    client.send(wire.query("select 1"))
    notice = wire.fields(client.read_frame(5))
    assert notice["M"].startswith("no server connection for 0.3s: all server connections are in use (1 busy, 1 waiting)")
    holder.run("commit")
    client.read_until()


def test_who_is_served_soon_gets_no_notice(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_notice": "20s"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    client = forebay.wire()
    client.send(wire.query("select 1"))
    assert client.nothing_comes(0.3)
    holder.run("commit")
    assert "N" not in [frame.type for frame in client.read_until()]


def test_the_queue_is_shown(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_timeout": "2s"}, routing=ON_PRIMARY)
    holder = hold(forebay)
    waiting = queue_up(forebay, 3, "select 1")  # noqa: F841 - their sockets close with the objects
    row = next(r for r in forebay.admin("SHOW QUEUE") if (r["database"], r["user"]) == ("bench", "app"))
    assert row["service"] == "main" and int(row["waiting"]) == 3 and int(row["oldest_wait_ms"]) >= 0
    pool = next(r for r in forebay.admin("SHOW POOLS") if (r["database"], r["user"]) == ("bench", "app"))
    assert int(pool["cl_waiting"]) == 3 and int(pool["maxwait"]) * 1_000_000 + int(pool["maxwait_us"]) > 0
    forebay.wait_pool(cl_waiting=0)
    row = next(r for r in forebay.admin("SHOW QUEUE") if (r["database"], r["user"]) == ("bench", "app"))
    assert int(row["timed_out"]) == 3
    served = int(row["served"])
    waiting = queue_up(forebay, 2, "select 1")
    holder.run("commit")
    assert [client.read_until()[-1].type for client in waiting] == ["Z", "Z"]
    row = next(r for r in forebay.admin("SHOW QUEUE") if (r["database"], r["user"]) == ("bench", "app"))
    assert (int(row["served"]), int(row["waiting"])) == (served + 2, 0)


def test_a_waiter_that_leaves_costs_no_connection(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)
    for client in queue_up(forebay, 5, "select pg_sleep(30)"):
        client.close()
    forebay.wait_pool(cl_waiting=0)
    holder.run("commit")
    started = time.monotonic()
    assert forebay.wire().value("select 1") == "1"
    assert time.monotonic() - started < 10, "nobody ran the queries of those who left"


def test_overflow_clients_wait_and_all_are_served(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 5}, routing=ON_PRIMARY)
    done = subprocess.run(
        [bin_dir() / "pgbench", "-n", "-S", "-c", "60", "-j", "2", "-t", "50"], capture_output=True, text=True,
        env={**os.environ, **forebay.environment()}, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "number of transactions actually processed: 3000/3000" in done.stdout, done.stdout
    assert len(shared_cluster.primary.connections("app", "bench", of=forebay)) <= 5
    served = next(r for r in forebay.admin("SHOW QUEUE") if (r["database"], r["user"]) == ("bench", "app"))["served"]
    assert int(served) > 0, "60 clients on 5 connections have waited"


def test_hundreds_of_clients_that_wait_are_all_served(start_forebay, table):
    forebay = start_forebay(pool={"size": 2}, routing=ON_PRIMARY)

    async def one(number):
        async with await psycopg.AsyncConnection.connect(forebay.dsn(), autocommit=True) as client:
            await client.execute(f"insert into {table} (v) values (%s)", [number])

    async def everyone():
        await asyncio.gather(*[one(number) for number in range(300)])

    asyncio.run(everyone())
    assert forebay.wire().value(f"select count(distinct v) from {table}") == "300"


@pytest.mark.parametrize("size", [4, 40])
def test_nobody_starves(start_forebay, size):
    """Also where a pool is spread over cores. docs/pooling.md has what this prints (pytest -s)."""
    forebay = start_forebay(pool={"size": size}, routing=ON_PRIMARY)
    clients, rounds = size * 3, 12

    async def one(counts, number, end):
        async with await psycopg.AsyncConnection.connect(forebay.dsn(), autocommit=True) as client:
            while time.monotonic() < end:
                await client.execute("select pg_sleep(0.01)")
                counts[number] += 1

    async def everyone():
        counts = [0] * clients
        await asyncio.gather(*[one(counts, number, time.monotonic() + rounds * 0.25) for number in range(clients)])
        return counts

    counts = asyncio.run(everyone())
    print(f"size {size}: {min(counts)} to {max(counts)} turns for each of {clients} clients")
    assert min(counts) > 0 and min(counts) * 4 >= sum(counts) / len(counts), f"unfair shares: {sorted(counts)}"


def test_clients_of_one_pool_do_not_wait_for_another(start_forebay):
    forebay = start_forebay(pool={"size": 1, "queue_length": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)  # noqa: F841 - its socket closes with the object
    waiting = queue_up(forebay, 1, "select 1")  # noqa: F841 - their sockets close with the objects
    other = forebay.wire(user="other")
    assert [other.value("select 1") for _ in range(20)] == ["1"] * 20


def test_a_waiter_is_served_when_the_holders_client_dies(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)
    waiting = queue_up(forebay, 2, "select 'served'")
    holder.reset()
    assert [wire.rows(client.read_until()) for client in waiting] == [[["served"]]] * 2


def test_a_waiter_is_served_when_the_holders_server_connection_dies(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = hold(forebay)
    pid = holder.value("select pg_backend_pid()")
    waiting = queue_up(forebay, 2, "select 'served'")
    shared_cluster.sql(f"select pg_terminate_backend({pid}, 5000)")
    assert [wire.rows(client.read_until()) for client in waiting] == [[["served"]]] * 2
    wait_until(lambda: holder.has_answer() or not holder.nothing_comes(0.1), 5, "the holder to be told")
