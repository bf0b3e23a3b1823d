//! Domain XML to a [`Domain`], with libvirt's defaults.
//!
//! Owns what is accepted; `docs/domain-xml.md` lists it, element by element. What this version does not run is
//! refused by name and line, never dropped: each reader below names all that may stand in its element.

mod address;
mod beyond;
mod chardev;
mod disk;
mod display;
mod filesystem;
mod firmware;
mod hardware;
mod memory;
mod misc;
mod network;
mod numa;
mod placement;
mod platform;
mod scalar;
mod seclabel;
mod shmem;
mod smbios;
mod sysinfo;
mod tune;
mod usb;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::DefinitionError;
use super::domain::{
    AudioBackend, Beyond, Boot, BootDevice, CharSource, Controller, ControllerModel, CpuMode, Devices,
    DiskBus, Domain, VirtType, WatchdogModel,
};
use super::xml::Document;
use crate::base::{DomainName, DomainUuid};
use crate::privsep::supervisor::LifecycleAction;
use view::{Read, View};

/// Everything that may stand in `<domain>`.
const CHILDREN: &[&str] = &[
    "clock",
    "cpu",
    "blkiotune",
    "cputune",
    "currentMemory",
    "description",
    "devices",
    "features",
    "memory",
    "memoryBacking",
    "memtune",
    "metadata",
    "name",
    "numatune",
    "on_crash",
    "on_poweroff",
    "on_reboot",
    "os",
    "pm",
    "resource",
    "seclabel",
    "sysinfo",
    "title",
    "uuid",
    "vcpu",
];

/// Reads a definition. Time and memory are bounded whatever stands in `xml`.
pub fn parse(xml: &[u8]) -> Result<Domain, DefinitionError> {
    read(&Document::parse(xml)?)
}

/// As [`parse`], for whoever plans labels and starts nothing: devices that do not run are told apart from the
/// definition, with what they name of the host.
pub fn parse_beyond(xml: &[u8]) -> Result<(Domain, Vec<Beyond>), DefinitionError> {
    let mut document = Document::parse(xml)?;
    let beyond = beyond::take(&mut document);
    Ok((read(&document)?, beyond))
}

fn read(document: &Document<'_>) -> Read<Domain> {
    let root = scalar::domain(document)?;
    root.only(&["id", "type"], CHILDREN)?;
    // What else stands inside are other programs' notes, which no process of a start reads.
    root.one("metadata")?;
    let metadata = super::metadata::read(document)?;
    resource(root)?;
    let virt = virt(root)?;
    let (vcpus, current_vcpus) = platform::vcpus(root)?;
    let (memory, current_memory) = size(root)?;
    let (os, boot_given) = platform::os(root)?;
    let devices = devices(root)?;
    let domain = Domain {
        virt,
        name: name(root)?,
        uuid: uuid(root)?,
        title: title(root)?,
        description: text(root, "description")?.map(Cow::into_owned),
        memory,
        current_memory,
        memory_backing: memory::backing(root)?,
        tuning: tune::tuning(root)?,
        placement: placement::placement(root)?,
        vcpus,
        current_vcpus,
        os,
        fw_cfg: sysinfo::entries(root)?,
        smbios: smbios::tables(root)?,
        features: platform::features(root)?,
        cpu: platform::cpu(root, vcpus)?,
        clock: platform::clock(root)?,
        on_poweroff: action(root, "on_poweroff", LifecycleAction::Destroy)?,
        on_reboot: action(root, "on_reboot", LifecycleAction::Restart)?,
        on_crash: action(root, "on_crash", LifecycleAction::Destroy)?,
        pm: platform::pm(root)?,
        seclabels: seclabel::domain_labels(root)?,
        metadata,
        devices,
    };
    check(root, domain, boot_given)
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_domain(data: &[u8]) {
    let parsed = parse(data);
    let planned = parse_beyond(data);
    if let Ok(domain) = &parsed {
        let same = planned.as_ref().is_ok_and(|(same, beyond)| domain == same && beyond.is_empty());
        assert!(same, "what runs is planned as it runs");
    }
    if let Ok((domain, _)) = &planned {
        assert!(domain.vcpus > 0 && domain.memory > 0);
    }
    for error in parsed.err().iter().chain(planned.err().iter()) {
        assert!(!error.remedy.is_empty() && error.line > 0);
    }
}

/// The rules between elements that no single reader sees.
fn check(root: View<'_>, mut domain: Domain, boot_given: bool) -> Read<Domain> {
    let ordered = boot_orders(root, &domain.devices)?;
    if ordered && boot_given {
        return Err(root.contradiction(
            "the <boot dev> of <os> and the <boot order> of a device exclude each other",
            "remove one of the two kinds",
        ));
    }
    if !ordered && domain.os.boot == Boot::Devices(Vec::new()) {
        domain.os.boot = Boot::Devices(vec![BootDevice::Hd]);
    }
    if domain.virt == VirtType::Qemu && domain.cpu.mode == CpuMode::HostPassthrough {
        return Err(root.contradiction(
            "<cpu mode='host-passthrough'> needs KVM, and the domain is of type qemu",
            "use <cpu mode='maximum'/>, or type='kvm'",
        ));
    }
    if domain.os.machine.contains("q35")
        && let Some(disk) = domain.devices.disks.iter().find(|disk| disk.bus == DiskBus::Ide)
    {
        let mut error = root.contradiction(
            format!("disk {} is on bus ide, and the machine {} has none", disk.target, domain.os.machine),
            "use bus='sata' or bus='virtio'",
        );
        error.line = disk.line;
        return Err(error);
    }
    if domain.os.machine.contains("q35") {
        let own = |one: &&Controller| one.model == ControllerModel::Sata;
        if let Some(controller) = domain.devices.controllers.iter().find(own) {
            let what = "the SATA controller of a q35 is in its chip set, at slot 0x1f, function 0x2";
            let mut error = root.contradiction(what, "remove its <address>");
            error.line = controller.line;
            return Err(error);
        }
    } else {
        only_q35(root, &domain)?;
    }
    nodes_make_memory(root, &domain)?;
    whole_mebibytes(root, &mut domain)?;
    needs_spice(root, &domain.devices)?;
    needs_shared_memory(root, &domain)?;
    seclabel::check_overrides(root, &domain)?;
    Ok(domain)
}

/// libvirt takes the sum silently; which of the two was meant, nobody knows.
fn nodes_make_memory(root: View<'_>, domain: &Domain) -> Read<()> {
    let sum = domain.cpu.numa.iter().try_fold(0_u64, |sum, cell| sum.checked_add(cell.memory));
    if domain.cpu.numa.is_empty() || sum == Some(domain.memory) {
        return Ok(());
    }
    let view = root.one("cpu")?.unwrap_or(root);
    let what = format!("the nodes of <numa> do not make {} KiB, as <memory> says", domain.memory / 1024);
    Err(view.contradiction(what, "write their sum in <memory>"))
}

/// Memory and that of each node are rounded up to what QEMU can be given, as libvirt does it at a start.
fn whole_mebibytes(root: View<'_>, domain: &mut Domain) -> Read<()> {
    const MIB: u64 = 1 << 20;
    let whole = |bytes: u64| bytes.checked_next_multiple_of(MIB);
    let mut sum = Some(0_u64);
    for cell in &mut domain.cpu.numa {
        cell.memory = whole(cell.memory).unwrap_or(u64::MAX);
        sum = sum.and_then(|sum| sum.checked_add(cell.memory));
    }
    let memory = if domain.cpu.numa.is_empty() { whole(domain.memory) } else { sum };
    // QEMU's sizes are signed.
    let Some(memory) = memory.filter(|memory| i64::try_from(*memory).is_ok()) else {
        let view = root.one("memory")?.unwrap_or(root);
        return Err(view.value("<memory>", &view.leaf(&["unit"])?, "a memory size below 8 EiB"));
    };
    if domain.current_memory == domain.memory {
        domain.current_memory = memory;
    }
    domain.memory = memory;
    Ok(())
}

/// What talks to a SPICE client needs a server for it.
fn needs_spice(root: View<'_>, devices: &Devices) -> Read<()> {
    if devices.spice.is_some() {
        return Ok(());
    }
    let channel = devices.channels.iter().find(|channel| channel.source == CharSource::SpiceVmc);
    let found = channel.map(|channel| (channel.line, "<channel type='spicevmc'>"));
    let found = found.or(devices.redirections.first().map(|one| (one.line, "<redirdev type='spicevmc'>")));
    let audio = devices.audios.iter().any(|audio| audio.backend == AudioBackend::Spice);
    let found = found.or(audio.then_some((root.line(), "<audio type='spice'>")));
    let Some((line, what)) = found else { return Ok(()) };
    let mut error =
        root.contradiction(format!("{what} needs a <graphics type='spice'>"), "add one, or remove it");
    error.line = line;
    Err(error)
}

/// virtiofsd works in the guest's memory, as libvirt demands it too.
fn needs_shared_memory(root: View<'_>, domain: &Domain) -> Read<()> {
    let served = domain.devices.filesystems.iter().find(|one| one.virtiofs().is_some());
    let backing = &domain.memory_backing;
    let nodes = &domain.cpu.numa;
    let shared =
        if nodes.is_empty() { backing.shared } else { nodes.iter().all(|node| node.is_shared(backing)) };
    let Some(served) = served.filter(|_| !shared) else { return Ok(()) };
    let mut error = root.contradiction(
        "a virtiofs <filesystem> needs shared memory",
        "add <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
    );
    error.line = served.line;
    Err(error)
}

/// What only a q35 has.
fn only_q35(root: View<'_>, domain: &Domain) -> Read<()> {
    let ports = domain
        .devices
        .controllers
        .iter()
        .filter(|controller| controller.model.is_bus())
        .map(|controller| (controller.line, "a PCI Express port"));
    let itco = domain.devices.watchdogs.iter().filter(|watchdog| watchdog.model == WatchdogModel::Itco);
    let found = ports.chain(itco.map(|watchdog| (watchdog.line, "an itco watchdog"))).next();
    let Some((line, what)) = found else { return Ok(()) };
    let what = format!("{what} needs a q35, and the machine is {}", domain.os.machine);
    let mut error = root.contradiction(what, "use <type machine='q35'>, or remove it");
    error.line = line;
    Err(error)
}

/// Whether any device has a boot order; a number that two devices share is refused.
fn boot_orders(root: View<'_>, devices: &Devices) -> Read<bool> {
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    let disks = devices.disks.iter().map(|disk| (disk.boot_order, disk.line));
    let interfaces = devices.interfaces.iter().map(|interface| (interface.boot_order, interface.line));
    for (order, line) in disks.chain(interfaces) {
        let Some(order) = order else { continue };
        if let Some(first) = seen.insert(order, line) {
            let mut error = root.duplicate(format!("boot order {order}"), first);
            error.line = line;
            return Err(error);
        }
    }
    Ok(!seen.is_empty())
}

fn virt(root: View<'_>) -> Read<VirtType> {
    let words = [("kvm", VirtType::Kvm), ("qemu", VirtType::Qemu)];
    root.word("type", &words)?.ok_or_else(|| root.missing("attribute type of <domain>"))
}

fn text<'d>(root: View<'d>, name: &str) -> Read<Option<Cow<'d, str>>> {
    root.one(name)?.map(|child| child.leaf(&[])).transpose()
}

fn name(root: View<'_>) -> Read<DomainName> {
    let view = root.one("name")?.ok_or_else(|| root.missing("<name>"))?;
    let text = view.leaf(&[])?;
    if text.trim().is_empty() {
        return Err(view.missing("text of <name>"));
    }
    DomainName::new(text.as_ref()).map_err(|_| view.value("<name>", &text, DomainName::RULE))
}

/// libvirt takes a uuid with and without hyphens, in either case.
fn uuid(root: View<'_>) -> Read<Option<DomainUuid>> {
    let Some(view) = root.one("uuid")? else { return Ok(None) };
    let text = view.leaf(&[])?;
    let trimmed = text.trim();
    let expected = "a uuid such as 1b4e28ba-2fa1-4d2e-883f-0016d3cca427";
    if !matches!(trimmed.len(), 32 | 36) {
        return Err(view.value("<uuid>", &text, expected));
    }
    let parsed = uuid::Uuid::parse_str(trimmed).ok().filter(|uuid| !uuid.is_nil());
    parsed.map(|uuid| Some(DomainUuid(uuid))).ok_or_else(|| view.value("<uuid>", &text, expected))
}

fn title(root: View<'_>) -> Read<Option<String>> {
    let title = text(root, "title")?;
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(root.value("<title>", title.as_deref().unwrap_or_default(), "one line"));
    }
    Ok(title.map(Cow::into_owned))
}

/// `<memory>` and `<currentMemory>`, which is the same unless it says less.
fn size(root: View<'_>) -> Read<(u64, u64)> {
    let view = root.one("memory")?.ok_or_else(|| root.missing("<memory>"))?;
    let memory = scalar::memory(view)?;
    if memory == 0 {
        return Err(view.value("<memory>", "0", "more than nothing"));
    }
    let Some(view) = root.one("currentMemory")? else { return Ok((memory, memory)) };
    match scalar::memory(view)? {
        0 => Ok((memory, memory)),
        current if current > memory => {
            Err(view.contradiction("<currentMemory> is more than <memory>", "make it at most <memory>"))
        }
        current => Ok((memory, current)),
    }
}

/// libvirt writes its own default, `/machine`; svirt makes the domain's cgroup itself.
fn resource(root: View<'_>) -> Read<()> {
    let Some(resource) = root.one("resource")? else { return Ok(()) };
    resource.only(&[], &["partition"])?;
    let Some(partition) = resource.one("partition")? else { return Ok(()) };
    if partition.leaf(&[])? == "/machine" { Ok(()) } else { Err(partition.unsupported("<partition>")) }
}

fn action(root: View<'_>, name: &str, default: LifecycleAction) -> Read<LifecycleAction> {
    let Some(view) = root.one(name)? else { return Ok(default) };
    match view.leaf(&[])?.as_ref() {
        "destroy" => Ok(LifecycleAction::Destroy),
        "preserve" => Ok(LifecycleAction::Preserve),
        "restart" => Ok(LifecycleAction::Restart),
        other => {
            let what = format!("{} '{}'", view.tag(), super::error::clip(other));
            Err(view.unsupported_among(what, ["destroy", "preserve", "restart"].into_iter()))
        }
    }
}

fn devices(root: View<'_>) -> Read<Devices> {
    let Some(view) = root.one("devices")? else {
        return Ok(Devices { memballoon: Some(misc::DEFAULT_BALLOON), ..Devices::default() });
    };
    let children = [
        "audio",
        "channel",
        "console",
        "controller",
        "disk",
        "emulator",
        "filesystem",
        "graphics",
        "input",
        "interface",
        "memballoon",
        "panic",
        "redirdev",
        "rng",
        "serial",
        "shmem",
        "sound",
        "tpm",
        "video",
        "vsock",
        "watchdog",
    ];
    view.only(&[], &children)?;
    let vncs = display::vncs(view)?;
    let spice = display::spice(view)?;
    let (serials, consoles) = chardev::ports(view)?;
    let (sounds, audios) = (hardware::sounds(view)?, hardware::audios(view)?);
    hardware::check_audio(view, &sounds, &audios)?;
    Ok(Devices {
        emulator: view.one("emulator")?.map(scalar::path_text).transpose()?,
        controllers: hardware::controllers(view)?,
        disks: disk::disks(view)?,
        filesystems: filesystem::filesystems(view)?,
        interfaces: network::interfaces(view)?,
        channels: chardev::channels(view, &consoles)?,
        serials,
        consoles,
        inputs: hardware::inputs(view)?,
        shmems: shmem::shmems(view)?,
        sounds,
        audios,
        tpm: hardware::tpm(view)?,
        vsock: hardware::vsock(view)?,
        watchdogs: hardware::watchdogs(view)?,
        panics: hardware::panics(view)?,
        rngs: view.all("rng").map(misc::rng).collect::<Read<_>>()?,
        memballoon: misc::memballoon(view)?,
        videos: display::videos(view, !vncs.is_empty() || spice.is_some())?,
        redirections: display::redirections(view)?,
        spice,
        vncs,
    })
}
