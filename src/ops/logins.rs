//! Looks logins up in PostgreSQL itself (`postgres.auth_query`), over a connection of its own to each cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;

use super::Instance;
use crate::config::model::Config;
use crate::pg::lookup::{Ask, Found};
use crate::topology::link::{Link, Login, words};
use crate::wire::pg::auth::Credential;

/// Longest attempt to connect, and longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(50);
/// A connection over which nobody was looked up is kept for so long.
const IDLE: Duration = Duration::from_secs(60);

/// Answers until the instance ends.
pub(super) async fn keep(instance: Arc<Instance>, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut attendants: HashMap<String, mpsc::UnboundedSender<Ask>> = HashMap::new();
    while let Some(ask) = asks.recv().await {
        let attendant = attendants.entry(ask.cluster.clone()).or_insert_with_key(|cluster| {
            let (asked, asks) = mpsc::unbounded_channel();
            let attendant = Attendant { instance: Arc::clone(&instance), cluster: cluster.clone(), asks, link: None };
            tokio::task::spawn_local(attendant.attend());
            asked
        });
        // It ends with this task only.
        let _ = attendant.send(ask);
    }
}

/// Of one cluster. One login after the other is looked up: a flood of them costs the servers one connection.
struct Attendant {
    instance: Arc<Instance>,
    cluster: String,
    asks: mpsc::UnboundedReceiver<Ask>,
    link: Option<(Target, Link)>,
}

/// Where a connection leads, and as whom.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    host: String,
    port: u16,
    user: String,
    /// The one in force and the one before.
    passwords: [crate::config::model::Secret; 2],
    database: String,
    tls: crate::config::model::ServerTls,
}

/// Why a login was not looked up.
enum Failure {
    /// Another attempt may help.
    Passing(String),
    /// It would fail again.
    Lasting(String),
}

impl Attendant {
    async fn attend(mut self) {
        loop {
            let ask = match (timeout(IDLE, self.asks.recv()).await, &self.link) {
                (Ok(Some(ask)), _) => ask,
                (Ok(None), _) => return,
                (Err(_), _) => {
                    self.link = None;
                    continue;
                }
            };
            // Whoever asked may have given up, or somebody has asked the same before.
            if ask.answer.is_closed() {
                continue;
            }
            let shared = Arc::clone(&self.instance.shared);
            if shared.logins.was_looked_up_since(&self.cluster, &ask.user, ask.since) {
                let _ = ask.answer.send(Ok(()));
                continue;
            }
            let done = self.look_up(&ask).await.map(|found| shared.logins.learn(&self.cluster, &ask.user, found));
            if let Err(why) = &done {
                tracing::warn!(cluster = self.cluster, user = ask.user, why, "a login could not be looked up");
            }
            let _ = ask.answer.send(done);
        }
    }

    /// While a primary fails there may be nobody to ask: clients wait for that as they do for everything else.
    async fn look_up(&mut self, ask: &Ask) -> Result<Found, String> {
        let config = self.instance.config.load_full();
        let deadline = Instant::now() + config.postgres.failover.hold;
        loop {
            let why = match self.attempt(&config, &ask.user).await {
                Ok(found) => return Ok(found),
                Err(Failure::Lasting(why)) => return Err(why),
                Err(Failure::Passing(why)) => why,
            };
            self.link = None;
            if Instant::now() >= deadline || ask.answer.is_closed() {
                return Err(why);
            }
            sleep(RETRY).await;
        }
    }

    async fn attempt(&mut self, config: &Config, user: &str) -> Result<Found, Failure> {
        let target = self.target(config)?;
        let query = config.postgres.auth_query.as_deref().unwrap_or(DEFAULT_QUERY);
        let kept = self.link.take().filter(|(known, link)| *known == target && !link.client.is_closed());
        let link = match kept {
            Some((_, link)) => link,
            None => open(&target).await?,
        };
        let asked = timeout(PATIENCE, ask(&link, query, user)).await;
        let is_said = matches!(&asked, Ok(Err(error)) if error.as_db_error().is_some()) && !link.client.is_closed();
        if is_said || matches!(asked, Ok(Ok(_))) {
            self.link = Some((target, link));
        }
        let lasting = |why: &str| Failure::Lasting(format!("auth_query: {why}"));
        match asked {
            Err(_) => Err(Failure::Passing(format!("no answer within {PATIENCE:?}"))),
            Ok(Err(error)) if is_said => Err(lasting(&words(&error))),
            Ok(Err(error)) => Err(Failure::Passing(words(&error))),
            Ok(Ok(None)) => Err(lasting("it must have one parameter, $1, the login")),
            Ok(Ok(Some(rows))) => read(&rows, user).map_err(|why| lasting(&why)),
        }
    }

    /// The primary; while there is none a replica, which knows the same logins.
    fn target(&self, config: &Config) -> Result<Target, Failure> {
        let lasting = |why: &str| Failure::Lasting(why.to_owned());
        let postgres = &config.postgres;
        let conf = postgres.clusters.iter().find(|conf| conf.name == self.cluster);
        let conf = conf.ok_or_else(|| lasting("the cluster is not configured any more"))?;
        let name = postgres.auth_user.as_ref().ok_or_else(|| lasting("auth_user is not configured any more"))?;
        let user = postgres.user(name).ok_or_else(|| lasting("auth_user is no [[postgres.user]]"))?;
        let snapshot = self.instance.monitor.snapshot();
        let view = snapshot.clusters.iter().find(|view| view.name == self.cluster);
        let nodes = view.map(|view| (view.primary, &view.nodes));
        let node = nodes.and_then(|(primary, nodes)| {
            primary.and_then(|at| nodes.get(at)).or_else(|| nodes.iter().find(|node| node.fit_for_reads))
        });
        let node = node.ok_or_else(|| Failure::Passing("no node can be asked".to_owned()))?;
        Ok(Target {
            host: node.host.clone(),
            port: node.port,
            user: name.clone(),
            passwords: [&user.password, &user.previous_password].map(|password| password.clone().unwrap_or_default()),
            database: postgres.auth_dbname.clone().unwrap_or_else(|| conf.monitor_database.clone()),
            tls: conf.tls.clone(),
        })
    }
}

/// All logins with their verifiers are the superuser's only: who uses this text is one, or has been granted the columns.
const DEFAULT_QUERY: &str = "SELECT rolname::text, rolpassword, extract(epoch FROM rolvaliduntil)::float8 \
                             FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

async fn open(target: &Target) -> Result<Link, Failure> {
    let [password, previous_password] = &target.passwords;
    let login = Login {
        host: &target.host,
        port: target.port,
        user: &target.user,
        password,
        previous_password,
        database: &target.database,
        tls: &target.tls,
    };
    let opened = async {
        let link = Link::open(login, PATIENCE).await?;
        // Nobody can put a table or function of his own before the system's, whatever is set for the login or database.
        link.client.batch_execute("SET search_path = pg_catalog, pg_temp").await?;
        Ok::<_, tokio_postgres::Error>(link)
    };
    match timeout(PATIENCE, opened).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(Failure::Passing(words(&error))),
        Err(_) => Err(Failure::Passing(format!("no connection within {PATIENCE:?}"))),
    }
}

/// `None` for a query without the one parameter.
async fn ask(link: &Link, query: &str, user: &str) -> Result<Option<Vec<Row>>, tokio_postgres::Error> {
    let statement = link.client.prepare(query).await?;
    if statement.params().len() != 1 {
        return Ok(None);
    }
    link.client.query(&statement, &[&user]).await.map(Some)
}

fn read(rows: &[Row], user: &str) -> Result<Found, String> {
    let row = match rows {
        [] => return Ok(Found::nobody()),
        [row] => row,
        _ => return Err(format!("{} rows for one login", rows.len())),
    };
    let bad = |error: tokio_postgres::Error| words(&error);
    if row.len() < 2 {
        return Err("it must answer the login's name and its password".to_owned());
    }
    let name: Option<String> = row.try_get(0).map_err(bad)?;
    match name {
        // A function that returns one row answers so.
        None => return Ok(Found::nobody()),
        Some(name) if name != user => return Err("it answers another login than it was asked for".to_owned()),
        Some(_) => {}
    }
    let password: Option<String> = row.try_get(1).map_err(bad)?;
    let credential = match password.as_deref().map(Credential::parse) {
        None => None,
        Some(Ok(credential)) => Some(credential),
        Some(Err(bad)) => return Err(format!("the password {bad}")),
    };
    let until: Option<f64> = if row.len() > 2 { row.try_get(2).map_err(bad)? } else { None };
    let valid_until = until.filter(|until| until.is_finite()).and_then(|until| {
        let seconds = Duration::try_from_secs_f64(until.max(0.0)).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    });
    // Before the epoch, as -infinity is, is long over.
    let is_over = until == Some(f64::NEG_INFINITY);
    Ok(Found::new(credential, if is_over { Some(SystemTime::UNIX_EPOCH) } else { valid_until }))
}
