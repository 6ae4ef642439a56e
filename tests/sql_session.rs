//! What a session is told about the statements that change its state, by tables.

use forebay::sql::{Access, Effects, Kind, Reason, Setting, Verdict, classify};

fn judge(text: &str) -> Verdict {
    classify(text.as_bytes(), None)
}

fn set(name: &str, value: Option<&str>) -> Kind {
    Kind::Set(Setting { name: name.into(), value: value.map(Into::into) })
}

fn set_local(name: &str, value: Option<&str>) -> Kind {
    Kind::SetLocal(Setting { name: name.into(), value: value.map(Into::into) })
}

#[test]
fn kinds_tell_what_the_session_must_do() {
    let begin = |read_only, serializable| Kind::Begin { read_only, serializable };
    let reset = |name: &str| Kind::Reset(Some(name.into()));
    let cases = [
        ("", Kind::Empty),
        (" ; -- x", Kind::Empty),
        ("SELECT 1", Kind::Other),
        ("SELECT 1; SELECT 2", Kind::Multiple),
        ("BEGIN", begin(None, false)),
        ("begin work;", begin(None, false)),
        ("BEGIN READ ONLY", begin(Some(true), false)),
        ("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE", begin(Some(false), false)),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", begin(Some(true), true)),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", begin(Some(false), false)),
        ("COMMIT", Kind::Commit),
        ("END TRANSACTION AND CHAIN", Kind::Commit),
        ("PREPARE TRANSACTION 'x'", Kind::Commit),
        ("COMMIT PREPARED 'x'", Kind::Other),
        ("ROLLBACK", Kind::Rollback),
        ("ABORT WORK", Kind::Rollback),
        ("ROLLBACK AND NO CHAIN", Kind::Rollback),
        ("ROLLBACK PREPARED 'x'", Kind::Other),
        ("ROLLBACK TO a", Kind::Savepoint),
        ("ROLLBACK WORK TO SAVEPOINT a", Kind::Savepoint),
        ("SAVEPOINT a", Kind::Savepoint),
        ("RELEASE a", Kind::Savepoint),
        ("SET a = 1", set("a", Some("1"))),
        ("SET SESSION Work_Mem TO '64MB'", set("work_mem", Some("64MB"))),
        ("SET app.user = 'o''x'", set("app.user", Some("o'x"))),
        ("SET a = -1.5", set("a", Some("-1.5"))),
        ("SET a TO On", set("a", Some("on"))),
        ("SET a TO \"On\"", set("a", Some("On"))),
        ("SET search_path = a, b", set("search_path", None)),
        ("SET a = E'x\\n'", set("a", None)),
        ("SET a = 'x\\n'", set("a", None)),
        ("SET a = 'x'\n'y'", set("a", None)),
        ("SET a FROM CURRENT", Kind::Other),
        ("SET TIME ZONE 'UTC'", set("timezone", Some("UTC"))),
        ("SET TIME ZONE -7", set("timezone", Some("-7"))),
        ("SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE", set("timezone", None)),
        ("SET TIME ZONE LOCAL", reset("timezone")),
        ("SET TimeZone = 'UTC'", set("timezone", Some("UTC"))),
        ("SET NAMES 'LATIN1'", set("client_encoding", Some("LATIN1"))),
        ("SET NAMES", reset("client_encoding")),
        ("SET ROLE admin", set("role", Some("admin"))),
        ("SET ROLE NONE", set("role", Some("none"))),
        ("SET LOCAL ROLE \"Admin\"", set_local("role", Some("Admin"))),
        ("SET SESSION AUTHORIZATION bob", set("session_authorization", Some("bob"))),
        ("SET SESSION SESSION AUTHORIZATION 'bob'", set("session_authorization", Some("bob"))),
        ("SET SESSION AUTHORIZATION DEFAULT", reset("session_authorization")),
        ("SET SESSION AUTHORIZATION = 1", set("authorization", Some("1"))),
        ("SET constraints = 1", set("constraints", Some("1"))),
        ("SET local.x = 1", set("local.x", Some("1"))),
        ("SET LOCAL session.x TO 1", set_local("session.x", Some("1"))),
        ("SET transaction TO 1", set("transaction", Some("1"))),
        ("SET names.x = 1", set("names.x", Some("1"))),
        ("SET time.zone = 1", set("time.zone", Some("1"))),
        ("SET SCHEMA 'x'", set("search_path", Some("x"))),
        ("SET XML OPTION DOCUMENT", set("xmloption", Some("document"))),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", set("session characteristics", None)),
        ("SET a = DEFAULT", reset("a")),
        ("SET a TO default;", reset("a")),
        ("SET LOCAL a = 1", set_local("a", Some("1"))),
        ("SET LOCAL a = DEFAULT", set_local("a", None)),
        ("SET LOCAL forebay.route = 'replica'", set_local("forebay.route", Some("replica"))),
        ("SET forebay.route TO replica", set("forebay.route", Some("replica"))),
        ("SET TRANSACTION READ ONLY", Kind::SetTransaction),
        ("SET TRANSACTION SNAPSHOT 'x'", Kind::SetTransaction),
        ("SET SESSION TRANSACTION READ ONLY", Kind::SetTransaction),
        ("SET CONSTRAINTS ALL DEFERRED", Kind::SetTransaction),
        ("RESET a", reset("a")),
        ("RESET forebay.route", reset("forebay.route")),
        ("RESET TIME ZONE", reset("timezone")),
        ("RESET SESSION AUTHORIZATION", reset("session_authorization")),
        ("RESET TRANSACTION ISOLATION LEVEL", reset("transaction_isolation")),
        ("RESET ALL", Kind::Reset(None)),
        ("SHOW Search_Path", Kind::Show("search_path".into())),
        ("SHOW forebay.node", Kind::Show("forebay.node".into())),
        ("SHOW TIME ZONE", Kind::Show("timezone".into())),
        ("SHOW ALL", Kind::Show("all".into())),
        ("DISCARD ALL", Kind::DiscardAll),
        ("DISCARD TEMP", Kind::Other),
        ("DEALLOCATE p", Kind::Deallocate(Some("p".into()))),
        ("DEALLOCATE PREPARE \"P\"", Kind::Deallocate(Some("P".into()))),
        ("DEALLOCATE prepare", Kind::Deallocate(Some("prepare".into()))),
        ("DEALLOCATE PREPARE ALL", Kind::Deallocate(None)),
        ("SELECT set_config('TimeZone', 'UTC', false)", set("timezone", Some("UTC"))),
        ("SELECT pg_catalog.set_config('a.b', 'c', true) AS \"x\";", set_local("a.b", Some("c"))),
        ("select Set_Config('a', '', 'f') x", set("a", Some(""))),
        ("SELECT/**/set_config('a', 'b', false)", set("a", Some("b"))),
        ("SELECT set_config('a', $1, false)", Kind::Other),
        ("SELECT set_config('a', 'b', false), 1", Kind::Other),
        ("SELECT set_config('a', 'b', false) FROM t", Kind::Other),
        ("SELECT other.set_config('a', 'b', false)", Kind::Other),
        ("BEGIN; 'x", Kind::Multiple),
        ("BEGIN; SELECT 1; 'x", Kind::Multiple),
    ];
    for (text, kind) in cases {
        let verdict = judge(text);
        assert_eq!(verdict.kind, kind, "{text}");
        if !matches!(kind, Kind::Other | Kind::Show(_)) {
            assert_eq!(verdict.access, Access::Write, "{text}");
        }
    }
}

#[test]
fn effects_are_found_anywhere() {
    use Effects as E;
    let cases = [
        ("SELECT 1", E::empty()),
        ("INSERT INTO temp VALUES (1)", E::empty()),
        ("SELECT pg_advisory_lock(1)", E::ADVISORY_LOCK),
        ("SELECT pg_catalog.PG_TRY_ADVISORY_LOCK_shared (1, 2)", E::ADVISORY_LOCK),
        ("SELECT \"pg_advisory_lock\"(1)", E::ADVISORY_LOCK),
        ("SELECT pg_advisory_xact_lock(1)", E::empty()),
        ("SELECT pg_advisory_unlock_all()", E::MAY_END | E::TIDIES),
        ("SELECT pg_advisory_unlock_all(), nextval('s')", E::MAY_END),
        ("SELECT pg_advisory_unlock_all() FROM f()", E::MAY_END),
        ("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;", E::MAY_END | E::RESETS_ALL | E::TIDIES),
        ("CLOSE ALL; DELETE FROM t", E::MAY_END),
        ("DELETE FROM t; CLOSE ALL", E::MAY_END),
        ("RESET ALL", E::TIDIES),
        ("DEALLOCATE p", E::TIDIES),
        ("SELECT pg_advisory_lock FROM t", E::empty()),
        ("SELECT 'pg_advisory_lock(1)'", E::empty()),
        ("WITH x AS (SELECT setseed(0.5)) SELECT 1", E::SEED),
        ("INSERT INTO t SELECT set_config('a', 'b', false)", E::UNKNOWN_SET),
        ("UPDATE t SET a = set_config('a', b, $1)", E::UNKNOWN_SET),
        ("SELECT set_config('a', 'b', true), set_config('c', $1, true)", E::empty()),
        ("SELECT set_config('a', f(1, false), true) FROM t", E::empty()),
        ("SELECT set_config('a', 'b', true), set_config('c', $1, false)", E::UNKNOWN_SET),
        ("SELECT set_config('a', 'b', false)", E::empty()),
        ("SELECT set_config('a', 'b', false); SELECT 1", E::UNKNOWN_SET),
        ("SELECT U&\"set\\005fconfig\"('a', 'b', false)", E::UNKNOWN_SET | E::ADVISORY_LOCK),
        ("SET a = 1", E::empty()),
        ("SELECT 1; SET a = 1", E::UNKNOWN_SET),
        ("SET a = 1; SELECT 1", E::UNKNOWN_SET),
        ("SELECT 1; SET LOCAL a = 1", E::empty()),
        ("BEGIN; SELECT 1", E::TRANSACTION),
        ("SELECT 1; SELECT 2; COMMIT", E::TRANSACTION),
        ("SELECT 1; ROLLBACK TO a", E::empty()),
        ("SELECT 1; DISCARD ALL", E::DROPS_PREPARED | E::MAY_END),
        ("DEALLOCATE ALL; SELECT 1", E::DROPS_PREPARED),
        ("DISCARD TEMP", E::MAY_END | E::TIDIES),
        ("UNLISTEN *", E::MAY_END | E::TIDIES),
        ("LISTEN a", E::LISTEN),
        ("SELECT 1; LISTEN a", E::LISTEN),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", E::WITH_HOLD),
        ("DECLARE c CURSOR FOR SELECT 1 AS x", E::empty()),
        ("DECLARE c CURSOR WITHOUT HOLD FOR WITH hold AS (SELECT 1) SELECT 1", E::empty()),
        ("PREPARE p AS SELECT 1", E::SQL_PREPARE),
        ("PREPARE TRANSACTION 'x'", E::empty()),
        ("EXECUTE p", E::OPAQUE),
        ("LOAD 'x'", E::OPAQUE),
        ("CALL p()", E::OPAQUE),
        ("DO $$ BEGIN PERFORM 1; END $$", E::OPAQUE),
        ("DO $$ BEGIN UPDATE t SET a = 1; END $$", E::OPAQUE),
        ("DO $$ BEGIN SET a = 1; END $$", E::OPAQUE | E::UNKNOWN_SET),
        ("DO $$ BEGIN SET LOCAL a = 1; END $$", E::OPAQUE),
        ("DO LANGUAGE plpgsql 'BEGIN IF x THEN SET a = ''b''; END IF; END'", E::OPAQUE | E::UNKNOWN_SET),
        ("DO $$ BEGIN EXECUTE 'SET a = 1'; END $$", E::OPAQUE | E::UNKNOWN_SET),
        ("DO $$ BEGIN PERFORM set_config('a', 'b', false); END $$", E::OPAQUE | E::UNKNOWN_SET),
        ("DO $$ BEGIN PERFORM set_config('a', 'b', true); END $$", E::OPAQUE),
        ("DO $$ BEGIN CREATE TEMP TABLE x (a int); END $$", E::OPAQUE | E::TEMP),
        ("DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$", E::OPAQUE | E::ADVISORY_LOCK),
        ("CREATE TEMP TABLE x (a int)", E::TEMP),
        ("CREATE OR REPLACE LOCAL TEMPORARY VIEW x AS SELECT 1", E::TEMP),
        ("CREATE TABLE pg_temp.x (a int)", E::TEMP | E::DDL),
        ("CREATE TABLE \"pg_temp\".x (a int)", E::TEMP | E::DDL),
        ("SELECT * INTO TEMP x FROM t", E::TEMP),
        ("SELECT nextval('s') INTO LOCAL TEMPORARY x", E::TEMP),
        ("SELECT * INTO x FROM t", E::DDL),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1", E::TEMP),
        ("CREATE FUNCTION f() RETURNS int AS 'x' LANGUAGE sql SET a = 1", E::DDL),
        ("ALTER TABLE t SET (a = 1)", E::DDL),
        ("DROP VIEW v", E::DDL),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END", E::DDL),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)", E::DDL),
    ];
    for (text, effects) in cases {
        assert_eq!(judge(text).effects, effects, "{text}");
    }
}

#[test]
fn statements_inside_a_function_body_are_not_statements_of_the_message() {
    for text in [
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)",
        "SELECT ';' ; ",
        "SELECT $$;$$, $x$;$x$, \";\" /* ; */ -- ;",
    ] {
        assert_eq!(judge(text).kind, Kind::Other, "{text}");
    }
}

#[test]
fn a_text_that_is_too_long_to_read_may_have_done_anything() {
    let text = format!("INSERT INTO t VALUES ('{}')", "x".repeat(9 * 1024 * 1024));
    let verdict = judge(&text);
    assert_eq!((verdict.access, verdict.reason, verdict.kind), (Access::Write, Reason::TooLong, Kind::Multiple));
    assert!(verdict.effects.contains(Effects::UNKNOWN_SET | Effects::TRANSACTION));
}
