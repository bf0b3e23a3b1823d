//! Places on PCI buses, as libvirt gives them out.
//!
//! Twice over the devices: the first time finds out which ports and bridges are lacking, the second, with those there,
//! gives out the places.

use std::collections::{BTreeMap, BTreeSet};

use super::Board;
use super::fit::{self, Fit, ORDER};
use crate::conf::definition::node::Node;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bridge,
    Other,
    Port,
    Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    bus: u8,
    slot: u8,
    function: u8,
}

const fn at(bus: u8, slot: u8, function: u8) -> Place {
    Place { bus, slot, function }
}

/// Buses and what is on them.
#[derive(Clone, Debug)]
struct Buses {
    board: Board,
    kinds: BTreeMap<u8, Kind>,
    /// Slots with something in them.
    used: BTreeSet<(u8, u8)>,
    /// Functions of slots that only root ports are in.
    shared: BTreeMap<u8, BTreeSet<u8>>,
    /// The slot whose functions are USB controllers of ICH9's.
    ehci: Option<u8>,
}

/// Adds what is lacking, and gives every device its place.
pub(super) fn fill(devices: &mut Node, board: Board) {
    let mut buses = Buses::of(devices, board);
    if board == Board::Q35 {
        let before = buses.kinds.len();
        for bus in buses.missing(devices) {
            buses.kinds.insert(bus, Kind::Port);
        }
        let mut trial = buses.clone();
        trial.rehearse(&wanted(devices, board));
        // A machine that was given no port by hand has one to spare for what is plugged in later.
        if before == 1 && trial.kinds.len() > before {
            trial.express();
        }
        buses.kinds = trial.kinds;
        controllers(devices, &buses.kinds);
    }
    let found = wanted(devices, board).into_iter().filter_map(|(index, fit)| Some((index, buses.find(fit)?)));
    let places: BTreeMap<usize, Place> = found.collect();
    for (index, device) in devices.children_mut().enumerate() {
        if let Some(place) = places.get(&index) {
            write(device, *place);
        }
    }
    ports(devices);
    functions(devices);
}

/// What devices are still to get, in the order in which they are served: the chip set's, PCI's own, the rest.
fn wanted(devices: &Node, board: Board) -> Vec<(usize, Fit)> {
    let mut first = BTreeSet::new();
    let mut all: Vec<(usize, usize, Fit)> = Vec::new();
    for (index, device) in devices.children().enumerate() {
        let first = first.insert(device.name());
        let other = |child: &Node| child.attribute("type").is_some_and(|kind| kind != "pci");
        if given(device).is_some() || device.child("address").is_some_and(other) {
            continue;
        }
        let Some(fit) = fit::of(device, board, first) else { continue };
        let stage = match fit {
            Fit::Own(..) | Fit::Primary => 0,
            Fit::Ehci(_) if board == Board::Q35 => 0,
            Fit::Bridge | Fit::Port => 1,
            _ => ORDER.iter().position(|kind| *kind == device.name()).map_or(usize::MAX, |stage| stage + 2),
        };
        all.push((stage, index, fit));
    }
    all.sort_by_key(|(stage, index, _)| (*stage, *index));
    all.into_iter().map(|(_, index, fit)| (index, fit)).collect()
}

/// The place that a device has; one that says only that it is on PCI has none.
fn given(device: &Node) -> Option<Place> {
    let address = device.child("address").filter(|address| address.attribute("type") == Some("pci"))?;
    let number = |name: &str| {
        let text = address.attribute(name).unwrap_or("0");
        u8::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let place = at(number("bus")?, number("slot")?, number("function")?);
    (place.bus != 0 || place.slot != 0).then_some(place)
}

impl Buses {
    fn of(devices: &Node, board: Board) -> Self {
        let mut kinds = BTreeMap::from([(0, Kind::Root)]);
        for controller in devices.all("controller").filter(|one| one.attribute("type") == Some("pci")) {
            let index = controller.attribute("index").and_then(|index| index.parse().ok());
            let kind = match controller.attribute("model") {
                Some("pcie-root-port") => Kind::Port,
                Some("pcie-to-pci-bridge") => Kind::Bridge,
                _ => Kind::Other,
            };
            if let Some(index) = index.filter(|index| *index > 0) {
                kinds.insert(index, kind);
            }
        }
        // The host bridge and the chip set.
        let own = if board == Board::Q35 { 0x1f } else { 1 };
        let used = BTreeSet::from([(0, 0), (0, own)]);
        let mut buses = Self { board, kinds, used, shared: BTreeMap::new(), ehci: None };
        for device in devices.children() {
            let Some(place) = given(device) else { continue };
            let port = place.bus == 0 && fit::of(device, board, false) == Some(Fit::Port);
            if port && (buses.shared.contains_key(&place.slot) || !buses.used.contains(&(0, place.slot))) {
                buses.shared.entry(place.slot).or_default().insert(place.function);
            } else {
                buses.shared.remove(&place.slot);
            }
            buses.used.insert((place.bus, place.slot));
        }
        buses
    }

    /// Buses below the highest that something names which nobody has described.
    fn missing(&self, devices: &Node) -> Vec<u8> {
        let named = devices.children().filter_map(given).map(|place| place.bus);
        let most = named.chain(self.kinds.keys().copied()).max().unwrap_or(0);
        (1..=most).filter(|bus| !self.kinds.contains_key(bus)).collect()
    }

    /// Finds places for everything, and adds ports and bridges where there are too few.
    fn rehearse(&mut self, wanted: &[(usize, Fit)]) {
        for (_, fit) in wanted {
            if self.find(*fit).is_some() {
                continue;
            }
            match fit {
                Fit::Bridge | Fit::Express => self.express(),
                Fit::Conventional | Fit::Own(..) => self.bridge(),
                _ => None,
            };
        }
    }

    /// A port for one more device, added if none is free.
    fn express(&mut self) -> Option<Place> {
        if let Some(place) = self.find(Fit::Express) {
            return Some(place);
        }
        let bus = self.grow(Kind::Port)?;
        self.take(at(bus, 0, 0))
    }

    /// A slot for one more conventional device, on a bridge that is added.
    fn bridge(&mut self) -> Option<Place> {
        self.express()?;
        let bus = self.grow(Kind::Bridge)?;
        self.take(at(bus, 1, 0))
    }

    fn grow(&mut self, kind: Kind) -> Option<u8> {
        let bus = self.kinds.keys().max()?.checked_add(1)?;
        self.kinds.insert(bus, kind);
        Some(bus)
    }

    fn take(&mut self, place: Place) -> Option<Place> {
        self.used.insert((place.bus, place.slot)).then_some(place)
    }

    /// A free place that suits, taken.
    fn find(&mut self, fit: Fit) -> Option<Place> {
        match (fit, self.board) {
            // The chip set's functions share a slot that nothing else is put into.
            (Fit::Own(slot @ (1 | 0x1f), function), _) => Some(at(0, slot, function)),
            (Fit::Own(slot, _), _) => self.take(at(0, slot, 0)).or_else(|| self.find(Fit::Conventional)),
            (Fit::Primary, board) => {
                let slot = if board == Board::Q35 { 1 } else { 2 };
                self.take(at(0, slot, 0)).or_else(|| self.slot())
            }
            (Fit::Ehci(function), board) => {
                let slot = match self.ehci {
                    Some(slot) => slot,
                    None => self.ehci_slot(board)?,
                };
                self.ehci = Some(slot);
                Some(at(0, slot, function))
            }
            (Fit::Port, _) => self.function(),
            (_, Board::I440fx) => self.slot(),
            (Fit::Express | Fit::Bridge, Board::Q35) => {
                let free = |(bus, kind): (&u8, &Kind)| {
                    (*kind == Kind::Port && !self.used.contains(&(*bus, 0))).then_some(*bus)
                };
                let bus = self.kinds.iter().find_map(free)?;
                self.take(at(bus, 0, 0))
            }
            (Fit::Conventional, Board::Q35) => {
                let bridges = self.kinds.iter().filter(|(_, kind)| **kind == Kind::Bridge);
                let mut slots = bridges.flat_map(|(bus, _)| (1..=31).map(|slot| (*bus, slot)));
                let (bus, slot) = slots.find(|slot| !self.used.contains(slot))?;
                self.take(at(bus, slot, 0))
            }
        }
    }

    /// The slot that ICH9 has its USB controllers in, or its second, or a free one.
    fn ehci_slot(&mut self, board: Board) -> Option<u8> {
        let own: &[u8] = if board == Board::Q35 { &[0x1d, 0x1a] } else { &[] };
        let free = own.iter().find(|slot| !self.used.contains(&(0, **slot))).copied();
        match free {
            Some(slot) => self.take(at(0, slot, 0)),
            None => self.slot(),
        }
        .map(|place| place.slot)
    }

    /// A slot of the root bus.
    fn slot(&mut self) -> Option<Place> {
        let slot = (1..=31).find(|slot| !self.used.contains(&(0, *slot)))?;
        self.take(at(0, slot, 0))
    }

    /// A function of a slot that root ports share.
    fn function(&mut self) -> Option<Place> {
        let free = |(slot, functions): (&u8, &BTreeSet<u8>)| {
            let function = (0..8).find(|function| !functions.contains(function))?;
            Some(at(0, *slot, function))
        };
        let place = self.shared.iter().find_map(free).or_else(|| self.slot())?;
        self.shared.entry(place.slot).or_default().insert(place.function);
        Some(place)
    }
}

/// Adds the controllers that are not there.
fn controllers(devices: &mut Node, kinds: &BTreeMap<u8, Kind>) {
    let there: Vec<String> = devices
        .all("controller")
        .filter(|one| one.attribute("type") == Some("pci"))
        .filter_map(|one| one.attribute("index").map(str::to_owned))
        .collect();
    for (index, kind) in kinds {
        if there.contains(&index.to_string()) {
            continue;
        }
        let model = match kind {
            Kind::Port => "pcie-root-port",
            Kind::Bridge => "pcie-to-pci-bridge",
            Kind::Other | Kind::Root => continue,
        };
        let is = |child: &Node| child.name() == "controller" && child.attribute("type") == Some("pci");
        if let Some(new) = devices.add_behind("controller", is) {
            new.set("type", "pci");
            new.set("index", index.to_string());
            new.set("model", model);
        }
    }
}

fn write(device: &mut Node, place: Place) {
    let Some(address) = device.ensure("address") else { return };
    address.set("type", "pci");
    address.set("domain", "0x0000");
    address.set("bus", format!("{:#04x}", place.bus));
    address.set("slot", format!("{:#04x}", place.slot));
    address.set("function", format!("{:#x}", place.function));
}

/// What a port and a bridge are in QEMU, and a port's number: slot and function.
fn ports(devices: &mut Node) {
    for controller in devices.children_mut().filter(|child| child.name() == "controller") {
        let Some(index) = controller.attribute("index").map(str::to_owned) else { continue };
        let name = match controller.attribute("model") {
            Some("pcie-root-port") => "pcie-root-port",
            Some("pcie-to-pci-bridge") => "pcie-pci-bridge",
            _ => continue,
        };
        let place = given(controller);
        if let Some(model) = controller.ensure("model") {
            model.fill("name", name);
        }
        if name != "pcie-root-port" {
            continue;
        }
        if let (Some(place), Some(target)) = (place, controller.ensure("target")) {
            target.fill("chassis", &index);
            target.fill("port", &format!("{:#x}", place.slot << 3 | place.function));
        }
    }
}

/// Function 0 of a slot with others tells that there are others.
fn functions(devices: &mut Node) {
    let places: Vec<Place> = devices.children().filter_map(given).collect();
    for device in devices.children_mut() {
        let Some(place) = given(device).filter(|place| place.function == 0) else { continue };
        let more = |other: &Place| (other.bus, other.slot) == (place.bus, place.slot) && other.function > 0;
        if places.iter().any(more)
            && let Some(address) = device.child_mut("address")
        {
            address.fill("multifunction", "on");
        }
    }
}
