//! Descriptors that came with a client's bytes, until the packet has come that they belong to.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// The most that wait: as many as one packet may carry.
const WAITING_MAX: usize = 32;

/// Descriptors in the order that they came in; what nobody takes is closed.
#[derive(Debug, Default)]
pub(super) struct Arrived(VecDeque<OwnedFd>);

impl Arrived {
    /// Takes what came. Those that are too many are closed, and then some packet lacks its own.
    pub(super) fn add(&mut self, fds: Vec<OwnedFd>) {
        let room = WAITING_MAX.saturating_sub(self.0.len());
        self.0.extend(fds.into_iter().take(room));
    }

    /// Gives a packet its descriptors; nothing where they have not come.
    pub(super) fn take(&mut self, count: u32) -> Option<Vec<OwnedFd>> {
        let count = usize::try_from(count).ok().filter(|count| *count <= self.0.len())?;
        Some(self.0.drain(..count).collect())
    }

    /// No packet is under way: what is still here belongs to none.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn each_packet_gets_its_own_and_there_are_never_many() {
        let mut arrived = Arrived::default();
        assert_eq!(arrived.take(0).unwrap().len(), 0);
        assert!(arrived.take(1).is_none());
        arrived.add(open(3));
        assert_eq!((arrived.take(2).unwrap().len(), arrived.take(2).is_none()), (2, true));
        arrived.add(open(200));
        assert!(arrived.take(33).is_none());
        assert_eq!(arrived.0.len(), WAITING_MAX);
        arrived.clear();
        assert!(arrived.take(1).is_none());
    }
}
