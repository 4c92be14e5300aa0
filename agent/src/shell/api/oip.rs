//! Open Inference Protocol v2 as data: requests into rows, outputs into responses, and what the metadata calls answer.
//!
//! A request is either one tensor per feature, by name, or a single tensor `input` of shape `[rows, features]`. Where the model
//! looks at windows, the features may be those of single readings, and a single tensor of readings is called `reading`.
#![expect(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "rows, features, classes and categories are few"
)]

mod labels;
mod metadata;
mod response;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use trainer_core::schema::{Feature, FeatureKind, Schema};

pub use self::labels::{LABELS, LabelsRequest, labels_metadata};
use self::metadata::output_names;
pub use self::metadata::{
    Health, ModelMetadata, ModelReady, ServerMetadata, TensorMetadata, model_metadata, server_metadata,
};
pub use self::response::{InferResponse, OutputData, OutputTensor, Served};
use crate::decide::time::Timestamp;
use crate::shell::ingest::samples::{Counts, SampleError, read_value, text, time, unknown, wrong_type};

/// Rows of one request: 1,024 × 128 features take a fraction of a millisecond, and more would delay other callers.
pub const ROWS_MAX: usize = 1_024;

/// Name of the single tensor that holds whole rows.
pub const MATRIX: &str = "input";

/// Name of the single tensor that holds readings for the window of their source.
pub const READING: &str = "reading";

/// Parameter of a tensor whose values follow the JSON as bytes: the binary extension of some servers.
const BINARY_SIZE: &str = "binary_data_size";

/// A request, checked and turned into rows.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// To be given back.
    pub id: Option<String>,
    /// `[rows, features]`, raw units, `NaN` = missing.
    pub rows: Vec<f32>,
    /// Whether the rows are readings for the window of their source.
    pub readings: bool,
    /// Number of rows, at least 1.
    pub count: usize,
    /// What was accepted but is worth counting.
    pub counts: Counts,
    /// Request parameter `source`: who measured, which decides who is in a canary.
    pub source: Option<String>,
    /// Request parameter `segment`.
    pub segment: Option<String>,
    /// Request parameter `time`: when it was measured.
    pub time: Option<Timestamp>,
    /// Names of the outputs wanted; `None` = all.
    pub outputs: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct WireRequest {
    id: Option<String>,
    /// Clients write `null` for what they leave out.
    #[serde(default, deserialize_with = "or_nothing")]
    parameters: Map<String, Value>,
    inputs: Vec<WireTensor>,
    outputs: Option<Vec<WireOutput>>,
}

#[derive(Deserialize)]
struct WireTensor {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default, deserialize_with = "or_nothing")]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Vec<Value>>,
}

fn or_nothing<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct WireOutput {
    name: String,
}

impl InferRequest {
    /// Reads the body of `POST /v2/models/{m}/infer` for a model of `schema`, which looks at windows of `readings`; where it
    /// looks at single readings, these are the same.
    ///
    /// # Errors
    ///
    /// [`SampleError`] names the first tensor or field at fault and says what is expected.
    pub fn parse(body: &[u8], schema: &Schema, readings: &Schema) -> Result<Self, SampleError> {
        let wire = wire(body)?;
        let outputs = wire.outputs.map(|outputs| outputs.into_iter().map(|output| output.name).collect::<Vec<_>>());
        let known = output_names(schema);
        if let Some(name) = outputs.iter().flatten().find(|name| !known.contains(name)) {
            return Err(unknown(name, None));
        }
        let mut counts = Counts::default();
        let is_in = |schema: &Schema, name: &str| schema.features.iter().any(|feature| feature.name == name);
        let all_in = |schema: &Schema| wire.inputs.iter().all(|tensor| is_in(schema, &tensor.name));
        let whole = |schema: &Schema| all_in(schema) && wire.inputs.len() == schema.features.len();
        // A row of the model goes past the window; what only a reading can be is one.
        let are_readings = readings.features != schema.features && !whole(schema) && whole(readings);
        let mut read_readings = are_readings;
        let (rows, count) = match wire.inputs.as_slice() {
            [matrix] if matrix.name == MATRIX && !is_in(schema, MATRIX) => from_matrix(matrix, schema, &mut counts)?,
            [matrix] if matrix.name == READING && !is_in(schema, READING) && !is_in(readings, READING) => {
                read_readings = true;
                from_matrix(matrix, readings, &mut counts)?
            }
            tensors if are_readings => from_columns(tensors, readings, &mut counts)?,
            tensors => from_columns(tensors, schema, &mut counts)?,
        };
        Ok(Self {
            id: wire.id,
            rows,
            readings: read_readings,
            count,
            counts,
            source: text(&wire.parameters, "source")?,
            segment: text(&wire.parameters, "segment")?,
            time: time(&wire.parameters, "time")?,
            outputs,
        })
    }
}

fn wire(body: &[u8]) -> Result<WireRequest, SampleError> {
    let request: WireRequest = serde_json::from_slice(body).map_err(|error| SampleError::Malformed {
        field: None,
        reason: format!("not an inference request of the Open Inference Protocol v2: {error}"),
    })?;
    for WireTensor { name, parameters, data, .. } in &request.inputs {
        let wrong = if parameters.contains_key(BINARY_SIZE) {
            "comes as binary data, an extension that is not offered here; send its values as JSON in `data`"
        } else if data.is_none() {
            "has no `data`; send its values there, in row-major order"
        } else {
            continue;
        };
        return Err(SampleError::Malformed {
            field: Some(name.clone()),
            reason: format!("the tensor `{name}` {wrong}"),
        });
    }
    Ok(request)
}

fn from_columns(
    tensors: &[WireTensor],
    schema: &Schema,
    counts: &mut Counts,
) -> Result<(Vec<f32>, usize), SampleError> {
    for (index, tensor) in tensors.iter().enumerate() {
        let name = &tensor.name;
        if !schema.features.iter().any(|feature| &feature.name == name) {
            let likeness = |feature: &Feature| strsim::jaro_winkler(&feature.name, name);
            let near = schema.features.iter().filter(|feature| likeness(feature) > 0.8);
            let near = near.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            return Err(unknown(name, near.map(|feature| feature.name.as_str())));
        }
        if tensors[..index].iter().any(|other| &other.name == name) {
            let reason = format!("the tensor `{name}` is given twice; give it once");
            return Err(SampleError::Malformed { field: Some(name.clone()), reason });
        }
    }
    let (width, mut count) = (schema.features.len(), 0);
    let mut rows = Vec::new();
    for (column, feature) in schema.features.iter().enumerate() {
        // Callers mostly send the tensors in the order of the metadata.
        let in_place = tensors.get(column).filter(|tensor| tensor.name == feature.name);
        let Some(tensor) = in_place.or_else(|| tensors.iter().find(|tensor| tensor.name == feature.name)) else {
            return Err(SampleError::MissingFeature { field: feature.name.clone() });
        };
        let found = match tensor.shape.as_slice() {
            [rows] | [rows, 1] if *rows > 0 => usize::try_from(*rows).unwrap_or(usize::MAX),
            _ => return Err(wrong_shape(tensor, "[rows] or [rows, 1]")),
        };
        let values = values(tensor, found, 1)?;
        if column == 0 {
            count = found;
            rows = vec![0.0; count * width];
        } else if found != count {
            return Err(SampleError::WrongLength { field: feature.name.clone(), expected: count, found });
        }
        for (row, value) in values.into_iter().enumerate() {
            rows[row * width + column] = read_typed(feature, tensor, value, counts)?;
        }
    }
    if count == 0 {
        Err(SampleError::Malformed { field: None, reason: "the model has no features".to_owned() })
    } else {
        Ok((rows, count))
    }
}

fn from_matrix(matrix: &WireTensor, schema: &Schema, counts: &mut Counts) -> Result<(Vec<f32>, usize), SampleError> {
    let width = schema.features.len();
    let expected = || format!("[rows, {width}], or [{width}] for one row,");
    if !matrix.datatype.starts_with("FP") {
        return Err(wrong_type(&matrix.name, "FP32 or FP64", &Value::from(matrix.datatype.as_str())));
    }
    let count = match matrix.shape.as_slice() {
        [columns] if *columns == width as i64 => 1,
        [rows, columns] if *rows > 0 && *columns == width as i64 => usize::try_from(*rows).unwrap_or(usize::MAX),
        _ => return Err(wrong_shape(matrix, &expected())),
    };
    let values = values(matrix, count, width)?;
    let mut rows = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let feature = &schema.features[index % width];
        rows.push(match &feature.kind {
            FeatureKind::Number => read_typed(feature, matrix, value, counts)?,
            FeatureKind::Category { values } => read_index(feature, values.len(), value, counts)?,
        });
    }
    Ok((rows, count))
}

/// The values of a tensor, nested or flat, after checking their number.
fn values(tensor: &WireTensor, rows: usize, width: usize) -> Result<Vec<&Value>, SampleError> {
    if rows > ROWS_MAX {
        return Err(SampleError::TooManyRows { field: tensor.name.clone(), limit: ROWS_MAX });
    }
    let data = tensor.data.as_deref().unwrap_or_default();
    let mut flat = Vec::with_capacity(data.len());
    flatten(data, &mut flat);
    let expected = rows * width;
    if flat.len() == expected {
        Ok(flat)
    } else {
        Err(SampleError::WrongLength { field: tensor.name.clone(), expected, found: flat.len() })
    }
}

/// Appends the innermost values in order; the JSON reader bounds the depth.
fn flatten<'a>(data: &'a [Value], flat: &mut Vec<&'a Value>) {
    for value in data {
        match value {
            Value::Array(inner) => flatten(inner, flat),
            scalar => flat.push(scalar),
        }
    }
}

/// Reads a value that must be of the tensor's datatype and of the feature's kind.
fn read_typed(feature: &Feature, tensor: &WireTensor, value: &Value, counts: &mut Counts) -> Result<f32, SampleError> {
    let read = read_value(feature, value, counts)?;
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = value.is_null()
        || match tensor.datatype.as_str() {
            "FP16" | "BF16" | "FP32" | "FP64" => value.is_number(),
            "INT8" | "INT16" | "INT32" | "INT64" => whole,
            "UINT8" | "UINT16" | "UINT32" | "UINT64" => whole && read >= 0.0,
            "BOOL" => value.is_boolean(),
            "BYTES" => value.is_string(),
            _ => {
                let datatypes = "a datatype of FP16, BF16, FP32, FP64, INT8 to INT64, UINT8 to UINT64, BOOL or BYTES";
                return Err(wrong_type(&tensor.name, datatypes, &Value::from(tensor.datatype.as_str())));
            }
        };
    if fits { Ok(read) } else { Err(wrong_type(&feature.name, &format!("{}, as declared,", tensor.datatype), value)) }
}

/// Reads a category given as its index, as a matrix of numbers must; one past the last is a text unseen in training.
fn read_index(feature: &Feature, known: usize, value: &Value, counts: &mut Counts) -> Result<f32, SampleError> {
    if value.is_null() {
        counts.missing += 1;
        return Ok(f32::NAN);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a small whole number")]
    let whole =
        |number: f64| (number.fract() == 0.0 && (0.0..=known as f64).contains(&number)).then_some(number as usize);
    let Some(index) = value.as_f64().and_then(whole) else {
        return Err(wrong_type(&feature.name, &format!("the index of a category, 0 to {known},"), value));
    };
    counts.unseen_category += u64::from(index == known);
    Ok(index as f32)
}

fn wrong_shape(tensor: &WireTensor, expected: &str) -> SampleError {
    SampleError::WrongShape { field: tensor.name.clone(), expected: expected.to_owned(), found: tensor.shape.clone() }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use serde_json::json;
    use trainer_core::schema::Task;

    use super::*;

    fn schema() -> Schema {
        serde_json::from_value(json!({
            "features": [
                {"name": "temp", "kind": "number", "range": [-20.0, 150.0]},
                {"name": "mode", "kind": "category", "values": ["auto", "manual"]},
            ],
            "task": "classification", "classes": ["off", "on"],
        }))
        .expect("a schema")
    }

    fn tensor(name: &str, datatype: &str, shape: &[i64], data: &Value) -> Value {
        json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
    }

    fn parse(inputs: &[Value]) -> Result<InferRequest, SampleError> {
        InferRequest::parse(json!({"id": "7", "inputs": inputs}).to_string().as_bytes(), &schema(), &schema())
    }

    fn temp(data: &Value) -> Value {
        tensor("temp", "FP32", &[data.as_array().map_or(1, Vec::len) as i64], data)
    }

    fn mode(data: &Value) -> Value {
        tensor("mode", "BYTES", &[data.as_array().map_or(1, Vec::len) as i64, 1], data)
    }

    #[test]
    fn tensors_by_name_become_rows_in_the_order_of_the_schema() {
        let request = parse(&[mode(&json!([["manual"], ["other"]])), temp(&json!([151.5, null]))]).expect("good");
        assert_eq!(format!("{:?}", request.rows), "[151.5, 1.0, NaN, 2.0]");
        assert_eq!((request.count, request.id.as_deref()), (2, Some("7")));
        assert_eq!(request.counts, Counts { missing: 1, out_of_range: 1, unseen_category: 1 });
        for (datatype, value, read) in
            [("INT64", json!(3), 3.0), ("UINT8", json!(3.0), 3.0), ("BOOL", json!(true), 1.0)]
        {
            let request =
                parse(&[tensor("temp", datatype, &[1], &json!([value])), mode(&json!(["auto"]))]).expect(datatype);
            assert_eq!(request.rows, [read, 0.0], "{datatype}");
        }
    }

    #[test]
    fn one_matrix_becomes_rows_too() {
        let matrix = |shape: &[i64], data: Value| parse(&[tensor("input", "FP64", shape, &data)]);
        assert_eq!(matrix(&[2], json!([20.5, 1])).expect("one row").rows, [20.5, 1.0]);
        let request = matrix(&[2, 2], json!([[20.5, 1], [null, 2]])).expect("two rows");
        assert_eq!(format!("{:?} {}", request.rows, request.count), "[20.5, 1.0, NaN, 2.0] 2");
        assert_eq!(request.counts, Counts { missing: 1, out_of_range: 0, unseen_category: 1 });
        assert_eq!(matrix(&[1, 2], json!([20.5, 3])).expect_err("no such category").field(), Some("mode"));
    }

    #[test]
    fn the_caller_may_say_who_measured_when_and_what_it_wants() {
        let body = json!({
            "inputs": [tensor("input", "FP32", &[2], &json!([1, 0]))],
            "parameters": {"source": "press-7", "time": "1970-01-01T00:00:01Z", "segment": "night", "binary_data": false},
            "outputs": [{"name": "label"}],
        });
        let request = InferRequest::parse(body.to_string().as_bytes(), &schema(), &schema()).expect("good");
        assert_eq!((request.source.as_deref(), request.segment.as_deref()), (Some("press-7"), Some("night")));
        assert_eq!(request.time, Some(Timestamp(1_000_000)));
        assert_eq!(request.outputs, Some(vec!["label".to_owned()]));
    }

    #[test]
    fn what_only_a_reading_can_be_goes_to_the_window_and_a_whole_row_past_it() {
        let number = |name: &str| json!({"name": name, "kind": "number"});
        let of = |names: &[&str]| -> Schema {
            let features: Vec<_> = names.iter().map(|name| number(name)).collect();
            serde_json::from_value(json!({"features": features, "task": "classification", "classes": ["off", "on"]}))
                .expect("a schema")
        };
        let (model, readings) = (of(&["t.mean", "t"]), of(&["t"]));
        let parse =
            |inputs: Value| InferRequest::parse(json!({"inputs": inputs}).to_string().as_bytes(), &model, &readings);
        let one = |name: &str| tensor(name, "FP32", &[1], &json!([3]));
        let reading = parse(json!([one("t")])).expect("a reading");
        assert_eq!((reading.readings, reading.rows), (true, vec![3.0]));
        let reading = parse(json!([tensor("reading", "FP32", &[2, 1], &json!([3, 4]))])).expect("readings");
        assert_eq!((reading.readings, reading.count, reading.rows), (true, 2, vec![3.0, 4.0]));
        let row = parse(json!([one("t"), one("t.mean")])).expect("a row");
        assert_eq!((row.readings, row.rows), (false, vec![3.0, 3.0]));
        let row = parse(json!([tensor("input", "FP32", &[2], &json!([3, 4]))])).expect("a row");
        assert!(!row.readings);
        assert_eq!(parse(json!([one("t.mean")])).expect_err("half a row").field(), Some("t"));
    }

    fn refused(request: &[Value], out: &mut String) {
        let error = parse(request).expect_err("must be refused");
        writeln!(out, "{}: {error}", error.code()).expect("a string takes any text");
    }

    #[test]
    fn a_bad_request_is_refused_with_field_reason_and_code() {
        let mut out = String::new();
        let auto = mode(&json!(["auto"]));
        refused(std::slice::from_ref(&auto), &mut out);
        refused(&[], &mut out);
        refused(&[tensor("tmep", "FP32", &[1], &json!([1])), auto.clone()], &mut out);
        refused(&[temp(&json!(["NaN"])), auto.clone()], &mut out);
        refused(&[temp(&json!([1e300])), auto.clone()], &mut out);
        refused(&[temp(&json!(["hot"])), auto.clone()], &mut out);
        refused(&[temp(&json!([1, 2])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP32", &[2], &json!([1])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP32", &[1, 2], &json!([1, 2])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP32", &[-1], &json!([1])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP32", &[], &json!([1])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP32", &[i64::MAX], &json!([1])), auto.clone()], &mut out);
        refused(&[tensor("temp", "INT32", &[1], &json!([1.5])), auto.clone()], &mut out);
        refused(&[tensor("temp", "UINT8", &[1], &json!([-1])), auto.clone()], &mut out);
        refused(&[tensor("temp", "FP128", &[1], &json!([1])), auto.clone()], &mut out);
        refused(&[temp(&json!([1])), tensor("mode", "INT8", &[1], &json!([1]))], &mut out);
        refused(&[temp(&json!([1])), temp(&json!([1])), auto], &mut out);
        refused(&[tensor("input", "FP32", &[1, 3], &json!([1, 2, 3]))], &mut out);
        refused(&[tensor("input", "BYTES", &[2], &json!(["1", "0"]))], &mut out);
        refused(&[tensor("input", "FP32", &[i64::MAX, 2], &json!([1, 2]))], &mut out);
        let expected: Expect = expect![[r#"
            missing_feature: `temp` is missing; send it, or null if it was not measured
            missing_feature: `temp` is missing; send it, or null if it was not measured
            unknown_field: `tmep` is not a field here, did you mean `temp`?; remove it or correct its name
            not_finite: `temp` is "NaN", which is not a finite single-precision number; send null if it was not measured
            not_finite: `temp` is 1e+300, which is not a finite single-precision number; send null if it was not measured
            wrong_type: `temp` is "hot" and a number is expected
            wrong_length: `mode` has length 1 and 2 is expected
            wrong_length: `temp` has length 1 and 2 is expected
            wrong_shape: `temp` has shape [1, 2] and [rows] or [rows, 1] is expected
            wrong_shape: `temp` has shape [-1] and [rows] or [rows, 1] is expected
            wrong_shape: `temp` has shape [] and [rows] or [rows, 1] is expected
            too_many_rows: `temp` has more than 1024 rows; send several batches
            wrong_type: `temp` is 1.5 and INT32, as declared, is expected
            wrong_type: `temp` is -1 and UINT8, as declared, is expected
            wrong_type: `temp` is "FP128" and a datatype of FP16, BF16, FP32, FP64, INT8 to INT64, UINT8 to UINT64, BOOL or BYTES is expected
            wrong_type: `mode` is 1 and text is expected
            malformed: the tensor `temp` is given twice; give it once
            wrong_shape: `input` has shape [1, 3] and [rows, 2], or [2] for one row, is expected
            wrong_type: `input` is "BYTES" and FP32 or FP64 is expected
            too_many_rows: `input` has more than 1024 rows; send several batches
        "#]];
        expected.assert_eq(&out);
        let code = |body: &[u8]| InferRequest::parse(body, &schema(), &schema()).expect_err("refused").code();
        assert_eq!(code(b"{"), "malformed");
        assert_eq!(code(b"\xff"), "malformed");
        assert_eq!(code(br#"{"inputs":[{"name":"input","shape":[2],"datatype":"FP32","data":[NaN,1]}]}"#), "malformed");
        assert_eq!(code(br#"{"inputs":[],"outputs":[{"name":"logits"}]}"#), "unknown_field");
    }

    #[test]
    fn an_answer_carries_probabilities_labels_ids_and_who_served() {
        let request = parse(&[tensor("input", "FP32", &[2, 2], &json!([1, 0, 2, 1]))]).expect("good");
        let served = Served {
            record_id: String::new(),
            served_by: "champion".to_owned(),
            digest: "ab12".to_owned(),
            stored: true,
            adaptation: None,
            kept: None,
            late: None,
        };
        let ids = vec!["01A".to_owned(), "01B".to_owned()];
        let response =
            InferResponse::new("main", &schema(), &request, &[0.25, 0.75, 0.5, 0.5], ids.clone(), served.clone());
        expect![[r#"{"model_name":"main","model_version":"ab12","id":"7","parameters":{"record_id":"01A","served_by":"champion","digest":"ab12","stored":true},"outputs":[{"name":"probabilities","shape":[2,2],"datatype":"FP32","data":[0.25,0.75,0.5,0.5]},{"name":"label","shape":[2],"datatype":"BYTES","data":["on","off"]},{"name":"record_id","shape":[2],"datatype":"BYTES","data":["01A","01B"]}]}"#]].assert_eq(&serde_json::to_string(&response).expect("JSON"));
        let only_label = InferRequest { outputs: Some(vec!["label".to_owned()]), ..request.clone() };
        let response =
            InferResponse::new("main", &schema(), &only_label, &[0.25, 0.75, 0.5, 0.5], ids.clone(), served.clone());
        assert_eq!(response.outputs.len(), 1);

        let targets = Task::Regression { targets: vec!["co".to_owned(), "no2".to_owned()] };
        let regression = Schema { task: targets, ..schema() };
        let response = InferResponse::new("main", &regression, &request, &[1.5, 20.0, 2.5, 30.0], ids, served);
        assert_eq!(response.outputs[1].data, OutputData::Numbers(vec![20.0, 30.0]));
        assert_eq!(
            response.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(),
            ["co", "no2", "record_id"]
        );
    }

    #[test]
    fn the_metadata_tells_a_caller_how_to_ask() {
        let metadata = model_metadata("main", vec!["ab12".to_owned()], &schema());
        expect![[r#"{"name":"main","versions":["ab12"],"platform":"hone","inputs":[{"name":"temp","datatype":"FP32","shape":[-1]},{"name":"mode","datatype":"BYTES","shape":[-1]}],"outputs":[{"name":"probabilities","datatype":"FP32","shape":[-1,2]},{"name":"label","datatype":"BYTES","shape":[-1]},{"name":"record_id","datatype":"BYTES","shape":[-1]}]}"#]].assert_eq(&serde_json::to_string(&metadata).expect("JSON"));
        let server = serde_json::to_string(&server_metadata("0.1.0")).expect("JSON");
        assert_eq!(server, r#"{"name":"hone","version":"0.1.0","extensions":[]}"#);
    }
}
