//! The catalog of a real server: loaded by an ordinary role from a primary and from its standby.
//!
//! Starts its own PostgreSQL (the newest below `/usr/lib/postgresql`, or `FOREBAY_PG_BIN`) on a free loopback port.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forebay::sql::{Access, Catalog, Reason, classify};
use forebay::topology::catalog::{fingerprint, load};
use tokio_postgres::{Client, NoTls};

/// Gone when dropped, which is after the servers in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

struct Server {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
}

impl Server {
    fn command(bin: &Path, program: &str) -> Command {
        let program = bin.join(program);
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        if !is_root {
            return Command::new(program);
        }
        // PostgreSQL refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    }

    fn run(bin: &Path, program: &str, args: &[&str]) {
        let status = Self::command(bin, program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        assert!(status.success(), "{program} {args:?} failed");
    }

    fn start(bin: &Path, data: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = format!("-p {port} -h 127.0.0.1 -k '' -c fsync=off -c max_wal_senders=3 -c wal_level=replica");
        let log = data.with_extension("log");
        Self::run(
            bin,
            "pg_ctl",
            &["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-o", &options, "-w", "start"],
        );
        Self { bin: bin.into(), data: data.into(), port }
    }

    async fn connect(&self, user: &str) -> Client {
        let config = format!("host=127.0.0.1 port={} user={user} dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data.to_str().unwrap();
        Self::command(&self.bin, "pg_ctl")
            .args(["-D", data, "-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .status()
            .ok();
    }
}

fn bin() -> PathBuf {
    if let Some(bin) = std::env::var_os("FOREBAY_PG_BIN") {
        return bin.into();
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: set FOREBAY_PG_BIN")
        .map(|entry| entry.unwrap().path().join("bin"))
        .collect();
    versions.sort();
    versions.pop().expect("PostgreSQL is not installed: set FOREBAY_PG_BIN")
}

const SCHEMA: &str = r#"
CREATE ROLE app LOGIN;
CREATE SCHEMA other;
CREATE TABLE users (id bigserial PRIMARY KEY, name text, touched int);
CREATE TABLE logs (id int);
CREATE FUNCTION touch(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET touched = 1; RETURN 1; END $$;
CREATE FUNCTION touched_row(users) RETURNS int LANGUAGE sql AS 'SELECT touch(1)';
CREATE FUNCTION pure(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 + 1';
CREATE FUNCTION looks_pure(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1; SELECT touch($1)';
CREATE FUNCTION new_style(a int) RETURNS int LANGUAGE sql STABLE RETURN looks_pure(a);
CREATE FUNCTION atomic_style(a int) RETURNS int LANGUAGE sql STABLE BEGIN ATOMIC SELECT 1; SELECT pure(a); END;
CREATE FUNCTION other.half(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION half(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION random() RETURNS float8 LANGUAGE sql AS 'SELECT touch(1)::float8';
CREATE FUNCTION volatile_step(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE AGGREGATE counting(int) (SFUNC = volatile_step, STYPE = int);
CREATE FUNCTION op_touch(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = op_touch);
CREATE UNLOGGED TABLE cache (id int);
CREATE TABLE measures (id int, day date) PARTITION BY RANGE (day);
CREATE UNLOGGED TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE VIEW plain_view AS SELECT u.id, count(*) AS n, (u.id)::numeric(10,2) AS d FROM users u
    JOIN LATERAL generate_series(1, 3) WITH ORDINALITY AS g(x, y) ON true, (VALUES (1), (2)) v(z) GROUP BY u.id;
CREATE VIEW touching AS SELECT touch(1) AS t;
CREATE VIEW over_touching AS SELECT * FROM touching;
CREATE VIEW over_cache AS SELECT * FROM cache;
CREATE TABLE tenants (id int, owner text);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tenants USING (owner = current_setting('app.user', true));
CREATE TABLE guarded (id int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (touch(id) = 1);
CREATE TABLE unguarded (id int);
CREATE POLICY own ON unguarded USING (touch(id) = 1);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN touchy AS int CHECK (touch(VALUE) = 1);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO app;
"#;

fn reason(catalog: &Catalog, text: &str) -> Reason {
    let verdict = classify(text.as_bytes(), Some(catalog));
    assert_eq!(verdict.access == Access::Read, verdict.reason == Reason::Read, "{text}");
    verdict.reason
}

fn check(catalog: &Catalog, node: &str) {
    for text in [
        "SELECT count(*), lower(name), now() FROM users GROUP BY GROUPING SETS ((name), ()) ORDER BY 1",
        "SELECT pure(1), atomic_style(2), clock_timestamp(), gen_random_uuid()",
        "SELECT * FROM plain_view",
        "SELECT * FROM tenants",
        "SELECT * FROM unguarded",
        "SELECT 1::positive, id + 1, name || 'x', name LIKE 'a%' FROM users WHERE id IN (1, 2)",
        "SELECT * FROM pg_tables",
        "SELECT * FROM pg_indexes, pg_views, pg_stats, pg_roles",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.table_constraints",
        "SELECT c.relname, pg_get_userbyid(c.relowner), c.oid::regclass FROM pg_catalog.pg_class c",
        "SELECT string_agg(name, ',') FILTER (WHERE id > 1) OVER (ORDER BY id ROWS BETWEEN (1) PRECEDING AND CURRENT ROW) FROM users",
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a TABLESAMPLE bernoulli (10)",
    ] {
        assert_eq!(reason(catalog, text), Reason::Read, "on the {node}: {text}");
    }
    let volatile = |name: &str| Reason::VolatileFunction(name.into());
    let relation = |name: &str| Reason::VolatileRelation(name.into());
    let node_specific = |name: &str| Reason::NodeSpecific(name.into());
    for (text, expected) in [
        ("SELECT touch(1)", volatile("touch")),
        ("SELECT half(1)", volatile("half")),
        ("SELECT looks_pure(1)", volatile("looks_pure")),
        ("SELECT new_style(1)", volatile("new_style")),
        ("SELECT random()", volatile("random")),
        ("SELECT counting(1)", volatile("counting")),
        ("SELECT pg_relation_size('users')", volatile("pg_relation_size")),
        ("SELECT users.touched_row FROM users", relation("touched_row")),
        ("SELECT 1 @+@ 2", Reason::VolatileOperator("@+@".into())),
        ("SELECT 1 <=> 2", Reason::VolatileOperator("<=>".into())),
        ("SELECT absent()", Reason::UnknownFunction("absent".into())),
        ("SELECT * FROM cache", relation("cache")),
        ("SELECT * FROM measures", relation("measures")),
        ("SELECT * FROM over_cache", relation("over_cache")),
        ("SELECT last_value FROM users_id_seq", relation("users_id_seq")),
        ("SELECT * FROM touching", relation("touching")),
        ("SELECT * FROM over_touching", relation("over_touching")),
        ("SELECT * FROM guarded", relation("guarded")),
        ("SELECT 1::touchy", relation("touchy")),
        ("SELECT nextval('users_id_seq')", node_specific("nextval")),
        ("SELECT pg_is_in_recovery()", node_specific("pg_is_in_recovery")),
        ("SELECT pg_stat_get_live_tuples(1)", node_specific("pg_stat_get_live_tuples")),
        ("SELECT * FROM pg_stat_activity", node_specific("pg_stat_activity")),
        ("SELECT * FROM pg_settings", node_specific("pg_settings")),
        ("SELECT * FROM pg_timezone_names, pg_available_extensions", node_specific("pg_available_extensions")),
    ] {
        assert_eq!(reason(catalog, text), expected, "on the {node}: {text}");
    }
}

#[tokio::test]
async fn an_ordinary_role_learns_the_catalog_on_both_nodes() {
    let bin = bin();
    let folder = Folder(std::env::temp_dir().join(format!("forebay-sql-catalog-{}", std::process::id())));
    let base = &folder.0;
    std::fs::create_dir(base).unwrap();
    if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        assert!(Command::new("chown").arg("postgres").arg(base).status().unwrap().success());
    }
    let primary_data = base.join("primary");
    Server::run(&bin, "initdb", &["-A", "trust", "-U", "postgres", "-N", "-D", primary_data.to_str().unwrap()]);
    let primary = Server::start(&bin, &primary_data);
    let owner = primary.connect("postgres").await;
    owner.batch_execute(SCHEMA).await.unwrap();

    let standby_data = base.join("standby");
    let port = primary.port.to_string();
    Server::run(
        &bin,
        "pg_basebackup",
        &[
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "-D",
            standby_data.to_str().unwrap(),
        ],
    );
    let standby = Server::start(&bin, &standby_data);

    let mut printed = Vec::new();
    for (server, node) in [(&primary, "primary"), (&standby, "standby")] {
        let client = server.connect("app").await;
        let started = Instant::now();
        let mark = fingerprint(&client).await.unwrap();
        let marked = started.elapsed();
        let catalog = load(&client, &[], &[]).await.unwrap();
        eprintln!("{node}: fingerprint in {marked:?}, {} names in {:?}", catalog.len(), started.elapsed() - marked);
        check(&catalog, node);
        printed.push(mark);
    }
    assert_eq!(printed[0], printed[1], "both nodes hold the same");

    let app = primary.connect("app").await;
    let listed = load(&app, &["touch".into()], &["public.pure".into()]).await.unwrap();
    assert_eq!(reason(&listed, "SELECT touch(1)"), Reason::Read);
    assert_eq!(reason(&listed, "SELECT * FROM over_touching"), Reason::Read);
    assert_eq!(reason(&listed, "SELECT pure(1)"), Reason::VolatileFunction("pure".into()));

    fingerprints_follow_changes(&owner, &app).await;
    wait_for_same_fingerprint(&app, &standby.connect("app").await).await;
}

async fn fingerprints_follow_changes(owner: &Client, app: &Client) {
    let mut before = fingerprint(app).await.unwrap();
    for change in [
        "CREATE FUNCTION fresh() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION fresh() RETURNS int LANGUAGE sql STABLE AS 'SELECT 2'",
        "ALTER FUNCTION fresh() VOLATILE",
        "CREATE OR REPLACE VIEW plain_view AS SELECT u.id, touch(1)::bigint AS n, 1::numeric(10,2) AS d FROM users u",
        "CREATE OPERATOR @+@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = op_touch)",
        "ALTER TABLE unguarded ENABLE ROW LEVEL SECURITY",
        "ALTER POLICY own ON tenants USING (true)",
        "ALTER TABLE logs SET UNLOGGED",
        "ALTER TABLE logs RENAME TO logs_1",
        "ALTER TABLE logs_1 SET LOGGED",
        "ALTER DOMAIN positive ADD CHECK (touch(VALUE) = 1)",
        "ALTER SCHEMA other RENAME TO another",
        "CREATE UNLOGGED TABLE heir () INHERITS (users)",
        "ALTER TABLE heir NO INHERIT users",
        "DROP FUNCTION fresh()",
        "CREATE SEQUENCE counter",
    ] {
        owner.batch_execute(change).await.unwrap();
        let after = fingerprint(app).await.unwrap();
        assert_ne!(before, after, "{change}");
        before = after;
    }
    for change in [
        "INSERT INTO users (name) VALUES ('x')",
        "CREATE TEMP TABLE t (a int); CREATE TEMP VIEW tv AS SELECT 1",
        "CREATE TABLE another_plain_table (a int PRIMARY KEY, b text)",
        "ANALYZE",
        "VACUUM (FREEZE)",
    ] {
        owner.batch_execute(change).await.unwrap();
        assert_eq!(before, fingerprint(app).await.unwrap(), "{change}");
    }
}

async fn wait_for_same_fingerprint(primary: &Client, standby: &Client) {
    let expected = fingerprint(primary).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fingerprint(standby).await.unwrap() != expected {
        assert!(Instant::now() < deadline, "the standby never came to the same fingerprint");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
