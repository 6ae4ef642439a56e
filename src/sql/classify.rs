//! Decides whether a message's SQL text is a read, and what it does to the session.
//!
//! Owns the verdict. One pass over the tokens, no tree: a statement counts as a read when it starts like one and
//! nothing in it could write, lock, call a function that may write, or read what a replica does not have. The tests
//! hold this against PostgreSQL's own grammar (`tests/oracle`). Called by `pg` for each Query and Parse message.
//!
//! Time per statement in nanoseconds, release build, catalog of 3000 names, 2 cores under load, best of nine
//! (`cargo bench --bench sql_timing`), and from [`super::VerdictCache`]:
//!
//! | statement | bytes | classified | cached |
//! |---|---|---|---|
//! | `SELECT 1` | 8 | 48 | |
//! | pgbench select | 55 | 143 | |
//! | Rails, one row by key | 62 | 165 | |
//! | update by key | 73 | 162 | 12 |
//! | insert | 104 | 229 | 14 |
//! | query with CTE, window and aggregates | 439 | 1580 | 42 |
//! | Django, join of two tables | 548 | 1090 | 49 |

use super::catalog::{Catalog, Name, Relation};
use super::lex::{Lexeme, Lexer, Token};
use super::words::{self, Class, Entry, NAME, Word};
use super::{Access, Effects, Kind, Reason, Verdict, builtin, code, control, hint};

mod calls;
mod forms;

/// Texts beyond this are not examined: about 10 ms of work.
const LONGEST: usize = 8 * 1024 * 1024;

/// Says what `text` is. `text` is the body of a Query message or the statement of a Parse message, in UTF-8 or a
/// single-byte encoding; sessions in other client encodings must not send reads to replicas on its word.
///
/// Without a `catalog` only PostgreSQL's most common functions are known, and any other makes a write.
pub fn classify(text: &[u8], catalog: Option<&Catalog>) -> Verdict {
    let hint = hint::leading(text);
    if text.len() > LONGEST {
        return Verdict {
            access: Access::Write,
            reason: Reason::TooLong,
            kind: Kind::Multiple,
            hint,
            // Nobody has read it, so it may have done anything.
            effects: Effects::OPAQUE | Effects::UNKNOWN_SET | Effects::TRANSACTION,
        };
    }
    let mut scan = Scan::new(text, catalog.unwrap_or_else(|| Catalog::built_in()), false);
    let kind = scan.message();
    let effects = scan.effects;
    match scan.reason {
        None => Verdict { access: Access::Read, reason: Reason::Read, kind, hint, effects },
        Some(reason) => Verdict { access: Access::Write, reason, kind, hint, effects },
    }
}

/// Whether a piece of SQL from the server's catalogs (a view, a policy, a function's body) only reads. It may hold
/// several statements, and its literals mean what they say.
pub(super) fn is_definition_read(text: &[u8], catalog: &Catalog) -> bool {
    let mut scan = Scan::new(text, catalog, true);
    scan.message();
    scan.reason.is_none()
}

/// A token that was seen, as far as later ones care.
#[derive(Clone, Copy)]
struct Seen {
    token: Token,
    word: Word,
}

impl Seen {
    const NOTHING: Self = Self { token: Token::Semicolon, word: Word::Keyword };

    fn is_name(self) -> bool {
        matches!(self.token, Token::Word | Token::Quoted)
    }
}

struct Scan<'a, 'c> {
    lexer: Lexer<'a>,
    catalog: &'c Catalog,
    /// A text of the server's own, see [`is_definition_read`].
    definition: bool,
    /// Why the message is no read; `None` as long as nothing speaks against it.
    reason: Option<Reason>,
    effects: Effects,
    depth: i32,
    /// What stood before the first part of the name that was read last.
    before: Seen,
    /// The last `BY` belongs to a `GROUP`.
    group_by: bool,
    /// The last `ON` belongs to a `DISTINCT`.
    distinct_on: bool,
    /// A bit for each depth at which a parenthesis is open that a call may directly follow: of `DISTINCT ON` or
    /// `OPERATOR`.
    loose: u64,
    /// `WITH` was seen.
    with: bool,
    /// The statement creates something, so that names in `pg_temp` matter.
    creates: bool,
    /// How many `BEGIN ATOMIC` and `CASE` of a function's body are open: semicolons in it end nothing.
    atomic: u32,
    /// The text could not be read to its end.
    bad: bool,
    /// A literal was seen that ends elsewhere if `standard_conforming_strings` is off.
    backslash: bool,
    /// The statement is a call of `set_config` that its [`Kind`] describes.
    lone_set_config: bool,
    /// All statements so far only tidy up the session.
    tidies: bool,
}

impl<'a, 'c> Scan<'a, 'c> {
    fn new(text: &'a [u8], catalog: &'c Catalog, definition: bool) -> Self {
        Self {
            lexer: Lexer::new(text),
            catalog,
            definition,
            reason: None,
            effects: Effects::empty(),
            depth: 0,
            before: Seen::NOTHING,
            group_by: false,
            distinct_on: false,
            loose: 0,
            with: false,
            creates: false,
            atomic: 0,
            bad: false,
            backslash: false,
            lone_set_config: false,
            tidies: true,
        }
    }

    /// Reads all statements.
    fn message(&mut self) -> Kind {
        let mut first: Option<Kind> = None;
        let mut several = false;
        loop {
            let start = self.lexer.token();
            if start.token == Token::Semicolon {
                continue;
            }
            if start.token == Token::End {
                break;
            }
            let kind = self.statement(start);
            if several {
                self.effects |= code::among_several(&kind);
            } else if let Some(first) = &first {
                several = true;
                self.effects |= code::among_several(first) | code::among_several(&kind);
            } else {
                first = Some(kind);
            }
            if self.bad {
                // The server will refuse the whole message, unless it reads backslashes differently.
                self.reason = Some(Reason::Unterminated);
                if self.backslash {
                    self.effects |= Effects::OPAQUE | Effects::UNKNOWN_SET;
                }
                return if several { Kind::Multiple } else { Kind::Other };
            }
        }
        if first.is_some() && self.tidies {
            self.effects |= Effects::TIDIES;
        }
        match first {
            Some(_) if several => {
                if !self.definition {
                    self.reason = Some(Reason::SeveralStatements);
                }
                Kind::Multiple
            }
            Some(kind) => kind,
            None => {
                self.deny(Reason::Empty);
                Kind::Empty
            }
        }
    }

    /// Reads one statement up to its semicolon or the end.
    fn statement(&mut self, start: Lexeme<'a>) -> Kind {
        self.depth = 0;
        self.loose = 0;
        self.with = false;
        self.creates = false;
        self.atomic = 0;
        self.lone_set_config = false;
        let (first, entry) = self.past_parentheses(start);
        let parenthesised = self.depth > 0;
        self.tidies = self.tidies && !parenthesised && code::only_tidies(entry.word, self.lexer);
        let mut kind = Kind::Other;
        match entry.word {
            Word::Select if !parenthesised => {
                if may_be_set_config(self.lexer.rest())
                    && let Some(setting) = control::lone_set_config(self.lexer)
                {
                    kind = setting;
                    self.lone_set_config = true;
                    self.deny(Reason::SessionState);
                }
                self.body(first, entry);
            }
            Word::Select | Word::Values | Word::Table | Word::With => self.body(first, entry),
            _ if parenthesised => {
                self.deny(Reason::Unrecognised);
                self.body(first, entry);
            }
            Word::Explain => self.explain(),
            Word::Copy => self.copy(first, entry),
            word => {
                kind = control::kind(word, self.lexer);
                self.effects |= code::of_statement(word, self.lexer);
                self.creates = word == Word::Create;
                self.judge(&kind, first, entry);
                self.body(first, entry);
            }
        }
        kind
    }

    /// Opens the parentheses from `first` on: what stands behind them, and what word it is.
    #[inline]
    fn past_parentheses(&mut self, mut first: Lexeme<'a>) -> (Lexeme<'a>, Entry) {
        while first.token == Token::Open {
            self.depth += 1;
            first = self.lexer.token();
        }
        (first, if first.token == Token::Word { words::find(first.text) } else { NAME })
    }

    /// What a statement that is no query means for routing.
    fn judge(&mut self, kind: &Kind, first: Lexeme<'a>, entry: Entry) {
        match kind {
            Kind::Show(name) if builtin::is_shared_setting(name) => {}
            Kind::Show(name) => self.deny(Reason::NodeSpecific(name.clone())),
            Kind::Begin { .. } | Kind::Commit | Kind::Rollback | Kind::Savepoint | Kind::SetTransaction => {
                self.deny(Reason::TransactionControl);
            }
            Kind::Set(_) | Kind::SetLocal(_) | Kind::Reset(_) | Kind::DiscardAll | Kind::Deallocate(_) => {
                self.deny(Reason::SessionState);
            }
            _ if entry.word == Word::Set || entry.word == Word::Reset => {
                self.effects |= Effects::UNKNOWN_SET;
                self.deny(Reason::SessionState);
            }
            _ => self.deny_keyword(first),
        }
    }

    fn deny_keyword(&mut self, first: Lexeme<'a>) {
        self.deny(match words::keyword(first.text) {
            "" => Reason::Unrecognised,
            keyword => Reason::Keyword(keyword),
        });
    }

    #[inline]
    fn deny(&mut self, reason: Reason) {
        if self.reason.is_none() {
            self.reason = Some(reason);
        }
    }

    /// Reads from `first` to the end of the statement.
    fn body(&mut self, first: Lexeme<'a>, entry: Entry) {
        self.tokens(first, entry, false);
        if self.depth != 0 {
            self.deny(Reason::Unrecognised);
        }
    }

    /// The loop over all tokens. Ends behind the semicolon, or with `close_ends` behind the parenthesis that closes
    /// what was open at the start.
    fn tokens(&mut self, first: Lexeme<'a>, entry: Entry, close_ends: bool) {
        let mut last = first;
        let mut last_entry = entry;
        let mut seen = Seen::NOTHING;
        let mut lexeme = first;
        loop {
            let mut entry = NAME;
            match lexeme.token {
                Token::Word => {
                    if seen.token != Token::Dot {
                        // A write needs no more than its calls found.
                        if self.reason.is_none() || self.creates || is_into(lexeme) {
                            entry = words::find(lexeme.text);
                        }
                        self.before = seen;
                    }
                    self.word(lexeme, entry, seen, last);
                }
                Token::Quoted => {
                    if seen.token != Token::Dot {
                        self.before = seen;
                    }
                    self.name(lexeme);
                }
                Token::UnicodeQuoted => {
                    self.deny(Reason::Unrecognised);
                    if self.lexer.peek().token == Token::Open {
                        // Any function may hide behind the escapes.
                        self.effects |= Effects::UNKNOWN_SET | Effects::ADVISORY_LOCK;
                    }
                }
                Token::Open => {
                    self.depth += 1;
                    if seen.is_name() {
                        self.call(last, last_entry);
                        if last_entry.word == Word::Operator || last_entry.word == Word::On && self.distinct_on {
                            self.loose |= self.depth_bit();
                        }
                    }
                }
                Token::Close => {
                    if self.loose & self.depth_bit() != 0 {
                        self.loose &= !self.depth_bit();
                        entry.word = Word::On;
                    }
                    self.depth -= 1;
                    if self.depth < 0 {
                        self.depth = 0;
                        self.deny(Reason::Unrecognised);
                    }
                    if close_ends && self.depth == 0 {
                        return;
                    }
                }
                Token::Dot if !seen.is_name() => self.before = Seen::NOTHING,
                Token::Operator if self.reason.is_none() => self.operator(lexeme.text),
                Token::BackslashString => {
                    self.backslash = true;
                    if !self.definition {
                        self.deny(Reason::AmbiguousString);
                    }
                }
                Token::Semicolon => {
                    if self.depth == 0 && self.atomic == 0 {
                        return;
                    }
                    self.deny(Reason::Unrecognised);
                }
                Token::End => return,
                Token::Bad => {
                    self.bad = true;
                    return;
                }
                _ => {}
            }
            seen = Seen { token: lexeme.token, word: entry.word };
            last = lexeme;
            last_entry = entry;
            lexeme = self.lexer.token();
        }
    }

    /// An unquoted word; `entry` is that of a plain name behind a dot.
    #[inline]
    fn word(&mut self, lexeme: Lexeme<'a>, entry: Entry, seen: Seen, last: Lexeme<'a>) {
        if self.creates {
            self.word_of_create(lexeme, entry, seen);
        }
        match entry.word {
            Word::Name => return self.name(lexeme),
            Word::Into => self.select_into(last),
            _ => {}
        }
        if self.reason.is_some() {
            return;
        }
        match entry.word {
            Word::Keyword => {}
            Word::Insert | Word::Update | Word::Delete | Word::Merge => self.deny(Reason::DataModifyingCte),
            Word::For => {
                let next = self.lexer.peek();
                if ["update", "share", "no", "key"].iter().any(|lock| next.is(lock)) {
                    self.deny(Reason::LockingClause);
                }
            }
            Word::By => self.group_by = seen.word == Word::Group,
            Word::On => self.distinct_on = seen.word == Word::Distinct,
            Word::With => self.with = true,
            word if word.hides_operator() => {
                if let Some(operator) = self.catalog.hidden_operator() {
                    self.deny(Reason::VolatileOperator(operator.to_owned()));
                }
            }
            _ => {}
        }
        if entry.class != Class::Reserved {
            self.name(lexeme);
        }
    }

    /// Names in `pg_temp`, and the nesting of a body in `BEGIN ATOMIC`.
    fn word_of_create(&mut self, lexeme: Lexeme<'a>, entry: Entry, seen: Seen) {
        match entry.word {
            Word::Atomic if seen.word == Word::Begin => self.atomic += 1,
            Word::Case if self.atomic > 0 => self.atomic += 1,
            Word::End if self.atomic > 0 => self.atomic -= 1,
            _ if lexeme.is("pg_temp") => self.effects |= Effects::TEMP,
            _ => {}
        }
    }

    /// `INTO` of anything but an `INSERT` creates a table.
    fn select_into(&mut self, last: Lexeme<'a>) {
        if last.is("insert") || last.is("merge") {
            return self.deny(Reason::DataModifyingCte);
        }
        self.deny(Reason::SelectInto);
        let mut ahead = self.lexer;
        let mut next = ahead.token();
        if next.is("local") || next.is("global") {
            next = ahead.token();
        }
        let temporary = next.is("temp") || next.is("temporary") || next.is("pg_temp");
        self.effects |= if temporary { Effects::TEMP } else { Effects::DDL };
    }

    /// Any identifier: it may name a relation, a type, a column or a function of a row.
    #[inline]
    fn name(&mut self, lexeme: Lexeme<'a>) {
        if self.reason.is_some() {
            let (bytes, quoted) = (lexeme.unquoted(), lexeme.token == Token::Quoted);
            let name = Name { bytes, quoted };
            self.effects |= self.catalog.left_by_write(name) | self.catalog.left_by_use(name);
            if self.creates && lexeme.token == Token::Quoted && lexeme.text == b"\"pg_temp\"" {
                self.effects |= Effects::TEMP;
            }
            return;
        }
        let quoted = lexeme.token == Token::Quoted;
        let bytes = lexeme.unquoted();
        self.effects |= self.catalog.left_by_use(Name { bytes, quoted });
        match self.catalog.relation(Name { bytes, quoted }) {
            Relation::Plain => {}
            Relation::Volatile => self.deny(Reason::VolatileRelation(lossy(bytes))),
            Relation::NodeSpecific => self.deny(Reason::NodeSpecific(lossy(bytes))),
        }
    }

    fn operator(&mut self, operator: &[u8]) {
        if self.catalog.is_operator_volatile(operator) {
            self.deny(Reason::VolatileOperator(lossy(operator)));
        }
    }

    /// The place of the current depth in `loose`; the last is shared by all that are deeper.
    fn depth_bit(&self) -> u64 {
        1 << self.depth.clamp(0, 63)
    }
}

fn is_into(lexeme: Lexeme<'_>) -> bool {
    lexeme.text.len() == 4 && lexeme.is("into")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cheap look whether the text behind `SELECT` may start with `set_config` or `pg_catalog`.
fn may_be_set_config(rest: &[u8]) -> bool {
    match rest {
        [b' ', b's' | b'S', b'e' | b'E', ..] | [b' ', b'p' | b'P', b'g' | b'G', ..] => true,
        [b' ', byte, ..] => byte.is_ascii_whitespace() || matches!(byte, b'/' | b'-'),
        [byte, ..] => byte.is_ascii_whitespace() || matches!(byte, b'/' | b'-'),
        [] => false,
    }
}

fn starts_query(lexeme: Lexeme<'_>) -> bool {
    ["select", "with", "values", "table"].iter().any(|word| lexeme.is(word))
}
