//! `<interface>`.

use super::address;
use super::scalar::{alias, boot_order, number_attribute};
use super::view::{Read, View};
use crate::conf::domain::{Interface, InterfaceBackend, InterfaceModel};

/// The kernel's IFNAMSIZ, less its end.
const INTERFACE_NAME_MAX: usize = 15;
/// The least that IPv4 asks of a link, in bytes (RFC 791).
const MTU_MIN: u64 = 68;
/// The most that a tap device takes, in bytes: 65535 less an Ethernet header (drivers/net/tun.c).
const MTU_MAX: u32 = 65_521;

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
    Bridge,
    Ethernet,
    Network,
    User,
}

fn interface(view: View<'_>) -> Read<Interface> {
    view.required("type")?;
    let words = [
        ("bridge", Kind::Bridge),
        ("ethernet", Kind::Ethernet),
        ("network", Kind::Network),
        ("user", Kind::User),
    ];
    let kind = view.word("type", &words)?.unwrap_or(Kind::User);
    let plugged = matches!(kind, Kind::Bridge | Kind::Network);
    let mut children =
        vec!["address", "alias", "backend", "boot", "driver", "link", "mac", "model", "target"];
    children.extend(plugged.then_some(["mtu", "source"]).into_iter().flatten());
    view.only(&["type"], &children)?;
    alias(view)?;
    driver(view)?;
    Ok(Interface {
        backend: match kind {
            Kind::Bridge => bridge(view)?,
            Kind::Ethernet => tap(view)?,
            Kind::Network => network(view)?,
            Kind::User => user(view)?,
        },
        mac: mac(view)?,
        model: model(view)?,
        mtu: mtu(view)?,
        link_down: link_down(view)?,
        boot_order: boot_order(view)?,
        address: address::pci(view)?,
        line: view.line(),
    })
}

fn link_down(view: View<'_>) -> Read<bool> {
    let Some(link) = view.one("link")? else { return Ok(false) };
    link.only(&["state"], &[])?;
    link.required("state")?;
    Ok(link.word("state", &[("up", false), ("down", true)])?.unwrap_or(false))
}

/// Packets go through QEMU: vhost would have the kernel itself read the guest's rings.
fn driver(view: View<'_>) -> Read<()> {
    let Some(driver) = view.one("driver")? else { return Ok(()) };
    driver.only(&["name"], &[])?;
    driver.fixed("name", &["qemu"])
}

fn bridge(view: View<'_>) -> Read<InterfaceBackend> {
    let source = source(view, "bridge")?;
    let bridge = source.required("bridge")?;
    Ok(InterfaceBackend::Bridge { bridge: interface_name(source, "bridge", bridge)?, target: target(view)? })
}

fn network(view: View<'_>) -> Read<InterfaceBackend> {
    let source = source(view, "network")?;
    let name = source.required("network")?;
    if name == "default" {
        return Ok(InterfaceBackend::DefaultNetwork { target: target(view)? });
    }
    Err(source.error(
        crate::conf::DefinitionErrorKind::Unsupported(format!("the network {name:?}")),
        "use the network 'default' (network.default in the configuration), or type='bridge' with the bridge's name",
    ))
}

fn source<'d>(view: View<'d>, attribute: &str) -> Read<View<'d>> {
    if let Some(backend) = view.one("backend")? {
        return Err(backend.unsupported("<backend> of an interface on a bridge"));
    }
    let source =
        view.one("source")?.ok_or_else(|| view.missing(format!("<source {attribute}=…/> of <interface>")))?;
    // `portid` is what libvirt itself adds to a running domain's.
    source.only(&[attribute, "portid"], &[])?;
    Ok(source)
}

/// The name of the tap device that is made; like libvirt, svirt chooses where the name is a pattern or one of its own.
fn target(view: View<'_>) -> Read<Option<String>> {
    let Some(target) = view.one("target")? else { return Ok(None) };
    target.only(&["dev", "managed"], &[])?;
    target.fixed("managed", &["yes"])?;
    let name = target.required("dev")?;
    if name.starts_with("vnet") || name.contains('%') {
        return Ok(None);
    }
    interface_name(target, "dev", name).map(Some)
}

fn mtu(view: View<'_>) -> Read<Option<u32>> {
    let Some(element) = view.one("mtu")? else { return Ok(None) };
    element.only(&["size"], &[])?;
    element.required("size")?;
    match number_attribute::<u32>(element, "size", MTU_MIN)? {
        Some(size) if size > MTU_MAX => {
            Err(element.value("attribute size of <mtu>", &size.to_string(), "68 to 65521 bytes"))
        }
        size => Ok(size),
    }
}

fn interface_name(view: View<'_>, attribute: &str, name: &str) -> Read<String> {
    let fine = (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%*".contains(&byte));
    if fine {
        return Ok(name.to_owned());
    }
    let what = format!("attribute {attribute} of {}", view.tag());
    Err(view.value(what, name, "an interface's name of 1 to 15 bytes"))
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
    interface_name(target, "dev", name).map(InterfaceBackend::Tap)
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
