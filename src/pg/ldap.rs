//! Logins that a directory decides (the method `ldap` of `pg_hba.conf`): what PostgreSQL's `CheckLDAPAuth` does.
//!
//! It is done on the threads of [`aside`], a connection for each login. Bounded are the connections to each server
//! ([`MOST`]), the time that one may take (`postgres.ldap.timeout`), and what is read of it. A server that failed is tried
//! last for a while, and those who waited for their turn with it do not find out for themselves.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::hba::{Entry, Ldap, Protection};
use crate::config::model::{Secret, ServerTls};
use crate::net::tls::Tls;
use crate::net::{Stream, Target, aside, dial, name_of};
use crate::wire::ldap::{self, Answer, Filter, LdapError, Outcome, Scope, Search, Verdict, escaped};
use crate::worker::clock::now_ns;

/// Connections to one server at a time.
const MOST: usize = 32;
/// So long a server that failed is tried after the others.
const SHUNNED: Duration = Duration::from_secs(10);
/// Answers to one search that are read: entries and places where others are.
const MOST_ANSWERS: usize = 100;
/// What PostgreSQL has no name looked for with.
const NEVER_IN_A_SEARCH: &[char] = &['*', '(', ')', '\\', '/'];
/// What ends a name in a directory, or begins another one (RFC 4514, section 2.4).
const NEVER_IN_A_NAME: &[char] = &[',', '+', '"', '\\', '<', '>', ';', '=', '#'];

/// Names are asked of the system on threads that wait for it, however long that takes: so many at a time.
static NAMES: Semaphore = Semaphore::const_new(8);

/// A login that a directory is to decide.
pub(super) struct Question {
    /// Which directory, and how.
    pub ldap: Arc<Ldap>,
    /// How TLS is spoken to it.
    pub tls: ServerTls,
    /// For one server.
    pub limit: Duration,
    /// As the client named itself.
    pub user: String,
    /// As the client sent it, not empty.
    pub password: Zeroizing<Vec<u8>>,
}

/// Why nobody is let in, in words for the log.
#[derive(Debug)]
pub(super) enum Denial {
    /// The directory says no: a guess.
    Wrong(String),
    /// The directory does not say: nobody's guess.
    Unknown(String),
}

/// All servers that were asked, by host and port.
#[derive(Debug, Default)]
pub struct Directories {
    servers: Mutex<HashMap<(String, u16), Arc<Directory>>>,
    failures: AtomicU64,
}

/// One server.
#[derive(Debug)]
struct Directory {
    turns: Semaphore,
    /// When it failed last, ns; 0 if it has answered since.
    failed: AtomicU64,
}

impl Directories {
    fn of(&self, host: &str, port: u16) -> Arc<Directory> {
        let mut all = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Directory { turns: Semaphore::new(MOST), failed: AtomicU64::new(0) });
        Arc::clone(all.entry((host.to_owned(), port)).or_insert_with(new))
    }

    /// Questions that a server left without an answer (`forebay_ldap_failures_total`).
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Directory {
    fn failed_since(&self, then: u64) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        failed != 0 && failed >= then
    }
}

/// Asks on another thread. Dropping the future gives up.
pub(super) async fn ask(directories: &Arc<Directories>, question: Question) -> Result<(), Denial> {
    let directories = Arc::clone(directories);
    let done = aside::run(move || async move { question.answer(&directories).await });
    done.await.unwrap_or_else(|e| Err(Denial::Unknown(e.to_string())))
}

/// Why a server did not let a login in.
enum Failure {
    /// Another server may know more.
    Server(String),
    /// That is the answer.
    Denied(Denial),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Server(error.to_string())
    }
}

impl From<LdapError> for Failure {
    fn from(error: LdapError) -> Self {
        Failure::Server(error.to_string())
    }
}

fn wrong(why: impl Into<String>) -> Failure {
    Failure::Denied(Denial::Wrong(why.into()))
}

fn unknown(why: impl Into<String>) -> Failure {
    Failure::Denied(Denial::Unknown(why.into()))
}

impl Question {
    async fn answer(&self, directories: &Directories) -> Result<(), Denial> {
        let began = now_ns();
        // Before any server hears of it.
        let name = match &self.ldap.entry {
            Entry::Made { prefix, suffix } => Some(made(prefix, &self.user, suffix).map_err(Denial::Wrong)?),
            Entry::Found { .. } if self.user.contains(NEVER_IN_A_SEARCH) => {
                return Err(Denial::Wrong("invalid character in user name for LDAP authentication".to_owned()));
            }
            Entry::Found { .. } => None,
        };
        let port = self.ldap.port;
        let shunned = began.saturating_sub(SHUNNED.as_nanos() as u64);
        let mut servers: Vec<_> = self.ldap.hosts.iter().map(|host| (host, directories.of(host, port))).collect();
        servers.sort_by_key(|(_, directory)| directory.failed_since(shunned));
        let mut failures = Vec::new();
        for (host, directory) in servers {
            let Ok(_turn) = directory.turns.acquire().await else { continue };
            if directory.failed_since(began) {
                failures.push(format!("{host}:{port} has just failed others"));
                continue;
            }
            let why = match timeout(self.limit, self.ask(host, name.as_deref())).await {
                Ok(Ok(())) => {
                    directory.failed.store(0, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(Err(Failure::Denied(denial))) => {
                    directory.failed.store(0, Ordering::Relaxed);
                    return Err(match denial {
                        Denial::Wrong(why) => Denial::Wrong(format!("{host}:{port}: {why}")),
                        Denial::Unknown(why) => Denial::Unknown(format!("{host}:{port}: {why}")),
                    });
                }
                Ok(Err(Failure::Server(why))) => why,
                Err(_) => format!("no answer within {:?}", self.limit),
            };
            directories.failures.fetch_add(1, Ordering::Relaxed);
            let before = directory.failed.swap(now_ns().max(1), Ordering::Relaxed);
            // Once, until it answers again.
            if before == 0 {
                tracing::warn!(server = format!("{host}:{port}"), why, "an LDAP server cannot be asked");
            }
            failures.push(format!("{host}:{port}: {why}"));
        }
        Err(Denial::Unknown(failures.join("; ")))
    }

    /// One server. With `name` as whom, else as whoever the search finds.
    async fn ask(&self, host: &str, name: Option<&str>) -> Result<(), Failure> {
        let mut talk = self.connect(host).await?;
        let found;
        let name = match (name, &self.ldap.entry) {
            (Some(name), _) => name,
            (None, Entry::Found { base, scope, filter, searcher }) => {
                if let Some((name, password)) = searcher {
                    talk.introduce(name, password).await?;
                }
                found = talk.find(base, *scope, filter, &self.user, self.limit).await?;
                found.as_str()
            }
            (None, Entry::Made { .. }) => return Err(unknown("the rule names no entry")),
        };
        let outcome = match talk.bind(name, &self.password).await? {
            Some(outcome) => outcome,
            None => return Err(unknown("a login without a name or a password proves nothing")),
        };
        talk.leave().await;
        let said = format!("the bind as {name:?} was answered {}", outcome.words);
        match outcome.verdict {
            Verdict::Success => Ok(()),
            Verdict::Refused | Verdict::Nobody => Err(wrong(said)),
            Verdict::Busy => Err(Failure::Server(said)),
            Verdict::Unable | Verdict::TooMany => Err(unknown(said)),
        }
    }

    async fn connect(&self, host: &str) -> Result<Talk, Failure> {
        let stream = reach(host, self.ldap.port).await?;
        let mut talk = Talk { stream, buffer: Vec::new(), last: 0 };
        if self.ldap.protection == Protection::Nothing {
            return Ok(talk);
        }
        let Some(config) = self.tls.config().cloned() else {
            return Err(unknown("TLS was not made ready for LDAP; reload the configuration"));
        };
        if self.ldap.protection == Protection::StartTls {
            let id = talk.next();
            talk.send(&ldap::start_tls(id)?).await?;
            match talk.hear(id).await? {
                Answer::Extended(outcome) if outcome.verdict == Verdict::Success => {}
                Answer::Extended(outcome) => {
                    return Err(Failure::Server(format!("StartTLS was answered {}", outcome.words)));
                }
                _ => return Err(unexpected()),
            }
            // It came in clear text, and must not count as encrypted.
            if !talk.buffer.is_empty() {
                return Err(Failure::Server("clear text behind the answer to StartTLS".to_owned()));
            }
        }
        let Stream::Tcp(tcp) = talk.stream else { return Err(unexpected()) };
        let tls = Tls::connect(tcp, config, name_of(host)?).await;
        let tls = tls.map_err(|e| Failure::Server(format!("its TLS handshake failed: {e}")))?;
        Ok(Talk { stream: Stream::Tls(Box::new(tls)), buffer: Vec::new(), last: talk.last })
    }
}

fn unexpected() -> Failure {
    Failure::Server("an answer to something else than was asked".to_owned())
}

/// The name of a user's entry. In a distinguished name the user's is one value, whatever it holds; in another form
/// (`user@example.org`, `DOMAIN\user`) it must not hold what would make it another name.
fn made(prefix: &str, user: &str, suffix: &str) -> Result<String, String> {
    match prefix.contains('=') {
        true => Ok(format!("{prefix}{}{suffix}", escaped(user))),
        false if user.contains(NEVER_IN_A_NAME) || user.contains(char::is_control) => {
            Err("invalid character in user name for LDAP authentication".to_owned())
        }
        false => Ok(format!("{prefix}{user}{suffix}")),
    }
}

/// A connection to one of the host's addresses. The caller bounds the time.
async fn reach(host: &str, port: u16) -> io::Result<Stream> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => {
            let turn = NAMES.acquire().await.map_err(io::Error::other)?;
            let name = host.to_owned();
            let asked = tokio::task::spawn_blocking(move || {
                let found = (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                drop(turn);
                found
            });
            asked.await.map_err(io::Error::other)??
        }
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match dial(&Target { host: address.ip().to_string(), port }).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A connection, read message by message.
struct Talk {
    stream: Stream,
    buffer: Vec<u8>,
    /// Number of the last request.
    last: u32,
}

impl Talk {
    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(request).await?)
    }

    /// The next answer, which has to be to this request.
    async fn hear(&mut self, id: u32) -> Result<Answer, Failure> {
        loop {
            if let Some(length) = ldap::length(&self.buffer)?
                && self.buffer.len() >= length
            {
                let rest = self.buffer.split_off(length);
                let message = std::mem::replace(&mut self.buffer, rest);
                return match ldap::read(&message)? {
                    (_, Answer::Leaves(outcome)) => {
                        Err(Failure::Server(format!("it has ended the connection: {}", outcome.words)))
                    }
                    (to, answer) if to == id => Ok(answer),
                    _ => Err(unexpected()),
                };
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk).await? {
                0 => return Err(Failure::Server("it has closed the connection".to_owned())),
                n => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            }
        }
    }

    /// `None`: nothing was asked, as nothing would be proved by it.
    async fn bind(&mut self, name: &str, password: &[u8]) -> Result<Option<Outcome>, Failure> {
        let id = self.next();
        let Some(request) = ldap::bind(id, name, password)? else { return Ok(None) };
        self.send(&request).await?;
        match self.hear(id).await? {
            Answer::Bound(outcome) => Ok(Some(outcome)),
            _ => Err(unexpected()),
        }
    }

    /// As who may search. Whatever is wrong with that is not the client's fault.
    async fn introduce(&mut self, name: &str, password: &Secret) -> Result<(), Failure> {
        match self.bind(name, password.0.as_bytes()).await? {
            Some(outcome) if outcome.verdict == Verdict::Success => Ok(()),
            Some(outcome) if outcome.verdict == Verdict::Busy => Err(Failure::Server(outcome.words)),
            Some(outcome) => Err(unknown(format!("the bind as ldapbinddn {name:?} was answered {}", outcome.words))),
            None => Err(unknown("ldapbinddn and ldapbindpasswd must not be empty")),
        }
    }

    /// The name of the one entry of a user.
    async fn find(
        &mut self,
        base: &str,
        scope: Scope,
        filter: &Filter,
        user: &str,
        limit: Duration,
    ) -> Result<String, Failure> {
        let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).max(1);
        let id = self.next();
        // Two are as bad as more.
        let search = Search { base, scope, filter, user, entries: 2, seconds };
        self.send(&ldap::search(id, &search)?).await?;
        let mut entries = Vec::new();
        for _ in 0..MOST_ANSWERS {
            match self.hear(id).await? {
                Answer::Entry(name) => entries.push(name),
                // Referrals are not followed: where they lead nobody has configured.
                Answer::Elsewhere => {}
                Answer::Searched(outcome) => return one(entries, base, &outcome),
                _ => return Err(unexpected()),
            }
        }
        Err(unknown(format!("a search below {base:?} has more than {MOST_ANSWERS} answers")))
    }

    /// The answer does not matter, there is none.
    async fn leave(&mut self) {
        let id = self.next();
        if let Ok(goodbye) = ldap::unbind(id) {
            let _ = self.stream.write_all(&goodbye).await;
        }
    }
}

fn one(mut entries: Vec<String>, base: &str, outcome: &Outcome) -> Result<String, Failure> {
    let said = || format!("the search below {base:?} was answered {}", outcome.words);
    match (entries.pop(), outcome.verdict) {
        (Some(_), Verdict::Success | Verdict::TooMany) if !entries.is_empty() => {
            Err(unknown(format!("the user is not unique: the search below {base:?} finds several entries")))
        }
        (Some(name), Verdict::Success) => Ok(name),
        (None, Verdict::Success) => Err(wrong(format!("no such user: the search below {base:?} finds no entry"))),
        (_, Verdict::Busy) => Err(Failure::Server(said())),
        _ => Err(unknown(said())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_users_as_one_value() {
        for (prefix, user, suffix, expected) in [
            ("cn=", "app", ",dc=x", Some("cn=app,dc=x")),
            ("cn=", "a,ou=b", ",dc=x", Some("cn=a\\,ou\\=b,dc=x")),
            ("cn=", "*", ",dc=x", Some("cn=*,dc=x")),
            ("cn=svc-", "\\", "", Some("cn=svc-\\\\")),
            ("", "app", "@example.org", Some("app@example.org")),
            ("EXAMPLE\\", "app", "", Some("EXAMPLE\\app")),
            ("EXAMPLE\\", "a\\b", "", None),
            ("", "cn=app,dc=y", "", None),
            ("", "a\n", "@example.org", None),
        ] {
            assert_eq!(made(prefix, user, suffix).ok().as_deref(), expected, "{prefix} {user} {suffix}");
        }
    }

    #[test]
    fn a_user_is_one_entry() {
        let outcome = |verdict| Outcome { verdict, words: String::new() };
        let all = |names: &[&str], verdict| {
            one(names.iter().map(|name| (*name).to_owned()).collect(), "dc=x", &outcome(verdict))
        };
        assert!(matches!(all(&["cn=a"], Verdict::Success), Ok(name) if name == "cn=a"));
        assert!(matches!(all(&[], Verdict::Success), Err(Failure::Denied(Denial::Wrong(_)))));
        // The base is not there, the server looks elsewhere, it has given up: nothing is known of the user.
        for verdict in [Verdict::Nobody, Verdict::Unable, Verdict::TooMany, Verdict::Refused] {
            assert!(matches!(all(&[], verdict), Err(Failure::Denied(Denial::Unknown(_)))), "{verdict:?}");
            assert!(matches!(all(&["cn=a"], verdict), Err(Failure::Denied(Denial::Unknown(_)))), "{verdict:?}");
            assert!(matches!(all(&["cn=a", "cn=b"], verdict), Err(Failure::Denied(Denial::Unknown(_)))));
        }
        assert!(matches!(all(&["cn=a", "cn=b"], Verdict::Success), Err(Failure::Denied(Denial::Unknown(_)))));
        assert!(matches!(all(&["cn=a"], Verdict::Busy), Err(Failure::Server(_))));
    }
}
