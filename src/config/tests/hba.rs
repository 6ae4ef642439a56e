//! `auth = "hba"` and its files, as part of the configuration.

use super::*;

/// A folder with these rules and maps, and what a configuration in it that has `lines` in `[postgres]` gives.
fn with_files(rules: &str, maps: &str, lines: &str) -> (tempfile::TempDir, Result<Loaded, Diagnostics>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hba.conf"), rules).unwrap();
    std::fs::write(folder.path().join("ident.conf"), maps).unwrap();
    let text = format!("{BASE}[postgres]\nauth = \"hba\"\nhba_file = \"hba.conf\"\n{lines}");
    let loaded = read(&text, "f.toml", reader::Reader::new(folder.path(), resolve), None);
    (folder, loaded)
}

#[test]
fn rules_are_read_with_the_configuration() {
    let (folder, loaded) = with_files("local all all peer map=m\n", "m root app\n", "ident_file = \"ident.conf\"\n");
    let Loaded { config, warnings } = loaded.unwrap();
    assert_eq!(warnings, []);
    let hba = config.postgres.hba.as_ref().unwrap();
    assert_eq!((hba.rules.len(), hba.mappings.len()), (1, 1));
    assert_eq!(config.postgres.hba_file, Some(folder.path().join("hba.conf")));
    // Whatever has become of the files: SET is about its key alone.
    std::fs::write(folder.path().join("hba.conf"), "broken").unwrap();
    let changed = set(&config, "postgres.pool.size", "7").unwrap();
    assert_eq!(changed.postgres.hba, config.postgres.hba);
    assert_eq!(diff(&config, &changed).len(), 1);
    let none = set(&config, "postgres.auth", "trust").unwrap();
    assert_eq!(none.postgres.hba, None);
    assert!(set(&none, "postgres.auth", "hba").unwrap_err().contains("invalid connection type \"broken\""));
}

#[test]
fn mistakes_of_all_files_are_told_at_once() {
    let (folder, loaded) =
        with_files("hosts\nlocal all all trust\n", "m\n", "ident_file = \"ident.conf\"\nmax_clients = 0\n");
    let found: Vec<_> = loaded.unwrap_err().errors.iter().map(ToString::to_string).collect();
    let folder = folder.path().display();
    assert_eq!(
        found,
        [
            "f.toml:11:15: postgres.max_clients must be at least 1 (found 0)".to_owned(),
            format!("{folder}/hba.conf:1: invalid connection type \"hosts\"; did you mean host?"),
            format!("{folder}/ident.conf:1: end of line before the system's user name"),
        ]
    );
}

#[test]
fn what_the_rules_need_is_asked_for() {
    refused(
        "[postgres]\nauth = \"hba\"\n",
        &["2:8: postgres.auth = \"hba\" needs postgres.hba_file; name the file of rules"],
    );
    refused(
        "[postgres]\nauth = \"cert\"\n",
        &["2:8: postgres.auth = \"cert\" needs postgres.tls.mode and the authorities in postgres.tls.ca"],
    );
    assert_eq!(
        warnings("[postgres]\nhba_file = \"x\"\nident_file = \"y\"\n"),
        [
            "2:12: postgres.hba_file has no effect without auth = \"hba\"",
            "3:14: postgres.ident_file has no effect without auth = \"hba\" or \"cert\"",
        ]
    );
    let tls = "tls.mode = \"allow\"\ntls.cert = \"c\"\ntls.key = \"k\"\n";
    let (_folder, loaded) = with_files("hostssl all all all cert\n", "", tls);
    let errors = loaded.unwrap_err().to_string();
    assert!(
        errors.ends_with("hba.conf:1: clients' certificates can be checked only with postgres.tls.ca; name the file")
    );
}

#[test]
fn rules_that_are_open_or_idle_are_warned_of() {
    let rules = "host all all 127.0.0.1/32 trust\nhost all all ::1/128 password\nhost all all samehost trust\n\
        local all all trust\nhost all all 127.0.0.0/7 trust\nhost all all all password\nhostssl all all all password\n\
        hostnossl all all all md5\nhostgssenc all all all md5\nhostssl all all all trust clientcert=verify-ca\n";
    let lines = |tls: &str| -> Vec<usize> {
        let (_folder, loaded) = with_files(rules, "", tls);
        loaded.unwrap().warnings.iter().map(|warning| warning.line).collect()
    };
    let files = "tls.cert = \"c\"\ntls.key = \"k\"\ntls.ca = \"a\"\n";
    assert_eq!(lines(""), [5, 6, 7, 9, 10], "hostssl fits nothing without TLS");
    assert_eq!(lines(&format!("tls.mode = \"allow\"\n{files}")), [5, 6, 9]);
    assert_eq!(lines(&format!("tls.mode = \"require\"\n{files}")), [5, 8, 9], "nothing is said in clear text");
}
