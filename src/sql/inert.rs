//! A look at a statement that costs a tenth of a verdict, for pools that do not split reads from writes.

/// Bytes looked at in one go.
const STEP: usize = 16;
/// What the `NTO` of `INTO` needs to be seen whole by the step in which it begins. Few other words have it.
const WINDOW: usize = STEP + 2;

/// True if `text` is one statement that can leave nothing behind on its connection, whatever it reads or writes:
/// a plain SELECT, INSERT, UPDATE or DELETE without a call, a comment or a second statement. False is no verdict;
/// then [`super::classify()`] has to say.
///
/// What could leave something behind needs a parenthesis (a function), a semicolon (another statement), or `INTO` (a
/// temporary table); what could steer the routing needs a comment. None of these bytes may occur, not even in a
/// literal, so that no quoting has to be understood; nor may a NUL, which would end the text.
pub fn is_inert(text: &[u8]) -> bool {
    let text = match text {
        [rest @ .., b';'] => rest,
        all => all,
    };
    let [a, b, c, d, e, f, rest @ ..] = text else { return false };
    let first = [a | 0x20, b | 0x20, c | 0x20, d | 0x20, e | 0x20, f | 0x20];
    if !rest.first().is_some_and(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')) {
        return false;
    }
    match &first {
        b"select" => !has(rest, true),
        b"insert" | b"update" | b"delete" => !has(rest, false),
        _ => false,
    }
}

/// A parenthesis, a semicolon or what may begin a comment; with `into` also that word, as part of a longer one too.
#[inline]
fn has(text: &[u8], into: bool) -> bool {
    let Some(last) = text.last_chunk::<WINDOW>() else { return has_in_short(text, into) };
    let mut rest = text;
    while let Some(window) = rest.first_chunk::<WINDOW>() {
        if has_in_step(window, into) {
            return true;
        }
        rest = rest.get(STEP..).unwrap_or_default();
    }
    // The last window overlaps what was seen; its last bytes begin no step of their own.
    has_in_step(last, into) || last.last_chunk::<2>().is_some_and(|end| end.iter().any(is_mark))
}

fn is_mark(byte: &u8) -> bool {
    matches!(byte, b'(' | b';' | b'/' | 0)
}

/// Looks at each place of a step, without an early end and without a branch, so that the loop becomes about 30 vector
/// instructions.
#[inline]
fn has_in_step(window: &[u8; WINDOW], into: bool) -> bool {
    let at = |from: usize| window.get(from..).and_then(|rest| rest.first_chunk::<STEP>());
    let (Some(n), Some(t), Some(o)) = (at(0), at(1), at(2)) else { return true };
    let mut found = [0; STEP];
    for (((found, n), t), o) in found.iter_mut().zip(n).zip(t).zip(o) {
        let mark = u8::from(*n == b'(') | u8::from(*n == b';') | u8::from(*n == b'/') | u8::from(*n == 0);
        let word = u8::from(n | 0x20 == b'n') & u8::from(t | 0x20 == b't') & u8::from(o | 0x20 == b'o');
        *found = mark | word & u8::from(into);
    }
    u128::from_ne_bytes(found) != 0
}

fn has_in_short(text: &[u8], into: bool) -> bool {
    text.iter().any(is_mark) || into && text.windows(4).any(|word| word.eq_ignore_ascii_case(b"into"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Effects, Kind, Reason, classify};
    use proptest::prelude::*;

    #[test]
    fn plain_statements_are_inert() {
        for text in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 17;",
            "select 1",
            "update t set x = 1 where id = 2",
            "Delete from t",
            "INSERT INTO t SELECT * FROM u",
            "select 'it''s' from \"T\" where a = $1",
        ] {
            assert!(is_inert(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn whatever_may_leave_something_behind_is_not() {
        for text in [
            "",
            "select",
            "selects 1",
            "set x = 1",
            "begin",
            "select set_config('a', 'b', false)",
            "select * INTO temp x from t",
            "select 1 as a from t\ninto\ttemp x",
            "select 1; set x = 1",
            "/* forebay: replica */ select 1",
            "select /* forebay: replica */ 1",
            " select 1",
            "listen x",
            "with x as (insert into t values (1)) select 1",
        ] {
            assert!(!is_inert(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_mark_is_found_at_every_place() {
        for length in 1..80 {
            for at in 0..length {
                for mark in [b'(', b';', b'/', 0] {
                    let mut text = vec![b'x'; length];
                    text[at] = mark;
                    assert!(has(&text, false), "{} at {at} of {length}", mark as char);
                }
                let mut text = vec![b'x'; length + 3];
                assert!(!has(&text, true), "nothing in {length}");
                text[at..at + 4].copy_from_slice(b"InTo");
                assert!(has(&text, true), "into at {at} of {length}");
                assert!(!has(&text, false), "nobody asked for into");
            }
        }
    }

    proptest! {
        #[test]
        fn an_inert_statement_has_no_effects_in_the_eyes_of_the_classifier(
            first in prop::sample::select(vec!["select", "SELECT", "insert", "update", "delete"]),
            words in prop::collection::vec(prop::sample::select(vec![
                "into", "temp", "t", "'a'", "'", "\"b\"", ";", "(", ")", "set_config", "nextval", "1", "--", "/*", "*/",
                "$$", "$1", "from", "where", "for", "update", "listen", "set", ",", "\\", "E'", "pg_temp.x",
            ]), 0..12),
        ) {
            let text = format!("{first} {}", words.join(" "));
            if is_inert(text.as_bytes()) {
                let verdict = classify(text.as_bytes(), None);
                // A second INTO makes the classifier think of SELECT INTO, which has no place in these statements.
                let unreal = if first.eq_ignore_ascii_case("select") { Effects::empty() } else { Effects::DDL | Effects::TEMP };
                let effects = verdict.effects - unreal;
                let harmless = effects.is_empty() && verdict.kind == Kind::Other && verdict.hint.is_none();
                // A text that never ends is refused by the server, unless it reads backslashes differently.
                let unterminated = verdict.reason == Reason::Unterminated;
                prop_assert!(harmless || unterminated, "{text}: {verdict:?}");
            }
        }
    }
}
