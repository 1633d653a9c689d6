//! A number that changes over time in straight lines: publications a second, or a share of the connections.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The number from time 0 on. After the last line it stays as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Curve {
    lines: Vec<Line>,
    /// The end of the last line: value, seconds, and the area below the lines.
    rest: f64,
    rest_from_s: f64,
    rest_area: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    from: f64,
    to: f64,
    start_s: f64,
    seconds: f64,
    /// The area below the lines before this one.
    before: f64,
}

impl Curve {
    /// Always `value`.
    pub(crate) fn flat(value: f64) -> Curve {
        Curve { lines: Vec::new(), rest: value, rest_from_s: 0.0, rest_area: 0.0 }
    }

    /// Reaches each value at the end of its stage, in a straight line. The first has its value from the beginning.
    ///
    /// # Panics
    /// Without stages.
    pub(crate) fn through(stages: &[(Duration, f64)]) -> Curve {
        let (mut from, mut start_s, mut before) = (stages[0].1, 0.0, 0.0);
        let mut line = |(duration, to): &(Duration, f64)| {
            let line = Line { from, to: *to, start_s, seconds: duration.as_secs_f64(), before };
            (from, start_s, before) = (*to, start_s + line.seconds, before + line.area());
            line
        };
        let lines = stages.iter().map(&mut line).collect();
        Curve { lines, rest: from, rest_from_s: start_s, rest_area: before }
    }

    /// The value at the beginning.
    pub(crate) fn first(&self) -> f64 {
        self.lines.first().map_or(self.rest, |line| line.from)
    }

    /// The smallest and the largest value.
    pub(crate) fn range(&self) -> [f64; 2] {
        let ends = self.lines.iter().flat_map(|line| [line.from, line.to]).chain([self.rest]);
        ends.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], end| [low.min(end), high.max(end)])
    }

    /// The value after so many seconds.
    pub(crate) fn value_at(&self, seconds: f64) -> f64 {
        let line = self.lines.iter().find(|line| seconds < line.start_s + line.seconds);
        line.map_or(self.rest, |line| line.from + (line.to - line.from) * (seconds - line.start_s) / line.seconds)
    }

    /// The time in seconds at which the area below the curve exceeds `area`: when publication number `area` is due, if
    /// the curve is a rate. `None` if it never does.
    pub(crate) fn reaches(&self, area: f64) -> Option<f64> {
        if let Some(line) = self.lines.iter().find(|line| line.before + line.area() > area) {
            return Some(line.start_s + line.reaches(area - line.before));
        }
        (self.rest > 0.0).then(|| self.rest_from_s + (area - self.rest_area) / self.rest)
    }
}

impl Line {
    fn area(&self) -> f64 {
        f64::midpoint(self.from, self.to) * self.seconds
    }

    /// Seconds from the beginning of the line until the area below it is `area`.
    fn reaches(&self, area: f64) -> f64 {
        if area <= 0.0 {
            return 0.0;
        }
        let slope = (self.to - self.from) / self.seconds;
        // The quadratic formula in a form that works without a slope, too.
        2.0 * area / (self.from + (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(stages: &[(u64, f64)]) -> Curve {
        let stages: Vec<_> = stages.iter().map(|(seconds, value)| (Duration::from_secs(*seconds), *value)).collect();
        Curve::through(&stages)
    }

    #[test]
    fn values_change_in_straight_lines_and_stay_at_the_last() {
        let curve = stages(&[(10, 20.0), (5, 30.0), (5, 0.0)]);
        let values = [0.0, 9.9, 10.0, 12.5, 15.0, 17.5, 20.0, 99.0].map(|seconds| curve.value_at(seconds));
        assert_eq!(values, [20.0, 20.0, 20.0, 25.0, 30.0, 15.0, 0.0, 0.0]);
        assert_eq!((curve.first(), curve.range()), (20.0, [0.0, 30.0]));
        assert_eq!(Curve::flat(7.0).value_at(3.0), 7.0);
    }

    #[test]
    fn the_area_below_a_rate_counts_publications() {
        // 200 in the first stage, 125 in the second, 75 in the third, and then no more.
        let curve = stages(&[(10, 20.0), (5, 30.0), (5, 0.0)]);
        let near = |area: f64, seconds: f64| {
            let found = curve.reaches(area).unwrap();
            assert!((found - seconds).abs() < 1e-9, "{area}: {found} instead of {seconds}");
        };
        near(0.0, 0.0);
        near(1.0, 0.05);
        near(200.0, 10.0);
        near(325.0, 15.0);
        near(200.0 + 2.5 * 22.5, 12.5);
        near(325.0 + 75.0 * 0.75, 17.5);
        assert_eq!(curve.reaches(400.0), None);
        let late = stages(&[(10, 0.0), (10, 0.0), (10, 10.0)]);
        assert_eq!(late.reaches(0.0), Some(20.0), "nothing is due at a rate of zero");
        assert_eq!(Curve::flat(0.0).reaches(0.0), None);
        assert_eq!(Curve::flat(4.0).reaches(3.0), Some(0.75));
    }
}
