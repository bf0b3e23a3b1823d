//! The `dac` model: a uid (and gid of the same number) for each domain alone.
//!
//! Images keep their owners: they are handed over as descriptors, and the owner of a file could open a
//! read-only descriptor again for writing after a chmod.

use super::decide::{Action, Decision};
use super::resource::{Image, Kind, Place, Process, Resource, Share};
use super::selinux::{ELSEWHERE, NO_SHARE};
use super::{LabelError, foreign};
use crate::base::mix;
use crate::conf::domain::{DeviceLabel, Domain, SecLabelKind};
use crate::privsep::op::UidRole;
use crate::settings::{UidRange, Uids};

/// The uids of one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// The device model's.
    pub domain: u32,
    /// The supervisor's.
    pub supervisor: u32,
    /// One for each helper.
    pub helpers: Vec<u32>,
}

impl Owners {
    /// What is done to one resource. Nothing that the device model uses changes its owner.
    pub fn decide(&self, resource: &Resource) -> Result<Decision, LabelError> {
        let nothing = |action, reason: &str| Ok(Decision::nothing(action, reason));
        let run = |uid: Option<&u32>, reason: &str| match uid {
            Some(uid) => Ok(Decision::given(Action::Run, format!("+{uid}:+{uid}"), reason)),
            None => Err(LabelError::NoUid("helpers")),
        };
        match &resource.kind {
            Kind::Process(Process::DeviceModel) => {
                run(Some(&self.domain), "no other process of the host has this uid")
            }
            Kind::Process(Process::Supervisor) => run(
                Some(&self.supervisor),
                "the device model cannot signal or trace the process that watches it",
            ),
            Kind::Process(
                Process::Passt(at) | Process::Swtpm(at) | Process::Virtiofsd { helper: at, .. },
            ) => run(self.helpers.get(*at), "taken over, it reaches neither the device model nor its files"),
            Kind::HelperState(Process::Passt(at) | Process::Swtpm(at)) => match self.helpers.get(*at) {
                Some(uid) => Ok(Decision {
                    action: Action::Set,
                    label: Some(format!("+{uid}:+{uid}")),
                    remember: false,
                    restore: true,
                    reason: "the helper opens it anew; at rest it is root's".into(),
                }),
                None => Err(LabelError::NoUid("helpers")),
            },
            Kind::HelperState(_) => nothing(Action::Never, "only helpers keep a state"),
            Kind::Beyond(foreign) => foreign::dac(foreign, resource.line),
            Kind::Image(image) => {
                no_owner(image, resource.line)?;
                match image.place {
                    Place::Elsewhere => nothing(Action::Refused, ELSEWHERE),
                    _ => nothing(
                        Action::Handed,
                        "handed over open; an owner could change the mode and open it again for writing",
                    ),
                }
            }
            Kind::Firmware(Place::Elsewhere) => nothing(Action::Refused, ELSEWHERE),
            Kind::Firmware(_) => nothing(Action::Handed, "handed over open, for reading"),
            Kind::Boot(Place::Elsewhere) | Kind::FwCfg(Place::Elsewhere, _) => {
                nothing(Action::Refused, ELSEWHERE)
            }
            Kind::Boot(_) => {
                nothing(Action::Content, "mounted read-only; its mode must let everybody read it")
            }
            Kind::FwCfg(..) => nothing(
                Action::Handed,
                "mounted read-only with its owner shown as the device model; no owner on the disk changes",
            ),
            Kind::Vsock => nothing(Action::Handed, "opened by the labeller, whoever owns the device"),
            Kind::Share(Share { place: false, .. }) => nothing(Action::Refused, NO_SHARE),
            Kind::Share(_) => nothing(
                Action::Handed,
                "mounted with its owner shown as the process that serves it; no owner on the disk changes",
            ),
            Kind::Shmem(_) => nothing(
                Action::Handed,
                "mounted alone; nobody but root may enter the directory where it lies, and it is gone with its last user",
            ),
            Kind::Tap => nothing(Action::Handed, "the labeller attaches to it, whoever owns it"),
            Kind::Channel => nothing(Action::Handed, "a pair of sockets has no name that could be opened"),
            Kind::Listener => nothing(Action::Never, "it belongs to root; the supervisor asks who connects"),
            Kind::Log => nothing(Action::Never, "it belongs to root; the supervisor has it open to append"),
            Kind::Pty => nothing(Action::Never, "it belongs to root; the supervisor has both sides"),
        }
    }
}

/// Refuses an override that names an owner.
pub(super) fn no_owner(image: &Image, line: u32) -> Result<(), LabelError> {
    let asks = |label: &&DeviceLabel| label.model.as_deref() == Some("dac") && label.label.is_some();
    let Some(label) = image.own.iter().chain(&image.first).find(asks) else { return Ok(()) };
    Err(LabelError::Label {
        model: "dac",
        label: label.label.clone().unwrap_or_default(),
        reason:
            "owners of images are never changed: an owner could reopen a read-only descriptor for writing"
                .into(),
        line,
    })
}

/// The range of a role.
#[must_use]
pub fn range_of(uids: &Uids, role: UidRole) -> UidRange {
    match role {
        UidRole::Domain => uids.domains,
        UidRole::Helper => uids.helpers,
        UidRole::Supervisor => uids.supervisors,
    }
}

/// The role's name as it stands in the configuration.
#[must_use]
pub fn role_name(role: UidRole) -> &'static str {
    match role {
        UidRole::Domain => "domains",
        UidRole::Helper => "helpers",
        UidRole::Supervisor => "supervisors",
    }
}

/// Draws a free uid from `range`; looks at each taken one at most once.
#[must_use]
pub fn allocate(range: UidRange, taken: &std::collections::HashSet<u32>, seed: u64) -> Option<u32> {
    if range.count == 0 {
        return None;
    }
    let start = u32::try_from(mix(seed, 2) % u64::from(range.count)).ok()?;
    (0..range.count)
        .map(|step| (u64::from(start) + u64::from(step)) % u64::from(range.count))
        .filter_map(|offset| range.first.checked_add(u32::try_from(offset).ok()?))
        .find(|uid| *uid != 0 && !taken.contains(uid))
}

/// The uid of the device model: the one of a static label, else a drawn one.
///
/// A static label may name any uid of the configured range, never another one: a uid outside it could own
/// files or belong to a service or a person.
pub fn domain_uid(
    domain: &Domain,
    uids: &Uids,
    taken: &std::collections::HashSet<u32>,
    seed: u64,
) -> Result<u32, LabelError> {
    let own = domain.seclabels.iter().find(|label| label.model == "dac");
    let draw = || allocate(uids.domains, taken, seed).ok_or(LabelError::NoUid("domains"));
    let Some(label) = own else { return draw() };
    let refuse = |text: &str, reason: String| LabelError::Label {
        model: "dac",
        label: text.into(),
        reason,
        line: label.line,
    };
    match &label.kind {
        SecLabelKind::Dynamic { baselabel: None } => draw(),
        SecLabelKind::Dynamic { baselabel: Some(base) } => {
            Err(refuse(base, "the dac model takes no base label: each domain has a uid of its own".into()))
        }
        SecLabelKind::None => {
            Err(refuse("none", "a domain without a uid of its own would share svirt's".into()))
        }
        SecLabelKind::Static { label: text, .. } => {
            let uid = static_uid(text).ok_or_else(|| refuse(text, "it has not the form +UID:+GID".into()))?;
            let uid = uid.map_err(|reason| refuse(text, reason.into()))?;
            if !uids.domains.contains(uid) {
                let UidRange { first, count } = uids.domains;
                let last = u64::from(first) + u64::from(count).saturating_sub(1);
                return Err(refuse(text, format!("the uid is not in uids.domains, {first} to {last}")));
            }
            if taken.contains(&uid) {
                return Err(refuse(text, "the uid belongs to a running domain".into()));
            }
            Ok(uid)
        }
    }
}

/// The uid of `+UID:+GID` or `UID:GID`; names are refused, since their meaning can change under the label.
fn static_uid(text: &str) -> Option<Result<u32, &'static str>> {
    let (user, group) = text.split_once(':')?;
    let parse = |part: &str| {
        let digits = part.strip_prefix('+').unwrap_or(part);
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (uid, gid) = (parse(user)?, parse(group)?);
    Some(if uid == gid { Ok(uid) } else { Err("uid and gid must be the same number") })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_uid_is_used_once_and_then_none(first in 1u32..4_000_000_000, count in 1u32..50, seed: u64) {
            let range = UidRange { first, count };
            let mut taken = HashSet::new();
            for step in 0..count {
                let uid = allocate(range, &taken, seed.wrapping_add(u64::from(step))).unwrap();
                prop_assert!(range.contains(uid));
                prop_assert!(taken.insert(uid));
            }
            prop_assert_eq!(allocate(range, &taken, seed), None);
        }

        #[test]
        fn no_label_panics(text in "\\PC{0,30}") {
            let _ = static_uid(&text);
        }
    }

    #[test]
    fn static_labels() {
        assert_eq!(static_uid("+1910000007:+1910000007"), Some(Ok(1_910_000_007)));
        assert_eq!(static_uid("7:7"), Some(Ok(7)));
        assert!(static_uid("+7:+8").unwrap().is_err());
        for text in ["", ":", "root:root", "+7", "7:99999999999", "++7:7"] {
            assert_eq!(static_uid(text), None, "{text:?}");
        }
    }
}
