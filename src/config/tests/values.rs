//! Values of each type.

use super::*;

#[test]
fn a_count_below_its_least_is_shown_with_what_was_found() {
    let text = format!("{BASE}\n\n\n[general]\nthreads = 1\n\n[postgres.pool]\nsize   = 0\n");
    assert_eq!(errors(&text), ["f.toml:14:10: postgres.pool.size must be at least 1 (found 0)"]);
}

#[test]
fn counts_of_another_type_or_size_are_refused() {
    refused(
        "[postgres.pool]\nsize = \"20\"\nmin_size = -1\nreserve_size = 1.5\nprepared_statements = 99999999999999999999\n",
        &[
            "2:8: postgres.pool.size must be a whole number (found \"20\"); write it without quotes",
            "3:12: postgres.pool.min_size must be at least 0 (found -1)",
            "4:16: postgres.pool.reserve_size must be a whole number (found 1.5)",
            "5:23: postgres.pool.prepared_statements must be at most 1000000000 (found 99999999999999999999)",
        ],
    );
}

#[test]
fn durations_need_a_unit() {
    refused(
        "[postgres.pool]\nconnect_timeout = 5\nqueue_timeout = 30\nserver_lifetime = \"1 hour\"\n\
         reserve_after = \"off\"\nquery_timeout = \"60\"\n[postgres.failover]\ncheck_interval = \"1ms\"\n",
        &[
            "2:19: postgres.pool.connect_timeout must be a duration such as \"500ms\", \"5s\" or \"1h30m\" (found 5); write a unit: \"5s\" or \"5ms\"",
            "3:17: postgres.pool.queue_timeout must be a duration such as \"500ms\", \"5s\" or \"1h30m\", or \"off\" (found 30); write a unit: \"30s\" or \"30ms\"",
            "4:19: postgres.pool.server_lifetime must be a duration such as \"500ms\", \"5s\" or \"1h30m\", or \"off\" (found \"1 hour\"); the units are d, h, m, s and ms, at most ten years in all",
            "5:17: postgres.pool.reserve_after must be a duration such as \"500ms\", \"5s\" or \"1h30m\" (found \"off\"); the units are d, h, m, s and ms, at most ten years in all",
            "6:17: postgres.pool.query_timeout must be a duration such as \"500ms\", \"5s\" or \"1h30m\", or \"off\" (found \"60\"); write a unit: \"60s\" or \"60ms\"",
            "8:18: postgres.failover.check_interval must be at least \"10ms\" (found \"1ms\")",
        ],
    );
}

#[test]
fn off_and_zero_turn_a_timeout_off() {
    let config = accepted(&format!(
        "{BASE}[postgres.pool]\nqueue_timeout = \"off\"\nserver_lifetime = 0\nserver_idle_timeout = \"0s\"\nquery_timeout = \"1h30m\"\n"
    ));
    let pool = config.postgres.pool;
    assert_eq!((pool.queue_timeout, pool.server_lifetime, pool.server_idle_timeout), (None, None, None));
    assert_eq!(pool.query_timeout, Some(Duration::from_secs(5400)));
}

#[test]
fn zero_is_no_way_to_write_an_unlimited_lag() {
    refused(
        "[postgres.routing]\nmax_lag = 0\nmax_lag_bytes = 0\n",
        &[
            "2:11: postgres.routing.max_lag must not be 0 (found 0); write \"off\" for no limit",
            "3:17: postgres.routing.max_lag_bytes must be at least 1 (found 0)",
        ],
    );
}

#[test]
fn sizes_have_units_or_are_bytes() {
    let config = accepted(&format!(
        "{BASE}[postgres.failover]\nmax_lost_bytes = \"64KiB\"\n[postgres.routing]\nmax_lag_bytes = 1000\n"
    ));
    assert_eq!(config.postgres.failover.max_lost_bytes, 65_536);
    assert_eq!(config.postgres.routing.max_lag_bytes, Some(1000));
    refused(
        "[postgres.failover]\nmax_lost_bytes = \"1 meg\"\n",
        &[
            "2:18: postgres.failover.max_lost_bytes must be a size such as \"64KiB\", \"1MiB\" or a number of bytes (found \"1 meg\"); the units are B, kB, MB, GB, TB and KiB, MiB, GiB, TiB",
        ],
    );
}

#[test]
fn a_queue_is_unlimited_or_counted() {
    let length =
        |text: &str| accepted(&format!("{BASE}[postgres.pool]\nqueue_length = {text}\n")).postgres.pool.queue_length;
    assert_eq!(length("\"unlimited\""), None);
    assert_eq!(length("100"), Some(100));
    refused(
        "[postgres.pool]\nqueue_length = \"off\"\n",
        &["2:16: postgres.pool.queue_length must be a whole number or \"unlimited\" (found \"off\")"],
    );
}

#[test]
fn a_wrong_word_names_the_right_ones_and_the_nearest() {
    refused(
        "[postgres.pool]\nmode = \"transacton\"\n[postgres.routing]\nbalance = 7\nsplit = \"yes\"\n[postgres.failover]\ntxn_loss = \"eror\"\ncommit_resolution = \"of\"\n",
        &[
            "2:8: postgres.pool.mode must be \"transaction\", \"session\" or \"statement\" (found \"transacton\"); did you mean \"transaction\"?",
            "4:11: postgres.routing.balance must be \"least_connections\", \"round_robin\", \"random\" or \"source\" (found 7)",
            "5:9: postgres.routing.split must be true or false (found \"yes\")",
            "7:12: postgres.failover.txn_loss must be \"error\" or \"close\" (found \"eror\"); did you mean \"error\"?",
            "8:21: postgres.failover.commit_resolution must be \"off\" or \"on\" (found \"of\"); did you mean \"off\"?",
        ],
    );
}

#[test]
fn a_command_is_a_list_of_arguments() {
    refused(
        "[postgres.failover]\nevent_command = \"notify --now\"\nfence_command = \"fence\"\n",
        &[
            "2:17: postgres.failover.event_command must be a list: the program, then its arguments; for a line of shell write [\"/bin/sh\", \"-c\", \"...\"]",
            "3:17: postgres.failover.fence_command must be a list: the program, then its arguments; write [\"fence\"]",
        ],
    );
}

#[test]
fn a_hook_that_demotes_has_to_be_there() {
    refused(
        "[postgres.failover]\ndemote_method = \"hook\"\n",
        &[
            "2:17: postgres.failover.demote_method is \"hook\", and there is none; set demote_command, such as to scripts/demote with its arguments",
        ],
    );
    let both = "[postgres.failover]\ndemote_method = \"hook\"\ndemote_command = [\"demote\"]\n";
    assert_eq!(accepted(&format!("{BASE}{both}")).postgres.failover.demote_command, ["demote"]);
}

#[test]
fn log_levels_are_checked() {
    let level = |text: &str| accepted(&format!("{BASE}[general]\nlog.level = \"{text}\"\n")).general.log_level;
    assert_eq!(level("info,forebay::pool=debug"), "info,forebay::pool=debug");
    refused(
        "[general]\nlog.level = \"debgu\"\nlog.format = \"jsn\"\n",
        &[
            "2:13: general.log.level: \"debgu\" is not one of off, error, warn, info, debug, trace, nor MODULE=LEVEL; did you mean \"debug\"?",
            "3:14: general.log.format must be \"text\" or \"json\" (found \"jsn\"); did you mean \"json\"?",
        ],
    );
    let found = errors(&format!("{BASE}[general]\nlog.level = \"forebay=loud\"\n"));
    assert!(found[0].starts_with("f.toml:8:13: general.log.level: \"forebay=loud\" is not a filter:"), "{found:?}");
}

#[test]
fn threads_are_one_per_core_unless_said() {
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(accepted(BASE).general.threads, cores);
    assert_eq!(accepted(&format!("{BASE}[general]\nthreads = 3\n")).general.threads, 3);
    refused("[general]\nthreads = 2000\n", &["2:11: general.threads must be at most 1024 (found 2000)"]);
}

#[test]
fn tls_needs_its_files() {
    refused(
        "[postgres]\ntls.mode = \"require\"\ntls.key = \"/k.pem\"\n",
        &["2:12: postgres.tls.mode needs postgres.tls.cert; name the file, or write \"disable\""],
    );
    refused(
        "[postgres]\ntls = { mode = \"verify-full\", cert = \"c\", key = \"k\" }\n",
        &["2:16: postgres.tls.mode needs postgres.tls.ca; name the file, or write \"disable\""],
    );
    refused(
        "[[postgres.cluster]]\nname = \"b\"\nnodes = [\"db\"]\ntls.mode = \"verify-full\"\n",
        &["4:12: postgres.cluster \"b\": tls.mode needs tls.ca; name the file"],
    );
    refused(
        "[[postgres.cluster]]\nname = \"b\"\nnodes = [\"db\"]\ntls = { mode = \"require\", cert = \"c\" }\n",
        &["4:16: postgres.cluster \"b\": tls.cert and tls.key need each other"],
    );
    let config = accepted(&format!(
        "{BASE}[postgres.tls]\nmode = \"prefer\"\ncert = \"c\"\nkey = \"k\"\nmin_version = \"1.3\"\n"
    ));
    assert_eq!((config.postgres.tls_mode, config.postgres.tls_min_version), (TlsMode::Prefer, TlsVersion::Tls13));
}

#[test]
fn telemetry_goes_to_a_url_and_samples_a_share() {
    let config =
        accepted(&format!("{BASE}[telemetry]\notlp = \"https://[::1]:4318/x\"\nsample = 1\ninterval = \"off\"\n"));
    assert_eq!((config.telemetry.sample, config.telemetry.interval), (1.0, None));
    assert_eq!(accepted(BASE).telemetry.sample, 0.0);
    let telemetry = |key: &str| errors(&format!("{BASE}[telemetry]\notlp = \"http://a\"\n{key}\n")).join("\n");
    for share in ["1.1", "-0.1", "nan", "inf", "\"0.5\"", "true"] {
        assert!(telemetry(&format!("sample = {share}")).contains("must be a number from 0 to 1"), "{share}");
    }
    assert!(telemetry("headers = { \"a b\" = \"x\" }").contains("no header that HTTP could carry"));
    for url in ["collector:4318", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a?b", "http://a b"] {
        let found = errors(&format!("{BASE}[telemetry]\notlp = \"{url}\"\n")).join("\n");
        assert!(found.contains("telemetry.otlp must be a URL"), "{url}: {found}");
    }
    assert_eq!(warnings("[telemetry]\nsample = 0.5\n").len(), 1, "nobody to tell");
}
