//! The configuration in the making: sections, keys with where they come from, and what has no equal.
//!
//! [`Draft::settle`] writes it and reads it back as `forebay check` would. What is refused is commented out with the
//! reason until nothing is.

use std::path::Path;

use super::source::Place;
use super::{ImportError, Imported};
use crate::config::{self, Resolve, quote};

/// Columns of a comment.
const WIDTH: usize = 110;

/// The sections in the order in which they are written.
const ORDER: [&str; 13] = [
    "general",
    "admin",
    "admin.user",
    "postgres",
    "postgres.pool",
    "postgres.routing",
    "postgres.failover",
    "postgres.cluster",
    "postgres.database",
    "postgres.user",
    "redis.service",
    "security",
    "notify",
];

/// Sections of which there may be several.
const MANY: [&str; 5] = ["admin.user", "postgres.cluster", "postgres.database", "postgres.user", "redis.service"];

/// What a line of the text is: a section, and which of its lines.
type What = (usize, Option<usize>);

/// A configuration.
#[derive(Debug, Default)]
pub(super) struct Draft {
    sections: Vec<Section>,
    left: Vec<Left>,
    notes: Vec<String>,
}

/// A section, or one of several of the same name.
#[derive(Debug)]
pub(super) struct Section {
    path: &'static str,
    lines: Vec<Line>,
    /// It cannot stay, and why.
    off: Option<String>,
}

#[derive(Debug)]
enum Line {
    Remark(String),
    Suggestion(String),
    Key { name: &'static str, value: String, from: String, off: Option<String> },
}

/// Something that was written and is no key here.
#[derive(Debug)]
struct Left {
    kind: LeftKind,
    place: Place,
    text: String,
    why: String,
}

/// Why something is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftKind {
    /// There is nothing like it.
    NoEqual,
    /// It is needed no more.
    Moot,
}

impl Section {
    /// Writes a key, or changes it. `value` is TOML.
    pub(super) fn set(&mut self, name: &'static str, value: String, from: impl ToString) {
        let key = Line::Key { name, value, from: from.to_string(), off: None };
        let is_it = |line: &&mut Line| matches!(line, Line::Key { name: other, .. } if *other == name);
        match self.lines.iter_mut().find(is_it) {
            Some(line) => *line = key,
            None => self.lines.push(key),
        }
    }

    /// What a key was set to.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| match line {
            Line::Key { name: other, value, .. } if *other == name => Some(value.as_str()),
            _ => None,
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// A comment in front of what comes next.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Remark(text.into()));
    }

    /// A key that is not switched on: one line, to be uncommented.
    pub(super) fn suggest(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Suggestion(text.into()));
    }

    fn header(&self) -> String {
        if MANY.contains(&self.path) { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }
}

impl Draft {
    /// The section of this name.
    pub(super) fn one(&mut self, path: &'static str) -> &mut Section {
        let at = self.sections.iter().position(|section| section.path == path);
        self.at(at, path)
    }

    /// One more section of this name.
    pub(super) fn more(&mut self, path: &'static str) -> &mut Section {
        self.at(None, path)
    }

    /// The section of this name whose `name` this is, if it is there.
    pub(super) fn named(&mut self, path: &str, name: &str) -> Option<&mut Section> {
        let name = quote(name);
        self.sections.iter_mut().find(|section| section.path == path && section.value("name") == Some(&name))
    }

    pub(super) fn is_named(&self, path: &str, name: &str) -> bool {
        let name = quote(name);
        self.sections.iter().any(|section| section.path == path && section.value("name") == Some(&name))
    }

    /// The sections of this name.
    pub(super) fn all(&mut self, path: &str) -> impl Iterator<Item = &mut Section> {
        self.sections.iter_mut().filter(move |section| section.path == path)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.sections.iter().any(|section| section.path == path)
    }

    fn at(&mut self, at: Option<usize>, path: &'static str) -> &mut Section {
        let at = at.unwrap_or(self.sections.len());
        if at == self.sections.len() {
            self.sections.push(Section { path, lines: Vec::new(), off: None });
        }
        // The index is in range: it was just found, or made.
        #[allow(clippy::indexing_slicing, reason = "see above")]
        &mut self.sections[at]
    }

    /// What was written as `key = value` has no equal, because of `why`.
    pub(super) fn leave(&mut self, kind: LeftKind, place: &Place, key: &str, value: &str, why: impl Into<String>) {
        let shown = if super::source::is_secret(key) && !value.is_empty() { "***" } else { value };
        self.leave_text(kind, place, format!("{key} = {shown}"), why);
    }

    /// The same for what is no key.
    pub(super) fn leave_text(
        &mut self,
        kind: LeftKind,
        place: &Place,
        text: impl Into<String>,
        why: impl Into<String>,
    ) {
        let (text, why) = (text.into(), why.into());
        // A line that several proxies inherit is told once.
        if !self.left.iter().any(|left| left.place == *place && left.text == text) {
            self.left.push(Left { kind, place: place.clone(), text, why });
        }
    }

    /// Something that has to be done before the configuration is of use.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// The text, and for each of its lines the section and key that it is.
    fn write(&self, title: &str, sources: &[String]) -> (String, Vec<Option<What>>) {
        let mut out = Out::default();
        let names: Vec<_> = sources.iter().map(|name| one_line(name)).collect();
        out.comment(
            &format!("Forebay's configuration, made by forebay import from {title}'s {}.", names.join(", ")),
            "",
        );
        out.comment(
            "Behind each key stands what it was made of. Read what has no equal, at the end, before you use it; docs/import.md \
             has the way from one program to the other without downtime.",
            "",
        );
        for note in &self.notes {
            out.comment(&format!("TO DO: {note}"), "  ");
        }
        for path in ORDER {
            for (s, section) in self.sections.iter().enumerate().filter(|(_, section)| section.path == path) {
                out.section(s, section);
            }
        }
        self.write_left(LeftKind::NoEqual, "What has no equal", &mut out);
        self.write_left(LeftKind::Moot, "What is not needed any more", &mut out);
        (out.text, out.lines)
    }

    fn write_left(&self, kind: LeftKind, title: &str, out: &mut Out) {
        let mut left = self.left.iter().filter(|left| left.kind == kind).peekable();
        if left.peek().is_none() {
            return;
        }
        out.blank();
        let rule = "-".repeat(WIDTH.saturating_sub(title.len() + 3));
        out.line(&format!("# {rule} {title}"), None);
        let mut why_before = "";
        out.blank();
        for Left { place, text, why, .. } in left {
            if why != why_before {
                out.comment(why, "");
                why_before = why;
            }
            out.line(&format!("#   {}: {}", one_line(&place.to_string()), one_line(text)), None);
        }
    }

    /// The text as it will be accepted.
    pub(super) fn settle(mut self, title: &str, sources: &[String], resolve: Resolve) -> Result<Imported, ImportError> {
        const FILE: &str = "what was made of it";
        loop {
            let (text, lines) = self.write(title, sources);
            let errors = match config::load_resolved(&text, FILE, Path::new("/"), resolve) {
                Ok(_) => return Ok(Imported { text, notes: self.notes }),
                Err(found) => found.errors,
            };
            let mut is_changed = false;
            for error in &errors {
                if error.file == FILE {
                    let at = error.line.checked_sub(1).and_then(|line| lines.get(line)).copied().flatten();
                    is_changed |= at.is_some_and(|(section, key)| self.switch_off(section, key, &error.message));
                } else {
                    is_changed |= self.without_rules(&error.to_string());
                }
            }
            if !is_changed {
                let file = sources.first().cloned().unwrap_or_default();
                let what = errors.first().map(ToString::to_string).unwrap_or_default();
                return Err(ImportError { file, line: 0, what: format!("nothing useful can be made of it: {what}") });
            }
        }
    }

    /// Comments out a key that is refused, or the whole section. Whether there was something left to do.
    fn switch_off(&mut self, section: usize, key: Option<usize>, why: &str) -> bool {
        let Some(section) = self.sections.get_mut(section) else { return false };
        let header = section.header();
        let note = match key.and_then(|key| section.lines.get_mut(key)) {
            Some(Line::Key { name, off, .. }) if off.is_none() && *name != "name" => {
                *off = Some(why.to_owned());
                format!("{header} {name} is commented out: {why}")
            }
            _ if section.off.is_none() => {
                section.off = Some(why.to_owned());
                format!("a {header} is commented out: {why}")
            }
            _ => return false,
        };
        self.note(note);
        true
    }

    /// Gives up the rules of a file that is not accepted: logins then need passwords.
    fn without_rules(&mut self, why: &str) -> bool {
        let mut is_changed = false;
        for line in self.sections.iter_mut().filter(|section| section.path == "postgres").flat_map(|s| &mut s.lines) {
            if let Line::Key { name: "auth" | "hba_file" | "ident_file", off: off @ None, .. } = line {
                *off = Some(why.to_owned());
                is_changed = true;
            }
        }
        if is_changed {
            self.note(format!("postgres.hba_file is commented out, so that clients log in by SCRAM: {why}"));
        }
        is_changed
    }
}

/// Text with what each line is.
#[derive(Default)]
struct Out {
    text: String,
    lines: Vec<Option<What>>,
}

impl Out {
    fn line(&mut self, text: &str, what: Option<What>) {
        self.text.push_str(text);
        self.text.push('\n');
        self.lines.push(what);
    }

    fn blank(&mut self) {
        self.line("", None);
    }

    /// A comment in lines of some length; further ones begin with `indent`.
    fn comment(&mut self, text: &str, indent: &str) {
        let mut line = "#".to_owned();
        for word in one_line(text).split(' ').filter(|word| !word.is_empty()) {
            if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.line(&line, None);
                line = format!("# {indent}").trim_end().to_owned();
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line, None);
    }

    fn section(&mut self, s: usize, section: &Section) {
        self.blank();
        let is_off = section.off.is_some();
        if let Some(why) = &section.off {
            self.comment(&format!("Left out: {why}"), "");
        }
        let dead = if is_off { "# " } else { "" };
        self.line(&format!("{dead}{}", section.header()), (!is_off).then_some((s, None)));
        for (l, line) in section.lines.iter().enumerate() {
            match line {
                Line::Remark(text) => self.comment(text, ""),
                Line::Suggestion(text) => self.line(&format!("# {}", one_line(text)), None),
                Line::Key { name, value, from, off } => {
                    let from = if from.is_empty() { String::new() } else { format!("  # {}", one_line(from)) };
                    if let Some(why) = off {
                        self.comment(&format!("Left out: {why}"), "");
                    }
                    if is_off || off.is_some() {
                        let shown = if matches!(*name, "auth" | "password") || super::source::is_secret(name) {
                            "\"***\""
                        } else {
                            value
                        };
                        self.line(&format!("# {name} = {shown}{from}"), None);
                    } else {
                        self.line(&format!("{name} = {value}{from}"), Some((s, Some(l))));
                    }
                }
            }
        }
    }
}

/// Without what a comment of TOML may not hold.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A list as TOML.
pub(super) fn list<T: AsRef<str>>(texts: &[T]) -> String {
    literals(texts.iter().map(|text| quote(text.as_ref())))
}

/// A list of what is TOML already.
pub(super) fn literals(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

/// A duration as TOML: milliseconds in the largest unit that divides them.
pub(super) fn time(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.iter().find(|(scale, _)| ms > 0 && ms.is_multiple_of(*scale));
    quote(&match unit {
        Some((scale, unit)) => format!("{}{unit}", ms / scale),
        None => format!("{ms}ms"),
    })
}
