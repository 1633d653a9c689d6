//! The masking and UTF-8 kernels, compared with plain loops and the standard library.

use ringfeed::simd::mask::unmask;
use ringfeed::simd::utf8::{Utf8Stream, unmask_and_validate, validate};

use crate::input::{Input, pieces};

/// Any bytes as text: whole and in pieces, masked and unmasked, at any alignment.
pub(crate) fn text(input: &[u8]) {
    let mut input = Input::new(input);
    let key = [input.byte(), input.byte(), input.byte(), input.byte()];
    let skip = usize::from(input.byte() % 64);
    let cuts = input.cuts();
    let plain = input.rest();
    let is_text = std::str::from_utf8(plain).is_ok();
    assert_eq!(validate(plain).is_ok(), is_text);

    let masked: Vec<u8> = plain.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let mut shifted = vec![0; skip];
    shifted.extend_from_slice(&masked);
    unmask(&mut shifted[skip..], key, 0);
    assert_eq!(&shifted[skip..], plain);

    shifted[skip..].copy_from_slice(&masked);
    assert_eq!(unmask_and_validate(&mut shifted[skip..], key).is_ok(), is_text);
    if is_text {
        assert_eq!(&shifted[skip..], plain);
    }

    let (mut plain_stream, mut masked_stream) = (Utf8Stream::default(), Utf8Stream::default());
    let mut phase = 0;
    let mut outcome = Ok(());
    for (piece, masked_piece) in pieces(plain, &cuts).into_iter().zip(pieces(&masked, &cuts)) {
        outcome = plain_stream.feed(piece);
        let mut bytes = masked_piece.to_vec();
        assert_eq!(masked_stream.unmask_and_feed(&mut bytes, key, phase), outcome);
        phase += piece.len();
        if outcome.is_err() {
            break;
        }
        assert_eq!(bytes, piece);
    }
    let outcome = outcome.and_then(|()| plain_stream.finish());
    assert_eq!(outcome.is_ok(), is_text, "cut at {cuts:?}");
}
