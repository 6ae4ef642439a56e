"""LISTEN in transaction mode: all clients of a database share one connection that listens."""

import asyncio
import contextlib

import asyncpg
import psycopg
import pytest

from harness import wait_until, wire

GAP = "notifications may have been missed"


@pytest.fixture
def small(start_forebay):
    return start_forebay(pool={"size": 1}, routing={"split": False})


@pytest.fixture
def listeners(name):
    """Connects clients that listen to `name`."""
    with contextlib.ExitStack() as stack:
        def connected(forebay, channel=name, **more):
            connection = stack.enter_context(psycopg.connect(forebay.dsn(), autocommit=True, **more))
            if channel:
                connection.execute(f"listen {channel}")
            return connection
        yield connected


def heard(connection, count=1, timeout=10):
    """The payloads of the next notifications."""
    return [notice.payload for notice in connection.notifies(timeout=timeout, stop_after=count)]


def hears_nothing(connection, channel, sender):
    """True if what was notified before does not come: what is notified now would come after it."""
    connection.execute(f"listen {channel}_last")
    sender.execute(f"notify {channel}_last, 'last'")
    return heard(connection) == ["last"]


def notices(connection):
    """A list that gets what the connection is told."""
    told = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    return told


def wait_told(connection, told):
    """Waits until the connection has been told that something may be missing."""
    def is_told():
        list(connection.notifies(timeout=0.05))
        return any(GAP in words for words in told)
    wait_until(is_told, 20, "the notice")


def backends(cluster):
    """Server processes that listen."""
    return cluster.primary.sql("select pid from pg_stat_activity where query ilike 'listen %' or query ilike '%;listen %'")


def test_many_clients_listen_over_few_connections(small, listeners, name):
    clients = [listeners(small) for _ in range(20)]
    with psycopg.connect(small.dsn(), autocommit=True) as sender:
        sender.execute(f"notify {name}, 'one'")
        sender.execute("select pg_notify(%s, 'two')", [name])
    assert [heard(client, 2) for client in clients] == [["one", "two"]] * 20
    assert small.admin("SHOW PINS") == []
    assert small.pool()["sv_active"] == 0


def test_the_connection_that_listens_is_one(small, listeners, shared_cluster, name):
    before = len(backends(shared_cluster))
    for _ in range(5):
        listeners(small)
    assert len(backends(shared_cluster)) <= before + 1


def test_a_rolled_back_listen_hears_nothing(small, listeners, name):
    client, sender = listeners(small, None), listeners(small, None)
    with client.transaction(force_rollback=True):
        client.execute(f"listen {name}")
    sender.execute(f"notify {name}, 'lost'")
    assert hears_nothing(client, name, sender)


def test_a_listen_counts_from_its_commit_and_nothing_comes_within_a_transaction(start_forebay, listeners, name):
    forebay = start_forebay(pool={"size": 3})
    client, sender = listeners(forebay, None), listeners(forebay, None)
    with client.transaction():
        client.execute(f"listen {name}")
        client.execute("select 1")
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]
    raw = wire.Wire(forebay.port).login()
    raw.run(f"listen {name}")
    raw.run("begin")
    sender.execute(f"notify {name}, 'two'")
    assert heard(client) == ["two"]
    frames = raw.ask(wire.query("select 1"))
    assert "A" not in [frame.type for frame in frames]
    frames = raw.ask(wire.query("commit"))
    if "A" not in [frame.type for frame in frames]:
        frames.append(raw.read_frame())
    assert [frame.type for frame in frames].count("A") == 1


@pytest.mark.parametrize("end", ["unlisten {0}", "unlisten *", "discard all", "select 1; unlisten {0}; reset all",
                                 "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"])
def test_who_does_not_listen_any_more_hears_nothing(small, listeners, name, end):
    client, sender = listeners(small), listeners(small, None)
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]
    client.execute(end.format(name), prepare=False)
    sender.execute(f"notify {name}, 'two'")
    assert hears_nothing(client, name, sender)


def test_an_unlisten_that_is_rolled_back_does_not_count(small, listeners, name):
    client, sender = listeners(small), listeners(small, None)
    with client.transaction(force_rollback=True):
        client.execute("unlisten *")
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]


@pytest.mark.parametrize("statement", ["notify {0}, 'me'", "select pg_notify('{0}', 'me')",
                                       "begin; notify {0}, 'me'; commit"])
def test_what_a_client_notifies_itself_comes_before_the_end_of_its_answer(small, name, statement):
    client = wire.Wire(small.port).login()
    assert wire.tags(client.ask(wire.query(f"listen {name}"))) == ["LISTEN"]
    frames = client.ask(wire.query(statement.format(name)))
    kinds = "".join(frame.type for frame in frames)
    assert kinds.endswith("AZ") and kinds.count("A") == 1, kinds


@pytest.mark.parametrize("channel", ['Mixed', '"Mixed Case"', '"with ""quotes"""', "x" * 80, '"' + "ü" * 40 + '"'])
def test_names_of_channels_are_those_of_the_server(small, listeners, channel):
    client, sender = listeners(small, channel), listeners(small, None)
    sender.execute(f"notify {channel}, 'here'")
    [notice] = client.notifies(timeout=10, stop_after=1)
    with psycopg.connect(small.dsn(), autocommit=True) as other:
        [folded] = other.execute(f"select quote_ident(relname) from (select 'x' as relname) as {channel} limit 1").fetchone()
    assert notice.payload == "here" and folded == "x"
    assert len(notice.channel.encode()) <= 63


def test_prepared_listen(small, listeners, name):
    client = wire.Wire(small.port).login()
    sender = listeners(small, None)
    batch = wire.bind(name="l") + wire.execute() + wire.sync()
    assert wire.tags(client.ask(wire.parse(f"listen {name}", "l") + wire.sync())) == []
    for payload in ("one", "two"):
        assert wire.tags(client.ask(batch)) == ["LISTEN"]
        sender.execute(f"notify {name}, '{payload}'")
        assert payload.encode() in client.read_frame().body
        assert wire.tags(client.ask(wire.query(f"unlisten {name}"))) == ["UNLISTEN"]
    # Another client's own text is its own.
    other = wire.Wire(small.port).login()
    other.ask(wire.parse(f"unlisten {name}", "l") + wire.sync())
    assert wire.tags(other.ask(batch)) == ["UNLISTEN"]


def test_a_failed_transaction_refuses_it(small, name):
    client = wire.Wire(small.port).login()
    client.run("begin")
    client.ask(wire.query("select 1/0"))
    assert wire.errors(client.ask(wire.query(f"listen {name}"))) == ["25P02"]
    client.run("rollback")


def test_a_lost_connection_is_made_again_and_whoever_listens_is_told(small, listeners, shared_cluster, name):
    client, sender = listeners(small), listeners(small, None)
    told = notices(client)
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]
    shared_cluster.primary.sql("select pg_terminate_backend(pid) from pg_stat_activity "
                               f"where query ilike '%listen%{name}%' and pid <> pg_backend_pid()")
    wait_told(client, told)
    assert GAP in told[0]
    sender.execute(f"notify {name}, 'two'")
    assert heard(client) == ["two"]


def test_who_listens_goes_on_at_a_new_primary(cluster, start_forebay, listeners, name):
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "30s"})
    client, sender = listeners(forebay), listeners(forebay, None)
    told = notices(client)
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]
    cluster.caught_up()
    forebay.admin("SWITCHOVER main")
    wait_told(client, told)
    sender.execute(f"notify {name}, 'two'")
    assert heard(client) == ["two"]


def test_where_sharing_is_impossible_the_client_keeps_its_connection(start_forebay, listeners, shared_cluster, name):
    shared_cluster.primary.sql(f"create database {name} owner app")
    try:
        shared_cluster.primary.sql(f"revoke connect on database {name} from public")
        shared_cluster.primary.sql(f"grant connect on database {name} to app")
        shared_cluster.caught_up()
        forebay = start_forebay(pool={"size": 2, "server_idle_timeout": "1s"}, routing={"split": False})
        with psycopg.connect(forebay.dsn(dbname=name), autocommit=True) as client, \
                psycopg.connect(forebay.dsn(dbname=name), autocommit=True) as sender:
            client.execute("listen alone")
            assert [pin["reason"] for pin in forebay.admin("SHOW PINS")] == ["listen"]
            sender.execute("notify alone, 'one'")
            assert heard(client) == ["one"]
    finally:
        shared_cluster.primary.sql(f"drop database {name} with (force)")


def test_several_statements_listen_on_their_own_connection(start_forebay, listeners, name):
    forebay = start_forebay(pool={"size": 2}, routing={"split": False})
    client, sender = listeners(forebay, None), listeners(forebay, None)
    client.execute(f"listen {name}; listen {name}_other", prepare=False)
    assert [pin["reason"] for pin in forebay.admin("SHOW PINS")] == ["listen"]
    client.execute(f"listen {name}")
    sender.execute(f"notify {name}, 'one'")
    sender.execute(f"notify {name}_other, 'two'")
    assert heard(client, 2) == ["one", "two"]


def test_session_mode_listens_itself(start_forebay, listeners, name):
    forebay = start_forebay(pool={"size": 3, "mode": "session"})
    client, sender = listeners(forebay), listeners(forebay, None)
    assert client.execute("select * from pg_listening_channels()").fetchall() == [(name,)]
    sender.execute(f"notify {name}, 'one'")
    assert heard(client) == ["one"]


def test_a_client_that_does_not_read_is_told_what_it_has_missed(start_forebay, listeners, name):
    forebay = start_forebay(pool={"size": 3})
    sender, witness = listeners(forebay, None), listeners(forebay)
    client = wire.Wire(forebay.port, timeout=60).login()
    client.run(f"listen {name}")
    client.run("begin")
    sent = 0
    for _ in range(30):
        sender.execute(f"select pg_notify('{name}', n::text || repeat('x', 7000)) from generate_series(1, 50) n")
        sent += 50
        assert len(heard(witness, 50)) == 50
    before = forebay.rss_kib()
    client.send(wire.query("commit"))
    count, notice = 0, None
    while notice is None:
        frame = client.read_frame()
        count += frame.type == "A"
        if frame.type == "N":
            notice = wire.fields(frame)["M"]
    assert 0 < count < sent and notice == f"{sent - count} notifications were dropped: the client has not read them in time"
    assert before < 200_000


def test_asyncpg_s_pool(start_forebay, name):
    forebay = start_forebay(pool={"size": 2})

    async def main():
        async with asyncpg.create_pool(host="127.0.0.1", port=forebay.port, user="app", password="app", database="bench", min_size=1, max_size=4) as pool:
            queue = asyncio.Queue()

            def take(_connection, _pid, _channel, payload):
                queue.put_nowait(payload)
            async with pool.acquire() as listener:
                await listener.add_listener(name, take)
                await pool.execute(f"notify {name}, 'one'")
                assert await asyncio.wait_for(queue.get(), 10) == "one"
                await listener.remove_listener(name, take)
    asyncio.run(main())


def test_who_leaves_leaves_nothing(small, shared_cluster, name):
    def listening():
        return shared_cluster.primary.sql("select from pg_stat_activity where query ilike %s", params=[f"%unlisten%{name}%"])
    for _ in range(3):
        with psycopg.connect(small.dsn(), autocommit=True) as client:
            client.execute(f"listen {name}")
    wait_until(listening, 10, "the channel to be left")
