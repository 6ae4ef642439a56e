"""Configurations of PgBouncer, Pgpool-II and HAProxy, as Debian ships them and as they serve, are imported."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
import redis

from harness import Forebay, ports, process, rundir, wait_until
from harness.forebay import binary

DOC = Path("/usr/share/doc")
# Tool, and the files that its package brings; what is not installed here cannot be tested.
SHIPPED = [
    ("pgbouncer", ["/etc/pgbouncer/pgbouncer.ini"]),
    ("pgbouncer", ["/etc/pgbouncer/pgbouncer.ini", "/etc/pgbouncer/userlist.txt"]),
    ("pgbouncer", [DOC / "pgbouncer/examples/pgbouncer.ini", DOC / "pgbouncer/examples/userlist.txt"]),
    ("pgbouncer", [DOC / "pgbouncer/pgbouncer-minimal.ini"]),
    ("pgpool", ["/etc/pgpool2/pgpool.conf"]),
    ("pgpool", ["/etc/pgpool2/pgpool.conf", "/etc/pgpool2/pool_passwd", "/etc/pgpool2/pool_hba.conf", "/etc/pgpool2/pcp.conf"]),
    ("pgpool", [DOC / "pgpool2/examples/pgpool.conf.sample", DOC / "pgpool2/examples/pool_hba.conf.sample",
                DOC / "pgpool2/examples/pcp.conf.sample"]),
    ("haproxy", ["/etc/haproxy/haproxy.cfg"]),
    *[("haproxy", [DOC / f"haproxy/examples/{name}.cfg"]) for name in (
        "basic-config-edge", "content-sw-sample", "option-http_proxy", "quick-test", "socks4", "transparent_proxy", "wurfl-example")],
]


def forebay(*arguments):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)


def imported(tool, *files):
    """What is printed for these files."""
    done = forebay("import", tool, *files)
    assert done.returncode == 0, done.stderr
    return done


def check(tmp_path, text):
    file = tmp_path / "forebay.toml"
    file.write_text(text)
    file.chmod(0o600)
    done = forebay("check", "-c", file)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def active_lines(file):
    """(number, line) of what is no comment."""
    lines = Path(file).read_text("utf-8").splitlines()
    return [(i + 1, line.strip()) for i, line in enumerate(lines) if line.strip() and not line.strip().startswith((";", "#"))]


# -- the files of the packages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool, files", SHIPPED, ids=lambda value: value if isinstance(value, str) else Path(value[-1]).name)
def test_a_file_that_debian_ships_becomes_a_valid_configuration(tool, files, tmp_path):
    if missing := [str(file) for file in files if not Path(file).exists()]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = imported(tool, *files)
    check(tmp_path, done.stdout)
    assert "to do:" in done.stderr, "samples lack servers or passwords, which has to be said"


@pytest.mark.parametrize("name, sign", [("pgbouncer", ";"), ("pgpool2", "#")])
def test_every_key_of_a_sample_is_told_when_it_is_switched_on(name, sign, tmp_path):
    """Everything that a sample has commented out, uncommented: each line is a key or a comment with its place."""
    sample = {"pgbouncer": Path("/etc/pgbouncer/pgbouncer.ini"), "pgpool2": Path("/etc/pgpool2/pgpool.conf")}[name]
    if not sample.exists():
        pytest.skip(f"{sample} is not installed")
    lines = []
    for line in sample.read_text("utf-8").splitlines():
        bare = line.removeprefix(sign)
        key, equals, value = bare.partition("=")
        is_key = equals and key.strip().replace("_", "").isalnum() and not bare.startswith((sign, " "))
        wanted = value.strip() not in ("", "''") and "<" not in value and "include" not in key
        lines.append(bare if line.startswith(sign) and is_key and wanted else line)
    file = tmp_path / ("pgbouncer.ini" if name == "pgbouncer" else "pgpool.conf")
    file.write_text("\n".join(lines) + "\n")
    done = imported("pgbouncer" if name == "pgbouncer" else "pgpool", file)
    check(tmp_path, done.stdout)
    told = [number for number, line in active_lines(file) if f"{file}:{number}" not in done.stdout and not line.startswith("[")]
    silent = [line for number, line in active_lines(file) if number in told]
    # Keys that stand in one line with others' place, or say nothing of their own.
    allowed = ("backend_", "sr_check_password", "health_check_password", "sr_check_database", "auth_file", "pool_passwd")
    assert [line for line in silent if not line.startswith(allowed)] == []


# -- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool, name, text, place", [
    ("pgbouncer", "pgbouncer.ini", "[databases]\nx = host='a\n", ":2: "),
    ("pgbouncer", "pgbouncer.ini", "[pgbouncer]\npool_mode = some\n", ":2: "),
    ("pgpool", "pgpool.conf", "port = 'a\n", ":1: "),
    ("haproxy", "haproxy.cfg", "\nlisten pg\n  bind nothing\n", ":3: "),
    ("haproxy", "haproxy.cfg", "\xff", ": "),
])
def test_bad_input_is_told_with_its_place(tool, name, text, place, tmp_path):
    file = tmp_path / name
    file.write_bytes(text.encode("latin-1"))
    done = forebay("import", tool, file)
    assert done.returncode == 2 and done.stderr.startswith(f"{file}{place}") and not done.stdout, done


def test_a_file_that_is_not_there_is_told(tmp_path):
    done = forebay("import", "haproxy", tmp_path / "nothing.cfg")
    assert done.returncode == 2 and "nothing.cfg" in done.stderr
    assert forebay("import", "haproxy").returncode == 2
    assert forebay("import", "nginx", tmp_path).returncode == 2


# -- what serves now serves then ----------------------------------------------------------------------------------


def with_places(text):
    """What was printed, with a folder for its state and a port for HTTP of this test's own. Braces are the harness's."""
    places = '[general]\nstate_dir = "{state}"\n[admin]\nlisten = ["127.0.0.1:{admin_port}"]\n'
    return places + text


class PgBouncer:
    """A PgBouncer of its own, in front of a cluster."""

    def __init__(self, folder, port, databases, users, settings=""):
        self.folder, self.port = folder, port
        program = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin")
        if not program:
            pytest.skip("pgbouncer is not installed")
        self.ini, self.users = folder / "pgbouncer.ini", folder / "userlist.txt"
        self.users.write_text("".join(f'"{name}" "{password}"\n' for name, password in users.items()))
        self.ini.write_text(
            f"[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_file = userlist.txt\nadmin_users = app\n{settings}\n".replace("userlist.txt", str(self.users)))
        user = "postgres" if os.geteuid() == 0 else None
        if user:
            for path in (folder, self.ini, self.users):
                shutil.chown(path, user, user)
            folder.chmod(0o755)
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                process.command_as(user, [program, self.ini], "KILL"), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd="/")

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


def ask(port, dbname, user, password):
    """Where a client arrives, or the SQLSTATE that it gets; no state means that it could not log in."""
    try:
        dsn = f"host=127.0.0.1 port={port} dbname={dbname} user={user} password={password} connect_timeout=5"
        with psycopg.connect(dsn, autocommit=True) as connection:
            return connection.execute("select current_database(), current_user, session_user").fetchone()
    except psycopg.OperationalError:
        return "refused"


MD5 = "md5" + hashlib.md5(b"otherother").hexdigest()

LOGINS = [
    ("bench", "app", "app"),
    ("alias", "app", "app"),
    ("forced", "app", "app"),
    ("bench", "other", "other"),
    ("other", "app", "app"),
    ("bench", "app", "wrong"),
    ("bench", "nobody", "app"),
    ("nowhere", "app", "app"),
    ("alias", "other", "wrong"),
]


@pytest.mark.parametrize("auth, other", [("md5", "other"), ("scram-sha-256", "other")])
def test_what_pgbouncer_serves_forebay_serves(shared_cluster, auth, other, tmp_path):
    node, folder = shared_cluster.primary, rundir.folder("pgbouncer")
    port = ports.free_port()
    databases = "\n".join([
        f"bench = host=127.0.0.1 port={node.port}",
        f"alias = host=127.0.0.1 port={node.port} dbname=bench pool_size=3 pool_mode=transaction",
        f"forced = host=127.0.0.1 port={node.port} dbname=bench user=other password='other'",
        f"other = host=127.0.0.1 port={node.port}",
    ])
    bouncer = PgBouncer(folder, port, databases, {"app": "app", "other": other}, f"auth_type = {auth}\npool_mode = transaction\n")
    try:
        wait_until(lambda: ask(port, "bench", "app", "app") != "refused", 20, "PgBouncer to serve")
        before = {login: ask(port, *login) for login in LOGINS}
    finally:
        bouncer.stop()
    text = imported("pgbouncer", bouncer.ini).stdout
    check(tmp_path, text)
    # The same port: PgBouncer has left it.
    with Forebay(with_places(text), wait="") as running:
        running.port = port
        wait_until(lambda: ask(port, "bench", "app", "app") != "refused", 20, "Forebay to serve")
        after = {login: ask(port, *login) for login in LOGINS}
        assert after == before
        with psycopg.connect(f"host=127.0.0.1 port={port} dbname=pgbouncer user=app password=app", autocommit=True) as console:
            names = {row[0] for row in console.execute("SHOW DATABASES").fetchall()}
            assert {"bench", "alias", "forced", "other"} <= names
            console.execute("RELOAD")
    ports.release(port)
    assert before[("forced", "app", "app")] == ("bench", "other", "other")


def test_verifiers_of_pgbouncer_let_the_same_users_in(new_cluster, tmp_path):
    cluster = new_cluster(replicas=0, auth="md5")
    node, folder, port = cluster.primary, rundir.folder("pgbouncer"), ports.free_port()
    bouncer = PgBouncer(
        folder, port, f"* = host=127.0.0.1 port={node.port}", {"other": MD5, "app": "app"}, "auth_type = md5\n")
    logins = [("bench", "other", "other"), ("bench", "app", "app"), ("other", "app", "app"), ("bench", "other", "wrong")]
    try:
        wait_until(lambda: ask(port, "bench", "app", "app") != "refused", 20, "PgBouncer to serve")
        before = {login: ask(port, *login) for login in logins}
    finally:
        bouncer.stop()
    text = imported("pgbouncer", bouncer.ini, bouncer.users).stdout
    check(tmp_path, text)
    with Forebay(with_places(text), wait="") as running:
        running.port = port
        wait_until(lambda: ask(port, "bench", "app", "app") != "refused", 20, "Forebay to serve")
        assert {login: ask(port, *login) for login in logins} == before
    ports.release(port)


def test_a_configuration_of_pgpool_serves(shared_cluster, tmp_path):
    port = ports.free_port()
    backends = "".join(
        f"backend_hostname{i} = '127.0.0.1'\nbackend_port{i} = {node.port}\nbackend_weight{i} = 1\n"
        for i, node in enumerate(shared_cluster.nodes))
    conf = tmp_path / "pgpool.conf"
    conf.write_text(
        f"listen_addresses = '127.0.0.1'\nport = {port}\n{backends}sr_check_user = 'monitor'\nsr_check_password = 'monitor'\n"
        "num_init_children = 8\nload_balance_mode = on\n")
    (tmp_path / "pool_passwd").write_text("app:TEXTapp\nother:TEXTother\n")
    text = imported("pgpool", conf).stdout
    check(tmp_path, text)
    with Forebay(with_places(text), wait="") as running:
        running.port = port
        wait_until(lambda: ask(port, "bench", "app", "app") != "refused", 20, "Forebay to serve")
        assert ask(port, "bench", "other", "other") == ("bench", "other", "other")
        assert ask(port, "bench", "other", "wrong") == "refused"
    ports.release(port)


def test_a_configuration_of_haproxy_serves_postgresql_and_redis(shared_cluster, shared_redis, tmp_path):
    primary_port, replica_port, redis_port = (ports.free_port() for _ in range(3))

    def servers(nodes):
        return "".join(f"  server n{i} 127.0.0.1:{node.port} check\n" for i, node in enumerate(nodes))

    cfg = tmp_path / "haproxy.cfg"
    cfg.write_text(
        "defaults\n  mode tcp\n  timeout connect 4s\n  timeout client 30m\n  timeout server 30m\n"
        f"listen postgres_primary\n  bind 127.0.0.1:{primary_port}\n  option httpchk GET /primary\n{servers(shared_cluster.nodes)}"
        f"listen postgres_replica\n  bind 127.0.0.1:{replica_port}\n  option httpchk GET /replica\n{servers(shared_cluster.nodes)}"
        f"listen redis\n  bind 127.0.0.1:{redis_port}\n  option tcp-check\n  tcp-check send info\\ replication\\r\\n\n"
        f"  tcp-check expect string role:master\n{servers(shared_redis.nodes)}")
    done = imported("haproxy", cfg)
    check(tmp_path, done.stdout)
    assert "CHANGE-ME" in done.stderr, "it has to be said that logins are missing"
    text = done.stdout.replace('monitor_user = "forebay_monitor"', 'monitor_user = "monitor"')
    text = text.replace('monitor_password = "CHANGE-ME"', 'monitor_password = "monitor"').replace('"CHANGE-ME"', '"app"')
    with Forebay(with_places(text), wait="") as running:
        running.port = primary_port
        wait_until(lambda: ask(primary_port, "bench", "app", "app") != "refused", 20, "Forebay to serve")

        def in_recovery(port):
            with psycopg.connect(f"host=127.0.0.1 port={port} dbname=bench user=app password=app") as connection:
                return connection.execute("select pg_is_in_recovery()").fetchone()[0]

        assert in_recovery(primary_port) is False
        wait_until(lambda: in_recovery(replica_port), 20, "reads to go to a replica")
        client = redis.Redis("127.0.0.1", redis_port)
        wait_until(lambda: client.set("imported", "yes"), 20, "Redis to be served")
        assert client.get("imported") == b"yes"
    for port in (primary_port, replica_port, redis_port):
        ports.release(port)
