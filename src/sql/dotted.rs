//! Names of the form `a.b` in a text, wherever they stand: in code, in a string, in a string of a string.

use std::collections::BTreeSet;

/// More of them are not asked for.
const MOST: usize = 64;
/// `NAMEDATALEN` less its NUL, for each part.
const LONGEST: usize = 63;

/// Adds what may be a setting of somebody's own (`custom_variable_classes` of old), in lower case. False: there are too
/// many, or a setting is made whose name the text does not hold.
pub fn dotted_names(text: &[u8], names: &mut BTreeSet<String>) -> bool {
    add_names(text, names, MOST) && !has_computed_name(text)
}

/// False: there are more than so many.
fn add_names(text: &[u8], names: &mut BTreeSet<String>, most: usize) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    let is_first = |part: &[u8]| part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let fits = |part: &[u8]| is_first(part) && part.len() <= LONGEST;
    for name in text.split(|byte| !is_of_name(byte)) {
        let mut parts = name.split(|byte| *byte == b'.');
        let class = parts.next().unwrap_or_default();
        // A name may have more than two parts.
        if name.len() == class.len() || !fits(class) || class.eq_ignore_ascii_case(b"pg_catalog") || !parts.all(fits) {
            continue;
        }
        if names.len() >= most {
            return false;
        }
        names.insert(String::from_utf8_lossy(name).to_ascii_lowercase());
    }
    true
}

/// The same for code that is run whenever something is called: only names that stand where a setting's name does.
pub(super) fn names_of_settings(body: &[u8], names: &mut BTreeSet<String>) -> bool {
    let mut all = BTreeSet::new();
    let is_whole = add_names(body, &mut all, usize::MAX) && !has_computed_name(body);
    let lower = body.to_ascii_lowercase();
    let stands_behind =
        |before: &str, name: &str| memchr::memmem::find(&lower, format!("{before}{name}").as_bytes()).is_some();
    all.retain(|name| ["'", "\"", "set ", "session ", "local "].iter().any(|before| stands_behind(before, name)));
    names.extend(all);
    is_whole && names.len() <= MOST
}

/// True if `set_config` is called with anything but a literal for a name.
fn has_computed_name(text: &[u8]) -> bool {
    const CALL: &[u8] = b"set_config";
    let lower = text.to_ascii_lowercase();
    memchr::memmem::find_iter(&lower, CALL).any(|at| {
        let rest = lower.get(at + CALL.len()..).unwrap_or_default();
        let mut bytes = rest.iter().filter(|byte| !byte.is_ascii_whitespace());
        if bytes.next() != Some(&b'(') {
            return false;
        }
        // In a string of a string the quotes are doubled.
        let mut name = bytes
            .skip_while(|byte| **byte == b'\'')
            .skip_while(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
        let is_literal = name.next() == Some(&b'\'');
        // A literal may be cast, as the server itself writes it.
        let mut behind = name.skip_while(|byte| **byte == b'\'').peekable();
        if behind.next_if(|byte| **byte == b':').is_some() {
            return !(is_literal
                && behind.find(|byte| !matches!(byte, b':' | b'a'..=b'z' | b'_' | b'.')) == Some(&b','));
        }
        !(is_literal && behind.next() == Some(&b','))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Vec<String>, bool) {
        let mut names = BTreeSet::new();
        let is_whole = dotted_names(text.as_bytes(), &mut names);
        (names.into_iter().collect(), is_whole)
    }

    #[test]
    fn names_are_found_in_code_and_in_strings() {
        let text = "DO $$ begin perform set_config ( 'App.Tenant', t.x, false); execute 'set my.y = 1.5'; end $$";
        assert_eq!(found(text), (vec!["app.tenant".into(), "my.y".into(), "t.x".into()], true));
        assert_eq!(found("select pg_catalog.now(), 1.e5, x.1, .y, z."), (vec![], true));
    }

    #[test]
    fn a_name_that_is_computed_is_told() {
        assert!(!found("select set_config($1, $2, false)").1);
        assert!(!found("select set_config('a.' || x, 'b', false)").1);
        assert!(!found("select set_config('a', 'b', false), set_config(y, 'z', true)").1);
        assert!(found("execute 'select set_config(''a.b'', ''c'', false)'").1);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let many: Vec<String> = (0..70).map(|n| format!("a{n}.b")).collect();
        let (names, is_whole) = found(&many.join(" "));
        assert_eq!((names.len(), is_whole), (MOST, false));
    }
}
