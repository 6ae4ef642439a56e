"""TLS of Redis services: between clients and Forebay, and between Forebay, servers and Sentinels."""

import pytest

from harness.redis_servers import RedisTls


@pytest.fixture(scope="module")
def files(authority):
    return authority.sign("forebay")


def to_servers(mode, ca=None, **more):
    return {"tls": {"mode": mode, **({"ca": str(ca)} if ca else {}), **more}}


def to_clients(mode, files, **more):
    return {"client_tls": {"mode": mode, "cert": str(files[0]), "key": str(files[1]), **more}}


@pytest.fixture
def encrypted(new_redis, authority):
    """Servers and Sentinels that speak TLS only."""
    return new_redis(tls=RedisTls(authority))


def test_commands_pass_through_tls_on_both_sides(encrypted, start_forebay, authority, files, name):
    keys = {**to_servers("verify-full", authority.file), **to_clients("require", files)}
    wire = start_forebay(redis=[encrypted.service(**keys)]).redis(tls=encrypted.nodes[0].tls).wire()
    assert wire.ask("SET", name, "x" * 100000) == b"OK"
    assert wire.ask("GET", name) == b"x" * 100000
