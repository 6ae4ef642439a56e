//! The lines that lengths stand in.

/// The number that `digits` spell, with an optional minus; `None` for anything else, as Redis' `string2ll`: no plus, no
/// space, no leading zero.
pub fn parse(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match digits {
        [b'0'] if !is_negative => return Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 19 => {}
        _ => return None,
    }
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(if is_negative { -value } else { value })
}

/// The header at the front of `bytes` if it is as short as nearly all are: its kind, its number of up to three digits,
/// and its length with CR and LF. `None`: look at it in earnest. A GET is cut in 199 instructions instead of 470 so, a
/// SET of 64 bytes in 274 instead of 638 (callgrind, release build, tests/bench/resp_timing.rs).
#[inline]
pub(super) fn short_head(bytes: &[u8]) -> Option<(u8, u16, usize)> {
    let digit = |byte: u8| u16::from(byte - b'0');
    match *bytes {
        [kind, a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((kind, digit(a), 4)),
        [kind, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((kind, digit(a) * 10 + digit(b), 5)),
        [kind, a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((kind, digit(a) * 100 + digit(b) * 10 + digit(c), 6))
        }
        _ => None,
    }
}

/// The line at the front of `bytes`, without its CR and LF, and its length with them. `seen` bytes are known to hold no
/// LF. `None`: it has not ended yet.
#[inline]
pub(super) fn line(bytes: &[u8], seen: usize) -> Option<(&[u8], usize)> {
    let end = seen + memchr::memchr(b'\n', bytes.get(seen..)?)?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// As [`line()`], but only CR and LF together end it: what a server sends may hold a lone LF, as the errors of some
/// modules do, and clients read on. `seen` bytes are known to hold no end.
#[inline]
pub(super) fn crlf_line(bytes: &[u8], seen: usize) -> Option<(&[u8], usize)> {
    let mut from = seen;
    loop {
        let end = from + memchr::memchr(b'\n', bytes.get(from..)?)?;
        if let Some(line) = bytes.get(..end)?.strip_suffix(b"\r") {
            return Some((line, end + 1));
        }
        from = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{crlf_line, parse, short_head};

    #[test]
    fn a_short_header_says_what_its_line_says() {
        for number in (0..1200).map(|n| n.to_string()).chain(["-1", "01", "00", "1 ", "+1", "", "a"].map(String::from))
        {
            let bytes = format!("${number}\r\nrest");
            let expected = parse(number.as_bytes()).filter(|n| (0..1000).contains(n));
            let found = short_head(bytes.as_bytes());
            assert_eq!(found, expected.map(|n| (b'$', n as u16, number.len() + 3)), "{number:?}");
            for end in 0..number.len() + 3 {
                assert_eq!(short_head(&bytes.as_bytes()[..end]), None, "{number:?} cut off at {end}");
            }
        }
    }

    #[test]
    fn a_lone_line_feed_ends_nothing() {
        assert_eq!(crlf_line(b"-ERR a\nb\r\n+OK\r\n", 0), Some((b"-ERR a\nb".as_slice(), 10)));
        assert_eq!(crlf_line(b"+a\r\n", 3), Some((b"+a".as_slice(), 4)), "the CR was there before");
        assert_eq!(crlf_line(b"\n\n", 0), None);
    }

    #[test]
    fn only_plain_numbers_are_numbers() {
        for (text, number) in
            [("0", 0), ("7", 7), ("-1", -1), ("1048576", 1_048_576), ("9223372036854775807", i64::MAX)]
        {
            assert_eq!(parse(text.as_bytes()), Some(number), "{text}");
        }
        for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1a", "9223372036854775808", "99999999999999999999"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
