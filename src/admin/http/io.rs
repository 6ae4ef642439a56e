//! A [`Stream`] that tells when it moved last.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::Stream;
use crate::worker::clock::now_ns;

/// Notes when bytes last moved, so that who takes none can be told from who waits for an answer.
pub(super) struct Watched {
    stream: Stream,
    moved: Rc<Cell<u64>>,
}

impl Watched {
    /// `moved` is the time of the last byte, ns.
    pub(super) fn new(stream: Stream, moved: Rc<Cell<u64>>) -> Self {
        Watched { stream, moved }
    }

    fn note(&self, moved: bool) {
        if moved {
            self.moved.set(now_ns());
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.note(done.is_ready());
        done
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(done.is_ready());
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
