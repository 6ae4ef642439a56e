//! The words of the grammar that the classifier must tell from names.
//!
//! Owns the table of keywords with what matters about each before an opening parenthesis. The classes follow
//! PostgreSQL's manual, appendix C "SQL Key Words"; where versions 12 to 17 differ, the word counts as a name.

/// Which keyword it is, for those that the classifier treats each in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the SQL keyword of its name")]
pub enum Word {
    /// No keyword, or one in a place where it can only be a name.
    Name,
    /// A keyword of no interest of its own.
    Keyword,
    /// `CROSS`, `FULL`, `INNER` or `OUTER`.
    Joins,
    Abort,
    All,
    Alter,
    Analyse,
    Analyze,
    Any,
    As,
    Atomic,
    Begin,
    Between,
    Bit,
    By,
    Call,
    Case,
    Char,
    Character,
    Checkpoint,
    Close,
    Cluster,
    Comment,
    Commit,
    Copy,
    Create,
    Cube,
    Deallocate,
    Declare,
    Delete,
    Discard,
    Distinct,
    Do,
    Drop,
    End,
    Except,
    Execute,
    Explain,
    Fetch,
    Filter,
    First,
    For,
    Grant,
    Greatest,
    Group,
    Grouping,
    Ilike,
    Import,
    In,
    Insert,
    Intersect,
    Into,
    Is,
    Join,
    Key,
    Least,
    Like,
    Listen,
    Load,
    Lock,
    Materialized,
    Merge,
    Move,
    Natural,
    Nchar,
    Next,
    No,
    Not,
    Notify,
    Nullif,
    On,
    Operator,
    Order,
    Ordinality,
    Over,
    Partition,
    Prepare,
    Reassign,
    Recursive,
    Refresh,
    Reindex,
    Release,
    Reset,
    Revoke,
    Rollback,
    Rollup,
    Savepoint,
    Security,
    Select,
    Set,
    Sets,
    Share,
    Show,
    Similar,
    Some,
    Start,
    Table,
    Tablesample,
    Temp,
    Temporary,
    Time,
    Treat,
    Truncate,
    Union,
    Unlisten,
    Update,
    Using,
    Vacuum,
    Values,
    Varying,
    When,
    With,
    Zone,
}

/// What a word can be, above all when `(` follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Never a name unless quoted.
    Reserved,
    /// May name a relation or column, but never a function.
    NeverFunction,
    /// Stands before `(` as a keyword, and may also be the name of somebody's function.
    Soft,
    /// A JSON constructor from version 16 or 17 on and before that an ordinary name, or a word with a syntax of its own
    /// that may also call anybody's function, as `SUBSTRING(a, b)` does.
    Constructor,
    /// A name as good as any.
    Name,
}

/// What the table says of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its identity.
    pub word: Word,
    /// Its class.
    pub class: Class,
}

/// What every word is that the table does not hold.
pub const NAME: Entry = Entry { word: Word::Name, class: Class::Name };

/// One row of the table: the word in upper case, as in messages.
struct Row {
    text: &'static str,
    /// Its first eight letters, see [`pack`].
    head: u64,
    entry: Entry,
}

macro_rules! table {
    ($($class:ident [$($text:ident $(= $word:ident)?,)*])*) => {
        &[$($(Row {
            text: stringify!($text),
            head: pack(stringify!($text).as_bytes()),
            entry: Entry { word: table!(@ $($word)?), class: Class::$class },
        },)*)*]
    };
    (@) => { Word::Keyword };
    (@ $word:ident) => { Word::$word };
}

#[rustfmt::skip]
static TABLE: &[Row] = table! {
    Reserved [
        ALL=All, ANALYSE=Analyse, ANALYZE=Analyze, AND, ANY=Any, ARRAY, AS=As, ASC, ASYMMETRIC, BOTH, CASE=Case, CAST,
        CHECK, COLLATE, COLUMN, CONSTRAINT, CREATE=Create, CURRENT_CATALOG, CURRENT_DATE, CURRENT_ROLE, CURRENT_TIME,
        CURRENT_TIMESTAMP, CURRENT_USER, DEFAULT, DEFERRABLE, DESC, DISTINCT=Distinct, DO=Do, ELSE, END=End,
        EXCEPT=Except, FALSE, FETCH=Fetch, FOR=For, FOREIGN, FROM, GRANT=Grant, GROUP=Group, HAVING, IN=In, INITIALLY,
        INTERSECT=Intersect, INTO=Into, LATERAL, LEADING, LIMIT, LOCALTIME, LOCALTIMESTAMP, NOT=Not, NULL, OFFSET,
        ON=On, ONLY, OR, ORDER=Order, PLACING, PRIMARY, REFERENCES, RETURNING, SELECT=Select, SESSION_USER, SOME=Some,
        SYMMETRIC, TABLE=Table, THEN, TO, TRAILING, TRUE, UNION=Union, UNIQUE, USER, USING=Using, VARIADIC, WHEN=When,
        WHERE, WINDOW, WITH=With,
    ]
    NeverFunction [
        BETWEEN=Between, BIGINT, BIT=Bit, BOOLEAN, CHAR=Char, CHARACTER=Character, COALESCE, DEC, DECIMAL, EXISTS,
        EXTRACT, FLOAT, GREATEST=Greatest, GROUPING=Grouping, INOUT, INT, INTEGER, INTERVAL, LEAST=Least, NATIONAL,
        NCHAR=Nchar, NONE, NORMALIZE, NULLIF=Nullif, NUMERIC, OUT, POSITION, PRECISION, REAL, ROW, SETOF,
        SMALLINT, TIME=Time, TIMESTAMP, TREAT=Treat, TRIM, VALUES=Values, VARCHAR, XMLATTRIBUTES,
        XMLCONCAT, XMLELEMENT, XMLEXISTS, XMLFOREST, XMLNAMESPACES, XMLPARSE, XMLPI, XMLROOT, XMLSERIALIZE, XMLTABLE,
    ]
    Soft [
        BY=By, COLUMNS, CUBE=Cube, ESCAPE, FILTER=Filter, FIRST=First, GROUPS, ILIKE=Ilike, JOIN=Join, LIKE=Like,
        MATERIALIZED=Materialized, NEXT=Next, OPERATOR=Operator, OVER=Over, OVERLAPS, PASSING, PATH, RANGE, REPEATABLE,
        ROLLUP=Rollup, ROWS, SETS=Sets, UESCAPE, VALUE, WITHIN, ZONE=Zone,
    ]
    Constructor [
        JSON, JSON_ARRAY, JSON_ARRAYAGG, JSON_EXISTS, JSON_OBJECT, JSON_OBJECTAGG, JSON_QUERY, JSON_SCALAR,
        JSON_SERIALIZE, JSON_TABLE, JSON_VALUE, MERGE_ACTION, OVERLAY, SUBSTRING,
    ]
    Name [
        CONTENT, CROSS=Joins, DOCUMENT, FULL=Joins, INNER=Joins, IS=Is, ISNULL, LOCAL, NATURAL=Natural, NOTNULL,
        ORDINALITY=Ordinality, OUTER=Joins, PARTITION=Partition, SIMILAR=Similar,
        ABORT=Abort, ALTER=Alter, ATOMIC=Atomic, BEGIN=Begin, CALL=Call, CHECKPOINT=Checkpoint,
        CLOSE=Close, CLUSTER=Cluster, COMMENT=Comment, COMMIT=Commit, COPY=Copy, DEALLOCATE=Deallocate,
        DECLARE=Declare, DELETE=Delete, DISCARD=Discard, DROP=Drop, EXECUTE=Execute, EXPLAIN=Explain,
        IMPORT=Import, INSERT=Insert, KEY=Key, LISTEN=Listen, LOAD=Load, LOCK=Lock, MERGE=Merge, MOVE=Move,
        NO=No, NOTIFY=Notify, PREPARE=Prepare, REASSIGN=Reassign, RECURSIVE=Recursive, REFRESH=Refresh,
        REINDEX=Reindex, RELEASE=Release, RESET=Reset, REVOKE=Revoke, ROLLBACK=Rollback, SAVEPOINT=Savepoint,
        SECURITY=Security, SET=Set, SHARE=Share, SHOW=Show, START=Start, TABLESAMPLE=Tablesample, TEMP=Temp,
        TEMPORARY=Temporary, TRUNCATE=Truncate, UNLISTEN=Unlisten, UPDATE=Update, VACUUM=Vacuum,
        VARYING=Varying, VERSION,
    ]
};

const LETTERS: usize = 26;
const LONGEST: usize = 17;
const PER_BUCKET: usize = 6;

/// Where the words of one length and first letter stand in [`TABLE`], plus one; zero ends a bucket.
#[allow(clippy::indexing_slicing, reason = "evaluated at compile time, where a wrong index fails the build")]
static BUCKETS: [[u8; PER_BUCKET]; (LONGEST + 1) * LETTERS] = {
    let mut buckets = [[0u8; PER_BUCKET]; (LONGEST + 1) * LETTERS];
    let mut i = 0;
    while i < TABLE.len() {
        let text = TABLE[i].text.as_bytes();
        let bucket = text.len() * LETTERS + (text[0] - b'A') as usize;
        let mut slot = 0;
        while buckets[bucket][slot] != 0 {
            slot += 1;
        }
        buckets[bucket][slot] = (i + 1) as u8;
        i += 1;
    }
    assert!(TABLE.len() < 255, "positions no longer fit a byte");
    buckets
};

/// Looks an unquoted word up, in any case.
#[inline]
pub fn find(text: &[u8]) -> Entry {
    row(text).map_or(NAME, |row| row.entry)
}

/// The keyword as messages write it; empty if it is none.
pub fn keyword(text: &[u8]) -> &'static str {
    row(text).map_or("", |row| row.text)
}

/// The first eight bytes in one number, without the bit that tells upper from lower case. Of the bytes that a word can
/// hold, only a letter turns into a letter and only an underscore into an underscore.
const fn pack(text: &[u8]) -> u64 {
    let mut head = 0;
    let mut rest = text;
    let mut left = 8;
    while let [byte, tail @ ..] = rest {
        if left == 0 {
            break;
        }
        head = head << 8 | (*byte & 0xdf) as u64;
        rest = tail;
        left -= 1;
    }
    head
}

#[inline]
fn row(text: &[u8]) -> Option<&'static Row> {
    let &first = text.first()?;
    let letter = usize::from((first | 0x20).wrapping_sub(b'a'));
    if letter >= LETTERS {
        return None;
    }
    let bucket = BUCKETS.get(text.len().saturating_mul(LETTERS) + letter)?;
    if bucket.first() == Some(&0) {
        return None;
    }
    let head = pack(text);
    for &position in bucket {
        let row = TABLE.get(usize::from(position).checked_sub(1)?)?;
        if row.head == head && (text.len() <= 8 || row.text.as_bytes().eq_ignore_ascii_case(text)) {
            return Some(row);
        }
    }
    None
}

impl Word {
    /// Whether the word can call an operator (`=`, `<`, `~~`) that is not written.
    pub fn hides_operator(self) -> bool {
        use Word::*;
        matches!(
            self,
            Like | Ilike
                | Similar
                | In
                | Between
                | Distinct
                | Order
                | Group
                | Partition
                | Union
                | Intersect
                | Except
                | Using
                | Natural
                | Nullif
                | Greatest
                | Least
                | Any
                | Some
                | All
                | Case
                | Is
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_in_any_case_and_no_prefix_of_it() {
        for row in TABLE {
            assert_eq!(keyword(row.text.as_bytes()), row.text);
            assert_eq!(find(row.text.to_ascii_lowercase().as_bytes()), row.entry);
            let longer = format!("{}x", row.text);
            assert_ne!(keyword(longer.as_bytes()), row.text);
        }
        for name in ["", "_", "users", "é", "selec", "a_table_name_that_is_longer_than_any_keyword"] {
            assert_eq!(find(name.as_bytes()).word, Word::Name, "{name}");
        }
    }
}
