"""Forebay changes the primary itself: because it is lost, or because an admin wants it."""

import pytest

from harness import wait_until
from test_failover_follow import Load


@pytest.fixture
def loaded(cluster, start_forebay):
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "20s"})
    load = Load(forebay, "w")
    load.progress()
    yield cluster, forebay, load
    load.stop()


def missing(load, node):
    """Acknowledged writes that the node does not have."""
    return set(load.acknowledged) - {row["id"] for row in node.sql("select id from w")}


def events(forebay, name):
    """Details of the events of this name."""
    return [row["detail"] for row in forebay.admin("SHOW EVENTS") if row["event"] == name]


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
