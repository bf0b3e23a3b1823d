//! `<vcpu>`, `<os>`, `<features>`, `<cpu>` and `<clock>`.

use super::firmware::firmware;
use super::numa;
use super::scalar::{number, number_attribute, option_name, path_text};
use super::view::{Read, View};
use crate::conf::domain::{
    Boot, BootDevice, BootMenu, Clock, ClockOffset, Cpu, CpuMode, CpuTopology, Features, Os, PowerManagement,
    TickPolicy, Timer, TimerName,
};

/// The longest kernel command line that x86 Linux takes, in bytes.
const CMDLINE_MAX: usize = 2048;

/// `<vcpu>`, 1 without one, and how many of them are there at the start where it is not all.
pub(super) fn vcpus(root: View<'_>) -> Read<(u32, Option<u32>)> {
    let Some(view) = root.one("vcpu")? else { return Ok((1, None)) };
    let text = view.leaf(&["cpuset", "current", "placement"])?;
    view.fixed("placement", &["static"])?;
    let vcpus = number::<u32>(&text).filter(|vcpus| *vcpus > 0);
    let vcpus = vcpus.ok_or_else(|| view.value("<vcpu>", &text, "a number of at least 1"))?;
    match number_attribute::<u32>(view, "current", 1)? {
        Some(current) if current > vcpus => Err(view.contradiction(
            format!("maxvcpus must not be less than current vcpus ({vcpus} < {current})"),
            "lower current, or raise the number of <vcpu>",
        )),
        current => Ok((vcpus, current.filter(|current| *current < vcpus))),
    }
}

/// `<os>`, and whether it has a `<boot dev>`.
pub(super) fn os(root: View<'_>) -> Read<(Os, bool)> {
    let view = root.one("os")?.ok_or_else(|| root.missing("<os>"))?;
    let children = [
        "boot", "bootmenu", "cmdline", "dtb", "firmware", "initrd", "kernel", "loader", "nvram", "smbios",
        "type",
    ];
    view.only(&["firmware"], &children)?;
    let machine = machine(view)?;
    let devices = boot_devices(view)?;
    let given = !devices.is_empty();
    let boot = match view.one("kernel")? {
        Some(kernel) => direct(view, kernel)?,
        None => {
            for name in ["initrd", "cmdline", "dtb"] {
                if let Some(stray) = view.one(name)? {
                    let what = format!("{} needs a <kernel>", stray.tag());
                    return Err(stray.contradiction(what, "add the <kernel>, or remove it"));
                }
            }
            Boot::Devices(devices)
        }
    };
    Ok((Os { machine, boot, menu: menu(view)?, firmware: firmware(view)? }, given))
}

/// `<bootmenu>`; a time without a menu would mean nothing.
fn menu(os: View<'_>) -> Read<Option<BootMenu>> {
    let Some(view) = os.one("bootmenu")? else { return Ok(None) };
    view.only(&["enable", "timeout"], &[])?;
    if view.switch("enable", "yes", "no")? != Some(true) {
        view.only(&["enable"], &[])?;
        return Ok(None);
    }
    let milliseconds = |text| {
        let wrong = || view.value("attribute timeout of <bootmenu>", text, "milliseconds, 0 to 65535");
        number::<u16>(text).ok_or_else(wrong)
    };
    Ok(Some(BootMenu { timeout: view.attribute("timeout").map(milliseconds).transpose()? }))
}

fn direct(os: View<'_>, kernel: View<'_>) -> Read<Boot> {
    let cmdline = match os.one("cmdline")? {
        None => None,
        Some(view) => {
            let text = view.leaf(&[])?;
            if text.len() >= CMDLINE_MAX || text.chars().any(char::is_control) {
                return Err(view.value("<cmdline>", &text, "one line of less than 2048 bytes"));
            }
            Some(text.into_owned())
        }
    };
    Ok(Boot::Kernel {
        kernel: path_text(kernel)?,
        initrd: os.one("initrd")?.map(path_text).transpose()?,
        cmdline,
        dtb: os.one("dtb")?.map(path_text).transpose()?,
    })
}

fn machine(os: View<'_>) -> Read<String> {
    let view = os.one("type")?.ok_or_else(|| os.missing("<type> of <os>"))?;
    let text = view.leaf(&["arch", "machine"])?;
    if text != "hvm" {
        let what = format!("<type> '{}'", crate::conf::error::clip(&text));
        return Err(view.unsupported_among(what, ["hvm"].into_iter()));
    }
    view.fixed("arch", &["x86_64"])?;
    let Some(machine) = view.attribute("machine") else { return Ok("pc".to_owned()) };
    let machine = option_name(view, "attribute machine of <type>", machine)?;
    let known = ["q35", "pc"].contains(&machine.as_str())
        || ["pc-q35-", "pc-i440fx-"].iter().any(|family| machine.starts_with(family));
    if known {
        return Ok(machine);
    }
    let families = ["q35", "pc", "a version of pc-q35", "a version of pc-i440fx"];
    Err(view.unsupported_among(format!("machine '{machine}'"), families.into_iter()))
}

fn boot_devices(os: View<'_>) -> Read<Vec<BootDevice>> {
    let words = [("cdrom", BootDevice::Cdrom), ("hd", BootDevice::Hd), ("network", BootDevice::Network)];
    let mut devices = Vec::new();
    for view in os.all("boot") {
        view.only(&["dev"], &[])?;
        view.required("dev")?;
        let Some(device) = view.word("dev", &words)? else { continue };
        if devices.contains(&device) {
            return Err(view.contradiction("the same <boot dev> stands twice", "remove one of the two"));
        }
        devices.push(device);
    }
    Ok(devices)
}

/// `<features>`
pub(super) fn features(root: View<'_>) -> Read<Features> {
    let Some(view) = root.one("features")? else { return Ok(Features::default()) };
    view.only(&[], &["acpi", "apic", "pae", "smm", "vmcoreinfo", "vmport"])?;
    let state = |name: &str| -> Read<Option<bool>> {
        let Some(feature) = view.one(name)? else { return Ok(None) };
        feature.only(&["state"], &[])?;
        Ok(Some(feature.switch("state", "on", "off")?.unwrap_or(true)))
    };
    Ok(Features {
        acpi: view.flag("acpi")?,
        apic: view.flag("apic")?,
        pae: view.flag("pae")?,
        smm: state("smm")?,
        vmport: state("vmport")?,
        vmcoreinfo: state("vmcoreinfo")?.unwrap_or(false),
    })
}

/// `<cpu>`
pub(super) fn cpu(root: View<'_>, vcpus: u32) -> Read<Cpu> {
    let Some(view) = root.one("cpu")? else {
        return Ok(Cpu { mode: CpuMode::Default, topology: None, features: Vec::new(), numa: Vec::new() });
    };
    view.only(&["check", "match", "migratable", "mode"], &["feature", "model", "numa", "topology"])?;
    view.fixed("match", &["exact"])?;
    let mode = cpu_mode(view)?;
    match mode {
        // A named model is not compared with the host beforehand.
        CpuMode::Custom(_) | CpuMode::Default => view.fixed("check", &["none"])?,
        _ => view.fixed("check", &["none", "partial"])?,
    }
    if view.attribute("migratable").is_some() {
        if !matches!(mode, CpuMode::HostPassthrough | CpuMode::Maximum) {
            return Err(view.unsupported("attribute migratable of <cpu> in this mode"));
        }
        view.fixed("migratable", &["on"])?;
    }
    let features = cpu_features(view)?;
    if mode == CpuMode::Default && !features.is_empty() {
        return Err(view.contradiction("a <feature> needs a CPU model or mode", "add a <model>"));
    }
    Ok(Cpu { mode, topology: topology(view, vcpus)?, features, numa: numa::cells(view, vcpus)? })
}

fn cpu_mode(cpu: View<'_>) -> Read<CpuMode> {
    let model = cpu.one("model")?;
    let named = match model {
        None => None,
        Some(view) => {
            let text = view.leaf(&["fallback"])?;
            view.fixed("fallback", &["allow", "forbid"])?;
            if text.trim().is_empty() { None } else { Some(option_name(view, "<model>", text.trim())?) }
        }
    };
    let words = [
        ("custom", CpuModeWord::Custom),
        ("host-model", CpuModeWord::HostModel),
        ("host-passthrough", CpuModeWord::HostPassthrough),
        ("maximum", CpuModeWord::Maximum),
    ];
    let mode = match (cpu.word("mode", &words)?, named.is_some()) {
        (None | Some(CpuModeWord::Custom), true) => return Ok(CpuMode::Custom(named.unwrap_or_default())),
        (Some(CpuModeWord::Custom), false) => return Err(cpu.missing("<model> of <cpu mode='custom'>")),
        (None, false) => return Ok(CpuMode::Default),
        (Some(CpuModeWord::HostModel), _) => CpuMode::HostModel,
        (Some(CpuModeWord::HostPassthrough), _) => CpuMode::HostPassthrough,
        (Some(CpuModeWord::Maximum), _) => CpuMode::Maximum,
    };
    match model.filter(|_| named.is_some()) {
        Some(model) => Err(model.contradiction(
            "a <model> stands beside a mode that takes the host's",
            "remove the <model>, or use mode='custom'",
        )),
        None => Ok(mode),
    }
}

/// The words of `<cpu mode>`.
#[derive(Clone, Copy)]
enum CpuModeWord {
    Custom,
    HostModel,
    HostPassthrough,
    Maximum,
}

fn topology(cpu: View<'_>, vcpus: u32) -> Read<Option<CpuTopology>> {
    let Some(view) = cpu.one("topology")? else { return Ok(None) };
    view.only(&["clusters", "cores", "dies", "sockets", "threads"], &[])?;
    view.fixed("clusters", &["1"])?;
    let count = |name: &str| -> Read<u32> {
        view.required(name)?;
        Ok(number_attribute(view, name, 1)?.unwrap_or(1))
    };
    let topology = CpuTopology {
        sockets: count("sockets")?,
        dies: number_attribute(view, "dies", 1)?.unwrap_or(1),
        cores: count("cores")?,
        threads: count("threads")?,
    };
    let product = [topology.dies, topology.cores, topology.threads]
        .iter()
        .try_fold(topology.sockets, |product, factor| product.checked_mul(*factor));
    if product == Some(vcpus) {
        return Ok(Some(topology));
    }
    Err(view.contradiction(
        format!("sockets x dies x cores x threads of <topology> is not {vcpus}, the number of <vcpu>"),
        "change one of the two",
    ))
}

fn cpu_features(cpu: View<'_>) -> Read<Vec<(String, bool)>> {
    let words = [("disable", false), ("forbid", false), ("force", true), ("require", true)];
    let mut features: Vec<(String, bool)> = Vec::new();
    for view in cpu.all("feature") {
        view.only(&["name", "policy"], &[])?;
        let name = option_name(view, "attribute name of <feature>", view.required("name")?)?;
        let on = view.word("policy", &words)?.unwrap_or(true);
        if features.iter().any(|(other, _)| *other == name) {
            return Err(view.contradiction(format!("<feature> {name} stands twice"), "remove one of the two"));
        }
        features.push((name, on));
    }
    Ok(features)
}

/// `<clock>`
pub(super) fn clock(root: View<'_>) -> Read<Clock> {
    let Some(view) = root.one("clock")? else {
        return Ok(Clock { offset: ClockOffset::Utc, timers: Vec::new() });
    };
    view.only(&["offset"], &["timer"])?;
    let words = [("localtime", ClockOffset::Localtime), ("utc", ClockOffset::Utc)];
    let offset = view.word("offset", &words)?.unwrap_or(ClockOffset::Utc);
    let mut timers: Vec<Timer> = Vec::new();
    for element in view.all("timer") {
        let timer = timer(element)?;
        if timers.iter().any(|other| other.name == timer.name) {
            return Err(element.contradiction("the same <timer> stands twice", "remove one of the two"));
        }
        timers.push(timer);
    }
    Ok(Clock { offset, timers })
}

fn timer(view: View<'_>) -> Read<Timer> {
    view.only(&["name", "present", "tickpolicy"], &[])?;
    view.required("name")?;
    let names = [
        ("hpet", TimerName::Hpet),
        ("kvmclock", TimerName::Kvmclock),
        ("pit", TimerName::Pit),
        ("rtc", TimerName::Rtc),
    ];
    let name = view.word("name", &names)?.ok_or_else(|| view.missing("attribute name of <timer>"))?;
    let present = view.switch("present", "yes", "no")?;
    // Which policy which timer knows is QEMU's; see libvirt's qemuValidateDomainDefClockTimers.
    let policies: &[(&str, TickPolicy)] = match name {
        TimerName::Pit => &[("delay", TickPolicy::Delay), ("discard", TickPolicy::Discard)],
        TimerName::Rtc => &[("catchup", TickPolicy::Catchup), ("delay", TickPolicy::Delay)],
        TimerName::Hpet | TimerName::Kvmclock => &[],
    };
    if policies.is_empty() && view.attribute("tickpolicy").is_some() {
        return Err(view.unsupported("attribute tickpolicy of this <timer>"));
    }
    let tickpolicy = view.word("tickpolicy", policies)?;
    if present == Some(false) && matches!(name, TimerName::Pit | TimerName::Rtc) {
        return Err(view.unsupported("present='no' of this <timer>: the machine always has it"));
    }
    Ok(Timer { name, present, tickpolicy })
}

/// `<pm>`
pub(super) fn pm(root: View<'_>) -> Read<PowerManagement> {
    let Some(view) = root.one("pm")? else { return Ok(PowerManagement::default()) };
    view.only(&[], &["suspend-to-disk", "suspend-to-mem"])?;
    let state = |name: &str| -> Read<Option<bool>> {
        let Some(state) = view.one(name)? else { return Ok(None) };
        state.only(&["enabled"], &[])?;
        state.switch("enabled", "yes", "no")
    };
    Ok(PowerManagement {
        suspend_to_mem: state("suspend-to-mem")?,
        suspend_to_disk: state("suspend-to-disk")?,
    })
}
