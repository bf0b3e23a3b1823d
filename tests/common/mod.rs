//! What several integration tests share.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    dead_code,
    missing_docs,
    unreachable_pub
)]

pub mod plans;

use svirt::base::Refusal;
use svirt::plan::{ConfineInputs, Confined};
use svirt::privsep::confinement::{BpfInsn, Confinement, LandlockSpec, RootSpec, SeccompProgram};

/// A confinement of the right shape.
pub fn confine(inputs: ConfineInputs<'_>) -> Result<Confined, Refusal> {
    let seccomp = SeccompProgram(vec![BpfInsn(6, 0, 0, 0)]);
    Ok(Confined {
        confinement: Confinement {
            uid: inputs.uid,
            gid: inputs.uid,
            root: RootSpec { files: inputs.root_files, devices: vec![] },
            landlock: LandlockSpec { abi: inputs.host.landlock_abi, rules: vec![] },
            rlimits: vec![],
            selinux_exec: inputs.selinux_exec,
            seccomp: seccomp.clone(),
        },
        supervisor: seccomp,
    })
}
