//! A service: a `listen`, or a `frontend` with the `backend` behind it; what it serves, and which side of it.

use super::ends::{self, Bind, Options, Server};
use super::lex::{Line, Part};
use crate::import::ImportError;

/// What is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    Redis,
    /// Redis' watchers; clients of Forebay need none.
    Sentinel,
    Other,
}

/// Which servers it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Auto,
    Primary,
    Replica,
}

impl Route {
    pub(super) fn word(self) -> &'static str {
        match self {
            Route::Auto => "auto",
            Route::Primary => "primary",
            Route::Replica => "replica",
        }
    }
}

/// See above.
#[derive(Debug)]
pub(super) struct Service<'a> {
    pub name: String,
    pub is_http: bool,
    /// The sections that it is made of.
    pub parts: Vec<&'a Part>,
    /// What holds for it, nearest last: of defaults, of the frontend, of the backend.
    pub lines: Vec<&'a Line>,
    pub binds: Vec<(Bind, &'a Line)>,
    pub servers: Vec<Server>,
    /// What `default-server` left.
    pub defaults_left: Vec<(&'a Line, Options)>,
    pub kind: Kind,
    pub route: Route,
}

impl<'a> Service<'a> {
    /// The nearest line that begins with these words.
    pub(super) fn line(&self, words: &[&str]) -> Option<&'a Line> {
        self.lines.iter().rev().find(|line| line.is(words)).copied()
    }

    /// Of the sections that it is made of themselves.
    pub(super) fn own(&self) -> impl Iterator<Item = &'a Line> {
        self.parts.iter().flat_map(|part| &part.lines)
    }

    pub(super) fn head(&self) -> Option<&'a Line> {
        self.parts.first().map(|part| &part.head)
    }
}

/// Makes services of the sections. What `base` makes of a file's name are paths.
pub(super) fn services<'a>(parts: &'a [Part], base: &dyn Fn(&str) -> String) -> Result<Vec<Service<'a>>, ImportError> {
    let mut services = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    for part in parts {
        match part.kind() {
            "listen" => services.push(service(parts, vec![part], base)?),
            "frontend" => {
                let backend = backend_of(part, parts);
                used.extend(backend.map(Part::name));
                let all = std::iter::once(part).chain(backend).collect();
                services.push(service(parts, all, base)?);
            }
            _ => {}
        }
    }
    for part in parts.iter().filter(|part| part.kind() == "backend" && !used.contains(&part.name())) {
        services.push(service(parts, vec![part], base)?);
    }
    Ok(services)
}

/// `default_backend`, or the only `use_backend`.
fn backend_of<'a>(front: &Part, parts: &'a [Part]) -> Option<&'a Part> {
    let named = |name: &str| parts.iter().find(|part| part.kind() == "backend" && part.name() == name);
    let default = front.lines.iter().rev().find(|line| line.is(&["default_backend"]));
    let inherited = front.defaults.iter().filter_map(|at| parts.get(*at)).flat_map(|part| part.lines.iter().rev());
    let default = default.or(inherited.into_iter().find(|line| line.is(&["default_backend"])));
    if let Some(line) = default {
        return named(line.word(1));
    }
    let mut rules = front.lines.iter().filter(|line| line.is(&["use_backend"]));
    match (rules.next(), rules.next()) {
        (Some(only), None) => named(only.word(1)),
        _ => None,
    }
}

fn service<'a>(
    all: &'a [Part],
    parts: Vec<&'a Part>,
    base: &dyn Fn(&str) -> String,
) -> Result<Service<'a>, ImportError> {
    let mut lines: Vec<&Line> = Vec::new();
    for part in &parts {
        // The farthest first.
        let defaults = part.defaults.iter().rev().filter_map(|at| all.get(*at));
        lines.extend(defaults.flat_map(|defaults| &defaults.lines));
    }
    lines.extend(parts.iter().flat_map(|part| &part.lines));
    let name = parts.first().map(|part| part.name().to_owned()).unwrap_or_default();
    // Every section of defaults and every part may say it; the part's own word counts.
    let mode = lines.iter().rev().find(|line| line.is(&["mode"])).map_or("tcp", |line| line.word(1));
    let mut service = Service {
        name,
        is_http: mode == "http",
        parts,
        lines,
        binds: Vec::new(),
        servers: Vec::new(),
        defaults_left: Vec::new(),
        kind: Kind::Other,
        route: Route::Auto,
    };
    let mut defaults = Options::default();
    for line in service.lines.iter().filter(|line| line.is(&["default-server"])) {
        defaults = ends::options(line, 1, defaults, base)?;
        service.defaults_left.push((line, defaults.clone()));
    }
    for line in service.parts.iter().flat_map(|part| &part.lines) {
        if line.is(&["bind"]) {
            // What serves something else may be bound in ways that nothing here knows.
            match ends::bind(line, base) {
                Ok(bind) => service.binds.push((bind, line)),
                Err(_) if service.is_http => {}
                Err(error) => return Err(error),
            }
        } else if line.is(&["server"]) {
            match ends::server(line, &defaults, base) {
                Ok(server) => service.servers.push(server),
                Err(_) if service.is_http => {}
                Err(error) => return Err(error),
            }
        }
    }
    inherit_ports(&mut service);
    service.kind = kind(&service);
    service.route = route(&service);
    Ok(service)
}

/// A server without a port has the client's.
fn inherit_ports(service: &mut Service<'_>) {
    let bound = service.binds.iter().flat_map(|(bind, _)| &bind.addresses).next();
    let port = bound.and_then(|address| address.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
    for server in service.servers.iter_mut().filter(|server| !server.host.starts_with('/')) {
        server.port = server.port.or(port);
    }
}

/// What checks say; then what servers' ports, listeners' ports and names say.
fn kind(service: &Service<'_>) -> Kind {
    if service.is_http {
        return Kind::Other;
    }
    let has = |words: &[&str]| service.line(words).is_some();
    let says = |texts: &[&str]| {
        let checks = service.lines.iter().filter(|line| line.is(&["tcp-check"]));
        checks.into_iter().any(|line| line.words.iter().any(|word| texts.iter().any(|text| word.contains(text))))
    };
    if has(&["option", "pgsql-check"]) {
        return Kind::Postgres;
    }
    let of_servers = service.servers.iter().filter_map(|server| server.port);
    if of_servers.clone().next().is_some() && of_servers.clone().all(|port| port == 26379) {
        return Kind::Sentinel;
    }
    if has(&["option", "redis-check"])
        || says(&["role:master", "role:slave", "info replication", "INFO replication", "+PONG"])
    {
        return Kind::Redis;
    }
    let bound = service.binds.iter().flat_map(|(bind, _)| &bind.addresses);
    let bound = bound.filter_map(|address| address.rsplit_once(':')).filter_map(|(_, port)| port.parse::<u16>().ok());
    for port in of_servers.chain(bound) {
        match port {
            5432..=5439 | 6432..=6439 => return Kind::Postgres,
            6379..=6399 => return Kind::Redis,
            _ => {}
        }
    }
    let paths = service.servers.iter().any(|server| server.host.contains(".s.PGSQL."));
    let names = service.parts.iter().map(|part| part.name().to_ascii_lowercase()).collect::<Vec<_>>().join(" ");
    let is_called = |texts: &[&str]| texts.iter().any(|text| names.contains(text));
    match () {
        () if service.servers.is_empty() => Kind::Other,
        () if paths || is_called(&["postgres", "pgsql", "psql", "patroni"]) => Kind::Postgres,
        () if is_called(&["redis", "valkey"]) => Kind::Redis,
        () => Kind::Other,
    }
}

/// What checks ask for; then what names say; then whether all but one server are in reserve.
fn route(service: &Service<'_>) -> Route {
    const PRIMARY: [&str; 6] = ["primary", "master", "leader", "read-write", "rw", "write"];
    const REPLICA: [&str; 15] = [
        "replica",
        "replicas",
        "read-only",
        "readonly",
        "ro",
        "read",
        "reads",
        "standby",
        "slave",
        "slaves",
        "secondary",
        "sync",
        "async",
        "synchronous",
        "asynchronous",
    ];
    let of_word = |word: &str| match () {
        () if PRIMARY.contains(&word) => Some(Route::Primary),
        () if REPLICA.contains(&word) => Some(Route::Replica),
        () => None,
    };
    for line in service.lines.iter().rev() {
        if line.is(&["option", "httpchk"]) || line.is(&["http-check", "send"]) {
            let paths = line.words.iter().filter_map(|word| word.strip_prefix('/'));
            let paths = paths.map(|path| path.split(['?', '/']).next().unwrap_or_default().to_ascii_lowercase());
            if let Some(route) = paths.into_iter().find_map(|path| of_word(&path)) {
                return route;
            }
        }
        if line.is(&["tcp-check", "expect"]) {
            let says = |text: &str| line.words.iter().any(|word| word.contains(text));
            match () {
                () if says("role:master") => return Route::Primary,
                () if says("role:slave") => return Route::Replica,
                () => {}
            }
        }
    }
    for part in &service.parts {
        let name = part.name().to_ascii_lowercase();
        if let Some(route) = name.split(|c: char| !c.is_alphanumeric()).find_map(of_word) {
            return route;
        }
    }
    let active = service.servers.iter().filter(|server| !server.options.is_backup).count();
    if active == 1 && service.servers.len() > 1 { Route::Primary } else { Route::Auto }
}
