//! What an ordinary user's daemon needs for `qemu:///session`: a labeller in a user namespace, a store, and a view of
//! the host that has nothing in it which only root can give.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::start::{DATABASE, ServerError, step};
use crate::conf::facts::HostFacts;
use crate::driver::{Labeller, OnDemand, PROGRAM, find_labeller};
use crate::settings::Settings;
use crate::store::{Contents, Opened, Store};

/// Finds the session's labeller or starts one, and holds a connection to it; a sentence where there can be none.
pub(super) fn labeller(settings: &Settings, config: Option<&str>) -> Result<Labeller, String> {
    if let Some(labeller) = running(settings) {
        return Ok(labeller);
    }
    let log = Path::new(&settings.paths.run).join("labeller.log");
    let wrong = |error: std::io::Error| format!("cannot start {PROGRAM}: {error}");
    let program = find_labeller(settings).map_err(wrong)?;
    let program = program.map_err(|_| format!("{PROGRAM} is not installed beside svirtd"))?;
    let config = config.map(Path::new);
    OnDemand { program: &program, config, session: true, log: &log }.start().map_err(wrong)?;
    running(settings).ok_or_else(|| {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last = text.lines().last().unwrap_or("it does not serve");
        last.strip_prefix("svirt-labeller: ").unwrap_or(last).to_owned()
    })
}

/// A connection to a labeller that answers.
fn running(settings: &Settings) -> Option<Labeller> {
    let mut labeller = Labeller::connect(settings).ok()?;
    labeller.survey().ok().map(|_| labeller)
}

/// The user's definitions.
pub(super) fn store(settings: &Settings) -> Result<(Opened, Contents), ServerError> {
    let directory = Path::new(&settings.daemon.store);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(step("make the store's directory"))?;
    Ok(Store::open(&directory.join(DATABASE))?)
}

/// Leaves out what only root can give: labels of the kernel's modules, and the group that opens `/dev/kvm`.
pub(super) fn narrow(facts: &mut HostFacts) {
    facts.selinux = None;
    facts.apparmor = None;
    facts.kvm = false;
    facts.kvm_group = None;
}
