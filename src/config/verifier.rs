//! The shape of a stored password, as PostgreSQL's `get_password_type` tells it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::wire::pg::scram::Verifier;

/// What kind of text a password is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Clear,
    Md5,
    ScramSha256,
}

/// Length of a SHA-256 digest, and so of both keys of a verifier.
const SHA256_LEN: usize = 32;

/// Tells a verifier from clear text. What starts like a verifier and is not one is an error, because it was surely
/// not meant as clear text; the error continues a sentence about the password and repeats no part of it.
pub(super) fn kind(password: &str) -> Result<Kind, &'static str> {
    if let Some(rest) = password.strip_prefix("SCRAM-SHA-256$") {
        return scram(rest).map(|()| Kind::ScramSha256);
    }
    if let Some(digest) = password.strip_prefix("md5") {
        let is_lower_hex = digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        return match digest.len() {
            32 if is_lower_hex => Ok(Kind::Md5),
            32 => Err("starts with md5 but is not followed by 32 lower-case hexadecimal digits"),
            24..=64 if is_lower_hex => {
                Err("looks like an md5 verifier but does not have 32 hexadecimal digits; was it cut off?")
            }
            _ => Ok(Kind::Clear),
        };
    }
    Ok(Kind::Clear)
}

/// Whether a client can prove either password in one exchange: that is by one method, and tells it one salt and one
/// number of iterations.
pub(super) fn can_both_be_asked_for(one: &str, other: &str) -> bool {
    match (Verifier::parse(one), Verifier::parse(other)) {
        (Some(one), Some(other)) => one.is_derived_as(&other),
        (Some(_), None) => kind(other) != Ok(Kind::Md5),
        (None, Some(_)) => kind(one) != Ok(Kind::Md5),
        (None, None) => true,
    }
}

/// `ITERATIONS:SALT$STOREDKEY:SERVERKEY`, the last three in base64.
fn scram(rest: &str) -> Result<(), &'static str> {
    let shape = "is not a verifier of the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY";
    let (head, keys) = rest.split_once('$').ok_or(shape)?;
    let (iterations, salt) = head.split_once(':').ok_or(shape)?;
    let (stored_key, server_key) = keys.split_once(':').ok_or(shape)?;
    if !iterations.parse::<u32>().is_ok_and(|n| n > 0) {
        return Err("is a SCRAM-SHA-256 verifier whose number of iterations is wrong");
    }
    if STANDARD.decode(salt).is_ok_and(|salt| !salt.is_empty()) {
        let is_key = |text: &str| STANDARD.decode(text).is_ok_and(|key| key.len() == SHA256_LEN);
        if is_key(stored_key) && is_key(server_key) {
            return Ok(());
        }
        return Err("is a SCRAM-SHA-256 verifier whose keys are not 32 bytes in base64; was it cut off?");
    }
    Err("is a SCRAM-SHA-256 verifier whose salt is not base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn verifiers_are_told_from_clear_text() {
        assert_eq!(kind("secret"), Ok(Kind::Clear));
        assert_eq!(kind("md5sum"), Ok(Kind::Clear));
        assert_eq!(kind("md5900150983cd24fb0d6963f7d28e17f72"), Ok(Kind::Md5));
        assert_eq!(kind(SCRAM), Ok(Kind::ScramSha256));
    }

    #[test]
    fn verifiers_that_were_cut_off_are_not_taken_as_clear_text() {
        assert!(kind("md5900150983cd24fb0d6963f7d28e17f7").is_err());
        assert!(kind("md5900150983CD24FB0D6963F7D28E17F72").is_err());
        assert!(kind(&SCRAM[..SCRAM.len() - 2]).is_err());
        assert!(kind("SCRAM-SHA-256$4096:c2FsdA==").is_err());
        assert!(kind("SCRAM-SHA-256$0:c2FsdA==$a:b").is_err());
        assert!(kind("SCRAM-SHA-256$4096:?$a:b").is_err());
    }
}
