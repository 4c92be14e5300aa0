//! What a column of texts holds: classes, numbers or categories.
#![expect(clippy::cast_precision_loss, reason = "indices of classes and categories are small and exact in f32")]

use std::collections::{BTreeMap, BTreeSet};

use trainer_core::schema::{FeatureKind, Task};

use super::table::{Table, shown};
use super::{CATEGORIES_MAX, CLASSES_MAX, CsvError, WHOLE_CLASSES_MAX};

/// From this share of numbers on, a text in a column is a mistake in the file and not a category, in percent.
const NUMBERS_MIN_PERCENT: usize = 95;
/// What rows are called that nobody has called anything.
const NORMAL: &str = "normal";
/// What anomalies are called before there is one.
const ANOMALY: &str = "anomaly";

/// Whether a label column is text or few distinct whole values; refuses text among many numbers.
pub(super) fn looks_like_classes(table: &Table, column: usize) -> Result<bool, CsvError> {
    let census = Census::of(table, column);
    if census.numbers < census.present {
        // Text among mostly numbers is a typing error if the numbers are measurements, and a class if they are codes.
        let codes = census.distinct.len() <= WHOLE_CLASSES_MAX;
        return if codes || !census.mostly_numbers() { Ok(true) } else { Err(census.not_a_number(table, column)) };
    }
    let whole = |text: &&str| text.parse::<f64>().is_ok_and(|value| value.fract() == 0.0);
    Ok(census.distinct.len() <= WHOLE_CLASSES_MAX && census.distinct.iter().all(whole))
}

/// The classes of a label column: each keeps the text it first appears with; sorted as numbers if all are numbers.
pub(super) fn classes(table: &Table, column: usize) -> Result<Task, CsvError> {
    let mut found: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for row in 0..table.len() {
        let text = table.cell(row, column);
        if !seen.insert(text) || class_index(&found, text).is_some() {
            continue;
        }
        if found.len() == CLASSES_MAX {
            let (file, column) = table.place(column);
            return Err(CsvError::TooManyClasses { file, line: table.line(row), column });
        }
        found.push(text.to_owned());
    }
    let number = |text: &str| text.parse::<f64>().ok().filter(|value| value.is_finite());
    if found.iter().all(|text| number(text).is_some()) {
        found.sort_by(|a, b| number(a).unwrap_or_default().total_cmp(&number(b).unwrap_or_default()));
    } else {
        found.sort();
    }
    match found.as_slice() {
        [class] => {
            let (file, column) = table.place(column);
            Err(CsvError::OneClass { file, column, class: shown(class) })
        }
        _ => Ok(Task::Classification { classes: found }),
    }
}

/// The two classes of a column of anomalies: its most frequent value, or that of rows without one, is normal.
pub(super) fn normal_and_not(table: &Table, column: usize) -> Result<Task, CsvError> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in 0..table.len() {
        let text = table.cell(row, column);
        *counts.entry(if missing(text) { "" } else { text }).or_default() += 1;
    }
    let empty = counts.remove("").unwrap_or(0);
    let most = counts.iter().max_by_key(|(_, count)| **count).map(|(text, count)| ((*text).to_owned(), *count));
    let classes = match (counts.len(), most) {
        (2, Some((normal, _))) => {
            let other = counts.keys().find(|text| **text != normal).map_or_else(String::new, |text| (*text).to_owned());
            vec![normal, other]
        }
        // Only anomalies are told, or there are none yet.
        (1, Some((told, count))) if count < empty => vec![NORMAL.to_owned(), told],
        (1, Some((normal, _))) => vec![normal, ANOMALY.to_owned()],
        (0, _) => vec![NORMAL.to_owned(), ANOMALY.to_owned()],
        (given, _) => {
            let (file, column) = table.place(column);
            return Err(CsvError::NotTwo { file, column, given });
        }
    };
    Ok(Task::Classification { classes })
}

/// The index of `text` among `classes`: by its text, else by its value, so that `1` finds the class `1.0`.
#[must_use]
pub fn class_index(classes: &[String], text: &str) -> Option<usize> {
    classes.iter().position(|class| class == text).or_else(|| {
        let value = text.parse::<f64>().ok()?;
        classes.iter().position(|class| class.parse() == Ok(value))
    })
}

pub(super) fn class_indices(table: &Table, column: usize, classes: &[String]) -> Result<Vec<f32>, CsvError> {
    let index = |row: usize| {
        let text = table.cell(row, column);
        if missing(text) {
            // Rows of that kind were left out, unless what is not told is normal.
            return Ok(0.0);
        }
        class_index(classes, text).map(|index| index as f32).ok_or_else(|| {
            let (file, column) = table.place(column);
            let classes = classes.join(", ");
            CsvError::UnknownClass { file, line: table.line(row), column, value: shown(text), classes }
        })
    };
    (0..table.len()).map(index).collect()
}

/// Number or category, as the values present say.
pub(super) fn kind(table: &Table, column: usize) -> Result<FeatureKind, CsvError> {
    let census = Census::of(table, column);
    if census.present == 0 {
        let (file, column) = table.place(column);
        return Err(CsvError::NothingInColumn { file, column });
    }
    if census.numbers == census.present {
        return Ok(FeatureKind::Number);
    }
    if census.mostly_numbers() {
        return Err(census.not_a_number(table, column));
    }
    if census.distinct.len() > CATEGORIES_MAX {
        let (file, column) = table.place(column);
        let (row, value) = census.first_text.unwrap_or_default();
        return Err(CsvError::TooManyCategories { file, line: table.line(row), column, value: shown(value) });
    }
    Ok(FeatureKind::Category { values: census.distinct.into_iter().map(str::to_owned).collect() })
}

/// One column as numbers: `NaN` = missing, a category as its index, a text unseen in training as the index past the last.
pub(super) fn values(table: &Table, column: usize, kind: &FeatureKind) -> Result<Vec<f32>, CsvError> {
    let value = |row: usize| {
        let text = table.cell(row, column);
        if missing(text) {
            return Ok(f32::NAN);
        }
        let place = || (table.place(column), table.line(row), shown(text));
        match kind {
            FeatureKind::Category { values } => {
                Ok(values.iter().position(|known| known == text).unwrap_or(values.len()) as f32)
            }
            FeatureKind::Number => match text.parse::<f32>() {
                Ok(value) if value.is_finite() => Ok(value),
                Ok(_) => {
                    let ((file, column), line, value) = place();
                    Err(CsvError::NotFinite { file, line, column, value })
                }
                Err(_) => {
                    let ((file, column), line, value) = place();
                    Err(CsvError::TextInNumberColumn { file, line, column, value })
                }
            },
        }
    };
    (0..table.len()).map(value).collect()
}

/// What stands in a column.
struct Census<'a> {
    /// Values that are not missing.
    present: usize,
    /// Of these, numbers; an infinite one counts, and is refused when it is read.
    numbers: usize,
    /// Distinct texts, counted no further than one past the larger limit.
    distinct: BTreeSet<&'a str>,
    /// Row and text of the first value that is no number.
    first_text: Option<(usize, &'a str)>,
}

impl<'a> Census<'a> {
    fn of(table: &'a Table, column: usize) -> Self {
        let mut census = Self { present: 0, numbers: 0, distinct: BTreeSet::new(), first_text: None };
        for row in 0..table.len() {
            let text = table.cell(row, column);
            if missing(text) {
                continue;
            }
            census.present += 1;
            if text.parse::<f32>().is_ok() {
                census.numbers += 1;
            } else if census.first_text.is_none() {
                census.first_text = Some((row, text));
            }
            if census.distinct.len() <= CATEGORIES_MAX {
                census.distinct.insert(text);
            }
        }
        census
    }

    fn mostly_numbers(&self) -> bool {
        self.numbers * 100 >= self.present * NUMBERS_MIN_PERCENT
    }

    fn not_a_number(&self, table: &Table, column: usize) -> CsvError {
        let (row, value) = self.first_text.unwrap_or_default();
        let (file, column) = table.place(column);
        CsvError::TextInNumberColumn { file, line: table.line(row), column, value: shown(value) }
    }
}

/// Whether a cell stands for "not measured".
pub(super) fn missing(text: &str) -> bool {
    text.is_empty() || ["NA", "NaN", "null"].iter().any(|word| text.eq_ignore_ascii_case(word))
}
