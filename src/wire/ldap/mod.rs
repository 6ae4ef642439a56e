//! LDAP version 3 as far as a login needs it (RFC 4511): a bind, a search for the entry of a user, StartTLS.
//!
//! Bytes in, bytes out; the caller has the socket. What a directory sends is taken apart by `rasn`, whose parser is bounded
//! in depth; in length it is bounded here ([`LONGEST`]). Nothing of what is asked for but names is ever answered: the
//! attributes of entries stay where they are.

mod filter;
mod name;

use rasn::types::OctetString;
use rasn_ldap::{
    AuthenticationChoice, BindRequest, ExtendedRequest, LdapMessage, ProtocolOp, ResultCode, SearchRequest,
    SearchRequestDerefAliases, SearchRequestScope, UnbindRequest,
};
use zeroize::Zeroizing;

pub use filter::{Filter, is_attribute};
pub use name::escaped;

/// Longest message that is taken, bytes. An entry without attributes is a name.
pub const LONGEST: usize = 64 * 1024;

/// The request for TLS (RFC 4511, section 4.14.1).
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// The number of what a server says without having been asked (RFC 4511, section 4.4).
const UNSOLICITED: u32 = 0;

/// How far below its base a search looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// At the base itself.
    Base,
    /// At what stands directly below it.
    One,
    /// At the base and everything below.
    Subtree,
}

/// A search for entries by a filter.
#[derive(Debug, Clone, Copy)]
pub struct Search<'a> {
    /// Name of the entry to begin at.
    pub base: &'a str,
    /// How far from there.
    pub scope: Scope,
    /// With `$username` in it.
    pub filter: &'a Filter,
    /// Stands for `$username`.
    pub user: &'a str,
    /// Entries after which the server may stop; 0 is no limit.
    pub entries: u32,
    /// How long the server may look, seconds; 0 is no limit.
    pub seconds: u32,
}

/// What cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LdapError {
    /// It announces so many bytes.
    #[error("a message of {0} bytes, of which {LONGEST} are taken")]
    TooLong(usize),
    /// The front of it is none of a message.
    #[error("bytes that are no LDAP")]
    NotLdap,
    /// It is whole, and cannot be taken apart.
    #[error("an LDAP message that cannot be read")]
    Unreadable,
    /// A request that cannot be written.
    #[error("a request that cannot be written")]
    Unwritable,
}

/// A bind by name and password. An empty password asks a directory for no proof at all (RFC 4513, section 5.1.2) and an
/// empty name for none either: both are `None`.
///
/// # Errors
/// It cannot be written.
pub fn bind(id: u32, name: &str, password: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, LdapError> {
    if name.is_empty() || password.is_empty() {
        return Ok(None);
    }
    // What the encoder leaves behind in memory holds no password: that takes the place of as many zeros, which end the
    // message.
    let zeros = vec![0; password.len()];
    let request = BindRequest::new(3, name.into(), AuthenticationChoice::Simple(zeros.into()));
    let mut message = written(id, ProtocolOp::BindRequest(request))?;
    let head = message.len().saturating_sub(password.len());
    message.get_mut(head..).ok_or(LdapError::Unwritable)?.copy_from_slice(password);
    Ok(Some(message))
}

/// A search that is answered by the names of entries alone.
///
/// # Errors
/// It cannot be written.
pub fn search(id: u32, wanted: &Search<'_>) -> Result<Zeroizing<Vec<u8>>, LdapError> {
    let scope = match wanted.scope {
        Scope::Base => SearchRequestScope::BaseObject,
        Scope::One => SearchRequestScope::SingleLevel,
        Scope::Subtree => SearchRequestScope::WholeSubtree,
    };
    // "1.1": no attributes (RFC 4511, section 4.5.1.8).
    let attributes = vec!["1.1".into()];
    let request = SearchRequest::new(
        wanted.base.into(),
        scope,
        SearchRequestDerefAliases::NeverDerefAliases,
        wanted.entries,
        wanted.seconds,
        false,
        wanted.filter.about(wanted.user),
        attributes,
    );
    written(id, ProtocolOp::SearchRequest(request))
}

/// Asks for TLS on a connection in clear text.
///
/// # Errors
/// It cannot be written.
pub fn start_tls(id: u32) -> Result<Zeroizing<Vec<u8>>, LdapError> {
    let request = ExtendedRequest { request_name: OctetString::from_static(START_TLS), request_value: None };
    written(id, ProtocolOp::ExtendedReq(request))
}

/// The end of a connection.
///
/// # Errors
/// It cannot be written.
pub fn unbind(id: u32) -> Result<Zeroizing<Vec<u8>>, LdapError> {
    written(id, ProtocolOp::UnbindRequest(UnbindRequest))
}

fn written(id: u32, request: ProtocolOp) -> Result<Zeroizing<Vec<u8>>, LdapError> {
    let written = rasn::ber::encode(&LdapMessage::new(id, request));
    written.map(Zeroizing::new).map_err(|_| LdapError::Unwritable)
}

/// The length of the message at the front of `bytes`; `None`: that cannot be told yet. The message itself may not have
/// come whole.
///
/// # Errors
/// As soon as no more bytes could make it a message that is taken.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, LdapError> {
    let (kind, announced) = match bytes {
        [] => return Ok(None),
        [0x30] => return Ok(None),
        [kind, announced, ..] => (*kind, *announced),
        [_] => return Err(LdapError::NotLdap),
    };
    if kind != 0x30 {
        return Err(LdapError::NotLdap);
    }
    let (head, body) = match announced {
        0..=0x7f => (2, usize::from(announced)),
        // Some directories write four bytes for every length.
        0x81..=0x88 => {
            let digits = usize::from(announced & 0x7f);
            let Some(digits) = bytes.get(2..2 + digits) else { return Ok(None) };
            let body = digits.iter().fold(0_u64, |sum, digit| sum << 8 | u64::from(*digit));
            (2 + digits.len(), usize::try_from(body).unwrap_or(usize::MAX))
        }
        // LDAP knows no indefinite lengths (RFC 4511, section 5.1).
        _ => return Err(LdapError::NotLdap),
    };
    match body.saturating_add(head) {
        whole if whole <= LONGEST => Ok(Some(whole)),
        whole => Err(LdapError::TooLong(whole)),
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a bind.
    Bound(Outcome),
    /// To a search: the name of one entry.
    Entry(String),
    /// To a search: some entries are to be looked for elsewhere.
    Elsewhere,
    /// To a search: that was all.
    Searched(Outcome),
    /// To the request for TLS.
    Extended(Outcome),
    /// It ends the connection.
    Leaves(Outcome),
    /// Something that was not asked for.
    Other,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What became of it.
    pub verdict: Verdict,
    /// In words, with the server's own, for the log.
    pub words: String,
}

/// What the number of an [`Outcome`] means for a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Success,
    /// This name with this password is not let in.
    Refused,
    /// The entry that was asked for is not there.
    Nobody,
    /// There are more entries than were asked for.
    TooMany,
    /// The server cannot at the moment: another one may.
    Busy,
    /// The server will not, whoever asks, or looks for it elsewhere.
    Unable,
}

/// Takes a whole message apart: whose answer it is, and what it says.
///
/// # Errors
/// It is no message of LDAP.
pub fn read(message: &[u8]) -> Result<(u32, Answer), LdapError> {
    let message: LdapMessage = rasn::ber::decode(message).map_err(|_| LdapError::Unreadable)?;
    let answer = match message.protocol_op {
        ProtocolOp::BindResponse(said) => Answer::Bound(outcome(said.result_code, &said.diagnostic_message)),
        ProtocolOp::SearchResEntry(entry) => Answer::Entry(entry.object_name.0),
        ProtocolOp::SearchResRef(_) => Answer::Elsewhere,
        ProtocolOp::SearchResDone(said) => Answer::Searched(outcome(said.0.result_code, &said.0.diagnostic_message)),
        ProtocolOp::ExtendedResp(said) => {
            let outcome = outcome(said.result_code, &said.diagnostic_message);
            if message.message_id == UNSOLICITED { Answer::Leaves(outcome) } else { Answer::Extended(outcome) }
        }
        _ => Answer::Other,
    };
    Ok((message.message_id, answer))
}

fn outcome(code: ResultCode, said: &str) -> Outcome {
    /// Of the server's words, characters.
    const MOST: usize = 200;
    let verdict = match code {
        ResultCode::Success => Verdict::Success,
        ResultCode::NoSuchObject => Verdict::Nobody,
        ResultCode::SizeLimitExceeded => Verdict::TooMany,
        // A locked or expired account is told by the first two, a name that is none by the third.
        ResultCode::InvalidCredentials
        | ResultCode::ConstraintViolation
        | ResultCode::InvalidDnSyntax
        | ResultCode::InappropriateAuthentication => Verdict::Refused,
        ResultCode::Busy | ResultCode::Unavailable => Verdict::Busy,
        _ => Verdict::Unable,
    };
    let said: String = said.chars().filter(|c| !c.is_control()).take(MOST).collect();
    let number = code as u32;
    let words = match said.as_str() {
        "" => format!("{code:?} ({number})"),
        said => format!("{code:?} ({number}): {said}"),
    };
    Outcome { verdict, words }
}

#[cfg(test)]
mod tests;
