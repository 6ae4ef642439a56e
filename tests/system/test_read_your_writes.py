"""No client misses its own writes, on replicas that show commits late."""

import pytest

from harness import Cluster, wait_until, wire
from harness.where import ran_on, role

DELAY = 3  # seconds


@pytest.fixture(scope="module")
def late_cluster():
    """Both replicas show commits three seconds after they were made."""
    with Cluster(name="late") as cluster:
        cluster.everywhere("create table w (id serial primary key, v text); alter table w owner to app")
        cluster.everywhere(
            "create function write_it(text) returns int language sql volatile as"
            " $$ insert into w (v) values ($1) returning id $$")
        for node in cluster.nodes[1:]:
            node.set_apply_delay(DELAY)
        yield cluster


@pytest.fixture
def late(late_cluster, start_forebay, name):
    forebay = start_forebay(servers=late_cluster, routing={"max_lag": "60s"})
    forebay.mark = name
    client = forebay.wire()
    # The nodes are up and reads do go to replicas before the test writes anything.
    wait_until(lambda: client.value("select 1") and role(client) == "replica", 20, "reads on a replica")
    return forebay


def insert(client, mark):
    client.run(f"insert into w (v) values ('{mark}')")


def in_transaction(client, mark):
    client.run("begin")
    insert(client, mark)
    client.run("commit")


def by_function(client, mark):
    client.run(f"select write_it('{mark}')")


def by_extended(client, mark):
    client.ask(wire.parse("insert into w (v) values ($1)"), wire.bind([mark]), wire.execute(), wire.sync())


def by_prepared(client, mark):
    client.ask(wire.parse("insert into w (v) values ($1)", "ins"), wire.sync())
    client.prepared("ins", [mark])


def by_copy(client, mark):
    client.send(wire.query("copy w (v) from stdin"))
    client.read_until("G")
    client.ask(wire.copy_data(f"{mark}\n".encode()), wire.copy_done())


def by_cte(client, mark):
    client.run(f"with x as (insert into w (v) values ('{mark}') returning id) select id from x")


def by_several_statements(client, mark):
    client.run(f"select 1; insert into w (v) values ('{mark}'); select 2")


def by_do(client, mark):
    client.run(f"do $$ begin insert into w (v) values ('{mark}'); end $$")


def by_two_phase_commit(client, mark):
    client.run("begin")
    insert(client, mark)
    client.run(f"prepare transaction '{mark}'")
    client.run(f"commit prepared '{mark}'")


WAYS = [insert, in_transaction, by_function, by_extended, by_prepared, by_copy, by_cte, by_several_statements, by_do, by_two_phase_commit]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_client_sees_what_it_wrote(late, way):
    client = late.wire()
    client.run("select 1")
    way(client, late.mark)
    for _ in range(4):
        assert client.value(f"select count(*) from w where v = '{late.mark}'") == "1", f"read on {ran_on(client)}"
    answer = client.ask(
        wire.parse("select count(*) from w where v = $1"), wire.bind([late.mark]), wire.execute(), wire.sync())
    assert wire.rows(answer) == [["1"]]


def test_reads_right_behind_a_write_in_a_pipeline_see_it(late):
    client = late.wire()
    client.send(
        wire.parse("insert into w (v) values ($1)"), wire.bind([late.mark]), wire.execute(), wire.sync(),
        wire.parse("select count(*) from w where v = $1"), wire.bind([late.mark]), wire.execute(), wire.sync(),
        wire.query(f"select count(*) from w where v = '{late.mark}'"))
    client.read_until()
    assert wire.rows(client.read_until()) == [["1"]]
    assert wire.rows(client.read_until()) == [["1"]]


def test_a_new_table_is_there_for_its_maker(late):
    client = late.wire()
    client.run(f"create table {late.mark} (a int)")
    assert client.value(f"select count(*) from {late.mark}") == "0"
    client.run(f"alter table {late.mark} add column b int")
    assert client.run(f"select a, b from {late.mark}") == []
    client.run(f"drop table {late.mark}")
    assert wire.errors(client.ask(wire.query(f"select 1 from {late.mark}"))) == ["42P01"]


def test_a_read_only_transaction_after_a_write_sees_it(late):
    client = late.wire()
    insert(client, late.mark)
    client.run("begin read only")
    assert client.value(f"select count(*) from w where v = '{late.mark}'") == "1"
    client.run("commit")


def test_reads_return_to_the_replicas_when_these_have_replayed_the_write(late):
    client = late.wire()
    insert(client, late.mark)
    assert client.value(f"select count(*) from w where v = '{late.mark}'") == "1"
    assert role(client) == "primary", f"within {DELAY} s no replica can have it"

    def read_on_a_replica():
        assert client.value(f"select count(*) from w where v = '{late.mark}'") == "1", f"stale read on {ran_on(client)}"
        return role(client) == "replica"

    wait_until(read_on_a_replica, DELAY + 20, "reads to go back to a replica", 0.1)


def test_a_client_that_writes_nothing_keeps_reading_from_replicas(late):
    writer, reader = late.wire(), late.wire()
    insert(writer, late.mark)
    for _ in range(6):
        reader.run("select 1")
        assert role(reader) == "replica"


def test_a_transaction_that_was_rolled_back_or_only_read_keeps_nobody_from_replicas(late):
    client = late.wire()
    client.run("begin")
    client.value("select count(*) from w")
    client.run("commit")
    client.run("select 1")
    assert role(client) == "replica", "a transaction without a write has nothing to wait for"


def test_eventual_consistency_reads_from_replicas_at_once(late_cluster, start_forebay):
    forebay = start_forebay(servers=late_cluster, routing={"max_lag": "60s", "consistency": "eventual"})
    client = forebay.wire()
    wait_until(lambda: client.value("select 1") and role(client) == "replica", 20, "reads on a replica")
    insert(client, "eventual")
    client.value("select count(*) from w")
    assert role(client) == "replica"


def test_primary_consistency_reads_from_the_primary_alone(late_cluster, start_forebay):
    client = start_forebay(servers=late_cluster, routing={"max_lag": "60s", "consistency": "primary"}).wire()
    for _ in range(6):
        client.run("select 1")
        assert role(client) == "primary"


def test_a_hint_for_a_replica_is_stronger_than_consistency(late):
    client = late.wire()
    insert(client, late.mark)
    client.run("/* forebay: replica */ select 1")
    assert role(client) == "replica"


def test_what_a_driver_s_pool_sends_between_two_users_is_no_write(late):
    """asyncpg's reset, Npgsql's and others': the next read need not wait for anything."""
    client = late.wire()
    for tidied in (
        "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        "DISCARD ALL",
        "RESET ALL",
        "UNLISTEN *",
    ):
        client.run(tidied)
        assert client.value("select 1") == "1"
        assert role(client) == "replica", f"read after {tidied!r}"
    client.run(f"SELECT pg_advisory_unlock_all(); insert into w (v) values ('{late.mark} tidied'); RESET ALL")
    assert client.value(f"select count(*) from w where v = '{late.mark} tidied'") == "1"
    assert role(client) == "primary", "a write among them is one"


# -- of several replicas --------------------------------------------------------------------------------------------


@pytest.fixture
def one_late(new_cluster, start_forebay):
    """pg2 shows commits at once, pg3 a minute late."""
    cluster = new_cluster()
    cluster.everywhere("create table w (id serial primary key, v text); alter table w owner to app")
    cluster.nodes[2].set_apply_delay(60)
    forebay = start_forebay(servers=cluster, routing={"max_lag": "10m"})
    client = forebay.wire()
    seen = set()

    def both():
        client.run("select 1")
        seen.add(ran_on(client))
        return {"pg2", "pg3"} <= seen
    wait_until(both, 20, "reads on both replicas")
    return cluster, forebay


def test_reads_behind_a_write_run_on_the_replica_that_has_it(one_late):
    _, forebay = one_late
    client = forebay.wire()
    insert(client, "mine")
    nodes = set()

    def read():
        assert client.value("select count(*) from w where v = 'mine'") == "1"
        nodes.add(ran_on(client))
        return "pg2" in nodes
    wait_until(read, 20, "a read on pg2")
    assert nodes <= {"pg1", "pg2"}
    for _ in range(20):
        assert read() and ran_on(client) in ("pg1", "pg2")


# -- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", ["session", "eventual"])
def test_a_position_carries_to_another_session(late_cluster, start_forebay, name, consistency):
    forebay = start_forebay(servers=late_cluster, routing={"max_lag": "60s", "consistency": consistency})
    writer, reader = forebay.wire(), forebay.wire()
    wait_until(lambda: reader.value("select 1") and role(reader) == "replica", 20, "reads on a replica")
    insert(writer, name)
    position = writer.value("show forebay.last_lsn")
    count = f"select count(*) from w where v = '{name}'"
    assert reader.value(count) == "0" and role(reader) == "replica"
    reader.run(f"set forebay.read_after = '{position}'")
    assert reader.value("show forebay.read_after")
    assert reader.value(count) == "1", f"read on {ran_on(reader)}"
    wait_until(lambda: reader.value(count) == "1" and role(reader) == "replica", 20, "the replicas to have it")
    reader.run("reset forebay.read_after")
    assert reader.value("show forebay.read_after") == ""


def test_positions_by_the_extended_protocol(late):
    client = late.wire()
    insert(client, late.mark)
    [[position]] = wire.rows(client.ask(wire.parse("show forebay.last_lsn"), wire.bind(), wire.execute(), wire.sync()))
    assert "/" in position
    other = late.wire()
    other.ask(wire.parse(f"set forebay.read_after = '{position}'"), wire.bind(), wire.execute(), wire.sync())
    assert other.value(f"select count(*) from w where v = '{late.mark}'") == "1"


def test_what_is_no_position_is_refused(late):
    client = late.wire()
    found = client.ask(wire.query("set forebay.read_after = 'yesterday'"))
    assert wire.errors(found) == ["22023"]
    assert client.value("select 1") == "1"


# -- routing.read_wait ------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(late_cluster, start_forebay, name):
    def start(wait):
        forebay = start_forebay(servers=late_cluster, routing={"max_lag": "60s", "read_wait": wait})
        forebay.mark = name
        client = forebay.wire()
        wait_until(lambda: client.value("select 1") and role(client) == "replica", 20, "reads on a replica")
        return forebay, client
    return start


@pytest.mark.parametrize("ask", [
    lambda client, sql: client.value(sql),
    lambda client, sql: wire.rows(client.ask(wire.parse(sql), wire.bind([]), wire.execute(), wire.sync()))[0][0],
], ids=["simple", "extended"])
def test_a_read_waits_for_a_replica(patient, name, ask):
    forebay, client = patient("30s")
    insert(client, name)
    assert ask(client, f"select count(*) from w where v = '{name}'") == "1"
    assert role(client) == "replica", "it was worth the wait"


def test_a_read_does_not_wait_longer_than_it_may(patient, name):
    forebay, client = patient("200ms")
    insert(client, name)
    assert client.value(f"select count(*) from w where v = '{name}'") == "1"
    assert client.value(f"select pg_is_in_recovery() from w where v = '{name}'") == "f"


def test_a_read_that_waits_can_be_cancelled_and_left(patient, name):
    forebay, client = patient("30s")
    leaves = forebay.wire()
    for waiting in (client, leaves):
        insert(waiting, name)
        waiting.send(wire.query("select count(*) from w"))
    wait_until(lambda: [row["state"] for row in forebay.admin("SHOW CLIENTS")].count("waiting") == 2, 10, "both to wait")
    leaves.close()
    wait_until(lambda: [row["state"] for row in forebay.admin("SHOW CLIENTS")].count("waiting") == 1, 10, "one to leave")
    client.cancel()
    assert wire.errors(client.read_until()) == ["57014"]
    client.run("begin")
    assert client.value("select count(*) > 0 from w") == "t", "transactions that may write never wait"
    client.run("commit")


def test_what_was_sent_ahead_comes_after_the_read_that_waits(patient, name):
    forebay, client = patient("30s")
    insert(client, name)
    client.send(wire.query(f"select count(*) from w where v = '{name}'"))
    client.send(wire.query(f"insert into w (v) values ('{name}')"))
    client.send(wire.query(f"select count(*) from w where v = '{name}'"))
    assert [wire.rows(client.read_until()) for _ in range(3)] == [[["1"]], [], [["2"]]]


def test_a_wait_ends_when_a_reload_says_so(patient, name):
    forebay, client = patient("30s")
    insert(client, name)
    client.send(wire.query(f"select count(*) from w where v = '{name}'"))
    wait_until(lambda: "waiting" in [row["state"] for row in forebay.admin("SHOW CLIENTS")], 10, "it to wait")
    forebay.change(routing={"read_wait": "off"})
    forebay.admin("RELOAD")
    assert wire.rows(client.read_until()) == [["1"]]
