//! Who may log in, and how: `auth_type`, the list of users, `[users]`, `auth_query`, the console's users, and who watches.

use super::{PgBouncer, ini, keys, of_entry};
use crate::config::quote;
use crate::import::ImportError;
use crate::import::draft::{Draft, LeftKind};
use crate::import::source::parts;
use crate::import::table::Entry;
use crate::wire::pg::auth::Credential;

/// What stands for a password that is not known.
const PLACEHOLDER: &str = "CHANGE-ME";

/// What a stored password is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Clear,
    Md5,
    Scram,
}

fn kind(password: &str) -> Kind {
    match Credential::parse(password) {
        _ if password.is_empty() => Kind::None,
        Ok(Credential::Clear(_)) => Kind::Clear,
        Ok(Credential::Md5(_)) => Kind::Md5,
        Ok(Credential::Scram(_)) | Err(_) => Kind::Scram,
    }
}

/// The one way in which logins are looked up: that of `[pgbouncer]`, else of the first database that has one.
pub(super) fn lookup(all: &PgBouncer, key: &str) -> Option<Entry> {
    if let Some(entry) = all.main(key) {
        return Some(entry.clone());
    }
    let strings = all.ini.databases.iter().filter_map(|entry| ini::connection_string(entry).ok());
    strings.flatten().find(|pair| pair.key == key && !pair.value.is_empty())
}

/// A user in the making.
#[derive(Debug)]
struct User {
    name: String,
    password: String,
    /// Another one that clients show.
    previous: Option<String>,
    from: String,
    remark: Option<String>,
}

pub(super) fn write(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    let auth = auth(all, draft)?;
    let mut users: Vec<User> = Vec::new();
    for listed in &all.users {
        let (name, password) = (listed.name.clone(), listed.password.clone());
        users.push(User { name, password, previous: None, from: listed.place.to_string(), remark: None });
    }
    forced(all, &mut users, draft)?;
    let lookup_user = look_up(all, &mut users, draft)?;
    let needs_password = !matches!(auth, "trust" | "cert" | "hba");
    for user in &users {
        let section = draft.more("postgres.user");
        if let Some(remark) = &user.remark {
            section.remark(remark);
        }
        section.set("name", quote(&user.name), &user.from);
        if !user.password.is_empty() {
            section.set("password", quote(&user.password), "");
        } else if needs_password {
            draft.note(format!(
                "{} has no password in {}: nobody can log in as this user",
                quote(&user.name),
                user.from
            ));
        }
        if let Some(section) = draft.named("postgres.user", &user.name)
            && let Some(previous) = &user.previous
        {
            section.set("previous_password", quote(previous), "");
        }
    }
    settings(all, draft)?;
    admins(all, &users, draft);
    watch(&users, lookup_user.as_deref(), auth, draft);
    Ok(())
}

/// `auth_type`
fn auth(all: &PgBouncer, draft: &mut Draft) -> Result<&'static str, ImportError> {
    let Some(entry) = all.main("auth_type") else {
        draft.one("postgres").set("auth", quote("md5"), "PgBouncer's default; \"scram-sha-256\" is safer");
        return Ok("md5");
    };
    let theirs = entry.value.to_ascii_lowercase();
    let has_md5 = all.users.iter().any(|user| kind(&user.password) == Kind::Md5);
    let (ours, why) = match theirs.as_str() {
        "md5" => ("md5", ""),
        "scram-sha-256" => ("scram-sha-256", ""),
        "trust" => ("trust", ""),
        "cert" => ("cert", ""),
        "hba" => ("hba", ""),
        "any" => (
            "trust",
            "PgBouncer ignores the login that a client names; Forebay, too, asks for no password, but the login counts.",
        ),
        "plain" if has_md5 => ("md5", "Passwords are not asked for in clear text; md5 checks the same ones."),
        "plain" => ("scram-sha-256", "Passwords are not asked for in clear text; SCRAM checks the same ones."),
        "ldap" => {
            draft.note(format!(
                "{}: auth_type ldap is a rule of pg_hba.conf here: auth = \"hba\", hba_file, and there a line with the \
                 method ldap",
                entry.place
            ));
            (
                "scram-sha-256",
                "Write auth = \"hba\", and in the hba_file lines with the method ldap and PostgreSQL's options \
                 (docs/security.md).",
            )
        }
        "pam" | "peer" => {
            draft.note(format!(
                "{}: auth_type {theirs} has no equal; clients need passwords now: [[postgres.user]] or auth_query",
                entry.place
            ));
            (
                "scram-sha-256",
                "Forebay asks nobody else who a client is; give it passwords in [[postgres.user]], or auth_query.",
            )
        }
        _ => return Err(entry.wrong("cert, md5, scram-sha-256, plain, trust, any, hba, ldap or pam")),
    };
    if !why.is_empty() {
        draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
    }
    let postgres = draft.one("postgres");
    postgres.set("auth", quote(ours), entry.from());
    let files = [("auth_hba_file", "hba_file", "hba"), ("auth_ident_file", "ident_file", "hba cert")];
    for (theirs, key, with) in files {
        let Some(entry) = all.main(theirs).filter(|entry| !entry.value.is_empty()) else { continue };
        if with.split(' ').any(|with| with == ours) {
            draft.one("postgres").set(key, quote(&all.path(&entry.value)), entry.from());
        } else {
            let why = format!("PgBouncer reads it only with auth_type = {}.", with.replace(' ', " or "));
            draft.leave(LeftKind::Moot, &entry.place, &entry.key, &entry.value, why);
        }
    }
    if let Some(entry) = all.main("auth_cert_map") {
        draft.one("postgres").set("cert_map", quote(&entry.value), entry.from());
    }
    Ok(ours)
}

/// Users that connection strings name: the servers are shown their passwords, so Forebay has to know them.
fn forced(all: &PgBouncer, users: &mut Vec<User>, draft: &mut Draft) -> Result<(), ImportError> {
    for entry in &all.ini.databases {
        let keys = ini::connection_string(entry)?;
        let last = |key: &str| keys.iter().rev().find(|pair| pair.key == key).filter(|pair| !pair.value.is_empty());
        let (Some(user), password) = (last("user"), last("password")) else { continue };
        let known = users.iter_mut().find(|known| known.name == user.value);
        match (known, password) {
            (Some(known), Some(password)) if known.password != password.value => {
                let can_be_both = matches!(kind(&known.password), Kind::Clear | Kind::Scram)
                    && kind(&password.value) == Kind::Clear
                    && known.previous.is_none();
                if can_be_both {
                    known.previous = Some(std::mem::replace(&mut known.password, password.value.clone()));
                    let why = "the servers are shown the first password, clients may show either";
                    known.remark = Some(format!("{} and {} have different passwords: {why}.", known.from, entry.place));
                } else {
                    let why = "Forebay knows one password for each user (and previous_password while it is being replaced); this \
                               user has another one elsewhere, which was kept.";
                    draft.leave(LeftKind::NoEqual, &entry.place, &format!("{}: password", entry.key), "***", why);
                    draft.note(format!(
                        "{}: the password of user={} is not the one that was kept",
                        entry.place, user.value
                    ));
                }
            }
            (None, Some(password)) => users.push(User {
                name: user.value.clone(),
                password: password.value.clone(),
                previous: None,
                from: format!("{} user and password of {}", entry.place, quote(&entry.key)),
                remark: Some(
                    "Whoever knows this password may now log in as this user, too, not only Forebay.".to_owned(),
                ),
            }),
            (None, None) => {
                users.push(User {
                    name: user.value.clone(),
                    password: PLACEHOLDER.to_owned(),
                    previous: None,
                    from: format!("{} user of {}", entry.place, quote(&entry.key)),
                    remark: Some("PLACEHOLDER: no password was found for this login at the servers.".to_owned()),
                });
                draft.note(format!("write the password of {} in place of {PLACEHOLDER}", quote(&user.value)));
            }
            (Some(_), _) => {}
        }
    }
    Ok(())
}

/// `auth_user`, `auth_query`, `auth_dbname`. Answers who looks up.
fn look_up(all: &PgBouncer, users: &mut Vec<User>, draft: &mut Draft) -> Result<Option<String>, ImportError> {
    let user = lookup(all, "auth_user").filter(|entry| !entry.value.is_empty());
    let Some(user) = user else {
        for key in ["auth_query", "auth_dbname"] {
            if let Some(entry) = lookup(all, key) {
                let why = "It is of no use without auth_user, which is not written anywhere.";
                draft.leave(LeftKind::Moot, &entry.place, key, &entry.value, why);
            }
        }
        return Ok(None);
    };
    let known = users.iter_mut().find(|known| known.name == user.value);
    let placeholder = format!("write the password of auth_user {} in place of {PLACEHOLDER}", quote(&user.value));
    match known {
        Some(known) if kind(&known.password) == Kind::Clear => {}
        Some(known) => {
            known.password = PLACEHOLDER.to_owned();
            known.previous = None;
            let why = "PLACEHOLDER: this login runs auth_query, for which its password is needed in clear text.";
            known.remark = Some(why.to_owned());
            draft.note(placeholder);
        }
        None => {
            users.push(User {
                name: user.value.clone(),
                password: PLACEHOLDER.to_owned(),
                previous: None,
                from: user.from(),
                remark: Some("PLACEHOLDER: this login runs auth_query; no password was found for it.".to_owned()),
            });
            draft.note(placeholder);
        }
    }
    let query = lookup(all, "auth_query");
    let database = lookup(all, "auth_dbname");
    let postgres = draft.one("postgres");
    postgres.set("auth_user", quote(&user.value), user.from());
    if let Some(query) = &query {
        postgres.set("auth_query", quote(&query.value), query.from());
    }
    match database {
        // A name of [databases], which may be another one on the server.
        Some(entry) => {
            let named = all.ini.databases.iter().rev().find(|database| database.key == entry.value);
            let keys = named.map(ini::connection_string).transpose()?.unwrap_or_default();
            let dbname = keys.iter().find(|pair| pair.key == "dbname").map_or(&entry.value, |pair| &pair.value);
            postgres.set("auth_dbname", quote(dbname), entry.from());
        }
        None => {
            let first = all.ini.databases.iter().find(|entry| entry.key != "*" && entry.key != "pgbouncer");
            if let Some(entry) = first {
                let keys = ini::connection_string(entry).unwrap_or_default();
                let dbname = keys.iter().find(|pair| pair.key == "dbname").map_or(&entry.key, |pair| &pair.value);
                let why = "PgBouncer asks in the database that the client wants; Forebay in one";
                postgres.set("auth_dbname", quote(dbname), why);
            }
        }
    }
    if let Some(query) = query {
        let why = "It was taken over. Forebay runs it with search_path = pg_catalog: functions of your own need their schema.";
        draft.leave(LeftKind::NoEqual, &query.place, &query.key, &query.value, why);
    }
    Ok(Some(user.value))
}

/// `[users]`
fn settings(all: &PgBouncer, draft: &mut Draft) -> Result<(), ImportError> {
    for entry in &all.ini.users {
        let mut left = Vec::new();
        for pair in ini::connection_string(entry)? {
            let Some(section) = draft.named("postgres.user", &entry.key) else {
                let why = "Settings of a user need a [[postgres.user]] with a password, and none was found; add it, or write \
                           them into [postgres.pool] or a [[postgres.database]].";
                left.push((LeftKind::NoEqual, pair, why));
                continue;
            };
            if let Some((kind, why)) = of_entry(keys::USER, &pair, section)? {
                left.push((kind, pair, why));
            }
        }
        for (kind, pair, why) in left {
            draft.leave(kind, &pair.place, &format!("{}: {}", entry.key, pair.key), &pair.value, why);
        }
    }
    Ok(())
}

/// `admin_users`, `stats_users`
fn admins(all: &PgBouncer, users: &[User], draft: &mut Draft) {
    for (key, role) in [("admin_users", "admin"), ("stats_users", "viewer")] {
        let Some(entry) = all.main(key) else { continue };
        for name in parts(&entry.value) {
            if draft.is_named("admin.user", name) {
                draft.leave(LeftKind::Moot, &entry.place, key, name, "It is an [[admin.user]] already.");
                continue;
            }
            match users.iter().find(|user| user.name == name).filter(|user| !user.password.is_empty()) {
                Some(user) => {
                    let section = draft.more("admin.user");
                    section.set("name", quote(name), entry.from());
                    section.set("password", quote(&user.password), "");
                    section.set("role", quote(role), "");
                }
                None => {
                    let why = "The console's users are [[admin.user]] with passwords of their own, and none was found for this one.";
                    draft.leave(LeftKind::NoEqual, &entry.place, key, name, why);
                    draft.note(format!("{}: add an [[admin.user]] for {} with a password", entry.place, quote(name)));
                }
            }
        }
    }
}

/// The login that watches the nodes: one whose password is known in clear text.
fn watch(users: &[User], lookup_user: Option<&str>, auth: &str, draft: &mut Draft) {
    let fits = |user: &&User| match kind(&user.password) {
        Kind::Clear => user.password != PLACEHOLDER,
        Kind::None => auth == "trust",
        Kind::Md5 | Kind::Scram => false,
    };
    let by_lookup = users.iter().filter(fits).find(|user| Some(user.name.as_str()) == lookup_user);
    let chosen = by_lookup.or(users.iter().find(fits)).map(|user| user.name.clone());
    let clusters = draft.all("postgres.cluster");
    match chosen {
        Some(name) => {
            for cluster in clusters {
                cluster.set(
                    "monitor_user",
                    quote(&name),
                    "watches the nodes; better one of its own, a member of pg_monitor",
                );
            }
        }
        None => {
            for cluster in clusters {
                cluster.remark(
                    "PLACEHOLDER: the login that watches the nodes (a member of pg_monitor). PgBouncer has none, and of the \
                     users no password in clear text is known.",
                );
                cluster.set("monitor_user", quote("forebay_monitor"), "");
                cluster.set("monitor_password", quote(PLACEHOLDER), "");
            }
            draft.note(format!(
                "Forebay watches the servers: make a login that is a member of pg_monitor and write it into monitor_user and \
                 monitor_password ({PLACEHOLDER})"
            ));
        }
    }
}
