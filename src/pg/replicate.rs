//! Replication connections: passed through to the primary as they are, on a server connection of their own.
//!
//! What they speak is COPY in both directions at once, on a session that cannot be shared. They count to no pool's size.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::backend::Backend;
use super::connect::connect_as;
use super::core::Core;
use super::errors::Trouble;
use super::login::Talk;
use super::pool::PgPool;
use super::registry::{Client, ClientState, ServerState};
use crate::net::Stream;
use crate::wire::pg::build;
use crate::wire::pg::sqlstate::write_error;
use crate::wire::pg::startup;

/// Bytes that are on their way in one direction.
const ROOM: usize = 64 * 1024;

/// What the server has to be asked for, if the client wants a replication connection.
pub(super) fn wanted(startup: &startup::Session) -> Option<Vec<(&[u8], &[u8])>> {
    let how = startup.param("replication")?;
    if matches!(how, b"" | b"0" | b"f" | b"false" | b"off" | b"n" | b"no") {
        return None;
    }
    let of_server = |name: &str| !name.starts_with("forebay.");
    Some(startup.params.iter().filter(|(n, _)| of_server(n)).map(|(n, v)| (n.as_bytes(), v.as_slice())).collect())
}

/// A connection to the primary for a client of this pool.
///
/// # Errors
/// What the client is told.
pub(super) async fn open(
    core: &Rc<Core>,
    pool: &Rc<PgPool>,
    params: &[(&[u8], &[u8])],
) -> Result<(Box<Backend>, Vec<(String, String)>), Trouble> {
    let primary = core.view(pool).and_then(|view| view.primary);
    let Some(primary) = primary else { return Err(core.why_waited(pool, 0)) };
    let opened = connect_as(core, pool, primary, params).await;
    opened.map_err(|failure| Trouble::ServerSaid {
        code: failure.code.unwrap_or_else(|| "08006".to_owned()),
        message: failure.message,
    })
}

/// Serves one client until either side ends.
pub(super) async fn serve(
    core: Rc<Core>,
    me: Rc<Client>,
    talk: Talk,
    mut backend: Box<Backend>,
    params: Vec<(String, String)>,
) {
    let (mut client, ahead) = talk.into_parts();
    backend.entry.client.set(me.id);
    backend.entry.state.set(ServerState::Active);
    me.state.set(ClientState::Active);
    let mut hello = Vec::new();
    build::authentication_ok(&mut hello);
    for (name, value) in &params {
        build::parameter_status(&mut hello, name.as_bytes(), value.as_bytes());
    }
    build::backend_key_data(&mut hello, me.key.process_id, me.key.secret.as_bytes());
    build::ready_for_query(&mut hello, super::request::transaction_status(b'I'));
    hello.append(&mut backend.partial);
    let mut flow = Flow { to_client: hello, to_server: ahead, room: vec![0; ROOM] };
    let ended = poll_fn(|cx| {
        *me.waker.borrow_mut() = Some(cx.waker().clone());
        flow.poll(cx, &me, &mut client, &mut backend)
    })
    .await;
    if let Err(Some(trouble)) = ended {
        let mut words = flow.to_client;
        write_error(&mut words, &trouble);
        // Whoever does not read it has been told.
        let _ = client.try_write(&words);
    }
    core.forget(&backend);
}

/// What was read from one side and not yet written to the other.
struct Flow {
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    room: Vec<u8>,
}

impl Flow {
    /// Moves what can be moved. The error is what the client is told, if there is anybody to tell.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        me: &Client,
        client: &mut Stream,
        backend: &mut Backend,
    ) -> Poll<Result<(), Option<Trouble>>> {
        if me.is_called.take()
            && let Some(order) = me.order.take()
            && let Some(why) = order.end()
        {
            return Poll::Ready(Err(Some(Trouble::Ended(why))));
        }
        loop {
            let mut moved = write(&mut self.to_server, &backend.stream, cx).map_err(|_| lost())?;
            moved |= write(&mut self.to_client, client, cx).map_err(|_| None)?;
            if self.to_client.is_empty() {
                match backend.stream.poll_read(cx, &mut self.room) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.to_client.extend_from_slice(self.room.get(..n).unwrap_or_default());
                        moved = true;
                    }
                    Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(lost())),
                    Poll::Pending => {}
                }
            }
            if self.to_server.is_empty() {
                match client.poll_read(cx, &mut self.room) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.to_server.extend_from_slice(self.room.get(..n).unwrap_or_default());
                        moved = true;
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(None)),
                    Poll::Pending => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}

fn lost() -> Option<Trouble> {
    Some(Trouble::Ended("the loss of the server"))
}

/// Writes what the socket takes. True if that was something.
fn write(bytes: &mut Vec<u8>, to: &Stream, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut moved = false;
    while !bytes.is_empty() {
        match to.try_write(bytes)? {
            0 => match to.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(moved),
            },
            n => {
                bytes.drain(..n);
                moved = true;
            }
        }
    }
    Ok(moved)
}
