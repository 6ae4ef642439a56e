//! Directives of HAProxy that become nothing, with why: the longest beginning counts.

use crate::import::draft::LeftKind::{self, Moot, NoEqual};

const LOG: &str = "Forebay logs to standard error, where systemd or the container collects it: [general] log.level and \
                   log.format.";
const SERVICE: &str = "What runs Forebay sees to it: conf/forebay.service has User=, LimitNOFILE= and the like.";
const ROLES: &str =
    "Forebay asks each server for its role, with the protocol of PostgreSQL or Redis; other checks are not needed.";
const HTTP: &str = "Forebay speaks PostgreSQL and Redis, not HTTP.";
const RULES: &str = "Forebay has no rules of this kind. Who may connect: [security] allow, connect_rate, ban_after; where a statement \
                     runs: [postgres.routing].";
const SOCKETS: &str = "Forebay sets its sockets up itself: keepalive on both sides.";
const RETRIES: &str = "A failed connection is tried again, on another node where one is fit, while the client waits.";
const DNS: &str = "Names of nodes are asked of the system's resolver whenever a connection is made.";
const TLS: &str =
    "rustls offers TLS 1.2 and 1.3 with safe ciphers only; postgres.tls.min_version = \"1.3\" leaves 1.2 out.";
const STATS: &str = "Forebay's console (psql ... forebay), status page and metrics: [admin].";
const SOCKET: &str =
    "Forebay's console is reached by SQL at the port of postgres.listen, with the logins of [[admin.user]].";
const TUNE: &str = "Forebay sizes its buffers, threads and batches itself; [general] threads.";

/// Beginnings of lines.
static LINES: &[(&str, LeftKind, &str)] = &[
    (".", NoEqual, "Conditions are not evaluated: the lines of all of their branches were read."),
    ("acl", NoEqual, RULES),
    ("backlog", Moot, SOCKETS),
    ("ca-base", Moot, "Paths were completed with it."),
    ("capture", NoEqual, HTTP),
    ("chroot", Moot, SERVICE),
    ("compression", NoEqual, HTTP),
    ("cookie", NoEqual, HTTP),
    ("cpu-map", Moot, TUNE),
    ("crt-base", Moot, "Paths were completed with it."),
    ("daemon", Moot, SERVICE),
    ("default-path", Moot, SERVICE),
    ("description", Moot, "It describes."),
    ("dispatch", NoEqual, "Name the server in a line of its own: server NAME ADDRESS."),
    ("email-alert", NoEqual, "postgres.failover.event_command is run for every event."),
    ("errorfile", NoEqual, HTTP),
    ("filter", NoEqual, RULES),
    ("fullconn", Moot, TUNE),
    ("grace", Moot, "general.shutdown_grace says how long a stop waits."),
    ("group", Moot, SERVICE),
    ("hard-stop-after", NoEqual, "general.shutdown_grace says how long a stop waits."),
    ("hash-type", NoEqual, "balance = \"source\" keeps a client's address on one node."),
    ("http", NoEqual, HTTP),
    ("load-server-state-from-file", Moot, "What has to survive a restart is in general.state_dir."),
    ("log", Moot, LOG),
    ("lua", NoEqual, "There is no Lua."),
    ("maxconnrate", NoEqual, "[security] connect_rate limits the new connections of one address."),
    ("maxconn", NoEqual, "postgres.max_clients, and max_clients of each [[redis.service]]."),
    ("mode", Moot, "Forebay knows the protocols that it speaks."),
    ("monitor", NoEqual, HTTP),
    ("nbproc", Moot, TUNE),
    ("nbthread", Moot, "[general] threads: one for each core unless told otherwise."),
    ("no option", Moot, "It switches something off that Forebay does not have."),
    ("node", Moot, "It names HAProxy's own machine."),
    ("option allbackups", Moot, ROLES),
    ("option clitcpka", Moot, SOCKETS),
    ("option dontlognull", Moot, LOG),
    ("option dontlog-normal", Moot, LOG),
    ("option external-check", NoEqual, ROLES),
    ("option forwardfor", NoEqual, HTTP),
    ("option http", NoEqual, HTTP),
    ("option httpchk", Moot, ROLES),
    ("option ldap-check", NoEqual, HTTP),
    ("option log-health-checks", Moot, "SHOW EVENTS and the log have every change of a node."),
    ("option logasap", Moot, LOG),
    ("option persist", Moot, RETRIES),
    ("option pgsql-check", Moot, ROLES),
    ("option redis-check", Moot, ROLES),
    ("option redispatch", Moot, RETRIES),
    ("option splice", Moot, TUNE),
    ("option srvtcpka", Moot, SOCKETS),
    ("option tcp-check", Moot, ROLES),
    ("option tcp-smart", Moot, SOCKETS),
    ("option tcpka", Moot, SOCKETS),
    ("option tcplog", Moot, LOG),
    ("persist", NoEqual, RULES),
    ("pidfile", Moot, SERVICE),
    ("quiet", Moot, LOG),
    ("rate-limit", NoEqual, "[security] connect_rate limits the new connections of one address."),
    ("redirect", NoEqual, HTTP),
    ("retries", Moot, RETRIES),
    ("retry-on", Moot, RETRIES),
    ("server-state", Moot, "What has to survive a restart is in general.state_dir."),
    ("server-template", NoEqual, "Write each server into nodes; a name that means several addresses is one node."),
    ("setenv", NoEqual, "Variables of the environment are not replaced when a file is imported."),
    ("source", NoEqual, "Connections to the servers come from whichever address the system chooses."),
    ("spread-checks", Moot, ROLES),
    ("ssl-default-bind", Moot, TLS),
    ("ssl-default-server", Moot, TLS),
    ("ssl-dh", Moot, TLS),
    ("stats socket", NoEqual, SOCKET),
    ("stats timeout", Moot, SOCKET),
    ("stats", NoEqual, STATS),
    ("stick", NoEqual, RULES),
    ("strict-limits", Moot, SERVICE),
    ("tcp-check", Moot, ROLES),
    ("tcp-request", NoEqual, RULES),
    ("tcp-response", NoEqual, RULES),
    ("timeout http", NoEqual, HTTP),
    (
        "timeout server",
        Moot,
        "A server that does not answer is found by probes; query_timeout limits statements, and server_idle_timeout \
                              closes connections that nobody uses.",
    ),
    ("timeout", NoEqual, "There is no such time; docs/configuration.md has those of [postgres.pool]."),
    ("tune", Moot, TUNE),
    ("uid", Moot, SERVICE),
    ("gid", Moot, SERVICE),
    ("ulimit-n", Moot, SERVICE),
    ("unique-id", NoEqual, HTTP),
    (
        "use_backend",
        NoEqual,
        "Conditions are not evaluated; a statement's node is found by what it is (docs/routing.md), and a listener may \
                              have route = \"primary\" or \"replica\".",
    ),
    ("use-server", NoEqual, RULES),
    ("user", Moot, SERVICE),
    ("zero-warning", Moot, "forebay check tells warnings and errors apart."),
];

/// What is said of a line that becomes nothing.
pub(super) fn of_line(raw: &str) -> (LeftKind, &'static str) {
    let one_space = raw.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits = LINES.iter().filter(|(start, ..)| one_space.starts_with(start));
    match fits.max_by_key(|(start, ..)| start.len()) {
        Some((_, kind, why)) => (*kind, why),
        None => (NoEqual, "Forebay has nothing like it."),
    }
}

/// Words behind `server` and `bind` that need no answer, and how many words follow them.
static QUIET: &[(&str, usize)] = &[
    ("agent-check", 0),
    ("agent-inter", 1),
    ("agent-port", 1),
    ("check", 0),
    ("check-ssl", 0),
    ("check-sni", 1),
    ("check-alpn", 1),
    ("check-proto", 1),
    ("addr", 1),
    ("downinter", 1),
    ("fall", 1),
    ("fastinter", 1),
    ("init-addr", 1),
    ("inter", 1),
    ("name", 1),
    ("no-check", 0),
    ("no-check-ssl", 0),
    ("observe", 1),
    ("error-limit", 1),
    ("on-error", 1),
    ("on-marked-down", 1),
    ("on-marked-up", 1),
    ("port", 1),
    ("resolve-net", 1),
    ("resolve-opts", 1),
    ("resolve-prefer", 1),
    ("resolvers", 1),
    ("rise", 1),
    ("slowstart", 1),
    ("tfo", 0),
    ("track", 1),
    ("transparent", 0),
    ("defer-accept", 0),
    ("level", 1),
    ("mode", 1),
    ("user", 1),
    ("group", 1),
    ("gid", 1),
    ("uid", 1),
];

/// How many words follow one that says what Forebay finds out by itself.
pub(super) fn quiet(word: &str) -> Option<usize> {
    QUIET.iter().find(|(name, _)| *name == word).map(|(_, follow)| *follow)
}

/// What is said of those.
pub(super) const QUIET_WHY: &str = ROLES;
/// What is said of the resolver's.
pub(super) const DNS_WHY: &str = DNS;
