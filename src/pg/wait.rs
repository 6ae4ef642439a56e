//! A client in the queue of its pool.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::backend::Backend;
use super::errors::{End, Trouble};
use super::registry::{ClientState, Order};
use super::session::{Pause, Session, Stage};
use super::stats::add;
use crate::pool::{Class, Refusal, Waiter};
use crate::wire::pg::build::{self, ErrorFields};
use crate::wire::pg::sqlstate::Severity;

/// What a client may send ahead while it waits; twice this fits the scratch buffer.
const AHEAD: usize = 16 * 1024;

/// One client's wait.
pub(super) struct Wait(pub(super) Rc<Waiter<Box<Backend>>>);

impl Session {
    /// Joins the queue, or refuses the request.
    pub(super) fn enqueue(&mut self, class: Class) -> Result<Stage, Pause> {
        let now = self.core.now();
        let waiter = self.pool.state.borrow_mut().enqueue(class, now);
        let Some(waiter) = waiter else {
            add(&self.pool.stats.refused, 1);
            let length = self.pool.config.borrow().settings.queue_length.unwrap_or_default();
            self.refuse(Trouble::QueueFull { pool: self.pool.name(), length })?;
            return Ok(Stage::Idle);
        };
        self.me.state.set(ClientState::Waiting);
        self.me.since.set(now);
        if !self.pool.state.borrow().is_full(class) {
            self.core.open_wanted(&self.pool);
        }
        self.core.cry(&self.pool);
        Ok(Stage::Waiting(Wait(waiter)))
    }

    /// Waits for a connection. `None`: the request was answered without one (refused, cancelled).
    ///
    /// The client is not looked at, and no clock is read, until the waiter is called by the tick of its thread: most
    /// waits are shorter than that.
    pub(super) fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        wait: &mut Wait,
        scratch: &mut [u8],
    ) -> Poll<Result<Option<Box<Backend>>, End>> {
        let waiter = &*wait.0;
        let granted = match waiter.poll(cx) {
            Poll::Ready(Ok(backend)) if backend.stream.is_barred() => {
                self.core.close(&self.pool, backend);
                let waited_ms = self.core.read_clock().saturating_sub(waiter.since) / 1_000_000;
                let service = self.core.cluster_name(&self.pool).unwrap_or_default();
                Stop::Refuse(Trouble::NoPrimary { service, waited_ms })
            }
            Poll::Ready(Ok(backend)) => {
                let waited = self.core.read_clock().saturating_sub(waiter.since);
                self.waited(waited);
                add(&self.pool.stats.served, 1);
                return Poll::Ready(Ok(Some(backend)));
            }
            Poll::Ready(Err(Refusal::Closed(why))) => Stop::End(End::Trouble(Box::new(Trouble::Ended(why)))),
            Poll::Ready(Err(Refusal::Server { code, message })) => {
                Stop::Refuse(Trouble::ServerRefused { code, message })
            }
            Poll::Pending => match self.look_around(cx, waiter, scratch) {
                Some(stop) => stop,
                None => return Poll::Pending,
            },
        };
        self.waited(self.core.read_clock().saturating_sub(waiter.since));
        if let Some(backend) = waiter.leave() {
            self.core.put(&self.pool, backend);
        }
        Poll::Ready(match granted {
            Stop::End(end) => Err(end),
            Stop::Refuse(trouble) => self.refuse(trouble).map(|()| None),
        })
    }

    fn waited(&mut self, waited: u64) {
        let stats = &self.pool.stats;
        add(&stats.wait_time, waited);
        stats.wait_times.add(waited);
        if self.core.queries.logs_slow() || self.core.queries.traces() {
            let watched = self.rare.watched.get_or_insert_default();
            watched.waited = waited;
            watched.served = self.core.now();
        }
        self.me.state.set(ClientState::Idle);
    }

    /// What may end a wait before its turn comes.
    fn look_around(&mut self, cx: &mut Context<'_>, waiter: &Waiter<Box<Backend>>, scratch: &mut [u8]) -> Option<Stop> {
        if self.me.order.get() == Some(Order::CancelWait) {
            self.cancelled();
            return Some(Stop::Refuse(Trouble::Cancelled));
        }
        if let Some(end) = self.obey_orders(true) {
            return Some(Stop::End(end));
        }
        if !waiter.is_called() && self.output.is_empty() {
            return None;
        }
        let waited = self.core.read_clock().saturating_sub(waiter.since);
        let config = Rc::clone(&self.pool.config.borrow());
        if self.core.wait_limit(&self.pool, &config).is_some_and(|limit| waited >= limit) {
            add(&self.pool.stats.timed_out, 1);
            return Some(Stop::Refuse(self.core.why_waited(&self.pool, waited)));
        }
        if let Some(notice) = config.queue_notice.filter(|notice| waited >= *notice && waiter.notice()) {
            let text = self.core.queue_notice(&self.pool, notice);
            build::notice_response(
                &mut self.output,
                &ErrorFields { severity: Severity::Notice, code: "01000", message: &text, detail: None, hint: None },
            );
        }
        if !self.output.is_empty()
            && let Poll::Ready(Err(end)) = self.poll_output(cx)
        {
            return Some(Stop::End(end));
        }
        self.read_ahead(cx, scratch).map(Stop::End)
    }

    /// The client may leave, or send ahead, while it waits.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Option<End> {
        while self.input.len() < AHEAD {
            let room = scratch.get_mut(..AHEAD).unwrap_or_default();
            match self.stream.poll_read(cx, room) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.count_received(n);
                    self.input.extend_from_slice(scratch.get(..n).unwrap_or_default());
                }
                Poll::Ready(_) => return Some(End::ClientGone),
                Poll::Pending => break,
            }
        }
        None
    }
}

/// Why a wait ended without a connection.
enum Stop {
    /// The session is over.
    End(End),
    /// The request is answered with this.
    Refuse(Trouble),
}
