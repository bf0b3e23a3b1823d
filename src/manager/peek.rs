//! A piece of a guest's memory, as QEMU's monitor prints it.

use serde_json::Value;

use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::privsep::ask::{Ask, MEMORY_MAX};

impl Manager {
    /// Reads memory, by the guest's own addresses of its first CPU or by physical ones.
    pub fn memory_at(
        &self,
        uuid: DomainUuid,
        from: u64,
        bytes: u32,
        physical: bool,
    ) -> Result<Vec<u8>, ManagerError> {
        let mut read = Vec::new();
        for (at, bytes) in pieces(from, bytes) {
            let answer = self.ask(uuid, Ask::Memory { from: at, bytes, physical })?;
            let piece = printed(&answer, bytes).ok_or_else(|| {
                let text = format!("QEMU cannot read the {bytes} bytes of memory from {at:#x}");
                ManagerError::Failed(text)
            })?;
            read.extend(piece);
        }
        Ok(read)
    }
}

/// Pieces that QEMU prints as words of 8 bytes, and last the bytes that make no word.
fn pieces(from: u64, bytes: u32) -> Vec<(u64, u32)> {
    let words = bytes - bytes % 8;
    let mut all: Vec<(u64, u32)> = Vec::new();
    let mut done = 0;
    while done < bytes {
        let next = if done < words { (words - done).min(MEMORY_MAX) } else { bytes - words };
        all.push((from.saturating_add(done.into()), next));
        done += next;
    }
    all
}

/// The bytes behind the addresses of a print of the monitor's `x` or `xp`; `None` where some are missing.
fn printed(answer: &Value, bytes: u32) -> Option<Vec<u8>> {
    let width = Ask::memory_width(bytes);
    let mut read = Vec::with_capacity(bytes as usize);
    for line in answer.as_str()?.lines() {
        let (_, words) = line.split_once(':')?;
        for word in words.split_whitespace() {
            let number = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
            // A word is printed as the number that a little-endian guest reads there.
            read.extend(number.to_le_bytes().get(..width)?);
        }
    }
    (read.len() == bytes as usize).then_some(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_makes_no_word_is_read_by_bytes() {
        assert_eq!(pieces(0x10, 0), []);
        assert_eq!(pieces(0x10, 5), [(0x10, 5)]);
        assert_eq!(pieces(0x10, 19), [(0x10, 16), (0x20, 3)]);
        let most = MEMORY_MAX;
        assert_eq!(pieces(1, most + 9), [(1, most), (1 + u64::from(most), 8), (9 + u64::from(most), 1)]);
        assert_eq!(pieces(u64::MAX, 9), [(u64::MAX, 8), (u64::MAX, 1)]);
    }

    #[test]
    fn a_print_is_read_whole_or_not_at_all() {
        let words = json!("00000010: 0x0807060504030201 0x000000000000000a\r\n");
        let bytes: Vec<u8> = [(1..=8).collect(), vec![0x0a], vec![0; 7]].concat();
        assert_eq!(printed(&words, 16), Some(bytes));
        assert_eq!(printed(&json!("0: 0x01 0xff\n2: 0x03\n"), 3), Some(vec![1, 255, 3]));
        for (text, bytes) in [
            ("0: Cannot access memory\n", 8),
            ("0: 0x0102030405060708\n", 16),
            ("0: 0x0102030405060708 0x01\n", 8),
            ("nonsense", 1),
            ("", 1),
            ("0: 0xg\n", 1),
        ] {
            assert_eq!(printed(&json!(text), bytes), None, "{text}");
        }
        assert_eq!(printed(&json!([1]), 1), None);
    }
}
