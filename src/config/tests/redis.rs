//! TLS of Redis services: what belongs together.

use super::*;

/// A service with these lines more is refused; line 1 is the first of them.
#[track_caller]
fn service_refused(lines: &str, expected: &[&str]) {
    let service = "[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\nsentinels = [\"s1\"]\nmaster_name = \"m\"\n";
    let offset = service.lines().count();
    let moved: Vec<String> = expected
        .iter()
        .map(|error| {
            let (line, rest) = error.split_once(':').expect("LINE:COL: message");
            format!("{}:{rest}", line.parse::<usize>().expect("a line number") + offset)
        })
        .collect();
    refused(&format!("{service}{lines}"), &moved.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_server_is_not_asked_whether_it_speaks_tls() {
    for mode in ["allow", "prefer"] {
        let why = |key: &str| {
            format!(
                "redis.service \"r\": {key} may not be left to the server, since Redis cannot be asked whether it \
                 speaks TLS; write \"require\", \"verify-ca\" or \"verify-full\", or \"disable\""
            )
        };
        service_refused(&format!("tls.mode = \"{mode}\"\n"), &[&format!("1:12: {}", why("tls.mode"))]);
        service_refused(&format!("sentinel_tls = \"{mode}\"\n"), &[&format!("1:16: {}", why("sentinel_tls"))]);
    }
}

#[test]
fn what_is_checked_needs_an_authority() {
    service_refused(
        "tls = { mode = \"verify-full\" }\nsentinel_tls = \"verify-ca\"\n",
        &[
            "1:16: redis.service \"r\": tls.mode needs tls.ca; name the file",
            "2:16: redis.service \"r\": sentinel_tls needs tls.ca; name the file",
        ],
    );
    service_refused(
        "[redis.service.client_tls]\nmode = \"verify-ca\"\ncert = \"c\"\nkey = \"k\"\n",
        &["2:8: redis.service \"r\": client_tls.mode needs client_tls.ca; name the file, or write \"disable\""],
    );
}

#[test]
fn clients_are_shown_a_certificate_and_its_key() {
    service_refused(
        "client_tls.mode = \"allow\"\nclient_tls.key = \"k\"\n",
        &["1:19: redis.service \"r\": client_tls.mode needs client_tls.cert; name the file, or write \"disable\""],
    );
    service_refused(
        "tls = { mode = \"require\", cert = \"c\" }\n",
        &["1:7: redis.service \"r\": tls.cert and tls.key need each other"],
    );
}

#[test]
fn files_that_would_not_be_used_are_refused() {
    service_refused(
        "tls.ca = \"ca\"\nclient_tls.cert = \"c\"\n",
        &[
            "1:10: redis.service \"r\": tls.ca is not used without tls.mode; write \"require\" or stricter, or \
             \"disable\"",
            "2:19: redis.service \"r\": client_tls.cert is not used without client_tls.mode; write \"require\" or \
             stricter, or \"disable\"",
        ],
    );
}

#[test]
fn a_mode_for_sentinels_needs_sentinels() {
    refused(
        "[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\nnodes = [\"r1\"]\nsentinel_tls = \"disable\"\n",
        &["5:16: redis.service \"r\" has a sentinel_tls, but no sentinels; remove it"],
    );
}

#[test]
fn what_fits_together_is_taken() {
    let service = "[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\nsentinels = [\"s1\"]\nmaster_name = \"m\"\n\
        tls = { ca = \"ca\", cert = \"c\", key = \"k\" }\nsentinel_tls = \"verify-full\"\n\
        client_tls = { mode = \"prefer\", cert = \"c\", key = \"k\", min_version = \"1.3\", timeout = \"3s\" }\n";
    let config = accepted(&format!("{BASE}{service}"));
    let [service] = config.redis.as_slice() else { panic!("one service") };
    assert_eq!((service.tls_mode, service.sentinel_tls), (TlsMode::Disable, Some(TlsMode::VerifyFull)));
    assert_eq!((service.client_tls_mode, service.client_tls_min_version), (TlsMode::Prefer, TlsVersion::Tls13));
    assert_eq!(service.client_tls_timeout, Duration::from_secs(3));
}
