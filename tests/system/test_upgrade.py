"""UPGRADE: another process takes over while clients are connected, and none of them notices."""

import base64
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import psycopg
import pytest
import redis as redis_py

from harness import Wire, wait_until, wire
from harness.forebay import binary
from harness.scene import events, recorded

ON_PRIMARY = {"split": False}


def moved(forebay, client):
    """Whether a client is the new process's by now."""
    return str(client.socket.getsockname()[1]) in {str(row["port"]) for row in forebay.admin("SHOW CLIENTS")}


def wait_gone(process):
    wait_until(lambda: process.poll() is not None, 20, "the old process to end")


def test_clients_go_on_with_everything_that_they_have_said(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire(params={"application_name": "first", "timezone": "Asia/Tokyo"})
    client.run("set search_path = pg_catalog, public")
    client.run("set application_name = 'second'")
    client.ask(wire.parse("select $1::int * 2", "double"), wire.sync())
    client.ask(wire.parse("select 'unnamed'"), wire.sync())
    others = [forebay.wire() for _ in range(20)]
    old = forebay.upgrade()
    wait_gone(old)
    assert client.value("show timezone") == "Asia/Tokyo"
    assert client.value("show search_path") == "pg_catalog, public"
    assert client.value("show application_name") == "second"
    assert wire.rows(client.prepared("double", [21])) == [["42"]]
    client.run("reset search_path")
    assert client.value("show search_path") == '"$user", public'
    client.run("reset application_name")
    assert client.value("show application_name") == "first"
    for other in others:
        assert other.value("select 'goes on'") == "goes on"
    rows = [row for row in forebay.admin("SHOW CLIENTS") if row["user"] == "app"]
    assert len(rows) == 21
    assert [row["prepared_statements"] for row in rows].count(1) == 1
    assert "upgraded" in forebay.log() and "predecessor_ended" in forebay.log()


def test_the_unnamed_statement_goes_along(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    client.ask(wire.parse("select $1::int + 1"), wire.sync())
    wait_gone(forebay.upgrade())
    assert wire.rows(client.ask(wire.bind([41]), wire.execute(), wire.sync())) == [["42"]]


def test_a_transaction_ends_where_it_began(start_forebay, shared_cluster):
    forebay = start_forebay(routing=ON_PRIMARY)
    client, idle = forebay.wire(), forebay.wire()
    client.run("begin")
    server = client.value("select pg_backend_pid()")
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, idle), 10, "the idle client to move")
    assert client.value("select pg_backend_pid()") == server and old.poll() is None
    client.run("commit")
    wait_gone(old)
    assert client.value("select pg_backend_pid()") != server


def test_nobody_under_load_notices(start_forebay):
    """Writers and readers with connections of their own and new ones, over several upgrades in a row."""
    forebay = start_forebay(pool={"size": 4})
    with forebay.connect(autocommit=True) as connection:
        connection.execute("create table if not exists counted (n int)")
        connection.execute("truncate counted")
    stop, failures, counts = threading.Event(), [], []

    def work():
        done = 0
        try:
            with forebay.connect(autocommit=True) as connection:
                while not stop.is_set():
                    with connection.transaction():
                        connection.execute("insert into counted values (%s)", [done])
                    done += 1
        except psycopg.Error as error:
            failures.append(error)
        counts.append(done)

    def come_and_go():
        try:
            while not stop.is_set():
                with forebay.connect(autocommit=True) as connection:
                    connection.execute("select 1")
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in [work] * 8 + [come_and_go] * 2]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            time.sleep(0.5)  # lets them work, so that there is something to lose
            wait_gone(forebay.upgrade())
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures, failures
    assert len(counts) == 8 and min(counts) > 10
    assert int(forebay.wire().value("select count(*) from counted")) == sum(counts)


def test_a_query_is_cancelled_wherever_it_runs(start_forebay, shared_cluster, name):
    forebay = start_forebay(routing=ON_PRIMARY)
    stays, moves = forebay.wire(), forebay.wire()
    stays.send(wire.query(f"select pg_sleep(60) /* {name} stays */"))
    shared_cluster.wait_running(f"{name} stays")
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, moves), 10, "the idle client to move")
    stays.cancel()
    assert wire.errors(stays.read_until()) == ["57014"], "its key is the old process's"
    wait_gone(old)
    moves.send(wire.query(f"select pg_sleep(60) /* {name} moves */"))
    shared_cluster.wait_running(f"{name} moves")
    moves.cancel()
    assert wire.errors(moves.read_until()) == ["57014"], "its key was made by the old process"


def test_what_cannot_follow_stays_until_it_leaves(start_forebay, authority):
    certificate, key = authority.sign("localhost")
    tls = {"cert": str(certificate), "key": str(key), "mode": "allow"}
    forebay = start_forebay(tls=tls, routing=ON_PRIMARY)
    encrypted = psycopg.connect(forebay.dsn(sslmode="require"), autocommit=True)
    listener = psycopg.connect(forebay.dsn(sslmode="disable"), autocommit=True)
    listener.execute("listen here")
    plain = forebay.wire()
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, plain), 10, "the plain client to move")
    assert encrypted.execute("select 'goes on'").fetchone()[0] == "goes on"
    plain.run("notify here, 'from the new process'")
    heard = next(listener.notifies(timeout=10, stop_after=1))
    assert heard.payload == "from the new process"
    encrypted.close()
    assert old.poll() is None
    listener.close()
    wait_gone(old)


def test_upgrade_grace_ends_those_who_stay(start_forebay):
    forebay = start_forebay(config={"general": {"upgrade_grace": "1s", "shutdown_grace": "2s"}}, routing=ON_PRIMARY)
    stays, works = forebay.wire(), forebay.wire()
    stays.run("listen here")
    works.run("begin")
    old = forebay.upgrade()
    answer = stays.read_until("E")
    assert wire.errors(answer) == ["57P01"]
    assert works.value("select 1") == "1", "a transaction has until shutdown_grace"
    works.run("commit")
    wait_gone(old)
    assert works.value("select 'moved'") == "moved"


def test_clients_in_the_queue_are_served_and_follow(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder = forebay.wire()
    holder.run("begin")
    waiting = [forebay.wire() for _ in range(5)]
    for client in waiting:
        client.send(wire.query("select 'served'"))
    forebay.wait_pool(cl_waiting=5)
    old = forebay.upgrade()
    assert old.poll() is None
    holder.run("commit")
    for client in waiting:
        assert wire.rows(client.read_until()) == [["served"]]
    wait_gone(old)
    assert waiting[0].value("select 1") == "1"


def test_half_a_request_goes_along(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    whole = wire.query("select 'whole'")
    client.send(whole[:9])
    wait_until(lambda: _unread(client) == 0, 10, "the first part to be read")
    old = forebay.upgrade()
    wait_gone(old)
    client.send(whole[9:])
    assert wire.rows(client.read_until()) == [["whole"]]


def _unread(client):
    """Bytes that the other side's system has not acknowledged yet (TIOCOUTQ)."""
    import fcntl
    import struct
    import termios
    return struct.unpack("i", fcntl.ioctl(client.socket, termios.TIOCOUTQ, b"\0\0\0\0"))[0]


def test_a_program_that_cannot_serve_changes_nothing(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client = forebay.wire()
    good = forebay.config_file.read_text()
    forebay.config_file.write_text(good.replace("threads = 2", "threads = -2"))
    with pytest.raises(psycopg.Error, match="threads"):
        forebay.admin("UPGRADE")
    taken = socket.create_server(("127.0.0.1", 0))
    forebay.config_file.write_text(good.replace(
        f'listen = ["127.0.0.1:{forebay.admin_port}"]', f'listen = ["127.0.0.1:{taken.getsockname()[1]}"]'))
    with pytest.raises(psycopg.Error, match="admin.listen"):
        forebay.admin("UPGRADE")
    taken.close()
    forebay.config_file.write_text(good)
    assert client.value("select 'goes on'") == "goes on"
    with forebay.connect() as another:
        assert another.execute("select 1").fetchone()
    assert forebay.admin("SHOW NODES")[0]["state"] == "up"
    forebay.admin("SET WEIGHT pg2 = 2")
    wait_gone(forebay.upgrade())
    assert client.value("select 'moved'") == "moved"
    assert int(forebay.node("pg2")["weight"]) == 2


def test_it_is_refused_where_it_would_do_harm(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    forebay.admin("PAUSE bench")
    with pytest.raises(psycopg.Error, match="RESUME"):
        forebay.admin("UPGRADE")
    forebay.admin("RESUME bench")
    with pytest.raises(psycopg.Error, match="needs an admin"):
        forebay.admin("UPGRADE", user="viewer")


def test_orders_and_bans_are_kept(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    forebay.admin("DISABLE other")
    forebay.admin("BAN '192.0.2.0/24' FOR '1h'")
    forebay.admin("DETACH NODE pg3")
    wait_gone(forebay.upgrade())
    assert [row["address"] for row in forebay.admin("SHOW BANS")] == ["192.0.2.0/24"]
    assert forebay.node("pg3")["state"] == "detached"
    with pytest.raises(psycopg.Error, match="disabled"):
        forebay.connect(dbname="other")


def test_who_logged_in_with_a_verifier_needs_no_new_login(start_forebay, shared_cluster):
    """The new process has to log in at servers with what only the client's login has left."""
    verifier = shared_cluster.value("select rolpassword from pg_authid where rolname = 'app'")
    forebay = start_forebay(user=[{"name": "app", "password": verifier}], routing=ON_PRIMARY)
    client = forebay.wire()
    assert client.value("select 1") == "1"
    wait_gone(forebay.upgrade())
    assert client.value("select 'logged in'") == "logged in"


def test_the_command_line_replaces_the_program(start_forebay, tmp_path):
    """As after an upgrade of the package: another file is where the program was."""
    program = tmp_path / "forebay"
    shutil.copy2(binary(), program)
    forebay = start_forebay(routing=ON_PRIMARY, login={"program": program})
    wait_gone(forebay.upgrade())
    client = forebay.wire()
    done = subprocess.run([binary(), "upgrade", "-c", forebay.config_file], capture_output=True, text=True, timeout=60,
                          check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0 and "process_id" in done.stdout, done
    forebay.adopt(int(done.stdout.splitlines()[2].split()[0]))
    assert client.value("select 1") == "1"


def test_http_finds_the_new_process(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    old = forebay.upgrade()
    wait_gone(old)
    assert forebay.http("/readyz").status == 200
    assert any(row["event"] == "started" for row in forebay.admin("SHOW EVENTS"))


def test_a_program_that_is_none_changes_nothing(start_forebay, tmp_path):
    program = tmp_path / "forebay"
    shutil.copy2(binary(), program)
    forebay = start_forebay(routing=ON_PRIMARY, login={"program": program})
    client = forebay.wire()
    for broken, why in ((b"#!/bin/false\n", "ended before it could serve"), (b"\0\0", "cannot start"), (None, "cannot start")):
        program.unlink(missing_ok=True)
        if broken:
            program.write_bytes(broken)
            program.chmod(0o755)
        with pytest.raises(psycopg.Error, match=why):
            forebay.admin("UPGRADE")
        assert client.value("select 'goes on'") == "goes on"
    shutil.copy2(binary(), program)
    wait_gone(forebay.upgrade())
    assert client.value("select 'moved'") == "moved"


def test_who_stays_outlives_the_new_process(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    stays, moves = forebay.wire(), forebay.wire()
    stays.run("begin")
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, moves), 10, "the idle client to move")
    forebay.kill()
    forebay.wait_log("successor_lost")
    stays.run("commit")
    assert stays.value("select 'still here'") == "still here"
    stays.close()
    wait_gone(old)


def test_a_unix_socket_is_handed_over(start_forebay):
    forebay = start_forebay(wait="", routing=ON_PRIMARY)
    folder = forebay.folder
    forebay.kill()
    address = f"{folder}/.s.PGSQL.{forebay.port}"
    forebay.change(listen=[f"127.0.0.1:{forebay.port}", address])
    forebay.start()
    with psycopg.connect(forebay.dsn(host=str(folder)), autocommit=True) as client:
        wait_gone(forebay.upgrade())
        assert client.execute("select 'moved'").fetchone()
        with psycopg.connect(forebay.dsn(host=str(folder)), autocommit=True) as another:
            assert another.execute("select 'new'").fetchone()


def test_another_number_of_threads_serves_every_listener(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    for threads in (4, 1, 2):
        text = forebay.config_file.read_text()
        forebay.config_file.write_text(re.sub(r"^threads = \d+", f"threads = {threads}", text, flags=re.M))
        wait_gone(forebay.upgrade())
        for _ in range(30):
            with forebay.connect() as client:
                assert client.execute("select 1").fetchone()


def test_the_new_process_promotes_and_the_old_one_follows(with_table, start_forebay):
    """Two processes and one decision: who stays with the old one finds the primary that the new one has promoted."""
    cluster = with_table
    cluster.nodes[0].configure(synchronous_standby_names="ANY 1 (pg2, pg3)")
    forebay = start_forebay(servers=cluster, failover={"mode": "promote", "hold": "20s"}, routing=ON_PRIMARY)
    stays, moves = forebay.wire(), forebay.wire()
    stays.run("listen here")
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, moves), 10, "the idle client to move")
    cluster.nodes[0].kill()
    wait_until(lambda: events(forebay, "failover_done"), 30, "the new process to promote")
    stays.run("insert into w values (1)")
    moves.run("insert into w values (2)")
    assert moves.value("select count(*) from w") == "2"
    assert forebay.log().count("failover_done") == 1, "one of them decides"
    assert recorded(forebay)["epoch"] == 2 and recorded(forebay)["job"] is None
    assert old.poll() is None


def test_the_clients_own_address_goes_along(start_forebay):
    forebay = start_forebay(wait="port", routing=ON_PRIMARY, config={
        "security": {"proxy_protocol": "on", "proxy_trusted": ["127.0.0.5"]}})
    client = Wire(forebay.port, source="127.0.0.5").send(b"PROXY TCP4 192.0.2.17 198.51.100.5 40321 6432\r\n").login()
    wait_gone(forebay.upgrade())
    assert client.value("select 1") == "1"
    [row] = [row for row in forebay.admin("SHOW CLIENTS") if row["user"] == "app"]
    assert (row["addr"], int(row["port"])) == ("192.0.2.17", 40321)


def test_a_connection_that_http_keeps_open_is_closed_after_its_answer(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    idle, busy = (http.client.HTTPConnection("127.0.0.1", forebay.admin_port, timeout=20) for _ in range(2))
    for connection in (idle, busy):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() and connection.sock
    busy.request("POST", "/api/v1/admin", json.dumps({"sql": "UPGRADE"}),
                 {"Authorization": "Basic " + base64.b64encode(b"admin:admin").decode(), "Content-Type": "application/json"})
    told = busy.getresponse()
    assert told.status == 200, told.read()
    [row] = json.loads(told.read())["rows"]
    wait_gone(forebay.adopt(int(row["process_id"])))
    assert idle.sock.recv(1) == b"", "whoever keeps a connection open must not be left with the old process"


def test_one_upgrade_at_a_time(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    answers = []

    def upgrade():
        try:
            answers.append(forebay.admin("UPGRADE")[0])
        except psycopg.Error as error:
            answers.append(str(error))
    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    done = [answer for answer in answers if isinstance(answer, dict)]
    assert len(answers) == 3 and len(done) == 1, answers
    wait_gone(forebay.adopt(int(done[0]["process_id"])))
    assert forebay.wire().value("select 1") == "1"


def test_who_has_prepared_what_means_something_here_only_stays(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    client, plain = forebay.wire(), forebay.wire()
    client.ask(wire.parse("show forebay.node", "node"), wire.sync())
    old = forebay.upgrade()
    wait_until(lambda: moved(forebay, plain), 10, "the plain client to move")
    assert wire.rows(client.prepared("node", [])) and old.poll() is None
    client.run("deallocate all")
    wait_gone(old)
    assert client.value("select 1") == "1"


def test_events_are_told_by_one_process(start_forebay, cluster, tmp_path):
    told = tmp_path / "told"
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/sh\necho "$FOREBAY_EVENT $FOREBAY_NODE" >> {told}\n')
    program.chmod(0o755)
    forebay = start_forebay(servers=cluster, failover={"event_command": [str(program)]}, routing=ON_PRIMARY)
    stays = forebay.wire()
    stays.run("listen here")
    old = forebay.upgrade()
    cluster.nodes[2].stop()
    forebay.wait_node("pg3", state="down")
    cluster.nodes[2].start()
    forebay.wait_node("pg3", state="up")
    forebay.admin("SET WEIGHT pg3 = 2")
    wait_until(lambda: "weight_set pg3" in told.read_text(), 10, "the events to be told")
    lines = told.read_text().splitlines()
    assert lines.count("node_down pg3") == 1 and "upgraded " in lines, lines
    assert "primary_lost pg1" not in lines, "an upgrade is no loss of the primary"
    stays.close()
    wait_gone(old)


def test_clients_follow_through_processes_that_have_nobody_left(start_forebay, shared_cluster, name):
    """A transaction outlives two upgrades: its client, and its cancel, find the way through the process in between."""
    forebay = start_forebay(routing=ON_PRIMARY)
    clients = [forebay.wire() for _ in range(20)]
    for client in clients:
        client.run("begin")
    first = forebay.upgrade()
    second = forebay.upgrade()
    clients[0].send(wire.query(f"select pg_sleep(60) /* {name} */"))
    shared_cluster.wait_running(name)
    clients[0].cancel()
    assert wire.errors(clients[0].read_until()) == ["57014"]
    assert first.poll() is None and second.poll() is None, "the one in between is the way"
    for client in clients:
        client.run("rollback")
    wait_gone(first)
    wait_gone(second)
    for client in clients:
        assert client.value("select 'arrived'") == "arrived"


def test_what_the_old_process_would_not_hear_of_is_refused(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    stays = forebay.wire()
    stays.run("begin")
    old = forebay.upgrade()
    for command in ("PAUSE", "SUSPEND", "SWITCHOVER main"):
        with pytest.raises(psycopg.Error, match=f"process {old.pid}.*still serves clients"):
            forebay.admin(command)
    forebay.admin("SWITCHOVER main DRY RUN")
    stays.run("commit")
    wait_gone(old)
    forebay.wait_log("predecessor_ended")
    forebay.admin("PAUSE bench")
    forebay.admin("RESUME bench")


@pytest.fixture
def slow_to_start(start_forebay, tmp_path):
    """An instance whose program, replaced, takes its time; `release()` lets the new one go on."""
    program, gate = tmp_path / "forebay", tmp_path / "gate"
    shutil.copy2(binary(), program)
    forebay = start_forebay(routing=ON_PRIMARY, login={"program": program})
    program.unlink()
    program.write_text(f'#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.05; done\n[ -s {gate} ] || exec {binary()} "$@"\nexit 1\n')
    program.chmod(0o755)
    answers = []

    def upgrade():
        try:
            answers.append(forebay.admin("UPGRADE")[0])
        except psycopg.Error as error:
            answers.append(error)
    thread = threading.Thread(target=upgrade)
    thread.start()
    forebay.wait_log("the new process was started")

    def release(fails=False):
        gate.write_text("fails" if fails else "")
        thread.join(60)
        return answers[0]
    yield forebay, release
    gate.exists() or release(True)


def test_orders_meanwhile_are_refused_and_not_lost(slow_to_start):
    forebay, release = slow_to_start
    for command in ("PAUSE bench", "DISABLE other", "BAN '192.0.2.1' FOR '1h'", "RELOAD", "SET WEIGHT pg2 = 2"):
        with pytest.raises(psycopg.Error, match="upgrade is under way"):
            forebay.admin(command)
    told = release()
    wait_gone(forebay.adopt(int(told["process_id"])))
    assert forebay.wire().value("select 1") == "1"


def test_a_reload_meanwhile_outlives_an_upgrade_that_fails(slow_to_start):
    forebay, release = slow_to_start
    nodes = forebay.config["postgres"]["cluster"][0]["nodes"]
    cluster = {**forebay.config["postgres"]["cluster"][0], "nodes": nodes[:2]}
    forebay.change(cluster=[cluster])
    forebay.reload()
    wait_until(lambda: len(forebay.admin("SHOW NODES")) == 2, 10, "the reload")
    assert isinstance(release(fails=True), psycopg.Error)
    assert [node["node"] for node in forebay.admin("SHOW NODES")] == ["pg1", "pg2"]


def test_a_cancel_does_not_keep_its_client(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing=ON_PRIMARY)
    holder, waiting = forebay.wire(), forebay.wire()
    holder.run("begin")
    waiting.send(wire.query("select 1"))
    forebay.wait_pool(cl_waiting=1)
    old = forebay.upgrade()
    waiting.cancel()
    assert wire.errors(waiting.read_until()) == ["57014"]
    wait_until(lambda: moved(forebay, waiting), 10, "the client that was cancelled to move")
    holder.run("commit")
    wait_gone(old)


def test_who_has_too_much_to_tell_stays_and_holds_up_nobody(start_forebay):
    forebay = start_forebay(routing=ON_PRIMARY)
    others = [forebay.wire() for _ in range(10)]
    huge = forebay.wire()
    for number in range(5):
        huge.ask(wire.parse(f"select {number} /* {'x' * 4_000_000} */", f"s{number}"), wire.sync())
    old = forebay.upgrade()
    for other in others:
        wait_until(lambda other=other: moved(forebay, other), 10, "the others to move")
        assert other.value("select 1") == "1"
    assert wire.rows(huge.prepared("s1", [])) == [["1"]]
    huge.close()
    wait_gone(old)


def test_the_service_manager_is_told_who_is_the_main_process(start_forebay, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        forebay = start_forebay(env={"NOTIFY_SOCKET": str(path)}, routing=ON_PRIMARY)
        old = forebay.upgrade()
        told = []
        while f"MAINPID={forebay.pid}" not in told:
            told += manager.recv(4096).decode().split()
        wait_gone(old)
        assert "STOPPING=1" not in told


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_clients_of_redis_follow(start_forebay, shared_redis):
    forebay = start_forebay(redis=shared_redis)
    port = forebay.redis_port()
    clients = [redis_py.Redis(port=port, client_name=f"worker-{n}", protocol=2 + n % 2) for n in range(10)]
    for number, client in enumerate(clients):
        client.set(f"upgrade:{number}", number)
    subscriber = clients[0].pubsub()
    subscriber.subscribe("news")
    assert subscriber.get_message(timeout=5)["type"] == "subscribe"
    old = forebay.upgrade()
    for number, client in enumerate(clients):
        assert client.get(f"upgrade:{number}") == str(number).encode()
        assert client.client_getname() in (f"worker-{number}".encode(), f"worker-{number}")
    clients[1].publish("news", "from the new process")
    assert subscriber.get_message(timeout=5)["data"] == b"from the new process"
    subscriber.close()
    wait_gone(old)
