//! Calls about one network interface: what went through it, and how much may.

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, STRING_OKAY, impact};
use super::node::{NETWORK, read};
use crate::manager::InterfaceHere;
use crate::rpc::{self, List, ParamValue, Procedure, TypedParam};

/// Read from the definition, the store and the kernel's files.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetInterfaceParameters => parameters,
        P::DomainInterfaceStats => stats,
        P::DomainSetInterfaceParameters => set_parameters,
        _ => return None,
    })
}

/// What the kernel counts of one direction, in libvirt's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) bytes: u64,
    pub(super) packets: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
}

/// What the guest received and sent, by the name of its device on the host. What the host's end of a tap device sent,
/// the guest received.
pub(super) fn counted(device: &str) -> Option<[Count; 2]> {
    // A name of the kernel's has neither a slash nor leads upwards; still, only one part of a path is taken.
    if device.is_empty() || device.contains('/') || device.starts_with('.') {
        return None;
    }
    let number = |name: String| -> Option<u64> {
        read(&format!("{NETWORK}/{device}/statistics/{name}"))?.trim().parse().ok()
    };
    let count = |way: &str| {
        Some(Count {
            bytes: number(format!("{way}_bytes"))?,
            packets: number(format!("{way}_packets"))?,
            errors: number(format!("{way}_errors"))?,
            dropped: number(format!("{way}_dropped"))?,
        })
    };
    Some([count("tx")?, count("rx")?])
}

/// The interface that a client names by its address of the network, or by its device on the host.
fn named<'a>(all: &'a [InterfaceHere], name: &str) -> Result<&'a InterfaceHere, Failure> {
    let shown = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let is = |one: &&InterfaceHere| {
        one.device.as_deref() == Some(name) || shown(&one.mac).eq_ignore_ascii_case(name)
    };
    all.iter().find(is).ok_or_else(|| {
        let text = format!("'{}' is not a known interface", name.escape_debug());
        Failure::new(Code::InvalidArgument, From::Domain, text)
    })
}

/// The interfaces of what runs.
pub(super) fn running(domain: &crate::manager::Domain) -> Result<Vec<InterfaceHere>, Failure> {
    Ok(domain.running().map(|live| live.interfaces(domain.uuid)).transpose()?.unwrap_or_default())
}

fn stats(call: &Call<'_>) -> Answer {
    let (reference, name): (rpc::Domain<'_>, &str) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    let all = running(&target.domain)?;
    let device = named(&all, name)?.device.as_deref();
    let lacks = |text: &str| Failure::new(Code::Internal, From::None, text);
    let device = device.ok_or_else(|| lacks("Interface name not provided"))?;
    let [received, sent] = counted(device).ok_or_else(|| lacks("/sys: Interface not found"))?;
    let numbers = |count: Count| {
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        (signed(count.bytes), signed(count.packets), signed(count.errors), signed(count.dropped))
    };
    call.answer(&(numbers(received), numbers(sent)))
}

/// virDomainSetInterfaceParameters' names, in libvirt's order.
const LIMITS: &[&str] = &[
    "inbound.average",
    "inbound.peak",
    "inbound.burst",
    "inbound.floor",
    "outbound.average",
    "outbound.peak",
    "outbound.burst",
];

/// Holds a call about limits to what there is; the interface is of what runs, or of what is kept.
fn seen(call: &Call<'_>, target: &Target<'_>, name: &str, flags: u32) -> Result<(), Failure> {
    let all = if impact(target, flags)?.live {
        running(&target.domain)?
    } else {
        call.manager().kept_interfaces(&target.domain)?
    };
    named(&all, name).map(|_| ())
}

/// Nothing limits an interface, and 0 is no limit.
fn parameters(call: &Call<'_>) -> Answer {
    let (reference, name, room, flags): (rpc::Domain<'_>, &str, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | STRING_OKAY)?;
    seen(call, &target, name, flags)?;
    let count = i32::try_from(LIMITS.len()).unwrap_or(0);
    if room == 0 {
        return call.answer(&(List::<TypedParam<'_>, 16>(Vec::new()), count));
    }
    let params = LIMITS.iter().map(|field| TypedParam { field, value: ParamValue::Uint(0) });
    let params: Vec<_> = params.take(usize::try_from(room).unwrap_or(0)).collect();
    let count = i32::try_from(params.len()).unwrap_or(0);
    call.answer(&(List::<_, 16>(params), count))
}

/// A definition with a limit is not started, so none is kept either.
fn set_parameters(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, &'a str, List<TypedParam<'a>, 16>, u32);
    let (reference, name, params, flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | STRING_OKAY)?;
    seen(call, &target, name, flags)?;
    if let Some(unknown) = params.0.iter().find(|param| !LIMITS.contains(&param.field)) {
        let text = format!("parameter '{}' not supported", unknown.field.escape_debug());
        return Err(Failure::new(Code::InvalidArgument, From::None, text));
    }
    let none = |param: &TypedParam<'_>| param.value == ParamValue::Uint(0);
    if params.0.iter().all(none) {
        return call.answer(&());
    }
    let text =
        "setting bandwidth on interfaces is not implemented: svirt shapes no traffic; use tc on the bridge";
    Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_two_names() {
        let one = |last: u8, device: Option<&str>| InterfaceHere {
            mac: [0x52, 0x54, 0, 0, 0, last],
            device: device.map(Into::into),
        };
        let all = [one(0xa1, None), one(2, Some("vnet7"))];
        assert_eq!(named(&all, "52:54:00:00:00:A1").unwrap(), &all[0]);
        assert_eq!(named(&all, "vnet7").unwrap(), named(&all, "52:54:00:00:00:02").unwrap());
        for unknown in ["", "vnet", "net0", "52:54:00:00:00"] {
            assert!(named(&all, unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn only_a_device_s_own_files_are_read() {
        for name in ["", "..", ".", "lo/../../../../etc", "nosuchdevice"] {
            assert_eq!(counted(name), None, "{name}");
        }
        let [received, sent] = counted("lo").unwrap();
        // What the loopback device sends it receives.
        assert_eq!(received.errors, sent.errors);
    }
}
