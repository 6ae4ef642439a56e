//! HAProxy: proxies in front of PostgreSQL and Redis. What is HTTP, or something else, becomes comments.

mod ends;
mod lex;
mod postgres;
mod redis;
mod service;
mod words;

use std::collections::HashSet;
use std::path::PathBuf;

use super::ImportError;
use super::draft::{Draft, LeftKind, list};
use super::source::{Place, Source};
use super::table::milliseconds;
use crate::config::quote;
use ends::Bind;
use lex::{Line, Part};
use service::{Kind, Service};

/// What stands for what is not known.
const PLACEHOLDER: &str = "CHANGE-ME";

/// Lines of a service that are made into keys, or would be if they were the last of their kind.
const READ: [&[&str]; 14] = [
    &["bind"],
    &["server"],
    &["default-server"],
    &["default_backend"],
    &["balance"],
    &["timeout", "connect"],
    &["timeout", "client"],
    &["timeout", "queue"],
    &["timeout", "check"],
    &["timeout", "tunnel"],
    &["mode", "tcp"],
    &["option", "pgsql-check"],
    &["maxconn"],
    &["use_backend", "-"],
];

/// Reads the files and tells the draft.
pub(super) fn read(files: &[PathBuf], source: &mut Source<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut folder = None;
    for path in files {
        let text = source.open(path)?;
        lex::read(&text, &mut parts)?;
        folder.get_or_insert(text);
    }
    let globals: Vec<&Line> =
        parts.iter().filter(|part| part.kind() == "global").flat_map(|part| &part.lines).collect();
    let of_global = |name: &str| globals.iter().rev().find(|line| line.is(&[name])).map(|line| line.word(1).to_owned());
    let base_folder = of_global("crt-base").or(of_global("ca-base")).unwrap_or_default();
    let base = |path: &str| {
        let path = PathBuf::from(&base_folder).join(path);
        let path = folder.as_ref().map_or(path.clone(), |text| text.beside(&path.display().to_string()));
        std::path::absolute(&path).unwrap_or(path).display().to_string()
    };
    let services = service::services(&parts, &base)?;
    let of_kind = |kind: Kind| services.iter().filter(|service| service.kind == kind).collect::<Vec<_>>();
    let mut told: HashSet<Place> = HashSet::new();
    let postgres = of_kind(Kind::Postgres);
    let redis = of_kind(Kind::Redis);
    postgres::write(&postgres, draft)?;
    for service in &redis {
        redis::write(service, draft)?;
    }
    for service in services.iter().filter(|service| service.kind != Kind::Other && service.kind != Kind::Sentinel) {
        tell_own(service, &mut told, draft);
    }
    for service in services.iter().filter(|service| matches!(service.kind, Kind::Other | Kind::Sentinel)) {
        if !stats(service, &mut told, draft)? {
            tell_other(service, &mut told, draft);
        }
    }
    let is_served = !postgres.is_empty() || !redis.is_empty();
    for part in parts.iter().filter(|part| !matches!(part.kind(), "listen" | "frontend" | "backend")) {
        tell_part(part, is_served, draft);
    }
    if !is_served {
        let section = draft.more("postgres.cluster");
        section.remark("PLACEHOLDER: no proxy in front of PostgreSQL or Redis was found. Write your servers here.");
        section.set("name", quote("main"), "");
        section.set("nodes", list(&["127.0.0.1:5432"]), "");
        draft.note("no proxy in front of PostgreSQL or Redis was found: write your servers into [[postgres.cluster]]");
    }
    if draft.has("postgres.cluster") {
        postgres::logins(&postgres, draft);
    }
    Ok(())
}

/// What is left of the lines of a service that is served.
fn tell_own(service: &Service<'_>, told: &mut HashSet<Place>, draft: &mut Draft) {
    for line in service.own() {
        if READ.iter().any(|words| line.is(words)) || !told.insert(line.place.clone()) {
            continue;
        }
        let (kind, why) = words::of_line(&line.raw);
        draft.leave_text(kind, &line.place, line.shown(), why);
    }
    for (bind, line) in &service.binds {
        tell_words(line, "bind", &bind.left, told, draft);
    }
    for (line, options) in &service.defaults_left {
        tell_words(line, "default-server", &options.left, told, draft);
    }
    for server in &service.servers {
        tell_words(&server.line, "server", &server.options.left, told, draft);
    }
    if service.binds.is_empty()
        && let Some(head) = service.head()
    {
        let why = "No frontend leads to it, so that nobody is served by it: only its servers were taken over.";
        draft.leave_text(LeftKind::NoEqual, &head.place, head.raw.clone(), why);
    }
}

fn tell_words(line: &Line, of: &str, left: &[(String, &'static str)], told: &mut HashSet<Place>, draft: &mut Draft) {
    if left.is_empty() || !told.insert(line.place.clone()) {
        return;
    }
    for (words, why) in left {
        let kind = if *why == words::QUIET_WHY || *why == words::DNS_WHY { LeftKind::Moot } else { LeftKind::NoEqual };
        draft.leave_text(kind, &line.place, format!("{of} {}: {words}", line.word(1)), *why);
    }
}

/// A proxy in front of something else, line by line.
fn tell_other(service: &Service<'_>, told: &mut HashSet<Place>, draft: &mut Draft) {
    let why = match (service.kind, service.is_http) {
        (Kind::Sentinel, _) => {
            "It leads to Sentinels. Forebay asks them itself: write their addresses into sentinels of a [[redis.service]], with \
             master_name, in place of its nodes; clients then need no Sentinel."
        }
        (_, true) => "It is HTTP; Forebay speaks PostgreSQL and Redis. Leave it with HAProxy.",
        _ => {
            "It does not look like PostgreSQL or Redis. Leave it with HAProxy, or write a [[postgres.cluster]] or [[redis.service]]."
        }
    };
    for line in service.parts.iter().flat_map(|part| std::iter::once(&part.head).chain(&part.lines)) {
        if told.insert(line.place.clone()) {
            draft.leave_text(LeftKind::NoEqual, &line.place, line.shown(), why);
        }
    }
    if service.kind == Kind::Sentinel {
        draft.note(format!("{}: name the Sentinels in sentinels of the [[redis.service]]", service.name));
    }
}

/// `global`, `defaults` and sections of other kinds.
fn tell_part(part: &Part, is_served: bool, draft: &mut Draft) {
    match part.kind() {
        "global" | "defaults" => {
            for line in &part.lines {
                let is_read = is_served && part.kind() == "defaults" && READ.iter().any(|words| line.is(words));
                if !is_read {
                    let (kind, why) = words::of_line(&line.raw);
                    draft.leave_text(kind, &line.place, line.shown(), why);
                }
            }
        }
        _ => {
            let why = "Sections of this kind belong to HAProxy.";
            for line in std::iter::once(&part.head).chain(&part.lines) {
                draft.leave_text(LeftKind::NoEqual, &line.place, line.shown(), why);
            }
        }
    }
}

/// The page of statistics: `[admin]`. Whether this is one.
fn stats(service: &Service<'_>, told: &mut HashSet<Place>, draft: &mut Draft) -> Result<bool, ImportError> {
    let is_stats = service.line(&["stats", "enable"]).or(service.line(&["stats", "uri"])).is_some();
    if !is_stats || !service.servers.is_empty() || service.binds.is_empty() {
        return Ok(false);
    }
    let is_admin = service.line(&["stats", "admin"]).is_some();
    for line in service.own().filter(|line| line.is(&["stats", "auth"])) {
        let Some((name, password)) = line.word(2).split_once(':') else {
            return Err(line.place.error("stats auth must be followed by NAME:PASSWORD"));
        };
        if draft.named("admin.user", name).is_none() && !password.is_empty() {
            let section = draft.more("admin.user");
            section.set("name", quote(name), format!("{} stats auth", line.place));
            section.set("password", quote(password), "");
            section.set("role", quote(if is_admin { "admin" } else { "viewer" }), "");
            told.insert(line.place.clone());
        }
    }
    let addresses: Vec<String> = service.binds.iter().flat_map(|(bind, _)| bind.addresses.clone()).collect();
    let is_local = |address: &String| ["127.", "localhost:", "[::1]"].iter().any(|start| address.starts_with(start));
    if draft.has("admin.user") || addresses.iter().all(is_local) {
        let from = service.binds.first().map(|(_, line)| format!("{} bind", line.place)).unwrap_or_default();
        draft.one("admin").set("listen", list(&addresses), from);
        told.extend(service.binds.iter().map(|(_, line)| line.place.clone()));
    } else {
        draft.note(format!(
            "{}: the page of statistics needs an [[admin.user]] where others reach it; it stays on 127.0.0.1:8404",
            service.name
        ));
    }
    let lines = service.parts.iter().flat_map(|part| &part.lines);
    for line in lines.filter(|line| told.insert(line.place.clone())) {
        let (kind, why) = words::of_line(&line.raw);
        draft.leave_text(kind, &line.place, line.shown(), why);
    }
    Ok(true)
}

/// A time as milliseconds; 0 is none.
fn time_of(line: &Line, word: &str) -> Result<u64, ImportError> {
    milliseconds(word, 1).ok_or_else(|| line.place.error(format!("{} is not a time such as 30s", quote(word))))
}

/// A limit as a number.
fn number_of(line: &Line) -> Result<u64, ImportError> {
    let word = line.word(1);
    word.parse().map_err(|_| line.place.error(format!("{} must be a number (found {})", line.word(0), quote(word))))
}

/// The PROXY header that clients send, for both protocols.
fn proxy_header(bind: &Bind, line: &Line, draft: &mut Draft) {
    if bind.takes_proxy {
        let section = draft.one("security");
        section.remark(
            "PLACEHOLDER: the load balancers whose PROXY header is required and believed; nobody else may send one.",
        );
        section.set("proxy_protocol", quote("on"), format!("{} accept-proxy", line.place));
        section.set("proxy_trusted", list(&["127.0.0.1"]), "");
        draft.note(format!(
            "{}: accept-proxy: write the load balancers' addresses into security.proxy_trusted",
            line.place
        ));
    }
}
