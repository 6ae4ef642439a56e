//! The door as its users see it.

use std::sync::Mutex;

use super::*;
use crate::config::load_str;

fn rules(lines: &str) -> Security {
    let text = format!(
        "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"a\"]\n[[postgres.user]]\nname = \"u\"\npassword = \"p\"\n\
         [security]\n{lines}"
    );
    load_str(&text, "f.toml", std::path::Path::new("")).unwrap_or_else(|e| panic!("{e}")).config.security
}

fn guard(lines: &str) -> (Arc<Guard>, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    (Guard::new(rules(lines), Box::new(move |line| keep.lock().unwrap().push(line.to_owned()))), told)
}

fn peer(address: &str) -> Endpoint {
    Endpoint::from(std::net::SocketAddr::new(address.parse().unwrap(), 4711))
}

#[test]
fn who_fails_too_often_is_refused_and_others_are_not() {
    let (guard, told) = guard("ban_after = 3\n");
    let fails: Vec<bool> = (0..3).map(|_| guard.note_failure(peer("10.0.0.1"), Failure::Password)).collect();
    assert_eq!(fails, [false, false, true]);
    let refused = guard.admit(peer("10.0.0.1")).unwrap_err();
    assert_eq!(refused.to_string(), "too many failed logins from this address; try again in 10 minutes");
    assert!(guard.admit(peer("::ffff:10.0.0.1")).is_err() && guard.recheck(peer("10.0.0.1")).is_err());
    assert!(guard.admit(peer("10.0.0.2")).is_ok() && guard.admit(Endpoint::default()).is_ok());
    assert_eq!(*told.lock().unwrap(), ["10.0.0.1 for 10 minutes, after 3 failed logins"]);
    assert_eq!((guard.failures(), guard.bans().len()), (3, 1));
    guard.unban(Network::parse("10.0.0.1").unwrap()).unwrap();
    assert!(guard.admit(peer("10.0.0.1")).is_ok());
}

#[test]
fn this_machine_is_never_banned_unless_it_is_written_otherwise() {
    let (careful, _) = guard("ban_after = 1\n");
    for local in ["127.0.0.1", "127.9.9.9", "::1"] {
        assert!(!careful.note_failure(peer(local), Failure::Junk), "{local}");
        assert!(careful.ban(Network::parse(local).unwrap(), None, "ann").is_err(), "{local}");
    }
    assert!(!careful.note_failure(Endpoint::default(), Failure::Password), "a Unix socket has no address");
    let everybody = Network::parse("0.0.0.0/0").unwrap();
    careful.ban(everybody, None, "ann").unwrap();
    assert_eq!(careful.exempt(&everybody), [Network::parse("127.0.0.0/8").unwrap()]);
    assert!(careful.admit(peer("127.0.0.1")).is_ok() && careful.admit(peer("10.0.0.1")).is_err());
    let (strict, _) = guard("ban_after = 1\nban_allow = []\n");
    assert!(strict.note_failure(peer("127.0.0.1"), Failure::Password));
}

#[test]
fn a_reload_keeps_bans_but_for_those_who_are_never_to_be_banned() {
    let (guard, _) = guard("ban_after = 1\n");
    guard.note_failure(peer("10.0.0.1"), Failure::Password);
    guard.set_rules(rules("ban_after = 100\n"));
    assert!(guard.admit(peer("10.0.0.1")).is_err());
    guard.set_rules(rules("ban_allow = [\"10.0.0.0/8\"]\n"));
    assert!(guard.admit(peer("10.0.0.1")).is_ok());
    assert_eq!(guard.bans(), []);
}

#[test]
fn without_a_time_nobody_is_banned_for_failures_and_an_admin_has_to_say_one() {
    let (guard, _) = guard("ban_after = 1\nban_time = \"off\"\n");
    assert!(!guard.note_failure(peer("10.0.0.1"), Failure::Password));
    assert!(guard.admit(peer("10.0.0.1")).is_ok());
    let block = Network::parse("10.0.0.1").unwrap();
    assert!(guard.ban(block, None, "ann").unwrap_err().contains("FOR"));
    guard.ban(block, Some(Duration::from_secs(60)), "ann").unwrap();
    let refused = guard.admit(peer("10.0.0.1")).unwrap_err().to_string();
    assert_eq!(refused, "connections from this address are refused by an administrator for another 60 seconds");
}

#[test]
fn only_those_who_are_listed_may_connect() {
    let (guard, _) = guard("allow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n");
    for known in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8:5::1"] {
        assert!(guard.admit(peer(known)).is_ok(), "{known}");
    }
    for other in ["127.0.0.1", "11.0.0.1", "::1"] {
        assert_eq!(guard.admit(peer(other)).unwrap_err(), Refused::NotAllowed, "{other}");
    }
    assert!(guard.admit(Endpoint::default()).is_ok(), "a Unix socket");
}

#[test]
fn a_connection_is_pending_until_its_pass_is_dropped() {
    let (guard, _) = guard("max_pending_logins = 3\nmax_pending_logins_per_address = 2\n");
    let of_one: Vec<Pass> = (0..2).map(|_| guard.admit(peer("10.0.0.1")).unwrap()).collect();
    assert_eq!(guard.admit(peer("10.0.0.1")).unwrap_err(), Refused::TooManyPendingHere);
    assert_eq!(guard.pending(), 2, "who is refused is not counted");
    let other = guard.admit(peer("10.0.0.2")).unwrap();
    assert_eq!(guard.admit(peer("10.0.0.3")).unwrap_err(), Refused::TooManyPending);
    drop((of_one, other));
    assert_eq!(guard.pending(), 0);
    assert!(guard.admit(peer("10.0.0.1")).is_ok());
}

#[test]
fn the_load_balancers_alone_are_asked_for_a_header() {
    let (guard, _) = guard("proxy_protocol = \"on\"\nproxy_trusted = [\"10.0.0.0/8\"]\n");
    assert!(guard.expects_header(peer("10.0.0.1")) && !guard.expects_header(peer("127.0.0.1")));
    assert!(!guard.expects_header(Endpoint::default()));
    guard.set_rules(rules(""));
    assert!(!guard.expects_header(peer("10.0.0.1")));
}

#[test]
fn times_are_told_in_words() {
    let words = |seconds| in_words(Duration::from_secs(seconds));
    let told = [0, 1, 90, 91, 600, 5401, 86_400, 129_601].map(words);
    assert_eq!(
        told,
        ["1 second", "1 second", "90 seconds", "2 minutes", "10 minutes", "2 hours", "24 hours", "2 days"]
    );
}
