//! `/healthz`: the process works. `/readyz`: it is of use to clients now.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::answer::{Answer, TEXT, with};
use crate::ops::Instance;
use crate::ops::instance::Stop;

/// For every data thread to answer. One that does not is stuck: no single step of a thread takes so long.
const STUCK: Duration = Duration::from_secs(5);

/// Every thread answers.
pub(super) async fn healthz(instance: &Arc<Instance>) -> Answer {
    let answers = instance.ask_all(|_| ());
    match tokio::time::timeout(STUCK, answers).await {
        Ok(answers) if answers.len() == instance.workers().len() => with(StatusCode::OK, TEXT, "ok\n"),
        _ => with(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a data thread does not answer\n"),
    }
}

/// Every service has a primary, and nobody has asked the process to end.
pub(super) fn readyz(instance: &Arc<Instance>) -> Answer {
    let why = not_ready(instance);
    match why.is_empty() {
        true => with(StatusCode::OK, TEXT, "ready\n"),
        false => {
            with(StatusCode::SERVICE_UNAVAILABLE, TEXT, why.into_iter().map(|line| line + "\n").collect::<String>())
        }
    }
}

/// A line for each reason not to send clients here.
pub(super) fn not_ready(instance: &Instance) -> Vec<String> {
    let mut why = Vec::new();
    if instance.stopping() != Stop::Run {
        why.push("stopping".to_owned());
    }
    if let Some(lost) = instance.coordination.as_ref().and_then(|others| others.view().lost.clone()) {
        why.push(format!("cut off from the other instances: {lost}"));
    }
    let clusters = instance.monitor.snapshot();
    for cluster in clusters.clusters.iter().filter(|cluster| cluster.primary.is_none()) {
        let closed = cluster.closed.as_ref().map_or_else(String::new, |closed| format!(": {closed}"));
        why.push(format!("{} has no primary{closed}", cluster.name));
    }
    let services = instance.redis.snapshot();
    for service in services.services.iter().filter(|service| service.primary.is_none()) {
        let reason = if service.reason.is_empty() { String::new() } else { format!(": {}", service.reason) };
        why.push(format!("{} has no primary{reason}", service.name));
    }
    why
}
