//! Controllers, their ports, and the devices around the guest: input, sound, watchdog, video.

use serde::Serialize;

use super::VncListen;
use crate::privsep::op::TpmVersion;
use crate::privsep::password::Password;

/// `<address type='pci'>`; `domain` is always 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PciAddress {
    /// Index of the controller that it is plugged into.
    pub bus: u8,
    /// 0 to 31.
    pub slot: u8,
    /// 0 to 7.
    pub function: u8,
    /// `multifunction`
    pub multifunction: bool,
}

/// `<address type='usb'>` on the one USB controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UsbPort(pub u8);

/// `<controller>` that makes a device of its own. Those that the devices of their kind bring with them (sata, ide,
/// and the first scsi or virtio-serial where the definition names none) are not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Controller {
    /// `type` and `model`
    pub model: ControllerModel,
    /// `index`; counted by type where the definition has none.
    pub index: u8,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// What a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControllerModel {
    /// `pci`, `pcie-root-port`: takes one device, also while the guest runs.
    PcieRootPort {
        /// `<target chassis>`
        chassis: Option<u8>,
        /// `<target port>`
        port: Option<u8>,
        /// `<target hotplug>`, on where absent.
        hotplug: bool,
    },
    /// `pci`, `pcie-to-pci-bridge`: 31 slots for conventional devices.
    PcieToPciBridge,
    /// `sata` of a machine whose chip set has none, where the definition gives it a place.
    Sata,
    /// `scsi`, `virtio-scsi`; the first.
    VirtioScsi,
    /// `virtio-serial`; the first.
    VirtioSerial,
    /// `usb`, of one of the older kinds.
    Usb(UsbModel),
    /// `usb`, `qemu-xhci`
    Xhci {
        /// `ports`, 1 to 15.
        ports: Option<u8>,
    },
}

/// `<controller type='usb' model>` of the older kinds, and the companions of the one for USB 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsbModel {
    /// `ich9-ehci1`: USB 2, six ports.
    Ich9Ehci1,
    /// `ich9-uhci1`, `ich9-uhci2`, `ich9-uhci3`: USB 1 on two ports each of the controller before.
    Ich9Uhci {
        /// Which one, from 1.
        number: u8,
        /// `<master startport>`
        first_port: u8,
    },
    /// `piix3-uhci`: USB 1, two ports.
    Piix3Uhci,
}

/// `<input>` that is a device of its own; the machine has keyboard and mouse on ps2 anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Input {
    /// `type`
    pub kind: InputKind,
    /// `bus`
    pub bus: InputBus,
    /// `<address type='pci'>` of one on virtio.
    pub address: Option<PciAddress>,
    /// `<address type='usb'>` of one on usb.
    pub port: Option<UsbPort>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<input type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// `keyboard`
    Keyboard,
    /// `mouse`
    Mouse,
    /// `tablet`: absolute positions.
    Tablet,
}

/// `<input bus>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputBus {
    /// `usb`
    Usb,
    /// `virtio`
    Virtio,
}

/// `<sound>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sound {
    /// `model`
    pub model: SoundModel,
    /// `<codec type>`s of an HDA controller; one `duplex` where the definition has none.
    pub codecs: Vec<SoundCodec>,
    /// `<audio id>`; the first back-end where absent.
    pub audio: Option<u32>,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<sound model>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SoundModel {
    /// `ac97`
    Ac97,
    /// `es1370`
    Es1370,
    /// `ich6`: Intel HDA.
    Ich6,
    /// `ich9`: Intel HDA of ICH9.
    Ich9,
}

/// `<codec type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SoundCodec {
    /// `duplex`: line in and line out.
    Duplex,
    /// `micro`: microphone and speaker.
    Micro,
    /// `output`
    Output,
}

/// `<audio>`: where sound goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Audio {
    /// `id`
    pub id: u32,
    /// `type`
    pub backend: AudioBackend,
}

/// `<audio type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioBackend {
    /// `none`: nowhere.
    None,
    /// `spice`: to the client of the SPICE server.
    Spice,
}

/// `<watchdog>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watchdog {
    /// `model`
    pub model: WatchdogModel,
    /// `action`, default reset.
    pub action: WatchdogAction,
    /// `<address>` of an i6300esb.
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<watchdog model>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogModel {
    /// `i6300esb`, a PCI device.
    I6300esb,
    /// `ib700`, an ISA device.
    Ib700,
    /// `itco`: in the chip set of every q35; this switches its reset line on.
    Itco,
}

/// `<watchdog action>`, in QEMU's words too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// `inject-nmi`
    InjectNmi,
    /// `none`
    None,
    /// `pause`
    Pause,
    /// `poweroff`
    Poweroff,
    /// `reset`
    Reset,
    /// `shutdown`: the guest is asked.
    Shutdown,
}

/// `<panic>`: what tells the host that the guest's kernel has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Panic {
    /// `model`, and where it is.
    pub model: PanicModel,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<panic model>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PanicModel {
    /// `isa`: a port of its own, QEMU's where the definition names none.
    Isa {
        /// `<address type='isa' iobase>`
        port: Option<u16>,
    },
    /// `pvpanic`: a PCI device.
    Pci {
        /// `<address>`
        address: Option<PciAddress>,
    },
}

/// `<video>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Video {
    /// `<model type>`
    pub model: VideoModel,
    /// `vram`, KiB.
    pub vram: Option<u32>,
    /// `ram` of a QXL, KiB.
    pub ram: Option<u32>,
    /// `vgamem` of a QXL, KiB.
    pub vgamem: Option<u32>,
    /// `heads`, default 1.
    pub heads: u32,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition, 0 for one that was added.
    pub line: u32,
}

/// `<video><model type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoModel {
    /// `bochs`: a VGA without the VGA's registers.
    Bochs,
    /// `cirrus`
    Cirrus,
    /// `none`
    None,
    /// `qxl`
    Qxl,
    /// `vga`
    Vga,
    /// `virtio`
    Virtio,
}

impl ControllerModel {
    /// Whether it is a PCI bus that devices are plugged into.
    #[must_use]
    pub fn is_bus(self) -> bool {
        matches!(self, Self::PcieRootPort { .. } | Self::PcieToPciBridge)
    }
}

impl Video {
    /// One of this model with its defaults.
    #[must_use]
    pub fn new(model: VideoModel) -> Self {
        Self { model, vram: None, ram: None, vgamem: None, heads: 1, address: None, line: 0 }
    }
}

/// `<pm>`: which sleep states the firmware offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PowerManagement {
    /// `<suspend-to-mem enabled>`
    pub suspend_to_mem: Option<bool>,
    /// `<suspend-to-disk enabled>`
    pub suspend_to_disk: Option<bool>,
}

/// `<graphics type='spice'>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spice {
    /// Where it listens.
    pub listen: VncListen,
    /// QEMU's options that the children ask for, in QEMU's words: name and value.
    pub options: Vec<(&'static str, &'static str)>,
    /// `passwd`, `passwdValidTo` and `connected`: what it asks of those who come.
    #[serde(skip)]
    pub password: Option<Password>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<redirdev bus='usb' type='spicevmc'>`: a USB device of the SPICE client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirection {
    /// `<address type='usb'>`
    pub port: Option<UsbPort>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<tpm>` with `<backend type='emulator'>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tpm {
    /// `model`
    pub model: TpmModel,
    /// `<backend version>`, 2.0 where absent.
    pub version: TpmVersion,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<vsock model='virtio'>`: sockets between guest and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vsock {
    /// `<cid address>`; none where svirt draws one.
    pub cid: Option<u32>,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<tpm model>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TpmModel {
    /// `tpm-crb`
    Crb,
    /// `tpm-tis`
    Tis,
}
