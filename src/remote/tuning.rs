//! Calls that set how a domain is scheduled and limited.
//!
//! A domain has one cgroup: what is said of it as a whole is put into force, limits of its single threads are
//! refused by name, kept or not, since a definition with them is not started.

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use super::tune::UNLIMITED;
use crate::conf::definition::{Definition as Tree, cpus};
use crate::manager::{self, ManagerError};
use crate::privsep::placement::{NODES_MAX, list};
use crate::privsep::tuning::{PERIOD_MAX, QUOTA_MAX, SHARES_MAX, SLICE_MIN, WEIGHT_MAX, WEIGHT_MIN};
use crate::rpc::{self, List, ParamValue, Procedure, TypedParam};

/// A message has no more parameters.
type Params<'a> = List<TypedParam<'a>, 32>;

/// All of them may ask the labeller and the disk.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainSetLifecycleAction => lifecycle,
        P::DomainSetSchedulerParameters => |call| {
            let (reference, params): (rpc::Domain<'_>, Params<'_>) = call.arguments()?;
            set(call, &reference, &params, 0, scheduler)
        },
        P::DomainSetSchedulerParametersFlags => |call| with_flags(call, scheduler),
        P::DomainSetMemoryParameters => |call| with_flags(call, memory),
        P::DomainSetBlkioParameters => |call| with_flags(call, disks),
        P::DomainSetNumaParameters => numa,
        _ => return None,
    })
}

/// virDomainNumatuneMemMode, and whether svirt has it.
const NUMA_MODES: [(&str, bool); 4] =
    [("strict", true), ("preferred", true), ("interleave", true), ("restrictive", false)];

/// Where memory lies is chosen when a device model starts: of what is kept alone.
fn numa(call: &Call<'_>) -> Answer {
    let (reference, params, flags): (rpc::Domain<'_>, Params<'_>, u32) = call.arguments()?;
    let target: Target<'_> = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let impact = impact(&target, flags)?;
    let (mut mode, mut nodes) = (None, None);
    for param in &params.0 {
        match (param.field, &param.value) {
            ("numa_mode", ParamValue::Int(number)) => {
                let known = usize::try_from(*number).ok().and_then(|number| NUMA_MODES.get(number));
                let (word, runs) =
                    known.ok_or_else(|| invalid(format!("unsupported numatune mode: '{number}'")))?;
                if !runs {
                    return Err(lacks("numa_mode 'restrictive'"));
                }
                mode = Some(*word);
            }
            ("numa_nodeset", ParamValue::Text(text)) => {
                let set = cpus(text, NODES_MAX);
                let set_of_numbers =
                    text.bytes().all(|byte| byte.is_ascii_digit() || b",-^ ".contains(&byte));
                // Of a number that is none, and of a node that no host has, libvirt says the same.
                let numbers = text.split([',', '-', '^', ' ']).filter(|number| !number.is_empty());
                let beyond = |number: &str| number.parse::<u32>().map_or(true, |node| node >= NODES_MAX);
                if !set_of_numbers || numbers.into_iter().any(beyond) {
                    return Err(invalid(format!("Failed to parse bitmap '{}'", text.escape_debug())));
                }
                if set.is_empty() {
                    return Err(invalid(format!("Invalid nodeset of 'numatune': {}", text.escape_debug())));
                }
                nodes = Some(list(&set));
            }
            _ => return Err(not_one(param, "virDomainSetNumaParameters")),
        }
    }
    let (manager, uuid) = target.parts();
    if impact.live && !is_so(call, &target, mode, nodes.as_deref())? {
        let text = "NUMA nodes of a domain that runs are not changed: svirt chooses them when it starts; use --config";
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
    }
    if impact.config {
        let kept = manager.tree(&target.domain, true)?;
        if nodes.is_none() && kept.tuned_by(&["numatune", "memory"], "nodeset").is_none() {
            let text = "nodeset for NUMA memory tuning must be set if 'placement' is 'static'";
            return Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text));
        }
    }
    // A mode alone says nothing new of what runs.
    let impact = manager::Impact { live: impact.live && nodes.is_some(), ..impact.unforced() };
    manager.note_numa(uuid, impact, mode, nodes.as_deref())?;
    call.answer(&())
}

/// Whether what runs has its memory by this mode, and on these nodes already: all of the host's, where nobody has named any.
/// Another mode is refused in libvirt's words.
fn is_so(
    call: &Call<'_>,
    target: &Target<'_>,
    mode: Option<&str>,
    nodes: Option<&str>,
) -> Result<bool, Failure> {
    let (manager, _) = target.parts();
    let live = manager.tree(&target.domain, false)?;
    let of = |attribute| live.tuned_by(&["numatune", "memory"], attribute);
    if mode.is_some_and(|mode| of("mode").unwrap_or("strict") != mode) {
        let text = "can't change numatune mode for running domain";
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
    }
    let here = of("nodeset").map_or_else(
        || list(&call.node().capabilities.host.cells.iter().map(|cell| cell.id).collect::<Vec<u32>>()),
        |set| list(&cpus(set, NODES_MAX)),
    );
    Ok(nodes.is_none_or(|nodes| here == nodes))
}

/// virDomainLifecycle and virDomainLifecycleAction
const EVENTS: [&str; 3] = ["poweroff", "reboot", "crash"];
const ACTIONS: [&str; 6] =
    ["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"];

fn lifecycle(call: &Call<'_>) -> Answer {
    let (reference, event, action, flags): (rpc::Domain<'_>, u32, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let word = |of: &[&'static str], number: u32, what: &str| {
        let found = usize::try_from(number).ok().and_then(|number| of.get(number)).copied();
        found.ok_or_else(|| invalid(format!("there is no lifecycle {what} {number}")))
    };
    let (event, action) = (word(&EVENTS, event, "event")?, word(&ACTIONS, action, "action")?);
    let refuse = |text: String| Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text));
    match (event, action) {
        ("crash", "preserve") | (_, "destroy" | "restart") => {}
        (_, "preserve") => {
            return refuse(
                "qemu driver doesn't support the 'preserve' action for 'on_reboot'/'on_poweroff'".into(),
            );
        }
        (_, "rename-restart") => {
            let events = "'on_reboot'/'on_poweroff'/'on_crash'";
            return refuse(format!("qemu driver doesn't support the 'rename-restart' action for {events}"));
        }
        ("crash", _) => {
            return refuse(format!("svirt writes no core dumps of a guest that crashed: '{action}'"));
        }
        _ => return refuse(format!("Lifecycle event '{event}' doesn't support '{action}' action")),
    }
    let impact = impact(&target, flags)?;
    let (manager, uuid) = target.parts();
    manager.set_lifecycle(uuid, impact.unforced(), &format!("on_{event}"), action)?;
    call.answer(&())
}

/// The element that a parameter stands for, and its text; none takes the element out.
struct Setting {
    parent: &'static str,
    element: &'static str,
    text: Option<String>,
}

type Read = fn(&TypedParam<'_>) -> Result<Setting, Failure>;

fn invalid(text: String) -> Failure {
    Failure::new(Code::InvalidArgument, From::None, text)
}

fn lacks(field: &str) -> Failure {
    let text = format!(
        "{field}: svirt tunes a domain as a whole, by processor time, memory and weight at the disks, and not this"
    );
    Failure::new(Code::ConfigUnsupported, From::Qemu, text)
}

fn with_flags(call: &Call<'_>, read: Read) -> Answer {
    let (reference, params, flags): (rpc::Domain<'_>, Params<'_>, u32) = call.arguments()?;
    set(call, &reference, &params, flags, read)
}

fn set(call: &Call<'_>, reference: &rpc::Domain<'_>, params: &Params<'_>, flags: u32, read: Read) -> Answer {
    let target: Target<'_> = call.domain(reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let impact = impact(&target, flags)?;
    let settings = params.0.iter().map(read).collect::<Result<Vec<Setting>, Failure>>()?;
    let (manager, uuid) = target.parts();
    let edit = |tree: &mut Tree| -> Result<(), ManagerError> {
        for Setting { parent, element, text } in &settings {
            tree.tune(parent, element, text.as_deref());
        }
        Ok(())
    };
    manager.tune(uuid, impact.unforced(), edit)?;
    call.answer(&())
}

fn scheduler(param: &TypedParam<'_>) -> Result<Setting, Failure> {
    let cpu = |element, text: String| Ok(Setting { parent: "cputune", element, text: Some(text) });
    match (param.field, &param.value) {
        ("cpu_shares", ParamValue::Ullong(value)) if !(1..=SHARES_MAX).contains(value) => {
            Err(invalid(format!("value of 'cpu_shares' is out of range [1, {SHARES_MAX}]")))
        }
        ("cpu_shares", ParamValue::Ullong(value)) => cpu("shares", value.to_string()),
        ("vcpu_period", ParamValue::Ullong(value)) => cpu("period", period(param.field, *value)?),
        ("global_period", ParamValue::Ullong(value)) => cpu("global_period", period(param.field, *value)?),
        ("vcpu_quota", ParamValue::Llong(value)) => cpu("quota", quota(param.field, *value)?),
        ("global_quota", ParamValue::Llong(value)) => cpu("global_quota", quota(param.field, *value)?),
        ("emulator_period" | "iothread_period", ParamValue::Ullong(_))
        | ("emulator_quota" | "iothread_quota", ParamValue::Llong(_)) => Err(lacks(param.field)),
        _ => Err(not_one(param, "virDomainSetSchedulerParameters")),
    }
}

/// A name that there is not, or one with a value of another type.
fn not_one(param: &TypedParam<'_>, of: &str) -> Failure {
    invalid(format!("parameter '{}' with a value of this type is none of {of}", param.field))
}

fn period(field: &str, value: u64) -> Result<String, Failure> {
    if (SLICE_MIN..=PERIOD_MAX).contains(&value) {
        return Ok(value.to_string());
    }
    Err(invalid(format!("value of '{field}' is out of range [{SLICE_MIN}, {PERIOD_MAX}]")))
}

/// What is not positive is no limit.
fn quota(field: &str, value: i64) -> Result<String, Failure> {
    let fits = u64::try_from(value).map_or(true, |it| it == 0 || (SLICE_MIN..=QUOTA_MAX).contains(&it));
    if fits {
        return Ok(value.max(-1).to_string());
    }
    Err(invalid(format!("value of '{field}' is out of range [{SLICE_MIN}, {QUOTA_MAX}]")))
}

fn disks(param: &TypedParam<'_>) -> Result<Setting, Failure> {
    match (param.field, &param.value) {
        ("weight", ParamValue::Uint(weight)) if (WEIGHT_MIN..=WEIGHT_MAX).contains(&u64::from(*weight)) => {
            Ok(Setting { parent: "blkiotune", element: "weight", text: Some(weight.to_string()) })
        }
        ("weight", ParamValue::Uint(_)) => {
            Err(invalid(format!("value of 'weight' is out of range [{WEIGHT_MIN}, {WEIGHT_MAX}]")))
        }
        ("device_weight", ParamValue::Text(_)) => Err(lacks(param.field)),
        (field, ParamValue::Text(_)) if field.starts_with("device_") && field.ends_with("_sec") => {
            let text = format!("{field}: svirt limits what each disk may do by itself: use blkdeviotune");
            Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text))
        }
        _ => Err(not_one(param, "virDomainSetBlkioParameters")),
    }
}

fn memory(param: &TypedParam<'_>) -> Result<Setting, Failure> {
    let element = match (param.field, &param.value) {
        ("hard_limit", ParamValue::Ullong(_)) => "hard_limit",
        ("soft_limit", ParamValue::Ullong(_)) => "soft_limit",
        ("swap_hard_limit" | "min_guarantee", ParamValue::Ullong(_)) => return Err(lacks(param.field)),
        _ => return Err(not_one(param, "virDomainSetMemoryParameters")),
    };
    let ParamValue::Ullong(kibibytes) = param.value else {
        return Err(not_one(param, "virDomainSetMemoryParameters"));
    };
    let limited = (kibibytes < UNLIMITED).then_some(kibibytes);
    if limited == Some(0) {
        return Err(invalid(format!("value of '{element}' must be more than 0")));
    }
    Ok(Setting { parent: "memtune", element, text: limited.map(|kibibytes| kibibytes.to_string()) })
}
