//! Packets in a stream of bytes: a length that counts itself, a header, a payload.

use super::header::{HEADER_SIZE, Header, PacketType};
use super::xdr::{Decoder, Encode, Encoder, XdrError};

/// The longest packet in bytes, its length included.
pub const FRAME_MAX: usize = 33_554_436;
/// The most payload bytes of one stream packet, as old peers take it.
pub const STREAM_CHUNK: usize = 262_120;
/// The most descriptors of one packet.
const DESCRIPTORS_MAX: u32 = 32;
const LENGTH_SIZE: usize = 4;
/// The room in bytes that is kept between packets.
const ROOM: usize = 64 << 10;

/// Why a peer's bytes are no packets; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no packet has.
    #[error("a packet of {0} bytes")]
    Length(u32),
    /// More descriptors than a packet may carry.
    #[error("a packet with {0} descriptors")]
    Descriptors(u32),
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its header.
    pub header: Header,
    /// What follows, without the count of descriptors.
    pub payload: Vec<u8>,
    /// How many descriptors came with it.
    pub descriptors: u32,
}

impl Packet {
    /// The bytes of a packet without descriptors.
    pub fn bytes(header: &Header, body: &(impl Encode + ?Sized)) -> Result<Vec<u8>, XdrError> {
        let mut to = Encoder::new();
        to.put(&0_u32)?;
        to.put(header)?;
        to.put(body)?;
        finish(to.into_bytes())
    }

    /// The bytes of a packet whose payload is not XDR, such as a stream's.
    pub fn raw(header: &Header, payload: &[u8]) -> Result<Vec<u8>, XdrError> {
        let mut to = Encoder::new();
        to.put(&0_u32)?;
        to.put(header)?;
        let mut bytes = to.into_bytes();
        bytes.extend_from_slice(payload);
        finish(bytes)
    }
}

fn finish(mut bytes: Vec<u8>) -> Result<Vec<u8>, XdrError> {
    let found = bytes.len();
    let length = u32::try_from(found).ok().filter(|_| found <= FRAME_MAX);
    let length = length.ok_or(XdrError::TooLong { found, max: FRAME_MAX })?;
    if let Some(head) = bytes.first_chunk_mut::<LENGTH_SIZE>() {
        *head = length.to_be_bytes();
    }
    Ok(bytes)
}

/// Cuts a stream of bytes into packets.
///
/// Holds what has come of the packet that is not whole yet: at most [`FRAME_MAX`] and what was pushed last.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// How much of the buffer has been handed out.
    used: usize,
}

impl Deframer {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len() - self.used
    }

    /// The next packet, if all of it has come.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, FrameError> {
        let Some(rest) = self.buffer.get(self.used..) else { return Ok(None) };
        let Some(length) = rest.first_chunk::<LENGTH_SIZE>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return Ok(None);
        };
        let size = length as usize;
        if !(LENGTH_SIZE + HEADER_SIZE..=FRAME_MAX).contains(&size) {
            return Err(FrameError::Length(length));
        }
        let Some(body) = rest.get(LENGTH_SIZE..size) else { return Ok(None) };
        let mut from = Decoder::new(body);
        let header: Header = from.take().map_err(|_| FrameError::Length(length))?;
        let with_fds =
            matches!(header.packet_type(), Some(PacketType::CallWithFds | PacketType::ReplyWithFds));
        let descriptors = if with_fds { from.take().map_err(|_| FrameError::Length(length))? } else { 0 };
        if descriptors > DESCRIPTORS_MAX {
            return Err(FrameError::Descriptors(descriptors));
        }
        // A byte stands for each, outside the length, and brings it: without them the packet is not whole.
        let whole = size + descriptors as usize;
        if rest.len() < whole {
            return Ok(None);
        }
        let packet = Packet { header, payload: from.rest().to_vec(), descriptors };
        self.used += whole;
        self.shrink();
        Ok(Some(packet))
    }

    /// Gives the room of a long packet back once it is through, whatever has come behind it.
    fn shrink(&mut self) {
        let rest = self.buffer.get(self.used..).unwrap_or_default();
        if self.buffer.capacity() > ROOM && rest.len() <= ROOM / 2 {
            self.buffer = rest.to_vec();
            self.used = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::header::{PacketStatus, Program};

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn all(bytes: &[u8], splits: &[usize]) -> (Vec<Packet>, Option<FrameError>) {
        let (mut deframer, mut packets, mut rest) = (Deframer::default(), Vec::new(), bytes);
        let mut splits = splits.iter().cycle();
        loop {
            loop {
                match deframer.next_packet() {
                    Ok(Some(packet)) => packets.push(packet),
                    Ok(None) => break,
                    Err(error) => return (packets, Some(error)),
                }
            }
            if rest.is_empty() {
                return (packets, None);
            }
            let (piece, behind) = rest.split_at((*splits.next().unwrap()).clamp(1, rest.len()));
            deframer.push(piece);
            rest = behind;
        }
    }

    #[test]
    fn a_recorded_open_is_read_and_answered() {
        let open = hex("00000038 20008086 00000001 00000001 00000000 00000002 00000000 00000001 0000000e \
                        71656d753a2f2f2f73797374656d0000 00000000");
        let (packets, error) = all(&open, &[5]);
        assert_eq!((packets.len(), error), (1, None));
        let (name, flags): (Option<&str>, u32) = Decoder::new(&packets[0].payload).take().unwrap();
        assert_eq!((name, flags), (Some("qemu:///system"), 0));
        let reply = packets[0].header.answer(PacketType::Reply, PacketStatus::Ok);
        let bytes = Packet::bytes(&reply, &()).unwrap();
        assert_eq!(bytes, hex("0000001c 20008086 00000001 00000001 00000001 00000002 00000000"));
    }

    #[test]
    fn lengths_that_no_packet_has_end_the_connection() {
        for length in [0_u32, 3, 4, 27, 33_554_437, u32::MAX] {
            let (_, error) = all(&length.to_be_bytes(), &[4]);
            assert_eq!(error, Some(FrameError::Length(length)));
        }
    }

    #[test]
    fn bytes_of_descriptors_stand_outside_the_length() {
        let header =
            Header { kind: PacketType::CallWithFds as i32, ..Header::event(Program::Remote, 309, 7) };
        let mut bytes = Packet::bytes(&header, &(2_u32, 5_u32)).unwrap();
        bytes.extend([0, 0]);
        bytes.extend(Packet::bytes(&Header::event(Program::Keepalive, 1, 0), &()).unwrap());
        for split in 1..bytes.len() {
            let (packets, error) = all(&bytes, &[split]);
            assert_eq!(error, None);
            assert_eq!(packets[0].descriptors, 2);
            assert_eq!(packets[0].payload, [0, 0, 0, 5]);
            assert_eq!(packets[1].header.program, Program::Keepalive as u32);
        }
        let many = Packet::bytes(&header, &33_u32).unwrap();
        assert_eq!(all(&many, &[9]).1, Some(FrameError::Descriptors(33)));
    }

    #[test]
    fn a_long_packets_room_is_given_back_though_more_has_come() {
        let header = Header::event(Program::Remote, 3, 0);
        let long = Packet::raw(&header, &vec![7; 1 << 20]).unwrap();
        let mut deframer = Deframer::default();
        deframer.push(&long);
        deframer.push(b"\0");
        assert!(deframer.next_packet().unwrap().is_some() && deframer.next_packet().unwrap().is_none());
        assert_eq!(deframer.held(), 1);
        assert!(deframer.buffer.capacity() <= ROOM, "{}", deframer.buffer.capacity());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_packets(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..6),
            splits in prop::collection::vec(1_usize..50, 1..20),
            garbage in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            for (serial, body) in bodies.iter().enumerate() {
                let header = Header::event(Program::Remote, 3, u32::try_from(serial).unwrap());
                bytes.extend(Packet::raw(&header, body).unwrap());
            }
            bytes.extend(garbage);
            prop_assert_eq!(all(&bytes, &splits), all(&bytes, &[bytes.len()]));
            let (packets, _) = all(&bytes, &splits);
            for (packet, body) in packets.iter().zip(&bodies) {
                prop_assert_eq!(&packet.payload, body);
            }
        }
    }
}
