//! A CSV file as texts with their line numbers, and which column has which role.
use csv::{ByteRecord, ReaderBuilder, StringRecord, Trim};
use trainer_core::schema::{Schema, Task};

use super::{CsvError, CsvOptions};

/// Longest piece of a value repeated in an error, in characters.
const SHOWN_CHARACTERS_MAX: usize = 40;

/// Most column names listed in an error.
const COLUMNS_SHOWN_MAX: usize = 24;

/// A file as trimmed texts; every row is as wide as the header.
pub(super) struct Table {
    pub(super) file: String,
    header: StringRecord,
    rows: Vec<StringRecord>,
    lines: Vec<u64>,
}

impl Table {
    pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Self, CsvError> {
        // Some spreadsheets write a byte order mark, which would become part of the first name.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(bytes);
        let mut lines_of = LineCounter { bytes, at: 0, line: 1 };
        let mut table =
            Self { file: file.to_owned(), header: StringRecord::new(), rows: Vec::new(), lines: Vec::new() };
        let mut record = ByteRecord::new();
        let mut header_seen = false;
        while reader.read_byte_record(&mut record).map_err(|source| table.unreadable(source))? {
            let start = record.position().map_or(0, csv::Position::byte);
            let line = lines_of.line_at(usize::try_from(start).unwrap_or(usize::MAX));
            let texts = StringRecord::from_byte_record(std::mem::take(&mut record)).map_err(|broken| {
                let index = broken.utf8_error().field();
                let name = table.header.get(index).map_or_else(|| (index + 1).to_string(), |name| format!("`{name}`"));
                CsvError::InvalidUtf8 { file: file.to_owned(), line, column: name }
            })?;
            if !header_seen {
                table.header = texts;
                header_seen = true;
                continue;
            }
            let (expected, found) = (table.header.len(), texts.len());
            if found != expected {
                return Err(CsvError::Ragged { file: file.to_owned(), line, expected, found });
            }
            table.rows.push(texts);
            table.lines.push(line);
        }
        if !header_seen || table.header.iter().all(str::is_empty) {
            return Err(CsvError::Empty { file: file.to_owned() });
        }
        table.check_header()?;
        if table.rows.is_empty() { Err(CsvError::HeaderOnly { file: file.to_owned() }) } else { Ok(table) }
    }

    /// One value per line, without a header; `name` is the column's. A line without a value is a missing one.
    pub(super) fn of_lines(file: &str, name: &str, bytes: &[u8]) -> Result<Self, CsvError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let (mut rows, mut lines) = (Vec::new(), Vec::new());
        for (line, text) in (1..).zip(bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n')) {
            let column = || format!("`{name}`");
            let text = std::str::from_utf8(text).map_err(|_| CsvError::InvalidUtf8 {
                file: file.to_owned(),
                line,
                column: column(),
            })?;
            rows.push(StringRecord::from(vec![text.trim()]));
            lines.push(line);
        }
        Ok(Self { file: file.to_owned(), header: StringRecord::from(vec![name]), rows, lines })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Names of the columns that have one, with their places.
    pub(super) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.header.iter().enumerate().filter(|(_, name)| !name.is_empty())
    }

    pub(super) fn header(&self, column: usize) -> &str {
        &self.header[column]
    }

    pub(super) fn cell(&self, row: usize, column: usize) -> &str {
        &self.rows[row][column]
    }

    pub(super) fn line(&self, row: usize) -> u64 {
        self.lines[row]
    }

    pub(super) fn into_lines(self) -> Vec<u64> {
        self.lines
    }

    /// File and column name, for an error.
    pub(super) fn place(&self, column: usize) -> (String, String) {
        (self.file.clone(), self.header(column).to_owned())
    }

    /// Keeps the rows `wanted`.
    pub(super) fn keep(&mut self, wanted: impl Fn(&StringRecord) -> bool) {
        let kept: Vec<bool> = self.rows.iter().map(wanted).collect();
        let mut flags = kept.iter();
        self.rows.retain(|_| flags.next().is_some_and(|&keep| keep));
        let mut flags = kept.iter();
        self.lines.retain(|_| flags.next().is_some_and(|&keep| keep));
    }

    fn check_header(&self) -> Result<(), CsvError> {
        for (second, name) in self.header.iter().enumerate() {
            if name.is_empty() {
                // A separator at the end of each line makes a column of nothing, which nobody will miss.
                if self.rows.iter().any(|row| !row[second].is_empty()) {
                    return Err(CsvError::UnnamedColumn { file: self.file.clone(), position: second + 1 });
                }
            } else if let Some(first) = self.header.iter().take(second).position(|other| other == name) {
                let (file, column) = self.place(second);
                return Err(CsvError::DuplicateColumn { file, column, first: first + 1, second: second + 1 });
            }
        }
        Ok(())
    }

    pub(super) fn column(&self, name: &str, role: &'static str) -> Result<usize, CsvError> {
        if let Some(column) = self.header.iter().position(|other| other == name && !name.is_empty()) {
            return Ok(column);
        }
        let file = self.file.clone();
        if self.header.len() == 1 {
            let separators = [(';', "`;`"), ('\t', "tabs"), ('|', "`|`")];
            if let Some((_, separator)) = separators.into_iter().find(|(mark, _)| self.header[0].contains(*mark)) {
                return Err(CsvError::OtherSeparator { file, separator });
            }
        }
        let names: Vec<&str> = self.header.iter().filter(|name| !name.is_empty()).collect();
        let nearest =
            nearest(name, names.iter().copied()).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        let mut columns = names.iter().take(COLUMNS_SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
        if names.len() > COLUMNS_SHOWN_MAX {
            columns = format!("{columns} and {} more", names.len() - COLUMNS_SHOWN_MAX);
        }
        Err(CsvError::MissingColumn { file, role, column: shown(name), nearest, columns })
    }

    fn unreadable(&self, source: csv::Error) -> CsvError {
        CsvError::Unreadable { file: self.file.clone(), source: source.into() }
    }
}

/// Which column is what.
pub(super) struct Roles {
    /// Name of each target and its column, in the order of the truths.
    pub(super) labels: Vec<(String, usize)>,
    /// Columns in the order of the features.
    pub(super) features: Vec<usize>,
    pub(super) time: Option<usize>,
    pub(super) segment: Option<usize>,
}

impl Roles {
    pub(super) fn find(table: &Table, options: &CsvOptions) -> Result<Self, CsvError> {
        let labels = labels(table, options)?;
        let time = options.time.as_deref().map(|name| table.column(name, "--time")).transpose()?;
        let segment = options.segment.as_deref().map(|name| table.column(name, "--segment")).transpose()?;
        let ignored =
            options.ignore.iter().map(|name| table.column(name, "--ignore")).collect::<Result<Vec<_>, _>>()?;
        let mut taken: Vec<(usize, &'static str)> = Vec::new();
        let mut take = |column: usize, role: &'static str| {
            if let Some(&(_, first)) = taken.iter().find(|(other, _)| *other == column) {
                let (file, column) = table.place(column);
                return Err(CsvError::ColumnUsedTwice { file, column, first, second: role });
            }
            taken.push((column, role));
            Ok(())
        };
        labels.iter().try_for_each(|&(_, column)| take(column, "--label"))?;
        time.into_iter().try_for_each(|column| take(column, "--time"))?;
        segment.into_iter().try_for_each(|column| take(column, "--segment"))?;
        let features = if let Some(schema) = &options.schema {
            unchanged(table, options, schema)?;
            // A model that reads the segment or the time as a feature keeps doing so; only the truth may not be read.
            let columns = schema.features.iter().map(|feature| table.column(&feature.name, "a feature of the model"));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let leaks = columns.iter().copied().find(|column| labels.iter().any(|(_, label)| label == column));
            leaks.into_iter().try_for_each(|column| take(column, "a feature of the model"))?;
            columns
        } else if let Some(names) = &options.features {
            let columns = names.iter().map(|name| table.column(name, "--features")).collect::<Result<Vec<_>, _>>()?;
            ignored.iter().try_for_each(|&column| take(column, "--ignore"))?;
            columns.iter().try_for_each(|&column| take(column, "--features"))?;
            columns
        } else {
            (0..table.header.len())
                .filter(|column| !table.header(*column).is_empty() && !ignored.contains(column))
                .filter(|column| !taken.iter().any(|(other, _)| other == column))
                .collect()
        };
        if features.is_empty() {
            return Err(CsvError::NoFeatures { file: table.file.clone() });
        }
        Ok(Self { labels, features, time, segment })
    }
}

/// Names and columns of the labels. Targets of a model that all appear by name are taken by name, else by position.
fn labels(table: &Table, options: &CsvOptions) -> Result<Vec<(String, usize)>, CsvError> {
    let whole = options.label.trim();
    let mut names: Vec<&str> = if table.header.iter().any(|name| name == whole && !name.is_empty()) {
        vec![whole]
    } else {
        whole.split(',').map(str::trim).collect()
    };
    if let Some(Task::Regression { targets }) = options.schema.as_ref().map(|schema| &schema.task)
        && targets.len() == names.len()
        && targets.iter().all(|target| names.contains(&target.as_str()))
    {
        names = targets.iter().map(String::as_str).collect();
    }
    names.into_iter().map(|name| Ok((name.to_owned(), table.column(name, "--label")?))).collect()
}

/// Refuses options that would change what an existing model reads.
fn unchanged(table: &Table, options: &CsvOptions, schema: &Schema) -> Result<(), CsvError> {
    let known = |name: &&String| schema.features.iter().any(|feature| &feature.name == *name);
    let refused = |option: &'static str, column: &String| {
        Err(CsvError::FeaturesFixed { file: table.file.clone(), option, column: shown(column) })
    };
    match (options.features.iter().flatten().find(|name| !known(name)), options.ignore.iter().find(known)) {
        (Some(column), _) => refused("--features", column),
        (None, Some(column)) => refused("--ignore", column),
        (None, None) => Ok(()),
    }
}

/// The name most like `wanted`, if it is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A value as errors repeat it.
pub(super) fn shown(value: &str) -> String {
    let mut characters = value.chars();
    // What moves a cursor or colours a screen is not printed as it came.
    let printable = |one: char| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one };
    let mut short: String = characters.by_ref().take(SHOWN_CHARACTERS_MAX).map(printable).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

/// Counts lines up to a byte. The reader's own count stops at blank lines and between the two bytes of a CRLF.
struct LineCounter<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// The line of the first byte from `start` on that does not end a line.
    fn line_at(&mut self, start: usize) -> u64 {
        while let Some(byte) = self.bytes.get(self.at) {
            if self.at >= start && !matches!(byte, b'\r' | b'\n') {
                break;
            }
            self.line += u64::from(*byte == b'\n');
            self.at += 1;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_an_error_is_short_and_moves_no_cursor() {
        assert_eq!(shown("\u{1b}[31mred\0"), "\u{FFFD}[31mred\u{FFFD}");
        assert_eq!(shown(&"é".repeat(40)), "é".repeat(40));
        assert_eq!(shown(&"é".repeat(41)), format!("{}…", "é".repeat(40)));
    }
}
