//! The validated configuration: what the rest of the program is given, resolved once and passed down.
//!
//! Nothing here knows TOML, files or the environment. Every value has its final type and default, and what is
//! inherited (`[postgres.pool]` into a database into a user) is already merged by [`PoolSettings`] lookups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroize;

mod outward;

pub use outward::{Coordination, Notify, Telemetry};

use super::hba::Rules;
use super::network::Network;
use crate::wire::pg::auth::Credential;

/// The whole configuration of one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[general]`
    pub general: General,
    /// `[admin]`
    pub admin: Admin,
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[[redis.service]]`, in file order.
    pub redis: Vec<RedisService>,
    /// `[security]`
    pub security: Security,
    /// `[notify]`
    pub notify: Notify,
    /// `[telemetry]`
    pub telemetry: Telemetry,
    /// `[coordination]`, absent for a single instance.
    pub coordination: Option<Coordination>,
    /// Environment variables that secrets were taken from: programs that are started do not get them.
    pub secret_variables: BTreeSet<String>,
}

impl Config {
    /// What is checked or shown in a user's name: of the pools, the console and the monitors.
    pub fn passwords_of(&self, user: &str) -> Vec<&Secret> {
        let admins = self.admin.users.iter().filter(|admin| admin.name == user).map(|admin| &admin.password);
        let users = self.postgres.users.iter().filter(|known| known.name == user);
        let monitors = self.postgres.clusters.iter().filter(|cluster| cluster.monitor_user == user);
        let monitors = monitors.map(|cluster| &cluster.monitor_password);
        let users = users.flat_map(|user| user.password.iter().chain(&user.previous_password));
        admins.chain(users).chain(monitors).collect()
    }
}

/// A secret that shows as `***` in every `Debug` output, and of which nothing is left in memory when it is dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `[general]`
#[derive(Debug, Clone, PartialEq)]
pub struct General {
    /// Data threads; 0 in the file means one per core and is resolved here.
    pub threads: usize,
    /// Where decisions and node states that must survive a restart are kept.
    pub state_dir: PathBuf,
    /// How long TERM waits for clients to finish.
    pub shutdown_grace: Duration,
    /// How long a process that was replaced by `UPGRADE` waits for clients that cannot follow.
    pub upgrade_grace: Duration,
    /// A `tracing` filter: `info`, `debug`, `forebay::pool=debug,info`.
    pub log_level: String,
    /// Shape of a log line.
    pub log_format: LogFormat,
    /// Statements that take so long have a line in the log.
    pub log_slow_statements: Option<Duration>,
    /// Whether a crash may leave the memory, secrets included, in a file, and the user's other processes may look into it.
    pub core_dumps: bool,
}

/// `general.log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// `admin.listen` unless the file has one.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8404));

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// HTTP listeners.
    pub listen: Vec<SocketAddr>,
    /// Whose views need no credentials over HTTP.
    pub views_from: Vec<Network>,
    /// Certificate chain of the HTTP listeners, PEM; without it they speak clear text.
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// The floor.
    pub tls_min_version: TlsVersion,
    /// Name of the console's database; `pgbouncer` answers too.
    pub database: String,
    /// `[[admin.user]]`
    pub users: Vec<AdminUser>,
}

/// `[[admin.user]]`
#[derive(Debug, Clone, PartialEq)]
pub struct AdminUser {
    /// Login name.
    pub name: String,
    /// Clear text or a verifier.
    pub password: Secret,
    /// What the user may do.
    pub role: AdminRole,
}

/// `admin.user.role`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminRole {
    /// Views only.
    Viewer,
    /// Views and commands.
    Admin,
}

/// `[postgres]` and everything below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Postgres {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// Client connections over all listeners; one more is refused with 53300.
    pub max_clients: usize,
    /// How clients log in.
    pub auth: AuthMethod,
    /// `pg_hba.conf`, for [`AuthMethod::Hba`].
    pub hba_file: Option<PathBuf>,
    /// `pg_ident.conf`
    pub ident_file: Option<PathBuf>,
    /// The map of `ident_file` that says which certificates are whose, for [`AuthMethod::Cert`].
    pub cert_map: Option<String>,
    /// What both files say; there with [`AuthMethod::Hba`] and [`AuthMethod::Cert`] only.
    pub hba: Option<Arc<Rules>>,
    /// Whether clients may or must use TLS.
    pub tls_mode: TlsMode,
    /// Certificate chain shown to clients, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Private key of `tls_cert`, PEM.
    pub tls_key: Option<PathBuf>,
    /// Authorities that clients' certificates are checked against, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Oldest version of TLS that is accepted.
    pub tls_min_version: TlsVersion,
    /// Answers name, password and the password's end (seconds since 1970) of a login; the default reads `pg_authid`.
    pub auth_query: Option<String>,
    /// Who runs it; `None`: only the logins of the configuration exist.
    pub auth_user: Option<String>,
    /// Where; the cluster's `monitor_database` when absent.
    pub auth_dbname: Option<String>,
    /// How long an answer holds.
    pub auth_query_cache: Duration,
    /// How long one LDAP server may take for a login, from the connection on.
    pub ldap_timeout: Duration,
    /// Authorities that LDAP servers' certificates are checked against, PEM; `None`: the system's.
    pub ldap_ca: Option<PathBuf>,
    /// How LDAP servers are met with TLS, made ready if a rule needs it.
    pub ldap_tls: ServerTls,
    /// Whether clients must bind their SCRAM logins to the encrypted connection.
    pub tls_channel_binding: ChannelBinding,
    /// `[postgres.pool]`
    pub pool: PoolSettings,
    /// `[postgres.routing]`
    pub routing: RoutingSettings,
    /// `[postgres.failover]`
    pub failover: Failover,
    /// `[[postgres.cluster]]`, in file order, names unique.
    pub clusters: Vec<Cluster>,
    /// `[[postgres.database]]`, in file order, names unique; `*` matches any.
    pub databases: Vec<Database>,
    /// `[[postgres.user]]`, in file order, names unique.
    pub users: Vec<User>,
}

/// `tls.mode`, in the words of libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the other side wants it.
    Allow,
    /// If the other side can.
    Prefer,
    /// Always.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// The same, and made out to the right name.
    VerifyFull,
}

impl TlsMode {
    /// Nothing is said in clear text.
    pub fn is_required(self) -> bool {
        matches!(self, Self::Require) || self.is_verified()
    }

    /// A certificate of a known authority is asked for.
    pub fn is_verified(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// `tls.channel_binding`, in the words of libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// If both sides can.
    Prefer,
    /// A login that is not bound fails.
    Require,
}

/// `tls.min_version`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

/// One address of `postgres.listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// TCP address or path of a Unix socket.
    pub addr: ListenAddr,
    /// What clients of this listener get: `auto` splits, the others force a side.
    pub route: ListenRoute,
}

/// A listener's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// Host names are resolved when the configuration is loaded.
    Tcp(SocketAddr),
    /// A path; PostgreSQL's clients look for `DIR/.s.PGSQL.PORT`.
    Unix(PathBuf),
}

/// `route` of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum ListenRoute {
    /// Statement by statement.
    #[default]
    Auto,
    /// Always the primary.
    Primary,
    /// Always a replica (the primary only if no replica is fit).
    Replica,
}

/// `postgres.auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// SASL with SCRAM-SHA-256.
    ScramSha256,
    /// MD5 challenge; a SCRAM verifier in the user's entry still makes it SCRAM, as in PostgreSQL.
    Md5,
    /// No password asked.
    Trust,
    /// By a certificate that is made out to the login.
    Cert,
    /// As the rule says under which the connection falls.
    Hba,
}

impl AuthMethod {
    /// Rules decide: those of a file, or the one that this word stands for.
    pub fn has_rules(self) -> bool {
        matches!(self, Self::Cert | Self::Hba)
    }
}

/// Pool keys after inheritance: `[postgres.pool]`, then the database's, then the user's.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// When a server connection goes back.
    pub mode: PoolMode,
    /// Server connections to one node for one (database, user).
    pub size: usize,
    /// Kept open to the primary even when idle.
    pub min_size: usize,
    /// Extra connections when a client has waited `reserve_after`.
    pub reserve_size: usize,
    /// See `reserve_size`.
    pub reserve_after: Duration,
    /// Clients that may keep a server connection for what they left on it; `None` is unlimited.
    pub max_pinned: Option<usize>,
    /// A waiting client is refused after this long; `None` waits for ever.
    pub queue_timeout: Option<Duration>,
    /// Waiting clients per pool; `None` is unlimited.
    pub queue_length: Option<usize>,
    /// A NOTICE is sent to a client that has waited this long; `None` never.
    pub queue_notice: Option<Duration>,
    /// TCP connect and login to a server.
    pub connect_timeout: Duration,
    /// An idle server connection is closed after this long; `None` never.
    pub server_idle_timeout: Option<Duration>,
    /// A server connection is closed when idle after this age (up to 10 % earlier, each its own); `None` never.
    pub server_lifetime: Option<Duration>,
    /// From accept to the end of login.
    pub client_login_timeout: Option<Duration>,
    /// A client that sends nothing outside a transaction for this long is closed.
    pub client_idle_timeout: Option<Duration>,
    /// A statement that runs for longer is cancelled and its client closed.
    pub query_timeout: Option<Duration>,
    /// A transaction open for longer is ended and its client closed.
    pub transaction_timeout: Option<Duration>,
    /// A client idle inside a transaction for longer is closed.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// Protocol-level prepared statements kept on one server connection.
    pub prepared_statements: usize,
}

/// `pool.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Back to the pool at the end of each transaction.
    Transaction,
    /// Back to the pool when the client leaves.
    Session,
    /// Back after each statement; transaction blocks are refused.
    Statement,
}

/// `[postgres.routing]` and its overrides in a database or user.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingSettings {
    /// Reads may run on replicas.
    pub split: bool,
    /// What a read may miss.
    pub consistency: Consistency,
    /// How long a read waits for a replica that shows what it must see.
    pub read_wait: Option<Duration>,
    /// A replica further behind gets no reads; `None` is unlimited.
    pub max_lag: Option<Duration>,
    /// The same in bytes of WAL.
    pub max_lag_bytes: Option<u64>,
    /// How one of several fit replicas is chosen.
    pub balance: Balance,
    /// Functions called by these names (`name` or `schema.name`) are reads whatever the catalog says.
    pub read_functions: Vec<String>,
    /// Functions called by these names are writes whatever the catalog says.
    pub write_functions: Vec<String>,
}

/// `routing.consistency`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// A client sees its own writes.
    Session,
    /// A read may be as old as `max_lag`.
    Eventual,
    /// Every read on the primary.
    Primary,
}

/// `routing.balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Fewest busy connections in proportion to the weight.
    LeastConnections,
    /// In turn, in proportion to the weight.
    RoundRobin,
    /// By chance, in proportion to the weight.
    Random,
    /// By the client's address, so that one client stays on one node.
    Source,
}

/// `[postgres.failover]`
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// Who promotes.
    pub mode: FailoverMode,
    /// What a promotion may lose.
    pub durability: Durability,
    /// For `bounded`.
    pub max_lost_bytes: u64,
    /// Between two probes of a node.
    pub check_interval: Duration,
    /// A probe that takes longer failed.
    pub check_timeout: Duration,
    /// How long clients wait without a primary before 57P03.
    pub hold: Duration,
    /// How long a switchover waits for open transactions.
    pub drain: Duration,
    /// Resolve unknown COMMITs on the frozen candidate.
    pub commit_resolution: bool,
    /// A client whose transaction was lost is closed (true) or gets 40001 (false).
    pub txn_loss_close: bool,
    /// argv of hooks; empty when absent.
    pub fence_command: Vec<String>,
    /// argv
    pub validate_command: Vec<String>,
    /// argv
    pub rejoin_command: Vec<String>,
    /// argv
    pub event_command: Vec<String>,
    /// How a clean switchover restarts the old primary as a standby.
    pub demote_method: DemoteMethod,
    /// argv, for `hook`.
    pub demote_command: Vec<String>,
}

impl Failover {
    /// A promotion may lose `max_lost_bytes` and no more.
    pub fn is_bounded(&self) -> bool {
        self.mode == FailoverMode::Promote && self.durability == Durability::Bounded
    }
}

/// `failover.demote_method`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoteMethod {
    /// There is no clean switchover.
    Nobody,
    /// `demote_command`
    Hook,
    /// `COPY ... TO PROGRAM` on the server itself.
    CopyProgram,
}

/// `failover.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverMode {
    /// Writes go to whichever node became primary.
    Follow,
    /// Forebay promotes.
    Promote,
    /// Roles are taken once and not followed.
    Off,
}

/// `failover.durability`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// At most `max_lost_bytes`.
    Bounded,
    /// Nothing acknowledged.
    Strict,
    /// Whatever the best candidate has.
    BestEffort,
}

/// `[[postgres.cluster]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Unique name; also the service's name in the console.
    pub name: String,
    /// At least one.
    pub nodes: Vec<Node>,
    /// Login of the probes; defaults to the first `[[postgres.user]]`.
    pub monitor_user: String,
    /// See `monitor_user`; empty where the servers ask for none.
    pub monitor_password: Secret,
    /// Tried where the nodes do not take the other one.
    pub monitor_previous_password: Secret,
    /// Database that the probes connect to.
    pub monitor_database: String,
    /// Whether connections to the nodes use TLS.
    pub tls_mode: TlsMode,
    /// Authorities that the servers' certificates are checked against, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Certificate shown to the servers, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Private key of `tls_cert`, PEM.
    pub tls_key: Option<PathBuf>,
    /// Whether logins at the nodes must be bound to the encrypted connection.
    pub tls_channel_binding: ChannelBinding,
    /// The same, made ready.
    pub tls: ServerTls,
}

/// How the servers of a cluster are met. Equal if mode and files are.
#[derive(Debug, Clone, Default)]
pub struct ServerTls {
    config: Option<Arc<rustls::ClientConfig>>,
    is_required: bool,
    must_bind: bool,
    digest: u64,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.must_bind) == (other.digest, other.must_bind)
    }
}

impl ServerTls {
    /// With what rustls makes of the files; `digest` is of all that they say.
    pub fn new(config: Arc<rustls::ClientConfig>, is_required: bool, digest: u64) -> Self {
        Self { config: Some(config), is_required, must_bind: false, digest }
    }

    /// The same, with logins bound to the connection or not.
    pub fn bound(self, binding: ChannelBinding) -> Self {
        Self { must_bind: binding == ChannelBinding::Require, ..self }
    }

    /// A login that is not bound to the connection (SCRAM-SHA-256-PLUS) is given up.
    pub fn must_bind(&self) -> bool {
        self.must_bind
    }

    /// What to speak; `None` for clear text.
    pub fn config(&self) -> Option<&Arc<rustls::ClientConfig>> {
        self.config.as_ref()
    }

    /// A server that cannot is not spoken to.
    pub fn is_required(&self) -> bool {
        self.is_required
    }
}

/// How the clients of a Redis service are met. Equal if mode and files are.
#[derive(Debug, Clone, Default)]
pub struct ClientTls {
    config: Option<Arc<rustls::ServerConfig>>,
    is_required: bool,
    digest: u64,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl ClientTls {
    /// With what rustls makes of the files; `digest` is of all that they say.
    pub fn new(config: Arc<rustls::ServerConfig>, is_required: bool, digest: u64) -> Self {
        Self { config: Some(config), is_required, digest }
    }

    /// What to speak with who begins a handshake; `None` for nobody.
    pub fn config(&self) -> Option<&Arc<rustls::ServerConfig>> {
        self.config.as_ref()
    }

    /// Who does not begin one is not let in.
    pub fn is_required(&self) -> bool {
        self.is_required
    }
}

/// One node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `pg1`, `pg2`, ... in file order unless named.
    pub name: String,
    /// Host name, address, or directory of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, also part of a Unix socket's name.
    pub port: u16,
    /// Share of reads; 0 takes none.
    pub weight: u32,
    /// A role other than `Auto` refuses a node that turns out otherwise.
    pub role: NodeRole,
    /// May be chosen by a promotion.
    pub promote: bool,
}

/// `role` of a node in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeRole {
    /// Found by asking.
    #[default]
    Auto,
    /// Only ever used as primary.
    Primary,
    /// Only ever used as replica.
    Replica,
}

/// `[[postgres.database]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Name that clients ask for; `*` for any.
    pub name: String,
    /// The name written as `cluster`, or the name of the only cluster.
    pub cluster_name: String,
    /// Index of `cluster_name` in [`Postgres::clusters`].
    pub cluster: usize,
    /// Name on the server; the client's when absent.
    pub dbname: Option<String>,
    /// Login on the server; the client's when absent.
    pub user: Option<String>,
    /// Pool keys written in this entry.
    pub pool: PoolOverrides,
    /// Routing keys written in this entry.
    pub routing: RoutingOverrides,
}

/// `[[postgres.user]]`
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Clear text or a `SCRAM-SHA-256$...` / `md5...` verifier; `None` only with `auth = "trust"` or `"hba"`.
    pub password: Option<Secret>,
    /// Right as well, while a password is being replaced.
    pub previous_password: Option<Secret>,
    /// Pool keys written in this entry.
    pub pool: PoolOverrides,
    /// Routing keys written in this entry.
    pub routing: RoutingOverrides,
}

impl User {
    /// What the login can be proved by, the one in force in front.
    pub fn credentials(&self) -> Vec<Credential> {
        let passwords = self.password.iter().chain(&self.previous_password);
        passwords.filter_map(|password| Credential::parse(&password.0).ok()).collect()
    }
}

/// Pool keys that one entry sets. The outer `Option` is "written here".
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the same keys as PoolSettings")]
pub struct PoolOverrides {
    pub mode: Option<PoolMode>,
    pub size: Option<usize>,
    pub min_size: Option<usize>,
    pub reserve_size: Option<usize>,
    pub reserve_after: Option<Duration>,
    pub max_pinned: Option<Option<usize>>,
    pub queue_timeout: Option<Option<Duration>>,
    pub queue_length: Option<Option<usize>>,
    pub queue_notice: Option<Option<Duration>>,
    pub connect_timeout: Option<Duration>,
    pub server_idle_timeout: Option<Option<Duration>>,
    pub server_lifetime: Option<Option<Duration>>,
    pub client_login_timeout: Option<Option<Duration>>,
    pub client_idle_timeout: Option<Option<Duration>>,
    pub query_timeout: Option<Option<Duration>>,
    pub transaction_timeout: Option<Option<Duration>>,
    pub idle_in_transaction_timeout: Option<Option<Duration>>,
    pub prepared_statements: Option<usize>,
}

/// Routing keys that one entry sets.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the same keys as RoutingSettings")]
pub struct RoutingOverrides {
    pub split: Option<bool>,
    pub consistency: Option<Consistency>,
    pub read_wait: Option<Option<Duration>>,
    pub max_lag: Option<Option<Duration>>,
    pub max_lag_bytes: Option<Option<u64>>,
    pub balance: Option<Balance>,
    pub read_functions: Option<Vec<String>>,
    pub write_functions: Option<Vec<String>>,
}

/// `[[redis.service]]`
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the keys of the contract, one to one")]
pub struct RedisService {
    pub name: String,
    pub listen: Vec<ListenAddr>,
    pub sentinels: Vec<String>,
    pub master_name: Option<String>,
    pub sentinel_password: Option<Secret>,
    pub nodes: Vec<String>,
    pub auth: Option<Secret>,
    pub users: BTreeMap<String, Secret>,
    pub admin_commands: BTreeMap<String, Vec<String>>,
    pub max_clients: usize,
    pub lanes: usize,
    pub reads: RedisReads,
    pub max_lag: Option<Duration>,
    pub hold: Duration,
    pub queue_length: Option<usize>,
    pub client_login_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub tls_mode: TlsMode,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Keys are counted for SHOW KEYS.
    pub count_keys: bool,
    /// `None`: as `tls_mode`.
    pub sentinel_tls: Option<TlsMode>,
    pub client_tls_mode: TlsMode,
    pub client_tls_cert: Option<PathBuf>,
    pub client_tls_key: Option<PathBuf>,
    pub client_tls_ca: Option<PathBuf>,
    pub client_tls_min_version: TlsVersion,
    pub client_tls_timeout: Duration,
    /// `tls`, made ready.
    pub to_nodes: ServerTls,
    /// The same for Sentinels.
    pub to_sentinels: ServerTls,
    /// `client_tls`, made ready.
    pub to_clients: ClientTls,
}

/// `redis.service.reads`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the values of the contract, one to one")]
pub enum RedisReads {
    Primary,
    Replica,
    PreferReplica,
    Nearest,
}

/// `[security]`
#[derive(Debug, Clone, PartialEq)]
pub struct Security {
    /// Failed logins within `ban_window` before an address is refused.
    pub ban_after: u32,
    /// See `ban_after`.
    pub ban_window: Duration,
    /// For how long; `None`: nobody is banned for failed logins.
    pub ban_time: Option<Duration>,
    /// Blocks that are never banned.
    pub ban_allow: Vec<Network>,
    /// Blocks that may connect; empty means all.
    pub allow: Vec<Network>,
    /// Load balancers of `proxy_trusted` send a PROXY header.
    pub proxy_protocol: bool,
    /// See `proxy_protocol`.
    pub proxy_trusted: Vec<Network>,
    /// New connections of one address, a second.
    pub connect_rate: Option<usize>,
    /// New connections of one address at once.
    pub connect_burst: usize,
    /// Connections that have not logged in yet.
    pub max_pending_logins: Option<usize>,
    /// The same, of one address.
    pub max_pending_logins_per_address: Option<usize>,
}

impl Postgres {
    /// The entry for a database that a client asked for: by name, then `*`, then any name on the only cluster.
    pub fn database(&self, name: &str) -> Option<DatabaseRef<'_>> {
        let entry =
            self.databases.iter().find(|d| d.name == name).or_else(|| self.databases.iter().find(|d| d.name == "*"));
        match entry {
            Some(entry) => Some(DatabaseRef { cluster: entry.cluster, entry: Some(entry) }),
            None if self.databases.is_empty() && self.clusters.len() == 1 => {
                Some(DatabaseRef { cluster: 0, entry: None })
            }
            None => None,
        }
    }

    /// The login named `name`.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|u| u.name == name)
    }
}

/// What [`Postgres::database`] found.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseRef<'a> {
    /// Index into [`Postgres::clusters`].
    pub cluster: usize,
    /// The entry, absent when the file names no database at all.
    pub entry: Option<&'a Database>,
}
