"""The budgets of PostgreSQL's hot path (see `harness.counting`): system calls and instructions a query.

The load is select-only pgbench with the split off. The budgets of simple, queued and extended are the design's. The
others hold what was reached, with a little room.
"""

import os
import subprocess

import pytest

from harness import counting
from harness.forebay import configuration
from harness.postgres import bin_dir

ON_PRIMARY = {"split": False}


def select_only(clients, mode, user="app"):
    """A load of so many queries, shared by the clients."""
    def load(forebay, queries):
        done = subprocess.run(
            [bin_dir() / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-t", str(queries // clients)],
            capture_output=True, text=True, timeout=250, check=False, env={**os.environ, **forebay.environment(user)})
        assert done.returncode == 0, done.stderr
        assert f"{queries}/{queries}" in done.stdout, done.stdout
    return load


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("clients, size", [(8, 20), (24, 6)], ids=["free", "queued"])
def test_a_query_costs_no_more_system_calls_than_budgeted(start_forebay, mode, clients, size):
    forebay = start_forebay(pool={"size": size}, routing=ON_PRIMARY, config={"general": {"threads": 1}})
    load = select_only(clients, mode)
    load(forebay, 20 * clients)
    calls = counting.system_calls(forebay, load, 50 * clients, 650 * clients)
    assert calls.sends <= 2.05, calls.told
    assert calls.receives <= 2.15, calls.told
    assert calls.epoll_ctl <= 0.02, calls.told
    assert calls.futex <= 0.02, calls.told


@pytest.mark.parametrize("mode, clients, size, split, budget", [
    ("simple", 16, 20, False, 3500), ("simple", 30, 10, False, 4500), ("extended", 10, 20, False, 4500),
    ("prepared", 10, 20, False, 5600), ("simple", 10, 20, True, 6500)],
    ids=["simple", "queued", "extended", "prepared", "split"])
def test_a_query_costs_no_more_instructions_than_budgeted(shared_cluster, mode, clients, size, split, budget):
    # Nothing else may weigh in: no password is hashed on the way.
    shared_cluster.everywhere("grant select on all tables in schema public to u_trust")
    config = configuration(
        shared_cluster.addresses[:1], auth="trust", user=[{"name": "u_trust"}], pool={"size": size}, routing={"split": split},
        failover={"check_interval": "60s"})
    config["general"]["threads"] = 1
    counting.hold_instructions(
        config, select_only(clients, mode, "u_trust"), 200 * clients, 1200 * clients, budget, wait="login", user="u_trust")
