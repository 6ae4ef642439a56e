//! What cutting and judging a Redis request costs, and cutting a reply (the same bytes, as an array). Run with `cargo bench --bench resp_timing`.
//!
//! For instructions instead of nanoseconds run the program that cargo names under `valgrind --tool=callgrind` with the
//! words `judge GET 100000`, then with 200000: the difference belongs to 100,000 calls.

use std::hint::black_box;
use std::time::Instant;

use forebay::wire::resp::command::Commands;
use forebay::wire::resp::{Bounds, Found, ReplyScan, RequestScan, encode};

fn nanoseconds(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..9 {
        let rounds = 200_000;
        let started = Instant::now();
        for _ in 0..rounds {
            work();
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(rounds));
    }
    best
}

fn request(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, &line.split(' ').collect::<Vec<_>>());
    bytes
}

fn cut(bytes: &[u8]) -> u32 {
    match RequestScan::default().scan(black_box(bytes), Bounds::USUAL) {
        Ok(Found::Request(request)) => request.words,
        other => panic!("a whole request: {other:?}"),
    }
}

fn reply(bytes: &[u8]) -> usize {
    match ReplyScan::default().scan(black_box(bytes)) {
        Ok(scanned) if scanned.is_done => scanned.used,
        other => panic!("a whole reply: {other:?}"),
    }
}

fn judge(commands: &Commands, name: &[u8], second: &[u8]) -> bool {
    commands.judge(black_box(name), Some(black_box(second))).is_some()
}

fn main() {
    let commands = Commands::builtin();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [what, line, rounds] = arguments.as_slice() {
        let bytes = request(line);
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (name, second) = (words[0], words.get(1).copied().unwrap_or_default());
        let rounds = rounds.parse::<u32>().expect("a number of rounds");
        match what.as_str() {
            "cut" => (0..rounds).for_each(|_| _ = black_box(cut(&bytes))),
            "reply" => (0..rounds).for_each(|_| _ = black_box(reply(&bytes))),
            "judge" => (0..rounds).for_each(|_| _ = black_box(judge(&commands, name, second))),
            "nothing" => (0..rounds).for_each(|_| _ = black_box((black_box(name), black_box(second)))),
            _ => panic!("cut, reply, judge or nothing"),
        }
        return;
    }
    let value = "v".repeat(64);
    println!("{:<28} {:>10} {:>10} {:>10}", "ns per request", "cut", "judge", "reply");
    for line in [
        "GET key:000000000042",
        &format!("SET key:000000000042 {value}"),
        "CONFIG GET save",
        "ZREVRANGEBYSCORE z 1 0",
        "GEORADIUSBYMEMBER g m 1 km",
        "nothing at all",
    ] {
        let bytes = request(line);
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let cutting = nanoseconds(|| _ = black_box(cut(&bytes)));
        let judging = nanoseconds(|| _ = black_box(judge(&commands, words[0], words[1])));
        let replying = nanoseconds(|| _ = black_box(reply(&bytes)));
        println!("{:<28} {cutting:>10.1} {judging:>10.1} {replying:>10.1}", &line[..line.len().min(28)]);
    }
}
