//! A disk or medium for a domain that runs: its layers are read, then it is planned and plugged in.

use super::{DriverError, Labeller, LabellerProber};
use crate::base::{DomainUuid, Files};
use crate::conf::domain::{Domain, Interface};
use crate::conf::facts::HostFacts;
use crate::plan::{chain, plug};
use crate::privsep::request::Described;
use crate::settings::Settings;

/// What is plugged into what.
#[derive(Clone, Copy, Debug)]
pub struct Plugging<'a> {
    /// What runs, with the new disk as the last.
    pub domain: &'a Domain,
    /// Its uuid.
    pub uuid: DomainUuid,
    /// What the labeller says of it.
    pub described: &'a Described,
    /// Whether only the medium of a drive is changed.
    pub medium: bool,
    /// Whether a guest that holds the tray shut is not asked.
    pub force: bool,
    /// What headers of the disk's images may name.
    pub files: &'a Files,
}

/// Plans a plug.
pub fn plan_plug(
    labeller: &mut Labeller,
    plugging: &Plugging<'_>,
    host: &HostFacts,
    settings: &Settings,
) -> Result<plug::Planned, DriverError> {
    let Plugging { domain, uuid, described, medium, force, files } = *plugging;
    let Some(disk) = domain.devices.disks.last() else {
        return Err(DriverError::Protocol("to nobody: there is no disk to plug in".into()));
    };
    let chain = chain::resolve(disk, settings.limits.chain_depth, files, &mut LabellerProber::new(labeller));
    let chain = chain.map_err(|error| error.refusal())?;
    let inputs = plug::PlugInputs { domain, uuid, host, settings, chain: &chain, described, medium, force };
    plug::plug(&inputs).map_err(|error| error.refusal().into())
}

/// Plans the controller that the new disk needs and the domain lacks, where that is so.
pub fn plan_controller(plugging: &Plugging<'_>) -> Result<Option<plug::Planned>, DriverError> {
    let Plugging { domain, uuid, described, .. } = *plugging;
    plug::controller(domain, uuid, described).map_err(|error| error.refusal().into())
}

/// Plans an interface; the new one is the last of the domain's.
pub fn plan_interface(
    labeller: &mut Labeller,
    plugging: &Plugging<'_>,
    host: &HostFacts,
    settings: &Settings,
) -> Result<plug::Planned, DriverError> {
    let Plugging { domain, uuid, described, .. } = *plugging;
    let survey = labeller.survey()?;
    let seed = super::draw();
    let inputs = plug::InterfaceInputs { domain, uuid, host, settings, described, survey: &survey, seed };
    plug::interface(&inputs).map_err(|error| error.refusal().into())
}

/// The address of an interface that the definition gives none, by its place among them.
#[must_use]
pub fn interface_mac(uuid: DomainUuid, interface: &Interface, index: usize) -> [u8; 6] {
    crate::plan::interface_mac(uuid, interface, index)
}
