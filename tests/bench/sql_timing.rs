//! What classifying costs. Run with `cargo bench --bench sql_timing`.

use std::hint::black_box;
use std::time::Instant;

use forebay::sql::{Catalog, VerdictCache, classify};

const STATEMENTS: &[(&str, &str)] = &[
    ("SELECT 1", "SELECT 1"),
    ("pgbench", "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;"),
    ("Rails pk", "SELECT \"users\".* FROM \"users\" WHERE \"users\".\"id\" = $1 LIMIT $2"),
    (
        "insert",
        "INSERT INTO \"events\" (\"user_id\", \"kind\", \"payload\", \"created_at\") VALUES ($1, $2, $3, $4) RETURNING \"id\"",
    ),
    ("update", "UPDATE pgbench_accounts SET abalance = abalance + -1234 WHERE aid = 4711;"),
    (
        "Django join",
        "SELECT \"shop_order\".\"id\", \"shop_order\".\"created\", \"shop_order\".\"status\", \"shop_order\".\"customer_id\", \
         \"shop_order\".\"total\", \"shop_customer\".\"id\", \"shop_customer\".\"name\", \"shop_customer\".\"email\", \
         \"shop_customer\".\"created\" FROM \"shop_order\" INNER JOIN \"shop_customer\" ON (\"shop_order\".\"customer_id\" = \
         \"shop_customer\".\"id\") WHERE (\"shop_order\".\"status\" IN ('paid', 'sent') AND \"shop_order\".\"created\" >= \
         '2024-01-01T00:00:00+00:00'::timestamptz AND UPPER(\"shop_customer\".\"name\"::text) LIKE UPPER('%smith%')) \
         ORDER BY \"shop_order\".\"created\" DESC LIMIT 21",
    ),
    (
        "CTE window",
        "WITH recent AS (SELECT o.customer_id, o.total, o.created, row_number() OVER (PARTITION BY o.customer_id ORDER BY \
         o.created DESC) AS rn FROM orders o WHERE o.created > now() - interval '30 days') SELECT c.name, sum(r.total) AS \
         total, max(r.created) AS last, coalesce(avg(r.total), 0)::numeric(10,2) FROM recent r JOIN customers c ON c.id = \
         r.customer_id WHERE r.rn <= 5 GROUP BY c.name HAVING sum(r.total) > 100 ORDER BY total DESC LIMIT 50",
    ),
    ("begin", "BEGIN"),
    ("set", "SET application_name = 'my app'"),
];

fn nanoseconds(mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..9 {
        let rounds = 50_000;
        let started = Instant::now();
        for _ in 0..rounds {
            work();
        }
        best = best.min(started.elapsed().as_nanos() as f64 / f64::from(rounds));
    }
    best
}

fn main() {
    let mut builder = Catalog::builder();
    for name in ["upper", "row_number", "sum", "max", "avg", "now"] {
        builder.function("pg_catalog", name, false, true);
    }
    for n in 0..3000 {
        builder.function("public", &format!("function_{n}"), true, false);
    }
    for name in ["cache", "sessions", "jobs", "users_id_seq", "shop_order_id_seq", "orders_id_seq", "pg_locks"] {
        builder.relation(name);
    }
    for name in ["=", "+", "-", ">=", ">", "<=", "~~"] {
        builder.operator(name, false);
    }
    let catalog = builder.build();
    for (name, text) in STATEMENTS {
        let text = text.as_bytes();
        let judged = nanoseconds(|| {
            black_box(classify(black_box(text), Some(&catalog)));
        });
        let mut cache = VerdictCache::new(4096);
        let cached = nanoseconds(|| {
            black_box(cache.lookup_or(black_box(text), 1, || classify(text, Some(&catalog))));
        });
        let access = classify(text, Some(&catalog)).access;
        println!("{name:12} {:4} bytes {judged:7.0} ns, cached {cached:6.0} ns, {access:?}", text.len());
    }
}
