//! The labeller's own limits: which plans are applied at all, whoever made them.
//!
//! Pure. It trusts nothing in a plan: the order is checked again, every number against its configured range,
//! every name against a closed list. What it cannot see from the plan alone (files, what is in use) `places`
//! and `lease` decide when the operation's turn comes.

mod label;
mod spawn;

use std::collections::HashSet;

use crate::base::{CategoryPair, DomainUuid, Layer, Refusal, Slot};
use crate::privsep::apparmor::ProfileRule;
use crate::privsep::confinement::RootShare;
use crate::privsep::nvram::named_for;
use crate::privsep::op::{
    CgroupLimits, FileIdentity, LaunchPlan, ListenAt, Op, OpenImage, PLAN_VERSION, Sharing, SpawnVirtiofsd,
    UidRole, VNET,
};
use crate::privsep::order;
use crate::privsep::password::{Password, are_of_one_domain};
use crate::privsep::plug::Plug;
use crate::privsep::save::SavedAt;
use crate::privsep::share::ShareIdentity;
use crate::privsep::tuning::SOFT_LIMIT_MIN;
use crate::settings::{Network, Settings};
use crate::sys::path::is_plain;

/// Memory that QEMU itself may use on top of `limits.memory`, in bytes.
const OWN_MEMORY_MAX: u64 = 4 << 30;
/// Threads and processes of one device model.
const PIDS_MAX: u64 = 65_536;

/// Why a plan is refused, and at which operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotAdmitted {
    /// Counted from 0; absent where the whole plan is meant.
    pub(super) op: Option<usize>,
    /// Why.
    pub(super) refusal: Box<Refusal>,
}

/// What one admission looks at.
struct Admission<'a> {
    settings: &'a Settings,
    /// Whose plan it is.
    uuid: DomainUuid,
    /// Whether the kernel runs SELinux.
    selinux: bool,
    pair: Option<CategoryPair>,
    /// Images that others write too, directories that guests mount and memory that they share, and their pairs.
    shares: Vec<(ShareIdentity, CategoryPair)>,
    /// Those pairs that the device model runs under.
    model: Vec<CategoryPair>,
    /// Directories that this plan opens.
    directories: Vec<(&'a Slot, FileIdentity)>,
    images: Vec<&'a OpenImage>,
    /// What is only read.
    readables: Vec<&'a Slot>,
    /// Stores of UEFI variables.
    nvrams: Vec<&'a Slot>,
    /// What gets a label.
    labelled: HashSet<&'a Slot>,
    /// States of TPMs.
    states: Vec<&'a Slot>,
    /// What the guest goes on from.
    saved: Vec<&'a Slot>,
}

/// The most memory that any domain may have, QEMU's own with it, in bytes.
pub(super) fn memory_most(settings: &Settings) -> u64 {
    match settings.limits.memory {
        0 => u64::MAX,
        memory => memory.saturating_add(OWN_MEMORY_MAX),
    }
}

/// Checks the limits of a cgroup against the configured ones.
pub(super) fn cgroup(limits: &CgroupLimits, settings: &Settings) -> Result<(), Refusal> {
    let most = memory_most(settings);
    if limits.memory_max == 0 || limits.memory_max > most {
        return Err(policy(
            "give memory of",
            format!("{} bytes", limits.memory_max),
            &format!("limits.memory is {}", settings.limits.memory),
            "raise limits.memory, or give the domain less",
        ));
    }
    if limits.pids_max == 0 || limits.pids_max > PIDS_MAX {
        return Err(policy("allow threads:", limits.pids_max.to_string(), "at most 65536", "plan again"));
    }
    if let Some(soft) = limits.tuning.soft_limit.filter(|soft| *soft < SOFT_LIMIT_MIN) {
        let rule = format!("a soft limit is at least {} MiB", SOFT_LIMIT_MIN >> 20);
        return Err(policy("tune the domain to", format!("{soft} bytes"), &rule, "raise <soft_limit>"));
    }
    if !limits.tuning.is_bounded() || limits.cpu_max.is_some_and(|max| !max.is_bounded()) {
        let rule = "a share, weight, period or quota is out of the kernel's bounds";
        return Err(policy(
            "tune the domain to",
            format!("{:?}", limits.tuning),
            rule,
            "see <cputune> and <blkiotune>",
        ));
    }
    let kept = settings.host.cpus;
    let ascending = limits.cpus.is_sorted_by(|one, next| one < next);
    let own = limits.cpus.first().is_some_and(|first| *first < kept);
    if !ascending || own || (kept > 0 && limits.cpus.is_empty()) {
        let object = format!("the CPUs {:?}", limits.cpus);
        let rule = format!("host.cpus keeps the first {kept} for the host");
        return Err(policy("run the domain on", object, &rule, "plan again"));
    }
    let distinct: HashSet<_> = limits.devices.iter().collect();
    if distinct.len() != limits.devices.len() {
        return Err(policy("allow", "the devices".into(), "one is named twice", "plan again"));
    }
    Ok(())
}

/// Checks the passwords that come with a plan.
pub(super) fn passwords(passwords: &[Password]) -> Result<(), Refusal> {
    if are_of_one_domain(passwords) {
        return Ok(());
    }
    let rule = "one a kind of display, and none longer than its display can have";
    Err(policy("give displays", "their passwords".into(), rule, "plan again"))
}

/// Checks a plan against the configured limits. `selinux` says whether the kernel runs SELinux.
pub(super) fn check(plan: &LaunchPlan, settings: &Settings, selinux: bool) -> Result<(), NotAdmitted> {
    let whole = |refusal| NotAdmitted { op: None, refusal: Box::new(refusal) };
    if plan.version != PLAN_VERSION {
        return Err(whole(policy(
            "apply a plan of version",
            plan.version.to_string(),
            &format!("this labeller applies version {PLAN_VERSION}"),
            "use svirt and svirt-labeller of one release",
        )));
    }
    order::check(&plan.ops)
        .map_err(|error| whole(policy("apply", "the plan".into(), &error.to_string(), "plan again")))?;
    if !plan.ops.iter().any(|op| matches!(op, Op::Cgroup(_))) {
        return Err(whole(policy("apply", "the plan".into(), "it sets no cgroup limits", "plan again")));
    }
    let mut admission = Admission {
        settings,
        uuid: plan.domain.uuid,
        selinux,
        pair: plan.ops.iter().find_map(|op| match op {
            Op::LeaseCategories { pair } => Some(*pair),
            _ => None,
        }),
        shares: plan
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::LeaseShare { identity, pair } => Some((identity.clone(), *pair)),
                _ => None,
            })
            .collect(),
        model: Vec::new(),
        directories: Vec::new(),
        images: Vec::new(),
        readables: Vec::new(),
        nvrams: Vec::new(),
        states: Vec::new(),
        saved: Vec::new(),
        labelled: HashSet::new(),
    };
    let (model, served) = shared(plan);
    let none = |identity: &ShareIdentity| !model.contains(identity) && !served.contains(identity);
    if let Some((_, pair)) = admission.shares.iter().find(|(identity, _)| none(identity)) {
        let rule = "no image, directory or memory of this plan is shared under it";
        return Err(whole(policy("share the categories", pair.to_string(), rule, "plan again")));
    }
    let of_model = admission.shares.iter().filter(|(identity, _)| model.contains(identity));
    admission.model = of_model.map(|(_, pair)| *pair).collect();
    for name in ["open-nvram", "open-tpm-state", "spawn-swtpm"] {
        // Each one is a new file on the host, and a copy that everybody waits for.
        if plan.ops.iter().filter(|op| op.name() == name).count() > 1 {
            let rule = "a domain has one store of UEFI variables and one TPM";
            return Err(whole(policy("apply a second", name.into(), rule, "plan again")));
        }
    }
    for (at, op) in plan.ops.iter().enumerate() {
        admission.op(op).map_err(|refusal| NotAdmitted { op: Some(at), refusal: Box::new(refusal) })?;
    }
    Ok(())
}

/// What a plan shares with other domains: what its device model itself uses, and what helpers serve.
fn shared(plan: &LaunchPlan) -> (HashSet<ShareIdentity>, HashSet<ShareIdentity>) {
    let own = |wanted: &Slot| {
        let Some(Op::Spawn(spawn)) = plan.ops.last() else { return false };
        spawn.confinement.root.shares.iter().any(|share| share.slot == *wanted)
    };
    let (mut model, mut served) = (HashSet::new(), HashSet::new());
    for op in &plan.ops {
        match op {
            Op::OpenImage(image) if image.sharing == Sharing::Writers => model.insert(image.identity.into()),
            Op::OpenShare { slot, identity, .. } if own(slot) => model.insert((*identity).into()),
            Op::OpenShare { identity, .. } => served.insert((*identity).into()),
            Op::OpenShmem { name, .. } => model.insert(ShareIdentity::memory(name)),
            _ => continue,
        };
    }
    (model, served)
}

/// Checks a device that is to be plugged into a domain that runs by this plan.
pub(super) fn plug(
    plug: &Plug,
    plan: &LaunchPlan,
    settings: &Settings,
    selinux: bool,
) -> Result<(), Refusal> {
    let refuse = |rule: &str| policy("plug in", plug.alias.clone(), rule, "plan again");
    crate::privsep::plug::check(plug).map_err(|error| refuse(&error.to_string()))?;
    let pair = plan.ops.iter().find_map(|op| match op {
        Op::LeaseCategories { pair } => Some(*pair),
        _ => None,
    });
    let mut admission = Admission {
        settings,
        uuid: plan.domain.uuid,
        selinux,
        pair,
        shares: Vec::new(),
        model: Vec::new(),
        directories: Vec::new(),
        images: Vec::new(),
        readables: Vec::new(),
        nvrams: Vec::new(),
        states: Vec::new(),
        saved: Vec::new(),
        labelled: HashSet::new(),
    };
    for op in &plug.ops {
        if let Op::OpenImage(image) = op
            && image.sharing == Sharing::Writers
            && selinux
        {
            return Err(refuse("a running domain's categories cannot take a shared image in"));
        }
        admission.op(op)?;
    }
    Ok(())
}

impl<'a> Admission<'a> {
    fn op(&mut self, op: &'a Op) -> Result<(), Refusal> {
        match op {
            Op::LeaseUid { role, uid } => self.uid(*role, *uid),
            Op::LeaseCategories { .. } | Op::LeaseShare { .. } | Op::Channel { .. } | Op::Pty { .. } => {
                Ok(())
            }
            Op::Cgroup(limits) => cgroup(limits, self.settings),
            Op::OpenImage(image) => {
                self.images.push(image);
                plain("open the image", &image.path)
            }
            Op::OpenReadable { slot, path } => {
                self.readables.push(slot);
                plain("open", path)
            }
            Op::OpenNvram { slot, path, .. } => {
                self.nvrams.push(slot);
                if named_for(path).is_some_and(|owner| owner != self.uuid) {
                    let rule = "by its name it is another domain's";
                    return Err(policy(
                        "open the UEFI variables",
                        path.clone(),
                        rule,
                        "name another <nvram>",
                    ));
                }
                plain("open the UEFI variables", path)
            }
            Op::OpenSaved { slot, saved } => {
                self.saved.push(slot);
                self.saved(&saved.at)
            }
            Op::OpenTap { interface, .. } => self.tap(interface),
            Op::OpenVsock { cid, .. } if !(3..u32::MAX).contains(cid) => {
                let rule = "0 to 2 and the highest number are the kernel's own";
                Err(policy("take the vsock number", cid.to_string(), rule, "choose another <cid address>"))
            }
            Op::OpenVsock { .. } => Ok(()),
            Op::MakeTap { bridge, name, mac, mtu, .. } => self.made_tap(name, bridge, *mac, *mtu),
            Op::LoadProfile { rules, .. } => Self::profile(rules),
            Op::LabelSelinux { slot, label } => {
                self.labelled.insert(slot);
                self.image_label(slot, label)
            }
            Op::Listen { slot, at } => self.listen(slot, at),
            Op::OpenLog { path, .. } => plain("open the log", path),
            Op::OpenTpmState { slot, path, .. } => {
                self.states.push(slot);
                plain("open the TPM's state", path)
            }
            Op::SpawnSwtpm { alias, .. } if alias != "tpm0" => {
                Err(policy("start swtpm for", alias.clone(), "the only TPM is tpm0", "plan again"))
            }
            Op::SpawnSwtpm { selinux_label, state, .. } => {
                if self.selinux && !self.labelled.contains(state) {
                    let rule = "a TPM's state has the domain's own context while its emulator runs";
                    return Err(policy("start swtpm with", state.to_string(), rule, "plan again"));
                }
                let types = [&self.settings.selinux.swtpm_type];
                // The socket that the device model makes for it has the device model's range.
                self.process_label(selinux_label.as_deref(), &types, &self.model)
            }
            Op::OpenShare { slot, path, identity, .. } => {
                self.directories.push((slot, *identity));
                plain("share", path)
            }
            Op::OpenShmem { name, size, selinux_label, .. } => {
                self.shmem(name, *size)?;
                self.shmem_label(selinux_label.as_deref(), name)
            }
            Op::Meeting { .. } => Ok(()),
            Op::SpawnVirtiofsd(spawn) => self.virtiofsd(spawn),
            Op::SpawnPasst { selinux_label, alias, .. } => {
                if alias.is_empty() || alias.len() > 64 || !alias.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(policy("start passt for", alias.clone(), "is no alias", "plan again"));
                }
                // It shares nothing.
                let types = [&self.settings.selinux.passt_type];
                self.process_label(selinux_label.as_deref(), &types, &[])
            }
            Op::Spawn(spawn) => self.spawn(spawn),
        }
    }

    /// What the labeller finds in the file must be this domain's too; here its name is looked at.
    fn saved(&self, at: &SavedAt) -> Result<(), Refusal> {
        match at {
            SavedAt::Path { path } => plain("go on from", path),
            SavedAt::Managed { uuid } if *uuid != self.uuid => {
                let rule = "it is another domain's";
                Err(policy("go on from", uuid.to_string(), rule, "plan again"))
            }
            SavedAt::Managed { .. } => Ok(()),
        }
    }

    fn virtiofsd(&self, spawn: &SpawnVirtiofsd) -> Result<(), Refusal> {
        let alias = spawn.alias.strip_prefix("fs").and_then(|number| number.parse::<u8>().ok());
        if alias.is_none_or(|number| number >= RootShare::MAX || spawn.alias != format!("fs{number}")) {
            return Err(policy("start virtiofsd for", spawn.alias.clone(), "is no alias", "plan again"));
        }
        if !self.settings.shares.virtiofsd.contains(&spawn.program) {
            let rule = "shares.virtiofsd does not list it";
            let remedy = "add its path to shares.virtiofsd in the configuration";
            return Err(policy("start the server", spawn.program.clone(), rule, remedy));
        }
        if spawn.threads.is_some_and(|threads| threads > 64) {
            let object = format!("{:?} threads", spawn.threads);
            return Err(policy("start virtiofsd with", object, "at most 64", "plan again"));
        }
        let types = [&self.settings.selinux.virtiofsd_type];
        // What the device model makes for it has the device model's range.
        let mut pairs = self.model.clone();
        pairs.extend(self.pair_of(&spawn.share));
        self.process_label(spawn.selinux_label.as_deref(), &types, &pairs)
    }

    fn shmem(&self, name: &str, size: u64) -> Result<(), Refusal> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let refuse = |rule: &str| Err(policy("share the memory", name.to_owned(), rule, "plan again"));
        if !starts || name.len() > 64 || !name.bytes().all(plain) {
            return refuse("its name is no word of letters, digits, '.', '_' and '-'");
        }
        if !size.is_power_of_two() || !(1 << 20..=self.settings.shmem.size).contains(&size) {
            return refuse("its size is no power of two between 1 MiB and shmem.size");
        }
        Ok(())
    }

    fn uid(&self, role: UidRole, uid: u32) -> Result<(), Refusal> {
        let uids = &self.settings.uids;
        let (range, setting) = match role {
            UidRole::Domain => (uids.domains, "uids.domains"),
            UidRole::Helper => (uids.helpers, "uids.helpers"),
            UidRole::Supervisor => (uids.supervisors, "uids.supervisors"),
        };
        if uid != 0 && range.contains(uid) {
            return Ok(());
        }
        let rule = format!("{setting} is {} to {}", range.first, range.first.saturating_add(range.count - 1));
        Err(policy("run as uid", uid.to_string(), &rule, &format!("widen {setting} in the configuration")))
    }

    fn tap(&self, interface: &str) -> Result<(), Refusal> {
        if Network::is_interface(interface) && self.settings.network.allows_tap(interface) {
            return Ok(());
        }
        Err(policy(
            "attach to the tap device",
            interface.to_owned(),
            "network.taps does not list it",
            "add its name or a prefix with `*` to network.taps",
        ))
    }

    /// A tap device that is made: its name, its address, and where it is plugged in.
    fn made_tap(&self, name: &str, bridge: &str, mac: [u8; 6], mtu: Option<u32>) -> Result<(), Refusal> {
        let network = &self.settings.network;
        if !Network::is_interface(bridge) || !network.allows_bridge(bridge) {
            let remedy = "if domains may be plugged into it, add it to network.bridges";
            return Err(policy(
                "plug into the bridge",
                bridge.into(),
                "network.bridges does not list it",
                remedy,
            ));
        }
        if name != VNET && !(Network::is_interface(name) && network.allows_tap(name)) {
            let rule = "its name is neither vnet%d nor in network.taps";
            return Err(policy("make the tap device", name.into(), rule, "leave its name out"));
        }
        // With the highest address of all its ports a tap never gives the bridge its own.
        if mac.first() != Some(&0xfe) || mtu.is_some_and(|mtu| !(68..=65_521).contains(&mtu)) {
            let rule = "its address begins with fe, and its MTU is between 68 and 65521";
            return Err(policy("make the tap device", name.into(), rule, "plan again"));
        }
        Ok(())
    }

    fn listen(&self, slot: &Slot, at: &ListenAt) -> Result<(), Refusal> {
        match at {
            ListenAt::Control if slot.as_str() == "control" => Ok(()),
            ListenAt::Control => Err(policy(
                "listen at",
                slot.to_string(),
                "the control socket is the slot `control`",
                "plan again",
            )),
            ListenAt::Unix { path } => plain("listen at", path),
            ListenAt::Tcp { address, port, port_last } => {
                let vnc = &self.settings.vnc;
                let object = format!("{address}:{port}");
                if !vnc.addresses.contains(address) {
                    let remedy = "add the address to vnc.addresses, if everybody who reaches it may connect";
                    return Err(policy(
                        "listen at",
                        object,
                        "vnc.addresses does not list the address",
                        remedy,
                    ));
                }
                let ports = vnc.ports.0..=vnc.ports.1;
                let chosen_by_kernel = *port == 0 && *port_last == 0;
                let in_range = ports.contains(port) && ports.contains(port_last) && port <= port_last;
                if !(chosen_by_kernel || in_range) {
                    let rule = format!("vnc.ports is {} to {}", vnc.ports.0, vnc.ports.1);
                    return Err(policy("listen at", object, &rule, "choose a port of vnc.ports"));
                }
                Ok(())
            }
        }
    }

    /// What a profile may say is a closed list.
    fn profile(rules: &[ProfileRule]) -> Result<(), Refusal> {
        let twice =
            rules.iter().enumerate().any(|(at, rule)| rules.iter().skip(at + 1).any(|other| other == rule));
        if twice {
            return Err(policy("load", "the profile".into(), "a rule is there twice", "plan again"));
        }
        Ok(())
    }

    /// The pair of a directory.
    fn pair_of(&self, share: &Slot) -> Option<CategoryPair> {
        let (_, identity) = self.directories.iter().find(|(slot, _)| *slot == share)?;
        self.shared_pair(&ShareIdentity::from(*identity))
    }

    /// The pair of what is shared.
    fn shared_pair(&self, identity: &ShareIdentity) -> Option<CategoryPair> {
        self.shares.iter().find(|(shared, _)| shared == identity).map(|(_, pair)| *pair)
    }

    fn image(&self, slot: &Slot) -> Option<&'a OpenImage> {
        self.images.iter().find(|image| image.slot == *slot).copied()
    }
}

/// A refusal by the labeller's limits.
fn policy(operation: &str, object: String, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::Policy, operation, object, rule, remedy)
}

fn plain(operation: &str, path: &str) -> Result<(), Refusal> {
    if is_plain(path) {
        return Ok(());
    }
    let rule = "is no plain absolute path";
    Err(policy(operation, format!("{path:?}"), rule, "write it without `..`, `.`, `//` and a last `/`"))
}

#[cfg(test)]
mod tests;
