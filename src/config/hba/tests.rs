use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use proptest::prelude::*;

use super::ident::Names;
use super::*;
use crate::config::model::Secret;
use crate::wire::ldap::{Filter, Scope};

/// Files by path; folders are the paths before the last slash.
#[derive(Default)]
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    fn with(mut self, path: &str, text: impl AsRef<[u8]>) -> Self {
        self.0.insert(path.into(), text.as_ref().to_vec());
        self
    }
}

impl Files for Memory {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        self.0.get(file).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.keys().filter(|file| file.parent() == Some(folder)).cloned().collect())
    }
}

fn read(files: &Memory) -> Read {
    let ident = Path::new("/f/ident.conf");
    load(Path::new("/f/hba.conf"), files.0.contains_key(ident).then_some(ident), files)
}

fn read_rules(text: impl AsRef<[u8]>) -> Read {
    read(&Memory::default().with("/f/hba.conf", text))
}

#[track_caller]
fn rules(text: &str) -> Vec<Rule> {
    let read = read_rules(text);
    assert_eq!(read.errors, [], "{text}");
    read.rules.rules
}

fn errors(read: &Read) -> Vec<String> {
    read.errors.iter().map(ToString::to_string).collect()
}

/// What a record is once it has been read, and each error behind its file and line.
#[test]
fn records_are_read_as_postgresql_reads_them() {
    for (text, expected) in [
        ("local all all trust", "local all all trust"),
        ("local\tall  all\ttrust \r", "local all all trust"),
        ("local all all ident", "local all all peer"),
        ("host a,b , c app 10.1.2.3/8 md5", ""),
        ("host a,b,c app,other 10.1.2.3/8 md5", "host a,b,c app,other 10.1.2.3/8 md5"),
        ("host a, b app 10.0.0.0 255.0.0.0 md5", "host a,b app 10.0.0.0/8 md5"),
        ("host a app 10.0.0.0 255.0.255.0 md5", "host a app 10.0.0.0 255.0.255.0 md5"),
        ("host \"all\" \"a\"\"b\" ::1/128 reject", "host \"all\" \"a\"\"b\" ::1/128 reject"),
        ("host a\"b c\"d all all reject", "host \"ab cd\" all all reject"),
        ("host sameuser \"+x\" samehost password", "host sameuser \"+x\" samehost password"),
        ("host \"a,b\",\"\" \"@x\" samenet password", "host \"a,b\",\"\" \"@x\" samenet password"),
        ("host @ \"all\"x all trust", "host \"@\" allx all trust"),
        ("host all all 0.0.0.0/0 trust # md5", "host all all 0.0.0.0/0 trust"),
        ("host all all ::/0 trust#md5", "host all all ::/0 trust"),
        ("hostssl all all all cert map=m clientname=DN", "hostssl all all all cert clientname=DN map=m"),
        ("hostssl all all all cert clientcert=verify-full", "hostssl all all all cert"),
        ("hostssl all all all md5 clientcert=verify-ca", "hostssl all all all md5 clientcert=verify-ca"),
        ("hostssl all all all md5 clientcert=verify-full", "hostssl all all all md5 clientcert=verify-full"),
        ("hostnossl replication,\"replication\" all all md5", "hostnossl replication,\"replication\" all all md5"),
        ("hostgssenc all all all md5", "hostgssenc all all all md5"),
        ("hostnogssenc all all all md5", "hostnogssenc all all all md5"),
        ("host /^db\\d+$,\"/^a,b$\" \"/x y\" all md5", "host \"/^db\\d+$\",\"/^a,b$\" \"/x y\" all md5"),
        ("ho\\\nst all all \\\n all md5", "host all all all md5"),
        ("local all all peer \"map=a b\"", "local all all peer \"map=a b\""),
        ("local all all peer map=", "local all all peer"),
    ] {
        let read = read(&Memory::default().with("/f/hba.conf", text).with("/f/ident.conf", "m a b\n\"a b\" a b\n"));
        let shown = read.rules.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        match expected {
            "" => assert_ne!(read.errors, [], "{text}"),
            _ => assert_eq!((errors(&read), shown.as_str()), (vec![], expected), "{text}"),
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (line, expected) in [
        ("hosts all all all md5", "invalid connection type \"hosts\"; did you mean host?"),
        ("host", "end of line before the database"),
        ("host all", "end of line before the user"),
        ("host all all", "end of line before the address"),
        ("host all all 1.2.3.4", "end of line before the netmask"),
        ("host all all all", "end of line before the authentication method"),
        ("local all all", "end of line before the authentication method"),
        ("host,local all all all md5", "several values for the connection type; write a line for each"),
        ("host all all 1.2.3.4/8,all md5", "several values for the address; write a line for each"),
        ("host all all all md5,trust", "several values for the authentication method; write a line for each"),
        ("host all all 1.2.3.4/33 md5", "invalid CIDR mask in address \"1.2.3.4/33\""),
        ("host all all 1.2.3.4/ md5", "invalid CIDR mask in address \"1.2.3.4/\""),
        ("host all all ::1/129 md5", "invalid CIDR mask in address \"::1/129\""),
        ("host all all 1.2.3.4/-1 md5", "invalid CIDR mask in address \"1.2.3.4/-1\""),
        ("host all all ::1 255.0.0.0 md5", "the address ::1 and the mask 255.0.0.0 are not of one family"),
        ("host all all 1.2.3.4 md5", "invalid IP mask \"md5\"; write the block as 1.2.3.4/32"),
        ("host all all all mdfive", "invalid authentication method \"mdfive\""),
        (
            "host all all all pam pamservice=x",
            "authentication method pam is not available: its modules would run inside of Forebay; use ldap, cert, or \
             scram-sha-256 with postgres.auth_query",
        ),
        (
            "host all all all ident",
            "authentication method ident is not available; use scram-sha-256, cert, or peer on a Unix socket",
        ),
        ("host all all all peer", "peer is for Unix sockets only: write it in a local record"),
        ("host all all all cert", "cert is for TLS only: write it in a hostssl record"),
        ("local all all cert", "cert is for TLS only: write it in a hostssl record"),
        ("host all all all md5 clientcert=verify-ca", "clientcert is for hostssl records only"),
        ("host all all all md5 clientname=CN", "clientname is for hostssl records only"),
        ("hostssl all all all cert clientcert=verify-ca", "clientcert may be verify-full only with the method cert"),
        ("hostssl all all all md5 clientcert=1", "clientcert must be verify-ca or verify-full (found \"1\")"),
        ("hostssl all all all cert clientname=cn", "clientname must be CN or DN (found \"cn\")"),
        ("hostssl all all all md5 map=m", "map is for the methods cert and peer only"),
        ("local all all peer map=m", "map=m needs a file of maps; name it as postgres.ident_file"),
        ("local all all peer x", "an option must be written as name=value (found \"x\")"),
        ("local all all peer x=y", "unknown option \"x\"; there are clientcert, clientname and map"),
        ("local all all trust ldapserver=y", "option ldapserver is for the method ldap only"),
        (
            "local samerole all peer",
            "samerole asks for members of roles, which Forebay does not know; list the databases",
        ),
        ("local all \"a", "a quote is not closed on its line"),
        ("local all /a( trust", "regular expression \"/a(\": has a ( too many"),
        ("include", "include needs one name, in quotes if it holds spaces"),
        ("include a,b", "include needs one name, not a list"),
        ("include no.conf", "cannot read /f/no.conf: entity not found"),
        ("host @no all all trust", "cannot read /f/no: entity not found"),
    ] {
        let read = read_rules(format!("local all all trust\n\n{line}\n"));
        assert_eq!(errors(&read), [format!("/f/hba.conf:3: {expected}")], "{line}");
    }
    let roles = errors(&read_rules("local all +staff peer\n"));
    assert!(roles.len() == 1 && roles[0].starts_with("/f/hba.conf:1: \"+staff\" asks for members"), "{roles:?}");
    let names = errors(&read_rules("host all all db.example.com trust\nhost all all .example.com trust\n"));
    assert!(names.len() == 2 && names.iter().all(|e| e.contains("host names are not looked up")), "{names:?}");
    assert_eq!(errors(&read_rules("# nothing\n")), ["/f/hba.conf: it holds no rule, so nobody could log in"]);
    assert_eq!(errors(&read(&Memory::default())), ["/f/hba.conf: cannot read it: entity not found"]);
    assert_eq!(
        errors(&read_rules(b"local all \xff trust\nlocal all a\0b trust\n")),
        ["/f/hba.conf:1: the line is not UTF-8", "/f/hba.conf:2: the line holds a zero byte",]
    );
}

#[test]
fn directories_are_named_as_postgresql_has_them() {
    for (options, hosts, port, protection) in [
        ("ldapserver=a ldapprefix=cn=", &["a"][..], 389, Protection::Nothing),
        (
            "\"ldapserver=a b.example 10.0.0.1  ::1 [fe80::1]\" ldapsuffix=@x",
            &["a", "b.example", "10.0.0.1", "::1", "fe80::1"],
            389,
            Protection::Nothing,
        ),
        ("ldapserver=a ldapport=1389 ldapbasedn=dc=x ldaptls=1", &["a"], 1389, Protection::StartTls),
        ("ldapserver=a ldapscheme=ldaps ldaptls=0 ldapbasedn=", &["a"], 636, Protection::Tls),
        ("ldapurl=ldap://a/dc=x", &["a"], 389, Protection::Nothing),
        ("ldapurl=ldaps://[::1]/dc=x", &["::1"], 636, Protection::Tls),
        ("ldapurl=ldaps://[::1]:77/dc=x", &["::1"], 77, Protection::Tls),
        ("ldapurl=ldap://a:77/ ldapprefix=cn= ldaptls=1", &["a"], 77, Protection::StartTls),
        ("ldapserver=a ldapurl=ldap:///dc=x", &["a"], 389, Protection::Nothing),
    ] {
        let rule = &rules(&format!("host all all all ldap {options}\n"))[0];
        let ldap = rule.ldap.as_ref().unwrap();
        assert_eq!(
            (ldap.hosts.as_slice(), ldap.port, ldap.protection),
            (hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>().as_slice(), port, protection),
            "{options}"
        );
        assert_eq!(rules(&rule.to_string()), rules(&format!("host all all all ldap {options}\n")), "{rule}");
    }
}

#[test]
fn an_entry_is_made_or_looked_for() {
    let entry = |options: &str| {
        let rules = rules(&format!("host all all all ldap ldapserver=a {options}\n"));
        rules[0].ldap.as_ref().unwrap().entry.clone()
    };
    let made = |prefix: &str, suffix: &str| Entry::Made { prefix: prefix.into(), suffix: suffix.into() };
    assert_eq!(entry("ldapprefix=cn= \"ldapsuffix=, dc=x\""), made("cn=", ", dc=x"));
    assert_eq!(entry("ldapsuffix=@example.org"), made("", "@example.org"));
    let found = |base: &str, scope, filter: &str| Entry::Found {
        base: base.into(),
        scope,
        filter: Filter::parse(filter).unwrap(),
        searcher: None,
    };
    for (options, base, scope, filter) in [
        ("ldapbasedn=dc=x", "dc=x", Scope::Subtree, "(uid=$username)"),
        ("ldapbasedn=dc=x ldapsearchattribute=cn", "dc=x", Scope::Subtree, "(cn=$username)"),
        (
            "ldapbasedn=dc=x \"ldapsearchfilter=(|(uid=$username)(mail=$username))\"",
            "dc=x",
            Scope::Subtree,
            "(|(uid=$username)(mail=$username))",
        ),
        ("ldapurl=ldap://a/dc=x", "dc=x", Scope::Base, "(uid=$username)"),
        ("ldapurl=ldap://a/dc=x?cn?sub", "dc=x", Scope::Subtree, "(cn=$username)"),
        ("ldapurl=ldap://a/dc=x?cn?one ldapport=9", "dc=x", Scope::One, "(cn=$username)"),
        ("\"ldapurl=ldap://a/dc=x%2cdc=y??sub?(cn=$username)\"", "dc=x,dc=y", Scope::Subtree, "(cn=$username)"),
    ] {
        assert_eq!(entry(options), found(base, scope, filter), "{options}");
    }
    let Entry::Found { searcher, .. } = entry("ldapbasedn=dc=x ldapbinddn=cn=s ldapbindpasswd=hush") else { panic!() };
    assert_eq!(searcher, Some(("cn=s".into(), Secret("hush".into()))));
}

#[test]
fn what_cannot_be_asked_of_a_directory_is_refused() {
    let mixed = "cannot mix ldapprefix or ldapsuffix, which make the name of an entry, with ldapbasedn, ldapbinddn, \
                 ldapbindpasswd, ldapsearchattribute or ldapsearchfilter, which look for it";
    for (options, expected) in [
        ("", "authentication method ldap needs ldapbasedn, ldapprefix or ldapsuffix"),
        ("ldapserver=a", "authentication method ldap needs ldapbasedn, ldapprefix or ldapsuffix"),
        (
            "ldapserver=a ldapsearchattribute=cn",
            "authentication method ldap needs ldapbasedn, ldapprefix or ldapsuffix",
        ),
        (
            "ldapprefix=cn=",
            "authentication method ldap needs ldapserver, or a host in ldapurl; DNS is not asked for servers",
        ),
        ("ldapserver=a ldapprefix=cn= ldapbasedn=dc=x", mixed),
        ("ldapserver=a ldapsuffix=x ldapsearchattribute=uid", mixed),
        ("ldapserver=a ldapprefix=x ldapsearchfilter=(uid=a)", mixed),
        ("ldapserver=a ldapprefix=x ldapbinddn=cn=s", mixed),
        ("ldapserver=a ldapprefix=x ldapbindpasswd=s", mixed),
        ("ldapprefix=x ldapurl=ldap://a/dc=x", mixed),
        (
            "ldapserver=a ldapbasedn=dc=x ldapsearchattribute=uid ldapsearchfilter=(uid=$username)",
            "cannot use ldapsearchattribute together with ldapsearchfilter",
        ),
        (
            "\"ldapurl=ldap://a/dc=x?uid??(uid=$username)\"",
            "cannot use ldapsearchattribute together with ldapsearchfilter",
        ),
        (
            "ldapserver=a ldapbasedn=dc=x ldapbinddn=cn=s",
            "ldapbinddn needs ldapbindpasswd; without both, the search is made as nobody",
        ),
        (
            "ldapserver=a ldapbasedn=dc=x ldapbinddn=cn=s ldapbindpasswd=",
            "ldapbinddn needs ldapbindpasswd; without both, the search is made as nobody",
        ),
        ("ldapserver=a ldapbasedn=dc=x ldapbindpasswd=s", "ldapbindpasswd needs ldapbinddn"),
        (
            "ldapserver=a ldapbasedn=dc=x ldaptls=1 ldapscheme=ldaps",
            "cannot use ldaptls together with ldaps, which is TLS already",
        ),
        ("ldapserver=a ldapscheme=ldapi", "ldapscheme must be ldap or ldaps (found \"ldapi\")"),
        ("ldapserver=a ldaptls=yes", "ldaptls must be 1 or 0 (found \"yes\")"),
        ("ldapport=0", "ldapport must be from 1 to 65535 (found \"0\")"),
        ("ldapport=x", "ldapport must be from 1 to 65535 (found \"x\")"),
        ("ldapserver=a:389 ldapprefix=x", "ldapserver \"a:389\" must be a host alone; write ldapport for the port"),
        ("ldapserver=/run/ldapi ldapprefix=x", "ldapserver \"/run/ldapi\" is no host"),
        (
            "ldapserver=a ldapbasedn=dc=x ldapsearchattribute=a=b",
            "ldapsearchattribute must be one attribute (found \"a=b\")",
        ),
        (
            "ldapserver=a ldapbasedn=dc=x ldapsearchfilter=(uid",
            "ldapsearchfilter \"(uid\": the filter has \"uid\", which is no condition; write it as (attribute=value)",
        ),
        (
            "ldapurl=http://a/dc=x",
            "cannot read ldapurl \"http://a/dc=x\": its scheme must be ldap or ldaps (found \"http\")",
        ),
        ("ldapurl=a", "cannot read ldapurl \"a\": it must begin with ldap:// or ldaps://"),
        ("ldapurl=ldap://a:x/", "cannot read ldapurl \"ldap://a:x/\": its port must be from 1 to 65535"),
        (
            "ldapurl=ldap://a/dc=x?uid?all",
            "cannot read ldapurl \"ldap://a/dc=x?uid?all\": its scope must be base, one or sub (found \"all\")",
        ),
        ("ldapurl=ldap://a/%zz", "cannot read ldapurl \"ldap://a/%zz\": \"%zz\" is no text"),
        (
            "ldapserver=a ldapbasedn=dc=x ldapuid=x",
            "unknown option \"ldapuid\"; there are clientcert, clientname and map, and those of ldap",
        ),
        ("ldapserver=a ldapbindpasswd=two words", "an option must be written as name=value (found ***)"),
        ("ldapserver=a ldapprefix=x map=m", "map is for the methods cert and peer only"),
    ] {
        let read = read_rules(format!("\nhost all all all ldap {options}\n"));
        assert_eq!(errors(&read), [format!("/f/hba.conf:2: {expected}")], "{options}");
    }
}

#[test]
fn a_password_for_searching_shows_nowhere() {
    let files = Memory::default()
        .with("/f/hba.conf", "host all all all ldap ldapserver=a ldapbasedn=dc=x ldapbinddn=cn=s @secret\n")
        .with("/f/secret", "\"ldapbindpasswd=hush, hush\"\n");
    let read = read(&files);
    assert_eq!(read.errors, []);
    let rule = &read.rules.rules[0];
    assert_eq!(
        rule.to_string(),
        "host all all all ldap ldapserver=a ldapbasedn=dc=x ldapbinddn=cn=s ldapbindpasswd=***"
    );
    assert!(!format!("{read:?}").contains("hush"));
    let ldap = rule.ldap.as_ref().unwrap();
    assert_eq!(ldap.secret_file.as_deref(), Some("/f/secret"));
    assert!(matches!(&ldap.entry, Entry::Found { searcher: Some((_, secret)), .. } if secret.0 == "hush, hush"));
}

#[test]
fn questions_that_let_in_too_many_are_warned_of() {
    for (options, expected) in [
        ("ldapserver=127.0.0.1 ldapbasedn=dc=x", None),
        ("\"ldapserver=localhost ::1\" ldapbasedn=dc=x", None),
        ("ldapserver=a ldaptls=1 ldapbasedn=dc=x", None),
        ("ldapserver=a ldapbasedn=dc=x", Some("passwords go to the LDAP server as they are")),
        ("ldapserver=a ldaptls=1 ldapbasedn=dc=x ldapsearchfilter=(uid=app)", Some("ldapsearchfilter finds an entry")),
        ("ldapurl=ldaps://a/dc=x", Some("the scope base finds nothing but \"dc=x\" itself")),
    ] {
        let read = read_rules(format!("host all all all ldap {options}\n"));
        let warnings: Vec<_> = read.warnings.iter().map(|warning| warning.message.as_str()).collect();
        match expected {
            None => assert_eq!(warnings, Vec::<&str>::new(), "{options}"),
            Some(expected) => {
                assert!(warnings.len() == 1 && warnings[0].starts_with(expected), "{options}: {warnings:?}")
            }
        }
    }
}

#[test]
fn lines_are_counted_over_continuations() {
    let read = read_rules("local all \\\nall trust\nlocal all all \\\n\nlocal x\n");
    assert_eq!(read.rules.rules[0].place.line, 1);
    assert_eq!(
        errors(&read),
        ["/f/hba.conf:3: end of line before the authentication method", "/f/hba.conf:5: end of line before the user",]
    );
}

#[test]
fn files_include_files() {
    let files = Memory::default()
        .with(
            "/f/hba.conf",
            "include sub/one.conf\ninclude_if_exists no.conf\ninclude_dir dir\nlocal @names @users trust\n",
        )
        .with("/f/sub/one.conf", "local one all trust\ninclude two.conf\n")
        .with("/f/sub/two.conf", "local two all trust\n")
        .with("/f/dir/b.conf", "local b all trust\n")
        .with("/f/dir/a.conf", "local a all trust\n")
        .with("/f/names", "x,y # all of them\n@more\n")
        .with("/f/more", "\"z z\"\n")
        .with("/f/users", "u\n");
    let read = read(&files);
    assert_eq!(read.errors, []);
    let found: Vec<_> = read.rules.rules.iter().map(|rule| format!("{} {rule}", rule.place)).collect();
    assert_eq!(
        found,
        [
            "/f/sub/one.conf:1 local one all trust",
            "/f/sub/two.conf:1 local two all trust",
            "/f/dir/a.conf:1 local a all trust",
            "/f/dir/b.conf:1 local b all trust",
            "/f/hba.conf:4 local x,y,\"z z\" u trust",
        ]
    );
}

#[test]
fn files_that_include_each_other_come_to_an_end() {
    let once = errors(&read_rules("include hba.conf\nlocal all all trust\n"));
    assert_eq!(once, ["/f/hba.conf:1: cannot read /f/hba.conf: files are included more than 10 deep"]);
    let often = errors(&read_rules("include hba.conf\n".repeat(20)));
    assert!(often.iter().any(|e| e.ends_with("more than 1000 files are included")), "{often:?}");
    assert!(often.len() < 2000, "{}", often.len());
    let names = errors(&read_rules("local @hba.conf all trust\n"));
    assert!(names.iter().any(|e| e.contains("more than 10 deep")), "{names:?}");
}

const NOBODY: Interfaces<'static> = &|| Err(io::ErrorKind::Other.into());

fn tcp(address: &str, has_tls: bool) -> Peer {
    Peer::Tcp { address: address.parse().unwrap(), has_tls }
}

/// The line of the rule, 0 if there is none, negative if it rejects.
fn line(rules: &Rules, peer: Peer, database: Option<&str>, user: &str, interfaces: Interfaces<'_>) -> isize {
    match rules.find(&Facts { peer, database, user }, interfaces).unwrap() {
        Found::Rule(rule) => rule.place.line as isize,
        Found::Rejected(rule) => -(rule.place.line as isize),
        Found::None => 0,
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = Rules {
        rules: rules(
            "local  sameuser all            trust\n\
             hostssl all     all 10.0.0.0/8 trust\n\
             hostnossl all   bad 10.0.0.0/8 reject\n\
             host   replication all 10.0.0.0/8 trust\n\
             host   /^db[0-9]$ /_ro$ 0.0.0.0/0 trust\n\
             host   a       a   10.1.0.0 255.255.0.0 trust\n\
             host   all     all 2001:db8::/33 trust\n\
             hostgssenc all all all trust\n\
             host   \"all\" \"all\" all trust\n",
        ),
        mappings: Vec::new(),
    };
    for (peer, database, user, expected) in [
        (Peer::Unix, Some("app"), "app", 1),
        (Peer::Unix, Some("db"), "app", 0),
        (tcp("10.1.2.3", true), Some("db"), "app", 2),
        (tcp("11.1.2.3", true), Some("db"), "app", 0),
        (tcp("10.1.2.3", true), None, "app", 4),
        (tcp("10.1.2.3", false), None, "app", 4),
        (tcp("10.1.2.3", false), Some("replication"), "app", 0),
        (tcp("10.1.2.3", false), Some("db"), "bad", -3),
        (tcp("11.1.2.3", false), Some("db7"), "x_ro", 5),
        (tcp("11.1.2.3", false), Some("db77"), "x_ro", 0),
        (tcp("11.1.2.3", false), Some("xdb7"), "x_ro", 0),
        (tcp("10.1.255.3", false), Some("a"), "a", 6),
        (tcp("10.2.255.3", false), Some("a"), "a", 0),
        (tcp("2001:db8:7fff::1", false), Some("a"), "a", 7),
        (tcp("2001:db8:8000::1", false), Some("a"), "a", 0),
        (tcp("::ffff:10.1.2.3", false), Some("a"), "a", 0),
        (tcp("1.1.1.1", false), Some("all"), "all", 9),
        (tcp("1.1.1.1", false), Some("ALL"), "all", 0),
    ] {
        assert_eq!(line(&rules, peer, database, user, NOBODY), expected, "{peer:?} {database:?} {user}");
    }
}

#[test]
fn the_machines_own_addresses_are_asked_for() {
    let own: Interfaces<'_> = &|| {
        let pair = |a: &str, m: &str| (a.parse().unwrap(), m.parse().unwrap());
        Ok(vec![pair("10.1.2.3", "255.255.255.0"), pair("fe80::1", "ffff:ffff:ffff:ffff::")])
    };
    let both = Rules { rules: rules("host all all samehost trust\nhost all all samenet reject\n"), mappings: vec![] };
    for (address, expected) in
        [("10.1.2.3", 1), ("10.1.2.4", -2), ("10.1.3.4", 0), ("fe80::1", 1), ("fe80::2", -2), ("fe81::2", 0)]
    {
        assert_eq!(line(&both, tcp(address, false), Some("d"), "u", own), expected, "{address}");
    }
    let facts = Facts { peer: tcp("10.1.2.3", false), database: Some("d"), user: "u" };
    assert!(both.find(&facts, NOBODY).is_err(), "nobody may pass a rule that cannot be decided");
}

#[test]
fn maps_tell_who_may_log_in_as_whom() {
    let files = Memory::default().with("/f/hba.conf", "local all all peer map=m\n").with(
        "/f/ident.conf",
        "m root app\n\
         m ann all\n\
         other bob app\n\
         m /^(.*)@example\\.com$ \\1\n\
         m /^(.*)@example\\.org$ svc_\\1_x\n\
         m /^guest guest\n\
         m carl /^c_\n\
         m \"/^a b$\" \"all\"\n\
         m dora \\1\n",
    );
    let read = read(&files);
    assert_eq!(read.errors, []);
    assert!(matches!(read.rules.mappings[3].names, Names::Captured(..)));
    for (system, user, expected) in [
        ("root", "app", true),
        ("root", "root", false),
        ("roo", "app", false),
        ("ann", "anybody", true),
        ("bob", "app", false),
        ("eve@example.com", "eve", true),
        ("eve@example.com", "eve@example.com", false),
        ("eve@exampleXcom", "eve", false),
        ("all@example.com", "anybody", false),
        ("a@b@example.com", "a@b", true),
        ("eve@example.com\n", "eve", false),
        ("eve@example.org", "svc_eve_x", true),
        ("eve@example.org", "svc_eve", false),
        ("guest7", "guest", true),
        ("carl", "c_x", true),
        ("carl", "x", false),
        ("a b", "all", true),
        ("a b", "app", false),
        ("dora", "\\1", true),
    ] {
        assert_eq!(read.rules.lets(Some("m"), system, user), expected, "{system} as {user}");
    }
    assert!(read.rules.lets(None, "app", "app") && !read.rules.lets(None, "root", "app"));
    assert_eq!(read.warnings.len(), 1, "\\1 that stands for nothing: {:?}", read.warnings);
}

#[test]
fn maps_that_are_wrong_are_told_of_with_their_line() {
    for (line, expected) in [
        ("m", "end of line before the system's user name"),
        ("m a", "end of line before the database user name"),
        ("m,n a b", "several values for the map's name; write a line for each"),
        ("m a,b c", "several values for the system's user name; write a line for each"),
        ("m /a\\1 c", "regular expression \"/a\\\\1\": a back reference (\\1) is not supported"),
        ("m /^a$ \\1", "regular expression \"/^a$\": has no parentheses of its own level that \\1 could stand for"),
        ("m / all", "regular expression \"/\": is empty, and would fit everything; write all"),
    ] {
        let files = Memory::default()
            .with("/f/hba.conf", "local all all trust\n")
            .with("/f/ident.conf", format!("# x\n{line}\n"));
        assert_eq!(errors(&read(&files)), [format!("/f/ident.conf:2: {expected}")], "{line}");
    }
    for uncertain in ["(a)", "^(a)", "(a)$", "^(a)|b$", "^(a)+$", "^(a*?)$", "^(a$)$"] {
        let files = Memory::default()
            .with("/f/hba.conf", "local all all trust\n")
            .with("/f/ident.conf", format!("m /{uncertain} \\1\n"));
        let found = errors(&read(&files));
        assert!(found.len() == 1 && found[0].contains("is used with \\1"), "{uncertain}: {found:?}");
    }
    let files =
        Memory::default().with("/f/hba.conf", "local all all trust\n").with("/f/ident.conf", "m a +b\nm /(a) +\\1\n");
    assert_eq!(errors(&read(&files)).len(), 2);
}

#[test]
fn captures_are_postgresqls_or_none() {
    for (pattern, name, expected) in [
        ("^(.*)@x$", "a@x@x", Some("a@x")),
        ("^(.*)(@x)?$", "a@x", Some("a@x")),
        // A library that takes the first alternative that does would capture "a" only.
        ("^(a|ab)(c|bcd)?d*$", "abcd", Some("ab")),
        ("^((ab?)*(bc)?).*$", "abc", Some("abc")),
        // Where it begins is not certain.
        ("^a*(a*)$", "aa", None),
        ("^CN=([^,]+),.*$", "CN=app,O=x", Some("app")),
        ("^(.*)$", "M\u{fc}ller", Some("M\u{fc}ller")),
    ] {
        let captured = pattern::Captured::new(pattern).unwrap();
        assert_eq!(captured.capture(name), expected, "{pattern} on {name}");
    }
}

#[test]
fn expressions_mean_what_they_mean_to_postgresql() {
    for (pattern, fits, not) in [
        ("^a.c$", &["abc", "a\nc"][..], &["ac", "abc\n"][..]),
        ("a", &["a", "xay"], &["b", "A"]),
        ("^\\w+$", &["a_1"], &["\u{fc}", "a b", ""]),
        ("^\\d$", &["7"], &["\u{667}", "x"]),
        ("^[[:alpha:]_-]+$", &["a-_"], &["a1", "\u{fc}"]),
        ("^[]a]$", &["]", "a"], &["b"]),
        ("^[^]a]$", &["b", "["], &["]", "a"]),
        ("^[a&&b]+$", &["a&b"], &["c"]),
        ("^[\\d\\]]+$", &["1]"], &["\\", "d"]),
        ("^a{2,3}$", &["aa", "aaa"], &["a", "aaaa"]),
        ("^a{,2}$", &["a{,2}"], &["aa"]),
        ("\\Aa\\.b\\Z", &["a.b"], &["axb", "a.b\n"]),
        ("^(?:a|b)c$", &["ac", "bc"], &["a"]),
        ("^a\\+b#$", &["a+b#"], &["aab#"]),
        ("^(a|)$", &["a", ""], &["b"]),
    ] {
        let compiled = Pattern::new(pattern).unwrap();
        for name in fits {
            assert!(compiled.fits(name), "{pattern} fits {name:?}");
        }
        for name in not {
            assert!(!compiled.fits(name), "{pattern} does not fit {name:?}");
        }
    }
    for refused in [
        "",
        "(",
        ")",
        "[",
        "[a",
        "a**",
        "*a",
        "^*",
        "(*a)",
        "a|*",
        "(?i)a",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "***=a",
        "\\",
        "\\1",
        "\\m",
        "\\y",
        "\\u0041",
        "\\x41",
        "\\n",
        "\\p",
        "[[.a.]]",
        "[[=a=]]",
        "[[:nix:]]",
        "[[:<:]]",
        "[z-a]",
        "[[:alpha:]-z]",
        "a{3,2}",
        "a{256}",
        "a{1",
        "a{1}{2}",
        "((a{255}){255}){255}",
        "[\\b]",
    ] {
        assert!(Pattern::new(refused).is_err(), "{refused} was accepted");
    }
}

/// Words as people write them, right or wrong.
fn words() -> impl Strategy<Value = String> {
    let known = [
        "local",
        "host",
        "hostssl",
        "hostnossl",
        "all",
        "sameuser",
        "replication",
        "10.0.0.0/8",
        "::1/128",
        "10.1.1.1",
        "255.255.0.0",
        "samenet",
        "trust",
        "md5",
        "cert",
        "peer",
        "clientcert=verify-ca",
        "map=m",
        "/^a$",
        "\"a b\"",
        "+r",
        "include",
        "@hba.conf",
        "\\1",
        "a,b",
        ",",
        "\"\"",
        "#",
        "\\",
    ];
    prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[ -~]{0,6}", 1 => any::<String>()]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,4}", "[ -~]{0,6}", Just("all".to_owned()), Just("+x".to_owned()), Just("@x".to_owned())]
        .prop_map(|name| name.trim_start_matches('/').to_owned())
}

fn rule() -> impl Strategy<Value = Rule> {
    let database = prop_oneof![
        Just(DatabaseName::All),
        Just(DatabaseName::SameUser),
        Just(DatabaseName::Replication),
        name().prop_map(DatabaseName::Name),
        Just(DatabaseName::Pattern(Pattern::new("^a, \"b\"$").unwrap())),
    ];
    let user = prop_oneof![
        Just(UserName::All),
        name().prop_map(UserName::Name),
        Just(UserName::Pattern(Pattern::new("^x#").unwrap())),
    ];
    let network = (any::<[u8; 4]>(), any::<[u8; 4]>())
        .prop_map(|(address, mask)| Address::Network { address: address.into(), mask: mask.into() });
    let network6 = (any::<[u8; 16]>(), any::<[u8; 16]>())
        .prop_map(|(address, mask)| Address::Network { address: address.into(), mask: mask.into() });
    let address = prop_oneof![Just(Address::All), Just(Address::SameHost), Just(Address::SameNet), network, network6];
    let encryption =
        prop_oneof![Just(Encryption::Any), Just(Encryption::NoTls), Just(Encryption::Gss), Just(Encryption::NoGss)];
    let method = prop_oneof![Just(Method::Trust), Just(Method::Reject), Just(Method::Md5), Just(Method::Password)];
    let connection =
        prop_oneof![Just(Connection::Local), (encryption, address).prop_map(|(e, a)| Connection::Tcp(e, a))];
    let databases = proptest::collection::vec(database, 1..4);
    (connection, databases, proptest::collection::vec(user, 1..4), method).prop_map(
        |(connection, databases, users, method)| Rule {
            place: Place { file: "/f/hba.conf".into(), line: 1 },
            connection,
            databases,
            users,
            method,
            certificate: ClientCertificate::No,
            certificate_name: CertificateName::Common,
            map: None,
            ldap: None,
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(lines in proptest::collection::vec(proptest::collection::vec(words(), 0..8), 0..6)) {
        let text: String = lines.iter().map(|line| line.join(" ") + "\n").collect();
        let files = Memory::default().with("/f/hba.conf", &text).with("/f/ident.conf", &text);
        let read = read(&files);
        prop_assert!(!read.errors.is_empty() || !read.rules.rules.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let read = read_rules(bytes);
        prop_assert!(!read.errors.is_empty() || !read.rules.rules.is_empty());
    }

    #[test]
    fn no_expression_makes_it_panic(text in "[a-c^$.*+?|()\\[\\]{}\\\\:,0-9-]{0,20}", name in "[a-c]{0,12}") {
        if let Ok(pattern) = Pattern::new(&text) {
            pattern.fits(&name);
        }
        if let Ok(captured) = pattern::Captured::new(&text) {
            prop_assert!(captured.capture(&name).is_none_or(|part| name.contains(part)));
        }
    }

    #[test]
    fn a_rule_that_is_written_is_read_as_it_was(rule in rule()) {
        let read = read_rules(rule.to_string());
        prop_assert_eq!(errors(&read), Vec::<String>::new(), "{}", rule);
        prop_assert_eq!(&read.rules.rules, &vec![rule]);
    }
}
