"""The failover ledger: writers that note what they were told, held against what is stored in the end.

Each writer keeps one connection all the while and writes under keys of its own, so that every entry can be judged:

- acknowledged and stored: well;
- acknowledged and not stored: lost;
- stored twice: duplicated;
- answered with `-UNKNOWN`: counted apart, may be stored or not;
- refused with another error, and stored nevertheless: a phantom.
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from harness.redis_wire import ReplyError, command
from harness.waiting import wait_until
from harness.wire import Closed

PACE = 0.002  # seconds between two writes of one writer, so that eight of them leave the processor to the servers


@dataclass
class Entry:
    """One write: what it was called, when it was answered, and how."""

    name: str
    answered: float
    reply: object

    @property
    def is_acknowledged(self):
        """The server said that it was done."""
        return not isinstance(self.reply, ReplyError)

    @property
    def is_unknown(self):
        """Nobody knows."""
        return isinstance(self.reply, ReplyError) and self.reply.code == "UNKNOWN"


class _Worker(threading.Thread):
    """A connection that works in a thread until it is told to stop, or is closed."""

    def __init__(self, endpoint, name):
        super().__init__(daemon=True)
        self.name, self.entries, self.closed, self.problem = name, [], None, None
        self._stop_asked = threading.Event()
        self._wire = endpoint.wire(timeout=60)

    def run(self):
        number = 0
        while not self._stop_asked.is_set():
            number += 1
            try:
                self.turn(self._wire, number)
            except (Closed, OSError) as problem:
                self.closed = f"{self.name} at {time.monotonic():.3f}: {problem!r}"
                return
            except BaseException as problem:  # noqa: BLE001 told by the ledger
                self.problem = problem
                return
            time.sleep(PACE)

    def note(self, name, reply):
        """Writes an entry."""
        self.entries.append(Entry(name, time.monotonic(), reply))

    def ask_to_stop(self):
        """The present turn is the last."""
        self._stop_asked.set()

    def finish(self):
        """Waits for the end of the last turn and closes; raises what went wrong."""
        self.join(90)
        assert not self.is_alive(), f"{self.name} still waits for a reply"
        self._wire.close()
        if self.problem:
            raise self.problem


class Pusher(_Worker):
    """RPUSH of values that exist once, `depth` of them in one write."""

    def __init__(self, endpoint, key, depth=1):
        super().__init__(endpoint, key)
        self.key, self.depth = key, depth

    def turn(self, wire, number):
        values = [f"{number}.{part}" for part in range(self.depth)]
        wire.send(*(command("RPUSH", self.key, value) for value in values))
        for value in values:
            self.note(value, wire.read())

    def stored(self, node):
        """The names of the entries that a node has, in order."""
        return [value.decode() for value in node.run("LRANGE", self.key, 0, -1)]


class Transactor(_Worker):
    """MULTI, RPUSH of a value that exists once, INCR, EXEC."""

    def __init__(self, endpoint, key):
        super().__init__(endpoint, key)
        self.key = key

    def turn(self, wire, number):
        value = f"{number}"
        replies = wire.pipeline(("MULTI",), ("RPUSH", self.key, value), ("INCR", self.key + ":n"), ("EXEC",))
        self.note(value, replies[-1])

    def stored(self, node):
        """As Pusher's; fails if the two writes of a transaction were parted."""
        values = [value.decode() for value in node.run("LRANGE", self.key, 0, -1)]
        count = int(node.run("GET", self.key + ":n") or 0)
        assert count == len(values), f"{self.key}: a transaction ran by halves: {len(values)} pushed, {count} counted"
        return values


class Incrementer(_Worker):
    """INCR; which of them are stored is told by the last value alone."""

    def __init__(self, endpoint, key):
        super().__init__(endpoint, key)
        self.key = key

    def turn(self, wire, number):
        self.note(f"{number}", wire.ask("INCR", self.key))

    def final(self, node):
        """The value that a node has."""
        return int(node.run("GET", self.key) or 0)


class Reader(_Worker):
    """GET of a value that never changes, in turn with a local command."""

    def __init__(self, endpoint, key):
        super().__init__(endpoint, key)
        self.key = key
        assert self._wire.ask("SET", key, "constant") == b"OK"

    def turn(self, wire, number):
        reply = wire.ask("GET", self.key)
        assert isinstance(reply, ReplyError) or reply == b"constant", f"read {reply!r}"
        self.note(f"{number}", reply)


@dataclass
class Verdict:
    """What the ledger found."""

    acknowledged: int = 0
    unknown: int = 0
    refused: Counter = field(default_factory=Counter)  # by the first word of the error
    lost: list = field(default_factory=list)  # of Entry
    duplicated: list = field(default_factory=list)
    phantoms: list = field(default_factory=list)
    disordered: list = field(default_factory=list)
    closed: list = field(default_factory=list)
    read_errors: Counter = field(default_factory=Counter)

    def __str__(self):
        return (
            f"acknowledged {self.acknowledged}, unknown {self.unknown}, refused {dict(self.refused)}, "
            f"lost {len(self.lost)}, duplicated {len(self.duplicated)}, phantoms {len(self.phantoms)}, closed {len(self.closed)}, "
            f"errors of reads {dict(self.read_errors)}")

    def assert_sound(self):
        """Whatever happened to the servers: no connection closed, nothing twice, nothing against what was said."""
        assert not self.closed, f"connections were closed: {self.closed}\n{self}"
        assert not self.duplicated, f"stored twice: {self.duplicated[:10]}\n{self}"
        assert not self.phantoms, f"refused and stored nevertheless: {self.phantoms[:10]}\n{self}"
        assert not self.disordered, f"stored out of order: {self.disordered}\n{self}"
        for code in ("READONLY", "LOADING", "MASTERDOWN"):
            assert not self.refused[code] and not self.read_errors[code], f"a client saw -{code}\n{self}"
        assert not self.refused, f"writes were refused\n{self}"

    def assert_nothing_lost(self):
        """Every acknowledged write is stored."""
        assert not self.lost, f"{len(self.lost)} acknowledged writes are lost, the first: {self.lost[:5]}\n{self}"


class Ledger:
    """Two pushers, one of them in pipelines, a transactor, four counters and two readers through `endpoint`."""

    def __init__(self, endpoint, name):
        self.writers = [
            Pusher(endpoint, f"{name}:single"), Pusher(endpoint, f"{name}:many", depth=10),
            Transactor(endpoint, f"{name}:transaction"),
            Transactor(endpoint, f"{name}:transaction2"),
            *(Incrementer(endpoint, f"{name}:count{number}") for number in range(4))]
        self.readers = [Reader(endpoint, f"{name}:read{number}") for number in range(2)]
        self.ended = None

    def __enter__(self):
        for worker in [*self.writers, *self.readers]:
            worker.start()
        self.wait_acknowledged(30)
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Stops all of them after their present turns."""
        if self.ended is None:
            self.ended = time.monotonic()
            for worker in [*self.writers, *self.readers]:
                worker.ask_to_stop()
            for worker in [*self.writers, *self.readers]:
                worker.finish()

    def wait_acknowledged(self, count, timeout=60):
        """Waits until every writer that still has its connection got `count` more acknowledgements."""
        begin = {writer: len(writer.entries) for writer in self.writers}

        def enough():
            return all(
                writer.closed or sum(entry.is_acknowledged for entry in writer.entries[begin[writer]:]) >= count
                for writer in self.writers)
        wait_until(enough, timeout, f"{count} more acknowledged writes of every writer")

    def flowing_after(self, moment):
        """Seconds from `moment` until every writer had an acknowledgement again."""
        return max(
            next(entry.answered for entry in writer.entries if entry.is_acknowledged and entry.answered > moment)
            for writer in self.writers if not writer.closed) - moment

    def longest_pause(self):
        """The longest time that a writer went without an acknowledgement, in seconds."""
        pauses = [0.0]
        for writer in self.writers:
            times = [entry.answered for entry in writer.entries if entry.is_acknowledged]
            pauses += [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        return max(pauses)

    def judge(self, primary):
        """Holds the entries against what `primary` has."""
        self.end()
        verdict = Verdict()
        for worker in [*self.writers, *self.readers]:
            if worker.closed:
                verdict.closed.append(worker.closed)
        for reader in self.readers:
            verdict.read_errors.update(entry.reply.code for entry in reader.entries if not entry.is_acknowledged)
        for writer in self.writers:
            said = {entry.name: entry for entry in writer.entries}
            verdict.acknowledged += sum(entry.is_acknowledged for entry in said.values())
            verdict.unknown += sum(entry.is_unknown for entry in said.values())
            verdict.refused.update(
                entry.reply.code for entry in said.values() if not entry.is_acknowledged and not entry.is_unknown)
            if isinstance(writer, Incrementer):
                self._judge_counter(writer, said, primary, verdict)
            else:
                self._judge_values(writer, said, primary, verdict)
        return verdict

    @staticmethod
    def _judge_values(writer, said, primary, verdict):
        stored = writer.stored(primary)
        counts = Counter(stored)
        verdict.duplicated += [f"{writer.key}: {value}" for value, count in counts.items() if count > 1]
        verdict.lost += [entry for entry in said.values() if entry.is_acknowledged and entry.name not in counts]
        verdict.phantoms += [
            f"{writer.key}: {value}" for value in counts
            if value in said and not said[value].is_acknowledged and not said[value].is_unknown]
        order = [tuple(map(int, value.split("."))) for value in dict.fromkeys(stored)]
        if order != sorted(order):
            verdict.disordered.append(writer.key)

    @staticmethod
    def _judge_counter(writer, said, primary, verdict):
        final = writer.final(primary)
        acknowledged = [entry for entry in said.values() if entry.is_acknowledged]
        unknown = sum(entry.is_unknown for entry in said.values())
        # A connection that was closed may have had one more on its way.
        most = len(acknowledged) + unknown + bool(writer.closed)
        if final < len(acknowledged):
            verdict.lost += acknowledged[final - len(acknowledged):]
        if final > most:
            verdict.duplicated.append(f"{writer.key}: counted to {final}, but only {most} were sent")
