//! libpq's file of passwords: `~/.pgpass`, or what `PGPASSFILE` names.

use std::path::PathBuf;

use zeroize::Zeroizing;

/// The password for a login, if the file has one and nobody else can read it.
pub(super) fn find(host: &str, port: u16, database: &str, user: &str, notes: &mut Vec<String>) -> Option<String> {
    let path = match std::env::var_os("PGPASSFILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".pgpass"),
    };
    let text = Zeroizing::new(std::fs::read_to_string(&path).ok()?);
    let found = lookup(&text, host, port, database, user)?;
    if is_exposed(&path) {
        notes.push(format!("{} is not read, since others can read it; run chmod 600 {0}", path.display()));
        return None;
    }
    Some(found)
}

/// libpq ignores such a file, too.
fn is_exposed(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(true, |found| found.mode() & 0o077 != 0)
}

/// The first line that fits.
fn lookup(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    // A socket in the usual folder counts as localhost.
    let host = if host.starts_with('/') { "localhost" } else { host };
    let wanted = [host, &port, database, user];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = fields(line).into_iter();
        let fits = wanted.iter().all(|wanted| fields.next().is_some_and(|field| field == "*" || field == *wanted));
        if fits && let Some(password) = fields.next() {
            return Some(password).filter(|password| !password.is_empty());
        }
    }
    None
}

/// Fields between colons; a backslash takes the meaning from what follows.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            c => c,
        };
        if let Some(field) = fields.last_mut() {
            field.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# comment\ndb1:5432:*:app:one\n*:*:*:app:t\\:wo\\\\\nlocalhost:*:*:me:three\n";
        assert_eq!(lookup(text, "db1", 5432, "x", "app").as_deref(), Some("one"));
        assert_eq!(lookup(text, "db2", 5432, "x", "app").as_deref(), Some("t:wo\\"));
        assert_eq!(lookup(text, "/run/postgresql", 1, "x", "me").as_deref(), Some("three"));
        assert_eq!(lookup(text, "db2", 5432, "x", "other"), None);
    }
}
