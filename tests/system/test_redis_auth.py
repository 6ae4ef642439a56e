"""Passwords and users: what the servers allow a user holds for whoever logs in as that user through Forebay."""

import pytest

from harness import RedisGroup, redis_talk, wait_until
from harness.forebay import Forebay, configuration
from harness.redis_talk import by, closes, gets, hides, pipeline, quiet, raw
from harness.redis_wire import ReplyError, command

USERS = [
    "alice on >wonder ~alice:* resetchannels &alice* +@all -@dangerous",
    "reader on >look ~* +@read +@connection -@write",
    "sleeper off >dream ~* +@all",
    "still on >pw ~* +@all -select",
    "discreet on >pw ~* +@all -client",
]


@pytest.fixture(scope="module")
def secured():
    """A group whose default user has the password `secret`, with the users above."""
    with RedisGroup(
            name="secured-redis", password="secret", users=USERS, replicas=1, sentinels=1, quorum=1, down_after=60) as group:
        yield group


@pytest.fixture(scope="module")
def _secured_forebay(secured):
    service = secured.service(users={"alice": "wonder", "reader": "look"})
    with Forebay(configuration((), redis=[service])) as forebay:
        yield forebay


@pytest.fixture(params=["direct", "forebay"])
def target(request, secured):
    """The server itself, then Forebay."""
    if request.param == "direct":
        return secured.nodes[0]
    return request.getfixturevalue("_secured_forebay").redis()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def held(request, target, secured):
    """As the fixture of the same name, with the group that asks for a password."""
    return lambda steps: redis_talk.goes_as_directly(steps, target, secured, request.param)


def names(*steps):
    """HELLO's replies carry the number of the connection."""
    return hides(rb"\$2\r\nid\r\n:(\d+)", *steps)


def silent(*requests):
    """Requests to which no replies are wanted."""
    whole = ["CLIENT REPLY OFF", *requests, "CLIENT REPLY ON"]
    return raw(b"".join(command(*request.split()) for request in whole), 1)


BEFORE_LOGIN = {
    "nothing but a login": [
        "GET k", "SET k v", "PING", "ECHO x", "SELECT 1", "MULTI", "EXEC", "SUBSCRIBE t1", "CLIENT SETNAME x",
        "CLIENT ID", "COMMAND", "INFO"],
    "HELLO without a password": ["HELLO", "HELLO 2", "HELLO 3", "HELLO 3 SETNAME me", "GET k"],
    "unknown commands and wrong arity": ["NOSUCH", "GET", "OBJECT NOSUCH x", "AUTH", "AUTH a b c"],
    "inline": [raw(b"GET k\r\nPING\r\n", 2), raw(b"AUTH secret\r\nPING\r\n", 2)],
    "RESET and QUIT": ["RESET", "QUIT", closes()],
    "more than ten arguments": [("MGET", *"abcdefghi"), raw(b"*11\r\n"), closes()],
    "a long argument": [raw(command("GET", b"x" * 16_384), 1), raw(b"*2\r\n$3\r\nGET\r\n$16385\r\n"), closes()],
    "after the login both are allowed": ["AUTH secret", ("MGET", *"abcdefghijk"), ("GET", b"x" * 20_000)],
}

LOGIN = {
    "no replies are wanted": [
        "AUTH secret", silent("AUTH wrong", "AUTH alice wonder", "HELLO 3 AUTH alice wrong", "AUTH"), "ACL WHOAMI"],
    "the next reply is not wanted": [
        "AUTH secret", *(raw(command("CLIENT", "REPLY", "SKIP") + command(*login.split()) + command("ACL", "WHOAMI"), 1)
            for login in ("AUTH alice wonder", "AUTH wrong", "HELLO 2 AUTH alice wrong", "HELLO 2 AUTH default secret"))],
    "while keys are watched": [
        "AUTH secret", "SET alice:k 1", "WATCH alice:k", "AUTH alice wonder", "GET k", "ACL WHOAMI",
        by("b", "AUTH secret", "SET alice:k 2"), "MULTI", "SET alice:k 3", "EXEC", "GET alice:k", "WATCH alice:k", "MULTI",
        "SET alice:k 3", "EXEC", "GET alice:k", "SET k 1"],
    "a failed one while keys are watched": [
        "AUTH secret", "WATCH alice:k", "AUTH alice wrong", "ACL WHOAMI", by("b", "AUTH secret", "SET alice:k 2"), "MULTI",
        "SET alice:k 3", "EXEC", "GET alice:k"],
    "another protocol while keys are watched": [
        "AUTH secret", "HSET alice:h f v", "WATCH alice:k", names("HELLO 3 AUTH alice wonder"), "HGETALL alice:h", "HGETALL h",
        names("HELLO 2"), "HGETALL alice:h", by("b", "AUTH secret", "SET alice:k 2"), "MULTI", "HGETALL alice:h", "EXEC",
        "WATCH alice:k", names("HELLO 3"), "MULTI", "HGETALL alice:h", "EXEC", "HGETALL alice:h"],
    "while keys are watched, in one write": [
        "AUTH secret", pipeline(
            "WATCH alice:k", "AUTH alice wonder", "ACL WHOAMI", "MULTI", "SET alice:k 1", "EXEC", "SET k 1", "GET alice:k")],
    "the right password": ["AUTH secret", "PING", "ACL WHOAMI"],
    "the wrong password": ["AUTH wrong", "GET k", "AUTH secret", "GET k"],
    "the default user by name": ["AUTH default secret", "ACL WHOAMI"],
    "a user": ["AUTH alice wonder", "ACL WHOAMI", "SET alice:k v", "GET alice:k"],
    "a user with the wrong password": ["AUTH alice secret", "AUTH alice WONDER", ("AUTH", "alice", ""), "GET alice:k"],
    "a user that does not exist": ["AUTH nobody wonder", "GET k"],
    "a user that is switched off": ["AUTH sleeper dream", "GET k"],
    "by HELLO": [names("HELLO 3 AUTH alice wonder SETNAME me"), "CLIENT GETNAME", "ACL WHOAMI", "GET alice:k"],
    "by HELLO with the wrong password": [
        "HELLO 3 AUTH alice wrong SETNAME me", "GET alice:k", names("HELLO 2 AUTH default secret"), "CLIENT GETNAME"],
    "a failed login keeps the user": ["AUTH alice wonder", "AUTH reader wrong", "ACL WHOAMI", "SET alice:k v"],
    "another user on the same connection": [
        "AUTH alice wonder", "SET alice:k 1", "AUTH reader look", "GET alice:k", "SET alice:k 2", "AUTH secret",
        "SET k 3", "ACL WHOAMI"],
    "in one write with what comes after": [
        pipeline("AUTH alice wonder", "SET alice:k 1", "SET k 1", "AUTH reader look",
                 "GET k", "SET k 2", "AUTH wrong", "GET k")],
    "in a transaction": ["AUTH secret", "MULTI", "AUTH alice wonder", "SET k 1", "EXEC", "ACL WHOAMI", "SET k 2"],
    "RESET logs out": ["AUTH alice wonder", "SET alice:k 1", "RESET", "GET alice:k", "AUTH secret", "GET alice:k"],
    "users and databases": [
        "AUTH alice wonder", "SELECT 1", "SET alice:k 1", "AUTH reader look", "GET alice:k", "SELECT 0", "GET alice:k"],
}

RIGHTS = {
    "keys": [
        "AUTH alice wonder", "SET k v", "GET k", "MGET alice:a b", "SET alice:a 1",
        ("EVAL", "return redis.call('get', 'k')", 0), "RENAME alice:a b"],
    "commands": ["AUTH reader look", "GET k", "SET k v", "DEL k", "EVAL return(1) 0", "LRANGE k 0 -1", "SORT k"],
    "dangerous commands": ["AUTH alice wonder", "KEYS *", "FLUSHALL", "INFO"],
    "channels": [
        "AUTH alice wonder", "SUBSCRIBE t1", "SUBSCRIBE alice1",
        by("b", "AUTH alice wonder", "PUBLISH t1 x", "PUBLISH alice1 x"), gets("UNSUBSCRIBE alice1", 2)],
    "what is watched": ["AUTH alice wonder", "WATCH k", "WATCH alice:k", "MULTI", "GET alice:k", "EXEC"],
    "blocking commands": [
        "AUTH alice wonder", "BLPOP k 0.01", "BLPOP alice:k 0.01", "AUTH reader look", "BLPOP k 0.01"],
    "two users at once": [
        "AUTH alice wonder", by("b", "AUTH reader look"), by("c", "AUTH secret"), "SET alice:k 1",
        by("b", "SET alice:k 2", "GET alice:k"), by("c", "SET alice:k 3"), "GET alice:k", quiet()],
    "in one write": [
        "AUTH alice wonder",
        pipeline(*(word for n in range(100) for word in (f"SET alice:{n} {n}", f"SET k{n} {n}", f"GET alice:{n}")))],
}


@pytest.mark.parametrize("talk", BEFORE_LOGIN.values(), ids=BEFORE_LOGIN.keys())
def test_who_has_not_logged_in_may_do_what_redis_allows(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", LOGIN.values(), ids=LOGIN.keys())
def test_logins_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", RIGHTS.values(), ids=RIGHTS.keys())
def test_the_rights_of_a_user_hold(talk, held):
    held(talk)


def test_a_transaction_with_a_command_that_its_user_may_not_run_runs_nothing(target, secured):
    # Redis says NOPERM instead of QUEUED. Forebay keeps a transaction until EXEC, and the server tells it then.
    secured.nodes[0].run("DEL", "alice:k")
    wire = target.wire()
    replies = wire.pipeline(
        ("AUTH", "alice", "wonder"), ("MULTI",), ("SET", "alice:k", 1), ("SET", "k", 1), ("EXEC",), ("GET", "alice:k"))
    assert replies[2] == b"QUEUED" and (replies[3] == b"QUEUED" or replies[3].code == "NOPERM")
    assert replies[4].code == "EXECABORT" and replies[5] is None
    assert wire.pipeline(("MULTI",), ("SET", "alice:k", 2), ("EXEC",))[-1] == [b"OK"]


def test_rights_that_are_taken_away_are_gone_at_once(target, secured):
    wire = target.wire()
    assert wire.pipeline(("AUTH", "alice", "wonder"), ("SET", "alice:k", 1)) == [b"OK", b"OK"]
    _everywhere(secured, "ACL", "SETUSER", "alice", "-set")
    try:
        assert wire.ask("SET", "alice:k", 2).code == "NOPERM"
        assert wire.ask("GET", "alice:k") == b"1"
    finally:
        _everywhere(secured, "ACL", "SETUSER", "alice", "+set")
    assert wire.ask("SET", "alice:k", 3) == b"OK"


def test_a_password_that_was_changed_counts_for_the_next_login(target, secured):
    _everywhere(secured, "ACL", "SETUSER", "alice", "resetpass", ">other")
    try:
        wire = target.wire()
        reply = wire.ask("AUTH", "alice", "wonder")
        assert isinstance(reply, ReplyError) and reply.code == "WRONGPASS", f"the old password still counts: {reply!r}"
    finally:
        _everywhere(secured, "ACL", "SETUSER", "alice", "resetpass", ">wonder")
    wait_until(lambda: wire.ask("AUTH", "alice", "wonder") == b"OK", 10, "the old password to count again")


def test_nobody_uses_the_connection_of_another_user(target):
    # Whoever is not logged in shares connections with nobody, whatever those before it did.
    for _ in range(30):
        with target.wire() as first:
            assert first.pipeline(("AUTH", "secret"), ("SET", "k", "v"))[-1] == b"OK"
        with target.wire() as second:
            assert second.ask("GET", "k").code == "NOAUTH"
            assert second.pipeline(("AUTH", "reader", "look"), ("SET", "k", "w"))[-1].code == "NOPERM"


def test_a_user_is_blamed_only_for_what_the_client_has_asked(secured):
    _everywhere(secured, "ACL", "LOG", "RESET")
    with Forebay(configuration((), redis=[secured.service(users={"alice": "wonder"})])) as forebay:
        with forebay.redis().wire() as wire:
            # On a connection that clients share, and on one of the client's own.
            replies = wire.pipeline(("AUTH", "alice", "wonder"), ("SET", "alice:k", 1), ("WATCH", "alice:k"), ("ROLE",))
            assert replies[:3] == [b"OK"] * 3 and replies[3].code == "NOPERM"
            for node in secured.nodes:
                log = [dict(zip(entry[::2], entry[1::2])) for entry in node.run("ACL", "LOG")]
                blamed = [(entry[b"object"], entry[b"count"]) for entry in log if entry[b"username"] == b"alice"]
                assert blamed == ([(b"role", 1)] if node is secured.nodes[0] else [])


def _everywhere(group, *arguments):
    for node in group.nodes:
        assert node.run(*arguments) == b"OK"


CLIENTS = {
    "of others": [
        "AUTH alice wonder", by("b", "AUTH secret"), "CLIENT LIST", "CLIENT KILL USER default", "CLIENT KILL nowhere:1",
        "CLIENT UNBLOCK 1", "CLIENT LIST ID 0", "CLIENT KILL ID x", "PING", by("b", "PING")],
    "while keys are watched": [
        "AUTH alice wonder", "WATCH alice:k", "CLIENT LIST", "CLIENT KILL USER default", "PING"],
    "in one write": [
        "AUTH alice wonder", pipeline("SET alice:k 1", "CLIENT KILL USER default", "GET alice:k", "CLIENT LIST", "PING")],
    "no reply is wanted": [
        "AUTH alice wonder",
        raw(command("CLIENT", "REPLY", "SKIP") + command("CLIENT", "LIST") + command("GET", "alice:k"), 1)],
}
DATABASES = {
    "a user that may not": ["AUTH still pw", "SELECT 1", "SET k 1", "SELECT 0", "GET k", "SELECT 2", "SELECT x"],
    "another client has been there": [
        by("b", "AUTH secret", "SELECT 1", "SET k b"), "AUTH still pw", "SELECT 1", "GET k", "WATCH k", "SELECT 1"],
    "a user that may": ["AUTH alice wonder", "SELECT 1", "SET alice:k 1", "SELECT 0", "GET alice:k"],
}


WITHIN = {
    "a database": [
        by("b", "AUTH secret", "SELECT 1"), "AUTH discreet pw", "MULTI", "SELECT 1", "SET k 1", "EXEC", "SET k 2",
        by("b", "GET k"), "SELECT 0", "GET k"],
    "a protocol": ["AUTH discreet pw", "HSET h f v", "MULTI", hides(rb"id\r\n:(\d+)", "HELLO 3", "EXEC"), "HGETALL h"],
    "another user by HELLO": [
        "AUTH secret", "MULTI", hides(rb"id\r\n:(\d+)", "HELLO 2 AUTH alice wonder", "EXEC"), "ACL WHOAMI", "SET k 1",
        "WATCH alice:k", "ACL WHOAMI"],
}


@pytest.mark.parametrize("talk", WITHIN.values(), ids=WITHIN.keys())
def test_what_a_transaction_makes_of_a_users_session_goes_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", CLIENTS.values(), ids=CLIENTS.keys())
def test_what_a_user_may_do_to_other_clients_the_server_decides(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", DATABASES.values(), ids=DATABASES.keys())
def test_which_database_a_user_may_select_the_server_decides(talk, held):
    held(talk)


# -- the server's password is none, or another one -------------------------------------------------------------------


@pytest.mark.parametrize("login", [("AUTH", "default", "x"), ("HELLO", 3, "AUTH", "default", "x")], ids=["AUTH", "HELLO"])
def test_any_password_of_the_default_user_will_do_where_it_has_none(redis_target, name, login):
    wire = redis_target.wire()
    assert not isinstance(wire.ask(*login), ReplyError)
    assert wire.pipeline(("SET", name, 1), ("WATCH", name), ("MULTI",), ("INCR", name), ("EXEC",))[-1] == [2]
    assert wire.ask("WATCH", name) == b"OK"
    assert not isinstance(wire.ask(*login), ReplyError)
    assert wire.pipeline(("GET", name), ("UNWATCH",), ("ECHO", "x")) == [b"2", b"OK", b"x"]


def test_whoever_is_logged_in_stays_so_when_passwords_change(new_redis, start_forebay, name):
    group = new_redis(replicas=0, sentinels=0, password="secret", users=["alice on >wonder ~* +@all"])
    forebay = start_forebay(redis=[group.service(by="nodes", users={"alice": "wonder"})])
    service, alice = forebay.redis().wire(), forebay.redis().wire()
    assert service.pipeline(("AUTH", "secret"), ("SET", name, 1)) == [b"OK", b"OK"]
    assert alice.pipeline(("AUTH", "alice", "wonder"), ("INCR", name)) == [b"OK", 2]
    server = group.nodes[0]
    server.run("ACL", "SETUSER", "alice", "resetpass", ">land")
    server.run("CONFIG", "SET", "requirepass", "other")
    server.password = "other"
    forebay.change_redis(auth="other", users={"alice": "land"})
    forebay.reload()
    forebay.wait_log("reloaded")
    # Every connection to the server is a new one.
    server.run("CLIENT", "KILL", "TYPE", "normal")
    for wire in (service, alice):
        wait_until(lambda wire=wire: wire.ask("PING") == b"PONG", 10, "it to be served")
        assert wire.ask("GET", name) == b"2"
        assert wire.pipeline(("SELECT", 3), ("GET", name), ("SELECT", 0), ("BLPOP", name + ":no", 0.01)) == [
            b"OK", None, b"OK", None]
    newcomer = forebay.redis().wire()
    assert newcomer.ask("AUTH", "secret").code == "WRONGPASS"
    assert newcomer.pipeline(("AUTH", "other"), ("GET", name)) == [b"OK", b"2"]
