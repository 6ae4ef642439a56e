"""`failover.commit_resolution`: who sent COMMIT and lost the primary is told what became of it."""

import json
import os
import signal
import time

import psycopg
import pytest

from harness import wait_until, wire
from harness.writers import Writers

NOBODY = "nobody"  # a standby that every commit waits for in vain: its record is everywhere, and it is not answered
SLOW = ("create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(600); return null; end $$;"
        "create constraint trigger slow after insert on slow deferrable initially deferred for each row"
        " execute function slow()")
# As libpq, most drivers, and drivers with prepared statements of their own send it.
COMMITS = {
    "simple": [wire.query("commit")],
    "unnamed": [wire.parse("COMMIT"), wire.bind(), wire.describe("P"), wire.execute(), wire.sync()],
    "named": [wire.bind(name="end"), wire.execute(), wire.sync()],
}


class Transactions(Writers):
    """Clients that each commit one numbered row a transaction, until stopped; keeps what they were told."""

    def __init__(self, forebay, extended=False, clients=6):
        self.dsn, self.extended = forebay.dsn(), extended
        self.committed, self.rolled_back, self.unknown, self.codes = [], [], [], set()
        super().__init__(clients)

    def work(self, client):
        connection, number = None, client * 1_000_000
        while not self._stop.is_set():
            number += 1
            told = self.rolled_back  # of what fails before its COMMIT
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(self.dsn, autocommit=True, connect_timeout=30)
                connection.execute("begin")
                connection.execute("insert into w (id) values (%s)", [number])
                told = self.unknown
                done = connection.execute("commit", prepare=self.extended)
                (self.committed if done.statusmessage == "COMMIT" else self.unknown).append(number)
            except psycopg.Error as problem:
                self.codes.add(problem.sqlstate or str(problem))
                # 57P01: the connection was lost before its COMMIT was seen.
                (self.rolled_back if problem.sqlstate in ("40001", "57P01") else told).append(number)
                time.sleep(0.02)

    def progress(self, of=30):
        """Waits until more transactions were committed."""
        before = len(self.committed)
        wait_until(lambda: len(self.committed) >= before + of, 40, "transactions to get through")

    def agree_with(self, node):
        """What the clients were told is what the node has."""
        stored = {row["id"] for row in node.sql("select id from w")}
        assert set(self.committed) - stored == set(), "told to be committed, and is not there"
        assert set(self.rolled_back) & stored == set(), "told to be rolled back, and is there"
        assert self.unknown == [], f"nobody was told what became of these; {self.codes}"


@pytest.fixture
def started(cluster, start_forebay):
    """A cluster with a table w and a table slow, whose commits never end, and a way to start Forebay before it."""
    cluster.everywhere("create table w (id bigint primary key); create table slow (id bigint);"
                       "grant all on w, slow to app")
    cluster.everywhere(SLOW)

    def start(mode="promote", **failover):
        return start_forebay(servers=cluster, failover={
            "mode": mode, "hold": "40s", "commit_resolution": "on", "check_timeout": "500ms", **failover})
    return cluster, start


def primary(forebay, cluster, other_than=None):
    """Waits for a primary; its node."""
    def found():
        names = [row["node"] for row in forebay.admin("SHOW NODES") if row["role"] == "primary" and row["state"] == "up"]
        return names[0] if names and names[0] != other_than else None
    name = wait_until(found, 40, "a primary")
    return next(node for node in cluster.nodes if node.name == name)


def committing(forebay, sql, how="simple"):
    """A client whose COMMIT is on its way."""
    client = forebay.wire()
    client.run("begin")
    client.run(sql)
    if how == "named":
        client.ask(wire.parse("commit", name="end"), wire.sync())
    return client.send(*COMMITS[how])


def in_sync_rep(cluster, clients=1):
    """Waits until so many commits wait for their standby, and the replicas have them."""
    wait_until(lambda: cluster.nodes[0].value("select count(*) from pg_stat_activity where wait_event = 'SyncRep'") ==
               clients, 20, "the commits to wait for a standby")
    cluster.caught_up()


def goes_on(client):
    """The session can be used, and its next statement runs on a primary."""
    client.run("begin")
    client.run("insert into w values (999)")
    client.run("rollback")


@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_every_transaction_has_an_outcome_when_the_primary_is_lost(started, how, extended):
    cluster, start = started
    cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    forebay = start()
    load = Transactions(forebay, extended)
    load.progress()
    getattr(cluster.nodes[0], how)()
    new = primary(forebay, cluster, "pg1")
    load.progress()
    load.stop()
    print([row["detail"] for row in forebay.admin("SHOW EVENTS") if row["event"] == "commits_resolved"], load.codes)
    load.agree_with(new)


@pytest.mark.parametrize("how", list(COMMITS))
@pytest.mark.parametrize("loss", ["kill", "pause"])
def test_a_commit_that_the_new_primary_has_is_answered(started, how, loss):
    cluster, start = started
    forebay = start()
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    client = committing(forebay, "insert into w values (1)", how)
    in_sync_rep(cluster)
    assert not client.has_answer()
    getattr(cluster.nodes[0], loss)()
    answer = client.read_until()
    assert (wire.tags(answer), wire.status(answer)) == (["COMMIT"], "I"), wire.errors(answer)
    assert wire.types(answer) == {"simple": "CZ", "unnamed": "12nCZ", "named": "2CZ"}[how]
    new = primary(forebay, cluster, "pg1")
    assert new.value("select count(*) from w") == 1
    new.configure(synchronous_standby_names="")
    goes_on(client)


@pytest.mark.parametrize("how", list(COMMITS))
@pytest.mark.parametrize("loss", ["kill", "pause"])
def test_a_commit_that_the_new_primary_has_not_is_rolled_back(started, how, loss):
    cluster, start = started
    forebay = start()
    client = committing(forebay, "insert into slow values (1)", how)
    cluster.wait_running("commit" if how != "unnamed" else "COMMIT")
    getattr(cluster.nodes[0], loss)()
    answer = client.read_until()
    assert (wire.errors(answer), wire.status(answer)) == (["40001"], "I")
    assert primary(forebay, cluster, "pg1").value("select count(*) from slow") == 0
    goes_on(client)


def record(forebay):
    """What Forebay has on disk about the cluster."""
    return json.loads((forebay.folder / "state" / "failover" / "main.json").read_text())["record"]


def test_what_was_decided_outlives_forebay(started):
    cluster, start = started
    forebay = start()
    cluster.nodes[0].sql("revoke execute on function pg_promote(boolean, integer) from steward", dbname="postgres")
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    committing(forebay, "insert into w values (1)")
    committing(forebay, "insert into slow values (1)")
    in_sync_rep(cluster)
    cluster.wait_running("commit")
    cluster.nodes[0].kill()
    # It may not promote, so that it stays where it is: everything is decided, and nobody was told.
    decided = wait_until(lambda: record(forebay).get("in_doubt"), 30, "the commits to be looked up")
    assert sorted(known["outcome"] for known in decided) == ["committed", "rolled_back"]
    candidate = cluster.node_at(record(forebay)["job"]["step"]["promoting"]["candidate"]["port"])
    forebay.kill()
    forebay.start(wait="port")
    candidate.promote()
    candidate.configure(synchronous_standby_names="")
    assert primary(forebay, cluster, "pg1") is candidate
    wait_until(lambda: record(forebay)["job"] is None, 10, "the record to be written")
    assert record(forebay)["in_doubt"] == decided
    counts = [candidate.value(f"select count(*) from {table}") for table in ("w", "slow")]
    assert counts == [1, 0]
    goes_on(forebay.wire())


def test_off_it_is_unknown_and_the_server_hears_nothing_more(started):
    cluster, start = started
    forebay = start(commit_resolution="off")
    cluster.nodes[0].configure(log_statement="all", synchronous_standby_names=NOBODY)
    client = committing(forebay, "insert into w values (1)")
    in_sync_rep(cluster)
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until("E")) == ["08007"]
    assert "txid_current_if_assigned" not in cluster.nodes[0].log()


def questions(node):
    """How often the server was asked about a transaction."""
    return node.log().count("SELECT pg_catalog.txid_current_if_assigned()")


def test_only_transactions_that_may_have_written_are_asked_about(started):
    cluster, start = started
    client = start().wire()
    node = cluster.nodes[0]
    node.configure(log_statement="all")

    def asked(*statements):
        before = questions(node)
        for sql in statements:
            client.run(sql)
        return questions(node) - before

    assert asked("insert into w values (1)", "update w set id = 2") == 0, "no explicit transaction"
    assert asked("begin", "select * from w", "savepoint a", "release a", "commit") == 0
    assert asked("begin", "insert into w values (3)", "insert into w values (4)", "commit") == 1
    assert asked("begin", "update w set id = 9 where id = 77", "select 1", "commit") == 1, "it has written nothing"
    assert asked("begin", "savepoint a", "insert into w values (5)", "rollback to a", "insert into w values (6)",
                 "commit") >= 1
    assert asked("begin", "insert into w values (7)", "rollback") == 1
    assert [row[0] for row in client.run("select id from w order by id")] == ["2", "3", "4", "6"]


def test_a_transaction_that_changed_nothing_is_rolled_back_without_a_question(started):
    cluster, start = started
    forebay = start(mode="follow")
    client = forebay.wire()
    client.run("begin isolation level repeatable read")
    client.run("select count(*) from w")
    cluster.nodes[0].kill()
    answer = client.send(wire.query("commit")).wait_closed()
    assert wire.errors(answer) in (["57P01"], ["40001"])


def test_the_next_transaction_of_a_chain_has_its_own_outcome(started):
    cluster, start = started
    forebay = start()
    client = forebay.wire()
    client.run("begin")
    client.run("insert into w values (1)")
    assert wire.tags(client.ask(wire.query("commit and chain"))) == ["COMMIT"]
    client.run("insert into slow values (1)")
    cluster.caught_up()
    client.send(wire.query("commit"))
    cluster.wait_running("commit")
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until()) == ["40001"]
    new = primary(forebay, cluster, "pg1")
    assert (new.value("select count(*) from w"), new.value("select count(*) from slow")) == (1, 0)


@pytest.mark.parametrize("statement", ["commit and chain", "prepare transaction 'p'"])
def test_what_does_not_only_commit_stays_unknown(started, statement):
    cluster, start = started
    forebay = start()
    client = forebay.wire()
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    client.run("begin")
    client.run("insert into w values (1)")
    client.send(wire.query(statement))
    in_sync_rep(cluster)
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until("E")) == ["08007"]


def test_subtransactions_count_as_their_transaction(started):
    cluster, start = started
    forebay = start()
    client = forebay.wire()
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    for sql in ("begin", "savepoint a", "insert into w values (1)", "release a", "savepoint b",
                "insert into w values (2)", "rollback to b"):
        client.run(sql)
    assert wire.errors(client.ask(wire.query("insert into w values (1)"))) == ["23505"]
    client.run("rollback to b")
    client.send(wire.query("commit"))
    in_sync_rep(cluster)
    cluster.nodes[0].kill()
    assert wire.tags(client.read_until()) == ["COMMIT"]
    assert primary(forebay, cluster, "pg1").sql("select id from w") == [{"id": 1}]


def test_a_statement_that_failed_before_a_savepoint_is_rolled_back_to(started):
    cluster, start = started
    forebay = start()
    client = forebay.wire()
    client.run("insert into w values (1)")
    for sql in ("begin", "savepoint a"):
        client.run(sql)
    assert wire.errors(client.ask(wire.query("insert into w values (1)"))) == ["23505"]
    for sql in ("rollback to a", "insert into w values (2)"):
        client.run(sql)
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    client.send(wire.query("commit"))
    in_sync_rep(cluster)
    cluster.nodes[0].kill()
    assert wire.tags(client.read_until()) == ["COMMIT"]
    assert primary(forebay, cluster, "pg1").value("select count(*) from w") == 2


def test_a_commit_of_a_failed_transaction_is_a_rollback(started):
    client = started[1]().wire()
    client.run("begin")
    client.run("insert into w values (1)")
    assert wire.errors(client.ask(wire.query("insert into w values (1)"))) == ["23505"]
    assert wire.tags(client.ask(wire.query("commit"))) == ["ROLLBACK"]
    goes_on(client)


@pytest.mark.parametrize("how", list(COMMITS))
def test_a_question_that_fails_fails_the_commit(started, how):
    cluster, start = started
    cluster.everywhere("revoke execute on function txid_current_if_assigned() from public")
    answer = committing(start(), "insert into w values (1)", how).read_until()
    assert (wire.errors(answer), wire.tags(answer), wire.status(answer)) == (["42501"], [], "I")
    assert cluster.value("select count(*) from w") == 0


def test_open_cursors_and_statements_of_the_client_are_left_alone(started):
    cluster, start = started
    client = start().wire()
    client.run("begin")
    client.ask(wire.parse("insert into w select generate_series(1, 3) returning id"), wire.bind(),
               wire.execute(rows=2), wire.sync())
    # The unnamed portal and statement are still there, although the transaction was asked about.
    assert wire.rows(client.ask(wire.execute(), wire.sync())) == [["3"]]
    answer = client.ask(wire.parse("", name="none"), wire.bind(), wire.sync())
    assert wire.errors(answer) == [], "the unnamed statement is gone"
    assert wire.tags(client.ask(wire.query("rollback"))) == ["ROLLBACK"]


def test_after_a_promotion_by_somebody_else(started):
    cluster, start = started
    forebay = start(mode="follow")
    cluster.nodes[0].configure(synchronous_standby_names=NOBODY)
    there, gone = committing(forebay, "insert into w values (1)"), committing(forebay, "insert into slow values (1)")
    in_sync_rep(cluster)
    cluster.wait_running("commit")
    cluster.nodes[0].kill()
    new, _ = cluster.promote()
    assert wire.tags(there.read_until()) == ["COMMIT"]
    assert wire.errors(gone.read_until()) == ["40001"]
    assert (new.value("select count(*) from w"), new.value("select count(*) from slow")) == (1, 0)


def test_when_the_same_primary_is_back(started):
    cluster, start = started
    forebay = start(mode="follow")
    node = cluster.nodes[0]
    node.configure(synchronous_standby_names=NOBODY)
    # Without this right nobody can see what the standbys have.
    node.sql("set synchronous_commit = local; grant pg_monitor to monitor")
    there, gone = committing(forebay, "insert into w values (1)"), committing(forebay, "insert into slow values (1)")
    in_sync_rep(cluster)
    cluster.wait_running("commit")
    node.kill()
    node.start()
    assert wire.errors(gone.read_until()) == ["40001"]
    # It is there, and its standby still has not confirmed it: nobody is told before.
    assert node.value("select count(*) from w") == 1
    assert not there.has_answer()
    node.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    assert wire.tags(there.read_until()) == ["COMMIT"]
    goes_on(there)


def test_a_connection_that_is_lost_alone(started):
    cluster, start = started
    client = committing(start(), "insert into slow values (1)")
    cluster.wait_running("commit")
    cluster.nodes[0].sql("select pg_terminate_backend(pid) from pg_stat_activity where query = 'commit'")
    assert wire.errors(client.read_until()) == ["40001"]
    assert cluster.value("select count(*) from slow") == 0
    goes_on(client)


def test_nobody_waits_longer_than_hold(started):
    cluster, start = started
    forebay = start(mode="follow", hold="1s")
    client = committing(forebay, "insert into slow values (1)")
    cluster.wait_running("commit")
    cluster.nodes[0].kill()
    assert wire.errors(client.read_until("E")) == ["08007"]


def test_a_switchover_leaves_nothing_in_doubt(started):
    cluster, start = started
    forebay = start()
    load = Transactions(forebay)
    load.progress()
    forebay.admin("SWITCHOVER main DRAIN '20s'")
    new = primary(forebay, cluster, "pg1")
    load.progress()
    load.stop()
    assert load.codes == set()
    load.agree_with(new)
    assert "in_doubt" not in record(forebay)


def stop(node, query):
    """Stops the server processes that a query finds."""
    for row in node.sql(query):
        os.kill(row["pid"], signal.SIGSTOP)


@pytest.mark.parametrize("has_it", [True, False], ids=["has", "lacks"])
@pytest.mark.parametrize("resolution", ["on", "off"])
def test_an_answer_that_waited_for_the_primarys_position_is_resolved(started, resolution, has_it):
    cluster, start = started
    forebay = start(commit_resolution=resolution, check_timeout="10s")
    client = forebay.wire()
    client.run("begin")
    client.run("set local work_mem = '5MB'")
    client.run("insert into w values (1)")
    client.run("select pg_sleep(0.05)")
    old = cluster.nodes[0]
    if not has_it:
        stop(old, "select pid from pg_stat_replication")
    stop(old, "select pid from pg_stat_activity where usename = 'steward'")
    client.send(wire.query("commit"))
    wait_until(lambda: old.value("select count(*) from w") == 1, 10, "the commit")
    if has_it:
        cluster.caught_up()
    assert not client.has_answer(), "it may stand for much, and nobody knows how far the primary has come"
    old.kill()
    answer = client.read_until("Z" if resolution == "on" else "E")
    told = wire.errors(answer) or wire.tags(answer)
    assert told == {"off": ["08007"], "on": ["COMMIT"] if has_it else ["40001"]}[resolution]
    new = primary(forebay, cluster, "pg1")
    assert new.value("select count(*) from w") == has_it
    if resolution == "on":
        goes_on(client)


def test_a_client_whose_answer_waits_is_not_idle(started, start_forebay):
    cluster, _ = started
    forebay = start_forebay(servers=cluster, pool={"client_idle_timeout": "1s"}, failover={
        "mode": "promote", "hold": "40s", "check_timeout": "10s"})
    client = forebay.wire()
    pids = [row["pid"] for row in cluster.nodes[0].sql("select pid from pg_stat_activity where usename = 'steward'")]
    client.send(wire.query("insert into w select 1 from pg_sleep(0.2)"))
    stop(cluster.nodes[0], "select pid from pg_stat_activity where usename = 'steward'")
    wait_until(lambda: cluster.nodes[0].value("select count(*) from w") == 1, 10, "the commit")
    wait_until(lambda: client.nothing_comes(2), 5, "more than the time-out to pass")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert wire.tags(client.read_until("Z")) == ["INSERT 0 1"]


def test_a_client_that_is_closed_while_its_answer_waits_is_not_told_that_it_is_committed(started):
    cluster, start = started
    forebay = start(commit_resolution="off", check_timeout="10s")
    client = forebay.wire()
    client.run("begin")
    client.run("insert into w select 1 from pg_sleep(0.05)")
    stop(cluster.nodes[0], "select pid from pg_stat_activity where usename = 'steward'")
    client.send(wire.query("commit"))
    wait_until(lambda: cluster.nodes[0].value("select count(*) from w") == 1, 10, "the commit")
    assert not client.has_answer()
    [row] = [row for row in forebay.admin("SHOW CLIENTS") if row["database"] == "bench"]
    forebay.admin(f"KILL_CLIENT {row['id']}")
    answer = client.wait_closed()
    assert (wire.errors(answer), wire.tags(answer)) == (["08007"], [])
