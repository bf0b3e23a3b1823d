//! Tap devices that a start makes: named, addressed and plugged into a bridge of the host.

use super::{Apply, kernel};
use crate::base::{Layer, Refusal, Slot};
use crate::labeller::fault;
use crate::labeller::journal::Undo;
use crate::sys::{tap, vsock};

impl Apply<'_> {
    /// Opens the host's end of a vsock; the number is the descriptor's, so there is nothing to undo.
    pub(super) fn open_vsock(&mut self, slot: &Slot, cid: u32) -> Result<(), Refusal> {
        let fd = vsock::open(cid).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    "another guest of this host has the number: start again, or write another <cid address>"
                }
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                    "load the module vhost_vsock, or remove the <vsock>"
                }
                _ => "look at the kernel's log",
            };
            kernel(&format!("take the vsock number {cid} of"), vsock::DEVICE, &error, remedy)
        })?;
        self.out.listening.push((slot.to_string(), format!("cid {cid}")));
        self.keep(slot, fd)
    }

    /// Makes a tap device, which vanishes with its last descriptor, and plugs it in once the journal has that.
    pub(super) fn make_tap(
        &mut self,
        slot: &Slot,
        bridge: &str,
        name: &str,
        mac: [u8; 6],
        mtu: Option<u32>,
    ) -> Result<(), Refusal> {
        let own = tap::bridge_mtu(bridge).map_err(|error| {
            let remedy = "make the bridge first (ip link add NAME type bridge), or name another one";
            kernel("find the bridge", bridge, &error, remedy)
        })?;
        let (fd, interface) = tap::make(name).map_err(|error| {
            kernel("make the tap device", name, &error, "load the module tun, or choose another name")
        })?;
        let index = tap::index(&interface).map_err(|error| kernel("look at", &interface, &error, ""))?;
        let Some(index) = index else {
            let rule = "the new tap device is not in this network namespace";
            return Err(Refusal::new(Layer::Kernel, "look at", interface, rule, "mount sysfs"));
        };
        fault::step("tap made")?;
        self.intent(Undo::Plug { interface: interface.clone(), index, bridge: bridge.to_owned() })?;
        let settings = tap::Settings { mac, mtu: mtu.unwrap_or(own) };
        tap::plug(&interface, bridge, settings).map_err(|error| {
            kernel(
                &format!("plug {interface} into"),
                bridge,
                &error,
                "look at `ip link` and the kernel's log",
            )
        })?;
        self.out.listening.push((slot.to_string(), interface));
        self.keep(slot, fd)
    }
}
