//! Every order of events that three nodes, clients, crashes and lost orders allow, up to a bound, against the decisions
//! of a failover: nothing that was acknowledged is lost where that is promised, never two nodes are promoted in one
//! epoch, and everything comes to an end once the faults do.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use forebay::config::model::Durability;
use forebay::topology::Lsn;
use forebay::topology::failover::conninfo;
use forebay::topology::failover::course::{self, Act, Facts, Move, Policy, Receiver, Seen};
use forebay::topology::failover::record::{At, Awaited, Job, Kind, Record, Step, Stray, Strayed};

const NODES: usize = 3;
/// Bounds of what is tried.
const WRITES: u64 = 2;
const FAULTS: u32 = 3;
const JOBS: u32 = 2;

fn at(node: usize) -> At {
    At { host: format!("n{node}"), port: 1 }
}

fn place(host: &str) -> usize {
    host[1..].parse().expect("a host of this test")
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    /// Its process runs.
    up: bool,
    /// Forebay reaches it.
    seen: bool,
    in_recovery: bool,
    timeline: u32,
    received: u64,
    replayed: u64,
    conninfo: String,
    slot: String,
    slots: Vec<String>,
    read_only: bool,
    /// As Forebay remembers; gone with its process.
    quiet: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    /// On disk.
    record: String,
    /// Commits that clients were told of: positions on the timeline of that epoch's primary.
    acknowledged: u64,
    /// Who was promoted in which epoch.
    promoted: Vec<(u64, usize)>,
    faults: u32,
    jobs: u32,
}

/// A fault or a step of somebody; each is tried in each world where it is possible.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A client writes.
    Write,
    /// A replica takes what its upstream has.
    Receive(usize),
    Replay(usize),
    Crash(usize),
    Start(usize),
    Hide(usize),
    Show(usize),
    /// Forebay ends and begins anew.
    Restart,
    /// The detector has judged.
    Lost,
    /// An admin's order.
    Switchover {
        clean: bool,
    },
    /// An admin's order when a candidate does not come back.
    GiveUp,
    /// Forebay's next move; what it orders reaches only nodes of this set of bits. `late`: time-outs are over.
    Move {
        late: bool,
        reaches: u8,
    },
}

struct Model {
    policy: Policy,
    /// `ANY 1 (n1, n2)`, so that a commit is told of once a replica has it.
    is_synchronous: bool,
}

impl World {
    fn new() -> Self {
        let upstream = |node: usize| if node == 0 { String::new() } else { "host=n0 port=1".to_owned() };
        let nodes = (0..NODES).map(|node| Node {
            up: true,
            seen: true,
            in_recovery: node != 0,
            timeline: 1,
            received: 1,
            replayed: 1,
            conninfo: upstream(node),
            slot: String::new(),
            slots: Vec::new(),
            read_only: false,
            quiet: 0,
        });
        let mut world = World {
            nodes: nodes.collect(),
            record: String::new(),
            acknowledged: 1,
            promoted: Vec::new(),
            faults: 0,
            jobs: 0,
        };
        world.keep(&Record::accepted(at(0), 1, 1, Some(7)));
        world
    }

    fn record(&self) -> Record {
        serde_json::from_str(&self.record).expect("what was kept")
    }

    fn keep(&mut self, record: &Record) {
        self.record = serde_json::to_string(record).expect("a record");
    }

    fn upstream(&self, node: usize) -> Option<usize> {
        let upstream = place(&conninfo::value(&self.nodes[node].conninfo, "host")?);
        let other = &self.nodes[upstream];
        // A replica cannot follow who has less than it has itself of an older history.
        let fits = other.timeline > self.nodes[node].timeline || other.received >= self.nodes[node].received;
        (other.up && !other.in_recovery && fits).then_some(upstream)
    }

    /// Where a client's write would go.
    fn gate(&self) -> Option<usize> {
        let record = self.record();
        let node = place(&record.primary.host);
        let primary = &self.nodes[node];
        let is_open = record.job.is_none() && primary.up && primary.seen && !primary.in_recovery;
        (is_open && primary.timeline == record.timeline).then_some(node)
    }

    fn look(&mut self, late: bool) -> Vec<Seen> {
        (0..NODES)
            .map(|node| {
                let receiver =
                    self.upstream(node).map(|_| Receiver { is_streaming: true, heard: Some(Duration::ZERO) });
                let own = &mut self.nodes[node];
                let facts = (own.up && own.seen).then(|| Facts {
                    in_recovery: own.in_recovery,
                    timeline: Some(own.timeline),
                    system_identifier: Some(7),
                    received: own.in_recovery.then_some(Lsn(own.received)),
                    replayed: own.in_recovery.then_some(Lsn(own.replayed)),
                    flushed: (!own.in_recovery).then_some(Lsn(own.received)),
                    conninfo: Some(own.conninfo.clone()),
                    slot: own.slot.clone(),
                    slots: own.slots.clone(),
                    standby: format!("n{node}"),
                    receiver: receiver.filter(|_| own.in_recovery),
                    read_only: own.read_only,
                    ..Facts::default()
                });
                let is_silent = late && facts.is_none();
                let silent = if is_silent { Duration::from_secs(60) } else { Duration::ZERO };
                own.quiet = if facts.as_ref().is_some_and(Facts::is_at_rest) { (own.quiet + 1).min(2) } else { 0 };
                let quiet = own.quiet;
                Seen {
                    at: at(node),
                    name: format!("n{node}"),
                    may_lead: true,
                    facts,
                    silent,
                    is_down: !own.up,
                    started: None,
                    standby: Some(format!("n{node}")),
                    quiet,
                    refused: None,
                }
            })
            .collect()
    }

    /// The primary is restarted as a standby, unless something goes wrong; whether Forebay hears that it went well.
    fn restart_as_standby(&mut self, reaches: u8) -> bool {
        let primary = place(&self.record().primary.host);
        let own = &mut self.nodes[primary];
        let is_done = reaches != 0b000;
        own.in_recovery |= is_done;
        own.up &= !is_done || reaches != 0b100;
        own.quiet = 0;
        reaches == 0b111
    }

    fn carry_out(&mut self, node: usize, act: &Act, epoch: u64) {
        let own = &mut self.nodes[node];
        match act {
            Act::Point { conninfo, slot } => (own.conninfo, own.slot) = (conninfo.clone(), slot.clone()),
            Act::Slot(name) => own.slots.push(name.clone()),
            Act::Promote if own.in_recovery => {
                own.in_recovery = false;
                own.timeline += 1;
                // What was received and not replayed is replayed before a promotion ends.
                own.replayed = own.received;
                self.promoted.push((epoch, node));
            }
            Act::Fence => own.read_only = true,
            Act::Unfence => own.read_only = false,
            Act::Promote | Act::Resume | Act::EndReads => {}
        }
    }
}

impl Model {
    /// The world after an event; `None` if it cannot happen.
    fn after(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        match event {
            Event::Write => {
                let primary = world.gate()?;
                if world.nodes[primary].read_only || world.nodes[primary].received > WRITES {
                    return None;
                }
                next.nodes[primary].received += 1;
                next.nodes[primary].replayed += 1;
                if !self.is_synchronous {
                    next.acknowledged = next.nodes[primary].received;
                }
            }
            Event::Receive(node) => {
                let upstream = world.upstream(node)?;
                let (own, other) = (&mut next.nodes[node], &world.nodes[upstream]);
                let is_in_recovery = own.in_recovery;
                let is_behind = (other.timeline, other.received) > (own.timeline, own.received);
                if !own.up || !is_in_recovery || !is_behind {
                    return None;
                }
                (own.timeline, own.received) = (other.timeline, other.received);
                if self.is_synchronous && world.gate() == Some(upstream) {
                    next.acknowledged = next.acknowledged.max(next.nodes[node].received);
                }
            }
            Event::Replay(node) => {
                let own = &mut next.nodes[node];
                if !own.up || own.replayed == own.received {
                    return None;
                }
                own.replayed = own.received;
            }
            Event::Crash(node) | Event::Hide(node) | Event::Start(node) | Event::Show(node) => {
                let own = &mut next.nodes[node];
                let (flag, value) = match event {
                    Event::Crash(_) | Event::Start(_) => (&mut own.up, matches!(event, Event::Start(_))),
                    _ => (&mut own.seen, matches!(event, Event::Show(_))),
                };
                if *flag == value {
                    return None;
                }
                *flag = value;
                if !value {
                    next.faults += 1;
                }
                own.quiet = 0;
            }
            Event::Restart => {
                next.nodes.iter_mut().for_each(|node| node.quiet = 0);
                next.faults += 1;
            }
            Event::Lost | Event::Switchover { .. } => {
                let mut record = world.record();
                let node = place(&record.primary.host);
                let is_lost = !(world.nodes[node].up && world.nodes[node].seen);
                let is_planned = matches!(event, Event::Switchover { .. });
                let is_clean = matches!(event, Event::Switchover { clean: true });
                let is_away = is_lost || world.nodes[node].in_recovery;
                // A primary that is a standby answers, and is not in service.
                if record.job.is_some() || (is_planned && is_away) || (!is_planned && !is_lost) || world.jobs == JOBS {
                    return None;
                }
                let (kind, step) = match (is_planned, is_clean) {
                    (true, true) => (Kind::Switchover, Step::Preparing),
                    (true, false) => (Kind::Switchover, Step::Fencing),
                    (false, _) => (Kind::Failover, Step::Witnessing),
                };
                record.job = Some(Job {
                    is_clean,
                    known: Some(Lsn(world.nodes[node].received)),
                    synchronous: match self.is_synchronous {
                        true => Awaited {
                            setting: "ANY 1 (n0, n1, n2)".into(),
                            own_name: format!("n{node}"),
                            senders: Vec::new(),
                        },
                        false => Awaited::default(),
                    },
                    ..Job::new(kind, "the model".into(), step)
                });
                next.keep(&record);
                next.jobs += 1;
            }
            Event::GiveUp => {
                let record = world.record();
                let ordered = Job::new(Kind::Ordered, "the model".into(), Step::Freezing);
                let look = next.look(true);
                next.keep(&course::give_up(&record, &look, &self.policy, &ordered).ok()?);
            }
            Event::Move { late, reaches } => {
                let look = next.look(late);
                let record = world.record();
                if !record.is_unsettled() {
                    return None;
                }
                let in_step = if late { Duration::from_secs(60) } else { Duration::ZERO };
                match course::next(&record, &look, &self.policy, in_step) {
                    Move::Write(new) => {
                        self.check_write(world, &record, &new);
                        if new.primary != record.primary {
                            // What this change was allowed to lose is no loss of a later one.
                            next.acknowledged = next.acknowledged.min(world.nodes[place(&new.primary.host)].received);
                        }
                        next.keep(&new);
                    }
                    Move::Demote(mut new) => {
                        let went_well = next.restart_as_standby(reaches);
                        if !went_well && let Some(job) = &mut new.job {
                            job.step = Step::Undoing { why: "the program failed".into() };
                        }
                        // Or Forebay ends before it hears of it.
                        if reaches != 0b010 {
                            next.keep(&new);
                        }
                    }
                    Move::Act(acts) => {
                        for (at, act) in acts {
                            let node = place(&at.host);
                            assert!(next.nodes[node].seen, "an order to a node that does not answer: {act:?}");
                            if reaches & (1 << node) != 0 {
                                next.carry_out(node, &act, record.epoch);
                            }
                        }
                    }
                    Move::Wait(_) | Move::Rest => {}
                }
            }
        }
        self.check(&next);
        Some(next)
    }

    fn check_write(&self, world: &World, old: &Record, new: &Record) {
        let candidate = |record: &Record| match record.job.as_ref().map(|job| job.step.clone()) {
            Some(Step::Promoting { candidate, .. }) => Some(candidate),
            _ => None,
        };
        if let Some(promoted) = candidate(old) {
            let is_it = candidate(new).as_ref() == Some(&promoted) || new.primary == promoted;
            assert!(is_it, "another way was taken after the candidate may have been promoted: {old:?} to {new:?}");
        }
        if new.primary != old.primary {
            assert_eq!(new.epoch, old.epoch + 1);
            let node = &world.nodes[place(&new.primary.host)];
            let job = old.job.as_ref();
            let keeps_all = self.is_synchronous || job.is_some_and(|job| job.kind == Kind::Switchover);
            if job.is_some_and(|job| job.is_clean && job.kind == Kind::Switchover) {
                let former = &world.nodes[place(&old.primary.host)];
                assert!(former.received <= node.received, "the old primary needs a rewind: {world:?}");
            }
            if keeps_all {
                let has = node.received;
                assert!(has >= world.acknowledged, "{has} of {} is left: {world:?}", world.acknowledged);
            }
        }
    }

    fn check(&self, world: &World) {
        for (n, (epoch, node)) in world.promoted.iter().enumerate() {
            // One that is given up may have been told, and gets no traffic whatever it says.
            let is_given_up = |by: &usize| world.record().strays.iter().any(|stray| stray.at == at(*by));
            let same = world.promoted[..n].iter().any(|(other, by)| other == epoch && by != node && !is_given_up(by));
            assert!(!same, "two nodes were promoted in one epoch: {world:?}");
        }
    }

    fn events(&self, world: &World) -> Vec<Event> {
        let switchovers = [false, true].map(|clean| Event::Switchover { clean });
        let mut events = vec![Event::Write, Event::Lost, Event::GiveUp];
        events.extend(switchovers);
        for node in 0..NODES {
            events.extend([Event::Receive(node), Event::Replay(node), Event::Start(node), Event::Show(node)]);
            if world.faults < FAULTS {
                events.extend([Event::Crash(node), Event::Hide(node)]);
            }
        }
        if world.faults < FAULTS && world.record().job.is_some() {
            events.push(Event::Restart);
        }
        for late in [false, true] {
            // All, none, and each alone: what is ordered may arrive in part.
            events.extend([0b111, 0b000, 0b010, 0b100].map(|reaches| Event::Move { late, reaches }));
        }
        events
    }

    /// Everything runs again and nothing else goes wrong: there has to be an end, with a primary that takes writes.
    fn comes_to_an_end(&self, world: &World) {
        let mut world = world.clone();
        for node in &mut world.nodes {
            (node.up, node.seen) = (true, true);
        }
        for turn in 0..60 {
            for node in 0..NODES {
                for event in [Event::Receive(node), Event::Replay(node)] {
                    world = self.after(&world, event).unwrap_or(world);
                }
            }
            world = self.after(&world, Event::Move { late: turn % 4 == 3, reaches: 0b111 }).unwrap_or(world);
        }
        let record = world.record();
        assert_eq!(record.job, None, "it never ends: {world:#?}");
        let primary = world.gate().unwrap_or_else(|| panic!("nobody takes writes: {world:#?}"));
        assert!(!world.nodes[primary].read_only, "the primary was left read-only: {world:#?}");
        // Who wrote something else than the new primary stays astray until somebody rewinds it.
        for (node, own) in world.nodes.iter().enumerate() {
            let follows = own.conninfo.contains(&format!("host=n{primary} "));
            assert!(node == primary || !own.in_recovery || follows, "n{node} follows nobody: {world:#?}");
        }
    }

    fn explore(&self, most: usize) -> usize {
        let mut seen = HashSet::new();
        let mut queue = VecDeque::from([World::new()]);
        seen.insert(World::new());
        while let Some(world) = queue.pop_front() {
            self.comes_to_an_end(&world);
            for event in self.events(&world) {
                let Some(next) = self.after(&world, event) else { continue };
                if seen.len() < most && seen.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
        seen.len()
    }
}

fn most() -> usize {
    std::env::var("FOREBAY_MODEL_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(4000)
}

#[test]
fn strict_loses_nothing_in_any_order_of_events() {
    let policy =
        Policy { durability: Durability::Strict, max_lost_bytes: 0, may_promote: true, known: None, unseen: 0 };
    let worlds = Model { policy, is_synchronous: true }.explore(most());
    println!("{worlds} worlds");
    assert!(worlds > 1000, "only {worlds} worlds: the model is stuck");
}

#[test]
fn without_a_promise_there_is_still_one_primary_and_an_end() {
    let policy =
        Policy { durability: Durability::BestEffort, max_lost_bytes: 0, may_promote: true, known: None, unseen: 0 };
    let worlds = Model { policy, is_synchronous: false }.explore(most());
    println!("{worlds} worlds");
    assert!(worlds > 1000, "only {worlds} worlds: the model is stuck");
}

#[test]
fn a_bound_of_nothing_gives_up_rather_than_lose() {
    let policy =
        Policy { durability: Durability::Bounded, max_lost_bytes: 0, may_promote: true, known: None, unseen: 0 };
    let worlds = Model { policy, is_synchronous: false }.explore(most());
    println!("{worlds} worlds");
    assert!(worlds > 1000, "only {worlds} worlds: the model is stuck");
}

#[test]
fn a_promotion_that_was_given_up_is_finished_if_the_former_primary_follows_it() {
    let mut world = World::new();
    let follow = |node: usize| format!("host=n{node} port=1");
    for (node, in_recovery, timeline, upstream) in [(0, true, 2, 1), (1, false, 2, 0), (2, true, 1, 0)] {
        let own = &mut world.nodes[node];
        (own.in_recovery, own.timeline, own.conninfo) = (in_recovery, timeline, follow(upstream));
    }
    world.promoted.push((1, 1));
    let given_up = Stray { at: at(1), how: Strayed::Told { started: None } };
    world.keep(&Record { demoted: true, strays: vec![given_up], ..world.record() });
    let policy =
        Policy { durability: Durability::Strict, max_lost_bytes: 0, may_promote: true, known: None, unseen: 0 };
    let model = Model { policy, is_synchronous: false };
    model.comes_to_an_end(&world);
    // Not where somebody else's promotion was followed.
    world.keep(&Record { strays: Vec::new(), ..world.record() });
    let next = course::next(&world.record(), &world.look(false), &model.policy, Duration::ZERO);
    assert!(matches!(&next, Move::Wait(why) if why.contains("somebody to say whether n0 is the primary")), "{next:?}");
}
