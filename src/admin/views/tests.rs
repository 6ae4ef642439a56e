use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::replication::Stream;
use super::*;
use crate::admin::table::{Kind, Value};
use crate::ops::instance::Stop;
use crate::pg::orders::Orders;
use crate::pg::pool::PoolKey;
use crate::pg::queries::{Figures, QueryReport};
use crate::pg::registry::{ClientState, ServerState};
use crate::pg::report::{ClientCounts, ClientReport, History, PoolReport, ServerCounts, ServerReport};
use crate::pg::stats::{NodeStats, Totals};
use crate::redis::usage::{CommandReport, HotKey, KeyId, LargeKey, ServiceUsage, Timed};
use crate::topology::acknowledged::Acknowledged;
use crate::topology::{ClusterView, Event, Freshness, NodeView, Role, Snapshot, State};

const SECOND: u64 = 1_000_000_000;

/// A letter for each kind of column, as PgBouncer's own code has them: s text, i integer, q bigint, N numeric.
fn kinds(view: &View) -> String {
    let letter = |c: &Column| match c.kind {
        Kind::Text => 's',
        Kind::Int4 => 'i',
        Kind::Int8 => 'q',
        Kind::Numeric => 'N',
        Kind::Bool => 'b',
        Kind::Float8 => 'f',
    };
    view.columns.iter().map(letter).collect()
}

fn names(view: &View) -> String {
    view.columns.iter().map(|c| c.name.as_ref()).collect::<Vec<_>>().join(" ")
}

/// The contract with tools: the names in order, and the types.
#[test]
fn columns_are_those_of_the_tools() {
    const SOCKET: &str = "type user database replication state addr port local_addr local_port connect_time request_time \
        wait wait_us close_needed ptr link remote_pid tls application_name prepared_statements id";
    let with_buffers = format!("{SOCKET} recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail");
    for (view, columns, types) in [
        ("VERSION", "version", "s"),
        ("CONFIG", "key value default changeable", "ssss"),
        (
            "DATABASES",
            "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode \
             load_balance_hosts max_connections current_connections max_client_connections current_client_connections \
             paused disabled reserve_pool",
            "ssissiiiissiiiiiii",
        ),
        (
            "POOLS",
            "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
             sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
            "ssiiiiiiiiiiiiiss",
        ),
        ("CLIENTS", SOCKET, "ssssssisissiiississii"),
        ("SERVERS", SOCKET, "ssssssisissiiississii"),
        ("SOCKETS", &with_buffers, "ssssssisissiiississiiiiiiiii"),
        ("ACTIVE_SOCKETS", &with_buffers, "ssssssisissiiississiiiiiiiii"),
        (
            "STATS",
            "database total_server_assignment_count total_xact_count total_query_count total_received total_sent \
             total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count \
             total_bind_count total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count \
             avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count \
             avg_bind_count avg_client_login_count",
            "sNNNNNNNNNNNNNNNNNNNNNNNN",
        ),
        (
            "STATS_TOTALS",
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time \
             wait_time client_parse_count server_parse_count bind_count client_login_count",
            "sNNNNNNNNNNNN",
        ),
        (
            "STATS_AVERAGES",
            "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time \
             wait_time avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
            "sNNNNNNNNNNNN",
        ),
        ("TOTALS", "name value", "sN"),
        ("LISTS", "list items", "si"),
        (
            "USERS",
            "name pool_size reserve_pool_size pool_mode max_user_connections current_connections \
             max_user_client_connections current_client_connections",
            "ssssiiii",
        ),
        ("MEM", "name size used free memtotal", "siiii"),
        ("STATE", "key value", "ss"),
        ("PEERS", "peer_id host port pool_size", "isii"),
        ("PEER_POOLS", "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login", "iiiii"),
        ("DNS_HOSTS", "hostname ttl addrs", "sqs"),
        ("DNS_ZONES", "zonename serial count", "sqi"),
        (
            "POOL_NODES",
            "node_id hostname port status pg_status lb_weight role pg_role select_cnt load_balance_node \
             replication_delay replication_state replication_sync_state last_status_change",
            "ssssssssssssss",
        ),
        (
            "POOL_PROCESSES",
            "pool_pid start_time client_connection_count database username backend_connection_time pool_counter status",
            "ssssssss",
        ),
        (
            "POOL_POOLS",
            "pool_pid start_time client_connection_count pool_id backend_id database username backend_connection_time \
             client_connection_time client_disconnection_time client_idle_duration majorversion minorversion pool_counter \
             pool_backendpid pool_connected status load_balance_node client_host client_port statement",
            "sssssssssssssssssssss",
        ),
        (
            "POOL_BACKEND_STATS",
            "node_id hostname port status role select_cnt insert_cnt update_cnt delete_cnt ddl_cnt other_cnt panic_cnt \
             fatal_cnt error_cnt",
            "ssssssssssssss",
        ),
        (
            "POOL_HEALTH_CHECK_STATS",
            "node_id hostname port status role last_status_change total_count success_count fail_count skip_count \
             retry_count average_retry_count max_retry_count max_duration min_duration average_duration last_health_check \
             last_successful_health_check last_skip_health_check last_failed_health_check",
            "ssssssssssssssssssss",
        ),
        (
            "POOL_CACHE",
            "num_cache_hits num_selects cache_hit_ratio num_hash_entries used_hash_entries num_cache_entries \
             used_cache_entries_size free_cache_entries_size fragment_cache_entries_size",
            "sssssssss",
        ),
        ("POOL_VERSION", "pool_version", "s"),
        (
            "NODES",
            "service kind node host port role state weight lag_bytes lag_ms position timeline connections last_change reason",
            "ssssissiqqsiiss",
        ),
        ("EVENTS", "time service epoch event node detail", "ssqsss"),
        ("QUEUE", "service database user waiting oldest_wait_ms served timed_out refused", "sssiqqqq"),
        ("PINS", "client_id database user reason since", "qssss"),
        ("BANS", "address until reason failures", "sssi"),
        ("HBA", "file line type database user address method options", "sissssss"),
        ("HA", "service mode durability epoch primary timeline phase guarantee", "sssqsiss"),
        ("HA CHECKS", "service node check result detail", "sssss"),
        ("INSTANCES", "instance address version leader epoch_acked gate lease_left_ms last_seen", "ssssqsqs"),
    ] {
        let found = named(view).unwrap_or_else(|| panic!("there is no SHOW {view}"));
        assert_eq!(names(found), columns, "SHOW {view}");
        assert_eq!(kinds(found), types, "types of SHOW {view}");
    }
}

fn key(database: &str) -> PoolKey {
    PoolKey { database: database.into(), user: "app".into() }
}

fn config() -> Arc<crate::config::model::Config> {
    let text = "[general]\nthreads = 2\n\
        [[postgres.cluster]]\nname = \"main\"\nnodes = [\"10.0.0.1:5432\", \"10.0.0.2:5432\"]\n\
        [[postgres.database]]\nname = \"shop\"\ndbname = \"shop_v2\"\nmode = \"session\"\n\
        [[postgres.database]]\nname = \"*\"\n\
        [[postgres.user]]\nname = \"app\"\npassword = \"secret\"\nsize = 7\n";
    Arc::new(crate::config::load_str(text, "test", std::path::Path::new("")).unwrap().config)
}

fn node(name: &str, role: Role) -> NodeView {
    NodeView {
        name: name.to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 5432,
        weight: 1,
        role,
        state: State::Up,
        lag_bytes: (role == Role::Replica).then_some(12),
        lag_ms: None,
        position: None,
        timeline: Some(3),
        last_change: SystemTime::UNIX_EPOCH,
        reason: String::new(),
        fit_for_reads: role == Role::Replica,
        fit_elsewhere: Vec::new(),
        fresh: Arc::new(Freshness::default()),
        acknowledged: Arc::new(Acknowledged::new(Arc::default())),
        suspicion: Arc::default(),
        health: Default::default(),
    }
}

/// One of everything.
fn usage() -> Vec<ServiceUsage> {
    let mut timed = Timed { count: 2, time: 3_000_000, bytes_in: 60, bytes_out: 100, ..Timed::default() };
    timed.times.add(1_500_000, 2);
    vec![ServiceUsage {
        service: "cache".into(),
        commands: vec![
            CommandReport { name: "get".into(), calls: [7, 3, 0, 0], errors: 1, timed },
            CommandReport { name: "client|id".into(), calls: [0, 0, 0, 2], errors: 0, timed: Timed::default() },
        ],
        hot: vec![HotKey {
            db: 1,
            key: (b"a\n".as_slice().into(), 2),
            accesses: 40,
            error: 3,
            share: 1250,
            writes: 10,
        }],
        large: vec![LargeKey {
            id: KeyId { db: 0, hash: 1 },
            key: b"large".as_slice().into(),
            len: 5,
            bytes: 70_000,
            command: "set".into(),
            seen: 1,
        }],
    }]
}

fn facts() -> Facts {
    let config = config();
    let pool = PoolReport {
        key: key("shop"),
        cluster: 0,
        server_database: "shop_v2".into(),
        server_user: "app".into(),
        mode: config.postgres.pool_for("shop", "app").mode,
        balance: config.postgres.routing.balance,
        settings: config.postgres.pool_for("shop", "app"),
        clients: ClientCounts { idle: 5, active: 2, waiting: 1 },
        servers: ServerCounts {
            active: 2,
            idle: 1,
            tested: 1,
            login: 1,
            being_canceled: 1,
            cancels: 1,
            close_needed: 0,
        },
        by_node: vec![4, 2],
        oldest: Some(8 * SECOND),
        totals: Totals {
            queries: 100,
            query_time: 5_000_000,
            by_node: vec![
                NodeStats { selects: 60, ..NodeStats::default() },
                NodeStats { selects: 40, ..NodeStats::default() },
            ],
            ..Totals::default()
        },
        by_target: (60, 40),
        pins: std::collections::BTreeMap::new(),
        is_paused: false,
        is_disabled: false,
        is_removed: false,
    };
    let client = ClientReport {
        id: 11,
        database: "shop".into(),
        user: "app".into(),
        peer: ("192.0.2.1".into(), 40_000),
        local: ("192.0.2.9".into(), 6432),
        connected: SystemTime::UNIX_EPOCH,
        tls: None,
        application_name: "till".into(),
        state: ClientState::Active,
        since: SECOND,
        link: 12,
        linked: SECOND,
        prepared: 3,
        pin: Some("LISTEN"),
    };
    let server = ServerReport {
        id: 12,
        database: "shop".into(),
        user: "app".into(),
        cluster: 0,
        node: 0,
        tls: None,
        peer: ("10.0.0.1".into(), 5432),
        local: ("10.0.0.9".into(), 50_000),
        connected: SystemTime::UNIX_EPOCH,
        state: ServerState::Active,
        since: SECOND,
        client: 11,
        process_id: 4711,
        prepared: 9,
        close_needed: true,
    };
    let cluster = ClusterView {
        cut_epoch: 0,
        closed: None,
        candidates: 1,
        is_synchronous: false,
        objection: None,
        paused: None,
        name: "main".into(),
        epoch: 2,
        primary: Some(0),
        nodes: vec![node("pg1", Role::Primary), node("pg2", Role::Replica)],
        system_identifier: None,
        server_version: None,
        wanted_fresh: Arc::default(),
    };
    let event = Event {
        seq: 1,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
        service: "main".into(),
        epoch: 2,
        event: "node_up".into(),
        node: "pg1".into(),
        detail: "primary".into(),
    };
    Facts {
        config,
        snapshot: Arc::new(Snapshot { version: 1, clusters: vec![Arc::new(cluster)] }),
        redis: Arc::default(),
        now: 10 * SECOND + 250_000_000,
        stopping: Stop::Run,
        others: None,
        orders: Orders { paused: ["shop".to_owned()].into(), disabled: ["old".to_owned()].into(), ..Orders::default() },
        pools: vec![pool],
        clients: vec![client.clone()],
        servers: vec![server],
        redis_services: Vec::new(),
        redis_clients: Vec::new(),
        consoles: vec![ClientReport {
            id: 13,
            database: "pgbouncer".into(),
            user: "admin".into(),
            link: 0,
            pin: None,
            ..client
        }],
        console_totals: Totals { queries: 4, ..Totals::default() },
        connections: 3,
        statements: 8,
        history: History::new(0),
        bans: Vec::new(),
        events: vec![event],
        usage: usage(),
        queries: vec![QueryReport {
            fingerprint: 0xabc,
            pool: PoolKey { database: "shop".into(), user: "app".into() },
            is_replica: true,
            figures: Figures { calls: 4, time: 6_000_000, ..Figures::default() },
            text: "select ?".into(),
        }],
        checks: Vec::new(),
        streams: [((0, 1), Stream { state: "streaming".into(), sync_state: "async".into() })].into(),
    }
}

/// The value of a column in the first row where another column has this value.
fn cell(view: &str, column: &str, of: (&str, &str)) -> Option<String> {
    let view = named(view).unwrap();
    let at = |name: &str| view.columns.iter().position(|c| c.name == name).unwrap_or_else(|| panic!("{name}"));
    let text = |row: &Row, name: &str| row[at(name)].text(view.columns[at(name)].kind).map(|t| t.into_owned());
    let rows = (view.rows)(&facts());
    let row = rows.iter().find(|row| text(row, of.0).as_deref() == Some(of.1)).unwrap_or_else(|| panic!("{of:?}"));
    text(row, column)
}

#[test]
fn every_row_has_a_value_of_the_right_kind_for_every_column() {
    let facts = facts();
    for view in VIEWS {
        let rows = (view.rows)(&facts);
        for row in &rows {
            assert_eq!(row.len(), view.columns.len(), "SHOW {}: {row:?}", view.name);
            for (value, column) in row.iter().zip(view.columns) {
                let fits = match value {
                    Value::Null => true,
                    Value::Text(_) => column.kind == Kind::Text,
                    Value::Int(_) => column.kind != Kind::Text,
                    Value::Thousandths(_) => column.kind == Kind::Float8,
                };
                assert!(fits, "SHOW {}: {} is {value:?}", view.name, column.name);
            }
        }
        let may_be_empty = ["PEERS", "PEER_POOLS", "DNS_HOSTS", "DNS_ZONES", "BANS", "HBA", "HA CHECKS"];
        assert!(!rows.is_empty() || may_be_empty.contains(&view.name), "SHOW {} shows nothing", view.name);
    }
}

#[test]
fn names_are_unique_and_help_has_each_of_them_once() {
    let unique: BTreeSet<&str> = VIEWS.iter().map(|v| v.name).collect();
    assert_eq!(unique.len(), VIEWS.len());
    let notice = crate::admin::help::notice().detail.unwrap();
    let form = |row: &Row| row[0].text(Kind::Text).map(|form| form.into_owned()).unwrap();
    let shown: Vec<String> = crate::admin::help::rows().iter().map(form).collect();
    for view in VIEWS {
        assert!(notice.contains(view.name), "SHOW HELP does not name {}", view.name);
        let times = shown.iter().filter(|form| **form == format!("SHOW {}", view.name)).count();
        assert_eq!(times, 1, "rows of SHOW HELP for {}", view.name);
        assert!(!view.about.is_empty());
    }
}

#[test]
fn pools_count_idle_clients_as_active_and_tell_the_longest_wait() {
    let of = ("database", "shop");
    for (column, expected) in [
        ("cl_active", "7"),
        ("cl_waiting", "1"),
        ("sv_active", "2"),
        ("sv_active_cancel", "1"),
        ("sv_being_canceled", "1"),
        ("sv_idle", "1"),
        ("sv_used", "0"),
        ("sv_tested", "1"),
        ("sv_login", "1"),
        ("maxwait", "2"),
        ("maxwait_us", "250000"),
        ("pool_mode", "session"),
    ] {
        assert_eq!(cell("POOLS", column, of).as_deref(), Some(expected), "{column}");
    }
    assert_eq!(cell("POOLS", "cl_active", ("user", "pgbouncer")).as_deref(), Some("1"));
}

#[test]
fn databases_tell_where_they_are_and_what_was_ordered() {
    let of = ("name", "shop");
    for (column, expected) in [
        ("host", "10.0.0.1,10.0.0.2"),
        ("database", "shop_v2"),
        ("pool_mode", "session"),
        ("paused", "1"),
        ("disabled", "0"),
        ("current_connections", "6"),
        ("current_client_connections", "8"),
    ] {
        assert_eq!(cell("DATABASES", column, of).as_deref(), Some(expected), "{column}");
    }
    assert_eq!(cell("DATABASES", "disabled", ("name", "old")).as_deref(), Some("1"), "known by the order alone");
    assert_eq!(cell("DATABASES", "pool_mode", ("name", "old")), None, "nothing of its own");
}

#[test]
fn times_are_microseconds_and_averages_are_there() {
    let of = ("database", "shop");
    assert_eq!(cell("STATS", "total_query_time", of).as_deref(), Some("5000"));
    assert_eq!(cell("STATS", "avg_query_time", of).as_deref(), Some("50"));
    assert_eq!(cell("STATS", "avg_query_count", of).as_deref(), Some("9"), "100 queries in 10.25 s");
    assert_eq!(cell("TOTALS", "value", ("name", "total_query_count")).as_deref(), Some("100"), "without the console's");
}

#[test]
fn what_was_looked_at_tells_of_all() {
    for (column, expected) in [
        ("calls", "10"),
        ("replica", "3"),
        ("errors", "1"),
        ("total_ms", "15"),
        ("mean_ms", "1.5"),
        ("bytes_in", "300"),
        ("bytes_out", "500"),
        ("timed", "2"),
    ] {
        assert_eq!(cell("COMMANDS", column, ("command", "GET")).as_deref(), Some(expected), "{column}");
    }
    assert_eq!(cell("COMMANDS", "forebay", ("command", "CLIENT|ID")).as_deref(), Some("2"));
    assert_eq!(cell("COMMANDS", "mean_ms", ("command", "CLIENT|ID")), None, "none was timed");
    for (column, expected) in
        [("key", "a\\n"), ("share_percent", "12.5"), ("reads", "30"), ("writes", "10"), ("error", "3")]
    {
        assert_eq!(cell("KEYS", column, ("kind", "hot")).as_deref(), Some(expected), "{column}");
    }
    assert_eq!(cell("KEYS", "bytes", ("kind", "big")).as_deref(), Some("70000"));
    assert_eq!(cell("KEYS", "command", ("key", "large")).as_deref(), Some("SET"));
}

#[test]
fn clients_and_servers_are_linked() {
    assert_eq!(cell("CLIENTS", "link", ("id", "11")), cell("SERVERS", "ptr", ("id", "12")));
    assert_eq!(cell("SERVERS", "link", ("id", "12")), cell("CLIENTS", "ptr", ("id", "11")));
    assert_eq!(cell("SERVERS", "application_name", ("id", "12")).as_deref(), Some("till"));
    assert_eq!(cell("SOCKETS", "state", ("id", "12")).as_deref(), Some("sv_active"));
    assert_eq!(cell("PINS", "reason", ("client_id", "11")).as_deref(), Some("LISTEN"));
}

#[test]
fn pgpools_views_count_by_node() {
    assert_eq!(cell("POOL_NODES", "select_cnt", ("node_id", "1")).as_deref(), Some("40"));
    assert_eq!(cell("POOL_NODES", "lb_weight", ("node_id", "0")).as_deref(), Some("0.500000"));
    assert_eq!(cell("POOL_NODES", "replication_delay", ("node_id", "1")).as_deref(), Some("12"));
    assert_eq!(cell("POOL_NODES", "role", ("node_id", "1")).as_deref(), Some("standby"));
    assert_eq!(cell("POOL_NODES", "replication_state", ("node_id", "1")).as_deref(), Some("streaming"));
    assert_eq!(cell("POOL_NODES", "replication_sync_state", ("node_id", "0")).as_deref(), Some(""), "a primary");
    assert_eq!(cell("NODES", "connections", ("node", "pg1")).as_deref(), Some("4"));
    let version = cell(
        "POOL_VERSION",
        "pool_version",
        ("pool_version", &format!("4.7.0 (Forebay {})", env!("CARGO_PKG_VERSION"))),
    );
    assert!(version.is_some_and(|v| v.starts_with("4.7")));
}

#[test]
fn no_secret_is_shown() {
    let facts = facts();
    for view in VIEWS {
        let shown = format!("{:?}", (view.rows)(&facts));
        assert!(!shown.contains("secret"), "SHOW {}", view.name);
    }
}
