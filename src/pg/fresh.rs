//! Which replicas show what a client has to see: its own writes, and what it has been told of by others.

use super::backend::Backend;
use super::core::Core;
use super::errors::Trouble;
use super::pool::PgPool;
use super::session::Session;
use super::stats::add;
use crate::config::model::{Consistency, ListenRoute};
use crate::pool::Class;
use crate::sql::Hint;
use crate::topology::{Limits, Lsn, State, last_record_end};

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
                add(&self.pool.stats.stale, 1);
                false
            }
        }
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
