//! The PROXY protocol, versions 1 and 2: what a load balancer says in front of a connection that it relays.
//!
//! Source: HAProxy's `doc/proxy-protocol.txt`. The header is read before anything else, from whatever found the port; it
//! is bounded by [`LONGEST`]. Never guessed: whoever calls knows that this sender has to begin with one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, its line end included.
const LONGEST_LINE: usize = 107;
/// The longest header that is taken: the extensions (TLVs) of version 2 are of no use here, but may hold certificates.
pub const LONGEST: usize = 16 + 16 * 1024;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8; 6] = b"PROXY ";

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The load balancer's own, such as a health check (`LOCAL`).
    Balancer,
    /// A client's whose address is not told (`UNKNOWN`, `UNSPEC`, a Unix socket).
    Somebody,
    /// This client's.
    Client(SocketAddr),
}

/// Why a header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Something else came.
    #[error("no PROXY header, which this address has to send first")]
    Absent,
    /// It is one, and cannot be understood.
    #[error("invalid PROXY header: expected {0}")]
    Invalid(&'static str),
    /// So many bytes are announced.
    #[error("the PROXY header is too long: at most {LONGEST} bytes are taken, {0} are announced")]
    TooLong(usize),
}

/// Reads the header at the front of `bytes`, and its length. `None`: it has not come whole.
///
/// # Errors
/// As soon as no more bytes could make it a header.
pub fn header(bytes: &[u8]) -> Result<Option<(Sender, usize)>, ProxyError> {
    if begins(bytes, SIGNATURE) {
        return binary(bytes);
    }
    if begins(bytes, LINE) {
        return line(bytes);
    }
    Err(ProxyError::Absent)
}

/// As much of `start` as there are bytes.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(one, other)| one == other)
}

fn line(bytes: &[u8]) -> Result<Option<(Sender, usize)>, ProxyError> {
    let bounded = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', bounded) else {
        return if bounded.len() < LONGEST_LINE { Ok(None) } else { Err(ProxyError::Invalid("a line end")) };
    };
    let text = bounded.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let text = text.ok_or(ProxyError::Invalid("CR before LF"))?;
    let text = std::str::from_utf8(text).map_err(|_| ProxyError::Invalid("ASCII"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let sender = match words.as_slice() {
        // What follows is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Sender::Somebody,
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            let (address, _) = (ip::<Ipv4Addr>(from)?, ip::<Ipv4Addr>(to)?);
            let (port, _) = (port(from_port)?, port(to_port)?);
            Sender::Client((address, port).into())
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            let (address, _) = (ip::<Ipv6Addr>(from)?, ip::<Ipv6Addr>(to)?);
            let (port, _) = (port(from_port)?, port(to_port)?);
            Sender::Client((address, port).into())
        }
        ["PROXY", "TCP4" | "TCP6", ..] => return Err(ProxyError::Invalid("two addresses and two ports")),
        _ => return Err(ProxyError::Invalid("TCP4, TCP6 or UNKNOWN")),
    };
    Ok(Some((sender, end + 1)))
}

fn ip<T: std::str::FromStr>(text: &str) -> Result<T, ProxyError> {
    text.parse().map_err(|_| ProxyError::Invalid("an address of the family that is named"))
}

fn port(text: &str) -> Result<u16, ProxyError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_number).ok_or(ProxyError::Invalid("a port from 0 to 65535"))
}

fn binary(bytes: &[u8]) -> Result<Option<(Sender, usize)>, ProxyError> {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else { return Ok(None) };
    let [.., command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 {
        return Err(ProxyError::Invalid("version 2 behind the signature"));
    }
    let whole = head.len() + length;
    if whole > LONGEST {
        return Err(ProxyError::TooLong(whole));
    }
    let needed = match (command & 0xf, family) {
        (0, _) | (1, 0x00) => 0,
        (1, 0x11) => 12,
        (1, 0x21) => 36,
        (1, 0x31) => 216,
        (1, _) => return Err(ProxyError::Invalid("a TCP connection over IPv4, IPv6 or a Unix socket")),
        _ => return Err(ProxyError::Invalid("the command LOCAL or PROXY")),
    };
    if length < needed {
        return Err(ProxyError::Invalid("a length that holds the addresses"));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let sender = match (command & 0xf, family, body) {
        (0, ..) => Sender::Balancer,
        (_, 0x11, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            Sender::Client((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])).into())
        }
        (_, 0x21, body) => match (body.first_chunk::<16>(), body.get(32..)) {
            (Some(address), Some([high, low, ..])) => {
                Sender::Client((Ipv6Addr::from(*address), u16::from_be_bytes([*high, *low])).into())
            }
            _ => return Err(ProxyError::Invalid("a length that holds the addresses")),
        },
        _ => Sender::Somebody,
    };
    Ok(Some((sender, whole)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2.
    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
    }

    fn client(text: &str) -> Sender {
        Sender::Client(text.parse().unwrap())
    }

    const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x19, 0x20];

    fn v6() -> Vec<u8> {
        let (from, to): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "::2".parse().unwrap());
        [from.octets().as_slice(), &to.octets(), &[0x30, 0x39, 0x19, 0x20]].concat()
    }

    fn headers() -> Vec<(Vec<u8>, Sender)> {
        let tlvs = |body: &[u8]| [body, &[0xea, 0, 3, 1, 2, 3], &[4; 300]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 6432\r\n".to_vec(), client("192.0.2.1:12345")),
            (b"PROXY TCP6 2001:db8::1 ::2 12345 6432\r\n".to_vec(), client("[2001:db8::1]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Sender::Somebody),
            (b"PROXY UNKNOWN ffff::1 whatever 0 65536\r\n".to_vec(), Sender::Somebody),
            (v2(0x21, 0x11, V4), client("192.0.2.1:12345")),
            (v2(0x21, 0x11, &tlvs(V4)), client("192.0.2.1:12345")),
            (v2(0x21, 0x21, &v6()), client("[2001:db8::1]:12345")),
            (v2(0x21, 0x21, &tlvs(&v6())), client("[2001:db8::1]:12345")),
            (v2(0x21, 0x31, &[0; 216]), Sender::Somebody),
            (v2(0x21, 0x00, b""), Sender::Somebody),
            (v2(0x21, 0x00, &tlvs(b"")), Sender::Somebody),
            (v2(0x20, 0x00, b""), Sender::Balancer),
            (v2(0x20, 0x11, &tlvs(V4)), Sender::Balancer),
        ]
    }

    #[test]
    fn a_header_is_found_whole_at_every_split_and_what_follows_is_left() {
        for (bytes, sender) in headers() {
            let followed = [&bytes, b"\0\0\0\x08".as_slice()].concat();
            for n in 0..=followed.len() {
                let expected = (n >= bytes.len()).then_some((sender, bytes.len()));
                assert_eq!(header(&followed[..n]), Ok(expected), "{n} bytes of {}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_the_first_byte_that_shows_it() {
        for (bytes, at) in [(b"\0\0\0\x08".as_slice(), 1), (b"PROXZ", 5), (b"*1\r\n", 1), (b"\r\n\r\n\0\r\nQUIX", 11)] {
            for n in 0..=bytes.len() {
                let expected = if n < at { Ok(None) } else { Err(ProxyError::Absent) };
                assert_eq!(header(&bytes[..n]), expected, "{n} bytes of {}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        for bytes in [
            b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 65536\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 012 6432\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +12 6432\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 12\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 12 13 14\r\n",
            b"PROXY TCP4 2001:db8::1 ::2 12 13\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.2 12 13\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.2 12 13\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 12 13\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 12 13\r\n",
            b"PROXY TCP4 \xff 198.51.100.2 12 13\r\n",
            b"PROXY \r\n",
            &[b'P', b'R', b'O', b'X', b'Y', b' '].into_iter().chain([b'x'; 101]).collect::<Vec<_>>(),
            &v2(0x11, 0x11, V4),
            &v2(0x22, 0x11, V4),
            &v2(0x21, 0x11, &V4[..11]),
            &v2(0x21, 0x21, &v6()[..35]),
            &v2(0x21, 0x31, &[0; 215]),
            &v2(0x21, 0x12, V4),
            &v2(0x21, 0x41, V4),
        ] {
            assert!(matches!(header(bytes), Err(ProxyError::Invalid(_))), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_header_is_refused_for_its_length_before_it_has_come() {
        let bytes = v2(0x21, 0x11, &vec![0; LONGEST]);
        assert_eq!(header(&bytes[..16]), Err(ProxyError::TooLong(16 + LONGEST)));
        let longest = v2(0x20, 0, &vec![0; LONGEST - 16]);
        assert_eq!(header(&longest), Ok(Some((Sender::Balancer, LONGEST))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_an_end_once_found_stays(mut bytes: Vec<u8>, start in 0..3usize, more: Vec<u8>) {
            let start = [b"".as_slice(), LINE, SIGNATURE][start];
            bytes.splice(0..0, start.iter().copied());
            let found = header(&bytes);
            let followed = [bytes.as_slice(), &more].concat();
            match found {
                Ok(Some((_, length))) => {
                    prop_assert!(length <= bytes.len());
                    prop_assert_eq!(header(&followed), found);
                }
                Err(error) => prop_assert_eq!(header(&followed), Err(error)),
                Ok(None) => prop_assert!(bytes.len() < LONGEST),
            }
        }
    }
}
