//! A start from the definition to the running guest, as one sequence.

use super::{DriverError, Labeller, LabellerProber};
use crate::base::{DomainUuid, Files, Layer, Refusal};
use crate::conf::domain::{Beyond, Domain};
use crate::conf::facts::HostFacts;
use crate::plan::chain::{self, Chain, Prober};
use crate::plan::{self, Inputs, inventory, labels, shares};
use crate::privsep::op::{FileIdentity, LaunchPlan, Op};
use crate::privsep::request::{Started, Survey};
use crate::privsep::save::{Restore, SavedAt};
use crate::security::decide::Model;
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
    /// Which directory each of its file systems is.
    pub shares: Vec<FileIdentity>,
}

/// A start that succeeded.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What was applied.
    pub plan: LaunchPlan,
    /// What runs.
    pub started: Started,
}

/// How a guest begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begin<'a> {
    /// Whether its virtual CPUs stay stopped.
    pub paused: bool,
    /// What it goes on from, where it was saved.
    pub restore: Option<&'a Restore>,
}

/// A draw that differs from every other one: the seed of hash maps, which comes from the kernel.
#[must_use]
pub fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A uuid that is drawn for each start would lock the second one out of what the first one made: a store of UEFI
/// variables is one domain's.
#[must_use]
pub fn without_uuid(store: &str) -> Refusal {
    let rule = "the domain has no <uuid>, and a store that has a name is the domain's that started with it";
    let remedy =
        "write a <uuid> (uuidgen draws one), or leave <nvram> away for a store that is new each time";
    Refusal::new(Layer::Definition, "start with", format!("<nvram> {store}"), rule, remedy)
}

/// Resolves the disks of a definition; what headers name is among `files`.
pub fn prepare(
    domain: Domain,
    files: &Files,
    settings: &Settings,
    prober: &mut dyn Prober,
) -> Result<Prepared, DriverError> {
    let chains = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, settings.limits.chain_depth, files, prober))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.refusal())?;
    let filesystems = domain.devices.filesystems.iter();
    let shares = filesystems
        .map(|one| match shares::is_place(&one.source, settings) {
            true => prober.directory(&one.source),
            // The plan refuses it, with the line.
            false => Ok(inventory::made_up(&one.source)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if domain.uuid.is_none()
        && let Some(store) = domain.os.firmware.as_ref().and_then(|firmware| firmware.nvram.as_deref())
    {
        return Err(without_uuid(store).into());
    }
    let uuid = domain.uuid.unwrap_or_else(|| {
        let bytes = (u128::from(draw()) << 64 | u128::from(draw())).to_be_bytes();
        DomainUuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
    });
    Ok(Prepared { domain, uuid, chains, shares })
}

/// As [`prepare`], for whoever cannot read the images: such a disk has the layers that the definition names.
/// The second value says which disks these are, and why.
#[must_use]
pub fn prepare_unread(
    domain: Domain,
    settings: &Settings,
    prober: &mut dyn Prober,
) -> (Prepared, Vec<String>) {
    let mut unread = Vec::new();
    let mut chains = Vec::new();
    for disk in &domain.devices.disks {
        // Nothing is opened for anybody by what is found here.
        let chain = chain::resolve(disk, settings.limits.chain_depth, &Files::ALL, prober);
        chains.push(chain.unwrap_or_else(|error| {
            unread.push(error.to_string());
            inventory::declared(disk)
        }));
    }
    let filesystems = domain.devices.filesystems.iter();
    let shares = filesystems
        .map(|one| prober.directory(&one.source).unwrap_or_else(|_| inventory::made_up(&one.source)))
        .collect();
    // Nothing is drawn: the same definition gives the same table again.
    let uuid = domain.uuid.unwrap_or(DomainUuid(uuid::Uuid::nil()));
    (Prepared { domain, uuid, chains, shares }, unread)
}

impl Prepared {
    /// What each of `models` does with each resource. Categories and uids are examples of what a start draws.
    /// `beyond` is what devices that do not run would use.
    pub fn labels(
        &self,
        beyond: &[Beyond],
        host: &HostFacts,
        settings: &Settings,
        models: &[Model],
    ) -> Result<Vec<labels::Row>, DriverError> {
        let (high, low) = self.uuid.0.as_u64_pair();
        let survey = Survey::default();
        let inputs = self.inputs(host, settings, &survey, high ^ low, Begin::default());
        labels::plan(&inputs, beyond, models).map_err(|error| error.refusal().into())
    }

    /// The plan of one start.
    pub fn plan(
        &self,
        host: &HostFacts,
        settings: &Settings,
        survey: &Survey,
        seed: u64,
        from: Begin<'_>,
    ) -> Result<LaunchPlan, DriverError> {
        let inputs = self.inputs(host, settings, survey, seed, from);
        plan::build(&inputs).map_err(|error| error.refusal().into())
    }

    fn inputs<'a>(
        &'a self,
        host: &'a HostFacts,
        settings: &'a Settings,
        survey: &'a Survey,
        seed: u64,
        Begin { paused, restore }: Begin<'a>,
    ) -> Inputs<'a> {
        let Self { domain, uuid, chains, shares } = self;
        Inputs { domain, uuid: *uuid, host, settings, chains, shares, survey, seed, paused, restore }
    }
}

/// Starts a domain through the labeller: headers, survey, plan, start.
///
/// What headers of its images name is among `files`. A lease that somebody else took between survey and start is drawn again, once.
pub fn start(
    labeller: &mut Labeller,
    (domain, files): (Domain, &Files),
    host: &HostFacts,
    settings: &Settings,
    from: Begin<'_>,
) -> Result<Launch, DriverError> {
    let prepared = prepare(domain, files, settings, &mut LabellerProber::new(labeller))?;
    let mut again = true;
    loop {
        let survey = labeller.survey()?;
        // Whoever decided that it starts from nothing may have known less.
        let goes_on = matches!(from.restore, Some(Restore { at: SavedAt::Managed { .. }, .. }));
        if !goes_on && survey.saved.contains(&prepared.uuid) {
            return Err(DriverError::IsSaved(prepared.domain.name.to_string()));
        }
        let plan = prepared.plan(host, settings, &survey, draw(), from)?;
        match labeller.start_with(plan.clone(), prepared.domain.devices.passwords()) {
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
    layer == Layer::Lease
        && matches!(op, Some(Op::LeaseUid { .. } | Op::LeaseCategories { .. } | Op::LeaseShare { .. }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    use crate::conf::domain_xml::parse;
    use crate::conf::facts::Emulator;
    use crate::privsep::request::{Refused, Reply, Request};
    use crate::privsep::wire;

    /// A labeller that refuses the first `refusals` starts at operation `op`; tells the uids that were asked for.
    fn labeller(refusals: usize, op: usize) -> (Labeller, std::thread::JoinHandle<Vec<u32>>) {
        labeller_with(refusals, op, Vec::new())
    }

    fn labeller_with(
        refusals: usize,
        op: usize,
        saved: Vec<DomainUuid>,
    ) -> (Labeller, std::thread::JoinHandle<Vec<u32>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut asked, mut buffer, mut chunk) = (Vec::new(), Vec::new(), [0; 65_536]);
            loop {
                let request = match wire::decode::<Request>(&mut buffer).unwrap() {
                    Some(request) => request,
                    None => match theirs.read(&mut chunk).unwrap() {
                        0 => return asked,
                        count => {
                            buffer.extend_from_slice(&chunk[..count]);
                            continue;
                        }
                    },
                };
                let reply = match request {
                    Request::Survey => Reply::Survey(Survey { saved: saved.clone(), ..Survey::default() }),
                    Request::Start { plan, passwords } => {
                        assert!(passwords.is_empty());
                        let Op::LeaseUid { uid, .. } = plan.ops[0] else { panic!("{:?}", plan.ops[0]) };
                        asked.push(uid);
                        if asked.len() <= refusals {
                            let refusal =
                                Refusal::new(Layer::Lease, "lease", uid.to_string(), "taken", "draw again");
                            Reply::Refused(Box::new(Refused { refusal, op: Some(op), stderr: String::new() }))
                        } else {
                            Reply::Started(Started {
                                control: String::new(),
                                qemu_pid: 2,
                                supervisor_pid: 1,
                                degraded: vec![],
                                listening: vec![],
                                cgroup: None,
                            })
                        }
                    }
                    other => panic!("{other:?}"),
                };
                theirs.write_all(&wire::encode(&reply).unwrap()).unwrap();
            }
        });
        (Labeller::from_stream(ours), thread)
    }

    fn started(refusals: usize, op: usize) -> (Result<Launch, DriverError>, Vec<u32>) {
        started_with(labeller(refusals, op), Begin::default())
    }

    const UUID: &str = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427";

    fn started_with(
        (mut labeller, thread): (Labeller, std::thread::JoinHandle<Vec<u32>>),
        from: Begin<'_>,
    ) -> (Result<Launch, DriverError>, Vec<u32>) {
        let xml = format!(
            "<domain type='qemu'><name>a</name><uuid>{UUID}</uuid><memory>65536</memory><os><type>hvm</type></os></domain>"
        );
        let host = HostFacts {
            emulators: vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 0) }],
            ..HostFacts::default()
        };
        let domain = parse(xml.as_bytes()).unwrap();
        let launch = start(&mut labeller, (domain, &Files::ALL), &host, &Settings::default(), from);
        drop(labeller);
        (launch, thread.join().unwrap())
    }

    #[test]
    fn a_start_is_asked_for_once() {
        let (launch, asked) = started(0, 0);
        assert_eq!((launch.unwrap().started.qemu_pid, asked.len()), (2, 1));
    }

    #[test]
    fn what_is_saved_goes_on_from_there_or_not_at_all() {
        let uuid = DomainUuid(UUID.parse().unwrap());
        let restore = |at| Restore { at, identity: FileIdentity { device: 1, inode: 2 }, bytes: 3 };
        let with = |restore| started_with(labeller_with(0, 0, vec![uuid]), Begin { paused: false, restore });
        let elsewhere = restore(SavedAt::Path { path: "/var/lib/a.save".into() });
        for from in [None, Some(&elsewhere)] {
            let (launch, asked) = with(from);
            assert!(matches!(launch, Err(DriverError::IsSaved(_))) && asked.is_empty(), "{from:?}");
        }
        assert!(with(Some(&restore(SavedAt::Managed { uuid }))).0.is_ok());
        let other = DomainUuid(uuid::Uuid::nil());
        assert!(started_with(labeller_with(0, 0, vec![other]), Begin::default()).0.is_ok());
    }

    #[test]
    fn a_lost_lease_is_drawn_again_once() {
        let (launch, asked) = started(1, 0);
        assert!(launch.is_ok() && asked.len() == 2 && asked[0] != asked[1], "{asked:?}");
        let (launch, asked) = started(2, 1);
        assert!(matches!(launch, Err(DriverError::Refused(_))) && asked.len() == 2);
    }

    #[test]
    fn another_refusal_is_final() {
        // Operation 2 is the cgroup.
        let (launch, asked) = started(1, 2);
        assert!(matches!(launch, Err(DriverError::Refused(_))) && asked.len() == 1);
    }
}
