//! The SCSI controller that comes with the first SCSI disk of a domain that runs, as libvirt brings it.
//!
//! It stays when the disk goes. Only where the disk is refused it is taken out again.

use super::table::Live;
use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::driver::{Labeller, Plugging, plan_controller};
use crate::privsep::plug::SCSI;

impl Manager {
    /// Plugs the controller in that the new disk needs and the domain lacks; tells whether there was one to plug in.
    /// Whoever calls holds the domain's job.
    pub(super) fn bring_controller(
        &self,
        labeller: &mut Labeller,
        plugging: &Plugging<'_>,
    ) -> Result<bool, ManagerError> {
        let Some((mut plug, place)) = plan_controller(plugging)? else { return Ok(false) };
        let place = place.map_or_else(String::new, |(bus, slot)| super::plug::pci_address(bus, slot));
        plug.note = format!("<controller type='scsi' index='0' model='virtio-scsi'>{place}</controller>");
        let note = plug.note.clone();
        self.sure(plugging.uuid, labeller.plug(plugging.uuid, plug).map_err(Into::into))?;
        self.replace_live(plugging.uuid, None, |tree| {
            *tree = tree.with_device(&note).map_err(super::definition::refused)?;
            Ok(())
        })?;
        Ok(true)
    }

    /// Takes the controller out whose disk was refused. One that the guest does not let go is still shown.
    pub(super) fn take_controller_back(&self, uuid: DomainUuid) {
        self.take_back(uuid, SCSI.to_owned());
    }

    /// The controller is gone: it is not shown any longer. `false` where the alias is not its own.
    pub(super) fn controller_gone(&self, uuid: DomainUuid, alias: &str) -> bool {
        if alias != SCSI {
            return false;
        }
        let removed = self.replace_live(uuid, None, |tree| {
            tree.remove_scsi_controller();
            Ok(())
        });
        if let Err(error) = removed {
            tracing::error!(%uuid, alias, %error, "a device that is gone is still shown");
        }
        true
    }

    /// Whether this is the controller of a domain that was started without one.
    pub(super) fn is_brought(live: &Live, alias: &str) -> bool {
        use crate::conf::domain::ControllerModel;
        let (Some(started), Some(now)) = (&live.runtime.started, &live.definition) else { return false };
        let has = |definition: &super::Definition| {
            definition.to_start().is_ok_and(|domain| {
                domain.devices.controllers.iter().any(|one| one.model == ControllerModel::VirtioScsi)
            })
        };
        alias == SCSI && !has(started) && has(now)
    }
}
