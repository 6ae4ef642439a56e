//! CancelRequest: from a client to the right server connection, and never to a later query of somebody else.
//!
//! While a cancel is on its way to a server, its connection is counted as `being_canceled` and is not given to anybody
//! else: PostgreSQL ignores a cancel that reaches an idle session, and closes the cancel's own connection only after
//! the signal was sent, so the end of that connection is the proof that no cancel can hit a later statement.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::backend::Backend;
use super::core::Core;
use super::pool::PgPool;
use super::registry::{Client, ClientState, Order, Server, ServerState};
use crate::net::dial;
use crate::wire::pg::build;

/// Longest time for a server to take a cancel.
const LIMIT: Duration = Duration::from_secs(10);

/// Cancels what a client is doing now: its query on the server, or its place in the queue.
pub fn cancel_client(core: &Rc<Core>, client: &Rc<Client>) {
    match client.state.get() {
        ClientState::Waiting => client.tell(Order::CancelWait),
        ClientState::Active => {
            let servers = core.servers.borrow();
            if let Some(server) = servers.values().find(|server| server.client.get() == client.id) {
                send(core, server);
            }
        }
        ClientState::Idle => {}
    }
}

/// Sends a cancel to a server connection's process.
pub(super) fn send(core: &Rc<Core>, server: &Rc<Server>) {
    server.cancels.update(|n| n + 1);
    let (wheel, server) = (Rc::clone(&core.wheel), Rc::clone(server));
    tokio::task::spawn_local(async move {
        let sent = wheel.timeout(Some(LIMIT), deliver(&server)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::warn!(server_id = server.id, host = %server.target.host, port = server.target.port, ?sent,
                "a cancel request could not be delivered");
        }
        server.cancels.update(|n| n - 1);
        if let Some(waker) = server.cancelled.borrow_mut().take() {
            waker.wake();
        }
    });
}

async fn deliver(server: &Server) -> std::io::Result<()> {
    let mut stream = dial(&server.target).await?;
    let mut request = Vec::new();
    build::cancel_request(&mut request, server.process_id, &server.secret);
    stream.write_all(&request).await?;
    // The server answers nothing: its closing says that the signal was sent.
    let mut nothing = [0; 16];
    while stream.read(&mut nothing).await.is_ok_and(|n| n > 0) {}
    Ok(())
}

/// Waits until no cancel is on its way to this connection. Cancel-safe.
pub async fn settled(server: &Server) {
    poll_fn(|cx| {
        if server.cancels.get() == 0 {
            return Poll::Ready(());
        }
        *server.cancelled.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// The client of a running query is gone: the query is cancelled, and the connection closed rather than drained,
/// since how much of an answer is still to come is not known.
pub fn cancel_and_close(core: &Rc<Core>, pool: &Rc<PgPool>, backend: Box<Backend>) {
    if backend.track.has_statement() {
        backend.entry.state.set(ServerState::BeingCanceled);
        send(core, &backend.entry);
    }
    let (core, pool) = (Rc::clone(core), Rc::clone(pool));
    tokio::task::spawn_local(async move {
        settled(&backend.entry).await;
        core.close(&pool, backend);
        core.open_wanted(&pool);
    });
}
