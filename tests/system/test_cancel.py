"""Cancelling a query: it stops, and never one of somebody else."""

import struct
import time

import psycopg
import pytest

from harness import wire


@pytest.mark.parametrize("version", [wire.PROTOCOL_3_0, wire.PROTOCOL_3_2])
def test_a_running_query_is_cancelled(target, shared_cluster, name, version):
    client = target.wire(protocol=version)
    client.send(wire.query(f"select pg_sleep(60) /* {name} */"))
    shared_cluster.wait_running(name)
    client.cancel()
    answer = client.read_until()
    assert wire.errors(answer) == ["57014"]
    assert client.value("select 'goes on'") == "goes on"


def test_a_query_inside_a_transaction_is_cancelled(target, shared_cluster, name):
    client = target.wire()
    client.run("begin")
    client.send(wire.query(f"select pg_sleep(60) /* {name} */"))
    shared_cluster.wait_running(name)
    client.cancel()
    answer = client.read_until()
    assert (wire.errors(answer), wire.status(answer)) == (["57014"], "E")
    client.run("rollback")


def test_a_read_on_a_replica_is_cancelled(forebay, shared_cluster, name):
    client = forebay.wire()
    client.send(wire.query(f"/* forebay: replica */ select pg_sleep(60) /* {name} */"))
    shared_cluster.wait_running(name)
    client.cancel()
    assert wire.errors(client.read_until()) == ["57014"]


def test_a_query_of_the_extended_protocol_is_cancelled(target, shared_cluster, name):
    client = target.wire()
    client.send(wire.parse(f"select pg_sleep($1) /* {name} */"), wire.bind([60]), wire.execute(), wire.sync())
    shared_cluster.wait_running(name)
    client.cancel()
    assert wire.errors(client.read_until()) == ["57014"]


def test_a_client_in_the_queue_can_be_cancelled(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    holder, waiting = forebay.wire(), forebay.wire()
    holder.run("begin")
    waiting.send(wire.query("select 1"))
    forebay.wait_pool(cl_waiting=1)
    waiting.cancel()
    assert wire.errors(waiting.read_until("E")) == ["57014"]
    forebay.wait_pool(cl_waiting=0)
    holder.run("commit")


def test_psycopg_cancels(target, shared_cluster, name):
    with target.connect() as connection:
        client = connection.cursor()
        connection.pgconn.send_query(f"select pg_sleep(60) /* {name} */".encode())
        shared_cluster.wait_running(name)
        connection.cancel_safe()
        assert connection.pgconn.get_result().error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None
        assert client.execute("select 1 as one").fetchone()["one"] == 1


@pytest.mark.parametrize("key", ["wrong secret", "unknown process", "short", "long"])
def test_a_wrong_key_cancels_nothing_and_is_not_answered(target, shared_cluster, name, key):
    client = target.wire()
    client.send(wire.query(f"select pg_sleep(0.8) /* {name} */"))
    shared_cluster.wait_running(name)
    pid, secret = client.key
    flipped = bytes([secret[0] ^ 1]) + secret[1:]
    wrong = {"wrong secret": (pid, flipped), "unknown process": (pid ^ 0x55555, secret),
             "short": (pid, secret[:2]), "long": (pid, secret + b"\0" * 300)}[key]
    client.cancel(wrong)
    assert wire.errors(client.read_until()) == []


def test_a_cancel_without_a_running_query_harms_nothing(target):
    client = target.wire()
    client.cancel()
    for _ in range(20):
        assert client.value("select 1") == "1"


def test_a_cancel_that_comes_too_late_never_hits_another_client(start_forebay):
    """One server connection goes from client to client while the first keeps cancelling its own, finished queries."""
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    careless, victim = forebay.wire(), forebay.wire()
    for number in range(150):
        careless.send(wire.query("select 1"))
        if number % 3 == 0:
            careless.cancel()
        careless.read_until()
        victim.send(wire.query("select pg_sleep(0.005), 'unharmed'"))
        careless.cancel()
        answer = victim.read_until()
        assert wire.errors(answer) == [], f"round {number}: a client's cancel hit another client's query"


def test_a_cancel_never_hits_the_same_clients_next_transaction_on_another_connection(start_forebay, shared_cluster, name):
    forebay = start_forebay(pool={"size": 2}, routing={"split": False})
    first, second = forebay.wire(), forebay.wire()
    first.send(wire.query(f"select pg_sleep(60) /* {name} */"))
    shared_cluster.wait_running(name)
    second.send(wire.query("select pg_sleep(1), 'second'"))
    first.cancel()
    assert wire.errors(first.read_until()) == ["57014"]
    assert wire.rows(second.read_until()) == [["", "second"]]


def test_a_cancel_whose_connection_is_closed_never_hits_the_clients_next_query(target):
    client = target.wire()
    for number in range(150):
        client.send(wire.query("select pg_sleep(0.001)"))
        client.cancel()
        client.read_until()
        assert wire.errors(client.ask(wire.query("select pg_sleep(0.002)"))) == [], f"round {number}"


def test_every_client_has_a_key_of_its_own(forebay):
    keys = {forebay.wire().key for _ in range(50)}
    assert len(keys) == 50


def test_a_cancel_request_cut_short_harms_nobody(forebay):
    for packet in (struct.pack("!II", 16, wire.CANCEL_REQUEST), struct.pack("!III", 12, wire.CANCEL_REQUEST, 1),
                   struct.pack("!II", 8, wire.CANCEL_REQUEST)):
        client = wire.Wire(forebay.port)
        client.send(packet).close()
    assert forebay.wire().value("select 1") == "1"


def test_a_cancelled_copy_ends(target, shared_cluster, name):
    client = target.wire()
    client.send(wire.query(f"copy (select pg_sleep(0.01) from generate_series(1, 100000) /* {name} */) to stdout"))
    shared_cluster.wait_running(name)
    client.cancel()
    started = time.monotonic()
    assert wire.errors(client.read_until()) == ["57014"]
    assert time.monotonic() - started < 10
    assert client.value("select 1") == "1"
