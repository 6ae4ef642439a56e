//! What a statement does to which tables, in a few words, as OpenTelemetry wants spans to be called
//! (`db.query.summary`).

/// Longest summary, bytes.
const LONGEST: usize = 255;

/// Of a statement's [`common_form`](super::common_form): its keyword in capitals and the tables it names, `SELECT orders
/// customers`. Holds nothing that the common form does not hold. Not a parser: a name that follows FROM, JOIN, INTO,
/// UPDATE or TABLE is a table.
pub fn summary(form: &str) -> String {
    let mut words = words(form);
    let Some(first) = words.next().filter(|word| is_keyword(word)) else { return "statement".to_owned() };
    let mut summary = first.to_ascii_uppercase();
    let mut names_table = matches!(first, "update" | "table");
    let mut last = first;
    for word in words {
        // The subject of FOR UPDATE, DO UPDATE and IS DISTINCT FROM is no table.
        let is_other = matches!((last, word), ("for" | "do", "update") | ("distinct", "from"));
        let is_particle = matches!(word, "only" | "if" | "not" | "exists" | "lateral");
        if names_table && is_name(word) && !is_particle {
            let is_new = !summary.split(' ').any(|known| known == word);
            if is_new && summary.len() + 1 + word.len() <= LONGEST {
                summary.push(' ');
                summary.push_str(word);
            }
            names_table = false;
        } else if !(names_table && is_particle) {
            names_table = matches!(word, "from" | "join" | "into" | "update" | "table") && !is_other;
        }
        last = word;
    }
    summary
}

fn is_keyword(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// A name, or several with points between them.
fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '"')
}

/// Words, with the points between them and with their quotes; anything else by itself.
fn words(form: &str) -> impl Iterator<Item = &str> {
    let mut rest = form;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let mut is_quoted = false;
        let end = rest.find(|c: char| {
            is_quoted ^= c == '"';
            !(is_quoted || c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '"'))
        });
        let first = rest.chars().next()?;
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()).max(first.len_utf8()));
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::common_form;

    #[test]
    fn the_keyword_and_the_tables() {
        let cases = [
            (
                "SELECT a FROM Orders o JOIN s.\"Cust omers\" c ON a = 'secret' WHERE x IS DISTINCT FROM y",
                "SELECT orders s.\"Cust omers\"",
            ),
            ("insert into t (a) values (1) on conflict do update set a = 2", "INSERT t"),
            ("update only t set a = 1", "UPDATE t"),
            ("delete from t using u", "DELETE t"),
            ("select * from t where id = 1 for update", "SELECT t"),
            ("with x as (select 1 from a) select * from x, b", "WITH a x"),
            ("create table if not exists t (a int)", "CREATE t"),
            ("select 1", "SELECT"),
            ("begin", "BEGIN"),
            ("select * from (select 1 from t) x, generate_series(1, 2)", "SELECT t"),
            ("", "statement"),
            ("'secret'", "statement"),
        ];
        for (text, expected) in cases {
            assert_eq!(summary(&common_form(text.as_bytes())), expected, "{text}");
        }
        let many: String = (0..200).map(|i| format!(" join t{i} on true")).collect();
        assert!(summary(&format!("select ? from a{many}")).len() <= LONGEST);
    }
}
