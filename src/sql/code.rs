//! What statements and pieces of code leave behind on the server connection.
//!
//! Owns the table of functions with session effects, the effects of each statement's head, and a look into the bodies
//! of `DO` blocks. Errs on the side of naming an effect too many.

use std::collections::BTreeSet;

use super::control;
use super::lex::{Lexer, Token};
use super::words::{self, Word};
use super::{Effects, Kind};

/// How deep strings inside of strings are followed.
const DEPTH: u8 = 3;

/// The session effects of calling the function `name`.
pub(super) fn of_function(name: &[u8]) -> Effects {
    // Almost every call ends here.
    if !matches!(name, [b's' | b'S', b'e' | b'E', b't' | b'T', ..] | [b'p' | b'P', b'g' | b'G', b'_', ..]) {
        return Effects::empty();
    }
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("set_config") {
        Effects::UNKNOWN_SET
    } else if is("setseed") {
        Effects::SEED
    } else if is("pg_advisory_lock")
        || is("pg_advisory_lock_shared")
        || is("pg_try_advisory_lock")
        || is("pg_try_advisory_lock_shared")
    {
        Effects::ADVISORY_LOCK
    } else if is("pg_advisory_unlock") || is("pg_advisory_unlock_shared") || is("pg_advisory_unlock_all") {
        Effects::MAY_END
    } else {
        Effects::empty()
    }
}

/// The effects of the statement that starts with `first`, as far as its head tells; `after` stands behind that word.
pub(super) fn of_statement(first: Word, after: Lexer<'_>) -> Effects {
    match first {
        Word::Listen => Effects::LISTEN,
        Word::Unlisten | Word::Close => Effects::MAY_END,
        Word::Discard => Effects::MAY_END,
        Word::Declare if is_with_hold(after) => Effects::WITH_HOLD,
        Word::Prepare if !after.peek().is("transaction") => Effects::SQL_PREPARE,
        Word::Do => Effects::OPAQUE | of_block(after, DEPTH),
        Word::Load | Word::Call | Word::Execute => Effects::OPAQUE,
        Word::Create => of_create(after),
        Word::Alter | Word::Drop | Word::Import => Effects::DDL,
        _ => Effects::empty(),
    }
}

/// Whether the statement that starts with `first` only undoes what the session has: settings, cursors, locks, plans.
pub(super) fn only_tidies(first: Word, mut after: Lexer<'_>) -> bool {
    match first {
        Word::Reset | Word::Close | Word::Unlisten | Word::Discard | Word::Deallocate => true,
        Word::Select => {
            let mut name = after.token();
            if name.is("pg_catalog") && after.token().token == Token::Dot {
                name = after.token();
            }
            name.is("pg_advisory_unlock_all")
                && after.token().token == Token::Open
                && after.token().token == Token::Close
                && after.token().is_end()
        }
        _ => false,
    }
}

/// What a statement of this kind does to the session when others stand beside it in one message.
pub(super) fn among_several(kind: &Kind) -> Effects {
    match kind {
        Kind::Begin { .. } | Kind::Commit | Kind::Rollback => Effects::TRANSACTION,
        Kind::Reset(None) => Effects::RESETS_ALL,
        Kind::Set(_) | Kind::Reset(Some(_)) => Effects::UNKNOWN_SET,
        Kind::DiscardAll => Effects::DROPS_PREPARED | Effects::MAY_END,
        Kind::Deallocate(_) => Effects::DROPS_PREPARED,
        _ => Effects::empty(),
    }
}

fn of_create(mut words: Lexer<'_>) -> Effects {
    for _ in 0..4 {
        let word = words.token();
        if word.is("temp") || word.is("temporary") {
            return Effects::TEMP;
        }
        if !["or", "replace", "global", "local"].iter().any(|skipped| word.is(skipped)) {
            break;
        }
    }
    Effects::DDL
}

/// Whether a `DECLARE` says `WITH HOLD` before its query.
fn is_with_hold(mut words: Lexer<'_>) -> bool {
    words.token();
    loop {
        let word = words.token();
        if word.is_end() || word.is("for") {
            return false;
        }
        if word.is("with") {
            return words.token().is("hold");
        }
    }
}

/// The effects of the code in every string of a `DO` statement.
fn of_block(mut words: Lexer<'_>, depth: u8) -> Effects {
    let mut effects = Effects::empty();
    loop {
        let lexeme = words.token();
        match lexeme.token {
            Token::Semicolon | Token::End | Token::Bad => return effects,
            token => effects |= of_string(token, lexeme.text, depth),
        }
    }
}

/// What stands between the quotes.
fn text_of_string(token: Token, text: &[u8]) -> Option<&[u8]> {
    match token {
        Token::DollarString => Some(control::dollar_body(text)),
        Token::String | Token::BackslashString | Token::EscapeString => {
            let open = text.iter().position(|&byte| byte == b'\'')?;
            text.get(open + 1..text.len().saturating_sub(1))
        }
        _ => None,
    }
}

fn of_string(token: Token, text: &[u8], depth: u8) -> Effects {
    let Some(body) = text_of_string(token, text) else { return Effects::empty() };
    match depth.checked_sub(1) {
        Some(depth) => of_code(body, depth),
        None => Effects::UNKNOWN_SET | Effects::OPAQUE,
    }
}

/// What calling a function with this body may leave behind. Dynamic SQL counts as far as its strings tell.
pub(super) fn of_body(body: &[u8]) -> Effects {
    const KEPT: Effects = Effects::UNKNOWN_SET
        .union(Effects::TEMP)
        .union(Effects::LISTEN)
        .union(Effects::ADVISORY_LOCK)
        .union(Effects::WITH_HOLD)
        .union(Effects::SQL_PREPARE)
        .union(Effects::SEED)
        .union(Effects::MAY_END);
    of_code(body, DEPTH) & KEPT
}

/// The words of a body, folded as the server does: what it calls and writes to is among them.
pub(super) fn words(body: &[u8]) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    add_words(body, &mut words, DEPTH);
    words
}

fn add_words(body: &[u8], words: &mut BTreeSet<String>, depth: u8) {
    let mut lexer = Lexer::new(body);
    loop {
        let lexeme = lexer.token();
        match lexeme.token {
            Token::End | Token::Bad => return,
            Token::Word => {
                words.insert(String::from_utf8_lossy(lexeme.text).to_lowercase());
            }
            Token::Quoted => {
                words.insert(String::from_utf8_lossy(lexeme.unquoted()).into_owned());
            }
            token => {
                // A statement that may be run: `EXECUTE 'SELECT f()'`.
                if let Some(inner) = text_of_string(token, lexeme.text)
                    .filter(|inner| depth > 0 && inner.iter().any(u8::is_ascii_whitespace))
                {
                    add_words(inner, words, depth - 1);
                }
            }
        }
    }
}

/// The effects of a procedural body, and of the strings in it, which it may execute.
fn of_code(code: &[u8], depth: u8) -> Effects {
    let mut words = Lexer::new(code);
    let mut effects = Effects::empty();
    let mut starts = true;
    loop {
        let lexeme = words.token();
        match lexeme.token {
            Token::End | Token::Bad => return effects,
            Token::Semicolon => {
                starts = true;
                continue;
            }
            Token::Word => {
                if starts {
                    effects |= of_code_statement(words::find(lexeme.text).word, words);
                }
                if words.peek().token == Token::Open && !(lexeme.is("set_config") && is_local_call(words)) {
                    effects |= of_function(lexeme.text);
                }
            }
            token => effects |= of_string(token, lexeme.text, depth),
        }
        starts = ["begin", "then", "else", "loop"].iter().any(|word| lexeme.is(word));
    }
}

fn is_local_call(mut words: Lexer<'_>) -> bool {
    words.token();
    control::is_local_set_config(words)
}

fn of_code_statement(first: Word, after: Lexer<'_>) -> Effects {
    match first {
        Word::Set | Word::Reset => match control::kind(first, after) {
            Kind::SetLocal(_) | Kind::SetTransaction => Effects::empty(),
            _ => Effects::UNKNOWN_SET,
        },
        Word::Close => Effects::empty(),
        first => of_statement(first, after),
    }
}
