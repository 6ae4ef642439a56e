//! The nearest right name: for a typing error, for a key in the wrong section, and for the names that PgBouncer and
//! Pgpool-II use for the same thing.

use super::keys::{KeyInfo, Shape, reference, section_paths};

/// How another tool writes a value that has a unit here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// As here.
    Same,
    /// A bare number of seconds; 0 is off.
    Seconds,
}

/// Another tool's name of a key: tool, name, our path, and how its value is written there.
pub(super) struct Alias {
    pub tool: Tool,
    pub name: &'static str,
    pub path: &'static str,
    pub unit: Unit,
}

/// Where a name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    PgBouncer,
    Pgpool,
}
use Tool::{PgBouncer, Pgpool};
use Unit::{Same, Seconds};

const fn alias(tool: Tool, name: &'static str, path: &'static str, unit: Unit) -> Alias {
    Alias { tool, name, path, unit }
}

/// Names of other tools whose value is one value here, so that `SET` and `SHOW CONFIG` understand them too, and names
/// that only lead the way (a host name is a part of `nodes`).
pub(super) static ALIASES: &[Alias] = &[
    alias(PgBouncer, "max_client_conn", "postgres.max_clients", Same),
    alias(PgBouncer, "default_pool_size", "postgres.pool.size", Same),
    alias(PgBouncer, "pool_size", "postgres.pool.size", Same),
    alias(PgBouncer, "min_pool_size", "postgres.pool.min_size", Same),
    alias(PgBouncer, "reserve_pool_size", "postgres.pool.reserve_size", Same),
    alias(PgBouncer, "reserve_pool", "postgres.pool.reserve_size", Same),
    alias(PgBouncer, "reserve_pool_timeout", "postgres.pool.reserve_after", Seconds),
    alias(PgBouncer, "pool_mode", "postgres.pool.mode", Same),
    alias(PgBouncer, "query_wait_timeout", "postgres.pool.queue_timeout", Seconds),
    alias(PgBouncer, "query_wait_notify", "postgres.pool.queue_notice", Seconds),
    alias(PgBouncer, "server_connect_timeout", "postgres.pool.connect_timeout", Seconds),
    alias(PgBouncer, "server_idle_timeout", "postgres.pool.server_idle_timeout", Seconds),
    alias(PgBouncer, "server_lifetime", "postgres.pool.server_lifetime", Seconds),
    alias(PgBouncer, "client_login_timeout", "postgres.pool.client_login_timeout", Seconds),
    alias(PgBouncer, "client_idle_timeout", "postgres.pool.client_idle_timeout", Seconds),
    alias(PgBouncer, "query_timeout", "postgres.pool.query_timeout", Seconds),
    alias(PgBouncer, "transaction_timeout", "postgres.pool.transaction_timeout", Seconds),
    alias(PgBouncer, "idle_transaction_timeout", "postgres.pool.idle_in_transaction_timeout", Seconds),
    alias(PgBouncer, "max_prepared_statements", "postgres.pool.prepared_statements", Same),
    alias(PgBouncer, "auth_type", "postgres.auth", Same),
    alias(PgBouncer, "auth_file", "postgres.user", Same),
    alias(PgBouncer, "auth_hba_file", "postgres.hba_file", Same),
    alias(PgBouncer, "listen_addr", "postgres.listen", Same),
    alias(PgBouncer, "listen_port", "postgres.listen", Same),
    alias(PgBouncer, "unix_socket_dir", "postgres.listen", Same),
    alias(PgBouncer, "admin_users", "admin.user", Same),
    alias(PgBouncer, "stats_users", "admin.user", Same),
    alias(PgBouncer, "databases", "postgres.database", Same),
    alias(PgBouncer, "users", "postgres.user", Same),
    alias(PgBouncer, "verbose", "general.log.level", Same),
    alias(PgBouncer, "client_tls_sslmode", "postgres.tls.mode", Same),
    alias(PgBouncer, "client_tls_cert_file", "postgres.tls.cert", Same),
    alias(PgBouncer, "client_tls_key_file", "postgres.tls.key", Same),
    alias(PgBouncer, "client_tls_ca_file", "postgres.tls.ca", Same),
    alias(PgBouncer, "server_tls_sslmode", "postgres.cluster.tls.mode", Same),
    alias(Pgpool, "num_init_children", "postgres.max_clients", Same),
    alias(Pgpool, "max_pool", "postgres.pool.size", Same),
    alias(Pgpool, "backend_hostname", "postgres.cluster.nodes", Same),
    alias(Pgpool, "backend_port", "postgres.cluster.nodes", Same),
    alias(Pgpool, "backend_weight", "postgres.cluster.nodes", Same),
    alias(Pgpool, "backend_flag", "postgres.cluster.nodes", Same),
    alias(Pgpool, "listen_addresses", "postgres.listen", Same),
    alias(Pgpool, "port", "postgres.listen", Same),
    alias(Pgpool, "pcp_listen_addresses", "admin.listen", Same),
    alias(Pgpool, "pcp_port", "admin.listen", Same),
    alias(Pgpool, "load_balance_mode", "postgres.routing.split", Same),
    alias(Pgpool, "delay_threshold", "postgres.routing.max_lag_bytes", Same),
    alias(Pgpool, "delay_threshold_by_time", "postgres.routing.max_lag", Seconds),
    alias(Pgpool, "read_only_function_list", "postgres.routing.read_functions", Same),
    alias(Pgpool, "write_function_list", "postgres.routing.write_functions", Same),
    alias(Pgpool, "client_idle_limit", "postgres.pool.client_idle_timeout", Seconds),
    alias(Pgpool, "connection_life_time", "postgres.pool.server_lifetime", Seconds),
    alias(Pgpool, "authentication_timeout", "postgres.pool.client_login_timeout", Seconds),
    alias(Pgpool, "connect_timeout", "postgres.pool.connect_timeout", Same),
    alias(Pgpool, "pool_passwd", "postgres.user", Same),
    alias(Pgpool, "pool_hba", "postgres.hba_file", Same),
    alias(Pgpool, "health_check_period", "postgres.failover.check_interval", Seconds),
    alias(Pgpool, "sr_check_period", "postgres.failover.check_interval", Seconds),
    alias(Pgpool, "health_check_timeout", "postgres.failover.check_timeout", Seconds),
    alias(Pgpool, "health_check_user", "postgres.cluster.monitor_user", Same),
    alias(Pgpool, "health_check_password", "postgres.cluster.monitor_password", Same),
    alias(Pgpool, "sr_check_user", "postgres.cluster.monitor_user", Same),
    alias(Pgpool, "sr_check_password", "postgres.cluster.monitor_password", Same),
    alias(Pgpool, "failover_command", "postgres.failover.event_command", Same),
    alias(Pgpool, "follow_primary_command", "postgres.failover.rejoin_command", Same),
    alias(Pgpool, "recovery_1st_stage_command", "postgres.failover.rejoin_command", Same),
];

/// So many keys are named as those that may have been meant; more would be no help.
const MOST_MEANT: usize = 3;

/// What people write in a section (from the manuals of drivers, Redis and others), and its key for that.
pub(super) static WORDS: &[(&str, &str, &str)] = &[
    ("postgres", "host", "listen"),
    ("postgres", "address", "listen"),
    ("postgres", "bind", "listen"),
    ("postgres.cluster", "host", "nodes"),
    ("postgres.cluster", "hosts", "nodes"),
    ("postgres.cluster", "port", "nodes"),
    ("postgres.cluster", "servers", "nodes"),
    ("postgres.cluster", "addresses", "nodes"),
    ("postgres.user", "user", "name"),
    ("postgres.user", "username", "name"),
    ("postgres.database", "host", "cluster"),
    ("redis.service", "password", "auth"),
    ("redis.service", "requirepass", "auth"),
    ("redis.service", "host", "listen"),
    ("redis.service", "port", "listen"),
    ("redis.service", "bind", "listen"),
    ("redis.service", "hosts", "nodes"),
    ("redis.service", "servers", "nodes"),
    ("admin", "host", "listen"),
    ("admin", "port", "listen"),
    ("admin.user", "user", "name"),
    ("admin.user", "username", "name"),
];

/// The alias of this name; the numbers that Pgpool-II puts behind its backends' keys do not count.
pub(super) fn alias_named(name: &str) -> Option<&'static Alias> {
    let name = name.to_ascii_lowercase();
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit());
    ALIASES.iter().find(|alias| alias.name == name || alias.name == bare)
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("\"{only}\""),
        [first @ .., last] => {
            let first: Vec<_> = first.iter().map(|word| format!("\"{word}\"")).collect();
            format!("{} or \"{last}\"", first.join(", "))
        }
    }
}

/// The word that is the fewest typing errors away, if few enough for its length.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words.filter_map(|word| distance(text, word).map(|d| (d, word))).min_by_key(|(d, _)| *d).map(|(_, word)| word)
}

/// Typing errors between the two, if fewer than a third of the word (but one is always allowed).
fn distance(text: &str, word: &str) -> Option<usize> {
    // The comparison takes time and memory by the product of the lengths.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    let d = strsim::damerau_levenshtein(&text, &word.to_lowercase().replace('-', "_"));
    (d <= (word.chars().count() / 3).max(1)).then_some(d)
}

/// `; did you mean "size"?` for the paths that [`meant`] found for an unknown key of a section (`""` for none), or a way
/// to the right ones.
pub(super) fn for_key(section: &str, meant: &[String]) -> String {
    let shown: Vec<&str> = meant.iter().map(|path| own_name(section, path).unwrap_or(path)).collect();
    if !shown.is_empty() {
        return format!("; did you mean {}?", one_of(&shown));
    }
    let names: Vec<_> = reference()
        .iter()
        .filter(|key| key.section == section && key.inherited.is_none())
        .map(|key| key.name)
        .collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; the keys here are {}", names.join(", ")),
    }
}

/// The name of a key within its section; `None` of another section's.
pub(super) fn own_name<'p>(section: &str, path: &'p str) -> Option<&'p str> {
    let own = path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.'))?;
    reference().iter().any(|key| key.section == section && key.name == own).then_some(own)
}

/// The full path of the key that was most likely meant.
pub(super) fn key_path(section: &str, name: &str) -> Option<String> {
    meant(section, name).into_iter().next()
}

/// The full paths of the keys that were most likely meant: a few, or none. Those of the section itself come first.
pub(super) fn meant(section: &str, name: &str) -> Vec<String> {
    let own = || reference().iter().filter(|key| key.section == section);
    if let Some((_, _, key)) = WORDS.iter().find(|(of, word, _)| *of == section && *word == name) {
        return vec![format!("{section}.{key}")];
    }
    // Another tool's exact name is no typing error.
    if let Some(alias) = alias_named(name) {
        let leaf = alias.path.rsplit('.').next().unwrap_or(alias.path);
        return vec![own().find(|key| key.name == leaf).map_or_else(|| alias.path.to_owned(), KeyInfo::path)];
    }
    if let Some(key) = own().find(|key| distance(name, key.name).is_some_and(|errors| errors <= 1)) {
        return vec![key.path()];
    }
    let parts: Vec<String> = own().filter(|key| is_part(key.name, name)).map(KeyInfo::path).collect();
    if (1..=MOST_MEANT).contains(&parts.len()) {
        return parts;
    }
    if parts.len() > MOST_MEANT {
        // One of these, and no key of another section.
        return Vec::new();
    }
    if let Some((_, key)) = nearest_key(own(), name) {
        return vec![key.path()];
    }
    // PostgreSQL's keys are nothing for a service of Redis, nor the other way round.
    let family = section.split('.').next().unwrap_or_default();
    let is_foreign = |key: &KeyInfo| {
        let other = key.section.split('.').next().unwrap_or_default();
        other != family && [family, other].iter().all(|family| matches!(*family, "postgres" | "redis"))
    };
    let others = || reference().iter().filter(|key| key.inherited.is_none() && key.shape != Shape::Inline);
    let others = || others().filter(|key| !is_foreign(key));
    let of_family = others().filter(|key| key.section.split('.').next() == Some(family));
    let near = nearest_key(of_family.filter(|_| !family.is_empty()), name).or_else(|| {
        // In a section with a meaning of its own, what is far away has to be named in full.
        let far = others().filter(|key| family.is_empty() || key.name == name);
        nearest_key(far, name)
    });
    if let Some((_, key)) = near {
        return vec![key.path()];
    }
    let typed = nearest(name, ALIASES.iter().map(|alias| alias.name));
    typed.and_then(alias_named).map(|alias| alias.path.to_owned()).into_iter().collect()
}

fn nearest_key(keys: impl Iterator<Item = &'static KeyInfo>, typed: &str) -> Option<(usize, &'static KeyInfo)> {
    let near = keys.filter_map(|key| key_distance(key, typed).map(|errors| (errors, key)));
    near.min_by_key(|(errors, key)| (*errors, key.name.contains('.'), is_rarer(key.section)))
}

/// Whether one of the two is made of the last or the first words of the other: `idle_timeout` of `server_idle_timeout`,
/// `max_lag_bytes` of `max_lag`. A word that is in nearly every name says nothing.
fn is_part(key: &str, typed: &str) -> bool {
    let typed = typed.to_lowercase().replace('-', "_");
    let begins_or_ends = |long: &str, short: &str| {
        let is_cut = |rest: Option<&str>, at_end: bool| {
            rest.is_some_and(|rest| if at_end { rest.ends_with(['_', '.']) } else { rest.starts_with('_') })
        };
        is_cut(long.strip_suffix(short), true) || is_cut(long.strip_prefix(short), false)
    };
    let is_telling = |name: &str| name.len() >= 4;
    is_telling(&typed) && begins_or_ends(key, &typed) || is_telling(key) && begins_or_ends(&typed, key)
}

/// A key may have been typed with its section in front: `pool_size`, `pool.size`, `postgres.pool.size`.
fn key_distance(key: &KeyInfo, typed: &str) -> Option<usize> {
    let last = key.section.rsplit('.').next().unwrap_or(key.section);
    let leaf = key.name.rsplit('.').next().unwrap_or(key.name);
    let spellings =
        [key.name.to_owned(), format!("{last}_{leaf}"), format!("{last}.{}", key.name), key.path(), leaf.to_owned()];
    spellings.iter().filter_map(|spelling| distance(typed, spelling)).min()
}

/// `; did you mean "postgres"?` for an unknown section.
pub(super) fn for_section(name: &str) -> String {
    match section_near(name) {
        Some(path) => format!("; did you mean \"{path}\"?"),
        None => format!("; the sections are {}", section_paths().collect::<Vec<_>>().join(", ")),
    }
}

/// The section, or the parent of sections, that was most likely meant.
pub(super) fn section_near(name: &str) -> Option<&'static str> {
    if let Some(alias) = alias_named(name)
        && section_paths().any(|path| path == alias.path)
    {
        return Some(alias.path);
    }
    let spelled = section_paths().flat_map(|path| {
        let (first, last) = (path.split('.').next(), path.rsplit('.').next());
        let by_path = distance(name, path).map(|d| (d, path));
        let by_parent = first.and_then(|first| Some((distance(name, first)?, first)));
        // [pool] for [postgres.pool]; a whole path that is as near comes first.
        let by_last = last.and_then(|last| Some((distance(name, last)? + 1, path)));
        [by_path, by_parent, by_last].into_iter().flatten()
    });
    spelled.min_by_key(|(d, path)| (*d, is_rarer(path))).map(|(_, path)| path)
}

/// Of two that are equally near, PostgreSQL's is the one that more people mean.
fn is_rarer(section: &str) -> bool {
    section.split('.').next() != Some("postgres")
}
