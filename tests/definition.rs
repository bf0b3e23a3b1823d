//! The kept form of a definition: what virt-install writes, and back.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use svirt::conf::DefinitionErrorKind;
use svirt::conf::capabilities::Machine;
use svirt::conf::definition::{self, Choices, Definition, Strictness, View};
use svirt::conf::domain_xml;
use svirt::conf::emulator::EmulatorFacts;

use proptest::prelude::*;
use svirt::conf::definition::grammar::{Body, Child, DOMAIN, Element, Value};

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

/// What virt-install 4.1 and 5.0 write.
fn installed() -> impl Iterator<Item = (PathBuf, String)> {
    ["data/virt-install", "data/virt-install-5.0"].into_iter().flat_map(files)
}

/// What runs, by name, stands in `runs` beside the definitions: whatever starts once goes on starting.
#[test]
fn what_virt_install_writes_starts_or_is_refused_by_name() {
    for directory in ["data/virt-install", "data/virt-install-5.0"] {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory).join("runs");
        let kept = std::fs::read_to_string(kept).unwrap();
        let mut expected: Vec<&str> = kept.lines().collect();
        for (path, text) in files(directory) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let (definition, _) = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap();
            match definition.domain() {
                Ok(_) => expected.retain(|kept| *kept != name),
                Err(error) => {
                    assert!(matches!(error.kind, DefinitionErrorKind::Unsupported(_)), "{name}: {error}");
                    assert!(!error.path.is_empty() && !error.remedy.is_empty(), "{name}: {error}");
                }
            }
        }
        assert!(expected.is_empty(), "{directory}: no longer run: {expected:?}");
    }
}

#[test]
fn what_virt_install_writes_is_kept_whole() {
    for (path, text) in installed() {
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

/// Numbers from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Something that the value may say, most of the time.
    fn value(&mut self, value: &Value) -> String {
        let tried = [
            "/dev/null",
            "abc",
            "vda",
            "sdb",
            "0",
            "1",
            "4096",
            "KiB",
            "52:54:00:12:34:56",
            "192.168.7.1",
            "0-3,^2",
            "0755",
            "1b4e28ba-2fa1-4d2e-883f-0016d3cca427",
            "5000c50015ea71ad",
            "ua-disk",
            "it's <a> & \"b\"",
            "\u{e9}\u{4e2d}",
        ];
        match value {
            Value::Word(words) => words[self.below(words.len())].to_owned(),
            value => {
                let fitting: Vec<_> = tried.iter().filter(|text| value.read(text).is_some()).collect();
                if fitting.is_empty() {
                    "1000".to_owned()
                } else {
                    (*fitting[self.below(fitting.len())]).to_owned()
                }
            }
        }
    }

    /// An element as the grammar has it, children in any order.
    fn element(&mut self, element: &Element, depth: usize, out: &mut String) {
        let mut word = None;
        let mut attributes = String::new();
        for attribute in element.attributes {
            let fits = attribute.when.is_empty()
                || word.as_ref().is_some_and(|w: &String| attribute.when.contains(&w.as_str()));
            let wanted = attribute.required || Some(attribute.name) == element.switch || self.below(3) == 0;
            if fits && wanted && !attributes.contains(&format!(" {}=", attribute.name)) {
                let value = self.value(&attribute.value);
                let text = value.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
                attributes.push_str(&format!(" {}=\"{text}\"", attribute.name));
                if Some(attribute.name) == element.switch {
                    word = Some(value);
                }
            }
        }
        let name = element.name;
        let space =
            if name == "domain" { " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'" } else { "" };
        out.push_str(&format!("<{name}{space}{attributes}>"));
        match &element.body {
            Body::Children(children) => self.children(children, word.as_deref(), depth, out),
            Body::Foreign => out.push_str("<o:a xmlns:o='urn:o'> kept <b xmlns=''/></o:a>"),
            Body::Size(_) => out.push_str("1048576"),
            Body::Text(value) => {
                let text = self.value(value);
                out.push_str(&text.replace('&', "&amp;").replace('<', "&lt;"));
            }
        }
        out.push_str(&format!("</{name}>"));
    }

    fn children(&mut self, children: &[Child], word: Option<&str>, depth: usize, out: &mut String) {
        let mut chosen: Vec<&Child> = children
            .iter()
            .filter(|child| child.when.is_empty() || word.is_some_and(|word| child.when.contains(&word)))
            .filter(|child| match child.times {
                definition::grammar::Times::Once => true,
                _ => depth < 8 && self.below(4) == 0,
            })
            .collect();
        chosen.dedup_by_key(|child| child.element.name);
        while !chosen.is_empty() {
            let child = chosen.swap_remove(self.below(chosen.len()));
            self.element(child.element, depth + 1, out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever the grammar admits and the rules do not refuse is written as what it was read.
    #[test]
    fn what_is_written_is_read_back(seed in any::<u64>()) {
        let mut xml = String::new();
        Numbers(seed).element(&DOMAIN, 0, &mut xml);
        definition::fuzz_definition(xml.as_bytes());
    }
}

/// The property above would hold if nothing were accepted.
#[test]
fn the_generator_makes_definitions_that_are_accepted() {
    let accepted = (0..200_u64).filter(|seed| {
        let mut xml = String::new();
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).element(&DOMAIN, 0, &mut xml);
        Definition::parse(xml.as_bytes(), Strictness::Strict).is_ok()
    });
    let accepted = accepted.count();
    assert!(accepted > 20, "{accepted} of 200");
}

/// The host of `tests/data/chosen`.
fn choices() -> Choices {
    let machine = |alias: &str, name: &str| Machine {
        alias: Some(alias.into()),
        name: name.into(),
        ..Machine::default()
    };
    Choices::of(&[EmulatorFacts {
        path: "/usr/bin/qemu-system-x86_64".into(),
        machines: vec![machine("q35", "pc-q35-7.2"), machine("pc", "pc-i440fx-7.2")],
        ..EmulatorFacts::default()
    }])
}

/// `tests/data/chosen/NAME.libvirt` is what libvirt 9.0 with QEMU 7.2 makes of `NAME.xml`.
#[test]
fn what_is_chosen_is_what_libvirt_chooses() {
    let mut wrong = String::new();
    for (path, text) in files("data/chosen") {
        let (mut definition, _) = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap();
        assert!(definition.choose(&choices()));
        let chosen = definition.format(SECURE);
        let theirs = std::fs::read_to_string(path.with_extension("libvirt")).unwrap();
        if chosen.trim_end() != theirs.trim_end() {
            let line = chosen.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
            wrong.push_str(&format!("{}: svirt, libvirt: {line:?}\n", path.display()));
        }
        assert!(!definition.choose(&choices()), "{}: chosen twice", path.display());
        let (again, _) = Definition::parse(chosen.as_bytes(), Strictness::Strict).unwrap();
        assert_eq!(again, definition, "{}", path.display());
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_comes_later_moves_nothing() {
    let addresses = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("<address "));
        lines.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    for (path, text) in files("data/chosen") {
        let (mut definition, _) = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap();
        definition.choose(&choices());
        let before = addresses(&definition.format(SECURE));
        let disk = "<disk type='file'><source file='/images/z.img'/><target dev='vdz' bus='virtio'/></disk>";
        let card = "<interface type='user'><model type='e1000'/></interface>";
        let mut with = definition.with_device(disk).unwrap().with_device(card).unwrap();
        assert!(with.choose(&choices()));
        let after = with.format(SECURE);
        assert!(addresses(&after).is_superset(&before), "{}: {after}", path.display());
        assert!(addresses(&after).len() >= before.len() + 2, "{}: {after}", path.display());
        assert!(Definition::parse(after.as_bytes(), Strictness::Strict).is_ok());
    }
}

/// Addresses that cannot be, too many devices and places without end: nothing is lost, and it can be read again.
#[test]
fn what_cannot_be_placed_stays_as_it_was() {
    let around = |devices: &str| {
        format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type machine='q35'>hvm</type></os>\
             <devices>{devices}</devices></domain>"
        )
    };
    let letter = |number: usize| char::from(b'a' + u8::try_from(number % 26).unwrap());
    let name =
        |index: usize| [letter(index / 676), letter(index / 26), letter(index)].iter().collect::<String>();
    let disk = |index: usize| {
        format!("<disk><source file='/{index}'/><target dev='vd{}' bus='virtio'/></disk>", name(index))
    };
    let disks: String = (0..1000).map(disk).collect();
    let rng = "<rng model='virtio'><backend model='random'/><address type='pci' bus='0xff' slot='0'/></rng>";
    let input = "<input type='tablet' bus='usb'/>".repeat(40);
    let video =
        "<video><model type='vga'/><address type='pci' bus='0' slot='1' function='3'/></video>".to_owned();
    for devices in [disks, rng.to_owned(), input, video] {
        let (mut definition, _) =
            Definition::parse(around(&devices).as_bytes(), Strictness::Lenient).unwrap();
        definition.choose(&choices());
        let text = definition.format(SECURE);
        let again = Definition::parse(text.as_bytes(), Strictness::Strict);
        assert!(again.is_ok_and(|(again, _)| again == definition), "{text}");
    }
}
