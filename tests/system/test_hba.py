"""Rules of pg_hba.conf: as PostgreSQL has them, held against PostgreSQL itself."""

import itertools
import os
import pwd
import re
import shutil
import socket
import ssl
import struct
import subprocess
import uuid

import psycopg
import pytest

from harness import rundir, toml, wait_until, wire
from harness.certificates import Authority
from harness.forebay import binary, configuration
from harness.postgres import Cluster, bin_dir


@pytest.fixture
def with_rules(start_forebay, tmp_path):
    """Starts Forebay with these lines as its rules, and these as its maps; `rules` and `maps` are the files."""
    def start(*rules, maps=(), wait="port", **postgres):
        write(tmp_path / "hba.conf", rules)
        write(tmp_path / "ident.conf", maps)
        postgres = {"auth": "hba", "hba_file": str(tmp_path / "hba.conf"), "ident_file": str(tmp_path / "ident.conf"),
                    "failover": {"check_timeout": "10s"}, **postgres}
        forebay = start_forebay(wait=wait, **postgres)
        wait_until(forebay.nodes_are_up, 60, "the nodes to be found")
        forebay.rules, forebay.maps = tmp_path / "hba.conf", tmp_path / "ident.conf"
        return forebay
    return start


def write(file, lines):
    file.write_text("".join(line + "\n" for line in lines))


def refusal(endpoint, **login):
    with pytest.raises(wire.ServerError) as caught:
        endpoint.wire(**login)
    return caught.value


CONSOLE = "host forebay all 127.0.0.1/32 scram-sha-256"

# Regular expressions for databases and users, and files in files, came with PostgreSQL 16.
VERSION = int(subprocess.check_output([bin_dir() / "postgres", "--version"]).split()[2].split(b".")[0])

CODES = {"scram-sha-256": [10, 11, 12, 0], "md5": [5, 0], "password": [3, 0], "trust": [0]}


@pytest.mark.parametrize("method", list(CODES))
def test_the_method_of_the_first_rule_that_fits_is_used(with_rules, method):
    forebay = with_rules(CONSOLE, f"host bench app 127.0.0.1/32 {method}", "host all all all reject")
    connection = forebay.wire()
    assert connection.auth_codes == CODES[method]
    assert connection.run("select current_user") == [["app"]]
    if method != "trust":
        error = refusal(forebay, password="wrong")
        assert (error.sqlstate, error.fields["M"]) == ("28P01", 'password authentication failed for user "app"')
    assert refusal(forebay, dbname="other").sqlstate == "28000"


def test_a_client_is_told_what_postgresql_would_tell_it(with_rules):
    forebay = with_rules(CONSOLE, "host bench app 127.0.0.1/32 md5", "host all other all reject")
    error = refusal(forebay, user="other")
    assert (error.sqlstate, error.fields["S"], error.fields["M"]) == (
        "28000", "FATAL",
        'pg_hba.conf rejects connection for host "127.0.0.1", user "other", database "bench", no encryption')
    error = refusal(forebay, dbname="other")
    assert (error.sqlstate, error.fields["M"]) == (
        "28000", 'no pg_hba.conf entry for host "127.0.0.1", user "app", database "other", no encryption')
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry for host"):
        forebay.connect(dbname="other")


def test_a_password_in_clear_text_is_held_against_a_verifier(with_rules, shared_cluster):
    """It opens the server, too: what the verifier is made of is known once it was checked."""
    verifier = shared_cluster.primary.value("select rolpassword from pg_authid where rolname = 'u_scram'")
    users = [{"name": "u_scram", "password": verifier}, {"name": "app", "password": "app"}]
    forebay = with_rules(CONSOLE, "host all app all md5", "host all all 127.0.0.1/32 password", user=users)
    connection = forebay.wire(user="u_scram", password="pw-scram")
    assert connection.auth_codes == [3, 0] and connection.run("select current_user") == [["u_scram"]]
    for wrong in ("pw", "", verifier):
        assert refusal(forebay, user="u_scram", password=wrong).sqlstate == "28P01"
    assert refusal(forebay, user="nobody", password="x").sqlstate == "28P01"


def test_certificates_are_logins(with_rules, authority, tls):
    own, of_ann, of_nobody = (authority.sign(name) for name in ("app", "ann", "bob"))
    forebay = with_rules(
        CONSOLE, "hostssl bench app 127.0.0.1/32 cert map=people", "hostssl other app all cert",
        "hostssl all other all scram-sha-256 clientcert=verify-full", "hostssl all all all md5 clientcert=verify-ca",
        maps=["people /^(.*)p$ \\1p", "people ann app"], tls=tls, user=[
            {"name": "app", "password": "app"}, {"name": "other", "password": "other"},
            {"name": "u_trust", "password": "unused"}])

    def let_in(files, **login):
        shown = {"sslcert": files[0], "sslkey": files[1]} if files else {"sslcertmode": "disable"}
        with forebay.connect(sslmode="require", **shown, **login) as connection:
            return connection.execute("select current_user as me").fetchone()["me"]

    assert let_in(own, password=None) == let_in(of_ann, password=None) == "app"
    assert let_in(own, dbname="other", password=None) == "app"
    for files, dbname in ((of_nobody, "bench"), (of_ann, "other")):
        with pytest.raises(psycopg.OperationalError, match='certificate authentication failed for user "app"'):
            let_in(files, dbname=dbname)
    with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
        let_in(None)
    # Both: the password and the name.
    assert let_in(authority.sign("other"), user="other") == "other"
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "other"'):
        let_in(own, user="other")
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "other"'):
        let_in(authority.sign("other"), user="other", password="wrong")
    # Any certificate, and the password.
    assert let_in(of_nobody, user="u_trust", password="unused") == "u_trust"
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry for host .* no encryption"):
        forebay.connect(sslmode="disable")


def test_the_operating_system_knows_who_is_at_a_unix_socket(with_rules, tmp_path):
    me = pwd.getpwuid(os.geteuid()).pw_name
    folder = rundir.folder("socket")
    forebay = with_rules(
        CONSOLE, "local bench app peer map=people", "local other all peer", "host all all 127.0.0.1/32 scram-sha-256",
        maps=[f"people {me} app"])
    forebay.change(listen=[f"127.0.0.1:{forebay.port}", f"{folder}/.s.PGSQL.{forebay.port}"])
    forebay.term()
    forebay.wait_end()
    forebay.start()
    try:
        with forebay.connect(host=str(folder), password=None) as connection:
            assert connection.execute("select current_user as me").fetchone()["me"] == "app"
        with pytest.raises(psycopg.OperationalError, match='Peer authentication failed for user "app"'):
            forebay.connect(host=str(folder), dbname="other")
        with pytest.raises(psycopg.OperationalError, match=r'no pg_hba.conf entry for host "\[local\]", user "other"'):
            forebay.connect(host=str(folder), user="other")
        assert "the other end runs as" in forebay.log()
    finally:
        shutil.rmtree(folder)


def test_files_are_read_again_and_a_broken_one_changes_nothing(with_rules):
    forebay = with_rules(CONSOLE, "host bench app all trust")
    with forebay.connect() as stays:
        write(forebay.rules, [CONSOLE, "host bench app all md5"])
        forebay.admin("RELOAD")
        assert forebay.wire().auth_codes == [5, 0], "the new rules are in force"
        write(forebay.rules, [CONSOLE, "host bench app all trust", "host bench app nowhere trust", "hots a b c d"])
        with pytest.raises(psycopg.DatabaseError) as caught:
            forebay.admin("RELOAD")
        for line, what in ((3, '"nowhere" is no IP address'), (4, 'invalid connection type "hots"')):
            assert f"{forebay.rules}:{line}: {what}" in str(caught.value)
        before = len(forebay.log())
        forebay.reload()
        forebay.wait_log(f"{forebay.rules}:4: ", after=before)
        assert forebay.wire().auth_codes == [5, 0], "the old rules are in force"
        forebay.admin("SET postgres.pool.size = 7")
        assert forebay.wire().auth_codes == [5, 0], "SET reads no file"
        done = subprocess.run([binary(), "check", "-c", forebay.config_file], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and f"{forebay.rules}:4: invalid connection type" in done.stderr, done
        write(forebay.rules, [CONSOLE, "host bench app all reject"])
        write(forebay.maps, ["people a"])
        with pytest.raises(psycopg.DatabaseError, match="ident.conf:1: end of line before the database user name"):
            forebay.admin("RELOAD")
        assert forebay.wire().auth_codes == [5, 0]
        write(forebay.maps, [])
        forebay.reload()
        wait_until(
            lambda: first_answer(forebay.port, "127.0.0.1", "app", "bench")[0] == "28000", 10, "the rule that rejects")
        assert stays.execute("select 1 as one").fetchone()["one"] == 1, "who is in stays in"


def test_it_does_not_start_without_its_rules(start_forebay, tmp_path):
    forebay = start_forebay(auth="hba", hba_file=str(tmp_path / "none.conf"), wait="")
    assert forebay.wait_end() == 2
    assert f"{tmp_path}/none.conf: cannot read it: " in forebay.log()


def test_the_rules_are_shown(with_rules):
    forebay = with_rules(
        "# comment", CONSOLE, 'host "bench",sameuser /^a 10.1.0.0 255.255.0.0 reject', "local all all peer map=m",
        "host all all samehost md5", maps=["m a b"])
    rows = [tuple(row.values()) for row in forebay.admin("SHOW HBA")]
    file = str(forebay.rules)
    assert rows == [
        (file, 2, "host", "forebay", "all", "127.0.0.1/32", "scram-sha-256", ""),
        (file, 3, "host", "bench,sameuser", "/^a", "10.1.0.0/16", "reject", ""),
        (file, 4, "local", "all", "all", None, "peer", "map=m"),
        (file, 5, "host", "all", "all", "samehost", "md5", ""),
    ]


def test_rules_keep_clients_from_the_console_and_never_let_them_in(with_rules):
    forebay = with_rules("host pgbouncer all all reject", "host all all 127.0.0.1/32 trust")
    with pytest.raises(psycopg.OperationalError, match="pg_hba.conf rejects connection .* database \"pgbouncer\""):
        forebay.admin("SHOW VERSION", dbname="pgbouncer")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        forebay.admin("SHOW VERSION", password="wrong")
    assert forebay.admin("SHOW VERSION")


def test_psql_comes_in_by_the_rules(with_rules):
    forebay = with_rules(CONSOLE, "host bench app samehost password", "host all other all reject")

    def psql(user, password):
        command = [bin_dir() / "psql", "-Atc", "select 'in as', current_user", forebay.dsn(user, password=password)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert psql("app", "app").stdout == "in as|app\n"
    assert 'password authentication failed for user "app"' in psql("app", "wrong").stderr
    assert 'pg_hba.conf rejects connection for host "127.0.0.1", user "other"' in psql("other", "other").stderr


# -- beside PostgreSQL ------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(authority):
    """`[postgres.tls]` of Forebay."""
    certificate, key = authority.sign("forebay")
    return {"mode": "allow", "cert": str(certificate), "key": str(key), "ca": str(authority.file)}


def first_answer(port, source, user, database, certificate=None, has_tls=False, replication=None):
    """What a client is told first: the code of the authentication request, or SQLSTATE and words of the error."""
    plain = socket.create_connection(("127.0.0.1", port), 30, source_address=(source, 0))
    try:
        if has_tls:
            plain.sendall(wire.startup(wire.SSL_REQUEST))
            assert plain.recv(1) == b"S"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate:
                context.load_cert_chain(*certificate)
            plain = context.wrap_socket(plain)
        more = {"replication": replication} if replication else {}
        plain.sendall(wire.startup(wire.PROTOCOL_3_0, {"user": user, "database": database, **more}))
        data = b""
        while len(data) < 5 or len(data) < 1 + struct.unpack("!I", data[1:5])[0]:
            part = plain.recv(65536)
            assert part, f"closed after {data!r}"
            data += part
        frame = wire.Frame(chr(data[0]), data[5:1 + struct.unpack("!I", data[1:5])[0]])
        if frame.type == "E":
            fields = wire.fields(frame)
            return fields["C"], fields["M"]
        return frame.type, struct.unpack("!I", frame.body[:4])[0]
    finally:
        plain.close()


# Of roles that the servers do not have, only what comes before the role is looked for: reject and password.
FILES = {
    "order": ["host all other all reject", "host all all 127.0.0.1/32 trust", "host all all 127.0.0.0/8 md5"],
    "masks": ["host all all 127.0.0.2 255.255.255.255 password", "host all all 127.0.0.0 255.0.0.255 reject",
              "host all all 127.5.0.0/16 md5"],
    "names": ['host "bench" app all md5', "host bench,other app,other 127.0.0.0/8 password", 'host "all" all all reject',
              'host postgres "all" all password', 'host postgres "a""b" all reject', "host postgres a,b all reject",
              'host postgres "a,b" all password', 'host postgres "+x" all reject'],
    "blanks": ["host bench , other all password", "host postgres  app,  other\tall  reject  # all", "host other app all md5#x",
               "host other \\", "  other all \\", " password"],
    "sameuser": ["host sameuser all all password", 'host "sameuser" all all reject', "host postgres all all md5"],
    "regex": ["host /^b.n /^a all md5", "host /^other$ /r$ all password", '"host" "/^post,?" /^[[:alpha:]]{3,5}$ all reject',
              "host /. /^a(.b)?$ all password", "host all /^\\w+$ 127.0.0.2/32 reject"],
    "replication": ["host replication app all password", "host all other all password", 'host "replication" all all reject',
                    "host replication all 127.0.0.2/32 reject"],
    "encryption": ["hostssl bench all all md5", "hostnossl bench all all password", "hostgssenc other all all trust",
                   "hostnogssenc other all 127.0.0.1/32 reject", "hostssl other all all trust"],
    "this machine": ["host bench all samehost md5", "host bench all samenet password", "host all all ::1/128 trust",
                     "host all all 127.0.0.1/32 password"],
    "certificates": ["hostssl bench app all cert", "hostssl bench other all cert map=people",
                     "hostssl other app all trust clientcert=verify-ca", "hostssl other other all trust clientcert=verify-full",
                     "hostssl postgres all all cert clientname=DN map=people"],
}
MAPS = ['people /^ann$ other', "people /^CN=(.*)$ \\1", "strangers app other", 'people "app" nobody']
if VERSION >= 16:
    MAPS += ["people bob /^oth", 'strangers "all" all']
else:
    del FILES["regex"]


@pytest.fixture(scope="module")
def beside(tmp_path_factory, authority):
    """A PostgreSQL server with TLS, whose users have MD5 verifiers: what a client is asked for is then seen."""
    with Cluster(replicas=0, auth="md5", name="beside") as cluster:
        node = cluster.primary
        for source, name in zip((*authority.sign("localhost"), authority.file), ("server.crt", "server.key", "ca.crt")):
            shutil.copy(source, node.data / name)
            (node.data / name).chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(node.data / name, "postgres", "postgres")
        node.configure(ssl="on", ssl_ca_file="ca.crt")
        yield node


def give(node, rules, maps=()):
    """Has PostgreSQL go by these rules."""
    canary = f"canary_{uuid.uuid4().hex}"
    write(node.data / "pg_hba.conf", ["local all postgres trust", f"host {canary} all all reject", *rules])
    write(node.data / "pg_ident.conf", maps)
    node.sql("select pg_reload_conf()")
    wait_until(lambda: "rejects" in first_answer(node.port, "127.0.0.1", "app", canary)[1], 20, "PostgreSQL to reload")


@pytest.mark.parametrize("name", list(FILES))
def test_the_same_rules_decide_the_same_as_with_postgresql(with_rules, beside, authority, tls, name):
    rules = FILES[name]
    give(beside, rules, MAPS)
    forebay = with_rules("host forebay all 127.0.0.1/32 scram-sha-256", *rules, maps=MAPS, tls=tls)
    certificates = [None, *(authority.sign(who) for who in ("app", "other", "ann", "bob"))]
    is_about_tls = name in ("encryption", "certificates")
    shown = [(False, None), *((True, one) for one in (certificates if name == "certificates" else [None]) if is_about_tls)]
    users = ("app", "other") if is_about_tls else ("app", "other", "a,b", "a", 'a"b', "all", "+x", "b,")
    sources = ("127.0.0.1",) if name == "certificates" else ("127.0.0.1", "127.0.0.2", "127.5.0.1")
    wishes = (None, "database", "true") if name == "replication" else (None,)
    seen, different = set(), []
    for source, user, database, (has_tls, one), wish in itertools.product(
            sources, users, ("bench", "other", "postgres"), shown, wishes):
        login = dict(source=source, user=user, database=database, has_tls=has_tls, certificate=one, replication=wish)
        expected, found = (first_answer(endpoint.port, **login) for endpoint in (beside, forebay))
        if user not in ("app", "other"):
            # A role that does not exist is found out later, and is asked for its password as the server's own are.
            expected, found = (("R", 5) if answer == ("R", 10) else answer for answer in (expected, found))
            if expected == ("R", 0):
                continue
        if expected != found:
            different.append((login, expected, found))
        seen.add(expected[0] if expected[0] != "R" else expected)
    assert not different, "\n".join(map(str, different))
    assert len(seen) >= 2, f"this decides nothing: {seen}"


# Lines of pg_hba.conf, and whether PostgreSQL refuses them; Forebay refuses those as well.
LINES = [
    "host", "host all", "host all all", "host all all all", "host all all 127.0.0.1", "local all all", "hosts all all all md5",
    "HOST all all all md5", "host all all 127.0.0.1/33 md5", "host all all 127.0.0.1/ md5", "host all all 127.0.0.1/x md5",
    "host all all ::1/129 md5", "host all all ::1 255.0.0.0 md5", "host all all 127.0.0.1 255.0.0 md5 x", "host all all a/8 md5",
    "host all all 10.0.0.0/8,11.0.0.0/8 md5", "host,local all all all md5", "host all all all md5,trust", "host all all all md6",
    "host all all all MD5", "host all all all cert", "local all all cert", "host all all all peer", "local all all gss",
    "host all all all md5 clientcert=verify-ca", "hostssl all all all md5 clientcert=no", "hostssl all all all md5 clientcert=1",
    "hostssl all all all cert clientcert=verify-ca", "hostssl all all all cert clientname=dn", "host all all all md5 clientname=CN",
    "host all all all md5 map=x", "hostssl all all all md5 map=x", "local all all peer x", "local all all peer x=y",
    "local all all trust map=x", "host all all all md5 ldapserver=x", "host all /a( all md5", "host /[ all all md5",
    "host /a** all all md5", "host all /*a all md5", 'host all "/a{2,1}" all md5', "host all /[[:x:]] all md5", "host all /[z-a] all md5",
    "host all /(?<=a) all md5", "include no.conf", "include_dir no", "host @no all all md5", "include", "include a b c",
    "host all all all ldap", "host all all all ldap ldapserver=a", "host all all all ldap ldapserver=a ldapsearchattribute=x",
    "host all all all ldap ldapserver=a ldapprefix=x ldapbasedn=y", "host all all all ldap ldapserver=a ldapsuffix=x ldapbinddn=y",
    "host all all all ldap ldapserver=a ldapprefix=x ldapbindpasswd=y", "host all all all ldap ldapserver=a ldapprefix=x map=y",
    "host all all all ldap ldapserver=a ldapprefix=x ldapsearchattribute=y", "host all all all ldap ldapserver=a ldapbasedn=x y=z",
    "host all all all ldap ldapserver=a ldapprefix=x ldapsearchfilter=(a=b)", "host all all all ldap ldapurl=http://a/b?c?sub",
    "host all all all ldap ldapserver=a ldapbasedn=x ldapsearchattribute=y ldapsearchfilter=(a=b)",
    "host all all all ldap ldapurl=ldap://a/b?c?sub?(c=d)", "host all all all ldap ldapserver=a ldapbasedn=x ldapport=0",
    "host all all all ldap ldapurl=a ldapbasedn=x",
    "host all all all ldap ldapurl=ldap://a/b ldapprefix=x", "host all all all ldap ldapserver=a ldapbasedn=x ldapport=x",
    # Good ones.
    "local all all ldap ldapserver=a ldapprefix=x", 'host all all all ldap "ldapserver=a b" ldapport=1 "ldapsuffix=, x=y"',
    "host all all all ldap ldapserver=a ldapbasedn=x ldaptls=1", "host all all all ldap ldapserver=a ldapbasedn=x ldapscheme=ldaps",
    "host all all all ldap ldapserver=a ldapbasedn=x ldapbinddn=y ldapbindpasswd=z ldapsearchattribute=w",
    "host all all all ldap ldapserver=a ldapbasedn=x ldapsearchfilter=(a=$username)", "host all all all ldap ldapurl=ldap://a/x=y?z?sub",
    "host all all all ldap ldapurl=ldaps://a:77/x?z?one ldapbinddn=y ldapbindpasswd=z", "host all all all ldap ldapurl=ldap://a/x??sub?(a=b)",
    "local all all trust", "local all all ident", "host a,b \"c d\",e 10.0.0.0/8 md5", "host all all 0.0.0.0/0 reject",
    "host all all ::/0 password", "host all all samenet scram-sha-256", "hostssl all all all cert clientcert=verify-full",
    "hostssl all all all cert map=people clientname=DN", "hostssl all all all md5 clientcert=verify-ca clientname=CN",
    "local all all peer map=people", "local all all peer \"map=people\"", "local all all peer map=", "hostnogssenc all all all md5",
    "host all all 10.0.0.0 255.0.255.0 md5", "host \"\" \"\" all md5", "host @ all all md5", "host \"@x\" all all md5",
    "include_if_exists no.conf", "host /^(a|b)+?$ /^[]x]{2}[^]]\\.\\d\\w\\s$ all md5", 'host all "/^a{,2}$" all md5',
    "host all /a|b all md5", "host /^\\[\\] all all md5", "host all, all all md5", "host all ,all all md5",
]

# What PostgreSQL takes and Forebay refuses, for it could not hold to it (docs/security.md).
NOT_HERE = [
    "host all all db.example md5", "host all all .example.com md5", "host all +app all md5", "host samerole all all md5",
    "host samegroup all all md5", "host all all all ident", "host all all all radius radiusservers=a radiussecrets=b",
    "host all all all ldap ldapserver=a ldapbasedn=x ldapscheme=ldapi", "host all all all ldap ldapbasedn=dc=x",
    "host all all all ldap ldapserver=a ldapbasedn=x ldaptls=1 ldapscheme=ldaps",
    "host all all all ldap ldapserver=a ldapbasedn=x ldapbinddn=y", "host all all all ldap ldapserver=a ldapbasedn=x ldapsearchfilter=(a",
    "host all all all ldap ldapserver=a:1 ldapbasedn=x", "host all all all pam", "host all all 127.1/32 md5", "host all /(?i)a all md5", "host all /(a)\\1 all md5",
    "host all /\\yapp\\y all md5", "host all \"app all md5", "host all / all md5", "host all /(?=a) all md5",
]


def test_the_same_lines_are_wrong_as_with_postgresql(beside, tmp_path):
    def is_known(line):
        return VERSION >= 16 or "include" not in line and not re.search(' "?/[^ ]', line)
    lines = [line for line in LINES + NOT_HERE if is_known(line)]
    write(beside.data / "pg_hba.conf", lines)
    write(tmp_path / "hba.conf", lines)
    write(tmp_path / "ident.conf", MAPS)
    certificate = {"mode": "allow", "cert": "x", "key": "x", "ca": "x"}
    whole = configuration(["127.0.0.1:1"], auth="hba", hba_file="hba.conf", ident_file="ident.conf", tls=certificate)
    (tmp_path / "forebay.toml").write_text(toml.dumps(whole))
    done = subprocess.run(
        [binary(), "check", "-c", tmp_path / "forebay.toml"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    start = f"{tmp_path}/hba.conf:"
    told = {int(line.removeprefix(start).split(":")[0]) for line in done.stderr.splitlines() if line.startswith(start)}
    # For some mistakes the view has no words.
    rows = beside.sql("select line_number as line from pg_hba_file_rules where error is not null or type is null")
    wrong = {row["line"] for row in rows}
    here, there = ({lines[number - 1] for number in found} for found in (told, wrong))
    not_here = set(NOT_HERE) & set(lines)
    # The view shows what is refused here as right, but for what this build of PostgreSQL does not have either.
    assert here - there - not_here == set(), "refused here, and right there"
    assert there - here == set(), "refused there, and right here"
    assert not_here <= here, not_here - here
    assert there, "PostgreSQL finds nothing wrong at all"


# === auth = "cert" ===

def test_a_certificate_alone_is_a_login(start_forebay, authority, tmp_path):
    server, app = authority.sign("forebay"), authority.sign("app")
    boss, stranger = authority.sign("boss"), Authority(tmp_path / "stranger", "stranger").sign("app")
    maps = tmp_path / "ident.conf"
    maps.write_text("people boss other\npeople app app\n")
    tls = {"mode": "allow", "cert": str(server[0]), "key": str(server[1]), "ca": str(authority.file)}
    forebay = start_forebay(auth="cert", tls=tls, ident_file=str(maps), cert_map="people", wait="port")

    def come(user, shown, **options):
        files = {"sslcert": shown[0], "sslkey": shown[1]} if shown else {"sslcertmode": "disable"}
        mode = options.pop("sslmode", "require")
        with psycopg.connect(f"host=localhost port={forebay.port} dbname=bench", user=user, sslmode=mode, **files) as connection:
            return connection.execute("select current_user").fetchone()[0]

    assert wait_until(lambda: come("app", app), 15, "the login of the certificate") == "app"
    assert come("other", boss) == "other", "by the map"
    for user, shown in (("other", app), ("app", boss), ("app", stranger), ("app", None)):
        with pytest.raises(psycopg.OperationalError):
            come(user, shown)
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
        come("app", app, sslmode="disable")
    assert forebay.admin("SHOW VERSION"), "the console asks for its users' passwords"


@pytest.mark.parametrize("settings, message", [({}, "tls.ca"), ({"tls": {"mode": "disable"}}, "tls.mode")])
def test_certificates_need_an_authority(start_forebay, settings, message):
    with pytest.raises(Exception, match=message):
        start_forebay(auth="cert", wait="port", **settings)
