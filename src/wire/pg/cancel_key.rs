//! The keys by which clients cancel: made by us, because a client's server changes from one transaction to the next.

use std::fmt;

use subtle::ConstantTimeEq;

/// Bytes of a secret for protocol 3.0 and 3.1, where its length is fixed.
const SHORT: usize = 4;
/// Bytes of a secret from protocol 3.2 on.
const LONG: usize = 32;

/// A secret that is compared in constant time and never shown.
#[derive(Clone)]
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Shortest legal secret, in bytes.
    pub const MIN: usize = 4;
    /// Longest legal secret, in bytes.
    pub const MAX: usize = 256;

    /// `None` unless the length is legal.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&bytes.len()).then(|| SecretBytes(bytes.into()))
    }

    /// To be written into a BackendKeyData or CancelRequest message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(***, {} bytes)", self.0.len())
    }
}

/// What BackendKeyData tells a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// Positive. No process has it; it only finds the session.
    pub process_id: i32,
    /// What proves that the session is the caller's.
    pub secret: SecretBytes,
}

impl CancelKey {
    /// A random key for a client that speaks protocol 3.`minor`. Fails only if the system has no randomness.
    /// The caller draws again when `process_id` is taken.
    pub fn generate(minor: u16) -> Result<Self, getrandom::Error> {
        let mut secret = [0; LONG];
        getrandom::fill(&mut secret)?;
        let len = if minor >= 2 { LONG } else { SHORT };
        let secret = secret.get(..len).unwrap_or_default();
        Ok(CancelKey { process_id: process_id()?, secret: SecretBytes(secret.into()) })
    }

    /// Whether a CancelRequest may cancel this session.
    pub fn allows(&self, process_id: i32, secret: &SecretBytes) -> bool {
        self.process_id == process_id && self.secret == *secret
    }
}

fn process_id() -> Result<i32, getrandom::Error> {
    loop {
        // The top bit goes: libpq and drivers read an Int32.
        let drawn = (getrandom::u32()? >> 1) as i32;
        if drawn != 0 {
            return Ok(drawn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn secrets_have_the_length_of_the_protocol() {
        for (minor, len) in [(0, 4), (1, 4), (2, 32)] {
            let key = CancelKey::generate(minor).unwrap();
            assert_eq!(key.secret.as_bytes().len(), len, "3.{minor}");
        }
    }

    #[test]
    fn keys_are_positive_and_differ() {
        let keys: Vec<_> = (0..1000).map(|_| CancelKey::generate(2).unwrap()).collect();
        assert!(keys.iter().all(|key| key.process_id > 0));
        let ids: HashSet<_> = keys.iter().map(|key| key.process_id).collect();
        let secrets: HashSet<_> = keys.iter().map(|key| key.secret.as_bytes().to_vec()).collect();
        assert!(ids.len() > 990, "{} of 1000 process ids differ", ids.len());
        assert_eq!(secrets.len(), 1000);
    }

    #[test]
    fn only_the_whole_key_allows_a_cancel() {
        let key = CancelKey::generate(0).unwrap();
        let mut other = key.secret.as_bytes().to_vec();
        assert!(key.allows(key.process_id, &SecretBytes::new(&other).unwrap()));
        assert!(!key.allows(key.process_id ^ 1, &key.secret));
        other.push(0);
        assert!(!key.allows(key.process_id, &SecretBytes::new(&other).unwrap()));
        other.pop();
        other[3] ^= 1;
        assert!(!key.allows(key.process_id, &SecretBytes::new(&other).unwrap()));
    }

    #[test]
    fn secrets_are_bounded_and_redacted() {
        assert!(SecretBytes::new(&[0; 3]).is_none());
        assert!(SecretBytes::new(&[0; 257]).is_none());
        assert_eq!(format!("{:?}", SecretBytes::new(&[7; 4]).unwrap()), "SecretBytes(***, 4 bytes)");
    }
}
