//! What a client sends on one stream, until its other end takes it: bounded in bytes, so that a guest that reads
//! nothing costs little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::queue::notified_until;
use crate::remote::StreamPacket;

/// Bytes that may wait: what stock clients send in one packet, twice.
const WAITING_MAX: usize = 512 << 10;
/// What a packet costs beside its bytes, so that empty ones are counted too.
const PACKET: usize = 128;

/// Bytes that may wait before nothing more is read of a client whose other end always takes more in the end, as a file
/// does: one more packet fits then.
const ENOUGH: usize = WAITING_MAX / 4;

/// What waits.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Less waits.
    drained: Notify,
}

/// The client's end of a stream.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    packets: UnboundedSender<StreamPacket>,
    waiting: Arc<Waiting>,
    /// Whether the client waits for the other end, and not the other way round.
    pub(super) waits: bool,
}

/// The guest's end of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    packets: UnboundedReceiver<StreamPacket>,
    waiting: Arc<Waiting>,
}

/// A new stream.
pub(super) fn stream(waits: bool) -> (Sender, Receiver) {
    let ((packets, received), waiting) = (unbounded_channel(), Arc::<Waiting>::default());
    (Sender { packets, waiting: waiting.clone(), waits }, Receiver { packets: received, waiting })
}

impl Sender {
    /// Passes a packet on; false where too much waits already, or nobody takes it any longer.
    pub(super) fn send(&self, packet: StreamPacket) -> bool {
        let bytes = packet.data.len() + PACKET;
        let waiting = self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        waiting <= WAITING_MAX && self.packets.send(packet).is_ok()
    }

    /// Waits until the other end has taken most of it, or is gone.
    pub(super) async fn room(&self) {
        notified_until(&self.waiting.drained, || self.has_room()).await;
    }

    fn has_room(&self) -> bool {
        self.packets.is_closed() || self.waiting.bytes.load(Ordering::Relaxed) <= ENOUGH
    }
}

impl Receiver {
    /// The next packet; `None` once the client is gone or has gone too far. Its bytes wait until they are taken.
    pub(super) async fn next(&mut self) -> Option<StreamPacket> {
        let packet = self.packets.recv().await?;
        self.taken(PACKET);
        Some(packet)
    }

    /// The guest has taken bytes.
    pub(super) fn taken(&self, bytes: usize) {
        self.waiting.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.waiting.drained.notify_waiters();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.packets.close();
        self.waiting.drained.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rpc::{Header, PacketStatus, Program};

    fn packet(bytes: usize) -> StreamPacket {
        let header = Header::event(Program::Remote, 201, 1);
        StreamPacket { header, status: PacketStatus::Continue, data: vec![0; bytes], hole: None }
    }

    #[test]
    fn what_waits_is_measured_and_not_only_counted() {
        let (sender, mut receiver) = stream(false);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(sender.send(packet(200_000)) && sender.send(packet(200_000)));
        let taken = runtime.block_on(receiver.next()).unwrap();
        receiver.taken(taken.data.len());
        assert!(sender.send(packet(200_000)));
        assert!(!sender.send(packet(200_000)));
        // Empty ones are not free either.
        let (sender, _receiver) = stream(false);
        assert!((0..WAITING_MAX).take_while(|_| sender.send(packet(0))).count() < 5000);
    }

    #[test]
    fn a_client_waits_for_a_file_and_no_longer_than_there_is_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let waits = |sender: &Sender| {
            runtime.block_on(async {
                tokio::select! { biased; () = sender.room() => false, () = std::future::ready(()) => true }
            })
        };
        let (sender, mut receiver) = stream(true);
        assert!(sender.waits && !waits(&sender));
        assert!(sender.send(packet(crate::rpc::STREAM_CHUNK)));
        assert!(waits(&sender));
        // One more of the longest fits.
        let taken = runtime.block_on(receiver.next()).unwrap();
        receiver.taken(taken.data.len() - ENOUGH + PACKET);
        assert!(!waits(&sender) && sender.send(packet(crate::rpc::STREAM_CHUNK)) && waits(&sender));
        drop(receiver);
        assert!(!waits(&sender));
    }
}
