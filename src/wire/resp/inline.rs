//! Commands typed as a line, as by telnet.

/// Quotes that do not end, or are followed by something else than a space: Redis answers
/// `Protocol error: unbalanced quotes in request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: unbalanced quotes in request")]
pub struct Unbalanced;

/// Cuts a line into its words, by the rules of Redis' `sdssplitargs`: spaces separate, `"..."` knows `\n \r \t \b \a`,
/// `\xHH` and `\"`, `'...'` knows only `\'`.
///
/// # Errors
/// [`Unbalanced`]
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [first, after @ ..] = rest
            && is_space(*first)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(words);
        }
        let mut word = Vec::new();
        loop {
            match rest {
                [] => break,
                [b' ' | b'\n' | b'\r' | b'\t' | 0, after @ ..] => {
                    rest = after;
                    break;
                }
                [b'"', after @ ..] => {
                    rest = double_quoted(after, &mut word)?;
                    ends(rest)?;
                    break;
                }
                [b'\'', after @ ..] => {
                    rest = single_quoted(after, &mut word)?;
                    ends(rest)?;
                    break;
                }
                [byte, after @ ..] => {
                    word.push(*byte);
                    rest = after;
                }
            }
        }
        words.push(word);
    }
}

/// As C's `isspace`: Rust's own list leaves the vertical tab out.
pub(super) fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// A closing quote must end its word.
fn ends(rest: &[u8]) -> Result<(), Unbalanced> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(Unbalanced),
        _ => Ok(()),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [] => return Err(Unbalanced),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(digit(*high) << 4 | digit(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [] => return Err(Unbalanced),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn digit(hex: u8) -> u8 {
    match hex {
        b'0'..=b'9' => hex - b'0',
        _ => (hex | 0x20) - b'a' + 10,
    }
}

/// Writes words as the request that clients usually send: an array of bulk strings.
pub fn encode(out: &mut Vec<u8>, words: &[impl AsRef<[u8]>]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        let word = word.as_ref();
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_redis_cuts_them() {
        for (line, words) in [
            ("PING", vec!["PING"]),
            ("  set  k\tv \r", vec!["set", "k", "v"]),
            (r#"set k "a b\x41\n\"""#, vec!["set", "k", "a bA\n\""]),
            (r"set k 'a\'b\n'", vec!["set", "k", r"a'b\n"]),
            (r#"set "" ''"#, vec!["set", "", ""]),
            ("a\"b\"", vec!["ab"]),
            ("", vec![]),
            (" \x0b\x0c\t\r", vec![]),
            ("\x0bget \"k\"\x0b\x0c", vec!["get", "k"]),
        ] {
            let found = split(line.as_bytes()).expect("balanced");
            let expected: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
            assert_eq!(found, expected, "{line}");
        }
        for line in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\"] {
            assert_eq!(split(line.as_bytes()), Err(Unbalanced), "{line}");
        }
    }

    #[test]
    fn words_become_a_request() {
        let mut out = Vec::new();
        encode(&mut out, &[b"GET".as_slice(), b"", b"a\r\n"]);
        assert_eq!(out, b"*3\r\n$3\r\nGET\r\n$0\r\n\r\n$3\r\na\r\n\r\n");
    }
}
