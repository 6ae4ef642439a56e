//! Where the keys of a request stand among its words.
//!
//! For statistics alone: nothing is routed by it. What Redis says of a command (first, last, step) is the rule; where
//! a word says how many keys there are, Redis names the first one at most, and the rule is written here.

use super::table::Row;
use super::{Path, Verb};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It has none, or nobody knows.
    None,
    /// Each `step`th word from `first` to `last`; a negative `last` counts from the end, -1 is the last word.
    Range {
        /// The command itself is word 0.
        first: u16,
        /// See above.
        last: i16,
        /// At least 1.
        step: u16,
    },
    /// The word at `count` says how many follow it.
    Counted {
        /// See above.
        count: u16,
        /// Word 1 is one, too: where the result goes.
        has_target: bool,
    },
    /// The first half of the words behind STREAMS.
    Streams,
}

const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };
const FIRST_TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };
const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };
const ALL_BUT_LAST: Keys = Keys::Range { first: 1, last: -2, step: 1 };

/// Those that are not as nearly all are: one key, the first word behind the name.
const EXCEPTIONS: &[(Keys, &[&str])] = &[
    (
        Keys::None,
        &[
            "asking",
            "command",
            "dbsize",
            "flushall",
            "flushdb",
            "info",
            "keys",
            "lastsave",
            "lolwut",
            "migrate",
            "publish",
            "randomkey",
            "readonly",
            "readwrite",
            "role",
            "scan",
            "spublish",
            "time",
            "ts.mget",
            "ts.mrange",
            "ts.mrevrange",
            "ts.queryindex",
        ],
    ),
    (
        ALL,
        &[
            "del",
            "exists",
            "mget",
            "pfcount",
            "pfmerge",
            "sdiff",
            "sdiffstore",
            "sinter",
            "sinterstore",
            "sunion",
            "sunionstore",
            "touch",
            "unlink",
            "watch",
        ],
    ),
    (ALL_BUT_LAST, &["blpop", "brpop", "bzpopmax", "bzpopmin", "json.mget"]),
    (
        FIRST_TWO,
        &[
            "blmove",
            "brpoplpush",
            "copy",
            "geosearchstore",
            "lcs",
            "lmove",
            "rename",
            "renamenx",
            "rpoplpush",
            "smove",
            "ts.createrule",
            "ts.deleterule",
            "zrangestore",
        ],
    ),
    (SECOND, &["memory|usage", "msetex"]),
    (Keys::Range { first: 2, last: -1, step: 1 }, &["bitop"]),
    (Keys::Range { first: 1, last: -1, step: 2 }, &["mset", "msetnx"]),
    (Keys::Range { first: 1, last: -1, step: 3 }, &["json.mset", "ts.madd"]),
    (
        Keys::Counted { count: 1, has_target: false },
        &["lmpop", "sintercard", "zdiff", "zinter", "zintercard", "zmpop", "zunion"],
    ),
    (
        Keys::Counted { count: 2, has_target: false },
        &["blmpop", "bzmpop", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"],
    ),
    (
        Keys::Counted { count: 2, has_target: true },
        &["cms.merge", "tdigest.merge", "zdiffstore", "zinterstore", "zunionstore"],
    ),
    (Keys::Streams, &["xread", "xreadgroup"]),
];

impl Keys {
    /// The first word behind the name, as nearly always.
    pub const FIRST: Keys = Keys::Range { first: 1, last: 1, step: 1 };

    /// Of a command of the built-in table.
    pub(super) fn of(row: &Row) -> Keys {
        if let Some((keys, _)) = EXCEPTIONS.iter().find(|(_, names)| names.contains(&row.name)) {
            return *keys;
        }
        match row.name.split_once('|') {
            Some((_, "help")) => Keys::None,
            Some(("object" | "xgroup" | "xinfo", _)) => SECOND,
            Some(_) => Keys::None,
            None if row.name == "restore-asking" => Keys::FIRST,
            None if row.name.starts_with("ft.") || row.is_admin => Keys::None,
            None if matches!(row.path, Path::Session(verb) if verb != Verb::Watch) => Keys::None,
            // A container, without any word behind it.
            None if row.path == Path::Own => Keys::None,
            None => Keys::FIRST,
        }
    }

    /// As a server describes them; a first key of 0 means that there are none.
    pub(super) fn described(first: i64, last: i64, step: i64) -> Keys {
        match (u16::try_from(first), i16::try_from(last), u16::try_from(step)) {
            (Ok(first @ 1..), Ok(last), Ok(step @ 1..)) => Keys::Range { first, last, step },
            _ => Keys::None,
        }
    }

    /// Which of the words are keys. `total` is how many words the request has, of which `words` are the first ones: keys
    /// beyond those are left out.
    pub fn places(self, words: &[&[u8]], total: usize) -> impl Iterator<Item = usize> + use<> {
        let (target, from, to, step) = match self {
            Keys::None => (None, 0, 0, 1),
            Keys::Range { first, last, step } => {
                let to = match usize::try_from(last) {
                    Ok(last) => last + 1,
                    Err(_) => (total + 1).saturating_sub(usize::from(last.unsigned_abs())),
                };
                (None, usize::from(first), to, usize::from(step))
            }
            Keys::Counted { count, has_target } => {
                let at = usize::from(count);
                let digits = words.get(at).and_then(|word| std::str::from_utf8(word).ok());
                let many = digits.and_then(|digits| digits.parse().ok()).unwrap_or(0);
                (has_target.then_some(1), at + 1, (at + 1).saturating_add(many), 1)
            }
            Keys::Streams => {
                let at = words.iter().position(|word| word.eq_ignore_ascii_case(b"STREAMS")).unwrap_or(total);
                (None, at + 1, at + 1 + total.saturating_sub(at + 1) / 2, 1)
            }
        };
        let end = to.min(total).min(words.len());
        target.filter(|at| *at < words.len()).into_iter().chain((from..end).step_by(step.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Commands;
    use proptest::prelude::*;

    /// The keys of a line.
    fn keys(line: &str) -> Vec<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let commands = Commands::builtin();
        let command = commands.judge(words[0], words.get(1).copied()).expect("known");
        let places = command.keys.places(&words, words.len());
        places.map(|at| String::from_utf8(words[at].to_vec()).expect("text")).collect()
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        for (line, expected) in [
            ("GET a", "a"),
            ("SET a b EX 10", "a"),
            ("HSET h f v", "h"),
            ("DEL a b c", "a b c"),
            ("MSET a 1 b 2", "a b"),
            ("MSET a 1 b", "a b"),
            ("BITOP AND d a b", "d a b"),
            ("BLPOP a b 0", "a b"),
            ("RENAME a b", "a b"),
            ("EVAL x 2 a b c", "a b"),
            ("EVAL x 9 a b c", "a b c"),
            ("EVAL x nine a b c", ""),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
            ("ZINTER 1 a WITHSCORES", "a"),
            ("XREAD COUNT 1 STREAMS a b 0 0", "a b"),
            ("XREADGROUP GROUP g c STREAMS a >", "a"),
            ("XREAD a b c", ""),
            ("OBJECT ENCODING a", "a"),
            ("OBJECT HELP", ""),
            ("XGROUP CREATE s g $", "s"),
            ("MEMORY USAGE a", "a"),
            ("PUBLISH c m", ""),
            ("PING", ""),
            ("CONFIG GET a", ""),
            ("SCAN 0", ""),
            ("GET", ""),
        ] {
            assert_eq!(keys(line).join(" "), expected, "{line}");
        }
    }

    #[test]
    fn keys_beyond_the_words_that_are_looked_at_are_left_out() {
        let words: Vec<&[u8]> = vec![b"MGET", b"a", b"b"];
        let commands = Commands::builtin();
        let command = commands.find(b"mget").expect("known");
        assert_eq!(command.keys.places(&words, 1_000_000).collect::<Vec<_>>(), [1, 2]);
    }

    proptest! {
        #[test]
        fn a_key_is_always_one_of_the_words(words in prop::collection::vec("[a-z0-9-]{0,3}|STREAMS", 1..9), more in 0usize..5) {
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            for command in Commands::builtin().iter() {
                for at in command.keys.places(&words, words.len() + more) {
                    prop_assert!((1..words.len()).contains(&at), "{} {at}", command.name);
                }
            }
        }
    }
}
