use super::*;

fn detach(plan: &mut Plan, node: usize) {
    plan.order(0, node, Order::Hold(Hold::Detach { by: "ann".to_owned() })).expect("any node may be detached");
}

fn state(plan: &Plan, node: usize) -> State {
    plan.standings()[node].state
}

#[test]
fn an_admin_settles_a_dispute() {
    let mut by_force = plan(FailoverMode::Follow, 2);
    by_force.step(0, 0, primary(1));
    by_force.step(0, 1, primary(1));
    let refused = by_force.order(0, 1, Order::Attach { force: false, by: "ann".to_owned() });
    assert!(refused.is_err_and(|why| why.contains("FORCE")), "without force it stays fenced");
    assert_eq!(force(&mut by_force, 1).as_deref(), Ok("pg2 is attached"));
    assert_eq!((by_force.primary(), states(&by_force).as_str()), (Some(1), "FU"));
    let refused = force(&mut by_force, 0);
    assert!(refused.is_err_and(|why| why.contains("DETACH pg2")), "one primary is enough");

    let mut by_detaching = plan(FailoverMode::Follow, 2);
    by_detaching.step(0, 0, primary(1));
    by_detaching.step(0, 1, primary(1));
    detach(&mut by_detaching, 0);
    assert_eq!((by_detaching.primary(), states(&by_detaching).as_str()), (Some(1), "TU"));
}

#[test]
fn a_detached_or_draining_primary_takes_no_writes_and_keeps_its_place() {
    let mut plan = plan(FailoverMode::Follow, 2);
    plan.step(0, 0, primary(1));
    plan.step(0, 1, replica(1));
    let drain = Order::Hold(Hold::Drain { by: "ann".to_owned() });
    let (_, actions) = plan.order(0, 0, drain).expect("any node may be drained");
    assert_eq!(events(&actions), ["node_draining", "primary_lost"]);
    assert_eq!((plan.primary(), state(&plan, 0)), (None, State::Draining));
    detach(&mut plan, 0);
    assert_eq!((plan.primary(), state(&plan, 0)), (None, State::Detached));
    let attach = Order::Attach { force: false, by: "ann".to_owned() };
    let (told, actions) = plan.order(0, 0, attach).expect("nothing bars it");
    assert_eq!(told, "pg1 is attached");
    assert_eq!(events(&actions), ["node_attached", "primary_found"]);
    assert_eq!((plan.primary(), plan.epoch()), (Some(0), 1));
}

#[test]
fn a_newer_timeline_is_followed_only_after_a_pause() {
    let mut plan = plan(FailoverMode::Follow, 2);
    play(&mut plan, "1p1 2r1");
    plan.set_paused(0, Some("ann".to_owned()));
    play(&mut plan, "2p2");
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(0), "UF"), "what is in service stays");
    assert!(plan.standings()[1].reason.contains("failover is paused by ann"), "{:?}", plan.standings()[1]);
    play(&mut plan, "1s");
    assert_eq!((plan.primary(), plan.epoch()), (None, 1), "nobody takes its place");
    let actions = plan.set_paused(0, None);
    assert_eq!((plan.primary(), plan.epoch()), (Some(1), 2));
    assert!(events(&actions).contains(&"primary_changed"), "{actions:?}");
}

#[test]
fn a_first_primary_is_found_while_paused() {
    let mut plan = plan(FailoverMode::Follow, 2);
    plan.set_paused(0, Some("ann".to_owned()));
    play(&mut plan, "1p1 2r1");
    assert_eq!(plan.primary(), Some(0), "a restart of Forebay must not end the service");
}
