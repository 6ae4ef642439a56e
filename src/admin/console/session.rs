//! One session: reads messages, runs statements, writes answers. The extended protocol is in `extended`.

use std::collections::HashMap;
use std::sync::Arc;

use super::extended::{Portal, Prepared};
use super::{LONGEST, PATIENCE, encode};
use crate::admin::drivers;
use crate::admin::run::{Answer, Caller, Notice, execute};
use crate::admin::statement::{self, Statement, Transaction};
use crate::admin::{Refusal, run};
use crate::net::Stream;
use crate::ops::Instance;
use crate::pg::consoles::Bells;
use crate::pg::registry::ClientState;
use crate::wire::pg::build;
use crate::wire::pg::frame::{HEAD, Head, head};
use crate::wire::pg::message::{self, TransactionStatus};
use crate::wire::pg::sqlstate::{self, write_error};
use crate::worker::clock::now_ns;

/// Unsent bytes above which an answer is sent before more of it is made.
const ENOUGH: usize = 64 * 1024;

/// The client is gone, or was told its last words.
pub(super) struct Over;

/// See the module.
pub(super) struct Session {
    instance: Arc<Instance>,
    pub(super) caller: Caller,
    bells: Bells,
    id: u64,
    stream: Stream,
    input: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) status: TransactionStatus,
    /// An error was answered: nothing more up to the next Sync.
    pub(super) skips: bool,
    pub(super) statements: HashMap<Vec<u8>, Arc<Prepared>>,
    pub(super) portals: HashMap<Vec<u8>, Portal>,
    sent: u64,
}

impl Session {
    pub(super) fn new(
        instance: Arc<Instance>,
        caller: Caller,
        bells: Bells,
        id: u64,
        stream: Stream,
        input: Vec<u8>,
        greeting: Vec<u8>,
    ) -> Self {
        Session {
            instance,
            caller,
            bells,
            id,
            stream,
            input,
            out: greeting,
            status: TransactionStatus::Idle,
            skips: false,
            statements: HashMap::new(),
            portals: HashMap::new(),
            sent: 0,
        }
    }

    /// Runs to its end.
    pub(super) async fn run(mut self) {
        while self.step().await.is_ok() {}
        // Last words, if there are any.
        let _ = self.flush().await;
    }

    /// One message.
    async fn step(&mut self) -> Result<(), Over> {
        let len = match head(&self.input) {
            Head::Bad(bad) => return self.fatal(&Refusal::Protocol(bad.to_string())),
            Head::Frame { len, .. } if len > LONGEST => return self.fatal(&Refusal::TooLong(LONGEST)),
            Head::Frame { len, .. } if self.input.len() >= len => len,
            Head::Frame { .. } | Head::Need => return self.read_more().await,
        };
        let rest = self.input.split_off(len);
        let frame = std::mem::replace(&mut self.input, rest);
        self.instance.shared.consoles.update(self.id, |_, totals| totals.received += len as u64);
        let kind = frame.first().copied().unwrap_or_default();
        let body = frame.get(HEAD..).unwrap_or_default();
        match kind {
            b'X' => Err(Over),
            b'Q' => self.query(body).await,
            b'S' => {
                self.skips = false;
                if self.status == TransactionStatus::Idle {
                    self.portals.clear();
                }
                self.ready();
                self.flush().await
            }
            b'p' => self.fatal(&Refusal::Protocol("unexpected password message after login".to_owned())),
            // Copy data after a COPY that failed is ignored by servers too.
            b'd' | b'c' | b'f' => Ok(()),
            _ if self.skips => Ok(()),
            b'H' => self.flush().await,
            b'F' => {
                self.refuse(&Refusal::NotAvailable {
                    what: "the function call message",
                    why: "is not for the console",
                });
                self.ready();
                Ok(())
            }
            kind => match self.extended(kind, body).await? {
                Ok(()) => Ok(()),
                Err(refusal) => {
                    self.skips = true;
                    self.refuse(&refusal);
                    if refusal.is_final() { Err(Over) } else { Ok(()) }
                }
            },
        }
    }

    /// Everything that was answered is sent before the client is waited for.
    async fn read_more(&mut self) -> Result<(), Over> {
        self.flush().await?;
        let mut chunk = [0; 4096];
        let read = tokio::select! {
            read = self.stream.read(&mut chunk) => read,
            () = self.bells.end.notified() => return self.fatal(&Refusal::Ended),
        };
        match read {
            Ok(n) if n > 0 => {
                self.input.extend_from_slice(chunk.get(..n).unwrap_or_default());
                Ok(())
            }
            _ => Err(Over),
        }
    }

    /// Sends what was answered.
    pub(super) async fn flush(&mut self) -> Result<(), Over> {
        while !self.out.is_empty() {
            let n = self.out.len().min(ENOUGH);
            let part = self.out.get(..n).unwrap_or_default();
            match tokio::time::timeout(PATIENCE, self.stream.write_all(part)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(self.give_up()),
                Err(_) => {
                    tracing::info!(
                        session_id = self.id,
                        user = self.caller.name,
                        "a client of the console does not take its answer: closed"
                    );
                    return Err(self.give_up());
                }
            }
            self.out.drain(..n);
            self.sent += n as u64;
        }
        // The room for a large answer is not kept for the session's life.
        self.out.shrink_to(ENOUGH);
        let sent = std::mem::take(&mut self.sent);
        self.instance.shared.consoles.update(self.id, |_, totals| totals.sent += sent);
        Ok(())
    }

    fn give_up(&mut self) -> Over {
        self.out.clear();
        Over
    }

    /// True if an answer should be sent before it is continued.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= ENOUGH
    }

    fn fatal(&mut self, refusal: &Refusal) -> Result<(), Over> {
        write_error(&mut self.out, refusal);
        Err(Over)
    }

    /// Answers with an error. A transaction has failed with it.
    fn refuse(&mut self, refusal: &Refusal) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
        write_error(&mut self.out, refusal);
    }

    fn ready(&mut self) {
        build::ready_for_query(&mut self.out, self.status);
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), Over> {
        let done = self.query_text(body).await?;
        if let Err(refusal) = done {
            self.refuse(&refusal);
            if refusal.is_final() {
                return Err(Over);
            }
        }
        self.ready();
        self.flush().await
    }

    async fn query_text(&mut self, body: &[u8]) -> Result<Result<(), Refusal>, Over> {
        let text = match message::query(body) {
            Ok(text) => text,
            Err(bad) => return Ok(Err(Refusal::Protocol(bad.to_string()))),
        };
        let statements = match parse(text) {
            Ok(statements) => statements,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if statements.is_empty() {
            build::empty_query_response(&mut self.out);
        }
        for statement in &statements {
            let answer = match self.answer(statement).await? {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Err(refusal)),
            };
            self.before(&answer);
            if let Some(table) = &answer.table {
                encode::row_description(&mut self.out, &table.columns, &[]);
                for row in &table.rows {
                    encode::data_row(&mut self.out, &table.columns, &[], row);
                    if self.is_full() {
                        self.flush().await?;
                    }
                }
            }
            build::command_complete(&mut self.out, &answer.tag);
        }
        Ok(Ok(()))
    }

    /// What is sent before an answer's rows.
    pub(super) fn before(&mut self, answer: &Answer) {
        for notice in &answer.notices {
            encode::notice(&mut self.out, notice);
        }
        for (name, value) in &answer.parameters {
            build::parameter_status(&mut self.out, name.as_bytes(), value.as_bytes());
        }
    }

    /// Runs a statement, and sees to the state of the session that it changes. Ends early when the client leaves, when
    /// somebody ends the session, or at Ctrl-C.
    pub(super) async fn answer(&mut self, statement: &Statement) -> Result<Result<Answer, Refusal>, Over> {
        if let Statement::Transaction(what) = statement {
            return Ok(self.transaction(*what));
        }
        if self.status == TransactionStatus::Failed {
            return Ok(Err(Refusal::InFailedTransaction));
        }
        if let Statement::Deallocate(name) = statement
            && let Err(refusal) = self.deallocate(name.as_deref())
        {
            return Ok(Err(refusal));
        }
        let began = now_ns();
        self.show_state(ClientState::Active, began);
        // Answers that are complete are not held back by a statement that waits, and a client that sends many at once
        // does not keep the control thread to itself.
        self.flush().await?;
        tokio::task::yield_now().await;
        let Session { instance, caller, stream, input, bells, .. } = self;
        let done = tokio::select! {
            biased;
            answer = execute(instance, caller, statement) => Some(answer),
            () = bells.cancel.notified() => Some(Err(Refusal::Cancelled)),
            () = bells.end.notified() => Some(Err(Refusal::Ended)),
            () = gone(stream, input) => None,
        };
        let now = now_ns();
        self.show_state(ClientState::Idle, now);
        let application_name = drivers::value(&self.caller, "application_name");
        let prepared = self.statements.len();
        self.instance.shared.consoles.update(self.id, |client, totals| {
            client.application_name = application_name;
            client.prepared = prepared;
            totals.queries += 1;
            totals.xacts += 1;
            totals.query_time += now - began;
            totals.xact_time += now - began;
        });
        done.ok_or(Over)
    }

    fn show_state(&self, state: ClientState, since: u64) {
        self.instance.shared.consoles.update(self.id, |client, _| {
            client.state = state;
            client.since = since;
        });
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        match name {
            Some(name) => {
                let found = self.statements.remove(name.as_bytes());
                found.map(drop).ok_or_else(|| Refusal::NoStatement(name.to_owned()))
            }
            None => {
                self.statements.clear();
                Ok(())
            }
        }
    }

    /// Transactions change nothing but what ReadyForQuery says, which drivers go by.
    fn transaction(&mut self, what: Transaction) -> Result<Answer, Refusal> {
        use TransactionStatus::{Failed, Idle, InTransaction};
        let no_transaction = || Notice::warning("25P01", "there is no transaction in progress");
        let mut answer = run::plain(what);
        match (what, self.status) {
            (Transaction::Begin | Transaction::StartTransaction, Idle) => self.status = InTransaction,
            (Transaction::Begin | Transaction::StartTransaction, InTransaction) => {
                let notice =
                    Notice::warning(sqlstate::ACTIVE_TRANSACTION, "there is already a transaction in progress");
                answer = answer.with(notice);
            }
            (Transaction::Commit | Transaction::Rollback, Idle) => answer = answer.with(no_transaction()),
            (Transaction::Commit, Failed) => {
                self.status = Idle;
                answer = run::plain(Transaction::Rollback);
            }
            (Transaction::Commit | Transaction::Rollback, _) => self.status = Idle,
            (Transaction::RollbackTo, Failed) => self.status = InTransaction,
            (Transaction::Savepoint | Transaction::Release | Transaction::RollbackTo, Idle) => {
                return Err(Refusal::WrongState(format!("{} can only be used in transaction blocks", answer.tag)));
            }
            (_, Failed) => return Err(Refusal::InFailedTransaction),
            (_, InTransaction) => {}
        }
        Ok(answer)
    }
}

/// Reads a text that must be UTF-8.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Statement>, Refusal> {
    let text = std::str::from_utf8(text).map_err(|_| Refusal::NotUtf8)?;
    statement::parse(text)
}

/// Ends when the client has left. What it sends ahead is kept, up to one message.
async fn gone(stream: &mut Stream, input: &mut Vec<u8>) {
    let mut chunk = [0; 4096];
    loop {
        if input.len() >= LONGEST {
            // Whether it is still there is found out after the statement.
            std::future::pending::<()>().await;
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => input.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            _ => return,
        }
    }
}
