//! A look at a statement that costs a tenth of a verdict, for pools that do not split reads from writes.

/// Bytes looked at in one go.
const STEP: usize = 16;

/// True if `text` is one statement that can leave nothing behind on its connection, whatever it reads or writes:
/// a plain SELECT, INSERT, UPDATE or DELETE without a call, a comment or a second statement. False is no verdict;
/// then [`super::classify`] has to say.
///
/// What could leave something behind needs a parenthesis (a function), a semicolon (another statement), or `INTO` (a
/// temporary table); what could steer the routing needs a comment. None of these bytes may occur, not even in a
/// literal, so that no quoting has to be understood.
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
        b"select" => !has_marks(rest) && !has_into(rest),
        b"insert" | b"update" | b"delete" => !has_marks(rest),
        _ => false,
    }
}

/// A parenthesis, a semicolon or what may begin a comment.
fn has_marks(text: &[u8]) -> bool {
    // No early end: the loop over a whole step becomes a few vector instructions.
    let mark = |found: bool, byte: &u8| found | (*byte == b'(') | (*byte == b';') | (*byte == b'/');
    let (steps, rest) = text.as_chunks::<STEP>();
    steps.iter().any(|step| step.iter().fold(false, mark)) || rest.iter().fold(false, mark)
}

/// `into` in any case, also as part of a longer word.
fn has_into(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(step) = text.get(at..at + STEP + 3) {
        if is_into_in(step) {
            return true;
        }
        at += STEP;
    }
    text.get(at..).is_some_and(|rest| rest.windows(4).any(|word| word.eq_ignore_ascii_case(b"into")))
}

fn is_into_in(step: &[u8]) -> bool {
    let [i, n, t, o] = [0, 1, 2, 3].map(|from| step.get(from..from + STEP).unwrap_or_default());
    let mut found = false;
    for (((i, n), t), o) in i.iter().zip(n).zip(t).zip(o) {
        found |= (i | 0x20 == b'i') & (n | 0x20 == b'n') & (t | 0x20 == b't') & (o | 0x20 == b'o');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Access, Effects, Kind, classify};
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
                for mark in [b'(', b';', b'/'] {
                    let mut text = vec![b'x'; length + 1];
                    text[at] = mark;
                    assert!(has_marks(&text), "{} at {at} of {length}", mark as char);
                }
                let mut text = vec![b'x'; length + 4];
                text[at..at + 4].copy_from_slice(b"InTo");
                assert!(has_into(&text), "into at {at} of {length}");
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
                let harmless = verdict.effects.is_empty() && verdict.kind == Kind::Other && verdict.hint.is_none();
                // A text that never ends is refused by the server, unless it reads backslashes differently.
                let unterminated = verdict.reason == super::super::Reason::Unterminated;
                prop_assert!(harmless || unterminated, "{text}: {verdict:?}");
                let _ = (Access::Read, Effects::empty());
            }
        }
    }
}
