//! Samples and labels as NDJSON, one object per line, each checked against the model and refused with its line and field.
//!
//! ```text
//! {"source":"press-7","time":"2026-11-21T01:40:00Z","segment":"night","features":{"temp":1.2,"mode":"auto"}}
//! {"record_id":"01JD6Y9K3V0000000000000000","label":"on","source":"operator"}
//! ```
mod error;
mod truth;

use jiff::Timestamp as Rfc3339;
use serde_json::{Map, Value};
use trainer_core::schema::{Feature, FeatureKind, Schema};
use ulid::Ulid;

pub use self::error::{CODES, LineError, Refusal, SampleError};
pub use self::truth::LabelValue;
use crate::decide::time::Timestamp;

/// Lines read from one batch; a gateway catches up in several batches, and one must not hold a worker for long.
pub const LINES_MAX: usize = 10_000;

/// Bytes of one line: 128 features with long names need some 8 KB.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a source or segment name; each is kept in memory and in every record.
pub const NAME_BYTES_MAX: usize = 128;

/// What was accepted but is worth counting; values, not rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Explicit nulls, which are imputed.
    pub missing: u64,
    /// Numbers outside the feature's range.
    pub out_of_range: u64,
    /// Texts not seen in training.
    pub unseen_category: u64,
}

/// One sample, ready to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Who measured.
    pub source: String,
    /// When it was measured, if the sample says so.
    pub time: Option<Timestamp>,
    /// Segment the sample belongs to.
    pub segment: Option<String>,
    /// Raw values in the order of the schema; `NaN` = missing.
    pub features: Vec<f32>,
    /// What to count.
    pub counts: Counts,
}

/// The truth for an earlier record.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The id the answer carried.
    pub record_id: Ulid,
    /// The truth as sent.
    pub label: LabelValue,
    /// Who says so; labels are idempotent per record and source.
    pub source: Option<String>,
    /// When the truth was found (`time`, or `ts`), if the line says so.
    pub time: Option<Timestamp>,
}

/// Reads a batch of samples; the answers are in the order of the lines, blank lines are skipped.
///
/// A bad line is refused alone. After [`LINES_MAX`] lines one refusal stands for the rest.
#[must_use]
pub fn parse_samples(body: &[u8], schema: &Schema) -> Vec<Result<Sample, LineError>> {
    by_line(body, |line| parse_sample(line, schema))
}

/// Reads one sample.
///
/// # Errors
///
/// [`SampleError`], which names the field and the reason.
pub fn parse_sample(line: &[u8], schema: &Schema) -> Result<Sample, SampleError> {
    let object = object(line)?;
    known(&object, &["source", "time", "segment", "features"])?;
    let Some(source) = text(&object, "source")? else {
        return Err(absent("source"));
    };
    let (time, segment) = (time(&object, "time")?, text(&object, "segment")?);
    let (features, counts) = match object.get("features") {
        Some(Value::Object(features)) => row(features, schema)?,
        Some(other) => return Err(wrong_type("features", "an object", other)),
        None => return Err(absent("features")),
    };
    Ok(Sample { source, time, segment, features, counts })
}

/// Reads a batch of labels, like [`parse_samples`].
#[must_use]
pub fn parse_labels(body: &[u8]) -> Vec<Result<Label, LineError>> {
    by_line(body, parse_label)
}

/// Reads one label.
///
/// # Errors
///
/// [`SampleError`], which names the field and the reason.
pub fn parse_label(line: &[u8]) -> Result<Label, SampleError> {
    let object = object(line)?;
    known(&object, &["record_id", "label", "source", "time", "ts"])?;
    let id = text(&object, "record_id")?.ok_or_else(|| absent("record_id"))?;
    let record_id = Ulid::from_string(&id).map_err(|_| SampleError::WrongType {
        field: "record_id".to_owned(),
        expected: "the 26-character record id of an answer".to_owned(),
        found: shown(&Value::from(id)),
    })?;
    let label = parse_label_value(&object)?;
    let found = time(&object, "time")?.map_or_else(|| time(&object, "ts"), |time| Ok(Some(time)))?;
    Ok(Label { record_id, label, source: text(&object, "source")?, time: found })
}

/// The truth under `label`.
pub(in crate::shell) fn parse_label_value(object: &Map<String, Value>) -> Result<LabelValue, SampleError> {
    match object.get("label") {
        None | Some(Value::Null) => Err(absent("label")),
        Some(Value::String(text)) => Ok(LabelValue::Text(text.clone())),
        Some(Value::Bool(value)) => Ok(LabelValue::Text(value.to_string())),
        Some(Value::Number(number)) => Ok(LabelValue::Number(number.as_f64().unwrap_or(f64::NAN))),
        Some(Value::Array(values)) => {
            let numbers =
                values.iter().map(|value| value.as_f64().ok_or_else(|| wrong_type("label", "a number", value)));
            Ok(LabelValue::Numbers(numbers.collect::<Result<_, _>>()?))
        }
        Some(other @ Value::Object(_)) => Err(wrong_type("label", "a class, a number or an array", other)),
    }
}

/// One row from values by feature name: every feature must be there, null stands for a missing value.
///
/// # Errors
///
/// [`SampleError`] names the first feature that is absent, unreadable or unknown.
pub fn row(values: &Map<String, Value>, schema: &Schema) -> Result<(Vec<f32>, Counts), SampleError> {
    let mut counts = Counts::default();
    let mut row = Vec::with_capacity(schema.features.len());
    for feature in &schema.features {
        match values.get(&feature.name) {
            Some(value) => row.push(read_value(feature, value, &mut counts)?),
            None => match values.keys().find(|name| !schema.features.iter().any(|feature| &feature.name == *name)) {
                // A misspelt name explains the gap better than the gap itself.
                Some(name) if strsim::jaro_winkler(name, &feature.name) > 0.85 => {
                    return Err(unknown(name, Some(&feature.name)));
                }
                _ => {
                    return Err(SampleError::MissingFeature { field: feature.name.clone() });
                }
            },
        }
    }
    if values.len() > schema.features.len() {
        let name = values.keys().find(|name| !schema.features.iter().any(|feature| &feature.name == *name));
        return Err(unknown(name.map_or("", String::as_str), None));
    }
    Ok((row, counts))
}

/// One value of `feature` as a raw number; counts what is accepted but noteworthy.
///
/// # Errors
///
/// [`SampleError`] if it is not finite or of another type.
pub fn read_value(feature: &Feature, value: &Value, counts: &mut Counts) -> Result<f32, SampleError> {
    let name = &feature.name;
    let number = match (&feature.kind, value) {
        (_, Value::Null) => {
            counts.missing += 1;
            return Ok(f32::NAN);
        }
        (FeatureKind::Category { values }, Value::String(text)) => {
            let index = values.iter().position(|known| known == text);
            counts.unseen_category += u64::from(index.is_none());
            #[expect(clippy::cast_precision_loss, reason = "category indices are small")]
            return Ok(index.unwrap_or(values.len()) as f32);
        }
        (FeatureKind::Category { .. }, other) => return Err(wrong_type(name, "text", other)),
        #[expect(clippy::cast_possible_truncation, reason = "models read single precision; overflow is refused below")]
        (FeatureKind::Number, Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN) as f32,
        (FeatureKind::Number, Value::Bool(on)) => f32::from(u8::from(*on)),
        (FeatureKind::Number, Value::String(text)) if text.parse::<f64>().is_ok_and(|value| !value.is_finite()) => {
            f32::NAN
        }
        (FeatureKind::Number, other) => return Err(wrong_type(name, "a number", other)),
    };
    if !number.is_finite() {
        return Err(SampleError::NotFinite { field: name.clone(), value: shown(value) });
    }
    counts.out_of_range += u64::from(feature.range.is_some_and(|[low, high]| !(low..=high).contains(&number)));
    Ok(number)
}

/// The text under `key`, not empty and within [`NAME_BYTES_MAX`]; null and absent are `None`.
pub(in crate::shell) fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>, SampleError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type(key, &format!("a text of 1 to {NAME_BYTES_MAX} bytes"), other)),
    }
}

/// The moment under `key`; null and absent are `None`.
pub(in crate::shell) fn time(object: &Map<String, Value>, key: &str) -> Result<Option<Timestamp>, SampleError> {
    let Some(text) = text(object, key)? else {
        return Ok(None);
    };
    match text.parse::<Rfc3339>() {
        Ok(time) => Ok(Some(Timestamp(time.as_microsecond()))),
        Err(_) => Err(wrong_type(key, "an RFC 3339 time such as 2026-11-21T01:40:00Z", &Value::from(text))),
    }
}

pub(in crate::shell) fn wrong_type(field: &str, expected: &str, found: &Value) -> SampleError {
    SampleError::WrongType { field: field.to_owned(), expected: expected.to_owned(), found: shown(found) }
}

pub(in crate::shell) fn unknown(field: &str, nearest: Option<&str>) -> SampleError {
    let hint = nearest.map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    SampleError::UnknownField { field: field.chars().take(NAME_BYTES_MAX).collect(), hint }
}

fn absent(field: &str) -> SampleError {
    SampleError::Malformed {
        field: Some(field.to_owned()),
        reason: format!("`{field}` is missing; every line needs it"),
    }
}

fn by_line<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T, SampleError>) -> Vec<Result<T, LineError>> {
    let mut answers = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let at = |error| LineError { line: index + 1, error };
        if answers.len() == LINES_MAX {
            answers.push(Err(at(SampleError::TooManyRows { field: "body".to_owned(), limit: LINES_MAX })));
            break;
        }
        answers.push(read(line).map_err(at));
    }
    answers
}

fn object(line: &[u8]) -> Result<Map<String, Value>, SampleError> {
    let malformed = |reason: String| SampleError::Malformed { field: None, reason };
    if line.len() > LINE_BYTES_MAX {
        return Err(malformed(format!("the line has {} bytes and the limit is {LINE_BYTES_MAX}", line.len())));
    }
    serde_json::from_slice(line).map_err(|error| match not_a_number(line, error.column()) {
        Some((field, value)) => SampleError::NotFinite { field, value },
        None => malformed(format!("not a JSON object on one line, at column {}: {}", error.column(), kind(&error))),
    })
}

/// The field whose value is `NaN`, an infinity or too large a number: JSON knows none of them, programs write them all the same.
fn not_a_number(line: &[u8], column: usize) -> Option<(String, String)> {
    let text = std::str::from_utf8(line).ok()?;
    // The parser stops within the value; its key ends at the last colon before.
    let before = text.get(..column.min(text.len()))?;
    let colon = before.rfind(':')?;
    let value = text[colon + 1..].trim_start().trim_start_matches(['-', '+']).to_ascii_lowercase();
    let token = value.split([',', '}', ' ']).next().unwrap_or_default();
    let named = ["nan", "inf", "infinity"].contains(&token);
    let huge = token.parse::<f64>().is_ok_and(f64::is_infinite);
    let key = before[..colon].trim_end().strip_suffix('"')?;
    let field = key[key.rfind('"').map_or(0, |quote| quote + 1)..].to_owned();
    (named || huge).then(|| (field, token.chars().take(40).collect()))
}

/// What the parser says, without its own idea of the line.
fn kind(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

fn known(object: &Map<String, Value>, names: &[&str]) -> Result<(), SampleError> {
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(unknown(key, names.iter().copied().find(|name| strsim::jaro_winkler(name, key) > 0.8))),
    }
}

/// A value as errors repeat it: short, and its kind if it is not a plain one.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("\"{}…\"", text.chars().take(40).collect::<String>())
        }
        Value::String(text) => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use trainer_core::schema::Task;

    use super::*;

    fn schema() -> Schema {
        serde_json::from_str(
            r#"{"features":[{"name":"temp","kind":"number","range":[-20,150]},
                {"name":"mode","kind":"category","values":["auto","manual"]}],
                "task":"classification","classes":["0.0","1.0","on"]}"#,
        )
        .expect("a schema")
    }

    fn regression(targets: &[&str]) -> Schema {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        Schema { features: Vec::new(), task: Task::Regression { targets } }
    }

    #[expect(clippy::needless_pass_by_value, reason = "expectations are written in place")]
    fn refused<T: std::fmt::Debug>(answers: Vec<Result<T, LineError>>, expected: Expect) {
        let lines = answers.into_iter().map(|answer| match answer {
            Ok(_) => "ok\n".to_owned(),
            Err(refused) => {
                let code = refused.error.code();
                assert!(CODES.contains(&code), "{code} has no counter");
                format!("{code}: {refused}\n")
            }
        });
        expected.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn a_sample_is_read_in_the_order_of_the_schema_and_counts_what_is_odd() {
        let body = br#"{"source":"press-7","time":"2026-11-21T01:40:00.5+01:00","features":{"mode":"auto","temp":151}}

            {"source":"press-8","segment":"night","features":{"temp":null,"mode":"hand"}}"#;
        let read: Vec<_> = parse_samples(body, &schema()).into_iter().map(|sample| sample.expect("good")).collect();
        assert_eq!(read[0].features, [151.0, 0.0]);
        assert_eq!(read[0].time, Some(Timestamp(1_795_221_600_500_000)));
        assert_eq!(read[0].counts, Counts { out_of_range: 1, ..Counts::default() });
        assert!(read[1].features[0].is_nan());
        assert_eq!((read[1].features[1], read[1].segment.as_deref()), (2.0, Some("night")));
        assert_eq!(read[1].counts, Counts { missing: 1, unseen_category: 1, out_of_range: 0 });
    }

    #[test]
    fn a_bad_sample_is_refused_with_line_field_and_code_and_the_others_are_kept() {
        let body = br#"{"source":"p","features":{"temp":1,"mode":"auto"}}
{"source":"p","features":{"mode":"auto"}}
{"source":"p","features":{"temp":"NaN","mode":"auto"}}
{"source":"p","features":{"temp":1e300,"mode":"auto"}}
{"source":"p","features":{"tmep":1,"mode":"auto"}}
{"source":"p","features":{"temp":1,"mode":"auto","zeal":1}}
{"source":"p","features":{"temp":"1.5","mode":"auto"}}
{"source":"p","features":{"temp":1,"mode":3}}
{"source":"p","features":[1,2]}
{"features":{"temp":1,"mode":"auto"}}
{"source":7,"features":{"temp":1,"mode":"auto"}}
{"source":"p","tiem":"x","features":{"temp":1,"mode":"auto"}}
{"source":"p","time":"yesterday","features":{"temp":1,"mode":"auto"}}
{"source":"p",
[]
{"source":"p","features":{"temp":2,"mode":"auto"}}"#;
        refused(
            parse_samples(body, &schema()),
            expect![[r#"
                ok
                missing_feature: line 2: `temp` is missing; send it, or null if it was not measured
                not_finite: line 3: `temp` is "NaN", which is not a finite single-precision number; send null if it was not measured
                not_finite: line 4: `temp` is 1e+300, which is not a finite single-precision number; send null if it was not measured
                unknown_field: line 5: `tmep` is not a field here, did you mean `temp`?; remove it or correct its name
                unknown_field: line 6: `zeal` is not a field here; remove it or correct its name
                wrong_type: line 7: `temp` is "1.5" and a number is expected
                wrong_type: line 8: `mode` is 3 and text is expected
                wrong_type: line 9: `features` is an array and an object is expected
                malformed: line 10: `source` is missing; every line needs it
                wrong_type: line 11: `source` is 7 and a text of 1 to 128 bytes is expected
                unknown_field: line 12: `tiem` is not a field here, did you mean `time`?; remove it or correct its name
                wrong_type: line 13: `time` is "yesterday" and an RFC 3339 time such as 2026-11-21T01:40:00Z is expected
                malformed: line 14: not a JSON object on one line, at column 14: EOF while parsing a value
                malformed: line 15: not a JSON object on one line, at column 0: invalid type: sequence, expected a map
                ok
            "#]],
        );
        let binary = parse_sample(b"\xff\xfe", &schema()).expect_err("not text");
        assert_eq!(binary.code(), "malformed");
        let long = format!("{{\"source\":\"{}\"}}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(parse_sample(long.as_bytes(), &schema()).expect_err("too long").code(), "malformed");
    }

    #[test]
    fn labels_are_classes_numbers_or_arrays() {
        let body = br#"{"record_id":"01JD6Y9K3V0000000000000000","label":"on"}
{"record_id":"01JD6Y9K3V0000000000000000","label":1.5,"source":"operator","ts":"2026-11-21T00:40:00Z"}
{"record_id":"01JD6Y9K3V0000000000000000","label":[1,2.5]}
{"record_id":"01JD6Y9K3V0000000000000000","label":true}"#;
        let read: Vec<_> = parse_labels(body).into_iter().map(|label| label.expect("good")).collect();
        let values: Vec<_> = read.iter().map(|label| label.label.clone()).collect();
        assert_eq!(
            values,
            [
                LabelValue::Text("on".to_owned()),
                LabelValue::Number(1.5),
                LabelValue::Numbers(vec![1.0, 2.5]),
                LabelValue::Text("true".to_owned())
            ]
        );
        assert_eq!(read[1].source.as_deref(), Some("operator"));
        assert_eq!(read[1].time, Some(Timestamp(1_795_221_600_000_000)));
    }

    #[test]
    fn a_bad_label_is_refused_with_line_and_field() {
        let body = br#"{"record_id":"5","label":"on"}
{"label":"on"}
{"record_id":"01JD6Y9K3V0000000000000000"}
{"record_id":"01JD6Y9K3V0000000000000000","label":null}
{"record_id":"01JD6Y9K3V0000000000000000","label":[1,"x"]}
{"record_id":"01JD6Y9K3V0000000000000000","label":{"a":1}}
{"record_id":"01JD6Y9K3V0000000000000000","lable":1}"#;
        refused(
            parse_labels(body),
            expect![[r#"
                wrong_type: line 1: `record_id` is "5" and the 26-character record id of an answer is expected
                malformed: line 2: `record_id` is missing; every line needs it
                malformed: line 3: `label` is missing; every line needs it
                malformed: line 4: `label` is missing; every line needs it
                wrong_type: line 5: `label` is "x" and a number is expected
                wrong_type: line 6: `label` is an object and a class, a number or an array is expected
                unknown_field: line 7: `lable` is not a field here, did you mean `label`?; remove it or correct its name
            "#]],
        );
    }

    #[test]
    fn a_truth_has_the_form_of_the_model_that_answered() {
        let truth = |label: LabelValue, schema: &Schema| label.truth(schema);
        assert_eq!(truth(LabelValue::Text("on".to_owned()), &schema()), Ok(vec![2.0]));
        assert_eq!(truth(LabelValue::Number(1.0), &schema()), Ok(vec![1.0]), "1 is the class 1.0");
        assert_eq!(truth(LabelValue::Text("1".to_owned()), &schema()), Ok(vec![1.0]));
        let code = |label: LabelValue, schema: &Schema| label.truth(schema).expect_err("refused").code();
        assert_eq!(code(LabelValue::Text("off".to_owned()), &schema()), "unknown_class");
        assert_eq!(code(LabelValue::Numbers(vec![1.0]), &schema()), "wrong_type");
        let (one, two) = (regression(&["co"]), regression(&["co", "no2"]));
        assert_eq!(truth(LabelValue::Number(1.5), &one), Ok(vec![1.5]));
        assert_eq!(truth(LabelValue::Numbers(vec![1.5, 2.0]), &two), Ok(vec![1.5, 2.0]));
        assert_eq!(code(LabelValue::Number(1.5), &two), "wrong_length");
        assert_eq!(code(LabelValue::Number(1e300), &one), "not_finite");
        assert_eq!(code(LabelValue::Text("on".to_owned()), &one), "wrong_type");
    }

    #[test]
    fn one_refusal_stands_for_all_lines_past_the_limit() {
        let body = "{}\n".repeat(LINES_MAX + 5);
        let answers = parse_samples(body.as_bytes(), &schema());
        assert_eq!(answers.len(), LINES_MAX + 1);
        let last = answers.last().expect("answers").as_ref().expect_err("refused");
        assert_eq!((last.line, last.error.code()), (LINES_MAX + 1, "too_many_rows"));
    }

    #[test]
    fn numbers_that_json_does_not_know_are_refused_with_their_field() {
        for (value, field) in [("NaN", "temp_c"), ("-Infinity", "temp_c"), ("1e400", "temp_c")] {
            let line = format!(r#"{{"source":"a","features":{{"rpm":1,"temp_c":{value}}}}}"#);
            let error = object(line.as_bytes()).unwrap_err();
            assert_eq!((error.code(), error.field()), ("not_finite", Some(field)), "{line}: {error}");
        }
        let error = object(br#"{"source":"a","features":{"rpm":x}}"#).unwrap_err();
        assert_eq!(error.code(), "malformed");
        assert!(!error.to_string().contains("line 1"), "{error}");
    }
}
