"""Secrets stay where they belong: no log, console, event, file or list of processes shows one, and none stays in memory
when it is replaced."""

import base64
import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from harness import RedisGroup, ports, rundir, wait_until, wire
from harness.forebay import binary
from harness.redis_wire import ReplyError
from harness.toml import Inline

UNIQUE = f"{os.getpid():x}"
OLD, NEW, WRONG = (f"{word}-{UNIQUE}-Zq7%" for word in ("once", "later", "guessed"))
ADMIN, MONITOR, FILE, VARIABLE, REDIS, ALICE = (
    f"{word}-{UNIQUE}-Zq7" for word in ("steers", "watches", "in-a-file", "in-the-environment", "cached", "wonder"))
ALL = [OLD, NEW, WRONG, ADMIN, MONITOR, FILE, VARIABLE, REDIS, ALICE]


def forms(secret):
    """As it is, and as people and programs write bytes."""
    raw = secret.encode()
    # In the midst of other bytes base64 has two more spellings, of which the middle is sure.
    spellings = {base64.b64encode(b"x" * shift + raw)[4 if shift else 0:-4] for shift in range(3)}
    return {raw, raw.hex().encode(), raw.hex().upper().encode(), *spellings}


def found_in(data, secrets=tuple(ALL)):
    data = data.encode() if isinstance(data, str) else data
    return [secret for secret in secrets if any(form in data for form in forms(secret))]


@pytest.fixture(scope="module")
def guarded():
    """Redis that asks for a password, and has a user."""
    with RedisGroup(name="guarded-redis", password=REDIS, users=[f"alice on >{ALICE} ~* +@all"], replicas=1,
                    sentinels=1, quorum=1, down_after=60) as group:
        yield group


@pytest.fixture
def secretive(new_cluster, guarded, start_forebay, tmp_path):
    """Forebay with secrets that stand nowhere else, in all the places where they may come from."""
    cluster = new_cluster(replicas=1, auth="scram-sha-256")
    for role, password in (("app", OLD), ("monitor", MONITOR), ("other", VARIABLE), ("u_limited", FILE)):
        cluster.primary.sql(f"alter role {role} password '{password}'")
    cluster.caught_up()
    file = tmp_path / "secret"
    file.write_text(FILE + "\n")
    file.chmod(0o600)
    service = guarded.service(auth=REDIS, users={"alice": ALICE})
    # Its harness logs in as itself.
    events = tmp_path / "events"
    forebay = start_forebay(
        servers=cluster, wait="", redis=[service], env={"THE_SECRET": VARIABLE},
        user=[{"name": "app", "password": OLD}, {"name": "other", "password": Inline(env="THE_SECRET")},
              {"name": "u_limited", "password": Inline(file=str(file))}],
        cluster=[{"name": "main", "nodes": [f"127.0.0.1:{node.port}" for node in cluster.nodes],
                  "monitor_user": "monitor", "monitor_password": MONITOR}],
        failover={"check_interval": "200ms", "event_command": ["/bin/sh", "-c", f"env >> {events}"]},
        config={"general": {"threads": 2, "log.level": "debug"},
                "admin": {"user": [{"name": "admin", "password": ADMIN, "role": "admin"}]}})
    forebay.events_file, forebay.cluster = events, cluster
    wait_until(lambda: forebay.wire(user="app", password=OLD).value("select 1") == "1", 20, "a login")
    return forebay


def session(forebay):
    """What people and programs do with passwords, right and wrong; everything that they get to see."""
    seen = []

    def sees(what):
        seen.append(str(what))

    for user, password in (("app", OLD), ("other", VARIABLE), ("u_limited", FILE)):
        sees(wait_until(lambda: forebay.wire(user=user, password=password).run("select 1"), 20, f"a login of {user}"))
    for user in ("app", "admin", "nobody"):
        for dbname in ("bench", "forebay"):
            with pytest.raises(wire.ServerError) as refused:
                forebay.wire(user=user, password=WRONG, dbname=dbname)
            sees(vars(refused.value))
            with pytest.raises(psycopg.Error) as refused:
                psycopg.connect(forebay.dsn(user, dbname, password=WRONG), connect_timeout=10)
            sees(refused.value)
    client = forebay.redis().wire()
    for request in (["AUTH", WRONG], ["AUTH", "alice", WRONG], ["HELLO", "3", "AUTH", "alice", WRONG],
                    ["AUTH", "alice", ALICE], ["SET", "a", "b"], ["CLIENT", "LIST"], ["AUTH", "too", "many", WRONG]):
        try:
            sees(client.ask(*request))
        except ReplyError as error:
            sees(error)
    with psycopg.connect(forebay.dsn("admin", "forebay", password=ADMIN), autocommit=True) as console:
        views = [row[0] for row in console.execute("SHOW HELP") if row[0].startswith("SHOW ")]
        assert len(views) > 20
        for view in views:
            sees(console.execute(view).fetchall())
        # A mistake beside a secret, and one that is the secret.
        right = forebay.config_file.read_text()
        for text in (right.replace(f'"{OLD}"', f'"{OLD}" junk'), right.replace(f'"{OLD}"', f'["{OLD}"]'), right + f"\n{OLD}",
                     right.replace("monitor_password", "monitor_pasword"), right.replace(f'"{OLD}"', f'"SCRAM-SHA-256${OLD}"')):
            assert text != right
            forebay.config_file.write_text(text)
            with pytest.raises(psycopg.Error) as refused:
                console.execute("RELOAD")
            sees(refused.value)
            sees(checked(forebay))
        forebay.config_file.write_text(right)
        console.execute("RELOAD")
        sees(checked(forebay))
        # A server that refuses us.
        forebay.cluster.primary.sql("alter role other password 'another'")
        console.execute("RECONNECT")
        try:
            forebay.wire(user="other", password=VARIABLE).run("select 1")
        except wire.ServerError as error:
            sees(vars(error))
        sees(console.execute("SHOW EVENTS").fetchall())
    return seen


def checked(forebay):
    ran = subprocess.run([binary(), "check", "-c", forebay.config_file, "--show"], capture_output=True, text=True,
                         env={**os.environ, "THE_SECRET": VARIABLE}, timeout=60)
    assert ran.stdout or ran.stderr
    return ran.stdout + ran.stderr


def test_nobody_gets_to_see_a_secret(secretive):
    forebay = secretive
    for said in session(forebay):
        assert not found_in(said), said
    log = forebay.log()
    assert "authentication failed" in log or "28P01" in log, "the log is not about logins at all"
    assert not found_in(log)
    assert not found_in(Path(f"/proc/{forebay.pid}/cmdline").read_bytes())
    for file in forebay.folder.rglob("*"):
        if file.is_file() and file != forebay.config_file:
            assert not found_in(file.read_bytes()), file
    given = wait_until(forebay.events_file.read_text, 10, "the event command to have run")
    assert "FOREBAY_EVENT" in given and not found_in(given) and "THE_SECRET" not in given


def memory(pid):
    """All that the process has in memory that it may write to."""
    parts = []
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            if rights.startswith("rw"):
                mem.seek(int(begin, 16))
                try:
                    parts.append(mem.read(int(end, 16) - int(begin, 16)))
                except OSError:
                    continue  # gone, or not to be read by anybody
    return b"".join(parts)


def test_a_password_that_is_replaced_is_gone_from_memory(secretive):
    forebay = secretive
    assert OLD.encode() in memory(forebay.pid), "the test looks at the wrong place"
    forebay.cluster.primary.sql(f"alter role app password '{NEW}'")
    forebay.config_file.write_text(forebay.config_file.read_text().replace(OLD, NEW))
    forebay.reload()
    wait_until(lambda: forebay.wire(user="app", password=NEW).run("select 1"), 20, "a login with the new password")

    def places():
        found = memory(forebay.pid)
        return [found[max(0, at.start() - 60):at.end() + 40] for at in re.finditer(re.escape(OLD.encode()), found)]

    def is_gone():
        if left := places():
            raise LookupError(f"{len(left)} copies, such as {left}")
        return True

    wait_until(is_gone, 15, "the old password to be gone from memory")


@pytest.mark.parametrize("allowed", [False, True])
def test_no_core_dump_and_no_debugger_unless_they_are_allowed(allowed):
    nobody, port = 65534, ports.free_port()
    folder = rundir.folder("nobody")
    folder.chmod(0o755)
    text = f"""
        [general]
        threads = 1
        state_dir = "/nowhere"
        core_dumps = {str(allowed).lower()}
        [admin]
        listen = []
        [postgres]
        listen = ["127.0.0.1:{port}"]
        [[postgres.cluster]]
        name = "main"
        nodes = ["127.0.0.1:1"]
        [[postgres.user]]
        name = "app"
        password = "app"
    """
    file = folder / "forebay.toml"
    file.write_text(text)
    file.chmod(0o644)
    # As an ordinary user: the kernel shows by the owner of these files whether he may look into the process.
    process = subprocess.Popen(
        ["setpriv", "--reuid", str(nobody), "--clear-groups", binary(), "run", "-c", file],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        lines = []
        while b"serving" not in b"".join(lines):
            lines.append(process.stderr.readline())
            assert lines[-1], b"".join(lines).decode()
        assert os.stat(f"/proc/{process.pid}/environ").st_uid == (nobody if allowed else 0)
    finally:
        process.kill()
        process.wait(10)
        ports.release(port)
