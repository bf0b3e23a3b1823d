//! Changes to what a domain is defined as, by calls that name a single thing of it.

use super::{Manager, ManagerError};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::Definition as Tree;

impl Manager {
    /// Changes what a persistent domain is defined as; what runs of it goes on as it is.
    pub fn edit(
        &self,
        uuid: DomainUuid,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        self.edit_within(uuid, &Files::ALL, edit)
    }

    /// The same for whoever may name `files` alone, and hands in something that has any: from then on its images' headers
    /// are held to these as well.
    pub(super) fn edit_within(
        &self,
        uuid: DomainUuid,
        files: &Files,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let name = self.by_uuid(uuid)?.name;
        let _reserved = self.reserve(uuid, &name);
        let domain = self.by_uuid(uuid)?;
        let Some(kept) = &domain.definition else {
            return Err(ManagerError::state("transient domains do not have any persistent config"));
        };
        let owner = kept.owner;
        let definition = self.definition(&domain)?.edited(|tree| {
            edit(tree)?;
            tree.choose(&self.choices);
            Ok(())
        })?;
        let files = definition.files().clone().and(files.clone());
        let definition = definition.with_files(files);
        self.weigh(uuid, true, owner, definition.texts().bytes())?;
        self.commit(vec![definition.to_keep(domain.autostart, owner)])?;
        let kept = self.keep(definition, owner);
        self.table().define(uuid, Some(kept));
        Ok(())
    }
}
