//! Commands that make something: configurations, manual pages, completions.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, ValueEnum};

use super::{Arguments, BAD_CONFIG, FAILED};
use crate::import::{self, Tool};
use crate::{config, init};

/// Tools whose files can be read.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ToolName {
    /// PgBouncer
    Pgbouncer,
    /// Pgpool-II 4
    Pgpool,
    /// HAProxy in front of PostgreSQL or Redis
    Haproxy,
}

/// What to look at.
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// A server of PostgreSQL, HOST or HOST:PORT; the primary and replicas that it tells of are found. May be repeated
    #[arg(long, value_name = "HOST", required_unless_present = "sentinel")]
    host: Vec<String>,
    /// Port of hosts without one
    #[arg(long, env = "PGPORT", default_value_t = 5432, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Login; it will watch the nodes. The name at the operating system unless told otherwise
    #[arg(long, env = "PGUSER")]
    user: Option<String>,
    /// Database to log in to
    #[arg(long, env = "PGDATABASE", default_value = "postgres")]
    dbname: String,
    /// TLS to PostgreSQL, as libpq's sslmode
    #[arg(long, value_name = "MODE", value_parser = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])]
    tls: Option<String>,
    /// Authorities for --tls, PEM
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_ca: Option<String>,
    /// A Sentinel, HOST or HOST:PORT; what it watches and other Sentinels are found. May be repeated
    #[arg(long, value_name = "HOST")]
    sentinel: Vec<String>,
    /// Write passwords into the configuration, instead of the names of variables of the environment
    #[arg(long)]
    with_password: bool,
    /// Write to this file, for its owner only, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "output")]
    force: bool,
}

/// Prints what another tool's files come to; what is left to do goes to standard error.
pub(super) fn import(tool: ToolName, files: &[PathBuf]) -> ExitCode {
    let tool = match tool {
        ToolName::Pgbouncer => Tool::PgBouncer,
        ToolName::Pgpool => Tool::Pgpool,
        ToolName::Haproxy => Tool::HaProxy,
    };
    match import::import(tool, files, &config::hba::Disk, config::by_system) {
        Ok(imported) => {
            let done = print(&imported.text);
            tell(&imported.notes);
            done
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// Prints a configuration for what is running, or writes it to a file.
pub(super) fn init(wish: &Wish) -> ExitCode {
    let output = wish.output.as_deref();
    if let Some(path) = output.filter(|path| path.exists() && !wish.force) {
        eprintln!("forebay: {} is there already; --force replaces it", path.display());
        return ExitCode::from(BAD_CONFIG);
    }
    let user = wish.user.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "postgres".to_owned());
    let meant = init::Wish {
        hosts: wish.host.clone(),
        port: wish.port,
        user,
        database: wish.dbname.clone(),
        tls: wish.tls.clone().map(|mode| (mode, wish.tls_ca.clone())),
        sentinels: wish.sentinel.clone(),
        with_password: wish.with_password,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    let made = match runtime.and_then(|runtime| runtime.block_on(init::init(&meant))) {
        Ok(made) => made,
        Err(why) => {
            eprintln!("forebay: {why}");
            return ExitCode::from(FAILED);
        }
    };
    let done = match output {
        None => print(&made.text),
        Some(path) => match write(path, &made.text, wish.force) {
            Ok(()) => {
                eprintln!("{}: written", path.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("forebay: cannot write {}: {error}", path.display());
                ExitCode::from(FAILED)
            }
        },
    };
    tell(&made.notes);
    done
}

/// Writes a file that its owner alone can read. One that is there is replaced as a whole, or not at all.
fn write(path: &Path, text: &str, replaces: bool) -> io::Result<()> {
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    if !replaces {
        return create(path)?.write_all(text.as_bytes());
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut file = create(&beside)?;
    let done =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
    if done.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
    }
    done
}

/// Prints the manual page, or writes all of them into a folder.
pub(super) fn man(folder: Option<&Path>) -> ExitCode {
    let command = Arguments::command();
    let done = match folder {
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder)),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).and_then(|()| io::stdout().write_all(&page))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Prints the completion of a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "forebay", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints to standard output; whoever reads it may have left.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("to do: {note}");
    }
}
