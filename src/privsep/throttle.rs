//! How much a disk of a domain may do: `<iotune>`, which QEMU itself keeps to.

use serde::{Deserialize, Serialize};

/// The limits: libvirt's names, in definitions and in calls, and QEMU's (`block_set_io_throttle`), family by family.
pub const DISK_LIMITS: [(&str, &str); 19] = [
    ("total_bytes_sec", "bps"),
    ("read_bytes_sec", "bps_rd"),
    ("write_bytes_sec", "bps_wr"),
    ("total_iops_sec", "iops"),
    ("read_iops_sec", "iops_rd"),
    ("write_iops_sec", "iops_wr"),
    ("total_bytes_sec_max", "bps_max"),
    ("read_bytes_sec_max", "bps_rd_max"),
    ("write_bytes_sec_max", "bps_wr_max"),
    ("total_iops_sec_max", "iops_max"),
    ("read_iops_sec_max", "iops_rd_max"),
    ("write_iops_sec_max", "iops_wr_max"),
    ("total_bytes_sec_max_length", "bps_max_length"),
    ("read_bytes_sec_max_length", "bps_rd_max_length"),
    ("write_bytes_sec_max_length", "bps_wr_max_length"),
    ("total_iops_sec_max_length", "iops_max_length"),
    ("read_iops_sec_max_length", "iops_rd_max_length"),
    ("write_iops_sec_max_length", "iops_wr_max_length"),
    ("size_iops_sec", "iops_size"),
];
/// What libvirt calls the families in messages, in the order of [`DISK_LIMITS`]; each is of three, but for the last.
pub const FAMILIES: [&str; 7] = [
    "bytes_sec",
    "iops_sec",
    "bytes_sec_max",
    "iops_sec_max",
    "bytes_sec_max_length",
    "iops_sec_max_length",
    "size_iops_sec",
];
/// Limits that QEMU wants to be told also where there are none.
const ALWAYS: usize = 6;
/// The largest value that QEMU takes (`THROTTLE_VALUE_MAX`).
pub const LIMIT_MAX: u64 = 1_000_000_000_000_000;
/// The longest name of a group, in bytes.
const GROUP_MAX: usize = 64;

/// What one disk may do; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTuning {
    /// By [`DISK_LIMITS`].
    pub limits: [u64; 19],
    /// The group of disks that share them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A disk and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// What QEMU calls the disk's device: its id, or its path in the machine.
    pub device: String,
    /// What it may do.
    pub tuning: DiskTuning,
}

impl DiskTuning {
    /// Whether it may do as much as it can.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.limits.iter().all(|limit| *limit == 0)
    }

    /// One limit by its place.
    #[must_use]
    pub fn limit(&self, at: usize) -> u64 {
        self.limits.get(at).copied().unwrap_or(0)
    }

    /// Takes out the lengths of bursts that are as long as QEMU makes them anyway: a second.
    pub fn forget_lengths(&mut self) {
        for length in self.limits.iter_mut().skip(12).take(6).filter(|length| **length == 1) {
            *length = 0;
        }
    }

    /// What stands against it, in libvirt's words.
    pub fn check(&self) -> Result<(), String> {
        for (family, name) in FAMILIES.iter().enumerate().take(6) {
            let [total, read, write] = [0, 1, 2].map(|part| self.limit(3 * family + part));
            if total != 0 && (read != 0 || write != 0) {
                return Err(format!("total and read/write of {name} cannot be set at the same time"));
            }
        }
        if let Some(at) = self.limits.iter().position(|limit| *limit > LIMIT_MAX) {
            let (name, _) = DISK_LIMITS.get(at).copied().unwrap_or_default();
            return Err(format!(
                "block I/O throttle limit value of '{name}' must be no more than {LIMIT_MAX}"
            ));
        }
        let group = self.group.as_deref().unwrap_or_default();
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if group.len() > GROUP_MAX || !group.bytes().all(word) {
            return Err(format!("a group's name has at most {GROUP_MAX} letters, digits, '-', '_' and '.'"));
        }
        Ok(())
    }

    /// What QEMU would refuse of it (`throttle_is_valid`): a burst without what it is a burst of, one that is too long
    /// for what it lets through, or the size of an operation where none are counted.
    pub fn check_bursts(&self) -> Result<(), String> {
        for at in 0..6 {
            let names = (DISK_LIMITS.get(at), DISK_LIMITS.get(at + 6));
            let (Some((name, _)), Some((burst, _))) = names else { continue };
            match (self.limit(at), self.limit(at + 6)) {
                (0, most) if most != 0 => {
                    return Err(format!("cannot reset '{name}' when '{burst}' is set"));
                }
                (limit, most) if most != 0 && most < limit => {
                    return Err(format!("value '{burst}' cannot be smaller than '{name}'"));
                }
                _ => {}
            }
            if self.limit(at + 12) != 0 && self.limit(at + 6) == 0 {
                return Err(format!("'{burst}_length' is set without '{burst}'"));
            }
            if LIMIT_MAX.checked_div(self.limit(at + 6)).is_some_and(|longest| self.limit(at + 12) > longest)
            {
                return Err(format!(
                    "'{burst}_length' is too long for '{burst}': their product is at most {LIMIT_MAX}"
                ));
            }
        }
        if self.limit(18) != 0 && (3..6).all(|at| self.limit(at) == 0) {
            return Err("'size_iops_sec' is set without a limit of iops_sec".into());
        }
        Ok(())
    }
}

impl Throttle {
    /// Whether it names a device, and its values are within their bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./[]".contains(&byte);
        !self.device.is_empty()
            && self.device.len() <= 128
            && self.device.bytes().all(word)
            && self.tuning.check().is_ok()
    }

    /// The arguments of `block_set_io_throttle`.
    #[must_use]
    pub fn arguments(&self) -> serde_json::Value {
        let said = |(at, value): &(usize, u64)| *at < ALWAYS || *value != 0;
        let limits = self.tuning.limits.iter().copied().enumerate().filter(said);
        let named = limits.filter_map(|(at, value)| Some((DISK_LIMITS.get(at)?.1.to_owned(), value.into())));
        let mut all: serde_json::Map<String, serde_json::Value> = named.collect();
        all.insert("id".into(), self.device.as_str().into());
        if !self.tuning.is_none() {
            // Without a word about it QEMU leaves the disk in the group that it was in; its own has its device's name.
            all.insert("group".into(), self.tuning.group.as_deref().unwrap_or(&self.device).into());
        }
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn tuned(set: &[(usize, u64)]) -> DiskTuning {
        let mut tuning = DiskTuning::default();
        for (at, value) in set {
            if let Some(limit) = tuning.limits.get_mut(*at) {
                *limit = *value;
            }
        }
        tuning
    }

    #[test]
    fn qemu_is_told_what_there_is() {
        let device = "/machine/peripheral/virtio-disk0/virtio-backend".to_owned();
        let group = Some("g".to_owned());
        let throttle = Throttle { device, tuning: DiskTuning { group, ..tuned(&[(3, 50), (9, 500)]) } };
        assert!(throttle.is_bounded());
        assert_eq!(
            throttle.arguments(),
            json!({ "id": throttle.device, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 50, "iops_rd": 0,
                "iops_wr": 0, "iops_max": 500, "group": "g" })
        );
        let alone = Throttle { tuning: tuned(&[(3, 50)]), ..throttle.clone() };
        assert_eq!(alone.arguments()["group"], json!(throttle.device), "it leaves the group that it was in");
        assert!(!Throttle { device: "a b".into(), tuning: DiskTuning::default() }.is_bounded());
    }

    #[test]
    fn contradictions_are_found() {
        assert!(tuned(&[(0, 1), (4, 1)]).check().is_ok());
        assert!(tuned(&[(0, 1), (2, 1)]).check().is_err());
        assert!(tuned(&[(0, LIMIT_MAX + 1)]).check().is_err());
        assert!(DiskTuning { group: Some("a b".into()), ..DiskTuning::default() }.check().is_err());
        for wrong in [
            &[(6, 5)][..],
            &[(3, 10), (9, 5)],
            &[(3, 10), (15, 5)],
            &[(0, 10), (18, 4096)],
            &[(3, 1), (9, 1_000_000_000), (15, 2_000_000)],
        ] {
            assert!(tuned(wrong).check_bursts().is_err(), "{wrong:?}");
        }
        assert!(tuned(&[(5, 10), (18, 4096)]).check_bursts().is_ok());
        assert!(tuned(&[(3, 10), (9, 50), (15, 5)]).check_bursts().is_ok());
    }

    /// QEMU's rules, bucket by bucket: average, most, and the length of a burst, which is 1 where nobody says it.
    fn qemu_takes(tuning: &DiskTuning) -> bool {
        let bucket = |at: usize| (tuning.limit(at), tuning.limit(at + 6), tuning.limit(at + 12).max(1));
        let both =
            |first: usize| tuning.limit(first) > 0 && tuning.limit(first + 1) + tuning.limit(first + 2) > 0;
        let counts = (3..6).any(|at| tuning.limit(at) > 0);
        let sound = |(average, most, length): (u64, u64, u64)| match most {
            0 => average <= LIMIT_MAX && length == 1,
            _ => {
                let all = u128::from(most) * u128::from(length);
                0 < average && average <= most && all <= u128::from(LIMIT_MAX)
            }
        };
        ![0, 3, 6, 9].into_iter().any(both)
            && (tuning.limit(18) == 0 || counts)
            && (0..6).map(bucket).all(sound)
    }

    proptest! {
        #[test]
        fn qemu_takes_what_is_let_through(
            limits in proptest::collection::vec(
                prop_oneof![6 => Just(0_u64), 2 => 1_u64..4, 1 => (0_u32..16).prop_map(|zeros| 10_u64.pow(zeros))], 19,
            ),
        ) {
            let limits = <[u64; 19]>::try_from(limits).unwrap_or_default();
            let tuning = DiskTuning { limits, group: None };
            if tuning.check().and_then(|()| tuning.check_bursts()).is_ok() {
                prop_assert!(qemu_takes(&tuning), "{tuning:?}");
            }
        }
    }
}
