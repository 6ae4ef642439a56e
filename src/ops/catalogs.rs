//! Keeps what the databases' catalogs say of functions and relations up to date for the classifier.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Instance;
use crate::config::model::{Config, Database};
use crate::sql::Catalog;
use crate::topology::catalog;
use crate::topology::link::{Link, Login, words};

/// Between two looks at whether a catalog has changed. A statement that became a write in between is refused by the
/// replica itself and runs on the primary.
const EVERY: Duration = Duration::from_secs(5);
/// Between two attempts to reach a database.
const RETRY: Duration = Duration::from_secs(1);
/// The same while no node is known yet.
const SOON: Duration = Duration::from_millis(20);
const NOBODY: &str = "no node can be asked";
/// Longest attempt to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Reads the catalog of every database that is asked for, until the instance ends.
pub(super) async fn keep(instance: Arc<Instance>, mut wanted: mpsc::UnboundedReceiver<(usize, String)>) {
    let mut known = HashSet::new();
    while let Some((cluster, database)) = wanted.recv().await {
        if known.insert((cluster, database.clone())) {
            tokio::task::spawn_local(watch(Arc::clone(&instance), cluster, database));
        }
    }
}

async fn watch(instance: Arc<Instance>, cluster: usize, database: String) {
    let mut last = String::new();
    let mut patience = RETRY.as_millis() / SOON.as_millis();
    loop {
        match follow(&instance, cluster, &database).await {
            Ok(()) => return,
            // At the start: the first clients should not wait for it.
            Err(e) if e.to_string() == NOBODY && patience > 0 => {
                patience -= 1;
                tokio::time::sleep(SOON).await;
            }
            Err(e) => {
                let why = e.to_string();
                if last != why {
                    last.clone_from(&why);
                    tracing::warn!(
                        database,
                        error = why,
                        "the catalog cannot be read: statements that call functions go to the primary"
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Reads and re-reads over one connection. `Ok` when the cluster is not configured any more.
async fn follow(instance: &Instance, cluster: usize, database: &str) -> Result<(), Box<dyn std::error::Error>> {
    let config = instance.config.load_full();
    let Some(conf) = config.postgres.clusters.get(cluster) else { return Ok(()) };
    let snapshot = instance.monitor.snapshot();
    let view = snapshot.clusters.get(cluster).ok_or(NOBODY)?;
    let node = view
        .primary
        .and_then(|p| view.nodes.get(p))
        .or_else(|| view.nodes.iter().find(|n| n.fit_for_reads))
        .ok_or(NOBODY)?;
    let login = Login {
        host: &node.host,
        port: node.port,
        user: &conf.monitor_user,
        password: &conf.monitor_password,
        previous_password: &conf.monitor_previous_password,
        database,
        tls: &conf.tls,
    };
    let link = Link::open(login, CONNECT).await.map_err(|error| words(&error))?;
    // It may not be in force any more for most of the time that follows.
    drop(config);
    reread(instance, cluster, database, &link.client).await
}

async fn reread(
    instance: &Instance,
    cluster: usize,
    database: &str,
    client: &tokio_postgres::Client,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut last = None;
    loop {
        let lists = lists(&instance.config.load(), cluster, database);
        let fingerprint = (catalog::fingerprint(client).await?, lists.clone());
        if last.as_ref() != Some(&fingerprint) {
            let catalog = catalog::load(client, &lists.0, &lists.1).await?;
            publish(instance, cluster, database, catalog);
            tracing::debug!(database, "catalog read");
            last = Some(fingerprint);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The functions that the configuration names for a database of the servers, under all names that clients have for it.
fn lists(config: &Config, cluster: usize, database: &str) -> (Vec<String>, Vec<String>) {
    let pg = &config.postgres;
    let is_it =
        |entry: &&Database| entry.cluster == cluster && entry.dbname.as_deref().unwrap_or(&entry.name) == database;
    let mut names: Vec<&str> = pg.databases.iter().filter(is_it).map(|entry| &*entry.name).collect();
    let any_name = pg.database(database).filter(|found| found.cluster == cluster);
    if any_name.is_some_and(|found| found.entry.is_none_or(|entry| entry.name == "*" && entry.dbname.is_none())) {
        names.push(database);
    }
    let (mut read, mut write) = (Vec::new(), Vec::new());
    for name in names {
        let routing = pg.routing_for(name, "");
        read.extend(routing.read_functions);
        write.extend(routing.write_functions);
    }
    (read, write)
}

fn publish(instance: &Instance, cluster: usize, database: &str, catalog: Catalog) {
    instance.shared.catalogs.insert((cluster, database.to_owned()), Arc::new(catalog));
    instance.shared.statements.schema_changed(cluster, database);
    for worker in instance.workers() {
        let database = database.to_owned();
        worker.post(move |core| core.set_catalog(cluster, &database));
    }
}
