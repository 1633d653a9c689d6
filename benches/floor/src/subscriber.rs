//! Accepts a subscriber with the opening handshake, and reads nothing else from it.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use ringfeed::proto::{Upgrade, decode_request_head, encode_accept};

/// Accepts one connection from `listener` and upgrades it. Blocks until the request arrives.
pub(crate) fn accept(listener: &TcpListener) -> Result<TcpStream, Box<dyn Error>> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    loop {
        let mut piece = [0; 2048];
        let len = stream.read(&mut piece)?;
        if len == 0 {
            return Err("a subscriber disconnected during its handshake".into());
        }
        input.extend_from_slice(&piece[..len]);
        if let Some((head, _)) = decode_request_head(&input).map_err(|error| error.to_string())? {
            let upgrade = Upgrade::from_request(&head).map_err(|error| error.to_string())?;
            let mut answer = Vec::new();
            encode_accept(&mut answer, &upgrade, None, None);
            stream.write_all(&answer)?;
            return Ok(stream);
        }
    }
}
