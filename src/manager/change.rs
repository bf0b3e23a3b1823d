//! Who changes a domain, and how long others wait for that.
//!
//! libvirt calls it the state change lock. Calls that only look do not take it, but for a picture, which nothing may come between; and neither does whoever ends what runs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Manager, ManagerError};

/// Held by whoever changes a domain.
#[derive(Debug, Default)]
pub(super) struct ChangeLock {
    holder: Mutex<Option<Holder>>,
    freed: Condvar,
}

/// Who holds it.
#[derive(Clone, Copy, Debug)]
struct Holder {
    call: &'static str,
    since: Instant,
}

/// It is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a ChangeLock);

/// Somebody else held it for as long as there was time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy {
    /// The call that holds it.
    pub(super) call: &'static str,
    /// How long it has.
    pub(super) lasts: Duration,
}

impl ChangeLock {
    fn holder(&self) -> MutexGuard<'_, Option<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it for a call, and waits so long for whoever has it.
    pub(super) fn take(&self, call: &'static str, patience: Duration) -> Result<Held<'_>, Busy> {
        let begun = Instant::now();
        let mut holder = self.holder();
        // Whoever is woken looks before it gives up: a wake-up is never lost to one whose time is over.
        while let Some(other) = *holder {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Busy { call: other.call, lasts: other.since.elapsed() });
            }
            holder = self.freed.wait_timeout(holder, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *holder = Some(Holder { call, since: Instant::now() });
        Ok(Held(self))
    }

    /// Takes it where nobody has it.
    pub(super) fn try_take(&self, call: &'static str) -> Option<Held<'_>> {
        self.take(call, Duration::ZERO).ok()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.holder() = None;
        self.0.freed.notify_one();
    }
}

impl Manager {
    /// Takes a domain's change lock for a call, by its name in libvirt's protocol; refused where another one holds it for
    /// longer than `daemon.change_wait`.
    pub(super) fn change<'a>(
        &self,
        lock: &'a ChangeLock,
        call: &'static str,
    ) -> Result<Held<'a>, ManagerError> {
        let patience = Duration::from_secs(self.settings.daemon.change_wait);
        lock.take(call, patience).map_err(|Busy { call, lasts }| ManagerError::Busy { call, lasts })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn whoever_has_waited_long_enough_is_told_for_whom() {
        let lock = ChangeLock::default();
        let held = lock.take("DomainSave", Duration::ZERO).unwrap();
        let begun = Instant::now();
        let busy = lock.take("DomainResume", Duration::from_millis(50)).unwrap_err();
        assert_eq!(busy.call, "DomainSave");
        assert!(busy.lasts >= Duration::from_millis(50) && begun.elapsed() >= Duration::from_millis(50));
        assert!(lock.try_take("DomainResume").is_none());
        drop(held);
        assert!(lock.try_take("DomainResume").is_some());
    }

    #[test]
    fn one_has_it_at_a_time_and_everybody_in_the_end() {
        let (lock, inside, done) = (ChangeLock::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _held = lock.take("DomainSave", Duration::from_secs(600)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 1600);
    }

    #[test]
    fn a_call_that_panics_leaves_it_free() {
        let lock = ChangeLock::default();
        let panicked = std::thread::scope(|scope| {
            let call = || {
                let _held = lock.take("DomainSave", Duration::ZERO).unwrap();
                panic!("on purpose");
            };
            scope.spawn(call).join().is_err()
        });
        assert!(panicked && lock.try_take("DomainResume").is_some());
    }
}
