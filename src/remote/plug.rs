//! Calls that plug devices in and out, and change media.

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use crate::base::Files;
use crate::manager::{Impact, InterfaceName, is_interface};
use crate::rpc::{self, Procedure};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainAttachDevice => |call| live(call, attach),
        P::DomainAttachDeviceFlags => |call| flags(call, 0, attach),
        P::DomainDetachDevice => |call| live(call, detach),
        P::DomainDetachDeviceAlias => |call| flags(call, 0, detach_alias),
        P::DomainDetachDeviceFlags => |call| flags(call, 0, detach),
        P::DomainUpdateDeviceFlags => |call| flags(call, FORCE, update),
        _ => return None,
    })
}

/// virDomainDeviceModifyFlags: also where the guest has locked the tray.
const FORCE: u32 = 4;

type Change = fn(&Target<'_>, &str, Impact, &Files) -> Result<(), Failure>;

/// The old calls change what runs.
fn live(call: &Call<'_>, change: Change) -> Answer {
    let (reference, xml): (rpc::Domain<'_>, &str) = call.arguments()?;
    let target = call.domain(&reference, AFFECT_LIVE)?;
    apply(call, &target, xml, AFFECT_LIVE, change)
}

fn flags(call: &Call<'_>, known: u32, change: Change) -> Answer {
    let (reference, xml, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | known)?;
    apply(call, &target, xml, flags, change)
}

fn apply(call: &Call<'_>, target: &Target<'_>, xml: &str, flags: u32, change: Change) -> Answer {
    let impact = impact(target, flags)?;
    let force = flags & FORCE != 0;
    let files = call.files(&target.domain.name, target.domain.uuid, flags);
    change(target, xml, Impact { live: impact.live, config: impact.config, force }, &files)?;
    call.answer(&())
}

fn attach(target: &Target<'_>, xml: &str, impact: Impact, files: &Files) -> Result<(), Failure> {
    let (manager, uuid) = target.parts();
    Ok(manager.attach(uuid, xml, impact, files)?)
}

fn update(target: &Target<'_>, xml: &str, impact: Impact, files: &Files) -> Result<(), Failure> {
    let (manager, uuid) = target.parts();
    Ok(manager.update(uuid, xml, impact, files)?)
}

/// As libvirt does, a disk is found by its target alone, and an interface by its address.
fn detach(target: &Target<'_>, xml: &str, impact: Impact, _: &Files) -> Result<(), Failure> {
    let (manager, uuid) = target.parts();
    if is_interface(xml) {
        return Ok(manager.detach_interface(uuid, InterfaceName::Xml(xml), impact)?);
    }
    Ok(manager.detach(uuid, &crate::manager::disk_target(xml)?, impact)?)
}

fn detach_alias(target: &Target<'_>, alias: &str, impact: Impact, _: &Files) -> Result<(), Failure> {
    let (manager, uuid) = target.parts();
    if alias.strip_prefix("net").is_some_and(|number| number.parse::<u32>().is_ok()) {
        return Ok(manager.detach_interface(uuid, InterfaceName::Alias(alias), impact)?);
    }
    let live = target.domain.running().and_then(|live| live.definition.clone());
    let disks = live.map(|definition| definition.disks()).transpose()?.unwrap_or_default();
    let missing =
        || Failure::new(Code::DeviceMissing, From::Domain, format!("no device found with alias {alias}"));
    let disk = disks.into_iter().find(|disk| disk.alias == alias).ok_or_else(missing)?;
    Ok(manager.detach(uuid, &disk.target, impact)?)
}
