//! `/demo/`: the demo pages, with the library that they use beside them. Their sources are `examples/web` and
//! `clients/js`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Accept, Context, Get, Handler, Page, Refusal, Request, Response};
use crate::proto::Message;

/// The files by name; the index has none.
const FILES: [(&str, &str); 12] = [
    ("", include_str!("../../examples/web/index.html")),
    ("prices.html", include_str!("../../examples/web/prices.html")),
    ("chat.html", include_str!("../../examples/web/chat.html")),
    ("map.html", include_str!("../../examples/web/map.html")),
    ("board.html", include_str!("../../examples/web/board.html")),
    ("match.html", include_str!("../../examples/web/match.html")),
    ("heart.html", include_str!("../../examples/web/heart.html")),
    ("demo.css", include_str!("../../examples/web/demo.css")),
    ("demo.js", include_str!("../../examples/web/demo.js")),
    ("ringfeed.js", include_str!("../../clients/js/ringfeed.js")),
    ("ringfeed-http.js", include_str!("../../clients/js/ringfeed-http.js")),
    ("ring-feed.js", include_str!("../../clients/js/ring-feed.js")),
];

/// Serves the demo pages. Register it for the prefix `/demo/`.
#[derive(Clone, Debug)]
pub struct DemoPages {
    /// The `Content-Security-Policy` of each file.
    policies: Vec<String>,
}

impl DemoPages {
    /// A handler for one shard.
    pub fn new() -> DemoPages {
        DemoPages { policies: FILES.iter().map(|(_, text)| policy(text)).collect() }
    }
}

impl Default for DemoPages {
    fn default() -> DemoPages {
        DemoPages::new()
    }
}

impl Handler for DemoPages {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Err(Refusal::new(404, "no WebSocket here: the demo pages connect to /connection/websocket"))
    }

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        let Some(index) = FILES.iter().position(|(name, _)| *name == request.rest) else {
            return Err(Refusal::new(404, "not found: the list of demo pages is at /demo/"));
        };
        let (name, text) = FILES[index];
        let content_type = match name.rsplit_once('.') {
            _ if request.query("source").is_some() => "text/plain; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        let page = Page::new(content_type, text.as_bytes());
        let page = page.header("Content-Security-Policy", &self.policies[index]);
        let page = page.header("Referrer-Policy", "no-referrer");
        Ok(page.header("X-Content-Type-Options", "nosniff").header("Cache-Control", "no-cache").into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}

/// The policy of a page (CSP 3): files of this server, and the script and the style within the page, by their hashes.
fn policy(page: &str) -> String {
    let [script, style] = ["script", "style"].map(|element| hashes(page, element));
    format!(
        "default-src 'none'; script-src 'self'{script}; style-src 'self'{style}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The hash of the content of each such element, as a source of a policy.
fn hashes(page: &str, element: &str) -> String {
    let (begin, end) = (format!("<{element}"), format!("</{element}>"));
    let elements = page.split(begin.as_str()).skip(1).filter_map(|rest| rest.split_once('>')?.1.split_once(&end));
    let contents = elements.map(|(content, _)| content).filter(|content| !content.is_empty());
    contents
        .map(|content| {
            let hash = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
            format!(" 'sha256-{}'", STANDARD.encode(hash))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_the_hash_of_each_script_and_style() {
        let page = "<style>a{}</style><script type=\"module\">1</script><script src=\"x.js\"></script>";
        let policy = policy(page);
        // printf 1 | openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'self' 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=';"),
            "{policy}"
        );
        assert!(policy.contains("style-src 'self' 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn each_page_is_short_and_loads_nothing_from_elsewhere() {
        for (name, text) in FILES.iter().filter(|(name, _)| name.is_empty() || name.ends_with(".html")) {
            assert!(text.lines().count() <= 300, "{name}");
            for attribute in ["src=\"", "import(\"", "from \"", "<link rel=\"stylesheet\" href=\""] {
                let targets = text.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap_or_default());
                let is_here = |target: &str| FILES.iter().any(|(file, _)| target.trim_start_matches("./") == *file);
                targets.for_each(|target| assert!(is_here(target), "{name} loads {target}"));
            }
            let has_attribute = [" style=\"", " onclick=\""].iter().any(|attribute| text.contains(attribute));
            assert!(!has_attribute, "{name} has an attribute that its policy rejects");
        }
    }
}
