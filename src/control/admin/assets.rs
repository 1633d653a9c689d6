//! The files of the page, as they stand in the source.

use std::io::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use sha1::{Digest, Sha1};

use super::super::State;
use super::super::answer::{Answer, answer, with_header};
use super::session;

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Asset {
    Page,
    Script,
    Style,
    Charts,
    ChartStyle,
}

/// Its bytes, as they are sent.
struct Content {
    plain: &'static [u8],
    gzip: Bytes,
    etag: HeaderValue,
}

/// By [`Asset`]. Made at the first request.
static CONTENTS: LazyLock<[Content; 5]> = LazyLock::new(|| {
    [
        include_bytes!("app.html").as_slice(),
        include_bytes!("app.js"),
        include_bytes!("app.css"),
        include_bytes!("uplot/uPlot.iife.min.js"),
        include_bytes!("uplot/uPlot.min.css"),
    ]
    .map(Content::new)
});

impl Content {
    fn new(plain: &'static [u8]) -> Content {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).expect("a vector takes everything");
        let gzip = encoder.finish().expect("a vector takes everything").into();
        let digest: String = Sha1::digest(plain).iter().map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal digits");
        Content { plain, gzip, etag }
    }
}

impl Asset {
    /// The file at `/admin/` and `path`.
    pub(super) fn of(path: &str) -> Option<Asset> {
        match path {
            "app.js" => Some(Asset::Script),
            "app.css" => Some(Asset::Style),
            "uplot.js" => Some(Asset::Charts),
            "uplot.css" => Some(Asset::ChartStyle),
            _ => None,
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Asset::Page => "text/html; charset=utf-8",
            Asset::Script | Asset::Charts => "text/javascript; charset=utf-8",
            Asset::Style | Asset::ChartStyle => "text/css; charset=utf-8",
        })
    }

    /// Answers a request for it.
    pub(super) fn answer(self, headers: &HeaderMap) -> Answer {
        let content = &CONTENTS[self as usize];
        let has = |name: HeaderName, wanted: &[u8]| {
            headers.get_all(name).iter().any(|value| value.as_bytes().windows(wanted.len()).any(|part| part == wanted))
        };
        let is_known = has(IF_NONE_MATCH, content.etag.as_bytes());
        let takes_gzip = has(ACCEPT_ENCODING, b"gzip");
        let mut response = match (is_known, takes_gzip) {
            (true, _) => answer(StatusCode::NOT_MODIFIED, self.content_type(), Bytes::new()),
            (false, true) => answer(StatusCode::OK, self.content_type(), content.gzip.clone()),
            (false, false) => answer(StatusCode::OK, self.content_type(), content.plain),
        };
        if takes_gzip && !is_known {
            response = with_header(response, CONTENT_ENCODING, "gzip");
        }
        response.headers_mut().insert(ETAG, content.etag.clone());
        let response = with_header(response, VARY, "Accept, Accept-Encoding");
        let response = with_header(response, CACHE_CONTROL, "no-cache");
        with_header(response, X_CONTENT_TYPE_OPTIONS, "nosniff")
    }
}

/// Answers a browser's request for the page. The page loads only its own files, and connects only to its own server.
pub(in super::super) fn page(state: &State, headers: &HeaderMap) -> Answer {
    let data = session::data_url(state, headers).map(|url| format!(" {}", url.origin())).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{data}; \
         form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    let mut response = Asset::Page.answer(headers);
    let policy = HeaderValue::try_from(policy).expect("a host has no control characters");
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    let response = with_header(response, REFERRER_POLICY, "no-referrer");
    with_header(response, HeaderName::from_static("cross-origin-opener-policy"), "same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vendored library is the published one: uPlot 1.6.32 from npm, its files `dist/` and `LICENSE`.
    #[test]
    fn the_charts_are_the_published_ones() {
        let rows: [(&[u8], &str); 3] = [
            (
                include_bytes!("uplot/uPlot.iife.min.js"),
                "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
            ),
            (include_bytes!("uplot/uPlot.min.css"), "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
            (include_bytes!("uplot/LICENSE"), "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"),
        ];
        for (bytes, expected) in rows {
            let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
            assert_eq!(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
        }
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = CONTENTS.iter().map(|content| content.gzip.len()).sum();
        assert!(bytes < 110_000, "{bytes} bytes compressed");
    }
}
