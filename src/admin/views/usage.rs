//! What Redis' commands and keys are used for.

use crate::admin::facts::Facts;
use crate::admin::table::{Row, Value, row};
use crate::admin::time;
use crate::redis::usage::{CommandReport, HotKey, LONGEST_KEY, LargeKey, OTHERS};

pub(super) fn commands(facts: &Facts) -> Vec<Row> {
    let rows = facts.usage.iter().flat_map(|usage| usage.commands.iter().map(|command| (&usage.service, command)));
    rows.map(|(service, command)| self::command(service, command)).collect()
}

fn command(service: &String, command: &CommandReport) -> Row {
    let [primary, replica, own, here] = command.calls;
    let (calls, sent) = (primary + replica + own + here, primary + replica + own);
    let timed = &command.timed;
    // What holds for those that were looked at holds for all, as far as is known.
    let for_all = |sum: u64| {
        let all = u128::from(sum) * u128::from(sent) / u128::from(timed.count.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    };
    let some = |value: Value| if timed.count > 0 { value } else { Value::Null };
    let quantile = |share: f64| ms(timed.times.quantile(share).unwrap_or(0));
    row![
        service,
        match &*command.name {
            OTHERS => OTHERS.to_owned(),
            name => name.to_ascii_uppercase(),
        },
        calls,
        primary,
        replica,
        own,
        here,
        command.errors,
        some(ms(for_all(timed.time))),
        some(ms(timed.time.checked_div(timed.count).unwrap_or(0))),
        some(quantile(0.5)),
        some(quantile(0.99)),
        some(Value::from(for_all(timed.bytes_in))),
        some(Value::from(for_all(timed.bytes_out))),
        timed.count,
    ]
}

fn ms(ns: u64) -> Value {
    Value::Thousandths(i64::try_from(ns / 1000).unwrap_or(i64::MAX))
}

pub(super) fn keys(facts: &Facts) -> Vec<Row> {
    let hot = facts.usage.iter().flat_map(|usage| usage.hot.iter().map(|key| hot(&usage.service, key)));
    let large = facts.usage.iter().flat_map(|usage| usage.large.iter().map(|key| large(&usage.service, key)));
    hot.chain(large).collect()
}

fn hot(service: &String, key: &HotKey) -> Row {
    let (bytes, len) = &key.key;
    row![
        service,
        key.db,
        "hot",
        shown(bytes, *len),
        key.accesses,
        key.error,
        // Of ten thousandths.
        Value::Thousandths(i64::try_from(key.share).unwrap_or(0) * 10),
        key.accesses.saturating_sub(key.writes),
        key.writes,
        None::<u64>,
        None::<String>,
        None::<String>,
        *len,
    ]
}

fn large(service: &String, key: &LargeKey) -> Row {
    row![
        service,
        key.id.db,
        "big",
        shown(&key.key, key.len),
        None::<u64>,
        None::<u64>,
        None::<u64>,
        None::<u64>,
        None::<u64>,
        key.bytes,
        key.command.to_ascii_uppercase(),
        time::with_zone(time::wall(key.seen)),
        key.len,
    ]
}

/// The beginning of a key of `len` bytes as text without control characters, or characters that nobody sees: those, and
/// bytes that are no text, are written as Rust and C would.
fn shown(key: &[u8], len: usize) -> String {
    let is_whole = key.len() == len;
    // A character that was cut in two is left out.
    let key = match std::str::from_utf8(key) {
        Err(e) if !is_whole && e.error_len().is_none() => key.get(..e.valid_up_to()).unwrap_or(key),
        _ => key,
    };
    let mut text = String::with_capacity(key.len().min(LONGEST_KEY) + 3);
    for chunk in key.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => text.push(c),
                c => text.extend(c.escape_debug()),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    if !is_whole {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_key_is_shown_without_anything_that_a_terminal_obeys() {
        for (key, expected) in [
            (b"user:1".as_slice(), "user:1"),
            (b"a b'c\"d", "a b'c\"d"),
            (b"a\nb\r\t\0", "a\\nb\\r\\t\\0"),
            (b"\x1b[31m\x7f", "\\u{1b}[31m\\u{7f}"),
            (b"\xff\xfe\\", "\\xff\\xfe\\\\"),
            ("ключ".as_bytes(), "ключ"),
            ("\u{202e}x\u{200b}".as_bytes(), "\\u{202e}x\\u{200b}"),
            (b"", ""),
        ] {
            assert_eq!(shown(key, key.len()), expected);
        }
        assert_eq!(shown("aключ".as_bytes().split_at(4).0, 9), "aк...", "no half characters");
        assert_eq!(shown(b"abc", 300), "abc...");
    }
}
