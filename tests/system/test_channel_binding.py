"""SCRAM-SHA-256-PLUS on both sides: who stands between, with a certificate of his own, gets no login."""

import psycopg
import pytest

from harness import Wire, wait_until
from harness.certificates import Authority
from harness.middle import Middle
from test_tls import with_tls  # noqa: F401
from test_tls_servers import encrypt

RSA, EC = ("rsa:2048",), ("ec", "-pkeyopt", "ec_paramgen_curve:P-384")


@pytest.fixture
def stranger(tmp_path):
    return Authority(tmp_path / "stranger", "stranger")


@pytest.fixture
def between():
    """Places somebody in front of a port."""
    placed = []

    def place(*arguments, **options):
        placed.append(Middle(*arguments, **options))
        return placed[-1]
    yield place
    for middle in placed:
        middle.destroy()


def connect(endpoint, port=None, **options):
    return psycopg.connect(endpoint.dsn(), autocommit=True, host="localhost", port=port or endpoint.port, sslmode="require",
                           connect_timeout=20, **options)


def is_in(connection):
    with connection:
        return connection.execute("select 1").fetchone() == (1,)


# === clients ===

@pytest.mark.parametrize("algorithm, digest", [
    (RSA, "sha1"), (RSA, "sha224"), (RSA, "sha256"), (RSA, "sha384"), (RSA, "sha512"), (EC, "sha256"), (EC, "sha384"), (EC, "sha512")])
def test_libpq_binds_its_login_to_each_kind_of_certificate(with_tls, tmp_path, algorithm, digest):
    forebay = with_tls(files=Authority(tmp_path, "signer", algorithm).sign("forebay", digest=digest))
    assert is_in(connect(forebay, channel_binding="require"))


def test_a_certificate_that_nothing_can_be_bound_to_is_served_without(with_tls, tmp_path):
    files = Authority(tmp_path, "signer", ("ed25519",)).sign("forebay", digest="sha512")
    assert is_in(connect(with_tls(files=files), channel_binding="prefer"))
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        connect(with_tls(files=files), channel_binding="require")


@pytest.mark.parametrize("wish", ["disable", "prefer", "require"])
@pytest.mark.parametrize("database", ["bench", "forebay"])
def test_pools_and_console_bind_if_the_client_wishes(with_tls, wish, database):
    forebay = with_tls("require")
    login = {"user": "admin", "password": "admin"} if database == "forebay" else {}
    with connect(forebay, channel_binding=wish, dbname=database, **login) as connection:
        assert connection.execute("select 1").fetchone()


def test_a_login_in_clear_text_is_not_offered_what_cannot_be(with_tls):
    forebay = with_tls("allow")
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        psycopg.connect(forebay.dsn(), host="localhost", sslmode="disable", channel_binding="require")
    with psycopg.connect(forebay.dsn(), host="localhost", sslmode="disable") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("auth", ["scram-sha-256", "md5"])
def test_where_binding_is_required_no_other_login_is_taken(with_tls, auth):
    forebay = with_tls("require", auth=auth, channel_binding="require")
    assert is_in(connect(forebay))
    with pytest.raises(psycopg.OperationalError, match="SCRAM|SASL|channel"):
        connect(forebay, channel_binding="disable")


@pytest.mark.parametrize("wish, hides", [("require", False), ("prefer", False), ("require", True), ("prefer", True)])
def test_who_stands_between_client_and_forebay_gets_no_login(with_tls, between, stranger, wish, hides):
    """Not by passing everything on, and not by taking away the offer."""
    forebay = with_tls()
    middle = between(forebay.port, stranger.sign("forebay"), hides_binding=hides)
    assert is_in(connect(forebay, middle.port, channel_binding="disable")), "he can: who binds nothing does not notice him"
    with pytest.raises(psycopg.OperationalError, match="channel binding|stands between"):
        connect(forebay, middle.port, channel_binding=wish)
    assert middle.heard, "he was there"
    if not (hides and wish == "require"):
        forebay.wait_log("login failed")


# === servers ===

@pytest.fixture
def encrypted(new_cluster, authority):
    servers = new_cluster(replicas=0, auth="scram-sha-256")
    encrypt(servers.nodes[0], authority.sign("pg1"))
    return servers


@pytest.fixture
def in_front(start_forebay):
    """Starts Forebay in front of a port of this machine."""
    def start(servers, port, binding="prefer", wait="nodes", mode="require"):
        tls = {"mode": mode, "channel_binding": binding}
        entry = {"name": "main", "nodes": [f"localhost:{port}"], "monitor_user": "monitor", "monitor_password": "monitor", "tls": tls}
        return start_forebay(servers=servers, cluster=[entry], wait=wait)
    return start


@pytest.mark.parametrize("binding", ["prefer", "require"])
def test_logins_at_servers_are_bound(encrypted, in_front, binding):
    forebay = in_front(encrypted, encrypted.nodes[0].port, binding)
    assert forebay.wire().run("select 1") == [["1"]]


@pytest.mark.parametrize("binding, hides, refusal", [
    ("prefer", False, "channel binding check failed"), ("prefer", True, "negotiation error"), ("require", False, None),
    ("require", True, None)])
def test_who_stands_between_forebay_and_a_server_gets_no_login(encrypted, in_front, between, stranger, binding, hides, refusal):
    """Though his certificate is taken."""
    node = encrypted.nodes[0]
    middle = between(node.port, stranger.sign("pg1"), hides_binding=hides)
    forebay = in_front(encrypted, middle.port, binding, wait="port")
    wait_until(lambda: middle.heard and all(row["state"] == "down" for row in forebay.admin("SHOW NODES")), 20, "no trust in him")
    assert not [said for said in middle.heard if b"select" in said.lower()], "nothing was asked of him"
    if refusal:
        wait_until(lambda: refusal in node.log(), 10, "the server to notice")


def test_a_server_that_asks_for_another_login_gets_none_where_binding_is_required(new_cluster, authority, in_front):
    servers = new_cluster(replicas=0, auth="password")
    encrypt(servers.nodes[0], authority.sign("pg1"))
    forebay = in_front(servers, servers.nodes[0].port, "require", wait="port")
    reason = lambda: forebay.admin("SHOW NODES")[0]["reason"]
    wait_until(lambda: "channel binding" in reason(), 15, "the monitor to refuse")
    assert is_in(psycopg.connect(in_front(servers, servers.nodes[0].port, "prefer").dsn()))


def test_binding_without_encryption_is_an_error_of_the_configuration(start_forebay):
    with pytest.raises(Exception, match="postgres.tls.channel_binding"):
        start_forebay(wait="port", tls={"mode": "disable", "channel_binding": "require"})
