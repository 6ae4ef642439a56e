//! Who is at the admin console: seen by the views, reached by `KILL_CLIENT` and by cancel requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::report::ClientReport;
use super::stats::Totals;
use crate::wire::pg::cancel_key::CancelKey;
use crate::wire::pg::startup::Cancel;

/// Sessions of the console. Locked for moments only, by any thread.
#[derive(Debug, Default)]
pub struct Consoles(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Connections that have not logged in yet.
    arriving: usize,
    sessions: BTreeMap<u64, (ClientReport, Bells)>,
    keys: BTreeMap<u64, CancelKey>,
    totals: Totals,
}

/// How others reach a session.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    /// The session has to end.
    pub end: Arc<Notify>,
    /// What it runs now has to end.
    pub cancel: Arc<Notify>,
}

impl Consoles {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection wants to log in; false if `most` are at it already. [`Consoles::arrived`] must follow a true.
    pub fn arrive(&self, most: usize) -> bool {
        let mut book = self.book();
        let may = book.arriving < most;
        book.arriving += usize::from(may);
        may
    }

    /// A connection has logged in, or has failed to.
    pub fn arrived(&self) {
        self.book().arriving -= 1;
    }

    /// A session begins, unless there are `most` already.
    pub fn enter(&self, client: ClientReport, key: CancelKey, most: usize) -> Option<Bells> {
        let mut book = self.book();
        if book.sessions.len() >= most {
            return None;
        }
        let bells = Bells::default();
        book.totals.logins += 1;
        book.keys.insert(client.id, key);
        book.sessions.insert(client.id, (client, bells.clone()));
        Some(bells)
    }

    /// A session is over.
    pub fn leave(&self, id: u64) {
        let mut book = self.book();
        book.keys.remove(&id);
        book.sessions.remove(&id);
    }

    /// Changes what the views show of a session, and counts what it did.
    pub fn update(&self, id: u64, change: impl FnOnce(&mut ClientReport, &mut Totals)) {
        let mut book = self.book();
        let Book { sessions, totals, .. } = &mut *book;
        if let Some((client, _)) = sessions.get_mut(&id) {
            change(client, totals);
        }
    }

    /// Tells every session to end once it has answered.
    pub fn end_all(&self) {
        self.book().sessions.values().for_each(|(_, bells)| bells.end.notify_one());
    }

    /// Tells a session to end; false if there is none with this id.
    pub fn end(&self, id: u64) -> bool {
        let book = self.book();
        let found = book.sessions.get(&id);
        found.inspect(|(_, bells)| bells.end.notify_one()).is_some()
    }

    /// Ends what a session runs now, if the request shows its key. Nothing is kept for a session that runs nothing.
    pub fn cancel(&self, id: u64, request: &Cancel) {
        let book = self.book();
        let is_allowed = book.keys.get(&id).is_some_and(|key| key.allows(request.process_id, &request.secret));
        if let Some((_, bells)) = book.sessions.get(&id).filter(|_| is_allowed) {
            bells.cancel.notify_waiters();
        }
    }

    /// Every session, and the counters since the start.
    pub fn report(&self) -> (Vec<ClientReport>, Totals) {
        let book = self.book();
        (book.sessions.values().map(|(client, _)| client.clone()).collect(), book.totals.clone())
    }
}
