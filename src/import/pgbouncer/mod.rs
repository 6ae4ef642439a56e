//! PgBouncer: `pgbouncer.ini`, the list of users, and the rules of `auth_hba_file`.

mod databases;
mod ini;
mod keys;
mod logins;

use std::path::PathBuf;

use super::draft::{Draft, LeftKind, list};
use super::source::{Source, Text, parts, port};
use super::table::{Entry, Meaning, Unit, Zero, apply, milliseconds, set};
use super::{ImportError, source};
use crate::config::quote;
use ini::{Ini, Listed};

/// Where it listens and looks for servers unless told otherwise.
const SOCKET_FOLDER: &str = "/tmp";

/// What was read, before it is said in Forebay's words.
struct PgBouncer {
    ini: Ini,
    users: Vec<Listed>,
    /// The file that `pgbouncer.ini` is: what others are looked for beside.
    beside: Option<Text>,
}

impl PgBouncer {
    /// The entry of `[pgbouncer]` that holds: the last one.
    fn main(&self, key: &str) -> Option<&Entry> {
        self.ini.main.iter().rev().find(|entry| entry.key == key)
    }

    /// A path that stands in the file, as a path from anywhere.
    fn path(&self, path: &str) -> String {
        match &self.beside {
            Some(text) => {
                std::path::absolute(text.beside(path)).map_or(path.to_owned(), |path| path.display().to_string())
            }
            None => path.to_owned(),
        }
    }

    fn socket_folder(&self) -> &str {
        self.main("unix_socket_dir").map_or(SOCKET_FOLDER, |entry| &entry.value)
    }
}

/// Reads the files and tells the draft.
pub(super) fn read(files: &[PathBuf], source: &mut Source<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let mut all = PgBouncer { ini: Ini::default(), users: Vec::new(), beside: None };
    let mut are_users_given = false;
    for path in files {
        let text = source.open(path)?;
        if ini::is_user_list(path, &text) {
            all.users.extend(ini::user_list(&text)?);
            are_users_given = true;
        } else {
            ini::read(&text, source, &mut all.ini, 0)?;
            all.beside.get_or_insert(text);
        }
    }
    if let Some(entry) = all.main("auth_file").cloned()
        && !are_users_given
    {
        let path = all.path(&entry.value);
        match source.try_open(path.as_ref()) {
            Ok(text) => all.users = ini::user_list(&text)?,
            Err(why) => {
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, format!("{path}: {why}."));
                draft.note(format!(
                    "no users were read: {path}: {why}; name the file beside pgbouncer.ini, or add [[postgres.user]]"
                ));
            }
        }
    }
    general(&all, draft)?;
    listen(&all, draft)?;
    client_tls(&all, draft)?;
    databases::write(&all, draft)?;
    logins::write(&all, draft)?;
    fit(draft);
    Ok(())
}

/// The keys that the table knows what to do with.
fn general(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    for (i, entry) in all.ini.main.iter().enumerate() {
        let is_last = !all.ini.main.iter().skip(i + 1).any(|later| later.key == entry.key);
        if !is_last {
            draft.leave(
                LeftKind::Moot,
                &entry.place,
                &entry.key,
                &entry.value,
                "It is written again further down, which holds.",
            );
            continue;
        }
        match keys::meaning(keys::MAIN, &entry.key) {
            Some(meaning) => apply(meaning, entry, draft)?,
            None => {
                let why = "PgBouncer's documentation does not know this key.";
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
            }
        }
    }
    for peer in &all.ini.peers {
        let why = "Forebay is one process with a thread for each core: it has no peers, and a cancel request always reaches it.";
        draft.leave(LeftKind::Moot, &peer.place, &peer.key, &peer.value, why);
    }
    if let Some(verbose) = all.main("verbose") {
        let level = match verbose.value.parse::<u32>().map_err(|_| verbose.wrong("a number"))? {
            0 => "info",
            1 => "debug",
            _ => "trace",
        };
        draft.one("general").set("log.level", quote(level), verbose.from());
    }
    let pool = draft.one("postgres.pool");
    if !pool.has("mode") {
        pool.set("mode", quote("session"), "PgBouncer's default; \"transaction\" needs far fewer connections");
    }
    if !pool.has("queue_timeout") {
        pool.set("queue_timeout", quote("2m"), "PgBouncer's default");
    }
    if let Some(after) = all.main("reserve_pool_timeout") {
        match milliseconds(&after.value, 1000) {
            None => return Err(after.wrong("a time in seconds")),
            Some(0) => {
                pool.set("reserve_size", "0".to_owned(), after.from());
            }
            Some(_) => {
                let never = Zero::Nothing("");
                set(pool, "reserve_after", Unit::Time(1000, never), after)?;
            }
        }
    }
    Ok(())
}

fn listen(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    let (number, port_from) = match all.main("listen_port") {
        Some(entry) => (port(&entry.value).map_err(|why| entry.place.error(why))?, entry.from()),
        None => (6432, "PgBouncer's default port".to_owned()),
    };
    let mut addresses = Vec::new();
    let mut from = Vec::new();
    if let Some(entry) = all.main("listen_addr") {
        for address in parts(&entry.value) {
            match address {
                "*" => {
                    addresses.push(format!("*:{number}"));
                    let why = format!(
                        "Forebay's * is every IPv4 address; add \"[::]:{number}\" to postgres.listen for IPv6."
                    );
                    draft.leave(LeftKind::NoEqual, &entry.place, "listen_addr", "*", why);
                }
                address => addresses.push(source::endpoint(address, number)),
            }
        }
        from.push(entry.from());
    }
    from.push(port_from);
    let folder = all.socket_folder();
    match all.main("unix_socket_dir") {
        Some(entry) if folder.starts_with('@') => {
            let why = "Forebay has no sockets in the abstract namespace; use a folder.";
            draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
        }
        Some(_) if folder.is_empty() => {}
        entry => {
            addresses.push(format!("{}/.s.PGSQL.{number}", folder.trim_end_matches('/')));
            from.push(entry.map_or("PgBouncer's default unix_socket_dir".to_owned(), Entry::from));
        }
    }
    if addresses.is_empty() {
        let place = all.main("unix_socket_dir").map_or_else(|| "PgBouncer's defaults".to_owned(), Entry::from);
        draft.note(format!("there is no address to listen at ({place}); 127.0.0.1 was put in its place"));
        addresses.push(format!("127.0.0.1:{number}"));
    }
    addresses.dedup();
    draft.one("postgres").set("listen", list(&addresses), from.join(", "));
    Ok(())
}

fn client_tls(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    let files =
        [("client_tls_cert_file", "tls.cert"), ("client_tls_key_file", "tls.key"), ("client_tls_ca_file", "tls.ca")];
    if let Some(entry) = all.main("client_tls_sslmode") {
        set(draft.one("postgres"), "tls.mode", Unit::Word(keys::TLS_MODES), entry)?;
    }
    for (theirs, ours) in files {
        if let Some(entry) = all.main(theirs).filter(|entry| !entry.value.is_empty()) {
            draft.one("postgres").set(ours, quote(&all.path(&entry.value)), entry.from());
        }
    }
    if let Some(entry) = all.main("client_tls_protocols") {
        let words: Vec<_> = entry.value.split([',', ' ', ':']).map(str::trim).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["secure" | "default"] | ["tlsv1.2", "tlsv1.3"] => {
                draft.one("postgres").set("tls.min_version", quote("1.2"), entry.from());
            }
            ["tlsv1.3"] => draft.one("postgres").set("tls.min_version", quote("1.3"), entry.from()),
            _ => {
                let why = "Forebay speaks TLS 1.2 and 1.3 only: tls.min_version is \"1.2\" or \"1.3\".";
                draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
            }
        }
    }
    Ok(())
}

/// PgBouncer takes a `min_pool_size` above the pool's size for the size; Forebay refuses it.
fn fit(draft: &mut Draft) {
    let number = |section: &super::draft::Section, key: &str| section.value(key).and_then(|v| v.parse::<u64>().ok());
    let pool = draft.one("postgres.pool");
    let (size, mut least) = (number(pool, "size").unwrap_or(20), number(pool, "min_size").unwrap_or(0));
    if least > size {
        least = size;
        pool.set("min_size", size.to_string(), "min_pool_size, which PgBouncer takes for the size if it is more");
    }
    let mut most = least;
    for database in draft.all("postgres.database") {
        let size = number(database, "size").unwrap_or(size);
        let own = number(database, "min_size").unwrap_or(least);
        if own > size {
            database.set(
                "min_size",
                size.to_string(),
                "min_pool_size, which PgBouncer takes for the size if it is more",
            );
        }
        most = most.max(own.min(size));
    }
    for user in draft.all("postgres.user") {
        if let Some(size) = number(user, "size").filter(|size| *size < most) {
            user.set("min_size", size.to_string(), "min_pool_size, which PgBouncer takes for the size if it is more");
        }
    }
}

/// What a table says of a key of one entry.
fn of_entry(
    table: &'static [(&'static str, Meaning)],
    entry: &Entry,
    section: &mut super::draft::Section,
) -> Result<Option<(LeftKind, &'static str)>, ImportError> {
    Ok(match keys::meaning(table, &entry.key) {
        // Of a database or a user: as if it were not written.
        Some(Meaning::Key(..)) if entry.value == "-1" => Some((LeftKind::Moot, "-1 means that it is not set here.")),
        Some(Meaning::Key(_, name, unit)) => set(section, name, *unit, entry)?.map(|why| (LeftKind::NoEqual, why)),
        Some(Meaning::Special) => None,
        Some(Meaning::Moot(why)) => Some((LeftKind::Moot, why)),
        Some(Meaning::Nothing(why)) => Some((LeftKind::NoEqual, why)),
        None => Some((LeftKind::NoEqual, "PgBouncer's documentation does not know this key.")),
    })
}

/// The tables, for tests.
#[cfg(test)]
pub(super) fn keys_of_main() -> impl Iterator<Item = &'static (&'static str, Meaning)> {
    keys::MAIN.iter()
}

/// The same of `[databases]`.
#[cfg(test)]
pub(super) fn keys_of_databases() -> impl Iterator<Item = &'static (&'static str, Meaning)> {
    keys::DATABASE.iter()
}
