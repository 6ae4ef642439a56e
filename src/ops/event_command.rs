//! `failover.event_command`: run for every event, one after the other, in the order of `SHOW EVENTS`.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::instance::Instance;
use crate::topology::Event;
use crate::topology::failover::hooks::{self, Told};

/// Runs until the process ends. A program that fails is told of in the log, and nothing else: an event about it would be
/// one more to run it for.
pub async fn run(instance: Arc<Instance>) {
    let mut seen = 0;
    let mut added = instance.events.watch();
    loop {
        for event in instance.events.since(seen) {
            seen = event.seq;
            if !instance.tells(&event) {
                continue;
            }
            let argv = instance.config.load().postgres.failover.event_command.clone();
            if let Err(why) = hooks::run(&argv, &told(&event), hooks::PATIENCE).await {
                tracing::warn!(event = event.event, why, "event_command failed");
            }
        }
        if added.changed().await.is_err() {
            return;
        }
    }
}

fn told(event: &Event) -> Told {
    let seconds = event.time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Told::default()
        .with("FOREBAY_EVENT", &event.event)
        .with("FOREBAY_SERVICE", &event.service)
        .with("FOREBAY_NODE", &event.node)
        .with("FOREBAY_EPOCH", &event.epoch.to_string())
        .with("FOREBAY_DETAIL", &event.detail)
        .with("FOREBAY_TIME", &seconds.to_string())
}
