//! Each definition of `tests/golden` and `tests/golden/labels` against what every model does with each of its
//! resources, as text. `tests/golden/labels` holds what libvirt leaves unlabelled, unrestored or open to others.
//!
//! `SVIRT_BLESS=1 cargo test --test golden_labels` writes the tables anew; read the difference before you commit it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::plans::{self, GOLDEN};
use svirt::plan::labels;
use svirt::security::decide::{Action, Model};

/// Tables of every definition of a directory; `name` of a definition and its rows.
fn check(directory: &Path, wrong: &mut Vec<String>) -> BTreeSet<String> {
    let bless = std::env::var_os("SVIRT_BLESS").is_some();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = match plans::labels_of(&path, &Model::ALL) {
            Ok(rows) => {
                check_rules(&name, &rows);
                labels::render(&rows)
            }
            Err(refusal) => format!("refused: {} {}: {}\n", refusal.operation, refusal.object, refusal.rule),
        };
        let expected = path.with_extension("labels");
        if bless {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{name}: the labels are now\n{text}"));
        }
        found.insert(name);
    }
    found
}

/// What holds for every domain.
fn check_rules(name: &str, rows: &[labels::Row]) {
    for row in rows {
        let decision = &row.decision;
        assert!(!decision.reason.is_empty(), "{name}: {} has no reason", row.resource);
        let gives = matches!(decision.action, Action::Run | Action::Rule | Action::Set);
        assert_eq!(decision.label.is_some(), gives, "{name}: {}", row.resource);
        assert_eq!(
            decision.action == Action::Set,
            decision.restore,
            "{name}: {} stays labelled",
            row.resource
        );
        assert!(
            // A helper opens its own state anew; the device model never has it.
            row.model != Model::Dac || decision.action != Action::Set || row.resource == "the TPM's state",
            "{name}: {} changes an owner",
            row.resource
        );
    }
    for model in Model::ALL {
        let names: Vec<&String> =
            rows.iter().filter(|row| row.model == model).map(|row| &row.resource).collect();
        let distinct: BTreeSet<&&String> = names.iter().collect();
        assert_eq!(names.len(), distinct.len(), "{name}: a resource is there twice");
        // A domain without a profile has no row of AppArmor.
        let none = name == "apparmor-none" && model == Model::Apparmor;
        assert_eq!(names.is_empty(), none, "{name}: rows of {}", model.name());
    }
}

#[test]
fn every_definition_leads_to_its_labels() {
    let mut wrong = Vec::new();
    let plans = check(Path::new(GOLDEN), &mut wrong);
    let own = check(&Path::new(GOLDEN).join("labels"), &mut wrong);
    assert!(plans.len() >= 12 && own.len() >= 10, "only {plans:?} and {own:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
