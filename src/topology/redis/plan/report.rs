//! What changed, for `SHOW EVENTS`, and what a crash has cost.

use super::*;

/// Why what happens is no bad news.
const ORDERED: &str = "a switchover was ordered";

/// After a change of primary that nobody planned: how far the new one had come, until the old one shows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loss {
    old: usize,
    new: usize,
    replid: String,
    /// Last offset that the new primary had received from the old one.
    taken_over_at: u64,
}

impl Plan {
    /// Tells what the new primary had not received, as far as was seen of the old one.
    pub(super) fn estimate_loss(&mut self, now_ns: u64, old: usize, new: usize, actions: &mut Vec<Action>) {
        let facts = self.members.get(new).and_then(|member| member.facts.as_ref());
        let (from, to) = (self.name(old).to_owned(), self.name(new).to_owned());
        let seen = self.history.clone();
        let known = facts.zip(seen).and_then(|(facts, seen)| {
            let taken = (facts.replid2.as_deref() == Some(seen.replid.as_str())).then_some(facts.second_offset?)?;
            Some((taken.saturating_sub(1), seen))
        });
        let Some((taken_over_at, seen)) = known else {
            let detail = format!("not known: the history of {to} does not tell how much of {from}'s it has");
            actions.push(Action::Report { node: Some(new), event: "failover_loss", detail });
            return;
        };
        let missing = seen.offset.saturating_sub(taken_over_at);
        let age = Duration::from_nanos(self.lost_at_ns.unwrap_or(now_ns).saturating_sub(seen.asked_ns));
        let detail = format!(
            "{missing} bytes of the replication stream as far as was seen: {to} had received {from}'s up to \
             {taken_over_at}, and {from} was last seen at {}, {} ms before it went out of service; what it wrote after \
             that and did not send is not known",
            seen.offset,
            age.as_millis()
        );
        actions.push(Action::Report { node: Some(new), event: "failover_loss", detail });
        self.loss = Some(Loss { old, new, replid: seen.replid, taken_over_at });
    }

    /// The old primary shows itself, still in its old history: now the loss is known to the byte.
    pub(super) fn settle_loss(&mut self, node: usize, actions: &mut Vec<Action>) {
        let Some(loss) = self.loss.as_ref().filter(|loss| loss.old == node) else { return };
        let Some(facts) = self.members.get(node).and_then(|member| member.facts.as_ref()) else { return };
        if facts.is_primary() && facts.replid.as_deref() == Some(loss.replid.as_str()) {
            let missing = facts.offset.saturating_sub(loss.taken_over_at);
            let (from, to) = (self.name(loss.old), self.name(loss.new));
            let detail = format!(
                "{missing} bytes of the replication stream, with the pings and Sentinels' messages in it: {from} stands at \
                 {}, {to} had received it up to {}",
                facts.offset, loss.taken_over_at
            );
            actions.push(Action::Report { node: Some(node), event: "failover_loss", detail });
        }
        self.loss = None;
    }

    pub(super) fn report(&mut self, now_ns: u64, before: &[Standing], actions: &mut Vec<Action>) {
        let unknown = Standing { role: Role::Unknown, state: State::Down, reason: UNASKED.to_owned() };
        let before = before.iter().chain(std::iter::repeat(&unknown));
        for (node, (old, new)) in before.zip(self.standings()).enumerate() {
            match change(old, &new) {
                Some((event @ "node_fenced", detail)) if self.switching => {
                    let detail = format!("{detail}; {ORDERED}");
                    actions.push(Action::ReportPlanned { node, event, detail });
                }
                Some((event, detail)) => actions.push(Action::Report { node: Some(node), event, detail }),
                None => {}
            }
        }
        self.report_service(now_ns, actions);
    }

    fn report_service(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let report = |actions: &mut Vec<Action>, node, event, detail| {
            actions.push(Action::Report { node: Some(node), event, detail });
        };
        let Some(serving) = self.primary() else {
            if let (Some(last), None) = (self.last_served, self.lost_at_ns) {
                self.lost_at_ns = Some(now_ns);
                match self.switching && self.standing(last).state != State::Down {
                    true => {
                        let detail = format!("{ORDERED}: writes wait for the next primary");
                        report(actions, last, "primary_leaving", detail);
                    }
                    false => report(actions, last, "primary_lost", self.reason()),
                }
                actions.push(Action::Look);
            }
            return;
        };
        let lost_for = self.lost_at_ns.take().map(|lost| Duration::from_nanos(now_ns.saturating_sub(lost)));
        let gap = match lost_for {
            Some(gap) => format!("after {:.3}s without a primary", gap.as_secs_f64()),
            None if self.last_served == Some(serving) => return,
            None => String::new(),
        };
        let config_epoch = self.accepted.as_ref().map_or(0, |accepted| accepted.config_epoch);
        let config_epoch = match &self.accepted {
            Some(Accepted { instead_of: Some(_), .. }) => "before the Sentinels name it".to_owned(),
            _ if self.has_sentinels => format!("config epoch {config_epoch}"),
            _ => String::new(),
        };
        let (from, to) = (self.last_served.replace(serving), self.name(serving).to_owned());
        let change = match from {
            Some(from) if from != serving => format!("{} to {to}", self.name(from)),
            _ => String::new(),
        };
        actions.push(Action::Served { gap: lost_for, changed: !change.is_empty() });
        let event = if change.is_empty() { "primary_found" } else { "primary_changed" };
        let parts: Vec<String> = [change, config_epoch, gap].into_iter().filter(|part| !part.is_empty()).collect();
        report(actions, serving, event, parts.join(", "));
    }
}

/// The event that a change of standing deserves, if any. An admin's orders report themselves.
fn change(old: &Standing, new: &Standing) -> Option<(&'static str, String)> {
    match (old.state, new.state) {
        (State::Down, State::Up | State::Draining) => Some(("node_up", new.role.to_string())),
        (State::Fenced, State::Up | State::Draining) => Some(("node_unfenced", new.role.to_string())),
        (old, State::Fenced) if old != State::Fenced => Some(("node_fenced", new.reason.clone())),
        (State::Down, State::Down) if old.reason == UNASKED && new.reason != UNASKED => {
            Some(("node_down", new.reason.clone()))
        }
        (old, State::Down) if !matches!(old, State::Down | State::Detached) => Some(("node_down", new.reason.clone())),
        (State::Up, State::Up) if (old.role, new.role) == (Role::Primary, Role::Replica) => {
            Some(("node_demoted", "says that it is a replica now".to_owned()))
        }
        _ => None,
    }
}
