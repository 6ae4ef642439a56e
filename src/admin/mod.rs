//! The admin console: what an operator, a script or a monitoring tool asks of a running instance.
//!
//! `console` speaks PostgreSQL's protocol with them; everything else knows no protocol: `statement` reads a text,
//! `run` answers it, `views` is the table of everything that can be shown, `commands` is what changes something.
//! Runs on the control thread only.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod commands;
pub mod console;
mod drivers;
pub mod errors;
mod facts;
mod help;
mod http;
mod metrics;
mod process;
mod route;
mod run;
mod servers;
pub mod statement;
mod stats;
pub mod table;
mod time;
mod together;
mod views;

use std::sync::Arc;

pub use errors::Refusal;
pub use http::probe::{Probe, probe};
pub use run::{Answer, Caller, execute};
pub use views::{VIEWS, View};

use crate::config::model::AdminRole;
use crate::ops::Instance;
use crate::topology::coordination::Coordination;

/// Starts what the console needs all the time, the counters of the last two minutes, HTTP, and what tells a collector of
/// the metrics. Must be called on the
/// control thread.
///
/// # Errors
/// An `admin.listen` cannot be had.
pub fn start(instance: &Arc<Instance>) -> std::io::Result<()> {
    tokio::task::spawn_local(stats::keep(Arc::clone(instance)));
    tokio::task::spawn_local(metrics::tell(Arc::clone(instance)));
    if let Some(calls) = instance.coordination.as_ref().and_then(Coordination::take_calls) {
        tokio::task::spawn_local(together::serve(Arc::clone(instance), calls));
    }
    http::start(instance)
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Look. There is no `[[admin.user]]` at all, so nobody may do more.
    NobodyIsAdmin,
    /// Look.
    Viewer,
    /// Everything.
    Admin,
}

impl From<AdminRole> for Rights {
    fn from(role: AdminRole) -> Self {
        match role {
            AdminRole::Viewer => Rights::Viewer,
            AdminRole::Admin => Rights::Admin,
        }
    }
}
