"""A primary that dies, hangs, returns or is replaced while clients work."""

import time

import psycopg
import pytest

from harness import wait_until, wire
from harness.where import ran_on
from harness.writers import Writers

KNOWN = {"57P01", "57P03", "08007", "08006", "40001", "53300", None}


class Load(Writers):
    """Clients that insert numbered rows and read them back, until stopped; keeps what they were told."""

    def __init__(self, forebay, table, clients=6, first=0):
        self.dsn, self.table, self.first = forebay.dsn(), table, first
        self.acknowledged, self.unknown, self.refused, self.codes = [], [], [], set()
        self.wrong = []
        super().__init__(clients)

    def work(self, client):
        connection, number = None, (self.first + client) * 1_000_000
        while not self._stop.is_set():
            number += 1
            sent = False
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=30)
                sent = True
                connection.execute(f"insert into {self.table} (id, v) values (%s, 'x')", [number])
                self.acknowledged.append(number)
                found = connection.execute(f"select count(*) from {self.table} where id = %s", [number]).fetchone()[0]
                if found != 1:
                    self.wrong.append(number)
            except psycopg.Error as problem:
                self.codes.add(problem.sqlstate)
                (self.unknown if sent and problem.sqlstate in ("08007", None) else self.refused).append(number)
                time.sleep(0.05)

    def progress(self, timeout=30, of=10):
        """Waits until more writes were acknowledged."""
        before = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) >= before + of, timeout, "clients to get writes through again")


@pytest.fixture
def loaded(with_table, start_forebay):
    cluster = with_table
    forebay = start_forebay(servers=cluster, failover={"hold": "20s", "check_timeout": "500ms"})
    load = Load(forebay, "w")
    load.progress()
    yield cluster, forebay, load
    load.stop()


def test_a_primary_killed_under_load_and_restarted_is_used_again(loaded):
    cluster, forebay, load = loaded
    cluster.nodes[0].kill()
    wait_until(lambda: forebay.node("pg1")["state"] != "up", 15, "the loss to be seen")
    cluster.nodes[0].start()
    load.progress()
    load.stop()
    assert load.codes <= KNOWN, f"unexpected SQLSTATEs: {load.codes - KNOWN}"
    assert load.wrong == [], "a client missed its own write"
    stored = {row["id"] for row in cluster.nodes[0].sql("select id from w")}
    assert set(load.acknowledged) <= stored, "an acknowledged write is missing"
    forebay.wait_pool(cl_waiting=0)


def test_writes_follow_to_a_promoted_replica(loaded):
    cluster, forebay, load = loaded
    cluster.nodes[0].kill()
    second, third = cluster.promote()
    forebay.wait_node(second.name, role="primary", state="up")
    load.progress()
    load.stop()
    assert load.codes <= KNOWN, f"unexpected SQLSTATEs: {load.codes - KNOWN}"
    assert "25006" not in load.codes, "a stale role never reaches a client"
    client = forebay.wire()
    client.run("insert into w values (-1, 'x')")
    assert ran_on(client) == second.name
    wait_until(lambda: third.value("select count(*) from w where id = -1") == 1, 20, "the other replica to follow")
    forebay.wait_node(third.name, role="replica", state="up")


@pytest.mark.usefixtures("with_table")
def test_an_idle_client_does_not_notice_a_new_primary(cluster, start_forebay):
    forebay = start_forebay(servers=cluster)
    client = forebay.wire()
    client.run("insert into w values (1, 'before')")
    cluster.nodes[0].stop("fast")
    cluster.nodes[1].promote()
    client.run("insert into w values (2, 'after')")
    assert ran_on(client) == "pg2"


def test_clients_waiting_for_a_primary_are_told_when_hold_has_passed(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"hold": "2s"})
    cluster.caught_up()
    forebay.wait_measured()
    cluster.nodes[0].kill()
    clients = [forebay.wire() for _ in range(5)]
    started = time.monotonic()
    for client in clients:
        client.send(wire.query("create table never (a int)"))
    for client in clients:
        error = wire.fields(client.read_until("E")[-1])
        assert error["C"] == "57P03" and error.get("H"), error
    assert 1 < time.monotonic() - started < 15
    reader = forebay.wire()
    assert reader.value("select count(*) from pg_class where relname = 'never'") == "0", "reads go on"
    assert ran_on(reader) != "pg1"


def test_reads_go_on_without_a_primary(cluster, start_forebay):
    forebay = start_forebay(servers=cluster)
    client = forebay.wire()
    client.run("select 1")
    cluster.caught_up()
    forebay.wait_measured()
    cluster.nodes[0].kill()
    assert [client.value("select 'read'") for _ in range(20)] == ["read"] * 20


@pytest.mark.usefixtures("with_table")
def test_clients_that_waited_are_served_when_a_primary_is_back_in_time(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"hold": "25s"})
    cluster.nodes[0].kill()
    clients = [forebay.wire() for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(wire.query(f"insert into w values ({number})"))
    assert all(client.nothing_comes(0.3) for client in clients)
    cluster.nodes[0].start()
    for client in clients:
        assert wire.tags(client.read_until()) == ["INSERT 0 1"]


def test_a_transaction_whose_server_died_is_ended_by_name(cluster, start_forebay):
    forebay = start_forebay(servers=cluster)
    client = forebay.wire()
    client.run("begin")
    client.run("create table never (a int)")
    cluster.nodes[0].kill()
    answer = client.send(wire.query("select 1")).wait_closed(20)
    error = wire.fields(next(frame for frame in answer if frame.type == "E"))
    assert (error["C"], error["V"]) == ("57P01", "FATAL")
    assert error["M"].startswith("terminating connection due to")


def test_with_txn_loss_error_the_session_goes_on(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"txn_loss": "error", "hold": "25s"})
    client = forebay.wire()
    client.run("begin")
    client.run("create table never (a int)")
    cluster.nodes[0].kill()
    answer = client.ask(wire.query("select 1"))
    assert wire.errors(answer) == ["40001"]
    if wire.status(answer) == "E":
        client.run("rollback")
    cluster.nodes[0].start()
    client.run("create table afterwards (a int)")
    assert client.value("select to_regclass('never') is null") == "t"


def test_with_txn_loss_error_an_extended_request_is_answered_whole(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"txn_loss": "error", "hold": "25s"})
    client = forebay.wire()
    client.run("begin")
    client.run("create table never (a int)")
    cluster.nodes[0].kill()
    forebay.wait_log("a server connection was lost in use")
    # The loss is seen before the request comes, and the request comes in one packet with its Sync.
    assert wire.types(client.ask(wire.parse("select 1"), wire.bind(), wire.execute(), wire.sync())) == "EZ"
    cluster.nodes[0].start()
    client.run("create table afterwards (a int)")


def test_a_commit_among_several_statements_is_reported_as_unknown(cluster, start_forebay):
    cluster.everywhere("create table w (id int); grant all on w to app")
    client = start_forebay(servers=cluster).wire()
    client.run("begin")
    client.run("insert into w values (1)")
    client.send(wire.query("commit; select pg_sleep(60)"))
    cluster.wait_running("pg_sleep(60)")
    wait_until(lambda: cluster.value("select count(*) from w") == 1, 10, "the commit")
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until("E")) == ["08007"], "it was committed"


def test_a_write_in_flight_when_the_server_died_is_reported_as_unknown(cluster, start_forebay, name):
    forebay = start_forebay(servers=cluster)
    client = forebay.wire()
    client.send(wire.query(f"create table {name} as select 1 as a from pg_sleep(60)"))
    cluster.wait_running(f"create table {name}")
    cluster.nodes[0].kill()
    answer = client.read_until("E")
    assert wire.errors(answer) == ["08007"], "nobody knows whether it was committed"


def test_a_commit_in_flight_when_the_server_died_is_reported_as_unknown(cluster, start_forebay):
    cluster.everywhere("create table w (id int primary key deferrable initially deferred)")
    cluster.everywhere(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(60); return null; end $$;"
        "create constraint trigger slow after insert on w deferrable initially deferred for each row execute function slow();"
        "grant all on w to app")
    client = start_forebay(servers=cluster).wire()
    client.run("begin")
    client.run("insert into w values (1)")
    client.send(wire.query("commit"))
    cluster.wait_running("commit")
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until("E")) == ["08007"]


@pytest.mark.usefixtures("with_table")
def test_an_old_primary_that_returns_gets_no_writes(cluster, start_forebay):
    forebay = start_forebay(servers=cluster)
    first = cluster.nodes[0]
    first.kill()
    second, _ = cluster.promote()
    forebay.wait_node(second.name, role="primary", state="up")
    first.start()  # it still believes to be the primary
    client = forebay.wire()
    for number in range(30):
        client.run(f"insert into w values ({number})")
        assert ran_on(client) == second.name
        client.run("select 1")
        assert ran_on(client) != "pg1", "its data are of another history"
    assert first.value("select count(*) from w") == 0
    cluster.rebuild(first)
    forebay.wait_node("pg1", role="replica", state="up")


@pytest.mark.usefixtures("with_table")
def test_a_primary_that_hangs_is_used_again_when_it_goes_on(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"hold": "25s", "check_timeout": "500ms"})
    client = forebay.wire()
    client.run("insert into w values (1)")
    cluster.nodes[0].pause()
    wait_until(lambda: forebay.node("pg1")["state"] != "up", 15, "the frozen primary to be seen as down")
    late = forebay.wire()
    late.send(wire.query("insert into w values (2)"))
    assert late.nothing_comes(0.5)
    cluster.nodes[0].resume()
    assert wire.tags(late.read_until()) == ["INSERT 0 1"]
    forebay.wait_node("pg1", state="up", role="primary")


def test_forebay_starts_while_the_primary_is_down(cluster, start_forebay):
    cluster.nodes[0].kill()
    forebay = start_forebay(servers=cluster, wait="port", failover={"hold": "25s"})
    reader = wait_until(forebay.wire, 15, "a login without a primary")
    # A read that comes before any replica was found waits for the primary.
    wait_until(lambda: all(forebay.node(n)["state"] == "up" for n in ("pg2", "pg3")), 15, "the replicas to be found")
    assert reader.value("select 'read'") == "read"
    writer = forebay.wire()
    writer.send(wire.query("create table made_later (a int)"))
    assert writer.nothing_comes(0.3)
    cluster.nodes[0].start()
    assert wire.tags(writer.read_until()) == ["CREATE TABLE"]


def test_forebay_starts_before_every_server(cluster, start_forebay):
    for node in cluster.nodes:
        node.kill()
    forebay = start_forebay(servers=cluster, wait="port")
    for node in cluster.nodes:
        node.start(wait=False)
    # A read that comes before any node was found is served by whichever is found first.
    assert forebay.wire().value("select 1") == "1"


def test_all_replicas_killed_at_once_leave_the_primary_serving(loaded):
    cluster, forebay, load = loaded
    for node in cluster.nodes[1:]:
        node.kill()
    load.progress(of=50)
    load.stop()
    assert load.wrong == []
    assert load.codes <= KNOWN, f"unexpected SQLSTATEs: {load.codes - KNOWN}"


def test_in_mode_off_roles_are_not_followed(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"mode": "off", "hold": "2s"})
    cluster.nodes[0].kill()
    cluster.nodes[1].promote()
    client = forebay.wire()
    client.send(wire.query("create table never (a int)"))
    assert wire.errors(client.read_until("E")) == ["57P03"]
    assert cluster.nodes[1].value("select count(*) from pg_class where relname = 'never'") == 0
