//! Every key of PgBouncer's documentation, with what it is here.

use crate::import::table::Meaning::{self, Key, Moot, Nothing, Special};
use crate::import::table::Unit::{Count, CountFrom1, Time, Word};
use crate::import::table::Zero;

const SECONDS: u64 = 1000;
const OFF: Zero = Zero::Off;

/// `pool_mode`
pub(super) const MODES: &[(&str, &str)] =
    &[("session", "session"), ("transaction", "transaction"), ("statement", "statement")];

/// The `sslmode`s of both sides.
pub(super) const TLS_MODES: &[(&str, &str)] = &[
    ("disable", "disable"),
    ("allow", "allow"),
    ("prefer", "prefer"),
    ("require", "require"),
    ("verify-ca", "verify-ca"),
    ("verify-full", "verify-full"),
];

const POOL: &str = "postgres.pool";

const LOG: &str = "Forebay logs to standard error, where systemd or the container collects it: [general] log.level and \
                   log.format.";
const SERVICE: &str = "What runs Forebay sees to it: conf/forebay.service has User=, Restart= and the like.";
const BUFFERS: &str = "Forebay sizes its buffers and batches itself.";
const SOCKETS: &str =
    "Forebay sets its sockets up itself: keepalive on both sides, SO_REUSEPORT among its own threads.";
const DNS: &str = "Names of nodes are asked of the system's resolver whenever a connection is made.";
const RESET: &str = "Forebay gives a server connection back only when it is clean, and resets what a client has left.";
const CHECK: &str = "A request that an idle server connection never read runs again on another; connections are not tested \
                     beforehand.";
const CIPHERS: &str = "rustls offers TLS 1.2 and 1.3 with safe ciphers only; there is nothing to choose. tls.min_version = \
                       \"1.3\" leaves 1.2 out.";
const SUMS: &str = "Forebay limits each pool (a database and a user at one node), not sums of them; size the pools so that \
                    their sum fits, or limit on the server: ALTER DATABASE ... CONNECTION LIMIT, ALTER ROLE ... CONNECTION \
                    LIMIT.";
const CLIENT_SUMS: &str = "Forebay limits clients as a whole (postgres.max_clients) and those that wait in a pool \
                           (queue_length), not the clients of a database or user.";
const PARAMETERS: &str =
    "Forebay takes all parameters of the startup packet and keeps session settings for each client.";
const NOT_TRACKED: &str = "Set it on the server: ALTER DATABASE ... SET, or ALTER ROLE ... SET.";

/// Keys of `[pgbouncer]`.
pub(super) static MAIN: &[(&str, Meaning)] = &[
    ("admin_users", Special),
    (
        "application_name_add_host",
        Nothing("SHOW CLIENTS has the addresses of clients; application_name is passed on as it is."),
    ),
    ("auth_cert_map", Special),
    ("auth_dbname", Special),
    ("auth_file", Special),
    ("auth_hba_file", Special),
    ("auth_ident_file", Special),
    ("auth_ldap_options", Nothing("Its options belong behind the method ldap in a line of the hba_file.")),
    ("auth_ldap_parameter", Nothing("Its options belong behind the method ldap in a line of the hba_file.")),
    ("auth_query", Special),
    ("auth_type", Special),
    ("auth_user", Special),
    (
        "autodb_idle_timeout",
        Moot("Pools of databases without an entry cost nothing once their connections are idle and closed."),
    ),
    ("cancel_wait_timeout", Nothing("A cancel request is sent at once; it needs no connection of the pool.")),
    ("client_idle_timeout", Key(POOL, "client_idle_timeout", Time(SECONDS, OFF))),
    ("client_login_timeout", Key(POOL, "client_login_timeout", Time(SECONDS, OFF))),
    ("client_tls13_ciphers", Nothing(CIPHERS)),
    ("client_tls_ca_file", Special),
    ("client_tls_cert_file", Special),
    ("client_tls_ciphers", Nothing(CIPHERS)),
    ("client_tls_dheparams", Moot(CIPHERS)),
    ("client_tls_ecdhcurve", Moot(CIPHERS)),
    ("client_tls_key_file", Special),
    ("client_tls_protocols", Special),
    ("client_tls_sslmode", Special),
    ("conffile", Moot("Forebay reloads the file that it was started with.")),
    ("default_pool_size", Key(POOL, "size", CountFrom1)),
    ("disable_pqexec", Nothing("The simple protocol cannot be switched off.")),
    ("dns_max_ttl", Moot(DNS)),
    ("dns_nxdomain_ttl", Moot(DNS)),
    ("dns_zone_check_period", Moot(DNS)),
    ("idle_transaction_timeout", Key(POOL, "idle_in_transaction_timeout", Time(SECONDS, OFF))),
    ("ignore_startup_parameters", Moot(PARAMETERS)),
    ("job_name", Moot(SERVICE)),
    ("listen_addr", Special),
    ("listen_backlog", Moot(SOCKETS)),
    ("listen_port", Special),
    (
        "log_connections",
        Nothing("Connections of clients are logged with [general] log.level = \"debug\"; SHOW CLIENTS has them."),
    ),
    (
        "log_disconnections",
        Nothing("Connections of clients are logged with [general] log.level = \"debug\"; SHOW CLIENTS has them."),
    ),
    ("log_pooler_errors", Moot("What Forebay refuses is logged as a warning.")),
    ("log_stats", Moot("SHOW STATS has the figures; they are not logged.")),
    ("logfile", Nothing(LOG)),
    (
        "login_notify_message",
        Nothing("Clients are told nothing at a login; SHOW forebay.node answers through Forebay only."),
    ),
    ("max_client_conn", Key("postgres", "max_clients", CountFrom1)),
    ("max_db_client_connections", Nothing(CLIENT_SUMS)),
    ("max_db_connections", Nothing(SUMS)),
    ("max_packet_size", Nothing("What a client may send is limited by Forebay itself.")),
    ("max_prepared_statements", Key(POOL, "prepared_statements", CountFrom1)),
    ("max_user_client_connections", Nothing(CLIENT_SUMS)),
    ("max_user_connections", Nothing(SUMS)),
    ("min_pool_size", Key(POOL, "min_size", Count)),
    (
        "peer_id",
        Moot(
            "Forebay is one process with a thread for each core, so that a cancel request always reaches the right one.",
        ),
    ),
    ("pidfile", Moot(SERVICE)),
    ("pkt_buf", Moot(BUFFERS)),
    ("pool_idle_timeout", Moot("Pools cost nothing once their connections are idle and closed.")),
    ("pool_mode", Key(POOL, "mode", Word(MODES))),
    ("query_timeout", Key(POOL, "query_timeout", Time(SECONDS, OFF))),
    ("query_wait_notify", Key(POOL, "queue_notice", Time(SECONDS, OFF))),
    ("query_wait_timeout", Key(POOL, "queue_timeout", Time(SECONDS, OFF))),
    ("reserve_pool_size", Key(POOL, "reserve_size", Count)),
    ("reserve_pool_timeout", Special),
    ("resolv_conf", Nothing(DNS)),
    ("sbuf_loopcnt", Moot(BUFFERS)),
    (
        "scram_iterations",
        Nothing(
            "Clients are asked for as many iterations as their verifiers have; for a clear password Forebay \
                                  chooses.",
        ),
    ),
    ("server_check_delay", Moot(CHECK)),
    ("server_check_query", Moot(CHECK)),
    (
        "server_connect_timeout",
        Key(POOL, "connect_timeout", Time(SECONDS, Zero::Nothing("Connecting always has an end here."))),
    ),
    (
        "server_fast_close",
        Moot("RECONNECT closes a client's connection when its transaction ends, in session mode when it leaves."),
    ),
    ("server_idle_timeout", Key(POOL, "server_idle_timeout", Time(SECONDS, OFF))),
    (
        "server_lifetime",
        Key(
            POOL,
            "server_lifetime",
            Time(
                SECONDS,
                Zero::Nothing(
                    "PgBouncer uses a connection once then, Forebay would keep it for ever; its default holds.",
                ),
            ),
        ),
    ),
    ("server_login_retry", Moot("Forebay tries a server that failed again by itself, and waits longer each time.")),
    ("server_reset_query", Moot(RESET)),
    ("server_reset_query_always", Moot(RESET)),
    (
        "server_round_robin",
        Nothing("The connection that was used last is used first; [postgres.routing] balance chooses among nodes."),
    ),
    ("server_tls13_ciphers", Nothing(CIPHERS)),
    ("server_tls_ca_file", Special),
    ("server_tls_cert_file", Special),
    ("server_tls_ciphers", Nothing(CIPHERS)),
    ("server_tls_key_file", Special),
    ("server_tls_protocols", Nothing(CIPHERS)),
    ("server_tls_sslmode", Special),
    ("service_name", Moot(SERVICE)),
    ("so_reuseport", Moot(SOCKETS)),
    ("stats_period", Moot("SHOW STATS averages over a minute.")),
    ("stats_users", Special),
    (
        "suspend_timeout",
        Nothing(
            "forebay upgrade replaces it while it runs; general.upgrade_grace says how long clients that cannot follow have.",
        ),
    ),
    ("syslog", Nothing(LOG)),
    ("syslog_facility", Nothing(LOG)),
    ("syslog_ident", Nothing(LOG)),
    ("tcp_defer_accept", Moot(SOCKETS)),
    ("tcp_keepalive", Moot(SOCKETS)),
    ("tcp_keepcnt", Moot(SOCKETS)),
    ("tcp_keepidle", Moot(SOCKETS)),
    ("tcp_keepintvl", Moot(SOCKETS)),
    ("tcp_socket_buffer", Moot(SOCKETS)),
    ("tcp_user_timeout", Moot(SOCKETS)),
    ("track_extra_parameters", Moot(PARAMETERS)),
    ("transaction_timeout", Key(POOL, "transaction_timeout", Time(SECONDS, OFF))),
    ("unix_socket_dir", Special),
    ("unix_socket_group", Nothing("The socket's folder says who may connect: give it to the group, mode 0750.")),
    ("unix_socket_mode", Nothing("The socket's folder says who may connect.")),
    ("user", Moot(SERVICE)),
    ("verbose", Special),
];

/// Keys of a connection string in `[databases]`. The sections of `Key` are not used: they are of the entry itself.
pub(super) static DATABASE: &[(&str, Meaning)] = &[
    ("application_name", Nothing(NOT_TRACKED)),
    ("auth_dbname", Special),
    ("auth_query", Special),
    ("auth_user", Special),
    ("client_encoding", Nothing(NOT_TRACKED)),
    ("client_idle_timeout", Key("", "client_idle_timeout", Time(SECONDS, OFF))),
    ("connect_query", Nothing(NOT_TRACKED)),
    ("datestyle", Nothing(NOT_TRACKED)),
    ("dbname", Special),
    ("host", Special),
    ("idle_transaction_timeout", Key("", "idle_in_transaction_timeout", Time(SECONDS, OFF))),
    (
        "load_balance_hosts",
        Nothing("Forebay finds which of the hosts is the primary, and sends it what is not surely a read."),
    ),
    ("max_db_client_connections", Nothing(CLIENT_SUMS)),
    ("max_db_connections", Nothing(SUMS)),
    ("min_pool_size", Key("", "min_size", Count)),
    ("password", Special),
    ("pool_mode", Key("", "mode", Word(MODES))),
    ("pool_size", Key("", "size", CountFrom1)),
    ("port", Special),
    ("query_timeout", Key("", "query_timeout", Time(SECONDS, OFF))),
    ("query_wait_timeout", Key("", "queue_timeout", Time(SECONDS, OFF))),
    ("reserve_pool", Key("", "reserve_size", Count)),
    ("reserve_pool_size", Key("", "reserve_size", Count)),
    (
        "server_lifetime",
        Key(
            "",
            "server_lifetime",
            Time(SECONDS, Zero::Nothing("PgBouncer uses a connection once then; Forebay's default holds.")),
        ),
    ),
    ("target_session_attrs", Special),
    ("timezone", Nothing(NOT_TRACKED)),
    ("transaction_timeout", Key("", "transaction_timeout", Time(SECONDS, OFF))),
    ("user", Special),
];

/// Keys in `[users]`.
pub(super) static USER: &[(&str, Meaning)] = &[
    ("client_idle_timeout", Key("", "client_idle_timeout", Time(SECONDS, OFF))),
    ("idle_transaction_timeout", Key("", "idle_in_transaction_timeout", Time(SECONDS, OFF))),
    ("max_user_client_connections", Nothing(CLIENT_SUMS)),
    ("max_user_connections", Nothing(SUMS)),
    ("pool_mode", Key("", "mode", Word(MODES))),
    ("pool_size", Key("", "size", CountFrom1)),
    ("query_timeout", Key("", "query_timeout", Time(SECONDS, OFF))),
    ("query_wait_timeout", Key("", "queue_timeout", Time(SECONDS, OFF))),
    ("reserve_pool_size", Key("", "reserve_size", Count)),
    ("transaction_timeout", Key("", "transaction_timeout", Time(SECONDS, OFF))),
];

/// What a key means.
pub(super) fn meaning(table: &'static [(&'static str, Meaning)], key: &str) -> Option<&'static Meaning> {
    table.iter().find(|(name, _)| *name == key).map(|(_, meaning)| meaning)
}
