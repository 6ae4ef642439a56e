//! Following one Sentinel: a connection that listens to what it publishes, and one that asks.
//!
//! Published messages have no replay, and the Sentinel that leads a failover tells of the new address last (minutes
//! late if replicas take long to synchronise). So a message only makes us ask; what is believed are answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::address::Address;
use super::answer;
use super::link::{Link, Meeting, Reply, Trouble};
use super::plan::Naming;
use super::sign::{self, Sign};
use crate::config::model::Secret;
use crate::worker::clock::{after, now_ns};

/// For a connection and for each answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Between two polls while nothing happens.
const SLOW: Duration = Duration::from_secs(1);
/// Between two polls while something does.
const FAST: Duration = Duration::from_millis(100);
/// How long after the last news polls stay fast.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// The least time between two polls, whatever is published.
const GAP: Duration = Duration::from_millis(5);
/// A listener that has heard nothing, not even the answer to its PINGs, for so many seconds connects anew.
const MISSED: u32 = 3;

/// Where, and for what.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) address: Address,
    pub(super) tls: Meeting,
    pub(super) password: Option<Secret>,
    /// The name that Sentinels know the primary by.
    pub(super) primary_name: String,
}

/// What a Sentinel has told.
#[derive(Debug)]
pub(super) enum Told {
    Named {
        naming: Naming,
        /// The other Sentinels that it knows.
        others: Vec<Address>,
    },
    Unheard {
        why: String,
        refused: bool,
    },
    Signed(Sign),
}

/// The two tasks that follow one Sentinel; they end with this.
#[derive(Debug)]
pub(super) struct Follower {
    pace: Arc<Pace>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug, Default)]
struct Pace {
    poll: Notify,
    fresh_until_ns: AtomicU64,
}

impl Pace {
    fn hurry(&self) {
        let until = after(now_ns(), FRESH_FOR);
        self.fresh_until_ns.store(until, Ordering::Relaxed);
        self.poll.notify_one();
    }
}

impl Follower {
    /// Starts both tasks; `tell` is called with the Sentinel's `id` for whatever it says.
    pub(super) fn start(id: u64, post: Post, tell: mpsc::UnboundedSender<(u64, Told)>) -> Self {
        let pace = Arc::<Pace>::default();
        let listener = tokio::spawn(listen(id, post.clone(), Arc::clone(&pace), tell.clone()));
        let poller = tokio::spawn(poll(id, post, Arc::clone(&pace), tell));
        Self { pace, tasks: [listener.abort_handle(), poller.abort_handle()] }
    }

    /// Asks at once, and often for a while.
    pub(super) fn hurry(&self) {
        self.pace.hurry();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn poll(id: u64, post: Post, pace: Arc<Pace>, tell: mpsc::UnboundedSender<(u64, Told)>) {
    let mut link = None;
    loop {
        let told = match ask(&mut link, &post).await {
            Ok(told) => told,
            Err(trouble) => {
                link = None;
                let refused = !matches!(trouble, Trouble::Silent(_) | Trouble::NoHandshake(_));
                Told::Unheard { why: trouble.to_string(), refused }
            }
        };
        if tell.send((id, told)).is_err() {
            return;
        }
        sleep(GAP).await;
        let pause = if now_ns() < pace.fresh_until_ns.load(Ordering::Relaxed) { FAST } else { SLOW };
        // Either end of the wait means the same: ask again.
        let _ = timeout(pause, pace.poll.notified()).await;
    }
}

/// Asks everything at once. A kept connection that was closed is replaced within the same poll.
async fn ask(link: &mut Option<Link>, post: &Post) -> Result<Told, Trouble> {
    if let Some(mut kept) = link.take().filter(|kept| !kept.is_outdated(&post.tls)) {
        match ask_over(&mut kept, post).await {
            Err(Trouble::Broken(_)) => {}
            other => {
                *link = Some(kept);
                return other;
            }
        }
    }
    let mut opened = Link::open(&post.address, &post.tls, post.password.as_ref(), TIMEOUT).await?;
    let told = ask_over(&mut opened, post).await;
    *link = Some(opened);
    told
}

async fn ask_over(link: &mut Link, post: &Post) -> Result<Told, Trouble> {
    let name = post.primary_name.as_str();
    let replies = link
        .ask_all(
            &[
                &["SENTINEL", "get-master-addr-by-name", name],
                &["SENTINEL", "master", name],
                &["SENTINEL", "replicas", name],
                &["SENTINEL", "sentinels", name],
            ],
            TIMEOUT,
        )
        .await?;
    let mut replies = replies.into_iter();
    let mut next = || replies.next().and_then(Result::ok).unwrap_or(Reply::Null);
    let primary = next();
    let (described, replicas, sentinels) = match next() {
        Reply::Null => {
            let why = format!("it knows no primary called {name} (redis.service.master_name), or may not tell");
            return Ok(Told::Unheard { why, refused: true });
        }
        described => (described, next(), next()),
    };
    let named = answer::naming(&primary, &described, &replicas);
    let naming = named.ok_or_else(|| Trouble::Broken("its answers cannot be understood".to_owned()))?;
    Ok(Told::Named { naming, others: answer::sentinels(&sentinels) })
}

async fn listen(id: u64, post: Post, pace: Arc<Pace>, tell: mpsc::UnboundedSender<(u64, Told)>) {
    while !tell.is_closed() {
        if let Err(trouble) = subscribe(id, &post, &pace, &tell).await {
            // The poller tells of a Sentinel that is lost; here it only means to try again.
            tracing::debug!(sentinel = %post.address, %trouble, "a Sentinel cannot be listened to");
        }
        sleep(SLOW / 4).await;
    }
}

async fn subscribe(
    id: u64,
    post: &Post,
    pace: &Pace,
    tell: &mpsc::UnboundedSender<(u64, Told)>,
) -> Result<(), Trouble> {
    let mut link = Link::open(&post.address, &post.tls, post.password.as_ref(), TIMEOUT).await?;
    link.ask(&["PSUBSCRIBE", "*"], TIMEOUT).await?;
    // What was published while nobody listened is lost: look instead.
    pace.hurry();
    let mut missed = 0;
    while !link.is_outdated(&post.tls) {
        let message = match timeout(SLOW, link.next()).await {
            Ok(message) => message?,
            Err(_) if missed == MISSED => return Err(Trouble::Silent(SLOW * MISSED)),
            Err(_) => {
                missed += 1;
                link.send(&[&["PING"]]).await?;
                continue;
            }
        };
        missed = 0;
        let [_, _, channel, text] = answer::list(&message) else { continue };
        let (Some(channel), Some(text)) = (answer::text(channel), answer::text(text)) else { continue };
        tracing::debug!(sentinel = %post.address, channel, text);
        if let Some(sign) = sign::read(&post.primary_name, channel, text) {
            if tell.send((id, Told::Signed(sign))).is_err() {
                return Ok(());
            }
            pace.hurry();
        }
    }
    Ok(())
}
