//! `<vcpu cpuset>`, the pins of `<cputune>`, and `<numatune>`.

use super::scalar::number_attribute;
use super::view::{Read, View};
use crate::conf::definition::cpus;
use crate::privsep::placement::{CPUS_MAX, MemoryMode, MemoryNodes, NODES_MAX, Pins, Placement};

/// All of them.
pub(super) fn placement(root: View<'_>) -> Read<Placement> {
    let mut pins = Pins::default();
    if let Some(vcpu) = root.one("vcpu")? {
        pins.all = set(vcpu, "cpuset", CPUS_MAX)?;
    }
    if let Some(cpu) = root.one("cputune")? {
        if let Some(emulator) = cpu.one("emulatorpin")? {
            emulator.only(&["cpuset"], &[])?;
            emulator.required("cpuset")?;
            pins.emulator = set(emulator, "cpuset", CPUS_MAX)?;
        }
        for pin in cpu.all("vcpupin") {
            pin.only(&["cpuset", "vcpu"], &[])?;
            pin.required("cpuset")?;
            pin.required("vcpu")?;
            if let (Some(vcpu), Some(cpus)) =
                (number_attribute::<u32>(pin, "vcpu", 0)?, set(pin, "cpuset", CPUS_MAX)?)
                && pins.vcpus.insert(vcpu, cpus).is_some()
            {
                let what = format!("<vcpupin> of the virtual CPU {vcpu} stands twice");
                return Err(pin.contradiction(what, "keep one of them"));
            }
        }
    }
    Ok(Placement { pins, memory: memory(root)? })
}

/// Numbers below `most`; none where the attribute is not there.
fn set(view: View<'_>, name: &str, most: u32) -> Read<Option<Vec<u32>>> {
    let Some(text) = view.attribute(name) else { return Ok(None) };
    let numbers = cpus(text, most);
    if numbers.is_empty() {
        let expected = format!("a set of numbers below {most}, such as 0-3,^2");
        return Err(view.value(format!("attribute {name} of {}", view.tag()), text, expected));
    }
    Ok(Some(numbers))
}

/// What is said of single cells of the guest's is not run.
fn memory(root: View<'_>) -> Read<Option<MemoryNodes>> {
    let Some(tune) = root.one("numatune")? else { return Ok(None) };
    tune.only(&[], &["memory"])?;
    let Some(memory) = tune.one("memory")? else { return Ok(None) };
    memory.only(&["mode", "nodeset", "placement"], &[])?;
    memory.fixed("placement", &["static"])?;
    let modes = [
        ("interleave", MemoryMode::Interleave),
        ("preferred", MemoryMode::Preferred),
        ("strict", MemoryMode::Strict),
    ];
    let mode = memory.word("mode", &modes)?.unwrap_or(MemoryMode::Strict);
    let Some(nodes) = set(memory, "nodeset", NODES_MAX)? else { return Ok(None) };
    if mode == MemoryMode::Preferred && nodes.len() != 1 {
        let what = "NUMA memory tuning in 'preferred' mode only supports single node";
        return Err(memory.contradiction(what, "name one node, or another mode"));
    }
    Ok(Some(MemoryNodes { mode, nodes }))
}
