//! Why the console refuses something.

use std::borrow::Cow;

use crate::wire::pg::sqlstate::{self, Severity, ToClient};

/// An answer of the console that is an error. The session goes on, unless [`Refusal::is_final`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not a statement of the console.
    Syntax {
        /// The statement, or where it stops making sense.
        near: String,
        /// What is expected there; empty when that is anything.
        expected: &'static str,
    },
    /// A text in another encoding.
    NotUtf8,
    /// `SHOW x`
    UnknownView(String),
    /// `SHOW FDS` and what belongs to later versions.
    NotAvailable {
        /// The command.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A command by somebody who may only look.
    NotAllowed {
        /// The command.
        what: &'static str,
        /// There is no admin at all.
        nobody_is: bool,
    },
    /// No database of this name.
    NoDatabase(String),
    /// No cluster and no Redis service of this name.
    NoService(String),
    /// The console's own database.
    OwnDatabase(&'static str),
    /// No client of this number.
    NoClient(u64),
    /// Not possible as things are.
    WrongState(String),
    /// `SET` of a key, or a node's weight, in the words of who checked it.
    BadValue(String),
    /// An order about a node, in the monitor's words.
    Node(String),
    /// The configuration file, in its reader's words.
    BadConfig(String),
    /// A statement inside a transaction that has failed.
    InFailedTransaction,
    /// `$1`
    Parameters,
    /// No prepared statement of this name.
    NoStatement(String),
    /// No portal of this name.
    NoPortal(String),
    /// A prepared statement of this name is there already.
    StatementExists(String),
    /// So many prepared statements or portals.
    TooMany(usize),
    /// Bytes that are no protocol.
    Protocol(String),
    /// A message longer than so many bytes.
    TooLong(usize),
    /// Ctrl-C.
    Cancelled,
    /// So many sessions of the console.
    TooManySessions(usize),
    /// Not from this machine, and there is no `[[admin.user]]`.
    NotFromHere,
    /// A user, but not of the console.
    NoAdminUser(String),
    /// `KILL_CLIENT`, or the end of the process.
    Ended,
}

impl Refusal {
    /// The session is over with it.
    pub fn is_final(&self) -> bool {
        self.severity() == Severity::Fatal
    }
}

impl ToClient for Refusal {
    fn severity(&self) -> Severity {
        match self {
            Refusal::Protocol(_)
            | Refusal::TooLong(_)
            | Refusal::TooManySessions(_)
            | Refusal::NotFromHere
            | Refusal::NoAdminUser(_)
            | Refusal::Ended => Severity::Fatal,
            _ => Severity::Error,
        }
    }

    fn sqlstate(&self) -> &'static str {
        match self {
            Refusal::Syntax { .. } | Refusal::UnknownView(_) => sqlstate::SYNTAX_ERROR,
            Refusal::NotUtf8 => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            Refusal::NotAvailable { .. } | Refusal::Parameters => sqlstate::FEATURE_NOT_SUPPORTED,
            Refusal::NotAllowed { .. } => sqlstate::INSUFFICIENT_PRIVILEGE,
            Refusal::NoDatabase(_) => sqlstate::INVALID_CATALOG_NAME,
            Refusal::NoClient(_) | Refusal::Node(_) | Refusal::NoService(_) => sqlstate::UNDEFINED_OBJECT,
            Refusal::WrongState(_) | Refusal::OwnDatabase(_) => sqlstate::WRONG_STATE,
            Refusal::BadValue(_) => sqlstate::INVALID_PARAMETER_VALUE,
            Refusal::BadConfig(_) => "F0000",
            Refusal::InFailedTransaction => sqlstate::FAILED_TRANSACTION,
            Refusal::NoStatement(_) => sqlstate::INVALID_STATEMENT_NAME,
            Refusal::NoPortal(_) => sqlstate::INVALID_CURSOR_NAME,
            Refusal::StatementExists(_) => sqlstate::DUPLICATE_STATEMENT,
            Refusal::TooMany(_) | Refusal::TooLong(_) => sqlstate::PROGRAM_LIMIT,
            Refusal::Protocol(_) => sqlstate::PROTOCOL_VIOLATION,
            Refusal::Cancelled => sqlstate::QUERY_CANCELED,
            Refusal::TooManySessions(_) => sqlstate::TOO_MANY_CONNECTIONS,
            Refusal::NotFromHere | Refusal::NoAdminUser(_) => sqlstate::INVALID_AUTHORIZATION,
            Refusal::Ended => sqlstate::ADMIN_SHUTDOWN,
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Refusal::Syntax { near, expected: "" } => format!("invalid command \"{near}\"").into(),
            Refusal::Syntax { near, expected } if near.is_empty() => {
                format!("syntax error at the end: expected {expected}").into()
            }
            Refusal::Syntax { near, expected } => format!("syntax error at \"{near}\": expected {expected}").into(),
            Refusal::NotUtf8 => "invalid byte sequence for encoding \"UTF8\"".into(),
            Refusal::UnknownView(name) => format!("there is no SHOW {name}").into(),
            Refusal::NotAvailable { what, why } => format!("{what} {why}").into(),
            Refusal::NotAllowed { what, .. } => format!("{what} needs an admin").into(),
            Refusal::NoDatabase(name) => format!("no such database: {name}").into(),
            Refusal::NoService(name) => format!("no such service: {name}").into(),
            Refusal::OwnDatabase(what) => format!("{what} is not possible for the console's own database").into(),
            Refusal::NoClient(id) => format!("no client has the id {id}").into(),
            Refusal::WrongState(why) | Refusal::BadValue(why) | Refusal::Node(why) | Refusal::Protocol(why) => {
                Cow::Borrowed(why)
            }
            Refusal::BadConfig(errors) => {
                format!("the configuration was not reloaded, the old one stays in force: {errors}").into()
            }
            Refusal::InFailedTransaction => {
                "current transaction is aborted, commands ignored until end of transaction block".into()
            }
            Refusal::Parameters => "the console takes no parameters".into(),
            Refusal::NoStatement(name) => format!("prepared statement \"{name}\" does not exist").into(),
            Refusal::NoPortal(name) => format!("portal \"{name}\" does not exist").into(),
            Refusal::StatementExists(name) => format!("prepared statement \"{name}\" already exists").into(),
            Refusal::TooMany(most) => format!("a console session can have at most {most} of these").into(),
            Refusal::TooLong(most) => format!("a message to the console has at most {most} bytes").into(),
            Refusal::Cancelled => "canceling statement due to user request".into(),
            Refusal::TooManySessions(most) => format!("the console has {most} sessions already").into(),
            Refusal::NotFromHere => {
                "the console has no users: it is open to connections from its own machine only".into()
            }
            Refusal::NoAdminUser(name) => format!("user \"{name}\" is not a user of the console").into(),
            Refusal::Ended => "terminating connection due to administrator command".into(),
        }
    }

    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Refusal::UnknownView(name) => match super::views::nearest(name) {
                Some(view) => format!("did you mean SHOW {view}? SHOW HELP lists all").into(),
                None => "use SHOW HELP".into(),
            },
            Refusal::Syntax { .. } => "use SHOW HELP".into(),
            Refusal::NotAllowed { nobody_is: false, .. } => "log in as an [[admin.user]] with role = \"admin\"".into(),
            Refusal::NotAllowed { nobody_is: true, .. } => {
                "there is no [[admin.user]] in the configuration: add one with role = \"admin\"".into()
            }
            Refusal::NoDatabase(_) => "SHOW DATABASES lists them".into(),
            Refusal::NoClient(_) => "SHOW CLIENTS lists them, in its last column".into(),
            Refusal::Node(_) => "SHOW NODES lists them".into(),
            Refusal::NoService(_) => "SHOW HA lists them".into(),
            Refusal::Parameters => "write the values into the statement".into(),
            Refusal::NotFromHere | Refusal::NoAdminUser(_) => "add an [[admin.user]] to the configuration".into(),
            Refusal::TooManySessions(_) => "close one, or end one by KILL_CLIENT".into(),
            _ => return None,
        })
    }
}
