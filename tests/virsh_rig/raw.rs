//! A connection to svirtd without a library of libvirt's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, missing_docs, unreachable_pub)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use svirt::rpc::{Encode, Header, Packet, Procedure, Program};

use super::Host;
use crate::e2e_rig;

pub fn packet(procedure: Procedure, serial: u32, body: &impl Encode) -> Vec<u8> {
    let header = Header { kind: 0, serial, ..Header::event(Program::Remote, procedure.number(), serial) };
    Packet::bytes(&header, body).unwrap()
}

/// A connection.
pub struct Raw(pub UnixStream);

/// A packet that came.
#[derive(Debug)]
pub struct Reply {
    pub kind: u32,
    pub serial: u32,
    pub status: u32,
    pub payload: Vec<u8>,
}

impl Reply {
    /// Whether a text stands in it.
    pub fn has(&self, text: &str) -> bool {
        self.payload.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

impl Raw {
    pub fn new(host: &Host) -> Self {
        let stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
        stream.set_write_timeout(Some(e2e_rig::PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn open(host: &Host) -> Self {
        let mut raw = Self::new(host);
        raw.send(&packet(Procedure::ConnectOpen, 0, &(Some("qemu:///system"), 0_u32)));
        assert_eq!(raw.receive().1, 0);
        raw
    }

    /// The next packet; an error where the daemon has gone.
    pub fn next(&mut self) -> std::io::Result<Reply> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut rest)?;
        let word = |at: usize| u32::from_be_bytes(rest[at * 4..at * 4 + 4].try_into().unwrap());
        let (kind, serial, status) = (word(3), word(4), word(5));
        Ok(Reply { kind, serial, status, payload: rest.split_off(24) })
    }

    /// Serial and status of the next packet.
    pub fn receive(&mut self) -> (u32, u32) {
        let reply = self.next().unwrap();
        (reply.serial, reply.status)
    }

    /// Calls and waits for the answer; an error where the daemon has gone.
    pub fn call(&mut self, procedure: Procedure, body: &impl Encode) -> std::io::Result<Reply> {
        self.0.write_all(&packet(procedure, 77, body))?;
        self.next()
    }

    /// Whether the daemon has let go of it: the end, or a reset where it had not read everything.
    pub fn is_over(&mut self) -> bool {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
