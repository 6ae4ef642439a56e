//! `forebay init`: looks at running servers and writes the configuration that serves them.
//!
//! Connects to the PostgreSQL servers that it is told of and those that they tell of ([`postgres`]), and to Sentinels
//! ([`sentinel`]); nothing is changed anywhere. What was found becomes text ([`mod@write`]), what was not found becomes a line for
//! the user. The command line is the only caller.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod passfile;
mod postgres;
mod sentinel;
mod terminal;
mod write;

use std::time::Duration;

use crate::config::model::Secret;

/// For connecting, logging in, and for each answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Servers of PostgreSQL, `host` or `host:port`; empty for none.
    pub hosts: Vec<String>,
    /// Where `hosts` have no port of their own.
    pub port: u16,
    /// Login.
    pub user: String,
    /// Database to log in to.
    pub database: String,
    /// libpq's `sslmode`, and the authorities for it.
    pub tls: Option<(String, Option<String>)>,
    /// Sentinels, `host` or `host:port`.
    pub sentinels: Vec<String>,
    /// Passwords stand in what is written, instead of the names of variables.
    pub with_password: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The configuration.
    pub text: String,
    /// What was not found, and what is left to do; one line each.
    pub notes: Vec<String>,
}

/// A password, and whether there is one at all.
#[derive(Debug, Clone, Default)]
struct Known {
    password: Secret,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.password.0.is_empty()
    }
}

/// Looks at all that was named.
///
/// # Errors
/// In words, that a server which was named cannot be asked.
pub async fn init(wish: &Wish) -> Result<Made, String> {
    let mut notes = Vec::new();
    let cluster = match wish.hosts.is_empty() {
        true => None,
        false => Some(postgres::look(wish, &mut notes).await?),
    };
    let groups = match wish.sentinels.is_empty() {
        true => Vec::new(),
        false => sentinel::look(wish, &mut notes).await?,
    };
    let text = write::text(wish, cluster.as_ref(), &groups, &mut notes);
    Ok(Made { text, notes })
}

/// `host`, `host:port`, `[::1]:port`, `/folder` or `/folder:port`.
fn host_and_port(text: &str, port: u16) -> Result<(String, u16), String> {
    let wrong = || format!("{} is no HOST or HOST:PORT", crate::config::quote(text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        let port = if rest.is_empty() { port } else { number(rest.strip_prefix(':').ok_or_else(wrong)?)? };
        return Ok((host.to_owned(), port));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Ok((text.to_owned(), port)),
        Some((host, port)) if !host.is_empty() => Ok((host.to_owned(), number(port)?)),
        None if !text.is_empty() => Ok((text.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// Both as Forebay writes them.
fn endpoint(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('/') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_may_have_ports() {
        let read = |text: &str| host_and_port(text, 5432).map(|(host, port)| endpoint(&host, port));
        for (text, made) in [
            ("db1", "db1:5432"),
            ("db1:5433", "db1:5433"),
            ("::1", "[::1]:5432"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:5432"),
            ("/run/postgresql", "/run/postgresql:5432"),
            ("/run/postgresql:5433", "/run/postgresql:5433"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(made));
        }
        for wrong in ["", ":5432", "db:x", "db:0", "[::1", "[::1]5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
