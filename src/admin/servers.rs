//! Questions to the PostgreSQL servers themselves, by the monitor's login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::config::model::{Cluster, Config, Node};
use crate::topology::link::{Link, Login, words};

/// Longest time for one server to take a connection and answer: an operator is waiting.
const LIMIT: Duration = Duration::from_secs(2);

/// Logs in to a node and asks. The connection ends with the answer.
///
/// # Errors
/// In the server's words, or that it did not answer in time.
pub(super) async fn ask<T>(
    cluster: &Cluster,
    node: &Node,
    question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, String> {
    let login = Login {
        host: &node.host,
        port: node.port,
        user: &cluster.monitor_user,
        password: &cluster.monitor_password,
        previous_password: &cluster.monitor_previous_password,
        database: &cluster.monitor_database,
        tls: &cluster.tls,
    };
    let asked = async { question(&Link::open(login, LIMIT).await?.client).await };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
}

/// Asks all nodes of all clusters that are `wanted` at once; the answers are by cluster and node.
pub(super) async fn ask_all<T: 'static>(
    config: &Arc<Config>,
    wanted: impl Fn(usize, usize) -> bool,
    question: impl AsyncFn(&Client) -> Result<T, tokio_postgres::Error> + Copy + 'static,
) -> BTreeMap<(usize, usize), Result<T, String>> {
    let mut asked = JoinSet::new();
    for (c, cluster) in config.postgres.clusters.iter().enumerate() {
        for n in (0..cluster.nodes.len()).filter(|n| wanted(c, *n)) {
            let config = Arc::clone(config);
            asked.spawn_local(async move {
                let cluster = config.postgres.clusters.get(c)?;
                let node = cluster.nodes.get(n)?;
                Some(((c, n), ask(cluster, node, question).await))
            });
        }
    }
    let mut answers = BTreeMap::new();
    while let Some(done) = asked.join_next().await {
        answers.extend(done.ok().flatten());
    }
    answers
}

/// Whether a database exists, as far as some node of the cluster can be asked.
pub(super) async fn has_database(cluster: &Cluster, nodes: &[usize], name: &str) -> Option<bool> {
    for node in nodes.iter().filter_map(|n| cluster.nodes.get(*n)) {
        let found = ask(cluster, node, async |client| {
            client.query_opt("select 1 from pg_catalog.pg_database where datname = $1", &[&name]).await
        });
        match found.await {
            Ok(row) => return Some(row.is_some()),
            Err(why) => tracing::debug!(node = node.name, why, "a node could not be asked for its databases"),
        }
    }
    None
}
