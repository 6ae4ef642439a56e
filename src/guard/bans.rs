//! Failed logins, and who is banned: for these, or by hand.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::rates::Parts;
use super::source::Source;
use crate::config::Network;
use crate::worker::clock::after;

/// Addresses with failed logins in one part of the table: a million of them, in all 16, take some 10 MB.
const MOST: usize = 4096;
/// Bans by hand.
const MOST_BY_HAND: usize = 10_000;
/// Bans that are told of one by one within [`WHILE`], ns: a flood of them must not push all else out of what is kept.
const TOLD: u32 = 100;
const WHILE: u64 = 60_000_000_000;

/// When failed logins are too many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) failures: u32,
    pub(super) window: Duration,
    pub(super) time: Duration,
}

/// A ban in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub block: Network,
    /// Until when, ns of [`crate::worker::clock::now_ns`].
    pub until: u64,
    /// What for.
    pub reason: Reason,
    /// Failed logins.
    pub failures: u32,
}

/// What somebody is banned for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Failed logins.
    Failures,
    /// This admin has said so.
    Admin(Arc<str>),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Failures => f.write_str("failed logins"),
            Reason::Admin(name) => write!(f, "BAN by {name}"),
        }
    }
}

/// Why nothing was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBanned {
    /// It is banned as a part of this block.
    pub within: Option<Network>,
}

/// What became of a failed login.
#[derive(Debug)]
pub(super) enum Noted {
    Counted,
    /// Its address was banned before.
    Already,
    /// Its address is banned from now on.
    Banned(Ban),
}

#[derive(Debug, Default)]
struct Record {
    /// When logins failed, ns; those within the window.
    failed: VecDeque<u64>,
    /// 0: not banned.
    until: u64,
    /// That led to the ban, and since then.
    failures: u32,
}

impl Record {
    fn is_banned(&self, now: u64) -> bool {
        self.until > now
    }
}

#[derive(Debug, Clone, Default)]
struct ByHand {
    addresses: HashMap<IpAddr, (u64, Arc<str>)>,
    blocks: Vec<(Network, u64, Arc<str>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bans {
    records: Parts<Record>,
    by_hand: ArcSwap<ByHand>,
    /// Held while `by_hand` is changed.
    changing: Mutex<()>,
    /// When the time began in which bans are told of, how many were, and how many were not.
    told: Mutex<(u64, u32, u32)>,
}

impl Bans {
    /// The ban of an address, if there is one.
    pub(super) fn of(&self, ip: IpAddr, now: u64) -> Option<Ban> {
        let by_hand = self.by_hand.load();
        let one = by_hand.addresses.get(&ip).and_then(|(until, by)| Some((Network::around(ip, bits(ip))?, *until, by)));
        let block = by_hand.blocks.iter().find(|(block, until, _)| *until > now && block.contains(ip));
        let found = one.filter(|(_, until, _)| *until > now).or(block.map(|(block, until, by)| (*block, *until, by)));
        if let Some((block, until, by)) = found {
            return Some(Ban { block, until, reason: Reason::Admin(Arc::clone(by)), failures: 0 });
        }
        let source = Source::of(ip);
        let part = self.records.of(source);
        let record = part.get(&source).filter(|record| record.is_banned(now))?;
        Some(Ban { block: source.block()?, until: record.until, reason: Reason::Failures, failures: record.failures })
    }

    /// A login of this address has failed.
    pub(super) fn note_failure(&self, source: Source, limit: Limit, now: u64) -> Noted {
        let window = limit.window.as_nanos() as u64;
        let mut part = self.records.of(source);
        if part.len() >= MOST && !part.contains_key(&source) {
            make_room(&mut part, window, now);
        }
        let record = part.entry(source).or_default();
        if record.is_banned(now) {
            record.failures = record.failures.saturating_add(1);
            return Noted::Already;
        }
        record.failed.push_back(now);
        while record.failed.front().is_some_and(|then| now.saturating_sub(*then) > window) {
            record.failed.pop_front();
        }
        if record.failed.len() < limit.failures as usize {
            return Noted::Counted;
        }
        record.failures = u32::try_from(record.failed.len()).unwrap_or(u32::MAX);
        record.failed = VecDeque::new();
        record.until = after(now, limit.time);
        match source.block() {
            Some(block) => {
                Noted::Banned(Ban { block, until: record.until, reason: Reason::Failures, failures: record.failures })
            }
            None => Noted::Already,
        }
    }

    /// Bans a block, for longer or for shorter than before if it was banned.
    pub(super) fn by_hand(&self, block: Network, until: u64, by: &str) -> Result<Ban, String> {
        let by: Arc<str> = by.into();
        let ban = Ban { block, until, reason: Reason::Admin(Arc::clone(&by)), failures: 0 };
        self.change(|bans| {
            let now = crate::worker::clock::now_ns();
            bans.addresses.retain(|_, (until, _)| *until > now);
            bans.blocks.retain(|(known, until, _)| *until > now && *known != block);
            if bans.addresses.len() + bans.blocks.len() >= MOST_BY_HAND {
                return Err(format!("{MOST_BY_HAND} addresses are banned by hand already; ban blocks of them"));
            }
            match block.address() {
                Some(address) => drop(bans.addresses.insert(address, (until, by))),
                None => bans.blocks.push((block, until, by)),
            }
            Ok(())
        })?;
        Ok(ban)
    }

    fn change<T>(&self, change: impl FnOnce(&mut ByHand) -> T) -> T {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bans = ByHand::clone(&self.by_hand.load());
        let done = change(&mut bans);
        self.by_hand.store(Arc::new(bans));
        done
    }

    /// See [`super::Guard::unban`].
    pub(super) fn lift(&self, block: Network, now: u64) -> Result<Vec<Ban>, NotBanned> {
        let mut lifted: Vec<Ban> = Vec::new();
        let is_meant = |ban: &Ban| block.covers(&ban.block);
        for mut part in self.records.each() {
            part.retain(|source, record| {
                let Some(own) = source.block() else { return false };
                // A single IPv6 address stands for its network, which is what was banned.
                let stands_for = block.address().is_some_and(|address| own.contains(address));
                if !block.covers(&own) && !stands_for {
                    return true;
                }
                if record.is_banned(now) {
                    let (until, failures) = (record.until, record.failures);
                    lifted.push(Ban { block: own, until, reason: Reason::Failures, failures });
                }
                false
            });
        }
        let by_hand = self.all_by_hand(now);
        lifted.extend(by_hand.iter().filter(|ban| is_meant(ban)).cloned());
        self.change(|bans| {
            bans.addresses.retain(|address, _| !block.contains(*address));
            bans.blocks.retain(|(known, ..)| !block.covers(known));
        });
        if lifted.is_empty() {
            let within = by_hand.iter().find(|ban| ban.block.covers(&block)).map(|ban| ban.block);
            return Err(NotBanned { within });
        }
        Ok(lifted)
    }

    fn all_by_hand(&self, now: u64) -> Vec<Ban> {
        let by_hand = self.by_hand.load();
        let addresses = by_hand.addresses.iter();
        let addresses = addresses.filter_map(|(ip, (until, by))| Some((Network::around(*ip, bits(*ip))?, *until, by)));
        let blocks = by_hand.blocks.iter().map(|(block, until, by)| (*block, *until, by));
        let in_force = addresses.chain(blocks).filter(|(_, until, _)| *until > now);
        let ban = |(block, until, by): (Network, u64, &Arc<str>)| Ban {
            block,
            until,
            reason: Reason::Admin(Arc::clone(by)),
            failures: 0,
        };
        in_force.map(ban).collect()
    }

    /// Bans in force, in no order.
    pub(super) fn all(&self, now: u64) -> Vec<Ban> {
        let mut all = self.all_by_hand(now);
        for part in self.records.each() {
            let banned = part.iter().filter(|(_, record)| record.is_banned(now));
            all.extend(banned.filter_map(|(source, record)| {
                let (until, failures) = (record.until, record.failures);
                Some(Ban { block: source.block()?, until, reason: Reason::Failures, failures })
            }));
        }
        all
    }

    /// Tells of a ban, unless there have been many lately: then of how many.
    pub(super) fn tell(&self, ban: &Ban, now: u64, tell: &dyn Fn(&str)) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count, left_out) = &mut *told;
        if now.saturating_sub(*began) > WHILE {
            if *left_out > 0 {
                tell(&format!("{left_out} more addresses were banned for failed logins"));
            }
            (*began, *count, *left_out) = (now, 0, 0);
        }
        if *count >= TOLD {
            *left_out += 1;
            return;
        }
        *count += 1;
        let time = super::in_words(Duration::from_nanos(ban.until.saturating_sub(now)));
        tell(&format!("{} for {time}, after {} failed logins", ban.block, ban.failures));
    }
}

/// All bits of an address.
fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Forgets whoever has nothing to be remembered for; if nobody has, the one whose last failure is longest ago, and if all
/// are banned, the one whose ban ends first.
fn make_room(part: &mut HashMap<Source, Record>, window: u64, now: u64) {
    part.retain(|_, record| {
        let last = record.failed.back().copied().unwrap_or(0);
        record.is_banned(now) || now.saturating_sub(last) <= window
    });
    if part.len() >= MOST {
        let worth = |record: &Record| match record.is_banned(now) {
            false => (0, record.failed.back().copied().unwrap_or(0)),
            true => (1, record.until),
        };
        let least = part.iter().min_by_key(|(_, record)| worth(record)).map(|(source, _)| *source);
        least.and_then(|least| part.remove(&least));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LIMIT: Limit = Limit { failures: 3, window: Duration::from_secs(30), time: Duration::from_secs(600) };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fails(bans: &Bans, text: &str, at: u64) -> bool {
        matches!(bans.note_failure(Source::of(ip(text)), LIMIT, at * SECOND), Noted::Banned(_))
    }

    fn is_banned(bans: &Bans, text: &str, at: u64) -> bool {
        bans.of(ip(text), at * SECOND).is_some()
    }

    #[test]
    fn so_many_failures_within_the_window_are_banned_and_the_ban_ends() {
        let bans = Bans::default();
        assert_eq!([100, 110, 129].map(|at| fails(&bans, "10.0.0.1", at)), [false, false, true]);
        assert!(is_banned(&bans, "10.0.0.1", 130) && !is_banned(&bans, "10.0.0.2", 130));
        assert!(is_banned(&bans, "10.0.0.1", 728) && !is_banned(&bans, "10.0.0.1", 729));
        assert_eq!([730, 731, 732].map(|at| fails(&bans, "10.0.0.1", at)), [false, false, true], "it begins anew");
    }

    #[test]
    fn failures_that_are_too_far_apart_do_not_count_together_wherever_a_window_begins() {
        let bans = Bans::default();
        for at in (100..1000).step_by(16) {
            assert!(!fails(&bans, "10.0.0.1", at), "three within 30 s never happen");
        }
        assert!(!fails(&bans, "10.0.0.2", 100));
        assert_eq!([125, 131, 140].map(|at| fails(&bans, "10.0.0.2", at)), [false, false, true]);
    }

    #[test]
    fn an_ipv6_network_is_banned_as_a_whole() {
        let bans = Bans::default();
        let far = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|from| fails(&bans, from, 100));
        assert_eq!(far, [false, false, true]);
        assert!(is_banned(&bans, "2001:db8::4", 101) && !is_banned(&bans, "2001:db8:0:1::1", 101));
        let lifted = bans.lift(Network::parse("2001:db8::9").unwrap(), 102 * SECOND).unwrap();
        assert_eq!(lifted[0].block.to_string(), "2001:db8::/64");
        assert!(!is_banned(&bans, "2001:db8::4", 103));
    }

    #[test]
    fn what_an_admin_bans_is_banned_until_then_and_lifted_as_it_was_banned() {
        let (bans, now) = (Bans::default(), crate::worker::clock::now_ns());
        let block = |text: &str| Network::parse(text).unwrap();
        let until = now + 60 * SECOND;
        bans.by_hand(block("10.0.0.0/8"), until, "ann").unwrap();
        bans.by_hand(block("192.0.2.1"), until, "ann").unwrap();
        let of = |text: &str| bans.of(ip(text), now).map(|ban| ban.block.to_string());
        assert_eq!(
            [of("10.9.9.9"), of("192.0.2.1"), of("192.0.2.2")],
            [Some("10.0.0.0/8".into()), Some("192.0.2.1".into()), None]
        );
        assert!(bans.of(ip("10.9.9.9"), until).is_none(), "it has ended");
        let refused = bans.lift(block("10.9.9.9"), now).unwrap_err();
        assert_eq!(refused.within, Some(block("10.0.0.0/8")), "a part of a block cannot be lifted");
        assert_eq!(bans.lift(block("10.0.0.0/8"), now).unwrap().len(), 1);
        assert_eq!(of("10.9.9.9"), None);
        assert_eq!(bans.lift(block("0.0.0.0/0"), now).unwrap().len(), 1);
        assert_eq!(bans.lift(block("0.0.0.0/0"), now).unwrap_err().within, None);
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory_and_frees_nobody_who_is_banned() {
        let bans = Bans::default();
        for at in [100, 100, 100] {
            fails(&bans, "192.0.2.1", at);
        }
        for n in 0..70_000u32 {
            let source = Source::of(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into());
            bans.note_failure(source, LIMIT, 101 * SECOND);
        }
        assert!(bans.records.each().all(|part| part.len() <= MOST));
        assert!(is_banned(&bans, "192.0.2.1", 102));
    }

    #[test]
    fn a_flood_of_bans_is_told_in_a_few_lines() {
        let (bans, lines) = (Bans::default(), Mutex::new(Vec::new()));
        let ban = Ban {
            block: Network::parse("10.0.0.1").unwrap(),
            until: 700 * SECOND,
            reason: Reason::Failures,
            failures: 3,
        };
        for n in 0..1000 {
            let now = (100 + n / 1000) * SECOND;
            bans.tell(&ban, now, &|line| lines.lock().unwrap().push(line.to_owned()));
        }
        assert_eq!(lines.lock().unwrap().len(), TOLD as usize);
        bans.tell(&ban, 200 * SECOND, &|line| lines.lock().unwrap().push(line.to_owned()));
        let last: Vec<String> = lines.lock().unwrap().iter().rev().take(2).cloned().collect();
        assert_eq!(last[1], "900 more addresses were banned for failed logins");
        assert_eq!(last[0], "10.0.0.1 for 9 minutes, after 3 failed logins");
    }
}
