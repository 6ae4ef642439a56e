//! Which statements are reads, by tables.

use forebay::sql::{Access, Catalog, Effects, Hint, Reason, Verdict, classify};

/// A database with a few functions and relations of its own besides the usual built-ins.
fn catalog() -> Catalog {
    let mut builder = Catalog::builder();
    for name in [
        "count",
        "sum",
        "max",
        "now",
        "lower",
        "upper",
        "unnest",
        "generate_series",
        "coalesce_all",
        "current_setting",
        "jsonb_each",
        "date_trunc",
        "left",
        "like",
        "overlaps",
        "length",
        "row_number",
        "string_agg",
        "to_char",
        "array_agg",
        "json_object",
        "json_agg",
        "md5",
        "version",
        "percentile_cont",
        "jsonb_array_elements",
        "abs",
        "set_config_reader",
        "date_part",
        "extract",
        "cube",
    ] {
        builder.function("pg_catalog", name, false, true);
    }
    for name in ["random", "clock_timestamp", "gen_random_uuid", "pg_sleep", "nextval", "set_config", "bernoulli"] {
        builder.function("pg_catalog", name, true, true);
    }
    builder
        .function("pg_catalog", "pg_backend_pid", false, true)
        .function("pg_catalog", "txid_current_if_assigned", false, true)
        .function("public", "touch", true, false)
        .function("public", "Touch", false, false)
        .function("public", "pure", false, false)
        .function("public", "half", false, false)
        .function("other", "half", true, false)
        .function("public", "timeofday", true, false)
        .function("public", "audited", true, false)
        .function("public", "reviewed", true, false)
        .function("other", "reviewed", true, false)
        .function("public", "looks_pure", false, false)
        .function("public", "over", true, false)
        .sql_function("public", "looks_pure", "SELECT touch(); SELECT 1")
        .function("public", "wrapped", false, false)
        .sql_function("public", "wrapped", " RETURN looks_pure()")
        .function("public", "clean", false, false)
        .sql_function("public", "clean", "BEGIN ATOMIC\n SELECT lower('\\x'::text);\n SELECT 1;\nEND")
        .row_function("touch")
        .operator("=", false)
        .operator("+", false)
        .operator("*", false)
        .operator("-", false)
        .operator("<", false)
        .operator(">", false)
        .operator("<>", false)
        .operator("||", false)
        .operator("->>", false)
        .operator("~~>", true)
        .relation("cache")
        .relation("Orders_seq")
        .view("seeing", "SELECT touch() AS x FROM t;")
        .view("over_seeing", " SELECT s.x, (1)::numeric(10,2) AS n\n   FROM (seeing s\n     JOIN t ON ((t.id = s.x)));")
        .view("plain_view", " SELECT u.a FROM generate_series(1, 3) u(a);")
        .expression("guarded", "(owner = touch())")
        .expression("tenants", "(tenant = (current_setting('app.tenant'::text))::uuid)")
        .read_function("audited")
        .read_function("public.reviewed")
        .write_function("pure_but_not");
    builder.build()
}

fn judge(text: &str) -> Verdict {
    classify(text.as_bytes(), Some(&catalog()))
}

fn assert_reads(statements: &[&str]) {
    let catalog = catalog();
    for text in statements {
        let verdict = classify(text.as_bytes(), Some(&catalog));
        assert_eq!(verdict.access, Access::Read, "{text}: {}", verdict.reason);
        assert_eq!(verdict.reason, Reason::Read, "{text}");
        assert_eq!(verdict.effects, Effects::empty(), "{text}");
    }
}

fn assert_writes(statements: &[&str]) {
    let catalog = catalog();
    for text in statements {
        let verdict = classify(text.as_bytes(), Some(&catalog));
        assert_eq!(verdict.access, Access::Write, "{text}");
        assert_ne!(verdict.reason, Reason::Read, "{text}");
    }
}

#[test]
fn ordinary_reads_are_reads() {
    assert_reads(&[
        "SELECT 1",
        "select 1;",
        " ; SELECT 1 ; ; ",
        "-- c\nSELECT 1 -- d",
        "/* a /* b */ */ SELECT 1",
        "(SELECT 1)",
        "((SELECT 1) UNION ALL (SELECT 2)) ORDER BY 1",
        "VALUES (1, 'a'), (2, 'b')",
        "TABLE users",
        "SELECT * FROM users WHERE id = $1 LIMIT 1",
        "SELECT \"users\".* FROM \"users\" WHERE \"users\".\"id\" = $1 LIMIT $2",
        "SELECT count(*), max(x) FILTER (WHERE y > 0), row_number() OVER (PARTITION BY a ORDER BY b) FROM t",
        "SELECT pg_catalog.lower('A'), \"lower\"('B'), LOWER('C'), lower /* x */ ('D')",
        "SELECT COALESCE(a, b), NULLIF(a, 1), GREATEST(a, b), LEAST(1, 2), CAST(a AS numeric(10,2)) FROM t",
        "SELECT x::varchar(10), y::numeric(4, 2), z::pg_catalog.bpchar(3), a::character varying(20) FROM t",
        "SELECT EXTRACT(year FROM d), SUBSTRING(a FROM 1 FOR 3), TRIM(BOTH ' ' FROM a), POSITION('a' IN b) FROM t",
        "SELECT OVERLAY(a PLACING b FROM 1 FOR 2) FROM t",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id) AND b IN (1, 2) AND c = ANY ($1)",
        "SELECT a FROM t WHERE a NOT IN (SELECT b FROM u) AND (a, b) = (SELECT 1, 2)",
        "SELECT CASE WHEN (a > 1) THEN (b) ELSE (c) END FROM t",
        "SELECT a FROM t JOIN (SELECT 1 AS b) AS u USING (b) LEFT JOIN (x CROSS JOIN y) ON (true)",
        "SELECT a FROM t GROUP BY GROUPING SETS ((a), (b), ()), ROLLUP (a), CUBE (a, b) HAVING (count(*) > 1)",
        "SELECT * FROM unnest($1::int[], $2::text[]) AS u(a, b)",
        "SELECT * FROM unnest($1) u(a), generate_series(1, 2) WITH ORDINALITY g(x, n), (VALUES (1)) v(y)",
        "SELECT * FROM t AS x (a, b), t y(c)",
        "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest($1) AS (a int, b numeric(10, 2))) AS z(a, b, c)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t",
        "WITH a(x) AS (SELECT 1), b(y, z) AS NOT MATERIALIZED (SELECT 1, 2), c AS MATERIALIZED (TABLE t) SELECT 1",
        "SELECT string_agg(a, ',' ORDER BY b) WITHIN GROUP (ORDER BY c), percentile_cont(0.5) WITHIN GROUP (ORDER BY x)",
        "SELECT a FROM t TABLESAMPLE bernoulli (10) REPEATABLE (3)",
        "SELECT a FROM t FETCH FIRST (5) ROWS ONLY OFFSET (1)",
        "SELECT a FROM t WHERE a LIKE ('%' || $1) AND b ILIKE ('x') AND (a, b) OVERLAPS (c, d)",
        "SELECT ts AT TIME ZONE ('UTC') FROM t",
        "SELECT interval '1 day', interval(3) '1 s', timestamp(3) '2020-01-01', date '2020-01-01'",
        "SELECT sum(x) OVER w FROM t WINDOW w AS (PARTITION BY a ROWS BETWEEN (1) PRECEDING AND CURRENT ROW)",
        "SELECT ARRAY[1, 2], ARRAY(SELECT 1), ROW(1, 2), a[1:2], (a).b, (a).b.c FROM t",
        "SELECT 1 OPERATOR(pg_catalog.+) 2",
        "SELECT json_object('a' VALUE 1), JSON_ARRAYAGG(a ORDER BY b) FROM t",
        "SELECT xmlelement(name foo, xmlattributes(a AS b), 'c') FROM t",
        "SELECT 'it''s', E'a\\'b', U&'d\\0061t', B'01', $$x;y$$, $q$ ; DELETE $q$, N'x', 'a'\n'b'",
        "SELECT 'DELETE FROM t; COMMIT', \"update\", \"into\" FROM \"for update\"",
        "SELECT a AS \"for update\", p.delete, p.update FROM p -- FOR UPDATE",
        "SELECT random(), clock_timestamp(), gen_random_uuid(), pg_sleep(0)",
        "SELECT a FROM t LEFT JOIN (a NATURAL JOIN (b FULL OUTER JOIN (c INNER JOIN (d) USING (e)) ON (true))) ON (true)",
        "SELECT a NOT LIKE ('x') FROM t GROUP BY b, CUBE (c), GROUPING SETS (ROLLUP (d)) FETCH NEXT (3) ROWS ONLY",
        "SELECT * FROM json_table(a, '$' COLUMNS (b int PATH '$.b')) AS j",
        "SELECT DISTINCT ON (a) row_number() OVER (ORDER BY b), count(*) FILTER (WHERE (c) LIKE ('x')) AS \"n\"\"m\" FROM t",
        "SELECT current_timestamp(3), localtime, current_user, session_user, current_date",
        "SELECT \"Touch\"(1), pure(2), audited(3), clean()",
        "SELECT current_setting('TimeZone'), current_setting('app.user', true)",
        "SELECT a ->> 'b' FROM t",
        "SELECT * FROM plain_view, tenants",
        "SELECT * FROM pg_class WHERE relname = 'x'",
        "EXPLAIN SELECT 1",
        "EXPLAIN VERBOSE SELECT 1",
        "EXPLAIN (COSTS off, FORMAT JSON, VERBOSE) SELECT 1",
        "EXPLAIN (SELECT 1)",
        "EXPLAIN (VERBOSE) (SELECT 1)",
        "EXPLAIN WITH x AS (SELECT 1) TABLE x",
        "SHOW search_path",
        "SHOW TimeZone",
        "SHOW TIME ZONE",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "show forebay.node",
        "COPY users TO STDOUT",
        "COPY public.users (id, name) TO STDOUT WITH (FORMAT csv, FORCE_QUOTE (id))",
        "COPY (SELECT * FROM users WHERE id IN (1, 2)) TO STDOUT (FORMAT binary)",
        "COPY ((SELECT 1) UNION (SELECT 2)) TO stdout",
    ]);
}

#[test]
fn what_may_write_is_a_write() {
    assert_writes(&[
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON (true) WHEN MATCHED THEN DELETE",
        "SELECT 1; SELECT 2",
        "SELECT 1;;; DELETE FROM t",
        "SELECT 1 INTO t",
        "SELECT * INTO TEMP x FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM t for /* x */ update",
        "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
        "SELECT * FROM t FOR SHARE",
        "SELECT * FROM t FOR KEY SHARE OF t NOWAIT",
        "SELECT 1FOR UPDATE",
        "SELECT $1for share",
        "(SELECT * FROM t FOR UPDATE)",
        "SELECT * FROM (SELECT * FROM t FOR UPDATE) x",
        "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
        "WITH x AS (SELECT 1) UPDATE t SET a = 1",
        "WITH x AS MATERIALIZED (WITH y AS (DELETE FROM t RETURNING 1) SELECT * FROM y) SELECT 1",
        "SELECT touch()",
        "SELECT public.touch()",
        "SELECT public . touch ()",
        "SELECT \"touch\"()",
        "SELECT TOUCH ()",
        "SELECT half(1)",
        "SELECT public.half(1)",
        "SELECT t.touch FROM t",
        "SELECT (t).touch FROM t",
        "SELECT timeofday()",
        "SELECT reviewed()",
        "SELECT looks_pure()",
        "SELECT wrapped()",
        "SELECT pure_but_not()",
        "SELECT unheard_of()",
        "SELECT U&\"lower\"('a')",
        "SELECT DISTINCT ON (a) touch(b) FROM t",
        "SELECT 1 OPERATOR(pg_catalog.+) touch(x)",
        "SELECT a ~~> b FROM t",
        "SELECT a OPERATOR(public.~~>) b FROM t",
        "SELECT a <#> b FROM t",
        "SELECT over(1)",
        "SELECT * FROM t CROSS JOIN over(1)",
        "SELECT DISTINCT ON (a) over(1)",
        "SELECT a LIKE over(1)",
        "SELECT * FROM cache",
        "SELECT * FROM public.cache",
        "SELECT * FROM CACHE",
        "TABLE cache",
        "SELECT last_value FROM \"Orders_seq\"",
        "SELECT * FROM seeing",
        "SELECT * FROM over_seeing",
        "SELECT * FROM guarded",
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM pg_catalog.pg_locks",
        "SELECT * FROM PG_STAT_REPLICATION",
        "SELECT * FROM pg_temp.x",
        "SELECT nextval('s')",
        "SELECT pg_is_in_recovery()",
        "SELECT pg_backend_pid()",
        "SELECT txid_current_if_assigned()",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT current_setting('transaction_read_only')",
        "SELECT current_setting($1)",
        "SELECT current_setting('app.' || 'x')",
        "SELECT 'a\\'",
        "SELECT TREAT(a AS b) FROM t",
        "SHOW transaction_read_only",
        "SHOW in_hot_standby",
        "SHOW port",
        "SHOW ALL",
        "SHOW data_directory",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN ANALYSE VERBOSE SELECT 1",
        "EXPLAIN (ANALYZE) SELECT 1",
        "EXPLAIN (VERBOSE, ANALYZE false) SELECT 1",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "EXPLAIN EXECUTE p",
        "EXPLAIN (COSTS off) DELETE FROM t",
        "COPY t FROM STDIN",
        "COPY t TO '/tmp/x'",
        "COPY t TO PROGRAM 'cat'",
        "COPY (SELECT touch()) TO STDOUT",
        "COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT",
        "COPY (SELECT 1) TO STDOUT; DELETE FROM t",
        "COPY cache TO STDOUT",
        "COPY BINARY t TO STDOUT",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH ALL FROM c",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "LOCK TABLE t",
        "LISTEN x",
        "NOTIFY x",
        "CALL p()",
        "DO $$ BEGIN END $$",
        "VACUUM",
        "CREATE TABLE t (a int)",
        "TRUNCATE t",
        "BEGIN",
        "SET x = 1",
        "RESET ALL",
        "nonsense",
        "(INSERT INTO t VALUES (1))",
        "\"SELECT\" 1",
        "SELECT (1",
        "SELECT 1)",
        "SELECT 'a",
        "SELECT \"a",
        "SELECT $a$ x",
        "SELECT 1 /* x",
        "SELECT \u{0}1",
        "SELECT a_name_that_is_so_long_that_the_server_will_cut_it_to_another_one_of_63 FROM t",
        "",
        "-- nothing",
        ";",
    ]);
}

#[test]
fn reasons_name_what_decided() {
    let cases = [
        ("INSERT INTO t VALUES (1)", Reason::Keyword("INSERT")),
        ("vacuum t", Reason::Keyword("VACUUM")),
        ("SELECT * FROM t FOR UPDATE", Reason::LockingClause),
        ("SELECT 1 INTO t", Reason::SelectInto),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT 1", Reason::DataModifyingCte),
        ("EXPLAIN ANALYZE SELECT 1", Reason::ExplainAnalyze),
        ("SELECT 1; SELECT 2", Reason::SeveralStatements),
        ("SELECT Timeofday()", Reason::VolatileFunction("Timeofday".into())),
        ("SELECT nope()", Reason::UnknownFunction("nope".into())),
        ("SELECT nextval('s')", Reason::NodeSpecific("nextval".into())),
        ("SELECT * FROM pg_locks", Reason::NodeSpecific("pg_locks".into())),
        ("SELECT * FROM cache", Reason::VolatileRelation("cache".into())),
        ("SELECT 1 ~~> 2", Reason::VolatileOperator("~~>".into())),
        ("COMMIT", Reason::TransactionControl),
        ("SET a = 1", Reason::SessionState),
        ("SELECT 'a", Reason::Unterminated),
        ("SELECT '\\d'", Reason::AmbiguousString),
        ("SHOW port", Reason::NodeSpecific("port".into())),
        ("", Reason::Empty),
    ];
    for (text, reason) in cases {
        let verdict = judge(text);
        assert_eq!(verdict.reason, reason, "{text}");
        assert!(!verdict.reason.to_string().is_empty());
    }
}

#[test]
fn without_a_catalog_only_common_functions_read() {
    let cases = [
        ("SELECT count(*), lower(a), now(), coalesce(b, 1) FROM t WHERE c LIKE ('x')", Reason::Read),
        ("SELECT sum(a) OVER (PARTITION BY b) FROM t GROUP BY GROUPING SETS ((a)) ORDER BY (a)", Reason::Read),
        ("WITH RECURSIVE t(n) AS (SELECT 1) SELECT * FROM t JOIN (SELECT 1) x ON (true)", Reason::Read),
        ("SELECT random()", Reason::Read),
        ("SELECT a ->> 'b' FROM t", Reason::Read),
        ("SELECT my_function()", Reason::NoCatalog),
        ("SELECT over(1)", Reason::NoCatalog),
        ("SELECT json_arrayagg(1)", Reason::NoCatalog),
        ("SELECT a <#> b", Reason::VolatileOperator("<#>".into())),
        ("SELECT nextval('s')", Reason::NodeSpecific("nextval".into())),
        ("SELECT * FROM pg_stat_activity", Reason::NodeSpecific("pg_stat_activity".into())),
    ];
    for (text, reason) in cases {
        assert_eq!(classify(text.as_bytes(), None).reason, reason, "{text}");
    }
}

#[test]
fn a_volatile_comparison_spoils_the_words_that_call_it() {
    let mut builder = Catalog::builder();
    builder.operator("=", true).operator("+", false);
    let catalog = builder.build();
    for text in ["SELECT 1 = 2", "SELECT 1 IN (2)", "SELECT 1 ORDER BY 1", "SELECT a FROM t NATURAL JOIN u"] {
        let verdict = classify(text.as_bytes(), Some(&catalog));
        assert_eq!(verdict.reason, Reason::VolatileOperator("=".into()), "{text}");
    }
    assert_eq!(classify(b"SELECT 1 + 2", Some(&catalog)).access, Access::Read);
}

#[test]
fn a_suspicious_name_that_cannot_be_compared_spoils_all_such_names() {
    let mut builder = Catalog::builder();
    builder.relation("tâche");
    let catalog = builder.build();
    let latin1 = b"SELECT * FROM t\xe2che";
    assert_eq!(classify(latin1, Some(&catalog)).access, Access::Write);
    assert_eq!(classify(b"SELECT * FROM t", Some(&catalog)).access, Access::Read);
    assert_eq!(classify(latin1, Some(&Catalog::builder().build())).access, Access::Read);
    let mut builder = Catalog::builder();
    builder.relation("a\"b");
    let catalog = builder.build();
    assert_eq!(classify(b"SELECT * FROM \"a\"\"b\"", Some(&catalog)).access, Access::Write);
}

#[test]
fn lists_of_the_operator_overrule_the_catalog() {
    let mut builder = Catalog::builder();
    builder
        .function("pg_catalog", "pg_is_in_recovery", true, true)
        .function("public", "a", true, false)
        .function("app", "a", true, false)
        .function("public", "b", false, false)
        .read_function("pg_catalog.pg_is_in_recovery")
        .read_function("app.a")
        .read_function("not_created_yet")
        .write_function("public.b");
    let catalog = builder.build();
    let access = |text: &str| classify(text.as_bytes(), Some(&catalog)).access;
    assert_eq!(access("SELECT pg_is_in_recovery()"), Access::Read);
    assert_eq!(access("SELECT a()"), Access::Write, "public.a is not listed");
    assert_eq!(access("SELECT b()"), Access::Write);
    assert_eq!(access("SELECT not_created_yet()"), Access::Read);
}

#[test]
fn hints_are_reported_beside_the_verdict() {
    let verdict = judge("/* forebay: primary */ SELECT 1");
    assert_eq!((verdict.hint, verdict.access), (Some(Hint::Primary), Access::Read));
    let verdict = judge("-- forebay: replica\nDELETE FROM t");
    assert_eq!((verdict.hint, verdict.access), (Some(Hint::Replica), Access::Write));
    assert_eq!(judge("SELECT 1").hint, None);
}

#[test]
fn what_may_change_a_table_type_or_function_is_known() {
    let changes = |text: &str| judge(text).may_change_schema(Some(text.as_bytes()));
    for text in [
        "CREATE TABLE t (a int)",
        "alter type mood add value 'sad'",
        "/* x */ drop function f()",
        "DO $$ begin execute 'drop table t'; end $$",
        "select 1 as a into t",
        "select 1; Alter Table t add b int",
        "import foreign schema s from server v into public",
    ] {
        assert!(changes(text), "{text}");
    }
    for text in [
        "select * from t",
        "insert into t values (1)",
        "update t set created = now()",
        "truncate t",
        "vacuum t",
        "begin",
        "set search_path = a",
        "select 1; update t set a = 1",
        "listen news",
    ] {
        assert!(!changes(text), "{text}");
    }
}

#[test]
fn what_functions_and_triggers_leave_is_known_by_their_code() {
    let mut builder = Catalog::builder();
    builder
        .body("sets", "plpgsql", "begin if x then set work_mem = '3MB'; end if; end")
        .body("sets_here", "plpgsql", "begin set local work_mem = '3MB'; perform set_config('a.b', 'c', true); end")
        .body("writes", "plpgsql", "begin update t set a = 1; end")
        .body("named", "sql", "select set_config('app.tenant', $1, false)")
        .body("computed", "sql", "select set_config('app.' || $1, $2, false)")
        .body("Calls", "sql", "select named('x')")
        .body("calls_again", "plpgsql", "begin perform \"Calls\"(); end")
        .body("dynamic", "plpgsql", "begin execute format('create temporary table %I (a int)', $1); end")
        .body("python", "plpython3u", "plpy.execute(\"set work_mem = '3MB'\")")
        .body("locks", "sql", "select pg_advisory_lock(1)")
        .body("fires", "plpgsql", "begin insert into audited values (1); end")
        .body("runs", "plpgsql", "begin execute 'select named($1)' using 'x'; end")
        .body("inserts", "plpgsql", "begin execute format('insert into %I.audited values (1)', 'public'); end")
        .body("deep", "sql", "select set_config('request.jwt.sub'::text, $1, false)")
        .trigger("audited", "named")
        .trigger("plain", "writes")
        .writes_through("parent", "audited")
        .writes_through("grandparent", "parent")
        .written_expression("defaulted", "named('x'::text)")
        .view("seen", " SELECT a.x FROM audited a;")
        .view("calling", " SELECT named('x'::text) AS n;")
        .view("over", " SELECT c.n FROM calling c;")
        .expression("guarded", "(owner = named('y'))");
    let catalog = builder.build();
    let effects = |text: &str| classify(text.as_bytes(), Some(&catalog)).effects;
    let by_code = |effects: Effects| effects | Effects::BY_CODE;
    for text in [
        "select sets()",
        "select 1 from t where x = SETS(1)",
        "select public.named('x')",
        "select \"Calls\"()",
        "select calls_again()",
        "select python()",
        "select fires()",
        "insert into audited values (1)",
        "update only audited set a = 1",
        "with x as (select 1) delete from public.audited",
        "copy audited from stdin",
        "copy public.audited (a, b) from stdin with (format csv)",
        "delete from parent",
        "update grandparent set a = 1",
        "insert into defaulted (a) values (1)",
        "insert into seen values (1)",
        "select * from calling",
        "select * from over",
        "select * from guarded",
        "update guarded set a = 1",
        "select runs()",
        "select inserts()",
        "select deep('x')",
    ] {
        assert_eq!(effects(text), by_code(Effects::UNKNOWN_SET), "{text}");
    }
    for text in [
        "select sets_here()",
        "select writes()",
        "select CALLS()",
        "select \"calls_Again\"()",
        "select * from audited",
        "copy audited to stdout",
        "select * from seen",
        "insert into plain values (1)",
        "insert into \"Audited\" values (1)",
    ] {
        assert_eq!(effects(text), Effects::empty(), "{text}");
    }
    assert_eq!(effects("select computed('a', 'b')"), by_code(Effects::UNKNOWN_SET | Effects::HIDDEN_SET));
    assert_eq!(effects("select dynamic('x')"), by_code(Effects::TEMP));
    assert_eq!(effects("select locks()"), by_code(Effects::ADVISORY_LOCK));
    assert_eq!(catalog.settings().iter().map(String::as_str).collect::<Vec<_>>(), ["app.tenant", "request.jwt.sub"]);
    assert!(catalog.has_triggers_that_leave_something());
}
