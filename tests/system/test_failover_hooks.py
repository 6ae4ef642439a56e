"""Programs that the administrator has run around a change of the primary."""

import psycopg
import pytest

from harness import wait_until
from harness.postgres import bin_dir
from harness.forebay import ROOT
from test_failover_promote import events, new_primary, writes


@pytest.fixture
def told(tmp_path):
    """A file that programs of a test write to, and what makes such a program."""
    file = tmp_path / "told"
    file.touch(0o666)
    tmp_path.chmod(0o755)

    def program(words, status=0):
        return ["/bin/sh", "-c", f'echo "{words}" >> {file}; exit {status}']
    return file, program


@pytest.fixture
def start(with_table, start_forebay):
    return lambda **failover: start_forebay(servers=with_table, failover={"mode": "promote", "hold": "20s", **failover})


def test_programs_are_run_in_their_order_and_told_of_the_nodes(cluster, start, told):
    file, program = told
    forebay = start(
        fence_command=program("fence $FAILED_NODE_ID $FAILED_NODE_HOST:$FAILED_NODE_PORT"),
        validate_command=program("validate $NEW_MAIN_NODE_NAME $OLD_PRIMARY_NODE_PORT $FOREBAY_CLUSTER"),
        event_command=program("event $FOREBAY_EVENT $FOREBAY_SERVICE"))
    old = cluster.nodes[0]
    assert writes(forebay, 1) == 1
    old.kill()
    name = new_primary(forebay, "pg1")
    wait_until(lambda: "event failover_done main" in file.read_text(), 20, "the last event to be told")
    lines = file.read_text().splitlines()
    orders = [line for line in lines if not line.startswith("event ")]
    assert orders == [f"fence 0 127.0.0.1:{old.port}", f"validate {name} {old.port} main"]
    assert lines.index("event failover_begun main") < lines.index("event failover_done main")


@pytest.mark.parametrize("command", ["fence_command", "validate_command"])
def test_a_program_can_forbid_a_promotion(cluster, start, told, command):
    _, program = told
    forebay = start(**{command: ["/bin/sh", "-c", "echo 'not today' >&2; exit 3"]})
    assert writes(forebay, 1) == 1
    cluster.nodes[0].kill()
    [why, *_] = wait_until(lambda: events(forebay, "failover_undone"), 30, "the failover to be given up")
    assert command in why and "not today" in why
    assert all(node.is_replica() for node in cluster.nodes[1:])
    cluster.nodes[0].start()
    assert writes(forebay, 2) == 2


def test_a_former_primary_rejoins_by_the_script(cluster, start, tmp_path):
    old, stop, begin = cluster.nodes[0], tmp_path / "stop", tmp_path / "start"
    tmp_path.chmod(0o777)
    for node in cluster.nodes:
        node.trust("postgres")
    # The servers belong to this test: it stops and starts them when the script says so.
    wait_for = "for n in $(seq 600); do [ -e %s ] || exit 0; sleep 0.1; done; exit 1"
    forebay = start(rejoin_command=[
        str(ROOT / "scripts" / "rejoin"), "--data", str(old.data), "--bin", str(bin_dir()), "--replication", "replicator",
        "--stop", f"touch {stop}; " + wait_for % stop, "--start", f"touch {begin}; " + wait_for % begin])
    assert writes(forebay, 1) == 1
    forebay.admin("SWITCHOVER main")
    name = new_primary(forebay, "pg1")
    wait_until(stop.exists, 20, "the script to stop the former primary")
    assert events(forebay, "primary_lost") == [] and "a switchover was ordered" in events(forebay, "primary_leaving")[0]
    assert "rejoin_command is to make it a replica again" in events(forebay, "node_fenced")[0]
    assert " WARN " not in forebay.log(), "what was ordered is no bad news"
    steps = [line for line in forebay.log().splitlines() if "step=" in line]
    assert any(" switchover " in line and "has replayed up to 0/" in line for line in steps), steps
    assert not [line for line in steps if "{" in line or "(" in line], "steps are told in words"
    old.stop()
    stop.unlink()
    wait_until(begin.exists, 60, "the script to start it again")
    old.start(wait=False)
    begin.unlink()
    old.wait_ready()
    wait_until(lambda: events(forebay, "rejoin_done"), 20, "the script to end well")
    wait_until(lambda: forebay.node("pg1")["state"] == "up" and forebay.node("pg1")["role"] == "replica", 20, "it to be used")
    assert writes(forebay, 2) == 2
    wait_until(lambda: old.value("select count(*) from w") == 2, 20, "it to have everything")
    forebay.admin("SWITCHOVER main TO pg1")
    assert new_primary(forebay, name) == "pg1"
    assert writes(forebay, 3) == 3
    assert old.value("show default_transaction_read_only") == "off"


def test_a_rejoin_that_fails_is_told(cluster, start):
    forebay = start(rejoin_command=["/bin/sh", "-c", "echo 'no such machine' >&2; exit 1"])
    forebay.admin("SWITCHOVER main")
    new_primary(forebay, "pg1")
    [why, *_] = wait_until(lambda: events(forebay, "rejoin_failed"), 20, "the failure to be told")
    assert "no such machine" in why
    with pytest.raises(psycopg.Error, match="fenced"):
        forebay.admin("ATTACH NODE pg1")
    forebay.admin("SWITCHOVER main")
    fenced = "it is primary, fenced: .*rejoin_command is to make it a replica again"
    with pytest.raises(psycopg.Error, match=f"no replica that can be promoted: pg1: {fenced}; pg[23]: {fenced}"):
        forebay.admin("SWITCHOVER main")
