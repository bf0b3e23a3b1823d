//! Ports of the one USB controller: what the definition says first, then the rest in its order.

use std::collections::BTreeSet;

use super::pci::{Fit, Plug};
use super::{Args, Object};
use crate::conf::domain::{Controller, ControllerModel, DiskBus, Domain, InputBus, UsbModel, UsbPort};
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

/// The controller that the definition names.
fn named(domain: &Domain) -> Option<&Controller> {
    let is = |controller: &&Controller| match controller.model {
        ControllerModel::Xhci { .. } => true,
        ControllerModel::Usb(model) => !matches!(model, UsbModel::Ich9Uhci { .. }),
        _ => false,
    };
    domain.devices.controllers.iter().find(is)
}

/// The controller and its companions, where one is named or a device needs one.
pub(super) fn controllers(args: &mut Args, domain: &Domain) {
    let Some(first) = named(domain) else {
        if devices(domain).count() > 0 {
            let object = xhci(Some(PORTS.1));
            args.pci(object, Plug::new("usb", None, Fit::Express, 0));
        }
        return;
    };
    let (object, fit) = match first.model {
        ControllerModel::Usb(UsbModel::Piix3Uhci) => (Object::new("driver", "piix3-usb-uhci"), Fit::Fixed),
        ControllerModel::Usb(_) => (Object::new("driver", "ich9-usb-ehci1"), Fit::Fixed),
        ControllerModel::Xhci { ports } => (xhci(ports), Fit::Express),
        _ => return,
    };
    let object = if fit == Fit::Fixed { object.with("id", "usb") } else { object };
    args.pci(object, Plug::new("usb", first.address, fit, first.line));
    for companion in &domain.devices.controllers {
        let ControllerModel::Usb(UsbModel::Ich9Uhci { number, first_port }) = companion.model else {
            continue;
        };
        let object = Object::new("driver", format!("ich9-usb-uhci{number}"))
            .with("masterbus", "usb.0")
            .with("firstport", first_port);
        args.pci(object, Plug::new(format!("uhci{number}"), companion.address, Fit::Fixed, companion.line));
    }
}

/// USB 2 and USB 3 ports are counted apart; a device of either kind finds one.
fn xhci(ports: Option<u8>) -> Object {
    Object::new("driver", "qemu-xhci").with("id", "usb").maybe("p2", ports).maybe("p3", ports)
}

/// How many ports it has.
fn most(domain: &Domain) -> u8 {
    match named(domain).map(|controller| controller.model) {
        None => PORTS.1,
        Some(ControllerModel::Usb(UsbModel::Piix3Uhci)) => 2,
        Some(ControllerModel::Usb(_)) => 6,
        Some(ControllerModel::Xhci { ports }) => ports.unwrap_or(PORTS.0),
        Some(_) => 0,
    }
}

impl Ports {
    pub(super) fn of(domain: &Domain) -> Self {
        Self { taken: devices(domain).flatten().map(|port| port.0).collect(), most: most(domain) }
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
