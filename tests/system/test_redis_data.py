"""Commands of every family, in both versions of the protocol, alone and in long pipelines, go as with Redis itself."""

import random

import pytest

from harness.redis_talk import by, pipeline, then

FAMILIES = {
    "strings": [
        "SET k v", "GET k", "GETRANGE k 0 0", "SETRANGE k 3 x", "APPEND k y", "STRLEN k", "GETSET k w", "GETDEL k",
        "SETNX k 1", "SETNX k 2", "SET k 3 GET", "SET k 4 NX", "SET k 5 XX", "MSET a 1 b 2", "MGET a b c",
        "MSETNX a 1 z 2", "INCRBYFLOAT a 1.5", "DECRBY b 5", "LCS a b", "GETEX a PERSIST"],
    "bits": [
        "SETBIT k 7 1", "GETBIT k 7", "BITCOUNT k", "BITPOS k 1", "BITFIELD k SET u8 0 200 GET u8 0",
        "BITFIELD_RO k GET u4 0", "BITOP NOT d k", "GET d"],
    "lists": [
        "RPUSH l a b c", "LPUSH l z", "LRANGE l 0 -1", "LINDEX l 1", "LSET l 0 y", "LINSERT l BEFORE b x",
        "LREM l 1 c", "LTRIM l 0 2", "LPOP l", "RPOP l 2", "LMOVE l m LEFT RIGHT", "LPOS l b", "LMPOP 1 m LEFT",
        "LLEN l"],
    "hashes": [
        "HSET h a 1 b 2", "HGET h a", "HGETALL h", "HMGET h a c", "HKEYS h", "HVALS h", "HINCRBY h a 5",
        "HINCRBYFLOAT h b 0.5", "HDEL h a", "HEXISTS h b", "HLEN h", "HSTRLEN h b", "HRANDFIELD h 1 WITHVALUES",
        "HSETNX h b 3"],
    "sets": [
        "SADD s 1 2 3", "SMEMBERS s", "SISMEMBER s 2", "SMISMEMBER s 2 5", "SADD t 2 3 4", "SINTER s t", "SDIFF s t",
        "SINTERCARD 2 s t", "SMOVE s t 1", "SREM t 4", "SCARD t", "SUNIONSTORE u s t", "SPOP nosuch",
        "SRANDMEMBER nosuch 3"],
    "sorted sets": [
        "ZADD z 1 a 2.5 b 3 c", "ZSCORE z b", "ZMSCORE z a no", "ZRANGE z 0 -1 WITHSCORES", "ZRANGEBYSCORE z 1 (3",
        "ZRANK z c", "ZINCRBY z 1.25 a", "ZADD z GT CH 9 a", "ZPOPMAX z", "ZPOPMIN z 2", "ZCARD z",
        "ZADD x inf a -inf b", "ZRANGE x 0 -1 WITHSCORES", "ZADD z INCR 1 q", "ZUNION 2 z x WITHSCORES",
        "ZRANDMEMBER nosuch 2 WITHSCORES"],
    "streams": [
        "XADD s 1-1 a b", "XADD s 1-2 c d e f", "XRANGE s - +", "XREVRANGE s + - COUNT 1", "XLEN s",
        "XREAD COUNT 1 STREAMS s 0", "XGROUP CREATE s g 0", "XREADGROUP GROUP g me COUNT 1 STREAMS s >",
        "XPENDING s g", "XACK s g 1-1", "XINFO STREAM s", "XINFO GROUPS s", "XDEL s 1-1", "XTRIM s MAXLEN 0",
        "XADD s 1-1 a b", "XREADGROUP GROUP no me STREAMS s >"],
    "geography": [
        "GEOADD g 13.36 38.11 a 15.08 37.50 b", "GEODIST g a b km", "GEOPOS g a no",
        "GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST", "GEOHASH g a"],
    "counts of distinct things": [
        "PFADD p a b c", "PFADD p a", "PFCOUNT p", "PFADD q d", "PFCOUNT p q", "PFMERGE r p q", "PFCOUNT r"],
    "keys": [
        "SET k v EX 100", "TTL k", "PERSIST k", "TTL k", "TTL no", "EXISTS k no k", "TYPE k", "TYPE no", "RENAME k m",
        "RENAME no x", "RENAMENX m k", "TOUCH k no", "UNLINK k no", "COPY no x", "EXPIRE no 1", "OBJECT ENCODING no",
        "OBJECT REFCOUNT no", "RANDOMKEY", "DBSIZE", "KEYS *"],
    "expiry": [
        "SET k v PX 300", "PTTL no", by("b", "BLPOP no 0.5"), "GET k", "SET k v EXAT 99999999999", "EXPIRETIME k",
        "EXPIREAT k 1", "GET k", "SET k v EX 0", "SET k v EX x"],
    "sorting": [
        "RPUSH l 3 1 2", "MSET w1 3 w2 2 w3 1", "SORT l", "SORT l DESC LIMIT 0 2", "SORT l BY w* GET # GET w*",
        "SORT_RO l ALPHA", "SORT l STORE d", "SORT no"],
    "dumps": ["SET k v", "RESTORE no 0 x", "DUMP no"],
    "wrong types": [
        "SET k v", "LPUSH k x", "HGET k f", "SADD k m", "ZADD k 1 m", "XADD k * f v", "INCR k", "GETBIT k x",
        "LRANGE k a b", "PFADD k x"],
    "the table of commands": [
        "COMMAND INFO GET set nosuch", "COMMAND GETKEYS MSET a 1 b 2", "COMMAND GETKEYS EVAL x 2 a b", "COMMAND COUNT"],
    "memory and encoding": [
        "SET k v", "OBJECT ENCODING k", "RPUSH l 1 2", "OBJECT ENCODING l", "OBJECT REFCOUNT l", "OBJECT HELP",
        "MEMORY USAGE no"],
}

LIBRARY = """#!lua name=lib
redis.register_function('f', function(k, a) return redis.call('incrby', k[1], a[1]) end)"""

SCRIPTS = {
    "values of every kind": [
        ("EVAL", f"return {value}", 0) for value in (
            "1", "'x'", "{1,2,{3,'four'}}", "nil", "true", "false", "3.99", "{}", "{ok='fine'}", "{err='ERR no'}")],
    "values of the third protocol": [
        ("EVAL", f"redis.setresp(3); return {value}", 0) for value in (
            "{double=3.5}", "{map={a=1}}", "{set={a=true}}", "true", "false", "nil",
            "{big_number='12345678901234567890'}", "{verbatim_string={string='hi',format='txt'}}")],
    "keys and arguments": [("EVAL", "return {KEYS[1], KEYS[2], ARGV[1], #ARGV}", 2, "a", "b", "c", b"\0\r\n")],
    "commands in a script": [
        ("EVAL", "redis.call('set', KEYS[1], ARGV[1]) return redis.call('incr', KEYS[1])", 1, "k", 41), "GET k",
        ("EVAL", "return redis.call('hgetall', KEYS[1])", 1, "no"), ("EVAL", "return redis.pcall('incr')", 0)],
    "errors": [
        ("EVAL", "return nosuch", 0), ("EVAL", "this is no lua", 0), ("EVAL", "return redis.call('nosuch')", 0),
        ("EVAL", "return redis.call('lpush', KEYS[1], 1)", 1, "k"), ("EVAL", "error('mine')", 0),
        ("EVAL", "return 1", "x"), ("EVAL", "return 1", 5), ("EVAL", "return 1", -1), "SET k v",
        ("EVAL", "redis.call('set', 'k', 'w') return redis.call('lpush', 'k', 1)", 1, "k"), "GET k"],
    "by digest": [
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0", ("SCRIPT", "LOAD", "return ARGV[1]"),
        "EVALSHA 098e0f0d1448c0a81dafe820f66d460eb09263da 0 hello",
        "SCRIPT EXISTS 098e0f0d1448c0a81dafe820f66d460eb09263da ffffffffffffffffffffffffffffffffffffffff",
        "EVALSHA short 0"],
    "known after EVAL": [
        ("EVAL", "return 'known'", 0), "EVALSHA 7b0b00926452febb629166835c95133343f15b42 0",
        "SCRIPT EXISTS 7b0b00926452febb629166835c95133343f15b42"],
    "flushed": [
        ("SCRIPT", "LOAD", "return ARGV[1]"), "SCRIPT FLUSH", "EVALSHA 098e0f0d1448c0a81dafe820f66d460eb09263da 0 x",
        "SCRIPT KILL", "SCRIPT FLUSH NOSUCH"],
    "scripts that only read": [
        "SET k 1", ("EVAL_RO", "return redis.call('get', KEYS[1])", 1, "k"),
        ("EVAL_RO", "return redis.call('incr', KEYS[1])", 1, "k"), "GET k",
        "EVALSHA_RO ffffffffffffffffffffffffffffffffffffffff 0"],
    "functions": [
        ("FUNCTION", "LOAD", LIBRARY),
        "FCALL f 1 k 5", "FCALL nosuch 0", "FCALL f 1 k x", "FCALL_RO f 1 k 1", "FUNCTION DELETE lib", "FCALL f 1 k 5",
        ("FUNCTION", "LOAD", "nonsense"), "FUNCTION LIST"],
    "databases in a script stay there": [
        ("EVAL", "redis.call('select', 3) return redis.call('set', KEYS[1], 1)", 1, "k"), "GET k", "SELECT 3", "GET k"],
    "messages from a script": [
        by("b", "SUBSCRIBE t1"), ("EVAL", "return redis.call('publish', 't1', 'x')", 0),
        by("b", then(lambda wire: wire.reply().raw))],
}


def scan(*first, count=50):
    """Follows a cursor until it is 0 and notes all that was found. The order may change while a table grows."""
    def whole_scan(wire):
        found, cursor = set(), b"0"
        while True:
            cursor, values = wire.ask(*first, cursor, "COUNT", count)
            found.update(zip(values[::2], values[1::2], strict=True) if first[0] in ("HSCAN", "ZSCAN") else values)
            if cursor == b"0":
                return sorted(found)
    return then(whole_scan)


def in_any_order_of_keys(request):
    """One SCAN reply with its keys sorted."""
    def one_scan(wire):
        cursor, keys = wire.ask(*request.split())
        return cursor, sorted(keys)
    return then(one_scan)


SCANS = {
    "keys": [pipeline(*(f"SET key{n} {n}" for n in range(500))), scan("SCAN")],
    "keys of another database": [
        pipeline("SELECT 2", *(f"SET key{n} {n}" for n in range(300))), scan("SCAN"), "SELECT 0", scan("SCAN")],
    "fields, members and scores": [
        ("HSET", "h", *range(2000)), ("SADD", "s", *(f"m{n}" for n in range(1000))),
        ("ZADD", "z", *(word for n in range(1000) for word in (n, f"m{n}"))),
        scan("HSCAN", "h"), scan("SSCAN", "s"), scan("ZSCAN", "z")],
    "a pattern and a type": [
        pipeline(*(f"SET key{n} {n}" for n in range(100))), "RPUSH list 1", in_any_order_of_keys("SCAN 0 MATCH key1* COUNT 1000"),
        "SCAN 0 TYPE list COUNT 1000", "SCAN 0 TYPE nosuch COUNT 1000"],
    "a wrong cursor": ["SCAN x", "SCAN 0 COUNT 0", "SCAN 0 NOSUCH", "SCAN", "HSCAN no 0"],
}


@pytest.mark.parametrize("talk", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_of_commands_goes_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_pipeline_of_them_keeps_its_order(talk, held):
    """The same commands in one write: reads, writes and slow ones may take different ways, their replies may not."""
    held([pipeline(*(step for step in talk if isinstance(step, (str, tuple))))])


@pytest.mark.parametrize("talk", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_scripts_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", SCANS.values(), ids=SCANS.keys())
def test_scans_go_as_with_redis(talk, held):
    held(talk)


# Each has one reply, whose value follows from those before it.
MIXED = [
    "SET k{n} {i}", "GET k{n}", "INCR c{n}", "RPUSH l{n} {i}", "LRANGE l{n} 0 -1", "LPOP l{n}", "HSET h{n} f{i} {i}",
    "HGETALL h{n}", "SADD s{n} {i}",
    "SMEMBERS s{n}", "ZADD z{n} {i}.5 m{i}", "ZRANGE z{n} 0 -1 WITHSCORES", "NOSUCH {i}", "INCR l{n}", "PING {i}",
    "ECHO {i}", "SELECT {n}", "DBSIZE",
    "CLIENT SETNAME n{i}", "CLIENT GETNAME", "EXISTS k{n}", "DEL k{n}", "MULTI", "EXEC", "DISCARD", "WATCH k{n}",
    "UNWATCH", "BLPOP l{n} 0.001", "KEYS k{n}*",
    "APPEND k{n} x", "STRLEN k{n}", "TTL k{n}", "GET", "PUBLISH t{n} {i}", "OBJECT ENCODING k{n}", "LLEN l{n}",
    "MGET k{n} k1 k2", "EVAL return{{{n},{i}}} 0",
    "SETRANGE b{n} 20000 {i}", "GET b{n}",
]


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_mixed_commands_in_one_pipeline_have_the_replies_of_redis(held, seed):
    chance = random.Random(seed)
    held([pipeline(*(chance.choice(MIXED).format(n=chance.randrange(4), i=i) for i in range(3000)))])
