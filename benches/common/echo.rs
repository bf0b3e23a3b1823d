//! A process that answers over a socket and does nothing else: what no daemon can be below.
#![allow(unreachable_pub, reason = "each benchmark compiles it for itself")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use svirt::sys::process;

/// Bytes of a call without arguments, and of an answer of one number.
const SIZES: (usize, usize) = (28, 36);

/// One that runs.
pub struct Echo {
    stream: UnixStream,
    child: process::Child,
}

impl Echo {
    /// Starts it. The caller has no other threads.
    pub fn start() -> Self {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let ours = stream.try_clone().unwrap();
        let child = process::fork(move || {
            // Else it would never see the end.
            drop(ours);
            let (mut call, answer) = ([0; SIZES.0], [0; SIZES.1]);
            while theirs.read_exact(&mut call).is_ok() && theirs.write_all(&answer).is_ok() {}
            0
        });
        Self { stream, child: child.unwrap() }
    }

    /// One call.
    pub fn call(&self) {
        (&self.stream).write_all(&[0; SIZES.0]).unwrap();
        (&self.stream).read_exact(&mut [0; SIZES.1]).unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.pid.unsigned_abs()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.end();
    }
}
