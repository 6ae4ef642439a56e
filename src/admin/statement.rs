//! What a text says to the console: PgBouncer's commands, ours, and what drivers send.
//!
//! A whole text is read before anything of it runs, so that a mistake at its end leaves nothing half done.

use super::errors::Refusal;
use super::views::{self, View};
use crate::sql::lex::{Lexeme, Lexer, Token};

pub(super) mod command;
mod select;
mod set;

pub use command::Command;
pub use select::{Expression, Item};

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `SHOW view`, or `SELECT` of a view.
    Show(&'static View),
    /// `SHOW` of a session parameter.
    Parameter(String),
    /// `SELECT` of what drivers ask for.
    Select(Vec<Item>),
    /// `SET` of a session parameter or of a key of the configuration.
    Set {
        /// Lower case if it was not quoted.
        name: String,
        /// Without its quotes; `None` is DEFAULT.
        value: Option<String>,
    },
    /// Beginnings and ends of transactions, which mean nothing here.
    Transaction(Transaction),
    /// What resets a session: nothing to do, answered with this tag.
    Nothing(&'static str),
    /// `DEALLOCATE name`, or all.
    Deallocate(Option<String>),
    /// `EXPLAIN ROUTE`
    ExplainRoute {
        /// After the word DATABASE.
        database: Option<String>,
        /// To the end of the text.
        text: String,
    },
    /// What changes something.
    Command(Command),
}

/// See [`Statement::Transaction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the statements of the same names")]
pub enum Transaction {
    Begin,
    StartTransaction,
    Commit,
    Rollback,
    Savepoint,
    Release,
    RollbackTo,
}

/// Reads a whole text; no statement at all is an empty list.
///
/// # Errors
/// The first mistake.
pub fn parse(text: &str) -> Result<Vec<Statement>, Refusal> {
    let mut parser = Parser { lexer: Lexer::new(text.as_bytes()) };
    let mut statements = Vec::new();
    loop {
        while parser.peek().token == Token::Semicolon {
            parser.next();
        }
        if parser.peek().token == Token::End {
            return Ok(statements);
        }
        statements.push(parser.statement()?);
        if !matches!(parser.peek().token, Token::Semicolon | Token::End) {
            return Err(parser.mistake("the end of the statement"));
        }
    }
}

/// Reads tokens. Words are compared without regard to case.
struct Parser<'a> {
    lexer: Lexer<'a>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Lexeme<'a> {
        self.lexer.peek()
    }

    fn next(&mut self) -> Lexeme<'a> {
        self.lexer.token()
    }

    /// Takes the next token if it is this word.
    fn take(&mut self, word: &str) -> bool {
        let is_it = self.peek().is(word);
        if is_it {
            self.next();
        }
        is_it
    }

    /// Takes what stands between a setting and its value.
    fn equals_or_to(&mut self) -> Result<(), Refusal> {
        if !self.take("to") {
            if self.peek().text != b"=" {
                return Err(self.mistake("="));
            }
            self.next();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        matches!(self.peek().token, Token::Semicolon | Token::End)
    }

    fn mistake(&self, expected: &'static str) -> Refusal {
        Refusal::Syntax { near: shortened(self.peek().text), expected }
    }

    /// A name: a word as it is written, or what stands in quotes of either kind. Words may begin with digits.
    fn name(&mut self, expected: &'static str) -> Result<String, Refusal> {
        let lexeme = self.peek();
        let name = match lexeme.token {
            Token::Word => text(lexeme.text),
            Token::Quoted => text(lexeme.unquoted()).replace("\"\"", "\""),
            Token::String => text(lexeme.unquoted()).replace("''", "'"),
            Token::Number => {
                self.next();
                let mut name = text(lexeme.text);
                // `1db` is a number and a word to the lexer.
                let rest = self.lexer.rest();
                if rest.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_') {
                    name.push_str(&text(self.next().text));
                }
                return Ok(name);
            }
            _ => return Err(self.mistake(expected)),
        };
        self.next();
        Ok(name)
    }

    /// Names with dots between them.
    fn dotted(&mut self, expected: &'static str) -> Result<String, Refusal> {
        let mut name = self.name(expected)?;
        while self.peek().token == Token::Dot {
            self.next();
            name.push('.');
            name.push_str(&self.name(expected)?);
        }
        Ok(name)
    }

    /// A name, if the statement is not over.
    fn optional_name(&mut self, expected: &'static str) -> Result<Option<String>, Refusal> {
        if self.is_over() { Ok(None) } else { self.name(expected).map(Some) }
    }

    /// Leaves out the rest of the statement.
    fn skip(&mut self) -> Result<(), Refusal> {
        loop {
            match self.peek().token {
                Token::Semicolon | Token::End => return Ok(()),
                Token::Bad => return Err(self.mistake("the end of the statement")),
                _ => drop(self.next()),
            }
        }
    }

    fn statement(&mut self) -> Result<Statement, Refusal> {
        let start = self.lexer;
        let first = self.next();
        let word = if first.token == Token::Word { text(first.text).to_ascii_lowercase() } else { String::new() };
        let statement = match word.as_str() {
            "show" => self.show()?,
            // What everybody types first.
            "help" if self.is_over() => {
                shown("help").unwrap_or_else(|| Err(Refusal::UnknownView("HELP".to_owned())))?
            }
            "select" => self.select()?,
            "set" => self.set()?,
            "explain" => self.explain_route()?,
            "begin" => self.transaction(Transaction::Begin)?,
            "start" => self.transaction(Transaction::StartTransaction)?,
            "commit" | "end" => self.transaction(Transaction::Commit)?,
            "rollback" | "abort" => {
                let _ = self.take("work") || self.take("transaction");
                let to = if self.peek().is("to") { Transaction::RollbackTo } else { Transaction::Rollback };
                self.transaction(to)?
            }
            "savepoint" => self.transaction(Transaction::Savepoint)?,
            "release" => self.transaction(Transaction::Release)?,
            "reset" => self.reset()?,
            "discard" if self.take("all") => Statement::Nothing("DISCARD ALL"),
            "discard" => {
                self.skip()?;
                Statement::Nothing("DISCARD")
            }
            "unlisten" => {
                self.skip()?;
                Statement::Nothing("UNLISTEN")
            }
            "close" if self.take("all") => Statement::Nothing("CLOSE CURSOR ALL"),
            "deallocate" => {
                self.take("prepare");
                if self.take("all") {
                    Statement::Deallocate(None)
                } else {
                    Statement::Deallocate(Some(self.name("the name of a prepared statement")?))
                }
            }
            other => match self.command(other)? {
                Some(command) => Statement::Command(command),
                None => return Err(Refusal::Syntax { near: shortened(start.rest()), expected: "" }),
            },
        };
        Ok(statement)
    }

    fn transaction(&mut self, what: Transaction) -> Result<Statement, Refusal> {
        self.skip()?;
        Ok(Statement::Transaction(what))
    }

    fn show(&mut self) -> Result<Statement, Refusal> {
        if self.is_over() {
            return Err(self.mistake("a view"));
        }
        let mut name = self.dotted("a view")?;
        // PostgreSQL's own forms of several words, and SHOW HA CHECKS.
        while !self.is_over() && self.peek().token == Token::Word {
            name.push(' ');
            name.push_str(&text(self.next().text));
        }
        shown(&name).ok_or_else(|| Refusal::UnknownView(shortened(name.as_bytes()))).and_then(|found| found)
    }

    fn explain_route(&mut self) -> Result<Statement, Refusal> {
        if !self.take("route") {
            return Err(self.mistake("ROUTE"));
        }
        // DATABASE is no word that a statement of PostgreSQL begins with.
        let database = if self.take("database") { Some(self.name("a database")?) } else { None };
        let rest = std::str::from_utf8(self.lexer.rest()).unwrap_or_default();
        let statement = rest.trim().trim_end_matches(';').trim_end();
        if statement.is_empty() {
            return Err(Refusal::Syntax { near: String::new(), expected: "a statement" });
        }
        let text = statement.to_owned();
        self.lexer = Lexer::new(b"");
        Ok(Statement::ExplainRoute { database, text })
    }
}

/// What `SHOW name` asks for, if it is known. A view that is known and not offered is an error of its own.
pub(super) fn shown(name: &str) -> Option<Result<Statement, Refusal>> {
    if let Some(view) = views::named(name) {
        return Some(Ok(Statement::Show(view)));
    }
    let lower = name.to_ascii_lowercase();
    let not_available = |what, why| Some(Err(Refusal::NotAvailable { what, why }));
    match lower.as_str() {
        "fds" => not_available(
            "SHOW FDS",
            "is not offered: it would hand out sockets, cancel keys and passwords; a new process takes over without it",
        ),
        _ => super::drivers::parameter_named(&lower).map(|name| Ok(Statement::Parameter(name.to_owned()))),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Enough of a text to find it again.
fn shortened(bytes: &[u8]) -> String {
    let all = text(bytes);
    let line = all.trim().trim_end_matches(';');
    if line.chars().count() <= 60 { line.to_owned() } else { line.chars().take(57).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests;
