//! What was found, as a configuration with comments.

use super::postgres::{Cluster, Server};
use super::sentinel::{Group, SENTINEL_VARIABLE, SERVER_VARIABLE};
use super::{Wish, endpoint};
use crate::config::quote;

/// Where the first service of Redis listens.
const REDIS_PORT: usize = 6380;
/// What stands for a password that is not known.
const PLACEHOLDER: &str = "CHANGE-ME";

/// The whole file.
pub(super) fn text(wish: &Wish, cluster: Option<&Cluster>, groups: &[Group], notes: &mut Vec<String>) -> String {
    let mut out =
        "# Forebay's configuration, made by forebay init of what it found. conf/forebay.toml has every key.\n"
            .to_owned();
    let mut body = String::new();
    if let Some(cluster) = cluster {
        postgres(wish, cluster, &mut body, notes);
    }
    for (i, group) in groups.iter().enumerate() {
        redis(wish, group, REDIS_PORT + i, groups, &mut body, notes);
    }
    for note in notes.iter() {
        out += &format!("# TO DO: {note}\n");
    }
    out + &body
}

/// A list as TOML.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", "))
}

/// A password, or where it comes from.
fn secret(wish: &Wish, password: &str, variable: &str) -> String {
    if wish.with_password && !password.is_empty() {
        quote(password)
    } else {
        format!("{{ env = {} }}", quote(variable))
    }
}

fn postgres(wish: &Wish, cluster: &Cluster, out: &mut String, notes: &mut Vec<String>) {
    let rights = &cluster.rights;
    let has_password = !cluster.known.0.is_empty();
    let password = secret(wish, &cluster.known.0, "PGPASSWORD");
    *out += "\n[postgres]\nlisten = [\"127.0.0.1:6432\"]\n";
    if rights.is_superuser && has_password {
        *out += &format!(
            "# Logins without a [[postgres.user]] are looked up in PostgreSQL by this one. docs/security.md has a function that\n\
             # needs no superuser.\nauth_user = {}\n",
            quote(&wish.user)
        );
    }
    *out += "\n[postgres.failover]\n";
    needs(cluster, out, notes);
    *out += "mode = \"follow\"\n";
    *out += "\n[[postgres.cluster]]\nname = \"main\"\n";
    let nodes: Vec<_> = cluster.servers.iter().map(|server| endpoint(&server.host, server.port)).collect();
    for (server, node) in cluster.servers.iter().zip(&nodes) {
        let role = if server.is_replica { "replica" } else { "primary" };
        *out += &format!("# {node}: {role}, PostgreSQL {}, now\n", version(server));
    }
    *out += &format!("nodes = {}   # roles are found, not declared\n", list(&nodes));
    *out += &format!("monitor_user = {}\n", quote(&wish.user));
    if has_password {
        *out += &format!("monitor_password = {password}\n");
    }
    if wish.database != "postgres" {
        *out += &format!("monitor_database = {}\n", quote(&wish.database));
    }
    if let Some((mode, ca)) = &wish.tls {
        *out += &format!("tls.mode = {}\n", quote(mode));
        if let Some(ca) = ca {
            let path = std::path::absolute(ca).map_or_else(|_| ca.clone(), |path| path.display().to_string());
            *out += &format!("tls.ca = {}\n", quote(&path));
        }
    }
    let shown: Vec<_> = cluster.databases.iter().map(|name| comment(name)).collect();
    *out += &format!(
        "\n# Without any [[postgres.database]] every name is passed on. There are now: {}\n",
        shown.join(", ")
    );
    users(wish, cluster, has_password, &password, out, notes);
    if has_password && !wish.with_password {
        notes.push(
            "the passwords are taken from the environment: PGPASSWORD has to be set where Forebay runs".to_owned(),
        );
    }
}

fn users(
    wish: &Wish,
    cluster: &Cluster,
    has_password: bool,
    password: &str,
    out: &mut String,
    notes: &mut Vec<String>,
) {
    if has_password {
        *out += &format!("\n[[postgres.user]]\nname = {}\npassword = {password}\n", quote(&wish.user));
    } else {
        *out += &format!(
            "\n# PLACEHOLDER: the servers ask {} for no password; clients need one here.\n[[postgres.user]]\nname = \"app\"\n\
             password = {}\n",
            comment(&wish.user),
            quote(PLACEHOLDER)
        );
        notes.push(format!("write a [[postgres.user]] with its password for each login in place of {PLACEHOLDER}"));
    }
    let are_looked_up = cluster.rights.is_superuser && has_password;
    if !are_looked_up && !cluster.logins.is_empty() {
        *out += "\n# Logins that there are, too; each needs its password, or auth_user and auth_query:\n";
        for name in &cluster.logins {
            *out +=
                &format!("# [[postgres.user]]\n# name = {}\n# password = {{ env = \"...\" }}\n", comment(&quote(name)));
        }
        notes.push("clients log in as users that stand in the file: add a [[postgres.user]] for each, or auth_user and auth_query".to_owned());
    }
}

/// A name in a comment.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn version(server: &Server) -> String {
    format!("{}.{}", server.version / 10000, server.version % 10000)
}

/// What a failover by Forebay itself will need.
fn needs(cluster: &Cluster, out: &mut String, notes: &mut Vec<String>) {
    let mut say = |text: String| *out += &format!("# {text}\n");
    say("follow: writes go to whichever node became primary. promote: Forebay promotes a replica itself (docs/failover.md).".to_owned());
    let Some(primary) = cluster.servers.first() else { return };
    let settings = &primary.settings;
    if cluster.rights.can_promote {
        say("For promote: the login has the rights; SHOW HA CHECKS has the whole list.".to_owned());
    } else {
        say("For promote: the login lacks rights; run conf/monitor-role.sql and use the role that it makes.".to_owned());
    }
    if !cluster.rights.is_monitor {
        notes.push(
            "the login is no member of pg_monitor: GRANT pg_monitor TO it, so that replicas and their lag are seen"
                .to_owned(),
        );
    }
    if settings.wal_level == "minimal" {
        notes.push("wal_level is minimal: no replica can follow; set it to replica and restart the primary".to_owned());
    }
    if primary.version < 130_000 {
        notes.push(format!(
            "PostgreSQL {} is older than 13: Forebay follows a primary there, but does not promote",
            version(primary)
        ));
    }
    let replicas = cluster.servers.iter().filter(|server| server.is_replica).count();
    match (settings.synchronous_standbys.trim(), replicas) {
        (_, 0) => say("There is no replica: nothing can take the primary's place.".to_owned()),
        ("", _) => say(
            "Replication is asynchronous: durability = \"strict\" cannot be kept, \"bounded\" loses at most max_lost_bytes.".to_owned(),
        ),
        (names, _) => say(format!("synchronous_standby_names is {}: durability = \"strict\" can be kept.", comment(&quote(names)))),
    }
    if !settings.can_rewind {
        say("Without wal_log_hints or checksums pg_rewind cannot make a replica of a lost primary.".to_owned());
    }
    say(format!("max_connections is {}: the sum of all pools to a node must fit.", comment(&settings.max_connections)));
}

fn redis(wish: &Wish, group: &Group, port: usize, groups: &[Group], out: &mut String, notes: &mut Vec<String>) {
    let name: String =
        group.name.chars().map(|c| if c.is_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect();
    let is_taken = name.is_empty() || name == "main" || groups.iter().filter(|other| other.name == name).count() > 1;
    let name = if is_taken { format!("redis{}", port - REDIS_PORT + 1) } else { name };
    let replicas = if group.replicas.is_empty() { "none".to_owned() } else { group.replicas.join(", ") };
    *out += &format!("\n# The primary is {} now, the replicas {}.\n", comment(&group.primary), comment(&replicas));
    *out += &format!(
        "[[redis.service]]\nname = {}\nlisten = [\"127.0.0.1:{port}\"]\nsentinels = {}\nmaster_name = {}\n",
        quote(&name),
        list(&group.sentinels),
        quote(&group.name)
    );
    let mut from_variable = |key: &str, variable: &str| {
        let known = std::env::var(variable).unwrap_or_default();
        *out += &format!("{key} = {}\n", secret(wish, &known, variable));
        if !wish.with_password || known.is_empty() {
            notes.push(format!(
                "{name}: {key} is taken from the environment: {variable} has to be set where Forebay runs"
            ));
        }
    };
    if group.sentinels_need_password {
        from_variable("sentinel_password", SENTINEL_VARIABLE);
    }
    if group.needs_password {
        from_variable("auth", SERVER_VARIABLE);
    }
}
