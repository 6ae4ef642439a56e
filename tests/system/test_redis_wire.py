"""Redis' protocol as bytes: inline commands, bad input, lengths, any cut into segments."""

import hashlib

import pytest

from harness.redis_talk import bytewise, closes, gets, pipeline, quiet, raw, then
from harness.redis_wire import command

INLINE = {
    "a line is a command": [raw(b"PING\r\n", 1), raw(b"SET k v\r\n", 1), raw(b"get k\r\n", 1)],
    "a line may end without a carriage return": [raw(b"PING\n", 1), raw(b"ECHO hi\nECHO ho\n", 2)],
    "empty lines have no reply": [raw(b"\r\n"), raw(b"\n\n\r\n"), raw(b"   \r\n"), raw(b"\t\r\n"), quiet(), "PING"],
    "thousands of empty lines have no reply": [raw(b"\r\n" * 5000), "PING"],
    "spaces and tabs separate words": [raw(b"  SET \t k   v  \r\n", 1), raw(b"GET\tk\r\n", 1)],
    "double quotes know escapes": [
        raw(b'SET k "a b\\x41\\n\\r\\t\\a\\b\\\\\\"\\q"\r\n', 1), "GET k", raw(b'SET "" ""\r\n', 1), ("GET", "")],
    "single quotes know one escape": [raw(b"SET k 'a\\'b\\n \"'\r\n", 1), "GET k"],
    "quotes may stand within a word": [raw(b"SET k a\"b c\"\r\n", 1), "GET k", raw(b"ECHO a'b'\r\n", 1)],
    "quotes that do not end close the connection": [raw(b"PING\r\nSET k \"abc\r\nPING\r\n", 1), closes()],
    "a word after a closing quote closes the connection": [raw(b"SET k 'a'b\r\n"), closes()],
    "a wrong escape is taken as it is": [raw(b'ECHO "\\xZZ\\x4"\r\n', 1)],
    "bytes above 127 are letters": [raw(b"SET \xff\xfe \xc3\xa4\r\n", 1), ("GET", b"\xff\xfe")],
    "lines and arrays may alternate": [
        raw(b"SET k 1\r\n" + command("INCR", "k") + b"\r\nINCR k\n" + command("GET", "k"), 4)],
    "a line that arrives in pieces": [bytewise(b"SET key \"some value\"\r\nGET key\r\n", 2)],
    "a long line within the limit": [raw(b"SET k " + b"x" * 60_000 + b"\r\n", 1), "STRLEN k"],
    # As much as Redis reads before it closes; with more it would reset the connection, and the reply could be lost.
    "a line without an end closes the connection": [raw(b"x" * 65_537), closes()],
    "a browser is sent away at its second line": [raw(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"), closes()],
    "a form of a browser is sent away": [raw(b"POST / HTTP/1.1\r\n"), closes()],
}

BAD_INPUT = {
    "an array without a number": [raw(b"*abc\r\n"), closes()],
    "an array with a number and more": [raw(b"*1x\r\n"), closes()],
    "an array that is too long": [raw(b"*2147483648\r\n"), closes()],
    "an array without elements has no reply": [raw(b"*0\r\n"), raw(b"*-1\r\n"), raw(b"*-5\r\n"), quiet(), "PING"],
    "an array whose length has no end": [raw(b"*" + b"1" * 65_536), closes()],
    "an element that is no string": [raw(b"*1\r\nPING\r\n"), closes()],
    "an element that is a number": [raw(b"*1\r\n:1\r\n"), closes()],
    "an array within an array": [raw(b"*1\r\n*1\r\n$4\r\nPING\r\n"), closes()],
    "a string without a number": [raw(b"*1\r\n$abc\r\n"), closes()],
    "a string of negative length": [raw(b"*1\r\n$-1\r\n"), closes()],
    "a string that is too long": [raw(b"*1\r\n$536870913\r\n"), closes()],
    "a string whose length has no end": [raw(b"*1\r\n$" + b"1" * 65_536), closes()],
    "a string without its line end": [raw(b"*1\r\n$4\r\nPINGxx", 1), "PING"],
    "a number with a sign": [raw(b"*+1\r\n$4\r\nPING\r\n"), closes()],
    "a number with a space": [raw(b"*1\r\n$ 4\r\nPING\r\n"), closes()],
    "a number with a leading zero": [raw(b"*01\r\n$4\r\nPING\r\n"), closes()],
    "an empty number": [raw(b"*\r\n"), closes()],
    "a reply instead of a request": [raw(b"+OK\r\n", 1), raw(b":1\r\n", 1), raw(b"$3\r\nabc\r\n", 2), "PING"],
    "what came before bad input is answered": [
        raw(command("SET", "k", "1") + command("INCR", "k") + b"*1\r\n!\r\n" + command("INCR", "k"), 2), closes()],
    "bad input in a transaction": ["MULTI", "SET k 1", raw(b"*1\r\n!\r\n"), closes()],
    "an empty command name": [raw(b"*1\r\n$0\r\n\r\n", 1), "PING"],
    "a name of zero bytes": [raw(b"*1\r\n$3\r\n\0\0\0\r\n", 1), "PING"],
    "half a request has no reply": [raw(b"*2\r\n$3\r\nGET\r\n$1\r\n"), quiet(), raw(b"k\r\n", 1)],
}

UNKNOWN = {
    "an unknown command": ["NOSUCH", "nosuch a b c", ("NoSuch", "with a space", "x" * 300, "y" * 300)],
    "an unknown command with strange bytes": [(b"no\r\nsuch", b"a\nb", b"\xff\0"), ("x" * 200,), "PING"],
    "an unknown subcommand": ["OBJECT NOSUCH k", "CLIENT NOSUCH", "SCRIPT NOSUCH", "XINFO nosuch k"],
    "a subcommand is missing": ["OBJECT", "CLIENT", "SCRIPT", "XGROUP"],
    "too few arguments": ["GET", "SET k", "MGET", "HSET h f", "OBJECT ENCODING", "EVAL", "SUBSCRIBE", "SELECT", "AUTH"],
    "too many arguments": [
        "GET a b", "INCR k 1", "PING a b", "ECHO a b", "SELECT 1 2", "EXEC a", "MULTI a", "DISCARD a"],
    "letters may be large or small": ["sEt k 1", "Incr k", "oBJeCT eNCODING k", "pInG"],
    "an error of one request is not one of the next": [
        pipeline("SET k v", "INCR k", "LPUSH k x", "GET k", "NOSUCH", "PING")],
}

BINARY = bytes(range(256))

LENGTHS = {
    "keys and values of any bytes": [("SET", BINARY, BINARY[::-1]), ("GET", BINARY), ("EXISTS", BINARY)],
    "empty keys and values": [
        ("SET", "", ""), ("GET", ""), ("STRLEN", ""), ("APPEND", "", "x"), ("HSET", "h", "", ""), "HGETALL h"],
    "values that look like the protocol": [
        ("SET", "k", b"\r\n$5\r\n*3\r\n-ERR\r\n"), "GET k", ("RPUSH", "l", b"\r\n", b"$-1\r\n"), "LRANGE l 0 -1"],
    "values around the sizes of buffers": [
        step for size in (1023, 4095, 4096, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536, 65_537, 262_144, 262_145)
        for step in (("SET", "k", b"v" * size), "GET k")],
    "a value of 1 MiB both ways": [("SET", "k", b"ab" * (1 << 19)), "GET k", "STRLEN k"],
    "many values of 1 MiB in one pipeline": [
        pipeline(*(("SET", f"k{n}", bytes([65 + n]) * (1 << 20)) for n in range(8)), *(f"GET k{n}" for n in range(8)))],
    "a large value between small ones": [
        pipeline("SET a 1", ("SET", "b", b"x" * 700_000), "INCR a", "STRLEN b", "GET b", "INCR a", "GET a")],
    "ten thousand arguments": [("RPUSH", "l", *range(10_000)), "LLEN l", "LRANGE l 0 -1"],
    "a hundred thousand arguments": [("SADD", "s", *range(100_000)), "SCARD s", "SRANDMEMBER nosuch 10"],
    "replies within replies": [("EVAL", "local t = {1} for i = 1, 30 do t = {t} end return t", 0), "PING"],
    "a long error": [("EVAL", "return redis.error_reply('ERR ' .. string.rep('x', 5000))", 0), "PING"],
    "a long simple string": [("EVAL", "return redis.status_reply(string.rep('x', 100000))", 0), "PING"],
    "empty replies of every kind": [
        "LRANGE no 0 -1", "HGETALL no", "SMEMBERS no", "GET no", "MGET no no", "ZRANGE no 0 -1"],
    "requests cut into single bytes": [
        bytewise(command("SET", "k", b"a\r\nb") + command("GET", "k") + b"PING\r\n" + command("NOSUCH", "x"), 4)],
}


@pytest.mark.parametrize("talk", INLINE.values(), ids=INLINE.keys())
def test_inline_commands_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_gets_the_answer_of_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_unknown_commands_and_wrong_arity_get_the_errors_of_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", LENGTHS.values(), ids=LENGTHS.keys())
def test_any_bytes_of_any_length_pass_as_with_redis(talk, held):
    held(talk)


def test_a_value_of_100_mb_passes_both_ways(held):
    value = b"0123456789abcdef" * (100_000_000 // 16)

    def digest_of_the_value(wire):
        return hashlib.sha256(wire.ask("GET", "big")).hexdigest()

    held([("SET", "big", value), "STRLEN big", then(digest_of_the_value), "PING", "DEL big"])


def test_a_pipeline_may_end_at_any_byte(held):
    whole = command("SET", "k", b"1\r\n2") + b"GET k\r\n" + command("RPUSH", "l", "", "x") + command("LRANGE", "l", 0, -1)
    held([
        step for cut in range(1, len(whole)) for step in (raw(whole[:cut]), raw(whole[cut:], 4), gets("FLUSHALL", 1))])
