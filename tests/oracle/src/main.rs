//! Holds the classifier against PostgreSQL's own grammar: whatever is called a read must be one in the real tree.
//!
//! `cargo test` in this folder, as `scripts/test` does, or `cargo run --release -- [statements] [seed]` for a long run.
//! `pg_query` compiles the parser of PostgreSQL 18, which takes libclang and more than a minute; that is why this is a
//! crate of its own.

mod generate;
mod tree;

use std::time::Instant;

use forebay::sql::{Access, Catalog, Effects, Kind, Verdict, classify};
use generate::{Dice, KEYWORD_FUNCTIONS, READ_FUNCTIONS, SUSPICIOUS, VOLATILE_FUNCTIONS};
use pg_query::ParserOptions;
use tree::Tree;

const STATEMENTS: u64 = 200_000;

/// Of the test: about 20 s without optimisation.
#[cfg(test)]
const TESTED: u64 = 60_000;

/// Functions that the grammar itself calls for a construct with words of its own.
const BY_GRAMMAR: &[&str] = &[
    "extract",
    "overlay",
    "position",
    "substring",
    "btrim",
    "ltrim",
    "rtrim",
    "timezone",
    "overlaps",
    "xmlexists",
    "normalize",
    "is_normalized",
    "pg_collation_for",
    "like_escape",
    "similar_to_escape",
    "json_object",
];

/// Operators that the grammar writes for words.
const BY_WORDS: &[&str] =
    &["~~", "~~*", "!~~", "!~~*", "=", "<>", "~", "!~", "BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC"];

#[derive(Debug, Default)]
struct Count {
    judged: usize,
    reads: usize,
    /// Compared for what the session must know.
    sessions: usize,
    /// Called reads, and refused by the grammar: they would fail on any node.
    refused: usize,
    /// Taken by the grammar and a read in its tree, but not called one: the price of doubt.
    missed: usize,
}

fn catalog() -> Catalog {
    let mut builder = Catalog::builder();
    for name in READ_FUNCTIONS.iter().chain(&["bernoulli", "system"]) {
        builder.function("pg_catalog", name, false, true);
    }
    for name in VOLATILE_FUNCTIONS.iter().chain(KEYWORD_FUNCTIONS) {
        builder.function("public", name, true, false);
    }
    builder.function("public", "touched_row", true, false).row_function("touched_row");
    builder.relation("cache").view("touching", "SELECT touch()");
    for name in ["=", "<>", "+", "-", "*", "||", "->>", "<", ">", "~~"] {
        builder.operator(name, false);
    }
    builder.operator("@@@!", true);
    builder.build()
}

/// Judges `statements` texts; the error is the first that is called a read and is none.
fn run(statements: usize, seed: u64) -> Result<Count, String> {
    let mut dice = Dice::new(seed);
    let catalog = catalog();
    let mut count = Count::default();
    for _ in 0..statements {
        let text = generate::statement(&mut dice);
        for catalog in [Some(&catalog), None] {
            count.judged += 1;
            let verdict = classify(text.as_bytes(), catalog);
            if catalog.is_some() && count.judged % 8 == 1 {
                overlooked(&text, &verdict)?;
                count.sessions += 1;
            }
            if verdict.access == Access::Write {
                // Parsing costs far more than judging: look at a sample of what was sent to the primary.
                let sampled = catalog.is_some() && count.judged % 16 == 1;
                count.missed += usize::from(sampled && objection(&text, catalog, ParserOptions::DEFAULT) == Ok(true));
                continue;
            }
            count.reads += 1;
            let usual = objection(&text, catalog, ParserOptions::DEFAULT)?;
            count.refused += usize::from(!usual);
            // A server may run with the old meaning of backslashes.
            objection(&text, catalog, ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS)?;
        }
    }
    Ok(count)
}

/// What the session had to know of the text and was not told, if the grammar takes it.
fn overlooked(text: &str, verdict: &Verdict) -> Result<(), String> {
    let Some(tree) = Tree::parse(text, ParserOptions::DEFAULT) else {
        return Ok(());
    };
    let kind = &verdict.kind;
    let statements = match tree.statements() {
        0 => *kind == Kind::Empty,
        1 => !matches!(kind, Kind::Empty | Kind::Multiple),
        _ => *kind == Kind::Multiple,
    };
    let alone = tree.statements() == 1;
    let effect = |effects: Effects| verdict.effects.intersects(effects);
    let begins = tree.has("kind: TransStmtBegin,") || tree.has("kind: TransStmtStart,");
    let commits = tree.has("kind: TransStmtCommit,") || tree.has("kind: TransStmtPrepare,");
    let rolls_back = tree.has("kind: TransStmtRollback,");
    // A function's body is no part of the session.
    let local = tree.has("is_local: true");
    let sets = tree.has("VariableSetStmt(") && !tree.has("FunctionStmt") && !tree.has("name: \"TRANSACTION");
    let told = [
        ("the number of statements", statements),
        ("BEGIN", !begins || effect(Effects::TRANSACTION) || matches!(kind, Kind::Begin { .. })),
        ("COMMIT", !commits || effect(Effects::TRANSACTION) || *kind == Kind::Commit),
        ("ROLLBACK", !rolls_back || effect(Effects::TRANSACTION) || *kind == Kind::Rollback),
        (
            "SET",
            !sets || local || effect(Effects::UNKNOWN_SET) || alone && matches!(kind, Kind::Set(_) | Kind::Reset(_)),
        ),
        ("SET LOCAL", !(alone && sets && local) || matches!(kind, Kind::SetLocal(_)) || effect(Effects::UNKNOWN_SET)),
        ("LISTEN", !tree.has(" ListenStmt(") && !tree.has("(ListenStmt(") || effect(Effects::LISTEN)),
        ("PREPARE", !tree.has("(PrepareStmt(") || effect(Effects::SQL_PREPARE)),
        ("a temporary relation", !tree.has("relpersistence: \"t\"") || effect(Effects::TEMP)),
        (
            "a relation in pg_temp",
            !tree.has("Stmt { relation: Some(RangeVar { catalogname: \"\", schemaname: \"pg_temp\"")
                || !tree.has("CreateStmt(")
                || effect(Effects::TEMP),
        ),
        (
            "DISCARD ALL",
            !tree.has("target: DiscardAll") || effect(Effects::DROPS_PREPARED) || *kind == Kind::DiscardAll,
        ),
    ];
    match told.iter().find(|(_, told)| !told) {
        Some((what, _)) => Err(format!("{what} was overlooked, {kind:?} {:?}\n{text}", verdict.effects)),
        None => Ok(()),
    }
}

/// Whether the grammar takes the text; the error says what in its tree is no read.
fn objection(text: &str, catalog: Option<&Catalog>, options: ParserOptions) -> Result<bool, String> {
    let Some(tree) = Tree::parse(text, options) else {
        return Ok(false);
    };
    let with = if catalog.is_some() { "with" } else { "without" };
    let fail = |what: String| Err(format!("{what}\n{with} catalog: {text}"));
    if let Some(found) = tree.objection() {
        return fail(found.into());
    }
    for function in tree.functions() {
        if !is_known(&function, catalog) {
            return fail(format!("function {function:?}"));
        }
    }
    for operator in tree.operators() {
        if !operator.last().is_some_and(|name| BY_WORDS.contains(name) || is_operator_known(name, catalog)) {
            return fail(format!("operator {operator:?}"));
        }
    }
    let suspicious: &[&str] = if catalog.is_some() { SUSPICIOUS } else { &["pg_locks", "pg_stat_activity"] };
    match tree.names().iter().find(|name| suspicious.contains(name)) {
        Some(name) => fail(format!("relation {name}")),
        None => Ok(true),
    }
}

/// Whether the classifier, asked for this function alone, knows it for a read.
fn is_known(function: &[&str], catalog: Option<&Catalog>) -> bool {
    let [schema @ .., name] = function else { return false };
    if schema == ["pg_catalog"] && BY_GRAMMAR.contains(name) {
        return true;
    }
    let alone = format!("SELECT \"{name}\"('search_path')");
    classify(alone.as_bytes(), catalog).access == Access::Read
}

fn is_operator_known(name: &str, catalog: Option<&Catalog>) -> bool {
    classify(format!("SELECT 1 {name} 2").as_bytes(), catalog).access == Access::Read
}

fn report(statements: usize, seed: u64) -> Result<(), String> {
    let started = Instant::now();
    let count = run(statements, seed)?;
    println!(
        "seed {seed}: {statements} texts, {} judged, {} called reads ({} of them refused by the grammar), \
         {} of a sixteenth of the others were reads too, {} compared for session state, {:.1} s",
        count.judged,
        count.reads,
        count.refused,
        count.missed,
        count.sessions,
        started.elapsed().as_secs_f64()
    );
    let reads = count.reads - count.refused;
    if reads * 10 < count.judged {
        return Err(format!("only {reads} of {} were reads: the test proves too little", count.judged));
    }
    Ok(())
}

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| {
        arguments.next().map_or(Ok(default), |text| text.parse().map_err(|_| format!("not a number: {text}")))
    };
    let statements = number(STATEMENTS)? as usize;
    let seed = number(1)?;
    report(statements, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number from the environment.
    fn setting(name: &str, default: u64) -> u64 {
        let Ok(text) = std::env::var(name) else { return default };
        text.parse().unwrap_or_else(|_| panic!("{name} must be a number (found {text:?})"))
    }

    #[test]
    fn what_is_called_a_read_is_one_in_postgresql_s_tree() {
        let statements = setting("FOREBAY_ORACLE_STATEMENTS", TESTED);
        if let Err(why) = report(statements as usize, setting("FOREBAY_ORACLE_SEED", 1)) {
            panic!("{why}");
        }
    }

    #[test]
    fn the_tree_objects_to_what_is_no_read() {
        let catalog = catalog();
        for text in [
            "SELECT 1; SELECT 2",
            "DELETE FROM t",
            "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
            "SELECT 1 INTO x",
            "SELECT * FROM t FOR SHARE",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN DELETE FROM t",
            "COPY t FROM STDIN",
            "COPY t TO '/x'",
            "COPY t TO PROGRAM 'x'",
            "SELECT touch(1)",
            "SELECT over(1)",
            "SELECT 1 @@@! 2",
            "SELECT a FROM t ORDER BY a USING OPERATOR(public.@@@!)",
            "SELECT * FROM cache",
            "SELECT t.touched_row FROM t",
            "SELECT (t).touched_row FROM t",
            "COPY (SELECT * FROM t FOR UPDATE) TO STDOUT",
            "BEGIN",
        ] {
            assert!(objection(text, Some(&catalog), ParserOptions::DEFAULT).is_err(), "{text}");
        }
        assert_eq!(objection("SELECT lower(a) FROM t", Some(&catalog), ParserOptions::DEFAULT), Ok(true));
        assert_eq!(objection("SELECT FROM FROM", Some(&catalog), ParserOptions::DEFAULT), Ok(false));
    }

    #[test]
    fn the_tree_tells_what_a_session_must_know() {
        let nothing = classify(b"SELECT 1", None);
        for text in [
            "SELECT 1; SELECT 2",
            "",
            "BEGIN",
            "START TRANSACTION",
            "COMMIT",
            "PREPARE TRANSACTION 'x'",
            "ROLLBACK",
            "SET a = 1",
            "SET LOCAL a = 1",
            "RESET a",
            "RESET ALL",
            "SET TIME ZONE 'x'",
            "LISTEN a",
            "PREPARE p AS SELECT 1",
            "CREATE TEMP TABLE x (a int)",
            "SELECT 1 INTO TEMP x",
            "CREATE TEMP VIEW v AS SELECT 1",
            "CREATE TABLE pg_temp.x (a int)",
            "DISCARD ALL",
        ] {
            assert!(overlooked(text, &nothing).is_err(), "{text}");
            assert_eq!(overlooked(text, &classify(text.as_bytes(), None)), Ok(()), "{text}");
        }
    }
}
