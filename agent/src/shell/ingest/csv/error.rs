//! What can be wrong with a labelled CSV file; every message names the place and the next step.
use std::io;

use thiserror::Error;

use super::{CATEGORIES_MAX, CLASSES_MAX, FILE_BYTES_MAX};

/// Why a file could not be read. Lines are 1-based and count the header line; columns go by their header. The message of each
/// variant says what its fields are.
#[derive(Debug, Error)]
pub enum CsvError {
    #[error("{file}: no such file; check the path")]
    NoSuchFile { file: String },
    #[error("{file}: cannot be read; check its permissions and that it is a file")]
    Unreadable { file: String, source: io::Error },
    #[error("{file}: {bytes} bytes are more than the limit of {FILE_BYTES_MAX}; split it or leave columns out")]
    TooLarge { file: String, bytes: u64 },
    #[error("{file}: the file is empty; a header line and rows are expected")]
    Empty { file: String },
    #[error("{file}: line 1 is the header and no row follows; add rows")]
    HeaderOnly { file: String },
    #[error(
        "{file}: no row is left to use: {unlabelled} without a label, {dropped_incomplete} dropped as incomplete; \
         check --label, or leave --drop-incomplete away"
    )]
    NothingLeft { file: String, unlabelled: usize, dropped_incomplete: usize },
    #[error("{file}:{line}: column {column} is not UTF-8 text; convert the file, for example with `iconv -t UTF-8`")]
    InvalidUtf8 { file: String, line: u64, column: String },
    #[error("{file}:1: columns seem to be separated by {separator}; write the file with commas")]
    OtherSeparator { file: String, separator: &'static str },
    #[error("{file}:1: column {position} has values but no name; name it, and leave it out with --ignore if need be")]
    UnnamedColumn { file: String, position: usize },
    #[error("{file}:1: columns {first} and {second} are both named `{column}`; rename one")]
    DuplicateColumn { file: String, column: String, first: usize, second: usize },
    #[error("{file}:1: there is no column `{column}` for {role}{nearest}; the columns are {columns}")]
    MissingColumn { file: String, role: &'static str, column: String, nearest: String, columns: String },
    #[error("{file}:1: column `{column}` cannot be both {first} and {second}; name it once")]
    ColumnUsedTwice { file: String, column: String, first: &'static str, second: &'static str },
    #[error("{file}:{line}: the row has {found} values and the header {expected}; mend or remove this line")]
    Ragged { file: String, line: u64, expected: usize, found: usize },
    #[error(
        "{file}:{line}: `{value}` in column `{column}` is text among numbers; correct it, leave it empty if it is \
         missing, or use --ignore {column}"
    )]
    TextInNumberColumn { file: String, line: u64, column: String, value: String },
    #[error(
        "{file}:{line}: `{value}` in column `{column}` is not a finite single-precision number; correct it or leave \
         it empty"
    )]
    NotFinite { file: String, line: u64, column: String, value: String },
    #[error(
        "{file}:{line}: column `{column}` is text (here `{value}`) with more than {CATEGORIES_MAX} distinct values; \
         use --ignore {column}, or --time or --segment if that is what it is"
    )]
    TooManyCategories { file: String, line: u64, column: String, value: String },
    #[error("{file}: column `{column}` is empty in every row used; use --ignore {column}")]
    NothingInColumn { file: String, column: String },
    #[error("{file}:1: no feature column is left; check --features and --ignore")]
    NoFeatures { file: String },
    #[error(
        "{file}:{line}: column `{column}` has more than {CLASSES_MAX} classes; use --task regression, or check --label"
    )]
    TooManyClasses { file: String, line: u64, column: String },
    #[error("{file}: column `{column}` holds only the class `{class}`; add rows of another class, or check --label")]
    OneClass { file: String, column: String, class: String },
    #[error(
        "{file}: column `{column}` holds {given} different values; an anomaly model tells two apart, normal and not: call all \
         anomalies the same, or use --task classification"
    )]
    NotTwo { file: String, column: String, given: usize },
    #[error(
        "{file}:{line}: the model does not know the class `{value}` in column `{column}`; its classes are {classes}; \
         correct it, or train a new base model with `hone train`"
    )]
    UnknownClass { file: String, line: u64, column: String, value: String, classes: String },
    #[error("{file}:1: classification has one label and {given} were given; name one, or use --task regression")]
    SeveralClassLabels { file: String, given: usize },
    #[error(
        "{file}:1: the model has {expected} targets ({targets}) and --label names {given}; name one column for each"
    )]
    TargetCount { file: String, expected: usize, targets: String, given: usize },
    #[error("{file}: the model is for {model}; leave --task away or use another model")]
    TaskDiffers { file: String, model: &'static str },
    #[error("{file}: the features of a model are fixed, so {option} cannot name `{column}`; leave {option} away")]
    FeaturesFixed { file: String, option: &'static str, column: String },
}
