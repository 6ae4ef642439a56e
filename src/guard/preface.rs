//! What a load balancer says in front of a connection, read from its socket.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{Guard, Pass, Refused};
use crate::net::Stream;
use crate::wire::proxy::{self, ProxyError, Sender};
use crate::worker::Wheel;

/// The header is in the first segment, and no load balancer takes longer to send that again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that are looked at in one go.
const LOOK: usize = 512;

/// What has become of a connection that had to begin with a PROXY header.
#[derive(Debug)]
pub enum Introduced {
    /// It is let in, and counts as the client's from now on.
    In(Stream, Pass),
    /// Its client is refused.
    Out(Stream, Refused),
    /// It is of no use; it was logged if it has to be.
    Gone,
}

impl Guard {
    /// Reads the header of a connection for which [`Guard::expects_header`] is true, and not a byte behind it. In a few
    /// seconds at the longest.
    pub async fn introduce(self: &Arc<Self>, mut stream: Stream, wheel: &Rc<Wheel>) -> Introduced {
        let balancer = stream.peer();
        let read = wheel.timeout(Some(PATIENCE), read(&mut stream)).await;
        let sender = match read {
            Ok(Ok(sender)) => sender,
            Ok(Err(Problem::Header(error))) => {
                self.note_header(balancer, &error);
                return Introduced::Gone;
            }
            // A check that the port is open.
            Ok(Err(Problem::Socket)) => return Introduced::Gone,
            Err(_) => {
                tracing::warn!(peer = %balancer, within = ?PATIENCE, "no PROXY header has come");
                return Introduced::Gone;
            }
        };
        let Stream::Tcp(tcp) = &mut stream else { return Introduced::Gone };
        match sender {
            Sender::Balancer => return Introduced::In(stream, self.admit_balancer()),
            Sender::Somebody => tcp.set_client(None),
            Sender::Client(client) => tcp.set_client(Some(client)),
        }
        match self.admit(stream.peer()) {
            Ok(pass) => Introduced::In(stream, pass),
            Err(refused) => Introduced::Out(stream, refused),
        }
    }
}

enum Problem {
    /// It ended or failed.
    Socket,
    Header(ProxyError),
}

/// Looks at what has come before any of it is taken, so that what follows the header stays in the socket: for TLS that
/// begins there, for one.
async fn read(stream: &mut Stream) -> Result<Sender, Problem> {
    let Stream::Tcp(tcp) = stream else { return Err(Problem::Socket) };
    let mut header = Vec::new();
    loop {
        let mut look = [0; LOOK];
        let seen = tcp.peek(&mut look).await.map_err(|_| Problem::Socket)?;
        if seen == 0 {
            return Err(Problem::Socket);
        }
        let before = header.len();
        header.extend_from_slice(look.get(..seen).unwrap_or_default());
        let found = proxy::header(&header).map_err(Problem::Header)?;
        let take = found.map_or(seen, |(_, length)| length.saturating_sub(before));
        let taken = look.get_mut(..take).unwrap_or_default();
        tcp.read_exact(taken).await.map_err(|_| Problem::Socket)?;
        if let Some((sender, _)) = found {
            return Ok(sender);
        }
    }
}
