//! Files as they are read, places in them, and words that several tools write the same way.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ImportError;
use crate::config::hba::Files;

/// Bytes of all files together: more is some other file.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Files of one configuration: one that includes itself twice would be read for ever.
const MOST_FILES: usize = 1000;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// As it was named.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

impl Place {
    /// An error here.
    pub(super) fn error(&self, what: impl Into<String>) -> ImportError {
        ImportError { file: self.file.to_string(), line: self.line, what: what.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Where files come from, and which were read.
pub(super) struct Source<'a> {
    files: &'a dyn Files,
    read: Vec<PathBuf>,
    bytes: usize,
}

/// One file.
#[derive(Debug)]
pub(super) struct Text {
    pub path: PathBuf,
    name: Arc<str>,
    text: String,
}

impl Text {
    /// The lines with their places, without the ends of lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Place, &str)> {
        let file = &self.name;
        self.text.lines().enumerate().map(move |(i, line)| (Place { file: file.clone(), line: i + 1 }, line))
    }

    /// A file that this one names: relative paths are looked for from its folder.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        match self.path.parent() {
            Some(folder) => folder.join(path),
            None => PathBuf::from(path),
        }
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self { files, read: Vec::new(), bytes: 0 }
    }

    /// What was read, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.read.iter().map(|path| path.display().to_string()).collect()
    }

    /// Reads a file that was asked for.
    pub(super) fn open(&mut self, path: &Path) -> Result<Text, ImportError> {
        self.try_open(path).map_err(|what| ImportError { file: path.display().to_string(), line: 0, what })
    }

    /// Reads a file that another one names; the error is what is wrong, without the file.
    pub(super) fn try_open(&mut self, path: &Path) -> Result<Text, String> {
        if self.read.len() >= MOST_FILES {
            return Err(format!("more than {MOST_FILES} files are too many"));
        }
        let bytes = self.files.read(path).map_err(|error| format!("cannot read it: {error}"))?;
        self.bytes += bytes.len();
        if self.bytes > MOST_BYTES {
            return Err(format!("all files together are larger than {MOST_BYTES} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
        self.read.push(path.to_owned());
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        Ok(Text { path: path.to_owned(), name: path.display().to_string().into(), text })
    }
}

/// Whether a key's value is not for comments.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "authkey", "passphrase", "secret"].iter().any(|word| key.contains(word))
}

/// `on`, `yes`, `true`, `1` and their opposites, and the beginnings that PostgreSQL's tools take for them.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" | "t" | "y" => Some(true),
        "0" | "off" | "no" | "false" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// A number with a fraction in thousandths: `5`, `5.0`, `0.25`.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let mut parts = 0;
    for (i, digit) in fraction.bytes().take(3).enumerate() {
        parts += u64::from(digit - b'0') * [100, 10, 1].get(i).copied().unwrap_or(0);
    }
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(parts)
}

/// The parts between commas, without spaces around them and without empty ones.
pub(super) fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// A port, or what is wrong.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("a port is a number from 1 to 65535 (found {})", crate::config::quote(text))),
    }
}

/// Whether a text can be the host of a node: a name, an address, or the folder of a socket.
pub(super) fn check_host(text: &str) -> Result<(), String> {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if is_name || text.starts_with('/') || text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(());
    }
    Err(format!("{} is not a host: a name, an address, or the folder of a socket", crate::config::quote(text)))
}

/// A name that Forebay's console can write, made of any text: letters, digits, `_` and `-`.
pub(super) fn console_name(text: &str) -> String {
    let name: String =
        text.chars().map(|c| if c.is_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "main".to_owned() } else { name.to_owned() }
}

/// `name`, or with a number behind it that nobody has yet.
pub(super) fn unique_name(name: String, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(&name) {
        return name;
    }
    let numbered = (2..).map(|n| format!("{name}-{n}")).find(|numbered| !is_taken(numbered));
    numbered.unwrap_or(name)
}

/// `host:port` as Forebay writes it: brackets around IPv6.
pub(super) fn endpoint(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with(['/', '[']) {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
