//! A domain's definition as values: what this version runs, and nothing that it does not.

mod beyond;
mod disk;
mod filesystem;
mod firmware;
mod hardware;
mod memory;
mod shmem;
mod smbios;

use std::net::IpAddr;

use serde::Serialize;

use super::metadata::Metadata;
use crate::base::{DomainName, DomainUuid};
use crate::privsep::password::Password;
use crate::privsep::placement::Placement;
use crate::privsep::supervisor::LifecycleAction;
use crate::privsep::tuning::Tuning;

pub use beyond::*;
pub use disk::*;
pub use filesystem::*;
pub use firmware::*;
pub use hardware::*;
pub use memory::*;
pub use shmem::*;
pub use smbios::*;

/// One domain, read and defaulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// `<domain type>`: `kvm` or `qemu`.
    pub virt: VirtType,
    /// `<name>`
    pub name: DomainName,
    /// `<uuid>`; `None` where the definition has none (the caller makes one).
    pub uuid: Option<DomainUuid>,
    /// `<title>`
    pub title: Option<String>,
    /// `<description>`
    pub description: Option<String>,
    /// `<memory>` in bytes, rounded up to whole KiB as libvirt does.
    pub memory: u64,
    /// `<currentMemory>` in bytes.
    pub current_memory: u64,
    /// `<memoryBacking>`
    pub memory_backing: MemoryBacking,
    /// `<cputune>` and `<memtune>`
    pub tuning: Tuning,
    /// Pins and `<numatune>`
    pub placement: Placement,
    /// `<vcpu>`
    pub vcpus: u32,
    /// `<vcpu current>`: how many of them the guest starts with, where it is not all of them.
    pub current_vcpus: Option<u32>,
    /// `<os>`
    pub os: Os,
    /// `<sysinfo type='fwcfg'>`
    pub fw_cfg: Vec<FwCfg>,
    /// `<sysinfo type='smbios'>`, where `<smbios mode='sysinfo'>` asks for it
    pub smbios: Vec<SmbiosTable>,
    /// `<features>`
    pub features: Features,
    /// `<cpu>`
    pub cpu: Cpu,
    /// `<clock>`
    pub clock: Clock,
    /// `<on_poweroff>`, default destroy.
    pub on_poweroff: LifecycleAction,
    /// `<on_reboot>`, default restart.
    pub on_reboot: LifecycleAction,
    /// `<on_crash>`, default destroy.
    pub on_crash: LifecycleAction,
    /// `<pm>`
    pub pm: PowerManagement,
    /// `<devices>`
    pub devices: Devices,
    /// `<seclabel>`, in order.
    pub seclabels: Vec<SecLabel>,
    /// svirt's own facts in `<metadata>`.
    pub metadata: Metadata,
}

/// Which accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// Hardware.
    Kvm,
    /// TCG.
    Qemu,
}

/// `<os>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Os {
    /// `<type machine=…>`, such as `q35` or `pc-i440fx-7.2`; default `pc`.
    pub machine: String,
    /// What boots.
    pub boot: Boot,
    /// `<bootmenu enable='yes'>`
    pub menu: Option<BootMenu>,
    /// UEFI firmware, where it is not the machine's own.
    pub firmware: Option<Firmware>,
}

/// `<bootmenu enable='yes'>`: the firmware lets a person choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BootMenu {
    /// `timeout`: for so many milliseconds; the firmware's own time without one.
    pub timeout: Option<u16>,
}

/// What a guest boots from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Boot {
    /// Firmware and these kinds of devices, in order; or each device's own `<boot order>`.
    Devices(Vec<BootDevice>),
    /// A kernel given directly.
    Kernel {
        /// `<kernel>`
        kernel: String,
        /// `<initrd>`
        initrd: Option<String>,
        /// `<cmdline>`
        cmdline: Option<String>,
        /// `<dtb>`
        dtb: Option<String>,
    },
}

/// `<boot dev=…>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    /// `cdrom`
    Cdrom,
    /// `hd`
    Hd,
    /// `network`
    Network,
}

/// `<features>`: each is on where its element stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Features {
    /// `<acpi/>`
    pub acpi: bool,
    /// `<apic/>`
    pub apic: bool,
    /// `<pae/>`
    pub pae: bool,
    /// `<smm state=…/>`: system management mode.
    pub smm: Option<bool>,
    /// `<vmport state=…/>`
    pub vmport: Option<bool>,
    /// `<vmcoreinfo state=…/>`: the guest's kernel tells where its own notes are, for whoever reads a dump of it.
    pub vmcoreinfo: bool,
}

/// `<cpu>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Which CPU the guest sees.
    pub mode: CpuMode,
    /// `<topology>`: sockets, dies, cores, threads; their product is the number of vcpus.
    pub topology: Option<CpuTopology>,
    /// `<feature name policy>`: name and whether it is on (`require`, `force`) or off (`disable`, `forbid`).
    pub features: Vec<(String, bool)>,
    /// `<numa>`: the guest's nodes by their numbers; empty where it has none.
    pub numa: Vec<NumaCell>,
}

/// `<cpu mode>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum CpuMode {
    /// `custom` with a `<model>`.
    Custom(String),
    /// No `<cpu>`, or one without a mode: QEMU's default.
    Default,
    /// `host-model`: run as `host` under KVM and as `max` under TCG.
    HostModel,
    /// `host-passthrough`
    HostPassthrough,
    /// `maximum`
    Maximum,
}

/// `<topology>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CpuTopology {
    /// Sockets.
    pub sockets: u32,
    /// Dies a socket.
    pub dies: u32,
    /// Cores a die.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

/// `<clock>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clock {
    /// `offset`
    pub offset: ClockOffset,
    /// `<timer>`s.
    pub timers: Vec<Timer>,
}

/// `<clock offset>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockOffset {
    /// `localtime`
    Localtime,
    /// `utc`
    Utc,
}

/// `<timer>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timer {
    /// `name`
    pub name: TimerName,
    /// `present`
    pub present: Option<bool>,
    /// `tickpolicy`
    pub tickpolicy: Option<TickPolicy>,
}

/// Which timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimerName {
    /// The HPET.
    Hpet,
    /// The KVM clock.
    Kvmclock,
    /// The i8254.
    Pit,
    /// The real-time clock.
    Rtc,
}

/// What happens to missed ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TickPolicy {
    /// Delivered late, all of them.
    Catchup,
    /// Delivered late at the normal rate.
    Delay,
    /// Thrown away.
    Discard,
}

/// `<devices>`, each kind in the order of the definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// `<emulator>`
    pub emulator: Option<String>,
    /// `<controller>`s that make devices of their own.
    pub controllers: Vec<Controller>,
    /// `<disk>`, cdroms among them.
    pub disks: Vec<Disk>,
    /// `<interface>`
    pub interfaces: Vec<Interface>,
    /// `<serial>`
    pub serials: Vec<CharDevice>,
    /// `<console>`; the first one of type serial mirrors the first `<serial>` and is not repeated here.
    pub consoles: Vec<CharDevice>,
    /// `<filesystem>`
    pub filesystems: Vec<Filesystem>,
    /// `<rng>`
    pub rngs: Vec<Rng>,
    /// `<memballoon>`: `None` for `model='none'`; absent means virtio, as in libvirt.
    pub memballoon: Option<MemBalloon>,
    /// `<graphics type='spice'>`
    pub spice: Option<Spice>,
    /// `<redirdev>`
    pub redirections: Vec<Redirection>,
    /// `<graphics type='vnc'>`
    pub vncs: Vec<Vnc>,
    /// `<video>`, in order; with a `<graphics>` and no `<video>` libvirt adds one.
    pub videos: Vec<Video>,
    /// `<channel>`: ports of the virtio-serial controller that programs in the guest find by name.
    pub channels: Vec<CharDevice>,
    /// `<input>`s that are devices of their own.
    pub inputs: Vec<Input>,
    /// `<shmem>`
    pub shmems: Vec<Shmem>,
    /// `<sound>`
    pub sounds: Vec<Sound>,
    /// `<audio>`
    pub audios: Vec<Audio>,
    /// `<tpm>`
    pub tpm: Option<Tpm>,
    /// `<vsock>`
    pub vsock: Option<Vsock>,
    /// `<watchdog>`
    pub watchdogs: Vec<Watchdog>,
    /// `<panic>`: at most one of each model.
    pub panics: Vec<Panic>,
}

impl Devices {
    /// What its displays ask of those who come to them.
    #[must_use]
    pub fn passwords(&self) -> Vec<Password> {
        let vncs = self.vncs.iter().filter_map(|vnc| vnc.password.clone());
        vncs.chain(self.spice.iter().filter_map(|spice| spice.password.clone())).collect()
    }
}

/// `<interface>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Where its packets go.
    pub backend: InterfaceBackend,
    /// `<mac address>`; made from the uuid and the position where the definition has none.
    pub mac: Option<[u8; 6]>,
    /// `<model type>`
    pub model: InterfaceModel,
    /// `<mtu size>`: the largest frame in bytes, of one on a bridge.
    pub mtu: Option<u32>,
    /// `<link state='down'>`: the cable is out at the start.
    pub link_down: bool,
    /// `<boot order>`
    pub boot_order: Option<u32>,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<interface type>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum InterfaceBackend {
    /// `bridge`: a tap device of its own, plugged into a bridge of the host.
    Bridge {
        /// `<source bridge>`
        bridge: String,
        /// `<target dev>`; none where svirt chooses, as for names that begin with `vnet`.
        target: Option<String>,
    },
    /// `network` with `<source network='default'/>`: what the configuration says that it is.
    DefaultNetwork {
        /// `<target dev>`, of the tap device where the network is a bridge.
        target: Option<String>,
    },
    /// `ethernet` with `<target dev=… managed='no'/>`: an existing tap device.
    Tap(String),
    /// `user`, with or without `<backend type='passt'/>`.
    User,
}

/// `<model type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceModel {
    /// `e1000`
    E1000,
    /// `e1000e`
    E1000e,
    /// `rtl8139`
    Rtl8139,
    /// `virtio`
    Virtio,
}

/// `<serial>` or `<console>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CharDevice {
    /// Where its bytes go.
    pub source: CharSource,
    /// `<target type>`: what the guest sees.
    pub target: CharTarget,
    /// `<address type='virtio-serial' port>`: its number on the controller, 0 for consoles only.
    pub port: Option<u8>,
    /// `<log file append>`
    pub log: Option<(String, bool)>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<serial type>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum CharSource {
    /// `file`
    File {
        /// Absolute path.
        path: String,
        /// `append='on'`
        append: bool,
    },
    /// `pty`
    Pty,
    /// `spicevmc`: the agent's channel of the SPICE server.
    SpiceVmc,
    /// `unix` with `mode='bind'` and no path: the supervisor listens in the first directory of `console.sockets`.
    UnixAuto,
    /// `unix` with `mode='bind'`: the supervisor listens.
    UnixListen {
        /// Absolute path.
        path: String,
    },
}

/// What kind of port the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum CharTarget {
    /// A port of a virtio-serial controller that has this name in the guest.
    Channel(String),
    /// A 16550A: `isa-serial`.
    IsaSerial,
    /// A port of a virtio-serial controller.
    VirtioConsole,
}

/// `<rng>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rng {
    /// `<rate bytes period>`: bytes, milliseconds.
    pub rate: Option<(u64, u64)>,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// `<backend>`: `builtin`, or `random` (read from `/dev/urandom`, run as builtin; no file is opened).
    pub backend: RngBackend,
}

/// `<rng><backend model>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RngBackend {
    /// `builtin`
    Builtin,
    /// `random` with `/dev/urandom` or `/dev/random`.
    Random,
}

/// `<memballoon model='virtio'>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemBalloon {
    /// `autodeflate`
    pub autodeflate: Option<bool>,
    /// `freePageReporting`
    pub free_page_reporting: Option<bool>,
    /// How often the guest is asked what its memory is used for, in seconds; `None` where it is not.
    pub period: Option<u32>,
    /// `<address>`
    pub address: Option<PciAddress>,
}

/// `<graphics type='vnc'>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vnc {
    /// Where it listens.
    pub listen: VncListen,
    /// `passwd`, `passwdValidTo` and `connected`: what it asks of those who come.
    #[serde(skip)]
    pub password: Option<Password>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<listen>` of a VNC server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum VncListen {
    /// An address, default 127.0.0.1, and a port; `None` is `autoport`.
    Address(IpAddr, Option<u16>),
    /// `type='none'`: no listener.
    None,
    /// `type='socket'`
    Socket(String),
}

/// `<seclabel>` of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecLabel {
    /// `model`: `selinux`, `dac`, `none`.
    pub model: String,
    /// How the label comes about.
    pub kind: SecLabelKind,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<seclabel type>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SecLabelKind {
    /// `dynamic`, with the `<baselabel>` if there is one.
    Dynamic {
        /// `<baselabel>`
        baselabel: Option<String>,
    },
    /// `none`
    None,
    /// `static`
    Static {
        /// `<label>`
        label: String,
        /// `<imagelabel>`
        imagelabel: Option<String>,
        /// `relabel='yes'`
        relabel: bool,
    },
}

/// `<source><seclabel>` of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceLabel {
    /// `model`; `None` applies to every model.
    pub model: Option<String>,
    /// `<label>` where it is relabelled, `None` for `relabel='no'`.
    pub label: Option<String>,
}
