//! Spans as OTLP has them.
//!
//! A statement is a span of kind SERVER, what Forebay did for its client; below it `wait`, the time in the queue, and
//! `run` of kind CLIENT, the time at the node. Names and attributes are those of OpenTelemetry's semantic conventions for
//! databases, 1.33 and later.

use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Told, Status};

use super::{number, resource, scope, text, unix_nanos};
use crate::config::model::Telemetry;
use crate::ops::instance::Instance;
use crate::pg::trace::Span;
use crate::sql;
use crate::worker::clock::now_ns;

/// The trace is sampled.
const SAMPLED: u32 = 0x01;
/// It is known whether the parent is of another process, and it is.
const IS_REMOTE: u32 = 0x0300;
/// It is known, and it is not.
const IS_LOCAL: u32 = 0x0100;

/// All of them in one request.
pub(super) fn request(spans: Vec<Span>, instance: &Instance, telemetry: &Telemetry) -> ExportTraceServiceRequest {
    // Of the clock that the data threads read. It has moved little since.
    let began = unix_nanos(SystemTime::now()).saturating_sub(now_ns());
    let told = spans.into_iter().flat_map(|span| told(span, began)).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans: told, ..ScopeSpans::default() }];
    let resource = Some(resource(instance, telemetry));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

/// `began`: what is 0 on the monotonic clock, ns since 1970.
fn told(span: Span, began: u64) -> Vec<Told> {
    let (trace, parent) = match span.context {
        Some(context) => (context.trace.to_vec(), context.parent.to_vec()),
        None => (random(16), Vec::new()),
    };
    let (sent, ended) = (began + span.ran.0, began + span.ran.1);
    let wait = span.wait.map(|(from, to)| (began + from, began + to));
    let summary = sql::summary(&span.text);
    let common = attributes(&span, &summary);
    let status = span.failure.as_ref().map(|_| Status { code: StatusCode::Error.into(), message: String::new() });
    let whole = Told {
        trace_id: trace.clone(),
        span_id: random(8),
        flags: SAMPLED | if parent.is_empty() { IS_LOCAL } else { IS_REMOTE },
        parent_span_id: parent,
        name: summary,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: wait.map_or(sent, |(from, _)| from),
        end_time_unix_nano: ended,
        attributes: common.iter().cloned().chain(of_client(&span)).collect(),
        status: status.clone(),
        ..Told::default()
    };
    let child = |name: &str, kind: SpanKind, (from, to): (u64, u64), attributes| Told {
        trace_id: trace.clone(),
        span_id: random(8),
        flags: SAMPLED | IS_LOCAL,
        parent_span_id: whole.span_id.clone(),
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: from,
        end_time_unix_nano: to,
        attributes,
        ..Told::default()
    };
    let waited = wait.map(|wait| child("wait", SpanKind::Internal, wait, Vec::new()));
    let ran = span.node.as_ref().map(|_| Told { status, ..child("run", SpanKind::Client, (sent, ended), common) });
    [Some(whole), waited, ran].into_iter().flatten().collect()
}

fn attributes(span: &Span, summary: &str) -> Vec<KeyValue> {
    let mut all = vec![
        text("db.system.name", "postgresql"),
        text("db.namespace", &span.database),
        text("db.query.text", &span.text),
        text("db.query.summary", summary),
        text("db.operation.name", summary.split(' ').next().unwrap_or_default()),
    ];
    if let Some(node) = &span.node {
        all.push(text("server.address", &node.host));
        if !node.host.starts_with('/') {
            all.push(number("server.port", u64::from(node.port)));
        }
        all.push(text("forebay.node", &node.name));
        all.push(text("forebay.target", if node.is_replica { "replica" } else { "primary" }));
    }
    match &span.failure {
        Some(failure) if failure.code.is_empty() => all.push(text("error.type", "_OTHER")),
        Some(failure) => {
            all.push(text("error.type", &failure.code));
            all.push(text("db.response.status_code", &failure.code));
            all.push(text("forebay.error.source", if failure.is_of_server { "server" } else { "forebay" }));
        }
        None => all.push(number("db.response.returned_rows", span.rows)),
    }
    all
}

fn of_client(span: &Span) -> Vec<KeyValue> {
    let (address, port) = span.client.named();
    let mut all = vec![text("user.name", &span.user)];
    match span.client.ip() {
        Some(_) => all.extend([
            text("client.address", &address),
            number("client.port", u64::from(port)),
            text("network.peer.address", &address),
            number("network.peer.port", u64::from(port)),
        ]),
        None => all.push(text("network.transport", "unix")),
    }
    all
}

/// An identifier. Zeroes would be none, and do not come.
fn random(length: usize) -> Vec<u8> {
    let mut id = vec![1; length];
    // Without randomness there are no logins either.
    let _ = getrandom::fill(&mut id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;
    use crate::pg::trace::{Failure, SpanNode};
    use crate::sql::Traceparent;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    fn span() -> Span {
        Span {
            context: Some(Traceparent { trace: [7; 16], parent: [9; 8], is_sampled: true }),
            text: "select a from t where b = ?".into(),
            database: "shop".to_owned(),
            user: "app".to_owned(),
            client: Endpoint::default(),
            node: Some(SpanNode { name: "pg1".to_owned(), host: "db1".to_owned(), port: 5432, is_replica: false }),
            wait: Some((100, 300)),
            ran: (310, 900),
            rows: 4,
            failure: None,
        }
    }

    fn value(span: &Told, key: &str) -> Option<String> {
        let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
        Some(match value {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn the_wait_and_the_run_are_apart_below_the_whole() {
        let all = told(span(), 1_000_000);
        let [whole, wait, run] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((whole.name.as_str(), wait.name.as_str(), run.name.as_str()), ("SELECT t", "wait", "run"));
        assert_eq!((&whole.trace_id, &whole.parent_span_id), (&vec![7; 16], &vec![9; 8]));
        assert!(
            [wait, run].iter().all(|child| child.parent_span_id == whole.span_id && child.trace_id == whole.trace_id)
        );
        let times = |span: &Told| (span.start_time_unix_nano, span.end_time_unix_nano);
        assert_eq!(
            (times(whole), times(wait), times(run)),
            ((1_000_100, 1_000_900), (1_000_100, 1_000_300), (1_000_310, 1_000_900))
        );
        assert_eq!(value(run, "server.port").as_deref(), Some("5432"));
        assert_eq!(value(whole, "db.query.summary").as_deref(), Some("SELECT t"));
        assert_eq!(value(whole, "db.response.returned_rows").as_deref(), Some("4"));
        assert_eq!(whole.status, None);
    }

    #[test]
    fn what_failed_without_a_node_says_so() {
        let failure = Some(Failure { code: "57P03".to_owned(), is_of_server: false });
        let all = told(Span { node: None, context: None, failure, ..span() }, 0);
        let [whole, wait] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((whole.trace_id.len(), whole.span_id.len(), whole.parent_span_id.len()), (16, 8, 0));
        assert_eq!(wait.name, "wait");
        assert_eq!(value(whole, "db.response.status_code").as_deref(), Some("57P03"));
        assert_eq!(whole.status.as_ref().map(|status| status.code), Some(StatusCode::Error.into()));
    }
}
