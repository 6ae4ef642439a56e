"""A candidate that is lost after it was told to promote, and nodes that were promoted beside the primary."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import wait_until
from harness.forebay import ROOT
from harness.postgres import bin_dir
from harness.postgres_ledger import TABLE
from harness.scene import Scene, recorded


@pytest.fixture
def begin(cluster, start_forebay, tmp_path):
    """Makes a scene of synchronous standbys, with a function that waits until a candidate is about to be told to promote
    and tells which, and one that lets the promotion go on."""
    chosen, go = tmp_path / "chosen", tmp_path / "go"
    tmp_path.chmod(0o777)
    wait = f"echo $NEW_MAIN_NODE_NAME > {chosen}.new; mv {chosen}.new {chosen}; "\
        f"for n in $(seq 1500); do [ -e {go} ] && exit 0; sleep 0.02; done; exit 1"
    cluster.everywhere(TABLE)
    cluster.nodes[0].configure(synchronous_standby_names="2 (pg2, pg3)")
    forebay = start_forebay(servers=cluster, failover={
        "mode": "promote", "hold": "60s", "durability": "strict", "validate_command": ["/bin/sh", "-c", wait]})
    scene = Scene(cluster, forebay)

    def candidate():
        wait_until(chosen.exists, 30, "a candidate to be chosen")
        name = chosen.read_text().strip()
        return next(node for node in cluster.nodes if node.name == name)

    yield scene, candidate, go.touch
    scene.ledger.end()


def strays(forebay):
    """Ports of the nodes that are on record as strays."""
    return [stray["at"]["port"] for stray in recorded(forebay).get("strays", [])]


def lose(scene, candidate, let_go, how):
    """The candidate goes away just before it is told; the other replica."""
    lost = candidate()
    lost.kill() if how == "killed" else lost.pause()
    let_go()
    told = scene.wait_event("candidate_lost")
    assert lost.name in told and "FAILOVER main promotes another" in told
    return lost, next(node for node in scene.cluster.nodes[1:] if node is not lost)


@pytest.mark.parametrize("how", ["killed", "hung"])
def test_another_is_promoted_in_its_place_when_an_admin_says_so(begin, how):
    scene, candidate, let_go = begin
    forebay = scene.forebay
    scene.old.kill()
    lost, other = lose(scene, candidate, let_go, how)
    with pytest.raises(psycopg.DatabaseError, match=f"{lost.name} cannot be promoted"):
        forebay.admin(f"FAILOVER main TO {lost.name}")
    with pytest.raises(psycopg.DatabaseError, match="does not answer"):
        forebay.admin("SWITCHOVER main")
    forebay.admin("FAILOVER main")
    assert f"{other.name} is the primary now" in scene.wait_event("failover_done")
    assert lost.name in scene.wait_event("candidate_given_up")
    scene.ledger.progress()
    if how == "killed":
        lost.start()
        ahead = "before current recovery point"  # it had received what nobody was told of: that wants a rewind
        last = other.value("select count(*) from ledger")
        wait_until(lambda: lost.value("select count(*) from ledger") >= last or ahead in lost.log(), 40,
                   f"{lost.name} to follow")
        if ahead not in lost.log():
            wait_until(lambda: strays(forebay) == [], 20, "it to be one as any other again")
    else:
        # The order waits in its socket, and it is promoted beside the one that took its place.
        lost.resume()
        wait_until(lambda: not lost.is_replica(), 30, f"{lost.name} to be promoted after all")
        scene.fenced(lost)
    scene.judge(other)
    if how == "hung":
        said = rejoin(lost, other)
        assert said.returncode == 1 and "timelines of the same number" in said.stderr, said


def rejoin(node, primary):
    """What the script says that makes replicas of former primaries."""
    primary.trust("postgres")
    node.stop()
    env = {**os.environ, "FAILED_NODE_NAME": node.name,
           "NEW_MAIN_NODE_HOST": "127.0.0.1", "NEW_MAIN_NODE_PORT": str(primary.port)}
    command = [ROOT / "scripts" / "rejoin", "--data", node.data, "--bin", bin_dir(), "--stop", "true", "--start", "true"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_one_that_comes_back_goes_on_as_if_nothing_had_been(begin):
    scene, candidate, let_go = begin
    scene.old.kill()
    lost, _ = lose(scene, candidate, let_go, "killed")
    lost.start()
    assert scene.new_primary() is lost
    scene.judge(lost)


def test_a_switchover_whose_candidate_is_lost_ends_with_the_old_primary(begin):
    scene, candidate, let_go = begin
    forebay = scene.forebay
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(forebay.admin, "SWITCHOVER main TO pg2")
        lost, other = lose(scene, candidate, let_go, "hung")
        with pytest.raises(psycopg.DatabaseError, match="pg2 was lost while it was being promoted"):
            forebay.admin("FAILOVER main")
        with pytest.raises(psycopg.DatabaseError, match="given up by"):
            ordered.result(20)
    assert scene.primary() is scene.old
    scene.old.configure(synchronous_standby_names="1 (pg3)")
    scene.ledger.progress(of=30)
    assert strays(forebay) == [lost.port]
    # It lacks what the old primary has taken since; neither a restart nor the end of that one makes it the primary.
    forebay.kill()
    forebay.start(wait="login")
    other.pause()
    scene.old.kill()
    lost.resume()
    wait_until(lambda: not lost.is_replica(), 30, "pg2 to be promoted after all")
    scene.fenced(lost)
    other.resume()
    assert scene.new_primary() is other
    scene.judge(other)


def test_who_was_promoted_beside_the_primary_is_remembered(cluster, start_forebay):
    forebay = start_forebay(servers=cluster, failover={"mode": "promote"})
    first, second, third = cluster.nodes
    second.promote()
    wait_until(lambda: strays(forebay) == [second.port], 20, "a record")
    forebay.kill()
    third.stop()
    first.kill()
    forebay.start(wait="port")
    wait_until(lambda: forebay.node("pg2")["state"] == "fenced", 20, "pg2 to be fenced")
    assert forebay.admin("SHOW HA")[0]["primary"] in ("", None)
    forebay.admin("ATTACH NODE pg2 FORCE")
    wait_until(lambda: forebay.admin("SHOW HA")[0]["primary"] == "pg2", 20, "pg2 to be accepted")
    wait_until(lambda: strays(forebay) == [], 20, "that to be on disk")
