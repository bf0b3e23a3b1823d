//! Where an ordinary user's svirt has its files, and which uids its processes have in the user's own namespace.

use std::path::{Path, PathBuf};

use super::{Settings, UidRange, Uids};

/// Uids and gids that a session needs besides the user's own: all that its table of uids names.
pub const SUBORDINATE: u32 = 62_001;

/// Numbers in the session's user namespace, where 0 is the user. The same for everybody.
const UIDS: Uids = Uids {
    frontend: 1001,
    imageprobe: 1002,
    hostprobe: 1003,
    domains: UidRange { first: 2000, count: 20_000 },
    supervisors: UidRange { first: 22_000, count: 20_000 },
    helpers: UidRange { first: 42_000, count: 20_000 },
    // No user can map owners of mounts, so nothing is shared in a session.
    guests: UidRange { first: 62_000, count: 1 },
};

/// The user's directories, by the specification of XDG's base directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDirectories {
    /// Sockets.
    run: PathBuf,
    /// Configuration, rules and definitions.
    config: PathBuf,
    cache: PathBuf,
    data: PathBuf,
    state: PathBuf,
}

impl UserDirectories {
    /// Finds them; `variable` gives what stands in the environment. `None` where `HOME` is no absolute path.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        // A link on the way to a home is root's, and root is a stranger in a session: what lies there is named without.
        let without_links = |path: PathBuf| path.canonicalize().unwrap_or(path);
        // A relative one is to be ignored, says the specification.
        let absolute = |name: &str| {
            variable(name).map(PathBuf::from).filter(|path| path.is_absolute()).map(without_links)
        };
        let home = absolute("HOME")?;
        let or = |name: &str, below: &str| {
            absolute(name).unwrap_or_else(|| without_links(home.join(below))).join("svirt")
        };
        let cache = or("XDG_CACHE_HOME", ".cache");
        Some(Self {
            run: absolute("XDG_RUNTIME_DIR").map_or_else(|| cache.join("run"), |run| run.join("svirt")),
            config: or("XDG_CONFIG_HOME", ".config"),
            data: or("XDG_DATA_HOME", ".local/share"),
            state: or("XDG_STATE_HOME", ".local/state"),
            cache,
        })
    }

    /// The user's configuration file.
    #[must_use]
    pub fn settings(&self) -> String {
        text(&self.config.join("svirt.toml"))
    }

    /// Puts the user's directories where the configuration names none of its own, and the session's uids.
    pub fn fill(&self, settings: &mut Settings) {
        let system = Settings::default();
        let put = |value: &mut String, default: &String, path: PathBuf| {
            if value == default {
                *value = text(&path);
            }
        };
        put(&mut settings.paths.run, &system.paths.run, self.run.clone());
        put(&mut settings.paths.state, &system.paths.state, self.state.join("journals"));
        put(&mut settings.paths.cache, &system.paths.cache, self.cache.join("roots"));
        put(&mut settings.daemon.access, &system.daemon.access, self.config.join("access.toml"));
        put(&mut settings.daemon.store, &system.daemon.store, self.config.join("daemon"));
        put(&mut settings.images.nvram, &system.images.nvram, self.state.join("nvram"));
        put(&mut settings.shmem.place, &system.shmem.place, self.run.join("shmem"));
        put(&mut settings.tpm.state, &system.tpm.state, self.state.join("tpm"));
        put(&mut settings.save.managed, &system.save.managed, self.state.join("managed-save"));
        put(&mut settings.save.dumps, &system.save.dumps, self.state.join("dumps"));
        let list = |value: &mut Vec<String>, default: &Vec<String>, paths: &[PathBuf]| {
            if value == default {
                *value = paths.iter().map(|path| text(path)).collect();
            }
        };
        let images = [self.data.join("images"), self.data.with_file_name("libvirt").join("images")];
        list(&mut settings.images.relabelable, &system.images.relabelable, &images);
        list(&mut settings.save.places, &system.save.places, &[self.state.join("saved")]);
        list(&mut settings.console.logs, &system.console.logs, &[self.state.join("logs")]);
        list(&mut settings.console.sockets, &system.console.sockets, &[self.run.join("consoles")]);
        settings.uids = UIDS;
        // There is nobody else, and no attribute that only root may write.
        settings.save.percent_per_user = 100;
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)]) -> Option<UserDirectories> {
        UserDirectories::find(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn directories_behind_links_are_named_without_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("real/u")).unwrap();
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("home")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("real/u/.cache")).unwrap();
        let found = find(&[("HOME", at("home/u").to_str().unwrap())]).unwrap();
        assert_eq!(found.state, at("real/u/.local/state/svirt"), "not there yet");
        assert_eq!(found.cache, at("elsewhere/svirt"));
    }

    #[test]
    fn an_ordinary_user_needs_no_configuration() {
        let found = find(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
        let bare = find(&[("HOME", "/home/u"), ("XDG_CONFIG_HOME", "relative")]).unwrap();
        assert_eq!(
            (found.settings().as_str(), found.settings()),
            ("/home/u/.config/svirt/svirt.toml", bare.settings())
        );
        let mut settings = Settings::default();
        found.fill(&mut settings);
        assert_eq!(settings.paths.run, "/run/user/7/svirt");
        assert_eq!(settings.daemon.store, "/home/u/.config/svirt/daemon");
        assert_eq!(
            settings.images.relabelable,
            ["/home/u/.local/share/svirt/images", "/home/u/.local/share/libvirt/images"]
        );
        let mut settings = Settings::default();
        settings.paths.state = "/elsewhere".into();
        bare.fill(&mut settings);
        assert_eq!(
            (settings.paths.state.as_str(), settings.paths.run.as_str()),
            ("/elsewhere", "/home/u/.cache/svirt/run")
        );
        assert!(find(&[]).is_none());
    }

    #[test]
    fn what_is_asked_for_covers_every_uid() {
        let ranges = [UIDS.domains, UIDS.supervisors, UIDS.helpers];
        let last = ranges.iter().map(|range| range.first + range.count - 1).max();
        assert_eq!(last, Some(SUBORDINATE - 2));
        let mut settings = Settings::default();
        find(&[("HOME", "/home/u")]).unwrap().fill(&mut settings);
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(Settings::from_toml(&text, "test").unwrap(), settings, "the numbers pass every check");
    }
}
