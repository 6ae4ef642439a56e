//! Names with a parenthesis behind them: calls, keywords, types and lists of columns.
//!
//! Owns the decision which of these it is. A call that is taken for something else would run a function on a replica
//! that nobody looked up, so only places where the grammar allows no call count as one of the others.

use super::{Scan, starts_query};
use crate::sql::catalog::{Function, Name};
use crate::sql::lex::{Lexeme, Lexer, Token};
use crate::sql::words::{self, Class, Entry, Word};
use crate::sql::{Effects, Reason, builtin, code, control};

impl<'a> Scan<'a, '_> {
    /// A name with `(` behind it, which was just read.
    pub(super) fn call(&mut self, name: Lexeme<'a>, entry: Entry) {
        let bytes = name.unquoted();
        let mut effects = code::of_function(bytes);
        if effects == Effects::UNKNOWN_SET && (self.lone_set_config || control::is_local_set_config(self.lexer)) {
            effects = Effects::empty();
        }
        self.effects |= effects | self.catalog.left_by_call(Name { bytes, quoted: name.token == Token::Quoted });
        if self.reason.is_some() {
            return;
        }
        if matches!(entry.class, Class::Reserved | Class::NeverFunction) {
            // TREAT calls the function named like its type.
            if entry.word == Word::Treat {
                self.deny(Reason::UnknownFunction("treat".into()));
            }
            return;
        }
        // Behind AS stands an alias or a type, behind :: a type.
        let varying = entry.word == Word::Varying
            && matches!(self.before.word, Word::Char | Word::Character | Word::Nchar | Word::Bit);
        if self.before.word == Word::As || self.before.token == Token::Cast || varying {
            return;
        }
        let function = self.catalog.function(Name { bytes, quoted: name.token == Token::Quoted });
        match function {
            Function::Read => {
                if bytes.eq_ignore_ascii_case(b"current_setting") {
                    self.current_setting();
                }
            }
            _ if self.is_keyword(entry, function) => {}
            _ if self.is_column_list() => {}
            Function::Volatile => self.deny(Reason::VolatileFunction(super::lossy(bytes))),
            Function::PrimaryOnly => self.deny(Reason::NodeSpecific(super::lossy(bytes))),
            Function::Unknown if self.catalog.is_complete() => self.deny(Reason::UnknownFunction(super::lossy(bytes))),
            Function::Unknown => self.deny(Reason::NoCatalog),
        }
    }

    /// Whether a word stands before `(` as a keyword. Somebody may have a function of that name, but a call cannot stand
    /// right behind an operand.
    fn is_keyword(&self, entry: Entry, function: Function) -> bool {
        let before = self.before;
        let absent = function == Function::Unknown && self.catalog.is_complete();
        match (entry.word, before.word) {
            (Word::By, Word::Group | Word::Order | Word::Partition)
            | (Word::Sets, Word::Grouping)
            | (Word::Zone, Word::Time)
            | (Word::First | Word::Next, Word::Fetch) => return true,
            (Word::Rollup | Word::Cube, Word::By) if self.group_by => return true,
            // Without what stands before NOT and the comma these could be calls, if there were such a function.
            (Word::Like | Word::Ilike | Word::Materialized, Word::Not) if absent => return true,
            (Word::Rollup | Word::Cube, _) if absent => return true,
            _ => {}
        }
        match entry.class {
            Class::Constructor => absent,
            Class::Soft => match before.token {
                Token::Close => before.word != Word::On,
                Token::Number | Token::Param | Token::Quoted => true,
                Token::String | Token::EscapeString | Token::OtherString | Token::DollarString => true,
                Token::Word if entry.word == Word::Join => {
                    matches!(before.word, Word::Name | Word::Joins | Word::Natural)
                }
                Token::Word => before.word == Word::Name,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the parenthesis that was just opened holds the columns of an alias or of a `WITH` query.
    fn is_column_list(&self) -> bool {
        let before = self.before;
        let alias = match before.token {
            Token::Close => before.word != Word::On,
            Token::Quoted => true,
            Token::Word => before.word == Word::Name || before.word == Word::Ordinality,
            _ => false,
        };
        let query = self.with && (before.token == Token::Comma || matches!(before.word, Word::With | Word::Recursive));
        if !alias && !query {
            return false;
        }
        let mut ahead = self.lexer;
        loop {
            let lexeme = ahead.token();
            match lexeme.token {
                Token::Word if words::find(lexeme.text).class != Class::Reserved => {}
                Token::Quoted | Token::Comma => {}
                Token::Close => break,
                _ => return false,
            }
        }
        alias || is_with_query(ahead)
    }

    /// Reading a setting is as good as `SHOW` if the name is written out.
    fn current_setting(&mut self) {
        let mut ahead = self.lexer;
        let name = control::literal(ahead.token());
        let whole = matches!(ahead.token().token, Token::Comma | Token::Close | Token::Cast);
        match name {
            Some(name) if whole && builtin::is_shared_setting(&name.to_ascii_lowercase()) => {}
            _ => self.deny(Reason::NodeSpecific("current_setting".into())),
        }
    }
}

/// Whether what follows the column list of a `WITH` query is `AS [NOT] [MATERIALIZED] (query`.
fn is_with_query(mut ahead: Lexer<'_>) -> bool {
    if !ahead.token().is("as") {
        return false;
    }
    let mut next = ahead.token();
    if next.is("not") {
        next = ahead.token();
    }
    if next.is("materialized") {
        next = ahead.token();
    }
    if next.token != Token::Open {
        return false;
    }
    let first = ahead.token();
    // A column of a row type may be called "values", a query starts with a row.
    first.token == Token::Open || starts_query(first) && (!first.is("values") || ahead.token().token == Token::Open)
}
