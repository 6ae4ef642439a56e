"""SHOW COMMANDS and SHOW KEYS: what Redis' commands and keys are used for."""

import random
import threading

import pytest
import redis

from harness import wait_until
from harness.redis_servers import RedisGroup
from harness.redis_wire import command

COMMANDS = ["service", "command", "calls", "primary", "replica", "own", "forebay", "errors", "total_ms", "mean_ms", "p50_ms",
            "p99_ms", "bytes_in", "bytes_out", "timed"]
KEYS = ["service", "database", "kind", "key", "accesses", "error", "share_percent", "reads", "writes", "bytes", "command", "seen",
        "key_bytes"]


@pytest.fixture(scope="module")
def lonely():
    """A server without replicas and Sentinels, for all tests of this file."""
    with RedisGroup(name="keys-redis", replicas=0, sentinels=0) as group:
        yield group


@pytest.fixture
def forebay(start_forebay, lonely):
    lonely.nodes[0].client().flushall()
    return start_forebay(redis=[lonely.service(by="nodes")], config={"general": {"threads": 1}})


def client(forebay, **options):
    """One client with one connection."""
    found = forebay.redis().client(single_connection_client=True, **options)
    wait_until(lambda: answers(found), 30, "Redis to be served")
    return found


def answers(client):
    try:
        return client.execute_command("DBSIZE") is not None
    except redis.RedisError:
        return False


def commands(forebay):
    rows = forebay.admin("SHOW COMMANDS")
    found = {row["command"]: row for row in rows}
    assert len(found) == len(rows), rows
    return found


def keys(forebay, kind):
    rows = [row for row in forebay.admin("SHOW KEYS") if row["kind"] == kind]
    found = {(row["database"], row["key"]): row for row in rows}
    assert len(found) == len(rows), rows
    return found


def hot(forebay, db=0):
    return {key: row for (where, key), row in keys(forebay, "hot").items() if where == db}


def big(forebay, db=0):
    return {key: row for (where, key), row in keys(forebay, "big").items() if where == db}



def about(*counts):
    """These, of which the next fading, every five seconds, may have taken a twentieth."""
    return pytest.approx(list(counts) if len(counts) > 1 else counts[0], rel=0.12)


def test_the_columns_are_these_in_every_form(forebay):
    client(forebay).set("k", "v" * 5000)
    for view, expected in (("COMMANDS", COMMANDS), ("KEYS", KEYS)):
        for statement in (f"SHOW {view}", f"SELECT * FROM {view.lower()}"):
            with forebay.console() as console:
                cursor = console.execute(statement)
                assert [column.name for column in cursor.description] == expected
                assert cursor.fetchall()
        row = forebay.http(f"/api/v1/{view.lower()}").json[0]
        assert list(row) == sorted(expected) or list(row) == expected
        assert any(row["command"] == f"SHOW {view}" for row in forebay.admin("SHOW HELP"))


def test_commands_are_counted_with_time_bytes_and_errors(forebay):
    talk = client(forebay)
    for number in range(40):
        talk.set(f"k{number}", "v" * 100)
    for number in range(60):
        talk.get(f"k{number % 40}")
    for _ in range(5):
        with pytest.raises(redis.ResponseError):
            talk.execute_command("INCR", "k0")
    talk.lpush("list", 1)
    with pytest.raises(redis.ResponseError):
        talk.get("list")
    talk.config_get("maxmemory")
    talk.client_id()
    talk.ping()
    found = commands(forebay)
    sets, gets, incrs = found["SET"], found["GET"], found["INCR"]
    assert (sets["calls"], sets["primary"], sets["errors"]) == (40, 40, 0)
    assert (gets["calls"], gets["errors"], incrs["calls"], incrs["errors"]) == (61, 1, 5, 5)
    assert sets["service"] == "cache"
    assert 0 < sets["mean_ms"] < 1000 and 0 < sets["p50_ms"] <= sets["p99_ms"]
    assert sets["total_ms"] == pytest.approx(sets["mean_ms"] * 40, rel=0.05)
    # As sent: *3 SET, the key, and 100 bytes; the answer is +OK.
    assert sets["timed"] == 40 and sets["bytes_out"] == 40 * 5
    assert sets["bytes_in"] == sum(len(command("SET", f"k{n}", "v" * 100)) for n in range(40))
    assert gets["bytes_out"] == 60 * (100 + 8) + len(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
    assert found["CONFIG|GET"]["primary"] == 1
    assert found["CLIENT|ID"]["forebay"] == 1 and found["CLIENT|ID"]["primary"] == 0
    assert found["PING"]["forebay"] == 1
    assert list(found)[0] in ("GET", "DBSIZE"), "most often called first"


def test_what_is_no_command_is_one_bucket(forebay):
    talk = client(forebay)
    for number in range(30):
        with pytest.raises(redis.ResponseError):
            talk.execute_command(f"NOSUCH{number}", "x")
    found = commands(forebay)
    assert found["other"]["calls"] == 30 and found["other"]["errors"] == 30
    assert not [name for name in found if name.startswith("NOSUCH")]


def test_a_hot_key_is_found_among_many(forebay):
    talk = client(forebay)
    chance = random.Random(7)
    # 60,000 commands in pipelines: more than are looked at one by one.
    for _ in range(60):
        pipe = talk.pipeline(transaction=False)
        for _ in range(1000):
            pipe.get("hot:one") if chance.random() < 0.1 else pipe.get(f"cold:{chance.randrange(50_000)}")
        pipe.execute()
    found = hot(forebay)
    first = next(iter(found.values()))
    assert first["key"] == "hot:one", list(found)[:5]
    # Of a sample: chance has its say.
    assert 4 < first["share_percent"] < 18, first
    assert first["reads"] == first["accesses"] and first["writes"] == 0
    assert first["error"] < first["accesses"], first
    # What is sure of the others: an estimate of a rare key may be several times what it had.
    others = [row["accesses"] - row["error"] for key, row in found.items() if key != "hot:one"]
    assert max(others, default=0) < first["accesses"] / 3
    assert commands(forebay)["GET"]["calls"] == 60_000, "all are counted, whatever is looked at"


def test_reads_and_writes_and_databases_are_told_apart(forebay):
    talk, other = client(forebay), client(forebay, db=3)
    for _ in range(10):
        talk.execute_command("INCR", "n")
        talk.get("n")
        talk.get("n")
        other.get("n")
    row = hot(forebay)["n"]
    assert [row["accesses"], row["reads"], row["writes"], row["error"]] == about(30, 20, 10, 0)
    assert hot(forebay, 3)["n"]["accesses"] == about(10)
    assert hot(forebay)["n"]["share_percent"] == pytest.approx(75, abs=0.1)


def test_commands_of_several_keys_count_for_each(forebay):
    talk = client(forebay)
    talk.mset({"a": 1, "b": 2})
    talk.mget("a", "b", "c")
    talk.eval("return redis.call('get', KEYS[1])", 1, "a", "no key")
    talk.rename("b", "d")
    talk.zadd("z", {"m": 1})
    talk.zunionstore("target", ["z"])
    talk.xadd("s", {"f": "v"})
    talk.xread({"s": "0"})
    found = {key: row["accesses"] for key, row in hot(forebay).items()}
    assert found == {"a": 3, "b": 3, "c": 1, "d": 1, "z": 2, "target": 1, "s": 2}


def test_large_values_are_found_in_set_and_in_get(forebay, lonely):
    lonely.nodes[0].client().set("read", "v" * 200_000)
    lonely.nodes[0].client().set("huge", "v" * 3_000_000)
    lonely.nodes[0].client().rpush("list", *["v" * 100] * 300)
    talk = client(forebay)
    talk.set("written", "v" * 20_000)
    talk.set("streamed", "v" * 5_000_000)
    talk.set("small", "v" * 1000)
    pipe = talk.pipeline(transaction=False)
    for _ in range(20):
        pipe.get("small")
    pipe.get("read")
    for _ in range(20):
        pipe.get("small")
    pipe.execute()
    talk.get("huge")
    talk.lrange("list", 0, -1)
    talk.mset({"pair": "v" * 30_000, "other": "v"})
    found = big(forebay)
    told = {key: (row["command"], row["bytes"]) for key, row in found.items()}
    assert set(told) == {"read", "huge", "written", "streamed", "list", "pair"}, told
    assert told["read"] == ("GET", 200_000 + len("$200000\r\n\r\n"))
    assert told["huge"] == ("GET", 3_000_000 + len("$3000000\r\n\r\n"))
    assert told["written"] == ("SET", len(command("SET", "written", "v" * 20_000)))
    assert told["streamed"][0] == "SET" and 5_000_000 <= told["streamed"][1] < 5_000_200
    assert told["list"][0] == "LRANGE" and told["list"][1] > 30_000
    assert told["pair"] == ("MSET", 30_000)
    assert [row["key"] for row in found.values()][:2] == ["streamed", "huge"], "the largest first"
    assert all(row["seen"] and row["accesses"] is None for row in found.values())


def test_a_reader_of_much_is_counted_on_its_own_connection(forebay):
    talk = client(forebay)
    talk.set("large", "v" * 2_000_000)
    for _ in range(10):
        talk.get("large")
    row = commands(forebay)["GET"]
    assert row["calls"] == 10 and row["own"] >= 5, row
    assert big(forebay)["large"]["bytes"] >= 2_000_000


def test_transactions_count_their_commands_and_errors(forebay):
    talk = client(forebay)
    for _ in range(4):
        pipe = talk.pipeline(transaction=True)
        pipe.set("t", "x").execute_command("INCR", "t")
        pipe.get("t")
        with pytest.raises(redis.ResponseError):
            pipe.execute()
    pipe = talk.pipeline(transaction=True)
    pipe.watch("t")
    pipe.multi()
    pipe.set("t", 1)
    pipe.execute()
    found = commands(forebay)
    counted = {name: (found[name]["calls"], found[name]["errors"]) for name in ("SET", "INCR", "GET", "EXEC", "MULTI", "WATCH")}
    assert counted == {"SET": (5, 0), "INCR": (4, 4), "GET": (4, 0), "EXEC": (5, 0), "MULTI": (5, 0), "WATCH": (1, 0)}
    assert found["EXEC"]["own"] == 1 and found["EXEC"]["primary"] == 4 and found["EXEC"]["mean_ms"] > 0
    assert hot(forebay)["t"]["accesses"] == about(14)


def test_own_connections_are_timed_with_their_wait(forebay):
    talk, other = client(forebay), client(forebay)
    threading.Timer(0.3, lambda: other.lpush("queue", "x")).start()
    assert talk.blpop("queue", timeout=5)
    with pytest.raises(redis.ResponseError):
        talk.set("text", "x")
        talk.blpop("text", timeout=1)
    row = commands(forebay)["BLPOP"]
    assert (row["own"], row["errors"]) == (2, 1) and row["total_ms"] > 200, row
    assert hot(forebay)["queue"]["accesses"] == 2


def test_any_bytes_are_shown_safely(forebay):
    talk = client(forebay)
    shown = {
        b"plain:1": "plain:1",
        b"with \"quotes\" and 'these'; DROP TABLE x --": "with \"quotes\" and 'these'; DROP TABLE x --",
        b"two\r\nlines\ttab": "two\\r\\nlines\\ttab",
        b"\x00\xff\x80": "\\0\\xff\\x80",
        b"\x1b[2Jterminal": "\\u{1b}[2Jterminal",
        "имя \u202e".encode(): "имя \\u{202e}",
        b"": "",
        b"back\\slash": "back\\\\slash",
        b"k" * 5000: "k" * 128 + "...",
    }
    for key in shown:
        talk.set(key, "v")
    found = hot(forebay)
    assert set(found) == set(shown.values())
    assert found["k" * 128 + "..."]["key_bytes"] == 5000
    by_http = {row["key"] for row in forebay.http("/api/v1/keys").json}
    assert by_http == set(shown.values())


def test_long_keys_that_begin_alike_are_two(forebay):
    talk = client(forebay)
    for _ in range(3):
        talk.get("k" * 500 + "a")
    talk.get("k" * 500 + "b")
    rows = [row for row in forebay.admin("SHOW KEYS") if row["kind"] == "hot"]
    assert [(row["key"], row["accesses"]) for row in rows] == [("k" * 128 + "...", 3), ("k" * 128 + "...", 1)]


def test_memory_is_bounded_by_whatever_keys(forebay):
    talk = client(forebay)

    def come(first, last):
        for start in range(first, last, 500):
            pipe = talk.pipeline(transaction=False)
            for number in range(start, start + 500):
                pipe.set(f"{number}:" + "k" * 200, "v" * (8000 if number % 50 == 0 else 10), ex=5)
            pipe.execute()

    come(0, 20_000)
    before = forebay.rss_kib()
    come(20_000, 100_000)
    grown = forebay.rss_kib() - before
    print(f"80,000 more keys take {grown} KiB")
    assert grown < 1024, f"{grown} KiB"
    rows = forebay.admin("SHOW KEYS")
    assert len([row for row in rows if row["kind"] == "hot"]) <= 100
    assert len([row for row in rows if row["kind"] == "big"]) <= 50


def test_all_threads_are_one(start_forebay, lonely):
    forebay = start_forebay(redis=[lonely.service(by="nodes")], config={"general": {"threads": 2}})
    client(forebay)
    each = 50

    def work():
        with forebay.redis().wire() as wire:
            for _ in range(each):
                assert wire.value("SET", "shared", "v" * 5000) == b"OK"

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert commands(forebay)["SET"]["calls"] == 8 * each
    assert hot(forebay)["shared"]["accesses"] == about(8 * each)
    assert len(big(forebay)) == 1


def test_reads_of_replicas_are_told(start_forebay, new_redis):
    group = new_redis(replicas=1, sentinels=0)
    forebay = start_forebay(redis=[group.service(by="nodes", reads="replica")], config={"general": {"threads": 1}})
    talk = client(forebay)
    talk.set("k", "v")
    group.caught_up()

    def replica_reads():
        try:
            talk.get("k")
        except redis.RedisError:
            pass
        return commands(forebay)["GET"]["replica"] > 3
    wait_until(replica_reads, 20, "reads on the replica")
    assert commands(forebay)["SET"]["primary"] == 1 and commands(forebay)["SET"]["replica"] == 0


def test_keys_are_not_kept_when_that_is_off(start_forebay, lonely):
    service = lonely.service(by="nodes", count_keys=False)
    forebay = start_forebay(redis=[service], config={"general": {"threads": 1}})

    def turn(is_on):
        forebay.change_redis(count_keys=is_on)
        forebay.admin("RELOAD")

    talk = client(forebay)
    talk.set("S3cret", "v" * 100_000)
    talk.get("S3cret")
    assert forebay.admin("SHOW KEYS") == []
    assert commands(forebay)["SET"]["calls"] == 1 and commands(forebay)["SET"]["timed"] == 1
    turn(True)
    talk.get("S3cret")
    assert "S3cret" in hot(forebay) and "S3cret" in big(forebay)
    turn(False)
    talk.get("S3cret")
    assert forebay.admin("SHOW KEYS") == []
    assert "S3cret" not in forebay.log()


def test_a_viewer_may_look_as_at_statements(forebay):
    client(forebay).set("k", "v")
    for view in ("QUERIES", "COMMANDS", "KEYS"):
        assert forebay.admin(f"SHOW {view}", user="viewer") == forebay.admin(f"SHOW {view}")


def test_a_key_that_nobody_uses_any_more_fades(forebay):
    talk = client(forebay)
    for _ in range(400):
        talk.get("was hot")
    # It fades meanwhile, if the machine is slow.
    assert 360 < hot(forebay)["was hot"]["accesses"] <= 400
    for _ in range(100):
        talk.get("is hot")
    # By half in a minute: by a tenth in ten seconds.
    wait_until(lambda: hot(forebay)["was hot"]["accesses"] < 360, 20, "the old one to fade")
    for _ in range(400):
        talk.get("is hot")
    assert list(hot(forebay))[0] == "is hot"


def test_no_call_is_lost_when_the_server_tells_its_commands(forebay):
    """At the beginning the built-in table serves, until the server has told its own."""
    talk = client(forebay)
    for _ in range(200):
        talk.get("k")
    assert commands(forebay)["GET"]["calls"] == 200
