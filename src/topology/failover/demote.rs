//! Restarting a primary as a standby through SQL, for clean switchovers (`demote_method = "copy_program"`).
//!
//! `COPY ... TO PROGRAM` runs a command as the server's own system user, in its data directory
//! (<https://www.postgresql.org/docs/current/sql-copy.html>). The command leaves a process behind that outlives the
//! server, stops it, and starts it with the options that it had.

use std::time::Duration;

use super::agent::{literal, within};
use super::hooks::Demote;
use crate::topology::link::{Link, words};
use crate::topology::probe::Target;

/// How long the restart may take before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the checkpoint before it may take.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// What to do where nothing restarts a primary.
pub(in crate::topology) const WAY_OUT: &str = "set postgres.failover.demote_method to \"hook\", with scripts/demote as \
     demote_command, or to \"copy_program\"; MODE fast does without, and the old primary needs pg_rewind then";

/// `-D` may be relative in postmaster.opts, and the folder that it was relative to is not known.
const RESTART: &str = r#"pid=$(head -n 1 postmaster.pid)
bin=$(dirname "$(readlink "/proc/$pid/exe")")
[ -x "$bin/pg_ctl" ] || { echo "no pg_ctl beside the server's program, in '$bin'" >&2; exit 1; }
options=$(sed -e 's/^[^"]*//' -e 's/"-D" "[^"]*"//' postmaster.opts)
export bin options
setsid sh -c '
    touch standby.signal || exit 1
    "$bin/pg_ctl" -D "$PWD" -m fast -w -t 3600 stop || { rm -f standby.signal; exit 1; }
    "$bin/pg_ctl" -D "$PWD" -w -o "$options" start
' < /dev/null > /dev/null &"#;

/// Rights, and what the command needs.
const MAY: &str = "SELECT pg_catalog.pg_has_role('pg_execute_server_program', 'usage') \
     OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)";

/// Whether the primary could be restarted.
///
/// # Errors
/// Why not, in words.
pub(in crate::topology) async fn is_possible(target: &Target, how: &Demote) -> Result<(), String> {
    match how {
        Demote::Nobody => Err(WAY_OUT.to_owned()),
        Demote::Program(_) => Ok(()),
        Demote::ThroughSql => {
            let asked = async { Link::open(target.login(), target.timeout).await?.client.query_one(MAY, &[]).await };
            let row = within(target.timeout, asked).await?;
            match row.try_get(0) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("GRANT pg_execute_server_program TO \"{}\"", target.user)),
                Err(error) => Err(words(&error)),
            }
        }
    }
}

/// A checkpoint while clients still work: the one of the shutdown has little left to write then.
pub(in crate::topology) async fn shorten(target: &Target) {
    let made = async { Link::open(target.login(), target.timeout).await?.client.batch_execute("CHECKPOINT").await };
    if let Err(why) = within(CHECKPOINT, made).await {
        tracing::debug!(why, "no checkpoint before a clean switchover");
    }
}

/// Has the server restart itself as a standby. It has been told when this returns, and may not have begun yet.
pub(super) async fn by_sql(target: &Target) -> Result<(), String> {
    let copy = format!("COPY (SELECT WHERE false) TO PROGRAM {}", literal(RESTART));
    let told = async { Link::open(target.login(), target.timeout).await?.client.batch_execute(&copy).await };
    within(PATIENCE, told).await
}
