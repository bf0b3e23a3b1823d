//! `<graphics>` and `<video>`.

use std::net::{IpAddr, Ipv4Addr};

use super::address;
use super::scalar::{alias, number, number_attribute, path_attribute};
use super::view::{Read, View};
use crate::conf::domain::{Video, VideoModel, Vnc, VncListen};

/// All `<graphics>`; QEMU has one VNC server.
pub(super) fn vncs(devices: View<'_>) -> Read<Vec<Vnc>> {
    let mut vncs: Vec<Vnc> = Vec::new();
    for view in devices.all("graphics") {
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
    view.only(&["autoport", "listen", "port", "socket", "type"], &["alias", "listen"])?;
    view.required("type")?;
    view.fixed("type", &["vnc"])?;
    alias(view)?;
    let line = view.line();
    let element = view.one("listen")?;
    if view.attribute("socket").is_some() {
        return socket_attribute(view, element).map(|listen| Vnc { listen, line });
    }
    let words = [("address", Kind::Address), ("none", Kind::None), ("socket", Kind::Socket)];
    let kind = match element {
        None => Kind::Address,
        Some(element) => {
            element.required("type")?;
            element.word("type", &words)?.unwrap_or(Kind::Address)
        }
    };
    let listen = match (kind, element) {
        (Kind::Address, _) => VncListen::Address(address(view, element)?, port(view)?),
        (Kind::None, Some(element)) => {
            element.only(&["type"], &[])?;
            no_address(view)?;
            VncListen::None
        }
        (Kind::Socket, Some(element)) => {
            element.only(&["socket", "type"], &[])?;
            no_address(view)?;
            VncListen::Socket(path_attribute(element, "socket")?)
        }
        (_, None) => VncListen::None,
    };
    Ok(Vnc { listen, line })
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
    let port = view.attribute("port").filter(|port| *port != "-1");
    match (port, auto) {
        (Some(_), Some(true)) => Err(view.contradiction(
            "autoport='yes' and a port exclude each other",
            "remove the port, or say autoport='no'",
        )),
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

/// A size of video memory in KiB: a power of two from 1 MiB to 256 MiB, which is what QEMU's devices take.
fn memory(model: View<'_>, name: &str) -> Read<Option<u32>> {
    match number_attribute::<u32>(model, name, 0)? {
        Some(kib) if !kib.is_power_of_two() || !(1024..=262_144).contains(&kib) => {
            let text = model.attribute(name).unwrap_or_default();
            let what = format!("attribute {name} of <model>");
            Err(model.value(what, text, "a power of two from 1024 to 262144 (KiB)"))
        }
        kib => Ok(kib),
    }
}
