//! Statements that hold a query: `EXPLAIN` and `COPY`.

use super::{Scan, starts_query};
use crate::sql::lex::{Lexeme, Token};
use crate::sql::words::{Entry, NAME, Word};
use crate::sql::{Reason, code};

impl<'a> Scan<'a, '_> {
    pub(super) fn explain(&mut self) {
        let mut analyzes = false;
        let mut first = self.lexer.token();
        if first.token == Token::Open && !starts_query(self.lexer.peek()) && self.lexer.peek().token != Token::Open {
            loop {
                let option = self.lexer.token();
                match option.token {
                    Token::Close => break,
                    Token::Comma | Token::Number => {}
                    Token::Word if option.is("analyze") || option.is("analyse") => analyzes = true,
                    Token::Word if is_explain_word(option) => {}
                    _ => {
                        self.deny(Reason::Unrecognised);
                        if option.is_end() {
                            return self.tokens(option, NAME, false);
                        }
                    }
                }
            }
            first = self.lexer.token();
        } else {
            if first.is("analyze") || first.is("analyse") {
                analyzes = true;
                first = self.lexer.token();
            }
            if first.is("verbose") {
                first = self.lexer.token();
            }
        }
        if analyzes {
            self.deny(Reason::ExplainAnalyze);
        }
        let (first, entry) = self.past_parentheses(first);
        if !starts_query(first) {
            self.deny_keyword(first);
            if analyzes {
                self.effects |= code::of_statement(entry.word, self.lexer);
            }
            self.creates = entry.word == Word::Create;
        }
        self.body(first, entry);
    }

    /// `COPY (query) TO STDOUT` and `COPY table TO STDOUT` read; everything else does not.
    pub(super) fn copy(&mut self, copy: Lexeme<'a>, entry: Entry) {
        let first = self.lexer.token();
        let mut copied = None;
        if first.token == Token::Open {
            let (first, entry) = self.past_parentheses(first);
            if !starts_query(first) {
                self.deny(Reason::Keyword("COPY"));
                return self.body(first, entry);
            }
            self.tokens(first, entry, true);
        } else {
            if !matches!(first.token, Token::Word | Token::Quoted) || first.is("binary") {
                self.deny(Reason::Keyword("COPY"));
                return self.body(copy, entry);
            }
            self.name(first);
            let mut table = first;
            while self.lexer.peek().token == Token::Dot {
                self.lexer.token();
                let part = self.lexer.token();
                if !matches!(part.token, Token::Word | Token::Quoted) {
                    self.deny(Reason::Unrecognised);
                    return self.body(part, NAME);
                }
                self.name(part);
                table = part;
            }
            // Which way it goes shows only behind it.
            copied = Some(table);
            if self.lexer.peek().token == Token::Open {
                let open = self.lexer.token();
                self.tokens(open, NAME, true);
            }
        }
        let mut ahead = self.lexer;
        if !(ahead.token().is("to") && ahead.token().is("stdout")) {
            self.deny(Reason::Keyword("COPY"));
            if let Some(table) = copied {
                self.name(table);
            }
            return self.body(copy, entry);
        }
        self.copy_options();
    }

    /// Passes over the options, which call nothing.
    fn copy_options(&mut self) {
        loop {
            let lexeme = self.lexer.token();
            match lexeme.token {
                Token::BackslashString => self.deny(Reason::AmbiguousString),
                Token::Semicolon | Token::End => return,
                Token::Bad => {
                    self.bad = true;
                    return;
                }
                _ => {}
            }
        }
    }
}

fn is_explain_word(lexeme: Lexeme<'_>) -> bool {
    const WORDS: [&str; 20] = [
        "verbose",
        "costs",
        "settings",
        "generic_plan",
        "buffers",
        "wal",
        "timing",
        "summary",
        "memory",
        "serialize",
        "format",
        "true",
        "false",
        "on",
        "off",
        "text",
        "xml",
        "json",
        "yaml",
        "none",
    ];
    WORDS.iter().any(|word| lexeme.is(word))
}
