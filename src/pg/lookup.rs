//! What is known of logins that the configuration does not name: what PostgreSQL itself said of them
//! (`postgres.auth_query`), kept for a while, and the passwords by which clients came in, where a directory has found them
//! right.

use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::wire::pg::auth::Credential;

/// Logins that are remembered, for all clusters: anybody can ask for names that do not exist.
const MOST: usize = 10_000;
/// A name that nobody has is asked for again after this time at the latest.
const NOBODY: Duration = Duration::from_secs(5);
/// After a failed login a verifier of this age is looked up again: the password may have been changed.
const YOUNG: Duration = Duration::from_secs(1);

/// A login that is to be looked up.
#[derive(Debug)]
pub struct Ask {
    /// The cluster's name.
    pub cluster: String,
    /// As the client named it.
    pub user: String,
    /// An answer that was learned since then will do.
    pub since: Instant,
    /// Told once [`Logins`] knows; or why that cannot be.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// What was found of a login.
#[derive(Debug, Clone)]
pub struct Found {
    /// `None`: nobody has that name, or cannot log in with a password.
    credential: Option<Credential>,
    valid_until: Option<SystemTime>,
    at: Instant,
    /// It has to be asked again whatever its age.
    is_doubtful: bool,
}

impl Found {
    /// A login, with the end of its password if it has one.
    pub fn new(credential: Option<Credential>, valid_until: Option<SystemTime>) -> Self {
        Found { credential, valid_until, at: Instant::now(), is_doubtful: false }
    }

    /// Nobody has that name.
    pub fn nobody() -> Self {
        Self::new(None, None)
    }

    fn is_fresh(&self, limit: Duration) -> bool {
        let limit = if self.credential.is_some() { limit } else { limit.min(NOBODY) };
        !self.is_doubtful && self.at.elapsed() < limit
    }
}

/// See the module; by cluster and login.
#[derive(Debug, Default)]
pub struct Logins {
    found: DashMap<(String, String), Found>,
    /// Only of users whom a directory knows: they do not fill the memory.
    given: DashMap<(String, String), Credential>,
}

impl Logins {
    /// What a client can prove the login by, as far as that is known and not older than `limit`; nothing if the
    /// password is past its end (`VALID UNTIL`).
    pub fn known(&self, cluster: &str, user: &str, limit: Duration) -> Option<Option<Credential>> {
        let found = self.found.get(&(cluster.to_owned(), user.to_owned()))?;
        let is_over = found.valid_until.is_some_and(|until| until <= SystemTime::now());
        found.is_fresh(limit).then(|| found.credential.clone().filter(|_| !is_over))
    }

    /// What was known last, for logins at servers: these see for themselves whether it still holds.
    pub fn last(&self, cluster: &str, user: &str) -> Option<Credential> {
        self.found.get(&(cluster.to_owned(), user.to_owned()))?.credential.clone()
    }

    /// A directory has found this password right, in clear text: it is tried at the servers as well.
    pub fn take_given(&self, cluster: &str, user: &str, password: Zeroizing<String>) {
        self.given.insert((cluster.to_owned(), user.to_owned()), Credential::Clear(password));
    }

    /// See [`Logins::take_given`]; the last one.
    pub fn given(&self, cluster: &str, user: &str) -> Option<Credential> {
        self.given.get(&(cluster.to_owned(), user.to_owned())).map(|given| given.clone())
    }

    /// All of them, by cluster and login, for a process that follows this one.
    pub fn all_given(&self) -> Vec<(String, String, Credential)> {
        let one = |entry: dashmap::mapref::multiple::RefMulti<'_, (String, String), Credential>| {
            let (cluster, user) = entry.key().clone();
            (cluster, user, entry.value().clone())
        };
        self.given.iter().map(one).collect()
    }

    /// Those of users who are not `here` are forgotten.
    pub fn forget_given(&self, is_here: impl Fn(&str) -> bool) {
        self.given.retain(|(_, user), _| is_here(user));
    }

    /// Every login that is known to exist, by cluster and name, for a process that follows this one.
    pub fn all(&self) -> Vec<(String, String, Credential, Option<SystemTime>)> {
        let exists = |found: &Found| Some((found.credential.clone()?, found.valid_until));
        let one = |entry: dashmap::mapref::multiple::RefMulti<'_, (String, String), Found>| {
            let (cluster, user) = entry.key().clone();
            exists(entry.value()).map(|(credential, until)| (cluster, user, credential, until))
        };
        self.found.iter().filter_map(one).collect()
    }

    /// True if what is known is not older than that.
    pub fn was_looked_up_since(&self, cluster: &str, user: &str, since: Instant) -> bool {
        self.found.get(&(cluster.to_owned(), user.to_owned())).is_some_and(|found| found.at >= since)
    }

    /// Remembers an answer.
    pub fn learn(&self, cluster: &str, user: &str, found: Found) {
        if self.found.len() >= MOST {
            self.found.retain(|_, known| known.credential.is_some());
        }
        if self.found.len() >= MOST {
            self.found.clear();
        }
        self.found.insert((cluster.to_owned(), user.to_owned()), found);
    }

    /// The client did not prove it: perhaps because the password is another one by now.
    pub fn doubt(&self, cluster: &str, user: &str) {
        if let Some(mut found) = self.found.get_mut(&(cluster.to_owned(), user.to_owned())) {
            found.is_doubtful |= found.at.elapsed() >= YOUNG;
        }
    }

    /// Everybody is looked up again.
    pub fn doubt_all(&self) {
        self.found.iter_mut().for_each(|mut found| found.is_doubtful = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn password() -> Option<Credential> {
        Credential::parse("s3cret").ok()
    }

    #[test]
    fn what_is_known_holds_for_a_while_and_until_the_password_ends() {
        let logins = Logins::default();
        assert_eq!(logins.known("main", "app", HOUR), None);
        logins.learn("main", "app", Found::new(password(), Some(SystemTime::now() + HOUR)));
        assert_eq!(logins.known("main", "app", HOUR), Some(password()));
        assert_eq!(logins.known("other", "app", HOUR), None, "another cluster has other logins");
        assert_eq!(logins.known("main", "app", Duration::ZERO), None);
        logins.learn("main", "app", Found::new(password(), Some(SystemTime::now())));
        assert_eq!(logins.known("main", "app", HOUR), Some(None), "past its end");
        logins.learn("main", "app", Found::nobody());
        assert_eq!(logins.known("main", "app", HOUR), Some(None));
    }

    #[test]
    fn a_doubt_does_not_bring_a_question_for_each_wrong_password() {
        let logins = Logins::default();
        logins.learn("main", "app", Found::new(password(), None));
        logins.doubt("main", "app");
        assert_eq!(logins.known("main", "app", HOUR), Some(password()));
    }

    #[test]
    fn what_is_in_doubt_still_opens_servers() {
        let logins = Logins::default();
        logins.learn("main", "app", Found::new(password(), None));
        logins.doubt_all();
        assert_eq!(logins.known("main", "app", HOUR), None);
        assert_eq!(logins.last("main", "app"), password());
    }

    #[test]
    fn names_that_nobody_has_do_not_fill_the_memory() {
        let logins = Logins::default();
        logins.learn("main", "app", Found::new(password(), None));
        for number in 0..2 * MOST {
            logins.learn("main", &format!("x{number}"), Found::nobody());
        }
        assert!(logins.found.len() <= MOST);
        assert_eq!(logins.known("main", "app", HOUR), Some(password()));
    }
}
