"""The admin listener over HTTP: readiness, views, commands, and who may do what."""

import http.client
import json
import socket
import ssl
import subprocess
import urllib.parse

import psycopg
import pytest

from harness import wait_until, web
from harness.forebay import Forebay, binary, configuration
from harness.network import Network
from harness.ports import free_port


# -- health -------------------------------------------------------------------------------------------------------------

def test_an_instance_with_a_primary_is_healthy_and_ready(forebay):
    for path, said in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        answer = forebay.http(path)
        assert (answer.status, answer.text) == (200, said)


def test_without_a_primary_it_is_healthy_but_not_ready(new_cluster, start_forebay):
    cluster = new_cluster(replicas=1)
    forebay = start_forebay(cluster)
    assert forebay.http("/readyz").status == 200
    cluster.primary.kill()
    answer = wait_until(lambda: (found := forebay.http("/readyz")).status == 503 and found, 15, "readiness to end")
    assert "main has no primary" in answer.text
    assert forebay.http("/healthz").status == 200


def test_while_it_drains_it_is_not_ready(start_forebay):
    forebay = start_forebay(config={"general": {"shutdown_grace": "20s"}})
    with forebay.connect() as client:
        forebay.term()
        answer = wait_until(lambda: (found := forebay.http("/readyz")).status == 503 and found, 10, "readiness to end")
        assert "stopping" in answer.text
        assert forebay.http("/healthz").status == 200
        assert client.execute("select 1").fetchone()
    assert forebay.wait_end() == 0


@pytest.mark.parametrize("ready", [False, True])
def test_the_command_line_asks_the_same(forebay, ready):
    asked = subprocess.run([binary(), "health", "-c", forebay.config_file, *(["--ready"] if ready else [])],
                           capture_output=True, text=True, timeout=20, check=False)
    assert (asked.returncode, asked.stdout) == (0, "ready\n" if ready else "ok\n"), asked.stderr


def test_the_command_line_says_what_is_wrong(start_forebay):
    forebay = start_forebay()
    forebay.kill()
    asked = subprocess.run([binary(), "health", "-c", forebay.config_file],
                           capture_output=True, text=True, timeout=20, check=False)
    assert asked.returncode == 1
    assert f"127.0.0.1:{forebay.admin_port}" in asked.stderr and "refused" in asked.stderr, asked.stderr


# -- views --------------------------------------------------------------------------------------------------------------

def test_views_are_the_consoles_rows(forebay):
    nodes = forebay.http("/api/v1/nodes").json
    told = forebay.admin("SHOW NODES")
    same = ["service", "kind", "node", "host", "port", "role", "state", "weight", "timeline"]
    assert [[node[key] for key in same] for node in nodes] == [[row[key] for key in same] for row in told]
    assert isinstance(nodes[0]["port"], int) and nodes[0]["lag_bytes"] is None


@pytest.mark.parametrize("view", ["nodes", "pools", "queue", "events", "clients", "ha", "ha_checks", "pool_nodes", "stats"])
def test_every_view_is_a_list_of_objects(forebay, view):
    rows = forebay.http(f"/api/v1/{view}").json
    assert isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def test_only_the_last_rows_if_so_wished(forebay):
    forebay.admin("SET WEIGHT pg2 = 1")
    everything = forebay.http("/api/v1/events").json
    assert forebay.http("/api/v1/events?limit=1").json == everything[-1:]
    assert forebay.http("/api/v1/events?limit=x").status == 400


def test_the_views_are_listed(forebay):
    names = forebay.http("/api/v1/").json
    assert {"nodes", "pools", "queue", "events", "clients"} <= set(names)
    assert forebay.http("/api/v1/nonsense").status == 404
    assert forebay.http("/nonsense").status == 404


def test_nothing_of_an_answer_is_kept_or_framed(forebay):
    for path in ("/metrics", "/api/v1/nodes", "/nonsense", "/healthz"):
        headers = forebay.http(path).headers
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY" and "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(forebay, method):
    for path in ("/healthz", "/metrics", "/api/v1/nodes", "/stats;csv"):
        answer = forebay.http(path, method=method)
        assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD", (path, answer)
    assert forebay.http("/api/v1/admin").status == 405


def test_a_head_request_has_no_body(forebay):
    answer = forebay.http("/metrics", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


# -- commands -----------------------------------------------------------------------------------------------------------

def test_an_admin_runs_a_command_and_it_is_recorded(start_forebay):
    forebay = start_forebay()
    answer = forebay.http("/api/v1/admin", {"sql": "PAUSE FAILOVER main"}, user="admin")
    assert answer.status == 200 and answer.json["tag"] == "PAUSE FAILOVER", answer
    event = forebay.admin("SHOW EVENTS")[-1]
    assert event["event"] == "failover_paused" and "admin" in event["detail"], event
    assert "admin" in [line for line in forebay.log().splitlines() if "failover_paused" in line][-1]


@pytest.mark.parametrize("body, headers", [
    ("SHOW STATE", {}), ("SHOW STATE", {"Content-Type": "application/x-www-form-urlencoded"}),
    ('{"sql": "SHOW STATE"}', {"Content-Type": "application/json"}), ("show state;", {"Content-Type": "text/plain"})])
def test_a_statement_comes_as_text_or_as_json(forebay, body, headers):
    answer = forebay.http("/api/v1/admin", body, user="viewer", headers=headers)
    assert answer.status == 200 and answer.json["rows"][0]["key"] == "active", answer


@pytest.mark.parametrize("body, status, word", [
    ("NONSENSE", 400, "NONSENSE"), ("", 400, "one statement"), ("SHOW STATE; SHOW NODES", 400, "one statement"),
    ("DETACH NODE nobody", 409, "nobody"), ("PAUSE nobody", 404, "nobody"), ("SHOW NONSENSE", 404, "NONSENSE")])
def test_a_bad_statement_is_told_what_is_wrong(forebay, body, status, word):
    answer = forebay.http("/api/v1/admin", body, method="POST", user="admin")
    assert answer.status == status and word.lower() in answer.json["error"].lower(), answer


@pytest.mark.parametrize("body, word", [("{", "JSON"), ("[]", "JSON"), ('{"sql": 5}', "JSON"), ('{"text": "SHOW STATE"}', "JSON")])
def test_a_bad_object_is_told_what_is_wrong(forebay, body, word):
    answer = forebay.http("/api/v1/admin", body, user="admin", headers={"Content-Type": "application/json"})
    assert answer.status == 400 and word in answer.json["error"], answer


def test_a_viewer_may_look_and_no_more(forebay):
    assert forebay.http("/api/v1/admin", "SHOW NODES", user="viewer").status == 200
    answer = forebay.http("/api/v1/admin", "PAUSE FAILOVER main", user="viewer")
    assert answer.status == 403 and answer.json["sqlstate"] == "42501", answer
    assert all(row["phase"] != "paused" for row in forebay.admin("SHOW HA"))


def test_nobody_runs_a_command_without_credentials(forebay):
    answer = forebay.http("/api/v1/admin", "PAUSE FAILOVER main")
    assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Basic"), answer
    # The page asks by itself.
    answer = forebay.http("/api/v1/admin", "PAUSE FAILOVER main", headers={"X-Requested-With": "forebay"})
    assert answer.status == 401 and "www-authenticate" not in answer.headers
    assert all(row["phase"] != "paused" for row in forebay.admin("SHOW HA"))


@pytest.mark.parametrize("user, password", [("admin", "wrong"), ("nobody", "nobody"), ("admin", ""), ("app", "app"), ("", "")])
def test_wrong_credentials_are_refused_everywhere(start_forebay, user, password):
    forebay = start_forebay(wait="login")
    for path, body in (("/api/v1/admin", "PAUSE FAILOVER main"), ("/api/v1/nodes", None), ("/metrics", None)):
        answer = forebay.http(path, body, headers=web.basic(user, password))
        assert answer.status == 401 and answer.json["error"] == "wrong user or password", answer


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Bearer x", "Basic YWRtaW4=", "Basic /w=="])
def test_a_header_that_is_none_is_refused(forebay, header):
    assert forebay.http("/api/v1/nodes", headers={"Authorization": header}).status == 401


def test_a_password_that_is_only_known_as_a_verifier_opens_too(shared_cluster, start_forebay):
    verifier = shared_cluster.primary.sql("select rolpassword from pg_authid where rolname = 'app'")[0]["rolpassword"]
    users = [{"name": "app", "password": verifier, "role": "admin"}]
    forebay = start_forebay(config={"admin": {"user": users}}, wait="")
    wait_until(lambda: forebay.http("/healthz").status == 200, 20, "HTTP to answer")
    assert forebay.http("/api/v1/admin", "PAUSE FAILOVER main", user="app").status == 200
    assert forebay.http("/api/v1/admin", "PAUSE FAILOVER main", user="app", password="x").status == 401


def test_a_password_that_was_changed_is_no_longer_taken_on_an_open_connection(start_forebay):
    forebay = start_forebay()
    connection = http.client.HTTPConnection("127.0.0.1", forebay.admin_port, timeout=20)

    def status():
        connection.request("GET", "/api/v1/nodes", headers=web.basic("admin", "admin"))
        response = connection.getresponse()
        response.read()
        return response.status

    assert (status(), status()) == (200, 200)
    with forebay.console() as console:
        forebay.write({**forebay.config, "admin": {
            **forebay.config["admin"], "user": [{"name": "admin", "password": "another", "role": "admin"}]}})
        console.execute("RELOAD")
    assert status() == 401
    connection.close()


def test_failed_logins_over_http_lead_to_a_ban(start_forebay):
    forebay = start_forebay(config={"security": {"ban_after": 3, "ban_allow": ["192.0.2.1"]}})
    for _ in range(3):
        assert forebay.http("/api/v1/nodes", user="admin", password="guess").status == 401

    def is_banned():
        try:
            return forebay.http("/api/v1/nodes", user="admin").status == 403
        except (ConnectionError, socket.timeout, OSError):
            return True
    wait_until(is_banned, 5, "the ban to hold over HTTP")
    with pytest.raises(psycopg.OperationalError, match="too many failed logins"):
        forebay.connect().close()


# -- from elsewhere -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("headers, refused", [
    ({"Origin": "http://evil.example"}, True), ({"Origin": "null"}, True), ({"Sec-Fetch-Site": "cross-site"}, True),
    ({"Sec-Fetch-Site": "same-site"}, True), ({"Sec-Fetch-Site": "same-origin"}, False), ({"Sec-Fetch-Site": "none"}, False),
    ({}, False), ("own origin", False), ("own host at another port", True)])
def test_another_sites_page_changes_nothing(forebay, headers, refused):
    if headers == "own origin":
        headers = {"Origin": f"http://127.0.0.1:{forebay.admin_port}"}
    if headers == "own host at another port":
        headers = {"Origin": f"http://127.0.0.1:{forebay.admin_port + 1}"}
    answer = forebay.http("/api/v1/admin", "SET WEIGHT pg2 = 1", user="admin", headers=headers)
    assert answer.status == (403 if refused else 200), answer


@pytest.mark.parametrize("host, open_", [
    ("evil.example", False), ("evil.example:80", False), ("127.0.0.1.evil.example", False), ("localhost:1", True),
    ("127.0.0.1", True), ("[::1]:5", True), ("forebay1:8404", True), ("a.localhost", True)])
def test_a_name_that_was_pointed_here_opens_no_view(forebay, host, open_):
    """DNS rebinding: a page of evil.example whose name leads to this machine."""
    answer = forebay.http("/api/v1/nodes", headers={"Host": host})
    assert answer.status == (200 if open_ else 401), answer
    assert forebay.http("/api/v1/nodes", user="viewer", headers={"Host": host}).status == 200


def test_who_may_look_without_credentials_is_configured(start_forebay):
    forebay = start_forebay(config={"admin": {"views_from": []}})
    for path in ("/api/v1/nodes", "/metrics", "/stats;csv"):
        assert forebay.http(path).status == 401
        assert forebay.http(path, user="viewer").status == 200
    assert forebay.http("/healthz").status == 200 and forebay.http("/readyz").status == 200


def test_without_users_this_machine_looks_and_nobody_commands(shared_cluster):
    config = configuration(shared_cluster.addresses)
    config["admin"] = {}
    with Forebay(config, wait="login") as forebay:
        assert forebay.http("/api/v1/nodes").status == 200
        answer = forebay.http("/api/v1/admin", "PAUSE FAILOVER main")
        assert answer.status == 403 and "admin.user" in answer.json["error"] + str(answer.json.get("hint")), answer
        assert forebay.http("/api/v1/nodes", headers={"Host": "evil.example"}).status == 403
        assert forebay.http("/api/v1/nodes", user="admin").status == 401


def test_other_machines_need_credentials_and_those_need_tls(authority):
    network = Network(["here", "there"])
    certificate, key = authority.sign("here", f"IP:{network['here'].address}")
    port = free_port()
    config = configuration([f"{network['there'].address}:1"])
    config["admin"]["listen"] = [f"{network['here'].address}:{port}"]
    address = network["here"].address
    trusting = ssl.create_default_context(cafile=str(authority.file))

    def ask(path, body=None, **more):
        with network["there"].inside():
            return web.ask(port, path, body, host=address, **more)

    try:
        with network["here"].inside(), Forebay(config, wait="port") as forebay:
            assert ask("/healthz").status == 200
            assert ask("/api/v1/nodes").status == 401
            assert ask("/metrics").status == 401
            answer = ask("/api/v1/nodes", user="viewer")
            assert answer.status == 403 and "tls" in answer.json["error"], answer
            assert ask("/api/v1/admin", "PAUSE FAILOVER main", user="admin").status == 403
            assert all(row["phase"] != "paused" for row in forebay.admin("SHOW HA"))
            forebay.write({**config, "admin": {
                **config["admin"], "tls": {"cert": str(certificate), "key": str(key)}, "views_from": [network["there"].address]}})
            forebay.admin("RELOAD")
            assert ask("/api/v1/nodes", tls=trusting).status == 200, "it is in views_from now"
            assert ask("/api/v1/admin", "PAUSE FAILOVER main", user="admin", tls=trusting).status == 200
            assert [row["phase"] for row in forebay.admin("SHOW HA")] == ["paused"]
    finally:
        network.destroy()


# -- TLS ----------------------------------------------------------------------------------------------------------------

def test_https_with_a_reload_of_the_certificate(start_forebay, authority):
    first, second = authority.sign("first"), authority.sign("second")
    forebay = start_forebay(config={"admin": {"tls": {"cert": str(first[0]), "key": str(first[1])}}}, wait="login")
    context = ssl.create_default_context(cafile=str(authority.file))

    def shown():
        with socket.create_connection(("127.0.0.1", forebay.admin_port), 10) as plain, \
                context.wrap_socket(plain, server_hostname="localhost") as tls:
            return tls.getpeercert()["serialNumber"]

    assert forebay.http("/readyz", host="localhost", tls=context).status == 200
    assert forebay.http("/api/v1/admin", "SHOW NODES", user="viewer", host="localhost", tls=context).status == 200
    asked = subprocess.run([binary(), "health", "--ready", "-c", forebay.config_file],
                           capture_output=True, text=True, timeout=20, check=False)
    assert asked.returncode == 0, asked.stderr
    before = shown()
    forebay.write({**forebay.config, "admin": {
        **forebay.config["admin"], "tls": {"cert": str(second[0]), "key": str(second[1])}}})
    forebay.admin("RELOAD")
    assert shown() != before
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        forebay.http("/readyz")


# -- limits -------------------------------------------------------------------------------------------------------------

def raw(forebay, sent, wait=10):
    """What comes back for these bytes until the connection ends."""
    with socket.create_connection(("127.0.0.1", forebay.admin_port), wait) as peer:
        peer.settimeout(wait)
        peer.sendall(sent)
        got = b""
        try:
            while part := peer.recv(65536):
                got += part
        except TimeoutError:
            return got, False
        return got, True


@pytest.mark.parametrize("sent", [b"\x00\x01\x02\x03\r\n\r\n", b"GET\r\n\r\n", b"SET a b\r\n\r\n", b"\x16\x03\x01\x02\x00" + bytes(100)])
def test_junk_is_answered_and_closed(forebay, sent):
    got, closed = raw(forebay, sent)
    assert closed and (got == b"" or got.startswith(b"HTTP/1.1 400")), got


def test_a_head_without_end_is_cut_off(forebay):
    got, closed = raw(forebay, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000)
    assert closed and (got == b"" or got.startswith(b"HTTP/1.1 431")), got[:100]


def test_a_body_that_is_too_long_is_refused(forebay):
    answer = forebay.http("/api/v1/admin", "x" * 100_000, user="admin")
    assert answer.status == 413, answer


def test_a_body_in_another_encoding_is_refused(forebay):
    answer = forebay.http("/api/v1/admin", b"SHOW \xff", user="admin")
    assert answer.status == 400, answer


def test_connections_that_say_nothing_keep_nobody_else_out(start_forebay):
    forebay = start_forebay()
    idle = [socket.create_connection(("127.0.0.1", forebay.admin_port), 10) for _ in range(200)]
    try:
        for _ in range(20):
            assert forebay.http("/healthz").status == 200
    finally:
        for one in idle:
            one.close()


def test_a_client_that_takes_nothing_delays_nobody(start_forebay):
    forebay = start_forebay()
    deaf = []
    for _ in range(20):
        one = socket.create_connection(("127.0.0.1", forebay.admin_port), 10)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        deaf.append(one)
    try:
        with forebay.connect() as client:
            for _ in range(20):
                assert forebay.http("/readyz").status == 200
                assert client.execute("select 1").fetchone()
    finally:
        for one in deaf:
            one.close()


def test_a_command_whose_client_leaves_is_given_up(start_forebay):
    """PAUSE waits for a transaction; who gave it leaves, and nothing stays paused."""
    forebay = start_forebay()
    with forebay.connect() as client:
        client.execute("select 1")
        client.autocommit = False
        client.execute("select 1")
        with socket.create_connection(("127.0.0.1", forebay.admin_port), 10) as one:
            header = web.basic("admin", "admin")["Authorization"]
            one.sendall(f"POST /api/v1/admin HTTP/1.1\r\nHost: localhost\r\nAuthorization: {header}\r\n"
                        "Content-Length: 5\r\n\r\nPAUSE".encode())
            wait_until(lambda: {row["key"]: row["value"] for row in forebay.admin("SHOW STATE")}["paused"] == "yes",
                       10, "PAUSE to begin")
        wait_until(lambda: {row["key"]: row["value"] for row in forebay.admin("SHOW STATE")}["paused"] == "no",
                   10, "PAUSE to be given up")
        client.rollback()


# -- the port -----------------------------------------------------------------------------------------------------------

def test_a_taken_port_stops_the_start(shared_cluster):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = configuration(shared_cluster.addresses)
        config["admin"]["listen"] = [f"127.0.0.1:{taken.getsockname()[1]}"]
        with Forebay(config, wait="") as forebay:
            assert forebay.wait_end() == 1
            assert "admin.listen" in forebay.log() and "in use" in forebay.log()


def test_two_instances_with_the_default_both_run(shared_cluster):
    """A second one on the same machine was not told of the port that it cannot have."""
    config = configuration(shared_cluster.addresses)
    config["admin"]["listen"] = ["127.0.0.1:8404"]
    with Forebay(config, wait="login") as first:
        answered = wait_until(lambda: first.log() and ("serving HTTP" in first.log() or "until it is free" in first.log()), 10,
                              "the first to have said what it has")
        assert answered
        with Forebay(config, wait="login") as second:
            wait_until(lambda: "until it is free" in second.log(), 10, "the second to say that it has no HTTP")
            with second.connect() as client:
                assert client.execute("select 1").fetchone()


# -- HAProxy's CSV ------------------------------------------------------------------------------------------------------

def test_the_csv_begins_with_haproxys_columns(forebay, tmp_path):
    config = tmp_path / "haproxy.cfg"
    stats = tmp_path / "stats"
    config.write_text(f"global\n stats socket {stats}\ndefaults\n mode tcp\n timeout connect 1s\n timeout client 1s\n"
                      " timeout server 1s\nbackend x\n server a 127.0.0.1:1\n", "utf-8")
    haproxy = subprocess.Popen(["haproxy", "-db", "-f", config])
    try:
        def header():
            with socket.socket(socket.AF_UNIX) as asked:
                asked.connect(str(stats))
                asked.sendall(b"show stat\n")
                return asked.makefile().readline().rstrip("\n")
        theirs = wait_until(lambda: stats.exists() and header(), 10, "HAProxy to answer")
    finally:
        haproxy.terminate()
        haproxy.wait(10)
    ours = forebay.http("/stats;csv").text.splitlines()[0]
    assert ours.split(",")[:83] == theirs.split(",")[:83]


def as_telegraf(text):
    """The rows as Telegraf's haproxy input reads them: by place of the name, refused if a field is missing or too much."""
    lines = text.splitlines()
    assert lines[0].startswith("# ")
    names = lines[0][2:].split(",")
    rows = []
    for line in lines[1:]:
        fields = line.split(",")
        assert len(fields) == len(names), line
        row = dict(zip(names, fields))
        assert row["type"] in ("0", "1", "2", "3")
        texts = {"pxname", "svname", "status", "check_status", "last_chk", "mode", "tracked", "agent_status", "last_agt",
                 "addr", "cookie", "role", "state", "lag_bytes", "lag_ms", ""}
        for name, value in row.items():
            if name not in texts and value:
                assert int(value) >= 0, (name, value)
        rows.append(row)
    return rows


@pytest.mark.parametrize("path", ["/stats;csv", "/;csv", "/stats;csv;norefresh", "/haproxy?stats;csv"])
def test_telegraf_reads_the_csv(forebay, path):
    rows = as_telegraf(forebay.http(path).text)
    found = [(row["pxname"], row["svname"], row["status"]) for row in rows]
    assert found == [("main", "FRONTEND", "OPEN"), ("main", "pg1", "UP"), ("main", "pg2", "UP"), ("main", "pg3", "UP"),
                     ("main", "BACKEND", "UP")]
    primaries = [row["svname"] for row in rows if row["type"] == "2" and row["act"] == "1"]
    assert primaries == [node["node"] for node in forebay.admin("SHOW NODES") if node["role"] == "primary"]


def test_the_csv_says_what_is_down_and_detached(cluster, start_forebay):
    forebay = start_forebay(cluster)
    by_role = {node["role"]: [] for node in forebay.admin("SHOW NODES")}
    for node in forebay.admin("SHOW NODES"):
        by_role[node["role"]].append(node["node"])
    first, second = by_role["replica"]
    forebay.admin(f"DETACH NODE {first}")
    forebay.admin(f"DRAIN NODE {second}")
    status = {row["svname"]: row["status"] for row in as_telegraf(forebay.http("/stats;csv").text)}
    assert (status[first], status[second]) == ("MAINT", "DRAIN")
    cluster.primary.kill()
    wait_until(lambda: {row["svname"]: row["status"] for row in as_telegraf(forebay.http("/stats;csv").text)}["BACKEND"] == "DOWN",
               15, "the backend to be down")


def test_api_paths_are_not_confused_by_odd_characters(forebay):
    for path in ("/api/v1/%6eodes", "/api/v1/nodes/", "/api/v1/../nodes", "//api/v1/nodes", "/api/v1/" + urllib.parse.quote("a b")):
        assert forebay.http(path).status == 404, path
    assert json.loads(forebay.http("/api/v1/NODES").body), "names of views have no case"
