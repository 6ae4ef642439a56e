//! The wire code against arbitrary bytes: nothing panics, chunking changes nothing, and what is written is read back.

use forebay::wire::pg::auth::Credential;
use forebay::wire::pg::build::{self, ErrorFields};
use forebay::wire::pg::frame::{CLIENT_KINDS, HEAD, Sender};
use forebay::wire::pg::message::{self, Target, TransactionStatus};
use forebay::wire::pg::options;
use forebay::wire::pg::scram::{Keys, ScramClient, ScramServer, Verifier, derive};
use forebay::wire::pg::startup::{MAX_LENGTH, Startup, StartupError, parse_startup};
use forebay::wire::pg::{Frames, Head, Severity, frame, rewrite};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes in which lengths, terminators and the protocol's letters are likely, so that parsers get past their start.
fn wire_bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(0u8),
        1 => Just(0xff),
        2 => 1..=12u8,
        3 => prop::sample::select(b"QPBDECSHFdcfXpRZKTvnr=,".to_vec()),
        2 => any::<u8>(),
    ];
    vec(byte, 0..max)
}

/// A text that a C string can hold.
fn cstring() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255u8, 0..20)
}

/// Whole legal client messages, one after the other.
fn client_stream() -> impl Strategy<Value = Vec<u8>> {
    let one = (0..CLIENT_KINDS.len(), vec(any::<u8>(), 0..40)).prop_map(|(at, body)| {
        let (kind, _, longest) = CLIENT_KINDS[at];
        let body = if longest == 4 { &[][..] } else { &body };
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    });
    vec(one, 0..12).prop_map(|all| all.concat())
}

type Seen = (Vec<(u8, Vec<u8>)>, Vec<u8>, Option<frame::BadFrame>);

fn scan(sender: Sender, bytes: &[u8]) -> Seen {
    let mut frames = Frames::new(sender, bytes);
    let seen = frames.by_ref().map(|frame| (frame.kind, frame.bytes.to_vec())).collect();
    (seen, frames.rest().to_vec(), frames.bad())
}

/// As a connection reads: what is incomplete stands in front of the next chunk.
fn scan_in_chunks(sender: Sender, bytes: &[u8], cuts: &[prop::sample::Index]) -> Seen {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let (mut seen, mut pending, mut bad, mut from) = (Vec::new(), Vec::new(), None, 0);
    for cut in cuts {
        pending.extend_from_slice(&bytes[from..cut]);
        from = cut;
        if bad.is_none() {
            let (more, rest, stop) = scan(sender, &pending);
            seen.extend(more);
            pending = rest;
            bad = stop;
        }
    }
    (seen, pending, bad)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn chunks_change_nothing_in_a_legal_stream(
        stream in client_stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        for sender in [Sender::Client, Sender::Server] {
            let whole = scan(sender, &stream);
            prop_assert_eq!(&whole.1, &[] as &[u8], "everything is a message");
            prop_assert_eq!(whole.2, None);
            prop_assert_eq!(&whole.0.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), &stream);
            prop_assert_eq!(whole, scan_in_chunks(sender, &stream, &cuts));
        }
    }

    #[test]
    fn chunks_change_nothing_in_garbage(
        start in client_stream(),
        garbage in wire_bytes(60),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let stream = [start, garbage].concat();
        for sender in [Sender::Client, Sender::Server] {
            prop_assert_eq!(scan(sender, &stream), scan_in_chunks(sender, &stream, &cuts));
        }
    }

    #[test]
    fn frames_cover_a_prefix_and_say_what_stopped_them(bytes in wire_bytes(80)) {
        for sender in [Sender::Client, Sender::Server] {
            let mut frames = Frames::new(sender, &bytes);
            let mut at = 0;
            for frame in frames.by_ref() {
                prop_assert_eq!(frame.range(), at..at + frame.bytes.len());
                prop_assert_eq!(&bytes[frame.range()], frame.bytes);
                prop_assert_eq!(frame.body(), &frame.bytes[HEAD..]);
                at = frame.range().end;
            }
            prop_assert_eq!(frames.consumed(), at);
            prop_assert_eq!(frames.rest(), &bytes[at..]);
            match frames.stopped() {
                Head::Need => prop_assert!(frames.rest().len() < HEAD),
                Head::Frame { len, .. } => prop_assert!(frames.rest().len() < len),
                Head::Bad(_) => prop_assert!(!frames.rest().is_empty()),
            }
        }
    }

    #[test]
    fn no_body_makes_a_parser_panic(body in wire_bytes(60)) {
        let _ = message::query(&body);
        let _ = message::Parse::read(&body).map(|parse| parse.oids().count());
        if let Ok(bind) = message::Bind::read(&body) {
            prop_assert_eq!(bind.portal.len() + bind.statement.len() + 2, bind.rest);
        }
        let _ = message::describe(&body);
        let _ = message::close(&body);
        let _ = message::Execute::read(&body);
        let _ = message::password(&body);
        let _ = message::sasl_initial_response(&body);
        let _ = message::command_complete(&body);
        let _ = message::ready_for_query(&body);
        let _ = message::parameter_status(&body);
        let _ = message::backend_key_data(&body);
        if let Ok(fields) = message::Fields::read("ErrorResponse", &body) {
            let read: usize = fields.iter().map(|(_, value)| value.len() + 2).sum();
            prop_assert_eq!(read + 1, body.len());
        }
        if let Ok(message::Authentication::Sasl(list)) = message::Authentication::read(&body) {
            let read: usize = message::mechanisms(list).map(|name| name.len() + 1).sum();
            prop_assert_eq!(read + 1, list.len());
        }
        let _ = message::Negotiation::read(&body);
        let _ = message::row_description(&body);
        let _ = message::data_row(&body);
        let _ = options::parse(&body);
        let _ = Credential::parse(&String::from_utf8_lossy(&body));
    }

    #[test]
    fn no_first_packet_makes_the_parser_panic(
        length in prop_oneof![Just(None), any::<u32>().prop_map(Some), (0..80u32).prop_map(Some)],
        code in prop_oneof![
            Just(196_608u32), Just(196_610), Just(80_877_102), Just(80_877_103), Just(80_877_104), any::<u32>(),
        ],
        body in wire_bytes(60),
    ) {
        let length = length.unwrap_or(body.len() as u32 + 8);
        let bytes = [&length.to_be_bytes()[..], &code.to_be_bytes(), &body].concat();
        let whole = parse_startup(&bytes);
        if let Ok(Some((_, consumed))) = &whole {
            prop_assert_eq!(*consumed, length as usize);
        }
        // A prefix may ask for more or know already; it never decides otherwise than the whole.
        for cut in 0..bytes.len() {
            match parse_startup(&bytes[..cut]) {
                Ok(None) => {}
                decided => prop_assert_eq!(&decided, &whole, "cut at {}", cut),
            }
        }
        if whole == Ok(None) {
            prop_assert!(bytes.len() < MAX_LENGTH, "asked for more than a packet can hold");
        }
    }

    #[test]
    fn any_first_bytes_are_judged(bytes in vec(any::<u8>(), 0..40)) {
        if let Err(StartupError::Length(length)) = parse_startup(&bytes) {
            prop_assert_eq!(&length.to_be_bytes()[..], &bytes[..4]);
        }
    }

    #[test]
    fn sessions_survive_a_round_trip(
        minor in 0..4u16,
        user in "[a-z\u{e4}]{1,10}",
        database in "[a-z\u{20ac}]{1,10}",
        params in vec(("[a-z_]{1,8}", cstring()), 0..6),
    ) {
        let params: Vec<(String, Vec<u8>)> =
            params.into_iter().filter(|(name, _)| name != "user" && name != "database").collect();
        let mut out = Vec::new();
        let names = [(&b"user"[..], user.as_bytes()), (b"database", database.as_bytes())];
        let rest = params.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()));
        build::startup_message(&mut out, minor, names.into_iter().chain(rest));
        let Ok(Some((Startup::Session(session), consumed))) = parse_startup(&out) else {
            return Err(TestCaseError::fail("a session that we wrote was not read"));
        };
        prop_assert_eq!(consumed, out.len());
        prop_assert_eq!((session.major, session.minor), (3, minor));
        prop_assert_eq!((session.user, session.database), (user, database));
        prop_assert_eq!(session.params, params);
        prop_assert_eq!(session.extensions, Vec::<String>::new());
    }

    #[test]
    fn cancels_survive_a_round_trip(process_id: i32, secret in vec(any::<u8>(), 4..=256)) {
        let mut out = Vec::new();
        build::cancel_request(&mut out, process_id, &secret);
        let Ok(Some((Startup::Cancel(cancel), consumed))) = parse_startup(&out) else {
            return Err(TestCaseError::fail("a cancel that we wrote was not read"));
        };
        prop_assert_eq!(consumed, out.len());
        prop_assert_eq!(cancel.process_id, process_id);
        prop_assert_eq!(cancel.secret.as_bytes(), &secret[..]);
        let mut key = Vec::new();
        build::backend_key_data(&mut key, process_id, &secret);
        prop_assert_eq!(message::backend_key_data(&key[HEAD..]), Ok((process_id, &secret[..])));
    }

    #[test]
    fn messages_survive_a_round_trip(
        name in cstring(),
        text in cstring(),
        oids in vec(any::<u32>(), 0..5),
        values in vec(prop::option::of(vec(any::<u8>(), 0..10)), 0..5),
        columns in vec(("[a-z]{0,8}", any::<u32>()), 0..5),
        minor: u16,
    ) {
        fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
            let mut out = Vec::new();
            write(&mut out);
            let mut frames = Frames::new(Sender::Server, &out);
            let body = frames.next().expect("one message").body().to_vec();
            assert_eq!((frames.next(), frames.rest().len()), (None, 0));
            body
        }
        let read = body(|out| build::query(out, &text));
        prop_assert_eq!(message::query(&read), Ok(&text[..]));
        let read = body(|out| build::parse(out, &name, &text, oids.iter().copied()));
        let parse = message::Parse::read(&read).unwrap();
        prop_assert_eq!((parse.name, parse.text), (&name[..], &text[..]));
        prop_assert_eq!(parse.oids().collect::<Vec<_>>(), oids);
        for target in [Target::Statement, Target::Portal] {
            let read = body(|out| build::close(out, target, &name));
            prop_assert_eq!(message::close(&read), Ok((target, &name[..])));
            let read = body(|out| build::describe(out, target, &name));
            prop_assert_eq!(message::describe(&read), Ok((target, &name[..])));
        }
        let read = body(|out| build::password_message(out, &text));
        prop_assert_eq!(message::password(&read), Ok(&text[..]));
        let read = body(|out| build::sasl_initial_response(out, "SCRAM-SHA-256", &text));
        prop_assert_eq!(message::sasl_initial_response(&read), Ok((&b"SCRAM-SHA-256"[..], Some(&text[..]))));
        let read = body(|out| build::parameter_status(out, &name, &text));
        prop_assert_eq!(message::parameter_status(&read), Ok((&name[..], &text[..])));
        let read = body(|out| build::data_row(out, &values));
        let expected: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
        prop_assert_eq!(message::data_row(&read), Ok(expected));
        let columns: Vec<_> = columns.iter().map(|(name, oid)| (name.as_str(), *oid)).collect();
        let read = body(|out| build::row_description(out, &columns));
        let found = message::row_description(&read).unwrap();
        let found: Vec<_> = found.iter().map(|c| (std::str::from_utf8(c.name).unwrap(), c.oid)).collect();
        prop_assert_eq!(found, columns);
        let read = body(|out| build::negotiate_protocol_version(out, minor, std::slice::from_ref(&name)));
        let negotiation = message::Negotiation::read(&read).unwrap();
        prop_assert_eq!((negotiation.minor, negotiation.extensions), (minor, vec![&name[..]]));
        let read = body(|out| build::ready_for_query(out, TransactionStatus::InTransaction));
        prop_assert_eq!(message::ready_for_query(&read), Ok(TransactionStatus::InTransaction));
    }

    #[test]
    fn a_text_with_nul_cannot_forge_fields(text in ".{0,20}", tail in ".{0,20}") {
        let message = format!("{text}\0C00000\0{tail}");
        let fields = ErrorFields { severity: Severity::Fatal, code: "08P01", message: &message, detail: None, hint: None };
        let mut out = Vec::new();
        build::error_response(&mut out, &fields);
        let read = message::Fields::read("ErrorResponse", &out[HEAD..]).unwrap();
        prop_assert_eq!(read.sqlstate(), Some(&b"08P01"[..]));
        prop_assert_eq!(read.iter().count(), 4);
        let shown = text.split('\0').next().unwrap_or_default();
        prop_assert_eq!(read.message(), Some(shown.as_bytes()));
    }

    #[test]
    fn renaming_keeps_everything_but_the_name(
        old in cstring(),
        new in cstring(),
        portal in cstring(),
        rest in vec(any::<u8>(), 0..30),
        cut: prop::sample::Index,
    ) {
        let bind = |statement: &[u8]| {
            let body = [&portal[..], &[0], statement, &[0], &rest].concat();
            [&b"B"[..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
        };
        let original = bind(&old);
        let mut head = Vec::new();
        let offset = rewrite::bind(&mut head, &original, &new).unwrap().unwrap();
        prop_assert_eq!([&head[..], &original[offset..]].concat(), bind(&new));
        // Of a message whose end has not arrived, either the same head is made or none.
        let cut = cut.index(original.len());
        let mut early = Vec::new();
        match rewrite::bind(&mut early, &original[..cut], &new).unwrap() {
            Some(found) => prop_assert_eq!((found, early), (offset, head)),
            None => prop_assert!(cut < offset && early.is_empty()),
        }
    }

    #[test]
    fn no_bytes_make_a_rewrite_panic(bytes in wire_bytes(60), name in cstring()) {
        let mut out = Vec::new();
        for (kind, rename) in [
            (b'P', rewrite::parse as fn(&mut Vec<u8>, &[u8], &[u8]) -> _),
            (b'B', rewrite::bind),
            (b'D', rewrite::describe),
            (b'C', rewrite::close),
        ] {
            let mut bytes = bytes.clone();
            bytes.insert(0, kind);
            out.clear();
            match rename(&mut out, &bytes, &name) {
                Ok(Some(offset)) => prop_assert!(offset <= bytes.len()),
                Ok(None) | Err(_) => prop_assert!(out.is_empty()),
            }
        }
    }

    #[test]
    fn no_sasl_data_makes_either_side_panic(
        first in scram_bytes(),
        second in scram_bytes(),
        third in scram_bytes(),
    ) {
        let verifier = Verifier { iterations: 1, salt: vec![1], stored_key: [2; 32], server_key: [3; 32] };
        if let Ok(challenge) = ScramServer::new(&verifier, [4; 18]).first(&first) {
            prop_assert!(challenge.last(&second).is_err(), "nobody knows this password");
        }
        let client = ScramClient::new([4; 18]);
        let server_first = [&b"r="[..], &client.first()[8..], &second].concat();
        if let Ok(challenge) = client.challenge(&server_first) {
            let keys = Keys { client_key: [5; 32], server_key: [6; 32] };
            prop_assert!(challenge.respond(&keys).verify(&third).is_err());
        }
        let _ = ScramClient::new([4; 18]).challenge(&first);
    }
}

/// Attributes of SCRAM, whole and broken.
fn scram_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("n,,".to_owned()),
        Just("y,,".to_owned()),
        Just("n=,".to_owned()),
        Just("c=biws,".to_owned()),
        Just("i=1".to_owned()),
        "[a-z]=[ -~]{0,10},?",
        "[rs]=[A-Za-z0-9+/]{4},",
        Just("p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned()),
        ".{0,4}",
    ];
    let text = vec(part, 0..6).prop_map(|parts| parts.concat().into_bytes());
    prop_oneof![4 => text, 1 => vec(any::<u8>(), 0..40)]
}

proptest! {
    // Each case hashes a few hundred times.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_password_logs_in_and_no_other(
        password in vec(any::<u8>(), 0..40),
        other in vec(any::<u8>(), 0..40),
        salt in vec(any::<u8>(), 1..30),
        iterations in 1..4u32,
        nonces: ([u8; 18], [u8; 18]),
    ) {
        let verifier = Verifier::derive(&password, &salt, iterations);
        prop_assert_eq!(Verifier::parse(&verifier.format()), Some(verifier.clone()));
        for attempt in [&password, &other] {
            let client = ScramClient::new(nonces.0);
            let asked = ScramServer::new(&verifier, nonces.1).first(client.first()).unwrap();
            let challenge = client.challenge(asked.message()).unwrap();
            prop_assert_eq!((challenge.salt(), challenge.iterations()), (&salt[..], iterations));
            let keys = challenge.derive(attempt);
            let proof = challenge.respond(&keys);
            // Two passwords may be prepared to the same one; their keys tell.
            let expected = keys == derive(&password, &salt, iterations);
            prop_assert!(expected || attempt == &other);
            match asked.last(proof.message()) {
                Ok(done) => {
                    prop_assert!(expected, "a wrong password was accepted");
                    prop_assert_eq!(done.client_key, keys.client_key);
                    prop_assert_eq!(proof.verify(&done.server_final), Ok(()));
                }
                Err(error) => prop_assert!(!expected, "the right password was refused: {}", error),
            }
        }
    }
}
