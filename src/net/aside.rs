//! What takes too long for a data thread, whose clients would all wait for it: handshakes of TLS, the derivation of keys
//! from passwords, questions to directories. It is done by a few threads of lower priority, one thing after the other on
//! each, so that a flood of logins takes a bounded part of the processors and delays only other logins.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

/// By which the threads yield to data threads when both want a processor.
const NICENESS: i32 = 5;
/// Processors for which there is one thread.
const SHARE: usize = 4;

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce() -> Task + Send>;

/// Runs what `make` makes on one of the threads. Dropping the future ends it there at its next wait.
///
/// # Errors
/// There are no such threads, because the operating system refused them.
pub async fn run<T, F>(make: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (mut tell, told) = oneshot::channel();
    let job = move || -> Task {
        Box::pin(async move {
            // Whoever asked may have left while this waited for its turn.
            if tell.is_closed() {
                return;
            }
            let done = tokio::select! {
                biased;
                done = make() => done,
                () = tell.closed() => return,
            };
            let _ = tell.send(done);
        })
    };
    let gone = || io::Error::other("no thread for logins");
    thread().ok_or_else(gone)?.send(Box::new(job)).map_err(|_| gone())?;
    told.await.map_err(|_| gone())
}

/// The next thread in turn.
fn thread() -> Option<&'static mpsc::UnboundedSender<Job>> {
    static THREADS: OnceLock<Vec<mpsc::UnboundedSender<Job>>> = OnceLock::new();
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let threads = THREADS.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (0..processors.div_ceil(SHARE)).filter_map(start).collect()
    });
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    threads.get(turn.checked_rem(threads.len())?)
}

fn start(number: usize) -> Option<mpsc::UnboundedSender<Job>> {
    let (inbox, mut jobs) = mpsc::unbounded_channel::<Job>();
    let started = std::thread::Builder::new().name(format!("login-{number}")).spawn(move || {
        let me = Some(rustix::thread::gettid());
        // As good without, only less considerate.
        let _ = rustix::process::getpriority_process(me)
            .and_then(|now| rustix::process::setpriority_process(me, now + NICENESS));
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(e) => return tracing::error!(error = %e, "a thread for logins has no event loop"),
        };
        runtime.block_on(async {
            while let Some(job) = jobs.recv().await {
                tokio::task::spawn_local(job());
            }
        });
    });
    match started {
        Ok(_) => Some(inbox),
        Err(e) => {
            tracing::error!(error = %e, "a thread for logins cannot be had");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn it_is_done_by_another_thread_of_lower_priority() {
        let done = block_on(run(|| async {
            let own = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
            (std::thread::current().name().map(str::to_owned), own)
        }));
        let (name, niceness) = done.unwrap();
        assert!(name.unwrap().starts_with("login-"));
        let ours = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(niceness, (ours + NICENESS).min(19));
    }

    #[test]
    fn who_leaves_ends_what_was_done_for_it() {
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let waits = run(move || async move {
            let _held = inside;
            std::future::pending::<()>().await;
        });
        block_on(async {
            let mut waits = Box::pin(waits);
            assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
        });
        while Arc::strong_count(&held) > 1 {
            std::thread::yield_now();
        }
    }
}
