//! What two processes say to each other during an upgrade. They may be of different versions: what is added has a default.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Network;
use crate::net::channel::bytes;
use crate::ops::Instance;
use crate::worker::clock::now_ns;
use crate::{pg, redis};

/// Raised when a process could misunderstand another one's letters: it refuses then, and the old one goes on.
pub(super) const PROTOCOL: u32 = 1;

/// From the old process to the new one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Letter {
    Hello {
        protocol: u32,
        version: String,
    },
    /// Some listening sockets of an address come with it.
    Listener(String),
    Knowledge(Knowledge),
    /// There is nothing more to know: serve, and say so.
    Introduced,
    /// Accept from now on.
    Begin,
    /// A client whose socket comes with it.
    Postgres(Box<pg::travel::Traveller>),
    Redis(Box<redis::travel::Traveller>),
}

/// From the new process to the old one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Ready {
        pid: u32,
        version: String,
    },
    /// Why it cannot serve.
    Failed(String),
    /// Somebody has shown a key that no client of the new process has.
    Cancel {
        process_id: i32,
        #[serde(with = "bytes")]
        secret: Vec<u8>,
    },
}

/// What is in memory alone and must not be lost.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Knowledge {
    #[serde(default)]
    postgres: pg::travel::Knowledge,
    /// `DISABLE db`
    #[serde(default)]
    disabled: BTreeSet<String>,
    /// Blocks, and until when, ns of the machine's clock.
    #[serde(default)]
    bans: Vec<(String, u64)>,
}

impl Knowledge {
    pub(super) fn of(instance: &Instance) -> Self {
        let bans = instance.shared.guard.bans().into_iter().map(|ban| (ban.block.to_string(), ban.until));
        Knowledge {
            postgres: pg::travel::Knowledge::of(&instance.shared),
            disabled: instance.orders().disabled,
            bans: bans.collect(),
        }
    }

    pub(super) fn learn(self, instance: &Instance) {
        self.postgres.learn(&instance.shared);
        if !self.disabled.is_empty() {
            instance.order(|orders| orders.disabled.extend(self.disabled));
        }
        let now = now_ns();
        for (block, until) in self.bans {
            let left = Duration::from_nanos(until.saturating_sub(now));
            if let Some(block) = Network::parse(&block)
                && let Err(error) = instance.shared.guard.ban(block, Some(left), "the process before this one")
            {
                tracing::debug!(%block, error, "a ban was not taken over");
            }
        }
    }
}
