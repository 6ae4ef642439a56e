"""Counts what one query or command costs the program, in figures that do not drift with the machine's load.

System calls are counted by strace, instructions in user space by callgrind, both as the difference between a long and
a short run of some load, so that start-up and login cancel out. `load(forebay, count)` has that many queries run.
"""

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass

import pytest

from harness.forebay import Forebay, binary
from harness.waiting import wait_until


@dataclass
class Calls:
    """System calls by kind, each per query, and a text that tells them."""

    sends: float
    receives: float
    epoll_ctl: float
    futex: float
    told: str


def system_calls(forebay, load, short, long):
    """What a query costs, by a run of `short` and one of `long` queries."""
    few, many = _traced(forebay, load, short), _traced(forebay, load, long)

    def each(*names):
        return sum(many.get(name, 0) - few.get(name, 0) for name in names) / (long - short)

    calls = Calls(
        each("sendto", "sendmsg", "write", "writev"), each("recvfrom", "recvmsg", "read", "readv"),
        each("epoll_ctl"), each("futex"), "")
    calls.told = f"each costs {calls.sends:.3f} sends and {calls.receives:.3f} receives; all calls: {many}"
    return calls


def _traced(forebay, load, count):
    """System calls of the process by name while the load runs."""
    strace = shutil.which("strace")
    assert strace, "strace is needed: scripts/test installs it"
    output = forebay.folder / "calls"
    tracer = subprocess.Popen(
        [strace, "-f", "-c", "-U", "calls,name", "-o", output, "-p", str(forebay.pid)], stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline(), "strace cannot attach"
    load(forebay, count)
    tracer.send_signal(signal.SIGINT)
    tracer.wait(20)
    found = re.findall(r"^\s*(\d+)\s+(\w+)\s*$", output.read_text(), re.M)
    return {name: int(count) for count, name in found if name != "total"}


def hold_instructions(config, load, short, long, budget, **start):
    """Fails if a query costs more instructions than budgeted, by a run of `short` and one of `long` queries.

    The count varies by three per cent with how many events a turn of the loop finds, and by more when there is other
    load on the machine: the lowest of up to three counts is held against the budget and that much more. `start` goes
    to `Forebay`.
    """
    valgrind = shutil.which("valgrind")
    assert valgrind, "valgrind is needed: scripts/test installs it"
    if "release" not in str(binary()):
        pytest.fail("instructions are budgeted for the release build: run `cargo build --release`")
    lowest = float("inf")
    for _ in range(3):
        few, many = (_instructions(config, load, count, valgrind, start) for count in (short, long))
        lowest = min(lowest, (many - few) / (long - short))
        if lowest <= budget * 1.03:
            print(f"{lowest:.0f} instructions in user space, {budget} are budgeted")  # pytest -rP shows it
            return
    pytest.fail(f"each costs {lowest:.0f} instructions in user space, {budget} are budgeted")


def _instructions(config, load, count, valgrind, start):
    """Those of the data thread, from its start to its end."""
    wrapper = [valgrind, "--tool=callgrind", "--separate-threads=yes", "--callgrind-out-file=callgrind.out"]
    with Forebay(config, wrapper=wrapper, **start) as forebay:
        load(forebay, count)
        forebay.term()
        forebay.wait_end(60)
        threads = wait_until(lambda: sorted(forebay.folder.glob("callgrind.out-*")), 10, "callgrind's output")
        # The first thread is the control thread, which does not relay.
        return sum(
            int(re.search(r"^(?:summary|totals): (\d+)", file.read_text("utf-8", "replace"), re.M).group(1))
            for file in threads[1:])
