//! Configuration files of earlier layouts, brought forward one closed step at a time; those of a later one are refused.
//!
//! A step is one file in `migrations/`, a function from table to table that imports nothing but `toml`: once released it is
//! never edited, a change is the next file. `layout_1.toml` is a file as the first release read it.
use toml::Table;

use super::ConfigError;

/// Leads a file of one layout to the next.
type Step = fn(&mut Table);

/// Step `n` leads from layout `n + 1` to `n + 2`. The first layout is the newest so far.
const STEPS: [Step; 0] = [];

/// The layout that this hone reads and writes.
#[must_use]
pub(super) fn newest() -> i64 {
    known(&STEPS)
}

/// Brings `table`, read from `file`, to this layout; a file that names none is of the newest.
pub(super) fn forward(file: &str, table: &mut Table) -> Result<(), ConfigError> {
    forward_by(&STEPS, file, table)
}

fn known(steps: &[Step]) -> i64 {
    i64::try_from(steps.len()).expect("a handful of steps") + 1
}

fn forward_by(steps: &[Step], file: &str, table: &mut Table) -> Result<(), ConfigError> {
    let known = known(steps);
    let Some(found) = table.get("layout").and_then(toml::Value::as_integer) else { return Ok(()) };
    if found > known {
        return Err(ConfigError::Newer { file: file.to_owned(), found, known });
    }
    if found < 1 {
        let range = format!("1 to {known}");
        return Err(ConfigError::Range { key: "layout".to_owned(), value: found.to_string(), range });
    }
    for step in steps.iter().skip(usize::try_from(found - 1).unwrap_or(0)) {
        step(table);
    }
    table.insert("layout".to_owned(), toml::Value::Integer(known));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn rename(table: &mut Table) {
        if let Some(value) = table.remove("old") {
            table.insert("new".to_owned(), value);
        }
    }

    fn raise(table: &mut Table) {
        if let Some(toml::Value::Integer(number)) = table.get_mut("new") {
            *number *= 1_000;
        }
    }

    fn read(text: &str) -> Result<Table, ConfigError> {
        let mut table: Table = toml::from_str(text).unwrap();
        forward_by(&[rename, raise], "hone.toml", &mut table).map(|()| table)
    }

    #[test]
    fn each_file_takes_the_steps_it_has_not_seen() {
        for text in ["layout = 1\nold = 5", "layout = 2\nnew = 5", "layout = 3\nnew = 5000", "new = 5000"] {
            let table = read(text).unwrap();
            assert_eq!(table["new"].as_integer(), Some(5_000), "{text}");
        }
    }

    #[test]
    fn a_file_of_a_newer_hone_is_refused_with_the_reason() {
        let refused = read("layout = 4").unwrap_err().to_string();
        assert!(
            refused.contains("layout 4") && refused.contains("up to 3") && refused.contains("newer hone"),
            "{refused}"
        );
        assert!(read("layout = 0").is_err());
        let whole = Config::parse([("hone.toml", "layout = 99\n[nonsense]\n")]).unwrap_err();
        assert!(matches!(whole, ConfigError::Newer { found: 99, .. }), "before anything else in it is read: {whole}");
    }

    #[test]
    fn a_file_of_the_first_layout_still_means_what_it_meant() {
        let config = Config::parse([("layout_1.toml", include_str!("migrations/layout_1.toml"))]).unwrap();
        assert_eq!((config.agent.listen.as_str(), config.agent.commit_s), ("127.0.0.1:9000", 60));
        assert_eq!((config.records.keep_bytes, config.records.groups.group_rows), (1 << 30, 128));
        assert_eq!((config.cycle.seed, config.cycle.policy.to_string().as_str()), (7, "value"));
        assert_eq!((config.mqtt.broker.as_str(), config.mqtt.keep_alive_s), ("off", 60));
    }
}
