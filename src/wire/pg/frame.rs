//! Where messages begin and end: type byte and length, nothing else.
//!
//! Relayed traffic is cut here and nowhere else, so this is the hottest parser of the program. A client may only send
//! the types of the table below; a server may send types that we do not know, which are passed on.

use std::borrow::Cow;
use std::ops::Range;

use super::sqlstate::{self, Severity, ToClient};

/// Bytes of a message's head: type and length.
pub const HEAD: usize = 5;

/// What the front of a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The head is not complete yet.
    Need,
    /// A message begins here.
    Frame {
        /// The type byte.
        kind: u8,
        /// All of its bytes, type byte and length included: at least 5.
        len: usize,
    },
    /// No message can begin like this; the connection cannot be understood any further.
    Bad(BadFrame),
}

/// Why a head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A type byte that no client may send.
    #[error("invalid frontend message type {0}")]
    Kind(u8),
    /// A length outside of what the type allows.
    #[error("invalid length {length} of message type \"{}\"", .kind.escape_ascii())]
    Length {
        /// The type byte.
        kind: u8,
        /// The length as sent (it counts itself, but not the type byte).
        length: i32,
    },
}

impl ToClient for BadFrame {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }
    fn sqlstate(&self) -> &'static str {
        sqlstate::PROTOCOL_VIOLATION
    }
    fn message(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_string())
    }
}

/// Which side's messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Only the types of [`CLIENT_KINDS`].
    Client,
    /// Any type.
    Server,
}

/// Names are short and these messages carry nothing else, so that one read of a relay always holds them whole.
const NAMES: i32 = 64 * 1024;
/// Streamed, never held whole.
const STREAM: i32 = i32::MAX;

/// The types a client may send after its startup packet: type, name and longest length field
/// (bytes, counting itself; the shortest is 4 for all).
pub const CLIENT_KINDS: [(u8, &str, i32); 14] = [
    (b'Q', "Query", STREAM),
    (b'P', "Parse", STREAM),
    (b'B', "Bind", STREAM),
    (b'D', "Describe", NAMES),
    (b'E', "Execute", NAMES),
    (b'C', "Close", NAMES),
    (b'S', "Sync", 4),
    (b'H', "Flush", 4),
    (b'F', "FunctionCall", STREAM),
    (b'd', "CopyData", STREAM),
    (b'c', "CopyDone", 4),
    (b'f', "CopyFail", STREAM),
    (b'X', "Terminate", 4),
    (b'p', "PasswordMessage", NAMES),
];

/// `CLIENT_KINDS` by type byte, longest length field only; 0 is a type that is not legal.
#[allow(clippy::indexing_slicing, reason = "runs at compile time, where a bad index is an error")]
const LONGEST: [i32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < CLIENT_KINDS.len() {
        let (kind, _, longest) = CLIENT_KINDS[at];
        table[kind as usize] = longest;
        at += 1;
    }
    table
};

/// Reads the head of a client's message at the front of `buf`.
#[inline]
pub fn head(buf: &[u8]) -> Head {
    let Some(&kind) = buf.first() else {
        return Head::Need;
    };
    let longest = LONGEST.get(usize::from(kind)).copied().unwrap_or(0);
    if longest == 0 {
        return Head::Bad(BadFrame::Kind(kind));
    }
    measure(buf, longest)
}

/// Reads the head of a server's message at the front of `buf`.
#[inline]
pub fn server_head(buf: &[u8]) -> Head {
    measure(buf, STREAM)
}

#[inline]
fn measure(buf: &[u8], longest: i32) -> Head {
    let Some(&[kind, ref length @ ..]) = buf.first_chunk::<HEAD>() else {
        return Head::Need;
    };
    let length = i32::from_be_bytes(*length);
    if length < 4 || length > longest {
        return Head::Bad(BadFrame::Length { kind, length });
    }
    Head::Frame { kind, len: length as usize + 1 }
}

/// One whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type byte.
    pub kind: u8,
    /// Where it begins in the scanned buffer.
    pub start: usize,
    /// All of it, head included.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Where it stands in the scanned buffer.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes.len()
    }

    /// What follows the head.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEAD..).unwrap_or_default()
    }
}

/// The whole messages in a buffer, in order; afterwards `rest` holds what is incomplete and `bad` what stopped it.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    buf: &'a [u8],
    at: usize,
    sender: Sender,
    stopped: Head,
}

impl<'a> Frames<'a> {
    /// Scans `buf`, which begins with a message's type byte.
    #[inline]
    pub fn new(sender: Sender, buf: &'a [u8]) -> Self {
        Frames { buf, at: 0, sender, stopped: Head::Need }
    }

    /// What was not yielded: the beginning of an incomplete or bad message, or nothing.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.buf.get(self.at..).unwrap_or_default()
    }

    /// How many bytes of the buffer were yielded as messages.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.at
    }

    /// Once the iterator has ended: `Frame` when `rest` begins with a known head whose body is incomplete, `Need`
    /// when not even the head is there, `Bad` when nothing more can be read.
    #[inline]
    pub fn stopped(&self) -> Head {
        self.stopped
    }

    /// What made the iterator end, if it was no lack of bytes.
    #[inline]
    pub fn bad(&self) -> Option<BadFrame> {
        match self.stopped {
            Head::Bad(bad) => Some(bad),
            _ => None,
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let left = self.rest();
        let found = match self.sender {
            Sender::Client => head(left),
            Sender::Server => server_head(left),
        };
        if let Head::Frame { kind, len } = found
            && let Some(bytes) = left.get(..len)
        {
            let start = self.at;
            self.at += len;
            return Some(Frame { kind, start, bytes });
        }
        self.stopped = found;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(buf: &[u8]) -> (Vec<u8>, usize, Head) {
        let mut scan = Frames::new(Sender::Client, buf);
        let kinds = scan.by_ref().map(|frame| frame.kind).collect();
        (kinds, scan.rest().len(), scan.stopped())
    }

    #[test]
    fn whole_messages_are_yielded_and_the_rest_kept() {
        let buf = b"S\0\0\0\x04H\0\0\0\x04Q\0\0\0\x09sel";
        assert_eq!(frames(buf), (vec![b'S', b'H'], 8, Head::Frame { kind: b'Q', len: 10 }));
        assert_eq!(frames(b""), (vec![], 0, Head::Need));
        assert_eq!(frames(b"Q\0\0\0"), (vec![], 4, Head::Need));
    }

    #[test]
    fn a_frame_knows_its_place_and_body() {
        let buf = b"S\0\0\0\x04Q\0\0\0\x06x\0";
        let frame = Frames::new(Sender::Client, buf).nth(1).unwrap();
        assert_eq!((frame.range(), frame.body()), (5..12, &b"x\0"[..]));
    }

    #[test]
    fn every_kind_outside_of_the_table_is_refused_at_its_first_byte() {
        for kind in 0..=255u8 {
            let legal = CLIENT_KINDS.iter().any(|&(k, ..)| k == kind);
            let expected = if legal { Head::Need } else { Head::Bad(BadFrame::Kind(kind)) };
            assert_eq!(head(&[kind]), expected, "kind {kind}");
            assert_eq!(server_head(&[kind]), Head::Need, "server kind {kind}");
        }
    }

    #[test]
    fn lengths_are_held_to_the_kind() {
        let with = |kind: u8, length: i32| {
            let mut buf = vec![kind];
            buf.extend(length.to_be_bytes());
            buf
        };
        for (kind, name, longest) in CLIENT_KINDS {
            for length in [i32::MIN, -1, 0, 3] {
                let bad = Head::Bad(BadFrame::Length { kind, length });
                assert_eq!(head(&with(kind, length)), bad, "{name} {length}");
                assert_eq!(server_head(&with(kind, length)), bad, "{name} {length}");
            }
            for length in [4, longest] {
                let frame = Head::Frame { kind, len: length as usize + 1 };
                assert_eq!(head(&with(kind, length)), frame, "{name} {length}");
            }
            if let Some(length) = longest.checked_add(1) {
                let bad = Head::Bad(BadFrame::Length { kind, length });
                assert_eq!(head(&with(kind, length)), bad, "{name} {length}");
            }
        }
    }

    #[test]
    fn an_unknown_server_message_is_passed() {
        let mut scan = Frames::new(Sender::Server, b"\xf0\0\0\0\x05x");
        assert_eq!(scan.next().map(|frame| frame.kind), Some(0xf0));
        assert_eq!(scan.bad(), None);
    }

    #[test]
    fn errors_name_the_kind_and_length() {
        let bad = BadFrame::Length { kind: b'S', length: 9 };
        assert_eq!(bad.to_string(), "invalid length 9 of message type \"S\"");
        assert_eq!(ToClient::sqlstate(&bad), "08P01");
    }
}
