//! The `traceparent` that an application's tracing puts into a comment of its statements.
//!
//! The comment is of sqlcommenter's form, `/*key='value',key='value'*/` with URL-encoded values, before the first keyword
//! or behind the statement; the value is that of W3C's Trace Context. What is neither there nor right is as if it were
//! not there.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::hint;
use super::lex::end_of_comment;

const KEY: &[u8] = b"traceparent";
/// Made once: that costs more than to search a comment.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));
/// `00-<32 hex>-<16 hex>-<2 hex>`
const LENGTH: usize = 55;
/// Comments are looked through that far from the statement's ends, bytes.
const LONGEST: usize = 4096;

/// Which trace a statement belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span in which the application ran the statement.
    pub parent: [u8; 8],
    /// The application records this trace.
    pub is_sampled: bool,
}

impl Traceparent {
    /// The one in the first of a statement's outer comments that has a valid one. Costs four comparisons where a statement
    /// neither begins nor ends with a comment.
    #[inline]
    pub fn find(text: &[u8]) -> Option<Self> {
        match has_outer_comment(text) {
            true => Self::find_in_comments(text),
            false => None,
        }
    }

    #[cold]
    fn find_in_comments(text: &[u8]) -> Option<Self> {
        let mut rest = text.get(..text.len().min(LONGEST))?.trim_ascii_start();
        while rest.starts_with(b"/*") {
            let Some((comment, after)) = end_of_comment(rest).and_then(|end| rest.split_at_checked(end)) else { break };
            if let Some(found) = Self::in_comment(comment) {
                return Some(found);
            }
            rest = after.trim_ascii_start();
        }
        Self::in_comment(last_comment(text)?)
    }

    fn in_comment(comment: &[u8]) -> Option<Self> {
        FINDER.find_iter(comment).find_map(|at| {
            let before = at.checked_sub(1).and_then(|at| comment.get(at));
            if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'%')) {
                return None;
            }
            let rest = comment.get(at + KEY.len()..)?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
            let value = rest.strip_prefix(b"'")?;
            let end = memchr::memchr(b'\'', value)?;
            Self::read(value.get(..end)?)
        })
    }

    /// Of a value, URL-encoded or not.
    fn read(value: &[u8]) -> Option<Self> {
        let mut plain = [0; LENGTH];
        let mut bytes = value.iter().copied();
        let mut next = || match bytes.next() {
            Some(b'%') => Some(hex(bytes.next()?, true)? << 4 | hex(bytes.next()?, true)?),
            byte => byte,
        };
        for place in &mut plain {
            *place = next()?;
        }
        let is_longer = next();
        let (version, rest) = plain.split_first_chunk::<2>()?;
        let [version] = octets(version)?;
        let (trace, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
        let (parent, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let [flags] = octets(rest.strip_prefix(b"-")?)?;
        // A later version may have more behind a dash; 255 is none.
        let is_known = match is_longer {
            None => version != 0xff,
            Some(byte) => version > 0 && version != 0xff && byte == b'-',
        };
        let found = Traceparent { trace: octets(trace)?, parent: octets(parent)?, is_sampled: flags & 1 == 1 };
        (is_known && found.trace != [0; 16] && found.parent != [0; 8]).then_some(found)
    }
}

/// Hex digits, in lower case, as the specification has them.
fn octets<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *octet = hex(*high, false)? << 4 | hex(*low, false)?;
    }
    Some(octets)
}

fn hex(digit: u8, any_case: bool) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' if any_case => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A comment may be the first or the last thing in a text.
#[inline]
fn has_outer_comment(text: &[u8]) -> bool {
    let begins = match text {
        [b'/', b'*', ..] => true,
        [b' ' | b'\n' | b'\t' | b'\r', ..] => text.trim_ascii_start().starts_with(b"/*"),
        _ => false,
    };
    begins
        || match text {
            [.., b'*', b'/'] => true,
            [.., b' ' | b'\n' | b'\t' | b'\r' | b';'] => without_end(text).ends_with(b"*/"),
            _ => false,
        }
}

/// Without white space and semicolons at the end.
fn without_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\n' | b'\t' | b'\r' | b';'] = text {
        text = rest;
    }
    text
}

/// The comment at the end of a text, if it is one without others in it.
fn last_comment(text: &[u8]) -> Option<&[u8]> {
    let text = without_end(text);
    let mut rest = text.strip_suffix(b"*/")?;
    for _ in 0..LONGEST {
        match rest {
            [before @ .., b'/', b'*'] => return text.get(before.len()..),
            // Another end: what looks like its beginning belongs to another comment, or to a text in quotes.
            [.., b'*', b'/'] => return None,
            [before @ .., _] => rest = before,
            [] => return None,
        }
    }
    None
}

/// What may be in a comment without ending anything else, by byte. Without a colon there is no hint either.
const HARMLESS: [bool; 256] = {
    let mut harmless = [false; 256];
    let known = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789=',-_.%~+/ ";
    let mut rest: &[u8] = known;
    while let [byte, more @ ..] = rest {
        #[allow(clippy::indexing_slicing, reason = "a byte is less than 256, and this runs in the compiler")]
        {
            harmless[*byte as usize] = true;
        }
        rest = more;
    }
    harmless
};

/// The text by which a statement is known that comes with another `traceparent` each time: without that comment if it is
/// at one of its ends, else all of it. What this answers for two texts is one only if both mean the same, but for hints,
/// of which the comment has none.
///
/// A comment in front is one for certain. What looks like one at the end may begin within quotes or another comment; then
/// the text never ends that either, with or without it, as long as there is nothing in it that could end them.
#[inline]
pub fn without_traceparent(text: &[u8]) -> &[u8] {
    match text.len() > KEY.len() + LENGTH && has_outer_comment(text) {
        true => without_comment(text).unwrap_or(text),
        false => text,
    }
}

#[cold]
fn without_comment(text: &[u8]) -> Option<&[u8]> {
    if text.starts_with(b"/*") {
        let (comment, rest) = text.split_at_checked(end_of_comment(text)?)?;
        if FINDER.find(comment).is_some() && hint::leading(comment).is_none() {
            return Some(rest.trim_ascii_start());
        }
    }
    let comment = last_comment(text)?;
    FINDER.find(comment)?;
    let inside = comment.get(2..comment.len().checked_sub(2)?)?;
    let (mut quotes, mut last) = (0, 0);
    for byte in inside {
        if !HARMLESS.get(usize::from(*byte)).copied().unwrap_or(false) || (last, *byte) == (b'-', b'-') {
            return None;
        }
        quotes += usize::from(*byte == b'\'');
        last = *byte;
    }
    let statement = text.get(..without_end(text).len() - comment.len())?;
    // A slash or a star before it would be part of another thing without it. In front of a statement it may hold a hint.
    let is_apart = !matches!(statement.last(), None | Some(b'/' | b'*'));
    // How far a text in quotes goes that holds a backslash is a question of the session's settings.
    let is_plain = memchr::memchr(b'\\', statement).is_none();
    (quotes % 2 == 0 && is_apart && is_plain).then_some(statement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::classify;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn find(text: &str) -> Option<Traceparent> {
        Traceparent::find(text.as_bytes())
    }

    #[test]
    fn it_is_found_at_both_ends() {
        let cases = [
            "select 1 /*traceparent='T'*/",
            "select 1 /*traceparent='T'*/;",
            "select 1; /*action='%2Fx',traceparent='T',tracestate='a%3Db'*/ \n",
            "/*traceparent='T'*/ select 1",
            "  /* app */ /* traceparent = 'T' */ select 1",
            "/*traceparent='nonsense'*/ select 1 /*traceparent='T'*/",
            "/* forebay: primary */ select '/*' /*db_driver='x',traceparent='T'*/",
        ];
        for text in cases {
            let found = find(&text.replace('T', GOOD)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.trace[0], found.trace[15], found.parent[0]), (0x0a, 0x9c, 0xb7), "{text}");
            assert!(found.is_sampled);
            assert_eq!(find(&text.replace('T', &GOOD.replace('-', "%2D"))), Some(found), "encoded: {text}");
            assert_eq!(
                find(&text.replace('T', &GOOD.replace("-01", "-00"))).map(|found| found.is_sampled),
                Some(false)
            );
        }
    }

    #[test]
    fn what_is_wrong_or_elsewhere_is_not_there() {
        let cases = [
            "select 'traceparent=''T'''",
            "select 1 -- traceparent='T'",
            "select /*traceparent='T'*/ 1",
            "select 1 /*xtraceparent='T'*/",
            "select 1 /*traceparent=T*/",
            "select 1 /*traceparent='T",
            "select 1 /*traceparent='Tx'*/",
            "select 1 /*traceparent='T-more'*/",
            "/*traceparent='T' select 1",
            "",
            "/*",
            "*/",
            "/*/",
        ];
        for text in cases {
            assert_eq!(find(&text.replace('T', GOOD)), None, "{text}");
        }
        for value in [
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "%",
            "%0",
            "",
        ] {
            assert_eq!(find(&format!("select 1 /*traceparent='{value}'*/")), None, "{value}");
        }
        assert!(find(&format!("select 1 /*traceparent='01{}-more'*/", &GOOD[2..])).is_some(), "a later version");
    }

    #[test]
    fn a_statement_is_known_without_it() {
        let known = |text: &str| {
            let text = text.replace('T', GOOD);
            String::from_utf8(without_traceparent(text.as_bytes()).to_vec()).unwrap()
        };
        assert_eq!(known("select 1 /*traceparent='T'*/"), "select 1 ");
        assert_eq!(known("/*a='b',traceparent='T'*/ select 1"), "select 1");
        for other in [
            "select 1",
            "select 1 /* other */",
            "/* forebay: primary traceparent='T' */ select 1",
            "select 1 /*traceparent='T' $x$ */",
            "select 1 /*traceparent='T' -- */",
            "select 1 /*traceparent='T*/",
            "/*traceparent='T'*/",
        ] {
            let expected = if other.starts_with("/*t") { String::new() } else { other.replace('T', GOOD) };
            assert_eq!(known(other), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(prop::sample::select(b"/*trc-='% ;0a\n".to_vec()), 0..60)) {
            let _ = Traceparent::find(&text);
            let _ = without_traceparent(&text);
        }

        #[test]
        fn it_means_the_same_without_it(
            words in prop::collection::vec(prop::sample::select(vec![
                "select", "insert", "1", "'", "''", "\"", "--", "/*", "*/", "\n", "$$", "$a$", "E'", "\\", ";", "f(", ")",
                "/*traceparent='00-1-1-01'*/", "traceparent", "set x=1", "begin", "U&'", "/", "*", "+",
            ]), 0..8),
            is_first in any::<bool>(),
        ) {
            let statement = words.join(" ");
            let text = match is_first {
                true => format!("/*traceparent='{GOOD}'*/{statement}"),
                false => format!("{statement} /*traceparent='{GOOD}',a='b'*/"),
            };
            let known = without_traceparent(text.as_bytes());
            let (with, without) = (classify(text.as_bytes(), None), classify(known, None));
            prop_assert_eq!(&with.access, &without.access, "{}", text);
            prop_assert_eq!(&with.hint, &without.hint, "{}", text);
            prop_assert_eq!(&with.effects, &without.effects, "{}", text);
        }
    }
}
