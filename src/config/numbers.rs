//! Counts, ports, sizes and durations as settings.

use std::time::Duration;

use toml::de::DeValue;

use super::reader::Reader;
use super::setting::{At, Rules, Secrets, Setting, Value, found, quote};
use super::units;

/// Most that a count may be: nothing counted here is sensible above, and sums of a few cannot overflow.
const LARGEST_COUNT: u64 = 1_000_000_000;

/// A whole number from 0 up, within `at.rules.at_least..=largest`.
fn count(value: &Value<'_>, at: &At, largest: u64, expected: &str, reader: &mut Reader<'_>) -> Option<u64> {
    let DeValue::Integer(digits) = value.get_ref() else {
        let hint = match value.get_ref() {
            DeValue::String(text) if text.parse::<u64>().is_ok() => "; write it without quotes",
            _ => "",
        };
        reader.error(value, format!("{} must be {expected} ({}){hint}", at.key, found(value.get_ref())));
        return None;
    };
    let number = i128::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i128::MAX);
    let least = at.rules.at_least;
    if number < i128::from(least) {
        reader.error(value, format!("{} must be at least {least} (found {digits})", at.key));
        return None;
    }
    match u64::try_from(number).ok().filter(|&number| number <= largest) {
        Some(number) => Some(number),
        None => {
            reader.error(value, format!("{} must be at most {largest} (found {digits})", at.key));
            None
        }
    }
}

macro_rules! counts {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn form(rules: Rules) -> String {
                match rules.at_least {
                    0 => "number".to_owned(),
                    least => format!("number, at least {least}"),
                }
            }
            fn blank() -> Self {
                0
            }
            fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
                let number = count(value, at, LARGEST_COUNT, "a whole number", reader)?;
                <$type>::try_from(number).ok()
            }
            fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
counts!(usize, u32);

/// A share of something.
impl Setting for f64 {
    fn form(_: Rules) -> String {
        "number from 0 to 1".to_owned()
    }
    fn blank() -> Self {
        0.0
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let share = match value.get_ref() {
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            let found = found(value.get_ref());
            reader.error(value, format!("{} must be a number from 0 to 1 ({found})", at.key));
        }
        share
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

/// A TCP port.
impl Setting for u16 {
    fn form(_: Rules) -> String {
        "port".to_owned()
    }
    fn blank() -> Self {
        0
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let at = At { rules: Rules { at_least: 1, ..at.rules }, ..at.clone() };
        let port = count(value, &at, u64::from(u16::MAX), "a port from 1 to 65535", reader)?;
        u16::try_from(port).ok()
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Option<usize> {
    fn form(_: Rules) -> String {
        "number or \"unlimited\"".to_owned()
    }
    fn blank() -> Self {
        None
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("unlimited") {
            return Some(None);
        }
        let number = count(value, at, LARGEST_COUNT, "a whole number or \"unlimited\"", reader)?;
        usize::try_from(number).ok().map(Some)
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(self.map_or_else(|| quote("unlimited"), |number| number.to_string()))
    }
}

/// `u64` is a size in bytes; counts are `usize` or `u32`.
impl Setting for u64 {
    fn form(_: Rules) -> String {
        "size".to_owned()
    }
    fn blank() -> Self {
        0
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        bytes(value, at, "a size such as \"64KiB\", \"1MiB\" or a number of bytes", reader)
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(quote(&units::size_text(*self)))
    }
}

impl Setting for Option<u64> {
    fn form(_: Rules) -> String {
        "size or \"unlimited\"".to_owned()
    }
    fn blank() -> Self {
        None
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("unlimited") {
            return Some(None);
        }
        bytes(value, at, "a size such as \"64KiB\", a number of bytes, or \"unlimited\"", reader).map(Some)
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(quote(&self.map_or_else(|| "unlimited".to_owned(), units::size_text)))
    }
}

fn bytes(value: &Value<'_>, at: &At, expected: &str, reader: &mut Reader<'_>) -> Option<u64> {
    // TOML's integers are 64 bits with a sign, and what is printed must be read again.
    let largest = i64::MAX as u64;
    let DeValue::String(text) = value.get_ref() else {
        return count(value, at, largest, expected, reader);
    };
    let Some(number) = units::size(text).filter(|&number| number <= largest) else {
        reader.error(
            value,
            format!(
                "{} must be {expected} ({}); the units are B, kB, MB, GB, TB and KiB, MiB, GiB, TiB",
                at.key,
                found(value.get_ref())
            ),
        );
        return None;
    };
    if number < at.rules.at_least {
        let least = at.rules.at_least;
        reader.error(value, format!("{} must be at least {least} ({})", at.key, found(value.get_ref())));
        return None;
    }
    Some(number)
}

impl Setting for Duration {
    fn form(_: Rules) -> String {
        "duration".to_owned()
    }
    fn blank() -> Self {
        Duration::ZERO
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        time(value, at, "a duration such as \"500ms\", \"5s\" or \"1h30m\"", reader)
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(quote(&units::duration_text(*self)))
    }
}

impl Setting for Option<Duration> {
    fn form(_: Rules) -> String {
        "duration or \"off\"".to_owned()
    }
    fn blank() -> Self {
        None
    }
    fn parse(value: &Value<'_>, at: &At, reader: &mut Reader<'_>) -> Option<Self> {
        let is_zero = match value.get_ref() {
            DeValue::String(text) if text == "off" => return Some(None),
            DeValue::String(text) => units::duration(text) == Some(Duration::ZERO),
            DeValue::Integer(digits) => digits.as_str() == "0",
            _ => false,
        };
        match (is_zero, at.rules.zero_is_off) {
            (true, true) => Some(None),
            (true, false) => {
                let found = found(value.get_ref());
                reader.error(value, format!("{} must not be 0 ({found}); write \"off\" for no limit", at.key));
                None
            }
            (false, _) => {
                time(value, at, "a duration such as \"500ms\", \"5s\" or \"1h30m\", or \"off\"", reader).map(Some)
            }
        }
    }
    fn literal(&self, _: Rules, _: Secrets) -> Option<String> {
        Some(quote(&self.map_or_else(|| "off".to_owned(), units::duration_text)))
    }
}

fn time(value: &Value<'_>, at: &At, expected: &str, reader: &mut Reader<'_>) -> Option<Duration> {
    let read = match value.get_ref() {
        DeValue::String(text) => units::duration(text),
        _ => None,
    };
    let Some(time) = read else {
        let hint = match value.get_ref() {
            DeValue::Integer(digits) => format!("; write a unit: \"{digits}s\" or \"{digits}ms\""),
            DeValue::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                format!("; write a unit: \"{text}s\" or \"{text}ms\"")
            }
            DeValue::String(_) => "; the units are d, h, m, s and ms, at most ten years in all".to_owned(),
            _ => String::new(),
        };
        reader.error(value, format!("{} must be {expected} ({}){hint}", at.key, found(value.get_ref())));
        return None;
    };
    let least = Duration::from_millis(at.rules.at_least);
    if time < least {
        let least = quote(&units::duration_text(least));
        reader.error(value, format!("{} must be at least {least} ({})", at.key, found(value.get_ref())));
        return None;
    }
    Some(time)
}
