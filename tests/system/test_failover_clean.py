"""SWITCHOVER ... MODE clean: the old primary is restarted as a standby, and follows without a rewind."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness import wait_until
from harness.forebay import ROOT
from harness.postgres import bin_dir
from harness.relay import Relay
from test_failover_follow import Load
from test_failover_promote import dies_at, events, missing, new_primary, recorded, writes


def demote_script(node, before="", after="exit 0"):
    """`demote_command` with the script that comes with Forebay, and what runs before and after it."""
    script = f"{ROOT}/scripts/demote --data {node.data} --bin {bin_dir()}"
    return ["/bin/bash", "-c", f"{before}\n{script} || exit 1\n{after}"]


def any_demote_script(cluster):
    """The same for every node of the cluster: which one it is for stands in the environment."""
    cases = " ".join(f"{node.port}) data={node.data} ;;" for node in cluster.nodes)
    script = f"{ROOT}/scripts/demote --data $data --bin {bin_dir()}"
    return ["/bin/bash", "-c", f"case $FAILED_NODE_PORT in {cases} esac; {script}"]


def timeline(node):
    """The timeline that a primary writes."""
    return int(node.value("select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), 16)


def is_followed(cluster, forebay, primary, value):
    """A write arrives at every other node, and each of them takes reads."""
    assert writes(forebay, value) == value
    for node in cluster.nodes:
        node.adopt()
        if node is not primary:
            wait_until(lambda node=node: node.is_replica(), 20, f"{node.name} to be a replica")
            wait_until(lambda node=node: node.value("select count(*) from w where id = %s", params=[value]) == 1, 30,
                       f"{node.name} to follow")
            wait_until(lambda node=node: (forebay.node(node.name)["role"], forebay.node(node.name)["state"]) ==
                       ("replica", "up"), 30, f"{node.name} to take reads")


@pytest.fixture
def made(with_table):
    """A cluster with a table, on which every demote_method works."""
    with_table.everywhere("grant pg_execute_server_program to steward")
    return with_table


@pytest.fixture
def start(made, start_forebay):
    """Starts Forebay in front of it."""
    return lambda **failover: start_forebay(servers=made, failover={"mode": "promote", "hold": "60s", **failover})


@pytest.mark.parametrize("method", ["hook", "copy_program"])
def test_the_old_primary_follows_without_a_rewind_and_nobody_notices(made, start, method):
    cluster = made
    cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    hook = {"demote_command": any_demote_script(cluster)} if method == "hook" else {}
    forebay = start(demote_method=method, **hook)
    load = Load(forebay, "w")
    load.progress()
    forebay.admin("SWITCHOVER main TO pg2 MODE clean")
    assert new_primary(forebay, "pg1") == "pg2"
    load.progress()
    first, second, third = cluster.nodes
    is_followed(cluster, forebay, second, -1)
    assert timeline(second) == 2
    assert events(forebay, "rejoin_begun") == [], "nobody had to rewind it"
    warned = [line for line in forebay.log().splitlines() if " WARN " in line]
    assert warned == [], "what was ordered is no bad news"
    print(events(forebay, "switchover_done"))
    # And back again: what it was told when it became a standby is what it goes by now.
    forebay.admin("SWITCHOVER main TO pg1 MODE clean")
    assert new_primary(forebay, "pg2") == "pg1"
    load.progress()
    is_followed(cluster, forebay, first, -2)
    assert timeline(first) == 3
    load.stop()
    assert load.codes == set(), f"clients saw {load.codes}"
    assert load.wrong == []
    for node in cluster.nodes:
        assert missing(load, first) == set(), f"an acknowledged write is not on {node.name}"
    assert first.value("show default_transaction_read_only") == "off"


def test_without_a_method_it_says_what_is_needed(made, start):
    forebay = start()
    for sql in ("SWITCHOVER main MODE clean", "SWITCHOVER main TO pg2 MODE clean DRY RUN"):
        with pytest.raises(psycopg.Error, match='MODE clean has to restart pg1 as a standby: set .*demote_method to "hook"'):
            forebay.admin(sql)
    assert events(forebay, "switchover_begun") == []
    assert writes(forebay, 1) == 1


def test_copy_program_needs_its_right(made, start):
    made.everywhere("revoke pg_execute_server_program from steward")
    forebay = start(demote_method="copy_program")
    for dry_run in ("", " DRY RUN"):
        with pytest.raises(psycopg.Error, match='GRANT pg_execute_server_program TO "steward"'):
            forebay.admin("SWITCHOVER main MODE clean" + dry_run)
    assert writes(forebay, 1) == 1


def test_a_dry_run_restarts_nothing(made, start):
    first = made.nodes[0]
    forebay = start(demote_method="copy_program")
    began = first.value("select pg_postmaster_start_time()")
    forebay.admin("SWITCHOVER main TO pg2 MODE clean DRY RUN")
    assert first.value("select pg_postmaster_start_time()") == began
    assert first.value("show primary_conninfo") == ""
    assert events(forebay, "switchover_begun") == []


def test_a_program_that_fails_leaves_everything_as_it_was(made, start):
    first = made.nodes[0]
    forebay = start(demote_method="hook", demote_command=["/bin/sh", "-c", "echo 'not today' >&2; exit 3"])
    with pytest.raises(psycopg.Error, match="pg1 could not be made a standby: demote_command: .*not today"):
        forebay.admin("SWITCHOVER main MODE clean")
    assert writes(forebay, 1) == 1
    wait_until(lambda: first.value("show primary_conninfo") == "" and first.value("show primary_slot_name") == "", 20,
               "what the old primary was told to be taken back")
    assert timeline(first) == 1
    assert not (first.data / "standby.signal").exists()
    is_followed(made, forebay, first, 2)
    wait_until(lambda: not recorded(forebay)["demoted"] and not recorded(forebay)["astray"], 30, "nothing to be left to do")


def test_a_primary_that_was_restarted_for_nothing_is_promoted_again(made, start):
    first = made.nodes[0]
    forebay = start(demote_method="hook", demote_command=demote_script(first, after="echo 'too late' >&2; exit 1"))
    with pytest.raises(psycopg.Error, match="too late"):
        forebay.admin("SWITCHOVER main MODE clean")
    wait_until(lambda: events(forebay, "primary_returned"), 40, "the old primary to be promoted again")
    is_followed(made, forebay, first, 1)
    assert timeline(first) == 2, "which costs a timeline"
    assert len(events(forebay, "switchover_undone")) == 1
    assert forebay.node("pg1")["role"] == "primary"
    assert first.value("show primary_conninfo") == ""


def test_a_candidate_that_is_lost_meanwhile_is_not_promoted(made, start, tmp_path):
    tmp_path.chmod(0o777)
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    wait = f"touch {begun}; for n in $(seq 400); do [ -e {go_on} ] && break; sleep 0.05; done"
    first, second, third = made.nodes
    forebay = start(demote_method="hook", demote_command=demote_script(first, before=wait))
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(forebay.admin, "SWITCHOVER main TO pg2 MODE clean")
        wait_until(begun.exists, 20, "the program to begin")
        second.kill()
        go_on.touch()
        with pytest.raises(psycopg.Error, match="pg2 does not answer"):
            ordered.result(60)
    wait_until(lambda: events(forebay, "primary_returned"), 40, "the old primary to be promoted again")
    second.start()
    is_followed(made, forebay, first, 1)


def test_a_primary_that_does_not_come_back_is_replaced(made, start):
    first = made.nodes[0]
    stop = f"touch {first.data}/standby.signal; chown --reference={first.data} {first.data}/standby.signal; kill -INT $(head -n 1 {first.data}/postmaster.pid)"
    forebay = start(demote_method="hook", demote_command=["/bin/sh", "-c", f"{stop}; echo 'it is gone' >&2; exit 1"])
    assert writes(forebay, 1) == 1
    with pytest.raises(psycopg.Error, match="it is gone"):
        forebay.admin("SWITCHOVER main MODE clean")
    name = new_primary(forebay, "pg1")
    assert events(forebay, "failover_done"), "the detector has found it lost"
    first._process = None  # it has ended in good order
    first.start()
    new = next(node for node in made.nodes if node.name == name)
    is_followed(made, forebay, new, 2)
    assert timeline(new) == 2


@pytest.fixture
def slowed(made, start_forebay):
    """A cluster behind relays that take their time, so that every step can be met."""
    relays = [Relay(node.port, delay=0.04) for node in made.nodes]
    started = start_forebay(nodes=[relay.address for relay in relays], failover={
        "mode": "promote", "hold": "60s", "demote_method": "hook", "demote_command": demote_script(made.nodes[0])})
    yield made, started, relays
    for relay in relays:
        relay.destroy()


@pytest.mark.parametrize("step", ["preparing", "demoting", "comparing", "promoting"])
def test_a_clean_switchover_ends_after_forebay_was_killed(slowed, step):
    cluster, forebay, _ = slowed
    assert writes(forebay, 1) == 1
    cluster.caught_up()
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(forebay.admin, "SWITCHOVER main MODE clean")
        dies_at(forebay, step)
        with pytest.raises(psycopg.Error):
            ordered.result(20)
    forebay.start(wait="port")
    name = wait_until(lambda: next((row["node"] for row in forebay.admin("SHOW NODES")
                                    if row["role"] == "primary" and row["state"] == "up"), None), 60, "a primary")
    primary = next(node for node in cluster.nodes if node.name == name)
    is_followed(cluster, forebay, primary, 2)
    assert primary.value("select count(*) from w") == 2
    assert timeline(primary) <= 2, "more than one promotion"
    wait_until(lambda: recorded(forebay)["job"] is None and not recorded(forebay)["astray"] and
               not recorded(forebay)["demoted"], 30, "nothing to be left to do")


def test_a_primary_that_stayed_read_only_takes_writes_as_soon_as_it_answers(made, start_forebay):
    first = made.nodes[0]
    relay = Relay(first.port)
    nodes = [relay.address, *made.addresses[1:]]
    # In this mode nothing else would look after it.
    forebay = start_forebay(nodes=nodes, failover={"mode": "follow", "hold": "60s"}, cluster=[
        {"name": "main", "nodes": nodes, "monitor_user": "steward", "monitor_password": "steward"}])
    assert writes(forebay, 1) == 1
    made.caught_up()
    with psycopg.connect(host=str(first.folder), port=first.port, user="postgres", dbname="bench") as busy:
        busy.execute("select 1")  # a superuser's transaction, which the login may not end
        with ThreadPoolExecutor(1) as pool:
            ordered = pool.submit(forebay.admin, "SWITCHOVER main")
            wait_until(lambda: first.value("show default_transaction_read_only") == "on", 20, "it to be fenced", 0.005)
            relay.mode = "silent"
            with pytest.raises(psycopg.Error, match="pg1 does not answer"):
                ordered.result(30)
    assert recorded(forebay)["astray"] == [] and recorded(forebay)["job"] is None
    assert first.value("show default_transaction_read_only") == "on"
    relay.mode = "pass"
    relay.cut()
    wait_until(lambda: first.value("show default_transaction_read_only") == "off", 20, "it to take writes again")
    assert writes(forebay, 2) == 2
    wait_until(lambda: recorded(forebay)["read_only"] == [], 20, "that to be forgotten")
    relay.destroy()
