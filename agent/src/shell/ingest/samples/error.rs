//! Why a sample or a label was refused: in words, with the field, and as a short code to count.
use serde::Serialize;
use thiserror::Error;

/// Every reason for which samples and labels are counted, for registering counters.
pub const CODES: [&str; 11] = [
    "missing_feature",
    "not_finite",
    "unknown_field",
    "wrong_length",
    "wrong_type",
    "wrong_shape",
    "out_of_range",
    "unseen_category",
    "too_many_rows",
    "unknown_class",
    "malformed",
];

/// Why a sample or a label was refused; the message of each variant says what its fields are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SampleError {
    #[error("`{field}` is missing; send it, or null if it was not measured")]
    MissingFeature { field: String },
    #[error("`{field}` is {value}, which is not a finite single-precision number; send null if it was not measured")]
    NotFinite { field: String, value: String },
    #[error("`{field}` is not a field here{hint}; remove it or correct its name")]
    UnknownField { field: String, hint: String },
    #[error("`{field}` has length {found} and {expected} is expected")]
    WrongLength { field: String, expected: usize, found: usize },
    #[error("`{field}` is {found} and {expected} is expected")]
    WrongType { field: String, expected: String, found: String },
    #[error("`{field}` has shape {found:?} and {expected} is expected")]
    WrongShape { field: String, expected: String, found: Vec<i64> },
    #[error("`{field}` has more than {limit} rows; send several batches")]
    TooManyRows { field: String, limit: usize },
    #[error("`{field}` is {value}, which is none of the classes {classes}")]
    UnknownClass { field: String, value: String, classes: String },
    #[error("{reason}")]
    Malformed { field: Option<String>, reason: String },
}

impl SampleError {
    /// Short machine-readable reason, one of [`CODES`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingFeature { .. } => "missing_feature",
            Self::NotFinite { .. } => "not_finite",
            Self::UnknownField { .. } => "unknown_field",
            Self::WrongLength { .. } => "wrong_length",
            Self::WrongType { .. } => "wrong_type",
            Self::WrongShape { .. } => "wrong_shape",
            Self::TooManyRows { .. } => "too_many_rows",
            Self::UnknownClass { .. } => "unknown_class",
            Self::Malformed { .. } => "malformed",
        }
    }

    /// The field at fault, if one is.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::MissingFeature { field }
            | Self::NotFinite { field, .. }
            | Self::UnknownField { field, .. }
            | Self::WrongLength { field, .. }
            | Self::WrongType { field, .. }
            | Self::WrongShape { field, .. }
            | Self::TooManyRows { field, .. }
            | Self::UnknownClass { field, .. } => Some(field),
            Self::Malformed { field, .. } => field.as_deref(),
        }
    }

    /// The refusal as it is answered; `line` is the 1-based line of a batch.
    #[must_use]
    pub fn refusal(&self, line: Option<usize>) -> Refusal {
        Refusal { error: self.to_string(), code: self.code(), field: self.field().map(str::to_owned), line }
    }
}

/// The answer to a refused request or line; `error` is what the Open Inference Protocol asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The reason in words.
    pub error: String,
    /// One of [`CODES`].
    pub code: &'static str,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// 1-based line of an NDJSON batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// A refused line of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {error}")]
pub struct LineError {
    /// 1-based.
    pub line: usize,
    /// What is wrong with it.
    pub error: SampleError,
}
