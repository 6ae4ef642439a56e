"""A server connection that ends at an awkward moment: what was answered arrives, and every request has its end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import Relay, wait_until, wire


def batch(sql):
    return wire.parse(sql) + wire.bind() + wire.execute() + wire.sync()


@pytest.mark.parametrize("request_of", [wire.query, batch], ids=["simple", "extended"])
def test_an_answer_with_the_server_s_farewell_right_behind_it_arrives(single, shared_cluster, table, request_of):
    client = single.wire()
    pid = client.value("select pg_backend_pid()")
    with shared_cluster.primary.connect(autocommit=False) as blocker:
        blocker.execute(f"lock table {table}")
        client.send(request_of(f"insert into {table} (v) values ('x')"))
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
        wait_until(lambda: shared_cluster.value(waiting, params=[pid]) == 1, 10, "the insert to wait for the lock")
        os.kill(single.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: shared_cluster.value(f"select count(*) from {table}") == 1, 10, "the row")
        idle = "select state = 'idle' from pg_stat_activity where pid = %s"
        wait_until(lambda: shared_cluster.value(idle, params=[pid]), 10, "the server to have answered")
        shared_cluster.sql("select pg_terminate_backend(%s)", params=[pid])
        gone = "select count(*) from pg_stat_activity where pid = %s"
        wait_until(lambda: shared_cluster.value(gone, params=[pid]) == 0, 10, "the server process to end")
    finally:
        os.kill(single.pid, signal.SIGCONT)
    found = client.read_until("Z")
    assert wire.tags(found) == ["INSERT 0 1"], wire.errors(found)
    assert client.run("select 'next'") == [["next"]]


def test_the_rest_of_a_row_comes_before_the_error(single, shared_cluster):
    client = single.wire()
    pid = client.value("select pg_backend_pid()")
    # The server keeps the end of the first row until it has more to send.
    client.send(wire.query("select repeat('x', 200000) from generate_series(1, 2) g where g = 1 or pg_sleep(60) is null"))
    sleeping = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    wait_until(lambda: shared_cluster.value(sleeping, params=[pid]), 10, "the query to reach its second row")
    shared_cluster.sql("select pg_terminate_backend(%s)", params=[pid])
    found = client.read_until("Z")
    assert wire.types(found) == "TDEZ" and len(found[1].body) == 200006
    assert client.run("select 'next'") == [["next"]]


def test_each_request_that_was_sent_ahead_is_answered(single, shared_cluster):
    client = single.wire()
    pid = client.value("select pg_backend_pid()")
    client.send(wire.query("select pg_sleep(60)"), wire.query("select 2"), batch("select 3"))
    sleeping = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    wait_until(lambda: shared_cluster.value(sleeping, params=[pid]), 10, "the query to run")
    shared_cluster.sql("select pg_terminate_backend(%s)", params=[pid])
    for _ in range(3):
        assert wire.errors(client.read_until("Z")) == ["08007"], "pg_sleep may have written"
    assert client.run("select 'next'") == [["next"]]


def test_a_write_is_not_taken_for_the_read_that_was_parsed_after_it(single, shared_cluster, table):
    client = single.wire()
    pid = client.value("select pg_backend_pid()")
    with shared_cluster.primary.connect(autocommit=False) as blocker:
        blocker.execute(f"lock table {table}")
        client.send(wire.parse(f"insert into {table} select 1"), wire.bind(), wire.execute(), wire.parse("select 1"),
                    wire.sync())
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
        wait_until(lambda: shared_cluster.value(waiting, params=[pid]) == 1, 10, "the insert to wait for the lock")
        shared_cluster.sql("select pg_terminate_backend(%s)", params=[pid])
        assert wire.errors(client.read_until("Z")) == ["08007"]


# -- time -----------------------------------------------------------------------------------------------------------


def test_query_timeout_counts_from_the_query_not_from_the_one_before(start_forebay):
    forebay = start_forebay(pool={"size": 1, "query_timeout": "1s"}, routing={"split": False})
    client = forebay.wire()
    client.run("begin")
    time.sleep(1.2)
    assert client.run("select pg_sleep(0.4)") == [[""]]


@pytest.mark.parametrize("pool", [{"mode": "session"}, {}], ids=["session", "pinned"])
def test_a_client_that_rests_outside_a_transaction_is_not_idle_in_one(start_forebay, pool):
    forebay = start_forebay(routing={"split": False}, pool={
        "size": 1, "idle_in_transaction_timeout": "300ms", "transaction_timeout": "400ms", **pool})
    client = forebay.wire()
    client.run("create temporary table kept (a int)")
    time.sleep(0.8)
    assert client.run("select * from kept") == []


def test_client_idle_timeout_ends_a_client_that_keeps_its_connection(start_forebay):
    forebay = start_forebay(pool={"size": 1, "mode": "session", "client_idle_timeout": "300ms"})
    client = forebay.wire()
    client.run("select 1")
    assert wire.errors(client.wait_closed(10)) == ["57P05"]


def test_what_is_answered_without_the_server_holds_nobody_up(single):
    client = single.wire()
    client.run("begin")
    began = time.monotonic()
    for _ in range(20):
        client.run("show forebay.node")
        client.run("select 1")
    assert time.monotonic() - began < 1, "no request waits for the next tick of the clock"


def test_a_refused_batch_on_a_replica_runs_on_the_primary_with_the_split_off(start_forebay, table):
    client = start_forebay(routing={"split": False}).wire()
    client.run("set forebay.route = 'replica'")
    found = client.ask(batch(f"update {table} set v = 'x'"))
    assert wire.tags(found) == ["UPDATE 0"], wire.errors(found)


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in a transaction"])
def test_a_commit_whose_standbys_were_not_waited_for_is_no_success(cluster, start_forebay, in_block):
    """PostgreSQL itself warns and says that all is well."""
    cluster.everywhere("create table w (id int); alter table w owner to app")
    forebay = start_forebay(servers=cluster)
    cluster.nodes[0].configure(synchronous_standby_names="nobody")
    with psycopg.connect(forebay.dsn(), autocommit=not in_block) as connection:
        with ThreadPoolExecutor(1) as pool:
            def write():
                connection.execute("insert into w values (1)")
                connection.commit()
            written = pool.submit(write)
            wait_until(lambda: cluster.nodes[0].value(
                "select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == 1, 20, "the commit to wait")
            connection.cancel()
            with pytest.raises(psycopg.Error) as caught:
                written.result(20)
    assert caught.value.sqlstate == "08007", caught.value
    assert "synchronous_standby_names" in str(caught.value)
    assert cluster.nodes[0].value("select count(*) from w") == 1, "it may be there or not"


def known(sql):
    """A statement that the connection has been taught."""
    return wire.parse(sql, name="another") + wire.bind(name="another") + wire.execute() + wire.sync()


INSERT = "insert into w values (1)"


@pytest.mark.parametrize("split", [True, False], ids=["split", "on the primary"])
@pytest.mark.parametrize("request_of, answer", [
    (lambda: wire.query(INSERT), "CZ"), (lambda: batch(INSERT), "12CZ"), (lambda: known(INSERT), "12CZ"),
    (lambda: wire.query("listen news"), "CZ")], ids=["simple", "extended", "known", "listen"])
def test_a_request_to_a_connection_that_the_server_has_just_closed_for_idleness_runs_again(
        cluster, start_forebay, request_of, answer, split):
    node = cluster.nodes[0]
    cluster.everywhere("create table w (id int); grant all on w to app; alter role app set idle_session_timeout = '500ms'")
    with Relay(node.port) as relay:
        forebay = start_forebay(nodes=[relay.address], pool={"size": 1}, routing={"split": split})
        client = forebay.wire()
        client.ask(wire.parse(INSERT, name="first"), wire.sync())
        relay.mode = "keep"
        wait_until(lambda: node.value("select count(*) from pg_stat_activity where usename = 'app'") == 0, 10,
                   "the server to close the connection, which Forebay does not hear of")
        client.send(request_of())
        wait_until(lambda: [row["state"] for row in forebay.admin("SHOW SERVERS")] == ["active"], 10, "it to be sent")
        relay.mode = "pass"
        found = client.read_until("Z")
        assert wire.types(found) == answer, wire.errors(found)
        assert node.value("select count(*) from w") == wire.tags(found).count("INSERT 0 1")
        assert client.run("select 'in step'") == [["in step"]]
