//! A conversation with one domain's supervisor about one device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::super::connection::ConnectionId;
use super::super::converse::Conversation;
use super::super::domain::Domain;
use crate::base::DomainUuid;
use crate::privsep::plug::Gone;
use crate::privsep::supervisor::{Answer, Verb};
use crate::sys::memfd;

/// How long a supervisor may take; its own limit is shorter.
const LIMIT: Duration = Duration::from_secs(30);

/// A conversation with one supervisor about one device.
#[derive(Debug)]
pub(in crate::labeller) struct Talk {
    /// Who waits for its outcome.
    pub(super) client: Option<ConnectionId>,
    /// Whose supervisor.
    pub(in crate::labeller) uuid: DomainUuid,
    conversation: Conversation,
    /// Which device.
    pub(super) which: Gone,
    /// Whether it is plugged in, not taken out.
    pub(super) plugs: bool,
}

impl Talk {
    /// What to poll.
    pub(in crate::labeller) fn fd(&self) -> BorrowedFd<'_> {
        self.conversation.fd()
    }

    /// When it has lasted too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.conversation.deadline()
    }

    /// Connects and asks. `text` goes as a sealed file before the descriptors.
    pub(super) fn begin(
        domain: &Domain,
        client: Option<ConnectionId>,
        verb: &Verb,
        which: Gone,
        text: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        let text = memfd::sealed("svirt-plug", text)?;
        let all: Vec<BorrowedFd<'_>> = [text.as_fd()].into_iter().chain(fds.iter().copied()).collect();
        let conversation = Conversation::begin(&domain.started.control, verb, &all, Some(LIMIT))?;
        let (uuid, plugs) = (domain.plan.domain.uuid, *verb == Verb::Plug);
        Ok(Self { client, uuid, conversation, which, plugs })
    }

    /// The answer, if it is there; an error where none will come.
    pub(super) fn answer(&mut self, now: Instant) -> Result<Option<Answer>, String> {
        self.conversation.answer(now)
    }
}
