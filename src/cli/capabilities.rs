//! `svirt capabilities` and `svirt domcapabilities`: what this host can do, as libvirt's XML or as JSON.

use std::io::Write as _;

use serde::Serialize;

use super::args::{Capabilities, DomCapabilities};
use super::exit::Failure;
use super::output;
use super::output::printable;
use crate::conf::domain_capabilities::{DomainCapabilities, Wanted};
use crate::host::{self, Inventory, View};
use crate::settings::Settings;

/// Runs `svirt capabilities`.
pub(super) fn run(wanted: &Capabilities, settings: &Settings, quiet: bool) -> Result<(), Failure> {
    let inventory = inventory(wanted.refresh, settings, quiet);
    let all = inventory.capabilities(wanted.view, settings)?;
    print(wanted.json, &all, &all.to_xml())
}

/// Runs `svirt domcapabilities`.
pub(super) fn domain(wanted: &DomCapabilities, settings: &Settings, quiet: bool) -> Result<(), Failure> {
    if !matches!(wanted.view, View::System | View::Session) {
        return Err(Failure::plain(
            "svirt runs no domains of this hypervisor",
            "name --view qemu:///system, or leave it out",
        ));
    }
    let inventory = inventory(false, settings, quiet);
    let asked = Wanted {
        emulator: wanted.emulator.as_deref(),
        arch: wanted.arch.as_deref(),
        machine: wanted.machine.as_deref(),
        virt: wanted.virttype.as_deref(),
        firmwares: &inventory.facts.firmwares,
    };
    let all =
        DomainCapabilities::new(&inventory.emulators, asked, inventory.facts.kvm, settings.limits.vcpus)?;
    print(wanted.json, &all, &all.to_xml())
}

/// Reads the host, and says which emulators did not answer.
pub(super) fn inventory(afresh: bool, settings: &Settings, quiet: bool) -> Inventory {
    let inventory = host::inventory(settings, afresh);
    if !quiet {
        for (path, why) in &inventory.silent {
            output::note(&format!(
                "{path} does not tell what it can do: {why}; `svirt capabilities --refresh` asks again"
            ));
        }
    }
    inventory
}

fn print(json: bool, all: &impl Serialize, xml: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, all).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", printable(xml))?;
    }
    Ok(())
}
