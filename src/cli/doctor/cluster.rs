//! The NATS servers of a cluster, and what a node needs of them.

use super::certificates::readers;
use super::finding::{Finding, Verdict};
use crate::bridge::{self, Check};
use crate::cli::serve::settings_hash;
use crate::config::Settings;

/// Looks at the files with secrets, and at the servers.
///
/// # Errors
/// A text that says what is wrong with the settings.
pub(super) fn examine(settings: &Settings) -> Result<Vec<Finding>, String> {
    let mut findings: Vec<Finding> =
        settings.cluster.secret_files().map(|file| readers("secret of the cluster", file)).collect();
    let checks = bridge::examine(&settings.cluster, settings_hash(settings)).map_err(|error| error.to_string())?;
    findings.extend(checks.into_iter().map(finding));
    Ok(findings)
}

fn finding(check: Check) -> Finding {
    let Check { name, found, change } = check;
    let Some(change) = change else { return Finding::good(name, found) };
    let verdict = if change.is_required { Verdict::Required } else { Verdict::Recommended };
    Finding::new(name, verdict, found, "", change.remedy)
}
