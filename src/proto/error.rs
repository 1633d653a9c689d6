//! Errors of the peer, and their mapping to the wire.
//!
//! Every error is small and `Copy` and contains no text from the peer. `Display` is a short sentence for the peer: a
//! close reason, or the body of an HTTP response.

use std::{error, fmt};

use super::CloseCode;

/// The peer broke RFC 6455 after the opening handshake: the connection must fail (§7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A reserved bit is set that no negotiated extension defines (§5.2).
    ReservedBits,
    /// The opcode is reserved (§5.2).
    ReservedOpcode,
    /// The payload's length isn't in its shortest form (§5.2).
    LengthNotMinimal,
    /// The top bit of a 64-bit length is set (§5.2).
    LengthTooLarge,
    /// A client's frame isn't masked (§5.1).
    NotMasked,
    /// A server's frame is masked (§5.1).
    Masked,
    /// A control frame is fragmented (§5.5).
    ControlFragmented,
    /// A control frame has more than 125 bytes of payload (§5.5).
    ControlTooLong,
    /// A continuation frame arrived without an unfinished message (§5.4).
    UnexpectedContinuation,
    /// A new message began inside an unfinished one (§5.4).
    ExpectedContinuation,
    /// The message is larger than this end accepts (§7.4.1, §10.4).
    MessageTooBig,
    /// A text message isn't UTF-8 (§8.1).
    TextNotUtf8,
    /// A compressed message can't be inflated (RFC 7692 §7.2.2).
    DeflateInvalid,
    /// A Close frame has a payload of one byte, too short for a code (§5.5.1).
    ClosePayloadTooShort,
    /// A close frame has a code that must not be sent (§7.4).
    CloseCodeInvalid,
    /// The reason in a close frame isn't UTF-8 (§5.5.1, §8.1).
    CloseReasonNotUtf8,
}

impl ProtocolError {
    /// The code to close the connection with (RFC 6455 §7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBits
            | Self::ReservedOpcode
            | Self::LengthNotMinimal
            | Self::LengthTooLarge
            | Self::NotMasked
            | Self::Masked
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::ClosePayloadTooShort
            | Self::CloseCodeInvalid => CloseCode::PROTOCOL_ERROR,
            Self::TextNotUtf8 | Self::DeflateInvalid | Self::CloseReasonNotUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig => CloseCode::MESSAGE_TOO_BIG,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReservedBits => "reserved bit set without an extension that defines it",
            Self::ReservedOpcode => "reserved opcode",
            Self::LengthNotMinimal => "payload length not in its shortest form",
            Self::LengthTooLarge => "payload length has its top bit set",
            Self::NotMasked => "a client must mask its frames",
            Self::Masked => "a server must not mask its frames",
            Self::ControlFragmented => "fragmented control frame",
            Self::ControlTooLong => "control frame longer than 125 bytes",
            Self::UnexpectedContinuation => "continuation frame without a message to continue",
            Self::ExpectedContinuation => "new message inside a fragmented one",
            Self::MessageTooBig => "message too big",
            Self::TextNotUtf8 => "text message is not valid UTF-8",
            Self::DeflateInvalid => "compressed message that can't be inflated",
            Self::ClosePayloadTooShort => "close frame with a payload of one byte",
            Self::CloseCodeInvalid => "close code that must not be sent",
            Self::CloseReasonNotUtf8 => "close reason is not valid UTF-8",
        })
    }
}

impl error::Error for ProtocolError {}

/// A client's opening handshake that the server rejects (RFC 6455 §4.2), or a request that is no WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The input isn't an HTTP/1 request (RFC 9112 §3, §5).
    Malformed,
    /// The request target is neither a path nor an absolute URI (RFC 9112 §3.2).
    TargetInvalid,
    /// The request target is longer than [`REQUEST_TARGET_BYTES_MAX`](crate::limits::REQUEST_TARGET_BYTES_MAX).
    TargetTooLong,
    /// The request is longer than [`HANDSHAKE_BYTES_MAX`](crate::limits::HANDSHAKE_BYTES_MAX).
    HeadTooLarge,
    /// There are more header fields than [`HANDSHAKE_HEADERS_MAX`](crate::limits::HANDSHAKE_HEADERS_MAX).
    TooManyHeaders,
    /// Not HTTP/1.1 (RFC 6455 §4.1 item 2).
    HttpVersionUnsupported,
    /// The method isn't GET (RFC 6455 §4.1 item 2).
    MethodNotAllowed,
    /// An ordinary GET that doesn't request a WebSocket: the caller may serve a page.
    NotAnUpgrade,
    /// No `Host` field in a request of HTTP/1.1 (RFC 9112 §3.2, RFC 6455 §4.2.1 item 2).
    HostMissing,
    /// The `Host` field isn't a host with an optional port (RFC 9112 §3.2).
    HostInvalid,
    /// The `Upgrade` field doesn't name `websocket` (RFC 6455 §4.2.1 item 3).
    UpgradeMissing,
    /// The `Connection` field doesn't name `upgrade` (RFC 6455 §4.2.1 item 4).
    ConnectionMissing,
    /// `Sec-WebSocket-Version` isn't 13 (RFC 6455 §4.2.1 item 6, §4.4).
    VersionUnsupported,
    /// `Sec-WebSocket-Key` isn't 16 bytes in base64 (RFC 6455 §4.2.1 item 5).
    KeyInvalid,
    /// A field that must occur at most once is repeated.
    HeaderRepeated,
    /// A field that this server reads isn't text.
    HeaderNotText,
    /// `Sec-WebSocket-Protocol` isn't a list of tokens (RFC 6455 §4.1 item 10).
    SubprotocolsInvalid,
    /// `Sec-WebSocket-Extensions` doesn't follow its grammar (RFC 6455 §9.1).
    ExtensionsInvalid,
    /// The request has a body. Its bytes would be taken for frames.
    BodyUnexpected,
    /// The length of the body isn't given by one `Content-Length` (RFC 9112 §6.3).
    BodyLengthInvalid,
    /// The body is longer than its receiver takes.
    BodyTooLarge,
}

impl HandshakeError {
    /// The HTTP status to reject the request with.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed
            | Self::TargetInvalid
            | Self::HostMissing
            | Self::HostInvalid
            | Self::UpgradeMissing
            | Self::ConnectionMissing
            | Self::KeyInvalid
            | Self::HeaderRepeated
            | Self::HeaderNotText
            | Self::SubprotocolsInvalid
            | Self::ExtensionsInvalid
            | Self::BodyUnexpected
            | Self::BodyLengthInvalid => 400,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::NotAnUpgrade | Self::VersionUnsupported => 426,
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::HttpVersionUnsupported => 505,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed HTTP request; speak plain HTTP/1.1 here (not TLS)",
            Self::TargetInvalid => "the request target must be a path that starts with '/'",
            Self::TargetTooLong => "the request target is too long; shorten the path or the query",
            Self::HeadTooLarge => "the request's headers are too large; send fewer or smaller cookies",
            Self::TooManyHeaders => "the request has too many header fields; send fewer",
            Self::HttpVersionUnsupported => "use HTTP/1.1",
            Self::MethodNotAllowed => "use GET",
            Self::NotAnUpgrade => "this is a WebSocket endpoint; connect with a WebSocket client",
            Self::HostMissing => "send a Host header",
            Self::HostInvalid => "send the host of the URL as Host header, with its port if it has one",
            Self::UpgradeMissing => "send 'Upgrade: websocket'; a proxy on the way may have removed it",
            Self::ConnectionMissing => "send 'Connection: Upgrade'; a proxy on the way may have removed it",
            Self::VersionUnsupported => "send 'Sec-WebSocket-Version: 13'",
            Self::KeyInvalid => "send a Sec-WebSocket-Key of 16 random bytes in base64",
            Self::HeaderRepeated => "send Host, Origin, Sec-WebSocket-Key and Sec-WebSocket-Version once each",
            Self::HeaderNotText => "a header value has bytes that are not UTF-8; encode them",
            Self::SubprotocolsInvalid => "Sec-WebSocket-Protocol must be a comma-separated list of tokens",
            Self::ExtensionsInvalid => "Sec-WebSocket-Extensions must be as in RFC 6455 section 9.1",
            Self::BodyUnexpected => "send the opening handshake without a body",
            Self::BodyLengthInvalid => "send one Content-Length, and no Transfer-Encoding",
            Self::BodyTooLarge => "the body is too large; send less in one request",
        })
    }
}

impl error::Error for HandshakeError {}

/// A server's response to our opening handshake that doesn't open a WebSocket (RFC 6455 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientHandshakeError {
    /// The input isn't an HTTP/1.1 response (RFC 9112 §4).
    Malformed,
    /// The response is longer than [`HANDSHAKE_BYTES_MAX`](crate::limits::HANDSHAKE_BYTES_MAX) or has more fields than
    /// [`HANDSHAKE_HEADERS_MAX`](crate::limits::HANDSHAKE_HEADERS_MAX).
    HeadTooLarge,
    /// The server answered with this HTTP status instead of 101.
    Status(u16),
    /// The `Upgrade` field isn't `websocket`.
    UpgradeMissing,
    /// The `Connection` field doesn't name `upgrade`.
    ConnectionMissing,
    /// `Sec-WebSocket-Accept` doesn't match our key.
    AcceptMismatch,
    /// The server chose a subprotocol that we did not offer.
    SubprotocolNotOffered,
    /// The server chose an extension that we did not offer.
    ExtensionNotOffered,
    /// The server's parameters for permessage-deflate violate our offer (RFC 7692 §7.1).
    DeflateParamsInvalid,
    /// A field that must occur at most once is repeated.
    HeaderRepeated,
}

impl fmt::Display for ClientHandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the server's answer is not HTTP/1.1",
            Self::HeadTooLarge => "the server's answer has too large headers",
            Self::Status(status) => {
                return write!(f, "the server answered with HTTP status {status} instead of 101");
            }
            Self::UpgradeMissing => "the server's answer lacks 'Upgrade: websocket'",
            Self::ConnectionMissing => "the server's answer lacks 'Connection: Upgrade'",
            Self::AcceptMismatch => "the server's Sec-WebSocket-Accept does not answer our key",
            Self::SubprotocolNotOffered => "the server chose a subprotocol that was not offered",
            Self::ExtensionNotOffered => "the server chose an extension that was not offered",
            Self::DeflateParamsInvalid => "the server's parameters for permessage-deflate do not keep to the offer",
            Self::HeaderRepeated => "the server's answer repeats a header that may be there once",
        })
    }
}

impl error::Error for ClientHandshakeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_fits_a_close_frame() {
        let errors = [
            ProtocolError::ReservedBits,
            ProtocolError::ReservedOpcode,
            ProtocolError::LengthNotMinimal,
            ProtocolError::LengthTooLarge,
            ProtocolError::NotMasked,
            ProtocolError::Masked,
            ProtocolError::ControlFragmented,
            ProtocolError::ControlTooLong,
            ProtocolError::UnexpectedContinuation,
            ProtocolError::ExpectedContinuation,
            ProtocolError::MessageTooBig,
            ProtocolError::TextNotUtf8,
            ProtocolError::DeflateInvalid,
            ProtocolError::ClosePayloadTooShort,
            ProtocolError::CloseCodeInvalid,
            ProtocolError::CloseReasonNotUtf8,
        ];
        for error in errors {
            assert!(error.to_string().len() <= 123, "{error:?}");
            assert!(error.close_code().is_sendable(), "{error:?}");
        }
    }

    #[test]
    fn close_codes_are_distinct() {
        assert_eq!(ProtocolError::ReservedOpcode.close_code(), CloseCode::PROTOCOL_ERROR);
        assert_eq!(ProtocolError::TextNotUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(ProtocolError::DeflateInvalid.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(ProtocolError::CloseReasonNotUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(ProtocolError::MessageTooBig.close_code(), CloseCode::MESSAGE_TOO_BIG);
    }
}
