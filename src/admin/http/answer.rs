//! Answers: a status, a body, and the headers that every answer has.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::access::Denied;
use crate::admin::Refusal;
use crate::wire::pg::sqlstate::ToClient;

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// An answer of this type. Nothing of it may be kept, framed, or taken for another type; a page may run and look like what
/// we serve alone, and its scripts cannot make markup of a text.
pub(super) fn with(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let always = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        ),
    ];
    for (name, value) in always {
        header(&mut answer, name, value);
    }
    answer
}

/// 200
pub(super) fn ok(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    with(StatusCode::OK, kind, body)
}

/// A file that may be kept, if it is asked each time whether it is still the same; nothing but that if `is_known`.
pub(super) fn tagged(kind: &'static str, text: &'static str, tag: &str, is_known: bool) -> Answer {
    let mut answer = match is_known {
        true => with(StatusCode::NOT_MODIFIED, kind, ""),
        false => with(StatusCode::OK, kind, text),
    };
    header(&mut answer, CACHE_CONTROL, "no-cache");
    if let Ok(tag) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// An error, and the way out.
pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    with(status, JSON, format!("{}\n", json!({ "error": message })))
}

/// Somewhere else.
pub(super) fn redirect(to: &'static str) -> Answer {
    let mut answer = with(StatusCode::FOUND, TEXT, "");
    header(&mut answer, LOCATION, to);
    answer
}

/// Only these methods.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed} here"));
    header(&mut answer, ALLOW, allowed);
    answer
}

/// Not for this caller. A page of ours asks for the password itself (`asks_itself`): it is not to be overtaken by the
/// browser's own question, which would then remember the answer and send it along with everything.
pub(super) fn denied(why: Denied, asks_itself: bool) -> Answer {
    let status = match why {
        Denied::Anonymous | Denied::Wrong => StatusCode::UNAUTHORIZED,
        Denied::Address | Denied::ClearText | Denied::NotFromHere | Denied::CrossSite => StatusCode::FORBIDDEN,
    };
    let mut answer = error(status, why.message());
    if status == StatusCode::UNAUTHORIZED && !asks_itself {
        header(&mut answer, WWW_AUTHENTICATE, "Basic realm=\"forebay\", charset=\"UTF-8\"");
    }
    answer
}

/// What the console would say.
pub(super) fn refused(refusal: &Refusal) -> Answer {
    let status = match refusal {
        Refusal::NotAllowed { .. } | Refusal::NotFromHere | Refusal::NoAdminUser(_) => StatusCode::FORBIDDEN,
        Refusal::NoDatabase(_) | Refusal::NoService(_) | Refusal::NoClient(_) | Refusal::UnknownView(_) => {
            StatusCode::NOT_FOUND
        }
        Refusal::WrongState(_) | Refusal::OwnDatabase(_) | Refusal::Node(_) => StatusCode::CONFLICT,
        Refusal::NotAvailable { .. } => StatusCode::NOT_IMPLEMENTED,
        Refusal::Ended => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = json!({
        "error": refusal.message(),
        "sqlstate": refusal.sqlstate(),
        "hint": refusal.hint(),
    });
    with(status, JSON, format!("{body}\n"))
}

fn header(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
