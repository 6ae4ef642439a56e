//! Keys of the reference whose capability this version does not have yet.
//!
//! They are read under their names so that a file says the same thing to every version. What could not be left out
//! without harm (an instance believing that others agree with it) is refused; the rest is accepted. Whoever builds the
//! capability deletes its lines here.

use super::reader::Reader;
use super::setting::{At, Rules, Setting, Value};

/// A key that has no field in the model yet: a text, which is refused.
#[derive(Debug)]
pub(super) struct Placeholder {
    pub section: &'static str,
    pub key: &'static str,
    /// The text continues "KEY: ".
    why: &'static str,
    pub doc: &'static str,
}

const NO_ETCD: &str =
    "coordination through etcd is not available in this version; remove [coordination] and run one instance";

const fn of_etcd(key: &'static str, doc: &'static str) -> Placeholder {
    Placeholder { section: "coordination", key, why: NO_ETCD, doc }
}

/// Keys without a field.
static PLACEHOLDERS: &[Placeholder] = &[
    of_etcd("tls.ca", "Authorities that etcd's certificates are checked against, PEM.\n"),
    of_etcd("tls.cert", "Certificate shown to etcd, PEM.\n"),
    of_etcd("tls.key", "Private key of `tls.cert`, PEM.\n"),
];

/// Existing keys that only tune what this version does not do: marked in the docs, accepted without a word (but for
/// etcd's endpoints, see [`ETCD_REFUSED`]).
static TUNING: &[(&str, &[&str])] = &[("coordination", &["etcd", "prefix", "lease", "user", "password"])];

/// What is said of etcd's endpoints; `None` once instances can agree.
pub(super) const ETCD_REFUSED: Option<&str> = Some(NO_ETCD);

/// Section and key of every row that speaks of a key with a field.
#[cfg(test)]
pub(super) fn rows_of_existing_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    TUNING.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
}

pub(super) fn placeholders(section: &str) -> impl Iterator<Item = &'static Placeholder> {
    PLACEHOLDERS.iter().filter(move |later| later.section == section)
}

pub(super) fn placeholder(section: &str, key: &str) -> Option<&'static Placeholder> {
    placeholders(section).find(|later| later.key == key)
}

/// Whether this key does nothing yet.
pub(super) fn is_later(section: &str, key: &str) -> bool {
    TUNING.iter().any(|row| row.0 == section && row.1.contains(&key))
}

impl Placeholder {
    /// Checks the value, then refuses it.
    pub(super) fn read(&self, value: &Value<'_>, at: &At, reader: &mut Reader<'_>) {
        let errors = reader.error_count();
        drop(String::parse(value, at, reader));
        if reader.error_count() == errors {
            reader.error(value, format!("{}: {}", at.key, self.why));
        }
    }

    /// What its value may be.
    pub(super) fn form() -> String {
        String::form(Rules::default())
    }
}
