//! Who may come in, and as what.

use std::sync::Arc;

use crate::admin::{Caller, Refusal, Rights, drivers};
use crate::config::model::{AdminUser, AuthMethod};
use crate::ops::Instance;
use crate::pg::login::{LoginError, Talk, check_password};
use crate::pg::report::is_local;
use crate::wire::pg::auth::Credential;
use crate::wire::pg::startup::Session as Startup;

/// Why somebody did not come in.
pub(super) enum Failure {
    /// The exchange failed; the client was told.
    Password(LoginError),
    /// The client has to be told.
    Refused(Refusal),
}

/// Lets an `[[admin.user]]` in by its password. Without any such user this machine is let in to look.
pub(super) async fn login(instance: &Arc<Instance>, talk: &mut Talk, startup: &Startup) -> Result<Caller, Failure> {
    let config = instance.config.load_full();
    talk.negotiate(startup).await?;
    let name = startup.user.as_str();
    let admin = config.admin.users.iter().find(|u| u.name == name);
    let rights = match admin {
        Some(AdminUser { password, role, .. }) => {
            let credential = Credential::parse(&password.0).ok();
            // Trust is for the pools: nobody becomes an admin without a password.
            let method = match config.postgres.auth {
                AuthMethod::Trust | AuthMethod::Hba => AuthMethod::ScramSha256,
                method => method,
            };
            check_password(&instance.shared, talk, method, name, credential.as_ref()).await?;
            Rights::from(*role)
        }
        None if config.admin.users.is_empty() => {
            if !is_local(&talk.peer().named().0) {
                return Err(Failure::Refused(Refusal::NotFromHere));
            }
            Rights::NobodyIsAdmin
        }
        None => {
            // Who is a user of the pools is told so after having proved it; everybody else learns nothing.
            let entry = config.postgres.user(name).and_then(|u| u.password.as_ref());
            let credential = entry.and_then(|p| Credential::parse(&p.0).ok());
            check_password(&instance.shared, talk, config.postgres.auth, name, credential.as_ref()).await?;
            return Err(Failure::Refused(Refusal::NoAdminUser(name.to_owned())));
        }
    };
    let mut caller = Caller::new(name, rights, &startup.database);
    take_parameters(&mut caller, startup);
    Ok(caller)
}

/// Takes what is known of the parameters of a startup packet; everything else is passed over, as are bad values.
fn take_parameters(caller: &mut Caller, startup: &Startup) {
    for option in startup.options().unwrap_or_default() {
        let _ = drivers::set(caller, &option.name, Some(&String::from_utf8_lossy(&option.value)));
    }
    for (name, value) in &startup.params {
        let _ = drivers::set(caller, name, Some(&String::from_utf8_lossy(value)));
    }
}
