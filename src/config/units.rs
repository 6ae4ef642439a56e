//! Durations and sizes as they are written in the file, both ways.

use std::time::Duration;

/// Longest duration accepted: ten years, so that adding one to a clock cannot overflow.
const LONGEST_MS: u64 = 3650 * 86_400_000;

const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

/// Reads `500ms`, `5s`, `10m`, `1h`, `1h30m`, `2d`; units from large to small, each once.
/// `None` when the text is anything else or longer than ten years.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    let mut last_scale = u64::MAX;
    loop {
        let (number, after) = leading_number(rest)?;
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_len)?;
        let &(_, scale) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        if scale >= last_scale {
            return None;
        }
        last_scale = scale;
        total_ms = total_ms.checked_add(number.checked_mul(scale)?)?;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (total_ms <= LONGEST_MS).then(|| Duration::from_millis(total_ms))
}

/// Reads `64KiB`, `1MiB`, `10MB`, `100` (bytes). `None` when the text is anything else or does not fit.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text.trim())?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Some(number);
    }
    let &(_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(scale)
}

/// The shortest text that [`duration`] reads back as the same value (to the millisecond).
pub(super) fn duration_text(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    if rest < 10_000 && rest % 1000 != 0 {
        return format!("{rest}ms");
    }
    let mut text = String::new();
    for (unit, scale) in TIME_UNITS {
        let count = rest / scale;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            rest %= scale;
        }
    }
    text
}

/// The text in the largest unit that divides the value.
pub(super) fn size_text(value: u64) -> String {
    let unit = SIZE_UNITS.iter().find(|(_, scale)| value > 0 && value.is_multiple_of(*scale));
    match unit {
        Some(("B", _)) | None => format!("{value}B"),
        Some((unit, scale)) => format!("{}{unit}", value / scale),
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_units_from_large_to_small() {
        let ms = |text| duration(text).map(|d| d.as_millis() as u64);
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("5s"), Some(5000));
        assert_eq!(ms("10m"), Some(600_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("2d"), Some(172_800_000));
        assert_eq!(ms("0s"), Some(0));
        for wrong in ["", "5", "s", "5 s", "5sec", "30m1h", "1h1h", "-5s", "1.5s", "99999999999999h", "4000d"] {
            assert_eq!(ms(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1_048_576));
        assert_eq!(size("10MB"), Some(10_000_000));
        assert_eq!(size("1 GiB"), Some(1 << 30));
        assert_eq!(size("100"), Some(100));
        for wrong in ["", "KiB", "1K", "1mb", "-1B", "99999999TiB"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn durations_survive_being_written(ms in 0..=LONGEST_MS) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration(&duration_text(value)), Some(value));
        }

        #[test]
        fn sizes_survive_being_written(bytes in any::<u64>()) {
            prop_assert_eq!(size(&size_text(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (duration(&text), size(&text));
        }
    }
}
