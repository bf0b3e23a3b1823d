//! The `apparmor` model: profile names computed from the domain's uuid, and the rule of each resource.
//!
//! The text of a profile is made by the labeller, from typed rules (`privsep::apparmor`).

use super::decide::{Action, Decision};
use super::resource::{Kind, Place, Process, Resource, Share, Use};
use super::selinux::{ELSEWHERE, NO_SHARE};
use super::{LabelError, foreign};
use crate::base::DomainUuid;
use crate::conf::domain::{Domain, SecLabelKind};
use crate::privsep::apparmor::{ProfilePart, part_name, profile_name};

/// The profile of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    uuid: DomainUuid,
}

/// The profile of a domain; `None` where the definition asks for none.
pub fn profile(domain: &Domain, uuid: DomainUuid) -> Result<Option<Profile>, LabelError> {
    let Some(label) = domain.seclabels.iter().find(|label| label.model == "apparmor") else {
        return Ok(Some(Profile { uuid }));
    };
    let text = match &label.kind {
        SecLabelKind::None => return Ok(None),
        SecLabelKind::Dynamic { baselabel: None } => return Ok(Some(Profile { uuid })),
        SecLabelKind::Dynamic { baselabel: Some(text) } => text,
        SecLabelKind::Static { label, .. } => label,
    };
    Err(LabelError::Label {
        model: "apparmor",
        label: text.clone(),
        reason: "each domain has a profile of its own, made from its plan; another one's is not used".into(),
        line: label.line,
    })
}

impl Profile {
    fn part(&self, part: ProfilePart, reason: &str) -> Decision {
        Decision::given(Action::Run, part_name(self.uuid, part), reason)
    }

    /// What is done for one resource.
    #[must_use]
    pub fn decide(&self, resource: &Resource) -> Decision {
        let nothing = Decision::nothing;
        match &resource.kind {
            Kind::Process(Process::DeviceModel) => Decision::given(
                Action::Run,
                profile_name(self.uuid),
                "a profile of its own, named after the uuid alone",
            ),
            Kind::Process(Process::Supervisor) => self.part(
                ProfilePart::Supervisor,
                "it opens nothing by name, and signals its device model alone",
            ),
            Kind::Process(Process::Passt(_)) => {
                self.part(ProfilePart::Passt, "flows of one domain, and the empty root that it makes itself")
            }
            Kind::Process(Process::Swtpm(_)) => {
                self.part(ProfilePart::Swtpm, "one state, one channel, and no way to execute or connect")
            }
            Kind::Process(Process::Virtiofsd { .. }) => {
                self.part(ProfilePart::Virtiofsd, "one directory, one connection, and no way to execute")
            }
            Kind::Image(image) => match (image.place, image.used()) {
                (Place::Elsewhere, _) => nothing(Action::Refused, ELSEWHERE),
                (Place::Readable, Use::Private | Use::Shared) => {
                    nothing(Action::Refused, "it lies in images.readable, and the disk is writable")
                }
                _ => nothing(
                    Action::Handed,
                    "opened by the labeller; the profile names no image, so none can be opened by name",
                ),
            },
            Kind::Beyond(foreign) => foreign::apparmor(foreign),
            Kind::Firmware(Place::Elsewhere) => nothing(Action::Refused, ELSEWHERE),
            Kind::Firmware(_) => nothing(Action::Handed, "opened by the labeller, for reading"),
            Kind::Boot(Place::Elsewhere) | Kind::FwCfg(Place::Elsewhere, _) => {
                nothing(Action::Refused, ELSEWHERE)
            }
            Kind::Boot(_) | Kind::FwCfg(..) => Decision::given(
                Action::Rule,
                "/svirt/* r,",
                "mounted there, alone and read-only, from a descriptor of the labeller's",
            ),
            Kind::Share(Share { place: false, .. }) => nothing(Action::Refused, NO_SHARE),
            Kind::Share(Share { served: true, .. }) => Decision::given(
                Action::Rule,
                format!("/svirt/share/** rwlk, in {}", part_name(self.uuid, ProfilePart::Virtiofsd)),
                "its server has it; the device model has one connected socket",
            ),
            Kind::Share(Share { writable: true, .. }) => Decision::given(
                Action::Rule,
                "/svirt/fs/** rwlk,",
                "mounted there, alone, from a descriptor of the labeller's; nothing is executed from it",
            ),
            Kind::Share(_) => Decision::given(
                Action::Rule,
                "/svirt/fs/** rwlk,",
                "mounted there, alone and read-only, from a descriptor of the labeller's",
            ),
            Kind::Shmem(_) => Decision::given(
                Action::Rule,
                "/svirt/shmem[0-7] rw,",
                "mounted there, alone, from a descriptor of the labeller's",
            ),
            Kind::Channel => nothing(Action::Handed, "the profile admits sockets that are connected already"),
            Kind::HelperState(_) => Decision::given(
                Action::Rule,
                format!("{}.tpm[12] rwk, in {}", self.uuid, part_name(self.uuid, ProfilePart::Swtpm)),
                "the emulator opens it anew; no rule of the device model's profile names it",
            ),
            Kind::Vsock => nothing(Action::Handed, "opened by the labeller; no rule names the device"),
            Kind::Tap => {
                nothing(Action::Handed, "opened by the labeller; no rule of the profile names the device")
            }
            Kind::Listener => nothing(Action::Never, "the supervisor accepts; the device model never has it"),
            Kind::Log => nothing(Action::Never, "the supervisor appends; no rule of the profile names it"),
            Kind::Pty => nothing(Action::Never, "the supervisor has both sides; no rule names it"),
        }
    }
}
