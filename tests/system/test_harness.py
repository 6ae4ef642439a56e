"""The harness itself: what the other tests rely on, on real servers."""

import pytest

from harness import wait_until


def test_a_cluster_replicates_and_a_replica_can_be_promoted(cluster):
    first, second, third = cluster.nodes
    assert [node.value("show cluster_name") for node in cluster.nodes] == ["pg1", "pg2", "pg3"]
    first.sql("create table t as select 1 as a")
    cluster.caught_up()
    assert second.value("select a from t") == 1 and third.value("select a from t") == 1
    first.kill()
    second, third = cluster.promote()
    second.sql("insert into t values (2)")
    wait_until(lambda: third.value("select count(*) from t") == 2, 20, "the other replica to follow")
    assert cluster.primary is second
    cluster.rebuild(first)
    assert first.is_replica() and first.value("select count(*) from t") == 2


def test_a_paused_node_answers_again_after_resume(cluster):
    node = cluster.nodes[1]
    node.pause()
    with pytest.raises(Exception):
        node.connect(connect_timeout=2)
    node.resume()
    node.wait_ready()
    node.stop("fast")
    assert not node.is_running()
    node.start()
    assert node.is_replica()


def test_a_replica_shows_commits_only_after_its_apply_delay(cluster):
    replica = cluster.nodes[1]
    cluster.everywhere("create table t (a int)")
    replica.set_apply_delay(60)
    cluster.sql("insert into t values (1)")
    cluster.nodes[2].wait_replayed(cluster.primary.position())
    assert cluster.nodes[2].value("select count(*) from t") == 1
    assert replica.value("select count(*) from t") == 0
    assert cluster.lag()["pg2"] > 0
    replica.set_apply_delay(0)
    cluster.caught_up()
    assert replica.value("select count(*) from t") == 1


@pytest.mark.parametrize("auth, code", [("scram-sha-256", 10), ("md5", 5), ("password", 3), ("trust", 0)])
def test_a_cluster_asks_for_the_password_in_the_way_it_was_told(new_cluster, auth, code):
    wire = new_cluster(replicas=0, auth=auth).primary.wire()
    assert wire.auth_codes[0] == code
    assert wire.value("select 41 + 1") == "42"
