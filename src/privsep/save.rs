//! Saved domains: what the unprivileged part asks for, and the header of the file that holds one.
//!
//! ```text
//! 0         1 MiB      2 MiB
//! | header  | header   | QEMU's stream ...
//! ```
//!
//! The newer one of the two headers that are whole counts, so that a change never loses the one before it. The
//! device model writes into a pipe and never into the file; the header is written by the labeller's pump.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::op::FileIdentity;
use crate::base::DomainUuid;

/// Where QEMU's stream begins, in bytes.
pub const STREAM_AT: u64 = 2 * SLOT as u64;
/// Room for one header.
pub const SLOT: usize = 1 << 20;
const MAGIC: &[u8; 16] = b"svirt-saved\n\0\0\0\0";
const VERSION: u32 = 1;
/// The fixed part of a header: magic, version, uuid, generation, end, length of the note, checksum.
const HEAD: usize = 16 + 4 + 16 + 8 + 8 + 4 + 8;
/// The longest note, in bytes.
pub const NOTE_MAX: usize = SLOT - HEAD;

/// Which file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "file", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SavedAt {
    /// The one that the next start of a domain goes on from.
    Managed {
        /// Whose.
        uuid: DomainUuid,
    },
    /// One that a person named.
    Path {
        /// Absolute path, in one of the configured places.
        path: String,
    },
}

/// A save that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Save {
    /// Where it goes.
    pub at: SavedAt,
    /// What is needed to go on, in its owner's words; nobody else reads it.
    pub note: String,
    /// Whether the guest goes on where the save fails.
    pub running: bool,
    /// The most that its device model may write, in bytes; journals of earlier versions have none.
    #[serde(default)]
    pub most: u64,
    /// The uid that has it saved, whose files are counted; 0 is not held to any limit.
    #[serde(default)]
    pub user: u32,
}

/// What is done to files of saved domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "saved", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SavedOp {
    /// Tells of one.
    Look {
        /// Which.
        at: SavedAt,
    },
    /// Gives one another note.
    Note {
        /// Which.
        at: SavedAt,
        /// Which file it was.
        identity: FileIdentity,
        /// The note.
        note: String,
    },
    /// Removes a managed one.
    Remove {
        /// Whose.
        uuid: DomainUuid,
    },
}

/// What is told of one saved domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Which domain.
    pub uuid: DomainUuid,
    /// Which file.
    pub identity: FileIdentity,
    /// Bytes of the stream.
    pub bytes: u64,
    /// The note that it was saved with.
    pub note: String,
}

/// What a device model is started from, besides its definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Which file.
    pub at: SavedAt,
    /// Device and inode of what was looked at.
    pub identity: FileIdentity,
    /// Bytes of its stream: how long loading may take depends on them.
    pub bytes: u64,
}

/// How far a save is, in QEMU's numbers: bytes, pages and milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Progress {
    /// Since it began.
    pub elapsed: u64,
    /// Before the first byte.
    pub setup: u64,
    /// While the guest stood.
    pub downtime: u64,
    /// Memory of the guest.
    pub total: u64,
    /// Bytes written.
    pub processed: u64,
    /// Bytes left.
    pub remaining: u64,
    /// Pages that are all of one byte.
    pub constant: u64,
    /// Other pages.
    pub normal: u64,
    /// Bytes of these.
    pub normal_bytes: u64,
    /// Bytes of a page.
    pub page: u64,
    /// Turns through the memory.
    pub iterations: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Pages that the guest writes, a second.
    pub dirty: u64,
    /// Pages that a receiver has asked for.
    pub asked: u64,
}

impl Progress {
    /// What `query-migrate` says; what it does not say is 0.
    #[must_use]
    pub fn of(answer: &Value) -> Self {
        let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64).unwrap_or(0);
        let ram = answer.get("ram").unwrap_or(&Value::Null);
        // Megabits a second; a saturating cast makes 0 of what is none.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rate = ram.get("mbps").and_then(Value::as_f64).map_or(0, |mbps| (mbps * 125_000.0) as u64);
        Self {
            elapsed: number(answer, "total-time"),
            setup: number(answer, "setup-time"),
            downtime: number(answer, "downtime"),
            total: number(ram, "total"),
            processed: number(ram, "transferred"),
            remaining: number(ram, "remaining"),
            constant: number(ram, "duplicate"),
            normal: number(ram, "normal"),
            normal_bytes: number(ram, "normal-bytes"),
            page: number(ram, "page-size"),
            iterations: number(ram, "dirty-sync-count"),
            rate,
            dirty: number(ram, "dirty-pages-rate"),
            asked: number(ram, "postcopy-requests"),
        }
    }
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which domain.
    pub uuid: DomainUuid,
    /// The higher one of two headers counts.
    pub generation: u64,
    /// Where the stream ends: the length of the file, in bytes.
    pub end: u64,
    /// The note.
    pub note: String,
}

/// Why a file is no saved domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is no whole header.
    #[error("it holds no saved domain, or the save was not finished")]
    None,
    /// A later svirt wrote it.
    #[error("it was saved by a later version of svirt")]
    Later,
    /// The stream is longer or shorter than the header says.
    #[error("its length is not that of what was saved")]
    Length,
}

impl Header {
    /// The bytes of one slot, as far as they are used; `None` where the note is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.note.len()).ok().filter(|_| self.note.len() <= NOTE_MAX)?;
        let mut out = Vec::with_capacity(HEAD + self.note.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_be_bytes());
        out.extend(self.uuid.0.as_bytes());
        out.extend(self.generation.to_be_bytes());
        out.extend(self.end.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(checksum(&[&out, self.note.as_bytes()]).to_be_bytes());
        out.extend(self.note.as_bytes());
        Some(out)
    }

    /// Has bytes that were encoded say where the stream ends. Makes nothing anew.
    pub fn put_end(bytes: &mut [u8], end: u64) {
        const END: usize = 16 + 4 + 16 + 8;
        let Some((head, note)) = bytes.split_at_mut_checked(HEAD) else { return };
        let Some((summed, sum)) = head.split_at_mut_checked(HEAD - 8) else { return };
        if let Some(place) = summed.get_mut(END..END + 8) {
            place.copy_from_slice(&end.to_be_bytes());
        }
        sum.copy_from_slice(&checksum(&[summed, note]).to_be_bytes());
    }

    /// Reads one slot.
    fn decode(slot: &[u8]) -> Result<Self, HeaderError> {
        let (head, rest) = slot.split_at_checked(HEAD).ok_or(HeaderError::None)?;
        let mut fields = Fields(head);
        if fields.take::<16>()? != *MAGIC {
            return Err(HeaderError::None);
        }
        if u32::from_be_bytes(fields.take()?) != VERSION {
            return Err(HeaderError::Later);
        }
        let uuid = DomainUuid(uuid::Uuid::from_bytes(fields.take()?));
        let (generation, end) = (u64::from_be_bytes(fields.take()?), u64::from_be_bytes(fields.take()?));
        let length = u32::from_be_bytes(fields.take()?) as usize;
        let sum = u64::from_be_bytes(fields.take()?);
        let note = rest.get(..length).ok_or(HeaderError::None)?;
        let summed = head.get(..HEAD - 8).unwrap_or_default();
        if checksum(&[summed, note]) != sum {
            return Err(HeaderError::None);
        }
        let note = String::from_utf8(note.to_vec()).map_err(|_| HeaderError::None)?;
        Ok(Self { uuid, generation, end, note })
    }

    /// The header that counts in a file of this length, and in which slot it stands.
    pub fn newest(slots: [&[u8]; 2], length: u64) -> Result<(usize, Self), HeaderError> {
        let mut failed = HeaderError::None;
        let mut found: Option<(usize, Self)> = None;
        for (at, slot) in slots.into_iter().enumerate() {
            match Self::decode(slot) {
                Ok(header) if found.as_ref().is_none_or(|(_, best)| best.generation < header.generation) => {
                    found = Some((at, header));
                }
                Ok(_) | Err(HeaderError::None) => {}
                Err(other) => failed = other,
            }
        }
        let (at, header) = found.ok_or(failed)?;
        if header.end != length || header.end < STREAM_AT {
            return Err(HeaderError::Length);
        }
        Ok((at, header))
    }
}

/// Reads any bytes as a file of a saved domain, the first half as its first slot: what is read is written as it was; for
/// the fuzzer and the corpus.
pub fn fuzz_saved(data: &[u8]) {
    let (one, two) = data.split_at(data.len() / 2);
    for slots in [[data, &[]], [&[], data], [one, two]] {
        let mut found = Header::newest(slots, STREAM_AT);
        for slot in slots {
            // The length that it claims is one that the file could have.
            if let Ok(header) = Header::decode(slot) {
                found = Header::newest(slots, header.end);
            }
        }
        let Ok((at, header)) = found else { continue };
        let written = header.encode().unwrap_or_default();
        assert!(header.note.len() <= NOTE_MAX && at < 2);
        assert!(slots.get(at).is_some_and(|slot| slot.starts_with(&written)), "it reads as it was written");
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(HeaderError::None)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// FNV-1a over 64 bits: tells a header that was not written whole. It keeps nobody out: files with a
/// header lie where only root makes them, and a dump, which its device model could begin like this, does not lie there.
fn checksum(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_end_that_is_put_in_later_is_one_that_was_there_from_the_start() {
        for note in ["", "a note"] {
            let whole = |end| Header { end, ..header(3, note) }.encode().unwrap();
            let mut bytes = whole(0);
            Header::put_end(&mut bytes, STREAM_AT + 77);
            assert_eq!(bytes, whole(STREAM_AT + 77));
        }
        Header::put_end(&mut [0; 3], 1);
    }

    fn header(generation: u64, note: &str) -> Header {
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        Header { uuid, generation, end: STREAM_AT + 9, note: note.into() }
    }

    #[test]
    fn the_newer_header_counts_and_half_of_one_does_not() {
        let (old, new) = (header(1, "old"), header(2, "newer"));
        let (one, two) = (old.encode().unwrap(), new.encode().unwrap());
        let end = STREAM_AT + 9;
        assert_eq!(Header::newest([&one, &two], end), Ok((1, new.clone())));
        assert_eq!(Header::newest([&two, &one], end), Ok((0, new)));
        // Written in part: the one before it still counts.
        for cut in 0..two.len() {
            assert_eq!(Header::newest([&one, &two[..cut]], end), Ok((0, old.clone())), "{cut}");
        }
        assert_eq!(Header::newest([&[], &vec![0; SLOT]], end), Err(HeaderError::None));
        assert_eq!(Header::newest([&one, &[]], end + 1), Err(HeaderError::Length));
    }

    #[test]
    fn what_a_later_version_wrote_is_said_to_be_that() {
        let mut later = header(1, "").encode().unwrap();
        later[19] = 2;
        assert_eq!(Header::newest([&later, &[]], STREAM_AT + 9), Err(HeaderError::Later));
    }

    #[test]
    fn a_note_has_a_limit() {
        assert!(header(1, &"x".repeat(NOTE_MAX)).encode().unwrap().len() == SLOT);
        assert!(header(1, &"x".repeat(NOTE_MAX + 1)).encode().is_none());
    }

    #[test]
    fn what_qemu_says_is_read_and_nonsense_is_nothing() {
        let answer = serde_json::json!({"status": "active", "total-time": 5,
            "ram": {"total": 100, "transferred": 40, "remaining": -1, "page-size": 4096}});
        let progress = Progress::of(&answer);
        assert_eq!((progress.elapsed, progress.total, progress.processed), (5, 100, 40));
        assert_eq!((progress.remaining, progress.page), (0, 4096));
        assert_eq!(Progress::of(&serde_json::json!(["x"])), Progress::default());
    }

    proptest! {
        #[test]
        fn a_header_reads_as_it_was_written(note in ".{0,300}", generation: u64, tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let header = header(generation, &note);
            let mut slot = header.encode().unwrap();
            slot.extend(tail);
            prop_assert_eq!(Header::newest([&slot, &[]], header.end), Ok((0, header)));
        }

        /// Any change is noticed, or leads to an answer all the same; nothing panics.
        #[test]
        fn a_changed_header_is_none(note in ".{0,40}", at: proptest::sample::Index, bit in 0..8_u8) {
            let header = header(1, &note);
            let mut slot = header.encode().unwrap();
            let at = at.index(slot.len());
            slot[at] ^= 1 << bit;
            let read = Header::newest([&slot, &[]], header.end);
            prop_assert_ne!(read, Ok((0, header)));
        }

        #[test]
        fn random_bytes_are_no_header(one in proptest::collection::vec(any::<u8>(), 0..200), length: u64) {
            prop_assert!(Header::newest([&one, &one], length).is_err());
        }
    }
}
