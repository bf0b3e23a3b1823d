//! A plan for people: every operation with its object, reason and undo, then what holds the device model.

use std::fmt::Write;

use super::undo::Undo;
use crate::privsep::confinement::{Confinement, LandlockAccess, RlimitKind, RootShmem, landlock_missing};
use crate::privsep::op::{
    Access, CgroupLimits, DeviceNode, FileIdentity, LaunchPlan, ListenAt, Op, OpenImage, Sharing, Spawn,
    UidRole,
};
use crate::privsep::save::SavedAt;
use crate::privsep::share::ShareIdentity;
use crate::privsep::supervisor::{LifecycleAction, SupervisorSpec};
use crate::privsep::throttle::DISK_LIMITS;

/// Width of the operations' names.
const NAME_WIDTH: usize = 17;

/// The Landlock ABI that has everything that is handled here.
const NEWEST_LANDLOCK: u32 = 7;

/// The plan as text.
#[must_use]
pub fn render(plan: &LaunchPlan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = render_to(&mut out, plan);
    out
}

fn render_to(out: &mut String, plan: &LaunchPlan) -> std::fmt::Result {
    writeln!(out, "plan to start {} ({})", plan.domain.name, plan.domain.uuid)?;
    writeln!(out, "{} operations, applied in this order and undone in the reverse\n", plan.ops.len())?;
    for note in &plan.notes {
        writeln!(out, "  because: {note}")?;
    }
    for (number, op) in (1..).zip(&plan.ops) {
        let (object, reason) = describe(op);
        writeln!(out, "{number:>4}  {:<NAME_WIDTH$} {object}", op.name())?;
        writeln!(out, "      {:NAME_WIDTH$} why:  {reason}", "")?;
        writeln!(out, "      {:NAME_WIDTH$} undo: {}", "", Undo::of(op))?;
    }
    if let Some(Op::Spawn(spawn)) = plan.ops.last() {
        render_spawn(out, spawn)?;
    }
    Ok(())
}

fn describe(op: &Op) -> (String, String) {
    match op {
        Op::LeaseUid { role, uid } => (format!("{uid} for {}", role_name(*role)), lease_reason(*role).into()),
        Op::LeaseCategories { pair } => (
            pair.to_string(),
            "SELinux keeps this domain's processes and images from every other's by this pair".into(),
        ),
        Op::LeaseShare { identity, pair } => {
            let (object, reason) = shared(identity);
            (format!("{pair} for {object}"), reason.into())
        }
        Op::Cgroup(limits) => {
            (cgroup(limits), "no domain takes the host's memory, threads or devices".into())
        }
        Op::OpenImage(image) => (format!("{} {}", image.slot, image.path), image_reason(image)),
        Op::OpenReadable { slot, path } => (format!("{slot} {path}"), readable_reason(slot.as_str()).into()),
        Op::OpenNvram { slot, path, template } => (
            format!("{slot} {path}, from {template} if it is new"),
            "the domain's own UEFI variables, read-write, locked against everybody".into(),
        ),
        Op::OpenSaved { slot, saved } => (
            match &saved.at {
                SavedAt::Managed { .. } => format!("{slot} the managed save"),
                SavedAt::Path { path } => format!("{slot} {path}"),
            },
            "QEMU gets what was saved as a descriptor to read, and loads it behind the shut gate".into(),
        ),
        Op::OpenTap { slot, interface } => (
            format!("{slot} tap {interface}"),
            "QEMU gets the interface as a descriptor and no right to make others".into(),
        ),
        Op::OpenVsock { slot, cid } => (
            format!("{slot} cid {cid}"),
            "QEMU gets the host's end with its number taken; the kernel gives each number once".into(),
        ),
        Op::MakeTap { slot, bridge, name, mac, mtu } => {
            let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            (
                format!("{slot} tap {name} ({mac}{mtu}) on bridge {bridge}"),
                "made outside QEMU, which gets it as a descriptor and no right to make, name or plug one"
                    .into(),
            )
        }
        Op::LabelSelinux { slot, label } => (format!("{slot} {label}"), label_reason(label).into()),
        Op::LoadProfile { rules, required } => {
            let own: Vec<&str> = rules.iter().map(|rule| rule.name()).collect();
            let own = if own.is_empty() { String::new() } else { format!(" and {}", own.join(", ")) };
            let required = if *required { ", asked for" } else { "" };
            (
                format!("the template{own}{required}"),
                "AppArmor admits libraries and what is handed over open, and no file that could be written"
                    .into(),
            )
        }
        Op::Channel { slot, peer } => (format!("{slot} to {peer}"), channel_reason(slot.as_str()).into()),
        Op::Pty { slot, peer } => (
            format!("{slot} to {peer}"),
            "the supervisor holds the terminal; QEMU sees one connected socket".into(),
        ),
        Op::Listen { slot, at } => {
            (format!("{slot} {}", address(at)), "the supervisor accepts; QEMU never listens".into())
        }
        Op::OpenLog { slot, path, append } => (
            format!("{slot} {path}{}", if *append { "" } else { " (emptied first)" }),
            "the supervisor writes it; QEMU cannot change what is written".into(),
        ),
        Op::OpenTpmState { slot, path, uid } => (
            format!("{slot} {path}"),
            format!("the TPM's state, owned by uid {uid} while the domain runs, locked against everybody"),
        ),
        Op::SpawnSwtpm { alias, slot, state, uid, version: _, selinux_label } => (
            format!(
                "{alias} as uid {uid} on {slot} with {state}{}",
                selinux_label.as_ref().map_or_else(String::new, |l| format!(", {l}"))
            ),
            "the TPM runs outside QEMU, under a uid of its own, and reaches its state and nothing else"
                .into(),
        ),
        Op::SpawnPasst { alias, slot, uid, selinux_label } => (
            format!(
                "{alias} as uid {uid} on {slot}{}",
                selinux_label.as_ref().map_or_else(String::new, |l| format!(", {l}"))
            ),
            "the user network runs outside QEMU, under a uid of its own".into(),
        ),
        Op::OpenShare { slot, path, access, .. } => (
            format!("{slot} {path}{}", if *access == Access::ReadOnly { " (read-only)" } else { "" }),
            "one directory for the guest, mounted from its descriptor into an empty root".into(),
        ),
        Op::OpenShmem { slot, name, size, selinux_label } => (
            format!(
                "{slot} {name}, {size} bytes{}",
                selinux_label.as_ref().map_or_else(String::new, |l| format!(", {l}"))
            ),
            "memory of every domain that names it, in a directory that only root may enter".into(),
        ),
        Op::Meeting { slot, peer } => (
            format!("{slot} to {peer}"),
            "the helper accepts one connection; the listener has no name".into(),
        ),
        Op::SpawnVirtiofsd(spawn) => (
            format!(
                "{} as uid {} on {} with {}: {}{}",
                spawn.alias,
                spawn.uid,
                spawn.slot,
                spawn.share,
                spawn.program,
                spawn.selinux_label.as_ref().map_or_else(String::new, |label| format!(", {label}"))
            ),
            "the guest talks to it, so it sees the directory and nothing else, as nobody of the host".into(),
        ),
        Op::Spawn(spawn) => (
            format!(
                "{} as uid {}, supervisor as uid {}",
                spawn.program, spawn.confinement.uid, spawn.supervisor.uid
            ),
            "what follows below holds it before its first instruction".into(),
        ),
    }
}

fn role_name(role: UidRole) -> &'static str {
    match role {
        UidRole::Domain => "the device model",
        UidRole::Helper => "a helper",
        UidRole::Supervisor => "the supervisor",
    }
}

fn lease_reason(role: UidRole) -> &'static str {
    match role {
        UidRole::Domain => "no other process of the host has this uid, so none can signal, trace or read it",
        UidRole::Helper => "a helper that is taken over reaches neither the device model nor its files",
        UidRole::Supervisor => "the device model cannot signal or trace the process that watches it",
    }
}

/// What is shared, and why under a pair of its own.
fn shared(identity: &ShareIdentity) -> (String, &'static str) {
    match identity {
        ShareIdentity::Object(FileIdentity { device, inode }) => (
            format!("{device}:{inode}"),
            "the image's own pair: domains that do not declare it shareable never have it",
        ),
        ShareIdentity::Memory { memory } => {
            (format!("memory {memory}"), "the memory's own pair: domains that do not name it never have it")
        }
    }
}

fn image_reason(image: &OpenImage) -> String {
    let mut parts = image.slot.as_str().splitn(3, ':').skip(1);
    let target = parts.next().unwrap_or_default();
    let depth = parts.next().unwrap_or_default();
    let layer = if depth == "0" { "the image".to_owned() } else { format!("backing layer {depth}") };
    let access = match image.access {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "read-write",
    };
    let sharing = match image.sharing {
        Sharing::Exclusive => "locked against everybody",
        Sharing::Readers => "locked against writers",
        Sharing::Writers => "locked against those that did not declare it shareable",
    };
    let direct = if image.direct { ", past the page cache" } else { "" };
    format!("{layer} of disk {target}, {access}{direct}, {sharing}")
}

fn readable_reason(slot: &str) -> &'static str {
    match slot {
        "firmware:code" => "the firmware's code, which QEMU gets as a descriptor that cannot write",
        "firmware:template" => "only the labeller reads it, where the domain has no variables yet",
        _ => "QEMU opens boot files by name: its root shows this one file, read-only",
    }
}

fn label_reason(label: &str) -> &'static str {
    match label.matches(':').count() {
        0..=3 => "several domains may reach it",
        _ => "only who has these categories reaches it",
    }
}

fn channel_reason(slot: &str) -> &'static str {
    if slot == "monitor" {
        "only the supervisor speaks QMP"
    } else if slot.starts_with("net") {
        "QEMU's packets go to its helper over one connected socket"
    } else {
        "the port's bytes go to the supervisor over one connected socket"
    }
}

fn address(at: &ListenAt) -> String {
    match at {
        ListenAt::Control => "the domain's control socket".into(),
        ListenAt::Tcp { address, port, port_last } if port == port_last => {
            format!("{}", std::net::SocketAddr::new(*address, *port))
        }
        ListenAt::Tcp { address, port, port_last } => {
            format!("{} or the next free port up to {port_last}", std::net::SocketAddr::new(*address, *port))
        }
        ListenAt::Unix { path } => path.clone(),
    }
}

fn cgroup(limits: &CgroupLimits) -> String {
    let devices: Vec<&str> = limits.devices.iter().map(|node| device(*node)).collect();
    let cpus: Vec<String> = limits.cpus.iter().map(ToString::to_string).collect();
    format!(
        "memory {} MiB, {} threads, devices {}{}{}{}",
        limits.memory_max >> 20,
        limits.pids_max,
        devices.join(" "),
        if cpus.is_empty() { "" } else { ", CPUs " },
        cpus.join(","),
        processor(limits)
    )
}

/// What the definition asks of the host's processors and disks.
fn processor(limits: &CgroupLimits) -> String {
    let shares = limits.tuning.shares.map(|shares| format!(", {shares} shares"));
    let most = limits.cpu_max.map(|max| format!(", {} µs of every {}", max.quota, max.period));
    let weight = limits.tuning.io_weight.map(|weight| format!(", weight {weight} at the disks"));
    shares.into_iter().chain(most).chain(weight).collect()
}

fn device(node: DeviceNode) -> &'static str {
    match node {
        DeviceNode::Kvm => "/dev/kvm",
        DeviceNode::Null => "/dev/null",
        DeviceNode::Urandom => "/dev/urandom",
    }
}

fn render_spawn(out: &mut String, spawn: &Spawn) -> std::fmt::Result {
    writeln!(out, "\nwhat holds the device model")?;
    render_confinement(out, &spawn.confinement)?;
    writeln!(out, "\nthe supervisor")?;
    render_supervisor(out, &spawn.supervisor)?;
    writeln!(out, "\ndescriptors that QEMU inherits")?;
    for grant in &spawn.fds {
        writeln!(out, "  {:>4}  {}", grant.number, grant.slot)?;
    }
    writeln!(out, "\nits arguments")?;
    let mut line = String::new();
    for argument in &spawn.argv {
        // An option starts a line; its value follows on the same one.
        if argument.starts_with('-') && !line.is_empty() {
            writeln!(out, "  {line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&quoted(argument));
    }
    writeln!(out, "  {line}")
}

/// As a shell would need it.
fn quoted(argument: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=,./:+@%".contains(&b);
    if !argument.is_empty() && argument.bytes().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn render_confinement(out: &mut String, c: &Confinement) -> std::fmt::Result {
    let groups = match c.groups.first() {
        Some(group) => format!("group {group} for /dev/kvm"),
        None => "no supplementary groups".to_owned(),
    };
    writeln!(out, "  ids            uid {} gid {}, {groups}", c.uid, c.gid)?;
    writeln!(out, "  capabilities   none: effective, permitted, inheritable, bounding, ambient")?;
    writeln!(out, "  no_new_privs   set")?;
    writeln!(out, "  namespaces     pid ipc uts net mount cgroup, each its own")?;
    writeln!(out, "  SELinux        {}", c.selinux_exec.as_deref().unwrap_or("no label"))?;
    let shmems = c.root.shmems.iter().map(|one| format!("{} ({})", RootShmem::path(one.number), one.slot));
    let files = c.root.files.iter().map(|file| format!("{} ({})", file.place.path(), file.slot));
    let files: Vec<String> = files.chain(shmems).collect();
    let devices: Vec<&str> = c.root.devices.iter().map(|node| device(*node)).collect();
    writeln!(
        out,
        "  root           prepared, read-only; files: {}; devices: {}",
        listed(&files),
        devices.join(" ")
    )?;
    writeln!(out, "  Landlock       every right of ABI {} handled; given back:", c.landlock.abi)?;
    for rule in &c.landlock.rules {
        let access: Vec<&str> = rule.access.iter().map(|access| landlock(*access)).collect();
        writeln!(out, "                   {} {}", rule.path, access.join(" "))?;
    }
    for layer in landlock_missing(c.landlock.abi, NEWEST_LANDLOCK) {
        writeln!(out, "                   lacks {layer}")?;
    }
    let limits: Vec<String> = c
        .rlimits
        .iter()
        .map(|limit| {
            format!(
                "{} {}",
                rlimit(limit.resource),
                limit.value.map_or("unlimited".into(), |v| v.to_string())
            )
        })
        .collect();
    writeln!(out, "  rlimits        {}", listed(&limits))?;
    writeln!(out, "  seccomp        allow-list, {} instructions, with the launch gate", c.seccomp.0.len())
}

fn render_supervisor(out: &mut String, s: &SupervisorSpec) -> std::fmt::Result {
    writeln!(out, "  ids            uid {} gid {}, no capabilities, not dumpable", s.uid, s.uid)?;
    writeln!(out, "  SELinux        {}", s.selinux_label.as_deref().unwrap_or("no label"))?;
    writeln!(out, "  seccomp        {} instructions", s.seccomp.0.len())?;
    let clients: Vec<String> = s.clients.iter().map(ToString::to_string).collect();
    writeln!(out, "  clients        root, {}", clients.join(", "))?;
    let fds: Vec<String> = s.fds.iter().map(|grant| format!("{} {}", grant.number, grant.slot)).collect();
    writeln!(out, "  descriptors    {}", fds.join(", "))?;
    let l = &s.lifecycle;
    writeln!(
        out,
        "  lifecycle      power-off {}, reboot {}, crash {}{}",
        action(l.on_poweroff),
        action(l.on_reboot),
        action(l.on_crash),
        if s.start_paused { "; starts paused" } else { "" }
    )?;
    for throttle in &s.throttles {
        let limits = DISK_LIMITS.iter().zip(throttle.tuning.limits).filter(|(_, limit)| *limit > 0);
        let limits: Vec<String> = limits.map(|((name, _), limit)| format!("{name} {limit}")).collect();
        writeln!(out, "  limits         {}: {}", throttle.device, limits.join(", "))?;
    }
    if let Some(bytes) = s.balloon {
        writeln!(out, "  balloon        {bytes} bytes from the beginning")?;
    }
    if !s.links_down.is_empty() {
        writeln!(out, "  links down     {} from the beginning", s.links_down.join(", "))?;
    }
    Ok(())
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

fn action(action: LifecycleAction) -> &'static str {
    match action {
        LifecycleAction::Destroy => "destroy",
        LifecycleAction::Preserve => "preserve",
        LifecycleAction::Restart => "restart",
    }
}

fn landlock(access: LandlockAccess) -> &'static str {
    match access {
        LandlockAccess::Execute => "execute",
        LandlockAccess::IoctlDev => "ioctl-dev",
        LandlockAccess::Names => "names",
        LandlockAccess::ReadDir => "read-dir",
        LandlockAccess::ReadFile => "read-file",
        LandlockAccess::WriteFile => "write-file",
    }
}

fn rlimit(kind: RlimitKind) -> &'static str {
    match kind {
        RlimitKind::Core => "core",
        RlimitKind::Fsize => "fsize",
        RlimitKind::Memlock => "memlock",
        RlimitKind::Msgqueue => "msgqueue",
        RlimitKind::Nofile => "nofile",
        RlimitKind::Nproc => "nproc",
    }
}
