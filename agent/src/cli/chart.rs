//! Draws accuracy (or error) over time for each policy, with what happened to it, as one SVG or one HTML page.
//!
//! ```text
//! title, subtitle
//! ┌ plot ──────────────────────┐  direct labels at the line ends, moved apart
//! │ lines, bands, change lines │
//! └────────────────────────────┘
//!   lanes: one per series that has marks, on the same x axis
//! x axis, legend of the marks in use
//! ```
//!
//! Light colours are plain attributes, so that slides and viewers without style sheets show them; the dark ones are a
//! style sheet on top. Same input, same bytes.
#![expect(clippy::cast_precision_loss, reason = "counts of series, ticks and characters are small")]

mod layout;
mod pen;

use self::layout::{LANE, Layout, PLOT_HEIGHT, PLOT_LEFT, PLOT_TOP, WIDTH, decimal, fitting};
use self::pen::{FONT, PALETTE, ROLES, escaped, put, role, symbol, text, text_width};

/// What to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// First line, large.
    pub title: String,
    /// Second line: data, rows, settings.
    pub subtitle: String,
    /// What the x axis counts, with its unit.
    pub x_label: String,
    /// What the y axis shows, with its unit.
    pub y_label: String,
    /// Lowest and highest y; `None` = as the points need.
    pub y_range: Option<(f64, f64)>,
    /// One line each, at most [`SERIES_MAX`] in distinct colours.
    pub series: Vec<Series>,
    /// What happened to the series.
    pub events: Vec<Mark>,
    /// Known changes of the world: dashed lines across the plot.
    pub changes: Vec<Change>,
    /// Shaded stretches of x, such as the training rows.
    pub bands: Vec<Band>,
}

/// Series with a colour of their own; further ones start over.
pub const SERIES_MAX: usize = 7;

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Direct label at the end of the line.
    pub name: String,
    /// Figure behind the name, such as the overall accuracy; empty = none.
    pub figure: String,
    /// x ascending; a point that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
}

/// One event of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Index into the series.
    pub series: usize,
    /// Where.
    pub x: f64,
    /// What.
    pub kind: MarkKind,
}

/// What happened; rarer kinds are drawn above more frequent ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkKind {
    /// A drift alarm.
    Drift,
    /// A retrain whose candidate was not promoted.
    Rejected,
    /// A retrain.
    Retrain,
    /// A candidate became champion.
    Promoted,
    /// A champion was taken back.
    RolledBack,
}

/// A known change of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub x: f64,
    /// A word or two; empty = none.
    pub label: String,
}

/// A shaded stretch.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// First x.
    pub from: f64,
    /// Last x.
    pub to: f64,
    /// A word or two; empty = none.
    pub label: String,
}

impl MarkKind {
    const ALL: [Self; 5] = [Self::Drift, Self::Rejected, Self::Retrain, Self::Promoted, Self::RolledBack];

    fn name(self) -> &'static str {
        match self {
            Self::Drift => "drift alarm",
            Self::Rejected => "candidate rejected",
            Self::Retrain => "retrain",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
        }
    }
}

impl Chart {
    /// The drawing as one SVG document, 900 wide and 420 high with up to three lanes of marks.
    #[must_use]
    pub fn svg(&self) -> String {
        let layout = Layout::of(self);
        let mut out = String::new();
        self.head(&layout, &mut out);
        self.grid(&layout, &mut out);
        self.lines(&layout, &mut out);
        self.lanes(&layout, &mut out);
        self.legend(&layout, &mut out);
        out.push_str("</svg>\n");
        out
    }

    /// The drawing in a page of its own, with nothing to load from elsewhere.
    #[must_use]
    pub fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n\
             <style>body{{margin:0;padding:24px;background:#fff}}svg{{display:block;width:100%;max-width:1200px;\
             height:auto;margin:auto}}@media(prefers-color-scheme:dark){{body{{background:#14171a}}}}</style>\n\
             </head>\n<body>\n{}</body>\n</html>\n",
            escaped(&self.title),
            self.svg()
        )
    }

    fn head(&self, layout: &Layout, out: &mut String) {
        let height = layout.height;
        put(
            out,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"{FONT}\" role=\"img\" aria-labelledby=\"title subtitle\">\n<title id=\"title\">{}</title>\n\
             <desc id=\"subtitle\">{}</desc>\n<style>@media(prefers-color-scheme:dark){{",
                escaped(&self.title),
                escaped(&self.subtitle)
            ),
        );
        for (class, attribute, _, dark) in ROLES {
            put(out, format_args!(".{class}{{{attribute}:{dark}}}"));
        }
        for (index, (_, dark)) in PALETTE.iter().enumerate() {
            put(out, format_args!(".s{index}{{stroke:{dark}}}.f{index}{{fill:{dark}}}"));
        }
        put(out, format_args!("}}</style>\n<rect {} width=\"{WIDTH}\" height=\"{height}\"/>\n", role("paper")));
        let title = format!("font-size=\"{}\" font-weight=\"600\"", fitting(&self.title, 19.0));
        text(out, "ink", (24.0, 33.0), &title, &self.title);
        let subtitle = format!("font-size=\"{}\"", fitting(&self.subtitle, 13.0));
        text(out, "soft", (24.0, 54.0), &subtitle, &self.subtitle);
        text(out, "soft", (24.0, PLOT_TOP - 23.0), "font-size=\"12\"", &self.y_label);
    }

    fn grid(&self, layout: &Layout, out: &mut String) {
        let (left, right, bottom) = (PLOT_LEFT, layout.right, PLOT_TOP + PLOT_HEIGHT);
        for band in &self.bands {
            let (from, to) = (layout.x(band.from), layout.x(band.to));
            let width = (to - from).max(0.0);
            put(
                out,
                format_args!(
                    "<rect {} x=\"{from:.1}\" y=\"{PLOT_TOP}\" width=\"{width:.1}\" height=\"{PLOT_HEIGHT}\"/>\n",
                    role("band")
                ),
            );
            if width > text_width(&band.label, 11.0) {
                let middle = (from + width / 2.0, PLOT_TOP + 14.0);
                text(out, "soft", middle, "font-size=\"11\" text-anchor=\"middle\"", &band.label);
            }
        }
        for &tick in &layout.y_ticks {
            let y = layout.y(tick);
            put(out, format_args!("<path {} d=\"M{left},{y:.1}H{right:.1}\"/>\n", role("grid")));
            let label = decimal(tick, layout.y_ticks.step);
            text(out, "soft", (left - 8.0, y + 4.0), "font-size=\"12\" text-anchor=\"end\"", &label);
        }
        let axis = layout.axis;
        put(out, format_args!("<path {} d=\"M{left},{axis:.1}H{right:.1}\"/>\n", role("axis")));
        for &tick in &layout.x_ticks {
            let x = layout.x(tick);
            put(out, format_args!("<path {} d=\"M{x:.1},{axis:.1}v5\"/>\n", role("axis")));
            let label = decimal(tick, layout.x_ticks.step);
            text(out, "soft", (x, axis + 18.0), "font-size=\"12\" text-anchor=\"middle\"", &label);
        }
        text(out, "soft", (right + 28.0, axis + 18.0), "font-size=\"12\"", &self.x_label);
        let mut free_from = f64::NEG_INFINITY;
        for change in &self.changes {
            let x = layout.x(change.x);
            put(
                out,
                format_args!(
                    "<path {} stroke-dasharray=\"4 4\" d=\"M{x:.1},{PLOT_TOP}V{:.1}\"/>\n",
                    role("axis"),
                    axis.max(bottom)
                ),
            );
            let half = text_width(&change.label, 11.0) / 2.0;
            let middle = x.clamp(left + half, right - half);
            // Where labels would overlap, the first one speaks for its neighbours.
            if middle - half > free_from {
                text(out, "soft", (middle, PLOT_TOP - 6.0), "font-size=\"11\" text-anchor=\"middle\"", &change.label);
                free_from = middle + half + 6.0;
            }
        }
    }

    fn lines(&self, layout: &Layout, out: &mut String) {
        for (index, series) in self.series.iter().enumerate() {
            let path = layout.path(&series.points);
            if !path.is_empty() {
                let colour = index % SERIES_MAX;
                put(
                    out,
                    format_args!(
                        "<path class=\"s{colour}\" stroke=\"{}\" fill=\"none\" stroke-width=\"2.2\" stroke-linejoin=\"round\" \
                     stroke-linecap=\"round\" d=\"{path}\"><title>{}</title></path>\n",
                        PALETTE[colour].0,
                        escaped(&series.name)
                    ),
                );
            }
        }
        for label in &layout.labels {
            let (series, colour) = (&self.series[label.series], label.series % SERIES_MAX);
            let light = PALETTE[colour].0;
            let (from, to) = (label.end.0 + 4.0, layout.right + 14.0);
            put(
                out,
                format_args!(
                    "<path class=\"s{colour}\" stroke=\"{light}\" fill=\"none\" opacity=\"0.55\" d=\"M{from:.1},{:.1}L{to:.1},{:.1}\"/>\n\
                 <circle class=\"f{colour}\" fill=\"{light}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4.5\"/>\n",
                    label.end.1,
                    label.y,
                    to + 4.0,
                    label.y
                ),
            );
            let at = (to + 14.0, label.y + 4.5);
            // One text with two spans, so that the figure follows the name in any font.
            let ((at_x, at_y), figure) = (at, escaped(&series.figure));
            put(
                out,
                format_args!(
                    "<text {} x=\"{at_x:.1}\" y=\"{at_y:.1}\" font-size=\"13\" font-weight=\"600\">{}\
                     <tspan {} dx=\"7\" font-weight=\"400\">{figure}</tspan></text>\n",
                    role("ink"),
                    escaped(&series.name),
                    role("soft"),
                ),
            );
        }
    }

    fn lanes(&self, layout: &Layout, out: &mut String) {
        for (lane, &series) in layout.lanes.iter().enumerate() {
            let y = PLOT_TOP + PLOT_HEIGHT + LANE * (lane as f64 + 0.9);
            let colour = series % SERIES_MAX;
            let light = PALETTE[colour].0;
            put(out, format_args!("<path {} d=\"M{PLOT_LEFT},{y:.1}H{:.1}\"/>\n", role("grid"), layout.right));
            put(
                out,
                format_args!(
                    "<circle class=\"f{colour}\" fill=\"{light}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n",
                    layout.right + 18.0
                ),
            );
            text(out, "soft", (layout.right + 28.0, y + 4.0), "font-size=\"11\"", &self.series[series].name);
            let mut marks: Vec<&Mark> =
                self.events.iter().filter(|mark| mark.series == series && mark.x.is_finite()).collect();
            marks.sort_by(|a, b| a.kind.cmp(&b.kind).then(a.x.total_cmp(&b.x)));
            for mark in marks {
                let said = format!("{}: {} at {}", self.series[series].name, mark.kind.name(), decimal(mark.x, 1.0));
                symbol(out, mark.kind, colour, (layout.x(mark.x), y), &said);
            }
        }
    }

    fn legend(&self, layout: &Layout, out: &mut String) {
        let mut x = PLOT_LEFT + 6.0;
        let y = layout.axis + 36.0;
        for kind in MarkKind::ALL {
            if self.events.iter().any(|mark| mark.kind == kind && layout.lanes.contains(&mark.series)) {
                symbol(out, kind, SERIES_MAX - 1, (x, y - 4.0), kind.name());
                text(out, "soft", (x + 10.0, y), "font-size=\"12\"", kind.name());
                x += 10.0 + text_width(kind.name(), 12.0) + 22.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::layout::{LABEL_GAP, Ticks};
    use super::*;

    fn line(name: &str, figure: &str, value: impl Fn(f64) -> f64) -> Series {
        let points = (15..=64).map(|step| f64::from(step) * 100.0).map(|x| (x, value(x))).collect();
        Series { name: name.to_owned(), figure: figure.to_owned(), points }
    }

    fn sample() -> Chart {
        let wave = |x: f64, size: f64| (x / 170.0).sin() * size;
        let recovering = |x: f64, rows: f64| {
            if x < 3_200.0 { 0.96 } else { 0.96 - 0.36 * (-(x - 3_200.0) / rows).exp() }
        };
        Chart {
            title: "Accuracy after new tooling: the value policy recovers in 200 rows".to_owned(),
            subtitle: "simulated press line, 6,400 rows, labels 20 rows late; accuracy over the last 200 rows"
                .to_owned(),
            x_label: "rows".to_owned(),
            y_label: "accuracy".to_owned(),
            y_range: None,
            series: vec![
                line("static", "0.783", |x| if x < 3_200.0 { 0.95 + wave(x, 0.01) } else { 0.61 + wave(x, 0.02) }),
                line("fixed:445", "0.912", |x| recovering(x, 700.0) + wave(x, 0.012) - 0.01),
                line("value", "0.951", |x| recovering(x, 160.0) + wave(x, 0.006)),
                line("continual", "0.954", |x| recovering(x, 130.0) + wave(x, 0.005) + 0.003),
            ],
            events: (1..12)
                .map(|k| Mark { series: 1, x: 1_500.0 + 445.0 * f64::from(k), kind: MarkKind::Retrain })
                .chain([
                    Mark { series: 1, x: 3_730.0, kind: MarkKind::Promoted },
                    Mark { series: 2, x: 2_430.0, kind: MarkKind::Drift },
                    Mark { series: 2, x: 2_520.0, kind: MarkKind::Rejected },
                    Mark { series: 2, x: 3_240.0, kind: MarkKind::Drift },
                    Mark { series: 2, x: 3_330.0, kind: MarkKind::Retrain },
                    Mark { series: 2, x: 3_400.0, kind: MarkKind::Promoted },
                    Mark { series: 2, x: 4_900.0, kind: MarkKind::Promoted },
                    Mark { series: 2, x: 5_000.0, kind: MarkKind::RolledBack },
                    Mark { series: 3, x: 3_260.0, kind: MarkKind::Drift },
                ])
                .collect(),
            changes: vec![
                Change { x: 2_400.0, label: "maintenance".to_owned() },
                Change { x: 3_200.0, label: "new tooling".to_owned() },
            ],
            bands: vec![Band { from: 0.0, to: 1_500.0, label: "base model trained here".to_owned() }],
        }
    }

    #[test]
    fn the_same_chart_is_the_same_bytes_and_a_page_holds_it_whole() {
        let svg = sample().svg();
        assert_eq!(svg, sample().svg());
        assert!(sample().html().contains(&svg));
        assert!(!sample().html().replace("http://www.w3.org/2000/svg", "").contains("http"), "nothing is loaded");
        assert!(svg.contains("height=\"420\""), "three lanes fit the usual height");
    }

    #[test]
    fn labels_never_overlap_and_stay_beside_the_plot() {
        for count in 1..=13 {
            let series = (0..count).map(|index| line(&format!("policy {index}"), "0.9", |_| 0.9)).collect();
            let layout = Layout::of(&Chart { series, ..Chart::default() });
            let heights: Vec<f64> = layout.labels.iter().map(|label| label.y).collect();
            assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= LABEL_GAP - 1e-6), "{heights:?}");
            assert!(heights.iter().all(|y| (PLOT_TOP..=PLOT_TOP + PLOT_HEIGHT).contains(y)), "{heights:?}");
        }
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        let shown = |range, wanted| {
            let ticks = Ticks::of(range, wanted);
            ticks.at.iter().map(|tick| decimal(*tick, ticks.step)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown((0.0, 1.0), 5.0), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(shown((0.0, 45_312.0), 8.0), "0 10,000 20,000 30,000 40,000");
        assert_eq!(shown((-0.03, 0.04), 5.0), "−0.02 0.00 0.02 0.04");
        assert_eq!(shown((12.0, 12.0), 5.0), "12");
        assert_eq!(shown((0.95, 0.97), 5.0), "0.950 0.955 0.960 0.965 0.970");
    }

    #[test]
    fn text_is_escaped_wherever_it_stands() {
        let mut chart = sample();
        chart.title = "<script>alert(1)</script> & \"more\"\u{0}".to_owned();
        chart.series[0].name = "</title><b>".to_owned();
        chart.changes[0].label = "<i>".to_owned();
        let html = chart.html();
        for harmful in ["<script>", "<b>", "<i>", "\u{0}"] {
            assert!(!html.contains(harmful), "{harmful}");
        }
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;\u{fffd}"));
    }

    #[test]
    fn empty_and_broken_input_still_draws() {
        let nothing = Chart::default().svg();
        assert!(nothing.ends_with("</svg>\n") && !nothing.contains("NaN"));
        let mut chart = sample();
        chart.series[0].points = vec![(0.0, f64::NAN), (1.0, 0.5), (2.0, f64::INFINITY), (3.0, 0.5)];
        chart.series[1].points.clear();
        chart.events.push(Mark { series: 99, x: 1.0, kind: MarkKind::Drift });
        chart.events.push(Mark { series: 0, x: f64::NAN, kind: MarkKind::Drift });
        let svg = chart.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "no number without a place");
    }

    #[test]
    fn a_long_stream_is_drawn_small_and_keeps_its_extremes() {
        let points = (0..45_000).map(|row| (f64::from(row), if row == 20_000 { 0.1 } else { 0.9 })).collect();
        let chart = Chart { series: vec![Series { points, ..Series::default() }], ..Chart::default() };
        let svg = chart.svg();
        assert!(svg.len() < 60_000, "{} bytes", svg.len());
        let layout = Layout::of(&chart);
        assert!(svg.contains(&format!(",{:.1}L", layout.y(0.1))), "the dip at row 20,000 is drawn");
    }
}
