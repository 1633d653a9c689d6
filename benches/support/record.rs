//! The output of a bench, with machine and date, and the file it is recorded in.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// The output of one bench target.
pub(crate) struct Record {
    name: &'static str,
    /// Whether to measure; otherwise the bench only checks results.
    pub(crate) measures: bool,
    is_kept: bool,
    text: String,
}

impl Record {
    /// Reads from the command line whether to measure and whether to record; `name` is part of the file name.
    pub(crate) fn from_command_line(name: &'static str) -> Self {
        let has_flag = |flag: &str| std::env::args().any(|argument| argument == flag);
        let measures = has_flag("--bench");
        let is_kept = measures && has_flag("--record");
        let text = machine_facts();
        print!("{text}");
        Self { name, measures, is_kept, text }
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: &str) {
        println!("{line}");
        writeln!(self.text, "{line}").expect("writing to a string succeeds");
    }

    /// Writes the file, if requested.
    pub(crate) fn finish(self) {
        if self.is_kept {
            let file = format!("{}-{}-{}.txt", date(), file_name(&cpu_model()), self.name);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(file);
            std::fs::write(&path, self.text).expect("the directory of the results is writable");
        }
    }
}

/// The facts about the machine that the figures depend on.
fn machine_facts() -> String {
    format!(
        "date {}, CPU {}, Linux {}, {}, commit {}, masking kernel {}\n",
        date(),
        cpu_model(),
        output_of("uname", &["-r"]),
        output_of("rustc", &["--version"]),
        output_of("git", &["describe", "--always", "--dirty", "--exclude=*"]),
        ringfeed::simd::kernel_name(),
    )
}

fn date() -> String {
    output_of("date", &["-u", "+%F"])
}

fn cpu_model() -> String {
    let cpu_info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| output_of("uname", &["-m"]), |(_, model)| model.to_owned())
}

/// The output of a command, or "unknown" if the command does not exist.
fn output_of(command: &str, arguments: &[&str]) -> String {
    match Command::new(command).args(arguments).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// `text` in lower-case letters, digits and dashes.
fn file_name(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}
