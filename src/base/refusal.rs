//! The one shape of a "no": who was refused what, by which layer and rule, and what to change.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DomainUuid;

/// Which layer refused or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// AppArmor.
    Apparmor,
    /// Capability sets.
    Capability,
    /// A cgroup's limits or device rules.
    Cgroup,
    /// svirt's configuration file.
    Configuration,
    /// File owner and mode.
    Dac,
    /// The definition that the user wrote.
    Definition,
    /// QEMU itself, or a helper.
    DeviceModel,
    /// The kernel, for a reason that is no security decision.
    Kernel,
    /// Landlock.
    Landlock,
    /// The labeller's table of what running domains hold.
    Lease,
    /// The locks that keep other programs off an image.
    Lock,
    /// Namespaces and the minimal root.
    Namespace,
    /// The labeller's limits: places, ranges, closed lists.
    Policy,
    /// Resource limits.
    Rlimit,
    /// The seccomp filter or its phase gate.
    Seccomp,
    /// SELinux.
    Selinux,
}

/// A refusal or failure that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Which layer said no.
    pub layer: Layer,
    /// What was attempted, such as `open the image of disk vda`.
    pub operation: String,
    /// On what: a path, a label, a system call.
    pub object: String,
    /// The rule that decided, or the kernel's error, such as `EACCES` or `images.relabelable`.
    pub rule: String,
    /// The smallest change that would allow it, or why none should.
    pub remedy: String,
    /// The domain that the rule names, where it is another one's doing; not everybody may know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Box<DomainUuid>>,
}

impl Refusal {
    /// Builds a refusal; `remedy` may be empty only where no change should allow it.
    pub fn new(
        layer: Layer,
        operation: impl Into<String>,
        object: impl Into<String>,
        rule: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            layer,
            operation: operation.into(),
            object: object.into(),
            rule: rule.into(),
            remedy: remedy.into(),
            holder: None,
        }
    }

    /// The same, whose rule names this domain.
    #[must_use]
    pub fn held_by(self, holder: DomainUuid) -> Self {
        Self { holder: Some(Box::new(holder)), ..self }
    }

    /// The same for somebody who may not know of the domain that it names.
    #[must_use]
    pub fn without_holder(self) -> Self {
        if self.holder.is_none() {
            return self;
        }
        let (rule, remedy) =
            ("in use by a domain that you may not see", "use something else, or ask an administrator");
        Self::new(self.layer, self.operation, self.object, rule, remedy)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apparmor => "AppArmor",
            Self::Capability => "capabilities",
            Self::Cgroup => "cgroup",
            Self::Configuration => "configuration",
            Self::Dac => "file owner and mode",
            Self::Definition => "domain definition",
            Self::DeviceModel => "device model",
            Self::Kernel => "kernel",
            Self::Landlock => "Landlock",
            Self::Lease => "leases",
            Self::Lock => "image lock",
            Self::Namespace => "namespaces",
            Self::Policy => "svirt's limits",
            Self::Rlimit => "resource limits",
            Self::Seccomp => "seccomp",
            Self::Selinux => "SELinux",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {} ({})", self.operation, self.object, self.rule, self.layer)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  to fix it: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
