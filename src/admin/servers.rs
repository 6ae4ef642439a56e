//! Questions to the PostgreSQL servers themselves, by the monitor's login.

use std::time::Duration;

use tokio_postgres::Client;

use crate::config::model::{Cluster, Node};
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
        database: &cluster.monitor_database,
    };
    let asked = async { question(&Link::open(login, LIMIT).await?.client).await };
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(format!("no answer within {LIMIT:?}")),
    }
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
