//! A console's log file: bounded, appended to, never renamed.
//!
//! The guest decides how much it writes, so a log that only grows would let it fill the host's disk. The supervisor has
//! no path and cannot rotate; at [`LOG_MAX`] it empties the file and begins again with the console's scrollback, so
//! that the newest output is always there. An administrator's rotation by copying and truncating works as well: the
//! file is written in append mode and its size is looked at before each write.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::handed::add_flags;
use super::ring::Ring;
use crate::base::Refusal;

/// The largest size of a log in bytes.
pub(super) const LOG_MAX: u64 = 32 << 20;

/// One log file.
#[derive(Debug)]
pub(super) struct Log {
    fd: OwnedFd,
    max: u64,
}

impl Log {
    /// Takes a file that is open for writing.
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Refusal> {
        Ok(Self { fd: add_flags(fd, OFlags::APPEND)?, max: LOG_MAX })
    }

    /// Appends bytes that `ring` ends with. What the disk does not take is lost: the guest does not wait for it.
    pub(super) fn write(&mut self, bytes: &[u8], ring: &Ring) {
        let size = rustix::fs::fstat(&self.fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if size + bytes.len() as u64 <= self.max {
            self.append(bytes);
            return;
        }
        if rustix::fs::ftruncate(&self.fd, 0).is_err() {
            return;
        }
        self.append(b"[svirt: the log was full and begins again here]\n");
        let mut at = ring.start();
        while at < ring.end() {
            let due = ring.from(at);
            self.append(due);
            at += due.len() as u64;
        }
    }

    fn append(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(0) => return,
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_begins_again_with_the_newest_output() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::new(file.reopen().unwrap().into()).unwrap();
        log.max = 1000;
        let mut ring = Ring::new(64);
        for number in 0..100 {
            let line = format!("line {number} of the guest\n");
            ring.push(line.as_bytes());
            log.write(line.as_bytes(), &ring);
            assert!(file.as_file().metadata().unwrap().len() <= 1000);
        }
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("[svirt: the log was full"), "{text}");
        assert!(text.ends_with("line 98 of the guest\nline 99 of the guest\n"), "{text}");
    }
}
