//! The side that checks a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    Attributes, ITERATIONS, Key, NONCE, ScramError, Verifier, decode_key, is_nonce, nonce_text, same, sha256, sign, xor,
};

/// Waits for the client's first message.
#[derive(Debug)]
pub struct ScramServer {
    verifier: Verifier,
    doomed: bool,
    nonce: [u8; NONCE],
}

/// Has told salt and iterations, waits for the client's proof.
#[derive(Debug)]
pub struct ServerChallenge {
    verifier: Verifier,
    doomed: bool,
    /// Of the client's first message, repeated by its last one.
    gs2_header: String,
    client_first_bare: String,
    nonce: String,
    message: String,
}

/// The client has proved that it knows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Done {
    /// The data of AuthenticationSASLFinal, which proves us.
    pub server_final: Vec<u8>,
    /// With it, and the server key, servers that keep the same verifier can be logged in to.
    pub client_key: Key,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done(***)")
    }
}

impl ScramServer {
    /// An exchange with a known user. `nonce` must be random and used once.
    pub fn new(verifier: &Verifier, nonce: [u8; NONCE]) -> Self {
        ScramServer { verifier: verifier.clone(), doomed: false, nonce }
    }

    /// An exchange that looks like one with a known user and fails in the end whatever the client knows, so that
    /// nobody learns who exists. The same `secret` (random, one for the process) gives a user the same salt each time.
    pub fn mock(secret: &[u8; 32], user: &str, nonce: [u8; NONCE]) -> Self {
        let key = |purpose: &[u8]| sign(secret, &[purpose, user.as_bytes()].concat());
        let verifier = Verifier {
            iterations: ITERATIONS,
            salt: mock_salt(secret, user).to_vec(),
            stored_key: key(b"stored key\0"),
            server_key: key(b"server key\0"),
        };
        ScramServer { verifier, doomed: true, nonce }
    }

    /// Reads the data of SASLInitialResponse: the gs2 header and the client's first message.
    pub fn first(self, client_first: &[u8]) -> Result<ServerChallenge, ScramError> {
        let whole = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed("UTF-8"))?;
        let (flag, rest) = whole.split_once(',').ok_or(ScramError::Malformed("a gs2 header"))?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => {
                return Err(ScramError::Unsupported("client demands channel binding, which is not offered"));
            }
            _ => return Err(ScramError::Malformed("channel-binding flag \"n\" or \"y\"")),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("a gs2 header"))?;
        match authzid {
            "" => {}
            _ if authzid.starts_with("a=") => {
                return Err(ScramError::Unsupported("client uses authorization identity, but it is not supported"));
            }
            _ => return Err(ScramError::Malformed("an empty authorization identity")),
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
        }

        let mut attributes = Attributes::new(bare.as_bytes())?;
        // PostgreSQL's clients leave the name empty: the startup packet gave it.
        attributes.take('n', "attribute \"n\"")?;
        let client_nonce = attributes.take('r', "attribute \"r\"")?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Malformed("a nonce of printable characters"));
        }
        attributes.extensions()?;

        let nonce = format!("{client_nonce}{}", nonce_text(self.nonce));
        let salt = STANDARD.encode(&self.verifier.salt);
        let message = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        Ok(ServerChallenge {
            gs2_header: format!("{flag},{authzid},"),
            client_first_bare: bare.to_owned(),
            nonce,
            message,
            verifier: self.verifier,
            doomed: self.doomed,
        })
    }
}

impl ServerChallenge {
    /// The data of AuthenticationSASLContinue.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Reads the data of SASLResponse and judges the client's proof.
    pub fn last(self, client_final: &[u8]) -> Result<Done, ScramError> {
        let mut attributes = Attributes::new(client_final)?;
        let binding = attributes.take('c', "attribute \"c\"")?;
        if binding != STANDARD.encode(&self.gs2_header) {
            return Err(ScramError::Mismatch("channel binding does not match the first message"));
        }
        if attributes.take('r', "attribute \"r\"")? != self.nonce {
            return Err(ScramError::Mismatch("nonce does not match"));
        }
        let proof = loop {
            match attributes.any("attribute \"p\"")? {
                ('p', proof) => break proof,
                _ => continue,
            }
        };
        if attributes.left.is_some() {
            return Err(ScramError::Malformed("the proof as last attribute"));
        }
        let proof = decode_key(proof, "a proof of 32 bytes")?;
        // What was signed is everything before ",p=": commas cannot stand inside of the proof.
        let signed = client_final.rsplitn(2, |&byte| byte == b',').nth(1).unwrap_or_default();

        let exchange = [self.client_first_bare.as_bytes(), b",", self.message.as_bytes(), b",", signed].concat();
        let client_key = xor(&proof, &sign(&self.verifier.stored_key, &exchange));
        let known = same(&sha256(&client_key), &self.verifier.stored_key);
        let signature = sign(&self.verifier.server_key, &exchange);
        if !known || self.doomed {
            return Err(ScramError::WrongPassword);
        }
        let server_final = format!("v={}", STANDARD.encode(signature)).into_bytes();
        Ok(Done { server_final, client_key })
    }
}

/// The salt that an unknown user is shown. Deriving clear-text passwords with it as well leaves known and unknown
/// users alike in every respect.
pub fn mock_salt(secret: &[u8; 32], user: &str) -> [u8; 16] {
    let [salt @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        sign(secret, &[b"salt\0", user.as_bytes()].concat());
    salt
}

#[cfg(test)]
impl ScramServer {
    /// As `mock` does, but with a verifier that someone knows the password of.
    pub(super) fn doom(&mut self) {
        self.doomed = true;
    }
}

#[cfg(test)]
impl ServerChallenge {
    /// In the middle of an exchange of the test's choice.
    pub(super) fn with(verifier: Verifier, client_first_bare: &str, nonce: &str, message: &str) -> Self {
        ServerChallenge {
            verifier,
            doomed: false,
            gs2_header: "n,,".to_owned(),
            client_first_bare: client_first_bare.to_owned(),
            nonce: nonce.to_owned(),
            message: message.to_owned(),
        }
    }
}
