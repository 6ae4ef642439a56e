//! `forebay health`: what a container's health check runs, so that its image needs no other program.

use std::time::Duration;

use crate::config::model::Config;
use crate::config::model::ServerTls;
use crate::net::credentials;
use crate::net::{Target, dial_encrypted};

/// For the whole exchange.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are looked at.
const LONGEST: usize = 16 * 1024;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`
    Healthy,
    /// `/readyz`
    Ready,
}

/// Asks the instance that runs with this configuration on this machine; the answer is its own text.
///
/// # Errors
/// Its answer if that is no, or why there is none.
pub async fn probe(config: &Config, what: Probe) -> Result<String, String> {
    let Some(address) = config.admin.listen.first() else {
        return Err("admin.listen is empty: there is nobody to ask".to_owned());
    };
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => "::1".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ip => ip.to_string(),
    };
    let tls = match config.admin.tls_cert {
        Some(_) => credentials::for_this_machine()?,
        None => ServerTls::default(),
    };
    let path = match what {
        Probe::Healthy => "/healthz",
        Probe::Ready => "/readyz",
    };
    let target = Target { host, port: address.port() };
    let exchange = async {
        let mut stream = dial_encrypted(&target, &tls).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while answer.len() < LONGEST {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(format!("no answer at {address}: {e}")),
        Err(_) => return Err(format!("no answer at {address} within {PATIENCE:?}")),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(_) => Err(body.to_owned()),
        None => Err(format!("{address} does not speak HTTP")),
    }
}
