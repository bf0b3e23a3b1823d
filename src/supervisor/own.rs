//! What the supervisor checks and gives up before it hears anybody.

use nix::unistd::{getgroups, getresgid, getresuid};

use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::SupervisorSpec;
use crate::sys::{landlock, process, seccomp};

/// Confines this process further than its launcher did, or refuses to go on.
///
/// Every descriptor must be in place: no path can be opened afterwards. The filter is loaded last.
pub(super) fn confine(spec: &SupervisorSpec) -> Result<(), Refusal> {
    process::set_dumpable(false).map_err(|error| failed("make itself non-dumpable", &error))?;
    ids(spec.uid)?;
    no_capabilities()?;
    match nix::sys::prctl::get_no_new_privs() {
        Ok(true) => {}
        Ok(false) => return Err(launcher("no_new_privs", "it is not set")),
        Err(error) => return Err(failed("read no_new_privs", &error)),
    }
    landlock::restrict_to_nothing().map_err(|error| failed("restrict itself with Landlock", &error))?;
    if spec.seccomp.0.is_empty() {
        return Err(launcher("the supervisor's filter", "the plan has none"));
    }
    let program: Vec<seccomp::Instruction> = spec.seccomp.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
    seccomp::load(&program).map_err(|error| failed("load its filter", &error))
}

fn ids(uid: u32) -> Result<(), Refusal> {
    let uids = getresuid().map_err(|error| failed("read its uid", &error))?;
    let gids = getresgid().map_err(|error| failed("read its gid", &error))?;
    let groups = getgroups().map_err(|error| failed("read its groups", &error))?;
    let found = [uids.real, uids.effective, uids.saved].map(nix::unistd::Uid::as_raw);
    let found_groups = [gids.real, gids.effective, gids.saved].map(nix::unistd::Gid::as_raw);
    if uid == 0 || found != [uid; 3] || found_groups != [uid; 3] {
        return Err(launcher(
            "its uid and gid",
            &format!("they are {found:?} and {found_groups:?}, not {uid}"),
        ));
    }
    if groups.iter().any(|group| group.as_raw() != uid) {
        return Err(launcher("its groups", &format!("it has {} supplementary ones", groups.len())));
    }
    Ok(())
}

fn no_capabilities() -> Result<(), Refusal> {
    use caps::CapSet::{Ambient, Bounding, Effective, Inheritable, Permitted};
    for set in [Effective, Permitted, Inheritable, Bounding, Ambient] {
        let held = caps::read(None, set).map_err(|error| failed("read its capabilities", &error))?;
        if !held.is_empty() {
            return Err(launcher("its capabilities", &format!("the {set:?} set holds {}", held.len())));
        }
    }
    Ok(())
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(
        Layer::Kernel,
        "start",
        "the supervisor",
        format!("it cannot {what}: {error}"),
        "see the kernel log",
    )
}

fn launcher(what: &str, rule: &str) -> Refusal {
    Refusal::new(
        Layer::Policy,
        "start",
        "the supervisor",
        format!("{what}: {rule}"),
        "svirt-supervisor is started by svirt-labeller only, which drops every privilege first",
    )
}
