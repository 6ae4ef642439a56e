//! Lines that come over and over: the first of a second stand in the log, and how many more there were.
//!
//! A flood of junk must not fill the disk, nor hide the line that says what is wrong.

use std::fmt::Debug;

use dashmap::DashMap;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use crate::worker::clock::now_ns;

/// Lines of one place in the program within a second.
const MOST: u32 = 100;
const SECOND: u64 = 1_000_000_000;

/// What was logged lately, by its place in the program.
#[derive(Debug, Default)]
pub(super) struct Repetition(DashMap<Identifier, Kind>);

#[derive(Debug, Default)]
struct Kind {
    /// When the second began, ns.
    since: u64,
    lines: u32,
    left_out: u64,
    message: String,
}

impl Repetition {
    /// Whether another line of this place may stand in the log at `now`; `message` says which it is.
    fn allows(&self, place: Identifier, now: u64, message: impl FnOnce() -> String) -> bool {
        let mut kind = self.0.entry(place).or_default();
        if now.saturating_sub(kind.since) >= SECOND {
            (kind.since, kind.lines) = (now, 0);
        }
        kind.lines = kind.lines.saturating_add(1);
        let is_allowed = kind.lines <= MOST;
        if !is_allowed {
            kind.left_out += 1;
            if kind.message.is_empty() {
                kind.message = message();
            }
        }
        is_allowed
    }

    /// Which lines were left out since the last time, and how many of each.
    pub(super) fn left_out(&self) -> Vec<(String, u64)> {
        let take = |mut kind: dashmap::mapref::multiple::RefMutMulti<'_, Identifier, Kind>| {
            let many = std::mem::take(&mut kind.left_out);
            (many > 0).then(|| (std::mem::take(&mut kind.message), many))
        };
        self.0.iter_mut().filter_map(take).collect()
    }
}

/// Lets lines of `Repetition` through.
#[derive(Debug)]
pub(super) struct Sampled<'a>(pub(super) &'a Repetition);

impl<S> Filter<S> for Sampled<'static> {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.allows(event.metadata().callsite(), now_ns(), || {
            let mut message = Message::default();
            event.record(&mut message);
            message.0
        })
    }
}

/// The words of an event, without its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::prelude::*;

    #[test]
    fn what_comes_over_and_over_is_counted() {
        static SEEN: std::sync::LazyLock<Repetition> = std::sync::LazyLock::new(Repetition::default);
        static LINES: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());
        let lines =
            tracing_subscriber::fmt::layer().with_writer(|| Lines(&LINES)).with_ansi(false).with_filter(Sampled(&SEEN));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            for number in 0..MOST + 7 {
                tracing::warn!(number, "over and over");
            }
            tracing::warn!("once");
        });
        let written = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
        assert_eq!(written.matches("over and over").count(), MOST as usize);
        assert_eq!(written.matches("once").count(), 1, "another place has its own count");
        assert_eq!(SEEN.left_out(), [("over and over".to_owned(), 7)]);
        assert!(SEEN.left_out().is_empty());
    }

    struct Lines(&'static std::sync::Mutex<Vec<u8>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
