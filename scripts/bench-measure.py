#!/usr/bin/env python3
"""The measurements of scripts/bench: pgbench through several poolers in turn, and the memory of idle clients.

Each target is NAME=PORT:PID, PID being the root of the pooler's process tree. CPU is user and system time of the
whole tree from /proc/PID/stat, including children that have ended. A figure is the median over the rounds, a ratio
the median of the ratios of each round, taken against the target called pgbouncer.
"""

import argparse
import collections
import dataclasses
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from bench_processes import Tee, cpu_seconds, print_row, process_tree, target

BASELINE = "pgbouncer"
# The memory of these is worth comparing: the others need a process or a server connection for each client.
HOLD_IDLE_CLIENTS = ("pgbouncer", "forebay-off", "forebay-on")
# Those with a queue. The last one's pool is larger and spread over the data threads; it takes part in nothing else.
HAVE_A_QUEUE = ("pgbouncer", "forebay-off", "forebay-spread")
SPREAD = "forebay-spread"


@dataclasses.dataclass(frozen=True)
class Run:
    tps: float
    latency_ms: float
    cpu_us: float


def pss_kib(root):
    """Proportional set size of the tree."""
    total = 0
    for pid in process_tree(root):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total


def pgbench(program, target, clients, mode, seconds):
    """One run; a Run, or the reason why there is none."""
    command = [program, "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(seconds)]
    command += ["-h", "127.0.0.1", "-p", str(target.port), "-U", "bench", "bench"]
    before = cpu_seconds(target.pid)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 3 + 30)
    except subprocess.TimeoutExpired:
        return "pgbench did not end in time"
    cpu = cpu_seconds(target.pid) - before
    count = re.search(r"actually processed: (\d+)", done.stdout)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    latency = re.search(r"latency average = ([\d.]+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if done.returncode or not (count and tps and latency) or not int(count[1]) or (failed and int(failed[1])):
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        return (errors or done.stderr.splitlines() or ["pgbench gave no result"])[0]
    return Run(float(tps[1]), float(latency[1]), 1e6 * cpu / int(count[1]))


def table_of_runs(options, targets, out):
    """All modes, numbers of clients and poolers; every target once in each round."""
    print_row(out, ["mode", "clients", "pooler", "tps", "latency ms", "CPU us/transaction", "CPU ratio", "tps ratio"])
    print_row(out, ["---"] * 3 + ["---:"] * 5)
    reasons = {}
    for mode in options.modes.split():
        for clients in map(int, options.clients.split()):
            rounds = []
            for _ in range(options.rounds):
                results = {target: pgbench(options.pgbench, target, clients, mode, options.secs) for target in targets}
                for target, result in results.items():
                    if isinstance(result, str):
                        reasons.setdefault((target.name, mode), result)
                rounds.append({target.name: result for target, result in results.items() if isinstance(result, Run)})
            for target in targets:
                print_row(out, [mode, clients, target.name, *figures(target.name, rounds)])
    for (name, mode), reason in reasons.items():
        print(f"\n{name}, {mode}: at least one run without a result: {reason}", file=out)


def figures(name, rounds):
    runs = [round_[name] for round_ in rounds if name in round_]
    if not runs:
        return ["-"] * 5
    pairs = [(round_[name], round_[BASELINE]) for round_ in rounds if name in round_ and BASELINE in round_]
    # A run too short for a tick of the clock has no CPU to compare with.
    cpu = [mine.cpu_us / base.cpu_us for mine, base in pairs if base.cpu_us]
    tps = [mine.tps / base.tps for mine, base in pairs]
    return [
        f"{statistics.median(run.tps for run in runs):.0f}",
        f"{statistics.median(run.latency_ms for run in runs):.2f}",
        f"{statistics.median(run.cpu_us for run in runs):.1f}",
        f"{statistics.median(cpu):.2f}" if cpu else "-",
        f"{statistics.median(tps):.2f}" if tps else "-",
    ]


def table_of_waits(options, targets, out):
    """How evenly many clients are served: each transaction's time, and how many each client got done."""
    print(f"\nFairness: {options.waiting} clients, simple, {options.secs} s; times in ms, medians of {options.rounds} rounds:\n",
          file=out)
    print_row(out, ["pooler", "p50", "p99", "p99 / p50", "longest", "transactions of the slowest / fastest client"])
    print_row(out, ["---"] + ["---:"] * 5)
    chosen = [target for target in targets if target.name in HAVE_A_QUEUE]
    rounds = [{target.name: waits(options, target) for target in chosen} for _ in range(options.rounds)]
    for target in chosen:
        found = [round_[target.name] for round_ in rounds if round_[target.name]]
        if not found:
            print_row(out, [target.name] + ["-"] * 5)
            continue
        p50, p99, longest, share = (statistics.median(column) for column in zip(*found))
        print_row(out, [target.name, f"{p50:.2f}", f"{p99:.2f}", f"{p99 / p50:.2f}", f"{longest:.1f}", f"{share:.2f}"])


def waits(options, target):
    """p50, p99 and the longest of the times of one run in ms, and the least over the most transactions of a client."""
    with tempfile.TemporaryDirectory() as folder:
        command = [options.pgbench, "-n", "-S", "-c", str(options.waiting), "-j", "1", "-T", str(options.secs), "-l",
                   "--log-prefix", f"{folder}/log", "-h", "127.0.0.1", "-p", str(target.port), "-U", "bench", "bench"]
        try:
            subprocess.run(command, capture_output=True, timeout=options.secs * 3 + 30, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None
        times, done = [], collections.Counter()
        for name in os.listdir(folder):
            with open(f"{folder}/{name}") as log:
                for line in log:
                    client, _, microseconds, *_ = line.split()
                    times.append(int(microseconds) / 1000)
                    done[client] += 1
    if not times:
        return None
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100], times[-1], min(done.values()) / max(done.values())


def exchange(connection, message):
    """Sends a message and reads on until the server is ready for a query."""
    connection.sendall(message)
    answer = b""
    while not answer.endswith(b"Z\x00\x00\x00\x05I"):
        part = connection.recv(65536)
        if not part:
            raise OSError(f"closed by the pooler: {answer[-200:]!r}")
        answer += part


def idle_client(port):
    """A client that has logged in without a password and run one query."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    parameters = b"user\0bench\0database\0bench\0\0"
    exchange(connection, struct.pack("!II", len(parameters) + 8, 3 << 16) + parameters)
    exchange(connection, b"Q" + struct.pack("!I", 13) + b"SELECT 1\0")
    return connection


def table_of_idle_clients(targets, count, out):
    print(f"\nMemory (PSS) for {count} idle clients, each of which has run one query:\n", file=out)
    print_row(out, ["pooler", "KiB per client"])
    print_row(out, ["---", "---:"])
    for target in targets:
        if target.name not in HOLD_IDLE_CLIENTS:
            continue
        clients = []
        before = pss_kib(target.pid)
        try:
            for _ in range(count):
                clients.append(idle_client(target.port))
            # Buffers that are given back after a while should be.
            time.sleep(3)
            print_row(out, [target.name, f"{(pss_kib(target.pid) - before) / count:.2f}"])
        except OSError as error:
            print_row(out, [target.name, f"- (after {len(clients)} clients: {error})"])
        finally:
            for connection in clients:
                connection.close()


def main():
    # An exception, so that a running pgbench is killed and waited for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pgbench", required=True)
    parser.add_argument("--clients", required=True)
    parser.add_argument("--modes", required=True)
    parser.add_argument("--secs", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--idle", type=int, required=True)
    parser.add_argument("--waiting", type=int, required=True)
    parser.add_argument("--table", required=True, help="a file that gets the tables, too")
    parser.add_argument("targets", type=target, nargs="+", metavar="NAME=PORT:PID")
    options = parser.parse_args()
    out = Tee(options.table)
    # Memory first: freed memory of a busy time before would hide what the clients need.
    if options.idle:
        table_of_idle_clients(options.targets, options.idle, out)
        print(file=out)
    table_of_runs(options, [target for target in options.targets if target.name != SPREAD], out)
    if options.waiting:
        table_of_waits(options, options.targets, out)


main()
