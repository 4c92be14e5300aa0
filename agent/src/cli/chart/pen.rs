//! Colours, texts and symbols of a chart as pieces of SVG.
#![expect(clippy::cast_precision_loss, reason = "counts of characters are small")]

use std::fmt::Write as _;

use super::{MarkKind, SERIES_MAX};

/// Okabe and Ito's palette (2008), told apart with every common colour blindness, without its yellow, which vanishes on
/// white: light and dark form.
pub(super) const PALETTE: [(&str, &str); SERIES_MAX] = [
    ("#0072b2", "#56a9e0"),
    ("#d55e00", "#f08a3c"),
    ("#009e73", "#2cc79b"),
    ("#cc79a7", "#e39cc4"),
    ("#e69f00", "#f2b84b"),
    ("#56b4e9", "#9ad4f5"),
    ("#555555", "#bbbbbb"),
];

/// Colour roles: class, attribute it styles, light, dark.
pub(super) const ROLES: [(&str, &str, &str, &str); 7] = [
    ("paper", "fill", "#ffffff", "#14171a"),
    ("ink", "fill", "#1a1d21", "#f0f2f4"),
    ("soft", "fill", "#5b636c", "#a7b0ba"),
    ("grid", "stroke", "#e3e6ea", "#2c3238"),
    ("axis", "stroke", "#8a929b", "#6d7680"),
    ("band", "fill", "#eef1f5", "#20262c"),
    ("halo", "stroke", "#ffffff", "#14171a"),
];

pub(super) const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

impl MarkKind {
    /// The mark around (0, 0): path and whether it is filled or only drawn.
    pub(super) fn shape(self) -> (&'static str, bool) {
        match self {
            Self::Drift => ("M0,-5V5", false),
            Self::Rejected => ("M-3.6,0A3.6,3.6 0 1 0 3.6,0A3.6,3.6 0 1 0 -3.6,0ZM-3.6,0H3.6", false),
            Self::Retrain => ("M-3.6,0A3.6,3.6 0 1 0 3.6,0A3.6,3.6 0 1 0 -3.6,0Z", false),
            Self::Promoted => ("M0,-5.4L5.2,4.2H-5.2Z", true),
            Self::RolledBack => ("M-4.2,-4.2L4.2,4.2M4.2,-4.2L-4.2,4.2", false),
        }
    }
}

/// Writing to a string does not fail.
pub(super) fn put(out: &mut String, piece: std::fmt::Arguments<'_>) {
    out.write_fmt(piece).expect("a string takes any text");
}

/// Class and light colour of a role.
pub(super) fn role(name: &str) -> String {
    let (class, attribute, light, _) = ROLES.into_iter().find(|role| role.0 == name).unwrap_or(ROLES[1]);
    format!("class=\"{class}\" {attribute}=\"{light}\"")
}

pub(super) fn text(out: &mut String, class: &str, (x, y): (f64, f64), attributes: &str, content: &str) {
    if !content.is_empty() {
        put(
            out,
            format_args!("<text {} x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>\n", role(class), escaped(content)),
        );
    }
}

pub(super) fn symbol(out: &mut String, kind: MarkKind, colour: usize, (x, y): (f64, f64), said: &str) {
    let (path, filled) = kind.shape();
    let light = PALETTE[colour].0;
    let at = format!("transform=\"translate({x:.1},{y:.1})\" d=\"{path}\"");
    if filled {
        // A rim of paper keeps neighbours apart.
        put(out, format_args!("<path class=\"f{colour} halo\" fill=\"{light}\" stroke=\"#ffffff\" {at}>"));
    } else {
        put(out, format_args!("<path class=\"s{colour}\" stroke=\"{light}\" stroke-width=\"1.8\" fill=\"none\" {at}>"));
    }
    put(out, format_args!("<title>{}</title></path>\n", escaped(said)));
}

/// Width of `content` at `size`, on the wide side of common fonts.
pub(super) fn text_width(content: &str, size: f64) -> f64 {
    content.chars().count() as f64 * size * 0.58
}

/// Text for SVG and HTML; characters XML cannot carry become the replacement character.
pub(super) fn escaped(content: &str) -> String {
    let mut safe = String::with_capacity(content.len());
    for character in content.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}
