//! The table of Redis commands against a real server: what it says about itself, in RESP2 and in RESP3.

use std::collections::BTreeMap;

use forebay::wire::resp::command::{Access, Command, Commands, Keys, Path};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

#[path = "redis_real/server.rs"]
mod server;

use server::Server;

/// Number of words, flags, and first key, last key and step by name, read by somebody else's parser.
type Described = BTreeMap<String, (i64, Vec<String>, Vec<i64>)>;

fn describe(frames: &[OwnedFrame], described: &mut Described) {
    for frame in frames {
        let OwnedFrame::Array(fields) = frame else { panic!("a command is an array: {frame:?}") };
        let [name, OwnedFrame::Integer(arity), OwnedFrame::Array(flags), ..] = fields.as_slice() else {
            panic!("name, number of words, flags: {fields:?}")
        };
        let text = |frame: &OwnedFrame| frame.to_string().expect("text");
        let number = |frame: &OwnedFrame| frame.to_string().and_then(|text| text.parse().ok()).expect("a number");
        let keys = fields.get(3..6).unwrap_or_default().iter().map(number).collect();
        described.insert(text(name), (*arity, flags.iter().map(text).collect(), keys));
        if let Some(OwnedFrame::Array(subcommands)) = fields.get(9) {
            describe(subcommands, described);
        }
    }
}

fn described(reply: &[u8]) -> Described {
    let (frame, _) = decode(reply).expect("RESP2").expect("complete");
    let OwnedFrame::Array(frames) = frame else { panic!("COMMAND answers an array") };
    let mut described = Described::new();
    describe(&frames, &mut described);
    described
}

fn find<'a>(commands: &'a Commands, name: &str) -> Option<&'a Command> {
    match name.split_once('|') {
        Some((container, sub)) => commands.find_sub(container.as_bytes(), sub.as_bytes()),
        None => commands.find(name.as_bytes()),
    }
}

#[test]
fn a_servers_own_table_is_understood() {
    let server = Server::start();
    let resp2 = server.ask(&["COMMAND"]);
    let resp3 = server.ask(&["HELLO 3", "COMMAND"]);
    assert_ne!(resp2, resp3, "sets and maps are sent as such in RESP3");
    let described = described(&resp2);
    assert!(described.len() > 200, "only {} commands", described.len());

    let builtin = Commands::builtin();
    let learned = [Commands::learn(&resp2).expect("RESP2"), Commands::learn(&resp3).expect("RESP3")];
    let (mut differences, mut wrong) = (0, Vec::new());
    for (name, (arity, flags, keys)) in &described {
        let has = |flag: &str| flags.iter().any(|f| f == flag);
        let [two, three] = learned.each_ref().map(|commands| find(commands, name));
        assert_eq!(two, three, "{name} means the same in RESP2 and RESP3");
        let command = two.unwrap_or_else(|| panic!("{name} was not learned"));
        assert_eq!(i64::from(command.arity), *arity, "{name}");
        if has("write") {
            assert_eq!(command.access, Access::Write, "{name}");
        }
        if command.access == Access::Read {
            assert!(has("readonly"), "{name} is a read that the server does not call one");
        }
        if has("blocking") {
            assert!(!matches!(command.path, Path::Lane | Path::Slow), "{name} may block");
        }
        // Channels of SPUBLISH and the like count as keys there. Commands whose keys move are known by name.
        let says_all = !has("movablekeys") && !has("pubsub") && !has("admin");
        if let (true, [first, last, step]) = (says_all, keys.as_slice()) {
            let expected = match (u16::try_from(*first), i16::try_from(*last), u16::try_from(*step)) {
                (Ok(first @ 1..), Ok(last), Ok(step)) => Keys::Range { first, last, step },
                _ => Keys::None,
            };
            assert_eq!(command.keys, expected, "the keys of {name}");
        }
        match find(&builtin, name) {
            Some(known) if known == command => {}
            Some(known) => {
                println!("built in: {known:?}\n learned: {command:?}");
                differences += 1;
                let is_more_trusting = has("write") && known.access == Access::Read
                    || has("blocking") && matches!(known.path, Path::Lane | Path::Slow);
                wrong.extend(is_more_trusting.then_some(name));
            }
            None => {
                println!("not built in: {command:?} {flags:?}");
                differences += 1;
            }
        }
    }
    for known in builtin.iter().filter(|known| !described.contains_key(&*known.name)) {
        println!("not on this server: {}", known.name);
    }
    let version = String::from_utf8_lossy(&server.ask(&["INFO server"])).into_owned();
    println!("{} commands, {differences} differences", described.len());
    assert!(wrong.is_empty(), "the built-in table takes these for harmless, the server does not: {wrong:?}");
    if version.contains("redis_version:7.0.") {
        assert_eq!(differences, 0, "the table was made from this version");
    }
}

#[test]
fn a_user_who_may_not_ask_is_told_so() {
    let server = Server::start();
    server.ask(&["ACL SETUSER app on >app ~* +@all -command"]);
    let reply = server.ask(&["AUTH app app", "COMMAND"]);
    let refused = Commands::learn(&reply).expect_err("not allowed");
    assert!(refused.to_string().contains("NOPERM"), "{refused}");
}
