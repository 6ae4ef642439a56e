//! One statement and its answer, without any protocol: the console's sessions and the HTTP interface come here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::errors::Refusal;
use super::facts::Facts;
use super::statement::command::Command;
use super::statement::{Statement, Transaction};
use super::table::{Column, Kind, Table, row};
use super::{Rights, commands, drivers, help, route, together};
use crate::ops::Instance;
use crate::wire::pg::sqlstate::Severity;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Login name, for events and the log.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
    /// The name by which it called the console's database.
    pub database: String,
    /// As told in BackendKeyData; 0 if it was not.
    pub process_id: i32,
    /// Another instance passes on what an admin has ordered there.
    pub(super) is_instance: bool,
    pub(super) parameters: BTreeMap<&'static str, String>,
}

impl Caller {
    /// Somebody who has proved to be `name`.
    pub fn new(name: &str, rights: Rights, database: &str) -> Self {
        Caller {
            name: name.to_owned(),
            rights,
            database: database.to_owned(),
            process_id: 0,
            is_instance: false,
            parameters: BTreeMap::new(),
        }
    }
}

/// What a statement is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Rows, if the statement has any.
    pub table: Option<Table>,
    /// The command tag.
    pub tag: Cow<'static, str>,
    /// Messages beside it.
    pub notices: Vec<Notice>,
    /// Session parameters that have changed.
    pub parameters: Vec<(&'static str, String)>,
}

/// A message beside an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// NOTICE or WARNING.
    pub severity: Severity,
    /// SQLSTATE
    pub code: &'static str,
    /// One line.
    pub message: String,
    /// More.
    pub detail: Option<String>,
}

impl Notice {
    /// Something good to know.
    pub(super) fn info(message: impl Into<String>) -> Self {
        Notice { severity: Severity::Notice, code: "00000", message: message.into(), detail: None }
    }

    /// Something to look at.
    pub(super) fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Notice { severity: Severity::Warning, code, message: message.into(), detail: None }
    }
}

impl Answer {
    /// Done, and nothing to show.
    pub(super) fn done(tag: impl Into<Cow<'static, str>>) -> Self {
        Answer { tag: tag.into(), ..Answer::default() }
    }

    /// Rows.
    pub(super) fn rows(tag: impl Into<Cow<'static, str>>, table: Table) -> Self {
        Answer { table: Some(table), ..Answer::done(tag) }
    }

    pub(super) fn with(self, notice: Notice) -> Self {
        self.beside(Some(notice))
    }

    pub(super) fn beside(mut self, notice: Option<Notice>) -> Self {
        self.notices.extend(notice);
        self
    }
}

/// The columns that a statement answers with, `None` if it has no rows.
pub(super) fn columns(statement: &Statement) -> Option<Cow<'static, [Column]>> {
    Some(match statement {
        Statement::Show(view) => Cow::Borrowed(view.columns),
        Statement::Parameter(name) => Cow::Owned(vec![Column { name: name.clone().into(), kind: Kind::Text }]),
        Statement::Select(items) => drivers::columns(items),
        Statement::ExplainRoute { .. } => Cow::Borrowed(route::COLUMNS),
        Statement::Command(Command::Upgrade) => Cow::Borrowed(commands::upgrade::COLUMNS),
        _ => return None,
    })
}

/// Runs one statement.
///
/// May wait for long (`PAUSE`). Cancel-safe: what was begun and not finished is taken back.
///
/// # Errors
/// Why it was not run, or not to its end.
pub async fn execute(instance: &Arc<Instance>, caller: &mut Caller, statement: &Statement) -> Result<Answer, Refusal> {
    match statement {
        Statement::Show(view) => {
            let facts = Facts::gather(instance, view.needs).await;
            let table = Table { columns: Cow::Borrowed(view.columns), rows: (view.rows)(&facts) };
            let answer = Answer::rows("SHOW", table);
            Ok(if view.name == "HELP" { answer.with(help::notice()) } else { answer })
        }
        Statement::Parameter(name) => {
            let rows = vec![row![drivers::value(caller, name)]];
            Ok(Answer::rows("SHOW", Table { columns: columns(statement).unwrap_or_default(), rows }))
        }
        Statement::Select(items) => Ok(Answer::rows("SELECT 1", drivers::select(caller, items))),
        Statement::Set { name, value } => {
            let told = drivers::set(caller, name, value.as_deref()).map_err(Refusal::BadValue)?;
            let tag = if value.is_some() { "SET" } else { "RESET" };
            Ok(Answer { parameters: told.into_iter().collect(), ..Answer::done(tag) })
        }
        Statement::Transaction(what) => Ok(plain(*what)),
        Statement::Nothing(tag @ ("RESET" | "DISCARD ALL")) => {
            Ok(Answer { parameters: drivers::reset_all(caller), ..Answer::done(*tag) })
        }
        Statement::Nothing(tag) => Ok(Answer::done(*tag)),
        Statement::Deallocate(None) => Ok(Answer::done("DEALLOCATE ALL")),
        Statement::Deallocate(Some(_)) => Ok(Answer::done("DEALLOCATE")),
        Statement::ExplainRoute { database, text } => {
            Ok(Answer::rows("EXPLAIN", route::explain(instance, database.as_deref(), text)?))
        }
        Statement::Command(command) => {
            let what = command.name();
            match caller.rights {
                Rights::Admin => match &instance.coordination {
                    Some(others) if !caller.is_instance => together::run(instance, others, caller, command).await,
                    _ => commands::run(instance, caller, command).await,
                },
                rights => Err(Refusal::NotAllowed { what, nobody_is: rights == Rights::NobodyIsAdmin }),
            }
        }
    }
}

/// The answer to a beginning or an end of a transaction.
pub(super) fn plain(what: Transaction) -> Answer {
    Answer::done(tag_of(what))
}

/// PostgreSQL's command tag.
fn tag_of(what: Transaction) -> &'static str {
    match what {
        Transaction::Begin => "BEGIN",
        Transaction::StartTransaction => "START TRANSACTION",
        Transaction::Commit => "COMMIT",
        Transaction::Rollback | Transaction::RollbackTo => "ROLLBACK",
        Transaction::Savepoint => "SAVEPOINT",
        Transaction::Release => "RELEASE",
    }
}
