//! The administrator's translation tables between domains of interpretation: files that only root may have written.

use std::fs;
use std::path::Path;

use crate::settings::Settings;
use crate::sys::file::read_trusted;

/// The most bytes of one table.
const TABLE_MAX: u64 = 256 << 10;
/// The most tables.
const TABLES_MAX: usize = 256;

/// Every `*.toml` of the configured directory by name, in order. A file that cannot be read, or that others may write, comes
/// as a text that is no table, so that whoever needs the tables is refused with its name instead of going without it.
#[must_use]
pub fn tables(settings: &Settings) -> Vec<(String, String)> {
    let directory = Path::new(&settings.paths.doi);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort_unstable();
    names.truncate(TABLES_MAX);
    let read = |name: String| {
        let path = directory.join(&name);
        let found = read_trusted(path.to_str().unwrap_or_default(), TABLE_MAX);
        match found {
            Ok(Some(text)) => Some((name, text)),
            Ok(None) => None,
            Err(error) => Some((name, format!("unusable = {:?}", error.to_string()))),
        }
    };
    names.into_iter().filter_map(read).collect()
}
