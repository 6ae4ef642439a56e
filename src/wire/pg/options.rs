//! The startup parameter `options`: settings written as a server's command line (`PGOPTIONS=-c statement_timeout=5s`).
//!
//! PostgreSQL splits it in `pg_split_opts` and reads switches in `process_postgres_switches`. We take the two
//! switches that set something, `-c` and `--`; the others start or debug a server and mean nothing behind a pooler.

use std::borrow::Cow;

use super::sqlstate::{self, Severity, ToClient};

/// One setting out of `options`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dashes are already underscores.
    pub name: String,
    /// In the encoding of the client.
    pub value: Vec<u8>,
}

/// Why `options` cannot be applied. Texts are lossy UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Neither `-c` nor `--`.
    #[error("invalid command-line argument for server process: {0}")]
    Argument(String),
    /// A name without `=`.
    #[error("{0} requires a value")]
    NoValue(String),
    /// A name that no setting can have.
    #[error("invalid configuration parameter name \"{0}\"")]
    Name(String),
}

impl ToClient for OptionsError {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
    fn sqlstate(&self) -> &'static str {
        sqlstate::SYNTAX_ERROR
    }
    fn message(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some("options may hold \"-c name=value\" and \"--name=value\" only".into())
    }
}

/// The settings in the order given; a later one of the same name overrides.
pub fn parse(options: &[u8]) -> Result<Vec<Setting>, OptionsError> {
    let mut settings = Vec::new();
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let (switch, assignment) = match word.as_slice() {
            b"-c" => ("-c ", words.next().ok_or(OptionsError::NoValue("-c".into()))?),
            [b'-', b'c', joined @ ..] => ("-c ", joined.to_vec()),
            [b'-', b'-', long @ ..] if !long.is_empty() => ("--", long.to_vec()),
            _ => return Err(OptionsError::Argument(lossy(&word))),
        };
        settings.push(setting(switch, &assignment)?);
    }
    Ok(settings)
}

fn setting(switch: &str, assignment: &[u8]) -> Result<Setting, OptionsError> {
    let equals = memchr::memchr(b'=', assignment);
    let Some((name, [_, value @ ..])) = equals.and_then(|at| assignment.split_at_checked(at)) else {
        return Err(OptionsError::NoValue(format!("{switch}{}", lossy(assignment))));
    };
    // A dot separates the prefix of an extension's setting.
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$');
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_empty() && name.iter().all(legal) => {
            Ok(Setting { name: text.replace('-', "_"), value: value.to_vec() })
        }
        _ => Err(OptionsError::Name(lossy(name))),
    }
}

/// Words between white space; a backslash makes the next byte part of its word, whatever it is.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => words.extend(word.take()),
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(options: &str) -> Result<Vec<(String, String)>, String> {
        parse(options.as_bytes())
            .map(|all| all.into_iter().map(|s| (s.name, lossy(&s.value))).collect())
            .map_err(|error| error.to_string())
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn settings_are_read_in_every_spelling() {
        for (options, expected) in [
            ("", &[][..]),
            (" \t\n\x0b\x0c\r", &[]),
            ("-c statement_timeout=5s", &[("statement_timeout", "5s")]),
            ("-cstatement_timeout=5s", &[("statement_timeout", "5s")]),
            ("--statement-timeout=5s", &[("statement_timeout", "5s")]),
            ("-c search-path=a-b", &[("search_path", "a-b")]),
            ("  -c  a=1   --b-c.d=2=3\n-ce= ", &[("a", "1"), ("b_c.d", "2=3"), ("e", "")]),
            ("-c search_path=a\\ b,\\\\c", &[("search_path", "a b,\\c")]),
            ("-c a=1 -c a=2", &[("a", "1"), ("a", "2")]),
        ] {
            assert_eq!(pairs(options), Ok(owned(expected)), "{options:?}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_text() {
        for (options, expected) in [
            ("-c", "-c requires a value"),
            ("-c geqo", "-c geqo requires a value"),
            ("--geqo", "--geqo requires a value"),
            ("-c =1", "invalid configuration parameter name \"\""),
            ("-c\\\ta=1", "invalid configuration parameter name \"\ta\""),
            ("-c a;b=1", "invalid configuration parameter name \"a;b\""),
            ("--", "invalid command-line argument for server process: --"),
            ("-", "invalid command-line argument for server process: -"),
            ("-d 5", "invalid command-line argument for server process: -d"),
            ("-c a=1 stray", "invalid command-line argument for server process: stray"),
            ("\\", "invalid command-line argument for server process: "),
        ] {
            assert_eq!(pairs(options), Err(expected.to_string()), "{options:?}");
        }
        let error = parse(b"-d 5").unwrap_err();
        assert_eq!(ToClient::sqlstate(&error), "42601");
    }
}
