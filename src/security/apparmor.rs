//! The `apparmor` model: profile names computed from the domain's uuid, and the rule of each resource.
//!
//! A path becomes a rule with every character that AppArmor would read as a pattern escaped, so that no name of
//! a file or domain can widen a profile.

use super::decide::{Action, Decision};
use super::resource::{Kind, Place, Process, Resource, Use};
use super::selinux::ELSEWHERE;
use crate::base::DomainUuid;

/// The profiles of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles {
    uuid: DomainUuid,
}

impl Profiles {
    /// The profiles of the domain `uuid`.
    #[must_use]
    pub fn new(uuid: DomainUuid) -> Self {
        Self { uuid }
    }

    /// The name of one process's profile. It holds the uuid and nothing that a definition could choose.
    #[must_use]
    pub fn name(&self, process: Process) -> String {
        match process {
            Process::DeviceModel => format!("svirt-{}", self.uuid),
            Process::Passt(at) => format!("svirt-{}-passt{at}", self.uuid),
            Process::Supervisor => format!("svirt-{}-supervisor", self.uuid),
        }
    }

    /// What is done for one resource.
    #[must_use]
    pub fn decide(&self, resource: &Resource) -> Decision {
        let never = |reason: &str| Decision::nothing(Action::Never, reason);
        let rule = |path: &str, access: &str, reason: &str| {
            Decision::given(Action::Rule, file_rule(path, access), reason)
        };
        let path = resource.path.as_deref().unwrap_or_default();
        match &resource.kind {
            Kind::Process(process) => Decision::given(
                Action::Run,
                self.name(*process),
                "a profile of its own, named after the uuid alone",
            ),
            Kind::Image(image) => match (image.place, image.used()) {
                (Place::Elsewhere, _) => Decision::nothing(Action::Refused, ELSEWHERE),
                (Place::Readable, Use::Private | Use::Shared) => {
                    Decision::nothing(Action::Refused, "it lies in images.readable, and the disk is writable")
                }
                (_, Use::Private) => rule(
                    path,
                    "rwk",
                    "the kernel holds inherited descriptors against the profile; this domain alone has the rule",
                ),
                (_, Use::Shared) => {
                    rule(path, "rwk", "only domains that declare it <shareable/> have the rule")
                }
                (_, Use::Content) => rule(path, "rk", "only read; no rule lets the domain write to it"),
            },
            Kind::Boot(Place::Elsewhere) => Decision::nothing(Action::Refused, ELSEWHERE),
            Kind::Boot(_) => {
                rule(path, "r", "opened by the labeller, and mounted read-only into the device model's root")
            }
            Kind::Channel => {
                never("the profile admits connected unix sockets, and no bind, listen or connect")
            }
            Kind::Tap => Decision::given(
                Action::Rule,
                file_rule("/dev/net/tun", "rw"),
                "the descriptor that it inherits; its root has no such node to open",
            ),
            Kind::Listener => never("the supervisor accepts; the device model's profile admits no listening"),
            Kind::Log => never("the supervisor's profile names it, the device model's does not"),
            Kind::Pty => never("the supervisor's profile names it, the device model's does not"),
        }
    }
}

/// One rule: the path in quotes, patterns escaped, and the access.
#[must_use]
pub fn file_rule(path: &str, access: &str) -> String {
    format!("{} {access},", quoted(path))
}

/// A path as AppArmor takes it literally.
fn quoted(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 2);
    out.push('"');
    for c in path.chars() {
        // Patterns, variables, and what ends or escapes a quoted text.
        if "*?[]{}^,\\\"@".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
