//! What the host keeps for itself: memory and CPUs that no domain is given.

use super::PlanError;
use crate::base::{Layer, Refusal};
use crate::conf::domain::Domain;
use crate::conf::facts::HostFacts;
use crate::settings::Settings;

/// The CPUs that domains run on; empty where the host keeps none, so that nothing needs to be set.
pub(super) fn guest_cpus(host: &HostFacts, settings: &Settings) -> Vec<u32> {
    if settings.host.cpus == 0 {
        return Vec::new();
    }
    host.online.iter().copied().filter(|cpu| *cpu >= settings.host.cpus).collect()
}

/// Refuses a domain that cannot be had beside what the host keeps. A host that did not tell its memory has no say.
pub(super) fn check(domain: &Domain, host: &HostFacts, settings: &Settings) -> Result<(), PlanError> {
    let refuse = |object: String, rule: String, remedy: &str| -> Result<(), PlanError> {
        Err(Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into())
    };
    let kept = &settings.host;
    if host.memory > 0 && domain.memory > host.memory.saturating_sub(kept.min_memory) {
        return refuse(
            format!("{} bytes of memory", domain.memory),
            format!("the host has {} and keeps {} of them (host.min_memory)", host.memory, kept.min_memory),
            "give the domain less, or lower min_memory in [host]",
        );
    }
    hugepages(domain, host)?;
    if kept.cpus == 0 {
        return Ok(());
    }
    let left = guest_cpus(host, settings).len();
    if left == 0 {
        return refuse(
            format!("{} virtual CPUs", domain.vcpus),
            format!("the host keeps all of its {} CPUs (host.cpus is {})", host.online.len(), kept.cpus),
            "lower cpus in [host]",
        );
    }
    if domain.vcpus as usize > left {
        return refuse(
            format!("{} virtual CPUs", domain.vcpus),
            format!("the host keeps {} CPUs (host.cpus) and has {left} for domains", kept.cpus),
            "give the domain fewer, or lower cpus in [host]",
        );
    }
    Ok(())
}

/// Huge pages are set aside by the administrator; QEMU without enough of them ends while the guest starts.
fn hugepages(domain: &Domain, host: &HostFacts) -> Result<(), PlanError> {
    let Some(wanted) = domain.memory_backing.hugepages else { return Ok(()) };
    let object = format!("<hugepages> (line {})", domain.memory_backing.line);
    let refuse = |rule: String, remedy: String| -> Result<(), PlanError> {
        Err(Refusal::new(Layer::Kernel, "plan the start with", object, rule, remedy).into())
    };
    let found = match wanted.size {
        None => host.hugepages.first(),
        Some(size) => host.hugepages.iter().find(|(known, _)| *known == size),
    };
    let Some((size, set_aside)) = found.copied() else {
        let sizes: Vec<String> =
            host.hugepages.iter().map(|(size, _)| format!("{} KiB", size / 1024)).collect();
        let known = if sizes.is_empty() { "none".to_owned() } else { sizes.join(", ") };
        return refuse(
            format!("the host has no pages of this size; it has {known}"),
            "name one of the host's sizes, or remove <hugepages>".to_owned(),
        );
    };
    let pages = domain.memory.div_ceil(size.max(1));
    if set_aside < pages {
        return refuse(
            format!(
                "{pages} pages of {} KiB are needed, and the host has set {set_aside} aside",
                size / 1024
            ),
            format!(
                "set more aside (/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages), or remove <hugepages>",
                size / 1024
            ),
        );
    }
    if !domain.memory.is_multiple_of(size.max(1)) {
        return refuse(
            format!("<memory> is no multiple of {} KiB", size / 1024),
            "make <memory> a multiple of the page's size".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::testing::{domain, host};

    fn rule(memory: u64, vcpus: u32, change: impl FnOnce(&mut Settings)) -> Option<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        let (mut domain, mut host) = (domain("a"), host(false));
        (domain.memory, domain.vcpus) = (memory, vcpus);
        (host.memory, host.online) = (1 << 30, vec![0, 1, 2, 5]);
        check(&domain, &host, &settings).err().map(|error| error.refusal().rule)
    }

    #[test]
    fn memory_that_the_host_keeps_is_given_to_nobody() {
        let kept = 196 << 20;
        assert_eq!(rule((1 << 30) - kept, 1, |_| {}), None);
        assert!(rule((1 << 30) - kept + 1, 1, |_| {}).unwrap().contains("host.min_memory"));
        assert_eq!(rule(1 << 30, 1, |settings| settings.host.min_memory = 0), None);
        assert!(rule(1, 1, |settings| settings.host.min_memory = u64::MAX).is_some());
    }

    #[test]
    fn cpus_that_the_host_keeps_run_no_domain() {
        assert_eq!(
            rule(1, 64, |_| {}),
            None,
            "none is kept: more virtual CPUs than there are is the user's choice"
        );
        assert_eq!(rule(1, 2, |settings| settings.host.cpus = 2), None);
        assert!(rule(1, 3, |settings| settings.host.cpus = 2).unwrap().contains("has 2 for domains"));
        assert!(rule(1, 1, |settings| settings.host.cpus = 6).unwrap().contains("keeps all of its 4"));
        let mut settings = Settings::default();
        let mut host = host(false);
        host.online = vec![0, 1, 2, 5];
        assert!(guest_cpus(&host, &settings).is_empty());
        settings.host.cpus = 1;
        assert_eq!(guest_cpus(&host, &settings), [1, 2, 5]);
    }

    #[test]
    fn huge_pages_must_be_set_aside() {
        let refused = |size, memory| {
            let (mut domain, mut host) = (domain("a"), host(false));
            host.hugepages = vec![(2 << 20, 32), (1 << 30, 0)];
            domain.memory = memory;
            domain.memory_backing.hugepages = Some(crate::conf::domain::HugePages { size });
            hugepages(&domain, &host).err().map(|error| error.refusal().rule)
        };
        assert_eq!(refused(None, 64 << 20), None);
        assert_eq!(refused(Some(2 << 20), 64 << 20), None);
        assert!(refused(None, 66 << 20).unwrap().contains("33 pages of 2048 KiB"));
        assert!(refused(Some(1 << 30), 64 << 20).unwrap().contains("has set 0 aside"));
        assert!(refused(Some(4 << 20), 64 << 20).unwrap().contains("2048 KiB, 1048576 KiB"));
        assert!(refused(None, 63 << 20).unwrap().contains("no multiple"));
    }
}
