//! Every key of Pgpool-II's documentation (4.0 to 4.6), with what it is here. Keys that end in a number, such as
//! `backend_hostname0`, stand here without it.

use crate::import::table::Meaning::{self, Key, Moot, Nothing, Special};
use crate::import::table::Unit::{CountFrom1, Flag, Size, Time};
use crate::import::table::Zero;

const POOL: &str = "postgres.pool";
const ROUTING: &str = "postgres.routing";
const SECONDS: u64 = 1000;
const OFF: Zero = Zero::Off;

const PROCESSES: &str = "Forebay has a thread for each core instead of a process for each client.";
const LOG: &str = "Forebay logs to standard error, where systemd or the container collects it: [general] log.level and \
                   log.format. SQL text is never logged.";
const PCP: &str = "Forebay's console is reached by SQL at the port of postgres.listen (psql ... forebay), with the logins of \
                   [[admin.user]]; docs/console.md has the commands.";
const WATCHDOG: &str = "Forebay has no watchdog. Several instances in mode = \"promote\" agree by a lock on the primary which of them \
                        promotes; a virtual address that follows a healthy instance is keepalived's business, or clients name \
                        several hosts.";
const CACHE: &str = "Forebay keeps no results of queries.";
const REPLICATION: &str = "Forebay does not replicate: it serves PostgreSQL's own streaming replication.";
const RELCACHE: &str =
    "Forebay learns functions, views and triggers from the catalog, and keeps them up to date by itself.";
const CIPHERS: &str = "rustls offers TLS 1.2 and 1.3 with safe ciphers only; there is nothing to choose.";
const RECOVERY: &str = "Forebay makes no new replicas (pg_basebackup does); a former primary becomes a replica by \
                        postgres.failover.rejoin_command, for which scripts/rejoin is made.";
const FAILBACK: &str = "A node comes back by itself as soon as it is seen to be a replica that follows; a former primary is fenced \
                        until then.";
const DETECTION: &str = "Forebay watches with PostgreSQL's own protocol twice a second: postgres.failover check_interval (500ms) and \
                         check_timeout (1s). A node counts as lost after several failures; docs/failover.md has the times.";
const HINTS: &str = "A statement is sent to the primary by a comment (/* forebay: primary */, also /*NO LOAD BALANCE*/), by SET \
                     forebay.route, or by a listener with route = \"primary\"; there are no patterns.";
const SOCKETS: &str = "Forebay sets its sockets up itself.";
const SERVICE: &str = "What runs Forebay sees to it: conf/forebay.service.";
const WRITES: &str = "postgres.routing.consistency: a client sees its own writes, whenever they were.";

/// All keys.
pub(super) static KEYS: &[(&str, Meaning)] = &[
    (
        "allow_clear_text_frontend_auth",
        Nothing(
            "Clients are never asked for passwords in clear text; SCRAM needs a verifier or a password in [[postgres.user]].",
        ),
    ),
    ("allow_multiple_failover_requests_from_node", Moot(WATCHDOG)),
    ("allow_sql_comments", Moot("Comments never change where a statement runs, but for hints.")),
    ("app_name_redirect_preference_list", Nothing(HINTS)),
    ("arping_cmd", Nothing(WATCHDOG)),
    ("arping_path", Nothing(WATCHDOG)),
    ("authentication_timeout", Key(POOL, "client_login_timeout", Time(SECONDS, OFF))),
    ("auto_failback", Moot(FAILBACK)),
    ("auto_failback_interval", Moot(FAILBACK)),
    ("backend_application_name", Special),
    ("backend_clustering_mode", Special),
    (
        "backend_data_directory",
        Moot("Forebay needs no folders of the servers; scripts/rejoin and scripts/demote are told theirs."),
    ),
    ("backend_flag", Special),
    ("backend_hostname", Special),
    ("backend_port", Special),
    ("backend_weight", Special),
    ("black_function_list", Special),
    ("black_memqcache_table_list", Nothing(CACHE)),
    ("black_query_pattern_list", Nothing(HINTS)),
    ("cache_safe_memqcache_table_list", Nothing(CACHE)),
    ("cache_unsafe_memqcache_table_list", Nothing(CACHE)),
    ("check_temp_table", Moot("What a client makes for its session keeps it at its connection (SHOW PINS).")),
    ("check_unlogged_table", Moot("Unlogged tables are known from the catalog and read on the primary.")),
    ("child_life_time", Moot(PROCESSES)),
    ("child_max_connections", Moot(PROCESSES)),
    ("clear_memqcache_on_escalation", Nothing(CACHE)),
    ("client_idle_limit", Key(POOL, "client_idle_timeout", Time(SECONDS, OFF))),
    ("client_idle_limit_in_recovery", Nothing(RECOVERY)),
    ("client_min_messages", Nothing(LOG)),
    ("connect_timeout", Key(POOL, "connect_timeout", Time(1, Zero::Nothing("Connecting always has an end here.")))),
    ("connection_cache", Special),
    ("connection_life_time", Key(POOL, "server_lifetime", Time(SECONDS, OFF))),
    (
        "database_redirect_preference_list",
        Nothing(
            "A [[postgres.database]] may have split = false, which keeps it on the primary; a listener with route = \"replica\" is a door to replicas.",
        ),
    ),
    ("ddl_lock_conflict", Nothing(REPLICATION)),
    ("debug_level", Nothing(LOG)),
    ("delay_threshold", Key(ROUTING, "max_lag_bytes", Size)),
    ("delay_threshold_by_time", Key(ROUTING, "max_lag", Time(SECONDS, OFF))),
    ("delegate_IP", Nothing(WATCHDOG)),
    ("delegate_ip", Nothing(WATCHDOG)),
    ("detach_false_primary", Moot("A second primary is always fenced.")),
    ("disable_load_balance_on_write", Moot(WRITES)),
    ("dml_adaptive_object_relationship_list", Moot(WRITES)),
    ("enable_consensus_with_half_votes", Moot(WATCHDOG)),
    ("enable_pool_hba", Special),
    ("enable_shared_relcache", Moot(RELCACHE)),
    ("fail_over_on_backend_error", Moot(DETECTION)),
    ("failback_command", Special),
    ("failover_command", Special),
    ("failover_if_affected_tuples_mismatch", Nothing(REPLICATION)),
    ("failover_on_backend_error", Moot(DETECTION)),
    ("failover_on_backend_shutdown", Moot(DETECTION)),
    ("failover_require_consensus", Moot(WATCHDOG)),
    ("failover_when_quorum_exists", Moot(WATCHDOG)),
    ("follow_master_command", Special),
    ("follow_primary_command", Special),
    ("health_check_database", Special),
    ("health_check_max_retries", Nothing(DETECTION)),
    ("health_check_password", Special),
    ("health_check_period", Nothing(DETECTION)),
    ("health_check_retry_delay", Nothing(DETECTION)),
    ("health_check_test", Moot(DETECTION)),
    ("health_check_timeout", Nothing(DETECTION)),
    ("health_check_user", Special),
    ("heartbeat_destination", Nothing(WATCHDOG)),
    ("heartbeat_destination_port", Nothing(WATCHDOG)),
    ("heartbeat_device", Nothing(WATCHDOG)),
    ("heartbeat_hostname", Nothing(WATCHDOG)),
    ("heartbeat_port", Nothing(WATCHDOG)),
    ("hostname", Nothing(WATCHDOG)),
    ("if_cmd_path", Nothing(WATCHDOG)),
    ("if_down_cmd", Nothing(WATCHDOG)),
    ("if_up_cmd", Nothing(WATCHDOG)),
    ("ignore_leading_white_space", Moot("Statements are read whole.")),
    ("insert_lock", Nothing(REPLICATION)),
    ("listen_addresses", Special),
    ("listen_backlog_multiplier", Moot(SOCKETS)),
    ("load_balance_mode", Key(ROUTING, "split", Flag)),
    ("lobj_lock_table", Nothing(REPLICATION)),
    ("log_backend_messages", Nothing(LOG)),
    ("log_client_messages", Nothing(LOG)),
    ("log_connections", Nothing(LOG)),
    ("log_destination", Nothing(LOG)),
    ("log_directory", Nothing(LOG)),
    ("log_disconnections", Nothing(LOG)),
    ("log_error_verbosity", Nothing(LOG)),
    ("log_file_mode", Nothing(LOG)),
    ("log_filename", Nothing(LOG)),
    ("log_hostname", Nothing(LOG)),
    ("log_line_prefix", Nothing(LOG)),
    ("log_min_messages", Nothing(LOG)),
    ("log_pcp_processes", Nothing(LOG)),
    ("log_per_node_statement", Nothing(LOG)),
    ("log_rotation_age", Nothing(LOG)),
    ("log_rotation_size", Nothing(LOG)),
    ("log_standby_delay", Nothing("SHOW NODES and SHOW POOL_NODES have the lag of each replica.")),
    ("log_statement", Nothing(LOG)),
    ("log_truncate_on_rotation", Nothing(LOG)),
    ("logdir", Moot("What has to survive a restart is in general.state_dir.")),
    ("logging_collector", Nothing(LOG)),
    ("master_slave_mode", Special),
    ("master_slave_sub_mode", Special),
    (
        "max_pool",
        Nothing(
            "Forebay's pools are for all clients: one for each database and user at each node, of postgres.pool.size.",
        ),
    ),
    ("memory_cache_enabled", Nothing(CACHE)),
    ("memqcache_auto_cache_invalidation", Nothing(CACHE)),
    ("memqcache_cache_block_size", Nothing(CACHE)),
    ("memqcache_expire", Nothing(CACHE)),
    ("memqcache_max_num_cache", Nothing(CACHE)),
    ("memqcache_maxcache", Nothing(CACHE)),
    ("memqcache_memcached_host", Nothing(CACHE)),
    ("memqcache_memcached_port", Nothing(CACHE)),
    ("memqcache_method", Nothing(CACHE)),
    ("memqcache_oiddir", Nothing(CACHE)),
    ("memqcache_total_size", Nothing(CACHE)),
    ("min_spare_children", Moot(PROCESSES)),
    ("max_spare_children", Moot(PROCESSES)),
    ("num_init_children", Key(POOL, "size", CountFrom1)),
    ("other_pgpool_hostname", Nothing(WATCHDOG)),
    ("other_pgpool_port", Nothing(WATCHDOG)),
    ("other_wd_port", Nothing(WATCHDOG)),
    ("pcp_listen_addresses", Nothing(PCP)),
    ("pcp_port", Nothing(PCP)),
    ("pcp_socket_dir", Nothing(PCP)),
    ("pcp_timeout", Nothing(PCP)),
    ("pgpool_port", Nothing(WATCHDOG)),
    ("pid_file_name", Moot(SERVICE)),
    ("ping_path", Nothing(WATCHDOG)),
    ("pool_passwd", Special),
    ("port", Special),
    (
        "prefer_lower_delay_standby",
        Moot(
            "A replica that is too late (max_lag, max_lag_bytes) gets no reads until it is not, and the others take them.",
        ),
    ),
    ("primary_routing_query_pattern_list", Nothing(HINTS)),
    ("process_management_mode", Moot(PROCESSES)),
    ("process_management_strategy", Moot(PROCESSES)),
    ("read_only_function_list", Special),
    ("recovery_1st_stage_command", Nothing(RECOVERY)),
    ("recovery_2nd_stage_command", Nothing(RECOVERY)),
    ("recovery_database", Nothing(RECOVERY)),
    ("recovery_password", Nothing(RECOVERY)),
    ("recovery_timeout", Nothing(RECOVERY)),
    ("recovery_user", Nothing(RECOVERY)),
    ("relcache_expire", Moot(RELCACHE)),
    ("relcache_query_target", Moot(RELCACHE)),
    ("relcache_size", Moot(RELCACHE)),
    ("replicate_select", Nothing(REPLICATION)),
    ("replication_mode", Special),
    ("replication_stop_on_mismatch", Nothing(REPLICATION)),
    ("reserved_connections", Special),
    (
        "reset_query_list",
        Moot("Forebay gives a server connection back only when it is clean, and resets what a client has left."),
    ),
    (
        "search_primary_node_timeout",
        Moot("The primary is looked for as long as there is none; clients wait for postgres.failover.hold."),
    ),
    ("serialize_accept", Moot(SOCKETS)),
    ("socket_dir", Special),
    ("sr_check_database", Special),
    ("sr_check_password", Special),
    ("sr_check_period", Nothing("How late replicas are is measured all the time.")),
    ("sr_check_user", Special),
    ("ssl", Special),
    ("ssl_ca_cert", Special),
    ("ssl_ca_cert_dir", Nothing("Put the authorities into one file: tls.ca.")),
    ("ssl_cert", Special),
    ("ssl_ciphers", Nothing(CIPHERS)),
    ("ssl_crl_file", Nothing("Lists of revoked certificates are not read; use an authority of its own for clients.")),
    ("ssl_dh_params_file", Moot(CIPHERS)),
    ("ssl_ecdh_curve", Moot(CIPHERS)),
    ("ssl_key", Special),
    (
        "ssl_passphrase_command",
        Nothing("A private key must not be encrypted: openssl pkey -in OLD -out NEW, with mode 0600."),
    ),
    ("ssl_prefer_server_ciphers", Moot(CIPHERS)),
    ("statement_level_load_balance", Moot("Each statement finds its own node.")),
    ("syslog_facility", Nothing(LOG)),
    ("syslog_ident", Nothing(LOG)),
    ("trusted_server_command", Nothing(WATCHDOG)),
    ("trusted_servers", Nothing(WATCHDOG)),
    ("unix_socket_directories", Special),
    ("unix_socket_group", Nothing("The socket's folder says who may connect: give it to the group, mode 0750.")),
    ("unix_socket_permissions", Nothing("The socket's folder says who may connect.")),
    ("use_watchdog", Nothing(WATCHDOG)),
    ("wd_authkey", Nothing(WATCHDOG)),
    ("wd_de_escalation_command", Nothing(WATCHDOG)),
    ("wd_escalation_command", Nothing(WATCHDOG)),
    ("wd_heartbeat_deadtime", Nothing(WATCHDOG)),
    ("wd_heartbeat_keepalive", Nothing(WATCHDOG)),
    ("wd_heartbeat_port", Nothing(WATCHDOG)),
    ("wd_hostname", Nothing(WATCHDOG)),
    ("wd_interval", Nothing(WATCHDOG)),
    ("wd_ipc_socket_dir", Nothing(WATCHDOG)),
    ("wd_life_point", Nothing(WATCHDOG)),
    ("wd_lifecheck_dbname", Nothing(WATCHDOG)),
    ("wd_lifecheck_method", Nothing(WATCHDOG)),
    ("wd_lifecheck_password", Nothing(WATCHDOG)),
    ("wd_lifecheck_query", Nothing(WATCHDOG)),
    ("wd_lifecheck_user", Nothing(WATCHDOG)),
    ("wd_lost_node_removal_timeout", Nothing(WATCHDOG)),
    ("wd_monitoring_interfaces_list", Nothing(WATCHDOG)),
    ("wd_no_show_node_removal_timeout", Nothing(WATCHDOG)),
    ("wd_port", Nothing(WATCHDOG)),
    ("wd_priority", Nothing(WATCHDOG)),
    ("wd_remove_shutdown_nodes", Nothing(WATCHDOG)),
    ("white_function_list", Special),
    ("white_memqcache_table_list", Nothing(CACHE)),
    ("write_function_list", Special),
];

/// What a key means; `name` is without the number of its node.
pub(super) fn meaning(name: &str) -> Option<&'static Meaning> {
    KEYS.iter().find(|(key, _)| *key == name).map(|(_, meaning)| meaning)
}

/// A key without the number behind it, and the number. A known key that ends in a number keeps it.
pub(super) fn split_number(key: &str) -> (&str, Option<usize>) {
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = key.get(name.len()..).and_then(|digits| digits.parse().ok());
    (name, number)
}
