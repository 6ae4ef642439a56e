use super::*;
use crate::redis::testing::request;
use crate::wire::resp::encode;

fn usage() -> Usage {
    Usage::new(true, Arc::default())
}

/// A request is sent to the primary.
fn send(usage: &Usage, request: &[u8]) -> Option<Call> {
    let mut words = words(request);
    let table = usage.table();
    let found = table.commands().judge_at(words.next().expect("a name"), words.next());
    usage.note(found.map_or(table.others(), |(place, _)| place), Ran::Primary, request, 0)
}

fn merged(usage: &[&Usage]) -> ServiceUsage {
    together(usage.iter().map(|usage| vec![usage.report("cache")]).collect()).remove(0)
}

/// Accesses by key.
fn hot(usage: &[&Usage]) -> Vec<(String, u64)> {
    let text = |key: &HotKey| String::from_utf8_lossy(&key.key.0).into_owned();
    merged(usage).hot.iter().map(|key| (text(key), key.accesses)).collect()
}

#[test]
fn few_commands_are_looked_at_one_by_one() {
    let usage = usage();
    for _ in 0..30 {
        send(&usage, &request("GET a")).expect("timed").end(now_ns() + 1000, 40);
        send(&usage, &request("MSET a 1 b 2"));
    }
    send(&usage, &request("NOSUCH a"));
    let told = merged(&[&usage]);
    let commands: Vec<_> = told.commands.iter().map(|c| (&*c.name, c.calls[0], c.timed.count)).collect();
    assert_eq!(commands, [("get", 30, 30), ("mset", 30, 0), ("other", 1, 0)]);
    let keys: Vec<_> = told.hot.iter().map(|key| (key.accesses, key.writes, key.error, key.share)).collect();
    assert_eq!(keys, [(60, 30, 0, 6667), (30, 30, 0, 3333)]);
    assert!(told.large.is_empty());
}

#[test]
fn of_many_some_count_for_all() {
    let usage = usage();
    let (mut looked, mut now) = (0, now_ns());
    for _ in 0..100 {
        // A rhythm that an even step would fall into.
        for n in 0..5000 {
            let key = match n % 4 {
                0 => "GET hot".to_owned(),
                n => format!("GET other{n}"),
            };
            looked += u64::from(send(&usage, &request(&key)).is_some());
        }
        now += 100_000_000;
        usage.tick(now);
    }
    assert!(looked < 10_000, "{looked} of 500000 were looked at");
    let told = merged(&[&usage]);
    assert_eq!(told.commands[0].calls[0], 500_000, "all are counted");
    let hot = told.hot.iter().find(|key| &*key.key.0 == b"hot").expect("found");
    assert!((2200..2800).contains(&hot.share), "a quarter: {hot:?}");
    assert!(hot.error > 0 && hot.error < hot.accesses / 4, "{hot:?}");
}

#[test]
fn who_was_busy_and_is_not_any_more_is_looked_at_soon() {
    let usage = usage();
    let mut now = now_ns();
    for _ in 0..5 {
        (0..100_000).for_each(|_| drop(send(&usage, &request("GET a"))));
        now += 100_000_000;
        usage.tick(now);
    }
    assert!(usage.period.get() > 1000, "{}", usage.period.get());
    for _ in 0..3 {
        now += 100_000_000;
        usage.tick(now);
    }
    let looked = (0..20).filter(|_| send(&usage, &request("GET b")).is_some()).count();
    assert!(looked >= 18, "{looked} of 20");
}

#[test]
fn what_is_not_used_any_more_leaves() {
    let usage = usage();
    (0..200).for_each(|_| drop(send(&usage, &request("GET a"))));
    let mut now = now_ns();
    let mut minute = || {
        for _ in 0..600 {
            now += 100_000_000;
            usage.tick(now);
        }
    };
    minute();
    let after = hot(&[&usage])[0].1;
    assert!((95..=105).contains(&after), "half after a minute: {after}");
    (0..10).for_each(|_| minute());
    assert!(hot(&[&usage]).is_empty());
}

#[test]
fn memory_is_bounded_whatever_keys_come() {
    let usage = usage();
    for n in 0..20_000 {
        usage.tokens.set(BURST);
        let (key, value) = (format!("{n}{}", "k".repeat(5000)), "v".repeat(LARGE as usize + n));
        let mut frame = Vec::new();
        encode(&mut frame, &["SET", &key, &value[..value.len().min(10_000)]]);
        send(&usage, &frame);
    }
    let report = usage.report("cache");
    assert_eq!((report.hot.len(), report.large.len()), (MOST_HOT, 64));
    let bytes: usize = report.hot.iter().map(|(_, entry)| entry.key.len()).sum();
    assert_eq!(bytes, MOST_HOT * LONGEST_KEY);
    assert!(report.large.iter().all(|key| key.key.len() == LONGEST_KEY && key.len > 5000));
}

#[test]
fn large_values_are_found_in_requests_and_replies() {
    let usage = usage();
    let value = "v".repeat(5000);
    let mut frame = Vec::new();
    encode(&mut frame, &["MSET", "small", "1", "large", &value]);
    send(&usage, &frame);
    usage.look_at_reply(&request("GET read"), 3, 9000);
    usage.look_at_reply(&request("MGET a b"), 3, 90_000);
    usage.look_at_reply(&request("GET small"), 3, 4000);
    let told = merged(&[&usage]);
    let large: Vec<_> = told.large.iter().map(|key| (&*key.key, key.id.db, key.bytes, &*key.command)).collect();
    assert_eq!(large, [(b"read".as_slice(), 3, 9000, "get"), (b"large".as_slice(), 0, 5000, "mset")]);
}

#[test]
fn threads_are_one() {
    let seeds: Arc<RandomState> = Arc::default();
    let threads = [Usage::new(true, Arc::clone(&seeds)), Usage::new(true, seeds)];
    for (n, usage) in threads.iter().enumerate() {
        (0..10).for_each(|_| drop(send(usage, &request("GET shared"))));
        send(usage, &request(&format!("SET own{n} v")));
    }
    let both: Vec<&Usage> = threads.iter().collect();
    assert_eq!(hot(&both), [("shared".to_owned(), 20), ("own0".to_owned(), 1), ("own1".to_owned(), 1)]);
    assert_eq!(merged(&both).commands[0].calls[0], 20);
}

#[test]
fn errors_are_put_down_to_their_commands() {
    let usage = usage();
    usage.fail(Some(&request("INCR a")));
    usage.fail(None);
    usage.fail(Some(&request("LPUSH a b")));
    let block = [request("MULTI"), request("SET a b"), request("INCR a"), request("EXEC")].concat();
    usage.fail_within(&block, b"*2\r\n+OK\r\n-ERR value is not an integer or out of range\r\n");
    usage.fail_within(&block, b"*2\r\n+OK\r\n:1\r\n");
    usage.fail_within(&block, b"*-1\r\n");
    usage.fail_within(&block, b"*2\r\n$9\r\nx\r\n-ERR y\r\n:1\r\n");
    let told = merged(&[&usage]);
    let errors: Vec<_> = told.commands.iter().map(|c| (&*c.name, c.errors)).collect();
    assert_eq!(errors, [("incr", 2), ("lpush", 2)], "one that nobody looked at counts with the next");
}

#[test]
fn no_key_is_kept_where_none_is_to_be_counted() {
    let usage = usage();
    let value = "v".repeat(5000);
    let mut frame = Vec::new();
    encode(&mut frame, &["SET", "secret", &value]);
    send(&usage, &frame);
    assert!(!merged(&[&usage]).hot.is_empty() && !merged(&[&usage]).large.is_empty());
    usage.count_keys(false);
    assert!(merged(&[&usage]).hot.is_empty() && merged(&[&usage]).large.is_empty());
    let call = send(&usage, &frame);
    assert!(call.is_some(), "its time is taken all the same");
    usage.look_at_reply(&request("GET secret"), 0, 90_000);
    usage.tick(now_ns() + 60_000_000_000);
    usage.look_at_reply(&request("GET secret"), 0, 90_000);
    let told = merged(&[&usage]);
    assert!(told.hot.is_empty() && told.large.is_empty(), "{told:?}");
    usage.count_keys(true);
    send(&usage, &frame);
    assert_eq!(merged(&[&usage]).large.len(), 1);
}
