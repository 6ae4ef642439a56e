//! MD5 password authentication, for servers and clients that are not further than that.
//!
//! The stored form is `md5` and 32 hexadecimal digits of `md5(password || user)`; over the wire goes `md5` and the
//! digits of `md5(stored digits || salt)`. Whoever has the stored form can log in with it, so it is as secret as the
//! password.

use std::fmt::Write;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

const PREFIX: &str = "md5";
const DIGITS: usize = 32;

/// The stored form of a password.
pub fn verifier(password: &[u8], user: &[u8]) -> String {
    hashed(&[password, user])
}

/// Whether `text` has the stored form's shape, which PostgreSQL takes for one too.
pub fn is_verifier(text: &str) -> bool {
    text.strip_prefix(PREFIX)
        .is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// The answer to AuthenticationMD5Password: PasswordMessage carries it. `verifier` is the stored form.
pub fn response(verifier: &str, salt: [u8; 4]) -> String {
    let digits = verifier.strip_prefix(PREFIX).unwrap_or(verifier);
    hashed(&[digits.as_bytes(), &salt])
}

/// Whether a client's answer proves the password, in time that does not depend on the answer's text.
pub fn verify(answer: &[u8], verifier: &str, salt: [u8; 4]) -> bool {
    response(verifier, salt).as_bytes().ct_eq(answer).into()
}

fn hashed(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = String::with_capacity(PREFIX.len() + DIGITS);
    text.push_str(PREFIX);
    for byte in hash.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::md5_hash;

    // SET password_encryption = 'md5'; CREATE ROLE app PASSWORD 's3cret'; SELECT rolpassword FROM pg_authid;
    const STORED: &str = "md5f543b608e355623527b0e4f12e5981e8";

    #[test]
    fn the_stored_form_is_postgresqls() {
        assert_eq!(verifier(b"s3cret", b"app"), STORED);
        assert!(is_verifier(STORED));
        for other in ["", "md5", "md5f543b608e355623527b0e4f12e5981e80", "md5zz", &STORED.to_uppercase(), &STORED[1..]]
        {
            assert!(!is_verifier(other), "{other}");
        }
    }

    #[test]
    fn answers_agree_with_another_implementation() {
        for (user, password, salt) in [("app", "s3cret", *b"salt"), ("", "", [0; 4]), ("ü", "pä", [255, 0, 1, 2])] {
            let expected = md5_hash(user.as_bytes(), password.as_bytes(), salt);
            let stored = verifier(password.as_bytes(), user.as_bytes());
            assert_eq!(response(&stored, salt), expected);
            assert!(verify(expected.as_bytes(), &stored, salt));
            assert!(!verify(expected.as_bytes(), &stored, [9; 4]));
            assert!(!verify(&expected.as_bytes()[..34], &stored, salt));
            assert!(!verify(b"", &stored, salt));
        }
    }
}
