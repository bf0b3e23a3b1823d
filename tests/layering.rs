//! The import table: which module may import which. Any other edge fails here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and the modules that it may import. Order: pure layers first, then the machine, then the front.
const TABLE: &[(&str, &[&str])] = &[
    // Pure: no I/O, no clock, no environment, no randomness.
    ("base", &[]),
    ("filter", &["base", "privsep"]),
    ("image", &["base"]),
    ("privsep", &["base"]),
    ("qmp", &["base"]),
    ("access", &["base"]),
    ("rpc", &["base"]),
    ("settings", &["base"]),
    ("conf", &["base", "privsep"]),
    ("profile", &["base", "filter", "privsep"]),
    ("security", &["base", "conf", "privsep", "settings"]),
    ("confine", &["base", "conf", "filter", "privsep", "profile", "settings"]),
    ("plan", &["base", "conf", "confine", "image", "privsep", "security", "settings"]),
    // The machine.
    ("sys", &["base"]),
    ("host", &["base", "conf", "filter", "profile", "settings", "sys"]),
    ("daemon", &["sys"]),
    // (Of `image`, only what a process without anything else reads in a volume that it gives another size.)
    ("labeller", &["base", "filter", "image", "privsep", "settings", "sys"]),
    ("supervisor", &["base", "privsep", "qmp", "sys"]),
    ("inspect", &["base", "filter", "privsep", "sys"]),
    ("probe", &["base", "filter", "inspect", "privsep", "settings", "sys"]),
    // The front.
    (
        "driver",
        &["base", "conf", "confine", "host", "image", "plan", "privsep", "security", "settings", "sys"],
    ),
    ("store", &["base"]),
    ("manager", &["base", "conf", "driver", "privsep", "settings", "store"]),
    ("storage", &["base", "conf", "driver", "image", "manager", "privsep", "settings", "store"]),
    (
        "remote",
        &["access", "base", "conf", "driver", "manager", "privsep", "rpc", "settings", "storage", "sys"],
    ),
    (
        "server",
        &[
            "access", "base", "conf", "driver", "filter", "host", "manager", "privsep", "remote", "rpc",
            "settings", "storage", "store", "sys",
        ],
    ),
    (
        "cli",
        &[
            "base", "conf", "driver", "filter", "host", "inspect", "plan", "privsep", "probe", "security",
            "settings", "sys",
        ],
    ),
];

/// Modules that may contain `unsafe`; every other one forbids it.
const UNSAFE: &[&str] = &["sys"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of top-level modules after each `crate::`, braces included.
fn imports(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let list =
            rest.strip_prefix('{').map_or(rest, |inner| inner.split_once(';').map_or(inner, |(l, _)| l));
        let parts: Vec<&str> = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for part in parts {
            let name: String =
                part.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            names.push(name);
        }
    }
    names
}

#[test]
fn every_import_stands_in_the_table() {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() || path.ends_with("bin") {
            continue;
        }
        let module = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(allowed) = table.get(module.as_str()) else {
            wrong.push(format!("src/{module} has no row in the table"));
            continue;
        };
        let mut files = Vec::new();
        sources(&path, &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for name in imports(&text) {
                seen += 1;
                if table.contains_key(name.as_str()) && name != module && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{}: {module} may not import {name}", file.display()));
                }
            }
        }
        let main = fs::read_to_string(path.join("mod.rs")).unwrap();
        if !UNSAFE.contains(&module.as_str()) && !main.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("src/{module}/mod.rs does not forbid unsafe code"));
        }
    }
    assert!(seen > 5, "the test found only {seen} imports: it reads the wrong place");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut done: Vec<&str> = Vec::new();
    while done.len() < table.len() {
        let ready: Vec<&str> = table
            .iter()
            .filter(|(name, needs)| !done.contains(name) && needs.iter().all(|need| done.contains(need)))
            .map(|(name, _)| *name)
            .collect();
        assert!(!ready.is_empty(), "a cycle among the modules that are not in {done:?}");
        done.extend(ready);
    }
}
