//! What a domain's processes use, as its control group counts it.

use super::node::{CGROUPS, read};
use crate::manager::Domain;

/// Nanoseconds that they have run: all, outside the kernel, and in it.
pub(super) fn cpu(domain: &Domain) -> Option<[u64; 3]> {
    let text = file(domain, "cpu.stat")?;
    let times = ["usage_usec", "user_usec", "system_usec"].map(|name| field(&text, name));
    let [Some(all), Some(user), Some(system)] = times else { return None };
    Some([all, user, system].map(|microseconds| microseconds.saturating_mul(1000)))
}

/// Bytes of memory that they have mapped: their own, and files'.
pub(super) fn resident(domain: &Domain) -> Option<u64> {
    let text = file(domain, "memory.stat")?;
    Some(field(&text, "anon")?.saturating_add(field(&text, "file_mapped")?))
}

fn file(domain: &Domain, name: &str) -> Option<String> {
    let cgroup = domain.running()?.cgroup.as_deref()?;
    // Only the labeller names control groups; still, none is above their mount.
    if cgroup.split('/').any(|part| part == "..") {
        return None;
    }
    read(&format!("{CGROUPS}/{}/{name}", cgroup.trim_matches('/')))
}

/// The number behind a name, one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    rest.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_a_whole_word() {
        let text = "anon_thp 5\nanon 7\nfile 8\nfile_mapped x\n";
        assert_eq!(field(text, "anon"), Some(7));
        assert_eq!((field(text, "file_mapped"), field(text, "fil"), field("", "anon")), (None, None, None));
    }
}
