//! The host's descriptions of UEFI firmware: docs/interop/firmware.json of QEMU, as packages install them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::conf::facts::FirmwareFile;

/// Later directories win over files of the same name in earlier ones.
const DIRECTORIES: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];
/// The longest description, in bytes; the ones that ship have less than one thousand.
const LENGTH_MAX: u64 = 64 << 10;
/// More files than any host has.
const FILES_MAX: usize = 256;

/// What of a description is read; there is more in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    mode: Option<String>,
    executable: Option<Part>,
    nvram_template: Option<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    filename: String,
    format: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

/// Every description of UEFI firmware in flash memory for x86-64, in the order of preference.
pub(super) fn all() -> Vec<FirmwareFile> {
    read(&DIRECTORIES.map(Path::new))
}

fn read(directories: &[&Path]) -> Vec<FirmwareFile> {
    let mut files: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(FILES_MAX);
        for path in entries.map(|entry| entry.path()) {
            if let (Some("json"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_name())
            {
                files.insert(name.to_owned(), path);
            }
        }
    }
    files.values().filter_map(|path| described(&text(path)?)).collect()
}

/// A description that nobody but its owner root could have written.
fn text(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let found = file.metadata().ok()?;
    let safe = found.is_file() && found.uid() == 0 && found.mode() & 0o022 == 0 && found.len() <= LENGTH_MAX;
    let mut text = String::new();
    (safe && file.take(LENGTH_MAX).read_to_string(&mut text).is_ok()).then_some(text)
}

/// An empty file hides one of the same name, and what is malformed or for other machines counts as absent.
fn described(text: &str) -> Option<FirmwareFile> {
    let Description { interface_types, mapping, targets, features } = serde_json::from_str(text).ok()?;
    let split = mapping.mode.as_deref().is_none_or(|mode| mode == "split");
    if mapping.device != "flash" || !split || !interface_types.iter().any(|kind| kind == "uefi") {
        return None;
    }
    let (code, template) = (mapping.executable?, mapping.nvram_template?);
    let here = |target: &Target| target.architecture == "x86_64";
    let machines: Vec<String> = targets.into_iter().filter(here).flat_map(|target| target.machines).collect();
    let raw = code.format == "raw" && template.format == "raw" && !machines.is_empty();
    raw.then_some(FirmwareFile { code: code.filename, template: template.filename, machines, features })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"description":"UEFI","interface-types":["uefi"],"mapping":{"device":"flash",
        "executable":{"filename":"/c.fd","format":"raw"},"nvram-template":{"filename":"/v.fd","format":"raw"}},
        "targets":[{"architecture":"x86_64","machines":["pc-q35-*"]}],"features":["acpi-s3"],"tags":[]}"#;

    #[test]
    fn only_what_can_run_here_is_taken() {
        let file = described(PLAIN).unwrap();
        assert_eq!((file.code.as_str(), file.template.as_str()), ("/c.fd", "/v.fd"));
        assert!(file.has("acpi-s3") && !file.has("secure-boot"));
        for (from, to) in [
            ("\"uefi\"", "\"bios\""),
            ("\"flash\"", "\"memory\""),
            ("\"x86_64\"", "\"aarch64\""),
            ("\"/c.fd\",\"format\":\"raw\"", "\"/c.fd\",\"format\":\"qcow2\""),
            ("\"nvram-template\"", "\"other\""),
        ] {
            assert!(described(&PLAIN.replacen(from, to, 1)).is_none(), "{to}");
        }
        assert!(described("").is_none() && described("[]").is_none());
    }

    #[test]
    fn a_later_directory_wins_and_names_decide_the_order() {
        let (shipped, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |dir: &tempfile::TempDir, name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        };
        write(&shipped, "50-a.json", &PLAIN.replace("/c.fd", "/a.fd"));
        write(&shipped, "40-b.json", PLAIN);
        write(&shipped, "30-c.json", PLAIN);
        write(&own, "30-c.json", "");
        write(&own, "40-b.json", &PLAIN.replace("/c.fd", "/b.fd"));
        let found = read(&[shipped.path(), own.path()]);
        let codes: Vec<&str> = found.iter().map(|file| file.code.as_str()).collect();
        let expected: &[&str] =
            if crate::sys::cred::effective_uid() == 0 { &["/b.fd", "/a.fd"] } else { &[] };
        assert_eq!(codes, expected);
    }
}
