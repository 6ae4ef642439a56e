//! Addresses, nodes, clusters, databases, users and what ties them together.

use super::*;

#[test]
fn listeners_are_addresses_sockets_and_tables() {
    let config = accepted(&format!(
        "{BASE}[postgres]\nlisten = [\"127.0.0.1:6432\", \":6433\", \"*:6434\", \"[::1]:6435\", \"localhost:6436\", \
         \"/nowhere/.s.PGSQL.6432\", {{ addr = \"127.0.0.1:6437\", route = \"replica\" }}]\n"
    ));
    let shown: Vec<_> = config.postgres.listen.iter().map(|listen| listen.addr.to_string()).collect();
    assert_eq!(
        shown,
        [
            "127.0.0.1:6432",
            "0.0.0.0:6433",
            "0.0.0.0:6434",
            "[::1]:6435",
            "127.0.0.1:6436",
            "/nowhere/.s.PGSQL.6432",
            "127.0.0.1:6437"
        ]
    );
    assert_eq!(config.postgres.listen[6].route, ListenRoute::Replica);
    assert_eq!(config.postgres.listen[0].route, ListenRoute::Auto);
    let lone = accepted(&format!("{BASE}[postgres]\nlisten = \"127.0.0.1:7000\"\n"));
    assert_eq!(lone.postgres.listen.len(), 1, "a lone address is a list of one");
}

#[test]
fn wrong_listeners_are_refused_one_by_one() {
    refused(
        "[postgres]\nlisten = [\n  \"127.0.0.1\",\n  \"127.0.0.1:70000\",\n  \"nowhere:6432\",\n  \"::1\",\n  5,\n  \"/\",\n  \
         { adr = \"127.0.0.1:1\" },\n  { addr = \"127.0.0.1:1\", route = \"write\" },\n]\n",
        &[
            "3:3: postgres.listen: \"127.0.0.1\" has no port; write \"host:port\"",
            "4:3: postgres.listen: \"127.0.0.1:70000\" must end with a port from 1 to 65535",
            "5:3: postgres.listen: \"nowhere:6432\" cannot be resolved: no such host",
            "6:3: postgres.listen: \"::1\" is an IPv6 address; write it in brackets: \"[::1]:PORT\"",
            "7:3: postgres.listen must be \"host:port\", \":port\" for every address, or the path of a Unix socket (found a number)",
            "8:3: postgres.listen: \"/\" is a folder; write the socket's path: \"/.s.PGSQL.6432\"",
            "9:5: unknown key \"adr\" in a table of postgres.listen; did you mean \"addr\"?",
            "10:35: postgres.listen.route must be \"auto\", \"primary\" or \"replica\" (found \"write\")",
        ],
    );
}

#[test]
fn two_listeners_on_one_address_are_refused() {
    refused(
        "[postgres]\nlisten = [\"127.0.0.1:6432\", \"127.0.0.1:6432\", \"127.0.0.1:8404\"]\n",
        &[
            "2:29: postgres.listen: 127.0.0.1:6432 is listened on twice; keep one",
            "2:47: postgres.listen: 127.0.0.1:8404 is listened on twice (also in admin.listen); keep one",
        ],
    );
    refused(
        "[[redis.service]]\nname = \"r\"\nnodes = [\"r1\"]\nlisten = [\"127.0.0.1:6432\"]\n",
        &["4:11: redis.service.listen: 127.0.0.1:6432 is listened on twice (also in postgres.listen); keep one"],
    );
}

#[test]
fn nodes_are_written_in_five_ways_and_named_by_their_place() {
    let config = accepted(
        "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"db1:5433\", \"db2\", \"/run/pg:5434\", \"[::1]:5435\", \
         { host = \"::1\", port = 5436, weight = 0, role = \"replica\", promote = false }, { name = \"far\", host = \"db6\" }]\n\
         [[postgres.user]]\nname = \"app\"\npassword = \"x\"\n",
    );
    let nodes = &config.postgres.clusters[0].nodes;
    let shown: Vec<_> = nodes.iter().map(|n| format!("{} {} {}", n.name, n.host, n.port)).collect();
    assert_eq!(
        shown,
        ["pg1 db1 5433", "pg2 db2 5432", "pg3 /run/pg 5434", "pg4 ::1 5435", "pg5 ::1 5436", "far db6 5432"]
    );
    assert_eq!((nodes[4].weight, nodes[4].role, nodes[4].promote), (0, NodeRole::Replica, false));
    assert_eq!((nodes[0].weight, nodes[0].role, nodes[0].promote), (1, NodeRole::Auto, true));
}

#[test]
fn wrong_nodes_are_refused_one_by_one() {
    refused(
        "[[postgres.cluster]]\nname = \"b\"\nnodes = [\n  \"db1:0\",\n  \"postgres://u:hidden@db\",\n  { port = 5432 },\n  \
         { host = \"db:5432\" },\n  { host = \"db\", port = 0 },\n  { host = \"db\", wieght = 2 },\n  \"a b\",\n]\n",
        &[
            "4:3: postgres.cluster.nodes: \"db1:0\" must end with a port from 1 to 65535",
            "5:3: postgres.cluster.nodes must be \"host:port\", \"/socket/folder:port\" or a table { host = \"...\", port = 5432 }, not a URL",
            "6:3: a table of postgres.cluster.nodes has no host; it must have one",
            "7:12: postgres.cluster.nodes.host must be a host alone (found \"db:5432\"); write the port as port = 5432",
            "8:25: postgres.cluster.nodes.port must be at least 1 (found 0)",
            "9:18: unknown key \"wieght\" in a table of postgres.cluster.nodes; did you mean \"weight\"?",
            "10:3: postgres.cluster.nodes: \"a b\" has \" \" in its host name",
        ],
    );
    refused(
        "[[postgres.cluster]]\nname = \"b\"\nnodes = []\n",
        &["3:9: postgres.cluster.nodes must name at least one"],
    );
    refused(
        "[[postgres.cluster]]\nname = \"b\"\nnodes = [\"db1\", { name = \"pg1\", host = \"db2\" }, \"db1:5432\", \
         { host = \"x\", role = \"primary\" }, { host = \"y\", role = \"primary\" }]\n",
        &[
            "3:26: there is already a node named \"pg1\"; nodes without a name are called pg1, pg2, ...",
            "3:49: db1 port 5432 is already the node \"pg1\"; list each once",
            "3:116: the node \"pg4\" is already the primary; a cluster has one",
        ],
    );
}

#[test]
fn names_that_the_console_could_not_write_are_refused() {
    refused(
        "[[postgres.cluster]]\nname = \"a.b\"\nnodes = [{ name = \"a b\", host = \"db\" }]\n",
        &[
            "2:8: the name \"a.b\" may hold letters, digits, _ and - only (found \".\")",
            "3:19: the name \"a b\" may hold letters, digits, _ and - only (found \" \")",
        ],
    );
}

#[test]
fn something_must_be_served() {
    assert_eq!(
        errors("[general]\n"),
        ["f.toml:1:1: there is nothing to serve; add a [[postgres.cluster]] or a [[redis.service]]"]
    );
    let config = accepted("[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\nnodes = [\"r1:6379\"]\n");
    assert_eq!(config.redis.len(), 1);
}

#[test]
fn the_nodes_are_watched_as_the_first_user_unless_said() {
    let cluster = accepted(BASE).postgres.clusters.remove(0);
    assert_eq!((cluster.monitor_user.as_str(), cluster.monitor_password.0.as_str()), ("app", "app"));
    assert_eq!(cluster.monitor_database, "postgres");
    let head = "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"db1\"]\n";
    let users =
        "[[postgres.user]]\nname = \"app\"\npassword = \"a\"\n[[postgres.user]]\nname = \"mon\"\npassword = \"m\"\n";
    let monitor = |keys: &str| {
        let cluster = accepted(&format!("{head}{keys}{users}")).postgres.clusters.remove(0);
        (cluster.monitor_user.clone(), cluster.monitor_password.0.clone())
    };
    let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
    assert_eq!(monitor("monitor_user = \"mon\"\n"), pair("mon", "m"));
    assert_eq!(monitor("monitor_user = \"other\"\nmonitor_password = \"o\"\n"), pair("other", "o"));
    assert_eq!(monitor("monitor_password = \"o\"\n"), pair("app", "o"));
}

#[test]
fn a_verifier_cannot_watch_the_nodes() {
    let cluster = "[[postgres.cluster]]\nname = \"main\"\nnodes = [\"db1\"]\n";
    assert_eq!(
        errors(cluster),
        ["f.toml:1:1: postgres.cluster \"main\" has no login to watch its nodes with; add a [[postgres.user]], \
          or set monitor_user and monitor_password"]
    );
    let md5 = "[postgres]\nauth = \"md5\"\n[[postgres.user]]\nname = \"app\"\npassword = \"md5900150983cd24fb0d6963f7d28e17f72\"\n";
    assert_eq!(
        errors(&format!("{cluster}{md5}")),
        ["f.toml:1:1: postgres.cluster \"main\" would watch its nodes as \"app\", whose password is a verifier, \
          which cannot log in to a server; set monitor_user and monitor_password"]
    );
    assert_eq!(
        errors(&format!("{cluster}monitor_user = \"app\"\n{md5}")),
        ["f.toml:1:1: postgres.cluster \"main\" would watch its nodes as \"app\", whose password is a verifier, \
          which cannot log in to a server; set monitor_password"]
    );
    accepted(&format!("{cluster}monitor_password = \"clear\"\n{md5}"));
}

#[test]
fn a_database_names_a_cluster_that_exists() {
    let only = accepted(&format!("{BASE}[[postgres.database]]\nname = \"a\"\n"));
    assert_eq!((only.postgres.databases[0].cluster, only.postgres.databases[0].cluster_name.as_str()), (0, "main"));
    let second = "[[postgres.cluster]]\nname = \"other\"\nnodes = [\"db2\"]\n";
    let two = accepted(&format!("{BASE}{second}[[postgres.database]]\nname = \"a\"\ncluster = \"other\"\n"));
    assert_eq!(two.postgres.databases[0].cluster, 1);
    refused(
        &format!(
            "{second}[[postgres.database]]\nname = \"a\"\n[[postgres.database]]\nname = \"b\"\ncluster = \"othre\"\n\
             [[postgres.database]]\nname = \"c\"\ncluster = \"xyzzy\"\n"
        ),
        &[
            "4:1: postgres.database \"a\" must say its cluster; the clusters are main, other",
            "8:11: there is no postgres.cluster named \"othre\"; did you mean \"other\"?",
            "11:11: there is no postgres.cluster named \"xyzzy\"; the clusters are main, other",
        ],
    );
}

#[test]
fn the_consoles_database_names_are_taken() {
    refused(
        "[[postgres.database]]\nname = \"forebay\"\n[[postgres.database]]\nname = \"pgbouncer\"\n",
        &[
            "2:8: the console answers to the database name \"forebay\"; choose another, or set admin.database",
            "4:8: the console answers to the database name \"pgbouncer\"; choose another, or set admin.database",
        ],
    );
    accepted(&format!("{BASE}[admin]\ndatabase = \"console\"\n[[postgres.database]]\nname = \"forebay\"\n"));
}

#[test]
fn users_have_passwords_unless_all_are_trusted() {
    let bare = "[[postgres.user]]\nname = \"bare\"\n";
    refused(bare, &["1:1: postgres.user \"bare\" has no password; add one, or write auth = \"trust\" in [postgres]"]);
    accepted(&format!("{BASE}{bare}[postgres]\nauth = \"trust\"\n"));
    refused(
        "[[postgres.user]]\nname = \"*\"\npassword = \"x\"\n[[postgres.user]]\nname = \"b\"\npassword = \"\"\n",
        &["2:8: a user cannot be named \"*\"; list each login", "6:12: postgres.user.password must not be empty"],
    );
}

#[test]
fn trust_on_an_open_listener_is_warned_of() {
    assert_eq!(
        warnings("[postgres]\nauth = \"trust\"\nlisten = [\":6432\"]\n"),
        ["2:8: with auth = \"trust\" whoever reaches 0.0.0.0:6432 may log in as any user"]
    );
    assert_eq!(warnings("[postgres]\nauth = \"trust\"\n"), Vec::<String>::new());
}

#[test]
fn verifiers_have_their_shape_and_fit_the_method() {
    refused(
        "[[postgres.user]]\nname = \"a\"\npassword = \"SCRAM-SHA-256$4096:c2FsdA==$short:short\"\n\
         [[postgres.user]]\nname = \"b\"\npassword = \"md5900150983cd24fb0d6963f7d28e17f72\"\n\
         [[admin.user]]\nname = \"c\"\npassword = \"SCRAM-SHA-256$zero\"\n",
        &[
            "3:12: the password of postgres.user \"a\" is a SCRAM-SHA-256 verifier whose keys are not 32 bytes in base64; was it cut off?",
            "6:12: the password of postgres.user \"b\" is an md5 verifier, which SCRAM cannot check; \
             write a SCRAM-SHA-256 verifier or the clear text, or auth = \"md5\" in [postgres]",
            "9:12: the password of admin.user \"c\" is not a verifier of the form SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY",
        ],
    );
}

#[test]
fn an_open_admin_listener_needs_a_user() {
    refused(
        "[admin]\nlisten = [\"127.0.0.1:8404\", \"0.0.0.0:8405\"]\n",
        &["2:29: admin.listen: 0.0.0.0:8405 can be reached from other machines, but there is no [[admin.user]]; \
           add one, or listen on 127.0.0.1"],
    );
    let config = accepted(&format!(
        "{BASE}[admin]\nlisten = [\":8404\"]\n[[admin.user]]\nname = \"ops\"\npassword = \"x\"\nrole = \"admin\"\n"
    ));
    assert_eq!(config.admin.users[0].role, AdminRole::Admin);
}

#[test]
fn a_pool_is_not_smaller_than_its_minimum_wherever_the_two_are_written() {
    refused(
        "[postgres.pool]\nsize = 5\nmin_size = 6\n",
        &["3:12: postgres.pool: min_size (6) is more than size (5); raise size or lower min_size"],
    );
    refused(
        "[postgres.pool]\nmin_size = 6\n[[postgres.database]]\nname = \"a\"\nsize = 5\n[[postgres.database]]\nname = \"b\"\nsize = 9\n\
         [[postgres.user]]\nname = \"u\"\npassword = \"x\"\nmin_size = 10\n",
        &[
            "5:8: postgres.database \"a\": min_size (6) is more than size (5); raise size or lower min_size",
            "12:12: postgres.user \"u\" in database \"a\": min_size (10) is more than size (5); raise size or lower min_size",
        ],
    );
}

#[test]
fn pool_and_routing_keys_go_from_the_section_to_the_database_to_the_user() {
    let postgres = accepted(&format!(
        "{BASE}size = 7\nbalance = \"random\"\n[postgres.pool]\nsize = 5\nqueue_timeout = \"1s\"\nmode = \"session\"\n\
         [postgres.routing]\nmax_lag = \"3s\"\n\
         [[postgres.database]]\nname = \"a\"\nsize = 6\nqueue_timeout = \"off\"\nconsistency = \"eventual\"\nbalance = \"source\"\n\
         [[postgres.database]]\nname = \"*\"\nmin_size = 1\n"
    ))
    .postgres;
    let both = postgres.pool_for("a", "app");
    assert_eq!((both.size, both.queue_timeout, both.mode), (7, None, PoolMode::Session), "the user's entry wins");
    let database = postgres.pool_for("a", "nobody");
    assert_eq!((database.size, database.queue_timeout, database.min_size), (6, None, 0));
    let any = postgres.pool_for("zzz", "nobody");
    assert_eq!((any.size, any.min_size, any.queue_timeout), (5, 1, Some(Duration::from_secs(1))));
    let routing = postgres.routing_for("a", "app");
    assert_eq!(
        (routing.balance, routing.consistency, routing.max_lag),
        (Balance::Random, Consistency::Eventual, Some(Duration::from_secs(3)))
    );
    assert_eq!(postgres.routing_for("a", "nobody").balance, Balance::Source);
}

#[test]
fn functions_are_names() {
    refused(
        "[postgres.routing]\nread_functions = [\"now()\", \"a.b\", \"a.b.c\"]\n[[postgres.database]]\nname = \"a\"\nwrite_functions = [\"\"]\n",
        &[
            "2:19: \"now()\" is not a function; write its name, or schema.name, without parentheses",
            "2:35: \"a.b.c\" is not a function; write its name, or schema.name, without parentheses",
            "5:20: postgres.database.write_functions must not be empty",
        ],
    );
}

#[test]
fn a_redis_service_has_sentinels_or_nodes() {
    let service = |keys: &str| format!("[[redis.service]]\nname = \"r\"\nlisten = [\":6380\"]\n{keys}");
    refused(&service(""), &["1:1: redis.service \"r\" has no servers; set sentinels and master_name, or nodes"]);
    refused(
        &service("sentinels = [\"s1\", \"s2:x\"]\n"),
        &[
            "4:13: redis.service \"r\" must have the master_name that its sentinels know",
            "4:20: redis.service.sentinels: \"s2:x\" must end with a port from 1 to 65535",
        ],
    );
    refused(
        &service("nodes = [\"r1\"]\nmaster_name = \"m\"\n"),
        &["5:15: redis.service \"r\" has a master_name, but no sentinels to ask for it"],
    );
    refused(
        &service("nodes = [\"r1\"]\nsentinels = [\"s1\"]\nmaster_name = \"m\"\n"),
        &["4:9: redis.service \"r\" has sentinels, which know the nodes; remove nodes or sentinels"],
    );
    refused(
        "[[redis.service]]\nname = \"r\"\nlisten = []\nnodes = [\"r1\"]\nlanes = 0\nreads = \"replicas\"\n",
        &[
            "3:10: redis.service.listen must name at least one",
            "5:9: redis.service.lanes must be at least 1 (found 0)",
            "6:9: redis.service.reads must be \"primary\", \"replica\", \"prefer_replica\" or \"nearest\" (found \"replicas\"); did you mean \"replica\"?",
        ],
    );
}

#[test]
fn networks_and_urls_are_checked() {
    refused(
        "[security]\nban_allow = [\"10.0.0.0/8\", \"::1/128\", \"10.1.2.3\", \"10.0.0.0/33\", \"lan\"]\n\
         [notify]\nwebhook = [\"hooks.example/T0/hidden\"]\n",
        &[
            "2:51: security.ban_allow: \"10.0.0.0/33\" is no address block; write \"10.0.0.0/8\" or \"10.1.2.3\"",
            "2:66: security.ban_allow: \"lan\" is no address block; write \"10.0.0.0/8\" or \"10.1.2.3\"",
            "4:12: notify.webhook must hold URLs that start with http:// or https://",
        ],
    );
}
