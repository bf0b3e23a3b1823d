//! What a domain may ask for: of one emulator, machine type and accelerator, what svirt itself runs and the emulator
//! has. Pure; nothing is promised here that a start refuses by name.

mod format;
mod runs;

use serde::Serialize;

use super::emulator::{CpuDefinition, EmulatorFacts, HostModel};
use super::facts::FirmwareFile;
use crate::base::{Layer, Refusal};

/// `<domainCapabilities>`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DomainCapabilities {
    /// The emulator.
    pub path: String,
    /// `kvm` or `qemu`.
    pub domain: String,
    /// The machine type, its own name and no alias.
    pub machine: String,
    /// The architecture.
    pub arch: String,
    /// The most virtual CPUs.
    pub max_vcpus: u32,
    /// Paths of the UEFI code that this machine type starts with; empty where the host has none.
    pub firmwares: Vec<String>,
    /// `<cpu>`
    pub cpu: CpuModes,
    /// `<devices>`, each kind with what its enumerations admit.
    pub devices: Vec<Device>,
}

/// `<cpu>`: which modes run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuModes {
    /// `host-passthrough`
    pub passthrough: bool,
    /// `host-model` as a named model, where there is one; under emulation it is what the emulator can do at most.
    pub host_model: Option<HostModel>,
    /// Its vendor.
    pub host_vendor: Option<String>,
    /// `custom`: the named models, and whether each runs.
    pub custom: Vec<(CpuDefinition, bool)>,
}

/// One kind of device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Such as `disk`.
    pub kind: &'static str,
    /// Enumerations: name and values; empty where no such device runs.
    pub enums: Vec<(&'static str, Vec<&'static str>)>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The emulator's path; the first one where absent.
    pub emulator: Option<&'a str>,
    /// The architecture; x86_64 where absent.
    pub arch: Option<&'a str>,
    /// The machine type or an alias of it; `q35` where absent, as in a definition.
    pub machine: Option<&'a str>,
    /// `kvm` or `qemu`; the better one that works where absent.
    pub virt: Option<&'a str>,
    /// The host's UEFI firmware.
    pub firmwares: &'a [FirmwareFile],
}

impl DomainCapabilities {
    /// Makes them from what an emulator said; `kvm` says whether the host's works, `vcpus` the configured limit.
    pub fn new(
        emulators: &[EmulatorFacts],
        wanted: Wanted<'_>,
        kvm: bool,
        vcpus: u32,
    ) -> Result<Self, Refusal> {
        let refuse = |object: String, rule: &str, remedy: &str| {
            Refusal::new(Layer::Configuration, "describe", object, rule, remedy)
        };
        let arch = wanted.arch.unwrap_or("x86_64");
        if arch != "x86_64" {
            return Err(refuse(format!("domains of {arch}"), "svirt runs x86_64 alone", "leave --arch out"));
        }
        let fits =
            |one: &&EmulatorFacts| one.arch == arch && wanted.emulator.is_none_or(|path| one.path == path);
        let emulator = emulators.iter().find(fits).ok_or_else(|| {
            refuse(
                wanted.emulator.unwrap_or("an emulator").to_owned(),
                "emulators.allowed names none such that answers",
                "`svirt capabilities` names those that do; correct allowed in [emulators]",
            )
        })?;
        let name = wanted.machine.unwrap_or("q35");
        let machine = emulator.machine(name).filter(|machine| runs::board(&machine.name).is_some());
        let machine = machine.ok_or_else(|| {
            refuse(
                format!("the machine type {name:?}"),
                "the emulator has none of that name, or svirt does not run it",
                "`svirt capabilities` lists the machine types that run",
            )
        })?;
        let works = kvm && emulator.kvm;
        let domain = match wanted.virt {
            None if works => "kvm",
            None | Some("qemu") => "qemu",
            Some("kvm") if works => "kvm",
            Some("kvm") => {
                return Err(refuse(
                    "domains of type kvm".into(),
                    "the host has no working /dev/kvm, or the emulator was built without KVM",
                    "name --virttype qemu, or load kvm_intel or kvm_amd",
                ));
            }
            Some(other) => {
                return Err(refuse(
                    format!("domains of type {other:?}"),
                    "svirt runs kvm and qemu",
                    "name one of them",
                ));
            }
        };
        Ok(Self {
            path: emulator.path.clone(),
            domain: domain.into(),
            machine: machine.name.clone(),
            arch: emulator.arch.clone(),
            max_vcpus: machine.cpus.min(vcpus),
            firmwares: firmwares(wanted.firmwares, &machine.name),
            cpu: cpu(emulator, domain == "kvm"),
            devices: runs::devices(emulator, &machine.name),
        })
    }

    /// The XML.
    #[must_use]
    pub fn to_xml(&self) -> String {
        format::domain_capabilities(self)
    }

    /// Whether a value stands in an enumeration of a kind of device.
    #[must_use]
    pub fn admits(&self, kind: &str, name: &str, value: &str) -> bool {
        let device = self.devices.iter().find(|device| device.kind == kind);
        let values = device.and_then(|device| device.enums.iter().find(|(own, _)| *own == name));
        values.is_some_and(|(_, values)| values.contains(&value))
    }
}

/// In the order of preference, each once.
fn firmwares(all: &[FirmwareFile], machine: &str) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for file in all.iter().filter(|file| file.runs_on(machine)) {
        if !paths.contains(&file.code) {
            paths.push(file.code.clone());
        }
    }
    paths
}

fn cpu(emulator: &EmulatorFacts, kvm: bool) -> CpuModes {
    let custom = emulator.cpus.iter().map(|one| (one.clone(), if kvm { one.host } else { one.emulated }));
    let named = emulator.host.clone().filter(|_| kvm);
    let vendor = named.as_ref().and_then(|named| emulator.cpus.iter().find(|one| one.name == named.name));
    CpuModes {
        passthrough: kvm,
        host_vendor: vendor.and_then(|one| one.vendor.clone()),
        host_model: named,
        custom: custom.collect(),
    }
}
