//! Where a client's requests end, and the first of their words.

use super::inline::is_space;
use super::{LONGEST_LINE, number};

/// How many words of a request are remembered by place: the command, its subcommand and the first keys.
const HEADS: usize = 4;
/// What a TLS handshake begins with: its type, and the first byte of a version that is the same for all.
const HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// Where a word stands, bytes from the start of its request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub from: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Span {
    /// The word, `None` if it is not there yet.
    #[inline]
    pub fn of<'a>(&self, request: &'a [u8]) -> Option<&'a [u8]> {
        request.get(self.from..self.from + self.len)
    }
}

/// One whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// All of it, bytes.
    pub len: usize,
    /// Its words, the command included.
    pub words: u32,
    heads: [Span; HEADS],
}

impl Request {
    /// The place of word `n`; `None` if there are not as many, or it is beyond those that are remembered.
    #[inline]
    pub fn word(&self, n: usize) -> Option<Span> {
        self.heads.get(n).copied().filter(|_| n < self.words as usize)
    }
}

/// What a client may send. Redis is stricter with those who have not logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Words of a request.
    pub words: i64,
    /// Bytes of a word (`proto-max-bulk-len`).
    pub bulk: i64,
}

impl Bounds {
    /// As Redis' defaults.
    pub const USUAL: Bounds = Bounds { words: 1024 * 1024, bulk: 512 * 1024 * 1024 };
    /// Before AUTH (since Redis 6.2.6).
    pub const STRANGER: Bounds = Bounds { words: 10, bulk: 16 * 1024 };
}

/// What stands at the front of a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The request has not ended yet.
    More,
    /// A request.
    Request(Request),
    /// An inline command: this many bytes, its line end included.
    Inline(usize),
    /// Nothing to answer: an empty line or an array without words, this many bytes.
    Nothing(usize),
}

/// Why a client is closed; `Display` is what Redis says behind `-ERR `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The beginning of a TLS handshake (RFC 8446, section 5.1); no command begins so.
    #[error("Protocol error: a TLS handshake, where clear text is spoken")]
    Tls,
    /// An inline command without an end.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// The line with the number of words does not end.
    #[error("Protocol error: too big mbulk count string")]
    CountTooLong,
    /// The number of words is none, or too large.
    #[error("Protocol error: invalid multibulk length")]
    Count,
    /// The same, before AUTH.
    #[error("Protocol error: unauthenticated multibulk length")]
    StrangersCount,
    /// The line with the length of a word does not end.
    #[error("Protocol error: too big bulk count string")]
    LengthTooLong,
    /// A word that is no bulk string.
    #[error("Protocol error: expected '$', got '{}'", within_a_line(*.0))]
    NoBulk(u8),
    /// The length of a word is none, or too large.
    #[error("Protocol error: invalid bulk length")]
    Length,
    /// The same, before AUTH.
    #[error("Protocol error: unauthenticated bulk length")]
    StrangersLength,
}

/// An error is a line: what would end it is a space there, as in Redis.
fn within_a_line(byte: u8) -> char {
    if matches!(byte, b'\r' | b'\n') { ' ' } else { char::from(byte) }
}

/// Cuts a client's bytes into requests. Keeps its place in an incomplete one: show it the bytes from the start of the
/// request again, with more behind them, or [`RequestScan::pass`] those that have gone on already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestScan {
    /// Place from the start of the request (or from what was passed): everything before is scanned.
    at: usize,
    /// Words of the request; 0 before its header.
    words: u32,
    /// Words still to come, the one that has begun included.
    left: u32,
    /// Bytes of the unfinished word beyond `at`, its CR and LF included.
    body: usize,
    /// Bytes behind `at` that hold no LF.
    seen: usize,
    heads: [Span; HEADS],
}

impl RequestScan {
    /// The words of the unfinished request whose place is known so far.
    pub fn heads(&self) -> &[Span] {
        let known = (self.words - self.left) as usize + usize::from(self.body > 0);
        self.heads.get(..known.min(HEADS)).unwrap_or_default()
    }

    /// Bytes still to come of the word that has begun; 0 if none has.
    pub fn body_left(&self) -> usize {
        self.body
    }

    /// Bytes from the front that have been understood; what follows is the beginning of a line.
    pub fn scanned(&self) -> usize {
        self.at
    }

    /// The first `n` bytes that were shown have gone on: from now on bytes behind them are shown. What is known of the
    /// request's words is lost.
    pub fn pass(&mut self, n: usize) {
        self.at = self.at.saturating_sub(n);
        self.heads = Default::default();
    }

    /// Goes on with the request, or begins the next one. `bytes` begin where the request begins.
    ///
    /// # Errors
    /// The client cannot be understood any further.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8], bounds: Bounds) -> Result<Found, ProtocolError> {
        if self.words == 0 {
            match bytes.first() {
                None => return Ok(Found::More),
                Some(b'*') => {}
                Some(_) => return self.inline(bytes),
            }
            if let Some(request) = whole(bytes) {
                self.seen = 0;
                return Ok(Found::Request(request));
            }
            let (words, len) = if let Some((_, words, len)) = number::short_head(bytes) {
                self.seen = 0;
                (i64::from(words), len)
            } else {
                let Some((line, len)) = self.line(bytes, ProtocolError::CountTooLong)? else { return Ok(Found::More) };
                let digits = line.get(1..).filter(|_| is_strict(bytes, len)).unwrap_or_default();
                (number::parse(digits).ok_or(ProtocolError::Count)?, len)
            };
            if words > bounds.words {
                let is_stranger = bounds.words < Bounds::USUAL.words;
                return Err(if is_stranger { ProtocolError::StrangersCount } else { ProtocolError::Count });
            }
            if words <= 0 {
                *self = RequestScan::default();
                return Ok(Found::Nothing(len));
            }
            self.at = len;
            self.words = u32::try_from(words).map_err(|_| ProtocolError::Count)?;
            self.left = self.words;
        }
        while self.left > 0 {
            if self.body == 0 {
                let rest = bytes.get(self.at..).unwrap_or_default();
                let (length, len) = if let Some((b'$', length, len)) = number::short_head(rest) {
                    self.seen = 0;
                    (i64::from(length), len)
                } else {
                    let Some((line, len)) = self.line(rest, ProtocolError::LengthTooLong)? else {
                        return Ok(Found::More);
                    };
                    let length = match line.split_first() {
                        Some((b'$', digits)) if is_strict(rest, len) => {
                            number::parse(digits).ok_or(ProtocolError::Length)?
                        }
                        Some((b'$', _)) => return Err(ProtocolError::Length),
                        Some((other, _)) => return Err(ProtocolError::NoBulk(*other)),
                        None => return Err(ProtocolError::NoBulk(b'\r')),
                    };
                    (length, len)
                };
                if length > bounds.bulk && bounds.bulk < Bounds::USUAL.bulk {
                    return Err(ProtocolError::StrangersLength);
                }
                if !(0..=bounds.bulk).contains(&length) {
                    return Err(ProtocolError::Length);
                }
                let length = usize::try_from(length).map_err(|_| ProtocolError::Length)?;
                self.at += len;
                if let Some(head) = self.heads.get_mut((self.words - self.left) as usize) {
                    *head = Span { from: self.at, len: length };
                }
                self.body = length + 2;
            }
            let here = bytes.len().saturating_sub(self.at).min(self.body);
            self.at += here;
            self.body -= here;
            if self.body > 0 {
                return Ok(Found::More);
            }
            self.left -= 1;
        }
        let request = Request { len: self.at, words: self.words, heads: self.heads };
        *self = RequestScan::default();
        Ok(Found::Request(request))
    }

    fn inline(&mut self, bytes: &[u8]) -> Result<Found, ProtocolError> {
        if bytes.starts_with(&HANDSHAKE) {
            return Err(ProtocolError::Tls);
        }
        let Some((line, len)) = self.line(bytes, ProtocolError::InlineTooLong)? else { return Ok(Found::More) };
        let is_empty = line.iter().all(|byte| is_space(*byte));
        *self = RequestScan::default();
        Ok(if is_empty { Found::Nothing(len) } else { Found::Inline(len) })
    }

    fn line<'a>(
        &mut self,
        bytes: &'a [u8],
        too_long: ProtocolError,
    ) -> Result<Option<(&'a [u8], usize)>, ProtocolError> {
        match number::line(bytes, self.seen) {
            Some(found) => {
                self.seen = 0;
                Ok(Some(found))
            }
            None if bytes.len() > LONGEST_LINE => Err(too_long),
            None => {
                self.seen = bytes.len();
                Ok(None)
            }
        }
    }
}

/// A request of few and short words that has come whole, as nearly all: no place in it has to be kept. The bounds allow
/// any such. `None`: look at it in earnest. Saves 100 instructions for a SET of 64 bytes, 70 for a GET (callgrind, the
/// whole program with 16 commands at once).
#[inline]
fn whole(bytes: &[u8]) -> Option<Request> {
    let (_, words, mut at) = number::short_head(bytes)?;
    if words == 0 || usize::from(words) > HEADS {
        return None;
    }
    let mut heads = [Span::default(); HEADS];
    for head in heads.iter_mut().take(usize::from(words)) {
        let (b'$', length, len) = number::short_head(bytes.get(at..)?)? else { return None };
        *head = Span { from: at + len, len: usize::from(length) };
        at += len + usize::from(length) + 2;
    }
    (at <= bytes.len()).then_some(Request { len: at, words: u32::from(words), heads })
}

/// Redis looks for the CR and skips what follows it: a line that ends otherwise would mean something else to it, and
/// what it takes for the next request would be answered to somebody else on a shared connection.
fn is_strict(bytes: &[u8], len: usize) -> bool {
    bytes.get(..len).is_some_and(|line| line.ends_with(b"\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::resp::encode;
    use proptest::prelude::*;

    /// What `bytes` hold, fed in pieces: words of requests, lines of inline commands.
    fn cut(bytes: &[u8], piece: usize, bounds: Bounds) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut scan, mut kept, mut found) = (RequestScan::default(), Vec::new(), Vec::new());
        for chunk in bytes.chunks(piece.max(1)) {
            kept.extend_from_slice(chunk);
            loop {
                let len = match scan.scan(&kept, bounds)? {
                    Found::More => break,
                    Found::Nothing(len) => len,
                    Found::Inline(len) => {
                        found.push(vec![kept[..len].trim_ascii().to_vec()]);
                        len
                    }
                    Found::Request(request) => {
                        let words = (0..request.words as usize).filter_map(|n| request.word(n));
                        found.push(words.filter_map(|word| word.of(&kept)).map(<[u8]>::to_vec).collect());
                        request.len
                    }
                };
                kept.drain(..len);
            }
        }
        assert!(kept.is_empty(), "nothing is left over");
        Ok(found)
    }

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn requests_are_cut_at_every_split() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nb\r\n$2\r\n\r\n\r\n set x 1\n";
        for piece in 1..=bytes.len() {
            let found = cut(bytes, piece, Bounds::USUAL).expect("all are requests");
            let expected =
                vec![words(&["GET", "k"]), words(&["PING"]), words(&["MSET", "a", "", "b"]), words(&["set x 1"])];
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_tls_handshake_is_no_command() {
        assert_eq!(cut(b"\x16\x03\x01\x02\x00\x01\n", 1, Bounds::USUAL), Err(ProtocolError::Tls));
        assert_eq!(cut(b"\x16\x04\n", 1, Bounds::USUAL), Ok(vec![vec![b"\x16\x04".to_vec()]]));
    }

    #[test]
    fn errors_are_redis_own() {
        for (bytes, bounds, text) in [
            (b"*a\r\n".as_slice(), Bounds::USUAL, "Protocol error: invalid multibulk length"),
            (b"*1048577\r\n", Bounds::USUAL, "Protocol error: invalid multibulk length"),
            (b"*11\r\n", Bounds::STRANGER, "Protocol error: unauthenticated multibulk length"),
            (b"*1\n$4\r\nPING\r\n", Bounds::USUAL, "Protocol error: invalid multibulk length"),
            (b"*1\r\n$4\nPING\r\n", Bounds::USUAL, "Protocol error: invalid bulk length"),
            (b"*1\r\n:1\r\n", Bounds::USUAL, "Protocol error: expected '$', got ':'"),
            (b"*1\r\n\r\n", Bounds::USUAL, "Protocol error: expected '$', got ' '"),
            (b"*1\r\n$-1\r\n", Bounds::USUAL, "Protocol error: invalid bulk length"),
            (b"*1\r\n$536870913\r\n", Bounds::USUAL, "Protocol error: invalid bulk length"),
            (b"*1\r\n$16385\r\n", Bounds::STRANGER, "Protocol error: unauthenticated bulk length"),
        ] {
            let error = RequestScan::default().scan(bytes, bounds).expect_err("it is none");
            assert_eq!(error.to_string(), text, "{}", bytes.escape_ascii());
        }
        for (first, text) in
            [(b'x', "Protocol error: too big inline request"), (b'*', "Protocol error: too big mbulk count string")]
        {
            let endless = vec![first; LONGEST_LINE + 1];
            let error = RequestScan::default().scan(&endless, Bounds::USUAL).expect_err("it has no end");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_large_value_can_pass_while_its_request_goes_on() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &[b"SET".as_slice(), b"k", &vec![b'v'; 100_000], b"NX"]);
        let mut scan = RequestScan::default();
        let first = &bytes[..5000];
        assert_eq!(scan.scan(first, Bounds::USUAL), Ok(Found::More));
        assert_eq!(scan.heads().first().and_then(|word| word.of(first)), Some(b"SET".as_slice()));
        assert!(scan.body_left() > 90_000);
        scan.pass(5000);
        let second = &bytes[5000..80_000];
        assert_eq!(scan.scan(second, Bounds::USUAL), Ok(Found::More));
        scan.pass(second.len());
        let third = &bytes[80_000..];
        assert!(
            matches!(scan.scan(third, Bounds::USUAL), Ok(Found::Request(r)) if r.len == third.len() && r.words == 4)
        );
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_found_again(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 1..5), 1..6),
            piece in 1usize..80,
        ) {
            let mut bytes = Vec::new();
            requests.iter().for_each(|request| encode(&mut bytes, request));
            let found = cut(&bytes, piece, Bounds::USUAL);
            prop_assert_eq!(found, Ok(requests));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = RequestScan::default();
            for end in 0..bytes.len() {
                if !matches!(scan.scan(&bytes[..end], Bounds::USUAL), Ok(Found::More)) {
                    break;
                }
            }
        }
    }
}
