//! Who may log in: `pool_passwd`, `pool_hba.conf`, `pcp.conf`, and who watches.

use super::{Pgpool, absolute};
use crate::config::quote;
use crate::import::ImportError;
use crate::import::draft::{Draft, LeftKind};
use crate::import::table::Entry;
use crate::wire::pg::auth::Credential;

/// What stands for a password that is not known.
const PLACEHOLDER: &str = "CHANGE-ME";

/// A password of `pool_passwd` or of a key: in clear text, a verifier, or encrypted.
enum Password {
    Known(String),
    Encrypted,
    None,
}

fn password(text: &str) -> Password {
    match text {
        "" => Password::None,
        text if text.starts_with("AES") => Password::Encrypted,
        text => Password::Known(text.strip_prefix("TEXT").unwrap_or(text).to_owned()),
    }
}

fn is_clear(text: &str) -> bool {
    matches!(Credential::parse(text), Ok(Credential::Clear(_))) && !text.is_empty() && text != PLACEHOLDER
}

pub(super) fn write(all: &Pgpool, draft: &mut Draft) -> Result<(), ImportError> {
    let has_md5 = all.passwords.iter().any(|login| matches!(Credential::parse(&login.secret), Ok(Credential::Md5(_))));
    let rules = all.flag("enable_pool_hba")?;
    let by_rules = match rules {
        Some((true, entry)) => {
            let path = all.rules.as_ref().map_or_else(|| all.path("pool_hba.conf"), |path| absolute(path));
            let postgres = draft.one("postgres");
            postgres.set("auth", quote("hba"), entry.from());
            postgres.set("hba_file", quote(&path), entry.from());
            true
        }
        _ => {
            if let Some((_, entry)) = rules {
                draft.leave(
                    LeftKind::Moot,
                    &entry.place,
                    &entry.key,
                    &entry.value,
                    "Without it passwords are asked for.",
                );
            }
            if let Some(path) = &all.rules {
                let path = absolute(path);
                draft
                    .note(format!("{path} is not used, as enable_pool_hba is off: auth = \"hba\" and hba_file use it"));
            }
            let auth = if has_md5 { "md5" } else { "scram-sha-256" };
            let why = "Pgpool-II leaves it to the servers; Forebay asks for the passwords that it knows";
            draft.one("postgres").set("auth", quote(auth), why);
            false
        }
    };
    let mut clear: Option<(String, String)> = None;
    for login in &all.passwords {
        let section = draft.more("postgres.user");
        match password(&login.secret) {
            Password::Known(text) => {
                if clear.is_none() && is_clear(&text) {
                    clear = Some((login.name.clone(), text.clone()));
                }
                section.set("name", quote(&login.name), &login.place);
                section.set("password", quote(&text), "");
            }
            Password::Encrypted => {
                section.remark("PLACEHOLDER: the password is encrypted with Pgpool-II's key, and is not read.");
                section.set("name", quote(&login.name), &login.place);
                section.set("password", quote(PLACEHOLDER), "");
                draft.note(format!(
                    "{}: write the password of {} in place of {PLACEHOLDER}",
                    login.place,
                    quote(&login.name)
                ));
            }
            Password::None => section.set("name", quote(&login.name), &login.place),
        }
    }
    if all.passwords.is_empty() && !by_rules {
        draft.note("no pool_passwd was read: add a [[postgres.user]] for each login, or auth_query");
    }
    pcp(all, draft);
    watch(all, clear, draft);
    Ok(())
}

/// Administrators: their passwords are hashes of another kind.
fn pcp(all: &Pgpool, draft: &mut Draft) {
    for login in &all.pcp {
        let section = draft.more("admin.user");
        section.remark(
            "PLACEHOLDER: pcp.conf has an MD5 of the password alone, which PostgreSQL's protocol cannot check. Choose a new one.",
        );
        section.set("name", quote(&login.name), &login.place);
        section.set("password", quote(PLACEHOLDER), "");
        section.set("role", quote("admin"), "");
        draft.note(format!(
            "{}: choose a password for the administrator {} in place of {PLACEHOLDER}",
            login.place,
            quote(&login.name)
        ));
    }
}

/// `sr_check_*` and `health_check_*`: the login that watches the nodes.
fn watch(all: &Pgpool, clear: Option<(String, String)>, draft: &mut Draft) {
    let keys = ["sr_check", "health_check"];
    let of = |what: &str| keys.iter().find_map(|key| all.value(&format!("{key}_{what}")));
    let chosen = of("user");
    let has_same_user =
        |entry: &&Entry| chosen.is_some_and(|user| user.key.split('_').next() == entry.key.split('_').next());
    let user = chosen.map(|entry| (entry.value.clone(), entry.from()));
    let known = user.as_ref().and_then(|(name, _)| all.passwords.iter().find(|login| login.name == *name));
    let secret = match of("password").filter(has_same_user).map(|entry| password(&entry.value)) {
        Some(Password::Known(text)) => Some(text),
        _ => known.and_then(|login| match password(&login.secret) {
            Password::Known(text) if is_clear(&text) => Some(text),
            _ => None,
        }),
    };
    let (name, from, secret) = match (user, secret, clear) {
        (Some((name, from)), secret, _) => (name, from, secret),
        (None, _, Some((name, secret))) => (name, "the first with a known password".to_owned(), Some(secret)),
        (None, ..) => ("forebay_monitor".to_owned(), "PLACEHOLDER".to_owned(), None),
    };
    let database = of("database").map(|entry| (quote(&entry.value), entry.from()));
    let is_known = secret.is_some();
    for cluster in draft.all("postgres.cluster") {
        cluster.set("monitor_user", quote(&name), &from);
        cluster.set("monitor_password", quote(secret.as_deref().unwrap_or(PLACEHOLDER)), "");
        if let Some((database, from)) = &database {
            cluster.set("monitor_database", database.clone(), from);
        }
    }
    if !is_known {
        draft.note(format!(
            "Forebay watches the servers as {}: write its password into monitor_password ({PLACEHOLDER}); membership in pg_monitor \
             is enough",
            quote(&name)
        ));
    }
    // The other of the two pairs, and what is said of single nodes.
    for entry in &all.entries {
        let (bare, number) = super::keys::split_number(&entry.key);
        let is_check =
            keys.iter().any(|key| ["user", "password", "database"].iter().any(|what| bare == format!("{key}_{what}")));
        let is_used = number.is_none()
            && ["user", "password", "database"].iter().any(|what| of(what).is_some_and(|used| used.key == entry.key));
        if is_check && !is_used && !entry.value.is_empty() {
            let why = "One login watches all nodes of a cluster: monitor_user, monitor_password and monitor_database.";
            draft.leave(LeftKind::NoEqual, &entry.place, &entry.key, &entry.value, why);
        }
    }
}
