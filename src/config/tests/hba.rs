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

#[test]
fn what_directories_need_is_asked_for() {
    let rule =
        "host all all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapbasedn=dc=x ldapbinddn=cn=s ldapbindpasswd=hush\n";
    let found = |lines: &str, mode: u32| -> Vec<String> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hba.conf");
        std::fs::write(&file, rule).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let text = format!("{BASE}[postgres]\nauth = \"hba\"\nhba_file = \"hba.conf\"\n{lines}");
        match read(&text, "f.toml", reader::Reader::new(folder.path(), resolve), None) {
            Ok(loaded) => loaded.warnings.into_iter().map(|warning| warning.message).collect(),
            Err(found) => found.errors.into_iter().map(|error| error.message).collect(),
        }
    };
    assert_eq!(found("", 0o600), Vec::<String>::new());
    let open = found("", 0o644);
    assert!(open.len() == 1 && open[0].starts_with("ldapbindpasswd stands here, and "), "{open:?}");
    assert_eq!(
        found("ldap.timeout = \"10s\"\npool.client_login_timeout = \"10s\"\n", 0o600),
        [
            "client_login_timeout (10s) ends before all LDAP servers have been tried for postgres.ldap.timeout (10s) each"
        ]
    );
    let tls = "tls.mode = \"require\"\ntls.cert = \"c\"\ntls.key = \"k\"\ntls.channel_binding = \"require\"\n";
    let bound = found(tls, 0o600);
    assert!(bound.len() == 1 && bound[0].starts_with("ldap cannot be used with"), "{bound:?}");
    assert_eq!(
        warnings("[postgres]\nldap.ca = \"x\"\n"),
        ["2:11: postgres.ldap.ca has no effect without auth = \"hba\""]
    );
}
