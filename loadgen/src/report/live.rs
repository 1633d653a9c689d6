//! The figures so far, while a run lasts: for Prometheus at `/metrics`, and for expectations that can no longer be met.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::host::interrupt;
use crate::report::expect::Expectation;
use crate::report::latency::Summary;
use crate::report::timeline::{Timeline, Totals};

/// Interval of the checks of expectations.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longest request in bytes, and longest time for it.
const REQUEST_BYTES_MAX: usize = 4096;
const REQUEST_WITHIN: Duration = Duration::from_secs(1);

/// The thread that ends a run which can't meet an expectation any more.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts the thread.
    pub(crate) fn start(timeline: Arc<Timeline>, expectations: Vec<Expectation>) -> Watch {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let totals = timeline.totals();
                if expectations.iter().any(|one| one.is_lost(&totals.faults, &totals.latencies)) {
                    return interrupt::end_run();
                }
            }
        });
        Watch { stop, thread }
    }

    /// Ends the thread.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // It can't panic.
        let _ = self.thread.join();
    }
}

/// Serves the figures at `address` until the program ends. Prints the URL to standard error.
///
/// # Errors
/// If it can't listen there.
pub(crate) fn serve(address: SocketAddr, timeline: Arc<Timeline>, scenario: &'static str) -> Result<(), Error> {
    let fail = |error| Error::new(format!("can't serve metrics at {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    eprintln!("loadgen: metrics at http://{address}/metrics");
    std::thread::spawn(move || {
        // One client at a time: a scraper asks every few seconds.
        for stream in listener.incoming().map_while(Result::ok) {
            // A scraper that has gone needs no answer.
            let _ = answer(stream, &timeline, scenario);
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream, timeline: &Timeline, scenario: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_WITHIN))?;
    stream.set_write_timeout(Some(REQUEST_WITHIN))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 512]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            len @ 1.. if request.len() + len <= REQUEST_BYTES_MAX => request.extend_from_slice(&buffer[..len]),
            _ => return Ok(()),
        }
    }
    let (status, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", exposition(&timeline.totals(), scenario)),
        false => ("404 Not Found", "the figures are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// The figures in Prometheus' text format.
fn exposition(totals: &Totals, scenario: &str) -> String {
    let Totals { count, faults, latencies, connections, client_cpu_ns, is_measuring } = totals;
    let mut text = format!(
        "# HELP loadgen_info The running scenario.\n# TYPE loadgen_info gauge\nloadgen_info{{scenario=\"{scenario}\",version=\"{}\"}} 1\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut single = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    single("loadgen_measuring", "gauge", "1 after the warm-up.", f64::from(u8::from(*is_measuring)));
    single("loadgen_messages_total", "counter", "Messages received, with those of the warm-up.", *count as f64);
    single("loadgen_connections", "gauge", "Open connections.", *connections as f64);
    single("loadgen_cpu_seconds_total", "counter", "CPU time of the workers.", *client_cpu_ns as f64 / 1e9);
    text.push_str("# HELP loadgen_faults_total Faults by kind.\n# TYPE loadgen_faults_total counter\n");
    for (kind, count) in faults.named() {
        let _ = writeln!(text, "loadgen_faults_total{{kind=\"{kind}\"}} {count}");
    }
    text.push_str("# HELP loadgen_latency_seconds Latency in the measured part so far.\n");
    text.push_str("# TYPE loadgen_latency_seconds summary\n");
    let summary = latencies.summary_if_any();
    if let Some(Summary { p50_us, p90_us, p99_us, p999_us, max_us, .. }) = &summary {
        for (quantile, us) in [("0.5", p50_us), ("0.9", p90_us), ("0.99", p99_us), ("0.999", p999_us), ("1", max_us)] {
            let _ = writeln!(text, "loadgen_latency_seconds{{quantile=\"{quantile}\"}} {}", us / 1e6);
        }
    }
    let (count, mean_us) = summary.map_or((0, 0.0), |summary| (summary.count, summary.mean_us));
    let _ = writeln!(text, "loadgen_latency_seconds_sum {}", mean_us * count as f64 / 1e6);
    let _ = writeln!(text, "loadgen_latency_seconds_count {count}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::faults::Counts;
    use crate::report::latency::Latencies;

    #[test]
    fn every_metric_has_a_type_and_lines_of_name_and_value() {
        let mut latencies = Latencies::coarse();
        (0..10).for_each(|_| latencies.record(2_000_000));
        let faults = Counts { missing: 3, ..Counts::default() };
        let totals =
            Totals { count: 12, faults, latencies, connections: 5, client_cpu_ns: 1_500_000_000, is_measuring: true };
        let text = exposition(&totals, "fanout");
        for line in [
            "loadgen_messages_total 12",
            "loadgen_connections 5",
            "loadgen_cpu_seconds_total 1.5",
            "loadgen_faults_total{kind=\"missing\"} 3",
            "loadgen_faults_total{kind=\"late\"} 0",
            "loadgen_latency_seconds_count 10",
            "# TYPE loadgen_latency_seconds summary",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let family = name.split('{').next().unwrap().trim_end_matches("_sum").trim_end_matches("_count");
            assert!(text.contains(&format!("# TYPE {family} ")), "{line}");
        }
    }

    #[test]
    fn a_request_is_bounded_and_other_paths_are_unknown() {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1), false));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ask = |request: &[u8]| {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.write_all(request).unwrap();
            let answered = answer(listener.accept().unwrap().0, &timeline, "echo");
            let mut text = String::new();
            let _ = client.read_to_string(&mut text);
            (answered.is_ok(), text)
        };
        assert!(ask(b"GET /metrics HTTP/1.1\r\n\r\n").1.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(ask(b"GET / HTTP/1.1\r\n\r\n").1.starts_with("HTTP/1.1 404 "));
        assert_eq!(ask(&[b'x'; REQUEST_BYTES_MAX + 1]), (true, String::new()));
        assert_eq!(ask(b"GET").1, "", "the rest never comes");
    }
}
