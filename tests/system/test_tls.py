"""TLS between clients and Forebay, as psql, libpq and openssl speak it."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
from threading import Timer

import psycopg
import pytest

from harness import wait_until, wire
from harness.certificates import Authority
from harness.postgres import bin_dir


HELLO = wire.startup(3 << 16, {"user": "app", "database": "bench"})


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, which nobody here knows."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def with_tls(start_forebay, authority):
    """Starts Forebay with a certificate for localhost."""
    def start(mode="allow", files=None, pool=None, auth="scram-sha-256", **tls):
        certificate, key = files or authority.sign("forebay")
        tls = {"mode": mode, "cert": str(certificate), "key": str(key), **tls}
        # Whoever waits for it to start has no certificate to show.
        forebay = start_forebay(tls=tls, auth=auth, wait="" if mode.startswith("verify") else "nodes", pool=pool or {})
        wait_until(lambda: socket.create_connection(("127.0.0.1", forebay.port), 2).close() is None, 20, "its port")
        return forebay
    return start


def connect(forebay, **options):
    return psycopg.connect(forebay.dsn(), autocommit=True, host="localhost", connect_timeout=20, **options)


def version(connection):
    return connection.pgconn.ssl_in_use and connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
def test_a_client_that_checks_everything_is_let_in(with_tls, authority, mode):
    forebay = with_tls(mode)
    with connect(forebay, sslmode="verify-full", sslrootcert=authority.file) as connection:
        assert version(connection)
        assert connection.execute("select repeat('x', 300000)").fetchone() == ("x" * 300000,)
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            port = own.getsockname()[1]
        [row] = [row for row in forebay.admin("SHOW CLIENTS") if row["port"] == port]
        assert row["tls"].startswith("TLSv1.3/TLS_"), row


def test_psql_tells_that_it_is_encrypted(with_tls, authority):
    forebay = with_tls()
    done = subprocess.run(
        [bin_dir() / "psql", f"{forebay.dsn()} host=localhost sslmode=verify-full sslrootcert={authority.file}", "-c",
         "\\conninfo", "-c", "select 'in', count(*) from generate_series(1, 10)"],
        capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "SSL connection (protocol: TLSv1.3" in done.stdout and "in|10" in done.stdout.replace(" ", ""), done.stdout


@pytest.mark.parametrize("mode, is_encrypted, is_let_in", [
    ("disable", False, True), ("allow", True, True), ("prefer", True, True), ("require", True, False)])
def test_who_wants_no_encryption_is_let_in_unless_it_is_required(with_tls, mode, is_encrypted, is_let_in):
    forebay = with_tls(mode)
    with connect(forebay, sslmode="prefer") as connection:
        assert bool(connection.pgconn.ssl_in_use) == is_encrypted
    if is_let_in:
        with connect(forebay, sslmode="disable") as connection:
            assert connection.execute("select 1").fetchone() == (1,) and not connection.pgconn.ssl_in_use
    else:
        with pytest.raises(psycopg.OperationalError, match="may not log in without TLS"):
            connect(forebay, sslmode="disable")


def test_a_client_of_another_authority_does_not_trust_it(with_tls, stranger):
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(with_tls(), sslmode="verify-ca", sslrootcert=stranger.file)


def test_the_oldest_version_is_kept(with_tls):
    old = {"sslmode": "require", "ssl_max_protocol_version": "TLSv1.2"}
    with connect(with_tls(), **old) as connection:
        assert version(connection)
    newest = with_tls(min_version="1.3")
    with pytest.raises(psycopg.OperationalError, match="protocol version|alert"):
        connect(newest, **old)
    with connect(newest, sslmode="require") as connection:
        assert version(connection)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_client_has_to_show_a_certificate_of_the_authority(with_tls, authority, stranger, mode):
    forebay = with_tls(mode, ca=str(authority.file))
    own, other = authority.sign("app"), stranger.sign("app")
    with connect(forebay, sslmode="require", sslcert=own[0], sslkey=own[1]) as connection:
        assert version(connection)
    for shown in ({}, {"sslcert": other[0], "sslkey": other[1]}):
        with pytest.raises(psycopg.OperationalError):
            connect(forebay, sslmode="require", **({"sslcertmode": "disable"} if not shown else shown))
    with pytest.raises(psycopg.OperationalError, match="may not log in without TLS"):
        connect(forebay, sslmode="disable")


def context(authority, *protocols):
    """As a client that begins with TLS at once."""
    made = ssl.create_default_context(cafile=str(authority.file))
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def test_a_client_may_begin_with_tls_if_it_names_the_protocol(with_tls, authority):
    forebay = with_tls()
    plain = socket.create_connection(("localhost", forebay.port), 10)
    with context(authority, "postgresql").wrap_socket(plain, server_hostname="localhost") as encrypted:
        assert encrypted.selected_alpn_protocol() == "postgresql"
        encrypted.sendall(HELLO)
        assert encrypted.recv(1) == b"R", "it is asked for its password, as everybody"
    for protocols in ((), ("http/1.1",)):
        plain = socket.create_connection(("localhost", forebay.port), 10)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with context(authority, *protocols).wrap_socket(plain, server_hostname="localhost") as encrypted:
                encrypted.sendall(HELLO)
                assert encrypted.recv(1) == b""
                raise ConnectionError("closed")


def test_what_comes_in_clear_text_behind_the_request_is_refused(with_tls):
    """CVE-2021-23214 of PostgreSQL, CVE-2021-3935 of PgBouncer: what was sent ahead counted as encrypted."""
    forebay = with_tls()
    with socket.create_connection(("localhost", forebay.port), 10) as plain:
        request = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
        plain.sendall(request + HELLO)
        assert plain.recv(1) == b"E"


def test_much_passes_both_ways_through_short_writes(with_tls):
    """A client that reads slowly makes the socket take less than a record at a time."""
    forebay = with_tls(pool={"size": 2})
    with connect(forebay, sslmode="require", options="-c statement_timeout=60s") as connection:
        sock = socket.socket(fileno=os.dup(connection.fileno()))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.close()
        text = "0123456789abcdef" * 65536
        for _ in range(8):
            assert connection.execute("select %s::text", [text]).fetchone()[0] == text
        total = 0
        with connection.cursor() as cursor:
            for row in cursor.stream("select i, repeat(md5(i::text), 40) from generate_series(1, 20000) i"):
                total += 1
                assert row[1][:32] * 40 == row[1]
        assert total == 20000
        connection.execute("create temporary table t (v text)")
        with connection.cursor().copy("copy t from stdin") as copy:
            for _ in range(2000):
                copy.write("y" * 10000 + "\n")
        assert connection.execute("select count(*), sum(length(v)) from t").fetchone() == (2000, 20_000_000)


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_a_load_runs_encrypted(with_tls, mode):
    forebay = with_tls("require", pool={"size": 4})
    done = subprocess.run(
        [bin_dir() / "pgbench", "-n", "-S", "-M", mode, "-c", "16", "-j", "2", "-t", "200"], capture_output=True, text=True,
        timeout=100, check=False, env={**forebay.environment("app"), "PGSSLMODE": "require", "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and "3200/3200" in done.stdout, done.stderr


def test_a_cancel_reaches_an_encrypted_session(with_tls):
    forebay = with_tls("require")
    with connect(forebay, sslmode="require") as connection:
        Timer(0.5, connection.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(30)")
        assert version(connection)


def test_the_console_is_encrypted_too(with_tls, authority):
    forebay = with_tls("require")
    with psycopg.connect(host="localhost", port=forebay.port, dbname="forebay", user="admin", password="admin",
                         autocommit=True, sslmode="verify-full", sslrootcert=authority.file) as console:
        assert console.pgconn.ssl_in_use
        assert console.execute("SHOW VERSION").fetchone()[0]


def shown(forebay):
    """The certificate that is shown now."""
    made = ssl._create_unverified_context()
    made.set_alpn_protocols(["postgresql"])
    with socket.create_connection(("localhost", forebay.port), 10) as plain, made.wrap_socket(plain) as encrypted:
        return encrypted.getpeercert(binary_form=True)


def test_a_reload_shows_a_new_certificate_and_drops_nobody(with_tls, authority, tmp_path):
    first, second = authority.sign("first"), authority.sign("second")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    for source, target in zip(first, files):
        shutil.copy(source, target)
    forebay = with_tls("require", files=files)
    before = shown(forebay)
    with connect(forebay, sslmode="require") as connection:
        assert version(connection)
        for source, target in zip(second, files):
            shutil.copy(source, target)
        os.kill(forebay.pid, signal.SIGHUP)
        wait_until(lambda: shown(forebay) != before, 15, "the new certificate")
        assert version(connection), "who was there stays"
        after = shown(forebay)
        files[1].write_text("no key\n")
        os.kill(forebay.pid, signal.SIGHUP)
        wait_until(lambda: "reload_failed" in [row["event"] for row in forebay.admin("SHOW EVENTS")], 15, "the error")
        assert str(files[1]) in forebay.log()
        assert shown(forebay) == after and version(connection)


def test_a_file_that_cannot_be_used_is_named_at_the_start(authority, start_forebay, tmp_path):
    certificate, key = authority.sign("forebay")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for files, named in [((tmp_path / "none.pem", key), "none.pem"), ((empty, key), "empty.pem"),
                         ((certificate, certificate), "forebay.pem")]:
        with pytest.raises(AssertionError) as caught:
            start_forebay(tls={"mode": "require", "cert": str(files[0]), "key": str(files[1])}, wait="port")
        assert named in str(caught.value), caught.value
