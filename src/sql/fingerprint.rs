//! What statements that differ in their constants only have in common: a number to find them by, and a text to show.
//!
//! Constants and parameters become `?`, lists of them and lists of such rows `?` alone, comments and white space go, and
//! words outside quotes are folded. So the text holds no value that a client has sent, which is why it may be shown and
//! logged. Not a parser: two texts with one meaning may have two fingerprints.

use memchr::memmem;

use super::lex::{Lexer, Token};

/// What follows is left off, bytes; the number is of the whole text.
const LONGEST_SHOWN: usize = 1000;
/// What tells of more, at the end of a text.
const CUT: &str = " ...";

/// Takes the parts of the common form, in order.
trait Sink {
    fn put(&mut self, part: &[u8], token: Token);
}

/// The number of what `text` has in common with its like. Not stable between versions.
pub fn fingerprint(text: &[u8]) -> u64 {
    let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
    reduce(text, &mut hash);
    hash.finish()
}

/// That itself, as it may be shown.
pub fn common_form(text: &[u8]) -> String {
    let mut shown = Shown { text: String::new(), last: Token::End, is_cut: false };
    reduce(text, &mut shown);
    if shown.is_cut {
        shown.text.push_str(CUT);
    }
    shown.text
}

struct Hash(u64);

impl Hash {
    #[inline]
    fn add(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        // The highest bits of a product are the best ones.
        self.0 ^ (self.0 >> 32)
    }
}

impl Sink for Hash {
    fn put(&mut self, part: &[u8], token: Token) {
        match token {
            Token::Word => part.iter().for_each(|byte| self.add(byte.to_ascii_lowercase())),
            _ => part.iter().for_each(|byte| self.add(*byte)),
        }
        self.add(0);
    }
}

struct Shown {
    text: String,
    last: Token,
    is_cut: bool,
}

impl Sink for Shown {
    fn put(&mut self, part: &[u8], token: Token) {
        // One more for a space before it.
        if self.is_cut || self.text.len() + 1 + part.len() > LONGEST_SHOWN {
            self.is_cut = true;
            return;
        }
        let sticks = matches!(token, Token::Comma | Token::Close | Token::Dot | Token::Cast | Token::Semicolon)
            || matches!(self.last, Token::Open | Token::Dot | Token::Cast | Token::End)
            || (token == Token::Open && matches!(self.last, Token::Word | Token::Quoted));
        if !sticks {
            self.text.push(' ');
        }
        match token {
            Token::Word => self.text.push_str(&String::from_utf8_lossy(part).to_lowercase()),
            _ => self.text.push_str(&String::from_utf8_lossy(part)),
        }
        self.last = token;
    }
}

/// Where we are in a list that may go on. What is held back was neither put nor dropped yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Elsewhere,
    /// `?`
    Value,
    /// `?` and a comma that is held back
    ValueComma,
    /// `(`
    Open,
    /// `(?`
    Row,
    /// `(?` and a comma that is held back
    RowComma,
    /// `(?)`
    Rows,
    /// `(?)` and a comma that is held back
    RowsComma,
    /// `(?)`, and `, (` held back
    NextOpen,
    /// `(?)`, and `, (?` held back
    Next,
    /// `(?)`, and `, (?,` held back
    NextComma,
}

const UNREADABLE: (&[u8], Token) = (b"<unreadable>", Token::Bad);
const VALUE: (&[u8], Token) = (b"?", Token::Param);
const COMMA: (&[u8], Token) = (b",", Token::Comma);
const OPEN: (&[u8], Token) = (b"(", Token::Open);

impl At {
    /// What was held back.
    fn held(self) -> &'static [(&'static [u8], Token)] {
        match self {
            At::Elsewhere | At::Value | At::Open | At::Row | At::Rows => &[],
            At::ValueComma | At::RowComma | At::RowsComma => &[COMMA],
            At::NextOpen => &[COMMA, OPEN],
            At::Next => &[COMMA, OPEN, VALUE],
            At::NextComma => &[COMMA, OPEN, VALUE, COMMA],
        }
    }
}

fn reduce(text: &[u8], sink: &mut impl Sink) {
    let mut lexer = Lexer::new(text);
    let mut at = At::Elsewhere;
    loop {
        let lexeme = lexer.token();
        let (part, token) = match lexeme.token {
            Token::End => break,
            Token::Bad => UNREADABLE,
            // Where it ends depends on standard_conforming_strings: what follows may be in it.
            Token::BackslashString if memmem::find(lexeme.text, b"\\'").is_some() => UNREADABLE,
            Token::String
            | Token::BackslashString
            | Token::EscapeString
            | Token::OtherString
            | Token::DollarString
            | Token::Number
            | Token::Param => VALUE,
            token => (lexeme.text, token),
        };
        // What is held back goes on as a list, or it comes out.
        let goes_on = match (at, token) {
            (At::Value, Token::Comma) => Some(At::ValueComma),
            (At::ValueComma, Token::Param) => Some(At::Value),
            (At::Row, Token::Comma) => Some(At::RowComma),
            (At::RowComma, Token::Param) => Some(At::Row),
            (At::Rows, Token::Comma) => Some(At::RowsComma),
            (At::RowsComma, Token::Open) => Some(At::NextOpen),
            (At::NextOpen | At::NextComma, Token::Param) => Some(At::Next),
            (At::Next, Token::Comma) => Some(At::NextComma),
            (At::Next, Token::Close) => Some(At::Rows),
            _ => None,
        };
        if let Some(next) = goes_on {
            at = next;
            continue;
        }
        for (part, token) in at.held() {
            sink.put(part, *token);
        }
        let was_open = matches!(at, At::Open | At::NextOpen);
        let was_row = matches!(at, At::Row);
        if token == Token::Semicolon && lexer.peek().token == Token::End {
            break;
        }
        sink.put(part, token);
        at = match token {
            Token::Param if was_open => At::Row,
            Token::Param => At::Value,
            Token::Open => At::Open,
            Token::Close if was_row => At::Rows,
            Token::Bad => return,
            _ => At::Elsewhere,
        };
    }
    for (part, token) in at.held() {
        sink.put(part, *token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        common_form(text.as_bytes())
    }

    #[test]
    fn constants_and_parameters_are_one() {
        let forms = [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
            "select abalance  from pgbench_accounts where aid=$1",
            "/* id 7 */ select abalance from pgbench_accounts -- which\n where aid = '12'",
            "select abalance from pgbench_accounts where aid = $x$1$x$ ; ",
        ];
        for text in forms {
            assert_eq!(form(text), "select abalance from pgbench_accounts where aid = ?", "{text}");
            assert_eq!(fingerprint(text.as_bytes()), fingerprint(forms[0].as_bytes()), "{text}");
        }
        assert_ne!(fingerprint(b"select 1"), fingerprint(b"select 1 from t"));
        assert_ne!(fingerprint(b"select a b"), fingerprint(b"select ab"));
    }

    #[test]
    fn lists_of_any_length_are_one() {
        let forms = ["insert into t values (1, 'a')", "insert into t values (1, 'a', 2), (3), (4, 5)"];
        for text in forms {
            assert_eq!(form(text), "insert into t values(?)", "{text}");
            assert_eq!(fingerprint(text.as_bytes()), fingerprint(forms[0].as_bytes()), "{text}");
        }
        assert_eq!(form("select * from t where a in (1,2,3) and b = 4"), "select * from t where a in(?) and b = ?");
        assert_eq!(form("select f(1, a, 2)"), "select f(?, a, ?)");
        assert_eq!(form("select (1), (a)"), "select(?), (a)");
        assert_eq!(form("select (1), (2, a)"), "select(?), (?, a)");
        assert_eq!(form("select (1), (2"), "select(?), (?");
        assert_eq!(form("select 1,"), "select ?,");
    }

    #[test]
    fn quoted_names_keep_their_case() {
        assert_eq!(form("SELECT \"Id\" FROM \"S\".T"), "select \"Id\" from \"S\".t");
        assert_ne!(fingerprint(b"select \"A\""), fingerprint(b"select \"a\""));
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        assert_eq!(form("alter user u password 'secret"), "alter user u password <unreadable>");
        assert_eq!(form("select 'C:\\x' from t"), "select ? from t");
        assert_eq!(form("select 'a\\' secret' from t"), "select <unreadable>");
        assert!(!form("select 'it''s' || e'\\'x' || $a$secret$a$ || U&'secret' || 0x1F").contains("secret"));
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = format!("select {} from t", vec!["a"; 5000].join(", "));
        assert!(form(&long).len() <= LONGEST_SHOWN + CUT.len() && form(&long).ends_with(CUT));
        let longer = format!("{long} where b");
        assert_ne!(fingerprint(long.as_bytes()), fingerprint(longer.as_bytes()), "the number is of the whole text");
    }
}
