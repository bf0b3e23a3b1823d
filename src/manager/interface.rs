//! Network interfaces that come to a domain and leave it.

use super::definition::{SECURE, refused};
use super::edit::add_device;
use super::table::Live;
use super::{Definition, Impact, Manager, ManagerError, What};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::{Definition as Tree, Strictness};
use crate::conf::domain::Interface;
use crate::driver::{Plugging, draw, interface_mac, plan_interface};
use crate::privsep::ask::Ask;
use crate::privsep::plug::{Gone, Top};
use crate::privsep::request::Described;

/// One interface as a client describes it, in a definition that has nothing else.
pub(super) struct One {
    tree: Tree,
    pub(super) interface: Interface,
}

impl One {
    /// Reads a client's element.
    pub(super) fn read(xml: &str) -> Result<Self, ManagerError> {
        let element = Tree::device(xml).map_err(refused)?;
        let carrier = format!(
            "<domain type='qemu'><name>x</name><memory>65536</memory><os><type>hvm</type></os><devices>{element}</devices></domain>"
        );
        Self::of(Tree::parse(carrier.as_bytes(), Strictness::Lenient).map_err(refused)?.0)
    }

    fn of(tree: Tree) -> Result<Self, ManagerError> {
        let mut interfaces = tree.domain().map_err(refused)?.devices.interfaces.into_iter();
        match (interfaces.next(), interfaces.next()) {
            (Some(interface), None) => Ok(Self { tree, interface }),
            _ => Err(ManagerError::Argument("the device is not one network interface".into())),
        }
    }

    /// The same with an address of the network, one of QEMU's own that nobody has, where it has none.
    fn named(mut self) -> Result<Self, ManagerError> {
        let [a, b, c, ..] = draw().to_be_bytes();
        self.tree.set_interface_mac(0, [0x52, 0x54, 0x00, a, b, c]);
        Self::of(self.tree)
    }

    /// The element alone.
    fn text(&self) -> Result<String, ManagerError> {
        let text = self.tree.format(SECURE);
        let cut = text.find("<interface").and_then(|from| {
            const END: &str = "</interface>";
            let to = text.find(END)? + END.len();
            text.get(from..to).map(str::to_owned)
        });
        cut.ok_or_else(|| ManagerError::Argument("the device is not one network interface".into()))
    }
}

/// Whether a client's device is an interface.
#[must_use]
pub fn is_interface(xml: &str) -> bool {
    let name = |element: &str| {
        element.strip_prefix("<interface").map(|rest| rest.starts_with([' ', '>', '/', '\n', '\t', '\r']))
    };
    Tree::device(xml).ok().and_then(name).unwrap_or(false)
}

/// Which of a domain's interfaces is meant.
#[derive(Clone, Copy, Debug)]
pub enum InterfaceName<'a> {
    /// The one with this alias, of what runs.
    Alias(&'a str),
    /// The one that an element describes: by its address of the network, or the only one.
    Xml(&'a str),
}

impl Live {
    /// The aliases of its interfaces, in the order of its definition.
    pub(super) fn interface_aliases(&self) -> Vec<String> {
        let known = &self.runtime.running.interfaces;
        if !known.is_empty() {
            return known.clone();
        }
        let count = self.definition.as_ref().and_then(|definition| definition.interfaces().ok()).unwrap_or(0);
        (0..count).map(|at| format!("net{at}")).collect()
    }
}

/// The aliases of the interfaces of what runs, of which so many were there at the start.
pub(super) fn aliases_of(started: usize, described: &Described) -> Vec<String> {
    let gone = |alias: &String| described.gone.iter().any(|gone| !gone.medium && gone.alias == *alias);
    let there = (0..started).map(|at| format!("net{at}")).filter(|alias| !gone(alias));
    let plugged = described.plugs.iter().filter(|plug| matches!(plug.steps.top, Top::Interface { .. }));
    there.chain(plugged.map(|plug| plug.alias.clone())).collect()
}

/// Takes those that have gone out of what a domain was started with.
pub(super) fn without_gone(tree: &mut Tree, described: &Described) {
    let place = |gone: &Gone| gone.alias.strip_prefix("net")?.parse::<usize>().ok();
    let mut places: Vec<usize> = described.gone.iter().filter_map(place).collect();
    places.sort_unstable();
    for at in places.into_iter().rev() {
        tree.remove_interface(at);
    }
}

/// The addresses of a definition's interfaces. `aliases` are those of what runs; what is kept is numbered from 0.
pub(super) fn addresses(
    uuid: DomainUuid,
    definition: &Definition,
    aliases: &[String],
) -> Result<Vec<[u8; 6]>, ManagerError> {
    let interfaces = definition.to_start()?.devices.interfaces;
    let number = |at: usize| aliases.get(at).and_then(|alias| alias.strip_prefix("net")?.parse().ok());
    let address =
        |(at, interface): (usize, &Interface)| interface_mac(uuid, interface, number(at).unwrap_or(at));
    Ok(interfaces.iter().enumerate().map(address).collect())
}

/// Removes an interface.
fn without(tree: &mut Tree, at: usize) -> Result<(), ManagerError> {
    tree.remove_interface(at);
    Ok(())
}

fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The place of the interface that an element describes.
pub(super) fn place(wanted: &One, all: &[[u8; 6]]) -> Result<usize, ManagerError> {
    match (wanted.interface.mac, all) {
        (Some(mac), _) => all.iter().position(|other| *other == mac).ok_or_else(|| {
            ManagerError::NoDevice(format!("no device matching MAC address {} found", shown(mac)))
        }),
        (None, [_]) => Ok(0),
        (None, []) => Err(ManagerError::NoDevice("the domain has no network interface".into())),
        (None, _) => {
            Err(ManagerError::Failed("multiple devices matching this one: name it by its <mac>".into()))
        }
    }
}

impl Manager {
    /// Adds an interface. Whoever calls holds the domain's job.
    pub(super) fn attach_interface(
        &self,
        uuid: DomainUuid,
        xml: &str,
        impact: Impact,
    ) -> Result<(), ManagerError> {
        let one = One::read(xml)?.named()?;
        let text = one.text()?;
        let free = |all: &[[u8; 6]]| match one.interface.mac.filter(|mac| all.contains(mac)) {
            None => Ok(()),
            Some(mac) => {
                let told = format!("network device with mac {} already exists", shown(mac));
                Err(ManagerError::state(&told))
            }
        };
        // What cannot be kept is not plugged in either.
        if impact.config {
            let kept = self.kept(&self.by_uuid(uuid)?)?;
            free(&addresses(uuid, &kept, &[])?)?;
            kept.edited(|tree| add_device(tree, &text))?.to_start()?;
            self.may_edit(uuid, |tree| add_device(tree, &text))?;
        }
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            free(&addresses(uuid, live.definition.as_ref().ok_or_else(lacks)?, &live.interface_aliases())?)?;
            self.plug_interface(uuid, one)?;
        }
        if impact.config {
            self.edit(uuid, |tree| add_device(tree, &text))?;
        }
        Ok(())
    }

    fn plug_interface(&self, uuid: DomainUuid, mut one: One) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let mut domain = self.started(uuid)?;
        domain.devices.interfaces.push(one.interface.clone());
        let mut labeller = self.core.labeller(&self.settings)?;
        let described = labeller.describe(uuid)?;
        let plugging = Plugging {
            domain: &domain,
            uuid,
            described: &described,
            medium: false,
            force: false,
            files: &Files::ALL,
        };
        let (mut plug, place) = plan_interface(&mut labeller, &plugging, &self.facts, &self.settings)?;
        if let Some((bus, slot)) = place {
            one.tree.set_interface_place(0, bus, slot);
        }
        plug.note = one.text()?;
        let (alias, note) = (plug.alias.clone(), plug.note.clone());
        // What was noted of one before it that had this alias is not this one's.
        self.note_link(&live, &alias, None)?;
        self.sure(uuid, labeller.plug(uuid, plug).map_err(Into::into))?;
        // First of all it is shown: QEMU has it, whatever becomes of its cable.
        let mut aliases = live.interface_aliases();
        aliases.push(alias.clone());
        self.replace_live(uuid, Some(aliases), |tree| add_device(tree, &note))?;
        if let Ok(domain) = self.by_uuid(uuid) {
            self.tell_what(&domain, What::DeviceAdded(alias.clone()));
        }
        if !one.interface.link_down {
            return Ok(());
        }
        let down = self.ask(uuid, Ask::Link { alias: alias.clone(), up: false });
        down.map(drop).inspect_err(|_| self.take_back(uuid, alias))
    }

    /// Takes out again what was plugged in and is not as it was asked for. What a guest does not let go is still shown.
    pub(super) fn take_back(&self, uuid: DomainUuid, alias: String) {
        let which = Gone { alias: alias.clone(), medium: false };
        match self.unplug(uuid, which, false) {
            Ok(true) => self.unplugged(uuid, &alias),
            Ok(false) => {}
            Err(error) => tracing::error!(%uuid, alias, %error, "it is there, and was to be taken out again"),
        }
    }

    /// Takes an interface out.
    pub fn detach_interface(
        &self,
        uuid: DomainUuid,
        name: InterfaceName<'_>,
        impact: Impact,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainDetachDevice")?;
        let found = |definition: &Definition, aliases: &[String]| match name {
            InterfaceName::Xml(xml) => place(&One::read(xml)?, &addresses(uuid, definition, aliases)?),
            InterfaceName::Alias(alias) => aliases
                .iter()
                .position(|other| other == alias)
                .ok_or_else(|| ManagerError::NoDevice(format!("no device found with alias {alias}"))),
        };
        let kept = if impact.config {
            let definition = self.definition(&domain)?;
            let count = definition.interfaces()?;
            let at = found(&definition, &(0..count).map(|at| format!("net{at}")).collect::<Vec<_>>())?;
            self.may_edit(uuid, |tree| without(tree, at))?;
            Some(at)
        } else {
            None
        };
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            let aliases = live.interface_aliases();
            let at = found(live.definition.as_ref().ok_or_else(lacks)?, &aliases)?;
            let alias = aliases.get(at).cloned().unwrap_or_default();
            let which = Gone { alias: alias.clone(), medium: false };
            if self.unplug(uuid, which, false)? {
                self.unplugged(uuid, &alias);
            }
        }
        if let Some(at) = kept {
            self.edit(uuid, |tree| without(tree, at))?;
        }
        Ok(())
    }

    /// An interface is gone from a domain: it is not shown any longer. `false` where the alias is none's.
    pub(super) fn interface_gone(&self, uuid: DomainUuid, live: &Live, alias: &str) -> bool {
        let mut aliases = live.interface_aliases();
        let Some(at) = aliases.iter().position(|other| other == alias) else { return false };
        aliases.remove(at);
        let removed = self.replace_live(uuid, Some(aliases), |tree| without(tree, at));
        if let Err(error) = removed {
            tracing::error!(%uuid, alias, %error, "a device that is gone is still shown");
        }
        true
    }
}
