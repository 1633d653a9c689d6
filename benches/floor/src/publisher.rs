//! Reads publications posted by minimal HTTP, pipelined on a persistent connection.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;

use ringfeed::proto::{Opcode, decode_request_head, encode_frame};

/// Bytes per read: enough for all publications in flight.
const READ_BYTES: usize = 256 * 1024;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A connection for publications.
pub(crate) struct Publisher {
    stream: TcpStream,
    buffer: Box<[u8]>,
    /// The incomplete request.
    input: Vec<u8>,
    /// Responses to the last requests.
    answers: Vec<u8>,
}

impl Publisher {
    pub(crate) fn new(stream: TcpStream) -> std::io::Result<Publisher> {
        stream.set_nodelay(true)?;
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Ok(Publisher { stream, buffer, input: Vec::new(), answers: Vec::new() })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads once, and appends the complete publications to `run`, as frames.
    ///
    /// # Errors
    /// If the publisher disconnected or sent an invalid request.
    pub(crate) fn read(&mut self, run: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
        let len = self.stream.read(&mut self.buffer)?;
        if len == 0 {
            return Err("the publisher disconnected".into());
        }
        self.input.extend_from_slice(&self.buffer[..len]);
        let mut used = 0;
        while let Some(post) = Post::decode(&self.input[used..])? {
            encode_frame(run, Opcode::Text, post.body, None);
            self.answers.extend_from_slice(ANSWER);
            used += post.len;
        }
        self.input.drain(..used);
        Ok(())
    }

    /// Answers all requests read since the last call.
    pub(crate) fn answer(&mut self) -> std::io::Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&self.answers)?;
        self.answers.clear();
        Ok(())
    }
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
struct Post<'a> {
    body: &'a [u8],
    /// Length of the whole request in bytes.
    len: usize,
}

impl<'a> Post<'a> {
    /// The request at the front of `input`; `None` if it is incomplete.
    fn decode(input: &'a [u8]) -> Result<Option<Post<'a>>, Box<dyn Error>> {
        let Some((head, head_len)) = decode_request_head(input).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let body_len: usize = head.header("Content-Length").ok_or("a request without Content-Length")?.parse()?;
        let len = head_len + body_len;
        Ok(input.get(head_len..len).map(|body| Post { body, len }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const REQUEST: &[u8] = b"POST /publish/t HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn a_body_is_found_only_in_a_complete_request() {
        for cut in 1..REQUEST.len() {
            assert!(Post::decode(&REQUEST[..cut]).unwrap().is_none(), "{cut}");
        }
        assert_eq!(Post::decode(REQUEST).unwrap(), Some(Post { body: b"hello", len: REQUEST.len() }));
        assert!(Post::decode(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn pipelined_publications_become_one_run() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut poster = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut publisher = Publisher::new(listener.accept().unwrap().0).unwrap();
        let mut run = Vec::new();
        let both = [REQUEST, REQUEST, &REQUEST[..10]].concat();
        poster.write_all(&both).unwrap();
        publisher.read(&mut run).unwrap();
        assert_eq!(run, b"\x81\x05hello\x81\x05hello");
        publisher.answer().unwrap();
        poster.write_all(&REQUEST[10..]).unwrap();
        publisher.read(&mut run).unwrap();
        assert_eq!(run, b"\x81\x05hello".repeat(3));
        publisher.answer().unwrap();
        let mut answers = vec![0; 3 * ANSWER.len()];
        poster.read_exact(&mut answers).unwrap();
        assert_eq!(answers, ANSWER.repeat(3));
        drop(poster);
        assert!(publisher.read(&mut run).is_err());
    }
}
