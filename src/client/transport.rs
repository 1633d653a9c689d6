//! A stream to a server, with a buffer for each direction.
//!
//! What has been received or accepted is noted here as soon as it is, so that a caller who gives up waiting loses
//! neither bytes nor their order.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ClientError;
use super::dial::Stream;
use crate::limits::CLIENT_READ_BYTES;

/// The stream and its buffers.
pub(super) struct Transport {
    stream: Stream,
    /// Bytes that have been read; from `consumed` on they are new.
    input: Vec<u8>,
    consumed: usize,
    /// What leaves with the next [`flush`](Self::flush).
    pub(super) output: Vec<u8>,
    /// How much of it the stream has accepted.
    written: usize,
}

impl Transport {
    pub(super) fn new(stream: Stream) -> Transport {
        Transport { stream, input: Vec::new(), consumed: 0, output: Vec::new(), written: 0 }
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
    /// What the stream says, or that it has ended.
    pub(super) async fn receive(&mut self) -> Result<(), ClientError> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        self.input.reserve(CLIENT_READ_BYTES);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Writes all of the output.
    ///
    /// # Errors
    /// What the stream says.
    pub(super) async fn flush(&mut self) -> Result<(), ClientError> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]).await? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                accepted => self.written += accepted,
            }
        }
        self.stream.flush().await?;
        self.output.clear();
        self.written = 0;
        Ok(())
    }
}
