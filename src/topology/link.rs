//! Forebay's own connections to nodes: of the monitor, of the console's checks, for the catalogs. Never a client's.

use std::fmt::Display;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::row::RowIndex;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Notification, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::lsn::Lsn;
use crate::config::model::{Secret, ServerTls};

/// Where to connect, and as whom.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Login<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    /// Empty for none.
    pub password: &'a Secret,
    /// Tried if the server does not take the other one; empty for none.
    pub previous_password: &'a Secret,
    pub database: &'a str,
    pub tls: &'a ServerTls,
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
        match Self::open_with(login, login.password, timeout).await {
            Err(error) if login.has_other(&error) => Self::open_with(login, login.previous_password, timeout).await,
            done => done,
        }
    }

    async fn open_with(login: Login<'_>, password: &Secret, timeout: Duration) -> Result<Self, tokio_postgres::Error> {
        let config = login.config(password, timeout);
        let (client, driver) = match login.tls.config() {
            Some(tls) => {
                let (client, connection) = config.connect(MakeRustlsConnect::new(ClientConfig::clone(tls))).await?;
                (client, tokio::spawn(drive(connection)))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection)))
            }
        };
        Ok(Self { client, driver: driver.abort_handle() })
    }

    /// As [`Link::open`], for one that listens: `heard` is told of each notification before any answer that the server
    /// gave after it. The receiver resolves when the connection has ended.
    ///
    /// # Errors
    /// See [`words`]. Cancel safe.
    pub async fn open_listening(
        login: Login<'_>,
        timeout: Duration,
        heard: impl FnMut(Notification) + Clone + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<()>), tokio_postgres::Error> {
        match Self::open_listening_with(login, login.password, timeout, heard.clone()).await {
            Err(error) if login.has_other(&error) => {
                Self::open_listening_with(login, login.previous_password, timeout, heard).await
            }
            done => done,
        }
    }

    async fn open_listening_with(
        login: Login<'_>,
        password: &Secret,
        timeout: Duration,
        heard: impl FnMut(Notification) + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<()>), tokio_postgres::Error> {
        let mut config = login.config(password, timeout);
        // Nothing else tells that the other side is gone while nobody notifies.
        config.keepalives_idle(timeout).keepalives_interval(timeout).keepalives_retries(3);
        let (ends, ended) = oneshot::channel();
        let (client, driver) = match login.tls.config() {
            Some(tls) => {
                let (client, connection) = config.connect(MakeRustlsConnect::new(ClientConfig::clone(tls))).await?;
                (client, tokio::spawn(drive_and_hear(connection, heard, ends)))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                (client, tokio::spawn(drive_and_hear(connection, heard, ends)))
            }
        };
        Ok((Self { client, driver: driver.abort_handle() }, ended))
    }
}

async fn drive<T>(connection: Connection<Socket, T>)
where
    T: TlsStream + Unpin,
{
    // Whoever waits for an answer is told as well.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of Forebay's own ended");
    }
}

async fn drive_and_hear<T>(
    mut connection: Connection<Socket, T>,
    mut heard: impl FnMut(Notification),
    ends: oneshot::Sender<()>,
) where
    T: TlsStream + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(notification) = message {
            heard(notification);
        }
    }
    drop(ends);
}

impl Login<'_> {
    /// There is another password, and this one was wrong.
    fn has_other(&self, error: &tokio_postgres::Error) -> bool {
        !self.previous_password.0.is_empty() && error.code() == Some(&SqlState::INVALID_PASSWORD)
    }

    fn config(&self, password: &Secret, timeout: Duration) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(self.host)
            .port(self.port)
            .user(self.user)
            .dbname(self.database)
            .application_name("forebay")
            .connect_timeout(timeout)
            .ssl_mode(match (self.tls.config(), self.tls.is_required()) {
                (None, _) => SslMode::Disable,
                (Some(_), false) => SslMode::Prefer,
                (Some(_), true) => SslMode::Require,
            });
        if self.tls.must_bind() {
            config.channel_binding(ChannelBinding::Require);
        }
        if !password.0.is_empty() {
            config.password(&password.0);
        }
        config
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
