//! Calls that write a guest's memory down, or hand a piece of it out.

use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use crate::manager::{Afterwards, ManagerError};
use crate::privsep::dump::DumpFormat;
use crate::rpc::{self, Opaque, Procedure};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainCoreDump => plain,
        P::DomainCoreDumpWithFormat => with_format,
        P::DomainMemoryPeek => peek,
        _ => return None,
    })
}

/// virDomainCoreDumpFlags
const CRASH: u32 = 1;
const LIVE: u32 = 2;
const BYPASS_CACHE: u32 = 4;
const RESET: u32 = 8;
const MEMORY_ONLY: u32 = 16;

/// virDomainMemoryFlags
const VIRTUAL: u32 = 1;
const PHYSICAL: u32 = 2;
/// REMOTE_DOMAIN_MEMORY_PEEK_BUFFER_MAX, in bytes.
const PEEK_MAX: u32 = 4 << 20;

fn peek(call: &Call<'_>) -> Answer {
    let (reference, from, bytes, flags): (rpc::Domain<'_>, u64, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    if !matches!(flags, VIRTUAL | PHYSICAL) {
        let text = "flags parameter must be VIR_MEMORY_VIRTUAL or VIR_MEMORY_PHYSICAL";
        return Err(Failure::new(Code::InvalidArgument, From::Qemu, text));
    }
    if bytes > PEEK_MAX {
        return Err(Failure::new(Code::Internal, From::Rpc, "size > maximum buffer size"));
    }
    let (manager, uuid) = target.parts();
    let read = manager.memory_at(uuid, from, bytes, flags == PHYSICAL)?;
    call.answer(&Opaque::<{ PEEK_MAX as usize }>(read))
}

fn plain(call: &Call<'_>) -> Answer {
    let (dom, to, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    dump(call, &dom, to, 0, flags)
}

fn with_format(call: &Call<'_>) -> Answer {
    let (dom, to, format, flags): (rpc::Domain<'_>, &str, u32, u32) = call.arguments()?;
    dump(call, &dom, to, format, flags)
}

fn dump(call: &Call<'_>, dom: &rpc::Domain<'_>, to: &str, format: u32, flags: u32) -> Answer {
    let target = call.domain(dom, flags)?;
    // The guest stands while QEMU writes, whether LIVE says that it need not or not.
    call.only_flags(flags, CRASH | LIVE | BYPASS_CACHE | RESET | MEMORY_ONLY)?;
    let then = afterwards(flags)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    let unsupported = |text: &str| Failure::from(ManagerError::Unsupported(text.into()));
    if flags & BYPASS_CACHE != 0 {
        return Err(unsupported(
            "what QEMU writes goes through the page cache: bypassing it is not done; leave --bypass-cache away",
        ));
    }
    if flags & MEMORY_ONLY == 0 {
        return Err(unsupported(
            "devices' states are dumped by `virsh save` alone: add --memory-only for the memory",
        ));
    }
    let (manager, uuid) = target.parts();
    manager.dump(uuid, (to, call.session.uid()), format_of(format)?, then)?;
    call.answer(&())
}

fn afterwards(flags: u32) -> Result<Afterwards, Failure> {
    let both = |one: &str, other: &str| {
        let text = format!("{one} and {other} flags are mutually exclusive");
        Failure::new(Code::InvalidArgument, From::Domain, text)
    };
    match (flags & CRASH != 0, flags & RESET != 0) {
        (true, true) => Err(both("crash", "reset")),
        (true, false) if flags & LIVE != 0 => Err(both("crash", "live")),
        (_, true) if flags & LIVE != 0 => Err(both("reset", "live")),
        (true, false) => Ok(Afterwards::Ends),
        (false, true) => Ok(Afterwards::Reset),
        (false, false) => Ok(Afterwards::GoesOn),
    }
}

/// virDomainCoreDumpFormat
fn format_of(number: u32) -> Result<DumpFormat, Failure> {
    Ok(match number {
        0 => DumpFormat::Elf,
        1 => DumpFormat::KdumpZlib,
        2 => DumpFormat::KdumpLzo,
        3 => DumpFormat::KdumpSnappy,
        4 => DumpFormat::WinDmp,
        other => {
            let text = format!("dump format {other} is not one that is known (0 to 4)");
            return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
        }
    })
}
