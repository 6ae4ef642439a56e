//! Distinguished names (RFC 4514).

use std::fmt::Write;

/// A value as it stands in a distinguished name: whatever it holds, it stays one value.
pub fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => {
                text.push('\\');
                text.push(c);
            }
            ' ' | '#' if at == 0 => {
                text.push('\\');
                text.push(c);
            }
            ' ' if at == last => text.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        for (value, expected) in [
            ("app", "app"),
            ("a,ou=b", "a\\,ou\\=b"),
            ("a+uid=b", "a\\+uid\\=b"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("#a#", "\\#a#"),
            ("a\\2cb", "a\\\\2cb"),
            ("a\"<>;", "a\\\"\\<\\>\\;"),
            ("a\0\u{85}", "a\\00\\c2\\85"),
            ("M\u{fc}ller b", "M\u{fc}ller b"),
            ("", ""),
        ] {
            assert_eq!(escaped(value), expected, "{value:?}");
        }
    }
}
