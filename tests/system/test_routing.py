"""Which statements run on a replica, and which must not."""

import pytest

from harness import wait_until, wire
from harness.where import role, route

READS = [
    "select 1",
    "SELECT count(*) FROM pgbench_accounts WHERE aid < 10",
    "with x as (select 1 as a) select a from x",
    "with recursive x(n) as (values (1) union all select n + 1 from x where n < 3) select n from x",
    "values (1), (2)",
    "table pgbench_branches",
    "(select 1) union all (select 2)",
    "explain select 1",
    "select now(), current_date, current_user",
    "select upper('x') || lower('Y')",
    "select 'insert into t values (1)'",
    "select 'it''s for update'",
    "select E'it\\'s for update'",
    "select $$ for update $$ || $tag$ delete from t $tag$",
    "select U&'\\0066or update'",
    'select 1 as "for update"',
    "select 1 -- for update",
    "select 1 /* for update /* nested; delete */ for share */",
    "/* leading */ -- another\n select 1",
    "select 1;",
    "select a.aid from pgbench_accounts a join pgbench_branches b using (bid) where a.aid = 1",
    "select * from generate_series(1, 3) as update_counts",
    "select max(aid) over (), row_number() over (order by aid) from pgbench_accounts where aid < 5",
    "select (select count(*) from pgbench_tellers), exists (select 1)",
    "select relname from pg_class limit 1",
    "select length('x'), abs(-1), coalesce(null, 1)",
    "select random(), clock_timestamp(), gen_random_uuid()",  # volatile by name, yet no node differs by them
]

WRITES = [
    "insert into pgbench_history (tid, bid, aid, delta) select 1, 1, 1, 0 where false",
    "update pgbench_branches set bbalance = bbalance where false",
    "delete from pgbench_history where false",
    "with x as (insert into pgbench_history (tid) select 1 where false returning tid) select tid from x",
    "with x as (update pgbench_branches set bid = bid where false returning bid) select bid from x",
    "with x as (delete from pgbench_history where false returning tid) select tid from x",
    "select bid from pgbench_branches where bid = 1 for update",
    "select bid from pgbench_branches where bid = 1 for no key update",
    "select bid from pgbench_branches where bid = 1 for share",
    "select bid from pgbench_branches where bid = 1 for key share nowait",
    "SELECT bid FROM pgbench_branches WHERE bid = 1 FOR/**/UPDATE SKIP LOCKED",
    "select * from (select bid from pgbench_branches for update) as x",
    "select 1; select 2",
    "explain analyze update pgbench_branches set bid = bid where false",
    "explain (analyze, verbose) delete from pgbench_history where false",
    "select set_config('work_mem', '4MB', true)",
    "select pg_advisory_xact_lock(1)",
    "select pg_try_advisory_xact_lock(1), 1",
    "select txid_current()",
    "select lo_create(0)",
    "select pg_notify('x', 'y')",
    "select pg_current_wal_lsn()",
    "select count(*) from pg_stat_activity",
    "select count(*) from pg_locks",
    "select pg_backend_pid()",
    "select inet_server_port()",
    "create temporary table if not exists scratch (a int) on commit drop",
    "do $$ begin null; end $$",
    "vacuum pgbench_branches",
    "notify x",
    "select no_such_function(1)",
]


# -- statement by statement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", READS)
def test_postgresql_agrees_that_a_replica_can_run_it(shared_cluster, sql):
    assert not wire.errors(shared_cluster.nodes[1].wire().ask(wire.query(sql)))


@pytest.mark.parametrize("sql", WRITES)
def test_postgresql_agrees_that_the_primary_can_run_it(shared_cluster, sql):
    assert wire.errors(shared_cluster.nodes[0].wire().ask(wire.query(sql))) in ([], ["42883"])


@pytest.mark.parametrize("sql", READS)
def test_a_read_runs_on_a_replica(routed, sql):
    told = route(routed, sql)
    assert told["target"] in ("replica", "any"), f"EXPLAIN ROUTE: {told}"
    assert told["reason"] and told["statement"]
    simple, extended = routed.wire(), routed.wire()
    answer = simple.ask(wire.query(sql))
    assert not wire.errors(answer), wire.errors(answer)
    assert role(simple) == "replica", "simple query"
    answer = extended.ask(wire.parse(sql.rstrip(";")), wire.bind(), wire.execute(), wire.sync())
    assert not wire.errors(answer), wire.errors(answer)
    assert role(extended) == "replica", "extended query"


@pytest.mark.parametrize("sql", WRITES)
def test_what_is_not_surely_a_read_runs_on_the_primary(routed, sql):
    told = route(routed, sql)
    assert told["target"] == "primary", f"EXPLAIN ROUTE: {told}"
    assert told["reason"]
    client = routed.wire()
    answer = client.ask(wire.query(sql))
    assert wire.errors(answer) in ([], ["42883"]), wire.errors(answer)
    assert role(client) == "primary"


def test_nextval_and_setval_run_on_the_primary(routed, table):
    client = routed.wire()
    for number in (1, 2):
        assert client.value(f"select nextval('{table}_id_seq')") == str(number)
    assert client.value(f"select setval('{table}_id_seq', 100)") == "100"
    assert role(client) == "primary"


def test_select_into_and_create_table_as_run_on_the_primary(routed, name):
    client = routed.wire()
    client.run(f"select 1 as a into {name}")
    client.run(f"create table {name}b as select 2 as a")
    assert role(client) == "primary"
    client.run(f"drop table {name}, {name}b")


def test_copy_from_runs_on_the_primary(routed, table):
    client = routed.wire()
    client.send(wire.query(f"copy {table} (v) from stdin"))
    client.read_until("G")
    assert wire.tags(client.ask(wire.copy_data(b"x\n"), wire.copy_done())) == ["COPY 1"]
    assert role(client) == "primary"


def test_an_unlogged_table_is_read_where_it_is(forebay, shared_cluster, name):
    shared_cluster.everywhere(f"create unlogged table {name} as select 42 as a; alter table {name} owner to app")
    client = forebay.wire()
    assert [client.value(f"select a from {name}") for _ in range(5)] == ["42"] * 5
    assert wire.rows(client.ask(wire.parse(f"select a from {name}"), wire.bind(), wire.execute(), wire.sync())) == [["42"]]
    shared_cluster.sql(f"drop table {name}")


def test_a_temporary_table_is_found_again(start_forebay):
    client = start_forebay(pool={"mode": "session"}).wire()
    client.run("create temporary table scratch as select 42 as a")
    assert [client.value("select a from scratch") for _ in range(5)] == ["42"] * 5
    client.run("insert into scratch values (43)")
    assert client.value("select count(*) from scratch") == "2"


def test_a_temporary_table_inside_a_transaction_is_found(forebay):
    client = forebay.wire()
    client.run("begin")
    client.run("create temporary table scratch on commit drop as select 42 as a")
    assert client.value("select a from scratch") == "42"
    client.run("commit")


# -- functions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def functions(shared_cluster, name):
    """Functions of each volatility, and a view and an operator over the volatile one."""
    for volatility in ("immutable", "stable", "volatile"):
        shared_cluster.sql(f"create function {name}_{volatility}() returns int language sql {volatility} as $$ select 42 $$")
    shared_cluster.sql(f"create view {name}_view as select {name}_volatile() as v")
    shared_cluster.sql(f"create function {name}_eq(int, int) returns boolean language sql volatile as $$ select $1 = $2 $$")
    shared_cluster.sql(f"create operator === (function = {name}_eq, leftarg = int, rightarg = int)")
    shared_cluster.sql(f"grant select on {name}_view to app")
    shared_cluster.caught_up()
    yield name
    shared_cluster.sql("drop operator === (int, int)")
    for what in ("view %s_view", "function %s_immutable", "function %s_stable", "function %s_volatile", "function %s_eq"):
        shared_cluster.sql(f"drop {what % name}")


def roles(client, sql, count=5):
    """The roles of the nodes that ran a query `count` times."""
    found = set()
    for _ in range(count):
        assert client.run(sql)
        found.add(role(client))
    return found


def client_that_knows(forebay, functions):
    """A client of an instance that has read the catalog; until then all that is unknown goes to the primary."""
    client = forebay.wire()
    wait_until(lambda: roles(client, f"select {functions}_stable()", 1) == {"replica"}, 15, "stable functions on a replica")
    return client


def test_functions_run_where_their_volatility_allows(start_forebay, functions):
    client = client_that_knows(start_forebay(), functions)
    assert roles(client, f"select {functions}_stable()") == {"replica"}
    assert roles(client, f"select {functions}_immutable()") == {"replica"}
    for call in (f"{functions}_volatile()", f"public.{functions}_volatile()", f'"{functions}_volatile"()',
                 f"x from {functions}_volatile() as x", f"1 where {functions}_volatile() = 42",
                 f"{functions}_stable() + {functions}_volatile()", f"(select {functions}_volatile())"):
        assert roles(client, f"select {call}") == {"primary"}, call


def test_a_view_over_a_volatile_function_is_a_write(start_forebay, functions):
    client = client_that_knows(start_forebay(), functions)
    assert roles(client, f"select v from {functions}_view") == {"primary"}


def test_an_operator_over_a_volatile_function_is_a_write(start_forebay, functions):
    client = client_that_knows(start_forebay(), functions)
    assert roles(client, "select 1 where 1 = 1") == {"replica"}
    assert roles(client, "select 1 where 1 === 1") == {"primary"}


def test_the_configuration_overrules_the_catalog(start_forebay, functions):
    forebay = start_forebay(routing={"read_functions": [f"{functions}_volatile"], "write_functions": [f"public.{functions}_stable"]})
    client = forebay.wire()
    wait_until(lambda: roles(client, f"select {functions}_volatile()", 1) == {"replica"}, 15, "read_functions to be believed")
    assert roles(client, f"select {functions}_volatile()") == {"replica"}
    assert roles(client, f"select {functions}_stable()") == {"primary"}


def test_a_database_under_another_name_has_its_lists_of_functions(start_forebay, functions):
    databases = [{"name": "bench"}, {"name": "alias", "dbname": "bench", "read_functions": [f"{functions}_volatile"]}]
    client = start_forebay(database=databases).wire(dbname="alias")
    wait_until(lambda: roles(client, f"select {functions}_volatile()", 1) == {"replica"}, 15, "read_functions to be believed")


def test_a_function_that_appeared_later_is_no_read(start_forebay, shared_cluster, name):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("select 1")
    shared_cluster.everywhere(
        f"create function {name}() returns int language sql volatile as $$ select 42 $$")
    for _ in range(5):
        assert client.value(f"select {name}()") == "42"
        assert role(client) == "primary", "a function that the catalog of before does not know"
    shared_cluster.sql(f"drop function {name}")


@pytest.fixture
def liar(shared_cluster, table):
    """A function declared stable that writes all the same."""
    shared_cluster.sql(
        f"create function {table}_write() returns int language plpgsql volatile as"
        f" $$ begin insert into {table} (v) values ('written'); return 7; end $$")
    shared_cluster.sql(
        f"create function {table}_liar() returns int language plpgsql stable as"
        f" $$ begin perform {table}_write(); return 7; end $$")
    shared_cluster.caught_up()
    yield f"{table}_liar"
    shared_cluster.sql(f"drop function {table}_liar; drop function {table}_write")


def refusals(cluster):
    return sum(node.log().count("cannot execute INSERT in a read-only transaction") for node in cluster.nodes)


@pytest.mark.parametrize("protocol", ["simple", "extended", "named"])
def test_a_statement_that_a_replica_refuses_runs_on_the_primary_and_is_remembered(
        start_forebay, shared_cluster, table, liar, protocol):
    forebay = start_forebay(routing={"read_functions": [liar]}, config={"general": {"threads": 1}})
    client = forebay.wire()
    before = refusals(shared_cluster)
    if protocol == "named":
        client.ask(wire.parse(f"select {liar}()", "s"), wire.sync())
    for number in range(1, 6):
        if protocol == "simple":
            answer = client.ask(wire.query(f"select {liar}()"))
        elif protocol == "extended":
            answer = client.ask(wire.parse(f"select {liar}()"), wire.bind(), wire.describe("P"), wire.execute(), wire.sync())
        else:
            answer = client.prepared("s")
        assert not wire.errors(answer), f"25006 must never reach a client: {wire.errors(answer)}"
        assert wire.rows(answer) == [["7"]]
        assert shared_cluster.value(f"select count(*) from {table}") == number
        # A read behind a write that no replica has yet would go to the primary anyway.
        shared_cluster.caught_up()
    assert refusals(shared_cluster) - before <= 1, "what a replica refused once is not tried there again"


def test_a_refusal_inside_a_read_only_transaction_is_the_clients_own(target, table):
    client = target.wire()
    client.run("begin read only")
    answer = client.ask(wire.query(f"insert into {table} (v) values ('x')"))
    assert wire.errors(answer) == ["25006"]
    client.run("rollback")
