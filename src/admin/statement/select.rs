//! The few SELECTs that drivers and monitors send to any server, and views written as tables.

use super::{Parser, Statement, shown, text};
use crate::admin::errors::Refusal;
use crate::sql::lex::Token;

/// One column of a SELECT without FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it answers.
    pub expression: Expression,
    /// The column's name.
    pub name: String,
}

/// See [`Item`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "PostgreSQL's functions of the same names")]
pub enum Expression {
    Number(i64),
    Text(String),
    Bool(bool),
    Null,
    Version,
    CurrentDatabase,
    CurrentUser,
    CurrentSchema,
    Now,
    BackendPid,
    IsInRecovery,
    /// `current_setting('name')`
    Setting(String),
}

/// Functions without arguments (and those of SQL that are written without parentheses), by name.
const FUNCTIONS: &[(&str, Expression)] = &[
    ("version", Expression::Version),
    ("current_database", Expression::CurrentDatabase),
    ("current_catalog", Expression::CurrentDatabase),
    ("current_user", Expression::CurrentUser),
    ("session_user", Expression::CurrentUser),
    ("user", Expression::CurrentUser),
    ("current_role", Expression::CurrentUser),
    ("current_schema", Expression::CurrentSchema),
    ("now", Expression::Now),
    ("current_timestamp", Expression::Now),
    ("pg_backend_pid", Expression::BackendPid),
    ("pg_is_in_recovery", Expression::IsInRecovery),
    // Of a pool of asyncpg, which resets what it gets back: there are no locks here.
    ("pg_advisory_unlock_all", Expression::Null),
];

const VIEW: &str = "a view or a constant: the console only knows SELECT * FROM view";

impl Parser<'_> {
    pub(super) fn select(&mut self) -> Result<Statement, Refusal> {
        if self.peek().text == b"*" {
            self.next();
            if !self.take("from") {
                return Err(self.mistake("FROM"));
            }
            return self.view();
        }
        // PgBouncer takes SELECT for SHOW.
        let before = self.lexer;
        if self.peek().token == Token::Word
            && let Ok(Statement::Show(view)) = self.view()
            && self.is_over()
        {
            return Ok(Statement::Show(view));
        }
        self.lexer = before;
        let mut items = vec![self.item()?];
        while self.peek().token == Token::Comma {
            self.next();
            items.push(self.item()?);
        }
        Ok(Statement::Select(items))
    }

    fn view(&mut self) -> Result<Statement, Refusal> {
        let mut name = self.name(VIEW)?;
        while self.peek().token == Token::Dot {
            // Of a schema: there is only one of each name.
            self.next();
            name = self.name(VIEW)?;
        }
        match shown(&name) {
            Some(found) => found,
            None => Err(Refusal::UnknownView(name)),
        }
    }

    fn item(&mut self) -> Result<Item, Refusal> {
        let (expression, name) = self.expression()?;
        while self.peek().token == Token::Cast {
            self.next();
            self.name("a type")?;
        }
        let is_named = self.take("as") || matches!(self.peek().token, Token::Word | Token::Quoted);
        let name = if is_named { self.name("a column's name")? } else { name };
        Ok(Item { expression, name })
    }

    fn expression(&mut self) -> Result<(Expression, String), Refusal> {
        let lexeme = self.peek();
        let unnamed = "?column?".to_owned();
        let constant = match lexeme.token {
            Token::Number => text(lexeme.text).parse().ok().map(Expression::Number),
            Token::String => Some(Expression::Text(text(lexeme.unquoted()).replace("''", "'"))),
            Token::Word if lexeme.is("true") => Some(Expression::Bool(true)),
            Token::Word if lexeme.is("false") => Some(Expression::Bool(false)),
            Token::Word if lexeme.is("null") => Some(Expression::Null),
            Token::Word => return self.function(),
            Token::Param => return Err(Refusal::Parameters),
            _ => None,
        };
        let constant = constant.ok_or_else(|| self.mistake(VIEW))?;
        self.next();
        Ok((constant, unnamed))
    }

    fn function(&mut self) -> Result<(Expression, String), Refusal> {
        let before = self.lexer;
        let mut name = self.name(VIEW)?.to_ascii_lowercase();
        if name == "pg_catalog" && self.peek().token == Token::Dot {
            self.next();
            name = self.name(VIEW)?.to_ascii_lowercase();
        }
        let mut argument = None;
        if self.peek().token == Token::Open {
            self.next();
            if self.peek().token == Token::String {
                argument = Some(self.name("a setting")?);
            }
            if self.peek().token != Token::Close {
                return Err(self.mistake(")"));
            }
            self.next();
        }
        let found = match argument {
            Some(setting) if name == "current_setting" => Some(Expression::Setting(setting.to_ascii_lowercase())),
            Some(_) => None,
            None => FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, e)| e.clone()),
        };
        match found {
            Some(expression) => Ok((expression, name)),
            None => {
                self.lexer = before;
                Err(self.mistake(VIEW))
            }
        }
    }
}
