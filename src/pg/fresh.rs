//! Which replicas show what a client has to see: its own writes, and what it has been told of by others.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::backend::Backend;
use super::core::Core;
use super::errors::Trouble;
use super::pool::PgPool;
use super::registry::{ClientState, Order};
use super::session::{Pause, Session, Stage};
use super::stats::add;
use crate::config::model::{Consistency, ListenRoute};
use crate::pool::Class;
use crate::sql::Hint;
use crate::topology::{Limits, Lsn, State, last_record_end};
use crate::worker::clock::after;

/// The position that a client's reads must not be behind.
pub const READ_AFTER: &str = "forebay.read_after";
/// A position that has everything which the client has written.
pub const LAST_LSN: &str = "forebay.last_lsn";
/// What [`LAST_LSN`] is on the primary.
pub(super) const ASK_LAST_LSN: &str =
    "SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text AS \"forebay.last_lsn\"";
/// `wal_block_size`, as nearly every server is built: in a smaller one a position is only rounded down less often.
const BLOCK: u64 = 8192;

/// Which replicas show what has to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// Each that may serve.
    All,
    /// These, by bit.
    Some(u64),
    /// None that may serve.
    Nobody,
}

impl Core {
    /// Which replicas that may serve show everything that was committed at `wrote_at` (0 for nothing) and have replayed
    /// up to `read_after`.
    pub fn who_has_seen(&self, pool: &PgPool, wrote_at: u64, read_after: Option<Lsn>) -> Fresh {
        let Some(view) = self.view(pool) else { return Fresh::Nobody };
        let limits = Limits::of(&pool.config.borrow().routing);
        let (mut nodes, mut is_all) = (0u64, true);
        for (place, node) in view.nodes.iter().enumerate().filter(|(_, n)| n.is_fit(&limits) && n.state == State::Up) {
            if node.fresh.shows(wrote_at, read_after) {
                nodes |= 1u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)).unwrap_or_default();
            } else {
                is_all = false;
            }
        }
        if !is_all || nodes == 0 {
            view.wanted_fresh.raise();
        }
        match nodes {
            0 => Fresh::Nobody,
            _ if is_all => Fresh::All,
            _ => Fresh::Some(nodes),
        }
    }

    /// True if this node shows everything that was committed at `wrote_at`, and has replayed up to `read_after`.
    pub fn has_seen(&self, pool: &PgPool, node: usize, wrote_at: u64, read_after: Option<Lsn>) -> bool {
        let Some(view) = self.view(pool) else { return false };
        view.nodes.get(node).is_some_and(|node| node.fresh.shows(wrote_at, read_after))
    }

    /// Those who wait for a replica to show what they have to see look whether one does.
    pub fn call_lagging(&self) {
        // Whoever looks in vain comes back.
        let all = std::mem::take(&mut *self.lagging.borrow_mut());
        all.iter().for_each(|client| client.call());
    }
}

impl Session {
    /// True if a fit replica shows what this client has to see; which, is in [`Core::among`].
    pub(super) fn may_read_on_replica(&mut self) -> bool {
        if !self.pool.state.borrow().has_replicas() {
            return false;
        }
        let Some((wrote_at, read_after)) = self.has_to_see() else { return true };
        let fresh = self.core.who_has_seen(&self.pool, wrote_at, read_after);
        match fresh {
            Fresh::All => {
                add(&self.pool.stats.fresh, 1);
                self.forget_write(wrote_at);
                true
            }
            Fresh::Some(nodes) => {
                let is_served = self.pool.state.borrow().has_idle_among(nodes);
                add(if is_served { &self.pool.stats.fresh } else { &self.pool.stats.stale }, 1);
                if is_served {
                    self.core.among.set(nodes);
                }
                is_served
            }
            Fresh::Nobody => {
                let may_wait = self.pool.config.borrow().routing.read_wait.is_some();
                self.flags.awaits_fresh = may_wait && !self.flags.has_awaited;
                if !self.flags.awaits_fresh {
                    add(&self.pool.stats.stale, 1);
                }
                false
            }
        }
    }

    /// The request waits for a replica that shows what the client has to see, for as long as `routing.read_wait` says.
    #[cold]
    pub(super) fn await_fresh(&mut self, request: &[u8]) -> Stage {
        self.keep(request);
        self.flags.awaits_fresh = false;
        let wait = self.pool.config.borrow().routing.read_wait.unwrap_or_default();
        let now = self.core.read_clock();
        self.me.state.set(ClientState::Waiting);
        self.me.since.set(now);
        self.core.shared.lagging.fetch_add(1, Ordering::Relaxed);
        self.core.lagging.borrow_mut().push(Rc::clone(&self.me));
        Stage::Lagging(after(now, wait))
    }

    /// Looks whether the wait is over; then the request begins again, on the primary if it has to.
    pub(super) fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        deadline: u64,
        scratch: &mut [u8],
    ) -> Poll<Result<Stage, Pause>> {
        if self.me.order.get() == Some(Order::CancelWait) {
            self.cancelled();
            self.end_wait();
            return Poll::Ready(self.refuse(Trouble::Cancelled).map(|()| Stage::Idle).map_err(Pause::End));
        }
        if let Some(end) = self.obey_orders(true).or_else(|| self.read_ahead(cx, scratch)) {
            self.end_wait();
            return Poll::Ready(Err(Pause::End(end)));
        }
        let is_behind =
            |(wrote_at, read_after)| self.core.who_has_seen(&self.pool, wrote_at, read_after) == Fresh::Nobody;
        // A reload may have ended the wait for all, and a replica that is gone shows nothing more.
        let is_worth_it =
            self.pool.config.borrow().routing.read_wait.is_some() && self.pool.state.borrow().has_replicas();
        if is_worth_it && self.has_to_see().is_some_and(is_behind) && self.core.read_clock() < deadline {
            self.core.lagging.borrow_mut().push(Rc::clone(&self.me));
            return Poll::Pending;
        }
        self.end_wait();
        self.flags.has_awaited = true;
        let request = std::mem::take(&mut self.input);
        let begun = self.plan_start(&request, request.len() >= scratch.len());
        self.flags.has_awaited = false;
        Poll::Ready(begun.unwrap_or(Ok(Stage::Idle)))
    }

    fn end_wait(&mut self) {
        self.core.shared.lagging.fetch_sub(1, Ordering::Relaxed);
        self.me.state.set(ClientState::Idle);
    }

    /// A write that every replica within the lag limits has to show by now is not asked about any more.
    fn forget_write(&mut self, wrote_at: u64) {
        let Some(most) = self.pool.config.borrow().routing.max_lag else { return };
        let limit = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        if self.core.now().saturating_sub(wrote_at) > limit {
            self.wrote_at = 0;
        }
    }

    /// Whether a connection that was waited for shows what this client has to see: replicas may have come since.
    #[inline]
    pub(super) fn is_served_by(&self, backend: &Backend) -> bool {
        let sees_all = self.wrote_at == 0 && self.rare.read_after.is_none();
        sees_all || !backend.is_standby || self.is_shown_by(backend)
    }

    fn is_shown_by(&self, backend: &Backend) -> bool {
        let node = backend.entry.node;
        let hint = self.planned.as_ref().and_then(|verdict| verdict.hint);
        let is_wished = self.rare.route == ListenRoute::Replica || hint == Some(Hint::Replica);
        if is_wished || self.core.class_of(&self.pool, node) != Some(Class::Replica) {
            return true;
        }
        let what = self.has_to_see();
        what.is_none_or(|(wrote_at, read_after)| self.core.has_seen(&self.pool, node, wrote_at, read_after))
    }

    /// What this client's reads must not miss: what was written by then (0: nothing of its own), and a position.
    fn has_to_see(&self) -> Option<(u64, Option<Lsn>)> {
        let read_after = self.rare.read_after.as_deref().copied();
        let wrote_at = match self.pool.config.borrow().consistency {
            Consistency::Eventual => 0,
            _ => self.wrote_at,
        };
        (wrote_at > 0 || read_after.is_some()).then_some((wrote_at, read_after))
    }
}

/// The position that a client names.
///
/// # Errors
/// [`Trouble::BadSetting`] with what is accepted.
pub(super) fn position(value: &str) -> Result<Option<Lsn>, Trouble> {
    if value.is_empty() {
        return Ok(None);
    }
    let read = value.parse::<Lsn>().map(|lsn| Some(last_record_end(lsn, BLOCK)));
    read.map_err(|_| Trouble::BadSetting {
        name: READ_AFTER,
        value: value.to_owned(),
        accepted: "a position of the write-ahead log such as 16/B374D848, and nothing for none",
    })
}
