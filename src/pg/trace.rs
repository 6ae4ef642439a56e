//! Spans of statements that belong to a trace, for `[telemetry]`.
//!
//! A statement is traced if its comment has a sampled `traceparent`, or by chance (`telemetry.sample`). What its span has
//! to say is gathered by [`Watched`](super::watch::Watched), on whose queue it is, and handed to the control thread
//! through [`Spans`]: bounded, and without waking anybody. No span holds a value that a client has sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::backend::Backend;
use super::errors::{End, Trouble};
use super::request::text_of;
use super::session::Session;
use crate::net::Endpoint;
use crate::sql::{self, Traceparent};
use crate::wire::pg::frame::{Head, head};
use crate::wire::pg::message::Parse;
use crate::wire::pg::sqlstate::ToClient;

/// Spans that wait to be sent; what comes beyond is lost.
const MOST_WAITING: usize = 8192;
/// Parses that wait for their Bind; a pipeline that parses more before it binds has the rest untraced.
const MOST_PARSED: usize = 64;

/// What ran, from its first wait to the end of its answer.
#[derive(Debug, Clone)]
pub struct Span {
    /// `None` for one that begins a trace of its own.
    pub context: Option<Traceparent>,
    /// See [`sql::common_form`].
    pub text: Box<str>,
    /// Database as its server calls it.
    pub database: String,
    /// Login.
    pub user: String,
    /// Who asked.
    pub client: Endpoint,
    /// Who answered; `None` if it had no connection.
    pub node: Option<SpanNode>,
    /// From when to when it was in the queue, ns of the monotonic clock.
    pub wait: Option<(u64, u64)>,
    /// When it was sent to its node, and when the answer had ended, ns; the same for one that was not sent.
    pub ran: (u64, u64),
    /// Of its command tags.
    pub rows: u64,
    /// Of its failure.
    pub failure: Option<Failure>,
}

/// Where a statement ran.
#[derive(Debug, Clone)]
pub struct SpanNode {
    /// As the configuration calls it.
    pub name: String,
    /// Host, or directory of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// It was a standby.
    pub is_replica: bool,
}

/// How a statement failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// SQLSTATE; empty if nobody said one.
    pub code: String,
    /// The server has said it, not Forebay.
    pub is_of_server: bool,
}

/// What became of one kind of telemetry.
#[derive(Debug, Default)]
pub struct Told {
    /// Accepted by the collector.
    pub sent: AtomicU64,
    /// Lost: too many waited, or the collector did not take them.
    pub dropped: AtomicU64,
}

impl Told {
    /// So many are lost.
    pub fn lose(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// From the data threads to the control thread, which looks in now and then.
#[derive(Debug)]
pub struct Spans {
    waiting: Mutex<Vec<Span>>,
    /// Statements.
    pub traces: Told,
    /// Exports.
    pub metrics: Told,
    /// Tells this process from others.
    pub instance: [u8; 16],
}

impl Spans {
    /// None yet, of the process that these random bytes stand for.
    pub fn new(instance: [u8; 16]) -> Self {
        Spans { waiting: Mutex::default(), traces: Told::default(), metrics: Told::default(), instance }
    }

    fn push(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.len() < MOST_WAITING {
            true => waiting.push(span),
            false => self.traces.lose(1),
        }
    }

    /// The oldest of those that wait, `most` at the most.
    pub fn take(&self, most: usize) -> Vec<Span> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.len() <= most {
            true => std::mem::take(&mut *waiting),
            false => waiting.drain(..most).collect(),
        }
    }
}

/// A statement that is traced, from its sending to its end.
#[derive(Debug)]
pub(super) struct Traced {
    context: Option<Traceparent>,
    text: Box<str>,
    pub wait: Option<(u64, u64)>,
    pub began: u64,
    pub rows: u64,
    pub failure: Option<Failure>,
}

/// Parses whose first Bind belongs to the trace in their comment.
#[derive(Debug, Default)]
pub struct Parsed {
    waiting: Vec<(Box<[u8]>, Traceparent)>,
    /// Requests that have begun since.
    age: u8,
}

impl Session {
    /// What is traced of a statement with its own comment.
    pub(super) fn traced(&self, text: &[u8]) -> Option<Box<Traced>> {
        if !self.core.queries.traces() {
            return None;
        }
        self.traced_as(Traceparent::find(text), text)
    }

    fn traced_as(&self, context: Option<Traceparent>, text: &[u8]) -> Option<Box<Traced>> {
        let is_traced = match context {
            Some(context) => context.is_sampled,
            None => self.core.queries.samples(),
        };
        is_traced.then(|| {
            let text = sql::common_form(text).into();
            Box::new(Traced { context, text, wait: None, began: 0, rows: 0, failure: None })
        })
    }

    /// A Bind may be traced: worth a look at what it binds.
    pub(super) fn may_trace_bind(&self) -> bool {
        let queries = &self.core.queries;
        queries.traces() && (queries.may_sample() || self.names.as_ref().is_some_and(|names| names.parsed.is_some()))
    }

    /// The same of one that was parsed before: its comment is that of the request which parsed it, so it holds for the
    /// first Bind only, in that request or the next one.
    pub(super) fn traced_bind(&mut self, statement: &[u8], text: &[u8]) -> Option<Box<Traced>> {
        if !self.core.queries.traces() {
            return None;
        }
        let mut context = None;
        if let Some(names) = &mut self.names
            && let Some(parsed) = &mut names.parsed
        {
            if let Some(at) = parsed.waiting.iter().position(|(name, _)| **name == *statement) {
                context = Some(parsed.waiting.swap_remove(at).1);
            }
            if parsed.waiting.is_empty() {
                names.parsed = None;
            }
        }
        self.traced_as(context, text)
    }

    /// A statement is parsed.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_parse(&mut self, name: &[u8], text: &[u8]) {
        let context = Traceparent::find(text);
        let names = self.names.get_or_insert_default();
        if let Some(parsed) = &mut names.parsed {
            parsed.waiting.retain(|(known, _)| **known != *name);
        }
        if let Some(context) = context {
            let parsed = names.parsed.get_or_insert_default();
            parsed.age = 0;
            if parsed.waiting.len() < MOST_PARSED {
                parsed.waiting.push((name.into(), context));
            }
        }
    }

    /// A request begins: what was parsed in the one before the last, and not bound since, is not traced.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_request(&mut self) {
        if let Some(names) = &mut self.names
            && let Some(parsed) = &mut names.parsed
        {
            parsed.age += 1;
            if parsed.age > 1 {
                names.parsed = None;
            }
        }
    }

    /// A request is answered by us, because it got no connection.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_refused(&mut self, trouble: &Trouble) {
        let wait = self.rare.watched.take().and_then(|mut watched| watched.take_wait());
        let Head::Frame { kind, len } = head(&self.input) else { return };
        let Some(frame) = self.input.get(..len) else { return };
        let text = match kind {
            b'Q' => text_of(frame),
            b'P' => Parse::read(frame.get(5..).unwrap_or_default()).ok().map(|parse| parse.text),
            _ => None,
        };
        let Some(mut traced) = text.and_then(|text| self.traced(text)) else { return };
        traced.failure = Some(Failure { code: trouble.as_error().sqlstate().to_owned(), is_of_server: false });
        traced.wait = wait;
        let now = self.core.read_clock();
        traced.began = now;
        self.trace_end(None, *traced, now);
    }

    /// What was in flight when its connection ended, or its client was closed.
    pub(super) fn trace_lost(&mut self, backend: &Backend, lost: Vec<Traced>, end: &End) {
        let now = self.core.read_clock();
        let failure = match end {
            End::ServerLost(trouble) | End::Trouble(trouble) => match &**trouble {
                Trouble::ServerEnded { code, .. } => Failure { code: code.clone(), is_of_server: true },
                trouble => Failure { code: trouble.as_error().sqlstate().to_owned(), is_of_server: false },
            },
            _ => Failure { code: String::new(), is_of_server: false },
        };
        for mut traced in lost {
            traced.failure = Some(failure.clone());
            self.trace_end(Some(backend), traced, now);
        }
    }

    /// A traced statement has ended.
    pub(super) fn trace_end(&self, backend: Option<&Backend>, traced: Traced, now: u64) {
        let node = backend.map(|backend| {
            let view = self.core.view(&self.pool);
            let node = view.as_ref().and_then(|view| view.nodes.get(backend.entry.node));
            SpanNode {
                name: self.core.node_name(&self.pool, backend.entry.node),
                host: node.map(|node| node.host.clone()).unwrap_or_default(),
                port: node.map_or(0, |node| node.port),
                is_replica: backend.is_standby,
            }
        });
        self.core.shared.spans.push(Span {
            context: traced.context,
            text: traced.text,
            database: self.pool.login.borrow().database.to_string(),
            user: self.pool.shared.key.user.to_string(),
            client: self.me.peer,
            node,
            wait: traced.wait,
            ran: (traced.began, now),
            rows: traced.rows,
            failure: traced.failure,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_fetches_is_bounded_and_counted() {
        let spans = Spans::new([0; 16]);
        let span = Span {
            context: None,
            text: "select ?".into(),
            database: String::new(),
            user: String::new(),
            client: Endpoint::default(),
            node: None,
            wait: None,
            ran: (1, 2),
            rows: 0,
            failure: None,
        };
        for _ in 0..MOST_WAITING + 3 {
            spans.push(span.clone());
        }
        assert_eq!(spans.traces.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(spans.take(512).len(), 512);
        assert_eq!(spans.take(usize::MAX).len(), MOST_WAITING - 512);
        assert!(spans.take(1).is_empty());
    }
}
