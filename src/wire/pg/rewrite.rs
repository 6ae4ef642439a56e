//! Other statement names in the clients' messages, without copying what follows the name.
//!
//! Each function is given a message from its type byte on, of which the end may not have arrived yet, and appends a
//! new head: type, corrected length and names. The relay sends that head and then the message from the offset that is
//! returned. Portals keep their names: they end with the transaction, and so does the server's being lent.

use super::body::{Body, Malformed};
use super::build::before_nul;
use super::frame::HEAD;

/// Renames the statement of a Parse (`P`). Answers where the statement's text begins in `frame`, or `None` while the
/// old name is incomplete.
pub fn parse(out: &mut Vec<u8>, frame: &[u8], name: &[u8]) -> Result<Option<usize>, Malformed> {
    rename(out, frame, Layout { message: "Parse", kind: b'P', before: Before::Nothing }, name)
}

/// Renames the statement of a Bind (`B`). Answers where the parameters' formats begin in `frame`, or `None` while the
/// names are incomplete.
pub fn bind(out: &mut Vec<u8>, frame: &[u8], name: &[u8]) -> Result<Option<usize>, Malformed> {
    rename(out, frame, Layout { message: "Bind", kind: b'B', before: Before::Portal }, name)
}

/// Renames the statement of a Describe (`D`); nothing follows the name. An error for a Describe of a portal.
pub fn describe(out: &mut Vec<u8>, frame: &[u8], name: &[u8]) -> Result<Option<usize>, Malformed> {
    rename(out, frame, Layout { message: "Describe", kind: b'D', before: Before::Target }, name)
}

/// Renames the statement of a Close (`C`); nothing follows the name. An error for a Close of a portal.
pub fn close(out: &mut Vec<u8>, frame: &[u8], name: &[u8]) -> Result<Option<usize>, Malformed> {
    rename(out, frame, Layout { message: "Close", kind: b'C', before: Before::Target }, name)
}

struct Layout {
    message: &'static str,
    kind: u8,
    before: Before,
}

/// What stands in a body before the statement's name.
enum Before {
    Nothing,
    Portal,
    Target,
}

/// The bytes of a body before the statement's name, and the name.
type Split<'a> = (&'a [u8], &'a [u8]);

fn rename(out: &mut Vec<u8>, frame: &[u8], layout: Layout, name: &[u8]) -> Result<Option<usize>, Malformed> {
    let malformed = |expected| Malformed { message: layout.message, expected };
    let Some(&[kind, a, b, c, d]) = frame.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    let declared = usize::try_from(length).map_err(|_| malformed("a length"))? + 1;
    if kind != layout.kind || declared < HEAD {
        return Err(malformed("its head"));
    }
    // Names must end inside of this message even if the next one is already here.
    let complete = frame.len() >= declared;
    let present = frame.get(HEAD..declared.min(frame.len())).unwrap_or_default();

    let Some((before, old)) = names(Body::new(layout.message, present), &layout, complete)? else {
        return Ok(None);
    };
    let name = before_nul(name);
    let kept = declared - 1 - old.len();
    let length = i32::try_from(kept + name.len()).map_err(|_| malformed("a shorter message"))?;
    out.push(kind);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(before);
    out.extend_from_slice(name);
    out.push(0);
    Ok(Some(HEAD + before.len() + old.len() + 1))
}

/// `None` when the names are incomplete and more may come.
fn names<'a>(mut body: Body<'a>, layout: &Layout, complete: bool) -> Result<Option<Split<'a>>, Malformed> {
    let start = body.rest();
    let or_more = |error| if complete { Err(error) } else { Ok(None) };
    match layout.before {
        Before::Nothing => {}
        Before::Portal => {
            if let Err(error) = body.cstr("a terminated portal name") {
                return or_more(error);
            }
        }
        Before::Target => match body.u8("\"S\"") {
            Ok(b'S') => {}
            Ok(_) => return Err(body.malformed("\"S\"")),
            Err(error) => return or_more(error),
        },
    }
    let before = start.len() - body.rest().len();
    let before = start.get(..before).unwrap_or_default();
    match body.cstr("a terminated statement name") {
        Ok(old) => {
            if complete && matches!(layout.before, Before::Target) {
                body.end()?;
            }
            Ok(Some((before, old)))
        }
        Err(error) => or_more(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pg::build;
    use crate::wire::pg::message::{Bind, Parse, Target};

    type Rename = fn(&mut Vec<u8>, &[u8], &[u8]) -> Result<Option<usize>, Malformed>;

    fn renamed(rename: Rename, frame: &[u8], name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let rest = rename(&mut out, frame, name.as_bytes()).unwrap().unwrap();
        out.extend_from_slice(&frame[rest..]);
        let length = i32::from_be_bytes(out[1..5].try_into().unwrap());
        assert_eq!(length as usize + 1, out.len(), "the length field");
        out
    }

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend((4 + body.len() as u32).to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn only_the_name_changes() {
        let mut original = Vec::new();
        build::parse(&mut original, b"s1", b"select $1", [23u32].into_iter());
        for name in ["", "x", "a_much_longer_name"] {
            let out = renamed(parse, &original, name);
            let read = Parse::read(&out[5..]).unwrap();
            assert_eq!((read.name, read.text), (name.as_bytes(), &b"select $1"[..]));
            assert_eq!(read.oids().collect::<Vec<_>>(), [23]);

            let out = renamed(bind, &frame(b'B', b"portal\0s1\0\0\0\0\0\0\0"), name);
            let read = Bind::read(&out[5..]).unwrap();
            assert_eq!((read.portal, read.statement), (&b"portal"[..], name.as_bytes()));
            assert_eq!(&out[5 + read.rest..], &[0; 6]);

            for (rename, kind) in [(describe as Rename, b'D'), (close, b'C')] {
                let mut expected = Vec::new();
                match kind {
                    b'D' => build::describe(&mut expected, Target::Statement, name.as_bytes()),
                    _ => build::close(&mut expected, Target::Statement, name.as_bytes()),
                }
                assert_eq!(renamed(rename, &frame(kind, b"Ss1\0"), name), expected);
            }
        }
    }

    #[test]
    fn a_message_may_be_incomplete_behind_its_names() {
        let whole = frame(b'B', b"p\0s1\0\0\0values");
        let mut head = Vec::new();
        let rest = bind(&mut head, &whole, b"new").unwrap().unwrap();
        for cut in 0..whole.len() {
            let mut out = Vec::new();
            let answer = bind(&mut out, &whole[..cut], b"new").unwrap();
            if cut < rest {
                assert_eq!((answer, out.len()), (None, 0), "cut at {cut}");
            } else {
                assert_eq!((answer, &out), (Some(rest), &head), "cut at {cut}");
            }
        }
    }

    #[test]
    fn names_do_not_reach_into_the_next_message() {
        let mut buf = frame(b'B', b"p\0s1");
        buf.extend(frame(b'S', b""));
        assert!(bind(&mut Vec::new(), &buf, b"x").is_err());
    }

    #[test]
    fn what_cannot_be_renamed_is_refused_and_nothing_written() {
        for (rename, bytes) in [
            (bind as Rename, frame(b'P', b"p\0s\0")),
            (describe, frame(b'D', b"Pportal\0")),
            (close, frame(b'C', b"Ss1\0junk")),
            (parse, frame(b'P', b"no end")),
            (parse, b"P\xff\xff\xff\xffx\0".to_vec()),
            (parse, b"P\0\0\0\x03x\0".to_vec()),
        ] {
            let mut out = Vec::new();
            assert!(rename(&mut out, &bytes, b"x").is_err(), "{bytes:?}");
            assert!(out.is_empty());
        }
        let mut huge = b"P".to_vec();
        huge.extend(i32::MAX.to_be_bytes());
        huge.extend(b"a\0");
        assert!(parse(&mut Vec::new(), &huge, b"longer").is_err(), "the length field would overflow");
    }
}
