//! The ways to publish over HTTP.

/// Bytes of each publication.
const PAYLOAD_BYTES: usize = 64;

/// Publications in a request of the batch and the broadcast API.
const BATCH: usize = 100;

/// How a client recognizes acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledgement {
    /// Each response with status 200 acknowledges this many publications: one occurrence of `"offset":` for each.
    Response(usize),
    /// Each line of one endless response acknowledges one.
    Line,
    /// Each nine bytes of one endless response acknowledge one.
    Record,
}

/// One way to publish.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    /// Publications in flight on each connection; for a stream, of one write.
    pub(crate) in_flight: usize,
    /// Sent once, at the start of each connection.
    pub(crate) head: Vec<u8>,
    /// Sent again and again.
    pub(crate) request: Vec<u8>,
    pub(crate) acknowledgement: Acknowledgement,
}

/// All cases, in the order of the table.
pub(crate) fn all() -> Vec<Case> {
    let payload = "x".repeat(PAYLOAD_BYTES);
    let publish = request("/publish/bench", "text/plain", &payload);
    let api_publish = request("/api/publish", "application/json", &command(&payload, "channel", "\"bench\""));
    let commands: Vec<_> =
        (0..BATCH).map(|_| format!("{{\"publish\":{}}}", command(&payload, "channel", "\"bench\""))).collect();
    let batch = request("/api/batch", "application/json", &format!("{{\"commands\":[{}]}}", commands.join(",")));
    let channels: Vec<_> = (0..BATCH).map(|number| format!("\"bench{number}\"")).collect();
    let channels = format!("[{}]", channels.join(","));
    let broadcast = request("/api/broadcast", "application/json", &command(&payload, "channels", &channels));
    let one = Acknowledgement::Response(1);
    let line = format!("{{\"topic\":\"bench\",\"text\":\"{payload}\"}}\n").into_bytes();
    let mut frame = vec![1, 5];
    frame.extend_from_slice(b"bench\0\0");
    frame.extend_from_slice(payload.as_bytes());
    frame.splice(0..0, (frame.len() as u32).to_le_bytes());
    vec![
        Case::requests("post, 128 connections", 128, 1, &publish, one),
        Case::requests("post, one connection", 1, 1, &publish, one),
        Case::requests("post, one connection, 32 pipelined", 1, 32, &publish, one),
        Case::requests("/api/publish, 128 connections", 128, 1, &api_publish, one),
        Case::requests("/api/batch of 100, 4 connections", 4, BATCH, &batch, Acknowledgement::Response(BATCH)),
        Case::requests("/api/broadcast to 100, 4 connections", 4, BATCH, &broadcast, Acknowledgement::Response(BATCH)),
        Case::stream("stream of lines", "application/x-ndjson", &line, Acknowledgement::Line),
        Case::stream("stream of frames", "application/vnd.ringfeed.frames", &frame, Acknowledgement::Record),
    ]
}

impl Case {
    fn requests(
        name: &'static str,
        connections: usize,
        in_flight: usize,
        request: &[u8],
        acknowledgement: Acknowledgement,
    ) -> Case {
        Case { name, connections, in_flight, head: Vec::new(), request: request.to_vec(), acknowledgement }
    }

    /// One request. Its body consists of chunks of 64 records.
    fn stream(name: &'static str, content_type: &str, record: &[u8], acknowledgement: Acknowledgement) -> Case {
        let head = format!(
            "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        );
        let records = record.repeat(64);
        let request = [format!("{:x}\r\n", records.len()).as_bytes(), &records, b"\r\n"].concat();
        Case { name, connections: 1, in_flight: 1024, head: head.into_bytes(), request, acknowledgement }
    }

    /// Publications in one request.
    pub(crate) fn publications(&self) -> usize {
        match self.acknowledgement {
            Acknowledgement::Response(count) => count,
            Acknowledgement::Line | Acknowledgement::Record => 64,
        }
    }
}

fn request(path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The body of a publish or a broadcast command.
fn command(payload: &str, name: &str, topic: &str) -> String {
    format!("{{\"{name}\":{topic},\"data\":\"{payload}\"}}")
}
