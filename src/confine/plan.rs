//! The whole confinement of one device model as a value.

use super::{landlock, limits, select};
use crate::base::{Layer, Refusal};
use crate::conf::domain::{Domain, VirtType};
use crate::conf::facts::HostFacts;
use crate::filter::own;
use crate::privsep::confinement::{
    Confinement, RootFile, RootShare, RootShmem, RootSpec, SeccompProgram, landlock_missing,
};
use crate::privsep::op::DeviceNode;
use crate::profile;
use crate::settings::Settings;

/// What the confinement of one device model is made from.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The definition.
    pub domain: &'a Domain,
    /// The host.
    pub host: &'a HostFacts,
    /// The configuration.
    pub settings: &'a Settings,
    /// Its uid and gid.
    pub uid: u32,
    /// Its SELinux context, where SELinux is on.
    pub selinux_exec: Option<String>,
    /// Boot files that its root must show.
    pub root_files: Vec<RootFile>,
    /// Directories that its root must show, for 9p.
    pub shares: Vec<RootShare>,
    /// Memory of several guests that its root must show.
    pub shmems: Vec<RootShmem>,
    /// How many descriptors it inherits.
    pub fds: usize,
}

/// Computes a confinement and, by name, what the host lacks of it.
///
/// Refuses where the host lacks something and the configuration wants all or nothing. The same request gives the
/// same value. Capability sets are no choice and not in it: they are empty.
pub fn plan(request: Request<'_>) -> Result<(Confinement, Vec<String>), Refusal> {
    let policy = &request.settings.confinement;
    let degraded = landlock_missing(request.host.landlock_abi, policy.landlock_abi);
    if let (Some(first), false) = (degraded.first(), policy.degraded) {
        return Err(Refusal::new(
            Layer::Landlock,
            "start",
            request.domain.name.as_str(),
            format!("{first}; confinement.degraded is off"),
            "run a newer kernel, lower confinement.landlock_abi, or allow degraded starts",
        ));
    }
    let seccomp = profile::program(&select(request.domain)).map_err(|error| shipped(&error))?;
    let mut devices = vec![DeviceNode::Null];
    if request.domain.virt == VirtType::Kvm {
        devices.push(DeviceNode::Kvm);
    }
    devices.sort_unstable();
    let kvm = devices.contains(&DeviceNode::Kvm);
    let confinement = Confinement {
        uid: request.uid,
        gid: request.uid,
        groups: request.host.kvm_group.filter(|_| kvm).into_iter().collect(),
        landlock: landlock::spec(request.host.landlock_abi, &devices, &request.shares, &request.shmems),
        root: RootSpec { files: request.root_files, devices, shares: request.shares, shmems: request.shmems },
        rlimits: limits::rlimits(request.domain, request.fds, request.settings.host.enable_dump),
        selinux_exec: request.selinux_exec,
        seccomp,
    };
    Ok((confinement, degraded))
}

/// The supervisor's own filter.
pub fn supervisor_filter() -> Result<SeccompProgram, Refusal> {
    own::supervisor().map_err(|error| shipped(&error))
}

/// A shipped file that is wrong; tests keep this from happening.
fn shipped(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(
        Layer::Seccomp,
        "make the filter from",
        "labels/seccomp",
        error.to_string(),
        "report this: the fragments are compiled in and tested",
    )
}
