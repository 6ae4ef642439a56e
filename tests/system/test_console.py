"""The admin console: what psql, monitoring tools and operators find there."""

import asyncio
import re
import subprocess

import asyncpg
import psycopg
import pytest

from harness import wait_until, wire
from harness.postgres import bin_dir

STATS = ("server_assignment_count xact_count query_count received sent xact_time query_time wait_time client_parse_count "
         "server_parse_count bind_count client_login_count").split()
AVERAGES = ("server_assignment_count xact_count query_count recv sent xact_time query_time wait_time client_parse_count "
            "server_parse_count bind_count client_login_count").split()
TOTALS = ("server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time "
          "client_parse_count server_parse_count bind_count client_login_count").split()
SOCKET = ("type user database replication state addr port local_addr local_port connect_time request_time wait wait_us "
          "close_needed ptr link remote_pid tls application_name prepared_statements id").split()

# PgBouncer's and Pgpool-II's columns in their order, then ours.
COLUMNS = {
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode "
                 "load_balance_hosts max_connections current_connections max_client_connections current_client_connections "
                 "paused disabled".split(),
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel "
             "sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts".split(),
    "STATS": ["database", *("total_" + name for name in STATS), *("avg_" + name for name in AVERAGES)],
    "STATS_TOTALS": ["database", *TOTALS],
    "STATS_AVERAGES": ["database", *TOTALS[:8], *("avg_" + name for name in TOTALS[8:])],
    "TOTALS": ["name", "value"],
    "CLIENTS": SOCKET,
    "SERVERS": SOCKET,
    "SOCKETS": [*SOCKET, *"recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail".split()],
    "LISTS": ["list", "items"],
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections "
             "max_user_client_connections current_client_connections".split(),
    "CONFIG": ["key", "value", "default", "changeable"],
    "MEM": ["name", "size", "used", "free", "memtotal"],
    "STATE": ["key", "value"],
    "VERSION": ["version"],
    "PEERS": ["peer_id", "host", "port", "pool_size"],
    "POOL_NODES": "node_id hostname port status pg_status lb_weight role pg_role select_cnt load_balance_node "
                  "replication_delay replication_state replication_sync_state last_status_change".split(),
    "ACTIVE_SOCKETS": [*SOCKET, *"recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail".split()],
    "PEER_POOLS": "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login".split(),
    "DNS_HOSTS": "hostname ttl addrs".split(),
    "DNS_ZONES": "zonename serial count".split(),
    "POOL_PROCESSES": "pool_pid start_time client_connection_count database username backend_connection_time pool_counter "
                      "status".split(),
    "POOL_POOLS": "pool_pid start_time client_connection_count pool_id backend_id database username "
                  "backend_connection_time client_connection_time client_disconnection_time client_idle_duration majorversion "
                  "minorversion pool_counter pool_backendpid pool_connected status load_balance_node client_host client_port "
                  "statement".split(),
    "POOL_BACKEND_STATS": "node_id hostname port status role select_cnt insert_cnt update_cnt delete_cnt ddl_cnt other_cnt "
                          "panic_cnt fatal_cnt error_cnt".split(),
    "POOL_HEALTH_CHECK_STATS": "node_id hostname port status role last_status_change total_count success_count fail_count "
                               "skip_count retry_count average_retry_count max_retry_count max_duration min_duration "
                               "average_duration last_health_check last_successful_health_check last_skip_health_check "
                               "last_failed_health_check".split(),
    "POOL_CACHE": "num_cache_hits num_selects cache_hit_ratio num_hash_entries used_hash_entries num_cache_entries "
                  "used_cache_entries_size free_cache_entries_size fragment_cache_entries_size".split(),
    "EVENTS": "time service epoch event node detail".split(),
    "PINS": "client_id database user reason since".split(),
    "BANS": "address until reason failures".split(),
    "HBA": "file line type database user address method options".split(),
    "HA": "service mode durability epoch primary timeline phase guarantee".split(),
    "HA CHECKS": "service node check result detail".split(),
    "INSTANCES": "instance address version leader epoch_acked gate lease_left_ms last_seen".split(),
    "NODES": "service kind node host port role state weight lag_bytes lag_ms position timeline connections last_change reason".split(),
    "QUEUE": "service database user waiting oldest_wait_ms served timed_out refused".split(),
}

# The exporter for older versions reads reserve_pool: it may follow the columns of today.
MAY_FOLLOW = {"DATABASES": {"reserve_pool"}}


def columns(connection, sql, **options):
    return [column.name for column in connection.execute(sql, **options).description]


# -- views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", list(COLUMNS))
def test_each_view_has_its_columns_in_order(forebay, view):
    with forebay.connect() as client, forebay.console() as console:
        client.execute("select 1")
        found = columns(console, f"SHOW {view}")
        expected = COLUMNS[view]
        assert found[:len(expected)] == expected
        assert set(found[len(expected):]) <= MAY_FOLLOW.get(view, set()), f"{found[len(expected):]} does not belong there"
        assert columns(console, f"show {view.lower()};") == found, "keywords in lower case, with a semicolon"


@pytest.mark.parametrize("view", list(COLUMNS))
def test_each_view_is_the_same_by_the_extended_protocol(forebay, view):
    with forebay.console(user="viewer") as console:
        simple = columns(console, f"SHOW {view}")
        console.prepare_threshold = 0
        assert columns(console, f"SHOW {view}", prepare=True) == simple
        client = forebay.wire(user="admin", dbname="forebay")
        answer = client.ask(wire.parse(f"SHOW {view}"), wire.describe(), wire.bind(), wire.describe("P"), wire.execute(), wire.sync())
        assert not wire.errors(answer), wire.errors(answer)
        assert wire.types(answer).replace("D", "") == "1tT2TCZ"


def test_asyncpg_reads_the_console(forebay):
    """A driver that prepares everything and asks for binary results where it can."""
    async def read():
        connection = await asyncpg.connect(
            host="127.0.0.1", port=forebay.port, user="admin", password="admin", database="forebay")
        try:
            return await connection.fetch("SHOW POOLS"), await connection.fetch("SHOW STATS"), await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    forebay.connect().execute("select 1")
    pools, stats, one = asyncio.run(read())
    assert {(row["database"], row["user"]) for row in pools} >= {("bench", "app")}
    assert stats and one == 1


def test_help_lists_everything_that_is_there(forebay):
    done = psql(forebay, "SHOW HELP")
    text = (done.stdout + done.stderr).upper()
    missing = [view for view in COLUMNS if view not in text]
    commands = ["RELOAD", "PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "KILL", "KILL_CLIENT", "SUSPEND", "SHUTDOWN",
                "WAIT_CLOSE", "SET ", "EXPLAIN ROUTE", "DETACH NODE", "ATTACH NODE", "DRAIN NODE", "SET WEIGHT", "SWITCHOVER"]
    missing += [command for command in commands if command not in text]
    assert not missing, f"SHOW HELP does not mention {missing}"
    rows = forebay.admin("SHOW HELP")
    topics = list(dict.fromkeys(row["topic"] for row in rows))
    assert rows[0]["command"] == "SHOW NODES" and topics[0] == "nodes and failover", "what is needed first comes first"
    assert topics[-2:] == ["for tools of PgBouncer", "for tools of Pgpool-II"]
    assert [row["topic"] for row in rows] == sorted((row["topic"] for row in rows), key=topics.index), "topics in one piece"


def test_every_view_that_help_names_answers(forebay):
    done = psql(forebay, "SHOW HELP")
    named = set(re.findall(r"\b[A-Z_]{3,}\b", (done.stdout + done.stderr)))
    with forebay.console() as console:
        for view in sorted(named & set(COLUMNS)):
            console.execute(f"SHOW {view}")


def psql(forebay, sql, dbname="forebay", user="admin"):
    return subprocess.run(
        [bin_dir() / "psql", "-X", "-c", sql], capture_output=True, text=True, timeout=30, check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **forebay.environment(user, dbname)})


@pytest.mark.parametrize("dbname", ["forebay", "pgbouncer"])
def test_psql_shows_the_views(forebay, dbname):
    done = psql(forebay, "SHOW POOLS", dbname)
    assert done.returncode == 0, done.stderr
    assert "cl_waiting" in done.stdout and "maxwait_us" in done.stdout


def test_the_name_of_the_console_database_can_be_chosen(start_forebay):
    forebay = start_forebay(config={"admin": {"database": "control"}}, wait="login")
    assert forebay.admin("SHOW VERSION", dbname="control")
    assert forebay.admin("SHOW VERSION", dbname="pgbouncer")


# -- what drivers and monitors send ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["-- ping", "", ";", "/* nothing */", " "])
def test_an_empty_statement_is_fine(forebay, sql):
    client = forebay.wire(user="admin", dbname="forebay")
    assert wire.types(client.ask(wire.query(sql))) == "IZ"
    assert wire.types(client.ask(wire.parse(sql), wire.bind(), wire.execute(), wire.sync())) == "12IZ"


@pytest.mark.parametrize("sql", ["SELECT 1", "select 1;", "/* comment */ SELECT 1 -- more"])
def test_select_1_answers(forebay, sql):
    assert forebay.wire(user="admin", dbname="forebay").run(sql) == [["1"]]


def test_comments_around_a_view_are_skipped(forebay):
    client = forebay.wire(user="admin", dbname="forebay")
    assert client.run("-- who\n/* what /* nested */ */ SHOW /* inside */ VERSION -- end")


@pytest.mark.parametrize("name", ["client_encoding", "default_transaction_isolation", "standard_conforming_strings",
                                  "datestyle", "timezone", "extra_float_digits", "application_name"])
def test_session_parameters_of_drivers_are_answered(forebay, name):
    client = forebay.wire(user="admin", dbname="forebay")
    assert client.run(f"SHOW {name}")
    client.run(f"SET {name} = '2'" if name == "extra_float_digits" else f"SET {name} TO DEFAULT" if name != "application_name" else
               "SET application_name = 'monitor'")


def test_a_client_that_sends_many_start_up_parameters_is_let_in(forebay):
    client = forebay.wire(user="viewer", dbname="pgbouncer", params={
        "extra_float_digits": "2", "datestyle": "ISO, MDY", "client_encoding": "UTF8", "application_name": "telegraf",
        "options": "-c geqo=off", "intervalstyle": "postgres"})
    assert client.run("SHOW VERSION")


def test_telegraf_reads_stats_and_pools(forebay):
    """It takes each column of STATS but a few for an integer, and each of POOLS but user, database and mode for a field."""
    forebay.connect().execute("select 1")
    for row in forebay.admin("SHOW STATS"):
        assert isinstance(row.pop("database"), str)
        for name, value in row.items():
            if name not in ("avg_req", "avg_recv", "avg_sent", "avg_query"):
                int(str(value))
    for row in forebay.admin("SHOW POOLS"):
        assert all(isinstance(row[name], str) for name in ("user", "database", "pool_mode"))
        for name in COLUMNS["POOLS"][2:15]:
            assert isinstance(row[name], int), f"{name} is {row[name]!r}, not a number"


def test_the_prometheus_exporter_reads_its_views(forebay):
    forebay.connect().execute("select 1")
    config = {row["key"]: row["value"] for row in forebay.admin("SHOW CONFIG")}
    assert int(config["max_client_conn"]) == 10000 and "max_user_connections" in config
    databases = {row["name"]: row for row in forebay.admin("SHOW DATABASES")}
    assert databases, "a database that was used is listed"
    for row in databases.values():
        for name in ("pool_size", "max_connections", "current_connections", "paused", "disabled"):
            int(row[name])
        assert "reserve_pool" in row or "reserve_pool_size" in row
    assert all(len(row) == 2 for row in forebay.admin("SHOW LISTS"))
    lists = {row["list"]: int(row["items"]) for row in forebay.admin("SHOW LISTS")}
    assert set(lists) >= set("databases users peers pools peer_pools free_clients used_clients login_clients free_servers "
                             "used_servers dns_names dns_zones dns_queries dns_pending".split())
    assert forebay.admin("SHOW VERSION")[0]["version"].startswith("PgBouncer "), "tools look for PgBouncer's own word"
    for row in forebay.admin("SHOW STATS_TOTALS"):
        assert all(int(row[name]) >= 0 for name in TOTALS)


def test_times_and_counts_have_numeric_types(forebay):
    with forebay.console() as console:
        kinds = {c.name: c.type_code for c in console.execute("SHOW STATS").description}
        assert kinds["database"] == 25
        assert set(kinds[name] for name in kinds if name != "database") <= {1700, 20}, "numeric as PgBouncer, or bigint"
        kinds = {c.name: c.type_code for c in console.execute("SHOW POOLS").description}
        assert {kinds[name] for name in COLUMNS["POOLS"][2:15]} <= {23, 20}
        assert {kinds[name] for name in ("database", "user", "pool_mode")} == {25}


# -- values -------------------------------------------------------------------------------------------------------


def test_stats_count_what_clients_do(start_forebay, table):
    forebay = start_forebay()
    client = forebay.wire()
    client.run("select 1")

    def stats():
        return {key: int(value) for row in forebay.admin("SHOW STATS") if row["database"] == "bench"
                for key, value in row.items() if key.startswith("total_")}

    before = stats()
    for _ in range(10):
        client.run("select 1")
    client.run("begin")
    client.run(f"insert into {table} (v) values ('{'x' * 1000}')")
    client.run("select pg_sleep(0.2)")
    client.run("commit")
    client.ask(wire.parse("select 1", "s"), wire.sync())
    client.prepared("s")
    client.prepared("s")
    after = wait_until(lambda: (now := stats())["total_query_count"] >= before["total_query_count"] + 14 and now, 5, "the counters")
    grown = {name: after[name] - before[name] for name in after}
    assert 16 <= grown["total_query_count"] <= 18, grown
    assert 12 <= grown["total_xact_count"] <= 15, grown
    assert grown["total_received"] > 1000 and grown["total_sent"] > 100
    assert 190_000 < grown["total_query_time"] < 20_000_000, "microseconds"
    assert grown["total_xact_time"] >= grown["total_query_time"] * 0.9
    assert grown["total_client_parse_count"] == 1 and grown["total_bind_count"] == 2


def test_clients_and_servers_are_listed_with_their_state(start_forebay):
    forebay = start_forebay(pool={"size": 1}, routing={"split": False})
    busy, idle, waiting = forebay.wire(params={"application_name": "busy-one"}), forebay.wire(), forebay.wire()
    busy.run("begin")
    waiting.send(wire.query("select 1"))
    forebay.wait_pool(cl_waiting=1)
    clients = {f"{row['addr']}:{row['port']}": row for row in forebay.admin("SHOW CLIENTS")}
    assert clients[busy.address]["state"] == "active" and clients[busy.address]["application_name"] == "busy-one"
    assert clients[waiting.address]["state"] == "waiting"
    assert clients[idle.address]["state"] in ("idle", "active")
    assert {row["type"] for row in clients.values()} == {"C"}
    # A login before the primary was found may have left an idle connection to a replica.
    servers = [row for row in forebay.admin("SHOW SERVERS") if row["user"] == "app" and row["state"] != "idle"]
    assert [row["state"] for row in servers] == ["active"] and servers[0]["type"] == "S"
    assert servers[0]["remote_pid"] == int(busy.value("select pg_backend_pid()"))
    assert servers[0]["link"] == clients[busy.address]["ptr"]


def test_pool_nodes_speaks_pgpools_words(forebay, shared_cluster):
    rows = forebay.admin("SHOW POOL_NODES")
    assert [(row["hostname"], int(row["port"])) for row in rows] == [("127.0.0.1", node.port) for node in shared_cluster.nodes]
    assert [row["status"] for row in rows] == ["up"] * 3
    assert [row["role"] for row in rows] == ["primary", "standby", "standby"]
    assert [str(row["node_id"]) for row in rows] == ["0", "1", "2"]


def test_pool_nodes_tells_how_each_replica_replicates(cluster, start_forebay):
    forebay = start_forebay(servers=cluster)
    primary, pg2, pg3 = cluster.nodes
    unknown, asynchronous, synchronous = ("", ""), ("streaming", "async"), ("streaming", "sync")

    def shows(first, second):
        wanted = [unknown, first, second]
        rows = lambda: [(row["replication_state"], row["replication_sync_state"]) for row in forebay.admin("SHOW POOL_NODES")]
        wait_until(lambda: rows() == wanted, 15, f"{wanted}, last {rows()}")

    def set_on(node, setting):
        node.sql(f"alter system set {setting}")
        node.sql("select pg_reload_conf()")

    def receive(node, source, name):
        set_on(node, f"primary_conninfo = 'host=127.0.0.1 port={source.port} user=replicator application_name={name}'")

    # An ordinary login is not shown what would tell replicas apart.
    shows(unknown, unknown)
    primary.sql("grant pg_monitor to monitor")
    # Each has a slot and a name of its own.
    shows(asynchronous, asynchronous)
    set_on(primary, "synchronous_standby_names = 'pg3'")
    shows(asynchronous, synchronous)
    set_on(primary, "synchronous_standby_names = ''")
    pg2.follow(primary)
    pg3.follow(primary)
    wait_until(lambda: primary.value("select count(*) from pg_replication_slots where active") == 0, 15,
               "the slots to be left")
    shows(asynchronous, asynchronous)
    # Of two with the same name and address nobody can say which is which.
    receive(pg2, primary, "pg3")
    shows(unknown, unknown)
    # This one receives from the other: the primary knows nothing of it.
    receive(pg2, pg3, "pg2")
    shows(unknown, asynchronous)
    set_on(pg2, "primary_conninfo = ''")
    shows(unknown, asynchronous)


def test_no_view_shows_a_secret(start_forebay):
    users = [{"name": "app", "password": "app"}, {"name": "nobody", "password": "very-secret"}]
    forebay = start_forebay(user=users)
    for view in COLUMNS:
        assert "very-secret" not in str(forebay.admin(f"SHOW {view}")), view


def test_state_tells_whether_it_is_paused(start_forebay):
    forebay = start_forebay()
    states = {row["key"]: row["value"] for row in forebay.admin("SHOW STATE")}
    assert states == {"active": "yes", "paused": "no", "suspended": "no"}
    forebay.admin("PAUSE")
    assert {row["key"]: row["value"] for row in forebay.admin("SHOW STATE")}["paused"] == "yes"
    forebay.admin("RESUME")


def test_explain_route_has_target_reason_and_statement(forebay):
    row = forebay.admin("EXPLAIN ROUTE select 1 for update")[0]
    assert list(row) == ["target", "reason", "statement"]
    assert row["target"] == "primary" and row["statement"] == "select 1 for update" and row["reason"]
    assert forebay.admin("EXPLAIN ROUTE select 1")[0]["target"] in ("replica", "any")
    assert forebay.admin("EXPLAIN ROUTE show forebay.node")[0]["target"] == "local"


# -- errors and roles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["SHOW NOTHING", "NONSENSE", "PAUSE no_such_database", "KILL_CLIENT 99999999",
                                 "SET no_such_key = 1", "INSERT INTO x VALUES (1)", "SHOW POOLS; DROP TABLE x"])
def test_what_the_console_does_not_know_is_an_error(forebay, sql):
    client = forebay.wire(user="admin", dbname="forebay")
    answer = client.ask(wire.query(sql))
    assert wire.errors(answer) and wire.status(answer) == "I"
    assert client.run("SHOW VERSION"), "the console goes on"


@pytest.mark.parametrize("sql", ["RELOAD", "PAUSE", "RESUME", "DISABLE bench", "KILL bench", "RECONNECT", "KILL_CLIENT 1",
                                 "SHUTDOWN", "SUSPEND", "WAIT_CLOSE bench", "SET max_client_conn = 5", "DETACH NODE pg2", "SET WEIGHT pg2 = 3"])
def test_a_viewer_may_run_no_command(forebay, sql):
    client = forebay.wire(user="viewer", dbname="forebay")
    assert wire.errors(client.ask(wire.query(sql))) == ["42501"]
    assert forebay.wire().value("select 1") == "1"


def test_a_user_of_the_pools_is_no_user_of_the_console(forebay):
    with pytest.raises(wire.ServerError):
        forebay.wire(user="app", dbname="forebay").run("PAUSE")
    with pytest.raises(wire.ServerError) as caught:
        forebay.wire(user="admin", password="wrong", dbname="forebay")
    assert caught.value.sqlstate == "28P01"


def test_without_admin_users_the_console_answers_views_and_no_command(start_forebay):
    forebay = start_forebay(config={"admin": {"user": None}}, wait="login")
    client = forebay.wire(dbname="forebay")
    assert client.run("SHOW POOLS")
    assert wire.errors(client.ask(wire.query("PAUSE"))) == ["42501"]


def test_a_command_is_logged_with_the_admins_name(start_forebay):
    forebay = start_forebay()
    before = len(forebay.log())
    forebay.admin("PAUSE bench")
    forebay.admin("RESUME bench")
    lines = [line for line in forebay.log()[before:].splitlines() if "PAUSE" in line.upper()]
    assert any("admin" in line for line in lines), forebay.log()[before:]


def test_the_console_is_there_while_every_client_place_is_taken(start_forebay):
    forebay = start_forebay(max_clients=2, wait="login")
    clients = []
    with pytest.raises(psycopg.OperationalError):
        for _ in range(4):
            clients.append(forebay.connect())
    assert forebay.admin("SHOW POOLS"), "an admin must get in when it matters"
