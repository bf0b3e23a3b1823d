//! The example configuration and the reference name every setting, with the default that is in force.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use svirt::settings::Settings;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every setting as `section.key`.
fn keys() -> Vec<String> {
    let text = toml::to_string(&Settings::default()).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table
        .iter()
        .flat_map(|(section, settings)| {
            settings.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        })
        .collect()
}

#[test]
fn the_example_file_is_the_defaults_in_full() {
    let text = read("etc/svirt.toml");
    assert_eq!(Settings::from_toml(&text, "etc/svirt.toml").unwrap(), Settings::default());
    let table: toml::Table = text.parse().unwrap();
    for key in keys() {
        let (section, name) = key.split_once('.').unwrap();
        assert!(table[section].as_table().unwrap().contains_key(name), "etc/svirt.toml lacks {key}");
    }
}

#[test]
fn the_reference_names_every_setting_and_no_other() {
    let text = read("docs/configuration.md");
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`').map(|(key, _)| key))
        .collect();
    let keys = keys();
    assert!(keys.len() > 30, "only {} settings: the test reads the wrong thing", keys.len());
    for key in &keys {
        assert!(named.contains(&key.as_str()), "docs/configuration.md lacks {key}");
    }
    for key in named {
        assert!(keys.contains(&key.to_owned()), "docs/configuration.md has {key}, which is no setting");
    }
}
