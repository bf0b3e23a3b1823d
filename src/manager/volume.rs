//! Disks that name volumes of storage pools: what they are for a domain that starts, or a disk that is plugged in.
//!
//! What is kept names pool and volume; which file that is, is found out anew each time it is used.

use std::sync::Arc;

use super::{Definition, DiskName, Domain, Manager, ManagerError};
use crate::base::Files;
use crate::conf::definition::VolumeName;

/// Who knows the volumes of pools.
pub trait Volumes: Send + Sync {
    /// The file of a volume.
    fn file(&self, pool: &str, volume: &str) -> Result<String, ManagerError>;
}

/// How a kept text says that a disk, or a file system, is a volume.
const VOLUME: &str = "type='volume'";

impl Definition {
    /// The volumes that its disks name.
    pub(super) fn volumes(&self) -> Result<Vec<VolumeName>, ManagerError> {
        if !self.text().contains(VOLUME) {
            return Ok(Vec::new());
        }
        Ok(self.tree()?.volumes())
    }
}

impl Manager {
    /// Lets definitions name the volumes that these know.
    #[must_use]
    pub fn with_volumes(self, volumes: Arc<dyn Volumes>) -> Self {
        Self { volumes: Some(volumes), ..self }
    }

    /// The same definition with the files of the volumes that it names.
    pub(super) fn resolved(&self, definition: Arc<Definition>) -> Result<Arc<Definition>, ManagerError> {
        let Some(volumes) = &self.volumes else { return Ok(definition) };
        if definition.volumes()?.is_empty() {
            return Ok(definition);
        }
        let with = definition.edited(|tree| tree.put_files(|volume| file(&**volumes, volume)))?;
        Ok(Arc::new(with))
    }

    /// What a domain is defined as, with the files of the volumes that it names.
    pub(super) fn kept(&self, domain: &Domain) -> Result<Arc<Definition>, ManagerError> {
        self.resolved(self.definition(domain)?)
    }

    /// The disks that a domain has, of what runs or is kept, with their files.
    pub fn disks(&self, domain: &Domain) -> Result<Vec<DiskName>, ManagerError> {
        self.resolved(self.current(domain)?)?.disks()
    }

    /// The same of one disk, as a client hands it in who may name `files`.
    pub(super) fn resolved_disk(&self, xml: &str, files: &Files) -> Result<String, ManagerError> {
        let Some(volumes) = &self.volumes else { return Ok(xml.to_owned()) };
        let mut tree = super::plug::carrier(xml)?;
        let named = tree.volumes();
        if named.is_empty() {
            return Ok(xml.to_owned());
        }
        may_name(&named, files)?;
        tree.put_files(|volume| file(&**volumes, volume))?;
        tree.first_disk().ok_or_else(|| ManagerError::Malformed("it is no disk".into()))
    }

    /// Refuses a definition that names a volume which was not in the one before it, of whoever may name only some files:
    /// rules for those give nothing on pools.
    pub(super) fn hold_volumes(
        &self,
        definition: &Definition,
        before: Option<&Definition>,
        files: &Files,
    ) -> Result<(), ManagerError> {
        if files.is_all() {
            return Ok(());
        }
        let mut named = definition.volumes()?;
        let before = before.map(Definition::volumes).transpose()?.unwrap_or_default();
        named.retain(|volume| !before.contains(volume));
        may_name(&named, files)
    }
}

fn may_name(volumes: &[VolumeName], files: &Files) -> Result<(), ManagerError> {
    match volumes.first().filter(|_| !files.is_all()) {
        None => Ok(()),
        Some(VolumeName { target, pool, volume, .. }) => Err(ManagerError::Denied(format!(
            "disk '{target}' may not be the volume '{volume}' of pool '{pool}': whoever is held to a list of files names \
             no pools; name the volume's file, with type='file'"
        ))),
    }
}

fn file(volumes: &dyn Volumes, named: &VolumeName) -> Result<String, ManagerError> {
    if named.mode.is_some() {
        let text = "disk source mode is only valid when storage pool is of iscsi type";
        return Err(ManagerError::Malformed(text.into()));
    }
    volumes.file(&named.pool, &named.volume)
}
