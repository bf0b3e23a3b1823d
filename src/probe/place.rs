//! Where a device model is, and the way there, one layer at a time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::Serialize;

use super::cgroup::{self, Found};
use crate::inspect::facts::ProcessFacts;
use crate::inspect::read::{self, ReadError};
use crate::privsep::confinement::{LandlockAccess, LandlockSpec};
use crate::sys::{enter, label, landlock, path, pidfd, seccomp};

/// One layer of confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The cgroup, with its device rules.
    Cgroup,
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
    pub const ALL: [Self; 7] = [
        Self::Cgroup,
        Self::Namespaces,
        Self::Capabilities,
        Self::Ids,
        Self::Label,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// The layer's name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::Cgroup => "cgroup",
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
    cgroup: Found,
    module: label::Module,
    pidfd: OwnedFd,
    root: OwnedFd,
    /// The host's procfs: the device model's root has none.
    proc: OwnedFd,
}

/// Why there is no way to a process.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It ended while it was looked at, so what was read may be of another one.
    #[error("process {0} has ended")]
    Ended(i32),
    /// The kernel refused.
    #[error("cannot open process {0}")]
    Kernel(i32, #[source] io::Error),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Place {
    /// Opens the way to a process and reads it. All of it is of one process, whatever becomes of its number.
    pub fn open(role: &str, pid: i32, landlock: Option<LandlockSpec>) -> Result<Self, PlaceError> {
        let kernel = |error| PlaceError::Kernel(pid, error);
        let pidfd = pidfd::open(pid).map_err(kernel)?;
        let facts = read::process(role, pid)?;
        let root = path::directory(&format!("/proc/{pid}/root")).map_err(kernel)?;
        // It had this number all the time if it has it still.
        if pidfd::has_ended(&pidfd).map_err(kernel)? {
            return Err(PlaceError::Ended(pid));
        }
        let cgroup = cgroup::find(&facts.cgroups);
        let proc = path::directory("/proc").map_err(kernel)?;
        let module = label::Module::running();
        Ok(Self { facts, landlock, cgroup, module, pidfd, root, proc })
    }

    /// Why a layer that may be there cannot even be tried.
    #[must_use]
    pub fn closed(&self, layer: Layer) -> Option<String> {
        match (layer, &self.cgroup, &self.facts.filters_error) {
            (Layer::Cgroup, Found::Unreachable(why), _) => Some(why.clone()),
            (Layer::Seccomp, _, Some(error)) => Some(format!("its filters could not be copied: {error}")),
            _ => None,
        }
    }

    /// The host's procfs.
    #[must_use]
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// Whether its processes are numbered apart, so that the numbers of the host mean others there.
    #[must_use]
    pub fn own_numbers(&self) -> bool {
        self.facts.namespaces.get("pid").is_some_and(|namespace| !namespace.host)
    }

    /// Whether the process has this layer at all, as far as can be known.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        match layer {
            Layer::Capabilities => self.facts.status.capabilities.effective != u64::MAX,
            Layer::Cgroup => !matches!(self.cgroup, Found::None),
            Layer::Ids => true,
            Layer::Label => self.facts.label.as_deref().is_some_and(|label| label != "unconfined"),
            Layer::Landlock => self.landlock.is_some(),
            Layer::Namespaces => self.facts.namespaces.values().any(|namespace| !namespace.host),
            Layer::Seccomp => self.facts.status.seccomp_mode != 0,
        }
    }

    /// Joins the cgroup of the process, which holds for children forked afterwards.
    pub fn join_cgroup(&self) -> io::Result<()> {
        match &self.cgroup {
            Found::Own(cgroup) => cgroup.enter(),
            Found::None => Ok(()),
            Found::Unreachable(_) => Err(io::ErrorKind::Unsupported.into()),
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
        let landlock = match self.landlock.as_ref().filter(|_| wants(Layer::Landlock)) {
            Some(spec) => Some(landlock::prepare(landlock::effective_abi(spec.abi), &rules(spec))?),
            None => None,
        };
        // A guest's label gives none of the rights that the steps before need; Landlock and the filters would keep
        // the attacker from asking for it.
        if let Some(text) = self.facts.label.as_deref().filter(|_| wants(Layer::Label)) {
            label::take_on(self.proc.as_fd(), self.module, text)?;
        }
        if let Some(ruleset) = landlock {
            enter::no_new_privs()?;
            ruleset.restrict_self()?;
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
                truncate: has(LandlockAccess::Names),
                names: has(LandlockAccess::Names),
                write_file: has(LandlockAccess::WriteFile),
            };
            (rule.path.as_str(), allow)
        })
        .collect()
}
