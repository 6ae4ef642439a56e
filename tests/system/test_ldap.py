"""Rules that have a directory decide (the method ldap): a real slapd behind them, and what goes wrong with it."""

import os
import socket
import struct
import subprocess
import threading
import time

import psycopg
import pytest

from harness import Relay, ports, wait_until, wire
from harness.certificates import Authority
from harness.directory import BASE, PEOPLE, SEARCHER, SEARCHER_PASSWORD, STAFF, Directory
from harness.forebay import binary
from harness.postgres import Cluster, bin_dir
from test_metrics import Scrape

CONSOLE = "host forebay all 127.0.0.1/32 scram-sha-256"
# From 127.0.0.1 come the harness and the admin; the clients of these tests from here.
CLIENT = "127.0.0.5"
WRONG = ("28000", 'LDAP authentication failed for user "{}"')


@pytest.fixture(scope="module")
def directory(authority):
    made = Directory(authority)
    yield made
    made.destroy()


@pytest.fixture
def new_directory(authority):
    """Makes directories that the test may break."""
    made = []

    def make(**options):
        made.append(Directory(**{"authority": authority, **options}))
        return made[-1]

    yield make
    for one in made:
        one.destroy()


@pytest.fixture
def with_ldap(start_forebay, tmp_path):
    """Starts Forebay with a rule of these options for clients from CLIENT; everybody else gives a password of PostgreSQL's."""
    def start(*options, rules=(), **postgres):
        config = postgres.pop("config", {})
        file = tmp_path / "hba.conf"
        write(file, *options, rules=rules)
        forebay = start_forebay(wait="port", config=config, **{
            "auth": "hba", "hba_file": str(file), "failover": {"check_timeout": "10s"}, **postgres})
        wait_until(forebay.nodes_are_up, 60, "the nodes to be found")
        forebay.rules = file
        return forebay
    return start


def write(file, *options, rules=()):
    quoted = " ".join('"' + option.replace('"', '""') + '"' for option in options)
    lines = [CONSOLE, *rules, *([f"host all all {CLIENT}/32 ldap {quoted}"] if options else []),
             "host all all 127.0.0.1/32 scram-sha-256"]
    file.write_text("".join(line + "\n" for line in lines))
    file.chmod(0o600)


def log_in(forebay, user, password, **more):
    """A client's session from CLIENT."""
    return wire.Wire(forebay.port, user=user, password=password, source=CLIENT, **more).login()


def who(forebay, user, password, **more):
    """Whom the server takes such a client for."""
    with log_in(forebay, user, password, **more) as client:
        assert client.auth_codes == [3, 0]
        return client.value("select current_user")


def refusal(forebay, user, password, **more):
    """SQLSTATE and words by which such a client is refused."""
    with pytest.raises(wire.ServerError) as caught:
        log_in(forebay, user, password, **more)
    return caught.value.sqlstate, caught.value.fields["M"]


def wrong(user):
    return WRONG[0], WRONG[1].format(user)


def at(directory, *more):
    return ("ldapserver=127.0.0.1", f"ldapport={directory.port}", *more)


SIMPLE = ("ldapprefix=uid=", f"ldapsuffix=,{PEOPLE}")


def test_the_name_of_the_entry_is_made_of_the_users(with_ldap, directory):
    forebay = with_ldap(*at(directory, *SIMPLE))
    assert who(forebay, "app", "app-ldap") == "app"
    for user, password in (("app", "app"), ("app", "app-ldap "), ("nobody", "app-ldap")):
        assert refusal(forebay, user, password) == wrong(user)
    # Everybody else is asked as before.
    assert forebay.wire().auth_codes == [10, 11, 12, 0]
    text = forebay.log()
    assert "InvalidCredentials (49)" in text and f"hba.conf:{2}" in text
    assert "app-ldap" not in text


@pytest.mark.parametrize("form", ["attribute", "default", "filter", "url", "searcher"])
def test_the_entry_is_looked_for(with_ldap, directory, form):
    options = {
        "attribute": at(directory, f"ldapbasedn={BASE}", "ldapsearchattribute=uid"),
        "default": at(directory, f"ldapbasedn={PEOPLE}"),
        "filter": at(directory, f"ldapbasedn={BASE}",
                     "ldapsearchfilter=(&(objectClass=inetOrgPerson)(!(sn=x*y))(|(uid=$username)(mail=$username@*)))"),
        "url": (f"ldapurl=ldap://127.0.0.1:{directory.port}/{PEOPLE}?uid?one",),
        "searcher": at(directory, f"ldapbasedn={BASE}", f"ldapbinddn={SEARCHER}", f"ldapbindpasswd={SEARCHER_PASSWORD}"),
    }[form]
    forebay = with_ldap(*options, user=[{"name": "app", "password": "app"}, {"name": "u_md5", "password": "pw-md5"}])
    assert who(forebay, "app", "app-ldap") == "app"
    assert refusal(forebay, "app", "wrong") == wrong("app")
    assert refusal(forebay, "nobody", "app-ldap") == wrong("nobody")
    if form == "searcher":
        assert who(forebay, "u_md5", "of-the-directory") == "u_md5", "who is below ou=staff is found by the searcher alone"
        assert SEARCHER_PASSWORD not in forebay.log()
        shown = [row for row in forebay.admin("SHOW HBA") if row["method"] == "ldap"]
        assert f"ldapbinddn={SEARCHER}" in str(shown) and "ldapbindpasswd=***" in str(shown), shown
    else:
        assert refusal(forebay, "u_md5", "of-the-directory") == wrong("u_md5")


def test_who_searches_in_vain_is_no_fault_of_the_clients(with_ldap, directory):
    security = {"ban_after": 2, "ban_window": "10m", "ban_time": "1h", "ban_allow": ["127.0.0.1"]}
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}", f"ldapbinddn={SEARCHER}", "ldapbindpasswd=old"),
                        config={"security": security})
    for _ in range(4):
        assert refusal(forebay, "app", "app-ldap") == wrong("app")
    assert "the bind as ldapbinddn" in forebay.log() and forebay.admin("SHOW BANS") == []
    write(forebay.rules, *at(directory, "ldapbasedn=dc=nowhere"))
    forebay.admin("RELOAD")
    assert refusal(forebay, "app", "app-ldap") == wrong("app")
    assert "NoSuchObject (32)" in forebay.log() and forebay.admin("SHOW BANS") == []


def test_two_entries_are_nobody(with_ldap, directory):
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"))
    assert refusal(forebay, "twin", "twin-ldap") == wrong("twin")
    assert "the user is not unique" in forebay.log()


@pytest.mark.parametrize("mode", ["made", "found"])
def test_an_empty_password_asks_no_directory(with_ldap, directory, mode):
    """This one lets in who gives a name without a password, and who gives neither."""
    relay = Relay(directory.port)
    more = SIMPLE if mode == "made" else (f"ldapbasedn={BASE}",)
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={relay.port}", *more)
    assert refusal(forebay, "app", "") == ("28P01", "empty password returned by client")
    assert relay.accepted == 0
    assert who(forebay, "app", "app-ldap") == "app" and relay.accepted == 1
    relay.destroy()


INJECTIONS = ["*", "a*", "app)(uid=*", "app)(|(uid=*", "a\\2a", "app\\", f"app,{PEOPLE}", f"app,{PEOPLE}#", "app+cn=app",
              '"app"', " app", "app ", "#app", "app/x", "\u0661", "app\n", "$username", "app;x", "<app>", "=", "a" * 5000]


def test_no_name_becomes_another_one(with_ldap, directory):
    """Each of these, with the password of an entry that it could be mistaken for."""
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"))
    for name in INJECTIONS:
        if name not in (" app", "app "):  # spaces around a value mean nothing to the directory's matching rule
            assert refusal(forebay, name, "app-ldap") == wrong(name), name
    write(forebay.rules, *at(directory, "ldapprefix=uid=", f"ldapsuffix=,{PEOPLE}"))
    forebay.admin("RELOAD")
    for name in INJECTIONS:
        if name not in (" app", "app "):
            assert refusal(forebay, name, "app-ldap") == wrong(name), name
    # The name that needs escapes is the one of its entry: the server is the first that does not know it.
    code, words = refusal(forebay, "odd, one", "odd-ldap")
    assert code == "28P01" and "server login failed" in words, words
    write(forebay.rules, *at(directory, f"ldapsuffix=,{PEOPLE}"))
    forebay.admin("RELOAD")
    assert refusal(forebay, "uid=app", "app-ldap") == wrong("uid=app")


def test_the_server_is_logged_in_to_with_what_is_known_of_the_user(with_ldap, directory):
    """A password of the configuration; else what the client gave, which is the server's as well here."""
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"), user=[{"name": "app", "password": "app"}])
    assert who(forebay, "app", "app-ldap") == "app"
    assert who(forebay, "u_scram", "pw-scram") == "u_scram"
    # That of the directory is not that of the server.
    code, words = refusal(forebay, "other", "other-ldap")
    assert code == "28P01" and "server login failed" in words, words
    assert "other-ldap" not in forebay.log() and "pw-scram" not in forebay.log()


def test_a_server_that_asks_the_same_directory_is_given_the_same_password(with_ldap, directory, new_cluster):
    cluster = new_cluster(replicas=0)
    node = cluster.primary
    before = (node.data / "pg_hba.conf").read_text()
    options = " ".join(f'"{option}"' for option in at(directory, *SIMPLE))
    (node.data / "pg_hba.conf").write_text(f"host all other 127.0.0.1/32 ldap {options}\n{before}")
    node.sql("select pg_reload_conf()")
    forebay = with_ldap(*at(directory, *SIMPLE), servers=cluster, user=[{"name": "app", "password": "app"}])
    assert who(forebay, "other", "other-ldap") == "other"
    assert refusal(forebay, "other", "other") == wrong("other")


def test_another_login_of_the_database_gets_nobodys_password(with_ldap, directory):
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"), user=[{"name": "app", "password": "app"}], database=[
        {"name": "bench", "cluster": "main"}, {"name": "as_app", "cluster": "main", "dbname": "bench", "user": "app"},
        {"name": "as_other", "cluster": "main", "dbname": "bench", "user": "other"}])
    assert who(forebay, "u_scram", "pw-scram", dbname="as_app") == "app"
    code, words = refusal(forebay, "u_scram", "pw-scram", dbname="as_other")
    assert code == "28P01" and "no password that can serve it" in words or "no clear-text password" in words, words


def test_postgresql_knows_what_the_directory_does_not(with_ldap, directory, shared_cluster):
    """With auth_query the server's own verifier serves, if it is of md5; the client's password is another one."""
    shared_cluster.primary.sql("alter role monitor superuser")
    try:
        forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}", f"ldapbinddn={SEARCHER}", f"ldapbindpasswd={SEARCHER_PASSWORD}"),
                            auth_user="monitor", user=[
                                {"name": "app", "password": "app"}, {"name": "monitor", "password": "monitor"}])
        assert who(forebay, "u_scram", "pw-scram") == "u_scram"
        assert who(forebay, "u_md5", "of-the-directory") == "u_md5"
    finally:
        shared_cluster.primary.sql("alter role monitor nosuperuser")


def test_a_new_password_counts_at_once(with_ldap, new_directory, shared_cluster):
    """At the directory and at the server: what was known of the old one opens no server any more."""
    directory = new_directory()
    forebay = with_ldap(*at(directory, *SIMPLE), user=[{"name": "app", "password": "app"}])
    shared_cluster.primary.sql("set password_encryption = 'scram-sha-256'; create role changing login password 'before-it'")
    try:
        shared_cluster.caught_up()
        # An entry of somebody else's becomes the role's.
        write(forebay.rules, *at(directory, f"ldapbasedn={PEOPLE}", "ldapsearchfilter=(|(cn=$username)(&(uid=other)(!(uid=$username))))"))
        forebay.admin("RELOAD")
        directory.set_password("other", "before-it")
        assert who(forebay, "changing", "before-it") == "changing"
        directory.set_password("other", "after-it-")
        shared_cluster.primary.sql("alter role changing password 'after-it-'")
        shared_cluster.caught_up()
        forebay.admin("RECONNECT")
        assert refusal(forebay, "changing", "before-it") == wrong("changing")
        assert who(forebay, "changing", "after-it-") == "changing"
    finally:
        shared_cluster.primary.sql("drop role changing")


def test_drivers_log_in(with_ldap, directory):
    forebay = with_ldap(*at(directory, *SIMPLE), rules=[f"host all u_scram 127.0.0.1/32 ldap ldapserver=127.0.0.1 "
                        f'ldapport={directory.port} "ldapbasedn={BASE}"'])
    with forebay.connect(user="u_scram", password="pw-scram") as connection:
        assert connection.execute("select current_user as me").fetchone()["me"] == "u_scram"
    with pytest.raises(psycopg.OperationalError, match='LDAP authentication failed for user "u_scram"'):
        forebay.connect(user="u_scram", password="wrong")
    psql = [bin_dir() / "psql", "-XAtw", "-c", "select current_user"]
    environment = {**os.environ, **forebay.environment(user="u_scram", password="pw-scram")}
    assert subprocess.check_output(psql, env=environment, text=True).strip() == "u_scram"
    failed = subprocess.run(psql, env={**environment, "PGPASSWORD": "wrong"}, capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and "LDAP authentication failed" in failed.stderr


@pytest.fixture(scope="module")
def beside():
    """A PostgreSQL server that asks the directory itself."""
    with Cluster(replicas=0, name="beside-ldap") as cluster:
        yield cluster.primary


@pytest.mark.parametrize("mode", ["made", "found"])
def test_clients_are_refused_as_postgresql_refuses_them(with_ldap, directory, beside, mode):
    options = at(directory, *(SIMPLE if mode == "made" else (f"ldapbasedn={BASE}", "ldapsearchattribute=uid")))
    forebay = with_ldap(*options)
    quoted = " ".join(f'"{option}"' for option in options)
    (beside.data / "pg_hba.conf").write_text(f"local all postgres trust\nhost all all {CLIENT}/32 ldap {quoted}\n")
    beside.sql("select pg_reload_conf()")

    def told(endpoint, user, password):
        try:
            with wire.Wire(endpoint.port, user=user, password=password, source=CLIENT).login() as client:
                return client.auth_codes
        except wire.ServerError as error:
            return error.sqlstate, error.fields["S"], error.fields["M"]

    wait_until(lambda: told(beside, "app", "app-ldap") == [3, 0], 20, "PostgreSQL to go by its rules")
    assert told(forebay, "app", "app-ldap") == [3, 0]
    for user, password in (("app", "wrong"), ("nobody", "app-ldap"), ("twin", "twin"), ("twin", "wrong"), ("*", "app-ldap"),
                           ("app)(uid=*", "app-ldap"), ("app", ""), ("nobody", "")):
        assert told(forebay, user, password) == told(beside, user, password), (user, password)


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ldaps", "starttls", "url"])
def test_the_directory_is_spoken_to_with_tls(with_ldap, directory, authority, form):
    options = {
        "ldaps": ("ldapserver=localhost", f"ldapport={directory.tls_port}", "ldapscheme=ldaps", *SIMPLE),
        "starttls": at(directory, "ldaptls=1", f"ldapbasedn={BASE}"),
        "url": (f"ldapurl=ldaps://localhost:{directory.tls_port}/{BASE}?uid?sub",),
    }[form]
    forebay = with_ldap(*options, ldap={"ca": str(authority.file)})
    assert who(forebay, "app", "app-ldap") == "app"
    assert refusal(forebay, "app", "wrong") == wrong("app")


@pytest.mark.parametrize("what", ["unknown authority", "another name", "no TLS"])
def test_who_answers_in_the_directorys_place_hears_no_password(with_ldap, new_directory, authority, tmp_path, what):
    addresses = "DNS:other.example" if what == "another name" else "DNS:localhost,IP:127.0.0.1"
    authority_of = {"unknown authority": Authority(tmp_path / "other", "other"), "no TLS": None}.get(what, authority)
    directory = new_directory(authority=authority_of, addresses=addresses)
    forebay = with_ldap(*at(directory, "ldaptls=1", *SIMPLE), ldap={"ca": str(authority.file)})
    assert refusal(forebay, "app", "app-ldap") == wrong("app")
    expected = {"unknown authority": "UnknownIssuer", "another name": "not valid for name", "no TLS": "StartTLS was answered"}
    assert expected[what] in forebay.log()


def test_what_stands_in_clear_text_behind_starttls_counts_for_nothing(with_ldap, authority):
    """An answer to the bind, put there by whoever stands between, before the handshake."""
    listener = socket.create_server(("127.0.0.1", ports.free_port()))

    def serve():
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            client.recv(4096)
            success = bytes.fromhex("300c02010178070a010004000400")
            client.sendall(success + bytes.fromhex("300c02010261070a010004000400"))
            client.recv(4096)
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={port}", "ldaptls=1", *SIMPLE, ldap={"ca": str(authority.file)})
    assert refusal(forebay, "app", "app-ldap") == wrong("app")
    assert "clear text behind the answer to StartTLS" in forebay.log()
    listener.close()


def test_a_file_of_authorities_that_cannot_be_used_changes_nothing(with_ldap, directory, authority, tmp_path):
    forebay = with_ldap(*at(directory, "ldaptls=1", *SIMPLE), ldap={"ca": str(authority.file)})
    forebay.change(ldap={"ca": str(tmp_path / "none.pem")})
    with pytest.raises(psycopg.Error, match="none.pem"):
        forebay.admin("RELOAD")
    assert who(forebay, "app", "app-ldap") == "app"


# -- servers that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["down", "silent", "garbage", "refuse"])
def test_the_next_server_is_asked(with_ldap, directory, how):
    # One port for all of a rule: they differ by address.
    relay = Relay(directory.port)
    forebay = with_ldap("ldapserver=127.0.0.9 127.0.0.1", f"ldapport={relay.port}", *SIMPLE, ldap={"timeout": "500ms"})
    with FakeServer("127.0.0.9", relay.port, how):
        for _ in range(3):
            assert who(forebay, "app", "app-ldap") == "app"
        assert refusal(forebay, "app", "wrong") == wrong("app")
    assert forebay.log().count("an LDAP server cannot be asked") == 1
    relay.destroy()


class FakeServer:
    """Something at an address that is no directory: nothing, silence, other bytes, or a closed door."""

    def __init__(self, host, port, how, answers=()):
        self.how, self.answers, self.requests, self.open = how, answers, [], []
        self.listener = None if how == "down" else socket.create_server((host, port), backlog=512)

    def __enter__(self):
        if self.listener:
            threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            self.open.append(client)
            if self.how == "refuse":
                client.close()
            elif self.how == "garbage":
                client.sendall(b"220 mail.example.org ESMTP\r\n")
            elif self.how == "answers":
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        try:
            for answer in self.answers:
                self.requests.append(client.recv(65536))
                client.sendall(answer)
            while client.recv(65536):
                pass
        except OSError:
            pass

    def __exit__(self, *_):
        if self.listener:
            # An accept that waits is only ended so.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        for client in self.open:
            client.close()


@pytest.mark.parametrize("how", ["down", "silent"])
def test_without_any_server_logins_fail_in_time_and_nobody_is_banned(with_ldap, how):
    security = {"ban_after": 2, "ban_window": "10m", "ban_time": "1h", "ban_allow": ["127.0.0.1"]}
    port = ports.free_port()
    forebay = with_ldap("ldapserver=127.0.0.8 127.0.0.9", f"ldapport={port}", *SIMPLE, ldap={"timeout": "1s"},
                        config={"security": security})
    bystander = forebay.wire()
    with FakeServer("127.0.0.8", port, how), FakeServer("127.0.0.9", port, how):
        slowest, ended = [0.0], threading.Event()

        def query():
            while not ended.is_set():
                began = time.monotonic()
                assert bystander.value("select 1") == "1"
                slowest[0] = max(slowest[0], time.monotonic() - began)

        beside = threading.Thread(target=query)
        beside.start()
        began = time.monotonic()
        results = []
        clients = [threading.Thread(target=lambda: results.append(refusal(forebay, "app", "app-ldap"))) for _ in range(50)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        took = time.monotonic() - began
        ended.set()
        beside.join()
    assert results == [wrong("app")] * 50
    # Two servers for a second each; those who waited for their turn hear of it.
    assert took < 8, took
    assert slowest[0] < 1, slowest
    assert forebay.admin("SHOW BANS") == []
    assert "could not be decided by LDAP" in forebay.log()
    bystander.close()


def test_wrong_passwords_lead_to_a_ban(with_ldap, directory):
    security = {"ban_after": 3, "ban_window": "10m", "ban_time": "1h", "ban_allow": ["127.0.0.1"]}
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"), config={"security": security})
    for user in ("app", "nobody", "*"):
        assert refusal(forebay, user, "wrong") == wrong(user)
    code, words = refusal(forebay, "app", "app-ldap")
    assert code == "28000" and words != wrong("app")[1], words
    assert [row["address"] for row in forebay.admin("SHOW BANS")] == [CLIENT]


def tlv(tag, body):
    """With four bytes of length, as Active Directory writes it."""
    return bytes([tag, 0x84]) + struct.pack(">I", len(body)) + body


def answer(number, tag, body):
    return tlv(0x30, b"\x02\x01" + bytes([number]) + tlv(tag, body))


def result(code, words=b"", more=b""):
    return b"\x0a\x01" + bytes([code]) + tlv(4, b"") + tlv(4, words) + more


def deep(depth):
    made = b""
    lengths = []
    for _ in range(depth):
        lengths.append(len(made))
        made = b"x" * (len(made) + 6)
    return b"".join(b"\x30\x84" + struct.pack(">I", length) for length in reversed(lengths))


NONSENSE = {
    "another request's": answer(9, 0x61, result(0)),
    "of another kind": answer(1, 0x65, result(0)),
    "empty": b"\x30\x00",
    "too short": b"\x30\x05\x02\x01\x01\x61\x00",
    "endless": b"\x30\x80\x02\x01\x01",
    "huge": b"\x30\x84\x7f\xff\xff\xff" + b"\x00" * 100,
    "large": tlv(0x30, b"\x00" * 200_000),
    "deep": deep(10_000),
    "a goodbye": answer(0, 0x78, result(52, b"going down")),
    "without an end": b"\x30\x20\x02\x01",
}
NO = {
    "a referral": answer(1, 0x61, result(10, b"", tlv(0xA3, tlv(4, b"ldap://127.0.0.1:1/")))),
    "unwilling": answer(1, 0x61, result(53, b"not today")),
    "in need of TLS": answer(1, 0x61, result(13, b"TLS confidentiality required")),
    "control characters": answer(1, 0x61, result(1, b"a\nb\x1b[31m" + b"c" * 5000)),
}


@pytest.mark.parametrize("what", [*NONSENSE, *NO])
def test_answers_that_are_none_let_nobody_in(with_ldap, what):
    security = {"ban_after": 2, "ban_window": "10m", "ban_time": "1h", "ban_allow": ["127.0.0.1"]}
    port = ports.free_port()
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={port}", *SIMPLE, ldap={"timeout": "1s"}, config={"security": security})
    with FakeServer("127.0.0.1", port, "answers", [{**NONSENSE, **NO}[what]]):
        for _ in range(3):
            assert refusal(forebay, "app", "app-ldap") == wrong("app")
    assert forebay.admin("SHOW BANS") == []
    assert "\x1b" not in forebay.log()
    assert forebay.wire().value("select 1") == "1"


@pytest.mark.parametrize("what", ["no name", "endless", "only references", "success without an entry", "cut short"])
def test_searches_that_find_nothing_let_nobody_in(with_ldap, what):
    """A bind as nobody (a name without a single character) succeeds with any password."""
    reference = answer(1, 0x73, tlv(4, b"ldap://127.0.0.1:1/"))
    done = answer(1, 0x65, result(0))
    entry = answer(1, 0x64, tlv(4, b"") + tlv(0x30, b""))
    found = {
        "no name": entry + done, "endless": answer(1, 0x64, tlv(4, b"uid=app") + tlv(0x30, b"")) * 5000,
        "only references": reference * 3 + done, "success without an entry": done,
        "cut short": answer(1, 0x64, tlv(4, b"uid=app") + tlv(0x30, b"")) + answer(1, 0x65, result(4)),
    }[what]
    port = ports.free_port()
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={port}", f"ldapbasedn={BASE}", ldap={"timeout": "1s"})
    with FakeServer("127.0.0.1", port, "answers", [found, answer(2, 0x61, result(0)), answer(3, 0x61, result(0))]):
        assert refusal(forebay, "app", "anything") == wrong("app")
    assert forebay.wire().value("select 1") == "1"


def test_many_log_in_at_once(with_ldap, directory):
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"), pool={"size": 20})
    results = []
    clients = [threading.Thread(target=lambda: results.append(who(forebay, "app", "app-ldap"))) for _ in range(200)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert results == ["app"] * 200


def test_who_leaves_ends_its_question(with_ldap):
    port = ports.free_port()
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={port}", *SIMPLE, ldap={"timeout": "60s"},
                        pool={"client_login_timeout": "300ms"})
    with FakeServer("127.0.0.1", port, "silent") as server:
        with pytest.raises(wire.Closed):
            log_in(forebay, "app", "app-ldap")
        wait_until(lambda: server.open, 10, "the directory to be asked")
        server.open[0].settimeout(10)
        request = server.open[0].recv(65536)
        assert b"app-ldap" in request and server.open[0].recv(65536) == b"", "the connection ends with the client's"


def test_clients_that_leave_leave_nothing(with_ldap, directory):
    """Before the password, behind it, and with a reset."""
    forebay = with_ldap(*at(directory, f"ldapbasedn={BASE}"))
    assert who(forebay, "app", "app-ldap") == "app"
    before = forebay.fd_count()
    startup = b"user\0app\0database\0bench\0\0"
    for number in range(200):
        client = wire.Wire(forebay.port, source=CLIENT)
        client.socket.sendall(struct.pack(">II", 8 + len(startup), 196608) + startup)
        if number % 3:
            client.socket.sendall(b"p" + struct.pack(">I", 4 + 9) + b"app-ldap\0")
        if number % 2:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    assert who(forebay, "app", "app-ldap") == "app"
    # A session that was just ended may have left its server connection open.
    wait_until(lambda: forebay.fd_count() <= before + 6, 20, "all of their sockets to be closed")


def test_an_answer_that_trickles_in_is_not_waited_for(with_ldap):
    port = ports.free_port()
    forebay = with_ldap("ldapserver=127.0.0.1", f"ldapport={port}", *SIMPLE, ldap={"timeout": "1s"})
    ended = threading.Event()

    def trickle(client):
        with client:
            for byte in b"\x30\x82\x04\x00" + bytes(1000):
                if ended.wait(0.05):
                    return
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=lambda: trickle(listener.accept()[0]), daemon=True).start()
        began = time.monotonic()
        assert refusal(forebay, "app", "app-ldap") == wrong("app")
        assert time.monotonic() - began < 10
        ended.set()
    assert "no answer within 1s" in forebay.log()


def test_a_directory_that_comes_back_is_asked_at_once(with_ldap, new_directory):
    directory = new_directory()
    forebay = with_ldap(*at(directory, *SIMPLE), ldap={"timeout": "500ms"})
    directory.freeze()
    assert refusal(forebay, "app", "app-ldap") == wrong("app")
    directory.thaw()
    assert who(forebay, "app", "app-ldap") == "app"
    directory.stop()
    assert refusal(forebay, "app", "app-ldap") == wrong("app")
    directory.start()
    assert who(forebay, "app", "app-ldap") == "app"
    assert forebay.log().count("an LDAP server cannot be asked") == 2, "once each time"
    assert Scrape(forebay).sum("forebay_ldap_failures_total") == 2


def test_rules_change_while_clients_come(with_ldap, directory):
    forebay = with_ldap(*at(directory, *SIMPLE))
    ended, results = threading.Event(), []

    def come():
        while not ended.is_set():
            results.append(who(forebay, "app", "app-ldap"))

    clients = [threading.Thread(target=come) for _ in range(4)]
    for client in clients:
        client.start()
    for number in range(10):
        write(forebay.rules, *at(directory, *(SIMPLE if number % 2 else (f"ldapbasedn={BASE}",))))
        forebay.admin("RELOAD")
    ended.set()
    for client in clients:
        client.join()
    assert results and set(results) == {"app"}


# -- the files ----------------------------------------------------------------------------------------------------


def test_a_reload_brings_other_rules(with_ldap, directory):
    forebay = with_ldap()
    with pytest.raises(wire.ServerError):
        log_in(forebay, "app", "app-ldap")
    write(forebay.rules, *at(directory, *SIMPLE))
    forebay.admin("RELOAD")
    assert who(forebay, "app", "app-ldap") == "app"
    session = log_in(forebay, "u_scram", "pw-scram")
    assert session.value("select 1") == "1"
    write(forebay.rules, *at(directory, *SIMPLE, f"ldapbasedn={BASE}"))
    with pytest.raises(psycopg.Error, match="hba.conf:2: cannot mix ldapprefix"):
        forebay.admin("RELOAD")
    assert who(forebay, "app", "app-ldap") == "app"
    write(forebay.rules)
    forebay.admin("RELOAD")
    forebay.admin("RECONNECT")
    assert session.value("select 1") == "1", "who is in stays, and has servers that it was not logged in to before"
    with pytest.raises(wire.ServerError):
        log_in(forebay, "app", "app-ldap")
    session.close()


def test_the_check_names_file_and_line(tmp_path, directory):
    file = tmp_path / "forebay.toml"
    file.write_text('[postgres]\nauth = "hba"\nhba_file = "hba.conf"\n[[postgres.cluster]]\nname = "m"\nnodes = ["127.0.0.1"]\n'
                    '[[postgres.user]]\nname = "a"\npassword = { env = "A_PASSWORD" }\n')

    def check(*lines):
        (tmp_path / "hba.conf").write_text("".join(line + "\n" for line in lines))
        (tmp_path / "hba.conf").chmod(0o644)
        done = subprocess.run([binary(), "check", "-c", file], capture_output=True, text=True, check=False,
                              env={**os.environ, "A_PASSWORD": "x"})
        return done.returncode, done.stdout + done.stderr

    code, text = check("host all all all pam")
    assert code == 2 and "hba.conf:1: authentication method pam is not available" in text
    assert all(way in text for way in ("ldap", "auth_query", "cert"))
    code, text = check("", "host all all 10.0.0.0/8 ldap ldapserver=ldap.example ldapbasedn=dc=x ldapbinddn=cn=s ldapbindpasswd=Hush-Hush")
    assert code == 0 and "hba.conf:2: ldap without TLS sends the password as it is" in text
    assert "hba.conf:2: passwords go to the LDAP server as they are" in text
    assert "hba.conf:2: ldapbindpasswd stands here, and" in text and "Hush-Hush" not in text
    code, text = check("host all all all ldap ldapserver=a ldapbasedn=dc=x ldapsearchattribute=uid ldapsearchfilter=(uid=$username)")
    assert code == 2 and "hba.conf:1: cannot use ldapsearchattribute together with ldapsearchfilter" in text


def test_the_password_for_searching_may_stand_in_a_file_of_its_own(with_ldap, directory, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(f'"ldapbindpasswd={SEARCHER_PASSWORD}"\n')
    secret.chmod(0o600)
    forebay = with_ldap(rules=[
        f'host all all {CLIENT}/32 ldap ldapserver=127.0.0.1 ldapport={directory.port} "ldapbasedn={STAFF}" '
        f'"ldapbinddn={SEARCHER}" @secret'], user=[{"name": "app", "password": "app"}, {"name": "u_md5", "password": "pw-md5"}])
    assert who(forebay, "u_md5", "of-the-directory") == "u_md5"


def test_the_next_process_knows_what_clients_gave(with_ldap, directory):
    forebay = with_ldap(*at(directory, *SIMPLE), user=[{"name": "app", "password": "app"}])
    session = log_in(forebay, "u_scram", "pw-scram")
    forebay.upgrade()
    forebay.admin("RECONNECT")
    assert session.value("select current_user") == "u_scram"
    session.close()
