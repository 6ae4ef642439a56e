//! Rules between keys, after each key has been read: names, references, defaults that come from elsewhere.
//!
//! A check speaks of a place (`postgres.database[2].cluster`); the reader knows where in the file that is.

mod hba;
mod postgres;
mod redis;

use std::collections::HashMap;

use super::address::check_endpoint;
use super::model::*;
use super::reader::Reader;
use super::setting::quote;
use super::suggest::nearest;
use super::verifier;

/// More threads than any machine has cores is a typing error, and each costs memory.
const MOST_THREADS: usize = 1024;

/// Fills in what depends on other sections and reports what does not fit together.
pub(super) fn complete_and_check(config: &mut Config, reader: &mut Reader<'_>) {
    let is_readable = reader.error_count() == 0;
    general(&mut config.general, reader);
    names(config, reader);
    postgres::tls(&config.postgres, reader);
    hba::read(&mut config.postgres, reader);
    postgres::failover(&config.postgres.failover, reader);
    postgres::clusters(&mut config.postgres, reader);
    postgres::databases(config, reader);
    postgres::users(&config.postgres, reader);
    postgres::lookup(&config.postgres, reader);
    postgres::pools(&config.postgres, reader);
    postgres::routing(&config.postgres, reader);
    admin(&config.admin, reader);
    redis(&config.redis, reader);
    redis::tls(&config.redis, reader);
    listeners(config, reader);
    service(config, reader);
    if is_readable && config.postgres.clusters.is_empty() && config.redis.is_empty() {
        reader.error_at(0, "there is nothing to serve; add a [[postgres.cluster]] or a [[redis.service]]".to_owned());
    }
}

fn general(general: &mut General, reader: &mut Reader<'_>) {
    if general.threads > MOST_THREADS {
        let found = general.threads;
        reader.error_in("general.threads", format!("general.threads must be at most {MOST_THREADS} (found {found})"));
    }
    if general.threads == 0 {
        general.threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    }
    if let Err(why) = check_log_level(&general.log_level) {
        reader.error_in("general.log.level", format!("general.log.level: {why}"));
    }
}

/// A word alone is a level here; the filter itself would take a mistyped level as the name of a module.
fn check_log_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim) {
        let is_level = LEVELS.contains(&directive.to_ascii_lowercase().as_str());
        if !is_level && !directive.contains('=') {
            let guess = nearest(directive, LEVELS.into_iter());
            let guess = guess.map_or(String::new(), |level| format!("; did you mean \"{level}\"?"));
            let levels = LEVELS.join(", ");
            return Err(format!("{} is not one of {levels}, nor MODULE=LEVEL{guess}", quote(directive)));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{} is not a filter: {error}; write MODULE=LEVEL, as in \"info,forebay::pool=debug\"",
            quote(text)
        )),
    }
}

/// Reports the second of two equal names.
fn unique<'n>(what: &str, named: impl Iterator<Item = (String, &'n str)>, reader: &mut Reader<'_>) {
    let mut seen = HashMap::new();
    for (place, name) in named.filter(|(_, name)| !name.is_empty()) {
        if seen.insert(name, ()).is_some() {
            reader.error_in(&place, format!("there is already {what} named {}; names must be unique", quote(name)));
        }
    }
}

fn names(config: &Config, reader: &mut Reader<'_>) {
    fn of<'a, T>(section: &'a str, all: &'a [T], name: fn(&T) -> &str) -> impl Iterator<Item = (String, &'a str)> {
        all.iter().enumerate().map(move |(i, one)| (format!("{section}[{i}].name"), name(one)))
    }
    let postgres = &config.postgres;
    let services = || {
        of("postgres.cluster", &postgres.clusters, |cluster| &cluster.name).chain(of(
            "redis.service",
            &config.redis,
            |service| &service.name,
        ))
    };
    unique("a cluster or service", services(), reader);
    unique("a database", of("postgres.database", &postgres.databases, |database| &database.name), reader);
    unique("a user", of("postgres.user", &postgres.users, |user| &user.name), reader);
    unique("an admin user", of("admin.user", &config.admin.users, |user| &user.name), reader);
    for (place, name) in services() {
        console_name(&place, name, reader);
    }
    for (i, cluster) in postgres.clusters.iter().enumerate() {
        for (n, node) in cluster.nodes.iter().enumerate() {
            console_name(&format!("postgres.cluster[{i}].nodes[{n}].name"), &node.name, reader);
        }
    }
}

/// The console writes `service.node` without quotes.
fn console_name(place: &str, name: &str, reader: &mut Reader<'_>) {
    if let Some(wrong) = name.chars().find(|&c| !(c.is_alphanumeric() || matches!(c, '_' | '-'))) {
        reader.error_in(
            place,
            format!(
                "the name {} may hold letters, digits, _ and - only (found {})",
                quote(name),
                quote(&wrong.to_string())
            ),
        );
    }
}

fn admin(admin: &Admin, reader: &mut Reader<'_>) {
    if admin.tls_cert.is_some() != admin.tls_key.is_some() {
        reader.error_in("admin.tls", "admin.tls.cert and admin.tls.key need each other".to_owned());
    }
    postgres::warn_of_key("admin.tls.key", admin.tls_key.as_deref(), reader);
    for (i, address) in admin.listen.iter().enumerate() {
        if admin.users.is_empty() && !address.ip().is_loopback() && !reader.is_misnamed("admin.user") {
            reader.error_in(
                &format!("admin.listen[{i}]"),
                format!(
                    "admin.listen: {address} can be reached from other machines, but there is no [[admin.user]]; \
                     add one, or listen on 127.0.0.1"
                ),
            );
        }
    }
    for (i, user) in admin.users.iter().enumerate() {
        if let Err(why) = verifier::kind(&user.password.0) {
            let name = quote(&user.name);
            reader.error_in(&format!("admin.user[{i}].password"), format!("the password of admin.user {name} {why}"));
        }
    }
}

fn redis(services: &[RedisService], reader: &mut Reader<'_>) {
    for (i, service) in services.iter().enumerate() {
        let place = format!("redis.service[{i}]");
        let name = quote(&service.name);
        let wrote = |key: &str, reader: &Reader<'_>| reader.has(&format!("{place}.{key}"));
        let (sentinels, nodes) = (wrote("sentinels", reader), wrote("nodes", reader));
        if !sentinels && !nodes {
            reader.error_in(
                &place,
                format!("redis.service {name} has no servers; set sentinels and master_name, or nodes"),
            );
        } else if !service.sentinels.is_empty() && !service.nodes.is_empty() {
            reader.error_in(
                &format!("{place}.nodes"),
                format!("redis.service {name} has sentinels, which know the nodes; remove nodes or sentinels"),
            );
        } else if !service.sentinels.is_empty() && service.master_name.is_none() && !wrote("master_name", reader) {
            let key = format!("{place}.sentinels");
            reader.error_in(&key, format!("redis.service {name} must have the master_name that its sentinels know"));
        } else if service.master_name.is_some() && !sentinels {
            let key = format!("{place}.master_name");
            reader.error_in(&key, format!("redis.service {name} has a master_name, but no sentinels to ask for it"));
        }
        for (key, endpoints) in [("sentinels", &service.sentinels), ("nodes", &service.nodes)] {
            for (n, endpoint) in endpoints.iter().enumerate() {
                if let Err(why) = check_endpoint(endpoint) {
                    reader.error_in(&format!("{place}.{key}[{n}]"), format!("redis.service.{key}: {why}"));
                }
            }
        }
    }
}

/// Refuses the second listener on one address.
fn listeners(config: &Config, reader: &mut Reader<'_>) {
    let admin = config.admin.listen.iter().enumerate();
    let admin = admin.map(|(i, address)| (format!("admin.listen[{i}]"), "admin.listen", ListenAddr::Tcp(*address)));
    let postgres = config.postgres.listen.iter().enumerate().filter(|_| !config.postgres.clusters.is_empty());
    let postgres =
        postgres.map(|(i, listen)| (format!("postgres.listen[{i}]"), "postgres.listen", listen.addr.clone()));
    let redis = config.redis.iter().enumerate().flat_map(|(s, service)| {
        let addresses = service.listen.iter().enumerate();
        addresses.map(move |(i, address)| {
            (format!("redis.service[{s}].listen[{i}]"), "redis.service.listen", address.clone())
        })
    });
    let mut seen: HashMap<String, &str> = HashMap::new();
    for (place, key, address) in admin.chain(postgres).chain(redis) {
        let address = address.to_string();
        if let Some(first) = seen.insert(address.clone(), key) {
            let also = if first == key { String::new() } else { format!(" (also in {first})") };
            reader.error_in(&place, format!("{key}: {address} is listened on twice{also}; keep one"));
        }
    }
    if !config.postgres.clusters.is_empty() && config.postgres.listen.is_empty() && reader.has("postgres.listen") {
        reader.error_in("postgres.listen", "postgres.listen must name at least one address".to_owned());
    }
}

/// Begins as a URL of HTTP with a host does.
fn is_url(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')))
}

/// `[telemetry]`
fn telemetry(config: &Telemetry, reader: &mut Reader<'_>) {
    let url = config.otlp.as_deref();
    let is_usable = |url: &str| {
        let Ok(parsed) = url.parse::<hyper::Uri>() else { return false };
        let has_port = parsed.port_u16().is_some();
        is_url(url)
            && !url.contains(['?', '#', '@'])
            && (has_port || parsed.authority().map(|a| a.as_str()) == parsed.host())
    };
    if url.is_some_and(|url| !is_usable(url)) {
        let what = "telemetry.otlp must be a URL that starts with http:// or https://, without a login, \"?\" or \"#\"; \
                    credentials belong into telemetry.headers";
        reader.error_in("telemetry.otlp", what.to_owned());
    }
    for (name, value) in &config.headers {
        let is_name = hyper::header::HeaderName::try_from(name.as_str()).is_ok();
        if !is_name || hyper::header::HeaderValue::try_from(value.0.as_str()).is_err() {
            let what = format!("telemetry.headers.{name} is no header that HTTP could carry");
            reader.error_in("telemetry.headers", what);
        }
    }
    if url.is_none() && (config.sample > 0.0 || !config.headers.is_empty() || config.tls_ca.is_some()) {
        let what = "[telemetry] has no effect without telemetry.otlp";
        let place =
            ["telemetry.sample", "telemetry.headers", "telemetry.tls.ca"].into_iter().find(|key| reader.has(key));
        reader.warning_in(place.unwrap_or("telemetry"), what.to_owned());
    }
}

/// `[security]`, `[notify]` and `[coordination]`.
fn service(config: &Config, reader: &mut Reader<'_>) {
    let security = &config.security;
    if security.proxy_protocol && security.proxy_trusted.is_empty() {
        reader.error_in(
            "security.proxy_protocol",
            "security.proxy_protocol is on, but nobody's header is trusted; write the load balancers' addresses into \
             security.proxy_trusted"
                .to_owned(),
        );
    }
    if !security.proxy_protocol && !security.proxy_trusted.is_empty() {
        let what = "security.proxy_trusted has no effect unless proxy_protocol is on".to_owned();
        reader.warning_in("security.proxy_trusted", what);
    }
    for (i, url) in config.notify.webhook.iter().enumerate() {
        if !is_url(url) {
            let place = format!("notify.webhook[{i}]");
            reader.error_in(&place, "notify.webhook must hold URLs that start with http:// or https://".to_owned());
        }
    }
    telemetry(&config.telemetry, reader);
    if let Some(coordination) = &config.coordination {
        self::coordination(coordination, reader);
    }
}

/// `[coordination]`
fn coordination(config: &Coordination, reader: &mut Reader<'_>) {
    for (i, url) in config.etcd.iter().enumerate() {
        if !is_url(url) {
            let place = format!("coordination.etcd[{i}]");
            reader.error_in(&place, "coordination.etcd must hold URLs that start with http:// or https://".to_owned());
        }
    }
    if config.tls_cert.is_some() != config.tls_key.is_some() {
        let (key, other) = if config.tls_cert.is_some() { ("tls.cert", "tls.key") } else { ("tls.key", "tls.cert") };
        reader.error_in(&format!("coordination.{key}"), format!("coordination.{key} needs {other}"));
    }
    if config.password.is_some() && config.user.is_none() {
        reader.error_in("coordination.password", "coordination.password needs user".to_owned());
    }
    if config.prefix.trim_matches('/').is_empty() {
        let what = "coordination.prefix must name something, such as \"/forebay\"".to_owned();
        reader.error_in("coordination.prefix", what);
    }
    if config.peer_listen.as_ref().is_some_and(|at| at.parse::<std::net::SocketAddr>().is_err()) {
        let what = "coordination.peer_listen must be an address with a port, such as \"10.0.0.5:8405\"".to_owned();
        reader.error_in("coordination.peer_listen", what);
    }
    if config.name.as_deref().is_some_and(|name| name.is_empty() || name.contains('/')) {
        reader.error_in("coordination.name", "coordination.name must not be empty and have no \"/\"".to_owned());
    }
}
