//! Where an ordinary user's daemon has its files: below the user's own directories.

use std::io;
use std::path::{Path, PathBuf};

use crate::settings::{Paths, Settings};

/// The user's directories, as the XDG base directories name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directories {
    /// Sockets.
    pub(super) run: PathBuf,
    /// Configuration and rules.
    pub(super) config: PathBuf,
}

impl Directories {
    /// Finds them in the environment.
    ///
    /// # Errors
    ///
    /// There is neither `XDG_RUNTIME_DIR` nor `HOME`.
    pub(super) fn find(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        // A relative one is to be ignored, says the specification of these directories.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = |name: &str| absolute("HOME").map(|home| home.join(name));
        let config = absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let cache = || absolute("XDG_CACHE_HOME").or_else(|| below_home(".cache"));
        let run = absolute("XDG_RUNTIME_DIR").or_else(cache);
        let missing = || io::Error::new(io::ErrorKind::NotFound, "neither HOME nor XDG_RUNTIME_DIR is set");
        let run = run.ok_or_else(missing)?.join("svirt");
        let config = config.map_or_else(|| run.clone(), |config| config.join("svirt"));
        Ok(Self { run, config })
    }

    /// The user's configuration file.
    pub(super) fn settings(&self) -> String {
        text(&self.config.join("svirt.toml"))
    }

    /// Puts the user's directories where the configuration names none of its own.
    pub(super) fn fill(&self, settings: &mut Settings) {
        let system = Settings::default();
        if settings.paths.run == Paths::default().run {
            settings.paths.run = text(&self.run);
        }
        if settings.daemon.access == system.daemon.access {
            settings.daemon.access = text(&self.config.join("access.toml"));
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)]) -> io::Result<Directories> {
        Directories::find(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_ordinary_user_needs_no_configuration() {
        let found = find(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
        assert_eq!(
            (found.run.to_str(), found.config.to_str()),
            (Some("/run/user/7/svirt"), Some("/home/u/.config/svirt"))
        );
        let bare = find(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "relative")]).unwrap();
        assert_eq!(
            (bare.run.to_str(), bare.config.to_str()),
            (Some("/home/u/.cache/svirt"), Some("/home/u/.config/svirt"))
        );
        let mut settings = Settings::default();
        bare.fill(&mut settings);
        assert_eq!(settings.paths.run, "/home/u/.cache/svirt");
        settings.paths.run = "/elsewhere".into();
        found.fill(&mut settings);
        assert_eq!(settings.paths.run, "/elsewhere", "what is configured stays");
        assert!(find(&[]).is_err());
    }
}
