"""What a Redis client may say of itself: HELLO, SELECT, CLIENT, RESET, QUIT. Each talk goes as with Redis itself."""

import pytest

from harness import wait_until
from harness.redis_talk import by, closes, gets, hides, leaves, pipeline, quiet, raw, until_blocked
from harness.redis_wire import command

# The number of a connection: in HELLO's reply, and as a reply of its own.
HELLO_ID = rb"\$2\r\nid\r\n:(\d+)"
NUMBER = rb"^:(\d+)"

HELLO = {
    "HELLO alone tells of the server": [hides(HELLO_ID, "HELLO")],
    "HELLO 2 and HELLO 3 change the protocol": [
        hides(HELLO_ID, "HELLO 3"), "HSET h f v", "HGETALL h", "GET no", hides(HELLO_ID, "HELLO 2"), "HGETALL h",
        "GET no"],
    "HELLO 3 in a pipeline counts for what comes after it": [
        "HSET h f v", hides(HELLO_ID, "HELLO 2", pipeline("HGETALL h", "HELLO 3", "HGETALL h", "HELLO 2", "HGETALL h"))],
    "an unknown version is refused": ["HELLO 4", "HELLO 1", "HELLO 0", "HELLO -1", "HELLO x", "HELLO 3x", "GET no"],
    "HELLO sets the name": [
        hides(HELLO_ID, "HELLO 3 SETNAME me"), "CLIENT GETNAME", hides(HELLO_ID, "HELLO 2"), "CLIENT GETNAME"],
    "a bad name is refused and nothing changes": [("HELLO", 3, "SETNAME", "a b"), "CLIENT GETNAME", "GET no"],
    "HELLO with the wrong password changes nothing": [
        "HELLO 3 AUTH nobody wrong SETNAME me", "CLIENT GETNAME", "GET no"],
    "HELLO with a password of the default user": [
        hides(HELLO_ID, "HELLO 3 AUTH default any SETNAME me"), "CLIENT GETNAME"],
    "HELLO with options in any order and case": [
        hides(HELLO_ID, "hello 3 setname me auth default any"), "CLIENT GETNAME"],
    "HELLO with half an option": ["HELLO 3 AUTH default", "HELLO 3 SETNAME", "HELLO 3 NOSUCH", "HELLO 3 AUTH", "PING"],
}

SELECT = {
    "each database has its own keys": [
        "SET k 0", "SELECT 1", "GET k", "SET k 1", "SELECT 0", "GET k", "SELECT 1", "GET k"],
    "a client's database is its own": ["SELECT 3", "SET k a", by("b", "GET k", "SELECT 3", "GET k"), by("c", "GET k")],
    "a new connection begins in database 0": ["SELECT 5", "SET k 5", leaves(), by("b", "GET k", "DBSIZE")],
    "a database that does not exist": [
        "SELECT 16", "SELECT -1", "SELECT 99999999999999999999", "SELECT x", "SET k 0", "GET k"],
    "the last database": ["SELECT 15", "SET k v", "DBSIZE", "SELECT 0", "DBSIZE"],
    "databases change within a pipeline": [pipeline(
        *(word for n in range(16) for word in (f"SELECT {n}", f"SET k {n}")),
        *(word for n in range(16) for word in (f"SELECT {15 - n}", "GET k", "DBSIZE")))],
    "a key moves to another database": [
        "SET k v", "MOVE k 2", "GET k", "SELECT 2", "GET k", "COPY k c DB 0", "SELECT 0", "GET c"],
    "FLUSHDB empties only its own database": [
        "SET k 0", "SELECT 1", "SET k 1", "FLUSHDB", "DBSIZE", "SELECT 0", "DBSIZE"],
    "a blocked client waits in its own database": [
        "SELECT 4", gets("BLPOP l 5", 0), until_blocked(1), by("b", "RPUSH l zero", "SELECT 4", "RPUSH l four"),
        gets("PING", 2)],
}

CLIENT = {
    "a name is kept": [
        "CLIENT GETNAME", "CLIENT SETNAME me", "CLIENT GETNAME", by("b", "CLIENT GETNAME"), ("CLIENT", "SETNAME", ""),
        "CLIENT GETNAME"],
    "a name with a space or a line end is refused": [
        "CLIENT SETNAME me", ("CLIENT", "SETNAME", "a b"), ("CLIENT", "SETNAME", "a\n"), "CLIENT GETNAME"],
    "the name stays when the database changes": [
        "CLIENT SETNAME me", "SELECT 1", "CLIENT GETNAME", "SET k v", "CLIENT GETNAME"],
    "a connection keeps its number and no other has it": [
        hides(NUMBER, "CLIENT ID", "CLIENT ID", "SELECT 1", "CLIENT ID", by("b", "CLIENT ID"), "CLIENT ID")],
    "HELLO and CLIENT ID tell the same number": [hides(HELLO_ID, "HELLO 2"), hides(NUMBER, "CLIENT ID")],
    "no reply at all": [
        "CLIENT SETNAME me", gets("CLIENT REPLY OFF", 0), gets("SET k 1", 0), gets("NOSUCH", 0), gets("PING", 0),
        gets("INCR k", 0), quiet(), "CLIENT REPLY ON", "GET k"],
    "the next reply is left out": [
        gets("CLIENT REPLY SKIP", 0), gets("SET k 1", 0), "GET k", gets("CLIENT REPLY SKIP", 0), gets("INCR k", 0),
        "GET k"],
    "one skip after the other counts once": [
        gets("CLIENT REPLY SKIP", 0), gets("CLIENT REPLY SKIP", 0), gets("PING", 0), "PING"],
    "replies are switched on though they were on": [
        "CLIENT REPLY ON", "CLIENT REPLY ON", "CLIENT REPLY", "CLIENT REPLY NOSUCH"],
    "no replies within a pipeline": [
        pipeline("SET k 1", "CLIENT REPLY SKIP", "INCR k", "INCR k", "CLIENT REPLY OFF", "INCR k", "GET k",
                 "CLIENT REPLY ON", "GET k", replies=4), quiet()],
    "no replies in a transaction": [
        gets("CLIENT REPLY OFF", 0), gets("MULTI", 0), gets("SET k 1", 0), gets("EXEC", 0), quiet(), "CLIENT REPLY ON",
        "GET k"],
    "a discarded SKIP leaves nothing out": ["MULTI", "SET k 1", "CLIENT REPLY SKIP", "DISCARD", "GET k"],
    "NO-EVICT is taken": [
        "CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF", "CLIENT NO-EVICT", "CLIENT NO-EVICT maybe", "PING"],
    "tracking is off": ["CLIENT GETREDIR", "CLIENT TRACKINGINFO"],
    "a client cannot kill one that does not exist": [
        "CLIENT KILL ID 999999999", "CLIENT KILL 127.0.0.1:1", "CLIENT KILL", "CLIENT KILL ID x"],
    "nobody is blocked": ["CLIENT UNBLOCK 999999999", "CLIENT UNBLOCK x", "CLIENT UNBLOCK 1 NOSUCH"],
}

# What a client that has RESET or QUIT before or after anything else gets.
RESET = {
    "RESET forgets the name and the database": [
        "CLIENT SETNAME me", "SELECT 1", "SET k 1", "RESET", "CLIENT GETNAME", "GET k", "DBSIZE"],
    "RESET goes back to the second protocol": [
        hides(HELLO_ID, "HELLO 3"), "HSET h f v", "HGETALL h", "RESET", "HGETALL h", "GET no"],
    "RESET leaves a transaction": ["MULTI", "SET k 1", "RESET", "GET k", "EXEC", "PING"],
    "RESET forgets what is watched": ["SET k 1", "WATCH k", "RESET", by("b", "SET k 2"), "MULTI", "GET k", "EXEC"],
    "RESET leaves channels": ["SUBSCRIBE t1", "PSUBSCRIBE t*", "RESET", by("b", "PUBLISH t1 x"), quiet(), "GET k"],
    "RESET switches replies on": [gets("CLIENT REPLY OFF", 0), "RESET", "PING"],
    "RESET in a pipeline": [pipeline("SET k 1", "SELECT 2", "RESET", "GET k", "RESET", "PING")],
    "QUIT closes after its reply": ["SET k v", "QUIT", closes()],
    "what comes after QUIT is not looked at": [
        raw(command("SET", "k", 1) + command("QUIT") + command("INCR", "k"), 2), closes(), by("b", "GET k")],
    "QUIT in a transaction": ["MULTI", "SET k v", "QUIT", closes(), by("b", "GET k")],
    "QUIT in lower case and inline": [raw(b"quit\r\n", 1), closes()],
}

PING = {
    "PING and ECHO": ["PING", "PING hello", ("PING", ""), ("ECHO", b"\0\r\n"), ("PING", b"x" * 100_000)],
    "PING in a transaction": ["MULTI", "PING", "PING a", "EXEC", "PING"],
    "PING while subscribed": ["SUBSCRIBE t1", "PING", "PING a", "UNSUBSCRIBE t1", "PING"],
    "PING while watching": ["WATCH k", "PING", "UNWATCH", "PING"],
    "PING without replies": [gets("CLIENT REPLY OFF", 0), gets("PING", 0), "CLIENT REPLY ON", "PING"],
    "PING behind a command that blocks": [pipeline("BLPOP l 0.05", "PING", "PING a")],
    "PING in another database": ["SELECT 7", "PING"],
}

AUTH = {
    "a password where none is needed": [
        "AUTH secret", "AUTH default secret", "AUTH nobody secret", "AUTH a b c", "PING"],
    "who is it": ["ACL WHOAMI"],
}


@pytest.mark.parametrize("talk", HELLO.values(), ids=HELLO.keys())
def test_hello_goes_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", SELECT.values(), ids=SELECT.keys())
def test_databases_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", CLIENT.values(), ids=CLIENT.keys())
def test_what_a_client_says_of_itself_goes_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", RESET.values(), ids=RESET.keys())
def test_reset_and_quit_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", PING.values(), ids=PING.keys())
def test_ping_goes_as_with_redis_in_every_state(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", AUTH.values(), ids=AUTH.keys())
def test_auth_without_a_password_goes_as_with_redis(talk, held):
    held(talk)


def test_what_drivers_say_when_they_connect_has_one_reply_each(redis_target):
    # Servers older than 7.2 know no SETINFO; drivers look for a reply, not for its text.
    wire = redis_target.wire()
    wire.send(
        command("HELLO", 3), command("CLIENT", "MAINT_NOTIFICATIONS", "ON"), command("CLIENT", "SETNAME", "driver"),
        command("CLIENT", "SETINFO", "LIB-NAME", "some"), command("CLIENT", "SETINFO", "LIB-VER", "1.0"),
        command("SELECT", 2),
        command("CLIENT", "GETNAME"))
    replies = wire.replies(7)
    assert dict(replies[0])[b"proto"] == 3
    assert replies[2] == b"OK" and replies[5] == b"OK" and replies[6] == b"driver"
    assert wire.nothing_comes(0.05)


def test_client_list_shows_the_clients_themselves(redis_target):
    first, second = redis_target.wire(), redis_target.wire()
    first.ask("CLIENT", "SETNAME", "one"), second.ask("CLIENT", "SETNAME", "two")
    by_name = {entry["name"]: entry for entry in _entries(first)}
    assert {"one", "two"} <= by_name.keys()
    assert by_name["one"]["addr"] == first.address and by_name["two"]["addr"] == second.address
    assert by_name["two"]["id"] == str(second.ask("CLIENT", "ID"))
    assert _entries(second, "INFO")[0]["name"] == "two"


def test_client_list_names_what_each_client_does(redis_target, name):
    asker = redis_target.wire()
    does = {"subscribe": ("SUBSCRIBE", name), "psubscribe": ("PSUBSCRIBE", name), "blpop": ("BLPOP", name, 20),
            "watch": ("WATCH", name), "multi": ("MULTI",), "client|setname": ("CLIENT", "SETNAME", "other")}
    wires = {what: redis_target.wire() for what in does}
    ids = {what: str(wire.ask("CLIENT", "ID")) for what, wire in wires.items()}
    for what, words in does.items():
        wires[what].order(*words)

    def shown():
        found = {entry["id"]: entry["cmd"] for entry in _entries(asker)}
        return {what: found[number] for what, number in ids.items()}

    wait_until(lambda: shown() == {what: what for what in does}, 10, "each client's command")
    assert _entries(asker, "INFO")[0]["cmd"] == "client|info"
    assert {entry["cmd"] for entry in _entries(asker) if entry["id"] == str(asker.ask("CLIENT", "ID"))} == {"client|list"}


@pytest.mark.parametrize("is_pipeline", [False, True])
def test_client_list_names_no_command_that_was_not_the_last(redis_target, name, is_pipeline):
    asker, other = redis_target.wire(), redis_target.wire()
    number = str(other.ask("CLIENT", "ID"))
    requests = [("CLIENT", "SETNAME", "other"), ("GET", name)]
    for some in [requests] if is_pipeline else [[request] for request in requests]:
        other.pipeline(*some)
    shown = {entry["id"]: entry["cmd"] for entry in _entries(asker)}[number]
    assert shown in ("get", "NULL"), "plain commands may be nameless, for they have to be fast"


def test_a_client_kills_another_and_only_that_one(redis_target):
    first, second, third = (redis_target.wire() for _ in range(3))
    assert first.ask("CLIENT", "KILL", "ID", second.ask("CLIENT", "ID")) == 1
    assert second.wait_closed() == b""
    assert first.ask("CLIENT", "KILL", third.address) == b"OK"
    assert third.wait_closed() == b""
    assert first.ask("PING") == b"PONG"


def test_a_client_may_kill_itself(redis_target):
    wire = redis_target.wire()
    assert wire.ask("CLIENT", "KILL", "ID", wire.ask("CLIENT", "ID"), "SKIPME", "no") == 1
    assert wire.wait_closed() == b""


@pytest.mark.parametrize("how, expected", [("TIMEOUT", None), ("ERROR", "UNBLOCKED")])
def test_a_blocked_client_is_unblocked_by_its_number(redis_target, shared_redis, name, how, expected):
    blocked, other = redis_target.wire(), redis_target.wire()
    number = blocked.ask("CLIENT", "ID")
    blocked.order("BLPOP", name, 20)
    wait_until(lambda: shared_redis.nodes[0].info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    assert other.ask("CLIENT", "UNBLOCK", number, how) == 1
    reply = blocked.read()
    assert reply is None if expected is None else reply.code == expected
    assert blocked.ask("PING") == b"PONG"


def _entries(wire, what="LIST"):
    lines = wire.ask("CLIENT", what).decode().splitlines()
    return [dict(part.split("=", 1) for part in line.split(" ") if "=" in part) for line in lines]


def test_an_answer_of_forebay_waits_for_the_whole_reply_before_it(redis_forebay, name):
    wire, large = redis_forebay.redis().wire(), b"x" * (8 << 20)
    assert wire.ask("SET", name, large) == b"OK"
    assert wire.ask("WATCH", name) == b"OK"  # from here on it has a connection of its own
    for number in range(5):
        assert wire.pipeline(("GET", name), ("CLIENT", "SETNAME", f"n{number}"), ("PING",)) == [large, b"OK", b"PONG"]
