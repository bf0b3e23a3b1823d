//! Ports of the one USB controller: what the definition says first, then the rest in its order.

use std::collections::BTreeSet;

use crate::conf::domain::{ControllerModel, DiskBus, Domain, InputBus, UsbPort};
use crate::plan::PlanError;

/// QEMU's own number of ports, and the most that it can have.
const PORTS: (u8, u8) = (4, 15);

/// Ports that are not given out yet.
#[derive(Debug)]
pub(super) struct Ports {
    taken: BTreeSet<u8>,
    most: u8,
}

/// How many devices are on USB.
fn devices(domain: &Domain) -> impl Iterator<Item = Option<UsbPort>> {
    let devices = &domain.devices;
    let inputs = devices.inputs.iter().filter(|input| input.bus == InputBus::Usb).map(|input| input.port);
    let disks = devices.disks.iter().filter(|disk| disk.bus == DiskBus::Usb).map(|disk| disk.port);
    inputs.chain(disks).chain(devices.redirections.iter().map(|one| one.port))
}

/// The controller's number of ports where one is there or needed: `None` in it leaves the number to QEMU.
pub(super) fn controller(domain: &Domain) -> Option<Option<u8>> {
    let named = domain.devices.controllers.iter().find_map(|controller| match controller.model {
        ControllerModel::Xhci { ports } => Some(ports),
        _ => None,
    });
    named.or_else(|| (devices(domain).count() > 0).then_some(Some(PORTS.1)))
}

impl Ports {
    pub(super) fn of(domain: &Domain) -> Self {
        let most = controller(domain).flatten().unwrap_or(PORTS.0);
        Self { taken: devices(domain).flatten().map(|port| port.0).collect(), most }
    }

    /// The port of the next device.
    pub(super) fn next(
        &mut self,
        given: Option<UsbPort>,
        what: &str,
        line: u32,
    ) -> Result<String, PlanError> {
        let free = (1..=self.most).find(|port| !self.taken.contains(port));
        let port = given.map(|port| port.0).or(free).filter(|port| *port <= self.most);
        let Some(port) = port else {
            return Err(PlanError::definition(
                format!("{what} (line {line})"),
                format!("the USB controller has {} ports", self.most),
                "write ports='15' at <controller type='usb' model='qemu-xhci'>, or remove a device",
            ));
        };
        self.taken.insert(port);
        Ok(port.to_string())
    }
}
