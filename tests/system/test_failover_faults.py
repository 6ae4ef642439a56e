"""Faults of servers, disks, replication and people, under clients whose every write is judged (harness/postgres_ledger.py)."""

import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pytest

from harness import Relay, wait_until
from harness.postgres import BadDisk
from harness.postgres_ledger import TABLE
from harness.scene import Scene, events, recorded, step_of
from harness.where import ran_on


@pytest.fixture
def begin(new_cluster, start_forebay):
    """Makes a scene: `begin(sync="ANY 1 (pg2, pg3)")`.

    `sync` are the standbys that a commit waits for, so that what a crash may cost is no chance. With `slow` Forebay talks
    to the servers through relays that take their time, so that every step can be met. Other keys are those of
    `[postgres.failover]`.
    """
    made = []

    def make(cluster=None, sync="ANY 1 (pg2, pg3)", slow=False, nodes=None, wait="nodes", **failover):
        cluster = cluster or new_cluster(auth="trust")
        cluster.everywhere(TABLE)
        cluster.nodes[0].configure(synchronous_standby_names=sync)
        if slow:
            made.extend(Relay(node.port, delay=0.03) for node in cluster.nodes)
            nodes = [relay.address for relay in made]
        failover = {"mode": "promote", "hold": "60s", **failover}
        forebay = start_forebay(nodes=nodes or cluster.addresses, failover=failover, wait=wait)
        made.append(Scene(cluster, forebay))
        return made[-1]

    make.relays = lambda: [thing for thing in made if isinstance(thing, Relay)]
    yield make
    for thing in made:
        thing.destroy() if isinstance(thing, Relay) else thing.ledger.end()


# -- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_primary_that_is_stopped_is_replaced(begin, mode):
    scene = begin()
    scene.old.stop(mode)
    scene.judge(scene.new_primary())


def test_a_primary_that_is_stopped_smartly_serves_its_sessions_and_nobody_else_is_promoted(begin):
    scene = begin()
    scene.old.signal(signal.SIGTERM)
    with pytest.raises(psycopg.OperationalError, match="shutting down"):
        scene.old.sql("select 1")
    scene.ledger.progress(of=30)
    assert not events(scene.forebay, "failover_begun")
    # Now it goes in earnest.
    scene.old.stop("fast")
    scene.judge(scene.new_primary())


def test_a_crash_of_one_backend_is_survived_by_the_same_primary(begin):
    scene = begin()
    started = scene.old.value("select pg_postmaster_start_time()")
    victim = scene.old.value("select pid from pg_stat_activity where usename = 'app' and backend_type = 'client backend'")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: "all server processes terminated; reinitializing" in scene.old.log(), 20, "the crash")
    scene.stays(scene.old)
    assert scene.old.value("select pg_postmaster_start_time()") >= started


def test_a_postmaster_that_stands_still_is_no_loss_while_its_sessions_work(begin):
    scene = begin()
    postmaster = psutil.Process(scene.old.pid)
    postmaster.suspend()
    try:
        scene.ledger.progress(of=100)
        assert not events(scene.forebay, "failover_begun")
    finally:
        postmaster.resume()
    scene.stays(scene.old)


@pytest.mark.parametrize("step", ["freezing", "catching_up", "promoting"])
def test_a_primary_that_goes_on_during_its_replacement_takes_no_writes_beside_another(begin, step):
    scene = begin(slow=True)
    scene.old.pause()
    scene.wait_step(step, or_past=step == "catching_up")  # with nothing to catch up with it is over in a moment
    scene.old.resume()
    if step == "promoting":
        new = scene.new_primary()
        scene.fenced(scene.old)
    else:
        wait_until(lambda: recorded(scene.forebay)["job"] is None, 60, "the failover to end, one way or the other")
        new = scene.primary()
    scene.judge(new, promotions=len(events(scene.forebay, "failover_done")))


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_candidate_that_is_lost_before_its_promotion_is_left_for_another(begin, how):
    scene = begin(sync="ANY 2 (pg2, pg3)", slow=True)
    readers = []
    for node in scene.cluster.nodes[1:]:  # so that it takes its time
        node.configure(max_standby_streaming_delay=-1, max_standby_archive_delay=-1)
        readers.append(node.connect(user="other", autocommit=False))
    hold_up(scene.old, list(zip(scene.cluster.nodes[1:], readers)))
    scene.old.kill()
    record = scene.wait_step("catching_up")
    lost = scene.candidate(record)
    relay = next(relay for relay in begin.relays() if relay.target == lost.port)
    relay.mode = "silent"  # before another answer comes
    getattr(lost, how)()
    relay.cut()
    relay.mode = "pass"
    new = scene.new_primary()
    assert new is not lost
    scene.ledger.progress()
    lost.resume() if how == "pause" else lost.start()
    for reader in readers:
        reader.close()
    lost.wait_ready()
    if is_ahead(new, lost):
        # It was the candidate because it had most: what nobody acknowledged has to go first.
        scene.cluster.rebuild(lost)
    follows(scene, new, lost)
    scene.judge(new)


def is_ahead(primary, node):
    """The node has received more of the old timeline than the new primary had."""
    fork = primary.value("select pg_last_wal_replay_lsn()::text")
    return node.value("select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) > %s::pg_lsn and "
                      "received_tli is distinct from 2 from pg_stat_get_wal_receiver()", params=[fork])


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_candidate_that_is_lost_during_its_promotion_remains_the_only_one(begin, how):
    scene = begin(sync="ANY 2 (pg2, pg3)", slow=True)
    scene.old.kill()
    record = scene.wait_step("promoting")
    candidate = scene.candidate(record)
    getattr(candidate, how)()
    other = next(node for node in scene.cluster.nodes[1:] if node is not candidate)
    if step_of(recorded(scene.forebay))[0] == "promoting":
        # As long as it may have been told, nobody else is asked.
        wait_until(lambda: scene.forebay.node(candidate.name)["state"] == "down", 30, "its loss to be seen")
        assert other.is_replica()
    candidate.resume() if how == "pause" else candidate.start()
    assert scene.new_primary() is candidate
    follows(scene, candidate, other)
    scene.judge(candidate)


def test_a_replica_that_dies_during_a_failover_does_not_end_it(begin):
    scene = begin(sync="ANY 2 (pg2, pg3)", slow=True)
    scene.old.kill()
    scene.wait_step("freezing")
    second, third = scene.cluster.nodes[1:]
    third.kill()
    new = scene.new_primary()
    third.start()
    follows(scene, new, second if new is third else third)
    scene.judge(new)


# -- disks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Puts the write-ahead log of a stopped server on a disk of `size`; nothing is left of it afterwards."""
    mounted = []

    def put(node, size):
        place = node.folder / "small"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted: {done.stderr.decode().strip()}")
        mounted.append((node, place))
        shutil.copytree(node.data / "pg_wal", place / "wal")
        shutil.rmtree(node.data / "pg_wal")
        (node.data / "pg_wal").symlink_to(place / "wal")
        subprocess.run(["chown", "-R", f"{node.user}:", place], check=True)
        return place
    yield put
    for node, place in mounted:
        node.kill()
        subprocess.run(["umount", "-l", place], check=True)


def test_a_primary_whose_log_has_no_room_left_is_replaced(begin, new_cluster, small_disk):
    cluster = new_cluster(auth="trust")
    old = cluster.nodes[0]
    old.stop()
    place = small_disk(old, "48m")
    old.start()
    cluster.caught_up()
    scene = begin(cluster)
    with open(place / "filler", "wb") as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(1 << 16))
            filler.flush()
    with pytest.raises(psycopg.Error):
        while True:  # what segments there are, are filled
            old.sql("select pg_logical_emit_message(false, 'x', repeat('x', 1000000)) from generate_series(1, 8)")
    new = scene.new_primary()
    assert "No space left on device" in old.log()
    scene.judge(new)


def test_a_primary_whose_disk_refuses_writes_is_replaced(begin, new_cluster):
    cluster = new_cluster(auth="trust", fsync=True)
    old, disk = cluster.nodes[0], BadDisk(cluster.folder)
    old.stop()
    old.start(env=disk.env)
    cluster.caught_up()
    scene = begin(cluster)
    disk.refuse()
    new = scene.new_primary()
    assert "Read-only file system" in old.log()
    disk.mend()
    scene.judge(new)


# -- replication ----------------------------------------------------------------------------------------------------


def pause_replay(cluster):
    """Replay stands still on every replica, which still receives."""
    cluster.caught_up()
    for node in cluster.nodes[1:]:
        node.sql("select pg_wal_replay_pause()")


def resume_replay(cluster):
    """What is left of a pause on replicas is ended."""
    for node in cluster.replicas:
        node.sql("select pg_wal_replay_resume()")


def cut_off(node):
    """A replica receives nothing more, and does not know why."""
    node.configure(primary_conninfo="host=127.0.0.1 port=1")
    wait_until(lambda: not node.sql("select pid from pg_stat_wal_receiver"), 20, "its receiver to end")


def follows(scene, primary, node):
    """Waits until a node has what the primary has written by now, as a replica."""
    node.wait_ready()
    wait_until(node.is_replica, 30, f"{node.name} to be a replica")
    wait_until(lambda: recorded(scene.forebay)["job"] is None, 30, "the failover to be over")
    node.sql("select pg_wal_replay_resume()")
    row = 5_000_000_000 + primary.value("select count(*) from ledger")
    primary.sql(f"create table if not exists reached (row bigint); insert into reached values ({row})")
    wait_until(lambda: node.value("select count(*) from reached where row = %s", params=[row]), 40, f"{node.name} to follow")


def never_reads_on(scene, node):
    """Clients' reads run on other nodes."""
    client = scene.forebay.wire()
    for _ in range(30):
        client.run("select 1")
        assert ran_on(client) != node.name, f"a read ran on {node.name}: {scene.forebay.node(node.name)}"


def test_a_candidate_with_paused_replay_and_much_to_replay_loses_nothing(begin):
    scene = begin()
    pause_replay(scene.cluster)
    scene.old.sql("create table much as select repeat('x', 900) as v from generate_series(1, 30000)")
    scene.ledger.progress()
    scene.old.kill()
    new = scene.new_primary()
    assert new.value("select count(*) from much") == 30000
    resume_replay(scene.cluster)
    scene.judge(new)


def hold_up(primary, reads):
    """Reads (node, connection) that replay has to wait for."""
    primary.sql("create table dead as select n from generate_series(1, 1000) n")
    written = primary.position()
    for node, reader in reads:
        node.wait_replayed(written)
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from pg_class")
    primary.sql("delete from dead")
    waits = "select count(*) from pg_stat_activity where backend_type = 'startup' and wait_event like 'RecoveryConflict%%'"

    def is_held_up(node):
        # Not at once where a transaction saw the rows still.
        primary.sql("vacuum dead")
        return node.value(waits)
    for node, _ in reads:
        wait_until(lambda node=node: is_held_up(node), 30, f"the read to block the replay of {node.name}", 0.1)


def test_a_long_read_on_the_candidate_does_not_keep_it_from_being_promoted(begin):
    scene = begin()
    readers = []
    for node in scene.cluster.nodes[1:]:
        node.configure(max_standby_streaming_delay=-1, max_standby_archive_delay=-1)
        readers.append(node.connect(user="other", autocommit=False))
    hold_up(scene.old, list(zip(scene.cluster.nodes[1:], readers)))
    scene.old.kill()
    scene.judge(scene.new_primary())
    for reader in readers:
        reader.close()


def test_a_replica_whose_log_is_gone_is_not_promoted(begin):
    scene = begin()
    second, third = scene.cluster.nodes[1:]
    led = third.value("show primary_conninfo")
    cut_off(third)
    for node in (scene.old, second):
        node.configure(wal_keep_size="0", max_wal_size="2MB")
    wait_until(lambda: not scene.old.value("select active from pg_replication_slots where slot_name = 'pg3'"), 20, "it to leave")
    scene.old.sql("select pg_drop_replication_slot('pg3')")
    for _ in range(6):
        scene.old.sql("select pg_logical_emit_message(false, 'x', repeat('x', 1000000)), pg_switch_wal()")
        scene.old.sql("checkpoint")
    second.wait_replayed(scene.old.position())
    second.sql("checkpoint")
    third.configure(primary_conninfo=led, primary_slot_name="")
    wait_until(lambda: "has already been removed" in third.log(), 30, "the log to be missed")
    scene.old.kill()
    assert scene.new_primary() is second
    scene.judge(second)


def test_a_node_of_another_cluster_is_never_promoted(begin, new_cluster):
    cluster, strange = new_cluster(auth="trust", replicas=1), new_cluster(auth="trust", replicas=1, fresh=True)
    # It has more log than anybody.
    strange.sql("create table more as select repeat('x', 900) as v from generate_series(1, 60000)")
    strange.caught_up()
    stranger = strange.nodes[1]
    nodes = [*cluster.addresses, f"127.0.0.1:{stranger.port}"]
    scene = begin(cluster, sync="pg2", nodes=nodes, wait="login")
    scene.old.kill()
    assert scene.new_primary() is cluster.nodes[1]
    assert stranger.is_replica() and f"port={strange.nodes[0].port}" in stranger.value("show primary_conninfo")
    assert "system identifier" in scene.forebay.node("pg3")["reason"]
    scene.judge(cluster.nodes[1])


def test_a_delayed_replica_is_not_promoted_and_follows(begin):
    scene = begin()
    delayed, other = scene.cluster.nodes[1:]
    delayed.configure(recovery_min_apply_delay="1h")

    def received():
        return [node.value("select pg_last_wal_receive_lsn() - '0/0'::pg_lsn") for node in (delayed, other)]

    def has_no_more_than_the_other():
        """Else it could follow only after a rewind: it would have what nobody else has. Leaves the primary hung."""
        scene.old.pause()
        found = received()
        if found[0] <= found[1] and received() == found:
            return True
        scene.old.resume()
        return False
    wait_until(has_no_more_than_the_other, 20, "the delayed replica to have no more than the other one")
    scene.old.kill()
    assert scene.new_primary() is other
    # A server receives only once it has replayed what it has; the slot keeps what it will need.
    wait_until(lambda: other.value("select count(*) from pg_replication_slots where slot_name = 'pg2'"), 30, "its slot")
    scene.ledger.progress(of=30)
    delayed.configure(recovery_min_apply_delay="0")
    follows(scene, other, delayed)
    scene.judge(other)


def test_a_connection_made_for_reads_is_taken_away_when_its_promoted_node_hangs(begin):
    """Since the promotion it carries writes: what the hung primary would still acknowledge on it reaches nobody."""
    scene = begin(sync="")
    second = scene.cluster.nodes[1]
    scene.forebay.admin("DRAIN NODE pg3")

    def connections():
        return [row["ptr"] for row in scene.forebay.admin("SHOW SERVERS")
                if row["user"] == "other" and int(row["port"]) == second.port]
    with scene.forebay.connect(user="other", row_factory=None) as client, ThreadPoolExecutor(1) as pool:
        # In use, or it might be closed while nobody is the primary.
        client.execute("begin read only")
        client.execute("select count(*) from pg_class")
        [made_for_reads] = connections()
        scene.forebay.admin("SWITCHOVER main TO pg2")
        client.execute("commit")
        client.execute("select txid_current()")
        assert connections() == [made_for_reads]
        scene.forebay.admin("ATTACH NODE pg3")
        # Only who is on the new primary's timeline can take its place.
        wait_until(lambda: scene.forebay.node("pg3")["timeline"] == scene.forebay.node("pg2")["timeline"] == 2, 20,
                   "pg3 to be on pg2's timeline")
        scene.forebay.wait_node("pg3", role="replica", state="up")
        second.pause()
        try:
            answer = pool.submit(client.execute, "select txid_current()")
            scene.primary(other_than="pg2")
            with pytest.raises(psycopg.OperationalError) as told:
                answer.result(timeout=20)
            assert told.value.sqlstate == "08007"
        finally:
            second.resume()


@pytest.mark.parametrize("busy", ["delayed", "paused", "held up"])
def test_a_hung_primary_is_replaced_though_a_replica_cannot_stop_receiving(begin, busy):
    """PostgreSQL looks at primary_conninfo only once it has replayed what it has."""
    scene = begin(sync="ANY 2 (pg2, pg3)")
    second, third = scene.cluster.nodes[1:]
    second.configure(max_standby_streaming_delay=-1)
    reader = second.connect(user="other", autocommit=False)
    if busy == "delayed":
        second.configure(recovery_min_apply_delay="1h")
    elif busy == "paused":
        second.sql("select pg_wal_replay_pause()")
    else:
        hold_up(scene.old, [(second, reader)])
    scene.ledger.progress(of=20)
    scene.old.pause()
    new = scene.new_primary()
    scene.ledger.progress()
    scene.old.resume()
    scene.fenced(scene.old)
    reader.close()
    if busy == "delayed":  # it still hears the old one, and has another history from now on
        assert new is third
        never_reads_on(scene, second)
    else:
        follows(scene, new, second if new is third else third)
    scene.judge(new)


def cascade(cluster):
    """pg3 receives from pg2, and pg2 from pg1."""
    second, third = cluster.nodes[1:]
    third.follow(second)
    wait_until(lambda: second.value("select count(*) from pg_stat_replication where application_name = 'pg3'"), 30,
               "pg3 to follow pg2")


def test_a_tree_of_replicas_follows_its_new_root(begin, new_cluster):
    cluster = new_cluster(auth="trust")
    cascade(cluster)
    scene = begin(cluster, sync="pg2")
    scene.old.kill()
    new = scene.new_primary()
    assert new is cluster.nodes[1]
    follows(scene, new, cluster.nodes[2])
    scene.judge(new)


def test_a_hung_primary_of_a_tree_is_replaced(begin, new_cluster):
    """What pg3 hears from pg2 is no sign of life of pg1."""
    cluster = new_cluster(auth="trust")
    cascade(cluster)
    scene = begin(cluster, sync="pg2")
    scene.old.pause()
    new = scene.new_primary()
    scene.old.resume()
    scene.fenced(scene.old)
    follows(scene, new, cluster.nodes[2])
    scene.judge(new)


def test_a_diverged_replica_is_neither_followed_nor_read(begin):
    scene = begin(sync="pg2")
    second, third = scene.cluster.nodes[1:]
    cut_off(second)
    scene.old.configure(synchronous_standby_names="")
    scene.old.sql("insert into ledger (id) values (-1)")
    only_there = scene.old.value("select pg_current_wal_flush_lsn()::text")
    wait_until(lambda: third.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", params=[only_there]), 30, "pg3 to have it")
    third.pause()
    scene.old.kill()
    # max_lost_bytes allows it.
    assert scene.new_primary() is second
    third.resume()
    scene.ledger.progress(of=50)
    wait_until(lambda: recorded(scene.forebay)["unasked"] == [], 30, "pg3 to be asked")
    assert third.value("select count(*) from ledger where id = -1") == 1, "the test made no divergence"
    never_reads_on(scene, third)
    scene.judge(second, may_lose=True)


# -- people ---------------------------------------------------------------------------------------------------------


def test_a_replica_that_is_promoted_beside_its_primary_gets_no_traffic(begin):
    scene = begin(sync="pg3")
    second, third = scene.cluster.nodes[1:]
    second.promote()
    scene.fenced(second)
    never_reads_on(scene, second)
    scene.ledger.progress(of=30)
    # It lacks what was written since: the loss of the primary is no reason to follow it.
    scene.old.kill()
    assert scene.new_primary() is third
    assert scene.forebay.node("pg2")["state"] == "fenced"
    scene.judge(third)


def test_a_promotion_by_hand_is_followed_once_the_primary_is_lost(begin):
    scene = begin(sync="ANY 2 (pg2, pg3)")
    scene.forebay.admin("PAUSE FAILOVER main")
    scene.old.kill()
    wait_until(lambda: scene.forebay.node("pg1")["state"] == "down", 30, "the loss to be seen")
    second, third = scene.cluster.nodes[1:]
    second.promote()
    scene.forebay.admin("RESUME FAILOVER main")
    assert scene.new_primary() is second
    assert not events(scene.forebay, "failover_done") and third.is_replica()
    scene.judge(second)


def test_settings_made_by_hand_are_kept(begin):
    scene = begin(sync="ANY 2 (pg2, pg3)")
    for node in scene.cluster.nodes[1:]:
        node.configure(primary_conninfo=node.value("show primary_conninfo") + " keepalives_idle=77")
    scene.cluster.caught_up()
    scene.old.kill()
    new = scene.new_primary()
    other = next(node for node in scene.cluster.nodes[1:] if node is not new)
    follows(scene, new, other)
    assert other.value("show primary_conninfo").endswith("keepalives_idle=77")
    assert other.value("show primary_slot_name") == other.name
    # What is changed later is the administrator's: nobody changes it back.
    cut_off(other)
    scene.ledger.progress(of=30)
    assert "port=1" in other.value("show primary_conninfo")
    scene.judge(new)


def test_a_primary_that_is_made_read_only_by_hand_says_so_and_stays(begin):
    scene = begin()
    scene.old.configure(default_transaction_read_only="on")
    wait_until(lambda: scene.ledger.codes["25006"], 60, "a client to be told")
    assert not events(scene.forebay, "failover_begun")
    scene.old.configure(default_transaction_read_only="off")
    scene.stays(scene.old)


def test_of_two_failovers_at_once_one_is_carried_out(begin):
    scene = begin()
    scene.forebay.admin("PAUSE FAILOVER main")
    scene.old.kill()
    wait_until(lambda: scene.forebay.node("pg1")["state"] == "down", 30, "the loss to be seen")

    def order(to):
        try:
            scene.forebay.admin(f"FAILOVER main TO {to} ALLOW DATA LOSS")
            return ""
        except psycopg.Error as error:
            return str(error)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(order, ["pg2", "pg2"]))
    assert answers.count("") == 1, answers
    refusal = next(filter(None, answers))
    assert "under way" in refusal or "is well" in refusal or "already" in refusal, refusal
    scene.judge(scene.cluster.nodes[1], may_lose=True)


def test_a_switchover_to_a_node_that_lags_is_undone(begin):
    scene = begin(sync="pg2")
    lagging = scene.cluster.nodes[2]
    cut_off(lagging)
    scene.ledger.progress(of=30)
    with pytest.raises(psycopg.Error, match="pg3 did not replay up to"):
        scene.forebay.admin("SWITCHOVER main TO pg3")
    assert scene.ledger.codes.total() == 0, scene.ledger.codes
    assert "port=1" in lagging.value("show primary_conninfo")
    scene.stays(scene.old)


def test_the_other_replica_can_follow_after_a_switchover_whatever_the_old_primary_still_writes(begin):
    scene = begin()
    stop = threading.Event()

    def write_log():  # as checkpoints and snapshots of running transactions do, which no fence keeps from it
        with psycopg.connect(host=str(scene.old.folder), port=scene.old.port, user="postgres", autocommit=True) as session:
            session.execute("set synchronous_commit = local")
            while not stop.wait(0.005):
                session.execute("select pg_logical_emit_message(true, 'x', 'x')")
    writer = threading.Thread(target=write_log, daemon=True)
    writer.start()
    try:
        scene.forebay.admin("SWITCHOVER main TO pg2")
    finally:
        stop.set()
        writer.join(20)
    second, third = scene.cluster.nodes[1:]
    assert scene.ledger.codes.total() == 0, scene.ledger.codes
    follows(scene, second, third)
    scene.judge(second)


def test_two_writable_nodes_without_a_record_get_no_writes_until_one_is_chosen(new_cluster, start_forebay):
    cluster = new_cluster(auth="trust")
    cluster.everywhere(TABLE)
    first, second, third = cluster.nodes
    first.kill()
    second.promote()
    third.promote()
    forebay = start_forebay(servers=cluster, wait="port", failover={"mode": "promote", "hold": "1s"})
    wait_until(lambda: events(forebay, "two_primaries"), 30, "the dispute to be seen")
    with pytest.raises(psycopg.Error, match="has no primary"), forebay.connect() as client:
        client.execute("insert into ledger (id) values (1)")
    assert {forebay.node(name)["state"] for name in ("pg2", "pg3")} == {"fenced"}
    forebay.admin("ATTACH NODE pg3 FORCE")
    with forebay.connect() as client:
        client.execute("insert into ledger (id) values (2)")
    assert [node.value("select count(*) from ledger") for node in (second, third)] == [0, 1]
    assert forebay.node("pg2")["state"] == "fenced" and not events(forebay, "failover_begun")
