//! The client's side of a login: reading its packets, checking its password, taking its settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::admission;
use super::core::Core;
use super::errors::Trouble;
use super::lookup::Ask;
use super::route::{ROUTE, named};
use super::settings::Settings;
use super::shared::Shared;
use crate::config::model::{AuthMethod, ChannelBinding, Config, ListenRoute, Postgres, TlsMode, User};
use crate::guard::Failure;
use crate::net::credentials::ALPN;
use crate::net::tls::{Acceptor, HANDSHAKE, Tls};
use crate::net::{Detached, Endpoint, Stream};
use crate::wire::pg::auth::Credential;
use crate::wire::pg::frame::{Head, head};
use crate::wire::pg::scram::{Binding, MECHANISM, MECHANISM_PLUS, NONCE, ScramError, ScramServer};
use crate::wire::pg::sqlstate::{ToClient, write_error};
use crate::wire::pg::startup::{CANCEL_CODE, Session as Startup, Startup as Packet, StartupError, parse_startup};
use crate::wire::pg::{build, md5, message};

/// Longest message of a login.
const LONGEST: usize = 16 * 1024;

/// Why a login ended without a session.
#[derive(Debug)]
pub enum LoginError {
    /// The socket failed or the client left.
    Socket(std::io::Error),
    /// The first bytes are no startup packet.
    Startup(StartupError),
    /// The handshake of TLS failed; the other side was told why in its own words.
    Tls(std::io::Error),
    /// The client was told why.
    Refused(Trouble),
    /// Wrong password, unknown user, broken exchange: the client was told, without saying which.
    Password {
        /// As the client named it.
        user: String,
        /// For the log.
        why: String,
    },
}

impl LoginError {
    /// What it counts as for the ban of its address; `None`: as no failed login. A client that leaves, or that refuses
    /// our certificate, has not tried anything.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            LoginError::Password { .. } => Some(Failure::Password),
            LoginError::Startup(_) | LoginError::Refused(Trouble::Protocol(_)) => Some(Failure::Junk),
            LoginError::Tls(e) => Failure::of_handshake(e),
            LoginError::Socket(_) | LoginError::Refused(_) => None,
        }
    }

    /// One log line with the peer's address; a client that just left is not worth one.
    pub fn log(&self, peer: Endpoint) {
        match self {
            LoginError::Socket(_) => tracing::debug!(%peer, "a connection ended before its login"),
            LoginError::Tls(e) => tracing::warn!(%peer, error = %e, "a TLS handshake failed"),
            LoginError::Startup(e) => tracing::warn!(%peer, error = %e, "a connection was refused for what it sent"),
            LoginError::Refused(trouble) => {
                tracing::warn!(%peer, code = trouble.sqlstate(), error = %trouble.message(), "a client was refused");
            }
            LoginError::Password { user, why } => tracing::warn!(%peer, user, why, "login failed"),
        }
    }
}

/// A client of the console, on its way to the control thread.
#[derive(Debug)]
pub struct Newcomer {
    /// The socket.
    pub stream: Detached,
    /// What it asked for.
    pub startup: Startup,
    /// Bytes that it sent ahead.
    pub buffered: Vec<u8>,
}

impl Newcomer {
    pub(super) fn new(mut talk: Talk, startup: Startup) -> Result<Self, LoginError> {
        let buffered = talk.take_buffered();
        let stream = talk.into_stream().detach().map_err(LoginError::Socket)?;
        Ok(Newcomer { stream, startup, buffered })
    }
}

/// A client's socket before its session, read message by message.
#[derive(Debug)]
pub struct Talk {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Talk {
    /// A fresh connection.
    pub fn new(stream: Stream) -> Self {
        Talk { stream, buffer: Vec::new() }
    }

    /// A connection that sent `buffer` already.
    pub fn with_buffered(stream: Stream, buffer: Vec<u8>) -> Self {
        Talk { stream, buffer }
    }

    /// Bytes sent ahead.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The socket.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// The socket and the bytes sent ahead.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// The socket.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The other side.
    pub fn peer(&self) -> Endpoint {
        self.stream.peer()
    }

    /// Sends all of `bytes`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), LoginError> {
        self.stream.write_all(bytes).await.map_err(LoginError::Socket)
    }

    /// Tells a client that asks for a newer protocol, or for extensions, what is spoken here.
    pub async fn negotiate(&mut self, startup: &Startup) -> Result<(), LoginError> {
        if !startup.must_negotiate() {
            return Ok(());
        }
        let mut out = Vec::new();
        build::negotiate_protocol_version(&mut out, startup.spoken_minor(), &startup.extensions);
        self.write(&out).await
    }

    /// Answers a request for TLS.
    pub async fn offer_tls(mut self, shared: &Shared) -> Result<Self, LoginError> {
        match shared.tls.load_full().filter(|_| matches!(self.stream, Stream::Tcp(_))) {
            Some(acceptor) => {
                self.write(b"S").await?;
                self.begin_tls(&acceptor).await
            }
            None => {
                self.write(b"N").await?;
                Ok(self)
            }
        }
    }

    /// Takes a client that begins with TLS instead of asking for it, as libpq's `sslnegotiation=direct`: it has to name
    /// the protocol that it is going to speak.
    pub async fn take_direct_tls(mut self, shared: &Shared) -> Result<Self, LoginError> {
        while self.buffer.is_empty() {
            self.fill().await?;
        }
        let is_tls = self.buffer.first() == Some(&HANDSHAKE) && matches!(self.stream, Stream::Tcp(_));
        let Some(acceptor) = shared.tls.load_full().filter(|_| is_tls) else { return Ok(self) };
        let talk = self.begin_tls(&acceptor).await?;
        match &talk.stream {
            Stream::Tls(tls) if tls.protocol().as_deref() == Some(ALPN) => Ok(talk),
            _ => {
                let why = "direct TLS without the application protocol \"postgresql\"";
                Err(LoginError::Tls(std::io::Error::new(std::io::ErrorKind::InvalidData, why)))
            }
        }
    }

    async fn begin_tls(mut self, acceptor: &Acceptor) -> Result<Self, LoginError> {
        let ahead = self.take_buffered();
        match self.stream {
            Stream::Tcp(tcp) => {
                let tls =
                    Tls::accept(tcp, acceptor.config(), acceptor.end_point(), ahead).await.map_err(LoginError::Tls)?;
                Ok(Talk::new(Stream::Tls(Box::new(tls))))
            }
            stream => Ok(Talk::with_buffered(stream, ahead)),
        }
    }

    /// What a login can be bound to, if anything.
    fn end_point(&self) -> Option<Arc<[u8]>> {
        match &self.stream {
            Stream::Tls(tls) => tls.end_point(),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// True for an encrypted connection.
    pub fn has_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// True for a client in clear text where that is not let in.
    pub fn lacks_tls(&self, mode: TlsMode) -> bool {
        mode.is_required() && matches!(self.stream, Stream::Tcp(_))
    }

    async fn fill(&mut self) -> Result<(), LoginError> {
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk).await.map_err(LoginError::Socket)? {
            0 => Err(LoginError::Socket(std::io::ErrorKind::UnexpectedEof.into())),
            n => {
                self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default());
                Ok(())
            }
        }
    }

    /// The next packet without type byte. Bytes that are none are answered with an error.
    pub async fn startup(&mut self) -> Result<Packet, LoginError> {
        loop {
            match parse_startup(&self.buffer) {
                Ok(Some((packet, used))) => {
                    self.buffer.drain(..used);
                    // What follows an unanswered request for encryption was not meant for us in clear text.
                    if matches!(packet, Packet::Ssl | Packet::GssEnc) && !self.buffer.is_empty() {
                        let what = "received unencrypted data after a request for encryption".to_owned();
                        return Err(self.refuse(Trouble::Protocol(what)).await);
                    }
                    return Ok(packet);
                }
                Ok(None) => self.fill().await?,
                Err(error) => {
                    // A CancelRequest is never answered, a broken one neither.
                    if self.buffer.get(4..8) != Some(&CANCEL_CODE.to_be_bytes()) {
                        let mut out = Vec::new();
                        write_error(&mut out, &error);
                        let _ = self.write(&out).await;
                    }
                    return Err(LoginError::Startup(error));
                }
            }
        }
    }

    /// The body of the next password message, unless its address was banned meanwhile.
    pub(super) async fn password(&mut self, shared: &Shared) -> Result<Vec<u8>, LoginError> {
        loop {
            match head(&self.buffer) {
                Head::Frame { kind: b'p', len } if len <= LONGEST => {
                    if self.buffer.len() >= len {
                        if let Err(refused) = shared.guard.recheck(self.peer()) {
                            return Err(self.refuse(Trouble::Refused(refused)).await);
                        }
                        let rest = self.buffer.split_off(len);
                        let frame = Zeroizing::new(std::mem::replace(&mut self.buffer, rest));
                        return Ok(frame.get(5..).unwrap_or_default().to_vec());
                    }
                }
                Head::Need => {}
                Head::Frame { kind: b'X', .. } => {
                    return Err(LoginError::Socket(std::io::ErrorKind::UnexpectedEof.into()));
                }
                _ => {
                    let what = "expected a password message".to_owned();
                    return Err(self.refuse(Trouble::Protocol(what)).await);
                }
            }
            self.fill().await?;
        }
    }

    async fn broken_scram(&mut self, user: &str, error: ScramError) -> LoginError {
        let mut out = Vec::new();
        write_error(&mut out, &error);
        let _ = self.write(&out).await;
        LoginError::Password { user: user.to_owned(), why: error.to_string() }
    }

    pub(super) async fn wrong(&mut self, user: &str, why: impl ToString) -> LoginError {
        let error = self.refuse(Trouble::WrongPassword(user.to_owned())).await;
        drop(error);
        LoginError::Password { user: user.to_owned(), why: why.to_string() }
    }
}

/// What is known of a login before it is proved.
#[derive(Debug)]
pub struct Known {
    /// How it is to be proved.
    pub method: AuthMethod,
    /// Whether only an exchange that is bound to the encrypted connection counts.
    pub binding: ChannelBinding,
    /// Any of them will do; none: nobody has that name, and the exchange must not show it.
    pub credentials: Vec<Credential>,
}

impl Known {
    /// Of a login for the pools.
    pub fn new(postgres: &Postgres, user: &str) -> Self {
        Known {
            method: postgres.auth,
            binding: postgres.tls_channel_binding,
            credentials: postgres.user(user).map(User::credentials).unwrap_or_default(),
        }
    }
}

/// Lets a client in as `postgres.auth` says.
pub async fn authenticate(core: &Core, config: &Config, talk: &mut Talk, startup: &Startup) -> Result<(), LoginError> {
    talk.negotiate(startup).await?;
    match config.postgres.auth {
        AuthMethod::Hba | AuthMethod::Cert => admission::by_rules(&core.shared, config, talk, startup).await,
        AuthMethod::Trust => Ok(()),
        AuthMethod::Md5 | AuthMethod::ScramSha256 => {
            let known = known(&core.shared, config, talk, startup).await?;
            by_password(&core.shared, config, talk, startup, &known).await
        }
    }
}

/// What is known of a client's login, by the configuration or by PostgreSQL.
pub(super) async fn known(
    shared: &Shared,
    config: &Config,
    talk: &mut Talk,
    startup: &Startup,
) -> Result<Known, LoginError> {
    let (postgres, user) = (&config.postgres, startup.user.as_str());
    let mut known = Known::new(postgres, user);
    if let Some(cluster) = asked_cluster(postgres, startup) {
        known.credentials = match look_up(shared, postgres.auth_query_cache, cluster, user).await {
            Ok(credential) => credential.into_iter().collect(),
            Err(_) => return Err(talk.refuse(Trouble::CannotLookUp).await),
        };
    }
    Ok(known)
}

/// The cluster that is asked for the login, if that is what decides.
fn asked_cluster<'c>(postgres: &'c Postgres, startup: &Startup) -> Option<&'c str> {
    let is_asked = postgres.auth_user.is_some() && postgres.user(&startup.user).is_none();
    let database = postgres.database(&startup.database).filter(|_| is_asked)?;
    postgres.clusters.get(database.cluster).map(|cluster| cluster.name.as_str())
}

/// As [`check_password`], for a login that may have been looked up.
pub(super) async fn by_password(
    shared: &Arc<Shared>,
    config: &Config,
    talk: &mut Talk,
    startup: &Startup,
    known: &Known,
) -> Result<(), LoginError> {
    let done = check_password(shared, talk, &startup.user, known).await;
    if let (Err(LoginError::Password { .. }), Some(cluster)) = (&done, asked_cluster(&config.postgres, startup)) {
        shared.logins.doubt(cluster, &startup.user);
    }
    done
}

/// What PostgreSQL says of a login; known for a while.
pub(super) async fn look_up(
    shared: &Shared,
    limit: Duration,
    cluster: &str,
    user: &str,
) -> Result<Option<Credential>, String> {
    if let Some(credential) = shared.logins.known(cluster, user, limit) {
        return Ok(credential);
    }
    let (answer, answered) = oneshot::channel();
    let (cluster_name, user_name, since) = (cluster.to_owned(), user.to_owned(), Instant::now());
    shared.control.look_up(Ask { cluster: cluster_name, user: user_name, since, answer });
    answered.await.unwrap_or_else(|_| Err("nobody looks it up".to_owned()))?;
    // Learned this moment, whatever the limit.
    Ok(shared.logins.known(cluster, user, limit.max(Duration::from_secs(1))).flatten())
}

/// Asks for a password and checks it.
///
/// # Errors
/// The client was told why.
pub async fn check_password(
    shared: &Arc<Shared>,
    talk: &mut Talk,
    user: &str,
    known: &Known,
) -> Result<(), LoginError> {
    match known.method {
        AuthMethod::Trust => Ok(()),
        // Only SCRAM can be bound.
        AuthMethod::Md5 if known.binding == ChannelBinding::Prefer => {
            let verifiers: Option<Vec<String>> =
                known.credentials.iter().map(|known| known.md5_verifier(user)).collect();
            match verifiers {
                // Of no credential that is so as well: who does not exist is asked as most are.
                Some(verifiers) => by_md5(shared, talk, user, &verifiers).await,
                None => by_scram(shared, talk, user, known).await,
            }
        }
        AuthMethod::Md5 | AuthMethod::ScramSha256 | AuthMethod::Cert | AuthMethod::Hba => {
            by_scram(shared, talk, user, known).await
        }
    }
}

async fn by_md5(shared: &Shared, talk: &mut Talk, user: &str, verifiers: &[String]) -> Result<(), LoginError> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(|_| LoginError::Socket(std::io::ErrorKind::Other.into()))?;
    let mut out = Vec::new();
    build::authentication_md5(&mut out, salt);
    talk.write(&out).await?;
    let body = talk.password(shared).await?;
    let answer = message::password(&body).unwrap_or_default();
    match verifiers {
        [] => Err(talk.wrong(user, "no such user").await),
        _ if verifiers.iter().any(|verifier| md5::verify(answer, verifier, salt)) => Ok(()),
        _ => Err(talk.wrong(user, "wrong password").await),
    }
}

async fn by_scram(shared: &Arc<Shared>, talk: &mut Talk, user: &str, known: &Known) -> Result<(), LoginError> {
    let verifiers = shared.verifiers(user, &known.credentials).await;
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| LoginError::Socket(std::io::ErrorKind::Other.into()))?;
    let end_point = talk.end_point();
    let offered: &[&str] = match end_point {
        Some(_) if known.binding == ChannelBinding::Require => &[MECHANISM_PLUS],
        Some(_) => &[MECHANISM_PLUS, MECHANISM],
        None => &[MECHANISM],
    };
    let mut out = Vec::new();
    build::authentication_sasl(&mut out, offered);
    talk.write(&out).await?;
    let body = talk.password(shared).await?;
    let chosen = message::sasl_initial_response(&body);
    let (binding, first) = match (chosen, end_point) {
        (Ok((mechanism, Some(data))), Some(shown)) if mechanism == MECHANISM_PLUS.as_bytes() => {
            (Binding::EndPoint(shown.to_vec()), data)
        }
        (Ok((mechanism, Some(data))), Some(_)) if mechanism == MECHANISM.as_bytes() => (Binding::Unused, data),
        (Ok((mechanism, Some(data))), None) if mechanism == MECHANISM.as_bytes() => (Binding::Impossible, data),
        _ => {
            let what = "the client chose no SASL mechanism that was offered".to_owned();
            return Err(talk.refuse(Trouble::Protocol(what)).await);
        }
    };
    let server = match verifiers.as_slice() {
        [first, others @ ..] => ScramServer::new(first, nonce).or(others.first()),
        [] => ScramServer::mock(&shared.mock_secret, user, nonce),
    };
    let challenge = match server.bound(binding).first(first) {
        Ok(challenge) => challenge,
        Err(e) => return Err(talk.broken_scram(user, e).await),
    };
    out.clear();
    build::authentication_sasl_continue(&mut out, challenge.message());
    talk.write(&out).await?;
    let body = talk.password(shared).await?;
    match challenge.last(&body) {
        Ok(done) => {
            out.clear();
            build::authentication_sasl_final(&mut out, &done.server_final);
            talk.write(&out).await?;
            shared.remember_proof(user, &done.verifier, done.client_key);
            Ok(())
        }
        Err(ScramError::WrongPassword) if verifiers.is_empty() => Err(talk.wrong(user, "no such user").await),
        Err(ScramError::WrongPassword) => Err(talk.wrong(user, "wrong password").await),
        Err(e) => Err(talk.broken_scram(user, e).await),
    }
}

/// The session settings that a startup packet asks for, and the route if it names one (`forebay.route`).
///
/// # Errors
/// Options that cannot be read, values that are no text, no such route.
pub fn settings(startup: &Startup) -> Result<(Arc<Settings>, Option<ListenRoute>), Trouble> {
    let mut list = Vec::new();
    let text = |name: &str, value: Vec<u8>| {
        String::from_utf8(value)
            .map_err(|_| Trouble::Protocol(format!("the value of startup parameter \"{name}\" is not UTF-8")))
    };
    for option in startup.options().map_err(|e| Trouble::Protocol(e.to_string()))? {
        let name = option.name.to_ascii_lowercase();
        let value = text(&name, option.value)?;
        list.push((name, value));
    }
    for (name, value) in &startup.params {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "user" | "database" | "options" | "replication" => continue,
            _ => {}
        }
        let value = text(&name, value.clone())?;
        list.push((name, value));
    }
    let mut route = None;
    for (_, value) in list.extract_if(.., |(name, _)| name == ROUTE) {
        route = Some(named(&value)?);
    }
    Ok((Settings::from_startup(list), route))
}
