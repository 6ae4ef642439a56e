//! Sections that ask for nothing, and what is refused of `[coordination]`.

use super::*;

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
fn coordination_is_checked() {
    refused(
        "[coordination]\netcd = [\"127.0.0.1:2379\"]\nprefix = \"/\"\ntls.cert = \"a.pem\"\npassword = \"p\"\nname = \"a/b\"\n",
        &[
            "2:9: coordination.etcd must hold URLs that start with http:// or https://",
            "3:10: coordination.prefix must name something, such as \"/forebay\"",
            "4:12: coordination.tls.cert needs tls.key",
            "5:12: coordination.password needs user",
            "6:8: coordination.name must not be empty and have no \"/\"",
        ],
    );
    let quiet = warnings("[coordination]\netcd = [\"http://127.0.0.1:2379\"]\nname = \"a\"\n");
    assert_eq!(quiet, Vec::<String>::new());
}
