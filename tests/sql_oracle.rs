//! Holds the classifier against another reader of SQL: what is called a read is one read-only statement to `sqlparser`.
//!
//! `tests/oracle` does the same, more strictly, with PostgreSQL's own grammar; this one needs nothing but Rust.

use std::cell::Cell;
use std::ops::ControlFlow;

use forebay::sql::{Access, Catalog, Kind, classify};
use proptest::prelude::*;
use sqlparser::ast::{Query, SetExpr, Statement, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// Looks for anything in a tree that is not part of a plain read.
struct Objections;

impl Visitor for Objections {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() {
            return ControlFlow::Break("a locking clause".into());
        }
        match &*query.body {
            SetExpr::Select(select) if select.into.is_some() => ControlFlow::Break("SELECT INTO".into()),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                ControlFlow::Break("a data-modifying query".into())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<String> {
        match statement {
            Statement::Query(_) | Statement::ShowVariable { .. } => ControlFlow::Continue(()),
            Statement::Explain { analyze: false, statement, .. } if matches!(**statement, Statement::Query(_)) => {
                ControlFlow::Continue(())
            }
            // A SELECT without columns is one to PostgreSQL; this parser takes the word for a table's name.
            Statement::ExplainTable { .. } => ControlFlow::Continue(()),
            Statement::Copy { to: true, target: sqlparser::ast::CopyTarget::Stdout, .. } => ControlFlow::Continue(()),
            other => ControlFlow::Break(format!("a statement of another kind: {other}")),
        }
    }
}

/// What `sqlparser` makes of a text.
#[derive(Debug, PartialEq)]
enum Opinion {
    Refused,
    Read,
    Objection(String),
}

fn opinion(text: &str) -> Opinion {
    let Ok(statements) = Parser::parse_sql(&PostgreSqlDialect {}, text) else {
        return Opinion::Refused;
    };
    if statements.len() != 1 {
        return Opinion::Objection(format!("{} statements", statements.len()));
    }
    match statements.visit(&mut Objections) {
        ControlFlow::Break(objection) => Opinion::Objection(objection),
        ControlFlow::Continue(()) => Opinion::Read,
    }
}

fn catalog() -> Catalog {
    let mut builder = Catalog::builder();
    for name in ["lower", "count", "sum", "now", "row_number", "generate_series"] {
        builder.function("pg_catalog", name, false, true);
    }
    for name in ["touch", "nextval", "over", "filter"] {
        builder.function("public", name, true, false);
    }
    for name in ["=", "<>", "+", "-", "||", ">", "<"] {
        builder.operator(name, false);
    }
    builder.build()
}

const ATOMS: &[&str] = &[
    "1",
    "a",
    "t.a",
    "'x'",
    "'it''s'",
    "NULL",
    "\"b\"",
    "'FOR UPDATE'",
    "'; DELETE FROM t'",
    "$1",
    "E'a\\'b'",
    "$$;$$",
    "$q$ INTO $q$",
    "/* ; */ 2",
    "t.\"update\"",
    "-1.5",
    "true",
    "a -- x\n",
];
const SOURCES: &[&str] = &["t", "t AS x", "public.t", "generate_series(1, 2) AS g(n)", "\"for update\"", "t x, u y"];
const TAILS: &[&str] = &[
    "",
    "",
    "",
    " ORDER BY 1",
    " LIMIT 3",
    " FOR UPDATE",
    " FOR SHARE",
    " FOR NO KEY UPDATE",
    " GROUP BY a",
    ";",
    "; SELECT 2",
    "; DELETE FROM t",
    " UNION SELECT 1",
    " INTO x",
];
const WRITES: &[&str] = &[
    "INSERT INTO t VALUES (1)",
    "UPDATE t SET a = 1",
    "DELETE FROM t",
    "CREATE TABLE x (a int)",
    "TRUNCATE t",
    "DROP TABLE t",
    "INSERT INTO t SELECT 1",
    "BEGIN",
    "COMMIT",
    "SET a = 1",
];

fn pick(choices: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(choices).prop_map(str::to_owned)
}

fn expression() -> impl Strategy<Value = String> + Clone {
    pick(ATOMS).prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), pick(&["=", "+", "||", "AND", "IS DISTINCT FROM", "LIKE"]), inner.clone())
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (pick(&["lower", "sum", "now", "touch", "nextval", "mystery", "\"lower\""]), inner.clone())
                .prop_map(|(name, a)| format!("{name}({a})")),
            inner.clone().prop_map(|a| format!("CASE WHEN ({a}) THEN ({a}) END")),
            inner.clone().prop_map(|a| format!("CAST({a} AS numeric(10, 2))")),
            inner.clone().prop_map(|a| format!("COALESCE({a}, 1)")),
            inner.clone().prop_map(|a| format!("(SELECT {a} FROM t)")),
            inner.clone().prop_map(|a| format!("EXISTS (SELECT 1 FROM t WHERE {a})")),
            inner.prop_map(|a| format!("sum(a) OVER (PARTITION BY {a})")),
        ]
    })
}

fn statement() -> impl Strategy<Value = String> + Clone {
    let select = (expression(), pick(SOURCES), expression(), pick(TAILS))
        .prop_map(|(a, source, b, tail)| format!("SELECT {a} FROM {source} WHERE {b}{tail}"))
        .boxed();
    let inner = prop_oneof![5 => select.clone(), 1 => pick(WRITES)];
    prop_oneof![
        6 => select.clone(),
        1 => pick(WRITES),
        1 => (inner.clone(), select.clone()).prop_map(|(a, b)| format!("WITH x AS ({a} RETURNING 1) {b}")),
        1 => (inner.clone(), select.clone()).prop_map(|(a, b)| format!("WITH x(a) AS ({a}) {b}")),
        1 => inner.clone().prop_map(|a| format!("EXPLAIN {a}")),
        1 => inner.clone().prop_map(|a| format!("EXPLAIN ANALYZE {a}")),
        1 => inner.clone().prop_map(|a| format!("COPY ({a}) TO STDOUT")),
        1 => inner.clone().prop_map(|a| format!("({a})")),
        1 => (inner.clone(), inner).prop_map(|(a, b)| format!("{a}; {b}")),
    ]
}

/// A statement, or two of them cut and joined anywhere.
fn mutated() -> impl Strategy<Value = String> + Clone {
    (statement(), statement(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3u8).prop_map(
        |(one, other, cut, from, how)| {
            let (head, tail) = (&one[..cut.index(one.len() + 1)], &other[from.index(other.len() + 1)..]);
            match how {
                0 => one,
                1 => format!("{head}{tail}"),
                _ => format!("{head} {tail}"),
            }
        },
    )
}

#[test]
fn what_is_called_a_read_is_one_to_another_parser() {
    let (reads, agreed) = (Cell::new(0u32), Cell::new(0u32));
    let catalog = catalog();
    let cases = 6_000;
    proptest!(ProptestConfig { cases, ..config() }, |(text in mutated())| {
        if classify(text.as_bytes(), Some(&catalog)).access == Access::Read {
            reads.set(reads.get() + 1);
            match opinion(&text) {
                Opinion::Objection(objection) => prop_assert!(false, "{}: {}", objection, text),
                Opinion::Read => agreed.set(agreed.get() + 1),
                Opinion::Refused => {}
            }
        }
    });
    println!("{cases} judged, {} called reads, {} of them by both", reads.get(), agreed.get());
    assert!(agreed.get() * 12 > cases, "only {} of {cases} were reads: the test proves too little", agreed.get());
}

#[test]
fn the_other_parser_objects_to_writes() {
    for text in [
        "DELETE FROM t",
        "SELECT 1; SELECT 2",
        "SELECT * FROM t FOR UPDATE",
        "SELECT 1 INTO x",
        "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN DELETE FROM t",
    ] {
        assert!(matches!(opinion(text), Opinion::Objection(_)), "{text}");
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_classified_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        classify(&text, None);
        let mut statement = b"SELECT ".to_vec();
        statement.extend_from_slice(&text);
        classify(&statement, Some(Catalog::built_in()));
    }

    #[test]
    fn any_ascii_soup_is_classified_without_a_panic(
        text in "(SELECT|WITH|AS|\\(|\\)|'|\"|\\$\\$|/\\*|\\*/|--|;|INTO|FOR|UPDATE|SET|COPY|TO|EXPLAIN|set_config|,|\\.|::| |a|1|E'|\\\\|\n){0,60}",
    ) {
        classify(text.as_bytes(), None);
    }

    #[test]
    fn a_second_statement_is_never_overlooked(first in statement(), second in statement()) {
        let text = format!("{first};{second}");
        let verdict = classify(text.as_bytes(), None);
        prop_assert_eq!(verdict.access, Access::Write);
        prop_assert_eq!(verdict.kind, Kind::Multiple);
    }

    #[test]
    fn quoted_text_decides_nothing(body in "[a-zA-Z'\";() /*-]{0,40}") {
        let literal = format!("SELECT '{}'", body.replace('\'', "''"));
        prop_assert_eq!(classify(literal.as_bytes(), None).access, Access::Read);
        let dollar = format!("SELECT $tag${body}$tag$");
        prop_assert_eq!(classify(dollar.as_bytes(), None).access, Access::Read);
        let comment = format!("SELECT 1 --{body}\n, 2");
        prop_assert_eq!(classify(comment.as_bytes(), None).access, Access::Read);
        let block = format!("SELECT 1 /*{}*/, 2", body.replace(['*', '/'], " "));
        prop_assert_eq!(classify(block.as_bytes(), None).access, Access::Read);
        let name = format!("SELECT \"x{}\"", body.replace('"', "\"\""));
        prop_assert_eq!(classify(name.as_bytes(), None).access, Access::Read);
    }
}
