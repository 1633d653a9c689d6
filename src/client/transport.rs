//! One TCP stream on tokio-uring, with a buffer for each direction.
//!
//! A read or write that has been handed to the kernel is kept here until it is done, so that a caller who gives up
//! waiting loses neither bytes nor their order. At most one of each is in flight.
//!
//! Where bytes lie cannot be mistaken here, however the kernel goes about a read: each read brings a buffer of its own,
//! which the kernel fills from its beginning and nobody else has, and its result says how far. The shards' buffers, of
//! which many reads share one and the kernel chooses the place, are not used here.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;

use tokio_uring::net::TcpStream;

use super::ClientError;
use super::connect::connect_to_any;
use super::url::Endpoint;
use crate::limits::CLIENT_READ_BYTES;

/// An operation that owns its buffer until it is done.
type InFlight<T> = Pin<Box<dyn Future<Output = (io::Result<T>, Vec<u8>)>>>;

/// The stream and its buffers.
pub(super) struct Transport {
    stream: Rc<TcpStream>,
    reading: Option<InFlight<usize>>,
    writing: Option<InFlight<()>>,
    /// Bytes that have been read; from `consumed` on they are new.
    input: Vec<u8>,
    consumed: usize,
    /// What leaves with the next [`flush`](Self::flush).
    pub(super) output: Vec<u8>,
}

impl Transport {
    /// Connects to the first address of the host that answers.
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Transport, ClientError> {
        connect_to_any(endpoint, Transport::connect_to).await
    }

    async fn connect_to(address: SocketAddr) -> io::Result<Transport> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Transport {
            stream: Rc::new(stream),
            reading: None,
            writing: None,
            input: Vec::with_capacity(CLIENT_READ_BYTES),
            consumed: 0,
            output: Vec::new(),
        })
    }

    /// Bytes that have been read and not consumed.
    pub(super) fn input(&mut self) -> &mut [u8] {
        &mut self.input[self.consumed..]
    }

    /// The first `len` bytes of the input are done with.
    pub(super) fn consume(&mut self, len: usize) {
        self.consumed += len;
    }

    /// Waits for more input, which is appended.
    ///
    /// # Errors
    /// What the kernel says, or that the stream has ended.
    pub(super) async fn receive(&mut self) -> Result<(), ClientError> {
        let reading = self.reading.get_or_insert_with(|| {
            let stream = self.stream.clone();
            let piece = Vec::with_capacity(CLIENT_READ_BYTES);
            Box::pin(async move { stream.read(piece).await })
        });
        let (result, piece) = reading.await;
        self.reading = None;
        if result? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if self.input.len() == self.consumed {
            self.input = piece;
        } else {
            self.input.drain(..self.consumed);
            self.input.extend_from_slice(&piece);
        }
        self.consumed = 0;
        Ok(())
    }

    /// Writes all of the output.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn flush(&mut self) -> Result<(), ClientError> {
        while self.writing.is_some() || !self.output.is_empty() {
            let writing = self.writing.get_or_insert_with(|| {
                let stream = self.stream.clone();
                let output = std::mem::take(&mut self.output);
                Box::pin(async move { stream.write_all(output).await })
            });
            let (result, written) = writing.await;
            self.writing = None;
            if self.output.is_empty() {
                // Its memory serves the next messages.
                self.output = written;
                self.output.clear();
            }
            result?;
        }
        Ok(())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // An operation in flight keeps the socket open until it is done: this makes it so. It fails only when the
        // peer has ended the connection already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
