//! One client: bytes to packets, packets to calls, answers to bytes.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::timeout;

use super::accept::Shared;
use super::arrived::Arrived;
use super::queue::{Budget, Queue};
use super::share::Waiters;
use super::silence::{Heard, PING_EVERY, Silence};
use super::socket::{Socket, Writer};
use super::threads::Threads;
use super::tidy::Tidy;
use super::{console, keys, relay, transfer};
use crate::remote::{Outcome, Service, Session, StreamPacket};
use crate::rpc::{Deframer, Header, Packet, Program, STREAM_CHUNK};
use crate::sys::handed::{Closers, Handed};

/// How long a client may take no byte of what is sent to it.
const STALLED: Duration = Duration::from_secs(60);
/// Streams that one client may have open.
const STREAMS_MAX: usize = 16;
/// Displays that one client may have joined with what it handed in.
const RELAYS_MAX: usize = 8;
/// Bytes of one unfinished packet that are nobody's concern.
const PARTIAL_FREE: usize = 64 << 10;

/// One client's side of the daemon, shared by what runs for it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) service: Arc<Service>,
    pub(super) session: Arc<Session>,
    pub(super) queue: Arc<Queue>,
    streams: Mutex<HashMap<u32, keys::Sender>>,
    relays: Mutex<Vec<AbortHandle>>,
    calls: Arc<Semaphore>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) threads: Arc<Threads>,
    partial: Arc<Budget>,
    closers: Arc<Closers>,
    tidy: Arc<Tidy>,
}

impl Client {
    pub(super) fn new(shared: &Shared, session: Arc<Session>, queue: Arc<Queue>) -> Self {
        let calls = Arc::new(Semaphore::new(shared.calls as usize));
        let (service, waiters, threads) =
            (shared.service.clone(), shared.waiters.clone(), shared.threads.clone());
        let (streams, relays) = (Mutex::default(), Mutex::default());
        let (partial, closers, tidy) = (shared.partial.clone(), shared.closers.clone(), shared.tidy.clone());
        Self { service, session, queue, streams, relays, calls, waiters, threads, partial, closers, tidy }
    }

    /// Serves the client until it leaves, breaks the protocol, or is too slow.
    pub(super) async fn serve(self: Arc<Self>, socket: Socket) {
        let (socket, queue) = (Arc::new(socket), self.queue.clone());
        let mut writing = tokio::spawn(write(Writer::new(socket.clone()), queue));
        let last = tokio::select! {
            last = self.read(&socket) => last,
            // It cannot be written to: nothing that it asks for could reach it.
            _ = &mut writing => false,
        };
        if last {
            // What was the last answer still goes out.
            self.queue.finish();
            let _ = timeout(STALLED, &mut writing).await;
        }
        self.queue.close();
        writing.abort();
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let relays = std::mem::take(&mut *self.relays.lock().unwrap_or_else(PoisonError::into_inner));
        relays.iter().for_each(AbortHandle::abort);
    }

    /// Reads until the end; true where the client said goodbye and is answered.
    async fn read(self: &Arc<Self>, socket: &Socket) -> bool {
        let (mut deframer, mut silence) = (Deframer::default(), Silence::new(PING_EVERY));
        let mut arrived = Arrived::default();
        let mut counted = Counted::new(self.partial.clone());
        loop {
            self.queue.room().await;
            let mut read = |context: &mut Context<'_>| {
                let room = || self.closers.room(self.session.uid());
                socket.poll_read(context, room, |bytes, brought| {
                    deframer.push(bytes);
                    arrived.add(brought);
                })
            };
            match silence.broken(self.session.may_be_pinged(), &mut read).await {
                Heard::Nothing => {
                    self.ping();
                    continue;
                }
                Heard::TooLong | Heard::Done(Err(_) | Ok(0)) => break false,
                Heard::Done(Ok(_)) => {}
            }
            match self.packets(&mut deframer, &mut arrived, socket, &mut silence).await {
                Some(last) => break last,
                None if !counted.holds(deframer.held()) => break false,
                None => {}
            }
        }
    }

    /// Pings a client that answers.
    fn ping(&self) {
        if let Ok(ping) = Packet::bytes(&Header::event(Program::Keepalive, 1, 0), &()) {
            self.queue.push(ping);
        }
    }

    /// Deals with every whole packet; `Some` where no more are read.
    async fn packets(
        self: &Arc<Self>,
        deframer: &mut Deframer,
        arrived: &mut Arrived,
        socket: &Socket,
        silence: &mut Silence,
    ) -> Option<bool> {
        loop {
            match deframer.next_packet() {
                Ok(Some(packet)) => {
                    let Some(handed) = arrived.take(packet.descriptors) else {
                        tracing::debug!(client = self.session.id, "promises descriptors that do not come");
                        return Some(false);
                    };
                    // One piece of input may hold hundreds of calls, and the next piece may be there already: others
                    // get their turn between any two calls that nothing was waited for in between, and a client that
                    // does not read its answers has no more of them made.
                    if !silence.was_waited_for() {
                        tokio::task::yield_now().await;
                    }
                    self.queue.room().await;
                    if self.queue.is_closed() {
                        return Some(false);
                    }
                    if self.packet(packet, handed, socket).await {
                        return Some(true);
                    }
                }
                Ok(None) => {
                    if deframer.held() == 0 {
                        arrived.clear();
                    }
                    return None;
                }
                Err(error) => {
                    tracing::debug!(client = self.session.id, %error, "breaks the protocol");
                    return Some(false);
                }
            }
        }
    }

    /// Deals with one packet; true where it was the last one.
    async fn packet(self: &Arc<Self>, packet: Packet, handed: Option<Handed>, socket: &Socket) -> bool {
        let (header, bytes) = (packet.header, packet.payload.len());
        // A client that only answers pings uses nothing.
        if header.program != Program::Keepalive as u32 {
            self.tidy.used();
        }
        match self.service.packet_with(&self.session, packet, handed) {
            Outcome::Nothing => {}
            Outcome::Reply(bytes) => self.queue.send(bytes, |bytes| socket.try_write(bytes)),
            Outcome::Last(bytes) => {
                self.queue.push(bytes);
                return true;
            }
            Outcome::Later(work) => return self.later(&header, bytes, move || (work(), Vec::new())).await,
            Outcome::Descriptors(work) => return self.later(&header, bytes, work).await,
            Outcome::Console(wanted) => {
                if let Some(receiver) = self.begin(&wanted.header, false) {
                    let (client, serial) = (self.clone(), wanted.header.serial);
                    tokio::spawn(async move {
                        console::serve(&client, wanted, receiver).await;
                        client.forget(serial);
                    });
                }
            }
            Outcome::Transfer(wanted) => {
                if let Some(receiver) = self.begin(&wanted.header, wanted.up) {
                    let (client, serial) = (self.clone(), wanted.header.serial);
                    tokio::spawn(async move {
                        transfer::serve(&client, wanted, receiver).await;
                        client.forget(serial);
                    });
                }
            }
            Outcome::Relay(wanted) => self.relay(wanted),
            Outcome::Stream(packet) => self.stream(packet).await,
        }
        false
    }

    /// Does what may wait on a thread that may, and sends what it gives; true never, for it is not the last packet.
    async fn later(
        self: &Arc<Self>,
        header: &Header,
        bytes: usize,
        work: impl FnOnce() -> (Vec<u8>, Vec<OwnedFd>) + Send + 'static,
    ) -> bool {
        // While as many calls as are allowed are under way, nothing more is read of this client.
        let Ok(permit) = self.calls.clone().acquire_owned().await else { return false };
        let (client, header) = (self.clone(), *header);
        let mut counted = Counted::new(self.partial.clone());
        if !counted.holds(bytes) {
            self.queue.push(self.service.busy(&header));
            return false;
        }
        tokio::spawn(async move {
            match client.waiting(work).await {
                Ok((bytes, fds)) if fds.is_empty() => client.queue.push(bytes),
                Ok((bytes, fds)) => client.queue.push_with(bytes, fds),
                // Where a panic does not end the whole daemon: nobody is to wait for an answer that never comes.
                Err(error) => {
                    tracing::error!(client = client.session.id, %error, "a call ended without an answer");
                    client.refuse(&header, "the call ended without an answer; svirtd's log says why");
                }
            }
            drop((permit, counted));
            client.tidy.used();
        });
        false
    }

    /// Does what may wait on a thread that may, as one of those that this client's uid may hold at once.
    pub(super) fn waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, JoinError>> + Send + 'static {
        let (waiters, threads, uid) = (self.waiters.clone(), self.threads.clone(), self.session.uid());
        async move {
            let share = waiters.take(uid).await;
            let work = move || {
                let done = work();
                // With the work, and not with whoever waits for it.
                drop(share);
                done
            };
            threads.waiting().spawn_blocking(work).await
        }
    }

    /// Opens a stream, of which the other end is given; `None` where that is refused.
    fn begin(&self, header: &Header, waits: bool) -> Option<keys::Receiver> {
        let (sender, receiver) = keys::stream(waits);
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() >= STREAMS_MAX || streams.contains_key(&header.serial) {
            self.refuse(header, "too many streams, or two of one serial");
            return None;
        }
        streams.insert(header.serial, sender);
        Some(receiver)
    }

    fn refuse(&self, header: &Header, text: &str) {
        let error = crate::driver::DriverError::Protocol(text.to_owned());
        self.queue.push(self.service.late_failure(header, error));
    }

    /// Joins a display with what the client handed in.
    fn relay(self: &Arc<Self>, wanted: crate::remote::Relay) {
        let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
        relays.retain(|relay| !relay.is_finished());
        if relays.len() >= RELAYS_MAX {
            return self.refuse(&wanted.header, "too many displays are open over this connection");
        }
        let client = self.clone();
        relays.push(tokio::spawn(async move { relay::serve(&client, wanted).await }).abort_handle());
    }

    /// A stream is over; what still comes for it is dropped.
    pub(super) fn forget(&self, serial: u32) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&serial);
    }

    async fn stream(&self, packet: StreamPacket) {
        let (serial, header) = (packet.header.serial, packet.header);
        let sender = {
            let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.get(&serial).cloned()
        };
        let Some(sender) = sender else { return };
        let text = if packet.data.len() > STREAM_CHUNK {
            Some("a stream's packet is longer than any client of libvirt's sends")
        } else {
            let lost = if sender.waits {
                "nothing is written any longer: what was sent is lost; see the call's own error"
            } else {
                "the guest does not read its console: what was typed is lost"
            };
            (!sender.send(packet)).then_some(lost)
        };
        if text.is_none() && sender.waits {
            // Nothing more is read of this client while what it sent is not written.
            sender.room().await;
        }
        if let Some(text) = text {
            self.forget(serial);
            self.queue.push(self.service.stream_failure(&header, text));
        }
    }
}

/// What is held of one packet that is not read to its end, or not answered yet, as all clients' budget counts it;
/// given back however that ends.
struct Counted {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Counted {
    fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Notes how much is held; false where that is too much.
    fn holds(&mut self, held: usize) -> bool {
        self.budget.remove(self.bytes);
        self.bytes = held;
        self.budget.add(held) || held <= PARTIAL_FREE
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.remove(self.bytes);
    }
}

async fn write(writer: Writer, queue: Arc<Queue>) {
    while let Some(packet) = queue.next().await {
        let (mut rest, mut fd) = (packet.bytes.as_slice(), packet.fd.as_ref());
        while !rest.is_empty() {
            match timeout(STALLED, writer.write(rest, fd.map(AsFd::as_fd))).await {
                Ok(Ok(count @ 1..)) => {
                    rest = rest.get(count..).unwrap_or_default();
                    // It went with the first byte.
                    fd = None;
                }
                _ => return,
            }
        }
        queue.sent(packet.bytes.len());
    }
    writer.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_given_back_when_reading_is_cut_short() {
        let budget = Arc::new(Budget::default());
        let mut counted = Counted::new(budget.clone());
        assert!(counted.holds(200 << 20) && counted.holds(100 << 20));
        drop(counted);
        let mut next = Counted::new(budget);
        assert!(next.holds(256 << 20), "nothing of it is left");
        assert!(!next.holds((256 << 20) + 1));
    }
}
