"""The program from the shell: commands, exit codes, signals, messages."""

import json
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from harness import Forebay, ports, rundir, wait_until, wire
from harness.forebay import binary, configuration
from harness.postgres import bin_dir
from harness.toml import dumps

SHORTEST = """
[[postgres.cluster]]
name = "main"
nodes = ["127.0.0.1:5432", "127.0.0.1:5433", "127.0.0.1:5434"]
[[postgres.user]]
name = "app"
password = "app"
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "forebay.toml"


def forebay(*arguments, env=None):
    return subprocess.run(
        [binary(), *map(str, arguments)], capture_output=True, text=True, timeout=20, check=False,
        env={"PATH": "/usr/bin:/bin", **(env or {})})


def check(file, text, *more, env=None):
    file.write_text(text)
    return forebay("check", "-c", file, *more, env=env)


# -- check --------------------------------------------------------------------------------------------------------


def test_the_shortest_useful_file_is_enough(file):
    done = check(file, SHORTEST)
    assert done.returncode == 0, done.stderr


def test_show_prints_every_default_and_no_secret(file):
    done = check(file, SHORTEST.replace('password = "app"', 'password = "very-secret"'), "--show")
    assert done.returncode == 0, done.stderr
    assert "very-secret" not in done.stdout + done.stderr
    for key, default in (("size", "20"), ("queue_timeout", '"30s"'), ("mode", '"transaction"'), ("max_clients", "10000"),
                         ("hold", '"15s"'), ("max_lag", '"10s"'), ("balance", '"least_connections"'), ("consistency", '"session"'),
                         ("server_idle_timeout", '"10m"'), ("server_lifetime", '"1h"'), ("check_interval", '"500ms"'),
                         ("prepared_statements", "500"), ("auth", '"scram-sha-256"'), ("ban_after", "8")):
        assert re.search(rf"^{key} = {re.escape(default)}", done.stdout, re.M), f"no line {key} = {default} in\n{done.stdout}"


def test_show_shows_what_the_file_changed(file):
    done = check(file, SHORTEST + '[postgres.pool]\nsize = 7\nqueue_timeout = "1m"\n', "--show")
    assert re.search(r"^size = 7", done.stdout, re.M) and re.search(r'^queue_timeout = "(1m|60s)"', done.stdout, re.M), done.stdout


# What is written, where the error is (line and column of the offending word), and the word that helps.
MISTAKES = [
    ("[postgres.pool]\nsiez = 5\n", 2, 1, "size"),
    ("[postgres.pool]\nquue_timeout = '5s'\n", 2, 1, "queue_timeout"),
    ("[postgres]\nmax_client = 5\n", 2, 1, "max_clients"),
    ("[postgress.pool]\nsize = 5\n", 1, 2, "postgres"),
    ("[postgres.pool]\nsize = 'many'\n", 2, 8, "size"),
    ("[postgres.pool]\nsize = 0\n", 2, 8, "at least 1"),
    ("[postgres.pool]\nqueue_timeout = '5 parsecs'\n", 2, 17, "5s"),
    ("[postgres.pool]\nqueue_timeout = 5\n", 2, 17, "queue_timeout"),
    ("[postgres.pool]\nmode = 'transactions'\n", 2, 8, "transaction"),
    ("[postgres.failover]\nmax_lost_bytes = '1 MoB'\n", 2, 18, "MiB"),
    ("[postgres.routing]\nbalance = 'roundrobin'\n", 2, 11, "round_robin"),
    ("[postgres]\nlisten = ['nonsense']\n", 2, 11, "nonsense"),
    ("[postgres]\nauth = 'skram'\n", 2, 8, "scram-sha-256"),
    ("[general]\nthreads = -1\n", 2, 11, "threads"),
    ("[postgres.pool\nsize = 1\n", 1, None, ""),
]


@pytest.mark.parametrize("text, line, column, helps", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_the_way_out(file, text, line, column, helps):
    done = check(file, text + SHORTEST)
    assert done.returncode == 2, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    place = f"{file}:{line}:" + (f"{column}: " if column else "")
    assert place in done.stderr, f"no {place!r} in {done.stderr!r}"
    assert helps in done.stderr, f"no {helps!r} in {done.stderr!r}"


def test_every_mistake_is_told_at_once(file):
    done = check(file, "[postgres.pool]\nsiez = 5\nsize = 0\n" + SHORTEST)
    assert ":2:1: " in done.stderr and ":3:8: " in done.stderr, done.stderr


@pytest.mark.parametrize("text, word", [
    (SHORTEST.replace('"127.0.0.1:5432", "127.0.0.1:5433", "127.0.0.1:5434"', ""), "node"),
    (SHORTEST + SHORTEST, "main"),
    (SHORTEST + '[[postgres.database]]\nname = "x"\ncluster = "nowhere"\n', "nowhere"),
    (SHORTEST + '[[postgres.user]]\nname = "app"\npassword = "twice"\n', "app"),
    ('[admin]\nlisten = ["0.0.0.0:8404"]\n' + SHORTEST, "user"),
])
def test_what_contradicts_itself_is_refused(file, text, word):
    done = check(file, text)
    assert done.returncode == 2 and word in done.stderr and f"{file}:" in done.stderr, done.stderr


@pytest.mark.parametrize("value", ["500ms", "5s", "2m", "1h"])
def test_durations_have_units(file, value):
    assert check(file, f'[postgres.pool]\nqueue_timeout = "{value}"\n' + SHORTEST).returncode == 0


@pytest.mark.parametrize("value", ["65536B", "64KiB", "1MiB", "2GiB"])
def test_sizes_have_units(file, value):
    assert check(file, f'[postgres.failover]\nmax_lost_bytes = "{value}"\n' + SHORTEST).returncode == 0


def test_a_secret_from_the_environment_or_a_file_must_be_there(file, tmp_path):
    text = SHORTEST.replace('"app"\n', "{ env = 'THE_SECRET' }\n").replace("name = { env = 'THE_SECRET' }", 'name = "app"')
    assert check(file, text, env={"THE_SECRET": "x"}).returncode == 0
    missing = check(file, text)
    assert missing.returncode == 2 and "THE_SECRET" in missing.stderr
    text = text.replace("env = 'THE_SECRET'", f"file = '{tmp_path}/secret'")
    missing = check(file, text)
    assert missing.returncode == 2 and f"{tmp_path}/secret" in missing.stderr
    (tmp_path / "secret").write_text("very-secret\n")
    shown = check(file, text, "--show")
    assert shown.returncode == 0 and "very-secret" not in shown.stdout


@pytest.mark.parametrize("arguments", [["check"], ["check", "-c", "/no/such/file"], ["no-such-command"], ["run", "--no-such-option"],
                                       ["run", "-c", "/no/such/file"]])
def test_bad_arguments_exit_with_2(arguments, tmp_path):
    done = forebay(*arguments)
    if arguments == ["check"] and done.returncode == 0:
        return  # a default path may exist
    assert done.returncode == 2 and done.stderr, done


@pytest.mark.skipif(pathlib.Path("/etc/forebay/forebay.toml").exists(), reason="Forebay is installed here")
@pytest.mark.parametrize("arguments", [["status"], ["admin", "SHOW POOLS"]])
def test_who_asks_an_instance_without_a_file_is_told_how_to_name_one(arguments):
    done = forebay(*arguments)
    assert done.returncode == 2 and "-c FILE" in done.stderr and "FOREBAY_CONFIG" in done.stderr, done.stderr


@pytest.mark.parametrize("arguments, word", [(["--help"], "run"), (["--version"], "forebay"), (["check", "--help"], "--show")])
def test_help_and_version_exit_with_0(arguments, word):
    done = forebay(*arguments)
    assert done.returncode == 0 and word in done.stdout


def test_run_with_a_bad_file_exits_with_2(file):
    file.write_text("[postgres.pool]\nsiez = 5\n")
    done = forebay("run", "-c", file)
    assert done.returncode == 2 and f"{file}:2:1: " in done.stderr


def test_run_on_a_port_that_is_taken_exits_with_1(file, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configuration(["127.0.0.1:1"], listen=[f"127.0.0.1:{port}"])
        config["general"]["state_dir"] = str(tmp_path)
        config["admin"]["listen"] = [f"127.0.0.1:{ports.free_port()}"]
        file.write_text(dumps(config))
        done = forebay("run", "-c", file)
    assert done.returncode == 1 and str(port) in done.stderr, done


def test_c_alone_means_run(shared_cluster):
    config = configuration(shared_cluster.addresses)
    with Forebay(config, arguments=["-c", "forebay.toml"]) as running:
        assert running.wire().value("select 1") == "1"


# -- signals ------------------------------------------------------------------------------------------------------


def test_term_lets_clients_finish_and_exits_with_0(start_forebay, shared_cluster, table):
    forebay = start_forebay()
    client, idle = forebay.wire(), forebay.wire()
    client.run("begin")
    client.run(f"insert into {table} (v) values ('kept')")
    forebay.term()
    wait_until(lambda: refused(forebay), 5, "new clients to be refused")
    assert forebay.is_running()
    assert client.value("select 'still served'") == "still served"
    client.run("commit")
    client.send(wire.terminate()).close()
    idle.send(wire.terminate()).close()
    assert forebay.wait_end(10) == 0, "nobody is left to wait for"
    assert shared_cluster.value(f"select v from {table}") == "kept"


def refused(forebay):
    try:
        forebay.wire(timeout=3).close()
        return False
    except (OSError, wire.Closed, wire.ServerError):
        return True


def test_term_does_not_wait_longer_than_shutdown_grace(start_forebay):
    forebay = start_forebay(config={"general": {"shutdown_grace": "1s"}})
    client = forebay.wire()
    client.run("begin")
    forebay.term()
    assert forebay.wait_end(15) == 0
    assert wire.errors(client.wait_closed(5)) == ["57P01"]


def test_int_stops_after_running_queries(start_forebay, shared_cluster, name):
    forebay = start_forebay()
    running, idle = forebay.wire(), forebay.wire()
    running.send(wire.query(f"select pg_sleep(1), 'finished' /* {name} */"))
    shared_cluster.wait_running(name)
    forebay.send_signal(signal.SIGINT)
    assert wire.rows(running.read_until("CE")) == [["", "finished"]]
    assert forebay.wait_end(10) == 0
    idle.wait_closed(5)


def test_quit_stops_at_once(start_forebay):
    forebay = start_forebay()
    client = forebay.wire()
    client.send(wire.query("select pg_sleep(60)"))
    forebay.send_signal(signal.SIGQUIT)
    assert forebay.wait_end(3) == 0
    client.wait_closed(3)


def test_usr1_pauses_and_usr2_resumes(start_forebay):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("select 1")
    forebay.send_signal(signal.SIGUSR1)
    wait_until(lambda: {r["key"]: r["value"] for r in forebay.admin("SHOW STATE")}["paused"] == "yes", 5, "the pause")
    client.send(wire.query("select 'resumed'"))
    assert client.nothing_comes(0.5)
    forebay.send_signal(signal.SIGUSR2)
    assert wire.rows(client.read_until()) == [["resumed"]]


def test_server_connections_end_with_the_process(start_forebay, cluster):
    forebay = start_forebay(servers=cluster, pool={"min_size": 3})
    with forebay.wire() as client:
        client.run("select 1")
    forebay.term()
    assert forebay.wait_end(15) == 0
    wait_until(lambda: not any(node.connections("app") for node in cluster.nodes), 5, "the servers to have no client")


# -- logs ---------------------------------------------------------------------------------------------------------


def test_logs_never_hold_statements_or_secrets(start_forebay):
    forebay = start_forebay(config={"general": {"log": {"level": "debug"}}})
    client = forebay.wire()
    client.ask(wire.query("select 'secret-in-text' from nowhere"))
    client.ask(wire.parse("select $1::int"), wire.bind(["secret-in-parameter"]), wire.execute(), wire.sync())
    with pytest.raises(wire.ServerError):
        forebay.wire(password="secret-password")
    for word in ("secret-in-text", "secret-in-parameter", "secret-password"):
        assert word not in forebay.log()


def test_logs_may_be_json(start_forebay):
    forebay = start_forebay(config={"general": {"log": {"format": "json"}}})
    lines = [json.loads(line) for line in forebay.log().splitlines() if line.strip()]
    assert lines and all("level" in line for line in lines)


def test_a_unix_socket_may_be_listened_on(start_forebay):
    folder, port = rundir.folder("socket"), ports.free_port()
    path = folder / f".s.PGSQL.{port}"
    forebay = start_forebay(wait="", listen=[f"127.0.0.1:{port}", str(path)])
    forebay.port = port
    wait_until(forebay.nodes_are_up, 20, "the nodes to be found")
    done = subprocess.run(
        [bin_dir() / "psql", "-X", "-At", "-c", "select 'by socket'"], capture_output=True, text=True, timeout=20, check=False,
        env={**forebay.environment(), "PGHOST": str(folder)})
    assert done.stdout == "by socket\n", done.stderr
    forebay.term()
    forebay.wait_end()
    assert not path.exists(), "the socket is removed at the end"


def test_a_flood_of_lines_is_counted(start_forebay):
    forebay = start_forebay(config={"security": {"ban_allow": ["127.0.0.0/8"]}})
    sent = 0

    def flood():
        """All at once, so that they are told of within a second however slow the machine is."""
        nonlocal sent
        crowd = [socket.create_connection(("127.0.0.1", forebay.port)) for _ in range(300)]
        for junk in crowd:
            junk.sendall(b"\xff" * 64)
        for junk in crowd:
            junk.recv(1000)
            junk.close()
        sent += len(crowd)
        return "lines were left out" in forebay.log()
    wait_until(flood, 30, "lines to be left out", 1)
    wait_until(lambda: lines_told(forebay.log()) == sent, 10, "each of them to be told or counted")
    assert forebay.log().count("WARN a connection was refused for what it sent") < sent


def lines_told(log):
    """How many refused connections the log tells of, one by one or as a number."""
    left_out = re.findall(r'left out.* of="a connection was refused.* lines=(\d+)', log)
    return sum(map(int, left_out)) + len(re.findall(r"WARN a connection was refused for what it sent", log))
