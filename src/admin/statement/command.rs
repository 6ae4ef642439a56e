//! The commands: what each is called, and what it takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Parser;
use crate::admin::errors::Refusal;
use crate::config::{self, Network};
use crate::sql::lex::Token;

/// What changes something. Databases are called as clients call them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "docs/console.md; one variant a command")]
pub enum Command {
    Reload,
    Pause(Option<String>),
    Resume(Option<String>),
    Disable(String),
    Enable(String),
    Reconnect(Option<String>),
    Kill(Option<String>),
    KillClient(u64),
    Suspend,
    Shutdown(Shutdown),
    /// `UPGRADE`
    Upgrade,
    WaitClose(Option<String>),
    SetKey {
        key: String,
        value: String,
    },
    DetachNode(String),
    AttachNode {
        node: String,
        force: bool,
    },
    DrainNode(String),
    SetWeight {
        node: String,
        weight: u32,
    },
    Switchover {
        service: String,
        to: Option<String>,
        mode: Mode,
        drain: Option<Duration>,
        dry_run: bool,
    },
    /// Without a service: `PROMOTE node`.
    Failover {
        service: String,
        to: Option<String>,
        allow_loss: bool,
    },
    PauseFailover(Option<String>),
    ResumeFailover(Option<String>),
    Ban {
        block: Network,
        time: Option<Duration>,
    },
    Unban(Network),
}

/// What `SWITCHOVER` does with transactions that have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// They fail, as if what they read had changed.
    Fast,
    /// It waits for their ends.
    Clean,
}

/// What `SHUTDOWN` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shutdown {
    /// Nothing.
    Now,
    /// Running transactions.
    WaitForServers,
    /// Clients.
    WaitForClients,
}

impl Command {
    /// The words that name it, which are also its command tag where PgBouncer has one.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Reload => "RELOAD",
            Command::Pause(_) => "PAUSE",
            Command::Resume(_) => "RESUME",
            Command::Disable(_) => "DISABLE",
            Command::Enable(_) => "ENABLE",
            Command::Reconnect(_) => "RECONNECT",
            Command::Kill(_) => "KILL",
            Command::KillClient(_) => "KILL_CLIENT",
            Command::Suspend => "SUSPEND",
            Command::Shutdown(_) => "SHUTDOWN",
            Command::Upgrade => "UPGRADE",
            Command::WaitClose(_) => "WAIT_CLOSE",
            Command::SetKey { .. } => "SET",
            Command::DetachNode(_) => "DETACH NODE",
            Command::AttachNode { .. } => "ATTACH NODE",
            Command::DrainNode(_) => "DRAIN NODE",
            Command::SetWeight { .. } => "SET WEIGHT",
            Command::Switchover { .. } => "SWITCHOVER",
            Command::Failover { service, .. } if service.is_empty() => "PROMOTE",
            Command::Failover { .. } => "FAILOVER",
            Command::PauseFailover(_) => "PAUSE FAILOVER",
            Command::ResumeFailover(_) => "RESUME FAILOVER",
            Command::Ban { .. } => "BAN",
            Command::Unban(_) => "UNBAN",
        }
    }
}

const DATABASE: &str =
    "the name of a database (in double quotes if it has other characters than letters, digits and _)";
const SERVICE: &str = "the name of a service, see SHOW HA";
const NODE: &str = "the name of a node, such as pg1, main.pg1 or redis1";

impl Parser<'_> {
    /// The command that begins with `word`; `None` if none does.
    pub(super) fn command(&mut self, word: &str) -> Result<Option<Command>, Refusal> {
        Ok(Some(match word {
            "reload" => Command::Reload,
            "pause" if self.take("failover") => Command::PauseFailover(self.optional_name(SERVICE)?),
            "pause" => Command::Pause(self.optional_name(DATABASE)?),
            "resume" if self.take("failover") => Command::ResumeFailover(self.optional_name(SERVICE)?),
            "resume" => Command::Resume(self.optional_name(DATABASE)?),
            "disable" => Command::Disable(self.name(DATABASE)?),
            "enable" => Command::Enable(self.name(DATABASE)?),
            "reconnect" => Command::Reconnect(self.optional_name(DATABASE)?),
            "kill" => Command::Kill(self.optional_name(DATABASE)?),
            "kill_client" => Command::KillClient(self.number("the id of a client, see SHOW CLIENTS")?),
            "suspend" => Command::Suspend,
            "shutdown" => Command::Shutdown(self.shutdown()?),
            "upgrade" => Command::Upgrade,
            "wait_close" => Command::WaitClose(self.optional_name(DATABASE)?),
            "detach" => Command::DetachNode(self.node()?),
            "drain" => Command::DrainNode(self.node()?),
            "attach" => Command::AttachNode { node: self.node()?, force: self.take("force") },
            "switchover" => self.switchover()?,
            "failover" => self.failover()?,
            "promote" => {
                let to = Some(self.dotted(NODE)?);
                Command::Failover { service: String::new(), to, allow_loss: self.allow_loss()? }
            }
            "ban" => {
                let block = self.block()?;
                let time = if self.take("for") { Some(self.time()?) } else { None };
                if !self.is_over() {
                    return Err(self.mistake("FOR and a time in quotes, such as FOR '10m'"));
                }
                Command::Ban { block, time }
            }
            "unban" => Command::Unban(self.block()?),
            _ => return Ok(None),
        }))
    }

    fn shutdown(&mut self) -> Result<Shutdown, Refusal> {
        if self.is_over() {
            Ok(Shutdown::Now)
        } else if self.take("wait_for_servers") {
            Ok(Shutdown::WaitForServers)
        } else if self.take("wait_for_clients") {
            Ok(Shutdown::WaitForClients)
        } else {
            Err(self.mistake("WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS"))
        }
    }

    /// `SWITCHOVER service [TO node] [MODE fast | clean] [DRAIN '5s'] [DRY RUN]`, from after SWITCHOVER.
    fn switchover(&mut self) -> Result<Command, Refusal> {
        let service = self.name(SERVICE)?;
        let (mut to, mut mode, mut drain, mut dry_run) = (None, None, None, false);
        while !self.is_over() {
            if to.is_none() && self.take("to") {
                to = Some(self.dotted(NODE)?);
            } else if drain.is_none() && self.take("drain") {
                drain = Some(self.time()?);
            } else if !dry_run && self.take("dry") {
                if !self.take("run") {
                    return Err(self.mistake("RUN"));
                }
                dry_run = true;
            } else if mode.is_none() && self.take("mode") {
                mode = Some(match () {
                    () if self.take("fast") => Mode::Fast,
                    () if self.take("clean") => Mode::Clean,
                    () => return Err(self.mistake("fast or clean")),
                });
            } else {
                return Err(self.mistake("TO, MODE, DRAIN or DRY RUN, each once"));
            }
        }
        let mode = mode.unwrap_or(Mode::Fast);
        Ok(Command::Switchover { service, to, mode, drain, dry_run })
    }

    fn time(&mut self) -> Result<Duration, Refusal> {
        let text = self.peek();
        let time = std::str::from_utf8(text.unquoted()).ok().filter(|_| text.token == Token::String);
        let time = time.and_then(config::duration).ok_or_else(|| self.mistake("a time in quotes, such as '5s'"))?;
        self.next();
        Ok(time)
    }

    fn block(&mut self) -> Result<Network, Refusal> {
        let text = self.peek();
        let block = std::str::from_utf8(text.unquoted()).ok().filter(|_| text.token == Token::String);
        let block = block.and_then(Network::parse);
        let block = block.ok_or_else(|| self.mistake("an address or a block in quotes, such as '10.0.0.0/8'"))?;
        self.next();
        Ok(block)
    }

    /// `FAILOVER service [TO node] [ALLOW DATA LOSS]`, from after FAILOVER.
    fn failover(&mut self) -> Result<Command, Refusal> {
        let service = self.name(SERVICE)?;
        let to = if self.take("to") { Some(self.dotted(NODE)?) } else { None };
        let allow_loss = self.allow_loss()?;
        if !self.is_over() {
            return Err(self.mistake("TO node or ALLOW DATA LOSS"));
        }
        Ok(Command::Failover { service, to, allow_loss })
    }

    fn allow_loss(&mut self) -> Result<bool, Refusal> {
        if !self.take("allow") {
            return Ok(false);
        }
        match self.take("data") && self.take("loss") {
            true => Ok(true),
            false => Err(self.mistake("ALLOW DATA LOSS")),
        }
    }

    fn node(&mut self) -> Result<String, Refusal> {
        if !self.take("node") {
            return Err(self.mistake("NODE"));
        }
        self.dotted(NODE)
    }

    /// `SET WEIGHT node = n`, from after WEIGHT.
    pub(super) fn weight(&mut self) -> Result<Command, Refusal> {
        let node = self.dotted(NODE)?;
        self.equals_or_to()?;
        let weight = self.number("a number, 0 for no reads")?;
        let weight = u32::try_from(weight).map_err(|_| {
            Refusal::BadValue(format!("the weight of {node} must be at most {} (found {weight})", u32::MAX))
        })?;
        Ok(Command::SetWeight { node, weight })
    }

    fn number(&mut self, expected: &'static str) -> Result<u64, Refusal> {
        let lexeme = self.peek();
        let digits = match lexeme.token {
            Token::Number => lexeme.text,
            Token::String | Token::Quoted => lexeme.unquoted(),
            _ => return Err(self.mistake(expected)),
        };
        let number = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok());
        let number = number.ok_or_else(|| self.mistake(expected))?;
        self.next();
        Ok(number)
    }
}
