//! The emulators' versions: asked once by running each with `--version`, then remembered by file identity.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::conf::facts::Emulator;
use crate::settings::Settings;

/// The most bytes of the cache file.
const CACHE_MAX: u64 = 64 << 10;
/// The most bytes of `--version` that are read.
const OUTPUT_MAX: u64 = 4096;
/// The longest that `--version` may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What tells one state of a file from every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    path: String,
    identity: Identity,
    version: (u32, u32, u32),
}

/// The configured emulators that are there and tell a version.
pub(super) fn versions(settings: &Settings) -> Vec<Emulator> {
    let file = Path::new(&settings.paths.cache).join("emulators.json");
    let known = file.to_str().and_then(load).unwrap_or_default();
    let found: Vec<Known> =
        settings.emulators.allowed.iter().filter_map(|path| version(path, &known, settings)).collect();
    if found != known {
        // Without a cache the next reader asks again; that is slow, not wrong.
        let _ = store(&file, &found);
    }
    found.into_iter().map(|known| Emulator { path: known.path, version: known.version }).collect()
}

fn version(path: &str, known: &[Known], settings: &Settings) -> Option<Known> {
    let found = fs::metadata(path).ok().filter(|found| found.is_file())?;
    let identity = Identity {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        mtime: (found.mtime(), found.mtime_nsec()),
        ctime: (found.ctime(), found.ctime_nsec()),
    };
    if let Some(known) = known.iter().find(|known| known.path == path && known.identity == identity) {
        return Some(known.clone());
    }
    let version = parse(&ask(path, settings)?)?;
    Some(Known { path: path.into(), identity, version })
}

/// Runs `path --version` as the unprivileged user, with nothing in its environment and no standard input.
fn ask(path: &str, settings: &Settings) -> Option<String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    if crate::sys::cred::effective_uid() == 0 {
        // Also drops the supplementary groups.
        command.uid(settings.uids.frontend).gid(settings.uids.frontend);
    }
    let mut child = command.spawn().ok()?;
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let mut text = String::new();
    child.stdout.take()?.take(OUTPUT_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The version in `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let rest = text.lines().next()?.split_once(" version ")?.1;
    let number = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

/// Only what root alone may have written: a forged version would choose options.
fn load(path: &str) -> Option<Vec<Known>> {
    let text = crate::sys::file::read_trusted(path, CACHE_MAX).ok()??;
    serde_json::from_str(&text).ok()
}

fn store(file: &Path, known: &[Known]) -> std::io::Result<()> {
    if crate::sys::cred::effective_uid() != 0 {
        return Ok(());
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let fresh = directory.join(format!("emulators.json.{}", std::process::id()));
    let written = File::create_new(&fresh).and_then(|mut to| to.write_all(&serde_json::to_vec(known)?));
    let moved = written.and_then(|()| fs::rename(&fresh, file));
    if moved.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    moved
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nC"), Some((7, 2, 22)));
        assert_eq!(parse("QEMU emulator version 10.0.13\n"), Some((10, 0, 13)));
        assert_eq!(parse("QEMU emulator version 9.1\n"), Some((9, 1, 0)));
        for text in ["", "version", "x version y", "QEMU emulator version 7"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_program_is_asked_once_until_it_changes() {
        if crate::sys::cred::effective_uid() != 0 {
            println!("skipped: only root writes the cache");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let program = directory.path().join("qemu");
        let log = directory.path().join("asked");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let write = |version: &str| {
            let script =
                format!("#!/bin/sh\necho >> {}\necho QEMU emulator version {version}\n", log.display());
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        let mut settings = Settings::default();
        settings.paths.cache = directory.path().join("cache").to_str().unwrap().into();
        settings.emulators.allowed = vec![program.to_str().unwrap().into(), "/nonexistent/qemu".into()];
        write("8.1.2");
        assert_eq!(versions(&settings)[0].version, (8, 1, 2));
        assert_eq!(versions(&settings).len(), 1);
        assert_eq!(fs::read_to_string(&log).unwrap().len(), 1);
        write("8.1.30");
        assert_eq!(versions(&settings)[0].version, (8, 1, 30));
        assert_eq!(fs::read_to_string(&log).unwrap().len(), 2);
    }
}
