//! Holds an appliance's prerequisites against what a host offers, boot descriptor by boot descriptor.

use serde::Serialize;

use super::{Appliance, Boot, Drive, Security, Start};
use crate::conf::capabilities::{Capabilities, Guest};
use crate::conf::domain_capabilities::DomainCapabilities;

/// What a host offers.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    /// Its capabilities.
    pub capabilities: &'a Capabilities,
    /// What a domain on a q35 and on a pc board may ask for, where this is known: another host's file does not say.
    pub boards: Option<(&'a DomainCapabilities, &'a DomainCapabilities)>,
    /// The most virtual CPUs that the configuration gives one domain.
    pub vcpus: u32,
    /// Bytes that the host keeps for itself.
    pub kept_memory: u64,
    /// CPUs that the host keeps for itself.
    pub kept_cpus: u32,
    /// Whether reviewed tables lead from one domain of interpretation of a model to another: model, from, to.
    pub leads: &'a dyn Fn(&str, &str, &str) -> bool,
}

/// One prerequisite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is needed.
    pub need: String,
    /// Whether the host has it.
    pub met: bool,
    /// What the host has, or why it is not enough.
    pub why: String,
}

/// What became of one boot descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Every prerequisite.
    pub findings: Vec<Finding>,
    /// The emulator that would run it.
    pub emulator: Option<String>,
    /// `kvm` or `qemu`.
    pub domain: Option<String>,
    /// Model and domain of interpretation that its labels are bound to.
    pub bindings: Vec<(String, String)>,
}

impl Verdict {
    /// Whether every prerequisite is met.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.findings.iter().all(|finding| finding.met)
    }
}

/// Checks every boot descriptor; the first that fits is the one to deploy.
#[must_use]
pub fn check(appliance: &Appliance, offer: &Offer<'_>) -> Vec<Verdict> {
    appliance.boots.iter().map(|boot| one(appliance, boot, offer)).collect()
}

fn met(need: impl Into<String>, met: bool, why: impl Into<String>) -> Finding {
    Finding { need: need.into(), met, why: why.into() }
}

fn one(appliance: &Appliance, boot: &Boot, offer: &Offer<'_>) -> Verdict {
    let (found, guest) = hypervisor(boot, offer.capabilities);
    let mut findings = vec![found];
    findings.push(starts(&boot.start));
    findings.push(vcpus(appliance, guest, offer));
    findings.push(memory(appliance, offer));
    for feature in &boot.features {
        let known = ["acpi", "apic", "pae"].contains(&feature.as_str());
        let why = if known { "every guest may have it" } else { "svirt does not run it" };
        findings.push(met(format!("feature {feature}"), known, why));
    }
    for drive in &boot.drives {
        findings.push(disk(appliance, boot, drive, offer));
    }
    if appliance.interfaces > 0 {
        findings.push(met(format!("{} network interfaces", appliance.interfaces), true, "user networks"));
    }
    if appliance.graphics {
        let here = offer.boards.is_none_or(|boards| boards.0.admits("graphics", "type", "vnc"));
        findings.push(met("graphics", here, if here { "vnc" } else { "the emulator has no VNC" }));
    }
    let mut bindings = Vec::new();
    for wanted in &boot.security {
        let (finding, doi) = security(wanted, offer);
        bindings.extend(doi.map(|doi| (wanted.model.clone(), doi)));
        findings.push(finding);
    }
    let kvm = guest.is_some_and(|guest| guest.domains.iter().any(|kind| kind == "kvm"));
    Verdict {
        findings,
        emulator: guest.map(|guest| guest.emulator.clone()),
        domain: guest.map(|_| if kvm { "kvm".into() } else { "qemu".into() }),
        bindings,
    }
}

/// Whole machines run on whole machines; a 32-bit PC is run by an emulator of the 64-bit one.
fn hypervisor<'a>(boot: &Boot, capabilities: &'a Capabilities) -> (Finding, Option<&'a Guest>) {
    let need = format!("{} guest of {}", boot.kind, boot.arch);
    if boot.kind != "hvm" {
        return (met(need, false, "svirt runs whole machines (hvm), not Xen's own"), None);
    }
    let arch = match boot.arch.as_str() {
        "i386" | "i486" | "i586" | "i686" => "x86_64",
        other => other,
    };
    let runs = |guest: &&Guest| {
        guest.arch == arch && guest.domains.iter().any(|kind| kind == "kvm" || kind == "qemu")
    };
    match capabilities.guests.iter().find(runs) {
        Some(guest) => (met(need, true, guest.emulator.clone()), Some(guest)),
        None => (met(need, false, format!("the host has no emulator for {arch}")), None),
    }
}

fn starts(start: &Start) -> Finding {
    match start {
        Start::Device(device) => met(format!("boot from {device}"), true, "firmware"),
        Start::Kernel { .. } => met("boot a kernel", true, "given to the emulator"),
        Start::Program(program) => {
            met(format!("boot through {program}"), false, "such loaders belong to another hypervisor")
        }
    }
}

fn vcpus(appliance: &Appliance, guest: Option<&Guest>, offer: &Offer<'_>) -> Finding {
    let machine = guest.and_then(|guest| guest.machines.iter().map(|machine| machine.cpus).max());
    let cpus: usize = offer.capabilities.host.cells.iter().map(|cell| cell.cpus.len()).sum();
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    let own = (offer.kept_cpus > 0 && cpus > 0).then(|| cpus.saturating_sub(offer.kept_cpus));
    let most = [machine, own, Some(offer.vcpus)].into_iter().flatten().min().unwrap_or(0);
    met(format!("{} virtual CPUs", appliance.vcpus), appliance.vcpus <= most, format!("at most {most}"))
}

fn memory(appliance: &Appliance, offer: &Offer<'_>) -> Finding {
    let all: u64 = offer.capabilities.host.cells.iter().map(|cell| cell.memory).sum();
    let free = all.saturating_sub(offer.kept_memory.div_ceil(1024));
    let why = format!("the host has {} MiB, {} of them its own", all >> 10, offer.kept_memory >> 20);
    met(format!("{} MiB of memory", appliance.memory.div_ceil(1024)), appliance.memory <= free, why)
}

/// The bus that a target's name stands for.
pub(super) fn bus(target: &str) -> Option<&'static str> {
    match target.get(..2)? {
        "hd" => Some("ide"),
        "sd" => Some("scsi"),
        "vd" => Some("virtio"),
        _ => None,
    }
}

/// IDE exists on a pc board alone.
pub(super) fn is_pc(boot: &Boot) -> bool {
    boot.drives.iter().any(|drive| bus(&drive.target) == Some("ide"))
}

fn disk(appliance: &Appliance, boot: &Boot, drive: &Drive, offer: &Offer<'_>) -> Finding {
    let Some(disk) = appliance.storage.get(drive.disk) else {
        return met(format!("disk {}", drive.target), false, "there is no such disk");
    };
    let need = format!("disk {} ({}, {})", drive.target, disk.file, disk.format);
    if !["raw", "qcow2"].contains(&disk.format.as_str()) {
        return met(need, false, "svirt runs raw and qcow2 images");
    }
    let Some(bus) = bus(&drive.target) else {
        return met(need, false, "such a target belongs to another hypervisor");
    };
    let board = offer.boards.map(|boards| if is_pc(boot) { boards.1 } else { boards.0 });
    let here = board.is_none_or(|board| board.admits("disk", "bus", bus));
    met(need, here, if here { format!("bus {bus}") } else { format!("the emulator has no bus {bus}") })
}

/// The model must be there, refuse if the appliance wants it to, and hold one of the domains of interpretation, or one
/// that tables lead to.
fn security(wanted: &Security, offer: &Offer<'_>) -> (Finding, Option<String>) {
    let mut need = format!("security model {}", wanted.model);
    if !wanted.dois.is_empty() {
        need = format!("{need}, DOI {}", wanted.dois.join(" or "));
    }
    let Some(model) = offer.capabilities.security(&wanted.model) else {
        let own: Vec<&str> = offer.capabilities.host.security.iter().map(|m| m.model.as_str()).collect();
        return (met(need, false, format!("the host runs {}", own.join(", "))), None);
    };
    if wanted.enforcing && !model.enforcing {
        return (met(need, false, "the host runs it without enforcing it"), None);
    }
    // A static label is meant in the first.
    let mut usable = wanted.dois.iter().take(if wanted.label.is_some() { 1 } else { usize::MAX });
    let Some(first) = wanted.dois.first() else {
        return (met(need, true, "the host runs it"), None);
    };
    if let Some(doi) = usable.clone().find(|doi| model.dois.contains(doi)) {
        return (met(need, true, format!("the host holds {doi}")), Some(doi.clone()));
    }
    let led = usable
        .find_map(|from| Some((from, model.dois.iter().find(|to| (offer.leads)(&wanted.model, from, to))?)));
    match led {
        Some((from, to)) => {
            (met(need, true, format!("reviewed tables lead from {from} to {to}")), Some(from.clone()))
        }
        None => {
            let why = format!("the host holds {}, and no reviewed table leads there", model.dois.join(", "));
            (met(need, false, why), Some(first.clone()))
        }
    }
}
