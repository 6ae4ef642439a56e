//! What can go wrong in a session, in fields; one trait turns it into what the client may read.

use std::borrow::Cow;
use std::io;

use super::backend::Line;
use super::doubt::InDoubt;
use crate::guard::Refused;
use crate::wire::pg::sqlstate::{self, Severity, ToClient};

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client said Terminate.
    Terminated,
    /// The client's socket ended or failed.
    ClientGone,
    /// The server connection ended or failed; the session may go on.
    ServerLost(Box<Trouble>),
    /// The answer of a replica was dropped; the request runs on the primary.
    Rerun,
    /// The connection that the client keeps has to be given its settings before the request at hand.
    Adjust,
    /// The answer of a COMMIT is not given: the client is told what became of it once that is known.
    InDoubt(Box<InDoubt>),
    /// The client goes on in another process.
    Travels,
    /// The client is told, then closed.
    Trouble(Box<Trouble>),
}

/// Something that a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Bytes that are no protocol.
    Protocol(String),
    /// A message that must be held whole does not fit.
    TooLong,
    /// An administrator or the end of the process.
    Ended(&'static str),
    /// `client_idle_timeout`
    IdleTimeout,
    /// `transaction_timeout`
    TransactionTimeout,
    /// `query_timeout`
    QueryTimeout,
    /// `idle_in_transaction_timeout`
    IdleInTransaction,
    /// The queue of the pool is at `queue_length`.
    QueueFull {
        /// `database/user`
        pool: String,
        /// Of the queue.
        length: usize,
    },
    /// `queue_timeout`
    QueueTimeout {
        /// `database/user`
        pool: String,
        /// How long the client waited, ms.
        waited_ms: u64,
        /// Connections in use.
        busy: usize,
        /// Clients in the queue.
        waiting: usize,
        /// Why no connection could be made, if that was it.
        because: Option<String>,
    },
    /// `hold`: there is no primary.
    NoPrimary {
        /// Of the cluster.
        service: String,
        /// How long the client waited, ms.
        waited_ms: u64,
    },
    /// A CancelRequest reached a client in the queue.
    Cancelled,
    /// Only PostgreSQL knows the login (`auth_query`), and cannot be asked; why stands in the log.
    CannotLookUp,
    /// A server refused the login for a reason that time does not mend.
    ServerRefused {
        /// SQLSTATE
        code: String,
        /// The server's words.
        message: String,
    },
    /// A server's error to a statement of ours that the client's settings made.
    ServerSaid {
        /// SQLSTATE
        code: String,
        /// The server's words.
        message: String,
    },
    /// The server closed the connection.
    ServerClosed,
    /// The server ended the connection with this FATAL error.
    ServerEnded {
        /// SQLSTATE
        code: String,
        /// The server's words.
        message: String,
    },
    /// The server has committed without the standbys that it should have waited for.
    NotReplicated,
    /// The connection to the server failed.
    ServerIo(io::ErrorKind),
    /// The server sent bytes that are no protocol.
    ServerNonsense,
    /// A transaction was open; its COMMIT had not been sent.
    TransactionLost(String),
    /// The same with `txn_loss = "error"`: the session goes on, the transaction can be run again.
    TransactionToRepeat(String),
    /// A COMMIT or a write was on its way.
    OutcomeUnknown(String),
    /// A read was on its way; nothing was changed.
    ReadLost(String),
    /// A transaction block in statement mode.
    NoBlocks,
    /// `tls.mode = "require"` and stricter: the user came in clear text.
    NeedsTls(String),
    /// At the door: `[security]`.
    Refused(Refused),
    /// No rule of `pg_hba.conf` lets the client in, in PostgreSQL's words.
    NotAdmitted(String),
    /// `max_clients`
    TooManyClients(usize),
    /// `max_pinned`
    TooManyPinned(usize),
    /// No database answers to this name.
    NoDatabase(String),
    /// `DISABLE`
    Disabled(String),
    /// Or an unknown user: the client is not told which.
    WrongPassword(String),
    /// Where it is sent as it is, and no directory is asked about it.
    EmptyPassword,
    /// An invalid value for a setting of ours.
    BadSetting {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        accepted: &'static str,
    },
    /// A statement of ours in a failed transaction.
    InFailedTransaction,
}

impl Trouble {
    /// The same as an error that leaves the session open.
    pub fn as_error(&self) -> AsError<'_> {
        AsError(self)
    }

    fn words(&self) -> String {
        match self {
            Trouble::ServerClosed => "the server closed the connection".into(),
            Trouble::ServerEnded { message, .. } => message.clone(),
            Trouble::ServerIo(Line::CUT) => {
                "an administrator has taken its node out of service, or another primary has taken its place".into()
            }
            Trouble::ServerIo(kind) => format!("the connection to the server failed ({kind})"),
            Trouble::ServerNonsense => "the server sent an invalid message".into(),
            Trouble::NotReplicated => {
                "the server has committed without the standbys that synchronous_standby_names makes it wait for".into()
            }
            other => other.message().into_owned(),
        }
    }

    /// Why a server was lost, in words for another message.
    pub fn reason(&self) -> String {
        self.words()
    }
}

impl ToClient for Trouble {
    fn severity(&self) -> Severity {
        Severity::Fatal
    }

    fn sqlstate(&self) -> &'static str {
        match self {
            Trouble::Protocol(_) | Trouble::TooLong => sqlstate::PROTOCOL_VIOLATION,
            Trouble::Ended(_) | Trouble::TransactionLost(_) => sqlstate::ADMIN_SHUTDOWN,
            Trouble::IdleTimeout => "57P05",
            Trouble::TransactionTimeout => "25P04",
            Trouble::QueryTimeout | Trouble::Cancelled => "57014",
            Trouble::IdleInTransaction => "25P03",
            Trouble::QueueFull { .. } => "53300",
            Trouble::QueueTimeout { .. } | Trouble::NoPrimary { .. } | Trouble::CannotLookUp => "57P03",
            Trouble::ServerRefused { code, .. }
            | Trouble::ServerSaid { code, .. }
            | Trouble::ServerEnded { code, .. } => known(code),
            Trouble::ServerClosed | Trouble::ServerIo(_) | Trouble::ReadLost(_) => "08006",
            Trouble::ServerNonsense => sqlstate::PROTOCOL_VIOLATION,
            Trouble::TransactionToRepeat(_) => "40001",
            Trouble::OutcomeUnknown(_) | Trouble::NotReplicated => "08007",
            Trouble::NoBlocks => "0A000",
            Trouble::Refused(why) if why.is_about_the_address() => "28000",
            Trouble::Refused(_) => "53300",
            Trouble::NeedsTls(_) | Trouble::NotAdmitted(_) => "28000",
            Trouble::TooManyClients(_) => "53300",
            Trouble::TooManyPinned(_) => "53400",
            Trouble::NoDatabase(_) | Trouble::Disabled(_) => "3D000",
            Trouble::WrongPassword(_) | Trouble::EmptyPassword => "28P01",
            Trouble::BadSetting { .. } => "22023",
            Trouble::InFailedTransaction => "25P02",
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Trouble::Protocol(what) | Trouble::NotAdmitted(what) => Cow::Borrowed(what),
            Trouble::TooLong => "a message of this type is too long".into(),
            Trouble::Ended(why) => (*why).into(),
            Trouble::IdleTimeout => "terminating connection due to client_idle_timeout".into(),
            Trouble::TransactionTimeout => "terminating connection due to transaction_timeout".into(),
            Trouble::QueryTimeout => "canceling statement due to query_timeout".into(),
            Trouble::IdleInTransaction => "terminating connection due to idle_in_transaction_timeout".into(),
            Trouble::QueueFull { pool, length } => {
                format!("pool \"{pool}\": no server connection is free and the queue is full ({length} waiting)").into()
            }
            Trouble::QueueTimeout { pool, waited_ms, busy, waiting, because } => {
                let because = because.as_ref().map(|b| format!(": {b}")).unwrap_or_default();
                format!(
                    "pool \"{pool}\": no server connection within {} ({busy} busy, {waiting} waiting){because}",
                    seconds(*waited_ms)
                )
                .into()
            }
            Trouble::NoPrimary { service, waited_ms } => {
                format!("cluster \"{service}\" has no primary (waited {})", seconds(*waited_ms)).into()
            }
            Trouble::Cancelled => "canceling statement due to user request".into(),
            Trouble::ServerRefused { message, .. } => format!("server login failed: {message}").into(),
            Trouble::ServerSaid { message, .. } | Trouble::ServerEnded { message, .. } => Cow::Borrowed(message),
            Trouble::ServerClosed | Trouble::ServerIo(_) | Trouble::ServerNonsense | Trouble::NotReplicated => {
                self.words().into()
            }
            Trouble::TransactionLost(why) => {
                format!("terminating connection due to the loss of the server: {why}").into()
            }
            Trouble::TransactionToRepeat(why) => {
                format!("the transaction was lost with its server connection: {why}").into()
            }
            Trouble::OutcomeUnknown(why) => format!(
                "the connection to the server was lost, and it is not known whether the statement took effect: {why}"
            )
            .into(),
            Trouble::ReadLost(why) => format!("the connection to the server was lost: {why}").into(),
            Trouble::NoBlocks => "transaction blocks are not allowed in statement pooling mode".into(),
            Trouble::NeedsTls(user) => format!("user \"{user}\" may not log in without TLS").into(),
            Trouble::Refused(why) => why.to_string().into(),
            Trouble::TooManyClients(max) => format!("no more connections allowed (max_clients = {max})").into(),
            Trouble::TooManyPinned(max) => {
                format!("no more clients may keep a server connection (pool.max_pinned = {max})").into()
            }
            Trouble::CannotLookUp => "the login cannot be looked up now".into(),
            Trouble::NoDatabase(name) => format!("database \"{name}\" does not exist").into(),
            Trouble::Disabled(name) => format!("database \"{name}\" is disabled").into(),
            Trouble::WrongPassword(user) => format!("password authentication failed for user \"{user}\"").into(),
            Trouble::EmptyPassword => "empty password returned by client".into(),
            Trouble::BadSetting { name, value, .. } => {
                format!("invalid value for parameter \"{name}\": \"{value}\"").into()
            }
            Trouble::InFailedTransaction => {
                "current transaction is aborted, commands ignored until end of transaction block".into()
            }
        }
    }

    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Trouble::QueueFull { .. } => "raise pool.queue_length or pool.size".into(),
            Trouble::QueueTimeout { because: None, .. } => "raise pool.size or queue_timeout".into(),
            Trouble::QueueTimeout { .. } => "see SHOW NODES in the admin console".into(),
            Trouble::NoPrimary { .. } => "see SHOW NODES in the admin console; clients wait for failover.hold".into(),
            Trouble::TransactionLost(_) | Trouble::TransactionToRepeat(_) => {
                "the transaction was not committed; it can be run again".into()
            }
            Trouble::OutcomeUnknown(_) => "check whether the change is there before running it again".into(),
            Trouble::ReadLost(_) => "nothing was changed; the statement can be run again".into(),
            Trouble::NeedsTls(_) => "use sslmode=require or stricter".into(),
            Trouble::CannotLookUp => "try again; Forebay's log says why".into(),
            Trouble::TooManyClients(_) => "raise postgres.max_clients".into(),
            Trouble::TooManyPinned(_) => {
                "see SHOW PINS in the admin console; raise pool.max_pinned and pool.size".into()
            }
            Trouble::NoBlocks => "use pool.mode = \"transaction\" for this database or user".into(),
            Trouble::BadSetting { accepted, .. } => format!("accepted are {accepted}").into(),
            _ => return None,
        })
    }
}

/// A [`Trouble`] that leaves the session open.
pub struct AsError<'a>(&'a Trouble);

impl ToClient for AsError<'_> {
    fn severity(&self) -> Severity {
        Severity::Error
    }
    fn sqlstate(&self) -> &'static str {
        self.0.sqlstate()
    }
    fn message(&self) -> Cow<'_, str> {
        self.0.message()
    }
    fn hint(&self) -> Option<Cow<'_, str>> {
        self.0.hint()
    }
}

pub(super) fn seconds(ms: u64) -> String {
    if ms >= 1000 && ms % 1000 < 100 {
        format!("{}s", ms / 1000)
    } else {
        format!("{}.{}s", ms / 1000, ms % 1000 / 100)
    }
}

/// The server's SQLSTATE as a constant; an unknown one is passed on by its class.
fn known(code: &str) -> &'static str {
    const CODES: &[&str] = &[
        "08000", "08001", "08003", "08004", "08006", "08P01", "0A000", "22023", "22P02", "25P02", "28000", "28P01",
        "3D000", "42501", "42602", "42704", "42P02", "53100", "53200", "53300", "53400", "55P02", "57014", "57P01",
        "57P02", "57P03", "57P04", "57P05", "58000", "XX000",
    ];
    CODES.iter().find(|c| **c == code).copied().unwrap_or("08000")
}
