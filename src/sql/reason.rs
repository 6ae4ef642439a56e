//! The sentences of `EXPLAIN ROUTE`.

use std::fmt;

use super::Reason;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Read => f.write_str("one statement that only reads"),
            Reason::Keyword(word) => write!(f, "{word} is not a read"),
            Reason::LockingClause => f.write_str("FOR UPDATE or FOR SHARE locks rows, which a replica cannot do"),
            Reason::SelectInto => f.write_str("SELECT INTO creates a table"),
            Reason::DataModifyingCte => f.write_str("INSERT, UPDATE, DELETE or MERGE stands inside the statement"),
            Reason::ExplainAnalyze => f.write_str("EXPLAIN with ANALYZE runs the statement on the primary"),
            Reason::SeveralStatements => f.write_str("the message holds more than one statement"),
            Reason::VolatileFunction(name) => {
                write!(f, "function {name} is volatile; list it in read_functions if it only reads")
            }
            Reason::UnknownFunction(name) => write!(f, "function {name} is not known in this database"),
            Reason::NodeSpecific(name) => {
                write!(f, "{name} belongs to the primary: its answer differs from node to node")
            }
            Reason::VolatileRelation(name) => write!(
                f,
                "{name} is unlogged, temporary, foreign, a sequence, or runs something volatile when it is read"
            ),
            Reason::VolatileOperator(name) => write!(f, "operator {name} is unknown or calls a volatile function"),
            Reason::TransactionControl => f.write_str("it begins, ends or changes a transaction"),
            Reason::SessionState => f.write_str("it changes the state of the session"),
            Reason::Unterminated => {
                f.write_str("a literal, quoted name or comment does not end, or a byte starts no token")
            }
            Reason::TooLong => f.write_str("the statement is too long to be examined"),
            Reason::NoCatalog => f.write_str(
                "it calls a function that is not built in, and the functions of this database are not known yet",
            ),
            Reason::Unrecognised => f.write_str("its form is not one that is known to be a read"),
            Reason::AmbiguousString => f.write_str(
                "a backslash in a plain literal means something else when standard_conforming_strings is off",
            ),
            Reason::RefusedByReplica => f.write_str("a replica has refused this statement before"),
            Reason::NotExamined => f.write_str("reads are not split from writes here, so nobody asked"),
            Reason::Empty => f.write_str("there is no statement in the message"),
        }
    }
}
