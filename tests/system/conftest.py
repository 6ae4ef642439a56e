"""Fixtures: shared servers for tests that leave them whole, servers of their own for those that do not."""

import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Relay, redis_talk, redis_wire, rundir, wait_until, wire  # noqa: E402 needs the path above
from harness.certificates import Authority  # noqa: E402
from harness.forebay import Forebay, configuration, merged  # noqa: E402
from harness.postgres import Cluster, bin_dir  # noqa: E402
from harness.process import run_as  # noqa: E402
from harness.redis_servers import RedisGroup  # noqa: E402


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        rundir.create()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: everything is torn down


def pytest_unconfigure(config):
    rundir.stop_everything()
    if not hasattr(config, "workerinput"):
        rundir.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and call.when in ("setup", "call"):
        shares = any(name.startswith("shared") for name in item.fixturenames)
        # Whoever sees only the end of it sees what failed.
        report.sections += [*rundir.logs(shares), (item.nodeid, call.excinfo.exconly())]
    return report


@pytest.fixture(autouse=True)
def _close_clients():
    yield
    wire.close_all()
    redis_wire.close_all()


@pytest.fixture(scope="session")
def shared_cluster():
    """One primary and two replicas, for tests that neither stop nor reconfigure a node. Has pgbench's tables."""
    with Cluster(name="shared") as cluster:
        primary = cluster.primary
        run_as(None, [bin_dir() / "pgbench", "-i", "-q", "-s", "1"], env={**os.environ, **primary.environment()})
        cluster.caught_up()
        yield cluster


@pytest.fixture
def new_cluster():
    """Makes clusters that the test may break: `new_cluster(replicas=1, auth="md5")`."""
    made = []

    def make(**options):
        made.append(Cluster(**options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.destroy()


@pytest.fixture
def cluster(new_cluster):
    """One primary and two replicas of this test's own."""
    return new_cluster()


@pytest.fixture
def single(start_forebay):
    """Forebay with one connection, to the primary: the next client gets what the one before left."""
    return start_forebay(pool={"size": 1}, routing={"split": False})


@pytest.fixture
def double(start_forebay):
    """The same with two: who keeps one leaves one for others."""
    return start_forebay(pool={"size": 2}, routing={"split": False})


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority that signs certificates, see `harness.certificates`."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def with_table(cluster):
    """The same with an empty table of the application's, `w`."""
    cluster.everywhere("create table w (id bigint primary key, v text); alter table w owner to app")
    return cluster


@pytest.fixture(scope="session")
def shared_redis():
    """A Redis primary, two replicas and three Sentinels, for tests that leave them and their roles as they were."""
    with RedisGroup(name="shared-redis", down_after=60) as group:  # a busy machine is no reason for a failover
        yield group


@pytest.fixture
def new_redis():
    """Makes Redis groups that the test may break: `new_redis(replicas=1, down_after=1)`."""
    made = []

    def make(**options):
        made.append(RedisGroup(**options))
        return made[-1]

    yield make
    for group in made:
        group.destroy()


@pytest.fixture
def redis_group(new_redis):
    """A primary, two replicas and three Sentinels of this test's own."""
    return new_redis()


@pytest.fixture
def behind(new_redis):
    """(group, relay): the only replica's stream goes through the relay; unless it passes, the replica has old data."""
    group = new_redis(replicas=1, sentinels=0, settings={"repl-timeout": 3600})
    relay = Relay(group.nodes[0].port)
    group.nodes[1].run("REPLICAOF", "127.0.0.1", relay.port)
    wait_until(lambda: group.nodes[1].run("ROLE")[3] == b"connected", 10, "the replica to be linked through the relay")
    yield group, relay
    relay.destroy()


@pytest.fixture
def start_forebay(request):
    """Starts instances: `start_forebay(pool={"size": 1}, routing={"split": False})`.

    Keyword arguments are tables and keys of `[postgres]`. `servers` or `nodes` say what is behind it (default: the
    shared cluster, but none with `redis`), `redis` is a group or a list of what `RedisGroup.service` gives. `config`
    is laid over the whole configuration, `wait`, `env` and `login` go to `Forebay`.
    """
    made = []

    def make(servers=None, nodes=None, redis=(), config=None, wait="nodes", env=None, login=None, **postgres):
        if nodes is None:
            servers = servers or (None if redis else request.getfixturevalue("shared_cluster"))
            nodes = servers.addresses if servers else []
        services = [redis.service()] if isinstance(redis, RedisGroup) else redis
        whole = merged(configuration(nodes, services, **postgres), config or {})
        made.append(Forebay(whole, wait=wait, env=env, **(login or {})))
        return made[-1]

    yield make
    try:
        for forebay in made:
            forebay.assert_sound()
    finally:
        for forebay in reversed(made):
            forebay.destroy()


class _Shared:
    """An instance shared by tests; started again if one broke it."""

    def __init__(self, nodes, **tables):
        self.configuration, self.forebay = configuration(nodes, **tables), None

    def running(self):
        if self.forebay and not self.forebay.is_running():
            self.stop()
        if not self.forebay:
            self.forebay = Forebay(self.configuration)
        return self.forebay

    def stop(self):
        if self.forebay:
            self.forebay.destroy()
            self.forebay = None


@pytest.fixture(scope="session")
def _shared_forebay(shared_cluster):
    holder = _Shared(shared_cluster.addresses)
    yield holder
    holder.stop()


@pytest.fixture
def forebay(_shared_forebay):
    """An instance with default settings in front of the shared cluster, shared by tests that do not reconfigure it."""
    running = _shared_forebay.running()
    yield running
    running.assert_sound()


@pytest.fixture(scope="session")
def _eventual_forebay(shared_cluster):
    holder = _Shared(shared_cluster.addresses, routing={"consistency": "eventual"})
    yield holder
    holder.stop()


@pytest.fixture
def routed(_eventual_forebay):
    """Like `forebay`, but with reads that may miss the client's own last writes: only the statement decides."""
    running = _eventual_forebay.running()
    yield running
    running.assert_sound()


@pytest.fixture(scope="session")
def _shared_redis_forebay(shared_redis):
    holder = _Shared((), redis=[shared_redis.service()])
    yield holder
    holder.stop()


@pytest.fixture
def redis_forebay(_shared_redis_forebay):
    """An instance with default settings in front of the shared Redis group; tests leave it as it was."""
    running = _shared_redis_forebay.running()
    yield running
    running.assert_sound()


@pytest.fixture(params=["direct", "forebay"])
def redis_target(request):
    """Where Redis' clients connect: the primary itself, then Forebay. What is expected holds for Redis too."""
    if request.param == "direct":
        return request.getfixturevalue("shared_redis").nodes[0]
    return request.getfixturevalue("redis_forebay").redis()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def held(request, redis_target, shared_redis):
    """Holds a talk (see `harness.redis_talk`) directly and with the target, once in each version of the protocol."""
    def hold(steps):
        redis_talk.goes_as_directly(steps, redis_target, shared_redis, request.param)
    return hold


@pytest.fixture(params=["direct", "forebay"])
def target(request):
    """The primary itself, then Forebay: what is expected holds for PostgreSQL too."""
    if request.param == "direct":
        return request.getfixturevalue("shared_cluster").primary
    return request.getfixturevalue("forebay")


_numbers = itertools.count(1)


@pytest.fixture
def name():
    """A name for tables and the like that no other test uses."""
    return f"t{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def table(shared_cluster, name):
    """A new table (id serial primary key, v text) of app, present on every node."""
    shared_cluster.sql("create table %s (id serial primary key, v text)" % name)
    shared_cluster.sql(f"alter table {name} owner to app")
    shared_cluster.caught_up()
    yield name
    # A test may leave transactions open; the table or its sequence is locked by them.
    shared_cluster.sql(
        "select pg_terminate_backend(l.pid) from pg_locks l join pg_class c on c.oid = l.relation"
        " where starts_with(c.relname, %s) and l.pid <> pg_backend_pid()", params=[name])
    shared_cluster.sql(f"drop table if exists {name} cascade")
