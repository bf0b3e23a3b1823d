//! Serial ports, consoles and channels.

use super::{Args, Object};
use crate::conf::domain::{CharDevice, CharSource, CharTarget, Domain};
use crate::plan::{PlanError, slots};

/// An x86 board's serial ports.
const SERIAL_MAX: usize = 4;

/// Every serial port, console and channel with libvirt's alias, in the order of the definition.
pub(in crate::plan) fn ports(domain: &Domain) -> impl Iterator<Item = (String, &CharDevice)> {
    let named = |name: &'static str| move |(index, device)| (format!("{name}{index}"), device);
    let devices = &domain.devices;
    let serials = devices.serials.iter().enumerate().map(named("serial"));
    let consoles = devices.consoles.iter().enumerate().map(named("console"));
    serials.chain(consoles).chain(devices.channels.iter().enumerate().map(named("channel")))
}

pub(super) fn add(args: &mut Args, domain: &Domain) -> Result<(), PlanError> {
    let mut serial = 0;
    // Port 0 is what a guest takes for its console.
    let mut virtio = 0;
    for (alias, port) in ports(domain) {
        if port.source == CharSource::SpiceVmc {
            args.pair("-chardev", format!("spicevmc,id=char{alias},name=vdagent"));
        } else {
            let fd = args.fd(slots::console(&alias, "")?);
            args.pair("-chardev", format!("socket,id=char{alias},fd={fd}"));
        }
        let object = match &port.target {
            CharTarget::IsaSerial if serial == SERIAL_MAX => {
                return Err(PlanError::definition(
                    format!("{alias} (line {})", port.line),
                    "a machine has at most four serial ports",
                    "use a console of type virtio",
                ));
            }
            CharTarget::IsaSerial => {
                serial += 1;
                Object::new("driver", "isa-serial")
                    .with("chardev", format!("char{alias}"))
                    .with("id", alias)
                    .with("index", serial - 1)
            }
            CharTarget::VirtioConsole => {
                let object = Object::new("driver", "virtconsole").with("bus", "virtio-serial0.0");
                object.with("chardev", format!("char{alias}")).with("id", alias)
            }
            CharTarget::Channel(name) => {
                virtio += 1;
                Object::new("driver", "virtserialport")
                    .with("bus", "virtio-serial0.0")
                    .with("nr", domain.devices.consoles.len() + virtio)
                    .with("chardev", format!("char{alias}"))
                    .with("id", alias)
                    .with("name", name.clone())
            }
        };
        args.json("-device", object);
    }
    Ok(())
}
