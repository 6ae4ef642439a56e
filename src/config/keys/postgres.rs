//! `[postgres]`, `[postgres.failover]`, and the clusters, databases and users.

use std::path::PathBuf;
use std::time::Duration;

use super::pool::{pool_keys, routing_keys, routing_keys_of_a_user};
use super::section;
use crate::config::model::{
    AuthMethod, ChannelBinding, Cluster, Database, DemoteMethod, Durability, Failover, FailoverMode, Listen,
    ListenAddr, ListenRoute, Node, NodeRole, PoolSettings, Postgres, RoutingSettings, Secret, ServerTls, TlsMode,
    TlsVersion, User,
};
use crate::config::setting::words;

words! {
    AuthMethod { ScramSha256 = "scram-sha-256", Md5 = "md5", Trust = "trust", Cert = "cert", Hba = "hba" }
    TlsMode {
        Disable = "disable", Allow = "allow", Prefer = "prefer", Require = "require", VerifyCa = "verify-ca",
        VerifyFull = "verify-full"
    }
    ChannelBinding { Prefer = "prefer", Require = "require" }
    TlsVersion { Tls12 = "1.2", Tls13 = "1.3" }
    ListenRoute { Auto = "auto", Primary = "primary", Replica = "replica" }
    FailoverMode { Follow = "follow", Promote = "promote", Off = "off" }
    Durability { Bounded = "bounded", Strict = "strict", BestEffort = "best_effort" }
    DemoteMethod { Nobody = "none", Hook = "hook", CopyProgram = "copy_program" }
    NodeRole { Auto = "auto", Primary = "primary", Replica = "replica" }
}

section! {
    One Postgres = "postgres" {
        /// Where clients connect: "host:port", ":port" for every IPv4 address, the path of a Unix socket, or
        /// `{ addr = "...", route = "primary" }` for a port that always goes to one side.
        listen: Vec<Listen> = "[\"127.0.0.1:6432\"]" [restart()];
        /// Client connections over all listeners; one more is refused with 53300. Each needs a file descriptor.
        max_clients: usize = "10000" [at_least(1)];
        /// How clients log in. md5 asks those with a SCRAM verifier for SCRAM all the same; trust asks nobody
        /// for a password; cert lets in who shows a certificate of `tls.ca` whose common name is the login; hba goes by
        /// the rules of `hba_file`.
        auth: AuthMethod = "\"scram-sha-256\"";
        /// A query that answers for the login $1 its name, its password as pg_authid has it, and if it likes the end of
        /// that password in seconds since 1970 (double precision); the default reads pg_authid, which only superusers
        /// may. It runs with search_path = pg_catalog: names of others need their schema.
        auth_query: Option<String>;
        /// The `[[postgres.user]]` that runs auth_query; logins without a `[[postgres.user]]` exist only with it.
        auth_user: Option<String>;
        /// The database where it runs it; the cluster's monitor_database when absent.
        auth_dbname: Option<String>;
        /// How long an answer holds; after a failed login it is asked again.
        auth_query_cache: Duration = "\"30s\"";
        /// Rules in the format of pg_hba.conf, for `auth = "hba"`. A relative path is looked for from the folder of this
        /// file. Read again at each reload.
        hba_file: Option<PathBuf> [file_only(), beside()];
        /// Maps in the format of pg_ident.conf, for rules with `map=` and for `cert_map`. As `hba_file`.
        ident_file: Option<PathBuf> [file_only(), beside()];
        /// The map of `ident_file` by which the names of certificates are logins, for `auth = "cert"`.
        cert_map: Option<String> [file_only()];
        /// How long one LDAP server may take for a login, from the connection on, for rules with the method ldap. The
        /// next of the rule's servers is tried then.
        ldap_timeout as "ldap.timeout": Duration = "\"5s\"" [at_least(10)];
        /// Authorities that LDAP servers' certificates are checked against, PEM; the system's when absent.
        ldap_ca as "ldap.ca": Option<PathBuf> [file_only()];
        /// Whether clients may (allow, prefer) or must (require) use TLS; with verify-ca or verify-full they must show a
        /// certificate, too. Unix sockets never use it.
        tls_mode as "tls.mode": TlsMode = "\"disable\"" [file_only()];
        /// Certificate chain shown to clients, PEM. Read again at each reload, as are the other two files.
        tls_cert as "tls.cert": Option<PathBuf> [file_only()];
        /// Private key of `tls.cert`, PEM.
        tls_key as "tls.key": Option<PathBuf> [file_only()];
        /// Authorities that clients' certificates are checked against, PEM.
        tls_ca as "tls.ca": Option<PathBuf> [file_only()];
        /// Oldest version of TLS that is accepted.
        tls_min_version as "tls.min_version": TlsVersion = "\"1.2\"" [file_only()];
        /// Whether clients must bind their SCRAM logins to the encrypted connection, so that nobody can stand between
        /// (SCRAM-SHA-256-PLUS); libpq does if the server offers it, many drivers cannot.
        tls_channel_binding as "tls.channel_binding": ChannelBinding = "\"prefer\"" [file_only()];
    }
    also {
        hba: None,
        ldap_tls: ServerTls::default(),
        pool: PoolSettings::blank(),
        routing: RoutingSettings::blank(),
        failover: Failover::blank(),
        clusters: Vec::new(),
        databases: Vec::new(),
        users: Vec::new(),
    }
}

section! {
    Inline Listen = "postgres.listen" {
        /// The address, written as in the list itself.
        addr: ListenAddr [required()];
        /// auto splits statement by statement, primary and replica send everything to that side.
        route: ListenRoute = "\"auto\"";
    }
}

section! {
    One Failover = "postgres.failover" {
        /// follow sends writes to whichever node became primary, promote also promotes one, off keeps the
        /// roles found at the start.
        mode: FailoverMode = "\"follow\"";
        /// What a promotion may lose: bounded at most `max_lost_bytes`, strict nothing that was acknowledged,
        /// best_effort whatever the best candidate lacks.
        durability: Durability = "\"bounded\"";
        /// Most write-ahead log that a bounded promotion may lose.
        max_lost_bytes: u64 = "\"1MiB\"";
        /// Time between two probes of a node. Shorter finds a failure sooner and costs every node a query.
        check_interval: Duration = "\"500ms\"" [at_least(10)];
        /// A probe that takes longer counts as failed. Raise it on slow networks.
        check_timeout: Duration = "\"1s\"" [at_least(10)];
        /// How long clients wait while there is no primary before they get an error (57P03).
        hold: Duration = "\"15s\"";
        /// How long a switchover waits for open transactions.
        drain: Duration = "\"5s\"";
        /// Whether a client whose COMMIT was on its way when the primary was lost waits, for `hold` at the longest, and
        /// is then told what became of it. Costs a transaction that writes one more query.
        commit_resolution: bool = "\"off\"" [words("off", "on"), restart()];
        /// What a client gets whose transaction was lost before its COMMIT: its connection closed (57P01), or
        /// error 40001 and the session goes on unless the client was tied to that connection.
        txn_loss_close as "txn_loss": bool = "\"close\"" [words("error", "close")];
        /// Run to keep a lost primary from writing, before another is promoted.
        fence_command: Vec<String> = "[]" [command()];
        /// Run to ask whether a candidate may be promoted.
        validate_command: Vec<String> = "[]" [command()];
        /// Run to turn a former primary into a replica.
        rejoin_command: Vec<String> = "[]" [command()];
        /// Run for every event.
        event_command: Vec<String> = "[]" [command()];
        /// How SWITCHOVER ... MODE clean restarts the old primary as a standby: none cannot, hook runs
        /// `demote_command`, copy_program has the server do it (monitor_user then needs pg_execute_server_program,
        /// which is as good as a shell there).
        demote_method: DemoteMethod = "\"none\"";
        /// Run to restart a primary as a standby, for `demote_method = "hook"`.
        demote_command: Vec<String> = "[]" [command()];
    }
}

section! {
    Many Cluster = "postgres.cluster" {
        /// Unique name, also shown in the console.
        name: String [required()];
        /// The servers, as "host:port", "host" (port 5432), "/socket/folder:port" or tables. Which one is the
        /// primary is found, not declared.
        nodes: Vec<Node> [required(), not_empty()];
        /// Login that watches the nodes; the first `[[postgres.user]]` when absent. It needs no rights beyond
        /// pg_monitor, unless Forebay changes the primary (docs/failover.md).
        monitor_user: String;
        /// Password of `monitor_user` in clear text.
        monitor_password: Secret [file_only()];
        /// Database that the watching login connects to.
        monitor_database: String = "\"postgres\"";
        /// Whether connections to the nodes use TLS: prefer (and allow) if the server can, require always, verify-ca
        /// with a certificate of `tls.ca`, verify-full with one that is made out to the node's host, too. Without
        /// `tls.ca` require takes any certificate.
        tls_mode as "tls.mode": TlsMode = "\"disable\"" [file_only()];
        /// Authorities that the servers' certificates are checked against, PEM. Read again at each reload, as are the
        /// other two files.
        tls_ca as "tls.ca": Option<PathBuf> [file_only()];
        /// Certificate shown to the servers, PEM.
        tls_cert as "tls.cert": Option<PathBuf> [file_only()];
        /// Private key of `tls.cert`, PEM.
        tls_key as "tls.key": Option<PathBuf> [file_only()];
        /// Whether logins must be bound to the encrypted connection (SCRAM-SHA-256-PLUS): with require a server that
        /// asks for any other kind of login gets none.
        tls_channel_binding as "tls.channel_binding": ChannelBinding = "\"prefer\"" [file_only()];
    }
    also { tls: ServerTls::default(), monitor_previous_password: Secret::default(), }
}

section! {
    Inline Node = "postgres.cluster.nodes" {
        /// Name in the console; "pg1", "pg2", ... by the place in the list when absent.
        name: String;
        /// Host name, address, or folder of a Unix socket.
        host: String [required()];
        /// Port.
        port: u16 = "5432";
        /// Share of reads; 0 takes none.
        weight: u32 = "1";
        /// auto finds the role; primary or replica refuses a node that turns out otherwise.
        role: NodeRole = "\"auto\"";
        /// Whether a promotion may choose this node.
        promote: bool = "true";
    }
}

section! {
    Many Database = "postgres.database" {
        /// Name that clients ask for; "*" is for all that have no entry.
        name: String [required()];
        /// Name of the cluster that has it; may be left out when there is only one.
        cluster_name as "cluster": String;
        /// Name on the server; the client's when absent.
        dbname: Option<String>;
        /// Login on the server for all clients of this database; the client's own when absent.
        user: Option<String>;
    }
    also {
        cluster: 0,
        pool: Default::default(),
        routing: Default::default(),
    }
    plus { pool_keys(), routing_keys() }
}

section! {
    Many User = "postgres.user" {
        /// Login name.
        name: String [required()];
        /// Clear text, or a SCRAM-SHA-256$... or md5... verifier as pg_authid has it. May be absent only with
        /// `auth = "trust"`, `"cert"` or `"hba"`.
        password: Option<Secret> [file_only()];
        /// Taken from clients as well, and shown to servers that refuse the other one: for the time in which a password
        /// is replaced. Of two SCRAM verifiers both must have the same salt and iterations.
        previous_password: Option<Secret> [file_only()];
    }
    also {
        pool: Default::default(),
        routing: Default::default(),
    }
    plus { pool_keys(), routing_keys_of_a_user() }
}
