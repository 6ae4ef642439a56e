"""Who may connect, how often, and how long without a login."""

import time

import psycopg
import pytest

from harness import RedisGroup, RedisWire, Wire, wait_until, wire
from harness.redis_wire import command
from harness.wire import Closed

OTHER = "127.0.0.44"
LOCAL = ["127.0.0.1"]


@pytest.fixture(scope="module")
def secured():
    """A server whose default user has a password."""
    with RedisGroup(name="allowed-redis", password="secret", replicas=0, sentinels=0, down_after=60) as group:
        yield group


def guarded(start_forebay, shared_cluster, secured, keys=None, **security):
    """Forebay in front of both; `keys` are those of the Redis service."""
    redis = [secured.service(by="nodes", **(keys or {}))]
    return start_forebay(
        servers=shared_cluster, redis=redis, config={"security": security}, failover={"check_timeout": "10s"})


def refused(forebay, source=OTHER):
    """(SQLSTATE, message) that a login gets."""
    with pytest.raises(wire.ServerError) as told:
        Wire(forebay.port, source=source).login()
    return told.value.sqlstate, told.value.fields["M"]


def test_only_listed_addresses_may_connect(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured, allow=["127.0.0.0/30", "10.0.0.0/8"])
    assert Wire(forebay.port, source="127.0.0.2").login().value("select 1") == "1"
    assert refused(forebay) == ("28000", "connections from this address are not allowed")
    with pytest.raises(wire.ServerError, match="28000"):
        Wire(forebay.port, "admin", "forebay", source=OTHER).login()
    assert RedisWire(forebay.redis_port()).ask("AUTH", "secret") == b"OK"
    said = RedisWire(forebay.redis_port(), source=OTHER).wait_closed()
    assert said == b"-NOPERM connections from this address are not allowed\r\n"


def test_a_reload_changes_the_list(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured, allow=LOCAL)
    refused(forebay)
    forebay.write({**forebay.config, "security": {"allow": [*LOCAL, OTHER]}})
    forebay.admin("RELOAD")
    assert Wire(forebay.port, source=OTHER).login().value("select 1") == "1"
    forebay.admin("SET security.allow = '[\"127.0.0.1\"]'")
    refused(forebay)


def test_a_unix_socket_is_always_let_in(start_forebay, tmp_path):
    forebay = start_forebay(failover={"check_timeout": "10s"})
    forebay.write({**forebay.config, "security": {"allow": ["10.0.0.1"], "connect_rate": 1, "connect_burst": 1}})
    forebay.change(listen=[f"127.0.0.1:{forebay.port}", f"{tmp_path}/.s.PGSQL.{forebay.port}"])
    forebay.kill()
    forebay.start(wait="")
    wait_until(lambda: forebay.admin("SHOW VERSION", host=tmp_path), 20, "the socket")
    for _ in range(5):
        with psycopg.connect(forebay.dsn(host=tmp_path)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert refused(forebay, "127.0.0.1")[0] == "28000"


def test_new_connections_of_one_address_are_limited(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured)
    # One in a hundred seconds would be less than one a second: the burst is what there is.
    forebay.admin("SET security.connect_burst = 5")
    forebay.admin("SET security.connect_rate = 1")
    begin, told = time.monotonic(), []
    for _ in range(20):
        try:
            Wire(forebay.port, source=OTHER).login()
            told.append(None)
        except wire.ServerError as error:
            told.append((error.sqlstate, error.fields["M"]))
    let_in = told.count(None)
    assert 5 <= let_in <= 6 + (time.monotonic() - begin), told
    assert {one for one in told if one} == {("53300", "too many new connections from this address; try again later")}
    assert Wire(forebay.port, source="127.0.0.45").login().value("select 1") == "1"
    # Redis' clients come from the same account.
    crowd = [RedisWire(forebay.redis_port(), source="127.0.0.46") for _ in range(20)]
    answers = [one.order("AUTH", "secret").read() for one in crowd]
    assert sum(answer == "ERR too many new connections from this address; try again later" for answer in answers) >= 12
    wait_until(lambda: Wire(forebay.port, source=OTHER).login(), 20, "it to be let in again")


def test_connections_that_have_not_logged_in_are_limited(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured, max_pending_logins_per_address=3)
    silent = [Wire(forebay.port, source=OTHER), RedisWire(forebay.redis_port(), source=OTHER)]
    silent.append(Wire(forebay.port, source=OTHER))
    silent[2].send(silent[2].startup_packet()).read_frame()
    # Redis' connection is one of those that wait once it has been heard.
    assert silent[1].send(command("PING")).socket.recv(100).startswith(b"-NOAUTH")
    wait_until(lambda: _is(forebay, "53300"), 10, "the limit")
    assert "have not logged in yet" in refused(forebay)[1]
    assert RedisWire(forebay.redis_port(), source=OTHER).wait_closed().startswith(b"-ERR too many connections from this")
    assert Wire(forebay.port, source="127.0.0.45").login().value("select 1") == "1"
    silent.pop().close()
    inside = wait_until(lambda: Wire(forebay.port, source=OTHER).login(), 10, "a place")
    assert inside.value("select 1") == "1"
    more = [Wire(forebay.port, source=OTHER).login() for _ in range(5)]
    assert all(one.value("select 1") == "1" for one in more), "who has logged in takes no place"
    assert silent[1].ask("AUTH", "secret") == b"OK"
    logged_in = [RedisWire(forebay.redis_port(), source=OTHER) for _ in range(2)]
    assert [one.ask("AUTH", "secret") for one in logged_in] == [b"OK"] * 2


def _is(forebay, sqlstate):
    try:
        Wire(forebay.port, source=OTHER).login().close()
    except wire.ServerError as error:
        return error.sqlstate == sqlstate
    return False


def test_connections_without_a_login_are_limited_over_all_addresses(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured, max_pending_logins=10)
    silent = []

    def is_full():
        # Whoever came before may not have left yet, so that one of these may be refused itself.
        silent.append(Wire(forebay.port, source=f"127.0.1.{len(silent) + 1}"))
        return _is(forebay, "53300")
    wait_until(is_full, 10, "the limit")
    assert len(silent) >= 8
    for one in silent:
        one.close()
    wait_until(lambda: Wire(forebay.port, source=OTHER).login(), 10, "places")


# -- slow clients -------------------------------------------------------------------------------------------------


def _drips(client, data, limit=15):
    """Sends a byte whenever a tenth of a second has passed; the seconds until the other side closes."""
    begin = time.monotonic()
    client.socket.settimeout(0.1)
    for byte in data:
        try:
            client.socket.sendall(bytes([byte]))
            if not client.socket.recv(1000):
                return time.monotonic() - begin
        except TimeoutError:
            pass
        except ConnectionError:
            return time.monotonic() - begin
        assert time.monotonic() - begin < limit, "it was never closed"
    raise AssertionError("all was sent")


def test_a_postgres_client_that_drips_is_closed_at_the_deadline(start_forebay):
    forebay = start_forebay(failover={"check_timeout": "10s"}, pool={"client_login_timeout": "1s"})
    packet = wire.startup(wire.PROTOCOL_3_0, {"user": "app", "database": "x" * 1000})
    assert _drips(Wire(forebay.port), packet) > 0.5
    client = Wire(forebay.port)
    client.send(client.startup_packet()).read_frame()
    assert _drips(client, wire.frame("p", b"SCRAM-SHA-256" + bytes(1000))) >= 0.1


def test_a_tls_handshake_that_drips_is_closed_at_the_deadline(start_forebay, authority):
    certificate, key = authority.sign("forebay")
    tls = {"mode": "allow", "cert": str(certificate), "key": str(key)}
    forebay = start_forebay(failover={"check_timeout": "10s"}, pool={"client_login_timeout": "1s"}, tls=tls)
    client = Wire(forebay.port).send(wire.startup(wire.SSL_REQUEST))
    assert client.read_byte() == b"S"
    assert _drips(client, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(1000)) > 0.1


def test_a_redis_client_that_has_to_log_in_is_closed_at_the_deadline(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured, keys={"client_login_timeout": "1s"})
    port = forebay.redis_port()
    inside = RedisWire(port)
    assert inside.ask("AUTH", "secret") == b"OK"
    silent, busy = RedisWire(port), RedisWire(port)
    assert _drips(RedisWire(port), command("AUTH", "x" * 1000)) > 0.5

    def is_closed():
        try:
            busy.ask("PING")
        except (Closed, OSError):
            return True
    wait_until(is_closed, 10, "who says much and logs in never to be closed")
    silent.wait_closed(10)
    assert inside.ask("PING") == b"PONG", "who has logged in may be silent"
    assert inside.ask("RESET") == b"RESET"
    inside.wait_closed(10)


def test_a_redis_client_without_a_password_to_give_may_be_silent(start_forebay, shared_redis):
    forebay = start_forebay(redis=[shared_redis.service(client_login_timeout="500ms")])
    client = forebay.redis().wire()
    assert client.nothing_comes(1.5) and client.ask("PING") == b"PONG"


def test_what_a_redis_client_may_send_without_a_login_is_little(start_forebay, shared_cluster, secured):
    forebay = guarded(start_forebay, shared_cluster, secured)
    port = forebay.redis_port()
    for sent in (b"*2\r\n$4\r\nAUTH\r\n$536870912\r\n", b"*1000000\r\n", b"x" * 100_000):
        assert RedisWire(port).send(sent).wait_closed().startswith(b"-ERR Protocol error")
    # Answers that nobody reads are not kept either: the requests wait.
    before = forebay.rss_kib()
    crowd = [RedisWire(port, receive_buffer=4096) for _ in range(20)]
    for client in crowd:
        client.socket.settimeout(0.5)
        try:
            for _ in range(200):
                client.socket.sendall(command("GET", "k") * 4000)
        except (TimeoutError, OSError):
            continue
        raise AssertionError("20 MB of requests were taken whose answers nobody reads")
    assert forebay.rss_kib() - before < 64 * 1024
