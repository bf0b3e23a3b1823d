//! How virtiofsd is started: a listener, and one directory, which is its root. svirt holds it (`spawn::jail`), so it
//! makes no namespaces itself; a second filter, its own, comes on top.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::spawn::{self, Question, SHARE, SpawnError};
use crate::privsep::op::{ShareCache, SpawnVirtiofsd};
use crate::sys::landlock::Allow;

/// The descriptor of the listener in virtiofsd.
pub(super) const LISTENER: i32 = 3;
/// How long it may take to say what it can do.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any version says.
const ANSWER_MAX: usize = 1 << 14;

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_SETGID`, `CAP_SETUID` of linux/capability.h: over
/// the files of the share alone, and to act as the guest's users.
const FILE_SERVER: [u32; 6] = [0, 1, 3, 4, 6, 7];
/// `CAP_SETPCAP`: both empty their bounding sets with it, the successor does not start without; and both give it up.
const TO_CONFINE_ITSELF: u32 = 8;
/// `CAP_SYS_CHROOT`: QEMU's own enters its root, and gives it up.
const TO_ENTER: u32 = 18;

/// Which of the two programs of this name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// QEMU's own, up to 7.2.
    Qemu,
    /// Its successor, written in Rust.
    Rust,
}

/// `--print-capabilities`, docs/interop/vhost-user.json of QEMU.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    features: Vec<String>,
}

impl Flavour {
    /// Asks a program, as a uid that has nothing and in the context that it will serve in.
    pub(super) fn ask(program: &Path, uid: u32, context: Option<&str>) -> Result<Option<Self>, SpawnError> {
        let text = spawn::ask(&Question {
            program,
            argv: &["virtiofsd".to_owned(), "--print-capabilities".to_owned()],
            uid,
            selinux_exec: context,
            // It wants to know how many files there may be, whatever it is asked.
            reach: &[(Path::new("/proc/sys/fs"), Allow { read_file: true, ..Allow::default() })],
            errors_too: false,
            most: ANSWER_MAX,
            timeout: ANSWER_TIMEOUT,
        })?;
        Ok(Self::said(&text))
    }

    fn said(text: &str) -> Option<Self> {
        let said: Said = serde_json::from_str(text).ok().filter(|said: &Said| said.kind == "fs")?;
        // The successor alone took options apart from -o.
        let separate = said.features.iter().any(|feature| feature == "separate-options");
        Some(if separate { Self::Rust } else { Self::Qemu })
    }

    /// The capabilities that it needs at its exec; it gives up what is not a file server's.
    pub(super) fn capabilities(self) -> Vec<u32> {
        let enters = (self == Self::Qemu).then_some(TO_ENTER);
        FILE_SERVER.into_iter().chain([TO_CONFINE_ITSELF]).chain(enters).collect()
    }

    /// Its arguments.
    pub(super) fn argv(self, spawn: &SpawnVirtiofsd) -> Vec<String> {
        let mut argv = vec!["virtiofsd".to_owned(), format!("--fd={LISTENER}")];
        let cache = spawn.cache.map(|cache| match cache {
            ShareCache::Always => "always",
            ShareCache::Auto => "auto",
            ShareCache::None => match self {
                Self::Qemu => "none",
                Self::Rust => "never",
            },
        });
        // What svirt set is not to be raised.
        argv.push("--rlimit-nofile=0".to_owned());
        argv.extend(spawn.threads.map(|threads| format!("--thread-pool-size={threads}")));
        match self {
            Self::Qemu => {
                // The two capabilities are not there to be kept.
                let mut options = vec![
                    format!("source={SHARE}"),
                    "sandbox=chroot".into(),
                    "modcaps=-mknod:-setfcap".into(),
                    "announce_submounts".into(),
                ];
                options.extend(cache.map(|cache| format!("cache={cache}")));
                options.push(if spawn.xattr { format!("xattrmap={XATTR_MAP}") } else { "no_xattr".into() });
                options.push(if spawn.posix_lock { "posix_lock" } else { "no_posix_lock" }.into());
                options.push(if spawn.flock { "flock" } else { "no_flock" }.into());
                argv.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
                argv.push("-f".into());
            }
            Self::Rust => {
                argv.push(format!("--shared-dir={SHARE}"));
                argv.extend(
                    ["--sandbox=none", "--announce-submounts", "--inode-file-handles=never"].map(Into::into),
                );
                argv.push("--modcaps=-mknod:-setfcap:-dac_read_search".into());
                argv.extend(cache.map(|cache| format!("--cache={cache}")));
                if spawn.xattr {
                    argv.extend(["--xattr".to_owned(), format!("--xattrmap={XATTR_MAP}")]);
                }
            }
        }
        argv
    }
}

/// Every attribute of the guest's under one prefix that means nothing to the host.
const XATTR_MAP: &str = ":map::user.virtiofs.:";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::Slot;

    #[test]
    fn the_two_programs_are_told_apart() {
        assert_eq!(Flavour::said("{\n  \"type\": \"fs\"\n}\n"), Some(Flavour::Qemu));
        let rust = r#"{"type": "fs", "features": ["migrate-precopy", "separate-options"]}"#;
        assert_eq!(Flavour::said(rust), Some(Flavour::Rust));
        for other in ["", "usage:", r#"{"type":"gpu"}"#] {
            assert_eq!(Flavour::said(other), None, "{other}");
        }
    }

    #[test]
    fn attributes_of_the_guest_mean_nothing_to_the_host() {
        let slot = Slot::new("fs0").unwrap();
        let mut spawn = SpawnVirtiofsd {
            alias: "fs0".into(),
            slot: slot.clone(),
            share: slot,
            uid: 7,
            program: "/usr/lib/qemu/virtiofsd".into(),
            cache: Some(ShareCache::None),
            xattr: true,
            posix_lock: false,
            flock: true,
            threads: None,
            selinux_label: None,
        };
        let words = Flavour::Qemu.argv(&spawn).join(" ");
        assert!(
            words.contains("-o xattrmap=:map::user.virtiofs.:") && words.contains("-o cache=none"),
            "{words}"
        );
        assert!(words.contains("-o flock") && words.contains("sandbox=chroot"), "{words}");
        let words = Flavour::Rust.argv(&spawn).join(" ");
        assert!(
            words.contains("--xattrmap=:map::user.virtiofs.:") && words.contains("--cache=never"),
            "{words}"
        );
        spawn.xattr = false;
        assert!(Flavour::Qemu.argv(&spawn).join(" ").contains("-o no_xattr"));
    }
}
