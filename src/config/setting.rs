//! The types that a key may have: how each is read from TOML, written as TOML, and described in the docs.
//!
//! A reader reports what is wrong at the position of the value and answers `None`; the key then keeps its
//! default, so that the rest of the file is still looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::reader::Reader;
use super::suggest::{nearest, one_of};

/// A value of the file and where it stands.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What a key asks beyond its type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Smallest count, bytes or milliseconds.
    pub at_least: u64,
    /// Whether a duration of zero means `"off"` where the key may be off.
    pub zero_is_off: bool,
    /// The list is a command with its arguments: a lone string is refused, not taken as a list of one.
    pub command: bool,
    /// A relative path begins in the folder of the file.
    pub beside: bool,
    /// An empty list is refused.
    pub not_empty: bool,
    /// How `false` and `true` are spelled, when by words.
    pub words: Option<(&'static str, &'static str)>,
    /// The texts are URLs, whose paths may be credentials.
    pub urls: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            at_least: 0,
            zero_is_off: true,
            command: false,
            beside: false,
            not_empty: false,
            words: None,
            urls: false,
        }
    }
}

/// Whether secrets are written or replaced by `***`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Masked,
    /// By something that is another one for another secret.
    Compared,
    Plain,
}

/// Which key is being read.
#[derive(Debug, Clone)]
pub(super) struct At {
    /// As messages call it: `postgres.pool.size`.
    pub key: String,
    /// Which one it is, for later checks: `postgres.database[2].size`.
    pub place: String,
    /// What else is asked of the value.
    pub rules: Rules,
}

/// A type that a key may have.
pub(super) trait Setting: Sized {
    /// The shape, for the docs and for messages: `duration or "off"`.
    fn form(rules: Rules) -> String;
    /// A value to overwrite; never seen when the key has a default or is required.
    fn blank() -> Self;
    /// Reads the value or reports why not.
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self>;
    /// The value as TOML, on one line; `None` when it is absent.
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String>;
}

/// What was found instead, for keys that are not secret: `found 0`, `found "abc"`, `found a table`.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let short: String = text.chars().take(60).collect();
            format!("found {}", quote(&short))
        }
        DeValue::Integer(number) => format!("found {number}"),
        DeValue::Float(number) => format!("found {}", number.as_str()),
        DeValue::Boolean(flag) => format!("found {flag}"),
        other => found_type(other).to_owned(),
    }
}

/// The type of what was found instead, for keys that may be secret.
pub(super) fn found_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "found a string",
        DeValue::Integer(_) => "found a number",
        DeValue::Float(_) => "found a fraction",
        DeValue::Boolean(_) => "found true or false",
        DeValue::Datetime(_) => "found a date",
        DeValue::Array(_) => "found a list",
        DeValue::Table(_) => "found a table",
    }
}

/// A TOML basic string.
pub fn quote(text: &str) -> String {
    // It may be a secret: a string that grows leaves copies behind.
    let mut out = String::with_capacity(text.len() * 6 + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Setting for bool {
    fn form(rules: Rules) -> String {
        match rules.words {
            Some((no, yes)) => one_of(&[no, yes]),
            None => "true or false".to_owned(),
        }
    }
    fn blank() -> Self {
        false
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        match (value.get_ref(), at.rules.words) {
            (DeValue::Boolean(flag), None | Some(("off", "on"))) => Some(*flag),
            (DeValue::String(text), words) => {
                let (no, yes) = words.unwrap_or(("off", "on"));
                match text.as_ref() {
                    text if text == no => Some(false),
                    text if text == yes => Some(true),
                    _ => {
                        wrong_word(value, at, &Self::form(at.rules), &[no, yes], reader);
                        None
                    }
                }
            }
            _ => {
                reader
                    .error(value, format!("{} must be {} ({})", at.key, Self::form(at.rules), found(value.get_ref())));
                None
            }
        }
    }
    fn literal(&self, rules: Rules, _: Secrets) -> Option<String> {
        Some(match rules.words {
            Some((no, yes)) => quote(if *self { yes } else { no }),
            None => self.to_string(),
        })
    }
}

/// Reports a value that is not one of `words`, with the nearest one.
pub(super) fn wrong_word(value: &Value<'_>, at: &At, form: &str, words: &[&str], reader: &mut Reader<'_>) {
    let guess = value.get_ref().as_str().and_then(|text| nearest(text, words.iter().copied()));
    let guess = guess.map_or(String::new(), |word| format!("; did you mean \"{word}\"?"));
    reader.error(value, format!("{} must be {form} ({}){guess}", at.key, found(value.get_ref())));
}

/// Makes a model's enum a setting: each variant with its word in the file.
macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl $crate::config::setting::Setting for $type {
            fn form(_: $crate::config::setting::Rules) -> String {
                $crate::config::suggest::one_of(&[$($word),+])
            }
            fn blank() -> Self {
                [$($type::$variant),+][0]
            }
            fn parse(
                value: &$crate::config::setting::Value<'_>,
                at: &$crate::config::setting::At,
                reader: &mut $crate::config::reader::Reader<'_>,
            ) -> Option<Self> {
                match value.get_ref().as_str() {
                    $(Some($word) => Some($type::$variant),)+
                    _ => {
                        let form = $crate::config::suggest::one_of(&[$($word),+]);
                        $crate::config::setting::wrong_word(value, at, &form, &[$($word),+], reader);
                        None
                    }
                }
            }
            fn literal(
                &self,
                _: $crate::config::setting::Rules,
                _: $crate::config::setting::Secrets,
            ) -> Option<String> {
                Some($crate::config::setting::quote(match self {
                    $($type::$variant => $word,)+
                }))
            }
        }
    )+};
}
pub(super) use words;

impl Setting for String {
    fn form(_: Rules) -> String {
        "string".to_owned()
    }
    fn blank() -> Self {
        String::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => {
                reader.error(value, format!("{} must not be empty", at.key));
                None
            }
            DeValue::String(text) if text.contains(|c: char| c.is_control()) => {
                reader.error(value, format!("{} must not hold control characters", at.key));
                None
            }
            DeValue::String(text) => Some(text.clone().into_owned()),
            other => {
                reader.error(value, format!("{} must be a string ({})", at.key, found(other)));
                None
            }
        }
    }
    /// An empty text stands for an absent one, as none may be written empty.
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        (!self.is_empty()).then(|| quote(self))
    }
}

/// Types of keys that may be left out and have no word for that: an `Option` of one is read and written like it.
pub(super) trait MayBeAbsent: Setting {}

impl MayBeAbsent for String {}

impl<T: MayBeAbsent> Setting for Option<T> {
    fn form(rules: Rules) -> String {
        T::form(rules)
    }
    fn blank() -> Self {
        None
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        T::parse(value, at, reader).map(Some)
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        self.as_ref()?.literal(rules, secrets)
    }
}

impl MayBeAbsent for PathBuf {}

impl Setting for PathBuf {
    fn form(_: Rules) -> String {
        "path".to_owned()
    }
    fn blank() -> Self {
        PathBuf::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let path = String::parse(value, at, reader).map(PathBuf::from)?;
        Some(if at.rules.beside { reader.base_dir().join(path) } else { path })
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        self.to_string_lossy().into_owned().literal(rules, secrets)
    }
}

impl Setting for Vec<String> {
    fn form(rules: Rules) -> String {
        if rules.command { "command and arguments" } else { "list of strings" }.to_owned()
    }
    fn blank() -> Self {
        Vec::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        if at.rules.command
            && let DeValue::String(text) = value.get_ref()
        {
            let instead = if text.contains(' ') {
                "; for a line of shell write [\"/bin/sh\", \"-c\", \"...\"]".to_owned()
            } else {
                format!("; write [{}]", quote(text))
            };
            reader.error(value, format!("{} must be a list: the program, then its arguments{instead}", at.key));
            return None;
        }
        if at.rules.command {
            return list(value, at, reader, argument);
        }
        list(value, at, reader, String::parse)
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        let quoted = self.iter().map(|text| match (rules.urls, secrets) {
            (true, Secrets::Masked) => quote(&without_path(text)),
            _ => quote(text),
        });
        Some(format!("[{}]", quoted.collect::<Vec<_>>().join(", ")))
    }
}

/// `users = { name = secret, ... }`, `admin_commands = { name = ["config|set"], ... }`
impl<T: Setting> Setting for BTreeMap<String, T> {
    fn form(rules: Rules) -> String {
        format!("table of name = {}", T::form(rules))
    }
    fn blank() -> Self {
        BTreeMap::new()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            let found = found_type(value.get_ref());
            reader.error(value, format!("{} must be a {} ({found})", at.key, Self::form(at.rules)));
            return None;
        };
        let mut entries = BTreeMap::new();
        for (name, value) in table.iter() {
            let name = name.get_ref().as_ref();
            let at = At { key: format!("{}.{name}", at.key), ..at.clone() };
            if let Some(entry) = T::parse(value, &at, reader) {
                entries.insert(name.to_owned(), entry);
            }
        }
        Some(entries)
    }
    fn literal(&self, rules: Rules, secrets: Secrets) -> Option<String> {
        // Wiped, since they may be secrets.
        let entries = self.iter().filter_map(|(name, entry)| {
            let literal = Zeroizing::new(entry.literal(rules, secrets)?);
            Some(Zeroizing::new([quote(name).as_str(), " = ", &literal].concat()))
        });
        let entries: Vec<Zeroizing<String>> = entries.collect();
        if entries.is_empty() {
            return Some("{}".to_owned());
        }
        let parts = entries.iter().enumerate().flat_map(|(i, entry)| [if i == 0 { "{ " } else { ", " }, entry]);
        Some(parts.chain([" }"]).collect::<Vec<_>>().concat())
    }
}

/// One argument of a command: unlike a name it may be empty or hold the lines of a script.
fn argument(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) if !text.contains('\0') => Some(text.clone().into_owned()),
        DeValue::String(_) => {
            reader.error(value, format!("{} must not hold a zero byte", at.key));
            None
        }
        other => {
            reader.error(value, format!("{} must hold strings only ({})", at.key, found(other)));
            None
        }
    }
}

/// Reads each element; a lone value is a list of one. Each element's place gets its index.
pub(super) fn list<T>(
    value: &Value<'_>,
    at: &At,
    reader: &mut Reader<'_>,
    mut element: impl FnMut(&Value<'_>, &At, &mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let DeValue::Array(values) = value.get_ref() else {
        return element(value, at, reader).map(|one| vec![one]);
    };
    if values.is_empty() && at.rules.not_empty {
        reader.error(value, format!("{} must name at least one", at.key));
        return None;
    }
    let mut read = Vec::with_capacity(values.len());
    for (i, value) in values.iter().enumerate() {
        let at = At { place: format!("{}[{i}]", at.place), ..at.clone() };
        reader.remember(&at.place, value);
        read.push(element(value, &at, reader));
    }
    read.into_iter().collect()
}

/// `https://hooks.example/T0/B0/secret` as `https://hooks.example/***`: the path and the login of a
/// webhook's URL are its password.
pub(super) fn without_path(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    if path.len() > 1 { format!("{scheme}{host}/***") } else { format!("{scheme}{host}{path}") }
}
