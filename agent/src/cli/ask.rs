//! What commands that ask the running agent share: finding it, its refusals as exit codes, tables.
use std::io::ErrorKind;

use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::exit::{Exit, Fail};
use crate::config::Config;
use crate::shell::client::{Client, ClientError};
use crate::shell::paths::{self, LoadError, Places, Surroundings};

/// The configuration and the places it leads to.
pub(super) fn places(global: &Global) -> Result<(Config, Places)> {
    let config = paths::load(global.config.as_deref()).map_err(unconfigured)?;
    let places = Surroundings::read().places(global.state_dir.as_deref(), &config);
    Ok((config, places))
}

/// A configuration that cannot be used, as the command's end.
pub(super) fn unconfigured(error: LoadError) -> Fail {
    let hint = match &error {
        LoadError::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "run it as a user who may read that file, or name another with --config"
        }
        LoadError::Read { source, .. } if source.kind() != ErrorKind::NotFound => {
            "--config names one file of TOML; `hone init` writes one with every setting and its default"
        }
        _ => "`hone init` writes a file with every setting and its default",
    };
    Fail::new(Exit::Config, error).hint(hint)
}

/// The running agent.
pub(super) fn agent(global: &Global) -> Result<Client> {
    Ok(Client::new(&places(global)?.1.socket))
}

/// A failed request as the command's end.
pub(super) fn fail(error: ClientError) -> Fail {
    match &error {
        ClientError::Unreachable { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Fail::new(Exit::Unreachable, error).hint("ask as root, as the user it runs as, or as a member of its group")
        }
        ClientError::Unreachable { .. } => Fail::new(Exit::Unreachable, error)
            .hint("start it with `hone run`, or name its directory with `--state-dir`"),
        ClientError::Broken { .. } => {
            Fail::new(Exit::Unreachable, error).hint("try again; `hone status` tells whether it still runs")
        }
        ClientError::Refused { code, .. } => {
            let exit = match code.as_str() {
                "bundle" => Exit::Bundle,
                "disk" => Exit::Disk,
                "malformed" | "wrong_type" | "wrong_length" | "unknown_class" | "not_finite" => Exit::Input,
                _ => Exit::Refused,
            };
            Fail::new(exit, error)
        }
    }
}

/// Text of a JSON value; `-` for none.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}

/// The first 12 digits of a digest.
pub(super) fn short(value: &Value) -> String {
    text(value).chars().take(12).collect()
}

/// Prints rows in columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    print!("{}", table_text(head, rows));
}

/// Rows in columns as wide as their widest cell, a line each.
pub(super) fn table_text(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let line: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// The list under `key`.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
