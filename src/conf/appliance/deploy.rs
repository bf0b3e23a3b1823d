//! The domain XML that an appliance becomes on a host that it fits.

use super::check::{bus, is_pc};
use super::{Appliance, Boot, Start, Verdict};
use crate::conf::definition::SVIRT_NAMESPACE;
use crate::conf::xml::write::Writer;

/// Writes the definition of one boot descriptor; `directory` holds the appliance's files.
#[must_use]
pub fn domain_xml(appliance: &Appliance, boot: &Boot, verdict: &Verdict, directory: &str) -> String {
    let path = |file: &str| format!("{}/{file}", directory.trim_end_matches('/'));
    let kind = verdict.domain.as_deref().unwrap_or("qemu");
    let mut w = Writer::new();
    w.within("domain", &[("type", &kind)], |w| {
        w.text("name", &[], appliance.name.as_str());
        if let Some(label) = &appliance.label {
            // One line, as libvirt wants a title.
            w.text("title", &[], label.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if let Some(description) = &appliance.description {
            w.text("description", &[], description);
        }
        bindings(w, verdict);
        w.text("memory", &[("unit", &"KiB")], appliance.memory);
        w.text("vcpu", &[], appliance.vcpus);
        w.within("os", &[], |w| {
            let machine = if is_pc(boot) { "pc" } else { "q35" };
            w.text("type", &[("arch", &"x86_64"), ("machine", &machine)], "hvm");
            match &boot.start {
                Start::Device(device) => w.empty("boot", &[("dev", device)]),
                Start::Kernel { kernel, initrd, cmdline } => {
                    w.text("kernel", &[], path(kernel));
                    if let Some(initrd) = initrd {
                        w.text("initrd", &[], path(initrd));
                    }
                    if let Some(cmdline) = cmdline {
                        w.text("cmdline", &[], cmdline);
                    }
                }
                Start::Program(_) => {}
            }
        });
        w.within("features", &[], |w| {
            w.empty("acpi", &[]);
            w.empty("apic", &[]);
            if boot.features.iter().any(|feature| feature == "pae") {
                w.empty("pae", &[]);
            }
        });
        w.within("devices", &[], |w| devices(w, appliance, boot, verdict, &path));
        labels(w, boot);
    });
    w.finish()
}

fn bindings(w: &mut Writer, verdict: &Verdict) {
    if verdict.bindings.is_empty() {
        return;
    }
    w.within("metadata", &[], |w| {
        w.within("svirt:domain", &[("xmlns:svirt", &SVIRT_NAMESPACE)], |w| {
            for (model, doi) in &verdict.bindings {
                w.empty("svirt:seclabel", &[("model", model), ("doi", doi)]);
            }
        });
    });
}

fn devices(
    w: &mut Writer,
    appliance: &Appliance,
    boot: &Boot,
    verdict: &Verdict,
    path: &dyn Fn(&str) -> String,
) {
    if let Some(emulator) = &verdict.emulator {
        w.text("emulator", &[], emulator);
    }
    for drive in &boot.drives {
        let (Some(disk), Some(bus)) = (appliance.storage.get(drive.disk), bus(&drive.target)) else {
            continue;
        };
        w.within("disk", &[("type", &"file"), ("device", &"disk")], |w| {
            w.empty("driver", &[("name", &"qemu"), ("type", &disk.format)]);
            w.empty("source", &[("file", &path(&disk.file))]);
            w.empty("target", &[("dev", &drive.target), ("bus", &bus)]);
        });
    }
    for _ in 0..appliance.interfaces {
        w.within("interface", &[("type", &"user")], |w| w.empty("model", &[("type", &"virtio")]));
    }
    w.empty("console", &[("type", &"pty")]);
    if appliance.graphics {
        w.empty("graphics", &[("type", &"vnc"), ("autoport", &"yes")]);
    }
}

/// A static label where the appliance has one, else one of the domain's own.
fn labels(w: &mut Writer, boot: &Boot) {
    for wanted in &boot.security {
        match &wanted.label {
            Some(label) => {
                let attributes: [(&str, &dyn std::fmt::Display); 3] =
                    [("type", &"static"), ("model", &wanted.model), ("relabel", &"yes")];
                w.within("seclabel", &attributes, |w| w.text("label", &[], label));
            }
            None => {
                w.empty("seclabel", &[("type", &"dynamic"), ("model", &wanted.model), ("relabel", &"yes")])
            }
        }
    }
}
