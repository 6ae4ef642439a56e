//! CancelRequest: from a client to the right server connection, and never to a later query of somebody else.
//!
//! While a cancel is on its way to a server, its connection is counted as `being_canceled` and is not given to anybody
//! else: PostgreSQL ignores a cancel that reaches an idle session, and closes the cancel's own connection only after
//! the signal was sent, so the end of that connection is the proof that no cancel can hit a later statement. For the same
//! reason the client's own connection for the cancel is closed only then: it may send its next statement at once.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::backend::Backend;
use super::connect::dial_securely;
use super::core::Core;
use super::pool::PgPool;
use super::registry::{Client, ClientState, Order, Server, ServerState};
use crate::config::model::ServerTls;
use crate::wire::pg::build;

/// Longest time for a server to take a cancel.
const LIMIT: Duration = Duration::from_secs(10);

/// Whoever waits for the other end of it is told by its end that a cancel cannot hit anything any more.
pub type Done = oneshot::Sender<()>;

/// Cancels what a client is doing now: its query on the server, or its place in the queue.
pub fn cancel_client(core: &Rc<Core>, client: &Rc<Client>, done: Done) {
    match client.state.get() {
        ClientState::Waiting => client.tell(Order::CancelWait),
        ClientState::Active => {
            let servers = core.servers.borrow();
            if let Some(server) = servers.values().find(|server| server.client.get() == client.id) {
                send(core, server, Some(done));
            }
        }
        ClientState::Idle => {}
    }
}

/// Sends a cancel to a server connection's process.
pub(super) fn send(core: &Rc<Core>, server: &Rc<Server>, done: Option<Done>) {
    server.cancels.update(|n| n + 1);
    let (wheel, server) = (Rc::clone(&core.wheel), Rc::clone(server));
    let tls = core.pool_of(&server).map(|pool| core.tls_of(&pool)).unwrap_or_default();
    tokio::task::spawn_local(async move {
        let sent = wheel.timeout(Some(LIMIT), deliver(&server, &tls)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::warn!(server_id = server.id, host = %server.target.host, port = server.target.port, ?sent,
                "a cancel request could not be delivered");
        }
        server.cancels.update(|n| n - 1);
        if let Some(waker) = server.cancelled.borrow_mut().take() {
            waker.wake();
        }
        drop(done);
    });
}

async fn deliver(server: &Server, tls: &ServerTls) -> std::io::Result<()> {
    let mut stream = dial_securely(&server.target, tls).await?;
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
        send(core, &backend.entry, None);
    }
    let (core, pool) = (Rc::clone(core), Rc::clone(pool));
    tokio::task::spawn_local(async move {
        settled(&backend.entry).await;
        core.close(&pool, backend);
        core.open_wanted(&pool);
    });
}
