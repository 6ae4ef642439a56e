//! One data thread: its runtime, its inbox, its ticks.

use std::io;
use std::rc::Rc;
use std::thread::JoinHandle;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::clock::now_ns;
use super::wheel::{TICK, Wheel};

type Job<S> = Box<dyn FnOnce(&Rc<S>) + Send>;

/// Reaches a worker of state `S` from any thread. Jobs run in the order in which they were posted.
pub struct Remote<S> {
    inbox: mpsc::UnboundedSender<Job<S>>,
}

impl<S> Clone for Remote<S> {
    fn clone(&self) -> Self {
        Remote { inbox: self.inbox.clone() }
    }
}

impl<S> std::fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote")
    }
}

impl<S: 'static> Remote<S> {
    /// Runs `job` on the worker. Lost without a word if the worker has ended.
    pub fn post(&self, job: impl FnOnce(&Rc<S>) + Send + 'static) {
        let _ = self.inbox.send(Box::new(job));
    }

    /// Runs `job` on the worker and waits for its answer; `None` if the worker has ended.
    pub async fn ask<T: Send + 'static>(&self, job: impl FnOnce(&Rc<S>) -> T + Send + 'static) -> Option<T> {
        let (tell, told) = oneshot::channel();
        self.post(move |state| {
            let _ = tell.send(job(state));
        });
        told.await.ok()
    }
}

/// Jobs for a state that shares a worker's thread with another one.
pub struct Jobs<S> {
    jobs: mpsc::UnboundedReceiver<Job<S>>,
}

impl<S> std::fmt::Debug for Jobs<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jobs")
    }
}

impl<S: 'static> Jobs<S> {
    /// Runs what is posted, until every [`Remote`] is gone. Not cancel-safe: what is in the inbox is lost.
    pub async fn run(mut self, state: Rc<S>) {
        while let Some(job) = self.jobs.recv().await {
            job(&state);
        }
    }
}

/// An inbox without a thread: the state that it is for lives on a worker that has another one.
pub fn inbox<S: 'static>() -> (Remote<S>, Jobs<S>) {
    let (inbox, jobs) = mpsc::unbounded_channel();
    (Remote { inbox }, Jobs { jobs })
}

/// Starts a worker thread. `make` builds its state on the thread, inside the runtime; `on_tick` runs every 100 ms.
/// The thread ends when every [`Remote`] is gone or the process exits.
///
/// # Errors
/// The operating system refused a thread, an epoll instance or a timer.
pub fn spawn<S, M, T>(name: String, make: M, on_tick: T) -> io::Result<(Remote<S>, JoinHandle<()>)>
where
    S: 'static,
    M: FnOnce(Rc<Wheel>) -> Rc<S> + Send + 'static,
    T: Fn(&Rc<S>, u64) + Send + 'static,
{
    let (remote, jobs) = inbox();
    let runtime = Builder::new_current_thread();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let mut runtime = runtime;
        let runtime = match runtime.enable_io().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(e) => return tracing::error!(error = %e, "a data thread has no event loop"),
        };
        runtime.block_on(async move {
            let wheel = Rc::new(Wheel::default());
            let state = make(Rc::clone(&wheel));
            let ticking = Rc::clone(&state);
            tokio::task::spawn_local(async move {
                if let Err(e) = tick(move |now| {
                    wheel.turn(now);
                    on_tick(&ticking, now);
                })
                .await
                {
                    tracing::error!(error = %e, "a data thread has no timer");
                }
            });
            // Spawned, not polled here: the root future of a runtime is polled on every turn.
            let _ = tokio::task::spawn_local(jobs.run(state)).await;
        });
    })?;
    Ok((remote, thread))
}

async fn tick(mut each: impl FnMut(u64)) -> io::Result<()> {
    let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let every = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
    rustix::time::timerfd_settime(
        &fd,
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: every, it_value: every },
    )?;
    // SAFETY: the descriptor must stay open and the same for as long as it is registered. An OwnedFd owns its
    // descriptor and always answers with that one; the AsyncFd owns the OwnedFd and deregisters it before it
    // is closed.
    #[allow(unsafe_code)]
    let fd = unsafe { AsyncFd::register(fd)? };
    loop {
        let mut ready = fd.readable().await?;
        let mut count = [0; 8];
        if rustix::io::read(fd.get_ref(), &mut count).is_ok() {
            each(now_ns());
        }
        ready.clear_ready();
    }
}
