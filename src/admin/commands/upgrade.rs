//! `UPGRADE`.

use std::borrow::Cow;
use std::sync::Arc;

use super::Admin;
use crate::admin::Refusal;
use crate::admin::run::Answer;
use crate::admin::table::{Column, Table, columns, row};
use crate::ops::upgrade::upgrade;

/// What it answers with: the process that has taken over, its version, and the process that it has replaced.
pub(in crate::admin) const COLUMNS: &[Column] = columns![Int8 "process_id"; Text "version"; Int8 "replaced_process_id"];

impl Admin<'_> {
    /// Answered when the new process accepts; the session ends after that, as everything here does.
    pub(super) async fn upgrade(&self) -> Result<Answer, Refusal> {
        self.is_ending()?;
        let (instance, by) = (Arc::clone(self.instance), self.name.to_owned());
        // Its end is not the end of whoever has asked for it.
        let upgraded = tokio::task::spawn_local(async move { upgrade(&instance, &by).await });
        let upgraded = upgraded.await.unwrap_or_else(|_| Err("the upgrade broke off".to_owned()));
        let successor = upgraded.map_err(Refusal::WrongState)?;
        let rows = vec![row![i64::from(successor.pid), successor.version, i64::from(std::process::id())]];
        Ok(Answer::rows("UPGRADE", Table { columns: Cow::Borrowed(COLUMNS), rows }))
    }
}
