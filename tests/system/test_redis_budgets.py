"""The budgets of Redis' hot path (see `harness.counting`): system calls and instructions a command, memory a client.

The load is redis-benchmark: GET and SET of 64 bytes by 50 clients, which wait for each answer or send 16 commands at
once. `-rP` prints what was counted.
"""

import subprocess

import pytest

from harness import counting, wait_until
from harness.forebay import configuration

CLIENTS = 50
VALUE_BYTES = 64


def benchmark(name, depth):
    """A load of so many commands, shared by the clients, each of which has `depth` of them on their way."""
    def load(forebay, commands):
        endpoint = forebay.redis()
        wait_until(lambda: _takes_writes(endpoint), 60, "Redis to be served")
        done = subprocess.run(
            ["redis-benchmark", "-p", str(endpoint.port), "-t", name, "-c", str(CLIENTS), "-n", str(commands),
             "-P", str(depth), "-d", str(VALUE_BYTES), "--csv"],
            capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, done.stderr
        assert f'"{name.upper()}"' in done.stdout, done.stdout
        assert "rror" not in done.stdout + done.stderr, done.stdout + done.stderr
    return load


def _takes_writes(endpoint):
    """Writes the key that redis-benchmark reads."""
    with endpoint.wire() as wire:
        return wire.value("SET", "key:__rand_int__", "v" * VALUE_BYTES) == b"OK"


@pytest.fixture
def primary_alone(new_redis):
    """A server without replicas and Sentinels, which would only take the machine from what is counted."""
    return new_redis(replicas=0, sentinels=0)


# Every client's command is one receive and one send; those towards the server are shared by all that came in a turn.
@pytest.mark.parametrize("name", ["get", "set"])
@pytest.mark.parametrize("depth, most", [(1, 1.1), (16, 0.08)], ids=["waiting", "pipelined"])
def test_a_command_costs_no_more_system_calls_than_budgeted(start_forebay, primary_alone, name, depth, most):
    forebay = start_forebay(redis=[primary_alone.service(by="nodes")], config={"general": {"threads": 1}})
    load = benchmark(name, depth)
    load(forebay, 20 * CLIENTS * depth)
    calls = counting.system_calls(forebay, load, 50 * CLIENTS * depth, 650 * CLIENTS * depth)
    print(calls.told)
    assert calls.sends <= most, calls.told
    assert calls.receives <= most, calls.told
    assert calls.epoll_ctl <= 0.02, calls.told
    assert calls.futex <= 0.02, calls.told


@pytest.mark.parametrize("name", ["get", "set"])
@pytest.mark.parametrize("depth, budget", [(1, 2500), (16, 700)], ids=["waiting", "pipelined"])
def test_a_command_costs_no_more_instructions_than_budgeted(primary_alone, name, depth, budget):
    config = configuration((), [primary_alone.service(by="nodes")])
    config["general"]["threads"] = 1
    # Without a login to the console, whose password would be hashed on the way.
    counting.hold_instructions(
        config, benchmark(name, depth), 200 * CLIENTS * depth, 1200 * CLIENTS * depth, budget, wait="")


def test_an_idle_client_costs_little_memory(start_forebay, primary_alone):
    forebay = start_forebay(redis=[primary_alone.service(by="nodes")])
    endpoint = forebay.redis()

    def come(count):
        clients = [endpoint.wire() for _ in range(count)]
        for client in clients:
            assert client.value("SET", "k", "v" * VALUE_BYTES) == b"OK"
            assert client.value("GET", "k") == b"v" * VALUE_BYTES
        return clients

    some = come(100)
    before = forebay.rss_kib()
    more = come(1500)
    each = (forebay.rss_kib() - before) / len(more)
    print(f"an idle client takes {each:.2f} KiB")
    assert each <= 2.25, f"an idle client takes {each:.2f} KiB"
    files = forebay.fd_count()
    for client in some + more:
        client.close()
    wait_until(lambda: forebay.fd_count() <= files - 1590, 10, "the sockets of clients that left to be closed")
