//! Requests to one path of the collector, on one connection that is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::model::{ServerTls, Telemetry};
use crate::net::{Target, credentials, dial_encrypted};
use crate::ops::instance::Instance;

/// For one try, from the connection to the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the second try; twice that before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two tries at the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// An answer that is longer is not looked at.
const LONGEST_ANSWER: usize = 64 * 1024;

/// See the module.
pub struct Sender {
    target: Target,
    tls: ServerTls,
    uri: Uri,
    headers: HeaderMap,
    /// Of the URL what is no secret.
    shown: String,
    kept: Option<Kept>,
    telemetry: Telemetry,
    instance: Arc<Instance>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.shown)
    }
}

/// A connection and who moves its bytes.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a try was not a success.
enum Failed {
    /// It may be one later, at the earliest then.
    ForNow(String, Option<Duration>),
    /// It never will.
    ForGood(String),
}

fn for_now(why: impl std::fmt::Display) -> Failed {
    Failed::ForNow(why.to_string(), None)
}

impl Sender {
    /// `None` if nothing is to be told, or it cannot be, which the log says then.
    pub fn new(telemetry: &Telemetry, path: &str, instance: &Arc<Instance>) -> Option<Self> {
        let url = telemetry.otlp.as_deref()?;
        Self::to(url, path, telemetry, instance)
            .inspect_err(|why| tracing::error!(why, "telemetry.otlp cannot be used"))
            .ok()
    }

    fn to(url: &str, path: &str, telemetry: &Telemetry, instance: &Arc<Instance>) -> Result<Self, String> {
        let uri: Uri = format!("{}{path}", url.trim_end_matches('/')).parse().map_err(|_| "it is no URL".to_owned())?;
        let is_encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or("it has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let shown = format!("{}://{host}:{port}", uri.scheme_str().unwrap_or("http"));
        // Reading all authorities of the system takes a while: only if somebody needs them.
        let tls = match is_encrypted {
            true => credentials::for_the_world(telemetry.tls_ca.as_deref())?,
            false => ServerTls::default(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &telemetry.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|e| e.to_string())?;
            let mut value = HeaderValue::try_from(value.0.as_str()).map_err(|e| e.to_string())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        headers.insert(HOST, HeaderValue::try_from(authority).map_err(|e| e.to_string())?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION"))));
        let (telemetry, instance) = (telemetry.clone(), Arc::clone(instance));
        Ok(Sender { target: Target { host, port }, tls, uri, headers, shown, kept: None, telemetry, instance })
    }

    /// Tries until the request is accepted, or `patience` is over, or the configuration is another one. The answer is how
    /// much of it the collector has rejected; `None`: it has none of it. Safe to cancel.
    pub async fn deliver(&mut self, request: Bytes, patience: Duration) -> Option<usize> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let tried = tokio::time::timeout(PATIENCE, self.post(request.clone())).await;
            let (why, at_least) = match tried {
                Ok(Ok(rejected)) => {
                    if tries > 1 {
                        tracing::info!(
                            collector = self.shown,
                            path = self.uri.path(),
                            tries,
                            "a collector answers again"
                        );
                    }
                    return Some(rejected);
                }
                Ok(Err(Failed::ForGood(why))) => {
                    tracing::warn!(
                        collector = self.shown,
                        path = self.uri.path(),
                        why,
                        "a collector refuses telemetry"
                    );
                    return None;
                }
                Ok(Err(Failed::ForNow(why, at_least))) => (why, at_least),
                Err(_) => (format!("no answer within {PATIENCE:?}"), None),
            };
            self.kept = None;
            if tries == 1 {
                tracing::warn!(
                    collector = self.shown,
                    path = self.uri.path(),
                    why,
                    "a collector takes no telemetry now"
                );
            }
            let wait = at_least.map_or(pause, |at_least| at_least.clamp(pause, LONGEST_PAUSE));
            if begun.elapsed() + wait > patience {
                tracing::warn!(collector = self.shown, path = self.uri.path(), tries, why, "telemetry is lost");
                return None;
            }
            if self.is_outdated_within(wait).await {
                return None;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits. True as soon as another configuration is in force.
    async fn is_outdated_within(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut reloaded = self.instance.events.watch();
        loop {
            if self.instance.config.load().telemetry != self.telemetry {
                return true;
            }
            // An event may be a reload.
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                changed = reloaded.changed() => if changed.is_err() { return true },
            }
        }
    }

    async fn post(&mut self, body: Bytes) -> Result<usize, Failed> {
        // The collector may have closed what was kept; that says nothing about the request.
        if let Some(mut kept) = self.kept.take()
            && let Ok(answer) = kept.sender.send_request(self.request(body.clone())?).await
        {
            self.kept = Some(kept);
            return self.judge(answer).await;
        }
        let stream = dial_encrypted(&self.target, &self.tls).await.map_err(for_now)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(for_now)?;
        let task = tokio::task::spawn_local(async move {
            // Whoever sends is told.
            let _ = connection.await;
        });
        let mut kept = Kept { sender, task };
        let answer = kept.sender.send_request(self.request(body)?).await.map_err(for_now)?;
        self.kept = Some(kept);
        self.judge(answer).await
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, Failed> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path).body(Full::new(body)).map_err(|e| Failed::ForGood(e.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// As the specification of OTLP says which answers may be others later.
    async fn judge(&self, answer: Response<hyper::body::Incoming>) -> Result<usize, Failed> {
        let status = answer.status();
        let at_least = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // Read to its end, so that the connection can be used again.
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await.map_err(for_now)?.to_bytes();
        match status {
            status if status.is_success() => Ok(rejected(body)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failed::ForNow(status.to_string(), at_least.map(Duration::from_secs))),
            status => Err(Failed::ForGood(status.to_string())),
        }
    }
}

/// How much the collector has thrown away. The answers for traces and metrics have the same form.
fn rejected(body: Bytes) -> usize {
    let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
    let Some(partial) = partial else { return 0 };
    if partial.rejected_spans > 0 || !partial.error_message.is_empty() {
        tracing::warn!(rejected = partial.rejected_spans, why = partial.error_message, "a collector rejects telemetry");
    }
    usize::try_from(partial.rejected_spans).unwrap_or(0)
}
