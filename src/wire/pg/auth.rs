//! What is known about a user's password, and what can be done with it on either side.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::md5;
use super::scram::{self, Verifier};

/// A user's secret, as configured or as found in `pg_authid.rolpassword`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The password itself: serves everyone.
    Clear(Zeroizing<String>),
    /// `SCRAM-SHA-256$...`: checks clients, and after such a check has the client's key for servers with the same
    /// verifier.
    Scram(Verifier),
    /// `md5` and 32 digits: serves both sides, but only by MD5.
    Md5(Zeroizing<String>),
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Sent as it is.
    Cleartext,
    /// AuthenticationMD5Password.
    Md5,
    /// SASL with SCRAM-SHA-256.
    ScramSha256,
}

/// A secret that has a verifier's beginning but not its form. Its text is not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "begins with \"SCRAM-SHA-256$\" but is no verifier; expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
)]
pub struct BadVerifier;

impl Credential {
    /// Tells verifiers and passwords apart by their form, as PostgreSQL does. Stricter in one case: a damaged SCRAM
    /// verifier is an error instead of a password that nobody knows.
    pub fn parse(text: &str) -> Result<Self, BadVerifier> {
        if md5::is_verifier(text) {
            return Ok(Credential::Md5(text.to_owned().into()));
        }
        match Verifier::parse(text) {
            Some(verifier) => Ok(Credential::Scram(verifier)),
            None if text.starts_with("SCRAM-SHA-256$") => Err(BadVerifier),
            None => Ok(Credential::Clear(text.to_owned().into())),
        }
    }

    /// As it was configured or found: what [`Credential::parse`] makes the same of.
    pub fn text(&self) -> Zeroizing<String> {
        match self {
            Credential::Clear(text) | Credential::Md5(text) => text.clone(),
            Credential::Scram(verifier) => verifier.format().into(),
        }
    }

    /// Whether a client can be checked by `method`.
    pub fn serves_client(&self, method: Method) -> bool {
        match (self, method) {
            (_, Method::Cleartext) | (Credential::Clear(_), _) => true,
            (Credential::Scram(_), method) => method == Method::ScramSha256,
            (Credential::Md5(_), method) => method == Method::Md5,
        }
    }

    /// Whether a server that asks for `method` can be satisfied. `with_client_key` tells that a client's exchange
    /// has left its key.
    pub fn serves_server(&self, method: Method, with_client_key: bool) -> bool {
        match self {
            Credential::Clear(_) => true,
            Credential::Scram(_) => method == Method::ScramSha256 && with_client_key,
            Credential::Md5(_) => method == Method::Md5,
        }
    }

    /// The stored form for MD5, made or had; `None` for SCRAM.
    pub fn md5_verifier(&self, user: &str) -> Option<String> {
        match self {
            Credential::Clear(password) => Some(md5::verifier(password.as_bytes(), user.as_bytes())),
            Credential::Md5(verifier) => Some(String::clone(verifier)),
            Credential::Scram(_) => None,
        }
    }

    /// Checks a password that came in the clear. Slow for SCRAM, see [`scram::derive`].
    pub fn verify_clear(&self, user: &str, password: &[u8]) -> bool {
        match self {
            Credential::Clear(known) => known.as_bytes().ct_eq(password).into(),
            Credential::Scram(verifier) => {
                verifier.accepts(&scram::derive(password, &verifier.salt, verifier.iterations))
            }
            Credential::Md5(known) => {
                let shown = md5::verifier(password, user.as_bytes());
                known.as_bytes().ct_eq(shown.as_bytes()).into()
            }
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Clear(_) => "Clear(***)",
            Credential::Scram(_) => "Scram(***)",
            Credential::Md5(_) => "Md5(***)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Method; 3] = [Method::Cleartext, Method::Md5, Method::ScramSha256];

    fn all() -> [Credential; 3] {
        let verifier = Verifier::derive(b"s3cret", b"0123456789abcdef", 2);
        let md5 = md5::verifier(b"s3cret", b"app");
        ["s3cret".to_owned(), verifier.format(), md5].map(|text| Credential::parse(&text).unwrap())
    }

    #[test]
    fn its_text_is_read_as_the_same() {
        for known in all() {
            assert!(Credential::parse(&known.text()).unwrap() == known);
        }
    }

    #[test]
    fn the_form_tells_what_a_secret_is() {
        let [clear, scram, md5] = all();
        assert!(matches!(clear, Credential::Clear(_)));
        assert!(matches!(scram, Credential::Scram(_)));
        assert!(matches!(md5, Credential::Md5(_)));
        for password in ["", "md5", "md5 is my favourite", "SCRAM-SHA-256", "md5ABCDEF0123456789ABCDEF0123456789"] {
            assert_eq!(Credential::parse(password), Ok(Credential::Clear(password.to_owned().into())), "{password}");
        }
        for broken in ["SCRAM-SHA-256$", "SCRAM-SHA-256$4096:c2FsdA==$AAAA:BBBB"] {
            assert_eq!(Credential::parse(broken), Err(BadVerifier), "{broken}");
        }
    }

    #[test]
    fn each_secret_serves_what_it_can() {
        let [clear, scram, md5] = all();
        let client = |c: &Credential| METHODS.map(|method| c.serves_client(method));
        assert_eq!(client(&clear), [true, true, true]);
        assert_eq!(client(&scram), [true, false, true]);
        assert_eq!(client(&md5), [true, true, false]);
        let server = |c: &Credential, key| METHODS.map(|method| c.serves_server(method, key));
        assert_eq!(server(&clear, false), [true, true, true]);
        assert_eq!(server(&scram, false), [false, false, false]);
        assert_eq!(server(&scram, true), [false, false, true]);
        assert_eq!(server(&md5, true), [false, true, false]);
    }

    #[test]
    fn passwords_in_the_clear_are_checked_against_every_form() {
        for credential in all() {
            assert!(credential.verify_clear("app", b"s3cret"), "{credential:?}");
            assert!(!credential.verify_clear("app", b"s3cre"), "{credential:?}");
            assert!(!credential.verify_clear("app", b""), "{credential:?}");
        }
    }

    #[test]
    fn md5_verifiers_are_made_or_had() {
        let [clear, scram, md5] = all();
        assert_eq!(clear.md5_verifier("app"), md5.md5_verifier("app"));
        assert_eq!(scram.md5_verifier("app"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        for credential in all() {
            let shown = format!("{credential:?}");
            assert!(shown.ends_with("(***)"), "{shown}");
        }
        let Credential::Scram(verifier) = &all()[1] else { panic!("the second is SCRAM") };
        assert_eq!(format!("{verifier:?}"), "Verifier(2 iterations, ***)");
    }
}
