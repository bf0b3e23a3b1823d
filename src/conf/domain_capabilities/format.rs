//! Values to XML, in libvirt's order.

use super::{CpuModes, Device, DomainCapabilities};
use crate::conf::xml::write::Writer;

/// What libvirt lists and svirt does not run in this version.
const FEATURES: [(&str, bool); 6] = [
    ("gic", false),
    ("vmcoreinfo", true),
    ("genid", false),
    ("backingStoreInput", true),
    ("backup", false),
    ("sev", false),
];

pub(super) fn domain_capabilities(all: &DomainCapabilities) -> String {
    let mut w = Writer::new();
    w.within("domainCapabilities", &[], |w| {
        w.text("path", &[], &all.path);
        w.text("domain", &[], &all.domain);
        w.text("machine", &[], &all.machine);
        w.text("arch", &[], &all.arch);
        w.empty("vcpu", &[("max", &all.max_vcpus)]);
        w.empty("iothreads", &[("supported", &"no")]);
        w.within("os", &[("supported", &"yes")], |w| {
            firmware(w, &all.firmwares);
        });
        cpu(w, &all.cpu, all.domain == "kvm");
        w.within("memoryBacking", &[("supported", &"yes")], |w| {
            enumeration(w, "sourceType", &["anonymous", "memfd"]);
        });
        w.within("devices", &[], |w| {
            for one in &all.devices {
                device(w, one);
            }
        });
        w.within("features", &[], |w| {
            for (name, supported) in FEATURES {
                w.empty(name, &[("supported", &yes_no(supported))]);
            }
        });
    });
    w.finish()
}

/// Firmware is found by the host's descriptions, or named as read-only flash memory.
fn firmware(w: &mut Writer, paths: &[String]) {
    if paths.is_empty() {
        w.empty("enum", &[("name", &"firmware")]);
        w.empty("loader", &[("supported", &"no")]);
        return;
    }
    enumeration(w, "firmware", &["efi"]);
    w.within("loader", &[("supported", &"yes")], |w| {
        for path in paths {
            w.text("value", &[], path);
        }
        enumeration(w, "type", &["pflash"]);
        enumeration(w, "readonly", &["yes"]);
    });
}

fn enumeration(w: &mut Writer, name: &str, values: &[&str]) {
    w.within("enum", &[("name", &name)], |w| {
        for value in values {
            w.text("value", &[], value);
        }
    });
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn cpu(w: &mut Writer, cpu: &CpuModes, kvm: bool) {
    w.within("cpu", &[], |w| {
        w.empty("mode", &[("name", &"host-passthrough"), ("supported", &yes_no(cpu.passthrough))]);
        w.empty("mode", &[("name", &"maximum"), ("supported", &"yes")]);
        let supported = !kvm || cpu.host_model.is_some();
        w.within("mode", &[("name", &"host-model"), ("supported", &yes_no(supported))], |w| {
            let Some(model) = &cpu.host_model else { return };
            w.text("model", &[("fallback", &"forbid")], &model.name);
            if let Some(vendor) = &cpu.host_vendor {
                w.text("vendor", &[], vendor);
            }
            for feature in &model.features {
                w.empty("feature", &[("policy", &"require"), ("name", feature)]);
            }
        });
        w.within("mode", &[("name", &"custom"), ("supported", &"yes")], |w| {
            for (model, usable) in &cpu.custom {
                let vendor = model.vendor.as_deref().unwrap_or("unknown");
                let mut attributes: Vec<(&str, &dyn std::fmt::Display)> = Vec::new();
                let word = yes_no(*usable);
                attributes.push(("usable", &word));
                if model.deprecated {
                    attributes.push(("deprecated", &"yes"));
                }
                attributes.push(("vendor", &vendor));
                w.text("model", &attributes, &model.name);
            }
        });
    });
}

fn device(w: &mut Writer, device: &Device) {
    w.within(device.kind, &[("supported", &yes_no(!device.enums.is_empty()))], |w| {
        for (name, values) in &device.enums {
            enumeration(w, name, values);
        }
    });
}
