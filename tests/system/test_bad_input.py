"""Bad input gets an error packet and a log line with the peer's address, and harms nobody else."""

import os
import random
import struct

import pytest

from harness import Relay, Wire, wait_until, wire

CLIENT_HELLO = bytes.fromhex("160301006a010000660303") + bytes(range(95))

JUNK = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": CLIENT_HELLO,
    "zeros": b"\0" * 64,
    "ones": b"\xff" * 64,
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "text": b"hello\n" * 10,
    "no user": wire.startup(wire.PROTOCOL_3_0, {"database": "bench"}),
    "empty user": wire.startup(wire.PROTOCOL_3_0, {"user": "", "database": "bench"}),
    "no terminator": struct.pack("!II", 20, wire.PROTOCOL_3_0) + b"user\0app\0xyz",
    "name without value": struct.pack("!II", 14, wire.PROTOCOL_3_0) + b"user\0\0",
    "major version 4": wire.startup(4 << 16, {"user": "app"}),
    "length 0": struct.pack("!II", 0, wire.PROTOCOL_3_0),
    "length 4": struct.pack("!I", 4),
    "length 7": struct.pack("!I", 7) + b"abc",
    "huge length": struct.pack("!II", 0x7FFFFFFF, wire.PROTOCOL_3_0) + b"user\0",
    "negative length": struct.pack("!iI", -1, wire.PROTOCOL_3_0) + b"user\0",
}


@pytest.fixture
def witness(forebay):
    """A client that is logged in and inside a transaction; it must notice nothing."""
    client = forebay.wire()
    client.run("begin")
    yield client
    assert client.value("select 'unharmed'") == "unharmed"
    client.run("commit")
    assert forebay.wire().value("select 1") == "1"


@pytest.mark.parametrize("junk", list(JUNK))
def test_junk_before_start_up_is_refused(forebay, witness, junk):
    before = len(forebay.log())
    client = Wire(forebay.port)
    address = client.address
    client.send(JUNK[junk])
    said = b""
    try:
        while data := client.socket.recv(65536):
            said += data
    except ConnectionResetError:
        pass  # closed with input unread
    assert said == b"" or said.startswith(b"E"), f"neither an ErrorResponse nor silence: {said!r}"
    if junk in ("no user", "empty user", "no terminator", "name without value"):
        assert b"C08P01\0" in said or b"C28000\0" in said, said
    elif junk == "major version 4":
        assert b"C0A000\0" in said, said
    forebay.wait_log(address.split(":")[0], after=before)
    forebay.wait_log(address.split(":")[1], after=before)


@pytest.mark.parametrize("junk", ["length 0", "length 7", "huge length", "negative length"])
def test_an_absurd_length_is_a_protocol_violation(forebay, witness, junk):
    client = Wire(forebay.port)
    client.send(JUNK[junk])
    assert wire.errors(client.wait_closed(5)) == ["08P01"]


BROKEN = {
    "unknown type": b"z\0\0\0\x04",
    "type zero": b"\0\0\0\0\x04",
    "length below four": b"Q\0\0\0\x03",
    "length zero": b"Q\0\0\0\0",
    "negative length": b"Q\xff\xff\xff\xff",
    "query without terminator": wire.frame("Q", b"select 1"),
    "empty parse": wire.frame("P"),
    "parse with too few types": wire.frame("P", b"\0select 1\0\0\x05"),
    "bind cut short": wire.frame("B", b"\0\0\0\0\0\x01\0\0\0\x09x"),
    "bind with a negative length": wire.frame("B", b"\0\0\0\0\0\x01\xff\xff\xff\xf0\0\0"),
    "describe of nothing": wire.frame("D"),
    "describe of an unknown kind": wire.frame("D", b"Zx\0"),
    "close of an unknown kind": wire.frame("C", b"Zx\0"),
    "execute cut short": wire.frame("E", b"\0\0"),
    "function call cut short": wire.frame("F", b"\0\0"),
    "password out of place": wire.frame("p", b"secret\0"),
    "sync with a body": wire.frame("S", b"more"),
}


@pytest.mark.parametrize("broken", list(BROKEN))
def test_a_broken_message_is_an_error_of_its_sender_alone(target, broken):
    client = target.wire()
    client.send(BROKEN[broken], wire.sync())
    try:
        answer = client.read_until("EZ")
    except wire.Closed:
        answer = None
    if answer is None:
        assert target.kind == "direct" and "length" in broken, f"{broken}: closed without an error packet"
    elif broken != "sync with a body":  # PostgreSQL refuses it, a proxy may read over it
        assert wire.errors(answer) and wire.errors(answer)[0] in ("08P01", "22021", "26000"), f"{broken}: {answer}"
    assert target.wire().value("select 1") == "1"


def test_a_message_that_claims_a_gigabyte_takes_no_memory_for_it(forebay, witness):
    before = forebay.rss_kib()
    clients = [forebay.wire() for _ in range(20)]
    for client in clients:
        client.send(b"Q" + struct.pack("!I", 0x3FFFFFFF) + b"select ")
    assert clients[0].nothing_comes(0.3)
    assert forebay.rss_kib() - before < 32 * 1024
    for client in clients:
        client.close()


def test_a_client_that_stops_in_the_middle_of_a_message_holds_no_one_up(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    stuck = [forebay.wire() for _ in range(10)]
    for number, client in enumerate(stuck):
        client.send(wire.query("select 'half of it'")[:number + 1])
    assert [forebay.wire().value("select 1") for _ in range(5)] == ["1"] * 5
    for number, client in enumerate(stuck):
        client.send(wire.query("select 'half of it'")[number + 1:])
        assert wire.rows(client.read_until()) == [["half of it"]]


def test_a_client_that_stops_in_the_middle_of_start_up_is_closed_in_time(start_forebay):
    forebay = start_forebay(pool={"client_login_timeout": "1s"})
    packet = wire.startup(wire.PROTOCOL_3_0, {"user": "app", "database": "bench"})
    for count in (1, 4, 8, len(packet) - 1):
        client = Wire(forebay.port)
        client.send(packet[:count])
        client.wait_closed(10)
    assert forebay.wire().value("select 1") == "1"


def test_clients_that_connect_and_leave_cost_nothing(forebay, witness):
    files = forebay.fd_count()
    for _ in range(300):
        Wire(forebay.port).reset()
        Wire(forebay.port).close()
    wait_until(lambda: forebay.fd_count() <= files + 5, 10, "their sockets to be closed")


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_after_login_harm_nobody(forebay, witness, seed):
    chance = random.Random(seed)
    kinds = b"QPBDECSHFXdcfp\0zR"
    for _ in range(40):
        client = forebay.wire(timeout=5)
        data = b""
        for _ in range(chance.randrange(1, 6)):
            body = chance.randbytes(chance.randrange(0, 40))
            length = len(body) + 4 if chance.random() < 0.7 else chance.randrange(0, 1 << 32)
            data += bytes([chance.choice(kinds)]) + struct.pack("!I", length) + body
        try:
            client.send(data)
            client.nothing_comes(0.005)
        except OSError:
            pass  # it was closed on us
        client.reset()


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_before_login_harm_nobody(forebay, witness, seed):
    chance = random.Random(seed)
    for _ in range(60):
        client = Wire(forebay.port)
        good = bytearray(client.startup_packet())
        for _ in range(chance.randrange(1, 5)):
            good[chance.randrange(len(good))] = chance.randrange(256)
        try:
            client.send(bytes(good) if chance.random() < 0.7 else os.urandom(chance.randrange(1, 200)))
            client.nothing_comes(0.005)
        except OSError:
            pass
        client.reset()


def test_an_unknown_user_and_database_are_logged_with_the_peer(forebay, witness):
    for login, word in (({"user": "stranger"}, "stranger"), ({"dbname": "nowhere"}, "nowhere")):
        before = len(forebay.log())
        client = Wire(forebay.port, **{"password": "app", **login})
        with pytest.raises(wire.ServerError):
            client.login()
        host, port = client.address.split(":")
        wait_until(
            lambda: any(word in line and host in line and port in line for line in forebay.log()[before:].splitlines()),
            5, f"a log line with {word}, {host} and {port}")


# -- servers ------------------------------------------------------------------------------------------------------


def test_a_server_that_answers_nonsense_fails_its_own_client_alone(start_forebay, shared_cluster):
    with Relay(shared_cluster.primary.port) as relay:
        forebay = start_forebay(nodes=[relay.address], failover={"check_interval": "60s"})
        client = forebay.wire()
        client.run("select 1")
        relay.mode = "garbage"
        client.send(wire.query("select 1"))
        answer = client.read_until("E")
        assert wire.errors(answer)[0].startswith(("08", "57P")), wire.errors(answer)
        assert not wire.rows(answer), "no nonsense reaches the client as a result"
        relay.mode = "pass"
        relay.cut()
        wait_until(lambda: forebay.wire().value("select 1") == "1", 20, "the server to be used again when it is sane")


JUNK_OF_SERVERS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "huge length": b"D\x7f\xff\xff\xff",
    "length zero": b"D\0\0\0\0",
    "ready without being asked": b"Z\0\0\0\x05I" * 3,
    "unknown type": b"\x01\0\0\0\x04",
    "copy out of nowhere": b"G\0\0\0\x07\0\0\0",
    "bad status": b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05?",
    "nothing": b"",
}


@pytest.mark.parametrize("junk", list(JUNK_OF_SERVERS))
def test_each_kind_of_nonsense_from_a_server_is_survived(start_forebay, shared_cluster, junk):
    with Relay(shared_cluster.nodes[1].port, junk=JUNK_OF_SERVERS[junk]) as relay:
        forebay = start_forebay(
            nodes=[shared_cluster.addresses[0], relay.address], routing={"consistency": "eventual"},
            failover={"check_timeout": "500ms"}, pool={"query_timeout": "3s"})
        clients = [forebay.wire(timeout=10) for _ in range(4)]
        for client in clients:
            client.run("select 1")
        relay.mode = "garbage"
        for client in clients:
            try:
                client.run("select 1")
            except (wire.ServerError, wire.Closed):
                pass
        assert forebay.wire().value("/* forebay: primary */ select 'primary'") == "primary"
        wait_until(lambda: forebay.node("pg2")["state"] != "up", 15, "the insane replica to leave")
        relay.mode = "pass"
        relay.cut()
        forebay.wait_node("pg2", state="up")


def test_a_server_that_is_not_postgresql_is_reported_down(start_forebay, shared_cluster):
    with Relay(shared_cluster.nodes[1].port, mode="garbage", junk=b"220 mail.example.org ESMTP\r\n") as relay:
        forebay = start_forebay(nodes=[shared_cluster.addresses[0], relay.address], wait="login")
        wait_until(lambda: forebay.node("pg2")["state"] == "down" and forebay.node("pg2")["reason"], 10, "a reason")
        client = forebay.wire()
        assert [client.value("select 1") for _ in range(10)] == ["1"] * 10
