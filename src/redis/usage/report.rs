//! What all threads have counted, together.

use std::collections::BTreeMap;

use super::large::LargeKey;
use super::sketch::{Entry, KeyId};
use super::tally::{CommandReport, Timed};

/// Keys that are told of a service: the hottest, and the largest.
const MOST_HOT: usize = 100;
const MOST_LARGE: usize = 50;

/// One service on one thread.
#[derive(Debug, Clone)]
pub struct UsageReport {
    /// `[[redis.service]] name`.
    pub service: String,
    /// Commands that were used.
    pub commands: Vec<CommandReport>,
    /// Keys that were used most.
    pub hot: Vec<(KeyId, Entry)>,
    /// Uses of all keys, faded.
    pub total: f64,
    /// Uses that a key may have had that is not in `hot`.
    pub floor: f64,
    /// Keys that have carried much.
    pub large: Vec<LargeKey>,
}

/// A key that is used much.
#[derive(Debug, Clone, PartialEq)]
pub struct HotKey {
    /// Database.
    pub db: u32,
    /// Beginning of the key, and the length of all of it, bytes.
    pub key: (Box<[u8]>, usize),
    /// Uses that were seen, by what is looked at; each counts half after a minute.
    pub accesses: u64,
    /// By how much the truth may differ from that: uses before it was watched, and with 95 % certainty what comes of not
    /// looking at each.
    pub error: u64,
    /// Of all uses of keys, ten thousandths of one.
    pub share: u64,
    /// Those of `accesses` that write.
    pub writes: u64,
}

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceUsage {
    /// `[[redis.service]] name`.
    pub service: String,
    /// Commands that were used, those most often first.
    pub commands: Vec<CommandReport>,
    /// Keys that were used most, the hottest first.
    pub hot: Vec<HotKey>,
    /// Keys that have carried most, the largest first.
    pub large: Vec<LargeKey>,
}

/// What the threads say about the same services, by name.
pub fn together(threads: Vec<Vec<UsageReport>>) -> Vec<ServiceUsage> {
    let mut by_service: BTreeMap<String, Vec<UsageReport>> = BTreeMap::new();
    for report in threads.into_iter().flatten() {
        by_service.entry(report.service.clone()).or_default().push(report);
    }
    let usage = |(service, reports): (String, Vec<UsageReport>)| ServiceUsage {
        service,
        commands: commands(&reports),
        hot: hot(&reports),
        large: large(reports),
    };
    by_service.into_iter().map(usage).collect()
}

fn commands(reports: &[UsageReport]) -> Vec<CommandReport> {
    let mut all: BTreeMap<&str, CommandReport> = BTreeMap::new();
    for report in reports.iter().flat_map(|report| &report.commands) {
        let sum = all.entry(&report.name).or_insert_with(|| CommandReport {
            name: report.name.clone(),
            calls: [0; 4],
            errors: 0,
            timed: Timed::default(),
        });
        for (mine, theirs) in sum.calls.iter_mut().zip(report.calls) {
            *mine += theirs;
        }
        sum.errors += report.errors;
        sum.timed.add(&report.timed);
    }
    let mut all: Vec<CommandReport> = all.into_values().collect();
    all.sort_by_key(|command| std::cmp::Reverse(command.calls.iter().sum::<u64>()));
    all
}

fn hot(reports: &[UsageReport]) -> Vec<HotKey> {
    let mut all: BTreeMap<KeyId, Entry> = BTreeMap::new();
    let floors: f64 = reports.iter().map(|report| report.floor).sum();
    for report in reports {
        for (id, entry) in &report.hot {
            // Where it is not told of, it may have been used up to the floor.
            let sum = all.entry(*id).or_insert_with(|| Entry {
                estimate: floors,
                error: floors,
                variance: 0.0,
                writes: 0.0,
                key: entry.key.clone(),
                len: entry.len,
            });
            sum.estimate += entry.estimate - report.floor;
            sum.error += entry.error - report.floor;
            sum.variance += entry.variance;
            sum.writes += entry.writes;
        }
    }
    let total: f64 = reports.iter().map(|report| report.total).sum();
    // Numbers are small enough, and not negative.
    let whole = |n: f64| n.round().max(0.0) as u64;
    let mut keys: Vec<HotKey> = all
        .into_iter()
        .map(|(id, entry)| {
            let seen = entry.estimate - entry.error;
            HotKey {
                db: id.db,
                key: (entry.key, entry.len),
                accesses: whole(seen),
                error: (entry.error + 2.0 * entry.variance.sqrt()).ceil() as u64,
                share: whole(if total > 0.0 { seen / total * 10_000.0 } else { 0.0 }),
                writes: whole(entry.writes),
            }
        })
        .filter(|key| key.accesses > 0)
        .collect();
    keys.sort_by(|a, b| b.accesses.cmp(&a.accesses).then_with(|| a.key.cmp(&b.key)));
    keys.truncate(MOST_HOT);
    keys
}

fn large(reports: Vec<UsageReport>) -> Vec<LargeKey> {
    let mut all: BTreeMap<KeyId, LargeKey> = BTreeMap::new();
    for key in reports.into_iter().flat_map(|report| report.large) {
        match all.get_mut(&key.id) {
            Some(known) if known.bytes >= key.bytes => {}
            Some(known) => *known = key,
            None => drop(all.insert(key.id, key)),
        }
    }
    let mut all: Vec<LargeKey> = all.into_values().collect();
    all.sort_by_key(|key| std::cmp::Reverse(key.bytes));
    all.truncate(MOST_LARGE);
    all
}
