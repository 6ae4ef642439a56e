//! Opening a connection to a server: login, protocol, database, and the proof of its role.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::core::Core;
use super::login::{DEFAULT_USER, Login};
use crate::net::{Stream, Target, dial};
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
    let mut stream = dial(&wanted.target).await.map_err(Failure::Socket)?;
    let steps = steps(wanted);
    let mut out = Vec::new();
    for (_, words) in &steps {
        encode(&mut out, words);
    }
    stream.write_all(&out).await.map_err(Failure::Socket)?;
    let replies = read_replies(&mut stream, steps.len()).await.map_err(Failure::Socket)?;
    let mut hello = None;
    for ((step, _), reply) in steps.iter().zip(replies) {
        let error = reply.strip_prefix(b"-").map(|line| line.trim_ascii_end().to_vec());
        match (step, error) {
            (_, Some(line)) if is_not_ready(&line) => return Err(Failure::NotReady(line)),
            (Step::Hello, Some(line))
                if line.starts_with(b"ERR unknown command") && wanted.version == Version::Resp2 =>
            {
                hello = Some(reply);
            }
            // A user who may do little may still have a connection; the node's role is also watched elsewhere.
            (Step::Role, Some(line)) if line.starts_with(b"NOPERM") => {}
            (_, Some(line)) => return Err(Failure::Refused(line)),
            (Step::Hello, None) => hello = Some(reply),
            (Step::Role, None) => check_role(&reply, wanted.is_primary)?,
            (Step::Auth | Step::Select, None) => {}
        }
    }
    Ok(Opened { stream, hello })
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Auth,
    Hello,
    Select,
    Role,
}

/// What is said to a new connection, all in one write.
fn steps(wanted: &Wanted) -> Vec<(Step, Vec<Vec<u8>>)> {
    let mut steps = Vec::new();
    if wanted.is_for_logins {
        return steps;
    }
    steps.extend(auth(&wanted.login).map(|words| (Step::Auth, words)));
    let version = wanted.version.number().to_string().into_bytes();
    steps.push((Step::Hello, vec![b"HELLO".to_vec(), version, b"SETNAME".to_vec(), NAME.to_vec()]));
    if wanted.db != 0 {
        steps.push((Step::Select, vec![b"SELECT".to_vec(), wanted.db.to_string().into_bytes()]));
    }
    steps.push((Step::Role, vec![b"ROLE".to_vec()]));
    steps
}

/// How a user logs in; `None`: nothing has to be said.
pub(super) fn auth(login: &Login) -> Option<Vec<Vec<u8>>> {
    let password = login.password.as_deref()?;
    let mut words = vec![b"AUTH".to_vec()];
    if *login.user != *DEFAULT_USER {
        words.push(login.user.to_vec());
    }
    words.push(password.to_vec());
    Some(words)
}

fn check_role(reply: &[u8], is_primary: bool) -> Result<(), Failure> {
    let says = |role: &[u8]| reply.windows(role.len()).take(32).any(|window| window == role);
    match (says(b"\r\nmaster\r\n"), says(b"\r\nslave\r\n"), is_primary) {
        (true, _, true) | (_, true, false) => Ok(()),
        (true, _, false) => Err(Failure::Role("a primary, not a replica".into())),
        (_, true, true) => Err(Failure::Role("a replica, not the primary".into())),
        _ => Err(Failure::Role("neither primary nor replica".into())),
    }
}

/// Answers that a server gives while it cannot serve.
pub fn is_not_ready(line: &[u8]) -> bool {
    line.starts_with(b"LOADING ") || line.starts_with(b"MASTERDOWN ") || line.starts_with(b"BUSY ")
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
