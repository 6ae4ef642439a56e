//! What an admin may order about a node.

use super::{Action, Hold, Plan};

/// An admin's command about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// `DETACH NODE`, `DRAIN NODE`
    Hold(Hold),
    /// `ATTACH NODE`
    Attach {
        /// Lift a fence without proof, or accept a node as primary while there is none.
        force: bool,
        /// Who.
        by: String,
    },
}

impl Plan {
    /// Carries out an order, or says why not. The text is for the admin; nothing has changed after an error.
    pub fn order(&mut self, now_ns: u64, node: usize, order: Order) -> Result<(String, Vec<Action>), String> {
        let before = self.standings();
        let mut actions = Vec::new();
        let name = self.name(node).to_owned();
        let (event, by, done) = match order {
            Order::Hold(hold) => {
                let (event, verb, by) = match &hold {
                    Hold::Drain { by } => ("node_draining", "takes no new work", by.clone()),
                    Hold::Detach { by } => ("node_detached", "is out of service", by.clone()),
                };
                let member = self.members.get_mut(node).ok_or("no such node")?;
                member.hold = Some(hold);
                (event, by, format!("{name} {verb}"))
            }
            Order::Attach { force, by } => {
                self.lift_fence(node, force, &mut actions)?;
                let member = self.members.get_mut(node).ok_or("no such node")?;
                member.hold = None;
                let forced = if force { " with force" } else { "" };
                ("node_attached", format!("{by}{forced}"), String::new())
            }
        };
        actions.push(Action::Report { node: Some(node), event, detail: format!("by {by}") });
        self.settle(now_ns, &before, &mut actions);
        if !done.is_empty() {
            return Ok((done, actions));
        }
        let after = self.standing(node);
        let told = match after.reason.as_str() {
            "" => format!("{name} is attached"),
            why => format!("{name} is attached, and {}: {why}", after.state),
        };
        Ok((told, actions))
    }

    /// `PAUSE FAILOVER` by somebody, or `RESUME FAILOVER`. While it is paused the accepted primary stays the accepted
    /// one; before there is one, the first is looked for as ever.
    pub fn set_paused(&mut self, now_ns: u64, by: Option<String>) -> Vec<Action> {
        let before = self.standings();
        let mut actions = Vec::new();
        self.paused = by;
        self.settle(now_ns, &before, &mut actions);
        actions
    }

    /// Who has paused failover.
    pub fn paused(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// Puts back what was ordered before a restart. Without events: nothing happens now.
    pub fn resume(&mut self, node: usize, hold: Hold) {
        if let Some(member) = self.members.get_mut(node) {
            member.hold = Some(hold);
        }
    }

    /// The order in force on a node.
    pub fn hold(&self, node: usize) -> Option<&Hold> {
        self.members.get(node)?.hold.as_ref()
    }

    fn lift_fence(&mut self, node: usize, force: bool, actions: &mut Vec<Action>) -> Result<(), String> {
        let serving = self.primary();
        let member = self.members.get(node).ok_or("no such node")?;
        let name = &member.seat.name;
        if let Some(why) = self.refusal(member) {
            return Err(format!("{name} cannot be used: {why}"));
        }
        let Some(why) = &member.fence else {
            return Ok(());
        };
        if !force {
            return Err(format!("{name} is fenced: {why}; ATTACH it with FORCE only if you know that it is right"));
        }
        if let Some(why) = self.closed.as_ref().filter(|_| member.was_writable()).map(|closed| &closed.why) {
            return Err(format!("a change of the primary is under way: {why}"));
        }
        if !member.was_writable() {
            if let Some(member) = self.members.get_mut(node) {
                member.fence = None;
            }
            return Ok(());
        }
        match serving {
            Some(serving) => Err(format!(
                "{name} accepts writes and {} is the primary in service: DETACH {} first if {name} is the right one",
                self.name(serving),
                self.name(serving)
            )),
            None if self.is_led => {
                self.wanted = Some(node);
                Ok(())
            }
            None => {
                self.floor = member.timeline();
                self.accept(node, actions);
                Ok(())
            }
        }
    }
}
