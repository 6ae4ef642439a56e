//! The door: who may connect, how often, and for how long without a login. Both protocols come here with every new
//! connection, before a byte of it is read, and with every login that has failed.
//!
//! One [`Guard`] for the process. Everything that it keeps about addresses is bounded, however many of them there are;
//! no lock is held for longer than a look into one part of a table. Nothing here speaks a protocol: callers tell the
//! client, in the words of [`Refused`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod bans;
mod preface;
mod rates;
mod source;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use self::bans::Bans;
pub use self::bans::{Ban, NotBanned, Reason};
pub use self::preface::Introduced;
use self::rates::{Pending, Rates};
use self::source::Source;
use crate::config::Network;
use crate::config::model::Security;
use crate::net::Endpoint;
use crate::wire::proxy::ProxyError;
use crate::worker::clock::{after, now_ns};

/// Refused connections that are waited for at a time.
const MOST_FAREWELLS: usize = 100;

/// Why a connection is refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Not in `security.allow`.
    NotAllowed,
    /// Too many failed logins, or by hand; for so long.
    Banned {
        /// An administrator has done so.
        by_hand: bool,
        /// Until then.
        left: Duration,
    },
    /// `security.connect_rate`
    TooOften,
    /// `security.max_pending_logins`
    TooManyPending,
    /// `security.max_pending_logins_per_address`
    TooManyPendingHere,
}

impl Refused {
    /// True if it is about who connects; else about how many do.
    pub fn is_about_the_address(&self) -> bool {
        matches!(self, Refused::NotAllowed | Refused::Banned { .. })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::NotAllowed => f.write_str("connections from this address are not allowed"),
            Refused::Banned { by_hand: false, left } => {
                write!(f, "too many failed logins from this address; try again in {}", in_words(*left))
            }
            Refused::Banned { by_hand: true, left } => write!(
                f,
                "connections from this address are refused by an administrator for another {}",
                in_words(*left)
            ),
            Refused::TooOften => f.write_str("too many new connections from this address; try again later"),
            Refused::TooManyPending => f.write_str("too many connections have not logged in yet; try again later"),
            Refused::TooManyPendingHere => {
                f.write_str("too many connections from this address have not logged in yet; try again later")
            }
        }
    }
}

/// A time as somebody who waits is told it: never less than it is.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (number, unit) = match seconds {
        0..=90 => (seconds.max(1), "second"),
        91..=5400 => (seconds.div_ceil(60), "minute"),
        5401..=129_600 => (seconds.div_ceil(3600), "hour"),
        _ => (seconds.div_ceil(86_400), "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// What a login has failed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// A wrong password, or an unknown user.
    Password,
    /// Bytes that are no login.
    Junk,
    /// A handshake of TLS.
    Tls,
}

impl Failure {
    /// What a handshake of TLS that failed counts as. A client that leaves, or that refuses our certificate, has not tried
    /// anything.
    pub fn of_handshake(error: &std::io::Error) -> Option<Self> {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let is_their_no = matches!(inner, Some(rustls::Error::AlertReceived(_)));
        (error.kind() == std::io::ErrorKind::InvalidData && !is_their_no).then_some(Failure::Tls)
    }
}

/// How many there have been since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Logins that failed, by [`Failure`].
    failures: [AtomicU64; 3],
    /// Connections that were refused, by [`Refused`].
    refused: [AtomicU64; 5],
    /// PROXY headers that were refused.
    headers: AtomicU64,
}

/// See the module.
pub struct Guard {
    rules: ArcSwap<Security>,
    bans: Bans,
    rates: Rates,
    pending: Pending,
    counters: Counters,
    farewells: AtomicUsize,
    tell: Box<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

/// A connection that was let in and has not logged in yet; it is one no more when this is dropped.
#[derive(Debug)]
pub struct Pass {
    guard: Arc<Guard>,
    source: Option<Source>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.guard.pending.leave(self.source);
    }
}

/// Somebody who is refused is told why, and may take a moment to hear it.
#[derive(Debug)]
pub struct Farewell(Arc<Guard>);

impl Farewell {
    /// How long that may take.
    pub const PATIENCE: Duration = Duration::from_secs(2);
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.farewells.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Guard {
    /// `tell` is called with what an operator has to know: that an address was banned. It must not block.
    pub fn new(rules: Security, tell: Box<dyn Fn(&str) + Send + Sync>) -> Arc<Self> {
        Arc::new(Guard {
            rules: ArcSwap::from_pointee(rules),
            bans: Bans::default(),
            rates: Rates::default(),
            pending: Pending::default(),
            counters: Counters::default(),
            farewells: AtomicUsize::new(0),
            tell,
        })
    }

    /// New rules. Bans stay, but for those of addresses that are never to be banned now.
    pub fn set_rules(&self, rules: Security) {
        self.rules.store(Arc::new(rules));
    }

    /// True if this connection has to begin with a PROXY header: [`Guard::introduce`] reads it.
    pub fn expects_header(&self, peer: Endpoint) -> bool {
        let rules = self.rules.load();
        rules.proxy_protocol && peer.ip().is_some_and(|ip| rules.proxy_trusted.iter().any(|block| block.contains(ip)))
    }

    /// Lets a new connection in.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn admit(self: &Arc<Self>, peer: Endpoint) -> Result<Pass, Refused> {
        self.judge(peer, now_ns()).inspect_err(|refused| {
            let place = match refused {
                Refused::NotAllowed => 0,
                Refused::Banned { .. } => 1,
                Refused::TooOften => 2,
                Refused::TooManyPending => 3,
                Refused::TooManyPendingHere => 4,
            };
            count(&self.counters.refused, place);
            tracing::debug!(%peer, reason = %refused, "a connection was refused");
        })
    }

    /// As [`Guard::admit`] for a load balancer's own connection: its checks have to get through.
    pub fn admit_balancer(self: &Arc<Self>) -> Pass {
        self.pending.enter(None);
        Pass { guard: Arc::clone(self), source: None }
    }

    fn judge(self: &Arc<Self>, peer: Endpoint, now: u64) -> Result<Pass, Refused> {
        let rules = self.rules.load();
        let source = match peer.ip() {
            Some(ip) => {
                if !rules.allow.is_empty() && !within(&rules.allow, ip) {
                    return Err(Refused::NotAllowed);
                }
                self.look(&rules, ip, now)?;
                let source = Source::of(ip);
                if let Some(rate) = rules.connect_rate
                    && !self.rates.take(source, rate, rules.connect_burst, now)
                {
                    return Err(Refused::TooOften);
                }
                Some(source)
            }
            // A Unix socket: its rights say who may connect.
            None => None,
        };
        if rules.max_pending_logins.is_some_and(|most| self.pending.all() >= most) {
            return Err(Refused::TooManyPending);
        }
        let of_address = self.pending.enter(source);
        let pass = Pass { guard: Arc::clone(self), source };
        match rules.max_pending_logins_per_address {
            Some(most) if of_address > most => Err(Refused::TooManyPendingHere),
            _ => Ok(pass),
        }
    }

    fn look(&self, rules: &Security, ip: IpAddr, now: u64) -> Result<(), Refused> {
        match self.bans.of(ip, now) {
            Some(ban) if !within(&rules.ban_allow, ip) => {
                let left = Duration::from_nanos(ban.until.saturating_sub(now));
                Err(Refused::Banned { by_hand: matches!(ban.reason, Reason::Admin(_)), left })
            }
            _ => Ok(()),
        }
    }

    /// Whether the address was banned meanwhile: what many connections try at once counts no more than one after the
    /// other.
    ///
    /// # Errors
    /// That it was.
    pub fn recheck(&self, peer: Endpoint) -> Result<(), Refused> {
        peer.ip().map_or(Ok(()), |ip| self.look(&self.rules.load(), ip, now_ns()))
    }

    /// Leave to wait until somebody who is refused has heard why. `None`: so many do that already that this one gets no
    /// more than what its socket takes at once, so that who is refused holds next to nothing.
    pub fn farewell(self: &Arc<Self>) -> Option<Farewell> {
        let waiting = self.farewells.fetch_add(1, Ordering::Relaxed);
        let farewell = Farewell(Arc::clone(self));
        (waiting < MOST_FAREWELLS).then_some(farewell)
    }

    /// A login has failed. True if its address is banned now.
    pub fn note_failure(&self, peer: Endpoint, failure: Failure) -> bool {
        count(&self.counters.failures, failure as usize);
        let rules = self.rules.load();
        let (Some(ip), Some(time)) = (peer.ip(), rules.ban_time) else { return false };
        if within(&rules.ban_allow, ip) {
            return false;
        }
        let now = now_ns();
        let limit = bans::Limit { failures: rules.ban_after, window: rules.ban_window, time };
        match self.bans.note_failure(Source::of(ip), limit, now) {
            bans::Noted::Counted => false,
            bans::Noted::Already => true,
            bans::Noted::Banned(ban) => {
                self.bans.tell(&ban, now, &*self.tell);
                true
            }
        }
    }

    /// Counts a PROXY header that was refused.
    pub(self) fn note_header(&self, peer: Endpoint, error: &ProxyError) {
        self.counters.headers.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%peer, %error, "a connection was refused");
    }

    /// Bans a block by hand, for `time` or as long as failed logins are banned for.
    ///
    /// # Errors
    /// Why not, for the admin.
    pub fn ban(&self, block: Network, time: Option<Duration>, by: &str) -> Result<Ban, String> {
        let rules = self.rules.load();
        if let Some(known) = rules.ban_allow.iter().find(|known| known.covers(&block)) {
            return Err(match *known == block {
                true => format!("{block} is in security.ban_allow, and is never banned"),
                false => format!("{block} belongs to {known} of security.ban_allow, and is never banned"),
            });
        }
        let time = time.or(rules.ban_time).ok_or("security.ban_time is off: say how long, as in FOR '10m'")?;
        if time.is_zero() {
            return Err("a ban must last for some time".to_owned());
        }
        self.bans.by_hand(block, after(now_ns(), time), by)
    }

    /// Blocks of `security.ban_allow` within this one, which a ban of it leaves out.
    pub fn exempt(&self, block: &Network) -> Vec<Network> {
        self.rules.load().ban_allow.iter().filter(|known| block.covers(known)).copied().collect()
    }

    /// Ends the bans of an address, or of all in a block, and forgets their failed logins. Returns what was banned.
    ///
    /// # Errors
    /// Nothing was.
    pub fn unban(&self, block: Network) -> Result<Vec<Ban>, NotBanned> {
        self.bans.lift(block, now_ns())
    }

    /// Bans in force, those that end first in front.
    pub fn bans(&self) -> Vec<Ban> {
        let rules = self.rules.load();
        let mut all = self.bans.all(now_ns());
        all.retain(|ban| !rules.ban_allow.iter().any(|known| known.covers(&ban.block)));
        all.sort_by_key(|ban| (ban.until, ban.block));
        all
    }

    /// Logins that have failed since the start (`forebay_auth_failures_total`).
    pub fn failures(&self) -> u64 {
        self.counters.failures.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Connections that were refused at the door since the start.
    pub fn refused(&self) -> u64 {
        let refused: u64 = self.counters.refused.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        refused + self.counters.headers.load(Ordering::Relaxed)
    }

    /// Connections that have not logged in yet.
    pub fn pending(&self) -> usize {
        self.pending.all()
    }
}

fn within(blocks: &[Network], ip: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(ip))
}

fn count<const N: usize>(counters: &[AtomicU64; N], place: usize) {
    if let Some(counter) = counters.get(place) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
