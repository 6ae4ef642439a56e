//! The table of Redis commands against a real server: what it says about itself, in RESP2 and in RESP3.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use forebay::wire::resp::ReplyScan;
use forebay::wire::resp::command::{Access, Command, Commands, Path};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

struct Server {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        // Somebody else may take the port before the server does: then another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"];
            let mut process = Program::new("redis-server")
                .args(options)
                .arg(port.to_string())
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server must be installed");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(20) && process.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Server { process, port, _folder: folder };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("redis-server does not start");
    }

    /// The bytes of the last of the answers to these inline commands.
    fn ask(&self, requests: &[&str]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reply = Vec::new();
        for request in requests {
            stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
            let (mut scan, mut from, mut buffer) = (ReplyScan::default(), 0, vec![0; 65536]);
            reply.clear();
            loop {
                let scanned = scan.scan(&reply[from..]).expect("a server speaks RESP");
                from += scanned.used;
                if scanned.is_done {
                    break;
                }
                let len = stream.read(&mut buffer).unwrap();
                assert!(len > 0, "the server closed the connection");
                reply.extend_from_slice(&buffer[..len]);
            }
            assert_eq!(from, reply.len(), "one answer to one request");
        }
        reply
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Number of words and flags by name, read by somebody else's parser.
type Described = BTreeMap<String, (i64, Vec<String>)>;

fn describe(frames: &[OwnedFrame], described: &mut Described) {
    for frame in frames {
        let OwnedFrame::Array(fields) = frame else { panic!("a command is an array: {frame:?}") };
        let [name, OwnedFrame::Integer(arity), OwnedFrame::Array(flags), ..] = fields.as_slice() else {
            panic!("name, number of words, flags: {fields:?}")
        };
        let text = |frame: &OwnedFrame| frame.to_string().expect("text");
        described.insert(text(name), (*arity, flags.iter().map(text).collect()));
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
    for (name, (arity, flags)) in &described {
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
