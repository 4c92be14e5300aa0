//! What a model reads and what it answers: named features, a task, and rows of plain numbers.
use serde::{Deserialize, Serialize};

/// One input of a model, as the bundle names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Unique within the schema; the key in samples and the column in files.
    pub name: String,
    /// Unit of the raw value, for people; values are never converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Number or category.
    #[serde(flatten)]
    pub kind: FeatureKind,
    /// Lowest and highest raw value that is physically possible; outside it a sample is counted as out of range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f32; 2]>,
}

/// How a raw value is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureKind {
    /// A real number; `NaN` stands for a missing value.
    Number,
    /// One of a fixed list of texts, carried as its index. `values.len()` stands for a text unseen in training, `NaN`
    /// for a missing value.
    Category {
        /// The texts seen in training, sorted.
        values: Vec<String>,
    },
}

/// What is predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// One of several classes; answers are one probability per class.
    Classification {
        /// Class labels, sorted; a truth is the index into this list.
        classes: Vec<String>,
    },
    /// One or several real targets; answers are in the targets' own units.
    Regression {
        /// Target names.
        targets: Vec<String>,
    },
}

/// Everything a caller must know to talk to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// Inputs in the order of a row.
    pub features: Vec<Feature>,
    /// Task with its classes or targets.
    #[serde(flatten)]
    pub task: Task,
}

impl Schema {
    /// Numbers in one answer: classes, or targets.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match &self.task {
            Task::Classification { classes } => classes.len(),
            Task::Regression { targets } => targets.len(),
        }
    }

    /// Numbers in one truth: 1 (the class index), or targets.
    #[must_use]
    pub fn truths(&self) -> usize {
        match &self.task {
            Task::Classification { .. } => 1,
            Task::Regression { targets } => targets.len(),
        }
    }

    /// Width of a row after encoding: numbers are one column, a category of `k` values is `k` (one-hot).
    #[must_use]
    pub fn encoded(&self) -> usize {
        self.features.iter().map(|feature| feature.kind.encoded()).sum()
    }
}

impl FeatureKind {
    /// Columns this feature takes after encoding.
    #[must_use]
    pub fn encoded(&self) -> usize {
        match self {
            Self::Number => 1,
            Self::Category { values } => values.len(),
        }
    }
}

/// Labelled rows in time order: raw features and truths, row-major.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Columns of `x`.
    pub features: usize,
    /// Columns of `y`.
    pub truths: usize,
    /// `[rows, features]`, raw units, `NaN` = missing.
    pub x: Vec<f32>,
    /// `[rows, truths]`: class index or target values, always finite.
    pub y: Vec<f32>,
}

impl Rows {
    /// No rows of the given widths (both at least 1).
    #[must_use]
    pub fn empty(features: usize, truths: usize) -> Self {
        Self { features, truths, x: Vec::new(), y: Vec::new() }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.y.len() / self.truths.max(1)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.y.is_empty()
    }

    /// Appends one row; the slices have the widths of this set.
    pub fn push(&mut self, x: &[f32], y: &[f32]) {
        debug_assert!(x.len() == self.features && y.len() == self.truths, "row of another width");
        self.x.extend_from_slice(x);
        self.y.extend_from_slice(y);
    }

    /// Raw features of row `index`.
    #[must_use]
    pub fn x(&self, index: usize) -> &[f32] {
        &self.x[index * self.features..(index + 1) * self.features]
    }

    /// Truth of row `index`.
    #[must_use]
    pub fn y(&self, index: usize) -> &[f32] {
        &self.y[index * self.truths..(index + 1) * self.truths]
    }

    /// A copy of the rows `range`.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            features: self.features,
            truths: self.truths,
            x: self.x[range.start * self.features..range.end * self.features].to_vec(),
            y: self.y[range.start * self.truths..range.end * self.truths].to_vec(),
        }
    }
}
