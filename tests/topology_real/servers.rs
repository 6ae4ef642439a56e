//! Real PostgreSQL servers for a test: made, started, stopped.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::DEADLINE;

/// Where PostgreSQL is installed, and who may run it.
pub struct Installation {
    pub bin: PathBuf,
    /// `(uid, gid)` to become; `None` when this process is not root.
    pub account: Option<(u32, u32)>,
}

impl Installation {
    pub fn find() -> Self {
        let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut bins: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
        bins.retain(|bin| bin.join("initdb").exists());
        bins.sort();
        let bin = std::env::var_os("FOREBAY_PG_BIN").map(PathBuf::from).or(bins.pop());
        let id = |what| {
            let out = Command::new("id").args([what, "postgres"]).output().expect("id runs");
            String::from_utf8_lossy(&out.stdout).trim().parse().expect("a user postgres")
        };
        let account = rustix::process::getuid().is_root().then(|| (id("-u"), id("-g")));
        Self { bin: bin.expect("PostgreSQL's servers are installed, or FOREBAY_PG_BIN names their folder"), account }
    }

    pub fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        match self.account {
            None => Command::new(program),
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups").arg(program);
                command
            }
        }
    }

    pub fn run(&self, program: &str, args: &[&str]) {
        let out = self.command(program).args(args).current_dir("/").output().expect("the program starts");
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// One server and its data folder; stopped when dropped.
pub struct Server {
    pub installation: Rc<Installation>,
    pub data: PathBuf,
    pub port: u16,
    process: Option<Child>,
}

impl Server {
    pub fn new(installation: &Rc<Installation>, folder: &Path, name: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        Self { installation: Rc::clone(installation), data: folder.join(name), port, process: None }
    }

    pub fn init(&self) {
        let data = self.data.to_str().expect("a plain path");
        self.installation.run("initdb", &["-D", data, "-U", "postgres", "--auth=trust", "-N"]);
    }

    pub fn copy_from(&self, primary: &Server) {
        let (data, port) = (self.data.to_str().expect("a plain path"), primary.port.to_string());
        let from = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", data];
        self.installation.run("pg_basebackup", &[&from[..], &["-R", "-c", "fast", "-N"]].concat());
    }

    pub fn start(&mut self) {
        let log = File::options().append(true).create(true).open(self.data.with_extension("log")).expect("a log");
        let folder = self.data.parent().expect("a folder").display();
        let mut command = self.installation.command("postgres");
        command.arg("-D").arg(&self.data);
        for setting in [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={folder}"),
            "fsync=off".to_owned(),
            "wal_retrieve_retry_interval=100ms".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let err = log.try_clone().expect("a second handle");
        let started = command.stdin(Stdio::null()).stdout(log).stderr(err).current_dir("/").spawn();
        self.process = Some(started.expect("postgres starts"));
    }

    pub fn stop(&mut self, signal: rustix::process::Signal) {
        if let Some(mut process) = self.process.take() {
            let pid = rustix::process::Pid::from_child(&process);
            rustix::process::kill_process(pid, signal).expect("it runs");
            process.wait().expect("it ends");
        }
    }

    pub async fn client(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let to = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&to, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn ready(&self) -> tokio_postgres::Client {
        let begun = Instant::now();
        loop {
            match self.client().await {
                Ok(client) => return client,
                Err(error) => assert!(begun.elapsed() < DEADLINE, "port {}: {error}", self.port),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn run(&self, statements: &str) {
        let client = self.ready().await;
        for statement in statements.split(';') {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::QUIT);
    }
}

/// A primary and two replicas, with a login that may see statistics (`watch`) and one that may not (`plain`).
pub async fn three_servers(folder: &Path) -> [Server; 3] {
    let installation = Rc::new(Installation::find());
    if let Some((uid, gid)) = installation.account {
        chown(folder, Some(uid), Some(gid)).expect("the folder is ours to give");
    }
    let mut servers = ["pg1", "pg2", "pg3"].map(|name| Server::new(&installation, folder, name));
    let [primary, replicas @ ..] = &mut servers;
    primary.init();
    primary.start();
    primary
        .run("CREATE ROLE plain LOGIN; CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch; CREATE TABLE t (i int)")
        .await;
    for replica in replicas {
        replica.copy_from(primary);
        replica.start();
        replica.ready().await;
    }
    servers
}
