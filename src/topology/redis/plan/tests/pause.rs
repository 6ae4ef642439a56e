//! `PAUSE FAILOVER`, and orders from before a restart.

use super::*;

fn pause(told: &mut Told) {
    told.plan.set_paused(told.now, Some("ann".to_owned())).expect("no switchover is under way");
}

fn resume(told: &mut Told) {
    for action in told.plan.set_paused(told.now, None).expect("no switchover is under way") {
        if let Action::Report { event, detail, .. } = action {
            told.events.push((event, detail));
        }
    }
}

/// The second node was promoted, and everybody says so.
fn fail_over(told: &mut Told) {
    told.answered(1, promoted(90));
    for sentinel in 0..3 {
        told.named(sentinel, 2, 2);
    }
}

#[test]
fn signs_stop_no_writes_while_paused_and_are_heeded_afterwards() {
    let mut told = Told::settled();
    pause(&mut told);
    told.about_first(0, "+odown").about_first(0, "+try-failover");
    assert_eq!((told.plan.primary(), told.states().as_str()), (Some(0), "UUU"), "what is in service stays");
    resume(&mut told);
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "FUU"), "a sign of a moment ago still stands");
    told.about_first(0, "-odown");
    assert_eq!(told.plan.primary(), Some(0));
}

#[test]
fn an_old_sign_that_nothing_has_come_of_stops_nothing_afterwards() {
    let mut told = Told::settled();
    pause(&mut told);
    told.about_first(0, "+odown");
    let all = [(0, 1, 1), (1, 1, 1), (2, 1, 1)];
    told.quiet(10, &all, &[(0, primary(HISTORY, 100))]);
    resume(&mut told);
    assert_eq!(told.plan.primary(), Some(0));
}

#[test]
fn what_is_fenced_is_not_opened_while_paused() {
    let mut told = Told::settled();
    told.about_first(0, "+odown");
    pause(&mut told);
    told.about_first(0, "-odown");
    assert_eq!((told.plan.primary(), told.states().as_str()), (None, "FUU"));
    assert!(told.plan.reason().contains("+odown"), "{}", told.plan.reason());
    resume(&mut told);
    assert_eq!(told.plan.primary(), Some(0));
}

#[test]
fn no_other_primary_is_accepted_while_paused() {
    let mut told = Told::settled();
    pause(&mut told);
    fail_over(&mut told);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(0), 1), "it still says that it is the primary");
    assert_eq!(told.plan.standings()[1].role, Role::Primary, "what a node says is shown");
    told.answered(0, replica(2));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (None, 1), "nobody writes to a replica");
    assert!(told.has("primary_lost"), "{:?}", told.events);
    resume(&mut told);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2), "{:#?}", told.plan);
    assert!(told.has("primary_changed") && told.has("failover_loss"), "{:?}", told.events);
}

#[test]
fn without_sentinels_roles_decide_nothing_while_paused() {
    let mut told = Told::new(0, 2);
    told.answered(0, primary(HISTORY, 100)).answered(1, replica(1));
    pause(&mut told);
    told.down(0).answered(1, promoted(90));
    assert_eq!((told.plan.primary(), told.plan.epoch()), (None, 1));
    told.answered(0, primary(HISTORY, 100));
    assert_eq!(told.plan.primary(), Some(0), "it is back, and stays what it was");
    told.down(0);
    resume(&mut told);
    assert_eq!((told.plan.primary(), told.plan.epoch()), (Some(1), 2));
}

#[test]
fn a_first_primary_is_found_while_paused() {
    for sentinels in [0, 3] {
        let mut told = Told::new(sentinels, if sentinels == 0 { 2 } else { 0 });
        pause(&mut told);
        for sentinel in 0..sentinels {
            told.named(sentinel, 1, 1);
        }
        told.answered(0, primary(HISTORY, 100)).answered(1, replica(1));
        assert_eq!(told.plan.primary(), Some(0), "a restart of Forebay must not end the service");
    }
}

#[test]
fn an_admin_may_still_name_the_primary_while_paused() {
    let mut told = Told::settled();
    told.about_first(0, "+odown");
    pause(&mut told);
    let detach = Order::Hold(Hold::Detach { by: "ann".to_owned() });
    told.plan.order(told.now, 0, detach).expect("any node may be detached");
    told.answered(1, promoted(90));
    told.plan.order(told.now, 1, Order::Attach { force: true, by: "ann".to_owned() }).expect("nobody else serves");
    assert_eq!(told.plan.primary(), Some(1));
}

#[test]
fn nobody_pauses_a_switchover() {
    let mut told = Told::settled();
    told.plan.begin_switch();
    assert!(told.plan.set_paused(told.now, Some("ann".to_owned())).is_err());
    assert_eq!(told.plan.paused(), None);
}

#[test]
fn orders_from_before_a_restart_hold_for_nodes_that_are_found_later() {
    let mut told = Told::new(3, 0);
    told.plan.remember(at(2), Hold::Detach { by: "ann".to_owned() });
    for sentinel in 0..3 {
        told.named(sentinel, 1, 1);
    }
    told.answered(0, primary(HISTORY, 100)).answered(1, replica(1)).answered(2, replica(1));
    assert_eq!(told.states(), "U-U");
    let mut again = Plan::new(&[], &[at(1), at(2), at(3)]);
    again.remember(at(3), Hold::Drain { by: "ann".to_owned() });
    again.succeed(&told.plan);
    let holds: Vec<bool> = (0..3).map(|node| again.hold(node).is_some()).collect();
    assert_eq!(holds, [false, true, true], "a reload loses none of them");
}
