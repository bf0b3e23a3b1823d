//! Calls that say on which of the host's CPUs what of a domain runs, and those about iothreads, which none has.

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use crate::manager::{Impact, Threads};
use crate::rpc::{self, List, Opaque, Procedure, TypedParam};

/// All of them may ask the labeller and the disk.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainAddIothread => add_iothread,
        P::DomainDelIothread => |call| {
            let (reference, number, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
            no_iothread(call, &reference, number, flags)
        },
        P::DomainPinEmulator => |call| {
            let (reference, cpus, flags): (rpc::Domain<'_>, CpuMap, u32) = call.arguments()?;
            pin(call, &reference, Threads::Emulator, &cpus, flags)
        },
        P::DomainPinIothread => |call| {
            let (reference, number, _, flags): (rpc::Domain<'_>, u32, CpuMap, u32) = call.arguments()?;
            let (_, impact) = target(call, &reference, flags)?;
            let what = if impact.config { "iothreadid" } else { "iothread" };
            Err(invalid(format!("{what} {number} not found")))
        },
        P::DomainPinVcpu => |call| {
            let (reference, vcpu, cpus): (rpc::Domain<'_>, u32, CpuMap) = call.arguments()?;
            pin(call, &reference, Threads::Vcpu(vcpu), &cpus, AFFECT_LIVE)
        },
        P::DomainPinVcpuFlags => |call| {
            let (reference, vcpu, cpus, flags): (rpc::Domain<'_>, u32, CpuMap, u32) = call.arguments()?;
            pin(call, &reference, Threads::Vcpu(vcpu), &cpus, flags)
        },
        P::DomainSetIothreadParams => |call| {
            type Arguments<'a> = (rpc::Domain<'a>, u32, List<TypedParam<'a>, 64>, u32);
            let (reference, number, _, flags): Arguments<'_> = call.arguments()?;
            no_iothread(call, &reference, number, flags)
        },
        _ => return None,
    })
}

/// A bit for each CPU: REMOTE_CPUMAP_MAX bytes.
type CpuMap = Opaque<2048>;

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, From::Qemu, text.into())
}

/// The domain of a call, once its flags are known.
fn target<'a>(
    call: &'a Call<'_>,
    reference: &rpc::Domain<'_>,
    flags: u32,
) -> Result<(Target<'a>, Impact), Failure> {
    let target = call.domain(reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let impact = impact(&target, flags)?;
    Ok((target, impact.unforced()))
}

fn pin(call: &Call<'_>, reference: &rpc::Domain<'_>, threads: Threads, cpus: &CpuMap, flags: u32) -> Answer {
    let (target, impact) = target(call, reference, flags)?;
    if let Threads::Vcpu(vcpu) = threads {
        has(&target, vcpu, impact)?;
    }
    let cpus = numbers(&cpus.0);
    if cpus.is_empty() {
        return Err(invalid("Empty cpu list for pinning"));
    }
    let (manager, uuid) = target.parts();
    manager.pin(uuid, impact, threads, &cpus)?;
    call.answer(&())
}

/// Refuses a virtual CPU that the domain has not.
fn has(target: &Target<'_>, vcpu: u32, impact: Impact) -> Result<(), Failure> {
    let out =
        |of: &str, count: u32| Err(invalid(format!("vcpu {vcpu} is out of range of {of} cpu count {count}")));
    let live = target.domain.running().and_then(|live| live.definition.as_ref());
    match live.map(|live| (live.vcpus, live.current_vcpus)) {
        Some((most, _)) if impact.live && vcpu >= most => return out("live", most),
        Some((_, now)) if impact.live && vcpu >= now => {
            let text = format!("setting cpu pinning for inactive vcpu {vcpu} is not supported");
            return Err(Failure::new(Code::OperationUnsupported, From::Qemu, text));
        }
        _ => {}
    }
    match target.domain.definition.as_ref().map(|kept| kept.vcpus) {
        Some(most) if impact.config && vcpu >= most => out("persistent", most),
        _ => Ok(()),
    }
}

/// The numbers of the bits that are set.
fn numbers(map: &[u8]) -> Vec<u32> {
    let bits = map.iter().enumerate().flat_map(|(at, byte)| {
        (0..8_u32).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| (at, bit))
    });
    bits.filter_map(|(at, bit)| Some(u32::try_from(at).ok()? * 8 + bit)).collect()
}

fn add_iothread(call: &Call<'_>) -> Answer {
    let (reference, _number, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    target(call, &reference, flags)?;
    let text = "svirt runs no iothreads: a definition with <iothreads> is not started";
    Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text))
}

fn no_iothread(call: &Call<'_>, reference: &rpc::Domain<'_>, number: u32, flags: u32) -> Answer {
    target(call, reference, flags)?;
    Err(invalid(format!("cannot find IOThread '{number}' in iothreadids list")))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn a_map_has_a_bit_for_each_cpu() {
        assert_eq!(numbers(&[0b1000_0001, 0, 1]), [0, 7, 16]);
        assert_eq!(numbers(&[]), [0; 0]);
        assert_eq!(numbers(&[0, 0]), [0; 0]);
    }
}
