//! Collects what a server's catalogs say and works out which names are safe on a replica.
//!
//! Owns the reasoning that PostgreSQL's catalogs leave to the reader: views, row-security policies, domain checks and
//! SQL functions hide calls that `pg_depend` does not record for built-in functions, so their texts are classified
//! themselves, again and again until nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use super::builtin;
use super::catalog::{Catalog, FUNCTION_PRIMARY, FUNCTION_READ, FUNCTION_VOLATILE, RELATION_VOLATILE};
use super::classify::is_definition_read;

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

    fn define(&mut self, name: &str, schema: Option<&str>, text: String) -> &mut Self {
        self.definitions.push(Definition { name: name.into(), schema: schema.map(Into::into), text });
        self
    }

    /// Works everything out. Takes about a millisecond for a database of ordinary size.
    pub fn build(self) -> Catalog {
        let mut catalog = Catalog::empty(true);
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
