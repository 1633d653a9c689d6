//! Reads the body of a request, up to a bound and for a while.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::CONNECTION;

use super::answer::{Answer, text, with_header};
use crate::limits::CONTROL_BODY_MS;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It is longer than this.
    TooLong(usize),
    /// It took longer than [`CONTROL_BODY_MS`].
    TooSlow,
    /// It ended early or is not what its header fields say.
    Broken,
}

impl BodyError {
    /// After which the connection is closed, for the rest of the body may still come.
    pub(super) fn answer(self) -> Answer {
        let answer = match self {
            BodyError::TooLong(bytes_max) => {
                let remedy = format!("the body is too long: at most {bytes_max} bytes are taken at once");
                text(StatusCode::PAYLOAD_TOO_LARGE, remedy)
            }
            BodyError::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body took too long to come"),
            BodyError::Broken => text(StatusCode::BAD_REQUEST, "the body could not be read"),
        };
        with_header(answer, CONNECTION, "close")
    }
}

/// Reads the body, as it is where it came in one piece.
///
/// # Errors
/// [`BodyError`]; it is too long with more than `bytes_max`.
pub(super) async fn read<B: Body<Data = Bytes>>(body: B, bytes_max: usize) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLong(bytes_max));
    }
    let read = tokio::time::timeout(Duration::from_millis(CONTROL_BODY_MS), read_pieces(body, bytes_max));
    read.await.unwrap_or(Err(BodyError::TooSlow))
}

async fn read_pieces<B: Body<Data = Bytes>>(body: B, bytes_max: usize) -> Result<Bytes, BodyError> {
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len().max(joined.len()) + piece.len() > bytes_max {
            return Err(BodyError::TooLong(bytes_max));
        }
        if first.is_empty() {
            first = piece;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&piece);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of unknown length that comes in pieces.
    struct Pieces(std::vec::IntoIter<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[test]
    fn pieces_are_joined_up_to_the_bound() {
        const BYTES_MAX: usize = 1000;
        let half = Bytes::from(vec![b'x'; BYTES_MAX / 2]);
        let rest = Bytes::from_static(b"x");
        let rows = [
            (vec![], Ok(0)),
            (vec![half.clone()], Ok(BYTES_MAX / 2)),
            (vec![half.clone(), half.clone()], Ok(BYTES_MAX)),
            (vec![half.clone(), half.clone(), rest.clone()], Err(BodyError::TooLong(BYTES_MAX))),
            (vec![rest.clone(), half.clone(), half.clone()], Err(BodyError::TooLong(BYTES_MAX))),
        ];
        for (pieces, expected) in rows {
            let count = pieces.len();
            let read = tokio_uring::start(read(Pieces(pieces.into_iter()), BYTES_MAX));
            assert_eq!(read.map(|payload| payload.len()), expected, "{count} pieces");
        }
        let pieces = ["a", "b", "", "c"].map(Bytes::from).to_vec();
        assert_eq!(tokio_uring::start(read(Pieces(pieces.into_iter()), BYTES_MAX)).unwrap(), "abc");
    }
}
