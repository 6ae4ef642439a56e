//! Asks servers what became of COMMITs whose answer was lost, and tells the sessions that wait for it.
//!
//! Before a promotion [`super::conductor`] asks the candidate. Here are the other cases: the primary is back, or its
//! connections were lost and it was not, or somebody else has promoted another. Only while somebody waits.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;

use super::agent;
use super::doubt::{self, Doubt, Look, Outcome, Status, Transaction};
use super::record::At;
use super::synchronous::Synchronous;
use crate::topology::link::{Link, position};
use crate::topology::lsn::Lsn;
use crate::topology::model::Workers;
use crate::topology::probe::Target;

/// Between two looks. A server that crashes twice between them would be taken for one that crashed once.
const PACE: Duration = Duration::from_millis(50);

/// The primary in service.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::topology) struct Served {
    pub(in crate::topology) at: At,
    pub(in crate::topology) target: Target,
    pub(in crate::topology) epoch: u64,
}

/// The task of one cluster.
pub(in crate::topology) struct Settler {
    pub(in crate::topology) cluster: String,
    pub(in crate::topology) workers: Arc<dyn Workers>,
    pub(in crate::topology) served: watch::Receiver<Option<Served>>,
}

impl Settler {
    /// Begins to look whenever a session has told that it waits; ends with those who can tell.
    pub(in crate::topology) async fn run(self, mut told: mpsc::UnboundedReceiver<()>) {
        while told.recv().await.is_some() {
            let mut patient = Patient::default();
            loop {
                let doubts = self.workers.in_doubt(&self.cluster).await;
                if doubts.is_empty() {
                    break;
                }
                let served = self.served.borrow().clone();
                if let Some(served) = served {
                    let answers = patient.ask(&served, &doubts).await;
                    // What a primary said that is being replaced meanwhile must reach nobody.
                    if self.served.borrow().as_ref() == Some(&served) {
                        self.workers.settle(&answers);
                    }
                }
                sleep(PACE).await;
            }
        }
    }
}

/// What is kept between two looks at a primary.
#[derive(Default)]
struct Patient {
    link: Option<(Served, Link)>,
    /// Commits that standbys have to confirm, by number: once they have everything up to here.
    unconfirmed: HashMap<u64, Lsn>,
}

impl Patient {
    async fn ask(&mut self, served: &Served, doubts: &[Doubt]) -> Vec<(Doubt, Outcome)> {
        let limit = served.target.timeout;
        let is_usable = |(of, link): &(Served, Link)| of == served && !link.client.is_closed();
        if !self.link.as_ref().is_some_and(is_usable) {
            self.link =
                within(limit, Link::open(served.target.login(), limit)).await.map(|link| (served.clone(), link));
        }
        let mut answers = Vec::new();
        let Some((_, link)) = &self.link else { return answers };
        let Some(recovered) = within(limit, ended(link)).await else {
            self.link = None;
            return answers;
        };
        for doubt in doubts {
            let is_same = doubt.at == served.at;
            // After more than one change of the primary a position proves nothing.
            if served.epoch != doubt.epoch + u64::from(!is_same) {
                answers.push((doubt.clone(), Outcome::Unknown));
                continue;
            }
            let Some(status) = within(limit, status(link, doubt.transaction.xid)).await else { break };
            let mut outcome = doubt::on_primary(&doubt.transaction, Look { is_same, recovered }, status);
            if is_same && outcome == Some(Outcome::Committed) {
                let from = self.unconfirmed.get(&doubt.transaction.xid).copied();
                match within(limit, confirmed(link, from)).await {
                    Some(None) => {}
                    Some(Some(from)) => {
                        self.unconfirmed.insert(doubt.transaction.xid, from);
                        outcome = None;
                    }
                    None => break,
                }
            }
            answers.extend(outcome.map(|outcome| (doubt.clone(), outcome)));
        }
        answers
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Option<T> {
    agent::within(limit, work).await.inspect_err(|why| tracing::debug!(why, "a doubt was not settled")).ok()
}

/// Where a server's last recovery ended, for good or so far.
async fn ended(link: &Link) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let row = link.client.query_one("SELECT pg_catalog.pg_last_wal_replay_lsn()", &[]).await?;
    position(&row, 0)
}

/// What a server says of a transaction.
async fn status(link: &Link, xid: u64) -> Result<Status, tokio_postgres::Error> {
    let asked = link.client.query_one("SELECT pg_catalog.txid_status($1)", &[&xid.cast_signed()]).await;
    let said: Option<String> = match asked {
        Ok(row) => row.try_get(0)?,
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => return Ok(Status::Future),
        Err(error) => return Err(error),
    };
    Ok(match said.as_deref() {
        Some("committed") => Status::Committed,
        Some("aborted") => Status::Aborted,
        Some(_) => Status::InProgress,
        None => Status::Forgotten,
    })
}

/// `None` once the standbys that a commit waits for have everything up to `from`, or if it waits for none; else the
/// position to ask for again. A server that was restarted shows commits for which nobody has waited.
async fn confirmed(link: &Link, from: Option<Lsn>) -> Result<Option<Lsn>, tokio_postgres::Error> {
    let position = from.map(|lsn| PgLsn::from(lsn.0));
    let row = link.client.query_one(CONFIRMED, &[&position]).await?;
    let names: &str = row.try_get(0)?;
    let (have, from): (i64, PgLsn) = (row.try_get(1)?, row.try_get(2)?);
    if names.trim().is_empty() {
        return Ok(None);
    }
    let is_enough =
        Synchronous::read(names).is_some_and(|wanted| usize::try_from(have).is_ok_and(|n| n >= wanted.least));
    Ok((!is_enough).then(|| Lsn(from.into())))
}

const CONFIRMED: &str = "WITH wanted AS (SELECT coalesce($1::pg_catalog.pg_lsn, pg_catalog.pg_current_wal_insert_lsn()) AS lsn) \
     SELECT pg_catalog.current_setting('synchronous_standby_names'), \
     (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication \
      WHERE sync_state IN ('sync', 'quorum') AND flush_lsn >= wanted.lsn), wanted.lsn FROM wanted";

/// What a candidate knows that receives nothing more; `end` is the end of what it has received. Those that it cannot
/// be asked about stay open.
pub(super) async fn ask_candidate(target: &Target, end: Lsn, transactions: &[Transaction]) -> Vec<Option<Outcome>> {
    let judge = |_: &Transaction, replayed: Option<Lsn>, status| {
        doubt::on_candidate(status, replayed.is_some_and(|replayed| replayed >= end))
    };
    ask_once(target, transactions, judge).await
}

/// The same of a node that was promoted just now, and that nobody has written to yet.
pub(super) async fn ask_promoted(target: &Target, transactions: &[Transaction]) -> Vec<Option<Outcome>> {
    let judge = |transaction: &Transaction, recovered, status| {
        doubt::on_primary(transaction, Look { is_same: false, recovered }, status)
    };
    ask_once(target, transactions, judge).await
}

/// Asks about each, and where the node's recovery has ended; `judge` says what that proves.
async fn ask_once(
    target: &Target,
    transactions: &[Transaction],
    judge: impl Fn(&Transaction, Option<Lsn>, Status) -> Option<Outcome>,
) -> Vec<Option<Outcome>> {
    let (limit, mut outcomes) = (target.timeout, vec![None; transactions.len()]);
    let Some(link) = within(limit, Link::open(target.login(), limit)).await else { return outcomes };
    let Some(recovered) = within(limit, ended(&link)).await else { return outcomes };
    for (transaction, outcome) in transactions.iter().zip(&mut outcomes) {
        let Some(status) = within(limit, status(&link, transaction.xid)).await else { break };
        *outcome = judge(transaction, recovered, status);
    }
    outcomes
}
