//! A console as a stream: bytes of the guest down, keys up.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;

use super::connection::Client;
use crate::driver::{Control, DriverError};
use crate::remote::{Console, StreamPacket};
use crate::rpc::{Header, Packet, PacketStatus, PacketType, STREAM_CHUNK};

/// Attaches, answers the call, and carries bytes until one side ends.
pub(super) async fn serve(client: &Client, wanted: Console, mut typed: Receiver<StreamPacket>) {
    let header = wanted.header;
    let share = client.waiters.take(client.session.uid()).await;
    let attached = attach(wanted).await;
    drop(share);
    match attached {
        Err(error) => client.queue.push(client.service.late_failure(&header, error)),
        Ok((stream, early)) => {
            client.queue.push(client.service.done(&header));
            carry(client, &header, stream, early, &mut typed).await;
        }
    }
}

async fn attach(wanted: Console) -> Result<(UnixStream, Vec<u8>), DriverError> {
    let io = |source| DriverError::Io { what: "to the supervisor".into(), source };
    let attached = tokio::task::spawn_blocking(move || {
        Control::connect(&wanted.control)?.console(wanted.alias, wanted.force)
    });
    let (_alias, stream, early) = attached.await.map_err(|error| io(io::Error::other(error)))??;
    stream.set_nonblocking(true).map_err(io)?;
    Ok((UnixStream::from_std(stream).map_err(io)?, early))
}

async fn carry(
    client: &Client,
    header: &Header,
    mut stream: UnixStream,
    early: Vec<u8>,
    typed: &mut Receiver<StreamPacket>,
) {
    for piece in early.chunks(STREAM_CHUNK) {
        data(client, header, piece);
    }
    let mut open = true;
    loop {
        // A client that does not read what the guest writes leaves it with the supervisor.
        client.queue.room().await;
        if client.queue.is_closed() {
            return;
        }
        tokio::select! {
            ready = stream.readable(), if open => {
                if ready.is_err() || !down(client, header, &stream) {
                    open = false;
                    // The end of data is an empty packet; the client then finishes.
                    data(client, header, &[]);
                }
            }
            packet = typed.recv() => match packet {
                Some(StreamPacket { status: PacketStatus::Continue, data, .. }) => {
                    if open && stream.write_all(&data).await.is_err() {
                        open = false;
                    }
                }
                Some(_) => return end(client, header),
                None => return,
            },
        }
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
