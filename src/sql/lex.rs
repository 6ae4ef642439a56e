//! Cuts SQL text into tokens the way PostgreSQL's own scanner does.
//!
//! Owns the quoting rules and nothing else: which bytes belong to one literal, name, comment or operator. Whatever
//! PostgreSQL would refuse or what depends on a setting that is unknown here comes out as [`Token::Bad`] or
//! [`Token::BackslashString`], so that the classifier can call it a write. Bytes above 127 are letters of a name, which
//! is right for UTF-8 and every single-byte encoding, but not for client encodings whose second byte may be ASCII
//! (SJIS, BIG5, GBK, GB18030, UHC, JOHAB): sessions in those must not rely on a verdict.
//!
//! Rules after PostgreSQL's manual, section 4.1 "Lexical Structure", and `scan.l` (versions 12 to 17).

use memchr::{memchr, memchr2, memmem};

/// What kind of token it is; the words themselves stand in [`Lexeme::text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// An unquoted name or keyword, not folded.
    Word,
    /// `"name"`, quotes included in the text.
    Quoted,
    /// `U&"name"`: its meaning depends on escapes and on `UESCAPE`.
    UnicodeQuoted,
    /// `'...'` without a backslash, also the string part of `N'...'`.
    String,
    /// `'...'` with a backslash, which means something else when `standard_conforming_strings` is off.
    BackslashString,
    /// `E'...'`.
    EscapeString,
    /// `U&'...'`, `B'...'` or `X'...'`.
    OtherString,
    /// `$tag$...$tag$`.
    DollarString,
    /// A number without its sign.
    Number,
    /// `$1`.
    Param,
    /// One or more operator characters, also `*` and `=>`.
    Operator,
    /// `::`.
    Cast,
    /// `.`
    Dot,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[`, `]`, `:`, `:=` or `..`
    Other,
    /// The end of the text.
    End,
    /// Something unterminated, or a byte that starts no token. Nothing after it is read.
    Bad,
}

/// One token and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lexeme<'a> {
    /// Its kind.
    pub token: Token,
    /// The bytes, with quotes and prefix.
    pub text: &'a [u8],
}

impl<'a> Lexeme<'a> {
    /// Whether this is the unquoted word `word` (given in either case).
    pub fn is(&self, word: &str) -> bool {
        self.token == Token::Word && self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// Whether the statement is over here.
    pub fn is_end(&self) -> bool {
        matches!(self.token, Token::Semicolon | Token::End | Token::Bad)
    }

    /// The bytes between the quotes of a [`Token::Quoted`] or a plain string, doubled quotes still doubled.
    pub fn unquoted(&self) -> &'a [u8] {
        match self.text {
            [b'\'', body @ .., b'\''] | [b'"', body @ .., b'"'] => body,
            text => text,
        }
    }
}

/// Reads tokens one after the other. Copying it is the way to look ahead.
#[derive(Debug, Clone, Copy)]
pub struct Lexer<'a> {
    rest: &'a [u8],
}

/// Byte classes, so that the common decisions are one load each.
const IDENT: u8 = 1;
const IDENT_START: u8 = 2;
const DIGIT: u8 = 4;
const SPACE: u8 = 8;
const OPERATOR: u8 = 16;
/// May start a comment.
const COMMENT: u8 = 32;

#[allow(clippy::indexing_slicing, reason = "evaluated at compile time, where a wrong index fails the build")]
static CLASSES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        table[i] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => IDENT | IDENT_START,
            b'0'..=b'9' => IDENT | DIGIT,
            b'$' => IDENT,
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'-' | b'/' => OPERATOR | COMMENT,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'*' | b'%' | b'<' | b'>' | b'=' => {
                OPERATOR
            }
            _ => 0,
        };
        i += 1;
    }
    table
};

#[inline]
fn has(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

/// How many leading bytes of `bytes` are of `class`.
#[inline]
fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&b| !has(b, class)).unwrap_or(bytes.len())
}

impl<'a> Lexer<'a> {
    /// Starts at the first byte of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next token, without taking it.
    pub fn peek(&self) -> Lexeme<'a> {
        let mut ahead = *self;
        ahead.token()
    }

    /// The next token. After [`Token::End`] and [`Token::Bad`] the same comes again.
    #[inline]
    pub fn token(&mut self) -> Lexeme<'a> {
        if !self.skip_space() {
            return self.bad();
        }
        let rest = self.rest;
        let Some(&first) = rest.first() else {
            return Lexeme { token: Token::End, text: rest };
        };
        if has(first, IDENT_START) {
            return self.word(first);
        }
        let (token, length) = match first {
            b'(' => (Token::Open, 1),
            b')' => (Token::Close, 1),
            b',' => (Token::Comma, 1),
            b';' => (Token::Semicolon, 1),
            b'[' | b']' => (Token::Other, 1),
            b'"' => match end_of_quote(rest, 1, b'"') {
                Some(end) => (Token::Quoted, end),
                None => return self.bad(),
            },
            b'\'' => return self.string(0, Token::String),
            b'0'..=b'9' => (Token::Number, number(rest)),
            b'.' => match rest.get(1) {
                Some(b'0'..=b'9') => (Token::Number, number(rest)),
                Some(b'.') => (Token::Other, 2),
                _ => (Token::Dot, 1),
            },
            b':' => match rest.get(1) {
                Some(b':') => (Token::Cast, 2),
                Some(b'=') => (Token::Other, 2),
                _ => (Token::Other, 1),
            },
            b'$' => return self.dollar(),
            byte if has(byte, OPERATOR) => (Token::Operator, operator(rest)),
            _ => return self.bad(),
        };
        self.take(token, length)
    }

    fn word(&mut self, first: u8) -> Lexeme<'a> {
        match (first, self.rest.get(1), self.rest.get(2)) {
            (b'e' | b'E', Some(b'\''), _) => return self.string(1, Token::EscapeString),
            (b'b' | b'B' | b'x' | b'X', Some(b'\''), _) => return self.string(1, Token::OtherString),
            (b'n' | b'N', Some(b'\''), _) => return self.string(1, Token::String),
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => return self.string(2, Token::OtherString),
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                return match end_of_quote(self.rest, 3, b'"') {
                    Some(end) => self.take(Token::UnicodeQuoted, end),
                    None => self.bad(),
                };
            }
            _ => {}
        }
        self.take(Token::Word, run(self.rest, IDENT))
    }

    /// A literal in single quotes behind a prefix of `prefix` bytes, with the parts that follow on later lines.
    fn string(&mut self, prefix: usize, token: Token) -> Lexeme<'a> {
        let rest = self.rest;
        let escapes = token == Token::EscapeString;
        let mut open = prefix;
        loop {
            let end = if escapes { end_of_escape_string(rest, open + 1) } else { end_of_quote(rest, open + 1, b'\'') };
            let Some(end) = end else {
                return self.bad();
            };
            match continuation(rest, end) {
                Some(next) => open = next,
                None => {
                    let backslash = token == Token::String
                        && rest.get(..end).is_none_or(|literal| memchr(b'\\', literal).is_some());
                    let token = if backslash { Token::BackslashString } else { token };
                    return self.take(token, end);
                }
            }
        }
    }

    fn dollar(&mut self) -> Lexeme<'a> {
        let after = self.rest.get(1..).unwrap_or_default();
        let digits = run(after, DIGIT);
        if digits > 0 {
            return self.take(Token::Param, 1 + digits);
        }
        // A tag is an identifier without dollar signs that does not start with a digit.
        let tag = after.iter().position(|&b| b == b'$' || !has(b, IDENT)).unwrap_or(after.len());
        if after.get(tag) != Some(&b'$') {
            return self.bad();
        }
        let open = tag + 2;
        let (Some(delimiter), Some(body)) = (self.rest.get(..open), self.rest.get(open..)) else {
            return self.bad();
        };
        match memmem::find(body, delimiter) {
            Some(at) => self.take(Token::DollarString, open + at + open),
            None => self.bad(),
        }
    }

    /// Skips white space and comments; false if a comment does not end.
    #[inline]
    fn skip_space(&mut self) -> bool {
        // One blank, or none, is by far the most common.
        if let [b' ', tail @ ..] = self.rest {
            self.rest = tail;
        }
        match self.rest {
            [byte, ..] if !has(*byte, SPACE | COMMENT) => true,
            _ => self.skip_more_space(),
        }
    }

    fn skip_more_space(&mut self) -> bool {
        loop {
            let spaces = run(self.rest, SPACE);
            self.rest = self.rest.get(spaces..).unwrap_or_default();
            let length = match self.rest {
                [b'-', b'-', ..] => end_of_line(self.rest, 2),
                [b'/', b'*', ..] => match end_of_comment(self.rest) {
                    Some(length) => length,
                    None => return false,
                },
                _ => return true,
            };
            self.rest = self.rest.get(length..).unwrap_or_default();
        }
    }

    #[inline]
    fn take(&mut self, token: Token, length: usize) -> Lexeme<'a> {
        match self.rest.split_at_checked(length) {
            Some((text, rest)) => {
                self.rest = rest;
                Lexeme { token, text }
            }
            None => self.bad(),
        }
    }

    #[cold]
    fn bad(&self) -> Lexeme<'a> {
        Lexeme { token: Token::Bad, text: self.rest }
    }
}

/// Where a comment that starts at the first byte ends, or `None` if it does not. Comments nest.
pub(super) fn end_of_comment(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0u32;
    let mut at = 0;
    loop {
        let step = memchr2(b'*', b'/', bytes.get(at..)?)?;
        at += step;
        match bytes.get(at..at + 2) {
            Some(b"/*") => {
                depth += 1;
                at += 2;
            }
            Some(b"*/") => {
                depth = depth.checked_sub(1)?;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

/// Where the line that holds `from` ends (at the line feed or the end of the text).
pub(super) fn end_of_line(bytes: &[u8], from: usize) -> usize {
    bytes.get(from..).and_then(|tail| memchr2(b'\n', b'\r', tail)).map_or(bytes.len(), |at| from + at)
}

/// The first byte behind the closing `quote`; a doubled quote does not close.
fn end_of_quote(bytes: &[u8], from: usize, quote: u8) -> Option<usize> {
    let mut at = from;
    loop {
        at += find_quote(bytes.get(at..)?, quote)? + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// Most names and literals are shorter than what a call of `memchr` takes to pay.
#[inline]
fn find_quote(bytes: &[u8], quote: u8) -> Option<usize> {
    const NEAR: usize = 16;
    match bytes.iter().take(NEAR).position(|&b| b == quote) {
        Some(at) => Some(at),
        None => memchr(quote, bytes.get(NEAR..)?).map(|at| at + NEAR),
    }
}

fn end_of_escape_string(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr2(b'\'', b'\\', bytes.get(at..)?)?;
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'\\'), Some(_)) | (Some(b'\''), Some(b'\'')) => at += 2,
            (Some(b'\''), _) => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Where the quote stands that continues the literal ending before `from`: behind white space and line comments that
/// hold at least one line feed.
fn continuation(bytes: &[u8], from: usize) -> Option<usize> {
    let mut newline = false;
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if bytes.get(at + 1) == Some(&b'-') => at = end_of_line(bytes, at),
            b'\'' if newline => return Some(at),
            _ => return None,
        }
    }
}

/// The length of a number. Letters that follow it are left for the next token, as in versions before 15.
fn number(bytes: &[u8]) -> usize {
    let digits = |from: usize| run(bytes.get(from..).unwrap_or_default(), DIGIT);
    let mut end = digits(0);
    // `1..10` is a range in PL/pgSQL, not two numbers.
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1) != Some(&b'.') {
        end += 1;
        end += digits(end);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}

/// The length of an operator: it stops where a comment starts, and ends in `+` or `-` only if it holds a character
/// that no operator of the SQL standard has.
fn operator(bytes: &[u8]) -> usize {
    let all = bytes.get(..run(bytes, OPERATOR)).unwrap_or_default();
    let comment = all.windows(2).position(|pair| pair == b"--" || pair == b"/*");
    let mut text = all.get(..comment.unwrap_or(all.len())).unwrap_or_default();
    while let [head @ .., b'+' | b'-'] = text {
        let unusual = |b: &u8| matches!(b, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
        if head.is_empty() || head.iter().any(unusual) {
            break;
        }
        text = head;
    }
    // Zero only if a comment started here, and those are skipped before.
    text.len().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<(Token, &str)> {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut all = Vec::new();
        loop {
            let lexeme = lexer.token();
            match lexeme.token {
                Token::End => return all,
                Token::Bad => {
                    all.push((Token::Bad, ""));
                    return all;
                }
                token => all.push((token, std::str::from_utf8(lexeme.text).unwrap())),
            }
        }
    }

    #[test]
    fn literals_end_where_postgresql_ends_them() {
        use Token::*;
        let cases: &[(&str, &[(Token, &str)])] = &[
            ("'a''b' x", &[(String, "'a''b'"), (Word, "x")]),
            ("'a\\' x", &[(BackslashString, "'a\\'"), (Word, "x")]),
            ("E'a\\'b' x", &[(EscapeString, "E'a\\'b'"), (Word, "x")]),
            ("e'a''\\\\' x", &[(EscapeString, "e'a''\\\\'"), (Word, "x")]),
            ("E'a' \n 'b\\'c' x", &[(EscapeString, "E'a' \n 'b\\'c'"), (Word, "x")]),
            ("'a' -- ' \n 'b' x", &[(String, "'a' -- ' \n 'b'"), (Word, "x")]),
            ("'a' 'b'", &[(String, "'a'"), (String, "'b'")]),
            ("'a' /* \n */ 'b'", &[(String, "'a'"), (String, "'b'")]),
            ("U&'a\\' x", &[(OtherString, "U&'a\\'"), (Word, "x")]),
            ("u & 'a'", &[(Word, "u"), (Operator, "&"), (String, "'a'")]),
            ("B'01' X'1f' N'n'", &[(OtherString, "B'01'"), (OtherString, "X'1f'"), (String, "N'n'")]),
            ("fooe'a'", &[(Word, "fooe"), (String, "'a'")]),
            ("$$a'$$ x", &[(DollarString, "$$a'$$"), (Word, "x")]),
            ("$a$ $b$ $$ $a$ x", &[(DollarString, "$a$ $b$ $$ $a$"), (Word, "x")]),
            ("$a$x$b$a$", &[(DollarString, "$a$x$b$a$")]),
            ("a$b$c$b$", &[(Word, "a$b$c$b$")]),
            ("$1$2", &[(Param, "$1"), (Param, "$2")]),
            ("$1for", &[(Param, "$1"), (Word, "for")]),
            ("$a", &[(Bad, "")]),
            ("'a", &[(Bad, "")]),
            ("'a''", &[(Bad, "")]),
            ("E'a\\", &[(Bad, "")]),
            ("\"a", &[(Bad, "")]),
            ("$a$ $A$", &[(Bad, "")]),
            ("\"a\"\"b\"\"\" x", &[(Quoted, "\"a\"\"b\"\"\""), (Word, "x")]),
            ("U&\"a\" x", &[(UnicodeQuoted, "U&\"a\""), (Word, "x")]),
            ("é_1$ x", &[(Word, "é_1$"), (Word, "x")]),
            ("a\0b", &[(Word, "a"), (Bad, "")]),
        ];
        for (text, expected) in cases {
            assert_eq!(&tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn comments_nest_and_end_operators() {
        use Token::*;
        let cases: &[(&str, &[(Token, &str)])] = &[
            ("a /* /* */ ' */ b", &[(Word, "a"), (Word, "b")]),
            ("a /**/ b /***/ c", &[(Word, "a"), (Word, "b"), (Word, "c")]),
            ("a /*/ b */ c", &[(Word, "a"), (Word, "c")]),
            ("a /* b", &[(Word, "a"), (Bad, "")]),
            ("a -- ' \r b", &[(Word, "a"), (Word, "b")]),
            ("a --", &[(Word, "a")]),
            ("1+/*x*/2", &[(Number, "1"), (Operator, "+"), (Number, "2")]),
            ("1*--x\n2", &[(Number, "1"), (Operator, "*"), (Number, "2")]),
            ("a*/b", &[(Word, "a"), (Operator, "*/"), (Word, "b")]),
            ("1=-1", &[(Number, "1"), (Operator, "="), (Operator, "-"), (Number, "1")]),
            ("1@-1", &[(Number, "1"), (Operator, "@-"), (Number, "1")]),
            ("a+-+b", &[(Word, "a"), (Operator, "+"), (Operator, "-"), (Operator, "+"), (Word, "b")]),
            ("a->>'b'", &[(Word, "a"), (Operator, "->>"), (String, "'b'")]),
            ("a::b", &[(Word, "a"), (Cast, "::"), (Word, "b")]),
            ("a[1:2]", &[(Word, "a"), (Other, "["), (Number, "1"), (Other, ":"), (Number, "2"), (Other, "]")]),
            ("a=>1", &[(Word, "a"), (Operator, "=>"), (Number, "1")]),
        ];
        for (text, expected) in cases {
            assert_eq!(&tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_leave_letters_behind() {
        use Token::*;
        let cases: &[(&str, &[(Token, &str)])] = &[
            ("1.5e10 .5 1. 1e-3", &[(Number, "1.5e10"), (Number, ".5"), (Number, "1."), (Number, "1e-3")]),
            ("1for", &[(Number, "1"), (Word, "for")]),
            ("1e", &[(Number, "1"), (Word, "e")]),
            ("1..2", &[(Number, "1"), (Other, ".."), (Number, "2")]),
            ("a.b.*", &[(Word, "a"), (Dot, "."), (Word, "b"), (Dot, "."), (Operator, "*")]),
        ];
        for (text, expected) in cases {
            assert_eq!(&tokens(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_to_the_end_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut lexer = Lexer::new(&text);
            let mut taken = 0;
            loop {
                let lexeme = lexer.token();
                if matches!(lexeme.token, Token::End | Token::Bad) {
                    break;
                }
                prop_assert!(!lexeme.text.is_empty(), "a token without bytes would loop for ever");
                taken += lexeme.text.len();
            }
            prop_assert!(taken <= text.len());
        }

        #[test]
        fn a_quoted_string_is_one_token(body in "[a-z'\";$/*-]{0,20}") {
            let text = format!("'{}' tail", body.replace('\'', "''"));
            prop_assert_eq!(tokens(&text).len(), 2);
            let text = format!("\"{}\" tail", body.replace('"', "\"\""));
            prop_assert_eq!(tokens(&text).len(), 2);
            let text = format!("E'{}' tail", body.replace('\'', "\\'"));
            prop_assert_eq!(tokens(&text).len(), 2);
            let text = format!("$q1${body}$q1$ tail");
            prop_assert_eq!(tokens(&text).len(), 2);
        }

        #[test]
        fn a_comment_between_tokens_changes_nothing(comment in "[a-z'\";$ ]{0,20}") {
            let plain = tokens("SELECT a FROM b WHERE c = 'd' ;");
            let spread = format!("SELECT/*{comment}*/a FROM --{comment}\nb WHERE c =/*{comment}/**/*/'d' /**/;");
            prop_assert_eq!(plain, tokens(&spread));
        }
    }
}
