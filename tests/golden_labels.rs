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
use svirt::base::{DomainUuid, Files};
use svirt::conf::definition::{Definition, Strictness};
use svirt::conf::domain_xml;
use svirt::conf::facts::HostFacts;
use svirt::driver::outside;
use svirt::plan::{inventory, labels};
use svirt::security::decide::{Action, Model};
use svirt::settings::Settings;

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
        let gives = matches!(decision.action, Action::Make | Action::Run | Action::Rule | Action::Set);
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
    assert!(plans.len() >= 39 && own.len() >= 46, "only {plans:?} and {own:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every definition of the repository that svirt reads, with what does not run.
fn definitions() -> Vec<(String, String)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let own = [Path::new(GOLDEN).to_owned(), Path::new(GOLDEN).join("labels")];
    let others = ["domain", "chosen", "virt-install", "virt-install-5.0"].map(|name| data.join(name));
    let mut found = Vec::new();
    for directory in own.into_iter().chain(others) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == "xml") && text.contains("<domain") {
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// Elements whose paths are the guest's, a program that the configuration must name or that never runs, or a source of
/// randomness that nobody opens.
const NOT_OPENED: &[&str] = &["backend", "binary", "description", "emulator", "script", "target", "title"];

/// Every absolute path in a text: element and path.
fn paths(xml: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for piece in xml.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or((piece, ""));
        let element = tag.split([' ', '\n', '/']).next().unwrap_or_default().to_owned();
        let quote = if tag.contains('"') { '"' } else { '\'' };
        let values = tag.split(quote).skip(1).step_by(2).chain([text.trim()]);
        let values = values.filter(|value| value.starts_with('/'));
        found.extend(values.map(|value| (element.clone(), value.replace("&amp;", "&").replace("&lt;", "<"))));
    }
    found
}

#[test]
fn no_path_of_a_definition_is_overlooked() {
    let (host, settings) = (HostFacts::default(), Settings::default());
    let uuid = DomainUuid("1b4e28ba-2fa1-4d2e-883f-0016d3cca427".parse().unwrap());
    let (mut seen, mut overlooked) = (BTreeSet::new(), Vec::new());
    for (name, xml) in definitions() {
        let held = |files: Vec<String>| {
            let files = Files::new(Some(files), vec![1]);
            outside((&xml, uuid), None, &files, (&host, &settings)).unwrap()
        };
        // What cannot be read whole is refused to whoever may not name every file.
        let Ok((domain, beyond)) = domain_xml::parse_beyond(xml.as_bytes()) else {
            assert!(outside((&xml, uuid), None, &Files::none(), (&host, &settings)).is_err(), "{name}");
            continue;
        };
        let named: BTreeSet<String> =
            inventory::named(&domain, &beyond, &settings).into_iter().filter_map(|one| one.path).collect();
        for (element, path) in paths(&xml) {
            if !NOT_OPENED.contains(&element.as_str()) {
                if !named.contains(&path) {
                    overlooked.push(format!("{name}: <{element}> names {path}"));
                }
                seen.insert(element);
            }
        }
        let plain: Vec<String> = named.iter().filter(|path| Files::is_plain(path)).cloned().collect();
        let all = held(plain.clone());
        if plain.len() < named.len() {
            assert!(all.is_some_and(|(_, path)| !Files::is_plain(&path)), "{name}");
            continue;
        }
        assert_eq!(all, None, "{name}");
        for path in &named {
            let found = held(plain.iter().filter(|other| *other != path).cloned().collect());
            let below = plain.iter().any(|other| other != path && path.starts_with(&format!("{other}/")));
            assert!(below || found.is_some_and(|(_, found)| found == *path), "{name}: {path} is let through");
        }
        // What was accepted before stays, as it was.
        let same = outside((&xml, uuid), Some(&xml), &Files::none(), (&host, &settings)).unwrap();
        assert_eq!(same, None, "{name}");
    }
    assert!(overlooked.is_empty(), "{}", overlooked.join("\n"));
    let kinds = ["block", "dtb", "entry", "initrd", "kernel", "loader", "log", "nvram", "source"];
    assert!(kinds.iter().all(|kind| seen.contains(*kind)), "only {seen:?}");
}

#[test]
fn what_does_not_run_is_planned_and_refused() {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(Path::new(GOLDEN).join("labels")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let xml = fs::read(&path).unwrap();
        let Ok((_, beyond)) = domain_xml::parse_beyond(&xml) else { panic!("{}", path.display()) };
        if beyond.is_empty() {
            domain_xml::parse(&xml).unwrap();
            continue;
        }
        let refusal = domain_xml::parse(&xml).unwrap_err();
        assert!(refusal.to_string().contains("line"), "{}: {refusal}", path.display());
        // libvirt's whole grammar knows every one of them.
        let kept = Definition::parse(&xml, Strictness::Strict);
        assert!(kept.is_ok(), "{}: {}", path.display(), kept.unwrap_err());
        seen.extend(beyond.into_iter().map(|one| one.name.split(' ').next().unwrap().to_owned()));
    }
    assert!(seen.len() >= 25, "only {seen:?}");
}

/// The range of a static label, and the one of the device model; none where the start is refused.
const RANGES: &[(&str, Option<&str>)] = &[
    ("s0:c41,c264", Some("s0:c41,c264")),
    ("s0:c0,c1023", Some("s0:c0,c1023")),
    ("s0-s0:c41,c264", None),
    // Reversed: the kernel has no order of categories either.
    ("s0:c264,c41", Some("s0:c41,c264")),
    // Two that are next to each other, as a span.
    ("s0:c41.c42", Some("s0:c41,c42")),
    // Spans of more, and spans that end before they begin.
    ("s0:c0.c1023", None),
    ("s0:c41.c43", None),
    ("s0:c264.c41", None),
    // Out of range.
    ("s0:c41,c1024", None),
    ("s0:c41,c65577", None),
    ("s0:c-1,c41", None),
    ("s16:c41,c264", None),
    ("s1:c41,c264", None),
    // Fewer than two, more than two.
    ("s0", None),
    ("s0:c41", None),
    ("s0:c41,c41", None),
    ("s0:c41,c264,c300", None),
    // Numbers that are written otherwise, and ones that only look like digits.
    ("s0:c041,c264", None),
    ("s0:c+41,c264", None),
    ("s0:c\u{0664}1,c264", None),
    ("s0:\u{0441}41,c264", None),
    // Two levels.
    ("s0-s1:c41,c264", None),
    ("s1-s0:c41,c264", None),
    ("s0:c41,c264-s0:c41,c264", Some("s0:c41,c264")),
    ("s0:c41,c264-s0:c0.c1023", None),
    ("s0:c0.c1023-s0:c41,c264", None),
    // What is no range.
    ("", None),
    ("s0:", None),
    ("s0:c41,", None),
    ("s0:c41,c264:c1", None),
    ("s0:c41, c264", None),
    ("%s", None),
    ("*", None),
];

#[test]
fn categories_are_one_pair_or_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("selinux-ranges.xml");
    let definition = fs::read_to_string(format!("{GOLDEN}/selinux-static.xml")).unwrap();
    // Who shares an image has its pair besides its own.
    let definition = definition.replace("<shareable/>", "");
    for (range, expected) in RANGES {
        let text = definition.replace("s0:c41,c264", range);
        fs::write(&file, &text).unwrap();
        match (plans::labels_of(&file, &[Model::Selinux]), expected) {
            (Ok(rows), Some(expected)) => {
                let label = rows.iter().find(|row| row.decision.action == Action::Run).unwrap();
                let label = label.decision.label.as_deref().unwrap();
                assert_eq!(label, format!("system_u:system_r:svirt_guest_t:{expected}"), "{range:?}");
            }
            (Err(refusal), None) => {
                // The label as it was written, its line, and what to do.
                assert!(refusal.object.contains("(line 20)"), "{range:?}: {refusal}");
                assert!(!refusal.rule.is_empty() && !refusal.remedy.is_empty(), "{range:?}: {refusal}");
            }
            (Ok(_), None) => panic!("{range:?} starts"),
            (Err(refusal), Some(_)) => panic!("{range:?}: {refusal}"),
        }
    }
}
