//! What a tool's key means here, as data: the tables of PgBouncer and Pgpool-II are made of these.

use super::draft::{Draft, LeftKind, time};
use super::source::{self, Place};
use super::{ImportError, draft};
use crate::config::quote;

/// What a key becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// One key: its section, its name, and how its value is written there.
    Key(&'static str, &'static str, Unit),
    /// Code reads it together with others.
    Special,
    /// Forebay does without it; the reason.
    Moot(&'static str),
    /// There is nothing like it; why, and what to do instead.
    Nothing(&'static str),
}

/// How a value is written by the other tool.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    /// A number.
    Count,
    /// The same, where 0 is to be left out.
    CountFrom1,
    /// A time whose bare numbers are so many milliseconds; 0 means `Zero`.
    Time(u64, Zero),
    /// A size in bytes, where 0 is none.
    Size,
    /// Yes or no.
    Flag,
    /// One of these words; ours beside it.
    Word(&'static [(&'static str, &'static str)]),
}

/// What 0 means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zero {
    /// No limit: "off" here.
    Off,
    /// Something that is not there; the reason.
    Nothing(&'static str),
}

/// A key as it was written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub place: Place,
    pub key: String,
    pub value: String,
}

impl Entry {
    /// An error in the value.
    pub(super) fn wrong(&self, expected: &str) -> ImportError {
        let shown = if source::is_secret(&self.key) { "***".to_owned() } else { quote(&self.value) };
        self.place.error(format!("{} must be {expected} (found {shown})", self.key))
    }

    /// Where it comes from, for the comment behind a key.
    pub(super) fn from(&self) -> String {
        format!("{} {}", self.place, self.key)
    }
}

/// A time in milliseconds: a number with or without a unit.
pub(super) fn milliseconds(text: &str, bare: u64) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number = source::thousandths(number)?;
    let scale = match unit.trim() {
        "" => bare,
        "us" => return Some(number / 1_000_000),
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(number.checked_mul(scale)? / 1000)
}

/// A size in bytes: a number with or without PostgreSQL's units.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let scale = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" | "k" => 1 << 10,
        "MB" | "M" => 1 << 20,
        "GB" | "G" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// Does what the table says of a key.
pub(super) fn apply(meaning: &Meaning, entry: &Entry, draft: &mut Draft) -> Result<(), ImportError> {
    let (section, name, unit) = match meaning {
        Meaning::Key(section, name, unit) => (section, name, unit),
        Meaning::Special => return Ok(()),
        Meaning::Moot(why) => {
            draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, *why);
            return Ok(());
        }
        Meaning::Nothing(why) => {
            draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, *why);
            return Ok(());
        }
    };
    match literal(*unit, entry)? {
        Ok(value) => draft.one(section).set(name, value, entry.from()),
        Err(why) => draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why),
    }
    Ok(())
}

/// A value as TOML, or why there is none.
pub(super) fn literal(unit: Unit, entry: &Entry) -> Result<Result<String, &'static str>, ImportError> {
    let text = entry.value.trim();
    let count = || text.parse::<u64>().map_err(|_| entry.wrong("a number"));
    Ok(match unit {
        Unit::Count => Ok(count()?.to_string()),
        Unit::CountFrom1 => match count()? {
            0 => Err("0 has another meaning here; Forebay's default holds"),
            number => Ok(number.to_string()),
        },
        Unit::Time(bare, zero) => match (milliseconds(text, bare).ok_or_else(|| entry.wrong("a time"))?, zero) {
            (0, Zero::Off) => Ok(quote("off")),
            (0, Zero::Nothing(why)) => Err(why),
            (ms, _) => Ok(time(ms)),
        },
        Unit::Size => match bytes(text).ok_or_else(|| entry.wrong("a size"))? {
            0 => Ok(quote("unlimited")),
            bytes => Ok(bytes.to_string()),
        },
        Unit::Flag => Ok(source::flag(text).ok_or_else(|| entry.wrong("on or off"))?.to_string()),
        Unit::Word(words) => match words.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(text)) {
            Some((_, ours)) => Ok(quote(ours)),
            None => {
                let words: Vec<_> = words.iter().map(|(theirs, _)| *theirs).collect();
                return Err(entry.wrong(&format!("one of {}", words.join(", "))));
            }
        },
    })
}

/// Sets a key of a section by a table's unit.
pub(super) fn set(
    section: &mut draft::Section,
    name: &'static str,
    unit: Unit,
    entry: &Entry,
) -> Result<Option<&'static str>, ImportError> {
    match literal(unit, entry)? {
        Ok(value) => {
            section.set(name, value, entry.from());
            Ok(None)
        }
        Err(why) => Ok(Some(why)),
    }
}
