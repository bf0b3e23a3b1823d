//! What a domain's processes use, one value for each thing that a label could be set on, with the facts that
//! decide its label. Pure; `plan::inventory` fills it from a definition, each model's module decides over it.

use serde::Serialize;

use crate::conf::domain::{BeyondWay, DeviceLabel};
use crate::privsep::op::FileIdentity;

/// One thing that a domain uses, or one of its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What a person calls it, such as `disk vda, layer 1`; no two of one domain have the same.
    pub name: String,
    /// Where it lies; absent for what has no path or gets one at the start.
    pub path: Option<String>,
    /// Line of the element in the definition, 0 where there is none.
    pub line: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a resource is, with the facts that its label follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What a device that this version does not run would use.
    Beyond(Foreign),
    /// A kernel, initrd or device tree: read by QEMU at start.
    Boot(Place),
    /// A file that the guest's firmware finds by name: read by QEMU at start. Its number among those.
    FwCfg(Place, usize),
    /// UEFI code: read by QEMU from a descriptor.
    Firmware(Place),
    /// A pair of connected sockets: a port, the monitor, packets of a user network.
    Channel,
    /// A layer of a disk.
    Image(Image),
    /// A socket that the supervisor listens on: console, VNC, control.
    Listener,
    /// A file that the supervisor appends a port's output to.
    Log,
    /// A pseudo terminal of the supervisor.
    Pty,
    /// A process that runs for the domain.
    Process(Process),
    /// A file that one helper alone keeps its state in.
    HelperState(Process),
    /// A directory that the guest mounts.
    Share(Share),
    /// Memory that every domain has which names it: that name.
    Shmem(String),
    /// A tap device, one that exists or one that the labeller makes.
    Tap,
    /// The host's end of a guest's vsock.
    Vsock,
}

/// A layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// 0 at the top.
    pub depth: usize,
    /// Whether it is a block device.
    pub block: bool,
    /// Which file it was when its header was read.
    pub identity: FileIdentity,
    /// Whether the guest writes to this layer.
    pub writable: bool,
    /// `<shareable/>`
    pub shareable: bool,
    /// Where it lies.
    pub place: Place,
    /// Overrides of the layer itself.
    pub own: Vec<DeviceLabel>,
    /// Overrides of the top layer, which count for those below that have none.
    pub first: Vec<DeviceLabel>,
}

/// What a device that this version does not run would use. No start has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// How the device model would get at it.
    pub way: BeyondWay,
    /// Who else may have it, and what the definition says of its label.
    pub image: Image,
}

/// A directory that the guest mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whether it lies in one of the configured places.
    pub place: bool,
    /// Whether a process of its own serves it, over virtiofs; else the device model does, over 9p.
    pub served: bool,
    /// Whether the guest writes to it.
    pub writable: bool,
    /// Which directory it was when it was looked at.
    pub identity: FileIdentity,
}

/// A process that runs for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// QEMU.
    DeviceModel,
    /// passt, counted from 0 among the helpers.
    Passt(usize),
    /// The supervisor.
    Supervisor,
    /// swtpm, by its place among the helpers.
    Swtpm(usize),
    /// A server of one directory.
    Virtiofsd {
        /// Its place among the helpers.
        helper: usize,
        /// Which directory.
        share: FileIdentity,
    },
}

/// What the configuration lets a path be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In none of the configured places: a start is refused.
    Elsewhere,
    /// Read, never labelled.
    Readable,
    /// Used and labelled.
    Relabelable,
}

/// Who else may have a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// Read; what other domains read too.
    Content,
    /// Written by this domain alone.
    Private,
    /// Written by every domain that declares it shareable.
    Shared,
}

/// How the device model gets at a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It gets a descriptor that the labeller opened.
    Descriptor,
    /// It opens the one file that is mounted read-only into its root; or the one directory, or its server does.
    Mount,
    /// Not at all: the supervisor has it, and the device model one end of a pair of sockets.
    Supervisor,
    /// It gets one end of a pair of sockets that the labeller made.
    Channel,
    /// Not at all: a helper has it, and the device model one end of a pair of sockets.
    Helper,
    /// Not at all.
    None,
    /// It is a process of the domain.
    Process,
}

impl Image {
    /// Who else may have it.
    #[must_use]
    pub fn used(&self) -> Use {
        match (self.writable, self.shareable) {
            (true, true) => Use::Shared,
            (true, false) => Use::Private,
            (false, _) => Use::Content,
        }
    }
}

impl Foreign {
    /// Whether it is the domain's to label: what everybody may have at once is not.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        matches!(self.way, BeyondWay::Descriptor | BeyondWay::File | BeyondWay::Node)
    }

    /// Whether it is a file that lies where none may be used like this.
    #[must_use]
    pub fn is_misplaced(&self) -> bool {
        let place = match self.image.place {
            Place::Elsewhere => true,
            Place::Readable => self.image.writable,
            Place::Relabelable => false,
        };
        place && self.is_labelled()
    }

    fn way(&self) -> Way {
        match self.way {
            BeyondWay::Connected | BeyondWay::Network => Way::Channel,
            BeyondWay::Descriptor | BeyondWay::Handed => Way::Descriptor,
            BeyondWay::File | BeyondWay::Node | BeyondWay::Public => Way::Mount,
            BeyondWay::Nothing | BeyondWay::Refused(_) => Way::None,
            BeyondWay::Supervisor => Way::Supervisor,
        }
    }
}

impl Kind {
    /// How the device model gets at it.
    #[must_use]
    pub fn way(&self) -> Way {
        match self {
            Self::Beyond(foreign) => foreign.way(),
            Self::Boot(_) | Self::FwCfg(..) | Self::Share(_) | Self::Shmem(_) => Way::Mount,
            Self::Channel => Way::Channel,
            Self::Firmware(_) | Self::Image(_) | Self::Tap | Self::Vsock => Way::Descriptor,
            Self::Listener | Self::Log | Self::Pty => Way::Supervisor,
            Self::HelperState(_) => Way::Helper,
            Self::Process(_) => Way::Process,
        }
    }
}
