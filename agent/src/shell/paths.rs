//! Where things are: the state directory, the socket, the configuration files; and their reading.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};

/// The configuration file if none is named.
pub const CONFIG_FILE: &str = "/etc/hone/hone.toml";

/// What the surroundings say, read once so that the choice itself is a function.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Whether this is the superuser.
    pub root: bool,
    /// `$STATE_DIRECTORY`.
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`.
    pub runtime_directory: Option<PathBuf>,
    /// `$XDG_STATE_HOME`, else `$HOME/.local/state`.
    pub state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_home: Option<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A setting is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Where this agent lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Models and records.
    pub state_dir: PathBuf,
    /// The socket.
    pub socket: PathBuf,
}

impl Surroundings {
    /// Reads the environment.
    #[must_use]
    pub fn read() -> Self {
        let path = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
            // systemd lists several directories with colons; the first one is ours.
            let first = value.to_string_lossy().split(':').next().map(PathBuf::from);
            first.filter(|path| path.is_absolute())
        };
        Self {
            root: rustix::process::geteuid().is_root(),
            state_directory: path("STATE_DIRECTORY"),
            runtime_directory: path("RUNTIME_DIRECTORY"),
            state_home: path("XDG_STATE_HOME").or_else(|| Some(path("HOME")?.join(".local/state"))),
            runtime_home: path("XDG_RUNTIME_DIR"),
        }
    }

    /// Chooses the places: a command-line option wins over the configuration, both over the surroundings. A state directory
    /// that was named keeps its socket inside, so that two agents never share one.
    #[must_use]
    pub fn places(&self, state_dir: Option<&Path>, config: &Config) -> Places {
        let named = state_dir.or(config.agent.state_dir.as_deref());
        let chosen = || {
            self.state_directory.clone().unwrap_or_else(|| match &self.state_home {
                Some(home) if !self.root => home.join("hone"),
                _ => PathBuf::from("/var/lib/hone"),
            })
        };
        let state = named.map_or_else(chosen, Path::to_path_buf);
        let runtime = || match (&self.runtime_directory, &self.runtime_home) {
            _ if named.is_some() => state.clone(),
            (Some(directory), _) => directory.clone(),
            (None, _) if self.root => PathBuf::from("/run/hone"),
            (None, Some(home)) => home.join("hone"),
            (None, None) => state.clone(),
        };
        let socket = config.agent.socket.clone().unwrap_or_else(|| runtime().join("api.sock"));
        Places { state_dir: state, socket }
    }
}

/// Reads the configuration: `file`, or [`CONFIG_FILE`] if it is there, then `conf.d/*.toml` beside it in the order of names.
///
/// # Errors
/// [`LoadError`] names the file, and the key if one is at fault.
pub fn load(file: Option<&Path>) -> Result<Config, LoadError> {
    let path = file.unwrap_or(Path::new(CONFIG_FILE));
    let mut texts = Vec::new();
    match fs::read_to_string(path) {
        Ok(text) => texts.push((path.display().to_string(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {}
        Err(source) => {
            return Err(LoadError::Read { path: path.to_owned(), source });
        }
    }
    let folder = path.parent().unwrap_or(Path::new(".")).join("conf.d");
    let mut more: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(LoadError::Read { path: folder, source }),
    };
    more.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    more.sort();
    for path in more {
        let text = fs::read_to_string(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        texts.push((path.display().to_string(), text));
    }
    Ok(Config::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_settings_and_settings_over_the_surroundings() {
        let user = Surroundings {
            state_home: Some("/people/u/state".into()),
            runtime_home: Some("/run/user/7".into()),
            ..Surroundings::default()
        };
        let places = |around: &Surroundings, option: Option<&str>, config: &Config| {
            let Places { state_dir, socket } = around.places(option.map(Path::new), config);
            (state_dir.display().to_string(), socket.display().to_string())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let plain = Config::default();
        assert_eq!(places(&user, None, &plain), pair("/people/u/state/hone", "/run/user/7/hone/api.sock"));
        let root = Surroundings { root: true, ..user.clone() };
        assert_eq!(places(&root, None, &plain), pair("/var/lib/hone", "/run/hone/api.sock"));
        let unit = Surroundings { state_directory: Some("/s".into()), runtime_directory: Some("/r".into()), ..root };
        assert_eq!(places(&unit, None, &plain), pair("/s", "/r/api.sock"));
        let mut config = Config::default();
        config.agent.state_dir = Some("/configured".into());
        assert_eq!(places(&unit, None, &config), pair("/configured", "/configured/api.sock"));
        assert_eq!(places(&unit, Some("/option"), &config), pair("/option", "/option/api.sock"));
        config.agent.socket = Some("/sock".into());
        assert_eq!(places(&unit, Some("/option"), &config).1, "/sock");
    }

    #[test]
    fn files_of_conf_d_are_read_in_order_after_the_main_file_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("hone.toml");
        fs::write(&main, "[cycle]\nseed = 1\n").unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        for (name, text) in [("20.toml", "[cycle]\nseed = 3\n"), ("10.toml", "[cycle]\nseed = 2\n"), ("x.txt", "?")] {
            fs::write(folder.path().join("conf.d").join(name), text).unwrap();
        }
        assert_eq!(load(Some(&main)).unwrap().cycle.seed, 3);
        fs::write(folder.path().join("conf.d/20.toml"), "[cycle]\nsed = 3\n").unwrap();
        let error = load(Some(&main)).unwrap_err().to_string();
        assert!(error.contains("conf.d/20.toml:2") && error.contains("`cycle.seed`"), "{error}");
        assert!(load(Some(&folder.path().join("none.toml"))).is_err(), "a file that was named must be there");
    }
}
