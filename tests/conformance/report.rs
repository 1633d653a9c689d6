//! Reads the suite's reports and judges them: every case OK or INFORMATIONAL, every closing too, all cases
//! there. Exceptions are listed by name, with the reason, and must still be needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::path::Path;

use serde_json::Value;

/// Our name in the reports.
pub(crate) const AGENT: &str = "ringfeed";

const GOOD: [&str; 2] = ["OK", "INFORMATIONAL"];

/// A section or group whose cases may have one result other than good.
pub(crate) struct Exception {
    /// The leading numbers of the cases: `[12]` is the section, `[6, 4]` a group, `[6, 4, 3]` one case.
    pub cases: &'static [u32],
    /// The result they may have.
    pub behavior: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Known deviations.
pub(crate) const EXCEPTIONS: &[Exception] = &[];

/// The number of a case, two or three parts, ordered as the suite orders them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CaseId(Vec<u32>);

impl CaseId {
    fn parse(text: &str) -> Option<CaseId> {
        let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        parts.ok().map(CaseId)
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&dotted(&self.0))
    }
}

/// The parts of a case's number as the suite writes them.
pub(crate) fn dotted(parts: &[u32]) -> String {
    let parts: Vec<String> = parts.iter().map(u32::to_string).collect();
    parts.join(".")
}

/// The suite's verdict on one case.
pub(crate) struct Verdict {
    behavior: String,
    closing: String,
}

/// The results of one run.
#[derive(Default)]
pub(crate) struct Report {
    cases: BTreeMap<CaseId, Verdict>,
}

impl Report {
    /// Adds the report at `path`.
    ///
    /// # Panics
    /// When there is none, it is not one, or it has a case that is here already.
    pub(crate) fn read(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("the suite left no report at {}: {error}", path.display()));
        self.add(&text).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        let cases = value.get(AGENT).and_then(Value::as_object);
        for (name, case) in cases.ok_or_else(|| format!("no results of {AGENT}"))? {
            let id = CaseId::parse(name).ok_or_else(|| format!("{name} is not the number of a case"))?;
            let field = |key: &str| case.get(key).and_then(Value::as_str).map(str::to_owned);
            let verdict = field("behavior").zip(field("behaviorClose"));
            let (behavior, closing) = verdict.ok_or_else(|| format!("case {name} has no verdict"))?;
            if self.cases.insert(id, Verdict { behavior, closing }).is_some() {
                return Err(format!("case {name} ran twice"));
            }
        }
        Ok(())
    }

    /// The errors of this run, a line each; empty for a good run.
    pub(crate) fn findings(&self, case_count: usize, exceptions: &[Exception]) -> Vec<String> {
        let mut findings = Vec::new();
        if self.cases.len() != case_count {
            findings.push(format!("{} cases ran, {case_count} should have", self.cases.len()));
        }
        let mut needed = BTreeSet::new();
        for (id, Verdict { behavior, closing }) in &self.cases {
            if GOOD.contains(&behavior.as_str()) && GOOD.contains(&closing.as_str()) {
                continue;
            }
            let excused = |exception: &Exception| id.0.starts_with(exception.cases) && exception.behavior == behavior;
            match exceptions.iter().position(excused) {
                Some(index) => _ = needed.insert(index),
                None => findings.push(format!("{id}: {behavior}, closing {closing}")),
            }
        }
        for (index, exception) in exceptions.iter().enumerate() {
            if !needed.contains(&index) {
                let Exception { cases, behavior, reason } = exception;
                let cases = dotted(cases);
                findings.push(format!("no case {cases} is {behavior} any more, take it off the list ({reason})"));
            }
        }
        findings
    }

    /// The number of cases by section and result, as a Markdown table.
    pub(crate) fn table(&self) -> String {
        let mut counts: BTreeMap<u32, BTreeMap<&str, usize>> = BTreeMap::new();
        let mut behaviors = BTreeSet::from(["OK"]);
        for (id, verdict) in &self.cases {
            behaviors.insert(&verdict.behavior);
            *counts.entry(id.0[0]).or_default().entry(&verdict.behavior).or_default() += 1;
        }
        let mut table = String::from("| section | cases |");
        behaviors.iter().for_each(|behavior| table.extend([" ", behavior, " |"]));
        table.push_str("\n|---|---|");
        behaviors.iter().for_each(|_| table.push_str("---|"));
        for (section, count) in &counts {
            let total: usize = count.values().sum();
            write!(table, "\n| {section} | {total} |").expect("a string takes all");
            for behavior in &behaviors {
                write!(table, " {} |", count.get(behavior).unwrap_or(&0)).expect("a string takes all");
            }
        }
        table.push('\n');
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFLATE: Exception = Exception { cases: &[12], behavior: "UNIMPLEMENTED", reason: "not built" };

    fn report(cases: &[(&str, &str, &str)]) -> Report {
        let cases: serde_json::Map<_, _> = cases
            .iter()
            .map(|(id, behavior, closing)| {
                ((*id).to_owned(), serde_json::json!({ "behavior": behavior, "behaviorClose": closing }))
            })
            .collect();
        let mut report = Report::default();
        report.add(&serde_json::json!({ AGENT: cases }).to_string()).expect("a well-formed report");
        report
    }

    fn problem(text: &str) -> String {
        Report::default().add(text).expect_err("not a report")
    }

    #[test]
    fn a_good_run_has_no_findings() {
        let report = report(&[("1.1.1", "OK", "OK"), ("7.1.6", "INFORMATIONAL", "INFORMATIONAL")]);
        assert_eq!(report.findings(2, &[]), [""; 0]);
    }

    #[test]
    fn everything_else_is_a_finding() {
        let bad = [
            ("2.1.1", "FAILED", "OK", "2.1.1: FAILED, closing OK"),
            ("6.4.1", "NON-STRICT", "OK", "6.4.1: NON-STRICT, closing OK"),
            ("7.1.1", "OK", "UNCLEAN", "7.1.1: OK, closing UNCLEAN"),
            ("7.1.2", "OK", "FAILED", "7.1.2: OK, closing FAILED"),
            ("7.1.3", "OK", "WRONG CODE", "7.1.3: OK, closing WRONG CODE"),
            ("13.1.1", "UNIMPLEMENTED", "OK", "13.1.1: UNIMPLEMENTED, closing OK"),
        ];
        for (id, behavior, closing, finding) in bad {
            assert_eq!(report(&[(id, behavior, closing)]).findings(1, &[]), [finding]);
        }
    }

    #[test]
    fn missing_cases_are_a_finding() {
        assert_eq!(report(&[]).findings(1, &[]), ["0 cases ran, 1 should have"]);
    }

    #[test]
    fn an_exception_covers_its_cases_and_its_result_only() {
        let excused = ("12.1.1", "UNIMPLEMENTED", "OK");
        assert_eq!(report(&[excused]).findings(1, &[DEFLATE]), [""; 0]);
        let worse = report(&[excused, ("12.1.2", "FAILED", "OK"), ("1.2.1", "UNIMPLEMENTED", "OK")]);
        let findings = ["1.2.1: UNIMPLEMENTED, closing OK", "12.1.2: FAILED, closing OK"];
        assert_eq!(worse.findings(3, &[DEFLATE]), findings);
    }

    #[test]
    fn an_exception_that_is_not_needed_any_more_is_a_finding() {
        let findings = report(&[("12.1.1", "OK", "OK")]).findings(1, &[DEFLATE]);
        assert_eq!(findings, ["no case 12 is UNIMPLEMENTED any more, take it off the list (not built)"]);
    }

    #[test]
    fn what_is_not_a_report_is_refused() {
        assert_eq!(problem("{}"), "no results of ringfeed");
        assert_eq!(problem(r#"{"ringfeed":{"1.x":{}}}"#), "1.x is not the number of a case");
        assert_eq!(problem(r#"{"ringfeed":{"1.1.1":{"behavior":"OK"}}}"#), "case 1.1.1 has no verdict");
        assert!(problem("<html>").starts_with("not JSON"));
        let case = r#"{"ringfeed":{"1.1.1":{"behavior":"OK","behaviorClose":"OK"}}}"#;
        let mut report = Report::default();
        assert_eq!(report.add(case), Ok(()));
        assert_eq!(report.add(case), Err("case 1.1.1 ran twice".to_owned()));
    }

    #[test]
    fn the_table_counts_by_section() {
        let report = report(&[("1.1.1", "OK", "OK"), ("1.1.2", "FAILED", "OK"), ("10.1.1", "OK", "OK")]);
        let table = "| section | cases | FAILED | OK |\n|---|---|---|---|\n| 1 | 2 | 1 | 1 |\n| 10 | 1 | 0 | 1 |\n";
        assert_eq!(report.table(), table);
    }
}
