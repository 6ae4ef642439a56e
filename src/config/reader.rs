//! Walks a TOML document along the tables of keys and fills the model.
//!
//! Every value is looked at even after an error, so that a file's errors are reported in one go. What is
//! remembered of each key's position lets the checks between keys (`check.rs`) point at the file too.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, position};
use super::hba::Rules;
use super::keys::{self, Key, Section, Shape};
use super::setting::{At, Value, quote};
use super::suggest;

/// Answers the addresses of a host name and a port.
pub type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The state of reading one file.
pub(super) struct Reader<'a> {
    base_dir: &'a Path,
    resolve: Resolve,
    errors: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
    /// Byte offset of each value read, by place: `postgres.database[2].size`.
    places: HashMap<String, usize>,
    /// Where a table, by place, has an unknown key that resembles none.
    guessless: HashMap<String, usize>,
    /// Sections that stand under another name.
    misnamed: BTreeSet<&'static str>,
    /// In other files.
    elsewhere: (Vec<Diagnostic>, Vec<Diagnostic>),
    /// What is not to be read again.
    kept_rules: Option<Arc<Rules>>,
    /// Environment variables that secrets were taken from.
    secret_variables: BTreeSet<String>,
    /// Where a secret stands in clear text first.
    clear_secret: Option<(usize, String)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(base_dir: &'a Path, resolve: Resolve) -> Self {
        Self {
            base_dir,
            resolve,
            errors: Vec::new(),
            warnings: Vec::new(),
            places: HashMap::new(),
            guessless: HashMap::new(),
            misnamed: BTreeSet::new(),
            elsewhere: Default::default(),
            kept_rules: None,
            secret_variables: BTreeSet::new(),
            clear_secret: None,
        }
    }

    /// Reports at a value.
    pub(super) fn error(&mut self, value: &Value<'_>, message: String) {
        self.error_at(value.span().start, message);
    }

    /// Reports at a byte offset. What is found twice (a wrong parent of several sections) is kept once.
    pub(super) fn error_at(&mut self, offset: usize, message: String) {
        if !self.errors.iter().any(|(o, m)| *o == offset && *m == message) {
            self.errors.push((offset, message));
        }
    }

    /// Reports at a place or, if nothing is written there, at the nearest one around it.
    pub(super) fn error_in(&mut self, place: &str, message: String) {
        self.error_at(self.offset_of(place), message);
    }

    pub(super) fn warning_at(&mut self, offset: usize, message: String) {
        self.warnings.push((offset, message));
    }

    pub(super) fn warning(&mut self, value: &Value<'_>, message: String) {
        self.warnings.push((value.span().start, message));
    }

    pub(super) fn warning_in(&mut self, place: &str, message: String) {
        self.warnings.push((self.offset_of(place), message));
    }

    /// Reports what was found in other files.
    pub(super) fn elsewhere(&mut self, errors: Vec<Diagnostic>, warnings: Vec<Diagnostic>) {
        self.elsewhere.0.extend(errors);
        self.elsewhere.1.extend(warnings);
    }

    /// Has the rules of `pg_hba.conf` stay as they are, instead of being read again.
    pub(super) fn keep_rules(&mut self, rules: Option<Arc<Rules>>) {
        self.kept_rules = rules;
    }

    pub(super) fn kept_rules(&mut self) -> Option<Arc<Rules>> {
        self.kept_rules.take()
    }

    pub(super) fn remember<T>(&mut self, place: &str, value: &Spanned<T>) {
        self.places.insert(place.to_owned(), value.span().start);
    }

    /// Reads the section of type `T`, or its defaults if it is absent.
    pub(super) fn one<T: Section>(&mut self, root: &DeTable<'_>) -> T {
        let keys = T::keys();
        let mut section = self.defaults(&keys);
        if let Some(value) = self.find(root, T::PATH) {
            match value.get_ref() {
                DeValue::Table(table) => {
                    self.remember(T::PATH, value);
                    self.fill(&mut section, &keys, table, T::PATH, "");
                }
                DeValue::Array(_) => {
                    self.error(value, format!("write [{}] in single brackets: there is only one", T::PATH));
                }
                _ => self.error(value, format!("{0} must be a section: [{0}]", T::PATH)),
            }
        }
        section
    }

    /// Reads all sections of type `T`; the i-th one's place is `PATH[i]`.
    pub(super) fn many<T: Section>(&mut self, root: &DeTable<'_>) -> Vec<T> {
        let Some(value) = self.find(root, T::PATH) else {
            return Vec::new();
        };
        let DeValue::Array(tables) = value.get_ref() else {
            self.error(value, format!("write [[{}]] in double brackets: there may be several", T::PATH));
            return Vec::new();
        };
        let keys = T::keys();
        let mut sections = Vec::with_capacity(tables.len());
        for (i, value) in tables.iter().enumerate() {
            let place = format!("{}[{i}]", T::PATH);
            match value.get_ref() {
                DeValue::Table(table) => sections.push(self.fill_required(&keys, table, value, &place)),
                _ => self.error(value, format!("{0} must be a section: [[{0}]]", T::PATH)),
            }
        }
        sections
    }

    /// Reads one inline table of a list.
    pub(super) fn section<T: Section>(&mut self, table: &DeTable<'_>, value: &Value<'_>, place: &str) -> T {
        self.fill_required(&T::keys(), table, value, place)
    }

    fn fill_required<T: Section>(&mut self, keys: &[Key<T>], table: &DeTable<'_>, value: &Value<'_>, place: &str) -> T {
        let mut section = self.defaults(keys);
        self.remember(place, value);
        self.fill(&mut section, keys, table, place, "");
        for key in keys.iter().filter(|key| key.is_required) {
            if !self.places.contains_key(&format!("{place}.{}", key.name)) {
                // Behind the unknown key which may be the cause.
                let at = self.guessless.get(place).copied().unwrap_or(value.span().start);
                self.error_at(at, format!("{} has no {}; it must have one", header::<T>(), key.name));
            }
        }
        section
    }

    fn defaults<T: Section>(&mut self, keys: &[Key<T>]) -> T {
        let mut section = T::blank();
        for key in keys {
            let Some(default) = key.default else { continue };
            // A test holds that every default can be read, so that nothing of this reaches a user.
            let Ok(value) = DeValue::parse(default) else {
                continue;
            };
            let at = At { key: key.name.to_owned(), place: String::new(), rules: key.rules };
            let mut scratch = Reader::new(self.base_dir, self.resolve);
            (key.load)(&mut section, &value, &at, &mut scratch);
        }
        section
    }

    /// Reads the keys of `table`, whose names start with `prefix` within the section at `place`.
    fn fill<T: Section>(&mut self, section: &mut T, keys: &[Key<T>], table: &DeTable<'_>, place: &str, prefix: &str) {
        for (written, value) in table.iter() {
            let name = format!("{prefix}{}", written.get_ref());
            let at_place = format!("{place}.{name}");
            self.remember(&at_place, value);
            let path = format!("{}.{name}", T::PATH);
            if let Some(key) = keys.iter().find(|key| key.name == name) {
                let at = At { key: path, place: at_place, rules: key.rules };
                (key.load)(section, value, &at, self);
            } else if is_group::<T>(keys, &name) {
                match value.get_ref() {
                    DeValue::Table(table) => self.fill(section, keys, table, place, &format!("{name}.")),
                    _ => {
                        let names = keys::reference().iter().filter(|key| key.section == T::PATH);
                        let start = format!("{name}.");
                        let names: Vec<_> = names.filter_map(|key| key.name.strip_prefix(&start)).collect();
                        self.error(value, format!("{path} must be a table with {}", names.join(", ")));
                    }
                }
            } else if T::SHAPE != Shape::One || !is_section_or_parent(&path) {
                let section = if is_section_like(value) { suggest::section_near(&path) } else { None };
                let hint = match section {
                    Some(section) => {
                        self.misnamed.insert(section);
                        format!("; did you mean \"{section}\"?")
                    }
                    None => {
                        let meant = suggest::meant(T::PATH, &name);
                        for own in meant.iter().filter_map(|path| suggest::own_name(T::PATH, path)) {
                            self.count_as_written(&format!("{place}.{own}"), written.span().start);
                        }
                        if meant.is_empty() {
                            self.guessless.insert(place.to_owned(), written.span().start);
                        }
                        suggest::for_key(T::PATH, &meant)
                    }
                };
                let header = header::<T>();
                self.error_at(written.span().start, format!("unknown key {} in {header}{hint}", quote(&name)));
            }
        }
    }

    /// What stands under another name is wrong, and not missing as well.
    fn count_as_written(&mut self, place: &str, offset: usize) {
        self.places.entry(place.to_owned()).or_insert(offset);
    }

    /// Entries of this list of sections (`postgres.user`) may stand under another name.
    pub(super) fn is_misnamed(&self, section: &str) -> bool {
        self.misnamed.contains(section)
    }

    /// Reports top-level names, and names right under a section's parent, that are no section.
    pub(super) fn refuse_unknown_sections(&mut self, root: &DeTable<'_>) {
        for (written, value) in root.iter() {
            let name = written.get_ref().as_ref();
            if !is_section_or_parent(name) {
                self.refuse_section(written.span().start, name, value);
                continue;
            }
            // [redis] is no section of its own; the others report what they do not know themselves.
            if let DeValue::Table(table) = value.get_ref()
                && !keys::section_paths().any(|path| path == name)
            {
                for (written, value) in table.iter() {
                    let path = format!("{name}.{}", written.get_ref());
                    if !is_section_or_parent(&path) {
                        self.refuse_section(written.span().start, &path, value);
                    }
                }
            }
        }
    }

    fn refuse_section(&mut self, offset: usize, name: &str, value: &Value<'_>) {
        let message = if is_section_like(value) {
            if let Some(section) = suggest::section_near(name) {
                self.misnamed.insert(section);
            }
            format!("unknown section {}{}", quote(name), suggest::for_section(name))
        } else {
            let hint = suggest::for_key("", &suggest::meant("", name));
            format!("unknown key {} outside of any section{hint}", quote(name))
        };
        self.error_at(offset, message);
    }

    /// The value at a dotted path. A parent that is no table is reported.
    fn find<'v, 'i>(&mut self, root: &'v DeTable<'i>, path: &str) -> Option<&'v Value<'i>> {
        let mut table = root;
        let mut names = path.split('.').peekable();
        let mut walked = String::new();
        while let Some(name) = names.next() {
            let value = table.get(name)?;
            walked.push_str(name);
            if names.peek().is_none() {
                return Some(value);
            }
            match value.get_ref() {
                DeValue::Table(inside) => table = inside,
                DeValue::Array(_) => {
                    let children: Vec<_> = keys::section_paths()
                        .filter(|path| path.strip_prefix(&walked).is_some_and(|rest| rest.starts_with('.')))
                        .map(|path| format!("[[{path}]]"))
                        .collect();
                    let instead = match children.as_slice() {
                        [only] => only.clone(),
                        _ => format!("[{walked}]"),
                    };
                    self.error(value, format!("{walked} cannot be a list of sections; write {instead}"));
                    return None;
                }
                _ => {
                    self.error(value, format!("{walked} must be a section: [{walked}]"));
                    return None;
                }
            }
            walked.push('.');
        }
        None
    }

    pub(super) fn base_dir(&self) -> &'a Path {
        self.base_dir
    }

    pub(super) fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        (self.resolve)(host, port)
    }

    /// A secret was taken from this environment variable.
    pub(super) fn took_variable(&mut self, name: &str) {
        self.secret_variables.insert(name.to_owned());
    }

    pub(super) fn take_secret_variables(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.secret_variables)
    }

    /// A secret stands in the file itself.
    pub(super) fn saw_secret(&mut self, value: &Value<'_>, key: &str) {
        self.clear_secret.get_or_insert_with(|| (value.span().start, key.to_owned()));
    }

    /// The place and key of the first secret that stands in the file itself.
    pub(super) fn clear_secret(&self) -> Option<(usize, String)> {
        self.clear_secret.clone()
    }

    pub(super) fn error_count(&self) -> usize {
        self.errors.len()
    }

    pub(super) fn has(&self, place: &str) -> bool {
        self.places.contains_key(place)
    }

    fn offset_of(&self, place: &str) -> usize {
        let mut place = place;
        loop {
            if let Some(&offset) = self.places.get(place) {
                return offset;
            }
            match place.rfind(['.', '[']) {
                Some(end) => place = &place[..end],
                None => return 0,
            }
        }
    }

    /// The errors and the warnings in file order, those of other files last.
    pub(super) fn finish(self, file: &str, text: &str) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let placed = |mut found: Vec<(usize, String)>| {
            found.sort_by_key(|(offset, _)| *offset);
            let diagnostics = found.into_iter().map(|(offset, message)| {
                let (line, column) = position(text, offset);
                Diagnostic { file: file.to_owned(), line, column, message }
            });
            diagnostics.collect()
        };
        let (errors, warnings) = self.elsewhere;
        ([placed(self.errors), errors].concat(), [placed(self.warnings), warnings].concat())
    }
}

/// `[postgres.pool]`, `[[postgres.cluster]]` or, for an inline table, `postgres.cluster.nodes`.
fn header<T: Section>() -> String {
    match T::SHAPE {
        Shape::One => format!("[{}]", T::PATH),
        Shape::Many => format!("[[{}]]", T::PATH),
        Shape::Inline => format!("a table of {}", T::PATH),
    }
}

/// Whether `name` is the `log` of `log.level`.
fn is_group<T>(keys: &[Key<T>], name: &str) -> bool
where
    T: Section,
{
    let starts = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    keys.iter().any(|key| starts(key.name))
}

fn is_section_or_parent(path: &str) -> bool {
    keys::section_paths()
        .any(|section| section.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn is_section_like(value: &Value<'_>) -> bool {
    match value.get_ref() {
        DeValue::Table(_) => true,
        DeValue::Array(values) => values.iter().any(|value| value.get_ref().is_table()),
        _ => false,
    }
}
