//! Coarse timers of one thread: a 100 ms tick wakes what is due.
//!
//! The runtimes of the data threads run without tokio's time driver, which costs instructions on every turn of the
//! loop; time-outs of a pooler need no precision. One timerfd per thread drives the ticks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::clock::now_ns;

/// The timers of one thread. Deadlines are in nanoseconds of [`now_ns`].
#[derive(Debug, Default)]
pub struct Wheel {
    due: RefCell<BTreeMap<(u64, u64), Waker>>,
    next_id: Cell<u64>,
}

/// A [`Wheel::timeout`] ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Between two ticks.
pub const TICK: Duration = Duration::from_millis(100);

impl Wheel {
    /// Wakes `waker` at the first tick at or after `deadline`; the caller finds out for itself what is due.
    pub fn wake_at(&self, deadline: u64, waker: Waker) -> TimerId {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.due.borrow_mut().insert((deadline, id), waker);
        TimerId(deadline, id)
    }

    /// Takes a timer back. Nothing happens if it fired already.
    pub fn cancel(&self, timer: TimerId) {
        self.due.borrow_mut().remove(&(timer.0, timer.1));
    }

    /// Wakes what is due at `now`.
    pub fn turn(&self, now: u64) {
        let due = {
            let mut all = self.due.borrow_mut();
            let later = all.split_off(&(now + 1, 0));
            std::mem::replace(&mut *all, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }

    /// Waits for `duration`, give or take a tick. Cancel-safe.
    pub async fn sleep(self: &Rc<Self>, duration: Duration) {
        let deadline = now_ns().saturating_add(duration.as_nanos() as u64);
        let mut armed = Armed { wheel: self, timer: None };
        poll_fn(|cx| {
            if now_ns() >= deadline {
                return Poll::Ready(());
            }
            armed.arm(deadline, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Runs `future` for at most `limit` (give or take a tick); `None` is no limit.
    pub async fn timeout<F: Future>(self: &Rc<Self>, limit: Option<Duration>, future: F) -> Result<F::Output, Elapsed> {
        let Some(limit) = limit else { return Ok(future.await) };
        let deadline = now_ns().saturating_add(limit.as_nanos() as u64);
        let mut armed = Armed { wheel: self, timer: None };
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(out) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(out));
            }
            if now_ns() >= deadline {
                return Poll::Ready(Err(Elapsed));
            }
            armed.arm(deadline, cx.waker());
            Poll::Pending
        })
        .await
    }
}

/// Names a timer for [`Wheel::cancel`].
#[derive(Debug, Clone, Copy)]
pub struct TimerId(u64, u64);

/// A timer that is taken back when its future ends.
struct Armed<'a> {
    wheel: &'a Wheel,
    timer: Option<TimerId>,
}

impl Armed<'_> {
    fn arm(&mut self, deadline: u64, waker: &Waker) {
        if let Some(timer) = self.timer.take() {
            self.wheel.cancel(timer);
        }
        self.timer = Some(self.wheel.wake_at(deadline, waker.clone()));
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.wheel.cancel(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_turn_wakes_exactly_what_is_due() {
        let wheel = Wheel::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        wheel.wake_at(5, Arc::clone(&count).into());
        wheel.wake_at(10, Arc::clone(&count).into());
        let late = wheel.wake_at(11, Arc::clone(&count).into());
        wheel.turn(10);
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "the timers of 5 and 10 are due at 10");
        wheel.cancel(late);
        wheel.turn(100);
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "a cancelled timer wakes nobody");
    }
}
