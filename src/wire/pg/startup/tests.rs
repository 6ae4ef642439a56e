use super::*;

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = (8 + body.len() as u32).to_be_bytes().to_vec();
    out.extend(code.to_be_bytes());
    out.extend(body);
    out
}

fn session_of(body: &[u8]) -> Result<Session, StartupError> {
    match parse_startup(&packet(3 << 16, body))? {
        Some((Startup::Session(session), _)) => Ok(session),
        other => panic!("expected a session, got {other:?}"),
    }
}

#[test]
fn each_first_packet_is_recognised() {
    let secret = SecretBytes::new(&[1, 2, 3, 4]).unwrap();
    let cancel = Startup::Cancel(Cancel { process_id: -5, secret });
    for (bytes, expected) in [
        (packet(SSL_CODE, b""), Startup::Ssl),
        (packet(GSSENC_CODE, b""), Startup::GssEnc),
        (packet(CANCEL_CODE, &[0xff, 0xff, 0xff, 0xfb, 1, 2, 3, 4]), cancel),
    ] {
        let len = bytes.len();
        assert_eq!(parse_startup(&bytes), Ok(Some((expected, len))));
        for cut in 0..len {
            assert_eq!(parse_startup(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }
}

#[test]
fn a_session_names_user_database_and_parameters() {
    let session = session_of(b"user\0app\0database\0shop\0application_name\0caf\xe9\0a\x001\0a\x002\0\0").unwrap();
    assert_eq!((session.major, session.minor), (3, 0));
    assert_eq!((session.user.as_str(), session.database.as_str()), ("app", "shop"));
    assert_eq!(session.param("application_name"), Some(&b"caf\xe9"[..]));
    assert_eq!(session.param("a"), Some(&b"2"[..]), "the last of equal names counts");
    assert_eq!(session.param("user"), None);
    assert_eq!(session.params.len(), 3);
    assert!(!session.must_negotiate());
}

#[test]
fn the_database_defaults_to_the_user_and_repeats_override() {
    let session = session_of(b"user\0a\0user\0b\0database\0\0\0").unwrap();
    assert_eq!((session.user.as_str(), session.database.as_str()), ("b", "b"));
}

#[test]
fn bytes_after_the_packet_are_left_alone() {
    let mut bytes = packet(SSL_CODE, b"");
    bytes.extend(b"more");
    assert_eq!(parse_startup(&bytes), Ok(Some((Startup::Ssl, 8))));
}

#[test]
fn newer_minors_and_extensions_are_negotiated_down() {
    let body = b"user\0a\0_pq_.command_compression\0on\0_pq_.x\x001\0\0";
    let Ok(Some((Startup::Session(session), _))) = parse_startup(&packet(3 << 16 | 9999, body)) else {
        panic!("3.9999 is a legal request");
    };
    assert!(session.must_negotiate());
    assert_eq!((session.minor, session.spoken_minor()), (9999, 2));
    assert_eq!(session.extensions, ["_pq_.command_compression", "_pq_.x"]);
    assert_eq!(session.params, []);
    for minor in 0..=2 {
        let Ok(Some((Startup::Session(session), _))) = parse_startup(&packet(3 << 16 | minor, b"user\0a\0\0")) else {
            panic!("3.{minor} is a legal request");
        };
        assert!(!session.must_negotiate(), "3.{minor}");
        assert_eq!(u32::from(session.spoken_minor()), minor);
    }
}

#[test]
fn options_become_settings() {
    let session = session_of(b"user\0a\0options\0-c geqo=off\0\0").unwrap();
    let setting = Setting { name: "geqo".into(), value: b"off".to_vec() };
    assert_eq!(session.options(), Ok(vec![setting]));
    assert_eq!(session_of(b"user\0a\0\0").unwrap().options(), Ok(vec![]));
    assert!(session_of(b"user\0a\0options\0-x\0\0").unwrap().options().is_err());
}

#[test]
fn other_protocols_are_named() {
    for (bytes, text) in [
        (&b"\x16\x03\x01\x02\x00"[..], "a TLS handshake"),
        (b"\x16", "a TLS handshake"),
        (b"GET / HTTP/1.1\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n", "an HTTP request"),
        (b"PROXY TCP4 ", "a PROXY protocol header"),
        (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header"),
        (b"SSH-2.0-x", "an SSH banner"),
        (b"*1\r\n$4\r\nPING\r\n", "a Redis command"),
        (b"PING\r\n", "a Redis command"),
    ] {
        let error = parse_startup(bytes).unwrap_err();
        assert_eq!(error.to_string(), format!("received {text} instead of a PostgreSQL startup packet"));
        assert_eq!(error.sqlstate(), "08P01");
        assert!(error.hint().is_some());
    }
}

#[test]
fn lengths_are_bounded_before_anything_is_awaited() {
    for length in [0u32, 1, 4, 7, 10_005, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let error = parse_startup(&length.to_be_bytes()).unwrap_err();
        assert_eq!(error, StartupError::Length(length));
        assert_eq!(error.sqlstate(), "08P01");
    }
    assert_eq!(parse_startup(&10_004u32.to_be_bytes()), Ok(None));
    assert_eq!(parse_startup(&packet(SSL_CODE, b"x")), Err(StartupError::Length(9)));
    assert_eq!(parse_startup(&packet(CANCEL_CODE, b"pid_sec")), Err(StartupError::Length(15)));
    let long = [b"pid_".as_slice(), &[7; 257]].concat();
    assert_eq!(parse_startup(&packet(CANCEL_CODE, &long)), Err(StartupError::Length(269)));
    assert!(parse_startup(&packet(CANCEL_CODE, &long[..260])).unwrap().is_some());
}

#[test]
fn versions_other_than_3_are_refused_before_the_rest_arrives() {
    for (code, major, minor) in [(2 << 16, 2, 0), (4 << 16 | 1, 4, 1), (0, 0, 0), (1234 << 16 | 1, 1234, 1)] {
        let bytes = packet(code, b"user\0a\0\0");
        let error = parse_startup(&bytes[..8]).unwrap_err();
        assert_eq!(error, StartupError::Version { major, minor });
        assert_eq!(error.sqlstate(), "0A000");
    }
}

#[test]
fn broken_layouts_are_refused() {
    for body in [
        &b""[..],
        b"user",
        b"user\0",
        b"user\0a",
        b"user\0a\0",
        b"user\0a\0database\0",
        b"user\0a\0\0junk",
        b"user\0a\0\0\0",
    ] {
        let error = session_of(body).unwrap_err();
        assert!(matches!(error, StartupError::Layout(_)), "{body:?}: {error}");
        assert_eq!(error.sqlstate(), "08P01");
    }
}

#[test]
fn a_user_is_required_and_names_are_utf8() {
    for body in [&b"\0"[..], b"database\0a\0\0", b"user\0\0\0"] {
        assert_eq!(session_of(body), Err(StartupError::NoUser));
    }
    for (body, name) in [
        (&b"user\0\xff\0\0"[..], "user"),
        (b"user\0a\0database\0\xff\0\0", "database"),
        (b"user\0a\0x\xff\0a\0\0", "x\u{fffd}"),
    ] {
        let error = session_of(body).unwrap_err();
        assert_eq!(error, StartupError::NotUtf8(name.into()));
        assert_eq!(error.sqlstate(), "22021");
    }
}
