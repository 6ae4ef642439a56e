//! `BAN` and `UNBAN`.

use std::time::Duration;

use super::Admin;
use crate::admin::errors::Refusal;
use crate::admin::run::{Answer, Notice};
use crate::admin::time;
use crate::config::Network;

/// Blocks that a message names; of more only the number is told.
const NAMED: usize = 10;

impl Admin<'_> {
    pub(super) fn ban(&self, block: Network, time: Option<Duration>) -> Result<Answer, Refusal> {
        let guard = &self.instance.shared.guard;
        let ban = guard.ban(block, time, self.name).map_err(Refusal::WrongState)?;
        let until = time::with_zone(time::wall(ban.until));
        self.record("banned", &format!("{block} until {until}, "));
        let answer = Answer::done("BAN").with(Notice::info(format!("{block} is refused until {until}")));
        let exempt = guard.exempt(&block);
        if exempt.is_empty() {
            return Ok(answer);
        }
        let told = format!("but for {}, which security.ban_allow never bans", listed(&exempt));
        Ok(answer.with(Notice::info(told)))
    }

    pub(super) fn unban(&self, block: Network) -> Result<Answer, Refusal> {
        let lifted = self.instance.shared.guard.unban(block).map_err(|not_banned| {
            Refusal::WrongState(match not_banned.within {
                Some(whole) => format!("{block} is banned as a part of {whole}, which UNBAN '{whole}' ends"),
                None => format!("{block} is not banned; SHOW BANS lists who is"),
            })
        })?;
        let lifted: Vec<Network> = lifted.iter().map(|ban| ban.block).collect();
        self.record("unbanned", &format!("{}, ", listed(&lifted)));
        Ok(Answer::done("UNBAN").with(Notice::info(format!("no longer refused: {}", listed(&lifted)))))
    }
}

fn listed(blocks: &[Network]) -> String {
    let named: Vec<String> = blocks.iter().take(NAMED).map(Network::to_string).collect();
    let more = blocks.len().saturating_sub(NAMED);
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}
