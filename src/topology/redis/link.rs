//! Forebay's own connections to Redis servers and Sentinels: probes, polls, subscriptions, a switchover's orders.
//! Never a client's.
//!
//! One request at a time, or several in one write whose answers come in order. Every wait has a limit. A link whose
//! answer did not come in time is out of step and has to be dropped.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::extend_encode_borrowed;
use redis_protocol::resp2::types::{BorrowedFrame, OwnedFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Address;
use crate::config::model::{Secret, ServerTls};
use crate::net::name_of;
use crate::wire::resp::ReplyScan;

/// One answer of a server.
pub(super) type Reply = OwnedFrame;

/// Bytes of one answer: INFO and `SENTINEL replicas` of hundreds of nodes stay far below.
const LARGEST_REPLY: usize = 4 << 20;
/// Arrays in one answer. The decoder descends once for each nested one, and its stack is not endless.
const MOST_ARRAYS: usize = 1024;

/// How the servers of a service are met: one cell for all who connect to them, which a reload changes.
pub(super) type Meeting = Arc<ArcSwap<ServerTls>>;

/// First byte of an alert of TLS (RFC 8446, section 5.1), which no answer of Redis begins with.
const ALERT: u8 = 0x15;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Refused, closed, or no RESP.
    Broken(String),
    /// Nothing within this time.
    Silent(Duration),
    /// The same, of the handshake of TLS.
    NoHandshake(Duration),
    /// An error instead of an answer.
    Objected(Objection),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Broken(why) => f.write_str(why),
            Trouble::Silent(limit) => write!(f, "no answer within {limit:?}"),
            Trouble::NoHandshake(limit) => write!(f, "no TLS handshake within {limit:?}"),
            Trouble::Objected(objection) => f.write_str(&objection.text),
        }
    }
}

/// An error of a server, told apart by its first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objection {
    pub(super) kind: ObjectionKind,
    /// The server's own words, the first one included.
    pub(super) text: String,
}

/// What an error's first word says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectionKind {
    /// Its data are being read from disk: alive, of no use yet.
    Loading,
    /// Our password is missing or wrong, or our user may not ask.
    Login,
    /// Writes are refused because of the disk; reads go on.
    Misconfigured,
    /// A script runs too long: alive, of no use while it lasts.
    Busy,
    /// A replica without a link to its primary that serves nothing meanwhile.
    WithoutPrimary,
    /// Any other.
    Other,
}

impl Objection {
    pub(super) fn new(text: &str) -> Self {
        let kind = match text.split([' ', '\r']).next().unwrap_or_default() {
            "LOADING" => ObjectionKind::Loading,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => ObjectionKind::Login,
            "MISCONF" => ObjectionKind::Misconfigured,
            "BUSY" => ObjectionKind::Busy,
            "MASTERDOWN" => ObjectionKind::WithoutPrimary,
            // Before Redis 6.
            "ERR" if text.contains("invalid password") || text.contains("AUTH") => ObjectionKind::Login,
            _ => ObjectionKind::Other,
        };
        Self { kind, text: text.to_owned() }
    }
}

/// An open connection, logged in.
pub(super) struct Link {
    stream: Box<dyn Duplex>,
    /// How the server was met.
    tls: ServerTls,
    has_answered: bool,
    received: BytesMut,
    /// Bytes at the front of `received` that the scan has passed.
    scanned: usize,
    scan: ReplyScan,
}

/// With TLS or without.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl Link {
    /// Connects with the handshake of TLS, and logs in, within `limit` each.
    pub(super) async fn open(
        to: &Address,
        tls: &Meeting,
        password: Option<&Secret>,
        limit: Duration,
    ) -> Result<Self, Trouble> {
        let tls = ServerTls::clone(&tls.load());
        let mut is_dialled = false;
        let opening = async {
            let stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(broken)?;
            is_dialled = true;
            // Without it the answer to a small request may wait for the peer's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let stream: Box<dyn Duplex> = match tls.config() {
                Some(config) => {
                    let name = name_of(&to.host).map_err(broken)?;
                    let connector = TlsConnector::from(Arc::clone(config));
                    Box::new(connector.connect(name, stream).await.map_err(unencrypted)?)
                }
                None => Box::new(stream),
            };
            Ok(stream)
        };
        let stream = match timeout(limit, opening).await {
            Ok(opened) => opened?,
            Err(_) if is_dialled => return Err(Trouble::NoHandshake(limit)),
            Err(_) => return Err(Trouble::Silent(limit)),
        };
        let mut link = Self {
            stream,
            tls,
            has_answered: false,
            received: BytesMut::new(),
            scanned: 0,
            scan: ReplyScan::default(),
        };
        if let Some(password) = password {
            link.ask(&["AUTH", &password.0], limit).await?;
        }
        Ok(link)
    }

    /// A reload has changed how servers are met since it was opened.
    pub(super) fn is_outdated(&self, now: &Meeting) -> bool {
        self.tls != **now.load()
    }

    /// One request; an error that the server answers is an `Err` too.
    pub(super) async fn ask(&mut self, words: &[&str], limit: Duration) -> Result<Reply, Trouble> {
        let mut replies = self.ask_all(&[words], limit).await?;
        replies.pop().unwrap_or_else(|| Err(Objection::new("no answer"))).map_err(Trouble::Objected)
    }

    /// Several requests in one write; the server runs them one after the other, in general without a pause between.
    pub(super) async fn ask_all(
        &mut self,
        requests: &[&[&str]],
        limit: Duration,
    ) -> Result<Vec<Result<Reply, Objection>>, Trouble> {
        let exchange = async {
            self.send(requests).await?;
            let mut replies = Vec::with_capacity(requests.len());
            for _ in requests {
                replies.push(match self.next().await? {
                    Reply::Error(text) => Err(Objection::new(&text)),
                    reply => Ok(reply),
                });
            }
            Ok(replies)
        };
        timeout(limit, exchange).await.unwrap_or(Err(Trouble::Silent(limit)))
    }

    /// Writes requests whose answers are read by [`Link::next`].
    pub(super) async fn send(&mut self, requests: &[&[&str]]) -> Result<(), Trouble> {
        let mut bytes = BytesMut::new();
        for words in requests {
            let words: Vec<_> = words.iter().map(|word| BorrowedFrame::BulkString(word.as_bytes())).collect();
            extend_encode_borrowed(&mut bytes, &BorrowedFrame::Array(&words), false)
                .map_err(|error| Trouble::Broken(error.to_string()))?;
        }
        self.stream.write_all(&bytes).await.map_err(broken)?;
        // Of what is encrypted, some may wait for it.
        self.stream.flush().await.map_err(broken)
    }

    /// The next answer or message, however long it takes. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Reply, Trouble> {
        loop {
            if let Some(reply) = self.take_reply()? {
                return Ok(reply);
            }
            if self.received.len() > LARGEST_REPLY {
                return Err(Trouble::Broken(format!("an answer is longer than {LARGEST_REPLY} bytes")));
            }
            if self.stream.read_buf(&mut self.received).await.map_err(|error| self.lost(&error))? == 0 {
                return Err(Trouble::Broken("the connection was closed by the server".to_owned()));
            }
        }
    }

    fn lost(&self, error: &std::io::Error) -> Trouble {
        let is_first = !self.has_answered && self.received.is_empty();
        // So ends a request in clear text to a server that takes it for a handshake.
        let hint = match error.kind() {
            ErrorKind::ConnectionReset if is_first && self.tls.config().is_none() => {
                " before any answer: if it speaks TLS, set redis.service.tls.mode"
            }
            _ => "",
        };
        Trouble::Broken(format!("{error}{hint}"))
    }

    fn take_reply(&mut self) -> Result<Option<Reply>, Trouble> {
        let unseen = self.received.get(self.scanned..).unwrap_or_default();
        if unseen.is_empty() {
            return Ok(None);
        }
        if self.received.first() == Some(&ALERT) {
            return Err(Trouble::Broken("it speaks TLS only (redis.service.tls.mode)".to_owned()));
        }
        let scanned = self.scan.scan(unseen).map_err(|error| Trouble::Broken(error.to_string()))?;
        self.scanned += scanned.used;
        if !scanned.is_done {
            return Ok(None);
        }
        self.has_answered = true;
        let raw = self.received.split_to(std::mem::take(&mut self.scanned));
        let arrays = raw.as_ref().split(|&byte| byte == b'\n').filter(|line| line.first() == Some(&b'*')).count();
        if arrays > MOST_ARRAYS {
            return Err(Trouble::Broken(format!("an answer holds more than {MOST_ARRAYS} lists")));
        }
        match decode(&raw) {
            Ok(Some((reply, _))) => Ok(Some(reply)),
            Ok(None) => Err(Trouble::Broken("an answer ends too early".to_owned())),
            Err(error) => Err(Trouble::Broken(format!("an answer is no RESP: {error}"))),
        }
    }
}

fn broken(error: std::io::Error) -> Trouble {
    Trouble::Broken(error.to_string())
}

/// Of a handshake that failed.
fn unencrypted(error: std::io::Error) -> Trouble {
    let reason = error.get_ref().and_then(|reason| reason.downcast_ref::<rustls::Error>());
    Trouble::Broken(match reason {
        Some(rustls::Error::InvalidMessage(_)) => "it speaks no TLS (redis.service.tls.mode, sentinel_tls)".to_owned(),
        _ => format!("its TLS handshake failed: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A link to a server that sends `bytes` and closes.
    async fn heard(bytes: &'static [u8]) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(bytes).await.expect("written");
        });
        Link::open(&Address::new("127.0.0.1", port), &Meeting::default(), None, Duration::from_secs(5))
            .await
            .expect("connected")
    }

    #[test]
    fn an_error_s_first_word_tells_what_is_wrong() {
        for (text, kind) in [
            ("LOADING Redis is loading the dataset in memory", ObjectionKind::Loading),
            ("NOAUTH Authentication required.", ObjectionKind::Login),
            ("WRONGPASS invalid username-password pair or user is disabled.", ObjectionKind::Login),
            ("MISCONF Redis is configured to save RDB snapshots", ObjectionKind::Misconfigured),
            ("BUSY Redis is busy running a script.", ObjectionKind::Busy),
            ("MASTERDOWN Link with MASTER is down", ObjectionKind::WithoutPrimary),
            ("ERR unknown command", ObjectionKind::Other),
            ("LOADINGS", ObjectionKind::Other),
        ] {
            assert_eq!(Objection::new(text).kind, kind, "{text}");
        }
    }

    #[tokio::test]
    async fn answers_come_one_by_one_and_the_end_is_told() {
        let mut link = heard(b"+OK\r\n*2\r\n$1\r\na\r\n:7\r\n").await;
        assert_eq!(link.next().await, Ok(Reply::SimpleString(b"OK".to_vec())));
        assert_eq!(link.next().await, Ok(Reply::Array(vec![Reply::BulkString(b"a".to_vec()), Reply::Integer(7)])));
        assert!(matches!(link.next().await, Err(Trouble::Broken(why)) if why.contains("closed by the server")));
    }

    #[tokio::test]
    async fn a_server_that_answers_with_an_alert_is_one_with_tls() {
        let refused = heard(b"\x15\x03\x01\x00\x02\x02\x46").await.next().await;
        assert!(matches!(&refused, Err(Trouble::Broken(why)) if why.contains("speaks TLS only")), "{refused:?}");
    }

    #[tokio::test]
    async fn a_hostile_answer_is_refused_before_it_is_decoded() {
        let nested: &'static [u8] = Box::leak([b"*1\r\n".repeat(100_000).as_slice(), b":1\r\n"].concat().into());
        let refused = heard(nested).await.next().await;
        assert!(matches!(&refused, Err(Trouble::Broken(why)) if why.contains("lists")), "{refused:?}");
        let refused = heard(b"SSH-2.0\r\n").await.next().await;
        assert!(matches!(refused, Err(Trouble::Broken(_))), "{refused:?}");
    }
}
