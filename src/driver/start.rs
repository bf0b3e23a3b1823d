//! A start from the definition to the running guest, as one sequence.

use super::{DriverError, Labeller, LabellerProber};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::conf::domain::Domain;
use crate::conf::facts::HostFacts;
use crate::plan::chain::{self, Chain, Prober};
use crate::plan::{self, ConfineInputs, Confined, Inputs};
use crate::privsep::op::{LaunchPlan, Op};
use crate::privsep::request::{Started, Survey};
use crate::settings::Settings;

/// A definition with everything that was read for it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The definition.
    pub domain: Domain,
    /// Its uuid, or one drawn for it.
    pub uuid: DomainUuid,
    /// Its disks' layers.
    pub chains: Vec<Chain>,
}

/// A start that succeeded.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What was applied.
    pub plan: LaunchPlan,
    /// What runs.
    pub started: Started,
}

/// A draw that differs from every other one: the seed of hash maps, which comes from the kernel.
#[must_use]
pub fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Resolves the disks of a definition.
pub fn prepare(
    domain: Domain,
    settings: &Settings,
    prober: &mut dyn Prober,
) -> Result<Prepared, DriverError> {
    let chains = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, settings.limits.chain_depth, prober))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.refusal())?;
    let uuid = domain.uuid.unwrap_or_else(|| {
        let bytes = (u128::from(draw()) << 64 | u128::from(draw())).to_be_bytes();
        DomainUuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
    });
    Ok(Prepared { domain, uuid, chains })
}

/// What decides the device model's confinement; `confine::plan` for a real start.
pub trait Confiner {
    /// The confinement of one device model and its supervisor's filter.
    fn confine(&self, inputs: ConfineInputs<'_>) -> Result<Confined, Refusal>;
}

impl Prepared {
    /// The plan of one start.
    pub fn plan(
        &self,
        host: &HostFacts,
        settings: &Settings,
        survey: &Survey,
        confiner: &dyn Confiner,
        seed: u64,
        paused: bool,
    ) -> Result<LaunchPlan, DriverError> {
        let inputs = Inputs {
            domain: &self.domain,
            uuid: self.uuid,
            host,
            settings,
            chains: &self.chains,
            survey,
            seed,
            paused,
        };
        plan::build(&inputs, |inputs| confiner.confine(inputs)).map_err(|error| error.refusal().into())
    }
}

/// Starts a domain through the labeller: headers, survey, plan, start.
///
/// A lease that somebody else took between survey and start is drawn again, once.
pub fn start(
    labeller: &mut Labeller,
    domain: Domain,
    host: &HostFacts,
    settings: &Settings,
    confiner: &dyn Confiner,
    paused: bool,
) -> Result<Launch, DriverError> {
    let prepared = prepare(domain, settings, &mut LabellerProber(labeller))?;
    let mut again = true;
    loop {
        let survey = labeller.survey()?;
        let plan = prepared.plan(host, settings, &survey, confiner, draw(), paused)?;
        match labeller.start(plan.clone()) {
            Ok(started) => return Ok(Launch { plan, started }),
            Err(DriverError::Refused(refused))
                if again && lost_a_lease(&plan, refused.op, refused.refusal.layer) =>
            {
                again = false;
            }
            Err(error) => return Err(error),
        }
    }
}

fn lost_a_lease(plan: &LaunchPlan, op: Option<usize>, layer: Layer) -> bool {
    let op = op.and_then(|at| plan.ops.get(at));
    layer == Layer::Lease && matches!(op, Some(Op::LeaseUid { .. } | Op::LeaseCategories { .. }))
}
