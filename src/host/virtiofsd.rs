//! The servers of virtiofs that are there, as QEMU's descriptions of vhost-user programs name them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::settings::Settings;

/// docs/interop/vhost-user.json of QEMU: the administrator's over the distribution's, by file name.
const DIRECTORIES: [&str; 2] = ["/usr/share/qemu/vhost-user", "/etc/qemu/vhost-user"];
/// A description has a few hundred bytes.
const DESCRIPTION_MAX: u64 = 64 << 10;

/// What is read of a description; the rest is for others.
#[derive(Deserialize)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: String,
}

/// The described ones in the order of their files' names, then those that the configuration names.
pub(super) fn all(settings: &Settings) -> Vec<String> {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            files.insert(entry.file_name(), entry.path());
        }
    }
    let described = files.values().filter_map(|path| binary(path));
    let mut found: Vec<String> = Vec::new();
    for path in described.chain(settings.shares.virtiofsd.iter().cloned()) {
        if Path::new(&path).is_file() && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

fn binary(path: &Path) -> Option<String> {
    let small = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= DESCRIPTION_MAX);
    let text = fs::read_to_string(path).ok().filter(|_| small)?;
    let description: Description = serde_json::from_str(&text).ok()?;
    (description.kind == "fs").then_some(description.binary)
}
