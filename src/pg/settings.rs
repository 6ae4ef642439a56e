//! Session settings that travel with a client from one server connection to the next.
//!
//! A client and a connection each hold a shared, immutable list; most of the time it is the very same one and the
//! comparison is one pointer. Otherwise [`Settings::difference`] is the SQL that makes the connection right.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};

/// How a setting is made on another connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Value {
    /// By `set_config`, as a startup parameter means it.
    Text(String),
    /// By running the client's own statement again: list values and special forms keep their exact meaning.
    Statement(String),
}

/// Settings by name, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    list: Vec<(String, Value)>,
    digest: u64,
}

impl Settings {
    /// From startup parameters; the last of equal names counts.
    pub fn from_startup(params: impl IntoIterator<Item = (String, String)>) -> Arc<Self> {
        Self::of(params.into_iter().map(|(name, value)| (name, Value::Text(value))))
    }

    /// Of these; the last of equal names counts.
    pub fn of(values: impl IntoIterator<Item = (String, Value)>) -> Arc<Self> {
        let mut settings = Settings::default();
        for (name, value) in values {
            settings.insert(name, value);
        }
        Arc::new(settings)
    }

    fn insert(&mut self, name: String, value: Value) {
        match self.list.binary_search_by(|(n, _)| n.as_str().cmp(&name)) {
            Ok(at) => {
                if let Some(entry) = self.list.get_mut(at) {
                    entry.1 = value;
                }
            }
            Err(at) => self.list.insert(at, (name, value)),
        }
        self.redigest();
    }

    fn redigest(&mut self) {
        if self.list.is_empty() {
            self.digest = 0;
            return;
        }
        let mut hasher = FxHasher::default();
        self.list.hash(&mut hasher);
        self.digest = hasher.finish();
    }

    /// The same with one setting more or changed.
    pub fn with(&self, name: &str, value: Value) -> Arc<Self> {
        let mut next = self.clone();
        next.insert(name.to_owned(), value);
        Arc::new(next)
    }

    /// The same with `name` as it is in `start`, the session's own defaults.
    pub fn reset(&self, name: &str, start: &Settings) -> Arc<Self> {
        let mut next = self.clone();
        next.list.retain(|(n, _)| n != name);
        match start.value(name) {
            Some(value) => next.insert(name.to_owned(), value.clone()),
            None => next.redigest(),
        }
        Arc::new(next)
    }

    /// The same without `name`.
    pub fn without(&self, name: &str) -> Arc<Self> {
        let mut next = self.clone();
        next.list.retain(|(n, _)| n != name);
        next.redigest();
        Arc::new(next)
    }

    /// The same with the role and the session authorization of `other`, which `RESET ALL` leaves alone.
    pub fn with_rights_of(&self, other: &Settings) -> Arc<Self> {
        let rights = ["role", "session_authorization"];
        rights.iter().fold(Arc::new(self.clone()), |all, name| match other.value(name) {
            Some(value) => all.with(name, value.clone()),
            None => all.without(name),
        })
    }

    /// True when nothing is set.
    pub fn is_plain(&self) -> bool {
        self.list.is_empty()
    }

    /// The value of one setting.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.list.iter().map(|(n, v)| (n.as_str(), v))
    }

    /// A number that differs when the settings do (64 bits; equality of the lists decides where it matters).
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// A number for what the same text may mean something else under: where names are looked up, and by whom; 0 where
    /// all of that is as the login has it.
    pub fn scope(&self) -> u64 {
        const SCOPE: [&str; 3] = ["role", "search_path", "session_authorization"];
        let mut values = SCOPE.iter().filter_map(|name| Some((name, self.value(name)?))).peekable();
        if values.peek().is_none() {
            return 0;
        }
        let mut hasher = FxHasher::default();
        values.for_each(|value| value.hash(&mut hasher));
        hasher.finish()
    }

    /// True when a connection with `theirs` needs nothing to serve a client with `self`.
    #[inline]
    pub fn is_same(self: &Arc<Self>, theirs: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, theirs) || self.is_equal(theirs)
    }

    #[cold]
    fn is_equal(&self, theirs: &Self) -> bool {
        self.digest == theirs.digest && self.list == theirs.list
    }

    /// SQL that turns a connection with settings `have` into one with `self`. Empty when nothing differs.
    pub fn difference(&self, have: &Settings) -> String {
        let mut sql = String::new();
        for (name, _) in have.list.iter().filter(|(n, _)| self.value(n).is_none()) {
            match name.as_str() {
                "session_authorization" => sql.push_str("RESET SESSION AUTHORIZATION;"),
                "role" => sql.push_str("RESET ROLE;"),
                "session characteristics" => sql.push_str(
                    "RESET default_transaction_isolation;RESET default_transaction_read_only;\
                     RESET default_transaction_deferrable;",
                ),
                name => {
                    let _ = write!(sql, "RESET {};", quote_name(name));
                }
            }
        }
        // Rights first: a setting may need the role that the client had when it made it.
        let first = |name: &str| name != "session_authorization" && name != "role";
        let mut changed: Vec<_> = self.list.iter().filter(|(n, v)| have.value(n) != Some(v)).collect();
        changed.sort_by_key(|(n, _)| first(n));
        for (name, value) in changed {
            match value {
                Value::Text(text) => {
                    let _ = write!(sql, "SELECT pg_catalog.set_config({}, {}, false);", quote(name), quote(text));
                }
                Value::Statement(text) => {
                    let _ = write!(sql, "{};", text.trim_end_matches([';', ' ', '\n', '\r', '\t']));
                }
            }
        }
        sql
    }
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub fn quote(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// An identifier as SQL, in quotes whatever it is.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A setting's name, which may have a dot; each part is quoted unless it is a plain identifier.
fn quote_name(name: &str) -> String {
    let part = |p: &str| {
        let plain = p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if plain && !p.is_empty() { p.to_owned() } else { quote_identifier(p) }
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Arc<Settings> {
        Settings::from_startup(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn equal_settings_need_no_sql() {
        let a = settings(&[("timezone", "UTC"), ("datestyle", "ISO")]);
        let b = settings(&[("datestyle", "ISO"), ("timezone", "UTC")]);
        assert!(a.is_same(&b));
        assert_eq!(a.difference(&b), "");
    }

    #[test]
    fn a_difference_resets_what_is_gone_and_sets_what_is_new() {
        let have = settings(&[("search_path", "a"), ("app.tenant", "1")]);
        let want = settings(&[("search_path", "b, c"), ("application_name", "o'brien\\")]);
        assert_eq!(
            want.difference(&have),
            "RESET app.tenant;\
             SELECT pg_catalog.set_config('application_name',  E'o''brien\\\\', false);\
             SELECT pg_catalog.set_config('search_path', 'b, c', false);"
        );
    }

    #[test]
    fn a_reset_goes_back_to_what_the_session_started_with() {
        let start = settings(&[("timezone", "UTC")]);
        let changed = start.with("timezone", Value::Statement("SET TIME ZONE 'CET'".into()));
        assert_eq!(changed.difference(&start), "SET TIME ZONE 'CET';");
        assert!(changed.reset("timezone", &start).is_same(&start));
        assert!(start.with("x.y", Value::Text("1".into())).reset("x.y", &start).is_same(&start));
    }

    #[test]
    fn the_role_is_set_before_what_may_need_it() {
        let none = settings(&[]);
        let want =
            none.with("a_setting", Value::Text("1".into())).with("role", Value::Statement("SET ROLE boss".into()));
        assert!(want.difference(&none).starts_with("SET ROLE boss;"));
    }
}
