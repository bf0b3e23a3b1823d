//! `<cputune>`, `<memtune>` and `<blkiotune>`, as far as a domain as a whole has them; pins are read by [`super::placement`].

use super::scalar::{memory, number};
use super::view::{Read, View};
use crate::privsep::tuning::{PERIOD_MAX, QUOTA_MAX, SHARES_MAX, SLICE_MIN, Tuning, WEIGHT_MAX, WEIGHT_MIN};

/// What stands in `<cputune>` and runs; what else is said of single threads does not.
const CPU: &[&str] =
    &["emulatorpin", "global_period", "global_quota", "period", "quota", "shares", "vcpupin"];

/// All three elements.
pub(super) fn tuning(root: View<'_>) -> Read<Tuning> {
    let mut tuning = Tuning::default();
    if let Some(cpu) = root.one("cputune")? {
        cpu.only(&[], CPU)?;
        tuning.shares = one(cpu, "shares", 1, SHARES_MAX)?;
        tuning.period = one(cpu, "period", SLICE_MIN, PERIOD_MAX)?;
        tuning.global_period = one(cpu, "global_period", SLICE_MIN, PERIOD_MAX)?;
        tuning.quota = quota(cpu, "quota")?;
        tuning.global_quota = quota(cpu, "global_quota")?;
    }
    if let Some(limits) = root.one("memtune")? {
        limits.only(&[], &["hard_limit", "soft_limit"])?;
        let limit = |name| limits.one(name)?.map(memory).transpose();
        tuning.hard_limit = limit("hard_limit")?.filter(|bytes| *bytes > 0);
        tuning.soft_limit = limit("soft_limit")?;
    }
    if let Some(disks) = root.one("blkiotune")? {
        disks.only(&[], &["weight"])?;
        tuning.io_weight = one(disks, "weight", WEIGHT_MIN, WEIGHT_MAX)?;
    }
    Ok(tuning)
}

fn one(cpu: View<'_>, name: &str, least: u64, most: u64) -> Read<Option<u64>> {
    let Some(view) = cpu.one(name)? else { return Ok(None) };
    let text = view.leaf(&[])?;
    let value = number::<u64>(&text).filter(|value| (least..=most).contains(value));
    value.map(Some).ok_or_else(|| view.value(view.tag(), &text, format!("a number from {least} to {most}")))
}

/// What is not positive is no limit.
fn quota(cpu: View<'_>, name: &str) -> Read<Option<i64>> {
    let Some(view) = cpu.one(name)? else { return Ok(None) };
    let text = view.leaf(&[])?;
    let value = text.trim().parse::<i64>().ok();
    let fits = |value: &i64| {
        u64::try_from(*value).map_or(true, |it| it == 0 || (SLICE_MIN..=QUOTA_MAX).contains(&it))
    };
    let wanted = || format!("-1 for no limit, or a number from {SLICE_MIN} to {QUOTA_MAX}");
    value.filter(fits).map(Some).ok_or_else(|| view.value(view.tag(), &text, wanted()))
}
