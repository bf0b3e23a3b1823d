//! Where PCI devices are plugged in.
//!
//! A definition that names neither ports nor addresses leaves it to QEMU, which takes the next free slot of the
//! machine's own bus. Any other gets every place here: first what it says, then the rest in its order. Devices that
//! may be unplugged go to root ports, one each, while there are free ones.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Board;
use crate::conf::domain::{Controller, ControllerModel, PciAddress};
use crate::plan::PlanError;

/// What a device asks of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A PCI Express device, best on a port of its own.
    Express,
    /// A part of the machine that is never unplugged, or a conventional device.
    Fixed,
    /// A root port: eight of them share a slot.
    Port,
}

/// One device that is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plug {
    /// Its alias.
    pub(super) id: String,
    /// What the definition says.
    pub(super) address: Option<PciAddress>,
    /// What it asks for.
    pub(super) fit: Fit,
    /// Line of the element.
    pub(super) line: u32,
}

impl Plug {
    pub(super) fn new(id: impl Into<String>, address: Option<PciAddress>, fit: Fit, line: u32) -> Self {
        Self { id: id.into(), address, fit, line }
    }
}

/// A place, in QEMU's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `bus`
    pub(super) bus: String,
    /// `addr`
    pub(super) addr: String,
    /// `multifunction`
    pub(super) multifunction: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bridge,
    Port,
    Root,
}

struct Buses {
    board: Board,
    kinds: BTreeMap<u8, Kind>,
    used: BTreeMap<(u8, u8, u8), String>,
    /// The slot on bus 0 whose functions root ports fill.
    shared: Option<u8>,
}

/// The places of all devices, in their order; `None` where QEMU chooses.
pub(super) fn places(
    board: Board,
    controllers: &[Controller],
    plugs: &[Plug],
) -> Result<Vec<Option<Place>>, PlanError> {
    let ports = controllers.iter().any(|controller| controller.model.is_bus());
    if !ports && plugs.iter().all(|plug| plug.address.is_none()) {
        return Ok(vec![None; plugs.len()]);
    }
    let mut buses = Buses::new(board, controllers);
    let mut places = vec![None; plugs.len()];
    for (plug, place) in plugs.iter().zip(&mut places) {
        if let Some(address) = plug.address {
            *place = Some(buses.given(plug, address)?);
        }
    }
    // Ports first: the devices after them are plugged into them.
    for wanted in [Fit::Port, Fit::Fixed, Fit::Express] {
        for (plug, place) in plugs.iter().zip(&mut places) {
            if plug.fit == wanted && place.is_none() {
                *place = Some(buses.free(plug)?);
            }
        }
    }
    Ok(places)
}

impl Buses {
    fn new(board: Board, controllers: &[Controller]) -> Self {
        let mut kinds = BTreeMap::from([(0, Kind::Root)]);
        for controller in controllers {
            match controller.model {
                ControllerModel::PcieRootPort { .. } => kinds.insert(controller.index, Kind::Port),
                ControllerModel::PcieToPciBridge => kinds.insert(controller.index, Kind::Bridge),
                _ => None,
            };
        }
        // The host bridge, and the chip set's own functions.
        let own: &[(u8, u8)] = match board {
            Board::Q35 => &[(0, 0), (0x1f, 0), (0x1f, 2), (0x1f, 3)],
            Board::I440fx => &[(0, 0), (1, 0), (1, 1), (1, 3)],
        };
        let used = own.iter().map(|(slot, function)| ((0, *slot, *function), "the chip set".to_owned()));
        Self { board, kinds, used: used.collect(), shared: None }
    }

    fn place(&self, address: PciAddress) -> Place {
        let bus = match (address.bus, self.board) {
            (0, Board::Q35) => "pcie.0".to_owned(),
            (index, _) => format!("pci.{index}"),
        };
        let addr = match address.function {
            0 => format!("{:#x}", address.slot),
            function => format!("{:#x}.{function:#x}", address.slot),
        };
        Place { bus, addr, multifunction: address.multifunction }
    }

    fn given(&mut self, plug: &Plug, address: PciAddress) -> Result<Place, PlanError> {
        let refuse = |rule: String, remedy: &str| {
            let object = format!("the <address> of {} (line {})", plug.id, plug.line);
            Err(PlanError::definition(object, rule, remedy))
        };
        let slots = match self.kinds.get(&address.bus) {
            None => {
                return refuse(
                    format!("there is no PCI controller of index {}", address.bus),
                    "add <controller type='pci' model='pcie-root-port'/> of this index, or remove the <address>",
                );
            }
            Some(Kind::Root) => 0..=31,
            Some(Kind::Port) => 0..=0,
            Some(Kind::Bridge) => 1..=31,
        };
        if !slots.contains(&address.slot) {
            return refuse(
                format!("bus {} has the slots {} to {}", address.bus, slots.start(), slots.end()),
                "give it another slot, or remove the <address>",
            );
        }
        if plug.fit == Fit::Port && address.bus != 0 {
            return refuse("a root port is on bus 0".into(), "write bus='0', or remove the <address>");
        }
        let key = (address.bus, address.slot, address.function);
        if let Some(other) = self.used.insert(key, plug.id.clone()) {
            return refuse(
                format!("{other} is there already"),
                "give it another one, or remove the <address>",
            );
        }
        Ok(self.place(address))
    }

    /// The first free place that suits.
    fn free(&mut self, plug: &Plug) -> Result<Place, PlanError> {
        let found = match plug.fit {
            // Root ports belong to a machine that may be given more while it runs.
            Fit::Express => self.port().or_else(|| self.slot()),
            Fit::Fixed => self.slot(),
            Fit::Port => self.function(),
        };
        let Some(address) = found else {
            return Err(PlanError::definition(
                format!("{} (line {})", plug.id, plug.line),
                "no PCI slot is free for it",
                "remove a device, or add <controller type='pci' model='pcie-root-port'/>",
            ));
        };
        self.used.insert((address.bus, address.slot, address.function), plug.id.clone());
        Ok(self.place(address))
    }

    fn port(&self) -> Option<PciAddress> {
        let taken: BTreeSet<u8> = self.used.keys().map(|(bus, _, _)| *bus).collect();
        let mut ports = self.kinds.iter().filter(|(_, kind)| **kind == Kind::Port).map(|(index, _)| *index);
        let bus = ports.find(|index| !taken.contains(index))?;
        Some(PciAddress { bus, slot: 0, function: 0, multifunction: false })
    }

    fn slot(&self) -> Option<PciAddress> {
        let taken: BTreeSet<u8> =
            self.used.keys().filter(|(bus, _, _)| *bus == 0).map(|(_, slot, _)| *slot).collect();
        let slot = (1..=31).find(|slot| !taken.contains(slot))?;
        Some(PciAddress { bus: 0, slot, function: 0, multifunction: false })
    }

    /// The next function of a slot that was begun for ports here, or a slot of its own.
    fn function(&mut self) -> Option<PciAddress> {
        let next = self.shared.and_then(|slot| {
            let function = (1..8).find(|function| !self.used.contains_key(&(0, slot, *function)))?;
            Some(PciAddress { bus: 0, slot, function, multifunction: false })
        });
        if next.is_some() {
            return next;
        }
        let first = self.slot().map(|address| PciAddress { multifunction: true, ..address });
        self.shared = first.map(|address| address.slot);
        first
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn port(index: u8) -> Controller {
        let model = ControllerModel::PcieRootPort { chassis: None, port: None, hotplug: true };
        Controller { model, index, address: None, line: 1 }
    }

    fn at(bus: u8, slot: u8, function: u8) -> Option<PciAddress> {
        Some(PciAddress { bus, slot, function, multifunction: false })
    }

    fn placed(controllers: &[Controller], plugs: &[Plug]) -> Result<Vec<(String, String)>, String> {
        let places = places(Board::Q35, controllers, plugs).map_err(|error| error.to_string())?;
        Ok(places.into_iter().map(|place| place.map(|p| (p.bus, p.addr)).unwrap_or_default()).collect())
    }

    #[test]
    fn qemu_chooses_where_nothing_is_said() {
        let plugs = [Plug::new("net0", None, Fit::Express, 1)];
        assert_eq!(placed(&[], &plugs).unwrap(), [(String::new(), String::new())]);
    }

    #[test]
    fn ports_share_slots_and_express_devices_get_one_each() {
        let controllers: Vec<Controller> = (1..=9).map(port).collect();
        let mut plugs: Vec<Plug> =
            (1..=9).map(|index| Plug::new(format!("pci.{index}"), None, Fit::Port, 1)).collect();
        plugs.push(Plug::new("net0", None, Fit::Express, 1));
        plugs.push(Plug::new("video0", None, Fit::Fixed, 1));
        plugs.push(Plug::new("rng0", at(1, 0, 0), Fit::Express, 1));
        let got = placed(&controllers, &plugs).unwrap();
        let text: Vec<String> = got.iter().map(|(bus, addr)| format!("{bus} {addr}")).collect();
        assert_eq!(text[0], "pcie.0 0x1");
        assert_eq!(text[7], "pcie.0 0x1.0x7");
        assert_eq!(text[8], "pcie.0 0x2");
        assert_eq!(text[9..], ["pci.2 0x0", "pcie.0 0x3", "pci.1 0x0"]);
    }

    #[test]
    fn places_that_are_not_there_or_taken_are_refused() {
        let net = |address| vec![Plug::new("net0", address, Fit::Express, 7)];
        for (plugs, word) in [
            (net(at(2, 0, 0)), "no PCI controller of index 2"),
            (net(at(1, 1, 0)), "slots 0 to 0"),
            (net(at(0, 0, 0)), "the chip set is there"),
            ([net(at(0, 3, 0)), net(at(0, 3, 0))].concat(), "net0 is there"),
        ] {
            let error = placed(&[port(1)], &plugs).unwrap_err();
            assert!(error.contains(word) && error.contains("line 7"), "{error}");
        }
        let many: Vec<Plug> = (0..40).map(|n| Plug::new(format!("d{n}"), None, Fit::Fixed, 9)).collect();
        assert!(placed(&[port(1)], &many).unwrap_err().contains("no PCI slot is free"));
    }
}
