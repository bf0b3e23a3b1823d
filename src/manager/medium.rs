//! Media that come to a drive and leave it.

use super::definition::refused;
use super::given::Given;
use super::plug::{Comes, Ready};
use super::table::{Live, State};
use super::{Impact, Manager, ManagerError, interface};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::Definition as Tree;
use crate::conf::domain::Disk;
use crate::driver::throttle;
use crate::privsep::plug::Gone;

/// Puts a client's disk in the place of one that there is.
fn instead(tree: &mut Tree, target: &str, xml: &str) -> Result<(), ManagerError> {
    *tree = tree.with_disk(target, xml).map_err(refused)?;
    Ok(())
}

fn stands() -> ManagerError {
    let text = "QEMU keeps a medium open that is taken out while its guest stands: resume the guest, then put the other one in";
    ManagerError::Operation(text.into())
}

impl Manager {
    /// Whether a client's disk is a drive that runs already.
    pub(super) fn has_drive(&self, uuid: DomainUuid, given: &Given) -> Result<bool, ManagerError> {
        let live = self.live(uuid)?;
        let Some(definition) = live.definition.as_ref().filter(|_| given.device == "cdrom") else {
            return Ok(false);
        };
        Ok(definition.domain()?.devices.disks.iter().any(|disk| disk.target == given.target))
    }

    /// Takes the medium out of a drive; `false` where QEMU keeps it open until the guest goes on.
    pub(super) fn eject(
        &self,
        uuid: DomainUuid,
        target: &str,
        alias: &str,
        force: bool,
    ) -> Result<bool, ManagerError> {
        let which = Gone { alias: alias.to_owned(), medium: true };
        let gone = self.unplug(uuid, which, force)?;
        self.replace_live(uuid, None, |tree| {
            tree.eject(target);
            Ok(())
        })?;
        Ok(gone)
    }

    /// Changes the medium of a drive, an interface, or the password of a display; of the host it names what is among `files`.
    pub fn update(
        &self,
        uuid: DomainUuid,
        xml: &str,
        impact: Impact,
        files: &Files,
    ) -> Result<(), ManagerError> {
        if interface::is_interface(xml) {
            return self.update_interface(uuid, xml, impact);
        }
        if let Some(kind) = Tree::named_display(xml).map_err(refused)? {
            return self.update_display(uuid, (&kind, xml), impact, files);
        }
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainUpdateDevice")?;
        let given = self.given(xml, files)?;
        if impact.config {
            self.described(&*self.kept(&domain)?, &given, Comes::Instead, files)?;
            self.may_edit_within(uuid, files, |tree| instead(tree, &given.target, xml))?;
        }
        if impact.live {
            self.change_medium(uuid, &given, impact.force, files)?;
        }
        if impact.config {
            self.edit_within(uuid, files, |tree| instead(tree, &given.target, xml))?;
        }
        Ok(())
    }

    pub(super) fn change_medium(
        &self,
        uuid: DomainUuid,
        given: &Given,
        force: bool,
        files: &Files,
    ) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let definition =
            live.definition.as_ref().ok_or_else(|| ManagerError::state("it has no definition"))?;
        let (with, disk) = self.described(definition, given, Comes::Medium, files)?;
        let before = definition.domain()?.devices.disks.iter().find(|old| old.target == disk.target).cloned();
        let same = before.as_ref().is_some_and(|old| {
            let medium = Disk { source: disk.source.clone(), line: old.line, ..old.clone() };
            medium == Disk { line: old.line, ..disk.clone() }
        });
        if !same {
            return Err(ManagerError::Unsupported(
                "only the medium of a drive can be changed while it runs".into(),
            ));
        }
        let alias =
            with.disks()?.into_iter().find(|named| named.target == disk.target).map(|named| named.alias);
        let full = before.is_some_and(|old| old.source.is_some());
        let disks = &with.domain()?.devices.disks;
        let at = disks.iter().position(|other| other.target == disk.target);
        let limited = at.filter(|_| !full && !disk.tuning.is_none());
        let throttle = limited.and_then(|at| throttle(disks, at, disk.tuning.clone()));
        let alias = alias.unwrap_or_default();
        let which = Gone { alias: alias.clone(), medium: true };
        let kept = live.runtime.kept.contains(&which);
        if (full || kept) && disk.source.is_some() && !matches!(live.state, State::Running(_)) {
            return Err(stands());
        }
        let mut labeller = self.core.labeller(&self.settings)?;
        // Its headers are looked at while the old one is there: one that is refused leaves the drive as it is.
        let new = match disk.source {
            Some(_) => Some(self.plan(&mut labeller, uuid, given, (Comes::Medium, force), files)?),
            None => None,
        };
        let gone = match (full, kept) {
            (true, _) => self.eject(uuid, &disk.target, &alias, force)?,
            (false, true) => self.unplug(uuid, which, force)?,
            (false, false) => true,
        };
        let Some(Ready { plug, .. }) = new else { return Ok(()) };
        if !gone {
            return Err(stands());
        }
        let note = plug.note.clone();
        let shown = |live: &Live| {
            live.shown(None, |definition| definition.with(|tree| tree.with_medium(&given.target, &note)))
        };
        let put = self.put_in(&mut labeller, uuid, plug, files, shown)?;
        self.show_put(uuid, put, shown)?;
        // QEMU keeps the limits of a drive whose medium changes, and knows of none that were set while there was none.
        if let Some(Err(error)) = throttle.map(|throttle| self.limit(uuid, throttle)) {
            tracing::error!(%uuid, target = given.target, %error, "a medium is there without its drive's limits");
        }
        Ok(())
    }
}
