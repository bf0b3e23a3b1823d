//! What each uid may take of what all clients share: connections, and threads that wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::serve::WAITERS;

/// Threads that root's clients always find, whatever others wait for; they also carry what the daemon itself waits
/// for.
const ROOT_WAITERS: usize = WAITERS / 4;
/// Threads that the clients of one uid may hold at once.
const USER_WAITERS: usize = WAITERS / 8;

/// How many clients each uid has. Root is not counted: there is always a place for it as long as there is one at all.
#[derive(Debug)]
pub(super) struct Seats {
    taken: Mutex<HashMap<u32, u32>>,
    /// For each uid but root.
    user: u32,
    /// For all of them together, so that root still finds one.
    users: u32,
}

/// One client's seat, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    uid: u32,
}

impl Seats {
    /// `all` clients at most, and `user` of one uid.
    pub(super) fn new(all: u32, user: u32) -> Self {
        Self { taken: Mutex::default(), user, users: all - (all / 20).min(100) }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat; `None` where this uid has as many as it may, or all but root together.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Seat> {
        if uid != 0 {
            let mut taken = self.taken();
            let all: u32 = taken.values().sum();
            let own = taken.get(&uid).copied().unwrap_or(0);
            if own >= self.user || all >= self.users {
                return None;
            }
            taken.insert(uid, own + 1);
        }
        Some(Seat { seats: self.clone(), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// The right to hold one thread, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _own: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

/// Threads that wait for the disk, the labeller or a supervisor.
#[derive(Debug)]
pub(super) struct Waiters {
    /// For all uids but root.
    users: Arc<Semaphore>,
    each: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self { users: Arc::new(Semaphore::new(WAITERS - ROOT_WAITERS)), each: Mutex::default() }
    }

    /// Waits for a thread's worth of the share of a uid.
    pub(super) async fn take(&self, uid: u32) -> Option<Share> {
        // First the own share: whoever has used it up waits without holding anybody else's.
        let own = self.own(uid).acquire_owned().await.ok()?;
        let all = if uid == 0 { None } else { Some(self.users.clone().acquire_owned().await.ok()?) };
        Some(Share { _own: own, _all: all })
    }

    fn own(&self, uid: u32) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses are forgotten, so that there are never more than clients.
        each.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let size = if uid == 0 { ROOT_WAITERS } else { USER_WAITERS };
        each.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(size))).clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_leaves_seats_for_others_and_all_leave_some_for_root() {
        let seats = Arc::new(Seats::new(20, 12));
        let mut held: Vec<Seat> = (0..12).map(|_| seats.take(5).unwrap()).collect();
        assert!(seats.take(5).is_none());
        held.extend((0..7).map(|_| seats.take(6).unwrap()));
        assert!(seats.take(7).is_none(), "one is root's");
        assert!(seats.take(0).is_some());
        held.remove(0);
        assert!(seats.take(5).is_some());
        drop(held);
        assert!(seats.taken().is_empty());
    }

    #[test]
    fn one_uid_leaves_threads_for_others_and_all_leave_some_for_root() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let now = |waiters: &Waiters, uid| {
            runtime.block_on(async {
                tokio::select! { biased; taken = waiters.take(uid) => taken, () = std::future::ready(()) => None }
            })
        };
        let waiters = Waiters::new();
        let mut held = Vec::new();
        for uid in 1..=100 {
            held.extend(std::iter::from_fn(|| now(&waiters, uid)));
            assert!(held.len() <= USER_WAITERS * uid as usize);
        }
        assert_eq!(held.len(), WAITERS - ROOT_WAITERS);
        let root: Vec<_> = std::iter::from_fn(|| now(&waiters, 0)).collect();
        assert_eq!(root.len(), ROOT_WAITERS);
        held.clear();
        assert!(now(&waiters, 7).is_some());
        assert!(waiters.each.lock().unwrap().len() <= 2);
    }
}
