//! Secrets: written in the file, in a file of their own, or in the environment.
//!
//! No message of this module repeats a secret, nor any part of one.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::exposed;
use super::model::Secret;
use super::reader::Reader;
use super::setting::{At, MayBeAbsent, Rules, Secrets, Setting, Value, found_type, quote};

/// A secret's file larger than this is some other file.
const LARGEST_FILE: u64 = 64 * 1024;

impl Setting for Secret {
    fn form(_: Rules) -> String {
        "secret".to_owned()
    }
    fn blank() -> Self {
        Secret::default()
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let mut text = match value.get_ref() {
            DeValue::String(text) => {
                // What a verifier shows lets nobody in.
                if !text.starts_with("SCRAM-SHA-256$") {
                    reader.saw_secret(value, &at.key);
                }
                Zeroizing::new(text.clone().into_owned())
            }
            DeValue::Table(table) => from_table(value, table, at, reader)?,
            other => {
                reader.error(
                    value,
                    format!(
                        "{} must be a string, {{ file = \"...\" }} or {{ env = \"...\" }} ({})",
                        at.key,
                        found_type(other)
                    ),
                );
                return None;
            }
        };
        if text.is_empty() {
            reader.error(value, format!("{} must not be empty", at.key));
            return None;
        }
        if text.contains('\0') {
            reader.error(value, format!("{} must not hold a zero byte", at.key));
            return None;
        }
        Some(Secret(std::mem::take(&mut *text)))
    }
    /// An empty secret stands for an absent one.
    fn literal(&self, _: Rules, secrets: Secrets) -> Option<String> {
        match secrets {
            _ if self.0.is_empty() => None,
            Secrets::Masked => Some(quote("***")),
            Secrets::Compared => Some(quote(&fingerprint(&self.0))),
            Secrets::Plain => Some(quote(&self.0)),
        }
    }
}

impl MayBeAbsent for Secret {}

/// The same for the same secret while this process runs, and of no use to anybody else.
fn fingerprint(secret: &str) -> String {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    KEYS.iter().map(|key| format!("{:016x}", key.hash_one(secret))).collect()
}

fn from_table(value: &Value<'_>, table: &DeTable<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Zeroizing<String>> {
    let mut entries = table.iter();
    let (Some((source, name)), None) = (entries.next(), entries.next()) else {
        reader.error(value, format!("{} must be either {{ file = \"...\" }} or {{ env = \"...\" }}", at.key));
        return None;
    };
    let source_name = source.get_ref().as_ref();
    if !matches!(source_name, "file" | "env") {
        reader.error_at(
            source.span().start,
            format!("unknown key {} in {}; a secret comes from \"file\" or \"env\"", quote(source_name), at.key),
        );
        return None;
    }
    let DeValue::String(text) = name.get_ref() else {
        reader.error(name, format!("{}.{source_name} must be a string", at.key));
        return None;
    };
    let read = if source_name == "env" { from_env(text) } else { from_file(text, name, at, reader) };
    if source_name == "env" && read.is_ok() {
        reader.took_variable(text);
    }
    match read {
        Ok(secret) => Some(secret),
        Err(why) => {
            reader.error(name, format!("{}: {why}", at.key));
            None
        }
    }
}

fn from_env(name: &str) -> Result<Zeroizing<String>, String> {
    // `std::env::var` refuses these names with a panic on some systems.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{} cannot be the name of an environment variable", quote(name)));
    }
    match std::env::var(name) {
        Ok(secret) => Ok(Zeroizing::new(secret)),
        Err(std::env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is not UTF-8")),
    }
}

fn from_file(name: &str, value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Result<Zeroizing<String>, String> {
    let path = reader.base_dir().join(name);
    let shown = path.display();
    let failed = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let metadata = std::fs::metadata(&path).map_err(failed)?;
    // Reading from a pipe would wait for a writer that may never come.
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if let Some(why) = exposed::by_others(&path) {
        reader.warning(value, format!("{}: {why}", at.key));
    }
    let text = read_limited(&path).map_err(failed)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(format!("{shown} is too large for a secret (over 64 KiB)"));
    }
    let text = std::str::from_utf8(&text).map_err(|_| format!("{shown} is not UTF-8"))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

fn read_limited(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // As much as it may become: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + 64));
    std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    Ok(text)
}
