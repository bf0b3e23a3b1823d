//! The descriptors that the labeller hands over, claimed and checked once at the start.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::base::{Layer, Refusal, Slot};
use crate::privsep::supervisor::{
    BOOTSTRAP_FD, Bootstrap, FIRST_PLAN_FD, HANDOFF_FD, LABELLER_FD, PIDFD, STDERR_FD,
};
use crate::sys::inherit::claim;

/// The longest bootstrap in bytes.
const BOOTSTRAP_MAX: u64 = 1 << 20;

/// What a supervisor starts with.
#[derive(Debug)]
pub(super) struct Handed {
    /// What it is told.
    pub(super) bootstrap: Bootstrap,
    /// To the labeller.
    pub(super) labeller: OwnedFd,
    /// Where the listener arrives; absent at a takeover.
    pub(super) handoff: Option<OwnedFd>,
    /// The device model.
    pub(super) pidfd: OwnedFd,
    /// Its standard error; may be absent at a takeover.
    pub(super) stderr: Option<OwnedFd>,
    /// By slot.
    slots: BTreeMap<String, OwnedFd>,
}

/// Takes the socket to the labeller, which comes first so that everything else can be reported.
pub(super) fn labeller() -> io::Result<OwnedFd> {
    claim(LABELLER_FD)
}

/// Takes everything else.
pub(super) fn receive(labeller: OwnedFd) -> Result<Handed, (Refusal, OwnedFd)> {
    match parts() {
        Ok((bootstrap, handoff, pidfd, stderr, slots)) => {
            Ok(Handed { bootstrap, labeller, handoff, pidfd, stderr, slots })
        }
        Err(refusal) => Err((refusal, labeller)),
    }
}

type Parts = (Bootstrap, Option<OwnedFd>, OwnedFd, Option<OwnedFd>, BTreeMap<String, OwnedFd>);

fn parts() -> Result<Parts, Refusal> {
    let bootstrap = read_bootstrap()?;
    let pidfd = take(PIDFD, "the pidfd")?;
    let handoff =
        if bootstrap.takeover { None } else { Some(nonblocking(take(HANDOFF_FD, "the hand-off")?)?) };
    let stderr = match take(STDERR_FD, "standard error") {
        Ok(fd) => Some(nonblocking(fd)?),
        Err(_) if bootstrap.takeover => None,
        Err(refusal) => return Err(refusal),
    };
    let mut slots = BTreeMap::new();
    for grant in &bootstrap.spec.fds {
        if grant.number < FIRST_PLAN_FD {
            return Err(missing(grant.slot.as_str(), "its number is below the plan's first"));
        }
        let fd = take(grant.number, grant.slot.as_str())?;
        if slots.insert(grant.slot.as_str().to_owned(), fd).is_some() {
            return Err(missing(grant.slot.as_str(), "it is named twice"));
        }
    }
    Ok((bootstrap, handoff, pidfd, stderr, slots))
}

impl Handed {
    /// Takes the descriptor of a slot.
    pub(super) fn slot(&mut self, slot: &str) -> Result<OwnedFd, Refusal> {
        self.slots.remove(slot).ok_or_else(|| missing(slot, "it is not among the supervisor's descriptors"))
    }

    /// The same where the plan may have none.
    pub(super) fn optional(&mut self, slot: Option<&Slot>) -> Result<Option<OwnedFd>, Refusal> {
        slot.map(|slot| self.slot(slot.as_str())).transpose()
    }
}

fn read_bootstrap() -> Result<Bootstrap, Refusal> {
    use std::io::{Read, Seek};
    let fd = take(BOOTSTRAP_FD, "the bootstrap")?;
    let mut file = std::fs::File::from(fd);
    let mut text = Vec::new();
    file.rewind()
        .and_then(|()| file.take(BOOTSTRAP_MAX).read_to_end(&mut text))
        .map_err(|error| missing("the bootstrap", &error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| missing("the bootstrap", &error.to_string()))
}

fn take(number: i32, what: &str) -> Result<OwnedFd, Refusal> {
    claim(number).map_err(|error| missing(what, &format!("descriptor {number}: {error}")))
}

/// Makes sure that reading and writing it never waits.
pub(super) fn nonblocking(fd: OwnedFd) -> Result<OwnedFd, Refusal> {
    add_flags(fd, OFlags::NONBLOCK)
}

/// Adds status flags to a descriptor.
pub(super) fn add_flags(fd: OwnedFd, flags: OFlags) -> Result<OwnedFd, Refusal> {
    fcntl_getfl(fd.as_fd())
        .and_then(|now| fcntl_setfl(fd.as_fd(), now | flags))
        .map_err(|error| missing("a descriptor", &error.to_string()))?;
    Ok(fd)
}

fn missing(what: &str, rule: &str) -> Refusal {
    Refusal::new(
        Layer::Policy,
        "start",
        format!("the supervisor with {what}"),
        rule,
        "svirt-supervisor is started by svirt-labeller only; both must be of one version",
    )
}
