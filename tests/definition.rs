//! The kept form of a definition: what virt-install writes, and back.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use svirt::conf::definition::{Definition, Strictness, View};
use svirt::conf::domain_xml;

const SECURE: View = View { secure: true, migratable: false };

/// Every XML file of a directory of the tests, by name.
fn files(directory: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() > 5);
    found
}

#[test]
fn what_virt_install_writes_is_kept_whole() {
    for (path, text) in files("data/virt-install") {
        let (definition, warnings) = Definition::parse(text.as_bytes(), Strictness::Strict)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(warnings.is_empty());
        let first = definition.format(SECURE);
        let (again, _) = Definition::parse(first.as_bytes(), Strictness::Strict)
            .unwrap_or_else(|e| panic!("{}: {e}\n{first}", path.display()));
        assert_eq!(definition, again, "{}", path.display());
        assert_eq!(first, again.format(SECURE), "{}", path.display());
    }
}

#[test]
fn the_kept_form_means_what_was_written() {
    for (path, text) in files("golden") {
        let written = domain_xml::parse(text.as_bytes()).unwrap();
        let (definition, _) = Definition::parse(text.as_bytes(), Strictness::Lenient)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kept = definition
            .domain()
            .unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), definition.format(View::default())));
        let (mut written, mut kept) =
            (serde_json::to_value(written).unwrap(), serde_json::to_value(kept).unwrap());
        without_lines(&mut written);
        without_lines(&mut kept);
        assert_eq!(written, kept, "{}", path.display());
    }
}

/// Lines are where something stands, not what it says.
fn without_lines(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_lines),
        serde_json::Value::Object(fields) => {
            fields.remove("line");
            fields.values_mut().for_each(without_lines);
        }
        _ => {}
    }
}
