//! A connection whose answers wait for the next read, so that those to pipelined requests leave in one write.
//!
//! hyper flushes after each answer, which costs a system call each. Its own remedy, `pipeline_flush`, flushes only
//! when nothing unread is left, and so never answers what stands before half a request or a malformed one. Here the
//! answers leave when hyper wants to *read*: then it has answered all it has, and may wait. The rest leaves
//! before the end of the connection. Where hyper waits for more bytes of a request already, they leave with the flush:
//! `100 Continue` is what the client waits for before it sends the body.
//!
//! The server waits a limited time for a client that does not read its answers.
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::limits::{CONTROL_OUTPUT_BYTES, LINGER_MS};

/// Bytes discarded at once.
const DISCARD_BYTES: usize = 4096;

/// A connection, plain or with TLS.
pub(super) type Stream = Box<dyn Wire>;

/// What a [`Stream`] does.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// See the module.
pub(super) struct Batched {
    stream: TokioIo<Stream>,
    /// Answers; up to `sent` the kernel has them.
    output: Vec<u8>,
    sent: usize,
    /// hyper wants to read, and nothing has come.
    is_reading: bool,
    /// How long the client has to read all of the output.
    patience: Duration,
    /// While the socket is full: for how long.
    stalled: Option<Pin<Box<Sleep>>>,
    /// While the connection ends: for how long.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Batched {
    /// A connection that has nothing to send. The client has `patience` to read [`CONTROL_OUTPUT_BYTES`].
    pub(super) fn new(stream: Stream, patience: Duration) -> Batched {
        Batched {
            stream: TokioIo::new(stream),
            output: Vec::new(),
            sent: 0,
            is_reading: false,
            patience,
            stalled: None,
            linger: None,
        }
    }

    /// Hands all of the output to the kernel.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the client has not read enough of it in time.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(context, &self.output[self.sent..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(len) => self.sent += len,
                Poll::Pending => return self.poll_stalled(context).map(Err),
            }
        }
        if Pin::new(&mut self.stream).poll_flush(context)?.is_pending() {
            return self.poll_stalled(context).map(Err);
        }
        self.output.clear();
        self.sent = 0;
        self.stalled = None;
        Poll::Ready(Ok(()))
    }

    /// The socket is full: how that ends if it stays so.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        stalled.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
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
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.is_reading = read.is_pending();
        read
    }
}

impl Write for Batched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.output.len() >= CONTROL_OUTPUT_BYTES {
            ready!(self.poll_send(context))?;
        }
        let room = CONTROL_OUTPUT_BYTES - self.output.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.output.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_reading { self.poll_send(context) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        self.poll_linger(context)
    }
}
