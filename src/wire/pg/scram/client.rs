//! The side that logs in to a server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    Attributes, BY_END_POINT, Binding, Key, Keys, MAX_ITERATIONS, NONCE, ScramError, decode_key, derive, is_nonce,
    nonce_text, same, sign, xor,
};

/// What is said of channel binding, and that there is no other identity.
fn gs2_header(binding: &Binding) -> &'static str {
    match binding {
        Binding::Impossible => "n,,",
        Binding::Unused => "y,,",
        Binding::EndPoint(_) => BY_END_POINT,
    }
}

/// Begins an exchange.
#[derive(Debug)]
pub struct ScramClient {
    nonce: String,
    message: String,
    binding: Binding,
}

/// Knows the server's salt and iterations: now the keys are needed.
#[derive(Debug)]
pub struct ClientChallenge {
    salt: Vec<u8>,
    iterations: u32,
    nonce: String,
    /// The client's first message without its header, a comma, and the server's first message.
    exchange: String,
    binding: Binding,
}

/// Has its proof, waits for the server's.
#[derive(Debug)]
pub struct ClientProof {
    message: String,
    server_signature: Key,
}

impl ScramClient {
    /// `nonce` must be random and used once.
    pub fn new(nonce: [u8; NONCE]) -> Self {
        Self::bound(nonce, Binding::Impossible)
    }

    /// As [`ScramClient::new`], on an encrypted connection.
    pub fn bound(nonce: [u8; NONCE], binding: Binding) -> Self {
        let nonce = nonce_text(nonce);
        ScramClient { message: format!("{}n=,r={nonce}", gs2_header(&binding)), nonce, binding }
    }

    /// The data of SASLInitialResponse.
    pub fn first(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Reads the data of AuthenticationSASLContinue.
    pub fn challenge(self, server_first: &[u8]) -> Result<ClientChallenge, ScramError> {
        let mut attributes = Attributes::new(server_first)?;
        let nonce = match attributes.any("attribute \"r\"")? {
            ('r', nonce) => nonce,
            ('e', error) => return Err(ScramError::Refused(error.to_owned())),
            ('m', _) => {
                return Err(ScramError::Unsupported("server requires an unsupported SCRAM extension"));
            }
            _ => return Err(ScramError::Malformed("attribute \"r\"")),
        };
        if !is_nonce(nonce) {
            return Err(ScramError::Malformed("a nonce of printable characters"));
        }
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Mismatch("nonce does not extend ours"));
        }
        let salt = attributes.take('s', "attribute \"s\"")?;
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed("a salt in base64"))?;
        let iterations = iterations(attributes.take('i', "attribute \"i\"")?)?;
        attributes.extensions()?;

        let server_first = std::str::from_utf8(server_first).map_err(|_| ScramError::Malformed("UTF-8"))?;
        let bare = self.message.strip_prefix(gs2_header(&self.binding)).unwrap_or_default();
        let exchange = format!("{bare},{server_first}");
        Ok(ClientChallenge { salt, iterations, nonce: nonce.to_owned(), exchange, binding: self.binding })
    }
}

impl ClientChallenge {
    /// With which the keys are derived.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// With which the keys are derived; at most [`MAX_ITERATIONS`].
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The keys that this server wants of a password. Slow, see [`derive()`]; worth keeping while salt and iterations
    /// stay the same.
    pub fn derive(&self, password: &[u8]) -> Keys {
        derive(password, &self.salt, self.iterations)
    }

    /// Proves the password by its keys.
    pub fn respond(self, keys: &Keys) -> ClientProof {
        let binding = self.binding.attribute(gs2_header(&self.binding));
        let signed = format!("c={binding},r={}", self.nonce);
        let exchange = format!("{},{signed}", self.exchange);
        let proof = xor(&keys.client_key, &sign(&keys.stored_key(), exchange.as_bytes()));
        ClientProof {
            message: format!("{signed},p={}", STANDARD.encode(proof)),
            server_signature: sign(&keys.server_key, exchange.as_bytes()),
        }
    }
}

impl ClientProof {
    /// The data of SASLResponse.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Reads the data of AuthenticationSASLFinal. Only with `Ok` has the server proved that it knows the password's
    /// verifier; a login without this message must not be accepted.
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(server_final)?;
        let signature = match attributes.any("attribute \"v\"")? {
            ('v', signature) => decode_key(signature, "a signature of 32 bytes")?,
            ('e', error) => return Err(ScramError::Refused(error.to_owned())),
            _ => return Err(ScramError::Malformed("attribute \"v\"")),
        };
        attributes.extensions()?;
        if same(&signature, &self.server_signature) { Ok(()) } else { Err(ScramError::WrongServer) }
    }
}

fn iterations(text: &str) -> Result<u32, ScramError> {
    let expected = ScramError::Malformed("a number of iterations");
    if text.is_empty() || text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected);
    }
    let asked = text.parse().unwrap_or(u64::MAX);
    match u32::try_from(asked) {
        Ok(iterations) if iterations <= MAX_ITERATIONS => Ok(iterations),
        _ => Err(ScramError::Iterations(asked)),
    }
}

#[cfg(test)]
impl ScramClient {
    /// An exchange with a first message of the test's choice.
    pub(super) fn with(message: &str, nonce: &str) -> Self {
        ScramClient { message: message.to_owned(), nonce: nonce.to_owned(), binding: Binding::Impossible }
    }
}
