"""`forebay init` on running servers: what it finds, what it says that it did not find, and that its configuration serves."""

import os
import pty
import select
import stat
import subprocess

import psycopg
import pytest
import redis

from harness import Forebay, ports, wait_until
from harness.forebay import binary


def forebay(*arguments, env=None):
    return subprocess.run(
        [binary(), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, start_new_session=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(env or {})})


def valid(tmp_path, text, env):
    file = tmp_path / "made.toml"
    file.write_text(text)
    file.chmod(0o600)
    done = forebay("check", "-c", file, env=env)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def served(text, port, redis_port=None):
    """The text with addresses of this test's own."""
    text = text.replace('"127.0.0.1:6432"', f'"127.0.0.1:{port}"')
    if redis_port:
        text = text.replace('"127.0.0.1:6380"', f'"127.0.0.1:{redis_port}"')
    return '[general]\nstate_dir = "{state}"\n[admin]\nlisten = ["127.0.0.1:{admin_port}"]\n' + text


@pytest.fixture(scope="module")
def boss(shared_cluster):
    """A superuser with a password."""
    shared_cluster.everywhere("create role boss superuser login password 'boss secret'")
    yield {"PGUSER": "boss", "PGPASSWORD": "boss secret"}
    shared_cluster.everywhere("drop role boss")


def hosts(cluster):
    return [argument for address in cluster.addresses for argument in ("--host", address)]


def test_what_init_prints_serves(shared_cluster, shared_redis, boss, tmp_path):
    sentinel = shared_redis.sentinels[0].address
    done = forebay("init", *hosts(shared_cluster), "--sentinel", sentinel, env=boss)
    assert done.returncode == 0, done.stderr
    assert "boss secret" not in done.stdout + done.stderr
    primary = shared_cluster.primary
    assert f"# 127.0.0.1:{primary.port}: primary" in done.stdout, done.stdout
    for node in shared_cluster.replicas:
        assert f"# 127.0.0.1:{node.port}: replica" in done.stdout, done.stdout
    for other in shared_redis.sentinels[1:]:
        assert f"127.0.0.1:{other.peer_port}" in done.stdout, done.stdout
    assert "missing" not in done.stderr, done.stderr
    valid(tmp_path, done.stdout, boss)
    port, redis_port = ports.free_port(), ports.free_port()
    with Forebay(served(done.stdout, port, redis_port), wait="", env=boss) as running:
        running.port = port

        def serves(user, password):
            with psycopg.connect(f"host=127.0.0.1 port={port} dbname=bench user={user} password={password}") as connection:
                return connection.execute("select current_user").fetchone()[0] == user

        wait_until(lambda: serves("app", "app"), 20, "a login that is looked up in PostgreSQL")
        with pytest.raises(psycopg.OperationalError):
            serves("app", "wrong")
        client = redis.Redis("127.0.0.1", redis_port)
        wait_until(lambda: client.set("made", "yes"), 20, "Redis to be served")
        console = f"host=127.0.0.1 port={port} dbname=forebay user=x"
        with psycopg.connect(console, autocommit=True) as connection:
            roles = [(row[2], row[5]) for row in connection.execute("SHOW NODES").fetchall() if row[1] == "postgres"]
            assert [role for _, role in roles] == ["primary", "replica", "replica"]
    ports.release(port)
    ports.release(redis_port)


def test_a_replica_tells_where_its_primary_is(shared_cluster, boss):
    replica = shared_cluster.replicas[0]
    done = forebay("init", "--host", "127.0.0.1", "--port", replica.port, env=boss)
    assert done.returncode == 0, done.stderr
    assert f"# 127.0.0.1:{shared_cluster.primary.port}: primary" in done.stdout, done.stdout
    # The other one listens on a port that nobody tells.
    other = shared_cluster.replicas[1]
    assert f"the replica {other.name} at 127.0.0.1 is missing" in done.stderr, done.stderr
    assert f"TO DO: the replica {other.name}" in done.stdout


def test_a_login_without_rights_says_what_it_lacks(shared_cluster, tmp_path):
    env = {"PGUSER": "app", "PGPASSWORD": "app"}
    done = forebay("init", *hosts(shared_cluster), env=env)
    assert done.returncode == 0, done.stderr
    assert "pg_monitor" in done.stderr and "conf/monitor-role.sql" in done.stdout
    assert "auth_user" not in done.stdout.replace("or auth_user", "")
    valid(tmp_path, done.stdout, env)


def test_the_stewards_role_has_what_a_promotion_needs(shared_cluster):
    done = forebay("init", *hosts(shared_cluster), env={"PGUSER": "steward", "PGPASSWORD": "steward"})
    assert "the login has the rights" in done.stdout and "pg_monitor" not in done.stderr, done.stdout


def test_passwords_are_written_only_when_asked_for(shared_cluster, boss, tmp_path):
    done = forebay("init", *hosts(shared_cluster), "--with-password", env=boss)
    assert 'monitor_password = "boss secret"' in done.stdout
    valid(tmp_path, done.stdout, {})


def test_a_password_is_found_in_pgpass(shared_cluster, tmp_path):
    pgpass = tmp_path / "pgpass"
    pgpass.write_text("*:*:*:other:wrong\n127.0.0.1:*:*:app:app\n")
    pgpass.chmod(0o600)
    env = {"PGPASSFILE": str(pgpass), "PGUSER": "app"}
    done = forebay("init", *hosts(shared_cluster), env=env)
    assert done.returncode == 0 and "{ env = \"PGPASSWORD\" }" in done.stdout, done.stderr
    pgpass.chmod(0o644)
    done = forebay("init", *hosts(shared_cluster), env=env)
    assert done.returncode == 1 and "PGPASSWORD" in done.stderr, done.stderr


def test_a_password_is_asked_for_on_a_terminal_without_echo(shared_cluster):
    node = shared_cluster.primary
    parent, child = pty.openpty()
    command = [str(binary()), "init", "--host", f"127.0.0.1:{node.port}", "--user", "app"]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    # The terminal of its own session: `setsid --ctty` gives it that.
    running = subprocess.Popen(["setsid", "--ctty", "--wait", *command], stdin=child, stdout=child, stderr=child, env=env)
    os.close(child)
    shown = b""

    def read_until(text):
        """Reads until `text` was shown; a terminal that was closed (None) ends with EIO."""
        nonlocal shown
        while text is None or text not in shown:
            ready, _, _ = select.select([parent], [], [], 20)
            assert ready, f"no {text!r} in {shown!r}"
            try:
                shown += os.read(parent, 4096)
            except OSError:
                assert text is None, f"no {text!r} in {shown!r}"
                return

    read_until(b"Password of app")
    os.write(parent, b"app\n")
    read_until(None)
    assert b"monitor_user" in shown
    assert shown.count(b"\napp") == 0, "the password was shown"
    running.communicate(timeout=20)
    os.close(parent)
    assert running.returncode == 0


def test_a_file_is_not_replaced_unless_forced(shared_cluster, boss, tmp_path):
    file = tmp_path / "forebay.toml"
    made = forebay("init", *hosts(shared_cluster), "--output", file, env=boss)
    assert made.returncode == 0 and not made.stdout and "written" in made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("mine")
    again = forebay("init", *hosts(shared_cluster), "--output", file, env=boss)
    assert again.returncode == 2 and "--force" in again.stderr and file.read_text() == "mine"
    forced = forebay("init", *hosts(shared_cluster), "--output", file, "--force", env=boss)
    assert forced.returncode == 0 and "postgres.cluster" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["forebay.toml"]


def test_redis_that_asks_for_a_password_gets_one_from_the_environment(new_redis, tmp_path):
    group = new_redis(password="hidden", replicas=1)
    done = forebay("init", "--sentinel", group.sentinels[0].address)
    assert done.returncode == 0, done.stderr
    assert 'auth = { env = "REDIS_PASSWORD" }' in done.stdout, done.stdout
    assert f"The primary is 127.0.0.1:{group.primary.port} now" in done.stdout
    valid(tmp_path, done.stdout, {"REDIS_PASSWORD": "hidden"})


@pytest.mark.parametrize("arguments, code, word", [
    ([], 2, "--host"),
    (["--host", "127.0.0.1:1"], 1, "127.0.0.1:1"),
    (["--host", "127.0.0.1:x"], 1, "HOST"),
    (["--sentinel", "127.0.0.1:1"], 1, "127.0.0.1:1"),
    (["--host", "a", "--force"], 2, "--output"),
])
def test_what_cannot_be_asked_is_told(arguments, code, word):
    done = forebay("init", *arguments)
    assert done.returncode == code and word in done.stderr and not done.stdout, done


# -- manual pages and completions ---------------------------------------------------------------------------------

COMMANDS = ["run", "check", "status", "health", "admin", "upgrade", "import", "init", "man", "completions"]


def test_help_knows_these_commands():
    listed = forebay("--help").stdout.split("Commands:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines() if line[2] != " "] == [*COMMANDS, "help"]


def test_the_manual_page_names_every_command(tmp_path):
    page = forebay("man")
    assert page.returncode == 0 and page.stdout.startswith(".")
    for command in COMMANDS:
        assert command in page.stdout
    assert forebay("man", "--output", tmp_path / "man").returncode == 0
    made = {file.name for file in (tmp_path / "man").iterdir()}
    assert {"forebay.1", *(f"forebay-{command}.1" for command in COMMANDS)} <= made
    assert "\\-\\-with\\-password" in (tmp_path / "man/forebay-init.1").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_name_every_command(shell):
    done = forebay("completions", shell)
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout
    assert "with-password" in done.stdout


def test_the_completion_for_bash_is_bash():
    script = forebay("completions", "bash").stdout
    ask = 'COMP_WORDS=(forebay i); COMP_CWORD=1; _forebay forebay i forebay; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["import", "init"], done.stderr
