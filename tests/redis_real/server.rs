//! A Redis server of a test's own: on a free port, without persistence, in a folder that goes with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::wire::resp::ReplyScan;

pub struct Server {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        // Somebody else may take the port before the server does: then another.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"];
            let mut process = Command::new("redis-server")
                .args(options)
                .arg(port.to_string())
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server must be installed");
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(20) && process.try_wait().unwrap().is_none() {
                if answers(port).is_ok_and(|reply| reply == *b"+PONG") {
                    return Server { process, port, _folder: folder };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("redis-server does not start");
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The bytes of the last of the answers to these inline commands.
    #[allow(dead_code, reason = "not every test that starts a server asks it this way")]
    pub fn ask(&self, requests: &[&str]) -> Vec<u8> {
        let mut stream = self.connect();
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

/// What a server says to PING. That somebody listens proves nothing: it may be whoever else looks for a free port.
fn answers(port: u16) -> std::io::Result<[u8; 5]> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
