//! A proxy in front of Redis.

use super::service::{Route, Service};
use super::{number_of, proxy_header, time_of};
use crate::config::quote;
use crate::import::ImportError;
use crate::import::draft::{Draft, LeftKind, list, time};
use crate::import::source::{console_name, endpoint, unique_name};

/// Tells the draft of one.
pub(super) fn write(service: &Service<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let name = unique_name(console_name(&service.name), |name| {
        draft.is_named("redis.service", name) || draft.is_named("postgres.cluster", name)
    });
    let mut nodes: Vec<String> = Vec::new();
    for server in &service.servers {
        let place = &server.line.place;
        let why = match () {
            () if server.has_variable() => {
                Some("Variables of the environment are not known here; write the server into nodes.")
            }
            () if server.host.starts_with('/') => Some("Redis is reached by TCP only; write host:port into nodes."),
            () if server.options.is_disabled => Some("It is disabled; DETACH NODE does that."),
            () => None,
        };
        if let Some(why) = why {
            draft.leave_text(LeftKind::NoEqual, place, server.line.raw.clone(), why);
            continue;
        }
        if server.options.sends_proxy {
            let why =
                "Redis takes no PROXY header; if something else is there, connect Forebay to the servers themselves.";
            draft.leave_text(LeftKind::NoEqual, place, server.line.raw.clone(), why);
        }
        if server.options.weight.is_some() || server.options.is_backup || server.options.max_connections.is_some() {
            let why = "Which server is the primary is found, and replicas take reads alike; lanes is the number of connections.";
            draft.leave_text(LeftKind::NoEqual, place, server.line.raw.clone(), why);
        }
        let node = endpoint(&server.host, server.port.unwrap_or(6379));
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    let from = service.head().map(|head| head.place.to_string()).unwrap_or_default();
    for (bind, line) in &service.binds {
        proxy_header(bind, line, draft);
    }
    let mut addresses: Vec<String> = service.binds.iter().flat_map(|(bind, _)| bind.addresses.clone()).collect();
    let mut seen = Vec::new();
    addresses.retain(|address| {
        let is_new = !seen.contains(address);
        seen.push(address.clone());
        is_new
    });
    if nodes.is_empty() {
        nodes.push("127.0.0.1:6379".to_owned());
        draft.note(format!("{name}: no server's address is known; write it into nodes"));
    }
    let has_no_listener = addresses.is_empty();
    if has_no_listener {
        addresses.push("127.0.0.1:6380".to_owned());
        draft.note(format!("{name}: no frontend leads there; write where it is to listen"));
    }
    let section = draft.more("redis.service");
    section.set("name", quote(&name), from);
    if has_no_listener {
        section.remark("PLACEHOLDER: no frontend leads to these servers.");
    }
    section.set(
        "listen",
        list(&addresses),
        service.binds.first().map(|(_, line)| line.place.to_string()).unwrap_or_default(),
    );
    section.remark("Roles are found by asking. Where there are Sentinels, name them in sentinels with master_name instead of nodes.");
    section.set("nodes", list(&nodes), "");
    match service.route {
        Route::Primary | Route::Auto => {}
        Route::Replica => section.set("reads", quote("replica"), "its checks or its name"),
    }
    tls(service, section);
    limits(service, section)?;
    password(service, section);
    if service.route == Route::Replica
        && let Some(head) = service.head()
    {
        let why = "reads = \"replica\" sends what only reads to replicas; writes that come here go to the primary.";
        draft.leave_text(LeftKind::NoEqual, &head.place, head.raw.clone(), why);
    }
    for words in [["timeout", "connect"], ["timeout", "queue"], ["timeout", "check"]] {
        let Some(line) = service.line(&words) else { continue };
        let why = "For Redis, hold is how long commands wait while there is no primary; connecting and probing have times of their own.";
        draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
    }
    if let Some(line) = service.line(&["timeout", "client"]).filter(|_| service.line(&["timeout", "tunnel"]).is_some())
    {
        let why = "timeout tunnel holds instead, as in HAProxy.";
        draft.leave_text(LeftKind::Moot, &line.place, line.raw.clone(), why);
    }
    if let Some(line) = service.line(&["balance"]) {
        let why = "Replicas of Redis take reads alike.";
        draft.leave_text(LeftKind::NoEqual, &line.place, line.raw.clone(), why);
    }
    Ok(())
}

fn tls(service: &Service<'_>, section: &mut crate::import::draft::Section) {
    if let Some((bind, line)) = service.binds.iter().find(|(bind, _)| bind.is_tls) {
        let from = format!("{} bind ... ssl", line.place);
        let mode = match (service.binds.iter().all(|(bind, _)| bind.is_tls), bind.asks_certificate) {
            (true, true) => "verify-ca",
            (true, false) => "require",
            (false, _) => "prefer",
        };
        section.set("client_tls.mode", quote(mode), &from);
        for (key, path) in
            [("client_tls.cert", &bind.cert), ("client_tls.key", &bind.cert), ("client_tls.ca", &bind.ca)]
        {
            if let Some(path) = path {
                section.set(key, quote(path), &from);
            }
        }
        if let Some(version) = bind.min_version {
            section.set("client_tls.min_version", quote(version), &from);
        }
    }
    if let Some(server) = service.servers.iter().find(|server| server.options.is_tls) {
        let from = format!("{} server ... ssl", server.line.place);
        let verifies = server.options.verifies.unwrap_or(true) && server.options.ca.is_some();
        section.set("tls.mode", quote(if verifies { "verify-ca" } else { "require" }), &from);
        for (key, path) in
            [("tls.ca", &server.options.ca), ("tls.cert", &server.options.cert), ("tls.key", &server.options.cert)]
        {
            if let Some(path) = path {
                section.set(key, quote(path), &from);
            }
        }
    }
}

fn limits(service: &Service<'_>, section: &mut crate::import::draft::Section) -> Result<(), ImportError> {
    if let Some(line) = service.line(&["maxconn"]).filter(|line| line.word(1) != "0") {
        section.set("max_clients", number_of(line)?.to_string(), format!("{} maxconn", line.place));
    }
    if let Some(line) = service.line(&["timeout", "tunnel"]).or(service.line(&["timeout", "client"])) {
        let value = match time_of(line, line.word(2))? {
            0 => quote("off"),
            ms => time(ms),
        };
        section.set("idle_timeout", value, format!("{} timeout {}", line.place, line.word(1)));
    }
    Ok(())
}

/// What the check logs in with, clients do, too.
fn password(service: &Service<'_>, section: &mut crate::import::draft::Section) {
    let sends =
        service.lines.iter().filter(|line| line.is(&["tcp-check", "send"]) || line.is(&["tcp-check", "send-lf"]));
    for line in sends {
        let said = line.after(2).join(" ");
        let mut words = said.split_whitespace();
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("AUTH"))
            && let Some(first) = words.next()
        {
            let from = format!("{} tcp-check", line.place);
            match words.next().filter(|word| *word != "comment") {
                Some(secret) => section.set("users", format!("{{ {} = {} }}", quote(first), quote(secret)), from),
                None => section.set("auth", quote(first), from),
            }
        }
    }
}
