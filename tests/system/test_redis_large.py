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
