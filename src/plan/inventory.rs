//! Every labelled resource of a domain, from its definition and its disks' layers.
//!
//! Whoever adds a device adds its resources here: the devices are taken apart by name, so that a new kind does
//! not compile before somebody has said what its labels are.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::chain::{Chain, Layer};
use super::firmware::NVRAM;
use super::images::inside;
use super::qemu::{self, is_writable};
use super::{shares, shmem};
use crate::conf::domain::{
    Backing, Beyond, Boot, CharSource, Devices, Disk, DiskSource, Domain, FwCfg, FwCfgSource,
    InterfaceBackend, SourceKind, VncListen,
};
use crate::privsep::op::{FileIdentity, ImageKind};
use crate::security::resource::{Foreign, Image, Kind, Place, Process, Resource, Share};
use crate::settings::Settings;

/// The TPM's state, by name.
pub(super) const TPM_STATE: &str = "the TPM's state";

/// What a directory that a guest mounts is called.
pub(super) fn share_name(alias: &str) -> String {
    format!("share {alias}")
}

/// What its server is called.
pub(super) fn server_name(alias: &str) -> String {
    format!("virtiofsd for {alias}")
}

/// Everything, processes first, then each device in the definition's order.
#[must_use]
pub fn of(
    domain: &Domain,
    chains: &[Chain],
    directories: &[FileIdentity],
    settings: &Settings,
) -> Vec<Resource> {
    let Devices {
        emulator: _,
        disks,
        filesystems,
        interfaces,
        serials: _,
        consoles: _,
        // They read nothing from the host: /dev/urandom is read by QEMU's own library.
        rngs: _,
        memballoon: _,
        vncs,
        spice,
        // What the SPICE client sends; nothing of the host.
        redirections: _,
        videos: _,
        // Ports, by the aliases that a start gives them, together with serials and consoles.
        channels: _,
        // Memory of the device model and nothing else.
        controllers: _,
        inputs: _,
        sounds: _,
        shmems,
        // Back-ends that play nowhere.
        audios: _,
        watchdogs: _,
        panics: _,
        tpm,
        vsock,
    } = &domain.devices;
    let mut all = vec![
        process("the device model", Process::DeviceModel),
        process("the supervisor", Process::Supervisor),
    ];
    boot(&mut all, &domain.os.boot, settings);
    fw_cfg(&mut all, domain, settings);
    firmware(&mut all, domain, settings);
    for (disk, chain) in disks.iter().zip(chains) {
        for depth in 0..chain.layers.len() {
            all.extend(layer(disk, chain, depth, settings));
        }
    }
    all.push(resource("the monitor", None, 0, Kind::Channel));
    all.push(resource("the control socket", None, 0, Kind::Listener));
    // Serials and consoles, by the aliases that a start gives them.
    for (alias, port) in qemu::ports(domain) {
        let (way, path) = match &port.source {
            // The SPICE server's own, inside the device model.
            CharSource::SpiceVmc => continue,
            CharSource::Pty => (Kind::Pty, None),
            CharSource::UnixAuto => (Kind::Listener, None),
            CharSource::UnixListen { path } => (Kind::Listener, Some(path)),
            CharSource::File { path, .. } => (Kind::Log, Some(path)),
        };
        all.push(resource(format!("port {alias}"), path, port.line, way));
        if let Some((path, _)) = &port.log {
            all.push(resource(format!("log of {alias}"), Some(path), port.line, Kind::Log));
        }
    }
    let vncs = vncs.iter().enumerate();
    let vncs = vncs.map(|(index, vnc)| (format!("VNC server {index}"), &vnc.listen, vnc.line));
    let spice = spice.iter().map(|spice| ("the SPICE server".to_owned(), &spice.listen, spice.line));
    for (name, listen, line) in vncs.chain(spice) {
        let path = match listen {
            VncListen::None => continue,
            VncListen::Address(..) => None,
            VncListen::Socket(path) => Some(path),
        };
        all.push(resource(name, path, line, Kind::Listener));
    }
    let mut helpers = 0;
    for (index, interface) in interfaces.iter().enumerate() {
        match &interface.backend {
            InterfaceBackend::Tap(name) => {
                all.push(resource(
                    format!("interface net{index}, tap {name}"),
                    None,
                    interface.line,
                    Kind::Tap,
                ));
            }
            InterfaceBackend::Bridge { bridge, target: _ } => {
                all.push(resource(
                    format!("interface net{index}, on bridge {bridge}"),
                    None,
                    interface.line,
                    Kind::Tap,
                ));
            }
            InterfaceBackend::DefaultNetwork { .. } | InterfaceBackend::User => {
                all.push(resource(format!("packets of net{index}"), None, interface.line, Kind::Channel));
                all.push(process(&format!("passt for net{index}"), Process::Passt(helpers)));
                helpers += 1;
            }
        }
    }
    if let Some(vsock) = vsock {
        all.push(resource("the vsock", None, vsock.line, Kind::Vsock));
    }
    for (index, one) in filesystems.iter().enumerate() {
        let alias = shares::alias(index);
        let share = Share {
            place: shares::is_place(&one.source, settings),
            served: one.virtiofs().is_some(),
            writable: !one.readonly,
            identity: directories.get(index).copied().unwrap_or_else(|| made_up(&one.source)),
        };
        all.push(resource(share_name(&alias), Some(&one.source), one.line, Kind::Share(share)));
        if share.served {
            all.push(resource(format!("requests of {alias}"), None, one.line, Kind::Channel));
            let server = Process::Virtiofsd { helper: helpers, share: share.identity };
            all.push(process(&server_name(&alias), server));
            helpers += 1;
        }
    }
    for one in shmems {
        let path = shmem::path(&one.name, settings);
        all.push(resource(
            format!("shared memory {}", one.name),
            Some(&path),
            one.line,
            Kind::Shmem(one.name.clone()),
        ));
    }
    if tpm.is_some() {
        all.push(resource("the TPM's bytes", None, 0, Kind::Channel));
        all.push(process("swtpm", Process::Swtpm(helpers)));
        all.push(resource(TPM_STATE, None, 0, Kind::HelperState(Process::Swtpm(helpers))));
    }
    all
}

/// What a definition itself names of the host by path, also for devices that do not run. Identities are made up.
#[must_use]
pub fn named(domain: &Domain, unrun: &[Beyond], settings: &Settings) -> Vec<Resource> {
    let chains: Vec<Chain> = domain.devices.disks.iter().map(declared).collect();
    let mut all = of(domain, &chains, &[], settings);
    all.extend(beyond(unrun, settings));
    // It has no label: nobody but the labeller reads it, and the domain gets a copy.
    let template =
        domain.os.firmware.as_ref().and_then(|firmware| Some((firmware.template.as_ref()?, firmware)));
    if let Some((path, firmware)) = template {
        let kind = Kind::Firmware(boot_place(path, settings));
        all.push(resource("template of UEFI variables", Some(path), firmware.line, kind));
    }
    all.retain(|resource| resource.path.is_some());
    all
}

/// What devices that do not run would use, each under a name of its own.
#[must_use]
pub(super) fn beyond(all: &[Beyond], settings: &Settings) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    for one in all {
        // Devices have lists of their own; what is no device lies in a configured place or nowhere.
        let file = one.path.as_ref().filter(|path| !path.starts_with("/dev/") && !path.starts_with("/sys/"));
        let identity = made_up(one.path.as_deref().unwrap_or(&one.name));
        let image = Image {
            depth: 0,
            block: false,
            identity,
            writable: !one.readonly,
            shareable: one.shareable,
            place: file.map_or(Place::Relabelable, |path| boot_place(path, settings)),
            own: one.seclabels.clone(),
            first: Vec::new(),
        };
        let kind = Kind::Beyond(Foreign { way: one.way, image });
        resources.push(resource(&one.name, one.path.as_ref(), one.line, kind));
    }
    resources
}

fn resource(name: impl Into<String>, path: Option<&String>, line: u32, kind: Kind) -> Resource {
    Resource { name: name.into(), path: path.cloned(), line, kind }
}

fn process(name: &str, kind: Process) -> Resource {
    resource(name, None, 0, Kind::Process(kind))
}

fn boot(all: &mut Vec<Resource>, boot: &Boot, settings: &Settings) {
    let Boot::Kernel { kernel, initrd, dtb, cmdline: _ } = boot else { return };
    for (name, path) in [("kernel", Some(kernel)), ("initrd", initrd.as_ref()), ("dtb", dtb.as_ref())] {
        let Some(path) = path else { continue };
        all.push(resource(name, Some(path), 0, Kind::Boot(boot_place(path, settings))));
    }
}

/// Texts are arguments; each file is a resource.
fn fw_cfg(all: &mut Vec<Resource>, domain: &Domain, settings: &Settings) {
    for (index, entry, path) in fw_cfg_files(domain) {
        let kind = Kind::FwCfg(boot_place(path, settings), index);
        all.push(resource(format!("fw_cfg {}", entry.name), Some(path), entry.line, kind));
    }
}

/// The entries with a file, counted.
pub(super) fn fw_cfg_files(domain: &Domain) -> impl Iterator<Item = (usize, &FwCfg, &String)> {
    let files = domain.fw_cfg.iter().filter_map(|entry| match &entry.source {
        FwCfgSource::File(path) => Some((entry, path)),
        FwCfgSource::Text(_) => None,
    });
    files.enumerate().map(|(index, (entry, path))| (index, entry, path))
}

/// The code is found on the host unless the definition names it; the variables are an image of the domain's own.
fn firmware(all: &mut Vec<Resource>, domain: &Domain, settings: &Settings) {
    let Some(firmware) = &domain.os.firmware else { return };
    let code = firmware.loader.as_ref();
    let place = code.map_or(Place::Readable, |path| boot_place(path, settings));
    all.push(resource("UEFI code", code, firmware.line, Kind::Firmware(place)));
    let image = Image {
        depth: 0,
        block: false,
        // Not known before it is opened or made; it is never shared.
        identity: FileIdentity { device: 0, inode: 0 },
        writable: true,
        shareable: false,
        place: Place::Relabelable,
        own: Vec::new(),
        first: Vec::new(),
    };
    all.push(resource(NVRAM, firmware.nvram.as_ref(), firmware.line, Kind::Image(image)));
}

/// Where a boot file lies; those are read alone, so every place will do.
#[must_use]
pub(super) fn boot_place(path: &str, settings: &Settings) -> Place {
    let plain = super::chain::normalise("/", path).is_some_and(|plain| plain == *path);
    if plain { place(path, false, settings) } else { Place::Elsewhere }
}

/// One layer of a disk as a resource.
#[must_use]
pub(super) fn layer(disk: &Disk, chain: &Chain, depth: usize, settings: &Settings) -> Option<Resource> {
    let (layer, first): (&Layer, &Layer) = (chain.layers.get(depth)?, chain.layers.first()?);
    let block = layer.kind == ImageKind::Block;
    let image = Image {
        depth,
        block,
        identity: layer.identity,
        writable: depth == 0 && is_writable(disk),
        shareable: depth == 0 && disk.shareable,
        place: place(&layer.path, block, settings),
        own: layer.seclabels.clone(),
        first: first.seclabels.clone(),
    };
    Some(resource(layer_name(disk, depth), Some(&layer.path), disk.line, Kind::Image(image)))
}

fn layer_name(disk: &Disk, depth: usize) -> String {
    if depth == 0 { format!("disk {}", disk.target) } else { format!("disk {}, layer {depth}", disk.target) }
}

/// What the configuration lets a path be used for.
#[must_use]
pub(super) fn place(path: &str, block: bool, settings: &Settings) -> Place {
    if block {
        // A device has many names: whoever read its header has held its number against images.block_devices.
        return Place::Relabelable;
    }
    // The longest directory decides: a readable one inside a relabelable one stays unlabelled.
    let longest = |list: &[String]| list.iter().filter(|d| inside(path, d)).map(String::len).max();
    match (longest(&settings.images.relabelable), longest(&settings.images.readable)) {
        (Some(relabel), read) if read.is_none_or(|read| relabel >= read) => Place::Relabelable,
        (_, Some(_)) => Place::Readable,
        _ => Place::Elsewhere,
    }
}

/// An identity for whoever cannot look: the same for the same path, and hardly ever for another one.
#[must_use]
pub fn made_up(path: &str) -> FileIdentity {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    FileIdentity { device: 0, inode: hasher.finish() }
}

/// The layers that a definition itself names, for whoever cannot read the images; their identities are made up.
#[must_use]
pub fn declared(disk: &Disk) -> Chain {
    let mut layers = Vec::new();
    let mut at: Option<&DiskSource> = disk.source.as_ref();
    while let Some(source) = at {
        layers.push(Layer {
            path: source.path.clone(),
            kind: match source.kind {
                SourceKind::Block => ImageKind::Block,
                SourceKind::File => ImageKind::File,
            },
            format: source.format,
            identity: made_up(&source.path),
            seclabels: source.seclabels.clone(),
        });
        at = match &source.backing {
            Backing::Layer(below) => Some(below),
            Backing::None | Backing::Unspecified => None,
        };
    }
    Chain { target: disk.target.clone(), layers }
}
