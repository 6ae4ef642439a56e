//! `SHOW HBA`: the rules in force, as `pg_hba_file_rules` of PostgreSQL has them.

use crate::admin::facts::Facts;
use crate::admin::table::{Row, row};
use crate::config::hba::{Connection, Rule};

pub(super) fn rules(facts: &Facts) -> Vec<Row> {
    let row = |rule: &Rule| {
        let address = match &rule.connection {
            Connection::Local => None,
            Connection::Tcp(_, address) => Some(address.to_string()),
        };
        row![
            &rule.place.file,
            rule.place.line,
            rule.connection_type(),
            rule.database_list(),
            rule.user_list(),
            address,
            rule.method.word(),
            rule.options().join(","),
        ]
    };
    facts.config.postgres.hba.iter().flat_map(|hba| &hba.rules).map(row).collect()
}
