//! CLIENT UNBLOCK: the server ends the command itself. It alone knows whether an element has come for it already, and the
//! connection stays, with all that is watched, tracked or listened to on it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::clients::{Asked, ask_once};
use super::core::Core;
use super::request::Taken;
use super::service::Service;
use super::session::Session;
use crate::wire::resp::{build, encode};

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// [`super::client::Client::waits_on`]
type Place = Option<(u64, u64)>;

impl Session {
    /// Ends the blocking command of the client with this number.
    pub(super) fn unblock_client(&mut self, id: u64, by_error: bool) -> Taken {
        if let Some(wait) = self.before_answer() {
            return Taken::Wait(wait);
        }
        let slot = Rc::new(RefCell::new(None));
        let (core, service, client) = (Rc::clone(&self.core), Rc::clone(&self.service), Rc::clone(&self.client));
        let made = Rc::clone(&slot);
        tokio::task::spawn_local(async move {
            let is_done = unblock(&core, &service, id, by_error).await;
            let mut reply = Vec::new();
            build::integer(&mut reply, i64::from(is_done));
            *made.borrow_mut() = Some(reply);
            client.wake();
        });
        self.asked = Asked::Task(slot);
        self.lane = None;
        Taken::Done
    }
}

/// Answers whether the client was blocked.
async fn unblock(core: &Rc<Core>, service: &Rc<Service>, id: u64, by_error: bool) -> bool {
    for worker in core.shared.workers() {
        let name = service.name.clone();
        let Some(Some(place)) = worker.ask(move |core| begin(core, &name, id)).await else { continue };
        let answer = ask_server(core, service, place, by_error).await;
        worker.ask(move |core| end(core, id, answer.is_none().then_some(by_error))).await;
        return answer.unwrap_or(true);
    }
    false
}

/// On the client's thread: where it is blocked, if it is. From now on its connection serves nothing else.
fn begin(core: &Rc<Core>, service: &str, id: u64) -> Option<Place> {
    let client = core.clients.borrow().get(&id).cloned()?;
    let is_meant = client.service.name == service && client.mode.get().is_blocked;
    is_meant.then(|| {
        client.unblocking.update(|count| count + 1);
        client.waits_on.get()
    })
}

/// The server has ended the command, or could not be asked: then the client has to, `by_error` or not.
fn end(core: &Rc<Core>, id: u64, by_error: Option<bool>) {
    let Some(client) = core.clients.borrow().get(&id).cloned() else { return };
    client.unblocking.update(|count| count.saturating_sub(1));
    if by_error.is_some() {
        client.unblock.set(by_error);
    }
    client.wake();
}

/// Whether the server had something to end; `None`: it could not be asked.
async fn ask_server(core: &Rc<Core>, service: &Rc<Service>, place: Place, by_error: bool) -> Option<bool> {
    let ((node, number), (primary, wanted)) = (place?, service.control_wanted().ok()?);
    if primary != node {
        return None;
    }
    let asked = async {
        let mut request = Vec::new();
        let how = if by_error { "ERROR" } else { "TIMEOUT" };
        encode(&mut request, &["CLIENT", "UNBLOCK", &number.to_string(), how]);
        match ask_once(core, &wanted, &request).await.ok()?.as_slice() {
            b":1\r\n" => Some(true),
            b":0\r\n" => Some(false),
            _ => None,
        }
    };
    core.wheel.timeout(Some(PATIENCE), Box::pin(asked)).await.ok().flatten()
}
