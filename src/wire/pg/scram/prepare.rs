//! SASLprep (RFC 4013) with PostgreSQL's leniency: passwords are byte strings there, so what cannot be prepared is
//! used as it is (`pg_saslprep` and its callers).

use std::borrow::Cow;

use stringprep::tables;

/// The bytes that are hashed for a password.
pub fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let raw = Cow::Borrowed(password);
    let Ok(text) = std::str::from_utf8(password) else {
        return raw;
    };
    // PostgreSQL looks for prohibited characters before normalization, the crate after it: refused by either is raw.
    if text.is_ascii() || text.chars().any(is_prohibited) {
        return raw;
    }
    match stringprep::saslprep(text) {
        Ok(prepared) if !prepared.is_empty() => Cow::Owned(prepared.into_owned().into_bytes()),
        _ => raw,
    }
}

fn is_prohibited(c: char) -> bool {
    // Spaces outside of ASCII are mapped to U+0020 and some characters to nothing before anything is prohibited.
    if tables::non_ascii_space_character(c) || tables::commonly_mapped_to_nothing(c) {
        return false;
    }
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> String {
        String::from_utf8(prepare(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn passwords_are_prepared_as_rfc_4013_shows() {
        for (password, expected) in [
            ("", ""),
            ("plain ASCII", "plain ASCII"),
            ("I\u{ad}X", "IX"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b", "a b"),
            ("e\u{301}", "\u{e9}"),
        ] {
            assert_eq!(prepared(password), expected, "{password:?}");
        }
    }

    #[test]
    fn what_cannot_be_prepared_is_taken_as_it_is() {
        for password in
            ["bell\u{7}\u{aa}", "\u{627}\u{31}\u{aa}", "\u{ad}", "\u{1f600}\u{2168}", "\u{340}a", "\u{e000}\u{aa}"]
        {
            assert_eq!(prepared(password), password, "{password:?}");
        }
        assert_eq!(prepare(b"\xff\xc2\xaa"), &b"\xff\xc2\xaa"[..]);
    }
}
