#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::plan::testing::{IMAGES, Store, disk, source};

fn at(name: &str) -> String {
    format!("{IMAGES}/{name}")
}

fn resolved(disk: &Disk, store: &mut Store) -> Result<Vec<String>, ChainError> {
    resolve(disk, 200, &Files::ALL, store)
        .map(|chain| chain.layers.into_iter().map(|layer| layer.path).collect())
}

fn top(name: &str) -> Disk {
    disk("vda", &at(name), ImageFormat::Qcow2)
}

#[test]
fn a_recorded_chain_is_followed_by_name_and_format() {
    let mut store = Store::default();
    store.add(&at("top"), Some(("mid", Some("qcow2"))), true);
    store.add(&at("mid"), Some((&at("base"), Some("raw"))), true);
    // The base's guest wrote a header; it is raw all the same.
    store.add(&at("base"), Some(("/etc/shadow", Some("raw"))), true);
    let chain = resolve(&top("top"), 200, &Files::ALL, &mut store).unwrap();
    let formats: Vec<_> = chain.layers.iter().map(|l| l.format).collect();
    assert_eq!(formats, [ImageFormat::Qcow2, ImageFormat::Qcow2, ImageFormat::Raw]);
    assert_eq!(chain.layers[2].path, at("base"));
}

#[test]
fn a_raw_disk_stays_raw_whatever_its_guest_wrote() {
    let mut store = Store::default();
    store.add(&at("raw"), Some(("/etc/shadow", Some("raw"))), true);
    assert_eq!(resolved(&disk("vda", &at("raw"), ImageFormat::Raw), &mut store).unwrap(), [at("raw")]);
}

#[test]
fn names_that_are_no_plain_files_are_refused() {
    for name in [
        "",
        "json:{\"driver\":\"file\"}",
        "nbd:host:10809",
        "nbd://host",
        "ssh://host/x",
        "http://x/y",
        "file:base",
        "fat:rw:/etc",
        "/dev/fdset/1",
        "/dev//fdset/1",
        "../../../../dev/fdset/1",
        "/dev/./fdset/1",
        "/proc/self/fd/3",
        "../../../../../x",
        "dir/",
        "/",
        ".",
        "..",
        "a\nb",
        "nul\0x",
        "host_device:/dev/sda",
    ] {
        let mut store = Store::default();
        store.add(&at("top"), Some((name, Some("raw"))), true);
        let error = resolved(&top("top"), &mut store).unwrap_err();
        assert!(matches!(error, ChainError::Header { .. }), "{name:?}: {error}");
        assert!(!error.refusal().remedy.is_empty());
    }
}

#[test]
fn a_colon_behind_a_slash_is_part_of_a_name() {
    let mut store = Store::default();
    store.add(&at("top"), Some(("./a:b", Some("raw"))), true);
    store.add(&at("a:b"), None, false);
    assert_eq!(resolved(&top("top"), &mut store).unwrap(), [at("top"), at("a:b")]);
}

#[test]
fn a_backing_file_without_a_recorded_format_is_refused_with_the_command() {
    let mut store = Store::default();
    store.add(&at("top"), Some(("base", None)), true);
    store.add(&at("base"), None, false);
    let refusal = resolved(&top("top"), &mut store).unwrap_err().refusal();
    assert!(refusal.remedy.contains("qemu-img rebase -u -F FORMAT -b base"), "{refusal}");
}

#[test]
fn loops_end_by_path_and_by_identity() {
    let mut store = Store::default();
    store.add(&at("a"), Some(("b", Some("qcow2"))), true);
    store.add(&at("b"), Some(("a", Some("qcow2"))), true);
    assert!(resolved(&top("a"), &mut store).unwrap_err().to_string().contains("comes back"));
    let mut store = Store::default();
    store.add(&at("a"), Some(("link", Some("qcow2"))), true);
    let same = store.0[&at("a")].clone();
    store.0.insert(at("link"), same);
    assert!(resolved(&top("a"), &mut store).unwrap_err().to_string().contains("comes back"));
}

#[test]
fn depth_is_bounded_and_the_last_allowed_layer_runs() {
    let mut store = Store::default();
    for n in 0..200 {
        let below = format!("l{}", n + 1);
        store.add(&at(&format!("l{n}")), (n < 199).then_some((below.as_str(), Some("qcow2"))), true);
    }
    assert_eq!(resolved(&top("l0"), &mut store).unwrap().len(), 200);
    assert!(
        resolve(&top("l0"), 199, &Files::ALL, &mut store).unwrap_err().to_string().contains("more than 199")
    );
}

#[test]
fn a_missing_layer_names_the_image_that_asked_for_it() {
    let mut store = Store::default();
    store.add(&at("top"), Some(("gone", Some("qcow2"))), true);
    let refusal = resolved(&top("top"), &mut store).unwrap_err().refusal();
    assert_eq!(refusal.object, at("gone"));
    assert!(refusal.operation.contains(&at("top")) && refusal.remedy.contains("rebase"), "{refusal}");
}

#[test]
fn a_definition_must_agree_with_the_header() {
    let with = |below: Backing| {
        let mut disk = top("top");
        disk.source.as_mut().unwrap().backing = below;
        disk
    };
    let layer = |name: &str, format| Backing::Layer(Box::new(source(&at(name), format)));
    let mut store = Store::default();
    store.add(&at("top"), Some(("base", Some("raw"))), true);
    store.add(&at("base"), None, false);
    store.add(&at("other"), None, false);
    assert_eq!(resolved(&with(layer("base", ImageFormat::Raw)), &mut store).unwrap().len(), 2);
    assert_eq!(resolved(&with(Backing::None), &mut store).unwrap().len(), 1);
    assert!(resolved(&with(layer("other", ImageFormat::Raw)), &mut store).is_err());
    assert!(resolved(&with(layer("base", ImageFormat::Qcow2)), &mut store).is_err());
    let mut alone = Store::default();
    alone.add(&at("top"), None, true);
    assert!(resolved(&with(layer("base", ImageFormat::Raw)), &mut alone).is_err());
    // The format may come from the definition alone.
    let mut unrecorded = Store::default();
    unrecorded.add(&at("top"), Some(("base", None)), true);
    unrecorded.add(&at("base"), None, false);
    assert_eq!(resolved(&with(layer("base", ImageFormat::Raw)), &mut unrecorded).unwrap().len(), 2);
}

#[test]
fn headers_that_cannot_run_are_refused() {
    let refused = |change: fn(&mut Header)| {
        let mut store = Store::default();
        store.add(&at("top"), None, true);
        change(&mut store.0.get_mut(&at("top")).unwrap().header);
        assert!(resolved(&top("top"), &mut store).is_err());
    };
    refused(|header| header.format = "raw".into());
    refused(|header| header.format = "vmdk".into());
    refused(|header| header.encrypted = true);
    refused(|header| header.needs_data_file = true);
    refused(|header| header.data_file = Some("/etc/shadow".into()));
    refused(|header| header.unknown_features = 32);
}

#[test]
fn an_object_of_another_kind_is_refused() {
    let mut store = Store::default();
    store.add(&at("top"), None, true);
    store.0.get_mut(&at("top")).unwrap().kind = ImageKind::Block;
    assert!(resolved(&top("top"), &mut store).unwrap_err().to_string().contains("block device"));
}

proptest! {
    #[test]
    fn a_resolved_name_is_plain_and_below_no_descriptor(directory in "(/[a-z.]{1,4}){0,4}", name in "[a-z./]{0,30}") {
        let directory = normalise("/", &directory).unwrap_or_else(|| "/x".into());
        if let Some(path) = normalise(&directory, &name) {
            prop_assert!(path.starts_with('/') && path.len() > 1);
            prop_assert!(path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
            prop_assert_eq!(normalise("/", &path), Some(path));
        }
    }

    #[test]
    fn no_header_panics(name in "\\PC{0,60}", format in proptest::option::of("\\PC{0,8}")) {
        let mut store = Store::default();
        store.add(&at("top"), Some((&name, format.as_deref())), true);
        let _ = resolved(&top("top"), &mut store);
    }
}

#[test]
fn a_header_names_no_file_that_the_definition_could_not_have_named() {
    let mut store = Store::default();
    store.add(&at("a/top"), Some(("../b-1", Some("qcow2"))), true);
    store.add(&at("b-1"), None, true);
    let files = |names: &[&str]| Files::new(Some(names.iter().map(|name| at(name)).collect()), Vec::new());
    let mut resolved =
        |disk: &Disk, names: &[&str]| resolve(disk, 200, &files(names), &mut store).map(|_| ());
    let mut disk = top("a/top");
    // It is said before the file is looked at.
    let refused = resolved(&disk, &["a"]).unwrap_err().refusal();
    assert!(refused.rule.contains(&at("b-1")) && refused.remedy.contains("files"), "{refused:?}");
    resolved(&disk, &["a", "b-1"]).unwrap();
    // What the definition names was looked at when it was handed in.
    let below = DiskSource { backing: Backing::None, ..source(&at("b-1"), ImageFormat::Qcow2) };
    disk.source.as_mut().unwrap().backing = Backing::Layer(Box::new(below));
    resolved(&disk, &["a"]).unwrap();
}
