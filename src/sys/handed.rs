//! Descriptors that clients handed in, and who closes them.
//!
//! `close` has the file's file system say its last word (`->flush`), and one in user space, or on a network, may never
//! say it; no signal ends that waiting. So what a client handed in is never closed by a thread that serves anybody: each
//! uid has a thread for it while there is something to close, and room for a few descriptors, counted until they are
//! closed. Whoever's close does not come back gets no more of them, and keeps nobody else waiting.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// Descriptors that the clients of one uid may have here at once.
const EACH_MAX: usize = 64;
/// The same for root's.
const ROOT_MAX: usize = 1024;
/// Uids besides root's that may have any here at once, and so threads that close.
const UIDS_MAX: usize = 64;

/// Whose descriptors are here, and which of them are to be closed.
#[derive(Debug)]
pub struct Closers {
    each: Mutex<HashMap<u32, Own>>,
    close: fn(OwnedFd),
}

/// One uid's.
#[derive(Debug, Default)]
struct Own {
    /// How many are here, those that are to be closed included.
    here: usize,
    /// Which are to be closed.
    over: VecDeque<OwnedFd>,
    /// Whether a thread closes them.
    closes: bool,
}

/// Room for one descriptor, and the descriptor once it has come. Dropped, it is closed by a thread that serves nobody.
#[derive(Debug)]
pub struct Handed {
    fd: Option<OwnedFd>,
    uid: u32,
    closers: Arc<Closers>,
}

impl Default for Closers {
    fn default() -> Self {
        Self { each: Mutex::default(), close: drop }
    }
}

impl Closers {
    fn each(&self) -> MutexGuard<'_, HashMap<u32, Own>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one descriptor of a client of this uid; nothing where it has too many here.
    pub fn room(self: &Arc<Self>, uid: u32) -> Option<Handed> {
        let mut each = self.each();
        let (most, uids) = if uid == 0 { (ROOT_MAX, usize::MAX) } else { (EACH_MAX, UIDS_MAX) };
        if !each.contains_key(&uid) && each.len() >= uids {
            return None;
        }
        let own = each.entry(uid).or_default();
        if own.here >= most {
            return None;
        }
        own.here += 1;
        Some(Handed { fd: None, uid, closers: self.clone() })
    }

    /// Gives room back that was not used.
    fn unused(&self, uid: u32) {
        let mut each = self.each();
        if let Some(own) = each.get_mut(&uid) {
            own.here = own.here.saturating_sub(1);
            if own.here == 0 {
                each.remove(&uid);
            }
        }
    }

    /// Has one closed.
    fn over(self: &Arc<Self>, uid: u32, fd: OwnedFd) {
        let mut each = self.each();
        let own = each.entry(uid).or_default();
        own.over.push_back(fd);
        if own.closes {
            return;
        }
        own.closes = true;
        drop(each);
        let closers = self.clone();
        let begun = std::thread::Builder::new().name("closes".into()).spawn(move || closers.close(uid));
        if begun.is_err() {
            // The next one's thread closes it too; until then it counts.
            if let Some(own) = self.each().get_mut(&uid) {
                own.closes = false;
            }
        }
    }

    /// Closes what is over, until there is nothing more.
    fn close(&self, uid: u32) {
        let mut closed = 0;
        while let Some(fd) = self.next(uid, closed) {
            (self.close)(fd);
            closed = 1;
        }
    }

    /// What is closed next, after so many that are closed now; nothing, and then this thread's turn is over.
    fn next(&self, uid: u32, closed: usize) -> Option<OwnedFd> {
        let mut each = self.each();
        let own = each.get_mut(&uid)?;
        own.here = own.here.saturating_sub(closed);
        let next = own.over.pop_front();
        own.closes = next.is_some();
        if own.here == 0 {
            each.remove(&uid);
        }
        next
    }
}

impl Handed {
    /// What came.
    #[must_use]
    pub fn with(mut self, fd: OwnedFd) -> Self {
        self.fd = Some(fd);
        self
    }

    /// The descriptor, where it is a unix socket that carries a stream and whose other end was made by the same uid:
    /// asking that touches no file system. Whoever is at the other end may see what it gets as this process's own words
    /// (`SO_PASSCRED`, as the host's log has it), so the client's uid must be the one it could have lied to anyway.
    #[must_use]
    pub fn stream(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.fd.as_ref()?;
        let unix = sockopt::socket_domain(fd).is_ok_and(|family| family == AddressFamily::UNIX);
        let stream = unix && sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
        // Unconnected, it has the uid that nobody has (unix(7)).
        let own = stream && sockopt::socket_peercred(fd).is_ok_and(|peer| peer.uid.as_raw() == self.uid);
        own.then(|| fd.as_fd())
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        match self.fd.take() {
            Some(fd) => self.closers.over(self.uid, fd),
            None => self.closers.unused(self.uid),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    /// A file whose close waits for its file system's word: that of a byte from the socket's other end.
    fn waits(fd: OwnedFd) {
        let _ = UnixStream::from(fd).read(&mut [0]);
    }

    fn eventually(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..6000 {
            if holds() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(holds(), "{what}");
    }

    #[test]
    fn a_close_that_hangs_keeps_nobody_waiting_and_room_has_an_end() {
        let closers = Arc::new(Closers { each: Mutex::default(), close: waits });
        let (mut word, hangs) = UnixStream::pair().unwrap();
        let again = || hangs.try_clone().unwrap().into();
        let held: Vec<Handed> =
            std::iter::from_fn(|| closers.room(5)).map(|room| room.with(again())).collect();
        assert_eq!(held.len(), EACH_MAX);
        drop(held);
        assert!(closers.room(5).is_none(), "the first of them is still being closed");
        // Somebody else's are closed meanwhile.
        let (mut other_word, other) = UnixStream::pair().unwrap();
        drop(closers.room(6).unwrap().with(other.into()));
        other_word.write_all(&[1]).unwrap();
        eventually("another uid's is closed", || !closers.each().contains_key(&6));
        assert!(closers.room(0).is_some());
        word.write_all(&[1; EACH_MAX]).unwrap();
        eventually("all are closed", || closers.each().is_empty());
        assert!(closers.room(5).is_some());
    }

    #[test]
    fn room_that_was_not_used_is_given_back() {
        let closers = Arc::new(Closers::default());
        for _ in 0..10_000 {
            drop(closers.room(5).unwrap());
        }
        let held: Vec<_> = (1..=1000).filter_map(|uid| closers.room(uid)).collect();
        assert_eq!(held.len(), UIDS_MAX);
        assert!(closers.room(0).is_some(), "root's are not counted among them");
        drop(held);
        assert!(closers.each().is_empty());
    }

    #[test]
    fn what_is_closed_is_closed() {
        let closers = Arc::new(Closers::default());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        drop(closers.room(5).unwrap().with(theirs.into()));
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        eventually("its room is given back", || closers.each().is_empty());
    }

    #[test]
    fn only_a_stream_of_this_host_is_one() {
        let closers = Arc::new(Closers::default());
        let own = nix::unistd::geteuid().as_raw();
        let handed = |fd: OwnedFd| closers.room(own).unwrap().with(fd);
        let (stream, _peer) = UnixStream::pair().unwrap();
        let again = stream.try_clone().unwrap();
        assert!(handed(stream.into()).stream().is_some());
        // Another uid's client hands in what this one is at the other end of.
        assert!(closers.room(own + 1).unwrap().with(again.into()).stream().is_none());
        let unconnected = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert!(handed(unconnected).stream().is_none());
        let (datagram, _peer) = UnixDatagram::pair().unwrap();
        let tcp = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (packets, _peer) = super::super::scm::seqpacket_pair().unwrap();
        for fd in [null(), datagram.into(), tcp.into(), packets] {
            assert!(handed(fd).stream().is_none());
        }
        assert!(closers.room(own).unwrap().stream().is_none());
    }
}
