"""Clients that go on on another thread when theirs has no time left: nobody notices anything."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from harness import wait_until
from harness.redis_ledger import Incrementer, Ledger, Pusher
from harness.redis_wire import command

MOVED = "clients move to another thread"
MANY = 5000
QUESTIONS, ANSWERS = command("PING") * MANY, b"+PONG\r\n" * MANY


@contextlib.contextmanager
def load(forebay, endpoint):
    """More than one thread can do, for as long as it is needed: 16 clients whose many small requests cost those who ask
    next to nothing. Forebay answers them itself, so that nobody else is busy either."""
    put_first(forebay.pid)
    over, wires = threading.Event(), [endpoint.wire(timeout=60) for _ in range(16)]

    def ask(wire):
        while not over.is_set():
            wire.send(QUESTIONS)
            assert wire.take(len(ANSWERS)) == ANSWERS
    with ThreadPoolExecutor(len(wires)) as pool:
        asking = [pool.submit(ask, wire) for wire in wires]
        try:
            yield
        finally:
            over.set()
        for work in asking:
            work.result(60)


def put_first(*processes):
    """On a machine with other work a thread may otherwise never get enough of a core to be called busy."""
    for number in processes if os.geteuid() == 0 else ():
        for thread in psutil.Process(number).threads():
            os.setpriority(os.PRIO_PROCESS, thread.id, -20)
        # Where sessions share the machine, as many kernels have it, this is what counts between them.
        with contextlib.suppress(OSError):
            Path(f"/proc/{number}/autogroup").write_text("-20", "ascii")


def spent(forebay):
    """Seconds that each data thread has computed, by its name."""
    process = psutil.Process(forebay.pid)
    names = {}
    for thread in process.threads():
        with open(f"/proc/{forebay.pid}/task/{thread.id}/comm", encoding="utf-8") as name:
            names[name.read().strip()] = thread.user_time + thread.system_time
    return {name: seconds for name, seconds in names.items() if name.startswith("data-")}


def assert_replies_in_order(ledger):
    """Each counter of one client alone counts up by one, reply by reply."""
    for writer in ledger.writers:
        if isinstance(writer, (Incrementer, Pusher)):
            replies = [entry.reply for entry in writer.entries]
            assert replies == list(range(1, len(replies) + 1)), f"{writer.key}: {replies[:20]}"


@pytest.fixture
def lonely(new_redis):
    """A server without replicas, so that Forebay's thread is what has the least time."""
    return new_redis(replicas=0, sentinels=0)


def test_clients_move_to_a_thread_that_has_time_and_lose_nothing(lonely, start_forebay, name):
    forebay = start_forebay(redis=[lonely.service(by="nodes")], config={"general": {"threads": 2}})
    endpoint = forebay.redis()
    with Ledger(endpoint, name) as first, Ledger(endpoint, name + ":more") as second:
        quiet = spent(forebay)
        assert len(quiet) == 2 and MOVED not in forebay.log(), "one thread is home to all, as long as it has time"
        with load(forebay, endpoint):
            forebay.wait_log(MOVED, timeout=60)
            moved = spent(forebay)
            idle = min(moved, key=lambda thread: moved[thread] - quiet[thread])
            wait_until(lambda: spent(forebay)[idle] > moved[idle] + 0.5, 60, f"{idle} to work, too")
            for ledger in (first, second):
                ledger.wait_acknowledged(100)
        for ledger in (first, second):
            ledger.wait_acknowledged(100)
    for ledger in (first, second):
        verdict = ledger.judge(lonely.nodes[0])
        print(f"moved between threads: {verdict}; longest pause {ledger.longest_pause() * 1000:.0f} ms")
        verdict.assert_sound()
        verdict.assert_nothing_lost()
        assert verdict.unknown == 0 and not verdict.read_errors
        assert_replies_in_order(ledger)


def test_what_a_client_has_set_goes_with_it(lonely, start_forebay, name):
    forebay = start_forebay(redis=[lonely.service(by="nodes")], config={"general": {"threads": 2}})
    endpoint = forebay.redis()
    wires = [endpoint.wire(timeout=60) for _ in range(60)]
    numbers = {}
    for n, wire in enumerate(wires):
        wire.ask("HELLO", 3 if n % 2 else 2)
        assert wire.pipeline(("SELECT", n % 10), ("CLIENT", "SETNAME", f"c{n}"), ("HSET", f"{name}:{n}", "f", n)) == [
            b"OK", b"OK", 1]
        numbers[n] = wire.ask("CLIENT", "ID")
    watching, listening = endpoint.wire(timeout=60), endpoint.wire(timeout=60)
    assert watching.pipeline(("WATCH", name), ("MULTI",), ("SET", name, 1)) == [b"OK", b"OK", b"QUEUED"]
    assert listening.ask("SUBSCRIBE", name)[2] == 1
    with load(forebay, endpoint):
        forebay.wait_log(MOVED, timeout=60)
        for _ in range(3):
            for n, wire in enumerate(wires):
                expected = [(b"f", b"%d" % n)] if n % 2 else [b"f", b"%d" % n]
                replies = wire.pipeline(("HGETALL", f"{name}:{n}"), ("CLIENT", "GETNAME"), ("CLIENT", "ID"))
                assert replies == [expected, b"c%d" % n, numbers[n]]
        # Who is in the middle of something stays where it is.
        assert watching.ask("EXEC") == [b"OK"]
        assert wires[0].ask("PUBLISH", name, "x") == 1 and listening.read() == [b"message", name.encode(), b"x"]
    assert len(endpoint.client().client_list()) >= len(wires) + 2
