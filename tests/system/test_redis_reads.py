"""Where reads run, and that a client never sees less than it wrote, whatever way its commands take."""

import random

import pytest

from harness import redis_model, wait_until
from harness.redis_wire import command

# Redis itself comes first: what is expected holds for it too.
WAYS = ["direct", "primary", "replica", "prefer_replica", "nearest"]


def gets_run(node):
    """How many GET commands a node has run."""
    found = node.info("commandstats").get("cmdstat_get", "calls=0")
    return int(found.split("calls=")[1].split(",")[0])


def counted(group, work):
    """How many GETs each node ran while `work` was done."""
    before = [gets_run(node) for node in group.nodes]
    work()
    return [gets_run(node) - count for node, count in zip(group.nodes, before, strict=True)]


@pytest.fixture
def reading(shared_redis, start_forebay):
    """Forebay in front of the shared group with `reads` of the given kind, or the primary itself."""
    def start(reads, **keys):
        if reads == "direct":
            return shared_redis.nodes[0]
        return start_forebay(redis=[shared_redis.service(reads=reads, **keys)]).redis()
    return start


def test_by_default_all_reads_run_on_the_primary(redis_forebay, shared_redis, name):
    wire = redis_forebay.redis().wire()
    ran = counted(shared_redis, lambda: wire.pipeline(*[("GET", name)] * 50))
    assert ran == [50, 0, 0]


@pytest.mark.parametrize("reads", ["replica", "prefer_replica"])
def test_reads_of_a_client_that_does_not_write_run_on_replicas(reading, shared_redis, name, reads):
    endpoint = reading(reads)
    wires = [endpoint.wire() for _ in range(10)]
    ran = counted(shared_redis, lambda: [wire.ask("GET", name) for wire in wires for _ in range(20)])
    assert ran[0] == 0 and sum(ran) == 200 and min(ran[1:]) > 0, f"GETs on primary and replicas: {ran}"


@pytest.mark.parametrize("reads", WAYS)
def test_writes_and_all_that_may_write_run_on_the_primary(reading, name, reads):
    wire = reading(reads).wire()
    assert wire.pipeline(
        ("SET", name, 1), ("INCR", name), ("EVAL", "return redis.call('incr', KEYS[1])", 1, name),
        ("GETEX", name, "PERSIST"),
        ("RPUSH", name + ":l", "b", "a"), ("SORT", name + ":l", "ALPHA", "STORE", name + ":s"),
        ("BLPOP", name + ":l", 1), ("PFADD", name + ":p", "x"), ("PFCOUNT", name + ":p"),
        ("PUBLISH", name, "x"), ("MULTI",), ("GET", name), ("INCR", name), ("EXEC",),
    ) == [b"OK", 2, 3, b"3", 2, 2, [name.encode() + b":l", b"b"], 1, 1, 0, b"OK", b"QUEUED", b"QUEUED", [b"3", 4]]


@pytest.mark.parametrize("reads", WAYS)
def test_a_client_reads_what_it_just_wrote(reading, name, reads):
    endpoint = reading(reads)
    wires = [endpoint.wire() for _ in range(5)]
    for number in range(200):
        for which, wire in enumerate(wires):
            assert wire.ask("SET", f"{name}{which}", number) == b"OK"
        for which, wire in enumerate(wires):
            assert wire.ask("GET", f"{name}{which}") == b"%d" % number


@pytest.mark.parametrize("reads", WAYS)
def test_reads_and_writes_of_one_pipeline_keep_their_order(reading, name, reads):
    wire = reading(reads).wire()
    wire.ask("SET", name, "before")
    expected, commands = [], []
    value = b"before"
    for number in range(400):
        if number % 3 == 1:
            value = b"%d" % number
            commands.append(("SET", name, value))
            expected.append(b"OK")
        else:
            commands.append(("GET", name))
            expected.append(value)
    assert wire.pipeline(*commands) == expected


@pytest.mark.parametrize("reads", WAYS)
def test_a_read_is_never_overtaken_by_a_later_write(reading, name, reads):
    # A read that waits on a replica's connection must not see the write that was sent behind it.
    endpoint = reading(reads)
    for number in range(100):
        key = f"{name}-{number}"
        wire = endpoint.wire()
        assert wire.pipeline(("GET", key), ("SET", key, "later"), ("GET", key)) == [None, b"OK", b"later"]
        wire.close()


@pytest.mark.parametrize("reads", WAYS)
def test_random_pipelines_see_their_own_order(reading, name, reads):
    endpoint = reading(reads)
    for number in range(10):
        chance = random.Random(number)
        model = redis_model.Client(f"{name}:{number}", chance, databases=(0, 3), large=100_000)
        with endpoint.wire() as wire:
            for _ in range(20):
                redis_model.check(wire, *model.pipeline(chance.choice([1, 3, 20, 100])), f"client {number}")


@pytest.mark.parametrize("reads", ["direct", "replica", "nearest"])
def test_a_scan_is_whole_though_reads_run_on_replicas(reading, shared_redis, name, reads):
    shared_redis.primary.run("FLUSHALL")
    wire = reading(reads).wire()
    wire.pipeline(*(("SET", f"{name}-{n}", n) for n in range(700)))
    shared_redis.caught_up()
    for _ in range(5):
        found, cursor = set(), b"0"
        while True:
            cursor, keys = wire.ask("SCAN", cursor, "COUNT", 30)
            found.update(keys)
            if cursor == b"0":
                break
        assert len(found) == 700


# -- a replica that is behind ---------------------------------------------------------------------------------------


def reads_from(endpoint, node, key):
    """A new client's GET runs on `node`."""
    before = gets_run(node)
    with endpoint.wire() as wire:
        wire.ask("GET", key)
    return gets_run(node) > before


def test_a_client_never_reads_its_write_from_a_replica_that_has_not_got_it(behind, start_forebay, name):
    group, relay = behind
    endpoint = start_forebay(redis=[group.service(by="nodes", reads="replica", max_lag="60s")]).redis()
    writer = endpoint.wire()
    assert writer.ask("SET", name, "old") == b"OK"
    wait_until(lambda: reads_from(endpoint, group.nodes[1], name), 10, "reads to run on the replica")
    group.caught_up()
    relay.mode = "silent"
    assert writer.ask("SET", name, "new") == b"OK"
    assert group.nodes[1].run("GET", name) == b"old"
    for _ in range(50):
        assert writer.ask("GET", name) == b"new"
        assert writer.pipeline(("MGET", name, name), ("STRLEN", name)) == [[b"new", b"new"], 3]
    reader = endpoint.wire()
    assert reader.ask("GET", name) in (b"old", b"new"), "others may read what the replica has"


def test_a_replica_beyond_max_lag_takes_no_reads(behind, start_forebay, name):
    group, relay = behind
    endpoint = start_forebay(redis=[group.service(by="nodes", reads="prefer_replica", max_lag="1s")]).redis()
    writer = endpoint.wire()
    assert writer.ask("SET", name, "old") == b"OK"
    wait_until(lambda: reads_from(endpoint, group.nodes[1], name), 10, "reads to run on the replica")
    relay.mode = "silent"
    assert writer.ask("SET", name, "new") == b"OK"

    def everybody_reads_the_new_value():
        with endpoint.wire() as wire:
            return wire.pipeline(*[("GET", name)] * 20) == [b"new"] * 20
    wait_until(everybody_reads_the_new_value, 15, "the late replica to be left out")
    assert not reads_from(endpoint, group.nodes[1], name)


def test_reads_go_to_the_primary_while_no_replica_is_there(new_redis, start_forebay, name):
    group = new_redis(replicas=1, sentinels=0)
    endpoint = start_forebay(redis=[group.service(by="nodes", reads="prefer_replica")]).redis()
    wire = endpoint.wire()
    assert wire.ask("SET", name, "v") == b"OK"
    group.caught_up()
    wait_until(lambda: reads_from(endpoint, group.nodes[1], name), 10, "reads to run on the replica")
    reader = endpoint.wire()
    group.nodes[1].kill()
    assert [reader.ask("GET", name) for _ in range(100)] == [b"v"] * 100, "no read fails because a replica went away"


def test_a_replica_that_stops_answering_does_not_keep_reads(new_redis, start_forebay, name):
    group = new_redis(replicas=2, sentinels=0)
    endpoint = start_forebay(redis=[group.service(by="nodes", reads="prefer_replica")]).redis()
    wires = [endpoint.wire() for _ in range(8)]
    assert wires[0].ask("SET", name, "v") == b"OK"
    group.caught_up()
    wait_until(lambda: reads_from(endpoint, group.nodes[1], name), 10, "reads to run on the replica")
    group.nodes[1].pause()
    for wire in wires:
        wire.send(*[command("GET", name)] * 20)
    assert [wire.replies(20) for wire in wires] == [[b"v"] * 20] * 8
