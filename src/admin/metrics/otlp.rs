//! The same metrics for an OpenTelemetry collector, told by ourselves every `telemetry.interval`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric as Told, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use prometheus_client::metrics::MetricType;
use prost::Message;

use super::{Facts, Labelled, Metric, Needs, Sample, Samples, Source, buckets, table};
use crate::config::model::Telemetry;
use crate::ops::Instance;
use crate::ops::otlp::{Sender, resource, scope, text, unix_nanos};

/// Tells until the process ends, as the configuration says at the time.
pub(in crate::admin) async fn run(instance: Arc<Instance>) {
    let mut reloaded = instance.events.watch();
    let mut telemetry = Telemetry::default();
    let mut sender = None;
    loop {
        reloaded.mark_unchanged();
        let now = instance.config.load().telemetry.clone();
        if now != telemetry {
            sender = Sender::new(&now, "/v1/metrics", &instance);
            telemetry = now;
        }
        let (Some(sender), Some(interval)) = (&mut sender, telemetry.interval) else {
            if reloaded.changed().await.is_err() {
                return;
            }
            continue;
        };
        let next = tokio::time::Instant::now() + interval;
        tell(&instance, &telemetry, sender, interval).await;
        while tokio::time::Instant::now() < next && instance.config.load().telemetry == telemetry {
            // An event may be a reload.
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                changed = reloaded.changed() => if changed.is_err() { return },
            }
        }
    }
}

async fn tell(instance: &Arc<Instance>, telemetry: &Telemetry, sender: &mut Sender, interval: Duration) {
    let facts = Facts::gather(instance, Needs::POOLS | Needs::BANS).await;
    let request = request(instance, &facts, telemetry);
    let told = &instance.shared.spans.metrics;
    // The next ones tell the same and more.
    match sender.deliver(request.encode_to_vec().into(), interval).await {
        Some(_) => drop(told.sent.fetch_add(1, Ordering::Relaxed)),
        None => told.lose(1),
    }
}

fn request(instance: &Instance, facts: &Facts, telemetry: &Telemetry) -> ExportMetricsServiceRequest {
    let source = Source { facts, instance, pools: table::pools(facts) };
    let times = (unix_nanos(instance.started), unix_nanos(SystemTime::now()));
    let metrics = table::METRICS.iter().map(|metric| {
        let mut samples = Samples::default();
        (metric.samples)(&source, &mut samples);
        told(metric, &samples.0, times)
    });
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics: metrics.collect(), ..ScopeMetrics::default() }];
    let resource = Some(resource(instance, telemetry));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    }
}

/// `times`: when counting began, and now, ns since 1970.
fn told(metric: &Metric, samples: &[Labelled], times: (u64, u64)) -> Told {
    let temporality = AggregationTemporality::Cumulative.into();
    let numbers = || samples.iter().filter_map(|sample| number(metric, sample, times)).collect();
    let data = match metric.kind {
        MetricType::Histogram => Data::Histogram(Histogram {
            data_points: samples.iter().filter_map(|sample| histogram(metric, sample, times)).collect(),
            aggregation_temporality: temporality,
        }),
        MetricType::Counter => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: temporality, is_monotonic: true })
        }
        _ => Data::Gauge(Gauge { data_points: numbers() }),
    };
    Told {
        name: metric.name.to_owned(),
        description: metric.about.to_owned(),
        unit: unit(metric.name).to_owned(),
        data: Some(data),
        ..Told::default()
    }
}

/// As UCUM calls what the name says.
fn unit(name: &str) -> &'static str {
    match name.strip_suffix("_total").unwrap_or(name) {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    }
}

fn attributes(metric: &Metric, sample: &Labelled) -> Vec<KeyValue> {
    metric.labels.iter().zip(&sample.0).map(|(label, value)| text(label, value)).collect()
}

fn number(metric: &Metric, sample: &Labelled, (began, now): (u64, u64)) -> Option<NumberDataPoint> {
    let (start, value) = match &sample.1 {
        Sample::Count(count) => (began, Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX))),
        Sample::Amount(amount) => (began, Value::AsDouble(*amount)),
        Sample::Level(level) => (0, Value::AsDouble(*level)),
        Sample::Times { .. } => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(metric, sample),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(metric: &Metric, sample: &Labelled, (began, now): (u64, u64)) -> Option<HistogramDataPoint> {
    let Sample::Times { counts, seconds } = &sample.1 else { return None };
    let buckets = buckets(counts);
    Some(HistogramDataPoint {
        attributes: attributes(metric, sample),
        start_time_unix_nano: began,
        time_unix_nano: now,
        count: counts.count(),
        sum: Some(*seconds),
        bucket_counts: buckets.iter().map(|(_, count)| *count).collect(),
        explicit_bounds: buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
        ..HistogramDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::times::Times;

    #[test]
    fn every_kind_is_told_as_what_it_is() {
        let find = |name: &str| table::METRICS.iter().find(|metric| metric.name == name).unwrap();
        let mut samples = Samples::default();
        samples.count(vec!["main".into()], 7);
        let counter = told(find("forebay_failovers_total"), &samples.0, (1, 2));
        let Some(Data::Sum(sum)) = counter.data else { panic!("{counter:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        assert_eq!(sum.data_points[0].value, Some(Value::AsInt(7)));
        assert_eq!((sum.data_points[0].start_time_unix_nano, sum.data_points[0].time_unix_nano), (1, 2));
        assert_eq!(sum.data_points[0].attributes[0].key, "service");

        let times = Times::default();
        times.add(1_000_000);
        let mut samples = Samples::default();
        samples.times(vec!["main".into()], &times.durations(), 1_000_000);
        let histogram = told(find("forebay_failover_gap_seconds"), &samples.0, (1, 2));
        assert_eq!(histogram.unit, "s");
        let Some(Data::Histogram(histogram)) = histogram.data else { panic!("{histogram:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (1, 1));
    }
}
