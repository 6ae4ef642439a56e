"""Which client gets which server connection, for how long, and in what state."""

import psycopg
import pytest

from harness import Relay, wait_until, wire
from harness.waiting import stays

ON_PRIMARY = {"split": False}


def server_pid(connection):
    return connection.execute("select pg_backend_pid() as pid").fetchone()["pid"]


# -- modes --------------------------------------------------------------------------------------------------------


def test_many_clients_share_few_server_connections(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 3}, routing=ON_PRIMARY)
    clients = [forebay.connect() for _ in range(30)]
    pids = {server_pid(client) for _ in range(3) for client in clients}
    assert len(pids) <= 3, f"30 clients used {len(pids)} server connections, pool.size is 3"
    assert len(shared_cluster.primary.connections("app", "bench", of=forebay)) <= 3


def test_a_logged_in_client_that_asks_nothing_holds_no_server_connection(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    idle = [forebay.connect() for _ in range(20)]
    assert forebay.connect().execute("select 1 as one").fetchone()["one"] == 1
    assert all(client.execute("select 1 as one").fetchone()["one"] == 1 for client in idle)


def test_transaction_mode_keeps_the_connection_for_the_transaction(start_forebay):
    forebay = start_forebay(pool={"mode": "transaction", "size": 2}, routing=ON_PRIMARY)
    first, second = forebay.connect(), forebay.connect()
    with first.transaction():
        mine = {server_pid(first) for _ in range(3)}
        others = {server_pid(second) for _ in range(5)}
    assert len(mine) == 1 and not mine & others, "a connection inside a transaction belongs to one client"


def test_transaction_mode_gives_the_connection_on_after_the_transaction(start_forebay):
    forebay = start_forebay(pool={"mode": "transaction", "size": 1}, routing=ON_PRIMARY)
    first, second = forebay.wire(), forebay.wire()
    first.run("begin")
    second.send(wire.query("select 'mine now'"))
    assert second.nothing_comes(0.5), "the only server connection is inside a transaction"
    first.run("commit")
    assert wire.rows(second.read_until()) == [["mine now"]]


def test_a_failed_transaction_still_holds_its_connection(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    first, second = forebay.wire(), forebay.wire()
    first.ask(wire.query("begin; select 1/0"))
    second.send(wire.query("select 1"))
    assert second.nothing_comes(0.3), "a failed transaction is still one until ROLLBACK"
    first.run("rollback")
    assert wire.types(second.read_until()) == "TDCZ"


def test_session_mode_keeps_the_connection_until_the_client_leaves(start_forebay):
    forebay = start_forebay(pool={"mode": "session", "size": 1}, routing=ON_PRIMARY)
    first, second = forebay.wire(), forebay.wire()
    first.run("set statement_timeout = 54321")
    pid = first.value("select pg_backend_pid()")
    second.send(wire.query("show statement_timeout"))
    assert second.nothing_comes(0.5)
    assert first.value("show statement_timeout") == "54321ms"
    assert first.value("select pg_backend_pid()") == pid
    first.send(wire.terminate()).close()
    assert wire.rows(second.read_until()) == [["0"]], "the next session starts from the defaults"


def test_session_mode_allows_what_needs_a_session(start_forebay):
    connection = start_forebay(pool={"mode": "session"}).connect()
    connection.execute("create temporary table mine as select 42 as a")
    connection.execute("prepare p as select a from mine")
    connection.execute("declare c cursor with hold for select generate_series(1, 3) as g")
    connection.execute("select pg_advisory_lock(77)")
    assert connection.execute("select a from mine").fetchone()["a"] == 42
    assert connection.execute("execute p").fetchone()["a"] == 42
    assert [row["g"] for row in connection.execute("fetch all from c")] == [1, 2, 3]
    assert connection.execute("select pg_advisory_unlock(77) as ok").fetchone()["ok"] is True


def test_statement_mode_gives_the_connection_on_after_each_statement(start_forebay):
    forebay = start_forebay(pool={"mode": "statement", "size": 1}, routing=ON_PRIMARY)
    first, second = forebay.wire(), forebay.wire()
    assert [first.value("select 1"), second.value("select 2"), first.value("select 3")] == ["1", "2", "3"]


@pytest.mark.parametrize("sql", ["begin", "start transaction", "select 1; begin"])
def test_statement_mode_refuses_transaction_blocks(start_forebay, sql):
    forebay = start_forebay(pool={"mode": "statement", "size": 1}, routing=ON_PRIMARY)
    client = forebay.wire()
    client.send(wire.query(sql))
    answer = client.read_until("EZ")
    assert wire.errors(answer), f"{sql!r} was accepted in statement mode: {answer}"
    other = forebay.wire()
    assert other.value("select 1") == "1", "the only server connection is not left in a transaction"


# -- one pool per database and user -------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"user": "other"}, {"dbname": "other"}])
def test_each_database_and_user_has_a_pool_of_its_own(start_forebay, other):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = forebay.wire()
    holder.run("begin")
    assert forebay.wire(**other).value("select 1") == "1", f"the pool of {other} is not the one that is taken"
    waiting = forebay.wire()
    waiting.send(wire.query("select 1"))
    assert waiting.nothing_comes(0.3)
    holder.run("commit")
    assert wire.types(waiting.read_until()) == "TDCZ"


def test_pool_keys_of_a_database_and_a_user_go_before_the_general_ones(start_forebay):
    forebay = start_forebay(
        pool={"size": 9}, database=[{"name": "other", "size": 5}, {"name": "*"}],
        user=[{"name": "app", "password": "app"}, {"name": "other", "password": "other", "size": 2}])
    for user, dbname, size in (("app", "bench", 9), ("app", "other", 5), ("other", "bench", 2), ("other", "other", 2)):
        holders = []
        for _ in range(size):
            holders.append(forebay.wire(user=user, dbname=dbname))
            holders[-1].run("begin")
            holders[-1].run("create temporary table held (a int) on commit drop")
        late = forebay.wire(user=user, dbname=dbname)
        late.send(wire.query("begin; create temporary table held (a int) on commit drop"))
        assert late.nothing_comes(0.3), f"{dbname}/{user} gave more than {size} connections"
        for holder in holders:
            holder.close()
        assert wire.status(late.read_until()) == "T"
        late.close()


def test_the_mode_may_differ_per_user(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY, pool={"size": 1}, user=[
        {"name": "app", "password": "app"}, {"name": "other", "password": "other", "mode": "session"}])
    transactional, again = forebay.wire(), forebay.wire()
    assert transactional.value("select 1") == again.value("select 1") == "1"
    holder, waiting = forebay.wire(user="other"), forebay.wire(user="other")
    holder.run("select 1")
    waiting.send(wire.query("select 1"))
    assert waiting.nothing_comes(0.3), "a session keeps its connection between queries"
    holder.close()
    assert wire.types(waiting.read_until()) == "TDCZ"


# -- how many, for how long ---------------------------------------------------------------------------------------


def test_one_client_more_than_max_clients_is_refused(start_forebay):
    forebay = start_forebay(max_clients=5)
    wait_until(lambda: int(forebay.pool()["cl_active"]) == 0, 10, "the login of the start-up check to be gone")
    clients = []
    with pytest.raises(wire.ServerError) as caught:
        for _ in range(8):
            clients.append(forebay.wire())
    assert caught.value.sqlstate == "53300"
    assert 4 <= len(clients) <= 5, f"{len(clients)} clients were let in, max_clients is 5"
    clients[0].close()
    wait_until(forebay.wire, 5, "a place to be free again after a client left")


def test_min_size_connections_are_kept_open(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 8, "min_size": 4, "server_idle_timeout": "1s"}, routing=ON_PRIMARY)
    with forebay.connect() as client:
        client.execute("select 1")
        primary = shared_cluster.primary
        wait_until(lambda: len(primary.connections("app", "bench", of=forebay)) >= 4, 10, "min_size connections")
        stays(lambda: 4 <= len(primary.connections("app", "bench", of=forebay)) <= 5, 2.5, "min_size outlives the idle time-out")


def test_idle_server_connections_are_closed(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"server_idle_timeout": "1s"}, routing=ON_PRIMARY)
    client = forebay.connect()
    client.execute("select 1")
    assert shared_cluster.primary.connections("app", "bench", of=forebay)
    wait_until(lambda: not shared_cluster.primary.connections("app", "bench", of=forebay), 15, "the idle connection to be closed")
    assert client.execute("select 1 as one").fetchone()["one"] == 1, "the client has not noticed"


def test_old_server_connections_are_replaced(start_forebay):
    forebay = start_forebay(pool={"size": 1, "server_lifetime": "1s"}, routing=ON_PRIMARY)
    client = forebay.connect()
    first = server_pid(client)
    wait_until(lambda: server_pid(client) != first, 15, "another server connection after its lifetime")


def test_an_old_server_connection_is_not_closed_inside_a_transaction(start_forebay):
    forebay = start_forebay(pool={"size": 1, "server_lifetime": "1s"}, routing=ON_PRIMARY)
    client = forebay.connect()
    with client.transaction():
        pid = server_pid(client)
        client.execute("select pg_sleep(2)")
        assert server_pid(client) == pid


def test_reserve_connections_are_opened_for_those_who_waited(start_forebay):
    forebay = start_forebay(pool={"size": 1, "reserve_size": 1, "reserve_after": "300ms"}, routing=ON_PRIMARY)
    first, second, third = [forebay.wire() for _ in range(3)]
    first.run("begin")
    second.send(wire.query("begin"))
    assert second.nothing_comes(0.1), "the reserve is not for those who only just came"
    second.read_until()
    third.send(wire.query("select 1"))
    assert third.nothing_comes(1), "the reserve is one connection"
    second.run("commit")
    assert wire.types(third.read_until()) == "TDCZ"


# -- servers in trouble -------------------------------------------------------------------------------------------


def test_clients_wait_while_a_server_refuses_for_a_short_time(start_forebay, shared_cluster):
    with Relay(shared_cluster.primary.port) as relay:
        forebay = start_forebay(nodes=[relay.address])
        client = forebay.wire()
        assert client.value("select 1") == "1"
        relay.mode = "refuse"
        relay.cut()
        waiting = [forebay.wire() for _ in range(5)]
        for one in waiting:
            one.send(wire.query("select 'served'"))
        assert all(one.nothing_comes(0.3) for one in waiting), "a short trouble of the server is not the clients'"
        relay.mode = "pass"
        assert [wire.rows(one.read_until()) for one in waiting] == [[["served"]]] * 5


def test_connection_attempts_to_a_server_in_trouble_are_paced(start_forebay, shared_cluster):
    with Relay(shared_cluster.primary.port) as relay:
        forebay = start_forebay(nodes=[relay.address], failover={"check_interval": "10s"})
        waiting = [forebay.wire() for _ in range(20)]
        relay.mode = "refuse"
        relay.cut()
        before = relay.accepted
        for one in waiting:
            one.send(wire.query("select 1"))
        stays(lambda: relay.accepted - before < 60, 3, "20 waiting clients cause less than 60 attempts in 3 s")
        relay.mode = "pass"
        assert all(wire.types(one.read_until()) == "TDCZ" for one in waiting)


def test_a_server_that_gives_fewer_connections_than_the_pool_makes_clients_wait_not_fail(start_forebay):
    forebay = start_forebay(
        routing=ON_PRIMARY, pool={"size": 5}, user=[{"name": "app", "password": "app"}, {"name": "u_limited", "password": "u_limited"}])
    clients = [forebay.wire(user="u_limited") for _ in range(5)]
    for client in clients:
        client.send(wire.query("select pg_sleep(0.3)"))
    assert [wire.errors(client.read_until()) for client in clients] == [[]] * 5, "the role is allowed two connections"


def test_a_server_connection_that_died_while_idle_is_not_handed_out(start_forebay, shared_cluster):
    forebay = start_forebay(pool={"size": 3}, routing=ON_PRIMARY)
    client = forebay.connect()
    client.execute("select 1")
    for row in shared_cluster.primary.connections("app", "bench", of=forebay):
        shared_cluster.sql(f"select pg_terminate_backend({row['pid']}, 5000)")
    assert client.execute("select 1 as one").fetchone()["one"] == 1


# -- limits of time -----------------------------------------------------------------------------------------------


def test_a_query_over_query_timeout_is_cancelled(start_forebay, shared_cluster, name):
    forebay = start_forebay(pool={"size": 1, "query_timeout": "1s"}, routing=ON_PRIMARY)
    client = forebay.wire()
    client.send(wire.query(f"select pg_sleep(60) /* {name} */"))
    assert wire.errors(client.wait_closed(15)), "the client is told why"
    assert forebay.wire().value("select 1") == "1", "the connection of the pool is free again"
    running = "select count(*) from pg_stat_activity where state = 'active' and query like %s"
    wait_until(lambda: shared_cluster.value(running, params=[f"%pg_sleep(60) /* {name} */%"]) == 0, 10,
               "the statement to be cancelled on the server")


def test_a_transaction_over_transaction_timeout_is_ended(start_forebay, table):
    forebay = start_forebay(pool={"size": 1, "transaction_timeout": "1s"}, routing=ON_PRIMARY)
    client = forebay.wire()
    client.run("begin")
    client.run(f"insert into {table} (v) values ('lost')")
    assert wire.errors(client.wait_closed(15)), "the client is told why"
    assert forebay.wire().value(f"select count(*) from {table}") == "0"


def test_a_client_idle_in_a_transaction_is_closed(start_forebay):
    forebay = start_forebay(pool={"size": 1, "idle_in_transaction_timeout": "1s"}, routing=ON_PRIMARY)
    client = forebay.wire()
    client.run("begin")
    client.run("select pg_sleep(1.5)")
    assert wire.errors(client.wait_closed(15)) == ["25P03"], "PostgreSQL's own code for it"
    assert forebay.wire().value("select 1") == "1"


def test_an_idle_client_is_closed_when_asked_for(start_forebay):
    forebay = start_forebay(pool={"client_idle_timeout": "1s"})
    client = forebay.wire()
    client.run("select pg_sleep(1.5)")
    assert wire.errors(client.wait_closed(15)) == ["57P05"], "PostgreSQL's own code for it"


def test_hundreds_of_idle_clients_cost_little_memory(start_forebay):
    forebay = start_forebay()
    forebay.wire().run("select 1")
    before = forebay.rss_kib()
    clients = [forebay.wire() for _ in range(500)]
    for client in clients:
        client.run("select 1")
    each = (forebay.rss_kib() - before) / len(clients)
    assert each < 12, f"an idle client takes {each:.1f} KiB"
    files = forebay.fd_count()
    for client in clients:
        client.close()
    wait_until(lambda: forebay.fd_count() <= files - 490, 10, "the sockets of clients that left to be closed")


def test_autocommit_off_works_as_with_a_server(target, table):
    with psycopg.connect(target.dsn()) as connection:
        connection.execute(f"insert into {table} (v) values ('kept')")
        connection.commit()
        connection.execute(f"insert into {table} (v) values ('dropped')")
        connection.rollback()
        assert connection.execute(f"select v from {table}").fetchall() == [("kept",)]
