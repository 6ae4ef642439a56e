"""The budgets of the hot path, which do not drift with the machine's load: system calls and instructions a query.

System calls are counted by strace, instructions in user space by callgrind, both as the difference between a long and
a short run of select-only pgbench with the split off, so that start-up and login cancel out.

The budgets of simple, queued and extended are the design's. The others hold what was reached, with a little room.
The count itself varies by three per cent with how many events a turn of the loop finds, and by more when there is other
load on the machine: the lowest of up to three counts is held against the budget and that much more.
"""

import os
import re
import shutil
import signal
import subprocess

import pytest

from harness import Forebay, wait_until
from harness.forebay import binary, configuration
from harness.postgres import bin_dir

ON_PRIMARY = {"split": False}


def select_only(forebay, transactions, clients, mode, user="app"):
    done = subprocess.run(
        [bin_dir() / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-t", str(transactions)],
        capture_output=True, text=True, timeout=250, check=False, env={**os.environ, **forebay.environment(user)})
    assert done.returncode == 0, done.stderr
    assert f"{clients * transactions}/{clients * transactions}" in done.stdout, done.stdout


def calls(forebay, transactions, clients, mode):
    """System calls of the process by name while pgbench runs."""
    strace = shutil.which("strace")
    assert strace, "strace is needed: scripts/test installs it"
    output = forebay.folder / "calls"
    tracer = subprocess.Popen(
        [strace, "-f", "-c", "-U", "calls,name", "-o", output, "-p", str(forebay.pid)], stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline(), "strace cannot attach"
    select_only(forebay, transactions, clients, mode)
    tracer.send_signal(signal.SIGINT)
    tracer.wait(20)
    found = re.findall(r"^\s*(\d+)\s+(\w+)\s*$", output.read_text(), re.M)
    return {name: int(count) for count, name in found if name != "total"}


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("clients, size", [(8, 20), (24, 6)], ids=["free", "queued"])
def test_a_query_costs_no_more_system_calls_than_budgeted(start_forebay, mode, clients, size):
    forebay = start_forebay(pool={"size": size}, routing=ON_PRIMARY, config={"general": {"threads": 1}})
    short, long = 50, 650
    select_only(forebay, 20, clients, mode)
    few, many = calls(forebay, short, clients, mode), calls(forebay, long, clients, mode)
    queries = (long - short) * clients

    def each(*names):
        return sum(many.get(name, 0) - few.get(name, 0) for name in names) / queries

    sent = each("sendto", "sendmsg", "write", "writev")
    received = each("recvfrom", "recvmsg", "read", "readv")
    told = f"a query costs {sent:.2f} sends and {received:.2f} receives; all calls: {many}"
    assert sent <= 2.05, told
    assert received <= 2.15, told
    assert each("epoll_ctl") <= 0.02, told
    assert each("futex") <= 0.02, told


@pytest.mark.parametrize("mode, clients, size, split, budget", [
    ("simple", 16, 20, False, 3500), ("simple", 30, 10, False, 4500), ("extended", 10, 20, False, 4500),
    ("prepared", 10, 20, False, 5600), ("simple", 10, 20, True, 6500)],
    ids=["simple", "queued", "extended", "prepared", "split"])
def test_a_query_costs_no_more_instructions_than_budgeted(shared_cluster, mode, clients, size, split, budget):
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is needed: scripts/test installs it"
    if "release" not in str(binary()):
        pytest.fail("instructions are budgeted for the release build: run `cargo build --release`")
    # Nothing else may weigh in: no password is hashed on the way.
    shared_cluster.everywhere("grant select on all tables in schema public to u_trust")
    config = configuration(
        shared_cluster.addresses[:1], auth="trust", user=[{"name": "u_trust"}], pool={"size": size}, routing={"split": split},
        failover={"check_interval": "60s"})
    config["general"]["threads"] = 1
    lowest = float("inf")
    for _ in range(3):
        few, many = (instructions(config, valgrind, transactions, clients, mode) for transactions in (200, 1200))
        lowest = min(lowest, (many - few) / (1000 * clients))
        if lowest <= budget * 1.03:
            return
    pytest.fail(f"a query costs {lowest:.0f} instructions in user space, {budget} are budgeted")


def instructions(config, valgrind, transactions, clients, mode):
    """Those of the data thread, from its start to its end."""
    with Forebay(config, wait="login", user="u_trust",
                 wrapper=[valgrind, "--tool=callgrind", "--separate-threads=yes", "--callgrind-out-file=callgrind.out"]) as forebay:
        select_only(forebay, transactions, clients, mode, "u_trust")
        forebay.term()
        forebay.wait_end(60)
        threads = wait_until(lambda: sorted(forebay.folder.glob("callgrind.out-*")), 10, "callgrind's output")
        # The first thread is the control thread, which does not relay.
        return sum(
            int(re.search(r"^(?:summary|totals): (\d+)", file.read_text("utf-8", "replace"), re.M).group(1))
            for file in threads[1:])
