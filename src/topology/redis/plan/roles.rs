//! Without Sentinels: the nodes' own words, and nobody is believed against the accepted primary.

use super::*;

impl Plan {
    pub(super) fn go_by_roles(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        if self.members.iter().any(|member| member.reach == Reach::Unasked) {
            return;
        }
        let is_listened_to =
            |&node: &usize| self.members.get(node).is_some_and(|m| !matches!(m.hold, Some(Hold::Detach { .. })));
        let say_so: Vec<usize> =
            (0..self.members.len()).filter(|node| self.says_primary(*node)).filter(is_listened_to).collect();
        let accepted = self.accepted_node();
        let found = match (accepted, say_so.as_slice()) {
            (Some(accepted), _) if say_so.contains(&accepted) => {
                // Whoever says so beside it stays out until it follows, or provably goes on from our history.
                for &rival in say_so.iter().filter(|&&node| node != accepted) {
                    if let Some(member) = self.members.get_mut(rival) {
                        member.outdated = true;
                    }
                }
                self.dispute = None;
                return;
            }
            (Some(_), &[one]) => {
                let is_outdated = self.members.get(one).is_none_or(|member| member.outdated);
                (!is_outdated || self.descends(one)).then_some(one)
            }
            (None, &[one]) => Some(one),
            (None, [_, ..]) => {
                let mut followed = say_so.iter().copied().filter(|&node| self.is_followed(node));
                match (followed.next(), followed.next()) {
                    (Some(one), None) => Some(one),
                    _ => None,
                }
            }
            _ => None,
        };
        match found {
            Some(node) => {
                self.accept(now_ns, Accepted { node, config_epoch: 0, instead_of: None, since_ns: now_ns }, actions)
            }
            None if say_so.len() > 1 => {
                let names: Vec<&str> = say_so.iter().map(|&node| self.name(node)).collect();
                let dispute = format!("{} say that they are the primary", names.join(" and "));
                if self.dispute.as_ref() != Some(&dispute) {
                    actions.push(Action::Report { node: None, event: "two_primaries", detail: dispute.clone() });
                }
                self.dispute = Some(dispute);
            }
            None => self.dispute = accepted.is_none().then(|| "no node says that it is the primary".to_owned()),
        }
    }

    /// Another known node follows it, or somebody else does.
    fn is_followed(&self, node: usize) -> bool {
        let Some(member) = self.members.get(node) else { return false };
        let has_replicas =
            member.facts.as_ref().is_some_and(|f| matches!(f.says, Says::Primary { replicas } if replicas > 0));
        has_replicas
            || self
                .members
                .iter()
                .filter_map(|other| other.facts.as_ref())
                .any(|facts| matches!(&facts.says, Says::Replica { upstream, .. } if *upstream == member.address))
    }
}
