//! Displays of a domain: which there are, pictures of them, connections to them, and their passwords.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use super::definition::refused;
use super::table::Live;
use super::{Impact, Manager, ManagerError};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::{Asked, Definition as Tree};
use crate::conf::domain::VideoModel;
use crate::driver::{DriverError, Picture};
use crate::privsep::ask::Ask;
use crate::privsep::password::{Connected, Password};
use crate::privsep::supervisor::Graphics;

impl Live {
    fn lacks() -> ManagerError {
        ManagerError::state("svirtd has no definition of what runs")
    }

    /// What each `<graphics>` speaks, in the order of its definition.
    pub fn displays(&self) -> Result<Vec<Graphics>, ManagerError> {
        let devices = self.definition.as_ref().ok_or_else(Self::lacks)?.to_start()?.devices;
        let vncs = devices.vncs.iter().map(|vnc| (vnc.line, Graphics::Vnc));
        let spice = devices.spice.iter().map(|spice| (spice.line, Graphics::Spice));
        let mut all: Vec<_> = vncs.chain(spice).collect();
        all.sort_by_key(|(line, _)| *line);
        Ok(all.into_iter().map(|(_, protocol)| protocol).collect())
    }

    /// The address on which a display of that type listens, where it has any.
    fn address(&self, kind: &str) -> Option<String> {
        let slot = if kind == "vnc" { "vnc:0" } else { kind };
        let (_, at) = self.listening.iter().find(|(name, _)| name == slot)?;
        at.parse::<SocketAddr>().ok().map(|at| at.ip().to_string())
    }

    /// The devices that show pictures, by the names that plans give them, and how many heads each has.
    pub fn screens(&self) -> Result<Vec<(String, u32)>, ManagerError> {
        let devices = self.definition.as_ref().ok_or_else(Self::lacks)?.to_start()?.devices;
        let shown = devices.videos.iter().filter(|video| video.model != VideoModel::None);
        Ok(shown.enumerate().map(|(at, video)| (format!("video{at}"), video.heads.max(1))).collect())
    }

    /// The alias of the channel that a client names by that or by the name that the guest knows it by; the first one
    /// where none is named. It reads the whole definition.
    pub fn channel(&self, name: Option<&str>) -> Result<Option<String>, ManagerError> {
        let channels = self.definition.as_ref().ok_or_else(Self::lacks)?.to_start()?.devices.channels;
        let is = |at: usize| match name {
            None => true,
            Some(name) => {
                let target = channels.get(at).map(|channel| &channel.target);
                name == format!("channel{at}")
                    || matches!(target, Some(crate::conf::domain::CharTarget::Channel(own)) if own == name)
            }
        };
        Ok((0..channels.len()).find(|at| is(*at)).map(|at| format!("channel{at}")))
    }
}

impl Manager {
    /// Puts a client's display in the place of the one of its type in what is kept; of what runs it changes the password
    /// alone. Of the host it names what is among `files`.
    pub(super) fn update_display(
        &self,
        uuid: DomainUuid,
        (kind, xml): (&str, &str),
        impact: Impact,
        files: &Files,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainUpdateDevice")?;
        let replace = |tree: &mut Tree| {
            let missing = || format!("cannot find existing graphics type '{kind}' device to modify");
            let with = tree.with_display(xml).map_err(refused)?;
            *tree = with.ok_or_else(|| ManagerError::Argument(missing()))?;
            Ok(())
        };
        // What cannot be kept is not done to what runs either.
        if impact.config {
            let kept = self.kept(&domain)?;
            self.hold(kept.edited(replace)?, Some(&kept), files)?;
            self.may_edit(uuid, replace)?;
        }
        if impact.live {
            self.change_password(uuid, kind, xml)?;
        }
        if impact.config {
            self.edit(uuid, replace)?;
        }
        Ok(())
    }

    fn change_password(&self, uuid: DomainUuid, kind: &str, xml: &str) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let tree = live.definition.as_ref().ok_or_else(Live::lacks)?.tree()?;
        let missing = format!("cannot find existing graphics device to modify of type '{kind}'");
        let change = tree.display_change(xml, live.address(kind).as_deref()).map_err(refused)?;
        let change = change.ok_or(ManagerError::NoDevice(missing))?;
        if let Some(refused) = change.refused {
            return Err(ManagerError::Operation(refused));
        }
        let (before, after) = match (change.before.password(), change.after.password()) {
            (Some(before), Some(after)) => (before, after),
            (None, None) => return Ok(()),
            // QEMU would ask for the old one on, and what is shown and saved would say that it asks for none.
            (Some(_), None) => {
                let text = "the password of a display cannot be taken away while its domain runs; with an empty one \
                            nobody gets in";
                return Err(ManagerError::Operation(text.into()));
            }
            (None, Some(_)) => {
                let text =
                    "the display was started without a password, and has none before the domain's next start";
                return Err(ManagerError::Operation(text.into()));
            }
        };
        // QEMU tells nobody which it has, and this daemon may end at any moment: nobody gets in with either of them from
        // before the new one is noted until QEMU has it.
        self.expire(uuid, before, Some(0))?;
        if let Err(error) = self.note_asked(uuid, &change.after) {
            self.expire(uuid, before, before.expiry())?;
            return Err(error);
        }
        let told = self.tell_password(uuid, before, after);
        if let Err(ManagerError::Driver(DriverError::Refusal(_))) = &told
            && let Err(error) = self.note_asked(uuid, &change.before)
        {
            tracing::error!(%uuid, %error, "a password that QEMU refused is noted for what runs");
        }
        told
    }

    /// Notes what a display of what runs asks, for a save and a later daemon, too.
    fn note_asked(&self, uuid: DomainUuid, asked: &Asked) -> Result<(), ManagerError> {
        let edited = self.edited_live(uuid, |tree| {
            tree.set_asked(asked);
            Ok(())
        })?;
        self.put_live(uuid, edited)
    }

    /// Says how long a display's password is good; for ever where nothing is said.
    fn expire(&self, uuid: DomainUuid, password: &Password, until: Option<u64>) -> Result<(), ManagerError> {
        let expire = Ask::ExpirePassword { protocol: password.protocol, until };
        self.sure(uuid, self.ask(uuid, expire)).map(drop)
    }

    /// Has QEMU ask for another password than one that lets nobody in any longer. Nobody gets in before it is known how long
    /// it is good.
    fn tell_password(
        &self,
        uuid: DomainUuid,
        before: &Password,
        after: &Password,
    ) -> Result<(), ManagerError> {
        let ask = |ask| self.sure(uuid, self.ask(uuid, ask)).map(drop);
        if let Err(error) = ask(Ask::SetPassword { password: after.clone() }) {
            // The old one is to be in force on, and told again: for SPICE, QEMU has kept the new one for the next change of
            // anything. Where nobody knows what it has, nobody gets in.
            let old = || Password { connected: Some(Connected::Keep), ..before.clone() };
            if let ManagerError::Driver(DriverError::Refusal(_)) = &error
                && let Err(error) = ask(Ask::SetPassword { password: old() })
                    .and_then(|()| self.expire(uuid, before, before.expiry()))
            {
                tracing::error!(%uuid, %error, "a display lets nobody in until its password is set again");
            }
            return Err(error);
        }
        match after.expiry() {
            Some(0) => Ok(()),
            until => self.expire(uuid, after, until),
        }
    }

    /// Takes a picture of one head of a display's device. Its supervisor does nothing else meanwhile, and refuses what would:
    /// whoever takes pictures waits for those who save or plug, and they for it.
    pub fn picture(&self, uuid: DomainUuid, device: String, head: u32) -> Result<Picture, ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainScreenshot")?;
        let live = self.live(uuid)?;
        let taken = self.core.control(&live.control, None);
        let taken = taken.and_then(|control| Ok(control.picture(device, head)?));
        self.unless_ended(uuid, live.id, taken)
    }

    /// Connects to a display.
    pub fn open_display(
        &self,
        uuid: DomainUuid,
        protocol: Graphics,
        skip_auth: bool,
    ) -> Result<UnixStream, ManagerError> {
        let live = self.live(uuid)?;
        let opened = self.core.control(&live.control, None);
        let opened = opened.and_then(|control| Ok(control.display(protocol, skip_auth)?));
        self.unless_ended(uuid, live.id, opened)
    }
}
