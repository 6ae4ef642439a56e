"""TLS between Forebay and Redis: data connections, the monitor's, those to Sentinels, and changes of the primary."""

import shutil
import time

import psycopg
import pytest
from test_redis_failover import HOLD, assert_lost_only_at_the_end, settle, told

from harness import wait_until
from harness.certificates import Authority
from harness.redis_ledger import Ledger
from harness.redis_servers import RedisTls, SentinelEvents

MODES = ["require", "verify-ca", "verify-full"]


@pytest.fixture
def encrypted(new_redis, authority):
    """Makes groups whose servers and Sentinels speak TLS only."""
    def make(addresses="DNS:localhost,IP:127.0.0.1", asks="no", **options):
        return new_redis(tls=RedisTls(authority, addresses, asks), **options)
    return make


@pytest.fixture
def single(encrypted):
    """One such server, whom no Sentinel watches."""
    return encrypted(replicas=0, sentinels=0)


def tls(mode, ca=None, **more):
    """Of a service."""
    return {"tls": {"mode": mode, **({"ca": str(ca)} if ca else {}), **more}}


def reasons(forebay):
    """Why nodes are not used."""
    return [row["reason"] for row in forebay.admin("SHOW NODES") if row["state"] == "down"]


def refused(forebay, words, count=1):
    """Waits until so many nodes are down for that reason."""
    def known():
        found = reasons(forebay)
        return sum(words in reason for reason in found) == count or (_ for _ in ()).throw(LookupError(found))
    wait_until(known, 20, f"{count} nodes to be down for {words!r}")


def connections(node):
    """The numbers of Forebay's shared connections to a server; a later one has a greater number."""
    lines = [line for line in node.run("CLIENT", "LIST").decode().splitlines() if " name=forebay " in line]
    return [int(line.split()[0].removeprefix("id=")) for line in lines]


def both_ways(forebay, name):
    """Something passes."""
    wire = forebay.redis().wire()
    assert wire.ask("SET", name, "x" * 300000) == b"OK"
    assert wire.ask("GET", name) == b"x" * 300000
    return wire


# -- whom Forebay trusts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_servers_and_sentinels_are_spoken_to(encrypted, start_forebay, authority, name, mode):
    group = encrypted()
    both_ways(start_forebay(redis=[group.service(**tls(mode, authority.file))]), name)


def test_without_an_authority_any_certificate_is_taken(single, start_forebay, name):
    both_ways(start_forebay(redis=[single.service(by="nodes", **tls("require"))]), name)


@pytest.mark.parametrize("mode", MODES)
def test_a_certificate_of_another_authority_is_refused(encrypted, start_forebay, tmp_path, mode):
    """With an authority, require checks it as well, as libpq does."""
    group, stranger = encrypted(replicas=1, sentinels=0), Authority(tmp_path, "stranger")
    forebay = start_forebay(redis=[group.service(by="nodes", **tls(mode, stranger.file))], wait="port")
    refused(forebay, "UnknownIssuer", 2)
    wire = forebay.redis().wire()
    wire.order("GET", "k")
    assert wire.nothing_comes(0.2), "nothing is sent to a server that is not trusted"


@pytest.mark.parametrize("mode, addresses, is_let_in", [
    ("require", "DNS:elsewhere.example", True), ("verify-ca", "DNS:elsewhere.example", True),
    ("verify-full", "DNS:elsewhere.example", False), ("verify-full", "DNS:localhost", True),
    ("verify-full", "IP:127.0.0.1", False)])
def test_the_name_counts_only_where_it_is_checked(encrypted, start_forebay, authority, name, mode, addresses, is_let_in):
    group = encrypted(addresses, replicas=0, sentinels=0)
    service = group.service(by="nodes", **tls(mode, authority.file))
    service["nodes"] = [f"localhost:{node.port}" for node in group.nodes]
    forebay = start_forebay(redis=[service], wait="nodes" if is_let_in else "port")
    if is_let_in:
        both_ways(forebay, name)
    else:
        refused(forebay, "not valid for")


@pytest.mark.parametrize("addresses, is_let_in", [("IP:127.0.0.1", True), ("DNS:localhost", False)])
def test_nodes_that_sentinels_tell_of_are_called_as_these_call_them(encrypted, start_forebay, authority, name, addresses,
                                                                    is_let_in):
    group = encrypted(addresses, replicas=1)
    service = group.service(**tls("verify-full", authority.file), sentinel_tls="verify-ca")
    forebay = start_forebay(redis=[service], wait="nodes" if is_let_in else "port")
    if is_let_in:
        both_ways(forebay, name)
    else:
        refused(forebay, "not valid for", 2)


@pytest.mark.parametrize("mode", MODES)
def test_an_expired_certificate_is_refused(new_redis, start_forebay, authority, mode):
    expired = RedisTls(authority, days=-1)
    group = new_redis(tls=expired, replicas=0, sentinels=0)
    forebay = start_forebay(redis=[group.service(by="nodes", **tls(mode, authority.file))], wait="port")
    refused(forebay, "Expired")


def test_a_certificate_of_forebay_s_own_is_shown_to_who_asks(encrypted, start_forebay, authority, name):
    group = encrypted(asks="yes", replicas=1)
    certificate, key = authority.sign("proxy")
    shown = {"cert": str(certificate), "key": str(key)}
    both_ways(start_forebay(redis=[group.service(**tls("verify-full", authority.file, **shown))]), name)


def test_without_one_the_servers_refuse_forebay(encrypted, start_forebay, authority):
    group = encrypted(asks="yes", replicas=1, sentinels=0)
    forebay = start_forebay(redis=[group.service(by="nodes", **tls("verify-full", authority.file))], wait="port")
    refused(forebay, "CertificateRequired", 2)


# -- who speaks something else ----------------------------------------------------------------------------------------


def test_a_server_in_clear_text_is_named_as_such(new_redis, start_forebay):
    group = new_redis(replicas=0, sentinels=0)
    refused(start_forebay(redis=[group.service(by="nodes", **tls("require"))], wait="port"), "TLS")


def test_a_server_with_tls_is_named_as_such(single, start_forebay):
    refused(start_forebay(redis=[single.service(by="nodes")], wait="port"), "TLS")


def test_a_server_that_takes_connections_and_shakes_no_hands_is_down(single, start_forebay, authority):
    forebay = start_forebay(redis=[single.service(by="nodes", **tls("verify-full", authority.file))])
    single.nodes[0].pause()
    refused(forebay, "no TLS handshake within 1s")
    single.nodes[0].resume()
    forebay.wait_node("redis1", state="up", role="primary")


# -- Sentinels --------------------------------------------------------------------------------------------------------


def sentinels_check(forebay):
    """What the check of the Sentinels says."""
    return next(row for row in forebay.admin("SHOW HA CHECKS") if row["check"] == "sentinels")


def test_sentinels_may_speak_clear_text_while_servers_do_not(encrypted, start_forebay, authority, name):
    group = encrypted(replicas=1, sentinel_tls=False)
    service = group.service(**tls("verify-full", authority.file), sentinel_tls="disable")
    forebay = start_forebay(redis=[service])
    both_ways(forebay, name)
    old = group.primary
    group.failover()
    new = group.wait_failover(old)
    forebay.wait_node(forebay.name_of(new), role="primary", state="up")


def test_a_sentinel_in_clear_text_is_not_believed_where_tls_is_asked_for(encrypted, start_forebay, authority):
    group = encrypted(replicas=1, sentinel_tls=False)
    forebay = start_forebay(redis=[group.service(**tls("verify-full", authority.file))], wait="port")
    wait_until(lambda: "TLS" in sentinels_check(forebay)["detail"], 20, "the Sentinels to be refused")
    assert sentinels_check(forebay)["result"] == "error"


# -- changes of the primary -------------------------------------------------------------------------------------------


@pytest.fixture
def served(encrypted, start_forebay, authority):
    """(group, Forebay, endpoint): TLS on both sides."""
    group = encrypted()
    certificate, key = authority.sign("forebay")
    clients = {"client_tls": {"mode": "require", "cert": str(certificate), "key": str(key)}}
    forebay = start_forebay(redis=[group.service(hold=HOLD, **tls("verify-full", authority.file), **clients)])
    return group, forebay, forebay.redis(tls=group.nodes[0].tls)


def test_a_sentinel_failover_loses_nothing(served, name):
    group, _, endpoint = served
    old = group.primary
    with SentinelEvents(group) as events, Ledger(endpoint, name) as ledger:
        group.failover()
        new = settle(group, ledger, old)
        switched = events.first("+switch-master")
    verdict = ledger.judge(new)
    told("SENTINEL FAILOVER with TLS", ledger, verdict, switched)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


@pytest.mark.parametrize("to", [None, 2], ids=["to any", "to the second replica"])
def test_a_switchover_loses_nothing(served, name, to):
    group, forebay, endpoint = served
    old = group.primary
    with Ledger(endpoint, name) as ledger:
        forebay.admin("SWITCHOVER cache" if to is None else f"SWITCHOVER cache TO {forebay.name_of(group.nodes[to])}")
        new = settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("SWITCHOVER with TLS", ledger, verdict)
    assert to is None or new is group.nodes[to]
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.unknown == 0


def test_a_switchover_without_sentinels_loses_nothing(encrypted, start_forebay, authority, name):
    group = encrypted(replicas=1, sentinels=0)
    forebay = start_forebay(redis=[group.service(by="nodes", hold=HOLD, **tls("verify-full", authority.file))])
    old, new = group.nodes
    with Ledger(forebay.redis(), name) as ledger:
        forebay.admin("SWITCHOVER cache")
        wait_until(lambda: old.follows(new), 60, "the old primary to follow the new one", 0.1)
        ledger.wait_acknowledged(100)
        ledger.end()
        group.caught_up()
    verdict = ledger.judge(new)
    verdict.assert_sound()
    verdict.assert_nothing_lost()


def test_a_killed_primary_loses_no_more_than_its_replica_had_not_received(served, name):
    group, _, endpoint = served
    old = group.primary
    with Ledger(endpoint, name) as ledger:
        died = time.monotonic()
        old.kill()
        new = group.wait_failover(old, timeout=60)
        ledger.wait_acknowledged(100)
        old.start()
        settle(group, ledger, old)
    verdict = ledger.judge(new)
    told("kill -9 of the primary with TLS", ledger, verdict)
    verdict.assert_sound()
    assert_lost_only_at_the_end(verdict, died)


def test_subscribers_and_blocked_clients_go_on_at_the_new_primary(served, name):
    group, forebay, endpoint = served
    blocked, listener, push, sender = (endpoint.wire(timeout=60) for _ in range(4))
    blocked.order("BLPOP", name, 0)
    assert listener.ask("SUBSCRIBE", name + ":c")[2] == 1
    push.ask("HELLO", 3)
    assert push.ask("SUBSCRIBE", name + ":c")[2] == 1
    wait_until(lambda: group.primary.info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    old = group.primary
    forebay.admin("SWITCHOVER cache")
    group.wait_failover(old, timeout=60)
    assert sender.ask("RPUSH", name, "x") == 1
    assert blocked.read() == [name.encode(), b"x"]

    def is_heard():
        sender.ask("PUBLISH", name + ":c", "there?")
        return not listener.nothing_comes(0.1) and not push.nothing_comes(0.1)
    wait_until(is_heard, 30, "the subscribers to hear something again")


# -- reloads ----------------------------------------------------------------------------------------------------------


def test_a_reload_takes_new_files_and_nobody_notices(encrypted, start_forebay, authority, tmp_path, name):
    """Another authority and another certificate of Forebay's own, while writes go on."""
    group = encrypted(asks="yes", replicas=1)
    ca, certificate, key = (tmp_path / file for file in ("ca.pem", "own.pem", "own.key"))
    stranger = Authority(tmp_path / "stranger", "stranger")
    shutil.copy(authority.file, ca)
    for source, target in zip(authority.sign("before"), (certificate, key)):
        shutil.copy(source, target)
    keys = tls("verify-full", ca, cert=str(certificate), key=str(key))
    forebay = start_forebay(redis=[group.service(hold=HOLD, **keys)])
    blocked = forebay.redis().wire(timeout=60)
    blocked.order("BLPOP", name + ":b", 0)
    wait_until(lambda: group.primary.info("clients")["blocked_clients"] == 1, 10, "a blocked client")
    with Ledger(forebay.redis(), name) as ledger:
        for number in range(5):
            ca.write_bytes(stranger.file.read_bytes() + authority.file.read_bytes())
            for source, target in zip(authority.sign(f"after{number}"), (certificate, key)):
                shutil.copy(source, target)
            # The own connection of who waits is the oldest, and stays.
            waiting, *before = sorted(connections(group.primary))
            forebay.admin("RELOAD")
            wait_until(lambda: sorted(connections(group.primary))[1] > max(before), 10, "new shared connections")
            assert min(connections(group.primary)) == waiting
            ledger.wait_acknowledged(30)
    verdict = ledger.judge(group.primary)
    print(verdict)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.unknown == 0 and not verdict.refused
    assert forebay.redis().wire().ask("RPUSH", name + ":b", 1) == 1
    assert blocked.read() == [f"{name}:b".encode(), b"1"], "who waits keeps the connection"
    events = {row["event"] for row in forebay.admin("SHOW EVENTS")}
    assert not events & {"service_restarted", "node_down"}, events


def test_a_file_that_cannot_be_used_leaves_everything_as_it_was(single, start_forebay, authority, tmp_path, name):
    ca = tmp_path / "ca.pem"
    shutil.copy(authority.file, ca)
    forebay = start_forebay(redis=[single.service(by="nodes", **tls("verify-ca", ca))])
    ca.write_text("nothing\n")
    with pytest.raises(psycopg.Error, match="ca.pem"):
        forebay.admin("RELOAD")
    both_ways(forebay, name)


def test_an_authority_that_fits_no_more_is_noticed_at_once_and_mended_by_a_reload(single, start_forebay, authority,
                                                                                   tmp_path, name):
    ca, stranger = tmp_path / "ca.pem", Authority(tmp_path / "stranger", "stranger")
    shutil.copy(authority.file, ca)
    forebay = start_forebay(redis=[single.service(by="nodes", **tls("verify-ca", ca))])
    both_ways(forebay, name)
    shutil.copy(stranger.file, ca)
    forebay.admin("RELOAD")
    refused(forebay, "UnknownIssuer")
    shutil.copy(authority.file, ca)
    forebay.admin("RELOAD")
    forebay.wait_node("redis1", state="up", role="primary")
    both_ways(forebay, name)


def test_tls_is_switched_on_by_a_reload(new_redis, start_forebay, authority, name):
    """On the servers first, and on the same port: who is connected stays so, nobody else gets in any more."""
    group, files = new_redis(replicas=0, sentinels=0), RedisTls(authority)
    node = group.nodes[0]
    forebay = start_forebay(redis=[group.service(by="nodes", hold=HOLD)])
    steward, (certificate, key) = node.wire(), files.files
    steward.value("CONFIG", "SET", "tls-cert-file", certificate, "tls-key-file", key, "tls-ca-cert-file", authority.file,
                  "tls-auth-clients", "no")
    with Ledger(forebay.redis(), name) as ledger:
        steward.value("CONFIG", "SET", "port", 0)
        steward.value("CONFIG", "SET", "tls-port", node.port)
        node.tls = files.context
        before = connections(node)
        forebay.change_redis(**tls("verify-full", authority.file))
        forebay.admin("RELOAD")
        wait_until(lambda: min(connections(node)) > max(before), 20, "all shared connections to be new")
        ledger.wait_acknowledged(100)
    verdict = ledger.judge(node)
    verdict.assert_sound()
    verdict.assert_nothing_lost()
    assert verdict.unknown == 0
    both_ways(forebay, name + ":x")


def test_a_setting_changed_from_the_console_leaves_it_as_it_is(single, start_forebay, authority, name):
    forebay = start_forebay(redis=[single.service(by="nodes", **tls("verify-full", authority.file))])
    connections = single.primary.info("stats")["total_connections_received"]
    both_ways(forebay, name)
    forebay.admin("SET general.shutdown_grace = '7s'")
    both_ways(forebay, name)
    assert single.primary.info("stats")["total_connections_received"] - connections < 12


# -- what passes ------------------------------------------------------------------------------------------------------


def test_reads_go_to_replicas_and_users_have_connections_of_their_own(encrypted, start_forebay, authority, name):
    group = encrypted(replicas=1, users=["alice on >secret ~* &* +@all"])
    service = group.service(reads="replica", users={"alice": "secret"}, **tls("verify-full", authority.file))
    forebay = start_forebay(redis=[service])
    wire = forebay.redis().wire()
    assert wire.ask("AUTH", "alice", "secret") == b"OK" and wire.ask("SET", name, 1) == b"OK"
    group.caught_up()
    before = group.nodes[1].info("stats")["total_commands_processed"]
    other = forebay.redis().wire()
    for _ in range(50):
        assert other.ask("GET", name) == b"1"
    assert group.nodes[1].info("stats")["total_commands_processed"] - before >= 50
