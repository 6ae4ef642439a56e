use super::*;

const OTHER_CLUSTER: u64 = 7_000_000_002;

fn of_another(in_recovery: bool) -> Input {
    let facts = Facts { in_recovery, timeline: Some(1), system_identifier: Some(OTHER_CLUSTER), started: None };
    Input::Answered { facts, proven: false }
}

fn restored() -> Plan {
    let mut plan = plan(FailoverMode::Promote, 2);
    plan.restore(Some(1), 2, 5, Some(THIS_CLUSTER));
    plan
}

#[test]
fn a_switchover_reads_as_planned_and_a_failover_does_not() {
    let change = |planned: bool, rejoins: bool| {
        let mut plan = plan(FailoverMode::Promote, 2);
        plan.set_rejoins(rejoins);
        play(&mut plan, "1p1 2r1");
        let why = "a change was ordered".to_owned();
        let mut actions = if planned { plan.leave(0, why, false) } else { plan.close(0, why, false) };
        actions.extend(plan.close(0, "pg2 is being promoted".to_owned(), true));
        actions.extend(plan.install(0, 1, 2, 7));
        let fenced = plan.standing(0).reason;
        let news = actions.into_iter().filter_map(|action| match action {
            Action::Report { event, .. } => Some((event, "told")),
            Action::ReportPlanned { event, .. } => Some((event, "planned")),
            _ => None,
        });
        (news.collect::<Vec<_>>(), fenced)
    };
    let (news, reason) = change(true, true);
    assert_eq!(news, [("primary_leaving", "told"), ("node_fenced", "planned"), ("primary_changed", "told")]);
    assert!(reason.ends_with("rejoin_command is to make it a replica again"), "{reason}");
    let (news, reason) = change(true, false);
    assert_eq!(news[1], ("node_fenced", "told"), "somebody has to do something");
    assert!(reason.ends_with("rebuild or rewind this node as a replica"), "{reason}");
    let (news, _) = change(false, true);
    assert_eq!(news[..2], [("primary_lost", "told"), ("node_fenced", "told")]);
}

#[test]
fn a_restart_knows_who_was_the_primary() {
    let mut plan = restored();
    play(&mut plan, "1p1");
    assert_eq!((plan.primary(), states(&plan).as_str()), (None, "FD"), "a former primary that is alone is nobody");
    play(&mut plan, "2p2");
    assert_eq!((plan.primary(), plan.epoch()), (Some(1), 5));
}

#[test]
fn a_cluster_that_was_made_anew_is_another_one() {
    let mut plan = restored();
    plan.step(0, 0, of_another(false));
    assert_eq!(plan.primary(), None, "the other node may still be what it was");
    let actions = plan.step(0, 1, of_another(true));
    assert_eq!(events(&actions).first(), Some(&"record_forgotten"));
    assert_eq!((plan.primary(), plan.epoch()), (Some(0), 6), "epochs go on");
}

#[test]
fn one_node_of_the_recorded_cluster_is_enough_to_keep_the_record() {
    let mut plan = restored();
    plan.step(0, 0, of_another(false));
    play(&mut plan, "2r2");
    assert_eq!((plan.primary(), plan.accepted()), (None, Some(1)));
    assert_eq!(states(&plan), "FU");
}

#[test]
fn while_it_is_closed_nobody_is_accepted_and_nothing_is_opened() {
    let mut plan = plan(FailoverMode::Promote, 3);
    play(&mut plan, "1p1 2r1 3r1");
    plan.close(0, "a test".to_owned(), false);
    assert_eq!((plan.primary(), plan.cut_epoch()), (None, 0));
    play(&mut plan, "1p1 2p2");
    assert_eq!((plan.primary(), plan.accepted()), (None, Some(0)), "somebody else's promotion is not ours");
    plan.close(0, "a test".to_owned(), true);
    assert_eq!(plan.cut_epoch(), 1, "what is under way on the old one ends");
    let actions = plan.install(0, 2, 3, 2);
    assert!(events(&actions).contains(&"primary_changed"), "{actions:?}");
    assert_eq!((plan.primary(), plan.epoch(), plan.cut_epoch()), (Some(2), 2, 1));
    play(&mut plan, "1p1 2p2");
    assert_eq!(states(&plan), "FFU", "both others accept writes");
    plan.close(0, "another".to_owned(), true);
    assert!(!events(&plan.step(0, 1, primary(4))).contains(&"node_fenced"), "it is being promoted");
}

#[test]
fn a_promotion_by_hand_counts_only_while_the_primary_is_gone() {
    let mut plan = plan(FailoverMode::Promote, 2);
    play(&mut plan, "1p1 2r1 2p2");
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(0), "UF"));
    play(&mut plan, "1x 1x 2p2");
    assert_eq!((plan.primary(), plan.epoch()), (Some(1), 2));
}

#[test]
fn who_was_promoted_beside_a_primary_that_went_on_does_not_replace_it() {
    let mut plan = plan(FailoverMode::Promote, 3);
    play(&mut plan, "1p1 2r1 3r1 2p2 1p1");
    assert_eq!(states(&plan), "UFU");
    play(&mut plan, "1x 1x 2p2");
    assert_eq!((plan.primary(), plan.accepted(), states(&plan).as_str()), (None, Some(0), "DFU"), "it lacks writes");
    plan.install(0, 2, 2, 2);
    play(&mut plan, "2p2 3p2");
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(2), "DFU"), "the same timeline, and another history");
    play(&mut plan, "2r2 2v2 3p2");
    assert_eq!(states(&plan), "DUU", "as a replica it is one as any other");
}

#[test]
fn an_admin_may_insist_on_who_was_promoted_beside_the_primary() {
    let mut plan = plan(FailoverMode::Promote, 2);
    play(&mut plan, "1p1 2r1 2p2 1p1 1x 1x");
    assert_eq!(plan.primary(), None);
    force(&mut plan, 1).expect("there is no primary");
    assert_eq!((plan.primary(), states(&plan).as_str()), (Some(1), "DU"));
}

#[test]
fn who_was_promoted_beside_the_primary_is_known_after_a_restart() {
    let mut plan = restored();
    plan.set_stray(0, Strayed::Promoted);
    play(&mut plan, "2x 2x 1p3");
    assert_eq!((plan.primary(), plan.accepted(), plan.may_lead(0)), (None, Some(1), false));
    play(&mut plan, "1r3");
    assert!(plan.strayed(0).is_some(), "in recovery, and not seen to follow");
    play(&mut plan, "2p2 1v2");
    assert_eq!((plan.strayed(0), plan.may_lead(0)), (None, true), "it has replayed what the primary wrote");
}

#[test]
fn who_was_told_to_promote_may_do_so_until_it_is_restarted() {
    let mut plan = restored();
    plan.set_stray(0, Strayed::Told { started: None });
    let says = |started| {
        let facts = Facts {
            in_recovery: true,
            timeline: Some(2),
            system_identifier: Some(THIS_CLUSTER),
            started: Some(started),
        };
        Input::Answered { facts, proven: true }
    };
    play(&mut plan, "2p2");
    for _ in 0..2 {
        plan.step(0, 0, says(5));
        assert_eq!(plan.strayed(0), Some(Strayed::Told { started: Some(5) }), "the order may still wait there");
    }
    plan.step(0, 0, says(6));
    assert_eq!(plan.strayed(0), None);
}
