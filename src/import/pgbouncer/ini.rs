//! PgBouncer's files as text: `pgbouncer.ini` with its includes, connection strings, and the list of users.

use std::path::Path;

use crate::import::ImportError;
use crate::import::source::{Place, Source, Text};
use crate::import::table::Entry;

/// How deep files may include each other.
const DEEPEST: usize = 10;

/// Keys by section, in order, and the user lists among the files.
#[derive(Debug, Default)]
pub(super) struct Ini {
    pub main: Vec<Entry>,
    pub databases: Vec<Entry>,
    pub users: Vec<Entry>,
    pub peers: Vec<Entry>,
}

/// Whether a file is a list of users: its first line of any content begins with a quote.
pub(super) fn is_user_list(path: &Path, text: &Text) -> bool {
    let is_named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("userlist"));
    let first =
        text.lines().map(|(_, line)| line.trim()).find(|line| !line.is_empty() && !line.starts_with([';', '#']));
    is_named || first.is_some_and(|line| line.starts_with('"'))
}

/// Reads a file and those that it includes.
pub(super) fn read(text: &Text, source: &mut Source<'_>, ini: &mut Ini, depth: usize) -> Result<(), ImportError> {
    let mut section = String::new();
    for (place, line) in text.lines() {
        let line = line.trim();
        if let Some(include) = line.strip_prefix("%include") {
            if !include.starts_with(char::is_whitespace) {
                return Err(place.error("%include must be followed by the path of a file"));
            }
            if depth >= DEEPEST {
                return Err(place.error(format!("files include each other more than {DEEPEST} deep")));
            }
            let path = include.trim();
            // PgBouncer looks from where it was started; there is no telling where that was.
            let included = source
                .try_open(Path::new(path))
                .or_else(|_| source.try_open(&text.beside(path)))
                .map_err(|why| place.error(format!("{path}: {why}")))?;
            read(&included, source, ini, depth + 1)?;
        } else if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        } else if let Some(rest) = line.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']') else {
                return Err(place.error("a section must end with ]"));
            };
            section = name.trim().to_ascii_lowercase();
            if !["pgbouncer", "databases", "users", "peers"].contains(&section.as_str()) {
                let known = "[databases], [users], [peers] and [pgbouncer]";
                return Err(place.error(format!("PgBouncer has no section [{section}]; it has {known}")));
            }
        } else {
            let entry = entry(&place, line)?;
            match section.as_str() {
                "pgbouncer" => ini.main.push(Entry { key: entry.key.to_ascii_lowercase(), ..entry }),
                "databases" => ini.databases.push(entry),
                "users" => ini.users.push(entry),
                "peers" => ini.peers.push(entry),
                _ => return Err(place.error("a key must stand in a section, such as [pgbouncer]")),
            }
        }
    }
    Ok(())
}

/// `key = value`; the key may be quoted as an identifier of SQL.
fn entry(place: &Place, line: &str) -> Result<Entry, ImportError> {
    let expected = || place.error("this is neither a section nor KEY = VALUE");
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => {
            let (key, rest) = quoted_by('"', quoted).ok_or_else(|| place.error("a quoted name does not end"))?;
            (key, rest.trim_start().strip_prefix('=').ok_or_else(expected)?)
        }
        None => {
            let (key, rest) = line.split_once('=').ok_or_else(expected)?;
            (key.trim().to_owned(), rest)
        }
    };
    if key.is_empty() {
        return Err(expected());
    }
    Ok(Entry { place: place.clone(), key, value: rest.trim().to_owned() })
}

/// What stands up to the closing quote, of which two mean one, and what follows.
fn quoted_by(quote: char, text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        out.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                out.push(quote);
                rest = more;
            }
            None => return Some((out, after)),
        }
    }
}

/// `host=a port=5432 connect_query='select ''x'''`
pub(super) fn connection_string(of: &Entry) -> Result<Vec<Entry>, ImportError> {
    let mut found = Vec::new();
    let mut rest = of.value.trim_start();
    while !rest.is_empty() {
        let wrong = || of.place.error(format!("{}: this is no connection string of KEY=VALUE", of.key));
        let (key, after) = rest.split_once('=').ok_or_else(wrong)?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => {
                let ended = quoted_by('\'', quoted);
                ended.ok_or_else(|| of.place.error(format!("{}: the quoted value of {key} does not end", of.key)))?
            }
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (value, after) = after.split_at_checked(end).ok_or_else(wrong)?;
                (value.to_owned(), after)
            }
        };
        found.push(Entry { place: of.place.clone(), key: key.to_ascii_lowercase(), value });
        rest = after.trim_start();
    }
    Ok(found)
}

/// A user of `auth_file`.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub place: Place,
    pub name: String,
    pub password: String,
}

/// `"name" "password" ...`; what follows is ignored, as PgBouncer does.
pub(super) fn user_list(text: &Text) -> Result<Vec<Listed>, ImportError> {
    let mut users: Vec<Listed> = Vec::new();
    for (place, line) in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let form = || place.error("a user is written as \"NAME\" \"PASSWORD\", both in double quotes");
        let (name, rest) = line.strip_prefix('"').and_then(|rest| quoted_by('"', rest)).ok_or_else(form)?;
        let rest = rest.trim_start().strip_prefix('"').ok_or_else(form)?;
        let (password, _) = quoted_by('"', rest).ok_or_else(form)?;
        if name.is_empty() {
            return Err(place.error("a user must have a name"));
        }
        // The one that comes last holds.
        users.retain(|user| user.name != name);
        users.push(Listed { place, name, password });
    }
    Ok(users)
}
