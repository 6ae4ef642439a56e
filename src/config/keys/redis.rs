//! `[[redis.service]]`

use std::collections::BTreeMap;
use std::time::Duration;

use super::section;
use crate::config::model::{ListenAddr, RedisReads, RedisService, Secret};
use crate::config::setting::words;

words! {
    RedisReads { Primary = "primary", Replica = "replica", PreferReplica = "prefer_replica", Nearest = "nearest" }
}

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
        /// A client that has to log in and has not within this time is closed, whatever it sends.
        client_login_timeout: Option<Duration> = "\"15s\"";
        /// A client that sends nothing for this long is closed.
        idle_timeout: Option<Duration> = "\"off\"";
    }
}
