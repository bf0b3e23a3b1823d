//! What the guest's memory is made of.

use serde::Serialize;

/// `<memoryBacking>`; the default is what a definition without one gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryBacking {
    /// `<source type>`
    pub source: MemorySource,
    /// `<access mode='shared'/>`: other processes may have the memory too, which vhost-user devices need.
    pub shared: bool,
    /// `<hugepages>`
    pub hugepages: Option<HugePages>,
    /// `<locked/>`: never swapped out.
    pub locked: bool,
    /// `<nosharepages/>`: the kernel does not merge equal pages of it with those of other processes.
    pub no_merge: bool,
    /// `<allocation mode='immediate'>`: all of it is allocated before the guest runs.
    pub immediate: bool,
    /// `<allocation threads>`: how many threads do that.
    pub threads: Option<u32>,
    /// Line of the element in the definition; 0 where there is none.
    pub line: u32,
}

/// `<source type>`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemorySource {
    /// Memory without a descriptor.
    #[default]
    Anonymous,
    /// A memfd.
    Memfd,
}

/// `<hugepages>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// `<page size>` in bytes; the host's default size where absent.
    pub size: Option<u64>,
}

impl MemoryBacking {
    /// Whether the memory has a descriptor: it is shared, or of huge pages, or the definition asks for one.
    #[must_use]
    pub fn has_descriptor(&self) -> bool {
        self.source == MemorySource::Memfd || self.shared || self.hugepages.is_some()
    }
}

/// `<cell>` of `<numa>`: a node that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NumaCell {
    /// Its CPUs, ascending.
    pub cpus: Vec<u32>,
    /// `memory` in bytes, in whole KiB.
    pub memory: u64,
    /// `memAccess`: what `<memoryBacking><access>` says where absent.
    pub shared: Option<bool>,
    /// `<distances>`: other nodes, and how far each is; 10 is the node itself.
    pub distances: Vec<(usize, u8)>,
}

impl NumaCell {
    /// Whether other processes may have its memory too.
    #[must_use]
    pub fn is_shared(&self, backing: &MemoryBacking) -> bool {
        self.shared.unwrap_or(backing.shared)
    }
}
