//! The descriptor that came with a client's bytes, until the packet has come that it belongs to.

use super::socket::Brought;
use crate::sys::handed::Handed;

/// What came since the last packet. One is kept, for no call takes more; what nobody takes is dropped.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// How many came, those that are kept no longer included.
    came: u32,
    kept: Option<Handed>,
}

impl Arrived {
    /// Takes what came. Nobody has a use for what is no stream of this host's.
    pub(super) fn add(&mut self, brought: Brought) {
        let handed = match brought {
            Brought::Nothing => return,
            Brought::Lost => None,
            Brought::One(handed) => Some(handed),
        };
        self.came = self.came.saturating_add(1);
        if self.kept.is_none() {
            self.kept = handed.filter(|handed| handed.stream().is_some());
        }
    }

    /// Gives a packet what came for it, if it is one descriptor that has a use; `None` where as many as the packet counts
    /// have not come.
    pub(super) fn take(&mut self, count: u32) -> Option<Option<Handed>> {
        self.came = self.came.checked_sub(count)?;
        let kept = if count > 0 { self.kept.take() } else { None };
        Some(kept.filter(|_| count == 1))
    }

    /// No packet is under way: what is still here belongs to none.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::sys::handed::Closers;

    #[test]
    fn a_packet_gets_its_own_and_only_one_that_has_a_use() {
        let closers = Arc::new(Closers::default());
        let own = nix::unistd::geteuid().as_raw();
        let one = |fd| Brought::One(closers.room(own).unwrap().with(fd));
        let stream = || one(UnixStream::pair().unwrap().0.into());
        let null = || one(std::fs::File::open("/dev/null").unwrap().into());
        let mut arrived = Arrived::default();
        assert!(arrived.take(0).unwrap().is_none());
        assert!(arrived.take(1).is_none());
        arrived.add(stream());
        assert!(arrived.take(0).unwrap().is_none());
        assert!(arrived.take(1).unwrap().is_some());
        assert!(arrived.take(1).is_none());
        arrived.add(null());
        assert!(arrived.take(1).unwrap().is_none(), "it came, and is of no use");
        arrived.add(Brought::Lost);
        arrived.add(Brought::Nothing);
        assert!(arrived.take(1).unwrap().is_none() && arrived.take(1).is_none());
        arrived.add(stream());
        arrived.add(stream());
        assert!(arrived.take(3).is_none());
        assert!(arrived.take(2).unwrap().is_none());
        arrived.add(stream());
        arrived.clear();
        assert!(arrived.take(1).is_none() && arrived.kept.is_none());
    }
}
