//! `/metrics`: what [`table`] lists, in the exposition formats of OpenMetrics 1.0 and of Prometheus 0.0.4.
//!
//! Nothing is counted for this page alone: a scrape asks every data thread for copies of the counters that it keeps
//! anyway, and adds them up here, on the control thread.

mod otlp;
mod table;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::facts::{Facts, Needs};
use crate::ops::Instance;
use crate::worker::times::Durations;
pub(super) use otlp::run as tell;

/// Pools that are told apart; those beyond are one, of [`OTHERS`].
const MOST_POOLS: usize = 500;
/// Database and user of all pools beyond [`MOST_POOLS`].
const OTHERS: &str = "(others)";

/// The buckets of times that are told, by index: bounds of 66 microseconds, and twice that, up to 137 s.
const BUCKETS: std::ops::RangeInclusive<usize> = 15..=36;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric.
pub(super) struct Metric {
    /// As in the contract; a counter's ends in `_total`.
    pub name: &'static str,
    pub kind: MetricType,
    pub about: &'static str,
    pub labels: &'static [&'static str],
    pub samples: fn(&Source<'_>, &mut Samples),
}

/// What the samples are made of.
pub(super) struct Source<'a> {
    pub facts: &'a Facts,
    pub instance: &'a Instance,
    /// At most [`MOST_POOLS`] and one.
    pub pools: Vec<table::Pool<'a>>,
}

/// The samples of one metric: values of its labels, and a number.
#[derive(Default)]
pub(super) struct Samples(Vec<Labelled>);

type Labelled = (Vec<Cow<'static, str>>, Sample);

enum Sample {
    Count(u64),
    Amount(f64),
    Level(f64),
    Times { counts: Box<Durations>, seconds: f64 },
}

impl Samples {
    /// Of a counter.
    pub(super) fn count(&mut self, labels: Vec<Cow<'static, str>>, count: u64) {
        self.0.push((labels, Sample::Count(count)));
    }

    /// Of a counter of parts.
    pub(super) fn amount(&mut self, labels: Vec<Cow<'static, str>>, amount: f64) {
        self.0.push((labels, Sample::Amount(amount)));
    }

    /// Of a gauge.
    pub(super) fn level(&mut self, labels: Vec<Cow<'static, str>>, level: f64) {
        self.0.push((labels, Sample::Level(level)));
    }

    /// Of a histogram; `sum` in ns.
    pub(super) fn times(&mut self, labels: Vec<Cow<'static, str>>, counts: &Durations, sum: u64) {
        let seconds = sum as f64 / 1e9;
        self.0.push((labels, Sample::Times { counts: Box::new(*counts), seconds }));
    }
}

/// Everything, gathered and encoded, and its media type. `accept` is what the reader takes.
pub(super) async fn exposition(instance: &Arc<Instance>, accept: &str) -> (&'static str, String) {
    let facts = Facts::gather(instance, Needs::POOLS | Needs::BANS).await;
    let text = text(instance, &facts);
    match accept.contains("application/openmetrics-text") {
        true => (OPENMETRICS, text),
        false => (PROMETHEUS, for_prometheus(&text)),
    }
}

fn text(instance: &Instance, facts: &Facts) -> String {
    let source = Source { facts, instance, pools: table::pools(facts) };
    let families = table::METRICS
        .iter()
        .map(|metric| {
            let mut samples = Samples::default();
            (metric.samples)(&source, &mut samples);
            (metric, samples.0)
        })
        .collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

struct Families(Vec<(&'static Metric, Vec<Labelled>)>);

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Families")
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in &self.0 {
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let mut family = encoder.encode_descriptor(name, metric.about, None, metric.kind)?;
            for (values, sample) in samples {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(values.iter().map(|value| value.as_ref())).collect();
                let labels = labels.as_slice();
                match labels.is_empty() {
                    true => sample.encode(&mut family)?,
                    false => sample.encode(&mut family.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Sample::Count(count) => encoder.encode_counter::<NoLabelSet, u64, u64>(count, None),
            Sample::Amount(amount) => encoder.encode_counter::<NoLabelSet, f64, f64>(amount, None),
            Sample::Level(level) => encoder.encode_gauge(level),
            Sample::Times { counts, seconds } => {
                encoder.encode_histogram::<NoLabelSet>(*seconds, counts.count(), &buckets(counts), None)
            }
        }
    }
}

/// Upper bounds in seconds and how many are in each; the last has no bound.
fn buckets(counts: &Durations) -> Vec<(f64, u64)> {
    let mut told: Vec<(f64, u64)> = BUCKETS.map(|i| ((1u64 << (i + 1)) as f64 / 1e9, 0)).collect();
    told.push((f64::INFINITY, 0));
    for (i, count) in counts.0.iter().enumerate() {
        let place = i.clamp(*BUCKETS.start(), *BUCKETS.end() + 1) - BUCKETS.start();
        if let Some((_, told)) = told.get_mut(place) {
            *told += count;
        }
    }
    told
}

/// The older format: a counter's whole name in its description, and none of what is only in the newer one.
fn for_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT")) {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = described.and_then(|rest| rest.split(' ').next());
        let counter = name.filter(|name| {
            let total = table::METRICS.iter().filter_map(|metric| metric.name.strip_suffix("_total"));
            total.into_iter().any(|known| known == *name)
        });
        match counter {
            Some(name) => out.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::times::Times;

    #[test]
    fn every_time_is_in_one_bucket() {
        let times = Times::default();
        for ns in [0, 65_535, 65_536, 1_000_000, 136_000_000_000, 138_000_000_000, u64::MAX] {
            times.add(ns);
        }
        let told = buckets(&times.durations());
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 7);
        assert_eq!((told[0].1, told[1].1, told.last().unwrap().1), (2, 1, 2));
        assert!((told[0].0 - 0.000_065_536).abs() < 1e-12, "{}", told[0].0);
        assert!((told[told.len() - 2].0 - 137.438_953_472).abs() < 1e-9);
    }

    #[test]
    fn names_are_the_fields_and_told_once() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in table::METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            let is_counter = matches!(metric.kind, MetricType::Counter);
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            assert!(metric.name.starts_with("forebay_") || metric.name.starts_with("process_"), "{}", metric.name);
            assert!(!metric.about.ends_with('.'), "{}: the format adds a full stop", metric.name);
        }
    }

    #[test]
    fn the_older_format_has_whole_names_and_no_end() {
        let older = for_prometheus(
            "# HELP forebay_queries a.\n# TYPE forebay_queries counter\nforebay_queries_total 1\n# EOF\n",
        );
        assert_eq!(
            older,
            "# HELP forebay_queries_total a.\n# TYPE forebay_queries_total counter\nforebay_queries_total 1\n"
        );
    }
}
