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
}
