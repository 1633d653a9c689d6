//! Close codes and the payload of a close frame: RFC 6455 §5.5.1, §7.4.

use std::fmt;

use super::ProtocolError;

/// A close code of RFC 6455 §7.4, as in IANA's WebSocket Close Code Number Registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server shuts down, or the browser left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer sent a kind of data that this end can't accept.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// The close frame had no code. Never on the wire.
    pub const NO_STATUS: Self = Self(1005);
    /// The connection ended without a close frame. Never on the wire.
    pub const ABNORMAL: Self = Self(1006);
    /// The payload doesn't fit the message's kind, for example text that isn't UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// The peer violated a policy, and no other code fits.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// The message is larger than this end accepts.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The client needs an extension that the server did not accept.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// Something failed on this end.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts; reconnect in a moment.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The server is overloaded; reconnect later or elsewhere.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// The server is a gateway and received an invalid response from its upstream.
    pub const BAD_GATEWAY: Self = Self(1014);
    /// The TLS handshake failed. Never on the wire.
    pub const TLS_HANDSHAKE: Self = Self(1015);

    /// Whether a Close frame may contain the code.
    ///
    /// RFC 6455 §7.4.1 forbids 1005, 1006 and 1015; 1004 is reserved; §7.4.2 assigns 3000 to 3999 to registered
    /// applications and 4000 to 4999 to private use. All other codes below 5000 are for future versions of the
    /// protocol.
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content of a Close frame (RFC 6455 §5.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The close code; `None` if the frame was empty.
    pub code: Option<CloseCode>,
    /// A short reason for logs, at most 123 bytes, often empty.
    pub reason: &'a str,
}

impl<'a> CloseFrame<'a> {
    /// Decodes the unmasked payload of a Close frame.
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return match payload {
                [] => Ok(Self { code: None, reason: "" }),
                _ => Err(ProtocolError::ClosePayloadTooShort),
            };
        };
        let code = CloseCode(u16::from_be_bytes(*code));
        if !code.is_sendable() {
            return Err(ProtocolError::CloseCodeInvalid);
        }
        let reason = std::str::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
        Ok(Self { code: Some(code), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sendable_codes_are_those_of_the_registry() {
        let refused = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
        let allowed = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        for code in refused {
            assert!(!CloseCode(code).is_sendable(), "{code}");
        }
        for code in allowed {
            assert!(CloseCode(code).is_sendable(), "{code}");
        }
    }
}
