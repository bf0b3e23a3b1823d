//! Memory, CPUs and what lies next to what, from sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::conf::capabilities::{Cell, CellCpu};

/// The most CPUs of a list: the kernel's own limit is 8192.
const CPUS_MAX: u32 = 65_536;

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: impl AsRef<Path>) -> Option<u32> {
    // -1 stands where the machine has no such level.
    text(path)?.parse::<i64>().ok().map(|number| u32::try_from(number).unwrap_or(0))
}

/// The numbers of a list such as `0-3,8`.
pub(super) fn list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last >= CPUS_MAX {
            return None;
        }
        numbers.extend(first..=last);
        if numbers.len() > CPUS_MAX as usize {
            return None;
        }
    }
    Some(numbers)
}

/// The CPUs online.
pub(super) fn online() -> Vec<u32> {
    text("/sys/devices/system/cpu/online").and_then(|online| list(&online)).unwrap_or_else(|| vec![0])
}

/// Memory cells with their CPUs; a kernel without NUMA has one.
pub(super) fn cells(memory: u64) -> Vec<Cell> {
    let nodes = Path::new("/sys/devices/system/node");
    let ids = text(nodes.join("online")).and_then(|online| list(&online)).unwrap_or_default();
    let cells: Vec<Cell> = ids.iter().filter_map(|id| node(*id, &ids, nodes)).collect();
    if cells.is_empty() { vec![whole(memory)] } else { cells }
}

fn whole(memory: u64) -> Cell {
    let pages = pages(Path::new("/sys/kernel/mm/hugepages"), memory / 1024);
    Cell { id: 0, memory: memory / 1024, pages, distances: Vec::new(), cpus: cpus(&online()) }
}

fn node(id: u32, ids: &[u32], nodes: &Path) -> Option<Cell> {
    let directory: PathBuf = nodes.join(format!("node{id}"));
    let meminfo = text(directory.join("meminfo"))?;
    let memory = meminfo.lines().find_map(|line| {
        let value = line.split_once("MemTotal:")?.1.trim();
        value.strip_suffix("kB")?.trim().parse().ok()
    })?;
    let distances = text(directory.join("distance")).unwrap_or_default();
    let distances = ids.iter().copied().zip(distances.split_whitespace().filter_map(|d| d.parse().ok()));
    Some(Cell {
        id,
        memory,
        pages: pages(&directory.join("hugepages"), memory),
        distances: distances.collect(),
        cpus: cpus(&text(directory.join("cpulist")).and_then(|cpus| list(&cpus)).unwrap_or_default()),
    })
}

/// Huge pages in bytes and how many are set aside, the kernel's default size first.
pub(super) fn hugepages() -> Vec<(u64, u64)> {
    let mut all = pages(Path::new("/sys/kernel/mm/hugepages"), 0);
    // The ordinary pages stand first.
    let mut huge: Vec<(u64, u64)> = all.drain(1..).map(|(size, count)| (size * 1024, count)).collect();
    let meminfo = text("/proc/meminfo").unwrap_or_default();
    let default = meminfo.lines().find_map(|line| {
        line.strip_prefix("Hugepagesize:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    huge.sort_by_key(|(size, _)| Some(size / 1024) != default);
    huge
}

/// Ordinary pages, and every larger size with how many are set aside.
fn pages(hugepages: &Path, memory: u64) -> Vec<(u64, u64)> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let size = size.and_then(|bytes| u64::try_from(bytes / 1024).ok()).unwrap_or(4);
    let mut huge: Vec<(u64, u64)> = fs::read_dir(hugepages)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let size = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some((size, text(entry.path().join("nr_hugepages"))?.parse().ok()?))
        })
        .collect();
    huge.sort_unstable();
    let set_aside: u64 = huge.iter().map(|(size, count)| size.saturating_mul(*count)).sum();
    let mut all = vec![(size, memory.saturating_sub(set_aside) / size.max(1))];
    all.append(&mut huge);
    all
}

fn cpus(ids: &[u32]) -> Vec<CellCpu> {
    ids.iter()
        .map(|id| {
            let topology = format!("/sys/devices/system/cpu/cpu{id}/topology");
            let of = |name: &str| number(format!("{topology}/{name}")).unwrap_or(0);
            CellCpu {
                id: *id,
                socket: of("physical_package_id"),
                die: of("die_id"),
                core: of("core_id"),
                siblings: text(format!("{topology}/thread_siblings_list")).unwrap_or_else(|| id.to_string()),
            }
        })
        .collect()
}

/// Sockets, dies a socket, cores a die, threads a core. Where they do not multiply to the CPUs (some are offline, or
/// of two kinds), all count as cores of one socket, as libvirt has it.
pub(super) fn shape(cells: &[Cell]) -> [u32; 4] {
    use std::collections::BTreeSet;
    let cpus: Vec<&CellCpu> = cells.iter().flat_map(|cell| &cell.cpus).collect();
    let count = |set: usize| u32::try_from(set).unwrap_or(u32::MAX);
    let sockets = count(cpus.iter().map(|c| c.socket).collect::<BTreeSet<_>>().len()).max(1);
    let dies = count(cpus.iter().map(|c| (c.socket, c.die)).collect::<BTreeSet<_>>().len()).max(1);
    let cores = count(cpus.iter().map(|c| (c.socket, c.die, c.core)).collect::<BTreeSet<_>>().len()).max(1);
    let all = count(cpus.len()).max(1);
    let whole = dies % sockets == 0 && cores % dies == 0 && all % cores == 0;
    if whole { [sockets, dies / sockets, cores / dies, all / cores] } else { [1, 1, all, 1] }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(list("0").unwrap(), [0]);
        assert_eq!(list("0-3,8,10-11").unwrap().len(), 7);
        assert_eq!(list("").unwrap().len(), 0);
        for wrong in ["3-1", "x", "0-99999999", "1-"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_shape_multiplies_to_the_cpus() {
        let cpu = |id, socket, core| CellCpu { id, socket, core, ..CellCpu::default() };
        let cell = |cpus| Cell { cpus, ..Cell::default() };
        let two = cell(vec![cpu(0, 0, 0), cpu(1, 0, 1), cpu(2, 1, 0), cpu(3, 1, 1)]);
        assert_eq!(shape(&[two]), [2, 1, 2, 1]);
        let threads = cell(vec![cpu(0, 0, 0), cpu(1, 0, 0), cpu(2, 0, 1), cpu(3, 0, 1)]);
        assert_eq!(shape(&[threads]), [1, 1, 2, 2]);
        let odd = cell(vec![cpu(0, 0, 0), cpu(1, 0, 0), cpu(2, 0, 1)]);
        assert_eq!(shape(&[odd]), [1, 1, 3, 1], "an offline thread");
        assert_eq!(shape(&[]), [1, 1, 1, 1]);
    }

    #[test]
    fn this_host_has_a_cell_with_memory_and_cpus() {
        let cells = cells(1 << 30);
        assert!(!cells.is_empty() && cells.iter().all(|cell| cell.memory > 0));
        let cpus: usize = cells.iter().map(|cell| cell.cpus.len()).sum();
        assert_eq!(cpus, online().len());
    }
}
