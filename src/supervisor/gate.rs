//! The phase gate: which of the device model's launch-only calls are let through.
//!
//! ```text
//! Launch ──seal()──▶ Sealed          every call: let through ──▶ EPERM, but in a window
//! ```
//!
//! A window is timed, and for the few calls of one action: while a device is plugged in, QEMU may look at what it was
//! given. Which calls these are is a list here, not something that anybody asks for.
//!
//! A decision rests on the phase alone, never on what the caller's memory or arguments say: memory can change
//! between the look and the call. [`Book`] is pure; [`Gate`] adds the listener.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::privsep::supervisor::OTHER_CALLS;
use crate::sys::seccomp::{NotifyListener, Waiting};

/// How many system call numbers are counted one by one; a filter has far fewer notified calls.
const NUMBERS_MAX: usize = 128;
/// How long the next call may take to come before everything else is served.
const PAUSE: Duration = Duration::from_micros(300);
/// Under which number all further calls are counted.
const OTHER: i32 = OTHER_CALLS;

/// Proof that the gate is shut. Only [`Book::seal`] makes one, and only with one can `cont` be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed(());

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Continue,
    /// It fails with `EPERM`.
    Refuse,
}

/// The phase and what was counted in it.
#[derive(Debug, Default)]
pub struct Book {
    sealed: Option<Sealed>,
    /// The calls of a device that is being plugged in, until when.
    window: Option<(&'static [i32], Instant)>,
    passed: u64,
    refused: BTreeMap<i32, u64>,
}

impl Book {
    /// The gate of a domain that runs already.
    #[must_use]
    pub fn shut() -> Self {
        Self { sealed: Some(Sealed(())), ..Self::default() }
    }

    /// Decides one call and counts it.
    pub fn decide(&mut self, number: i32, now: Instant) -> Verdict {
        let within = |(calls, until): (&[i32], Instant)| calls.contains(&number) && now < until;
        if self.sealed.is_none() || self.window.is_some_and(within) {
            self.passed = self.passed.saturating_add(1);
            return Verdict::Continue;
        }
        let full = self.refused.len() >= NUMBERS_MAX && !self.refused.contains_key(&number);
        let count = self.refused.entry(if full { OTHER } else { number }).or_default();
        *count = count.saturating_add(1);
        Verdict::Refuse
    }

    /// Shuts the gate; there is no way back.
    pub fn seal(&mut self) -> Sealed {
        *self.sealed.get_or_insert(Sealed(()))
    }

    /// Lets these calls through until then, or until [`Book::close_window`]; every other one stays refused.
    pub fn open_window(&mut self, calls: &'static [i32], until: Instant) {
        self.window = Some((calls, until));
    }

    /// Ends the window.
    pub fn close_window(&mut self) {
        self.window = None;
    }

    /// The proof, if the gate is shut.
    #[must_use]
    pub fn sealed(&self) -> Option<Sealed> {
        self.sealed
    }

    /// How many calls were let through.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// System call number and count of what was refused.
    #[must_use]
    pub fn refused(&self) -> Vec<(i32, u64)> {
        self.refused.iter().map(|(number, count)| (*number, *count)).collect()
    }
}

/// The device model's listener and the book over it.
#[derive(Debug)]
pub struct Gate {
    listener: Option<NotifyListener>,
    /// Phase and counts.
    pub book: Book,
}

impl Gate {
    /// A gate that waits for its listener.
    #[must_use]
    pub fn new(book: Book) -> Self {
        Self { listener: None, book }
    }

    /// Gives it the listener.
    pub fn install(&mut self, listener: NotifyListener) {
        // Only speed is lost where the kernel cannot.
        let _ = listener.wake_synchronously();
        self.listener = Some(listener);
    }

    /// Whether a listener is there.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        self.listener.is_some()
    }

    /// What to poll.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Answers up to `most` calls. While the gate is open it waits a moment for the next: a device model that loads its
    /// libraries makes one after the other, and all that a turn of the supervisor's is takes longer than an answer.
    pub fn answer(&mut self, most: usize) -> io::Result<()> {
        let pause = if self.book.sealed.is_some() { Duration::ZERO } else { PAUSE };
        self.answer_within(most, pause)
    }

    /// Answers up to `most` calls, each of which comes within `pause` of the one before.
    fn answer_within(&mut self, most: usize, pause: Duration) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        for _ in 0..most {
            match listener.waiting(pause)? {
                Waiting::Call => {}
                Waiting::Nothing => break,
                // A descriptor that has hung up is ready for ever, and whoever polls it takes the processor that the
                // device model ends on.
                Waiting::Nobody => {
                    self.listener = None;
                    break;
                }
            }
            // Without one the caller was gone before.
            let Some(call) = listener.recv()? else { continue };
            // Nothing is asked about the caller, so that one who is gone by now is found out by the answer.
            match self.book.decide(call.nr, Instant::now()) {
                Verdict::Continue => listener.reply_continue(call.id)?,
                Verdict::Refuse => listener.reply_errno(call.id, nix::errno::Errno::EPERM as i32)?,
            };
        }
        Ok(())
    }

    /// Answers what waits already, then shuts.
    ///
    /// A call that was made before is thus let through; one that is made later is not, whichever thread makes it.
    pub fn seal(&mut self) -> Sealed {
        /// A sound device model makes about 140 in a whole start.
        const WAITING_MAX: usize = 1024;
        // An error here leaves calls unanswered until the listener is closed; the gate shuts all the same.
        let _ = self.answer_within(WAITING_MAX, Duration::ZERO);
        self.book.seal()
    }

    /// Drops the listener: every further call of the class fails with `ENOSYS`.
    pub fn close(&mut self) {
        self.listener = None;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::process::readable;
    use crate::sys::{cred, pidfd, process, scm, seccomp};

    #[test]
    fn a_listener_that_nobody_is_under_any_more_is_not_polled() {
        let (ours, theirs) = scm::seqpacket_pair().unwrap();
        let child = process::fork(|| {
            // One instruction: whatever it is, it is allowed.
            let allow = [(6, 0, 0, libc::SECCOMP_RET_ALLOW)];
            let loaded = cred::set_no_new_privs().and_then(|()| seccomp::load_with_listener(&allow));
            loaded.map_or(1, |fd| i32::from(scm::send(theirs.as_fd(), b"l", &[fd.as_fd()]).is_err()))
        })
        .unwrap();
        let (_, mut fds) = scm::recv(ours.as_fd(), &mut [0; 8]).unwrap();
        let mut gate = Gate::new(Book::default());
        gate.install(NotifyListener::new(fds.pop().unwrap()));
        assert!(pidfd::wait_ended(&child.pidfd, 30_000).unwrap());
        assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
        // It has hung up, so it is ready for ever.
        assert!(readable(gate.fd().unwrap(), Duration::from_secs(30)).unwrap());
        gate.answer(1).unwrap();
        assert!(gate.fd().is_none());
    }

    #[test]
    fn nothing_waits_where_nobody_calls() {
        let (ours, theirs) = scm::seqpacket_pair().unwrap();
        let child = process::fork(|| {
            let allow = [(6, 0, 0, libc::SECCOMP_RET_ALLOW)];
            let loaded = cred::set_no_new_privs().and_then(|()| seccomp::load_with_listener(&allow));
            let sent =
                loaded.map_or(1, |fd| i32::from(scm::send(theirs.as_fd(), b"l", &[fd.as_fd()]).is_err()));
            // Until the other end is closed.
            let _ = scm::recv(theirs.as_fd(), &mut [0; 8]);
            sent
        })
        .unwrap();
        let (_, mut fds) = scm::recv(ours.as_fd(), &mut [0; 8]).unwrap();
        let mut gate = Gate::new(Book::default());
        gate.install(NotifyListener::new(fds.pop().unwrap()));
        // It would sleep for ever if it asked for a call.
        gate.answer(1).unwrap();
        assert!(gate.fd().is_some());
        scm::send(ours.as_fd(), b"e", &[]).unwrap();
        assert!(pidfd::wait_ended(&child.pidfd, 30_000).unwrap());
        assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
    }

    #[test]
    fn a_shut_gate_refuses_from_the_start() {
        let mut book = Book::shut();
        assert_eq!(book.decide(59, Instant::now()), Verdict::Refuse);
        assert_eq!((book.passed(), book.refused()), (0, vec![(59, 1)]));
    }

    #[test]
    fn a_window_is_for_its_calls_and_its_time() {
        let mut book = Book::shut();
        let now = Instant::now();
        book.open_window(&[21], now + Duration::from_secs(5));
        assert_eq!(book.decide(21, now), Verdict::Continue);
        assert_eq!(book.decide(59, now), Verdict::Refuse);
        assert_eq!(book.decide(21, now + Duration::from_secs(5)), Verdict::Refuse);
        book.close_window();
        assert_eq!(book.decide(21, now), Verdict::Refuse);
        assert_eq!((book.passed(), book.refused()), (1, vec![(21, 2), (59, 1)]));
    }

    #[test]
    fn counting_is_bounded() {
        let mut book = Book::shut();
        for number in 0..1000 {
            book.decide(number, Instant::now());
        }
        assert_eq!(book.refused().len(), NUMBERS_MAX + 1);
        assert_eq!(book.refused().iter().map(|(_, count)| count).sum::<u64>(), 1000);
    }

    proptest! {
        #[test]
        fn nothing_passes_after_the_seal(calls in proptest::collection::vec(0..400i32, 0..60), at in 0..60usize) {
            let mut book = Book::default();
            for (index, number) in calls.iter().enumerate() {
                if index == at {
                    book.seal();
                }
                let expected = if index < at { Verdict::Continue } else { Verdict::Refuse };
                prop_assert_eq!(book.decide(*number, Instant::now()), expected);
            }
            let refused: u64 = book.refused().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(book.passed() + refused, calls.len() as u64);
        }
    }
}
