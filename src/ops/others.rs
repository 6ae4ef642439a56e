//! What happens among several instances, for `SHOW EVENTS`.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::topology::EventLog;
use crate::topology::coordination::View;

/// Tells of every change that an operator may want to know of, until the process ends.
pub(super) async fn tell(mut views: watch::Receiver<Arc<View>>, events: EventLog) {
    let mut known = Arc::clone(&views.borrow_and_update());
    while views.changed().await.is_ok() {
        let view = Arc::clone(&views.borrow_and_update());
        compare(&known, &view, |event, detail| events.record("", 0, event, "", &detail));
        known = view;
    }
}

fn compare(old: &View, new: &View, mut report: impl FnMut(&'static str, String)) {
    match (&old.lost, &new.lost) {
        (Some(_), None) => report("coordination_found", format!("{} instances", new.members().count())),
        (None, Some(why)) => report("coordination_lost", why.clone()),
        _ => {}
    }
    match (old.is_alone, new.is_alone) {
        (false, true) => report("failsafe_begun", "etcd is lost, and all instances have agreed to go on".to_owned()),
        (true, false) if new.lost.is_none() => report("failsafe_ended", "etcd answers again".to_owned()),
        _ => {}
    }
    if new.lost.is_some() || old.session != new.session {
        // Who else is there has to be seen first.
        return;
    }
    let names = |view: &View| view.members().map(|(id, _)| id.to_owned()).collect::<BTreeSet<_>>();
    let (before, now) = (names(old), names(new));
    for id in now.difference(&before).filter(|id| **id != new.me) {
        report("instance_joined", new.name(id));
    }
    for id in before.difference(&now).filter(|id| **id != new.me) {
        report("instance_left", old.name(id));
    }
    if old.leader() != new.leader()
        && let Some(leader) = new.leader()
    {
        report("leader_changed", format!("{} leads", new.name(leader)));
    }
}
