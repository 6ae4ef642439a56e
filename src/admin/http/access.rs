//! Who asks, and whether he may: the rules in one place.
//!
//! A browser that somebody else's page drives is the enemy here. It sends the credentials that it knows with every
//! request, so a request that changes something must come from a page of ours or from no page at all; and a foreign name
//! can be made to lead to this machine, so nobody looks without credentials under a name that he could have made up.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::http::Uri;
use hyper::http::uri::Authority;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Connection;
use crate::admin::{Caller, Rights};
use crate::config::model::Config;
use crate::guard::Failure;
use crate::net::aside;
use crate::wire::pg::auth::Credential;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The address is banned, or not allowed.
    Address,
    /// Credentials over clear text, from elsewhere.
    ClearText,
    /// Credentials are needed.
    Anonymous,
    /// There are no users, and the request is not from here.
    NotFromHere,
    /// They are wrong.
    Wrong,
    /// Another site's page has made the browser send this.
    CrossSite,
}

impl Denied {
    /// In words, with the way out.
    pub(super) fn message(self) -> &'static str {
        match self {
            Denied::Address => "connections from this address are refused",
            Denied::ClearText => {
                "credentials are not taken over clear text from other machines; set admin.tls.cert and admin.tls.key and use \
                 https, or ask from the machine itself"
            }
            Denied::Anonymous => "log in as an [[admin.user]]; admin.views_from says who may look without",
            Denied::NotFromHere => {
                "only this machine may look, and under its address or as localhost, while there is no [[admin.user]]"
            }
            Denied::Wrong => "wrong user or password",
            Denied::CrossSite => "another site may not send this",
        }
    }
}

/// Credentials that were right, so that the next request on the same connection need not be checked as slowly. Forgotten
/// with the connection.
#[derive(Default)]
pub(super) struct Remembered(RefCell<Option<Right>>);

struct Right {
    /// A reload may change the password. Weak: what was configured is forgotten by everybody at once.
    under: Weak<Config>,
    shown: Zeroizing<Vec<u8>>,
}

impl Right {
    fn is(&self, config: &Arc<Config>, shown: &[u8]) -> bool {
        std::ptr::eq(self.under.as_ptr(), Arc::as_ptr(config)) && bool::from(self.shown.ct_eq(shown))
    }
}

/// Who sends this request. `name` and rights; an empty name is somebody who was not asked for one.
pub(super) async fn caller(connection: &Connection, method: &Method, headers: &HeaderMap) -> Result<Caller, Denied> {
    let config = connection.instance.config.load_full();
    if connection.instance.shared.guard.recheck(connection.peer).is_err() {
        return Err(Denied::Address);
    }
    if *method != Method::GET && *method != Method::HEAD && is_cross_site(headers) {
        return Err(Denied::CrossSite);
    }
    let database = config.admin.database.clone();
    let Some(shown) = headers.get(AUTHORIZATION) else {
        return match may_look(&config, address(connection), headers) {
            true if config.admin.users.is_empty() => Ok(Caller::new("", Rights::NobodyIsAdmin, &database)),
            true => Ok(Caller::new("", Rights::Viewer, &database)),
            false if config.admin.users.is_empty() => Err(Denied::NotFromHere),
            false => Err(Denied::Anonymous),
        };
    };
    if !connection.is_encrypted && !connection.peer.is_local() {
        return Err(Denied::ClearText);
    }
    let (name, rights) = check(connection, &config, shown.as_bytes()).await?;
    Ok(Caller::new(&name, rights, &database))
}

fn address(connection: &Connection) -> Option<IpAddr> {
    connection.peer.ip()
}

/// Somebody without credentials may look.
fn may_look(config: &Config, address: Option<IpAddr>, headers: &HeaderMap) -> bool {
    let is_listed = match address {
        Some(address) if config.admin.users.is_empty() => address.to_canonical().is_loopback(),
        Some(address) => config.admin.views_from.iter().any(|block| block.contains(address)),
        None => true,
    };
    is_listed && headers.get(HOST).is_none_or(|host| is_own_name(host.as_bytes()))
}

/// Not a name that anybody could have registered and pointed here: an address, localhost, or a name without a dot.
fn is_own_name(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost")
}

/// A browser says so of its own accord; other programs say neither.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let of_page = origin.as_ref().and_then(Uri::authority).map(Authority::as_str);
    let ours = headers.get(HOST).and_then(|host| host.to_str().ok());
    of_page.is_none() || of_page != ours
}

/// The name and the rights behind an `Authorization` header.
async fn check(connection: &Connection, config: &Arc<Config>, shown: &[u8]) -> Result<(String, Rights), Denied> {
    let Some((name, password)) = split(shown) else { return Err(wrong(connection)) };
    let known = config.admin.users.iter().find(|user| user.name == name);
    let was_right = connection.remembered.0.borrow().as_ref().is_some_and(|last| last.is(config, shown));
    let is_right = was_right
        || match known.map(|user| Credential::parse(&user.password.0)) {
            Some(Ok(clear @ Credential::Clear(_))) => clear.verify_clear(&name, &password),
            Some(Ok(slow)) => {
                let of = name.clone();
                aside::run(move || async move { slow.verify_clear(&of, &password) }).await.unwrap_or(false)
            }
            Some(Err(_)) | None => false,
        };
    match known {
        Some(user) if is_right => {
            let last = Right { under: Arc::downgrade(config), shown: Zeroizing::new(shown.to_vec()) };
            *connection.remembered.0.borrow_mut() = Some(last);
            Ok((name, user.role.into()))
        }
        _ => Err(wrong(connection)),
    }
}

fn wrong(connection: &Connection) -> Denied {
    connection.instance.shared.guard.note_failure(connection.peer, Failure::Password);
    tracing::warn!(peer = %connection.peer, "wrong credentials over HTTP");
    Denied::Wrong
}

/// User and password of `Basic base64(user:password)` (RFC 7617).
fn split(shown: &[u8]) -> Option<(String, Zeroizing<Vec<u8>>)> {
    let (scheme, rest) = shown.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(rest.trim_ascii()).ok()?);
    let colon = decoded.iter().position(|b| *b == b':')?;
    let (name, password) = decoded.split_at(colon);
    Some((String::from_utf8(name.to_vec()).ok()?, Zeroizing::new(password.get(1..)?.to_vec())))
}
