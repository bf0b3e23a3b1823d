//! What is asked of a domain that runs, through its supervisor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::table::Live;
use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::driver::{DriverError, disk_aliases};
use crate::privsep::ask::Ask;
use crate::privsep::supervisor::MONITOR_LOST;

/// How long a domain whose supervisor hung up is given to have ended: taking it back takes the labeller as long.
const ENDING: Duration = Duration::from_secs(5);

/// One disk of a definition, as calls name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskName {
    /// `<target dev>`
    pub target: String,
    /// The alias, which is QEMU's id of the device too.
    pub alias: String,
    /// The image, unless the drive is empty.
    pub source: Option<String>,
}

/// What the layers of a disk did, as libvirt counts it. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Time of reads.
    pub read_time: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Time of writes.
    pub write_time: u64,
    /// Flushes.
    pub flushes: u64,
    /// Time of flushes.
    pub flush_time: u64,
    /// How far into the image something was written since the start, in bytes.
    pub highest: u64,
}

/// The sizes of a disk in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// What the guest sees.
    pub capacity: u64,
    /// What it takes on the host.
    pub allocation: u64,
    /// How long the file or device is.
    pub physical: u64,
    /// Where in the image it is watched whether something is written there or behind it; 0 nowhere.
    pub threshold: u64,
}

impl DiskName {
    /// The image of one that is no empty drive.
    pub fn medium(&self) -> Result<&str, ManagerError> {
        let none = || format!("disk '{}' does not currently have a source assigned", self.target);
        self.source.as_deref().ok_or_else(|| ManagerError::Argument(none()))
    }
}

impl Definition {
    /// Its disks as calls name them.
    pub fn disks(&self) -> Result<Vec<DiskName>, ManagerError> {
        let domain = self.domain()?;
        let disks = &domain.devices.disks;
        let aliases = disk_aliases(disks);
        let alias =
            |target: &str| aliases.iter().find(|(name, _)| name == target).map(|(_, alias)| alias.clone());
        let named = disks.iter().map(|disk| DiskName {
            alias: alias(&disk.target).unwrap_or_default(),
            source: disk.source.as_ref().map(|source| source.path.clone()),
            target: disk.target.clone(),
        });
        Ok(named.collect())
    }

    /// How many network interfaces it has.
    pub fn interfaces(&self) -> Result<usize, ManagerError> {
        Ok(self.domain()?.devices.interfaces.len())
    }
}

impl Manager {
    pub(super) fn live(&self, uuid: DomainUuid) -> Result<Arc<Live>, ManagerError> {
        let domain = self.by_uuid(uuid)?;
        domain.running().cloned().ok_or_else(|| ManagerError::state("domain is not running"))
    }

    /// Asks QEMU something.
    pub fn ask(&self, uuid: DomainUuid, ask: Ask) -> Result<Value, ManagerError> {
        let live = self.live(uuid)?;
        let answer = self.core.control(&live.control, None).and_then(|mut control| Ok(control.ask(ask)?));
        self.unless_ended(uuid, live.id, answer)
    }

    /// Says of what a supervisor could not do that the domain does not run, where that is why: somebody ends it, or its
    /// guest did a moment ago.
    pub(super) fn unless_ended<T>(
        &self,
        uuid: DomainUuid,
        id: i32,
        answer: Result<T, ManagerError>,
    ) -> Result<T, ManagerError> {
        let Err(ManagerError::Driver(error)) = &answer else { return answer };
        let live = self.by_uuid(uuid).ok().and_then(|domain| domain.live);
        let runs = live.is_some_and(|live| live.id == id && !live.ending);
        // The labeller knows of an end before it is known here.
        let ends = || {
            let until = Instant::now() + ENDING;
            let lost = match error {
                DriverError::Io { .. } | DriverError::Protocol(_) => true,
                DriverError::Refusal(refusal) => refusal.rule == MONITOR_LOST,
                _ => false,
            };
            lost && self.core.labeller(&self.settings).is_ok_and(|labeller| labeller.has_ended(uuid, until))
        };
        if runs && !ends() { answer } else { Err(ManagerError::state("domain is not running")) }
    }

    /// Asks QEMU several things, one after the other and no longer than until then. What was refused has no answer, and
    /// neither has anything once there is nobody who answers.
    pub fn ask_each(&self, uuid: DomainUuid, asks: Vec<Ask>, until: Instant) -> Vec<Option<Value>> {
        let live = self.live(uuid).ok();
        let mut control = live.and_then(|live| self.core.control(&live.control, Some(until)).ok());
        let one = |ask| {
            let answer = control.as_mut()?.ask(ask);
            if !matches!(answer, Ok(_) | Err(DriverError::Refusal(_))) {
                control = None;
            }
            answer.ok()
        };
        asks.into_iter().map(one).collect()
    }

    /// Asks QEMU what a person wrote; the domain is marked for it.
    pub fn ask_by_hand(&self, uuid: DomainUuid, ask: Ask) -> Result<Value, ManagerError> {
        let answer = self.ask(uuid, ask)?;
        if let Some(live) = self.table().get(uuid).and_then(|domain| domain.live.as_mut())
            && !live.runtime.tainted
        {
            tracing::warn!(%uuid, "is tainted: custom monitor control commands issued");
            Arc::make_mut(live).runtime.tainted = true;
        }
        Ok(answer)
    }

    /// The disk that a client names by target or path.
    fn disk(&self, uuid: DomainUuid, name: &str) -> Result<DiskName, ManagerError> {
        let live = self.live(uuid)?;
        let disks = live.definition.as_ref().map(|definition| definition.disks()).transpose()?;
        named(disks.into_iter().flatten(), name)
    }

    /// Has the guest asked what its memory is used for, so often.
    pub fn set_balloon_period(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        seconds: u32,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetMemoryStatsPeriod")?;
        let edit = |tree: &mut Tree| match tree.set_balloon_period(seconds) {
            true => Ok(()),
            false => {
                Err(ManagerError::state("Memory balloon model must be virtio to set the collection period"))
            }
        };
        // What cannot be kept is not done to what runs either.
        if impact.config {
            self.may_edit(uuid, edit)?;
        }
        if impact.live {
            self.sure(uuid, self.ask(uuid, Ask::GuestMemoryPeriod { seconds }))?;
            self.replace_live(uuid, None, edit)?;
        }
        if impact.config {
            self.edit(uuid, edit)?;
        }
        Ok(())
    }

    /// What one disk did, or, where none is named, all of them together.
    pub fn block_stats(&self, uuid: DomainUuid, name: &str) -> Result<BlockStats, ManagerError> {
        let wanted = if name.is_empty() { None } else { Some(self.disk(uuid, name)?) };
        let answer = self.ask(uuid, Ask::BlockStats)?;
        let mut sum = BlockStats::default();
        for (target, entry) in by_target(&answer) {
            if wanted.as_ref().is_none_or(|disk| disk.target == target) {
                sum.add(entry);
            }
        }
        Ok(sum)
    }

    /// The sizes of one disk.
    pub fn block_info(&self, uuid: DomainUuid, name: &str) -> Result<BlockInfo, ManagerError> {
        let disk = self.disk(uuid, name)?;
        disk.medium()?;
        Ok(sizes(&self.ask(uuid, Ask::Blocks)?, &disk.target))
    }

    /// How much memory the guest has now, in bytes.
    pub fn memory(&self, uuid: DomainUuid) -> Result<u64, ManagerError> {
        let answer = self.ask(uuid, Ask::BalloonSize)?;
        let actual = answer.get("actual").and_then(Value::as_u64);
        actual.ok_or_else(|| ManagerError::state("QEMU does not tell how much memory the guest has"))
    }

    /// Asks the guest to keep so much memory, in bytes, and has it keep as much at its next start.
    pub fn set_memory(&self, uuid: DomainUuid, impact: Impact, bytes: u64) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetMemoryFlags")?;
        // Only now nobody changes how much it may have.
        let domain = self.by_uuid(uuid)?;
        let live = impact.live.then(|| self.live(uuid)).transpose()?;
        let runs = live.and_then(|live| live.definition.as_ref().map(|definition| definition.memory));
        let kept = domain.definition.as_ref().filter(|_| impact.config).map(|kept| kept.memory);
        if runs.into_iter().chain(kept).any(|most| bytes > most) {
            return Err(ManagerError::Argument("cannot set memory higher than max memory".into()));
        }
        let edit = |tree: &mut Tree| {
            tree.set_current_memory(bytes);
            Ok(())
        };
        // What cannot be kept is not done to what runs either.
        if impact.config {
            self.may_edit(uuid, edit)?;
        }
        if impact.live {
            self.ask(uuid, Ask::Balloon { bytes })?;
        }
        if impact.config {
            self.edit(uuid, edit)?;
        }
        Ok(())
    }
}

pub(super) fn named(mut disks: impl Iterator<Item = DiskName>, name: &str) -> Result<DiskName, ManagerError> {
    let found = disks.find(|disk| disk.target == name || disk.source.as_deref() == Some(name));
    found.ok_or_else(|| ManagerError::Argument(format!("invalid path {name} not assigned to domain")))
}

impl BlockStats {
    /// What each disk did, by target, from an answer to [`Ask::BlockStats`].
    #[must_use]
    pub fn each(answer: &Value) -> Vec<(String, Self)> {
        let one = |(target, entry): (&str, &Value)| {
            let mut stats = Self::default();
            stats.add(entry);
            (target.to_owned(), stats)
        };
        by_target(answer).map(one).collect()
    }
}

impl BlockInfo {
    /// The sizes of each of these disks, by target, from an answer to [`Ask::Blocks`].
    #[must_use]
    pub fn each(answer: &Value, disks: &[DiskName]) -> Vec<(String, Self)> {
        disks.iter().map(|disk| (disk.target.clone(), sizes(answer, &disk.target))).collect()
    }
}

/// What `query-named-block-nodes` says of a disk.
fn sizes(answer: &Value, target: &str) -> BlockInfo {
    let node = |part: &str| {
        let wanted = format!("{target}-0-{part}");
        let mut nodes = answer.as_array().into_iter().flatten();
        nodes.find(|node| node.get("node-name").and_then(Value::as_str) == Some(&wanted))
    };
    let size = |part: &str, key: &str| {
        node(part).and_then(|node| node.get("image")?.get(key)?.as_u64()).unwrap_or(0)
    };
    let threshold = node("storage").and_then(|node| node.get("write_threshold")?.as_u64());
    BlockInfo {
        capacity: size("format", "virtual-size"),
        allocation: size("storage", "actual-size"),
        physical: size("storage", "virtual-size"),
        threshold: threshold.unwrap_or(0),
    }
}

/// The entries of `query-blockstats` that are a disk's topmost layer, each with its target.
fn by_target(answer: &Value) -> impl Iterator<Item = (&str, &Value)> {
    answer.as_array().into_iter().flatten().filter_map(|entry| {
        let node = entry.get("node-name")?.as_str()?;
        Some((node.strip_suffix("-0-format")?, entry))
    })
}

impl BlockStats {
    fn add(&mut self, entry: &Value) {
        let of =
            |node: Option<&Value>, key: &str| node.and_then(|node| node.get("stats")?.get(key)?.as_u64());
        let number = |key: &str| of(Some(entry), key).unwrap_or(0);
        // What the image has, and not what the guest sees, is its own node's.
        self.highest = self.highest.max(of(entry.get("parent"), "wr_highest_offset").unwrap_or(0));
        for (sum, key) in [
            (&mut self.reads, "rd_operations"),
            (&mut self.read_bytes, "rd_bytes"),
            (&mut self.read_time, "rd_total_time_ns"),
            (&mut self.writes, "wr_operations"),
            (&mut self.write_bytes, "wr_bytes"),
            (&mut self.write_time, "wr_total_time_ns"),
            (&mut self.flushes, "flush_operations"),
            (&mut self.flush_time, "flush_total_time_ns"),
        ] {
            *sum = sum.saturating_add(number(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_topmost_layers_count() {
        let stats =
            |reads: u64| json!({"rd_operations": reads, "rd_bytes": 512 * reads, "wr_operations": -1});
        let answer = json!([
            {"node-name": "vda-0-format", "stats": stats(3), "parent": {"stats": {"wr_highest_offset": 9}}},
            {"node-name": "vda-1-format", "stats": stats(4)},
            {"stats": stats(5)},
            7,
        ]);
        let found: Vec<_> = by_target(&answer).collect();
        assert_eq!(found.len(), 1);
        let mut sum = BlockStats::default();
        found.iter().for_each(|(_, entry)| sum.add(entry));
        assert_eq!((sum.reads, sum.read_bytes, sum.writes, sum.highest), (3, 1536, 0, 9));
    }
}
