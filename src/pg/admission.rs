//! Who may log in, and how, by the rules of `pg_hba.conf`: what PostgreSQL's `hba_getauthmethod` and `ClientAuthentication`
//! decide. Once for each connection, behind its startup packet.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::errors::Trouble;
use super::ldap::{self, Denial, Question};
use super::login::{Known, LoginError, Talk, by_password, known, look_up};
use super::replicate;
use super::shared::Shared;
use crate::config::hba::{CertificateName, ClientCertificate, Facts, Found, Method, Peer, Rule, Rules};
use crate::config::model::{AuthMethod, ChannelBinding, Config};
use crate::net::{Stream, aside, certificate};
use crate::wire::pg::auth::Credential;
use crate::wire::pg::startup::Session as Startup;
use crate::wire::pg::{build, message, scram};

/// A name from the system's directory may take long, and blocks its thread: so many are asked for at a time.
static SLOW: Semaphore = Semaphore::const_new(2);

/// Lets a client in as its rule says, or tells it why not.
pub(super) async fn by_rules(
    shared: &Arc<Shared>,
    config: &Config,
    talk: &mut Talk,
    startup: &Startup,
) -> Result<(), LoginError> {
    let rules = rules(config);
    let rule = gate(&rules, talk, startup).await?;
    let user = startup.user.as_str();
    let method = match rule.method {
        // Only SCRAM can be bound.
        Method::Password if config.postgres.tls_channel_binding == ChannelBinding::Require => Method::ScramSha256,
        method => method,
    };
    match method {
        // Never reached: who is rejected has not passed the gate.
        Method::Reject => return Err(refuse(talk, user, rule, "rejected").await),
        Method::Trust | Method::Cert => {}
        Method::Peer => by_peer(&rules, rule, talk, user).await?,
        Method::Password => {
            let known = known(shared, config, talk, startup).await?;
            by_clear_text(shared, talk, user, &known.credentials).await?;
        }
        Method::Ldap => by_directory(shared, config, rule, talk, startup).await?,
        Method::Md5 | Method::ScramSha256 => {
            let method = if method == Method::Md5 { AuthMethod::Md5 } else { AuthMethod::ScramSha256 };
            let known = Known { method, ..known(shared, config, talk, startup).await? };
            by_password(shared, config, talk, startup, &known).await?;
        }
    }
    match rule.certificate {
        ClientCertificate::Named => by_certificate(&rules, rule, talk, user).await,
        ClientCertificate::Known | ClientCertificate::No => Ok(()),
    }
}

/// Lets a client through to the console, where its own users are asked for their passwords all the same: a rule can
/// only keep somebody away from it.
pub(super) async fn to_the_console(config: &Config, talk: &mut Talk, startup: &Startup) -> Result<(), LoginError> {
    if config.postgres.auth != AuthMethod::Hba {
        return Ok(());
    }
    let rules = rules(config);
    let rule = gate(&rules, talk, startup).await?;
    match rule.certificate {
        ClientCertificate::Named => by_certificate(&rules, rule, talk, &startup.user).await,
        ClientCertificate::Known | ClientCertificate::No => Ok(()),
    }
}

/// None would let nobody in.
fn rules(config: &Config) -> Arc<Rules> {
    config.postgres.hba.clone().unwrap_or_default()
}

/// The client's rule, if that may let it in; a certificate that the rule asks for is there.
async fn gate<'r>(rules: &'r Rules, talk: &mut Talk, startup: &Startup) -> Result<&'r Rule, LoginError> {
    let user = startup.user.as_str();
    let is_physical = replicate::wanted(startup).is_some() && startup.param("replication") != Some(b"database");
    let peer = match (talk.stream(), talk.peer().ip()) {
        (Stream::Unix(_), None) => Some(Peer::Unix),
        (_, Some(address)) => Some(Peer::Tcp { address, has_tls: talk.has_tls() }),
        (_, None) => None,
    };
    let database = (!is_physical).then_some(startup.database.as_str());
    let found = match peer.map(|peer| rules.find(&Facts { peer, database, user }, &interfaces)) {
        Some(Ok(found)) => found,
        Some(Err(e)) => {
            tracing::error!(error = %e, "nobody is let in: rules need this machine's addresses, which cannot be had");
            Found::None
        }
        // Its other end has left.
        None => Found::None,
    };
    let what = || {
        let host = talk.peer().ip().map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if talk.has_tls() { "SSL encryption" } else { "no encryption" };
        match is_physical {
            true => format!("host \"{host}\", user \"{user}\", {encryption}"),
            false => format!("host \"{host}\", user \"{user}\", database \"{}\", {encryption}", startup.database),
        }
    };
    let words = match found {
        Found::Rule(rule) if rule.certificate == ClientCertificate::No || peer_certificate(talk).is_some() => {
            return Ok(rule);
        }
        Found::Rule(_) => "connection requires a valid client certificate".to_owned(),
        Found::Rejected(rule) => {
            tracing::info!(rule = %rule.place, user, "a rule rejects a client");
            let kind = if is_physical { "replication connection" } else { "connection" };
            format!("pg_hba.conf rejects {kind} for {}", what())
        }
        Found::None if is_physical => format!("no pg_hba.conf entry for replication connection from {}", what()),
        Found::None => format!("no pg_hba.conf entry for {}", what()),
    };
    Err(talk.refuse(Trouble::NotAdmitted(words)).await)
}

/// Tells the client in PostgreSQL's words that it did not pass, and the log why.
async fn refuse(talk: &mut Talk, user: &str, rule: &Rule, why: &str) -> LoginError {
    let words = match rule.method {
        Method::Peer => format!("Peer authentication failed for user \"{user}\""),
        Method::Cert => format!("certificate authentication failed for user \"{user}\""),
        Method::Ldap => format!("LDAP authentication failed for user \"{user}\""),
        Method::Trust | Method::Reject => {
            format!("\"{}\" authentication failed for user \"{user}\"", rule.method.word())
        }
        Method::Md5 | Method::Password | Method::ScramSha256 => {
            return talk.wrong(user, format!("{why} (rule {})", rule.place)).await;
        }
    };
    drop(talk.refuse(Trouble::NotAdmitted(words)).await);
    LoginError::Password { user: user.to_owned(), why: format!("{why} (rule {})", rule.place) }
}

/// The name in the certificate has to be the user's, or to be mapped to it.
async fn by_certificate(rules: &Rules, rule: &Rule, talk: &mut Talk, user: &str) -> Result<(), LoginError> {
    let der = peer_certificate(talk).unwrap_or_default();
    let name = match rule.certificate_name {
        CertificateName::Common => certificate::common_name(&der),
        CertificateName::Distinguished => certificate::distinguished_name(&der),
    };
    match name.filter(|name| !name.is_empty()) {
        Some(name) if rules.lets(rule.map.as_deref(), &name, user) => Ok(()),
        Some(name) => {
            let why = format!("the client's certificate is {name:?}'s{}", through(rule));
            Err(refuse(talk, user, rule, &why).await)
        }
        None => Err(refuse(talk, user, rule, "the client's certificate names nobody").await),
    }
}

/// The owner of the process at the other end of a Unix socket has to be the user, or to be mapped to it.
async fn by_peer(rules: &Rules, rule: &Rule, talk: &mut Talk, user: &str) -> Result<(), LoginError> {
    let uid = match talk.stream() {
        Stream::Unix(socket) => socket.peer_cred().map(|peer| peer.uid()).ok(),
        Stream::Tcp(_) | Stream::Tls(_) => None,
    };
    let Some(uid) = uid else { return Err(refuse(talk, user, rule, "the other end is not known").await) };
    let owner = slowly(move || User::from_uid(Uid::from_raw(uid)).ok().flatten()).await.flatten();
    match owner {
        Some(owner) if rules.lets(rule.map.as_deref(), &owner.name, user) => Ok(()),
        Some(owner) => {
            let why = format!("the other end runs as {:?}{}", owner.name, through(rule));
            Err(refuse(talk, user, rule, &why).await)
        }
        None => Err(refuse(talk, user, rule, &format!("the system has no name for its user {uid}")).await),
    }
}

/// For the log.
fn through(rule: &Rule) -> String {
    rule.map.as_ref().map_or_else(String::new, |map| format!(", whom map {map:?} does not let in as this user"))
}

/// Asks for the password as it is.
async fn by_clear_text(
    shared: &Arc<Shared>,
    talk: &mut Talk,
    user: &str,
    credentials: &[Credential],
) -> Result<(), LoginError> {
    let body = clear_text(shared, talk).await?;
    let Ok(password) = message::password(&body) else {
        return Err(talk.refuse(not_terminated()).await);
    };
    if credentials.is_empty() {
        return Err(talk.wrong(user, "no such user").await);
    }
    for credential in credentials.iter().filter(|_| !password.is_empty()) {
        let is_right = match credential {
            Credential::Scram(verifier) => {
                let (password, salt, iterations) = (password.to_vec(), verifier.salt.clone(), verifier.iterations);
                let keys = aside::run(move || async move { scram::derive(&password, &salt, iterations) }).await;
                let keys = keys.ok().filter(|keys| verifier.accepts(keys));
                if let Some(keys) = &keys {
                    shared.remember_proof(user, verifier, keys.client_key);
                }
                keys.is_some()
            }
            known => known.verify_clear(user, password),
        };
        if is_right {
            return Ok(());
        }
    }
    Err(talk.wrong(user, "wrong password").await)
}

/// Asks for the password as it is, and a directory whether it is right.
async fn by_directory(
    shared: &Arc<Shared>,
    config: &Config,
    rule: &Rule,
    talk: &mut Talk,
    startup: &Startup,
) -> Result<(), LoginError> {
    let user = startup.user.as_str();
    let Some(ldap) = rule.ldap.clone() else { return Err(refuse(talk, user, rule, "the rule names no server").await) };
    let body = clear_text(shared, talk).await?;
    let Ok(password) = message::password(&body) else {
        return Err(talk.refuse(not_terminated()).await);
    };
    // Of a name without a password a directory takes no proof, and may say yes all the same.
    if password.is_empty() {
        drop(talk.refuse(Trouble::EmptyPassword).await);
        return Err(LoginError::Password { user: user.to_owned(), why: format!("no password (rule {})", rule.place) });
    }
    let question = Question {
        ldap,
        tls: config.postgres.ldap_tls.clone(),
        limit: config.postgres.ldap_timeout,
        user: user.to_owned(),
        password: Zeroizing::new(password.to_vec()),
    };
    match ldap::ask(&shared.directories, question).await {
        Ok(()) => {}
        Err(Denial::Wrong(why)) => return Err(refuse(talk, user, rule, &why).await),
        // Nobody has guessed: that nobody is banned for.
        Err(Denial::Unknown(why)) => {
            tracing::error!(rule = %rule.place, user, why, "a login could not be decided by LDAP");
            let words = format!("LDAP authentication failed for user \"{user}\"");
            return Err(talk.refuse(Trouble::NotAdmitted(words)).await);
        }
    }
    let postgres = &config.postgres;
    let database = postgres.database(&startup.database).filter(|_| postgres.user(user).is_none());
    if let Some(cluster) = database.and_then(|found| postgres.clusters.get(found.cluster)) {
        // What PostgreSQL knows serves as well, if it can be asked: what the client gave may be of the directory only.
        if postgres.auth_user.is_some() {
            let _ = look_up(shared, postgres.auth_query_cache, &cluster.name, user).await;
        }
        if let Ok(password) = std::str::from_utf8(password) {
            shared.logins.take_given(&cluster.name, user, Zeroizing::new(password.to_owned()));
        }
    }
    Ok(())
}

/// Has the client send its password as it is: the body of its message.
async fn clear_text(shared: &Shared, talk: &mut Talk) -> Result<Zeroizing<Vec<u8>>, LoginError> {
    let mut out = Vec::new();
    build::authentication_cleartext(&mut out);
    talk.write(&out).await?;
    Ok(Zeroizing::new(talk.password(shared).await?))
}

fn not_terminated() -> Trouble {
    Trouble::Protocol("the password message is not a terminated text".to_owned())
}

async fn slowly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let _turn = SLOW.acquire().await.ok()?;
    tokio::task::spawn_blocking(work).await.ok()
}

fn peer_certificate(talk: &Talk) -> Option<Vec<u8>> {
    match talk.stream() {
        Stream::Tls(tls) => tls.peer_certificate(),
        Stream::Tcp(_) | Stream::Unix(_) => None,
    }
}

/// This machine's addresses with their netmasks.
fn interfaces() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let all = getifaddrs()?;
    Ok(all.filter_map(|interface| Some((ip(interface.address)?, ip(interface.netmask)?))).collect())
}
