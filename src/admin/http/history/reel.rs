//! Samples of equal length in a ring: what a plot is drawn from.
//!
//! Everything here is bounded: a reel keeps `length` samples, and of each kind of thing as many as [`Shape::most`]; what
//! is beyond is summed up as one. Times are arguments, so nothing here knows a clock.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value as Json, json};

use crate::worker::times::Durations;

/// What a reading is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::http) enum Kind {
    /// A pool of PostgreSQL connections.
    Pool,
    /// A Redis service.
    Redis,
    /// A node of either.
    Node,
}

/// What is kept of one kind.
struct Shape {
    /// Its list in the answer.
    list: &'static str,
    /// What its [`Subject::names`] are.
    labels: &'static [&'static str],
    /// So many are told apart.
    most: usize,
    /// Counters, of which the rate a second is kept.
    counts: &'static [&'static str],
    /// Levels, of which the highest is kept.
    levels: &'static [&'static str],
    /// Shares of the durations within a sample, of which milliseconds are kept.
    quantiles: &'static [(&'static str, f64)],
}

/// With both reels full a pool takes 55 KiB, a node 14 KiB: at most some 3 MiB in all.
const SHAPES: [(Kind, Shape); 3] = [
    (
        Kind::Pool,
        Shape {
            list: "pools",
            labels: &["service", "database", "user"],
            most: 40,
            counts: &["queries", "transactions", "errors"],
            levels: &["clients", "waiting", "servers"],
            quantiles: &[("p50_ms", 0.5), ("p99_ms", 0.99)],
        },
    ),
    (
        Kind::Redis,
        Shape {
            list: "redis",
            labels: &["service"],
            most: 20,
            counts: &["commands"],
            levels: &["clients", "waiting"],
            quantiles: &[],
        },
    ),
    (
        Kind::Node,
        Shape {
            list: "nodes",
            labels: &["service", "node"],
            most: 60,
            counts: &[],
            levels: &["lag_bytes", "lag_ms"],
            quantiles: &[],
        },
    ),
];

/// The name of all that are beyond [`Shape::most`].
const OTHERS: &str = "(others)";

impl Kind {
    fn shape(self) -> &'static Shape {
        match self {
            Kind::Pool => &SHAPES[0].1,
            Kind::Redis => &SHAPES[1].1,
            Kind::Node => &SHAPES[2].1,
        }
    }
}

impl Shape {
    fn columns(&self) -> impl Iterator<Item = &'static str> {
        let quantiles = self.quantiles.iter().map(|(name, _)| *name);
        self.counts.iter().chain(self.levels).copied().chain(quantiles)
    }
}

/// One thing, by the names that [`Shape::labels`] lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::admin::http) struct Subject {
    /// What it is.
    pub(super) kind: Kind,
    /// Its names.
    pub(super) names: Vec<String>,
}

impl Subject {
    fn others(kind: Kind) -> Self {
        let names = kind.shape().labels.iter().map(|_| OTHERS.to_owned()).collect();
        Subject { kind, names }
    }
}

/// What a thing shows at one moment: as many entries as its kind has counters and levels.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::admin::http) struct Reading {
    /// Since the start of the process.
    pub(super) counts: Vec<u64>,
    /// Now; `None` if it is not known.
    pub(super) levels: Vec<Option<u64>>,
    /// Since the start of the process.
    pub(super) times: Durations,
}

impl Reading {
    fn add(&mut self, other: &Reading) {
        self.counts.resize(other.counts.len(), 0);
        self.levels.resize(other.levels.len(), None);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.levels.iter_mut().zip(&other.levels) {
            *mine = sum(*mine, *theirs);
        }
        self.times += other.times;
    }

    /// Takes a later reading of the same thing: its counters, and of each level the higher.
    fn follow(&mut self, later: Reading) {
        let levels = self.levels.iter().zip(&later.levels).map(|(mine, theirs)| (*mine).max(*theirs));
        *self = Reading { levels: levels.collect(), ..later };
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (one, other) => one.or(other),
    }
}

/// One thing's samples, a column for each value that is kept. What is not known is no number.
#[derive(Debug)]
struct Track {
    /// The counters at the end of the last sample, if it was there then.
    before: Option<(Vec<u64>, Durations)>,
    /// What has been read since then.
    open: Option<Reading>,
    columns: Vec<VecDeque<f32>>,
    /// So many samples it has not been there.
    absent: usize,
}

impl Track {
    /// `is_new`: its counters began at 0 within this sample.
    fn new(shape: &Shape, is_new: bool) -> Self {
        let zero = (vec![0; shape.counts.len()], Durations::default());
        let columns = shape.columns().map(|_| VecDeque::new()).collect();
        Track { before: is_new.then_some(zero), open: None, columns, absent: 0 }
    }

    fn read(&mut self, reading: Reading) {
        match &mut self.open {
            Some(open) => open.follow(reading),
            None => self.open = Some(reading),
        }
    }

    /// Ends a sample of `span` seconds.
    fn close(&mut self, shape: &Shape, span: f64, length: usize) {
        let values = match &self.open {
            None => vec![f32::NAN; self.columns.len()],
            Some(open) => values(shape, self.before.as_ref(), open, span),
        };
        for (column, value) in self.columns.iter_mut().zip(values) {
            if column.len() >= length {
                column.pop_front();
            }
            column.push_back(value);
        }
        self.absent = if self.open.is_some() { 0 } else { self.absent + 1 };
        self.before = self.open.take().map(|open| (open.counts, open.times));
    }
}

fn values(shape: &Shape, before: Option<&(Vec<u64>, Durations)>, now: &Reading, span: f64) -> Vec<f32> {
    let rate = |n: usize, count: u64| {
        let old = before.and_then(|(counts, _)| counts.get(n));
        old.map_or(f64::NAN, |old| count.saturating_sub(*old) as f64 / span)
    };
    let rates = now.counts.iter().enumerate().map(|(n, count)| rate(n, *count));
    let levels = now.levels.iter().map(|level| level.map_or(f64::NAN, |level| level as f64));
    let within = before.map(|(_, times)| now.times.since(times));
    let quantile = |share: f64| within.and_then(|times| times.quantile(share)).map_or(f64::NAN, |ns| ns as f64 / 1e6);
    let quantiles = shape.quantiles.iter().map(|(_, share)| quantile(*share));
    rates.chain(levels).chain(quantiles).map(|value| value as f32).collect()
}

/// See the module.
#[derive(Debug)]
pub(in crate::admin::http) struct Reel {
    /// Samples that are kept.
    length: usize,
    /// Readings that make a sample.
    every: usize,
    /// For the reader: how long a sample is meant to be.
    period_ms: u64,
    /// Readings of the sample that is being made.
    read: usize,
    /// When it began, ns of the process's clock.
    began: u64,
    /// When each sample ended, ms since 1970.
    times: VecDeque<u64>,
    tracks: BTreeMap<Subject, Track>,
}

impl Reel {
    /// A reel of `length` samples of `every` readings each, which begins at `now` with all counters at 0.
    pub(super) fn new(length: usize, every: usize, period_ms: u64, now: u64) -> Self {
        let (times, tracks) = (VecDeque::new(), BTreeMap::new());
        Reel { length, every, period_ms, read: 0, began: now, times, tracks }
    }

    /// Takes what everything shows at `now` (ns of the process's clock), which is `wall_ms` since 1970.
    pub(super) fn add(&mut self, now: u64, wall_ms: u64, readings: BTreeMap<Subject, Reading>) {
        let mut others: BTreeMap<Kind, Reading> = BTreeMap::new();
        for (subject, reading) in readings {
            match self.track(&subject) {
                Some(track) => track.read(reading),
                None => others.entry(subject.kind).or_default().add(&reading),
            }
        }
        for (kind, sum) in others {
            let track = self.tracks.entry(Subject::others(kind));
            track.or_insert_with(|| Track::new(kind.shape(), false)).read(sum);
        }
        self.read += 1;
        if self.read >= self.every && now > self.began {
            self.close(now, wall_ms);
        }
    }

    /// Where a thing's readings go; `None`: among the others.
    fn track(&mut self, subject: &Subject) -> Option<&mut Track> {
        let shape = subject.kind.shape();
        if !self.tracks.contains_key(subject) {
            let others = Subject::others(subject.kind);
            let known = self.tracks.keys().filter(|known| known.kind == subject.kind && **known != others).count();
            if known >= shape.most {
                return None;
            }
            // What may have been counted among the others before has not begun just now.
            let is_new = !self.tracks.contains_key(&others);
            self.tracks.insert(subject.clone(), Track::new(shape, is_new));
        }
        self.tracks.get_mut(subject)
    }

    fn close(&mut self, now: u64, wall_ms: u64) {
        let span = now.saturating_sub(self.began) as f64 / 1e9;
        for (subject, track) in &mut self.tracks {
            track.close(subject.kind.shape(), span, self.length);
        }
        let length = self.length;
        self.tracks.retain(|_, track| track.absent < length);
        if self.times.len() >= self.length {
            self.times.pop_front();
        }
        self.times.push_back(wall_ms);
        (self.read, self.began) = (0, now);
    }

    /// Samples that ended after `since` (ms since 1970): `times`, and by kind each thing's names and `series`, as long as
    /// `times`.
    pub(super) fn json(&self, since: u64) -> Map<String, Json> {
        let skipped = self.times.iter().take_while(|time| **time <= since).count();
        let times: Vec<u64> = self.times.iter().skip(skipped).copied().collect();
        let mut whole = Map::new();
        whole.insert("period_ms".to_owned(), json!(self.period_ms));
        whole.insert("times".to_owned(), json!(times));
        for (kind, shape) in &SHAPES {
            let tracks = self.tracks.iter().filter(|(subject, _)| subject.kind == *kind);
            let list: Vec<Json> = tracks.map(|(subject, track)| self.thing(shape, subject, track, skipped)).collect();
            whole.insert(shape.list.to_owned(), Json::from(list));
        }
        whole
    }

    fn thing(&self, shape: &Shape, subject: &Subject, track: &Track, skipped: usize) -> Json {
        let mut thing = Map::new();
        for (label, name) in shape.labels.iter().zip(&subject.names) {
            thing.insert((*label).to_owned(), Json::from(name.as_str()));
        }
        let series = shape.columns().zip(&track.columns);
        let series = series.map(|(name, column)| (name.to_owned(), self.column(column, skipped)));
        thing.insert("series".to_owned(), Json::Object(series.collect()));
        Json::Object(thing)
    }

    /// With nothing in front where it was not there yet.
    fn column(&self, column: &VecDeque<f32>, skipped: usize) -> Json {
        let missing = std::iter::repeat_n(&f32::NAN, self.times.len().saturating_sub(column.len()));
        let all = missing.chain(column).skip(skipped);
        all.map(|value| if value.is_finite() { Json::from(rounded(*value)) } else { Json::Null }).collect()
    }
}

/// To hundredths: digits that nobody sees need not be sent.
fn rounded(value: f32) -> f64 {
    (f64::from(value) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::times::Times;

    const SECOND: u64 = 1_000_000_000;

    fn pool(n: usize) -> Subject {
        Subject { kind: Kind::Pool, names: vec!["main".into(), format!("db{n:03}"), "app".into()] }
    }

    fn reading(queries: u64, clients: u64) -> Reading {
        let levels = vec![Some(clients), Some(0), Some(0)];
        Reading { counts: vec![queries, 0, 0], levels, times: Durations::default() }
    }

    /// A reading of some pools at a second.
    fn add(reel: &mut Reel, second: u64, readings: &[(usize, Reading)]) {
        let readings = readings.iter().map(|(n, reading)| (pool(*n), reading.clone())).collect();
        reel.add(second * SECOND, 1000 * second, readings);
    }

    fn series(reel: &Reel, since: u64, database: &str, name: &str) -> Json {
        let all = reel.json(since);
        let of = |thing: &&Json| thing["database"] == database;
        all["pools"].as_array().unwrap().iter().find(of).map_or(Json::Null, |thing| thing["series"][name].clone())
    }

    #[test]
    fn a_counter_becomes_a_rate_a_second() {
        let mut reel = Reel::new(10, 1, 2000, 0);
        add(&mut reel, 2, &[(1, reading(10, 1))]);
        add(&mut reel, 6, &[(1, reading(30, 1))]);
        add(&mut reel, 8, &[(1, reading(0, 1))]);
        assert_eq!(
            series(&reel, 0, "db001", "queries"),
            json!([5.0, 5.0, 0.0]),
            "one that begins anew is no rate below 0"
        );
    }

    #[test]
    fn only_the_last_samples_are_kept() {
        let mut reel = Reel::new(3, 1, 2000, 0);
        (1..=5).for_each(|n| add(&mut reel, 2 * n, &[(1, reading(0, n))]));
        assert_eq!(reel.json(0)["times"], json!([6000, 8000, 10_000]));
        assert_eq!(series(&reel, 0, "db001", "clients"), json!([3.0, 4.0, 5.0]));
        assert_eq!(series(&reel, 8000, "db001", "clients"), json!([5.0]), "and of those what is new to the reader");
    }

    #[test]
    fn a_sample_of_several_readings_has_the_highest_level_and_the_rate_of_all() {
        let mut reel = Reel::new(10, 3, 6000, 0);
        for (second, clients) in [(2, 1), (4, 9), (6, 2)] {
            add(&mut reel, second, &[(1, reading(2 * second, clients))]);
        }
        assert_eq!(reel.json(0)["times"], json!([6000]));
        assert_eq!(series(&reel, 0, "db001", "clients"), json!([9.0]));
        assert_eq!(series(&reel, 0, "db001", "queries"), json!([2.0]));
    }

    #[test]
    fn times_are_those_within_the_sample() {
        let times = Times::default();
        let mut reel = Reel::new(10, 1, 2000, 0);
        (0..100).for_each(|_| times.add(900_000_000));
        add(&mut reel, 2, &[(1, Reading { times: times.durations(), ..reading(100, 1) })]);
        (0..100).for_each(|_| times.add(1_000_000));
        add(&mut reel, 4, &[(1, Reading { times: times.durations(), ..reading(200, 1) })]);
        add(&mut reel, 6, &[(1, Reading { times: times.durations(), ..reading(200, 1) })]);
        let p99 = series(&reel, 0, "db001", "p99_ms");
        assert!(p99[0].as_f64().unwrap() > 500.0 && p99[1].as_f64().unwrap() < 1.1, "{p99}");
        assert_eq!(p99[2], Json::Null, "nothing ran");
    }

    #[test]
    fn what_comes_late_or_goes_is_not_known_meanwhile() {
        let mut reel = Reel::new(3, 1, 2000, 0);
        add(&mut reel, 2, &[(1, reading(0, 1))]);
        add(&mut reel, 4, &[(1, reading(0, 1)), (2, reading(4, 7))]);
        add(&mut reel, 6, &[(2, reading(4, 7))]);
        assert_eq!(series(&reel, 0, "db001", "clients"), json!([1.0, 1.0, null]));
        assert_eq!(series(&reel, 0, "db002", "clients"), json!([null, 7.0, 7.0]));
        assert_eq!(series(&reel, 0, "db002", "queries"), json!([null, 2.0, 0.0]), "it began at 0 within that sample");
        (4..=5).for_each(|n| add(&mut reel, 2 * n, &[]));
        assert_eq!(series(&reel, 0, "db001", "clients"), Json::Null, "forgotten after a whole reel without it");
    }

    #[test]
    fn what_is_beyond_the_bound_is_one() {
        let mut reel = Reel::new(10, 1, 2000, 0);
        let most = Kind::Pool.shape().most;
        let many = |queries: u64| (0..most + 3).map(|n| (n, reading(queries, 2))).collect::<Vec<_>>();
        add(&mut reel, 2, &many(10));
        add(&mut reel, 4, &many(20));
        assert_eq!(reel.json(0)["pools"].as_array().unwrap().len(), most + 1);
        assert_eq!(series(&reel, 0, OTHERS, "clients"), json!([6.0, 6.0]));
        assert_eq!(series(&reel, 0, OTHERS, "queries"), json!([null, 15.0]));
    }

    #[test]
    fn a_level_that_nobody_knows_is_none() {
        let mut reel = Reel::new(10, 1, 2000, 0);
        let node = Subject { kind: Kind::Node, names: vec!["main".into(), "pg2".into()] };
        let reading = Reading { levels: vec![None, Some(3)], ..Reading::default() };
        reel.add(2 * SECOND, 2000, BTreeMap::from([(node, reading)]));
        let all = reel.json(0);
        assert_eq!(
            all["nodes"],
            json!([{"service": "main", "node": "pg2", "series": {"lag_bytes": [null], "lag_ms": [3.0]}}])
        );
    }
}
