//! Network interfaces of what runs, and their cables.

use super::definition::refused;
use super::interface::{One, addresses, place};
use super::table::Live;
use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::conf::domain::{Interface, InterfaceBackend};
use crate::privsep::ask::Ask;
use crate::store;

/// What is noted of a link that was changed is called this and the interface's alias.
const NOTE: &str = "link:";

/// An interface of a domain that runs, as calls name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceHere {
    /// Its address of the network.
    pub mac: [u8; 6],
    /// Its device on the host; none where its packets go to a helper.
    pub device: Option<String>,
}

impl Definition {
    /// What runs of a definition, with the cables as they were put since; `noted` is what was noted of that.
    pub(super) fn with_links(self, noted: &[(String, String)], aliases: &[String]) -> Self {
        let changed: Vec<(usize, bool)> = noted
            .iter()
            .filter_map(|(name, state)| {
                let alias = name.strip_prefix(NOTE)?;
                Some((aliases.iter().position(|other| other == alias)?, state == "up"))
            })
            .collect();
        if changed.is_empty() {
            return self;
        }
        let edited = self.edited(|tree| {
            changed.iter().for_each(|(at, up)| tree.set_interface_link(*at, *up));
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

impl Live {
    /// The name of the host's device of an interface.
    fn device(&self, alias: &str, interface: &Interface) -> Option<String> {
        if let InterfaceBackend::Tap(name) = &interface.backend {
            return Some(name.clone());
        }
        let made = self.listening.iter().find(|(name, _)| name == alias);
        made.map(|(_, device)| device.clone())
    }

    /// How a link was put since the start, where it was.
    fn noted_link(&self, alias: &str) -> Option<bool> {
        let name = format!("{NOTE}{alias}");
        self.listening.iter().find(|(other, _)| *other == name).map(|(_, state)| state == "up")
    }

    /// Its interfaces, in the order of its definition.
    pub fn interfaces(&self, uuid: DomainUuid) -> Result<Vec<InterfaceHere>, ManagerError> {
        let Some(definition) = &self.definition else { return Ok(Vec::new()) };
        let aliases = self.interface_aliases();
        let macs = addresses(uuid, definition, &aliases)?;
        let all = definition.to_start()?.devices.interfaces;
        let here = all.iter().zip(macs).enumerate().map(|(at, (interface, mac))| InterfaceHere {
            mac,
            device: aliases.get(at).and_then(|alias| self.device(alias, interface)),
        });
        Ok(here.collect())
    }
}

/// Whether two interfaces differ in nothing but their links. What the new one leaves out, the old one has.
fn same_but_link(old: &Interface, new: &Interface, mac: [u8; 6], device: Option<&str>) -> bool {
    let mut new = Interface { link_down: old.link_down, line: old.line, ..new.clone() };
    new.mac = new.mac.or(Some(mac));
    new.address = new.address.or(old.address);
    if let (
        InterfaceBackend::Bridge { target, .. } | InterfaceBackend::DefaultNetwork { target },
        InterfaceBackend::Bridge { target: before, .. } | InterfaceBackend::DefaultNetwork { target: before },
    ) = (&mut new.backend, &old.backend)
        && (target.is_none() || target.as_deref() == device)
    {
        target.clone_from(before);
    }
    new == Interface { mac: Some(mac), ..old.clone() }
}

impl Manager {
    /// The interfaces of what a domain is defined as; they have no devices.
    pub fn kept_interfaces(&self, domain: &super::Domain) -> Result<Vec<InterfaceHere>, ManagerError> {
        let macs = addresses(domain.uuid, &*self.definition(domain)?, &[])?;
        Ok(macs.into_iter().map(|mac| InterfaceHere { mac, device: None }).collect())
    }

    /// Changes an interface: of what runs only its link, of what is kept everything.
    pub(super) fn update_interface(
        &self,
        uuid: DomainUuid,
        xml: &str,
        impact: Impact,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainUpdateDevice")?;
        let one = One::read(xml)?;
        let replace = |tree: &mut Tree, at: usize| {
            *tree = tree.with_interface(at, xml).map_err(refused)?;
            Ok(())
        };
        // What cannot be kept is not done to what runs either.
        let kept = if impact.config {
            let definition = self.kept(&domain)?;
            let at = place(&one, &addresses(uuid, &definition, &[])?)?;
            definition.edited(|tree| replace(tree, at))?.to_start()?;
            self.may_edit(uuid, |tree| replace(tree, at))?;
            Some(at)
        } else {
            None
        };
        if impact.live {
            self.change_link(uuid, &one)?;
        }
        match kept {
            Some(at) => self.edit(uuid, |tree| replace(tree, at)),
            None => Ok(()),
        }
    }

    fn change_link(&self, uuid: DomainUuid, one: &One) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let definition = live.definition.as_ref().ok_or_else(unknown)?;
        let aliases = live.interface_aliases();
        let macs = addresses(uuid, definition, &aliases)?;
        let at = place(one, &macs)?;
        let all = definition.to_start()?.devices.interfaces;
        let (Some(alias), Some(mac), Some(before)) = (aliases.get(at), macs.get(at), all.get(at)) else {
            return Err(unknown());
        };
        if !same_but_link(before, &one.interface, *mac, live.device(alias, before).as_deref()) {
            let text = "only the link state of a network interface can be changed while its domain runs";
            return Err(ManagerError::Unsupported(text.into()));
        }
        let up = !one.interface.link_down;
        if before.link_down == one.interface.link_down {
            return Ok(());
        }
        // Noted first: QEMU cannot be asked afterwards, and this daemon may end at any moment.
        let noted = live.noted_link(alias);
        self.note_link(&live, alias, Some(up))?;
        if let Err(error) = self.sure(uuid, self.ask(uuid, Ask::Link { alias: alias.clone(), up })) {
            self.note_link(&*self.live(uuid)?, alias, noted)?;
            return Err(error);
        }
        self.replace_live(uuid, None, |tree| {
            tree.set_interface_link(at, up);
            Ok(())
        })
    }

    /// Notes how a link was put, so that a later daemon knows; nothing any longer where its interface is another one.
    pub(super) fn note_link(&self, live: &Live, alias: &str, up: Option<bool>) -> Result<(), ManagerError> {
        let state = up.map(|up| if up { "up" } else { "down" }.to_owned());
        self.note(live, format!("{NOTE}{alias}"), state)
    }

    /// Notes something of a domain that runs under a name, or nothing any longer, so that a later daemon knows.
    pub(super) fn note(&self, live: &Live, name: String, value: Option<String>) -> Result<(), ManagerError> {
        match noting(live, name, value)? {
            None => Ok(()),
            Some(row) => {
                let noted = row.listening.clone();
                self.note_row(row, |now| now.listening = noted)
            }
        }
    }
}

/// What the store is to say of a domain that runs, with something noted of it; nothing where it says so already.
fn noting(live: &Live, name: String, value: Option<String>) -> Result<Option<store::Live>, ManagerError> {
    let mut noted = live.listening.clone();
    noted.retain(|(other, _)| *other != name);
    noted.extend(value.map(|value| (name, value)));
    if noted == live.listening {
        return Ok(None);
    }
    let started = live.runtime.started.as_ref().or(live.definition.as_ref()).ok_or_else(unknown)?;
    Ok(Some(started.row(live.id, noted, &live.files())))
}

/// svirtd knows of what runs that it does, and no more.
pub(super) fn unknown() -> ManagerError {
    ManagerError::state("svirtd has no definition of what runs")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::State;
    use super::super::table::tests::live;
    use super::*;

    fn one(xml: &str) -> Interface {
        One::read(xml).unwrap().interface
    }

    #[test]
    fn nothing_is_noted_of_what_is_not_known() {
        let mut live = live(1, State::Running(1));
        let noting = |live: &Live, value: Option<&str>| noting(live, "a".into(), value.map(str::to_owned));
        let refused = noting(&live, Some("1")).unwrap_err().to_string();
        assert!(refused.contains("svirtd has no definition of what runs"), "{refused}");
        assert_eq!(noting(&live, None).unwrap(), None);
        live.listening.push(("a".into(), "1".into()));
        assert_eq!(noting(&live, Some("1")).unwrap(), None);
        noting(&live, None).unwrap_err();
    }

    #[test]
    fn only_the_link_may_differ() {
        let mac = [0x52, 0x54, 0, 1, 2, 3];
        let bridge = |more: &str| {
            one(&format!(
                "<interface type='bridge'><source bridge='br0'/>{more}<model type='virtio'/></interface>"
            ))
        };
        let old = bridge("");
        let same = |more: &str| same_but_link(&old, &bridge(more), mac, Some("vm7"));
        assert!(same("") && same("<link state='down'/>"));
        assert!(same("<mac address='52:54:00:01:02:03'/><target dev='vm7'/><link state='down'/>"));
        assert!(!same("<address type='pci' domain='0' bus='1' slot='0' function='0'/>"));
        assert!(!same("<target dev='other'/>") && !same("<mtu size='1400'/>"));
        let other = one("<interface type='bridge'><source bridge='br1'/><model type='virtio'/></interface>");
        assert!(!same_but_link(&old, &other, mac, None));
        let user = one("<interface type='user'><model type='virtio'/></interface>");
        assert!(!same_but_link(&old, &user, mac, None) && same_but_link(&user, &user, mac, None));
    }
}
