//! Decodes Server-Sent Events from the body of a response.
//!
//! Only data matters here; ids, names and retry times are skipped.

use std::mem;

/// Longest line, including a chunk size, in bytes. Far above any payload of a run.
const LINE_BYTES_MAX: usize = 1 << 26;

/// The decoder of one stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    /// The position in a chunked body (RFC 9112 §7.1); `None` if it is not chunked.
    chunks: Option<Chunks>,
    /// The incomplete line.
    line: Vec<u8>,
    /// The data of the incomplete event.
    data: Vec<u8>,
    has_data: bool,
}

/// The position in a chunked body.
#[derive(Debug)]
enum Chunks {
    /// In the line with the size of the next chunk.
    Size(Vec<u8>),
    /// This many bytes of a chunk remain.
    Piece(usize),
    /// At the line end after a chunk.
    End,
}

/// Parses the response head. Returns whether the body is chunked, and the length of the head; `None` if it is
/// incomplete.
///
/// # Errors
/// If the response is not an event stream.
pub(crate) fn decode_head(answer: &[u8]) -> Result<Option<(bool, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = response.parse(answer).map_err(|error| format!("bad answer: {error}"))?
    else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    if status != 200 {
        return Err(format!("refused with {status} {}", response.reason.unwrap_or("")));
    }
    let has = |name: &str, word: &str| {
        let values = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let mut texts = values.map(|header| String::from_utf8_lossy(header.value).to_ascii_lowercase());
        texts.any(|text| text.contains(word))
    };
    if !has("content-type", "text/event-stream") {
        return Err("no event stream".to_owned());
    }
    Ok(Some((has("transfer-encoding", "chunked"), len)))
}

impl EventStream {
    /// A decoder at the beginning of the body.
    pub(crate) fn new(is_chunked: bool) -> EventStream {
        let chunks = is_chunked.then(|| Chunks::Size(Vec::new()));
        EventStream { chunks, line: Vec::new(), data: Vec::new(), has_data: false }
    }

    /// Passes the data of each complete event to `on_data`.
    ///
    /// # Errors
    /// If the body has ended or is invalid, or `on_data` fails.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        mut on_data: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            let text = self.next_piece(&mut bytes)?;
            self.read_lines(text, &mut on_data)?;
        }
        Ok(())
    }

    /// Takes the next contiguous text from the front of `bytes`. Returns an empty slice if it consumed chunk framing
    /// instead.
    fn next_piece<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<&'b [u8], String> {
        let Some(chunks) = &mut self.chunks else { return Ok(mem::take(bytes)) };
        match chunks {
            Chunks::Piece(left) => {
                let (text, rest) = bytes.split_at((*left).min(bytes.len()));
                *bytes = rest;
                *left -= text.len();
                if *left == 0 {
                    *chunks = Chunks::End;
                }
                Ok(text)
            }
            Chunks::End => {
                let is_over = bytes[0] == b'\n';
                *bytes = &bytes[1..];
                if is_over {
                    *chunks = Chunks::Size(Vec::new());
                }
                Ok(&[])
            }
            Chunks::Size(line) => {
                let Some(end) = take_line(bytes, line)? else { return Ok(&[]) };
                match usize::from_str_radix(&end, 16) {
                    Ok(0) => return Err("the server ended the stream".to_owned()),
                    Ok(size) => *chunks = Chunks::Piece(size),
                    Err(_) => return Err(format!("invalid chunk size: {end}")),
                }
                Ok(&[])
            }
        }
    }

    fn read_lines(
        &mut self,
        mut text: &[u8],
        on_data: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                self.on_line(&text[..end], on_data)?;
            } else {
                let mut line = mem::take(&mut self.line);
                line.extend_from_slice(&text[..end]);
                self.on_line(&line, on_data)?;
            }
            text = &text[end + 1..];
        }
        self.line.extend_from_slice(text);
        if self.line.len() > LINE_BYTES_MAX { Err("a line without an end".to_owned()) } else { Ok(()) }
    }

    fn on_line(&mut self, line: &[u8], on_data: &mut impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let has_data = mem::take(&mut self.has_data);
            let result = if has_data { on_data(&self.data) } else { Ok(()) };
            self.data = Vec::new();
            return result;
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            self.has_data = true;
        }
        Ok(())
    }
}

/// Takes the rest of a line, up to a semicolon and without blanks; `None` if the line is incomplete.
fn take_line(bytes: &mut &[u8], line: &mut Vec<u8>) -> Result<Option<String>, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (front, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    line.extend_from_slice(front);
    *bytes = rest;
    if line.len() > 256 {
        return Err("a chunk without a size".to_owned());
    }
    let text = String::from_utf8_lossy(line);
    Ok(end.map(|_| text.split(';').next().unwrap_or_default().trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_cut(is_chunked: bool, body: &[u8], cut: usize) -> Result<Vec<String>, String> {
        let (mut stream, mut seen) = (EventStream::new(is_chunked), Vec::new());
        for part in [&body[..cut], &body[cut..]] {
            stream.read(part, |data| {
                seen.push(String::from_utf8_lossy(data).into_owned());
                Ok(())
            })?;
        }
        Ok(seen)
    }

    #[test]
    fn events_may_be_cut_anywhere() {
        let plain = b": hello\n\nid: 1\ndata: one\n\nevent: x\r\ndata:two\r\ndata: three\r\n\r\ndata:\n\nid: 2\n\n";
        let chunked =
            b"8;a=b\r\nid: 1\nda\r\nA\r\nta: one\n\nd\r\n24\r\nata: two\ndata: three\n\ndata:\n\nid: 2\n\n\r\n";
        for (is_chunked, body) in [(false, &plain[..]), (true, &chunked[..])] {
            for cut in 0..=body.len() {
                let seen = read_cut(is_chunked, body, cut).unwrap();
                assert_eq!(seen, ["one", "two\nthree", ""], "chunked {is_chunked}, cut {cut}");
            }
        }
    }

    #[test]
    fn the_end_and_an_invalid_chunk_size_are_errors() {
        assert_eq!(read_cut(true, b"0\r\n\r\n", 0).unwrap_err(), "the server ended the stream");
        assert!(read_cut(true, b"hello\r\n", 0).unwrap_err().contains("size"));
        assert!(read_cut(true, &[b'1'; 300], 0).unwrap_err().contains("size"));
    }

    #[test]
    fn other_responses_than_event_streams_are_rejected() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
        let chunked = [&head[..], b"Transfer-Encoding: chunked\r\n\r\nrest"].concat();
        assert_eq!(decode_head(&chunked), Ok(Some((true, chunked.len() - 4))));
        assert_eq!(decode_head(&[&head[..], b"\r\n"].concat()), Ok(Some((false, head.len() + 2))));
        assert_eq!(decode_head(head), Ok(None));
        assert_eq!(decode_head(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err(), "refused with 404 Not Found");
        assert_eq!(decode_head(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_err(), "no event stream");
    }
}
