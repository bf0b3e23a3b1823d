//! One raw client for svirtd and for libvirtd alike, so that what is compared is the daemons.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use svirt::rpc::{Encode, Header, Packet, Procedure, Program};

/// A connection that has opened `qemu:///system`.
pub struct Client {
    /// The socket.
    pub stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and opens; `None` where nobody answers.
    pub fn open(socket: &str) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
        let mut client = Self { stream, buffer: Vec::new() };
        client.call(Procedure::ConnectOpen, &(Some("qemu:///system"), 0_u32)).then_some(client)
    }

    /// One call; whether it was done. The answer is in `answer`.
    pub fn call(&mut self, procedure: Procedure, body: &impl Encode) -> bool {
        let header = Header { kind: 0, ..Header::event(Program::Remote, procedure.number(), 7) };
        let packet = Packet::bytes(&header, body).unwrap();
        self.stream.write_all(&packet).is_ok() && self.receive().is_some_and(|status| status == 0)
    }

    fn receive(&mut self) -> Option<i32> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        self.buffer.resize(u32::from_be_bytes(length) as usize - 4, 0);
        self.stream.read_exact(&mut self.buffer).ok()?;
        Some(i32::from_be_bytes(self.buffer[20..24].try_into().ok()?))
    }

    /// What was answered, without its header.
    pub fn answer(&self) -> &[u8] {
        &self.buffer[24..]
    }

    /// The uuid of the domain that was answered.
    pub fn domain(&self) -> [u8; 16] {
        let name = u32::from_be_bytes(self.answer()[..4].try_into().unwrap()) as usize;
        let at = 4 + name.div_ceil(4) * 4;
        self.answer()[at..at + 16].try_into().unwrap()
    }
}

/// How long calls took.
pub struct Times(Vec<Duration>);

impl Times {
    /// Of so many calls.
    pub fn of(count: usize, mut call: impl FnMut()) -> Self {
        let times = (0..count).map(|_| {
            let begin = Instant::now();
            call();
            begin.elapsed()
        });
        Self::from(times.collect())
    }

    /// From measured times.
    pub fn from(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Microseconds below which so many of a hundred are.
    pub fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)].as_secs_f64() * 1e6
    }

    /// All times.
    pub fn all(self) -> Vec<Duration> {
        self.0
    }
}
