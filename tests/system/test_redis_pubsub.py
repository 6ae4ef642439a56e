"""Channels, patterns and tracking. Each talk goes as with Redis itself."""

import threading

import pytest

from harness.redis_talk import by, closes, gets, hears, hides, in_any_order, leaves, pipeline, quiet, raw
from harness.redis_wire import Push, command

CHANNELS = {
    "every channel is confirmed with the count": [
        gets("SUBSCRIBE t1 t2 t3", 3), gets("SUBSCRIBE t2", 1), gets("PSUBSCRIBE a* b*", 2)],
    "leaving channels counts down": [
        gets("SUBSCRIBE t1 t2", 2), "PSUBSCRIBE t*", "UNSUBSCRIBE t1", "UNSUBSCRIBE t1", "UNSUBSCRIBE no",
        "PUNSUBSCRIBE t*", "UNSUBSCRIBE t2", "PING"],
    "leaving without names leaves all": [
        gets("SUBSCRIBE t1", 1), "PSUBSCRIBE t*", "UNSUBSCRIBE", "PUNSUBSCRIBE", "GET k"],
    "leaving many without names": [gets("SUBSCRIBE t1 t2 t3 t4", 4), in_any_order("UNSUBSCRIBE", 4), "PING"],
    "leaving where one never was": [
        "UNSUBSCRIBE", "PUNSUBSCRIBE", "UNSUBSCRIBE no", gets("UNSUBSCRIBE a b", 2), "SUNSUBSCRIBE", "GET k"],
    "messages arrive": ["SUBSCRIBE t1", by("b", "PUBLISH t1 hello", "PUBLISH t2 no"), hears(1), quiet()],
    "messages of patterns arrive": [gets("PSUBSCRIBE t* ?1", 2), by("b", "PUBLISH t1 hello"), hears(2), quiet()],
    "a message comes by the channel and by the pattern": [
        "SUBSCRIBE t1", "PSUBSCRIBE t*", by("b", "PUBLISH t1 hello"), hears(2), "UNSUBSCRIBE t1",
        by("b", "PUBLISH t1 again"), hears(1)],
    "messages of any bytes and length": [
        "SUBSCRIBE t1",
        by("b", ("PUBLISH", "t1", b"\r\n$-1\r\n\0"), ("PUBLISH", "t1", b"x" * 300_000), ("PUBLISH", "t1", "")),
        hears(3)],
    "many receivers": [
        by("b", "SUBSCRIBE t1"), by("c", "PSUBSCRIBE t*"), by("d", gets("SUBSCRIBE t1 t2", 2)), "PUBLISH t1 x",
        "PUBLISH t2 y", by("b", hears(1)), by("c", hears(2)), by("d", hears(2))],
    "nobody listens": ["PUBLISH t1 x", "PUBSUB CHANNELS t*", "PUBSUB NUMSUB t1 t2", "PUBSUB NUMPAT"],
    "who listens": [
        by("b", "SUBSCRIBE t1"), by("c", "SUBSCRIBE t1"), by("d", "PSUBSCRIBE x*"), "PUBSUB CHANNELS t*",
        "PUBSUB NUMSUB t1 t2", "PUBSUB NUMPAT"],
    "channels have no database": ["SELECT 1", "SUBSCRIBE t1", by("b", "SELECT 2", "PUBLISH t1 x"), hears(1)],
    "who leaves is counted no more": [by("b", "SUBSCRIBE t1", "QUIT", closes()), "PUBLISH t1 x"],
    "channels in one write": [
        pipeline("SUBSCRIBE t1 t2", "PING", "UNSUBSCRIBE t1", "UNSUBSCRIBE t2", "GET k", replies=6)],
    "back from the channels": [
        "SUBSCRIBE t1", "UNSUBSCRIBE t1", "SET k 1", "MULTI", "INCR k", "EXEC", "BLPOP no 0.01", "SELECT 1", "GET k"],
    "shard channels": [
        "SSUBSCRIBE t1", by("b", "SPUBLISH t1 x", "PUBLISH t1 no"), hears(1), quiet(), "SUNSUBSCRIBE t1", "PING"],
    "a hundred messages in order": [
        "SUBSCRIBE t1", by("b", pipeline(*(f"PUBLISH t1 {n}" for n in range(100)))), hears(100), quiet()],
}

# In the second protocol a subscriber may not do anything else, in the third it may.
WHILE_SUBSCRIBED = {
    "other commands": [
        "SUBSCRIBE t1", "GET k", "SET k 1", "INCR k", "MULTI", "EXEC", "ECHO x", "SELECT 1", "UNSUBSCRIBE t1", "GET k"],
    "unknown commands and wrong arity": ["SUBSCRIBE t1", "NOSUCH", "GET", "PING a b", "UNSUBSCRIBE t1"],
    "commands about the client": [
        "SUBSCRIBE t1", "CLIENT SETNAME me", "CLIENT GETNAME", "AUTH x", "UNSUBSCRIBE t1", "CLIENT GETNAME"],
    "HELLO": ["SUBSCRIBE t1", hides(rb"\$2\r\nid\r\n:(\d+)", "HELLO 3"), "GET k"],
    "blocking commands": ["SUBSCRIBE t1", "BLPOP l 0.01", "WATCH k", "UNSUBSCRIBE t1"],
    "publishing to oneself": ["SUBSCRIBE t1", by("b", "PUBLISH t1 first"), hears(1), gets("PUBLISH t1 x", 1), quiet()],
    "RESET": ["SUBSCRIBE t1", "RESET", "GET k", by("b", "PUBLISH t1 x")],
    "QUIT": ["SUBSCRIBE t1", "QUIT", closes()],
    "bad input": ["SUBSCRIBE t1", raw(b"*1\r\n!\r\n"), closes(), by("b", "PUBLISH t1 x")],
    "leaving without a word": ["SUBSCRIBE t1", "PSUBSCRIBE t*", leaves()],
}

TRACKING = {
    "wrong words": [
        "CLIENT TRACKING", "CLIENT TRACKING maybe", "CLIENT TRACKING ON NOSUCH", "CLIENT TRACKING ON PREFIX a",
        "CLIENT CACHING YES"],
    "on and off": ["CLIENT TRACKING ON", "CLIENT TRACKINGINFO", "CLIENT TRACKING OFF", "CLIENT TRACKINGINFO", "GET k"],
    "keys that are read": ["CLIENT TRACKING ON", "SET k 1", "GET k", by("b", "SET k 2"), gets("PING", 1)],
}

# Only the third protocol can carry these.
INVALIDATION = {
    "a key that was read and changes": [
        hides(rb"\$2\r\nid\r\n:(\d+)", "HELLO 3"), "CLIENT TRACKING ON", "GET k", by("b", "SET k 2", "SET k 3"),
        hears(1), quiet(), "GET k", by("b", "DEL k"), hears(1)],
    "keys of a prefix": [
        hides(rb"\$2\r\nid\r\n:(\d+)", "HELLO 3"), "CLIENT TRACKING ON BCAST PREFIX a", by("b", "SET ab 1", "SET b 1"),
        hears(1), quiet(), "CLIENT TRACKING OFF"],
    "only what is asked for": [
        hides(rb"\$2\r\nid\r\n:(\d+)", "HELLO 3"), "CLIENT TRACKING ON OPTIN", "GET a", "CLIENT CACHING YES", "GET b",
        by("b", "SET a 1", "SET b 1"), hears(1), quiet()],
}


@pytest.mark.parametrize("talk", CHANNELS.values(), ids=CHANNELS.keys())
def test_channels_go_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", WHILE_SUBSCRIBED.values(), ids=WHILE_SUBSCRIBED.keys())
def test_what_a_subscriber_may_do_is_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", TRACKING.values(), ids=TRACKING.keys())
def test_tracking_goes_as_with_redis(talk, held):
    held(talk)


@pytest.mark.parametrize("talk", INVALIDATION.values(), ids=INVALIDATION.keys())
def test_changed_keys_are_told_to_those_who_track_them(talk, held):
    held(talk)


def test_a_subscriber_in_the_third_protocol_gets_messages_between_replies_only(redis_target, name):
    # Each reply must be whole and in its place, whatever number of messages is pushed at the same time.
    wire, sender = redis_target.wire(), redis_target.wire()
    wire.ask("HELLO", 3), wire.ask("SUBSCRIBE", name)
    value = b"v" * 3000
    wire.ask("SET", name, value)
    publishing = threading.Thread(target=lambda: [sender.pipeline(*[("PUBLISH", name, n)] * 10) for n in range(100)])
    publishing.start()
    try:
        messages = _read_among_messages(wire, name, value)
    finally:
        publishing.join()
    while len(messages) < 1000:
        messages.append(wire.read())
    assert messages == [[b"message", name.encode(), b"%d" % n] for n in range(100) for _ in range(10)]


def _read_among_messages(wire, name, value):
    messages = []
    for _ in range(100):
        wire.send(*(command("GET", name) for _ in range(10)))
        replies = []
        while len(replies) < 10:
            got = wire.read()
            (messages if isinstance(got, Push) else replies).append(got)
        assert replies == [value] * 10
    return messages


def test_a_driver_s_subscriber_hears_all_that_was_published(redis_target, name):
    with redis_target.client() as client, client.pubsub() as listener:
        listener.subscribe(name)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        assert [client.publish(name, n) for n in range(50)] == [1] * 50
        assert [listener.get_message(timeout=5)["data"] for _ in range(50)] == [b"%d" % n for n in range(50)]


def test_nobody_has_the_servers_tell_another_connection_what_changes(redis_forebay, shared_redis):
    # The number might be one of a connection that others share.
    number = int(shared_redis.nodes[0].run("CLIENT", "LIST").partition(b" ")[0].removeprefix(b"id="))
    endpoint = redis_forebay.redis()
    requests = [("CLIENT", "TRACKING", "ON", *words, "REDIRECT", number) for words in ((), ("BCAST", "PREFIX", "on"))]
    for request in requests:
        wire = endpoint.wire()
        assert wire.ask(*request).code == "ERR"
        assert wire.ask("CLIENT", "GETREDIR") == -1
        queued = wire.pipeline(("MULTI",), request, ("EXEC",))
        assert [reply.code for reply in queued[1:]] == ["ERR", "EXECABORT"]
        watching = wire.pipeline(("WATCH", "k"), ("MULTI",), request, ("EXEC",))
        assert [reply.code for reply in watching[2:]] == ["ERR", "EXECABORT"]
    assert endpoint.wire().ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "redirect") == b"OK"
