"""Replicas that follow another replica: left alone while that one goes on, led to the new primary when it does not."""

import psycopg
import pytest

from harness import wait_until
from test_failover_promote import events, new_primary, writes


@pytest.fixture
def cascaded(new_cluster, start_forebay):
    """pg2 and pg4 follow pg1, pg3 follows pg2."""
    cluster = new_cluster(replicas=3)
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    second, third = cluster.nodes[1:3]
    third.follow(second)
    wait_until(lambda: second.value("select count(*) from pg_stat_replication") == 1, 20, "pg3 to follow pg2")
    cluster.caught_up()
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "30s"})
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    return cluster, forebay


def settings_of(node):
    """What changes whenever a node is led elsewhere."""
    file = node.data / "postgresql.auto.conf"
    return file.read_text(), file.stat().st_mtime_ns


def is_followed_by(nodes, value):
    """The row arrives at all of these."""
    for node in nodes:
        wait_until(lambda node=node: node.value("select count(*) from w where id = %s", params=[value]) == 1, 30,
                   f"{node.name} to follow")


def upstream(node):
    """The port that a replica receives from."""
    return node.value("select sender_port from pg_stat_wal_receiver")


@pytest.mark.parametrize("to", ["pg2", "pg4"])
def test_a_child_of_a_replica_that_goes_on_is_left_alone_by_a_switchover(cascaded, to):
    cluster, forebay = cascaded
    second, third, fourth = cluster.nodes[1:]
    before = settings_of(third)
    forebay.admin(f"SWITCHOVER main TO {to}")
    assert new_primary(forebay, "pg1") == to
    assert writes(forebay, 2) == 2
    is_followed_by([second, third, fourth], 2)
    assert settings_of(third) == before
    assert upstream(third) == second.port


def test_a_child_is_no_witness_of_a_lost_primary(cascaded):
    cluster, forebay = cascaded
    second, third, fourth = cluster.nodes[1:]
    before = settings_of(third)
    cluster.nodes[0].kill()
    name = new_primary(forebay, "pg1")
    assert name in ("pg2", "pg4")
    assert writes(forebay, 2) == 2
    is_followed_by([second, third, fourth], 2)
    assert settings_of(third) == before
    assert events(forebay, "failover_undone") == []


def test_a_child_of_a_dead_replica_goes_to_the_new_primary(cascaded):
    cluster, forebay = cascaded
    first, second, third, fourth = cluster.nodes
    second.kill()
    wait_until(lambda: forebay.node("pg2")["state"] == "down", 20, "the loss of pg2 to be seen")
    forebay.admin("SWITCHOVER main TO pg4")
    assert new_primary(forebay, "pg1") == "pg4"
    assert writes(forebay, 2) == 2
    is_followed_by([third], 2)
    assert upstream(third) == fourth.port
    # It comes back, and is led to the new primary as well. The old one has written more log, which must not reach it.
    first.stop()
    second.start()
    is_followed_by([second], 2)


def test_a_child_whose_replica_is_away_for_a_while_has_a_place_in_the_end(cascaded):
    cluster, forebay = cascaded
    first, second, third, fourth = cluster.nodes
    third.pause()
    wait_until(lambda: forebay.node("pg3")["state"] == "down", 20, "pg3 to be missed")
    forebay.admin("SWITCHOVER main TO pg4")
    second.kill()
    third.resume()
    assert writes(forebay, 2) == 2
    is_followed_by([third], 2)
    assert upstream(third) == fourth.port
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        assert connection.execute("select count(*) from w").fetchone()[0] == 2
