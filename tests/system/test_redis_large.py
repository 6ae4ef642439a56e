"""Values as large as Redis takes, which pass through Forebay and are never in its memory as a whole."""

import hashlib

import pytest

from harness.redis_wire import command

MIB = 1 << 20
PIECE = bytes(range(256)) * 4096  # 1 MiB


class Watched:
    """The most memory that a Forebay has had since."""

    def __init__(self, forebay):
        self.forebay, self.before = forebay, forebay.rss_kib()
        self.most = self.before

    def look(self):
        """To be called now and then."""
        self.most = max(self.most, self.forebay.rss_kib())

    @property
    def grown(self):
        """KiB"""
        return self.most - self.before


def write(wire, key, pieces, watched):
    """SET of so many pieces, sent one by one."""
    head = command("SET", key, b"")
    assert head.endswith(b"$0\r\n\r\n")
    wire.send(head[:-6] + b"$%d\r\n" % (pieces * len(PIECE)))
    for number in range(pieces):
        wire.send(PIECE)
        if number % 8 == 0:
            watched.look()
    wire.send(b"\r\n")
    assert wire.read() == b"OK"
    watched.look()


def read(wire, key, watched):
    """(length, digest) of what GET answers, taken piece by piece."""
    wire.send(command("GET", key))
    stream = wire.socket.makefile("rb")
    length = int(stream.readline()[1:])
    digest, left = hashlib.sha256(), length
    while left:
        piece = stream.read(min(len(PIECE), left))
        assert piece, f"the connection ended {left} bytes too early"
        digest.update(piece)
        left -= len(piece)
        if left // len(PIECE) % 8 == 0:
            watched.look()
    assert stream.read(2) == b"\r\n"
    return length, digest.hexdigest()


@pytest.fixture
def lonely(new_redis):
    """A server without replicas, which would keep such values a second and a third time."""
    return new_redis(replicas=0, sentinels=0, settings={"maxmemory": "0"})


# Redis' own limit for one value is 512 MiB.
@pytest.mark.parametrize("mebibytes, most", [(100, 4 * 1024), (512, 64 * 1024)])
def test_a_large_value_passes_both_ways_in_little_memory(lonely, start_forebay, name, mebibytes, most):
    forebay = start_forebay(redis=[lonely.service(by="nodes")])
    wire = forebay.redis().wire(timeout=120)
    # Once in small, for what is only needed the first time.
    write(wire, name, 2, Watched(forebay))
    read(wire, name, Watched(forebay))
    watched = Watched(forebay)
    write(wire, name, mebibytes, watched)
    assert wire.ask("STRLEN", name) == mebibytes * MIB
    expected = hashlib.sha256()
    for _ in range(mebibytes):
        expected.update(PIECE)
    assert read(wire, name, watched) == (mebibytes * MIB, expected.hexdigest())
    print(f"{mebibytes} MiB both ways: {watched.grown} KiB more")
    assert watched.grown < most, f"{mebibytes} MiB both ways took {watched.grown} KiB"


def test_what_is_larger_than_redis_takes_is_refused_as_by_redis(redis_target, name):
    wire = redis_target.wire(timeout=30)
    head = command("SET", name, b"")
    wire.send(head[:-6] + b"$%d\r\n" % (512 * MIB + 1))
    assert wire.read() == "ERR Protocol error: invalid bulk length"


LONG = {
    "WATCH": lambda wire, words: wire.ask("WATCH", *words) == b"OK",
    "SUBSCRIBE": lambda wire, words: wire.order("SUBSCRIBE", *words).replies(len(words))[-1][2] == len(words),
    "PSUBSCRIBE": lambda wire, words: wire.order("PSUBSCRIBE", *words).replies(len(words))[-1][2] == len(words),
    "CLIENT LIST": lambda wire, words: wire.ask("CLIENT", "LIST", "ID", *range(10**9, 10**9 + len(words))) == b"",
}


@pytest.mark.parametrize("asked", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
def test_a_long_command_about_the_session_is_taken(redis_target, name, asked, in_pieces):
    wire, count = redis_target.wire(), 30_000
    if in_pieces:
        wire.send = slowly(wire)
    assert asked(wire, [f"{name}:{number:020}" for number in range(count)])


def slowly(wire):
    """As `wire.send`, in pieces of 100 kB."""
    at_once = wire.send

    def send(data):
        for at in range(0, len(data), 100_000):
            at_once(data[at:at + 100_000])
        return wire
    return send


def test_what_is_watched_by_a_long_command_is_watched(redis_target, name):
    wire, keys = redis_target.wire(), [f"{name}:{number:020}" for number in range(30_000)]
    assert wire.pipeline(("INCR", name), ("WATCH", *keys), ("MULTI",), ("INCR", name)) == [1, b"OK", b"OK", b"QUEUED"]
    assert redis_target.wire().ask("SET", keys[-1], "x") == b"OK"
    assert wire.ask("EXEC") is None
    assert wire.pipeline(("MULTI",), ("WATCH", *keys), ("EXEC",))[1] == "ERR WATCH inside MULTI is not allowed"
    assert wire.ask("PING") == b"PONG"


def test_a_command_about_the_session_beyond_16_mib_is_refused_behind_what_is_due(redis_forebay, name):
    wire = redis_forebay.redis().wire(timeout=30)
    wire.send(command("INCR", name), command("WATCH", name), command("INCR", name))
    try:
        wire.send(command("WATCH", *[b"x" * 1_000_000] * 20))
    except ConnectionError:
        pass  # closed before all was sent
    assert wire.replies(3) == [1, b"OK", 2]
    assert wire.read() == "ERR Protocol error: this command may not be longer than 16 MiB"
