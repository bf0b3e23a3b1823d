//! One decision for each resource and model: the label, what is done to give it, and why. The start and
//! `svirt label plan` both come here, so that what is printed is what is applied.
//!
//! A host may run several models at once; each decides over every resource by itself, and none relies on
//! another one.

use serde::Serialize;

use super::resource::Resource;
use super::{LabelError, apparmor, dac, selinux};
use crate::settings::Selinux;

/// A security model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// SELinux: contexts of processes and files.
    Selinux,
    /// AppArmor: a profile of each process, and a rule for each file.
    Apparmor,
    /// Uids and file owners.
    Dac,
}

impl Model {
    /// All, in libvirt's order of a stack: the modules of the kernel first, `dac` last.
    pub const ALL: [Self; 3] = [Self::Selinux, Self::Apparmor, Self::Dac];

    /// The name as it stands in a definition.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Selinux => "selinux",
            Self::Apparmor => "apparmor",
            Self::Dac => "dac",
        }
    }
}

/// What is done to a resource for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: it is read, and lies where every domain may read it.
    Content,
    /// Nothing: the open descriptor that is handed over is all that the model needs.
    Handed,
    /// The object is made with it, and it ends with the object.
    Make,
    /// Nothing: the device model never has it, or the definition says that it stays as it is.
    Never,
    /// A start is refused.
    Refused,
    /// A rule of the domain's profile names it.
    Rule,
    /// A process gets it as its own label.
    Run,
    /// It is set on the object.
    Set,
}

/// What one model does with one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What is done.
    pub action: Action,
    /// The label, owner, profile or rule; absent where nothing is given.
    pub label: Option<String>,
    /// Whether what was there before is written down, so that the last user's end brings it back.
    pub remember: bool,
    /// Whether it is put back when the last domain that uses it ends.
    pub restore: bool,
    /// Why.
    pub reason: String,
}

impl Decision {
    /// A decision that changes nothing.
    pub(super) fn nothing(action: Action, reason: impl Into<String>) -> Self {
        Self { action, label: None, remember: false, restore: false, reason: reason.into() }
    }

    /// A label that is set on an object, remembered and restored.
    pub(super) fn set(label: impl ToString, reason: impl Into<String>) -> Self {
        Self {
            action: Action::Set,
            label: Some(label.to_string()),
            remember: true,
            restore: true,
            reason: reason.into(),
        }
    }

    /// A label that is given when the object is made, and ends with it.
    pub(super) fn made(label: impl ToString, reason: impl Into<String>) -> Self {
        Self::given(Action::Make, label, reason)
    }

    /// A label that ends with the process, or a rule that ends with the profile.
    pub(super) fn given(action: Action, label: impl ToString, reason: impl Into<String>) -> Self {
        Self {
            action,
            label: Some(label.to_string()),
            remember: false,
            restore: false,
            reason: reason.into(),
        }
    }
}

/// The labels of one domain in each model that is planned for.
#[derive(Clone, Debug)]
pub enum Stack<'a> {
    /// SELinux's contexts and the configured types.
    Selinux(&'a selinux::Labels, &'a Selinux),
    /// AppArmor's profile.
    Apparmor(&'a apparmor::Profile),
    /// The uids.
    Dac(&'a dac::Owners),
}

impl Stack<'_> {
    /// Which model it is.
    #[must_use]
    pub fn model(&self) -> Model {
        match self {
            Self::Selinux(..) => Model::Selinux,
            Self::Apparmor(_) => Model::Apparmor,
            Self::Dac(_) => Model::Dac,
        }
    }

    /// What the model does with one resource.
    pub fn decide(&self, resource: &Resource) -> Result<Decision, LabelError> {
        match self {
            Self::Selinux(labels, types) => labels.decide(resource, types),
            Self::Apparmor(profiles) => Ok(profiles.decide(resource)),
            Self::Dac(owners) => owners.decide(resource),
        }
    }
}
