//! HTTP: the status page, metrics, readiness, the views as JSON and as HAProxy's CSV, and one admin statement at a time.
//! On the control thread, where a request costs a look or two at every data thread at most.
//!
//! Everything a client can make us keep is bounded: [`MOST_CONNECTIONS`] connections, heads of [`LONGEST_HEAD`], bodies of
//! [`LONGEST_BODY`], and [`PATIENCE`] for whoever neither sends nor takes anything.

mod access;
mod answer;
mod haproxy;
mod health;
mod history;
mod io;
mod json;
mod page;
pub(super) mod probe;
mod routes;

use std::cell::Cell;
use std::io as std_io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use self::access::Remembered;
use self::history::{Past, SharedPast};
use self::io::Watched;
use crate::config::model::DEFAULT_HTTP;
use crate::net::tls::Tls;
use crate::net::{Endpoint, Stream};
use crate::ops::Instance;
use crate::worker::clock::now_ns;

/// Connections at a time over all listeners; one more is closed at once.
const MOST_CONNECTIONS: usize = 256;
/// Bytes of a request's line and headers.
const LONGEST_HEAD: usize = 32 * 1024;
/// Bytes of a request's body: one statement.
const LONGEST_BODY: usize = 64 * 1024;
/// For a client to send the next part of a request, or to take the next part of an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two tries to get the default's port.
const RETRY: Duration = Duration::from_secs(5);

/// Binds the HTTP listeners and serves them for as long as the process runs. Must be called on the control thread.
///
/// # Errors
/// A configured address cannot be had. That the default is taken is no error: it was not asked for, and another instance
/// on the same machine has it by the same default; it is warned of, and tried again.
pub fn start(instance: &Arc<Instance>) -> std_io::Result<()> {
    let config = instance.config.load_full();
    let connections = Rc::new(Cell::new(0));
    let past = Past::new();
    if !config.admin.listen.is_empty() {
        tokio::task::spawn_local(history::keep(Arc::clone(instance), Rc::clone(&past)));
    }
    for address in &config.admin.listen {
        let named =
            |e: std_io::Error| std_io::Error::new(e.kind(), format!("admin.listen: cannot listen on {address}: {e}"));
        let door =
            Door { instance: Arc::clone(instance), past: Rc::clone(&past), connections: Rc::clone(&connections) };
        match listen(instance, *address).map_err(named) {
            Ok(listener) => {
                tracing::info!(listen = %address, tls = config.admin.tls_cert.is_some(), "serving HTTP");
                tokio::task::spawn_local(door.keep(listener));
            }
            Err(e) if e.kind() == std_io::ErrorKind::AddrInUse && config.admin.listen == [DEFAULT_HTTP] => {
                tracing::warn!(
                    "{e}; no status page and no metrics until it is free: give this instance an admin.listen of its own"
                );
                tokio::task::spawn_local(door.wait_for(*address));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn listen(instance: &Instance, address: SocketAddr) -> std_io::Result<TcpListener> {
    TcpListener::from_std(instance.sockets.bind_alone(address, || bind(address))?)
}

fn bind(address: SocketAddr) -> std_io::Result<std::net::TcpListener> {
    // The standard library sets SO_REUSEADDR, without which a restart would wait for old connections; never
    // SO_REUSEPORT, with which two instances would share the address.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What all connections share.
#[derive(Clone)]
struct Door {
    instance: Arc<Instance>,
    past: SharedPast,
    connections: Rc<Cell<usize>>,
}

impl Door {
    async fn wait_for(self, address: SocketAddr) {
        loop {
            tokio::time::sleep(RETRY).await;
            if self.instance.sockets.is_handed_on() {
                // Another process waits for it now.
                return;
            }
            if let Ok(listener) = listen(&self.instance, address) {
                tracing::info!(listen = %address, "serving HTTP");
                return self.keep(listener).await;
            }
        }
    }

    async fn keep(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.instance.handed_over() => return,
            };
            match accepted {
                Ok((tcp, _)) => {
                    if self.connections.get() < MOST_CONNECTIONS {
                        let place = Place::take(&self.connections);
                        let (instance, past) = (Arc::clone(&self.instance), Rc::clone(&self.past));
                        tokio::task::spawn_local(async move {
                            serve(instance, past, tcp).await;
                            drop(place);
                        });
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "an HTTP connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// One of [`MOST_CONNECTIONS`].
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Place(Rc::clone(count))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// What a request's connection says of who asks.
struct Connection {
    instance: Arc<Instance>,
    past: SharedPast,
    peer: Endpoint,
    is_encrypted: bool,
    /// The credentials that were right the last time: checking them can take milliseconds.
    remembered: Remembered,
    /// Requests that are being answered, which may take long (`PAUSE`).
    busy: Cell<usize>,
}

/// One connection, to its end.
async fn serve(instance: Arc<Instance>, past: SharedPast, tcp: TcpStream) {
    let _ = tcp.set_nodelay(true);
    let stream = Stream::Tcp(tcp.into());
    let peer = stream.peer();
    if let Err(refused) = instance.shared.guard.recheck(peer) {
        tracing::debug!(%peer, why = %refused, "an HTTP client was refused");
        return;
    }
    let tls = instance.admin_tls.load_full();
    let is_encrypted = tls.is_some();
    let stream = match (stream, tls) {
        (Stream::Tcp(tcp), Some(config)) => {
            let shaken = tokio::time::timeout(HANDSHAKE, Tls::accept(tcp, config, None, Vec::new())).await;
            match shaken {
                Ok(Ok(tls)) => Stream::Tls(Box::new(tls)),
                Ok(Err(e)) => return tracing::debug!(%peer, error = %e, "an HTTP client's handshake failed"),
                Err(_) => return tracing::debug!(%peer, "an HTTP client's handshake took too long"),
            }
        }
        (stream, _) => stream,
    };
    let of = Arc::clone(&instance);
    let connection = Rc::new(Connection {
        instance,
        past,
        peer,
        is_encrypted,
        remembered: Remembered::default(),
        busy: Cell::new(0),
    });
    let moved = Rc::new(Cell::new(now_ns()));
    let served = {
        let connection = Rc::clone(&connection);
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(
                TokioIo::new(Watched::new(stream, Rc::clone(&moved))),
                service_fn(move |request| {
                    let connection = Rc::clone(&connection);
                    async move {
                        connection.busy.set(connection.busy.get() + 1);
                        let answer = routes::answer(&connection, request).await;
                        connection.busy.set(connection.busy.get() - 1);
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                }),
            )
    };
    tokio::pin!(served);
    let mut is_last = false;
    loop {
        tokio::select! {
            // Whoever keeps the connection open has to find the process that has taken over.
            () = of.handed_over(), if !is_last => {
                is_last = true;
                served.as_mut().graceful_shutdown();
            }
            ended = &mut served => {
                if let Err(e) = ended {
                    tracing::debug!(%peer, error = %e, "an HTTP connection was lost");
                }
                return;
            }
            () = tokio::time::sleep(PATIENCE / 4) => {
                let idle = Duration::from_nanos(now_ns().saturating_sub(moved.get()));
                if connection.busy.get() == 0 && idle > PATIENCE {
                    return tracing::debug!(%peer, "an HTTP client did not take its answer");
                }
            }
        }
    }
}
