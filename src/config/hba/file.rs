//! From bytes to records: lines, continuations, comments, quotes, and files within files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

use super::{Place, report};
use crate::config::diagnostic::Diagnostic;

/// How deep files may include each other, as in PostgreSQL.
const DEEPEST: usize = 10;
/// Files that one file may bring in. What includes itself twice would otherwise be read for ever.
const MOST_FILES: usize = 1000;
/// A larger file is some other file; bytes.
const LARGEST: u64 = 8 * 1024 * 1024;

/// A word is hardly longer; bytes.
const ORDINARY: usize = 256;

/// Where files come from.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    /// The system's, or that it is not an ordinary file.
    fn read(&self, file: &Path) -> io::Result<Vec<u8>>;

    /// The files of a folder whose names end in `.conf` and do not begin with a dot, by name.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        let meta = std::fs::metadata(file)?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file"));
        }
        if meta.len() > LARGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is larger than {LARGEST} bytes")));
        }
        std::fs::read(file)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.ends_with(b".conf") && !name.starts_with(b".") && !entry.path().is_dir() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

/// A record: fields of words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub place: Place,
    /// None is empty.
    pub fields: Vec<Vec<Word>>,
}

/// A word of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub text: String,
    /// It begins with a quote, and so has no special meaning as a word; a `/` at its beginning still has.
    pub is_quoted: bool,
    /// The `@file` that it stands in, unless it stands in the record itself.
    pub file: Option<Arc<str>>,
}

/// It may be a password.
impl Drop for Word {
    fn drop(&mut self) {
        self.text.zeroize();
    }
}

impl Word {
    /// It is this word of the language, and not a name that is written the same.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

/// All records of a file and of what it includes.
pub(super) fn read(file: &Path, files: &dyn Files, errors: &mut Vec<Diagnostic>) -> Vec<Record> {
    let mut reading = Reading { files, errors, opened: 0, records: Vec::new() };
    let whole = Place { file: file.display().to_string().into(), line: 0 };
    if let Some(bytes) = reading.open(file, 0, &whole) {
        reading.file(file, &bytes, 0);
    }
    reading.records
}

struct Reading<'a> {
    files: &'a dyn Files,
    errors: &'a mut Vec<Diagnostic>,
    opened: usize,
    records: Vec<Record>,
}

impl Reading<'_> {
    fn error(&mut self, place: &Place, message: String) {
        report(self.errors, place, message);
    }

    /// The bytes of a file that `from` asks for.
    fn open(&mut self, file: &Path, depth: usize, from: &Place) -> Option<Zeroizing<Vec<u8>>> {
        let why = match depth > DEEPEST {
            true => format!("files are included more than {DEEPEST} deep"),
            false if self.opened >= MOST_FILES => format!("more than {MOST_FILES} files are included"),
            false => {
                self.opened += 1;
                match self.files.read(file) {
                    Ok(bytes) => return Some(Zeroizing::new(bytes)),
                    Err(e) => e.to_string(),
                }
            }
        };
        let message = match from.line {
            0 => format!("cannot read it: {why}"),
            _ => format!("cannot read {}: {why}", file.display()),
        };
        self.error(from, message);
        None
    }

    fn file(&mut self, file: &Path, bytes: &[u8], depth: usize) {
        let name: Arc<str> = file.display().to_string().into();
        for (line, text) in lines(bytes) {
            let place = Place { file: Arc::clone(&name), line };
            let Some(fields) = self.fields(&text, file, &place, depth) else { continue };
            match fields.as_slice() {
                [] => {}
                [first, second] if is_include(first) => self.include(first, second, file, &place, depth),
                [first, ..] if is_include(first) => {
                    let message = format!("{} needs one name, in quotes if it holds spaces", first_text(first));
                    self.error(&place, message);
                }
                _ => self.records.push(Record { place, fields }),
            }
        }
    }

    /// The fields of a line; `None` if it has an error.
    fn fields(&mut self, text: &[u8], file: &Path, place: &Place, depth: usize) -> Option<Vec<Vec<Word>>> {
        let text = match std::str::from_utf8(text) {
            Ok(text) if !text.contains('\0') => text,
            Ok(_) => {
                self.error(place, "the line holds a zero byte".to_owned());
                return None;
            }
            Err(_) => {
                self.error(place, "the line is not UTF-8".to_owned());
                return None;
            }
        };
        let mut rest = text.chars().peekable();
        let mut fields = Vec::new();
        let mut is_good = true;
        while rest.peek().is_some() {
            let mut field = Vec::new();
            loop {
                let (word, has_comma) = match word(&mut rest) {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(message) => {
                        self.error(place, message.to_owned());
                        return None;
                    }
                };
                match word.text.strip_prefix('@').filter(|name| !name.is_empty() && !word.is_quoted) {
                    Some(name) => match self.expand(name, file, place, depth) {
                        Some(words) => field.extend(words),
                        None => is_good = false,
                    },
                    None => field.push(word),
                }
                if !has_comma {
                    break;
                }
            }
            if !field.is_empty() {
                fields.push(field);
            }
        }
        is_good.then_some(fields)
    }

    /// All words of an `@file`.
    fn expand(&mut self, name: &str, from: &Path, place: &Place, depth: usize) -> Option<Vec<Word>> {
        let file = beside(from, name);
        let bytes = self.open(&file, depth + 1, place)?;
        let errors = self.errors.len();
        let outside = std::mem::take(&mut self.records);
        self.file(&file, &bytes, depth + 1);
        let inside = std::mem::replace(&mut self.records, outside);
        let mut words: Vec<_> = inside.into_iter().flat_map(|record| record.fields).flatten().collect();
        let here: Arc<str> = file.display().to_string().into();
        for word in &mut words {
            word.file.get_or_insert_with(|| Arc::clone(&here));
        }
        if words.is_empty() && self.errors.len() == errors {
            // A field that has disappeared would move those behind it.
            self.error(place, format!("{} holds no name", file.display()));
        }
        (self.errors.len() == errors).then_some(words)
    }

    fn include(&mut self, kind: &[Word], name: &[Word], from: &Path, place: &Place, depth: usize) {
        let [name] = name else {
            return self.error(place, format!("{} needs one name, not a list", first_text(kind)));
        };
        let file = beside(from, &name.text);
        match first_text(kind) {
            "include_dir" => match self.files.list(&file) {
                Ok(all) => {
                    for file in all {
                        if let Some(bytes) = self.open(&file, depth + 1, place) {
                            self.file(&file, &bytes, depth + 1);
                        }
                    }
                }
                Err(e) => self.error(place, format!("cannot read the folder {}: {e}", file.display())),
            },
            "include_if_exists"
                if self.files.read(&file).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) && depth < DEEPEST => {}
            _ => {
                if let Some(bytes) = self.open(&file, depth + 1, place) {
                    self.file(&file, &bytes, depth + 1);
                }
            }
        }
    }
}

fn is_include(field: &[Word]) -> bool {
    matches!(field, [only] if matches!(only.text.as_str(), "include" | "include_if_exists" | "include_dir"))
}

fn first_text(field: &[Word]) -> &str {
    field.first().map(|word| word.text.as_str()).unwrap_or_default()
}

/// A name that is no whole path is looked for beside the file that has it.
fn beside(from: &Path, name: &str) -> PathBuf {
    from.parent().unwrap_or(Path::new("")).join(name)
}

/// Lines with their numbers. A backslash at the end of one goes on with the next.
fn lines(bytes: &[u8]) -> Vec<(usize, Zeroizing<Vec<u8>>)> {
    let mut found: Vec<(usize, Zeroizing<Vec<u8>>)> = Vec::new();
    let mut open: Option<(usize, Zeroizing<Vec<u8>>)> = None;
    for (i, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let mut line = line;
        while let [before @ .., b'\r'] = line {
            line = before;
        }
        let (number, mut text) = open.take().unwrap_or_else(|| (i + 1, Zeroizing::default()));
        match line {
            [before @ .., b'\\'] => {
                text.extend_from_slice(before);
                open = Some((number, text));
            }
            _ => {
                text.extend_from_slice(line);
                found.push((number, text));
            }
        }
    }
    found.extend(open);
    found
}

/// The next word, and whether a comma follows it. As PostgreSQL's `next_token`: commas and blanks are skipped before it,
/// quotes may begin in its middle, two quotes within quotes are one.
fn word(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<(Word, bool)>, &'static str> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r');
    while rest.next_if(|c| is_blank(*c) || *c == ',').is_some() {}
    // A text that grows leaves copies of itself behind in memory.
    let mut text = String::with_capacity(rest.size_hint().1.unwrap_or(0).min(ORDINARY));
    let (mut in_quotes, mut after_quote, mut saw_quote, mut is_quoted) = (false, false, false, false);
    let mut has_comma = false;
    while let Some(&c) = rest.peek() {
        if !in_quotes && is_blank(c) {
            break;
        }
        rest.next();
        match c {
            '#' if !in_quotes => {
                rest.by_ref().for_each(drop);
                break;
            }
            ',' if !in_quotes => {
                has_comma = true;
                break;
            }
            '"' => {
                if after_quote {
                    text.push('"');
                }
                after_quote = in_quotes && !after_quote;
                in_quotes = !in_quotes;
                saw_quote = true;
                is_quoted |= text.is_empty();
            }
            c => {
                after_quote = false;
                text.push(c);
            }
        }
    }
    if in_quotes {
        // PostgreSQL takes the rest of the line for the name.
        return Err("a quote is not closed on its line");
    }
    Ok((saw_quote || !text.is_empty()).then_some((Word { text, is_quoted, file: None }, has_comma)))
}
