"""Runs pgbench through Forebay with and without junk connections in turn; called by scripts/bench-junk."""

import argparse
import contextlib
import os
import re
import socket
import statistics
import struct
import subprocess
import threading
import time

STARTUP = struct.pack("!II", 33, 3 << 16) + b"user\0bench\0database\0b"
SSL_REQUEST = struct.pack("!II", 8, 1234 << 16 | 5679)
WHOLE = b"user\0bench\0database\0bench\0\0"
LOGIN = struct.pack("!II", len(WHOLE) + 8, 3 << 16) + WHOLE
FIRST = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
SASL = b"SCRAM-SHA-256\0" + struct.pack("!I", len(FIRST)) + FIRST
WRONG = b"p" + struct.pack("!I", len(SASL) + 4) + SASL + b"p" + struct.pack("!I", 9) + b"wrong"

# What each kind says; it then waits for its end.
KINDS = {
    "nothing": b"",
    "junk bytes": b"\xff" * 64,
    "half a startup packet": STARTUP,
    "half a TLS handshake": SSL_REQUEST,
    "a wrong password": LOGIN,
}


def disturb(port, count, seconds, stop, done):
    """Opens `count` connections of all kinds, evenly over `seconds`, from many addresses; closes them at the end."""
    kinds, kept, begin = list(KINDS.items()), [], time.monotonic()
    for number in range(count):
        wait = begin + number * seconds / count - time.monotonic()
        if stop.wait(max(wait, 0)):
            break
        name, said = kinds[number % len(kinds)]
        one = socket.socket()
        one.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: a port for each pair of addresses
        one.bind((f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0))
        one.settimeout(2)
        with contextlib.suppress(OSError):
            one.connect(("127.0.0.1", port))
            one.sendall(said)
            if name.startswith("half a TLS"):
                one.recv(1)
                one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
            elif name.startswith("a wrong"):
                one.recv(100)
                one.sendall(WRONG)
            done.append(name)
        kept.append(one)
    stop.wait()
    for one in kept:
        one.close()


def pgbench(arguments):
    """Transactions a second."""
    command = [
        arguments.pgbench, "-n", "-S", "-M", "prepared", "-c", arguments.clients, "-j", "2", "-T", arguments.secs,
        "-h", "127.0.0.1", "-p", arguments.port, "-U", "bench", "bench"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, "PGSSLMODE": "disable"})
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise SystemExit(f"pgbench failed:\n{done.stdout}{done.stderr}")
    return float(found[1])


def resident(pid):
    """MiB"""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pgbench", required=True)
    for name in ("port", "clients", "secs", "rounds", "junk", "pid"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    pgbench(argparse.Namespace(**{**vars(arguments), "secs": 1}))  # warm
    ratios = []
    print("| round | without, tps | with junk, tps | ratio | junk connections | MiB |\n|---|---|---|---|---|---|", flush=True)
    for number in range(arguments.rounds):
        # In turn, now the one first and now the other, so that drift of the machine hits both alike.
        told = {}
        for with_junk in ((False, True), (True, False))[number % 2]:
            stop, done = threading.Event(), []
            crowd = threading.Thread(
                target=disturb, args=(arguments.port, arguments.junk, arguments.secs, stop, done), daemon=True)
            if with_junk:
                crowd.start()
            told[with_junk] = pgbench(arguments)
            if with_junk:
                count, memory = len(done), resident(arguments.pid)
                stop.set()
                crowd.join()
        ratios.append(told[True] / told[False])
        print(f"| {number + 1} | {told[False]:.0f} | {told[True]:.0f} | {ratios[-1]:.3f} | {count} | {memory:.0f} |", flush=True)
    print(f"\nmedian ratio: {statistics.median(ratios):.3f}")


main()
