//! Files without a label: a CSV file, or one number per line, as named columns of numbers or texts.
use std::io::{self, Read as _};
use std::path::Path;

use trainer_core::schema::FeatureKind;

use super::kinds::{kind, missing};
use super::table::{Table, shown};
use super::{CsvError, FILE_BYTES_MAX, bytes_of};

/// Name of the only column of a file with one number per line.
pub const LINES_COLUMN: &str = "value";

/// A file as columns; every row is as wide as the header.
pub struct Columns {
    table: Table,
}

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Cells {
    /// Numbers in double precision: `NaN` = missing, infinities as they stand.
    Numbers(Vec<f64>),
    /// Texts; `None` = missing.
    Texts(Vec<Option<String>>),
}

impl Columns {
    /// Reads the file at `path`; `-` is standard input.
    ///
    /// # Errors
    ///
    /// Those of [`Columns::parse`], and that it cannot be read or is larger than [`FILE_BYTES_MAX`].
    pub fn read(path: &Path) -> Result<Self, CsvError> {
        if path.as_os_str() != "-" {
            let (file, bytes) = bytes_of(path)?;
            return Self::parse(&file, &bytes);
        }
        let file = "standard input".to_owned();
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        match read {
            Err(source) => Err(CsvError::Unreadable { file, source }),
            Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => Err(CsvError::TooLarge { file, bytes: bytes.len() as u64 }),
            Ok(_) => Self::parse(&file, &bytes),
        }
    }

    /// Reads `bytes`; `name` is used in errors.
    ///
    /// A file whose first line is a number (or a word for a missing one) without a comma holds one number per line in a column
    /// named [`LINES_COLUMN`]; any other file is a CSV file with a header line.
    ///
    /// # Errors
    ///
    /// [`CsvError`], which names file, line and column and the next step.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, CsvError> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let first = lines.find(|line| !line.is_empty()).and_then(|line| std::str::from_utf8(line).ok());
        let is_value = |text: &str| text.parse::<f64>().is_ok() || missing(text);
        let table = match first {
            Some(first) if is_value(first) => Table::of_lines(name, LINES_COLUMN, bytes)?,
            _ => Table::read(name, bytes)?,
        };
        Ok(Self { table })
    }

    /// Names of the columns, in the order of the file.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.table.names().map(|(_, name)| name).collect()
    }

    /// Rows of the file.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.table.len()
    }

    /// 1-based line of the file at which a row starts.
    #[must_use]
    pub fn line(&self, row: usize) -> u64 {
        self.table.line(row)
    }

    /// The column `name` as what its values say it is: numbers, or texts with at most [`CATEGORIES_MAX`](super::CATEGORIES_MAX) distinct values.
    ///
    /// # Errors
    ///
    /// There is no such column, a text among numbers, too many distinct texts.
    pub fn column(&self, name: &str) -> Result<Cells, CsvError> {
        let column = self.table.column(name, "--column")?;
        match kind(&self.table, column) {
            // Nothing was measured: a number that is always missing.
            Err(CsvError::NothingInColumn { .. }) => Ok(Cells::Numbers(vec![f64::NAN; self.table.len()])),
            Err(error) => Err(error),
            Ok(FeatureKind::Number) => self.numbers(name).map(Cells::Numbers),
            Ok(FeatureKind::Category { .. }) => self.texts(name, "--column").map(Cells::Texts),
        }
    }

    /// The column `name` as numbers, whatever it looks like.
    ///
    /// # Errors
    ///
    /// There is no such column, or a value is not a number.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, CsvError> {
        self.numbers_of(name, "--column")
    }

    /// The same; `role` is the option that names the column.
    ///
    /// # Errors
    ///
    /// As [`Columns::numbers`].
    pub fn numbers_of(&self, name: &str, role: &'static str) -> Result<Vec<f64>, CsvError> {
        let column = self.table.column(name, role)?;
        let number = |row: usize| {
            let text = self.table.cell(row, column);
            if missing(text) {
                return Ok(f64::NAN);
            }
            text.parse().map_err(|_| {
                let (file, column) = self.table.place(column);
                CsvError::TextInNumberColumn { file, line: self.table.line(row), column, value: shown(text) }
            })
        };
        (0..self.table.len()).map(number).collect()
    }

    /// The column `name` as texts; `role` is the option that names it.
    ///
    /// # Errors
    ///
    /// There is no such column.
    pub fn texts(&self, name: &str, role: &'static str) -> Result<Vec<Option<String>>, CsvError> {
        let column = self.table.column(name, role)?;
        let text = |row: usize| Some(self.table.cell(row, column)).filter(|text| !missing(text)).map(str::to_owned);
        Ok((0..self.table.len()).map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_column(text: &str, name: &str) -> String {
        let columns = Columns::parse("press.csv", text.as_bytes()).expect("the file is good");
        columns.column(name).map_or_else(|error| error.to_string(), |cells| format!("{cells:?}"))
    }

    #[test]
    fn numbers_keep_their_double_precision_their_infinities_and_their_gaps() {
        assert_eq!(shown_column("a,b\n0.123456789012,x\nNA,y\n-inf,\n", "a"), "Numbers([0.123456789012, NaN, -inf])");
        assert_eq!(shown_column("a,b\n1,x\n2,y\n3,\n", "b"), r#"Texts([Some("x"), Some("y"), None])"#);
        assert_eq!(shown_column("a,b\n1,\n2,NA\n", "b"), "Numbers([NaN, NaN])");
    }

    #[test]
    fn one_number_per_line_needs_no_header_and_a_blank_line_keeps_its_place() {
        assert_eq!(shown_column("\u{feff}1\r\n\r\nnan\r\n2e3\r\n", LINES_COLUMN), "Numbers([1.0, NaN, NaN, 2000.0])");
        assert_eq!(
            shown_column(&("1\n".repeat(40) + "two\n"), LINES_COLUMN),
            "press.csv:41: `two` in column `value` is text among numbers; correct it, leave it empty if it is missing, \
             or use --ignore value"
        );
    }

    #[test]
    fn a_column_that_is_not_there_is_answered_with_those_that_are() {
        let said = shown_column("temp,load\n1,2\n", "tmep");
        assert!(said.contains("did you mean `temp`?") && said.contains("temp, load"), "{said}");
    }
}
