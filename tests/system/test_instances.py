"""Several instances that decide together through etcd: one leads, all go by what it writes down."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import wait_until
from harness.etcd import Etcd, Way
from harness.relay import Relay
from harness.scene import events
from test_failover_follow import Load

LEASE = 3  # seconds


@pytest.fixture
def etcd():
    made = Etcd()
    yield made
    made.destroy()


class Instances:
    """Three instances in front of one cluster, each with its own way to etcd and to the nodes."""

    def __init__(self, etcd, cluster, start_forebay, number=3, failover=None, near=False):
        self.etcd, self.cluster = etcd, cluster
        self.ways = [Way(etcd) for _ in range(number)]
        self.nodes = [[Relay(node.port) for node in cluster.nodes] for _ in range(number)] if near else None
        failover = {"mode": "promote", "hold": "20s", **(failover or {})}

        def start(number):
            nodes = [relay.address for relay in self.nodes[number]] if near else cluster.addresses
            coordination = {"etcd": self.ways[number].urls, "lease": f"{LEASE}s", "name": f"fb{number + 1}"}
            return start_forebay(nodes=nodes, failover=failover, config={"coordination": coordination}, wait="port")
        self.all = [start(number) for number in range(number)]
        for forebay in self.all:
            wait_until(forebay.nodes_are_up, 20, "each instance to find its nodes")

    def rows(self, forebay):
        """SHOW INSTANCES, by name."""
        return {row["instance"]: row for row in forebay.admin("SHOW INSTANCES")}

    def leader(self, among=None):
        """The number of the instance that leads, as the instances say that can be asked."""
        def found():
            for forebay in among or self.all:
                names = [row["instance"] for row in forebay.admin("SHOW INSTANCES") if row["leader"] == "yes"]
                if names:
                    return names
            return None
        return int(wait_until(found, 20, "an instance to lead")[0][2:]) - 1

    def primaries(self):
        """Whom each instance sends writes to."""
        return [primary_of(forebay) for forebay in self.all if forebay.is_running()]

    def agree_on_another(self, old, among=None, timeout=30):
        """Waits until these instances have another primary than `old`, the same; its name."""
        def found():
            names = {primary_of(forebay) for forebay in among or self.all}
            return len(names) == 1 and names != {old} and None not in names and names.pop()
        return wait_until(found, timeout, f"all to have another primary than {old}")

    def record(self):
        """What they have decided."""
        return json.loads(self.etcd.get("/forebay/records/main"))["record"]

    def destroy(self):
        """Ends the ways."""
        for way in self.ways:
            way.destroy()
        for relay in [relay for relays in self.nodes or [] for relay in relays]:
            relay.destroy()


def primary_of(forebay):
    names = [row["node"] for row in forebay.admin("SHOW NODES") if row["role"] == "primary" and row["state"] == "up"]
    return names[0] if len(names) == 1 else None


@pytest.fixture
def make(etcd, with_table, start_forebay):
    made = []

    def instances(**options):
        made.append(Instances(etcd, with_table, start_forebay, **options))
        return made[-1]
    yield instances
    for instances in made:
        instances.destroy()


@pytest.fixture
def three(make):
    return make()


@pytest.fixture
def loads(three):
    three.cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    made = [Load(forebay, "w", clients=4, first=10 * number) for number, forebay in enumerate(three.all)]
    for load in made:
        load.progress()
    yield made
    for load in made:
        load.stop()


def test_one_leads_and_all_know_each_other(three):
    leader = three.leader()
    for forebay in three.all:
        wait_until(lambda: len(three.rows(forebay)) == 3, 10, "all to be seen")
        rows = three.rows(forebay)
        assert sorted(rows) == ["fb1", "fb2", "fb3"]
        assert [name for name, row in rows.items() if row["leader"] == "yes"] == [f"fb{leader + 1}"]
        assert all(row["version"] and row["address"] for row in rows.values())
    own = three.rows(three.all[0])["fb1"]
    assert own["gate"] == "open" and own["epoch_acked"] == 1 and 0 < own["lease_left_ms"] <= LEASE * 1000
    assert three.record()["epoch"] == 1 and three.record()["job"] is None
    for forebay in three.all:
        with forebay.connect() as connection:
            connection.execute("insert into w (id) select coalesce(max(id), 0) + 1 from w")


def test_a_killed_primary_is_replaced_once_for_all(three):
    with three.all[0].connect() as connection:
        connection.execute("insert into w (id) values (1)")
    three.cluster.caught_up()
    three.cluster.nodes[0].kill()
    name = three.agree_on_another("pg1")
    assert three.record()["epoch"] == 2 and three.record()["timeline"] == 2
    done = [detail for forebay in three.all for detail in events(forebay, "failover_done")]
    assert len(done) == 1 and f"{name} is the primary now" in done[0], "one of them has promoted it"
    print(done)
    for number, forebay in enumerate(three.all):
        with forebay.connect() as connection:
            connection.execute("insert into w (id) values (%s)", [10 + number])
    node = next(node for node in three.cluster.nodes if node.name == name)
    assert node.value("select count(*) from w") == 4


def test_a_switchover_pauses_all_of_them(three):
    leader = three.all[three.leader()]
    leader.admin("SWITCHOVER main TO pg2")
    assert three.agree_on_another("pg1") == "pg2"
    for number, forebay in enumerate(three.all):
        with forebay.connect() as connection:
            connection.execute("insert into w (id) values (%s)", [number])
    assert three.cluster.nodes[1].value("select count(*) from w") == 3


def test_the_work_of_a_killed_leader_is_gone_on_with(three):
    number = three.leader()
    rest = [forebay for forebay in three.all if forebay is not three.all[number]]
    three.cluster.nodes[0].kill()
    wait_until(lambda: three.record()["job"], 20, "the failover to begin", 0.001)
    three.all[number].kill()
    three.agree_on_another("pg1", among=rest)
    assert three.record()["timeline"] == 2, "nobody was promoted twice"
    for client, forebay in enumerate(rest):
        with forebay.connect() as connection:
            connection.execute("insert into w (id) values (%s)", [client])


def test_any_instance_takes_orders_for_all(three):
    number = three.leader()
    other = three.all[(number + 1) % 3]
    other.admin("SWITCHOVER main TO pg2")
    assert three.agree_on_another("pg1") == "pg2"
    assert events(three.all[number], "switchover_done"), "the one that leads has done it"
    other.admin("DETACH NODE pg3")
    other.admin("PAUSE FAILOVER")
    other.admin("BAN '192.0.2.1'")
    for forebay in three.all:
        assert forebay.node("pg3")["state"] == "detached"
        assert forebay.admin("SHOW BANS")[0]["address"] == "192.0.2.1"
        assert events(forebay, "failover_paused") == ["by admin"]
    with pytest.raises(psycopg.Error, match="pg9"):
        other.admin("SWITCHOVER main TO pg9")
    other.admin("ATTACH NODE pg3")
    other.admin("RESUME FAILOVER")
    other.admin("UNBAN '192.0.2.1'")
    for forebay in three.all:
        assert forebay.node("pg3")["state"] == "up" and not forebay.admin("SHOW BANS")


def test_a_pause_holds_the_clients_of_all_and_is_taken_back_when_it_is_given_up(three):
    first, *rest = three.all
    with rest[0].connect() as busy:
        busy.autocommit = False
        busy.execute("select 1")
        with psycopg.connect(first.dsn(dbname="forebay", user="admin"), autocommit=True) as console:
            with ThreadPoolExecutor(1) as beside:
                waiting = beside.submit(console.execute, "PAUSE bench")
                paused = lambda forebay: [row for row in forebay.admin("SHOW DATABASES") if row["paused"] == 1]
                wait_until(lambda: all(map(paused, three.all)), 10, "all to be paused")
                assert not waiting.done(), "a transaction is open at another instance"
                console.cancel()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    waiting.result()
        wait_until(lambda: not any(map(paused, three.all)), 10, "none to be paused")
        busy.rollback()
    first.admin("PAUSE bench")
    assert all(map(paused, three.all))
    rest[1].admin("RESUME bench")
    assert not any(map(paused, three.all))


def gate(three, forebay):
    """How an instance sees its own gate."""
    return three.rows(forebay)[f"fb{three.all.index(forebay) + 1}"]["gate"]


def test_losing_etcd_stops_nobody(three, loads):
    for member in three.etcd.members:
        member.signal(signal.SIGSTOP)
    for forebay in three.all:
        wait_until(lambda: events(forebay, "failsafe_begun"), 3 * LEASE, "the instances to go on alone")
    # Longer than any lease.
    for load in loads * 2:
        load.progress(of=500)
    assert [gate(three, forebay) for forebay in three.all] == ["open"] * 3
    for member in three.etcd.members:
        member.signal(signal.SIGCONT)
    for forebay in three.all:
        wait_until(lambda: events(forebay, "failsafe_ended"), 20, "etcd to answer again")
    three.leader()
    for load in loads:
        load.progress(of=100)
        load.stop()
        assert not load.codes, f"a client saw {load.codes}"
    assert not any(events(forebay, "coordination_lost") for forebay in three.all)
    with three.all[0].connect() as connection:
        connection.execute("delete from w")
    three.cluster.nodes[0].kill()
    three.agree_on_another("pg1")


def test_etcd_that_lost_its_leases_meanwhile_stops_nobody_either(three, loads):
    for member in three.etcd.members:
        member.kill()
    for forebay in three.all:
        wait_until(lambda: events(forebay, "failsafe_begun"), 3 * LEASE, "the instances to go on alone")
    for member in three.etcd.members:
        three.etcd.start(member)
    for forebay in three.all:
        wait_until(lambda: events(forebay, "failsafe_ended"), 30, "etcd to answer again")
    for key in [key for key in three.etcd.keys("/forebay/members/")]:
        three.etcd.ctl("del", key)
    wait_until(lambda: len(three.etcd.keys("/forebay/members/")) == 3, 10, "all to be known again")
    for load in loads:
        load.progress(of=100)
        load.stop()
        assert not load.codes, f"a client saw {load.codes}"
    assert three.record()["epoch"] == 1


def test_without_another_instance_nobody_goes_on_alone(three):
    for member in three.etcd.members:
        member.signal(signal.SIGSTOP)
    for forebay in three.all:
        wait_until(lambda: events(forebay, "failsafe_begun"), 3 * LEASE, "the instances to go on alone")
    os.kill(three.all[2].pid, signal.SIGSTOP)
    for forebay in three.all[:2]:
        wait_until(lambda: events(forebay, "coordination_lost"), 3 * LEASE, "it to close its gate")
        assert gate(three, forebay) == "cut off"
    os.kill(three.all[2].pid, signal.SIGCONT)
    for member in three.etcd.members:
        member.signal(signal.SIGCONT)
    for forebay in three.all:
        wait_until(lambda: primary_of(forebay) == "pg1" and gate(three, forebay) == "open", 20, "all to go on")


def test_one_that_is_cut_off_from_etcd_is_not_waited_for_longer_than_its_lease(three):
    number = three.leader()
    lost = three.all[number]
    rest = [forebay for forebay in three.all if forebay is not lost]
    three.ways[number].set("silent")
    wait_until(lambda: events(lost, "coordination_lost"), 3 * LEASE, "it to be cut off")
    with ThreadPoolExecutor(1) as beside:
        def write():
            with lost.connect() as connection:
                connection.execute("insert into w (id) values (-1)")
        waiting = beside.submit(write)
        wait_until(lambda: lost.admin("SHOW POOLS")[0]["cl_waiting"] == 1, 10, "a write to wait")
        three.cluster.nodes[0].kill()
        name = three.agree_on_another("pg1", among=rest)
        assert gate(three, lost) == "cut off" and not lost.admin("SHOW HA")[0]["primary"]
        three.ways[number].set("pass")
        waiting.result(timeout=30)
    wait_until(lambda: primary_of(lost) == name, 20, "it to be back")
    node = next(node for node in three.cluster.nodes if node.name == name)
    assert node.value("select count(*) from w where id = -1") == 1


def test_one_that_sleeps_past_its_lease_wakes_up_without_the_right_to_write(three):
    sleeper, rest = three.all[0], three.all[1:]
    old = three.cluster.nodes[0]
    with sleeper.connect() as connection, sleeper.connect() as busy:
        connection.execute("insert into w (id) values (1)")
        busy.autocommit = False
        busy.execute("insert into w (id) values (2)")
        os.kill(sleeper.pid, signal.SIGSTOP)
        old.pause()
        name = three.agree_on_another("pg1", among=rest)
        old.resume()
        wait_until(lambda: old.value("select not pg_is_in_recovery()"), 10, "the old primary to be back")
        with ThreadPoolExecutor(2) as beside:
            # Both wait in the sleeper's sockets when it wakes up.
            late = beside.submit(connection.execute, "insert into w (id) values (3)")
            commit = beside.submit(busy.commit)
            os.kill(sleeper.pid, signal.SIGCONT)
            outcomes = [(future.exception(timeout=60), future) for future in (late, commit)]
    assert old.value("select count(*) from w where id in (2, 3)") == 0, "it wrote to the old primary"
    new = next(node for node in three.cluster.nodes if node.name == name)
    assert outcomes[1][0] is not None, "the transaction was lost with its primary"
    if outcomes[0][0] is None:
        assert new.value("select count(*) from w where id = 3") == 1, "acknowledged, and nowhere"
    wait_until(lambda: primary_of(sleeper) == name, 20, "it to follow")


@pytest.mark.parametrize("number", range(3))
def test_a_member_of_etcd_that_hangs_delays_nobody_for_long(three, number):
    three.etcd.members[number].signal(signal.SIGSTOP)
    three.cluster.nodes[0].kill()
    three.agree_on_another("pg1")
    three.etcd.members[number].signal(signal.SIGCONT)
    assert three.record()["timeline"] == 2


def test_all_that_are_killed_at_once_begin_again(three):
    for forebay in three.all:
        forebay.kill()
    for forebay in three.all:
        forebay.start(wait="port")
    for forebay in three.all:
        wait_until(forebay.nodes_are_up, 30, "each instance to find its nodes")
    three.cluster.nodes[0].kill()
    three.agree_on_another("pg1")
    assert three.record()["timeline"] == 2


def test_what_somebody_else_promotes_is_accepted_together(make):
    instances = make(failover={"mode": "follow"})
    instances.cluster.nodes[0].kill()
    for forebay in instances.all:
        wait_until(lambda: primary_of(forebay) is None, 20, "the loss to be seen")
    instances.cluster.nodes[1].sql("select pg_promote()")
    assert instances.agree_on_another("pg1") == "pg2"
    assert instances.record()["epoch"] == 2
    for number, forebay in enumerate(instances.all):
        with forebay.connect() as connection:
            connection.execute("insert into w (id) values (%s)", [number])


def test_a_record_that_is_deleted_is_written_again_and_one_that_cannot_be_read_stops_all(three):
    key = "/forebay/records/main"
    good = three.etcd.get(key)
    three.etcd.ctl("del", key)
    wait_until(lambda: three.etcd.get(key), 10, "the record to be back")
    assert three.record() == json.loads(good)["record"]
    three.etcd.ctl("put", key, "nonsense")
    for forebay in three.all:
        wait_until(lambda: events(forebay, "record_damaged"), 10, "it to be told")
        assert "cannot be read" in forebay.admin("SHOW HA")[0]["phase"] or not forebay.admin("SHOW HA")[0]["primary"]
    three.etcd.ctl("put", key, good)
    for forebay in three.all:
        wait_until(forebay.nodes_are_up, 10, "it to go on")
        with forebay.connect() as connection:
            connection.execute("delete from w")


def test_an_instance_is_upgraded_without_the_others_noticing(three, loads):
    number = three.leader()
    three.all[number].upgrade()
    for load in loads:
        load.progress(of=100)
        load.stop()
        assert not load.codes, f"a client saw {load.codes}"
    assert three.record()["epoch"] == 1


def test_etcd_is_met_by_tls_and_with_a_login(authority, with_table, start_forebay):
    etcd = Etcd(members=1, authority=authority)
    try:
        for command in (["user", "add", "root:rootpass"], ["user", "grant-role", "root", "root"],
                        ["role", "add", "forebay"], ["role", "grant-permission", "forebay", "--prefix=true", "readwrite", "/forebay/"],
                        ["user", "add", "forebay:etcdsecret"], ["user", "grant-role", "forebay", "forebay"], ["auth", "enable"]):
            assert etcd.ctl(*command) is not None, command
        coordination = {
            "etcd": [etcd.members[0].url], "lease": f"{LEASE}s", "name": "fb1", "user": "forebay", "password": "etcdsecret",
            "tls": {"ca": str(authority.file)}}
        forebay = start_forebay(servers=with_table, config={"coordination": coordination})
        with forebay.connect() as connection:
            connection.execute("insert into w (id) values (1)")
        wrong = {**coordination, "password": "not the secret", "name": "fb2"}
        other = start_forebay(servers=with_table, config={"coordination": wrong}, wait="port")
        wait_until(lambda: "etcd refuses" in other.admin("SHOW HA")[0]["phase"] or
                   "authentication failed" in other.log_file.read_text(), 20, "the wrong password to be told")
        assert primary_of(other) is None or not other.admin("SHOW HA")[0]["primary"]
    finally:
        etcd.destroy()
