//! Machine, CPU, memory, clock, boot and monitor.

use super::{Args, Guest, Object};
use crate::conf::domain::{
    Boot, ClockOffset, Cpu, CpuMode, Domain, FwCfgSource, TickPolicy, TimerName, VirtType,
};
use crate::plan::firmware::Flash;
use crate::plan::{PlanError, slots};
use crate::privsep::confinement::RootPlace;
use crate::privsep::supervisor::Lifecycle;

/// What kind of board a machine type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Board {
    I440fx,
    Q35,
}

pub(super) fn board(machine: &str) -> Result<Board, PlanError> {
    let known =
        |prefix: &str| machine == prefix || machine.strip_prefix(prefix).is_some_and(|v| v.starts_with('-'));
    if plain(machine) {
        if machine == "q35" || known("pc-q35") {
            return Ok(Board::Q35);
        }
        if machine == "pc" || known("pc-i440fx") {
            return Ok(Board::I440fx);
        }
    }
    Err(PlanError::definition(
        format!("machine type {machine:?}"),
        "only q35 and pc (i440fx) machines run",
        "write <type machine='q35'>",
    ))
}

/// Whether a name can stand in an option without meaning anything else.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(super) fn add(args: &mut Args, guest: &Guest<'_>) -> Result<(), PlanError> {
    let domain = guest.domain;
    let name = domain.name.as_str().replace(',', ",,");
    // Its threads have names then, by which those of virtual CPUs are found.
    args.pair("-name", format!("guest={name},debug-threads=on"));
    args.flag("-S");
    if guest.incoming {
        // The supervisor says when, and from which descriptor.
        args.fd(slots::saved()?);
        args.pair("-incoming", "defer");
    }
    args.pair("-machine", machine(domain, guest.flash, guest.dump)?);
    pflash(args, guest)?;
    args.pair("-accel", if domain.virt == VirtType::Kvm { "kvm" } else { "tcg" });
    if let Some(cpu) = cpu(domain)? {
        args.pair("-cpu", cpu);
    }
    args.pair("-m", format!("size={}k", domain.memory.div_ceil(1024)));
    memory(args, domain);
    args.pair("-smp", smp(domain));
    args.pair("-uuid", guest.uuid.to_string());
    args.pair("-display", "none");
    args.flag("-no-user-config");
    args.flag("-nodefaults");
    let monitor = args.fd(slots::monitor()?);
    args.pair("-chardev", format!("socket,id=charmonitor,fd={monitor}"));
    args.pair("-mon", "chardev=charmonitor,id=monitor,mode=control");
    clock(args, domain)?;
    sleep_states(args, domain)?;
    args.pair("-action", lifecycle(domain));
    args.pair("-boot", boot(domain));
    if let Boot::Kernel { initrd, cmdline, dtb, .. } = &domain.os.boot {
        args.pair("-kernel", RootPlace::Kernel.path());
        if initrd.is_some() {
            args.pair("-initrd", RootPlace::Initrd.path());
        }
        if let Some(cmdline) = cmdline {
            args.pair("-append", cmdline.clone());
        }
        if dtb.is_some() {
            args.pair("-dtb", RootPlace::Dtb.path());
        }
    }
    fw_cfg(args, domain);
    smbios(args, domain);
    if let Some(vnc) = domain.devices.vncs.first() {
        // The supervisor listens and hands each connection in. Until it has told the password, nobody gets in.
        args.pair("-vnc", if vnc.password.is_some() { "none,password=on" } else { "none" });
    }
    if let Some(spice) = &domain.devices.spice {
        // The same; a ticket is SPICE's word for a password.
        let ticketing = if spice.password.is_some() { "off" } else { "on" };
        let options = spice.options.iter().map(|(name, value)| format!(",{name}={value}"));
        args.pair("-spice", format!("disable-ticketing={ticketing}{}", options.collect::<String>()));
    }
    args.pair("-msg", "timestamp=on");
    Ok(())
}

/// What the guest's firmware finds by name: texts as they are, files where they are mounted.
fn fw_cfg(args: &mut Args, domain: &Domain) {
    let mut files = 0;
    for entry in &domain.fw_cfg {
        let name = entry.name.replace(',', ",,");
        let source = match &entry.source {
            FwCfgSource::Text(text) => format!("string={}", text.replace(',', ",,")),
            FwCfgSource::File(_) => {
                let Some(place) = RootPlace::fw_cfg(files) else { continue };
                files += 1;
                format!("file={}", place.path())
            }
        };
        args.pair("-fw_cfg", format!("name={name},{source}"));
    }
}

/// What the guest's firmware says of the machine.
fn smbios(args: &mut Args, domain: &Domain) {
    for table in &domain.smbios {
        let values = table.values.iter().map(|(name, text)| format!(",{name}={}", text.replace(',', ",,")));
        args.pair("-smbios", format!("type={}{}", table.number, values.collect::<String>()));
    }
}

/// The guest's memory: one object, or one for each of its nodes.
fn memory(args: &mut Args, domain: &Domain) {
    let backing = &domain.memory_backing;
    if domain.cpu.numa.is_empty() {
        args.json(
            "-object",
            memory_object(domain, "pc.ram", domain.memory.div_ceil(1024) * 1024, backing.shared),
        );
    }
    for (node, cell) in domain.cpu.numa.iter().enumerate() {
        let id = format!("ram-node{node}");
        args.json("-object", memory_object(domain, &id, cell.memory, cell.is_shared(backing)));
        let cpus: String = cell.cpus.iter().map(|cpu| format!(",cpus={cpu}")).collect();
        args.pair("-numa", format!("node,nodeid={node}{cpus},memdev={id}"));
    }
    for (node, cell) in domain.cpu.numa.iter().enumerate() {
        for (other, far) in &cell.distances {
            args.pair("-numa", format!("dist,src={node},dst={other},val={far}"));
        }
    }
    if backing.locked {
        args.pair("-overcommit", "mem-lock=on");
    }
}

fn memory_object(domain: &Domain, id: &str, size: u64, shared: bool) -> Object {
    let backing = &domain.memory_backing;
    let descriptor = shared || backing.has_descriptor();
    let kind = if descriptor { "memory-backend-memfd" } else { "memory-backend-ram" };
    Object::new("qom-type", kind)
        .with("id", id)
        .with("size", size)
        // QEMU shares a memfd unless it is told not to.
        .maybe("share", descriptor.then_some(shared))
        .maybe("hugetlb", backing.hugepages.map(|_| true))
        .maybe("hugetlbsize", backing.hugepages.and_then(|pages| pages.size))
        .maybe("prealloc", backing.immediate.then_some(true))
        .maybe("prealloc-threads", backing.threads.filter(|_| backing.immediate))
}

/// The firmware's code, which is only read, and its variables.
fn pflash(args: &mut Args, guest: &Guest<'_>) -> Result<(), PlanError> {
    let Some(flash) = guest.flash else { return Ok(()) };
    for (part, name, readonly) in [("code", "pflash0", true), ("nvram", "pflash1", false)] {
        let file = args.fdset(slots::firmware(part)?);
        let storage = format!("{name}-storage");
        let object = Object::new("driver", "file")
            .with("node-name", storage.clone())
            .with("filename", file)
            .with("locking", "off")
            .with("read-only", readonly);
        args.json("-blockdev", object);
        let object = Object::new("driver", "raw")
            .with("node-name", format!("{name}-format"))
            .with("read-only", readonly)
            .with("file", storage);
        args.json("-blockdev", object);
    }
    if flash.secure {
        // Without it code outside of system management mode could write the variables that hold the keys.
        args.pair("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    Ok(())
}

/// `<pm>`: the firmware's tables name a sleep state unless they are told not to.
fn sleep_states(args: &mut Args, domain: &Domain) -> Result<(), PlanError> {
    let bridge = match board(&domain.os.machine)? {
        Board::Q35 => "ICH9-LPC",
        Board::I440fx => "PIIX4_PM",
    };
    for (state, enabled) in [("s3", domain.pm.suspend_to_mem), ("s4", domain.pm.suspend_to_disk)] {
        if let Some(enabled) = enabled {
            args.pair("-global", format!("{bridge}.disable_{state}={}", u8::from(!enabled)));
        }
    }
    Ok(())
}

fn machine(domain: &Domain, flash: Option<&Flash>, dump: bool) -> Result<String, PlanError> {
    board(&domain.os.machine)?;
    let on = |value: bool| if value { "on" } else { "off" };
    let mut text = format!("{},usb=off,dump-guest-core={}", domain.os.machine, on(dump));
    if domain.cpu.numa.is_empty() {
        text.push_str(",memory-backend=pc.ram");
    }
    text.push_str(&format!(",acpi={}", on(domain.features.acpi)));
    if domain.memory_backing.no_merge {
        text.push_str(",mem-merge=off");
    }
    if let Some(smm) = domain.features.smm.or(flash.filter(|flash| flash.secure).map(|_| true)) {
        text.push_str(&format!(",smm={}", on(smm)));
    }
    if flash.is_some() {
        text.push_str(",pflash0=pflash0-format,pflash1=pflash1-format");
    }
    if let Some(vmport) = domain.features.vmport {
        text.push_str(&format!(",vmport={}", on(vmport)));
    }
    for timer in &domain.clock.timers {
        match (timer.name, timer.present) {
            (TimerName::Hpet, Some(present)) => text.push_str(&format!(",hpet={}", on(present))),
            (TimerName::Pit, Some(present)) => text.push_str(&format!(",pit={}", on(present))),
            (TimerName::Rtc, Some(false)) => {
                return Err(PlanError::definition(
                    "timer rtc",
                    "an x86 guest always has a real-time clock",
                    "remove present='no'",
                ));
            }
            _ => {}
        }
    }
    Ok(text)
}

fn cpu(domain: &Domain) -> Result<Option<String>, PlanError> {
    let Cpu { mode, features, .. } = &domain.cpu;
    let kvm = domain.virt == VirtType::Kvm;
    let kvmclock = domain.clock.timers.iter().find(|t| t.name == TimerName::Kvmclock).and_then(|t| t.present);
    let mut text = match mode {
        CpuMode::Custom(model) if plain(model) => model.clone(),
        CpuMode::Custom(model) => {
            return Err(PlanError::definition(
                format!("CPU model {model:?}"),
                "it is no name of a CPU model",
                "qemu-system-x86_64 -cpu help lists them",
            ));
        }
        CpuMode::Default if features.is_empty() && kvmclock.is_none() => return Ok(None),
        CpuMode::Default => "qemu64".into(),
        CpuMode::HostModel | CpuMode::HostPassthrough if kvm => "host".into(),
        CpuMode::HostPassthrough => {
            return Err(PlanError::definition(
                "<cpu mode='host-passthrough'>",
                "an emulated CPU cannot be the host's",
                "write mode='maximum', or type='kvm' on a host with KVM",
            ));
        }
        CpuMode::HostModel | CpuMode::Maximum => "max".into(),
    };
    for (name, on) in features {
        if !plain(name) {
            return Err(PlanError::definition(
                format!("CPU feature {name:?}"),
                "it is no name of a CPU feature",
                "qemu-system-x86_64 -cpu help lists them",
            ));
        }
        text.push_str(&format!(",{name}={}", if *on { "on" } else { "off" }));
    }
    if let Some(present) = kvmclock {
        text.push_str(if present { ",kvmclock=on" } else { ",kvmclock=off" });
    }
    Ok(Some(text))
}

fn smp(domain: &Domain) -> String {
    let n = domain.vcpus;
    let count = domain.current_vcpus.map_or_else(|| n.to_string(), |now| format!("{now},maxcpus={n}"));
    match domain.cpu.topology {
        Some(t) => {
            format!("{count},sockets={},dies={},cores={},threads={}", t.sockets, t.dies, t.cores, t.threads)
        }
        None => format!("{count},sockets={n},cores=1,threads=1"),
    }
}

fn clock(args: &mut Args, domain: &Domain) -> Result<(), PlanError> {
    let policy = |name| domain.clock.timers.iter().find(|t| t.name == name).and_then(|t| t.tickpolicy);
    let base = match domain.clock.offset {
        ClockOffset::Localtime => "localtime",
        ClockOffset::Utc => "utc",
    };
    let refuse = |timer: &str| {
        Err(PlanError::definition(
            format!("timer {timer}"),
            "QEMU has no such tick policy for it",
            "remove its tickpolicy",
        ))
    };
    match policy(TimerName::Rtc) {
        Some(TickPolicy::Catchup) => args.pair("-rtc", format!("base={base},driftfix=slew")),
        Some(TickPolicy::Discard) => return refuse("rtc"),
        Some(TickPolicy::Delay) | None => args.pair("-rtc", format!("base={base}")),
    }
    // Only KVM's own PIT can be told; the emulated one always delivers late, at the normal rate.
    match policy(TimerName::Pit) {
        Some(TickPolicy::Delay) if domain.virt == VirtType::Kvm => {
            args.pair("-global", "kvm-pit.lost_tick_policy=delay")
        }
        Some(TickPolicy::Discard) if domain.virt == VirtType::Kvm => {
            args.pair("-global", "kvm-pit.lost_tick_policy=discard")
        }
        Some(TickPolicy::Delay) | None => {}
        Some(_) => return refuse("pit"),
    }
    if policy(TimerName::Hpet).is_some() || policy(TimerName::Kvmclock).is_some() {
        return refuse("hpet or kvmclock");
    }
    Ok(())
}

fn boot(domain: &Domain) -> String {
    let Some(menu) = domain.os.menu else { return "menu=off,strict=on".into() };
    let time = menu.timeout.map(|time| format!("splash-time={time},")).unwrap_or_default();
    format!("menu=on,{time}strict=on")
}

fn lifecycle(domain: &Domain) -> String {
    let Domain { on_poweroff, on_reboot, on_crash, .. } = *domain;
    let actions = Lifecycle { on_poweroff, on_reboot, on_crash }.actions();
    actions.map(|(event, action)| format!("{event}={action}")).join(",")
}
