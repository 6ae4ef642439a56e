//! Whose certificate it is: the names in a certificate that the handshake of TLS has verified already.
//!
//! The words are those of OpenSSL, which PostgreSQL compares with `clientcert`, `cert` and the maps of `pg_ident.conf`:
//! what stands in such a file means the same certificate here.

use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::RdnSequence;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The short names of OpenSSL's table of objects, for those that stand in names.
const SHORT_NAMES: &[(ObjectIdentifier, &str)] = &[
    (COMMON_NAME, "CN"),
    (ObjectIdentifier::new_unwrap("2.5.4.4"), "SN"),
    (ObjectIdentifier::new_unwrap("2.5.4.5"), "serialNumber"),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C"),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L"),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST"),
    (ObjectIdentifier::new_unwrap("2.5.4.9"), "street"),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "O"),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "OU"),
    (ObjectIdentifier::new_unwrap("2.5.4.12"), "title"),
    (ObjectIdentifier::new_unwrap("2.5.4.13"), "description"),
    (ObjectIdentifier::new_unwrap("2.5.4.15"), "businessCategory"),
    (ObjectIdentifier::new_unwrap("2.5.4.16"), "postalAddress"),
    (ObjectIdentifier::new_unwrap("2.5.4.17"), "postalCode"),
    (ObjectIdentifier::new_unwrap("2.5.4.18"), "postOfficeBox"),
    (ObjectIdentifier::new_unwrap("2.5.4.20"), "telephoneNumber"),
    (ObjectIdentifier::new_unwrap("2.5.4.41"), "name"),
    (ObjectIdentifier::new_unwrap("2.5.4.42"), "GN"),
    (ObjectIdentifier::new_unwrap("2.5.4.43"), "initials"),
    (ObjectIdentifier::new_unwrap("2.5.4.44"), "generationQualifier"),
    (ObjectIdentifier::new_unwrap("2.5.4.45"), "x500UniqueIdentifier"),
    (ObjectIdentifier::new_unwrap("2.5.4.46"), "dnQualifier"),
    (ObjectIdentifier::new_unwrap("2.5.4.65"), "pseudonym"),
    (ObjectIdentifier::new_unwrap("2.5.4.97"), "organizationIdentifier"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"), "UID"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.3"), "mail"),
    (ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"), "DC"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"), "emailAddress"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.2"), "unstructuredName"),
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.8"), "unstructuredAddress"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.1"), "jurisdictionL"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.2"), "jurisdictionST"),
    (ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.60.2.1.3"), "jurisdictionC"),
];

/// The common name of the subject of a DER certificate: the first one, should there be several. `None` if there is none,
/// if it holds a zero byte (which could make it pass for another), or is no text.
pub fn common_name(der: &[u8]) -> Option<String> {
    let subject = subject(der)?;
    let mut all = subject.0.iter().flat_map(|set| set.0.iter());
    let first = all.find(|attribute| attribute.oid == COMMON_NAME)?;
    // Its 16-bit text is full of zero bytes, for which PostgreSQL refuses it.
    let text = text(first).filter(|_| first.value.tag() != Tag::BmpString)?;
    (!text.contains('\0')).then_some(text)
}

/// The distinguished name of the subject of a DER certificate as RFC 2253 writes it, the last part first:
/// `CN=app,OU=Web,O=Example`. What is not ASCII is escaped byte by byte: `CN=M\C3\BCller`. `None` if the certificate
/// cannot be read or its subject is empty.
pub fn distinguished_name(der: &[u8]) -> Option<String> {
    let subject = subject(der)?;
    let mut out = String::new();
    for set in subject.0.iter().rev() {
        // Of several values in one part the order is that of their encoding, the other way round as well.
        for (i, attribute) in set.0.iter().rev().enumerate() {
            if !out.is_empty() {
                out.push(if i == 0 { ',' } else { '+' });
            }
            write_attribute(&mut out, attribute)?;
        }
    }
    (!out.is_empty()).then_some(out)
}

fn subject(der: &[u8]) -> Option<RdnSequence> {
    Some(Certificate::from_der(der).ok()?.tbs_certificate.subject)
}

fn write_attribute(out: &mut String, attribute: &AttributeTypeAndValue) -> Option<()> {
    let name = SHORT_NAMES.iter().find(|(oid, _)| *oid == attribute.oid).map(|(_, name)| *name);
    match (name, text(attribute)) {
        (Some(name), Some(text)) => {
            out.push_str(name);
            out.push('=');
            write_escaped(out, &text);
        }
        // An attribute or a type of value that has no agreed text is written as its bytes.
        (name, _) => {
            out.push_str(&name.map_or_else(|| attribute.oid.to_string(), str::to_owned));
            out.push_str("=#");
            for byte in attribute.value.to_der().ok()? {
                out.push_str(&format!("{byte:02X}"));
            }
        }
    }
    Some(())
}

/// The value of an attribute, if it is text.
fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let bytes = attribute.value.value();
    let pairs = || bytes.chunks(2).map(|pair| pair.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
    match attribute.value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        Tag::TeletexString => Some(bytes.iter().map(|b| char::from(*b)).collect()),
        Tag::BmpString => pairs().map(char::from_u32).collect(),
        _ => None,
    }
}

/// Section 2.4 of RFC 2253, with control characters and whatever is not ASCII as `\XX`.
fn write_escaped(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(byte)]),
            b'#' if i == 0 => out.push_str("\\#"),
            b' ' if i == 0 || i == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("\\{other:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn der(base64: &str) -> Vec<u8> {
        STANDARD.decode(base64).expect("base64")
    }

    /// Made by openssl 3.0, as are the names expected below (`openssl x509 -subject -nameopt RFC2253`).
    const ODD: &str = "\
        MIICtDCCAlkCFF9Y/5n+aZy2783fBhhs7Nhzft+CMAoGCCqGSM49BAMCMIHbMQswCQYDVQQGEwJERTEjMCEGA1UECgwaRXhhLCBt\
        cGxlKyAiR21iSCIgPGE+Oz1iXGMxGDAKBgNVBAsMA29uZTAKBgNVBAsMA3R3bzEWMBQGA1UEAwwNI03DvGxsZXIg4oCZeDEUMBIG\
        CSqGSIb3DQEJARYFYUBiLmMxDDAKBgNTBAUMA29kZDERMA8GCgmSJomT8ixkARkWAXgxEjAQBgoJkiaJk/IsZAEBDAJ1MTELMAkG\
        A1UEDAwCI3QxDDAKBgNVBCoMA2cgaDEPMA0GA1UEAwwGc2Vjb25kMB4XDTI2MTEyMjE0NDAwNFoXDTM2MTExOTE0NDAwNFowgdsx\
        CzAJBgNVBAYTAkRFMSMwIQYDVQQKDBpFeGEsIG1wbGUrICJHbWJIIiA8YT47PWJcYzEYMAoGA1UECwwDb25lMAoGA1UECwwDdHdv\
        MRYwFAYDVQQDDA0jTcO8bGxlciDigJl4MRQwEgYJKoZIhvcNAQkBFgVhQGIuYzEMMAoGA1MEBQwDb2RkMREwDwYKCZImiZPyLGQB\
        GRYBeDESMBAGCgmSJomT8ixkAQEMAnUxMQswCQYDVQQMDAIjdDEMMAoGA1UEKgwDZyBoMQ8wDQYDVQQDDAZzZWNvbmQwWTATBgcq\
        hkjOPQIBBggqhkjOPQMBBwNCAASt2UuPHNvSiG8WoHy69A+SzBAricWLVyk93uLdOZuwzMbjmfz3pCticyQf1lrqks7vI1S54DwJ\
        GKh3kU+9ks4gMAoGCCqGSM49BAMCA0kAMEYCIQCyFKljyfDZSbzG+fk5+aRhKxfL64LXYnGVaMG/Yo26bQIhAKHDaoEtMA13xTkd\
        RDN4pMTfoNWkuPwAJLucilALGRiP";
    /// Its names are of 16-bit characters (BMPString).
    const WIDE: &str = "\
        MIIBSjCB8QIUIAHV724vE4wXfN7MAyYJaBS4aWwwCgYIKoZIzj0EAwIwKDEVMBMGA1UECx4MAFoA/AByAGkAYwBoMQ8wDQYDVQQD\
        HgYAYQBwAHAwHhcNMjYxMTIyMTQzOTMxWhcNMzYxMTE5MTQzOTMxWjAoMRUwEwYDVQQLHgwAWgD8AHIAaQBjAGgxDzANBgNVBAMe\
        BgBhAHAAcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEHUX2k/qFQhyJg8z1p1wtOhtX4XiILpVmdj8FFDrVKKFba65FwOov1E\
        v2uUJlWe0Us24bEBadYcJyu0uAexw2UwCgYIKoZIzj0EAwIDSAAwRQIge7okzUsfLcd6Mrc53rUdP0gfYQ70dw9+yyjyk1XmI2QC\
        IQCX5YSUD+HVdxkAbpvPjloaIw1rnEExxUT5eYsX9MwoPg==";
    /// Its subject is empty.
    const EMPTY: &str = "\
        MIIBVTCB+6ADAgECAhQbbnPl3fNPIe6lvH3BD6LmW5xbXDAKBggqhkjOPQQDAjAAMB4XDTI2MTEyMjE0NDAwNFoXDTM2MTExOTE0\
        NDAwNFowADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJmx+hcPOptbQhdu2nPgftrpBw0gbiMmGw22GEn7y+5s24FzxyR4fBJK\
        QJvnrDDXHV7M+L6RTne08Z1dz3AruCCjUzBRMB0GA1UdDgQWBBSGqGu5r9sepbjxanUoRPZtqRJDejAfBgNVHSMEGDAWgBSGqGu5\
        r9sepbjxanUoRPZtqRJDejAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kAMEYCIQDN6w46f2uPiUCxDH7cvngovzxgjvUQ\
        6SaimaX7i9qbbAIhANUxvs2YYil+MnkqcSVWZXFLgHOMPe7644JYxstoIgM1";

    #[test]
    fn names_are_written_as_openssl_writes_them() {
        let odd = der(ODD);
        assert_eq!(common_name(&odd).as_deref(), Some("#M\u{fc}ller \u{2019}x"), "the first of two");
        assert_eq!(
            distinguished_name(&odd).as_deref(),
            Some(
                "CN=second,GN=g h,title=\\#t,UID=u1,DC=x,2.3.4.5=#0C036F6464,emailAddress=a@b.c,\
                 CN=\\#M\\C3\\BCller \\E2\\80\\99x,OU=two+OU=one,\
                 O=Exa\\, mple\\+ \\\"GmbH\\\" \\<a\\>\\;=b\\\\c,C=DE"
            )
        );
    }

    #[test]
    fn a_name_with_zero_bytes_is_no_common_name() {
        assert_eq!(common_name(&der(WIDE)), None);
        assert_eq!(distinguished_name(&der(WIDE)).as_deref(), Some("CN=app,OU=Z\\C3\\BCrich"));
    }

    #[test]
    fn what_names_nobody_has_no_name() {
        for nobody in [der(EMPTY), Vec::new(), der(ODD).split_off(1), b"not a certificate".to_vec()] {
            assert_eq!((common_name(&nobody), distinguished_name(&nobody)), (None, None));
        }
    }

    #[test]
    fn spaces_at_the_ends_are_escaped() {
        let escaped = |text: &str| {
            let mut out = String::new();
            write_escaped(&mut out, text);
            out
        };
        assert_eq!(escaped(" a b "), "\\ a b\\ ");
        assert_eq!(escaped("#a#\u{7f}\t\0"), "\\#a#\\7F\\09\\00");
        assert_eq!(escaped(""), "");
    }
}
