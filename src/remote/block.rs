//! Calls about one disk of a domain that runs.

use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use crate::rpc::{self, Procedure};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainBlockResize => resize,
        _ => return None,
    })
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
