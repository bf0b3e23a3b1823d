//! Disks and the layers of images below them.

use serde::Serialize;

use super::{DeviceLabel, PciAddress, UsbPort};
use crate::privsep::throttle::DiskTuning;

/// `<disk>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// `device`: disk or cdrom.
    pub device: DiskDevice,
    /// `<source>`; `None` is an empty cdrom.
    pub source: Option<DiskSource>,
    /// `<target dev>`
    pub target: String,
    /// `<target bus>`
    pub bus: DiskBus,
    /// `<readonly/>`; always so for a cdrom.
    pub readonly: bool,
    /// `<shareable/>`
    pub shareable: bool,
    /// `<driver cache>`
    pub cache: CacheMode,
    /// `<driver io>`
    pub io: Option<IoMode>,
    /// `<driver discard='unmap'>`
    pub discard: bool,
    /// `<serial>`
    pub serial: Option<String>,
    /// `<boot order>`
    pub boot_order: Option<u32>,
    /// `<address type='pci'>` of one on virtio or nvme.
    pub address: Option<PciAddress>,
    /// `unit` of `<address type='drive'>` of one on scsi, sata or ide; the target's place where absent.
    pub unit: Option<u32>,
    /// `<address type='usb'>` of one on usb.
    pub port: Option<UsbPort>,
    /// `<iotune>`
    pub tuning: DiskTuning,
    /// Line of the element in the definition, for refusals.
    pub line: u32,
}

/// `<disk device>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskDevice {
    /// `cdrom`
    Cdrom,
    /// `disk`
    Disk,
}

/// `<disk><source>` with the format of the driver and the layers below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskSource {
    /// `file` or `block`.
    pub kind: SourceKind,
    /// Absolute path.
    pub path: String,
    /// `<driver type>` or the layer's `<format type>`.
    pub format: ImageFormat,
    /// `<backingStore>`
    pub backing: Backing,
    /// `<source><seclabel>`, by model.
    pub seclabels: Vec<DeviceLabel>,
}

/// What a definition says of the layers below one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Backing {
    /// `<backingStore>` with a source.
    Layer(Box<DiskSource>),
    /// `<backingStore/>`: nothing below, whatever the header says.
    None,
    /// No element: the header decides.
    Unspecified,
}

/// `<disk type>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A block device.
    Block,
    /// A regular file.
    File,
}

/// Image formats that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// qcow2, version 2 or 3.
    Qcow2,
    /// Raw.
    Raw,
}

/// `<target bus>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// `ide`
    Ide,
    /// `nvme`, a controller for each disk.
    Nvme,
    /// `sata`
    Sata,
    /// `scsi`, on a virtio-scsi controller.
    Scsi,
    /// `usb`: mass storage.
    Usb,
    /// `virtio`
    Virtio,
}

/// `<driver cache>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// `default`: writeback.
    Default,
    /// `directsync`
    Directsync,
    /// `none`
    None,
    /// `unsafe`
    Unsafe,
    /// `writeback`
    Writeback,
    /// `writethrough`
    Writethrough,
}

/// `<driver io>`; io_uring is refused unless the configuration asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IoMode {
    /// `io_uring`
    IoUring,
    /// `native`
    Native,
    /// `threads`
    Threads,
}

/// The place of a target on its bus: `sda` is 0, `sdb` 1, `sdaa` 26.
#[must_use]
pub fn target_place(target: &str) -> Option<u32> {
    let letters = ["xvd", "hd", "sd", "vd"].iter().find_map(|prefix| target.strip_prefix(prefix))?;
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    letters
        .bytes()
        .try_fold(0u32, |sum, b| b.is_ascii_lowercase().then(|| sum * 26 + u32::from(b - b'a') + 1))
        .map(|n| n - 1)
}

#[cfg(test)]
mod tests {
    use super::target_place;

    #[test]
    fn targets_tell_their_place() {
        for (target, place) in [("vda", 0), ("sdb", 1), ("hdd", 3), ("sdz", 25), ("sdaa", 26), ("xvdc", 2)] {
            assert_eq!(target_place(target), Some(place), "{target}");
        }
        for target in ["sd", "sdA", "sd1", "fda", "", "sdaaaa"] {
            assert_eq!(target_place(target), None, "{target}");
        }
    }
}
