//! What a drift test says when it speaks: what moved, how strongly, since when, and the numbers to draw it.
use serde::{Deserialize, Serialize};

use super::Watcher;
use crate::decide::drift::Direction;
use crate::decide::time::Timestamp;

/// One statement of one test about one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which test speaks.
    pub watcher: Watcher,
    /// What it watches.
    pub measure: Measure,
    /// Whether it may start a retrain or is only worth knowing.
    pub grade: Grade,
    /// The test's statistic, in its own units.
    pub statistic: f64,
    /// What the statistic was compared with.
    pub threshold: f64,
    /// Chance of such a statistic without drift, adjusted for the number of measures looked at, where the test has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Where the measure went.
    pub direction: Direction,
    /// Estimated first row of the new law.
    pub since: Since,
    /// Event time of that row, as far back as it is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_at: Option<Timestamp>,
    /// The numbers to draw it.
    #[serde(default, skip_serializing_if = "Picture::is_empty")]
    pub picture: Picture,
}

/// What a test watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", content = "name", rename_all = "snake_case")]
pub enum Measure {
    /// One input, by its name.
    Feature(String),
    /// All inputs together: the share of them that moved, or their joint law.
    Features,
    /// How often an input is missing.
    Missing(String),
    /// How often an input lies outside its valid range, or is a category unseen in training.
    OutOfRange(String),
    /// The confidence of the answers, or their value for regression.
    Score,
    /// Which class is answered.
    PredictedClass,
    /// The embedding of the backbone.
    Embedding,
    /// The loss of the answers on labelled rows: 0/1 error, or the scaled absolute error.
    Loss,
    /// Rows of this class that were answered wrongly.
    Recall(String),
    /// Rows answered as this class that were none of it.
    Precision(String),
    /// The loss on the rows of this segment.
    Segment(String),
    /// Accuracy as the answers' confidence estimates it, without labels.
    EstimatedAccuracy,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Worth knowing: significant without being large, or a test without a promised run length.
    Notice,
    /// Within the promised false-alarm rate: may start a retrain.
    Alarm,
}

/// The estimated first row of the new law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// Counted in labels.
    Label(u64),
    /// Counted in samples.
    Sample(u64),
}

/// Numbers to draw a finding, bounded in size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "draw", rename_all = "snake_case")]
pub enum Picture {
    /// Nothing to draw.
    #[default]
    None,
    /// Shares per bin, then and now.
    Histogram {
        /// Interior edges (one less than bins); empty for categories.
        edges: Vec<f64>,
        /// Shares of the baseline.
        reference: Vec<f64>,
        /// Shares of the window.
        current: Vec<f64>,
    },
    /// A line over the last rows, oldest first.
    Trace {
        /// Rows from one point to the next.
        every_rows: u64,
        /// Means over those rows.
        values: Vec<f32>,
    },
    /// The measures that moved most, strongest first, with their statistic.
    Ranking {
        /// Name and statistic.
        strongest: Vec<(String, f64)>,
    },
}

impl Picture {
    /// Whether there is nothing to draw.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}
