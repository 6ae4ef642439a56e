//! Reads the statements that a session must understand itself: transactions, settings, prepared statements.
//!
//! Owns the step from the words after the first keyword to a [`Kind`]. A form that PostgreSQL's grammar would not
//! accept comes out as [`Kind::Other`]; the server will refuse it.

use super::lex::{Lexeme, Lexer, Token};
use super::words::Word;
use super::{Kind, Setting};

/// The kind of the statement that starts with `first`; `after` stands behind that word.
pub(super) fn kind(first: Word, after: Lexer<'_>) -> Kind {
    let mut words = after;
    match first {
        Word::Begin => begin(after),
        Word::Start if words.token().is("transaction") => begin(words),
        Word::Commit | Word::End if !after.peek().is("prepared") => Kind::Commit,
        Word::Prepare if after.peek().is("transaction") => Kind::Commit,
        Word::Rollback | Word::Abort => rollback(after),
        Word::Savepoint | Word::Release => Kind::Savepoint,
        Word::Set => set(after),
        Word::Reset => reset(after).unwrap_or(Kind::Other),
        Word::Show => setting_name(&mut words, true).filter(|_| words.token().is_end()).map_or(Kind::Other, Kind::Show),
        Word::Discard if words.token().is("all") && words.token().is_end() => Kind::DiscardAll,
        Word::Deallocate => deallocate(after).unwrap_or(Kind::Other),
        Word::Listen => channel(words).map_or(Kind::Other, Kind::Listen),
        Word::Unlisten => unlisten(words).map_or(Kind::Other, Kind::Unlisten),
        _ => Kind::Other,
    }
}

/// Longest name of a channel, bytes (`NAMEDATALEN` - 1): PostgreSQL cuts longer ones.
const LONGEST_CHANNEL: usize = 63;

fn channel(mut words: Lexer<'_>) -> Option<String> {
    let mut name = identifier(words.token())?;
    let cut = (0..=LONGEST_CHANNEL.min(name.len())).rev().find(|at| name.is_char_boundary(*at))?;
    name.truncate(cut);
    words.token().is_end().then_some(name)
}

fn unlisten(mut words: Lexer<'_>) -> Option<Option<String>> {
    match words.peek() {
        all if all.token == Token::Operator && all.text == b"*" => {
            words.token();
            words.token().is_end().then_some(None)
        }
        _ => channel(words).map(Some),
    }
}

/// What the statements of one message leave off listening to (`None`: everything), by `UNLISTEN` and `DISCARD ALL`.
pub fn unlistened(text: &[u8]) -> Vec<Option<String>> {
    let mut words = Lexer::new(text);
    let mut found = Vec::new();
    loop {
        let first = words.token();
        if first.is("unlisten") {
            found.extend(unlisten(words));
        } else if first.is("discard") && words.peek().is("all") {
            found.push(None);
        }
        let mut last = first;
        while !matches!(last.token, Token::Semicolon | Token::End | Token::Bad) {
            last = words.token();
        }
        if last.token != Token::Semicolon {
            return found;
        }
    }
}

/// True for a COMMIT, known to be one statement, after which no transaction is open and none is prepared.
pub fn is_plain_commit(text: &[u8]) -> bool {
    let mut words = Lexer::new(text);
    let first = words.token();
    if !first.is("commit") && !first.is("end") {
        return false;
    }
    let mut next = words.token();
    if next.is("work") || next.is("transaction") {
        next = words.token();
    }
    next.is_end() || next.is("and") && words.token().is("no") && words.token().is("chain")
}

fn begin(mut words: Lexer<'_>) -> Kind {
    let mut read_only = None;
    let mut serializable = false;
    loop {
        let word = words.token();
        if word.is_end() {
            return Kind::Begin { read_only, serializable };
        }
        if word.is("read") {
            read_only = Some(words.peek().is("only"));
        }
        serializable |= word.is("level") && words.peek().is("serializable");
    }
}

fn rollback(mut words: Lexer<'_>) -> Kind {
    loop {
        let word = words.token();
        if word.is("to") {
            return Kind::Savepoint;
        }
        if word.is("prepared") {
            return Kind::Other;
        }
        if !word.is("work") && !word.is("transaction") {
            return Kind::Rollback;
        }
    }
}

fn deallocate(mut words: Lexer<'_>) -> Option<Kind> {
    let mut name = words.token();
    if name.is("prepare") && !words.peek().is_end() {
        name = words.token();
    }
    if !words.token().is_end() {
        return None;
    }
    if name.is("all") {
        return Some(Kind::Deallocate(None));
    }
    identifier(name).map(|name| Kind::Deallocate(Some(name)))
}

fn reset(mut words: Lexer<'_>) -> Option<Kind> {
    let name = setting_name(&mut words, true)?;
    if !words.token().is_end() {
        return None;
    }
    Some(Kind::Reset(if name == "all" { None } else { Some(name) }))
}

fn set(after: Lexer<'_>) -> Kind {
    let mut words = after;
    let mut local = false;
    let first = words.token();
    // Each of these words may also name a setting, or the class of one.
    if names_variable(words.peek()) {
        words = after;
    } else if first.is("constraints") {
        return Kind::SetTransaction;
    } else if first.is("local") {
        local = true;
    } else if first.is("session") {
        let mut ahead = words;
        let second = ahead.token();
        if second.is("characteristics") && !names_variable(ahead.peek()) {
            return Kind::Set(Setting { name: "session characteristics".into(), value: None });
        }
        // SESSION AUTHORIZATION is a name of two words; any other SESSION only says how long.
        if second.is("authorization") && !names_variable(ahead.peek()) {
            words = after;
        }
    } else {
        words = after;
    }
    let mut ahead = words;
    if ahead.token().is("transaction") && !names_variable(ahead.peek()) {
        return Kind::SetTransaction;
    }
    match assignment(&mut words) {
        Some((setting, _)) if local => Kind::SetLocal(setting),
        Some((setting, true)) => Kind::Reset(Some(setting.name)),
        Some((setting, false)) => Kind::Set(setting),
        None => Kind::Other,
    }
}

/// `name = value`, `name TO value` and the forms with words of their own; true for `DEFAULT`.
fn assignment(words: &mut Lexer<'_>) -> Option<(Setting, bool)> {
    let mut ahead = *words;
    let first = ahead.token();
    let bare = |name: &str| Some(name.to_owned());
    let name = if first.is("names") && !names_variable(ahead.peek()) {
        bare("client_encoding")
    } else if first.is("role") && !names_variable(ahead.peek()) {
        bare("role")
    } else if first.is("schema") && !names_variable(ahead.peek()) {
        bare("search_path")
    } else if first.is("xml") && ahead.token().is("option") {
        bare("xmloption")
    } else {
        None
    };
    let name = match name {
        Some(name) => {
            *words = ahead;
            name
        }
        None => {
            let name = setting_name(words, false)?;
            let takes_sign = !matches!(name.as_str(), "timezone" | "session_authorization") || is_assign(words.peek());
            if takes_sign && !is_assign(words.token()) {
                return None;
            }
            name
        }
    };
    let mut ahead = *words;
    let word = ahead.token();
    // SET NAMES alone, and TIME ZONE LOCAL, mean the default too.
    let resets =
        word.is("default") || name == "client_encoding" && word.is_end() || name == "timezone" && word.is("local");
    if resets && (word.is_end() || ahead.peek().is_end()) {
        return Some((Setting { name, value: None }, true));
    }
    if word.is_end() {
        return None;
    }
    let value = single_value(words);
    Some((Setting { name, value }, false))
}

/// Whether the word before this one is a setting's name rather than one with a meaning of its own.
fn names_variable(next: Lexeme<'_>) -> bool {
    is_assign(next) || next.token == Token::Dot
}

fn is_assign(lexeme: Lexeme<'_>) -> bool {
    lexeme.token == Token::Operator && lexeme.text == b"=" || lexeme.is("to")
}

/// A setting's canonical name. `TIME ZONE`, `SESSION AUTHORIZATION` and, where `levels` says so, `TRANSACTION ISOLATION
/// LEVEL` are names of several words.
fn setting_name(words: &mut Lexer<'_>, levels: bool) -> Option<String> {
    let first = words.token();
    if first.is("time") && words.peek().is("zone") {
        words.token();
        return Some("timezone".into());
    }
    if first.is("session") && words.peek().is("authorization") {
        words.token();
        return Some("session_authorization".into());
    }
    if levels && first.is("transaction") && words.peek().is("isolation") {
        words.token();
        return words.token().is("level").then(|| "transaction_isolation".into());
    }
    let mut name = identifier(first)?.to_ascii_lowercase();
    while words.peek().token == Token::Dot {
        words.token();
        name.push('.');
        name.push_str(&identifier(words.token())?.to_ascii_lowercase());
    }
    Some(name)
}

/// The one value up to the end of the statement, or `None` if it is a list or something computed.
fn single_value(words: &mut Lexer<'_>) -> Option<String> {
    let first = words.token();
    let value = if first.token == Token::Operator && matches!(first.text, b"-" | b"+") {
        let number = words.token();
        if number.token != Token::Number {
            return None;
        }
        let sign = if first.text == b"-" { "-" } else { "" };
        format!("{sign}{}", std::str::from_utf8(number.text).ok()?)
    } else {
        value(first)?
    };
    words.token().is_end().then_some(value)
}

/// What one token says as a setting's value.
fn value(lexeme: Lexeme<'_>) -> Option<String> {
    match lexeme.token {
        Token::Number => String::from_utf8(lexeme.text.to_vec()).ok(),
        Token::Word | Token::Quoted => identifier(lexeme),
        _ => literal(lexeme),
    }
}

/// An identifier, folded unless quoted.
fn identifier(lexeme: Lexeme<'_>) -> Option<String> {
    match lexeme.token {
        Token::Word => String::from_utf8(lexeme.text.to_ascii_lowercase()).ok(),
        Token::Quoted => undouble(lexeme.unquoted(), b'"'),
        _ => None,
    }
}

/// The text of a string literal whose meaning depends on no escape and no setting.
pub(super) fn literal(lexeme: Lexeme<'_>) -> Option<String> {
    match (lexeme.token, lexeme.text) {
        (Token::String, [b'n' | b'N', b'\'', body @ .., b'\'']) => undouble(body, b'\''),
        (Token::String, _) => undouble(lexeme.unquoted(), b'\''),
        (Token::EscapeString, [_, b'\'', body @ .., b'\'']) if !body.contains(&b'\\') => undouble(body, b'\''),
        (Token::DollarString, text) => String::from_utf8(dollar_body(text).to_vec()).ok(),
        _ => None,
    }
}

/// What stands between the tags of a dollar-quoted string.
pub(super) fn dollar_body(text: &[u8]) -> &[u8] {
    let tag = text.iter().skip(1).position(|&b| b == b'$').map_or(0, |at| at + 2);
    text.get(tag..text.len().saturating_sub(tag)).unwrap_or_default()
}

/// Undoes the doubling of `quote`. `None` if a single one is left: then the literal goes on over several lines.
fn undouble(body: &[u8], quote: u8) -> Option<String> {
    let mut text = Vec::with_capacity(body.len());
    let mut bytes = body.iter();
    while let Some(&byte) = bytes.next() {
        if byte == quote && bytes.next() != Some(&quote) {
            return None;
        }
        text.push(byte);
    }
    String::from_utf8(text).ok()
}

/// `[pg_catalog.]set_config('name', 'value', true or false) [[AS] alias]` and nothing else, behind `SELECT`: what
/// Django and others send instead of `SET`.
pub(super) fn lone_set_config(mut words: Lexer<'_>) -> Option<Kind> {
    let mut name = words.token();
    if name.is("pg_catalog") && words.token().token == Token::Dot {
        name = words.token();
    }
    if !name.is("set_config") || words.token().token != Token::Open {
        return None;
    }
    let setting = literal(words.token())?;
    let comma = words.token();
    let value = literal(words.token())?;
    if comma.token != Token::Comma || words.token().token != Token::Comma {
        return None;
    }
    let local = boolean(words.token())?;
    if words.token().token != Token::Close {
        return None;
    }
    let mut tail = words.token();
    if tail.is("as") {
        tail = words.token();
        identifier(tail)?;
    }
    if matches!(tail.token, Token::Word | Token::Quoted) {
        tail = words.token();
    }
    if !tail.is_end() {
        return None;
    }
    let setting = Setting { name: setting.to_ascii_lowercase(), value: Some(value) };
    Some(if local { Kind::SetLocal(setting) } else { Kind::Set(setting) })
}

/// Whether the call of `set_config` whose arguments start at `words` is certain to last for the transaction only.
pub(super) fn is_local_set_config(mut words: Lexer<'_>) -> bool {
    let mut depth = 0u32;
    let mut commas = 0;
    loop {
        let lexeme = words.token();
        match lexeme.token {
            Token::Open => depth += 1,
            Token::Close if depth == 0 => return false,
            Token::Close => depth -= 1,
            Token::Comma if depth == 0 => {
                commas += 1;
                if commas == 2 {
                    return boolean(words.token()) == Some(true) && words.token().token == Token::Close;
                }
            }
            _ if lexeme.is_end() => return false,
            _ => {}
        }
    }
}

fn boolean(lexeme: Lexeme<'_>) -> Option<bool> {
    let word = match lexeme.token {
        Token::Word => lexeme.text,
        Token::String => lexeme.unquoted(),
        _ => return None,
    };
    if word.eq_ignore_ascii_case(b"true") || lexeme.token == Token::String && word.eq_ignore_ascii_case(b"t") {
        Some(true)
    } else if word.eq_ignore_ascii_case(b"false") || lexeme.token == Token::String && word.eq_ignore_ascii_case(b"f") {
        Some(false)
    } else {
        None
    }
}
