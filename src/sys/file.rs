//! Small trusted files: read whole, bounded, and only if nobody but root could have written them.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Reads a file that only root may have written: regular, owned by root, not writable by group or others.
/// `Ok(None)` where there is no such file.
pub fn read_trusted(path: &str, limit: u64) -> io::Result<Option<String>> {
    read_owned(path, limit, 0)
}

/// The same for a file that only the user `owner` may have written.
pub fn read_owned(path: &str, limit: u64, owner: u32) -> io::Result<Option<String>> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{path}: {why}")));
    if !found.is_file() {
        return refuse("is no regular file");
    }
    if found.uid() != owner {
        let who = if owner == 0 { "root".to_owned() } else { format!("uid {owner}") };
        return refuse(&format!("does not belong to {who}: chown it"));
    }
    if found.mode() & 0o022 != 0 {
        return refuse("may be written by others than its owner: chmod go-w it");
    }
    let mut text = String::new();
    if file.take(limit + 1).read_to_string(&mut text)? as u64 > limit {
        return refuse("is too long");
    }
    Ok(Some(text))
}
