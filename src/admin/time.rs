//! Moments as text. Always UTC, and always said so where the column's tool does not forbid it.

use std::time::{Duration, SystemTime};

use crate::worker::clock::now_ns;

/// Year, month, day, hour, minute, second.
fn parts(moment: SystemTime) -> (i64, u32, u32, u64, u64, u64) {
    let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days from 1 March of year 0, so that the leap day is the last of its year; eras of 400 years have 146097 days.
    let days = i64::try_from(days).unwrap_or(0) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 { march_based + 3 } else { march_based - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32, second / 3600, second / 60 % 60, second % 60)
}

/// `2026-08-23 14:03:11`, as Pgpool-II shows times.
pub(super) fn plain(moment: SystemTime) -> String {
    let (year, month, day, hour, minute, second) = parts(moment);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `2026-08-23 14:03:11 UTC`, as PgBouncer shows times.
pub(super) fn with_zone(moment: SystemTime) -> String {
    format!("{} UTC", plain(moment))
}

/// `2026-08-23 14:03:11.042 UTC`, for what is compared closely.
pub(super) fn precise(moment: SystemTime) -> String {
    let millis = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{}.{millis:03} UTC", plain(moment))
}

/// The wall clock at a moment of the process's clock, ns, that has been or is to come.
pub(super) fn wall(ns: u64) -> SystemTime {
    let now = now_ns();
    let (ago, ahead) = (Duration::from_nanos(now.saturating_sub(ns)), Duration::from_nanos(ns.saturating_sub(now)));
    let wall = SystemTime::now().checked_sub(ago).and_then(|then| then.checked_add(ahead));
    wall.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let at = |seconds: u64| plain(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        // Compared with `date -u -d @N`.
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_709_251_200), "2024-03-01 00:00:00");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00", "2100 has no leap day");
    }
}
