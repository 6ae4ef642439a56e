use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `ldapsearch` of OpenLDAP sends for the same filter.
fn filter(text: &str, user: &str) -> String {
    let filter = Filter::parse(text).unwrap_or_else(|why| panic!("{text}: the filter {why}"));
    let search = Search { base: "", scope: Scope::Base, filter: &filter, user, entries: 0, seconds: 0 };
    let bytes = super::search(1, &search).unwrap();
    // In front of it stand numbers, names and limits, behind it "1.1".
    let whole = hex(&bytes);
    let (_, after) = whole.split_once("020100020100010100").unwrap();
    after.strip_suffix("30050403312e31").unwrap().to_owned()
}

#[test]
fn filters_are_written_as_openldap_writes_them() {
    for (text, expected) in [
        ("(uid=app)", "a30a04037569640403617070"),
        ("uid=app", "a30a04037569640403617070"),
        ("(uid=*)", "8703756964"),
        ("(!(uid=app))", "a20ca30a04037569640403617070"),
        // Of several it is not certain in which order they are.
        ("(&(uid=*))", "a0058703756964"),
        ("(| (uid=*) )", "a1058703756964"),
        ("(uid=a*b*c)", "a4100403756964300980016181016282 0163"),
        ("(uid=*b*)", "a40a0403756964300381 0162"),
        ("(uid>=a)", "a50804037569640401 61"),
        ("(uid<=a)", "a60804037569640401 61"),
        ("(uid~=a)", "a80804037569640401 61"),
        ("(cn:dn:2.5.13.5:=a)", "a9148108322e352e31332e358202636e830161 8401ff"),
        ("(uid=\\2a\\28)", "a309040375696404022a28"),
    ] {
        assert_eq!(filter(text, "nobody"), expected.replace(' ', ""), "{text}");
    }
}

#[test]
fn a_name_is_one_value_whatever_it_holds() {
    assert_eq!(filter("(uid=$username)", "app"), filter("(uid=app)", ""));
    assert_eq!(filter("(uid=$username)", "*"), filter("(uid=\\2a)", ""));
    assert_eq!(filter("(uid=$username)", "a)(uid=b"), filter("(uid=a\\29\\28uid=b)", ""));
    assert_eq!(filter("(uid=$username)", "\\2a"), filter("(uid=\\5c2a)", ""));
    assert_eq!(filter("(mail=$username@example.org)", "a"), filter("(mail=a@example.org)", ""));
    assert_eq!(filter("(uid=x$username*$usernamey)", "*"), filter("(uid=x\\2a*\\2ay)", ""));
    // Of a name in a name nothing is made.
    assert_eq!(filter("(uid=$username)", "$username"), filter("(uid=\\24username)", ""));
}

#[test]
fn filters_that_are_none_are_refused() {
    for (text, expected) in [
        ("", "has \"\", which is no condition; write it as (attribute=value)"),
        ("(uid=a", "has a ( too many"),
        ("(uid=a))", "ends before \")\""),
        ("(uid=a)(uid=b)", "ends before \"(uid=b)\""),
        ("(&)", "has a list without a filter in it"),
        ("(!uid=a)", "has no ( before \"uid=a)\""),
        ("(uid)", "has \"uid\", which is no condition; write it as (attribute=value)"),
        ("(=a)", "has \"\", which is no attribute"),
        ("($username=a)", "has \"$username\", which is no attribute"),
        ("(u d=a)", "has \"u d\", which is no attribute"),
        ("(uid=\\zz)", "has a \\ in \"\\\\zz\" without two hexadecimal digits behind it"),
        ("(uid=\\2)", "has a \\ in \"\\\\2\" without two hexadecimal digits behind it"),
        ("(uid=a(b)", "has a ( within \"uid=a\"; in a value it is written \\28"),
        ("(uid>=*)", "has a * in \"*\", where it is written \\2a"),
        ("(:=a)", "has a condition without an attribute"),
    ] {
        assert_eq!(Filter::parse(text).unwrap_err(), expected, "{text}");
    }
    let deep = format!("{}(a=b){}", "(!".repeat(30), ")".repeat(30));
    assert_eq!(Filter::parse(&deep).unwrap_err(), "is more than 20 deep");
}

#[test]
fn a_filter_knows_whether_it_asks_for_the_user() {
    for (text, expected) in [
        ("(uid=$username)", true),
        ("(|(uid=$username)(mail=$username@x))", true),
        ("(|(uid=$username)(cn=*))", false),
        ("(&(objectClass=person)(uid=$username))", true),
        ("(!(uid=$username))", false),
        ("(uid=a)", false),
        ("(uid=a*$username)", true),
    ] {
        assert_eq!(Filter::parse(text).unwrap().names_the_user(), expected, "{text}");
    }
}

#[test]
fn nothing_is_bound_without_a_proof() {
    assert_eq!(bind(1, "cn=a", b""), Ok(None));
    assert_eq!(bind(1, "", b"x"), Ok(None));
    let bytes = bind(1, "cn=a", b"x").unwrap().unwrap();
    assert_eq!(hex(&bytes), "3011020101600c0201030404636e3d61800178");
}

#[test]
fn answers_are_read_as_servers_write_them() {
    let said = |hex: &str| {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        read(&bytes)
    };
    let success = |words: &str| Outcome { verdict: Verdict::Success, words: words.to_owned() };
    // OpenLDAP.
    assert_eq!(said("300c02010161070a010004000400"), Ok((1, Answer::Bound(success("Success (0)")))));
    // Active Directory: four bytes for each length.
    assert_eq!(
        said("308400000010020101618400000007 0a010004000400".replace(' ', "").as_str()),
        Ok((1, Answer::Bound(success("Success (0)"))))
    );
    let wrong = said("300e02010161090a0131040004026e6f").unwrap();
    assert_eq!(
        wrong.1,
        Answer::Bound(Outcome { verdict: Verdict::Refused, words: "InvalidCredentials (49): no".into() })
    );
    assert_eq!(
        said("300d020102640804 04636e3d613000".replace(' ', "").as_str()),
        Ok((2, Answer::Entry("cn=a".into())))
    );
    assert_eq!(
        said("300c02010265070a010404000400").unwrap().1,
        Answer::Searched(Outcome { verdict: Verdict::TooMany, words: "SizeLimitExceeded (4)".into() })
    );
    assert_eq!(said("300c02010178070a010004000400"), Ok((1, Answer::Extended(success("Success (0)")))));
    assert!(matches!(said("300c02010078070a013404000400"), Ok((0, Answer::Leaves(_)))));
    for broken in ["3000", "30050201016100", "3003020101", "300c02010161070a017f04000400"] {
        assert_eq!(said(broken), Err(LdapError::Unreadable), "{broken}");
    }
}

#[test]
fn a_length_is_told_as_soon_as_it_can_be() {
    for (bytes, expected) in [
        (&[][..], Ok(None)),
        (&[0x30], Ok(None)),
        (&[0x30, 5], Ok(Some(7))),
        (&[0x30, 0x82, 1], Ok(None)),
        (&[0x30, 0x82, 1, 0], Ok(Some(260))),
        (&[0x30, 0x84, 0, 0, 0, 1], Ok(Some(7))),
        (&[0x30, 0x83, 1, 0, 0], Err(LdapError::TooLong(65541))),
        (&[0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255], Err(LdapError::TooLong(usize::MAX))),
        (&[0x30, 0x80], Err(LdapError::NotLdap)),
        (&[0x30, 0xff], Err(LdapError::NotLdap)),
        (b"H", Err(LdapError::NotLdap)),
        (b"HTTP/1.1", Err(LdapError::NotLdap)),
    ] {
        assert_eq!(length(bytes), expected, "{bytes:?}");
    }
}

/// Sequences within each other, with lengths that are right.
fn nested(depth: usize, tag: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        let mut outer = vec![tag, 0x84];
        outer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    bytes
}

#[test]
fn depth_breaks_nothing() {
    let mut texts = vec![nested(10_000, 0x30), nested(10_000, 0x24)];
    for tag in [0x61, 0x64, 0x65, 0x73, 0x78, 0x63, 0xa0] {
        for inside in [0x24, 0x30, 0x31, 0xa0, 0xa2] {
            let mut operation = vec![0x02, 1, 1, tag, 0x84];
            let body = nested(5_000, inside);
            operation.extend_from_slice(&(body.len() as u32).to_be_bytes());
            operation.extend(body);
            let mut message = vec![0x30, 0x84];
            message.extend_from_slice(&(operation.len() as u32).to_be_bytes());
            message.extend(operation);
            texts.push(message);
        }
    }
    for text in texts {
        let _ = read(&text);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = length(&bytes);
        let _ = read(&bytes);
    }

    #[test]
    fn no_message_makes_it_panic(operation in 0x60_u8..0x7a, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut message = vec![0x30, bytes.len() as u8 + 5, 2, 1, 1, operation, bytes.len() as u8];
        message.extend_from_slice(&bytes);
        let _ = read(&message);
    }

    #[test]
    fn no_filter_makes_it_panic(text in "[(&|!)a-c=*<>~:.\\\\$ 0-9]{0,40}", user in any::<String>()) {
        if let Ok(filter) = Filter::parse(&text) {
            let search = Search { base: "dc=x", scope: Scope::One, filter: &filter, user: &user, entries: 2, seconds: 5 };
            prop_assert!(super::search(7, &search).is_ok());
        }
    }
}
