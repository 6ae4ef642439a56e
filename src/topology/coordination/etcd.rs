//! What is needed of etcd, by the JSON form of its API (<https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/>).
//!
//! Six calls over the HTTP client that the program has anyway: a gRPC client would bring a compiler for protocol buffers
//! into every build. Everything here is read and written by its member's leader (no `serializable` reads), so an answer
//! is never older than the question.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::config::Secret;
use crate::config::model::ServerTls;
use crate::net::{Target, dial_encrypted};

/// Answers are small: a list of a few hundred instances. More than this is somebody else's server.
const LONGEST_ANSWER: usize = 16 << 20;
/// An event whose line does not end within this is no event of ours.
const LONGEST_LINE: usize = 4 << 20;
/// gRPC's code for "log in again".
const UNAUTHENTICATED: i64 = 16;
/// gRPC's code for a watch or a login that etcd does not take.
const INVALID_ARGUMENT: i64 = 3;

/// Why etcd did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody answered in time, or without being able to decide: it may have been done all the same.
    Unreachable(String),
    /// It was refused, and was not done.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(why) => write!(f, "etcd cannot be reached: {why}"),
            Trouble::Refused(why) => write!(f, "etcd refuses: {why}"),
        }
    }
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: String,
    /// When it was made, and when it was changed last.
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

/// A change of a key; `None` if it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) key: String,
    /// When it was changed or deleted.
    pub(super) revision: i64,
    pub(super) entry: Option<Entry>,
}

/// What has to be so for a transaction to be carried out.
#[derive(Debug, Clone)]
pub(super) enum Condition<'a> {
    /// When the key was made; 0: it is not there.
    CreatedAt(&'a str, i64),
    /// When the key was changed last; 0: it is not there.
    ChangedAt(&'a str, i64),
}

/// What a transaction does.
#[derive(Debug, Clone)]
pub(super) enum Deed<'a> {
    Put { key: &'a str, value: &'a str, lease: i64 },
    Delete { key: &'a str },
}

/// The members of etcd, asked one after the other until one answers.
pub(super) struct Etcd {
    members: Vec<Member>,
    /// The member that answered last.
    current: Cell<usize>,
    /// Connections that nobody uses.
    idle: RefCell<Vec<(usize, Sender)>>,
    login: Option<(String, Secret)>,
    token: RefCell<Option<String>>,
    /// For one try at one member.
    patience: Duration,
    /// From where the members are reached.
    local: Cell<Option<IpAddr>>,
}

struct Member {
    target: Target,
    tls: ServerTls,
    authority: String,
}

type Sender = SendRequest<Full<Bytes>>;

impl Etcd {
    /// `tls` is for the URLs that begin with `https`.
    pub(super) fn new(
        urls: &[String],
        tls: &ServerTls,
        login: Option<(String, Secret)>,
        patience: Duration,
    ) -> Result<Self, String> {
        let members = urls.iter().map(|url| Member::new(url, tls)).collect::<Result<Vec<_>, _>>()?;
        let (current, idle, token, local) = Default::default();
        Ok(Self { members, current, idle, login, token, patience, local })
    }

    /// The address of this machine on the way to etcd, once it was reached.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.local.get()
    }

    /// A lease that ends `seconds` after the last sign of life; its number, and the time that etcd grants.
    pub(super) async fn grant(&self, seconds: u64) -> Result<(i64, Duration), Trouble> {
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": seconds.to_string() })).await?;
        let granted = Duration::from_secs(u64::try_from(number(&answer["TTL"])).unwrap_or_default());
        Ok((number(&answer["ID"]), granted))
    }

    /// A sign of life; the time that is left, zero if the lease is gone, and etcd's revision.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<(Duration, i64), Trouble> {
        let answer = self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() })).await?;
        let result = &answer["result"];
        let left = u64::try_from(number(&result["TTL"])).unwrap_or_default();
        Ok((Duration::from_secs(left), number(&result["header"]["revision"])))
    }

    /// Ends a lease with all its keys.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Trouble> {
        self.call("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).await.map(drop)
    }

    /// Everything below `prefix`, and the revision at which it was so.
    pub(super) async fn list(&self, prefix: &str) -> Result<(Vec<Event>, i64), Trouble> {
        let range = json!({ "key": coded(prefix.as_bytes()), "range_end": coded(&end_of(prefix)) });
        let answer = self.call("/v3/kv/range", &range).await?;
        let found = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok((found.iter().filter_map(|kv| event(kv, false)).collect(), number(&answer["header"]["revision"])))
    }

    /// When a key below `prefix` was changed last, and how many there are.
    pub(super) async fn newest(&self, prefix: &str) -> Result<(i64, usize), Trouble> {
        let range = json!({
            "key": coded(prefix.as_bytes()), "range_end": coded(&end_of(prefix)), "sort_order": "DESCEND",
            "sort_target": "MOD", "limit": "1", "keys_only": true,
        });
        let answer = self.call("/v3/kv/range", &range).await?;
        let count = usize::try_from(number(&answer["count"])).unwrap_or_default();
        Ok((number(&answer["kvs"][0]["mod_revision"]), count))
    }

    /// Sets a key; 0 is no lease.
    pub(super) async fn put(&self, key: &str, value: &str, lease: i64) -> Result<(), Trouble> {
        let put = json!({
            "key": coded(key.as_bytes()), "value": coded(value.as_bytes()), "lease": lease.to_string()
        });
        self.call("/v3/kv/put", &put).await.map(drop)
    }

    /// Deletes a key.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Trouble> {
        self.call("/v3/kv/deleterange", &json!({ "key": coded(key.as_bytes()) })).await.map(drop)
    }

    /// Carries out `deeds` together if all `conditions` hold; the revision then, or else how `watched` is instead.
    pub(super) async fn transact(
        &self,
        conditions: &[Condition<'_>],
        deeds: &[Deed<'_>],
        watched: &str,
    ) -> Result<Result<i64, Option<Entry>>, Trouble> {
        let compare: Vec<Value> = conditions.iter().map(Condition::json).collect();
        let success: Vec<Value> = deeds.iter().map(Deed::json).collect();
        let failure = json!([{ "requestRange": { "key": coded(watched.as_bytes()) } }]);
        let body = json!({ "compare": compare, "success": success, "failure": failure });
        let answer = self.call("/v3/kv/txn", &body).await?;
        if answer["succeeded"].as_bool() == Some(true) {
            return Ok(Ok(number(&answer["header"]["revision"])));
        }
        Ok(Err(entry(&answer["responses"][0]["response_range"]["kvs"][0])))
    }

    /// Changes below `prefix` from `revision` on, of a member that knows a leader.
    pub(super) async fn watch(&self, prefix: &str, revision: i64) -> Result<Watch, Trouble> {
        let create = json!({ "create_request": {
            "key": coded(prefix.as_bytes()), "range_end": coded(&end_of(prefix)), "start_revision": revision.to_string(),
        }});
        let member = self.current.get();
        let opened = async {
            let mut sender = self.connect(member).await?;
            let request = self.request(member, "/v3/watch", &create, Some(("grpc-metadata-hasleader", "true")))?;
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            match answer.status() {
                status if status.is_success() => Ok((sender, answer)),
                status => Err(status.to_string()),
            }
        };
        match timeout(self.patience, opened).await {
            Ok(Ok((sender, answer))) => Ok(Watch { _sender: sender, body: answer.into_body(), rest: Vec::new() }),
            Ok(Err(why)) => Err(self.pass_on(member, why)),
            Err(_) => Err(self.pass_on(member, self.silence())),
        }
    }

    /// Asks the members, beginning with the one that answered last.
    async fn call(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        let mut last = Trouble::Unreachable("coordination.etcd is empty".to_owned());
        for _ in 0..self.members.len() {
            let member = self.current.get();
            match self.call_logged_in(member, path, body).await {
                Err(Trouble::Unreachable(why)) => last = self.pass_on(member, why),
                decided => return decided,
            }
        }
        Err(last)
    }

    /// The next one is asked from now on.
    fn pass_on(&self, member: usize, why: String) -> Trouble {
        if self.current.get() == member {
            self.current.set((member + 1) % self.members.len().max(1));
        }
        let authority = self.members.get(member).map_or("", |member| &member.authority);
        Trouble::Unreachable(format!("{authority}: {why}"))
    }

    fn silence(&self) -> String {
        format!("no answer within {:?}", self.patience)
    }

    async fn call_logged_in(&self, member: usize, path: &str, body: &Value) -> Result<Value, Trouble> {
        if let Some((name, password)) = self.login.as_ref().filter(|_| self.token.borrow().is_none()) {
            self.log_in(member, name, password).await?;
        }
        let (status, answer) = self.ask(member, path, body).await?;
        match judge(status, &answer) {
            // Tokens end with the member that has given them out, or after some minutes.
            Err((code, _)) if self.login.is_some() && (code == UNAUTHENTICATED || code == INVALID_ARGUMENT) => {
                if let Some((name, password)) = &self.login {
                    self.log_in(member, name, password).await?;
                }
                let (status, answer) = self.ask(member, path, body).await?;
                judge(status, &answer).map(|()| answer).map_err(|(_, trouble)| trouble)
            }
            Err((_, trouble)) => Err(trouble),
            Ok(()) => Ok(answer),
        }
    }

    async fn log_in(&self, member: usize, name: &str, password: &Secret) -> Result<(), Trouble> {
        self.token.replace(None);
        let login = json!({ "name": name, "password": password.0 });
        let (status, answer) = self.ask(member, "/v3/auth/authenticate", &login).await?;
        judge(status, &answer).map_err(|(_, trouble)| trouble)?;
        self.token.replace(answer["token"].as_str().map(str::to_owned));
        Ok(())
    }

    async fn ask(&self, member: usize, path: &str, body: &Value) -> Result<(StatusCode, Value), Trouble> {
        let asked = async {
            let idle = {
                let mut idle = self.idle.borrow_mut();
                idle.iter().position(|(of, sender)| *of == member && sender.is_ready()).map(|at| idle.swap_remove(at).1)
            };
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect(member).await?,
            };
            let request = self.request(member, path, body, None)?;
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status();
            let text = whole(answer).await?;
            let mut idle = self.idle.borrow_mut();
            idle.retain(|(_, sender)| !sender.is_closed());
            idle.push((member, sender));
            Ok::<_, String>((status, text))
        };
        let (status, text) = match timeout(self.patience, asked).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(why)) => return Err(Trouble::Unreachable(why)),
            Err(_) => return Err(Trouble::Unreachable(self.silence())),
        };
        // A stream of one answer, as of a keep-alive, ends with a line break.
        match serde_json::from_slice(&text) {
            Ok(answer) => Ok((status, answer)),
            Err(_) => {
                let said: String = String::from_utf8_lossy(&text).trim().chars().take(200).collect();
                Err(Trouble::Unreachable(format!(
                    "{status}, and not in JSON, as etcd's client URL answers: \"{said}\""
                )))
            }
        }
    }

    async fn connect(&self, member: usize) -> Result<Sender, String> {
        let member = self.members.get(member).ok_or("no such member")?;
        let stream = dial_encrypted(&member.target, &member.tls).await.map_err(|e| e.to_string())?;
        if let Some(ip) = stream.local().ip() {
            self.local.set(Some(ip));
        }
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Its end is seen by whoever uses the sender.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }

    fn request(
        &self,
        member: usize,
        path: &str,
        body: &Value,
        header: Option<(&'static str, &str)>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let authority = self.members.get(member).map_or("", |member| &member.authority);
        let mut request = Request::post(path).header(HOST, authority).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &*self.token.borrow() {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some((name, value)) = header {
            request = request.header(HeaderName::from_static(name), value);
        }
        request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())
    }
}

impl Member {
    fn new(url: &str, tls: &ServerTls) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "coordination.etcd holds a URL that cannot be read".to_owned())?;
        let host = uri.host().ok_or("coordination.etcd holds a URL without a host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(2379);
        let tls = if uri.scheme_str() == Some("https") { tls.clone() } else { ServerTls::default() };
        let authority = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Ok(Self { target: Target { host, port }, tls, authority })
    }
}

impl Condition<'_> {
    fn json(&self) -> Value {
        match self {
            Condition::CreatedAt(key, revision) => json!({
                "key": coded(key.as_bytes()), "target": "CREATE", "create_revision": revision.to_string()
            }),
            Condition::ChangedAt(key, revision) => json!({
                "key": coded(key.as_bytes()), "target": "MOD", "mod_revision": revision.to_string()
            }),
        }
    }
}

impl Deed<'_> {
    fn json(&self) -> Value {
        match self {
            Deed::Put { key, value, lease } => json!({ "requestPut": {
                "key": coded(key.as_bytes()), "value": coded(value.as_bytes()), "lease": lease.to_string()
            }}),
            Deed::Delete { key } => json!({ "requestDeleteRange": { "key": coded(key.as_bytes()) } }),
        }
    }
}

/// Changes as they come.
pub(super) struct Watch {
    /// The connection ends without it.
    _sender: Sender,
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next changes, in order, without any left out. May be dropped while it waits.
    ///
    /// # Errors
    /// The watch is over; in words, why.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return changes(&line);
            }
            if self.rest.len() > LONGEST_LINE {
                return Err("an event without an end".to_owned());
            }
            let frame = self.body.frame().await.ok_or("etcd has ended the watch")?.map_err(|e| e.to_string())?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

fn changes(line: &[u8]) -> Result<Vec<Event>, String> {
    let told: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    if let Some(error) = told.get("error") {
        return Err(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned));
    }
    let result = &told["result"];
    if result["canceled"].as_bool() == Some(true) {
        let compacted = number(&result["compact_revision"]);
        let why = result["cancel_reason"].as_str().unwrap_or("cancelled");
        return Err(format!("{why} (compacted up to {compacted})"));
    }
    let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    // A put is the default, which this form of the API leaves out.
    let changes = events.iter().filter_map(|told| event(&told["kv"], told["type"].as_str() == Some("DELETE")));
    Ok(changes.collect())
}

async fn whole(answer: Response<Incoming>) -> Result<Vec<u8>, String> {
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > LONGEST_ANSWER {
            return Err("an answer that is far too long".to_owned());
        }
    }
    Ok(text)
}

/// Whether it was done; gRPC's code if not.
fn judge(status: StatusCode, answer: &Value) -> Result<(), (i64, Trouble)> {
    let error = answer.get("error");
    if status.is_success() && error.is_none() {
        return Ok(());
    }
    // A stream's errors are objects, a call's are flat.
    let of = |name: &str| error.and_then(|error| error.get(name)).or_else(|| answer.get(name));
    let code = of("code").or_else(|| of("grpc_code")).map_or(0, number);
    let words = of("message").or(error).and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    // Cancelled, unknown, deadline exceeded, resource exhausted, aborted, internal, unavailable: another member may do it.
    let is_passing = matches!(code, 1 | 2 | 4 | 8 | 10 | 13 | 14) || status.is_server_error();
    Err((code, if is_passing { Trouble::Unreachable(words) } else { Trouble::Refused(words) }))
}

fn event(kv: &Value, is_gone: bool) -> Option<Event> {
    let entry = if is_gone { None } else { Some(entry(kv)?) };
    Some(Event { key: decoded(&kv["key"])?, revision: number(&kv["mod_revision"]), entry })
}

fn entry(kv: &Value) -> Option<Entry> {
    kv.as_object()?;
    Some(Entry {
        value: decoded(&kv["value"]).unwrap_or_default(),
        create_revision: number(&kv["create_revision"]),
        mod_revision: number(&kv["mod_revision"]),
    })
}

fn coded(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn decoded(value: &Value) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(value.as_str()?).ok()?).ok()
}

/// 64-bit numbers are texts in this form of the API; what is 0 is left out.
fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        assert_eq!(end_of("/forebay/"), b"/forebay0");
    }

    #[test]
    fn an_event_is_a_line() {
        let line = br#"{"result":{"header":{"revision":"7"},"events":[{"kv":{"key":"YQ==","create_revision":"3","mod_revision":"7","version":"2","value":"Yg=="}},{"type":"DELETE","kv":{"key":"Yw==","mod_revision":"7"}}]}}"#;
        let events = changes(line).unwrap();
        let put = Entry { value: "b".into(), create_revision: 3, mod_revision: 7 };
        let expected = [
            Event { key: "a".into(), revision: 7, entry: Some(put) },
            Event { key: "c".into(), revision: 7, entry: None },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_watch_that_was_cancelled_is_over() {
        let cancelled = br#"{"result":{"header":{},"canceled":true,"compact_revision":"12","cancel_reason":"x"}}"#;
        assert_eq!(changes(cancelled), Err("x (compacted up to 12)".to_owned()));
        let failed = br#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
        assert_eq!(changes(failed), Err("etcdserver: no leader".to_owned()));
    }

    #[test]
    fn what_another_member_may_do_is_no_refusal() {
        let unavailable = json!({ "error": "etcdserver: no leader", "code": 14, "message": "etcdserver: no leader" });
        let (code, trouble) = judge(StatusCode::SERVICE_UNAVAILABLE, &unavailable).unwrap_err();
        assert_eq!((code, trouble), (14, Trouble::Unreachable("etcdserver: no leader".into())));
        let missing = json!({ "error": "etcdserver: requested lease not found", "code": 5 });
        let (_, trouble) = judge(StatusCode::NOT_FOUND, &missing).unwrap_err();
        assert_eq!(trouble, Trouble::Refused("etcdserver: requested lease not found".into()));
        assert!(judge(StatusCode::OK, &json!({})).is_ok());
    }
}
