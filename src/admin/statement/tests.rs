use std::collections::BTreeSet;

use super::command::{Mode, Shutdown};
use super::*;
use crate::wire::pg::sqlstate::ToClient;
use proptest::prelude::*;

fn one(text: &str) -> Statement {
    let mut all = parse(text).unwrap_or_else(|e| panic!("{text}: {}", e.message()));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn command(text: &str) -> Command {
    match one(text) {
        Statement::Command(command) => command,
        other => panic!("{text}: {other:?}"),
    }
}

fn code(text: &str) -> &'static str {
    parse(text).map(|_| "none").unwrap_or_else(|e| e.sqlstate())
}

fn name(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn keywords_have_no_case_and_names_keep_theirs() {
    assert_eq!(command("pause MyDb"), Command::Pause(name("MyDb")));
    assert_eq!(command("PAUSE \"my \"\"db\""), Command::Pause(name("my \"db")));
    assert_eq!(command("Pause 'it''s'"), Command::Pause(name("it's")));
    assert_eq!(command("PAUSE 1db"), Command::Pause(name("1db")));
    assert_eq!(command("resume"), Command::Resume(None));
}

#[test]
fn each_command_is_read() {
    for (text, expected) in [
        ("RELOAD;", Command::Reload),
        ("DISABLE app", Command::Disable("app".into())),
        ("ENABLE app", Command::Enable("app".into())),
        ("RECONNECT", Command::Reconnect(None)),
        ("RECONNECT app", Command::Reconnect(name("app"))),
        ("KILL app", Command::Kill(name("app"))),
        ("KILL_CLIENT 12", Command::KillClient(12)),
        ("kill_client '12'", Command::KillClient(12)),
        ("SUSPEND", Command::Suspend),
        ("SHUTDOWN", Command::Shutdown(Shutdown::Now)),
        ("SHUTDOWN WAIT_FOR_SERVERS", Command::Shutdown(Shutdown::WaitForServers)),
        ("shutdown wait_for_clients", Command::Shutdown(Shutdown::WaitForClients)),
        ("WAIT_CLOSE app", Command::WaitClose(name("app"))),
        ("DETACH NODE pg1", Command::DetachNode("pg1".into())),
        ("DRAIN NODE main.pg1", Command::DrainNode("main.pg1".into())),
        ("ATTACH NODE \"pg 1\"", Command::AttachNode { node: "pg 1".into(), force: false }),
        ("ATTACH NODE pg1 FORCE", Command::AttachNode { node: "pg1".into(), force: true }),
        ("SET WEIGHT main.pg1 = 3", Command::SetWeight { node: "main.pg1".into(), weight: 3 }),
        (
            "SWITCHOVER cache",
            Command::Switchover { service: "cache".into(), to: None, mode: Mode::Fast, drain: None, dry_run: false },
        ),
        ("PAUSE FAILOVER", Command::PauseFailover(None)),
        ("resume failover main;", Command::ResumeFailover(name("main"))),
        (
            "switchover cache DRY RUN drain '2s' mode Clean to cache.redis2",
            Command::Switchover {
                service: "cache".into(),
                to: Some("cache.redis2".into()),
                mode: Mode::Clean,
                drain: Some(std::time::Duration::from_secs(2)),
                dry_run: true,
            },
        ),
        ("SET WEIGHT pg1 TO 0", Command::SetWeight { node: "pg1".into(), weight: 0 }),
    ] {
        assert_eq!(command(text), expected, "{text}");
    }
}

#[test]
fn a_key_takes_everything_up_to_the_end_of_the_statement() {
    for (text, expected) in [
        ("SET default_pool_size = 5", ("default_pool_size", "5")),
        ("SET Postgres.Pool.Size=5;", ("postgres.pool.size", "5")),
        ("SET postgres.pool.queue_timeout TO 5s", ("postgres.pool.queue_timeout", "5s")),
        ("SET a = '5 s'", ("a", "5 s")),
        ("SET a = [\"x\", \"y\"] -- why", ("a", "[\"x\", \"y\"]")),
        ("SET general.log.level = forebay::pool=debug,info", ("general.log.level", "forebay::pool=debug,info")),
        ("SET weight = 3", ("weight", "3")),
        ("SET \"A.b\" = 3", ("A.b", "3")),
    ] {
        let expected = Command::SetKey { key: expected.0.into(), value: expected.1.into() };
        assert_eq!(command(text), expected, "{text}");
    }
    assert_eq!(code("SET a"), "42601");
    assert_eq!(code("SET a ="), "42601");
    assert_eq!(code("SET a = DEFAULT"), "22023");
}

#[test]
fn what_drivers_set_is_no_command() {
    for (text, expected) in [
        ("SET client_encoding TO 'UTF8'", ("client_encoding", Some("UTF8"))),
        ("SET NAMES 'UTF8'", ("client_encoding", Some("UTF8"))),
        ("SET SESSION TIME ZONE 'UTC'", ("timezone", Some("UTC"))),
        ("SET LOCAL statement_timeout = 0", ("statement_timeout", Some("0"))),
        ("set DateStyle = ISO, MDY", ("datestyle", Some("ISO, MDY"))),
        ("SET extra_float_digits TO DEFAULT", ("extra_float_digits", None)),
        ("RESET application_name", ("application_name", None)),
    ] {
        let expected = Statement::Set { name: expected.0.into(), value: expected.1.map(str::to_owned) };
        assert_eq!(one(text), expected, "{text}");
    }
    for text in ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"]
    {
        assert_eq!(one(text), Statement::Nothing("SET"), "{text}");
    }
    assert_eq!(one("RESET ALL"), Statement::Nothing("RESET"));
}

#[test]
fn views_are_shown_and_selected() {
    for text in [
        "SHOW POOLS",
        "show pools;",
        "SELECT pools",
        "SELECT * FROM pools",
        "select * from pgbouncer.\"pools\"",
        "-- x\nSHOW /* y */ pools",
    ] {
        assert!(matches!(one(text), Statement::Show(view) if view.name == "POOLS"), "{text}");
    }
    assert!(matches!(one("SHOW HA CHECKS"), Statement::Show(view) if view.name == "HA CHECKS"));
    assert!(matches!(one("SHOW HA"), Statement::Show(view) if view.name == "HA"));
    assert_eq!(one("SHOW TRANSACTION ISOLATION LEVEL"), Statement::Parameter("transaction_isolation".into()));
    assert_eq!(one("show TimeZone"), Statement::Parameter("timezone".into()));
    for (text, expected) in
        [("SHOW NOTHING", "42601"), ("SHOW", "42601"), ("SHOW FDS", "0A000"), ("SHOW POOLS x", "42601")]
    {
        assert_eq!(code(text), expected, "{text}");
    }
}

#[test]
fn constants_and_functions_are_selected() {
    let Statement::Select(items) =
        one("select 1 as one, 'a''b', version(), pg_catalog.current_database() db, now()::text")
    else {
        panic!("no SELECT");
    };
    let names: Vec<&str> = items.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["one", "?column?", "version", "db", "now"]);
    assert_eq!(items[1].expression, Expression::Text("a'b".into()));
    assert_eq!(
        one("SELECT current_setting('TimeZone')"),
        Statement::Select(vec![Item {
            expression: Expression::Setting("timezone".into()),
            name: "current_setting".into(),
        }])
    );
    for text in [
        "select 1 from t",
        "select a",
        "select count(*)",
        "select * from t",
        "select",
        "select 1,",
        "select * from pools where 1 = 1",
    ] {
        assert_eq!(code(text), "42601", "{text}");
    }
    assert_eq!(code("select $1"), "0A000");
}

#[test]
fn a_text_has_any_number_of_statements() {
    for empty in ["", " ", ";", ";;", "-- ping", "/* nothing */", "/* a */;-- b"] {
        assert_eq!(parse(empty), Ok(Vec::new()), "{empty:?}");
    }
    assert_eq!(parse("BEGIN; SHOW POOLS; COMMIT").map(|all| all.len()), Ok(3));
    assert_eq!(code("SHOW POOLS; DROP TABLE x"), "42601", "nothing runs when a part cannot be read");
    assert_eq!(code("PAUSE a b"), "42601");
    assert_eq!(code("RELOAD 'x"), "42601", "an open quote");
}

#[test]
fn explain_route_takes_the_rest_as_it_is() {
    let explained = |database: Option<&str>, text: &str| Statement::ExplainRoute {
        database: database.map(str::to_owned),
        text: text.to_owned(),
    };
    assert_eq!(one("EXPLAIN ROUTE select 1; select 2;"), explained(None, "select 1; select 2"));
    assert_eq!(
        one("explain route database \"App\" /* forebay: primary */ select 'x"),
        explained(Some("App"), "/* forebay: primary */ select 'x")
    );
    assert_eq!(code("EXPLAIN ROUTE"), "42601");
    assert_eq!(code("EXPLAIN ROUTE ;"), "42601");
    assert_eq!(code("EXPLAIN select 1"), "42601");
}

#[test]
fn a_name_in_quotes_is_no_word_of_a_command() {
    assert_eq!(command("PAUSE \"failover\""), Command::Pause(name("failover")), "a database of that name, in quotes");
}

#[test]
fn bans_take_an_address_or_a_block_and_a_time() {
    let block = |text: &str| crate::config::Network::parse(text).unwrap();
    let minutes = std::time::Duration::from_secs(600);
    assert_eq!(command("BAN '10.0.0.1'"), Command::Ban { block: block("10.0.0.1"), time: None });
    assert_eq!(command("ban '10.0.0.0/8' for '10m'"), Command::Ban { block: block("10.0.0.0/8"), time: Some(minutes) });
    assert_eq!(command("UNBAN '2001:db8::/32'"), Command::Unban(block("2001:db8::/32")));
    for text in ["BAN", "BAN 10.0.0.1", "BAN 'lan'", "BAN '10.0.0.1' FOR", "BAN '10.0.0.1' FOR 'x'", "UNBAN ''"] {
        assert_eq!(code(text), "42601", "{text}");
    }
}

#[test]
fn a_failover_names_what_it_gives_up() {
    let failover = |service: &str, to: Option<&str>, allow_loss| Command::Failover {
        service: service.to_owned(),
        to: to.map(str::to_owned),
        allow_loss,
    };
    assert_eq!(command("FAILOVER main"), failover("main", None, false));
    assert_eq!(command("failover main to pg2 allow data loss"), failover("main", Some("pg2"), true));
    assert_eq!(command("PROMOTE main.pg2"), failover("", Some("main.pg2"), false));
    assert_eq!(command("PROMOTE pg2 ALLOW DATA LOSS"), failover("", Some("pg2"), true));
}

#[test]
fn an_unknown_command_leads_to_help() {
    for text in [
        "NONSENSE",
        "INSERT INTO x VALUES (1)",
        "1",
        "(",
        "DETACH pg1",
        "KILL_CLIENT",
        "KILL_CLIENT -1",
        "SET WEIGHT pg1 = x",
        "SWITCHOVER",
        "SWITCHOVER cache redis2",
        "SWITCHOVER cache DRY",
        "SWITCHOVER cache DRAIN 5s",
        "SWITCHOVER cache TO a TO b",
        "SWITCHOVER cache MODE sideways",
        "SWITCHOVER cache MODE",
        "SWITCHOVER cache MODE fast MODE clean",
        "PAUSE FAILOVER cache main",
        "FAILOVER",
        "FAILOVER main pg2",
        "FAILOVER main ALLOW LOSS",
        "FAILOVER main TO pg2 DRY RUN",
        "PROMOTE",
        "PROMOTE pg2 ALLOW",
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.sqlstate(), "42601", "{text}");
        assert_eq!(error.hint().as_deref(), Some("use SHOW HELP"), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_words_are_read_without_a_panic(words in prop::collection::vec(prop::sample::select(vec![
        "show", "select", "set", "*", "from", "pools", "'x'", "\"y\"", "=", "to", ";", "(", ")", ",", "$1", "1", "pause", "explain",
        "route", "database", "weight", "node", "attach", "force", ".", "::", "names", "default", "begin", "rollback", "'", "--",
    ]), 0..8)) {
        let _ = parse(&words.join(" "));
    }
}

#[test]
fn help_has_every_command_that_there_is() {
    // The names stand in one table, `Command::name`, which the compiler keeps whole.
    let source = include_str!("command.rs");
    let table = source.split_once("pub fn name(").unwrap().1.split_once("\n    }\n").unwrap().0;
    let named: BTreeSet<&str> = table.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(named.len() > 20, "{named:?}");
    let head = |form: &'static str| {
        let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        form.split(' ').take_while(is_word).collect::<Vec<_>>().join(" ")
    };
    let helped: BTreeSet<String> =
        crate::admin::help::TOPICS.iter().flat_map(|t| t.commands).map(|(form, _)| head(form)).collect();
    let mut expected: BTreeSet<String> = named.iter().map(|name| name.to_string()).collect();
    expected.insert("EXPLAIN ROUTE".to_owned());
    assert_eq!(helped, expected);
}
