//! New connections.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::client::Client;
use super::core::Core;
use super::errors::Trouble;
use super::session::Session;
use crate::net::{Accepted, Listener, Stream};
use crate::worker::clock::now_ns;

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
            Ok(stream) => greet(core, stream, service),
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

fn greet(core: &Rc<Core>, stream: Stream, service: &str) {
    // A reload may have taken it away; the listener goes with a restart.
    let Some(service) = core.service(service).filter(|_| !core.is_closing.get()) else { return };
    let clients = service.totals.clients.fetch_add(1, Ordering::Relaxed);
    if clients >= service.config.borrow().max_clients {
        service.totals.clients.fetch_sub(1, Ordering::Relaxed);
        let mut reply = Vec::new();
        Trouble::TooManyClients.write(&mut reply);
        // A new socket takes so few bytes.
        let _ = stream.try_write(&reply);
        return;
    }
    let now = now_ns();
    let login = service.anonymous();
    let client = Client::new(core.shared.next_id(), service, stream, login, now);
    core.clients.borrow_mut().insert(client.id, Rc::clone(&client));
    tracing::debug!(client_id = client.id, peer = %client.peer, service = %client.service.name, "client connected");
    tokio::task::spawn_local(Box::new(Session::new(Rc::clone(core), client)).run());
}
