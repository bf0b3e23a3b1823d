//! The host, as calls tell it. Reads a few kinds of files of the kernel's ([`READ`]); everything else was read at the start.

use std::io::Read as _;

use super::error::{Code, Failure, From};
use crate::conf::capabilities::Capabilities;
use crate::conf::emulator::EmulatorFacts;
use crate::conf::sysinfo::Sysinfo;

/// Where control groups are mounted.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the kernel tells of network devices that are no hardware, as tap devices are.
pub(super) const NETWORK: &str = "/sys/devices/virtual/net";
/// Where the kernel tells of each NUMA node.
pub(super) const NODES: &str = "/sys/devices/system/node";
/// Where it tells of huge pages, also without NUMA.
pub(super) const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
/// Where it tells of pages that it shares.
pub(super) const KSM: &str = "/sys/kernel/mm/ksm";
const MEMINFO: &str = "/proc/meminfo";
const STAT: &str = "/proc/stat";
/// The most that is read of a file of the kernel's.
const FILE_MAX: u64 = 64 << 10;

/// What of the host does not change while the daemon runs.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub hostname: String,
    /// Its CPUs' clock, 0 where the kernel does not tell.
    pub mhz: u32,
    /// What it can run.
    pub capabilities: Capabilities,
    /// What its emulators can do.
    pub emulators: Vec<EmulatorFacts>,
    /// The capabilities as they are sent.
    xml: String,
    /// What its firmware says of it, as that is sent.
    sysinfo: Option<String>,
    arrangement: [u32; 4],
}

/// The files that calls read, for whoever confines the daemon.
pub const READ: &[&str] = &[CGROUPS, NETWORK, NODES, HUGE_PAGES, KSM, MEMINFO, STAT];

impl Node {
    /// A host as it was read.
    #[must_use]
    pub fn new(
        hostname: String,
        mhz: u32,
        capabilities: Capabilities,
        emulators: Vec<EmulatorFacts>,
    ) -> Self {
        let xml = capabilities.to_xml();
        let host = &capabilities.host;
        let nodes = u32::try_from(host.cells.len()).unwrap_or(1).max(1);
        let [sockets, dies, cores, threads] = host.cpu.topology.unwrap_or([1; 4]);
        let arrangement = [nodes, (sockets / nodes).max(1), dies.saturating_mul(cores), threads];
        Self { hostname, mhz, capabilities, emulators, xml, sysinfo: None, arrangement }
    }

    /// The same with what its firmware says of it.
    #[must_use]
    pub fn with_sysinfo(self, sysinfo: Option<&Sysinfo>) -> Self {
        Self { sysinfo: sysinfo.map(Sysinfo::to_xml), ..self }
    }

    /// What its firmware says of it.
    pub(super) fn sysinfo(&self) -> Option<&str> {
        self.sysinfo.as_deref()
    }

    /// The host of libvirt's test driver, which is the same everywhere.
    #[must_use]
    pub fn test(hostname: String, capabilities: Capabilities) -> Self {
        Self { arrangement: [2; 4], ..Self::new(hostname, 1400, capabilities, Vec::new()) }
    }

    /// The capabilities as they are sent.
    pub(super) fn capabilities_xml(&self) -> &str {
        &self.xml
    }

    /// The first security model, which older calls speak of, and its domain of interpretation.
    pub(super) fn model(&self) -> Option<(&str, &str)> {
        let model = self.capabilities.host.security.first()?;
        Some((&model.model, model.dois.first()?))
    }

    /// NUMA nodes, sockets a node, cores a socket, threads a core.
    pub(super) fn arrangement(&self) -> [u32; 4] {
        self.arrangement
    }

    /// Bytes of memory that nothing uses.
    pub(super) fn free_memory(&self) -> Result<u64, Failure> {
        memory("MemFree")
    }
}

/// A field of the kernel's account of memory, in bytes.
pub(super) fn memory(field: &str) -> Result<u64, Failure> {
    let text = read(MEMINFO).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes
        .map(|number| number.saturating_mul(1024))
        .ok_or_else(|| Failure::new(Code::Internal, From::None, format!("{MEMINFO} does not tell {field}")))
}

/// Nanoseconds that a CPU, or all of them, spent in the kernel, in programs, idle, and idle while something was read
/// or written.
pub(super) fn cpu_times(cpu: Option<i32>) -> Option<[u64; 4]> {
    // USER_HZ is 100 on every architecture that svirt runs on.
    const TICK: u64 = 10_000_000;
    let wanted = cpu.map_or_else(|| "cpu".to_owned(), |number| format!("cpu{number}"));
    let text = read(STAT)?;
    let mut fields = text
        .lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut fields| (fields.next()? == wanted).then_some(fields))?;
    let mut next = || Some(fields.next()?.parse::<u64>().ok()?.saturating_mul(TICK));
    let (user, nice, system, idle, iowait) = (next()?, next()?, next()?, next()?, next()?);
    let (irq, softirq) = (next()?, next()?);
    Some([system.saturating_add(irq).saturating_add(softirq), user.saturating_add(nice), idle, iowait])
}

/// What stands in a file of the kernel's.
pub(super) fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
