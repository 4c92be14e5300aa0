//! From a message to readings and labels: topic filters, JSON pointers, templates of topic levels. Plain functions.
use serde_json::{Map, Value};
use trainer_core::schema::{Feature, Schema};
use ulid::Ulid;

use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::ingest::join::Reading;
use crate::shell::ingest::samples::{
    Counts, Label, NAME_BYTES_MAX, SampleError, parse_label_value, read_value, wrong_type,
};
use crate::shell::ingest::settings::TopicSettings;

/// Levels of a topic that are looked at.
const LEVELS_MAX: usize = 32;

/// What a message of samples holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mapped {
    /// No feature of the model.
    Nothing,
    /// Some or all features.
    Reading(Reading),
}

/// Why `filter` is no topic filter, if it is none.
#[must_use]
pub fn filter_problem(filter: &str) -> Option<&'static str> {
    let levels: Vec<_> = filter.split('/').collect();
    let last = levels.len() - 1;
    if filter.is_empty() || levels.len() > LEVELS_MAX || filter.len() > 1_024 {
        return Some("a topic filter of 1 to 32 levels");
    }
    let whole = |level: &&str| level.len() == 1 || !level.contains(['+', '#']);
    if !levels.iter().all(whole) || levels[..last].contains(&"#") {
        return Some("a topic filter: `+` stands for a whole level, `#` for all levels at the end");
    }
    None
}

/// The first `{…}` of `template` that a topic of `filter` can never fill, in words; `others` are filled by something else.
#[must_use]
pub fn template_problem(template: &str, filter: &str, others: &[&str]) -> Option<String> {
    let levels = if filter.ends_with('#') { LEVELS_MAX } else { filter.split('/').count() };
    let is_level = |word: &str| (1..=levels).any(|level| level.to_string() == word);
    let words = template.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(word, _)| word);
    let unknown = words.into_iter().find(|word| !is_level(word) && !others.contains(word))?;
    let others: String = others.iter().map(|word| format!(" and `{{{word}}}`")).collect();
    Some(format!("a text with `{{1}}` to `{{{levels}}}` for the levels of `{filter}`{others}: `{{{unknown}}}` is none"))
}

/// Whether a topic is one of `filter`.
pub(super) fn fits(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // Also the level above: `a/#` fits `a`.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// `template` with `{2}` as the second level of `topic` and `{source}` as who measured.
pub(super) fn filled(template: &str, topic: &str, source: &str) -> String {
    let mut text = template.replace("{source}", source);
    for (index, level) in topic.split('/').take(LEVELS_MAX).enumerate() {
        text = text.replace(&format!("{{{}}}", index + 1), level);
    }
    text
}

/// A name: by JSON pointer out of the message, or by template out of the topic.
fn name(setting: &str, field: &str, topic: &str, body: &Value) -> Result<Option<String>, SampleError> {
    let text = if setting.starts_with('/') {
        match body.pointer(setting) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => return Err(wrong_type(field, "a text", other)),
        }
    } else {
        filled(setting, topic, "").trim_end_matches('/').to_owned()
    };
    match text.len() {
        0 => Ok(None),
        1..=NAME_BYTES_MAX => Ok(Some(text)),
        _ => Err(wrong_type(field, &format!("a text of 1 to {NAME_BYTES_MAX} bytes"), &Value::from(text))),
    }
}

fn time(pointer: &str, body: &Value) -> Result<Option<Timestamp>, SampleError> {
    let pointer = if pointer.is_empty() { "/time" } else { pointer };
    let text = match body.pointer(pointer) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let expected = "an RFC 3339 time or seconds since 1970";
    clock::moment(&text).map(Some).ok_or_else(|| wrong_type("time", expected, &Value::from(text)))
}

/// The features of the model that a message holds.
pub(super) fn reading(
    entry: &TopicSettings,
    topic: &str,
    body: &Value,
    schema: &Schema,
) -> Result<Mapped, SampleError> {
    if !body.is_object() {
        return Err(SampleError::Malformed { field: None, reason: "the message is no JSON object".to_owned() });
    }
    let (mut values, mut counts) = (Vec::new(), Counts::default());
    for (column, feature) in schema.features.iter().enumerate() {
        if let Some(value) = find(entry, feature, body) {
            values.push((column, read_value(feature, value, &mut counts)?));
        }
    }
    if values.is_empty() {
        return Ok(Mapped::Nothing);
    }
    let source = if entry.source.is_empty() { topic } else { &entry.source };
    let source =
        name(source, "source", topic, body)?.unwrap_or_else(|| topic.chars().take(NAME_BYTES_MAX / 4).collect());
    let segment = name(&entry.segment, "segment", topic, body)?;
    Ok(Mapped::Reading(Reading { source, segment, time: time(&entry.time, body)?, values, counts }))
}

fn find<'a>(entry: &TopicSettings, feature: &Feature, body: &'a Value) -> Option<&'a Value> {
    if let Some(pointer) = entry.fields.get(&feature.name) {
        return body.pointer(pointer);
    }
    let own = body.get(&feature.name);
    own.or_else(|| feature.name.split('.').try_fold(body, |value, level| value.get(level)))
}

/// The label that a message holds.
pub(super) fn label(entry: &TopicSettings, topic: &str, body: &Value) -> Result<Label, SampleError> {
    let pointer = |set: &'static str, own: &str| if own.is_empty() { set.to_owned() } else { own.to_owned() };
    let id = body.pointer(&pointer("/record_id", &entry.record_id));
    let Some(id) = id.filter(|id| !id.is_null()) else {
        let reason = "`record_id` is missing; every label needs that of an answer".to_owned();
        return Err(SampleError::Malformed { field: Some("record_id".to_owned()), reason });
    };
    let record_id = id.as_str().and_then(|text| Ulid::from_string(text).ok());
    let record_id = record_id.ok_or_else(|| wrong_type("record_id", "the 26-character record id of an answer", id))?;
    let mut object = Map::new();
    if let Some(value) = body.pointer(&pointer("/label", &entry.label)) {
        object.insert("label".to_owned(), value.clone());
    }
    let label = parse_label_value(&object)?;
    let source = if entry.source.is_empty() { None } else { name(&entry.source, "source", topic, body)? };
    Ok(Label { record_id, label, source, time: time(&entry.time, body)? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trainer_core::schema::{FeatureKind, Task};

    use super::*;
    use crate::shell::ingest::samples::LabelValue;
    use crate::shell::ingest::settings::InputMqttSettings;

    fn schema(names: &[&str]) -> Schema {
        let feature =
            |name: &&str| Feature { name: (*name).to_owned(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Regression { targets: vec!["y".to_owned()] };
        Schema { features: names.iter().map(feature).collect(), task }
    }

    #[test]
    fn filters_fit_topics_as_the_specification_says() {
        for (filter, topic, fit) in [
            ("te/+/+/+/+/m/+", "te/device/main///m/environment", true),
            ("te/+/+/+/+/m/+", "te/device/main///e/alarm", false),
            ("te/+/+/+/+/m/+", "te/device/main///m", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("#", "x/y", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(fits(filter, topic), fit, "{filter} {topic}");
        }
        for wrong in ["", "a/#/b", "a+/b", "a/b#"] {
            assert!(filter_problem(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn a_level_that_no_topic_of_the_filter_has_is_found_in_a_template() {
        for (template, filter, fine) in [
            ("{1}/{3}", "plant/+/+", true),
            ("{4}", "plant/+/+", false),
            ("{9}", "plant/#", true),
            ("{33}", "plant/#", false),
            ("{0}", "plant/+/+", false),
            ("{01}", "plant/+/+", false),
            ("{line}", "plant/+/+", false),
            ("{source}/{2}", "plant/+/+", true),
            ("press {", "plant/+/+", true),
            ("{2}{", "plant/+/+", true),
        ] {
            assert_eq!(template_problem(template, filter, &["source"]).is_none(), fine, "{template} {filter}");
        }
        let said = template_problem("a-{7}", "plant/+/+", &[]).unwrap();
        assert!(said.contains("`{1}` to `{3}`") && said.contains("`plant/+/+`") && said.contains("`{7}`"), "{said}");
    }

    #[test]
    fn a_thin_edge_measurement_is_read_without_a_word_of_settings() {
        let entry = &InputMqttSettings::default().topics[0];
        let schema = schema(&["temperature", "coordinate.x", "absent"]);
        let body = json!({"time": "2026-11-21T00:40:00.5Z", "temperature": 25.5, "coordinate": {"x": 32, "y": 1}});
        let mapped = reading(entry, "te/device/child01///m/environment", &body, &schema).expect("good");
        let Mapped::Reading(reading_of) = mapped else { panic!("{mapped:?}") };
        assert_eq!(reading_of.values, [(0, 25.5), (1, 32.0)]);
        assert_eq!((reading_of.source.as_str(), reading_of.segment), ("device/child01", None));
        assert_eq!(reading_of.time, Some(Timestamp(1_795_221_600_500_000)));
        let seconds = json!({"time": 1_795_221_600.5, "temperature": 1});
        let Ok(Mapped::Reading(by_number)) = reading(entry, "te/device/main/service/x/m/", &seconds, &schema) else {
            panic!("a time in seconds is a time")
        };
        assert_eq!((by_number.time, by_number.source.as_str()), (reading_of.time, "device/main/service/x"));
        assert_eq!(reading(entry, "te/device/main///m/cpu", &json!({"load": 1}), &schema), Ok(Mapped::Nothing));
    }

    #[test]
    fn fields_source_and_segment_are_found_by_pointer_or_by_topic_level() {
        let entry = TopicSettings {
            topic: "plant/+/+".to_owned(),
            source: "/meta/id".to_owned(),
            segment: "line-{2}".to_owned(),
            fields: [("temp".to_owned(), "/values/0/v".to_owned())].into(),
            output: "answers/{3}/{source}".to_owned(),
            ..TopicSettings::default()
        };
        let body = json!({"meta": {"id": 7}, "values": [{"v": 1.5}], "temp": 99});
        let Ok(Mapped::Reading(found)) = reading(&entry, "plant/4/press", &body, &schema(&["temp"])) else {
            panic!("good")
        };
        assert_eq!(
            (found.source.as_str(), found.segment.as_deref(), found.values),
            ("7", Some("line-4"), vec![(0, 1.5)])
        );
        assert_eq!(filled(&entry.output, "plant/4/press", "7"), "answers/press/7");
        let bad = json!({"meta": {"id": 7}, "values": [{"v": "hot"}]});
        assert_eq!(reading(&entry, "plant/4/press", &bad, &schema(&["temp"])).unwrap_err().code(), "wrong_type");
        assert_eq!(reading(&entry, "plant/4/press", &json!(1), &schema(&["temp"])).unwrap_err().code(), "malformed");
        let when = json!({"time": "soon", "values": [{"v": 1}]});
        assert_eq!(reading(&entry, "plant/4/press", &when, &schema(&["temp"])).unwrap_err().field(), Some("time"));
    }

    #[test]
    fn a_label_is_read_from_where_the_settings_say() {
        let entry = TopicSettings {
            record_id: "/of".to_owned(),
            label: "/truth/class".to_owned(),
            source: "{1}".to_owned(),
            ..TopicSettings::default()
        };
        let id = "01JD6Y9K3V0000000000000000";
        let read = label(&entry, "lab/x", &json!({"of": id, "truth": {"class": "on"}})).expect("good");
        assert_eq!((read.label, read.source.as_deref()), (LabelValue::Text("on".to_owned()), Some("lab")));
        let code = |body: Value| label(&entry, "lab/x", &body).unwrap_err().code();
        assert_eq!(code(json!({"truth": {"class": "on"}})), "malformed");
        assert_eq!(code(json!({"of": "x", "truth": {"class": "on"}})), "wrong_type");
        assert_eq!(code(json!({"of": id})), "malformed");
    }
}
