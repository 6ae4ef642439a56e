"""Faults of the network, under clients whose every write is judged (harness/postgres_ledger.py)."""

import pytest

from harness import Relay, wait_until
from harness.network import Network
from harness.postgres_ledger import TABLE
from harness.scene import Scene, events

FAILOVER = {"mode": "promote", "hold": "60s"}


@pytest.fixture
def spread(new_cluster, start_forebay):
    """(scene, network): every node and Forebay in a place of its own. The test is where Forebay is."""
    made = []

    def make(sync="ANY 2 (pg2, pg3)", **failover):
        network = Network(["pg1", "pg2", "pg3", "forebay"])
        made.append(network)
        cluster = new_cluster(auth="trust")
        network.move(cluster)
        cluster.everywhere(TABLE)
        cluster.nodes[0].configure(synchronous_standby_names=sync)
        inside = network["forebay"].inside()
        inside.__enter__()
        made.append(inside)
        forebay = start_forebay(nodes=network.addresses(cluster), failover={**FAILOVER, **failover})
        made.append(Scene(cluster, forebay))
        return made[-1], network

    yield make
    network, *inside_and_scene = made or [None]
    for scene in inside_and_scene[1:]:
        scene.ledger.end()
    if inside_and_scene:
        inside_and_scene[0].__exit__(None, None, None)
    if network:
        network.destroy()


REST = ["pg2", "pg3", "forebay"]


@pytest.mark.parametrize("is_deaf_only", [False, True], ids=["cut from all", "deaf"])
def test_a_primary_that_nothing_reaches_is_replaced_and_fenced_when_it_is_back(spread, is_deaf_only):
    scene, network = spread(sync="ANY 1 (pg2, pg3)")
    if is_deaf_only:  # it can speak
        for place in REST:
            network.drop(place, "pg1")
    else:
        network.cut(["pg1"], REST)
    new = scene.new_primary()
    scene.ledger.progress()
    network.heal()
    scene.fenced(scene.old)
    scene.judge(new)


def test_replicas_that_are_cut_off_are_no_reason_to_promote_one(spread):
    scene, network = spread(sync="")
    network.cut(["pg1", "forebay"], ["pg2", "pg3"])
    for name in ("pg2", "pg3"):
        wait_until(lambda name=name: scene.forebay.node(name)["state"] == "down", 30, f"{name} to be seen as lost")
    scene.ledger.progress(of=50)
    network.heal()
    for name in ("pg2", "pg3"):
        scene.forebay.wait_node(name, timeout=40, state="up")
    scene.stays(scene.old)


@pytest.mark.parametrize("cut", ["both ways", "to the primary", "from the primary"])
def test_a_primary_that_only_forebay_cannot_reach_stays(spread, cut):
    scene, network = spread()
    if cut != "from the primary":
        network.drop("forebay", "pg1")
    if cut != "to the primary":
        network.drop("pg1", "forebay")
    assert "still hears pg1" in scene.wait_event("failover_undone", timeout=60)
    assert all(node.is_replica() for node in scene.cluster.nodes[1:])
    network.heal()
    assert scene.primary() is scene.old
    scene.stays(scene.old)


def test_a_primary_that_one_replica_still_hears_stays(spread):
    scene, network = spread(sync="pg3")
    network.cut(["pg1"], ["forebay", "pg2"])
    assert "pg3 still hears pg1" in scene.wait_event("failover_undone", timeout=60)
    network.heal()
    assert scene.primary() is scene.old
    scene.stays(scene.old)


# -- by relays: what namespaces cannot do on every kernel ---------------------------------------------------------------


@pytest.fixture
def relayed(new_cluster, start_forebay):
    """(scene, relays): Forebay reaches every node through a relay; with `replication` the replicas the primary, too."""
    made = []

    def make(replication=False, **failover):
        cluster = new_cluster(auth="trust")
        relays = [Relay(node.port) for node in cluster.nodes]
        made.extend(relays)
        cluster.everywhere(TABLE)
        if replication:
            for node in cluster.nodes[1:]:
                led = node.value("show primary_conninfo").replace(f"port={cluster.nodes[0].port}", f"port={relays[0].port}")
                node.configure(primary_conninfo=led)
            wait_until(lambda: cluster.value("select count(*) from pg_stat_replication where state = 'streaming'") == 2, 30,
                       "the replicas to stream through the relay")
        cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
        forebay = start_forebay(nodes=[relay.address for relay in relays], failover={**FAILOVER, **failover})
        made.append(Scene(cluster, forebay))
        return made[-1], relays

    yield make
    for thing in made:
        thing.destroy() if isinstance(thing, Relay) else thing.ledger.end()


def test_a_slow_network_that_loses_packets_is_no_lost_primary(relayed):
    scene, relays = relayed(check_timeout="5s")
    for relay in relays:
        relay.delay, relay.lost_percent = 0.2, 30
    scene.ledger.progress(of=4, timeout=80)
    for relay in relays:
        relay.delay, relay.lost_percent = 0, 0
    assert not events(scene.forebay, "failover_begun")
    scene.stays(scene.old)


def test_connections_that_are_reset_are_no_lost_primary(relayed):
    scene, relays = relayed()
    for _ in range(5):
        for relay in relays:
            relay.cut(reset=True)
        scene.ledger.progress(of=3)
    assert not events(scene.forebay, "failover_begun")
    assert scene.ledger.codes.total() > 0, "no client has noticed anything"
    scene.stays(scene.old)


def test_a_primary_that_accepts_and_says_nothing_more_is_replaced(relayed):
    scene, relays = relayed(replication=True)
    relays[0].mode = "silent"
    new = scene.new_primary()
    scene.ledger.progress()
    relays[0].mode = "pass"
    relays[0].cut()
    scene.fenced(scene.old)
    scene.judge(new)
