//! Values to XML, in libvirt's order.

use super::{Capabilities, Cell, Confinement, Cpu, Guest, HOST_NAMESPACE, Host, SecurityModel, Suspend};
use crate::conf::xml::write::Writer;

pub(super) fn capabilities(all: &Capabilities) -> String {
    let mut w = Writer::new();
    w.within("capabilities", &[], |w| {
        host(w, &all.host);
        for one in &all.guests {
            guest(w, one);
        }
    });
    w.finish()
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn host(w: &mut Writer, host: &Host) {
    w.within("host", &[], |w| {
        if let Some(uuid) = host.uuid {
            w.text("uuid", &[], uuid);
        }
        cpu(w, &host.cpu);
        w.within("power_management", &[], |w| {
            for state in &host.suspend {
                let name = match state {
                    Suspend::Disk => "suspend_disk",
                    Suspend::Mem => "suspend_mem",
                };
                w.empty(name, &[]);
            }
        });
        w.empty("iommu", &[("support", &yes_no(host.iommu))]);
        if !host.cells.is_empty() {
            w.within("topology", &[], |w| {
                w.within("cells", &[("num", &host.cells.len())], |w| {
                    for one in &host.cells {
                        cell(w, one);
                    }
                });
            });
        }
        for model in &host.security {
            secmodel(w, model);
        }
        for model in &host.security {
            seclabel(w, model);
        }
        if let Some(known) = &host.confinement {
            confinement(w, known);
        }
    });
}

fn cpu(w: &mut Writer, cpu: &Cpu) {
    w.within("cpu", &[], |w| {
        w.text("arch", &[], &cpu.arch);
        if let Some(model) = &cpu.model {
            w.text("model", &[], model);
        }
        if let Some(vendor) = &cpu.vendor {
            w.text("vendor", &[], vendor);
        }
        if let Some(version) = cpu.microcode {
            w.empty("microcode", &[("version", &version)]);
        }
        if let Some((family, model, stepping)) = cpu.signature {
            w.empty("signature", &[("family", &family), ("model", &model), ("stepping", &stepping)]);
        }
        if let Some([sockets, dies, cores, threads]) = cpu.topology {
            let attributes: [(&str, &dyn std::fmt::Display); 4] =
                [("sockets", &sockets), ("dies", &dies), ("cores", &cores), ("threads", &threads)];
            w.empty("topology", &attributes);
        }
        if let Some(bits) = cpu.physical_bits {
            w.empty("maxphysaddr", &[("mode", &"emulate"), ("bits", &bits)]);
        }
        for feature in &cpu.features {
            w.empty("feature", &[("name", feature)]);
        }
        for size in &cpu.pages {
            w.empty("pages", &[("unit", &"KiB"), ("size", size)]);
        }
    });
}

fn cell(w: &mut Writer, cell: &Cell) {
    w.within("cell", &[("id", &cell.id)], |w| {
        w.text("memory", &[("unit", &"KiB")], cell.memory);
        for (size, count) in &cell.pages {
            w.text("pages", &[("unit", &"KiB"), ("size", size)], count);
        }
        if !cell.distances.is_empty() {
            w.within("distances", &[], |w| {
                for (id, value) in &cell.distances {
                    w.empty("sibling", &[("id", id), ("value", value)]);
                }
            });
        }
        w.within("cpus", &[("num", &cell.cpus.len())], |w| {
            for cpu in &cell.cpus {
                let attributes: [(&str, &dyn std::fmt::Display); 5] = [
                    ("id", &cpu.id),
                    ("socket_id", &cpu.socket),
                    ("die_id", &cpu.die),
                    ("core_id", &cpu.core),
                    ("siblings", &cpu.siblings),
                ];
                w.empty("cpu", &attributes);
            }
        });
    });
}

fn secmodel(w: &mut Writer, model: &SecurityModel) {
    w.within("secmodel", &[], |w| {
        w.text("model", &[], &model.model);
        w.text("doi", &[], model.dois.first().map_or("", String::as_str));
        for (kind, label) in &model.baselabels {
            w.text("baselabel", &[("type", kind)], label);
        }
    });
}

fn seclabel(w: &mut Writer, model: &SecurityModel) {
    w.within("seclabel", &[("model", &model.model)], |w| {
        for doi in &model.dois {
            w.text("doi", &[], doi);
        }
        w.text("enforcing", &[], yes_no(model.enforcing));
        if let Some(version) = model.policy_version {
            w.empty("policy", &[("version", &version)]);
        }
    });
}

fn confinement(w: &mut Writer, known: &Confinement) {
    w.within("svirt:confinement", &[("xmlns:svirt", &HOST_NAMESPACE)], |w| {
        w.empty("svirt:kernel", &[("release", &known.kernel)]);
        for lsm in &known.lsms {
            w.text("svirt:lsm", &[], lsm);
        }
        w.empty("svirt:landlock", &[("abi", &known.landlock_abi)]);
        w.within("svirt:seccomp", &[], |w| {
            for action in &known.seccomp {
                w.text("svirt:action", &[], action);
            }
        });
        match &known.kvm_failure {
            None => w.empty("svirt:kvm", &[("usable", &"yes")]),
            Some(why) => w.empty("svirt:kvm", &[("usable", &"no"), ("reason", why)]),
        }
    });
}

fn guest(w: &mut Writer, guest: &Guest) {
    w.within("guest", &[], |w| {
        w.text("os_type", &[], "hvm");
        w.within("arch", &[("name", &guest.arch)], |w| {
            w.text("wordsize", &[], guest.wordsize);
            w.text("emulator", &[], &guest.emulator);
            for machine in &guest.machines {
                let deprecated = ("deprecated", &"yes" as &dyn std::fmt::Display);
                let with =
                    |mut list: Vec<(&'static str, &dyn std::fmt::Display)>, w: &mut Writer, name: &str| {
                        list.extend(machine.deprecated.then_some(deprecated));
                        w.text("machine", &list, name);
                    };
                with(vec![("maxCpus", &machine.cpus)], w, &machine.name);
                if let Some(alias) = &machine.alias {
                    with(vec![("canonical", &machine.name), ("maxCpus", &machine.cpus)], w, alias);
                }
            }
            for kind in &guest.domains {
                w.empty("domain", &[("type", kind)]);
            }
        });
        w.within("features", &[], |w| {
            w.empty("acpi", &[("default", &"on"), ("toggle", &"yes")]);
            w.empty("apic", &[("default", &"on"), ("toggle", &"no")]);
            w.empty("cpuselection", &[]);
            w.empty("deviceboot", &[]);
        });
    });
}
