//! What later versions will do: refused where ignoring it would be unsafe.

use super::*;
use crate::config::later::rows_of_existing_keys;

#[test]
fn what_would_be_unsafe_to_ignore_is_refused() {
    let unavailable = |lines: &str, position: &str, key: &str| {
        let found = errors(&format!("{BASE}{lines}"));
        let start = format!("f.toml:{position}: {key}");
        assert!(found.len() == 1 && found[0].starts_with(&start), "{lines}: {found:#?}");
        assert!(found[0].contains("not available in this version; "), "{lines}: {found:#?}");
    };
    unavailable("[coordination]\netcd = [\"http://127.0.0.1:2379\"]\n", "8:8", "coordination.etcd");
}

#[test]
fn values_that_ask_for_nothing_are_accepted() {
    let quiet = warnings(
        "[postgres]\ntls.mode = \"disable\"\n[postgres.failover]\nmode = \"off\"\ndurability = \"strict\"\n\
         [security]\nallow = []\nproxy_protocol = \"off\"\nban_after = 8\n[coordination]\netcd = []\n[notify]\nwebhook = []\n",
    );
    assert_eq!(quiet, Vec::<String>::new());
}

#[test]
fn what_has_an_effect_is_not_warned_of() {
    let quiet = warnings("[postgres.failover]\ntxn_loss = \"error\"\ncommit_resolution = \"on\"\n");
    assert_eq!(quiet, Vec::<String>::new());
}

#[test]
fn their_values_are_checked_all_the_same() {
    refused(
        "[postgres]\ntls.mode = \"requre\"\ntls.crt = \"x\"\nauth_query = 5\n",
        &[
            "2:12: postgres.tls.mode must be \"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\" (found \"requre\"); did you mean \"require\"?",
            "3:5: unknown key \"tls.crt\" in [postgres]; did you mean \"tls.cert\"?",
            "4:14: postgres.auth_query must be a string (found 5)",
        ],
    );
    refused(
        "[postgres]\ntls = \"on\"\n",
        &["2:7: postgres.tls must be a table with mode, cert, key, ca, min_version, channel_binding"],
    );
}

#[test]
fn the_table_speaks_of_keys_that_exist() {
    for key in reference().iter().filter(|key| key.is_placeholder) {
        let is_field = reference().iter().any(|other| !other.is_placeholder && other.path() == key.path());
        assert!(!is_field, "{} has a field; take it out of the placeholders", key.path());
    }
    for (section, key) in rows_of_existing_keys() {
        let exists = reference().iter().any(|info| !info.is_placeholder && info.section == section && info.name == key);
        assert!(exists, "{section}.{key} is not a key");
    }
}
