//! Orders about nodes, of PostgreSQL and of Redis, and planned changes of a primary.

use std::time::Duration;

use super::Admin;
use crate::admin::errors::Refusal;
use crate::admin::run::{Answer, Notice};
use crate::admin::statement::Command;
use crate::admin::statement::command::Mode;
use crate::topology::monitor::Change;
use crate::topology::redis::Planned;

/// Which of the two monitors an order is for.
enum Kind {
    Postgres,
    Redis,
}

impl Admin<'_> {
    /// `DETACH`, `DRAIN`, `ATTACH NODE` and `SET WEIGHT`.
    pub(super) async fn order(&self, node: &str, command: &Command) -> Result<Answer, Refusal> {
        let (postgres, redis, by) = (&self.instance.monitor, &self.instance.redis, self.name);
        let told = match (self.kind(node)?, command) {
            (Kind::Postgres, Command::DetachNode(_)) => postgres.detach(node, by).await,
            (Kind::Redis, Command::DetachNode(_)) => redis.detach(node, by).await,
            (Kind::Postgres, Command::DrainNode(_)) => postgres.drain(node, by).await,
            (Kind::Redis, Command::DrainNode(_)) => redis.drain(node, by).await,
            (Kind::Postgres, Command::AttachNode { force, .. }) => postgres.attach(node, *force, by).await,
            (Kind::Redis, Command::AttachNode { force, .. }) => redis.attach(node, *force, by).await,
            (Kind::Postgres, Command::SetWeight { weight, .. }) => postgres.set_weight(node, *weight, by).await,
            (Kind::Redis, Command::SetWeight { weight, .. }) => redis.set_weight(node, *weight, by).await,
            (_, other) => Err(format!("{} is no order about a node", other.name())),
        };
        // Recorded by the monitor, with the name.
        self.instance.settled().await;
        told.map(|told| Answer::done(command.name()).with(Notice::info(told))).map_err(Refusal::Node)
    }

    /// A node that neither knows is left to the one that has nodes, whose refusal names them.
    fn kind(&self, node: &str) -> Result<Kind, Refusal> {
        let snapshot = self.instance.monitor.snapshot();
        let in_postgres = snapshot.clusters.iter().find(|cluster| {
            let own = node.strip_prefix(cluster.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
            cluster.nodes.iter().any(|known| known.name == node || own == Some(&known.name))
        });
        match (in_postgres, self.instance.redis.knows(node)) {
            (Some(cluster), true) => {
                let why =
                    format!("several nodes are called \"{node}\"; write {}.{node}, or the Redis service", cluster.name);
                Err(Refusal::Node(format!("{why}'s name in front")))
            }
            (None, true) => Ok(Kind::Redis),
            (None, false) if snapshot.clusters.is_empty() => Ok(Kind::Redis),
            _ => Ok(Kind::Postgres),
        }
    }

    /// `PAUSE FAILOVER` and `RESUME FAILOVER`, of one service or of all.
    pub(super) async fn set_failover_paused(&self, service: Option<&str>, paused: bool) -> Result<Answer, Refusal> {
        let (postgres, redis) = (&self.instance.monitor, &self.instance.redis);
        if let Some(name) = service
            && !postgres.snapshot().clusters.iter().any(|cluster| cluster.name == name)
            && !redis.snapshot().services.iter().any(|known| known.name == name)
        {
            return Err(Refusal::NoService(name.to_owned()));
        }
        // Recorded by the monitors, with the name.
        let mut changed = redis.set_paused(service, paused, self.name).await.map_err(Refusal::WrongState)?;
        changed.extend(postgres.set_paused(service, paused, self.name).await.map_err(Refusal::WrongState)?);
        self.instance.settled().await;
        if changed.is_empty() {
            return Err(Refusal::WrongState(match (service, paused) {
                (Some(name), true) => format!("failover of {name} is paused already"),
                (Some(name), false) => format!("failover of {name} is not paused"),
                (None, true) => "failover is paused everywhere already".to_owned(),
                (None, false) => "failover is paused nowhere".to_owned(),
            }));
        }
        let (tag, state) = if paused { ("PAUSE FAILOVER", "paused") } else { ("RESUME FAILOVER", "resumed") };
        let told = format!("failover is {state}: {}", changed.join(", "));
        Ok(Answer::done(tag).with(Notice::info(told)))
    }

    /// `FAILOVER` and `PROMOTE`, of a PostgreSQL cluster.
    pub(super) async fn failover(
        &self,
        tag: &'static str,
        service: &str,
        to: Option<&str>,
        allow_loss: bool,
    ) -> Result<Answer, Refusal> {
        let config = self.instance.config.load_full();
        if config.redis.iter().any(|known| known.name == service) {
            let why = "is the Sentinels' to decide for Redis: SWITCHOVER changes the primary of a service that is well";
            return Err(Refusal::NotAvailable { what: "FAILOVER", why });
        }
        let (cluster, to, by) = (service.to_owned(), to.map(str::to_owned), self.name.to_owned());
        self.change(tag, Change { cluster, to, drain: None, clean: false, allow_loss, dry_run: false, by }).await
    }

    async fn change(&self, tag: &'static str, change: Change) -> Result<Answer, Refusal> {
        let told = self.instance.monitor.change(change).await;
        self.instance.settled().await;
        told.map(|told| Answer::done(tag).with(Notice::info(told))).map_err(Refusal::WrongState)
    }

    /// `SWITCHOVER` of a service of either kind.
    pub(super) async fn switchover(
        &self,
        service: &str,
        to: Option<&str>,
        mode: Mode,
        drain: Option<Duration>,
        dry_run: bool,
    ) -> Result<Answer, Refusal> {
        let config = self.instance.config.load_full();
        if config.postgres.clusters.iter().any(|cluster| cluster.name == service) {
            let drain = Some(drain.unwrap_or(config.postgres.failover.drain));
            let (cluster, to, by) = (service.to_owned(), to.map(str::to_owned), self.name.to_owned());
            let clean = mode == Mode::Clean;
            let change = Change { cluster, to, drain, clean, allow_loss: false, dry_run, by };
            return self.change("SWITCHOVER", change).await;
        }
        let Some(conf) = config.redis.iter().find(|conf| conf.name == service) else {
            let clusters = config.postgres.clusters.iter().map(|cluster| cluster.name.as_str());
            let known: Vec<&str> = clusters.chain(config.redis.iter().map(|conf| conf.name.as_str())).collect();
            let why = format!("no service \"{service}\"; there are {}", known.join(", "));
            return Err(Refusal::WrongState(why));
        };
        // Writes that wait longer than `hold` are refused: a longer change would not be one that clients only wait for.
        let hold = conf.hold;
        let (patience, limit) = match mode {
            Mode::Fast => (None, drain.unwrap_or(hold)),
            // Who begins a transaction meanwhile waits for both.
            Mode::Clean => (Some(drain.unwrap_or(hold / 2)), hold),
        };
        let planned = Planned { to: to.map(str::to_owned), patience, limit, dry_run };
        let writes = self.instance.hold_writes();
        let told = self.instance.redis.switchover(service, planned, self.name, writes).await;
        self.instance.settled().await;
        told.map(|told| Answer::done("SWITCHOVER").with(Notice::info(told))).map_err(Refusal::WrongState)
    }
}
