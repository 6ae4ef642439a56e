use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const RECENT: Duration = Duration::from_secs(2);

fn written(asked_ns: u64, timeline: u32, lsn: u64) -> Written {
    Written { asked_ns, timeline: Some(timeline), insert: Lsn(lsn), flush: Lsn(lsn) }
}

fn replayed(asked_ns: u64, timeline: u32, lsn: u64) -> Replayed {
    let position = Some(Lsn(lsn));
    Replayed { asked_ns, timeline: Some(timeline), receive: position, replay: position, commit_age: None }
}

#[test]
fn an_idle_primary_moves_its_replicas_on_in_time() {
    let mut positions = Positions::new();
    for t in 1..=10 {
        positions.push(&written(t * MS, 1, 500));
    }
    let lag = positions.measure(&replayed(11 * MS, 1, 500), RECENT);
    assert_eq!(lag, Lag { caught_up_ns: 10 * MS, bytes: Some(0), time: Some(Duration::from_millis(1)) });
}

#[test]
fn a_replica_that_stands_still_falls_behind_in_time() {
    let mut positions = Positions::new();
    positions.push(&written(MS, 1, 500));
    for t in 2..=10 {
        positions.push(&written(t * MS, 1, 500 + t));
    }
    let lag = positions.measure(&replayed(11 * MS, 1, 501), RECENT);
    assert_eq!(lag, Lag { caught_up_ns: MS, bytes: Some(9), time: Some(Duration::from_millis(10)) });
}

#[test]
fn positions_of_another_timeline_prove_nothing() {
    let mut positions = Positions::new();
    positions.push(&written(MS, 1, 500));
    positions.push(&written(2 * MS, 2, 510));
    let diverged = positions.measure(&replayed(3 * MS, 1, 900), RECENT);
    assert_eq!(diverged, Lag::default(), "it has replayed more bytes, of the old history");
    let unknown = Replayed { timeline: None, ..replayed(3 * MS, 2, 900) };
    assert_eq!(positions.measure(&unknown, RECENT), Lag::default());
    let behind = positions.measure(&replayed(3 * MS, 2, 505), RECENT);
    assert_eq!(behind.caught_up_ns, 0, "the sample of timeline 1 is void, though 500 <= 505");
    assert_eq!(positions.measure(&replayed(3 * MS, 2, 510), RECENT).caught_up_ns, 2 * MS);
}

#[test]
fn a_primary_that_lost_unflushed_wal_starts_from_where_it_is() {
    let mut ring = SampleRing::new(8);
    ring.push(Lsn(100), 1);
    ring.push(Lsn(120), 2);
    ring.push(Lsn(110), 3);
    assert_eq!(ring.caught_up(Lsn(115)), Some(3), "what was acknowledged before 3 and has survived ends at 110");
    assert_eq!(ring.caught_up(Lsn(105)), Some(1));
}

#[test]
fn without_a_primary_the_replica_itself_is_asked() {
    let empty = Positions::new();
    assert_eq!(empty.measure(&replayed(MS, 1, 500), RECENT).time, Some(Duration::ZERO), "all received is replayed");
    let age = Some(Duration::from_secs(7));
    let delayed = Replayed { receive: Some(Lsn(600)), commit_age: age, ..replayed(MS, 1, 500) };
    assert_eq!(empty.measure(&delayed, RECENT).time, age);
    let restarted = Replayed { receive: Some(Lsn(400)), commit_age: age, ..replayed(MS, 1, 500) };
    assert_eq!(empty.measure(&restarted, RECENT).time, Some(Duration::ZERO), "a receiver starts at its segment");

    let mut gone = Positions::new();
    gone.push(&written(MS, 1, 500));
    let later = MS + 60_000 * MS;
    let lag = gone.measure(&replayed(later, 1, 500), RECENT);
    assert_eq!(lag.time, Some(Duration::ZERO), "an old sample tells no lag in time");
    assert_eq!(lag.caught_up_ns, MS, "but still what was seen");
}

#[test]
fn a_position_behind_a_page_header_is_the_end_of_the_page_before() {
    for (insert, end) in [
        (0x6000028, 0x6000000),
        (0x6002018, 0x6002000),
        (0x6002028, 0x6002000),
        (0x6002020, 0x6002020),
        (0x6002000, 0x6002000),
        (0x6000108, 0x6000108),
    ] {
        assert_eq!(last_record_end(Lsn(insert), 8192), Lsn(end), "insert position {}", Lsn(insert));
    }
    assert_eq!(last_record_end(Lsn(0x6000028), 0), Lsn(0x6000028), "a block size that is not known rounds nothing");
}

#[test]
fn limits_let_in_later_than_they_put_out() {
    let limits = Limits { time: Some(Duration::from_secs(10)), bytes: Some(1000) };
    let lag = |ms, bytes| Lag { caught_up_ns: 1, bytes: Some(bytes), time: Some(Duration::from_millis(ms)) };
    assert_eq!(limits.refusal(&lag(10_000, 1000), true), None);
    assert!(limits.refusal(&lag(10_001, 0), true).is_some_and(|why| why.contains("max_lag is 10s")));
    assert!(limits.refusal(&lag(0, 1001), true).is_some_and(|why| why.contains("max_lag_bytes is 1000")));
    assert!(limits.refusal(&lag(9_000, 0), false).is_some());
    assert!(limits.refusal(&lag(0, 900), false).is_some());
    assert_eq!(limits.refusal(&lag(8_000, 800), false), None);
    assert!(limits.refusal(&Lag::default(), true).is_some(), "an unknown lag is not within a limit");
    assert_eq!(Limits::default().refusal(&Lag::default(), false), None, "without limits everything is");
}

proptest! {
    /// A log that grows by records; the primary is sampled, and a replica replays any prefix. What the ring says of
    /// the replica is never more than what an unbounded list of all samples says, and never more than the truth.
    #[test]
    fn never_claims_more_than_was_replayed(
        growth in prop::collection::vec(0..200_u64, 1..600),
        capacity in 4..64_usize,
        replayed_share in 0.0..1.0_f64,
    ) {
        let mut ring = SampleRing::new(capacity);
        let mut commits = Vec::new();
        let (mut lsn, mut now) = (1000, 0);
        for bytes in growth {
            now += 10;
            lsn += bytes;
            commits.push((Lsn(lsn), now));
            now += 10;
            ring.push(Lsn(lsn), now);
            prop_assert!(ring.len() <= capacity);
        }
        let replayed = Lsn(1000 + ((lsn - 1000) as f64 * replayed_share) as u64);
        if let Some(t) = ring.caught_up(replayed) {
            let missed = commits.iter().find(|&&(end, acknowledged)| acknowledged < t && end > replayed);
            prop_assert_eq!(missed, None, "caught up at {} with {}", t, replayed);
        }
        prop_assert_eq!(ring.caught_up(Lsn(lsn)), Some(now), "a replica that has all is caught up to the newest sample");
    }

    #[test]
    fn a_longer_replay_never_proves_less(
        pushes in prop::collection::vec((0..1000_u64, 0..3_u64), 1..100),
        a in 0..1000_u64,
        b in 0..1000_u64,
    ) {
        let mut ring = SampleRing::new(16);
        let mut now = 0;
        for (position, pause) in pushes {
            now += pause;
            ring.push(Lsn(position), now);
        }
        prop_assert!(ring.caught_up(Lsn(a.min(b))) <= ring.caught_up(Lsn(a.max(b))));
    }
}
