//! QEMU's machine protocol (QMP): the codec of its newline-delimited JSON and the state of one
//! connection, from greeting to commands and events. Pure: owns no socket and no clock.
//!
//! The peer is a device model that a hostile guest may have taken over. Every message is bounded, a
//! malformed one is an error that ends the connection, and nothing here panics.
#![forbid(unsafe_code)]

mod codec;
mod session;

pub use codec::{Decoder, Event, Failure, Id, LINE_MAX, Message, QmpError, fuzz_qmp};
pub use session::{Heard, PENDING_MAX, Session};
