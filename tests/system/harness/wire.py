"""A raw client of the frontend/backend protocol, for what no driver will do on purpose.

Frames are made by the functions below and sent as bytes, so that a test decides how they are cut into segments. Every
read has a time-out; a connection that the other side closed reads as `Closed`.
"""

import base64
import hashlib
import hmac
import os
import socket
import struct
from collections import namedtuple

Frame = namedtuple("Frame", "type body")

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = 3 << 16 | 2
SSL_REQUEST = 1234 << 16 | 5679
GSS_REQUEST = 1234 << 16 | 5680
CANCEL_REQUEST = 1234 << 16 | 5678


class Closed(Exception):
    """The other side closed the connection."""


class ServerError(Exception):
    """An ErrorResponse; `fields` by their one-letter codes."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('S')} {fields.get('C')}: {fields.get('M')}")
        self.fields = fields
        self.sqlstate = fields.get("C")


# -- frames -----------------------------------------------------------------------------------------------------


def frame(kind, body=b""):
    """Type byte, length, body."""
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def text(value):
    """A null-terminated string."""
    return (value if isinstance(value, bytes) else value.encode()) + b"\0"


def query(sql):
    """Query"""
    return frame("Q", text(sql))


def parse(sql, name="", types=()):
    """Parse"""
    return frame("P", text(name) + text(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(values=(), name="", portal="", result_formats=()):
    """Bind with parameters in text format (`None` is NULL)."""
    body = text(portal) + text(name) + struct.pack("!HH", 0, len(values))
    for value in values:
        data = None if value is None else str(value).encode()
        body += struct.pack("!i", -1 if data is None else len(data)) + (data or b"")
    return frame("B", body + struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats))


def describe(kind="S", name=""):
    """Describe a statement (S) or portal (P)"""
    return frame("D", kind.encode() + text(name))


def execute(portal="", rows=0):
    """Execute; `rows` 0 is all."""
    return frame("E", text(portal) + struct.pack("!I", rows))


def close(kind="S", name=""):
    """Close a statement (S) or portal (P)"""
    return frame("C", kind.encode() + text(name))


def sync():
    """Sync"""
    return frame("S")


def flush():
    """Flush"""
    return frame("H")


def terminate():
    """Terminate"""
    return frame("X")


def copy_data(data):
    """CopyData"""
    return frame("d", data)


def copy_done():
    """CopyDone"""
    return frame("c")


def copy_fail(reason):
    """CopyFail"""
    return frame("f", text(reason))


def function_call(oid, arguments):
    """FunctionCall with binary arguments and result."""
    body = struct.pack("!IHHH", oid, 1, 1, len(arguments))
    for argument in arguments:
        body += struct.pack("!i", len(argument)) + argument
    return frame("F", body + struct.pack("!H", 1))


def startup(code, parameters=None):
    """A start-up packet: no type byte; `parameters` None gives the bare code, as SSLRequest has it."""
    body = struct.pack("!I", code)
    if parameters is not None:
        body += b"".join(text(key) + text(value) for key, value in parameters.items()) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


# -- what comes back ----------------------------------------------------------------------------------------------


def fields(answer):
    """The fields of an ErrorResponse or NoticeResponse by code."""
    found = {}
    for part in answer.body.split(b"\0"):
        if part:
            found[chr(part[0])] = part[1:].decode("utf-8", "replace")
    return found


def types(frames):
    """The type bytes as one string, such as `12TDCZ`; NOTICE, ParameterStatus and NOTIFY are left out."""
    return "".join(answer.type for answer in frames if answer.type not in "NSA")


def rows(frames):
    """All DataRows as lists of text (or None)."""
    result = []
    for answer in frames:
        if answer.type != "D":
            continue
        count = struct.unpack_from("!H", answer.body)[0]
        row, at = [], 2
        for _ in range(count):
            size = struct.unpack_from("!i", answer.body, at)[0]
            at += 4
            row.append(None if size < 0 else answer.body[at:at + size].decode())
            at += max(size, 0)
        result.append(row)
    return result


def tags(frames):
    """The command tags."""
    return [answer.body.rstrip(b"\0").decode() for answer in frames if answer.type == "C"]


def errors(frames):
    """SQLSTATEs of all ErrorResponses."""
    return [fields(answer)["C"] for answer in frames if answer.type == "E"]


def status(frames):
    """The transaction status of the last ReadyForQuery: I, T or E."""
    return [answer.body.decode() for answer in frames if answer.type == "Z"][-1]


# Every connection made since `close_all`, so that one that a test no longer names is not closed by its going.
_open = []


def close_all():
    """Closes all connections that were made."""
    while _open:
        _open.pop().close()


class Wire:
    """One connection to 127.0.0.1:`port`, from the address `source`. `login()` does start-up and authentication."""

    def __init__(self, port, user="app", dbname="bench", password=None, protocol=PROTOCOL_3_0, params=None, timeout=20,
                 source=None):
        self.user, self.dbname, self.password = user, dbname, user if password is None else password
        self.protocol, self.params = protocol, params or {}
        self.parameters = {}  # ParameterStatus
        self.key = None  # (process id, secret) of BackendKeyData
        self.negotiated = None  # body of NegotiateProtocolVersion
        self.auth_codes = []  # authentication requests in the order they came
        self.peer = ("127.0.0.1", port)
        self.socket = socket.create_connection(self.peer, timeout, source and (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        _open.append(self)

    @property
    def address(self):
        """Our own `host:port` as the other side sees it."""
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    # -- bytes ----------------------------------------------------------------------------------------------------

    def send(self, *frames):
        """Sends frames in one write."""
        self.socket.sendall(b"".join(frames))
        return self

    def send_bytewise(self, data):
        """Sends each byte in its own segment."""
        for position in range(len(data)):
            self.socket.sendall(data[position:position + 1])
        return self

    def _take(self, count):
        while len(self._buffer) < count:
            try:
                data = self.socket.recv(max(65536, count - len(self._buffer)))
            except ConnectionError as problem:
                raise Closed(str(problem)) from problem
            except TimeoutError:
                raise AssertionError(
                    f"no answer within {self.socket.gettimeout():g} s (have {self._buffer[:60]!r})") from None
            if not data:
                raise Closed(f"closed with {len(self._buffer)} bytes unread")
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def read_byte(self):
        """One raw byte, the answer to SSLRequest."""
        return self._take(1)

    def read_frame(self, timeout=None):
        """The next frame."""
        before = self.socket.gettimeout()
        if timeout is not None:
            self.socket.settimeout(timeout)
        try:
            head = self._take(5)
            return Frame(chr(head[0]), self._take(struct.unpack("!I", head[1:])[0] - 4))
        finally:
            self.socket.settimeout(before)

    def read_until(self, kinds="Z"):
        """Frames up to and with the first of a type in `kinds`."""
        found = []
        while True:
            found.append(self.read_frame())
            if found[-1].type in kinds:
                return found

    def nothing_comes(self, seconds=0.3):
        """Nothing is sent to us within `seconds`; the connection stays open."""
        if self._buffer:
            return False
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._buffer = self.socket.recv(65536)
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)

    def has_answer(self):
        """Something has arrived and was not read yet."""
        return not self.nothing_comes(0.001)

    def wait_closed(self, timeout=20):
        """Reads until the other side closes and returns the frames that still came."""
        found = []
        self.socket.settimeout(timeout)
        while True:
            try:
                found.append(self.read_frame())
            except Closed:
                return found

    def close(self):
        """Closes without a Terminate, as a client that died."""
        self.socket.close()

    def reset(self):
        """Closes with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- login ----------------------------------------------------------------------------------------------------

    def startup_packet(self):
        """The start-up packet of this client."""
        return startup(self.protocol, {"user": self.user, "database": self.dbname, **self.params})

    def login(self):
        """Start-up and authentication up to ReadyForQuery."""
        self.send(self.startup_packet())
        return self.authenticate()

    def authenticate(self):
        """Answers what the server asks until ReadyForQuery; an ErrorResponse is raised as ServerError."""
        scram = None
        while True:
            answer = self.read_frame()
            if answer.type == "E":
                raise ServerError(fields(answer))
            if answer.type == "v":
                self.negotiated = answer.body
            elif answer.type == "S":
                key, value = answer.body.rstrip(b"\0").split(b"\0") if answer.body.count(b"\0") == 2 and answer.body[-2:] != b"\0\0" else (answer.body.split(b"\0")[0], b"")
                self.parameters[key.decode()] = value.decode()
            elif answer.type == "K":
                self.key = (struct.unpack("!I", answer.body[:4])[0], answer.body[4:])
            elif answer.type == "Z":
                return self
            elif answer.type == "R":
                code = struct.unpack("!I", answer.body[:4])[0]
                self.auth_codes.append(code)
                scram = self._answer(code, answer.body[4:], scram)

    def _answer(self, code, body, scram):
        if code == 0:
            assert scram is None or scram.finished, "logged in before the server proved that it knows the password"
        elif code == 3:
            self.send(frame("p", text(self.password)))
        elif code == 5:
            self.send(frame("p", text(md5_answer(self.user, self.password, body))))
        elif code == 10:
            mechanisms = body.rstrip(b"\0").split(b"\0")
            assert b"SCRAM-SHA-256" in mechanisms, f"no SCRAM-SHA-256 in {mechanisms}"
            scram = Scram(self.password)
            first = scram.first()
            self.send(frame("p", text("SCRAM-SHA-256") + struct.pack("!I", len(first)) + first))
        elif code == 11:
            self.send(frame("p", scram.final(body)))
        elif code == 12:
            scram.verify(body)
        else:
            raise AssertionError(f"authentication request {code} is not known")
        return scram

    # -- queries --------------------------------------------------------------------------------------------------

    def ask(self, *frames):
        """Sends and returns everything up to ReadyForQuery."""
        self.send(*frames)
        return self.read_until("Z")

    def run(self, sql):
        """Simple query; rows as lists of text. An ErrorResponse is raised after ReadyForQuery."""
        found = self.ask(query(sql))
        for answer in found:
            if answer.type == "E":
                raise ServerError(fields(answer))
        return rows(found)

    def value(self, sql):
        """The first value of the first row."""
        return self.run(sql)[0][0]

    def prepared(self, name, values=()):
        """Executes a prepared statement."""
        return self.ask(bind(values, name), execute(), sync())

    def cancel(self, key=None):
        """Sends a CancelRequest on its own connection and waits until that is closed."""
        pid, secret = key or self.key
        body = struct.pack("!II", CANCEL_REQUEST, pid) + secret
        with socket.create_connection(self.peer, 10) as other:
            other.sendall(struct.pack("!I", len(body) + 4) + body)
            answer = other.recv(100)
        assert answer == b"", f"a CancelRequest is never answered, but {answer!r} came"


# -- authentication -----------------------------------------------------------------------------------------------


def md5_answer(user, password, salt):
    """PostgreSQL's md5 proof."""
    stored = hashlib.md5((password + user).encode()).hexdigest()
    return "md5" + hashlib.md5(stored.encode() + salt).hexdigest()


def scram_verifier(password, iterations=4096, salt=None):
    """What PostgreSQL stores for a password."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


class Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802), checking the server's signature."""

    def __init__(self, password):
        self.password = password
        self.nonce = base64.b64encode(os.urandom(18)).decode()
        self.finished = False
        self._signature = None

    def first(self):
        """client-first-message"""
        return f"n,,n=,r={self.nonce}".encode()

    def final(self, server_first):
        """client-final-message"""
        parts = dict(part.split("=", 1) for part in server_first.decode().split(","))
        assert parts["r"].startswith(self.nonce) and len(parts["r"]) > len(self.nonce), "the nonce is not ours"
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
        client = hmac.digest(salted, b"Client Key", "sha256")
        bare = f"c=biws,r={parts['r']}"
        message = ",".join([f"n=,r={self.nonce}", server_first.decode(), bare]).encode()
        proof = bytes(a ^ b for a, b in zip(client, hmac.digest(hashlib.sha256(client).digest(), message, "sha256")))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final):
        """The server knows the verifier."""
        assert base64.b64decode(server_final.decode().split("v=", 1)[1]) == self._signature, "wrong server signature"
        self.finished = True
