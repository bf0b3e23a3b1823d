//! Bytes that go one way over a stream of their own: pictures of displays, contents of volumes.
//!
//! What opens one end and moves bytes may wait, and is for threads that may; whoever carries the packets waits for the
//! client in between, and holds no such thread meanwhile.

use std::io;

use super::dispatch::reply;
use super::error::Failure;
use crate::rpc::Header;

/// What goes over a stream.
pub struct Transfer {
    /// The call that opens it.
    pub header: Header,
    /// Whether the client sends.
    pub up: bool,
    open: Open,
}

type Open = Box<dyn FnOnce() -> Result<(Vec<u8>, Way), Failure> + Send>;

/// Which way bytes go.
pub enum Way {
    /// To the client.
    Down(Box<dyn Source>),
    /// From the client.
    Up(Box<dyn Sink>),
}

/// One piece of what goes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes; at most [`STREAM_CHUNK`](crate::rpc::STREAM_CHUNK).
    Data(Vec<u8>),
    /// So many zeros that are not sent.
    Hole(u64),
    /// There is no more.
    End,
}

/// Where the bytes for a client come from.
pub trait Source: Send {
    /// The next ones. An error ends the stream.
    fn next(&mut self) -> io::Result<Piece>;
}

/// Where the bytes of a client go.
pub trait Sink: Send {
    /// Takes bytes. An error ends the stream.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes so many zeros.
    fn hole(&mut self, length: u64) -> io::Result<()>;

    /// The client has sent everything.
    fn finish(&mut self) -> io::Result<()>;
}

impl Transfer {
    pub(super) fn new(
        header: Header,
        up: bool,
        open: impl FnOnce() -> Result<(Vec<u8>, Way), Failure> + Send + 'static,
    ) -> Self {
        Self { header, up, open: Box::new(open) }
    }

    /// The same, whose error is what `told` makes of it.
    pub(super) fn telling(self, told: impl FnOnce(Failure) -> Failure + Send + 'static) -> Self {
        let open = self.open;
        Self { open: Box::new(move || open().map_err(told)), ..self }
    }

    /// Opens the other end: the bytes of the answer, and what moves the rest; else the bytes of an error. It may wait.
    pub fn open(self) -> Result<(Vec<u8>, Way), Vec<u8>> {
        match (self.open)() {
            Ok((results, way)) => Ok((reply(&self.header, Ok(results)), way)),
            Err(failure) => Err(reply(&self.header, Err(failure))),
        }
    }
}
