//! What a cluster of PostgreSQL says of itself: who is primary, who follows, and what a failover will need.
//!
//! Servers are asked one after the other, beginning with those that were named. A replica tells where its primary is; a
//! primary tells the addresses of its replicas, but not their ports.

use std::collections::VecDeque;

use tokio::time::timeout;
use tokio_postgres::{Row, types::FromSql};

use super::{Known, TIMEOUT, Wish, endpoint, host_and_port, passfile, terminal};
use crate::config;
use crate::config::model::{Secret, ServerTls};
use crate::net;
use crate::topology::link::{Link, Login, words};

/// More servers than any cluster has.
const MOST_SERVERS: usize = 64;

/// A server that answered.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_replica: bool,
    /// Tells that two addresses are one server: when it was started, and its own port.
    identity: (String, String),
    system: Option<String>,
    pub(super) version: i32,
    pub(super) settings: Settings,
    /// The server that it follows.
    follows: Option<(String, u16)>,
    /// What it is called at its primary.
    name: Option<String>,
    /// Who follows it.
    followers: Vec<Follower>,
}

/// What matters for a failover.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) wal_level: String,
    pub(super) synchronous_standbys: String,
    pub(super) max_connections: String,
    /// `pg_rewind` can be used: `wal_log_hints`, or checksums.
    pub(super) can_rewind: bool,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone)]
struct Follower {
    name: String,
    address: Option<String>,
}

/// What the login may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    pub(super) is_superuser: bool,
    pub(super) is_monitor: bool,
    /// As conf/monitor-role.sql grants.
    pub(super) can_promote: bool,
}

/// The cluster.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    /// The primary first.
    pub(super) servers: Vec<Server>,
    pub(super) rights: Rights,
    pub(super) known: Secret,
    /// Other logins that there are.
    pub(super) logins: Vec<String>,
    /// Databases that clients may ask for.
    pub(super) databases: Vec<String>,
}

/// Looks at the servers that were named, and at those that they tell of.
pub(super) async fn look(wish: &Wish, notes: &mut Vec<String>) -> Result<Cluster, String> {
    let tls = server_tls(wish)?;
    let mut known = Known { password: Secret(std::env::var("PGPASSWORD").unwrap_or_default()) };
    let mut queue: VecDeque<(String, u16, bool)> = VecDeque::new();
    for host in &wish.hosts {
        let (host, port) = host_and_port(host, wish.port)?;
        queue.push_back((host, port, true));
    }
    let mut asked: Vec<(String, u16)> = Vec::new();
    let mut servers: Vec<Server> = Vec::new();
    let mut about = None;
    while let Some((host, port, is_named)) = queue.pop_front() {
        if asked.contains(&(host.clone(), port)) || asked.len() >= MOST_SERVERS {
            continue;
        }
        asked.push((host.clone(), port));
        let link = match open(wish, &host, port, &tls, &mut known, notes).await {
            Ok(link) => link,
            Err(why) if is_named => return Err(format!("{}: {why}", endpoint(&host, port))),
            Err(_) => continue,
        };
        let answered = timeout(TIMEOUT, ask(&link, &host, port)).await;
        let server = match answered.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}"))) {
            Ok(server) => server,
            Err(why) if is_named => return Err(format!("{}: {why}", endpoint(&host, port))),
            Err(_) => continue,
        };
        if servers.iter().any(|other| other.identity == server.identity) {
            continue;
        }
        if let (Some(first), Some(this)) = (servers.first().and_then(|first| first.system.as_ref()), &server.system)
            && first != this
        {
            notes.push(format!("{} is a server of another cluster and was left out", endpoint(&host, port)));
            continue;
        }
        if let Some((host, port)) = &server.follows {
            queue.push_back((host.clone(), *port, false));
        }
        for address in server.followers.iter().filter_map(|follower| follower.address.clone()) {
            let mut ports: Vec<u16> = vec![port, wish.port];
            ports.dedup();
            queue.extend(ports.into_iter().map(|port| (address.clone(), port, false)));
        }
        if about.is_none() || !server.is_replica {
            about = timeout(TIMEOUT, about_logins(&link, &wish.user)).await.ok().or(about);
        }
        servers.push(server);
    }
    servers.sort_by_key(|server| server.is_replica);
    tell_missing(&servers, notes);
    let (rights, logins, databases) = about.unwrap_or_default();
    Ok(Cluster { servers, rights, known: known.password, logins, databases })
}

/// What the wish says of TLS, made ready by the same code that a configuration goes through.
fn server_tls(wish: &Wish) -> Result<ServerTls, String> {
    let Some((mode, ca)) = &wish.tls else { return Ok(ServerTls::default()) };
    let mut text = format!(
        "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"localhost\"]\nmonitor_user = \"x\"\nmonitor_password = \"x\"\n\
         tls.mode = {}\n",
        config::quote(mode)
    );
    if let Some(ca) = ca {
        text += &format!("tls.ca = {}\n", config::quote(ca));
    }
    let folder = std::env::current_dir().unwrap_or_default();
    let wrong =
        |errors: config::Diagnostics| errors.errors.first().map(|error| error.message.clone()).unwrap_or_default();
    let mut config = config::load_str(&text, "--tls", &folder).map_err(wrong)?.config;
    net::credentials::for_servers(&mut config.postgres)?;
    Ok(config.postgres.clusters.first().map(|cluster| cluster.tls.clone()).unwrap_or_default())
}

/// Logs in; asks for a password if none is known and the server wants one.
async fn open(
    wish: &Wish,
    host: &str,
    port: u16,
    tls: &ServerTls,
    known: &mut Known,
    notes: &mut Vec<String>,
) -> Result<Link, String> {
    if known.is_empty()
        && let Some(found) = passfile::find(host, port, &wish.database, &wish.user, notes)
    {
        known.password = Secret(found);
    }
    match log_in(wish, host, port, tls, &known.password).await {
        Err(why) if known.is_empty() && why.contains("password") => {
            let prompt = format!("Password of {} at {}: ", wish.user, endpoint(host, port));
            let typed = terminal::ask(&prompt).ok_or_else(|| format!("{why}; set PGPASSWORD, or write ~/.pgpass"))?;
            known.password = Secret(typed);
            log_in(wish, host, port, tls, &known.password).await
        }
        done => done,
    }
}

async fn log_in(wish: &Wish, host: &str, port: u16, tls: &ServerTls, password: &Secret) -> Result<Link, String> {
    let none = Secret::default();
    let login =
        Login { host, port, user: &wish.user, password, previous_password: &none, database: &wish.database, tls };
    match timeout(TIMEOUT, Link::open(login, TIMEOUT)).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(format!("no login within {TIMEOUT:?}")),
    }
}

/// A column, or nothing if it is null or of another type.
fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Option<T> {
    row.try_get::<_, Option<T>>(name).ok().flatten()
}

const STATE: &str = "SELECT pg_catalog.pg_is_in_recovery() AS is_replica, \
    pg_catalog.pg_postmaster_start_time()::text AS started, pg_catalog.current_setting('port') AS port, \
    pg_catalog.current_setting('server_version_num')::int AS version, pg_catalog.current_setting('wal_level') AS wal_level, \
    pg_catalog.current_setting('synchronous_standby_names') AS standbys, \
    pg_catalog.current_setting('max_connections') AS max_connections, \
    pg_catalog.current_setting('wal_log_hints') = 'on' OR pg_catalog.current_setting('data_checksums') = 'on' AS can_rewind, \
    pg_catalog.current_setting('cluster_name') AS cluster_name";

/// What one server says of itself. What it does not tell to this login is left out.
async fn ask(link: &Link, host: &str, port: u16) -> Result<Server, String> {
    let row = link.client.query_one(STATE, &[]).await.map_err(|error| words(&error))?;
    let text = |name: &str| column::<String>(&row, name).unwrap_or_default();
    let is_replica = column::<bool>(&row, "is_replica").unwrap_or(false);
    let settings = Settings {
        wal_level: text("wal_level"),
        synchronous_standbys: text("standbys"),
        max_connections: text("max_connections"),
        can_rewind: column(&row, "can_rewind").unwrap_or(false),
    };
    let mut server = Server {
        host: host.to_owned(),
        port,
        is_replica,
        identity: (text("started"), text("port")),
        system: None,
        version: column(&row, "version").unwrap_or(0),
        settings,
        follows: None,
        name: Some(text("cluster_name")).filter(|name| !name.is_empty()),
        followers: Vec::new(),
    };
    // Each alone, as not everybody may ask everything.
    if let Ok(row) =
        link.client.query_one("SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()", &[]).await
    {
        server.system = column(&row, "id");
    }
    if is_replica {
        let receiver = "SELECT sender_host AS host, sender_port AS port FROM pg_catalog.pg_stat_wal_receiver";
        if let Ok(rows) = link.client.query(receiver, &[]).await
            && let Some(row) = rows.first()
            && let (Some(host), Some(port)) = (column::<String>(row, "host"), column::<i32>(row, "port"))
        {
            server.follows = u16::try_from(port).ok().map(|port| (host, port));
        }
        if let Ok(row) =
            link.client.query_one("SELECT pg_catalog.current_setting('primary_conninfo') AS conninfo", &[]).await
        {
            let conninfo = column::<String>(&row, "conninfo").unwrap_or_default();
            if let Ok(parsed) = conninfo.parse::<tokio_postgres::Config>() {
                server.name = parsed.get_application_name().map(str::to_owned).or(server.name);
                if server.follows.is_none() {
                    server.follows = first_host(&parsed);
                }
            }
        }
    }
    let followers = "SELECT application_name AS name, pg_catalog.host(client_addr) AS address \
        FROM pg_catalog.pg_stat_replication WHERE application_name <> 'pg_basebackup' AND state IS DISTINCT FROM 'backup' \
        AND pid NOT IN (SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical' \
        AND active_pid IS NOT NULL)";
    for row in link.client.query(followers, &[]).await.unwrap_or_default() {
        let name = column::<String>(&row, "name").unwrap_or_default();
        server.followers.push(Follower { name, address: column(&row, "address") });
    }
    Ok(server)
}

fn first_host(config: &tokio_postgres::Config) -> Option<(String, u16)> {
    let host = match config.get_hosts().first()? {
        tokio_postgres::config::Host::Tcp(host) => host.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    };
    Some((host, config.get_ports().first().copied().unwrap_or(5432)))
}

/// Rights, other logins, databases.
async fn about_logins(link: &Link, user: &str) -> (Rights, Vec<String>, Vec<String>) {
    let rights = "SELECT rolsuper AS super, rolsuper OR pg_catalog.pg_has_role(oid, 'pg_monitor', 'MEMBER') AS monitor, \
        rolsuper OR (rolreplication AND \
        pg_catalog.has_function_privilege(oid, 'pg_catalog.pg_promote(boolean, integer)', 'EXECUTE')) AS promote \
        FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let found = link.client.query_one(rights, &[]).await.ok();
    let has = |name: &str| found.as_ref().and_then(|row| column::<bool>(row, name)).unwrap_or(false);
    let rights = Rights { is_superuser: has("super"), is_monitor: has("monitor"), can_promote: has("promote") };
    let logins = "SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE rolcanlogin AND NOT rolreplication ORDER BY 1 LIMIT 50";
    let databases = "SELECT datname::text AS name FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1 LIMIT 50";
    let names = async |sql: &str| {
        let rows = link.client.query(sql, &[]).await.unwrap_or_default();
        rows.iter().filter_map(|row| column::<String>(row, "name")).collect::<Vec<_>>()
    };
    let mut logins = names(logins).await;
    logins.retain(|name| name != user);
    (rights, logins, names(databases).await)
}

/// Says what follows the primary and was not found, and that there is no primary.
fn tell_missing(servers: &[Server], notes: &mut Vec<String>) {
    let primaries: Vec<_> = servers.iter().filter(|server| !server.is_replica).collect();
    match primaries.as_slice() {
        [] => {
            match servers.iter().find_map(|server| server.follows.as_ref()) {
                Some((host, port)) => {
                    let primary = endpoint(host, *port);
                    notes.push(format!("the primary is {primary}, as its replicas say, and cannot be asked from here: name it by --host"));
                }
                None => notes.push("no primary was found; name it by one more --host".to_owned()),
            }
        }
        [_] => {}
        several => {
            let all: Vec<_> = several.iter().map(|server| endpoint(&server.host, server.port)).collect();
            notes
                .push(format!("{} all accept writes: they are no cluster of one primary; keep one", all.join(" and ")));
        }
    }
    let found = servers.iter().filter(|server| server.is_replica).count();
    let followers: Vec<&Follower> = servers.iter().flat_map(|server| &server.followers).collect();
    let Some(missing) = followers.len().checked_sub(found).filter(|missing| *missing > 0) else { return };
    // Those whose names are known are told by name, if that explains all of them.
    let known: Vec<_> = servers.iter().filter_map(|server| server.name.as_deref()).collect();
    let unknown: Vec<_> = followers.iter().filter(|follower| !known.contains(&follower.name.as_str())).collect();
    if unknown.len() == missing {
        for Follower { name, address } in unknown {
            let at = address.as_ref().map_or("an address that is not told".to_owned(), Clone::clone);
            notes.push(format!(
                "the replica {name} at {at} is missing, since its port is not known: name it by --host {}",
                hint(address)
            ));
        }
    } else {
        notes.push(format!(
            "{missing} more replicas follow the primary, whose ports are not known: name each by --host HOST:PORT"
        ));
    }
}

fn hint(address: &Option<String>) -> String {
    match address {
        Some(address) => endpoint(address, 0).trim_end_matches('0').to_owned() + "PORT",
        None => "HOST:PORT".to_owned(),
    }
}
