//! What a definition names of the host, against what whoever hands it in may name.

use crate::base::{DomainUuid, Files};
use crate::conf::facts::HostFacts;
use crate::conf::{DefinitionError, domain_xml};
use crate::plan::{inventory, stores};
use crate::security::resource::Resource;
use crate::settings::Settings;

/// The first thing that a definition names and that is not among `files`: what it is, and its path.
///
/// The rows of the label table say what there is, so that what has a label is looked at. `before` is a definition of the
/// same domain that was accepted: what it names for the same use may stay. What svirt chooses by itself may be named:
/// the domain's own UEFI variables, and the host's firmware.
pub fn outside(
    (xml, uuid): (&str, DomainUuid),
    before: Option<&str>,
    files: &Files,
    (host, settings): (&HostFacts, &Settings),
) -> Result<Option<(String, String)>, DefinitionError> {
    if files.is_all() {
        return Ok(None);
    }
    // One that can no longer be read whole vouches for nothing.
    let before = before.map(|xml| named(xml, settings)).and_then(Result::ok).unwrap_or_default();
    let own = stores(None, uuid, settings);
    let firmware = |path: &str| host.firmwares.iter().any(|file| file.code == path || file.template == path);
    let same = |one: &Resource, other: &Resource| {
        (&one.name, &one.path, &one.kind) == (&other.name, &other.path, &other.kind)
    };
    let found = named(xml, settings)?.into_iter().find_map(|one| {
        let path = one.path.as_deref()?;
        let may = files.has(path)
            || firmware(path)
            || own.iter().any(|own| own == path)
            || before.iter().any(|other| same(&one, other));
        (!may).then(|| (one.name.clone(), path.to_owned()))
    });
    Ok(found)
}

fn named(xml: &str, settings: &Settings) -> Result<Vec<Resource>, DefinitionError> {
    let (domain, beyond) = domain_xml::parse_beyond(xml.as_bytes())?;
    Ok(inventory::named(&domain, &beyond, settings))
}
