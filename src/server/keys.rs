//! What a client sends on one stream, until its other end takes it: bounded in bytes, so that a guest that reads
//! nothing costs little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::remote::StreamPacket;

/// Bytes that may wait: what stock clients send in one packet, twice.
const WAITING_MAX: usize = 512 << 10;
/// What a packet costs beside its bytes, so that empty ones are counted too.
const PACKET: usize = 128;

/// The client's end of a stream.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    packets: UnboundedSender<StreamPacket>,
    waiting: Arc<AtomicUsize>,
}

/// The guest's end of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    packets: UnboundedReceiver<StreamPacket>,
    waiting: Arc<AtomicUsize>,
}

/// A new stream.
pub(super) fn stream() -> (Sender, Receiver) {
    let ((packets, received), waiting) = (unbounded_channel(), Arc::<AtomicUsize>::default());
    (Sender { packets, waiting: waiting.clone() }, Receiver { packets: received, waiting })
}

impl Sender {
    /// Passes a packet on; false where too much waits already, or nobody takes it any longer.
    pub(super) fn send(&self, packet: StreamPacket) -> bool {
        let bytes = packet.data.len() + PACKET;
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        waiting <= WAITING_MAX && self.packets.send(packet).is_ok()
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
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rpc::{Header, PacketStatus, Program};

    fn packet(bytes: usize) -> StreamPacket {
        let header = Header::event(Program::Remote, 201, 1);
        StreamPacket { header, status: PacketStatus::Continue, data: vec![0; bytes] }
    }

    #[test]
    fn what_waits_is_measured_and_not_only_counted() {
        let (sender, mut receiver) = stream();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(sender.send(packet(200_000)) && sender.send(packet(200_000)));
        let taken = runtime.block_on(receiver.next()).unwrap();
        receiver.taken(taken.data.len());
        assert!(sender.send(packet(200_000)));
        assert!(!sender.send(packet(200_000)));
        // Empty ones are not free either.
        let (sender, _receiver) = stream();
        assert!((0..WAITING_MAX).take_while(|_| sender.send(packet(0))).count() < 5000);
    }
}
