//! The log: one line an event on standard error, as text or JSON.

mod repetition;

use std::sync::LazyLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

use crate::config::model::LogFormat;
use repetition::{Repetition, Sampled};

/// There is one log for the process.
static REPETITION: LazyLock<Repetition> = LazyLock::new(Repetition::default);
/// Between two reports of what was left out.
const REPORT: Duration = Duration::from_secs(1);

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// Takes a filter such as `info` or `forebay::pool=debug,info`.
    ///
    /// # Errors
    /// The filter cannot be read.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }
}

/// Starts the log of the process.
///
/// # Errors
/// The filter cannot be read.
pub fn start(filter: &str, format: LogFormat) -> Result<LogLevel, String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
            registry.with(lines.with_filter(Sampled(&REPETITION))).init();
        }
        LogFormat::Json => {
            let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_target(false);
            registry.with(lines.with_filter(Sampled(&REPETITION))).init();
        }
    }
    Ok(LogLevel(handle))
}

/// Says how many lines were left out because they came over and over, for as long as the process runs.
pub(super) async fn tell_left_out() {
    loop {
        tokio::time::sleep(REPORT).await;
        for (of, lines) in REPETITION.left_out() {
            tracing::warn!(of, lines, "lines were left out: they came over and over");
        }
    }
}
