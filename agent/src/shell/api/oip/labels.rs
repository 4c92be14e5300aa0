//! Labels as the Open Inference Protocol can carry them: a model `labels` that takes record ids with truths and says what became of
//! each.
#![expect(clippy::cast_possible_wrap, reason = "rows are at most ROWS_MAX")]

use serde_json::{Map, Value};
use ulid::Ulid;

use super::metadata::{ModelMetadata, TensorMetadata};
use super::response::{OutputData, OutputTensor};
use super::{ROWS_MAX, WireRequest, WireTensor, unknown, values, wire, wrong_shape};
use crate::shell::ingest::samples::{Label, SampleError, parse_label_value, text, time, wrong_type};

/// Its name; a model that the settings call so goes before it.
pub const LABELS: &str = "labels";
/// Input: the id that an answer carried.
const RECORD_ID: &str = "record_id";
/// Input: the class, the value, or one value for each target.
const LABEL: &str = "label";
/// Outputs: what became of each, and why if it is not stored.
const OUTPUTS: [&str; 2] = ["outcome", "reason"];

/// Labels, each checked on its own.
#[derive(Debug)]
pub struct LabelsRequest {
    /// To be given back.
    pub id: Option<String>,
    /// Labels in the order of the rows.
    pub labels: Vec<Result<Label, SampleError>>,
    /// Names of the outputs wanted; `None` = all.
    outputs: Option<Vec<String>>,
}

impl LabelsRequest {
    /// Reads the body of `POST /v2/models/labels/infer`: tensors `record_id` and `label`, the latter `[rows]` or
    /// `[rows, targets]`; request parameters `source` and `time` for all of them.
    ///
    /// # Errors
    ///
    /// [`SampleError`] if the request as a whole cannot be read; a label that is wrong is refused alone.
    pub fn parse(body: &[u8]) -> Result<Self, SampleError> {
        let WireRequest { id, parameters, inputs, outputs } = wire(body)?;
        let outputs = outputs.map(|outputs| outputs.into_iter().map(|output| output.name).collect::<Vec<_>>());
        if let Some(name) = outputs.iter().flatten().find(|name| !OUTPUTS.contains(&name.as_str())) {
            return Err(unknown(name, None));
        }
        if let Some(tensor) = inputs.iter().find(|tensor| tensor.name != RECORD_ID && tensor.name != LABEL) {
            return Err(unknown(&tensor.name, None));
        }
        let tensor = |name: &str| {
            let missing = || SampleError::MissingFeature { field: name.to_owned() };
            inputs.iter().find(|tensor| tensor.name == name).ok_or_else(missing)
        };
        let (ids, truths) = (tensor(RECORD_ID)?, tensor(LABEL)?);
        let (rows, _) = shape(ids, 1)?;
        let (found, width) = shape(truths, usize::MAX)?;
        if found != rows {
            return Err(SampleError::WrongLength { field: LABEL.to_owned(), expected: rows, found });
        }
        let (ids, truths) = (values(ids, rows, 1)?, values(truths, rows, width)?);
        let (source, at) = (text(&parameters, "source")?, time(&parameters, "time")?);
        let labels = ids.into_iter().zip(truths.chunks(width)).map(|(id, truth)| {
            let found = id.as_str().and_then(|text| Ulid::from_string(text).ok());
            let record_id =
                found.ok_or_else(|| wrong_type(RECORD_ID, "the 26-character record id of an answer", id))?;
            let truth = match truth {
                [one] => (*one).clone(),
                several => several.iter().copied().cloned().collect(),
            };
            let label = parse_label_value(&Map::from_iter([(LABEL.to_owned(), truth)]))?;
            Ok(Label { record_id, label, source: source.clone(), time: at })
        });
        Ok(Self { id, labels: labels.collect(), outputs })
    }

    /// The outputs of what became of each label, as it would be told in JSON lines.
    #[must_use]
    pub fn outputs(&self, answers: &[Value]) -> Vec<OutputTensor> {
        let texts = |of: fn(&Value) -> &str| answers.iter().map(|answer| of(answer).to_owned()).collect();
        let output = |name: &str, data: Vec<String>| OutputTensor {
            name: name.to_owned(),
            shape: vec![answers.len() as i64],
            datatype: "BYTES",
            data: OutputData::Texts(data),
        };
        let outcome = output(OUTPUTS[0], texts(|answer| answer["outcome"].as_str().unwrap_or("refused")));
        let reason = output(OUTPUTS[1], texts(|answer| answer["error"].as_str().unwrap_or_default()));
        let wanted = |name: &String| self.outputs.as_ref().is_none_or(|wanted| wanted.contains(name));
        [outcome, reason].into_iter().filter(|output| wanted(&output.name)).collect()
    }
}

/// Rows and values of a row.
fn shape(tensor: &WireTensor, most: usize) -> Result<(usize, usize), SampleError> {
    let (rows, width) = match *tensor.shape.as_slice() {
        [rows] => (rows, 1),
        [rows, width] => (rows, width),
        _ => (0, 0),
    };
    let whole = |size: i64| usize::try_from(size).ok().filter(|size| *size > 0);
    match (whole(rows), whole(width)) {
        (Some(rows), _) if rows > ROWS_MAX => {
            Err(SampleError::TooManyRows { field: tensor.name.clone(), limit: ROWS_MAX })
        }
        (Some(rows), Some(width)) if width <= most.min(ROWS_MAX) => Ok((rows, width)),
        _ => Err(wrong_shape(tensor, if most == 1 { "[rows]" } else { "[rows] or [rows, targets]" })),
    }
}

/// Answers `GET /v2/models/labels`; the truth is of the datatype of `truth`.
#[must_use]
pub fn labels_metadata(is_class: bool) -> ModelMetadata {
    let tensor = |name: &str, datatype| TensorMetadata { name: name.to_owned(), datatype, shape: vec![-1] };
    let truth =
        if is_class { tensor(LABEL, "BYTES") } else { TensorMetadata { shape: vec![-1, -1], ..tensor(LABEL, "FP32") } };
    ModelMetadata {
        name: LABELS.to_owned(),
        versions: vec!["1".to_owned()],
        platform: "hone".to_owned(),
        inputs: vec![tensor(RECORD_ID, "BYTES"), truth],
        outputs: OUTPUTS.iter().map(|name| tensor(name, "BYTES")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shell::ingest::samples::LabelValue;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn parse(inputs: &Value) -> Result<LabelsRequest, SampleError> {
        let body = json!({"inputs": inputs, "parameters": {"source": "lab"}});
        LabelsRequest::parse(body.to_string().as_bytes())
    }

    fn ids(rows: usize) -> Value {
        json!({"name": "record_id", "shape": [rows], "datatype": "BYTES", "data": vec![ID; rows]})
    }

    fn truths(shape: &Value, data: &Value) -> Value {
        json!({"name": "label", "shape": shape, "datatype": "FP32", "data": data})
    }

    #[test]
    fn classes_values_and_targets_are_labels_and_a_wrong_one_is_refused_alone() {
        let values = |request: LabelsRequest| -> Vec<_> {
            request.labels.into_iter().map(|label| label.map(|label| label.label)).collect()
        };
        let read = values(parse(&json!([ids(2), truths(&json!([2]), &json!(["high", null]))])).unwrap());
        assert_eq!(read[0], Ok(LabelValue::Text("high".to_owned())));
        assert_eq!(read[1].as_ref().map_err(SampleError::field), Err(Some("label")));
        let read = values(parse(&json!([ids(2), truths(&json!([2, 2]), &json!([[1, 2], [3, 4]]))])).unwrap());
        assert_eq!(read[1], Ok(LabelValue::Numbers(vec![3.0, 4.0])));
        let wrong = json!({"name": "record_id", "shape": [2], "datatype": "BYTES", "data": ["x", ID]});
        let request = parse(&json!([wrong, truths(&json!([2, 1]), &json!([1.5, 2.5]))])).unwrap();
        assert_eq!(request.labels[0].as_ref().map_err(SampleError::field), Err(Some("record_id")));
        let label = request.labels[1].as_ref().unwrap();
        assert_eq!((&label.label, label.source.as_deref()), (&LabelValue::Number(2.5), Some("lab")));
    }

    #[test]
    fn a_request_that_cannot_be_meant_is_refused_whole() {
        let refused = |inputs: Value| parse(&inputs).expect_err("must be refused").code();
        assert_eq!(refused(json!([])), "missing_feature");
        assert_eq!(refused(json!([ids(1)])), "missing_feature");
        assert_eq!(refused(json!([ids(1), truths(&json!([2]), &json!([1, 2]))])), "wrong_length");
        assert_eq!(refused(json!([ids(1), truths(&json!([1]), &json!([1, 2]))])), "wrong_length");
        for shape in [json!([]), json!([0]), json!([1, 0]), json!([-1]), json!([1, 1, 1]), json!([1, i64::MAX])] {
            assert_eq!(refused(json!([ids(1), truths(&shape, &json!([1]))])), "wrong_shape", "{shape}");
        }
        assert_eq!(refused(json!([ids(1), truths(&json!([i64::MAX]), &json!([1]))])), "too_many_rows");
        assert_eq!(
            refused(json!([ids(1), {"name": "labels", "shape": [1], "datatype": "FP32", "data": [1]}])),
            "unknown_field"
        );
    }

    #[test]
    fn what_became_of_each_label_is_an_output() {
        let request = parse(&json!([ids(2), truths(&json!([2]), &json!([1, 2]))])).unwrap();
        let outputs = request.outputs(&[json!({"outcome": "stored"}), json!({"code": "wrong_type", "error": "no"})]);
        assert_eq!(outputs[0].data, OutputData::Texts(vec!["stored".to_owned(), "refused".to_owned()]));
        assert_eq!(outputs[1].data, OutputData::Texts(vec![String::new(), "no".to_owned()]));
    }
}
