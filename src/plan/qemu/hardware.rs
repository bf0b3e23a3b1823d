//! Controllers, input, sound, watchdogs and what tells of a panic.

use super::disk;
use super::pci::{Fit, Plug};
use super::usb::{self, Ports};
use super::{Args, Guest, Object};
use crate::conf::domain::{
    AudioBackend, CharTarget, Controller, ControllerModel, DiskBus, Domain, Input, InputBus, InputKind,
    PanicModel, Sound, SoundCodec, SoundModel, TpmModel, WatchdogAction, WatchdogModel,
};
use crate::plan::ports::TPM;
use crate::plan::{PlanError, slots};

/// Every controller that a device is plugged into later, so before all of them.
pub(super) fn controllers(args: &mut Args, domain: &Domain) {
    let devices = &domain.devices;
    let mut buses: Vec<&Controller> = devices.controllers.iter().filter(|c| c.model.is_bus()).collect();
    buses.sort_by_key(|controller| controller.index);
    for controller in buses {
        bus(args, controller);
    }
    let find = |wanted: fn(&ControllerModel) -> bool| devices.controllers.iter().find(|c| wanted(&c.model));
    usb::controllers(args, domain);
    let scsi = find(|model| *model == ControllerModel::VirtioScsi);
    if scsi.is_some() || devices.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        let object = Object::new("driver", "virtio-scsi-pci").with("id", "scsi0");
        args.pci(object.maybe("num_queues", disk::queues(domain)), plug("scsi0", scsi));
    }
    let serial = find(|model| *model == ControllerModel::VirtioSerial);
    let virtio = devices.consoles.iter().any(|console| console.target == CharTarget::VirtioConsole);
    if serial.is_some() || virtio || !devices.channels.is_empty() {
        let object = Object::new("driver", "virtio-serial-pci").with("id", "virtio-serial0");
        args.pci(object, plug("virtio-serial0", serial));
    }
}

fn plug(id: &str, controller: Option<&Controller>) -> Plug {
    let (address, line) = controller.map_or((None, 0), |c| (c.address, c.line));
    Plug::new(id, address, Fit::Express, line)
}

fn bus(args: &mut Args, controller: &Controller) {
    let id = format!("pci.{}", controller.index);
    let (object, fit) = match controller.model {
        ControllerModel::PcieRootPort { chassis, port, hotplug } => {
            let object = Object::new("driver", "pcie-root-port")
                .with("port", port.unwrap_or(controller.index))
                .with("chassis", chassis.unwrap_or(controller.index))
                .with("id", id.clone());
            let object = if hotplug { object } else { object.with("hotplug", false) };
            (object, Fit::Port)
        }
        _ => (Object::new("driver", "pcie-pci-bridge").with("id", id.clone()), Fit::Express),
    };
    args.pci(object, Plug::new(id, controller.address, fit, controller.line));
}

/// Inputs, sound, watchdogs, TPM, vsock, redirections and what tells of a panic.
pub(super) fn add(args: &mut Args, guest: &Guest<'_>, ports: &mut Ports) -> Result<(), PlanError> {
    let devices = &guest.domain.devices;
    for (index, one) in devices.inputs.iter().enumerate() {
        input(args, one, index, ports)?;
    }
    audios(args, guest.domain);
    for (index, one) in devices.sounds.iter().enumerate() {
        sound(args, one, index);
    }
    for (index, watchdog) in devices.watchdogs.iter().enumerate() {
        let id = format!("watchdog{index}");
        let driver = match watchdog.model {
            WatchdogModel::Itco => {
                args.pair("-global", "ICH9-LPC.noreboot=off");
                continue;
            }
            WatchdogModel::I6300esb => "i6300esb",
            WatchdogModel::Ib700 => {
                args.json("-device", Object::new("driver", "ib700").with("id", id));
                continue;
            }
        };
        let object = Object::new("driver", driver).with("id", id.clone());
        args.pci(object, Plug::new(id, watchdog.address, Fit::Fixed, watchdog.line));
    }
    if let Some(tpm) = devices.tpm {
        let fd = args.fd(slots::console(TPM, "")?);
        args.pair("-chardev", format!("socket,id=chrtpm,fd={fd}"));
        args.pair("-tpmdev", "emulator,id=tpm-tpm0,chardev=chrtpm");
        let driver = match tpm.model {
            TpmModel::Crb => "tpm-crb",
            TpmModel::Tis => "tpm-tis",
        };
        args.json("-device", Object::new("driver", driver).with("tpmdev", "tpm-tpm0").with("id", TPM));
    }
    if let (Some(vsock), Some(cid)) = (devices.vsock, guest.cid) {
        let fd = args.fd(slots::vsock()?).to_string();
        let object = Object::new("driver", "vhost-vsock-pci")
            .with("id", "vsock0")
            .with("guest-cid", cid)
            .with("vhostfd", fd);
        args.pci(object, Plug::new("vsock0", vsock.address, Fit::Express, vsock.line));
    }
    for (index, one) in devices.redirections.iter().enumerate() {
        let id = format!("redir{index}");
        args.pair("-chardev", format!("spicevmc,id=char{id},name=usbredir"));
        let port = ports.next(one.port, &id, one.line)?;
        let object = Object::new("driver", "usb-redir")
            .with("chardev", format!("char{id}"))
            .with("id", id)
            .with("bus", "usb.0")
            .with("port", port);
        args.json("-device", object);
    }
    if let Some(watchdog) = devices.watchdogs.first() {
        args.pair("-action", format!("watchdog={}", action(watchdog.action)));
    }
    panics(args, guest.domain);
    if guest.domain.features.vmcoreinfo {
        args.json("-device", Object::new("driver", "vmcoreinfo"));
    }
    Ok(())
}

/// What tells of a panic, numbered through whatever the models are.
fn panics(args: &mut Args, domain: &Domain) {
    for (index, panic) in domain.devices.panics.iter().enumerate() {
        let id = format!("panic{index}");
        match panic.model {
            PanicModel::Isa { port } => {
                let object = Object::new("driver", "pvpanic").with("id", id).maybe("ioport", port);
                args.json("-device", object);
            }
            PanicModel::Pci { address } => {
                let object = Object::new("driver", "pvpanic-pci").with("id", id.clone());
                args.pci(object, Plug::new(id, address, Fit::Fixed, panic.line));
            }
        }
    }
}

fn action(action: WatchdogAction) -> &'static str {
    match action {
        WatchdogAction::InjectNmi => "inject-nmi",
        WatchdogAction::None => "none",
        WatchdogAction::Pause => "pause",
        WatchdogAction::Poweroff => "poweroff",
        WatchdogAction::Reset => "reset",
        WatchdogAction::Shutdown => "shutdown",
    }
}

fn input(args: &mut Args, input: &Input, index: usize, ports: &mut Ports) -> Result<(), PlanError> {
    let id = format!("input{index}");
    match input.bus {
        InputBus::Usb => {
            let driver = match input.kind {
                InputKind::Keyboard => "usb-kbd",
                InputKind::Mouse => "usb-mouse",
                InputKind::Tablet => "usb-tablet",
            };
            let port = ports.next(input.port, &id, input.line)?;
            let object = Object::new("driver", driver).with("id", id).with("bus", "usb.0").with("port", port);
            args.json("-device", object);
        }
        InputBus::Virtio => {
            let driver = match input.kind {
                InputKind::Keyboard => "virtio-keyboard-pci",
                InputKind::Mouse => "virtio-mouse-pci",
                InputKind::Tablet => "virtio-tablet-pci",
            };
            let object = Object::new("driver", driver).with("id", id.clone());
            args.pci(object, Plug::new(id, input.address, Fit::Express, input.line));
        }
    }
    Ok(())
}

/// The back-ends; a sound device without one gets one that plays nowhere.
fn audios(args: &mut Args, domain: &Domain) {
    let devices = &domain.devices;
    for audio in &devices.audios {
        let driver = match audio.backend {
            AudioBackend::None => "none",
            AudioBackend::Spice => "spice",
        };
        args.json("-audiodev", Object::new("id", format!("audio{}", audio.id)).with("driver", driver));
    }
    if devices.audios.is_empty() && !devices.sounds.is_empty() {
        // As in libvirt, a SPICE client hears what no back-end is named for.
        let driver = if devices.spice.is_some() { "spice" } else { "none" };
        args.json("-audiodev", Object::new("id", "audio1").with("driver", driver));
    }
    let first = devices.audios.first().map_or(1, |audio| audio.id);
    args.audio = format!("audio{first}");
}

fn sound(args: &mut Args, sound: &Sound, index: usize) {
    let id = format!("sound{index}");
    let audio = sound.audio.map_or_else(|| args.audio.clone(), |id| format!("audio{id}"));
    let driver = match sound.model {
        SoundModel::Ac97 => "AC97",
        SoundModel::Es1370 => "ES1370",
        SoundModel::Ich6 => "intel-hda",
        SoundModel::Ich9 => "ich9-intel-hda",
    };
    let hda = matches!(sound.model, SoundModel::Ich6 | SoundModel::Ich9);
    let object = Object::new("driver", driver).with("id", id.clone());
    let object = if hda { object } else { object.with("audiodev", audio.clone()) };
    args.pci(object, Plug::new(id.clone(), sound.address, Fit::Fixed, sound.line));
    if !hda {
        return;
    }
    let default = [SoundCodec::Duplex];
    let codecs = if sound.codecs.is_empty() { &default[..] } else { &sound.codecs };
    for (cad, codec) in codecs.iter().enumerate() {
        let driver = match codec {
            SoundCodec::Duplex => "hda-duplex",
            SoundCodec::Micro => "hda-micro",
            SoundCodec::Output => "hda-output",
        };
        let object = Object::new("driver", driver)
            .with("id", format!("{id}-codec{cad}"))
            .with("bus", format!("{id}.0"))
            .with("cad", cad)
            .with("audiodev", audio.clone());
        args.json("-device", object);
    }
}
