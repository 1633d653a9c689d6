//! The parameters of permessage-deflate, negotiated in the opening handshake: RFC 7692 §7.1.
//!
//! As a server we accept the first valid offer. As a client we make one offer, and check the response against it.

use std::fmt;
use std::num::NonZeroU8;

use super::SlidingWindow;
use super::deflater::LIBRARY_WINDOW_BITS_MIN;
use crate::proto::ExtensionOffer;

/// The extension's name (RFC 7692 §7).
pub(in crate::proto) const NAME: &str = "permessage-deflate";

const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The size of the window that compressed data may refer back to, as a base-2 logarithm: 8 to 15 (RFC 7692 §7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowBits(NonZeroU8);

impl WindowBits {
    /// 256 bytes.
    pub const MIN: Self = Self(NonZeroU8::new(8).unwrap());
    /// 32 KiB.
    pub const MAX: Self = Self(NonZeroU8::new(15).unwrap());

    /// The window of 2 to the power of `bits` bytes; `None` unless `bits` is 8 to 15.
    pub const fn new(bits: u8) -> Option<Self> {
        match NonZeroU8::new(bits) {
            Some(window) if Self::MIN.get() <= bits && bits <= Self::MAX.get() => Some(Self(window)),
            _ => None,
        }
    }

    /// Decimal digits without a leading zero (RFC 7692 §7.1.2.1).
    fn decode(value: &str) -> Option<Self> {
        let is_canonical = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
        value.parse().ok().filter(|_| is_canonical).and_then(Self::new)
    }

    /// 8 to 15.
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// The window in bytes: 256 to 32,768.
    pub fn bytes(self) -> usize {
        1 << self.get()
    }
}

/// The negotiated parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// Window of the server's messages.
    pub server_window: WindowBits,
    /// Window of the client's messages.
    pub client_window: WindowBits,
    /// Whether the server's messages may refer back to its earlier ones.
    pub server_takes_over: bool,
    /// Whether the client's messages may refer back to its earlier ones.
    pub client_takes_over: bool,
    /// The client requested a server window, so the response must name it, however large it is (RFC 7692 §7.1.2.1).
    names_server_window: bool,
}

impl DeflateParams {
    /// Accepts the first valid offer of permessage-deflate; `None` if there is none.
    ///
    /// With `may_take_over`, messages may refer back to earlier ones as far as the offer allows: ours unless the client
    /// rules it out, the client's if it lets us choose a small window. Without takeover the client may use any window,
    /// since inflating costs the same memory for all.
    pub fn accept<'o, 'a: 'o>(
        offers: impl IntoIterator<Item = &'o ExtensionOffer<'a>>,
        may_take_over: bool,
    ) -> Option<Self> {
        offers.into_iter().filter(|offer| offer.name == NAME).find_map(|offer| {
            let params = Params::decode(offer)?;
            // Only in an offer, and only for the client's window, may the value be omitted (RFC 7692 §7.1.2.2).
            let server_window = match params.server_window {
                None => WindowBits::MAX,
                Some(value) => value?,
            };
            let names_server_window = params.server_window.is_some();
            // If the library can't compress with a window this small, there is no context to take over.
            let server_takes_over =
                may_take_over && !params.server_no_context_takeover && server_window.get() >= LIBRARY_WINDOW_BITS_MIN;
            let small_client_window = params
                .client_window
                .filter(|_| may_take_over && !params.client_no_context_takeover)
                .map(|hint| hint.unwrap_or(WindowBits::MAX).min(SlidingWindow::KEPT_MAX))
                .filter(|window| window.get() >= LIBRARY_WINDOW_BITS_MIN);
            Some(Self {
                server_window,
                client_window: small_client_window.unwrap_or(WindowBits::MAX),
                server_takes_over,
                client_takes_over: small_client_window.is_some(),
                names_server_window,
            })
        })
    }
}

/// The value of `Sec-WebSocket-Extensions` in a server's response.
impl fmt::Display for DeflateParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        write_flags(f, self.server_takes_over, self.client_takes_over)?;
        if self.names_server_window {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={}", self.server_window.get())?;
        }
        // Without takeover the client's window does not matter. Only a client that offered this parameter may receive
        // it (RFC 7692 §7.1.2.2).
        if self.client_takes_over {
            write!(f, "; {CLIENT_MAX_WINDOW_BITS}={}", self.client_window.get())?;
        }
        Ok(())
    }
}

fn write_flags(f: &mut fmt::Formatter<'_>, server_takes_over: bool, client_takes_over: bool) -> fmt::Result {
    if !server_takes_over {
        write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
    }
    if !client_takes_over {
        write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
    }
    Ok(())
}

/// The offer of a client: any window for its own messages, and a chosen window for the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateOffer {
    /// Window of the server's messages.
    pub server_window: WindowBits,
    /// Whether messages may refer back to earlier ones, in both directions.
    pub context_takeover: bool,
}

/// A server's response that violates our offer or RFC 7692 §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) struct InvalidAnswer;

impl DeflateOffer {
    /// Checks the server's response to this offer.
    pub(in crate::proto) fn check(self, answer: &ExtensionOffer<'_>) -> Result<DeflateParams, InvalidAnswer> {
        let params = Params::decode(answer).ok_or(InvalidAnswer)?;
        let window = |value: Option<Option<WindowBits>>| match value {
            None => Ok(WindowBits::MAX),
            Some(value) => value.ok_or(InvalidAnswer),
        };
        let (server_window, client_window) = (window(params.server_window)?, window(params.client_window)?);
        let server_takes_over = !params.server_no_context_takeover;
        if server_takes_over && !self.context_takeover || server_window > self.server_window {
            return Err(InvalidAnswer);
        }
        Ok(DeflateParams {
            server_window,
            client_window,
            server_takes_over,
            client_takes_over: self.context_takeover
                && !params.client_no_context_takeover
                && client_window.get() >= LIBRARY_WINDOW_BITS_MIN,
            names_server_window: params.server_window.is_some(),
        })
    }
}

impl Default for DeflateOffer {
    fn default() -> Self {
        DeflateOffer { server_window: WindowBits::MAX, context_takeover: false }
    }
}

/// The value of `Sec-WebSocket-Extensions` in a client's request.
impl fmt::Display for DeflateOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        write_flags(f, self.context_takeover, self.context_takeover)?;
        write!(f, "; {CLIENT_MAX_WINDOW_BITS}")?;
        if self.server_window != WindowBits::MAX {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={}", self.server_window.get())?;
        }
        Ok(())
    }
}

/// The parameters of an offer or a response, each at most once. A window without a value is `Some(None)`.
#[derive(Clone, Copy, Debug, Default)]
struct Params {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_window: Option<Option<WindowBits>>,
    client_window: Option<Option<WindowBits>>,
}

impl Params {
    /// Decodes the parameters. `None` if RFC 7692 §7.1 requires declining them: an unknown parameter, a duplicate, an
    /// invalid value.
    fn decode(extension: &ExtensionOffer<'_>) -> Option<Self> {
        let mut params = Self::default();
        for (name, value) in &extension.params {
            match *name {
                SERVER_NO_CONTEXT_TAKEOVER => set_flag(&mut params.server_no_context_takeover, *value)?,
                CLIENT_NO_CONTEXT_TAKEOVER => set_flag(&mut params.client_no_context_takeover, *value)?,
                SERVER_MAX_WINDOW_BITS => set_window(&mut params.server_window, *value)?,
                CLIENT_MAX_WINDOW_BITS => set_window(&mut params.client_window, *value)?,
                _ => return None,
            }
        }
        Some(params)
    }
}

fn set_flag(flag: &mut bool, value: Option<&str>) -> Option<()> {
    (value.is_none() && !std::mem::replace(flag, true)).then_some(())
}

fn set_window(window: &mut Option<Option<WindowBits>>, value: Option<&str>) -> Option<()> {
    let decoded = match value {
        None => None,
        Some(value) => Some(WindowBits::decode(value)?),
    };
    window.replace(decoded).is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::extensions::decode_extensions;

    fn extensions(value: &str) -> Vec<ExtensionOffer<'_>> {
        let mut extensions = Vec::new();
        decode_extensions(value, &mut extensions).unwrap();
        extensions
    }

    #[test]
    fn offers_and_their_answers() {
        const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        const NINE: &str =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9";
        const FIFTEEN: &str =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";
        let rows = [
            ("permessage-deflate", Some(PLAIN)),
            ("permessage-deflate; client_max_window_bits", Some(PLAIN)),
            ("permessage-deflate; client_max_window_bits=8", Some(PLAIN)),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", Some(PLAIN)),
            ("permessage-deflate; server_max_window_bits=15", Some(FIFTEEN)),
            ("permessage-deflate; server_max_window_bits=9", Some(NINE)),
            ("permessage-deflate; server_max_window_bits=\"9\"; client_max_window_bits=\"10\"", Some(NINE)),
            ("x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=9, permessage-deflate", Some(NINE)),
            // An offer that can't be accepted is skipped.
            ("permessage-deflate; unknown, permessage-deflate; server_max_window_bits=9", Some(NINE)),
            ("permessage-deflate; unknown", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=7", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=09", None),
            ("permessage-deflate; server_max_window_bits=+9", None),
            ("permessage-deflate; server_max_window_bits=265", None),
            ("permessage-deflate; server_max_window_bits=9; server_max_window_bits=9", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; client_max_window_bits=16", None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits=9", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_no_context_takeover=true", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-bzip2", None),
            ("", None),
        ];
        for (offer, answer) in rows {
            let accepted = DeflateParams::accept(&extensions(offer), false);
            assert_eq!(accepted.map(|params| params.to_string()).as_deref(), answer, "{offer}");
        }
    }

    #[test]
    fn offers_and_their_answers_with_context_takeover() {
        let rows = [
            ("", "; client_no_context_takeover"),
            ("; client_max_window_bits", "; client_max_window_bits=12"),
            ("; client_max_window_bits=15", "; client_max_window_bits=12"),
            ("; client_max_window_bits=9", "; client_max_window_bits=9"),
            ("; client_max_window_bits=8", "; client_no_context_takeover"),
            ("; server_no_context_takeover", "; server_no_context_takeover; client_no_context_takeover"),
            (
                "; server_no_context_takeover; client_max_window_bits",
                "; server_no_context_takeover; client_max_window_bits=12",
            ),
            ("; client_no_context_takeover; client_max_window_bits", "; client_no_context_takeover"),
            (
                "; server_max_window_bits=9; client_max_window_bits=10",
                "; server_max_window_bits=9; client_max_window_bits=10",
            ),
            (
                "; server_max_window_bits=8",
                "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8",
            ),
        ];
        for (offer, answer) in rows {
            let accepted = DeflateParams::accept(&extensions(&format!("{NAME}{offer}")), true).unwrap();
            assert_eq!(accepted.to_string(), format!("{NAME}{answer}"), "{offer}");
        }
    }

    #[test]
    fn answers_to_an_offer_with_context_takeover() {
        let rows = [
            ("", true, true),
            ("; server_no_context_takeover", false, true),
            ("; client_no_context_takeover", true, false),
            ("; server_no_context_takeover; client_no_context_takeover", false, false),
            ("; client_max_window_bits=9", true, true),
            ("; client_max_window_bits=8", true, false),
        ];
        let offer = DeflateOffer { context_takeover: true, ..DeflateOffer::default() };
        for (params, server, client) in rows {
            let agreed = offer.check(&extensions(&format!("{NAME}{params}"))[0]).unwrap();
            assert_eq!((agreed.server_takes_over, agreed.client_takes_over), (server, client), "{params}");
        }
    }

    #[test]
    fn answers_to_our_offer() {
        let windows = |server, client| {
            let window = |bits| WindowBits::new(bits).unwrap();
            Ok((window(server), window(client)))
        };
        let rows = [
            ("server_no_context_takeover", 15, windows(15, 15)),
            ("server_no_context_takeover; client_no_context_takeover", 15, windows(15, 15)),
            ("server_no_context_takeover; client_max_window_bits=8", 15, windows(15, 8)),
            ("server_no_context_takeover; server_max_window_bits=10", 15, windows(10, 15)),
            ("server_no_context_takeover; server_max_window_bits=10", 10, windows(10, 15)),
            ("server_no_context_takeover; server_max_window_bits=9", 10, windows(9, 15)),
            ("server_no_context_takeover; server_max_window_bits=11", 10, Err(InvalidAnswer)),
            ("server_no_context_takeover", 10, Err(InvalidAnswer)),
            ("client_no_context_takeover", 15, Err(InvalidAnswer)),
            ("server_no_context_takeover; client_max_window_bits", 15, Err(InvalidAnswer)),
            ("server_no_context_takeover; server_max_window_bits", 15, Err(InvalidAnswer)),
            ("server_no_context_takeover; client_max_window_bits=16", 15, Err(InvalidAnswer)),
            ("server_no_context_takeover; unknown", 15, Err(InvalidAnswer)),
        ];
        for (params, offered, expected) in rows {
            let answer = format!("{NAME}; {params}");
            let server_window = WindowBits::new(offered).unwrap();
            let offer = DeflateOffer { server_window, context_takeover: false };
            let agreed = offer.check(&extensions(&answer)[0]);
            assert_eq!(
                agreed.map(|agreed| (agreed.server_window, agreed.client_window)),
                expected,
                "{params} to {offer}"
            );
        }
    }

    #[test]
    fn our_offer_is_one_that_we_accept() {
        for (bits, context_takeover) in (8..=15).flat_map(|bits| [(bits, false), (bits, true)]) {
            let offer = DeflateOffer { server_window: WindowBits::new(bits).unwrap(), context_takeover };
            let params = DeflateParams::accept(&extensions(&offer.to_string()), context_takeover).unwrap();
            assert_eq!(offer.check(&extensions(&params.to_string())[0]), Ok(params));
        }
    }
}
