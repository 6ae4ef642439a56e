"""What is left of a connection when something went wrong on it, and how a client gets on after that."""

import threading

import pytest

from harness import wait_until
from harness.redis_wire import command


@pytest.fixture
def pair(new_redis):
    """A primary and a replica whose roles are changed by hand: nobody is sent away by that."""
    return new_redis(replicas=1, sentinels=0)


@pytest.fixture
def lonely(new_redis):
    """One server and nobody that could take its place."""
    return new_redis(replicas=0, sentinels=0)


def served(group, start_forebay, **keys):
    """Forebay in front of it."""
    return start_forebay(redis=[group.service(by="nodes", **keys)], config={"general": {"threads": 1}})


def exchange(pair, old=None, new=None):
    """The replica becomes the primary, and the primary follows it."""
    old, new = old or pair.nodes[0], new or pair.nodes[1]
    pair.caught_up()
    new.run("REPLICAOF", "NO", "ONE")
    old.run("REPLICAOF", "127.0.0.1", new.port)
    return old, new


# -- a shared connection --------------------------------------------------------------------------------------------


def test_every_refusal_of_a_long_pipeline_is_waited_for(pair, start_forebay, name):
    """Many refusals come in many reads: the lane must not end with the first of them."""
    wire = served(pair, start_forebay, hold="30s").redis().wire(timeout=60)
    assert wire.ask("SET", name, "v") == b"OK"
    old, new = pair.nodes[:2]
    old.run("REPLICAOF", "127.0.0.1", new.port)
    wire.send(command("RPUSH", name + ":l", "x" * 10) * 8000)
    seen = []

    def has_settled():
        seen.append(old.info("commandstats").get("cmdstat_rpush"))
        return len(seen) > 1 and seen[-1] == seen[-2]
    wait_until(has_settled, 20, "the old primary to have refused what has reached it")
    new.run("REPLICAOF", "NO", "ONE")
    assert wire.replies(8000) == list(range(1, 8001))


def test_a_large_reply_behind_a_refusal_is_whole(pair, start_forebay, name):
    endpoint = served(pair, start_forebay, hold="30s", lanes=1).redis()
    value = b"0123456789abcdef" * (3 << 16)  # 3 MiB
    writer, reader = endpoint.wire(timeout=60), endpoint.wire(timeout=60)
    assert writer.ask("SET", name, value) == b"OK"
    assert writer.ask("SET", name + ":n", 1) == b"OK"
    roles = pair.nodes[:2]
    for _ in range(10):
        exchange(pair, *roles)
        roles.reverse()
        # In one write, so that both are on their way when the first is refused.
        reader.send(command("INCR", name + ":n") + command("GET", name))
        writer.send(command("INCR", name + ":n") + command("GET", name))
        answers = [(wire.read(), wire.read()) for wire in (reader, writer)]
        assert [got for _, got in answers] == [value, value]
        known = [counted for counted, _ in answers if not str(counted).startswith("UNKNOWN")]
        assert all(isinstance(counted, int) for counted in known), answers
        # With UNKNOWN the change was seen before the refusal, which is not what this is about.
        if len(known) == 2:
            return
    pytest.fail("none of ten changes came to light by a refusal")


def test_who_always_has_a_request_on_its_way_costs_no_memory(lonely, start_forebay, name):
    forebay = served(lonely, start_forebay)
    wire = forebay.redis().wire(timeout=60)
    requests = command("SET", name, "x" * 8000) * 100
    wire.send(requests)
    before, highest = forebay.rss_kib(), 0
    sender = threading.Thread(target=lambda: [wire.send(requests) for _ in range(400)])  # 320 MB: what is on its way at a time is less
    sender.start()
    for _ in range(401):
        assert wire.replies(100) == [b"OK"] * 100
        highest = max(highest, forebay.rss_kib())
    sender.join()
    assert highest - before < 100 * 1024, f"grew from {before} to {highest} KiB"


# -- a connection of one's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("EXEC",), ("DISCARD",), ("UNWATCH", "x")])
def test_a_refused_end_of_a_watch_ends_nothing(redis_target, shared_redis, name, words):
    with redis_target.wire() as wire:
        assert wire.ask("SET", name, 1) == b"OK"
        assert wire.ask("WATCH", name) == b"OK"
        assert wire.ask(*words).code == "ERR"
        shared_redis.nodes[0].run("SET", name, 2)
        assert wire.pipeline(("MULTI",), ("GET", name), ("EXEC",)) == [b"OK", b"QUEUED", None]


def test_a_refused_discard_leaves_the_transaction_to_nobody_else(redis_target, name):
    for _ in range(3):
        with redis_target.wire() as wire:
            assert wire.pipeline(("WATCH", name), ("MULTI",)) == [b"OK", b"OK"]
            assert wire.ask("DISCARD", "x").code == "ERR"
            assert wire.ask("GET", name) == b"QUEUED"
            assert wire.ask("EXEC").code == "EXECABORT"
            assert wire.pipeline(("WATCH", name), ("MULTI",)) == [b"OK", b"OK"]
            assert wire.ask("DISCARD", "x").code == "ERR"
            others = [redis_target.wire() for _ in range(4)]
            for other in others:
                assert other.ask("WATCH", name) == b"OK"
                assert other.ask("GET", name) is None
                other.close()


def test_what_is_said_right_behind_the_last_unsubscribe_is_for_the_client_alone(redis_target, name):
    first = redis_target.wire()
    first.send(command("SUBSCRIBE", name) + command("UNSUBSCRIBE", name) + command("HELLO", 3))
    first.read(), first.read()
    assert first.read()
    assert first.ask("HSET", name, "f", "v") == 1
    assert first.ask("HGETALL", name) == [(b"f", b"v")]
    for _ in range(4):
        with redis_target.wire() as other:
            assert other.pipeline(("WATCH", name), ("HGETALL", name)) == [b"OK", [b"f", b"v"]]


def test_a_kept_connection_that_the_server_has_closed_is_not_used(lonely, start_forebay, name):
    endpoint = served(lonely, start_forebay).redis()
    wire = endpoint.wire(timeout=10)
    for _ in range(5):
        assert wire.pipeline(("WATCH", name), ("UNWATCH",)) == [b"OK", b"OK"]
        lonely.nodes[0].run("CLIENT", "KILL", "TYPE", "normal")
        # It would be UNKNOWN, or never be answered.
        assert wire.ask("SET", name, b"v" * 400_000) == b"OK"
        lonely.nodes[0].run("CLIENT", "KILL", "TYPE", "normal")
        assert wire.ask("WATCH", name) == b"OK"
        assert wire.ask("UNWATCH") == b"OK"


def test_a_request_that_comes_in_many_pieces_is_answered_once(redis_target, name):
    wire = redis_target.wire()
    request = command("SET", name, b"v" * 3_000_000)
    for at in range(0, len(request), 50_000):
        wire.send(request[at:at + 50_000])
    assert wire.read() == b"OK"
    # What is answered without a server comes when nothing is due from one.
    assert wire.ask("CLIENT", "SETNAME", "me") == b"OK"
    assert wire.ask("STRLEN", name) == 3_000_000


def test_many_channels_are_confirmed_before_what_is_behind_them(redis_target, name):
    wire = redis_target.wire()
    wire.ask("HELLO", 3)
    channels = [f"{name}:{'c' * 50}:{number}" for number in range(1500)]
    wire.send(command("SUBSCRIBE", *channels) + command("PING"))
    assert [wire.read()[2] for _ in channels] == list(range(1, 1501))
    assert wire.read() == b"PONG"
    assert wire.ask("ECHO", "x") == b"x"


def test_a_large_request_of_who_wants_no_replies_gets_none(redis_target, name):
    wire = redis_target.wire()
    wire.send(command("CLIENT", "REPLY", "OFF") + command("SET", name, b"v" * 400_000) + command("CLIENT", "REPLY", "ON"))
    assert wire.read() == b"OK"
    wire.send(command("CLIENT", "REPLY", "SKIP") + command("SET", name, b"w" * 400_000) + command("STRLEN", name))
    assert wire.read() == 400_000


def test_a_watch_that_was_lost_fails_the_transaction_whatever_is_watched_after_it(lonely, start_forebay, name):
    endpoint = served(lonely, start_forebay, hold="30s").redis()
    wire = endpoint.wire(timeout=30)
    assert wire.pipeline(("SET", name, 1), ("WATCH", name), ("GET", name)) == [b"OK", b"OK", b"1"]
    lonely.nodes[0].run("CLIENT", "KILL", "TYPE", "normal")
    lonely.nodes[0].run("SET", name, 2)
    replies = wire.pipeline(("WATCH", name + ":other"), ("MULTI",), ("SET", name, 3), ("EXEC",))
    assert replies == [b"OK", b"OK", b"QUEUED", None]
    assert lonely.nodes[0].run("GET", name) == b"2"
    assert wire.pipeline(("WATCH", name), ("MULTI",), ("SET", name, 3), ("EXEC",))[-1] == [b"OK"]


def test_what_was_on_its_way_for_long_is_held_like_any_other(lonely, start_forebay, name):
    endpoint = served(lonely, start_forebay, hold="1s").redis()
    wire, other = endpoint.wire(timeout=30), endpoint.wire(timeout=30)
    wire.order("XREAD", "BLOCK", 0, "STREAMS", name, "$")
    assert wire.nothing_comes(1.2), "it is blocked for longer than hold"
    lonely.nodes[0].run("CLIENT", "KILL", "TYPE", "normal")
    wait_until(lambda: lonely.nodes[0].info("clients")["blocked_clients"] == 1, 20, "it to be blocked again")
    other.ask("XADD", name, "1-1", "f", "v")
    assert wire.read() == [[name.encode(), [[b"1-1", [b"f", b"v"]]]]]


def clients(node):
    """The server's clients, by the fields of CLIENT LIST."""
    lines = node.run("CLIENT", "LIST").decode().splitlines()
    return [dict(part.split("=", 1) for part in line.split(" ") if "=" in part) for line in lines]


def test_a_lost_connection_of_one_client_delays_nobody_else(lonely, start_forebay, name):
    node, forebay = lonely.nodes[0], served(lonely, start_forebay)
    own, other = (forebay.redis().wire(timeout=30) for _ in range(2))
    assert other.ask("SET", name + ":n", 0) == b"OK"
    shared = {line["id"] for line in clients(node)}
    for _ in range(10):
        assert own.ask("WATCH", name) == b"OK"
        for line in clients(node):
            if line["id"] not in shared and line["name"] == "forebay":
                node.run("CLIENT", "KILL", "ID", line["id"])
        # By this answer the loss is known.
        assert own.pipeline(("MULTI",), ("GET", name), ("EXEC",))[-1] is None
        other.ask("INCR", name + ":n")
    waited = [row["served"] for row in forebay.admin("SHOW QUEUE") if row["service"] == "cache"]
    assert waited == [0], "somebody had to wait for a primary"


def test_a_read_that_the_server_answers_by_closing_is_not_repeated_for_ever(new_redis, start_forebay, name):
    group = new_redis(replicas=0, sentinels=0, settings={"client-output-buffer-limit": "normal 2mb 0 0"})
    wire = served(group, start_forebay, hold="30s").redis().wire(timeout=30)
    group.nodes[0].run("SETRANGE", name, 8_000_000, "x")
    assert wire.ask("WATCH", name + ":w") == b"OK"
    assert wire.ask("GET", name).code == "UNKNOWN"
    assert wire.ask("STRLEN", name) == 8_000_001


@pytest.mark.parametrize("length", [100_000, 200_000])
def test_a_read_that_is_too_long_to_be_kept_is_answered_when_its_connection_is_lost(lonely, start_forebay, name, length):
    wire = served(lonely, start_forebay, hold="1s").redis().wire()
    assert wire.ask("WATCH", name) == b"OK"
    lonely.nodes[0].pause()
    wire.order("MGET", *[name] * (length // (len(name) + 6)))
    lonely.nodes[0].kill()
    assert wire.read().code in ("UNKNOWN", "LOADING")
    lonely.nodes[0].start()
    assert wait_until(lambda: wire.ask("GET", name) is None, 20, "the server to be found again")


def test_a_large_request_that_was_not_sent_whole_was_not_carried_out(lonely, start_forebay, name):
    node = lonely.nodes[0]
    wire = served(lonely, start_forebay, hold="30s").redis().wire(timeout=30)
    request = command("SET", name, b"v" * 2_000_000)
    wire.send(request[:1_000_000])
    wait_until(lambda: any(int(line["qbuf"]) > 500_000 for line in clients(node)), 20, "the server to have a part of it")
    node.run("CLIENT", "KILL", "TYPE", "normal")
    wire.send(request[1_000_000:])
    reply = wire.read()
    assert reply.code == "LOADING" and "was not carried out" in reply
    assert wire.ask("EXISTS", name) == 0
    assert wire.ask("SET", name, b"v" * 2_000_000) == b"OK"


@pytest.mark.parametrize("blocking", ["BLPOP {} 60", "BLMPOP 60 1 {} LEFT", "XREAD BLOCK 60000 STREAMS {} $"])
def test_a_blocked_client_goes_on_waiting_for_the_rest_of_its_time(pair, start_forebay, name, blocking):
    wire = served(pair, start_forebay, hold="30s").redis().wire(timeout=90)
    verb, *rest = blocking.format(name).split()
    wire.order(verb, *rest)
    wait_until(lambda: pair.nodes[0].info("clients")["blocked_clients"] == 1, 20, "it to be blocked")
    assert wire.nothing_comes(1.1)
    with pair.nodes[1].wire(timeout=30) as monitor:
        assert monitor.ask("MONITOR") == b"OK"
        exchange(pair)
        line = monitor.read().decode()
        while f'"{verb}"' not in line:
            line = monitor.read().decode()
    now = line[line.index(f'"{verb}"'):].replace('"', "").split()[1:]
    (before, after), = [words for words in zip(rest, now, strict=True) if words[0] != words[1]]
    assert 0 < float(after) <= float(before) - (1000 if verb == "XREAD" else 1)


def test_a_refused_transaction_of_who_wants_no_replies_runs_as_one(pair, start_forebay, name):
    wire = served(pair, start_forebay, hold="30s").redis().wire(timeout=30)
    assert wire.ask("SET", name, 0) == b"OK"
    _, new = exchange(pair)
    requests = ("CLIENT REPLY OFF", "MULTI", f"INCR {name}", f"INCR {name}:other", "EXEC", "CLIENT REPLY ON")
    wire.send(b"".join(command(*request.split()) for request in requests))
    assert wire.read() == b"OK"
    assert wire.ask("MGET", name, name + ":other") == [b"1", b"1"]
    assert "calls=1," in new.info("commandstats").get("cmdstat_exec", ""), "they were carried out one by one"


def test_a_hello_behind_others_is_answered(lonely, start_forebay, name):
    """The first of its protocol: a server has to be asked for the answer."""
    wire = served(lonely, start_forebay).redis().wire(timeout=10)
    assert wire.pipeline(("WATCH", name), ("UNWATCH",), ("HELLO", 3))[:2] == [b"OK", b"OK"]
    assert wire.ask("HGETALL", name) == []


# -- subscribers ------------------------------------------------------------------------------------------------------


def test_a_quiet_subscriber_listens_again_after_any_time(lonely, start_forebay, name):
    """It has said nothing for longer than `hold`, and the server is away for longer than that."""
    endpoint = served(lonely, start_forebay, hold="200ms").redis()
    listener, sender = endpoint.wire(timeout=30), endpoint.wire(timeout=30)
    assert listener.ask("SUBSCRIBE", name)[2] == 1
    assert listener.nothing_comes(0.5)
    lonely.nodes[0].kill()
    assert listener.nothing_comes(1), "it has asked for nothing that could be refused"
    lonely.nodes[0].start()
    wait_until(lambda: sender.ask("PUBLISH", name, "there?") == 1, 20, "the subscriber to listen again")
    assert listener.read() == [b"message", name.encode(), b"there?"]


def test_a_subscriber_that_writes_follows_the_primary(pair, start_forebay, name):
    endpoint = served(pair, start_forebay, hold="30s").redis()
    wire = endpoint.wire(timeout=30)
    wire.ask("HELLO", 3)
    assert wire.ask("SUBSCRIBE", name)[2] == 1
    assert wire.ask("INCR", name) == 1
    pair.caught_up()
    exchange(pair)
    reply = wire.ask("INCR", name)
    # On its way when the primary changed: nobody knows.
    assert reply == 2 or reply.code == "UNKNOWN"
    assert wire.ask("INCR", name) in (2, 3)


def test_who_waits_on_a_frozen_server_goes_on_at_the_next_primary(pair, start_forebay, name):
    """A subscriber, and one who has asked for something on a connection of its own."""
    old, new = pair.nodes[:2]
    endpoint = served(pair, start_forebay, hold="30s").redis()
    listener, reader, sender = (endpoint.wire(timeout=30) for _ in range(3))
    assert listener.ask("SUBSCRIBE", name)[2] == 1
    assert reader.ask("SET", name, "v") == b"OK"
    assert reader.ask("WATCH", name) == b"OK"
    pair.caught_up()
    old.pause()
    try:
        reader.send(command("GET", name))
        new.run("REPLICAOF", "NO", "ONE")
        assert reader.read() == b"v"
        wait_until(lambda: sender.ask("PUBLISH", name, "there?") == 1, 20, "the subscriber to listen at the new primary")
        assert listener.read() == [b"message", name.encode(), b"there?"]
    finally:
        old.resume()


# -- logins and services ----------------------------------------------------------------------------------------------


def test_wrong_passwords_are_not_kept(lonely, start_forebay):
    forebay = served(lonely, start_forebay)
    wire = forebay.redis().wire(timeout=60)

    def guess(begin, end):
        for number in range(begin, end):
            assert wire.ask("AUTH", "nobody", f"{number}:" + "x" * 15_000).code == "WRONGPASS"
    guess(0, 100)
    before = forebay.rss_kib()
    guess(100, 2100)  # 30 MB
    assert forebay.rss_kib() - before < 12 * 1024


def test_a_service_that_a_reload_takes_away_keeps_no_connection(lonely, start_forebay, name):
    services = [lonely.service(by="nodes"), lonely.service(name="other", by="nodes")]
    forebay = start_forebay(redis=services)
    wires = [forebay.redis("other").wire() for _ in range(4)]
    for wire in wires:
        assert wire.pipeline(("SET", name, 1), ("WATCH", name), ("UNWATCH",)) == [b"OK"] * 3

    def count():
        lines = lonely.nodes[0].run("CLIENT", "LIST").splitlines()
        return sum(b" name=forebay " in line and b"cmd=command" not in line for line in lines)
    assert count() > 0
    left = [service for service in forebay.config["redis"]["service"] if service["name"] == "cache"]
    forebay.write({**forebay.config, "redis": {"service": left}})
    forebay.reload()
    wait_until(lambda: count() == 0, 20, "its connections to be closed")


def test_a_server_that_knows_no_hello_says_so(new_redis, start_forebay, name):
    group = new_redis(replicas=0, sentinels=0, settings={"rename-command": 'HELLO ""'})
    endpoint = served(group, start_forebay).redis()
    for words in [("HELLO", 2), ("HELLO", 3), ("HELLO",), ("HELLO", 2, "SETNAME", "me")]:
        with endpoint.wire(timeout=10) as wire:
            for _ in range(2):
                reply = wire.ask(*words)
                assert reply.startswith("ERR unknown command"), reply
            assert wire.pipeline(("SET", name, 1), ("WATCH", name), ("GET", name)) == [b"OK", b"OK", b"1"]


def test_databases_without_end_do_not_take_all_connections(new_redis, start_forebay, name):
    group = new_redis(replicas=0, sentinels=0, settings={"databases": 400})
    wire = served(group, start_forebay).redis().wire(timeout=30)
    for _ in range(2):
        for database in range(400):
            assert wire.ask("SELECT", database) == b"OK"
            assert wire.ask("INCR", name) in (1, 2)
    wait_until(lambda: len(clients(group.nodes[0])) < 300, 20, "idle connections to be closed")
    assert wire.pipeline(("SELECT", 3), ("GET", name)) == [b"OK", b"2"]


# -- scripts ------------------------------------------------------------------------------------------------------


REFUSALS = ["READONLY You can't write against a read only replica.", "LOADING Redis is loading the dataset in memory"]


@pytest.mark.parametrize("state", ["shared", "own"])
@pytest.mark.parametrize("how", ["return redis.error_reply(ARGV[1])", "error({err=ARGV[1]})"], ids=["answered", "raised"])
@pytest.mark.parametrize("text", REFUSALS, ids=["READONLY", "LOADING"])
def test_a_script_that_answers_like_a_replica_runs_once(redis_target, name, text, how, state):
    wire = redis_target.wire()
    if state == "own":
        assert wire.ask("WATCH", name + ":w") == b"OK"
    reply = wire.ask("EVAL", f"redis.call('incr', KEYS[1]); {how}", 1, name, text)
    assert reply.startswith(text)
    assert wire.ask("GET", name) == b"1"


def test_a_script_on_a_former_primary_is_not_repeated(pair, start_forebay, name):
    """Before its first write is refused it may have done something that replicas may do, such as to publish."""
    wire = served(pair, start_forebay, hold="30s").redis().wire(timeout=60)
    listener = pair.nodes[0].wire()
    listener.ask("SUBSCRIBE", name)
    script = "redis.call('publish', KEYS[1], 'once'); return redis.call('incr', KEYS[1])"
    assert wire.ask("EVAL", script, 1, name) == 1
    pair.caught_up()
    pair.nodes[0].run("REPLICAOF", "127.0.0.1", pair.nodes[1].port)
    wire.order("EVAL", script, 1, name)
    pair.nodes[1].run("REPLICAOF", "NO", "ONE")
    reply = wire.read()
    # Unless it came so late that it has waited for the new primary, which tells its replica of the message.
    assert reply == 2 or reply.code in ("READONLY", "UNKNOWN")
    assert [listener.read()[2] for _ in range(2)] == [b"once"] * 2
    assert wire.ask("INCR", name) == (3 if reply == 2 else 2)
    assert listener.nothing_comes(0.2)


ENDLESS = "#!lua name={0}\nredis.register_function('{0}', function() while true do end end)"


@pytest.mark.parametrize("state", [[], ["SELECT 3"], ["WATCH k"]], ids=["plain", "database", "watching"])
@pytest.mark.parametrize("what", ["SCRIPT", "FUNCTION"])
def test_a_script_that_does_not_end_can_be_stopped(lonely, start_forebay, name, what, state):
    server = lonely.nodes[0]
    server.run("CONFIG", "SET", "busy-reply-threshold", 100)
    endpoint = served(lonely, start_forebay).redis()
    runner, killer, late = endpoint.wire(), endpoint.wire(), endpoint.wire()
    for line in state:
        assert killer.ask(*line.split()) == b"OK"
    assert runner.ask(what, "KILL").code == "NOTBUSY"
    if what == "SCRIPT":
        runner.order("EVAL", "while true do end", 0)
    else:
        assert runner.ask("FUNCTION", "LOAD", ENDLESS.format(name)) == name.encode()
        runner.order("FCALL", name, 0)
    try:
        with server.wire() as direct:
            wait_until(lambda: getattr(direct.ask("GET", name), "code", None) == "BUSY", 10, "the server to be busy")
        late.order("KEYS", "*")
        newcomer = endpoint.wire()
        assert newcomer.ask("SELECT", 7).code == "BUSY"
        assert newcomer.ask("GET", name).code == "BUSY", "nobody is held for that"
        assert killer.ask(what, "KILL") == b"OK"
    finally:
        with server.wire() as direct:
            direct.ask(what, "KILL")
    assert "killed" in runner.read().lower()
    assert late.read() == []
    assert killer.ask("SET", name, 1) == b"OK"
