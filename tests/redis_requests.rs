//! What a client's bytes mean to us and to a real server: what we cut as one request is one request there too, so that
//! on a shared connection every answer finds the client that asked.

use std::io::{Read, Write};
use std::net::Shutdown;

use forebay::wire::resp::{Bounds, Found, ProtocolError, ReplyScan, RequestScan, Unbalanced, encode, split};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

#[path = "redis_real/server.rs"]
mod server;

use server::Server;

/// What the bytes of a client are to us.
#[derive(Debug, Default)]
struct Cut {
    /// As they would go to a server.
    requests: Vec<Vec<u8>>,
    /// Why no more can be understood.
    error: Option<String>,
    /// A request has begun and not ended.
    is_unfinished: bool,
}

fn cut(bytes: &[u8]) -> Cut {
    let (mut scan, mut cut, mut at) = (RequestScan::default(), Cut::default(), 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let len = match scan.scan(rest, Bounds::USUAL) {
            Ok(Found::More) => {
                cut.is_unfinished = true;
                break;
            }
            Ok(Found::Nothing(len)) => len,
            Ok(Found::Request(request)) => {
                cut.requests.push(rest[..request.len].to_vec());
                request.len
            }
            Ok(Found::Inline(len)) => match split(&rest[..len]) {
                Ok(words) => {
                    let mut request = Vec::new();
                    encode(&mut request, &words);
                    cut.requests.extend((!words.is_empty()).then_some(request));
                    len
                }
                Err(error @ Unbalanced) => {
                    cut.error = Some(error.to_string());
                    break;
                }
            },
            Err(error) => {
                let error: ProtocolError = error;
                cut.error = Some(error.to_string());
                break;
            }
        };
        at += len;
    }
    cut
}

/// Everything that the server answers to these bytes and nothing more, reply by reply.
fn answers(server: &Server, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut stream = server.connect();
    // Closed while we write: it says why.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let (mut received, mut replies, mut scan) = (Vec::new(), Vec::new(), ReplyScan::default());
    let _ = stream.read_to_end(&mut received);
    let (mut at, mut from) = (0, 0);
    while at < received.len() {
        let scanned = scan.scan(&received[at..]).expect("a server speaks RESP");
        at += scanned.used;
        if !scanned.is_done {
            break;
        }
        replies.push(received[from..at].to_vec());
        from = at;
    }
    replies
}

const SENTINEL: &[u8] = b"*2\r\n$4\r\nECHO\r\n$8\r\n--here--\r\n";

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let body = || vec(prop_oneof![2 => select(b"\r\n$*:+ \"'\\x01".to_vec()), 3 => any::<u8>()], 0..20);
    let name = select(vec!["PING", "echo", "GET", "Set", "del", "MGET", "nothing"]);
    let array = (name.clone(), vec(body(), 0..4)).prop_map(|(name, words)| {
        let mut bytes = Vec::new();
        let words = std::iter::once(name.as_bytes().to_vec()).chain(words);
        encode(&mut bytes, &words.collect::<Vec<_>>());
        bytes
    });
    let inline =
        (name, vec(prop_oneof![Just(" ".to_owned()), "[a-c\"'\\\\x0-9 \t]{0,8}"], 0..4), select(vec!["\r\n", "\n"]))
            .prop_map(|(name, words, end)| format!("{name} {}{end}", words.concat()).into_bytes());
    let nothing = select(vec!["\r\n", "\n", " \r\n", "*0\r\n", "*-1\r\n"]).prop_map(|text| text.as_bytes().to_vec());
    let damage = {
        let byte = prop_oneof![3 => select(b"\r\n$*:+-0129 ".to_vec()).prop_map(Some), 1 => any::<u8>().prop_map(Some), 2 => Just(None)];
        vec((any::<Index>(), byte), 0..3)
    };
    (vec(prop_oneof![6 => array, 2 => inline, 1 => nothing], 1..5), damage).prop_map(|(requests, damage)| {
        let mut bytes = requests.concat();
        for (at, byte) in damage {
            let at = at.index(bytes.len().max(1));
            match byte {
                _ if bytes.is_empty() => {}
                Some(byte) => bytes[at] = byte,
                None => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

#[test]
fn a_server_cuts_requests_as_we_do() {
    let server = Server::start();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&stream(), |bytes| {
        let cut = cut(&bytes);
        for request in &cut.requests {
            let replies = answers(&server, &[request, SENTINEL].concat());
            prop_assert_eq!(replies.len(), 2, "one answer to {}: {:?}", request.escape_ascii(), replies);
            prop_assert_eq!(&replies[1], b"$8\r\n--here--\r\n", "behind {}", request.escape_ascii());
        }
        // A line with a zero byte has no end for Redis.
        if bytes.contains(&0) {
            return Ok(());
        }
        let replies = answers(&server, &bytes);
        let said = replies.iter().find_map(|reply| reply.strip_prefix(b"-ERR Protocol error"));
        match (said, &cut.error) {
            // Redis looks for the CR alone and goes on behind whatever follows it: we refuse the line at once.
            (_, Some(error)) if error.ends_with("bulk length") => {
                prop_assert!(replies.len() >= cut.requests.len(), "{}", bytes.escape_ascii());
            }
            (Some(said), Some(error)) => {
                // Redis echoes one byte, we its letter in Latin-1.
                let said: String = said.iter().copied().map(char::from).collect();
                let said = format!("Protocol error{}", said.trim_end_matches("\r\n"));
                prop_assert_eq!(&said, error, "{}", bytes.escape_ascii());
                prop_assert_eq!(replies.len(), cut.requests.len() + 1, "{}", bytes.escape_ascii());
            }
            // It waits for the CR before it looks at the kind of a word.
            (None, Some(error)) if error.contains("expected '$'") => {
                prop_assert_eq!(replies.len(), cut.requests.len(), "{}", bytes.escape_ascii());
            }
            (None, Some(error)) => prop_assert!(false, "only we say {error}: {}", bytes.escape_ascii()),
            (Some(said), None) => {
                prop_assert!(cut.is_unfinished, "{}: {}", said.escape_ascii(), bytes.escape_ascii());
            }
            (None, None) if cut.is_unfinished => prop_assert!(replies.len() >= cut.requests.len()),
            (None, None) => prop_assert_eq!(replies.len(), cut.requests.len(), "{}", bytes.escape_ascii()),
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
