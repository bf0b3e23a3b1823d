//! One image header, read by a process that can do nothing else; here only its bounds are kept.
//!
//! One process waits ahead of the next question, confined and executed, with a socket for the image: to make one takes
//! longer than to read a header. It is used once. An answer that is whole goes out at once; the process stays until it is
//! let go, for its namespaces take the kernel longer to take down than the header took to read, and the processor for that
//! is better had when nobody waits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use super::apply::kernel;
use super::connection::ConnectionId;
use super::places::Places;
use super::spawn::{self, Begun, Helper};
use crate::base::{Layer, Refusal};
use crate::privsep::confinement::{Rlimit, RlimitKind};
use crate::privsep::op::{FileIdentity, ImageKind};
use crate::privsep::request::{Probed, Refused, Reply};
use crate::sys::namespace::Namespaces;
use crate::sys::pidfd::{self, Exit};
use crate::sys::scm;

/// What ends a whole answer.
const END: u8 = b'\n';
/// The longest header description.
const OUTPUT_MAX: usize = 64 << 10;
/// How long it may take.
const TIME: Duration = Duration::from_secs(5);
/// How many run at once.
pub(super) const PROBES_MAX: usize = 64;

/// A process that waits for an image.
#[derive(Debug)]
pub(super) struct Spare {
    begun: Begun,
    socket: OwnedFd,
    pipe: OwnedFd,
}

/// A running probe.
#[derive(Debug)]
pub(super) struct Probe {
    /// Who asked.
    pub(super) client: ConnectionId,
    path: String,
    identity: FileIdentity,
    kind: ImageKind,
    process: Begun,
    pipe: Option<OwnedFd>,
    output: Vec<u8>,
    /// When it is killed.
    pub(super) deadline: Instant,
    failure: Option<Refusal>,
    state: State,
}

/// How far a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody waits for its answer.
    Asked,
    /// It has answered, and its process ends once it is let go.
    Answered,
    /// Its process has ended.
    Over,
}

impl Spare {
    /// Forks one, and does not wait until it is ready.
    pub(super) fn begin(program: &Path, uid: u32) -> Result<Self, Refusal> {
        let hold = |error: std::io::Error| kernel("make", "a pipe", &error, "");
        let (pipe, output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| hold(e.into()))?;
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK).map_err(|e| hold(e.into()))?;
        let (socket, input) = scm::seqpacket_pair().map_err(hold)?;
        let limit = |resource, value| Rlimit { resource, value: Some(value) };
        let begun = spawn::begin(&Helper {
            program,
            argv: &["svirt-imageprobe".to_owned()],
            env: &[],
            uid,
            fds: &[(input.as_fd(), 0), (output.as_fd(), 1)],
            reach: Some(&[]),
            cgroup: None,
            rlimits: &[limit(RlimitKind::Core, 0), limit(RlimitKind::Fsize, 0)],
            namespaces: Namespaces { ipc: true, mount: true, net: true, uts: true, ..Namespaces::default() },
            selinux_exec: None,
            apparmor_exec: None,
            seccomp: None,
            die_with_labeller: true,
            timeout: TIME,
        })
        .map_err(|error| error.refusal())?;
        Ok(Self { begun, socket, pipe })
    }

    /// Gives it its image; an error where it has ended meanwhile.
    fn give(&self, image: &OwnedFd) -> std::io::Result<()> {
        scm::send(self.socket.as_fd(), b"i", &[image.as_fd()]).map(drop)
    }
}

impl Probe {
    /// Opens the image by the rules of place and gives it to a process: the one that waits, or a new one.
    pub(super) fn start(
        client: ConnectionId,
        path: &str,
        places: &Places<'_>,
        spare: Option<Spare>,
        fresh: impl FnOnce() -> Result<Spare, Refusal>,
    ) -> Result<Self, Refusal> {
        let (image, identity, kind) = places.open_for_probe(path)?;
        let process = match spare.filter(|spare| spare.give(&image).is_ok()) {
            Some(spare) => spare,
            None => {
                let spare = fresh()?;
                spare.give(&image).map_err(|error| kernel("hand over", path, &error, ""))?;
                spare
            }
        };
        Ok(Self {
            client,
            path: path.to_owned(),
            identity,
            kind,
            process: process.begun,
            pipe: Some(process.pipe),
            output: Vec::new(),
            deadline: Instant::now() + TIME,
            failure: None,
            state: State::Asked,
        })
    }

    /// Whether its process has ended.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// What to wait for: output first, then the end.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_ref().map_or(self.process.child.pidfd.as_fd(), AsFd::as_fd)
    }

    /// Whether somebody waits for its answer.
    pub(super) fn is_asked(&self) -> bool {
        self.state == State::Asked
    }

    /// Ends its process, where it has answered.
    pub(super) fn let_go(&self) {
        if self.state == State::Answered {
            let _ = pidfd::kill(&self.process.child.pidfd);
        }
    }

    /// Its pid.
    pub(super) fn pid(&self) -> i32 {
        self.process.child.pid
    }

    /// Goes on; the reply once there is one, and only then.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Reply> {
        if now >= self.deadline {
            self.deadline = now + TIME;
            self.stop(format!("it took more than {} s", TIME.as_secs()));
        }
        if let Some(pipe) = &self.pipe {
            let mut chunk = [0; 4096];
            match nix::unistd::read(pipe, &mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.output.extend(chunk.iter().take(length));
                    if self.output.len() > OUTPUT_MAX {
                        self.stop("it wrote more than 64 KiB".into());
                    }
                    return self.whole();
                }
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => return None,
                Err(error) => self.stop(error.to_string()),
            }
        }
        if !pidfd::has_ended(&self.process.child.pidfd).unwrap_or(true) {
            return None;
        }
        let exit = pidfd::reap(&self.process.child.pidfd);
        let asked = std::mem::replace(&mut self.state, State::Over) == State::Asked;
        asked.then(|| self.reply(exit))
    }

    /// The reply where the answer is whole. What it says is not trusted either way, so that how its process ends says
    /// nothing more.
    fn whole(&mut self) -> Option<Reply> {
        if self.failure.is_some() || self.output.pop_if(|last| *last == END).is_none() {
            return None;
        }
        self.pipe = None;
        self.state = State::Answered;
        Some(self.reply(Some(Exit::Code(0))))
    }

    fn stop(&mut self, rule: String) {
        let remedy = "the image's header is broken or hostile; look at it with care";
        self.failure
            .get_or_insert_with(|| Refusal::new(Layer::Policy, "probe", self.path.clone(), rule, remedy));
        self.pipe = None;
        let _ = pidfd::kill(&self.process.child.pidfd);
    }

    /// Why it ended badly: it did not get as far as its program, or the image was too much for it.
    fn bad_end(&self, exit: Option<Exit>) -> Refusal {
        if let Err(error) = self.process.executed(Duration::ZERO) {
            return error.refusal();
        }
        bad_end(&self.path, exit)
    }

    fn reply(&mut self, exit: Option<Exit>) -> Reply {
        let output = std::mem::take(&mut self.output);
        let bad = exit != Some(Exit::Code(0));
        let failure = self.failure.take().or_else(|| bad.then(|| self.bad_end(exit)));
        if let Some(refusal) = failure {
            let stderr = String::from_utf8_lossy(&output).chars().take(400).collect();
            return Reply::Refused(Box::new(Refused { refusal, op: None, stderr }));
        }
        match String::from_utf8(output) {
            Ok(header) => Reply::Probed(Probed { identity: self.identity, kind: self.kind, header }),
            Err(_) => Reply::Refused(Box::new(Refused {
                refusal: Refusal::new(
                    Layer::Policy,
                    "probe",
                    self.path.clone(),
                    "the answer is no UTF-8",
                    "",
                ),
                op: None,
                stderr: String::new(),
            })),
        }
    }
}

fn bad_end(path: &str, exit: Option<Exit>) -> Refusal {
    let how = exit.map_or_else(|| "is gone".into(), |exit| exit.to_string());
    let remedy = if exit == Some(Exit::Signal(libc::SIGKILL)) {
        "an administrator or the kernel, for want of memory (`dmesg`), may have killed it: try again; if that does not help, the \
         image's header is broken or hostile: look at it with care"
    } else {
        "the image's header is broken or hostile; look at it with care"
    };
    Refusal::new(Layer::Policy, "probe", path, format!("the image probe {how}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_probe_need_not_be_the_images_fault() {
        let killed = bad_end("/i", Some(Exit::Signal(9)));
        assert_eq!(killed.rule, "the image probe was killed by SIGKILL");
        assert!(killed.remedy.contains("memory") && killed.remedy.contains("hostile"), "{}", killed.remedy);
        let failed = bad_end("/i", Some(Exit::Code(3)));
        assert_eq!(failed.rule, "the image probe ended with exit code 3");
        assert!(!failed.remedy.contains("memory"), "{}", failed.remedy);
        assert_eq!(bad_end("/i", None).rule, "the image probe is gone");
    }
}
