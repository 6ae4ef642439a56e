//! Clusters, databases, users and their pools.

use std::collections::HashMap;
use std::path::Path;

use crate::config::exposed;
use crate::config::model::*;
use crate::config::reader::Reader;
use crate::config::setting::quote;
use crate::config::suggest::nearest;
use crate::config::verifier::{self, Kind};

pub(super) fn tls(postgres: &Postgres, reader: &mut Reader<'_>) {
    let mut needs = |key: &str, file: &Option<std::path::PathBuf>| {
        if file.is_none() {
            let mode = "postgres.tls.mode";
            reader.error_in(mode, format!("{mode} needs postgres.tls.{key}; name the file, or write \"disable\""));
        }
    };
    if postgres.tls_mode != TlsMode::Disable {
        needs("cert", &postgres.tls_cert);
        needs("key", &postgres.tls_key);
    }
    if postgres.tls_mode.is_verified() {
        needs("ca", &postgres.tls_ca);
    }
    if postgres.tls_channel_binding == ChannelBinding::Require && !postgres.tls_mode.is_required() {
        let key = "postgres.tls.channel_binding";
        reader.error_in(key, format!("{key} = \"require\" needs postgres.tls.mode = \"require\" or stricter"));
    }
    warn_of_key("postgres.tls.key", postgres.tls_key.as_deref(), reader);
}

/// A private key that others can read.
pub(super) fn warn_of_key(place: &str, key: Option<&Path>, reader: &mut Reader<'_>) {
    if let Some(why) = key.and_then(exposed::by_others) {
        reader.warning_in(place, format!("{}: {why}", without_numbers(place)));
    }
}

/// A key's name of its place: `postgres.cluster.tls.key` of `postgres.cluster[0].tls.key`.
fn without_numbers(place: &str) -> String {
    let parts = place.split('[').enumerate();
    parts.map(|(i, part)| if i == 0 { part } else { part.split_once(']').map_or(part, |(_, rest)| rest) }).collect()
}

pub(super) fn failover(failover: &Failover, reader: &mut Reader<'_>) {
    if failover.demote_method == DemoteMethod::Hook && failover.demote_command.is_empty() {
        let way_out = "set demote_command, such as to scripts/demote with its arguments";
        reader.error_in(
            "postgres.failover.demote_method",
            format!("postgres.failover.demote_method is \"hook\", and there is none; {way_out}"),
        );
    }
}

pub(super) fn clusters(postgres: &mut Postgres, reader: &mut Reader<'_>) {
    for (i, cluster) in postgres.clusters.iter().enumerate() {
        let place = format!("postgres.cluster[{i}]");
        nodes(&cluster.nodes, &place, reader);
    }
    for (i, cluster) in postgres.clusters.iter().enumerate() {
        let place = format!("postgres.cluster[{i}].tls.mode");
        if cluster.tls_mode.is_verified() && cluster.tls_ca.is_none() {
            let name = quote(&cluster.name);
            reader.error_in(&place, format!("postgres.cluster {name}: tls.mode needs tls.ca; name the file"));
        }
        if cluster.tls_channel_binding == ChannelBinding::Require && !cluster.tls_mode.is_required() {
            let name = quote(&cluster.name);
            let message = "tls.channel_binding = \"require\" needs tls.mode = \"require\" or stricter";
            reader.error_in(
                &format!("postgres.cluster[{i}].tls.channel_binding"),
                format!("postgres.cluster {name}: {message}"),
            );
        }
        if cluster.tls_cert.is_some() != cluster.tls_key.is_some() {
            let name = quote(&cluster.name);
            reader.error_in(&place, format!("postgres.cluster {name}: tls.cert and tls.key need each other"));
        }
        warn_of_key(&format!("postgres.cluster[{i}].tls.key"), cluster.tls_key.as_deref(), reader);
    }
    let users = postgres.users.clone();
    for (i, cluster) in postgres.clusters.iter_mut().enumerate() {
        let place = format!("postgres.cluster[{i}]");
        let wrote_user = reader.has(&format!("{place}.monitor_user"));
        let wrote_password = reader.has(&format!("{place}.monitor_password"));
        let user = if wrote_user {
            users.iter().find(|user| user.name == cluster.monitor_user)
        } else if let Some(first) = users.first() {
            cluster.monitor_user = first.name.clone();
            Some(first)
        } else if reader.is_misnamed("postgres.user") {
            None
        } else {
            let name = quote(&cluster.name);
            reader.error_in(
                &place,
                format!(
                    "postgres.cluster {name} has no login to watch its nodes with; add a [[postgres.user]], \
                     or set monitor_user and monitor_password"
                ),
            );
            None
        };
        let Some(user) = user.filter(|_| !wrote_password) else {
            continue;
        };
        let Some(password) = &user.password else {
            continue;
        };
        match verifier::kind(&password.0) {
            Ok(Kind::Clear) => {
                cluster.monitor_password = password.clone();
                let is_clear = |previous: &&Secret| verifier::kind(&previous.0) == Ok(Kind::Clear);
                cluster.monitor_previous_password =
                    user.previous_password.as_ref().filter(is_clear).cloned().unwrap_or_default();
            }
            Ok(_) => {
                let (cluster, user) = (quote(&cluster.name), quote(&user.name));
                let way_out = if wrote_user { "set monitor_password" } else { "set monitor_user and monitor_password" };
                reader.error_in(
                    &place,
                    format!(
                        "postgres.cluster {cluster} would watch its nodes as {user}, whose password is a verifier, \
                         which cannot log in to a server; {way_out}"
                    ),
                );
            }
            // Reported at the user.
            Err(_) => {}
        }
    }
}

fn nodes(nodes: &[Node], cluster: &str, reader: &mut Reader<'_>) {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    let mut primary = None;
    for (n, node) in nodes.iter().enumerate() {
        let place = format!("{cluster}.nodes[{n}]");
        if names.insert(&node.name, ()).is_some() {
            let name = quote(&node.name);
            reader.error_in(
                &format!("{place}.name"),
                format!("there is already a node named {name}; nodes without a name are called pg1, pg2, ..."),
            );
        }
        if let Some(first) = addresses.insert((&node.host, node.port), &node.name) {
            let (host, port) = (&node.host, node.port);
            reader.error_in(&place, format!("{host} port {port} is already the node {}; list each once", quote(first)));
        }
        if node.role == NodeRole::Primary
            && let Some(first) = primary.replace(&node.name)
        {
            reader.error_in(
                &format!("{place}.role"),
                format!("the node {} is already the primary; a cluster has one", quote(first)),
            );
        }
    }
}

pub(super) fn databases(config: &mut Config, reader: &mut Reader<'_>) {
    let postgres = &mut config.postgres;
    let are_named = postgres.clusters.iter().all(|cluster| !cluster.name.is_empty());
    for (i, database) in postgres.databases.iter_mut().enumerate() {
        let place = format!("postgres.database[{i}]");
        let name = quote(&database.name);
        for answering in [config.admin.database.as_str(), "pgbouncer"] {
            if database.name == answering {
                reader.error_in(
                    &format!("{place}.name"),
                    format!("the console answers to the database name {name}; choose another, or set admin.database"),
                );
                break;
            }
        }
        let cluster_place = format!("{place}.cluster");
        if database.cluster_name.is_empty() {
            match postgres.clusters.as_slice() {
                [only] => database.cluster_name.clone_from(&only.name),
                _ if reader.has(&cluster_place) || reader.is_misnamed("postgres.cluster") => {}
                [] => reader
                    .error_in(&place, format!("postgres.database {name} has no cluster; add a [[postgres.cluster]]")),
                several => {
                    let names: Vec<_> = several.iter().map(|cluster| cluster.name.as_str()).collect();
                    let names = names.join(", ");
                    reader.error_in(
                        &place,
                        format!("postgres.database {name} must say its cluster; the clusters are {names}"),
                    );
                }
            }
        }
        match postgres.clusters.iter().position(|cluster| cluster.name == database.cluster_name) {
            Some(index) => database.cluster = index,
            None if reader.is_misnamed("postgres.cluster") => {}
            None if are_named && !database.cluster_name.is_empty() => {
                let names: Vec<_> = postgres.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
                let hint = match nearest(&database.cluster_name, names.iter().copied()) {
                    Some(name) => format!("; did you mean \"{name}\"?"),
                    None if names.is_empty() => "; add it as a [[postgres.cluster]]".to_owned(),
                    None => format!("; the clusters are {}", names.join(", ")),
                };
                let cluster = quote(&database.cluster_name);
                reader.error_in(&cluster_place, format!("there is no postgres.cluster named {cluster}{hint}"));
            }
            None => {}
        }
    }
}

fn check_password(password: &Secret, auth: AuthMethod, name: &str, place: &str, reader: &mut Reader<'_>) {
    match (verifier::kind(&password.0), auth) {
        (Err(why), _) => reader.error_in(place, format!("the password of postgres.user {name} {why}")),
        (Ok(Kind::Md5), AuthMethod::ScramSha256) => reader.error_in(
            place,
            format!(
                "the password of postgres.user {name} is an md5 verifier, which SCRAM cannot check; \
                 write a SCRAM-SHA-256 verifier or the clear text, or auth = \"md5\" in [postgres]"
            ),
        ),
        (Ok(_), _) => {}
    }
}

pub(super) fn lookup(postgres: &Postgres, reader: &mut Reader<'_>) {
    let key = "postgres.auth_user";
    match &postgres.auth_user {
        None if postgres.auth_query.is_some() => {
            let message = "postgres.auth_query needs auth_user, the [[postgres.user]] that runs it";
            reader.error_in("postgres.auth_query", message.to_owned());
        }
        None => {}
        Some(name) => match postgres.user(name) {
            None if reader.is_misnamed("postgres.user") => {}
            None => {
                let message = format!("{key}: there is no [[postgres.user]] named {}; add it", quote(name));
                reader.error_in(key, message);
            }
            Some(user) => {
                let is_clear = |password: &Secret| verifier::kind(&password.0) == Ok(Kind::Clear);
                if user.password.as_ref().is_some_and(|password| !is_clear(password)) {
                    let name = quote(name);
                    reader.error_in(
                        key,
                        format!(
                            "{key}: the password of {name} is a verifier, which cannot log in to a server by itself"
                        ),
                    );
                }
            }
        },
    }
}

pub(super) fn users(postgres: &Postgres, reader: &mut Reader<'_>) {
    for (i, user) in postgres.users.iter().enumerate() {
        let place = format!("postgres.user[{i}]");
        let name = quote(&user.name);
        if user.name == "*" {
            reader.error_in(&format!("{place}.name"), "a user cannot be named \"*\"; list each login".to_owned());
        }
        let password_place = format!("{place}.password");
        let previous_place = format!("{place}.previous_password");
        match &user.password {
            None if postgres.auth != AuthMethod::Trust
                && !postgres.auth.has_rules()
                && !reader.has(&password_place) =>
            {
                reader.error_in(
                    &place,
                    format!("postgres.user {name} has no password; add one, or write auth = \"trust\" in [postgres]"),
                )
            }
            None => {}
            Some(password) => check_password(password, postgres.auth, &name, &password_place, reader),
        }
        let Some(previous) = &user.previous_password else { continue };
        check_password(previous, postgres.auth, &name, &previous_place, reader);
        match &user.password {
            Some(password) if !verifier::can_both_be_asked_for(&password.0, &previous.0) => reader.error_in(
                &previous_place,
                format!(
                    "the two passwords of postgres.user {name} are verifiers of different kinds, salts or iterations, of \
                     which a client can be asked for one only; write one of them in clear text"
                ),
            ),
            Some(_) => {}
            None => reader.error_in(
                &previous_place,
                format!("postgres.user {name} has a previous_password and no password; write it as password"),
            ),
        }
    }
    let is_open = |listen: &Listen| matches!(listen.addr, ListenAddr::Tcp(address) if !address.ip().is_loopback());
    if postgres.auth == AuthMethod::Trust
        && let Some(open) = postgres.listen.iter().find(|listen| is_open(listen))
    {
        let message = format!("with auth = \"trust\" whoever reaches {} may log in as any user", open.addr);
        reader.warning_in("postgres.auth", message);
    }
}

pub(super) fn pools(postgres: &Postgres, reader: &mut Reader<'_>) {
    let sized = |pool: &PoolOverrides| pool.size.is_some() || pool.min_size.is_some();
    let mut check = |pool: &PoolSettings, place: &str, whose: &str| {
        if pool.min_size <= pool.size {
            return true;
        }
        let key = format!("{place}.min_size");
        let key = if reader.has(&key) { key } else { format!("{place}.size") };
        let (min_size, size) = (pool.min_size, pool.size);
        reader.error_in(
            &key,
            format!("{whose}: min_size ({min_size}) is more than size ({size}); raise size or lower min_size"),
        );
        false
    };
    if !check(&postgres.pool, "postgres.pool", "postgres.pool") {
        return;
    }
    let databases: Vec<_> =
        postgres.databases.iter().enumerate().filter(|(_, database)| sized(&database.pool)).collect();
    for (i, database) in &databases {
        let whose = format!("postgres.database {}", quote(&database.name));
        check(&postgres.pool.with(&database.pool), &format!("postgres.database[{i}]"), &whose);
    }
    for (i, user) in postgres.users.iter().enumerate().filter(|(_, user)| sized(&user.pool)) {
        let place = format!("postgres.user[{i}]");
        let whose = format!("postgres.user {}", quote(&user.name));
        if !check(&postgres.pool.with(&user.pool), &place, &whose) {
            continue;
        }
        for (_, database) in &databases {
            let whose = format!("{whose} in database {}", quote(&database.name));
            if !check(&postgres.pool.with(&database.pool).with(&user.pool), &place, &whose) {
                break;
            }
        }
    }
}

pub(super) fn routing(postgres: &Postgres, reader: &mut Reader<'_>) {
    let mut check = |place: &str, key: &str, names: Option<&Vec<String>>| {
        for (i, name) in names.into_iter().flatten().enumerate() {
            let is_name = name.split('.').count() <= 2 && name.split('.').all(|part| !part.is_empty());
            if !is_name || name.contains(['(', ')', ' ']) {
                let name = quote(name);
                reader.error_in(
                    &format!("{place}.{key}[{i}]"),
                    format!("{name} is not a function; write its name, or schema.name, without parentheses"),
                );
            }
        }
    };
    check("postgres.routing", "read_functions", Some(&postgres.routing.read_functions));
    check("postgres.routing", "write_functions", Some(&postgres.routing.write_functions));
    let databases = postgres.databases.iter().enumerate().map(|(i, d)| (format!("postgres.database[{i}]"), &d.routing));
    let users = postgres.users.iter().enumerate().map(|(i, u)| (format!("postgres.user[{i}]"), &u.routing));
    for (place, routing) in databases.chain(users) {
        check(&place, "read_functions", routing.read_functions.as_ref());
        check(&place, "write_functions", routing.write_functions.as_ref());
    }
}
