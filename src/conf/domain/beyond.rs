//! What a definition names of the host for devices that this version does not run: enough to plan its labels, and
//! nothing to start it with.

use super::DeviceLabel;

/// One thing of the host, or a device that needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// What a person calls it, such as `hostdev 0, usb 046d:c31c`.
    pub name: String,
    /// Where it lies, if the definition says so.
    pub path: Option<String>,
    /// Line of the element in the definition.
    pub line: u32,
    /// How a device model would get at it.
    pub way: BeyondWay,
    /// Whether it is only read.
    pub readonly: bool,
    /// Whether other domains that say so too may use it at the same time.
    pub shareable: bool,
    /// Overrides, by model.
    pub seclabels: Vec<DeviceLabel>,
}

/// How a device model would get at something of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeyondWay {
    /// Through a socket that the labeller connects to a server outside.
    Connected,
    /// By a descriptor of what is this domain's alone, or shared by the domains that say so.
    Descriptor,
    /// As a file that is mounted alone into its root, because it opens it by name.
    File,
    /// By a descriptor of what every domain may have at once, such as a tap.
    Handed,
    /// Over the network, or through a socket of the network.
    Network,
    /// As a device node of its own in its root, because it opens it by name.
    Node,
    /// Not at all: the device needs nothing of the host.
    Nothing,
    /// As such a node, of a device that every domain may have at once.
    Public,
    /// Not at all, and never will.
    Refused(&'static str),
    /// Not at all: the supervisor would have it, and the device model one end of a pair of sockets.
    Supervisor,
}
