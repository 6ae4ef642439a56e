//! Programs that Pgpool-II runs: its placeholders are variables of the environment here.

use crate::config::quote;

/// Placeholders and the variables that hold the same, as docs/failover.md has them.
const PLACEHOLDERS: [(char, &str); 13] = [
    ('d', "$FAILED_NODE_ID"),
    ('h', "$FAILED_NODE_HOST"),
    ('p', "$FAILED_NODE_PORT"),
    ('D', ""),
    ('m', "$NEW_MAIN_NODE_ID"),
    ('H', "$NEW_MAIN_NODE_HOST"),
    ('M', "$OLD_PRIMARY_NODE_ID"),
    ('P', "$OLD_PRIMARY_NODE_ID"),
    ('r', "$NEW_MAIN_NODE_PORT"),
    ('R', ""),
    ('N', "$OLD_PRIMARY_NODE_HOST"),
    ('S', "$OLD_PRIMARY_NODE_PORT"),
    ('%', "%"),
];

/// A command as Forebay would run it: TOML, and the placeholders that there is no variable for.
pub(super) fn translate(command: &str) -> (String, Vec<char>) {
    let mut line = String::new();
    let mut unknown = Vec::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            line.push(c);
            continue;
        }
        let Some(letter) = chars.next() else {
            line.push('%');
            break;
        };
        match PLACEHOLDERS.iter().find(|(known, _)| *known == letter) {
            Some((_, "%")) => line.push('%'),
            Some((_, variable)) if !variable.is_empty() => line.push_str(&format!("\"{variable}\"")),
            _ => {
                unknown.push(letter);
                line.push_str("''");
            }
        }
    }
    (format!("[\"/bin/sh\", \"-c\", {}]", quote(&line)), unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_variables() {
        let (toml, unknown) = translate("/etc/pgpool2/failover.sh %d %h %p %D %m %H %% %r");
        let line = r#"/etc/pgpool2/failover.sh \"$FAILED_NODE_ID\" \"$FAILED_NODE_HOST\" \"$FAILED_NODE_PORT\" '' "#;
        let line = format!(r#"{line}\"$NEW_MAIN_NODE_ID\" \"$NEW_MAIN_NODE_HOST\" % \"$NEW_MAIN_NODE_PORT\""#);
        assert_eq!(toml, format!(r#"["/bin/sh", "-c", "{line}"]"#));
        assert_eq!(unknown, ['D']);
    }
}
