//! Opening a connection to a server: login, protocol, database, and the proof of its role.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

use super::core::Core;
use super::login::{DEFAULT_USER, Login};
use crate::config::model::ServerTls;
use crate::net::{Stream, Target, dial_encrypted};
use crate::wire::resp::{ReplyScan, Version, encode};

/// What servers see in CLIENT LIST.
pub const NAME: &[u8] = b"forebay";
/// How long a connection may take until it can be used.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a connection is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub target: Target,
    /// With what around it.
    pub tls: ServerTls,
    /// Whether the server must say that it is the primary, or that it is a replica.
    pub is_primary: bool,
    /// As whom.
    pub login: Rc<Login>,
    /// Protocol.
    pub version: Version,
    /// Database.
    pub db: u32,
    /// Clients' AUTH goes there: nothing is said before that.
    pub is_for_logins: bool,
}

/// A connection that can be used.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// What the server answered to HELLO; an error if it does not know that.
    pub hello: Option<Vec<u8>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Failure {
    /// The server was not reached, or went away.
    Socket(io::Error),
    /// It did not answer in time.
    Timeout,
    /// It said that it is something else.
    Role(String),
    /// It is there, but not ready, in its own words.
    NotReady(Vec<u8>),
    /// It refused this login, protocol or database, in its own words.
    Refused(Vec<u8>),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Socket(e) => write!(f, "{e}"),
            Failure::Timeout => write!(f, "no connection within {CONNECT_TIMEOUT:?}"),
            Failure::Role(role) => write!(f, "the node says that it is {role}"),
            Failure::NotReady(line) | Failure::Refused(line) => write!(f, "{}", String::from_utf8_lossy(line)),
        }
    }
}

/// Opens a connection. Cancel-safe: dropping it closes the connection.
///
/// # Errors
/// [`Failure`]
pub async fn connect(core: &Core, wanted: &Wanted) -> Result<Opened, Failure> {
    core.wheel.timeout(Some(CONNECT_TIMEOUT), Box::pin(open(wanted))).await.unwrap_or(Err(Failure::Timeout))
}

async fn open(wanted: &Wanted) -> Result<Opened, Failure> {
    let mut stream = dial_encrypted(&wanted.target, &wanted.tls).await.map_err(Failure::Socket)?;
    let steps = steps(wanted);
    // Longer than what is said by far: a vector that grows leaves copies of the password behind.
    let mut out = Vec::with_capacity(1024);
    for (_, words) in &steps {
        encode(&mut out, words);
    }
    let written = stream.write_all(&out).await;
    // It holds the password.
    out.zeroize();
    written.map_err(Failure::Socket)?;
    let replies = read_replies(&mut stream, steps.len()).await.map_err(Failure::Socket)?;
    let mut hello = None;
    for ((step, _), reply) in steps.iter().zip(replies) {
        let error = reply.strip_prefix(b"-").map(|line| line.trim_ascii_end().to_vec());
        match (step, error) {
            (_, Some(line)) if is_not_ready(&line) => return Err(Failure::NotReady(line)),
            (Step::Auth, Some(line)) if asks_for_none(&line) => {}
            (Step::Hello, Some(line))
                if line.starts_with(b"ERR unknown command") && wanted.version == Version::Resp2 =>
            {
                hello = Some(reply);
            }
            (_, Some(line)) => return Err(Failure::Refused(line)),
            (Step::Hello, None) => hello = Some(reply),
            (Step::Auth | Step::Select, None) => {}
        }
    }
    if !wanted.is_for_logins {
        // Every user may say HELLO, while ROLE may be refused, and stand in ACL LOG as often as there are connections.
        match hello.as_deref().and_then(role_in_hello) {
            Some(role) => check_role(role, wanted.is_primary)?,
            None => ask_role(&mut stream, wanted.is_primary).await?,
        }
    }
    Ok(Opened { stream, hello })
}

/// Has a server that does not know HELLO, or tells no role in it, say its role.
async fn ask_role(stream: &mut Stream, is_primary: bool) -> Result<(), Failure> {
    let mut out = Vec::new();
    encode(&mut out, &["ROLE"]);
    stream.write_all(&out).await.map_err(Failure::Socket)?;
    let reply = read_replies(stream, 1).await.map_err(Failure::Socket)?.pop().unwrap_or_default();
    match reply.strip_prefix(b"-").map(|line| line.trim_ascii_end().to_vec()) {
        None => check_role(role_in_reply(&reply), is_primary),
        Some(line) if is_not_ready(&line) => Err(Failure::NotReady(line)),
        // A user who may do little may still have a connection; the node's role is also watched elsewhere.
        Some(line) if line.starts_with(b"NOPERM") => Ok(()),
        Some(line) => Err(Failure::Refused(line)),
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Auth,
    Hello,
    Select,
}

/// What is said to a new connection, all in one write.
/// A request, one of whose words may be a password.
type Words = Vec<Zeroizing<Vec<u8>>>;

fn steps(wanted: &Wanted) -> Vec<(Step, Words)> {
    let mut steps = Vec::new();
    if wanted.is_for_logins {
        return steps;
    }
    steps.extend(auth(&wanted.login).map(|words| (Step::Auth, words)));
    let version = wanted.version.number().to_string().into_bytes();
    let hello = [b"HELLO".to_vec(), version, b"SETNAME".to_vec(), NAME.to_vec()];
    steps.push((Step::Hello, hello.map(Zeroizing::new).into()));
    if wanted.db != 0 {
        let select = [b"SELECT".to_vec(), wanted.db.to_string().into_bytes()];
        steps.push((Step::Select, select.map(Zeroizing::new).into()));
    }
    steps
}

/// How a user logs in; `None`: nothing has to be said.
pub(super) fn auth(login: &Login) -> Option<Words> {
    let password = login.password()?;
    let mut words = vec![Zeroizing::new(b"AUTH".to_vec())];
    if *login.user != *DEFAULT_USER {
        words.push(Zeroizing::new(login.user.to_vec()));
    }
    words.push(Zeroizing::new(password.as_bytes().to_vec()));
    Some(words)
}

/// The default user has no password, or has none any more: as `AUTH default` with any, this one does no harm, and the
/// connection is that user's from the beginning.
pub(super) fn asks_for_none(line: &[u8]) -> bool {
    line.starts_with(b"ERR AUTH <password> called without any password configured")
        || line.starts_with(b"ERR Client sent AUTH, but no password is set")
}

/// The role in the reply to HELLO: `master` or `replica`.
fn role_in_hello(reply: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\r\n$4\r\nrole\r\n";
    let rest = reply.get(memchr::memmem::find(reply, KEY)? + KEY.len()..)?;
    [b"$6\r\nmaster\r\n".as_slice(), b"$7\r\nreplica\r\n"]
        .into_iter()
        .find_map(|role| rest.starts_with(role).then(|| role.get(4..role.len() - 2)).flatten())
}

/// The role in the reply to ROLE: `master` or `slave`, or something else.
fn role_in_reply(reply: &[u8]) -> &[u8] {
    reply.split(|byte| *byte == b'\n').nth(2).unwrap_or_default().trim_ascii_end()
}

fn check_role(role: &[u8], is_primary: bool) -> Result<(), Failure> {
    match (role, is_primary) {
        (b"master", true) | (b"replica" | b"slave", false) => Ok(()),
        (b"master", false) => Err(Failure::Role("a primary, not a replica".into())),
        (b"replica" | b"slave", true) => Err(Failure::Role("a replica, not the primary".into())),
        _ => Err(Failure::Role("neither primary nor replica".into())),
    }
}

/// Answers that a server gives while it cannot serve.
pub fn is_not_ready(line: &[u8]) -> bool {
    // BUSY is none of them: a server that runs a long script says that to everybody, and serves again by itself.
    line.starts_with(b"LOADING ") || line.starts_with(b"MASTERDOWN ")
}

/// Largest of the replies that [`read_replies`] reads.
const LARGEST_REPLY: usize = 16 * 1024 * 1024;

/// Reads so many replies, each as it came. Cancel-safe only in that nothing is used afterwards.
///
/// # Errors
/// The socket's; also if the server closes the connection or does not speak RESP.
pub async fn read_replies(stream: &mut Stream, count: usize) -> io::Result<Vec<Vec<u8>>> {
    let (mut scan, mut input, mut reply, mut replies) = (ReplyScan::default(), Vec::new(), Vec::new(), Vec::new());
    let mut chunk = vec![0; 16 * 1024];
    while replies.len() < count {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            // An error that the server closes with is the only answer that there will be.
            let left: Vec<u8> = reply.iter().chain(&input).copied().collect();
            let told = left.strip_prefix(b"-").map(|line| String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            return Err(io::Error::new(
                io::ErrorKind::ConnectionReset,
                told.unwrap_or_else(|| "the server closed the connection".into()),
            ));
        }
        input.extend_from_slice(chunk.get(..n).unwrap_or_default());
        while replies.len() < count && !input.is_empty() {
            let scanned = scan.scan(&input).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            reply.extend(input.drain(..scanned.used));
            if reply.len() > LARGEST_REPLY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer at login is too large"));
            }
            if !scanned.is_done {
                break;
            }
            replies.push(std::mem::take(&mut reply));
        }
    }
    Ok(replies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_read_from_either_reply() {
        let hello =
            b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$7\r\nreplica\r\n";
        assert_eq!(role_in_hello(hello), Some(b"replica".as_slice()));
        assert_eq!(role_in_hello(b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"), Some(b"master".as_slice()));
        assert_eq!(role_in_hello(b"%1\r\n$4\r\nrole\r\n$4\r\nking\r\n"), None);
        assert_eq!(role_in_hello(b"%1\r\n$4\r\nrole\r\n"), None);
        assert_eq!(role_in_reply(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"), b"master");
        assert_eq!(role_in_reply(b"*0\r\n"), b"");
    }
}
