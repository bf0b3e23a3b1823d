//! One image header, read by a process that can do nothing else; here only its bounds are kept.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use super::apply::kernel;
use super::connection::ConnectionId;
use super::places::Places;
use super::spawn::{self, Helper};
use crate::base::{Layer, Refusal};
use crate::privsep::confinement::{Rlimit, RlimitKind};
use crate::privsep::op::{FileIdentity, ImageKind};
use crate::privsep::request::{Probed, Refused, Reply};
use crate::sys::namespace::Namespaces;
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::Child;

/// The longest header description.
const OUTPUT_MAX: usize = 64 << 10;
/// How long it may take.
const TIME: Duration = Duration::from_secs(5);
/// How many run at once.
pub(super) const PROBES_MAX: usize = 64;

/// A running probe.
#[derive(Debug)]
pub(super) struct Probe {
    /// Who asked.
    pub(super) client: ConnectionId,
    path: String,
    identity: FileIdentity,
    kind: ImageKind,
    child: Child,
    pipe: Option<OwnedFd>,
    output: Vec<u8>,
    /// When it is killed.
    pub(super) deadline: Instant,
    failure: Option<Refusal>,
}

impl Probe {
    /// Opens the image by the rules of place and starts the process.
    pub(super) fn start(
        client: ConnectionId,
        path: &str,
        program: &Path,
        uid: u32,
        places: &Places,
    ) -> Result<Self, Refusal> {
        let (image, identity, kind) = places.open_for_probe(path)?;
        let hold = |error: std::io::Error| kernel("make", "a pipe", &error, "");
        let (pipe, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| hold(e.into()))?;
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK).map_err(|e| hold(e.into()))?;
        let limit = |resource, value| Rlimit { resource, value: Some(value) };
        let child = spawn::helper(&Helper {
            program,
            argv: &["svirt-imageprobe".to_owned()],
            env: &[],
            uid,
            fds: &[(image.as_fd(), 0), (theirs.as_fd(), 1)],
            reach: Some(&[]),
            rlimits: &[limit(RlimitKind::Core, 0), limit(RlimitKind::Fsize, 0)],
            namespaces: Namespaces { ipc: true, mount: true, net: true, uts: true, ..Namespaces::default() },
            selinux_exec: None,
            seccomp: None,
            die_with_labeller: true,
            timeout: TIME,
        })
        .map_err(|error| error.refusal())?;
        Ok(Self {
            client,
            path: path.to_owned(),
            identity,
            kind,
            child,
            pipe: Some(pipe),
            output: Vec::new(),
            deadline: Instant::now() + TIME,
            failure: None,
        })
    }

    /// What to wait for: output first, then the end.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_ref().map_or(self.child.pidfd.as_fd(), AsFd::as_fd)
    }

    /// Its pid.
    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Goes on; the reply once there is one.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Reply> {
        if now >= self.deadline && self.failure.is_none() {
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
                    return None;
                }
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => return None,
                Err(error) => self.stop(error.to_string()),
            }
        }
        if !pidfd::has_ended(&self.child.pidfd).unwrap_or(true) {
            return None;
        }
        let exit = pidfd::reap(&self.child.pidfd);
        Some(self.reply(exit))
    }

    fn stop(&mut self, rule: String) {
        let remedy = "the image's header is broken or hostile; look at it with care";
        self.failure = Some(Refusal::new(Layer::Policy, "probe", self.path.clone(), rule, remedy));
        self.pipe = None;
        let _ = pidfd::kill(&self.child.pidfd);
    }

    fn reply(&mut self, exit: Option<Exit>) -> Reply {
        let output = std::mem::take(&mut self.output);
        let failure = self.failure.take().or_else(|| {
            (exit != Some(Exit::Code(0))).then(|| {
                let rule = format!("the image probe ended with {exit:?}");
                let remedy = "the image's header is broken or hostile; look at it with care";
                Refusal::new(Layer::Policy, "probe", self.path.clone(), rule, remedy)
            })
        });
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
