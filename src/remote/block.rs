//! Calls about one disk of a domain.

use super::call::{Answer, Call};
use super::domain::definition;
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use crate::conf::domain::ImageFormat;
use crate::manager::{DiskName, ManagerError};
use crate::privsep::storage::Part;
use crate::privsep::throttle::{DISK_LIMITS, DiskTuning, LIMIT_MAX};
use crate::rpc::{self, List, Opaque, ParamValue, Procedure, TypedParam};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainBlockJobAbort => |call| {
            let (reference, disk, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
            no_job(call, &reference, disk, (flags, ABORT_ASYNC | ABORT_PIVOT))
        },
        P::DomainBlockJobSetSpeed => |call| {
            let (reference, disk, _speed, flags): (rpc::Domain<'_>, &str, u64, u32) = call.arguments()?;
            no_job(call, &reference, disk, (flags, JOB_BYTES))
        },
        P::DomainBlockPeek => peek,
        P::DomainBlockResize => resize,
        P::DomainGetBlockJobInfo => job,
        P::DomainSetBlockIoTune => throttle,
        P::DomainSetBlockThreshold => watch,
        _ => return None,
    })
}

/// REMOTE_DOMAIN_BLOCK_PEEK_BUFFER_MAX, in bytes.
const PEEK_MAX: u32 = 4 << 20;

/// A part of a disk, as its file has it: of a raw image that is what the guest sees.
fn peek(call: &Call<'_>) -> Answer {
    let (reference, name, offset, bytes, flags): (rpc::Domain<'_>, &str, u64, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    if bytes > PEEK_MAX {
        return Err(Failure::new(Code::Internal, From::Rpc, "size > maximum buffer size"));
    }
    definition(&target.domain)?;
    let Some(source) = call.manager().image(&target.domain, name)? else {
        let text = format!("disk '{}' not found in domain", name.escape_debug());
        return Err(Failure::new(Code::InvalidArgument, From::Qemu, text));
    };
    if source.format != ImageFormat::Raw {
        let text = "peeking is only supported for disk with 'raw' format not 'qcow2'";
        return Err(Failure::new(Code::OperationUnsupported, From::Qemu, text));
    }
    let part = Part { offset, length: bytes.into() };
    let read = call.pools().part_of(&source.path, part)?;
    if read.len() < bytes as usize {
        let there = read.len();
        let text =
            format!("'{}' starting from {offset} has only {there} bytes available", name.escape_debug());
        return Err(Failure::new(Code::InvalidArgument, From::Qemu, text));
    }
    call.answer(&Opaque::<{ PEEK_MAX as usize }>(read))
}

/// virDomainBlockResizeFlags: in bytes, and not in KiB.
const BYTES: u32 = 1;

fn resize(call: &Call<'_>) -> Answer {
    let (reference, disk, size, flags): (rpc::Domain<'_>, &str, u64, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, BYTES)?;
    let too_much = || {
        let text = format!("size must be less than {}", u64::MAX / 1024);
        Failure::new(Code::Overflow, From::Qemu, text)
    };
    let bytes = if flags & BYTES != 0 { Some(size) } else { size.checked_mul(1024) };
    let (manager, uuid) = target.parts();
    manager.resize_block(uuid, disk, bytes.ok_or_else(too_much)?)?;
    call.answer(&())
}

/// virDomainBlockJobInfoFlags: the rate in bytes, and not in MiB.
const JOB_BYTES: u32 = 1;
/// virDomainBlockJobAbortFlags
const ABORT_ASYNC: u32 = 1;
const ABORT_PIVOT: u32 = 2;

/// The domain of a call about a job on a disk of what runs.
fn with_disk(
    call: &Call<'_>,
    reference: &rpc::Domain<'_>,
    disk: &str,
    (flags, known): (u32, u32),
) -> Result<(), Failure> {
    let target = call.domain(reference, flags)?;
    call.only_flags(flags, known)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    let named = |name: &DiskName| name.target == disk || name.source.as_deref() == Some(disk);
    if call.manager().disks(&target.domain)?.iter().any(named) {
        return Ok(());
    }
    let text = format!("disk '{}' not found in domain", disk.escape_debug());
    Err(Failure::new(Code::InvalidArgument, From::Qemu, text))
}

/// What goes on with a disk by itself: nothing ever, since nothing of that kind can be begun.
fn job(call: &Call<'_>) -> Answer {
    let (reference, disk, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    with_disk(call, &reference, disk, (flags, JOB_BYTES))?;
    call.answer(&((0_i32, 0_i32), (0_u64, 0_u64, 0_u64)))
}

fn no_job(call: &Call<'_>, reference: &rpc::Domain<'_>, disk: &str, flags: (u32, u32)) -> Answer {
    with_disk(call, reference, disk, flags)?;
    let text = format!("disk {} does not have an active block job", disk.escape_debug());
    Err(Failure::new(Code::InvalidArgument, From::Qemu, text))
}

fn watch(call: &Call<'_>) -> Answer {
    let (reference, disk, bytes, flags): (rpc::Domain<'_>, &str, u64, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    manager.watch_block(uuid, disk, bytes)?;
    call.answer(&())
}

/// A message has no more parameters.
type Params<'a> = List<TypedParam<'a>, 32>;

/// What a call changes of a disk's limits: of a family it says all, of the others nothing.
#[derive(Debug, Default)]
struct Change<'a> {
    limits: [Option<u64>; 19],
    group: Option<&'a str>,
}

impl<'a> Change<'a> {
    fn read(params: &[TypedParam<'a>]) -> Result<Self, Failure> {
        let invalid = |text: String| Failure::new(Code::InvalidArgument, From::None, text);
        let mut change = Self::default();
        for param in params {
            let at = DISK_LIMITS.iter().position(|(name, _)| *name == param.field);
            let limit = at.and_then(|at| change.limits.get_mut(at));
            match (limit, param.field, &param.value) {
                (Some(limit), _, ParamValue::Ullong(value)) => *limit = Some(*value),
                (_, "group_name", ParamValue::Text(name)) => change.group = Some(name),
                _ => return Err(invalid(format!("parameter '{}' not supported", param.field))),
            }
        }
        Ok(change)
    }

    fn of(&self, old: &DiskTuning) -> Result<DiskTuning, ManagerError> {
        let mut new = old.clone();
        for (said, limits) in self.limits.chunks(3).zip(new.limits.chunks_mut(3)) {
            if said.iter().any(Option::is_some) {
                for (limit, said) in limits.iter_mut().zip(said) {
                    *limit = said.unwrap_or(0);
                }
            }
        }
        if let Some(name) = self.group {
            new.group = Some(name.to_owned()).filter(|name| !name.is_empty());
        }
        let exceeds = new.limits.iter().any(|limit| *limit > LIMIT_MAX);
        let refused = if exceeds { ManagerError::Value } else { ManagerError::Argument };
        new.check().map_err(refused)?;
        new.check_bursts().map_err(ManagerError::Config)?;
        if new.is_none() && self.group.is_some_and(|name| !name.is_empty()) {
            let text =
                "creating a new group/updating existing with all tune parameters zero is not supported";
            return Err(ManagerError::Operation(text.into()));
        }
        Ok(new)
    }
}

fn throttle(call: &Call<'_>) -> Answer {
    let (reference, disk, params, flags): (rpc::Domain<'_>, &str, Params<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let change = Change::read(&params.0)?;
    let impact = impact(&target, flags)?;
    let (manager, uuid) = target.parts();
    manager.throttle(uuid, impact.unforced(), disk, |old| change.of(old))?;
    call.answer(&())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_set_as_a_whole_and_others_stay() {
        let param = |field, value| TypedParam { field, value: ParamValue::Ullong(value) };
        let mut old = DiskTuning::default();
        (old.limits[1], old.limits[2], old.limits[3]) = (10, 20, 30);
        let change = Change::read(&[param("total_bytes_sec", 7)]).unwrap();
        let new = change.of(&old).unwrap();
        assert_eq!(new.limits[..4], [7, 0, 0, 30]);
        let group = TypedParam { field: "group_name", value: ParamValue::Text("g") };
        let none = Change::read(&[group]).unwrap();
        assert!(none.of(&DiskTuning::default()).is_err());
        assert_eq!(none.of(&old).unwrap().group.as_deref(), Some("g"));
        assert!(Change::read(&[param("nosuch", 1)]).is_err());
        let wrong = Change::read(&[param("total_bytes_sec", 7), param("read_bytes_sec", 7)]).unwrap();
        assert!(matches!(wrong.of(&old), Err(ManagerError::Argument(_))));
    }
}
