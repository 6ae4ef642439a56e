"""Forebay changes the primary itself: because it is lost, or because an admin wants it."""

import contextlib
import re
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import wait_until
from harness.postgres import BadDisk
from harness.relay import Relay
from harness.scene import events, recorded, step_of, wait_step
from test_failover_follow import Load


def wait_for_a_standby(primary):
    """From now on nothing is acknowledged that only the primary has: what a crash may cost otherwise is chance."""
    primary.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")


@pytest.fixture
def loaded(with_table, start_forebay):
    cluster = with_table
    wait_for_a_standby(cluster.nodes[0])
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "20s"})
    load = Load(forebay, "w")
    load.progress()
    yield cluster, forebay, load
    load.stop()


def missing(load, node):
    """Acknowledged writes that the node does not have."""
    return set(load.acknowledged) - {row["id"] for row in node.sql("select id from w")}


def new_primary(forebay, old):
    """Waits until another node than `old` is the primary; its name."""
    def found():
        names = [row["node"] for row in forebay.admin("SHOW NODES") if row["role"] == "primary" and row["state"] == "up"]
        return names[0] if names and names[0] != old else None
    return wait_until(found, 30, f"another primary than {old}")


def test_a_killed_primary_is_replaced(loaded):
    cluster, forebay, load = loaded
    cluster.nodes[0].kill()
    name = new_primary(forebay, "pg1")
    load.progress()
    load.stop()
    new = next(node for node in cluster.nodes if node.name == name)
    assert missing(load, new) == set(), "an acknowledged write is lost"
    assert load.wrong == []
    [done] = events(forebay, "failover_done")
    assert f"{name} is the primary now, pg1 was, timeline 2" in done
    print(done)
    other = next(node for node in cluster.nodes[1:] if node is not new)
    wait_until(lambda: forebay.node(other.name)["state"] == "up" and other.value("select count(*) from w") ==
               new.value("select count(*) from w"), 20, "the other replica to follow")


def test_a_hung_primary_is_replaced_and_stays_out_when_it_goes_on(loaded):
    cluster, forebay, load = loaded
    old = cluster.nodes[0]
    old.pause()
    name = new_primary(forebay, "pg1")
    load.progress()
    old.resume()
    wait_until(lambda: forebay.node("pg1")["state"] == "fenced", 20, "the old primary to be fenced")
    load.progress()
    load.stop()
    print(events(forebay, "failover_done"))
    new = next(node for node in cluster.nodes if node.name == name)
    assert missing(load, new) == set(), "an acknowledged write is lost"
    assert load.wrong == []


@pytest.mark.parametrize("to", [None, "pg3"])
def test_a_switchover_fails_nothing(loaded, to):
    cluster, forebay, load = loaded
    forebay.admin("SWITCHOVER main" + (f" TO {to}" if to else ""))
    name = new_primary(forebay, "pg1")
    assert name == (to or name)
    load.progress()
    load.stop()
    print(events(forebay, "switchover_done"))
    assert load.codes == set(), f"clients saw {load.codes}"
    new = next(node for node in cluster.nodes if node.name == name)
    assert missing(load, new) == set(), "an acknowledged write is lost"
    assert load.wrong == []
    assert forebay.node("pg1")["state"] == "fenced", "it needs a rewind"


def writes(forebay, value=1):
    """One write through Forebay."""
    with psycopg.connect(forebay.dsn(), autocommit=True, connect_timeout=30) as connection:
        return connection.execute("insert into w (id) values (%s) returning id", [value]).fetchone()[0]


@pytest.fixture
def quiet(with_table, start_forebay):
    """A cluster with a table, and a way to start Forebay in front of it."""
    cluster = with_table
    cluster.caught_up()

    def start(**failover):
        return start_forebay(servers=cluster, failover={"mode": "promote", "hold": "20s", **failover})
    return cluster, start


def test_a_switchover_that_cannot_end_is_undone(quiet):
    cluster, start = quiet
    forebay = start()
    assert writes(forebay, 1) == 1
    for node in cluster.nodes[1:]:
        node.configure(recovery_min_apply_delay="1h")
    with pytest.raises(psycopg.Error, match="no replica can be promoted"):
        forebay.admin("SWITCHOVER main")
    assert writes(forebay, 2) == 2
    assert cluster.nodes[0].value("show default_transaction_read_only") == "off"
    assert len(events(forebay, "switchover_undone")) == 1
    assert events(forebay, "primary_changed") == []


def test_a_switchover_waits_for_open_transactions_and_no_longer_than_said(quiet):
    cluster, start = quiet
    forebay = start()
    with psycopg.connect(forebay.dsn()) as connection:
        connection.execute("insert into w (id) values (1)")
        with pytest.raises(psycopg.Error, match="still in use after 300ms"):
            forebay.admin("SWITCHOVER main DRAIN '300ms'")
        connection.execute("insert into w (id) values (2)")
        connection.commit()
    assert writes(forebay, 3) == 3
    assert cluster.nodes[0].value("select count(*) from w") == 3


def test_a_dry_run_changes_nothing(quiet):
    cluster, start = quiet
    forebay = start()
    forebay.admin("SWITCHOVER main TO pg3 DRY RUN")
    assert forebay.node("pg1")["role"] == "primary"
    for sql, why in [
        ("SWITCHOVER main TO pg1", "pg1 is the primary already"),
        ("SWITCHOVER main TO pg9", 'no node "pg9"'),
        ("FAILOVER main", "SWITCHOVER main changes the primary without loss"),
        ("PROMOTE pg2", "SWITCHOVER main changes the primary without loss"),
        ("FAILOVER other", 'no PostgreSQL cluster "other"'),
    ]:
        with pytest.raises(psycopg.Error, match=why):
            forebay.admin(sql)
    assert events(forebay, "switchover_begun") == []


def cut_off(cluster, nodes):
    """These replicas receive nothing more, and do not know why."""
    for node in nodes:
        node.configure(primary_conninfo="host=127.0.0.1 port=1")
    wait_until(lambda: all(not node.sql("select from pg_stat_wal_receiver") for node in nodes), 10, "the receivers to end")


def test_a_bound_that_would_be_broken_is_kept(quiet):
    cluster, start = quiet
    forebay = start(max_lost_bytes="64KiB")
    cut_off(cluster, cluster.nodes[1:])
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        connection.execute("insert into w (id, v) select n, repeat('x', 1000) from generate_series(1, 1000) n")
    behind = cluster.nodes[0].position()
    wait_until(lambda: forebay.node("pg1")["position"] >= behind, 10, "the position to be seen")
    cluster.nodes[0].kill()
    [first, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")
    assert "max_lost_bytes is 65536" in first
    assert all(node.is_replica() for node in cluster.nodes[1:])
    wait_until(lambda: all("port=1" in node.value("show primary_conninfo") for node in cluster.nodes[1:]), 10,
               "what was changed to be changed back")
    forebay.admin("FAILOVER main TO pg3 ALLOW DATA LOSS")
    assert writes(forebay, 5000) == 5000
    assert not cluster.nodes[2].is_replica() and cluster.nodes[1].is_replica()
    [done] = events(forebay, "failover_done")
    lost = int(re.search(r"(\d+) bytes that pg1", done)[1])
    assert lost > 1_000_000, done


def test_what_another_replica_has_beyond_the_promoted_one_is_reported_as_lost(quiet):
    """The primary was asked for its position before the last writes: that they existed, only the other replica shows."""
    cluster, start = quiet
    forebay = start(check_interval="5s", max_lost_bytes="16MiB")
    forebay.admin("DRAIN NODE pg3")
    cut_off(cluster, cluster.nodes[1:2])
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        connection.execute("insert into w (id, v) select n, repeat('x', 1000) from generate_series(1, 1000) n")
    end = cluster.nodes[0].position()
    wait_until(lambda: cluster.nodes[2].value(f"select pg_last_wal_receive_lsn() >= '{end}'"), 10, "pg3 to have it")
    cluster.nodes[0].kill()
    [done] = wait_until(lambda: events(forebay, "failover_done"), 40, "the failover")
    assert done.startswith("pg2 is the primary now"), done
    assert int(re.search(r"(\d+) bytes that pg1", done)[1]) > 1_000_000, done


def rows_of_the_server(connection):
    connection.execute("insert into w (id, v) select n, repeat('x', 1000) from generate_series(1, 1000) n")


def rows_of_the_client(connection):
    for n in range(1, 11):
        connection.execute("insert into w (id, v) values (%s, %s)", [n, secrets.token_hex(50_000)])


def copied(connection):
    with connection.cursor().copy("copy w (id, v) from stdin") as copy:
        for n in range(1, 1001):
            copy.write_row([n, "x" * 1000])


def one_by_one(connection):
    for n in range(1, 1001):
        connection.execute("insert into w (id, v) values (%s, repeat('x', 1000))", [n])


def pipelined(connection):
    with connection.pipeline():
        one_by_one(connection)


def within_a_transaction(connection):
    with connection.transaction():
        rows_of_the_server(connection)
        connection.execute("select 1")


def chained(connection):
    connection.execute("begin")
    rows_of_the_server(connection)
    connection.execute("commit and chain")


def hidden_in_a_select(connection):
    rows = "insert into w (id, v) select n, repeat('x', 1000) from generate_series(1, 1000) n returning id"
    connection.execute(f"with rows as ({rows}) select count(*) from rows")


def hidden_in_code(connection):
    connection.execute("do $$ begin insert into w (id, v) select n, repeat('x', 1000) from generate_series(1, 1000) n; end $$")


def hidden_in_a_value(connection):
    connection.execute("insert into w (id, v) select 1, string_agg(md5(n::text), '') from generate_series(1, 30000) n")


@pytest.mark.parametrize("burst", [rows_of_the_server, rows_of_the_client, copied, one_by_one, pipelined,
                                   within_a_transaction, chained, hidden_in_a_select, hidden_in_code, hidden_in_a_value])
def test_a_bound_counts_what_was_written_in_the_last_moment(quiet, burst):
    cluster, start = quiet
    forebay = start(max_lost_bytes="128KiB")
    assert writes(forebay, 5000) == 5000
    cut_off(cluster, cluster.nodes[1:])
    # Who has begun another transaction is told that it is lost.
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        burst(connection)
        cluster.nodes[0].kill()
    [first, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")
    assert "max_lost_bytes is 131072" in first
    assert all(node.is_replica() for node in cluster.nodes[1:])


def refused(cluster, forebay):
    """The primary has written too much that nobody else has, and is dead."""
    assert writes(forebay, 5000) == 5000
    cut_off(cluster, cluster.nodes[1:])
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        rows_of_the_server(connection)
        cluster.nodes[0].kill()
    wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")


def test_a_refusal_outlives_a_restart(quiet):
    cluster, start = quiet
    forebay = start(max_lost_bytes="128KiB")
    refused(cluster, forebay)
    forebay.kill()
    forebay.start(wait="")
    [first, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused again")
    assert "max_lost_bytes is 131072" in first and events(forebay, "failover_done") == []


def test_a_refusal_outlives_the_removal_of_the_dead_primary(quiet):
    cluster, start = quiet
    forebay = start(max_lost_bytes="128KiB")
    refused(cluster, forebay)
    forebay.change(cluster=[{**forebay.config["postgres"]["cluster"][0], "nodes": cluster.addresses[1:]}])
    forebay.reload()
    with pytest.raises(psycopg.Error, match="max_lost_bytes is 131072"):
        forebay.admin("FAILOVER main")


@pytest.mark.parametrize("order", ["", "FAILOVER main TO pg3"])
def test_what_another_replica_has_is_not_lost_within_a_bound(new_cluster, start_forebay, order):
    cluster = new_cluster()
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    first, second, third = cluster.nodes
    nodes = [cluster.addresses[0], {"host": "127.0.0.1", "port": second.port, "promote": False}, cluster.addresses[2]]
    if order:
        nodes = cluster.addresses
    forebay = start_forebay(nodes=nodes, failover={"mode": "promote", "hold": "20s", "max_lost_bytes": "128KiB"})
    assert writes(forebay, 5000) == 5000
    cut_off(cluster, [third])
    if order:
        forebay.admin("PAUSE FAILOVER")
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        rows_of_the_server(connection)
        wait_until(lambda: second.position() >= first.position(), 10, "pg2 to have it")
        first.kill()
    if order:
        forebay.wait_node("pg1", state="down")
        wait_until(lambda: events(forebay, "primary_lost"), 20, "the loss to be seen")
        with pytest.raises(psycopg.Error, match="pg3 lacks 1[0-9]{6} bytes"):
            forebay.admin(order)
    else:
        [why, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")
        assert "pg3 lacks 1" in why
    assert third.is_replica()


def test_a_second_loss_soon_after_the_first_does_not_wait(quiet):
    cluster, start = quiet
    forebay = start(durability="best_effort")
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    cluster.nodes[0].kill()
    name = new_primary(forebay, "pg1")
    second = next(node for node in cluster.nodes if node.name == name)
    third = next(node for node in cluster.nodes[1:] if node is not second)
    wait_until(lambda: third.sql("select from pg_stat_wal_receiver where status = 'streaming'"), 20, "the last to follow")
    begun = time.monotonic()
    second.kill()
    wait_until(lambda: len(events(forebay, "failover_begun")) == 2, 4, "the second failover to begin")
    assert new_primary(forebay, name) == third.name and time.monotonic() - begun < 20


def test_a_small_loss_is_within_a_bound(quiet):
    cluster, start = quiet
    forebay = start(max_lost_bytes="128KiB")
    cut_off(cluster, cluster.nodes[1:])
    assert writes(forebay, 5000) == 5000
    cluster.nodes[0].kill()
    assert new_primary(forebay, "pg1")


def test_strict_promotes_only_with_proof(quiet):
    cluster, start = quiet
    first, second, third = cluster.nodes
    first.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    forebay = start(durability="strict")
    assert writes(forebay, 1) == 1
    third.kill()
    first.kill()
    [why, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be refused")
    assert "2 of the 2 standbys of synchronous_standby_names have to be heard to be sure of every commit, 1 are" in why
    forebay.wait_log("undone again", 30)
    assert [len(events(forebay, event)) for event in ("failover_begun", "failover_undone")] == [1, 1]
    third.start()
    name = new_primary(forebay, "pg1")
    assert len(events(forebay, "failover_begun")) == len(events(forebay, "failover_undone")) + 1
    new = next(node for node in cluster.nodes if node.name == name)
    assert new.value("select count(*) from w") == 1
    # The new primary waits for nobody unless it is told to: the setting is each node's own.
    assert writes(forebay, 2) == 2


def test_a_restart_does_not_forget_who_is_the_primary(quiet):
    cluster, start = quiet
    forebay = start()
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    cluster.nodes[0].kill()
    name = new_primary(forebay, "pg1")
    assert writes(forebay, 2) == 2
    wait_until(lambda: all(row["state"] == "up" for row in forebay.admin("SHOW NODES") if row["node"] != "pg1"), 20,
               "both others to be up")
    new = next(node for node in cluster.nodes if node.name == name)
    forebay.kill()
    # Alone, the former primary looks like a cluster of its own.
    for node in cluster.nodes[1:]:
        node.kill()
    cluster.nodes[0].start()
    forebay.start(wait="port")
    wait_until(lambda: forebay.node("pg1")["state"] == "fenced", 20, "the former primary to be fenced")
    assert forebay.node("pg1")["role"] == "primary"
    new.start()
    wait_until(lambda: forebay.node(name)["role"] == "primary" and forebay.node(name)["state"] == "up", 20,
               "the recorded primary to be found")
    assert writes(forebay, 3) == 3
    assert new.value("select count(*) from w") == 3


@pytest.fixture
def slowed(new_cluster, start_forebay):
    """A cluster behind relays that take their time, so that every step of a change can be met."""
    cluster = new_cluster(auth="trust")
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    cluster.caught_up()
    relays = [Relay(node.port, delay=0.04) for node in cluster.nodes]
    nodes = [relay.address for relay in relays]
    yield cluster, start_forebay(nodes=nodes, failover={"mode": "promote", "hold": "20s"})
    for relay in relays:
        relay.destroy()


def prepare_for(cluster, step):
    """Everything is everywhere, and the step takes a while."""
    cluster.caught_up()
    if step == "catching_up":  # which Forebay has to end first
        for node in cluster.nodes[1:]:
            node.sql("select pg_wal_replay_pause()")


def dies_at(forebay, step):
    """Waits for the step and kills Forebay in it; what it had on disk then."""
    wait_step(forebay, step)
    forebay.kill()
    return recorded(forebay)


def converges(cluster, forebay, died):
    """One node takes writes, on one new timeline at the most, and everybody follows it."""
    name = wait_until(lambda: next((row["node"] for row in forebay.admin("SHOW NODES")
                                    if row["role"] == "primary" and row["state"] == "up"), None), 40, "a primary")
    assert writes(forebay, 1000) == 1000
    wait_until(lambda: recorded(forebay)["job"] is None and not recorded(forebay)["astray"], 30, "nothing to be left to do")
    primary = next(node for node in cluster.nodes if node.name == name)
    assert primary.value("show default_transaction_read_only") == "off"
    step, more = step_of(died)
    if step == "promoting" or (step == "catching_up" and primary is not cluster.nodes[0]):
        assert more["candidate"]["port"] == recorded(forebay)["primary"]["port"], "another one than was decided"
    others = [node for node in cluster.nodes[1:] if node is not primary and node.is_running()]
    for node in others:
        assert node.is_replica(), f"{node.name} was promoted too"
        node.sql("select pg_wal_replay_resume()")
        wait_until(lambda: node.value("select count(*) from w where id = 1000") == 1, 20, f"{node.name} to follow")
    files = [path.name for path in (primary.data / "pg_wal").glob("*.history")]
    assert files in ([], ["00000002.history"]), f"more than one promotion: {files}"
    return primary


@pytest.mark.parametrize("step", ["witnessing", "freezing", "catching_up", "promoting"])
def test_a_failover_goes_on_after_forebay_was_killed(slowed, step):
    cluster, forebay = slowed
    assert writes(forebay, 1) == 1
    prepare_for(cluster, step)
    cluster.nodes[0].kill()
    died = dies_at(forebay, step)
    forebay.start(wait="port")
    primary = converges(cluster, forebay, died)
    assert primary is not cluster.nodes[0]
    assert primary.value("select count(*) from w") == 2


def dies_during(forebay, order, step):
    """Gives an order that Forebay does not outlive; what it had on disk then."""
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(forebay.admin, order)
        died = dies_at(forebay, step)
        with pytest.raises(psycopg.Error):
            ordered.result(20)
    return died


@pytest.mark.parametrize("order, step", [
    ("SWITCHOVER main", "fencing"),
    ("SWITCHOVER main", "catching_up"),
    ("SWITCHOVER main", "promoting"),
    ("FAILOVER main ALLOW DATA LOSS", "fencing"),
    ("FAILOVER main ALLOW DATA LOSS", "freezing"),
])
def test_an_ordered_change_ends_after_forebay_was_killed(slowed, order, step):
    cluster, forebay = slowed
    assert writes(forebay, 1) == 1
    prepare_for(cluster, step)
    died = dies_during(forebay, order, step)
    forebay.start(wait="port")
    primary = converges(cluster, forebay, died)
    assert primary.value("select count(*) from w") == 2


def test_what_is_undone_is_undone_after_forebay_was_killed(slowed):
    cluster, forebay = slowed
    assert writes(forebay, 1) == 1
    third = cluster.nodes[2]
    cluster.everywhere("create table dead as select n from generate_series(1, 1000) n")
    third.configure(max_standby_streaming_delay=-1)
    with third.connect(user="other", autocommit=False) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select 1 from pg_class")
        cluster.nodes[0].sql("delete from dead")
        cluster.nodes[0].sql("vacuum dead")
        died = dies_during(forebay, "SWITCHOVER main TO pg3", "undoing")
        assert "reads on it hold it up" in step_of(died)[1]["why"]
    forebay.start(wait="port")
    assert converges(cluster, forebay, died) is cluster.nodes[0]


def test_replicas_are_led_to_the_new_primary_after_forebay_was_killed(slowed):
    cluster, forebay = slowed
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    cluster.nodes[0].kill()

    def leads():
        record = recorded(forebay)
        return record["job"] is None and record.get("epoch", 1) > 1 and record["astray"]
    wait_until(leads, 30, "a replica to be led to the new primary", 0.001)
    forebay.kill()
    died = recorded(forebay)
    forebay.start(wait="port")
    primary = converges(cluster, forebay, died)
    assert recorded(forebay)["primary"] == died["primary"], "another one than was decided"


@pytest.mark.usefixtures("with_table")
def test_a_primary_that_answers_and_commits_nothing_is_replaced(cluster, start_forebay):
    old = cluster.nodes[0]
    disk = BadDisk(cluster.folder)  # where the servers' user may look
    old.configure(fsync="on")
    old.stop()
    old.start(env=disk.env)
    cluster.caught_up()
    wait_for_a_standby(old)
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "30s"})
    load = Load(forebay, "w")
    load.progress()
    disk.hang()
    try:
        name = new_primary(forebay, "pg1")
        load.progress()
    finally:
        disk.mend()
    load.progress()
    load.stop()
    new = next(node for node in cluster.nodes if node.name == name)
    assert "it answers, and has committed nothing" in events(forebay, "failover_begun")[0]
    assert missing(load, new) == set(), "an acknowledged write is lost"
    assert load.wrong == []


@pytest.mark.usefixtures("with_table")
def test_a_login_without_rights_changes_nothing_and_says_so(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"mode": "follow"})
    with pytest.raises(psycopg.Error, match="pg1: it could not be kept from writing: permission denied"):
        forebay.admin("SWITCHOVER main")
    assert writes(forebay, 1) == 1
    cluster.nodes[0].kill()
    wait_until(lambda: forebay.node("pg1")["state"] == "down", 20, "the loss to be seen")
    with pytest.raises(psycopg.Error, match="the monitoring login may not read its primary_conninfo"):
        forebay.admin("FAILOVER main")
    assert all(node.is_replica() for node in cluster.nodes[1:])
    assert "order_refused" in {row["event"] for row in forebay.admin("SHOW EVENTS")}


def test_a_replica_without_a_receiver_is_known_to_be_on_the_new_timeline(quiet):
    cluster, start = quiet
    first, second, third = cluster.nodes
    forebay = start()
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    forebay.admin("SWITCHOVER main TO pg2")
    assert writes(forebay, 2) == 2
    wait_until(lambda: third.value("select count(*) from w") == 2, 20, "pg3 to follow")
    wait_until(lambda: recorded(forebay)["seen"], 20, "it to be on disk how far pg2 is")
    # While nobody looks: the receiver, the only one to tell the timeline, is gone by the time Forebay is back.
    forebay.kill()
    second.kill()
    first.kill()
    wait_until(lambda: not third.sql("select from pg_stat_wal_receiver"), 20, "the receiver to end")
    shown = third.value("select greatest((select timeline_id from pg_control_checkpoint()), "
                        "(select min_recovery_end_timeline from pg_control_recovery()))")
    assert shown == 1, "its control file tells: this test proves nothing"
    forebay.start(wait="port")
    assert new_primary(forebay, "pg2") == "pg3"
    assert writes(forebay, 3) == 3
    assert third.value("select count(*) from w") == 3


def test_log_that_the_old_primary_still_writes_reaches_no_replica(quiet):
    cluster, start = quiet
    first, _, third = cluster.nodes
    forebay = start()
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    over = threading.Event()

    def write_log():
        # A superuser's session, which the monitoring login may not end.
        with psycopg.connect(host=str(first.folder), port=first.port, user="postgres", dbname="bench", autocommit=True) as own:
            while not over.wait(0.01):
                own.execute("select pg_logical_emit_message(false, 'test', 'x')")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write_log)
        try:
            forebay.admin("SWITCHOVER main TO pg2")
            assert writes(forebay, 2) == 2
            wait_until(lambda: third.value("select count(*) from w") == 2, 20, "pg3 to follow")
        finally:
            over.set()
        writer.result(10)
