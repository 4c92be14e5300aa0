//! What a cell of a CSV file is to the model: a feature by its name, a number, a text, or missing.
use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What stands for a missing value, in any case.
const MISSING: [&str; 4] = ["", "na", "nan", "null"];

/// Whether each feature of the model is a number, by name.
#[derive(Clone, Debug)]
pub(super) struct Features(pub(super) BTreeMap<String, bool>);

pub(super) fn is_missing(cell: &str) -> bool {
    MISSING.iter().any(|word| cell.eq_ignore_ascii_case(word))
}

/// A truth: a number if it reads like one. A class that is written as a number is understood by the agent.
pub(super) fn guess(cell: &str) -> Value {
    cell.parse::<f64>().ok().filter(|number| number.is_finite()).map_or_else(|| json!(cell), |number| json!(number))
}

impl Features {
    /// Whether the model reads a column of this name, also through a window.
    pub(super) fn has(&self, name: &str) -> bool {
        let of_window = |known: &String| {
            known.strip_prefix(name).is_some_and(|rest| {
                (rest.starts_with('[') && rest.ends_with(']')) || [".mean", ".min", ".max", ".std"].contains(&rest)
            })
        };
        self.0.contains_key(name) || self.0.keys().any(of_window)
    }

    pub(super) fn value(&self, name: &str, cell: &str) -> Value {
        if is_missing(cell) {
            Value::Null
        } else if self.0.get(name).copied().unwrap_or(true) {
            guess(cell)
        } else {
            json!(cell)
        }
    }
}
