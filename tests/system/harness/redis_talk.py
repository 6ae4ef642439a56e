"""Conversations with Redis, held twice and compared byte for byte: with the server itself, then with what is tested.

A talk is a list of steps. A step that is a string is one request, its words the arguments, and reads one reply; a
tuple is the same with arguments that are no plain words. The functions below make all other steps. Connections have
names and are opened when they are first used; that of a plain step is "a".

    ["MULTI", "INCR k", by("b", "GET k"), "EXEC", closes()]

What comes is written down with what was said. At the end it is also noted which connections are still open and what
came without being asked for, so that nothing needs to be checked in the steps themselves.
"""

import re

from harness.redis_wire import Silence, command
from harness.waiting import wait_until
from harness.wire import Closed

PATIENCE = 8  # seconds for a reply; what blocks in a talk does so for less


class Talk:
    """One conversation while it is held with `endpoint`, whose data are in `primary`."""

    def __init__(self, endpoint, primary, protocol):
        self.endpoint, self.primary, self.protocol = endpoint, primary, protocol
        self.notes = []  # (what was said, the bytes that came)
        self.mask = None
        self._wires, self._labels = {}, {}

    def wire(self, who):
        """The connection of that name."""
        if who not in self._wires:
            self._wires[who] = wire = self.endpoint.wire(timeout=PATIENCE)
            if self.protocol == 3:
                wire.order("HELLO", 3).read()
        return self._wires[who]

    def send(self, who, data, said=None):
        """Sends bytes; one who is gone already is noted."""
        try:
            self.wire(who).send(data)
        except OSError:
            self.note(who, said or data, b"<gone>")

    def hear(self, who, count, said=""):
        """Notes `count` replies, or that there are fewer."""
        came = b""
        try:
            for _ in range(count):
                came += self.wire(who).reply().raw
        except Closed:
            came += b"<closed>"
        except Silence:
            self.note(who, said, came + b"<silence>")
            raise
        self.note(who, said, came)

    def note(self, who, said, came):
        """Writes down what came."""
        self.notes.append((f"{who}> {said if isinstance(said, str) else _short(said)}", self._masked(came)))

    def _masked(self, came):
        if not self.mask:
            return came

        def label(found):
            whole, (begin, end) = found.group(0), (place - found.start() for place in found.span(1))
            number = self._labels.setdefault(found.group(1), len(self._labels) + 1)
            return whole[:begin] + b"<%d>" % number + whole[end:]
        return re.sub(self.mask, label, came)

    def finish(self):
        """Notes what is left, and closes."""
        for who, wire in self._wires.items():
            try:
                wire.nothing_comes(0.02)
                end = b"<open>"
            except (Closed, OSError):
                end = b"<closed>"
            self.note(who, "(the end)", bytes(wire.unread()) + end)
        self.close()

    def close(self):
        """Closes all connections."""
        for wire in self._wires.values():
            wire.close()

    def run(self, who, step):
        """Takes one step."""
        if isinstance(step, str):
            step = tuple(step.split())
        if isinstance(step, tuple):
            step = gets(step, 1)
        step(self, who)


# -- steps --------------------------------------------------------------------------------------------------------


def by(name, *steps):
    """Steps taken on another connection."""
    def take(talk, _):
        for step in steps:
            talk.run(name, step)
    return take


def gets(request, count):
    """One request that has `count` replies; 0 reads none."""
    arguments = tuple(request.split()) if isinstance(request, str) else request

    def take(talk, who):
        said = " ".join(_short(argument) for argument in arguments)
        talk.send(who, command(*arguments), said)
        talk.hear(who, count, said)
    return take


def raw(data, replies=0):
    """Bytes as they are, which have `replies` replies."""
    def take(talk, who):
        talk.send(who, data)
        if replies:
            talk.hear(who, replies, data)
    return take


def bytewise(data, replies):
    """Bytes, each in a segment of its own."""
    def take(talk, who):
        talk.wire(who).send_bytewise(data)
        talk.hear(who, replies, data)
    return take


def pipeline(*requests, replies=None):
    """Requests in one write, each of which has one reply unless their number is given."""
    parts = [tuple(request.split()) if isinstance(request, str) else request for request in requests]
    return raw(b"".join(command(*part) for part in parts), len(parts) if replies is None else replies)


def hears(count):
    """`count` replies or pushes that come without a new request."""
    return lambda talk, who: talk.hear(who, count, "(listens)")


def quiet():
    """Nothing comes, as far as a moment can tell."""
    return lambda talk, who: talk.note(who, "(quiet)", b"%d" % talk.wire(who).nothing_comes(0.05))


def closes():
    """The other side closes; what came before that is noted."""
    def take(talk, who):
        try:
            talk.note(who, "(closes)", talk.wire(who).wait_closed(PATIENCE) + b"<closed>")
        except Silence:
            talk.note(who, "(closes)", b"<still open>")
            raise
    return take


def hides(pattern, *steps):
    """Steps whose replies have parts that differ each time: group 1 of `pattern`. Equal parts get equal labels."""
    def take(talk, who):
        talk.mask = pattern
        for step in steps:
            talk.run(who, step)
        talk.mask = None
    return take


def in_any_order(request, count):
    """A request that has `count` array replies in no certain order; each column is sorted by itself."""
    def take(talk, who):
        wire = talk.wire(who).order(*request.split())
        rows = [wire.reply() for _ in range(count)]
        columns = [sorted(map(repr, column)) for column in zip(*(row.value for row in rows), strict=True)]
        talk.note(who, request, repr(([row.kind for row in rows], columns)).encode())
    return take


def until_blocked(count):
    """Waits until the server has that many clients that wait for something."""
    def take(talk, _):
        wait_until(
            lambda: talk.primary.info("clients")["blocked_clients"] == count, PATIENCE, f"{count} blocked clients")
    return take


def leaves():
    """Closes the connection from our side."""
    return lambda talk, who: talk.wire(who).close()


def then(what):
    """Anything else: `what(wire)` gives the bytes or text to note."""
    def take(talk, who):
        came = what(talk.wire(who))
        talk.note(who, what.__name__, came if isinstance(came, bytes) else repr(came).encode())
    return take


# -- holding them -------------------------------------------------------------------------------------------------


def hold(steps, endpoint, primary, protocol):
    """Holds a talk on an empty database and returns what was noted."""
    _clear(primary)
    talk = Talk(endpoint, primary, protocol)
    try:
        for step in steps:
            talk.run("a", step)
        talk.finish()
    except Silence:
        pass  # noted; what is compared ends here
    finally:
        talk.close()
    return talk.notes


def goes_as_directly(steps, target, group, protocol):
    """Holds a talk with the primary itself and then with `target`; fails where the second goes otherwise."""
    primary = group.nodes[0]
    expected = hold(steps, primary, primary, protocol)
    assert b"<silence>" not in expected[-1][1], f"Redis itself gave no answer: {_told(expected[-1])}"
    found = hold(steps, target, primary, protocol)
    for number, (with_redis, here) in enumerate(zip(expected, found, strict=False)):
        assert with_redis == here, "\n".join([
            f"step {number + 1} went otherwise than with Redis itself",
            *(f"  before:   {_told(note)}" for note in found[max(0, number - 5):number]),
            f"  expected: {_told(with_redis)}", f"  got:      {_told(here)}"])
    assert len(expected) == len(found), f"ended after {_told(found[-1])}"


def _clear(primary):
    def alone():
        channels = [channel for channel in primary.run("PUBSUB", "CHANNELS") if channel != b"__sentinel__:hello"]
        return not channels and not primary.run("PUBSUB", "SHARDCHANNELS") and not primary.run("PUBSUB", "NUMPAT")
    wait_until(alone, PATIENCE, "subscribers of the talk before to be gone")
    wait_until(
        lambda: primary.info("clients")["blocked_clients"] == 0, PATIENCE, "clients of the talk before to be gone")
    for order in ("FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"):
        assert primary.run(*order.split()) == b"OK"


def _short(argument):
    text = argument if isinstance(argument, str) else repr(bytes(argument))[2:-1] if isinstance(
        argument, (bytes, bytearray)) else str(argument)
    return text if len(text) <= 120 else f"{text[:90]}... ({len(text)} characters)"


def _told(note):
    said, came = note
    return f"{said!s}  ->  {came!r}" if len(came) <= 600 else f"{said!s}  ->  {came[:500]!r}... ({len(came)} bytes)"
