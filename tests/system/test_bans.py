"""Bans: an address that fails to log in too often is refused for a while, on both protocols; so is whom an admin bans."""

import os
import signal
import socket
import subprocess

import psycopg
import pytest

from harness import RedisGroup, RedisWire, Wire, wait_until, wire
from harness.postgres import bin_dir
from harness.redis_wire import ReplyError
from harness.scene import events
from harness.waiting import stays

# Addresses of this machine from which clients of the tests come; the admin comes from 127.0.0.1.
BAD, GOOD = "127.0.0.66", "127.0.0.7"
STRICT = {"ban_after": 3, "ban_window": "10m", "ban_time": "1h", "ban_allow": ["127.0.0.1"]}


def strict(start_forebay, **changes):
    """Forebay with few failures allowed to all but 127.0.0.1."""
    security = {**STRICT, **changes.pop("security", {})}
    return start_forebay(config={"security": security}, failover={"check_timeout": "10s"}, **changes)


def wrong(forebay, source=BAD, **login):
    """A login with a wrong password; the SQLSTATE that it is refused with."""
    with pytest.raises(wire.ServerError) as refused:
        Wire(forebay.port, **{"password": "wrong", **login}, source=source).login()
    return refused.value.sqlstate


def refusal(forebay, source=BAD):
    """What an address is told that is refused at the door."""
    with pytest.raises(wire.ServerError) as refused:
        Wire(forebay.port, source=source).login()
    assert refused.value.sqlstate == "28000", refused.value
    return str(refused.value)


def logs_in(forebay, source=BAD):
    """True if a login succeeds."""
    with Wire(forebay.port, source=source) as client:
        return client.login().value("select 1") == "1"


def banned(forebay):
    """The addresses in SHOW BANS."""
    return [row["address"] for row in forebay.admin("SHOW BANS")]


# -- failed logins ------------------------------------------------------------------------------------------------


def test_after_so_many_wrong_passwords_an_address_is_refused_and_no_other(start_forebay):
    forebay = strict(start_forebay)
    assert [wrong(forebay) for _ in range(2)] == ["28P01", "28P01"]
    assert logs_in(forebay), "not yet"
    assert wrong(forebay, user="nobody") == "28P01"
    assert "too many failed logins from this address; try again in 60 minutes" in refusal(forebay)
    assert logs_in(forebay, GOOD) and logs_in(forebay, "127.0.0.1")
    [row] = forebay.admin("SHOW BANS")
    assert list(row) == ["address", "until", "reason", "failures"]
    assert (row["address"], row["reason"], row["failures"]) == (BAD, "failed logins", 3)
    assert row["until"].endswith(" UTC")
    assert events(forebay, "banned") == [f"{BAD} for 60 minutes, after 3 failed logins"]


def test_a_ban_ends_by_itself(start_forebay):
    forebay = strict(start_forebay, security={"ban_time": "1s"})
    for _ in range(3):
        wrong(forebay)
    wait_until(lambda: logs_in(forebay), 20, "the ban to end")
    assert banned(forebay) == []


def test_failures_outside_of_the_window_do_not_count(start_forebay):
    forebay = strict(start_forebay, security={"ban_after": 2, "ban_window": "1ms"})
    for _ in range(20):
        assert wrong(forebay) == "28P01"
    assert banned(forebay) == []


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(start_forebay):
    forebay = strict(start_forebay)
    clients = [Wire(forebay.port, password="wrong" if n < 9 else "app", source=BAD) for n in range(10)]
    for client in clients:
        client.send(client.startup_packet())
    told = []
    for client in clients:
        with pytest.raises(wire.ServerError) as refused:
            client.authenticate()
        told.append(refused.value.sqlstate)
    assert told == ["28P01"] * 3 + ["28000"] * 7, "who guesses right behind them learns nothing"


def test_a_session_goes_on_when_its_address_is_banned(start_forebay):
    forebay = strict(start_forebay)
    client = Wire(forebay.port, source=BAD).login()
    for _ in range(3):
        wrong(forebay)
    refusal(forebay)
    assert client.value("select 1") == "1"


JUNK = {
    "zeros": b"\0" * 64,
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "no user": wire.startup(wire.PROTOCOL_3_0, {"database": "bench"}),
    "a header of a load balancer": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
    "a query instead of a password": wire.startup(wire.PROTOCOL_3_0, {"user": "app"}) + wire.query("select 1"),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_what_is_no_login_counts(start_forebay, junk):
    forebay = strict(start_forebay)
    for _ in range(3):
        Wire(forebay.port, source=BAD).send(junk).wait_closed()
    refusal(forebay)


def test_broken_tls_handshakes_count(start_forebay, authority):
    certificate, key = authority.sign("forebay")
    forebay = strict(start_forebay, tls={"mode": "allow", "cert": str(certificate), "key": str(key)})
    for _ in range(3):
        client = Wire(forebay.port, source=BAD).send(wire.startup(wire.SSL_REQUEST))
        assert client.read_byte() == b"S"
        client.send(b"\x16\x03\x01\x00\x05hello")
        try:
            while client.socket.recv(1000):
                pass
        except ConnectionError:
            pass
    wait_until(lambda: banned(forebay) == [BAD], 10, "it to be banned")


def test_who_leaves_has_failed_at_nothing(start_forebay):
    forebay = strict(start_forebay)
    for _ in range(10):
        Wire(forebay.port, source=BAD).close()
        Wire(forebay.port, source=BAD).send(b"\0\0").close()
        # As psql does before it asks its user for the password.
        client = Wire(forebay.port, source=BAD)
        client.send(client.startup_packet()).read_frame()
        client.close()
        Wire(forebay.port, source=BAD).send(wire.startup(wire.SSL_REQUEST)).reset()
    assert logs_in(forebay) and banned(forebay) == []


def test_failures_at_the_console_count(start_forebay):
    forebay = strict(start_forebay)
    for _ in range(3):
        assert wrong(forebay, user="admin", dbname="forebay") == "28P01"
    refusal(forebay)


def test_this_machine_is_not_banned_unless_the_configuration_says_so(start_forebay):
    forebay = start_forebay(config={"security": {"ban_after": 1}})
    for _ in range(5):
        assert wrong(forebay, "127.0.0.1") == wrong(forebay, BAD) == "28P01"
    assert banned(forebay) == []


def test_psql_tells_its_user_what_has_happened(start_forebay):
    # psql cannot choose its own address: it comes over IPv6, the admin over IPv4.
    forebay = strict(start_forebay, security={"ban_allow": ["127.0.0.0/8"]})
    forebay.change(listen=[f"127.0.0.1:{forebay.port}", f"[::1]:{forebay.port}"])
    forebay.kill()
    forebay.start()

    def psql(password):
        return subprocess.run(
            [bin_dir() / "psql", f"host=::1 port={forebay.port} user=app dbname=bench", "-Atc", "select 'in'"],
            env={**os.environ, "PGPASSWORD": password}, capture_output=True, text=True, timeout=30, check=False)
    for _ in range(3):
        assert "password authentication failed" in psql("wrong").stderr
    assert "too many failed logins from this address; try again in 60 minutes" in psql("app").stderr
    assert banned(forebay) == ["::/64"]
    forebay.admin("UNBAN '::1'")
    assert psql("app").stdout == "in\n"


def test_who_is_banned_can_hold_nothing(start_forebay):
    forebay = strict(start_forebay)
    forebay.admin(f"BAN '{BAD}'")
    files = forebay.fd_count()
    crowd = [socket.create_connection(("127.0.0.1", forebay.port), 10, (BAD, 0)) for _ in range(400)]
    wait_until(lambda: forebay.fd_count() <= files + 5, 20, "all of them to be closed, though they say nothing")
    assert logs_in(forebay, GOOD)
    for one in crowd:
        one.close()


# -- Redis --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured():
    """A server whose default user has a password, and with a user `alice`."""
    with RedisGroup(name="banned-redis", password="secret", users=["alice on >wonder ~* +@all"], replicas=0, sentinels=0,
                    down_after=60) as group:
        yield group


def logins(port, *login, source=BAD):
    return RedisWire(port, source=source).ask(*login)


LOGINS = {"AUTH": ("AUTH", "wrong"), "AUTH of a user": ("AUTH", "alice", "wrong"), "HELLO": ("HELLO", 3, "AUTH", "alice", "x")}


@pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS.keys())
def test_failed_logins_at_redis_are_banned_from_both_protocols(start_forebay, shared_cluster, secured, login):
    forebay = strict(start_forebay, servers=shared_cluster, redis=[secured.service(by="nodes")])
    port = forebay.redis_port()
    client = RedisWire(port, source=BAD)
    assert [client.ask(*login).code for _ in range(2)] == ["WRONGPASS"] * 2
    assert client.ask("AUTH", "secret") == b"OK" and client.ask("PING") == b"PONG"
    other = RedisWire(port, source=BAD)
    assert other.ask(*login).code == "WRONGPASS"
    assert other.wait_closed() == b"", "it may not go on trying on the same connection"
    told = logins(port, "AUTH", "secret")
    assert told.code == "NOPERM" and "too many failed logins from this address" in told
    assert client.ask("AUTH", "secret").code == "NOPERM" and client.wait_closed() == b"", "nor on another one"
    refusal(forebay)
    assert logins(port, "AUTH", "secret", source=GOOD) == b"OK" and logs_in(forebay, GOOD)
    assert banned(forebay) == [BAD]
    forebay.admin(f"UNBAN '{BAD}'")
    assert logins(port, "AUTH", "secret") == b"OK"


def test_failed_logins_at_postgres_are_banned_from_redis(start_forebay, shared_cluster, secured):
    forebay = strict(start_forebay, servers=shared_cluster, redis=[secured.service(by="nodes")])
    for _ in range(3):
        wrong(forebay)
    said = RedisWire(forebay.redis_port(), source=BAD).wait_closed()
    assert said.startswith(b"-NOPERM too many failed logins") and said.endswith(b"\r\n"), said


def test_errors_that_are_no_wrong_passwords_do_not_count(start_forebay, shared_redis):
    forebay = strict(start_forebay, redis=[shared_redis.service()])
    client = RedisWire(forebay.redis_port(), source=BAD)
    for _ in range(5):
        assert isinstance(client.ask("AUTH", "a", "b", "c"), ReplyError)
        assert isinstance(client.ask("HELLO", 9), ReplyError)
        # A server without a password says that there is none.
        assert "without any password configured" in client.ask("AUTH", "x")
    assert client.ask("PING") == b"PONG" and banned(forebay) == []


def test_redis_cli_tells_its_user_what_has_happened(start_forebay, secured):
    forebay = strict(start_forebay, redis=[secured.service(by="nodes")], security={"ban_allow": ["127.0.0.0/8"]})
    forebay.change_redis(listen=[f"127.0.0.1:{forebay.redis_port()}", f"[::1]:{forebay.redis_port()}"])
    forebay.kill()
    forebay.start()

    def cli(password):
        command = ["redis-cli", "-h", "::1", "-p", str(forebay.redis_port()), "-a", password, "--no-auth-warning", "PING"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr
    assert "PONG" in cli("secret")
    for _ in range(3):
        assert "WRONGPASS" in cli("wrong")
    assert "too many failed logins from this address" in cli("secret")
    forebay.admin("UNBAN '::/64'")
    assert "PONG" in cli("secret")


# -- by hand ------------------------------------------------------------------------------------------------------


def test_an_admin_bans_and_unbans_addresses_and_blocks(start_forebay, shared_cluster, secured):
    forebay = strict(start_forebay, servers=shared_cluster, redis=[secured.service(by="nodes")])
    with forebay.console() as console:
        notices = []
        console.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        assert console.execute(f"BAN '{BAD}' FOR '90s'").statusmessage == "BAN"
        assert notices and BAD in notices[0]
    assert "refused by an administrator for another 90 seconds" in refusal(forebay)
    assert logins(forebay.redis_port(), "AUTH", "secret").code == "NOPERM"
    assert logs_in(forebay, GOOD)
    forebay.admin("BAN '127.0.0.0/28'")
    refusal(forebay, GOOD)
    assert logs_in(forebay, "127.0.0.1"), "in ban_allow"
    assert [(row["address"], row["reason"], row["failures"]) for row in forebay.admin("SHOW BANS")] == [
        (BAD, "BAN by admin", 0), ("127.0.0.0/28", "BAN by admin", 0)], "those that end first in front"
    with pytest.raises(psycopg.Error, match="is banned as a part of 127.0.0.0/28"):
        forebay.admin(f"UNBAN '{GOOD}'")
    forebay.admin("UNBAN '127.0.0.0/8'")
    assert logs_in(forebay) and logs_in(forebay, GOOD) and banned(forebay) == []
    with pytest.raises(psycopg.Error, match="is not banned"):
        forebay.admin(f"UNBAN '{BAD}'")
    assert [detail.split(" until ")[0] for detail in events(forebay, "banned")] == [BAD, "127.0.0.0/28"]
    assert all(detail.endswith("by admin") for detail in events(forebay, "banned"))
    [lifted] = events(forebay, "unbanned")
    assert BAD in lifted and "127.0.0.0/28" in lifted and lifted.endswith("by admin")


def test_a_ban_by_hand_ends_by_itself(start_forebay):
    forebay = strict(start_forebay)
    forebay.admin(f"BAN '{BAD}' FOR '1s'")
    wait_until(lambda: logs_in(forebay), 20, "the ban to end")


def test_what_cannot_be_banned_is_said(start_forebay):
    forebay = strict(start_forebay)
    for statement in ("BAN", "BAN 10.0.0.1", "BAN 'lan'", "BAN '10.0.0.0/33'", "BAN '10.0.0.1' FOR", "BAN '10.0.0.1' FOR 'x'",
                      "BAN '10.0.0.1' UNTIL '5s'", "BAN '10.0.0.1' FOR '5s' x", "UNBAN", "UNBAN 'x'", "UNBAN '10.0.0.1' x"):
        with pytest.raises(psycopg.errors.SyntaxError):
            forebay.admin(statement)
    with pytest.raises(psycopg.Error, match="security.ban_allow, and is never banned"):
        forebay.admin("BAN '127.0.0.1'")
    with pytest.raises(psycopg.Error, match="must last for some time"):
        forebay.admin("BAN '10.0.0.1' FOR '0s'")
    for statement in ("BAN '10.0.0.1'", "UNBAN '10.0.0.1'"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            forebay.admin(statement, user="viewer")
    assert forebay.admin("SHOW BANS", user="viewer") == []
    assert not events(forebay, "banned")


def test_bans_survive_a_reload_and_follow_the_new_rules(start_forebay):
    forebay = strict(start_forebay)
    for _ in range(3):
        wrong(forebay)
    forebay.admin("BAN '10.0.0.0/8'")
    forebay.admin("RELOAD")
    assert banned(forebay) == [BAD, "10.0.0.0/8"]
    refusal(forebay)
    forebay.write({**forebay.config, "security": {**STRICT, "ban_allow": ["127.0.0.0/8"]}})
    forebay.send_signal(signal.SIGHUP)
    wait_until(lambda: logs_in(forebay), 10, "ban_allow to let it in")
    assert banned(forebay) == ["10.0.0.0/8"]


def test_a_long_ban_stays(start_forebay):
    forebay = strict(start_forebay)
    forebay.admin(f"BAN '{BAD}' FOR '3650d'")
    assert "for another 3650 days" in refusal(forebay)
    stays(lambda: banned(forebay) == [BAD], 0.3, "the ban")
