//! A picture of a display, which QEMU writes into a file that has no name.
//!
//! ```text
//! add-fd, where QEMU has the file not yet ─▶ screendump ─▶ what it wrote is read, and the file emptied ─▶ answered
//! ```
//!
//! QEMU opens a number of its own for writing, so what it gets is open for that and nothing else; it empties the file
//! first (`ftruncate`), which the gate lets through meanwhile and at no other time.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::monitor::{MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::{Answer, PICTURE_MAX, Verb};
use crate::qmp::Failure;
use crate::sys::memfd;

/// QEMU's number of the set with the file, which no plan gives: those of plans are numbers of descriptors.
const SET: u32 = 1 << 20;
/// The launch-only call that QEMU makes for a picture.
const WINDOW: &[i32] = &[libc::SYS_ftruncate as i32];
/// How long QEMU may take over one.
const LIMIT: Duration = Duration::from_secs(25);
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// The file, and the picture that is on its way.
#[derive(Debug)]
pub(super) struct Pictures {
    /// To be read here, and to be written by QEMU; nothing where this process cannot make one.
    file: Option<(OwnedFd, OwnedFd)>,
    /// Whether QEMU has it.
    handed: bool,
    taking: Option<Taking>,
    /// The one that nobody waits for any longer and that QEMU may still write.
    late: Option<u64>,
}

#[derive(Debug)]
struct Taking {
    ticket: u64,
    device: String,
    head: u32,
    until: Instant,
}

impl Pictures {
    /// Makes the file; must happen before paths are closed to this process. Without it there are no pictures, and
    /// everything else goes on.
    pub(super) fn new() -> Self {
        Self { file: memfd::one_way("svirt-picture").ok(), handed: false, taking: None, late: None }
    }

    /// Whether one is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.taking.is_some()
    }

    /// When QEMU has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.taking.as_ref().map(|taking| taking.until)
    }

    /// Has QEMU write from the beginning: its end goes on where it was left, and is this one too.
    fn rewind(&self) {
        if let Some((_, end)) = &self.file {
            let _ = rustix::fs::seek(end, rustix::fs::SeekFrom::Start(0));
        }
    }

    /// An answer came after its time: what was written is for nobody.
    fn came_late(&mut self, ticket: u64, handed: bool) {
        self.handed |= handed;
        if self.late == Some(ticket) {
            self.late = None;
            let _ = self.written();
        }
    }

    /// What QEMU has written; why not, where it is too much. The file is empty afterwards.
    fn written(&self) -> Result<Vec<u8>, String> {
        let Some((file, _)) = &self.file else { return Ok(Vec::new()) };
        let bytes = contents(file).map_err(|error| error.to_string());
        // Room that stays taken, until QEMU does the same.
        let _ = rustix::fs::ftruncate(file, 0);
        bytes?.ok_or_else(|| format!("it is longer than {PICTURE_MAX} bytes"))
    }
}

/// All of a file that is not too long. Whoever writes it may change its length at any time.
fn contents(file: &OwnedFd) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match rustix::io::pread(file, &mut chunk, bytes.len() as u64) {
            Ok(0) => return Ok(Some(bytes)),
            Ok(length) => bytes.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if bytes.len() > PICTURE_MAX {
            return Ok(None);
        }
    }
}

impl Server {
    /// Begins to take a picture of one head of a display's device.
    pub(super) fn picture_verb(&mut self, client: u64, device: String, head: u32, now: Instant) {
        let late = self.pictures.late.is_some().then_some("an earlier picture has not come yet");
        let unread = (self.control.unread() > PICTURE_MAX).then_some("others have not read theirs yet");
        let refused = if let Some(rule) = self.busy().or(late).or(unread) {
            Some((rule, "try again in a moment"))
        } else if !is_display(&device) {
            Some(("it is no name of a display's device", "see the domain's live definition"))
        } else if self.pictures.file.is_none() {
            Some((
                "the supervisor could not make a file for it",
                "see the host's log for what is denied to it",
            ))
        } else {
            None
        };
        if let Some((rule, remedy)) = refused {
            let refusal = Refusal::new(Layer::Policy, "take", "a picture", rule, remedy);
            return self.control.answer(client, &Answer::Refused(refusal), now);
        }
        let ticket = self.control.wait(client, Verb::Screenshot { device: device.clone(), head }, now);
        self.pictures.taking = Some(Taking { ticket, device, head, until: now + LIMIT });
        if self.pictures.handed {
            return self.screendump();
        }
        let copy = self.pictures.file.as_ref().map(|(_, end)| end.as_fd());
        let copy = copy.map(|end| rustix::io::fcntl_dupfd_cloexec(end, 0));
        match copy {
            Some(Ok(copy)) => {
                let arguments = json!({ "fdset-id": SET, "opaque": "svirt-picture" });
                self.picture_command("add-fd", &arguments, Purpose::PictureFile(ticket), Some(copy));
            }
            Some(Err(error)) => self.picture_over(Err(error.to_string())),
            None => self.picture_over(Err("there is no file".into())),
        }
    }

    fn screendump(&mut self) {
        let Some(taking) = &self.pictures.taking else { return };
        let arguments = json!({
            "filename": format!("/dev/fdset/{SET}"), "device": taking.device, "head": taking.head, "format": "png",
        });
        let purpose = Purpose::Picture(taking.ticket);
        self.pictures.rewind();
        self.gate.book.open_window(WINDOW, Instant::now() + LIMIT);
        self.picture_command("screendump", &arguments, purpose, None);
    }

    fn picture_command(&mut self, execute: &str, arguments: &Value, purpose: Purpose, fd: Option<OwnedFd>) {
        let sent: Result<(), MonitorError> = match &mut self.monitor {
            Some(monitor) => monitor.command(execute, arguments, purpose, fd),
            None => Err(MonitorError::Closed),
        };
        if let Err(error) = sent {
            self.picture_over(Err(error.to_string()));
            self.monitor_lost(&error);
        }
    }

    /// QEMU answered.
    pub(super) fn picture_reply(&mut self, purpose: Purpose, outcome: Result<Value, Failure>) {
        let ticket = self.pictures.taking.as_ref().map(|taking| taking.ticket);
        match (purpose, outcome) {
            (Purpose::PictureFile(of) | Purpose::Picture(of), outcome) if ticket != Some(of) => {
                self.pictures.came_late(of, matches!(purpose, Purpose::PictureFile(_)) && outcome.is_ok());
            }
            (Purpose::PictureFile(_), Ok(_)) => {
                self.pictures.handed = true;
                self.screendump();
            }
            (_, Err(failure)) => self.picture_over(Err(failure.to_string())),
            (_, Ok(_)) => {
                let written = self.pictures.written();
                self.picture_over(written);
            }
        }
    }

    /// Gives one up that takes too long: other things are not to wait for a display.
    pub(super) fn picture_tick(&mut self, now: Instant) {
        let late = self.pictures.taking.as_ref().filter(|taking| taking.until <= now);
        if let Some(ticket) = late.map(|taking| taking.ticket) {
            self.pictures.late = Some(ticket);
            self.picture_over(Err(format!("QEMU has not taken it within {} seconds", LIMIT.as_secs())));
        }
    }

    /// Answers.
    fn picture_over(&mut self, done: Result<Vec<u8>, String>) {
        let Some(taking) = self.pictures.taking.take() else { return };
        self.gate.book.close_window();
        // A client that gave up waits no longer.
        let Some((client, _)) = self.control.waiting(taking.ticket) else { return };
        let now = Instant::now();
        match done {
            Ok(bytes) => {
                let answer = Answer::Picture { bytes: bytes.len() as u64 };
                self.control.deliver(client, &answer, bytes, now);
            }
            Err(rule) => {
                let remedy = "see that the domain has a <video>, and that QEMU writes PNG";
                let refusal = Refusal::new(Layer::DeviceModel, "take", "a picture", rule, remedy);
                self.control.answer(client, &Answer::Refused(refusal), now);
            }
        }
    }
}

/// Whether this is the name that plans give a display's device.
fn is_display(device: &str) -> bool {
    device.strip_prefix("video").is_some_and(|number| {
        (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_display_is_pictured() {
        assert!(is_display("video0") && is_display("video12"));
        for device in ["", "video", "video-1", "video123", "net0", "video0\"", "/machine"] {
            assert!(!is_display(device), "{device}");
        }
    }

    #[test]
    fn what_comes_late_is_for_nobody() {
        let mut pictures = Pictures::new();
        rustix::io::pwrite(&pictures.file.as_ref().unwrap().1, b"old", 0).unwrap();
        pictures.late = Some(7);
        pictures.came_late(6, false);
        assert_eq!(pictures.late, Some(7));
        pictures.came_late(7, true);
        assert!(pictures.late.is_none() && pictures.handed);
        assert_eq!(pictures.written().unwrap(), b"");
    }

    #[test]
    fn what_is_written_is_read_once_and_never_too_much_of_it() {
        let pictures = Pictures::new();
        let (file, end) = pictures.file.as_ref().unwrap();
        rustix::io::pwrite(end, b"abc", 0).unwrap();
        assert_eq!(pictures.written().unwrap(), b"abc");
        assert_eq!(pictures.written().unwrap(), b"");
        // As QEMU writes: where the last one ended, unless it is told otherwise.
        rustix::io::write(end, b"12").unwrap();
        pictures.written().unwrap();
        pictures.rewind();
        rustix::io::write(end, b"3").unwrap();
        assert_eq!(pictures.written().unwrap(), b"3");
        rustix::fs::ftruncate(file, PICTURE_MAX as u64).unwrap();
        assert_eq!(pictures.written().unwrap().len(), PICTURE_MAX);
        rustix::fs::ftruncate(file, PICTURE_MAX as u64 + 1).unwrap();
        assert!(pictures.written().unwrap_err().contains("longer than"));
        assert_eq!(pictures.written().unwrap(), b"");
    }
}
