//! Connection strings of `primary_conninfo`, in libpq's form of keywords and values
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE>).

use super::record::At;

/// The pairs of a connection string; `None` if it is not one, or a URI.
pub fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Some(pairs);
        }
        let mut keyword = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=')
            || keyword.is_empty()
            || !keyword.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            return None;
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.peek() {
                None if is_quoted => return None,
                None => break,
                Some('\'') if is_quoted => {
                    chars.next();
                    break;
                }
                Some(c) if !is_quoted && c.is_whitespace() => break,
                Some(_) => {}
            }
            match chars.next() {
                Some('\\') => value.push(chars.next()?),
                Some(c) => value.push(c),
                None => break,
            }
        }
        pairs.push((keyword, value));
    }
}

/// The value of a keyword; the last one counts, as for libpq.
pub fn value(text: &str, keyword: &str) -> Option<String> {
    pairs(text)?.into_iter().rev().find(|(name, _)| name == keyword).map(|(_, value)| value)
}

/// The one server that a connection string leads to; `None` if there are several, or none.
pub fn server(text: &str) -> Option<At> {
    let host = value(text, "host").or_else(|| value(text, "hostaddr"))?;
    let port = value(text, "port").map_or(Some(5432), |port| port.parse().ok())?;
    Some(At { host, port })
}

/// The same connection to another server; `None` if the text cannot be read.
pub fn led_to(text: &str, to: &At) -> Option<String> {
    let mut pairs = pairs(text)?;
    pairs.retain(|(name, _)| !matches!(name.as_str(), "host" | "hostaddr" | "port"));
    pairs.insert(0, ("host".to_owned(), to.host.clone()));
    pairs.insert(1, ("port".to_owned(), to.port.to_string()));
    Some(written(&pairs))
}

/// The same connection with another value of a keyword; `None` if the text cannot be read.
pub fn with(text: &str, keyword: &str, value: &str) -> Option<String> {
    let mut pairs = pairs(text)?;
    pairs.retain(|(name, _)| name != keyword);
    pairs.push((keyword.to_owned(), value.to_owned()));
    Some(written(&pairs))
}

fn written(pairs: &[(String, String)]) -> String {
    let quoted = |value: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
        match !value.is_empty() && value.chars().all(is_plain) {
            true => value.to_owned(),
            false => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    };
    let words: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_pg_basebackup_writes_is_led_elsewhere() {
        let text =
            "user=replicator password='it''s' passfile='/home/db/.pgpass' channel_binding=prefer host=db1 port=5432";
        assert_eq!(value(text, "password"), None, "two quotes are not libpq's way to write one");
        let text =
            r"user=replicator password='it\'s \\ here' application_name=pg2 hostaddr=10.0.0.1 host=db1 port = 5432";
        let to = At { host: "db2".into(), port: 5433 };
        let led = led_to(text, &to).expect("it can be read");
        assert_eq!(led, r"host=db2 port=5433 user=replicator password='it\'s \\ here' application_name=pg2");
        assert_eq!(value(&led, "password").as_deref(), Some(r"it's \ here"));
    }

    #[test]
    fn what_cannot_be_read_is_not_changed() {
        for text in ["postgresql://db1/x", "host", "host='db", "=x", "a b=c"] {
            assert_eq!(pairs(text), None, "{text:?}");
        }
        assert_eq!(pairs("  "), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn every_value_survives(value in "[ -~]{0,12}", other in "[ -~]{0,12}") {
            let text = with(&with("", "password", &value).unwrap(), "sslcert", &other).unwrap();
            prop_assert_eq!(pairs(&text), Some(vec![("password".into(), value), ("sslcert".into(), other)]));
        }
    }
}
