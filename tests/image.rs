//! The qcow2 decoder on headers that qemu-img wrote (the corpus) and on mutations of them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::path::Path;

use proptest::prelude::*;
use svirt::image::{Answer, Failure, Header, ImageError, describe, needed, parse, read_answer};

fn seed(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/image").join(name)).unwrap()
}

fn patched(name: &str, at: usize, bytes: &[u8]) -> Result<Header, ImageError> {
    let mut image = seed(name);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    parse(&image, image.len() as u64)
}

#[test]
fn headers_of_qemu_img_are_read() {
    let read = |name: &str| parse(&seed(name), 0).unwrap();
    let plain = read("plain");
    assert_eq!((plain.format.as_str(), plain.virtual_size), ("qcow2", 1 << 20));
    let backed = read("backed-v3");
    assert_eq!(backed.backing_file.as_deref(), Some("/images/base.qcow2"));
    assert_eq!(backed.backing_format.as_deref(), Some("qcow2"));
    let old = read("backed-v2");
    assert_eq!((old.backing_file, old.backing_format), (backed.backing_file, Some("raw".to_owned())));
    assert!(read("json-backing").backing_file.unwrap().starts_with("json:{"));
    assert_eq!(read("nbd-backing").backing_file.as_deref(), Some("nbd://host/export"));
    assert_eq!(read("fdset-backing").backing_file.as_deref(), Some("/dev/fdset/1"));
    let outside = read("data-file");
    assert!(outside.needs_data_file);
    assert_eq!(outside.data_file.as_deref(), Some("data.raw"));
    assert!(read("aes").encrypted);
    assert_eq!(read("vmdk").format, "vmdk");
    assert_eq!(read("vdi").format, "vdi");
    assert_eq!(read("luks").format, "luks");
}

#[test]
fn lies_about_the_layout_are_refused() {
    let refused = |at, bytes: &[u8]| patched("backed-v3", at, bytes).unwrap_err();
    let big = u64::MAX.to_be_bytes();
    assert_eq!(refused(4, &[0, 0, 0, 4]), ImageError::Version(4));
    assert_eq!(refused(8, &big), ImageError::BackingPlace);
    assert_eq!(refused(8, &100_u64.to_be_bytes()), ImageError::BackingPlace);
    assert_eq!(refused(8, &511_u64.to_be_bytes()), ImageError::BackingPlace);
    assert_eq!(refused(16, &1024_u32.to_be_bytes()), ImageError::BackingTooLong(1024));
    assert_eq!(refused(16, &u32::MAX.to_be_bytes()), ImageError::BackingTooLong(u32::MAX as usize));
    assert_eq!(refused(20, &[0, 0, 0, 8]), ImageError::ClusterBits(8));
    assert_eq!(refused(20, &[0, 0, 0, 22]), ImageError::ClusterBits(22));
    assert_eq!(refused(20, &u32::MAX.to_be_bytes()), ImageError::ClusterBits(u32::MAX));
    assert_eq!(refused(24, &big), ImageError::Size(u64::MAX));
    assert_eq!(refused(32, &[0, 0, 0, 3]), ImageError::Encryption(3));
    assert_eq!(refused(100, &103_u32.to_be_bytes()), ImageError::HeaderLength(103));
    assert_eq!(refused(100, &u32::MAX.to_be_bytes()), ImageError::HeaderLength(u32::MAX));
    // The first extension is the backing format, right behind the header of 112 bytes.
    assert_eq!(refused(116, &[0xff; 4]), ImageError::ExtensionPlace);
    assert_eq!(refused(116, &16_u32.to_be_bytes()), ImageError::Name);
    assert_eq!(refused(120, &[0xff, 0xfe]), ImageError::Name);
    let whole = seed("backed-v3");
    let name = u64::from_be_bytes(whole[8..16].try_into().unwrap()) as usize;
    assert_eq!(refused(name, b"a\0b"), ImageError::Name);
    assert_eq!(refused(name, b"a\nb"), ImageError::Name);
    assert_eq!(parse(&whole[..name + 3], 0), Err(ImageError::Truncated));
    assert_eq!(parse(&whole[..60], 0), Err(ImageError::Truncated));
}

#[test]
fn unknown_incompatible_features_are_told() {
    let header = patched("backed-v3", 72, &0x8000_0000_0000_0021_u64.to_be_bytes()).unwrap();
    assert_eq!(header.unknown_features, 0x8000_0000_0000_0020);
}

#[test]
fn a_header_may_fill_the_largest_cluster_and_no_more() {
    let mut head = seed("plain");
    head[20..24].copy_from_slice(&21_u32.to_be_bytes());
    assert_eq!(needed(&head), 2 << 20);
    head[20..24].copy_from_slice(&40_u32.to_be_bytes());
    assert_eq!(needed(&head), 64 << 10);
    assert_eq!(needed(b"anything else"), 64 << 10);
}

#[test]
fn answers_survive_their_json_and_nonsense_is_a_failure() {
    let header = describe(&seed("backed-v3"), 7);
    let json = serde_json::to_vec(&Answer::Header(header.clone())).unwrap();
    assert_eq!(read_answer(&json), Ok(header));
    let failure = Failure::Read { error: "EIO".to_owned() };
    let json = serde_json::to_vec(&Answer::Failed(failure.clone())).unwrap();
    assert_eq!(read_answer(&json), Err(failure));
    assert_eq!(read_answer(b"{}"), Err(Failure::Answer));
    assert_eq!(read_answer(b""), Err(Failure::Answer));
}

proptest! {
    #[test]
    fn mutated_headers_never_panic_and_names_stay_bounded(
        name in prop::sample::select(vec!["backed-v3", "backed-v2", "data-file", "json-backing", "aes"]),
        patches in prop::collection::vec((0usize..512, any::<u8>()), 0..12),
        cut in 0usize..600,
    ) {
        let mut image = seed(name);
        for (at, byte) in patches {
            if let Some(place) = image.get_mut(at) {
                *place = byte;
            }
        }
        image.truncate(image.len().min(cut.max(1) * 2));
        svirt::image::fuzz_image(&image);
    }
}
