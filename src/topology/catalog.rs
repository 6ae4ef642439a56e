//! Asks a server what its functions, views and operators may do.
//!
//! Owns the catalog queries; what follows from the answers is worked out in [`crate::sql::CatalogBuilder`]. They work
//! for any role that may log in, on primaries and standbys, PostgreSQL 12 to 17 (catalogs as in the manual, part VII,
//! "System Catalogs"). Called by the control thread: [`fingerprint`] every few seconds, [`load`] when it changed. To
//! lose no change, take the fingerprint before loading. Both wait for locks as any query does (`pg_get_viewdef` locks
//! the tables that a view reads), so the caller sets a time-out.

use tokio_postgres::{Client, Error};

use crate::sql::{Catalog, CatalogBuilder};

/// Functions of one name in one schema: volatile if any is, or if a function behind an aggregate is, because aggregates
/// themselves are always marked immutable. The last column says that the volatile ones are written in C.
const FUNCTIONS: &str = "
WITH volatile AS (
    SELECT oid FROM pg_catalog.pg_proc WHERE provolatile = 'v'
  UNION
    SELECT a.aggfnoid::pg_catalog.oid
    FROM pg_catalog.pg_aggregate a
    JOIN pg_catalog.pg_proc s ON s.oid = ANY (ARRAY[
        a.aggtransfn::pg_catalog.oid, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn])
    WHERE s.provolatile = 'v'
)
SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text,
       pg_catalog.bool_or(v.oid IS NOT NULL),
       pg_catalog.bool_and(v.oid IS NULL OR l.lanname IN ('internal', 'c'))
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN volatile v ON v.oid = p.oid
WHERE p.prokind <> 'p' AND n.nspname !~ '^pg_(toast_)?temp_'
GROUP BY 1, 2";

/// Functions that `t.name` may call without parentheses: those that take one row.
const ROW_FUNCTIONS: &str = "
SELECT DISTINCT p.proname::pg_catalog.text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0]
LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
WHERE p.oid >= 16384 AND p.prokind <> 'p' AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
  AND (t.typtype = 'c' OR b.typtype = 'c'
       OR t.typname IN ('record', 'any', 'anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray'))";

/// Bodies of SQL functions that claim not to be volatile; the expression for the body depends on the version.
const SQL_FUNCTIONS: &str = "
SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text, {body}
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND l.lanname = 'sql' AND p.provolatile <> 'v' AND p.prokind IN ('f', 'w')
  AND n.nspname !~ '^pg_(toast_)?temp_'";

/// The code of functions and procedures that are not written in C.
const BODIES: &str = "
SELECT p.proname::pg_catalog.text, l.lanname::pg_catalog.text, {body}
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND l.lanname NOT IN ('internal', 'c') AND n.nspname !~ '^pg_(toast_)?temp_'";

/// Where writes to a table arrive, too: in a partition or child, and where a foreign key takes them.
const THROUGH: &str = "
WITH RECURSIVE below AS (
    SELECT inhparent AS top, inhrelid AS part FROM pg_catalog.pg_inherits
  UNION
    SELECT b.top, i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.part
)
SELECT t.relname::pg_catalog.text, p.relname::pg_catalog.text
FROM below b JOIN pg_catalog.pg_class t ON t.oid = b.top JOIN pg_catalog.pg_class p ON p.oid = b.part
WHERE p.relhastriggers AND p.relkind <> 'i'
UNION
SELECT t.relname::pg_catalog.text, o.relname::pg_catalog.text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class t ON t.oid = k.confrelid
JOIN pg_catalog.pg_class o ON o.oid = k.conrelid
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))";

/// Defaults, generated columns and checks that call functions of somebody's own, as far as that is recorded.
const WRITTEN: &str = "
SELECT c.relname::pg_catalog.text, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM pg_catalog.pg_attrdef d
JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
JOIN pg_catalog.pg_depend u ON u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND u.objid = d.oid
    AND u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION
SELECT c.relname::pg_catalog.text, pg_catalog.pg_get_expr(k.conbin, k.conrelid)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_depend u ON u.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND u.objid = k.oid
    AND u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
WHERE k.contype = 'c'
UNION
SELECT c.relname::pg_catalog.text, pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
FROM pg_catalog.pg_policy p
JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
WHERE c.relrowsecurity";

const TRIGGERS: &str = "
SELECT DISTINCT c.relname::pg_catalog.text, p.proname::pg_catalog.text
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND c.relpersistence <> 't'";

const OPERATORS: &str = "
SELECT o.oprname::pg_catalog.text, pg_catalog.bool_or(p.provolatile = 'v')
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
GROUP BY 1";

/// Unlogged, temporary and foreign tables and sequences, and the tables of which they are a partition or child; and
/// types that a volatile function casts to.
const RELATIONS: &str = "
WITH RECURSIVE suspicious AS (
    SELECT c.oid FROM pg_catalog.pg_class c
    WHERE c.relkind IN ('f', 'S') OR c.relkind IN ('r', 'p', 'm', 'v') AND c.relpersistence <> 'p'
  UNION
    SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN suspicious s ON s.oid = i.inhrelid
)
SELECT c.relname::pg_catalog.text FROM suspicious s JOIN pg_catalog.pg_class c ON c.oid = s.oid
UNION
SELECT t.typname::pg_catalog.text
FROM pg_catalog.pg_cast c
JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
WHERE p.provolatile = 'v'";

const VIEWS: &str = "
SELECT c.relname::pg_catalog.text, pg_catalog.pg_get_viewdef(c.oid)
FROM pg_catalog.pg_class c
WHERE c.relkind = 'v' AND c.relpersistence <> 't'";

/// Row-security policies that filter reads, and the checks of domains, which run on every cast.
const EXPRESSIONS: &str = "
SELECT c.relname::pg_catalog.text, pg_catalog.pg_get_expr(p.polqual, p.polrelid)
FROM pg_catalog.pg_policy p
JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
WHERE c.relrowsecurity AND p.polcmd IN ('r', '*')
UNION ALL
SELECT t.typname::pg_catalog.text, pg_catalog.pg_get_expr(k.conbin, 0)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_type t ON t.oid = k.contypid
WHERE k.contype = 'c'";

/// A sum over hashes of every row on which the answers above depend, apart from temporary objects. Object identifier
/// and `xmin` change together with a row; both are the same on a standby.
const FINGERPRINT: &str = "
SELECT (COALESCE(pg_catalog.sum(pg_catalog.hashint8extended((r.oid::int8 << 32) # r.xmin::text::int8, r.seed)), 0)
        % 9223372036854775807)::int8
FROM (
    SELECT oid, xmin, 1 AS seed FROM pg_catalog.pg_proc WHERE oid >= 16384
  UNION ALL
    SELECT oid, xmin, 2 FROM pg_catalog.pg_operator WHERE oid >= 16384
  UNION ALL
    SELECT oid, xmin, 3 FROM pg_catalog.pg_policy
  UNION ALL
    SELECT oid, xmin, 4 FROM pg_catalog.pg_cast WHERE oid >= 16384
  UNION ALL
    SELECT oid, xmin, 5 FROM pg_catalog.pg_constraint WHERE oid >= 16384 AND contypid <> 0
  UNION ALL
    SELECT oid, xmin, 6 FROM pg_catalog.pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_'
  UNION ALL
    SELECT oid, xmin, 7 FROM pg_catalog.pg_class
    WHERE oid >= 16384 AND relpersistence <> 't' AND relkind <> 'i' AND relkind <> 't'
      AND (relkind IN ('f', 'S', 'v') OR relpersistence = 'u' OR relrowsecurity)
  UNION ALL
    SELECT w.oid, w.xmin, 8 FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
    WHERE w.oid >= 16384 AND c.relpersistence <> 't'
  UNION ALL
    SELECT i.inhparent, i.xmin, 9 FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE c.relpersistence = 'u' OR c.relkind = 'f'
  UNION ALL
    SELECT t.oid, t.xmin, 10 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND c.relpersistence <> 't'
  UNION ALL
    SELECT c.oid, c.xmin, 11 FROM pg_catalog.pg_class c
    WHERE c.oid >= 16384 AND c.relhastriggers AND c.relpersistence <> 't'
  UNION ALL
    SELECT k.oid, k.xmin, 12 FROM pg_catalog.pg_constraint k
    WHERE k.oid >= 16384 AND (k.contype = 'c' AND k.conrelid <> 0 OR k.contype = 'f'
        AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')))
  UNION ALL
    SELECT d.oid, d.xmin, 13 FROM pg_catalog.pg_attrdef d WHERE EXISTS (SELECT FROM pg_catalog.pg_depend u
        WHERE u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND u.objid = d.oid
        AND u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
) r";

/// Reads the catalogs of the database that `client` is connected to.
///
/// `read_functions` and `write_functions` are the operator's lists, each entry `name` or `schema.name`.
///
/// # Errors
/// Whatever the server answers to the queries, or a lost connection. Safe to drop half-way.
pub async fn load(client: &Client, read_functions: &[String], write_functions: &[String]) -> Result<Catalog, Error> {
    let mut builder = Catalog::builder();
    for entry in read_functions {
        builder.read_function(entry);
    }
    for entry in write_functions {
        builder.write_function(entry);
    }
    load_functions(client, &mut builder).await?;
    for row in client.query(OPERATORS, &[]).await? {
        builder.operator(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client.query(RELATIONS, &[]).await? {
        builder.relation(row.try_get(0)?);
    }
    for row in client.query(VIEWS, &[]).await? {
        // A view that is dropped while it is read has no text any more.
        if let Some(query) = row.try_get::<_, Option<&str>>(1)? {
            builder.view(row.try_get(0)?, query);
        }
    }
    for row in client.query(EXPRESSIONS, &[]).await? {
        if let Some(expression) = row.try_get::<_, Option<&str>>(1)? {
            builder.expression(row.try_get(0)?, expression);
        }
    }
    Ok(builder.build())
}

async fn load_functions(client: &Client, builder: &mut CatalogBuilder) -> Result<(), Error> {
    for row in client.query(FUNCTIONS, &[]).await? {
        builder.function(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
    }
    for row in client.query(ROW_FUNCTIONS, &[]).await? {
        builder.row_function(row.try_get(0)?);
    }
    let version = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
    let version: i32 = client.query_one(version, &[]).await?.try_get(0)?;
    let body =
        if version >= 140_000 { "COALESCE(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)" } else { "p.prosrc" };
    for row in client.query(&SQL_FUNCTIONS.replace("{body}", body), &[]).await? {
        if let Some(body) = row.try_get::<_, Option<&str>>(2)? {
            builder.sql_function(row.try_get(0)?, row.try_get(1)?, body);
        }
    }
    for row in client.query(&BODIES.replace("{body}", body), &[]).await? {
        if let Some(body) = row.try_get::<_, Option<&str>>(2)? {
            builder.body(row.try_get(0)?, row.try_get(1)?, body);
        }
    }
    for row in client.query(TRIGGERS, &[]).await? {
        builder.trigger(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client.query(THROUGH, &[]).await? {
        builder.writes_through(row.try_get(0)?, row.try_get(1)?);
    }
    for row in client.query(WRITTEN, &[]).await? {
        if let Some(expression) = row.try_get::<_, Option<&str>>(1)? {
            builder.written_expression(row.try_get(0)?, expression);
        }
    }
    Ok(())
}

/// A number that changes when functions, views, operators, policies, domains, casts or the kinds of tables change, and
/// is the same on every node that has replayed the same changes. Costs about a millisecond of the server's time.
///
/// # Errors
/// As [`load`].
pub async fn fingerprint(client: &Client) -> Result<u64, Error> {
    let row = client.query_one(FINGERPRINT, &[]).await?;
    Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
}
