"""What a failover believes: who has acknowledged what, who has how much, and whether the primary is gone at all."""

import os
import re
import signal

import psycopg
import pytest

from harness import Relay, wait_until
from harness.postgres import BadDisk
from harness.scene import events, recorded
from test_failover_promote import new_primary, writes

STRICT = {"mode": "promote", "durability": "strict", "hold": "60s"}


def is_known(cluster, forebay):
    """What commits wait for is on disk, as the primary says it now."""
    setting = cluster.nodes[0].value("show synchronous_standby_names")
    wait_until(lambda: (recorded(forebay).get("seen") or {}).get("synchronous", {}).get("setting") == setting, 10,
               "the setting to be on disk")


def as_standby(node, name):
    """The primary knows the node by this name."""
    conninfo = re.sub(r"application_name='?\w+'?", f"application_name={name}", node.value("show primary_conninfo"))
    node.sql("alter system set primary_conninfo = '%s'" % conninfo.replace("'", "''"))
    node.sql("select pg_reload_conf()")


# -- strict ---------------------------------------------------------------------------------------------------------


def only_one_has_it(cluster, forebay, has, lacks):
    """`lacks` is away while `has` acknowledges a write; then `has` and the primary are lost, and `lacks` comes back."""
    primary = cluster.nodes[0]
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    is_known(cluster, forebay)
    lacks.kill()
    assert writes(forebay, 2) == 2
    for node in filter(None, (has, primary)):
        node.kill()
    lacks.start()
    wait_until(lambda: any("standbys of synchronous_standby_names have to be heard" in why
                           for why in events(forebay, "failover_undone")), 40, "the reason")
    assert lacks.is_replica() and events(forebay, "failover_done") == []


def test_strict_counts_standbys_by_their_own_names(with_table, start_forebay):
    """Forebay's names of the nodes are others: what it calls pg2 is the primary."""
    first, second, third = with_table.nodes
    first.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    one, two, three = with_table.addresses
    forebay = start_forebay(nodes=[three, one, two], failover=STRICT)
    only_one_has_it(with_table, forebay, second, third)


def test_strict_counts_every_standby_of_one_name(with_table, start_forebay):
    first, second, third = with_table.nodes
    for node in (second, third):
        as_standby(node, "standby")
    named = "select count(*) from pg_stat_replication where application_name = 'standby'"
    wait_until(lambda: first.value(named) == 2, 20, "two standbys of one name")
    first.configure(synchronous_standby_names="ANY 1 (standby)")
    only_one_has_it(with_table, start_forebay(servers=with_table, failover=STRICT), second, third)


def test_strict_counts_a_node_with_two_addresses_once(with_table, start_forebay):
    first, second, third = with_table.nodes
    first.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    nodes = [*with_table.addresses, f"localhost:{third.port}"]
    only_one_has_it(with_table, start_forebay(nodes=nodes, failover=STRICT), second, third)


def test_strict_counts_standbys_that_are_no_nodes(with_table, start_forebay):
    first, second, _ = with_table.nodes
    first.configure(synchronous_standby_names="ANY 1 (*)")
    only_one_has_it(with_table, start_forebay(nodes=with_table.addresses[:2], failover=STRICT), None, second)


def test_the_primary_in_its_own_list_is_no_standby(with_table, start_forebay):
    """The same setting on all nodes: with both replicas there is enough to be sure."""
    for node in with_table.nodes:
        node.configure(synchronous_standby_names="ANY 1 (pg1, pg2, pg3)")
    forebay = start_forebay(servers=with_table, failover=STRICT)
    assert writes(forebay, 1) == 1
    is_known(with_table, forebay)
    with_table.nodes[0].kill()
    new_primary(forebay, "pg1")


def test_a_replica_that_still_replays_is_waited_for(new_cluster, start_forebay):
    """Since its server was started it has not told how much it has: all that others lack, here."""
    cluster = new_cluster(settings={"max_wal_size": "4GB", "checkpoint_timeout": "1h", "wal_keep_size": "2GB"})
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    first, second, third = cluster.nodes
    first.configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    forebay = start_forebay(servers=cluster, failover=STRICT)
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    second.sql("checkpoint")
    second.sql("select pg_wal_replay_pause()")
    first.sql("create table big as select n as id, md5(n::text) as v from generate_series(1, 800000) n")
    first.sql("create index on big (v)")
    received = "select pg_last_wal_receive_lsn() >= %s::pg_lsn"
    position = first.value("select pg_current_wal_lsn()::text")
    wait_until(lambda: all(node.value(received, params=[position]) for node in (second, third)), 60, "the log to arrive")
    third.sql("alter system set primary_conninfo = 'host=127.0.0.1 port=1'")
    third.sql("select pg_reload_conf()")
    wait_until(lambda: not third.sql("select from pg_stat_wal_receiver"), 20, "the receiver to end")
    assert writes(forebay, 2) == 2, "acknowledged by pg2 alone"
    is_known(cluster, forebay)
    second.kill()
    second.start(wait=False)

    def answers():
        try:
            return second.sql("select 1")
        except psycopg.Error:
            return None
    wait_until(answers, 60, "pg2 to answer, in the middle of its replay", 0.01)
    first.kill()
    name = new_primary(forebay, "pg1")
    assert name == "pg2" and second.value("select count(*) from w") == 2


def test_what_may_be_lost_is_told(with_table, start_forebay):
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "20s"})
    assert writes(forebay, 1) == 1
    with_table.caught_up()
    wait_until(lambda: recorded(forebay).get("seen"), 10, "the position to be known")
    with_table.nodes[0].kill()
    new_primary(forebay, "pg1")
    [done] = events(forebay, "failover_done")
    # Whether a record of the server's own was on its way when it died is chance.
    known = r"(nothing that pg1 was known to have written is lost|\d+ bytes that pg1 was known to have written are not in it)"
    asked = r" \(pg1 at \S+, asked for (\d+) ms before this began; about (\d+) bytes may have been acknowledged since"
    found = re.search(known + asked, done)
    assert found and int(found[2]) < 5000 and int(found[3]) < 5000, done


# -- the primary lives ----------------------------------------------------------------------------------------------


@pytest.fixture
def remote(new_cluster, start_forebay):
    """Replicas reach the primary with some delay, Forebay through a relay of its own."""
    relays = []

    def made(delay):
        cluster = new_cluster(auth="trust")
        cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
        first, second, third = cluster.nodes
        far, near = Relay(first.port, delay=delay), Relay(first.port)
        relays.extend([far, near])
        for node in (second, third):
            node.sql(f"alter system set primary_conninfo = 'host=127.0.0.1 port={far.port} user=replicator "
                     f"application_name={node.name}'")
            node.sql("select pg_reload_conf()")
        port = "select sender_port from pg_stat_wal_receiver where status = 'streaming'"
        wait_until(lambda: all(node.value(port) == far.port for node in (second, third)), 30, "the replicas to stream")
        nodes = [near.address, *cluster.addresses[1:]]
        return cluster, near, start_forebay(nodes=nodes, failover={"mode": "promote", "hold": "30s"})
    yield made
    for relay in relays:
        relay.destroy()


@pytest.mark.parametrize("mode, delay", [("refuse", 0.25), ("silent", 0.2)])
def test_a_witness_that_takes_its_time_is_heard(remote, mode, delay):
    cluster, near, forebay = remote(delay)
    assert writes(forebay, 1) == 1
    near.mode = mode
    if mode == "refuse":
        cluster.nodes[0].sql("select pg_terminate_backend(pid) from pg_stat_activity where usename in ('steward', 'app')")
    [why, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be undone")
    assert re.search(r"pg\d still hears pg1, which Forebay cannot reach", why)
    assert events(forebay, "failover_done") == [] and all(node.is_replica() for node in cluster.nodes[1:])


def test_a_primary_that_refuses_the_monitor_is_not_lost(with_table, start_forebay):
    primary = with_table.nodes[0]
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "5s"})
    assert writes(forebay, 1) == 1
    with_table.caught_up()
    file = primary.data / "pg_hba.conf"
    file.write_text("host all steward all reject\nhost replication all all reject\n" + file.read_text())
    primary.sql("select pg_reload_conf()")
    primary.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'steward'")
    refused = lambda: primary.log().count("pg_hba.conf rejects connection")
    wait_until(lambda: refused() >= 5, 20, "the monitor to be refused again and again")
    assert writes(forebay, 2) == 2
    with psycopg.connect(forebay.dsn(), autocommit=True) as client:
        # Long enough to have written more than may be lost: nobody can tell how much it was.
        client.execute("insert into w (id) select 3 from pg_sleep(0.1)")
    assert events(forebay, "failover_begun") == [] and forebay.node("pg1")["role"] == "primary"
    primary.kill()
    [why, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be undone")
    assert "max_lost_bytes" in why, why


def test_replicas_without_a_free_connection_can_be_promoted(with_table, start_forebay):
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "30s"})
    assert writes(forebay, 1) == 1
    with_table.caught_up()
    taken = []
    for node in with_table.nodes[1:]:
        with pytest.raises(psycopg.OperationalError, match="too many|remaining connection slots"):
            while True:
                taken.append(node.connect(user="app"))
    with_table.nodes[0].kill()
    new_primary(forebay, "pg1")
    for connection in taken:
        connection.close()
    assert writes(forebay, 2) == 2


# -- who promotes ---------------------------------------------------------------------------------------------------


def test_an_ordinary_login_stops_nobody(with_table, start_forebay):
    primary = with_table.nodes[0]
    nuisance = primary.connect(user="other", dbname="postgres", autocommit=True)
    nuisance.execute("select pg_advisory_lock(1179603525, 1)")
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "20s"})
    assert writes(forebay, 1) == 1
    locked = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1179603525"
    wait_until(lambda: primary.value(locked, dbname="postgres") == 2, 20, "another lock to be taken")
    with_table.caught_up()
    primary.kill()
    new_primary(forebay, "pg1")


def test_the_session_of_a_process_before_is_its_own(with_table, start_forebay):
    """A hung session outlives its process, and with it the claim to promote."""
    primary = with_table.nodes[0]
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "20s"})
    assert writes(forebay, 1) == 1
    holder = ("select pid from pg_locks where locktype = 'advisory' and classid = 1179603525 and objid = 1 and granted")
    pid = wait_until(lambda: primary.value(holder, dbname="postgres"), 20, "the claim")
    os.kill(pid, signal.SIGSTOP)
    try:
        forebay.kill()
        forebay.start()
        marked = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1179603526 and granted"
        wait_until(lambda: primary.value(marked, dbname="postgres") == 2, 20, "the new process to beat")
        assert "another instance" not in str(forebay.admin("SHOW HA")) and events(forebay, "promotion_claim") == []
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_hung_disk_is_found_by_the_process_after(with_table, start_forebay):
    """The beat of the process before still hangs on the primary, with its claim."""
    primary = with_table.nodes[0]
    disk = BadDisk(with_table.folder)
    primary.configure(fsync="on")
    primary.stop()
    primary.start(env=disk.env)
    with_table.caught_up()
    forebay = start_forebay(servers=with_table, failover={"mode": "promote", "hold": "60s"})
    assert writes(forebay, 1) == 1
    wait_until(lambda: recorded(forebay).get("seen"), 10, "the position to be known")
    disk.hang()
    try:
        hangs = ("select count(*) from pg_stat_activity where usename = 'steward' and state = 'active' "
                 "and query like '%pg_logical_emit_message%' and clock_timestamp() - query_start > '0.3 s'")
        wait_until(lambda: primary.value(hangs) >= 1, 20, "a beat to hang")
        forebay.kill()
        forebay.start(wait="port")
        new_primary(forebay, "pg1")
    finally:
        disk.mend()
