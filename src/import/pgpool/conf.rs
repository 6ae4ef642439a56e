//! Pgpool-II's files as text: `pgpool.conf` with its includes, `pool_passwd`, `pcp.conf`; and which is which.

use std::path::Path;

use crate::import::ImportError;
use crate::import::source::{Place, Source, Text};
use crate::import::table::Entry;

/// How deep files may include each other.
const DEEPEST: usize = 10;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Conf,
    Passwords,
    Rules,
    Pcp,
}

/// Tells files by their names, and by their first line if the name says nothing.
pub(super) fn file(path: &Path, text: &Text) -> File {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    for (part, file) in [
        ("pool_passwd", File::Passwords),
        ("pool_hba", File::Rules),
        ("pg_hba", File::Rules),
        ("pcp.conf", File::Pcp),
        ("pgpool", File::Conf),
    ] {
        if name.contains(part) {
            return file;
        }
    }
    let lines = text.lines().map(|(_, line)| line.trim());
    let first = lines.into_iter().find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    let word = first.split_whitespace().next().unwrap_or_default();
    if ["local", "host", "hostssl", "hostnossl"].contains(&word) {
        return File::Rules;
    }
    match first.split_once(':') {
        Some((name, secret)) if !name.contains(['=', ' ']) => {
            let is_hash = secret.len() == 32 && secret.bytes().all(|b| b.is_ascii_hexdigit());
            if is_hash { File::Pcp } else { File::Passwords }
        }
        _ => File::Conf,
    }
}

/// Reads `key = value` lines and the files that they include; the last of a name holds.
pub(super) fn read(
    text: &Text,
    source: &mut Source<'_>,
    entries: &mut Vec<Entry>,
    depth: usize,
) -> Result<(), ImportError> {
    for (place, line) in text.lines() {
        let Some(entry) = entry(&place, line)? else { continue };
        if entry.key == "include" {
            if depth >= DEEPEST {
                return Err(place.error(format!("files include each other more than {DEEPEST} deep")));
            }
            let included = source
                .try_open(&text.beside(&entry.value))
                .map_err(|why| place.error(format!("{}: {why}", entry.value)))?;
            read(&included, source, entries, depth + 1)?;
            continue;
        }
        entries.push(entry);
    }
    Ok(())
}

/// A key with its value; `None` for an empty line or a comment.
fn entry(place: &Place, line: &str) -> Result<Option<Entry>, ImportError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(line.len());
    let (key, rest) = line.split_at_checked(end).unwrap_or((line, ""));
    if key.is_empty() {
        return Err(place.error("this is not KEY = VALUE"));
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let (value, after) = match rest.strip_prefix('\'') {
        Some(quoted) => {
            self::quoted(quoted).ok_or_else(|| place.error(format!("the quoted value of {key} does not end")))?
        }
        None => {
            let end = rest.find(|c: char| c == '#' || c.is_whitespace()).unwrap_or(rest.len());
            let (value, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            (value.to_owned(), after)
        }
    };
    let after = after.trim_start();
    if !after.is_empty() && !after.starts_with('#') {
        return Err(place.error(format!("{key} has more than one value; put it in quotes")));
    }
    if rest.is_empty() || rest.starts_with('#') {
        return Err(place.error(format!("{key} has no value")));
    }
    Ok(Some(Entry { place: place.clone(), key: key.to_owned(), value }))
}

/// Up to the closing quote; `''` and `\'` are one, `\` escapes as in C.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                let rest = text.get(at + 1..)?;
                if !rest.starts_with('\'') {
                    return Some((out, rest));
                }
                chars.next();
                out.push('\'');
            }
            '\\' => out.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            c => out.push(c),
        }
    }
    None
}

/// A line of `pool_passwd` or `pcp.conf`: a name, a colon, a secret.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub place: Place,
    pub name: String,
    pub secret: String,
}

pub(super) fn logins(text: &Text) -> Result<Vec<Login>, ImportError> {
    let mut logins: Vec<Login> = Vec::new();
    for (place, line) in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, secret)) = line.split_once(':').filter(|(name, _)| !name.is_empty()) else {
            return Err(place.error("a login is written as NAME:PASSWORD"));
        };
        logins.retain(|login| login.name != name);
        logins.push(Login { place, name: name.to_owned(), secret: secret.to_owned() });
    }
    Ok(logins)
}
