//! What becomes of a disk of a domain that runs, besides its coming and going.

use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::domain::{DiskDevice, ImageFormat};
use crate::privsep::ask::Ask;

/// What an image's size is a multiple of, in bytes.
const SECTOR: u64 = 512;

impl Manager {
    /// Gives a disk another size, in bytes; the guest sees it at once.
    pub fn resize_block(&self, uuid: DomainUuid, name: &str, bytes: u64) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let definition = live.definition.as_ref();
        let definition =
            definition.ok_or_else(|| ManagerError::state("svirtd has no definition of what runs"))?;
        let disks = definition.to_start()?.devices.disks;
        let path =
            |source: &Option<crate::conf::domain::DiskSource>| source.as_ref().map(|it| it.path.clone());
        let found =
            disks.iter().find(|disk| disk.target == name || path(&disk.source).as_deref() == Some(name));
        let missing = || ManagerError::Argument(format!("disk '{name}' was not found in the domain config"));
        let disk = found.ok_or_else(missing)?;
        let fixed =
            || ManagerError::Operation(format!("can't resize empty or readonly disk '{}'", disk.target));
        let source = disk.source.as_ref().ok_or_else(fixed)?;
        if disk.readonly || disk.device == DiskDevice::Cdrom {
            return Err(fixed());
        }
        // As libvirt does: qcow2 counts in sectors.
        let bytes = match source.format {
            ImageFormat::Qcow2 => bytes.checked_next_multiple_of(SECTOR),
            ImageFormat::Raw => Some(bytes),
        };
        let bytes = bytes.ok_or_else(|| ManagerError::Argument("the size is out of its bounds".into()))?;
        self.ask(uuid, Ask::BlockResize { node: format!("{}-0-format", disk.target), bytes })?;
        Ok(())
    }
}
