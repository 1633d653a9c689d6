//! The same run several times: what one result is worth.

use std::process::ExitCode;

use crate::error::Error;
use crate::report::Verdict;
use crate::report::text::three_digits;
use crate::series::child::{self, COMPARED, Compared};
use crate::series::statistics::{median, range};

/// Runs this program's own arguments `times` times, and prints median and range of each figure.
///
/// # Errors
/// If a run can't be measured or has faults.
pub(crate) fn run(times: u32) -> Result<ExitCode, Error> {
    let arguments = without_repeat(std::env::args().skip(1));
    let mut reports = Vec::new();
    for time in 1..=times {
        let report = child::run(&arguments)?;
        let bound = if report.verdict == Verdict::ClientBound { ", client-bound" } else { "" };
        let p99 = COMPARED.iter().find(|figure| figure.name == "p99").expect("there is one");
        let p99 = (p99.value)(&report).map_or("none".to_owned(), p99.write);
        println!("run {time} of {times}: {:.0} {} a second, p99 {p99}{bound}", report.per_second, report.unit);
        reports.push(report);
    }
    println!("  {:<14} {:>12} {:>12} {:>12} {:>9}", "", "median", "min", "max", "max / min");
    for Compared { name, value, write } in COMPARED {
        let values: Vec<f64> = reports.iter().filter_map(value).collect();
        if values.len() == reports.len() {
            let [min, max] = range(&values);
            let spread = if min > 0.0 { three_digits(max / min) } else { "-".to_owned() };
            let [middle, min, max] = [median(&values), min, max].map(write);
            println!("  {name:<14} {middle:>12} {min:>12} {max:>12} {spread:>9}");
        }
    }
    let is_bound = reports.iter().any(|report| report.verdict == Verdict::ClientBound);
    Ok(ExitCode::from(if is_bound { 3 } else { 0 }))
}

/// The arguments without `--repeat N`.
fn without_repeat(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_value = false;
    let keeps = |argument: &String| {
        let is_flag = argument == "--repeat";
        let keeps = !is_value && !is_flag && !argument.starts_with("--repeat=");
        is_value = is_flag;
        keeps
    };
    arguments.filter(keeps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flag_and_its_value_are_removed() {
        let without = |text: &str| without_repeat(text.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(without("echo --repeat 5 --url x"), "echo --url x");
        assert_eq!(without("echo --url x --repeat=5"), "echo --url x");
    }
}
