"""TLS between clients and a Redis service, as redis-cli, redis-py, openssl and raw sockets speak it."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading

import psycopg
import pytest
import redis

from harness import redis_talk, rundir, wait_until
from harness.certificates import Authority
from harness.redis_servers import RedisTls
from harness.redis_talk import by
from harness.redis_wire import Push, RedisWire, command
from harness.wire import Closed


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, which nobody here knows."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def files(authority):
    return authority.sign("forebay")


@pytest.fixture
def with_tls(start_forebay, shared_redis, files):
    """Starts Forebay with a certificate for localhost, in front of the shared group."""
    def start(mode="require", shown=None, wait="nodes", **more):
        certificate, key = shown or files
        keys = {name: more.pop(name) for name in ("ca", "min_version", "timeout") if name in more}
        tls = {"mode": mode, "cert": str(certificate), "key": str(key), **keys}
        return start_forebay(redis=[shared_redis.service(client_tls=tls, **more)], wait=wait)
    return start


def context(authority, shown=None, **options):
    """Of a client that checks everything."""
    made = ssl.create_default_context(cafile=str(authority.file))
    for name, value in options.items():
        setattr(made, name, value)
    if shown:
        made.load_cert_chain(*shown)
    return made


def refusal(forebay, tls=None):
    """What a client gets that is not let in, as far as it gets anything."""
    try:
        with RedisWire(forebay.redis_port(), tls=tls) as wire:
            return wire.ask("PING")
    except (Closed, OSError) as problem:
        return problem


def s_client(forebay, *arguments):
    """openssl's client; the answer is what it prints."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{forebay.redis_port()}", *map(str, arguments)],
        input="", capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


# -- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, is_encrypted, is_clear", [
    ("disable", False, True), ("allow", True, True), ("prefer", True, True), ("require", True, False)])
def test_the_mode_says_who_is_let_in(with_tls, authority, mode, is_encrypted, is_clear):
    forebay = with_tls(mode)
    for tls, is_let_in in ((context(authority), is_encrypted), (None, is_clear)):
        assert (refusal(forebay, tls) == b"PONG") == is_let_in
    if not is_clear:
        assert refusal(forebay) == "NOAUTH this service takes TLS connections only"
        forebay.wait_log("it speaks clear text, client_tls.mode asks for TLS")


def test_redis_py_shows_why_it_is_not_let_in(with_tls):
    with pytest.raises(redis.AuthenticationError, match="TLS connections only"):
        with_tls().redis().client().ping()


def test_a_handshake_where_clear_text_is_spoken_is_told_of(start_forebay, shared_redis, authority):
    forebay = start_forebay(redis=[shared_redis.service()])
    assert isinstance(refusal(forebay, context(authority)), ssl.SSLError)
    forebay.wait_log("it began a TLS handshake where clear text is spoken")
    wire = forebay.redis().wire()
    wire.send(b"\x16\x03\x01")
    assert wire.read() == "ERR Protocol error: a TLS handshake, where clear text is spoken"
    assert wire.wait_closed() == b""


def test_redis_cli_and_redis_py_check_the_certificate(with_tls, authority, stranger):
    forebay = with_tls()

    def cli(ca):
        return subprocess.run(
            ["redis-cli", "--tls", "--cacert", ca, "-h", "localhost", "-p", str(forebay.redis_port()), "PING"],
            capture_output=True, text=True, timeout=30, check=False)
    assert cli(authority.file).stdout == "PONG\n"
    assert "certificate verify failed" in cli(stranger.file).stderr
    def client_of(ca, **options):
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.Redis("localhost", forebay.redis_port(), ssl=True, ssl_ca_certs=str(ca), retry=once, **options)
    for protocol in (2, 3):
        client = client_of(authority.file, protocol=protocol)
        assert client.ping() and int(client.client_info()["resp"]) == protocol
    with pytest.raises(redis.ConnectionError, match="verify failed"):
        client_of(stranger.file).ping()


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_client_has_to_show_a_certificate_of_the_authority(with_tls, authority, stranger, mode):
    forebay = with_tls(mode, ca=str(authority.file))
    assert refusal(forebay, context(authority, authority.sign("app"))) == b"PONG"
    expired = authority.sign("late", days=-1)
    for shown in (None, stranger.sign("app"), expired):
        assert isinstance(refusal(forebay, context(authority, shown)), (Closed, OSError))
    assert refusal(forebay).code == "NOAUTH"
    wait_until(lambda: forebay.log().count("a TLS handshake failed") == 3, 10, "each of them in the log")


def test_a_certificate_that_is_not_asked_for_is_checked_if_it_is_shown(with_tls, authority, stranger):
    forebay = with_tls("require", ca=str(authority.file))
    assert refusal(forebay, context(authority)) == b"PONG"
    assert refusal(forebay, context(authority, authority.sign("app"))) == b"PONG"
    assert isinstance(refusal(forebay, context(authority, stranger.sign("app"))), (Closed, OSError))


def test_the_oldest_version_is_kept(with_tls):
    forebay = with_tls()
    assert "TLSv1.2, Cipher is" in s_client(forebay, "-tls1_2") and "TLSv1.3, Cipher is" in s_client(forebay)
    newest = with_tls(min_version="1.3")
    assert "TLSv1.3, Cipher is" in s_client(newest) and "alert protocol version" in s_client(newest, "-tls1_2")


def test_a_session_is_taken_up_again(with_tls, tmp_path):
    """As of a client that connects often: without the price of a whole handshake."""
    forebay, kept = with_tls(), tmp_path / "session"
    assert "Reused" not in s_client(forebay, "-tls1_2", "-sess_out", kept)
    assert "Reused, TLSv1.2" in s_client(forebay, "-tls1_2", "-sess_in", kept)


def test_a_unix_socket_needs_none(start_forebay, shared_redis, files):
    path = str(rundir.folder("socket") / "redis")
    tls = {"mode": "require", "cert": str(files[0]), "key": str(files[1])}
    service = shared_redis.service(client_tls=tls)
    service["listen"] = [path]
    start_forebay(redis=[service])
    assert redis.Redis(unix_socket_path=path).ping()


# -- handshakes that do not come to an end ----------------------------------------------------------------------------


def hello(authority):
    """The beginning of a handshake."""
    sent = ssl.MemoryBIO()
    half = context(authority).wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    return sent.read()


@pytest.mark.parametrize("mode", ["allow", "require"])
def test_who_does_not_finish_is_closed_and_holds_up_nobody(with_tls, authority, mode):
    forebay = with_tls(mode, timeout="1s")
    whole = hello(authority)
    slow = [forebay.redis().wire() for _ in range(20)]
    for wire, sent in zip(slow, [whole[:1], whole[:100], whole, b"\x16\x03\x01\x02\x00\x01\x00"] * 5):
        wire.send(sent)
    quick = RedisWire(forebay.redis_port(), tls=context(authority))
    for _ in range(100):
        assert quick.ask("PING") == b"PONG"
    for wire in slow:
        wire.wait_closed()
    wait_until(lambda: forebay.log().count("did not finish its TLS handshake") == 20, 10, "each of them in the log")
    assert quick.ask("PING") == b"PONG"


def test_who_says_nothing_is_closed_only_where_it_has_to_speak_tls(with_tls):
    required, allowed = with_tls("require", timeout="200ms"), with_tls("allow", timeout="200ms")
    patient = allowed.redis().wire()
    required.redis().wire().wait_closed()
    required.redis().wire().wait_closed()
    assert patient.ask("PING") == b"PONG", "a client in clear text may stay silent, as with Redis itself"


def test_junk_is_refused(with_tls, authority):
    forebay = with_tls("allow")
    junk = [b"\x16" * 5000, b"\x16\x03\x01\x00\x05" + b"\xff" * 5, b"\x16\x03\x01\xff\xff" + bytes(70000),
            hello(authority) + b"PING\r\n" * 1000, hello(authority) * 2, b"\x16\x03\x01\x00\x00" * 1000]
    for sent in junk:
        with forebay.redis().wire() as wire:
            try:
                wire.send(sent)
                wire.wait_closed()
            except OSError:  # it was closed before all of it was sent
                pass
    wait_until(lambda: forebay.log().count("a TLS handshake failed") == len(junk), 10, "each of them in the log")
    assert refusal(forebay, context(authority)) == b"PONG" == refusal(forebay)


def test_bytes_may_come_one_by_one(with_tls, authority):
    """The handshake, and the requests behind it; those in clear text, too."""
    forebay = with_tls("allow")
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(authority).wrap_bio(to_us, to_them, server_hostname="localhost")
    wire = forebay.redis().wire()

    def until_done(step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                wire.send_bytewise(to_them.read())
                to_us.write(wire.socket.recv(65536))
    until_done(client.do_handshake)
    client.write(command("PING") + command("ECHO", "x"))
    wire.send_bytewise(to_them.read())
    came = b""
    while len(came) < 14:
        came += until_done(client.read)
    assert came == b"+PONG\r\n$1\r\nx\r\n"
    clear = forebay.redis().wire()
    clear.send_bytewise(command("PING"))
    assert clear.read() == b"PONG"


def test_unfinished_handshakes_count_as_clients_and_are_let_go_of(with_tls, authority):
    forebay = with_tls(timeout="30s", max_clients=3)
    silent = []

    def is_full():
        if isinstance(refusal(forebay, context(authority)), (Closed, OSError)):
            return True
        # One may have been refused itself: whoever came before it had not left yet.
        silent.append(forebay.redis().wire())
        return False
    wait_until(is_full, 10, "no room for more")
    for wire in silent:
        wire.close()
    wait_until(lambda: refusal(forebay, context(authority)) == b"PONG", 10, "room again")


def test_a_stop_does_not_wait_for_them(with_tls, authority):
    forebay = with_tls("allow", timeout="60s")
    silent, half = forebay.redis().wire(), forebay.redis().wire()
    half.send(hello(authority)[:50])
    assert refusal(forebay) == b"PONG"
    forebay.term()
    assert silent.wait_closed() == half.wait_closed() == b""
    assert forebay.wait_end(15) == 0


# -- what passes ------------------------------------------------------------------------------------------------------


TALKS = {
    "data": ["SET k v", "GET k", "LPUSH l a b c", "LRANGE l 0 -1", "GET l", "NOSUCH x", "HSET h f 1", "HGETALL h"],
    "transactions": ["MULTI", "INCR n", by("b", "GET n"), "EXEC", "WATCH n", by("b", "INCR n"), "MULTI", "GET n", "EXEC"],
    "blocked commands": [by("b", "RPUSH q 1 2"), "BLPOP q 1", "BLMOVE q r LEFT RIGHT 1", "BLPOP none 0.1"],
    "databases": ["SELECT 3", "SET k 3", by("b", "GET k"), "SELECT 0", "GET k"],
}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("steps", TALKS.values(), ids=TALKS.keys())
def test_talks_go_as_with_redis_itself(with_tls, shared_redis, authority, steps, protocol):
    endpoint = with_tls().redis(tls=context(authority))
    redis_talk.goes_as_directly(steps, endpoint, shared_redis, protocol)


@pytest.fixture
def both_sides(new_redis, start_forebay, authority, files):
    """(node, endpoint): TLS on both sides of Forebay."""
    group = new_redis(tls=RedisTls(authority), replicas=0, sentinels=0, settings={"maxmemory": "2gb"})
    keys = {"tls": {"mode": "verify-full", "ca": str(authority.file)},
            "client_tls": {"mode": "require", "cert": str(files[0]), "key": str(files[1])}}
    forebay = start_forebay(redis=[group.service(by="nodes", **keys)])
    return group.nodes[0], forebay.redis(tls=context(authority))


def test_100_mb_pass_both_ways(both_sides, name):
    _, endpoint = both_sides
    value = os.urandom(1 << 20) * 100
    wire = endpoint.wire(timeout=90)
    assert wire.ask("SET", name, value) == b"OK"
    assert wire.ask("GET", name) == value
    assert wire.ask("PING") == b"PONG"


def test_a_client_that_reads_slowly_gets_everything(both_sides, name):
    """Its socket takes less than a record at a time, and others are served meanwhile."""
    _, endpoint = both_sides
    slow, other = endpoint.wire(timeout=60, receive_buffer=4096), endpoint.wire(timeout=60)
    assert slow.ask("SET", name, "0123456789abcdef" * 4096) == b"OK"
    slow.send(*[command("GET", name)] * 300)
    for _ in range(200):
        assert other.ask("PING") == b"PONG"
    for _ in range(300):
        assert slow.read() == b"0123456789abcdef" * 4096


def test_many_requests_in_one_write_are_answered_in_order(both_sides, name):
    _, endpoint = both_sides
    wires = [endpoint.wire(timeout=60) for _ in range(8)]

    def count(wire, key):
        for turn in range(5):
            wire.send(*[command("INCR", key)] * 5000)
            assert wire.replies(5000) == list(range(turn * 5000 + 1, turn * 5000 + 5001))
    threads = [threading.Thread(target=count, args=(wire, f"{name}:{n}")) for n, wire in enumerate(wires)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert [wires[0].ask("GET", f"{name}:{n}") for n in range(8)] == [b"25000"] * 8


@pytest.mark.parametrize("protocol", [2, 3])
def test_subscriptions_and_tracking(both_sides, name, protocol):
    _, endpoint = both_sides
    listener, sender = endpoint.wire(), endpoint.wire()
    listener.ask("HELLO", protocol)
    assert listener.ask("SUBSCRIBE", name)[2] == 1
    for n in range(500):
        assert sender.ask("PUBLISH", name, n) == 1
    heard = [listener.read() for _ in range(500)]
    assert [message[2] for message in heard] == [b"%d" % n for n in range(500)]
    assert protocol == 2 or all(isinstance(message, Push) for message in heard)
    if protocol == 3:
        assert listener.pipeline(("CLIENT", "TRACKING", "ON"), ("GET", "tracked")) == [b"OK", None]
        assert sender.ask("SET", "tracked", 1) == b"OK"
        assert listener.read() == [b"invalidate", [b"tracked"]]


def test_who_leaves_while_blocked_takes_nothing(both_sides, name):
    node, endpoint = both_sides
    blocked = endpoint.wire()
    blocked.order("BLPOP", name, 0)
    wait_until(lambda: node.info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    blocked.close()
    wait_until(lambda: node.info("clients")["blocked_clients"] == 0, 10, "it to be gone")
    assert endpoint.wire().pipeline(("RPUSH", name, 1), ("LPOP", name)) == [1, b"1"]


def test_what_is_sent_behind_a_blocked_command_waits_for_it(both_sides, name):
    """More than one record, and of which the socket gives no sign any more when the command is answered."""
    _, endpoint = both_sides
    blocked, other = endpoint.wire(timeout=60), endpoint.wire()
    blocked.order("BLPOP", name, 0)
    sender = threading.Thread(target=lambda: blocked.send(*[command("SET", name + ":x", "y" * 10000)] * 500))
    sender.start()
    assert other.ask("RPUSH", name, 1) == 1
    assert blocked.read() == [name.encode(), b"1"]
    assert blocked.replies(500) == [b"OK"] * 500
    sender.join(30)


def test_a_client_is_listed_as_any_other(with_tls, authority):
    forebay = with_tls("allow")
    clear, encrypted = forebay.redis().wire(), RedisWire(forebay.redis_port(), tls=context(authority))
    fields = lambda wire: [part.split("=")[0] for part in wire.ask("CLIENT", "INFO").decode().split()]
    assert fields(clear) == fields(encrypted)
    listed = clear.ask("CLIENT", "LIST").decode()
    assert {f" addr={wire.address} " in listed for wire in (clear, encrypted)} == {True}


# -- reloads ----------------------------------------------------------------------------------------------------------


def shown(forebay):
    """The certificate that is shown now."""
    made = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", forebay.redis_port()), 10) as plain, made.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert(binary_form=True)


def test_a_reload_shows_a_new_certificate_and_drops_nobody(with_tls, authority, tmp_path, name):
    kept = tmp_path / "cert.pem", tmp_path / "key.pem"
    for source, target in zip(authority.sign("first"), kept):
        shutil.copy(source, target)
    forebay = with_tls(shown=kept)
    before = shown(forebay)
    wire = RedisWire(forebay.redis_port(), tls=context(authority))
    assert wire.ask("SET", name, 1) == b"OK"
    for source, target in zip(authority.sign("second"), kept):
        shutil.copy(source, target)
    os.kill(forebay.pid, signal.SIGHUP)
    wait_until(lambda: shown(forebay) != before, 15, "the new certificate")
    assert wire.ask("INCR", name) == 2, "who was there stays"
    after = shown(forebay)
    kept[1].write_text("no key\n")
    with pytest.raises(psycopg.Error, match=r"key\.pem"):
        forebay.admin("RELOAD")
    assert shown(forebay) == after and wire.ask("INCR", name) == 3
    # A setting that is changed from the console leaves it as it is.
    forebay.admin("SET general.shutdown_grace = '7s'")
    assert shown(forebay) == after


def test_a_reload_changes_the_mode_for_new_clients(start_forebay, shared_redis, authority, files):
    forebay = start_forebay(redis=[shared_redis.service()])
    old = forebay.redis().wire()
    assert old.ask("PING") == b"PONG"
    tls = {"cert": str(files[0]), "key": str(files[1])}
    for mode, is_encrypted, is_clear in [("allow", True, True), ("require", True, False), ("disable", False, True)]:
        forebay.change_redis(client_tls={"mode": mode, **tls})
        forebay.admin("RELOAD")
        assert (refusal(forebay, context(authority)) == b"PONG", refusal(forebay) == b"PONG") == (is_encrypted, is_clear)
        assert old.ask("PING") == b"PONG"


def test_a_file_that_cannot_be_used_is_named_at_the_start(with_tls, stranger, files, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    other = stranger.sign("other")
    for pair, named in [((tmp_path / "none.pem", files[1]), "none.pem"), ((empty, files[1]), "empty.pem"),
                        ((files[0], files[0]), "forebay.pem"), ((files[0], other[1]), "forebay.pem")]:
        with pytest.raises(AssertionError) as caught:
            with_tls(shown=pair, wait="port")
        assert named in str(caught.value), caught.value
