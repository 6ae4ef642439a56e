//! The scanners of the Redis protocol against somebody else's parser and against arbitrary bytes: they agree on where a
//! message ends however it is cut, and nothing panics or goes on for ever.
//!
//! The crate `redis-protocol` is the judge. It reads less than servers send (text that is not UTF-8 in errors, aggregates
//! as keys), so that trees are made of what both sides know; on damaged bytes one side may refuse what the other takes,
//! but where both find a message it is the same one.

use forebay::wire::resp::{Bounds, Found, ReplyScan, RequestScan, Unbalanced, encode, split, words};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use redis_protocol::{resp2, resp3};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Two,
    Three,
}

/// What the judge makes of the front of `bytes`: the length of a whole message, `None` if more must come, or no RESP.
fn judged(version: Version, bytes: &[u8]) -> Result<Option<usize>, ()> {
    match version {
        Version::Two => resp2::decode::decode(bytes).map(|found| found.map(|(_, len)| len)).map_err(drop),
        Version::Three => resp3::decode::complete::decode(bytes).map(|found| found.map(|(_, len)| len)).map_err(drop),
    }
}

/// Lengths of the replies in `bytes`, which arrive in pieces that end at `cuts`; and whether the scanner still
/// understands.
fn replies(bytes: &[u8], cuts: &[usize]) -> (Vec<usize>, bool) {
    let (mut scan, mut lengths, mut len, mut at) = (ReplyScan::default(), Vec::new(), 0, 0);
    for &end in cuts.iter().chain([&bytes.len()]) {
        let mut steps = 0;
        while at < end {
            let Ok(scanned) = scan.scan(&bytes[at..end]) else { return (lengths, false) };
            assert!(scanned.used <= end - at, "more used than was shown");
            at += scanned.used;
            len += scanned.used;
            if !scanned.is_done {
                break;
            }
            assert!(len > 0 && scan.is_idle() && scan.body_left() == 0, "nothing is left of a reply that has ended");
            lengths.push(std::mem::take(&mut len));
            steps += 1;
            assert!(steps <= bytes.len(), "goes on for ever");
        }
    }
    (lengths, true)
}

/// The same for requests, of which an unfinished one stays and is shown again. `is_passed`: what was scanned of it goes
/// on at once instead, as a large value does.
fn requests(bytes: &[u8], cuts: &[usize], is_passed: bool) -> (Vec<usize>, bool) {
    let (mut scan, mut lengths, mut begun, mut gone) = (RequestScan::default(), Vec::new(), 0, 0);
    for &end in cuts.iter().chain([&bytes.len()]) {
        let end = end.max(begun + gone);
        loop {
            let shown = &bytes[begun + gone..end];
            let len = match scan.scan(shown, Bounds::USUAL) {
                Err(_) => return (lengths, false),
                Ok(Found::More) => {
                    if is_passed && scan.body_left() > 0 {
                        scan.pass(shown.len());
                        gone += shown.len();
                    }
                    break;
                }
                Ok(Found::Nothing(len)) => {
                    assert!(len > 0, "goes on for ever");
                    begun += len;
                    continue;
                }
                Ok(Found::Inline(len)) => len,
                Ok(Found::Request(request)) => request.len,
            };
            assert!((1..=shown.len()).contains(&len), "more used than was shown");
            lengths.push(gone + len);
            begun += std::mem::take(&mut gone) + len;
            if begun == bytes.len() {
                break;
            }
        }
    }
    (lengths, true)
}

fn line(kind: char, text: impl std::fmt::Display) -> Vec<u8> {
    format!("{kind}{text}\r\n").into_bytes()
}

fn bulk(kind: char, body: &[u8]) -> Vec<u8> {
    [line(kind, body.len()), body.to_vec(), b"\r\n".to_vec()].concat()
}

/// Bytes in which the protocol's own are likely.
fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![2 => select(b"\r\n$*:+-%~>|0129".to_vec()), 3 => any::<u8>()], 0..40)
}

/// One value of RESP2.
fn resp2_value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "[ -~]{0,12}".prop_map(|text| line('+', text)),
        "[A-Z]{1,8} [ -~]{0,20}".prop_map(|text| line('-', text)),
        any::<i64>().prop_map(|number| line(':', number)),
        body().prop_map(|body| bulk('$', &body)),
        Just(b"$-1\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        vec(inner, 0..6).prop_map(|items| [line('*', items.len()), items.concat()].concat())
    })
}

/// A scalar of RESP3 that may have attributes.
fn resp3_scalar() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~]{0,12}".prop_map(|text| line('+', text)),
        "[A-Z]{1,8} [ -~]{0,20}".prop_map(|text| line('-', text)),
        any::<i64>().prop_map(|number| line(':', number)),
        any::<f64>().prop_filter("a number", |number| number.is_finite()).prop_map(|number| line(',', number)),
        select(vec!["inf", "-inf", "nan"]).prop_map(|text| line(',', text)),
        any::<bool>().prop_map(|is_true| line('#', if is_true { 't' } else { 'f' })),
        "-?[1-9][0-9]{0,40}".prop_map(|digits| line('(', digits)),
        body().prop_map(|body| bulk('$', &body)),
        "[ -~\r\n]{0,20}".prop_map(|text| bulk('!', text.as_bytes())),
        ("(txt|mkd)", "[ -~\r\n]{0,20}").prop_map(|(format, text)| bulk('=', format!("{format}:{text}").as_bytes())),
    ]
}

/// One value of RESP3.
fn resp3_value() -> impl Strategy<Value = Vec<u8>> {
    let key = || (0..1_000_000u32).prop_map(|key| line('+', key));
    let leaf = prop_oneof![9 => resp3_scalar(), 1 => Just(b"_\r\n".to_vec())];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        let pairs = move |inner: BoxedStrategy<Vec<u8>>| {
            vec((key(), inner), 0..4).prop_map(|pairs| {
                (pairs.len(), pairs.into_iter().flat_map(|(key, value)| [key, value].concat()).collect())
            })
        };
        let pairs = move |inner| -> BoxedStrategy<(usize, Vec<u8>)> { pairs(inner).boxed() };
        let inner = inner.boxed();
        prop_oneof![
            3 => vec(inner.clone(), 0..6).prop_map(|items| [line('*', items.len()), items.concat()].concat()),
            1 => vec(resp3_scalar(), 0..6).prop_map(|items| [line('~', items.len()), items.concat()].concat()),
            2 => pairs(inner.clone()).prop_map(|(count, pairs)| [line('%', count), pairs].concat()),
            1 => (pairs(inner), resp3_scalar())
                .prop_map(|((count, pairs), value)| [line('|', count), pairs, value].concat()),
        ]
    })
}

/// A push message stands between replies only.
fn resp3_message() -> impl Strategy<Value = Vec<u8>> {
    let push = ("[a-z]{1,12}", vec(resp3_value(), 0..4))
        .prop_map(|(kind, items)| [line('>', items.len() + 1), bulk('$', kind.as_bytes()), items.concat()].concat());
    prop_oneof![5 => resp3_value(), 1 => push]
}

fn stream() -> impl Strategy<Value = (Version, Vec<Vec<u8>>)> {
    prop_oneof![
        vec(resp2_value(), 1..4).prop_map(|replies| (Version::Two, replies)),
        vec(resp3_message(), 1..4).prop_map(|replies| (Version::Three, replies)),
    ]
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(body(), 1..8)
}

/// Some bytes in others' places, and some taken out.
fn damaged(bytes: &[u8], damage: &[(Index, Option<u8>)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, byte) in damage {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            match byte {
                Some(byte) => bytes[at] = *byte,
                None => drop(bytes.remove(at)),
            }
        }
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(Index, Option<u8>)>> {
    let byte = prop_oneof![4 => select(b"\r\n$*:+-%~>|_#,(!=?;.0129 ".to_vec()).prop_map(Some), 1 => any::<u8>().prop_map(Some), 2 => Just(None)];
    vec((any::<Index>(), byte), 1..5)
}

proptest! {
    #[test]
    fn replies_end_where_the_judge_says_at_every_split((version, made) in stream()) {
        let bytes = made.concat();
        let expected: Vec<usize> = made.iter().map(Vec::len).collect();
        let mut at = 0;
        for len in &expected {
            prop_assert_eq!(judged(version, &bytes[at..]), Ok(Some(*len)), "the judge knows what was made");
            at += len;
        }
        for cut in 0..=bytes.len() {
            prop_assert_eq!(replies(&bytes, &[cut]), (expected.clone(), true), "cut at {}", cut);
        }
        let all: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(replies(&bytes, &all), (expected.clone(), true), "byte by byte");
        // What is missing its end is not taken for whole.
        let last = *expected.last().unwrap();
        let from = bytes.len() - last;
        for end in from..bytes.len() {
            prop_assert_eq!(judged(version, &bytes[from..end]), Ok(None));
            prop_assert_eq!(replies(&bytes[from..end], &[]), (vec![], true), "cut off at {}", end - from);
        }
    }

    #[test]
    fn where_both_read_a_damaged_reply_they_read_the_same((version, made) in stream(), damage in damage(), cut in any::<Index>()) {
        let bytes = damaged(&made.concat(), &damage);
        let (found, is_understood) = replies(&bytes, &[]);
        let mut at = 0;
        for len in &found {
            match judged(version, &bytes[at..]) {
                Ok(Some(judged)) => prop_assert_eq!(judged, *len, "at {} of {}", at, bytes.escape_ascii()),
                Ok(None) => prop_assert!(false, "a reply that has not ended at {} of {}", at, bytes.escape_ascii()),
                // From here on there is nothing to compare with.
                Err(()) => break,
            }
            at += len;
        }
        // However it is cut, the same is found; an error may show later, never earlier.
        let (again, is_understood_again) = replies(&bytes, &[cut.index(bytes.len() + 1)]);
        prop_assert_eq!((again, is_understood_again), (found, is_understood));
    }

    #[test]
    fn no_bytes_make_a_scanner_panic_or_run_away(bytes in vec(prop_oneof![3 => select(b"\r\n$*%|~>0123456789".to_vec()), 1 => any::<u8>()], 0..300), cut in any::<Index>()) {
        let cut = cut.index(bytes.len() + 1);
        replies(&bytes, &[cut]);
        requests(&bytes, &[cut], false);
        requests(&bytes, &[cut], true);
        let _: Result<_, Unbalanced> = split(&bytes);
        prop_assert!(words(&bytes).count() <= bytes.len());
    }

    #[test]
    fn requests_end_where_the_judge_says_at_every_split(made in vec(request(), 1..4)) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for request in &made {
            let from = bytes.len();
            encode(&mut bytes, request);
            expected.push(bytes.len() - from);
            prop_assert_eq!(judged(Version::Two, &bytes[from..]), Ok(Some(bytes.len() - from)));
            let read: Vec<&[u8]> = words(&bytes[from..]).collect();
            prop_assert_eq!(&read, request);
        }
        for cut in 0..=bytes.len() {
            for is_passed in [false, true] {
                prop_assert_eq!(requests(&bytes, &[cut], is_passed), (expected.clone(), true), "cut at {}", cut);
            }
        }
        let all: Vec<usize> = (0..bytes.len()).collect();
        for is_passed in [false, true] {
            prop_assert_eq!(requests(&bytes, &all, is_passed), (expected.clone(), true), "byte by byte");
        }
    }

    #[test]
    fn where_both_read_a_damaged_request_they_read_the_same(made in vec(request(), 1..4), damage in damage(), cut in any::<Index>()) {
        let mut bytes = Vec::new();
        made.iter().for_each(|request| encode(&mut bytes, request));
        let bytes = damaged(&bytes, &damage);
        let mut scan = RequestScan::default();
        let mut at = 0;
        while let Ok(found) = scan.scan(&bytes[at..], Bounds::USUAL) {
            let len = match found {
                Found::More => break,
                Found::Nothing(len) | Found::Inline(len) => len,
                Found::Request(request) => {
                    let here = &bytes[at..];
                    if let Ok(judged) = judged(Version::Two, here) {
                        prop_assert_eq!(judged, Some(request.len), "at {} of {}", at, bytes.escape_ascii());
                        let read: Vec<&[u8]> = words(&here[..request.len]).collect();
                        prop_assert_eq!(read.len(), request.words as usize);
                        for (n, word) in read.iter().enumerate().take(4) {
                            prop_assert_eq!(request.word(n).and_then(|span| span.of(here)), Some(*word));
                        }
                    }
                    request.len
                }
            };
            at += len;
        }
        let found = requests(&bytes, &[], false);
        prop_assert_eq!(requests(&bytes, &[cut.index(bytes.len() + 1)], false), found);
    }
}

#[test]
fn malformed_headers_are_refused() {
    for bytes in
        ["*+1\r\n", "*01\r\n", "$ 1\r\n", "$1 \r\n", "%-2\r\n", "~x\r\n", "$?\r\n", ";4\r\n", "HELLO 3\r\n", "*1\n\r\n"]
    {
        assert_eq!(replies(bytes.as_bytes(), &[]), (vec![], false), "{bytes:?}");
    }
    for bytes in
        ["*+1\r\n", "*01\r\n", "*1 \r\n", "*1\n", "*1\r\n$+1\r\n", "*1\r\n$1\n", "*1\r\n+OK\r\n", "*1\r\n$-1\r\n"]
    {
        assert_eq!(requests(bytes.as_bytes(), &[], false), (vec![], false), "{bytes:?}");
    }
}
