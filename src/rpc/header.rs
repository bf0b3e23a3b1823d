//! The 24 bytes at the head of every packet.

use super::xdr::{Decode, Decoder, Encode, Encoder, XdrError};

/// Bytes of a header, without the length before it.
pub const HEADER_SIZE: usize = 24;

/// Known programs, all of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Program {
    /// Pings.
    Keepalive = 0x6b65_6570,
    /// Entering a container's namespaces.
    Lxc = 0x0006_8000,
    /// What only QEMU has.
    Qemu = 0x2000_8087,
    /// Everything else.
    Remote = 0x2000_8086,
}

impl Program {
    /// The program of a header, in the version that there is.
    #[must_use]
    pub fn of(program: u32, version: u32) -> Option<Self> {
        let known = [Self::Keepalive, Self::Lxc, Self::Qemu, Self::Remote];
        known.into_iter().find(|known| *known as u32 == program && version == 1)
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PacketType {
    /// A request that gets one reply.
    Call = 0,
    /// The reply.
    Reply = 1,
    /// An event or a ping: no reply.
    Message = 2,
    /// Bytes of a stream.
    Stream = 3,
    /// A request with descriptors.
    CallWithFds = 4,
    /// A reply with descriptors.
    ReplyWithFds = 5,
    /// A hole in a sparse stream.
    StreamHole = 6,
}

/// What became of a request, or where a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum PacketStatus {
    /// Done, or the end of a stream.
    Ok = 0,
    /// Refused or failed.
    Error = 1,
    /// A stream goes on.
    Continue = 2,
}

/// A packet's header. Type and status are kept as numbers: unknown ones are dropped or answered, not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Program number.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// Procedure number.
    pub procedure: i32,
    /// A [`PacketType`].
    pub kind: i32,
    /// Chosen by the caller, and only ever repeated.
    pub serial: u32,
    /// A [`PacketStatus`].
    pub status: i32,
}

impl Header {
    /// What the packet is.
    #[must_use]
    pub fn packet_type(&self) -> Option<PacketType> {
        use PacketType as T;
        let all = [T::Call, T::Reply, T::Message, T::Stream, T::CallWithFds, T::ReplyWithFds, T::StreamHole];
        all.into_iter().find(|known| *known as i32 == self.kind)
    }

    /// What the packet says of its call or stream.
    #[must_use]
    pub fn packet_status(&self) -> Option<PacketStatus> {
        let all = [PacketStatus::Ok, PacketStatus::Error, PacketStatus::Continue];
        all.into_iter().find(|known| *known as i32 == self.status)
    }

    /// The header of an answer to this packet.
    #[must_use]
    pub fn answer(&self, kind: PacketType, status: PacketStatus) -> Self {
        Self { kind: kind as i32, status: status as i32, ..*self }
    }

    /// The header of an event of a program.
    #[must_use]
    pub fn event(program: Program, procedure: i32, serial: u32) -> Self {
        let (kind, status) = (PacketType::Message as i32, PacketStatus::Ok as i32);
        Self { program: program as u32, version: 1, procedure, kind, serial, status }
    }
}

impl Decode<'_> for Header {
    fn decode(from: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let (program, version, procedure, kind, serial, status) = from.take()?;
        Ok(Self { program, version, procedure, kind, serial, status })
    }
}

impl Encode for Header {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&(self.program, self.version, self.procedure, self.kind, self.serial, self.status))
    }
}
