"""`forebay status` and `forebay admin` beside a running instance, and what the service manager is told."""

import json
import os
import re
import socket
import subprocess

import pytest

from harness import wait_until
from harness.forebay import binary


def ask(running, *arguments, env=None):
    """Runs the program with the configuration of a running instance."""
    return subprocess.run(
        [binary(), *arguments, "-c", running.config_file], capture_output=True, text=True, timeout=20, check=False,
        env={"PATH": os.environ["PATH"], **(env or {})})


def test_status_shows_nodes_pools_and_queues(forebay):
    forebay.wire().run("select 1")
    done = ask(forebay, "status")
    assert done.returncode == 0, done
    for word in ("pg1", "pg2", "pg3", "primary", "replica", "bench", "waiting"):
        assert word in done.stdout, f"{word} in\n{done.stdout}"


def test_status_as_json_can_be_read(forebay):
    forebay.wire().run("select 1")
    done = ask(forebay, "status", "--json")
    assert done.returncode == 0, done
    told = json.loads(done.stdout)
    assert [node["node"] for node in told["nodes"]] == ["pg1", "pg2", "pg3"]
    assert {"pools", "queue"} <= set(told), told.keys()


def test_admin_runs_a_statement(forebay):
    done = ask(forebay, "admin", "SHOW NODES")
    assert done.returncode == 0 and "pg1" in done.stdout and "lag_bytes" in done.stdout, done
    rows = json.loads(ask(forebay, "admin", "SHOW NODES", "--json").stdout)
    assert [row["node"] for row in rows] == ["pg1", "pg2", "pg3"]
    assert ask(forebay, "admin", "SET WEIGHT pg2 = 1").returncode == 0, "the first admin of the file logs in"


def test_an_error_of_the_console_is_told_and_exits_with_1(forebay):
    done = ask(forebay, "admin", "SHOW NOTHING")
    assert done.returncode == 1 and "NOTHING" in done.stderr, done
    for env in ({"PGPASSWORD": "viewer"}, {}):
        done = ask(forebay, "admin", "RELOAD", "--user", "viewer", env=env)
        assert done.returncode == 1 and "needs an admin" in done.stderr, done


def test_without_an_instance_it_is_said_where_none_answered(start_forebay):
    forebay = start_forebay()
    forebay.kill()
    done = ask(forebay, "status")
    assert done.returncode == 1 and str(forebay.port) in done.stderr, done


@pytest.fixture
def manager(tmp_path):
    """The socket that a service manager listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(0.2)
        yield listener


def test_the_service_manager_is_told_of_readiness_reloads_and_the_end(manager, start_forebay):
    told = []

    def has_come(pattern):
        try:
            told.append(manager.recv(4096).decode())
        except TimeoutError:
            pass
        return re.search(pattern, "\n".join(told), re.S)

    forebay = start_forebay(env={"NOTIFY_SOCKET": manager.getsockname()})
    wait_until(lambda: has_come("READY=1"), 10, "READY")
    told.clear()
    forebay.reload()
    wait_until(lambda: has_come(r"RELOADING=1.*MONOTONIC_USEC=\d+.*READY=1"), 10, "RELOADING, then READY")
    forebay.term()
    wait_until(lambda: has_come("STOPPING=1"), 10, "STOPPING")
    assert forebay.wait_end() == 0
