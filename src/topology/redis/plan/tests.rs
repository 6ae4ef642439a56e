//! The rules, one by one, and the event orders that real Sentinels were seen to produce.

use proptest::prelude::*;

use super::*;

mod pause;

const MS: u64 = 1_000_000;
const HISTORY: &str = "aaaa";

fn at(port: u16) -> Address {
    Address::new("10.0.0.1", port)
}

fn facts(says: Says, replid: &str, offset: u64) -> Facts {
    Facts {
        says,
        offset,
        replid: Some(replid.to_owned()),
        replid2: None,
        second_offset: None,
        run_id: None,
        asked_ns: 0,
    }
}
fn primary(replid: &str, offset: u64) -> Facts {
    facts(Says::Primary { replicas: 0 }, replid, offset)
}
fn replica(upstream: u16) -> Facts {
    facts(Says::Replica { upstream: at(upstream), linked: true }, HISTORY, 90)
}
/// Promoted when it had received this much of the old history.
fn promoted(received: u64) -> Facts {
    let facts = primary("bbbb", received + 20);
    Facts { replid2: Some(HISTORY.to_owned()), second_offset: Some(received + 1), ..facts }
}

fn naming(config_epoch: u64, port: u16) -> Naming {
    let others = (1..=3).filter(|&other| other != port);
    let listed = |port| Listed { address: at(port), trouble: None, priority: Some(100), announced: true };
    Naming {
        config_epoch,
        primary: at(port),
        replicas: others.map(listed).collect(),
        in_failover: false,
        quorum: 2,
        other_sentinels: 2,
        down_after_ms: 1500,
    }
}

/// A plan that is told things, and what it made of them.
struct Told {
    plan: Plan,
    now: u64,
    events: Vec<(&'static str, String)>,
}

impl Told {
    fn new(sentinels: usize, nodes: usize) -> Self {
        let sentinels: Vec<Address> = (0..sentinels).map(|n| at(26_379 + n as u16)).collect();
        let nodes: Vec<Address> = (1..=nodes).map(|n| at(n as u16)).collect();
        Self { plan: Plan::new(&sentinels, &nodes), now: 1000 * MS, events: Vec::new() }
    }

    /// Three Sentinels at config epoch 1 that name the first of three nodes, which has written 100 bytes.
    fn settled() -> Self {
        let mut told = Self::new(3, 0);
        for sentinel in 0..3 {
            told.named(sentinel, 1, 1);
        }
        told.answered(0, primary(HISTORY, 100));
        told.answered(1, replica(1));
        told.answered(2, replica(1));
        assert_eq!(told.plan.primary(), Some(0), "{:#?}", told.plan);
        told.events.clear();
        told
    }

    fn step(&mut self, input: Input) -> &mut Self {
        for action in self.plan.step(self.now, input) {
            if let Action::Report { event, detail, .. } = action {
                self.events.push((event, detail));
            }
        }
        self
    }
    fn named(&mut self, sentinel: usize, epoch: u64, port: u16) -> &mut Self {
        self.step(Input::Named { sentinel, naming: naming(epoch, port) })
    }
    fn lost(&mut self, sentinel: usize) -> &mut Self {
        self.step(Input::Unheard { sentinel, why: "refused".to_owned(), refused: true })
    }
    fn signed(&mut self, sentinel: usize, channel: &str, message: &str) -> &mut Self {
        let sign = crate::topology::redis::sign::read("m", channel, message).expect("a sign");
        self.step(Input::Signed { sentinel, sign })
    }
    fn about_first(&mut self, sentinel: usize, channel: &str) -> &mut Self {
        self.signed(sentinel, channel, "master m 10.0.0.1 1")
    }
    fn answered(&mut self, node: usize, facts: Facts) -> &mut Self {
        self.step(Input::Answered { node, facts })
    }
    fn down(&mut self, node: usize) -> &mut Self {
        self.step(Input::Failed { node, failure: Failure::Down("refused".to_owned()) })
    }
    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += ms * MS;
        self.step(Input::Tick)
    }
    /// As `after`, while all go on saying what they say.
    fn quiet(&mut self, seconds: u64, namings: &[(usize, u64, u16)], nodes: &[(usize, Facts)]) -> &mut Self {
        for _ in 0..seconds {
            self.after(1000);
            for &(sentinel, epoch, port) in namings {
                self.named(sentinel, epoch, port);
            }
            for (node, facts) in nodes {
                self.answered(*node, facts.clone());
            }
        }
        self
    }

    /// `U`p, `D`own, `F`enced, `d`raining, `-` detached.
    fn states(&self) -> String {
        let letter = |standing: Standing| match standing.state {
            State::Up => 'U',
            State::Down => 'D',
            State::Fenced => 'F',
            State::Draining => 'd',
            State::Detached => '-',
        };
        self.plan.standings().into_iter().map(letter).collect()
    }
    fn has(&self, event: &str) -> bool {
        self.events.iter().any(|(known, _)| *known == event)
    }
    fn detail(&self, event: &str) -> &str {
        self.events.iter().rev().find(|(known, _)| *known == event).map_or("", |(_, detail)| detail)
    }
}

#[test]
fn nodes_are_named_primary_first_then_by_address() {
    let mut told = Told::new(1, 0);
    told.named(0, 1, 2);
    let names: Vec<_> = (0..3).filter_map(|n| told.plan.node(n)).map(|(at, name)| (at.port, name)).collect();
    assert_eq!(names, [(2, "redis1"), (1, "redis2"), (3, "redis3")]);
    told.named(0, 2, 3);
    assert_eq!(told.plan.node(0).map(|(_, name)| name), Some("redis1"), "a node keeps its name");
}

#[test]
fn a_primary_needs_the_majority_s_word_and_its_own() {
    let mut told = Told::new(3, 0);
    told.named(0, 1, 1).answered(0, primary(HISTORY, 1));
    assert_eq!(told.plan.primary(), None, "two Sentinels were not asked yet");
    told.named(1, 1, 1).lost(2);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 1));

    let mut told = Told::new(3, 0);
    told.named(0, 1, 1).named(1, 1, 1).named(2, 1, 1).answered(0, replica(2));
    assert_eq!(told.plan.primary(), None, "it says that it is a replica");
    assert!(told.plan.reason().contains("does not say that it is the primary"), "{}", told.plan.reason());
}

#[test]
fn without_a_majority_the_start_needs_agreement_and_no_other_primary() {
    let mut told = Told::new(3, 0);
    told.named(0, 1, 1).lost(1).lost(2).answered(0, primary(HISTORY, 1)).answered(1, replica(1));
    assert_eq!(told.plan.primary(), None, "a node was not asked yet");
    told.answered(2, replica(1));
    assert_eq!(told.plan.primary(), Some(0));

    let mut told = Told::new(3, 0);
    told.named(0, 1, 1).lost(1).lost(2).answered(0, primary(HISTORY, 1)).answered(1, replica(1));
    told.answered(2, primary("cccc", 1));
    assert_eq!(told.plan.primary(), None, "another node says so too");
    assert!(told.plan.reason().contains("1 of 3 Sentinels"), "{}", told.plan.reason());
}

#[test]
fn a_primary_that_is_down_or_a_replica_takes_no_writes_at_once() {
    let mut told = Told::settled();
    told.down(0);
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "DUU"));
    assert!(told.has("primary_lost") && told.has("node_down"));
    told.answered(0, primary(HISTORY, 100));
    assert_eq!(told.plan.primary(), Some(0), "it is back, and nobody has replaced it");
    told.answered(0, replica(2));
    assert_eq!(told.plan.primary(), None);
    assert!(told.plan.reason().contains("says that it is a replica now"), "{}", told.plan.reason());
}

#[test]
fn a_restart_of_the_primary_is_told() {
    let mut told = Told::settled();
    let run = |id: &str, replid| Facts { run_id: Some(id.to_owned()), ..primary(replid, 1) };
    told.answered(0, run("x", HISTORY)).down(0).answered(0, run("y", "cccc"));
    assert!(told.has("primary_restarted"), "{:?}", told.events);
    assert_eq!((told.plan.primary(), told.plan.replid()), (Some(0), Some("cccc")));
}

#[test]
fn a_busy_primary_stays_the_primary() {
    let mut told = Told::settled();
    told.step(Input::Failed { node: 0, failure: Failure::Busy("BUSY".to_owned()) });
    told.step(Input::Failed { node: 0, failure: Failure::Stalled });
    assert_eq!(told.plan.primary(), Some(0));
}

#[test]
fn one_stale_sentinel_changes_nothing() {
    let mut told = Told::settled();
    told.named(0, 2, 2).named(1, 2, 2).answered(1, promoted(100)).answered(0, replica(2));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2));
    told.events.clear();
    told.named(2, 1, 1).about_first(2, "+odown").about_first(2, "+try-failover");
    told.signed(2, "+odown", "master m 10.0.0.1 2");
    assert_eq!(told.plan.primary(), Some(1), "its epoch is old: {:?}", told.events);
    told.lost(0).lost(1).after(10);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2), "also when it is the only one");
    assert!(!told.has("primary_lost"));
}

#[test]
fn the_highest_epoch_wins_as_soon_as_the_node_agrees() {
    let mut told = Told::settled();
    told.named(2, 2, 3);
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "FUU"), "the old one is fenced before that");
    assert!(told.plan.reason().contains("names 10.0.0.1:3 since config epoch 2"), "{}", told.plan.reason());
    told.answered(2, promoted(100));
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(2), "FUU"), "one Sentinel is enough");
    assert_eq!(told.plan.epoch(), 2);
}

#[test]
fn a_strange_history_needs_the_majority() {
    let mut told = Told::settled();
    told.named(2, 2, 3).answered(2, primary("zzzz", 5));
    assert_eq!(told.plan.primary(), None);
    told.named(1, 2, 3);
    assert_eq!(told.plan.primary(), Some(2));
    assert!(told.detail("failover_loss").starts_with("not known"), "{:?}", told.events);
}

#[test]
fn equal_epochs_are_decided_by_the_majority() {
    let mut told = Told::settled();
    told.answered(2, promoted(100)).named(0, 1, 3);
    assert_eq!(told.plan.primary(), Some(0), "one of three");
    told.named(1, 1, 3);
    assert_eq!(told.plan.primary(), Some(2), "two of three");
}

#[test]
fn never_back_to_a_lower_epoch() {
    let mut told = Told::settled();
    told.named(0, 5, 2).named(1, 5, 2).named(2, 5, 2).answered(1, promoted(100));
    for sentinel in 0..3 {
        told.named(sentinel, 4, 1);
    }
    told.answered(0, primary(HISTORY, 300));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2));
    told.down(1);
    assert_eq!(told.plan.primary(), None, "not even in its absence");
}

#[test]
fn the_old_primary_is_fenced_from_the_first_sign() {
    for sign in ["+odown", "+try-failover", "+failover-state-select-slave", "+elected-leader"] {
        let mut told = Told::settled();
        told.about_first(1, sign);
        assert_eq!((told.plan.primary(), told.states().as_str()), (None, "FUU"), "{sign}");
        assert!(told.plan.reason().contains(sign), "{}", told.plan.reason());
    }
    let mut told = Told::settled();
    told.signed(1, "+switch-master", "m 10.0.0.1 1 10.0.0.1 2");
    assert_eq!(told.plan.primary(), None, "a new address");
    let mut told = Told::settled();
    told.about_first(1, "+sdown").signed(1, "+odown", "master m 10.0.0.1 9");
    assert_eq!(told.plan.primary(), Some(0), "one Sentinel's own opinion, and somebody else's trouble");
}

#[test]
fn the_fence_ends_with_the_danger() {
    for end in ["-odown", "-failover-abort-not-elected", "-failover-abort-no-good-slave"] {
        let mut told = Told::settled();
        told.about_first(1, "+odown").about_first(2, "+odown").about_first(1, end);
        assert_eq!(told.plan.primary(), None, "another Sentinel still thinks so");
        told.about_first(2, end);
        assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 1), "{end}");
        assert!(told.has("node_fenced") && told.has("node_unfenced"));
    }
}

#[test]
fn a_false_alarm_stops_writes_for_five_seconds_not_for_minutes() {
    let mut told = Told::settled();
    told.about_first(1, "+odown");
    let all = [(0, 1, 1), (1, 1, 1), (2, 1, 1)];
    told.quiet(4, &all, &[(0, primary(HISTORY, 100))]);
    assert_eq!(told.plan.primary(), None);
    told.quiet(1, &all, &[(0, primary(HISTORY, 100))]);
    assert_eq!(told.plan.primary(), Some(0));
    assert!(told.detail("false_alarm").contains("+odown"), "{:?}", told.events);

    let mut told = Told::settled();
    told.about_first(1, "+odown");
    told.quiet(9, &all, &[(0, primary(HISTORY, 100)), (2, promoted(100))]);
    assert_eq!(told.plan.primary(), None, "another node was promoted: it is no false alarm");
}

#[test]
fn a_lone_sentinel_with_a_strange_story_stops_writes_once() {
    let mut told = Told::settled();
    let all = [(0, 1, 1), (1, 1, 1), (2, 9, 3)];
    told.quiet(7, &all, &[(0, primary(HISTORY, 100)), (2, replica(1))]);
    assert_eq!(told.plan.primary(), Some(0), "the majority still names it, and nobody else says so");
    told.quiet(20, &all, &[(0, primary(HISTORY, 100)), (2, replica(1))]);
    assert_eq!(told.events.iter().filter(|(event, _)| *event == "primary_lost").count(), 1, "{:?}", told.events);
}

#[test]
fn without_a_majority_the_primary_is_kept_while_it_says_so() {
    let mut told = Told::settled();
    told.lost(0).lost(1).lost(2);
    told.quiet(60, &[], &[(0, primary(HISTORY, 100))]);
    assert_eq!(told.plan.primary(), Some(0));
    assert!(told.has("sentinel_lost"));
    told.answered(0, replica(2));
    assert_eq!(told.plan.primary(), None);
}

#[test]
fn a_silent_sentinel_is_lost_after_three_seconds_and_told_of_once() {
    let mut told = Told::settled();
    let unheard = || Input::Unheard { sentinel: 1, why: "no answer within 1s".to_owned(), refused: false };
    told.step(unheard());
    assert!(!told.has("sentinel_lost"), "one poll was missed");
    told.after(3000).step(unheard()).step(unheard());
    assert_eq!(told.events.iter().filter(|(event, _)| *event == "sentinel_lost").count(), 1);
    told.named(1, 1, 1);
    assert!(told.has("sentinel_back"));
}

/// As measured: three Sentinels, `SENTINEL FAILOVER` given to the third.
#[test]
fn replay_of_a_failover_by_command() {
    let mut told = Told::settled();
    told.after(20).about_first(2, "+try-failover").about_first(2, "+elected-leader");
    assert_eq!(told.plan.primary(), None, "fenced 0.2 s before the promotion");
    told.signed(2, "+selected-slave", "slave 10.0.0.1:2 10.0.0.1 2 @ m 10.0.0.1 1");
    told.after(220).answered(1, promoted(100));
    assert_eq!(told.plan.primary(), None, "a promoted node alone is not believed");
    told.after(800).signed(2, "+promoted-slave", "slave 10.0.0.1:2 10.0.0.1 2 @ m 10.0.0.1 1");
    told.named(2, 2, 2);
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(1), "FUU"), "the leader's poll is the first");
    told.after(60).signed(0, "+switch-master", "m 10.0.0.1 1 10.0.0.1 2").named(0, 2, 2).named(1, 2, 2);
    assert_eq!(told.plan.primary(), Some(1));
    told.answered(0, primary(HISTORY, 140));
    assert!(told.detail("failover_loss").starts_with("40 bytes"), "what others wrote there: {:?}", told.events);
    told.after(1100).signed(2, "+switch-master", "m 10.0.0.1 1 10.0.0.1 2");
    told.signed(2, "+failover-state-reconf-slaves", "master m 10.0.0.1 1");
    assert_eq!(told.plan.primary(), Some(1), "the leader's late words about the old one");
    told.after(9000).answered(0, replica(2));
    assert_eq!((told.states().as_str(), told.plan.epoch()), ("UUU", 2));
    assert!(told.detail("primary_changed").contains("redis1 to redis2, config epoch 2"), "{:?}", told.events);
}

/// As measured: the primary is stopped by SIGSTOP and goes on 8 s later.
#[test]
fn replay_of_a_hung_primary_that_comes_back() {
    let mut told = Told::settled();
    told.after(1000).down(0);
    told.after(1190).about_first(0, "+sdown").about_first(1, "+sdown");
    told.after(130).about_first(0, "+odown").about_first(0, "+try-failover");
    told.signed(1, "+vote-for-leader", "ab 2").signed(2, "+vote-for-leader", "ab 2");
    told.about_first(0, "+elected-leader");
    told.after(200).answered(1, promoted(95));
    assert_eq!(told.plan.primary(), Some(1), "most have voted, one was elected, and it was promoted: 0.8 s early");
    assert!(told.detail("primary_changed").contains("before the Sentinels name it"), "{:?}", told.events);
    assert!(told.detail("failover_loss").starts_with("5 bytes"), "{:?}", told.events);
    told.named(1, 1, 1);
    assert_eq!(told.plan.primary(), Some(1), "who has not heard of it yet");
    told.after(800).named(0, 2, 2).named(1, 2, 2).named(2, 2, 2);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2), "no second change");
    told.after(4000).answered(0, primary(HISTORY, 100));
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(1), "FUU"), "it resumed, writable");
    assert!(told.plan.standings()[0].reason.contains("which is redis2 since config epoch 2"));
    told.after(10_000).answered(0, replica(2));
    assert_eq!(told.states(), "UUU");
}

#[test]
fn an_early_promotion_that_the_sentinels_undo_is_given_back() {
    let mut told = Told::settled();
    told.about_first(0, "+odown").signed(1, "+vote-for-leader", "ab 2").about_first(0, "+elected-leader");
    told.answered(1, promoted(100));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2));
    told.answered(1, replica(1));
    assert_eq!(told.plan.primary(), None, "what the old one said before is no news");
    let asked_ns = told.now + 1;
    told.answered(0, Facts { asked_ns, ..primary(HISTORY, 100) });
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 3));
}

#[test]
fn the_old_primary_is_let_in_again_under_a_newer_epoch() {
    let mut told = Told::settled();
    told.named(0, 2, 2).answered(1, promoted(100)).named(1, 2, 2).named(2, 2, 2);
    told.answered(0, primary(HISTORY, 100));
    assert_eq!(told.states(), "FUU");
    let again = Facts { replid2: Some("bbbb".to_owned()), ..primary("cccc", 200) };
    told.named(1, 3, 1).answered(0, again);
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(0), "UFU"));
}

#[test]
fn an_early_promotion_that_nobody_names_is_given_back_when_its_node_is_gone() {
    let mut told = Told::settled();
    told.about_first(0, "+odown").signed(1, "+vote-for-leader", "ab 2").about_first(0, "+elected-leader");
    let asked_ns = told.now + 1;
    let old = Facts { asked_ns, ..primary(HISTORY, 100) };
    told.answered(1, promoted(100)).answered(0, old.clone()).down(1);
    assert_eq!(told.plan.primary(), None);
    told.quiet(5, &[(0, 1, 1), (1, 1, 1), (2, 1, 1)], &[(0, old)]);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 3));
}

#[test]
fn a_probe_that_began_before_the_change_does_not_undo_it() {
    let mut told = Told::settled();
    told.plan.begin_switch();
    let now = told.now;
    told.plan.end_switch(now, Some((1, Facts { asked_ns: 50, ..promoted(100) })));
    told.answered(1, Facts { asked_ns: 40, ..replica(1) });
    assert_eq!(told.plan.primary(), Some(1));
    told.answered(1, Facts { asked_ns: 60, ..replica(1) });
    assert_eq!(told.plan.primary(), None);
}

#[test]
fn a_node_that_no_sentinel_lists_any_more_is_forgotten_once_it_is_down() {
    let mut told = Told::settled();
    let without = |told: &mut Told| {
        for sentinel in 0..3 {
            let mut naming = naming(1, 1);
            naming.replicas.retain(|listed| listed.address != at(2));
            told.step(Input::Named { sentinel, naming });
        }
    };
    without(&mut told);
    let now = told.now;
    assert_eq!(told.plan.forget_one(now), None, "it answers");
    told.down(1);
    assert_eq!(told.plan.forget_one(now), None, "not at once");
    told.now += 61_000 * MS;
    without(&mut told);
    assert_eq!(told.plan.forget_one(told.now), Some(1));
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(0), "UU"));
    assert_eq!(told.plan.node(1).map(|(at, name)| (at.port, name)), Some((3, "redis3")), "names stay");
    told.named(0, 1, 1);
    assert_eq!(told.plan.node(2).map(|(_, name)| name), Some("redis4"), "one that is back is new");
}

#[test]
fn a_reload_keeps_epochs_and_orders() {
    let mut old = Told::settled();
    let now = old.now;
    old.plan.order(now, 1, Order::Hold(Hold::Detach { by: "ann".to_owned() })).expect("a node");
    let mut new = Told::new(1, 0);
    new.plan.succeed(&old.plan);
    new.named(0, 1, 2);
    assert_eq!(new.plan.node(0).map(|(at, name)| (at.port, name)), Some((2, "redis2")), "names stay");

    let mut new = Told::new(1, 0);
    new.plan.succeed(&old.plan);
    new.named(0, 1, 1).answered(0, primary(HISTORY, 1)).answered(1, replica(1)).answered(2, replica(1));
    assert_eq!((new.plan.primary(), new.plan.epoch(), new.states().as_str()), (Some(0), 2, "U-U"));
}

#[test]
fn a_planned_change_is_no_loss() {
    let mut told = Told::settled();
    told.plan.begin_switch();
    told.about_first(0, "+try-failover").about_first(0, "+elected-leader");
    assert!(told.has("primary_leaving") && !told.has("primary_lost"), "{:?}", told.events);
    assert!(!told.has("node_fenced"), "what was ordered is no bad news: {:?}", told.events);
    let now = told.now;
    told.plan.end_switch(now, Some((1, promoted(100))));
    assert_eq!(told.plan.primary(), Some(1), "before any Sentinel has named it");
    told.named(0, 2, 2).named(1, 2, 2).answered(0, replica(2));
    assert_eq!((told.plan.primary(), told.plan.epoch(), told.states().as_str()), (Some(1), 2, "UUU"));
    assert!(!told.has("failover_loss"), "{:?}", told.events);

    let mut told = Told::settled();
    told.plan.begin_switch();
    let now = told.now;
    told.plan.end_switch(now, None);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 1), "undone");
}

#[test]
fn roles_alone_find_the_only_primary() {
    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 1));
    assert_eq!(told.plan.primary(), None, "the other was not asked yet");
    told.answered(1, replica(1));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 1));
}

#[test]
fn two_primaries_at_the_start_are_a_dispute_unless_one_is_followed() {
    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 1)).answered(1, primary("cccc", 1));
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "FF"));
    assert!(told.has("two_primaries") && told.plan.reason().contains("redis1 and redis2"));
    told.answered(1, facts(Says::Primary { replicas: 1 }, "cccc", 1));
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(1), "FU"));

    let mut told = Told::new(0, 3);
    told.answered(0, primary(HISTORY, 1)).answered(1, primary("cccc", 1)).answered(2, replica(2));
    assert_eq!(told.plan.primary(), Some(1), "the third follows it");
}

#[test]
fn without_sentinels_the_accepted_primary_is_kept_and_a_rival_stays_out() {
    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 100)).answered(1, replica(1)).answered(1, primary("cccc", 1));
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(0), "UF"));
    told.down(0);
    assert_eq!(told.plan.primary(), None, "a rival of another history, also in its absence");
    let now = told.now;
    assert!(told.plan.order(now, 1, Order::Attach { force: false, by: "ann".to_owned() }).is_err());
    told.plan.order(now, 1, Order::Attach { force: true, by: "ann".to_owned() }).expect("the admin's word");
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2));
    told.answered(0, primary(HISTORY, 100));
    assert_eq!(told.states(), "FU");
}

#[test]
fn without_sentinels_a_promotion_is_followed_once_the_old_primary_steps_back() {
    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 100)).answered(1, replica(1)).answered(1, promoted(100));
    assert_eq!(told.plan.primary(), Some(0));
    told.answered(0, replica(2));
    assert_eq!((told.plan.primary(), told.plan.epoch(), told.states().as_str()), (Some(1), 2, "UU"));

    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 100)).answered(1, replica(1)).down(0).after(1000).answered(1, promoted(60));
    assert_eq!(told.plan.primary(), Some(1));
    assert!(told.detail("failover_loss").starts_with("40 bytes"), "{:?}", told.events);
    assert!(told.detail("primary_changed").contains("after 1.000s without a primary"), "{:?}", told.events);
}

#[test]
fn holds_are_obeyed() {
    let mut told = Told::settled();
    let now = told.now;
    told.plan.order(now, 1, Order::Hold(Hold::Drain { by: "ann".to_owned() })).expect("a node");
    told.plan.order(now, 0, Order::Hold(Hold::Detach { by: "ann".to_owned() })).expect("a node");
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "-dU"));
    for node in [0, 1] {
        told.plan.order(now, node, Order::Attach { force: false, by: "ann".to_owned() }).expect("a node");
    }
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(0), "UUU"));
}

fn any_step() -> impl Strategy<Value = Input> {
    let sentinel = 0..3_usize;
    let node = 0..3_usize;
    let sign = prop_oneof![
        Just("+odown"),
        Just("-odown"),
        Just("+try-failover"),
        Just("+elected-leader"),
        Just("-failover-abort-not-elected"),
    ];
    let signed = (sentinel.clone(), sign, 1..4_u16).prop_map(|(sentinel, channel, port)| {
        let message = format!("master m 10.0.0.1 {port}");
        let sign = crate::topology::redis::sign::read("m", channel, &message).expect("a sign");
        Input::Signed { sentinel, sign }
    });
    let vote =
        sentinel.clone().prop_map(|sentinel| Input::Signed { sentinel, sign: Sign { what: What::Voted, about: None } });
    let named = (sentinel.clone(), 0..5_u64, 1..4_u16)
        .prop_map(|(sentinel, epoch, port)| Input::Named { sentinel, naming: naming(epoch, port) });
    let unheard = sentinel.prop_map(|sentinel| Input::Unheard { sentinel, why: "refused".to_owned(), refused: true });
    let facts = prop_oneof![
        3 => Just(replica(1)),
        2 => Just(primary(HISTORY, 100)),
        2 => Just(promoted(90)),
        1 => Just(primary("zzzz", 5)),
    ];
    let answered = (node.clone(), facts).prop_map(|(node, facts)| Input::Answered { node, facts });
    let failed = (
        node,
        prop_oneof![
            Just(Failure::Down("refused".to_owned())),
            Just(Failure::Busy("BUSY".to_owned())),
            Just(Failure::Stalled),
        ],
    );
    prop_oneof![
        4 => answered,
        1 => failed.prop_map(|(node, failure)| Input::Failed { node, failure }),
        3 => named,
        1 => unheard,
        2 => signed,
        1 => vote,
        1 => Just(Input::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_heard(
        sentinels in prop_oneof![Just(0_usize), Just(3)],
        steps in prop::collection::vec((any_step(), 0..3000_u64), 1..60),
    ) {
        let mut told = Told::new(sentinels, if sentinels == 0 { 3 } else { 0 });
        let mut newest = 0;
        for (input, ms) in steps {
            let (epoch, accepted) = (told.plan.epoch(), told.plan.accepted_node());
            told.now += ms * MS;
            told.step(input);
            let begun = told.plan.epoch() - epoch;
            prop_assert!(begun <= 1, "one change at a time");
            prop_assert!(begun == 1 || told.plan.accepted_node() == accepted, "no new primary without a new epoch");
            if let Some(accepted) = &told.plan.accepted {
                prop_assert!(accepted.config_epoch >= newest, "never back: {} after {newest}", accepted.config_epoch);
                newest = accepted.config_epoch;
            }
            let standings = told.plan.standings();
            if let Some(primary) = told.plan.primary() {
                prop_assert!(told.plan.facts(primary).is_some_and(Facts::is_primary));
                prop_assert_eq!((standings[primary].role, standings[primary].state), (Role::Primary, State::Up));
            } else {
                prop_assert!(!told.plan.reason().is_empty(), "the lack of a primary has a reason");
            }
            for (node, standing) in standings.iter().enumerate() {
                let usable = (standing.role, standing.state) == (Role::Primary, State::Up);
                let is_it = told.plan.primary() == Some(node);
                prop_assert!(!usable || is_it || told.plan.accepted_node().is_none(), "two primaries");
                prop_assert!(standing.state != State::Fenced || !standing.reason.is_empty(), "a fence has a reason");
            }
        }
    }
}
