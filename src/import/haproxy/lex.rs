//! `haproxy.cfg` as words and sections.

use crate::import::ImportError;
use crate::import::source::{Place, Text};

/// A line of words; there is at least one.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub place: Place,
    /// Without quotes and escapes.
    pub words: Vec<String>,
    /// As it was written, without the comment behind it.
    pub raw: String,
}

impl Line {
    /// The n-th word, or "".
    pub(super) fn word(&self, n: usize) -> &str {
        self.words.get(n).map_or("", String::as_str)
    }

    /// What follows the first `n` words.
    pub(super) fn after(&self, n: usize) -> &[String] {
        self.words.get(n..).unwrap_or_default()
    }

    /// Whether the line begins with these words.
    pub(super) fn is(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, word)| self.word(n) == *word)
    }

    /// The line for a comment: what follows a password is hidden.
    pub(super) fn shown(&self) -> String {
        let is_auth =
            self.is(&["stats", "auth"]) || self.is(&["user"]) || self.words.iter().any(|word| word.starts_with("AUTH"));
        if is_auth && self.words.len() > 2 {
            return format!("{} {} ***", self.word(0), self.word(1));
        }
        self.raw.clone()
    }
}

/// What begins a section.
const SECTIONS: [&str; 22] = [
    "acme",
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "dynamic-update",
    "fcgi-app",
    "frontend",
    "global",
    "healthcheck",
    "http-errors",
    "listen",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
    "namespace_list",
];

/// A section.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub head: Line,
    pub lines: Vec<Line>,
    /// The sections of defaults that it takes what it does not say itself from, by their places in the list; nearest first.
    pub defaults: Vec<usize>,
}

impl Part {
    pub(super) fn kind(&self) -> &str {
        self.head.word(0)
    }

    pub(super) fn name(&self) -> &str {
        self.head.word(1)
    }
}

/// Reads the sections of a file, behind those of the files before.
pub(super) fn read(text: &Text, parts: &mut Vec<Part>) -> Result<(), ImportError> {
    for (place, raw) in text.lines() {
        let (words, raw) = words(raw).map_err(|why| place.error(why))?;
        if words.is_empty() {
            continue;
        }
        let line = Line { place, words, raw };
        if SECTIONS.contains(&line.word(0)) && !is_keyword_inside(&line, parts) {
            begin(line, parts)?;
        } else if let Some(part) = parts.last_mut() {
            part.lines.push(line);
        } else if line.word(0).starts_with('.') {
            // A condition in front of everything: there is no section to keep it in.
            return Err(line.place.error("conditions in front of the first section are not read; remove them"));
        } else {
            let word = crate::config::quote(line.word(0));
            return Err(line
                .place
                .error(format!("{word} stands outside of any section, such as global or listen NAME")));
        }
    }
    Ok(())
}

/// `peers` in a stick-table and the like never begin a line; `cache` and `program` may not be keywords either.
fn is_keyword_inside(line: &Line, parts: &[Part]) -> bool {
    parts.last().is_some_and(|part| part.kind() == "global" && line.word(0) == "cache" && line.words.len() > 2)
}

fn begin(head: Line, parts: &mut Vec<Part>) -> Result<(), ImportError> {
    let needs_name = matches!(head.word(0), "listen" | "frontend" | "backend");
    if needs_name && head.word(1).is_empty() {
        return Err(head.place.error(format!("{} must have a name", head.word(0))));
    }
    let mut defaults = Vec::new();
    if needs_name || head.word(0) == "defaults" {
        let from = head.words.iter().position(|word| word == "from").map(|at| head.word(at + 1).to_owned());
        let found =
            match &from {
                Some(name) => {
                    let found = parts.iter().rposition(|part| part.kind() == "defaults" && part.name() == name);
                    let name = crate::config::quote(name);
                    Some(found.ok_or_else(|| {
                        head.place.error(format!("there is no section \"defaults\" named {name} above"))
                    })?)
                }
                None if needs_name => parts.iter().rposition(|part| part.kind() == "defaults"),
                None => None,
            };
        if let Some(at) = found {
            defaults.push(at);
            defaults.extend(parts.get(at).into_iter().flat_map(|part| part.defaults.iter().copied()));
        }
    }
    parts.push(Part { head, lines: Vec::new(), defaults });
    Ok(())
}

/// Splits a line at spaces outside of quotes, and drops a comment. Variables of the environment stay as they are.
fn words(text: &str) -> Result<(Vec<String>, String), String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.char_indices().peekable();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '#' => {
                end = at;
                break;
            }
            ' ' | '\t' => words.extend(word.take()),
            '\\' => {
                let word = word.get_or_insert_default();
                match chars.next().map(|(_, c)| c) {
                    None => return Err("a backslash ends the line".to_owned()),
                    Some('n') => word.push('\n'),
                    Some('r') => word.push('\r'),
                    Some('t') => word.push('\t'),
                    Some('x') => word.push(hexadecimal(&mut chars)?),
                    Some(c) => word.push(c),
                }
            }
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().map(|(_, c)| c) {
                        None => return Err("a single quote is not closed".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().map(|(_, c)| c) {
                        None => return Err("a double quote is not closed".to_owned()),
                        Some('"') => break,
                        Some('\\') => match chars.next().map(|(_, c)| c) {
                            None => return Err("a double quote is not closed".to_owned()),
                            Some('n') => word.push('\n'),
                            Some('r') => word.push('\r'),
                            Some('t') => word.push('\t'),
                            Some('x') => word.push(hexadecimal(&mut chars)?),
                            Some(c) => word.push(c),
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let raw = text.get(..end).unwrap_or(text).trim().to_owned();
    // An empty word can only be quoted; as the first one it is nothing.
    if words.first().is_some_and(String::is_empty) {
        words.clear();
    }
    Ok((words, raw))
}

fn hexadecimal(chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Result<char, String> {
    let mut value = 0;
    for _ in 0..2 {
        let digit = chars.next().and_then(|(_, c)| c.to_digit(16));
        value = value * 16 + digit.ok_or("\\x must be followed by two hexadecimal digits")?;
    }
    char::from_u32(value).ok_or_else(|| "\\x is not a character".to_owned())
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_split_at_spaces_outside_of_quotes() {
        let split = |text: &str| words(text).map(|(words, _)| words);
        assert_eq!(split("  server a 10.0.0.1:5432 # first\t").unwrap(), ["server", "a", "10.0.0.1:5432"]);
        assert_eq!(split(r"tcp-check send PING\r\n").unwrap(), ["tcp-check", "send", "PING\r\n"]);
        assert_eq!(split(r#"a "b c" 'd "e' \# \x41"#).unwrap(), ["a", "b c", "d \"e", "#", "A"]);
        assert_eq!(split(r#"send "AUTH s\"t\r\n""#).unwrap(), ["send", "AUTH s\"t\r\n"]);
        assert_eq!(split("# all").unwrap(), Vec::<String>::new());
        for wrong in ["a 'b", "a \"b", "a \\", r"a \xg0"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
