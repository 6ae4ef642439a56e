"""The PROXY protocol: behind a load balancer the clients' own addresses are what everything shows and goes by."""

import ipaddress
import shutil
import socket
import ssl
import struct
import subprocess

import psycopg
import pytest

from harness import RedisGroup, RedisWire, Wire, ports, process, rundir, wait_until, wire
from harness.postgres import bin_dir
from harness.redis_wire import command

# The load balancer's address; whoever comes from 127.0.0.1, as the admin does, comes directly.
BALANCER = "127.0.0.5"
TRUST = {"proxy_protocol": "on", "proxy_trusted": [BALANCER]}
PATIENT = {"check_timeout": "10s"}
HOST, PORT = "192.0.2.17", 40321
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v1(host=HOST, port=PORT):
    """A header of version 1."""
    family, to = ("TCP6", "2001:db8::5") if ":" in host else ("TCP4", "198.51.100.5")
    return f"PROXY {family} {host} {to} {port} 6432\r\n".encode()


def v2(host=HOST, port=PORT, command=0x21, tlvs=b""):
    """A header of version 2."""
    address = ipaddress.ip_address(host)
    to = ipaddress.ip_address("2001:db8::5" if address.version == 6 else "198.51.100.5")
    body = address.packed + to.packed + struct.pack("!HH", port, 6432) + tlvs
    return SIGNATURE + bytes([command, 0x21 if address.version == 6 else 0x11]) + struct.pack("!H", len(body)) + body


HEADERS = {
    "v1": (v1(), HOST),
    "v1 over IPv6": (v1("2001:db8::17"), "2001:db8::17"),
    "v2": (v2(), HOST),
    "v2 over IPv6": (v2("2001:db8::17"), "2001:db8::17"),
    "v2 with extensions": (v2(tlvs=b"\xea\0\x05hello" + b"\x04" + struct.pack("!H", 3000) + bytes(3000)), HOST),
    "v1, not known": (b"PROXY UNKNOWN\r\n", BALANCER),
    "v1, not known, with more": (b"PROXY UNKNOWN ffff:f... 1 2 3\r\n", BALANCER),
    "v2, not known": (SIGNATURE + b"\x21\x00\0\0", BALANCER),
    "v2, a Unix socket": (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), BALANCER),
    "v2, its own": (SIGNATURE + b"\x20\x00\0\0", BALANCER),
    "v2, its own, with an address": (v2(command=0x20), BALANCER),
}


@pytest.fixture(scope="module")
def secured():
    """A server whose default user has a password."""
    with RedisGroup(name="proxied-redis", password="secret", replicas=0, sentinels=0, down_after=60) as group:
        yield group


@pytest.fixture
def behind(start_forebay, shared_cluster, secured):
    """Forebay behind a load balancer, for both protocols; keywords are keys of [security]."""
    def start(**security):
        whole = {"security": {**TRUST, **security}}
        return start_forebay(
            servers=shared_cluster, redis=[secured.service(by="nodes")], config=whole, failover=PATIENT)
    return start


def relayed(forebay, header=v1(), **login):
    """A connection that begins with a header."""
    return Wire(forebay.port, source=BALANCER, **login).send(header)


def relayed_redis(forebay, header=v1()):
    return RedisWire(forebay.redis_port(), source=BALANCER).send(header)


def shown(forebay):
    """Addresses and ports of the clients of the shared cluster."""
    return {(row["addr"], row["port"]) for row in forebay.admin("SHOW CLIENTS") if row["database"] == "bench"}


@pytest.mark.parametrize("header, host", HEADERS.values(), ids=HEADERS.keys())
def test_the_address_in_the_header_is_the_clients(behind, header, host):
    forebay = behind()
    client = relayed(forebay, header).login()
    assert client.value("select 1") == "1"
    port = PORT if host != BALANCER else int(client.address.split(":")[1])
    assert (host, port) in shown(forebay)
    redis = relayed_redis(forebay, header)
    assert redis.pipeline(("AUTH", "secret"), ("PING",)) == [b"OK", b"PONG"]
    port = PORT if host != BALANCER else int(redis.address.split(":")[1])
    address = f"addr={host}:{port} ".encode()
    assert address in redis.ask("CLIENT", "LIST"), redis.ask("CLIENT", "LIST")


@pytest.mark.parametrize("header", [v1(), v2(), v2(tlvs=b"\xea\0\x05hello")], ids=["v1", "v2", "v2 with extensions"])
def test_a_header_may_come_in_any_pieces(behind, header):
    forebay = behind()
    client = Wire(forebay.port, source=BALANCER)
    client.send_bytewise(header + client.startup_packet()).authenticate()
    assert client.value("select 1") == "1" and (HOST, PORT) in shown(forebay)
    redis = RedisWire(forebay.redis_port(), source=BALANCER).send_bytewise(header + command("AUTH", "secret"))
    assert redis.read() == b"OK"
    # In one piece with all that follows.
    client = Wire(forebay.port, source=BALANCER)
    client.send(header, client.startup_packet()).authenticate()
    redis = RedisWire(forebay.redis_port(), source=BALANCER).send(header, command("AUTH", "secret"), command("PING"))
    assert redis.replies(2) == [b"OK", b"PONG"]


def test_tls_begins_behind_the_header(start_forebay, authority):
    certificate, key = authority.sign("forebay")
    tls = {"mode": "require", "cert": str(certificate), "key": str(key)}
    forebay = start_forebay(tls=tls, config={"security": TRUST}, failover=PATIENT)
    context = ssl.create_default_context(cafile=authority.file)
    # The whole handshake's beginning comes in one piece with the header where TLS is direct.
    for is_direct in (False, True):
        client = Wire(forebay.port, source=BALANCER)
        if is_direct:
            context.set_alpn_protocols(["postgresql"])
            client.send(v2())
        else:
            client.send(v2(), wire.startup(wire.SSL_REQUEST))
            assert client.read_byte() == b"S"
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        assert client.login().value("select 1") == "1"
        [row] = [row for row in forebay.admin("SHOW CLIENTS", sslmode="require") if row["addr"] == HOST]
        assert row["port"] == PORT and row["tls"].startswith("TLS"), row
        client.close()
        wait_until(lambda: not [row for row in forebay.admin("SHOW CLIENTS", sslmode="require") if row["addr"] == HOST],
                   10, "it to have left")


def test_who_comes_directly_is_taken_for_himself(behind):
    forebay = behind()
    client = forebay.wire()
    assert ("127.0.0.1", int(client.address.split(":")[1])) in shown(forebay)
    assert RedisWire(forebay.redis_port()).ask("AUTH", "secret") == b"OK"


def test_a_header_of_somebody_else_is_refused(behind):
    forebay = behind()
    for header in (v1(), v2()):
        client = Wire(forebay.port, source="127.0.0.6").send(header, wire.startup(wire.PROTOCOL_3_0, {"user": "app"}))
        assert wire.errors(client.wait_closed()) == ["08P01"]
    redis = RedisWire(forebay.redis_port(), source="127.0.0.6").send(v1(), command("AUTH", "secret"), command("CLIENT", "LIST"))
    assert redis.read().startswith("ERR unknown command 'PROXY'") and redis.read() == b"OK"
    assert HOST.encode() not in redis.read()
    assert HOST not in str(forebay.admin("SHOW CLIENTS"))


def test_a_header_is_refused_where_none_is_expected(start_forebay):
    forebay = start_forebay(failover=PATIENT)
    client = Wire(forebay.port, source=BALANCER).send(v1())
    assert wire.errors(client.wait_closed()) == ["08P01"]
    forebay.wait_log("PROXY protocol header")


BROKEN = {
    "none": wire.startup(wire.PROTOCOL_3_0, {"user": "app", "database": "bench"}),
    "a command": command("AUTH", "secret"),
    "no port": b"PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
    "another family": b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
    "too long": b"PROXY TCP4 " + b"1" * 200,
    "version 3": SIGNATURE + b"\x31\x11\0\x0c" + bytes(12),
    "too short for its addresses": SIGNATURE + b"\x21\x11\0\x04" + bytes(4),
    "extensions without end": SIGNATURE + b"\x21\x11\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_without_a_header_the_load_balancer_itself_is_refused(behind, broken):
    forebay = behind()
    before = len(forebay.log())
    for port in (forebay.port, forebay.redis_port()):
        client = Wire(port, source=BALANCER).send(broken)
        assert client.wait_closed() == [], "who may be anybody is told nothing"
        forebay.wait_log(client.address, after=before)
    assert "PROXY header" in forebay.log()[before:]
    assert relayed(forebay).login().value("select 1") == "1", "it is not banned for that"


def test_who_sends_no_header_in_time_is_closed(behind):
    forebay = behind()
    silent = [Wire(forebay.port, source=BALANCER), Wire(forebay.redis_port(), source=BALANCER)]
    half = Wire(forebay.port, source=BALANCER).send(v2()[:20])
    for client in (*silent, half):
        assert client.wait_closed(20) == []
    files = forebay.fd_count()
    for _ in range(50):
        Wire(forebay.port, source=BALANCER).close()  # a plain check of the port
    wait_until(lambda: forebay.fd_count() <= files + 2, 10, "their sockets to be closed")


def test_clients_are_banned_and_not_the_load_balancer(behind):
    forebay = behind(ban_after=3, ban_allow=[])
    for _ in range(3):
        with pytest.raises(wire.ServerError, match="28P01"):
            relayed(forebay, password="wrong").login()
    with pytest.raises(wire.ServerError, match="28000: too many failed logins"):
        relayed(forebay).login()
    assert relayed_redis(forebay).wait_closed().startswith(b"-NOPERM too many failed logins")
    assert relayed(forebay, v1("192.0.2.18")).login().value("select 1") == "1"
    assert [row["address"] for row in forebay.admin("SHOW BANS")] == [HOST]
    forebay.admin("BAN '2001:db8::/32'")
    with pytest.raises(wire.ServerError, match="28000"):
        relayed(forebay, v2("2001:db8:7::1")).login()


def test_the_allow_list_is_about_the_client(behind):
    forebay = behind(allow=["192.0.2.0/24", "127.0.0.1"])
    assert relayed(forebay).login().value("select 1") == "1"
    with pytest.raises(wire.ServerError, match="28000: connections from this address are not allowed"):
        relayed(forebay, v1("192.0.3.1")).login()
    with pytest.raises(wire.ServerError, match="28000"):
        relayed(forebay, b"PROXY UNKNOWN\r\n").login()
    assert relayed(forebay, SIGNATURE + b"\x20\x00\0\0").login(), "its own checks get through"


def test_the_console_without_users_is_not_open_to_another_machines_loopback(start_forebay):
    forebay = start_forebay(config={"security": TRUST, "admin": {"user": None}}, wait="login", failover=PATIENT)
    assert forebay.admin("SHOW BANS", password=None) == []
    for header in (v1("127.0.0.1"), v2("::1"), b"PROXY UNKNOWN\r\n"):
        with pytest.raises(wire.ServerError, match="open to connections from its own machine only"):
            relayed(forebay, header, user="admin", dbname="forebay").login()


def test_a_reload_changes_whom_it_trusts(behind):
    forebay = behind()
    forebay.write({**forebay.config, "security": {}})
    forebay.reload()

    def is_direct():
        with Wire(forebay.port, source=BALANCER) as client:
            return client.login()
    wait_until(is_direct, 10, "the load balancer's own address to be one as any other")


# -- HAProxy ------------------------------------------------------------------------------------------------------


@pytest.fixture
def haproxy():
    """Starts HAProxy in front of a port: `haproxy(port, "send-proxy-v2")`; the port where it listens."""
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    started, taken = [], []

    def start(port, how, check=""):
        folder, listen = rundir.folder("haproxy"), ports.free_port()
        taken.append(listen)
        (folder / "haproxy.cfg").write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
            f"listen l\n  bind 127.0.0.1:{listen}\n  server s 127.0.0.1:{port} source {BALANCER} {how} {check}\n")
        started.append(subprocess.Popen(
            process.command_as(None, [program, "-db", "-f", folder / "haproxy.cfg"], "KILL"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))
        wait_until(lambda: socket.create_connection(("127.0.0.1", listen), 2).close() is None, 20, "HAProxy to listen")
        return listen
    yield start
    for one in started:
        process.kill_family(one.pid)
        one.wait(10)
    for port in taken:
        ports.release(port)


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
def test_through_haproxy(behind, haproxy, how):
    # Whom the clients are through HAProxy is told by it: 127.0.0.1, from the port that it sees.
    forebay = behind(ban_after=3, ban_allow=["127.0.0.99"])
    listen = haproxy(forebay.port, how, "check inter 100ms")
    redis = haproxy(forebay.redis_port(), how)
    psql = [bin_dir() / "psql", f"{forebay.dsn()} port={listen}"]
    done = subprocess.run([*psql, "-Atc", "select 'in'"], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "in\n", done.stderr
    with psycopg.connect(forebay.dsn(), port=listen) as connection:
        port = connection.pgconn.socket and socket.socket(fileno=socket.dup(connection.pgconn.socket)).getsockname()[1]
        assert ("127.0.0.1", port) in shown(forebay)
    client = RedisWire(redis)
    assert client.ask("AUTH", "secret") == b"OK"
    assert f"addr={client.address} ".encode() in client.ask("CLIENT", "LIST")
    # Whoever may be banned from HAProxy's address are its clients; its checks go on.
    spoof = Wire(listen).send(v1("127.0.0.99"))
    assert wire.errors(spoof.wait_closed()) == ["08P01"], "what a client says behind HAProxy's header is no header"
    for _ in range(2):
        with pytest.raises(wire.ServerError, match="28P01"):
            Wire(listen, password="wrong").login()
    with pytest.raises(wire.ServerError, match="28000"):
        Wire(listen).login()
    console = Wire(forebay.port, "admin", "forebay", source="127.0.0.99").login()
    assert [row[0] for row in console.run("SHOW BANS")] == ["127.0.0.1"]
