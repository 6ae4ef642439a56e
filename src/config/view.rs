//! The configuration as text: `show`, the rows of `SHOW CONFIG`, what a reload changes, and `SET`.
//!
//! All run over one flat list of lines, made from the tables of keys.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::DeValue;
use zeroize::{Zeroize, Zeroizing};

use super::keys::{Section, Shape};
use super::model::*;
use super::reader::Reader;
use super::setting::{Secrets, quote};
use super::suggest::{self, ALIASES, Alias, Tool, Unit};
use super::{by_system, read, units};

/// What a reload changes in one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `postgres.pool.size`, `postgres.database.app.size`, or an entry that came or went: `postgres.database.app`.
    pub key: String,
    /// As in `SHOW CONFIG`; `unset`, `inherited` or, of an entry, `absent` where there is no value.
    pub from: String,
    /// As `from`; of an entry, `present` or `absent`.
    pub to: String,
    /// The change is kept for the next start.
    pub needs_restart: bool,
}

/// A row of `SHOW CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// Dotted, entries by their names: `postgres.database.app.size`.
    pub key: String,
    /// Without quotes; empty when unset; secrets as `***`.
    pub value: String,
    /// The default, in the same form.
    pub default: String,
    /// A reload can change it.
    pub changeable: bool,
}

/// The effective configuration as TOML with every default written out; secrets are `***`.
pub fn show(config: &Config) -> String {
    std::mem::take(&mut *render(&tables(config, Secrets::Masked)))
}

/// What changes from `old` to `new`, in the order of the reference. A changed secret shows as `***` to `***`.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let shown = tables(old, Secrets::Masked);
    let olds = tables(old, Secrets::Compared);
    let news = tables(new, Secrets::Compared);
    let new_shown = tables(new, Secrets::Masked);
    let new_by_entry: BTreeMap<&str, usize> =
        news.iter().enumerate().map(|(i, table)| (table.entry.as_str(), i)).collect();
    let mut changes = Vec::new();
    for (old, old_shown) in olds.iter().zip(&shown) {
        let Some(&i) = new_by_entry.get(old.entry.as_str()) else {
            changes.push(old.came_or_went("present", "absent"));
            continue;
        };
        let lines = old.lines.iter().zip(&news[i].lines).zip(old_shown.lines.iter().zip(&new_shown[i].lines));
        for ((before, after), (before_shown, after_shown)) in lines {
            if before.literal != after.literal {
                changes.push(Change {
                    key: format!("{}.{}", old.entry, before.key),
                    from: before_shown.value_or_absence(),
                    to: after_shown.value_or_absence(),
                    needs_restart: before.needs_restart,
                });
            }
        }
    }
    let old_entries: Vec<&str> = olds.iter().map(|table| table.entry.as_str()).collect();
    let added = news.iter().filter(|table| !old_entries.contains(&table.entry.as_str()));
    changes.extend(added.map(|table| table.came_or_went("absent", "present")));
    if old.postgres.hba != new.postgres.hba {
        let text = |config: &Config| match &config.postgres.hba {
            Some(hba) => format!("{} rules, {} maps' lines", hba.rules.len(), hba.mappings.len()),
            None => "none".to_owned(),
        };
        // The files may be called as before.
        let key = "the rules of postgres.hba_file".to_owned();
        changes.push(Change { key, from: text(old), to: text(new), needs_restart: false });
    }
    changes
}

/// The rows of `SHOW CONFIG`: every key of the single sections, what is written in each entry, and then the names
/// that PgBouncer's clients look for.
pub fn rows(config: &Config) -> Vec<ConfigRow> {
    let tables = tables(config, Secrets::Masked);
    let mut rows = Vec::new();
    for table in &tables {
        for line in table.lines.iter().filter(|line| line.literal.is_some() || !line.is_inherited) {
            rows.push(ConfigRow {
                key: format!("{}.{}", table.entry, line.key),
                value: line.literal.as_deref().map(plain).unwrap_or_default(),
                default: line.default.map(plain).unwrap_or_default(),
                changeable: !line.needs_restart,
            });
        }
    }
    let aliases: Vec<_> = ALIASES.iter().filter_map(|alias| alias_row(alias, &rows)).collect();
    rows.extend(aliases);
    rows
}

/// Changes one key as the console's `SET key = value` does: `key` is dotted or a name of PgBouncer, `value` is TOML
/// or a bare text. The result has passed the same checks as a file.
///
/// # Errors
/// What is wrong with the key or the value, for the client to read.
pub fn set(config: &Config, key: &str, value: &str) -> Result<Config, String> {
    let mut tables = tables(config, Secrets::Plain);
    let find = |key: &str| {
        let name = |table: &Table, line: &Line| format!("{}.{}", table.entry, line.key) == key;
        let at = tables
            .iter()
            .enumerate()
            .find_map(|(t, table)| table.lines.iter().position(|line| name(table, line)).map(|l| (t, l)));
        at.map(|(t, l)| (t, l, tables[t].lines[l].clone()))
    };
    let alias = suggest::alias_named(key);
    let found = find(key).or_else(|| find(alias?.path));
    let Some((t, l, line)) = found else {
        return Err(no_such_key(key, alias));
    };
    let path = format!("{}.{}", tables[t].entry, line.key);
    if line.needs_restart {
        return Err(format!("{path} cannot be changed while running; change it in the file and restart"));
    }
    if line.file_only {
        return Err(format!("{path} cannot be changed from the console; change it in the file and reload"));
    }
    let in_seconds =
        alias.filter(|alias| alias.unit == Unit::Seconds && alias.name != path).and_then(|_| seconds(value));
    let mut first_error = None;
    for literal in candidates(in_seconds.as_deref().unwrap_or(value)) {
        tables[t].lines[l].literal = Some(literal);
        let mut reader = Reader::new(Path::new(""), by_system);
        reader.keep_rules(config.postgres.hba.clone());
        match read(&render(&tables), "SET", reader, None) {
            Ok(mut loaded) => {
                // Made ready of files that are named as before.
                loaded.config.postgres.ldap_tls = config.postgres.ldap_tls.clone();
                for cluster in &mut loaded.config.postgres.clusters {
                    let old = config.postgres.clusters.iter().find(|old| old.name == cluster.name);
                    cluster.tls = old.map(|old| old.tls.clone()).unwrap_or_default();
                }
                for service in &mut loaded.config.redis {
                    if let Some(old) = config.redis.iter().find(|old| old.name == service.name) {
                        service.to_nodes = old.to_nodes.clone();
                        service.to_sentinels = old.to_sentinels.clone();
                        service.to_clients = old.to_clients.clone();
                    }
                }
                return Ok(loaded.config);
            }
            Err(found) => {
                let messages: Vec<_> = found.errors.into_iter().map(|error| error.message).collect();
                first_error.get_or_insert(messages.join("; "));
            }
        }
    }
    Err(first_error.unwrap_or_else(|| format!("{path} needs a value")))
}

fn no_such_key(key: &str, alias: Option<&Alias>) -> String {
    match alias {
        Some(alias) => {
            format!("{} is \"{}\" here, which SET cannot change; change it in the file", alias.name, alias.path)
        }
        None => match suggest::key_path("", key) {
            Some(path) => format!("unknown key {}; did you mean \"{path}\"?", quote(key)),
            None => format!("unknown key {}; SHOW CONFIG lists the keys", quote(key)),
        },
    }
}

/// The value as TOML if it is that, and as a string.
fn candidates(value: &str) -> Vec<String> {
    let value = value.trim();
    let is_toml = DeValue::parse(value).is_ok();
    let toml = is_toml.then(|| value.to_owned());
    // A quoted string in quotes again would only hide what is wrong with it.
    let text = (!is_toml || !value.starts_with(['"', '\'', '[', '{'])).then(|| quote(value));
    toml.into_iter().chain(text).collect()
}

/// Another tool's number of seconds, which may have a fraction, as a duration.
fn seconds(value: &str) -> Option<String> {
    let seconds: f64 = value.trim().parse().ok()?;
    let is_time = seconds.is_finite() && (0.0..1e9).contains(&seconds);
    is_time.then(|| units::duration_text(std::time::Duration::from_secs_f64(seconds)))
}

/// The row under a PgBouncer name, if it has one value here.
fn alias_row(alias: &Alias, rows: &[ConfigRow]) -> Option<ConfigRow> {
    // Names that PgBouncer has inside of a database's entry only.
    let is_setting = !matches!(alias.name, "pool_size" | "reserve_pool");
    let has_one_value = alias.path == "postgres.max_clients" || alias.path.starts_with("postgres.pool.");
    if alias.tool != Tool::PgBouncer || !is_setting || !has_one_value {
        return None;
    }
    let row = rows.iter().find(|row| row.key == alias.path)?;
    let translate = |value: &str| match alias.unit {
        Unit::Same => value.to_owned(),
        Unit::Seconds => units::duration(value).map_or_else(|| "0".to_owned(), |time| time.as_secs_f64().to_string()),
    };
    Some(ConfigRow {
        key: alias.name.to_owned(),
        value: translate(&row.value),
        default: translate(&row.default),
        changeable: row.changeable,
    })
}

/// One section or entry.
struct Table {
    /// `[postgres.pool]`
    header: String,
    /// `postgres.pool`, `postgres.database.app`
    entry: String,
    lines: Vec<Line>,
}

/// One key.
#[derive(Clone)]
struct Line {
    key: &'static str,
    literal: Option<String>,
    default: Option<&'static str>,
    needs_restart: bool,
    file_only: bool,
    is_inherited: bool,
}

impl Table {
    fn came_or_went(&self, from: &str, to: &str) -> Change {
        Change {
            key: self.entry.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            needs_restart: self.lines.iter().any(|line| line.needs_restart),
        }
    }
}

/// `SET` writes secrets out, to read them again.
impl Drop for Line {
    fn drop(&mut self) {
        self.literal.zeroize();
    }
}

impl Line {
    fn value_or_absence(&self) -> String {
        match &self.literal {
            Some(literal) => plain(literal),
            None if self.is_inherited => "inherited".to_owned(),
            None => "unset".to_owned(),
        }
    }
}

fn tables(config: &Config, secrets: Secrets) -> Vec<Table> {
    let Config { general, admin, postgres, redis, security, notify, telemetry, coordination, secret_variables: _ } =
        config;
    let mut tables = vec![table(general, "", secrets), table(admin, "", secrets)];
    tables.extend(admin.users.iter().map(|user| table(user, &user.name, secrets)));
    tables.push(table(postgres, "", secrets));
    tables.push(table(&postgres.pool, "", secrets));
    tables.push(table(&postgres.routing, "", secrets));
    tables.push(table(&postgres.failover, "", secrets));
    tables.extend(postgres.clusters.iter().map(|cluster| table(cluster, &cluster.name, secrets)));
    tables.extend(postgres.databases.iter().map(|database| table(database, &database.name, secrets)));
    tables.extend(postgres.users.iter().map(|user| table(user, &user.name, secrets)));
    tables.extend(redis.iter().map(|service| table(service, &service.name, secrets)));
    tables.push(table(security, "", secrets));
    tables.extend(coordination.iter().map(|coordination| table(coordination, "", secrets)));
    tables.push(table(notify, "", secrets));
    tables.push(table(telemetry, "", secrets));
    tables
}

fn table<T: Section>(section: &T, name: &str, secrets: Secrets) -> Table {
    let path = T::PATH;
    let is_bare = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '*'));
    let (header, entry) = match T::SHAPE {
        Shape::Many if is_bare => (format!("[[{path}]]"), format!("{path}.{name}")),
        Shape::Many => (format!("[[{path}]]"), format!("{path}.{}", quote(name))),
        Shape::One | Shape::Inline => (format!("[{path}]"), path.to_owned()),
    };
    let lines = T::keys().into_iter().map(|key| Line {
        key: key.name,
        literal: (key.literal)(section, key.rules, secrets),
        default: key.default,
        needs_restart: key.needs_restart,
        file_only: key.file_only,
        is_inherited: key.inherited.is_some(),
    });
    Table { header, entry, lines: lines.collect() }
}

fn render(tables: &[Table]) -> Zeroizing<String> {
    let line = |line: &Line| line.key.len() + line.literal.as_ref().map_or(0, String::len) + " = \n".len();
    let table = |table: &Table| table.header.len() + 2 + table.lines.iter().map(line).sum::<usize>();
    // A string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(tables.iter().map(table).sum()));
    for table in tables {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table.header);
        text.push('\n');
        for line in &table.lines {
            if let Some(literal) = &line.literal {
                for part in [line.key, " = ", literal, "\n"] {
                    text.push_str(part);
                }
            }
        }
    }
    text
}

/// A literal as people read it: strings without quotes, everything else as it is.
fn plain(literal: &str) -> String {
    match DeValue::parse(literal) {
        Ok(value) => value.get_ref().as_str().map_or_else(|| literal.to_owned(), str::to_owned),
        Err(_) => literal.to_owned(),
    }
}
