//! Settings that the fleet wants: laid over those of the files, judged as a whole, and told apart by when they take effect.
use fleet_protocol::report::SettingError;
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::{Config, merge, of_table, settings};
use fleet_protocol::keys::Role;

/// What only the files of the device say: a fleet that sets these could cut the device off from itself.
pub const DEVICE_ONLY: [&str; 10] = [
    "agent.listen",
    "agent.state_dir",
    "agent.socket",
    "mqtt.broker",
    "mqtt.device",
    "mqtt.ca_file",
    "mqtt.certificate_file",
    "mqtt.key_file",
    "mqtt.sparkplug",
    "mqtt.will_delay_s",
];

/// What takes effect at once; everything else does at the next start.
pub const LIVE: [&str; 7] = [
    "training",
    "records.keep_bytes",
    "snapshots.keep_bytes",
    "mqtt.trust",
    "mqtt.report_s",
    "mqtt.metrics_s",
    "mqtt.outbox_bytes_max",
];

impl Config {
    /// These settings with `changes` over them, all or none.
    ///
    /// # Errors
    /// Every key that is unknown, of another type or the device's own; else the first that is out of its range.
    pub fn with(&self, changes: &Map<String, Json>) -> Result<Self, Vec<SettingError>> {
        let refused = |key: &str, reason: String| SettingError { key: key.to_owned(), reason };
        let base = table(self).map_err(|reason| vec![refused("", reason)])?;
        let mut leaves = Vec::new();
        flatten("", changes, &mut leaves);
        let mut errors = Vec::new();
        let mut merged = base.clone();
        for (key, value) in &leaves {
            if DEVICE_ONLY.iter().any(|own| covers(own, key)) {
                errors.push(refused(key, "set on the device only".to_owned()));
                continue;
            }
            let change = match Value::try_from(value) {
                Ok(value) => nested(key, value),
                Err(error) => {
                    errors.push(refused(key, error.to_string()));
                    continue;
                }
            };
            let mut alone = base.clone();
            merge(&mut alone, change.clone());
            match of_table(&alone) {
                Ok(_) => merge(&mut merged, change),
                Err(error) => errors.push(refused(key, error.message().to_owned())),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let config = of_table(&merged).map_err(|error| vec![refused("", error.message().to_owned())])?;
        settings::check(&config).map_err(|error| {
            let key = if let super::ConfigError::Range { key, .. } = &error { key.clone() } else { String::new() };
            vec![refused(&key, error.to_string())]
        })?;
        let trusts = |config: &Self| config.mqtt.trust.iter().any(|entry| entry.roles.contains(&Role::Admin));
        if config.mqtt.trust != self.mqtt.trust && !trusts(&config) {
            return Err(vec![refused(
                "mqtt.trust",
                "no key with role admin is left, nobody could set it again".to_owned(),
            )]);
        }
        Ok(config)
    }

    /// The dotted keys in which `other` differs and that take effect only at the next start.
    #[must_use]
    pub fn needs_restart(&self, other: &Self) -> Vec<String> {
        let (Ok(one), Ok(other)) = (serde_json::to_value(self), serde_json::to_value(other)) else { return Vec::new() };
        let (Json::Object(one), Json::Object(other)) = (one, other) else { return Vec::new() };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        flatten("", &one, &mut before);
        flatten("", &other, &mut after);
        let differs = |(key, value): &(String, &Json)| before.iter().all(|(old, was)| old != key || was != value);
        let gone = before.iter().filter(|(key, _)| after.iter().all(|(new, _)| new != key));
        let keys = after.iter().filter(|pair| differs(pair)).chain(gone).map(|(key, _)| key.clone());
        keys.filter(|key| !LIVE.iter().any(|live| covers(live, key))).collect()
    }
}

fn table(config: &Config) -> Result<Table, String> {
    Table::try_from(config).map_err(|error| error.to_string())
}

/// Whether `key` is `name` or lies below it.
fn covers(name: &str, key: &str) -> bool {
    key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn flatten<'a>(prefix: &str, map: &'a Map<String, Json>, leaves: &mut Vec<(String, &'a Json)>) {
    for (key, value) in map {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Json::Object(inner) => flatten(&key, inner, leaves),
            leaf => leaves.push((key, leaf)),
        }
    }
}

/// `a.b` with a value as a table in a table.
fn nested(key: &str, value: Value) -> Table {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let inner = if rest.is_empty() { value } else { Value::Table(nested(rest, value)) };
    Table::from_iter([(first.to_owned(), inner)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(changes: Json) -> Result<Config, Vec<(String, String)>> {
        let Json::Object(changes) = changes else { panic!() };
        let pairs = |errors: Vec<SettingError>| errors.into_iter().map(|error| (error.key, error.reason)).collect();
        Config::default().with(&changes).map_err(pairs)
    }

    #[test]
    fn settings_are_laid_over_key_by_key_and_what_is_not_named_stays() {
        let config = with(json!({"cycle": {"watch": {"columns": {"psi": 0.4}}}, "mqtt": {"report_s": 5}})).unwrap();
        assert_eq!((config.cycle.watch.columns.psi, config.mqtt.report_s), (0.4, 5));
        assert_eq!(config.cycle.watch.columns.bins, Config::default().cycle.watch.columns.bins);
        assert_eq!(
            Config::default().needs_restart(&config),
            ["cycle.watch.columns.psi"],
            "the other one takes effect at once"
        );
        assert_eq!(with(json!({})), Ok(Config::default()));
    }

    #[test]
    fn one_wrong_key_refuses_all_of_them_and_every_wrong_one_is_named() {
        let errors = with(json!({
            "mqtt": {"report_s": 5, "broker": "mqtt://elsewhere"}, "cycle": {"watch": {"psy": 1}}, "agent": {"commit_s": "soon"}
        }))
        .unwrap_err();
        let keys: Vec<_> = errors.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["mqtt.broker", "cycle.watch.psy", "agent.commit_s"]);
        assert!(errors[1].1.contains("unknown field"), "{errors:?}");
        let errors = with(json!({"mqtt": {"report_s": 0}})).unwrap_err();
        assert!(errors[0].0 == "mqtt.report_s" && errors[0].1.contains("1 to 3600"), "{errors:?}");
        assert!(with(json!({"mqtt": {"trust": [null]}})).is_err());
    }

    #[test]
    fn the_last_admin_cannot_be_taken_away() {
        // The base point of the curve: a good key, so that only its roles can be what is wrong.
        let trust = |roles: &[&str]| {
            let public = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=";
            with(json!({"mqtt": {"trust": [{"public": public, "roles": roles}]}}))
        };
        assert_eq!(trust(&["admin"]).map(drop), Ok(()));
        let errors = trust(&["operator"]).unwrap_err();
        assert!(errors[0].0 == "mqtt.trust" && errors[0].1.contains("no key with role admin is left"), "{errors:?}");
    }
}
