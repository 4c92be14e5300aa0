//! Where everything of a chart goes, in drawing units, and round numbers for its axes.
#![expect(clippy::cast_precision_loss, reason = "counts of series and characters are small")]

use super::pen::{put, text_width};
use super::{Chart, Series};

pub(super) const WIDTH: f64 = 900.0;
pub(super) const PLOT_TOP: f64 = 98.0;
pub(super) const PLOT_LEFT: f64 = 64.0;
pub(super) const PLOT_HEIGHT: f64 = 218.0;
pub(super) const LANE: f64 = 16.0;
pub(super) const LABEL_GAP: f64 = 17.0;

/// Where everything goes, in drawing units.
pub(super) struct Layout {
    pub(super) height: f64,
    /// Right edge of the plot.
    pub(super) right: f64,
    /// y of the x axis, below the lanes.
    pub(super) axis: f64,
    pub(super) x_range: (f64, f64),
    pub(super) y_range: (f64, f64),
    pub(super) x_ticks: Ticks,
    pub(super) y_ticks: Ticks,
    /// Series with marks, from the top.
    pub(super) lanes: Vec<usize>,
    pub(super) labels: Vec<EndLabel>,
}

/// A label beside the end of its line.
pub(super) struct EndLabel {
    pub(super) series: usize,
    /// Last point of the line.
    pub(super) end: (f64, f64),
    /// Height of the label after moving labels apart.
    pub(super) y: f64,
}

impl Layout {
    pub(super) fn of(chart: &Chart) -> Self {
        let points = || chart.series.iter().flat_map(|series| &series.points).filter(|point| finite(**point));
        let all_x = points()
            .map(|point| point.0)
            .chain(chart.bands.iter().flat_map(|band| [band.from, band.to]))
            .filter(|x| x.is_finite());
        let x_range = extent(all_x).unwrap_or((0.0, 1.0));
        let y_extent = chart.y_range.or_else(|| extent(points().map(|point| point.1))).unwrap_or((0.0, 1.0));
        let y_ticks = Ticks::of(y_extent, 6.0);
        // Without a given range the axis runs from tick to tick.
        let y_range = chart.y_range.unwrap_or_else(|| {
            let step = y_ticks.step;
            ((y_extent.0 / step).floor() * step, (y_extent.1 / step).ceil() * step)
        });
        let lanes: Vec<usize> =
            (0..chart.series.len()).filter(|series| chart.events.iter().any(|mark| mark.series == *series)).collect();
        let label = |series: &Series| text_width(&series.name, 13.0) * 1.08 + text_width(&series.figure, 13.0);
        let widest = chart.series.iter().map(label).fold(60.0, f64::max);
        let axis = PLOT_TOP + PLOT_HEIGHT + if lanes.is_empty() { 0.0 } else { LANE * (lanes.len() as f64 + 0.4) };
        let mut layout = Self {
            height: (axis + 48.0).max(420.0).round(),
            right: (WIDTH - widest - 50.0).max(WIDTH / 2.0),
            axis,
            x_range: if x_range.0 < x_range.1 { x_range } else { (x_range.0 - 0.5, x_range.0 + 0.5) },
            y_range: if y_range.0 < y_range.1 { y_range } else { (y_range.0 - 0.5, y_range.0 + 0.5) },
            x_ticks: Ticks::of(x_range, 8.0),
            y_ticks: Ticks::of(y_range, 6.0),
            lanes,
            labels: Vec::new(),
        };
        layout.labels = layout.end_labels(chart);
        layout
    }

    pub(super) fn x(&self, x: f64) -> f64 {
        let (low, high) = self.x_range;
        PLOT_LEFT + ((x - low) / (high - low)).clamp(0.0, 1.0) * (self.right - PLOT_LEFT)
    }

    pub(super) fn y(&self, y: f64) -> f64 {
        let (low, high) = self.y_range;
        PLOT_TOP + PLOT_HEIGHT * (1.0 - ((y - low) / (high - low)).clamp(0.0, 1.0))
    }

    /// Labels at the heights of their line ends, moved apart as little as possible and kept beside the plot.
    fn end_labels(&self, chart: &Chart) -> Vec<EndLabel> {
        let mut labels: Vec<EndLabel> = chart
            .series
            .iter()
            .enumerate()
            .filter_map(|(series, line)| {
                let last = line.points.iter().rev().find(|point| finite(**point))?;
                let end = (self.x(last.0), self.y(last.1));
                Some(EndLabel { series, end, y: end.1 })
            })
            .collect();
        labels.sort_by(|a, b| a.end.1.total_cmp(&b.end.1).then(a.series.cmp(&b.series)));
        let mut floor = PLOT_TOP;
        for label in &mut labels {
            label.y = label.y.max(floor);
            floor = label.y + LABEL_GAP;
        }
        let mut ceiling = PLOT_TOP + PLOT_HEIGHT;
        for label in labels.iter_mut().rev() {
            label.y = label.y.min(ceiling);
            ceiling = label.y - LABEL_GAP;
        }
        labels
    }

    /// The line as a path; of many points in one column of pixels only lowest and highest are kept.
    pub(super) fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        let mut pen_down = false;
        let mut rest = points;
        while let Some(&first) = rest.first() {
            if !finite(first) {
                pen_down = false;
                rest = &rest[1..];
                continue;
            }
            let column = self.x(first.0).floor();
            let same = |point: &&(f64, f64)| finite(**point) && self.x(point.0).floor() <= column;
            let count = rest.iter().take_while(same).count().max(1);
            let (here, after) = rest.split_at(count);
            let low = here.iter().copied().fold(first, |low, point| if point.1 < low.1 { point } else { low });
            let high = here.iter().copied().fold(first, |high, point| if point.1 > high.1 { point } else { high });
            let mut kept = vec![first, low, high, here[count - 1]];
            kept.sort_by(|a, b| a.0.total_cmp(&b.0));
            kept.dedup();
            for (x, y) in kept {
                put(&mut path, format_args!("{}{:.1},{:.1}", if pen_down { "L" } else { "M" }, self.x(x), self.y(y)));
                pen_down = true;
            }
            rest = after;
        }
        path
    }
}

/// Round numbers inside a range.
pub(super) struct Ticks {
    pub(super) step: f64,
    pub(super) at: Vec<f64>,
}

impl Ticks {
    /// About `wanted` multiples of 1, 2 or 5 times a power of ten.
    pub(super) fn of((low, high): (f64, f64), wanted: f64) -> Self {
        let rough = (high - low) / wanted;
        if !(rough.is_finite() && rough > 0.0) {
            return Self { step: 1.0, at: vec![low] };
        }
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|nice| nice * power).find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(power * 10.0);
        let first = (low / step - 1e-9).ceil();
        let at = (0..100).map(|index| (first + f64::from(index)) * step).take_while(|tick| *tick <= high + step * 1e-9);
        Self { step, at: at.collect() }
    }
}

impl<'a> IntoIterator for &'a Ticks {
    type Item = &'a f64;
    type IntoIter = std::slice::Iter<'a, f64>;

    fn into_iter(self) -> Self::IntoIter {
        self.at.iter()
    }
}

pub(super) fn finite(point: (f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// Font size at which `content` fits the drawing's width, at most `size`.
pub(super) fn fitting(content: &str, size: f64) -> f64 {
    let width = text_width(content, size);
    if width > WIDTH - 48.0 { (size * (WIDTH - 48.0) / width * 10.0).floor() / 10.0 } else { size }
}

/// A number with the decimals its step needs, and thousands apart.
pub(super) fn decimal(value: f64, step: f64) -> String {
    let mut decimals = 0;
    while decimals < 9
        && (step * 10_f64.powi(decimals)).fract().min(1.0 - (step * 10_f64.powi(decimals)).fract()) > 1e-6
    {
        decimals += 1;
    }
    let digits = format!("{:.*}", usize::try_from(decimals).unwrap_or(0), value.abs());
    let (whole, fraction) = digits.split_once('.').map_or((digits.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let sign = if value < 0.0 && digits.chars().any(|digit| ('1'..='9').contains(&digit)) { "−" } else { "" };
    fraction.map_or_else(|| format!("{sign}{grouped}"), |fraction| format!("{sign}{grouped}.{fraction}"))
}
