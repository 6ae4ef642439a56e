//! Collects what a server's catalogs say and works out which names are safe on a replica.
//!
//! Owns the reasoning that PostgreSQL's catalogs leave to the reader: views, row-security policies, domain checks and
//! SQL functions hide calls that `pg_depend` does not record for built-in functions, so their texts are classified
//! themselves, again and again until nothing changes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::catalog::{Catalog, FUNCTION_PRIMARY, FUNCTION_READ, FUNCTION_VOLATILE, RELATION_VOLATILE};
use super::classify::is_definition_read;
use super::dotted::names_of_settings;
use super::{Effects, builtin, code};

/// Collects the rows of the catalog queries; order does not matter.
#[derive(Debug, Default)]
pub struct CatalogBuilder {
    functions: BTreeMap<String, Vec<Overload>>,
    row_functions: BTreeSet<String>,
    operators: Vec<(String, bool)>,
    relations: BTreeSet<String>,
    definitions: Vec<Definition>,
    read_functions: BTreeSet<String>,
    write_functions: BTreeSet<String>,
    bodies: Vec<Body>,
    settings: BTreeSet<String>,
    triggers: Vec<(String, String)>,
    through: Vec<(String, String)>,
    written: Vec<(String, BTreeSet<String>)>,
}

/// The code of a function that is not written in C.
#[derive(Debug)]
struct Body {
    name: String,
    effects: Effects,
    words: BTreeSet<String>,
}

/// Effects by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct ByName(BTreeMap<String, Effects>);

impl ByName {
    fn add(&mut self, name: &str, effects: Effects) {
        if !effects.is_empty() {
            *self.0.entry(name.to_owned()).or_default() |= effects;
        }
    }
    fn of(&self, name: &str) -> Effects {
        self.0.get(name).copied().unwrap_or_default()
    }
    fn of_words(&self, words: &BTreeSet<String>) -> Effects {
        match self.0.is_empty() {
            true => Effects::empty(),
            false => words.iter().fold(Effects::empty(), |all, word| all | self.of(word)),
        }
    }
    fn table(self) -> FxHashMap<Box<[u8]>, Effects> {
        self.0.into_iter().map(|(name, effects)| (name.as_bytes().into(), effects | Effects::BY_CODE)).collect()
    }
}

/// What is left behind by calls of functions, writes to tables, and uses of views and of tables with policies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Left {
    calls: ByName,
    writes: ByName,
    uses: ByName,
}

impl Left {
    fn of_words(&self, words: &BTreeSet<String>) -> Effects {
        self.calls.of_words(words) | self.writes.of_words(words) | self.uses.of_words(words)
    }
}

/// All functions of one name in one schema.
#[derive(Debug)]
struct Overload {
    schema: String,
    volatile: bool,
    native: bool,
}

/// A piece of SQL that runs when `name` is used.
#[derive(Debug)]
struct Definition {
    name: String,
    /// Set for functions, which the operator's lists may overrule.
    schema: Option<String>,
    text: String,
}

impl CatalogBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The functions of one name in one schema: whether any of them (or the functions behind an aggregate) is volatile,
    /// and whether the volatile ones are `native`, that is written in C and part of PostgreSQL or an extension.
    pub fn function(&mut self, schema: &str, name: &str, volatile: bool, native: bool) -> &mut Self {
        self.functions.entry(name.into()).or_default().push(Overload { schema: schema.into(), volatile, native });
        self
    }

    /// The body of an SQL function that is not marked volatile: `prosrc`, or what `pg_get_function_sqlbody` gives.
    pub fn sql_function(&mut self, schema: &str, name: &str, body: &str) -> &mut Self {
        self.define(name, Some(schema), function_body(body))
    }

    /// A function that takes one row: `t.name` calls it without parentheses.
    pub fn row_function(&mut self, name: &str) -> &mut Self {
        self.row_functions.insert(name.into());
        self
    }

    /// All operators of one name: whether the function behind any of them is volatile.
    pub fn operator(&mut self, name: &str, volatile: bool) -> &mut Self {
        self.operators.push((name.into(), volatile));
        self
    }

    /// A relation that a replica cannot read, or not as the primary does: unlogged, temporary or foreign, a table with
    /// such a part, or a sequence; also a type with a volatile cast.
    pub fn relation(&mut self, name: &str) -> &mut Self {
        self.relations.insert(name.into());
        self
    }

    /// A view and the query behind it, as `pg_get_viewdef` gives it.
    pub fn view(&mut self, name: &str, query: &str) -> &mut Self {
        self.define(name, None, query.into())
    }

    /// An expression that is evaluated whenever `name` is used: a row-security policy of a table or a domain's check.
    pub fn expression(&mut self, name: &str, expression: &str) -> &mut Self {
        self.define(name, None, format!("SELECT {expression}"))
    }

    /// A function, `name` or `schema.name`, that the operator declares to be a read. It overrules the built-in lists
    /// and the volatility of the functions that it names; others of the same name still count.
    pub fn read_function(&mut self, entry: &str) -> &mut Self {
        self.read_functions.insert(entry.into());
        self
    }

    /// A function, `name` or `schema.name`, that the operator declares to be a write. Overrules [`Self::read_function`].
    pub fn write_function(&mut self, entry: &str) -> &mut Self {
        self.write_functions.insert(entry.into());
        self
    }

    /// The code of a function or procedure, and its language.
    pub fn body(&mut self, name: &str, language: &str, code: &str) -> &mut Self {
        // In other languages SQL stands in strings, which may have other quotes.
        let code = match language {
            "sql" | "plpgsql" => Cow::Borrowed(code),
            _ => Cow::Owned(code.replace('"', "'")),
        };
        let mut effects = code::of_body(code.as_bytes());
        if effects.contains(Effects::UNKNOWN_SET) && !names_of_settings(code.as_bytes(), &mut self.settings) {
            effects |= Effects::HIDDEN_SET;
        }
        self.bodies.push(Body { name: name.into(), effects, words: code::words(code.as_bytes()) });
        self
    }

    /// A trigger of a table, and its function.
    pub fn trigger(&mut self, table: &str, function: &str) -> &mut Self {
        self.triggers.push((table.into(), function.into()));
        self
    }

    /// A write to `table` may write to `other` as well: the parent of a partition, what a foreign key cascades to.
    pub fn writes_through(&mut self, table: &str, other: &str) -> &mut Self {
        self.through.push((table.into(), other.into()));
        self
    }

    /// An expression that is evaluated when `table` is written to: a default, a check, a generated column.
    pub fn written_expression(&mut self, table: &str, expression: &str) -> &mut Self {
        self.written.push((table.into(), code::words(expression.as_bytes())));
        self
    }

    /// What functions, writes to tables and uses of views leave behind, with what those leave that they call and use.
    fn left(&self, catalog: &mut Catalog) {
        let definitions = self.definitions.iter().filter(|definition| definition.schema.is_none());
        let used: Vec<(&str, BTreeSet<String>)> =
            definitions.map(|definition| (definition.name.as_str(), code::words(definition.text.as_bytes()))).collect();
        let mut left = Left::default();
        loop {
            let before = left.clone();
            for body in &self.bodies {
                left.calls.add(&body.name, body.effects | before.of_words(&body.words));
            }
            for (table, function) in &self.triggers {
                left.writes.add(table, before.calls.of(function));
            }
            for (table, other) in &self.through {
                left.writes.add(table, before.writes.of(other));
            }
            for (table, words) in &self.written {
                left.writes.add(table, before.calls.of_words(words));
            }
            for (view, words) in &used {
                left.uses.add(view, before.calls.of_words(words) | before.uses.of_words(words));
                left.writes.add(view, before.writes.of_words(words));
            }
            if left == before {
                break;
            }
        }
        catalog.leaves(left.calls.table(), left.writes.table(), left.uses.table(), self.settings.clone());
    }

    fn define(&mut self, name: &str, schema: Option<&str>, text: String) -> &mut Self {
        self.definitions.push(Definition { name: name.into(), schema: schema.map(Into::into), text });
        self
    }

    /// Works everything out. Takes about a millisecond for a database of ordinary size.
    pub fn build(self) -> Catalog {
        let mut catalog = Catalog::empty(true);
        self.left(&mut catalog);
        for (name, overloads) in &self.functions {
            for overload in overloads {
                catalog.mark(name, self.function_flags(name, overload));
            }
        }
        self.apply_lists(&mut catalog);
        for (name, volatile) in &self.operators {
            catalog.mark_operator(name, *volatile);
        }
        for name in &self.relations {
            catalog.mark(name, RELATION_VOLATILE);
        }
        self.mark_row_functions(&mut catalog);
        let mut pending: Vec<&Definition> = self.definitions.iter().filter(|d| !self.is_listed(d)).collect();
        loop {
            let before = pending.len();
            pending.retain(|definition| {
                let read = is_definition_read(definition.text.as_bytes(), &catalog);
                if !read {
                    let flag = if definition.schema.is_some() { FUNCTION_VOLATILE } else { RELATION_VOLATILE };
                    catalog.mark(&definition.name, flag);
                }
                read
            });
            if pending.len() == before {
                return catalog;
            }
            self.mark_row_functions(&mut catalog);
        }
    }

    fn function_flags(&self, name: &str, overload: &Overload) -> u8 {
        let schema = overload.schema.as_str();
        if contains(&self.write_functions, schema, name) {
            FUNCTION_VOLATILE
        } else if contains(&self.read_functions, schema, name) {
            FUNCTION_READ
        } else if builtin::is_primary_only(schema, name) {
            FUNCTION_PRIMARY
        } else if overload.volatile && !(overload.native && builtin::is_harmless(name)) {
            FUNCTION_VOLATILE
        } else {
            FUNCTION_READ
        }
    }

    /// Entries of the lists count even for functions that the server did not tell of, if no schema limits them.
    fn apply_lists(&self, catalog: &mut Catalog) {
        for name in builtin::PRIMARY_ONLY {
            if !self.functions.contains_key(*name) && !self.read_functions.contains(*name) {
                catalog.mark(name, FUNCTION_PRIMARY);
            }
        }
        for name in self.read_functions.iter().filter(|entry| !entry.contains('.')) {
            catalog.mark(name, FUNCTION_READ);
        }
        for entry in &self.write_functions {
            let name = entry.rsplit_once('.').map_or(entry.as_str(), |(_, name)| name);
            catalog.mark(name, FUNCTION_VOLATILE);
        }
    }

    /// A volatile row function makes its name suspicious wherever a column of that name is meant.
    fn mark_row_functions(&self, catalog: &mut Catalog) {
        for name in &self.row_functions {
            if catalog.flags_of(name) & (FUNCTION_VOLATILE | FUNCTION_PRIMARY) != 0 {
                catalog.mark(name, RELATION_VOLATILE);
            }
        }
    }

    fn is_listed(&self, definition: &Definition) -> bool {
        let name = definition.name.as_str();
        definition.schema.as_deref().is_some_and(|schema| contains(&self.read_functions, schema, name))
    }
}

fn contains(list: &BTreeSet<String>, schema: &str, name: &str) -> bool {
    !list.is_empty() && (list.contains(name) || list.contains(&format!("{schema}.{name}")))
}

/// Turns both forms of an SQL function's body into statements: `RETURN expression` and `BEGIN ATOMIC ... END`.
fn function_body(body: &str) -> String {
    let text = body.trim();
    let word = |text: &str, n: usize| text.get(..n).map(str::to_ascii_uppercase);
    if word(text, 7).as_deref() == Some("RETURN ") {
        return format!("SELECT {}", text.get(7..).unwrap_or_default());
    }
    if word(text, 12).as_deref() == Some("BEGIN ATOMIC") {
        let statements = text.get(12..).unwrap_or_default().trim_end();
        return statements.strip_suffix("END").unwrap_or(statements).into();
    }
    text.into()
}
