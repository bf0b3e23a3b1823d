//! The operations for memory that several guests share: a file in a directory that only root may enter, mounted alone
//! into the root of each domain that names it.

use super::{PlanError, slots};
use crate::base::{Layer, Refusal};
use crate::conf::domain::Domain;
use crate::privsep::confinement::RootShmem;
use crate::privsep::op::Op;
use crate::security::decide::{Model, Stack};
use crate::security::resource::{Kind, Resource};
use crate::settings::Settings;

/// libvirt's alias of a region.
pub(super) fn alias(index: usize) -> String {
    format!("shmem{index}")
}

/// Where a region lies on the host.
pub(super) fn path(name: &str, settings: &Settings) -> String {
    format!("{}/{name}", settings.shmem.place.trim_end_matches('/'))
}

/// Plans every region.
pub(super) fn plan(
    domain: &Domain,
    settings: &Settings,
    resources: &[Resource],
    stack: &[Stack<'_>],
) -> Result<(Vec<Op>, Vec<RootShmem>), PlanError> {
    let (mut opens, mut root) = (Vec::new(), Vec::new());
    for (index, shmem) in domain.devices.shmems.iter().enumerate() {
        let refuse = |layer, rule: String, remedy: &str| {
            let object = format!("<shmem> {} (line {})", shmem.name, shmem.line);
            PlanError::from(Refusal::new(layer, "plan the start with", object, rule, remedy))
        };
        if shmem.size > settings.shmem.size {
            let rule = format!("shmem.size is {} bytes, and it has {}", settings.shmem.size, shmem.size);
            return Err(refuse(Layer::Configuration, rule, "make it smaller, or raise size in [shmem]"));
        }
        let slot = slots::console(&alias(index), "memory")?;
        let selinux_label = label(&shmem.name, resources, stack)?;
        let name = shmem.name.clone();
        opens.push(Op::OpenShmem { slot: slot.clone(), name, size: shmem.size, selinux_label });
        root.push(RootShmem { slot, number: u8::try_from(index).unwrap_or(u8::MAX) });
    }
    Ok((opens, root))
}

/// The label that SELinux gives a region when it is made.
fn label(name: &str, resources: &[Resource], stack: &[Stack<'_>]) -> Result<Option<String>, PlanError> {
    let is_it = |kind: &Kind| matches!(kind, Kind::Shmem(of) if of == name);
    let region = resources.iter().find(|resource| is_it(&resource.kind));
    let model = stack.iter().find(|model| model.model() == Model::Selinux);
    let (Some(region), Some(model)) = (region, model) else { return Ok(None) };
    Ok(model.decide(region)?.label)
}
