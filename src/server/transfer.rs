//! A stream that goes one way: bytes of a picture or a volume down, bytes of a volume up.
//!
//! A thread is taken for each piece, of the share of the client's uid, and none while a client does not read or sends
//! nothing.

use std::io;

use tokio::task::{JoinError, JoinHandle};

use super::connection::Client;
use super::keys::Receiver;
use crate::remote::{Piece, Sink, Source, StreamPacket, Transfer, Way};
use crate::rpc::{Header, Packet, PacketStatus, PacketType};

/// Opens the other end, answers the call, and carries bytes until one side ends.
pub(super) async fn serve(client: &Client, transfer: Transfer, mut packets: Receiver) {
    let header = transfer.header;
    match client.waiting(move || transfer.open()).await {
        Ok(Ok((answer, way))) => {
            client.queue.push(answer);
            match way {
                Way::Down(source) => down(client, &header, source, &mut packets).await,
                Way::Up(sink) => up(client, &header, sink, &mut packets).await,
            }
        }
        Ok(Err(refusal)) => client.queue.push(refusal),
        Err(error) => client.queue.push(client.service.stream_failure(&header, &error.to_string())),
    }
}

type Read = (Box<dyn Source>, io::Result<Piece>);

fn read(client: &Client, mut source: Box<dyn Source>) -> JoinHandle<Result<Read, JoinError>> {
    tokio::spawn(client.waiting(move || {
        let piece = source.next();
        (source, piece)
    }))
}

async fn down(client: &Client, header: &Header, source: Box<dyn Source>, packets: &mut Receiver) {
    let mut reading = Some(read(client, source));
    loop {
        client.queue.room().await;
        if client.queue.is_closed() {
            return;
        }
        let next = async {
            match &mut reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = next => {
                let (source, piece) = match piece.and_then(|read| read) {
                    Ok((source, Ok(piece))) => (source, piece),
                    Ok((_, Err(error))) => return fail(client, header, &error.to_string()),
                    Err(error) => return fail(client, header, &error.to_string()),
                };
                reading = None;
                match piece {
                    Piece::Data(bytes) => {
                        client.queue.push(data(header, &bytes));
                        reading = Some(read(client, source));
                    }
                    Piece::Hole(length) => {
                        client.queue.push(hole(header, length));
                        reading = Some(read(client, source));
                    }
                    // The end of data is an empty packet; the client then finishes.
                    Piece::End => client.queue.push(data(header, &[])),
                }
            }
            packet = packets.next() => match packet {
                // What a client sends on such a stream is for nobody.
                Some(StreamPacket { status: PacketStatus::Continue, data, .. }) => packets.taken(data.len()),
                Some(_) => return end(client, header),
                None => return,
            },
        }
    }
}

async fn up(client: &Client, header: &Header, mut sink: Box<dyn Sink>, packets: &mut Receiver) {
    loop {
        let Some(packet) = packets.next().await else { return };
        let (status, bytes) = (packet.status, packet.data.len());
        // Aborted: what was written stays, as with libvirt.
        if status == PacketStatus::Error {
            return end(client, header);
        }
        let written = client.waiting(move || {
            let done = match (packet.status, packet.hole) {
                (PacketStatus::Continue, Some(length)) => sink.hole(length),
                (PacketStatus::Continue, None) => sink.data(&packet.data),
                _ => sink.finish(),
            };
            (sink, done)
        });
        sink = match written.await {
            Ok((sink, Ok(()))) => sink,
            Ok((_, Err(error))) => return fail(client, header, &error.to_string()),
            Err(error) => return fail(client, header, &error.to_string()),
        };
        packets.taken(bytes);
        if status == PacketStatus::Ok {
            return end(client, header);
        }
    }
}

fn data(header: &Header, bytes: &[u8]) -> Vec<u8> {
    let header = header.answer(PacketType::Stream, PacketStatus::Continue);
    Packet::raw(&header, bytes).unwrap_or_default()
}

fn hole(header: &Header, length: u64) -> Vec<u8> {
    let header = header.answer(PacketType::StreamHole, PacketStatus::Continue);
    Packet::bytes(&header, &(i64::try_from(length).unwrap_or(i64::MAX), 0_u32)).unwrap_or_default()
}

fn fail(client: &Client, header: &Header, text: &str) {
    client.queue.push(client.service.stream_failure(header, text));
}

/// Finished or aborted: both are answered in the same way.
fn end(client: &Client, header: &Header) {
    let header = header.answer(PacketType::Stream, PacketStatus::Ok);
    client.queue.push(Packet::raw(&header, &[]).unwrap_or_default());
}
