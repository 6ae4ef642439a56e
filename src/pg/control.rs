//! Short conversations of our own on a data connection: settings, cleaning, a question.

use super::backend::Backend;
use super::errors::Trouble;
use crate::wire::pg::build;
use crate::wire::pg::frame::{Head, server_head};
use crate::wire::pg::message::{self, Fields};

/// Why a conversation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server answered with an error; the connection is as it was.
    #[error("{message} ({code})")]
    Said {
        /// SQLSTATE
        code: String,
        /// The server's words.
        message: String,
    },
    /// The connection is not to be used any more.
    #[error("{}", .0.reason())]
    Lost(Trouble),
}

impl Failure {
    /// For the client.
    pub fn into_trouble(self) -> Trouble {
        match self {
            Failure::Said { code, message } => Trouble::ServerSaid { code, message },
            Failure::Lost(trouble) => trouble,
        }
    }
}

/// What a conversation brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// First column of each row, as text.
    pub rows: Vec<Option<String>>,
    /// Parameters that the server reported on the way.
    pub params: Vec<(String, String)>,
}

/// Runs `sql` by the simple protocol on a quiet connection and reads its answer to the end.
///
/// Not cancel-safe: a connection whose conversation was dropped half-way must be closed.
///
/// # Errors
/// [`Failure::Said`] leaves the connection usable, [`Failure::Lost`] does not.
pub async fn run(backend: &mut Backend, sql: &str) -> Result<Said, Failure> {
    let mut said = Said::default();
    if sql.is_empty() {
        return Ok(said);
    }
    build::query(&mut backend.out, sql.as_bytes());
    let out = std::mem::take(&mut backend.out);
    backend.stream.write_all(&out).await.map_err(lost)?;
    read_to_end(backend, &mut said).await?;
    Ok(said)
}

/// Reads the answer to a question that was sent before, up to its ReadyForQuery.
///
/// # Errors
/// As [`run`].
pub async fn finish(backend: &mut Backend) -> Result<(), Failure> {
    let heard = read_to_end(backend, &mut Said::default()).await;
    backend.track.told(backend.track.status);
    match heard {
        Err(lost @ Failure::Lost(_)) => Err(lost),
        // What it would have said is of no use any more.
        Ok(()) | Err(Failure::Said { .. }) => Ok(()),
    }
}

fn lost(error: std::io::Error) -> Failure {
    Failure::Lost(Trouble::ServerIo(error.kind()))
}

async fn read_to_end(backend: &mut Backend, said: &mut Said) -> Result<(), Failure> {
    let mut failure = None;
    let mut buffer = std::mem::take(&mut backend.partial);
    loop {
        let mut at = 0;
        while let Some(rest) = buffer.get(at..) {
            let len = match server_head(rest) {
                Head::Frame { len, .. } if rest.len() >= len => len,
                Head::Bad(_) => return Err(Failure::Lost(Trouble::ServerNonsense)),
                _ => break,
            };
            let (Some(kind), Some(body)) = (rest.first(), rest.get(5..len)) else { break };
            at += len;
            match kind {
                b'Z' => {
                    backend.track.status = body.first().copied().unwrap_or(b'I');
                    backend.partial = buffer.split_off(at);
                    backend.unnamed_of = 0;
                    return failure.map_or(Ok(()), Err);
                }
                b'E' => failure = Some(error(body)?),
                b'D' => {
                    if let Ok(row) = message::data_row(body) {
                        let first = row.first().copied().flatten();
                        said.rows.push(first.map(|v| String::from_utf8_lossy(v).into_owned()));
                    }
                }
                b'S' => {
                    if let Ok((name, value)) = message::parameter_status(body) {
                        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                        said.params.push((text(name), text(value)));
                    }
                }
                _ => {}
            }
        }
        buffer.drain(..at);
        let mut chunk = [0; 2048];
        let n = backend.stream.read(&mut chunk).await.map_err(lost)?;
        if n == 0 {
            return Err(Failure::Lost(Trouble::ServerClosed));
        }
        buffer.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
}

/// An ErrorResponse; a FATAL one ends the connection.
fn error(body: &[u8]) -> Result<Failure, Failure> {
    let Ok(fields) = Fields::read("ErrorResponse", body) else { return Err(Failure::Lost(Trouble::ServerNonsense)) };
    let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or_default()).into_owned();
    let (code, message) = (text(fields.sqlstate()), text(fields.message()));
    match fields.severity() {
        Some(b"FATAL" | b"PANIC") => Err(Failure::Lost(Trouble::ServerEnded { code, message })),
        _ => Ok(Failure::Said { code, message }),
    }
}
