use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::*;

const SERVER_NONCE: [u8; NONCE] = [7; NONCE];
const CLIENT_NONCE: [u8; NONCE] = [9; NONCE];

/// Few iterations keep the tests quick; those against PostgreSQL's own verifiers use its 4096.
fn verifier() -> Verifier {
    Verifier::derive(b"pencil", b"0123456789abcdef", 3)
}

fn server() -> ScramServer {
    ScramServer::new(&verifier(), SERVER_NONCE)
}

/// A whole exchange between our two sides.
fn exchange(server: ScramServer, password: &[u8]) -> Result<Done, ScramError> {
    let client = ScramClient::new(CLIENT_NONCE);
    let asked = server.first(client.first())?;
    let challenge = client.challenge(asked.message())?;
    let keys = challenge.derive(password);
    let proof = challenge.respond(&keys);
    let done = asked.last(proof.message())?;
    proof.verify(&done.server_final)?;
    assert_eq!(done.client_key, keys.client_key, "the server learns the client's key");
    Ok(done)
}

#[test]
fn the_right_password_logs_in_and_leaves_its_key() {
    let done = exchange(server(), b"pencil").unwrap();
    assert_eq!(sha256(&done.client_key), verifier().stored_key);
    assert_eq!(exchange(server(), b"Pencil"), Err(ScramError::WrongPassword));
    assert_eq!(exchange(server(), b""), Err(ScramError::WrongPassword));
}

#[test]
fn the_key_of_a_client_opens_a_server_with_the_same_verifier() {
    let client_key = exchange(server(), b"pencil").unwrap().client_key;
    let keys = Keys { client_key, server_key: verifier().server_key };
    let asked = ScramServer::new(&verifier(), [1; NONCE]);
    let client = ScramClient::new([2; NONCE]);
    let asked = asked.first(client.first()).unwrap();
    let proof = client.challenge(asked.message()).unwrap().respond(&keys);
    let done = asked.last(proof.message()).unwrap();
    assert_eq!(proof.verify(&done.server_final), Ok(()));
}

// https://www.rfc-editor.org/rfc/rfc7677, section 3
const RFC_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const RFC_CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const RFC_PROOF: &str =
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const RFC_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

#[test]
fn rfc_7677s_example_is_reproduced_by_the_client() {
    // The example's user name stands in what is signed, which PostgreSQL's clients leave empty.
    let client = client::ScramClient::with(RFC_FIRST, "rOprNGfwEbeRWgbNEkqO");
    let challenge = client.challenge(RFC_CHALLENGE.as_bytes()).unwrap();
    assert_eq!(challenge.iterations(), 4096);
    let keys = challenge.derive(b"pencil");
    let proof = challenge.respond(&keys);
    assert_eq!(std::str::from_utf8(proof.message()), Ok(RFC_PROOF));
    assert_eq!(proof.verify(RFC_FINAL.as_bytes()), Ok(()));
}

#[test]
fn rfc_7677s_example_is_accepted_by_the_server() {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::derive(b"pencil", &salt, 4096);
    let nonce = RFC_CHALLENGE[2..].split(',').next().unwrap();
    let challenge = ServerChallenge::with(verifier, &RFC_FIRST[3..], nonce, RFC_CHALLENGE);
    let done = challenge.last(RFC_PROOF.as_bytes()).unwrap();
    assert_eq!(std::str::from_utf8(&done.server_final), Ok(RFC_FINAL));
}

#[test]
fn an_independent_client_logs_in() {
    for password in ["pencil", "p\u{e4}ss\u{2168}", ""] {
        for binding in [ChannelBinding::unsupported(), ChannelBinding::unrequested()] {
            let verifier = Verifier::derive(password.as_bytes(), b"salt", 5);
            let mut client = ScramSha256::new(password.as_bytes(), binding);
            let challenge = ScramServer::new(&verifier, SERVER_NONCE).first(client.message()).unwrap();
            client.update(challenge.message()).unwrap();
            let done = challenge.last(client.message()).unwrap();
            client.finish(&done.server_final).expect("our signature must convince it");
        }
    }
}

fn by_end_point(data: &[u8]) -> Binding {
    Binding::EndPoint(data.to_vec())
}

#[test]
fn an_independent_client_binds_the_channel() {
    let exchange = |shown: &[u8], ours: Binding| {
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::tls_server_end_point(shown.to_vec()));
        let challenge = server().bound(ours).first(client.message())?;
        client.update(challenge.message()).unwrap();
        let done = challenge.last(client.message())?;
        client.finish(&done.server_final).expect("our signature must convince it");
        Ok(())
    };
    assert_eq!(exchange(b"certificate", by_end_point(b"certificate")), Ok(()));
    assert_eq!(exchange(b"another one", by_end_point(b"certificate")), Err(ScramError::OtherChannel));
    assert!(matches!(exchange(b"certificate", Binding::Unused), Err(ScramError::Mismatch(_))));
    assert!(matches!(exchange(b"certificate", Binding::Impossible), Err(ScramError::Unsupported(_))));
}

#[test]
fn both_of_our_sides_bind_the_channel_and_notice_who_stands_between() {
    let exchange = |clients: Binding, servers: Binding| {
        let asked = server().bound(servers).first(ScramClient::bound(CLIENT_NONCE, clients.clone()).first())?;
        let challenge = ScramClient::bound(CLIENT_NONCE, clients).challenge(asked.message())?;
        let keys = challenge.derive(b"pencil");
        asked.last(challenge.respond(&keys).message()).map(drop)
    };
    let bound = || by_end_point(b"certificate");
    assert_eq!(exchange(bound(), bound()), Ok(()));
    assert_eq!(exchange(Binding::Impossible, Binding::Unused), Ok(()), "a client without binding may come");
    assert_eq!(exchange(Binding::Unused, Binding::Impossible), Ok(()), "a server without binding is served");
    assert_eq!(exchange(Binding::Unused, Binding::Unused), Err(ScramError::Downgraded));
    assert_eq!(exchange(by_end_point(b"another one"), bound()), Err(ScramError::OtherChannel));
    assert!(matches!(exchange(Binding::Impossible, bound()), Err(ScramError::Mismatch(_))));
    let other_type = server().bound(bound()).first(b"p=tls-unique,,n=,r=a");
    assert!(matches!(other_type, Err(ScramError::Unsupported(_))));
}

#[test]
fn an_independent_client_with_a_wrong_password_does_not() {
    let mut client = ScramSha256::new(b"wrong", ChannelBinding::unsupported());
    let challenge = server().first(client.message()).unwrap();
    client.update(challenge.message()).unwrap();
    assert_eq!(challenge.last(client.message()), Err(ScramError::WrongPassword));
}

#[test]
fn either_of_two_passwords_logs_in_and_its_verifier_is_known() {
    let new = Verifier::derive(b"biro", b"0123456789abcdef", 3);
    for (password, expected) in [(&b"pencil"[..], verifier()), (b"biro", new.clone())] {
        let done = exchange(server().or(Some(&new)), password).unwrap();
        assert_eq!(done.verifier, expected);
        assert_eq!(sha256(&done.client_key), expected.stored_key);
    }
    assert_eq!(exchange(server().or(Some(&new)), b"chalk"), Err(ScramError::WrongPassword));
    let unlike = Verifier::derive(b"biro", b"another salt", 3);
    assert_eq!(exchange(server().or(Some(&unlike)), b"biro"), Err(ScramError::WrongPassword));
    let mut mock = server().or(Some(&new));
    mock.doom();
    assert_eq!(exchange(mock, b"biro"), Err(ScramError::WrongPassword));
}

#[test]
fn unknown_users_fail_at_the_end_like_a_wrong_password() {
    let secret = [3; 32];
    let mock = |user: &str, nonce| ScramServer::mock(&secret, user, nonce);
    assert_eq!(exchange(mock("nobody", SERVER_NONCE), b"x"), Err(ScramError::WrongPassword));

    let salt = |server: ScramServer| {
        let client = ScramClient::new(CLIENT_NONCE);
        let challenge = server.first(client.first()).unwrap();
        let challenge = client.challenge(challenge.message()).unwrap();
        assert_eq!(challenge.iterations(), ITERATIONS);
        challenge.salt().to_vec()
    };
    let first = salt(mock("nobody", [1; NONCE]));
    assert_eq!(first.len(), 16);
    assert_eq!(first, salt(mock("nobody", [2; NONCE])), "a salt that changed would give the game away");
    assert_eq!(first, mock_salt(&secret, "nobody"));
    assert_ne!(first, salt(mock("somebody", [1; NONCE])));
    assert_ne!(first, salt(ScramServer::mock(&[4; 32], "nobody", [1; NONCE])));
}

#[test]
fn even_the_right_keys_do_not_pass_a_mock() {
    let mut server = server();
    server.doom();
    assert_eq!(exchange(server, b"pencil"), Err(ScramError::WrongPassword));
}

#[test]
fn first_messages_of_clients_are_judged() {
    for accepted in ["n,,n=,r=abc", "y,,n=,r=abc", "n,,n=user,r=a+/=~!", "n,,n=,r=abc,x=ext,y=", "n,,n=,r=abc,x=a=b"] {
        assert!(server().first(accepted.as_bytes()).is_ok(), "{accepted}");
    }
    for (refused, text) in [
        ("", "malformed SCRAM message: expected a gs2 header"),
        ("n", "malformed SCRAM message: expected a gs2 header"),
        ("n,", "malformed SCRAM message: expected a gs2 header"),
        ("x,,n=,r=a", "malformed SCRAM message: expected channel-binding flag \"n\", \"y\" or \"p\""),
        ("p=tls-unique,,n=,r=a", "client demands channel binding, which is not offered"),
        ("n,a=bob,n=,r=a", "client uses authorization identity, but it is not supported"),
        ("n,b=bob,n=,r=a", "malformed SCRAM message: expected an empty authorization identity"),
        ("n,,m=x,n=,r=a", "client requires an unsupported SCRAM extension"),
        ("n,,", "malformed SCRAM message: expected attribute \"n\""),
        ("n,,r=a", "malformed SCRAM message: expected attribute \"n\""),
        ("n,,n=", "malformed SCRAM message: expected attribute \"r\""),
        ("n,,n=,r=", "malformed SCRAM message: expected a nonce of printable characters"),
        ("n,,n=,r=a b", "malformed SCRAM message: expected a nonce of printable characters"),
        ("n,,n=,r=\u{e4}", "malformed SCRAM message: expected a nonce of printable characters"),
        ("n,,n=,r=a\x7f", "malformed SCRAM message: expected a nonce of printable characters"),
        ("n,,n=,r=a\0", "malformed SCRAM message: expected no NUL"),
        ("n,,n=,r=a,", "malformed SCRAM message: expected an extension attribute"),
        ("n,,n=,r=a,1=x", "malformed SCRAM message: expected an extension attribute"),
    ] {
        let error = server().first(refused.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), text, "{refused:?}");
        let expected = if text.starts_with("malformed") { "08P01" } else { "0A000" };
        assert_eq!(error.sqlstate(), expected, "{refused:?}");
    }
    assert_eq!(server().first(b"n,,n=,r=\xff").unwrap_err(), ScramError::Malformed("UTF-8"));
}

#[test]
fn last_messages_of_clients_are_judged() {
    let asked = || server().first(b"y,,n=,r=abc").unwrap();
    let nonce = format!("abc{}", nonce_text(SERVER_NONCE));
    let proof = STANDARD.encode([0; 32]);
    let last = |text: &str| {
        let text = text.replace("NONCE", &nonce).replace("PROOF", &proof);
        asked().last(text.as_bytes()).unwrap_err()
    };
    assert_eq!(last("c=eSws,r=NONCE,p=PROOF"), ScramError::WrongPassword);
    assert_eq!(last("c=eSws,r=NONCE,x=1,y=2,p=PROOF"), ScramError::WrongPassword);
    for (text, expected) in [
        ("c=biws,r=NONCE,p=PROOF", "invalid SCRAM response: channel binding does not match the first message"),
        ("c=eSws,r=abc,p=PROOF", "invalid SCRAM response: nonce does not match"),
        ("c=eSws,r=NONCEx,p=PROOF", "invalid SCRAM response: nonce does not match"),
        ("r=NONCE,p=PROOF", "malformed SCRAM message: expected attribute \"c\""),
        ("c=eSws,p=PROOF", "malformed SCRAM message: expected attribute \"r\""),
        ("c=eSws,r=NONCE", "malformed SCRAM message: expected attribute \"p\""),
        ("c=eSws,r=NONCE,", "malformed SCRAM message: expected attribute \"p\""),
        ("c=eSws,r=NONCE,p=PROOF,x=1", "malformed SCRAM message: expected the proof as last attribute"),
        ("c=eSws,r=NONCE,p=PROO", "malformed SCRAM message: expected a proof of 32 bytes"),
        ("c=eSws,r=NONCE,p=%", "malformed SCRAM message: expected a proof of 32 bytes"),
        ("", "malformed SCRAM message: expected attribute \"c\""),
    ] {
        let error = last(text);
        assert_eq!(error.to_string(), expected, "{text}");
        assert_eq!(error.sqlstate(), "08P01");
    }
}

#[test]
fn servers_are_judged_by_the_client() {
    let ours = nonce_text(CLIENT_NONCE);
    let challenge = |text: &str| {
        let text = text.replace("OURS", &ours);
        ScramClient::new(CLIENT_NONCE).challenge(text.as_bytes()).map(|c| c.iterations())
    };
    assert_eq!(challenge("r=OURSx,s=c2FsdA==,i=1"), Ok(1));
    assert_eq!(challenge("r=OURSx,s=c2FsdA==,i=1000000,x=ext"), Ok(1_000_000));
    for (text, expected) in [
        ("r=OURSx,s=c2FsdA==,i=1000001", ScramError::Iterations(1_000_001)),
        ("r=OURSx,s=c2FsdA==,i=99999999999999999999999", ScramError::Iterations(u64::MAX)),
        ("r=OURSx,s=c2FsdA==,i=0", ScramError::Malformed("a number of iterations")),
        ("r=OURSx,s=c2FsdA==,i=-1", ScramError::Malformed("a number of iterations")),
        ("r=OURSx,s=c2FsdA==,i=", ScramError::Malformed("a number of iterations")),
        ("r=OURSx,s=c2FsdA==", ScramError::Malformed("attribute \"i\"")),
        ("r=OURSx,s=!,i=1", ScramError::Malformed("a salt in base64")),
        ("r=OURS,s=c2FsdA==,i=1", ScramError::Mismatch("nonce does not extend ours")),
        ("r=theirs,s=c2FsdA==,i=1", ScramError::Mismatch("nonce does not extend ours")),
        ("r=OURS ,s=c2FsdA==,i=1", ScramError::Malformed("a nonce of printable characters")),
        ("m=x,r=OURSx", ScramError::Unsupported("server requires an unsupported SCRAM extension")),
        ("e=other-error", ScramError::Refused("other-error".into())),
    ] {
        assert_eq!(challenge(text), Err(expected), "{text}");
    }

    let proof = || {
        let client = ScramClient::new(CLIENT_NONCE);
        let challenge = client.challenge(format!("r={ours}x,s=c2FsdA==,i=1").as_bytes()).unwrap();
        let keys = challenge.derive(b"pencil");
        challenge.respond(&keys)
    };
    let signature = STANDARD.encode([0; 32]);
    assert_eq!(proof().verify(format!("v={signature}").as_bytes()), Err(ScramError::WrongServer));
    assert_eq!(proof().verify(b"e=invalid-proof"), Err(ScramError::Refused("invalid-proof".into())));
    assert_eq!(proof().verify(b"v=AAAA"), Err(ScramError::Malformed("a signature of 32 bytes")));
    assert_eq!(proof().verify(b""), Err(ScramError::Malformed("attribute \"v\"")));
}

/// `CREATE ROLE r PASSWORD ...; SELECT rolpassword FROM pg_authid` of PostgreSQL 15.
const STORED: [(&str, &str); 12] = [
    (
        "pencil",
        "n4xRCEMgKz4LluBhlrk80w==$kSnL4n8UDsTIV6B1qaLNJlJWGi1L7NfzklVtUDeJiOA=:hBkUEA1RTLjTZThEDJrkPqwPmmpic3inT6mwu011N4o=",
    ),
    (
        "I\u{ad}X",
        "2t7dQmgoS4rfInj2g1kdvA==$ux5ai2/8g+ueTcAEBecnplIpea2Qq2a4GJ9oKh4cFZU=:bggP7woThFsWLtkYEIOTxOPIxqs2pESyOoiDqF1NHlA=",
    ),
    (
        "\u{2168}\u{aa}",
        "dL+WffnYKYZWhunLOT09ng==$zatoj1IQ8KyKse7D6DoursDTn4QbMaEZvkGwfoYgfuk=:6BmfNTpUXKOcBO7RUocDWbEkxGLyABN17iHlzvB8lWk=",
    ),
    (
        "\u{1f600}\u{2168}",
        "7E+YpUzk7y+t0wHP2J0iWw==$VXcYGq5QKnnWx2J34R0Tpze0rqPp5XWbEoRZ5sEzqq4=:d8KRNj7AacGooYCsfMPPqN+RCBZotLyFeorvWEnOIOw=",
    ),
    (
        "\u{340}a",
        "wy093DtpgguD8x+vsTWJtw==$A16HFrDMaPA3hDGTTYqPoAu7xfTymRr2JYlsXKGdObY=:CsxzQgUlLrwlwoU4/ghkHflgqTs1tCXwhNWYAjM30b0=",
    ),
    (
        "\u{ad}",
        "ZUa9XsORniV9KI0w/x6x4g==$PnlSWwQ0N9TmjmcPVHBHP7C76lBTmfCizFS9J6npn0w=:TLbMTZFqY4ZxM9ZJriF8YXiP7M+qgPaTW9oc2m3rQVg=",
    ),
    (
        "\u{627}1\u{aa}",
        "btxvHj9LZtWIPK0uAsB2UA==$zC+RWhaFnz3+3Ls168D7d3hMdnlCufT6fE6avNqPEXM=:U5gf95g1shlBSKdQM00q6mKzY0ZNmCEaFe/2vqemf/E=",
    ),
    (
        "a\u{a0}b",
        "HGQDHtH3PM99+T1eaoRz5g==$nrqzYd7BIpGFKEyfb9x1mQgk1P8bXceUW3spHFj7Z94=:iAQK0NWaItcnFu6LgAcyC8hk/T0LuJnOjzqIugxq1Es=",
    ),
    (
        "bell\u{7}",
        "K+aB6xhIcWdOArUWDjoUcw==$bqIegOxPFRfBrwpY47KNqhMDgLrm/dFMtqGYeIZsEAY=:SRzykyfnlCsn1SDrR7Z9p0Pggdnxvg8llsXVopXoUhY=",
    ),
    (
        "\u{7}\u{aa}",
        "IIcyYYIGit/Q4dlco+mDUw==$g2C2osCAeFiSdvWCRzr0CRE6ggbi7Q9Hh7CvMFhhTps=:WifAOtQG58KL2lq6+eVe/QUuraj+gN3O5vLrHrUn+dU=",
    ),
    (
        "e\u{301}\u{20ac}",
        "tVB6Jv/2Xrp2Q00qsG5vrQ==$wiFKZcTuUoB3dfZreqZqP/ccc1AwxNl5yw/f59fWoXQ=:eVeHeGYFMvn+oFpdiSCSXk128zueuWhGNqX7j2EzAUc=",
    ),
    (
        "\u{37a}",
        "7I0skzd9OLgZvUetSm91bw==$2JqNTCGLz3XAL3NtTfwzImkhSjeQXmNQ9mOskzK3/GU=:9g6fe28Pie03KCic94HMSQc0mFBa20r3UNKEfDZFFPk=",
    ),
];

#[test]
fn verifiers_of_postgresql_are_understood() {
    for (password, stored) in STORED {
        let text = format!("SCRAM-SHA-256$4096:{stored}");
        let verifier = Verifier::parse(&text).expect(password);
        assert_eq!(verifier.format(), text);
        let made = Verifier::derive(password.as_bytes(), &verifier.salt, verifier.iterations);
        assert_eq!(made.format(), text, "password {password:?}");
    }
}

#[test]
fn what_is_no_verifier_is_not_taken_for_one() {
    let good = verifier().format();
    assert_eq!(Verifier::parse(&good), Some(verifier()));
    for bad in [
        good.replace("SCRAM-SHA-256", "SCRAM-SHA-512"),
        good.replace("$3:", "$0:"),
        good.replace("$3:", "$+3:"),
        good.replace("$3:", "$:"),
        good.replace("$3:", "$99999999999:"),
        good.replace("$3:", "$3$"),
        format!("{good}A"),
        good[..good.len() - 4].to_owned(),
        String::new(),
    ] {
        assert_eq!(Verifier::parse(&bad), None, "{bad}");
    }
}

#[test]
fn keys_of_any_length_are_hashed_as_rfc_2104_says() {
    for len in [0, 1, 63, 64, 65, 200] {
        let key = vec![0x5a; len];
        let expected = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(b"data");
        assert_eq!(sign(&key, b"data"), finish(expected), "{len} bytes");
    }
}

#[test]
fn secrets_are_not_shown() {
    let keys = derive(b"pencil", b"salt", 1);
    assert_eq!(format!("{keys:?}"), "Keys(***)");
    assert_eq!(format!("{:?}", verifier()), "Verifier(3 iterations, ***)");
    let shown = format!("{:?}", server());
    let key = format!("{:?}", verifier().server_key);
    assert!(!shown.contains(&key), "{shown}");
}
