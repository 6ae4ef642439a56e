//! Protocol-level prepared statements in a pool: each text is known once to the process, under a number; clients
//! have their own names for it, and each server connection remembers which numbers it has been taught.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use rustc_hash::{FxHashMap, FxHasher};

use super::trace::Parsed;
use crate::sql::Verdict;

/// A statement as a client parsed it.
#[derive(Debug)]
pub struct Statement {
    /// Its number in this process.
    pub id: u64,
    /// What follows the name in the Parse message: query text, NUL, parameter types.
    pub body: Box<[u8]>,
    /// What it is.
    pub verdict: Arc<Verdict>,
    /// Its name on server connections: `fb_<number>`.
    pub name: Box<str>,
    /// What its meaning depends on beside its text, see [`super::session::Session::scope`].
    scope: u64,
    hash: u64,
}

impl Statement {
    /// The query text.
    pub fn text(&self) -> &[u8] {
        text_in(&self.body)
    }
}

/// The query text at the front of a Parse body without its name.
pub(super) fn text_in(definition: &[u8]) -> &[u8] {
    definition.split(|b| *b == 0).next().unwrap_or_default()
}

/// Every statement that some client or connection still uses, shared by all threads. Touched at Parse only.
#[derive(Debug, Default)]
pub struct Statements {
    by_hash: DashMap<u64, Vec<Weak<Statement>>>,
    /// How often the schema of a database has changed, as far as we know, by a hash of where it is.
    schemas: DashMap<u64, u64>,
    next: AtomicU64,
}

impl Statements {
    /// The statement with this body and verdict. A verdict that a changed catalog has made another is another
    /// statement: who prepared it before keeps what was decided then.
    pub fn intern(&self, body: &[u8], verdict: Arc<Verdict>, scope: u64) -> Arc<Statement> {
        self.other_than(0, body, verdict, scope)
    }

    /// The same statement under another number, which no connection has planned before `old` turned out to be planned
    /// for what its tables are not any more. Whoever comes second gets the number that the first one got.
    pub fn renew(&self, old: &Statement, scope: u64) -> Arc<Statement> {
        self.other_than(old.id, &old.body, Arc::clone(&old.verdict), scope)
    }

    /// The same statement with another verdict.
    pub fn judged(&self, old: &Statement, verdict: Arc<Verdict>) -> Arc<Statement> {
        self.other_than(0, &old.body, verdict, old.scope)
    }

    /// A number that is another one after each [`Statements::schema_changed`] of the database.
    pub fn schema(&self, cluster: usize, database: &str) -> u64 {
        self.schemas.get(&place(cluster, database)).map_or(0, |number| *number)
    }

    /// The schema of a database may be another one from now on: what is parsed after this shares no statement with what
    /// was parsed before, whose parameters and results were worked out from other tables and types.
    pub fn schema_changed(&self, cluster: usize, database: &str) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.schemas.insert(place(cluster, database), number);
    }

    fn other_than(&self, old: u64, body: &[u8], verdict: Arc<Verdict>, scope: u64) -> Arc<Statement> {
        let mut hasher = FxHasher::default();
        (body, scope).hash(&mut hasher);
        let hash = hasher.finish();
        let mut entry = self.by_hash.entry(hash).or_default();
        entry.retain(|s| s.strong_count() > 0);
        let is_same = |s: &Arc<Statement>| *s.body == *body && s.verdict == verdict && s.scope == scope;
        let newest = entry.iter().filter_map(Weak::upgrade).filter(is_same).max_by_key(|s| s.id);
        if let Some(statement) = newest.filter(|s| s.id > old) {
            return statement;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("fb_{id}").into();
        let statement = Arc::new(Statement { id, body: body.into(), verdict, name, scope, hash });
        entry.push(Arc::downgrade(&statement));
        statement
    }

    /// Forgets texts that nobody uses any more. Returns how many are left.
    pub fn sweep(&self) -> usize {
        let mut left = 0;
        self.by_hash.retain(|_, list| {
            list.retain(|s| s.strong_count() > 0);
            left += list.len();
            !list.is_empty()
        });
        left
    }
}

fn place(cluster: usize, database: &str) -> u64 {
    let mut hasher = FxHasher::default();
    (cluster, database).hash(&mut hasher);
    hasher.finish()
}

impl PartialEq for Statement {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.hash == other.hash
    }
}

/// The names that one client has given.
#[derive(Debug, Default)]
pub struct Names {
    named: FxHashMap<Box<[u8]>, Arc<Statement>>,
    /// The unnamed statement's Parse body, kept so that a later Bind can find it on another connection.
    pub unnamed: Vec<u8>,
    /// What the unnamed statement is.
    pub unnamed_verdict: Option<Arc<Verdict>>,
    /// Some statement had a hint: whoever binds it may have to go elsewhere.
    pub may_steer: bool,
    /// The pool's generation for which the verdicts hold.
    pub generation: u64,
    /// The client has asked for the columns of a result: it may go by what it was told then.
    pub describes: bool,
    /// What was parsed as part of a trace and not bound yet; only with `[telemetry]`.
    pub parsed: Option<Box<Parsed>>,
}

impl Names {
    /// The statement of a name.
    pub fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.named.get(name)
    }

    /// Every name with its statement.
    pub fn all(&self) -> Vec<(Box<[u8]>, Arc<Statement>)> {
        self.named.iter().map(|(name, statement)| (name.clone(), Arc::clone(statement))).collect()
    }

    /// The client's name for a statement, by its number.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        self.named.iter().find(|(_, s)| s.id == id).map(|(name, _)| &**name)
    }

    /// Gives a name.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.may_steer |= statement.verdict.hint.is_some();
        self.named.insert(name.into(), statement);
    }

    /// The text of the unnamed statement.
    pub fn unnamed_text(&self) -> &[u8] {
        text_in(&self.unnamed)
    }

    /// What the unnamed statement is from now on: a Parse body without its name, and its verdict.
    pub fn set_unnamed(&mut self, definition: &[u8], verdict: Arc<Verdict>) {
        self.may_steer |= verdict.hint.is_some();
        self.unnamed.clear();
        self.unnamed.extend_from_slice(definition);
        self.unnamed_verdict = Some(verdict);
    }

    /// Takes a name back; false if there was none.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.named.remove(name).is_some()
    }

    /// Takes all names back.
    pub fn clear(&mut self) {
        self.named = HashMap::default();
        self.clear_unnamed();
    }

    /// There is no unnamed statement any more.
    pub fn clear_unnamed(&mut self) {
        self.unnamed = Vec::new();
        self.unnamed_verdict = None;
    }

    /// How many names there are.
    #[allow(clippy::len_without_is_empty, reason = "a figure for the console")]
    pub fn len(&self) -> usize {
        self.named.len()
    }
}

/// The statements that one server connection knows, the least recently used one first to go.
#[derive(Debug, Default)]
pub struct Taught {
    known: FxHashMap<u64, Known>,
    clock: u64,
}

#[derive(Debug)]
struct Known {
    used: u64,
    // Held so that the number is not forgotten and given a second time to the same text.
    statement: Arc<Statement>,
}

impl Taught {
    /// True if the connection knows the statement; counts as a use.
    pub fn knows(&mut self, id: u64) -> bool {
        self.clock += 1;
        match self.known.get_mut(&id) {
            Some(known) => {
                known.used = self.clock;
                true
            }
            None => false,
        }
    }

    /// The connection is being taught this statement. Returns one to close when there are more than `limit`.
    pub fn learn(&mut self, statement: &Arc<Statement>, limit: usize) -> Option<Arc<Statement>> {
        self.clock += 1;
        self.known.insert(statement.id, Known { used: self.clock, statement: Arc::clone(statement) });
        if self.known.len() <= limit.max(1) {
            return None;
        }
        let oldest = self.known.iter().min_by_key(|(_, k)| k.used).map(|(id, _)| *id)?;
        self.known.remove(&oldest).map(|known| known.statement)
    }

    /// The connection knows it after all: the Close was not read.
    pub fn restore(&mut self, statement: Arc<Statement>) {
        let used = self.clock;
        self.known.entry(statement.id).or_insert(Known { used, statement });
    }

    /// The connection does not know it after all.
    pub fn forget(&mut self, id: u64) {
        self.known.remove(&id);
    }

    /// `DISCARD ALL` or `DEALLOCATE ALL` ran.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// How many it knows.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True if it knows none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
