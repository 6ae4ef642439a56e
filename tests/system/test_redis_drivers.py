"""redis-py, redis-cli and redis-benchmark do what people do with them, directly and through Forebay."""

import asyncio
import subprocess

import pytest
import redis
import redis.asyncio

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


@PROTOCOLS
def test_a_pool_of_connections_with_names_and_databases(redis_target, name, protocol):
    with redis_target.client(protocol=protocol, db=4, client_name="worker", decode_responses=True) as client:
        assert client.set(name, "v", ex=100) and client.get(name) == "v" and 0 < client.ttl(name) <= 100
        assert client.client_getname() == "worker" and client.dbsize() >= 1
        assert client.hset(name + ":h", mapping={"a": 1, "b": 2}) == 2
        assert client.hgetall(name + ":h") == {"a": "1", "b": "2"}
        assert client.zadd(name + ":z", {"m": 1.5}) == 1 and client.zscore(name + ":z", "m") == 1.5
    with redis_target.client(protocol=protocol) as client:
        assert client.get(name) is None


@PROTOCOLS
@pytest.mark.parametrize("transaction", [True, False])
def test_pipelines_of_the_driver(redis_target, name, protocol, transaction):
    with redis_target.client(protocol=protocol) as client, client.pipeline(transaction=transaction) as pipe:
        for number in range(100):
            pipe.incr(name).set(f"{name}:{number}", number).lpush(name, "wrong type")
        replies = pipe.execute(raise_on_error=False)
        assert replies[::3] == list(range(1, 101)) and replies[1::3] == [True] * 100
        assert all(isinstance(reply, redis.ResponseError) for reply in replies[2::3])


@PROTOCOLS
def test_optimistic_locking_of_the_driver(redis_target, name, protocol):
    with redis_target.client(protocol=protocol) as client:
        client.set(name, 5)

        def double(pipe):
            value = int(pipe.get(name))
            if value == 5:
                client.set(name, 6)  # somebody else is faster, once
            pipe.multi()
            pipe.set(name, value * 2)
        assert client.transaction(double, name) == [True]
        assert client.get(name) == b"12"


@PROTOCOLS
def test_locks_scripts_and_queues_of_the_driver(redis_target, name, protocol):
    with redis_target.client(protocol=protocol) as client:
        with client.lock(name + ":lock", timeout=10):
            assert not client.lock(name + ":lock", timeout=10).acquire(blocking=False)
        script = client.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
        assert [script(keys=[name], args=[2]) for _ in range(3)] == [2, 4, 6]
        client.rpush(name + ":queue", "job")
        assert list(client.blpop(name + ":queue", timeout=1)) == [name.encode() + b":queue", b"job"]
        assert client.blpop(name + ":queue", timeout=0.05) is None
        assert {key for key in client.scan_iter(match=name + "*")} == {name.encode()}


@PROTOCOLS
def test_streams_of_the_driver(redis_target, name, protocol):
    with redis_target.client(protocol=protocol) as client:
        client.xgroup_create(name, "g", id="0", mkstream=True)
        ids = [client.xadd(name, {"n": number}) for number in range(5)]
        assert client.xreadgroup("g", "me", {name: ">"}, count=5, block=1000)
        assert client.xack(name, "g", *ids) == 5 and client.xlen(name) == 5


@PROTOCOLS
def test_the_driver_in_asyncio(redis_target, name, protocol):
    async def work():
        async with redis.asyncio.Redis(host="127.0.0.1", port=redis_target.port, protocol=protocol) as client:
            replies = await asyncio.gather(*(client.incr(name) for _ in range(80)))
            assert sorted(replies) == list(range(1, 81))
            async with client.pubsub() as listener:
                await listener.subscribe(name)
                assert (await listener.get_message(timeout=5))["type"] == "subscribe"
                assert await client.publish(name, "hello") == 1
                assert (await listener.get_message(timeout=5))["data"] == b"hello"
    asyncio.run(work())


def test_redis_cli_runs_what_is_piped_into_it(redis_target, name):
    done = subprocess.run(
        ["redis-cli", "-p", str(redis_target.port)],
        input=f"SET {name} v\nGET {name}\nMULTI\nINCR {name}:n\nEXEC\nNOSUCH\n", capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n")[:5] == ["OK", "v", "OK", "QUEUED", "1"] and "unknown command" in done.stdout


def test_redis_cli_loads_a_stream_of_commands(redis_target, name):
    lines = "".join(f"RPUSH {name} {number}\r\n" for number in range(5000))
    done = subprocess.run(
        ["redis-cli", "-p", str(redis_target.port), "--pipe"], input=lines, capture_output=True, text=True, timeout=60,
        check=True)
    assert "errors: 0, replies: 5000" in done.stdout
    assert redis_target.wire().ask("LLEN", name) == 5000


@pytest.mark.parametrize("depth", [1, 16])
def test_redis_benchmark_runs_without_an_error(redis_target, depth):
    done = subprocess.run(
        ["redis-benchmark", "-p", str(redis_target.port), "-c", "50", "-n", "5000", "-P", str(depth), "-q",
         "-t", "ping,set,get,incr,lpush,lpop,sadd,hset,mset,lrange_100"],
        capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.count("requests per second") >= 10, done.stdout + done.stderr
