//! `[databases]`: a cluster for each list of hosts, and a database for each entry.

use super::{PgBouncer, keys, of_entry};
use crate::config::quote;
use crate::import::ImportError;
use crate::import::draft::{Draft, LeftKind, list};
use crate::import::source::{Place, check_host, console_name, endpoint, is_secret, parts, port, unique_name};
use crate::import::table::{Entry, Unit, set};

/// Where libpq's files of authorities are on Debian: what PgBouncer checks with when it is told no file.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The nodes that a database is on.
#[derive(Debug, Clone)]
struct Cluster {
    name: String,
    nodes: Vec<String>,
    place: Place,
    is_local: bool,
}

pub(super) fn write(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    let mut clusters: Vec<Cluster> = Vec::new();
    let mut databases: Vec<(&Entry, Vec<Entry>, usize)> = Vec::new();
    for entry in &all.ini.databases {
        let keys = super::ini::connection_string(entry)?;
        if entry.key == "pgbouncer" {
            draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, "The console answers to this name.");
            continue;
        }
        let (nodes, is_local) = nodes(all, entry, &keys)?;
        let at = match clusters.iter().position(|cluster| cluster.nodes == nodes) {
            Some(at) => at,
            None => {
                clusters.push(Cluster { name: String::new(), nodes, place: entry.place.clone(), is_local });
                clusters.len() - 1
            }
        };
        if let Some(before) = databases.iter().position(|(other, ..)| other.key == entry.key) {
            let (other, others, _) = databases.remove(before);
            let why = "It is written again further down, which holds.";
            draft.leave_text(LeftKind::Moot, &other.place, format!("{} = {}", other.key, hidden(&others)), why);
        }
        databases.push((entry, keys, at));
    }
    name(&mut clusters);
    for cluster in &clusters {
        write_cluster(all, cluster, draft)?;
    }
    if clusters.is_empty() {
        let section = draft.more("postgres.cluster");
        section.remark("PLACEHOLDER: there is no entry in [databases]. Write your servers here.");
        section.set("name", quote("main"), "");
        section.set("nodes", list(&["127.0.0.1:5432"]), "");
        draft.note("[databases] has no entry: write your servers into nodes of [[postgres.cluster]]");
    }
    let several = clusters.len() > 1;
    for (entry, keys, at) in databases {
        let cluster = clusters.get(at).filter(|_| several).map(|cluster| cluster.name.as_str());
        write_database(all, entry, &keys, cluster, draft)?;
    }
    Ok(())
}

/// A connection string without its password.
fn hidden(keys: &[Entry]) -> String {
    let shown = keys.iter().map(|pair| match is_secret(&pair.key) {
        true => format!("{}=***", pair.key),
        false => format!("{}={}", pair.key, pair.value),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The nodes as Forebay writes them, and whether they are all behind Unix sockets.
fn nodes(all: &PgBouncer, entry: &Entry, keys: &[Entry]) -> Result<(Vec<String>, bool), ImportError> {
    let last = |key: &str| keys.iter().rev().find(|pair| pair.key == key);
    let mut ports = Vec::new();
    for text in last("port").map(|pair| pair.value.as_str()).unwrap_or("5432").split(',') {
        ports.push(port(text.trim()).map_err(|why| entry.place.error(format!("{}: {why}", entry.key)))?);
    }
    let host = last("host").map(|pair| pair.value.as_str()).filter(|host| !host.is_empty());
    let hosts: Vec<&str> = match host {
        Some(host) => parts(host).collect(),
        None if all.socket_folder().is_empty() => vec![super::SOCKET_FOLDER],
        None => vec![all.socket_folder()],
    };
    if let Some(wrong) = hosts.iter().find(|host| host.starts_with('@')) {
        let way_out = "use its folder or its address";
        return Err(entry.place.error(format!("{}: Forebay has no abstract sockets ({wrong}); {way_out}", entry.key)));
    }
    let mut nodes = Vec::new();
    for (i, host) in hosts.iter().enumerate() {
        let number = ports.get(i).or(ports.last()).copied().unwrap_or(5432);
        check_host(host).map_err(|why| entry.place.error(format!("{}: {why}", entry.key)))?;
        let node = endpoint(host.trim_end_matches('/'), number);
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    if nodes.is_empty() {
        return Err(entry.place.error(format!("{}: host has no host", entry.key)));
    }
    Ok((nodes, hosts.iter().all(|host| host.starts_with('/'))))
}

/// One cluster is "main", several are called by their first host.
fn name(clusters: &mut [Cluster]) {
    if let [only] = clusters {
        only.name = "main".to_owned();
        return;
    }
    let mut taken: Vec<String> = Vec::new();
    for cluster in clusters {
        let first = cluster.nodes.first().map(String::as_str).unwrap_or_default();
        let host = first.strip_suffix(":5432").unwrap_or(first);
        cluster.name = unique_name(console_name(host), |name| taken.iter().any(|other| other == name));
        taken.push(cluster.name.clone());
    }
}

fn write_cluster(all: &PgBouncer, cluster: &Cluster, draft: &mut Draft) -> Result<(), ImportError> {
    if cluster.nodes.len() > 1 {
        let why = "PgBouncer takes the hosts of a list in turn, whatever their roles; Forebay finds which is the primary, and \
                   sends replicas only what is surely a read (not at all in session mode). Tell it of further servers in \
                   nodes, so that it can follow a failover.";
        draft.leave_text(LeftKind::NoEqual, &cluster.place, format!("host = {}", cluster.nodes.join(",")), why);
    }
    let section = draft.more("postgres.cluster");
    section.set("name", quote(&cluster.name), "");
    section.set("nodes", list(&cluster.nodes), &cluster.place);
    if cluster.is_local {
        return Ok(());
    }
    let mode = all.main("server_tls_sslmode");
    match mode {
        Some(entry) => drop(set(section, "tls.mode", Unit::Word(keys::TLS_MODES), entry)?),
        None => section.set("tls.mode", quote("prefer"), "PgBouncer's default (of older versions: \"disable\")"),
    }
    let files =
        [("server_tls_ca_file", "tls.ca"), ("server_tls_cert_file", "tls.cert"), ("server_tls_key_file", "tls.key")];
    for (theirs, ours) in files {
        if let Some(entry) = all.main(theirs).filter(|entry| !entry.value.is_empty()) {
            section.set(ours, quote(&all.path(&entry.value)), entry.from());
        }
    }
    if let Some(entry) = mode
        && entry.value.to_ascii_lowercase().starts_with("verify")
        && !section.has("tls.ca")
    {
        section.set("tls.ca", quote(SYSTEM_CA), "the system's, as no server_tls_ca_file is written");
    }
    Ok(())
}

fn write_database(
    all: &PgBouncer,
    entry: &Entry,
    keys: &[Entry],
    cluster: Option<&str>,
    draft: &mut Draft,
) -> Result<(), ImportError> {
    if entry.key == "forebay" {
        let from = format!("{} has a database of this name", entry.place);
        draft.one("admin").set("database", quote("pgbouncer"), from);
    }
    let mut left = Vec::new();
    let section = draft.more("postgres.database");
    section.set("name", quote(&entry.key), &entry.place);
    if let Some(cluster) = cluster {
        section.set("cluster", quote(cluster), "");
    }
    for pair in keys {
        match pair.key.as_str() {
            "dbname" | "user" if !pair.value.is_empty() => {
                let name = if pair.key == "user" { "user" } else { "dbname" };
                section.set(name, quote(&pair.value), "");
            }
            "password" if !keys.iter().any(|other| other.key == "user") => {
                let why = "Without user= PgBouncer shows the servers this password whoever the client is; Forebay shows them the \
                           client's own. Give the [[postgres.user]] the passwords that they have on the server.";
                left.push((LeftKind::NoEqual, pair, why));
            }
            "auth_user" | "auth_query" | "auth_dbname" if is_other(all, pair) => {
                let why = "Forebay looks logins up in one way for all databases: postgres.auth_user, auth_query and auth_dbname.";
                left.push((LeftKind::NoEqual, pair, why));
            }
            "target_session_attrs" => match pair.value.as_str() {
                "any" => left.push((LeftKind::Moot, pair, "Forebay finds the roles of the nodes.")),
                "primary" | "read-write" => {
                    section.set("consistency", quote("primary"), pair.from());
                }
                _ => {
                    let why = "For a door to the replicas alone write { addr = \"...\", route = \"replica\" } into \
                               postgres.listen.";
                    left.push((LeftKind::NoEqual, pair, why));
                }
            },
            _ => left.extend(of_entry(keys::DATABASE, pair, section)?.map(|(kind, why)| (kind, pair, why))),
        }
    }
    for (kind, pair, why) in left {
        draft.leave(kind, &pair.place, &format!("{}: {}", entry.key, pair.key), &pair.value, why);
    }
    Ok(())
}

/// A way of looking logins up that another database, or the whole, has written differently.
fn is_other(all: &PgBouncer, pair: &Entry) -> bool {
    super::logins::lookup(all, &pair.key).is_some_and(|chosen| chosen.value != pair.value)
}
