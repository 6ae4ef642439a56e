//! The Redis protocol: messages end at the same places however they are cut, and where the crate `redis-protocol` says.

use std::sync::LazyLock;

use forebay::wire::resp::command::Commands;
use forebay::wire::resp::{Bounds, Found, ReplyScan, RequestScan, encode, split, words};
use redis_protocol::{resp2, resp3};

use super::Choices;

/// The ends of `bytes` in pieces of `piece`.
fn pieces(bytes: &[u8], piece: usize) -> impl Iterator<Item = usize> {
    let len = bytes.len();
    (0..len).step_by(piece).skip(1).chain([len])
}

/// Lengths of the replies and whether each is a push; and whether the scanner still understands.
fn cut_replies(bytes: &[u8], piece: usize) -> (Vec<(usize, bool)>, bool) {
    let (mut scan, mut found, mut len, mut at) = (ReplyScan::default(), Vec::new(), 0, 0);
    for end in pieces(bytes, piece) {
        while at < end {
            let Ok(scanned) = scan.scan(&bytes[at..end]) else { return (found, false) };
            assert!(scanned.used <= end - at, "more used than was shown");
            at += scanned.used;
            len += scanned.used;
            if !scanned.is_done {
                break;
            }
            assert!(len > 0 && scan.is_idle() && scan.body_left() == 0, "nothing is left of a reply that has ended");
            found.push((std::mem::take(&mut len), scan.is_push()));
        }
    }
    (found, true)
}

/// A server's bytes. The first byte is the length of the pieces.
pub(super) fn replies(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = 1 + usize::from(choices.byte());
    let bytes = choices.0;
    let whole = cut_replies(bytes, bytes.len().max(1));
    assert_eq!(cut_replies(bytes, piece), whole, "in pieces of {piece}");
    let mut at = 0;
    for (len, is_push) in whole.0 {
        let here = &bytes[at..];
        at += len;
        assert_eq!(is_push, here.starts_with(b">"));
        if deepest(&here[..len]) > 60 {
            // The judge recurses.
            continue;
        }
        if let Ok(Some((_, judged))) = resp2::decode::decode(here) {
            assert_eq!(judged, len, "RESP2");
        }
        if let Ok(Some((_, judged))) = resp3::decode::complete::decode(here) {
            assert_eq!(judged, len, "RESP3");
        }
    }
}

/// At most so deep can the aggregates be nested: each has a line of its own.
fn deepest(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| b"*%~>|".contains(byte)).count()
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Request(Vec<Vec<u8>>),
    Inline(Vec<u8>),
}

/// The same for requests, of which an unfinished one stays and is shown again.
fn cut_requests(bytes: &[u8], piece: usize, bounds: Bounds) -> (Vec<Sent>, Option<String>) {
    let (mut scan, mut found, mut at) = (RequestScan::default(), Vec::new(), 0);
    for end in pieces(bytes, piece) {
        while at < end {
            let here = &bytes[at..end];
            match scan.scan(here, bounds) {
                Err(error) => return (found, Some(error.to_string())),
                Ok(Found::More) => {
                    for head in scan.heads() {
                        assert!(head.from <= here.len() + 2, "a word begins where something is");
                    }
                    break;
                }
                Ok(Found::Nothing(len)) => {
                    assert!((1..=here.len()).contains(&len));
                    at += len;
                }
                Ok(Found::Inline(len)) => {
                    found.push(Sent::Inline(here[..len].to_vec()));
                    at += len;
                }
                Ok(Found::Request(request)) => {
                    let whole = &here[..request.len];
                    let read: Vec<Vec<u8>> = words(whole).map(<[u8]>::to_vec).collect();
                    assert_eq!(read.len(), request.words as usize);
                    for (n, word) in read.iter().enumerate().take(4) {
                        assert_eq!(request.word(n).and_then(|span| span.of(whole)), Some(word.as_slice()));
                    }
                    found.push(Sent::Request(read));
                    at += request.len;
                }
            }
        }
    }
    (found, None)
}

/// A client's bytes. The first byte is the length of the pieces, and whether the client has logged in.
pub(super) fn requests(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.byte();
    let bytes = choices.0;
    let (piece, bounds) = (1 + usize::from(first >> 1), if first & 1 == 0 { Bounds::USUAL } else { Bounds::STRANGER });
    let whole = cut_requests(bytes, bytes.len().max(1), bounds);
    let cut = cut_requests(bytes, piece, bounds);
    assert_eq!(cut, whole, "in pieces of {piece}");
    for sent in &whole.0 {
        match sent {
            Sent::Inline(line) => {
                if let Ok(split) = split(line) {
                    let mut written = Vec::new();
                    encode(&mut written, &split);
                    assert_eq!(words(&written).map(<[u8]>::to_vec).collect::<Vec<_>>(), split);
                }
            }
            Sent::Request(request) => {
                let mut written = Vec::new();
                encode(&mut written, request);
                let judged = resp2::decode::decode(&written).expect("RESP").expect("whole");
                assert_eq!(judged.1, written.len());
                let again = cut_requests(&written, written.len(), Bounds::USUAL);
                assert_eq!(again.0, [Sent::Request(request.clone())]);
            }
        }
    }
}

/// What a server says of its commands, and then what a client's words mean by it.
pub(super) fn commands(data: &[u8]) {
    if deepest(data) > 4000 {
        return;
    }
    static BUILT_IN: LazyLock<Commands> = LazyLock::new(Commands::builtin);

    let commands = match Commands::learn(data) {
        Ok(commands) => commands,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for command in commands.iter() {
        let (name, sub) = command.name.split_once('|').map_or((&*command.name, None), |(name, sub)| (name, Some(sub)));
        let _ = commands.judge(name.as_bytes(), sub.map(str::as_bytes));
        let _ = command.is_blocking_now([&b"BLOCK"[..], b"0", b"STREAMS", data]);
    }
    // Subscriptions, transactions and logins are the proxy's own business whatever a server says.
    for name in ["multi", "exec", "watch", "subscribe", "auth", "hello", "select", "monitor", "reset", "quit"] {
        let (learned, known) = (commands.find(name.as_bytes()), BUILT_IN.find(name.as_bytes()));
        assert_eq!(learned.map(|command| command.path), known.map(|command| command.path), "{name}");
    }
}
