//! `[general]`, `[admin]`, `[security]`, `[coordination]`, `[notify]` and `[telemetry]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::section;
use crate::config::Network;
use crate::config::model::{
    Admin, AdminRole, AdminUser, Coordination, General, LogFormat, Notify, Secret, Security, Telemetry, TlsVersion,
};
use crate::config::setting::words;

words! {
    LogFormat { Text = "text", Json = "json" }
    AdminRole { Viewer = "viewer", Admin = "admin" }
}

section! {
    One General = "general" {
        /// Threads that move data; 0 is one per core that the process may use.
        /// Lower it to leave cores to a database on the same machine.
        threads: usize = "0" [restart()];
        /// Folder for what must survive a restart: failover decisions and node states. It must be writable.
        state_dir: PathBuf = "\"/var/lib/forebay\"" [restart()];
        /// How long a stop by SIGTERM waits for clients to finish before it closes them.
        /// Keep it below the service manager's own patience.
        shutdown_grace: Duration = "\"30s\"";
        /// How long the old process of an upgrade (`UPGRADE`, `forebay upgrade`) serves clients that cannot follow to the
        /// new one, such as those with TLS, before it closes them between two transactions.
        upgrade_grace: Duration = "\"1h\"";
        /// off, error, warn, info, debug or trace, and per module: "info,forebay::pool=debug".
        log_level as "log.level": String = "\"info\"";
        /// text is one readable line an event, json one object an event for log collectors.
        log_format as "log.format": LogFormat = "\"text\"" [restart()];
        /// A statement of PostgreSQL that takes longer, its wait for a connection included, has a line in the log, with
        /// its constants left out: "500ms". Every statement is timed then, which costs about a microsecond each.
        log_slow_statements as "log.slow_statements": Option<Duration> = "\"off\"";
        /// Whether a crash may leave a core dump, and a debugger of the same user may attach. Both show every secret.
        core_dumps: bool = "false" [restart()];
    }
}

section! {
    One Admin = "admin" {
        /// Where the status page, metrics and the HTTP API answer; an empty list turns them off.
        /// Anything but loopback needs an `[[admin.user]]`.
        /// If only the default is taken by somebody else, Forebay warns, and tries again until it is free.
        listen: Vec<SocketAddr> = "[\"127.0.0.1:8404\"]" [restart()];
        /// CIDR blocks (or single addresses) whose requests over HTTP need no credentials to look; commands always do.
        /// An empty list lets only `[[admin.user]]`s look. `/healthz` and `/readyz` answer everybody.
        views_from: Vec<Network> = "[\"127.0.0.0/8\", \"::1\"]";
        /// Certificate chain of the HTTP listeners, PEM: with it they speak HTTPS and nothing else.
        /// Without it credentials are taken from this machine only.
        tls_cert as "tls.cert": Option<PathBuf> [file_only()];
        /// Private key of `tls.cert`, PEM.
        tls_key as "tls.key": Option<PathBuf> [file_only()];
        /// The lowest version of TLS that is spoken over HTTP.
        tls_min_version as "tls.min_version": TlsVersion = "\"1.2\"" [file_only()];
        /// The database name at which the SQL console answers; "pgbouncer" answers too.
        database: String = "\"forebay\"";
    }
    also { users: Vec::new() }
}

section! {
    Many AdminUser = "admin.user" {
        /// Login name for the console and over HTTP.
        name: String [required()];
        /// Clear text or a verifier as in `[[postgres.user]]`.
        password: Secret [required(), file_only()];
        /// viewer may look at views only, admin may also run commands.
        role: AdminRole = "\"viewer\"";
    }
}

section! {
    One Security = "security" {
        /// Failed logins of one address within `ban_window` before it is refused for `ban_time`.
        /// Raise it where many users share one address.
        ban_after: u32 = "8" [at_least(1)];
        /// The time in which failed logins are counted together.
        ban_window: Duration = "\"30s\"" [at_least(1)];
        /// How long an address stays refused; "off" bans nobody for failed logins.
        ban_time: Option<Duration> = "\"10m\"";
        /// CIDR blocks (or single addresses) that are never banned: load balancers, application servers.
        /// What is written replaces the default, which is this machine.
        ban_allow: Vec<Network> = "[\"127.0.0.0/8\", \"::1\"]";
        /// CIDR blocks that may connect; empty means all. Unix sockets always may.
        allow: Vec<Network> = "[]";
        /// Whether the load balancers of `proxy_trusted` begin every connection with a PROXY header, version 1 or 2,
        /// whose address then counts as the client's.
        proxy_protocol: bool = "\"off\"" [words("off", "on")];
        /// CIDR blocks whose PROXY header is required and believed. Others must send none, and count as themselves.
        proxy_trusted: Vec<Network> = "[]";
        /// New connections a second that one address may make, on average; more are refused.
        connect_rate: Option<usize> = "\"unlimited\"" [at_least(1)];
        /// New connections that one address may make at once before `connect_rate` holds.
        connect_burst: usize = "100" [at_least(1)];
        /// Connections that have not logged in yet, over all addresses; one more is refused.
        max_pending_logins: Option<usize> = "\"unlimited\"" [at_least(1)];
        /// The same, of one address.
        max_pending_logins_per_address: Option<usize> = "\"unlimited\"" [at_least(1)];
    }
}

section! {
    One Coordination = "coordination" {
        /// Endpoints of etcd through which several instances agree on decisions; empty means one instance.
        etcd: Vec<String> = "[]" [urls(), restart()];
        /// What all keys in etcd start with; one prefix for each group of instances.
        prefix: String = "\"/forebay\"" [restart()];
        /// How long the other instances wait for one that etcd does not hear from before they promote without it. It stops
        /// taking writes a fifth of that earlier. etcd grants no less than about one and a half of its election time-outs.
        lease: Duration = "\"5s\"" [at_least(2000), restart()];
        /// What this instance is called in `SHOW INSTANCES`; without it, its host's name and the first port of `[postgres]`.
        name: Option<String> [restart()];
        /// Where the other instances ask this one whether to go on when etcd is lost: "10.0.0.5:8405". Without it, the address
        /// from which it reaches etcd, on any free port. What is said there is signed, and holds no secret.
        peer_listen: Option<String> [restart()];
        /// Login at etcd.
        user: Option<String> [restart()];
        /// Password of `user`.
        password: Option<Secret> [file_only(), restart()];
        /// Authorities that etcd's certificates are checked against, PEM; without it, the system's.
        tls_ca as "tls.ca": Option<PathBuf> [file_only(), restart()];
        /// Certificate shown to etcd, PEM.
        tls_cert as "tls.cert": Option<PathBuf> [file_only(), restart()];
        /// Private key of `tls.cert`, PEM.
        tls_key as "tls.key": Option<PathBuf> [file_only(), restart()];
    }
}

section! {
    One Notify = "notify" {
        /// URLs that get a POST with a JSON body for each event; chat services show it as text.
        /// What cannot be delivered is tried again for ten minutes. The path of a URL is shown to nobody.
        webhook: Vec<String> = "[]" [urls()];
        /// Authorities that certificates of `https` URLs are checked against, PEM; without it, the system's.
        tls_ca as "tls.ca": Option<PathBuf> [file_only()];
        /// Names of the events to send; empty means all.
        events: Vec<String> = "[]";
    }
}

section! {
    One Telemetry = "telemetry" {
        /// The URL of an OpenTelemetry collector that takes OTLP over HTTP, "http://collector:4318": traces go to
        /// `/v1/traces` below it, metrics to `/v1/metrics`. Without it nothing is told to anybody.
        otlp: Option<String> [file_only()];
        /// Headers sent with each request, `{ authorization = "Bearer ..." }`.
        headers: BTreeMap<String, Secret> = "{}" [file_only()];
        /// What this instance is called in what it tells: `service.name`.
        service_name: String = "\"forebay\"";
        /// Time between two exports of the metrics; "off" exports traces only.
        interval: Option<Duration> = "\"1m\"" [at_least(1000)];
        /// The share of statements that are traced although they come without a `traceparent`, from 0 to 1.
        /// Those that come with one are traced if it says that it is sampled.
        sample: f64 = "0.0";
        /// Authorities that the collector's certificate is checked against, PEM; without it, the system's.
        tls_ca as "tls.ca": Option<PathBuf> [file_only()];
    }
}
