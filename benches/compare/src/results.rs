//! Writes the results: a table of ratios for people, all runs as CSV, and the machine and settings.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::measure::{Measurement, Report, Summary};
use crate::plan::{Case, Column, Plan, SERVER_MEMORY, Scenario, Shown};
use crate::statistics::{Spread, median, ratios, runs};

/// Writes `<date>-<cpu>-<plan>.md` and `.csv` into `directory`, with the steering in the name unless it is the default,
/// and prints the table.
///
/// # Errors
/// If no case was measured or the files can't be written.
pub(crate) fn write(
    place: &Place,
    plan: &Plan,
    measurements: &[Measurement],
    directory: &Path,
) -> Result<(), Box<dyn Error>> {
    if measurements.is_empty() {
        return Err("no case has that name".into());
    }
    let name = place.file_name(plan.name);
    let (summary, tables) = (summary(plan, measurements), tables(plan, measurements));
    let text = format!("# {}: {}\n\n{}{summary}{tables}", plan.name, place.date, place.text());
    fs::create_dir_all(directory)?;
    fs::write(directory.join(format!("{name}.md")), &text)?;
    fs::write(directory.join(format!("{name}.csv")), csv(measurements))?;
    print!("{text}");
    Ok(())
}

/// Machine, date and settings of the measurements.
pub(crate) struct Place {
    date: String,
    cpu: String,
    cpus: usize,
    kernel: String,
    commit: String,
    steering: Steering,
    command: String,
}

/// The CPU that does the receive work of loopback, as set by `steer.sh`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Steering {
    /// The sending CPU.
    None,
    /// The CPUs in this mask.
    To(String),
    /// The CPU of the receiving program.
    EachItsOwn,
}

impl Steering {
    /// Derived from two kernel settings.
    fn of(rps_cpus: &str, flow_entries: &str) -> Steering {
        let is_set = |setting: &str| setting.bytes().any(|digit| digit.is_ascii_hexdigit() && digit != b'0');
        match (is_set(rps_cpus), is_set(flow_entries)) {
            (false, _) => Steering::None,
            (true, false) => Steering::To(rps_cpus.to_owned()),
            (true, true) => Steering::EachItsOwn,
        }
    }

    /// The suffix of the result files.
    fn suffix(&self) -> &'static str {
        match self {
            Steering::None => "-no-steering",
            Steering::To(_) => "",
            Steering::EachItsOwn => "-each-its-own",
        }
    }

    fn text(&self) -> String {
        match self {
            Steering::None => "off: the sender's core also does the receiver's half of TCP".to_owned(),
            Steering::To(mask) => {
                format!("on: loopback's receive work goes to CPU mask {mask}, as a network card would have it")
            }
            Steering::EachItsOwn => {
                "each its own: a CPU does the receive work of its program, as two machines do".to_owned()
            }
        }
    }
}

impl Place {
    /// Reads the facts of this machine. Call this before measuring, so that the commit is the measured one.
    ///
    /// # Errors
    /// If the system does not provide them.
    pub(crate) fn here() -> Result<Place, Box<dyn Error>> {
        let cpu_info = fs::read_to_string("/proc/cpuinfo")?;
        let setting = |path| Ok::<_, std::io::Error>(fs::read_to_string(path)?.trim().to_owned());
        let rps_cpus = setting("/sys/class/net/lo/queues/rx-0/rps_cpus")?;
        let flow_entries = setting("/proc/sys/net/core/rps_sock_flow_entries")?;
        let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Place {
            date: output_line("date", &["+%F"])?,
            cpu: model.map_or("unknown CPU", |(_, model)| model).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            kernel: setting("/proc/sys/kernel/osrelease")?,
            commit: output_line("git", &["describe", "--always", "--dirty"])?,
            steering: Steering::of(&rps_cpus, &flow_entries),
            command: command_line(std::env::args()),
        })
    }

    fn cpu_slug(&self) -> String {
        let words = self.cpu.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !["", "R", "TM", "CPU", "Processor"].contains(word));
        words.collect::<Vec<_>>().join("-").to_lowercase()
    }

    fn file_name(&self, plan: &str) -> String {
        format!("{}-{}-{plan}{}", self.date, self.cpu_slug(), self.steering.suffix())
    }

    fn text(&self) -> String {
        let Place { cpu, cpus, kernel, commit, steering, command, .. } = self;
        format!(
            "- {cpu}, {cpus} CPUs, Linux {kernel}; server on CPU 0, load generator on CPU 1, both on this machine\n\
             - steering {}\n- commit {commit}\n- command `{command}`\n",
            steering.text()
        )
    }
}

/// The arguments of this program, without its directory.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let shorten = |word: String| word.rsplit('/').next().unwrap_or_default().to_owned();
    arguments.map(shorten).collect::<Vec<_>>().join(" ")
}

/// The output of `program`, as one line.
fn output_line(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The summary of the plan, one line per server. Empty if the plan has no columns.
fn summary(plan: &Plan, measurements: &[Measurement]) -> String {
    if plan.summary.is_empty() {
        return String::new();
    }
    let titles = plan.summary.iter().map(|column| column.title).collect::<Vec<_>>().join(" | ");
    let first = plan.servers[0].name;
    let mut text = match plan.summary[0].shown {
        Shown::AsMultiple => {
            format!("\n{first}'s figures, and those of others as multiples of them (medians of runs side by side)\n")
        }
        Shown::AsIs => "\nMedians\n".to_owned(),
    };
    let _ = writeln!(text, "\n| | {titles} |\n| --- |{}", " --- |".repeat(plan.summary.len()));
    for server in &plan.servers {
        let cells = plan.summary.iter().map(|Column { case, figure, shown, .. }| {
            let middle = || median(runs(measurements, case, server.name).map(|run| figure(&run.report)));
            let value = match shown {
                Shown::AsIs => middle().map(|value| format!("{value:.2}")),
                Shown::AsMultiple if server.name == first => middle().map(|value| format!("{value:.0}")),
                Shown::AsMultiple => {
                    median(ratios(measurements, case, [server.name, first], figure)).map(|ratio| format!("{ratio:.2}"))
                }
            };
            value.unwrap_or_default()
        });
        let _ = writeln!(text, "| {} | {} |", server.name, cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

fn tables(plan: &Plan, measurements: &[Measurement]) -> String {
    let measured = |case: &&Case| measurements.iter().any(|run| run.case == case.name);
    let draw = |case: &Case| match case.scenario {
        Scenario::Idle => memory_table(plan, case, measurements),
        Scenario::Slow => stalled_table(plan, case, measurements),
        Scenario::Fanout | Scenario::Echo | Scenario::Connect => table(plan, case, measurements),
    };
    plan.cases.iter().filter(measured).map(draw).collect()
}

/// Memory of an idle connection in the server. Without kernel memory, which also includes connections of the previous
/// run that are not yet freed.
fn memory_table(plan: &Plan, case: &Case, measurements: &[Measurement]) -> String {
    let mut text = format!("\n## {}\n\n| server | resident B a connection |\n| --- | --- |\n", case.name);
    for server in case.servers.iter().map(|index| plan.servers[*index].name) {
        let values = runs(measurements, &case.name, server).map(|run| run.report.figure(SERVER_MEMORY));
        let _ = writeln!(text, "| {server} | {:.0} |", median(values).unwrap_or(f64::NAN));
    }
    text
}

/// The effect of stalled subscribers on the others, and the outcome for the stalled ones.
fn stalled_table(plan: &Plan, case: &Case, measurements: &[Measurement]) -> String {
    let first = plan.servers[case.servers[0]].name;
    let titles = format!(
        "| | p50 us | p99 us | p99.9 us | p99 to that of {first} (min to max) | CPU ns per delivery | peak RSS MB | \
         closed as slow | dropped | conflated |"
    );
    let mut text = format!("\n## {}\n\n{titles}\n|{}\n", case.name, " --- |".repeat(titles.matches('|').count() - 1));
    for server in case.servers.iter().map(|index| plan.servers[*index].name) {
        let middle = |figure: fn(&Measurement) -> f64| {
            median(runs(measurements, &case.name, server).map(figure)).unwrap_or(f64::NAN)
        };
        let ratios = ratios(measurements, &case.name, [server, first], |run| run.latency.honest().p99_us);
        let ratio = match Spread::of(&ratios) {
            Some(Spread { median, min, max }) if server != first => format!("{median:.3} ({min:.3} to {max:.3})"),
            _ => "1".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {server} | {:.0} | {:.0} | {:.0} | {ratio} | {:.0} | {:.1} | {:.0} | {:.0} | {:.0} |",
            middle(|run| run.report.latency.honest().p50_us),
            middle(|run| run.report.latency.honest().p99_us),
            middle(|run| run.report.latency.honest().p999_us),
            middle(|run| run.report.server.cpu_ns_each),
            middle(|run| run.report.afterwards.peak_bytes as f64 / 1e6),
            middle(|run| run.report.afterwards.closed as f64),
            middle(|run| run.report.afterwards.dropped as f64),
            middle(|run| run.report.afterwards.conflated as f64),
        );
    }
    text
}

/// The medians of each server, and the ratios of the first server's CPU time and latency to each.
fn table(plan: &Plan, case: &Case, measurements: &[Measurement]) -> String {
    let unit = case.scenario.unit();
    let first = plan.servers[case.servers[0]].name;
    let of_case = || measurements.iter().filter(|run| run.case == case.name);
    let has_watched = of_case().any(|run| run.report.latency.watched.is_some());
    let has_answers = of_case().any(|run| run.report.latency.acknowledged.is_some());
    let mut text = format!("\n## {}\n\n", case.name);
    let mut columns = words_of([
        "server",
        &format!("CPU ns per {unit}"),
        "per CPU second",
        &format!("CPU of {first} to this (min to max)"),
        "per second",
        "p50 us",
        "p99 us",
        "p99.9 us",
        &format!("p99 of {first} to this (min to max)"),
    ]);
    if has_watched {
        columns.extend(words_of(["watched p50 us", "watched p99 us"]));
    }
    if has_answers {
        columns.extend(words_of(["acknowledged p50 us", "acknowledged p99 us"]));
    }
    columns.extend(words_of([
        "slowest",
        "RSS MB",
        "server CPU",
        "client CPU",
        "client's capacity to this",
        "of whole CPUs",
        "client-bound",
    ]));
    let _ = writeln!(text, "| {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len()));
    for server in case.servers.iter().map(|index| plan.servers[*index].name) {
        let all = runs(measurements, &case.name, server);
        let middle = |figure: fn(&Measurement) -> f64| median(all.clone().map(figure)).unwrap_or(f64::NAN);
        let whole = |figure| format!("{:.0}", middle(figure));
        let share = |figure| format!("{:.2}", middle(figure));
        // Only where every run of this server has it.
        let optional = |figure: fn(&Measurement) -> Option<f64>| {
            let values: Option<Vec<f64>> = all.clone().map(figure).collect();
            values.and_then(median).map_or(String::new(), |value| format!("{value:.0}"))
        };
        let ratio =
            |figure: fn(&Report) -> f64| match Spread::of(&ratios(measurements, &case.name, [first, server], figure)) {
                Some(Spread { median, min, max }) if server != first => format!("{median:.3} ({min:.3} to {max:.3})"),
                _ => "1".to_owned(),
            };
        let mut cells = vec![
            server.to_owned(),
            whole(|run| run.report.server.cpu_ns_each),
            whole(|run| run.report.server.per_cpu_second),
            ratio(|run| run.server.cpu_ns_each),
            whole(|run| run.report.per_second),
            whole(|run| run.report.latency.honest().p50_us),
            whole(|run| run.report.latency.honest().p99_us),
            whole(|run| run.report.latency.honest().p999_us),
            ratio(|run| run.latency.honest().p99_us),
        ];
        if has_watched {
            cells.push(optional(|run| Some(run.report.latency.watched.as_ref()?.p50_us)));
            cells.push(optional(|run| Some(run.report.latency.watched.as_ref()?.p99_us)));
        }
        if has_answers {
            cells.push(optional(|run| Some(run.report.latency.acknowledged.as_ref()?.p50_us)));
            cells.push(optional(|run| Some(run.report.latency.acknowledged.as_ref()?.p99_us)));
        }
        let bound = all.clone().filter(|run| run.report.self_check.client_bound).count();
        cells.extend([
            share(|run| run.report.slowest_share),
            format!("{:.1}", middle(|run| run.report.server.resident_bytes as f64 / 1e6)),
            share(|run| run.report.server.cpus),
            share(|run| run.report.client_cpus),
            share(|run| run.report.client_capacity()),
            share(|run| run.report.core_capacity()),
            format!("{bound} of {}", all.clone().count()),
        ]);
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text + &orders(plan, case, measurements)
}

fn words_of<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The servers that delivered in different orders to different subscribers, and in how many runs.
fn orders(plan: &Plan, case: &Case, measurements: &[Measurement]) -> String {
    let mut text = String::new();
    for server in case.servers.iter().map(|index| plan.servers[*index].name) {
        let all = runs(measurements, &case.name, server);
        let mixed = all.clone().filter(|run| run.report.faults.reordered > 0).count();
        if mixed > 0 {
            let total = all.count();
            let _ = writeln!(
                text,
                "\nIn {mixed} of {total} runs subscribers of {server} saw what different publishers sent in different \
                 orders; it promises each publisher's only."
            );
        }
    }
    text
}

fn csv(measurements: &[Measurement]) -> String {
    let mut text = "case,round,server,count,cpu_ns_each,per_cpu_second,per_second,p50_us,p99_us,p999_us,max_us,\
                    slowest_share,server_cpus,client_cpus,resident_bytes,client_bound,server_bytes_each,\
                     server_core_s,client_core_s,peak_bytes,closed,dropped,conflated,reordered,watched_p50_us,watched_p99_us,\
                     acknowledged_p50_us,acknowledged_p99_us\n"
        .to_owned();
    let quantiles = |summary: &Option<Summary>| match summary {
        Some(Summary { p50_us, p99_us, .. }) => format!("{p50_us:.1},{p99_us:.1}"),
        None => ",".to_owned(),
    };
    for Measurement { case, round, server, report } in measurements {
        let (watched, answers) = (quantiles(&report.latency.watched), quantiles(&report.latency.acknowledged));
        let (cost, latency, afterwards) = (&report.server, report.latency.honest(), &report.afterwards);
        let _ = writeln!(
            text,
            "\"{case}\",{round},{server},{},{:.1},{:.0},{:.0},{:.1},{:.1},{:.1},{:.1},{:.3},{:.3},{:.3},{},{},{},{:.2},{:.2},{},{},{},{},{},{watched},{answers}",
            report.count,
            cost.cpu_ns_each,
            cost.per_cpu_second,
            report.per_second,
            latency.p50_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us,
            report.slowest_share,
            cost.cpus,
            report.client_cpus,
            cost.resident_bytes,
            report.self_check.client_bound,
            report.figure(SERVER_MEMORY),
            report.cores.server,
            report.cores.client,
            afterwards.peak_bytes,
            afterwards.closed,
            afterwards.dropped,
            afterwards.conflated,
            report.faults.reordered,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_kept_without_the_directories_of_one_machine() {
        let words = ["/home/me/target/release/compare", "peers", "--peers", "/home/me/target/peers"];
        assert_eq!(command_line(words.map(str::to_owned).into_iter()), "compare peers --peers peers");
    }

    #[test]
    fn file_names_are_plain() {
        let place = Place {
            date: "2030-01-31".to_owned(),
            cpu: "Intel(R) Xeon(R) CPU @ 2.20GHz".to_owned(),
            cpus: 2,
            kernel: "6.18.0".to_owned(),
            commit: "abc".to_owned(),
            steering: Steering::of("0", "0"),
            command: "compare floor".to_owned(),
        };
        assert_eq!(place.file_name("floor"), "2030-01-31-intel-xeon-2-20ghz-floor-no-steering");
        assert!(place.text().contains("steering off"));
        let steered = Place { steering: Steering::of("2", "0"), ..place };
        assert_eq!(steered.file_name("peers"), "2030-01-31-intel-xeon-2-20ghz-peers");
        assert!(steered.text().contains("CPU mask 2"));
        let both = Place { steering: Steering::of("3", "65536"), ..steered };
        assert!(both.file_name("peers").ends_with("-peers-each-its-own") && both.text().contains("two machines"));
    }
}
