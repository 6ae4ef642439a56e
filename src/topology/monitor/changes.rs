//! The monitor and the tasks that change primaries: what is lost is told to them, what they decide is published.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Monitor};
use crate::config::model::{DemoteMethod, FailoverMode, Postgres};
use crate::topology::clock::{after, now_ns};
use crate::topology::cluster::{Watched, WatchedNode};
use crate::topology::coordination::Coordination;
use crate::topology::coordination::Vote;
use crate::topology::failover::conductor::{Conductor, Notice, Order, Party, Tell};
use crate::topology::failover::course::{ASKED, Policy};
use crate::topology::failover::heart::{Beat, beat, instance};
use crate::topology::failover::hooks::{Demote, Hooks};
use crate::topology::failover::led::Led;
use crate::topology::failover::managers::{self, Managers, Seen, Suspect};
use crate::topology::failover::record::{At, InFile, Job, Kind, LastSeen, Record, Step, Stray};
use crate::topology::failover::settler::{Served, Settler};
use crate::topology::failover::slots::{Keeper, Wanted};
use crate::topology::model::{Role, State};
use crate::topology::probe::Target;

/// An automatic failover that came to nothing is not tried again for so long.
const AGAIN: Duration = Duration::from_secs(5);

/// Between two notes of how far the primary is.
pub(super) const SEEN: Duration = Duration::from_secs(1);
/// Between two wishes for `rejoin_command` for a node.
const REJOIN: Duration = Duration::from_secs(60);

/// The task of one cluster, as the monitor sees it.
pub(super) struct Changes {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    /// The acceptance that its record knows.
    told: Option<(usize, u32, u64)>,
    /// The strays that its record knows, see [`Record::strays`].
    strays: Vec<Stray>,
    /// The nodes that it knows.
    parties: Vec<(At, String, bool)>,
    /// Those that an admin has taken out of service.
    held: Vec<At>,
    /// Who has paused failover, as it was told.
    paused: Option<String>,
    /// No automatic failover before, ns.
    not_before_ns: u64,
    policy: Policy,
    pub(super) hooks: Hooks,
    /// When the task was last told how the primary is, ns.
    seen_ns: u64,
    /// When `rejoin_command` was last wished for a node, ns.
    rejoined: HashMap<At, u64>,
    /// Whether this one can write is to be known; nobody if we would not promote another.
    heart: watch::Sender<Option<(At, Target)>>,
    /// These are looked at for other managers; none if we would not promote.
    suspects: watch::Sender<Vec<Suspect>>,
    pub(super) managers: Managers,
    /// Slots made beforehand.
    slots: watch::Sender<Wanted>,
    /// Why an automatic failover did not begin, as it was told.
    refused: Option<String>,
    /// The primary that may be asked what became of COMMITs.
    served: watch::Sender<Option<Served>>,
    /// Told when a client waits for that.
    doubts: mpsc::UnboundedSender<()>,
    /// The other instances.
    pub(super) others: Option<Coordination>,
    /// What they were told of the primary.
    pub(super) voted: Option<Vote>,
    /// The primary that was proposed to be accepted last, with its timeline, and when, ns.
    pub(super) proposed: Option<(At, u32, u64)>,
    /// Since when a primary that is lost here answers others, ns.
    pub(super) objected_ns: Option<u64>,
}

impl Monitor {
    /// Starts the task of a new cluster, with what was decided before a restart.
    pub(super) fn begin_changes(&mut self, watched: &mut Watched, config: &Postgres) {
        let led = self.coordination.as_ref().map(|others| Led::new(others, &watched.name));
        if led.is_some() {
            watched.plan.set_led();
        }
        let (keep, record, damage) = match led {
            Some(_) => (InFile::unused(), None, None),
            None => InFile::open(&self.state_dir, &watched.name),
        };
        let keep = keep.yielding(self.aside.clone());
        if let Some(damage) = damage {
            tracing::error!(damage, cluster = watched.name, "the record of the primary cannot be used");
            self.events.record(&watched.name, 0, "record_damaged", "", &damage);
        }
        if let Some(record) = &record {
            let node = place_of(watched, &record.primary);
            watched.plan.restore(node, record.timeline, record.epoch, record.system_identifier);
            for stray in &record.strays {
                set_stray(watched, stray);
            }
            if let Some(job) = &record.job {
                let (why, plan) = (job.why.clone(), &mut watched.plan);
                let actions = match job.kind == Kind::Switchover && !job.is_promoting() {
                    true => plan.leave(now_ns(), why, job.is_clean),
                    false => plan.close(now_ns(), why, job.is_promoting()),
                };
                watched.carry_out(now_ns(), actions);
            }
        }
        let (orders, given) = mpsc::unbounded_channel();
        let policy = policy(config);
        let conductor = Conductor {
            cluster: watched.name.clone(),
            keep: Arc::new(Mutex::new(keep)),
            led,
            record,
            events: self.events.clone(),
            tell: self.tell(),
            workers: Arc::clone(&self.workers),
            parties: parties(watched),
            policy: policy.clone(),
            hooks: hooks(config),
            resolves: config.failover.commit_resolution,
            undone: None,
            unkept: None,
            gone: None,
            rejoining: HashMap::new(),
        };
        tokio::task::spawn_local(conductor.run(given));
        let (told, strays) = (watched.plan.accepted_as(), strays(watched));
        let (parties, hooks, rejoined) = (Vec::new(), hooks(config), HashMap::new());
        let (heart, primary) = watch::channel(None);
        // All instances that decide together have one claim.
        let claimant = match &self.coordination {
            Some(others) => i32::try_from(others.group() >> 33).unwrap_or_default(),
            None => instance(&self.state_dir),
        };
        tokio::task::spawn_local(beat(claimant, primary, self.beats.clone()));
        let (suspects, present) = watch::channel(Vec::new());
        tokio::task::spawn_local(managers::watch(present, self.tell_seen(&watched.name)));
        let (slots, wanted) = watch::channel(Wanted::default());
        let keeper = Keeper::open(&self.state_dir, &watched.name, self.events.clone());
        tokio::task::spawn_local(keeper.run(wanted));
        let (served, asked) = watch::channel(None);
        let (doubts, told_of) = mpsc::unbounded_channel();
        let settler = Settler { cluster: watched.name.clone(), workers: Arc::clone(&self.workers), served: asked };
        tokio::task::spawn_local(settler.run(told_of));
        let changes = Changes {
            orders,
            told,
            strays,
            parties,
            not_before_ns: 0,
            policy,
            hooks,
            seen_ns: 0,
            rejoined,
            heart,
            suspects,
            managers: Managers::default(),
            slots,
            refused: None,
            held: Vec::new(),
            paused: None,
            served,
            doubts,
            others: self.coordination.clone(),
            voted: None,
            proposed: None,
            objected_ns: None,
        };
        self.changes.insert(watched.name.clone(), changes);
    }

    fn tell(&self) -> Tell {
        let commands = self.commands.clone();
        Arc::new(move |cluster: &str, notice| {
            let (done, ended) = oneshot::channel();
            if let Some(commands) = commands.upgrade() {
                // A monitor that has stopped answers by dropping it.
                let _ = commands.send(Command::Notice { cluster: cluster.to_owned(), notice, done });
            }
            ended
        })
    }

    fn tell_seen(&self, cluster: &str) -> impl Fn(Seen) + use<> {
        let (commands, cluster) = (self.commands.clone(), cluster.to_owned());
        move |seen| {
            if let Some(commands) = commands.upgrade() {
                // A monitor that has stopped promotes nothing.
                let _ = commands.send(Command::Looked { cluster: cluster.clone(), seen });
            }
        }
    }

    /// The nodes of a cluster were looked at for other managers.
    pub(super) fn take_seen(&mut self, cluster: &str, seen: Seen) {
        if let Some(changes) = self.changes.get_mut(cluster) {
            changes.managers.take(seen);
        }
    }

    /// A client of this cluster waits to hear what became of its COMMIT.
    pub(super) fn take_doubt(&self, cluster: &str) {
        if let Some(changes) = self.changes.get(cluster) {
            // The task ends only with the cluster.
            let _ = changes.doubts.send(());
        }
    }

    /// Carries out what a task has decided; it is published before the task goes on.
    pub(super) fn heed(&mut self, cluster: &str, notice: Notice) {
        let now_ns = now_ns();
        let Some(watched) = self.clusters.iter_mut().find(|watched| watched.name == cluster) else { return };
        let actions = match notice {
            Notice::Close { why, cut } => watched.plan.close(now_ns, why, cut),
            Notice::Leave { why, restarts } => watched.plan.leave(now_ns, why, restarts),
            Notice::Open => {
                watched.detector = Default::default();
                watched.plan.open(now_ns)
            }
            Notice::Stray(stray) => {
                set_stray(watched, &stray);
                Vec::new()
            }
            Notice::Adopt { primary, timeline, epoch, identifier, closed, leaving } => {
                let node = place_of(watched, &primary);
                if watched.plan.accepted() != node {
                    watched.detector = Default::default();
                }
                let actions = watched.plan.adopt(now_ns, (node, timeline, epoch), identifier, closed, leaving);
                if let Some(changes) = self.changes.get_mut(cluster) {
                    (changes.told, changes.seen_ns) = (watched.plan.accepted_as(), 0);
                }
                actions
            }
            Notice::Install { primary, timeline, epoch } => {
                watched.detector = Default::default();
                let Some(node) = place_of(watched, &primary) else { return };
                let actions = watched.plan.install(now_ns, node, timeline, epoch);
                if let Some(changes) = self.changes.get_mut(cluster) {
                    changes.told = watched.plan.accepted_as();
                    // Should it be lost as well, how far it had come is asked for.
                    changes.seen_ns = 0;
                    changes.not_before_ns = 0;
                }
                actions
            }
        };
        watched.carry_out(now_ns, actions);
        watched.refresh();
    }

    /// A beat of a primary has ended.
    pub(super) fn take_beat(&mut self, beat: &Beat) {
        for watched in &mut self.clusters {
            let accepted = watched.plan.accepted().and_then(|node| watched.nodes.get(node));
            if accepted.is_some_and(|node| node.is_at(&beat.at)) {
                watched.detector.beat(beat.hangs);
                if let Some(changes) = self.changes.get_mut(&watched.name)
                    && let Some(told) = changes.managers.take_claim(beat.is_taken)
                {
                    let node = accepted.map_or("", |node| &node.conf.name);
                    self.events.record(&watched.name, watched.plan.epoch(), "promotion_claim", node, told);
                }
            }
        }
    }

    /// After anything has happened: tells the tasks what they have to know, and begins what has to begin.
    pub(super) fn look_for_changes(&mut self) {
        let now_ns = now_ns();
        let is_aside = self.aside.is_set();
        for watched in &mut self.clusters {
            let Some(changes) = self.changes.get_mut(&watched.name) else { continue };
            changes.tell_nodes(watched);
            changes.tell_accepted(watched, now_ns);
            changes.tell_vote(watched, now_ns);
            changes.tell_strays(watched);
            changes.tell_fenced(watched, now_ns);
            changes.tell_heart(watched);
            changes.tell_served(watched);
            changes.tell_progress(watched, now_ns);
            changes.tell_suspects(watched);
            changes.tell_slots(watched, is_aside);
            if watched.plan.primary().is_some() && watched.detector.verdict(now_ns).is_none() {
                changes.refused = None;
            }
            watched.objection = changes.managers.objection();
            if watched.plan.mode() == FailoverMode::Promote
                && watched.plan.closed().is_none()
                && watched.plan.paused().is_none()
                && now_ns >= changes.not_before_ns
                && changes.managers.is_known(replicas_up(watched))
                && let Some(lost) = watched.detector.verdict(now_ns)
                && replicas_up(watched).next().is_some()
                && changes.others_agree(&watched.name, now_ns)
            {
                if let Some(why) = changes.managers.objection() {
                    if changes.refused.as_ref() != Some(&why) {
                        let detail = format!("the primary is lost: {}; nothing is promoted: {why}", lost.why);
                        self.events.record(&watched.name, watched.plan.epoch(), "failover_refused", "", &detail);
                        changes.refused = Some(why);
                    }
                    continue;
                }
                changes.not_before_ns = after(now_ns, AGAIN);
                let (known, synchronous) = watched.last_of_primary();
                // One that answers questions would be taken for well by everything that a failover looks at.
                let (kind, step) = match lost.is_hung {
                    true => (Kind::Ordered, Step::Fencing),
                    false => (Kind::Failover, Step::Witnessing),
                };
                let why = format!("the primary is lost: {}", lost.why);
                let known_ago_ms = watched.known_ago_ms(now_ns);
                let is_refused = lost.is_refused;
                let job = Job { is_refused, known, known_ago_ms, synchronous, ..Job::new(kind, why, step) };
                // Closed at once, not only when the task comes to it.
                let actions = watched.plan.close(now_ns, job.why.clone(), false);
                watched.carry_out(now_ns, actions);
                watched.refresh();
                let (reply, _) = oneshot::channel();
                let epoch = watched.plan.epoch();
                changes.begin(watched, Order::Begin { job, epoch, drain: None, reply });
            }
        }
    }

    /// A cluster has other settings or nodes.
    pub(super) fn reconfigure_changes(&mut self, config: &Postgres) {
        for changes in self.changes.values_mut() {
            changes.policy = policy(config);
            changes.hooks = hooks(config);
            changes.parties.clear();
        }
        self.changes.retain(|name, changes| {
            let stays = self.clusters.iter().any(|watched| watched.name == *name);
            if !stays {
                changes.slots.send_modify(Wanted::end);
            }
            stays
        });
    }
}

impl Changes {
    /// With what is known of the nodes just now.
    pub(super) fn begin(&self, watched: &Watched, order: Order) {
        // The task ends only with the cluster.
        let _ = self.orders.send(Order::Nodes(parties(watched), self.policy.clone(), self.hooks.clone()));
        let _ = self.orders.send(order);
    }

    fn tell_heart(&self, watched: &Watched) {
        let is_ours = watched.plan.mode() == FailoverMode::Promote && self.leads();
        let serving = watched.plan.primary().filter(|_| is_ours);
        let primary = serving.and_then(|node| watched.nodes.get(node)).map(|node| (node.at(), node.target.clone()));
        self.heart.send_if_modified(|known| {
            let is_other = *known != primary;
            *known = primary;
            is_other
        });
    }

    fn tell_served(&self, watched: &Watched) {
        let node = watched.plan.primary().and_then(|node| watched.nodes.get(node));
        let epoch = watched.plan.epoch();
        let served = node.map(|node| Served { at: node.at(), target: node.target.clone(), epoch });
        self.served.send_if_modified(|known| {
            let is_other = *known != served;
            *known = served;
            is_other
        });
    }

    /// Once a second how far the primary is: a restart in the middle of its loss must not make a proof impossible.
    fn tell_progress(&mut self, watched: &Watched, now_ns: u64) {
        let serving = watched.plan.primary().filter(|_| watched.plan.mode() == FailoverMode::Promote);
        let Some(node) = serving.and_then(|node| watched.nodes.get(node)) else { return };
        if now_ns >= after(self.seen_ns, SEEN)
            && let (Some(flushed), synchronous) = watched.last_of_primary()
        {
            self.seen_ns = now_ns;
            let _ = self.orders.send(Order::Seen(node.at(), LastSeen { flushed, synchronous, unseen: 0 }));
        }
    }

    /// What was known of other nodes, or before another mode, counts no more.
    fn tell_suspects(&mut self, watched: &Watched) {
        let present = if watched.plan.mode() == FailoverMode::Promote { suspects(watched) } else { Vec::new() };
        let is_other = *self.suspects.borrow() != present;
        if is_other {
            self.managers.forget();
            self.suspects.send_replace(present);
        }
    }

    fn tell_slots(&self, watched: &Watched, is_aside: bool) {
        let present = Wanted::of(watched, is_aside || !self.leads());
        self.slots.send_if_modified(|known| {
            let is_other = *known != present;
            *known = present;
            is_other
        });
    }

    /// A former primary that answers is for `rejoin_command`, once a minute at the most.
    fn tell_fenced(&mut self, watched: &Watched, now_ns: u64) {
        if self.hooks.rejoin.is_empty() || watched.plan.primary().is_none() || watched.plan.paused().is_some() {
            return;
        }
        let Some((_, newest, _)) = watched.plan.accepted_as() else { return };
        for (place, (node, standing)) in watched.nodes.iter().zip(watched.plan.standings()).enumerate() {
            // One that somebody has promoted since is not ours to rewind, and one on the primary's own timeline is the
            // primary under another name.
            let is_former = watched.timeline(place).is_some_and(|own| own < newest);
            if (standing.role, standing.state) != (Role::Primary, State::Fenced) || !is_former {
                continue;
            }
            let at = node.at();
            if self.rejoined.get(&at).is_none_or(|last| now_ns >= after(*last, REJOIN)) {
                self.rejoined.insert(at.clone(), now_ns);
                let _ = self.orders.send(Order::Rejoin(at));
            }
        }
    }

    fn tell_nodes(&mut self, watched: &Watched) {
        let parties = parties(watched);
        let known: Vec<(At, String, bool)> =
            parties.iter().map(|party| (party.at.clone(), party.name.clone(), party.may_lead)).collect();
        // While a change is under way, its task knows better what the nodes are about.
        let same_nodes = |a: &(At, String, bool), b: &(At, String, bool)| (&a.0, &a.1) == (&b.0, &b.1);
        let is_same =
            known.len() == self.parties.len() && known.iter().zip(&self.parties).all(|(a, b)| same_nodes(a, b));
        let is_closed = is_same && watched.plan.closed().is_some();
        if known != self.parties && !is_closed {
            self.parties = known;
            let _ = self.orders.send(Order::Nodes(parties, self.policy.clone(), self.hooks.clone()));
        }
        let is_held = |(place, _): &(usize, &WatchedNode)| watched.plan.hold(*place).is_some();
        let held: Vec<At> = watched.nodes.iter().enumerate().filter(is_held).map(|(_, node)| node.at()).collect();
        if held != self.held {
            self.held.clone_from(&held);
            if is_closed {
                let _ = self.orders.send(Order::Held(held));
            }
        }
        let paused = watched.plan.paused().map(str::to_owned);
        if paused != self.paused {
            self.paused.clone_from(&paused);
            if let Some(by) = paused {
                let _ = self.orders.send(Order::Paused(by));
            }
        }
    }

    fn tell_strays(&mut self, watched: &Watched) {
        let present = strays(watched);
        if present == self.strays {
            return;
        }
        self.strays.clone_from(&present);
        let _ = self.orders.send(Order::Strays(present));
    }

    fn tell_accepted(&mut self, watched: &Watched, now_ns: u64) {
        if self.others.is_some() {
            return self.propose(watched, now_ns);
        }
        let accepted = watched.plan.accepted_as();
        if accepted == self.told {
            return;
        }
        self.told = accepted;
        if let Some((node, timeline, epoch)) = accepted
            && let Some(node) = watched.nodes.get(node)
        {
            let record = Record::accepted(node.at(), timeline, epoch, watched.plan.system_identifier());
            let _ = self.orders.send(Order::Accepted(Box::new(record)));
        }
    }
}

fn set_stray(watched: &mut Watched, stray: &Stray) {
    if let Some(node) = place_of(watched, &stray.at) {
        watched.plan.set_stray(node, stray.how);
    }
}

fn strays(watched: &Watched) -> Vec<Stray> {
    let nodes = watched.nodes.iter().enumerate();
    nodes.filter_map(|(place, node)| Some(Stray { at: node.at(), how: watched.plan.strayed(place)? })).collect()
}

fn policy(config: &Postgres) -> Policy {
    let failover = &config.failover;
    Policy {
        durability: failover.durability,
        max_lost_bytes: failover.max_lost_bytes,
        may_promote: failover.mode == FailoverMode::Promote,
        known: None,
        unseen: 0,
    }
}

fn hooks(config: &Postgres) -> Hooks {
    let failover = &config.failover;
    Hooks {
        fence: failover.fence_command.clone(),
        validate: failover.validate_command.clone(),
        rejoin: failover.rejoin_command.clone(),
        demote: match failover.demote_method {
            DemoteMethod::Nobody => Demote::Nobody,
            DemoteMethod::Hook => Demote::Program(failover.demote_command.clone()),
            DemoteMethod::CopyProgram => Demote::ThroughSql,
        },
    }
}

fn place_of(watched: &Watched, at: &At) -> Option<usize> {
    watched.nodes.iter().position(|node| node.is_at(at))
}

fn parties(watched: &Watched) -> Vec<Party> {
    let party = |(place, node): (usize, &WatchedNode)| Party {
        at: node.at(),
        name: node.conf.name.clone(),
        target: node.target.clone(),
        may_lead: node.conf.promote && watched.plan.may_lead(place),
        is_down: node.is_down_for(now_ns(), ASKED),
        timeline: watched.timeline(place),
        started: watched.started(place),
        standby: watched.standby(place),
        acknowledged: Arc::clone(&node.acknowledged),
    };
    watched.nodes.iter().enumerate().map(party).collect()
}

pub(super) fn suspects(watched: &Watched) -> Vec<Suspect> {
    let suspect = |node: &WatchedNode| Suspect { name: node.conf.name.clone(), target: node.target.clone() };
    watched.nodes.iter().map(suspect).collect()
}

fn replicas_up(watched: &Watched) -> impl Iterator<Item = &str> {
    let up = watched.nodes.iter().enumerate().filter(|(node, _)| watched.is_replica_up(*node));
    up.map(|(_, node)| node.conf.name.as_str())
}

/// It answers, is no replica, and nothing but an admin's order speaks against it.
pub(super) fn takes_writes(watched: &Watched, node: usize) -> bool {
    let standing = watched.plan.standing(node);
    standing.role == Role::Primary && !matches!(standing.state, State::Down | State::Fenced)
}
