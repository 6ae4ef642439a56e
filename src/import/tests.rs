//! Imports of texts, as the command line does them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{ImportError, Imported, Tool, import};
use crate::config::hba::Files;
use crate::config::{self, Config};

/// Files in memory.
struct Texts(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Texts {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        self.0.get(file).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

fn resolve(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
}

fn try_import(tool: Tool, texts: &[(&str, &str)]) -> Result<Imported, ImportError> {
    let files = texts.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec())).collect();
    let names: Vec<PathBuf> = texts.iter().map(|(name, _)| PathBuf::from(name)).collect();
    import(tool, &names, &Texts(files), resolve)
}

/// What came of it, and the configuration that it is.
fn imported(tool: Tool, texts: &[(&str, &str)]) -> (Imported, Config) {
    let imported = try_import(tool, texts).unwrap_or_else(|error| panic!("{error}"));
    let loaded = config::load_resolved(&imported.text, "made.toml", Path::new("/"), resolve);
    let config = loaded.unwrap_or_else(|errors| panic!("{errors}\n{}", imported.text)).config;
    (imported, config)
}

fn pgbouncer(ini: &str, users: &str) -> (Imported, Config) {
    imported(Tool::PgBouncer, &[("p.ini", ini), ("userlist.txt", users)])
}

fn pgpool(conf: &str, passwords: &str) -> (Imported, Config) {
    imported(Tool::Pgpool, &[("pgpool.conf", conf), ("pool_passwd", passwords)])
}

fn haproxy(cfg: &str) -> (Imported, Config) {
    imported(Tool::HaProxy, &[("h.cfg", cfg)])
}

fn assert_says(imported: &Imported, what: &str) {
    let one_line = imported.text.replace("\n# ", " ").replace("   ", " ");
    assert!(imported.text.contains(what) || one_line.contains(what), "no {what:?} in\n{}", imported.text);
}

/// Every line of the input is in the output, by its place.
fn assert_all_told(imported: &Imported, file: &str, text: &str, is_silent: impl Fn(&str) -> bool) {
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !is_silent(line.trim())) {
        let place = format!("{file}:{}", i + 1);
        let is_told = imported.text.split(&place).skip(1).any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()));
        assert!(is_told, "nothing about {place} ({line}) in\n{}", imported.text);
    }
}

// -- PgBouncer ----------------------------------------------------------------------------------------------------

const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn databases_of_pgbouncer_become_clusters_and_databases() {
    let (made, config) = pgbouncer(
        "[databases]\n\
         app = host=db1 port=5433 dbname=app_production pool_size=7 pool_mode=transaction connect_query='select ''x'''\n\
         \"odd \"\"name\" = host=db1 port=5433\n\
         shared = host=10.0.0.1,10.0.0.2 user=pooled password='it''s secret'\n\
         * = host=2001:db8::1\n\
         [pgbouncer]\npool_mode = statement\ndefault_pool_size = 30\nmin_pool_size = 10\nlisten_addr = *\nunix_socket_dir =\n",
        "; comment\n\"app\" \"a \"\"quoted\"\" one\" \"ignored\"\n",
    );
    let nodes: Vec<Vec<String>> = config
        .postgres
        .clusters
        .iter()
        .map(|cluster| cluster.nodes.iter().map(|node| format!("{} {}", node.host, node.port)).collect())
        .collect();
    assert_eq!(nodes, [vec!["db1 5433"], vec!["10.0.0.1 5432", "10.0.0.2 5432"], vec!["2001:db8::1 5432"]]);
    let names: Vec<_> = config.postgres.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["app", "odd \"name", "shared", "*"]);
    let app = config.postgres.database("app").unwrap();
    assert_eq!((app.cluster, app.entry.unwrap().dbname.as_deref()), (0, Some("app_production")));
    assert_eq!(app.entry.unwrap().pool.size, Some(7));
    assert_eq!(app.entry.unwrap().pool.min_size, Some(7), "PgBouncer takes a larger minimum for the size");
    assert_eq!(config.postgres.database("shared").unwrap().entry.unwrap().user.as_deref(), Some("pooled"));
    assert_eq!(config.postgres.user("app").unwrap().password.as_ref().unwrap().0, "a \"quoted\" one");
    assert_eq!(config.postgres.user("pooled").unwrap().password.as_ref().unwrap().0, "it's secret");
    assert_eq!(config.postgres.pool.size, 30);
    assert_eq!(config.postgres.pool.mode, config::PoolMode::Statement);
    assert_eq!(config.postgres.listen.len(), 1);
    assert_says(&made, "app: connect_query = select 'x'");
}

#[test]
fn every_key_of_pgbouncer_is_a_key_or_a_comment() {
    let special = |key: &str| match key {
        "auth_type" => "md5",
        "auth_query" => "'select 1'",
        "auth_user" | "admin_users" | "stats_users" => "app",
        "client_tls_sslmode" | "server_tls_sslmode" => "disable",
        "client_tls_protocols" => "secure",
        "pool_mode" => "session",
        "listen_addr" => "localhost",
        "host" => "h",
        _ => "7",
    };
    let mut ini = "[pgbouncer]\n".to_owned();
    for (key, _) in super::pgbouncer::keys_of_main() {
        ini += &format!("{key} = {}\n", special(key));
    }
    ini +=
        "[peers]\n1 = host=a\n[users]\napp = pool_size=3 max_user_connections=4\nnobody = pool_size=3\n[databases]\n";
    for (key, _) in super::pgbouncer::keys_of_databases().filter(|(key, _)| *key != "host") {
        ini += &format!("d_{key} = host=h {key}={}\n", special(key));
    }
    let (made, _) = pgbouncer(&ini, "\"app\" \"app\"\n");
    // What users belong to is told by the keys, and the list of users by its own file.
    assert_all_told(&made, "p.ini", &ini, |line| line.starts_with('[') || line.starts_with("auth_file"));
}

#[test]
fn users_of_pgbouncer_keep_their_passwords() {
    let users = format!(
        "\"clear\" \"secret\"\n\"scram\" \"{SCRAM}\"\n\"old\" \"md53175bce1d3201d16594cebf9d7eb3f9d\"\n\"none\" \"\"\n"
    );
    let ini = "[databases]\n* = host=db\n[users]\nclear = pool_mode=session\n[pgbouncer]\nauth_type = md5\nadmin_users = clear, nobody\nstats_users = scram\n";
    let (made, config) = pgbouncer(ini, &users);
    let names: Vec<_> = config.postgres.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["clear", "scram", "old"], "a user without a password cannot log in");
    assert!(made.notes.iter().any(|note| note.contains("none")), "{:?}", made.notes);
    assert_eq!(config.postgres.clusters[0].monitor_user, "clear");
    assert_eq!(config.admin.users.len(), 2);
    assert!(made.notes.iter().any(|note| note.contains("nobody")), "{:?}", made.notes);
    assert_eq!(config.postgres.user("clear").unwrap().pool.mode, Some(config::PoolMode::Session));
    // With SCRAM alone an md5 verifier lets nobody in, nor did it before.
    let (made, config) = pgbouncer(&ini.replace("auth_type = md5", "auth_type = scram-sha-256"), &users);
    assert!(config.postgres.user("old").is_none(), "{}", made.text);
    assert!(!made.text.contains("md53175bce1d3201d16594cebf9d7eb3f9d"), "a password stands in a comment");
}

#[test]
fn a_login_that_nobody_knows_the_password_of_is_a_placeholder() {
    let ini = "[databases]\na = host=db auth_user=looker\nb = host=db user=forced\n[pgbouncer]\nauth_query = select * from f($1)\n";
    let (made, config) = pgbouncer(ini, &format!("\"scram\" \"{SCRAM}\"\n"));
    assert_eq!(config.postgres.auth_user.as_deref(), Some("looker"));
    assert_eq!(config.postgres.auth_dbname.as_deref(), Some("a"));
    for name in ["looker", "forced"] {
        assert_eq!(config.postgres.user(name).unwrap().password.as_ref().unwrap().0, "CHANGE-ME");
        assert!(made.notes.iter().any(|note| note.contains(name) && note.contains("CHANGE-ME")), "{:?}", made.notes);
    }
    assert_eq!(config.postgres.clusters[0].monitor_user, "forebay_monitor");
}

#[test]
fn the_database_of_lookups_is_the_one_on_the_server() {
    let ini =
        "[databases]\na = host=db dbname=real query_wait_timeout=-1\n[pgbouncer]\nauth_user = app\nauth_dbname = a\n";
    let (made, config) = pgbouncer(ini, "\"app\" \"app\"\n");
    assert_eq!(config.postgres.auth_dbname.as_deref(), Some("real"));
    assert_says(&made, "a: query_wait_timeout = -1");
}

#[test]
fn one_user_with_two_passwords_has_both() {
    let ini = "[databases]\na = host=db user=app password=server\n[pgbouncer]\n";
    let (_, config) = pgbouncer(ini, "\"app\" \"client\"\n");
    let app = config.postgres.user("app").unwrap();
    assert_eq!(app.password.as_ref().unwrap().0, "server");
    assert_eq!(app.previous_password.as_ref().unwrap().0, "client");
}

#[test]
fn rules_that_are_not_there_are_not_relied_on() {
    let ini = "[databases]\n* = host=db\n[pgbouncer]\nauth_type = hba\nauth_hba_file = /no/such/file\n";
    let (made, config) = pgbouncer(ini, "\"app\" \"app\"\n");
    assert_eq!(config.postgres.auth, config::AuthMethod::ScramSha256);
    assert!(made.notes.iter().any(|note| note.contains("hba_file")), "{:?}", made.notes);
}

#[test]
fn files_that_pgbouncer_includes_are_read() {
    let files = [("d/p.ini", "%include other.ini\n[pgbouncer]\n"), ("d/other.ini", "[databases]\nx = host=h\n")];
    let texts = files.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec())).collect();
    let made = import(Tool::PgBouncer, &[PathBuf::from("d/p.ini")], &Texts(texts), resolve).unwrap();
    assert_says(&made, "d/other.ini:2");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let wrong = |tool, name: &str, text: &str, place: &str| {
        let error = try_import(tool, &[(name, text)]).expect_err(text).to_string();
        assert!(error.starts_with(place) && error.len() > place.len() + 5, "{error} for {text}");
    };
    for (text, place) in [
        ("[databases]\nx\n", "p.ini:2: "),
        ("x = 1\n", "p.ini:1: "),
        ("[pgbouncer\n", "p.ini:1: "),
        ("[nonsense]\n", "p.ini:1: "),
        ("[databases]\nx = host='a\n", "p.ini:2: "),
        ("[databases]\nx = host\n", "p.ini:2: "),
        ("[databases]\nx = port=many\n", "p.ini:2: "),
        ("[databases]\nx = host=a=b\n", "p.ini:2: "),
        ("[pgbouncer]\npool_mode = some\n", "p.ini:2: "),
        ("[pgbouncer]\ndefault_pool_size = some\n", "p.ini:2: "),
        ("[pgbouncer]\nserver_lifetime = 1 h\nquery_timeout = x\n", "p.ini:3: "),
        ("[pgbouncer]\nlisten_port = 99999\n", "p.ini:2: "),
        ("%include nothing\n", "p.ini:1: "),
        ("%include p.ini\n", "p.ini:1: "),
    ] {
        wrong(Tool::PgBouncer, "p.ini", text, place);
    }
    wrong(Tool::PgBouncer, "userlist.txt", "\"a\" b\n", "userlist.txt:1: ");
    for (text, place) in [
        ("backend_hostname0 = 'a\n", "pgpool.conf:1: "),
        ("= 3\n", "pgpool.conf:1: "),
        ("port = x\n", "pgpool.conf:1: "),
        ("a = 1 2\n", "pgpool.conf:1: "),
        ("a =\n", "pgpool.conf:1: "),
        ("backend_hostname0 = 'a'\nbackend_flag0 = 'NO'\n", "pgpool.conf:2: "),
        ("load_balance_mode = maybe\n", "pgpool.conf:1: "),
        ("backend_hostname0 = 'd=b'\n", "pgpool.conf:1: "),
    ] {
        wrong(Tool::Pgpool, "pgpool.conf", text, place);
    }
    wrong(Tool::Pgpool, "pool_passwd", "nothing\n", "pool_passwd:1: ");
    for (text, place) in [
        ("bind *:5432\n", "h.cfg:1: "),
        ("listen\n", "h.cfg:1: "),
        ("listen pg\nbind 'x\n", "h.cfg:2: "),
        ("listen pg\nbind nothing\n", "h.cfg:2: "),
        ("listen pg\nserver a\n", "h.cfg:2: "),
        ("listen pg\nserver a b:x\n", "h.cfg:2: "),
        ("listen pg\nserver a b=c:5432\n", "h.cfg:2: "),
        ("listen pg from nowhere\n", "h.cfg:1: "),
        ("listen pg\nbind :5432\nserver a b:5432\ntimeout connect long\n", "h.cfg:4: "),
    ] {
        wrong(Tool::HaProxy, "h.cfg", text, place);
    }
}

// -- Pgpool-II ----------------------------------------------------------------------------------------------------

const PGPOOL: &str = "\
listen_addresses = '*' # everybody
port = 9999
backend_clustering_mode = 'streaming_replication'
backend_hostname0 = 'db1'
backend_port0 = 5432
backend_weight0 = 0
backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
backend_application_name0 = 'server0'
backend_hostname1 = 'db2'
backend_weight1 = 0.5
backend_flag1 = 'ALLOW_TO_FAILOVER'
load_balance_mode = on
num_init_children = 64
max_pool = 4
child_life_time = 5min
connection_life_time = 2min
client_idle_limit = 90
delay_threshold = 1MB
delay_threshold_by_time = 500ms
write_function_list = 'currval,nextval, public.f, get_.*'
sr_check_user = 'watcher'
sr_check_password = 'seen'
health_check_period = 10
health_check_user = 'other'
failover_command = '/etc/pgpool2/failover.sh %d %h it''s'
follow_primary_command = ''
use_watchdog = on
wd_authkey = 'topsecret'
hostname0 = 'a'
wd_port0 = 9000
heartbeat_hostname1 = 'b'
memory_cache_enabled = on
pcp_port = 9898
log_connections = on
ssl = off
made_up = 5
";

#[test]
fn a_cluster_of_pgpool_keeps_its_nodes_and_their_weights() {
    let (made, config) = pgpool(PGPOOL, "app:md53175bce1d3201d16594cebf9d7eb3f9d\nclear:TEXTsecret\nhidden:AESabc=\n");
    let [cluster] = config.postgres.clusters.as_slice() else { panic!("{}", made.text) };
    let nodes: Vec<_> =
        cluster.nodes.iter().map(|n| (n.name.as_str(), n.host.as_str(), n.port, n.weight, n.promote)).collect();
    assert_eq!(nodes, [("server0", "db1", 5432, 0, false), ("pg2", "db2", 5432, 50, true)]);
    assert_eq!(cluster.nodes[0].role, config::NodeRole::Primary);
    assert_eq!((cluster.monitor_user.as_str(), cluster.monitor_password.0.as_str()), ("watcher", "seen"));
    assert_eq!(config.postgres.pool.size, 64);
    assert_eq!(config.postgres.pool.server_lifetime, Some(std::time::Duration::from_secs(120)));
    assert_eq!(config.postgres.pool.client_idle_timeout, Some(std::time::Duration::from_secs(90)));
    assert_eq!(config.postgres.routing.max_lag_bytes, Some(1 << 20));
    assert_eq!(config.postgres.routing.max_lag, Some(std::time::Duration::from_millis(500)));
    assert_eq!(config.postgres.routing.write_functions, ["currval", "nextval", "public.f"]);
    assert_eq!(config.postgres.auth, config::AuthMethod::Md5);
    assert_eq!(config.postgres.user("clear").unwrap().password.as_ref().unwrap().0, "secret");
    assert_eq!(config.postgres.user("hidden").unwrap().password.as_ref().unwrap().0, "CHANGE-ME");
    assert_eq!(config.postgres.failover.mode, config::FailoverMode::Follow, "two programs must not promote");
    assert!(config.postgres.failover.event_command.is_empty());
    assert_says(
        &made,
        r#"# event_command = ["/bin/sh", "-c", "/etc/pgpool2/failover.sh \"$FAILED_NODE_ID\" \"$FAILED_NODE_HOST\" it's"]"#,
    );
    assert!(!made.text.contains("topsecret"), "a secret stands in a comment");
    assert_says(&made, "get_.*");
    let is_part_of_node =
        |line: &str| line.starts_with("backend_") || line.starts_with("sr_check_password") || line.contains("= ''");
    assert_all_told(&made, "pgpool.conf", PGPOOL, is_part_of_node);
}

#[test]
fn every_key_of_pgpool_is_a_key_or_a_comment() {
    let special = |key: &str| match key {
        "backend_hostname" | "listen_addresses" => "h",
        "backend_flag" => "ALLOW_TO_FAILOVER",
        "ssl" | "enable_pool_hba" | "load_balance_mode" | "connection_cache" => "on",
        "master_slave_mode" => "on",
        "replication_mode" => "off",
        _ => "7",
    };
    let mut conf = String::new();
    for (key, _) in super::pgpool::keys() {
        conf += &format!("{key} = '{}'\n", special(key));
    }
    let (made, _) = pgpool(&conf, "app:app\n");
    let silent = [
        "backend_",
        "sr_check_password",
        "sr_check_user",
        "health_check_",
        "pool_passwd",
        "black_function",
        "white_function",
    ];
    assert_all_told(&made, "pgpool.conf", &conf, |line| silent.iter().any(|start| line.starts_with(start)));
}

#[test]
fn files_of_pgpool_are_known_by_their_content() {
    let texts = [
        ("a", PGPOOL),
        ("b", "app:TEXTsecret\n"),
        ("c", "root:e8a48653851e28c69d0506508fb27fc5\n"),
        ("d", "local all all trust\n"),
    ];
    let (made, config) = imported(Tool::Pgpool, &texts);
    assert!(config.postgres.user("app").is_some());
    assert_eq!(config.admin.users[0].name, "root");
    assert!(made.notes.iter().any(|note| note.contains("enable_pool_hba")), "{:?}", made.notes);
}

// -- HAProxy ------------------------------------------------------------------------------------------------------

const PATRONI: &str = r#"
global
    maxconn 1000
    crt-base /etc/ssl
    stats socket /run/haproxy.sock mode 660 level admin
defaults tcp
    mode tcp
    timeout connect 4s
    timeout client 30m
    timeout server 30m
    option tcplog
defaults web from tcp
    mode http
listen stats from web
    bind 127.0.0.1:7000
    stats enable
    stats auth boss:very\ secret
listen pg_rw from tcp
    bind *:5000
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
    server pg1 10.0.0.1:5432 maxconn 100 check port 8008
    server pg2 10.0.0.2:5432 maxconn 100 check port 8008
listen pg_ro from tcp
    bind *:5001,[::1]:5001
    balance roundrobin
    option httpchk
    http-check send meth GET uri /replica?lag=10MB
    server pg1 10.0.0.1:5432 weight 10 check port 8008
    server pg2 10.0.0.2:5432 weight 20 check port 8008
frontend redis from tcp
    bind :6380
    maxconn 500
    default_backend redis_nodes
    tcp-request connection reject if { src 10.9.0.0/16 }
backend redis_nodes from tcp
    option tcp-check
    tcp-check send "AUTH s3cret\r\n"
    tcp-check expect string +OK
    tcp-check send info\ replication\r\n
    tcp-check expect string role:master
    server r1 10.0.0.3:6379 check inter 1s
    server r2 10.0.0.4:6379 check inter 1s backup
frontend web from web
    bind :80
    default_backend app
backend app from web
    server a 10.0.0.9:8080 check
resolvers dns
    nameserver one 10.0.0.53:53
"#;

#[test]
fn two_doors_to_the_same_servers_are_one_cluster() {
    let (made, config) = haproxy(PATRONI);
    let [cluster] = config.postgres.clusters.as_slice() else { panic!("{}", made.text) };
    let nodes: Vec<_> = cluster.nodes.iter().map(|n| (n.name.as_str(), n.host.as_str(), n.port, n.weight)).collect();
    assert_eq!(nodes, [("pg1", "10.0.0.1", 5432, 10), ("pg2", "10.0.0.2", 5432, 20)]);
    let listen: Vec<_> = config.postgres.listen.iter().map(|l| (l.addr.to_string(), l.route)).collect();
    let (primary, replica) = (config::ListenRoute::Primary, config::ListenRoute::Replica);
    let expected = [("0.0.0.0:5000", primary), ("0.0.0.0:5001", replica), ("[::1]:5001", replica)];
    assert_eq!(listen, expected.map(|(addr, route)| (addr.to_owned(), route)));
    assert_eq!(config.postgres.pool.connect_timeout, std::time::Duration::from_secs(4));
    assert_eq!(config.postgres.pool.size, 100);
    assert_eq!(config.postgres.routing.balance, config::Balance::RoundRobin);
    let [redis] = config.redis.as_slice() else { panic!("{}", made.text) };
    assert_eq!(redis.nodes, ["10.0.0.3:6379", "10.0.0.4:6379"]);
    assert_eq!(redis.auth.as_ref().unwrap().0, "s3cret");
    assert_eq!((redis.max_clients, redis.idle_timeout), (500, Some(std::time::Duration::from_secs(1800))));
    assert_eq!(config.admin.users[0].password.0, "very secret");
    assert_eq!(config.admin.listen, ["127.0.0.1:7000".parse().unwrap()]);
    assert_eq!(made.text.matches("s3cret").count(), 1, "{}", made.text);
    let is_silent = |line: &str| {
        let starts = [
            "global",
            "defaults",
            "listen",
            "frontend redis",
            "backend redis",
            "mode tcp",
            "timeout",
            "default_backend",
        ];
        starts.iter().any(|start| line.starts_with(start))
            || line.starts_with("server pg")
            || line.starts_with("server r1")
    };
    assert_all_told(&made, "h.cfg", PATRONI, is_silent);
}

#[test]
fn several_clusters_of_haproxy_need_the_names_of_their_databases() {
    let cfg = "listen a\n bind :5432\n server s db1:5432\nlisten b\n bind :5433\n server s db2:5432\n";
    let (made, config) = haproxy(cfg);
    assert_eq!(config.postgres.clusters.len(), 2);
    assert!(made.notes.iter().any(|note| note.contains("several clusters")), "{:?}", made.notes);
}

#[test]
fn a_limit_that_one_proxy_lacks_is_told() {
    let cfg = "listen a\n bind :5432\n maxconn 5\n timeout connect 0\n server s db1:5432\nlisten b\n bind :5433\n server s db1:5432\n\
        listen r\n bind :6379\n timeout connect 3s\n timeout client 1s\n timeout tunnel 2s\n server s db1:6380\n";
    let (made, config) = haproxy(cfg);
    assert_eq!(config.postgres.max_clients, 10000);
    for told in [
        "h.cfg:3: maxconn 5",
        "h.cfg:4: timeout connect 0",
        "h.cfg:11: timeout connect 3s",
        "h.cfg:12: timeout client 1s",
    ] {
        assert_says(&made, told);
    }
}

#[test]
fn quotes_and_escapes_of_haproxy_are_read() {
    let (_, config) = haproxy("listen \"my pg\"\n bind ':5432'\n server a\\ b \"db1\":5432 # comment\n");
    assert_eq!(config.postgres.clusters[0].nodes[0].host, "db1");
}

#[test]
fn nothing_to_serve_is_a_placeholder() {
    let (made, _) = haproxy("listen web\n mode http\n bind :80\n server a b:80\n");
    assert!(made.notes.iter().any(|note| note.contains("no proxy")), "{:?}", made.notes);
    assert_says(&made, "h.cfg:4: server a b:80");
}

#[test]
fn an_entry_that_is_written_twice_hides_its_password_only() {
    let ini =
        "[databases]\nx = host=a password=hidden user=u pool_size=3\nx = host=b user=u password=hidden\n[pgbouncer]\n";
    let (made, _) = pgbouncer(ini, "\"app\" \"app\"\n");
    assert_says(&made, "p.ini:2: x = host=a password=*** user=u pool_size=3");
}

// -- any text -----------------------------------------------------------------------------------------------------

const PGBOUNCER: &str = "\
[databases]
app = host=db1 port=5433 dbname=app_production pool_size=7 connect_query='select x' auth_user=looker
forebay = host=10.0.0.1,10.0.0.2 user=pooled password='it''s' target_session_attrs=primary
* = host=2001:db8::1
[users]
app = pool_mode=session max_user_connections=3
[pgbouncer]
listen_addr = *, localhost
auth_type = md5
auth_file = userlist.txt
pool_mode = transaction
min_pool_size = 50
reserve_pool_timeout = 0
client_tls_sslmode = require
server_tls_sslmode = verify-full
admin_users = app, other
";

/// A text that somebody has edited: each edit takes out, doubles or replaces something.
fn edited(text: &str, edits: &[(usize, usize, u8)]) -> String {
    const WORDS: [&str; 16] =
        ["", "\n", "=", "'", "\"", ",", " ", "0", "99999999999", "*", "::1", "/x", "$", "[", "\u{7f}", "\u{fc}"];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for &(at, inside, what) in edits {
        let at = at % lines.len().max(1);
        match what % 4 {
            0 if lines.len() > 1 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[(at + inside) % lines.len()].clone()),
            _ => {
                let line: Vec<char> = lines[at].chars().collect();
                let cut = inside % (line.len() + 1);
                let keep = (cut + usize::from(what % 3)).min(line.len());
                let word = WORDS[usize::from(what / 4) % WORDS.len()];
                lines[at] = line[..cut].iter().collect::<String>() + word + &line[keep..].iter().collect::<String>();
            }
        }
    }
    lines.join("\n") + "\n"
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[ -~\\n\\t]{0,300}") {
        for (tool, name) in [(Tool::PgBouncer, "p.ini"), (Tool::Pgpool, "pgpool.conf"), (Tool::HaProxy, "h.cfg")] {
            match try_import(tool, &[(name, &text)]) {
                Ok(made) => {
                    let loaded = config::load_resolved(&made.text, "made.toml", Path::new("/"), resolve);
                    proptest::prop_assert!(loaded.is_ok(), "{}", made.text);
                }
                Err(error) => proptest::prop_assert!(!error.what.is_empty()),
            }
        }
    }

    #[test]
    fn what_somebody_has_edited_is_accepted_or_told_with_its_place(
        edits in proptest::collection::vec((0_usize..80, 0_usize..80, 0_u8..=255), 1..6)
    ) {
        let inputs = [
            (Tool::PgBouncer, "p.ini", PGBOUNCER, "userlist.txt", "\"app\" \"app\"\n\"x\" \"md53175bce1d3201d16594cebf9d7eb3f9d\"\n"),
            (Tool::Pgpool, "pgpool.conf", PGPOOL, "pool_passwd", "app:TEXTapp\n"),
            (Tool::HaProxy, "h.cfg", PATRONI, "more.cfg", "frontend more\n bind :5439\n"),
        ];
        for (tool, name, text, other, more) in inputs {
            let text = edited(text, &edits);
            match try_import(tool, &[(name, &text), (other, more)]) {
                Ok(made) => {
                    let loaded = config::load_resolved(&made.text, "made.toml", Path::new("/"), resolve);
                    proptest::prop_assert!(loaded.is_ok(), "{}\n{}", text, made.text);
                }
                Err(error) => proptest::prop_assert!(error.line > 0 && error.line <= text.lines().count(), "{}\n{}", error, text),
            }
        }
    }
}
