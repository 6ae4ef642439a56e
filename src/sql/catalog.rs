//! What one database's catalogs say about the names in its statements.
//!
//! Owns the answer to "may this function, relation or operator be used on a replica". Names are looked up without
//! their schema and the worst of all that share a name counts, because the `search_path` of a session is not known.
//! Immutable once built; `topology` builds one per database and pushes it to every core, `classify` reads it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use rustc_hash::FxHashMap;

use super::catalog_builder::CatalogBuilder;
use super::{Effects, builtin};

/// The longest name that PostgreSQL keeps, in bytes (`NAMEDATALEN` - 1); longer ones are cut.
pub const NAME_BYTES: usize = 63;

/// What is known of a function's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Every function of the name may run on a replica.
    Read,
    /// At least one may write.
    Volatile,
    /// It tells about the node or belongs to the primary for another reason.
    PrimaryOnly,
    /// There is none, or none that this catalog knows.
    Unknown,
}

/// What is known of an identifier that may name a relation, type or column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Nothing against it.
    Plain,
    /// Unlogged, temporary or foreign, or a view, policy, type or row function that can run something volatile.
    Volatile,
    /// Shows the state of one node.
    NodeSpecific,
}

/// An identifier as written, without its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// Its bytes, doubled quotes still doubled.
    pub bytes: &'a [u8],
    /// Quoted names are not folded to lower case.
    pub quoted: bool,
}

pub(super) const FUNCTION_READ: u8 = 1;
pub(super) const FUNCTION_VOLATILE: u8 = 2;
pub(super) const FUNCTION_PRIMARY: u8 = 4;
pub(super) const RELATION_VOLATILE: u8 = 8;
pub(super) const RELATION_NODE: u8 = 16;
const RELATION: u8 = RELATION_VOLATILE | RELATION_NODE;

/// The names of one database that matter for routing.
#[derive(Debug, Clone)]
pub struct Catalog {
    names: FxHashMap<Box<[u8]>, u8>,
    /// By length: a bit for each first and for each last letter of the relations against which something is known, so
    /// that almost no identifier of a statement costs a look-up.
    filter: [(u32, u32); NAME_BYTES + 1],
    operators: FxHashMap<Box<[u8]>, bool>,
    /// Operators of one character that are known and not volatile.
    single: u128,
    /// A volatile operator that statements can call without writing it, as `IN` calls `=`.
    hidden_operator: Option<Box<str>>,
    complete: bool,
    /// One of those relations has letters outside of ASCII.
    non_ascii: bool,
    /// One of them has a quotation mark in its name, which statements double.
    quoted: bool,
    /// What calls of a function may leave behind on the connection, by their code.
    calls: FxHashMap<Box<[u8]>, Effects>,
    /// The same of a table's triggers.
    triggers: FxHashMap<Box<[u8]>, Effects>,
    /// The same of views, and of tables with policies, whatever is done with them.
    uses: FxHashMap<Box<[u8]>, Effects>,
    /// Settings that such code makes and that no server lists.
    settings: BTreeSet<String>,
}

impl Catalog {
    /// A catalog with nothing in it. `complete` says that it will hold every function of the database.
    pub(super) fn empty(complete: bool) -> Self {
        let mut catalog = Self {
            names: FxHashMap::default(),
            filter: [(0, 0); NAME_BYTES + 1],
            operators: FxHashMap::default(),
            single: 0,
            hidden_operator: None,
            complete,
            non_ascii: false,
            quoted: false,
            calls: FxHashMap::default(),
            triggers: FxHashMap::default(),
            uses: FxHashMap::default(),
            settings: BTreeSet::new(),
        };
        // `SELECT *` calls nothing.
        catalog.mark_operator("*", false);
        for name in builtin::NODE_RELATIONS {
            catalog.mark(name, RELATION_NODE);
        }
        catalog
    }

    /// What is known before any server was asked: PostgreSQL's most common functions and its own operators.
    pub fn built_in() -> &'static Catalog {
        static BUILT_IN: LazyLock<Catalog> = LazyLock::new(|| {
            let mut catalog = Catalog::empty(false);
            for name in builtin::PRIMARY_ONLY {
                catalog.mark(name, FUNCTION_PRIMARY);
            }
            for name in builtin::COMMON_READS.iter().chain(builtin::HARMLESS) {
                catalog.mark(name, FUNCTION_READ);
            }
            for operator in builtin::OPERATORS {
                catalog.mark_operator(operator, false);
            }
            catalog
        });
        &BUILT_IN
    }

    /// Starts to collect what a server says.
    pub fn builder() -> CatalogBuilder {
        CatalogBuilder::new()
    }

    pub(super) fn mark(&mut self, name: &str, flags: u8) {
        let bytes = name.as_bytes();
        *self.names.entry(bytes.into()).or_default() |= flags;
        if flags & RELATION == 0 {
            return;
        }
        self.non_ascii |= !name.is_ascii();
        self.quoted |= name.contains('"');
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
            return;
        };
        if let Some((firsts, lasts)) = self.filter.get_mut(bytes.len()) {
            *firsts |= 1 << (first & 31);
            *lasts |= 1 << (last & 31);
        }
    }

    pub(super) fn mark_operator(&mut self, name: &str, volatile: bool) {
        let known = self.operators.entry(name.as_bytes().into()).or_default();
        *known |= volatile;
        let volatile = *known;
        if let &[byte] = name.as_bytes()
            && byte < 128
        {
            if volatile {
                self.single &= !(1 << byte);
            } else {
                self.single |= 1 << byte;
            }
        }
        let hidden = ["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"];
        if volatile && self.hidden_operator.is_none() && hidden.contains(&name) {
            self.hidden_operator = Some(name.into());
        }
    }

    /// Whether it holds every function of the database, so that a name it lacks is no function.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many names it knows something about.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it knows no name at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What is known of the functions called `name`.
    pub fn function(&self, name: Name<'_>) -> Function {
        let flags = self.flags(name);
        if flags & FUNCTION_PRIMARY != 0 {
            Function::PrimaryOnly
        } else if flags & FUNCTION_VOLATILE != 0 {
            Function::Volatile
        } else if flags & FUNCTION_READ != 0 {
            Function::Read
        } else {
            Function::Unknown
        }
    }

    /// What is known of `name` as a relation, type or column.
    #[inline]
    pub fn relation(&self, name: Name<'_>) -> Relation {
        let bytes = name.bytes;
        let (Some(first), Some(last), Some((firsts, lasts))) =
            (bytes.first(), bytes.last(), self.filter.get(bytes.len()))
        else {
            // Empty, or cut by the server to a name that was not compared.
            return if bytes.is_empty() { Relation::Plain } else { Relation::Volatile };
        };
        // The low five bits of a letter are the same in both cases.
        let listed = (firsts >> (first & 31)) & (lasts >> (last & 31)) & 1 != 0;
        let family = matches!(bytes, [b'p' | b'P', b'g' | b'G', b'_', ..]);
        // Names outside of ASCII come in the client's encoding: if any such relation is suspicious, all are.
        let odd = self.non_ascii && !bytes.is_ascii() || self.quoted && bytes.contains(&b'"');
        if !listed && !family && !odd {
            return Relation::Plain;
        }
        self.relation_flags(name, odd)
    }

    fn relation_flags(&self, name: Name<'_>, odd: bool) -> Relation {
        let flags = self.flags(name);
        if flags & RELATION_NODE != 0 || builtin::is_node_relation_family(name.bytes) {
            Relation::NodeSpecific
        } else if flags & RELATION_VOLATILE != 0 || odd {
            Relation::Volatile
        } else {
            Relation::Plain
        }
    }

    /// Whether the operator may run something volatile, or is not known.
    #[inline]
    pub fn is_operator_volatile(&self, operator: &[u8]) -> bool {
        match operator {
            [byte @ 0..128] if self.single & (1 << byte) != 0 => false,
            // Names an argument; no operator can be called so.
            b"=>" => false,
            b"!=" => self.is_operator_volatile(b"<>"),
            _ => *self.operators.get(operator).unwrap_or(&true),
        }
    }

    /// A volatile operator that words such as `IN` or `ORDER BY` may call.
    #[inline]
    pub fn hidden_operator(&self) -> Option<&str> {
        self.hidden_operator.as_deref()
    }

    /// What calling the functions of this name may leave behind on the connection, by their code.
    #[inline]
    pub fn left_by_call(&self, name: Name<'_>) -> Effects {
        if self.calls.is_empty() { Effects::empty() } else { look_up(&self.calls, name) }
    }

    /// The same for writing to a table of this name.
    #[inline]
    pub fn left_by_write(&self, name: Name<'_>) -> Effects {
        if self.triggers.is_empty() { Effects::empty() } else { look_up(&self.triggers, name) }
    }

    /// The same for anything that is done with a view, or a table with policies, of this name.
    #[inline]
    pub fn left_by_use(&self, name: Name<'_>) -> Effects {
        if self.uses.is_empty() { Effects::empty() } else { look_up(&self.uses, name) }
    }

    /// Whether a write may leave something behind on the connection although its text shows nothing of that.
    pub fn has_triggers_that_leave_something(&self) -> bool {
        !self.triggers.is_empty() || !self.uses.is_empty()
    }

    /// Settings that functions and triggers make and that no server lists: they have to be asked for by name.
    pub fn settings(&self) -> &BTreeSet<String> {
        &self.settings
    }

    pub(super) fn leaves(
        &mut self,
        calls: FxHashMap<Box<[u8]>, Effects>,
        triggers: FxHashMap<Box<[u8]>, Effects>,
        uses: FxHashMap<Box<[u8]>, Effects>,
        settings: BTreeSet<String>,
    ) {
        (self.calls, self.triggers, self.uses, self.settings) = (calls, triggers, uses, settings);
    }

    fn flags(&self, name: Name<'_>) -> u8 {
        look_up(&self.names, name)
    }

    pub(super) fn flags_of(&self, name: &str) -> u8 {
        self.names.get(name.as_bytes()).copied().unwrap_or_default()
    }
}

/// What a table says of a name as it is written.
fn look_up<T: Copy + Default>(table: &FxHashMap<Box<[u8]>, T>, name: Name<'_>) -> T {
    if name.quoted {
        return table.get(name.bytes).copied().unwrap_or_default();
    }
    let mut folded = [0; NAME_BYTES];
    let Some(folded) = folded.get_mut(..name.bytes.len()) else {
        return T::default();
    };
    folded.copy_from_slice(name.bytes);
    folded.make_ascii_lowercase();
    table.get(&*folded).copied().unwrap_or_default()
}
