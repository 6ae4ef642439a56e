//! What a login is bound to: the hash of a server's certificate (`tls-server-end-point`, RFC 5929, section 4.1).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// The hash of a certificate in DER by the function that its signature uses, with SHA-256 for MD5 and SHA-1. `None` if
/// the signature has no function of its own (Ed25519), or names it elsewhere (RSASSA-PSS): such a certificate cannot be
/// bound to.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    Some(match parsed.signature_algorithm.oid.to_string().as_str() {
        // RSA with MD5, SHA-1 or SHA-256; ECDSA with SHA-1 or SHA-256 (RFC 8017, appendix A.2.4; RFC 5758).
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Sha224::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_cannot_be_bound_to() {
        assert_eq!(end_point(b""), None);
        assert_eq!(end_point(b"\x30\x03\x02\x01\x01"), None);
    }
}
