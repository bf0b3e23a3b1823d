//! QEMU's arguments, for versions 7.2 to 10: every resource a descriptor, every device a JSON object.
//!
//! No text of a definition reaches QEMU's option parser unescaped: devices are JSON, the name has its commas
//! doubled, CPU and machine names are held to letters and digits, and the kernel's command line is an argument
//! of its own that QEMU does not parse.

mod chardev;
mod device;
mod disk;
mod filesystem;
mod hardware;
mod machine;
mod pci;
mod shmem;
mod usb;

pub(super) use chardev::ports;
pub(super) use device::mac;
pub(super) use disk::{alias as disk_alias, is_direct, is_writable};

use serde_json::Value;

use super::PlanError;
use super::chain::Chain;
use super::firmware::Flash;
use crate::base::{DomainUuid, Slot};
use crate::conf::domain::{Controller, Domain};
use crate::privsep::op::FdGrant;

/// The first number that a descriptor gets in QEMU; lower ones stay free for the launcher's own.
const FIRST_FD: i32 = 10;

/// A command line and the descriptors that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments, the program's name first.
    pub argv: Vec<String>,
    /// The descriptors that it names, each with its number.
    pub fds: Vec<FdGrant>,
}

/// What a command line is made from.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The definition.
    pub domain: &'a Domain,
    /// The domain's uuid.
    pub uuid: DomainUuid,
    /// The context id of its vsock.
    pub cid: Option<u32>,
    /// The emulator's path.
    pub program: &'a str,
    /// The disks' layers, in the definition's order.
    pub chains: &'a [Chain],
    /// UEFI firmware.
    pub flash: Option<&'a Flash>,
    /// Whether a crash may leave the guest's memory in a core dump.
    pub dump: bool,
    /// Whether it is loaded from what was saved, once it is told to.
    pub incoming: bool,
}

/// Makes QEMU's command line.
pub fn argv(guest: &Guest<'_>) -> Result<CommandLine, PlanError> {
    let mut args = Args {
        argv: vec![guest.program.to_owned()],
        fds: Vec::new(),
        sets: 0,
        pci: Vec::new(),
        audio: String::new(),
    };
    machine::add(&mut args, guest)?;
    let boot = device::BootOrder::of(guest.domain);
    let mut ports = usb::Ports::of(guest.domain);
    hardware::controllers(&mut args, guest.domain);
    disk::add(&mut args, guest, &boot, &mut ports)?;
    device::add(&mut args, guest, &boot)?;
    filesystem::add(&mut args, guest)?;
    hardware::add(&mut args, guest, &mut ports)?;
    shmem::add(&mut args, guest);
    args.place(machine::board(&guest.domain.os.machine)?, &guest.domain.devices.controllers)?;
    Ok(CommandLine { argv: args.argv, fds: args.fds })
}

/// Whether a machine is a PC with PCI Express, where only ports take devices while it runs.
pub(super) fn is_q35(machine: &str) -> bool {
    machine::board(machine).is_ok_and(|board| board == machine::Board::Q35)
}

struct Args {
    argv: Vec<String>,
    fds: Vec<FdGrant>,
    sets: u32,
    /// PCI devices whose arguments wait for their places: where they stand, and what they ask for.
    pci: Vec<(usize, pci::Plug)>,
    /// The first audio back-end.
    audio: String,
}

impl Args {
    fn flag(&mut self, name: &str) {
        self.argv.push(name.to_owned());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.argv.push(name.to_owned());
        self.argv.push(value.into());
    }

    fn json(&mut self, name: &str, object: Object) {
        self.pair(name, object.0 + "}");
    }

    /// Adds a PCI device, whose place is found once all are known.
    fn pci(&mut self, object: Object, plug: pci::Plug) {
        self.pair("-device", object.0);
        self.pci.push((self.argv.len() - 1, plug));
    }

    /// Gives every PCI device its place.
    fn place(&mut self, board: machine::Board, controllers: &[Controller]) -> Result<(), PlanError> {
        let plugs: Vec<pci::Plug> = self.pci.iter().map(|(_, plug)| plug.clone()).collect();
        let places = pci::places(board, controllers, &plugs)?;
        for ((at, _), place) in self.pci.iter().zip(places) {
            let Some(argument) = self.argv.get_mut(*at) else { continue };
            let object = Object(std::mem::take(argument));
            let object = match place {
                None => object,
                Some(place) => {
                    let object = object.with("bus", place.bus).with("addr", place.addr);
                    if place.multifunction { object.with("multifunction", true) } else { object }
                }
            };
            *argument = object.0 + "}";
        }
        Ok(())
    }

    /// Grants a descriptor and tells its number.
    fn fd(&mut self, slot: Slot) -> i32 {
        let number = FIRST_FD + i32::try_from(self.fds.len()).unwrap_or(i32::MAX - FIRST_FD);
        self.fds.push(FdGrant { slot, number });
        number
    }

    /// Grants a descriptor as the only one of a new set and tells the set's file name.
    fn fdset(&mut self, slot: Slot) -> String {
        let note = slot.as_str().to_owned();
        let number = self.fd(slot);
        self.sets += 1;
        let set = self.sets;
        self.pair("-add-fd", format!("fd={number},set={set},opaque={note}"));
        format!("/dev/fdset/{set}")
    }
}

/// A JSON object whose keys keep their order, so that people find the driver first.
struct Object(String);

impl Object {
    fn new(key: &str, value: impl Into<Value>) -> Self {
        Self("{".to_owned()).with(key, value)
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let key: Value = key.into();
        self.0.push_str(&format!("{key}:{}", value.into()));
        self
    }

    fn maybe(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn nested(mut self, key: &str, object: Self) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let key: Value = key.into();
        self.0.push_str(&format!("{key}:{}}}", object.0));
        self
    }
}
