//! Which path answers what.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, StatusCode};

use super::access::{self, Denied};
use super::answer::{self, Answer, JSON};
use super::history::Span;
use super::{Connection, LONGEST_BODY, PATIENCE, haproxy, health, json, page};
use crate::admin::facts::Facts;
use crate::admin::metrics;
use crate::admin::statement::{self, Statement};
use crate::admin::{Caller, Refusal, Rights, VIEWS, execute};

/// Where everything else about a request is decided.
pub(super) async fn answer(connection: &Connection, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    // These answer everybody: a balancer has no credentials, and the page that asks for them has to be there first.
    match path {
        "/healthz" | "/readyz" if !is_read => return answer::method_not_allowed("GET, HEAD"),
        "/healthz" => return health::healthz(&connection.instance).await,
        "/readyz" => return health::readyz(&connection.instance),
        path if let Some(file) = page::file(path).filter(|_| is_read) => return file.answer(&head.headers),
        _ => {}
    }
    let asks_itself = head.headers.get("x-requested-with").is_some_and(|by| by == "forebay");
    let caller = match access::caller(connection, &head.method, &head.headers).await {
        Ok(caller) => caller,
        Err(why) => return answer::denied(why, asks_itself),
    };
    let instance = &connection.instance;
    let query = head.uri.query().unwrap_or_default();
    match (path, is_read) {
        ("/api/v1/admin", _) if head.method == Method::POST => {
            let text = match statement_text(&head.headers, body).await {
                Ok(text) => text,
                Err(refused) => return refused,
            };
            run(connection, caller, &text, asks_itself).await
        }
        ("/api/v1/admin", _) => answer::method_not_allowed("POST"),
        ("/metrics", true) => {
            let accept = head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let (kind, text) = metrics::exposition(instance, accept).await;
            answer::ok(kind, text)
        }
        (path, true) if haproxy::is_csv(path, query) => {
            answer::ok("text/plain; charset=utf-8", haproxy::csv(&Facts::gather(instance, haproxy::NEEDS).await))
        }
        ("/stats", true) => answer::redirect("/"),
        ("/api/v1/overview", true) => match since(query) {
            Ok(since) => {
                let whole = page::overview(instance, &connection.past, &caller, since).await;
                answer::ok(JSON, format!("{whole}\n"))
            }
            Err(_) => no_moment(),
        },
        ("/api/v1/history", true) => past(connection, query),
        (path, true) => match path.strip_prefix("/api/v1/") {
            Some(name) => view(connection, caller, name, query).await,
            None => answer::error(StatusCode::NOT_FOUND, "there is nothing here; /api/v1 lists the views"),
        },
        (_, false) => answer::method_not_allowed("GET, HEAD"),
    }
}

/// The samples of `span=10m` or `24h`, with `since=MS` only those that are new to the reader.
fn past(connection: &Connection, query: &str) -> Answer {
    let span = Span::named(parameter(query, "span").unwrap_or("10m"));
    match (span, since(query)) {
        (Some(span), Ok(since)) => {
            let samples = connection.past.borrow().json(span, since.unwrap_or(0));
            answer::ok(JSON, format!("{samples}\n"))
        }
        (None, _) => answer::error(StatusCode::BAD_REQUEST, "span must be 10m or 24h"),
        (_, Err(_)) => no_moment(),
    }
}

/// Milliseconds since 1970 that the reader has seen everything of.
fn since(query: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    parameter(query, "since").map(str::parse).transpose()
}

fn no_moment() -> Answer {
    answer::error(StatusCode::BAD_REQUEST, "since must be a number: milliseconds since 1970")
}

/// Rows of a view, by its name in lower case and with `_` between words; `limit=N` for the last ones only.
async fn view(connection: &Connection, mut caller: Caller, name: &str, query: &str) -> Answer {
    if name.is_empty() {
        let names: Vec<String> = VIEWS.iter().map(|view| view.name.to_ascii_lowercase().replace(' ', "_")).collect();
        return answer::ok(JSON, format!("{}\n", serde_json::json!(names)));
    }
    let words = name.replace('_', " ");
    let named = |view: &&'static crate::admin::View| {
        view.name.eq_ignore_ascii_case(name) || view.name.eq_ignore_ascii_case(&words)
    };
    let Some(view) = VIEWS.iter().find(named) else {
        return answer::error(StatusCode::NOT_FOUND, &format!("there is no view {name}; /api/v1/ lists them"));
    };
    let limit = match parameter(query, "limit").map(str::parse::<usize>) {
        None => usize::MAX,
        Some(Ok(limit)) => limit,
        Some(Err(_)) => return answer::error(StatusCode::BAD_REQUEST, "limit must be a number"),
    };
    match execute(&connection.instance, &mut caller, &Statement::Show(view)).await {
        Ok(done) => {
            let rows = done.table.map_or_else(
                || serde_json::json!([]),
                |mut table| {
                    table.rows.drain(..table.rows.len().saturating_sub(limit));
                    json::rows(&table)
                },
            );
            answer::ok(JSON, format!("{rows}\n"))
        }
        Err(refusal) => answer::refused(&refusal),
    }
}

/// Runs one statement.
async fn run(connection: &Connection, mut caller: Caller, text: &str, asks_itself: bool) -> Answer {
    let statements = match statement::parse(text) {
        Ok(statements) => statements,
        Err(refusal) => return answer::refused(&refusal),
    };
    let [statement] = statements.as_slice() else {
        let found = statements.len();
        return answer::error(StatusCode::BAD_REQUEST, &format!("one statement is expected (found {found})"));
    };
    if matches!(statement, Statement::Command(_)) && caller.name.is_empty() && caller.rights != Rights::NobodyIsAdmin {
        return answer::denied(Denied::Anonymous, asks_itself);
    }
    match execute(&connection.instance, &mut caller, statement).await {
        Ok(done) => answer::ok(JSON, format!("{}\n", json::answer(&done))),
        Err(refusal) => answer::refused(&refusal),
    }
}

/// The statement of a body: the text itself, a JSON object's `sql`, or a form's.
async fn statement_text(headers: &HeaderMap, body: Incoming) -> Result<String, Answer> {
    let read = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST_BODY).collect()).await;
    let bytes: Bytes = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let why = format!("a statement may have {LONGEST_BODY} bytes at most");
            return Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, &why));
        }
        Ok(Err(_)) => return Err(answer::error(StatusCode::BAD_REQUEST, "the body could not be read")),
        Err(_) => return Err(answer::error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let Ok(text) = String::from_utf8(bytes.to_vec()) else {
        return Err(answer::refused(&Refusal::NotUtf8));
    };
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with(JSON) {
        return Ok(text);
    }
    let wanted = "the body must be a JSON object such as {\"sql\": \"SHOW NODES\"}";
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(object) => match object.get("sql").or_else(|| object.get("statement")).and_then(|sql| sql.as_str()) {
            Some(sql) => Ok(sql.to_owned()),
            None => Err(answer::error(StatusCode::BAD_REQUEST, wanted)),
        },
        Err(e) => Err(answer::error(StatusCode::BAD_REQUEST, &format!("{wanted}: {e}"))),
    }
}

/// The value of `name` in a query.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}
