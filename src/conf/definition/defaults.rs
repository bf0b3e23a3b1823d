//! What libvirt writes into a definition where it says nothing; `docs/domain-xml.md` lists it.
//!
//! Never fills in what depends on the host: emulator, versions of machine types, addresses, controllers.

use super::Warning;
use super::node::Node;
use crate::conf::DefinitionErrorKind;
use crate::conf::domain::target_place;

/// Fills in all of them.
pub(super) fn fill(root: &mut Node, warnings: &mut Vec<Warning>) {
    memory(root, warnings);
    processors(root);
    let test = root.attribute("type") == Some("test");
    system(root, test);
    let qemu = root.attribute("type").is_some_and(|kind| matches!(kind, "kvm" | "qemu"));
    if let Some(devices) = root.ensure("devices") {
        disks(devices, qemu);
        controllers(devices);
        serials(devices);
        for filesystem in devices.children_mut().filter(|child| child.name() == "filesystem") {
            if filesystem.attribute("type") == Some("mount") {
                filesystem.fill("accessmode", "passthrough");
            }
        }
        if qemu {
            interfaces(devices);
            displays(devices);
            machine_devices(devices);
        }
    }
}

/// What a NUMA cell has, in KiB, where it is given in KiB.
fn cell_size(cell: &Node) -> Option<u64> {
    cell.attribute("unit").is_none_or(|unit| unit == "KiB").then(|| cell.attribute("memory")?.parse().ok())?
}

/// `<currentMemory>` is `<memory>` unless it says less, and something.
fn memory(root: &mut Node, warnings: &mut Vec<Warning>) {
    if root.child("memory").is_none() {
        // Whoever gives the cells memory has said how much there is.
        let total = root.at(&["cpu", "numa"]).and_then(|numa| {
            numa.all("cell").map(cell_size).try_fold(0_u64, |sum, size| sum.checked_add(size?))
        });
        if let Some(total) = total.filter(|total| *total > 0)
            && let Some(memory) = root.ensure("memory")
        {
            memory.text = total.to_string();
        }
    }
    let most = root.child("memory").map(|node| node.text.clone()).unwrap_or_default();
    let Some(current) = root.ensure("currentMemory") else { return };
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    if current.text.is_empty() || current.text == "0" {
        current.text = most;
    } else if number(&current.text) > number(&most) {
        warnings.push(Warning {
            line: current.line,
            path: "/domain/currentMemory".into(),
            kind: DefinitionErrorKind::Contradiction("<currentMemory> is more than <memory>".into()),
        });
        current.text = most;
    }
}

fn processors(root: &mut Node) {
    let Some(vcpu) = root.ensure("vcpu") else { return };
    if vcpu.text.is_empty() {
        vcpu.text = "1".into();
    }
    vcpu.fill("placement", "static");
    if vcpu.attribute("current") == Some(vcpu.text.as_str()) {
        vcpu.remove_attribute("current");
    }
    let Some(cpu) = root.child_mut("cpu") else { return };
    if cpu.child("model").is_some() {
        cpu.fill("mode", "custom");
    }
    match cpu.attribute("mode") {
        Some("custom") => {
            cpu.fill("match", "exact");
            cpu.fill("check", "none");
            if let Some(model) = cpu.child_mut("model") {
                model.fill("fallback", "forbid");
            }
        }
        Some("host-model") => cpu.fill("check", "partial"),
        Some("host-passthrough" | "maximum") => {
            cpu.fill("check", "none");
            cpu.fill("migratable", "on");
        }
        _ => {}
    }
    if let Some(numa) = cpu.child_mut("numa") {
        for (index, cell) in numa.children_mut().filter(|child| child.name() == "cell").enumerate() {
            cell.fill("id", &index.to_string());
        }
    }
    for feature in cpu.children_mut().filter(|child| child.name() == "feature") {
        feature.fill("policy", "require");
    }
}

fn system(root: &mut Node, test: bool) {
    let ordered = root
        .child("devices")
        .is_some_and(|devices| devices.children().any(|device| device.child("boot").is_some()));
    if let Some(os) = root.child_mut("os") {
        let hvm = os.child("type").is_some_and(|kind| kind.text == "hvm");
        if let Some(kind) = os.child_mut("type").filter(|_| hvm) {
            // Of libvirt's test driver, whose made-up host has no boards.
            kind.fill("arch", if test { "i686" } else { "x86_64" });
            if !test {
                kind.fill("machine", "pc");
            }
        }
        if hvm
            && !ordered
            && os.child("boot").is_none()
            && let Some(boot) = os.add("boot")
        {
            boot.set("dev", "hd");
        }
    }
    if root.child("clock").is_none()
        && let Some(clock) = root.add("clock")
    {
        clock.set("offset", "utc");
    }
    for (name, action) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
        if root.child(name).is_none()
            && let Some(node) = root.add(name)
        {
            node.text = action.into();
        }
    }
}

fn disks(devices: &mut Node, qemu: bool) {
    // As libvirt reads them, and once more as it reads what it has kept of them.
    in_places(devices);
    for disk in devices.children_mut().filter(|child| child.name() == "disk") {
        let cdrom = disk.attribute("device") == Some("cdrom");
        if qemu
            && disk.attribute("type") != Some("vhostuser")
            && let Some(driver) = disk.ensure("driver")
        {
            driver.fill("name", "qemu");
            driver.fill("type", "raw");
        }
        if let Some(target) = disk.child_mut("target") {
            let bus = match target.attribute("dev") {
                Some(dev) if dev.starts_with("hd") => "ide",
                Some(dev) if dev.starts_with("sd") => "scsi",
                Some(dev) if dev.starts_with("fd") => "fdc",
                Some(dev) if dev.starts_with("nvme") => "nvme",
                Some(dev) if dev.starts_with("xvd") => "xen",
                Some(dev) if dev.starts_with("ubd") => "uml",
                _ => "virtio",
            };
            target.fill("bus", bus);
        }
        if cdrom && disk.child("readonly").is_none() {
            disk.add("readonly");
        }
    }
    in_places(devices);
}

/// libvirt keeps the disks of one bus together, where the first of them stood, in the order of their targets; those of which
/// nobody says a bus are of one.
fn in_places(devices: &mut Node) {
    fn target<'a>(disk: &'a Node, name: &str) -> Option<&'a str> {
        disk.child("target")?.attribute(name)
    }
    let mut buses: Vec<Option<String>> = Vec::new();
    for disk in devices.all("disk") {
        let bus = target(disk, "bus").map(str::to_owned);
        if !buses.contains(&bus) {
            buses.push(bus);
        }
    }
    devices.order("disk", |disk| {
        let bus = target(disk, "bus");
        (buses.iter().position(|one| one.as_deref() == bus), target(disk, "dev").and_then(target_place))
    });
}

/// The next free number of its type for each controller without one.
fn controllers(devices: &mut Node) {
    let mut used: Vec<(String, u64)> = devices
        .all("controller")
        .filter_map(|c| Some((c.attribute("type")?.to_owned(), c.attribute("index")?.parse().ok()?)))
        .collect();
    let mut companion = None;
    for controller in devices.children_mut().filter(|child| child.name() == "controller") {
        let kind = controller.attribute("type").unwrap_or_default().to_owned();
        let index = controller.attribute("index").and_then(|text| text.parse::<u64>().ok());
        let index = index.unwrap_or_else(|| match companion {
            // The companions of a USB 2 controller share its index.
            Some(index) if controller.child("master").is_some() => index,
            _ => {
                // Number 0 is the machine's own bus, whether it is written down or not.
                let root = controller.attribute("model").is_some_and(|model| model.ends_with("-root"));
                let least = u64::from(kind == "pci" && !root);
                let free =
                    (least..).find(|index| !used.iter().any(|(k, i)| *k == kind && i == index)).unwrap_or(0);
                used.push((kind, free));
                free
            }
        });
        if controller.attribute("model") == Some("ich9-ehci1") {
            companion = Some(index);
        }
        controller.fill("index", &index.to_string());
    }
}

/// The first console is the first serial port; each of the two stands for the other where that one is absent.
fn serials(devices: &mut Node) {
    for console in devices.children_mut().filter(|child| child.name() == "console") {
        if let Some(target) = console.ensure("target") {
            target.fill("type", "serial");
        }
    }
    let first = devices.child("console").filter(|console| {
        console.child("target").is_some_and(|target| target.attribute("type") == Some("serial"))
    });
    match (first.cloned(), devices.child("serial").cloned()) {
        (Some(console), None) => mirror(devices, &console, "serial"),
        (None, Some(serial)) => mirror(devices, &serial, "console"),
        _ => {}
    }
    for name in ["serial", "parallel", "console"] {
        let ports = devices.children_mut().filter(|child| child.name() == name);
        for (index, port) in ports.enumerate() {
            let kind = match name {
                "serial" => Some("isa-serial"),
                "console" => Some("serial"),
                _ => None,
            };
            let Some(target) = port.ensure("target") else { continue };
            if let Some(kind) = kind {
                target.fill("type", kind);
            }
            target.fill("port", &index.to_string());
        }
    }
}

/// Adds the other half of a console, with the same source.
fn mirror(devices: &mut Node, half: &Node, name: &str) {
    let Some(other) = devices.add_first(name) else { return };
    if name == "console"
        && let Some(target) = other.ensure("target")
    {
        target.set("type", "serial");
    }
    if let Some(kind) = half.attribute("type") {
        other.set("type", kind);
    }
    for child in half.children().filter(|child| matches!(child.name(), "log" | "protocol" | "source")) {
        other.adopt(child);
    }
}

fn interfaces(devices: &mut Node) {
    for interface in devices.children_mut().filter(|child| child.name() == "interface") {
        let virtual_card = !matches!(interface.attribute("type"), Some("hostdev" | "vdpa"));
        if virtual_card
            && interface.child("model").is_none()
            && let Some(model) = interface.add("model")
        {
            model.set("type", "rtl8139");
        }
    }
}

fn displays(devices: &mut Node) {
    let mut shown = false;
    for graphics in devices.children_mut().filter(|child| child.name() == "graphics") {
        shown |= graphics.attribute("type") != Some("egl-headless");
        if matches!(graphics.attribute("type"), Some("spice" | "vnc")) {
            listen(graphics);
        }
    }
    if shown
        && devices.child("video").is_none()
        && let Some(video) = devices.add("video")
        && let Some(model) = video.add("model")
    {
        model.set("type", "vga");
    }
    for video in devices.children_mut().filter(|child| child.name() == "video") {
        if let Some(model) = video.ensure("model") {
            model.fill("type", "vga");
        }
    }
    let primary = devices
        .all("video")
        .any(|video| video.child("model").is_some_and(|model| model.attribute("primary") == Some("yes")));
    let mut first = !primary;
    for video in devices.children_mut().filter(|child| child.name() == "video") {
        let Some(model) = video.child_mut("model") else { continue };
        if model.attribute("type") != Some("none") {
            model.fill("heads", "1");
            if std::mem::take(&mut first) {
                model.set("primary", "yes");
            }
        }
    }
}

/// A display that has an address and no port takes a free one; the older attributes say what the `<listen>` says. Ports
/// beside `autoport='yes'` are those that were chosen for what ran when its XML was taken.
fn listen(graphics: &mut Node) {
    let chosen = graphics.attribute("autoport") == Some("yes");
    let automatic = chosen || graphics.attribute("port").is_none_or(|port| port == "-1");
    let socket = graphics.attribute("socket").map(str::to_owned);
    let listens = graphics.child("listen").and_then(|listen| listen.attribute("type"));
    if automatic && (socket.is_some() || matches!(listens, Some("none" | "socket"))) {
        // There is no port to choose.
        ["autoport", "port"].iter().for_each(|name| graphics.remove_attribute(name));
    } else if graphics.attribute("autoport") != Some("no") && automatic {
        if graphics.attribute("type") == Some("vnc") {
            graphics.set("port", "-1");
        } else {
            graphics.remove_attribute("port");
        }
        graphics.set("autoport", "yes");
    }
    if chosen || graphics.attribute("tlsPort") == Some("-1") {
        graphics.remove_attribute("tlsPort");
    }
    let address = graphics.attribute("listen").map(str::to_owned);
    if graphics.child("listen").is_none()
        && let Some(listen) = graphics.add("listen")
    {
        match (socket, address) {
            (Some(socket), _) => {
                listen.set("type", "socket");
                listen.set("socket", socket);
            }
            (None, address) => {
                listen.set("type", "address");
                if let Some(address) = address {
                    listen.set("address", address);
                }
            }
        }
    }
    let shown = graphics.child("listen").and_then(|listen| listen.attribute("address")).map(str::to_owned);
    if let Some(address) = shown {
        graphics.fill("listen", &address);
    }
}

/// What every such machine has.
fn machine_devices(devices: &mut Node) {
    for kind in ["mouse", "keyboard"] {
        let there = devices.all("input").any(|input| {
            input.attribute("type") == Some(kind) && input.attribute("bus").is_none_or(|bus| bus == "ps2")
        });
        if !there && let Some(input) = devices.add("input") {
            input.set("type", kind);
        }
    }
    for input in devices.children_mut().filter(|child| child.name() == "input") {
        let bus = match input.attribute("type") {
            Some("mouse" | "keyboard") => "ps2",
            Some("passthrough") => "virtio",
            Some("evdev") => continue,
            _ => "usb",
        };
        input.fill("bus", bus);
    }
    if devices.child("memballoon").is_none()
        && let Some(balloon) = devices.add("memballoon")
    {
        balloon.set("model", "virtio");
    }
    for panic in devices.children_mut().filter(|child| child.name() == "panic") {
        panic.fill("model", "isa");
    }
    for tpm in devices.children_mut().filter(|child| child.name() == "tpm") {
        let emulator = tpm.child("backend").and_then(|backend| backend.attribute("type")) == Some("emulator");
        if let Some(backend) = tpm.child_mut("backend").filter(|_| emulator) {
            backend.fill("version", "2.0");
        }
        tpm.fill("model", if emulator { "tpm-crb" } else { "tpm-tis" });
    }
}
