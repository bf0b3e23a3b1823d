//! Limits of a domain that runs: admitted as those of a start are, written down, then set.

use super::admit;
use super::apply::journal_refusal;
use super::domain::Phase;
use super::journal::Entry;
use super::server::Server;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{CgroupLimits, LaunchPlan, Op};
use crate::privsep::tuning::Tuned;

impl Server {
    /// Gives a running domain other limits on processors and memory; its other ones stay.
    pub(super) fn tune(&mut self, uuid: DomainUuid, limits: Tuned) -> Result<(), Refusal> {
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running) else {
            let rule = "no such domain runs";
            return Err(Refusal::new(Layer::Policy, "tune", uuid.to_string(), rule, "start it first"));
        };
        let mut plan = domain.plan.clone();
        amend(&mut plan, limits);
        let Some(wanted) = cgroup(&plan) else { return Ok(()) };
        admit::cgroup(wanted, &self.settings)?;
        self.launcher.tune_cgroup(uuid, domain.cgroups(), wanted)?;
        // What is written down is only shown and compared: nothing of it has to be undone, so it comes second.
        domain.journal.write(&Entry::Tuned(limits)).map_err(|error| journal_refusal(&error))?;
        tracing::info!(domain = %plan.domain.name, "has other limits");
        domain.plan = plan;
        Ok(())
    }
}

/// The limits of a plan.
fn cgroup(plan: &LaunchPlan) -> Option<&CgroupLimits> {
    plan.ops.iter().find_map(|op| match op {
        Op::Cgroup(limits) => Some(limits),
        _ => None,
    })
}

/// What a plan would have been with these limits.
pub(super) fn amend(plan: &mut LaunchPlan, limits: Tuned) {
    let Tuned { memory_max, cpu_max, tuning } = limits;
    for op in &mut plan.ops {
        if let Op::Cgroup(limits) = op {
            (limits.memory_max, limits.cpu_max, limits.tuning) = (memory_max, cpu_max, tuning);
        }
    }
}
