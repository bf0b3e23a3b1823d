//! libvirt's wire protocol: XDR, header, framing, the messages' building blocks, programs and procedures.
//!
//! Bytes in, values out, and back. Pure: no socket, no clock. Everything that a peer sends is bounded before it is
//! allocated; a short or malformed input is an error value, never a panic.
#![forbid(unsafe_code)]

mod block;
mod frame;
mod header;
pub mod procedure;
mod procedures;
mod xdr;

pub use block::{Chars, Domain, ErrorBody, ParamValue, TypedParam};
pub use frame::{Deframer, FRAME_MAX, FrameError, Packet, STREAM_CHUNK};
pub use header::{HEADER_SIZE, Header, PacketStatus, PacketType, Program};
pub use procedure::{Kind, Procedure, QemuProcedure, ReadOnly};
pub use xdr::{Decode, Decoder, Encode, Encoder, List, Opaque, STRING_MAX, XdrError};

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_rpc(data: &[u8]) {
    let mut whole = Deframer::default();
    whole.push(data);
    while let Ok(Some(packet)) = whole.next_packet() {
        block::try_every_layout(&packet.payload);
    }
    block::try_every_layout(data);
}
