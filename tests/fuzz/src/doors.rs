//! What decides who comes in before anybody has proved anything: PROXY headers, the rules of `pg_hba.conf`, and what a
//! directory says.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use forebay::config::hba::{self, Facts, Files, Peer, Rule};
use forebay::wire::ldap::{self, Filter, Scope, Search};
use forebay::wire::proxy::header;

/// What is decided by a part of the bytes is not decided otherwise by more of them.
pub(super) fn proxy(data: &[u8]) {
    let whole = super::bounded(data.len(), || header(data));
    if let Ok(Some((_, length))) = &whole {
        assert!(*length <= data.len() && *length > 0);
        assert_eq!(header(&data[..*length]), whole, "what stands behind a header changes nothing");
    }
    for end in 0..data.len().min(600) {
        match header(&data[..end]) {
            Ok(None) => {}
            Ok(Some(found)) => assert_eq!(whole, Ok(Some(found)), "decided by {end} bytes"),
            Err(_) => assert!(whole.is_err(), "{end} bytes are none, and more are"),
        }
    }
}

/// One file, and nothing else.
struct Only<'a>(&'a [u8]);

impl Files for Only<'_> {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        if file == Path::new("f") { Ok(self.0.to_vec()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

fn rules(data: &[u8]) -> Option<Vec<Rule>> {
    let read = hba::load(Path::new("f"), None, &Only(data));
    read.errors.is_empty().then_some(read.rules.rules)
}

/// Rules that are shown and read again are the same rules, and decide something for everybody.
pub(super) fn hba(data: &[u8]) {
    let Some(read) = super::bounded(data.len(), || rules(data)) else { return };
    let shown: Vec<String> = read.iter().map(ToString::to_string).collect();
    let again = rules(shown.join("\n").as_bytes()).unwrap_or_else(|| panic!("what was shown is refused: {shown:?}"));
    let again: Vec<String> = again.iter().map(ToString::to_string).collect();
    assert_eq!(again, shown);
    let all = hba::Rules { rules: read, ..Default::default() };
    let here = || Ok(vec![("10.0.0.1".parse().unwrap(), "255.0.0.0".parse().unwrap())]);
    for address in ["10.1.2.3", "127.0.0.1", "::1", "2001:db8::1"] {
        let address: IpAddr = address.parse().unwrap();
        for has_tls in [false, true] {
            let peer = Peer::Tcp { address, has_tls };
            for database in [Some("app"), None] {
                let _ = super::bounded(data.len(), || all.find(&Facts { peer, database, user: "app" }, &here).is_ok());
            }
        }
    }
    let _ = all.find(&Facts { peer: Peer::Unix, database: Some("app"), user: "app" }, &here);
}

/// The bytes are what a directory says; behind a byte 0xff they are a filter, and behind another one a user's name.
pub(super) fn ldap(data: &[u8]) {
    let whole = super::bounded(data.len(), || ldap::length(data));
    for end in 0..data.len().min(20) {
        match ldap::length(&data[..end]) {
            Ok(None) => {}
            found => assert_eq!(found, whole, "decided by {end} bytes"),
        }
    }
    if let Ok(Some(length)) = whole
        && let Some(message) = data.get(..length)
    {
        let _ = super::bounded(length, || ldap::read(message).is_ok());
    }
    let _ = super::bounded(data.len(), || ldap::read(data).is_ok());
    let mut choices = super::Choices(data);
    let _ = choices.part();
    let (Ok(filter), Ok(user)) = (std::str::from_utf8(choices.part()), std::str::from_utf8(choices.part())) else {
        return;
    };
    let Ok(filter) = super::bounded(data.len(), || Filter::parse(filter)) else { return };
    let search = |user| {
        let wanted = Search { base: "dc=x", scope: Scope::Subtree, filter: &filter, user, entries: 2, seconds: 1 };
        ldap::search(1, &wanted).map(|bytes| bytes.len())
    };
    let written = search(user).expect("what was read can be written");
    if !filter.names_the_user() {
        return;
    }
    // The name stands there, and as what it is.
    assert!(written >= user.len(), "{written} bytes for {user:?}");
    let same = "x".repeat(user.len());
    assert_eq!(search(&same), Ok(written), "another name of the same length changes the question");
}
