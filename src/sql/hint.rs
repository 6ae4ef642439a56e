//! Routing hints in the comments before a statement's first keyword.

use memchr::memmem;

use super::Hint;
use super::lex::{end_of_comment, end_of_line};

/// The hint in any comment before the first keyword; `Primary` wins if they disagree.
///
/// Understands `/* forebay: primary */` and `/* forebay: replica */`, also among other words of the comment and in
/// `--` comments, and Pgpool's `/*NO LOAD BALANCE*/`. Opening parentheses and semicolons before the keyword do not
/// hide a later comment.
pub fn leading(text: &[u8]) -> Option<Hint> {
    let mut rest = text;
    let mut hint = None;
    loop {
        let length = match rest {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'(' | b';', ..] => 1,
            [b'/', b'*', ..] => end_of_comment(rest)?,
            [b'-', b'-', ..] => end_of_line(rest, 2),
            _ => return hint,
        };
        let (skipped, tail) = rest.split_at_checked(length)?;
        if length > 1 {
            hint = match (hint, in_comment(skipped)) {
                (Some(Hint::Primary), _) | (_, Some(Hint::Primary)) => Some(Hint::Primary),
                (earlier, found) => found.or(earlier),
            };
        }
        rest = tail;
    }
}

fn in_comment(comment: &[u8]) -> Option<Hint> {
    if let [b'/', b'*', body @ .., b'*', b'/'] = comment
        && body.trim_ascii().eq_ignore_ascii_case(b"NO LOAD BALANCE")
    {
        return Some(Hint::Primary);
    }
    let mut found = None;
    for at in memmem::find_iter(comment, b"forebay:") {
        let value = comment.get(at + b"forebay:".len()..).unwrap_or_default().trim_ascii_start();
        let end = value.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(value.len());
        match value.get(..end).unwrap_or_default() {
            word if word.eq_ignore_ascii_case(b"primary") => return Some(Hint::Primary),
            word if word.eq_ignore_ascii_case(b"replica") => found = Some(Hint::Replica),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_before_the_first_keyword_count() {
        let cases = [
            ("/* forebay: primary */ SELECT 1", Some(Hint::Primary)),
            ("/*forebay:replica*/SELECT 1", Some(Hint::Replica)),
            ("  -- forebay: replica\nSELECT 1", Some(Hint::Replica)),
            ("/* app */ /* trace=1 forebay: replica,x */ SELECT 1", Some(Hint::Replica)),
            ("/* forebay: replica */ /* forebay: primary */ SELECT 1", Some(Hint::Primary)),
            ("/* forebay: primary */ /* forebay: replica */ SELECT 1", Some(Hint::Primary)),
            ("/*NO LOAD BALANCE*/ SELECT 1", Some(Hint::Primary)),
            ("/* no load balance */ SELECT 1", Some(Hint::Primary)),
            ("(/* forebay: replica */ SELECT 1)", Some(Hint::Replica)),
            ("; /* forebay: replica */ SELECT 1", Some(Hint::Replica)),
            ("/* forebay: primaryish */ SELECT 1", None),
            ("/* forebay: */ SELECT 1", None),
            ("SELECT 1 /* forebay: primary */", None),
            ("SELECT '/* forebay: primary */'", None),
            ("/* forebay: primary SELECT 1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(leading(text.as_bytes()), expected, "{text}");
        }
    }
}
