//! The side that checks a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    Attributes, BY_END_POINT, Binding, ITERATIONS, Key, NONCE, ScramError, Verifier, decode_key, is_nonce, nonce_text,
    same, sha256, sign, xor,
};

/// Waits for the client's first message.
#[derive(Debug)]
pub struct ScramServer {
    verifier: Verifier,
    other: Option<Verifier>,
    doomed: bool,
    nonce: [u8; NONCE],
    binding: Binding,
}

/// Has told salt and iterations, waits for the client's proof.
#[derive(Debug)]
pub struct ServerChallenge {
    verifier: Verifier,
    other: Option<Verifier>,
    doomed: bool,
    binding: Binding,
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
    /// The one of the verifiers whose password it was.
    pub verifier: Verifier,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done(***)")
    }
}

impl ScramServer {
    /// An exchange with a known user. `nonce` must be random and used once.
    pub fn new(verifier: &Verifier, nonce: [u8; NONCE]) -> Self {
        ScramServer { verifier: verifier.clone(), other: None, doomed: false, nonce, binding: Binding::Impossible }
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
        ScramServer { verifier, other: None, doomed: true, nonce, binding: Binding::Impossible }
    }

    /// Another password is right as well, while one is being replaced by the other. The client is told one salt and one
    /// number of iterations: a verifier with others is passed over.
    pub fn or(self, other: Option<&Verifier>) -> Self {
        let fits = |other: &&Verifier| other.is_derived_as(&self.verifier);
        ScramServer { other: other.filter(fits).cloned(), ..self }
    }

    /// The client has chosen [`Binding::mechanism`].
    pub fn bound(self, binding: Binding) -> Self {
        ScramServer { binding, ..self }
    }

    /// Reads the data of SASLInitialResponse: the gs2 header and the client's first message.
    pub fn first(self, client_first: &[u8]) -> Result<ServerChallenge, ScramError> {
        let whole = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed("UTF-8"))?;
        let (flag, rest) = whole.split_once(',').ok_or(ScramError::Malformed("a gs2 header"))?;
        self.check_flag(flag)?;
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
            other: self.other,
            doomed: self.doomed,
            binding: self.binding,
        })
    }

    /// What the client says of channel binding must fit what was offered and chosen: whoever takes an offer away on its
    /// way to the client cannot take the client's word for that away.
    fn check_flag(&self, flag: &str) -> Result<(), ScramError> {
        match (&self.binding, flag) {
            (Binding::EndPoint(_), _) if BY_END_POINT.strip_suffix(",,") == Some(flag) => Ok(()),
            (Binding::EndPoint(_), _) if flag.starts_with("p=") => {
                Err(ScramError::Unsupported("channel binding is offered by tls-server-end-point only"))
            }
            (Binding::EndPoint(_), "n" | "y") => {
                Err(ScramError::Mismatch("SCRAM-SHA-256-PLUS was chosen without channel binding"))
            }
            (Binding::Unused, "n") | (Binding::Impossible, "n" | "y") => Ok(()),
            (Binding::Unused, "y") => Err(ScramError::Downgraded),
            (Binding::Unused, _) if flag.starts_with("p=") => {
                Err(ScramError::Mismatch("channel binding without SCRAM-SHA-256-PLUS"))
            }
            (Binding::Impossible, _) if flag.starts_with("p=") => {
                Err(ScramError::Unsupported("client demands channel binding, which is not offered"))
            }
            _ => Err(ScramError::Malformed("channel-binding flag \"n\", \"y\" or \"p\"")),
        }
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
        if binding != self.binding.attribute(&self.gs2_header) {
            return Err(match self.binding {
                Binding::EndPoint(_) => ScramError::OtherChannel,
                _ => ScramError::Mismatch("channel binding does not match the first message"),
            });
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
        // Each is tried whatever the one before was, so that time tells nothing.
        let tries = [Some(self.verifier), self.other].into_iter().flatten().map(|verifier| {
            let client_key = xor(&proof, &sign(&verifier.stored_key, &exchange));
            let known = same(&sha256(&client_key), &verifier.stored_key);
            let signature = sign(&verifier.server_key, &exchange);
            known.then(|| Done {
                server_final: format!("v={}", STANDARD.encode(signature)).into_bytes(),
                client_key,
                verifier,
            })
        });
        let tries: Vec<_> = tries.collect();
        tries.into_iter().flatten().next().filter(|_| !self.doomed).ok_or(ScramError::WrongPassword)
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
            other: None,
            doomed: false,
            binding: Binding::Impossible,
            gs2_header: "n,,".to_owned(),
            client_first_bare: client_first_bare.to_owned(),
            nonce: nonce.to_owned(),
            message: message.to_owned(),
        }
    }
}
