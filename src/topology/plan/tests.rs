use proptest::prelude::*;

use super::*;

mod change;
mod orders;

const MS: u64 = 1_000_000;
const THIS_CLUSTER: u64 = 7_000_000_001;

fn seat(name: &str, role: NodeRole) -> Seat {
    Seat { name: name.to_owned(), role }
}

fn plan(mode: FailoverMode, nodes: usize) -> Plan {
    let seats = (1..=nodes).map(|n| seat(&format!("pg{n}"), NodeRole::Auto)).collect();
    Plan::new(mode, seats)
}

fn answered(in_recovery: bool, timeline: u32) -> Input {
    let facts = Facts { in_recovery, timeline: Some(timeline), system_identifier: Some(THIS_CLUSTER), started: None };
    Input::Answered { facts, proven: false }
}

fn primary(timeline: u32) -> Input {
    answered(false, timeline)
}

fn replica(timeline: u32) -> Input {
    answered(true, timeline)
}

fn proven(timeline: u32) -> Input {
    let facts =
        Facts { in_recovery: true, timeline: Some(timeline), system_identifier: Some(THIS_CLUSTER), started: None };
    Input::Answered { facts, proven: true }
}

fn broken() -> Input {
    Input::Failed(Failure::Broken("connection refused".to_owned()))
}

fn silent() -> Input {
    Input::Failed(Failure::Silent("no answer within 1s".to_owned()))
}

fn force(plan: &mut Plan, node: usize) -> Result<String, String> {
    plan.order(0, node, Order::Attach { force: true, by: "ann".to_owned() }).map(|(told, _)| told)
}

fn events(actions: &[Action]) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::Report { event, .. } | Action::ReportPlanned { event, .. } => Some(*event),
        _ => None,
    };
    actions.iter().filter_map(name).collect()
}

/// Node states as one letter each: Up, Down, draining (R), deTached, Fenced.
fn states(plan: &Plan) -> String {
    let letter = |standing: Standing| match standing.state {
        State::Up => 'U',
        State::Down => 'D',
        State::Draining => 'R',
        State::Detached => 'T',
        State::Fenced => 'F',
    };
    plan.standings().into_iter().map(letter).collect()
}

/// Plays steps such as `1p1 2r1 3x`: node, what is heard, timeline. Heard are p(rimary), r(eplica), v (a replica
/// that has proven its history), x (broken), s(ilent), f(ull), z (our own stall).
fn play(plan: &mut Plan, steps: &str) {
    for step in steps.split_whitespace() {
        let (node, rest) = step.split_at(1);
        let (heard, timeline) = rest.split_at(1);
        let timeline = || timeline.parse().expect("a timeline");
        let input = match heard {
            "p" => primary(timeline()),
            "r" => replica(timeline()),
            "v" => proven(timeline()),
            "x" => broken(),
            "s" => silent(),
            "f" => Input::Failed(Failure::Unheard("too many clients".to_owned())),
            "z" => Input::Failed(Failure::Stalled),
            other => panic!("what is {other}?"),
        };
        plan.step(0, node.parse::<usize>().expect("a node") - 1, input);
    }
}

#[test]
fn follow_mode_by_table() {
    let cases = [
        ("nobody is accepted before everybody was asked", "1p1 2r1", None, 0, "UUD"),
        ("the only primary", "1p1 2r1 3r1", Some(0), 1, "UUU"),
        ("a node that is down has been asked", "2x 3s 1p1", Some(0), 1, "UDD"),
        ("only replicas", "1r1 2r1 3x", None, 0, "UUD"),
        ("the newer of two timelines", "1p1 2p2 3r2", Some(1), 1, "FUU"),
        ("two primaries on one timeline at the start: neither", "1p1 2p1 3r1", None, 0, "FFU"),
        ("not one that a replica has left for a newer timeline", "1p1 2x 3r2", None, 0, "FDU"),
        ("a lost packet does not settle a dispute", "1p1 2p1 3r1 1s", None, 0, "DFU"),
        ("nor does one that comes before it", "1p1 1s 2p1 3r1", None, 0, "DFU"),
        ("an older timeline does not serve for one that left", "1p2 1s 2p1 3r1", None, 0, "DFU"),
        ("a dispute ends when one of the two is a replica", "1p1 2p1 3r1 1r1", Some(1), 1, "FUU"),
        ("one failure is looked at again before it counts", "1p1 2r1 3r1 1x", Some(0), 1, "UUU"),
        ("two failures are down", "1p1 2r1 3r1 1x 1x", None, 1, "DUU"),
        ("a failure in between answers is forgotten", "1p1 2r1 3r1 1x 1p1 1x", Some(0), 1, "UUU"),
        ("silence is down at once", "1p1 2r1 3r1 1s", None, 1, "DUU"),
        ("the same primary comes back in the same epoch", "1p1 2r1 3r1 1s 1p1", Some(0), 1, "UUU"),
        ("a promotion is followed", "1p1 2r1 3r1 1s 2p2", Some(1), 2, "DUU"),
        ("the old primary that comes back is fenced", "1p1 2r1 3r1 1s 2p2 1p1", Some(1), 2, "FUU"),
        ("also when the new one is lost", "1p1 2r1 3r1 2p2 1p1 2s", None, 2, "FDU"),
        ("a newer timeline wins over a primary that answers", "1p1 2r1 3r1 2p2", Some(1), 2, "FUU"),
        ("an equal one does not, even in its absence", "1p3 2r3 3r3 1s 2p3", None, 1, "DFU"),
        ("a fresher answer does not", "1p3 2r3 3r3 2p3 2p3", Some(0), 1, "UFU"),
        ("of two promotions the one accepted first", "1p1 2r1 3r1 1s 2p2 3p2", Some(1), 2, "DUF"),
        ("the primary itself on a new timeline: a new epoch", "1p1 2r1 3r1 1s 1p2", Some(0), 2, "UUU"),
        ("the primary from an older backup", "1p3 2r3 3r3 1s 1p2", None, 1, "FUU"),
        ("a demoted primary is a replica", "1p1 2r1 3r1 1r1", None, 1, "UUU"),
        ("a switchover", "1p1 2r1 3r1 1r1 2p2", Some(1), 2, "UUU"),
        ("a fenced node in recovery stays out without proof", "1p1 2r1 3r1 2p2 1r1", Some(1), 2, "FUU"),
        ("and is let in with it", "1p1 2r1 3r1 2p2 1r1 1v2", Some(1), 2, "UUU"),
        ("a full server is alive", "1p1 2r1 3r1 1x 1f 1x", Some(0), 1, "UUU"),
        ("our own stall says nothing", "1p1 2r1 3r1 1z 1z 1z", Some(0), 1, "UUU"),
    ];
    for (name, steps, expected, epoch, expected_states) in cases {
        let mut plan = plan(FailoverMode::Follow, 3);
        play(&mut plan, steps);
        assert_eq!(plan.primary(), expected, "primary: {name}: {:#?}", plan.standings());
        assert_eq!(plan.epoch(), epoch, "epoch: {name}");
        assert_eq!(states(&plan), expected_states, "states: {name}: {:#?}", plan.standings());
    }
}

#[test]
fn mode_off_keeps_the_first_primary() {
    let mut plan = plan(FailoverMode::Off, 2);
    plan.step(0, 0, primary(1));
    plan.step(0, 1, replica(1));
    plan.step(0, 0, silent());
    plan.step(0, 1, primary(2));
    assert_eq!(plan.primary(), None, "nobody takes the place of the first one");
    assert_eq!(states(&plan), "DF");
    plan.step(0, 0, primary(1));
    assert_eq!(plan.primary(), Some(0));
    assert_eq!(plan.epoch(), 1);
}

#[test]
fn every_change_of_primary_leaves_its_event() {
    let mut plan = plan(FailoverMode::Follow, 2);
    assert_eq!(events(&plan.step(0, 0, primary(1))), ["node_up"]);
    assert_eq!(events(&plan.step(0, 1, replica(1))), ["node_up", "primary_found"]);
    assert_eq!(events(&plan.step(MS, 0, silent())), ["node_down", "primary_lost"]);
    assert_eq!(events(&plan.step(2 * MS, 0, silent())), [""; 0], "told once");
    assert_eq!(events(&plan.step(3 * MS, 0, primary(1))), ["node_up", "primary_found"]);
    plan.step(4 * MS, 0, silent());
    let actions = plan.step(1504 * MS, 1, primary(2));
    assert_eq!(events(&actions), ["primary_changed"]);
    let told = format!("{actions:?}");
    assert!(told.contains("pg1 to pg2, timeline 2, after 1.500s without a primary"), "{told}");
    assert!(actions.contains(&Action::ForgetPositions), "positions of the old history are void: {told}");
    assert_eq!(events(&plan.step(1505 * MS, 0, primary(1))), ["node_fenced"]);
    assert_eq!(events(&plan.step(1506 * MS, 0, proven(2))), ["node_unfenced"]);
}

#[test]
fn a_dispute_is_reported_once_with_both_names() {
    let mut plan = plan(FailoverMode::Follow, 2);
    plan.step(0, 0, primary(1));
    let actions = plan.step(0, 1, primary(1));
    assert_eq!(events(&actions), ["two_primaries", "node_fenced", "node_fenced"]);
    assert!(format!("{actions:?}").contains("pg1 and pg2 accept writes on timeline 1"), "{actions:?}");
    assert_eq!(events(&plan.step(0, 1, primary(1))), [""; 0]);
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let stranger = |in_recovery| {
        let facts = Facts { in_recovery, timeline: Some(9), system_identifier: Some(THIS_CLUSTER + 1), started: None };
        Input::Answered { facts, proven: false }
    };
    let mut plan = plan(FailoverMode::Follow, 3);
    plan.step(0, 0, stranger(false));
    plan.step(0, 1, primary(1));
    plan.step(0, 2, replica(1));
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(1), "FUU"), "the majority names the cluster");
    assert_eq!(plan.system_identifier(), Some(THIS_CLUSTER));
    assert!(plan.standings()[0].reason.contains("system identifier"));
    assert!(force(&mut plan, 0).is_err_and(|why| why.contains("system identifier")), "not even with force");
    plan.step(0, 1, stranger(false));
    assert_eq!(plan.primary(), None, "a stranger on the primary's address is no primary");
}

#[test]
fn a_configured_role_is_held_to() {
    let seats = vec![seat("a", NodeRole::Primary), seat("b", NodeRole::Replica), seat("c", NodeRole::Primary)];
    let mut plan = Plan::new(FailoverMode::Follow, seats);
    plan.step(0, 0, primary(1));
    plan.step(0, 1, primary(2));
    plan.step(0, 2, replica(1));
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(0), "UFF"));
    assert!(plan.standings()[1].reason.contains("configured with role \"replica\""));
    assert!(plan.standings()[2].reason.contains("configured with role \"primary\""));
}

#[test]
fn a_reload_keeps_what_is_known_of_the_nodes_that_stay() {
    let mut plan = plan(FailoverMode::Follow, 3);
    plan.step(0, 0, replica(1));
    plan.step(0, 1, primary(1));
    plan.step(0, 2, replica(1));
    let seats = vec![seat("new", NodeRole::Auto), seat("pg2", NodeRole::Auto)];
    plan.reseat(0, FailoverMode::Follow, seats, &[None, Some(1)]);
    assert_eq!((plan.primary(), plan.epoch(), states(&plan).as_str()), (Some(1), 1, "DU"));

    let actions = plan.reseat(0, FailoverMode::Follow, vec![seat("new", NodeRole::Auto)], &[Some(0)]);
    assert_eq!((plan.primary(), events(&actions)), (None, vec!["primary_lost"]));
    plan.step(0, 0, primary(2));
    assert_eq!((plan.primary(), plan.epoch()), (Some(0), 2), "epochs go on");
}

fn any_step() -> impl Strategy<Value = (usize, Input)> {
    let input = prop_oneof![
        4 => (any::<bool>(), 1..4_u32).prop_map(|(in_recovery, timeline)| answered(in_recovery, timeline)),
        1 => (1..4_u32).prop_map(proven),
        2 => Just(broken()),
        1 => Just(silent()),
        1 => Just(Input::Failed(Failure::Stalled)),
        1 => Just(Input::Failed(Failure::Unheard("too many clients".to_owned()))),
    ];
    (0..3_usize, input)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_heard(
        mode in prop_oneof![Just(FailoverMode::Follow), Just(FailoverMode::Off)],
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let mut plan = plan(mode, 3);
        let mut told: Vec<Option<Facts>> = vec![None; 3];
        let mut accepted_timeline = 0;
        for (n, (node, input)) in steps.into_iter().enumerate() {
            let (epoch, accepted) = (plan.epoch(), plan.accepted());
            if let Input::Answered { facts, .. } = &input {
                told[node] = Some(facts.clone());
            }
            let actions = plan.step(n as u64 * MS, node, input.clone());
            let standings = plan.standings();

            let begun = plan.epoch() != epoch;
            prop_assert_eq!(actions.contains(&Action::ForgetPositions), begun, "an epoch begins with no positions");
            prop_assert!(plan.epoch() <= epoch + 1 && plan.epoch() >= epoch);
            prop_assert!(begun || plan.accepted() == accepted, "no new primary without a new epoch");
            if mode == FailoverMode::Off {
                prop_assert!(accepted.is_none() || plan.accepted() == accepted, "off keeps the first one");
            }
            if let Some(primary) = plan.primary() {
                let facts = told[primary].as_ref().expect("a primary has answered");
                prop_assert!(!facts.in_recovery);
                prop_assert_eq!((standings[primary].role, standings[primary].state), (Role::Primary, State::Up));
                let timeline = facts.timeline.unwrap_or(0);
                prop_assert!(timeline >= accepted_timeline, "timeline {} after {}", timeline, accepted_timeline);
                accepted_timeline = timeline;
                for (other, standing) in standings.iter().enumerate().filter(|&(other, _)| other != primary) {
                    let usable = standing.state == State::Up && standing.role == Role::Primary;
                    prop_assert!(!usable, "pg{} is usable beside the primary", other + 1);
                }
            }
            if told.iter().all(Option::is_some) {
                let usable = standings.iter().filter(|s| (s.role, s.state) == (Role::Primary, State::Up)).count();
                prop_assert_eq!(usable, usize::from(plan.primary().is_some()), "a usable primary is the accepted one");
            }
            for (standing, facts) in standings.iter().zip(&told) {
                prop_assert!(standing.state != State::Fenced || !standing.reason.is_empty(), "a fence has a reason");
                prop_assert!(standing.role == Role::Unknown || facts.is_some());
            }
        }
    }
}
