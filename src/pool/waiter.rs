//! A client in the queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Which servers a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The primary only.
    Primary,
    /// Any replica that is fit for reads.
    Replica,
}

/// Why a waiting client gets no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `KILL`, a removed database, the end of the process: the words are for the client.
    Closed(&'static str),
    /// The server refuses us for a reason that time does not mend.
    Server {
        /// SQLSTATE
        code: String,
        /// For the client.
        message: String,
    },
}

/// How many wait for each class, kept by the waiters themselves: counting a long queue on every request would cost
/// more than the request.
#[derive(Debug, Default)]
pub(super) struct Live {
    primary: Cell<usize>,
    replica: Cell<usize>,
}

impl Live {
    pub(super) fn of(&self, class: Class) -> &Cell<usize> {
        match class {
            Class::Primary => &self.primary,
            Class::Replica => &self.replica,
        }
    }
}

/// One place in the queue. The client's task holds it and polls; the pool fills it.
#[derive(Debug)]
pub struct Waiter<C> {
    grant: RefCell<Option<Result<C, Refusal>>>,
    waker: RefCell<Option<Waker>>,
    left: Cell<bool>,
    live: Rc<Live>,
    /// When the client began to wait, ns.
    pub since: u64,
    /// Order of arrival over all queues of the pool.
    pub(super) order: u64,
    /// What it asked for; `class` is where it waits now.
    pub(super) wish: Class,
    class: Cell<Class>,
    is_called: Cell<bool>,
    is_noticed: Cell<bool>,
}

impl<C> Waiter<C> {
    pub(super) fn new(wish: Class, class: Class, since: u64, order: u64, live: Rc<Live>) -> Self {
        live.of(class).update(|n| n + 1);
        Waiter {
            live,
            grant: RefCell::new(None),
            waker: RefCell::new(None),
            left: Cell::new(false),
            since,
            order,
            wish,
            class: Cell::new(class),
            is_called: Cell::new(false),
            is_noticed: Cell::new(false),
        }
    }

    /// Ready with the connection or the refusal. Registers the task's waker while pending.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<C, Refusal>> {
        if let Some(grant) = self.grant.borrow_mut().take() {
            self.left.set(true);
            return Poll::Ready(grant);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Leaves the queue. What was granted in the same turn comes back and must be returned to the pool.
    pub fn leave(&self) -> Option<C> {
        if self.is_waiting() {
            self.live.of(self.class.get()).update(|n| n - 1);
        }
        self.left.set(true);
        self.grant.borrow_mut().take().and_then(Result::ok)
    }

    /// Has the waiting task look at its client and at the time.
    pub(super) fn call(&self) {
        self.is_called.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// True once [`super::Pool::call_waiting`] has found it waiting for a while.
    pub fn is_called(&self) -> bool {
        self.is_called.get()
    }

    /// The client is told that it waits: true the first time.
    pub fn notice(&self) -> bool {
        !self.is_noticed.replace(true)
    }

    pub(super) fn is_noticed(&self) -> bool {
        self.is_noticed.get()
    }

    /// True while the pool may still serve this waiter.
    pub(super) fn is_waiting(&self) -> bool {
        !self.left.get() && self.grant.borrow().is_none()
    }

    /// Waits for the other class from now on.
    pub(super) fn set_class(&self, class: Class) {
        if self.is_waiting() {
            self.live.of(self.class.get()).update(|n| n - 1);
            self.live.of(class).update(|n| n + 1);
        }
        self.class.set(class);
    }

    pub(super) fn grant(&self, grant: Result<C, Refusal>) {
        self.live.of(self.class.get()).update(|n| n - 1);
        *self.grant.borrow_mut() = Some(grant);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
