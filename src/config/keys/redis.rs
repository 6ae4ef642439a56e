//! `[[redis.service]]`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::section;
use crate::config::model::{ClientTls, ListenAddr, RedisReads, RedisService, Secret, ServerTls, TlsMode, TlsVersion};
use crate::config::setting::{MayBeAbsent, words};

words! {
    RedisReads { Primary = "primary", Replica = "replica", PreferReplica = "prefer_replica", Nearest = "nearest" }
}

// Absent: as another key says.
impl MayBeAbsent for TlsMode {}

section! {
    Many RedisService = "redis.service" {
        /// Unique name, also shown in the console.
        name: String [required()];
        /// Where clients connect: "host:port" or the path of a Unix socket.
        listen: Vec<ListenAddr> [required(), not_empty(), restart()];
        /// Every Sentinel as "host:port" (default port 26379). A majority of these must agree on the primary.
        sentinels: Vec<String> = "[]";
        /// The name that the Sentinels know the primary by; needed with `sentinels`.
        master_name: Option<String>;
        /// Password of the Sentinels themselves.
        sentinel_password: Option<Secret> [file_only()];
        /// The servers as "host:port", where there is no Sentinel: roles are then found by asking each.
        nodes: Vec<String> = "[]";
        /// Password of the servers' default user, which clients must give too.
        auth: Option<Secret> [file_only()];
        /// Further logins, name = password, that clients may use and that the servers know.
        users: BTreeMap<String, Secret> = "{}" [file_only()];
        /// Administrators' commands (SHUTDOWN, CONFIG SET, DEBUG, ...) that a user may run all the same, by user:
        /// { ops = ["config|set", "debug"], root = ["*"] }. Who does not log in is "default".
        admin_commands: BTreeMap<String, Vec<String>> = "{}";
        /// Client connections of this service; one more is refused.
        max_clients: usize = "10000" [at_least(1)];
        /// Connections to one node on each core. One is fastest; more help when single answers are large.
        lanes: usize = "1" [at_least(1)];
        /// Where commands that only read run.
        reads: RedisReads = "\"primary\"";
        /// A replica further behind gets no reads.
        max_lag: Option<Duration> = "\"10s\"" [zero_is_refused()];
        /// How long commands wait while there is no primary before they get an error.
        hold: Duration = "\"4s\"";
        /// Commands that may wait while there is no primary.
        queue_length: Option<usize> = "\"unlimited\"";
        /// Whether the keys that are used most and those with the largest values are counted, for SHOW KEYS. false: none is
        /// kept or shown, as where keys hold secrets.
        count_keys: bool = "true";
        /// A client that has to log in and has not within this time is closed, whatever it sends.
        client_login_timeout: Option<Duration> = "\"15s\"";
        /// A client that sends nothing for this long is closed.
        idle_timeout: Option<Duration> = "\"off\"";
        /// Whether connections to the servers use TLS: require always, verify-ca with a certificate of `tls.ca`,
        /// verify-full with one that is made out to the node's host, too. Without `tls.ca` require takes any
        /// certificate. Redis cannot be asked whether it speaks TLS, so there is no allow and no prefer.
        tls_mode as "tls.mode": TlsMode = "\"disable\"" [file_only()];
        /// Authorities that the certificates of servers and Sentinels are checked against, PEM. Read again at each
        /// reload, as are all files of TLS.
        tls_ca as "tls.ca": Option<PathBuf> [file_only()];
        /// Certificate shown to servers and Sentinels, PEM.
        tls_cert as "tls.cert": Option<PathBuf> [file_only()];
        /// Private key of `tls.cert`, PEM.
        tls_key as "tls.key": Option<PathBuf> [file_only()];
        /// `tls.mode` of the connections to Sentinels, where it is another one: disable if they speak clear text.
        sentinel_tls: Option<TlsMode> [file_only()];
        /// Whether clients may (allow, prefer) or must (require) use TLS; with verify-ca or verify-full they must show a
        /// certificate, too. Unix sockets never use it.
        client_tls_mode as "client_tls.mode": TlsMode = "\"disable\"" [file_only()];
        /// Certificate chain shown to clients, PEM.
        client_tls_cert as "client_tls.cert": Option<PathBuf> [file_only()];
        /// Private key of `client_tls.cert`, PEM.
        client_tls_key as "client_tls.key": Option<PathBuf> [file_only()];
        /// Authorities that clients' certificates are checked against, PEM.
        client_tls_ca as "client_tls.ca": Option<PathBuf> [file_only()];
        /// Oldest version of TLS that is accepted from clients.
        client_tls_min_version as "client_tls.min_version": TlsVersion = "\"1.2\"" [file_only()];
        /// How long a client's handshake may take.
        client_tls_timeout as "client_tls.timeout": Duration = "\"15s\"" [at_least(100)];
    }
    also {
        to_nodes: ServerTls::default(),
        to_sentinels: ServerTls::default(),
        to_clients: ClientTls::default(),
    }
}
