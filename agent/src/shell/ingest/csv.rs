//! Labelled CSV files: finds out what each column is and reads the file into rows, or names the cell to mend.
//!
//! ```text
//! bytes ─► table (texts, line numbers) ─► roles (label, features, time, segment) ─► rows kept ─► kinds ─► numbers
//! ```

pub mod columns;
mod error;
mod kinds;
mod table;

use std::io;
use std::path::Path;
use std::str::FromStr;

use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};

pub use self::error::CsvError;
pub use self::kinds::class_index;
use self::kinds::{class_indices, classes, kind, looks_like_classes, missing, normal_and_not, values};
use self::table::{Roles, Table};

/// A file is read whole, so it must fit the memory of a small workstation: 1 GiB.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// More distinct texts than this are an identifier, not a category; each would cost an input of the network.
pub const CATEGORIES_MAX: usize = 64;

/// More classes than this are numbers or identifiers read by mistake; each would cost an output of the network.
pub const CLASSES_MAX: usize = 256;

/// Up to this many distinct whole numbers are taken for classes if no task is given.
pub const WHOLE_CLASSES_MAX: usize = 20;

/// What to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// One of several classes.
    Classification,
    /// One or several real targets.
    Regression,
    /// Normal rows, and a few that are not.
    Anomaly,
}

impl TaskKind {
    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Regression => "regression",
            Self::Anomaly => "anomaly",
        }
    }
}

impl FromStr for TaskKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Classification, Self::Regression, Self::Anomaly]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` is not a task; use classification, regression or anomaly"))
    }
}

/// How to read a file; the fields are the options of the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CsvOptions {
    /// Column of the truth; several regression targets are separated by commas.
    pub label: String,
    /// Task; `None` = text or at most [`WHOLE_CLASSES_MAX`] distinct whole values is classification.
    pub task: Option<TaskKind>,
    /// Column of the time, kept as text.
    pub time: Option<String>,
    /// Column of the segment, kept as text.
    pub segment: Option<String>,
    /// Feature columns in this order; `None` = every column without another role.
    pub features: Option<Vec<String>>,
    /// Columns that are not features.
    pub ignore: Vec<String>,
    /// Leave rows with a missing feature out instead of imputing.
    pub drop_incomplete: bool,
    /// Schema of an existing model: its features are looked up by name, other columns are not read.
    pub schema: Option<Schema>,
}

/// A file as rows, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// Features, and classes or targets: as found in the rows kept, or the given schema.
    pub schema: Schema,
    /// `[rows, features]` and `[rows, truths]`.
    pub rows: Rows,
    /// 1-based line of the file at which each row starts.
    pub lines: Vec<u64>,
    /// Rows left out because a label is missing.
    pub unlabelled: usize,
    /// Labelled rows left out because a feature is missing, with `drop_incomplete`.
    pub dropped_incomplete: usize,
    /// Text of the time column for each row.
    pub times: Option<Vec<String>>,
    /// Text of the segment column for each row; empty if missing.
    pub segments: Option<Vec<String>>,
}

/// Reads the file at `path`; see [`parse`].
///
/// # Errors
///
/// [`CsvError`] if the file cannot be read or [`parse`] refuses it.
pub fn read(path: &Path, options: &CsvOptions) -> Result<Dataset, CsvError> {
    let (file, bytes) = bytes_of(path)?;
    parse(&file, &bytes, options)
}

/// Name and content of the file at `path`.
fn bytes_of(path: &Path) -> Result<(String, Vec<u8>), CsvError> {
    let file = path.display().to_string();
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CsvError::NoSuchFile { file: file.clone() },
        _ => CsvError::Unreadable { file: file.clone(), source },
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(CsvError::TooLarge { file, bytes });
    }
    let content = std::fs::read(path).map_err(unreadable)?;
    Ok((file, content))
}

/// Reads comma-separated `bytes` with one header line; `name` is used in errors.
///
/// Empty, `NA`, `NaN` and `null` (in any case) are missing values; cells are trimmed. Kinds, classes and categories
/// are found over all rows kept, so the result is a function of the bytes and the options alone.
///
/// # Errors
///
/// [`CsvError`], which names file, line and column and the next step.
pub fn parse(name: &str, bytes: &[u8], options: &CsvOptions) -> Result<Dataset, CsvError> {
    let mut table = Table::read(name, bytes)?;
    let roles = Roles::find(&table, options)?;
    let before = table.len();
    // Of anomalies few are ever told: what nobody has called one is taken for normal.
    let assumed = options.task == Some(TaskKind::Anomaly);
    table.keep(|row| assumed || roles.labels.iter().all(|&(_, label)| !missing(&row[label])));
    let unlabelled = before - table.len();
    let labelled = table.len();
    if options.drop_incomplete {
        table.keep(|row| roles.features.iter().all(|&column| !missing(&row[column])));
    }
    let dropped_incomplete = labelled - table.len();
    if table.len() == 0 {
        return Err(CsvError::NothingLeft { file: name.to_owned(), unlabelled, dropped_incomplete });
    }

    let (task, truths) = truths(&table, &roles, options)?;
    let mut features = Vec::new();
    let mut columns = Vec::new();
    for (index, &column) in roles.features.iter().enumerate() {
        let feature = match &options.schema {
            Some(schema) => schema.features[index].clone(),
            None => {
                Feature { name: table.header(column).to_owned(), unit: None, kind: kind(&table, column)?, range: None }
            }
        };
        columns.push(values(&table, column, &feature.kind)?);
        features.push(feature);
    }
    let mut rows = Rows::empty(columns.len(), truths.len());
    for row in 0..table.len() {
        rows.x.extend(columns.iter().map(|column| column[row]));
        rows.y.extend(truths.iter().map(|column| column[row]));
    }
    let texts = |column: Option<usize>| {
        column.map(|column| (0..table.len()).map(|row| table.cell(row, column).to_owned()).collect())
    };
    Ok(Dataset {
        schema: Schema { features, task },
        rows,
        times: texts(roles.time),
        segments: texts(roles.segment),
        unlabelled,
        dropped_incomplete,
        lines: table.into_lines(),
    })
}

/// The task, and one column of truths per target.
fn truths(table: &Table, roles: &Roles, options: &CsvOptions) -> Result<(Task, Vec<Vec<f32>>), CsvError> {
    let file = || table.file.clone();
    let single = |labels: &[(String, usize)]| match labels {
        [(_, column)] => Ok(*column),
        several => Err(CsvError::SeveralClassLabels { file: file(), given: several.len() }),
    };
    let model = options.schema.as_ref().map(|schema| &schema.task);
    let task = match (model, options.task) {
        (Some(Task::Classification { .. }), Some(TaskKind::Regression)) => {
            return Err(CsvError::TaskDiffers { file: file(), model: "classification" });
        }
        (Some(Task::Regression { .. }), Some(TaskKind::Classification | TaskKind::Anomaly)) => {
            return Err(CsvError::TaskDiffers { file: file(), model: "regression" });
        }
        (Some(task), _) => task.clone(),
        (None, Some(TaskKind::Anomaly)) => normal_and_not(table, single(&roles.labels)?)?,
        (None, Some(TaskKind::Classification)) => classes(table, single(&roles.labels)?)?,
        (None, None) if roles.labels.len() == 1 && looks_like_classes(table, roles.labels[0].1)? => {
            classes(table, roles.labels[0].1)?
        }
        (None, _) => Task::Regression { targets: roles.labels.iter().map(|(label, _)| label.clone()).collect() },
    };
    let columns = match &task {
        Task::Classification { classes } => vec![class_indices(table, single(&roles.labels)?, classes)?],
        Task::Regression { targets } if targets.len() == roles.labels.len() => {
            let numbers = |&(_, column): &(String, usize)| values(table, column, &FeatureKind::Number);
            roles.labels.iter().map(numbers).collect::<Result<_, _>>()?
        }
        Task::Regression { targets } => {
            let given = roles.labels.len();
            return Err(CsvError::TargetCount {
                file: file(),
                expected: targets.len(),
                targets: targets.join(", "),
                given,
            });
        }
    };
    Ok((task, columns))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn options(label: &str) -> CsvOptions {
        CsvOptions { label: label.to_owned(), ..CsvOptions::default() }
    }

    fn parsed(text: &str, options: &CsvOptions) -> Dataset {
        parse("press.csv", text.as_bytes(), options).expect("the file is good")
    }

    #[expect(clippy::needless_pass_by_value, reason = "expectations are written in place")]
    fn refused(text: impl AsRef<[u8]>, options: &CsvOptions, expected: Expect) {
        let error = parse("press.csv", text.as_ref(), options).expect_err("the file must be refused");
        expected.assert_eq(&error.to_string());
    }

    fn classes_of(dataset: &Dataset) -> Vec<&str> {
        match &dataset.schema.task {
            Task::Classification { classes } => classes.iter().map(String::as_str).collect(),
            Task::Regression { targets } => panic!("regression of {targets:?}"),
        }
    }

    #[test]
    fn numbers_categories_time_segment_and_missing_values_are_told_apart() {
        let options = CsvOptions {
            time: Some("at".to_owned()),
            segment: Some("line".to_owned()),
            ignore: vec!["note".to_owned()],
            ..options("state")
        };
        let dataset = parsed(
            "\u{feff}at,temp, mode ,line,note,state\r\n\
             t1,1.5,b,A,x,on\r\n\
             \r\n\
             t2,NA,a,A,\"two\r\nlines\",off\r\n\
             t3,2,null,,x,\r\n\
             t4,nan,b,B,x,on\r\n",
            &options,
        );
        expect![[r#"
            {
              "features": [
                {
                  "name": "temp",
                  "kind": "number"
                },
                {
                  "name": "mode",
                  "kind": "category",
                  "values": [
                    "a",
                    "b"
                  ]
                }
              ],
              "task": "classification",
              "classes": [
                "off",
                "on"
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&dataset.schema).expect("a schema is JSON"));
        assert_eq!(format!("{:?}", dataset.rows.x), "[1.5, 1.0, NaN, 0.0, NaN, 1.0]");
        assert_eq!(dataset.rows.y, [1.0, 0.0, 1.0]);
        assert_eq!(dataset.lines, [2, 4, 7], "blank lines and line breaks in quotes count");
        assert_eq!((dataset.unlabelled, dataset.dropped_incomplete), (1, 0));
        assert_eq!(dataset.times.as_deref(), Some(&["t1", "t2", "t4"].map(str::to_owned)[..]));
        assert_eq!(dataset.segments.as_deref(), Some(&["A", "A", "B"].map(str::to_owned)[..]));
    }

    #[test]
    fn whole_labels_are_classes_that_keep_their_text_and_sort_as_numbers() {
        let dataset = parsed("x,y\n1,10.0\n2,9.0\n3,1e1\n4,-1\n", &options("y"));
        assert_eq!(classes_of(&dataset), ["-1", "9.0", "10.0"]);
        assert_eq!(dataset.rows.y, [2.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn fractions_or_many_whole_values_are_regression_unless_told_otherwise() {
        let fractions = parsed("x,y\n1,0.5\n2,1\n", &options("y"));
        assert_eq!(fractions.schema.task, Task::Regression { targets: vec!["y".to_owned()] });
        let many = |count: usize| (0..count).fold("x,y\n".to_owned(), |text, row| format!("{text}{row},{row}\n"));
        assert_eq!(classes_of(&parsed(&many(20), &options("y"))).len(), 20);
        assert_eq!(parsed(&many(21), &options("y")).schema.truths(), 1);
        assert!(matches!(parsed(&many(21), &options("y")).schema.task, Task::Regression { .. }));
        let told = CsvOptions { task: Some(TaskKind::Classification), ..options("y") };
        assert_eq!(classes_of(&parsed(&many(21), &told)).len(), 21);
        let told = CsvOptions { task: Some(TaskKind::Regression), ..options("y") };
        assert_eq!(parsed(&many(3), &told).rows.y, [0.0, 1.0, 2.0]);
    }

    #[test]
    fn several_labels_are_targets_and_a_row_needs_all_of_them() {
        let dataset = parsed("x,a,b\n1,1,2\n2,,2\n3,5,6\n", &options("a, b"));
        assert_eq!(dataset.rows.y, [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(dataset.unlabelled, 1);
    }

    #[test]
    fn incomplete_rows_are_dropped_only_for_features_that_are_used() {
        let options =
            CsvOptions { features: Some(vec!["b".to_owned(), "a".to_owned()]), drop_incomplete: true, ..options("y") };
        let dataset = parsed("a,b,c,y\n1,2,,on\n,3,4,off\n5,6,7,off\n", &options);
        assert_eq!(dataset.rows.x, [2.0, 1.0, 6.0, 5.0], "features come in the order asked for");
        assert_eq!((dataset.dropped_incomplete, dataset.lines), (1, vec![2, 4]));
    }

    #[test]
    fn a_file_is_read_as_the_model_knows_it() {
        let first = parsed("mode,temp,y\na,1,0.0\nb,2,1.0\n", &options("y"));
        let later = CsvOptions { schema: Some(first.schema.clone()), ..options("y") };
        let dataset = parsed("y,other,temp,mode\n1,z,5,c\n1,z,,b\n", &later);
        assert_eq!(format!("{:?}", dataset.rows.x), "[2.0, 5.0, 1.0, NaN]", "an unseen text is one past the last");
        assert_eq!((dataset.rows.y.as_slice(), &dataset.schema), (&[1.0, 1.0][..], &first.schema));

        refused(
            "temp,mode,y\n1,a,2\n",
            &later,
            expect![
                "press.csv:2: the model does not know the class `2` in column `y`; its classes are 0.0, 1.0; correct it, or train a new base model with `hone train`"
            ],
        );
        refused(
            "temp,modes,y\n1,a,1\n",
            &later,
            expect![
                "press.csv:1: there is no column `mode` for a feature of the model, did you mean `modes`?; the columns are temp, modes, y"
            ],
        );
        refused(
            "temp,mode,y\nhot,a,1\n",
            &later,
            expect![
                "press.csv:2: `hot` in column `temp` is text among numbers; correct it, leave it empty if it is missing, or use --ignore temp"
            ],
        );
        let other_task = CsvOptions { task: Some(TaskKind::Regression), ..later.clone() };
        refused(
            "temp,mode,y\n1,a,1\n",
            &other_task,
            expect!["press.csv: the model is for classification; leave --task away or use another model"],
        );
        let ignoring = CsvOptions { ignore: vec!["mode".to_owned()], ..later };
        refused(
            "temp,mode,y\n1,a,1\n",
            &ignoring,
            expect![
                "press.csv: the features of a model are fixed, so --ignore cannot name `mode`; leave --ignore away"
            ],
        );
    }

    #[test]
    fn targets_of_a_model_are_found_by_name_whatever_order_the_labels_are_given_in() {
        let first = parsed("x,co,no2\n1,1.5,20.5\n", &options("co,no2"));
        let later = CsvOptions { schema: Some(first.schema), ..options("no2,co") };
        assert_eq!(parsed("x,no2,co\n1,20,1\n", &later).rows.y, [1.0, 20.0]);
        let one = CsvOptions { label: "co".to_owned(), ..later };
        refused(
            "x,no2,co\n1,20,1\n",
            &one,
            expect!["press.csv:1: the model has 2 targets (co, no2) and --label names 1; name one column for each"],
        );
    }

    #[test]
    fn a_file_without_rows_to_use_is_refused() {
        refused("", &options("y"), expect!["press.csv: the file is empty; a header line and rows are expected"]);
        refused("\n\r\n", &options("y"), expect!["press.csv: the file is empty; a header line and rows are expected"]);
        refused("x,y\n", &options("y"), expect!["press.csv: line 1 is the header and no row follows; add rows"]);
        let dropping = CsvOptions { drop_incomplete: true, ..options("y") };
        refused(
            "x,y\n1,\n,on\n",
            &dropping,
            expect![
                "press.csv: no row is left to use: 1 without a label, 1 dropped as incomplete; check --label, or leave --drop-incomplete away"
            ],
        );
        refused(
            "x,y\n,1\n,2\n",
            &options("y"),
            expect!["press.csv: column `x` is empty in every row used; use --ignore x"],
        );
        refused(
            "x,y\n1,on\n2,on\n",
            &options("y"),
            expect!["press.csv: column `y` holds only the class `on`; add rows of another class, or check --label"],
        );
        let error = read(Path::new("/nonexistent/press.csv"), &options("y")).expect_err("there is no such file");
        expect!["/nonexistent/press.csv: no such file; check the path"].assert_eq(&error.to_string());
    }

    #[test]
    fn a_header_that_cannot_be_meant_is_refused() {
        refused(
            "temp,stat\n1,on\n",
            &options("state"),
            expect![
                "press.csv:1: there is no column `state` for --label, did you mean `stat`?; the columns are temp, stat"
            ],
        );
        refused(
            "temp;state\n1;on\n",
            &options("state"),
            expect!["press.csv:1: columns seem to be separated by `;`; write the file with commas"],
        );
        refused(
            "x,x,y\n1,1,on\n",
            &options("y"),
            expect!["press.csv:1: columns 1 and 2 are both named `x`; rename one"],
        );
        refused(
            ",x,y\n0,1,on\n",
            &options("y"),
            expect!["press.csv:1: column 1 has values but no name; name it, and leave it out with --ignore if need be"],
        );
        assert_eq!(parsed("x,y,\n1,on,\n2,off,\n", &options("y")).rows.features, 1, "a trailing separator is harmless");
        refused(
            "y\non\noff\n",
            &options("y"),
            expect!["press.csv:1: no feature column is left; check --features and --ignore"],
        );
        let unknown = CsvOptions { ignore: vec!["note".to_owned()], ..options("y") };
        refused(
            "x,notes,y\n1,a,on\n",
            &unknown,
            expect![
                "press.csv:1: there is no column `note` for --ignore, did you mean `notes`?; the columns are x, notes, y"
            ],
        );
        let unknown = CsvOptions { features: Some(vec!["q".to_owned()]), ..options("y") };
        refused(
            "x,y\n1,on\n",
            &unknown,
            expect!["press.csv:1: there is no column `q` for --features; the columns are x, y"],
        );
        let twice = CsvOptions { features: Some(vec!["x".to_owned(), "y".to_owned()]), ..options("y") };
        refused(
            "x,y\n1,on\n",
            &twice,
            expect!["press.csv:1: column `y` cannot be both --label and --features; name it once"],
        );
    }

    #[test]
    fn a_bad_cell_is_named_by_line_and_column() {
        refused(
            "x,y\n1,on\n\n2,on,3\n",
            &options("y"),
            expect!["press.csv:4: the row has 3 values and the header 2; mend or remove this line"],
        );
        refused(
            b"x,y\r\n1,on\r\n\xff,on\r\n",
            &options("y"),
            expect!["press.csv:3: column `x` is not UTF-8 text; convert the file, for example with `iconv -t UTF-8`"],
        );
        let mut text = (0..19).fold("x,y\n".to_owned(), |text, row| format!("{text}{row}.5,{}\n", row % 2));
        text.push_str("1O,0\n");
        refused(
            &text,
            &options("y"),
            expect![
                "press.csv:21: `1O` in column `x` is text among numbers; correct it, leave it empty if it is missing, or use --ignore x"
            ],
        );
        refused(
            "x,y\n1e39,0\n1,1\n",
            &options("y"),
            expect![
                "press.csv:2: `1e39` in column `x` is not a finite single-precision number; correct it or leave it empty"
            ],
        );
        refused(
            "x,y\n1,inf\n1,1\n",
            &options("y"),
            expect![
                "press.csv:2: `inf` in column `y` is not a finite single-precision number; correct it or leave it empty"
            ],
        );
        let names = (0..65).fold("x,y\n".to_owned(), |text, row| format!("{text}id-{row},{}\n", row % 2));
        refused(
            &names,
            &options("y"),
            expect![
                "press.csv:2: column `x` is text (here `id-0`) with more than 64 distinct values; use --ignore x, or --time or --segment if that is what it is"
            ],
        );
        let labels = (0..257).fold("x,y\n".to_owned(), |text, row| format!("{text}1,id-{row}\n"));
        refused(
            &labels,
            &options("y"),
            expect!["press.csv:258: column `y` has more than 256 classes; use --task regression, or check --label"],
        );
    }

    #[test]
    fn reading_never_panics_whatever_the_bytes() {
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    b"xy,\n\r\"1.e-\xff\xc3\xa9 ;"[usize::try_from(state >> 33).expect("31 bits") % 15]
                })
                .collect();
            let _ = parse("press.csv", &[b"x,y\n".as_slice(), &bytes].concat(), &options("y"));
            let _ = parse("press.csv", &bytes, &options("y"));
        }
    }
}
