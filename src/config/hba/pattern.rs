//! Regular expressions of PostgreSQL, in so far as they mean the same here.
//!
//! PostgreSQL's own flavour (ARE) is translated piece by piece; what the library would read otherwise, or cannot do
//! (back references, look-around, embedded options), is refused with its name. Classes are those of ASCII, as PostgreSQL
//! compiles these expressions for the collation C.

use std::fmt;

use regex::{Regex, RegexBuilder};

use crate::config::setting::quote;

/// The largest number in `{m,n}`, as in PostgreSQL.
const MOST_REPEATS: u32 = 255;
/// Memory of one compiled expression, bytes.
const LARGEST: usize = 1 << 20;
/// Longest name that text is captured from, bytes: the work grows with its square.
const LONGEST: usize = 256;
const CLASSES: &[&str] = &[
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit",
];

/// An expression that a name fits or not. Its `Display` is `/` and the expression as it was written.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.source)
    }
}

impl Pattern {
    /// From an expression without its slash.
    ///
    /// # Errors
    /// It is none, or means something that is not supported.
    pub fn new(source: &str) -> Result<Self, String> {
        let translated = translate(source).map_err(|why| named(source, why))?;
        let regex = compile(&translated.out).map_err(|why| named(source, why))?;
        Ok(Pattern { source: source.to_owned(), regex })
    }

    /// Whether it fits somewhere in `name`.
    pub fn fits(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

/// An expression whose first parentheses say what is captured.
///
/// What a library captures, where several divisions of the name would do, depends on the library. So the three parts are
/// held apart, and PostgreSQL's choice is taken only where it is certain: the place where the parentheses begin has to be
/// the only possible one; from there it takes as much as it can.
#[derive(Debug, Clone)]
pub struct Captured {
    source: String,
    before: Regex,
    inside: Regex,
    after: Regex,
}

impl PartialEq for Captured {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Captured {
    /// From an expression without its slash.
    ///
    /// # Errors
    /// As [`Pattern::new`]; or what is captured would not be certain.
    pub fn new(source: &str) -> Result<Self, String> {
        Self::divided(source).map_err(|why| named(source, why))
    }

    fn divided(source: &str) -> Result<Self, String> {
        let Translated { out, group, is_plain, anchors, .. } = translate(source)?;
        let Some((start, end)) = group else {
            return Err("has no parentheses of its own level that \\1 could stand for".to_owned());
        };
        let is_whole = out.starts_with(START) && out.ends_with(END) && anchors == 2;
        if !is_whole || !is_plain {
            return Err(
                "is used with \\1: it has to begin with ^ and end with $, to have no | outside of parentheses \
                 and no quantifier behind the first of these, and no non-greedy quantifier"
                    .to_owned(),
            );
        }
        let whole = |part: Option<&str>| compile(&format!("{START}(?:{}){END}", part.unwrap_or_default()));
        Ok(Captured {
            source: source.to_owned(),
            before: whole(out.get(START.len()..start))?,
            inside: whole(out.get(start + 1..end - 1))?,
            after: whole(out.get(end..out.len() - END.len()))?,
        })
    }

    /// What is captured of `name`; `None` also where that is not certain.
    pub fn capture<'n>(&self, name: &'n str) -> Option<&'n str> {
        if name.len() > LONGEST {
            return None;
        }
        let cuts = || (0..=name.len()).filter(|at| name.is_char_boundary(*at));
        let mut ends: Vec<_> =
            cuts().filter(|at| name.get(*at..).is_some_and(|rest| self.after.is_match(rest))).collect();
        ends.reverse();
        let starts = cuts().filter(|at| name.get(..*at).is_some_and(|before| self.before.is_match(before)));
        // From each start to the last end; a start behind an end has no text between.
        let longest = |start: usize| {
            let mut texts = ends.iter().filter_map(|end| name.get(start..*end));
            texts.find(|text| self.inside.is_match(text))
        };
        let mut found = starts.filter_map(longest);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

fn named(source: &str, why: String) -> String {
    format!("regular expression {}: {why}", quote(&format!("/{source}")))
}

fn compile(translated: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(translated).size_limit(LARGEST).dfa_size_limit(LARGEST).build();
    built.map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => "is too large".to_owned(),
        // The last line says what is wrong, those before show the translation.
        e => e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

const START: &str = "\\A";
const END: &str = "\\z";

/// An expression in the library's words.
#[derive(Debug, Default)]
struct Translated {
    out: String,
    /// From its parenthesis to behind the one that closes it: the first group that captures, if no other is around it.
    group: Option<(usize, usize)>,
    /// Nothing makes it uncertain where the group ends, see [`Captured::divided`].
    is_plain: bool,
    /// `^`, `$`, `\A` and `\Z`
    anchors: usize,
    has_captured: bool,
}

/// What stands before a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing that could be repeated.
    Start,
    Atom,
    Quantifier,
}

fn translate(source: &str) -> Result<Translated, String> {
    if source.is_empty() {
        return Err("is empty, and would fit everything; write all".to_owned());
    }
    let mut done = Translated { is_plain: true, ..Translated::default() };
    let mut rest = source.chars().peekable();
    let mut before = Before::Start;
    // Where each open parenthesis stands, and whether it captures for `\1`.
    let mut open: Vec<(usize, bool)> = Vec::new();
    while let Some(c) = rest.next() {
        let mut now = Before::Atom;
        match c {
            '\\' => match rest.next() {
                Some('A') => now = anchor(&mut done, START),
                Some('Z') => now = anchor(&mut done, END),
                Some(c) => done.out.push_str(&escape(c, false)?),
                None => return Err("ends with a backslash".to_owned()),
            },
            '^' => now = anchor(&mut done, START),
            '$' => now = anchor(&mut done, END),
            '.' => done.out.push_str("(?s:.)"),
            '[' => bracket(&mut rest, &mut done.out)?,
            '(' => {
                now = Before::Start;
                let at = done.out.len();
                if rest.next_if_eq(&'?').is_some() {
                    if rest.next_if_eq(&':').is_none() {
                        return Err("look-around and options in (?...) are not supported".to_owned());
                    }
                    done.out.push_str("(?:");
                    open.push((at, false));
                } else {
                    done.out.push('(');
                    open.push((at, !done.has_captured && open.is_empty()));
                    done.has_captured = true;
                }
            }
            ')' => {
                let (at, captures) = open.pop().ok_or("has a ) too many")?;
                done.out.push(')');
                if captures {
                    done.group = Some((at, done.out.len()));
                }
            }
            '|' => {
                now = Before::Start;
                done.is_plain &= !open.is_empty();
                done.out.push('|');
            }
            '*' | '+' | '?' | '{' if c != '{' || rest.peek().is_some_and(char::is_ascii_digit) => {
                if before != Before::Atom {
                    return Err(format!("has a {c} that repeats nothing"));
                }
                now = Before::Quantifier;
                done.is_plain &= done.group.is_none_or(|(_, end)| end != done.out.len());
                done.out.push(c);
                if c == '{' {
                    bound(&mut rest, &mut done.out)?;
                }
                if rest.next_if_eq(&'?').is_some() {
                    done.is_plain = false;
                    done.out.push('?');
                }
            }
            c => done.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
        before = now;
    }
    if open.is_empty() { Ok(done) } else { Err("has a ( too many".to_owned()) }
}

fn anchor(done: &mut Translated, text: &str) -> Before {
    done.anchors += 1;
    done.out.push_str(text);
    Before::Start
}

/// What follows a backslash, in brackets or outside of them.
fn escape(c: char, in_brackets: bool) -> Result<String, String> {
    let class = match c {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0B\\f\\r ",
        'D' if !in_brackets => return Ok("[^0-9]".to_owned()),
        'W' if !in_brackets => return Ok("[^0-9A-Za-z_]".to_owned()),
        'S' if !in_brackets => return Ok("[^\\t\\n\\x0B\\f\\r ]".to_owned()),
        '1'..='9' => return Err(format!("a back reference (\\{c}) is not supported")),
        c if c.is_alphanumeric() => return Err(format!("the escape \\{c} is not supported")),
        c => return Ok(literal(c)),
    };
    Ok(if in_brackets { class.to_owned() } else { format!("[{class}]") })
}

fn literal(c: char) -> String {
    format!("\\x{{{:X}}}", u32::from(c))
}

/// `{m}`, `{m,}` or `{m,n}`, behind the brace.
fn bound(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    let mut text = String::new();
    loop {
        match rest.next() {
            Some('}') => break,
            Some(c) if c.is_ascii_digit() || c == ',' => text.push(c),
            _ => return Err("has a { that is no {m}, {m,} or {m,n}".to_owned()),
        }
    }
    let (least, most) = match text.split_once(',') {
        Some((least, "")) => (least, None),
        Some((least, most)) => (least, Some(most)),
        None => (text.as_str(), None),
    };
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n <= MOST_REPEATS);
    let is_good = match (number(least), most.map(number)) {
        (Some(least), Some(Some(most))) => least <= most,
        (Some(_), None) => true,
        _ => false,
    };
    if !is_good {
        return Err(format!("has {{{text}}}, which is no number of times up to {MOST_REPEATS}"));
    }
    out.push_str(&text);
    out.push('}');
    Ok(())
}

/// `[...]`, behind the first bracket.
fn bracket(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    const OPEN: &str = "has a [ that is not closed";
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut is_first = true;
    loop {
        let c = rest.next().ok_or(OPEN)?;
        let start = match c {
            ']' if !is_first => {
                out.push(']');
                return Ok(());
            }
            '[' if matches!(rest.peek(), Some('.' | '=')) => {
                return Err("collating elements ([.x.], [=x=]) are not supported".to_owned());
            }
            '[' if rest.next_if_eq(&':').is_some() => {
                let mut name = String::new();
                while let Some(c) = rest.next_if(char::is_ascii_alphabetic) {
                    name.push(c);
                }
                let is_closed = rest.next() == Some(':') && rest.next() == Some(']');
                if !is_closed || !CLASSES.contains(&name.as_str()) {
                    return Err("has a class in brackets that there is not".to_owned());
                }
                out.push_str(&format!("[:{name}:]"));
                None
            }
            '\\' => match rest.next().ok_or(OPEN)? {
                c @ ('d' | 'w' | 's') => {
                    out.push_str(&escape(c, true)?);
                    None
                }
                c if c.is_alphanumeric() => return Err(format!("the escape \\{c} in brackets is not supported")),
                c => Some(c),
            },
            c => Some(c),
        };
        is_first = false;
        let is_range = rest.peek() == Some(&'-') && rest.clone().nth(1).is_some_and(|c| c != ']');
        let Some(start) = start else {
            if is_range {
                return Err("has a range in brackets that begins with a class".to_owned());
            }
            continue;
        };
        out.push_str(&literal(start));
        if is_range {
            rest.next();
            let end = match rest.next().ok_or(OPEN)? {
                '[' => return Err("has a range in brackets that ends with [".to_owned()),
                '\\' => rest.next().filter(|c| !c.is_alphanumeric()).ok_or("has a range that ends with an escape")?,
                c => c,
            };
            if end < start {
                return Err(format!("has the range {start}-{end}, whose end is before its beginning"));
            }
            out.push('-');
            out.push_str(&literal(end));
        }
    }
}
