//! A [`Stream`] as hyper wants it.

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
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let read = match me.stream.poll_read(cx, buf.initialize_unfilled())? {
            Poll::Ready(read) => read,
            Poll::Pending => return Poll::Pending,
        };
        buf.advance(read);
        me.moved.set(now_ns());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let written = self.stream.try_write(buf)?;
            if written > 0 || buf.is_empty() {
                self.moved.set(now_ns());
                return Poll::Ready(Ok(written));
            }
            match self.stream.poll_write_ready(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tcp(tcp) => Pin::new(&mut **tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Stream::Tls(tls) => {
                tls.say_goodbye();
                Pin::new(&mut **tls.tcp_mut()).poll_shutdown(cx)
            }
        }
    }
}
