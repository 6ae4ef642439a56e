//! What servers are logged in to with.

use std::rc::Rc;

use super::core::Core;
use super::pool::{PgPool, ServerLogin};
use crate::config::model::{Postgres, User};
use crate::wire::pg::auth::Credential;

impl Core {
    /// For the login `user`, of the clients of `client`, in the order in which they are tried: those of the configuration.
    /// Without any, what PostgreSQL itself has told the last time that it was asked, and the password that a directory has
    /// found right.
    pub(super) fn server_credentials(
        &self,
        pg: &Postgres,
        cluster: usize,
        user: &str,
        client: &str,
    ) -> Vec<Credential> {
        if let Some(known) = pg.user(user) {
            return User::credentials(known);
        }
        let Some(cluster) = pg.clusters.get(cluster) else { return Vec::new() };
        let logins = &self.shared.logins;
        let looked_up = pg.auth_user.as_ref().and_then(|_| logins.last(&cluster.name, user));
        // Another login's password is nobody's business.
        let given = logins.given(&cluster.name, user).filter(|_| user == client);
        looked_up.into_iter().chain(given).collect()
    }

    /// A client may have proved a login that the configuration does not name: from now on servers are logged in to with
    /// what is known of it since.
    pub(super) fn renew_login(&self, pool: &PgPool) {
        let mut login = pool.login.borrow_mut();
        let config = self.config.borrow();
        if config.postgres.user(&login.user).is_some() {
            return;
        }
        let (cluster, client) = (pool.cluster.get(), &pool.shared.key.user);
        let credentials = self.server_credentials(&config.postgres, cluster, &login.user, client);
        if login.credentials != credentials {
            *login = Rc::new(ServerLogin { credentials, ..ServerLogin::clone(&login) });
            pool.last_failure.borrow_mut().take();
        }
    }
}
