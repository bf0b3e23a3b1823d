//! Displays of a domain that runs: which there are, pictures of them, connections to them.

use std::os::unix::net::UnixStream;

use super::table::Live;
use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::domain::VideoModel;
use crate::driver::Picture;
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
    /// Takes a picture of one head of a display's device.
    pub fn picture(&self, uuid: DomainUuid, device: String, head: u32) -> Result<Picture, ManagerError> {
        let live = self.live(uuid)?;
        Ok(self.core.control(&live.control, None)?.picture(device, head)?)
    }

    /// Connects to a display.
    pub fn open_display(
        &self,
        uuid: DomainUuid,
        protocol: Graphics,
        skip_auth: bool,
    ) -> Result<UnixStream, ManagerError> {
        let live = self.live(uuid)?;
        Ok(self.core.control(&live.control, None)?.display(protocol, skip_auth)?)
    }
}
