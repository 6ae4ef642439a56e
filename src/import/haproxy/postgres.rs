//! Proxies in front of PostgreSQL: those that lead to the same servers are listeners of one cluster.

use super::ends::Server;
use super::lex::Line;
use super::service::{Route, Service};
use super::{PLACEHOLDER, number_of, proxy_header, time_of};
use crate::config::quote;
use crate::import::ImportError;
use crate::import::draft::{Draft, LeftKind, list, literals, time};
use crate::import::source::{console_name, unique_name};

/// Servers that belong together.
struct Cluster<'a> {
    name: String,
    services: Vec<&'a Service<'a>>,
    nodes: Vec<&'a Server>,
}

fn same(one: &Server, other: &Server) -> bool {
    (&one.host, one.port) == (&other.host, other.port)
}

/// Clusters: services that share a server share all of them.
fn clusters<'a>(services: &[&'a Service<'a>]) -> Vec<Cluster<'a>> {
    let mut clusters: Vec<Cluster<'a>> = Vec::new();
    for service in services {
        let mut merged =
            Cluster { name: String::new(), services: vec![service], nodes: service.servers.iter().collect() };
        let (joined, others): (Vec<_>, Vec<_>) = clusters.into_iter().partition(|cluster| {
            cluster.nodes.iter().any(|node| service.servers.iter().any(|server| same(server, node)))
        });
        for cluster in joined.into_iter().rev() {
            merged.services.splice(0..0, cluster.services);
            merged.nodes.splice(0..0, cluster.nodes);
        }
        clusters = others;
        clusters.push(merged);
    }
    let is_only = clusters.len() == 1;
    let mut taken: Vec<String> = Vec::new();
    for cluster in &mut clusters {
        let first = cluster.services.first().map_or("main", |service| &service.name);
        let name = if is_only { "main".to_owned() } else { console_name(first) };
        cluster.name = unique_name(name, |name| taken.iter().any(|other| other == name));
        taken.push(cluster.name.clone());
    }
    clusters
}

/// Tells the draft of all of them.
pub(super) fn write(services: &[&Service<'_>], draft: &mut Draft) -> Result<(), ImportError> {
    if services.is_empty() {
        return Ok(());
    }
    listen(services, draft);
    limits(services, draft)?;
    let clusters = clusters(services);
    for cluster in &clusters {
        write_cluster(cluster, draft);
    }
    if let [_, others @ ..] = clusters.as_slice()
        && !others.is_empty()
    {
        for (i, cluster) in clusters.iter().enumerate() {
            let section = draft.more("postgres.database");
            if i > 0 {
                section.remark(
                    "PLACEHOLDER: HAProxy tells clusters apart by the ports that clients connect to, Forebay by the names of \
                     databases. Write an entry for each database of this cluster, or run one Forebay for each.",
                );
            }
            section.set("name", if i == 0 { quote("*") } else { quote(&cluster.name) }, "");
            section.set("cluster", quote(&cluster.name), "");
        }
        draft.note("there are several clusters: name the databases of each in [[postgres.database]], or run one Forebay for each");
    }
    Ok(())
}

fn listen(services: &[&Service<'_>], draft: &mut Draft) {
    let mut literal_addresses = Vec::new();
    let mut from = Vec::new();
    let mut seen: Vec<&String> = Vec::new();
    let binds = services.iter().flat_map(|service| service.binds.iter().map(move |bind| (service, bind)));
    let all_tls = binds.clone().all(|(_, (bind, _))| bind.is_tls);
    for (service, (bind, line)) in binds {
        for address in &bind.addresses {
            if seen.contains(&address) {
                continue;
            }
            seen.push(address);
            literal_addresses.push(match service.route {
                Route::Auto => quote(address),
                route => format!("{{ addr = {}, route = {} }}", quote(address), quote(route.word())),
            });
        }
        from.push(line.place.to_string());
        proxy_header(bind, line, draft);
        if bind.is_tls {
            let postgres = draft.one("postgres");
            let mode = match (all_tls, bind.asks_certificate) {
                (true, true) => "verify-ca",
                (true, false) => "require",
                (false, _) => "prefer",
            };
            let from = format!("{} bind ... ssl", line.place);
            postgres.set("tls.mode", quote(mode), &from);
            for (key, path) in [("tls.cert", &bind.cert), ("tls.key", &bind.cert), ("tls.ca", &bind.ca)] {
                if let Some(path) = path {
                    postgres.set(key, quote(path), &from);
                }
            }
            if let Some(version) = bind.min_version {
                postgres.set("tls.min_version", quote(version), &from);
            }
            if !all_tls {
                draft.note(format!("{}: TLS is asked for at all ports or at none; tls.mode is \"prefer\"", line.place));
            }
        }
    }
    if !literal_addresses.is_empty() {
        let postgres = draft.one("postgres");
        let is_split = services.iter().any(|service| service.route == Route::Auto);
        if is_split {
            postgres
                .remark("A listener without a route sends reads to replicas and all else to the primary, by itself.");
        }
        postgres.set("listen", literals(literal_addresses.into_iter()), from.join(", "));
    }
}

/// Times and limits, which hold for all of PostgreSQL here: the first one's.
fn limits(services: &[&Service<'_>], draft: &mut Draft) -> Result<(), ImportError> {
    let times: [(&[&str], &str, &str); 5] = [
        (&["timeout", "connect"], "postgres.pool", "connect_timeout"),
        (&["timeout", "queue"], "postgres.pool", "queue_timeout"),
        (&["timeout", "client"], "postgres.pool", "client_idle_timeout"),
        (&["timeout", "tunnel"], "postgres.pool", "client_idle_timeout"),
        (&["timeout", "check"], "postgres.failover", "check_timeout"),
    ];
    for (words, section, key) in times {
        let (section, key) = static_names(section, key);
        for service in services {
            let Some(line) = service.line(words) else { continue };
            let ms = time_of(line, line.word(2))?;
            let value = match (ms, key) {
                (0, "connect_timeout" | "check_timeout") => {
                    let why = "Connecting and checking always have an end here; Forebay's default holds.";
                    draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
                    continue;
                }
                (0, _) => quote("off"),
                (ms, _) => time(ms),
            };
            set_first(section, key, value, line, words == ["timeout", "tunnel"], draft);
        }
    }
    let mut clients = 0;
    let mut from = Vec::new();
    for service in services {
        if let Some(line) = service.line(&["maxconn"]) {
            clients += number_of(line)?;
            from.push(line.place.to_string());
        }
    }
    if clients > 0 && from.len() == services.len() {
        draft.one("postgres").set(
            "max_clients",
            clients.to_string(),
            format!("{} maxconn, their sum", from.join(", ")),
        );
    } else {
        for line in services.iter().filter_map(|service| service.line(&["maxconn"])) {
            let why = "postgres.max_clients is one for all of PostgreSQL, and another proxy has no limit.";
            draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
        }
    }
    for service in services {
        if let Some(line) = service.line(&["balance"]) {
            let ours = match line.word(1) {
                "roundrobin" | "static-rr" => "round_robin",
                "leastconn" => "least_connections",
                "source" => "source",
                "random" => "random",
                _ => {
                    let why = "balance is least_connections, round_robin, random or source.";
                    draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
                    continue;
                }
            };
            set_first("postgres.routing", "balance", quote(ours), line, false, draft);
        }
        let most = service.servers.iter().filter_map(|server| Some((server, server.options.max_connections?)));
        if let Some((server, most)) = most.min_by_key(|(_, most)| *most) {
            set_first("postgres.pool", "size", most.to_string(), &server.line, false, draft);
        }
    }
    draft.one("postgres.pool").remark(
        "HAProxy gives each client a connection of its own. Here clients share size connections to each node, transaction by \
         transaction; mode = \"session\" needs a size of as many as there are clients.",
    );
    Ok(())
}

/// The names as the draft keeps them.
fn static_names(section: &str, key: &str) -> (&'static str, &'static str) {
    let section = if section == "postgres.failover" { "postgres.failover" } else { "postgres.pool" };
    let keys = ["connect_timeout", "queue_timeout", "client_idle_timeout", "check_timeout"];
    (section, keys.into_iter().find(|known| *known == key).unwrap_or("connect_timeout"))
}

/// Sets a key that all share, unless it is set: then a comment says that another value was written.
fn set_first(section: &'static str, key: &'static str, value: String, line: &Line, wins: bool, draft: &mut Draft) {
    let there = draft.one(section).value(key).map(str::to_owned);
    match there {
        Some(other) if other == value => {}
        Some(_) if !wins => {
            let why = format!("[{section}] {key} is one for all of PostgreSQL; another proxy's was taken.");
            draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
        }
        _ => {
            let words: Vec<_> = line.words.iter().take(2).map(String::as_str).collect();
            draft.one(section).set(key, value, format!("{} {}", line.place, words.join(" ")));
        }
    }
}

fn write_cluster(cluster: &Cluster<'_>, draft: &mut Draft) {
    let mut literal_nodes: Vec<String> = Vec::new();
    let mut seen: Vec<&Server> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut secured = None;
    // Weights are of reads: those of a proxy to the replicas count.
    let by_replica = cluster.services.iter().filter(|service| service.route == Route::Replica);
    let weighed: Vec<&Server> =
        by_replica.flat_map(|service| &service.servers).chain(cluster.nodes.iter().copied()).collect();
    for node in &cluster.nodes {
        if seen.iter().any(|other| same(other, node)) {
            continue;
        }
        seen.push(node);
        if node.has_variable() {
            let why = "Variables of the environment are not known here; write the server into nodes.";
            draft.leave_text(LeftKind::NoEqual, &node.line.place, node.line.raw.clone(), why);
            draft.note(format!("{}: the address of this server is a variable", node.line.place));
            continue;
        }
        if node.options.is_disabled {
            draft.leave_text(
                LeftKind::NoEqual,
                &node.line.place,
                node.line.raw.clone(),
                "It is disabled; DETACH NODE does that.",
            );
            continue;
        }
        if node.options.sends_proxy {
            let why = "PostgreSQL takes no PROXY header; if something else is there, connect Forebay to the servers themselves.";
            draft.leave_text(LeftKind::NoEqual, &node.line.place, node.line.raw.clone(), why);
        }
        if node.options.is_tls {
            secured.get_or_insert(*node);
        }
        let (host, port) = match node.host.rsplit_once("/.s.PGSQL.") {
            Some((folder, port)) => (folder, port.parse().ok()),
            None => (node.host.as_str(), node.port),
        };
        let name = unique_name(console_name(&node.name), |name| names.iter().any(|other| other == name));
        let mut keys = vec![
            format!("name = {}", quote(&name)),
            format!("host = {}", quote(host)),
            format!("port = {}", port.unwrap_or(5432)),
        ];
        names.push(name);
        let weight = weighed.iter().filter(|other| same(other, node)).find_map(|other| other.options.weight);
        if let Some(weight) = weight {
            keys.push(format!("weight = {weight}"));
        }
        literal_nodes.push(format!("{{ {} }}", keys.join(", ")));
        if node.options.is_backup {
            let why = "Which server is the primary is found, not declared: a backup is a node as any other. weight = 0 keeps reads from it.";
            draft.leave_text(LeftKind::Moot, &node.line.place, format!("server {}: backup", node.name), why);
        }
    }
    let place = cluster.services.first().and_then(|service| service.head()).map(|head| head.place.to_string());
    let section = draft.more("postgres.cluster");
    section.set("name", quote(&cluster.name), place.unwrap_or_default());
    if literal_nodes.is_empty() {
        section.remark("PLACEHOLDER: no server's address is known.");
        section.set("nodes", list(&["127.0.0.1:5432"]), "");
    } else {
        section.set("nodes", literals(literal_nodes.into_iter()), "");
    }
    if let Some(node) = secured {
        let from = format!("{} server ... ssl", node.line.place);
        let verifies = node.options.verifies.unwrap_or(true) && node.options.ca.is_some();
        section.set("tls.mode", quote(if verifies { "verify-ca" } else { "require" }), &from);
        for (key, path) in
            [("tls.ca", &node.options.ca), ("tls.cert", &node.options.cert), ("tls.key", &node.options.cert)]
        {
            if let Some(path) = path {
                section.set(key, quote(path), &from);
            }
        }
    }
}

/// HAProxy knows no logins: they have to be told.
pub(super) fn logins(services: &[&Service<'_>], draft: &mut Draft) {
    let check = services
        .iter()
        .filter_map(|service| service.line(&["option", "pgsql-check"]))
        .find(|line| line.word(2) == "user");
    let (user, from) = match check {
        Some(line) => (line.word(3).to_owned(), format!("{} option pgsql-check", line.place)),
        None => ("forebay_monitor".to_owned(), String::new()),
    };
    for cluster in draft.all("postgres.cluster") {
        cluster.remark("PLACEHOLDER: the login that watches the nodes, a member of pg_monitor, and its password.");
        cluster.set("monitor_user", quote(&user), &from);
        cluster.set("monitor_password", quote(PLACEHOLDER), "");
    }
    let section = draft.more("postgres.user");
    section.remark(
        "PLACEHOLDER: HAProxy passes logins on without knowing them; Forebay checks them itself. Write one entry for each login, \
         or one with auth_user and auth_query in [postgres], which looks the others up.",
    );
    section.set("name", quote("app"), "");
    section.set("password", quote(PLACEHOLDER), "");
    draft.note(format!(
        "HAProxy knows no logins: write monitor_user, monitor_password and each [[postgres.user]] in place of {PLACEHOLDER}, or use \
         auth_query"
    ));
}
