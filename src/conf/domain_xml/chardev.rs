//! `<serial>`, `<console>` and `<channel>`.

use super::address;
use super::scalar::{alias, number_attribute, path_attribute};
use super::view::{Read, View};
use crate::conf::domain::{CharDevice, CharSource, CharTarget};

/// A PC has four ISA serial ports.
const MAX_SERIALS: usize = 4;

/// Serial ports, and the consoles that are not one of them.
pub(super) fn ports(devices: View<'_>) -> Read<(Vec<CharDevice>, Vec<CharDevice>)> {
    let mut serials = Vec::new();
    for view in devices.all("serial") {
        let target = isa_target(view, serials.len())?;
        serials.push(device(view, target)?);
        if serials.len() > MAX_SERIALS {
            return Err(view.unsupported(format!("more than {MAX_SERIALS} serial ports")));
        }
    }
    let mut consoles = Vec::new();
    for (position, view) in devices.all("console").enumerate() {
        let target = console_target(view, position)?;
        let console = device(view, target)?;
        if console.target == CharTarget::VirtioConsole {
            unique(view, &console, consoles.iter())?;
            consoles.push(console);
        } else if position > 0 {
            return Err(view.contradiction(
                "only the first <console> can be of target type serial",
                "use <target type='virtio'/>",
            ));
        } else {
            mirror(view, &mut serials, console)?;
        }
    }
    Ok((serials, consoles))
}

/// The first console of type serial is the first serial port, and makes one where there is none.
fn mirror(view: View<'_>, serials: &mut Vec<CharDevice>, console: CharDevice) -> Read<()> {
    match serials.first() {
        None => serials.push(console),
        Some(serial)
            if serial.source == console.source && (console.log.is_none() || serial.log == console.log) => {}
        Some(serial) => {
            return Err(view.contradiction(
                format!(
                    "<console> and <serial> of line {} are one port and say different things",
                    serial.line
                ),
                "remove the <console>, or repeat what the <serial> says",
            ));
        }
    }
    Ok(())
}

/// A number on the serial controller that two ports have is refused.
fn unique<'c>(view: View<'_>, port: &CharDevice, others: impl Iterator<Item = &'c CharDevice>) -> Read<()> {
    let twin = others.filter(|other| other.port.is_some()).find(|other| other.port == port.port);
    match twin {
        Some(first) => Err(view.duplicate("the port number of its <address>", first.line)),
        None => Ok(()),
    }
}

/// All `<channel>`s; they share a controller with the consoles.
pub(super) fn channels(devices: View<'_>, consoles: &[CharDevice]) -> Read<Vec<CharDevice>> {
    let mut channels: Vec<CharDevice> = Vec::new();
    for view in devices.all("channel") {
        let target = view.one("target")?.ok_or_else(|| view.missing("<target> of <channel>"))?;
        target.only(&["name", "state", "type"], &[])?;
        target.required("type")?;
        target.fixed("type", &["virtio"])?;
        // A running domain's; it says whether a program in the guest has the port open.
        target.fixed("state", &["connected", "disconnected"])?;
        let name = target.required("name")?;
        let fine = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !fine {
            return Err(target.value(
                "attribute name of <target>",
                name,
                "letters, digits, '.', '_' and '-'",
            ));
        }
        let named = CharTarget::Channel(name.to_owned());
        if let Some(first) = channels.iter().find(|other| other.target == named) {
            return Err(view.duplicate(format!("<channel> {name}"), first.line));
        }
        let channel = device(view, named)?;
        if channel.port == Some(0) {
            return Err(view.unsupported("port 0 of a <channel>, which is for a console"));
        }
        unique(view, &channel, channels.iter().chain(consoles))?;
        channels.push(channel);
    }
    Ok(channels)
}

fn device(view: View<'_>, target: CharTarget) -> Read<CharDevice> {
    let children: &[&str] = match target {
        CharTarget::IsaSerial => &["alias", "log", "source", "target"],
        CharTarget::Channel(_) | CharTarget::VirtioConsole => {
            &["address", "alias", "log", "source", "target"]
        }
    };
    view.only(&["type"], children)?;
    alias(view)?;
    let channel = matches!(target, CharTarget::Channel(_));
    let port = if target == CharTarget::IsaSerial { None } else { address::serial_port(view)? };
    Ok(CharDevice { source: source(view, channel)?, target, port, log: log(view)?, line: view.line() })
}

fn isa_target(view: View<'_>, position: usize) -> Read<CharTarget> {
    let Some(target) = view.one("target")? else { return Ok(CharTarget::IsaSerial) };
    target.only(&["port", "type"], &["model"])?;
    target.fixed("type", &["isa-serial"])?;
    if let Some(model) = target.one("model")? {
        model.only(&["name"], &[])?;
        model.fixed("name", &["isa-serial"])?;
    }
    port(target, position)?;
    Ok(CharTarget::IsaSerial)
}

fn console_target(view: View<'_>, position: usize) -> Read<CharTarget> {
    let Some(target) = view.one("target")? else { return Ok(CharTarget::IsaSerial) };
    target.only(&["port", "type"], &[])?;
    port(target, position)?;
    let virtio = target.word("type", &[("serial", false), ("virtio", true)])?.unwrap_or(false);
    Ok(if virtio { CharTarget::VirtioConsole } else { CharTarget::IsaSerial })
}

/// Ports count from 0 in the order of the definition; another number is not honoured.
fn port(target: View<'_>, position: usize) -> Read<()> {
    match number_attribute::<usize>(target, "port", 0)? {
        Some(port) if port != position => {
            let what = format!("port='{port}' of {}: this one is port {position}", target.tag());
            Err(target.unsupported(what))
        }
        _ => Ok(()),
    }
}

/// The words of `<serial type>`.
#[derive(Clone, Copy)]
enum Kind {
    File,
    Pty,
    SpiceVmc,
    Unix,
}

fn source(view: View<'_>, channel: bool) -> Read<CharSource> {
    view.required("type")?;
    let words =
        [("file", Kind::File), ("pty", Kind::Pty), ("unix", Kind::Unix), ("spicevmc", Kind::SpiceVmc)];
    let words = if channel { &words[..] } else { words.split_last().map_or(&words[..], |(_, rest)| rest) };
    let kind = view.word("type", words)?.unwrap_or(Kind::Pty);
    let source = view.one("source")?;
    let required = || source.ok_or_else(|| view.missing(format!("<source> of {}", view.tag())));
    match kind {
        Kind::Pty => match source {
            Some(stray) => Err(stray.unsupported("<source> of a pty: the kernel gives the name")),
            None => Ok(CharSource::Pty),
        },
        Kind::SpiceVmc => {
            view.only(&["type"], &["address", "alias", "target"])?;
            Ok(CharSource::SpiceVmc)
        }
        Kind::File => {
            let source = required()?;
            source.only(&["append", "path"], &[])?;
            let append = source.switch("append", "on", "off")?.unwrap_or(false);
            Ok(CharSource::File { path: path_attribute(source, "path")?, append })
        }
        Kind::Unix => {
            if channel && source.is_none_or(|source| source.attribute("path").is_none()) {
                // As in libvirt, which listens on a name of its own then, whatever is said of the mode.
                source.map_or(Ok(()), |source| source.only(&["mode"], &[]))?;
                return Ok(CharSource::UnixAuto);
            }
            let source = required()?;
            source.only(&["mode", "path"], &[])?;
            // libvirt's default is to connect.
            source.required("mode")?;
            source.fixed("mode", &["bind"])?;
            Ok(CharSource::UnixListen { path: path_attribute(source, "path")? })
        }
    }
}

fn log(view: View<'_>) -> Read<Option<(String, bool)>> {
    let Some(log) = view.one("log")? else { return Ok(None) };
    log.only(&["append", "file"], &[])?;
    let append = log.switch("append", "on", "off")?.unwrap_or(false);
    Ok(Some((path_attribute(log, "file")?, append)))
}
