//! The device model and its supervisor in a plan: program, arguments, and the ceiling of its confinement.

use std::collections::HashSet;

use super::{Admission, plain, policy};
use crate::base::Refusal;
use crate::privsep::ask::is_interface;
use crate::privsep::confinement::{
    Confinement, LandlockAccess, LandlockRule, Rlimit, RlimitKind, RootShare, RootShmem, SeccompProgram,
};
use crate::privsep::op::{DeviceNode, Spawn};
use crate::privsep::supervisor::SupervisorSpec;
use crate::privsep::throttle::Throttle;

/// 16 disks of 200 layers, each with four arguments, and room for the rest.
const ARGV_MAX: usize = 32_768;
/// Bytes of all arguments together; the kernel's own limit is a quarter of the stack limit.
const ARGV_BYTES_MAX: usize = 1 << 20;
/// `MAX_ARG_STRLEN` less its closing NUL.
const ARGUMENT_MAX: usize = 131_071;
const ENV_MAX: usize = 32;
/// `BPF_MAXINSNS`
const PROGRAM_MAX: usize = 4096;
const RULES_MAX: usize = 64;
const FDS_MAX: usize = 4096;
/// More disks no machine has.
const THROTTLES_MAX: usize = 1024;
/// Network interfaces whose link is down from the beginning.
const LINKS_MAX: usize = 1024;
/// A supervisor's: 64 consoles with their five each, servers, and the monitor. The labeller keeps copies of them.
const SUPERVISOR_FDS_MAX: usize = 512;

impl Admission<'_> {
    pub(super) fn spawn(&self, spawn: &Spawn) -> Result<(), Refusal> {
        if !self.settings.emulators.allowed.contains(&spawn.program) {
            let remedy = "add its path to emulators.allowed in the configuration";
            let rule = "emulators.allowed does not list it";
            return Err(policy("start the emulator", spawn.program.clone(), rule, remedy));
        }
        plain("start the emulator", &spawn.program)?;
        arguments(spawn)?;
        let types = &self.settings.selinux;
        let mut guest = vec![
            &types.guest_type,
            &types.guest_tcg_type,
            &types.guest_share_type,
            &types.guest_tcg_share_type,
        ];
        guest.extend(&types.extra_types);
        self.process_label(spawn.confinement.selinux_exec.as_deref(), &guest, &self.model)?;
        let types = [&types.supervisor_type];
        self.process_label(spawn.supervisor.selinux_label.as_deref(), &types, &self.model)?;
        if !spawn.placement.is_bounded() {
            let rule = "it has a number of a CPU or a node that no host has";
            return Err(policy("place", spawn.program.clone(), rule, "name those of this host"));
        }
        confinement(&spawn.confinement, self.settings.host.enable_dump)?;
        self.supervisor(&spawn.supervisor)
    }

    fn supervisor(&self, spec: &SupervisorSpec) -> Result<(), Refusal> {
        program(&spec.seccomp, "the supervisor")?;
        let refuse = |object: &str, rule: &str| {
            Err(policy("start a supervisor with", object.into(), rule, "plan again"))
        };
        if spec.fds.len() > SUPERVISOR_FDS_MAX || spec.consoles.len() > 64 || spec.vncs.len() > 8 {
            return refuse("its descriptors", "there are too many");
        }
        if spec.vncs.iter().any(|vnc| vnc.max_clients == 0 || vnc.max_clients > 256) {
            return refuse("a VNC server", "between 1 and 256 connections");
        }
        if spec.throttles.len() > THROTTLES_MAX || !spec.throttles.iter().all(Throttle::is_bounded) {
            return refuse("limits of disks", "they are out of their bounds");
        }
        if spec.links_down.len() > LINKS_MAX || !spec.links_down.iter().all(|alias| is_interface(alias)) {
            return refuse("links that are down", "they are no network interfaces, or too many");
        }
        let uids = &self.settings.uids;
        let ranges = [uids.domains, uids.helpers, uids.supervisors];
        let probes = [uids.imageprobe, uids.hostprobe];
        let bad = |uid: &u32| probes.contains(uid) || ranges.iter().any(|range| range.contains(*uid));
        if spec.clients.len() > 64 || spec.clients.iter().any(bad) {
            return refuse("its clients", "at most 64, none of them a uid of a domain's own processes");
        }
        Ok(())
    }
}

fn arguments(spawn: &Spawn) -> Result<(), Refusal> {
    let refuse = |rule: &str| Err(policy("start", spawn.program.clone(), rule, "plan again"));
    let bytes: usize = spawn.argv.iter().map(|argument| argument.len() + 1).sum();
    if spawn.argv.is_empty() || spawn.argv.len() > ARGV_MAX || bytes > ARGV_BYTES_MAX {
        return refuse("it has no arguments, or more than a start may have");
    }
    if spawn.argv.iter().any(|argument| argument.len() > ARGUMENT_MAX || argument.contains('\0')) {
        return refuse("an argument is too long or has a NUL");
    }
    if spawn.env.len() > ENV_MAX {
        return refuse("its environment is too large");
    }
    for (name, value) in &spawn.env {
        let word = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        // The dynamic linker's and the C library's own variables change what the program is.
        let loader = ["LD_", "GLIBC_", "GCONV_", "MALLOC_"].iter().any(|prefix| name.starts_with(prefix));
        if name.is_empty() || !word || loader || value.len() > 4096 || value.contains('\0') {
            return refuse(&format!("the environment variable {name:?} is not allowed"));
        }
    }
    if spawn.fds.len() > FDS_MAX {
        return refuse("it inherits too many descriptors");
    }
    Ok(())
}

fn confinement(confinement: &Confinement, dump: bool) -> Result<(), Refusal> {
    program(&confinement.seccomp, "the device model")?;
    let refuse = |object: &str, rule: &str| Err(policy("confine with", object.into(), rule, "plan again"));
    if confinement.uid == 0 || confinement.gid == 0 {
        return refuse("uid 0", "a device model is never root");
    }
    let root = &confinement.root;
    let places: HashSet<_> = root.files.iter().map(|file| file.place).collect();
    let devices: HashSet<_> = root.devices.iter().copied().collect();
    let shares: HashSet<_> = root.shares.iter().map(|share| share.number).collect();
    if shares.len() != root.shares.len() || shares.iter().any(|number| *number >= RootShare::MAX) {
        return refuse("the minimal root", "a share has no place in it, or the place is used twice");
    }
    let shmems: HashSet<_> = root.shmems.iter().map(|shmem| shmem.number).collect();
    if shmems.len() != root.shmems.len() || shmems.iter().any(|number| *number >= RootShmem::MAX) {
        return refuse("the minimal root", "shared memory has no place in it, or the place is used twice");
    }
    if places.len() != root.files.len() || devices.len() != root.devices.len() {
        return refuse("the minimal root", "a place in it is used twice");
    }
    if confinement.landlock.rules.len() > RULES_MAX {
        return refuse("the Landlock ruleset", "it has too many rules");
    }
    confinement.landlock.rules.iter().try_for_each(|rule| landlock(rule, &devices, &shares, &shmems))?;
    rlimits(&confinement.rlimits, dump)
}

/// The ceiling: reading and executing anywhere in the minimal root, writing to its device nodes alone.
fn landlock(
    rule: &LandlockRule,
    devices: &HashSet<DeviceNode>,
    shares: &HashSet<u8>,
    shmems: &HashSet<u8>,
) -> Result<(), Refusal> {
    let node = |device: &DeviceNode| match device {
        DeviceNode::Kvm => "/dev/kvm",
        DeviceNode::Null => "/dev/null",
        DeviceNode::Urandom => "/dev/urandom",
    };
    if rule.path != "/" {
        plain("allow by Landlock", &rule.path)?;
    }
    let is_node = devices.iter().any(|device| node(device) == rule.path);
    let is_share = shares.iter().any(|number| RootShare::path(*number) == rule.path);
    let is_shmem = shmems.iter().any(|number| RootShmem::path(*number) == rule.path);
    let allowed = |access: &LandlockAccess| match access {
        LandlockAccess::WriteFile => is_node || is_share || is_shmem,
        LandlockAccess::IoctlDev => is_node,
        LandlockAccess::Names => is_share,
        LandlockAccess::Execute | LandlockAccess::ReadDir | LandlockAccess::ReadFile => true,
    };
    if !rule.access.iter().all(allowed) {
        let rule_text = "writing and device ioctls are for the device nodes, shares and shared memory of the minimal root alone";
        return Err(policy(
            "allow by Landlock",
            rule.path.clone(),
            rule_text,
            "hand the file over by descriptor",
        ));
    }
    Ok(())
}

fn rlimits(limits: &[Rlimit], dump: bool) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for limit in limits {
        let ceiling = match limit.resource {
            // A core file holds the guest's memory.
            RlimitKind::Core if dump => None,
            RlimitKind::Core => Some(0),
            RlimitKind::Fsize | RlimitKind::Memlock => None,
            RlimitKind::Msgqueue => Some(1 << 20),
            RlimitKind::Nofile => Some(1 << 20),
            RlimitKind::Nproc => Some(65_536),
        };
        let within = match (limit.value, ceiling) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(value), Some(ceiling)) => value <= ceiling,
        };
        if !within || !seen.insert(limit.resource) {
            let object = format!("{:?} {:?}", limit.resource, limit.value);
            return Err(policy(
                "set the limit",
                object,
                "above the labeller's ceiling, or set twice",
                "plan again",
            ));
        }
    }
    Ok(())
}

fn program(program: &SeccompProgram, whose: &str) -> Result<(), Refusal> {
    if program.0.is_empty() || program.0.len() > PROGRAM_MAX {
        let rule = format!("a filter has 1 to {PROGRAM_MAX} instructions, not {}", program.0.len());
        return Err(policy("load the filter of", whose.into(), &rule, "plan again"));
    }
    Ok(())
}
