//! `<interface>`.

use super::address;
use super::scalar::{alias, boot_order};
use super::view::{Read, View};
use crate::conf::domain::{Interface, InterfaceBackend, InterfaceModel};

/// The kernel's IFNAMSIZ, less its end.
const INTERFACE_NAME_MAX: usize = 15;

/// All `<interface>`s.
pub(super) fn interfaces(devices: View<'_>) -> Read<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for view in devices.all("interface") {
        let interface = interface(view)?;
        let twin = interfaces.iter().find(|other| other.mac.is_some() && other.mac == interface.mac);
        if let Some(first) = twin {
            return Err(view.duplicate("the <mac> address", first.line));
        }
        interfaces.push(interface);
    }
    Ok(interfaces)
}

/// The words of `<interface type>`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ethernet,
    User,
}

fn interface(view: View<'_>) -> Read<Interface> {
    let children = ["address", "alias", "backend", "boot", "link", "mac", "model", "target"];
    view.only(&["type"], &children)?;
    view.required("type")?;
    alias(view)?;
    let words = [("ethernet", Kind::Ethernet), ("user", Kind::User)];
    let kind = view.word("type", &words)?.unwrap_or(Kind::User);
    if let Some(link) = view.one("link")? {
        link.only(&["state"], &[])?;
        link.fixed("state", &["up"])?;
    }
    Ok(Interface {
        backend: match kind {
            Kind::Ethernet => tap(view)?,
            Kind::User => user(view)?,
        },
        mac: mac(view)?,
        model: model(view)?,
        boot_order: boot_order(view)?,
        address: address::pci(view)?,
        line: view.line(),
    })
}

fn user(view: View<'_>) -> Read<InterfaceBackend> {
    if let Some(backend) = view.one("backend")? {
        backend.only(&["type"], &[])?;
        backend.fixed("type", &["passt"])?;
    }
    match view.one("target")? {
        Some(target) => Err(target.unsupported("<target> of <interface type='user'>")),
        None => Ok(InterfaceBackend::User),
    }
}

/// A tap device that somebody made before: svirt does not make or configure interfaces of the host.
fn tap(view: View<'_>) -> Read<InterfaceBackend> {
    if let Some(backend) = view.one("backend")? {
        return Err(backend.unsupported("<backend> of <interface type='ethernet'>"));
    }
    let target =
        view.one("target")?.ok_or_else(|| view.missing("<target dev=… managed='no'/> of <interface>"))?;
    target.only(&["dev", "managed"], &[])?;
    if target.switch("managed", "yes", "no")? != Some(false) {
        return Err(target.error(
            crate::conf::DefinitionErrorKind::Unsupported(
                "a tap device that svirt would have to make".into(),
            ),
            "make the tap device (ip tuntap add), and add managed='no' to <target>",
        ));
    }
    let name = target.required("dev")?;
    let fine = !name.is_empty()
        && name.len() <= INTERFACE_NAME_MAX
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if fine {
        return Ok(InterfaceBackend::Tap(name.to_owned()));
    }
    Err(target.value("attribute dev of <target>", name, "an interface's name of 1 to 15 bytes"))
}

/// A unicast address as six pairs of hexadecimal digits.
fn mac(view: View<'_>) -> Read<Option<[u8; 6]>> {
    let Some(element) = view.one("mac")? else { return Ok(None) };
    element.only(&["address"], &[])?;
    let text = element.required("address")?;
    let mut address = [0_u8; 6];
    let mut parts = text.split(':');
    let mut fine = true;
    for byte in &mut address {
        let part = parts.next().filter(|part| {
            (1..=2).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        match part.and_then(|part| u8::from_str_radix(part, 16).ok()) {
            Some(value) => *byte = value,
            None => fine = false,
        }
    }
    let multicast = address.first().is_some_and(|first| first & 1 == 1);
    if !fine || parts.next().is_some() || multicast || address == [0; 6] {
        return Err(element.value(
            "attribute address of <mac>",
            text,
            "a unicast address such as 52:54:00:12:34:56",
        ));
    }
    Ok(Some(address))
}

fn model(view: View<'_>) -> Read<InterfaceModel> {
    // libvirt's default on x86.
    let Some(element) = view.one("model")? else { return Ok(InterfaceModel::Rtl8139) };
    element.only(&["type"], &[])?;
    element.required("type")?;
    let words = [
        ("e1000", InterfaceModel::E1000),
        ("e1000e", InterfaceModel::E1000e),
        ("rtl8139", InterfaceModel::Rtl8139),
        ("virtio", InterfaceModel::Virtio),
    ];
    Ok(element.word("type", &words)?.unwrap_or(InterfaceModel::Rtl8139))
}
