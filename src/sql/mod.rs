//! What a statement is, as far as routing and session tracking need to know.
//!
//! A hand-written lexer that knows PostgreSQL's quoting and comments, because a full parse of an ORM's statement
//! costs more than the rest of the proxying. Pure: no clock, no input or output. Every doubt is a write.
//! Called by `pg` for each Query and Parse message, and by the console for `EXPLAIN ROUTE`.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod builtin;
pub mod cache;
pub mod catalog;
pub mod catalog_builder;
pub mod classify;
mod code;
mod control;
mod dotted;
mod fingerprint;
mod hint;
mod inert;
pub mod lex;
mod reason;
mod summary;
mod traceparent;
mod words;

pub use cache::VerdictCache;
pub use catalog::Catalog;
pub use catalog_builder::CatalogBuilder;
pub use classify::classify;
pub use control::{is_plain_commit, unlistened};
pub use dotted::dotted_names;
pub use fingerprint::{common_form, fingerprint};
pub use inert::is_inert;
pub use summary::summary;
pub use traceparent::{Traceparent, without_traceparent};

use bitflags::bitflags;

/// What one message's SQL text means to a pooler that splits reads from writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Where it may run.
    pub access: Access,
    /// Why; `None` of detail costs nothing on the hot path, the words are made by `Display`.
    pub reason: Reason,
    /// What the statement is, when the session has to act on it.
    pub kind: Kind,
    /// A hint in a comment before the first keyword.
    pub hint: Option<Hint>,
    /// What it may leave behind on the server connection (union over all statements of the message).
    pub effects: Effects,
}

/// Where a statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Proven to be a read: any node whose data is fresh enough.
    Read,
    /// Everything else: the primary.
    Write,
}

/// A hint written by the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// `/* forebay: primary */` or Pgpool's `/*NO LOAD BALANCE*/`.
    Primary,
    /// `/* forebay: replica */`.
    Replica,
}

/// The statement's kind, for what the session itself must know. Names are folded to lower case unless quoted.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing but white space, comments and semicolons.
    Empty,
    /// More than one statement in the message. `begins` is true if any of them could open or close a transaction.
    Multiple,
    /// `BEGIN` or `START TRANSACTION`.
    Begin {
        /// `READ ONLY` / `READ WRITE` when written.
        read_only: Option<bool>,
        /// `ISOLATION LEVEL SERIALIZABLE` was written (a standby refuses it).
        serializable: bool,
    },
    /// `COMMIT`, `END` (also with `AND CHAIN`, `PREPARE TRANSACTION`).
    Commit,
    /// `ROLLBACK`, `ABORT` without `TO`.
    Rollback,
    /// `SAVEPOINT`, `RELEASE`, `ROLLBACK TO`.
    Savepoint,
    /// `SET [SESSION] name ...`, `SET TIME ZONE`, `SET NAMES`, `SET ROLE`, `SET SESSION AUTHORIZATION`,
    /// `SET SESSION CHARACTERISTICS ...` (name `session characteristics`), or
    /// `SELECT set_config('name', 'value', false)` with literal arguments and nothing else.
    Set(Setting),
    /// `SET LOCAL name ...` or `set_config(.., true)` with literals: gone at the end of the transaction.
    SetLocal(Setting),
    /// `SET TRANSACTION ...`, `SET CONSTRAINTS ...`: for this transaction only.
    SetTransaction,
    /// `RESET name` / `SET name TO DEFAULT` (the name), `RESET ALL` (`None`).
    Reset(Option<String>),
    /// `SHOW name`.
    Show(String),
    /// `DISCARD ALL`.
    DiscardAll,
    /// `DEALLOCATE [PREPARE] name` or `ALL` (`None`).
    Deallocate(Option<String>),
    /// `LISTEN channel`.
    Listen(String),
    /// `UNLISTEN channel` or `*` (`None`).
    Unlisten(Option<String>),
    /// Any other single statement.
    Other,
}

impl Kind {
    /// False for what only begins or ends a transaction, or is a setting.
    fn may_change_data(&self) -> bool {
        use Kind::{Begin, Commit, Listen, Reset, Rollback, Set, SetLocal, SetTransaction, Unlisten};
        let is_of_session = matches!(self, Set(_) | SetLocal(_) | SetTransaction | Reset(_) | Listen(_) | Unlisten(_));
        !is_of_session && !matches!(self, Begin { .. } | Commit | Rollback)
    }
}

/// A `SET` that the session may replay on another server connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Canonical name: lower case; `timezone` for `TIME ZONE`, `client_encoding` for `NAMES`, `role`,
    /// `session_authorization`.
    pub name: String,
    /// The value if it is one simple literal, identifier or number (unquoted, unescaped).
    pub value: Option<String>,
}

bitflags! {
    /// What a message may leave behind on its server connection.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
    pub struct Effects: u16 {
        /// Creates a temporary table, view or sequence (also `SELECT INTO TEMP`, `CREATE ... pg_temp.x`).
        const TEMP = 1;
        /// `LISTEN`.
        const LISTEN = 2;
        /// A session-level advisory lock function.
        const ADVISORY_LOCK = 4;
        /// `DECLARE ... WITH HOLD`.
        const WITH_HOLD = 8;
        /// SQL `PREPARE`.
        const SQL_PREPARE = 16;
        /// A session setting that [`Kind::Set`] does not describe: `set_config` with computed arguments or inside a
        /// larger statement, a `SET` among several statements, `SET` inside `DO`.
        const UNKNOWN_SET = 32;
        /// `setseed`.
        const SEED = 64;
        /// `LOAD`, `DO`, `CALL` and other code that may do any of these unseen. Informative: not a reason to pin.
        const OPAQUE = 128;
        /// `DISCARD TEMP | PLANS | SEQUENCES`, `UNLISTEN`, `CLOSE ALL`, `pg_advisory_unlock*`: may end one of the above.
        const MAY_END = 256;
        /// DDL that may change what the catalog says (functions, views, operators, tables).
        const DDL = 512;
        /// Opens, ends or may change a transaction block inside a multi-statement message.
        const TRANSACTION = 1024;
        /// Session-level `DEALLOCATE`, `DISCARD ALL` inside a multi-statement message.
        const DROPS_PREPARED = 2048;
        /// `RESET ALL` among several statements, as drivers' pools send it.
        const RESETS_ALL = 4096;
        /// Every statement only tidies up the session (`RESET`, `CLOSE`, `UNLISTEN`, `DISCARD`, `DEALLOCATE`,
        /// `pg_advisory_unlock_all`), as drivers' pools do between two users of a connection: no data changes.
        const TIDIES = 8192;
        /// A session setting whose name not even the code tells that makes it.
        const HIDDEN_SET = 16384;
        /// Some of this is what the code of a function or trigger does.
        const BY_CODE = 32768;
    }
}

/// Why a statement went where it did. `Display` gives the sentence of `EXPLAIN ROUTE`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is its own sentence, see Display")]
pub enum Reason {
    Read,
    Keyword(&'static str),
    LockingClause,
    SelectInto,
    DataModifyingCte,
    ExplainAnalyze,
    SeveralStatements,
    VolatileFunction(String),
    UnknownFunction(String),
    NodeSpecific(String),
    VolatileRelation(String),
    VolatileOperator(String),
    TransactionControl,
    SessionState,
    Unterminated,
    TooLong,
    NoCatalog,
    Unrecognised,
    AmbiguousString,
    RefusedByReplica,
    NotExamined,
    Empty,
}

impl Verdict {
    /// Of a statement that [`is_inert`]: it leaves nothing behind, and whether it writes was not asked.
    pub fn not_examined() -> Self {
        Verdict {
            access: Access::Write,
            reason: Reason::NotExamined,
            kind: Kind::Other,
            hint: None,
            effects: Effects::empty(),
        }
    }

    /// True if data may be changed: not a read, and more than transactions, settings or tidying up.
    pub fn may_change_data(&self) -> bool {
        self.access == Access::Write && self.kind.may_change_data() && !self.effects.contains(Effects::TIDIES)
    }

    /// True if a table, type or function may be another one after it, as far as the statement itself tells. `text` is
    /// its text, where the verdict is of several statements.
    pub fn may_change_schema(&self, text: Option<&[u8]>) -> bool {
        match self.reason {
            Reason::Keyword(word) => matches!(word, "CREATE" | "ALTER" | "DROP" | "DO" | "IMPORT"),
            Reason::SelectInto | Reason::Unrecognised | Reason::Unterminated | Reason::TooLong => true,
            Reason::SeveralStatements => text.is_some_and(names_schema_change),
            _ => false,
        }
    }

    /// True if the statement means nothing for the session.
    pub fn is_plain(&self) -> bool {
        self.effects.is_empty() && matches!(self.kind, Kind::Other)
    }
}

/// True if one of several statements may be one that changes the schema: a word of that kind stands somewhere.
fn names_schema_change(text: &[u8]) -> bool {
    let has = |word: &[u8]| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    [&b"create"[..], b"alter", b"drop", b"into"].into_iter().any(has)
}
