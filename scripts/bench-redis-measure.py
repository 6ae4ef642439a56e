#!/usr/bin/env python3
"""The measurements of scripts/bench-redis: one Redis, the proxies in front of it, and redis-benchmark in turn.

CPU is user and system time of all threads from /proc/PID/stat, in microseconds per command. A figure is the median
over the rounds; a ratio is the median of the ratios of each round, against the better of HAProxy and twemproxy in it.
"""

import argparse
import contextlib
import csv
import dataclasses
import os
import pathlib
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from bench_processes import Tee, cpu_seconds, print_row

RIVALS = ("haproxy", "twemproxy")
PIPELINE = 16
VALUE_BYTES = 64
KEYS = 10_000


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    port: int
    # Redis itself for the direct way.
    pid: int


@dataclasses.dataclass(frozen=True)
class Case:
    command: str
    clients: int
    pipeline: int

    def __str__(self):
        return f"{self.command.upper()} {self.clients}" + (f" -P {self.pipeline}" if self.pipeline > 1 else "")


@dataclasses.dataclass(frozen=True)
class Run:
    rate: float
    p99_ms: float
    proxy_us: float
    redis_us: float
    client_us: float
    commands_per_read: float


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def answer(port, *words, timeout=10):
    """The bytes of the answer to one short request; bulk strings and lines only."""
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as file:
            head = file.readline()
            if head.startswith(b"$") and head != b"$-1\r\n":
                return file.read(int(head[1:]) + 2)[:-2]
            return head.strip()


def info(port):
    lines = answer(port, b"INFO", b"stats").decode().splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def peak_kib(pid):
    """The most memory that the process had at once since `forget_peak`, and what it has now."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]), int(fields["VmRSS"].split()[0])


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


class Servers:
    """What was started: each in a session of its own, in a folder that goes when they do."""

    def __init__(self, keep):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="forebay-bench-redis."))
        self.keep = keep
        self.processes = []

    def start(self, name, *command):
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen([str(word) for word in command], cwd=self.folder, stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def ready(self, name, process, port):
        """The target once it answers, or None, and says why."""
        end, reason = time.monotonic() + 15, "no answer"
        while time.monotonic() < end and process.poll() is None:
            try:
                reply = answer(port, b"GET", b"nothing", timeout=2)
                if reply == b"$-1":
                    print(f"   {name} at port {port}", flush=True)
                    return Target(name, port, process.pid)
                reason = reply.decode(errors="replace")
            except (OSError, ValueError) as error:
                reason = str(error)
            time.sleep(0.1)
        last = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-3:]
        print(f"   {name} does not serve and is left out: {reason}", *last, sep="\n      ", flush=True)
        return None

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self.keep:
            print(f"configuration files, logs and tables: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def start_redis(servers):
    port = free_port()
    process = servers.start("redis", "redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "",
                            "--appendonly", "no", "--maxclients", 10_000, "--dir", servers.folder)
    return servers.ready("direct", process, port)


def start_haproxy(servers, redis):
    port = free_port()
    (servers.folder / "haproxy.cfg").write_text(f"""global
    maxconn 9500
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen redis
    bind 127.0.0.1:{port}
    server redis 127.0.0.1:{redis.port}
""")
    return servers.ready("haproxy", servers.start("haproxy", "haproxy", "-db", "-f", "haproxy.cfg"), port)


def start_twemproxy(servers, redis):
    port, stats_port = free_port(), free_port()
    (servers.folder / "nutcracker.yml").write_text(f"""bench:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  backlog: 1024
  servers:
   - 127.0.0.1:{redis.port}:1
""")
    process = servers.start("twemproxy", "nutcracker", "-c", "nutcracker.yml", "-a", "127.0.0.1", "-s", stats_port,
                            "-p", "nutcracker.pid", "-o", "nutcracker.log")
    return servers.ready("twemproxy", process, port)


def start_forebay(servers, redis, program):
    port = free_port()
    (servers.folder / "state").mkdir()
    (servers.folder / "forebay.toml").write_text(f"""[general]
state_dir = "{servers.folder}/state"
[admin]
listen = []
[postgres]
listen = []
[[redis.service]]
name = "bench"
listen = ["127.0.0.1:{port}"]
nodes = ["127.0.0.1:{redis.port}"]
""")
    return servers.ready("forebay", servers.start("forebay", program, "run", "-c", "forebay.toml"), port)


def fill(port):
    """All keys that redis-benchmark will ask for: GET finds them."""
    value = b"v" * VALUE_BYTES
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as replies:
        for number in range(KEYS):
            connection.sendall(b"SET key:%012d %s\r\n" % (number, value))
            if replies.readline() != b"+OK\r\n":
                raise OSError("Redis does not take the values")


def benchmark(target, redis, case, requests, patience, processes):
    """One run of redis-benchmark; a Run, or the reason why there is none."""
    command = ["redis-benchmark", "-h", "127.0.0.1", "-p", target.port, "-t", case.command, "-c", case.clients // processes,
               "-P", case.pipeline, "-n", requests // processes, "-d", VALUE_BYTES, "-r", KEYS, "--csv"]
    before, cpu, redis_cpu = info(redis.port), cpu_seconds(target.pid), cpu_seconds(redis.pid)
    client_cpu = children_seconds()
    command = [str(word) for word in command]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(processes)]
    try:
        said = [process.communicate(timeout=patience) for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
            process.communicate()
        return "redis-benchmark did not end in time"
    cpu, redis_cpu = cpu_seconds(target.pid) - cpu, cpu_seconds(redis.pid) - redis_cpu
    client_cpu = children_seconds() - client_cpu
    after = info(redis.port)
    rows = []
    for process, (out, err) in zip(running, said):
        table = list(csv.DictReader(out[out.find('"test"'):].splitlines())) if '"test"' in out else []
        if process.returncode or not table:
            return (err.strip().splitlines() or ["redis-benchmark gave no result"])[-1]
        rows.append(table[0])
    commands, reads = (int(after[name]) - int(before[name]) for name in
                       ("total_commands_processed", "total_reads_processed"))
    # Those that the server did not run, the proxy answered itself.
    if commands < requests * 0.99:
        return f"only {commands} of {requests} commands reached Redis"
    return Run(sum(float(row["rps"]) for row in rows), max(float(row["p99_latency_ms"]) for row in rows), 1e6 * cpu / requests,
               1e6 * redis_cpu / requests, 1e6 * client_cpu / requests, commands / max(reads, 1))


def children_seconds():
    """CPU of all ended children, user and system."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def table_of_runs(options, targets, redis, out):
    print_row(out, ["command, clients", "proxy", "commands/s", "p99 ms", "proxy CPU us", "Redis CPU us",
                    "client CPU us", "commands per read", "proxy CPU / best", "commands/s / best"])
    print_row(out, ["---"] * 2 + ["---:"] * 8)
    cases = [Case(command, clients, 1) for clients in options.clients for command in ("get", "set")]
    cases += [Case(command, clients, PIPELINE) for clients in options.pipelined for command in ("get", "set")]
    reasons = {}
    for case in cases:
        # Each length by a short run before, which also warms up.
        lengths = {}
        for target in targets:
            probe = benchmark(target, redis, case, max(4000, case.clients * case.pipeline * 4), 60,
                              options.processes)
            lengths[target] = max(int(probe.rate * options.secs), 1000) if isinstance(probe, Run) else 0
            if isinstance(probe, str):
                reasons.setdefault((target.name, str(case)), probe)
        rounds = []
        for number in range(options.rounds):
            # Nobody always runs behind the same neighbour.
            turn = targets[number % len(targets):] + targets[:number % len(targets)]
            results = {target.name: benchmark(target, redis, case, lengths[target], options.secs * 10 + 30,
                                              options.processes)
                       for target in turn if lengths[target]}
            for name, result in results.items():
                if isinstance(result, str):
                    reasons.setdefault((name, str(case)), result)
            rounds.append({name: result for name, result in results.items() if isinstance(result, Run)})
        for target in targets:
            print_row(out, [case, target.name, *figures(target.name, rounds)])
    for (name, case), reason in reasons.items():
        print(f"\n{name}, {case}: at least one run without a result: {reason}", file=out)


def figures(name, rounds):
    runs = [round_[name] for round_ in rounds if name in round_]
    if not runs:
        return ["-"] * 8
    median = {field.name: statistics.median(getattr(run, field.name) for run in runs)
              for field in dataclasses.fields(Run)}
    cpu, rate = [], []
    for round_ in rounds:
        rivals = [round_[rival] for rival in RIVALS if rival in round_]
        if name in round_ and rivals:
            rate.append(round_[name].rate / max(rival.rate for rival in rivals))
            # A run too short for a tick of the clock has no CPU to compare with.
            if least := min(rival.proxy_us for rival in rivals):
                cpu.append(round_[name].proxy_us / least)
    is_direct = name == "direct"
    return [
        f"{median['rate']:.0f}",
        f"{median['p99_ms']:.2f}",
        "-" if is_direct else f"{median['proxy_us']:.2f}",
        f"{median['redis_us']:.2f}",
        f"{median['client_us']:.2f}",
        f"{median['commands_per_read']:.2f}",
        f"{statistics.median(cpu):.2f}" if cpu and not is_direct else "-",
        f"{statistics.median(rate):.2f}" if rate else "-",
    ]


def send_large(port, size):
    """SET of a large value, which is made while it is sent."""
    piece = b"v" * (1 << 20)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n" % size)
        left = size
        while left:
            connection.sendall(piece[:left])
            left -= min(left, len(piece))
        connection.sendall(b"\r\n")
        if (reply := connection.recv(100)) != b"+OK\r\n":
            raise OSError(f"SET answered {reply!r}")


def fetch_large(port, size):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n")
        left = len(b"$%d\r\n" % size) + size + 2
        while left:
            got = connection.recv(1 << 20)
            if not got or got.startswith(b"-"):
                raise OSError(f"GET ended {left} bytes early: {got[:100]!r}")
            left -= len(got)


def table_of_memory(megabytes, targets, redis, out):
    print(f"\nMemory for a value of {megabytes} MB, MiB: most at once while it was sent and fetched by one client, and "
          "what is left 3 s later\n", file=out)
    print_row(out, ["proxy", "before", "SET", "GET", "left"])
    print_row(out, ["---"] + ["---:"] * 4)
    size = megabytes * 1_000_000
    for target in targets:
        if target is redis:
            continue
        cells = []
        try:
            for work in (send_large, fetch_large):
                forget_peak(target.pid)
                if not cells:
                    cells.append(peak_kib(target.pid)[1])
                work(target.port, size)
                cells.append(peak_kib(target.pid)[0])
            time.sleep(3)
            cells.append(peak_kib(target.pid)[1])
            print_row(out, [target.name, *(f"{kib / 1024:.1f}" for kib in cells)])
        except (OSError, ValueError) as error:
            print_row(out, [target.name, *(f"{kib / 1024:.1f}" for kib in cells), f"- ({error})"])
        finally:
            answer(redis.port, b"DEL", b"large")


def main():
    # Exceptions, so that what runs is ended and waited for.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))
    numbers = lambda text: [int(number) for number in text.split()]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forebay", type=os.path.abspath, required=True, help="the program")
    parser.add_argument("--clients", type=numbers, required=True)
    parser.add_argument("--pipelined", type=numbers, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--secs", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--megabytes", type=int, required=True)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()

    needed = max(options.clients + options.pipelined) * 2 + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        sys.exit(f"so many clients need {needed} open files, the limit is {soft}: raise it")
    servers = Servers(options.keep)
    try:
        print("\n== Redis and the proxies", flush=True)
        redis = start_redis(servers)
        if redis is None:
            return 1
        targets = [redis, *filter(None, (
            start_haproxy(servers, redis) if shutil.which("haproxy") else None,
            start_twemproxy(servers, redis) if shutil.which("nutcracker") else None,
            start_forebay(servers, redis, options.forebay),
        ))]
        fill(redis.port)
        print(f"\n== Measure: {options.rounds} x {options.secs} s each, values of {VALUE_BYTES} B, {os.cpu_count()} cores"
              "\n", flush=True)
        out = Tee(servers.folder / "table.md")
        table_of_runs(options, targets, redis, out)
        if options.megabytes:
            table_of_memory(options.megabytes, targets, redis, out)
    finally:
        servers.stop()
    return 0


sys.exit(main())
