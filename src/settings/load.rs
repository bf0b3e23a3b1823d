//! Text of the configuration file to checked [`Settings`]; every complaint names file and line.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::{Network, Settings, UidRange};
use crate::base::{Layer, Refusal};

/// The longest configuration file that is read, in bytes.
pub const FILE_MAX: usize = 1 << 20;

/// What is wrong with a configuration file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The file, as it was named.
    pub file: String,
    /// Line, counted from 1; 0 where the complaint concerns a default.
    pub line: usize,
    /// The setting, such as `uids.domains`, or empty where the text is no TOML at all.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for SettingsError {}

impl From<SettingsError> for Refusal {
    fn from(error: SettingsError) -> Self {
        let object =
            if error.line > 0 { format!("{}:{}", error.file, error.line) } else { error.file.clone() };
        let rule =
            if error.key.is_empty() { error.message } else { format!("{}: {}", error.key, error.message) };
        Self::new(
            Layer::Configuration,
            "use the configuration",
            object,
            rule,
            "correct that line; `svirt config check` tells whether the file is good",
        )
    }
}

impl Settings {
    /// Reads a configuration file's text; `file` is what complaints call it.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, SettingsError> {
        let error =
            |line, key: String, message: String| SettingsError { file: file.to_owned(), line, key, message };
        if text.len() > FILE_MAX {
            return Err(error(0, String::new(), format!("{} bytes; at most {FILE_MAX}", text.len())));
        }
        let settings: Self = toml::from_str(text).map_err(|wrong: toml::de::Error| {
            let at = wrong.span().map_or(0, |span| span.start);
            error(line_of(text, at), String::new(), wrong.message().to_owned())
        })?;
        match settings.complaint() {
            None => Ok(settings),
            Some((key, message)) => Err(error(find(text, &key), key, message)),
        }
    }

    /// The first setting whose value makes no sense, and why.
    #[must_use]
    pub fn complaint(&self) -> Option<(String, String)> {
        self.paths_complaint()
            .or_else(|| self.dumps_complaint())
            .or_else(|| self.uids_complaint())
            .or_else(|| self.limits_complaint())
            .or_else(|| self.devices_complaint())
            .or_else(|| self.selinux_complaint())
            .or_else(|| self.dois_complaint())
            .or_else(|| self.relocation.complaint())
    }

    fn paths_complaint(&self) -> Option<(String, String)> {
        let one = [
            ("paths.run", &self.paths.run),
            ("paths.state", &self.paths.state),
            ("paths.cache", &self.paths.cache),
            ("paths.doi", &self.paths.doi),
            ("network.passt", &self.network.passt),
            ("tpm.swtpm", &self.tpm.swtpm),
            ("shmem.place", &self.shmem.place),
            ("tpm.state", &self.tpm.state),
            ("save.managed", &self.save.managed),
            ("save.dumps", &self.save.dumps),
            ("images.nvram", &self.images.nvram),
            ("daemon.access", &self.daemon.access),
            ("daemon.store", &self.daemon.store),
        ];
        let lists = [
            ("images.relabelable", &self.images.relabelable),
            ("images.readable", &self.images.readable),
            ("images.block_devices", &self.images.block_devices),
            ("emulators.allowed", &self.emulators.allowed),
            ("save.places", &self.save.places),
            ("shares.places", &self.shares.places),
            ("shares.virtiofsd", &self.shares.virtiofsd),
            ("console.logs", &self.console.logs),
            ("console.sockets", &self.console.sockets),
        ];
        let libexec = Some(("paths.libexec", &self.paths.libexec)).filter(|(_, path)| !path.is_empty());
        one.into_iter()
            .chain(libexec)
            .chain(lists.into_iter().flat_map(|(key, paths)| paths.iter().map(move |path| (key, path))))
            .find_map(|(key, path)| path_complaint(path).map(|wrong| (key.to_owned(), wrong)))
            .or_else(|| {
                self.emulators
                    .allowed
                    .is_empty()
                    .then(|| ("emulators.allowed".into(), "no emulator: nothing could be started".into()))
            })
    }

    /// A dump's header may be a saved domain's, by the device model's will: only where it lies tells them apart.
    fn dumps_complaint(&self) -> Option<(String, String)> {
        let below = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let dumps = &self.save.dumps;
        let mut saves = self.save.places.iter().chain([&self.save.managed]);
        let other = saves.find(|other| below(dumps, other) || below(other, dumps))?;
        let wrong = format!("overlaps {other} of saved domains; dumps need a directory apart from those");
        Some(("save.dumps".into(), wrong))
    }

    fn uids_complaint(&self) -> Option<(String, String)> {
        let one = |uid| UidRange { first: uid, count: 1 };
        let ranges = [
            ("uids.frontend", one(self.uids.frontend)),
            ("uids.imageprobe", one(self.uids.imageprobe)),
            ("uids.hostprobe", one(self.uids.hostprobe)),
            ("uids.domains", self.uids.domains),
            ("uids.supervisors", self.uids.supervisors),
            ("uids.helpers", self.uids.helpers),
            ("uids.guests", self.uids.guests),
        ];
        for (at, (key, range)) in ranges.iter().enumerate() {
            if let Some(wrong) = range_complaint(*range) {
                return Some(((*key).to_owned(), wrong));
            }
            for (other, before) in ranges.iter().take(at) {
                if overlap(*range, *before) {
                    return Some(((*key).to_owned(), format!("overlaps {other}; each needs its own uids")));
                }
            }
        }
        None
    }

    fn limits_complaint(&self) -> Option<(String, String)> {
        let limits = &self.limits;
        let checks = [
            ("limits.domains", (1..=65_536).contains(&limits.domains), "not in 1..=65536"),
            ("limits.vcpus", (1..=4096).contains(&limits.vcpus), "not in 1..=4096"),
            ("limits.chain_depth", (1..=200).contains(&limits.chain_depth), "not in 1..=200"),
            ("limits.start_timeout", (1..=3600).contains(&limits.start_timeout), "not in 1..=3600 seconds"),
            ("daemon.change_wait", (1..=3600).contains(&self.daemon.change_wait), "not in 1..=3600 seconds"),
            ("save.percent_per_user", self.save.percent_per_user <= 100, "more than 100 percent"),
            ("uids.domains", limits.domains <= self.uids.domains.count, "fewer than limits.domains allows"),
            ("console.scrollback", self.console.scrollback <= 16 << 20, "more than 16777216 bytes"),
            (
                "vnc.ports",
                0 < self.vnc.ports.0 && self.vnc.ports.0 <= self.vnc.ports.1,
                "not a range of ports",
            ),
        ];
        checks
            .into_iter()
            .find(|(_, good, _)| !good)
            .map(|(key, _, wrong)| (key.to_owned(), wrong.to_owned()))
    }

    fn devices_complaint(&self) -> Option<(String, String)> {
        let network = &self.network;
        let lists = [("network.taps", &network.taps), ("network.bridges", &network.bridges)];
        let listed = lists.into_iter().find_map(|(key, patterns)| {
            let wrong = patterns.iter().find(|pattern| {
                let name = pattern.strip_suffix('*').unwrap_or(pattern);
                let rest = pattern.len() > name.len() && name.is_empty();
                !rest && !Network::is_interface(name)
            })?;
            Some((key.to_owned(), format!("{wrong:?} is no interface name or prefix*")))
        });
        let default = (!Network::is_interface(&network.default)).then(|| {
            let wrong = format!("{:?} is neither \"user\" nor the name of a bridge", network.default);
            ("network.default".to_owned(), wrong)
        });
        listed.or(default)
    }

    fn selinux_complaint(&self) -> Option<(String, String)> {
        let types = &self.selinux;
        let one = [
            ("selinux.guest_type", &types.guest_type),
            ("selinux.guest_tcg_type", &types.guest_tcg_type),
            ("selinux.image_type", &types.image_type),
            ("selinux.content_type", &types.content_type),
            ("selinux.save_type", &types.save_type),
            ("selinux.supervisor_type", &types.supervisor_type),
            ("selinux.passt_type", &types.passt_type),
        ];
        let lists = [
            ("selinux.extra_types", &types.extra_types),
            ("selinux.extra_image_types", &types.extra_image_types),
        ];
        one.into_iter()
            .chain(lists.into_iter().flat_map(|(key, names)| names.iter().map(move |name| (key, name))))
            .find(|(_, name)| {
                name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
            })
            .map(|(key, name)| (key.to_owned(), format!("{name:?} is no SELinux type")))
    }
}

fn path_complaint(path: &str) -> Option<String> {
    let plain = path.starts_with('/')
        && path.len() > 1
        && !path.ends_with('/')
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    (!plain).then(|| format!("{path:?} is no absolute path without `.`, `..`, `//` and a closing `/`"))
}

fn range_complaint(range: UidRange) -> Option<String> {
    // uid_t's last value means "no change" to setresuid, 65534 is the kernel's overflow uid, and below 1000 live
    // the system's own accounts.
    let last = range.first.checked_add(range.count.saturating_sub(1));
    let Some(last) = last.filter(|last| range.count > 0 && *last < u32::MAX) else {
        return Some("no uids, or more than there are".into());
    };
    if range.first < 1000 {
        return Some("uids below 1000 belong to the system".into());
    }
    (range.first..=last).contains(&65_534).then(|| "65534 is the kernel's overflow uid".into())
}

fn overlap(one: UidRange, other: UidRange) -> bool {
    one.contains(other.first) || other.contains(one.first)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The line that sets `key`, or 0 where the text does not.
fn find(text: &str, key: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 0 };
    let mut table = table.get_ref();
    let mut line = 0;
    for part in key.split('.') {
        let Some((name, value)) = table.get_key_value(part) else { return line };
        line = line_of(text, name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return line,
        }
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_size_that_is_admitted() {
        let of = |volume| crate::settings::Limits { volume, ..Default::default() };
        assert_eq!(of(10).admit_volume(10), Ok(()));
        assert!(of(10).admit_volume(11).unwrap_err().contains("limits.volume"));
        assert_eq!(of(0).admit_volume(1 << 62), Ok(()));
        assert!(of(0).admit_volume(1 << 63).is_err());
    }

    fn wrong(text: &str) -> SettingsError {
        Settings::from_toml(text, "svirt.toml").unwrap_err()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Settings::from_toml("", "x").unwrap(), Settings::default());
        assert_eq!(Settings::default().complaint(), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(Settings::from_toml(&text, "x").unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = wrong("[paths]\nrun = \"/run/x\"\nrum = \"/run/x\"\n");
        assert_eq!(error.line, 3);
        assert!(error.message.contains("rum"), "{}", error.message);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        assert_eq!(wrong("\n\n[limits]\ndomains = \"many\"\n").line, 4);
        assert_eq!(wrong("[limits]\nvcpus = [\n").line, 2, "broken TOML");
    }

    #[test]
    fn senseless_values_are_refused_with_key_and_line() {
        for (text, key, line) in [
            ("[paths]\nrun = \"run\"\n", "paths.run", 2),
            ("[paths]\nstate = \"/a/../b\"\n", "paths.state", 2),
            ("[save]\ndumps = \"/var/lib/svirt/saved\"\n", "save.dumps", 2),
            ("[save]\ndumps = \"/var/lib/svirt/saved/d\"\n", "save.dumps", 2),
            ("[save]\ndumps = \"/var/lib/svirt\"\n", "save.dumps", 2),
            ("[save]\nplaces = [\"/var/lib/svirt/dumps\"]\n", "save.dumps", 1),
            ("[save]\npercent_per_user = 101\n", "save.percent_per_user", 2),
            ("[images]\nreadable = [\n \"/boot\",\n \"/etc/\"]\n", "images.readable", 2),
            ("[emulators]\nallowed = []\n", "emulators.allowed", 2),
            ("[uids]\nfrontend = 0\n", "uids.frontend", 2),
            ("[uids]\nfrontend = 1910000001\n", "uids.domains", 1),
            ("[uids.domains]\nfirst = 4294967000\ncount = 4000\n", "uids.domains", 1),
            ("[uids]\nhelpers = { first = 1920000005, count = 5 }\n", "uids.helpers", 2),
            ("[uids]\nhelpers = { first = 65000, count = 5000 }\n", "uids.helpers", 2),
            ("[limits]\nchain_depth = 201\n", "limits.chain_depth", 2),
            ("[limits]\nstart_timeout = 0\n", "limits.start_timeout", 2),
            ("[vnc]\nports = [6000, 5900]\n", "vnc.ports", 2),
            ("[network]\ntaps = [\"tap*\", \"a/b\"]\n", "network.taps", 2),
            ("[selinux]\nimage_type = \"a:b\"\n", "selinux.image_type", 2),
            ("[selinux]\ndoi = []\n", "selinux.doi", 2),
            ("[dac]\ndoi = [\"0\", \"a b\"]\n", "dac.doi", 2),
            ("[apparmor]\ndoi = [\"0\", \"0\"]\n", "apparmor.doi", 2),
            ("[flask]\ndoi = [\"\"]\n", "flask.doi", 2),
            ("[relocation]\nserver = true\naddress = \"0.0.0.0\"\n", "relocation.address", 3),
            ("[relocation]\nport = 0\n", "relocation.port", 2),
        ] {
            let error = wrong(text);
            assert_eq!((error.key.as_str(), error.line), (key, line), "{text}: {error}");
        }
    }

    #[test]
    fn the_refusal_names_file_and_line() {
        let refusal = Refusal::from(wrong("[paths]\nrun = \"run\"\n"));
        assert!(refusal.to_string().contains("svirt.toml:2"), "{refusal}");
    }
}
