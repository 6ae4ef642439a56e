//! `SET` and `RESET`: of session parameters, of the configuration, and of a node's weight.

use super::{Command, Parser, Statement, text};
use crate::admin::drivers;
use crate::admin::errors::Refusal;
use crate::sql::lex::{Lexer, Token};

impl Parser<'_> {
    pub(super) fn set(&mut self) -> Result<Statement, Refusal> {
        let after_set = self.lexer;
        if self.take("weight") {
            // A key of that name would be followed by = at once.
            if self.peek().text != b"=" && !self.peek().is("to") {
                return self.weight().map(Statement::Command);
            }
            self.lexer = after_set;
        }
        let _ = self.take("session") || self.take("local");
        for (words, name) in [(&["time", "zone"][..], "timezone"), (&["names"], "client_encoding")] {
            let before = self.lexer;
            if words.iter().all(|word| self.take(word)) {
                let value = self.value()?;
                return Ok(Statement::Set { name: name.to_owned(), value });
            }
            self.lexer = before;
        }
        if self.take("characteristics") || self.take("transaction") || self.take("constraints") {
            self.skip()?;
            return Ok(Statement::Nothing("SET"));
        }
        let is_quoted = self.peek().token == Token::Quoted;
        let mut name = self.dotted("the name of a setting")?;
        if !is_quoted {
            name.make_ascii_lowercase();
        }
        self.equals_or_to()?;
        let value = self.value()?;
        if drivers::parameter_named(&name).is_some() {
            return Ok(Statement::Set { name, value });
        }
        match value {
            Some(value) => Ok(Statement::Command(Command::SetKey { key: name, value })),
            None => Err(Refusal::BadValue(format!("{name} has to be set to a value; its default is in SHOW CONFIG"))),
        }
    }

    pub(super) fn reset(&mut self) -> Result<Statement, Refusal> {
        if self.take("all") {
            return Ok(Statement::Nothing("RESET"));
        }
        let name = self.dotted("the name of a setting, or ALL")?.to_ascii_lowercase();
        match drivers::parameter_named(&name) {
            Some(_) => Ok(Statement::Set { name, value: None }),
            None => {
                Err(Refusal::BadValue(format!("{name} is no parameter of the session; RELOAD brings back the file")))
            }
        }
    }

    /// Everything up to the end of the statement, as it is written: `5s`, `64KiB`, `"a, b"`. One string in single
    /// quotes is taken for its content. `None` is DEFAULT.
    fn value(&mut self) -> Result<Option<String>, Refusal> {
        let whole = self.lexer.rest();
        let first = self.peek();
        if self.is_over() {
            return Err(self.mistake("a value"));
        }
        let mut rest = self.lexer;
        self.skip()?;
        let raw = whole.get(..whole.len() - self.lexer.rest().len()).unwrap_or_default();
        rest.token();
        let is_alone = matches!(rest.peek().token, Token::Semicolon | Token::End);
        if is_alone && first.is("default") {
            return Ok(None);
        }
        Ok(Some(match first.token {
            Token::String if is_alone => text(first.unquoted()).replace("''", "'"),
            Token::Word | Token::Number | Token::Quoted if is_alone => text(first.text),
            _ => without_comments(raw),
        }))
    }
}

/// A value's text, cut where a comment begins.
fn without_comments(raw: &[u8]) -> String {
    let mut lexer = Lexer::new(raw);
    let mut out = String::new();
    let mut before = lexer.rest().len();
    loop {
        let lexeme = lexer.token();
        if lexeme.is_end() {
            return out;
        }
        let gap = before - lexer.rest().len() - lexeme.text.len();
        if gap > 0 && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&text(lexeme.text));
        before = lexer.rest().len();
    }
}
