//! Names of keys, sections and entries.

use super::*;

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    refused(
        "[postgres.pool]\npool_sizee = 5\nquue_timeout = \"5s\"\n",
        &[
            "2:1: unknown key \"pool_sizee\" in [postgres.pool]; did you mean \"size\"?",
            "3:1: unknown key \"quue_timeout\" in [postgres.pool]; did you mean \"queue_timeout\"?",
        ],
    );
}

#[test]
fn the_names_of_other_tools_lead_to_ours() {
    let lead = |name: &str, to: &str| {
        refused(
            &format!("[postgres]\n{name} = 1\n"),
            &[&format!("2:1: unknown key \"{name}\" in [postgres]; did you mean \"{to}\"?")],
        );
    };
    lead("default_pool_size", "postgres.pool.size");
    lead("defalt_pool_size", "postgres.pool.size");
    lead("max_client_conn", "max_clients");
    lead("query_wait_timeout", "postgres.pool.queue_timeout");
    lead("min_pool_size", "postgres.pool.min_size");
    lead("reserve_pool_size", "postgres.pool.reserve_size");
    lead("pool_mode", "postgres.pool.mode");
    lead("listen_port", "listen");
    lead("auth_type", "auth");
    lead("num_init_children", "max_clients");
    lead("backend_hostname0", "postgres.cluster.nodes");
    lead("size", "postgres.pool.size");
}

#[test]
fn keys_of_the_section_itself_are_what_was_meant_first() {
    let lead = |section: &str, name: &str, to: &str| {
        let found = suggest::for_key(section, &suggest::meant(section, name));
        assert_eq!(found, format!("; did you mean {to}?"), "{name} in {section}");
    };
    lead("redis.service", "password", "\"auth\"");
    lead("redis.service", "master", "\"master_name\"");
    lead("redis.service", "max_lag_bytes", "\"max_lag\"");
    lead("redis.service", "port", "\"listen\"");
    lead("postgres.cluster", "user", "\"monitor_user\"");
    lead("postgres.cluster", "database", "\"monitor_database\"");
    lead("postgres.cluster", "size", "\"postgres.pool.size\"");
    lead("postgres.pool", "idle_timeout", "\"server_idle_timeout\" or \"client_idle_timeout\"");
    lead("postgres.pool", "max_size", "\"size\"");
    lead("postgres.failover", "timeout", "\"check_timeout\"");
    lead("postgres.failover", "interval", "\"check_interval\"");
    lead("redis.service", "timeout", "\"client_login_timeout\", \"idle_timeout\" or \"client_tls.timeout\"");
    lead("", "listen", "\"postgres.listen\"");
    assert_eq!(suggest::section_near("user"), Some("postgres.user"));
    let timeouts = suggest::for_key("postgres.pool", &suggest::meant("postgres.pool", "timeout"));
    assert!(timeouts.starts_with("; the keys here are "), "there are many, and none of Redis': {timeouts}");
}

#[test]
fn what_stands_under_another_name_is_not_missing_as_well() {
    for (text, expected) in [
        (
            "[[postgres.cluster]]\nname = \"b\"\nhosts = [\"db2\"]\n",
            "3:1: unknown key \"hosts\" in [[postgres.cluster]]; did you mean \"nodes\"?",
        ),
        (
            "[[postgres.user]]\nname = \"u\"\npasword = \"x\"\n",
            "3:1: unknown key \"pasword\" in [[postgres.user]]; did you mean \"password\"?",
        ),
        (
            "[[postgres.clusters]]\nname = \"b\"\n[[postgres.database]]\nname = \"d\"\ncluster = \"b\"\n",
            "1:12: unknown key \"clusters\" in [postgres]; did you mean \"postgres.cluster\"?",
        ),
        (
            "[[redis.service]]\nname = \"c\"\nlisten = [\":6380\"]\nsentinel = [\"s1\"]\n",
            "4:1: unknown key \"sentinel\" in [[redis.service]]; did you mean \"sentinels\"?",
        ),
        (
            "[admin]\nlisten = [\"10.0.0.1:8404\"]\n[[admin.users]]\nname = \"a\"\n",
            "3:9: unknown key \"users\" in [admin]; did you mean \"admin.user\"?",
        ),
    ] {
        refused(text, &[expected]);
    }
    let found =
        errors("[[postgres.cluster]]\nname = \"b\"\nxyzzy = 1\n[[postgres.user]]\nname = \"u\"\npassword = \"x\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("unknown key \"xyzzy\"") && found[1].contains("has no nodes"),
        "the cause is first: {found:?}"
    );
}

#[test]
fn every_alias_leads_to_a_key_or_a_section() {
    for alias in suggest::ALIASES {
        let is_key = reference().iter().any(|key| key.path() == alias.path);
        assert!(is_key || keys::section_paths().any(|path| path == alias.path), "{}", alias.name);
    }
}

#[test]
fn every_word_leads_to_a_key_and_hides_none() {
    for (section, word, key) in suggest::WORDS {
        let has = |name: &str| reference().iter().any(|known| known.section == *section && known.name == name);
        assert!(has(key) && !has(word), "{word} in {section}");
    }
}

#[test]
fn a_key_that_resembles_nothing_is_answered_with_the_keys_there() {
    refused(
        "[notify]\nxyzzy = 1\n",
        &["2:1: unknown key \"xyzzy\" in [notify]; the keys here are webhook, tls.ca, events"],
    );
}

#[test]
fn unknown_sections_are_refused_with_the_nearest_one() {
    refused("[postgers.pool]\nsize = 5\n", &["1:2: unknown section \"postgers\"; did you mean \"postgres\"?"]);
    refused("[[redis.servce]]\n", &["1:9: unknown section \"redis.servce\"; did you mean \"redis.service\"?"]);
    refused(
        "[postgres.pol]\nsize = 5\n",
        &["1:11: unknown key \"pol\" in [postgres]; did you mean \"postgres.pool\"?"],
    );
    assert_eq!(
        errors(&format!("default_pool_size = 20\n{BASE}")),
        ["f.toml:1:1: unknown key \"default_pool_size\" outside of any section; did you mean \"postgres.pool.size\"?"]
    );
}

#[test]
fn brackets_must_fit_the_section() {
    refused("[[postgres.pool]]\nsize = 1\n", &["1:1: write [postgres.pool] in single brackets: there is only one"]);
    refused(
        "[postgres.database]\nname = \"a\"\n",
        &["1:1: write [[postgres.database]] in double brackets: there may be several"],
    );
    refused("[[redis]]\nname = \"a\"\n", &["1:1: redis cannot be a list of sections; write [[redis.service]]"]);
    assert_eq!(errors("postgres = 5\n"), ["f.toml:1:12: postgres must be a section: [postgres]"]);
    assert_eq!(errors("general = 5\n"), ["f.toml:1:11: general must be a section: [general]"]);
    refused("[general]\nlog = \"info\"\n", &["2:7: general.log must be a table with level, format, slow_statements"]);
}

#[test]
fn names_are_unique_within_their_kind() {
    refused(
        "[[postgres.user]]\nname = \"app\"\npassword = \"x\"\n[[postgres.cluster]]\nname = \"main\"\nnodes = [\"db2\"]\n\
         [[redis.service]]\nname = \"main\"\nlisten = [\":6380\"]\nnodes = [\"r1\"]\n\
         [[postgres.database]]\nname = \"a\"\ncluster = \"main\"\n[[postgres.database]]\nname = \"a\"\ncluster = \"main\"\n",
        &[
            "2:8: there is already a user named \"app\"; names must be unique",
            "5:8: there is already a cluster or service named \"main\"; names must be unique",
            "8:8: there is already a cluster or service named \"main\"; names must be unique",
            "15:8: there is already a database named \"a\"; names must be unique",
        ],
    );
}

#[test]
fn a_required_key_is_missed_at_its_section() {
    refused(
        "[[postgres.cluster]]\nnodes = [\"db2\"]\n\n[[postgres.user]]\npassword = \"x\"\n[[admin.user]]\nname = \"a\"\n",
        &[
            "1:1: [[postgres.cluster]] has no name; it must have one",
            "4:1: [[postgres.user]] has no name; it must have one",
            "6:1: [[admin.user]] has no password; it must have one",
        ],
    );
}

#[test]
fn columns_count_characters() {
    let found = errors(&format!(
        "{BASE}[[postgres.database]]\nname = \"größe\"\n[postgres]\npool = {{ mode = \"größe\", sze = 1 }}\n"
    ));
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("f.toml:10:17: postgres.pool.mode"), "{found:?}");
    assert!(found[1].starts_with("f.toml:10:26: unknown key \"sze\""), "{found:?}");
}

#[test]
fn a_syntax_error_stops_at_its_place() {
    assert_eq!(errors("[general]\nthreads = 1\nthreads = 2\n"), ["f.toml:3:1: threads is written twice; keep one"]);
    let found = errors("[general\nthreads = 1\n");
    assert_eq!(found, ["f.toml:1:9: this is not TOML: unclosed table, expected `]`"]);
}

#[test]
fn what_a_function_does_is_no_matter_of_a_user() {
    let found = errors(&format!("{BASE}read_functions = [\"f\"]\n"));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("unknown key \"read_functions\" in [[postgres.user]]"), "{found:?}");
    assert!(found[0].contains("did you mean \"postgres.routing.read_functions\"?"), "{found:?}");
}
