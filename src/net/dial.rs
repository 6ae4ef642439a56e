//! Opening a connection to a server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};

use super::Stream;
use super::tls::Tls;
use crate::config::model::ServerTls;

/// Where a PostgreSQL server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name, address, or the directory of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, also part of a Unix socket's name.
    pub port: u16,
}

/// Connects. The caller bounds the time; dropping the future gives up.
///
/// # Errors
/// Whatever the last address tried answered, or that the name has no address.
pub async fn dial(target: &Target) -> io::Result<Stream> {
    if target.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", target.host, target.port);
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address for {}", target.host));
    for addr in tokio::net::lookup_host((target.host.as_str(), target.port)).await? {
        match TcpStream::connect(addr).await {
            Ok(stream) => {
                set_options(&stream)?;
                return Ok(Stream::Tcp(stream.into()));
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Connects to a server that speaks TLS from the first byte on, if its connections are to use that. The caller bounds the
/// time; dropping the future gives up.
///
/// # Errors
/// As [`dial`]; what was wrong with the handshake, in words.
pub async fn dial_encrypted(target: &Target, tls: &ServerTls) -> io::Result<Stream> {
    match (dial(target).await?, tls.config()) {
        (Stream::Tcp(tcp), Some(config)) => {
            let name = name_of(&target.host)?;
            Ok(Stream::Tls(Box::new(Tls::connect(tcp, Arc::clone(config), name).await?)))
        }
        (stream, _) => Ok(stream),
    }
}

/// What the certificate of a server has to be made out to, where that is looked at.
///
/// # Errors
/// No certificate could be.
pub fn name_of(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("\"{host}\" is no name for a certificate: {e}"))
    })
}

/// Options of every TCP connection of ours: no Nagle delay, and a dead peer is noticed within about a minute.
pub(super) fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
