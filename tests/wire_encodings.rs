//! What Forebay writes is, byte for byte, what two other implementations write.

use bytes::{Bytes, BytesMut};
use forebay::wire::pg::build::{self, ErrorFields};
use forebay::wire::pg::message::{Target, TransactionStatus};
use forebay::wire::pg::startup::{Startup, parse_startup};
use forebay::wire::pg::{Severity, rewrite};
use pgwire::messages::Message;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::data::{DataRow, FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{Bind, BindComplete, Close, CloseComplete, Describe, Parse, ParseComplete, Sync};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus as TheirStatus,
};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Password, SASLInitialResponse,
    SASLResponse, SecretKey, SslRequest, Startup as TheirStartup,
};
use pgwire::messages::terminate::Terminate;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend;
use postgres_protocol::message::frontend;

fn ours(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    // Something in front shows that writers append and count from where they began.
    let mut out = b"before".to_vec();
    write(&mut out);
    out.split_off(6)
}

fn pgwire(message: impl Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode(&mut out).expect("pgwire encodes");
    out.to_vec()
}

fn frontend(write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out).expect("postgres-protocol encodes");
    out.to_vec()
}

#[test]
fn authentication_requests_agree_with_pgwire() {
    let data = Bytes::from_static(b"v=signature");
    let mechanisms = vec!["SCRAM-SHA-256-PLUS".to_owned(), "SCRAM-SHA-256".to_owned()];
    for (ours, theirs) in [
        (ours(build::authentication_ok), Authentication::Ok),
        (ours(build::authentication_cleartext), Authentication::CleartextPassword),
        (ours(|out| build::authentication_md5(out, *b"salt")), Authentication::MD5Password(b"salt".to_vec())),
        (
            ours(|out| build::authentication_sasl(out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])),
            Authentication::SASL(mechanisms),
        ),
        (ours(|out| build::authentication_sasl_continue(out, &data)), Authentication::SASLContinue(data.clone())),
        (ours(|out| build::authentication_sasl_final(out, &data)), Authentication::SASLFinal(data.clone())),
    ] {
        let expected = format!("{theirs:?}");
        assert_eq!(ours, pgwire(theirs), "{expected}");
    }
}

#[test]
fn session_messages_agree_with_pgwire() {
    assert_eq!(
        ours(|out| build::parameter_status(out, b"server_version", b"17.2")),
        pgwire(ParameterStatus::new("server_version".into(), "17.2".into()))
    );
    assert_eq!(
        ours(|out| build::backend_key_data(out, 42, &[0, 0, 1, 2])),
        pgwire(BackendKeyData::new(42, SecretKey::I32(258)))
    );
    let long = [7; 32];
    assert_eq!(
        ours(|out| build::backend_key_data(out, -42, &long)),
        pgwire(BackendKeyData::new(-42, SecretKey::Bytes(Bytes::copy_from_slice(&long))))
    );
    assert_eq!(
        ours(|out| build::negotiate_protocol_version(out, 2, &["_pq_.a", "_pq_.b"])),
        pgwire(NegotiateProtocolVersion::new(3 << 16 | 2, vec!["_pq_.a".into(), "_pq_.b".into()]))
    );
    for (status, theirs) in [
        (TransactionStatus::Idle, TheirStatus::Idle),
        (TransactionStatus::InTransaction, TheirStatus::Transaction),
        (TransactionStatus::Failed, TheirStatus::Error),
    ] {
        assert_eq!(ours(|out| build::ready_for_query(out, status)), pgwire(ReadyForQuery::new(theirs)));
    }
}

#[test]
fn errors_and_notices_agree_with_pgwire() {
    let fields = ErrorFields {
        severity: Severity::Error,
        code: "57P03",
        message: "no server within 30s",
        detail: Some("10 busy"),
        hint: Some("raise pool.size"),
    };
    let theirs: Vec<_> = [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', "57P03"),
        (b'M', "no server within 30s"),
        (b'D', "10 busy"),
        (b'H', "raise pool.size"),
    ]
    .map(|(kind, text)| (kind, text.to_owned()))
    .to_vec();
    assert_eq!(ours(|out| build::error_response(out, &fields)), pgwire(ErrorResponse::new(theirs.clone())));
    assert_eq!(ours(|out| build::notice_response(out, &fields)), pgwire(NoticeResponse::new(theirs)));
}

#[test]
fn answers_agree_with_pgwire() {
    assert_eq!(ours(build::parse_complete), pgwire(ParseComplete::new()));
    assert_eq!(ours(build::bind_complete), pgwire(BindComplete::new()));
    assert_eq!(ours(build::close_complete), pgwire(CloseComplete::new()));
    assert_eq!(ours(build::no_data), pgwire(NoData::new()));
    assert_eq!(ours(build::empty_query_response), pgwire(EmptyQueryResponse::new()));
    assert_eq!(ours(|out| build::command_complete(out, "SHOW")), pgwire(CommandComplete::new("SHOW".into())));
    assert_eq!(
        ours(|out| build::parameter_description(out, &[23, 4_000_000_000])),
        pgwire(ParameterDescription::new(vec![23, 4_000_000_000]))
    );
    let columns = [("name", 25, -1), ("cl_active", 20, 8), ("ok", 16, 1), ("port", 23, 4)];
    assert_eq!(
        ours(|out| build::row_description(out, &columns.map(|(name, oid, _)| (name, oid)))),
        pgwire(RowDescription::new(
            columns.map(|(name, oid, size)| FieldDescription::new(name.into(), 0, 0, oid, size, -1, 0)).into()
        ))
    );
    let data = BytesMut::from(&b"\0\0\0\x03app\xff\xff\xff\xff\0\0\0\0"[..]);
    assert_eq!(ours(|out| build::data_row(out, &[Some("app"), None, Some("")])), pgwire(DataRow::new(data, 3)));
}

#[test]
fn client_messages_agree_with_both() {
    let text = "select $1::int";
    for (name, ours, pgwire, frontend) in [
        (
            "Query",
            ours(|out| build::query(out, text.as_bytes())),
            pgwire(Query::new(text.into())),
            frontend(|out| frontend::query(text, out)),
        ),
        (
            "Parse",
            ours(|out| build::parse(out, b"s1", text.as_bytes(), [23, 0].into_iter())),
            pgwire(Parse::new(Some("s1".into()), text.into(), vec![23, 0])),
            frontend(|out| frontend::parse("s1", text, [23, 0], out)),
        ),
        (
            "Close",
            ours(|out| build::close(out, Target::Statement, b"s1")),
            pgwire(Close::new(b'S', Some("s1".into()))),
            frontend(|out| frontend::close(b'S', "s1", out)),
        ),
        (
            "Describe",
            ours(|out| build::describe(out, Target::Portal, b"")),
            pgwire(Describe::new(b'P', None)),
            frontend(|out| frontend::describe(b'P', "", out)),
        ),
        (
            "Sync",
            ours(build::sync),
            pgwire(Sync::new()),
            frontend(|out| {
                frontend::sync(out);
                Ok(())
            }),
        ),
        (
            "Terminate",
            ours(build::terminate),
            pgwire(Terminate::new()),
            frontend(|out| {
                frontend::terminate(out);
                Ok(())
            }),
        ),
        (
            "PasswordMessage",
            ours(|out| build::password_message(out, b"s3cret")),
            pgwire(Password::new("s3cret".into())),
            frontend(|out| frontend::password_message(b"s3cret", out)),
        ),
        (
            "SASLInitialResponse",
            ours(|out| build::sasl_initial_response(out, "SCRAM-SHA-256", b"n,,n=,r=x")),
            pgwire(SASLInitialResponse::new("SCRAM-SHA-256".into(), Some(Bytes::from_static(b"n,,n=,r=x")))),
            frontend(|out| frontend::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x", out)),
        ),
        (
            "SASLResponse",
            ours(|out| build::sasl_response(out, b"c=biws")),
            pgwire(SASLResponse::new(Bytes::from_static(b"c=biws"))),
            frontend(|out| frontend::sasl_response(b"c=biws", out)),
        ),
        (
            "SSLRequest",
            ours(build::ssl_request),
            pgwire(SslRequest::new()),
            frontend(|out| {
                frontend::ssl_request(out);
                Ok(())
            }),
        ),
        (
            "CancelRequest",
            ours(|out| build::cancel_request(out, 77, &[0, 0, 1, 2])),
            pgwire(CancelRequest::new(77, SecretKey::I32(258))),
            frontend(|out| {
                frontend::cancel_request(77, 258, out);
                Ok(())
            }),
        ),
    ] {
        assert_eq!(ours, pgwire, "{name} of pgwire");
        assert_eq!(ours, frontend, "{name} of postgres-protocol");
    }
    let secret = [9; 256];
    assert_eq!(
        ours(|out| build::cancel_request(out, 77, &secret)),
        pgwire(CancelRequest::new(77, SecretKey::Bytes(Bytes::copy_from_slice(&secret))))
    );
}

#[test]
fn startup_messages_agree_with_both() {
    // In the order of pgwire's map.
    let params = [("application_name", "x"), ("database", "shop"), ("user", "app")];
    for minor in [0, 2] {
        let ours = ours(|out| {
            build::startup_message(out, minor, params.map(|(k, v)| (k.as_bytes(), v.as_bytes())));
        });
        let mut theirs = TheirStartup::new();
        theirs.protocol_number_minor = minor;
        theirs.parameters = params.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(ours, pgwire(theirs), "3.{minor}");

        let Ok(Some((Startup::Session(session), len))) = parse_startup(&ours) else {
            panic!("we read what we write");
        };
        assert_eq!((session.minor, len), (minor, ours.len()));
        assert_eq!((session.user.as_str(), session.database.as_str()), ("app", "shop"));
        assert_eq!(session.param("application_name"), Some(&b"x"[..]));
    }
    // postgres-protocol adds client_encoding itself or not, depending on the caller: it adds nothing here.
    let theirs = frontend(|out| frontend::startup_message(params, out));
    let ours = ours(|out| {
        build::startup_message(out, 0, params.map(|(k, v)| (k.as_bytes(), v.as_bytes())));
    });
    assert_eq!(ours, theirs);
}

#[test]
fn a_renamed_bind_is_the_bind_that_another_implementation_writes() {
    let bind = |statement: &str| {
        let mut out = BytesMut::new();
        let written = frontend::bind(
            "portal",
            statement,
            [1],
            [b"value".to_vec()],
            |value, out| {
                out.extend_from_slice(&value);
                Ok(IsNull::No)
            },
            [0, 1],
            &mut out,
        );
        assert!(written.is_ok());
        out.to_vec()
    };
    let theirs = Bind::new(
        Some("portal".into()),
        Some("fb_17".into()),
        vec![1],
        vec![Some(Bytes::from_static(b"value"))],
        vec![0, 1],
    );
    let original = bind("client_name");
    let mut renamed = Vec::new();
    let rest = rewrite::bind(&mut renamed, &original, b"fb_17").unwrap().unwrap();
    renamed.extend_from_slice(&original[rest..]);
    assert_eq!(renamed, bind("fb_17"));
    assert_eq!(renamed, pgwire(theirs));
}

#[test]
fn servers_answers_are_read_as_postgres_protocol_reads_them() {
    let mut stream = Vec::new();
    build::authentication_sasl(&mut stream, &["SCRAM-SHA-256"]);
    build::backend_key_data(&mut stream, 5, &[0, 0, 0, 9]);
    build::row_description(&mut stream, &[("a", 25), ("b", 20)]);
    build::data_row(&mut stream, &[Some("x"), None]);
    build::command_complete(&mut stream, "SHOW 1");
    build::ready_for_query(&mut stream, TransactionStatus::Failed);
    let mut stream = BytesMut::from(&stream[..]);
    let mut next = || backend::Message::parse(&mut stream).expect("legal").expect("complete");

    use fallible_iterator::FallibleIterator;
    let backend::Message::AuthenticationSasl(sasl) = next() else { panic!("SASL first") };
    assert_eq!(sasl.mechanisms().next().unwrap(), Some("SCRAM-SHA-256"));
    let backend::Message::BackendKeyData(key) = next() else { panic!("then the key") };
    assert_eq!((key.process_id(), key.secret_key()), (5, 9));
    let backend::Message::RowDescription(row) = next() else { panic!("then the columns") };
    let names: Vec<_> = row.fields().map(|f| Ok((f.name().to_owned(), f.type_oid()))).collect().unwrap();
    assert_eq!(names, [("a".to_owned(), 25), ("b".to_owned(), 20)]);
    let backend::Message::DataRow(data) = next() else { panic!("then a row") };
    let values: Vec<_> = data.ranges().collect().unwrap();
    assert_eq!(values.len(), 2);
    assert_eq!(&data.buffer()[values[0].clone().unwrap()], b"x");
    assert_eq!(values[1], None);
    let backend::Message::CommandComplete(tag) = next() else { panic!("then the tag") };
    assert_eq!(tag.tag().unwrap(), "SHOW 1");
    let backend::Message::ReadyForQuery(ready) = next() else { panic!("then the end") };
    assert_eq!(ready.status(), b'E');
}
