//! `[notify]`: tells URLs of events, each in order, without ever holding up anything else.
//!
//! One task a URL with a bounded queue: a receiver that is slow or away delays nobody but itself, and loses the oldest
//! events first. Nothing is told twice once it was accepted; what was on its way when the connection broke may be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::instance::Instance;
use crate::config::model::{Notify, ServerTls};
use crate::net::{Target, credentials, dial_encrypted};
use crate::topology::Event;

/// Events that wait for one URL.
const MOST_WAITING: usize = 1000;
/// For one try, from the connection to the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the second try; twice that before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two tries at the longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After that an event is given up.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// Tells the configured URLs of every event, until the process ends. A reload that changes `[notify]` begins anew, with the
/// events that come after it.
pub async fn run(instance: Arc<Instance>) {
    let mut added = instance.events.watch();
    let mut seen = 0;
    let mut receivers = Receivers::default();
    loop {
        let notify = instance.config.load().notify.clone();
        if notify != receivers.notify {
            receivers = Receivers::new(notify);
        }
        for event in instance.events.since(seen) {
            seen = event.seq;
            if instance.tells(&event) {
                receivers.tell(&event);
            }
        }
        if added.changed().await.is_err() {
            return;
        }
    }
}

type Queue = watch::Sender<VecDeque<Event>>;

/// The URLs and who serves them.
#[derive(Default)]
struct Receivers {
    notify: Notify,
    queues: Vec<Arc<Queue>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Receivers {
    fn new(notify: Notify) -> Self {
        let mut queues = Vec::new();
        let mut tasks = Vec::new();
        // Reading all authorities of the system takes a while: only if somebody needs them.
        let is_encrypted = notify.webhook.iter().any(|url| url.starts_with("https:"));
        let tls = match is_encrypted {
            true => credentials::for_the_world(notify.tls_ca.as_deref()),
            false => Ok(ServerTls::default()),
        };
        for url in &notify.webhook {
            match tls.clone().and_then(|tls| Receiver::new(url, tls)) {
                Ok(receiver) => {
                    let queue = Arc::new(watch::Sender::new(VecDeque::new()));
                    tasks.push(tokio::task::spawn_local(receiver.serve(Arc::clone(&queue))));
                    queues.push(queue);
                }
                Err(why) => tracing::error!(why, "a webhook cannot be used"),
            }
        }
        Receivers { notify, queues, tasks }
    }

    fn tell(&self, event: &Event) {
        if !self.notify.events.is_empty() && !self.notify.events.contains(&event.event) {
            return;
        }
        for queue in &self.queues {
            let mut is_lost = false;
            queue.send_modify(|waiting| {
                is_lost = waiting.len() >= MOST_WAITING && waiting.pop_front().is_some();
                waiting.push_back(event.clone());
            });
            if is_lost {
                tracing::warn!("a webhook takes events too slowly: the oldest of {MOST_WAITING} is lost");
            }
        }
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One URL.
struct Receiver {
    target: Target,
    tls: ServerTls,
    uri: Uri,
    /// Of the URL what is no secret.
    shown: String,
}

/// Why a try was not a success.
#[derive(Debug)]
enum Failed {
    /// It may be one later.
    ForNow(String),
    /// It never will.
    ForGood(String),
}

impl Failed {
    fn for_now(why: impl std::fmt::Display) -> Self {
        Failed::ForNow(why.to_string())
    }
}

impl Receiver {
    fn new(url: &str, tls: ServerTls) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "notify.webhook holds a URL that cannot be read".to_owned())?;
        let is_encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or("notify.webhook holds a URL without a host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
        let shown = format!("{}://{host}:{port}", uri.scheme_str().unwrap_or("http"));
        let tls = if is_encrypted { tls } else { ServerTls::default() };
        Ok(Receiver { target: Target { host, port }, tls, uri, shown })
    }

    async fn serve(self, queue: Arc<Queue>) {
        let mut changed = queue.subscribe();
        loop {
            // Taken out only when it is settled, so that it counts among those that wait.
            let next = queue.borrow().front().cloned();
            match next {
                Some(event) => {
                    self.deliver(&event, &queue).await;
                    queue.send_modify(|waiting| {
                        if waiting.front().is_some_and(|first| first.seq == event.seq) {
                            waiting.pop_front();
                        }
                    });
                }
                None => {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Tries until it is accepted, given up, or pushed out of the queue.
    async fn deliver(&self, event: &Event, queue: &Queue) {
        let begun = tokio::time::Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let why = match tokio::time::timeout(PATIENCE, self.post(event)).await {
                Ok(Ok(())) => {
                    if tries > 1 {
                        tracing::info!(webhook = self.shown, event = event.event, tries, "a webhook answers again");
                    }
                    return;
                }
                Ok(Err(Failed::ForGood(why))) => {
                    tracing::warn!(webhook = self.shown, event = event.event, why, "a webhook refuses an event");
                    return;
                }
                Ok(Err(Failed::ForNow(why))) => why,
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            if begun.elapsed() + pause > GIVEN_UP {
                tracing::warn!(webhook = self.shown, event = event.event, tries, why, "an event was not delivered");
                return;
            }
            if tries == 1 {
                tracing::warn!(
                    webhook = self.shown,
                    event = event.event,
                    why,
                    "a webhook takes no event now; tried again"
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if queue.borrow().front().is_none_or(|first| first.seq != event.seq) {
                return;
            }
        }
    }

    async fn post(&self, event: &Event) -> Result<(), Failed> {
        let stream = dial_encrypted(&self.target, &self.tls).await.map_err(Failed::for_now)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failed::for_now)?;
        let request = Request::post(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body(event))))
            .map_err(|e| Failed::ForGood(e.to_string()))?;
        tokio::pin!(connection);
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        let answered = tokio::select! {
            answered = &mut answer => answered,
            ended = &mut connection => {
                ended.map_err(Failed::for_now)?;
                answer.await
            }
        };
        match answered.map_err(Failed::for_now)?.status() {
            status if status.is_success() => Ok(()),
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Err(Failed::for_now(status)),
            status if status.is_server_error() => Err(Failed::for_now(status)),
            status => Err(Failed::ForGood(status.to_string())),
        }
    }
}

/// What is sent: `text` is what chat services show, the rest is for programs.
fn body(event: &Event) -> String {
    let time = event.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let place = match (event.service.as_str(), event.node.as_str()) {
        ("", "") => String::new(),
        (service, "") => format!(" {service}"),
        ("", node) => format!(" {node}"),
        (service, node) => format!(" {service}.{node}"),
    };
    let detail = if event.detail.is_empty() { String::new() } else { format!(": {}", event.detail) };
    json!({
        "text": format!("forebay{place}: {}{detail}", event.event),
        "event": event.event,
        "service": event.service,
        "node": event.node,
        "epoch": event.epoch,
        "detail": event.detail,
        "time": time.as_secs_f64(),
        "sequence": event.seq,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_text_says_what_happened_where() {
        let mut event = Event {
            seq: 3,
            time: SystemTime::UNIX_EPOCH,
            service: "main".to_owned(),
            epoch: 2,
            event: "primary_changed".to_owned(),
            node: "pg2".to_owned(),
            detail: "pg1 to pg2 \"now\"".to_owned(),
        };
        let told: serde_json::Value = serde_json::from_str(&body(&event)).unwrap();
        assert_eq!(told["text"], "forebay main.pg2: primary_changed: pg1 to pg2 \"now\"");
        assert_eq!((told["epoch"].as_u64(), told["sequence"].as_u64()), (Some(2), Some(3)));
        (event.service, event.node, event.detail) = Default::default();
        let told: serde_json::Value = serde_json::from_str(&body(&event)).unwrap();
        assert_eq!(told["text"], "forebay: primary_changed");
    }

    #[test]
    fn a_url_is_taken_apart_and_its_path_kept_back() {
        let of = |url| Receiver::new(url, ServerTls::default()).unwrap();
        let secret = of("https://hooks.example/T0/hidden");
        assert_eq!((secret.target.port, secret.shown.as_str()), (443, "https://hooks.example:443"));
        assert_eq!(of("http://[::1]:81/x").target, Target { host: "::1".to_owned(), port: 81 });
        assert!(Receiver::new("http:///x", ServerTls::default()).is_err());
    }
}
