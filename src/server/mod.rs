//! The daemon: sockets, peers' identities, limits, keepalive, streams; and how it starts and gives up its privilege.
//!
//! Started as root it reads the configuration, binds its sockets, reads the host, and becomes the front end's user
//! for good; only then does it read what clients sent, now or in an earlier life. Knows packets, but not what calls
//! mean.
#![forbid(unsafe_code)]

mod accept;
mod arrived;
mod confine;
mod connection;
mod console;
mod keys;
mod queue;
mod relay;
mod serve;
mod session;
mod share;
mod silence;
mod socket;
mod sockets;
mod start;
mod threads;
mod tidy;
mod transfer;
mod views;
mod watch;

pub use start::{Options, ServerError, run};
