//! Each definition in `tests/golden` against the whole plan that it leads to, as text.
//!
//! `SVIRT_BLESS=1 cargo test --test golden` writes the plans anew; read the difference before you commit it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::plans::{self, GOLDEN};

/// How long a filter is follows from `labels/seccomp`, which has tests of its own.
fn without_lengths(text: &str) -> String {
    let line = |line: &str| match line.split_once(" instructions") {
        Some((before, after)) => {
            format!("{}N instructions{after}\n", before.trim_end_matches(|c: char| c.is_ascii_digit()))
        }
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn every_definition_leads_to_its_plan() {
    let bless = std::env::var_os("SVIRT_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(GOLDEN).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let plan = plans::of(&name).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let text = without_lengths(&svirt::plan::render(&plan));
        let whole = format!("{text}{plan:?}{}", serde_json::to_string(&plan).unwrap());
        assert!(!whole.contains("geheim"), "{name}: a password is in the plan");
        let expected = path.with_extension("plan");
        if bless {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{name}: the plan is now\n{text}"));
        }
        found.insert(name);
    }
    assert!(found.len() >= 12, "only {found:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
