//! Pgpool-II: `pgpool.conf`, and `pool_passwd`, `pool_hba.conf` and `pcp.conf` beside it.

mod commands;
mod conf;
mod keys;
mod logins;

use std::path::{Path, PathBuf};

use super::ImportError;
use super::draft::{Draft, LeftKind, list, literals};
use super::source::{Source, Text, check_host, endpoint, flag, parts, port, thousandths};
use super::table::{Entry, apply};
use crate::config::quote;
use conf::{File, Login};

/// What was read, before it is said in Forebay's words.
#[derive(Default)]
struct Pgpool {
    entries: Vec<Entry>,
    passwords: Vec<Login>,
    pcp: Vec<Login>,
    /// The rules, if a file of them was named or found.
    rules: Option<PathBuf>,
    /// The first `pgpool.conf`.
    beside: Option<Text>,
}

impl Pgpool {
    /// The entry that holds, if its value is not empty.
    fn value(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.key == key).filter(|entry| !entry.value.is_empty())
    }

    fn flag(&self, key: &str) -> Result<Option<(bool, &Entry)>, ImportError> {
        let Some(entry) = self.value(key) else { return Ok(None) };
        Ok(Some((flag(&entry.value).ok_or_else(|| entry.wrong("on or off"))?, entry)))
    }

    /// The path of a file that `pgpool.conf` names.
    fn path(&self, path: &str) -> String {
        let path = self.beside.as_ref().map_or_else(|| PathBuf::from(path), |text| text.beside(path));
        absolute(&path)
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).map_or_else(|_| path.display().to_string(), |path| path.display().to_string())
}

/// Reads the files and tells the draft.
pub(super) fn read(files: &[PathBuf], source: &mut Source<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let mut all = Pgpool::default();
    let mut are_passwords_given = false;
    for path in files {
        let text = source.open(path)?;
        match conf::file(path, &text) {
            File::Conf => {
                conf::read(&text, source, &mut all.entries, 0)?;
                all.beside.get_or_insert(text);
            }
            File::Passwords => {
                all.passwords.extend(conf::logins(&text)?);
                are_passwords_given = true;
            }
            File::Pcp => all.pcp.extend(conf::logins(&text)?),
            File::Rules => all.rules = Some(path.clone()),
        }
    }
    // Unless told otherwise it is beside pgpool.conf, and may be missing.
    if !are_passwords_given && all.beside.is_some() {
        let named = all.value("pool_passwd").cloned();
        let path = all.path(named.as_ref().map_or("pool_passwd", |entry| &entry.value));
        match (source.try_open(path.as_ref()), named) {
            (Ok(text), _) => all.passwords = conf::logins(&text)?,
            (Err(why), Some(entry)) => {
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, format!("{path}: {why}."))
            }
            (Err(_), None) => {}
        }
    }
    general(&all, draft)?;
    listen(&all, draft)?;
    nodes(&all, draft)?;
    tls(&all, draft)?;
    functions(&all, draft);
    programs(&all, draft);
    logins::write(&all, draft)
}

/// The keys that the table knows what to do with.
fn general(all: &Pgpool, draft: &mut Draft) -> Result<(), ImportError> {
    for (i, entry) in all.entries.iter().enumerate() {
        if all.entries.iter().skip(i + 1).any(|later| later.key == entry.key) {
            let why = "It is written again further down, which holds.";
            draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, why);
            continue;
        }
        let (name, number) = keys::split_number(&entry.key);
        match keys::meaning(&entry.key).or(keys::meaning(name).filter(|_| number.is_some())) {
            // What is said of one node only, such as connect_timeout1.
            Some(super::table::Meaning::Key(section, key, _)) if number.is_some() => {
                let why = format!("It is the same for all nodes: [{section}] {key}.");
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
            }
            Some(meaning) => apply(meaning, entry, draft)?,
            None => {
                let why = "Pgpool-II's documentation does not know this key.";
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
            }
        }
    }
    let no_balance = all.flag("load_balance_mode")?.is_some_and(|(is_on, _)| !is_on);
    let pool = draft.one("postgres.pool");
    let why = "statements of clients share connections; Pgpool-II keeps one for each client, as \"session\" does (no reads on \
               replicas then)";
    pool.set("mode", quote(if no_balance { "session" } else { "transaction" }), why);
    let modes = [
        ("backend_clustering_mode", "streaming_replication"),
        ("master_slave_sub_mode", "stream"),
        ("master_slave_mode", ""),
        ("replication_mode", ""),
    ];
    for (key, fits) in modes {
        let Some(entry) = all.value(key) else { continue };
        let is_fine = match key {
            "master_slave_mode" => flag(&entry.value) == Some(true),
            "replication_mode" => flag(&entry.value) == Some(false),
            _ => entry.value == fits,
        };
        let (kind, why) = match is_fine {
            true => (LeftKind::Moot, "Forebay serves PostgreSQL's streaming replication; roles are found."),
            false => (
                LeftKind::NoEqual,
                "Forebay serves PostgreSQL's own streaming replication, and nothing else: the nodes have to be one primary and its \
                 replicas.",
            ),
        };
        if !is_fine {
            draft.note(format!("{}: {} = {} has no equal", entry.place, entry.key, entry.value));
        }
        draft.leave(kind, &entry.place, &entry.key, &entry.value, why);
    }
    if let Some((is_on, entry)) = all.flag("connection_cache")? {
        let (kind, why) = match is_on {
            true => (LeftKind::Moot, "Connections to the servers are always kept."),
            false => {
                (LeftKind::NoEqual, "Connections to the servers are always kept; server_idle_timeout closes idle ones.")
            }
        };
        draft.leave(kind, &entry.place, &entry.key, &entry.value, why);
    }
    if let Some(entry) = all.value("reserved_connections") {
        let reserved = entry.value.parse::<u64>().map_err(|_| entry.wrong("a number"))?;
        let children = all.value("num_init_children").and_then(|entry| entry.value.parse::<u64>().ok()).unwrap_or(32);
        match children.checked_sub(reserved).filter(|most| *most > 0 && reserved > 0) {
            Some(most) => draft.one("postgres").set("max_clients", most.to_string(), entry.from()),
            None => {
                let why =
                    "Clients wait for a connection in Forebay's queue; postgres.max_clients refuses more than so many.";
                draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, why);
            }
        }
    }
    Ok(())
}

fn listen(all: &Pgpool, draft: &mut Draft) -> Result<(), ImportError> {
    let (number, port_from) = match all.value("port") {
        Some(entry) => (port(&entry.value).map_err(|why| entry.place.error(why))?, entry.from()),
        None => (9999, "Pgpool-II's default port (of Debian's package: 5433)".to_owned()),
    };
    let mut addresses = Vec::new();
    let mut from = Vec::new();
    let written = all.entries.iter().rev().find(|entry| entry.key == "listen_addresses");
    for address in parts(written.map_or("localhost", |entry| &entry.value)) {
        match address {
            "*" => {
                addresses.push(format!("*:{number}"));
                if let Some(entry) = written {
                    let why = format!(
                        "Forebay's * is every IPv4 address; add \"[::]:{number}\" to postgres.listen for IPv6."
                    );
                    draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, "*", why);
                }
            }
            address => addresses.push(endpoint(address, number)),
        }
    }
    from.push(written.map_or("Pgpool-II's default listen_addresses".to_owned(), Entry::from));
    from.push(port_from);
    for key in ["unix_socket_directories", "socket_dir"] {
        let Some(entry) = all.value(key) else { continue };
        for folder in parts(&entry.value) {
            addresses.push(format!("{}/.s.PGSQL.{number}", folder.trim_end_matches('/')));
        }
        from.push(entry.from());
    }
    addresses.dedup();
    draft.one("postgres").set("listen", list(&addresses), from.join(", "));
    Ok(())
}

/// `backend_*`
fn nodes(all: &Pgpool, draft: &mut Draft) -> Result<(), ImportError> {
    let mut numbers: Vec<usize> = Vec::new();
    for entry in &all.entries {
        if let ("backend_hostname" | "backend_port", Some(number)) = keys::split_number(&entry.key)
            && !numbers.contains(&number)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    let mut literal_nodes = Vec::new();
    let mut seen: Vec<(String, u16)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut weights = Vec::new();
    for number in &numbers {
        if let Some(entry) = all.value(&format!("backend_weight{number}")) {
            weights.push(thousandths(&entry.value).ok_or_else(|| entry.wrong("a number"))?);
        }
    }
    // Weights may be fractions there; hundredths are fine enough.
    let scale = if weights.iter().all(|weight| weight.is_multiple_of(1000)) { 1000 } else { 10 };
    for number in &numbers {
        let of = |key: &str| all.value(&format!("{key}{number}"));
        let host = of("backend_hostname").map_or("/tmp", |entry| &entry.value);
        let port = match of("backend_port") {
            Some(entry) => port(&entry.value).map_err(|why| entry.place.error(why))?,
            None => 5432,
        };
        if let Some(entry) = of("backend_hostname") {
            check_host(host).map_err(|why| entry.place.error(why))?;
        }
        if seen.contains(&(host.to_owned(), port)) {
            if let Some(entry) = of("backend_hostname") {
                let why = "This server is listed already.";
                draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, why);
            }
            continue;
        }
        seen.push((host.to_owned(), port));
        let mut keys = vec![format!("host = {}", quote(host)), format!("port = {port}")];
        if let Some(entry) = of("backend_application_name") {
            let is_name = entry.value.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
            if is_name && !names.contains(&entry.value) {
                keys.insert(0, format!("name = {}", quote(&entry.value)));
                names.push(entry.value.clone());
            } else {
                let why = "Names of nodes are unique, of letters, digits, _ and -.";
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
            }
        }
        if let Some(entry) = of("backend_weight") {
            let weight = thousandths(&entry.value).unwrap_or(1000);
            let least = u64::from(weight > 0);
            keys.push(format!("weight = {}", (weight / scale).clamp(least, 1_000_000)));
        }
        if let Some(entry) = of("backend_flag") {
            for word in entry.value.split('|').map(str::trim).filter(|word| !word.is_empty()) {
                match word.to_ascii_uppercase().as_str() {
                    "ALLOW_TO_FAILOVER" => {}
                    "DISALLOW_TO_FAILOVER" => keys.push("promote = false".to_owned()),
                    "ALWAYS_PRIMARY" | "ALWAYS_MASTER" => keys.push("role = \"primary\"".to_owned()),
                    _ => return Err(entry.wrong("ALLOW_TO_FAILOVER, DISALLOW_TO_FAILOVER or ALWAYS_PRIMARY")),
                }
            }
        }
        keys.dedup();
        literal_nodes.push(format!("{{ {} }}", keys.join(", ")));
    }
    let section = draft.more("postgres.cluster");
    section.set("name", quote("main"), "");
    if literal_nodes.is_empty() {
        section.remark("PLACEHOLDER: pgpool.conf has no backend_hostname0. Write your servers here.");
        section.set("nodes", list(&["127.0.0.1:5432"]), "");
        draft.note("there is no backend_hostname0: write your servers into nodes of [[postgres.cluster]]");
        return Ok(());
    }
    section.remark("Which node is the primary is found, not declared; weight is the share of reads.");
    section.set("nodes", literals(literal_nodes.into_iter()), "backend_hostname0 ...");
    Ok(())
}

fn tls(all: &Pgpool, draft: &mut Draft) -> Result<(), ImportError> {
    let is_on = all.flag("ssl")?;
    let files = [("ssl_cert", "tls.cert"), ("ssl_key", "tls.key"), ("ssl_ca_cert", "tls.ca")];
    let Some((true, entry)) = is_on else {
        for (theirs, _) in files {
            if let Some(entry) = all.value(theirs) {
                draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, "ssl is off.");
            }
        }
        if let Some((_, entry)) = is_on {
            draft.one("postgres").set("tls.mode", quote("disable"), entry.from());
        }
        return Ok(());
    };
    let from = entry.from();
    draft.one("postgres").set("tls.mode", quote("prefer"), &from);
    for (theirs, ours) in files {
        if let Some(entry) = all.value(theirs) {
            draft.one("postgres").set(ours, quote(&all.path(&entry.value)), entry.from());
        }
    }
    let authorities = all.value("ssl_ca_cert").map(|entry| (quote(&all.path(&entry.value)), entry.from()));
    for cluster in draft.all("postgres.cluster") {
        cluster.set("tls.mode", quote("prefer"), format!("{from}; \"verify-full\" is safer"));
        if let Some((path, from)) = &authorities {
            cluster.set("tls.ca", path.clone(), from);
        }
    }
    Ok(())
}

/// Lists of functions: names are taken over, patterns are not.
fn functions(all: &Pgpool, draft: &mut Draft) {
    let lists = [
        ("write_function_list", "write_functions"),
        ("black_function_list", "write_functions"),
        ("read_only_function_list", "read_functions"),
        ("white_function_list", "read_functions"),
    ];
    for (theirs, ours) in lists {
        let Some(entry) = all.value(theirs) else { continue };
        let is_name = |text: &&str| {
            text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.')) && text.split('.').count() <= 2
        };
        let names: Vec<_> = parts(&entry.value).filter(is_name).map(|name| quote(&name.to_lowercase())).collect();
        for pattern in parts(&entry.value).filter(|text| !is_name(text)) {
            let why = "Functions are listed by their names, not by patterns. Forebay knows from the catalog what they do: list only \
                       those of which it says otherwise.";
            draft.leave(LeftKind::NoEqual, &entry.place, theirs, pattern, why);
        }
        if draft.one("postgres.routing").has(ours) {
            let why = "It is the older name of a list that is written, too; put both into one.";
            draft.leave(LeftKind::NoEqual, &entry.place, theirs, &entry.value, why);
        } else if !names.is_empty() {
            draft.one("postgres.routing").set(ours, literals(names.into_iter()), entry.from());
        }
    }
}

/// Programs: suggested, never switched on, since Pgpool-II is still running.
fn programs(all: &Pgpool, draft: &mut Draft) {
    let programs = [
        (
            "failover_command",
            "event_command",
            "It promotes, which Forebay does itself with mode = \"promote\" (docs/failover.md: monitor_user then needs rights): switch \
             that on when Pgpool-II is stopped, never before, as two programs that promote make two primaries. What else the \
             command does can be done for the event failover_done.",
        ),
        ("failback_command", "event_command", "It can be done for events of the node ($FOREBAY_EVENT, $FOREBAY_NODE)."),
        (
            "follow_primary_command",
            "rejoin_command",
            "Replicas are led to a new primary by Forebay itself; a former primary by rejoin_command, for which scripts/rejoin is \
             made.",
        ),
        (
            "follow_master_command",
            "rejoin_command",
            "Replicas are led to a new primary by Forebay itself; a former primary by rejoin_command, for which scripts/rejoin is \
             made.",
        ),
    ];
    for (theirs, ours, why) in programs {
        let Some(entry) = all.value(theirs) else { continue };
        let (toml, unknown) = commands::translate(&entry.value);
        draft.leave(LeftKind::NoEqual, &entry.place, theirs, &entry.value, why);
        let section = draft.one("postgres.failover");
        if theirs == "failover_command" {
            section.suggest("mode = \"promote\"");
        }
        section.suggest(format!("{ours} = {toml}  # {}", entry.from()));
        if !unknown.is_empty() {
            let letters: Vec<_> = unknown.iter().map(|letter| format!("%{letter}")).collect();
            section.remark(format!("(there is nothing for {})", letters.join(", ")));
        }
        draft.note(format!("{}: {theirs} was not taken over; see [postgres.failover]", entry.place));
    }
}

/// The table, for tests.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static (&'static str, super::table::Meaning)> {
    keys::KEYS.iter()
}
