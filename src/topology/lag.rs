//! How far a replica has come, from samples of the primary's WAL position. Pure: positions and times in, lags out.
//!
//! A sample (L, T) says: every commit that was acknowledged before T ends at or below L. It is taken by noting T
//! just before the query that answers L is sent. So a replica that has replayed to R has seen everything that was
//! acknowledged before the largest T with L <= R. Samples of one timeline say nothing about another one.

use std::time::Duration;

use super::lsn::Lsn;
use crate::config::model::{Postgres, RoutingOverrides, RoutingSettings};

#[cfg(test)]
mod tests;

/// Samples kept for each cluster and kind.
const CAPACITY: usize = 1024;

/// Bounded samples, strictly growing in position and in time.
#[derive(Debug, Clone)]
pub struct SampleRing {
    samples: Vec<(Lsn, u64)>,
    capacity: usize,
}

impl SampleRing {
    /// Room for `capacity` samples (at least 4).
    pub fn new(capacity: usize) -> Self {
        Self { samples: Vec::new(), capacity: capacity.max(4) }
    }

    /// Adds what the primary answered to a query sent at `asked_ns`. A time that is not later than the last is ignored.
    ///
    /// An older sample at the same or a higher position is superseded: a primary that stands still moves its last
    /// sample on in time, one that lost unflushed WAL in a crash starts again from where it is. When full, every
    /// second sample of the older half is dropped; that makes answers older, never wrong.
    pub fn push(&mut self, position: Lsn, asked_ns: u64) {
        if self.samples.last().is_some_and(|&(_, last)| asked_ns <= last) {
            return;
        }
        while self.samples.last().is_some_and(|&(last, _)| last >= position) {
            self.samples.pop();
        }
        if self.samples.len() >= self.capacity {
            let half = self.samples.len() / 2;
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index > half || index % 2 == 1
            });
        }
        self.samples.push((position, asked_ns));
    }

    /// The largest T whose position `replayed` has reached; `None` when it is behind every sample.
    pub fn caught_up(&self, replayed: Lsn) -> Option<u64> {
        let reached = self.samples.partition_point(|&(position, _)| position <= replayed);
        reached.checked_sub(1).and_then(|last| self.samples.get(last)).map(|&(_, t)| t)
    }

    /// T of the oldest sample.
    pub fn oldest(&self) -> Option<u64> {
        self.samples.first().map(|&(_, t)| t)
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<(Lsn, u64)> {
        self.samples.last().copied()
    }

    /// Number of samples kept.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

/// The end of the last record before an insert position.
///
/// `pg_current_wal_insert_lsn()` names the place of the next record. On a fresh page that lies behind the page's
/// header (24 bytes, 40 on the first page of a segment), where a replica's replay position never stands before
/// that record exists: an idle primary after `pg_switch_wal()` says 0/6000028 and its replicas 0/6000000.
/// Rounding down claims nothing too much: records are at least 24 bytes long, so one that ends 40 bytes into a
/// page began before it, and no replay position lies between the page's start and its end.
pub fn last_record_end(insert: Lsn, wal_block_size: u64) -> Lsn {
    match insert.0.checked_rem(wal_block_size) {
        Some(offset @ (24 | 40)) => Lsn(insert.0 - offset),
        _ => insert,
    }
}

/// What a probe of the primary says about its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Time just before the query was sent.
    pub asked_ns: u64,
    /// Timeline that is written; `None` when the login may not see it.
    pub timeline: Option<u32>,
    /// `pg_current_wal_insert_lsn()`, rounded by [`last_record_end`].
    pub insert: Lsn,
    /// `pg_current_wal_flush_lsn()`.
    pub flush: Lsn,
}

/// What a probe of a replica says about its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Time just before the query was sent.
    pub asked_ns: u64,
    /// Timeline that is replayed; `None` when the login may not see it.
    pub timeline: Option<u32>,
    /// `pg_last_wal_receive_lsn()`
    pub receive: Option<Lsn>,
    /// `pg_last_wal_replay_lsn()`
    pub replay: Option<Lsn>,
    /// Age of the last replayed commit.
    pub commit_age: Option<Duration>,
}

/// How far behind a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// For [`super::model::Freshness`]; 0 when nothing is proven.
    pub caught_up_ns: u64,
    /// Bytes behind the primary's latest sample.
    pub bytes: Option<u64>,
    /// Time since the replica had everything.
    pub time: Option<Duration>,
}

/// The samples of one epoch of one cluster.
#[derive(Debug, Clone)]
pub struct Positions {
    timeline: Option<u32>,
    /// By insert position: what may have been acknowledged, also with `synchronous_commit = off`.
    inserted: SampleRing,
    /// By flush position: what can have been sent. Records that nobody waits for (page pruning by a read) may stay
    /// unflushed for 15 s on an idle primary; they make no replica late.
    flushed: SampleRing,
}

impl Positions {
    /// No sample yet.
    pub fn new() -> Self {
        Self { timeline: None, inserted: SampleRing::new(CAPACITY), flushed: SampleRing::new(CAPACITY) }
    }

    /// Adds an answer of the primary. One of another timeline starts afresh.
    pub fn push(&mut self, written: &Written) {
        if written.timeline != self.timeline {
            *self = Self { timeline: written.timeline, ..Self::new() };
        }
        self.inserted.push(written.insert, written.asked_ns);
        self.flushed.push(written.flush, written.asked_ns);
    }

    /// Whether a replica is known to be on the timeline that the samples belong to.
    pub fn is_followed_by(&self, replica: &Replayed) -> bool {
        replica.timeline.is_some() && replica.timeline == self.timeline
    }

    /// Measures a replica. A newest sample that is older than `recent` (the primary is gone, or cannot be asked)
    /// leaves only what the replica itself knows, and so does the time before the first sample that it has reached.
    pub fn measure(&self, replica: &Replayed, recent: Duration) -> Lag {
        let Some((head, sampled_ns)) = self.inserted.newest() else {
            return Lag { time: replica.own_lag(), ..Lag::default() };
        };
        let Some(replay) = replica.replay.filter(|_| self.is_followed_by(replica)) else {
            return Lag::default();
        };
        let age = Duration::from_nanos(replica.asked_ns.saturating_sub(sampled_ns));
        let since = |t: u64| Duration::from_nanos(replica.asked_ns.saturating_sub(t));
        let time = match self.flushed.caught_up(replay) {
            _ if age > recent => replica.own_lag(),
            Some(t) => Some(since(t)),
            None => self.flushed.oldest().map(since).max(replica.own_lag()),
        };
        Lag { caught_up_ns: self.inserted.caught_up(replay).unwrap_or(0), bytes: Some(head.bytes_since(replay)), time }
    }
}

impl Default for Positions {
    fn default() -> Self {
        Self::new()
    }
}

impl Replayed {
    /// The lag as the replica sees it: none when all that was received is replayed, else the age of the last
    /// replayed commit. The receive position falls back to a segment's start when a receiver restarts, hence `<=`.
    fn own_lag(&self) -> Option<Duration> {
        match (self.receive, self.replay) {
            (Some(receive), Some(replay)) if receive <= replay => Some(Duration::ZERO),
            _ => self.commit_age,
        }
    }
}

/// `max_lag` and `max_lag_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `None` is unlimited.
    pub time: Option<Duration>,
    /// `None` is unlimited.
    pub bytes: Option<u64>,
}

impl Limits {
    /// Those of a pool, or of `[postgres.routing]` itself.
    pub fn of(routing: &RoutingSettings) -> Self {
        Limits { time: routing.max_lag, bytes: routing.max_lag_bytes }
    }

    /// Every other pair of limits that some database or user goes by.
    pub fn others(config: &Postgres) -> Vec<Self> {
        let sets_its_own = |own: &RoutingOverrides| own.max_lag.is_some() || own.max_lag_bytes.is_some();
        let none = RoutingOverrides::default();
        let databases = config.databases.iter().map(|entry| &entry.routing).filter(|own| sets_its_own(own));
        let users: Vec<_> = config.users.iter().map(|entry| &entry.routing).filter(|own| sets_its_own(own)).collect();
        let mut others = Vec::new();
        for database in databases.chain([&none]) {
            for user in users.iter().copied().chain([&none]) {
                let limits = Limits::of(&config.routing.with(database).with(user));
                if limits != Limits::of(&config.routing) && !others.contains(&limits) {
                    others.push(limits);
                }
            }
        }
        others
    }

    /// Why a replica with this lag gets no reads; `None` when it may.
    ///
    /// One that is out has to come below 80 % of a limit to be let in again, so that it does not flap around it.
    pub fn refusal(&self, lag: &Lag, was_fit: bool) -> Option<String> {
        if let Some(limit) = self.time {
            let bar = if was_fit { limit } else { limit.mul_f64(0.8) };
            match lag.time {
                Some(time) if time <= bar => {}
                Some(time) => return Some(format!("{time:.1?} behind, max_lag is {limit:?}")),
                None => return Some(format!("lag is not known, max_lag is {limit:?}")),
            }
        }
        if let Some(limit) = self.bytes {
            let bar = if was_fit { limit } else { limit / 5 * 4 };
            match lag.bytes {
                Some(bytes) if bytes <= bar => {}
                Some(bytes) => {
                    return Some(format!("{bytes} bytes behind, max_lag_bytes is {limit}"));
                }
                // Without a primary nobody can tell bytes; the lag in time still bounds the reads.
                None => {}
            }
        }
        None
    }
}
