//! The command line: what was typed becomes a call, and an exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::model::{AdminRole, Config, ListenAddr};
use crate::ops::upgrade::{Heir, refuse};
use crate::{admin, config, ops};

mod make;

/// Where packages put the configuration.
const PACKAGED: &str = "/etc/forebay/forebay.toml";

/// Failed at run time.
const FAILED: u8 = 1;
/// Bad configuration or arguments; also what clap exits with.
const BAD_CONFIG: u8 = 2;

/// One endpoint for PostgreSQL and Redis: pooling, a queue, reads on replicas, failover.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Serve with this configuration (the same as `forebay run -c FILE`)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until stopped
    Run {
        #[command(flatten)]
        file: File,
    },
    /// Validate a configuration; errors as FILE:LINE:COLUMN: what is wrong
    Check {
        #[command(flatten)]
        file: File,
        /// Print the effective configuration with every default, secrets masked
        #[arg(long)]
        show: bool,
    },
    /// Nodes, pools and queues of the running instance
    Status {
        #[command(flatten)]
        running: Running,
    },
    /// Ask the running instance whether it works, over HTTP: exit code 0 if it does, for health checks of containers
    Health {
        #[command(flatten)]
        file: File,
        /// Ask whether it is of use to clients (/readyz) instead of whether it works (/healthz)
        #[arg(long)]
        ready: bool,
    },
    /// Run one admin statement in the running instance
    Admin {
        /// For instance "SHOW POOLS"
        sql: String,
        #[command(flatten)]
        running: Running,
    },
    /// Replace the running instance by the program as it is now, without losing anyone
    ///
    /// The instance starts its own program file anew, hands over its listeners, and every client as its transaction ends.
    /// Answers when the new process serves; if it cannot, the old one goes on as before and this says why.
    Upgrade {
        #[command(flatten)]
        running: Running,
    },
    /// Print a configuration made from another tool's files
    ///
    /// What has no equal becomes a comment that names the key, its value, its file and line, and what to do instead. What has
    /// to be done before the configuration is of use is told on standard error.
    Import {
        /// Whose files they are
        tool: make::ToolName,
        /// pgbouncer.ini and userlist.txt; pgpool.conf, pool_passwd, pool_hba.conf and pcp.conf; haproxy.cfg
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Look at running servers and print a configuration for them
    ///
    /// Connects to PostgreSQL, finds the primary and the replicas, asks Sentinels for Redis' ones, and changes nothing. The
    /// password is taken from PGPASSWORD or ~/.pgpass, or asked for; Sentinels' own is REDISCLI_AUTH. What was not found is
    /// told on standard error.
    Init {
        #[command(flatten)]
        wish: make::Wish,
    },
    /// Print the manual page
    Man {
        /// Write this page and one for each command into a folder instead, for packages
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
    /// Print the completion of a shell
    Completions {
        /// Whose completion
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct File {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Running {
    /// Configuration file of the running instance: tells where its console listens and who may log in
    #[arg(short, long, value_name = "FILE", default_value = PACKAGED, env = "FOREBAY_CONFIG")]
    config: PathBuf,
    /// Log in as this user instead of the first [[admin.user]]; the password is read from PGPASSWORD
    #[arg(long)]
    user: Option<String>,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the program. Everything goes to standard error but what was asked for.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = match (arguments.command, arguments.config) {
        (Some(command), _) => command,
        (None, Some(config)) => Command::Run { file: File { config } },
        (None, None) => {
            eprintln!("forebay: a configuration is needed: forebay -c FILE (see forebay --help)");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match command {
        Command::Run { file } => run(&file.config),
        Command::Check { file, show } => check(&file.config, show),
        Command::Status { running } => ask(&running, STATUS),
        Command::Health { file, ready } => health(&file.config, ready),
        Command::Admin { sql, running } => ask(&running, &[sql.as_str()]),
        Command::Upgrade { running } => ask(&running, &["UPGRADE"]),
        Command::Import { tool, files } => make::import(tool, &files),
        Command::Init { wish } => make::init(&wish),
        Command::Man { output } => make::man(output.as_deref()),
        Command::Completions { shell } => make::completions(shell),
    }
}

/// What `forebay status` shows.
const STATUS: &[&str] = &["SHOW NODES", "SHOW POOLS", "SHOW QUEUE"];

/// The configuration, with its errors and warnings on standard error; a process that this one was to replace is told, too.
fn load(path: &Path) -> Result<Config, ExitCode> {
    match config::load(path) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            Ok(loaded.config)
        }
        Err(errors) => {
            eprintln!("{errors}");
            refuse(&errors.to_string());
            Err(ExitCode::from(BAD_CONFIG))
        }
    }
}

fn run(path: &Path) -> ExitCode {
    let heir = match Heir::of_parent().transpose() {
        Ok(heir) => heir,
        Err(e) => {
            eprintln!("forebay: the process before this one cannot be heard: {e}");
            return ExitCode::from(FAILED);
        }
    };
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let level = match ops::log::start(&config.general.log_level, config.general.log_format) {
        Ok(level) => level,
        Err(e) => {
            eprintln!("forebay: log.level: {e}");
            refuse(&format!("log.level: {e}"));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match ops::serve(config, path, level, heir, admin::console::serve, |instance| admin::start(&instance)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            refuse(&e.to_string());
            tracing::error!(error = %e, "stopped");
            ExitCode::from(FAILED)
        }
    }
}

fn check(path: &Path, show: bool) -> ExitCode {
    match load(path) {
        Ok(config) => {
            if show {
                print!("{}", config::show(&config));
            } else {
                println!("{}: the configuration is valid", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn health(path: &Path, ready: bool) -> ExitCode {
    let config = match config::load(path) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let question = if ready { admin::Probe::Ready } else { admin::Probe::Healthy };
    match wait_for(async { admin::probe(&config, question).await }) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("forebay: {}", e.trim_end());
            ExitCode::from(FAILED)
        }
    }
}

/// Runs one thing to its end.
fn wait_for<T>(what: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(what)
}

/// Runs statements in the console of the running instance and prints their rows.
fn ask(running: &Running, statements: &[&str]) -> ExitCode {
    let config = match config::load(&running.config) {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            eprintln!("{errors}");
            if running.config == Path::new(PACKAGED) && !running.config.exists() {
                eprintln!("forebay: say which configuration the running instance has: -c FILE, or FOREBAY_CONFIG=FILE");
            }
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match wait_for(query(&config, running, statements)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("forebay: {e}");
            ExitCode::from(FAILED)
        }
    }
}

async fn query(config: &Config, running: &Running, statements: &[&str]) -> Result<(), String> {
    let mut console = tokio_postgres::Config::new();
    let listen = config.postgres.listen.first().ok_or("the configuration has no postgres.listen")?;
    match &listen.addr {
        ListenAddr::Tcp(addr) => {
            let ip = if addr.ip().is_unspecified() { "127.0.0.1".to_owned() } else { addr.ip().to_string() };
            console.host(ip).port(addr.port());
        }
        ListenAddr::Unix(path) => {
            let folder = path.parent().ok_or("the listener's socket has no folder")?;
            let port = path.extension().and_then(|e| e.to_str()).and_then(|e| e.parse().ok()).unwrap_or(5432);
            console.host_path(folder).port(port);
        }
    }
    let admin = config.admin.users.iter().find(|u| u.role == AdminRole::Admin).or(config.admin.users.first());
    let user = running.user.as_deref().or(admin.map(|u| u.name.as_str())).unwrap_or("forebay");
    console.user(user).dbname(&config.admin.database).application_name("forebay");
    if let Ok(password) = std::env::var("PGPASSWORD") {
        console.password(password);
    } else if let Some(known) = config.admin.users.iter().find(|u| u.name == user) {
        console.password(&known.password.0);
    }
    let (client, connection) = console
        .connect(tokio_postgres::NoTls)
        .await
        .map_err(|e| format!("cannot reach the console of the running instance at {}: {}", listen.addr, cause(&e)))?;
    tokio::spawn(connection);
    let mut all = serde_json::Map::new();
    for sql in statements {
        let messages = client.simple_query(sql).await.map_err(|e| cause(&e))?;
        let table = Table::from(messages);
        if running.json {
            all.insert(sql.trim_start_matches("SHOW ").to_ascii_lowercase(), table.json());
        } else {
            if statements.len() > 1 {
                println!("{}", sql.trim_start_matches("SHOW "));
            }
            print!("{}", table.text());
        }
    }
    if running.json {
        // One statement answers with its rows alone.
        let only = (statements.len() == 1).then(|| all.values().next().cloned()).flatten();
        println!("{}", only.unwrap_or(serde_json::Value::Object(all)));
    }
    Ok(())
}

/// The deepest message of an error: the server's own words.
fn cause(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => match db.hint() {
            Some(hint) => format!("{} (hint: {hint})", db.message()),
            None => db.message().to_owned(),
        },
        None => {
            let mut deepest: &dyn std::error::Error = error;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            deepest.to_string()
        }
    }
}

/// Rows as the console sent them.
#[derive(Debug, Default)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

impl From<Vec<tokio_postgres::SimpleQueryMessage>> for Table {
    fn from(messages: Vec<tokio_postgres::SimpleQueryMessage>) -> Self {
        let mut table = Table::default();
        for message in messages {
            match message {
                tokio_postgres::SimpleQueryMessage::RowDescription(columns) => {
                    table.columns = columns.iter().map(|c| c.name().to_owned()).collect();
                }
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    table.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        table
    }
}

impl Table {
    fn json(&self) -> serde_json::Value {
        let row = |values: &Vec<Option<String>>| {
            let pairs = self.columns.iter().cloned().zip(values.iter().map(|v| serde_json::json!(v)));
            serde_json::Value::Object(pairs.collect())
        };
        self.rows.iter().map(row).collect()
    }

    fn text(&self) -> String {
        if self.columns.is_empty() {
            return "done\n".to_owned();
        }
        let cell = |v: &Option<String>| v.clone().unwrap_or_default();
        let width = |i: usize, name: &String| {
            let longest = self.rows.iter().filter_map(|r| r.get(i)).map(|v| cell(v).chars().count()).max();
            longest.unwrap_or(0).max(name.chars().count())
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(i, name)| width(i, name)).collect();
        let line = |cells: Vec<String>| {
            let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
            format!("{}\n", padded.join("  ").trim_end())
        };
        let mut out = line(self.columns.clone());
        out += &line(widths.iter().map(|w| "-".repeat(*w)).collect());
        for row in &self.rows {
            out += &line(row.iter().map(cell).collect());
        }
        out
    }
}
