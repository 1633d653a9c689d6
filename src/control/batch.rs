//! A connection whose answers wait for the next read, so that those to pipelined requests leave in one write.
//!
//! hyper flushes after each answer, which costs a system call each. Its own remedy, `pipeline_flush`, flushes only
//! when nothing unread is left, and so never answers what stands before half a request or a malformed one. Here the
//! answers leave when hyper wants to *read*: then it has answered all it has, and may wait. What is left leaves
//! before the end of the connection.
//!
//! The end waits for the client, too: closing a socket with something unread resets the connection, and the client
//! might never see the answer that said why its request was not read to the end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::limits::{CONTROL_OUTPUT_BYTES, LINGER_MS};

/// Bytes discarded at once.
const DISCARD_BYTES: usize = 4096;

/// See the module.
pub(super) struct Batched {
    stream: TokioIo<TcpStream>,
    /// Answers; up to `sent` the kernel has them.
    output: Vec<u8>,
    sent: usize,
    /// While the connection ends: for how long.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Batched {
    /// A connection that has nothing to send.
    pub(super) fn new(stream: TcpStream) -> Batched {
        Batched { stream: TokioIo::new(stream), output: Vec::new(), sent: 0, linger: None }
    }

    /// Hands all of the output to the kernel.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
        }
        self.output.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Discards what still comes, until the client has ended its half or [`LINGER_MS`] are over.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(LINGER_MS))));
        if linger.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut discarded = [0; DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Read for Batched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // Nothing is read from a client that does not read, so what it is owed stays bounded.
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Batched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.len() >= CONTROL_OUTPUT_BYTES {
            ready!(self.poll_send(context))?;
        }
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        self.poll_linger(context)
    }
}
