//! Answers in words: the same over HTTP, over MQTT and in the record list.
use serde_json::{Map, Value, json};
use trainer_core::schema::{Schema, Task};

use crate::shell::daemon::Answered;

/// One answer: the class with all probabilities, or each target by name.
#[must_use]
pub fn output(schema: &Schema, answer: &[f32]) -> Value {
    let named =
        |names: &[String]| names.iter().cloned().zip(answer.iter().map(|value| json!(value))).collect::<Map<_, _>>();
    match &schema.task {
        Task::Classification { classes } => {
            let largest =
                (0..answer.len()).fold(0, |best, index| if answer[index] > answer[best] { index } else { best });
            json!({"label": classes.get(largest), "probabilities": named(classes)})
        }
        Task::Regression { targets } => json!({"targets": named(targets)}),
    }
}

/// An answered sample: its record, what was said, by whom, and whether it was taken for storing.
#[must_use]
pub fn answered(schema: &Schema, answered: &Answered) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("record_id".to_owned(), json!(answered.ids.first().map(ToString::to_string)));
    if let Value::Object(said) = output(schema, &answered.answers) {
        object.extend(said);
    }
    object.insert("served_by".to_owned(), json!(answered.by.1.as_str()));
    object.insert("digest".to_owned(), json!(answered.by.0));
    if answered.adaptation > 0 {
        object.insert("adaptation".to_owned(), json!(answered.adaptation));
    }
    object.insert("stored".to_owned(), json!(answered.stored));
    object
}
