//! A label as it was sent, and as the model that answered understands it.
use serde_json::Value;
use trainer_core::schema::{Schema, Task};

use super::super::csv::class_index;
use super::{SampleError, shown};

/// A truth before it is checked against the model that answered.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelValue {
    /// A class.
    Text(String),
    /// A class written as a number, or a single target.
    Number(f64),
    /// One number per target.
    Numbers(Vec<f64>),
}

impl LabelValue {
    /// The truth in the form of `schema`: the class index, or one value per target.
    ///
    /// # Errors
    ///
    /// [`SampleError`] if the class is unknown, or the numbers are not one finite value per target.
    pub fn truth(&self, schema: &Schema) -> Result<Vec<f32>, SampleError> {
        let field = || "label".to_owned();
        match (&schema.task, self) {
            (Task::Classification { classes }, Self::Text(_) | Self::Number(_)) => {
                let text = match self {
                    Self::Text(text) => text.clone(),
                    other => other.shown(),
                };
                #[expect(clippy::cast_precision_loss, reason = "class indices are small")]
                class_index(classes, &text).map(|index| vec![index as f32]).ok_or_else(|| SampleError::UnknownClass {
                    field: field(),
                    value: self.shown(),
                    classes: classes.join(", "),
                })
            }
            (Task::Classification { .. }, Self::Numbers(_)) => Err(SampleError::WrongType {
                field: field(),
                expected: "a class".to_owned(),
                found: "an array".to_owned(),
            }),
            (Task::Regression { .. }, Self::Text(_)) => {
                Err(SampleError::WrongType { field: field(), expected: "a number".to_owned(), found: self.shown() })
            }
            (Task::Regression { targets }, Self::Number(value)) => targets_of(targets, &[*value]),
            (Task::Regression { targets }, Self::Numbers(values)) => targets_of(targets, values),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => shown(&Value::from(text.as_str())),
            Self::Number(value) => value.to_string(),
            Self::Numbers(values) => format!("{values:?}"),
        }
    }
}

fn targets_of(targets: &[String], values: &[f64]) -> Result<Vec<f32>, SampleError> {
    let field = || "label".to_owned();
    if values.len() != targets.len() {
        return Err(SampleError::WrongLength { field: field(), expected: targets.len(), found: values.len() });
    }
    #[expect(clippy::cast_possible_truncation, reason = "models learn single precision; overflow is refused")]
    let single = |value: &f64| match *value as f32 {
        single if single.is_finite() => Ok(single),
        _ => Err(SampleError::NotFinite { field: field(), value: value.to_string() }),
    };
    values.iter().map(single).collect()
}
