//! SQL: what clients send, what a server's catalogs hold, and what is said to the console.

use std::collections::BTreeSet;

use forebay::admin::statement;
use forebay::sql::{Access, Catalog, classify, dotted_names, is_inert, is_plain_commit, unlistened};

use super::{Choices, bounded};

/// Ends whatever can be ended that was begun before it.
const WRITE: &[u8] = b"\n;\nDROP TABLE t";

/// A statement of a client. What is a read stays one behind a comment, and is none with a write behind it.
pub(super) fn sql(data: &[u8]) {
    let verdict = bounded(data.len(), || classify(data, None));
    assert!(!verdict.reason.to_string().is_empty());
    let _ = verdict.may_change_schema(Some(data));
    bounded(data.len(), || is_inert(data));
    bounded(data.len(), || unlistened(data));
    if bounded(data.len(), || is_plain_commit(data)) {
        assert_eq!(verdict.access, Access::Write);
    }
    let mut names = BTreeSet::new();
    bounded(data.len(), || dotted_names(data, &mut names));
    if verdict.access == Access::Read {
        let behind = classify(&[data, WRITE].concat(), None);
        assert_eq!(behind.access, Access::Write, "a write behind it is not seen");
        let before = classify(&[&WRITE[1..], b";\n", data].concat(), None);
        assert_eq!(before.access, Access::Write, "a write before it is not seen");
        let commented = classify(&[b"/* a comment */ -- another\n", data].concat(), None);
        assert_eq!(commented.access, Access::Read, "a comment changes it: {}", commented.reason);
    }
}

/// What somebody with the right to create functions and views put into a server's catalogs, and a statement.
pub(super) fn catalog(data: &[u8]) {
    let mut choices = Choices(data);
    let catalog = bounded(data.len(), || {
        let mut builder = Catalog::builder();
        for _ in 0..12 {
            let what = choices.byte();
            let name = ["f", "g", "t", "v"][usize::from(what >> 4) % 4];
            let text = String::from_utf8_lossy(choices.part());
            match what % 12 {
                0 => builder.function("public", &text, true, false),
                1 => builder.sql_function("public", name, &text),
                2 => builder.row_function(&text),
                3 => builder.operator(&text, what & 16 == 0),
                4 => builder.relation(&text),
                5 => builder.view(name, &text),
                6 => builder.expression(name, &text),
                7 => builder.body(name, "plpgsql", &text),
                8 => builder.body(name, "plpython3u", &text),
                9 => builder.trigger(name, &text),
                10 => builder.written_expression(name, &text),
                _ => builder.function("public", name, what & 16 == 0, false),
            };
        }
        builder.build()
    });
    for text in [b"SELECT f(), g(1) FROM t, v".as_slice(), choices.0] {
        let verdict = bounded(data.len(), || classify(text, Some(&catalog)));
        if verdict.access == Access::Read {
            let behind = classify(&[text, WRITE].concat(), Some(&catalog));
            assert_eq!(behind.access, Access::Write, "a write behind it is not seen");
        }
    }
}

/// What is said to the console.
pub(super) fn console(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = bounded(text.len(), || statement::parse(text));
    match parsed {
        Ok(statements) => {
            // A text said twice is the same twice, unless its last statement takes everything that follows.
            if !statements.iter().any(|one| matches!(one, statement::Statement::ExplainRoute { .. })) {
                let twice = statement::parse(&format!("{text}\n;{text}")).expect("each half is accepted");
                assert_eq!(twice, [statements.as_slice(), statements.as_slice()].concat());
            }
        }
        Err(refusal) => {
            use forebay::wire::pg::ToClient;
            assert!(!refusal.message().is_empty() && refusal.sqlstate().len() == 5);
        }
    }
}
