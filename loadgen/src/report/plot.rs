//! Line plots as SVG text, for a self-contained page.
//!
//! Colours and type come from the page's style sheet, by class, so that one drawing works in light and dark mode. An
//! [`Axis`] maps numbers to positions and formats them.

use std::fmt::Write;

/// Size of a plot; the page scales it.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;

/// Margins for the numbers at the axes.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;

/// Most points drawn per line.
const POINTS_MAX: usize = 300;

/// Approximate number of marks at an axis.
const MARKS: f64 = 6.0;

/// One dimension of a plot.
pub(crate) struct Axis {
    /// The smallest and the largest value, after scaling.
    ends: [f64; 2],
    scale: Scale,
    /// Formats a number.
    write: fn(f64) -> String,
}

/// Maps a number to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Linear, from zero.
    Linear,
    /// Each factor of ten takes the same space. Zero is drawn at the lower end.
    Logarithmic,
    /// Shares from 0 to 1, where each further nine takes the same space: 0, 0.9, 0.99.
    Nines,
}

/// One line. Its class, `a` to `e`, selects the colour.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) class: char,
    pub(crate) points: Vec<[f64; 2]>,
}

impl Axis {
    /// An axis that covers all of `numbers`.
    pub(crate) fn over(scale: Scale, write: fn(f64) -> String, numbers: impl Iterator<Item = f64>) -> Axis {
        let placed = numbers.map(|number| scale.place(number)).filter(|place| place.is_finite());
        let (low, high) =
            placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| (low.min(place), high.max(place)));
        let ends = match scale {
            _ if low > high => [0.0, 1.0],
            Scale::Linear => [0.0, if high > 0.0 { high * 1.05 } else { 1.0 }],
            Scale::Logarithmic => [low.floor(), high.ceil().max(low.floor() + 1.0)],
            Scale::Nines => [0.0, high.max(1.0)],
        };
        Axis { ends, scale, write }
    }

    /// An axis that ends exactly at `number`.
    pub(crate) fn up_to(number: f64, write: fn(f64) -> String) -> Axis {
        Axis { ends: [0.0, if number > 0.0 { number } else { 1.0 }], scale: Scale::Linear, write }
    }

    /// The position of `number` between the ends: 0 to 1.
    fn at(&self, number: f64) -> f64 {
        let [low, high] = self.ends;
        ((self.scale.place(number) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The numbers marked at the axis.
    fn marks(&self) -> Vec<f64> {
        let [low, high] = self.ends;
        match self.scale {
            Scale::Linear => {
                let step = round_step((high - low) / MARKS);
                (0..=((high - low) / step) as u32).map(|index| low + f64::from(index) * step).collect()
            }
            Scale::Logarithmic => (low as i32..=high as i32).map(|power| 10f64.powi(power)).collect(),
            Scale::Nines => (0..=high as i32).map(|nines| 1.0 - 10f64.powi(-nines)).collect(),
        }
    }
}

impl Scale {
    fn place(self, number: f64) -> f64 {
        match self {
            Scale::Linear => number,
            Scale::Logarithmic => number.log10(),
            Scale::Nines => -(1.0 - number).log10(),
        }
    }
}

/// The smallest of 1, 2 or 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|round| *round >= step).unwrap_or(10.0 * power)
}

/// Draws `lines`. The part up to `shaded_up_to` is shaded, since it was not measured.
pub(crate) fn svg(title: &str, x: &Axis, y: &Axis, lines: &[Line], shaded_up_to: f64) -> String {
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#);
    let shaded = x.at(shaded_up_to) * (WIDTH - LEFT - RIGHT);
    if shaded_up_to > 0.0 {
        let height = HEIGHT - TOP - BOTTOM;
        let _ = write!(svg, r#"<rect class="shade" x="{LEFT}" y="{TOP}" width="{shaded:.1}" height="{height}"/>"#);
    }
    for mark in y.marks() {
        let at = row(y, mark);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" y1="{at:.1}" x2="{}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        let (left, below) = (LEFT - 8.0, at + 4.0);
        let _ = write!(svg, r#"<text x="{left}" y="{below:.1}" text-anchor="end">{}</text>"#, (y.write)(mark));
    }
    for mark in x.marks() {
        let (at, below) = (column(x, mark), HEIGHT - 9.0);
        let _ = write!(svg, r#"<text x="{at:.1}" y="{below}" text-anchor="middle">{}</text>"#, (x.write)(mark));
    }
    lines.iter().for_each(|line| draw(&mut svg, x, y, line));
    svg + "</svg>"
}

fn draw(svg: &mut String, x: &Axis, y: &Axis, line: &Line) {
    let Line { name, class, points } = line;
    let shown = points.iter().step_by(points.len().div_ceil(POINTS_MAX).max(1));
    let places: Vec<_> = shown.map(|[across, up]| (column(x, *across), row(y, *up), *across, *up)).collect();
    let path: Vec<String> = places.iter().map(|(left, top, ..)| format!("{left:.1},{top:.1}")).collect();
    let _ = write!(svg, r#"<polyline class="{class}" points="{}"/>"#, path.join(" "));
    for (left, top, across, up) in places {
        let words = format!("{name}: {} at {}", (y.write)(up), (x.write)(across));
        let _ = write!(
            svg,
            r#"<circle class="{class}" cx="{left:.1}" cy="{top:.1}" r="5"><title>{words}</title></circle>"#
        );
    }
}

fn column(x: &Axis, number: f64) -> f64 {
    LEFT + x.at(number) * (WIDTH - LEFT - RIGHT)
}

fn row(y: &Axis, number: f64) -> f64 {
    HEIGHT - BOTTOM - y.at(number) * (HEIGHT - TOP - BOTTOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(number: f64) -> String {
        number.to_string()
    }

    #[test]
    fn an_axis_covers_exactly_the_numbers() {
        let axis = |scale, numbers: &[f64]| Axis::over(scale, plain, numbers.iter().copied());
        assert_eq!(axis(Scale::Linear, &[3.0, 100.0]).ends, [0.0, 105.0]);
        assert_eq!(axis(Scale::Logarithmic, &[0.0, 30.0, 2000.0]).ends, [1.0, 4.0]);
        assert_eq!(axis(Scale::Logarithmic, &[10.0]).ends, [1.0, 2.0]);
        assert!((axis(Scale::Nines, &[0.0, 0.999, 1.0]).ends[1] - 3.0).abs() < 1e-9);
        assert_eq!(axis(Scale::Linear, &[]).ends, [0.0, 1.0]);
    }

    #[test]
    fn numbers_are_placed_between_the_ends() {
        let axis = Axis::over(Scale::Logarithmic, plain, [1.0, 10_000.0].into_iter());
        assert_eq!([0.0, 1.0, 100.0, 1e9].map(|number| axis.at(number)), [0.0, 0.0, 0.5, 1.0]);
        let nines = Axis::over(Scale::Nines, plain, [0.99].into_iter());
        assert!((nines.at(0.9) - 0.5).abs() < 1e-9 && nines.at(1.0) == 1.0);
    }

    #[test]
    fn the_marks_of_an_axis_are_round_numbers() {
        assert_eq!(Axis::up_to(23.0, plain).marks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        let axis = Axis::over(Scale::Logarithmic, plain, [20.0, 3000.0].into_iter());
        assert_eq!(axis.marks(), [10.0, 100.0, 1000.0, 10_000.0]);
        assert_eq!([0.3, 1.0, 1.1, 51.0].map(round_step), [0.5, 1.0, 2.0, 100.0]);
    }

    #[test]
    fn a_long_line_is_thinned_and_zero_has_no_logarithm() {
        let axis = Axis::up_to(1000.0, plain);
        let line = |count: u32| Line {
            name: "n".to_owned(),
            class: 'a',
            points: (0..count).map(|n| [n.into(), 1.0]).collect(),
        };
        let long = svg("long", &axis, &axis, &[line(1000)], 0.0);
        assert_eq!(long.matches("<circle").count(), 250);
        assert!(!svg("empty", &axis, &axis, &[line(0)], 10.0).contains("NaN"));
    }
}
