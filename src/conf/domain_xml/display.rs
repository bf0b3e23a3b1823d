//! `<graphics>` and `<video>`.

use std::net::{IpAddr, Ipv4Addr};

use super::address;
use super::scalar::{alias, number, number_attribute, path_attribute};
use super::view::{Read, View};
use crate::conf::domain::{Redirection, Spice, Video, VideoModel, Vnc, VncListen};
use crate::conf::password::{self, ATTRIBUTES};
use crate::privsep::password::Password;
use crate::privsep::supervisor::Graphics;

/// All `<graphics>`; QEMU has one VNC server.
pub(super) fn vncs(devices: View<'_>) -> Read<Vec<Vnc>> {
    let mut vncs: Vec<Vnc> = Vec::new();
    for view in devices.all("graphics").filter(|view| view.attribute("type") != Some("spice")) {
        let vnc = vnc(view)?;
        if let Some(first) = vncs.first() {
            return Err(view.duplicate("<graphics type='vnc'>", first.line));
        }
        vncs.push(vnc);
    }
    Ok(vncs)
}

/// The words of `<listen type>`.
#[derive(Clone, Copy)]
enum Kind {
    Address,
    None,
    Socket,
}

fn vnc(view: View<'_>) -> Read<Vnc> {
    let attributes = ["autoport", "connected", "listen", "passwd", "passwdValidTo", "port", "socket", "type"];
    view.only(&attributes, &["alias", "listen"])?;
    view.required("type")?;
    view.fixed("type", &["spice", "vnc"])?;
    alias(view)?;
    Ok(Vnc { listen: listen(view)?, password: password(view, Graphics::Vnc)?, line: view.line() })
}

/// What a graphical console asks of those who come to it.
fn password(view: View<'_>, protocol: Graphics) -> Read<Option<Password>> {
    let found = password::read(protocol, |name| view.attribute(name));
    let found = found.map_err(|(kind, remedy)| view.error(kind, remedy))?;
    let alone = ATTRIBUTES.iter().find(|name| found.is_none() && view.attribute(name).is_some());
    match alone {
        Some(name) => {
            let what = format!("attribute {name} of <graphics> without a passwd");
            Err(view.contradiction(what, "give the display a passwd, or remove the attribute"))
        }
        None => Ok(found),
    }
}

/// Where a graphical console listens.
fn listen(view: View<'_>) -> Read<VncListen> {
    let element = view.one("listen")?;
    if view.attribute("socket").is_some() {
        return socket_attribute(view, element);
    }
    let words = [("address", Kind::Address), ("none", Kind::None), ("socket", Kind::Socket)];
    let kind = match element {
        None => Kind::Address,
        Some(element) => {
            element.required("type")?;
            element.word("type", &words)?.unwrap_or(Kind::Address)
        }
    };
    Ok(match (kind, element) {
        (Kind::Address, _) => VncListen::Address(address(view, element)?, port(view)?),
        (Kind::None, Some(element)) => {
            element.only(&["type"], &[])?;
            no_address(view)?;
            VncListen::None
        }
        (Kind::Socket, Some(element)) => {
            element.only(&["socket", "type"], &[])?;
            if element.attribute("socket").is_none() {
                // libvirt would choose a path in a directory of its own.
                return Err(element.unsupported("<listen type='socket'> without a socket"));
            }
            no_address(view)?;
            VncListen::Socket(path_attribute(element, "socket")?)
        }
        (_, None) => VncListen::None,
    })
}

/// Children of a SPICE server: element, attribute, word, QEMU's option and value. An empty option is QEMU's default.
const SPICE: &[(&str, &str, &str, &str, &str)] = &[
    ("clipboard", "copypaste", "no", "disable-copy-paste", "on"),
    ("clipboard", "copypaste", "yes", "", ""),
    ("filetransfer", "enable", "no", "disable-agent-file-xfer", "on"),
    ("filetransfer", "enable", "yes", "", ""),
    ("gl", "enable", "no", "", ""),
    ("image", "compression", "auto_glz", "image-compression", "auto_glz"),
    ("image", "compression", "auto_lz", "image-compression", "auto_lz"),
    ("image", "compression", "glz", "image-compression", "glz"),
    ("image", "compression", "lz", "image-compression", "lz"),
    ("image", "compression", "off", "image-compression", "off"),
    ("image", "compression", "quic", "image-compression", "quic"),
    ("jpeg", "compression", "always", "jpeg-wan-compression", "always"),
    ("jpeg", "compression", "auto", "jpeg-wan-compression", "auto"),
    ("jpeg", "compression", "never", "jpeg-wan-compression", "never"),
    ("mouse", "mode", "client", "agent-mouse", "on"),
    ("mouse", "mode", "server", "agent-mouse", "off"),
    ("playback", "compression", "off", "playback-compression", "off"),
    ("playback", "compression", "on", "playback-compression", "on"),
    ("streaming", "mode", "all", "streaming-video", "all"),
    ("streaming", "mode", "filter", "streaming-video", "filter"),
    ("streaming", "mode", "off", "streaming-video", "off"),
    ("zlib", "compression", "always", "zlib-glz-wan-compression", "always"),
    ("zlib", "compression", "auto", "zlib-glz-wan-compression", "auto"),
    ("zlib", "compression", "never", "zlib-glz-wan-compression", "never"),
];

/// The SPICE server; QEMU has one.
pub(super) fn spice(devices: View<'_>) -> Read<Option<Spice>> {
    let mut all = devices.all("graphics").filter(|view| view.attribute("type") == Some("spice"));
    let Some(view) = all.next() else { return Ok(None) };
    if let Some(second) = all.next() {
        return Err(second.duplicate("<graphics type='spice'>", view.line()));
    }
    let mut children = vec!["alias", "listen"];
    children.extend(SPICE.iter().map(|(element, ..)| *element));
    let attributes = [
        "autoport",
        "connected",
        "defaultMode",
        "listen",
        "passwd",
        "passwdValidTo",
        "port",
        "socket",
        "tlsPort",
        "type",
    ];
    view.only(&attributes, &children)?;
    alias(view)?;
    // Nothing is encrypted: it listens on the loopback, and ssh leads there.
    view.fixed("defaultMode", &["any", "insecure"])?;
    view.fixed("tlsPort", &["-1"])?;
    let mut options = Vec::new();
    let mut before = "";
    for (element, attribute, ..) in SPICE {
        if *element == std::mem::replace(&mut before, element) {
            continue;
        }
        let Some(child) = view.one(element)? else { continue };
        child.only(&[attribute], &[])?;
        child.required(attribute)?;
        let rows = SPICE.iter().filter(|row| row.0 == *element);
        let words: Vec<(&str, (&str, &str))> = rows.map(|row| (row.2, (row.3, row.4))).collect();
        options.extend(child.word(attribute, &words)?.filter(|(option, _)| !option.is_empty()));
    }
    let password = password(view, Graphics::Spice)?;
    Ok(Some(Spice { listen: listen(view)?, options, password, line: view.line() }))
}

/// All `<redirdev>`s: USB devices of the SPICE client.
pub(super) fn redirections(devices: View<'_>) -> Read<Vec<Redirection>> {
    let mut all = Vec::new();
    for view in devices.all("redirdev") {
        view.only(&["bus", "type"], &["address", "alias"])?;
        alias(view)?;
        view.required("type")?;
        view.fixed("bus", &["usb"])?;
        view.fixed("type", &["spicevmc"])?;
        all.push(Redirection { port: address::usb(view)?, line: view.line() });
    }
    Ok(all)
}

/// The older form, `<graphics socket=…>`.
fn socket_attribute(view: View<'_>, element: Option<View<'_>>) -> Read<VncListen> {
    no_address(view)?;
    let socket = path_attribute(view, "socket")?;
    if let Some(element) = element {
        element.only(&["socket", "type"], &[])?;
        element.fixed("type", &["socket"])?;
        element.fixed("socket", &[&socket])?;
    }
    Ok(VncListen::Socket(socket))
}

fn no_address(view: View<'_>) -> Read<()> {
    for name in ["autoport", "listen", "port"] {
        if view.attribute(name).is_some() {
            let what = format!("attribute {name} of <graphics> beside a listener without an address");
            return Err(view.contradiction(what, format!("remove the attribute {name}")));
        }
    }
    Ok(())
}

/// The address of `<listen>` and of the older attribute, which must agree; 127.0.0.1 without either.
fn address(view: View<'_>, element: Option<View<'_>>) -> Read<IpAddr> {
    if let Some(element) = element {
        element.only(&["address", "type"], &[])?;
    }
    let inner = element.and_then(|element| element.attribute("address"));
    let outer = view.attribute("listen");
    if let (Some(inner), Some(outer)) = (inner, outer)
        && inner != outer
    {
        return Err(view.contradiction(
            "the attribute listen of <graphics> and the address of <listen> differ",
            "remove the attribute",
        ));
    }
    match inner.or(outer) {
        None => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(text) => text.parse().map_err(|_| {
            view.value("the address of <graphics>", text, "an IP address; names are not looked up")
        }),
    }
}

fn port(view: View<'_>) -> Read<Option<u16>> {
    let auto = view.switch("autoport", "yes", "no")?;
    // Beside `autoport='yes'` it is what was chosen for an earlier run.
    let port = view.attribute("port").filter(|port| *port != "-1" && auto != Some(true));
    match (port, auto) {
        (None, Some(false)) => Err(view.missing("attribute port of <graphics>")),
        (None, _) => Ok(None),
        (Some(text), _) => number::<u16>(text)
            .filter(|port| *port > 0)
            .map(Some)
            .ok_or_else(|| view.value("attribute port of <graphics>", text, "a number from 1 to 65535")),
    }
}

/// All `<video>`s; with a `<graphics>` and none of them, a VGA.
pub(super) fn videos(devices: View<'_>, graphics: bool) -> Read<Vec<Video>> {
    let mut videos: Vec<Video> = Vec::new();
    for view in devices.all("video") {
        let video = video(view, videos.is_empty())?;
        let second = matches!(video.model, VideoModel::Virtio | VideoModel::Qxl);
        let none = videos.iter().any(|other| other.model == VideoModel::None);
        if !videos.is_empty() && (!second || none) {
            return Err(view.contradiction(
                "only virtio and qxl can be a second <video>, and none stands alone",
                "remove it, or use <model type='virtio'/>",
            ));
        }
        videos.push(video);
    }
    if videos.is_empty() && graphics {
        videos.push(Video::new(VideoModel::Vga));
    }
    Ok(videos)
}

fn video(view: View<'_>, first: bool) -> Read<Video> {
    view.only(&[], &["address", "alias", "model"])?;
    alias(view)?;
    let model = view.one("model")?.ok_or_else(|| view.missing("<model> of <video>"))?;
    model.only(&["heads", "primary", "ram", "type", "vgamem", "vram"], &[])?;
    model.required("type")?;
    let words = [
        ("bochs", VideoModel::Bochs),
        ("cirrus", VideoModel::Cirrus),
        ("none", VideoModel::None),
        ("qxl", VideoModel::Qxl),
        ("vga", VideoModel::Vga),
        ("virtio", VideoModel::Virtio),
    ];
    let kind = model.word("type", &words)?.unwrap_or(VideoModel::Vga);
    if model.switch("primary", "yes", "no")?.is_some_and(|primary| primary != first) {
        return Err(model.unsupported("attribute primary of <model>: the first <video> is the primary one"));
    }
    let heads = number_attribute(model, "heads", 1)?.unwrap_or(1);
    let heads_most = if matches!(kind, VideoModel::Qxl | VideoModel::Virtio) { 16 } else { 1 };
    if heads > heads_most {
        return Err(model.unsupported(format!("more than {heads_most} heads of this <model>")));
    }
    let only = |name: &str, kinds: &[VideoModel]| -> Read<Option<u32>> {
        if model.attribute(name).is_some() && !kinds.contains(&kind) {
            return Err(model.unsupported(format!("attribute {name} of <model> of this type")));
        }
        memory(model, name)
    };
    Ok(Video {
        model: kind,
        vram: only("vram", &[VideoModel::Bochs, VideoModel::Cirrus, VideoModel::Qxl, VideoModel::Vga])?,
        ram: only("ram", &[VideoModel::Qxl])?,
        vgamem: only("vgamem", &[VideoModel::Qxl])?,
        heads,
        address: address::pci(view)?,
        line: view.line(),
    })
}

/// A size of video memory in KiB, from 1 MiB to 256 MiB; a power of two, to which QEMU's devices round it up (9216 is what
/// virt-manager wrote for years).
fn memory(model: View<'_>, name: &str) -> Read<Option<u32>> {
    match number_attribute::<u32>(model, name, 0)? {
        Some(kib) if !(1024..=262_144).contains(&kib) => {
            let text = model.attribute(name).unwrap_or_default();
            let what = format!("attribute {name} of <model>");
            Err(model.value(what, text, "a number from 1024 to 262144 (KiB)"))
        }
        kib => Ok(kib.map(u32::next_power_of_two)),
    }
}
