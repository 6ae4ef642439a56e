//! Whether another process of this instance decides now: this one goes on to watch the nodes and to follow what the other
//! does, changes nothing about them, and leaves `general.state_dir` alone.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::model::{FailoverMode, Postgres};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(Arc<AtomicBool>);

/// Why an admin's order is not carried out.
pub(super) const REFUSAL: &str = "this process has been replaced by an upgrade: connect again, to the new one";

impl Aside {
    pub(super) fn set(&self, is_aside: bool) {
        self.0.store(is_aside, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// [`REFUSAL`]
    pub(super) fn check(&self) -> Result<(), String> {
        if self.is_set() { Err(REFUSAL.to_owned()) } else { Ok(()) }
    }

    /// The configuration by which the nodes are watched.
    pub(super) fn apply<'a>(&self, config: &'a Postgres) -> Cow<'a, Postgres> {
        if !self.is_set() {
            return Cow::Borrowed(config);
        }
        let mut config = config.clone();
        if config.failover.mode == FailoverMode::Promote {
            config.failover.mode = FailoverMode::Follow;
        }
        config.failover.rejoin_command = Default::default();
        Cow::Owned(config)
    }
}
