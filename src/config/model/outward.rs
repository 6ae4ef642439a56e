//! Whom Forebay talks to beside clients and servers: receivers of events, collectors of telemetry, etcd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// `[notify]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Notify {
    /// URLs.
    pub webhook: Vec<String>,
    /// Authorities that their certificates are checked against, PEM; `None`: the system's.
    pub tls_ca: Option<PathBuf>,
    /// Names of events; empty means all.
    pub events: Vec<String>,
}

/// `[telemetry]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Telemetry {
    /// The collector's URL, to which `/v1/traces` and `/v1/metrics` are added; `None`: nothing is told.
    pub otlp: Option<String>,
    /// Sent with each request.
    pub headers: BTreeMap<String, Secret>,
    /// `service.name`
    pub service_name: String,
    /// Between two exports of the metrics; `None`: they are not exported.
    pub interval: Option<Duration>,
    /// Statements without a `traceparent` that are traced, from 0 to 1.
    pub sample: f64,
    /// Authorities that the collector's certificate is checked against, PEM; `None`: the system's.
    pub tls_ca: Option<PathBuf>,
}

/// `[coordination]`
#[derive(Debug, Clone, PartialEq)]
pub struct Coordination {
    /// URLs of etcd's members.
    pub etcd: Vec<String>,
    /// What every key begins with.
    pub prefix: String,
    /// How long etcd waits for this instance before it counts as gone.
    pub lease: Duration,
    /// As others see this instance; `None`: made of its host's name.
    pub name: Option<String>,
    /// Where the other instances ask this one when etcd is lost; `None`: where it is reached from etcd, on any port.
    pub peer_listen: Option<String>,
    /// Login at etcd.
    pub user: Option<String>,
    /// See `user`.
    pub password: Option<Secret>,
    /// Authorities that etcd's certificates are checked against, PEM; `None`: the system's.
    pub tls_ca: Option<PathBuf>,
    /// Certificate shown to etcd, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}
