//! What becomes of COMMITs whose answers were lost with a primary, asked of the one that takes its place.

use super::conductor::Conductor;
use super::doubt::{Doubt, Outcome, Settled, Transaction};
use super::record::{Job, Record};
use super::settler::{ask_candidate, ask_promoted};

impl Conductor {
    /// What the candidate knows of the COMMITs that the old primary will not answer any more.
    pub(super) async fn resolve(&self, record: &Record) -> Vec<Settled> {
        let promotion = record.job.as_ref().and_then(Job::promotion);
        let Some((candidate, from)) = promotion.filter(|_| self.resolves) else { return Vec::new() };
        let mut transactions = self.own_doubts(record).await;
        transactions.extend(self.led.iter().flat_map(|led| led.heard_doubts()));
        let target = self.party(candidate).map(|party| &party.target);
        let outcomes = match target.filter(|_| !transactions.is_empty()) {
            Some(target) => ask_candidate(target, from, &transactions).await,
            None => vec![None; transactions.len()],
        };
        settled(&transactions, outcomes)
    }

    /// COMMITs to the primary of this record whose clients wait here to hear what became of them.
    pub(super) async fn own_doubts(&self, record: &Record) -> Vec<Transaction> {
        let mut transactions: Vec<Transaction> = Vec::new();
        for doubt in self.workers.in_doubt(&self.cluster).await {
            if doubt.at == record.primary && doubt.epoch == record.epoch {
                transactions.push(doubt.transaction);
            }
        }
        transactions
    }

    /// The same of the new primary, about those that the candidate could not tell for certain.
    pub(super) async fn resolve_rest(&self, record: &mut Record) {
        let open: Vec<Transaction> =
            record.in_doubt.iter().filter(|known| known.outcome.is_none()).map(|known| known.transaction).collect();
        let target = self.party(&record.primary).map(|party| &party.target);
        let Some(target) = target.filter(|_| !open.is_empty()) else { return };
        let outcomes = ask_promoted(target, &open).await;
        record.in_doubt.retain(|known| known.outcome.is_some());
        // Asked later it could only be believed less.
        let outcomes = outcomes.into_iter().map(|outcome| outcome.or(Some(Outcome::Unknown))).collect();
        record.in_doubt.extend(settled(&open, outcomes));
    }

    /// Tells the clients what the record says.
    pub(super) fn settle(&self, old: &Record, new: &Record) {
        let answer = |known: &Settled| {
            let (at, transaction) = (old.primary.clone(), known.transaction);
            let doubt = Doubt { cluster: self.cluster.clone(), at, epoch: old.epoch, transaction };
            Some((doubt, known.outcome?))
        };
        let answers: Vec<(Doubt, Outcome)> = new.in_doubt.iter().filter_map(answer).collect();
        self.workers.settle(&answers);
        if !answers.is_empty() {
            let count = |wanted| answers.iter().filter(|(_, outcome)| *outcome == wanted).count();
            let detail = format!(
                "{} committed, {} rolled back, {} unknown",
                count(Outcome::Committed),
                count(Outcome::RolledBack),
                count(Outcome::Unknown)
            );
            self.report(new, "commits_resolved", &self.name(&new.primary), &detail);
        }
    }
}

fn settled(transactions: &[Transaction], outcomes: Vec<Option<Outcome>>) -> Vec<Settled> {
    let both = transactions.iter().zip(outcomes);
    both.map(|(transaction, outcome)| Settled { transaction: *transaction, outcome }).collect()
}
