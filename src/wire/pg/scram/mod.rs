//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802 and 7677) as PostgreSQL speaks them: user names inside the exchange
//! are ignored, passwords are prepared by SASLprep or taken as they are, and a channel is bound by the server's
//! certificate (`tls-server-end-point`, RFC 5929).
//!
//! Each side is a chain of types, one for each message awaited. [`derive()`] is the only expensive step (over half a millisecond);
//! everything else costs a few hashes, so that callers can derive elsewhere and keep the [`Keys`].

mod client;
mod prepare;
mod server;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::array::Array;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

pub use client::{ClientChallenge, ClientProof, ScramClient};
pub use prepare::prepare;
pub use server::{Done, ScramServer, ServerChallenge, mock_salt};

use super::sqlstate::{self, Severity, ToClient};

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The name of the mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The header of a client's first message that binds the channel by the server's certificate.
const BY_END_POINT: &str = "p=tls-server-end-point,,";
/// Iterations of verifiers made here: PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;
/// The most iterations that a server may ask of us: 1,000,000 take about 0.15 s.
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Random bytes of a nonce; its text has a third more.
pub const NONCE: usize = 18;

type Key = [u8; 32];

/// Whether the exchange proves that nobody stands between the two sides of an encrypted connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Binding {
    /// There is nothing to bind to.
    #[default]
    Impossible,
    /// There is, and [`MECHANISM_PLUS`] was not chosen: by the client, or by its side because it was not offered. A
    /// client that was made to believe that it was not is found out.
    Unused,
    /// [`MECHANISM_PLUS`], with the hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    /// The exchange's mechanism.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Binding::EndPoint(_) => MECHANISM_PLUS,
            Binding::Impossible | Binding::Unused => MECHANISM,
        }
    }

    /// Attribute `c` of the client's last message, behind this header.
    fn attribute(&self, gs2_header: &str) -> String {
        let data = match self {
            Binding::EndPoint(data) => data.as_slice(),
            Binding::Impossible | Binding::Unused => &[],
        };
        STANDARD.encode([gs2_header.as_bytes(), data].concat())
    }
}

/// What a password becomes by [`derive()`]. Whoever has both keys can play either side.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Proves the client.
    pub client_key: Key,
    /// Proves the server.
    pub server_key: Key,
}

impl Keys {
    /// What a server keeps of the client key.
    pub fn stored_key(&self) -> Key {
        sha256(&self.client_key)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// Turns a password into keys. Slow on purpose: about 0.6 ms for 4096 iterations when optimized, proportional to them.
pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Keys {
    let keyed = hmac(&prepare(password));
    let mut block = Zeroizing::new(finish(keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1])));
    let mut salted = block.clone();
    for _ in 1..iterations {
        *block = finish(keyed.clone().chain_update(*block));
        salted.iter_mut().zip(&*block).for_each(|(sum, byte)| *sum ^= byte);
    }
    Keys { client_key: sign(&*salted, b"Client Key"), server_key: sign(&*salted, b"Server Key") }
}

/// What a server keeps of a password: enough to check it, not enough to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of hashing, at least 1.
    pub iterations: u32,
    /// Usually 16 bytes.
    pub salt: Vec<u8>,
    /// The hash of the client key.
    pub stored_key: Key,
    /// By which the server proves that it knows the verifier.
    pub server_key: Key,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} iterations, ***)", self.iterations)
    }
}

impl Verifier {
    /// Made from a password; as slow as [`derive()`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.max(1);
        Verifier::from_keys(&derive(password, salt, iterations), salt, iterations)
    }

    /// Made from keys that were derived with this salt and number of iterations.
    pub fn from_keys(keys: &Keys, salt: &[u8], iterations: u32) -> Self {
        Verifier { iterations, salt: salt.to_vec(), stored_key: keys.stored_key(), server_key: keys.server_key }
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the form in `pg_authid.rolpassword`.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        if scheme != MECHANISM {
            return None;
        }
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        Some(Verifier {
            iterations: number(iterations)?,
            salt: STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Writes the form that `parse` reads.
    pub fn format(&self) -> String {
        format!(
            "{MECHANISM}${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    /// Keys derived for one can be compared with the other.
    pub fn is_derived_as(&self, other: &Verifier) -> bool {
        self.salt == other.salt && self.iterations == other.iterations
    }

    /// Whether `keys`, derived with this verifier's salt and iterations, are those of its password.
    pub fn accepts(&self, keys: &Keys) -> bool {
        same(&keys.stored_key(), &self.stored_key)
    }
}

/// Why an exchange ends without a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The peer's message is not one.
    #[error("malformed SCRAM message: expected {0}")]
    Malformed(&'static str),
    /// A legal request that we do not serve.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Parts of the peer's messages contradict each other.
    #[error("invalid SCRAM response: {0}")]
    Mismatch(&'static str),
    /// The client says that no channel binding was offered, which it was: somebody has changed the offer on its way.
    #[error("the offer of channel binding did not reach the client: somebody stands between")]
    Downgraded,
    /// The client was shown another certificate than ours.
    #[error("SCRAM channel binding check failed: the client was shown another certificate")]
    OtherChannel,
    /// The client does not know the password, or there is no such user.
    #[error("password authentication failed")]
    WrongPassword,
    /// The server asks for more rounds than we are willing to do.
    #[error("server asks for {0} SCRAM iterations, more than {MAX_ITERATIONS}")]
    Iterations(u64),
    /// The server does not know the password either: it may be someone else.
    #[error("incorrect server signature")]
    WrongServer,
    /// The server's own word, such as `invalid-proof`.
    #[error("server reports SCRAM error: {0}")]
    Refused(String),
}

impl ToClient for ScramError {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
    fn sqlstate(&self) -> &'static str {
        match self {
            ScramError::Malformed(_) | ScramError::Mismatch(_) => sqlstate::PROTOCOL_VIOLATION,
            ScramError::Unsupported(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            ScramError::Downgraded | ScramError::OtherChannel => sqlstate::INVALID_AUTHORIZATION,
            ScramError::WrongPassword => sqlstate::INVALID_PASSWORD,
            ScramError::Iterations(_) | ScramError::WrongServer | ScramError::Refused(_) => {
                sqlstate::REJECTED_ESTABLISHMENT
            }
        }
    }
    fn message(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

/// The attributes of a message, `a=value` between commas, taken in order.
struct Attributes<'a> {
    left: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn new(message: &'a [u8]) -> Result<Self, ScramError> {
        let text = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("UTF-8"))?;
        if text.contains('\0') {
            return Err(ScramError::Malformed("no NUL"));
        }
        Ok(Attributes { left: Some(text) })
    }

    /// The value of attribute `name`, which must come next.
    fn take(&mut self, name: char, expected: &'static str) -> Result<&'a str, ScramError> {
        let (found, value) = self.any(expected)?;
        if found != name {
            return Err(ScramError::Malformed(expected));
        }
        Ok(value)
    }

    fn any(&mut self, expected: &'static str) -> Result<(char, &'a str), ScramError> {
        let text = self.left.ok_or(ScramError::Malformed(expected))?;
        let (attribute, rest) = match text.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (text, None),
        };
        self.left = rest;
        let (name, value) = attribute.split_once('=').ok_or(ScramError::Malformed(expected))?;
        let mut letters = name.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if letter.is_ascii_alphabetic() => Ok((letter, value)),
            _ => Err(ScramError::Malformed(expected)),
        }
    }

    /// Optional extensions may follow; they must at least be attributes.
    fn extensions(mut self) -> Result<(), ScramError> {
        while self.left.is_some() {
            self.any("an extension attribute")?;
        }
        Ok(())
    }
}

/// RFC 5802's `printable`, at least one.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// RFC 5802's `posit-number`.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

fn decode_key(text: &str, expected: &'static str) -> Result<Key, ScramError> {
    let bytes = STANDARD.decode(text).map_err(|_| ScramError::Malformed(expected))?;
    bytes.try_into().map_err(|_| ScramError::Malformed(expected))
}

fn nonce_text(nonce: [u8; NONCE]) -> String {
    STANDARD.encode(nonce)
}

/// Keyed with what RFC 2104 makes of `key`, so that no length of key is an error.
fn hmac(key: &[u8]) -> Hmac<Sha256> {
    let mut block = Array::default();
    let hashed;
    let key = if key.len() > block.len() {
        hashed = sha256(key);
        &hashed
    } else {
        key
    };
    block.iter_mut().zip(key).for_each(|(slot, byte)| *slot = *byte);
    Hmac::new(&block)
}

fn finish(mac: Hmac<Sha256>) -> Key {
    mac.finalize().into_bytes().into()
}

fn sign(key: &[u8], message: &[u8]) -> Key {
    finish(hmac(key).chain_update(message))
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(a: &Key, b: &Key) -> Key {
    let mut out = *a;
    out.iter_mut().zip(b).for_each(|(x, y)| *x ^= y);
    out
}

fn same(a: &Key, b: &Key) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests;
