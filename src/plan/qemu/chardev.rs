//! Serial ports, consoles and channels.

use std::collections::BTreeSet;

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
    let mut numbers = Numbers::of(domain);
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
                let object = Object::new("driver", "virtconsole")
                    .with("bus", "virtio-serial0.0")
                    .with("nr", numbers.next(port.port, 0));
                object.with("chardev", format!("char{alias}")).with("id", alias)
            }
            CharTarget::Channel(name) => Object::new("driver", "virtserialport")
                .with("bus", "virtio-serial0.0")
                .with("nr", numbers.next(port.port, 1))
                .with("chardev", format!("char{alias}"))
                .with("id", alias)
                .with("name", name.clone()),
        };
        args.json("-device", object);
    }
    Ok(())
}

/// Numbers of ports on the serial controller: what the definition says, then the next free one. A guest takes port 0 for
/// its console.
struct Numbers(BTreeSet<u8>);

impl Numbers {
    fn of(domain: &Domain) -> Self {
        let devices = &domain.devices;
        Self(devices.consoles.iter().chain(&devices.channels).filter_map(|port| port.port).collect())
    }

    fn next(&mut self, given: Option<u8>, least: u8) -> u8 {
        let number = given.or_else(|| (least..u8::MAX).find(|number| !self.0.contains(number)));
        let number = number.unwrap_or(u8::MAX);
        self.0.insert(number);
        number
    }
}
