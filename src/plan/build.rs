//! Joins labels, confinement and arguments into one ordered plan.

use std::collections::HashSet;

use super::chain::Chain;
use super::firmware;
use super::images;
use super::inventory::{self, boot_place};
use super::ports::{self, Ports};
use super::qemu::{self, Guest};
use super::{PlanError, doi, limits, network, reserve, shares, shmem, slots};
use crate::base::{DomainRef, DomainUuid, Layer, Refusal};
use crate::conf::domain::{Boot, Domain, VideoModel, VirtType};
use crate::conf::facts::{Emulator, HostFacts};
use crate::confine;
use crate::privsep::apparmor::ProfileRule;
use crate::privsep::confinement::{RootFile, RootPlace, SeccompProgram};
use crate::privsep::op::{FdGrant, FileIdentity, LaunchPlan, Op, PLAN_VERSION, Spawn, TpmVersion, UidRole};
use crate::privsep::order;
use crate::privsep::request::Survey;
use crate::privsep::save::Restore;
use crate::privsep::supervisor::{Incoming, Lifecycle, SupervisorSpec};
use crate::security::dac::Owners;
use crate::security::decide::Stack;
use crate::security::resource::{Kind, Place, Resource};
use crate::security::selinux::{self, Labels};
use crate::security::{LabelError, apparmor, dac};
use crate::settings::Settings;

/// The oldest QEMU whose options are written here.
const OLDEST_QEMU: (u32, u32, u32) = (7, 2, 0);
/// The most bytes of QEMU's arguments together; the labeller's own limit.
const ARGUMENTS_MAX: usize = 1 << 20;

/// Everything that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The definition.
    pub domain: &'a Domain,
    /// The domain's uuid: the definition's, or one that the caller drew.
    pub uuid: DomainUuid,
    /// The host.
    pub host: &'a HostFacts,
    /// The configuration.
    pub settings: &'a Settings,
    /// Each disk's layers, in the definition's order.
    pub chains: &'a [Chain],
    /// Which directory each file system is, in the definition's order.
    pub shares: &'a [FileIdentity],
    /// What is leased and which domains there are.
    pub survey: &'a Survey,
    /// Decides every draw.
    pub seed: u64,
    /// Whether the guest stays paused after the start.
    pub paused: bool,
    /// What it goes on from, where it was saved.
    pub restore: Option<&'a Restore>,
}

/// Makes the plan of one start.
pub fn build(inputs: &Inputs<'_>) -> Result<LaunchPlan, PlanError> {
    let Inputs { host, settings, .. } = *inputs;
    // Before anything else reads a label.
    let bound = doi::bind(inputs.domain, inputs.chains, host, settings, &|model| doi::runs(host, model))?;
    let (notes, chains) = (bound.notes, bound.chains.as_ref());
    let domain = network::resolve(bound.domain, settings);
    let domain = domain.as_ref();
    let inputs = &Inputs { domain, chains, ..*inputs };
    check_free(inputs)?;
    check_size(domain, host, settings)?;
    reserve::check(domain, host, settings)?;
    let emulator = emulator(domain, host, settings)?;
    check_modules(domain, host)?;
    selinux::models_present(domain, host)?;
    let resources = inventory::of(domain, chains, inputs.shares, settings);
    let labels = host.selinux.is_some().then(|| contexts(inputs, &resources)).transpose()?;
    let ports = ports::plan(domain, inputs.uuid, settings)?;
    let served = shares::helpers(domain);
    let uids = owners(inputs, ports.passts.len() + served + usize::from(ports.tpm.is_some()))?;
    // passts first, then servers of directories, the TPM last.
    let servers = uids.helpers.get(ports.passts.len()..).unwrap_or_default();
    let mut stack = vec![Stack::Dac(&uids)];
    stack.extend(labels.as_ref().map(|labels| Stack::Selinux(labels, &settings.selinux)));
    let shared = shares::plan(inputs, servers, &resources, &stack)?;
    let (shmem_ops, shmems) = shmem::plan(domain, settings, &resources, &stack)?;
    let profile = match &host.apparmor {
        Some(_) => apparmor::profile(domain, inputs.uuid)?,
        None => None,
    };
    stack.extend(profile.as_ref().map(Stack::Apparmor));
    let images = images::plan(domain, chains, settings, &stack)?;
    let (boot_ops, root_files) = boot_files(domain, settings)?;
    let flash = firmware::find(domain, inputs.uuid, host, settings)?;
    let flash_ops = flash.as_ref().map(|flash| firmware::ops(flash, settings)).transpose()?;
    let nvram = resources.iter().filter(|resource| resource.name == firmware::NVRAM);
    let nvram_label = nvram.map(|resource| images::label(resource, &stack)).next().transpose()?.flatten();
    let program = &emulator.path;
    let line = qemu::argv(&Guest {
        domain,
        uuid: inputs.uuid,
        cid: domain.devices.vsock.as_ref().map(|vsock| network::cid(vsock, inputs.seed)),
        program,
        chains,
        flash: flash.as_ref(),
        dump: settings.host.enable_dump,
        incoming: inputs.restore.is_some(),
    })?;
    check_arguments(&line.argv)?;
    // What the host lacks, the rendered plan names from the ruleset itself.
    let (confinement, _) = confine::plan(confine::Request {
        domain,
        host,
        settings,
        uid: uids.domain,
        selinux_exec: labels.as_ref().map(|l| l.guest.to_string()),
        root_files,
        shares: shared.root,
        shmems,
        fds: line.fds.len(),
    })?;
    let mut supervisor = supervisor(inputs, &ports, &uids, labels.as_ref(), confine::supervisor_filter()?);
    supervisor.incoming = incoming(inputs.restore, &line.fds)?;

    let mut tpm_op = None;
    let mut ops = leases(&uids, labels.as_ref());
    ops.push(Op::Cgroup(limits::cgroup(
        domain,
        &confinement.root.devices,
        reserve::guest_cpus(host, settings),
    )));
    ops.extend(images.opens);
    ops.extend(boot_ops);
    ops.extend(flash_ops.into_iter().flatten());
    if let (Some(_), Some(uid)) = (&ports.tpm, uids.helpers.last()) {
        let slot = slots::console(ports::TPM, "state")?;
        let place = settings.tpm.state.trim_end_matches('/');
        let path = format!("{place}/{}", tpm_version(domain).state_of(inputs.uuid));
        ops.push(Op::OpenTpmState { slot, path, uid: *uid });
    }
    if let Some(saved) = inputs.restore {
        ops.push(Op::OpenSaved { slot: slots::saved()?, saved: saved.clone() });
    }
    ops.extend(shared.opens);
    ops.extend(shmem_ops);
    ops.extend(ports.taps);
    if let Some(vsock) = &domain.devices.vsock {
        ops.push(Op::OpenVsock { slot: slots::vsock()?, cid: network::cid(vsock, inputs.seed) });
    }
    ops.extend(images.labels);
    if let Some(label) = nvram_label {
        ops.push(Op::LabelSelinux { slot: slots::firmware("nvram")?, label });
    }
    for state in resources.iter().filter(|resource| resource.name == inventory::TPM_STATE) {
        let slot = slots::console(ports::TPM, "state")?;
        ops.extend(images::label(state, &stack)?.map(|label| Op::LabelSelinux { slot, label }));
    }
    if let (Some(_), Some(labels)) = (inputs.restore, &labels) {
        ops.push(Op::LabelSelinux { slot: slots::saved()?, label: labels.save.to_string() });
    }
    ops.extend(boot_labels(&resources, &stack)?);
    ops.extend(shared.labels);
    if profile.is_some() {
        let required = domain.seclabels.iter().any(|label| label.model == "apparmor");
        ops.push(Op::LoadProfile { rules: profile_rules(domain), required });
    }
    ops.extend(ports.channels);
    ops.extend(shared.channels);
    ops.extend(ports.outside);
    // The last of the helpers.
    if let (Some(slot), Some(uid)) = (ports.tpm, uids.helpers.last()) {
        let state = slots::console(ports::TPM, "state")?;
        let selinux_label = labels.as_ref().map(|l| l.swtpm.to_string());
        let (alias, version) = (ports::TPM.into(), tpm_version(domain));
        tpm_op = Some(Op::SpawnSwtpm { alias, slot, state, uid: *uid, version, selinux_label });
    }
    for ((alias, slot), uid) in ports.passts.into_iter().zip(&uids.helpers) {
        let selinux_label = labels.as_ref().map(|l| l.passt.to_string());
        ops.push(Op::SpawnPasst { alias, slot, uid: *uid, selinux_label });
    }
    ops.extend(shared.spawns.into_iter().map(|spawn| Op::SpawnVirtiofsd(Box::new(spawn))));
    ops.extend(tpm_op);
    ops.push(Op::Spawn(Box::new(Spawn {
        program: emulator.path.clone(),
        argv: line.argv,
        env: vec![("LC_ALL".into(), "C".into()), ("PATH".into(), "/usr/bin:/bin".into())],
        fds: line.fds,
        confinement,
        placement: domain.placement.clone(),
        supervisor,
    })));
    order::check(&ops)?;
    let domain = DomainRef { name: domain.name.clone(), uuid: inputs.uuid };
    let notes = notes.into_iter().map(|note| note.text).collect();
    Ok(LaunchPlan { version: PLAN_VERSION, domain, ops, notes })
}

/// Under which number QEMU has what it loads.
fn incoming(restore: Option<&Restore>, fds: &[FdGrant]) -> Result<Option<Incoming>, PlanError> {
    let slot = slots::saved()?;
    let grant = fds.iter().find(|grant| grant.slot == slot);
    Ok(restore.zip(grant).map(|(saved, grant)| Incoming { fd: grant.number, bytes: saved.bytes }))
}

/// The kernel gives arguments at most a quarter of the stack's limit, of which svirt uses half at most.
fn check_arguments(argv: &[String]) -> Result<(), PlanError> {
    let bytes: usize = argv.iter().map(|argument| argument.len() + 1).sum();
    if bytes <= ARGUMENTS_MAX {
        return Ok(());
    }
    Err(PlanError::definition(
        format!("{bytes} bytes of arguments"),
        format!("an emulator gets at most {ARGUMENTS_MAX}"),
        "merge layers of the disks: qemu-img rebase or commit",
    ))
}

fn check_free(inputs: &Inputs<'_>) -> Result<(), PlanError> {
    let running = &inputs.survey.domains;
    let same = running.iter().find(|d| d.domain.uuid == inputs.uuid || d.domain.name == inputs.domain.name);
    if let Some(status) = same {
        return Err(Refusal::new(
            Layer::Lease,
            "start",
            inputs.domain.name.to_string(),
            format!("the domain {} ({}) runs already", status.domain.name, status.domain.uuid),
            format!("stop it first: svirt stop {}", status.domain.name),
        )
        .held_by(status.domain.uuid)
        .into());
    }
    if running.len() as u64 >= u64::from(inputs.settings.limits.domains) {
        return Err(Refusal::new(
            Layer::Configuration,
            "start",
            inputs.domain.name.to_string(),
            format!("{} domains run, and limits.domains allows no more", running.len()),
            "stop a domain, or raise domains in [limits]",
        )
        .into());
    }
    Ok(())
}

fn check_size(domain: &Domain, host: &HostFacts, settings: &Settings) -> Result<(), PlanError> {
    let limits = &settings.limits;
    let refuse = |object: String, rule: String, remedy: &str| -> Result<(), PlanError> {
        Err(Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into())
    };
    if domain.vcpus > limits.vcpus {
        return refuse(
            format!("{} virtual CPUs", domain.vcpus),
            format!("limits.vcpus is {}", limits.vcpus),
            "give the domain fewer, or raise vcpus in [limits]",
        );
    }
    if limits.memory != 0 && domain.memory > limits.memory {
        return refuse(
            format!("{} bytes of memory", domain.memory),
            format!("limits.memory is {}", limits.memory),
            "give the domain less, or raise memory in [limits]",
        );
    }
    if domain.current_memory < domain.memory && domain.devices.memballoon.is_none() {
        return Err(PlanError::definition(
            "<currentMemory> below <memory>",
            "without a <memballoon> nothing takes memory from a guest",
            "write the same number in both, or give it a <memballoon>",
        ));
    }
    if domain.virt == VirtType::Kvm && !host.kvm {
        return Err(Refusal::new(
            Layer::Kernel,
            "plan the start with",
            "<domain type='kvm'>",
            "the host has no working /dev/kvm",
            "load kvm_intel or kvm_amd (or enable nested virtualisation), or write type='qemu'",
        )
        .into());
    }
    Ok(())
}

fn emulator<'a>(
    domain: &Domain,
    host: &'a HostFacts,
    settings: &Settings,
) -> Result<&'a Emulator, PlanError> {
    let allowed = &settings.emulators.allowed;
    let wanted = domain.devices.emulator.as_ref().or(allowed.first()).map_or("", String::as_str);
    let refuse = |layer, rule: String, remedy: &str| -> PlanError {
        Refusal::new(layer, "use the emulator", wanted, rule, remedy).into()
    };
    if !allowed.iter().any(|path| path == wanted) {
        return Err(refuse(
            Layer::Configuration,
            "it is not in emulators.allowed".into(),
            "remove <emulator> for the configured one, or add the path to allowed in [emulators]",
        ));
    }
    let found = host.emulators.iter().find(|emulator| emulator.path == wanted).ok_or_else(|| {
        match host.unusable.iter().find(|(path, _)| path == wanted) {
            Some((_, why)) => refuse(
                Layer::DeviceModel,
                why.clone(),
                "see what it does by itself with --version; install it anew, or correct allowed in [emulators]",
            ),
            None => refuse(
                Layer::DeviceModel,
                "it is not there".into(),
                "install it (Debian: apt install qemu-system-x86), or correct allowed in [emulators]",
            ),
        }
    })?;
    if found.version < OLDEST_QEMU {
        let (major, minor, micro) = found.version;
        return Err(refuse(
            Layer::DeviceModel,
            format!("version {major}.{minor}.{micro} is older than 7.2"),
            "install QEMU 7.2 or newer",
        ));
    }
    Ok(found)
}

/// What distributions package apart from the emulator itself.
fn check_modules(domain: &Domain, host: &HostFacts) -> Result<(), PlanError> {
    let devices = &domain.devices;
    let qxl = devices.videos.iter().find(|video| video.model == VideoModel::Qxl);
    let needed = [
        (devices.spice.as_ref().map(|spice| spice.line), "ui-spice-core", "<graphics type='spice'>"),
        (qxl.map(|video| video.line), "hw-display-qxl", "<video> of type qxl"),
        (devices.redirections.first().map(|one| one.line), "hw-usb-redirect", "<redirdev>"),
    ];
    for (line, module, what) in needed {
        let Some(line) = line else { continue };
        if !host.modules.is_empty() && !host.modules.iter().any(|known| known == module) {
            return Err(Refusal::new(
                Layer::DeviceModel,
                "plan the start with",
                format!("{what} (line {line})"),
                format!("the emulator's module {module} is not installed"),
                "install it (Debian 13: apt install qemu-system-modules-spice), or remove the device",
            )
            .into());
        }
    }
    Ok(())
}

/// Labels of what QEMU only reads at start, where it lies in a place that is labelled.
fn boot_labels(resources: &[Resource], stack: &[Stack<'_>]) -> Result<Vec<Op>, PlanError> {
    let mut ops = Vec::new();
    for resource in resources {
        let slot = match &resource.kind {
            Kind::Boot(_) => slots::boot(&resource.name)?,
            Kind::FwCfg(_, index) => slots::fw_cfg(*index)?,
            Kind::Firmware(_) => slots::firmware("code")?,
            _ => continue,
        };
        ops.extend(images::label(resource, stack)?.map(|label| Op::LabelSelinux { slot, label }));
    }
    Ok(ops)
}

/// What a domain's AppArmor profile says beyond the template.
fn profile_rules(domain: &Domain) -> Vec<ProfileRule> {
    let kvm = (domain.virt == VirtType::Kvm).then_some(ProfileRule::Kvm);
    let tcp = (!domain.devices.vncs.is_empty() || domain.devices.spice.is_some())
        .then_some(ProfileRule::HandedInTcp);
    let shares = domain.devices.filesystems.iter().any(|one| one.virtiofs().is_none());
    let shmem = !domain.devices.shmems.is_empty();
    let more = shares.then_some(ProfileRule::Shares).into_iter().chain(shmem.then_some(ProfileRule::Shmem));
    kvm.into_iter().chain(tcp).chain(more).collect()
}

fn tpm_version(domain: &Domain) -> TpmVersion {
    domain.devices.tpm.map(|tpm| tpm.version).unwrap_or_default()
}

/// The contexts of a domain on a host with SELinux.
pub(super) fn contexts(inputs: &Inputs<'_>, resources: &[Resource]) -> Result<Labels, LabelError> {
    selinux::labels(inputs.domain, resources, &inputs.settings.selinux, inputs.survey, inputs.seed)
}

/// The uids of a domain's processes.
pub(super) fn owners(inputs: &Inputs<'_>, helpers: usize) -> Result<Owners, LabelError> {
    let Inputs { domain, settings, survey, seed, .. } = *inputs;
    let mut taken: HashSet<u32> = survey.uids.iter().map(|(_, uid)| *uid).collect();
    let guest = dac::domain_uid(domain, &settings.uids, &taken, seed)?;
    taken.insert(guest);
    let mut draw = |role: UidRole, salt: u64| {
        let uid = dac::allocate(dac::range_of(&settings.uids, role), &taken, crate::base::mix(seed, salt))
            .ok_or(LabelError::NoUid(dac::role_name(role)))?;
        taken.insert(uid);
        Ok(uid)
    };
    let supervisor = draw(UidRole::Supervisor, 3)?;
    let helpers =
        (0..helpers as u64).map(|n| draw(UidRole::Helper, 4 + n)).collect::<Result<_, LabelError>>()?;
    Ok(Owners { domain: guest, supervisor, helpers })
}

fn leases(uids: &Owners, labels: Option<&Labels>) -> Vec<Op> {
    let mut ops = vec![
        Op::LeaseUid { role: UidRole::Domain, uid: uids.domain },
        Op::LeaseUid { role: UidRole::Supervisor, uid: uids.supervisor },
    ];
    ops.extend(uids.helpers.iter().map(|uid| Op::LeaseUid { role: UidRole::Helper, uid: *uid }));
    if let Some(Labels { pairs, .. }) = labels {
        ops.push(Op::LeaseCategories { pair: pairs.own });
        let shares = pairs.shares.iter();
        ops.extend(shares.map(|(identity, pair)| Op::LeaseShare { identity: identity.clone(), pair: *pair }));
    }
    ops
}

/// The boot files and the guest's firmware's own, opened where they lie and shown to QEMU under fixed names.
fn boot_files(domain: &Domain, settings: &Settings) -> Result<(Vec<Op>, Vec<RootFile>), PlanError> {
    let mut files = Vec::new();
    if let Boot::Kernel { kernel, initrd, dtb, .. } = &domain.os.boot {
        let all = [
            (Some(kernel), "kernel", RootPlace::Kernel),
            (initrd.as_ref(), "initrd", RootPlace::Initrd),
            (dtb.as_ref(), "dtb", RootPlace::Dtb),
        ];
        for (path, what, place) in all {
            let Some(path) = path else { continue };
            files.push((path, what.to_owned(), slots::boot(what)?, place));
        }
    }
    for (index, entry, path) in inventory::fw_cfg_files(domain) {
        // The reader has counted them.
        let Some(place) = RootPlace::fw_cfg(index) else { continue };
        files.push((path, format!("file of {}", entry.name), slots::fw_cfg(index)?, place));
    }
    let mut ops = Vec::new();
    let mut shown = Vec::new();
    for (path, what, slot, place) in files {
        if boot_place(path, settings) == Place::Elsewhere {
            return Err(Refusal::new(
                Layer::Configuration,
                format!("open the {what}"),
                path.clone(),
                "it lies in none of the places of images.readable",
                elsewhere(&settings.images.readable),
            )
            .into());
        }
        ops.push(Op::OpenReadable { slot: slot.clone(), path: path.clone() });
        shown.push(RootFile { slot, place });
    }
    Ok((ops, shown))
}

/// What to do with a boot file that lies in no place: the place made for them comes first, where it is one.
fn elsewhere(readable: &[String]) -> String {
    let own = readable.iter().find(|place| *place == "/var/lib/svirt/boot").or(readable.first());
    match own {
        Some(place) => format!("move the file to {place}, or add its directory to readable in [images]"),
        None => "add its directory to readable in [images]".into(),
    }
}

fn supervisor(
    inputs: &Inputs<'_>,
    ports: &Ports,
    uids: &Owners,
    labels: Option<&Labels>,
    seccomp: SeccompProgram,
) -> SupervisorSpec {
    let domain = inputs.domain;
    SupervisorSpec {
        uid: uids.supervisor,
        selinux_label: labels.map(|l| l.supervisor.to_string()),
        seccomp,
        fds: ports.fds.clone(),
        consoles: ports.consoles.clone(),
        vncs: ports.vncs.clone(),
        start_paused: inputs.paused,
        incoming: None,
        balloon: (domain.current_memory < domain.memory).then_some(domain.current_memory),
        links_down: links_down(domain),
        throttles: super::throttles(&domain.devices.disks),
        lifecycle: Lifecycle {
            on_poweroff: domain.on_poweroff,
            on_reboot: domain.on_reboot,
            on_crash: domain.on_crash,
        },
        clients: vec![inputs.settings.uids.frontend],
    }
}

/// QEMU's names of the interfaces whose cable is out.
fn links_down(domain: &Domain) -> Vec<String> {
    let all = domain.devices.interfaces.iter().enumerate();
    all.filter(|(_, interface)| interface.link_down).map(|(at, _)| format!("net{at}")).collect()
}
