//! The same host as different connections see it: each hypervisor has security models of its own.

use std::fs;
use std::str::FromStr;

use super::{Inventory, security};
use crate::base::{Layer, Refusal};
use crate::conf::capabilities::{Capabilities, Cell, CellCpu, Cpu, Guest, Host, Machine, SecurityModel};
use crate::settings::Settings;

/// Which connection asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// `qemu:///session`
    Session,
    /// `qemu:///system`
    System,
    /// `test:///default`
    Test,
    /// `xen:///`
    Xen,
}

impl FromStr for View {
    type Err = String;

    fn from_str(uri: &str) -> Result<Self, String> {
        match uri {
            "qemu:///session" => Ok(Self::Session),
            "qemu:///system" => Ok(Self::System),
            "test:///default" => Ok(Self::Test),
            "xen:///" | "xen:///system" => Ok(Self::Xen),
            _ => Err("one of qemu:///system, qemu:///session, test:///default, xen:///".into()),
        }
    }
}

impl Inventory {
    /// What a connection is told.
    pub fn capabilities(&self, view: View, settings: &Settings) -> Result<Capabilities, Refusal> {
        let mut host = match view {
            View::Test => return Ok(test()),
            View::Xen => xen_present().map(|()| self.host())?,
            View::Session | View::System => self.host(),
        };
        host.security = match view {
            View::Xen => flask(settings),
            _ => self.models(view, settings),
        };
        let guests = if view == View::Xen { Vec::new() } else { self.guests() };
        Ok(Capabilities { host, guests })
    }

    /// The models in the order in which labels are given: the kernel's own modules, then owners.
    fn models(&self, view: View, settings: &Settings) -> Vec<SecurityModel> {
        let model = |name: &str, enforcing| SecurityModel {
            model: name.into(),
            dois: settings.dois(name).to_vec(),
            enforcing,
            ..SecurityModel::default()
        };
        let mut models = Vec::new();
        // Each domain has a uid of its own, so there is none that all start from.
        let dac = model("dac", true);
        if view == View::Session {
            // An ordinary user may give no labels of the kernel's modules, and gives subordinate uids.
            return vec![dac];
        }
        if let Some(selinux) = &self.facts.selinux {
            let context = |kind: &str| format!("system_u:system_r:{kind}:s0");
            let types = &settings.selinux;
            models.push(SecurityModel {
                baselabels: vec![
                    ("kvm".into(), context(&types.guest_type)),
                    ("qemu".into(), context(&types.guest_tcg_type)),
                ],
                policy_version: security::selinux_policy(),
                ..model("selinux", selinux.enforcing)
            });
        }
        if let Some(apparmor) = &self.facts.apparmor {
            models.push(model("apparmor", apparmor.enforcing));
        }
        models.push(dac);
        models
    }

    fn guests(&self) -> Vec<Guest> {
        let guest = |one: &crate::conf::emulator::EmulatorFacts| {
            let kvm = one.kvm && self.facts.kvm && one.arch == std::env::consts::ARCH;
            Guest {
                arch: one.arch.clone(),
                wordsize: if one.arch == "x86_64" { 64 } else { 32 },
                emulator: one.path.clone(),
                machines: one.machines.iter().filter(|machine| runs(&machine.name)).cloned().collect(),
                domains: ["qemu"].into_iter().chain(kvm.then_some("kvm")).map(ToOwned::to_owned).collect(),
            }
        };
        // svirt makes command lines for x86-64 alone.
        self.emulators.iter().filter(|one| one.arch == "x86_64").map(guest).collect()
    }
}

/// The boards that svirt makes command lines for.
fn runs(machine: &str) -> bool {
    machine.starts_with("pc-q35-") || machine.starts_with("pc-i440fx-")
}

/// Linux under Xen sees dom0's share of the host; svirt starts nothing there.
fn xen_present() -> Result<(), Refusal> {
    let hypervisor = fs::read_to_string("/sys/hypervisor/type").unwrap_or_default();
    let control = fs::read_to_string("/proc/xen/capabilities").unwrap_or_default();
    if hypervisor.trim() == "xen" && control.contains("control_d") {
        return Ok(());
    }
    Err(Refusal::new(
        Layer::Kernel,
        "show the host to",
        "xen:///",
        "this kernel is no control domain of Xen",
        "boot the host under Xen, or name --view qemu:///system",
    ))
}

/// Only the hypervisor knows its policy; what is declared is what the configuration says.
fn flask(settings: &Settings) -> Vec<SecurityModel> {
    let dois = settings.dois("flask").to_vec();
    let declared = SecurityModel { model: "flask".into(), dois, enforcing: true, ..SecurityModel::default() };
    Some(declared).filter(|model| !model.dois.is_empty()).into_iter().collect()
}

/// The host of libvirt's test driver: made up, the same everywhere, with a model that labels nothing.
#[must_use]
pub fn test() -> Capabilities {
    let cpu = |id: u32, socket| CellCpu { id, socket, die: 0, core: id % 8, siblings: id.to_string() };
    let cell = |id: u32, memory: u64| Cell {
        id,
        memory,
        pages: vec![(4, memory / 4), (2048, 0), (1_048_576, 0)],
        distances: Vec::new(),
        cpus: (id * 8..id * 8 + 8).map(|number| cpu(number, id)).collect(),
    };
    let host = Host {
        cpu: Cpu { arch: "i686".into(), pages: vec![4, 2048, 1_048_576], ..Cpu::default() },
        cells: vec![cell(0, 2 << 20), cell(1, 4 << 20)],
        security: vec![SecurityModel {
            model: "testSecurity".into(),
            dois: vec![String::new()],
            ..SecurityModel::default()
        }],
        ..Host::default()
    };
    let guest = Guest {
        arch: "i686".into(),
        wordsize: 32,
        emulator: "/usr/bin/test-hv".into(),
        machines: Vec::<Machine>::new(),
        domains: vec!["test".into()],
    };
    Capabilities { host, guests: vec![guest] }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::conf::facts::{AppArmorFacts, HostFacts, SelinuxFacts};

    fn inventory(facts: HostFacts) -> Inventory {
        Inventory {
            facts,
            emulators: Vec::new(),
            silent: Vec::new(),
            kvm_failure: None,
            flags: super::super::cpu::parse(""),
        }
    }

    fn models(facts: HostFacts, view: View) -> Vec<(String, bool)> {
        let all = inventory(facts).capabilities(view, &Settings::default()).unwrap();
        all.host.security.into_iter().map(|model| (model.model, model.enforcing)).collect()
    }

    #[test]
    fn each_view_has_models_of_its_own() {
        let both = HostFacts {
            selinux: Some(SelinuxFacts { enforcing: false }),
            apparmor: Some(AppArmorFacts { enforcing: true }),
            ..HostFacts::default()
        };
        let named = |list: &[(&str, bool)]| -> Vec<(String, bool)> {
            list.iter().map(|(name, enforcing)| ((*name).to_owned(), *enforcing)).collect()
        };
        assert_eq!(
            models(both.clone(), View::System),
            named(&[("selinux", false), ("apparmor", true), ("dac", true)])
        );
        assert_eq!(models(both.clone(), View::Session), named(&[("dac", true)]));
        assert_eq!(models(HostFacts::default(), View::System), named(&[("dac", true)]));
        assert_eq!(models(both, View::Test), named(&[("testSecurity", false)]));
    }

    #[test]
    fn a_view_is_named_by_its_uri() {
        assert_eq!("qemu:///system".parse(), Ok(View::System));
        for uri in ["", "qemu://host/system", "qemu:///", "lxc:///"] {
            assert!(uri.parse::<View>().is_err(), "{uri}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for view in [View::System, View::Session, View::Test] {
            let written = inventory(HostFacts::default()).capabilities(view, &Settings::default()).unwrap();
            assert_eq!(Capabilities::parse(written.to_xml().as_bytes()), Ok(written), "{view:?}");
        }
    }
}
