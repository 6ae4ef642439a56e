//! `[telemetry]`: tells an OpenTelemetry collector of statements that belong to a trace, by OTLP over HTTP, without ever
//! holding up anything else. The metrics are made where the other forms of them are, and sent by the same [`Sender`].
//!
//! The messages are those of the `opentelemetry-proto` crate. Its SDK is not used: it would measure and queue a second
//! time what is counted and queued already, and cannot tell of a time that has passed on another thread.

mod sender;
mod spans;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::instance::Instance;
use crate::config::model::Telemetry;
use crate::pg::trace::Span;

pub use sender::Sender;

/// Statements in one request.
const MOST_AT_ONCE: usize = 512;
/// Between two looks at what the data threads have put down.
const PAUSE: Duration = Duration::from_millis(500);
/// After that a request's statements are given up.
const GIVEN_UP: Duration = Duration::from_secs(300);
/// For what is left when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Sends traces until the process ends, as the configuration says at the time.
pub async fn run(instance: Arc<Instance>) {
    let mut reloaded = instance.events.watch();
    let mut telemetry = Telemetry::default();
    let mut sender = None;
    loop {
        let now = instance.config.load().telemetry.clone();
        if now != telemetry {
            sender = Sender::new(&now, "/v1/traces", &instance);
            telemetry = now;
        }
        let Some(sender) = &mut sender else {
            // What was traced until now is nobody's business any more.
            instance.shared.spans.take(usize::MAX);
            if reloaded.changed().await.is_err() {
                return;
            }
            continue;
        };
        let spans = instance.shared.spans.take(MOST_AT_ONCE);
        if spans.is_empty() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let count = spans.len();
        let request = spans::request(spans, &instance, &telemetry);
        let told = &instance.shared.spans.traces;
        match sender.deliver(request.encode_to_vec().into(), GIVEN_UP).await {
            Some(rejected) => {
                told.lose(rejected);
                told.sent.fetch_add(count.saturating_sub(rejected) as u64, std::sync::atomic::Ordering::Relaxed);
            }
            None => told.lose(count),
        }
    }
}

/// Sends what is left, in one try: the process ends.
pub(super) async fn flush(instance: &Arc<Instance>) {
    let telemetry = instance.config.load().telemetry.clone();
    let spans: Vec<Span> = instance.shared.spans.take(usize::MAX);
    if spans.is_empty() {
        return;
    }
    let Some(mut sender) = Sender::new(&telemetry, "/v1/traces", instance) else { return };
    let request = spans::request(spans, instance, &telemetry);
    let _ = tokio::time::timeout(LAST_WORDS, sender.deliver(request.encode_to_vec().into(), Duration::ZERO)).await;
}

/// Who tells: `service.*`.
pub fn resource(instance: &Instance, telemetry: &Telemetry) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", &telemetry.service_name),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &instance_id(instance)),
        ],
        ..Resource::default()
    }
}

/// The part of the program that tells.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "forebay".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// A UUID that is another one for each process, of random bytes that nothing else is made of.
fn instance_id(instance: &Instance) -> String {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = instance.shared.spans.instance;
    let (high, low) = ([a, b, c, d, e, f, g & 0x0f | 0x40, h], [i & 0x3f | 0x80, j, k, l, m, n, o, p]);
    let (high, low) = (u64::from_be_bytes(high), u64::from_be_bytes(low));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// An attribute.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// ns since 1970, as OTLP counts.
pub fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
