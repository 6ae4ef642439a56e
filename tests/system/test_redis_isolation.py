"""Many clients on few shared connections: each gets its own replies, and what one does wrong is felt by nobody else."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import redis_model, wait_until
from harness.redis_wire import command
from harness.wire import Closed


def in_threads(work, count):
    """Runs `work(number)` for each number at the same time; raises what the first of them raised."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, number) for number in range(count)]:
            future.result()


@pytest.mark.parametrize("protocol", [2, 3])
def test_each_of_fifty_clients_gets_only_its_own_replies(redis_target, name, protocol):
    def work(number):
        chance = random.Random(number)
        mark = f"{name}:{number}"
        model = redis_model.Client(mark, chance, databases=(0, 1, 2), large=200_000)
        with redis_target.wire(timeout=60) as wire:
            wire.ask("HELLO", protocol)
            for _ in range(25):
                redis_model.check(wire, *model.pipeline(chance.choice([1, 2, 5, 40, 150])), mark)
    in_threads(work, 50)


def test_clients_of_both_protocols_and_many_databases_share_a_server(redis_target, name):
    def work(number):
        database, mark = number % 16, f"{name}:{number}"
        with redis_target.wire(timeout=60) as wire:
            wire.ask("HELLO", 2 + number % 2)
            wire.ask("SELECT", database)
            for round_number in range(30):
                replies = wire.pipeline(
                    ("HSET", mark, "f", round_number), ("HGETALL", mark), ("GET", f"{mark}:no"),
                    ("CLIENT", "SETNAME", f"n{number}"), ("CLIENT", "GETNAME"))
                pairs = [(b"f", b"%d" % round_number)] if number % 2 else [b"f", b"%d" % round_number]
                assert replies == [int(round_number == 0), pairs, None, b"OK", b"n%d" % number]
    in_threads(work, 32)


class Watchers:
    """Clients that work all the while and note what went wrong."""

    def __init__(self, endpoint, name, count=4):
        self.rounds = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._work = [self._pool.submit(self._watch, endpoint, f"{name}:w{number}") for number in range(count)]

    def _watch(self, endpoint, mark):
        number = 0
        with endpoint.wire(timeout=30) as wire:
            while not self._stop.is_set():
                number += 1
                value = f"{mark}-{number}".encode()
                replies = wire.pipeline(("SET", mark, value), ("GET", mark), ("INCR", mark + ":n"), ("ECHO", value))
                assert replies == [b"OK", value, number, value]
                self.rounds += 1
        return number

    def __enter__(self):
        wait_until(lambda: self.rounds > 20, 20, "the watchers to work")
        return self

    def __exit__(self, *_):
        self._stop.set()
        for work in self._work:
            work.result(60)
        self._pool.shutdown()


def test_a_client_that_does_not_read_slows_only_itself(redis_target, name):
    value = b"0123456789abcdef" * (1 << 16)  # 1 MiB
    with redis_target.wire() as wire:
        wire.ask("SET", name, value)
    slow = redis_target.wire(receive_buffer=4096, timeout=60)
    with Watchers(redis_target, name) as watchers:
        slow.send(*[command("GET", name)] * 100)
        before = watchers.rounds
        # It reads nothing before they have come so far.
        wait_until(lambda: watchers.rounds > before + 300, 60, "300 rounds of the others")
        for _ in range(100):
            assert slow.read() == value
    assert slow.ask("PING") == b"PONG"


def test_replies_that_nobody_reads_are_not_kept_in_memory(redis_forebay, name):
    value = b"x" * (1 << 20)
    endpoint = redis_forebay.redis()
    endpoint.wire().ask("SET", name, value)
    before = redis_forebay.rss_kib()
    slow = [endpoint.wire(receive_buffer=4096) for _ in range(4)]
    for wire in slow:
        wire.send(*[command("GET", name)] * 100)  # 400 MiB in all
    other, highest = endpoint.wire(), 0
    for _ in range(300):
        assert other.ask("ECHO", name) == name.encode()
        highest = max(highest, redis_forebay.rss_kib())
    assert highest - before < 64 * 1024, f"grew from {before} to {highest} KiB"


def test_half_a_large_value_holds_up_nobody_else(redis_target, name):
    request = command("SET", name, b"z" * 50_000_000)
    slow = redis_target.wire(timeout=60)
    with Watchers(redis_target, name) as watchers:
        slow.send(request[:25_000_000])
        before = watchers.rounds
        wait_until(lambda: watchers.rounds > before + 100, 60, "the others to work")
        slow.send(request[25_000_000:])
        assert slow.read() == b"OK"
    assert slow.ask("STRLEN", name) == 50_000_000


def half(data):
    """The first half."""
    return data[:len(data) // 2]


RUDE = {
    "in a pipeline": lambda name: b"".join(command("INCR", name) for _ in range(200)),
    "in a request": lambda name: command("INCR", name) * 5 + half(command("INCR", name)),
    "in a transaction": lambda name: command("MULTI") + command("INCR", name) * 20,
    "in half a transaction's EXEC": lambda name: command("MULTI") + command("INCR", name) * 20 + half(command("EXEC")),
    "right behind EXEC": lambda name: command("MULTI") + command("INCR", name) * 20 + command("EXEC"),
    "in a large value": lambda name: half(command("SET", name, b"1" * 3_000_000)),
    "while it watches": lambda name: command("WATCH", name) + command("GET", name),
    "while it blocks": lambda name: command("BLPOP", name + ":l", 0),
    "while it is subscribed": lambda name: command("SUBSCRIBE", name) + command("PSUBSCRIBE", name + "*"),
    "in another database": lambda name: command("SELECT", 5) + command("INCR", name) * 50,
    "without replies": lambda name: command("CLIENT", "REPLY", "OFF") + command("INCR", name) * 50,
    "in a large reply": lambda name: command("EVAL", "return string.rep('x', 5000000)", 0) * 3,
    "in bad input": lambda name: command("INCR", name) * 10 + b"*1\r\n!bad\r\n",
}


@pytest.mark.parametrize("words", RUDE.values(), ids=RUDE.keys())
@pytest.mark.parametrize("farewell", ["close", "reset"])
def test_a_client_that_leaves_disturbs_nobody(redis_target, shared_redis, name, words, farewell):
    with Watchers(redis_target, name) as watchers:
        for _ in range(15):
            rude = redis_target.wire()
            rude.send(words(name))
            getattr(rude, farewell)()
        before = watchers.rounds
        wait_until(lambda: watchers.rounds > before + 20, 30, "the others to work on")
    primary = shared_redis.nodes[0]
    wait_until(lambda: primary.info("clients")["blocked_clients"] == 0, 10, "nobody to be blocked any more")
    wait_until(lambda: primary.run("PUBSUB", "NUMSUB", name)[1] == 0, 10, "nobody to be subscribed any more")
    counted = int(primary.run("GET", name) or 0)
    if words(name).startswith(command("MULTI")):
        assert counted % 20 == 0, "a transaction ran by halves"


STATES = {
    "a watched key": [("WATCH", "{name}"), ("GET", "{name}")],
    "an open transaction": [("MULTI",), ("SET", "{name}", 1)],
    "a transaction while a key is watched": [("WATCH", "{name}"), ("MULTI",), ("SET", "{name}", 1)],
    "a transaction that will be refused": [("WATCH", "{name}"), ("MULTI",), ("NOSUCH",)],
    "another database": [("SELECT", 9), ("WATCH", "{name}")],
    "channels": [("SUBSCRIBE", "{name}"), ("PSUBSCRIBE", "{name}*")],
    "tracking": [("CLIENT", "TRACKING", "ON"), ("GET", "{name}")],
    "tracking that has ended": [("CLIENT", "TRACKING", "ON"), ("GET", "{name}"), ("CLIENT", "TRACKING", "OFF")],
    "tracking of a prefix": [("CLIENT", "TRACKING", "ON", "BCAST")],
    "tracking of a prefix that has ended": [("CLIENT", "TRACKING", "ON", "BCAST"), ("CLIENT", "TRACKING", "OFF")],
    "tracking that was asked for": [("CLIENT", "TRACKING", "ON", "OPTIN"), ("CLIENT", "CACHING", "YES")],
    "a name": [("CLIENT", "SETNAME", "somebody"), ("WATCH", "{name}")],
    "no eviction": [("CLIENT", "NO-EVICT", "ON"), ("WATCH", "{name}")],
    "no replies": [("WATCH", "{name}"), ("CLIENT", "REPLY", "OFF")],
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_nothing_of_a_client_is_left_to_the_next(redis_target, shared_redis, name, state, protocol):
    def fill(words):
        return [word.format(name=name) if isinstance(word, str) else word for word in words]

    for number in range(5):
        with redis_target.wire() as first:
            first.ask("HELLO", protocol)
            first.send(*(command(*fill(words)) for words in state))
            if state[-1][-1] != "OFF":
                for _ in state:
                    first.read()
        seconds = [redis_target.wire() for _ in range(4)]
        for second in seconds:
            second.ask("HELLO", protocol)
            # Each of these takes a connection that may have been the first one's.
            assert second.ask("BLPOP", name + ":none", 0.01) is None
            assert second.ask("WATCH", name + ":mine") == b"OK"
        shared_redis.nodes[0].run("SET", name, number)
        shared_redis.nodes[0].run("FLUSHDB")  # tells everybody who tracks
        shared_redis.nodes[0].run("SET", name, number)
        for second in seconds:
            assert second.ask("UNWATCH") == b"OK"
            assert second.pipeline(("MULTI",), ("GET", name), ("EXEC",)) == [b"OK", b"QUEUED", [b"%d" % number]]
            assert second.pipeline(("CLIENT", "GETNAME"), ("EXEC",))[1] == "ERR EXEC without MULTI"
            assert second.ask("CLIENT", "GETNAME") is None
            assert second.nothing_comes(0.01), f"somebody else's: {bytes(second.unread())!r}"
            second.close()


def test_a_transaction_of_a_client_that_left_never_runs(redis_target, name):
    for _ in range(20):
        rude = redis_target.wire()
        rude.send(command("MULTI"), command("INCR", name), half(command("EXEC")))
        rude.reset()
    other = redis_target.wire()
    assert other.pipeline(("GET", name), ("INCR", name)) == [None, 1]


def test_what_was_sent_whole_before_leaving_may_run_once_only(redis_target, name):
    for number in range(30):
        rude = redis_target.wire()
        rude.send(*(command("RPUSH", name, f"{number}-{part}") for part in range(20)))
        rude.reset()
    other = redis_target.wire()
    wait_until(lambda: _settled(other, name), 10, "the last of them to have run")
    found = other.ask("LRANGE", name, 0, -1)
    assert len(found) == len(set(found)), "something ran twice"
    for number in range(30):
        parts = [int(value.split(b"-")[1]) for value in found if value.startswith(b"%d-" % number)]
        assert parts == list(range(len(parts))), "a client's commands ran out of order or with gaps"


def _settled(wire, name):
    # Nothing tells that the last of those who left has been heard; two equal looks must do.
    before = wire.ask("LLEN", name)
    time.sleep(0.1)
    return wire.ask("LLEN", name) == before


BAD = [b"*1\r\n!\r\n", b"*abc\r\n", b"*1\r\n$-5\r\n", b"GET \"x\r\n", b"*2147483648\r\n", b"*1\r\n$536870913\r\n"]


def test_bad_input_closes_only_the_client_that_sent_it(redis_target, name):
    with Watchers(redis_target, name) as watchers:
        for bad in BAD * 5:
            wire = redis_target.wire()
            wire.send(command("INCR", name + ":bad"), bad)
            assert wire.wait_closed().startswith(b":")
        before = watchers.rounds
        wait_until(lambda: watchers.rounds > before + 20, 30, "the others to work on")


def test_deep_replies_pass_or_end_in_an_error_and_disturb_nobody(redis_target, name):
    with Watchers(redis_target, name):
        for depth in (8, 31, 100, 1000, 5000):
            wire = redis_target.wire()
            wire.order("EVAL", "local t = {} for i = 1, tonumber(ARGV[1]) do t = {t} end return t", 0, depth)
            whole = b"*1\r\n" * depth + b"*0\r\n"
            try:
                begin = wire.take(1)
                came = begin + wire.take(len(whole) - 1) if begin == b"*" else begin
            except Closed:
                assert depth > 31, f"closed at a depth of {depth}"
                continue  # only this client may notice
            assert came in (whole, b"-"), f"depth {depth}: {came[:100]!r}"


def test_server_connections_do_not_grow_with_clients(redis_forebay, shared_redis, name):
    primary = shared_redis.nodes[0]
    endpoint = redis_forebay.redis()
    before = primary.info("clients")["connected_clients"]
    wires = [endpoint.wire() for _ in range(300)]
    for wire in wires:
        wire.order("INCR", name)
    assert sorted(wire.read() for wire in wires) == list(range(1, 301))
    assert primary.info("clients")["connected_clients"] < before + 30


def test_dedicated_connections_are_given_back(redis_forebay, shared_redis, name):
    primary, endpoint = shared_redis.nodes[0], redis_forebay.redis()
    before = primary.info("clients")["connected_clients"]
    for _ in range(3):
        wires = [endpoint.wire() for _ in range(40)]
        for number, wire in enumerate(wires):
            assert wire.ask("WATCH", name) == b"OK"
            if number % 4 == 0:
                assert wire.pipeline(("MULTI",), ("EXEC",)) == [b"OK", []]
            elif number % 4 == 1:
                assert wire.ask("SUBSCRIBE", name)[0] == b"subscribe"
            elif number % 4 == 2:
                assert wire.ask("BLPOP", name + ":l", 0.01) is None
            wire.close()
    wait_until(lambda: primary.info("clients")["connected_clients"] < before + 60, 15, "connections to be given back")
