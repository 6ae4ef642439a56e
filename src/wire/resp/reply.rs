//! Where a server's replies end.

use super::{LONGEST_LINE, number};

/// Cuts a server's bytes into replies. Keeps only counts, so that nesting costs nothing and no input makes it recurse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplyScan {
    /// Values still to come of the reply that has begun; 0 between replies.
    values: u64,
    /// Bytes still to come of the value that has begun, its CR and LF included.
    body: u64,
    /// Bytes of the unfinished line that hold no end.
    seen: usize,
    /// The reply that has begun is a push message.
    is_push: bool,
}

/// What [`ReplyScan::scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes at the front that belong to the reply. What follows must be shown again, with more behind it if the reply
    /// has not ended: an unfinished line.
    pub used: usize,
    /// The reply ends with them.
    pub is_done: bool,
}

/// Bytes that are no RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// A type byte that no server sends.
    #[error("a reply cannot begin with \"{}\"", .0.escape_ascii())]
    Kind(u8),
    /// A length that is no number or makes no sense.
    #[error("invalid length in a reply")]
    Length,
    /// A line that does not end.
    #[error("a line of a reply is too long")]
    Line,
}

/// Largest value or aggregate that a header may announce: whatever is larger is no length.
const LARGEST: i64 = 1 << 40;

impl ReplyScan {
    /// Between replies: nothing of the next one has been seen.
    pub fn is_idle(&self) -> bool {
        *self == ReplyScan { is_push: self.is_push, ..ReplyScan::default() }
    }

    /// Some of the next reply has been scanned.
    pub fn has_begun(&self) -> bool {
        self.values > 0 || self.body > 0
    }

    /// True if the reply that was scanned last, or is being scanned, is a push message of RESP3: the answer to no
    /// request.
    pub fn is_push(&self) -> bool {
        self.is_push
    }

    /// Bytes still to come of the value that has begun.
    pub fn body_left(&self) -> u64 {
        self.body
    }

    /// Goes on with the reply, or begins the next one.
    ///
    /// # Errors
    /// The bytes cannot be understood any further; the connection has to be closed.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, BadReply> {
        if !self.has_begun()
            && let Some(used) = whole(bytes)
        {
            self.seen = 0;
            self.is_push = false;
            return Ok(Scanned { used, is_done: true });
        }
        let mut at = 0;
        loop {
            if self.body > 0 {
                let here = (bytes.len() - at).min(usize::try_from(self.body).unwrap_or(usize::MAX));
                at += here;
                self.body -= here as u64;
                if self.body > 0 {
                    return Ok(Scanned { used: at, is_done: false });
                }
                if self.values == 0 {
                    return Ok(Scanned { used: at, is_done: true });
                }
            }
            let rest = bytes.get(at..).unwrap_or_default();
            if let Some((kind, number, len)) = number::short_head(rest) {
                self.seen = 0;
                at += len;
                self.take(kind, || Ok(Some(u64::from(number))))?;
            } else if let Some((line, len)) = number::crlf_line(rest, self.seen) {
                self.seen = 0;
                at += len;
                let Some((&kind, text)) = line.split_first() else { return Err(BadReply::Kind(b'\r')) };
                self.take(kind, || count(text))?;
            } else {
                // Values stand in lines too: only a header's length is bounded, and that by its number.
                if rest.len() > LONGEST_LINE && !matches!(rest.first(), Some(b'+' | b'-' | b'(')) {
                    return Err(BadReply::Line);
                }
                self.seen = rest.len();
                return Ok(Scanned { used: at, is_done: false });
            }
            if self.values == 0 && self.body == 0 {
                return Ok(Scanned { used: at, is_done: true });
            }
        }
    }

    /// One line: a whole value, or the header of one. `count` reads the length that stands in it.
    #[inline]
    fn take(&mut self, kind: u8, count: impl FnOnce() -> Result<Option<u64>, BadReply>) -> Result<(), BadReply> {
        if self.values == 0 {
            self.values = 1;
            self.is_push = kind == b'>';
        }
        self.values -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => {
                if let Some(length) = count()? {
                    self.body = length + 2;
                }
            }
            b'*' | b'~' | b'>' => self.expect(count()?.unwrap_or(0))?,
            b'%' => self.expect(count()?.unwrap_or(0) * 2)?,
            // Attributes stand before the value that they describe.
            b'|' => self.expect(count()?.unwrap_or(0) * 2 + 1)?,
            other => return Err(BadReply::Kind(other)),
        }
        Ok(())
    }

    fn expect(&mut self, more: u64) -> Result<(), BadReply> {
        self.values = self.values.checked_add(more).filter(|n| *n <= LARGEST as u64).ok_or(BadReply::Length)?;
        Ok(())
    }
}

/// The length of a reply that has come whole and is of the commonest: OK or a short string. `None`: look at it in
/// earnest. Saves 100 instructions for OK, 60 for a string of 64 bytes (callgrind, the whole program).
#[inline]
fn whole(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'+', b'O', b'K', b'\r', b'\n', ..] => Some(5),
        [b'$', ..] => {
            let (_, length, len) = number::short_head(bytes)?;
            let end = len + usize::from(length) + 2;
            (end <= bytes.len()).then_some(end)
        }
        _ => None,
    }
}

/// A length; `None` for the null of RESP2.
fn count(text: &[u8]) -> Result<Option<u64>, BadReply> {
    match number::parse(text) {
        Some(-1) => Ok(None),
        Some(length) if (0..=LARGEST).contains(&length) => Ok(Some(length as u64)),
        _ => Err(BadReply::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The replies in `bytes`, fed in pieces of at most `piece` bytes.
    fn cut(bytes: &[u8], piece: usize) -> Result<Vec<(Vec<u8>, bool)>, BadReply> {
        let (mut scan, mut kept, mut reply, mut found) = (ReplyScan::default(), Vec::new(), Vec::new(), Vec::new());
        for chunk in bytes.chunks(piece.max(1)) {
            kept.extend_from_slice(chunk);
            loop {
                let scanned = scan.scan(&kept)?;
                reply.extend(kept.drain(..scanned.used));
                if !scanned.is_done {
                    break;
                }
                found.push((std::mem::take(&mut reply), scan.is_push()));
                if kept.is_empty() {
                    break;
                }
            }
        }
        assert!(kept.is_empty() && reply.is_empty(), "nothing is left over");
        Ok(found)
    }

    const REPLIES: [&[u8]; 16] = [
        b"+OK\r\n",
        b"-ERR what\r\n",
        b":-12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nb\n\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n$1\r\na\r\n:1\r\n*2\r\n+x\r\n$-1\r\n",
        b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
        b"~2\r\n#t\r\n,1.5\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"!5\r\nERR x\r\n",
        b"(12345678901234567890\r\n",
    ];

    #[test]
    fn every_reply_ends_where_it_ends_however_it_is_cut() {
        let all = REPLIES.concat();
        for piece in 1..=all.len() {
            let found = cut(&all, piece).expect("all are RESP");
            let texts: Vec<&[u8]> = found.iter().map(|(reply, _)| reply.as_slice()).collect();
            assert_eq!(texts, REPLIES, "in pieces of {piece}");
            assert_eq!(found.iter().filter(|(_, is_push)| *is_push).count(), 1);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for (bytes, error) in [
            (b"x\r\n".as_slice(), BadReply::Kind(b'x')),
            (b"\r\n", BadReply::Kind(b'\r')),
            (b"$a\r\n", BadReply::Length),
            (b"$-2\r\n", BadReply::Length),
            (b"*99999999999999999999\r\n", BadReply::Length),
            (b"$?\r\n", BadReply::Length),
        ] {
            assert_eq!(ReplyScan::default().scan(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        let endless = vec![b'$'; LONGEST_LINE + 2];
        assert_eq!(ReplyScan::default().scan(&endless), Err(BadReply::Line));
    }

    #[test]
    fn nesting_costs_nothing() {
        let mut deep = b"*1\r\n".repeat(200_000);
        deep.extend_from_slice(b":1\r\n");
        let found = cut(&deep, 4096).expect("arrays in arrays");
        assert_eq!(found.len(), 1);
    }

    /// A RESP2 value as bytes.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            "[a-z ]{0,12}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
            any::<i32>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40)
                .prop_map(|body| { [format!("${}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat() }),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop::collection::vec(inner, 0..6)
                .prop_map(|items| [format!("*{}\r\n", items.len()).into_bytes(), items.concat()].concat())
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_crate_at_every_split(values in prop::collection::vec(value(), 1..5), piece in 1usize..64) {
            let bytes = values.concat();
            let found = cut(&bytes, piece).expect("made of RESP");
            let mut at = 0;
            for (reply, _) in &found {
                let (_, used) = redis_protocol::resp2::decode::decode(&bytes[at..])
                    .expect("the crate reads it").expect("it is whole");
                prop_assert_eq!(used, reply.len());
                at += used;
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1usize..32) {
            let mut scan = ReplyScan::default();
            let mut kept = Vec::new();
            'all: for chunk in bytes.chunks(piece) {
                kept.extend_from_slice(chunk);
                while !kept.is_empty() {
                    match scan.scan(&kept) {
                        Ok(scanned) => {
                            kept.drain(..scanned.used);
                            if !scanned.is_done { break; }
                        }
                        Err(_) => break 'all,
                    }
                }
            }
        }
    }
}
