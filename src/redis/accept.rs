//! New connections.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::client::Client;
use super::core::Core;
use super::errors::Trouble;
use super::place::send_home;
use super::session::Session;
use crate::guard::{Farewell, Introduced, Pass, Refused};
use crate::net::{Accepted, Listener, Stream};
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
        match listener.accept().await {
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
    let clients = service.totals.clients.fetch_add(1, Ordering::Relaxed);
    if clients >= service.config.borrow().max_clients {
        service.totals.clients.fetch_sub(1, Ordering::Relaxed);
        let mut reply = Vec::new();
        Trouble::TooManyClients.write(&mut reply);
        let core = Rc::clone(core);
        tokio::task::spawn_local(async move {
            let told = std::pin::pin!(stream.write_all(&reply));
            let _ = core.wheel.timeout(Some(FAREWELL), told).await;
        });
        return;
    }
    let now = now_ns();
    let login = service.anonymous();
    let client = Client::new(core.shared.next_id(), service, stream, login, SystemTime::now(), now);
    tracing::debug!(client_id = client.id, peer = %client.peer, service = %client.service.name, "client connected");
    if client.login.borrow().is_none() {
        client.pass.set(Some(pass));
    }
    let session = Session::new(Rc::clone(core), Rc::clone(&client));
    core.take_in(client, session);
}
