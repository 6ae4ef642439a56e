//! Makes SQL: reads and writes, nested, oddly quoted and commented, and cut up and joined again.

/// A small generator of pseudo-random numbers (xorshift), so that a seed names a run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

pub const READ_FUNCTIONS: &[&str] = &[
    "lower",
    "count",
    "sum",
    "max",
    "now",
    "left",
    "abs",
    "length",
    "unnest",
    "generate_series",
    "jsonb_each",
    "md5",
    "like",
    "overlaps",
    "row_number",
    "date_trunc",
    "array_agg",
    "substring",
    "overlay",
];
pub const VOLATILE_FUNCTIONS: &[&str] = &["touch", "nextval", "setval", "set_config", "pg_notify", "lo_unlink"];
/// Somebody's own functions with names that are also words of the grammar.
pub const KEYWORD_FUNCTIONS: &[&str] = &[
    "over",
    "filter",
    "by",
    "materialized",
    "sets",
    "zone",
    "rollup",
    "cube",
    "operator",
    "within",
    "rows",
    "first",
    "escape",
    "value",
    "path",
    "columns",
    "ordinality",
    "key",
    "json_array",
    "json_value",
    "is",
    "similar",
    "ilike",
];
pub const SUSPICIOUS: &[&str] = &["cache", "touching", "touched_row", "pg_locks", "pg_stat_activity"];

/// Pieces that are put into statements where they may or may not fit.
const FRAGMENTS: &[&str] = &[
    "FOR UPDATE",
    "FOR NO KEY UPDATE",
    "FOR SHARE OF t",
    "FOR KEY SHARE",
    "INTO x",
    "INTO TEMP x",
    ";",
    "; DELETE FROM t",
    "/*",
    "*/",
    "--",
    "\n",
    "'",
    "''",
    "\"",
    "$$",
    "$a$",
    "E'",
    "U&'",
    "\\",
    "\\'",
    "B'",
    "N'a'",
    "AS",
    "WITH",
    "WITH x AS (DELETE FROM t RETURNING 1)",
    "(",
    ")",
    "()",
    ",",
    ".",
    "::",
    "touch(x)",
    "nextval('s')",
    "over(1)",
    "filter(x)",
    "materialized(x)",
    "by(x)",
    "DISTINCT ON (a)",
    "OPERATOR(pg_catalog.+)",
    "OPERATOR(public.@@@!)",
    "@@@!",
    "AS touch(x)",
    "x AS (SELECT 1)",
    "INSERT INTO t VALUES (1)",
    "UPDATE t SET a = 1",
    "DELETE FROM t",
    "ANALYZE",
    "EXPLAIN",
    "COPY",
    "TO STDOUT",
    "SELECT",
    "UNION SELECT",
    "touch",
    "t.touched_row",
    "(t).touched_row",
    "cache",
    "\"touch\"(1)",
    "\"Touch\"(1)",
    "U&\"touch\"(1)",
    "pg_catalog.touch(1)",
    "touch /* ' */ (1)",
    "LATERAL touch(1)",
    "CROSS JOIN over(1)",
    "JOIN",
    "ON (true)",
    "IN (1)",
    "NOT",
    "u(a, b)",
    "touch(a, b)",
    "::numeric(10, 2)",
    "::touch(3)",
    "CAST(1 AS touch(3))",
    "TREAT(a AS touch)",
    "ROWS FROM (touch(1))",
    "TABLESAMPLE touch(1)",
    "WITH ORDINALITY",
    "ordinality touch(a)",
    "CASE WHEN touch(1) THEN 1 END",
    "+",
    "-",
    "*",
    "+-",
    "=-1",
    "$1",
    "$1for update",
    "1for share",
    "1e",
    "AT TIME ZONE touch(1)",
    "LIKE touch(1)",
    "ESCAPE over(1)",
    "COLLATE \"C\"",
    "touch 'x'",
    "int4 'x'",
    "VARIADIC touch(1)",
    "FETCH FIRST touch(1) ROWS ONLY",
    "interval(3)",
];

/// One statement or message.
pub fn statement(dice: &mut Dice) -> String {
    let mut text = match dice.below(20) {
        0 => write(dice),
        1 => format!(
            "EXPLAIN {}{}",
            dice.pick(&["", "VERBOSE ", "ANALYZE ", "(COSTS off) ", "(ANALYZE, FORMAT json) "]),
            query(dice, 2)
        ),
        2 => format!("COPY ({}) TO STDOUT{}", query(dice, 2), dice.pick(&["", " WITH (FORMAT csv)", " BINARY"])),
        3 => dice
            .pick(&[
                "COPY t TO STDOUT",
                "COPY cache TO STDOUT",
                "COPY t (a, b) TO STDOUT (FORCE_QUOTE (a))",
                "COPY t FROM STDIN",
                "COPY t TO '/tmp/x'",
                "COPY s.t TO PROGRAM 'x'",
                "SHOW search_path",
                "SHOW port",
                "EXPLAIN DELETE FROM t",
                "TABLE t",
                "TABLE cache",
                "VALUES (1), (2)",
                "SHOW ALL",
            ])
            .into(),
        4 => format!("{}; {}", query(dice, 1), query(dice, 1)),
        _ => query(dice, 3),
    };
    while dice.one_in(3) {
        text = mutate(dice, &text);
    }
    if dice.one_in(6) {
        text = respace(dice, &text);
    }
    text
}

/// Two statements cut somewhere and joined, or one with something put in, doubled or left out.
fn mutate(dice: &mut Dice, text: &str) -> String {
    let cut = boundary(dice, text);
    let (head, tail) = text.split_at(cut);
    match dice.below(6) {
        0 => {
            let other = if dice.one_in(3) { write(dice) } else { query(dice, 2) };
            let from = boundary(dice, &other);
            format!("{head}{}", &other[from..])
        }
        1 => {
            let length = boundary(dice, tail);
            format!("{head}{}", &tail[length..])
        }
        2 => {
            let length = boundary(dice, tail);
            format!("{head}{}{tail}", &tail[..length])
        }
        _ => format!("{head} {} {tail}", dice.pick(FRAGMENTS)),
    }
}

/// A place to cut: mostly between words, sometimes anywhere.
fn boundary(dice: &mut Dice, text: &str) -> usize {
    let places: Vec<usize> =
        text.char_indices().filter(|(_, c)| !c.is_alphanumeric()).map(|(at, _)| at).chain([text.len()]).collect();
    let any: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    if dice.one_in(8) { any[dice.below(any.len())] } else { places[dice.below(places.len())] }
}

/// Puts comments and line feeds where blanks were, and changes the case of letters outside of quotes.
fn respace(dice: &mut Dice, text: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in text.chars() {
        quoted ^= matches!(c, '\'' | '"' | '$');
        match c {
            ' ' if dice.one_in(4) => out.push_str(dice.pick(&[
                "\n",
                "\t",
                "  ",
                "/**/",
                "/* ' */",
                "/* \" /* ; */ */",
                "-- '\n",
                "--;\r",
                " \n ",
                "\x0c",
            ])),
            c if !quoted && dice.one_in(3) => out.extend(c.to_uppercase()),
            c => out.push(c),
        }
    }
    out
}

/// Statements that a session must understand itself.
const CONTROL: &[&str] = &[
    "BEGIN",
    "BEGIN WORK ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "START TRANSACTION READ WRITE",
    "COMMIT AND CHAIN",
    "END",
    "ROLLBACK",
    "ABORT WORK",
    "ROLLBACK TO SAVEPOINT a",
    "SAVEPOINT a",
    "RELEASE a",
    "PREPARE TRANSACTION 'x'",
    "COMMIT PREPARED 'x'",
    "ROLLBACK PREPARED 'x'",
    "SET a = 1",
    "SET SESSION a TO 'x', y",
    "SET LOCAL a = DEFAULT",
    "SET TIME ZONE INTERVAL '1' HOUR",
    "SET NAMES 'UTF8'",
    "SET SESSION AUTHORIZATION x",
    "SET ROLE NONE",
    "SET TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET a.b TO DEFAULT",
    "RESET a",
    "RESET ALL",
    "RESET TIME ZONE",
    "DISCARD ALL",
    "DISCARD TEMP",
    "DEALLOCATE ALL",
    "DEALLOCATE PREPARE p",
    "SET XML OPTION CONTENT",
    "SET a FROM CURRENT",
    "SET LOCAL ROLE x",
    "LISTEN a",
    "UNLISTEN *",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE c CURSOR FOR SELECT 1",
    "PREPARE p AS SELECT 1",
    "CREATE TEMP TABLE x (a int)",
    "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1",
    "CREATE TABLE pg_temp.x (a int)",
    "SELECT set_config('a', 'b', false)",
    "SELECT 1 INTO TEMP x",
    "CREATE LOCAL TEMP SEQUENCE q",
];

fn write(dice: &mut Dice) -> String {
    if dice.one_in(2) {
        return dice.pick(CONTROL).into();
    }
    let inner = query(dice, 1);
    match dice.below(12) {
        0 => format!("INSERT INTO t {inner}"),
        1 => format!("UPDATE t SET a = ({inner})"),
        2 => format!("DELETE FROM t WHERE a IN ({inner})"),
        3 => "MERGE INTO t USING u ON (t.a = u.a) WHEN MATCHED THEN DELETE".into(),
        4 => format!("WITH w AS (INSERT INTO t VALUES (1) RETURNING a) {inner}"),
        5 => format!("WITH w AS NOT MATERIALIZED (DELETE FROM t RETURNING a) {inner}"),
        6 => format!("CREATE TABLE x AS {inner}"),
        7 => format!("PREPARE p AS {inner}"),
        8 => format!("DECLARE c CURSOR FOR {inner}"),
        9 => format!("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC {inner}; SELECT 1; END"),
        10 => dice.pick(&["BEGIN", "COMMIT", "SET a = 1", "DO $$ BEGIN END $$", "LISTEN x", "CALL p()"]).into(),
        _ => "WITH a AS (SELECT 1), b AS (UPDATE t SET a = 1 RETURNING *) SELECT * FROM a, b".into(),
    }
}

fn query(dice: &mut Dice, depth: usize) -> String {
    let d = depth.saturating_sub(1);
    match dice.below(if depth == 0 { 4 } else { 12 }) {
        0 => format!("SELECT {}", expression(dice, d)),
        1 => format!("SELECT {} FROM {}", columns(dice, d), source(dice, d)),
        2 => format!("VALUES ({}, {})", expression(dice, d), expression(dice, d)),
        4 => format!("({}) UNION ALL ({})", query(dice, d), query(dice, d)),
        5 => format!(
            "WITH {}x{} AS {}({}) SELECT {} FROM x",
            dice.pick(&["", "RECURSIVE "]),
            dice.pick(&["", "(a)", " (a, touch)", "(\"b\")"]),
            dice.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]),
            query(dice, d),
            columns(dice, d)
        ),
        6 => format!("WITH x AS (SELECT 1), touch(a, b) AS ({}) {}", query(dice, d), query(dice, d)),
        7 => format!("({})", query(dice, d)),
        _ => format!(
            "SELECT {}{} FROM {} WHERE {}{}{}",
            dice.pick(&["", "", "DISTINCT ", "ALL ", "DISTINCT ON (a) "]),
            columns(dice, d),
            source(dice, d),
            expression(dice, d),
            dice.pick(&[
                "",
                "",
                " GROUP BY a",
                " GROUP BY GROUPING SETS ((a), ())",
                " GROUP BY ROLLUP (a), CUBE (b)",
                " GROUP BY a HAVING (count(*) > 1)",
                " WINDOW w AS (PARTITION BY a ORDER BY b)",
            ]),
            dice.pick(&[
                "",
                "",
                "",
                " ORDER BY 1",
                " ORDER BY (a) DESC NULLS LAST",
                " LIMIT 1 OFFSET (2)",
                " FETCH FIRST (2) ROWS ONLY",
                " FOR UPDATE",
                " FOR SHARE",
                " FOR READ ONLY",
                " ORDER BY a USING <",
                " ORDER BY a USING OPERATOR(public.@@@!)",
            ])
        ),
    }
}

fn columns(dice: &mut Dice, depth: usize) -> String {
    let mut list = vec![column(dice, depth)];
    while dice.one_in(3) {
        list.push(column(dice, depth));
    }
    list.join(", ")
}

fn column(dice: &mut Dice, depth: usize) -> String {
    match dice.below(5) {
        0 => "*".into(),
        1 => format!(
            "{} AS {}",
            expression(dice, depth),
            dice.pick(&["b", "\"update\"", "touch", "\"a\"\"b\"", "into_"])
        ),
        2 => format!("{} {}", expression(dice, depth), dice.pick(&["b", "over", "filter", "materialized"])),
        _ => expression(dice, depth),
    }
}

fn source(dice: &mut Dice, depth: usize) -> String {
    let d = depth.saturating_sub(1);
    match dice.below(if depth == 0 { 5 } else { 13 }) {
        0..=2 => dice
            .pick(&["t", "t AS x", "public.t", "\"t\" y", "t x (a, b)", "ONLY t", "\"Cache\"", "t AS y(touch)"])
            .into(),
        3 => format!(
            "{} {}",
            call(dice, d),
            dice.pick(&["u", "AS u(a)", "u(a, b)", "WITH ORDINALITY AS u(a, n)", "AS u(a int, b numeric(4, 2))"])
        ),
        4 => dice
            .pick(&["cache", "public.cache", "\"cache\"", "touching", "CACHE c", "pg_locks", "t", "pg_class"])
            .into(),
        5 => format!("({}) AS {}", query(dice, d), dice.pick(&["q", "q(a)", "q (a, b)"])),
        6 => format!("({}) {}", query(dice, d), dice.pick(&["q", "q(a)", "touch(a, b)"])),
        7 => format!("{} JOIN {} ON ({})", source(dice, d), source(dice, d), expression(dice, d)),
        8 => format!("{} LEFT JOIN {} USING (a)", source(dice, d), source(dice, d)),
        9 => format!("{} CROSS JOIN LATERAL {} z", source(dice, d), call(dice, d)),
        10 => format!("{}, {}", source(dice, d), source(dice, d)),
        11 => format!("ROWS FROM ({}, {} AS (a int)) AS r(a, b)", call(dice, d), call(dice, d)),
        _ => format!("t TABLESAMPLE {} (10) REPEATABLE (1)", dice.pick(&["bernoulli", "system", "touch"])),
    }
}

fn call(dice: &mut Dice, depth: usize) -> String {
    let name = match dice.below(24) {
        0 => dice.pick(VOLATILE_FUNCTIONS),
        1 => dice.pick(KEYWORD_FUNCTIONS),
        2 => "mystery",
        _ => dice.pick(READ_FUNCTIONS),
    };
    let name = match dice.below(8) {
        0 => format!("\"{name}\""),
        1 => format!("pg_catalog.{name}"),
        2 => format!("{name} "),
        _ => name.to_owned(),
    };
    let arguments = if dice.one_in(4) { String::new() } else { expression(dice, depth) };
    format!("{name}({arguments})")
}

fn expression(dice: &mut Dice, depth: usize) -> String {
    let d = depth.saturating_sub(1);
    if depth == 0 || dice.one_in(3) {
        return atom(dice).into();
    }
    match dice.below(26) {
        0..=4 => call(dice, d),
        5 => format!(
            "{} {} {}",
            expression(dice, d),
            dice.pick(&[
                "=",
                "<>",
                "+",
                "||",
                "->>",
                "@@@!",
                "<#>",
                "OPERATOR(pg_catalog.+)",
                "OPERATOR(public.@@@!)",
                "AND",
                "OR",
                "LIKE",
                "IS DISTINCT FROM",
                "OVERLAPS",
                "AT TIME ZONE",
                "ILIKE",
                "!="
            ]),
            expression(dice, d)
        ),
        6 => format!("({})", expression(dice, d)),
        7 => format!("({})", query(dice, d)),
        8 => format!("EXISTS ({})", query(dice, d)),
        9 => format!("{} IN ({})", atom(dice), query(dice, d)),
        10 => format!("{} = ANY ({})", atom(dice), expression(dice, d)),
        11 => format!("CAST({} AS {})", expression(dice, d), type_name(dice)),
        12 => format!("{}::{}", atom(dice), type_name(dice)),
        13 => format!("COALESCE({}, {})", expression(dice, d), expression(dice, d)),
        14 => format!("CASE WHEN ({}) THEN ({}) ELSE {} END", expression(dice, d), expression(dice, d), atom(dice)),
        15 => format!("EXTRACT(year FROM {})", expression(dice, d)),
        16 => format!("SUBSTRING({} FROM 1 FOR {})", expression(dice, d), atom(dice)),
        17 => format!("{} OVER (PARTITION BY {} ORDER BY (a))", call(dice, d), atom(dice)),
        18 => format!("{} FILTER (WHERE {}) OVER w", call(dice, d), expression(dice, d)),
        19 => format!("{} WITHIN GROUP (ORDER BY {})", call(dice, d), atom(dice)),
        20 => format!("ARRAY({})", query(dice, d)),
        21 => format!("ROW({}, {})", expression(dice, d), expression(dice, d)),
        22 => format!("{} BETWEEN ({}) AND {}", atom(dice), expression(dice, d), call(dice, d)),
        23 => format!("NOT {}", expression(dice, d)),
        24 => format!("{} LIKE ({}) ESCAPE ('/')", atom(dice), expression(dice, d)),
        _ => dice
            .pick(&[
                "TRIM(BOTH ' ' FROM a)",
                "OVERLAY(a PLACING b FROM 1)",
                "POSITION('a' IN b)",
                "current_timestamp(3)",
                "XMLELEMENT(name a, xmlattributes(b AS c))",
                "JSON_OBJECT('a' VALUE touch(1))",
                "GREATEST(a, touch(1))",
                "JSON_ARRAY(1, 2)",
                "JSON_VALUE(a, '$' PASSING over(1) AS x)",
                "a COLLATE \"C\"",
                "NORMALIZE(a, NFC)",
                "interval(3) '1 s'",
                "COLLATION FOR (a)",
                "(a, b) = (SELECT 1, 2)",
                "NULLIF(a, b)",
                "a IS NOT NULL",
                "XMLEXISTS('x' PASSING touch(1))",
                "int4 '1'",
                "touch '1'",
                "t.*",
                "(t).touched_row",
                "a[touch(1):2]",
            ])
            .into(),
    }
}

fn atom(dice: &mut Dice) -> &'static str {
    dice.pick(&[
        "1",
        "a",
        "t.a",
        "'x'",
        "'it''s'",
        "$1",
        "NULL",
        "1.5e3",
        "\"b\"",
        "E'a\\'b'",
        "$$;$$",
        "$q$ FOR UPDATE $q$",
        "'a' \n 'b'",
        "U&'\\0061'",
        "X'1f'",
        "'FOR UPDATE'",
        "\"FOR UPDATE\"",
        "'a\\'",
        "E'\\\\'",
        "true",
        "-1",
        "+ 1",
        "t.touched_row",
        "touch",
        "é",
        "t.\"update\"",
        "t.delete",
        "/* FOR UPDATE */ 1",
        "a -- INTO\n",
        "N'n'",
        ".5",
    ])
}

fn type_name(dice: &mut Dice) -> &'static str {
    dice.pick(&[
        "int",
        "numeric(10, 2)",
        "character varying(10)",
        "varchar(3)[]",
        "double precision",
        "pg_catalog.int4",
        "timestamp(3) with time zone",
        "geometry(Point, 4326)",
        "bit varying(5)",
        "\"MyType\"(3)",
        "touch(3)",
        "cache",
        "interval day to second(3)",
        "time(0)",
        "float(24)",
        "SETOF int",
    ])
}
