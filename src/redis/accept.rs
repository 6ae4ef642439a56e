//! New connections, with TLS or without, until a session begins.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::client::Client;
use super::core::Core;
use super::errors::Trouble;
use super::place::send_home;
use super::service::Service;
use super::session::Session;
use crate::config::model::ClientTls;
use crate::guard::{Failure, Farewell, Introduced, Pass, Refused};
use crate::net::tls::{HANDSHAKE, Tls};
use crate::net::{Accepted, Listener, Stream, Tcp};
use crate::worker::Elapsed;
use crate::worker::clock::now_ns;

/// How long a client that is not let in may take to hear why.
const FAREWELL: Duration = Duration::from_secs(5);

/// Accepts from one listener of a service until the process ends.
///
/// # Errors
/// The listener cannot be registered with this thread's event loop.
pub fn listen(core: &Rc<Core>, listener: Listener, service: String) -> std::io::Result<()> {
    let listener = listener.attach()?;
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move { accept_all(&core, &listener, &service).await });
    Ok(())
}

async fn accept_all(core: &Rc<Core>, listener: &Accepted, service: &str) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.threshold.left() => return,
        };
        match accepted {
            Ok(stream) => receive(core, stream, service),
            Err(e) => {
                // Out of file descriptors, usually: the connections that wait in the backlog are not lost.
                tracing::warn!(error = %e, "cannot accept a connection");
                core.wheel.sleep(Duration::from_millis(100)).await;
            }
        }
        if core.is_closing.get() {
            return;
        }
    }
}

/// A new connection, of which nothing has been read: who is refused costs no more than this.
fn receive(core: &Rc<Core>, stream: Stream, service: &str) {
    let (guard, peer) = (&core.shared.guard, stream.peer());
    if guard.expects_header(peer) {
        let (core, guard, service) = (Rc::clone(core), Arc::clone(guard), service.to_owned());
        tokio::task::spawn_local(async move {
            match Box::pin(guard.introduce(stream, &core.wheel)).await {
                Introduced::In(stream, pass) => greet(&core, stream, &service, pass),
                Introduced::Out(stream, refused) => turn_away(&core, stream, refused),
                Introduced::Gone => {}
            }
        });
        return;
    }
    match guard.admit(peer) {
        Ok(pass) => greet(core, stream, service, pass),
        Err(refused) => turn_away(core, stream, refused),
    }
}

/// Tells somebody who is refused why.
fn turn_away(core: &Rc<Core>, mut stream: Stream, refused: Refused) {
    let mut reply = Vec::new();
    Trouble::Refused(refused).write(&mut reply);
    let is_told = stream.try_write(&reply).is_ok();
    let Some(farewell) = core.shared.guard.farewell().filter(|_| is_told) else { return };
    let core = Rc::clone(core);
    tokio::task::spawn_local(async move {
        // What the client has sent already would take the reply with it, were the connection closed over it.
        let _ = core.wheel.timeout(Some(Farewell::PATIENCE), Box::pin(stream.close())).await;
        drop(farewell);
    });
}

/// A new connection: it goes to its home.
fn greet(core: &Rc<Core>, stream: Stream, service: &str, pass: Pass) {
    let home = core.home_for(service, &core.shared.totals(service));
    if home == core.id {
        admit(core, stream, service, pass);
    } else {
        send_home(core, stream, service.to_owned(), home, |core, stream, service| admit(core, stream, service, pass));
    }
}

fn admit(core: &Rc<Core>, stream: Stream, service: &str, pass: Pass) {
    // A reload may have taken it away; the listener goes with a restart.
    let Some(service) = core.service(service).filter(|_| !core.is_closing.get()) else { return };
    let tls = service.config.borrow().to_clients.clone();
    let clients = service.totals.clients.fetch_add(1, Ordering::Relaxed);
    if clients >= service.config.borrow().max_clients {
        service.totals.clients.fetch_sub(1, Ordering::Relaxed);
        // As with Redis itself, a handshake only to be sent away is not worth its price.
        if !tls.is_required() {
            let core = Rc::clone(core);
            tokio::task::spawn_local(async move {
                let mut reply = Vec::new();
                Trouble::TooManyClients.write(&mut reply);
                let told = std::pin::pin!(stream.write_all(&reply));
                let _ = core.wheel.timeout(Some(FAREWELL), told).await;
            });
        }
        return;
    }
    match (stream, tls.config().is_some()) {
        (Stream::Tcp(tcp), true) => {
            let core = Rc::clone(core);
            tokio::task::spawn_local(async move { meet(&core, service, tcp, tls, pass).await });
        }
        (stream, _) => settle(core, service, stream, pass),
    }
}

/// The session begins.
fn settle(core: &Rc<Core>, service: Rc<Service>, stream: Stream, pass: Pass) {
    let cipher = stream.cipher().map(tracing::field::display);
    let login = service.anonymous();
    let client = Client::new(core.shared.next_id(), service, stream, login, SystemTime::now(), now_ns());
    tracing::debug!(client_id = client.id, peer = %client.peer, service = %client.service.name, tls = cipher,
        "client connected");
    if client.login.borrow().is_none() {
        client.pass.set(Some(pass));
    }
    let session = Session::new(Rc::clone(core), Rc::clone(&client));
    core.take_in(client, session);
}

/// Tells a client in clear text that it has to speak TLS.
async fn ask_for_tls(core: &Rc<Core>, mut stream: Stream) {
    let mut reply = Vec::new();
    Trouble::NeedsTls.write(&mut reply);
    let told = async {
        stream.write_all(&reply).await?;
        // What it has sent already would take the reply with it, were the connection closed over it.
        stream.close().await
    };
    let _ = core.wheel.timeout(Some(FAREWELL), Box::pin(told)).await;
}

// === TLS ===

/// Why a client got no session.
enum Unmet {
    /// It left, or its socket failed, before it said anything.
    Left,
    /// It said nothing for `idle_timeout`.
    Idle,
    /// Its handshake took too long.
    Late,
    /// It speaks clear text, and has to speak TLS.
    Clear(Tcp),
    /// What was wrong with its handshake.
    Handshake(io::Error),
}

impl From<Elapsed> for Unmet {
    fn from(_: Elapsed) -> Self {
        Unmet::Late
    }
}

/// A client that may or must begin with TLS, until it is known what it does. It is counted already.
async fn meet(core: &Rc<Core>, service: Rc<Service>, tcp: Tcp, tls: ClientTls, pass: Pass) {
    let (peer, name) = (tcp.peer(), service.name.clone());
    let is_wanted = || !core.is_closing.get() && core.service(&name).is_some_and(|known| Rc::ptr_eq(&known, &service));
    let met = {
        let mut met = pin!(hear(core, &service, tcp, &tls));
        loop {
            if !is_wanted() {
                break None;
            }
            tokio::select! {
                met = &mut met => break Some(met),
                () = core.doors.notified() => {}
            }
        }
    };
    let unmet = match met {
        Some(Ok(stream)) if is_wanted() => return settle(core, service, stream, pass),
        Some(Err(unmet)) => unmet,
        Some(Ok(_)) | None => Unmet::Left,
    };
    match unmet {
        Unmet::Left => tracing::debug!(%peer, service = %name, "a connection ended before its first request"),
        Unmet::Idle => tracing::info!(%peer, service = %name, "closed: idle_timeout"),
        Unmet::Late => {
            tracing::info!(%peer, service = %name, "a client did not finish its TLS handshake within client_tls.timeout");
        }
        Unmet::Handshake(e) => {
            tracing::warn!(%peer, service = %name, error = %e, "a TLS handshake failed");
            if let Some(failure) = Failure::of_handshake(&e) {
                core.shared.guard.note_failure(peer, failure);
            }
        }
        Unmet::Clear(tcp) => {
            tracing::warn!(%peer, service = %name, "a client was refused: it speaks clear text, client_tls.mode asks for TLS");
            ask_for_tls(core, Stream::Tcp(tcp)).await;
        }
    }
    service.totals.clients.fetch_sub(1, Ordering::Relaxed);
}

/// The client's connection, as its first byte wants it.
async fn hear(core: &Rc<Core>, service: &Service, tcp: Tcp, tls: &ClientTls) -> Result<Stream, Unmet> {
    let (limit, idle) = {
        let config = service.config.borrow();
        (config.client_tls_timeout, config.idle_timeout)
    };
    if tls.is_required() {
        return core.wheel.timeout(Some(limit), shake_hands(tcp, tls)).await?;
    }
    // Until it says something, it may as well be a client in clear text, which may stay silent.
    match core.wheel.timeout(idle, first_byte(&tcp)).await.map_err(|_| Unmet::Idle)?? {
        HANDSHAKE => core.wheel.timeout(Some(limit), shake_hands(tcp, tls)).await?,
        _ => Ok(Stream::Tcp(tcp)),
    }
}

/// Looks at what comes first, and leaves it there.
async fn first_byte(tcp: &Tcp) -> Result<u8, Unmet> {
    let mut first = [0; 1];
    match tcp.peek(&mut first).await {
        Ok(1..) => Ok(first[0]),
        Ok(0) | Err(_) => Err(Unmet::Left),
    }
}

async fn shake_hands(tcp: Tcp, tls: &ClientTls) -> Result<Stream, Unmet> {
    match (first_byte(&tcp).await?, tls.config()) {
        (HANDSHAKE, Some(config)) => {
            let done = Tls::accept(tcp, Arc::clone(config), None, Vec::new()).await;
            done.map(|tls| Stream::Tls(Box::new(tls))).map_err(Unmet::Handshake)
        }
        _ => Err(Unmet::Clear(tcp)),
    }
}
