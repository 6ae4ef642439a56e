//! `show`, `rows`, `diff` and `set`.

use proptest::prelude::*;

use super::*;

/// Everything that a file may say, without a secret.
const FULL: &str = "[general]\nthreads = 3\nlog.format = \"json\"\n[admin]\nlisten = []\n[postgres]\nauth = \"trust\"\n\
    listen = [\"127.0.0.1:6432\", { addr = \"/nowhere/.s.PGSQL.6432\", route = \"primary\" }]\n\
    [postgres.pool]\nqueue_length = 10\nquery_timeout = \"1h30m\"\nserver_lifetime = \"off\"\n\
    [postgres.routing]\nmax_lag_bytes = \"1MiB\"\nread_functions = [\"a\\\"b\", \"s.f\"]\n\
    [postgres.failover]\ntxn_loss = \"error\"\nevent_command = [\"/bin/sh\", \"-c\", \"exit 0\\n\"]\n\
    [[postgres.cluster]]\nname = \"main\"\nnodes = [\"db1\", { name = \"b\", host = \"db2\", weight = 0, promote = false }]\n\
    [[postgres.cluster]]\nname = \"other\"\nnodes = [\"db3\"]\nmonitor_user = \"mon\"\n\
    [[postgres.database]]\nname = \"a\"\ncluster = \"other\"\ndbname = \"A b\"\nsize = 3\nqueue_timeout = \"off\"\nsplit = false\n\
    [[postgres.database]]\nname = \"*\"\ncluster = \"main\"\n\
    [[postgres.user]]\nname = \"app\"\nmode = \"session\"\n\
    [[redis.service]]\nname = \"cache\"\nlisten = [\":6380\"]\nsentinels = [\"s1\", \"s2\"]\nmaster_name = \"m\"\n\
    [security]\nban_allow = [\"10.0.0.0/8\"]\n[notify]\nevents = [\"failover\"]\n";

#[test]
fn what_is_shown_loads_as_the_same_configuration() {
    for text in [
        FULL,
        "[postgres]\nauth = \"trust\"\n[[postgres.cluster]]\nname = \"m\"\nnodes = [\"db\"]\nmonitor_user = \"x\"\n",
    ] {
        let config = accepted(text);
        let shown = show(&config);
        assert_eq!(accepted(&shown), config, "{shown}");
        assert_eq!(show(&accepted(&shown)), shown);
    }
}

#[test]
fn every_default_is_shown() {
    let shown = show(&accepted(BASE));
    for key in reference().iter().filter(|key| key.inherited.is_none() && key.shape == Shape::One) {
        let Some(default) = key.default.filter(|_| key.section != "coordination" && key.name != "threads") else {
            continue;
        };
        let line = format!("{} = {default}", key.name);
        assert!(shown.lines().any(|shown| shown == line), "{line} of {} is not in\n{shown}", key.section);
    }
}

#[test]
fn secrets_are_never_shown() {
    let text = "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"db\"]\nmonitor_password = \"hidden1\"\n\
        [[postgres.user]]\nname = \"app\"\npassword = \"hidden2\"\n[[admin.user]]\nname = \"a\"\npassword = \"hidden3\"\n\
        [[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\nsentinels = [\"s\"]\nmaster_name = \"m\"\nauth = \"hidden4\"\n\
        sentinel_password = \"hidden5\"\nusers = { u = \"hidden6\" }\n[coordination]\npassword = \"hidden7\"\n\
        [notify]\nwebhook = [\"https://user:hidden8@a.example/hidden9\"]\n";
    let config = accepted(text);
    let rows = format!("{:?}", rows(&config));
    let changed = diff(&config, &accepted(&text.replace("hidden", "HIDDEN")));
    for (what, text) in [
        ("show", show(&config)),
        ("rows", rows),
        ("Debug", format!("{:?}", config.postgres)),
        ("diff", format!("{changed:?}")),
    ] {
        assert!(!text.to_lowercase().contains("hidden"), "{what}: {text}");
    }
    assert!(show(&config).contains("webhook = [\"https://a.example/***\"]"));
    let secrets: Vec<_> =
        changed.iter().filter(|change| change.to.contains("***")).map(|change| change.key.as_str()).collect();
    assert!(secrets.contains(&"postgres.user.app.password"), "a changed secret is still a change: {secrets:?}");
    assert_eq!(secrets.len(), 7, "{secrets:?}");
}

#[test]
fn secrets_are_in_no_error() {
    let text = "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"u:hidden@db\", \"http://u:hidden@db\"]\n\
        [[postgres.user]]\nname = \"app\"\npassword = \"SCRAM-SHA-256$hidden\"\n[[postgres.user]]\nname = \"b\"\npassword = [\"hidden\"]\n\
        [[postgres.user]]\nname = \"c\"\npassword = { fil = \"hidden\" }\n[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\n\
        nodes = [\"redis://:hidden@r\"]\nusers = \"hidden\"\n[notify]\nwebhook = [\"hidden\"]\n";
    let found = errors(text);
    assert_eq!(found.len(), 8, "{found:#?}");
    assert!(!found.join("\n").contains("hidden"), "{found:#?}");
    for broken in ["password = hidden\n", "password = \"hidden\n", "password = \"hidden\" \"hidden\"\n"] {
        let found = errors(&format!("[[postgres.user]]\n{broken}"));
        assert!(found.len() == 1 && !found[0].contains("hidden"), "{found:?}");
    }
}

#[test]
fn a_reload_says_what_changes_and_what_waits_for_a_restart() {
    let old = accepted(FULL);
    let new = accepted(
        &FULL
            .replace("threads = 3", "threads = 4\nshutdown_grace = \"1m\"")
            .replace("log.format = \"json\"", "log.format = \"text\"")
            .replace("queue_length = 10", "queue_length = \"unlimited\"")
            .replace("size = 3\n", "min_size = 1\n")
            .replace("name = \"*\"", "name = \"b\"")
            .replace("\"127.0.0.1:6432\", ", ""),
    );
    let changes: Vec<_> = diff(&old, &new)
        .into_iter()
        .map(|change| {
            format!(
                "{}: {} to {}{}",
                change.key,
                change.from,
                change.to,
                if change.needs_restart { ", restart" } else { "" }
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            "general.threads: 3 to 4, restart",
            "general.shutdown_grace: 30s to 1m",
            "general.log.format: json to text, restart",
            "postgres.listen: [\"127.0.0.1:6432\", { addr = \"/nowhere/.s.PGSQL.6432\", route = \"primary\" }] to \
             [{ addr = \"/nowhere/.s.PGSQL.6432\", route = \"primary\" }], restart",
            "postgres.pool.queue_length: 10 to unlimited",
            "postgres.database.a.size: 3 to inherited",
            "postgres.database.a.min_size: inherited to 1",
            "postgres.database.*: present to absent",
            "postgres.database.b: absent to present",
        ]
    );
    assert_eq!(diff(&old, &old), []);
}

#[test]
fn only_what_a_process_begins_with_waits_for_a_restart() {
    let waiting: Vec<_> = reference().iter().filter(|key| key.needs_restart).map(KeyInfo::path).collect();
    assert_eq!(
        waiting,
        [
            "general.threads",
            "general.state_dir",
            "general.log.format",
            "general.core_dumps",
            "admin.listen",
            "postgres.listen",
            "postgres.failover.commit_resolution",
            "redis.service.listen",
            "coordination.etcd",
            "coordination.prefix",
            "coordination.lease",
            "coordination.name",
            "coordination.peer_listen",
            "coordination.user",
            "coordination.password",
            "coordination.tls.ca",
            "coordination.tls.cert",
            "coordination.tls.key",
        ]
    );
}

#[test]
fn rows_are_flat_and_speak_pgbouncer_too() {
    let rows = rows(&accepted(FULL));
    let row = |key: &str| {
        let row = rows.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("no row {key}"));
        (row.value.as_str(), row.default.as_str(), row.changeable)
    };
    assert_eq!(row("general.threads"), ("3", "0", false));
    assert_eq!(row("postgres.pool.mode"), ("transaction", "transaction", true));
    assert_eq!(row("postgres.pool.query_timeout"), ("1h30m", "off", true));
    assert_eq!(row("postgres.database.a.size"), ("3", "", true));
    assert_eq!(row("postgres.cluster.main.monitor_user"), ("app", "", true));
    assert_eq!(row("max_client_conn"), ("10000", "10000", true));
    assert_eq!(row("default_pool_size"), ("20", "20", true));
    assert_eq!(row("query_timeout"), ("5400", "0", true));
    assert_eq!(row("query_wait_timeout"), ("30", "30", true));
    let mut keys: Vec<_> = rows.iter().map(|row| &row.key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), rows.len(), "every key has one row");
}

#[test]
fn set_changes_one_key() {
    let config = accepted(FULL);
    let set_to = |key: &str, value: &str| match set(&config, key, value) {
        Ok(changed) => {
            diff(&config, &changed).into_iter().map(|c| format!("{} = {}", c.key, c.to)).collect::<Vec<_>>().join(", ")
        }
        Err(why) => format!("error: {why}"),
    };
    assert_eq!(set_to("postgres.pool.size", "30"), "postgres.pool.size = 30");
    assert_eq!(set_to("default_pool_size", "30"), "postgres.pool.size = 30");
    assert_eq!(set_to("postgres.pool.mode", "session"), "postgres.pool.mode = session");
    assert_eq!(set_to("postgres.pool.mode", "'session'"), "postgres.pool.mode = session");
    assert_eq!(set_to("pool_mode", "session"), "postgres.pool.mode = session");
    assert_eq!(set_to("postgres.pool.queue_timeout", "5s"), "postgres.pool.queue_timeout = 5s");
    assert_eq!(set_to("query_wait_timeout", "5"), "postgres.pool.queue_timeout = 5s");
    assert_eq!(set_to("query_wait_timeout", "0.5"), "postgres.pool.queue_timeout = 500ms");
    assert_eq!(set_to("query_wait_timeout", "0"), "postgres.pool.queue_timeout = off");
    assert_eq!(set_to("server_idle_timeout", "60"), "postgres.pool.server_idle_timeout = 1m");
    assert_eq!(set_to("postgres.database.a.size", "4"), "postgres.database.a.size = 4");
    assert_eq!(set_to("postgres.database.*.size", "4"), "postgres.database.*.size = 4");
    assert_eq!(set_to("postgres.database.a.dbname", "2024"), "postgres.database.a.dbname = 2024");
    assert_eq!(set_to("general.log.level", "debug"), "general.log.level = debug");
    assert_eq!(set_to("postgres.routing.write_functions", "[\"f\"]"), "postgres.routing.write_functions = [\"f\"]");
}

#[test]
fn set_refuses_with_a_reason() {
    let config = accepted(FULL);
    let why = |key: &str, value: &str| set(&config, key, value).map(|_| ()).unwrap_err();
    assert_eq!(why("postgres.pool.size", "0"), "postgres.pool.size must be at least 1 (found 0)");
    assert_eq!(
        why("postgres.pool.min_size", "21"),
        "postgres.pool: min_size (21) is more than size (20); raise size or lower min_size"
    );
    assert!(why("postgres.pool.queue_timeout", "5").contains("write a unit"));
    assert_eq!(
        why("general.threads", "2"),
        "general.threads cannot be changed while running; change it in the file and restart"
    );
    assert!(why("postgres.failover.fence_command", "[\"/bin/sh\"]").contains("change it in the file and reload"));
    assert!(why("postgres.user.app.password", "x").contains("change it in the file and reload"));
    assert_eq!(
        why("postgres.pool.sise", "2"),
        "unknown key \"postgres.pool.sise\"; did you mean \"postgres.pool.size\"?"
    );
    assert_eq!(why("xyzzyxyzzy", "2"), "unknown key \"xyzzyxyzzy\"; SHOW CONFIG lists the keys");
    assert!(why("auth_file", "x").contains("postgres.user"));
    assert!(why("postgres.tls.mode", "require").contains("change it in the file and reload"));
    assert!(why("postgres.auth", "cert").contains("needs postgres.tls.mode"));
    for injected in ["20\n[admin]\nlisten = []", "20\nmin_size = 3", "\"20\"\nmin_size = 3", ""] {
        why("postgres.pool.size", injected);
    }
}

proptest! {
    #[test]
    fn set_never_panics_nor_touches_another_key(value in "\\PC{0,12}|[\\[\\]{}\"'=#\n0-9a-z ]{0,12}") {
        let config = accepted(BASE);
        if let Ok(changed) = set(&config, "postgres.cluster.main.monitor_database", &value) {
            for change in diff(&config, &changed) {
                prop_assert_eq!(change.key, "postgres.cluster.main.monitor_database");
            }
        }
    }
}
