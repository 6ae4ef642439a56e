//! Real Redis servers and Sentinels for a test: made, started, stopped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay::topology::clock::now_ns;
use rustix::process::{Pid, Signal, kill_process};

use crate::DEADLINE;

pub const PRIMARY_NAME: &str = "cache";

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A server or a Sentinel.
pub struct Server {
    pub port: u16,
    conf: PathBuf,
    is_sentinel: bool,
    child: Option<Child>,
}

impl Server {
    pub fn node(folder: &Path, upstream: Option<u16>) -> Self {
        let port = free_port();
        let upstream = upstream.map_or(String::new(), |of| format!("replicaof 127.0.0.1 {of}\n"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsave \"\"\nrepl-diskless-sync-delay 0\ndbfilename {port}.rdb\n{upstream}",
            folder.display()
        );
        Self::start_with(folder, port, &text, false)
    }

    pub fn sentinel(folder: &Path, primary: u16, down_after_ms: u64) -> Self {
        let port = free_port();
        let own = folder.join(format!("s{port}"));
        std::fs::create_dir(&own).expect("a folder");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {PRIMARY_NAME} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {PRIMARY_NAME} {down_after_ms}\n\
             sentinel failover-timeout {PRIMARY_NAME} 10000\n",
            own.display()
        );
        Self::start_with(folder, port, &text, true)
    }

    fn start_with(folder: &Path, port: u16, text: &str, is_sentinel: bool) -> Self {
        let conf = folder.join(format!("{port}.conf"));
        std::fs::write(&conf, text).expect("written");
        let mut server = Self { port, conf, is_sentinel, child: None };
        server.start();
        server
    }

    pub fn start(&mut self) {
        let log = File::create(self.conf.with_extension("log")).expect("a log");
        let mut command = Command::new("redis-server");
        command.arg(&self.conf).args(self.is_sentinel.then_some("--sentinel"));
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("redis-server is installed"));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < DEADLINE, "port {} does not answer", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is ours");
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The first line of the answer, without CR and LF.
    pub fn say(&self, words: &str) -> String {
        Talk::to(self.port).and_then(|mut talk| talk.say(words)).unwrap_or_else(|error| panic!("{words}: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection that speaks in lines.
pub struct Talk {
    reader: BufReader<TcpStream>,
}

impl Talk {
    pub fn to(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    pub fn say(&mut self, words: &str) -> std::io::Result<String> {
        self.reader.get_mut().write_all(format!("{words}\r\n").as_bytes())?;
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(length) = line.strip_prefix('$').and_then(|n| n.trim().parse::<usize>().ok()) {
            let mut body = vec![0; length + 2];
            self.reader.read_exact(&mut body)?;
            return Ok(String::from_utf8_lossy(&body).trim_end().to_owned());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A primary, two replicas, and three Sentinels.
pub fn three_of_each(folder: &Path) -> ([Server; 3], [Server; 3]) {
    let primary = Server::node(folder, None);
    let replicas = [(); 2].map(|()| Server::node(folder, Some(primary.port)));
    let port = primary.port;
    let [second, third] = replicas;
    ([primary, second, third], [(); 3].map(|()| Server::sentinel(folder, port, 1500)))
}

/// Listens to Sentinels and notes when the first of them tells of a new address.
pub fn first_switch(sentinels: &[Server]) -> Arc<AtomicU64> {
    let noted = Arc::<AtomicU64>::default();
    for sentinel in sentinels {
        let (port, noted) = (sentinel.port, Arc::clone(&noted));
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a Sentinel");
            stream.set_read_timeout(Some(DEADLINE)).expect("set");
            stream.write_all(b"SUBSCRIBE +switch-master\r\n").expect("sent");
            let lines = BufReader::new(stream).lines().map_while(Result::ok);
            if lines.filter(|line| line == "+switch-master").nth(1).is_some() {
                let _ = noted.compare_exchange(0, now_ns(), Ordering::AcqRel, Ordering::Acquire);
            }
        });
    }
    noted
}
