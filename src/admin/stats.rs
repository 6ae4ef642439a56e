//! The samples behind the averages of `SHOW STATS`, and the log line of each period.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::ops::Instance;
use crate::pg::report::{Averages, merged};
use crate::worker::clock::now_ns;

/// PgBouncer's `stats_period`.
const PERIOD: Duration = Duration::from_secs(60);

/// Samples the counters of all pools once a period, for as long as the process runs.
pub(super) async fn keep(instance: Arc<Instance>) {
    let mut periods = tokio::time::interval(PERIOD);
    // The first tick is now, and the history has begun by itself.
    periods.tick().await;
    loop {
        periods.tick().await;
        let pools = merged(instance.ask_all(|core| core.report_pools()).await);
        let totals = pools.into_iter().map(|pool| (pool.key, pool.totals));
        let period = instance.history.lock().unwrap_or_else(PoisonError::into_inner).roll(now_ns(), totals);
        if let Some(line) = line(&period) {
            tracing::info!("{line}");
        }
    }
}

/// PgBouncer's line, which log analysers know; nothing when nothing happened.
fn line(a: &Averages) -> Option<String> {
    if a.xacts == 0 && a.queries == 0 && a.received == 0 && a.sent == 0 {
        return None;
    }
    Some(format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, in {} B/s, out {} B/s, \
         xact {} us, query {} us, wait {} us",
        a.xacts,
        a.queries,
        a.client_parses,
        a.server_parses,
        a.binds,
        a.received,
        a.sent,
        a.xact_time,
        a.query_time,
        a.wait_time
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_pgbouncers_and_only_there_when_something_happened() {
        assert_eq!(line(&Averages::default()), None);
        let busy = Averages {
            xacts: 3,
            queries: 4,
            client_parses: 1,
            server_parses: 2,
            binds: 5,
            received: 100,
            sent: 200,
            xact_time: 30,
            query_time: 20,
            wait_time: 10,
            ..Averages::default()
        };
        assert_eq!(
            line(&busy).unwrap(),
            "stats: 3 xacts/s, 4 queries/s, 1 client parses/s, 2 server parses/s, 5 binds/s, in 100 B/s, out 200 B/s, \
             xact 30 us, query 20 us, wait 10 us"
        );
    }
}
