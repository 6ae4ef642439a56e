"""A raw client of Redis' protocol, for what no driver will do on purpose.

Bytes are sent as given, so that a test decides how they are cut into segments. Replies are read whole, in RESP2 and
RESP3; `Reply.raw` holds their bytes as they came. Every read has a time-out; a connection that the other side closed
reads as `Closed`.
"""

import socket
import struct
from collections import namedtuple

from harness.wire import Closed

LINE_END = b"\r\n"

# kind: the first byte, such as "+" or ">". value: see `Wire.read`. raw: all bytes of the reply.
Reply = namedtuple("Reply", "kind value raw")


class ReplyError(str):
    """An error reply without its `-`; compares as text, and tells its first word."""

    @property
    def code(self):
        """The first word, such as `WRONGTYPE`."""
        return self.split(" ", 1)[0]

    def __repr__(self):
        return f"ReplyError({str(self)!r})"


class Push(list):
    """A push message of RESP3."""


class Pairs(list):
    """A map of RESP3 as a list of (key, value), in the order in which they came."""


class Unfinished(Exception):
    """The bytes end within a reply."""


class Refused(Exception):
    """An error reply, where a value was needed."""


class Silence(AssertionError):
    """No reply came in time."""


# -- requests ---------------------------------------------------------------------------------------------------


def encoded(value):
    """An argument as bytes."""
    return value if isinstance(value, (bytes, bytearray, memoryview)) else str(value).encode()


def command(*arguments):
    """One request in the form that drivers send: an array of bulk strings."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in map(encoded, arguments):
        parts += [b"$%d\r\n" % len(argument), argument, LINE_END]
    return b"".join(parts)


def inline(line):
    """One request in the form that people type."""
    return encoded(line) + LINE_END


# -- replies ----------------------------------------------------------------------------------------------------


def parse(data, at=0):
    """The reply that begins at `at`: (kind, value, where it ends). Raises `Unfinished`."""
    end = data.find(LINE_END, at)
    if end < 0:
        raise Unfinished
    kind, line, at = chr(data[at]), bytes(data[at + 1:end]), end + 2
    if kind in _LINES:
        return kind, _LINES[kind](line), at
    if kind in "$!=":
        return _bulk(kind, data, int(line), at)
    if kind in "*~>":
        count = int(line)
        if count < 0:
            return kind, None, at
        values, at = _values(data, count, at)
        return kind, Push(values) if kind == ">" else values, at
    if kind in "%|":
        values, at = _values(data, 2 * int(line), at)
        pairs = Pairs(zip(values[::2], values[1::2], strict=True))
        if kind == "%":
            return kind, pairs, at
        return parse(data, at)  # an attribute comes before the value that it belongs to, and is not looked at
    raise AssertionError(f"no reply begins with {kind!r}: {bytes(data[:200])!r}")


_LINES = {
    "+": bytes,
    "-": lambda line: ReplyError(line.decode("utf-8", "replace")),
    ":": int,
    ",": float,
    "(": int,
    "#": lambda line: line == b"t",
    "_": lambda line: None,
}


def _bulk(kind, data, size, at):
    if size < 0:
        return kind, None, at
    if len(data) < at + size + 2:
        raise Unfinished
    value = bytes(memoryview(data)[at:at + size])
    assert data[at + size:at + size + 2] == LINE_END, f"no line end after {size} bytes"
    if kind == "!":
        value = ReplyError(value.decode("utf-8", "replace"))
    elif kind == "=":
        value = value[4:]
    return kind, value, at + size + 2


def _values(data, count, at):
    values = []
    for _ in range(count):
        _, value, at = parse(data, at)
        values.append(value)
    return values, at


# -- the connection ---------------------------------------------------------------------------------------------


# Every connection made since `close_all`, so that one that a test no longer names is not closed by its going.
_open = set()


def close_all():
    """Closes all connections that were made."""
    while _open:
        next(iter(_open)).close()


class RedisWire:
    """One connection to 127.0.0.1:`port`, from the address `source`; with a context of `ssl` as `tls` it is encrypted."""

    def __init__(self, port, timeout=20, receive_buffer=None, source=None, tls=None):
        self.socket = socket.socket()
        if receive_buffer:  # before connecting, so that the window never opens further
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            except BaseException:
                self.socket.close()
                raise
        self._buffer, self._at = bytearray(), 0
        _open.add(self)

    @property
    def address(self):
        """Our own `host:port` as the other side sees it."""
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, *data):
        """Sends bytes in one write."""
        self.socket.sendall(b"".join(data))
        return self

    def send_bytewise(self, data):
        """Sends each byte in its own segment."""
        for position in range(len(data)):
            self.socket.sendall(data[position:position + 1])
        return self

    def order(self, *arguments):
        """Sends one request without reading its reply."""
        return self.send(command(*arguments))

    def end_of_input(self):
        """Closes our half: the other side reads the end of the stream and may still answer."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    # -- reading --------------------------------------------------------------------------------------------------

    def _receive(self):
        # In pieces that grow with what is there already, so that a value of 100 MB takes a few hundred turns.
        try:
            data = self.socket.recv(max(65536, min(len(self._buffer), 1 << 22)))
        except ConnectionError as problem:
            raise Closed(str(problem)) from problem
        except TimeoutError:
            raise Silence(
                f"no reply within {self.socket.gettimeout():g} s (have {bytes(self._buffer[self._at:][:60])!r})"
            ) from None
        if not data:
            raise Closed(f"closed with {len(self._buffer) - self._at} bytes unread")
        if self._at > 1 << 16:
            del self._buffer[:self._at]
            self._at = 0
        self._buffer += data

    def reply(self, timeout=None):
        """The next reply, also a push, with its bytes."""
        before = self.socket.gettimeout()
        if timeout is not None:
            self.socket.settimeout(timeout)
        try:
            while True:
                try:
                    kind, value, end = parse(self._buffer, self._at)
                except Unfinished:
                    self._receive()
                    continue
                raw = bytes(memoryview(self._buffer)[self._at:end])
                self._at = end
                return Reply(kind, value, raw)
        finally:
            self.socket.settimeout(before)

    def take(self, count):
        """The next `count` bytes, whatever they are."""
        while len(self._buffer) < self._at + count:
            self._receive()
        self._at += count
        return bytes(self._buffer[self._at - count:self._at])

    def read(self, timeout=None):
        """The value of the next reply.

        Strings are bytes, errors a `ReplyError` (not raised), maps `Pairs`, pushes `Push`; both nulls are None.
        """
        return self.reply(timeout).value

    def replies(self, count):
        """The values of the next `count` replies."""
        return [self.read() for _ in range(count)]

    def nothing_comes(self, seconds=0.3):
        """Nothing is sent to us within `seconds`; the connection stays open."""
        if len(self._buffer) > self._at:
            return False
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._receive()
            return False
        except Silence:
            return True
        finally:
            self.socket.settimeout(before)

    def unread(self):
        """Bytes that came and were not read yet."""
        return self._buffer[self._at:]

    def has_reply(self):
        """Something has arrived and was not read yet."""
        return not self.nothing_comes(0.001)

    def wait_closed(self, timeout=20):
        """Reads until the other side closes and returns all bytes that still came."""
        self.socket.settimeout(timeout)
        while True:
            try:
                self._receive()
            except Closed:
                came, self._at = bytes(self.unread()), len(self._buffer)
                return came

    def is_open(self):
        """The other side has not closed; what came is kept for the next read."""
        try:
            self.nothing_comes(0.001)
        except Closed:
            return False
        return True

    # -- both -----------------------------------------------------------------------------------------------------

    def ask(self, *arguments):
        """Sends one request and returns the value of the next reply."""
        return self.order(*arguments).read()

    def value(self, *arguments):
        """As `ask`, but an error is raised as `Refused`."""
        value = self.ask(*arguments)
        if isinstance(value, ReplyError):
            raise Refused(f"{arguments[0]}: {value}")
        return value

    def pipeline(self, *commands):
        """Sends all requests, each a tuple of arguments, in one write and returns the values of their replies."""
        self.send(*(command(*arguments) for arguments in commands))
        return self.replies(len(commands))

    def close(self):
        """Closes."""
        _open.discard(self)
        self.socket.close()

    def reset(self):
        """Closes with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
