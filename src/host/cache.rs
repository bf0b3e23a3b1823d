//! What was found out once and stays true: emulators by file identity, whether `/dev/kvm` works by its node, the
//! loaded KVM modules and the boot. One file, written by root alone, or by a user for that user alone.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::conf::emulator::EmulatorFacts;
use crate::settings::Settings;
use crate::sys::cred::effective_uid;
use crate::sys::file::read_owned;

/// Changes whenever what is asked or kept does.
const FORMAT: u32 = 3;
/// The most bytes of the file.
const FILE_MAX: u64 = 4 << 20;
/// Its name in the cache directory.
const NAME: &str = "host.json";

/// What tells one state of a file from every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    number: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Identity {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            number: found.rdev(),
            size: found.size(),
            mtime: (found.mtime(), found.mtime_nsec()),
            ctime: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// One emulator, asked once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) path: String,
    pub(super) identity: Identity,
    /// The CPU that it was asked on.
    pub(super) cpu: String,
    /// Its version, known where it said nothing else too.
    pub(super) version: Option<(u32, u32, u32)>,
    /// What it said, or why it said nothing.
    pub(super) outcome: Result<EmulatorFacts, String>,
}

/// A `/dev/kvm` that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TriedKvm {
    pub(super) identity: Identity,
    pub(super) boot: String,
    /// Which of KVM's modules were loaded: another one may make it work.
    pub(super) modules: Vec<String>,
    /// Why it does not work; absent where it does.
    pub(super) failure: Option<String>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cache {
    format: u32,
    /// Whoever wrote another version may have asked otherwise.
    version: String,
    pub(super) emulators: Vec<Known>,
    pub(super) kvm: Option<TriedKvm>,
}

impl Cache {
    /// What is known: root's file, else this user's own. Anything unreadable is nothing.
    pub(super) fn load(settings: &Settings) -> Self {
        let own = user_directory(settings).filter(|_| effective_uid() != 0);
        let places = [Some((PathBuf::from(&settings.paths.cache), 0)), own.map(|dir| (dir, effective_uid()))];
        places
            .into_iter()
            .flatten()
            .find_map(|(directory, owner)| {
                let path = directory.join(NAME);
                let text = read_owned(path.to_str()?, FILE_MAX, owner).ok()??;
                let cache: Self = serde_json::from_str(&text).ok()?;
                (cache.format == FORMAT && cache.version == env!("CARGO_PKG_VERSION")).then_some(cache)
            })
            .unwrap_or_default()
    }

    /// Writes it whole. An error costs the next reader time, nothing else.
    pub(super) fn store(mut self, settings: &Settings) -> io::Result<()> {
        let directory = user_directory(settings).ok_or(io::ErrorKind::NotFound)?;
        let own = effective_uid();
        DirBuilder::new().recursive(true).mode(if own == 0 { 0o755 } else { 0o700 }).create(&directory)?;
        let found = fs::symlink_metadata(&directory)?;
        if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.format = FORMAT;
        self.version = env!("CARGO_PKG_VERSION").into();
        let fresh = directory.join(format!("{NAME}.{}", std::process::id()));
        let mode = if own == 0 { 0o644 } else { 0o600 };
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&fresh)
            .and_then(|mut to| to.write_all(&serde_json::to_vec(&self)?));
        let moved = written.and_then(|()| fs::rename(&fresh, directory.join(NAME)));
        if moved.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        moved
    }
}

/// Where this user may write: root into the configured directory, others below their own home.
fn user_directory(settings: &Settings) -> Option<PathBuf> {
    if effective_uid() == 0 {
        return Some(PathBuf::from(&settings.paths.cache));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join(Path::new("svirt")))
}
