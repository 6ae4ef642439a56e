//! Keys and values of the reference whose capability this version does not have yet.
//!
//! They are read under their names so that a file says the same thing to every version. What could not be left out
//! without harm (a client believing in TLS) is refused; the rest is accepted, and warned of when something that was
//! asked for will not happen. Whoever builds the capability deletes its lines here.

use toml::de::DeValue;

use super::reader::Reader;
use super::setting::{At, Rules, Setting, Value};
use super::suggest::one_of;

/// A key that has no field in the model yet.
#[derive(Debug)]
pub(super) struct Placeholder {
    pub section: &'static str,
    pub key: &'static str,
    pub form: Form,
    /// As TOML.
    pub default: Option<&'static str>,
    /// Values that ask for nothing, and so are accepted.
    harmless: &'static [&'static str],
    outcome: Outcome,
    pub doc: &'static str,
}

/// The shape of a placeholder's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Text,
    Words(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The text continues "KEY: ".
    Refuse(&'static str),
    Warn(&'static str),
}
use Outcome::{Refuse, Warn};

const NO_HBA: &str =
    "host-based rules are not available in this version; remove it and list the logins as [[postgres.user]]";
const NO_AUTH_QUERY: &str =
    "auth_query is not available in this version; remove it and list the logins as [[postgres.user]]";
const NO_ETCD: &str =
    "coordination through etcd is not available in this version; remove [coordination] and run one instance";

/// A mode whose first word, the default, asks for nothing.
const fn mode(
    section: &'static str,
    key: &'static str,
    words: &'static [&'static str],
    default: &'static str,
    why: &'static str,
    doc: &'static str,
) -> Placeholder {
    let harmless = &["disable", "off"];
    Placeholder { section, key, form: Form::Words(words), default: Some(default), harmless, outcome: Refuse(why), doc }
}

const fn text(section: &'static str, key: &'static str, outcome: Outcome, doc: &'static str) -> Placeholder {
    Placeholder { section, key, form: Form::Text, default: None, harmless: &[], outcome, doc }
}

/// The files of TLS with the other side, whose certificates `ca` is about; `cert` is shown to it.
const fn tls_files(section: &'static str, why: &'static str, ca: &'static str, cert: &'static str) -> [Placeholder; 3] {
    [
        text(section, "tls.ca", Refuse(why), ca),
        text(section, "tls.cert", Refuse(why), cert),
        text(section, "tls.key", Refuse(why), "Private key of `tls.cert`, PEM.\n"),
    ]
}

/// Keys without a field.
static PLACEHOLDERS: &[&[Placeholder]] = &[&tls_files(
    "coordination",
    NO_ETCD,
    "Authorities that etcd's certificates are checked against, PEM.\n",
    "Certificate shown to etcd, PEM.\n",
)];

/// Words of existing keys that are refused: section, key, word, the way out.
static REFUSED_WORDS: &[(&str, &str, &str, &str)] = &[];

/// Existing keys that have no effect: section, keys, what will not happen.
static WITHOUT_EFFECT: &[(&str, &[&str], &str)] =
    &[("notify", &["webhook"], "webhooks are not called in this version")];

/// Existing keys that only tune what this version does not do: marked in the docs, accepted without a word (but for
/// etcd's endpoints, see [`ETCD_REFUSED`]).
static TUNING: &[(&str, &[&str])] = &[
    ("admin", &["listen"]),
    ("coordination", &["etcd", "prefix", "lease", "user", "password"]),
    ("notify", &["events"]),
];

/// What is said of etcd's endpoints; `None` once instances can agree.
pub(super) const ETCD_REFUSED: Option<&str> = Some(NO_ETCD);

/// Section and key of every row that speaks of a key with a field.
#[cfg(test)]
pub(super) fn rows_of_existing_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    let keys = WITHOUT_EFFECT.iter().map(|row| (row.0, row.1)).chain(TUNING.iter().copied());
    let refused = REFUSED_WORDS.iter().map(|row| (row.0, row.1));
    refused.chain(keys.flat_map(|(section, keys)| keys.iter().map(move |key| (section, *key))))
}

pub(super) fn placeholders(section: &str) -> impl Iterator<Item = &'static Placeholder> {
    PLACEHOLDERS.iter().copied().flatten().filter(move |later| later.section == section)
}

pub(super) fn placeholder(section: &str, key: &str) -> Option<&'static Placeholder> {
    placeholders(section).find(|later| later.key == key)
}

/// Why this word of an existing key is refused.
pub(super) fn refused_word(section: &str, key: &str, word: &str) -> Option<&'static str> {
    let row = REFUSED_WORDS.iter().find(|row| row.0 == section && row.1 == key && row.2 == word)?;
    Some(row.3)
}

/// The words of an existing key that are refused.
pub(super) fn refused_words(section: &str, key: &str) -> Vec<&'static str> {
    REFUSED_WORDS.iter().filter(|row| row.0 == section && row.1 == key).map(|row| row.2).collect()
}

/// What a value of this key other than the default does not do.
pub(super) fn without_effect(section: &str, key: &str) -> Option<&'static str> {
    WITHOUT_EFFECT.iter().find(|row| row.0 == section && row.1.contains(&key)).map(|row| row.2)
}

/// Whether this key does nothing yet.
pub(super) fn is_later(section: &str, key: &str) -> bool {
    without_effect(section, key).is_some() || TUNING.iter().any(|row| row.0 == section && row.1.contains(&key))
}

impl Placeholder {
    /// Checks the value, then refuses it or warns of it unless it asks for nothing.
    pub(super) fn read(&self, value: &Value<'_>, at: &At, reader: &mut Reader<'_>) {
        let errors = reader.error_count();
        self.form.check(value, at, reader);
        let is_harmless = match value.get_ref() {
            DeValue::String(text) => self.harmless.contains(&text.as_ref()),
            DeValue::Array(values) => values.is_empty(),
            _ => false,
        };
        if is_harmless || reader.error_count() > errors {
            return;
        }
        match self.outcome {
            Refuse(why) => reader.error(value, format!("{}: {why}", at.key)),
            Warn(why) => reader.warning(value, format!("{} {why}", at.key)),
        }
    }
}

impl Form {
    fn check(self, value: &Value<'_>, at: &At, reader: &mut Reader<'_>) {
        match self {
            Form::Text => drop(String::parse(value, at, reader)),
            Form::Words(words) => {
                let is_known = value.get_ref().as_str().is_some_and(|text| words.contains(&text));
                if !is_known {
                    super::setting::wrong_word(value, at, &one_of(words), words, reader);
                }
            }
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Form::Text => String::form(Rules::default()),
            Form::Words(words) => one_of(words),
        }
    }
}
