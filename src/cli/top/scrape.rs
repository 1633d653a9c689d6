//! The numbers of one scrape of `/metrics`.

use std::collections::BTreeMap;

use crate::server::metrics::HistogramSnapshot;

/// A sample: a name, its labels as they are written, and the value.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

/// The samples of a scrape in Prometheus's text format.
#[derive(Debug, Default)]
pub(in crate::cli) struct Scrape(Vec<Sample>);

impl Scrape {
    /// Reads the text. Lines that are no samples are left out.
    pub(in crate::cli) fn parse(text: &str) -> Scrape {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) =
                series.strip_suffix('}').and_then(|series| series.split_once('{')).unwrap_or((series, ""));
            Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.parse().ok()? })
        };
        Scrape(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum of the samples called `name` that have `label`, as `state="open"`; all of them if it is empty.
    pub(in crate::cli) fn sum(&self, name: &str, label: &str) -> f64 {
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        of_name.filter(|sample| has(&sample.labels, label)).map(|sample| sample.value).sum()
    }

    /// The same by the value of a label.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.0.iter().filter(|sample| sample.name == name) {
            *sums.entry(value_of(&sample.labels, label).to_owned()).or_default() += sample.value;
        }
        sums
    }

    /// The histogram `name`, all labels together.
    pub(super) fn histogram(&self, name: &str) -> HistogramSnapshot {
        let buckets = self.0.iter().filter(|sample| sample.name.strip_suffix("_bucket") == Some(name));
        let buckets =
            buckets.filter_map(|sample| Some((value_of(&sample.labels, "le").parse().ok()?, sample.value as u64)));
        HistogramSnapshot::of_cumulative(buckets, self.sum(&format!("{name}_sum"), ""))
    }
}

fn has(labels: &str, label: &str) -> bool {
    label.is_empty() || labels.split(',').any(|other| other == label)
}

/// The value of a label. The labels of the server's metrics have no quotes and commas in their values, but for the
/// names of files, which nobody looks at here.
fn value_of<'l>(labels: &'l str, name: &str) -> &'l str {
    let values = labels.split(',').filter_map(|label| label.split_once('='));
    values.filter(|(other, _)| *other == name).map(|(_, value)| value.trim_matches('"')).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_by_their_labels() {
        let scrape = Scrape::parse(
            "# TYPE a gauge\na{shard=\"0\",state=\"open\"} 3\na{shard=\"1\",state=\"open\"} 4\na{shard=\"0\",state=\"closing\"} 1\n\
             b 2.5\nbroken\nab{shard=\"0\"} 100\n",
        );
        assert_eq!((scrape.sum("a", ""), scrape.sum("a", "state=\"open\""), scrape.sum("b", "")), (8.0, 7.0, 2.5));
        assert_eq!(
            scrape.by("a", "shard").into_iter().collect::<Vec<_>>(),
            [("0".to_owned(), 4.0), ("1".to_owned(), 4.0)]
        );
        assert_eq!(scrape.sum("nothing", ""), 0.0);
    }

    #[test]
    fn a_histogram_is_read_as_it_was_counted() {
        let text =
            "h_bucket{le=\"0.00005\"} 1\nh_bucket{le=\"0.0001\"} 3\nh_bucket{le=\"+Inf\"} 4\nh_sum 0.5\nh_count 4\n";
        let histogram = Scrape::parse(text).histogram("h");
        assert_eq!((histogram.count(), histogram.sum().as_millis()), (4, 500));
        assert_eq!(histogram.quantile(0.5).unwrap().as_micros(), 75);
    }
}
