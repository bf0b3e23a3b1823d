//! What a definition asks of the host's processors, memory and disks for a domain as a whole: `<cputune>`, `<memtune>`, and
//! the weight of `<blkiotune>`.

use serde::{Deserialize, Serialize};

/// The longest time slice that the kernel counts with, in microseconds (`max_cfs_runtime`, 2⁴⁴ − 1).
pub const QUOTA_MAX: u64 = 17_592_186_044_415;
/// The shortest period and quota of the kernel's, in microseconds.
pub const SLICE_MIN: u64 = 1000;
/// The longest period of the kernel's, in microseconds.
pub const PERIOD_MAX: u64 = 1_000_000;
/// The most `<shares>`: version 1's largest `cpu.shares`.
pub const SHARES_MAX: u64 = 262_144;
/// The least `<weight>` of `<blkiotune>`, by libvirt's schema.
pub const WEIGHT_MIN: u64 = 100;
/// The most of it; version 1's largest `blkio.bfq.weight` too.
pub const WEIGHT_MAX: u64 = 1000;
/// The lowest `<soft_limit>`, in bytes. No device model stays below that, and the kernel would do nothing but try.
pub const SOFT_LIMIT_MIN: u64 = 16 << 20;
/// The period where only a quota is given, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;

/// The values as they were asked for; nothing where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// `<shares>`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// `<period>` of each virtual CPU, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// `<quota>` of each virtual CPU, in microseconds; none at all where it is not positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// `<global_period>`, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_period: Option<u64>,
    /// `<global_quota>`, in microseconds; none at all where it is not positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_quota: Option<i64>,
    /// `<hard_limit>`, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u64>,
    /// `<soft_limit>`, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u64>,
    /// `<weight>` of `<blkiotune>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
}

/// How much processor time a domain's processes have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuMax {
    /// Microseconds in each period.
    pub quota: u64,
    /// The period in microseconds.
    pub period: u64,
}

/// New limits for a domain that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// `memory.max` in bytes.
    pub memory_max: u64,
    /// `cpu.max`; no limit where there is none.
    pub cpu_max: Option<CpuMax>,
    /// What both follow from, and the rest.
    pub tuning: Tuning,
}

impl CpuMax {
    /// One that the kernel takes.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        (SLICE_MIN..=QUOTA_MAX).contains(&self.quota) && (SLICE_MIN..=PERIOD_MAX).contains(&self.period)
    }
}

impl Tuning {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something is asked of the processors.
    #[must_use]
    pub fn has_cpu(&self) -> bool {
        let limits = Self { hard_limit: None, soft_limit: None, io_weight: None, ..*self };
        !limits.is_none()
    }

    /// The limit that follows for all of the domain's threads together, the tighter one where there are two: a domain
    /// has one cgroup, so what is said of each virtual CPU is multiplied by their number.
    #[must_use]
    pub fn cpu_max(&self, vcpus: u32) -> Option<CpuMax> {
        let limit = |quota: Option<i64>, period: Option<u64>, times: u32| {
            let quota = quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0)?;
            let quota = quota.saturating_mul(u64::from(times)).min(QUOTA_MAX);
            Some(CpuMax { quota, period: period.unwrap_or(PERIOD) })
        };
        let (each, all) =
            (limit(self.quota, self.period, vcpus), limit(self.global_quota, self.global_period, 1));
        match (each, all) {
            (Some(each), Some(all)) => {
                let [one, other] = [(each, all), (all, each)]
                    .map(|(one, other)| u128::from(one.quota) * u128::from(other.period));
                Some(if one < other { each } else { all })
            }
            (each, all) => each.or(all),
        }
    }

    /// Whether every value is one that the kernel takes.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let period = |period: Option<u64>| period.is_none_or(|it| (SLICE_MIN..=PERIOD_MAX).contains(&it));
        let quota = |quota: Option<i64>| {
            let quota = quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0);
            quota.is_none_or(|it| (SLICE_MIN..=QUOTA_MAX).contains(&it))
        };
        self.shares.is_none_or(|shares| (1..=SHARES_MAX).contains(&shares))
            && [self.period, self.global_period].into_iter().all(period)
            && [self.quota, self.global_quota].into_iter().all(quota)
            && self.hard_limit.is_none_or(|bytes| bytes > 0)
            && self.soft_limit.is_none_or(|bytes| bytes >= SOFT_LIMIT_MIN)
            && self.io_weight.is_none_or(|weight| (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_limit_holds_for_all_threads_together() {
        let none = Tuning::default();
        assert!(none.is_none() && !none.has_cpu() && none.cpu_max(4).is_none() && none.is_bounded());
        let weight = Tuning { io_weight: Some(WEIGHT_MAX), ..none };
        assert!(weight.is_bounded() && !weight.has_cpu() && !weight.is_none());
        let each = Tuning { quota: Some(50_000), ..none };
        assert_eq!(each.cpu_max(4), Some(CpuMax { quota: 200_000, period: 100_000 }));
        let both = Tuning { global_quota: Some(10_000), global_period: Some(20_000), ..each };
        assert_eq!(both.cpu_max(4), Some(CpuMax { quota: 10_000, period: 20_000 }));
        assert_eq!(both.cpu_max(1), Some(CpuMax { quota: 10_000, period: 20_000 }));
        let loose = Tuning { global_quota: Some(90_000), global_period: Some(20_000), ..each };
        assert_eq!(loose.cpu_max(1), Some(CpuMax { quota: 50_000, period: 100_000 }));
        for unlimited in [Some(-1), Some(0), None] {
            assert_eq!(Tuning { quota: unlimited, period: Some(5000), ..none }.cpu_max(2), None);
        }
        // The kit's largest value, for many CPUs.
        let most = Tuning { quota: Some(17_592_186_044_415), period: Some(1_000_000), ..none };
        assert!(Tuning { soft_limit: Some(SOFT_LIMIT_MIN), ..none }.is_bounded());
        assert!(most.is_bounded() && most.cpu_max(255).unwrap().is_bounded());
        for wrong in [
            Tuning { shares: Some(0), ..none },
            Tuning { period: Some(1), ..none },
            Tuning { quota: Some(999), ..none },
            Tuning { global_quota: Some(i64::MAX), ..none },
            Tuning { hard_limit: Some(0), ..none },
            Tuning { io_weight: Some(WEIGHT_MIN - 1), ..none },
            Tuning { io_weight: Some(WEIGHT_MAX + 1), ..none },
            Tuning { soft_limit: Some(SOFT_LIMIT_MIN - 1), ..none },
        ] {
            assert!(!wrong.is_bounded(), "{wrong:?}");
        }
    }
}
