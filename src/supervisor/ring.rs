//! The last bytes of a stream, by their position in it.

use std::collections::VecDeque;

/// Keeps the last `capacity` bytes; readers remember a position, so that they need no buffer of their own.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

impl Ring {
    /// An empty ring; memory is taken as it fills.
    #[must_use]
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, end: 0 }
    }

    /// Position after the last byte, in bytes since the beginning of the stream.
    #[must_use]
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte that is kept.
    #[must_use]
    pub(super) fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Adds bytes and forgets the oldest.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.end = self.end.saturating_add(bytes.len() as u64);
        let kept = bytes.get(bytes.len().saturating_sub(self.capacity)..).unwrap_or_default();
        let surplus = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..surplus.min(self.bytes.len()));
        self.bytes.extend(kept);
    }

    /// Some bytes from a position on, or none at the end; a position that is lost counts as the oldest kept one.
    #[must_use]
    pub(super) fn from(&self, position: u64) -> &[u8] {
        let skip = usize::try_from(position.saturating_sub(self.start())).unwrap_or(usize::MAX);
        let (front, back) = self.bytes.as_slices();
        match front.get(skip..) {
            Some(slice) if !slice.is_empty() => slice,
            _ => back.get(skip.saturating_sub(front.len())..).unwrap_or_default(),
        }
    }

    /// Everything that is kept, as text without control characters other than line ends.
    #[must_use]
    pub(super) fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        let all = [front, back].concat();
        let mut text = String::from_utf8_lossy(&all).into_owned();
        text.retain(|character| character == '\n' || !character.is_control());
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_the_tail_of_the_stream(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..12),
            position in 0..200u64,
        ) {
            let mut ring = Ring::new(32);
            for piece in &pieces {
                ring.push(piece);
            }
            let stream = pieces.concat();
            let mut at = position.max(ring.start());
            let mut read = Vec::new();
            while at < ring.end() {
                let slice = ring.from(at);
                prop_assert!(!slice.is_empty());
                read.extend_from_slice(slice);
                at += slice.len() as u64;
            }
            prop_assert!(ring.from(ring.end()).is_empty());
            let kept = stream.len().saturating_sub(32).max(usize::try_from(position).unwrap_or(0));
            prop_assert_eq!(read, stream.get(kept..).unwrap_or_default().to_vec());
        }
    }

    #[test]
    fn text_moves_no_cursor() {
        let mut ring = Ring::new(64);
        ring.push(b"qemu: \x1b[31mno\xff\r\n\tb\n");
        assert_eq!(ring.text(), "qemu: [31mno\u{fffd}\nb\n");
    }
}
