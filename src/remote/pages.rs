//! Calls about the host's memory: pages that are free, and pages that the kernel shares.

use std::collections::BTreeMap;

use super::Kind;
use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use super::live::STRING_OKAY;
use super::node::{self, HUGE_PAGES, KSM, NODES, read};
use crate::rpc::{List, ParamValue, Procedure, TypedParam};

/// Answered from the kernel's files.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::NodeAllocPages => |call| refused(call, "pages are set aside by root: /proc/sys/vm/nr_hugepages"),
        P::NodeGetFreePages => free_pages,
        P::NodeGetMemoryParameters => shared_pages,
        P::NodeSetMemoryParameters => {
            |call| refused(call, "what the kernel shares is set by root: /sys/kernel/mm/ksm")
        }
        _ => return None,
    })
}

/// The made-up host has no memory of its own.
fn real(call: &Call<'_>) -> Result<(), Failure> {
    match call.kind() {
        Kind::Test => Err(Failure::unsupported(call.procedure.api())),
        _ => Ok(()),
    }
}

/// svirtd has no right to it, and no part of svirt does it for clients.
fn refused(call: &Call<'_>, how: &str) -> Answer {
    real(call)?;
    let text = format!("svirt changes nothing of the host's memory; {how}");
    Err(Failure::new(Code::OperationUnsupported, From::Qemu, text))
}

/// REMOTE_NODE_MAX_CELLS
const COUNTS_MAX: usize = 1024;

fn free_pages(call: &Call<'_>) -> Answer {
    type Arguments = (List<u32, COUNTS_MAX>, i32, u32, u32);
    let (sizes, first, count, flags): Arguments = call.arguments()?;
    real(call)?;
    call.only_flags(flags, 0)?;
    let cells = &call.node().capabilities.host.cells;
    let internal = |text| Failure::new(Code::Internal, From::None, text);
    let begin = usize::try_from(first).ok().filter(|first| *first < cells.len());
    let last = cells.len().saturating_sub(1);
    let begin = begin.ok_or_else(|| internal(format!("start cell {first} out of range (0-{last})")))?;
    let wanted = cells.iter().skip(begin).take(usize::try_from(count).unwrap_or(usize::MAX));
    if wanted.len().saturating_mul(sizes.0.len()) > COUNTS_MAX {
        return Err(internal("the result won't fit into REMOTE_NODE_MAX_CELLS".into()));
    }
    let mut counts = Vec::new();
    for cell in wanted {
        let missing = |size| {
            let text = format!("page size {size} is not available on node {}", cell.id);
            Failure::new(Code::OperationFailed, From::None, text)
        };
        counts.extend(
            counted(&cell.pages, &sizes.0, |size, ordinary| free(cell.id, size, ordinary))
                .map_err(missing)?,
        );
    }
    call.answer(&List::<u64, COUNTS_MAX>(counts))
}

/// How many pages of each size are free in a cell that has those of `pages`, or the first size that it has none of. However
/// often a size is asked for, it is read once.
fn counted(
    pages: &[(u64, u64)],
    sizes: &[u32],
    mut free: impl FnMut(u32, bool) -> Option<u64>,
) -> Result<Vec<u64>, u32> {
    let mut read: BTreeMap<u32, u64> = BTreeMap::new();
    let mut counts = Vec::new();
    for size in sizes {
        let count = match read.get(size) {
            Some(count) => *count,
            None => {
                let at = pages.iter().position(|(known, _)| *known == u64::from(*size));
                at.and_then(|at| free(*size, at == 0)).ok_or(*size)?
            }
        };
        read.insert(*size, count);
        counts.push(count);
    }
    Ok(counts)
}

/// How many pages of a size in KiB are free in a cell. A kernel without NUMA tells of the whole host alone.
fn free(cell: u32, size: u32, ordinary: bool) -> Option<u64> {
    let directory = format!("{NODES}/node{cell}");
    if ordinary {
        let kibibytes = match read(&format!("{directory}/meminfo")) {
            Some(text) => field(&text, "MemFree:")?,
            None => node::memory("MemFree").ok()? / 1024,
        };
        return kibibytes.checked_div(size.into());
    }
    let count = |pages: &str| read(&format!("{pages}/hugepages-{size}kB/free_hugepages"));
    count(&format!("{directory}/hugepages")).or_else(|| count(HUGE_PAGES))?.trim().parse().ok()
}

/// A value in KiB of a node's account of memory, whose lines begin with the node.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.split_once(name))?.1.trim();
    value.strip_suffix("kB")?.trim().parse().ok()
}

/// What KSM shares: libvirt's names, the kernel's files, and whether it is a short number.
const SHARED: [(&str, &str, bool); 8] = [
    ("shm_pages_to_scan", "pages_to_scan", true),
    ("shm_sleep_millisecs", "sleep_millisecs", true),
    ("shm_pages_shared", "pages_shared", false),
    ("shm_pages_sharing", "pages_sharing", false),
    ("shm_pages_unshared", "pages_unshared", false),
    ("shm_pages_volatile", "pages_volatile", false),
    ("shm_full_scans", "full_scans", false),
    ("shm_merge_across_nodes", "merge_across_nodes", true),
];

fn shared_pages(call: &Call<'_>) -> Answer {
    let (room, flags): (i32, u32) = call.arguments()?;
    real(call)?;
    call.only_flags(flags, STRING_OKAY)?;
    let count = i32::try_from(SHARED.len()).unwrap_or(0);
    if room == 0 {
        return call.answer(&(List::<TypedParam<'_>, 64>(Vec::new()), count));
    }
    // A kernel that cannot share any has none of the files.
    let param = |(field, file, short): &(&'static str, &str, bool)| {
        let number: u64 = read(&format!("{KSM}/{file}"))?.trim().parse().ok()?;
        let value = match short {
            true => ParamValue::Uint(u32::try_from(number).ok()?),
            false => ParamValue::Ullong(number),
        };
        Some(TypedParam { field, value })
    };
    let params: Vec<_> = SHARED.iter().filter_map(param).take(usize::try_from(room).unwrap_or(0)).collect();
    let count = i32::try_from(params.len()).unwrap_or(0);
    call.answer(&(List::<_, 64>(params), count))
}

#[cfg(test)]
mod tests {
    use super::{counted, field};

    #[test]
    fn a_size_is_read_once_and_one_that_is_not_there_never() {
        let asked = std::cell::RefCell::new(Vec::new());
        let free = |size: u32, ordinary| {
            asked.borrow_mut().push((size, ordinary));
            Some(u64::from(size) + 1)
        };
        let pages = [(4, 9), (2048, 0)];
        assert_eq!(counted(&pages, &[4; 1024], free), Ok(vec![5; 1024]));
        assert_eq!(counted(&pages, &[2048, 4, 2048, 5, 4], free), Err(5));
        assert_eq!(*asked.borrow(), [(4, true), (2048, false), (4, true)]);
    }

    #[test]
    fn a_node_names_itself_before_each_value() {
        let text = "Node 0 MemTotal:  24684092 kB\nNode 0 MemFree:   179 kB\nNode 0 MemUsed: x kB\n";
        assert_eq!(field(text, "MemFree:"), Some(179));
        assert_eq!((field(text, "MemUsed:"), field(text, "Active:")), (None, None));
    }
}
