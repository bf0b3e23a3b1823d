//! Directories of the host: virtiofs behind a socket, 9p out of the minimal root.

use super::pci::{Fit, Plug};
use super::{Args, Guest, Object};
use crate::conf::domain::{AccessMode, FilesystemDriver, MultiDevices, NinePOptions};
use crate::plan::{PlanError, shares, slots};
use crate::privsep::confinement::RootShare;

pub(super) fn add(args: &mut Args, guest: &Guest<'_>) -> Result<(), PlanError> {
    for (index, one) in guest.domain.devices.filesystems.iter().enumerate() {
        let id = shares::alias(index);
        let object = match &one.driver {
            FilesystemDriver::Virtiofs(options) => {
                let fd = args.fd(slots::console(&id, "")?);
                args.pair("-chardev", format!("socket,id=chr-vu-{id},fd={fd}"));
                Object::new("driver", "vhost-user-fs-pci")
                    .with("id", id.clone())
                    .with("chardev", format!("chr-vu-{id}"))
                    .maybe("queue-size", options.queue)
                    .with("tag", one.tag.clone())
            }
            FilesystemDriver::Path(options) => {
                args.pair("-fsdev", backend(&id, index, options, one.readonly));
                Object::new("driver", "virtio-9p-pci")
                    .with("id", id.clone())
                    .with("fsdev", format!("fsdev-{id}"))
                    .with("mount_tag", one.tag.clone())
            }
        };
        args.pci(object, Plug::new(id, one.address, Fit::Express, one.line));
    }
    Ok(())
}

/// `-fsdev`; nothing of it is a text of the definition.
fn backend(id: &str, index: usize, options: &NinePOptions, readonly: bool) -> String {
    let model = match options.access {
        AccessMode::Mapped => "mapped",
        AccessMode::Squash => "none",
    };
    let path = RootShare::path(u8::try_from(index).unwrap_or(u8::MAX));
    let mut text = format!("local,security_model={model}");
    if let Some(devices) = options.multidevs {
        let word = match devices {
            MultiDevices::Forbid => "forbid",
            MultiDevices::Remap => "remap",
            MultiDevices::Warn => "warn",
        };
        text.push_str(&format!(",multidevs={word}"));
    }
    for (name, mode) in [("fmode", options.fmode), ("dmode", options.dmode)] {
        if let Some(mode) = mode {
            text.push_str(&format!(",{name}={mode:04o}"));
        }
    }
    text.push_str(&format!(",id=fsdev-{id},path={path}"));
    if readonly {
        text.push_str(",readonly=on");
    }
    text
}
