//! Giving up root for good, once everything that needs it is open.

use std::io;
use std::path::Path;

use crate::filter::own;
use crate::remote::READ;
use crate::settings::Settings;
use crate::sys::landlock::{self, Allow};
use crate::sys::{cred, rlimit, seccomp};

/// A step of it that failed.
pub(super) type Failed = (&'static str, io::Error);

/// The directory of the store, which belongs to the daemon's own user; its parent does not.
pub(super) fn store_directory(settings: &Settings) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    let path = Path::new(&settings.daemon.store);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(path)?;
    let uid = settings.uids.frontend;
    if !found.is_dir() || ![0, uid].contains(&found.uid()) {
        let text = format!("{} must be a directory of root's or of uid {uid}'s", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// As many descriptors as the hard limit gives: each client and each domain takes one.
pub(super) fn raise_descriptors() -> io::Result<()> {
    rlimit::set(rlimit::Kind::Nofile, rlimit::hard(rlimit::Kind::Nofile))
}

/// Becomes the front end's user, without groups or capabilities.
pub(super) fn become_user(settings: &Settings) -> Result<(), Failed> {
    let uid = settings.uids.frontend;
    cred::drop_bounding().map_err(|error| ("empty the bounding set", error))?;
    cred::set_ids(uid, uid, &[]).map_err(|error| ("change the user", error))?;
    give_up_privileges()
}

/// Gives up every capability, and every way to new ones.
pub(super) fn give_up_privileges() -> Result<(), Failed> {
    cred::clear_capabilities().map_err(|error| ("empty the capability sets", error))?;
    cred::set_no_new_privs().map_err(|error| ("set no_new_privs", error))
}

/// Shuts the file system but for what calls read, and loads the daemon's own filter.
///
/// Holds for this thread and those that it starts from now on, so it comes before any. The rules are read again when
/// somebody asks for that: from their directory, for an editor puts a new file there.
pub(super) fn restrict(settings: &Settings) -> Result<(), Failed> {
    let read = Allow { read_file: true, ..Allow::default() };
    let rules = Path::new(&settings.daemon.access).parent().and_then(Path::to_str);
    let there = READ.iter().copied().chain(rules).filter(|path| Path::new(path).exists());
    let rules: Vec<(&str, Allow)> = there.map(|path| (path, read)).collect();
    landlock::prepare(landlock::effective_abi(landlock::NEWEST), &rules)
        .and_then(landlock::Prepared::restrict_self)
        .map_err(|error| ("restrict the file accesses", error))?;
    let filter = own::svirtd().map_err(|error| ("make the filter", io::Error::other(error)))?;
    let program: Vec<_> = filter.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
    seccomp::load(&program).map_err(|error| ("load the filter", error))
}
