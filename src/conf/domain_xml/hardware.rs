//! `<controller>`, `<input>`, `<sound>`, `<audio>`, `<watchdog>`, `<panic>`, `<tpm>` and `<vsock>`.

use super::scalar::{alias, number_attribute};
use super::view::{Read, View};
use super::{address, usb};
use crate::conf::domain::{
    Audio, AudioBackend, Controller, ControllerModel, Input, InputBus, InputKind, Panic, PanicModel, Sound,
    SoundCodec, SoundModel, Tpm, TpmModel, Vsock, Watchdog, WatchdogAction, WatchdogModel,
};
use crate::privsep::op::TpmVersion;

/// The words of `<controller type>`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Comes with the disks or ports that need it.
    Brought,
    Pci,
    Sata,
    Serial,
    Scsi,
    Usb,
}

/// All `<controller>`s that make devices of their own.
pub(super) fn controllers(devices: View<'_>) -> Read<Vec<Controller>> {
    let mut all: Vec<Controller> = Vec::new();
    // Index 0 is the machine's own bus.
    let mut next_pci: u8 = 1;
    let mut usbs = Vec::new();
    for view in devices.all("controller") {
        let words = [
            ("ide", Kind::Brought),
            ("pci", Kind::Pci),
            ("sata", Kind::Sata),
            ("scsi", Kind::Scsi),
            ("usb", Kind::Usb),
            ("virtio-serial", Kind::Serial),
        ];
        view.required("type")?;
        match view.word("type", &words)?.unwrap_or(Kind::Brought) {
            Kind::Brought => brought(view)?,
            Kind::Sata => all.extend(sata(view, &all)?),
            Kind::Scsi => all.push(only(view, &all, ControllerModel::VirtioScsi, &["virtio-scsi"])?),
            Kind::Serial => all.push(only(view, &all, ControllerModel::VirtioSerial, &[])?),
            Kind::Usb => usbs.push(view),
            Kind::Pci => all.extend(pci(view, &mut next_pci)?),
        }
    }
    all.extend(usb::controllers(&usbs)?);
    unique(devices, &all)?;
    Ok(all)
}

fn unique(devices: View<'_>, all: &[Controller]) -> Read<()> {
    for (at, controller) in all.iter().enumerate().filter(|(_, controller)| controller.model.is_bus()) {
        let mut buses = all.iter().take(at).filter(|other| other.model.is_bus());
        if let Some(first) = buses.find(|other| other.index == controller.index) {
            let what = format!("<controller type='pci' index='{}'>", controller.index);
            let mut error = devices.duplicate(what, first.line);
            error.line = controller.line;
            return Err(error);
        }
    }
    Ok(())
}

/// A controller of the chip set, which is where it is.
fn brought(view: View<'_>) -> Read<()> {
    view.only(&["index", "type"], &["address", "alias"])?;
    alias(view)?;
    view.fixed("index", &["0"])?;
    // The IDE controller of an i440fx.
    match address::pci(view)? {
        Some(address) if (address.bus, address.slot, address.function) != (0, 1, 1) => {
            Err(view.unsupported("<address> of a controller of the chip set"))
        }
        _ => Ok(()),
    }
}

/// The SATA controller: that of a q35 is in the chip set, at 1f.2; another machine's is a device of its own.
fn sata(view: View<'_>, all: &[Controller]) -> Read<Option<Controller>> {
    view.only(&["index", "type"], &["address", "alias"])?;
    alias(view)?;
    view.fixed("index", &["0"])?;
    if let Some(first) = all.iter().find(|other| other.model == ControllerModel::Sata) {
        return Err(view.duplicate("<controller type='sata'>", first.line));
    }
    let address = address::pci(view)?;
    let own = address.filter(|place| (place.bus, place.slot, place.function) != (0, 0x1f, 2));
    Ok(own.map(|_| Controller { model: ControllerModel::Sata, index: 0, address, line: view.line() }))
}

/// The one controller of its type.
fn only(view: View<'_>, all: &[Controller], model: ControllerModel, models: &[&str]) -> Read<Controller> {
    view.only(&["index", "model", "type"], &["address", "alias"])?;
    alias(view)?;
    view.fixed("index", &["0"])?;
    if models.is_empty() && view.attribute("model").is_some() {
        return Err(view.unsupported("attribute model of this <controller>"));
    }
    view.fixed("model", models)?;
    if let Some(first) = all.iter().find(|other| other.model == model) {
        return Err(view.duplicate("<controller> of this type", first.line));
    }
    Ok(Controller { model, index: 0, address: address::pci(view)?, line: view.line() })
}

/// The words of `<controller type='pci' model>`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PciModel {
    Bridge,
    Root,
    RootPort,
}

fn pci(view: View<'_>, next: &mut u8) -> Read<Option<Controller>> {
    view.only(&["index", "model", "type"], &["address", "alias", "model", "target"])?;
    alias(view)?;
    view.required("model")?;
    let words = [
        ("pci-root", PciModel::Root),
        ("pcie-root", PciModel::Root),
        ("pcie-root-port", PciModel::RootPort),
        ("pcie-to-pci-bridge", PciModel::Bridge),
    ];
    let model = view.word("model", &words)?.unwrap_or(PciModel::Root);
    if model == PciModel::Root {
        view.fixed("index", &["0"])?;
        view.only(&["index", "model", "type"], &["alias"])?;
        return Ok(None);
    }
    let index = number_attribute::<u8>(view, "index", 1)?.unwrap_or(*next);
    *next = (*next).max(index).saturating_add(1);
    if let Some(name) = view.one("model")? {
        name.only(&["name"], &[])?;
        name.fixed("name", &["pcie-root-port", "pcie-pci-bridge"])?;
    }
    let (mut chassis, mut port, mut hotplug) = (None, None, true);
    if let Some(target) = view.one("target")? {
        target.only(&["chassis", "hotplug", "port"], &[])?;
        chassis = number_attribute(target, "chassis", 1)?;
        port = address::byte(target, "port")?;
        hotplug = target.switch("hotplug", "on", "off")?.unwrap_or(true);
    }
    let model = match model {
        PciModel::RootPort => ControllerModel::PcieRootPort { chassis, port, hotplug },
        _ => ControllerModel::PcieToPciBridge,
    };
    Ok(Some(Controller { model, index, address: address::pci(view)?, line: view.line() }))
}

/// All `<input>`s but those that every machine has.
pub(super) fn inputs(devices: View<'_>) -> Read<Vec<Input>> {
    let mut inputs = Vec::new();
    for view in devices.all("input") {
        view.only(&["bus", "type"], &["address", "alias"])?;
        alias(view)?;
        view.required("type")?;
        let kinds =
            [("keyboard", InputKind::Keyboard), ("mouse", InputKind::Mouse), ("tablet", InputKind::Tablet)];
        let kind = view.word("type", &kinds)?.unwrap_or(InputKind::Tablet);
        let tablet = [("usb", Some(InputBus::Usb)), ("virtio", Some(InputBus::Virtio))];
        let others = [("ps2", None), tablet[0], tablet[1]];
        // libvirt's defaults: a tablet is on usb, the others are the machine's own.
        let bus = match kind {
            InputKind::Tablet => view.word("bus", &tablet)?.unwrap_or(Some(InputBus::Usb)),
            InputKind::Keyboard | InputKind::Mouse => view.word("bus", &others)?.unwrap_or(None),
        };
        let Some(bus) = bus else {
            view.only(&["bus", "type"], &["alias"])?;
            continue;
        };
        let (address, port) = match bus {
            InputBus::Usb => (None, address::usb(view)?),
            InputBus::Virtio => (address::pci(view)?, None),
        };
        inputs.push(Input { kind, bus, address, port, line: view.line() });
    }
    Ok(inputs)
}

/// All `<sound>`s.
pub(super) fn sounds(devices: View<'_>) -> Read<Vec<Sound>> {
    devices.all("sound").map(sound).collect()
}

fn sound(view: View<'_>) -> Read<Sound> {
    view.only(&["model"], &["address", "alias", "audio", "codec"])?;
    alias(view)?;
    view.required("model")?;
    let models = [
        ("ac97", SoundModel::Ac97),
        ("es1370", SoundModel::Es1370),
        ("ich6", SoundModel::Ich6),
        ("ich9", SoundModel::Ich9),
    ];
    let model = view.word("model", &models)?.unwrap_or(SoundModel::Ich9);
    let words =
        [("duplex", SoundCodec::Duplex), ("micro", SoundCodec::Micro), ("output", SoundCodec::Output)];
    let mut codecs = Vec::new();
    for codec in view.all("codec") {
        if !matches!(model, SoundModel::Ich6 | SoundModel::Ich9) {
            return Err(codec.unsupported("<codec> of this <sound>"));
        }
        codec.only(&["type"], &[])?;
        codec.required("type")?;
        codecs.extend(codec.word("type", &words)?);
        // The controller of QEMU has 15 addresses for codecs.
        if codecs.len() > 15 {
            return Err(codec.unsupported("more than 15 <codec>s of one <sound>"));
        }
    }
    let audio = match view.one("audio")? {
        None => None,
        Some(audio) => {
            audio.only(&["id"], &[])?;
            audio.required("id")?;
            number_attribute(audio, "id", 1)?
        }
    };
    Ok(Sound { model, codecs, audio, address: address::pci(view)?, line: view.line() })
}

/// All `<audio>`s.
pub(super) fn audios(devices: View<'_>) -> Read<Vec<Audio>> {
    let mut audios: Vec<Audio> = Vec::new();
    for view in devices.all("audio") {
        view.only(&["id", "type"], &[])?;
        view.required("type")?;
        let backend = view.word("type", &[("none", AudioBackend::None), ("spice", AudioBackend::Spice)])?;
        let next = audios.iter().map(|audio| audio.id).max().unwrap_or(0).saturating_add(1);
        let id = number_attribute(view, "id", 1)?.unwrap_or(next);
        if audios.iter().any(|audio| audio.id == id) {
            return Err(view.contradiction(
                format!("the id {id} of <audio> stands twice"),
                "give each <audio> an id of its own",
            ));
        }
        audios.push(Audio { id, backend: backend.unwrap_or(AudioBackend::None) });
    }
    Ok(audios)
}

/// A sound device plays to a back-end that is there.
pub(super) fn check_audio(devices: View<'_>, sounds: &[Sound], audios: &[Audio]) -> Read<()> {
    for sound in sounds {
        if let Some(id) = sound.audio.filter(|id| !audios.iter().any(|audio| audio.id == *id)) {
            let what =
                format!("the <sound> of line {} plays to the <audio> {id}, which is not there", sound.line);
            return Err(devices.contradiction(what, format!("add <audio id='{id}' type='none'/>")));
        }
    }
    Ok(())
}

/// All `<watchdog>`s: one of each model.
pub(super) fn watchdogs(devices: View<'_>) -> Read<Vec<Watchdog>> {
    let mut watchdogs: Vec<Watchdog> = Vec::new();
    for view in devices.all("watchdog") {
        view.only(&["action", "model"], &["address", "alias"])?;
        alias(view)?;
        view.required("model")?;
        let models = [
            ("i6300esb", WatchdogModel::I6300esb),
            ("ib700", WatchdogModel::Ib700),
            ("itco", WatchdogModel::Itco),
        ];
        let actions = [
            ("inject-nmi", WatchdogAction::InjectNmi),
            ("none", WatchdogAction::None),
            ("pause", WatchdogAction::Pause),
            ("poweroff", WatchdogAction::Poweroff),
            ("reset", WatchdogAction::Reset),
            ("shutdown", WatchdogAction::Shutdown),
        ];
        let model = view.word("model", &models)?.unwrap_or(WatchdogModel::Itco);
        let action = view.word("action", &actions)?.unwrap_or(WatchdogAction::Reset);
        let address = if model == WatchdogModel::I6300esb {
            address::pci(view)?
        } else {
            view.only(&["action", "model"], &["alias"])?;
            None
        };
        if let Some(other) = watchdogs.first() {
            if other.action != action {
                return Err(view.contradiction(
                    "QEMU has one action for all watchdogs, and these differ",
                    "give every <watchdog> the same action",
                ));
            }
            if let Some(first) = watchdogs.iter().find(|other| other.model == model) {
                return Err(view.duplicate("<watchdog> of this model", first.line));
            }
        }
        watchdogs.push(Watchdog { model, action, address, line: view.line() });
    }
    Ok(watchdogs)
}

/// All `<panic>`s: as in libvirt, one of each model.
pub(super) fn panics(devices: View<'_>) -> Read<Vec<Panic>> {
    let mut panics: Vec<Panic> = Vec::new();
    for view in devices.all("panic") {
        view.only(&["model"], &["address", "alias"])?;
        alias(view)?;
        let pci = view.word("model", &[("isa", false), ("pvpanic", true)])?.unwrap_or(false);
        let model = if pci {
            PanicModel::Pci { address: address::pci(view)? }
        } else {
            PanicModel::Isa { port: address::isa(view)? }
        };
        let same = |other: &&Panic| matches!(other.model, PanicModel::Pci { .. }) == pci;
        if let Some(first) = panics.iter().find(same) {
            return Err(view.duplicate("<panic> of this model", first.line));
        }
        panics.push(Panic { model, line: view.line() });
    }
    Ok(panics)
}

/// `<tpm>`: an emulated one.
pub(super) fn tpm(devices: View<'_>) -> Read<Option<Tpm>> {
    let Some(view) = devices.one("tpm")? else { return Ok(None) };
    view.only(&["model"], &["alias", "backend"])?;
    alias(view)?;
    let models = [("tpm-crb", TpmModel::Crb), ("tpm-tis", TpmModel::Tis)];
    let model = view.word("model", &models)?.unwrap_or(TpmModel::Tis);
    let backend = view.one("backend")?.ok_or_else(|| view.missing("<backend> of <tpm>"))?;
    backend.only(&["persistent_state", "type", "version"], &[])?;
    backend.required("type")?;
    backend.fixed("type", &["emulator"])?;
    let versions = [("1.2", TpmVersion::V1_2), ("2.0", TpmVersion::V2_0)];
    let version = backend.word("version", &versions)?.unwrap_or_default();
    if (model, version) == (TpmModel::Crb, TpmVersion::V1_2) {
        return Err(
            view.contradiction("a TPM 1.2 has no CRB interface", "write model='tpm-tis', or version='2.0'")
        );
    }
    // The state is kept when the guest stops, whatever it says: only undefining a domain would remove it.
    backend.fixed("persistent_state", &["no", "yes"])?;
    Ok(Some(Tpm { model, version, line: view.line() }))
}

/// `<vsock>`
pub(super) fn vsock(devices: View<'_>) -> Read<Option<Vsock>> {
    let Some(view) = devices.one("vsock")? else { return Ok(None) };
    view.only(&["model"], &["address", "alias", "cid"])?;
    alias(view)?;
    view.fixed("model", &["virtio"])?;
    let (mut auto, mut cid) = (None, None);
    if let Some(element) = view.one("cid")? {
        element.only(&["address", "auto"], &[])?;
        auto = element.switch("auto", "yes", "no")?;
        cid = number_attribute::<u32>(element, "address", 3)?;
        if cid == Some(u32::MAX) {
            return Err(element.value("attribute address of <cid>", "4294967295", "3 to 4294967294"));
        }
    }
    // As in libvirt: the number beside auto='yes' belongs to a running domain.
    let cid = if auto == Some(true) { None } else { cid };
    if auto == Some(false) && cid.is_none() {
        return Err(view.missing("attribute address of <cid auto='no'>"));
    }
    Ok(Some(Vsock { cid, address: address::pci(view)?, line: view.line() }))
}
