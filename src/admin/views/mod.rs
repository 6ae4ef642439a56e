//! Everything that can be shown: one table of names, columns, one-line docs and functions.
//!
//! The columns of PgBouncer's and Pgpool-II's views are theirs in order, name and type (PgBouncer 1.25 after its
//! `admin.c` and `stats.c`, Pgpool-II 4.7 after its manual): tools find columns by name, some by place.

use super::facts::{Facts, Needs};
use super::table::{Column, Row, columns};

pub(super) mod checks;
mod hba;
mod nodes;
mod pgpool;
pub(super) mod pools;
mod process;
mod promotion;
mod redis;
pub(super) mod replication;
mod sockets;
mod stats;
mod usage;

/// One view.
pub struct View {
    /// What follows SHOW.
    pub name: &'static str,
    /// See the module.
    pub columns: &'static [Column],
    /// For `SHOW HELP`.
    pub about: &'static str,
    pub(super) needs: Needs,
    pub(super) rows: fn(&Facts) -> Vec<Row>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({})", self.name)
    }
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The view of this name, in any case.
pub(super) fn named(name: &str) -> Option<&'static View> {
    VIEWS.iter().find(|view| view.name.eq_ignore_ascii_case(name))
}

/// The view that somebody may have meant by a name that none has.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    let distance = |view: &View| strsim::damerau_levenshtein(&name, view.name);
    let nearest = VIEWS.iter().min_by_key(|view| distance(view))?;
    (distance(nearest) <= 2).then_some(nearest.name)
}

const SOCKET_WITH_BUFFERS: &[Column] = columns![
    Text "type" "user" "database" "replication" "state" "addr"; Int4 "port"; Text "local_addr"; Int4 "local_port";
    Text "connect_time" "request_time"; Int4 "wait" "wait_us" "close_needed"; Text "ptr" "link"; Int4 "remote_pid";
    Text "tls" "application_name"; Int4 "prepared_statements" "id";
    Int4 "recv_pos" "pkt_pos" "pkt_remain" "send_pos" "send_remain" "pkt_avail" "send_avail";
];

const SOCKET: &[Column] = SOCKET_WITH_BUFFERS.split_at(SOCKET_WITH_BUFFERS.len() - sockets::BUFFERS).0;

/// One that tools ask for, and that has nothing to show in this version.
const fn without_rows(name: &'static str, columns: &'static [Column], about: &'static str) -> View {
    View { name, columns, about, needs: Needs::empty(), rows: |_| Vec::new() }
}

/// Every view; the order of `SHOW HELP` is in its topics.
pub static VIEWS: &[View] = &[
    View {
        name: "HELP",
        columns: columns![Text "command" "description" "topic"],
        about: "this list",
        needs: Needs::empty(),
        rows: |_| super::help::rows(),
    },
    View {
        name: "VERSION",
        columns: columns![Text "version"],
        about: "the version, and of which PgBouncer this console is like",
        needs: Needs::empty(),
        rows: process::version,
    },
    View {
        name: "CONFIG",
        columns: columns![Text "key" "value" "default" "changeable"],
        about: "the configuration in force, and PgBouncer's names for it",
        needs: Needs::empty(),
        rows: process::config,
    },
    View {
        name: "DATABASES",
        // The last column is PgBouncer's older name of reserve_pool_size, which its Prometheus exporter reads.
        columns: columns![
            Text "name" "host"; Int4 "port"; Text "database" "force_user";
            Int4 "pool_size" "min_pool_size" "reserve_pool_size" "server_lifetime"; Text "pool_mode" "load_balance_hosts";
            Int4 "max_connections" "current_connections" "max_client_connections" "current_client_connections";
            Int4 "paused" "disabled" "reserve_pool";
        ],
        about: "databases as clients call them",
        needs: Needs::POOLS,
        rows: pools::databases,
    },
    View {
        name: "POOLS",
        columns: columns![
            Text "database" "user"; Int4 "cl_active" "cl_waiting" "cl_active_cancel_req" "cl_waiting_cancel_req";
            Int4 "sv_active" "sv_active_cancel" "sv_being_canceled" "sv_idle" "sv_used" "sv_tested" "sv_login";
            Int4 "maxwait" "maxwait_us"; Text "pool_mode" "load_balance_hosts";
        ],
        about: "clients and server connections of each pool by state, and the longest wait",
        needs: Needs::POOLS,
        rows: pools::pools,
    },
    View { name: "CLIENTS", columns: SOCKET, about: "clients", needs: Needs::CLIENTS, rows: sockets::clients },
    View {
        name: "SERVERS",
        columns: SOCKET,
        about: "server connections",
        needs: Needs::CLIENTS.union(Needs::SERVERS),
        rows: sockets::servers,
    },
    View {
        name: "SOCKETS",
        columns: SOCKET_WITH_BUFFERS,
        about: "clients and server connections",
        needs: Needs::CLIENTS.union(Needs::SERVERS),
        rows: sockets::sockets,
    },
    View {
        name: "ACTIVE_SOCKETS",
        columns: SOCKET_WITH_BUFFERS,
        about: "those that are doing something now",
        needs: Needs::CLIENTS.union(Needs::SERVERS),
        rows: sockets::active_sockets,
    },
    View {
        name: "STATS",
        columns: stats::BOTH,
        about: "counters of each database, and averages over the last one to two minutes; times in microseconds",
        needs: Needs::POOLS,
        rows: stats::both,
    },
    View {
        name: "STATS_TOTALS",
        columns: stats::TOTALS,
        about: "the counters alone",
        needs: Needs::POOLS,
        rows: stats::totals,
    },
    View {
        name: "STATS_AVERAGES",
        columns: stats::AVERAGES,
        about: "the averages alone",
        needs: Needs::POOLS,
        rows: stats::averages,
    },
    View {
        name: "TOTALS",
        columns: columns![Text "name"; Numeric "value"],
        about: "counters and averages over all databases",
        needs: Needs::POOLS,
        rows: stats::overall,
    },
    View {
        name: "LISTS",
        columns: columns![Text "list"; Int4 "items"],
        about: "how many there are of everything",
        needs: Needs::POOLS.union(Needs::CLIENTS),
        rows: process::lists,
    },
    View {
        name: "USERS",
        columns: columns![
            Text "name" "pool_size" "reserve_pool_size" "pool_mode"; Int4 "max_user_connections" "current_connections";
            Int4 "max_user_client_connections" "current_client_connections";
        ],
        about: "users of the pools",
        needs: Needs::POOLS,
        rows: pools::users,
    },
    View {
        name: "MEM",
        columns: columns![Text "name"; Int4 "size" "used" "free" "memtotal"],
        about: "memory",
        needs: Needs::MEMORY,
        rows: process::mem,
    },
    View {
        name: "STATE",
        columns: columns![Text "key" "value"],
        about: "whether everything is paused or suspended",
        needs: Needs::empty(),
        rows: process::state,
    },
    without_rows(
        "PEERS",
        columns![Int4 "peer_id"; Text "host"; Int4 "port" "pool_size"],
        "other processes that take cancel requests: none, one process takes them all",
    ),
    without_rows(
        "PEER_POOLS",
        columns![Int4 "peer_id" "cl_active_cancel_req" "cl_waiting_cancel_req" "sv_active_cancel" "sv_login"],
        "see PEERS",
    ),
    without_rows(
        "DNS_HOSTS",
        columns![Text "hostname"; Int8 "ttl"; Text "addrs"],
        "cached names: none, the system's resolver is asked for each connection",
    ),
    without_rows("DNS_ZONES", columns![Text "zonename"; Int8 "serial"; Int4 "count"], "see DNS_HOSTS"),
    View {
        name: "POOL_NODES",
        columns: columns![
            Text "node_id" "hostname" "port" "status" "pg_status" "lb_weight" "role" "pg_role" "select_cnt";
            Text "load_balance_node" "replication_delay" "replication_state" "replication_sync_state" "last_status_change";
        ],
        about: "nodes as Pgpool-II shows them; asks the servers how they replicate",
        needs: Needs::POOLS.union(Needs::REPLICATION),
        rows: pgpool::nodes,
    },
    View {
        name: "POOL_PROCESSES",
        columns: columns![
            Text "pool_pid" "start_time" "client_connection_count" "database" "username" "backend_connection_time";
            Text "pool_counter" "status";
        ],
        about: "clients as Pgpool-II shows its processes",
        needs: Needs::CLIENTS.union(Needs::SERVERS),
        rows: pgpool::processes,
    },
    View {
        name: "POOL_POOLS",
        columns: columns![
            Text "pool_pid" "start_time" "client_connection_count" "pool_id" "backend_id" "database" "username";
            Text "backend_connection_time" "client_connection_time" "client_disconnection_time" "client_idle_duration";
            Text "majorversion" "minorversion" "pool_counter" "pool_backendpid" "pool_connected" "status";
            Text "load_balance_node" "client_host" "client_port" "statement";
        ],
        about: "server connections as Pgpool-II shows them",
        needs: Needs::CLIENTS.union(Needs::SERVERS),
        rows: pgpool::pools,
    },
    View {
        name: "POOL_BACKEND_STATS",
        columns: columns![
            Text "node_id" "hostname" "port" "status" "role" "select_cnt" "insert_cnt" "update_cnt" "delete_cnt";
            Text "ddl_cnt" "other_cnt" "panic_cnt" "fatal_cnt" "error_cnt";
        ],
        about: "statements by node and kind",
        needs: Needs::POOLS,
        rows: pgpool::backend_stats,
    },
    View {
        name: "POOL_HEALTH_CHECK_STATS",
        columns: columns![
            Text "node_id" "hostname" "port" "status" "role" "last_status_change" "total_count" "success_count";
            Text "fail_count" "skip_count" "retry_count" "average_retry_count" "max_retry_count" "max_duration";
            Text "min_duration" "average_duration" "last_health_check" "last_successful_health_check";
            Text "last_skip_health_check" "last_failed_health_check";
        ],
        about: "probes of each node; durations in milliseconds",
        needs: Needs::empty(),
        rows: pgpool::health_check_stats,
    },
    View {
        name: "POOL_CACHE",
        columns: columns![
            Text "num_cache_hits" "num_selects" "cache_hit_ratio" "num_hash_entries" "used_hash_entries";
            Text "num_cache_entries" "used_cache_entries_size" "free_cache_entries_size" "fragment_cache_entries_size";
        ],
        about: "the query cache of Pgpool-II: there is none here",
        needs: Needs::empty(),
        rows: pgpool::cache,
    },
    View {
        name: "POOL_VERSION",
        columns: columns![Text "pool_version"],
        about: "of which Pgpool-II these views are like",
        needs: Needs::empty(),
        rows: pgpool::version,
    },
    View {
        name: "NODES",
        columns: columns![
            Text "service" "kind" "node" "host"; Int4 "port"; Text "role" "state"; Int4 "weight"; Int8 "lag_bytes" "lag_ms";
            Text "position"; Int4 "timeline" "connections"; Text "last_change" "reason";
        ],
        about: "nodes: role, state, lag",
        needs: Needs::POOLS,
        rows: nodes::nodes,
    },
    View {
        name: "QUERIES",
        columns: columns![
            Text "fingerprint" "database" "user" "target"; Int8 "calls"; Float8 "total_ms" "mean_ms" "p99_ms";
            Int8 "rows" "errors"; Text "sample";
        ],
        about: "statements that took the servers longest in all, their constants left out",
        needs: Needs::QUERIES,
        rows: nodes::queries,
    },
    View {
        name: "COMMANDS",
        columns: columns![
            Text "service" "command"; Int8 "calls" "primary" "replica" "own" "forebay" "errors";
            Float8 "total_ms" "mean_ms" "p50_ms" "p99_ms"; Int8 "bytes_in" "bytes_out" "timed";
        ],
        about: "commands of Redis that were used, those most often first",
        needs: Needs::USAGE,
        rows: usage::commands,
    },
    View {
        name: "KEYS",
        columns: columns![
            Text "service"; Int4 "database"; Text "kind" "key"; Int8 "accesses" "error"; Float8 "share_percent";
            Int8 "reads" "writes" "bytes"; Text "command" "seen"; Int4 "key_bytes";
        ],
        about: "keys of Redis that are used most now (hot), and those that have carried most in the last hour (big)",
        needs: Needs::USAGE,
        rows: usage::keys,
    },
    View {
        name: "EVENTS",
        columns: columns![Text "time" "service"; Int8 "epoch"; Text "event" "node" "detail"],
        about: "what happened, oldest first",
        needs: Needs::EVENTS,
        rows: nodes::events,
    },
    View {
        name: "QUEUE",
        columns: columns![
            Text "service" "database" "user"; Int4 "waiting"; Int8 "oldest_wait_ms" "served" "timed_out" "refused";
        ],
        about: "who waits for a server connection, and what became of those who waited",
        needs: Needs::POOLS,
        rows: nodes::queue,
    },
    View {
        name: "PINS",
        columns: columns![Int8 "client_id"; Text "database" "user" "reason" "since"],
        about: "clients that keep their server connection between transactions, and why",
        needs: Needs::CLIENTS,
        rows: sockets::pins,
    },
    View {
        name: "BANS",
        columns: columns![Text "address" "until" "reason"; Int4 "failures"],
        about: "addresses that may not connect",
        needs: Needs::BANS,
        rows: process::bans,
    },
    View {
        name: "HBA",
        columns: columns![Text "file"; Int4 "line"; Text "type" "database" "user" "address" "method" "options"],
        about: "rules of pg_hba.conf in force, in order: the first that fits decides",
        needs: Needs::empty(),
        rows: hba::rules,
    },
    View {
        name: "HA",
        columns: columns![
            Text "service" "mode" "durability"; Int8 "epoch"; Text "primary"; Int4 "timeline"; Text "phase" "guarantee";
        ],
        about: "each cluster: its primary, and what survives the loss of which node",
        needs: Needs::empty(),
        rows: nodes::ha,
    },
    View {
        name: "HA CHECKS",
        columns: columns![Text "service" "node" "check" "result" "detail"],
        about: "what would hurt at the next failure; asks the servers",
        needs: Needs::POOLS.union(Needs::CHECKS),
        rows: |facts| facts.checks.iter().map(checks::Check::row).collect(),
    },
    View {
        name: "INSTANCES",
        columns: columns![
            Text "instance" "address" "version" "leader"; Int8 "epoch_acked"; Text "gate"; Int8 "lease_left_ms"; Text "last_seen";
        ],
        about: "instances of Forebay that decide together",
        needs: Needs::empty(),
        rows: nodes::instances,
    },
];

#[cfg(test)]
mod tests;
