"""Who may log in, and how clients and servers prove who they are."""

from psycopg import sql
import pytest

from harness import Wire, wait_until, wire
from harness.postgres import LOGINS
from harness.toml import Inline

PASSWORDS = {role: password for role, password, _, _ in LOGINS}
USERS = [{"name": role, "password": password} for role, password in PASSWORDS.items()]

# What the client is asked: authentication request codes of the protocol.
CODES = {"scram-sha-256": [10, 11, 12, 0], "md5": [5, 0], "trust": [0]}


def refusal(endpoint, **login):
    with pytest.raises(wire.ServerError) as caught:
        endpoint.wire(**login)
    return caught.value


@pytest.mark.parametrize("server", list(PASSWORDS))
@pytest.mark.parametrize("client", list(CODES))
def test_each_client_login_works_in_front_of_each_server_login(start_forebay, client, server):
    forebay = start_forebay(auth=client, user=USERS, wait="")
    connection = wait_until(
        lambda: forebay.wire(user=server, password=PASSWORDS[server]), 15, f"a login of {server} by {client}")
    assert connection.auth_codes == CODES[client]
    assert connection.run("select current_user, 1") == [[server, "1"]]


@pytest.mark.parametrize("server", ["scram-sha-256", "md5", "password", "trust"])
def test_a_whole_cluster_with_one_way_to_log_in_is_served(new_cluster, start_forebay, server):
    forebay = start_forebay(servers=new_cluster(replicas=1, auth=server))
    assert forebay.connect().execute("select current_user as me").fetchone()["me"] == "app"


@pytest.mark.parametrize("dbname", ["bench", "other"])
def test_a_wrong_password_is_refused(target, dbname):
    error = refusal(target, password="wrong", dbname=dbname)
    assert (error.sqlstate, error.fields["V"]) == ("28P01", "FATAL")


@pytest.mark.parametrize("auth", ["scram-sha-256", "md5"])
def test_a_wrong_password_is_refused_by_each_method(start_forebay, auth):
    assert refusal(start_forebay(auth=auth), password="wrong").sqlstate == "28P01"


def test_an_unknown_user_looks_like_a_wrong_password(target):
    unknown, wrong = refusal(target, user="nobody", password="x"), refusal(target, password="wrong")
    assert unknown.sqlstate == wrong.sqlstate == "28P01"
    assert unknown.fields["M"].replace("nobody", "app") == wrong.fields["M"]


def test_an_unknown_user_is_asked_for_a_password_like_any_other(target):
    client = Wire(target.port, user="nobody")
    with pytest.raises(wire.ServerError):
        client.login()
    assert client.auth_codes[:2] == [10, 11], "the exchange itself must not tell whether the user exists"


def test_an_empty_password_is_refused(target):
    assert refusal(target, password="").sqlstate == "28P01"


def test_an_unknown_database_is_refused(target):
    assert refusal(target, dbname="no_such_database").sqlstate == "3D000"


def test_a_database_that_is_not_listed_is_refused(start_forebay):
    forebay = start_forebay(database=[{"name": "bench"}])
    assert refusal(forebay, dbname="other").sqlstate == "3D000"
    assert forebay.wire(dbname="bench").value("select current_database()") == "bench"


def test_a_database_entry_may_rename_database_and_user(start_forebay):
    forebay = start_forebay(database=[{"name": "shop", "dbname": "other", "user": "other"}, {"name": "*"}])
    assert forebay.wire(dbname="shop").run("select current_database(), current_user") == [["other", "other"]]
    assert forebay.wire(dbname="bench").run("select current_database(), current_user") == [["bench", "app"]]


def test_the_database_is_the_users_name_when_none_is_asked_for(target):
    client = Wire(target.port)
    client.send(wire.startup(wire.PROTOCOL_3_0, {"user": "other"}))
    client.user, client.password = "other", "other"
    assert client.authenticate().value("select current_database()") == "other"


def test_trust_asks_for_no_password(start_forebay):
    forebay = start_forebay(auth="trust")
    assert forebay.wire(password="whatever").auth_codes == [0]
    assert refusal(forebay, user="nobody").sqlstate in ("28P01", "28000")


def test_a_scram_verifier_is_enough_for_scram_on_both_sides(start_forebay, shared_cluster):
    verifier = shared_cluster.value("select rolpassword from pg_authid where rolname = 'u_scram'")
    forebay = start_forebay(user=[{"name": "app", "password": "app"}, {"name": "u_scram", "password": verifier}])
    client = forebay.wire(user="u_scram", password="pw-scram")
    assert client.auth_codes == CODES["scram-sha-256"]
    assert client.value("select current_user") == "u_scram"
    assert refusal(forebay, user="u_scram", password="wrong").sqlstate == "28P01"


def test_an_md5_verifier_is_enough_for_md5_on_both_sides(start_forebay, shared_cluster):
    verifier = shared_cluster.value("select rolpassword from pg_authid where rolname = 'u_md5'")
    assert verifier.startswith("md5")
    forebay = start_forebay(auth="md5", user=[{"name": "app", "password": "app"}, {"name": "u_md5", "password": verifier}])
    assert forebay.wire(user="u_md5", password="pw-md5").value("select current_user") == "u_md5"
    assert refusal(forebay, user="u_md5", password="wrong").sqlstate == "28P01"


def test_md5_with_a_scram_verifier_still_asks_for_scram(start_forebay, shared_cluster):
    verifier = shared_cluster.value("select rolpassword from pg_authid where rolname = 'u_scram'")
    forebay = start_forebay(auth="md5", user=[{"name": "app", "password": "app"}, {"name": "u_scram", "password": verifier}])
    assert forebay.wire(user="u_scram", password="pw-scram").auth_codes == CODES["scram-sha-256"]
    assert forebay.wire().auth_codes == CODES["md5"]


def test_passwords_come_from_files_and_the_environment(start_forebay, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("app\n")
    forebay = start_forebay(env={"OTHERS_PASSWORD": "other"}, user=[
        {"name": "app", "password": Inline(file=str(secret))},
        {"name": "other", "password": Inline(env="OTHERS_PASSWORD")},
    ])
    assert forebay.wire(user="app").value("select current_user") == "app"
    assert forebay.wire(user="other").value("select current_user") == "other"


def test_a_password_beyond_ascii_works(start_forebay, shared_cluster, name):
    password = "pässwörd ☃ 'x'"
    shared_cluster.everywhere(f"create role {name} login password {sql.Literal(password).as_string()}")
    try:
        forebay = start_forebay(user=[{"name": "app", "password": "app"}, {"name": name, "password": password}])
        for endpoint in (shared_cluster.primary, forebay):
            assert endpoint.wire(user=name, password=password).value("select current_user") == name
    finally:
        shared_cluster.sql(f"drop role {name}")


def test_the_monitor_is_the_first_user_when_none_is_named(start_forebay, shared_cluster):
    cluster = {"name": "main", "nodes": shared_cluster.addresses}
    forebay = start_forebay(cluster=[cluster])
    assert forebay.nodes_are_up()


def test_a_server_password_that_is_wrong_is_told_to_the_client_and_the_log(start_forebay):
    users = [{"name": "app", "password": "app"}, {"name": "u_scram", "password": "not the server's"}]
    forebay = start_forebay(user=users, pool={"queue_timeout": "3s"})
    with pytest.raises((wire.ServerError, wire.Closed)) as caught:
        forebay.wire(user="u_scram", password="not the server's").run("select 1")
    assert isinstance(caught.value, wire.ServerError), "closed without a word"
    assert caught.value.sqlstate and "not the server's" not in str(caught.value), "no secret in an error"
    assert "not the server's" not in forebay.log(), "no secret in the log"
    assert "u_scram" in forebay.log()
    assert forebay.wire().value("select 1") == "1", "other users are not affected"


def test_a_client_that_does_not_log_in_is_closed(start_forebay):
    forebay = start_forebay(pool={"client_login_timeout": "1s"})
    for sent in (b"", b"\0\0", None):
        client = Wire(forebay.port)
        client.send(client.startup_packet() if sent is None else sent)
        client.wait_closed(10)
    assert forebay.wire().value("select 1") == "1"


def test_a_user_may_have_a_login_time_out_of_its_own(start_forebay):
    users = [{"name": "app", "password": "app"}, {"name": "other", "password": "other", "client_login_timeout": "500ms"}]
    forebay = start_forebay(user=users, pool={"client_login_timeout": "10m"})
    patient, hasty = Wire(forebay.port), Wire(forebay.port, user="other")
    for client in (patient, hasty):
        client.send(client.startup_packet())
        assert client.read_frame().type == "R"
    hasty.wait_closed(10)
    assert patient.nothing_comes(0.3), "the general time-out is not over"
    assert forebay.wire(user="other").value("select 1") == "1"


def test_an_answer_of_the_wrong_kind_in_the_middle_of_scram_is_refused(target):
    client = Wire(target.port)
    client.send(client.startup_packet())
    client.read_until("R")
    client.send(wire.frame("p", wire.text("SCRAM-SHA-256") + b"\0\0\0\x05hello"))
    assert wire.errors(client.wait_closed()) == ["08P01"]


def test_a_mechanism_that_was_not_offered_is_refused(target):
    client = Wire(target.port)
    client.send(client.startup_packet())
    client.read_until("R")
    client.send(wire.frame("p", wire.text("NO-SUCH-MECHANISM") + b"\0\0\0\x01x"))
    assert wire.errors(client.wait_closed()) == ["08P01"]


def test_a_query_instead_of_a_password_is_refused(target):
    client = Wire(target.port)
    client.send(client.startup_packet())
    client.read_until("R")
    client.send(wire.query("select 1"))
    assert wire.errors(client.wait_closed()) == ["08P01"]


# === a password is replaced ===

@pytest.fixture
def rotating(new_cluster):
    """One server with a login of its own whose password can be replaced."""
    servers = new_cluster(replicas=0, auth="scram-sha-256")
    servers.sql("create role shop login password 'old'")
    return servers


def with_users(*users):
    return [{"name": "monitor", "password": "monitor"}, *users]


def verifier(servers, password):
    servers.sql(f"set password_encryption = 'scram-sha-256'; create role stored password '{password}'")
    stored = servers.value("select rolpassword from pg_authid where rolname = 'stored'")
    servers.sql("drop role stored")
    return stored


@pytest.mark.parametrize("auth", ["scram-sha-256", "md5"])
@pytest.mark.parametrize("form", ["clear", "new stored", "old stored"])
def test_both_passwords_work_before_and_after_the_server_has_the_new_one(rotating, start_forebay, auth, form):
    stored = {"old": rotating.value("select rolpassword from pg_authid where rolname = 'shop'"), "new": verifier(rotating, "new")}
    given = {name: stored[name] if form.startswith(name) else name for name in stored}
    shop = {"name": "shop", "password": given["new"], "previous_password": given["old"]}
    forebay = start_forebay(servers=rotating, auth=auth, wait="port", user=with_users(shop))
    for on_server, other in (("old", "new"), ("new", "old")):
        rotating.sql(f"alter role shop password '{stored[on_server]}'")
        forebay.admin("RECONNECT")
        # A verifier opens a server once a client has proved the password behind it.
        for password in (on_server, other):
            assert forebay.wire(user="shop", password=password).run("select current_user") == [["shop"]], (on_server, password)
        assert refusal(forebay, user="shop", password="neither").sqlstate == "28P01"


def test_the_monitor_goes_on_while_its_password_is_replaced(rotating, start_forebay):
    shop = {"name": "shop", "password": "new", "previous_password": "old"}
    rotating.sql("grant pg_monitor to shop")
    cluster = [{"name": "main", "nodes": rotating.addresses}]
    forebay = start_forebay(servers=rotating, user=[shop], cluster=cluster, wait="port")
    is_up = lambda: forebay.admin("SHOW NODES")[0]["state"] == "up"
    wait_until(is_up, 15, "the node to be seen by the old password")
    rotating.sql("alter role shop password 'new'")
    rotating.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'shop'")
    assert forebay.wire(user="shop", password="new").run("select 1") == [["1"]]
    wait_until(is_up, 15, "the node to be seen by the new password")


def test_two_verifiers_of_different_salts_are_an_error_that_says_why(rotating, start_forebay):
    shop = {"name": "shop", "password": verifier(rotating, "new"), "previous_password": verifier(rotating, "old")}
    with pytest.raises(Exception, match="different kinds, salts"):
        start_forebay(servers=rotating, user=with_users(shop), wait="port")
