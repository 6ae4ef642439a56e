//! By Sentinels: they judge, the nodes confirm, and the highest config epoch wins.

use super::*;

/// A node that is down and that no Sentinel lists is forgotten after this.
const UNLISTED: Duration = Duration::from_secs(60);

/// What the Sentinels that are heard say together: the newest naming.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Top {
    config_epoch: u64,
    primary: Address,
    /// Configured Sentinels that say so.
    votes: usize,
    /// One of those that say so, configured or not.
    by: Address,
}

fn nanos(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)
}

impl Plan {
    pub(super) fn named(&mut self, now_ns: u64, sentinel: usize, naming: Naming, actions: &mut Vec<Action>) {
        let others = naming.replicas.iter().filter(|listed| listed.announced).map(|listed| &listed.address);
        let mut others: Vec<&Address> = others.collect();
        others.sort();
        let known: Vec<Address> = [&naming.primary].into_iter().chain(others).cloned().collect();
        for address in known {
            if self.place(&address).is_none() {
                self.seat(address.clone());
                actions.push(Action::Discovered(address));
            }
        }
        let Some(watcher) = self.watchers.get_mut(sentinel) else { return };
        if let Reach::Down(_) = std::mem::replace(&mut watcher.reach, Reach::Up) {
            let detail = watcher.address.to_string();
            actions.push(Action::Report { node: None, event: "sentinel_back", detail });
        }
        watcher.naming = Some(naming);
        watcher.heard_ns = now_ns;
    }

    pub(super) fn unheard(
        &mut self,
        now_ns: u64,
        sentinel: usize,
        why: &str,
        refused: bool,
        actions: &mut Vec<Action>,
    ) {
        let Some(watcher) = self.watchers.get_mut(sentinel) else { return };
        let is_recent = watcher.reach == Reach::Up && now_ns.saturating_sub(watcher.heard_ns) < nanos(SENTINEL_SILENT);
        if is_recent && !refused {
            return;
        }
        if !matches!(watcher.reach, Reach::Down(_)) {
            let detail = format!("{}: {why}", watcher.address);
            actions.push(Action::Report { node: None, event: "sentinel_lost", detail });
        }
        watcher.reach = Reach::Down(why.to_owned());
    }

    /// A sign makes the accepted primary wait, or makes us look. What is about another address is an old story.
    pub(super) fn signed(&mut self, now_ns: u64, sentinel: usize, sign: Sign, actions: &mut Vec<Action>) {
        actions.push(Action::Look);
        let Some(accepted) = &self.accepted else { return };
        let Some(watcher) = self.watchers.get(sentinel) else { return };
        let is_stale = watcher.naming.as_ref().is_some_and(|naming| naming.config_epoch < accepted.config_epoch);
        let ours = self.members.get(accepted.node).map(|member| &member.address);
        if is_stale || sign.about.is_some() && sign.about.as_ref() != ours {
            return;
        }
        let (by, ours) = (watcher.address.clone(), ours.cloned());
        match sign.what {
            What::Endangered(event) => self.alarm(now_ns, sentinel, format!("Sentinel {by} tells {event}")),
            What::Elected => {
                self.alarm(now_ns, sentinel, format!("Sentinel {by} tells +elected-leader"));
                self.vote(now_ns, sentinel, true);
            }
            What::Voted => self.vote(now_ns, sentinel, false),
            What::Switched { to } if Some(&to) != ours.as_ref() => {
                self.alarm(now_ns, sentinel, format!("Sentinel {by} names {to} as the new primary"));
            }
            What::Recovered | What::Aborted(_) => {
                let Some(alarm) = &mut self.alarm else { return };
                alarm.signs.remove(&sentinel);
                if alarm.signs.is_empty() {
                    self.alarm = None;
                }
            }
            What::Switched { .. } | What::Other => {}
        }
    }

    fn alarm(&mut self, now_ns: u64, sentinel: usize, why: String) {
        let alarm = self.alarm.get_or_insert_with(|| Alarm {
            why: why.clone(),
            raised_ns: now_ns,
            last_ns: now_ns,
            signs: BTreeMap::new(),
            elected: false,
            voters: Vec::new(),
        });
        alarm.last_ns = now_ns;
        alarm.signs.insert(sentinel, why);
    }

    fn vote(&mut self, now_ns: u64, sentinel: usize, elected: bool) {
        let is_configured = self.watchers.get(sentinel).is_some_and(|watcher| watcher.configured);
        let Some(alarm) = &mut self.alarm else { return };
        alarm.last_ns = now_ns;
        alarm.elected |= elected;
        if is_configured && !alarm.voters.contains(&sentinel) {
            alarm.voters.push(sentinel);
        }
    }

    /// Looks again at everything that is known.
    pub(super) fn follow(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        self.let_silent_sentinels_go(now_ns, actions);
        let top = self.top();
        match (self.accepted.clone(), top) {
            (None, Some(top)) => self.find_first(now_ns, &top, actions),
            (None, None) => {}
            (Some(accepted), top) => {
                if let Some(top) = &top {
                    self.compare(now_ns, &accepted, top, actions);
                }
                self.take_early(now_ns, actions);
                self.give_back(now_ns, actions);
                self.end_false_alarm(now_ns, top.as_ref(), actions);
            }
        }
    }

    pub(super) fn let_silent_sentinels_go(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        for watcher in self.watchers.iter_mut().filter(|watcher| watcher.reach == Reach::Up) {
            // Twice the limit: its own task tells of each failed poll before that.
            if now_ns.saturating_sub(watcher.heard_ns) > 2 * nanos(SENTINEL_SILENT) {
                let why = "it has not been heard of".to_owned();
                let detail = format!("{}: {why}", watcher.address);
                watcher.reach = Reach::Down(why);
                actions.push(Action::Report { node: None, event: "sentinel_lost", detail });
            }
        }
    }

    /// The start: nothing was accepted yet.
    fn find_first(&mut self, now_ns: u64, top: &Top, actions: &mut Vec<Action>) {
        let node = self.place(&top.primary).filter(|node| self.says_primary(*node));
        let waits = self.watchers.iter().any(|watcher| watcher.configured && watcher.reach == Reach::Unasked);
        if waits {
            return;
        }
        let everybody_agrees = self.heard().all(|(_, naming)| naming.primary == top.primary);
        let is_alone =
            !self.members.iter().enumerate().any(|(other, member)| {
                Some(other) != node && (self.says_primary(other) || member.reach == Reach::Unasked)
            });
        let has_majority = self.heard_configured() >= self.majority();
        let may = if top.votes >= self.majority() { true } else { is_alone && (has_majority || everybody_agrees) };
        match node {
            Some(node) if may => {
                let accepted = Accepted { node, config_epoch: top.config_epoch, instead_of: None, since_ns: now_ns };
                self.accept(now_ns, accepted, actions);
            }
            Some(node) => {
                let (name, heard, of) = (self.name(node), self.heard_configured(), self.configured());
                let why = format!("{name} is named, but only {heard} of {of} Sentinels are heard and another node");
                self.dispute = Some(format!("{why} says that it is the primary or was not asked yet"));
            }
            None => {
                let named = &top.primary;
                self.dispute = Some(format!("the Sentinels name {named}, which does not say that it is the primary"));
            }
        }
    }

    fn compare(&mut self, now_ns: u64, accepted: &Accepted, top: &Top, actions: &mut Vec<Action>) {
        let node = self.place(&top.primary);
        let has_majority = top.votes >= self.majority();
        let is_newer = top.config_epoch > accepted.config_epoch;
        if node == Some(accepted.node) {
            // One Sentinel alone may show a new epoch with the old address, on its way to the new one.
            if is_newer && (has_majority || accepted.instead_of.is_some()) {
                let accepted = Accepted {
                    node: accepted.node,
                    config_epoch: top.config_epoch,
                    instead_of: None,
                    since_ns: now_ns,
                };
                self.accepted = Some(accepted);
                self.alarm = None;
            }
            return;
        }
        let outvoted = top.config_epoch == accepted.config_epoch && has_majority && accepted.instead_of.is_none();
        if !is_newer && !outvoted {
            return;
        }
        self.heed(now_ns, top, has_majority, actions);
        let Some(node) = node.filter(|node| self.says_primary(*node)) else { return };
        if has_majority || self.descends(node) {
            self.accept(
                now_ns,
                Accepted { node, config_epoch: top.config_epoch, instead_of: None, since_ns: now_ns },
                actions,
            );
        }
    }

    /// Another address under a newer epoch: no writes until it is clear. One Sentinel's word that nothing has come of
    /// for [`ALARM`] is not heeded again.
    fn heed(&mut self, now_ns: u64, top: &Top, has_majority: bool, actions: &mut Vec<Action>) {
        if !has_majority && self.dismissed == Some((top.config_epoch, top.primary.clone())) {
            return;
        }
        let by = self.watchers.iter().position(|watcher| watcher.address == top.by).unwrap_or(usize::MAX);
        let named = format!("Sentinel {} names {} since config epoch {}", top.by, top.primary, top.config_epoch);
        let is_told = self.alarm.as_ref().is_some_and(|alarm| alarm.signs.get(&by) == Some(&named));
        if !is_told {
            actions.push(Action::Look);
        }
        if !is_told || has_majority {
            self.alarm(now_ns, by, named);
        }
    }

    /// Most Sentinels have voted, one was elected, and a node of our history says that it was promoted: that is what
    /// the others will learn within a second.
    fn take_early(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let (Some(alarm), Some(accepted)) = (&self.alarm, &self.accepted) else { return };
        if !alarm.elected || alarm.voters.len() < self.majority() || accepted.instead_of.is_some() {
            return;
        }
        let promoted = |&node: &usize| {
            let is_outdated = self.members.get(node).is_none_or(|member| member.outdated);
            node != accepted.node && !is_outdated && self.says_primary(node) && self.descends(node)
        };
        let mut promoted = (0..self.members.len()).filter(promoted);
        if let (Some(node), None) = (promoted.next(), promoted.next()) {
            let accepted = Accepted {
                node,
                config_epoch: accepted.config_epoch,
                instead_of: Some(accepted.node),
                since_ns: now_ns,
            };
            self.accept(now_ns, accepted, actions);
        }
    }

    /// A node that was taken before any Sentinel named it is given up for the old one if the Sentinels undo it.
    fn give_back(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let Some(Accepted { node, config_epoch, instead_of: Some(old), since_ns }) = self.accepted.clone() else {
            return;
        };
        let says_replica = self.members.get(node).is_some_and(|member| {
            member.reach == Reach::Up && member.facts.as_ref().is_some_and(|facts| !facts.is_primary())
        });
        let gone_for = self.lost_at_ns.map_or(0, |lost| now_ns.saturating_sub(lost));
        let is_gone = !self.says_primary(node) && gone_for >= nanos(ALARM);
        let names_old = |naming: &Naming| self.place(&naming.primary) == Some(old);
        let supporters = self.heard().filter(|(watcher, naming)| watcher.configured && names_old(naming)).count();
        let is_undone = says_replica || is_gone && supporters >= self.majority();
        // What the old one said before that is no news.
        let says_so_again = self.says_primary(old) && self.facts(old).is_some_and(|facts| facts.asked_ns > since_ns);
        if !self.switching && is_undone && says_so_again {
            self.accept(now_ns, Accepted { node: old, config_epoch, instead_of: None, since_ns: now_ns }, actions);
        }
    }

    fn end_false_alarm(&mut self, now_ns: u64, top: Option<&Top>, actions: &mut Vec<Action>) {
        let (Some(alarm), Some(accepted)) = (&self.alarm, &self.accepted) else { return };
        let is_over = now_ns.saturating_sub(alarm.last_ns) >= nanos(ALARM);
        let names_it = |naming: &Naming| self.place(&naming.primary) == Some(accepted.node);
        let supporters = self.heard().filter(|(watcher, naming)| watcher.configured && names_it(naming)).count();
        let is_unchanged = top.is_none_or(|top| {
            let is_older = top.config_epoch <= accepted.config_epoch && top.votes < self.majority();
            supporters >= self.majority() || is_older || self.place(&top.primary) == Some(accepted.node)
        });
        let another = (0..self.members.len()).any(|node| {
            let is_outdated = self.members.get(node).is_some_and(|member| member.outdated);
            node != accepted.node && !is_outdated && self.says_primary(node)
        });
        if is_over && is_unchanged && !another && self.says_primary(accepted.node) {
            let lasted = Duration::from_nanos(now_ns.saturating_sub(alarm.raised_ns));
            let detail = format!("nothing came of it within {:.1}s: {}", lasted.as_secs_f64(), alarm.why);
            let node = Some(accepted.node);
            self.dismissed = top.map(|top| (top.config_epoch, top.primary.clone()));
            self.alarm = None;
            actions.push(Action::Report { node, event: "false_alarm", detail });
        }
    }

    /// A node that may be forgotten: it is down, of no account, and for a minute no Sentinel has listed it (an
    /// operator's `SENTINEL RESET`). The caller forgets it too, at the same index.
    pub fn forget_one(&mut self, now_ns: u64) -> Option<usize> {
        if !self.has_sentinels || self.heard_configured() < self.majority() {
            return None;
        }
        let listed: Vec<Address> = self
            .heard()
            .flat_map(|(_, naming)| naming.replicas.iter().map(|l| &l.address).chain([&naming.primary]))
            .cloned()
            .collect();
        for member in &mut self.members {
            let is_missed = matches!(member.reach, Reach::Down(_)) && !listed.contains(&member.address);
            member.unlisted_ns = is_missed.then(|| member.unlisted_ns.unwrap_or(now_ns));
        }
        let node = self.members.iter().enumerate().position(|(node, member)| {
            let is_due = member.unlisted_ns.is_some_and(|since| now_ns.saturating_sub(since) >= nanos(UNLISTED));
            is_due && member.hold.is_none() && !self.matters(node)
        })?;
        self.members.remove(node);
        let shift = |index: &mut usize| *index -= usize::from(*index > node);
        self.accepted.iter_mut().for_each(|accepted| {
            shift(&mut accepted.node);
            accepted.instead_of.iter_mut().for_each(shift);
        });
        self.last_served.iter_mut().for_each(shift);
        // Its offset would have told more; it will not come back.
        self.loss = None;
        Some(node)
    }

    /// The accepted primary, the one before, and the one that served last are remembered whatever happens.
    fn matters(&self, node: usize) -> bool {
        let accepted = self.accepted.as_ref();
        [accepted.map(|a| a.node), accepted.and_then(|a| a.instead_of), self.last_served].contains(&Some(node))
    }

    fn top(&self) -> Option<Top> {
        let config_epoch = self.heard().map(|(_, naming)| naming.config_epoch).max()?;
        let newest = || self.heard().filter(|(_, naming)| naming.config_epoch == config_epoch);
        let votes = |primary: &Address| {
            newest().filter(|(watcher, naming)| watcher.configured && naming.primary == *primary).count()
        };
        let (watcher, naming) = newest().max_by_key(|(_, naming)| votes(&naming.primary))?;
        let primary = naming.primary.clone();
        Some(Top { config_epoch, votes: votes(&primary), primary, by: watcher.address.clone() })
    }

    fn heard(&self) -> impl Iterator<Item = (&Watcher, &Naming)> {
        let heard = self.watchers.iter().filter(|watcher| watcher.reach == Reach::Up);
        heard.filter_map(|watcher| Some((watcher, watcher.naming.as_ref()?)))
    }

    /// Configured Sentinels.
    pub fn configured(&self) -> usize {
        self.watchers.iter().filter(|watcher| watcher.configured).count()
    }

    /// Configured Sentinels that are heard.
    pub fn heard_configured(&self) -> usize {
        self.heard().filter(|(watcher, _)| watcher.configured).count()
    }

    /// Of the configured Sentinels.
    pub fn majority(&self) -> usize {
        self.configured() / 2 + 1
    }

    /// The node at an address.
    pub fn place(&self, address: &Address) -> Option<usize> {
        self.members.iter().position(|member| member.address == *address)
    }

    /// Why no Sentinel that is heard would let clients read from this replica.
    pub fn listed_trouble(&self, node: usize) -> Option<String> {
        let address = &self.members.get(node)?.address;
        let listed: Vec<&Listed> =
            self.heard().flat_map(|(_, naming)| &naming.replicas).filter(|listed| listed.address == *address).collect();
        let healthy = listed.iter().any(|listed| listed.trouble.is_none());
        let trouble = listed.iter().find_map(|listed| listed.trouble.as_deref());
        trouble.filter(|_| !healthy).map(|flag| format!("the Sentinels hold it for {flag}"))
    }
}
