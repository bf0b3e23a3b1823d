//! Where a device model is, and the way there, one layer at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use crate::inspect::facts::ProcessFacts;
use crate::privsep::confinement::{LandlockAccess, LandlockSpec};
use crate::sys::{enter, label, landlock, seccomp};

/// One layer of confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Namespaces and the root directory.
    Namespaces,
    /// uid, gid and groups.
    Ids,
    /// Capability sets and `no_new_privs`.
    Capabilities,
    /// The security module's label.
    Label,
    /// The Landlock ruleset; known only for svirt's own domains.
    Landlock,
    /// The seccomp filters, copied from the process.
    Seccomp,
}

impl Layer {
    /// Every layer, in the order in which they are taken on.
    pub const ALL: [Self; 6] =
        [Self::Namespaces, Self::Label, Self::Ids, Self::Capabilities, Self::Landlock, Self::Seccomp];

    /// The layer's name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::Ids => "uid",
            Self::Label => "label",
            Self::Landlock => "Landlock",
            Self::Namespaces => "namespaces",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Where a device model is.
pub struct Place {
    /// What the kernel shows of it.
    pub facts: ProcessFacts,
    /// Its Landlock ruleset, from the plan.
    pub landlock: Option<LandlockSpec>,
    pidfd: OwnedFd,
    root: OwnedFd,
    /// The host's procfs: the device model's root has none.
    proc: OwnedFd,
}

impl Place {
    /// Opens the way to a process; `facts` must be of the same one.
    pub fn open(facts: ProcessFacts, landlock: Option<LandlockSpec>) -> io::Result<Self> {
        let pid = Pid::from_raw(facts.pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let root = std::fs::File::open(format!("/proc/{}/root", facts.pid))?.into();
        let proc = std::fs::File::open("/proc")?.into();
        Ok(Self { facts, landlock, pidfd, root, proc })
    }

    /// Whether the process has this layer at all, as far as can be known.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::Capabilities => self.facts.status.capabilities.effective != u64::MAX,
            Layer::Ids => true,
            Layer::Label => self.facts.label.as_deref().is_some_and(|label| label != "unconfined"),
            Layer::Landlock => self.landlock.is_some(),
            Layer::Namespaces => self.facts.namespaces.values().any(|namespace| !namespace.host),
            Layer::Seccomp => self.facts.status.seccomp_mode != 0,
        }
    }

    /// Enters the namespaces and the root of the process, which holds for children forked afterwards.
    pub fn enter(&self) -> io::Result<()> {
        enter::namespaces(self.pidfd.as_fd())?;
        enter::root(self.root.as_fd())
    }

    /// Takes on the other layers among `layers`, each at the point where there is still the right to do so.
    /// Only for a child that ends soon.
    pub fn take_on(&self, layers: &[Layer]) -> io::Result<()> {
        let status = &self.facts.status;
        let wants = |layer| layers.contains(&layer);
        if wants(Layer::Label) {
            self.facts.label.as_deref().map_or(Ok(()), |text| label::take_on(self.proc.as_fd(), text))?;
        }
        // Only a process with CAP_SETPCAP can empty its bounding set, so this comes before the ids.
        if wants(Layer::Capabilities) {
            enter::bounding(status.capabilities.bounding)?;
        }
        if wants(Layer::Ids) {
            let [_, uid, ..] = status.uids;
            let [_, gid, ..] = status.gids;
            enter::ids(uid, gid, &status.groups)?;
        }
        if wants(Layer::Capabilities) {
            enter::permitted(status.capabilities.permitted)?;
            if status.no_new_privs {
                enter::no_new_privs()?;
            }
        }
        if let (true, Some(spec)) = (wants(Layer::Landlock), &self.landlock) {
            enter::no_new_privs()?;
            let abi = landlock::effective_abi(spec.abi);
            landlock::prepare(abi, &rules(spec))?.restrict_self()?;
        }
        if wants(Layer::Seccomp) {
            enter::no_new_privs()?;
            for program in self.facts.filters.iter().flatten() {
                let program: Vec<_> = program.0.iter().map(|insn| (insn.0, insn.1, insn.2, insn.3)).collect();
                seccomp::load(&program)?;
            }
        }
        Ok(())
    }
}

/// The ruleset in the words of the kernel call.
fn rules(spec: &LandlockSpec) -> Vec<(&str, landlock::Allow)> {
    spec.rules
        .iter()
        // Behind Landlock alone the root is the host's, which lacks some of these places: they allow nothing there.
        .filter(|rule| Path::new(&rule.path).exists())
        .map(|rule| {
            let has = |access| rule.access.contains(&access);
            let allow = landlock::Allow {
                execute: has(LandlockAccess::Execute),
                ioctl_dev: has(LandlockAccess::IoctlDev),
                read_dir: has(LandlockAccess::ReadDir),
                read_file: has(LandlockAccess::ReadFile),
                truncate: false,
                write_file: has(LandlockAccess::WriteFile),
            };
            (rule.path.as_str(), allow)
        })
        .collect()
}
