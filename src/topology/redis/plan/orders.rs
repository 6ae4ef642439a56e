//! What admins order about nodes, and planned changes.

use super::*;

impl Plan {
    /// Carries an order out.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn order(&mut self, now_ns: u64, node: usize, order: Order) -> Result<(String, Vec<Action>), String> {
        let before = self.standings();
        let mut actions = Vec::new();
        let name = self.name(node).to_owned();
        let mut report = |event, by: &str| {
            actions.push(Action::Report { node: Some(node), event, detail: format!("by {by}") });
        };
        let told = match order {
            Order::Hold(hold) => {
                let (event, told, by) = match &hold {
                    Hold::Drain { by } => ("node_draining", format!("{name} is draining"), by.clone()),
                    Hold::Detach { by } => ("node_detached", format!("{name} is detached"), by.clone()),
                };
                report(event, &by);
                self.members.get_mut(node).ok_or("no such node")?.hold = Some(hold);
                told
            }
            Order::Attach { force, by } => {
                let standing = before.get(node).ok_or("no such node")?;
                let member = self.members.get(node).ok_or("no such node")?;
                let says_primary = self.says_primary(node);
                let is_accepted = self.accepted_node() == Some(node);
                if says_primary && !is_accepted {
                    if let Some(primary) = self.primary() {
                        return Err(format!(
                            "{name} says that it is the primary, which is {}: DETACH that first, or make {name} a replica",
                            self.name(primary)
                        ));
                    }
                    if !force {
                        let why = if standing.reason.is_empty() { "it is not accepted" } else { &standing.reason };
                        return Err(format!(
                            "{name} says that it is the primary, and {why}; ATTACH NODE {name} FORCE accepts it"
                        ));
                    }
                } else if member.hold.is_none() && !(is_accepted && force) {
                    return Ok((format!("{name} is attached"), actions));
                }
                report(if force { "node_attached_by_force" } else { "node_attached" }, &by);
                self.members.get_mut(node).ok_or("no such node")?.hold = None;
                if says_primary && force {
                    // The operator's word: also back to an older epoch.
                    let newest = self.sentinels().filter_map(|(_, _, said)| Some(said.ok()?.config_epoch)).max();
                    let accepted =
                        Accepted { node, config_epoch: newest.unwrap_or(0), instead_of: None, since_ns: now_ns };
                    self.accept(now_ns, accepted, &mut actions);
                }
                format!("{name} is attached")
            }
        };
        self.settle(now_ns, &before, &mut actions);
        Ok((told, actions))
    }

    /// `PAUSE FAILOVER` by somebody, or `RESUME FAILOVER`, when everything is decided that came to light meanwhile.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn set_paused(&mut self, now_ns: u64, by: Option<String>) -> Result<Vec<Action>, String> {
        if self.switching {
            return Err("a switchover is under way: wait for its end".to_owned());
        }
        let before = self.standings();
        let fenced = self.alarm.as_ref().map(|alarm| alarm.why.clone());
        let mut actions = vec![Action::Look];
        self.paused = by.map(|by| Paused { by, fenced });
        self.settle(now_ns, &before, &mut actions);
        Ok(actions)
    }

    /// Who has paused failover.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_ref().map(|paused| paused.by.as_str())
    }

    /// Puts back what was ordered about a node before a restart, also if it is yet to be found. Nothing happens now.
    pub fn remember(&mut self, address: Address, hold: Hold) {
        match self.members.iter_mut().find(|member| member.address == address) {
            Some(member) => member.hold = Some(hold),
            None => drop(self.remembered.insert(address, hold)),
        }
    }

    /// The order in force on a node.
    pub fn hold(&self, node: usize) -> Option<&Hold> {
        self.members.get(node)?.hold.as_ref()
    }

    /// A planned change begins: what the Sentinels tell of it is no news.
    pub fn begin_switch(&mut self) {
        self.switching = true;
    }

    /// Between [`Plan::begin_switch`] and [`Plan::end_switch`].
    pub fn is_switching(&self) -> bool {
        self.switching
    }

    /// The planned change has ended: with this node promoted, or with none.
    pub fn end_switch(&mut self, now_ns: u64, promoted: Option<(usize, Facts)>) -> Vec<Action> {
        let before = self.standings();
        let mut actions = Vec::new();
        match promoted {
            Some((node, facts)) if self.accepted_node() != Some(node) => {
                if let Some(member) = self.members.get_mut(node) {
                    member.reach = Reach::Up;
                    member.facts = Some(facts);
                }
                let old = self.accepted.clone();
                let config_epoch = old.as_ref().map_or(0, |old| old.config_epoch);
                let instead_of = old.filter(|_| self.has_sentinels).map(|old| old.node);
                self.accept(now_ns, Accepted { node, config_epoch, instead_of, since_ns: now_ns }, &mut actions);
            }
            Some(_) => {}
            // Signs that a Sentinel has given meanwhile stand: it may still promote somebody.
            None => {}
        }
        self.switching = false;
        self.settle(now_ns, &before, &mut actions);
        actions
    }
}
