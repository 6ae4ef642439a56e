//! Opening a server connection: TCP or Unix socket, startup, login, and the proof that the node has the role that it
//! was chosen for.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::backend::{Backend, Line};
use super::control;
use super::core::Core;
use super::pool::{PgPool, ServerFailure, Welcome};
use super::registry::{Server, ServerState};
use crate::config::model::ServerTls;
use crate::net::tls::Tls;
use crate::net::{Stream, Target, dial, name_of};
use crate::wire::pg::auth::Credential;
use crate::wire::pg::build;
use crate::wire::pg::frame::{Head, server_head};
use crate::wire::pg::md5;
use crate::wire::pg::message::{self, Authentication, Fields};
use crate::wire::pg::scram::{Binding, MECHANISM, MECHANISM_PLUS, NONCE, ScramClient};
use crate::worker::clock::now_ns;
use crate::worker::permit;

/// Longest message of a login that is read.
const LONGEST: usize = 64 * 1024;

/// What a client asks a server for TLS with (the manual's chapter on message formats, SSLRequest).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Connects to a server, with TLS if its cluster is met so.
///
/// # Errors
/// As [`dial`]; the server does not offer TLS where it is required, or has a certificate that is not taken.
pub(super) async fn dial_securely(target: &Target, tls: &ServerTls) -> io::Result<Stream> {
    let mut tcp = match (dial(target).await?, tls.config()) {
        (Stream::Tcp(tcp), Some(_)) => tcp,
        (stream, _) => return Ok(stream),
    };
    let Some(config) = tls.config() else { return Ok(Stream::Tcp(tcp)) };
    tcp.write_all(&SSL_REQUEST).await?;
    // Not a byte more: what stands behind it in clear text must not count as encrypted.
    match tcp.read_u8().await? {
        b'S' => {
            let name = name_of(&target.host)?;
            Ok(Stream::Tls(Box::new(Tls::connect(tcp, Arc::clone(config), name).await?)))
        }
        b'N' if !tls.is_required() => Ok(Stream::Tcp(tcp)),
        b'N' => Err(io::Error::other("the server does not offer TLS")),
        _ => Err(io::Error::other("the server does not know what TLS is")),
    }
}

/// Connects to `node` of the pool's cluster and logs in, within `connect_timeout`.
///
/// # Errors
/// Why not, for the log and for the clients who wait.
pub async fn connect(core: &Rc<Core>, pool: &Rc<PgPool>, node: usize) -> Result<Box<Backend>, ServerFailure> {
    connect_as(core, pool, node, &[]).await.map(|(backend, _)| backend)
}

/// As [`connect`], with more startup parameters; also what the server has reported.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(
    core: &Rc<Core>,
    pool: &Rc<PgPool>,
    node: usize,
    params: &[(&[u8], &[u8])],
) -> Result<(Box<Backend>, Vec<(String, String)>), ServerFailure> {
    let limit = pool.config.borrow().connect_timeout;
    let target = core.target(pool, node).ok_or_else(|| failed("the node is not configured any more"))?;
    // Its clients may have come in on another thread.
    core.renew_login(pool);
    let others = pool.login.borrow().credentials.get(1..).unwrap_or_default().to_vec();
    let first = pool.login.borrow().credentials.first().cloned();
    let mut wait = core.wheel.timeout(Some(limit), login(core, pool, node, &target, params, first)).await;
    // The password is being replaced, and this server has not heard of it yet, or has before us; or what is known of it
    // does not serve, and what the client gave may.
    for other in others {
        if !matches!(&wait, Ok(Err(failure)) if failure.code.as_deref() == Some("28P01")) {
            break;
        }
        wait = core.wheel.timeout(Some(limit), login(core, pool, node, &target, params, Some(other))).await;
    }
    match wait {
        Ok(done) => done,
        Err(_) => Err(failed(&format!("no login at {}:{} within {limit:?}", target.host, target.port))),
    }
}

fn failed(message: &str) -> ServerFailure {
    ServerFailure { at: now_ns(), code: None, message: message.to_owned(), is_final: false }
}

async fn login(
    core: &Rc<Core>,
    pool: &Rc<PgPool>,
    node: usize,
    target: &Arc<Target>,
    params: &[(&[u8], &[u8])],
    credential: Option<Credential>,
) -> Result<(Box<Backend>, Vec<(String, String)>), ServerFailure> {
    let name = format!("{}:{}", target.host, target.port);
    let tls = core.tls_of(pool);
    let stream = dial_securely(target, &tls).await.map_err(|e| failed(&format!("cannot connect to {name}: {e}")))?;
    let login = Rc::clone(&pool.login.borrow());
    let mut talk = Talk { stream, buffer: Vec::new(), name, must_bind: tls.must_bind() };
    let mut out = Vec::new();
    let own = [(&b"user"[..], login.user.as_bytes()), (&b"database"[..], login.database.as_bytes())];
    build::startup_message(&mut out, 0, own.into_iter().chain(params.iter().copied()));
    talk.send(&out).await?;
    authenticate(core, &mut talk, &login.user, credential.as_ref()).await?;
    let mut welcome = Welcome::default();
    let mut key = (0, Vec::new());
    loop {
        let (kind, body) = talk.read().await?;
        match kind {
            b'S' => {
                if let Ok((name, value)) = message::parameter_status(&body) {
                    welcome.learn(name, value);
                }
            }
            b'K' => {
                if let Ok((process_id, secret)) = message::backend_key_data(&body) {
                    key = (process_id, secret.to_vec());
                }
            }
            b'Z' => break,
            _ => {}
        }
    }
    let standby = welcome.params.iter().find(|(n, _)| n == "in_hot_standby").map(|(_, v)| v == "on");
    let mut backend = core.backend(pool, node, target, talk.stream, key);
    backend.partial = talk.buffer;
    backend.is_standby = match standby {
        Some(standby) => standby,
        // PostgreSQL before 14 does not report it.
        None => {
            let said = control::run(&mut backend, "SELECT pg_catalog.pg_is_in_recovery()").await;
            match said {
                Ok(said) => said.rows.first().is_some_and(|v| v.as_deref() == Some("t")),
                Err(e) => {
                    core.forget(&backend);
                    return Err(failed(&format!("{}: {e}", talk.name)));
                }
            }
        }
    };
    if !core.is_in_place(pool, node, target) {
        core.forget(&backend);
        return Err(failed(&format!("{}: the nodes have changed meanwhile", talk.name)));
    }
    if let Err(why) = core.check_role(pool, node, backend.is_standby) {
        core.suspect(pool, node, &why);
        core.forget(&backend);
        return Err(failed(&format!("{}: {why}", talk.name)));
    }
    if params.is_empty() {
        pool.shared.learn_base(&welcome, backend.is_standby);
    }
    Ok((backend, welcome.params))
}

/// The socket of a login, read message by message.
struct Talk {
    stream: Stream,
    buffer: Vec<u8>,
    name: String,
    /// See [`ServerTls::must_bind`].
    must_bind: bool,
}

impl Talk {
    fn broken(&self, why: impl std::fmt::Display) -> ServerFailure {
        failed(&format!("{}: {why}", self.name))
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), ServerFailure> {
        self.stream.write_all(bytes).await.map_err(|e| self.broken(e))
    }

    /// The next message that is not a notice; an ErrorResponse is the failure that it says.
    async fn read(&mut self) -> Result<(u8, Vec<u8>), ServerFailure> {
        loop {
            match server_head(&self.buffer) {
                Head::Frame { len, .. } if len > LONGEST => return Err(self.broken("an absurdly long message")),
                Head::Frame { kind, len } if self.buffer.len() >= len => {
                    let rest = self.buffer.split_off(len);
                    let frame = std::mem::replace(&mut self.buffer, rest);
                    let body = frame.get(5..).unwrap_or_default().to_vec();
                    match kind {
                        b'E' => return Err(self.said(&body)),
                        b'N' => continue,
                        _ => return Ok((kind, body)),
                    }
                }
                Head::Bad(bad) => return Err(self.broken(format_args!("no PostgreSQL server: {bad}"))),
                _ => {}
            }
            let mut chunk = [0; 2048];
            match self.stream.read(&mut chunk).await {
                Ok(0) => return Err(self.broken("the server closed the connection during the login")),
                Ok(n) => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    /// How the exchange is bound to the connection, by the mechanisms that the server offers.
    fn binding(&self, mechanisms: &[u8]) -> Result<Binding, ServerFailure> {
        let offers = |name: &str| message::mechanisms(mechanisms).any(|offered| offered == name.as_bytes());
        let end_point = match &self.stream {
            Stream::Tls(tls) => tls.end_point(),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        };
        match end_point {
            Some(shown) if offers(MECHANISM_PLUS) => Ok(Binding::EndPoint(shown.to_vec())),
            _ if !offers(MECHANISM) => Err(self.broken("the server offers no SASL mechanism that we know")),
            Some(_) => Ok(Binding::Unused),
            None => Ok(Binding::Impossible),
        }
    }

    fn unbound(&self) -> ServerFailure {
        let why = "the server asks for a login without channel binding, which tls.channel_binding requires";
        ServerFailure { code: Some("28000".into()), is_final: true, ..self.broken(why) }
    }

    fn said(&self, body: &[u8]) -> ServerFailure {
        let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or_default()).into_owned();
        let (code, message) = match Fields::read("ErrorResponse", body) {
            Ok(fields) => (text(fields.sqlstate()), text(fields.message())),
            Err(_) => (String::new(), "an unreadable error".to_owned()),
        };
        // Wrong passwords, missing databases and rights do not mend themselves; a full or starting server does.
        let is_final = matches!(code.as_str(), "28000" | "28P01" | "3D000" | "42501" | "42704");
        ServerFailure { at: now_ns(), code: Some(code), message, is_final }
    }
}

async fn authenticate(
    core: &Rc<Core>,
    talk: &mut Talk,
    user: &str,
    credential: Option<&Credential>,
) -> Result<(), ServerFailure> {
    let no_password = |talk: &Talk, how: &str| ServerFailure {
        code: Some("28P01".into()),
        is_final: true,
        ..talk.broken(format_args!(
            "the server asks for {how}, and [[postgres.user]] \"{user}\" has no password that can serve it"
        ))
    };
    let mut is_bound = false;
    loop {
        let (kind, body) = talk.read().await?;
        if kind != b'R' {
            return Err(talk.broken("an unexpected message during the login"));
        }
        let request = Authentication::read(&body).map_err(|bad| talk.broken(bad))?;
        let mut out = Vec::new();
        // Nothing is shown to somebody who may stand between, and nobody is believed to be the server who did not prove it.
        if talk.must_bind && !is_bound && !matches!(request, Authentication::Sasl(_)) {
            return Err(talk.unbound());
        }
        match request {
            Authentication::Ok => return Ok(()),
            Authentication::Cleartext => {
                let Some(Credential::Clear(password)) = credential else {
                    return Err(no_password(talk, "a clear-text password"));
                };
                build::password_message(&mut out, password.as_bytes());
                talk.send(&out).await?;
            }
            Authentication::Md5(salt) => {
                let Some(verifier) = credential.and_then(|c| c.md5_verifier(user)) else {
                    return Err(no_password(talk, "an md5 password"));
                };
                build::password_message(&mut out, md5::response(&verifier, salt).as_bytes());
                talk.send(&out).await?;
            }
            Authentication::Sasl(mechanisms) => {
                let binding = talk.binding(mechanisms)?;
                is_bound = matches!(binding, Binding::EndPoint(_));
                if talk.must_bind && !is_bound {
                    return Err(talk.unbound());
                }
                scram(core, talk, user, credential, binding).await?;
            }
            other => {
                return Err(talk.broken(format_args!("the server asks for a login that we do not know: {other:?}")));
            }
        }
    }
}

async fn scram(
    core: &Rc<Core>,
    talk: &mut Talk,
    user: &str,
    credential: Option<&Credential>,
    binding: Binding,
) -> Result<(), ServerFailure> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| talk.broken(e))?;
    let mechanism = binding.mechanism();
    let client = ScramClient::bound(nonce, binding);
    let mut out = Vec::new();
    build::sasl_initial_response(&mut out, mechanism, client.first());
    talk.send(&out).await?;
    let data = match talk.read().await? {
        (b'R', body) => match Authentication::read(&body) {
            Ok(Authentication::SaslContinue(data)) => data.to_vec(),
            _ => return Err(talk.broken("an unexpected answer to SCRAM")),
        },
        _ => return Err(talk.broken("an unexpected message during SCRAM")),
    };
    let challenge = client.challenge(&data).map_err(|e| talk.broken(e))?;
    let (salt, iterations) = (challenge.salt().to_vec(), challenge.iterations());
    let keys = core.shared.server_keys(user, credential, &salt, iterations).await.ok_or_else(|| ServerFailure {
        code: Some("28P01".into()),
        is_final: true,
        ..talk.broken(format_args!(
            "the server asks for SCRAM, and [[postgres.user]] \"{user}\" has no clear-text password, and no client has \
             proved one to the same verifier yet"
        ))
    })?;
    let proof = challenge.respond(&keys);
    out.clear();
    build::sasl_response(&mut out, proof.message());
    talk.send(&out).await?;
    match talk.read().await? {
        (b'R', body) => match Authentication::read(&body) {
            Ok(Authentication::SaslFinal(data)) => proof.verify(data).map_err(|e| talk.broken(e)),
            _ => Err(talk.broken("an unexpected answer to SCRAM")),
        },
        _ => Err(talk.broken("an unexpected message during SCRAM")),
    }
}

impl Core {
    /// A logged-in connection, known to the console from now on.
    fn backend(
        &self,
        pool: &Rc<PgPool>,
        node: usize,
        target: &Arc<Target>,
        stream: Stream,
        (process_id, secret): (i32, Vec<u8>),
    ) -> Box<Backend> {
        let now = now_ns();
        let entry = Rc::new(Server {
            id: self.shared.next_id(),
            database: Arc::clone(&pool.shared.key.database),
            user: Arc::clone(&pool.shared.key.user),
            node,
            target: Arc::clone(target),
            peer: stream.peer(),
            local: stream.local(),
            connected: SystemTime::now(),
            tls: stream.cipher(),
            process_id,
            secret: secret.into(),
            state: std::cell::Cell::new(ServerState::New),
            since: std::cell::Cell::new(now),
            client: Default::default(),
            cancels: Default::default(),
            cancelled: Default::default(),
            close_needed: Default::default(),
            primary_of: self.epoch_led_by(pool, node).into(),
            is_cut: Default::default(),
            is_guarded: permit::may_end().into(),
            permit: Arc::clone(&self.shared.permit),
            prepared: Default::default(),
            doubt: Default::default(),
        });
        self.servers.borrow_mut().insert(entry.id, Rc::clone(&entry));
        let lifetime = pool.config.borrow().server_lifetime;
        Box::new(Backend {
            stream: Line::new(stream, &entry),
            expires: lifetime.map_or(u64::MAX, |life| now.saturating_add(jittered(life, entry.id))),
            entry,
            track: Default::default(),
            out: Vec::new(),
            partial: Vec::new(),
            left: 0,
            settings: Default::default(),
            taught: Default::default(),
            unnamed_of: 0,
            retained: Vec::new(),
            is_standby: false,
            is_dirty: false,
            instead: None,
            asked: Default::default(),
        })
    }
}

/// Up to a tenth less, by the connection's number, so that connections made together do not end together.
fn jittered(life: u64, id: u64) -> u64 {
    let tenths = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    life - (life / 10).saturating_mul(tenths & 0xff) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_made_together_do_not_end_together_and_none_lives_too_long() {
        let ages: std::collections::BTreeSet<u64> = (1..=20).map(|id| jittered(1_000_000, id)).collect();
        assert!(ages.len() > 15, "{ages:?}");
        assert!(ages.iter().all(|age| (900_000..=1_000_000).contains(age)), "{ages:?}");
    }
}
