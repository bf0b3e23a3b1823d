//! A console as a stream: bytes of the guest down, keys up.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::connection::Client;
use super::keys::Receiver;
use crate::driver::{Control, DriverError};
use crate::remote::{Console, StreamPacket};
use crate::rpc::{Header, Packet, PacketStatus, PacketType, STREAM_CHUNK};

/// How long a guest may take for what was typed before its client left properly.
const LAST: Duration = Duration::from_secs(1);

/// Attaches, answers the call, and carries bytes until one side ends.
pub(super) async fn serve(client: &Client, wanted: Console, mut typed: Receiver) {
    let header = wanted.header;
    let share = client.waiters.take(client.session.uid()).await;
    let attached = attach(client, wanted).await;
    drop(share);
    match attached {
        Err(refusal) => client.queue.push(refusal),
        Ok((stream, early)) => {
            client.queue.push(client.service.done(&header));
            carry(client, &header, stream, early, &mut typed).await;
        }
    }
}

/// Checks and attaches; an error is the bytes to send.
async fn attach(client: &Client, wanted: Console) -> Result<(UnixStream, Vec<u8>), Vec<u8>> {
    let header = wanted.header;
    let failure = |error| client.service.late_failure(&header, error);
    let io = |source| failure(DriverError::Io { what: "to the supervisor".into(), source });
    let attached = client.threads.waiting().spawn_blocking(move || {
        let alias = wanted.alias()?;
        let control = Control::connect(&wanted.live.control);
        Ok(control.and_then(|control| control.console(alias, wanted.force)))
    });
    let attached: Result<_, Vec<u8>> = attached.await.map_err(|error| io(io::Error::other(error)))?;
    let (_alias, stream, early) = attached?.map_err(failure)?;
    stream.set_nonblocking(true).map_err(io)?;
    Ok((UnixStream::from_std(stream).map_err(io)?, early))
}

async fn carry(
    client: &Client,
    header: &Header,
    mut stream: UnixStream,
    early: Vec<u8>,
    typed: &mut Receiver,
) {
    for piece in early.chunks(STREAM_CHUNK) {
        data(client, header, piece);
    }
    let (mut open, mut pending) = (true, Pending::default());
    loop {
        // A client that does not read what the guest writes leaves it with the supervisor.
        client.queue.room().await;
        if client.queue.is_closed() {
            return;
        }
        // Whatever the guest takes or leaves, what the client does next is heard.
        tokio::select! {
            ready = stream.readable(), if open => {
                if ready.is_err() || !down(client, header, &stream) {
                    open = false;
                    // The end of data is an empty packet; the client then finishes.
                    data(client, header, &[]);
                }
            }
            ready = stream.writable(), if open && pending.is_some() => {
                if ready.is_err() || !pending.write(&stream, typed) {
                    open = false;
                }
            }
            packet = typed.next() => match packet {
                Some(StreamPacket { status: PacketStatus::Continue, data, .. }) if open => pending.add(data),
                Some(StreamPacket { status: PacketStatus::Continue, data, .. }) => typed.taken(data.len()),
                Some(_) => {
                    // What was typed last reaches a guest that reads.
                    let _ = timeout(LAST, pending.flush(&mut stream)).await;
                    return end(client, header);
                }
                None => return,
            },
        }
    }
}

/// What was typed and the guest has not taken. How much that may be is for `keys` to say.
#[derive(Default)]
struct Pending {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are through.
    written: usize,
}

impl Pending {
    fn is_some(&self) -> bool {
        !self.pieces.is_empty()
    }

    fn add(&mut self, data: Vec<u8>) {
        if !data.is_empty() {
            self.pieces.push_back(data);
        }
    }

    /// Writes what the guest takes now; false where it takes no more at all.
    fn write(&mut self, stream: &UnixStream, typed: &Receiver) -> bool {
        let Some(first) = self.pieces.front() else { return true };
        match stream.try_write(first.get(self.written..).unwrap_or_default()) {
            Ok(0) => false,
            Ok(count) => {
                self.written += count;
                typed.taken(count);
                if self.written >= first.len() {
                    self.pieces.pop_front();
                    self.written = 0;
                }
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    async fn flush(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        for piece in self.pieces.drain(..) {
            stream.write_all(piece.get(std::mem::take(&mut self.written)..).unwrap_or_default()).await?;
        }
        Ok(())
    }
}

/// Passes on what the guest wrote; false at its end.
fn down(client: &Client, header: &Header, stream: &UnixStream) -> bool {
    let mut chunk = [0; 16 << 10];
    match stream.try_read(&mut chunk) {
        Ok(0) => false,
        Ok(count) => {
            data(client, header, chunk.get(..count).unwrap_or_default());
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn data(client: &Client, header: &Header, bytes: &[u8]) {
    let header = header.answer(PacketType::Stream, PacketStatus::Continue);
    client.queue.push(Packet::raw(&header, bytes).unwrap_or_default());
}

/// Finished or aborted: both are answered in the same way.
fn end(client: &Client, header: &Header) {
    let header = header.answer(PacketType::Stream, PacketStatus::Ok);
    client.queue.push(Packet::raw(&header, &[]).unwrap_or_default());
}
