//! What clients are told of their writes, for a failover that may lose so much and no more.
//!
//! What was committed is counted before its client hears of it. What may be much is not counted: its answer waits until the
//! primary's position is known again, see [`Acknowledged`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::doubt::InDoubt;
use super::errors::{End, Trouble};
use super::registry::Server;
use super::session::Session;
use super::settings::Settings;
use crate::topology::acknowledged::{Acknowledged, Volume};
use crate::topology::failover::doubt::{Doubt, Outcome};
use crate::worker::clock::now_ns;

/// Between two looks whether the primary was lost before its position was known.
const LOOK: Duration = Duration::from_millis(100);
/// From so much on what was sent ahead is counted with every answer, bytes.
const LARGE: u32 = 64 * 1024;

/// An answer that says more than is known: its client does not see it yet.
#[derive(Debug)]
pub struct Kept {
    /// Length of the client's buffer where it begins.
    from: usize,
    /// ns
    since: u64,
    /// The primary was changed before its position was known.
    is_refuted: bool,
    /// The transaction that it says was committed, and what became of that, if that is known.
    pub(super) doubt: Option<(Doubt, Option<Outcome>)>,
    /// Whose answer it is.
    pub(super) server: Rc<Server>,
    /// The session's settings before the transaction, if that has changed them.
    before: Option<Arc<Settings>>,
}

/// How many rows a statement is taken for: what its tag says, and one for any other.
fn rows(tag: &[u8]) -> u32 {
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let number = tag.get(tag.len() - digits..).unwrap_or_default();
    number.iter().fold(0, |sum: u32, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'))).max(1)
}

impl Session {
    /// A statement of a transaction that writes has ended with this tag.
    #[cold]
    pub(super) fn note_written(&mut self, tag: &[u8]) {
        match tag {
            [b'I', b'N', b'S', ..]
            | [b'U', b'P', b'D', ..]
            | [b'D', b'E', b'L', ..]
            | [b'M', b'E', b'R', ..]
            | [b'C', b'O', b'P', ..] => self.volume.rows = self.volume.rows.saturating_add(rows(tag)),
            b"COMMIT" => self.flags.committed = true,
            b"ROLLBACK" => self.volume = Volume::default(),
            _ => {}
        }
    }

    /// A request has been answered.
    #[cold]
    pub(super) fn count_answer(&mut self, backend: &Backend, now: u64) {
        if self.flags.wrote {
            self.acknowledge(backend, now);
        }
        if backend.track.is_free() {
            self.volume = Volume::default();
        }
    }

    fn acknowledge(&mut self, backend: &Backend, now: u64) {
        let is_over = backend.track.status == b'I';
        if !self.flags.committed && (!is_over || self.flags.rolled_back) {
            return;
        }
        let is_block = std::mem::take(&mut self.flags.committed);
        let Some(view) = self.core.view(&self.pool) else { return };
        let Some(node) = view.nodes.get(backend.entry.node) else { return };
        let volume = self.take_volume(backend);
        let took = now.saturating_sub(self.me.tx_began.get());
        // With `commit_resolution` no transaction block is to be left without an outcome.
        let is_known_later = !self.core.resolves || !is_block || backend.entry.doubt.get().is_some();
        let may_wait = backend.track.is_quiet() && is_known_later;
        let acknowledged = &node.acknowledged;
        match may_wait && acknowledged.is_much(volume, took) {
            true if acknowledged.is_hidden() => acknowledged.add_at_most(volume, took),
            true => self.keep_until_known(backend, acknowledged, volume, took),
            false => acknowledged.add(volume),
        }
    }

    /// What has come may belong to what was sent ahead.
    fn take_volume(&mut self, backend: &Backend) -> Volume {
        let Volume { rows, bytes } = std::mem::take(&mut self.volume);
        let ahead = u32::try_from(backend.track.owed().count()).unwrap_or(u32::MAX - 1);
        let bytes = match bytes {
            LARGE.. if ahead > 0 => {
                self.volume.bytes = bytes;
                bytes
            }
            _ => {
                let share = bytes / (ahead + 1);
                self.volume.bytes = bytes - share;
                share
            }
        };
        Volume { rows, bytes }
    }

    #[cold]
    fn keep_until_known(&mut self, backend: &Backend, acknowledged: &Arc<Acknowledged>, volume: Volume, took: u64) {
        self.keep_back(1);
        let at = now_ns();
        let kept = Kept {
            from: self.output.len(),
            since: at,
            is_refuted: false,
            doubt: self.doubt_of(backend).map(|doubt| (doubt, None)),
            server: Rc::clone(&backend.entry),
            before: self.before_tx.clone(),
        };
        self.core.kept.borrow_mut().insert(self.me.id, kept);
        let (core, pool, me) = (Rc::clone(&self.core), Rc::clone(&self.pool), Rc::clone(&self.me));
        let (acknowledged, server) = (Arc::clone(acknowledged), Rc::clone(&backend.entry));
        let until = at.saturating_add(pool.config.borrow().hold);
        tokio::task::spawn_local(async move {
            // From then on what is acknowledged is not counted any more.
            let is_cut = || core.is_superseded(&pool, &server);
            let mut answer = None;
            while answer.is_none() && !is_cut() && now_ns() < until {
                let known = Arc::clone(&acknowledged).known_since(at);
                answer = core.wheel.timeout(Some(LOOK), known).await.ok();
            }
            if answer == Some(false) {
                acknowledged.add_at_most(volume, took);
            }
            if answer.is_some() && !is_cut() {
                core.kept.borrow_mut().remove(&me.id);
            } else if let Some(kept) = core.kept.borrow_mut().get_mut(&me.id) {
                kept.is_refuted = true;
            }
            me.has_come();
        });
    }

    /// What becomes of an answer that was kept back and is not given.
    pub(super) fn refuted(&mut self) -> Option<End> {
        let kept = self.core.kept.borrow_mut().remove(&self.me.id).filter(|kept| kept.is_refuted)?;
        let committed = self.output.split_off(kept.from.min(self.output.len()));
        let why = "the primary was lost before it was known how far it had come".to_owned();
        let Some((doubt, outcome)) = kept.doubt else {
            return Some(End::Trouble(Box::new(Trouble::OutcomeUnknown(why))));
        };
        self.before_tx = kept.before;
        let (since, is_bound) = (kept.since, self.is_bound());
        Some(End::InDoubt(Box::new(InDoubt { doubt, outcome, committed, why, since, is_bound })))
    }

    /// The session ends for another reason while an answer is kept back: what its client is told instead.
    pub(super) fn forget_kept(&mut self, trouble: Box<Trouble>) -> Box<Trouble> {
        let Some(kept) = self.core.kept.borrow_mut().remove(&self.me.id) else { return trouble };
        self.output.truncate(kept.from);
        Box::new(Trouble::OutcomeUnknown(trouble.reason()))
    }
}
