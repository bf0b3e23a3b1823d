//! CPUs that clients hold against this host's, and what several hosts have in common.

use super::Kind;
use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use crate::conf::cpu::{Comparison, CpuError, Known, Wish};
use crate::conf::domain_capabilities::{DomainCapabilities, Wanted};
use crate::rpc::{List, Procedure};

/// virConnectCompareCPUFlags
const FAIL_INCOMPATIBLE: u32 = 1;
/// Its `<cpu>` is held to the grammar anyway, in so far as it is looked at.
const VALIDATE_XML: u32 = 2;
/// virConnectBaselineCPUFlags
const EXPAND_FEATURES: u32 = 1;
const MIGRATABLE: u32 = 2;

/// As many CPUs as the protocol takes.
type Cpus<'a> = List<&'a str, 256>;
/// Emulator, architecture, machine type and kind of domain.
type Hypervisor<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>);

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectBaselineCpu => baseline,
        P::ConnectBaselineHypervisorCpu => baseline_hypervisor,
        P::ConnectCompareCpu => compare,
        P::ConnectCompareHypervisorCpu => compare_hypervisor,
        _ => return None,
    })
}

fn refused(error: &CpuError) -> Failure {
    let code = match error {
        CpuError::Xml(_) => Code::Xml,
        CpuError::Unknown { .. } => Code::Internal,
        CpuError::Unsupported(_) => Code::ConfigUnsupported,
        CpuError::Apart(_) => Code::OperationFailed,
    };
    Failure::new(code, From::Cpu, error.to_string())
}

/// This host's CPU; nothing is known of the test driver's.
fn host<'a>(call: &'a Call<'_>) -> Result<Known<'a>, Failure> {
    if call.kind() == Kind::Test {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    let cpu = &call.node().capabilities.host.cpu;
    let emulator = call.node().emulators.iter().find(|emulator| emulator.arch == cpu.arch);
    let emulator = emulator.ok_or_else(|| {
        let text =
            "none of emulators.allowed says what CPUs have; `svirt capabilities` names those that answer";
        Failure::new(Code::Internal, From::Qemu, text)
    })?;
    Ok(Known::host(emulator, cpu.vendor.as_deref()))
}

/// The CPU that domains of one kind are given at best.
fn hypervisor<'a>(call: &'a Call<'_>, wanted: Hypervisor<'_>) -> Result<Known<'a>, Failure> {
    let host = host(call)?;
    let (emulator, arch, machine, virt) = wanted;
    let wanted = Wanted { emulator, arch, machine, virt, firmwares: &[] };
    let node = call.node();
    let found = DomainCapabilities::new(&node.emulators, wanted, call.facts().kvm, 1);
    let found =
        found.map_err(|refusal| Failure::new(Code::InvalidArgument, From::Qemu, refusal.to_string()))?;
    let emulator = node.emulators.iter().find(|one| one.path == found.path && found.domain != "kvm");
    Ok(emulator.map_or(host, Known::emulated))
}

fn compared(call: &Call<'_>, known: Known<'_>, xml: &str, flags: u32) -> Answer {
    call.only_flags(flags, FAIL_INCOMPATIBLE | VALIDATE_XML)?;
    match known.compare(xml).map_err(|error| refused(&error))? {
        Comparison::Incompatible(why) if flags & FAIL_INCOMPATIBLE != 0 => {
            Err(Failure::new(Code::CpuIncompatible, From::Cpu, why))
        }
        Comparison::Incompatible(_) => call.answer(&0_i32),
        Comparison::Identical => call.answer(&1_i32),
        Comparison::Superset => call.answer(&2_i32),
    }
}

fn compare(call: &Call<'_>) -> Answer {
    let (xml, flags): (&str, u32) = call.arguments()?;
    compared(call, host(call)?, xml, flags)
}

fn compare_hypervisor(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (Hypervisor<'a>, &'a str, u32);
    let (wanted, xml, flags): Arguments<'_> = call.arguments()?;
    compared(call, hypervisor(call, wanted)?, xml, flags)
}

fn common(call: &Call<'_>, known: Known<'_>, cpus: &Cpus<'_>, flags: u32, runs: bool) -> Answer {
    call.only_flags(flags, EXPAND_FEATURES | MIGRATABLE)?;
    let (expand, migratable) = (flags & EXPAND_FEATURES != 0, flags & MIGRATABLE != 0);
    let told = known.baseline(&cpus.0, Wish { expand, migratable, runs });
    call.answer(&told.map_err(|error| refused(&error))?)
}

fn baseline(call: &Call<'_>) -> Answer {
    let (cpus, flags): (Cpus<'_>, u32) = call.arguments()?;
    common(call, host(call)?, &cpus, flags, false)
}

fn baseline_hypervisor(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (Hypervisor<'a>, Cpus<'a>, u32);
    let (wanted, cpus, flags): Arguments<'_> = call.arguments()?;
    common(call, hypervisor(call, wanted)?, &cpus, flags, true)
}
