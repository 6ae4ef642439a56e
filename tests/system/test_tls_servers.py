"""TLS between Forebay and PostgreSQL: pooled connections, Forebay's own, and cancels."""

import shutil
from threading import Timer

import psycopg
import pytest

from harness import wait_until, wire
from harness.certificates import Authority
from harness.scene import events


def encrypt(node, files, only=True):
    """Has a server speak TLS, and let nobody in over TCP who does not."""
    for name, file in zip(("tls.pem", "tls.key"), files):
        shutil.copy(file, node.data / name)
        shutil.chown(node.data / name, node.data.stat().st_uid, node.data.stat().st_gid)
        (node.data / name).chmod(0o600)
    node.configure(ssl="on", ssl_cert_file="tls.pem", ssl_key_file="tls.key")
    if only:
        rules = node.data / "pg_hba.conf"
        plain = "".join(f"hostnossl all {user} all reject\n" for user in ("app", "other", "monitor", "steward"))
        rules.write_text(plain + rules.read_text())
        node.sql("select pg_reload_conf()")


@pytest.fixture
def encrypted(cluster, authority):
    """A cluster whose servers take Forebay's logins over TLS only."""
    for node in cluster.nodes:
        encrypt(node, authority.sign(node.name))
    return cluster


def tls(mode, ca=None, **more):
    """Of the cluster of a configuration."""
    return {"mode": mode, **({"ca": str(ca)} if ca else {}), **more}


@pytest.fixture
def with_tls(start_forebay):
    def start(servers, settings, wait="nodes", **tables):
        login = "steward" if tables.get("failover", {}).get("mode") == "promote" else "monitor"
        nodes = [node.replace("127.0.0.1", "localhost") for node in servers.addresses]
        entry = {"name": "main", "nodes": nodes, "monitor_user": login, "monitor_password": login, "tls": settings}
        return start_forebay(servers=servers, cluster=[entry], wait=wait, **tables)
    return start


def used(node):
    """How many connections of Forebay's there are, and how many of them are encrypted."""
    row = node.sql("select count(*) as all, count(*) filter (where ssl) as encrypted from pg_stat_ssl "
                   "join pg_stat_activity using (pid) where usename in ('app', 'monitor', 'steward')")[0]
    return row["all"], row["encrypted"]


@pytest.mark.parametrize("mode", ["allow", "prefer", "require", "verify-ca", "verify-full"])
def test_everything_of_forebay_s_is_encrypted(encrypted, with_tls, authority, mode):
    forebay = with_tls(encrypted, tls(mode, authority.file))
    client = forebay.wire()
    assert client.run("select repeat('x', 500000)")[0][0] == "x" * 500000
    client.run("listen news")
    client.run("notify news")
    for node in encrypted.nodes:
        every, protected = used(node)
        assert every == protected > 0, node.name
    # A setting that is changed from the console leaves it as it is.
    forebay.admin("SET postgres.pool.size = 5")
    forebay.admin("RECONNECT")
    assert forebay.wire().run("select 1") == [["1"]]
    rows = forebay.admin("SHOW SERVERS")
    assert rows and all(row["tls"].startswith("TLSv1.3/TLS_") for row in rows), rows


def test_a_cancel_finds_its_way(encrypted, with_tls):
    forebay = with_tls(encrypted, tls("require"))
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        Timer(0.5, connection.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(30)")


def test_a_switchover_and_a_failover_run_encrypted(encrypted, with_tls, authority):
    encrypted.everywhere("create table w (id int); grant all on w to app")
    forebay = with_tls(encrypted, tls("verify-full", authority.file), failover={"mode": "promote", "hold": "30s"})
    client = forebay.wire()
    client.run("insert into w values (1)")
    encrypted.caught_up()
    forebay.admin("SWITCHOVER main TO pg2")
    client.run("insert into w values (2)")
    wait_until(lambda: encrypted.nodes[2].value("select count(*) from w") == 2, 20, "the third node to follow")
    encrypted.nodes[1].kill()
    client.run("insert into w values (3)")
    assert events(forebay, "failover_done") and client.value("select count(*) from w") == "3"


@pytest.mark.parametrize("mode, is_let_in", [("allow", True), ("prefer", True), ("require", False)])
def test_a_server_without_tls_is_spoken_to_only_if_that_is_allowed(cluster, with_tls, mode, is_let_in):
    forebay = with_tls(cluster, tls(mode), wait="nodes" if is_let_in else "port")
    if is_let_in:
        assert forebay.wire().run("select 1") == [["1"]]
    else:
        refused = lambda: [row for row in forebay.admin("SHOW NODES") if "TLS" in row["reason"] or "tls" in row["reason"]]
        wait_until(lambda: len(refused()) == 3, 15, "the nodes to be down for want of TLS")


@pytest.mark.parametrize("mode, name, is_let_in", [
    ("require", "elsewhere.example", True), ("verify-ca", "elsewhere.example", True),
    ("verify-full", "elsewhere.example", False), ("verify-full", "localhost", True)])
def test_the_name_counts_only_where_it_is_checked(cluster, with_tls, authority, mode, name, is_let_in):
    for node in cluster.nodes:
        encrypt(node, authority.sign(node.name, f"DNS:{name}"))
    forebay = with_tls(cluster, tls(mode, authority.file), wait="nodes" if is_let_in else "port")
    if is_let_in:
        assert forebay.wire().run("select 1") == [["1"]]
    else:
        bad = lambda: [row for row in forebay.admin("SHOW NODES") if "not valid for" in row["reason"]]
        wait_until(lambda: len(bad()) == 3, 15, "the nodes to be refused for their name")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_certificate_of_somebody_else_is_refused(encrypted, with_tls, tmp_path, mode):
    """With an authority, require checks it as well, as libpq does."""
    stranger = Authority(tmp_path, "stranger")
    forebay = with_tls(encrypted, tls(mode, stranger.file), wait="port")
    bad = lambda: [row for row in forebay.admin("SHOW NODES") if "certificate" in row["reason"]]
    wait_until(lambda: len(bad()) == 3, 15, "the nodes to be refused for their certificate")


def test_a_certificate_of_forebay_s_own_is_shown(encrypted, with_tls, authority):
    for node in encrypted.nodes:
        shutil.copy(authority.file, node.data / "ca.pem")
        shutil.chown(node.data / "ca.pem", node.data.stat().st_uid, node.data.stat().st_gid)
        node.configure(ssl_ca_file="ca.pem")
        rules = node.data / "pg_hba.conf"
        asked = "".join(f"hostssl all {user} all scram-sha-256 clientcert=verify-ca\n" for user in ("app", "monitor"))
        rules.write_text(asked + rules.read_text())
        node.sql("select pg_reload_conf()")
    certificate, key = authority.sign("proxy")
    forebay = with_tls(encrypted, tls("verify-full", authority.file, cert=str(certificate), key=str(key)))
    assert forebay.wire().run("select 1") == [["1"]]
    assert encrypted.nodes[0].value("select count(*) from pg_stat_ssl where client_dn like '%proxy%'") > 0


def test_a_new_authority_is_taken_with_a_reload(encrypted, with_tls, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    stranger = Authority(tmp_path / "stranger", "stranger")
    shutil.copy(stranger.file, ca)
    forebay = with_tls(encrypted, tls("verify-ca", ca), wait="port")
    wait_until(lambda: all(row["state"] == "down" for row in forebay.admin("SHOW NODES")), 15, "nobody to be trusted")
    shutil.copy(authority.file, ca)
    forebay.admin("RELOAD")
    assert forebay.wire().run("select 1") == [["1"]]
    ca.write_text("nothing\n")
    with pytest.raises(psycopg.Error, match="ca.pem"):
        forebay.admin("RELOAD")
    assert forebay.wire().run("select 1") == [["1"]], "what was in force stays"


def test_large_answers_and_copies_pass(encrypted, with_tls):
    forebay = with_tls(encrypted, tls("require"), pool={"size": 2})
    with psycopg.connect(forebay.dsn(), autocommit=True) as connection:
        connection.execute("create temporary table t (v text)")
        with connection.cursor().copy("copy t from stdin") as copy:
            for _ in range(3000):
                copy.write("y" * 10000 + "\n")
        assert connection.execute("select count(*), sum(length(v)) from t").fetchone() == (3000, 30_000_000)
        rows = sum(1 for _ in connection.cursor().stream("select v from t"))
        assert rows == 3000
        assert len(connection.execute("select repeat('z', 40000000)").fetchone()[0]) == 40_000_000
    assert forebay.wire().ask(wire.query("select 1"))[-1].type == "Z"
