//! `<address>`: where a device is plugged in.

use super::scalar::number_attribute;
use super::view::{Read, View};
use crate::conf::domain::{PciAddress, UsbPort};

/// A number in decimal or, after `0x`, in hexadecimal digits, as libvirt writes addresses.
fn number<T: TryFrom<u32> + PartialOrd + std::fmt::LowerHex>(
    view: View<'_>,
    name: &str,
    most: T,
) -> Read<Option<T>> {
    let Some(text) = view.attribute(name) else { return Ok(None) };
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => super::scalar::number::<u32>(text),
    };
    match parsed.and_then(|value| T::try_from(value).ok()).filter(|value| *value <= most) {
        Some(value) => Ok(Some(value)),
        None => {
            let what = format!("attribute {name} of {}", view.tag());
            Err(view.value(what, text, format!("a number of at most {most:#x}")))
        }
    }
}

/// An attribute with a number of at most 255.
pub(super) fn byte(view: View<'_>, name: &str) -> Read<Option<u8>> {
    number(view, name, u8::MAX)
}

/// The `<address type='pci'>` of a device; one that says only its type asks for any place.
pub(super) fn pci(device: View<'_>) -> Read<Option<PciAddress>> {
    let Some(view) = device.one("address")? else { return Ok(None) };
    view.only(&["bus", "domain", "function", "multifunction", "slot", "type"], &[])?;
    view.required("type")?;
    view.fixed("type", &["pci"])?;
    number(view, "domain", 0)?;
    let multifunction = view.switch("multifunction", "on", "off")?.unwrap_or(false);
    let (bus, slot) = (number(view, "bus", 255)?, number(view, "slot", 31)?);
    let function = number(view, "function", 7)?;
    if bus.is_none() && slot.is_none() && function.is_none() {
        return Ok(None);
    }
    let (bus, slot, function) = (bus.unwrap_or(0), slot.unwrap_or(0), function.unwrap_or(0));
    Ok(Some(PciAddress { bus, slot, function, multifunction }))
}

/// The port of an `<address type='isa'>`.
pub(super) fn isa(device: View<'_>) -> Read<Option<u16>> {
    let Some(view) = device.one("address")? else { return Ok(None) };
    view.only(&["iobase", "type"], &[])?;
    view.required("type")?;
    view.fixed("type", &["isa"])?;
    number(view, "iobase", u16::MAX)
}

/// The `unit` of an `<address type='drive'>` on the first controller.
pub(super) fn drive(device: View<'_>) -> Read<Option<u32>> {
    let Some(view) = device.one("address")? else { return Ok(None) };
    view.only(&["bus", "controller", "target", "type", "unit"], &[])?;
    view.required("type")?;
    view.fixed("type", &["drive"])?;
    view.fixed("controller", &["0"])?;
    view.fixed("target", &["0"])?;
    number_attribute(view, "unit", 0)
}

/// The `bus` of an `<address type='drive'>`, which tells the channel of an IDE controller.
pub(super) fn channel(device: View<'_>) -> Read<u32> {
    let Some(view) = device.one("address")? else { return Ok(0) };
    Ok(number_attribute(view, "bus", 0)?.unwrap_or(0))
}

/// The port of an `<address type='usb'>` on the one controller.
pub(super) fn usb(device: View<'_>) -> Read<Option<UsbPort>> {
    let Some(view) = device.one("address")? else { return Ok(None) };
    view.only(&["bus", "port", "type"], &[])?;
    view.required("type")?;
    view.fixed("type", &["usb"])?;
    view.fixed("bus", &["0"])?;
    let Some(port) = number_attribute::<u8>(view, "port", 1)? else { return Ok(None) };
    if port > 15 {
        let text = view.attribute("port").unwrap_or_default();
        return Err(view.value("attribute port of <address>", text, "a port of the controller, 1 to 15"));
    }
    Ok(Some(UsbPort(port)))
}

/// The ports of a serial controller, as QEMU makes it.
const SERIAL_PORT_MAX: u8 = 30;

/// The `port` of an `<address type='virtio-serial'>` on the one controller.
pub(super) fn serial_port(device: View<'_>) -> Read<Option<u8>> {
    let Some(view) = device.one("address")? else { return Ok(None) };
    view.only(&["bus", "controller", "port", "type"], &[])?;
    view.required("type")?;
    view.fixed("type", &["virtio-serial"])?;
    view.fixed("bus", &["0"])?;
    view.fixed("controller", &["0"])?;
    number(view, "port", SERIAL_PORT_MAX)
}
