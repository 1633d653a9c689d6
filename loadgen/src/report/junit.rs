//! The result of a run as JUnit XML, which CI servers show.

use crate::report::{Report, Verdict};

/// One `testsuite` with a case for the messages, one for the load generator, and one for each expectation.
pub(crate) fn xml(report: &Report) -> String {
    let faults = (report.verdict == Verdict::Faulty).then(|| {
        let examples = report.faults.examples.iter().map(|example| format!("\n{example}")).collect::<String>();
        (report.faults.counts.text(), examples)
    });
    let reasons = (report.self_check.client_bound || report.verdict == Verdict::Empty).then(|| {
        let reasons = match report.verdict {
            Verdict::Empty => "nothing was measured".to_owned(),
            _ => report.self_check.reasons.join("; "),
        };
        (reasons, String::new())
    });
    let mut cases = vec![
        ("every message arrives once, in order and unchanged".to_owned(), faults),
        ("the figures are those of the server".to_owned(), reasons),
    ];
    cases.extend(report.expectations.iter().map(|outcome| {
        let failure = (!outcome.holds).then(|| (outcome.to_string(), String::new()));
        (outcome.expected.clone(), failure)
    }));
    let failures = cases.iter().filter(|(_, failure)| failure.is_some()).count();
    let (scenario, seconds, finished_at) = (&report.scenario, report.seconds, &report.finished_at);
    let timestamp = finished_at.trim_end_matches('Z');
    let class = format!("loadgen.{scenario}");
    let cases: String = cases.iter().map(|(name, failure)| case(&class, name, failure.as_ref())).collect();
    let suite = format!(
        "name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" time=\"{seconds:.3}\" \
         timestamp=\"{timestamp}\"",
        escape(&format!("loadgen {scenario} {}: {}", report.url, report.load)),
        cases.matches("<testcase").count()
    );
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite {suite}>\n{cases}</testsuite>\n</testsuites>\n"
    )
}

fn case(class: &str, name: &str, failure: Option<&(String, String)>) -> String {
    let (class, name) = (escape(class), escape(name));
    match failure {
        None => format!("<testcase classname=\"{class}\" name=\"{name}\"/>\n"),
        Some((message, more)) => format!(
            "<testcase classname=\"{class}\" name=\"{name}\"><failure message=\"{}\">{}</failure></testcase>\n",
            escape(message),
            escape(&format!("{message}{more}"))
        ),
    }
}

/// Replaces what XML 1.0 gives a meaning, and what it does not allow.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn a_clean_run_has_no_failures() {
        let text = xml(&Report::new(outcome()));
        assert!(text.contains("tests=\"2\" failures=\"0\"") && !text.contains("<failure"), "{text}");
    }

    #[test]
    fn faults_a_bound_client_and_expectations_are_failures() {
        let mut outcome = outcome();
        outcome.findings[0].faults.closed(3, "<bye> & \"more\"\u{1}");
        outcome.findings[0].recorded.busy_share = 0.97;
        let report = Report::new(outcome).expecting(&["p99<1us".parse().unwrap(), "p50<1s".parse().unwrap()]);
        let text = xml(&report);
        assert!(text.contains("tests=\"4\" failures=\"3\""), "{text}");
        assert!(text.contains("name=\"p99&lt;1us\"><failure message=\"expected p99&lt;1us, got 1.89 ms\">"), "{text}");
        assert!(text.contains("1 closed\nconnection 3: &lt;bye&gt; &amp; &quot;more&quot;?"), "{text}");
    }
}
