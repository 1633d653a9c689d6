//! The relay of SockJS's HTTP transports: one task for each session, between the session's WebSocket, which it opens to
//! the server itself, and the responses that receive its frames.
//!
//! ```text
//! shard: response of xhr_streaming, xhr, eventsource ◄── Handle ── task ◄── WebSocket ◄── shard: conversation
//! shard: request xhr_send ──── Sessions ──────────────────────────► task ──► WebSocket ──►
//! ```
//!
//! The WebSocket is on a Unix socket in a directory of its own, which only the server's user can enter. A conversation
//! whose frames nobody fetches fills this socket, and then the policies for slow subscribers apply. One thread has all
//! tasks: the transports are for clients that have nothing better.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::gateway::sockjs::{
    CLOSED_BY_PEER, Ended, Form, INTERRUPTED, NewSession, Receiver, Requests, SECOND_RECEIVER, Sessions, ToSession,
    close_frame, is_close_frame, merge, write_chunk,
};
use crate::gateway::{Handle, SendError};
use crate::limits::{
    HANDLE_RETRY_MS, HANDSHAKE_BYTES_MAX, SOCKJS_FRAME_BYTES_MAX, SOCKJS_RECEIVER_MS, SOCKJS_RESPONSE_BYTES,
    SOCKJS_RETRY_MS, SOCKJS_UNSENT_BYTES,
};
use crate::proto::{
    CloseCode, Decoder, Event, Message, MessageKind, Opcode, Role, encode_close, encode_frame, encode_message,
};
use crate::server::{ListenAddress, ListenerConfig};

/// Clients mask their frames (RFC 6455 §5.3). The key protects proxies, of which there is none here.
const MASK: Option<[u8; 4]> = Some([0; 4]);

/// Where the sessions' WebSockets connect. Keep it while the server runs: its end removes the directory.
#[derive(Debug)]
pub struct RelaySocket {
    directory: PathBuf,
}

impl RelaySocket {
    /// A socket in a new directory below the system's for temporary files.
    ///
    /// # Errors
    /// The directory can't be made: set `TMPDIR` to one that the server may write to.
    pub fn new() -> io::Result<RelaySocket> {
        let random: u64 = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let directory = std::env::temp_dir().join(format!("ringfeed-{random:016x}"));
        // It must be new: nobody else has prepared it.
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(RelaySocket { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.join("sockjs")
    }

    /// The listener on this socket, which serves these routes of SockJS.
    pub fn listener(&self, routes: Vec<String>) -> ListenerConfig {
        ListenerConfig { routes, ..ListenerConfig::new(ListenAddress::Unix(self.path())) }
    }

    /// Starts the relay's thread, which serves the sessions until the process ends. The server must listen already.
    ///
    /// # Errors
    /// The system's, at the start of the thread.
    pub fn start(&self, requests: Requests) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path: Arc<Path> = self.path().into();
        let run = move || LocalSet::new().block_on(&runtime, serve(requests, path));
        thread::Builder::new().name("sockjs".to_owned()).spawn(run).map(drop)
    }
}

impl Drop for RelaySocket {
    fn drop(&mut self) {
        // What can't be removed is empty and of no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs each session as a task.
async fn serve(Requests { mut opened, sessions }: Requests, path: Arc<Path>) {
    while let Some(new) = opened.recv().await {
        let (sessions, path) = (sessions.clone(), path.clone());
        tokio::task::spawn_local(async move { run(new, &sessions, &path).await });
    }
}

/// Runs a session to its end.
async fn run(mut new: NewSession, sessions: &Sessions, path: &Path) {
    let ended = match open(&new, path).await {
        Ok((stream, rest)) => {
            let (reader, writer) = stream.into_split();
            let conversation = Conversation {
                reader,
                writer,
                decoder: Decoder::new(Role::Client, SOCKJS_FRAME_BYTES_MAX),
                unread: Vec::new(),
                is_over: false,
            };
            let mut session = Session { conversation, frames: Frames::default(), receiver: None, ended: None };
            session.run(&mut new, rest).await
        }
        Err(reason) => {
            tracing::debug!(%reason, "a session of SockJS could not open its conversation");
            refuse_receivers(&mut new, &close_frame(CloseCode::TRY_AGAIN_LATER, &reason)).await;
            Ended::Interrupted
        }
    };
    sessions.end(&new, ended);
}

/// Opens the session's WebSocket. Returns the bytes that have followed the handshake.
async fn open(new: &NewSession, path: &Path) -> Result<(UnixStream, Vec<u8>), String> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    let fields: String = new.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n",
        new.target
    );
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut response = Vec::new();
    loop {
        let end = response.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let rest = response.split_off(end + 4);
            let status = response.get(9..12).unwrap_or_default();
            return match status {
                b"101" => Ok((stream, rest)),
                _ => Err(format!("status {}", String::from_utf8_lossy(status))),
            };
        }
        if response.len() > HANDSHAKE_BYTES_MAX {
            return Err("the response is too large".to_owned());
        }
        if stream.read_buf(&mut response).await.map_err(|error| error.to_string())? == 0 {
            return Err("the server has closed the connection".to_owned());
        }
    }
}

/// The requests that have come already receive this frame.
async fn refuse_receivers(new: &mut NewSession, frame: &str) {
    while let Ok(command) = new.commands.try_recv() {
        if let ToSession::Receive(receiver) = command {
            say_last(receiver, frame).await;
        }
    }
}

/// A session between two events.
struct Session {
    conversation: Conversation,
    frames: Frames,
    receiver: Option<Receiving>,
    /// The last frame, once the conversation has ended.
    ended: Option<String>,
}

/// The session's WebSocket.
struct Conversation {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    decoder: Decoder,
    /// Bytes that the conversation has not taken.
    unread: Vec<u8>,
    is_over: bool,
}

/// The request that receives frames.
struct Receiving {
    receiver: Receiver,
    /// Bytes of frames in its response.
    sent: usize,
}

/// Frames that no request has received.
#[derive(Default)]
struct Frames {
    queue: VecDeque<String>,
    bytes: usize,
}

/// What happens next.
enum Happening {
    Command(Option<ToSession>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Retry,
    NoReceiver,
}

impl Session {
    async fn run(&mut self, new: &mut NewSession, rest: Vec<u8>) -> Ended {
        let mut input = rest;
        self.read_frames(&mut input);
        let mut deadline = Instant::now() + Duration::from_millis(SOCKJS_RECEIVER_MS);
        // The sizes of the client's messages in `unread`, to count them off once all are taken.
        let mut unread = 0;
        loop {
            if self.flush().await {
                deadline = Instant::now() + Duration::from_millis(SOCKJS_RECEIVER_MS);
            }
            let conversation = &mut self.conversation;
            let may_read = !conversation.is_over && self.frames.bytes < SOCKJS_UNSENT_BYTES;
            let may_write = !conversation.is_over && !conversation.unread.is_empty();
            let has_frames = !self.frames.queue.is_empty() || self.ended.is_some();
            let is_waiting = self.receiver.is_some() && has_frames;
            let happening = tokio::select! {
                command = new.commands.recv() => Happening::Command(command),
                count = conversation.reader.read_buf(&mut input), if may_read => Happening::Read(count),
                count = conversation.writer.write(&conversation.unread), if may_write => Happening::Written(count),
                () = sleep(Duration::from_millis(SOCKJS_RETRY_MS)), if is_waiting => Happening::Retry,
                () = sleep_until(deadline), if self.receiver.is_none() => Happening::NoReceiver,
            };
            match happening {
                Happening::Command(Some(ToSession::Receive(receiver))) => self.receive(receiver).await,
                Happening::Command(Some(ToSession::Gone(number))) => {
                    if self.receiver.as_ref().is_some_and(|receiving| receiving.receiver.number == number) {
                        // Nobody knows what it has received.
                        return Ended::Interrupted;
                    }
                }
                Happening::Command(Some(ToSession::Send(messages))) => {
                    let text = Message { kind: MessageKind::Text, payload: &messages };
                    encode_message(&mut self.conversation.unread, text, MASK);
                    unread += messages.len();
                }
                Happening::Command(None) => return Ended::Closed,
                Happening::Read(Ok(count)) if count > 0 => self.read_frames(&mut input),
                Happening::Written(Ok(count)) => {
                    self.conversation.unread.drain(..count);
                    if self.conversation.unread.is_empty() {
                        new.unread.fetch_sub(std::mem::take(&mut unread), Ordering::Relaxed);
                    }
                }
                Happening::Read(_) | Happening::Written(Err(_)) => self.end(INTERRUPTED.to_owned()),
                Happening::Retry => {}
                Happening::NoReceiver => {
                    self.conversation.say_goodbye().await;
                    return if self.ended.is_some() { Ended::Closed } else { Ended::NoReceiver };
                }
            }
        }
    }

    /// Reads the frames of SockJS in the messages of the WebSocket.
    fn read_frames(&mut self, input: &mut Vec<u8>) {
        let mut rest = &mut input[..];
        loop {
            match self.conversation.decoder.decode(&mut rest) {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    let frame = String::from_utf8_lossy(message.payload).into_owned();
                    match is_close_frame(&frame) {
                        true => self.ended = Some(frame),
                        false => self.frames.push(frame),
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    encode_frame(&mut self.conversation.unread, Opcode::Pong, payload, MASK);
                }
                Ok(Some(Event::Pong(_) | Event::Deflated(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    let frame = match close.code {
                        Some(code) => close_frame(code, close.reason),
                        None => CLOSED_BY_PEER.to_owned(),
                    };
                    return self.end(frame);
                }
                Err(_) => return self.end(INTERRUPTED.to_owned()),
            }
        }
        let left = rest.len();
        input.drain(..input.len() - left);
    }

    /// The conversation has ended; the first reason counts.
    fn end(&mut self, frame: String) {
        self.ended.get_or_insert(frame);
        self.conversation.is_over = true;
    }

    /// A request waits for frames.
    async fn receive(&mut self, receiver: Receiver) {
        match &self.receiver {
            Some(_) => say_last(receiver, SECOND_RECEIVER).await,
            None => self.receiver = Some(Receiving { receiver, sent: 0 }),
        }
    }

    /// Passes frames on to the request that waits for them. Returns whether its response is complete.
    async fn flush(&mut self) -> bool {
        let Some(Receiving { receiver, sent }) = &mut self.receiver else { return false };
        let is_over = self.conversation.is_over || self.ended.is_some();
        let last = self.ended.as_deref().filter(|_| is_over);
        if self.frames.queue.is_empty() && last.is_none() {
            return false;
        }
        let mut bytes = Vec::new();
        let count = if receiver.form == Form::Poll { 1 } else { usize::MAX };
        let frames = self.frames.queue.iter().map(String::as_str).chain(last).take(count);
        frames.for_each(|frame| receiver.encode(&mut bytes, frame));
        let is_said = last.is_some() && count > self.frames.queue.len();
        let is_complete = is_said || receiver.form == Form::Poll || *sent + bytes.len() >= SOCKJS_RESPONSE_BYTES;
        if is_complete {
            write_chunk(&mut bytes, receiver.is_chunked, b"");
        }
        // A response that is full takes them later; of one that has ended, the news is on its way.
        if receiver.handle.send(Message::binary(&bytes)).is_err() {
            return false;
        }
        *sent += bytes.len();
        self.frames.take(count);
        if is_complete {
            let Receiving { receiver, .. } = self.receiver.take().expect("it is there");
            close_patiently(receiver.handle).await;
        }
        is_complete
    }
}

impl Frames {
    fn push(&mut self, frame: String) {
        // Heart-beats are for responses that wait, and one is enough.
        if frame == "h" && self.queue.back().is_some_and(|last| last == "h") {
            return;
        }
        let before = self.queue.back().map_or(0, String::len);
        let is_merged = self.queue.back_mut().is_some_and(|last| merge(last, &frame));
        if is_merged {
            self.bytes += self.queue.back().map_or(0, String::len) - before;
        } else {
            self.bytes += frame.len();
            self.queue.push_back(frame);
        }
    }
}

impl Frames {
    /// Removes as many frames from the front.
    fn take(&mut self, count: usize) {
        let count = count.min(self.queue.len());
        self.bytes -= self.queue.drain(..count).map(|frame| frame.len()).sum::<usize>();
    }
}

impl Conversation {
    /// The client has gone: ends the conversation.
    async fn say_goodbye(&mut self) {
        if !self.is_over {
            encode_close(&mut self.unread, Some(CloseCode::GOING_AWAY), "", MASK);
            // A conversation that reads nothing ends with its socket.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.writer.write_all(&self.unread)).await;
        }
    }
}

/// Sends the last frame of a response.
async fn say_last(receiver: Receiver, frame: &str) {
    let mut bytes = Vec::new();
    receiver.encode(&mut bytes, frame);
    write_chunk(&mut bytes, receiver.is_chunked, b"");
    while receiver.handle.send(Message::binary(&bytes)) == Err(SendError::Full) {
        sleep(Duration::from_millis(HANDLE_RETRY_MS)).await;
    }
    close_patiently(receiver.handle).await;
}

async fn close_patiently(handle: Handle) {
    while handle.close(CloseCode::NORMAL, "") == Err(SendError::Full) {
        sleep(Duration::from_millis(HANDLE_RETRY_MS)).await;
    }
}
