//! COMMITs whose answer was lost: what is known of each, and when that proves what became of it. Pure.
//!
//! A transaction's number (64 bits, with its epoch) means that transaction only for as long as every server that is
//! asked has seen it: after a crash or a promotion a number that was lost is given to another transaction. Hence the
//! positions. Whatever cannot be proved is [`Outcome::Unknown`], or not decided yet.

use serde::{Deserialize, Serialize};

use super::record::At;
use crate::topology::lsn::Lsn;

/// A transaction that has written something, as its server told before the COMMIT was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// Of the top level, `txid_current_if_assigned()`.
    pub xid: u64,
    /// Its first record is before this position, its commit record cannot be.
    pub written: Lsn,
    /// Where the server's last recovery had ended, `pg_last_wal_replay_lsn()`: another one when it crashes.
    pub recovered: Option<Lsn>,
}

/// A COMMIT that was sent and whose answer is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The cluster's name.
    pub cluster: String,
    /// The primary that it was sent to, and the epoch in which that was the primary.
    pub at: At,
    /// See `at`.
    pub epoch: u64,
    /// Of which transaction.
    pub transaction: Transaction,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is on the primary of now.
    Committed,
    /// It is not, and never will be.
    RolledBack,
    /// Nothing proves either.
    Unknown,
}

/// A transaction in doubt with what is known of it by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// Which.
    pub transaction: Transaction,
    /// `None`: the promoted node has to be asked again once it is the primary.
    pub outcome: Option<Outcome>,
}

/// What a server says of a transaction's number, `txid_status()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `committed`
    Committed,
    /// `aborted`
    Aborted,
    /// `in progress`
    InProgress,
    /// Error 22023: not given to anybody yet.
    Future,
    /// NULL: too long ago.
    Forgotten,
}

/// A primary that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// It is the node that the COMMIT was sent to.
    pub is_same: bool,
    /// Where its last recovery, or its life as a standby, ended; `None` if it began without one.
    pub recovered: Option<Lsn>,
}

/// What a candidate proves that receives nothing more and is not promoted yet. `is_complete`: it has replayed everything
/// that it will ever replay.
pub fn on_candidate(status: Status, is_complete: bool) -> Option<Outcome> {
    match status {
        Status::Committed => Some(Outcome::Committed),
        // A promotion ends whatever has no commit record.
        Status::Aborted | Status::InProgress | Status::Future if is_complete => Some(Outcome::RolledBack),
        Status::Aborted | Status::InProgress | Status::Future => None,
        Status::Forgotten => Some(Outcome::Unknown),
    }
}

/// What a primary proves, looked at for the first time since it took writes again. `None`: later, perhaps.
pub fn on_primary(transaction: &Transaction, look: Look, status: Status) -> Option<Outcome> {
    let knows = match (look.is_same, look.recovered) {
        // The same life as before, or an orderly restart since, which loses nothing.
        (true, end) if end == transaction.recovered || end.is_none() => true,
        // The log went on from here: the commit record, if there was one, was cut off.
        (_, Some(end)) if end <= transaction.written => return Some(Outcome::RolledBack),
        (_, Some(_)) => true,
        (_, None) => false,
    };
    match status {
        _ if !knows => Some(Outcome::Unknown),
        Status::Committed => Some(Outcome::Committed),
        Status::Aborted => Some(Outcome::RolledBack),
        Status::InProgress => None,
        Status::Future | Status::Forgotten => Some(Outcome::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: Transaction = Transaction { xid: 700, written: Lsn(1000), recovered: Some(Lsn(90)) };

    fn asked(is_same: bool, recovered: Option<u64>, status: Status) -> Option<Outcome> {
        on_primary(&TRANSACTION, Look { is_same, recovered: recovered.map(Lsn) }, status)
    }

    #[test]
    fn a_frozen_candidate_that_has_replayed_all_proves_both_outcomes() {
        use Status::*;
        assert_eq!(on_candidate(Committed, true), Some(Outcome::Committed));
        for lost in [Aborted, InProgress, Future] {
            assert_eq!(on_candidate(lost, true), Some(Outcome::RolledBack), "{lost:?}");
            assert_eq!(on_candidate(lost, false), None, "{lost:?}: its commit may be among what is still replayed");
        }
        assert_eq!(on_candidate(Committed, false), Some(Outcome::Committed));
        assert_eq!(on_candidate(Forgotten, true), Some(Outcome::Unknown));
    }

    #[test]
    fn a_number_that_was_lost_is_not_believed_when_another_transaction_has_it() {
        for status in [Status::Committed, Status::Aborted, Status::InProgress, Status::Future] {
            for end in [90, 999, 1000] {
                assert_eq!(asked(false, Some(end), status), Some(Outcome::RolledBack), "fork at {end}, {status:?}");
            }
        }
        assert_eq!(asked(true, Some(1000), Status::Committed), Some(Outcome::RolledBack), "after a crash");
    }

    #[test]
    fn a_number_that_was_seen_is_believed() {
        assert_eq!(asked(false, Some(1001), Status::Committed), Some(Outcome::Committed));
        assert_eq!(asked(false, Some(1001), Status::Aborted), Some(Outcome::RolledBack));
        assert_eq!(asked(true, Some(1001), Status::Committed), Some(Outcome::Committed));
    }

    #[test]
    fn the_same_server_is_believed_and_asked_until_the_transaction_has_ended() {
        assert_eq!(asked(true, Some(90), Status::InProgress), None);
        assert_eq!(asked(true, Some(90), Status::Committed), Some(Outcome::Committed));
        assert_eq!(asked(true, None, Status::Committed), Some(Outcome::Committed), "an orderly restart");
        assert_eq!(asked(true, None, Status::Aborted), Some(Outcome::RolledBack));
    }

    #[test]
    fn what_nothing_proves_stays_unknown() {
        assert_eq!(asked(false, None, Status::Committed), Some(Outcome::Unknown), "its fork is not known");
        assert_eq!(asked(true, Some(90), Status::Future), Some(Outcome::Unknown));
        assert_eq!(asked(false, Some(2000), Status::Forgotten), Some(Outcome::Unknown));
    }
}
