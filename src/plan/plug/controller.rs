//! The controller that a SCSI disk hangs on, for a domain that runs and was started without one.

use serde_json::Value;

use super::{Planned, argv, place, port, spawn};
use crate::base::DomainUuid;
use crate::conf::domain::{DiskBus, Domain};
use crate::plan::PlanError;
use crate::privsep::plug::{Plug, PlugSteps, SCSI, Top};
use crate::privsep::request::Described;

/// Plans it, where the last disk of the domain needs one and there is none; the plug's note is empty. It is a plug of its
/// own, so that a disk that is refused leaves nothing half done: whoever plugs takes the controller out again.
pub fn controller(
    domain: &Domain,
    uuid: DomainUuid,
    described: &Described,
) -> Result<Option<Planned>, PlanError> {
    let disk = domain.devices.disks.last().filter(|disk| disk.bus == DiskBus::Scsi);
    let Some(disk) = disk.filter(|_| !described.plugs.iter().any(|plug| plug.alias == SCSI)) else {
        return Ok(None);
    };
    let spawn = spawn(&described.plan)?;
    let is_one = |text: &String| {
        object(text).is_some_and(|object| object.get("id").and_then(Value::as_str) == Some(SCSI))
    };
    if spawn.argv.iter().any(is_one) {
        return Ok(None);
    }
    let Some(mut device) = argv(domain, uuid, spawn)?.iter().find(|text| is_one(text)).and_then(object)
    else {
        return Ok(None);
    };
    let what = format!("disk {}: its SCSI controller", disk.target);
    port(&mut device, &domain.os.machine, described, spawn, what)?;
    let place = place(&device);
    let top = Top::Device { object: device.to_string() };
    let steps = PlugSteps { alias: SCSI.into(), sets: Vec::new(), nodes: Vec::new(), top };
    Ok(Some((Plug { alias: SCSI.into(), ops: Vec::new(), steps, note: String::new() }, place)))
}

fn object(text: impl AsRef<str>) -> Option<Value> {
    serde_json::from_str(text.as_ref()).ok()
}
