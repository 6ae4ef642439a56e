//! How long commands that block may do so: a time that has passed on a lost connection counts.

use crate::wire::resp::command::block_option;
use crate::wire::resp::{encode, words};

/// Where a blocking command says how long it may take, and how many of that number's units make a second.
fn timeout_of(words: &[&[u8]]) -> Option<(usize, f64)> {
    let name = words.first().map(|name| name.to_ascii_uppercase())?;
    match name.as_slice() {
        b"BLMPOP" | b"BZMPOP" => Some((1, 1.0)),
        b"XREAD" | b"XREADGROUP" => Some((block_option(words.iter().skip(1).copied())? + 2, 1000.0)),
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX" => {
            words.len().checked_sub(1).map(|last| (last, 1.0))
        }
        // A module's: nobody knows.
        _ => None,
    }
}

fn number(words: &[&[u8]], place: usize) -> Option<f64> {
    std::str::from_utf8(words.get(place)?).ok()?.parse().ok()
}

/// A blocking command that would have come back without anything some time.
pub(super) fn ends_by_itself(request: Option<&[u8]>) -> bool {
    let words: Vec<&[u8]> = request.map(|request| words(request).collect()).unwrap_or_default();
    timeout_of(&words).and_then(|(place, _)| number(&words, place)).is_some_and(|time| time > 0.0)
}

/// A blocking command that has waited for `passed` ns already: for the rest of its time.
pub(super) fn shortened(request: &[u8], passed: u64) -> Vec<u8> {
    let words: Vec<&[u8]> = words(request).collect();
    let found = timeout_of(&words).and_then(|(place, units)| Some((place, units, number(&words, place)?)));
    // 0 is for ever; what is no time the server says.
    let Some((place, units, time)) = found.filter(|(_, _, time)| *time > 0.0) else { return request.to_vec() };
    // At least once it looks, and not for ever.
    let left = (time / units - passed as f64 / 1e9).max(0.001) * units;
    let left = if units > 1.0 { format!("{left:.0}") } else { format!("{left:.3}") };
    let mut changed = words;
    if let Some(word) = changed.get_mut(place) {
        *word = left.as_bytes();
    }
    let mut out = Vec::new();
    encode(&mut out, &changed);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::request;

    #[test]
    fn what_ends_by_itself_is_known_by_its_timeout() {
        for line in ["BLPOP k 1", "BRPOPLPUSH a b 0.5", "BLMPOP 2 1 k LEFT", "XREADGROUP GROUP g c BLOCK 5 STREAMS s >"]
        {
            assert!(ends_by_itself(Some(&request(line))), "{line}");
        }
        for line in ["MODULE.WAIT k 5", "BLPOP k 0", "BLMPOP 0 1 k LEFT", "XREADGROUP GROUP g c BLOCK 0 STREAMS s >"] {
            assert!(!ends_by_itself(Some(&request(line))), "{line}");
        }
    }

    #[test]
    fn the_time_that_has_passed_is_taken_off_wherever_the_timeout_stands() {
        for (before, after) in [
            ("BLPOP k l 5", "BLPOP k l 3.500"),
            ("blmove a b LEFT RIGHT 2", "blmove a b LEFT RIGHT 0.500"),
            ("BZMPOP 2.25 1 z MIN", "BZMPOP 0.750 1 z MIN"),
            ("XREAD COUNT 1 BLOCK 5000 STREAMS s $", "XREAD COUNT 1 BLOCK 3500 STREAMS s $"),
            (
                "XREADGROUP GROUP BLOCK BLOCK BLOCK 2000 STREAMS s >",
                "XREADGROUP GROUP BLOCK BLOCK BLOCK 500 STREAMS s >",
            ),
            ("BRPOP k 1", "BRPOP k 0.001"),
            ("XREAD BLOCK 100 STREAMS s $", "XREAD BLOCK 1 STREAMS s $"),
            ("BLPOP k 0", "BLPOP k 0"),
            ("BLPOP k x", "BLPOP k x"),
        ] {
            assert_eq!(shortened(&request(before), 1_500_000_000), request(after), "{before}");
        }
    }
}
