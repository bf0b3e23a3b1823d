//! Packets between the labeller and its children: `SOCK_SEQPACKET`, one message each, never blocking on our side.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};

/// The longest packet that is taken from a child.
pub const PACKET_MAX: usize = 128 << 10;

/// A connected pair.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// What a receive brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The other side is gone.
    End,
    /// Nothing is there now.
    Nothing,
    /// One packet, whole.
    Packet(Vec<u8>),
    /// A packet longer than [`PACKET_MAX`].
    TooLong,
}

/// Takes one packet without waiting.
pub fn receive(fd: impl AsFd) -> io::Result<Received> {
    let mut buffer = vec![0; PACKET_MAX];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    match socket::recv(fd.as_fd().as_raw_fd(), &mut buffer, flags) {
        Ok(0) => Ok(Received::End),
        Ok(length) if length > buffer.len() => Ok(Received::TooLong),
        Ok(length) => {
            buffer.truncate(length);
            Ok(Received::Packet(buffer))
        }
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(Received::Nothing),
        Err(nix::Error::ECONNRESET) => Ok(Received::End),
        Err(error) => Err(error.into()),
    }
}

/// Sends one packet without waiting and without a signal.
pub fn send(fd: impl AsFd, packet: &[u8]) -> io::Result<()> {
    socket::send(fd.as_fd().as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}
