//! What is to be sent to one client: bounded, so that one that does not read holds up nobody else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::remote::Outbox;

/// Bytes that may wait for one client before its next packet is left unread.
const ENOUGH: usize = 1 << 20;
/// Bytes that may wait for one client at all: the longest packet, and some.
const CLIENT_MAX: usize = 48 << 20;
/// Bytes that may wait before an event means that the client is too slow for events.
const EVENTS_MAX: usize = 4 << 20;
/// Bytes that may wait for all clients together before those that hold much are let go.
const ALL_MAX: usize = 256 << 20;

/// Bytes that are held for all clients.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn add(&self, bytes: usize) -> bool {
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= ALL_MAX
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Descriptors that may wait for one client before its next packet is left unread.
const DESCRIPTORS_ENOUGH: usize = 8;

/// One client's queue.
#[derive(Debug)]
pub(super) struct Queue {
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// There is something to send, or nothing will come any more.
    filled: Notify,
    /// There is room again.
    drained: Notify,
}

/// Something to send.
#[derive(Debug)]
pub(super) struct Entry {
    /// Bytes.
    pub(super) bytes: Vec<u8>,
    /// What goes with the first of them.
    pub(super) fd: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    packets: VecDeque<Entry>,
    bytes: usize,
    /// How many of them bring a descriptor.
    descriptors: usize,
    /// Nothing is taken any more; what is there is still sent.
    finished: bool,
    /// Nothing is sent any more either.
    closed: bool,
}

impl Queue {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, state: Mutex::default(), filled: Notify::new(), drained: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a packet. A client for which too much waits is closed.
    pub(super) fn push(&self, packet: Vec<u8>) {
        self.push_within(packet, CLIENT_MAX);
    }

    /// Takes a packet, of which nothing waits that `write` takes at once: an answer need not wait until somebody else
    /// gets to run. Where others wait before it, it comes behind them.
    pub(super) fn send(&self, mut packet: Vec<u8>, write: impl FnOnce(&[u8]) -> io::Result<usize>) {
        let state = self.state();
        // Bytes are counted until they are sent: with none, nobody else is writing either.
        if state.bytes == 0 && !state.finished && !state.closed {
            // What went wrong goes wrong again for whoever sends what waits.
            let sent = write(&packet).unwrap_or(0);
            if sent >= packet.len() {
                return;
            }
            packet.drain(..sent);
        }
        self.put(state, packet, CLIENT_MAX);
    }

    fn push_within(&self, packet: Vec<u8>, max: usize) {
        self.put(self.state(), packet, max);
    }

    fn put(&self, mut state: MutexGuard<'_, State>, packet: Vec<u8>, max: usize) {
        if state.finished || state.closed || packet.is_empty() {
            return;
        }
        let fits = self.budget.add(packet.len());
        state.bytes += packet.len();
        if state.bytes > max || (!fits && state.bytes > ENOUGH) {
            state.closed = true;
        }
        state.packets.push_back(Entry { bytes: packet, fd: None });
        drop(state);
        self.filled.notify_one();
    }

    /// Takes a packet and the descriptors behind it: a byte of its own brings each.
    pub(super) fn push_with(&self, packet: Vec<u8>, fds: Vec<OwnedFd>) {
        let mut state = self.state();
        if state.finished || state.closed {
            return;
        }
        let bytes = packet.len() + fds.len();
        let fits = self.budget.add(bytes);
        state.bytes += bytes;
        state.descriptors += fds.len();
        if state.bytes > CLIENT_MAX || (!fits && state.bytes > ENOUGH) {
            state.closed = true;
        }
        state.packets.push_back(Entry { bytes: packet, fd: None });
        state.packets.extend(fds.into_iter().map(|fd| Entry { bytes: vec![0], fd: Some(fd) }));
        drop(state);
        self.filled.notify_one();
    }

    /// Nothing comes after what is there.
    pub(super) fn finish(&self) {
        self.state().finished = true;
        self.filled.notify_one();
    }

    /// Drops everything.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.budget.remove(std::mem::take(&mut state.bytes));
        state.packets.clear();
        state.descriptors = 0;
        drop(state);
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// The next packet; `None` at the end.
    pub(super) async fn next(&self) -> Option<Entry> {
        loop {
            {
                let mut state = self.state();
                if state.closed {
                    return None;
                }
                if let Some(packet) = state.packets.pop_front() {
                    state.descriptors = state.descriptors.saturating_sub(usize::from(packet.fd.is_some()));
                    return Some(packet);
                }
                if state.finished {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// A packet was sent.
    pub(super) fn sent(&self, bytes: usize) {
        let mut state = self.state();
        // Closing has counted all of them already.
        if !state.closed {
            state.bytes = state.bytes.saturating_sub(bytes);
            self.budget.remove(bytes);
        }
        drop(state);
        self.drained.notify_waiters();
    }

    /// Waits until the client has taken most of what waits for it.
    pub(super) async fn room(&self) {
        notified_until(&self.drained, || self.has_room()).await;
    }

    fn has_room(&self) -> bool {
        let state = self.state();
        let room = state.bytes <= ENOUGH && state.descriptors <= DESCRIPTORS_ENOUGH;
        state.closed || state.finished || room
    }
}

/// Waits until there is room, which is looked at again whenever `drained` tells of some.
pub(super) async fn notified_until(drained: &Notify, has_room: impl Fn() -> bool) {
    while !has_room() {
        let drained = drained.notified();
        tokio::pin!(drained);
        // Registered before looking, so that nothing in between is missed.
        drained.as_mut().enable();
        if has_room() {
            return;
        }
        drained.await;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl Outbox for Queue {
    fn event(&self, packet: Vec<u8>) {
        self.push_within(packet, EVENTS_MAX);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn queue() -> (Arc<Budget>, Queue) {
        let budget = Arc::new(Budget::default());
        (budget.clone(), Queue::new(budget))
    }

    fn now<F: Future>(future: F) -> Option<F::Output> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tokio::select! { biased; output = future => Some(output), () = std::future::ready(()) => None }
        })
    }

    /// The bytes of what comes next, if anything does now.
    fn told(queue: &Queue) -> Option<Option<Vec<u8>>> {
        now(queue.next()).map(|entry| entry.map(|entry| entry.bytes))
    }

    #[test]
    fn descriptors_come_behind_their_packet_and_few_of_them_wait() {
        let (budget, queue) = queue();
        let open = || -> OwnedFd { std::fs::File::open("/dev/null").unwrap().into() };
        queue.push_with(vec![1, 2], vec![open(), open()]);
        queue.push(vec![3]);
        let mut brought = Vec::new();
        while let Some(Some(entry)) = now(queue.next()) {
            brought.push((entry.bytes.clone(), entry.fd.is_some()));
            queue.sent(entry.bytes.len());
        }
        assert_eq!(brought, [(vec![1, 2], false), (vec![0], true), (vec![0], true), (vec![3], false)]);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        for _ in 0..=DESCRIPTORS_ENOUGH {
            assert_eq!(now(queue.room()), Some(()));
            queue.push_with(vec![1], vec![open()]);
        }
        assert_eq!(now(queue.room()), None, "it takes those that it has first");
    }

    #[test]
    fn packets_come_in_order_and_the_end_after_them() {
        let (budget, queue) = queue();
        queue.push(vec![1]);
        queue.push(vec![2, 2]);
        queue.finish();
        queue.push(vec![3]);
        assert_eq!(told(&queue), Some(Some(vec![1])));
        queue.sent(1);
        assert_eq!(told(&queue), Some(Some(vec![2, 2])));
        queue.sent(2);
        assert_eq!(told(&queue), Some(None));
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_can_be_sent_at_once_does_not_wait_and_overtakes_nothing() {
        let (budget, queue) = queue();
        queue.send(vec![1, 2, 3], |bytes| Ok(bytes.len()));
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        queue.send(vec![1, 2, 3], |_| Ok(1));
        queue.send(vec![4], |_| panic!("something waits before it"));
        assert_eq!(told(&queue), Some(Some(vec![2, 3])));
        queue.send(vec![5], |_| panic!("somebody else is writing"));
        queue.sent(2);
        assert_eq!(told(&queue), Some(Some(vec![4])));
        queue.sent(1);
        assert_eq!(told(&queue), Some(Some(vec![5])));
        queue.sent(1);
        queue.send(vec![6], |_| Err(io::ErrorKind::WouldBlock.into()));
        queue.finish();
        queue.send(vec![7], |_| panic!("nothing comes after the end"));
        assert_eq!(told(&queue), Some(Some(vec![6])));
        queue.sent(1);
        assert_eq!(told(&queue), Some(None));
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go_alone() {
        let (budget, slow) = queue();
        let other = Queue::new(budget.clone());
        slow.push(vec![0; ENOUGH + 1]);
        assert_eq!(now(slow.room()), None, "there is no room until it reads");
        for _ in 0..4 {
            slow.event(vec![0; 1 << 20]);
        }
        assert!(slow.is_closed());
        assert_eq!(told(&slow), Some(None));
        slow.close();
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        other.push(vec![1]);
        assert_eq!(told(&other), Some(Some(vec![1])));
        assert_eq!(now(other.room()), Some(()));
    }

    #[test]
    fn when_all_hold_too_much_those_with_little_stay() {
        let (budget, small) = queue();
        assert!(!budget.add(ALL_MAX + 1));
        small.push(vec![0; 100]);
        assert!(!small.is_closed());
        let large = Queue::new(budget);
        large.push(vec![0; ENOUGH + 1]);
        assert!(large.is_closed());
    }
}
