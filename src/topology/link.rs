//! Forebay's own connections to nodes: of the monitor, of the console's checks, for the catalogs. Never a client's.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, NoTls, Row};

use super::lsn::Lsn;
use crate::config::model::Secret;

/// Where to connect, and as whom.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Login<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    /// Empty for none.
    pub password: &'a Secret,
    pub database: &'a str,
}

/// An open connection; it closes when this is dropped, even while an answer is awaited.
#[derive(Debug)]
pub struct Link {
    /// For queries.
    pub client: Client,
    driver: AbortHandle,
}

impl Link {
    /// Logs in. `timeout` bounds each attempt to connect, not the login: that is the caller's to do.
    ///
    /// # Errors
    /// See [`words`]. Cancel safe.
    pub async fn open(login: Login<'_>, timeout: Duration) -> Result<Self, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(login.host)
            .port(login.port)
            .user(login.user)
            .dbname(login.database)
            .application_name("forebay")
            .connect_timeout(timeout);
        if !login.password.0.is_empty() {
            config.password(&login.password.0);
        }
        let (client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer is told as well.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of Forebay's own ended");
            }
        });
        Ok(Self { client, driver: driver.abort_handle() })
    }
}

/// Where a kept connection to a node can be found by others: a server whose connections are all taken accepts no new one.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Weak<Link>>>);

impl Kept {
    /// This one is kept from now on.
    pub fn set(&self, link: &Arc<Link>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(link);
    }

    /// The one that is kept, if it is open.
    pub fn get(&self) -> Option<Arc<Link>> {
        let link = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        (!link.client.is_closed()).then_some(link)
    }
}

/// Says nothing about where it leads.
impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A column of type `pg_lsn`.
///
/// # Errors
/// There is no such column, or it is of another type.
pub fn position(row: &Row, column: impl RowIndex + Display) -> Result<Option<Lsn>, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<PgLsn>>(column)?.map(|lsn| Lsn(lsn.into())))
}

/// The server's own words, or the system's: tokio-postgres says only "db error" or "error connecting to server".
pub fn words(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => db.message().to_owned(),
        (None, Some(source)) => source.to_string(),
        (None, None) => error.to_string(),
    }
}
