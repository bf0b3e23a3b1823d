//! Reads this host once: kernel, security modules, CPU, memory, KVM, and what the emulators can do. Never changes
//! the host; it may write one cache file, and it runs emulators, confined, to ask them.
//!
//! To be called before privilege is dropped: an unprivileged process cannot open `/dev/kvm` on most hosts,
//! and would report a host without KVM.
#![forbid(unsafe_code)]

mod cache;
mod cpu;
mod dmi;
mod doi;
mod emulator;
mod firmware;
mod kvm;
mod question;
mod security;
mod topology;
mod view;
mod virtiofsd;

use std::fs;

use crate::conf::capabilities::{Cell, Confinement, Cpu, Host, Suspend};
use crate::conf::emulator::EmulatorFacts;
use crate::conf::facts::HostFacts;
use crate::settings::Settings;
use cache::Cache;

pub use doi::tables as doi_tables;
pub use view::{View, test};

/// Everything that one read of the host gives.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// What the planner needs.
    pub facts: HostFacts,
    /// What each emulator that answered can do, in the configuration's order.
    pub emulators: Vec<EmulatorFacts>,
    /// Emulators that did not answer: path and reason.
    pub silent: Vec<(String, String)>,
    /// Why KVM does not work, where it does not.
    pub kvm_failure: Option<String>,
    flags: cpu::HostFlags,
}

/// Where distributions put QEMU's modules; the same directories as in `labels/root`.
const MODULES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu"];

fn modules() -> Vec<String> {
    let entries = MODULES.iter().flat_map(fs::read_dir).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".so").map(ToOwned::to_owned)).collect()
}

/// What the firmware says of the machine; `None` where there is none that says anything.
#[must_use]
pub fn sysinfo() -> Option<crate::conf::sysinfo::Sysinfo> {
    dmi::read()
}

/// Reads what the planner needs. What cannot be read counts as absent: nothing here is worth more than a missing
/// layer, and a missing layer is named in the plan or refuses the start.
#[must_use]
pub fn read(settings: &Settings) -> HostFacts {
    inventory(settings, false).facts
}

/// Reads everything; with `afresh` without what was found out before.
#[must_use]
pub fn inventory(settings: &Settings, afresh: bool) -> Inventory {
    let mut cache = if afresh { Cache::default() } else { Cache::load(settings) };
    let flags = cpu::read();
    let emulators = emulator::refresh(&mut cache, &flags, settings);
    let (kvm_failure, kvm) = kvm::failure(&mut cache);
    if emulators || kvm || afresh {
        // Without a cache the next reader asks again; that is slow, not wrong.
        let _ = cache.clone().store(settings);
    }
    let system = rustix::system::sysinfo();
    let online = topology::online();
    let facts = HostFacts {
        kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
        landlock_abi: crate::sys::landlock::kernel_abi(),
        selinux: security::selinux(),
        apparmor: security::apparmor(),
        kvm: kvm_failure.is_none(),
        kvm_group: kvm::group(),
        modules: modules(),
        firmwares: firmware::all(),
        emulators: emulator::usable(&cache).collect(),
        unusable: emulator::unusable(&cache),
        doi_tables: doi::tables(settings),
        virtiofsds: virtiofsd::all(settings),
        cpus: u32::try_from(online.len()).unwrap_or(u32::MAX),
        online,
        memory: (system.totalram as u64).saturating_mul(u64::from(system.mem_unit)),
        hugepages: topology::hugepages(),
    };
    Inventory {
        facts,
        emulators: emulator::answered(&cache).cloned().collect(),
        silent: emulator::silent(&cache).map(|(path, why)| (path.to_owned(), why.to_owned())).collect(),
        kvm_failure,
        flags,
    }
}

impl Inventory {
    /// The emulator that a definition names, or the first.
    #[must_use]
    pub fn emulator(&self, path: Option<&str>) -> Option<&EmulatorFacts> {
        self.emulators.iter().find(|one| path.is_none_or(|path| one.path == path))
    }

    /// `<host>` without its security models, which depend on the connection.
    fn host(&self) -> Host {
        let cells = topology::cells(self.facts.memory);
        Host {
            uuid: uuid(),
            cpu: self.cpu(&cells),
            suspend: suspend(),
            iommu: fs::read_dir("/sys/kernel/iommu_groups").is_ok_and(|mut groups| groups.next().is_some()),
            cells,
            security: Vec::new(),
            confinement: Some(Confinement {
                kernel: self.facts.kernel_release.clone(),
                lsms: security::modules(),
                landlock_abi: self.facts.landlock_abi,
                seccomp: security::seccomp(),
                kvm_failure: self.kvm_failure.clone(),
            }),
        }
    }

    fn cpu(&self, cells: &[Cell]) -> Cpu {
        let named = self.emulators.iter().find_map(|one| one.host.clone());
        Cpu {
            arch: std::env::consts::ARCH.into(),
            vendor: cpu::vendor(&self.flags.vendor),
            microcode: self.flags.microcode,
            signature: self.flags.signature,
            topology: Some(topology::shape(cells)),
            physical_bits: self.flags.physical_bits,
            pages: cells
                .first()
                .map(|cell| cell.pages.iter().map(|(size, _)| *size).collect())
                .unwrap_or_default(),
            model: named.as_ref().map(|named| named.name.clone()),
            features: named.map(|named| named.features).unwrap_or_default(),
        }
    }
}

/// The firmware's uuid, which only root may read; else the one that the operating system was installed with.
fn uuid() -> Option<uuid::Uuid> {
    ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"].into_iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        uuid::Uuid::parse_str(text.trim()).ok().filter(|uuid| !uuid.is_nil() && !uuid.is_max())
    })
}

fn suspend() -> Vec<Suspend> {
    let states = fs::read_to_string("/sys/power/state").unwrap_or_default();
    let known = [("mem", Suspend::Mem), ("disk", Suspend::Disk)];
    known
        .into_iter()
        .filter(|(word, _)| states.split_whitespace().any(|s| s == *word))
        .map(|(_, s)| s)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    const QEMU: &str = "/usr/bin/qemu-system-x86_64";

    fn settings(directory: &Path, emulators: &[&str]) -> Settings {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let mut settings = Settings::default();
        settings.paths.cache = directory.join("cache").to_str().unwrap().into();
        settings.emulators.allowed = emulators.iter().map(|path| (*path).to_owned()).collect();
        settings
    }

    #[test]
    fn this_host_has_a_kernel_memory_and_cpus() {
        let directory = tempfile::tempdir().unwrap();
        let facts = read(&settings(directory.path(), &[]));
        assert!(!facts.kernel_release.is_empty());
        assert!(facts.memory > 0 && facts.cpus > 0);
    }

    /// A program that says `answer` and ends.
    fn program(directory: &Path, answer: &str) -> String {
        let path = directory.join("qemu");
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn what_does_not_answer_is_remembered_until_it_changes() {
        if crate::sys::cred::effective_uid() != 0 {
            println!("skipped: needs root, for a cache of its own");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = program(directory.path(), "hello");
        let settings = settings(directory.path(), &[&path, "/nonexistent/qemu"]);
        let found = inventory(&settings, false);
        assert!(found.emulators.is_empty() && found.facts.emulators.is_empty());
        assert_eq!(found.silent.len(), 1, "{:?}", found.silent);
        let file = Path::new(&settings.paths.cache).join("host.json");
        let remembered = fs::read_to_string(&file).unwrap();
        // Another reason in the file shows that it is believed and the program is not asked again.
        fs::write(&file, remembered.replace(&found.silent[0].1, "it sleeps")).unwrap();
        assert_eq!(inventory(&settings, false).silent[0].1, "it sleeps");
        assert_eq!(inventory(&settings, true).silent, found.silent, "asked afresh");
        fs::write(&file, remembered.replace(&found.silent[0].1, "it sleeps")).unwrap();
        program(directory.path(), "hello again");
        assert_eq!(inventory(&settings, false).silent, found.silent, "another file");
        fs::write(&file, remembered.replace(&found.silent[0].1, "forged")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_ne!(inventory(&settings, false).silent[0].1, "forged", "anybody may have written it");
    }

    #[test]
    fn an_emulator_that_cannot_be_used_is_told_apart() {
        if crate::sys::cred::effective_uid() != 0 {
            println!("skipped: needs root, for a uid that asks");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let nested = "(".repeat(1_000_000);
        let cases = [
            ("exit 3", 0o755, "it ended with exit code 3"),
            // The filter allows it no kill(2): its parser runs out of stack.
            (nested.as_str(), 0o755, "it was killed by SIGSEGV"),
            ("true", 0o644, "it is not executable"),
        ];
        for (script, mode, why) in cases {
            let path = directory.path().join("qemu");
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let settings = settings(directory.path(), &[path.to_str().unwrap()]);
            let told = inventory(&settings, true).facts.unusable;
            assert!(told.len() == 1 && told[0].1.starts_with(why), "{told:?}");
        }
    }

    #[test]
    fn qemu_says_what_it_can_do() {
        if !Path::new(QEMU).exists() {
            println!("skipped: needs {QEMU}");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), &[QEMU]);
        let found = inventory(&settings, true);
        assert_eq!(found.silent, []);
        let qemu = found.emulator(None).unwrap();
        assert!(qemu.version >= (7, 2, 0) && qemu.arch == "x86_64", "{:?}", qemu.version);
        assert!(
            qemu.has("device:virtio-blk-pci") && qemu.has("object:rng-builtin") && qemu.has("chardev:pty")
        );
        assert!(!qemu.has("device:no-such-device"));
        let q35 = qemu.machine("q35").unwrap();
        assert!(q35.name.starts_with("pc-q35-") && q35.cpus >= 255);
        assert!(qemu.machine("none").is_none());
        let qemu64 = qemu.cpus.iter().find(|cpu| cpu.name == "qemu64").unwrap();
        assert!(qemu64.emulated, "what the emulator is named after runs in it");
        assert!(qemu.cpus.iter().all(|cpu| !cpu.name.ends_with("-v1")));
        let host = qemu.host.as_ref().unwrap();
        let named = qemu.cpus.iter().find(|cpu| cpu.name == host.name).unwrap();
        assert!(named.host, "{named:?}");
    }
}
