//! PostgreSQL's protocol: the first packet, where messages end, and what is in them.

use forebay::wire::pg::auth::Credential;
use forebay::wire::pg::build;
use forebay::wire::pg::frame::{BadFrame, HEAD, Sender};
use forebay::wire::pg::message::{self, Target};
use forebay::wire::pg::startup::{MAX_LENGTH, Startup, parse_startup};
use forebay::wire::pg::{Frames, Head, Malformed, options, rewrite};

use super::Choices;

/// What a prefix decides the whole decides too; what was read is written and read again as the same.
pub(super) fn startup(data: &[u8]) {
    let whole = parse_startup(data);
    // All of the head, then ever longer steps: each look at a prefix may read all of it.
    let cuts = (0..data.len().min(64)).chain((64..data.len()).step_by(1 + data.len() / 32));
    for cut in cuts {
        match parse_startup(&data[..cut]) {
            Ok(None) => assert!(cut < MAX_LENGTH, "asks for more than a packet can hold"),
            decided => assert_eq!(decided, whole, "cut at {cut}"),
        }
    }
    let Ok(Some((startup, used))) = whole else { return };
    assert!((8..=data.len()).contains(&used));
    let mut again = Vec::new();
    match &startup {
        Startup::Ssl | Startup::GssEnc => assert_eq!(used, 8),
        Startup::Cancel(cancel) => {
            build::cancel_request(&mut again, cancel.process_id, cancel.secret.as_bytes());
            assert_eq!(again, data[..used]);
        }
        Startup::Session(session) => {
            assert!(!session.user.is_empty() && !session.database.is_empty());
            let names = [("user", session.user.as_bytes()), ("database", session.database.as_bytes())];
            let rest = session.params.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let extensions = session.extensions.iter().map(|name| (name.as_str(), &b""[..]));
            let all = names.into_iter().chain(rest).chain(extensions);
            build::startup_message(&mut again, session.minor, all.map(|(name, value)| (name.as_bytes(), value)));
            // A session without a database gets one, with which the packet may be too long.
            if again.len() <= MAX_LENGTH {
                let Ok(Some((Startup::Session(read), _))) = parse_startup(&again) else {
                    panic!("a session that was read, {session:?}, is not read again");
                };
                assert_eq!(&read, session);
            }
            let _ = session.options().map_err(|error| error.to_string());
        }
    }
}

/// Messages by kind and length, what is left, and what stopped it.
type Seen = (Vec<(u8, usize)>, usize, Option<BadFrame>);

fn scan(sender: Sender, bytes: &[u8]) -> Seen {
    let mut frames = Frames::new(sender, bytes);
    let seen = frames.by_ref().map(|frame| (frame.kind, frame.bytes.len())).collect();
    (seen, frames.rest().len(), frames.bad())
}

/// As a connection reads: what is incomplete stands in front of what comes next.
fn scan_in_pieces(sender: Sender, bytes: &[u8], piece: usize) -> Seen {
    let (mut seen, mut from, mut end) = (Vec::new(), 0, 0);
    loop {
        let (more, rest, bad) = scan(sender, &bytes[from..end]);
        seen.extend(more);
        from = end - rest;
        if end == bytes.len() {
            return (seen, rest, bad);
        }
        if bad.is_some() {
            return (seen, bytes.len() - from, bad);
        }
        end = (end + piece).min(bytes.len());
    }
}

/// Messages end at the same places however they are cut. The first byte says whose they are and how they are cut.
pub(super) fn frames(data: &[u8]) {
    let mut choices = Choices(data);
    let first = choices.byte();
    let bytes = choices.0;
    let sender = if first & 1 == 0 { Sender::Client } else { Sender::Server };
    let piece = 1 + usize::from(first >> 1) % 64;
    assert_eq!(scan_in_pieces(sender, bytes, piece), scan(sender, bytes), "in pieces of {piece}");
    let mut frames = Frames::new(sender, bytes);
    let mut at = 0;
    for frame in frames.by_ref() {
        assert_eq!(frame.range(), at..at + frame.bytes.len());
        at = frame.range().end;
        match sender {
            Sender::Client => of_client(frame.kind, frame.body()),
            Sender::Server => of_server(frame.kind, frame.body()),
        }
    }
    match frames.stopped() {
        Head::Need => assert!(frames.rest().len() < HEAD),
        Head::Frame { len, .. } => assert!(frames.rest().len() < len),
        Head::Bad(bad) => assert!(!bad.to_string().is_empty()),
    }
}

fn read<T>(found: Result<T, Malformed>) -> Option<T> {
    found.map_err(|error| error.to_string()).ok()
}

/// What `write` makes, without its head.
fn body(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out.drain(..HEAD);
    out
}

fn of_client(kind: u8, bytes: &[u8]) {
    match kind {
        b'Q' => {
            if let Some(text) = read(message::query(bytes)) {
                assert_eq!(body(|out| build::query(out, text)), bytes);
            }
        }
        b'P' => {
            if let Some(parse) = read(message::Parse::read(bytes)) {
                let again = body(|out| build::parse(out, parse.name, parse.text, parse.oids()));
                assert_eq!(again, bytes);
            }
        }
        b'B' => {
            if let Some(bind) = read(message::Bind::read(bytes)) {
                assert_eq!(bind.portal.len() + bind.statement.len() + 2, bind.rest);
            }
        }
        b'D' => {
            if let Some((target, name)) = read(message::describe(bytes)) {
                assert_eq!(body(|out| build::describe(out, target, name)), bytes);
            }
        }
        b'C' => {
            if let Some((target, name)) = read(message::close(bytes)) {
                assert_eq!(body(|out| build::close(out, target, name)), bytes);
            }
        }
        b'E' => drop(read(message::Execute::read(bytes))),
        b'p' => {
            if let Some(password) = read(message::password(bytes)) {
                assert_eq!(body(|out| build::password_message(out, password)), bytes);
            }
            if let Some((mechanism, data)) = read(message::sasl_initial_response(bytes)) {
                assert!(mechanism.len() + data.map_or(0, <[u8]>::len) <= bytes.len());
            }
        }
        _ => {}
    }
}

fn of_server(kind: u8, bytes: &[u8]) {
    match kind {
        b'C' => drop(read(message::command_complete(bytes))),
        b'Z' => {
            if let Some(status) = read(message::ready_for_query(bytes)) {
                assert_eq!(bytes, [status.byte()]);
            }
        }
        b'S' => {
            if let Some((name, value)) = read(message::parameter_status(bytes)) {
                assert_eq!(body(|out| build::parameter_status(out, name, value)), bytes);
            }
        }
        b'K' => {
            if let Some((id, secret)) = read(message::backend_key_data(bytes)) {
                assert_eq!(body(|out| build::backend_key_data(out, id, secret)), bytes);
            }
        }
        b'E' | b'N' => {
            if let Some(fields) = read(message::Fields::read("ErrorResponse", bytes)) {
                let length: usize = fields.iter().map(|(_, value)| value.len() + 2).sum();
                assert_eq!(length + 1, bytes.len());
                let _ = (fields.severity(), fields.sqlstate(), fields.message());
            }
        }
        b'R' => {
            if let Some(message::Authentication::Sasl(list)) = read(message::Authentication::read(bytes)) {
                let length: usize = message::mechanisms(list).map(|name| name.len() + 1).sum();
                assert_eq!(length + 1, list.len());
            }
        }
        b'v' => drop(read(message::Negotiation::read(bytes))),
        b'T' => drop(read(message::row_description(bytes))),
        b'D' => {
            if let Some(values) = read(message::data_row(bytes)) {
                assert_eq!(body(|out| build::data_row(out, &values)), bytes);
            }
        }
        _ => {}
    }
}

/// A message's body by the first byte: a small letter or capital is of a client's or a server's message, by the second.
pub(super) fn messages(data: &[u8]) {
    let mut choices = Choices(data);
    let (kind, second) = (choices.byte(), choices.byte());
    let bytes = choices.0;
    if second & 1 == 0 {
        of_client(kind, bytes)
    } else {
        of_server(kind, bytes)
    }
    match kind {
        b'O' => drop(options::parse(bytes).map_err(|error| error.to_string())),
        b'V' => {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(Credential::Scram(verifier)) = Credential::parse(text)
            {
                let again = Credential::parse(&verifier.format()).expect("was written by us");
                assert_eq!(again, Credential::Scram(verifier));
            }
        }
        _ => rename(kind, second, bytes),
    }
}

/// Another name for a statement: nothing else changes, and of a message whose end has not come the same is made.
fn rename(kind: u8, second: u8, bytes: &[u8]) {
    let rename = match kind {
        b'P' => rewrite::parse,
        b'B' => rewrite::bind,
        b'D' => rewrite::describe,
        b'C' => rewrite::close,
        _ => return,
    };
    let frame = [&[kind][..], &(bytes.len() as u32 + 4).to_be_bytes(), bytes].concat();
    let new = &b"another name"[..usize::from(second >> 1) % 13];
    let mut head = Vec::new();
    let whole = rename(&mut head, &frame, new);
    for cut in 0..frame.len() {
        let mut early = Vec::new();
        match (rename(&mut early, &frame[..cut], new), &whole) {
            (Ok(Some(found)), Ok(Some(offset))) => assert_eq!((found, &early), (*offset, &head), "cut at {cut}"),
            (Ok(None), _) | (Err(_), Err(_)) => assert!(early.is_empty()),
            // What follows the name is looked at when it is all there.
            (Ok(Some(_)), Err(_)) => {}
            (early, _) => panic!("{early:?} cut at {cut}, {whole:?} whole"),
        }
    }
    let Ok(offset) = whole else {
        assert!(head.is_empty());
        return;
    };
    let offset = offset.expect("it is all there");
    let renamed = [&head[..], &frame[offset..]].concat();
    assert_eq!(renamed[1..5], (renamed.len() as u32 - 1).to_be_bytes());
    let name = |frame: &[u8]| match kind {
        b'P' => read(message::Parse::read(&frame[HEAD..])).map(|parse| parse.name.to_vec()),
        b'B' => read(message::Bind::read(&frame[HEAD..])).map(|bind| bind.statement.to_vec()),
        b'D' => read(message::describe(&frame[HEAD..])).map(|(target, name)| {
            assert_eq!(target, Target::Statement);
            name.to_vec()
        }),
        _ => read(message::close(&frame[HEAD..])).map(|(_, name)| name.to_vec()),
    };
    // A Parse may be malformed behind its name, which the server will say.
    if name(&frame).is_some() {
        assert_eq!(name(&renamed).as_deref(), Some(new));
    }
}
