//! The replies that Forebay makes itself, in both versions of the protocol.

use serde::{Deserialize, Serialize};

/// Version of the protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Version {
    /// RESP2, which every connection begins with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

impl Version {
    /// As in `HELLO`.
    pub fn number(self) -> i64 {
        match self {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        }
    }
}

/// `+OK`
pub const OK: &[u8] = b"+OK\r\n";
/// What a command answers that waits for its EXEC.
pub const QUEUED: &[u8] = b"+QUEUED\r\n";

/// `+text`
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// `-text`, which begins with its code. Line ends become spaces.
pub fn error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
    out.extend_from_slice(b"\r\n");
}

/// `:number`
pub fn integer(out: &mut Vec<u8>, number: i64) {
    line(out, b':', number.to_string().as_bytes());
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, text: &[u8]) {
    line(out, b'$', text.len().to_string().as_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Text that a person reads: a verbatim string where there are any.
pub fn text(out: &mut Vec<u8>, version: Version, text: &[u8]) {
    match version {
        Version::Resp2 => bulk(out, text),
        Version::Resp3 => {
            line(out, b'=', (text.len() + 4).to_string().as_bytes());
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// No value.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"$-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// No list: what an EXEC answers whose keys have changed, and a pop that waited in vain.
pub fn null_array(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"*-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// The head of a list of `len` values.
pub fn array(out: &mut Vec<u8>, len: usize) {
    line(out, b'*', len.to_string().as_bytes());
}

/// The head of a map of `len` pairs.
pub fn map(out: &mut Vec<u8>, version: Version, len: usize) {
    match version {
        Version::Resp2 => array(out, len * 2),
        Version::Resp3 => line(out, b'%', len.to_string().as_bytes()),
    }
}

/// The head of a message that answers no request: a list where there are none.
pub fn push(out: &mut Vec<u8>, version: Version, len: usize) {
    match version {
        Version::Resp2 => array(out, len),
        Version::Resp3 => line(out, b'>', len.to_string().as_bytes()),
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_own_shapes() {
        let made = |version| {
            let mut out = Vec::new();
            null(&mut out, version);
            null_array(&mut out, version);
            map(&mut out, version, 1);
            push(&mut out, version, 2);
            text(&mut out, version, b"hi");
            out
        };
        assert_eq!(made(Version::Resp2), b"$-1\r\n*-1\r\n*2\r\n*2\r\n$2\r\nhi\r\n");
        assert_eq!(made(Version::Resp3), b"_\r\n_\r\n%1\r\n>2\r\n=6\r\ntxt:hi\r\n");
    }

    #[test]
    fn an_error_is_one_line() {
        let mut out = Vec::new();
        error(&mut out, b"ERR a\r\nb");
        assert_eq!(out, b"-ERR a  b\r\n");
    }
}
