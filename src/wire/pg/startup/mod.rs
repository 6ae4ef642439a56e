//! The first packet of a connection, which has a length but no type byte.
//!
//! It is read before anyone is known, from whatever found the port: the length is bounded before a byte more is
//! awaited, and other protocols are named in the error. Called by the listener, again after SSLRequest and GSSENCRequest.

use std::borrow::Cow;

use crate::wire::pg::body::{Body, Malformed};
use crate::wire::pg::cancel_key::SecretBytes;
use crate::wire::pg::options::{self, OptionsError, Setting};
use crate::wire::pg::sqlstate::{self, Severity, ToClient};

/// Smallest packet: its length and a code.
pub const MIN_LENGTH: usize = 8;
/// Largest packet, its length field included: PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` bounds what follows the length.
pub const MAX_LENGTH: usize = 10_000 + 4;
/// The major version spoken.
pub const MAJOR: u16 = 3;
/// The newest minor version spoken.
pub const NEWEST_MINOR: u16 = 2;

/// First word of a CancelRequest.
pub const CANCEL_CODE: u32 = 80_877_102;
pub(super) const SSL_CODE: u32 = 80_877_103;
pub(super) const GSSENC_CODE: u32 = 80_877_104;

/// A whole first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// Asks for TLS; the answer is one byte.
    Ssl,
    /// Asks for GSSAPI encryption; the answer is one byte.
    GssEnc,
    /// Asks to cancel what another connection runs; there is no answer.
    Cancel(Cancel),
    /// Begins a session.
    Session(Session),
}

/// Whom to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// As given in BackendKeyData.
    pub process_id: i32,
    /// 4 bytes for protocol 3.0, up to 256 for 3.2.
    pub secret: SecretBytes,
}

/// What a session asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Always [`MAJOR`].
    pub major: u16,
    /// As requested; see [`Session::spoken_minor`].
    pub minor: u16,
    /// Never empty.
    pub user: String,
    /// The user's name when the client gave none.
    pub database: String,
    /// All other parameters in the order sent, values in the client's encoding. Of equal names the last one counts.
    pub params: Vec<(String, Vec<u8>)>,
    /// Names of the protocol extensions (`_pq_.*`) asked for: we offer none.
    pub extensions: Vec<String>,
}

impl Session {
    /// The last value given for a parameter other than `user` and `database`.
    pub fn param(&self, name: &str) -> Option<&[u8]> {
        let found = self.params.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// The settings written in parameter `options`, in order.
    pub fn options(&self) -> Result<Vec<Setting>, OptionsError> {
        self.param("options").map_or(Ok(Vec::new()), options::parse)
    }

    /// The minor version that the session goes on with.
    pub fn spoken_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// Whether NegotiateProtocolVersion has to be sent, with `spoken_minor` and `extensions`.
    pub fn must_negotiate(&self) -> bool {
        self.minor > NEWEST_MINOR || !self.extensions.is_empty()
    }
}

/// Why a first packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Another protocol, recognised by its first bytes.
    #[error("received {0} instead of a PostgreSQL startup packet")]
    Foreign(Foreign),
    /// The length (bytes, counting itself) is out of bounds for the packet.
    #[error("invalid length of startup packet: {0}")]
    Length(u32),
    /// A version that nobody speaks any more, or yet.
    #[error("unsupported frontend protocol {major}.{minor}: server supports {MAJOR}.0 to {MAJOR}.{NEWEST_MINOR}")]
    Version {
        /// As requested.
        major: u16,
        /// As requested.
        minor: u16,
    },
    /// Names and values are not terminated as they must be.
    #[error("invalid startup packet layout: expected {}", .0.expected)]
    Layout(#[from] Malformed),
    /// Neither trust nor password helps without a name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// Names are compared with the configuration, which is UTF-8.
    #[error("invalid byte sequence for encoding \"UTF8\" in startup parameter \"{0}\"")]
    NotUtf8(String),
}

/// Protocols that find PostgreSQL's port by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// A ClientHello without SSLRequest: direct TLS, which a listener may choose to accept.
    #[error("a TLS handshake")]
    Tls,
    /// A request line.
    #[error("an HTTP request")]
    Http,
    /// A PROXY protocol header that the listener was not told to expect.
    #[error("a PROXY protocol header")]
    Proxy,
    /// An SSH banner.
    #[error("an SSH banner")]
    Ssh,
    /// A RESP array or an inline command.
    #[error("a Redis command")]
    Redis,
}

impl ToClient for StartupError {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
    fn sqlstate(&self) -> &'static str {
        match self {
            StartupError::Foreign(_) | StartupError::Length(_) | StartupError::Layout(_) => {
                sqlstate::PROTOCOL_VIOLATION
            }
            StartupError::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
            StartupError::NoUser => sqlstate::INVALID_AUTHORIZATION,
            StartupError::NotUtf8(_) => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
        }
    }
    fn message(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            StartupError::Foreign(Foreign::Tls) => Some("connect with sslnegotiation=postgres".into()),
            StartupError::Foreign(_) => Some("this port speaks the PostgreSQL protocol".into()),
            _ => None,
        }
    }
}

/// Reads the first packet at the front of `buf` and tells its length in bytes. `None` asks for more bytes and is
/// answered only while the beginning could still become a legal packet of at most [`MAX_LENGTH`] bytes.
pub fn parse_startup(buf: &[u8]) -> Result<Option<(Startup, usize)>, StartupError> {
    // A TLS record type cannot begin a legal length: one byte decides, as in PostgreSQL 17.
    if buf.first() == Some(&0x16) {
        return Err(StartupError::Foreign(Foreign::Tls));
    }
    let Some((head, rest)) = buf.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    let packet = length as usize;
    if !(MIN_LENGTH..=MAX_LENGTH).contains(&packet) {
        return Err(foreign(head).map_or(StartupError::Length(length), StartupError::Foreign));
    }
    let Some((code, _)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let code = u32::from_be_bytes(*code);
    let length_is_legal = match code {
        SSL_CODE | GSSENC_CODE => packet == 8,
        CANCEL_CODE => (12 + SecretBytes::MIN..=12 + SecretBytes::MAX).contains(&packet),
        version if version >> 16 != u32::from(MAJOR) => {
            let (major, minor) = ((version >> 16) as u16, version as u16);
            return Err(StartupError::Version { major, minor });
        }
        _ => true,
    };
    if !length_is_legal {
        return Err(StartupError::Length(length));
    }
    let Some(body) = buf.get(MIN_LENGTH..packet) else {
        return Ok(None);
    };
    let startup = match code {
        SSL_CODE => Startup::Ssl,
        GSSENC_CODE => Startup::GssEnc,
        CANCEL_CODE => Startup::Cancel(cancel(body)?),
        version => Startup::Session(session(version as u16, body)?),
    };
    Ok(Some((startup, packet)))
}

fn cancel(body: &[u8]) -> Result<Cancel, StartupError> {
    let mut body = Body::new("CancelRequest", body);
    let process_id = body.i32("a process id")?;
    let secret = SecretBytes::new(body.rest()).ok_or(body.malformed("a secret key of 4 to 256 bytes"))?;
    Ok(Cancel { process_id, secret })
}

fn session(minor: u16, body: &[u8]) -> Result<Session, StartupError> {
    let mut body = Body::new("StartupMessage", body);
    let (mut user, mut database) = (String::new(), String::new());
    let (mut params, mut extensions) = (Vec::new(), Vec::new());
    loop {
        let name = body.cstr("a terminator as last byte")?;
        if name.is_empty() {
            break;
        }
        let name = utf8(name).map_err(StartupError::NotUtf8)?;
        let value = body.cstr("a value after each name")?;
        let as_name = |value| utf8(value).map_err(|_| StartupError::NotUtf8(name.clone()));
        match name.as_str() {
            "user" => user = as_name(value)?,
            "database" => database = as_name(value)?,
            _ if name.starts_with("_pq_.") => extensions.push(name),
            _ => params.push((name, value.to_vec())),
        }
    }
    body.end()?;
    if user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if database.is_empty() {
        database.clone_from(&user);
    }
    Ok(Session { major: MAJOR, minor, user, database, params, extensions })
}

/// Owned text, or the lossy text for an error.
fn utf8(bytes: &[u8]) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// Names what begins with these four bytes, none of which is a legal length.
fn foreign(head: &[u8; 4]) -> Option<Foreign> {
    match head {
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"DELE" | b"OPTI" | b"PATC" | b"TRAC" | b"CONN" | b"PRI " => {
            Some(Foreign::Http)
        }
        b"PROX" | b"\r\n\r\n" => Some(Foreign::Proxy),
        b"SSH-" => Some(Foreign::Ssh),
        b"PING" | b"AUTH" | b"INFO" | b"HELL" => Some(Foreign::Redis),
        [b'*', b'0'..=b'9', ..] => Some(Foreign::Redis),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
