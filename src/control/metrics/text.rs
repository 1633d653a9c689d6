//! The two text formats: OpenMetrics 1.0.0 where a client accepts it, and Prometheus's own 0.0.4 for everybody else.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, HeaderValue};

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The answer's format and body for a client with these header fields. `body` is OpenMetrics.
pub(super) fn negotiate(headers: &HeaderMap, body: String) -> (HeaderValue, String) {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    match accept.flat_map(|value| value.split(',')).any(accepts_openmetrics) {
        true => (OPENMETRICS, body),
        false => (PROMETHEUS, to_prometheus(&body)),
    }
}

/// Whether an entry of `Accept` is for OpenMetrics (RFC 9110 §12.5.1). A weight of 0 rejects it.
fn accepts_openmetrics(entry: &str) -> bool {
    let mut parts = entry.split(';').map(str::trim);
    let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
    let weight = |part: &str| part.strip_prefix("q=").map(|weight| weight.parse().unwrap_or(1.0));
    is_named && parts.filter_map(weight).all(|weight: f64| weight > 0.0)
}

/// The same in the older format: there a counter's name ends with `_total` also where it is described, and an info is a
/// gauge.
fn to_prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' '));
        let described = help.zip(lines.peek().and_then(|line| type_of(line)));
        match (described, type_of(line)) {
            (Some(((name, help), (_, kind))), _) => {
                text.extend(["# HELP ", name, suffix(kind), " ", help, "\n"]);
            }
            (None, Some((name, kind))) => {
                let old_kind = if kind == "info" { "gauge" } else { kind };
                text.extend(["# TYPE ", name, suffix(kind), " ", old_kind, "\n"]);
            }
            (None, None) if line == "# EOF" => {}
            (None, None) => text.extend([line, "\n"]),
        }
    }
    text
}

/// The name and the type in a line that states a metric's type.
fn type_of(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("# TYPE ")?.split_once(' ')
}

/// The end of the name that a metric of this type has in its samples.
fn suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_accepts_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                          version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let rows = [
            (None, false),
            (Some("*/*"), false),
            (Some("text/plain;version=0.0.4"), false),
            (Some("text/html, */*;q=0.1"), false),
            (Some("application/openmetrics-text; q=0, text/plain"), false),
            (Some("application/openmetrics-text-of-others"), false),
            (Some("Application/OpenMetrics-Text"), true),
            (Some("text/plain, application/openmetrics-text; version=1.0.0"), true),
            (Some(prometheus), true),
        ];
        for (accept, expected) in rows {
            let mut headers = HeaderMap::new();
            accept.into_iter().for_each(|accept| drop(headers.insert(ACCEPT, HeaderValue::from_static(accept))));
            let (format, body) = negotiate(&headers, "# EOF\n".to_owned());
            assert_eq!(format == OPENMETRICS, expected, "{accept:?}");
            assert_eq!(body == "# EOF\n", expected, "{accept:?}");
        }
    }

    #[test]
    fn the_older_format_describes_what_its_samples_are_called() {
        let openmetrics = "# HELP a Times that # TYPE b counter was written.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n\
                           # HELP b What runs.\n# TYPE b info\nb_info{version=\"1\"} 1\n\
                           # HELP c Now.\n# TYPE c gauge\nc 2\n# EOF\n";
        let expected = "# HELP a_total Times that # TYPE b counter was written.\n# TYPE a_total counter\n\
                        a_total{x=\"# EOF\"} 1\n# HELP b_info What runs.\n# TYPE b_info gauge\nb_info{version=\"1\"} 1\n\
                        # HELP c Now.\n# TYPE c gauge\nc 2\n";
        assert_eq!(to_prometheus(openmetrics), expected);
    }
}
